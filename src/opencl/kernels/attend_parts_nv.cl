/* attend_parts, NVIDIA - states of attention, and how those of warps and of groups become one.
 *
 * Owns a state's form in registers and in local memory, and a part's in memory: O of a group's rows [R][VALUE_DIM], with the
 * rows' largest scores m (times log2 e) and sums z. What happens after a group's last row is what every launch waits for, so each
 * step is as short as it can be: warps agree on m before their states go to local memory, where they are only added; the last
 * group of a head asks for all parts at once.
 *
 * Build options: those of attend_rows; FUSED: the last group of a head merges all parts, and out is finished (TURNED: turned
 * back); MOST_SPLITS. */
#if !defined(CHAIN) || defined(KEY_TYPE)
#ifndef MOST_SPLITS
#define MOST_SPLITS 160
#endif

/* Weights are kept below 2^(RISE + LIFT) and lifted by 2^LIFT, so that those far below the largest keep bits in f16. The maximum
 * is renewed only where a score passes it by more than RISE. */
#define RISE  5.0f
#define LIFT  9.0f
#define EMPTY -1e30f /* maximum of no scores */

typedef struct {
    float m[NT][2], z[NT][2]; /* of queries 2t, 2t + 1; z of this lane's tokens */
    float o[NT][MT][4];
    float sums[NT][4]; /* q4: of weights times scales */
} state;

/* Floats of O^T as lanes hold them, four side by side: dims g and g + 8 of queries 2t, 2t + 1; of O as a part has them. */
#define LANE_PART  (NT * MT * 128)
#define PART       (R * VALUE_DIM)
#define QUERY_ROWS (8 * NT)

/* ---- the warps of a group ---- */

/* Warps' states that local memory holds at once; further warps add to them. A chain's products leave it less room. */
#ifdef CHAIN
#define JOINED (WARPS / 2)
#else
#define JOINED (WARPS * LANE_PART <= 8192 ? WARPS : WARPS * LANE_PART <= 16384 ? WARPS / 2 : WARPS / 8)
#endif
/* Local memory: states, m and z [QUERY_ROWS][WARPS] each, and last the queries, later the group's part. */
#define PART_AT     (JOINED * LANE_PART + 2 * QUERY_ROWS * WARPS)
#define JOIN_FLOATS (PART_AT + R * QUERY_LD)

/* The states -> their sum as a part has it. */
static inline void add_states(local float *shared) {
    for (uint i = get_local_id(0) * 4; i < LANE_PART; i += WARPS * 128) {
        float4 sum = 0;
#pragma unroll
        for (int w = 0; w < JOINED; w++) sum += *(const local float4 *)(shared + w * LANE_PART + i);
        const float each[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            uint row = i / (MT * 128) * 8 + i / 4 % 4 * 2 + e % 2, dim = value_dim(i / 128 % MT, i / 16 % 8, e / 2);
            if (row < R && dim < VALUE_DIM) shared[PART_AT + row * VALUE_DIM + dim] = each[e];
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* The group's warps -> its part, at PART_AT of shared: local [JOIN_FLOATS], and what joined_row needs. */
static inline void join_warps(state *a, local float *shared) {
    uint lane = get_local_id(0) % 32, warp = get_local_id(0) / 32, t = lane % 4;
    local float *m = shared + JOINED * LANE_PART, *z = m + QUERY_ROWS * WARPS;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (lane < 4) m[(8 * n + 2 * t + i) * WARPS + warp] = a->m[n][i];
            for (int l = 4; l < 32; l *= 2) a->z[n][i] += lanes_xor(a->z[n][i], l);
        }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint row = 8 * n + 2 * t + i;
            float most = EMPTY;
#pragma unroll
            for (int w = 0; w < WARPS; w++) most = fmax(most, m[row * WARPS + w]);
            float f = native_exp2(a->m[n][i] - most);
            if (lane < 4) z[row * WARPS + warp] = a->z[n][i] * f;
#pragma unroll
            for (int j = 0; j < MT; j++) {
                a->o[n][j][i] *= f;
                a->o[n][j][i + 2] *= f;
            }
        }
    local float4 *own = (local float4 *)(shared + warp % JOINED * LANE_PART) + lane;
#pragma unroll
    for (int round = 0; round < WARPS / JOINED; round++) {
        if (warp / JOINED == round)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int j = 0; j < MT; j++) {
                    const float *o = a->o[n][j];
                    float4 four = (float4)(o[0], o[1], o[2], o[3]);
                    if (round) four += own[(n * MT + j) * 32];
                    own[(n * MT + j) * 32] = four;
                }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    add_states(shared);
}

/* m and z of a row of the group's. */
static inline float2 joined_row(const local float *shared, uint row) {
    const local float *m = shared + JOINED * LANE_PART + row * WARPS, *z = m + QUERY_ROWS * WARPS;
    float2 both = (float2)(EMPTY, 0);
#pragma unroll
    for (int w = 0; w < WARPS; w++) both = (float2)(fmax(both.x, m[w]), both.y + z[w]);
    return both;
}

/* ---- the groups of a head ---- */

#ifndef FUSED
#define MERGE_FLOATS 0

/* The group's part as rows of [m, z, acc], m in natural units. */
static inline void store(const local float *shared, uint heads, global float *partial) {
    for (uint i = get_local_id(0); i < PART; i += WARPS * 32) {
        uint row = i / VALUE_DIM, dim = i % VALUE_DIM;
        partial[(size_t)(row / GROUP * heads + row % GROUP) * (VALUE_DIM + 2) + 2 + dim] = shared[PART_AT + i];
    }
    uint row = get_local_id(0);
    if (row >= R) return;
    float2 mz = joined_row(shared, row);
    partial += (size_t)(row / GROUP * heads + row % GROUP) * (VALUE_DIM + 2);
    partial[0] = mz.x == EMPTY ? -INFINITY : (mz.x - LIFT) * (1 / LOG2E);
    partial[1] = mz.y;
}
#else
#define MERGE_FLOATS (MOST_SPLITS * R)
#define LANE_PARTS   (MOST_SPLITS / 32) /* of which a lane weighs one row */
#ifdef CHAIN
#define RUN 8 /* fewer registers */
#else
#define RUN (WARPS > 8 ? 34 : 38)
#endif

/* The group's part to memory: PART floats, and its rows' m and z. */
static inline void store(const local float *shared, global float *part, global float2 *part_rows) {
    uint id = get_local_id(0);
    for (uint i = id * 4; i < PART; i += WARPS * 128)
        *(global float4 *)(part + i) = *(const local float4 *)(shared + PART_AT + i);
    if (id < R) part_rows[id] = joined_row(shared, id);
}

/* A row's parts -> what each is to be multiplied with, in weights: local [splits][R]. No key at all: zero; NaN stays. */
static inline void weigh_parts(const float2 mz[LANE_PARTS], uint splits, uint row, local float *weights) {
    uint lane = get_local_id(0) % 32;
    float most = EMPTY, z = 0, f[LANE_PARTS];
#pragma unroll
    for (int j = 0; j < LANE_PARTS; j++) most = fmax(most, mz[j].x);
    for (int l = 1; l < 32; l *= 2) most = fmax(most, lanes_xor(most, l));
#pragma unroll
    for (int j = 0; j < LANE_PARTS; j++) {
        f[j] = native_exp2(mz[j].x - most);
        z += f[j] * mz[j].y;
    }
    for (int l = 1; l < 32; l *= 2) z += lanes_xor(z, l);
    float inverse = z > 0 ? 1 / z : z;
#pragma unroll
    for (int j = 0; j < LANE_PARTS; j++)
        if (lane + 32 * j < splits) weights[(lane + 32 * j) * R + row] = f[j] * inverse;
}

/* Rows [R][VALUE_DIM] of local memory to out, turned back. */
#ifdef TURNED
static inline void turn_back(const local float *rows, uint heads, global float *out) {
    uint lane = get_local_id(0) % 32;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint row = get_local_id(0) / 32; row < R; row += WARPS) {
        float x[LANE_NUMBERS];
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++) x[i] = rows[row * VALUE_DIM + lane + 32 * i];
        turn_row(x);
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++)
            out[(size_t)(row / GROUP * heads + row % GROUP) * VALUE_DIM + lane + 32 * i] = x[i];
    }
}
#endif

/* All parts of this head -> out. As many loads as fit are under way at once. shared: local, MERGE_FLOATS. */
static inline void merge(uint splits, global const float *parts, global const float2 *part_rows, uint heads, local float *shared,
                         global float *out) {
    uint id = get_local_id(0), lane = id % 32, warp = id / 32;
    float2 mz[WARP_QUERIES][LANE_PARTS];
    float4 x[RUN];
#pragma unroll
    for (int k = 0; k < WARP_QUERIES; k++)
#pragma unroll
        for (int j = 0; j < LANE_PARTS; j++) {
            mz[k][j] = (float2)(EMPTY, 0);
            if (lane + 32 * j < splits && warp + k * WARPS < R)
                mz[k][j] = fresh2(part_rows + (lane + 32 * j) * R + warp + k * WARPS);
        }
    if (id * 4 < PART)
#pragma unroll
        for (int u = 0; u < RUN; u++)
            if (u < splits) x[u] = fresh4(parts + (size_t)u * PART + id * 4);
#pragma unroll
    for (int k = 0; k < WARP_QUERIES; k++)
        if (warp + k * WARPS < R) weigh_parts(mz[k], splits, warp + k * WARPS, shared);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = id * 4; i < PART; i += WARPS * 128) {
        float4 sum = 0;
        uint row = i / VALUE_DIM;
        for (uint s = 0; s < splits; s += RUN) {
            if (s || i != id * 4)
#pragma unroll
                for (int u = 0; u < RUN; u++)
                    if (s + u < splits) x[u] = fresh4(parts + (size_t)(s + u) * PART + i);
#pragma unroll
            for (int u = 0; u < RUN; u++)
                if (s + u < splits) sum += shared[(s + u) * R + row] * x[u];
        }
#ifdef TURNED
        *(local float4 *)(shared + PART_AT + i) = sum;
#else
        vstore4(sum, 0, out + (size_t)(row / GROUP * heads + row % GROUP) * VALUE_DIM + i % VALUE_DIM);
#endif
    }
#ifdef TURNED
    turn_back(shared + PART_AT, heads, out);
#endif
}
#endif

#define LOCAL_FLOATS (JOIN_FLOATS > MERGE_FLOATS ? JOIN_FLOATS : MERGE_FLOATS)
#endif
