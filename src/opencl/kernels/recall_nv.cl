/* recall, NVIDIA - attention of one query token at a time over a long-term tier, by the default rule: what src/memory/recall.h
 * computes, in three launches after the local tier's (kernels/recall.cl has every other rule and shape).
 *
 *   recall_score   a group a segment: the query turned, all centroids scored on the matrix unit, their weights' sum
 *   recall_read    a group some segments of a head: what the head's clusters weigh together, which are read, their rows, and mean
 *                  values for the others
 *   recall_merge   a group a query head: all states, and the local tier's, are the attention
 *
 * Owns decoding and prompts on devices with mma.m16n8k16, for rows and index in q8, KEY_DIM = VALUE_DIM 64, 128 or 256, GROUP up to
 * 16. Scores and weights are in logarithms to base 2. Rows and centroids come from memory to registers, as in attend_decode_nv.cl,
 * whose operands these are too: a lane (g = lane / 4, t = lane % 4) has tokens g, g + 8 of a step of 16 and queries 2t, 2t + 1, and
 * of values dims 4 g.. of every 32 of tokens 2t, 2t + 1, 2t + 8, 2t + 9. Rounded to f16: queries, weights times the values' scales.
 *
 * Weights are relative to the estimated partition sum of the whole, which every group knows before it reads: sums of different
 * groups need no common maximum, unless some token's weight is far above all estimates.
 *
 * work, floats from work_at on, pairs = n * kv_heads, R8 = GROUP padded to 8:
 *
 *   [pairs][R8][KEY_DIM]            turned queries
 *   [pairs][R8]                     their products with the centre
 *   [pairs][segments][R8][4]        m, z, gain of a segment
 *   [pairs][segments][CLUSTERS][R8] scores
 *   [pairs][parts][R8][4]           m, z, unread of a part, and ints of row 0..2: keys, values and tiles read
 *   [pairs][parts][GROUP][VALUE_DIM]   its sums
 */
#define D     KEY_DIM
#define R     GROUP
#define NT    ((R + 7) / 8)
#define R8    (8 * NT)
#define MT    (D / 16)
#define GROUPS (D / 32)
#define LOG2E 1.44269504f
#define LN2   0.69314718f
#define TILE  32
#define TILES (CLUSTERS / TILE)
#define EMPTY -1e30f
#define RISE  5.0f /* as in attend_decode_nv.cl */
#define LIFT  9.0f
#if D != 64 && D != 128 && D != 256 || VALUE_DIM != D || R > 16
#error "not a shape of these kernels"
#endif

#define UP(bytes) (((bytes) + 63) / 64 * 64)
#define POINT_SCALES UP(CLUSTERS * D)
#define MEANS        (POINT_SCALES + UP(CLUSTERS * D / 16))
#define MEAN_SCALES  (MEANS + UP(CLUSTERS * D))
#define LOG_COUNT    (MEAN_SCALES + CLUSTERS * 4)
#define DEVIATION    (LOG_COUNT + CLUSTERS * 4)
#define WORTH        (DEVIATION + CLUSTERS * 4)
#define RADIUS       (WORTH + CLUSTERS * 4)
#define START        (RADIUS + CLUSTERS * 4)
#define MIDDLE       (START + UP((CLUSTERS + 1) * 2))
#define CHANNELS     (MIDDLE + UP(D * 4))
#define INDEX_BYTES  (CHANNELS + UP(D * 4))
#define KEY_SCALES   UP(SEGMENT * D)
#define VALUES       (KEY_SCALES + UP(SEGMENT * D / 16))
#define VALUE_SCALES (VALUES + UP(SEGMENT * D))
#define ROWS_BYTES   (VALUE_SCALES + UP(SEGMENT * D / 16))

typedef struct {
    global float *x, *offset, *state, *scores, *part, *acc;
} place;

static inline place place_work(global float *work, uint pairs, uint segments, uint parts) {
    place p;
    p.x = work;
    p.offset = p.x + (size_t)pairs * R8 * D;
    p.state = p.offset + (size_t)pairs * R8;
    p.scores = p.state + (size_t)pairs * segments * R8 * 4;
    p.part = p.scores + (size_t)pairs * segments * CLUSTERS * R8;
    p.acc = p.part + (size_t)pairs * parts * R8 * 4;
    return p;
}

static inline float lane_of(float x, uint lane) {
    float y;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;" : "=f"(y) : "f"(x), "r"(lane));
    return y;
}

static inline uint lane_of_uint(uint x, uint lane) {
    return as_uint(lane_of(as_float(x), lane));
}

static inline uint ballot(int x) {
    uint y;
    asm volatile("{.reg .pred p; setp.ne.s32 p, %1, 0; vote.sync.ballot.b32 %0, p, 0xffffffff;}" : "=r"(y) : "r"(x));
    return y;
}

static inline float warp_sum(float x) {
    for (int l = 1; l < 32; l *= 2) x += lanes_xor(x, l);
    return x;
}

static inline float warp_max(float x) {
    for (int l = 1; l < 32; l *= 2) x = fmax(x, lanes_xor(x, l));
    return x;
}

/* ---- rows in q8 ---- */

typedef struct {
    uint row[2][D / 16]; /* tokens g and g + 8 */
    float scale[2][GROUPS];
} key_part;

/* One of the two tokens: a row of D bytes, and its scales. */
static inline void load_key(global const uchar *row, global const half *scales, uint i, key_part *k) {
    uint t = get_local_id(0) % 4;
#pragma unroll
    for (int j = 0; j < GROUPS; j++) load(row + j * 32 + t * 8, 8, k->row[i] + 2 * j);
    uint two[GROUPS / 2];
    load((global const uchar *)scales, GROUPS * 2, two);
#pragma unroll
    for (int j = 0; j < GROUPS / 2; j++) halves(two[j], &k->scale[i][2 * j], &k->scale[i][2 * j + 1]);
}

/* Rows of x [R8][D] as the operand of 8, and what a byte's half is above its value times each group's sum of them. */
typedef struct {
    uint x[NT][MT][2];
    float above[NT][GROUPS][2];
} queries;

#define LOAD_QUERIES(name, space)                                                                                                \
    static inline void name(space const float *from, queries *q) {                                                               \
        uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;                                                              \
        const uint ones = 0x3c003c00u;                                                                                           \
        _Pragma("unroll") for (int n = 0; n < NT; n++) {                                                                         \
            _Pragma("unroll") for (int s = 0; s < MT; s++) {                                                                     \
                float4 v = *(space const float4 *)(from + (8 * n + g) * D + s / 2 * 32 + 8 * t + 4 * (s % 2)) * LOG2E;           \
                q->x[n][s][0] = pair(v.x, v.y);                                                                                  \
                q->x[n][s][1] = pair(v.z, v.w);                                                                                  \
            }                                                                                                                    \
            _Pragma("unroll") for (int j = 0; j < GROUPS; j++) {                                                                 \
                float c[4] = {0, 0, 0, 0};                                                                                       \
                multiply(c, ones, ones, ones, ones, q->x[n][2 * j]);                                                             \
                multiply(c, ones, ones, ones, ones, q->x[n][2 * j + 1]);                                                         \
                q->above[n][j][0] = -1152 * c[0];                                                                                \
                q->above[n][j][1] = -1152 * c[1];                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }
LOAD_QUERIES(load_local_queries, local)
LOAD_QUERIES(load_queries, global)

static inline void score(const key_part *k, const queries *q, float s[NT][4]) {
#pragma unroll
    for (int n = 0; n < NT; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        uint a[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            byte_pairs(k->row[i][2 * j] ^ 0x80808080u, &a[i][0], &a[i][1]);
            byte_pairs(k->row[i][2 * j + 1] ^ 0x80808080u, &a[i][2], &a[i][3]);
        }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float c[4] = {q->above[n][j][0], q->above[n][j][1], q->above[n][j][0], q->above[n][j][1]};
            multiply(c, a[0][0], a[1][0], a[0][1], a[1][1], q->x[n][2 * j]);
            multiply(c, a[0][2], a[1][2], a[0][3], a[1][3], q->x[n][2 * j + 1]);
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] += k->scale[e / 2][j] * c[e];
        }
    }
}

/* Values of tokens 2t, 2t + 1, 2t + 8, 2t + 9: word j is dims 32 j + 4 g... */
static inline void load_value(global const uchar *row, uint i, uint v[4][GROUPS]) {
    uint g = get_local_id(0) % 32 / 4;
#pragma unroll
    for (int j = 0; j < GROUPS; j++) load(row + j * 32 + g * 4, 4, &v[i][j]);
}

/* o += the 16 tokens' numbers of group j of 32 dims by weights p. Tile 2 j + e, row g: dim 32 j + 4 g + 2 e, row g + 8 the next. */
static inline void mix_group(const uint v[4][GROUPS], int j, const uint p[NT][2], float o[NT][MT][4]) {
    uint a[4][2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint x = v[2 * i][j] ^ 0x80808080u, y = v[2 * i + 1][j] ^ 0x80808080u;
        byte_pairs(pick(x, y, 0x5140), &a[2 * i][0], &a[2 * i + 1][0]);
        byte_pairs(pick(x, y, 0x7362), &a[2 * i][1], &a[2 * i + 1][1]);
#pragma unroll
        for (int e = 0; e < 2; e++) {
            a[2 * i][e] = sub2(a[2 * i][e], 0x64806480u); /* 1024 + 128 */
            a[2 * i + 1][e] = sub2(a[2 * i + 1][e], 0x64806480u);
        }
    }
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
        for (int n = 0; n < NT; n++) multiply(o[n][2 * j + e], a[0][e], a[1][e], a[2][e], a[3][e], p[n]);
}

/* ---- score ---- */

static inline float lift(float g) {
    return g < 1 ? 0.5f * g * g : g - 0.5f;
}

/* Rows warp, warp + WARPS, ... of the head's queries: turned into x [R8][D], which has zeros beyond R; their products with the
 * centre, and their gain by the segment's channels. A lane has D / 32 numbers side by side. */
static inline void turn_rows(global const float *q, float scale, global const float *flips, global const float *centre,
                             global const float *channels, uint warps, local float *x, local float *offset, local float *gain) {
    uint lane = get_local_id(0) % 32;
    const int per = D / 32;
    const float norm = D == 64 ? 0.125f : D == 128 ? 0.088388348f : 0.0625f;
    for (uint r = get_local_id(0) / 32; r < R8; r += warps) {
        float v[D / 32], product = 0, power = 0;
#pragma unroll
        for (int i = 0; i < per; i++) {
            uint e = lane * per + i;
            v[i] = r < R ? q[r * D + e] * scale : 0.0f;
            power += v[i] * v[i] * channels[e];
            v[i] *= flips[e];
        }
#pragma unroll
        for (int step = 1; step < per; step *= 2)
#pragma unroll
            for (int i = 0; i < per; i++)
                if (!(i & step)) {
                    float a = v[i], b = v[i + step];
                    v[i] = a + b;
                    v[i + step] = a - b;
                }
        for (int step = 1; step < 32; step *= 2)
#pragma unroll
            for (int i = 0; i < per; i++) {
                float other = lanes_xor(v[i], step);
                v[i] = lane & step ? other - v[i] : v[i] + other;
            }
#pragma unroll
        for (int i = 0; i < per; i++) {
            v[i] *= norm;
            product += v[i] * centre[lane * per + i];
            x[r * D + lane * per + i] = v[i];
        }
        product = warp_sum(product);
        power = warp_sum(power);
        if (lane == 0) offset[r] = product * LOG2E, gain[r] = sqrt(power);
    }
}

/* frame as of recall.cl's prepare; capacity: segments that a head has room for. Local size {CLUSTERS}, global {segments * CLUSTERS,
 * kv_heads, n}: a warp has a tile of 32 clusters. */
kernel __attribute__((reqd_work_group_size(CLUSTERS, 1, 1))) void
recall_score(global const float *q, ulong q_at, float scale, global const float *frame, ulong frame_at, global const uchar *index,
             ulong index_at, int capacity, int parts, global float *work, ulong work_at) {
    local float x[R8 * D] __attribute__((aligned(16))), offset[R8], gain[R8];
    local float2 sums[TILES][R8];
    uint segment = get_group_id(0), segments = get_num_groups(0), head = get_group_id(1), kv_heads = get_num_groups(1);
    uint pair_at = get_group_id(2) * kv_heads + head, warp = get_local_id(0) / 32, lane = get_local_id(0) % 32;
    uint g = lane / 4, t = lane % 4;
    place w = place_work(work + work_at, kv_heads * get_num_groups(2), segments, parts);
    index += index_at + ((size_t)head * capacity + segment) * INDEX_BYTES;
    global const half *scales = (global const half *)(index + POINT_SCALES);
    global const float *log_count = (global const float *)(index + LOG_COUNT);
    global const float *deviation = (global const float *)(index + DEVIATION);
    key_part k[2];
    float spread[2][2], count[2][2];
#pragma unroll
    for (int u = 0; u < 2; u++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint c = warp * 32 + u * 16 + g + 8 * i;
            load_key(index + (size_t)c * D, scales + c * GROUPS, i, &k[u]);
            spread[u][i] = deviation[c];
            count[u][i] = log_count[c];
        }
    frame += frame_at;
    turn_rows(q + q_at + (size_t)pair_at * R * D, scale, frame, frame + (size_t)(head + 1) * D,
              (global const float *)(index + CHANNELS), TILES, x, offset, gain);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (segment == 0) {
        for (uint i = get_local_id(0); i < R8 * D; i += CLUSTERS) w.x[(size_t)pair_at * R8 * D + i] = x[i];
        for (uint i = get_local_id(0); i < R8; i += CLUSTERS) w.offset[(size_t)pair_at * R8 + i] = offset[i];
    }
    queries b;
    load_local_queries(x, &b);
    float m[NT][2], z[NT][2], s[2][NT][4];
#pragma unroll
    for (int n = 0; n < NT; n++) m[n][0] = m[n][1] = EMPTY, z[n][0] = z[n][1] = 0;
    global float *scores = w.scores + ((size_t)pair_at * segments + segment) * CLUSTERS * R8;
#pragma unroll
    for (int u = 0; u < 2; u++) {
        score(&k[u], &b, s[u]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint c = warp * 32 + u * 16 + g + 8 * i;
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint r = 8 * n + 2 * t;
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float add = fmin(lift(gain[r + e] * spread[u][i]), 2.5f) + count[u][i];
                    s[u][n][2 * i + e] += offset[r + e] + add * LOG2E;
                    m[n][e] = fmax(m[n][e], s[u][n][2 * i + e]);
                }
                *(global float2 *)(scores + (size_t)c * R8 + r) = (float2)(s[u][n][2 * i], s[u][n][2 * i + 1]);
            }
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            for (int l = 4; l < 32; l *= 2) m[n][e] = fmax(m[n][e], lanes_xor(m[n][e], l));
#pragma unroll
            for (int u = 0; u < 2; u++)
                z[n][e] += native_exp2(s[u][n][e] - m[n][e]) + native_exp2(s[u][n][2 + e] - m[n][e]);
            for (int l = 4; l < 32; l *= 2) z[n][e] += lanes_xor(z[n][e], l);
            if (g == 0) sums[warp][8 * n + 2 * t + e] = (float2)(m[n][e], z[n][e]);
        }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint r = get_local_id(0); r < R8; r += CLUSTERS) {
        float most = EMPTY, sum = 0;
        for (int i = 0; i < TILES; i++) most = fmax(most, sums[i][r].x);
        for (int i = 0; i < TILES; i++) sum += sums[i][r].y * native_exp2(sums[i][r].x - most);
        *(global float4 *)(w.state + (((size_t)pair_at * segments + segment) * R8 + r) * 4) = (float4)(most, sum, gain[r], 0);
    }
}

/* ---- read ---- */

/* RUN: segments of a group, at most: RUN * CLUSTERS weights of R8 rows have to fit local memory. */
#define WARPS  8
#define ITEMS  (WARPS * 32)
#define ALL    (RUN * CLUSTERS)
#define LINE   (ALL + 4) /* of the weights of a row */
#define WORDS  (ALL / 32)
#define TURNS  ((ALL + ITEMS - 1) / ITEMS)
#define HALF   (WARPS / 2)
#define PART   (NT * MT * 128)
#define SLOT   (PART + 2 * R8)
#define ROOM   (R8 * LINE > HALF * SLOT ? R8 * LINE : HALF * SLOT)

typedef struct {
    float m[NT][2], z[NT][2], o[NT][MT][4];
} state;

/* Logarithm of the partition sum of each row, by the estimates and the local tier's states [near_parts][rows][2 + D]. */
static inline void total(const place *w, uint pair_at, uint segments, global const float *near, uint near_parts, size_t near_step,
                         local float *log_total) {
    uint lane = get_local_id(0) % 32;
    for (uint r = get_local_id(0) / 32; r < R; r += WARPS) {
        float m = EMPTY, z = 0;
        global const float *own = w->state + ((size_t)pair_at * segments * R8 + r) * 4;
#pragma unroll 4
        for (uint s = lane; s < segments + near_parts; s += 32) {
            float2 one = s < segments ? *(global const float2 *)(own + (size_t)s * R8 * 4)
                                      : *(global const float2 *)(near + (s - segments) * near_step + (size_t)r * (D + 2));
            if (s >= segments) one.x = fmax(one.x * LOG2E, EMPTY); /* nothing seen: -inf */
            float most = fmax(m, one.x);
            z = z * native_exp2(m - most) + one.y * native_exp2(one.x - most);
            m = most;
        }
        float most = warp_max(m);
        z = warp_sum(z * native_exp2(m - most));
        if (lane == 0) log_total[r] = most + native_log2(z);
    }
}

/* m has to rise to what s [tokens g, g + 8] asks. */
static inline void renew(state *a, float (*s)[4]) {
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float m = fmax(a->m[n][e], fmax(s[n][e], s[n][2 + e]));
            for (int l = 4; l < 32; l *= 2) m = fmax(m, lanes_xor(m, l));
            float c = native_exp2(a->m[n][e] - m);
            a->m[n][e] = m;
            a->z[n][e] *= c;
#pragma unroll
            for (int j = 0; j < MT; j++) {
                a->o[n][j][e] *= c;
                a->o[n][j][2 + e] *= c;
            }
        }
}

/* Tokens of the wanted clusters by their number in the list: begin [count + 1]. */
static inline uint find(const local uint *begin, uint count, uint token) {
    uint low = 0, high = count;
    while (high - low > 1) {
        uint middle = (low + high) / 2;
        if (begin[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static inline void put(const state *a, local float *slot) {
    uint lane = get_local_id(0) % 32, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (lane < 4) {
                slot[PART + 2 * (8 * n + 2 * t + e)] = a->m[n][e];
                slot[PART + 2 * (8 * n + 2 * t + e) + 1] = a->z[n][e];
            }
#pragma unroll
            for (int j = 0; j < MT; j++)
#pragma unroll
                for (int h = 0; h < 2; h++) slot[((n * MT + j) * 4 + 2 * h + e) * 32 + lane] = a->o[n][j][2 * h + e];
        }
}

static inline void join(state *a, const local float *slot) {
    uint lane = get_local_id(0) % 32, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            uint r = 8 * n + 2 * t + e;
            float other = slot[PART + 2 * r], m = fmax(a->m[n][e], other);
            float mine = native_exp2(a->m[n][e] - m), theirs = native_exp2(other - m);
            a->m[n][e] = m;
            a->z[n][e] = a->z[n][e] * mine + slot[PART + 2 * r + 1] * theirs;
#pragma unroll
            for (int j = 0; j < MT; j++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    a->o[n][j][2 * h + e] =
                        a->o[n][j][2 * h + e] * mine + slot[((n * MT + j) * 4 + 2 * h + e) * 32 + lane] * theirs;
        }
}

/* near: the local tier's states, [near_parts][near_rows][2 + D], of which the first are these queries'. change, value, tile: as of recall.cl, tile times change. run:
 * segments of a group, RUN at most. Local size {256}, global {ceil(segments / run) * 256, kv_heads, n}. */
kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void
recall_read(global const uchar *index, ulong index_at, global const uchar *rows, ulong rows_at, int capacity, int segments_all,
            int run, global const float *near, ulong near_at, int near_parts, int near_rows, float change, float value, float tile,
            global float *work, ulong work_at) {
    local float room[ROOM] __attribute__((aligned(16)));
    local float log_total[R8], offset[R8], least[R8], unread[R8], tile_sums[RUN * TILES][R8], rest[RUN][R8], gains[RUN * R8];
    local uint wants[WORDS], begin[ALL + 1], counts[3], info[ALL]; /* info: a cluster's first row, and its tokens */
    local ushort list[ALL];
    uint part = get_group_id(0), parts = get_num_groups(0), head = get_group_id(1), kv_heads = get_num_groups(1), id = get_local_id(0);
    uint pair_at = get_group_id(2) * kv_heads + head, warp = id / 32, lane = id % 32, g = lane / 4, t = lane % 4;
    uint first = part * run, own = min((uint)run, segments_all - first), all = own * CLUSTERS, pairs = kv_heads * get_num_groups(2);
    place w = place_work(work + work_at, pairs, segments_all, parts);
    index += index_at + ((size_t)head * capacity + first) * INDEX_BYTES;
    rows += rows_at + ((size_t)head * capacity + first) * ROWS_BYTES;
    /* asked for at once: all that the choice takes of a group's clusters, one of which an item has in each of TURNS turns */
    float s[TURNS][R8], spread[TURNS], worth[TURNS];
    uint place_of[TURNS];
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        uint c = min(id + u * ITEMS, all - 1), in = c % CLUSTERS;
        global const uchar *at = index + (size_t)(c / CLUSTERS) * INDEX_BYTES;
        global const float *scores = w.scores + (((size_t)pair_at * segments_all + first) * CLUSTERS + c) * R8;
        global const ushort *start = (global const ushort *)(at + START) + in;
#pragma unroll
        for (int i = 0; i < R8; i += 4) {
            float4 x = *(global const float4 *)(scores + i);
            s[u][i] = x.x, s[u][i + 1] = x.y, s[u][i + 2] = x.z, s[u][i + 3] = x.w;
        }
        spread[u] = ((global const float *)(at + DEVIATION))[in];
        worth[u] = ((global const float *)(at + WORTH))[in] * LOG2E;
        place_of[u] = start[0] | (uint)(start[1] - start[0]) << 16;
    }
    for (uint i = id; i < own * R8; i += ITEMS) /* of segment i / R8: where its gain of a row begins to count */
        gains[i] = w.state[(((size_t)pair_at * segments_all + first) * R8 + i) * 4 + 2];
    total(&w, pair_at, segments_all, near + near_at + (size_t)pair_at * R * (D + 2), near_parts, (size_t)near_rows * (D + 2),
          log_total);
    if (id < R8) {
        offset[id] = w.offset[(size_t)pair_at * R8 + id];
        if (id >= R) log_total[id] = 0;
    }
    if (id < 3) counts[id] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    const float log_change = native_log2(change);
    if (id < R8) least[id] = id < R ? log_total[id] + log_change + native_log2(value) : INFINITY;

    /* which clusters are read; the weights of the others */
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        uint c = id + u * ITEMS;
        if (c >= all) break; /* a warp at once */
        local const float *gain = gains + c / CLUSTERS * R8;
        int wanted = 0;
#pragma unroll
        for (int r = 0; r < R; r++) {
            float g = gain[r], bar = log_total[r] + log_change - native_log2(g);
            wanted |= !(s[u][r] + 0.5f * LOG2E * lift(g * spread[u]) + worth[u] <= bar);
        }
        wanted = wanted && place_of[u] >> 16;
#pragma unroll
        for (int r = 0; r < R8; r++) room[r * LINE + c] = wanted || r >= R ? 0.0f : native_exp2(s[u][r] - log_total[r]);
        uint bits = ballot(wanted);
        if (lane == 0) wants[c / 32] = bits;
        if (wanted) info[c] = place_of[u];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    uint wanted_count = 0;
    for (uint i = 0; i < all / 32; i++) wanted_count += popcount(wants[i]);
    for (uint c = id; c < all; c += ITEMS) {
        if (!(wants[c / 32] >> c % 32 & 1)) continue;
        uint before = popcount(wants[c / 32] & ((1u << c % 32) - 1));
        for (uint i = 0; i < c / 32; i++) before += popcount(wants[i]);
        list[before] = (ushort)c;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (warp == 0) { /* where the tokens of the list's clusters begin */
        uint sum = 0;
        for (uint from = 0; from < wanted_count; from += 32) {
            uint i = from + lane, tokens = i < wanted_count ? info[list[i]] >> 16 : 0, upto = tokens;
            for (uint l = 1; l < 32; l *= 2) {
                uint other = lane_of_uint(upto, lane - l);
                if (lane >= l) upto += other;
            }
            if (i < wanted_count) begin[i] = sum + upto - tokens;
            sum += lane_of_uint(upto, 31);
        }
        if (lane == 0) begin[wanted_count] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    /* their rows */
    state a;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            a.m[n][e] = log_total[8 * n + 2 * t + e];
            a.z[n][e] = 0;
#pragma unroll
            for (int j = 0; j < MT; j++) a.o[n][j][e] = a.o[n][j][2 + e] = 0;
        }
    const float fixed_point = 1048576.0f / (change * value); /* a cluster's tokens together stay below 2^31 */
    uint tokens = begin[wanted_count], values_read = 0;
    queries b;
    load_queries(w.x + (size_t)pair_at * R8 * D, &b);
    for (uint at = warp * 16; at < tokens; at += WARPS * 16) {
        uint token = min(at + lane % 16, tokens - 1), place_in = find(begin, wanted_count, token), cluster = list[place_in];
        uint row = (info[cluster] & 0xffff) + token - begin[place_in]; /* of lane % 16's token */
        key_part k;
        uint clusters[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint r = lane_of_uint(row, g + 8 * i);
            clusters[i] = lane_of_uint(cluster, g + 8 * i);
            global const uchar *from = rows + (size_t)(clusters[i] / CLUSTERS) * ROWS_BYTES;
            load_key(from + (size_t)r * D, (global const half *)(from + KEY_SCALES) + r * GROUPS, i, &k);
        }
        float scores[NT][4];
        int kept[2] = {0, 0}, rise = 0;
        score(&k, &b, scores);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint r = 8 * n + 2 * t + e % 2;
                scores[n][e] += offset[r];
                if (at + g + 8 * (e / 2) < tokens) kept[e / 2] |= !(scores[n][e] <= least[r]);
            }
#pragma unroll
        for (int i = 0; i < 2; i++) { /* of the token: over the lanes that have its other queries */
            uint bits = ballot(kept[i]);
            kept[i] = (bits >> 4 * g & 15) != 0;
        }
        uint keeps = ballot(kept[0]) & 0x11111111u, keeps8 = ballot(kept[1]) & 0x11111111u;
        values_read += popcount(keeps) + popcount(keeps8);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint r = 8 * n + 2 * t + e % 2;
                if (!kept[e / 2]) {
                    if (at + g + 8 * (e / 2) < tokens && r < R)
                        atomic_add((volatile local uint *)&room[r * LINE + clusters[e / 2]],
                                   (uint)(native_exp2(scores[n][e] - log_total[r]) * fixed_point + 0.5f));
                    scores[n][e] = -INFINITY;
                }
                rise |= scores[n][e] > a.m[n][e % 2] + RISE;
            }
        if (!(keeps | keeps8)) continue;
        if (warp_any(rise)) renew(&a, scores);
        uint v[4][GROUPS], scale_bits[2][GROUPS / 2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint which = 2 * t + i % 2, r = lane_of_uint(row, which + 8 * (i / 2)), c = lane_of_uint(cluster, which + 8 * (i / 2));
            if ((i < 2 ? keeps : keeps8) >> 4 * which & 1) {
                load_value(rows + (size_t)(c / CLUSTERS) * ROWS_BYTES + VALUES + (size_t)r * D, i, v);
            } else {
#pragma unroll
                for (int j = 0; j < GROUPS; j++) v[i][j] = 0;
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint r = lane_of_uint(row, g + 8 * i);
            load(rows + (size_t)(clusters[i] / CLUSTERS) * ROWS_BYTES + VALUE_SCALES + (size_t)r * GROUPS * 2, GROUPS * 2, scale_bits[i]);
        }
        float e[NT][4];
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) e[n][i] = native_exp2(scores[n][i] - (a.m[n][i % 2] - LIFT));
            a.z[n][0] += e[n][0] + e[n][2];
            a.z[n][1] += e[n][1] + e[n][3];
        }
#pragma unroll
        for (int j = 0; j < GROUPS; j++) {
            float low[2], high[2];
            uint p[NT][2];
#pragma unroll
            for (int i = 0; i < 2; i++) halves(scale_bits[i][j / 2], &low[i], &high[i]);
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float f = j % 2 ? high[i] : low[i];
                    p[n][i] = turn(pair(e[n][2 * i] * f, e[n][2 * i + 1] * f));
                }
            mix_group(v, j, p, a.o);
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            for (int l = 4; l < 32; l *= 2) a.z[n][e] += lanes_xor(a.z[n][e], l);
    if (lane == 0) atomic_add((volatile local uint *)&counts[1], values_read);
    barrier(CLK_LOCAL_MEM_FENCE);

    /* what was not read, by its mean values */
    for (uint i = id; i < wanted_count * R8; i += ITEMS) {
        local float *sum = &room[i % R8 * LINE + list[i / R8]];
        *sum = (float)as_uint(*sum) / fixed_point;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = id; i < own * TILES * R8; i += ITEMS) {
        uint r = i % R8, tile_at = i / R8;
        float sum = 0;
        for (uint c = 0; c < TILE; c++) sum += room[r * LINE + tile_at * TILE + (c + tile_at) % TILE];
        tile_sums[tile_at][r] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = id; i < own * R8; i += ITEMS) {
        uint r = i % R8, s = i / R8;
        float sum = 0;
        for (uint k = 0; k < TILES; k++) {
            int small = 1;
            for (uint o = 0; o < R; o++) small &= tile_sums[s * TILES + k][o] <= tile;
            if (small) sum += tile_sums[s * TILES + k][r];
            if (!small && r == 0) atomic_add((volatile local uint *)&counts[2], 1u);
        }
        rest[s][r] = sum;
    }
    if (id < R8) {
        float sum = 0;
        for (uint k = 0; k < own * TILES; k++) sum += tile_sums[k][id];
        unread[id] = sum;
    }
    float raise[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) { /* of query g, from weights relative to the total to those of a */
        float m0 = lane_of(a.m[n][0], g / 2), m1 = lane_of(a.m[n][1], g / 2);
        raise[n] = native_exp2(log_total[8 * n + g] - ((g % 2 ? m1 : m0) - LIFT));
    }
    for (uint k = warp; k < own * TILES; k += WARPS) {
        int small = 1;
        for (uint o = 0; o < R; o++) small &= tile_sums[k][o] <= tile;
        if (small) continue;
        global const uchar *at = index + (size_t)(k / TILES) * INDEX_BYTES;
#pragma unroll
        for (int u = 0; u < 2; u++) {
            uint c = k * TILE + u * 16, in = c % CLUSTERS;
            uint v[4][GROUPS], p[NT][2];
#pragma unroll
            for (int i = 0; i < 4; i++) load_value(at + MEANS + (size_t)(in + 2 * t + i % 2 + 8 * (i / 2)) * D, i, v);
            global const float *scales = (global const float *)(at + MEAN_SCALES) + in + 2 * t;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float2 f = *(global const float2 *)(scales + 8 * i);
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    float2 weight = *(local const float2 *)&room[(8 * n + g) * LINE + c + 2 * t + 8 * i] * f * raise[n];
                    p[n][i] = pair(weight.x, weight.y);
                }
            }
#pragma unroll
            for (int j = 0; j < GROUPS; j++) mix_group(v, j, p, a.o);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    /* the warps' states, in the weights' place */
    if (warp >= HALF) put(&a, room + (warp - HALF) * SLOT);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (warp < HALF) {
        join(&a, room + warp * SLOT);
        lanes_meet();
        put(&a, room + warp * SLOT);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    global float *state_to = w.part + ((size_t)pair_at * parts + part) * R8 * 4;
    global float *to = w.acc + ((size_t)pair_at * parts + part) * R * D;
    for (uint i = id; i < PART; i += ITEMS) {
        uint r = i / (MT * 128) * 8 + i % 4 * 2 + i / 32 % 2, j = i / 128 % MT;
        uint dim = j / 2 * 32 + i / 4 % 8 * 4 + j % 2 * 2 + i / 64 % 2;
        if (r >= R) continue;
        float m = log_total[r], sum = 0, more = 0;
        for (int s = 0; s < HALF; s++) m = fmax(m, room[s * SLOT + PART + 2 * r]);
        for (int s = 0; s < HALF; s++) sum += native_exp2(room[s * SLOT + PART + 2 * r] - m) * room[s * SLOT + i];
        for (uint s = 0; s < own; s++) more += rest[s][r] * ((global const float *)(index + (size_t)s * INDEX_BYTES + MIDDLE))[dim];
        to[r * D + dim] = sum * native_exp2(-LIFT) + more * native_exp2(log_total[r] - m);
        if (dim == 0) {
            float z = 0, back = native_exp2(log_total[r] - m);
            for (int s = 0; s < HALF; s++) z += native_exp2(room[s * SLOT + PART + 2 * r] - m) * room[s * SLOT + PART + 2 * r + 1];
            *(global float2 *)(state_to + r * 4) = (float2)(m, z * native_exp2(-LIFT) + unread[r] * back);
            state_to[r * 4 + 2] = unread[r] * back;
        }
    }
    if (id < 3) state_to[id * 4 + 3] = as_float(id == 0 ? tokens : counts[id]);
}

/* ---- merge ---- */

static inline void add_count(global ulong *to, ulong x) {
    asm volatile("red.global.add.u64 [%0], %1;" ::"l"((ulong)to), "l"(x) : "memory");
}

#define LINES (D / 4)

/* counts as of recall.cl's tally. Local size {256}, global {R * 256, kv_heads, n}. */
kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void
recall_merge(global const float *near, ulong near_at, int near_parts, int near_rows, int segments, int parts, global float *work, ulong work_at,
             global float *out, ulong out_at, global ulong *counts, ulong counts_at) {
    local float4 sums[ITEMS];
    uint r = get_group_id(0), head = get_group_id(1), kv_heads = get_num_groups(1), id = get_local_id(0), lane = id % 32;
    uint pairs = kv_heads * get_num_groups(2), pair_at = get_group_id(2) * kv_heads + head, dim = id % LINES * 4;
    place w = place_work(work + work_at, pairs, segments, parts);
    size_t near_step = (size_t)near_rows * (D + 2);
    near += near_at + ((size_t)pair_at * R + r) * (D + 2);
    global const float *far = w.part + ((size_t)pair_at * parts * R8 + r) * 4;
    global const float *acc = w.acc + ((size_t)pair_at * parts * R + r) * D + dim;
    float m = EMPTY, z = 0, unread = 0;
    float4 sum = 0;
    for (int p = lane; p < near_parts + parts; p += 32)
        m = fmax(m, p < parts ? far[(size_t)p * R8 * 4] : near[(p - parts) * near_step] * LOG2E);
    m = warp_max(m);
    for (int p = lane; p < near_parts + parts; p += 32) {
        int is_far = p < parts;
        float2 one = is_far ? *(global const float2 *)(far + (size_t)p * R8 * 4) : *(global const float2 *)(near + (p - parts) * near_step);
        float f = native_exp2((is_far ? one.x : one.x * LOG2E) - m);
        z += one.y * f;
        if (is_far) unread += far[(size_t)p * R8 * 4 + 2] * f;
    }
    z = warp_sum(z);
    unread = warp_sum(unread);
#pragma unroll 8
    for (int p = id / LINES; p < parts; p += ITEMS / LINES)
        sum += *(global const float4 *)(acc + (size_t)p * R * D) * native_exp2(far[(size_t)p * R8 * 4] - m);
#pragma unroll 4
    for (int p = id / LINES; p < near_parts; p += ITEMS / LINES) {
        global const float *one = near + p * near_step;
        float2 low = *(global const float2 *)(one + 2 + dim), high = *(global const float2 *)(one + 4 + dim);
        if (one[0] > -INFINITY) sum += (float4)(low.x, low.y, high.x, high.y) * native_exp2(one[0] * LOG2E - m);
    }
    sums[id] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (id < LINES) {
#pragma unroll
        for (int i = 1; i < ITEMS / LINES; i++) sum += sums[id + i * LINES];
        vstore4(sum * (z > 0 ? 1 / z : z), 0, out + out_at + ((size_t)pair_at * R + r) * D + dim);
    }
    counts += counts_at + head * 4;
    if (id == 0 && unread > 0) add_count(counts + 3, (ulong)(unread / z * (4294967296.0f / R)));
    if (r > 0 || id >= 96) return;
    uint which = id / 32, read = 0; /* a warp a count */
    for (int p = lane; p < parts; p += 32) read += as_uint(w.part[(((size_t)pair_at * parts + p) * R8 + which) * 4 + 3]);
    for (int l = 1; l < 32; l *= 2) read += as_uint(lanes_xor(as_float(read), l));
    if (lane == 0) add_count(counts + which, read);
}
