/* recall_score, NVIDIA - the first part of recall_nv.cl: queries turned, the local tier attended to, centroids scored. */
/* What a lane takes of a row to turn: D / 32 numbers side by side. */
typedef struct {
    float q[D / 32], flips[D / 32], centre[D / 32];
} turn_parts;

static inline void load_parts(global const float *q, global const float *flips, global const float *centre, uint r,
                              turn_parts *p) {
    uint lane = get_local_id(0) % 32;
#pragma unroll
    for (int i = 0; i < D / 32; i++) {
        uint e = lane * (D / 32) + i;
        p->q[i] = r < R ? q[r * D + e] : 0.0f;
        p->flips[i] = flips[e];
        p->centre[i] = centre[e];
    }
}

/* A row turned into x [R8][D], which has zeros beyond R, and its product with the centre. */
static inline void turn_row(const turn_parts *p, float scale, uint r, local float *x, local float *offset) {
    uint lane = get_local_id(0) % 32;
    const int per = D / 32;
    const float norm = D == 64 ? 0.125f : D == 128 ? 0.088388348f : 0.0625f;
    float v[D / 32], product = 0;
#pragma unroll
    for (int i = 0; i < per; i++) v[i] = p->q[i] * scale * p->flips[i];
#pragma unroll
    for (int step = 1; step < per; step *= 2)
#pragma unroll
        for (int i = 0; i < per; i++)
            if (!(i & step)) {
                float a = v[i], b = v[i + step];
                v[i] = a + b;
                v[i + step] = a - b;
            }
#pragma unroll 1
    for (int step = 1; step < 32; step *= 2)
#pragma unroll
        for (int i = 0; i < per; i++) {
            float other = lanes_xor(v[i], step);
            v[i] = lane & step ? other - v[i] : v[i] + other;
        }
#pragma unroll
    for (int i = 0; i < per; i++) {
        v[i] *= norm;
        product += v[i] * p->centre[i];
        x[r * D + lane * per + i] = v[i];
    }
    product = warp_sum(product);
    if (lane == 0) offset[r] = product * LOG2E;
}

/* How far a deviation of a segment's channels moves the row's scores; segments from.. in steps of each. */
static inline void gain_row(const turn_parts *p, float scale, global const uchar *index, uint own, uint r, uint from, uint each,
                            local float *gains) {
    uint lane = get_local_id(0) % 32;
    for (uint s = from; s < own; s += each) {
        global const float *channels = (global const float *)(index + (size_t)s * INDEX_BYTES + CHANNELS) + lane * (D / 32);
        float power = 0;
#pragma unroll
        for (int i = 0; i < D / 32; i++) power += p->q[i] * p->q[i] * channels[i];
        power = warp_sum(power);
        if (lane == 0) gains[s * R8 + r] = sqrt(power) * scale;
    }
}

/* A cache in f16: what a lane has of keys g and g + 8, 8 numbers of every 32, and of values 2t, 2t + 1, 2t + 8, 2t + 9, 4 of 32.
 */
typedef struct {
    global const uchar *keys, *values; /* of the head; tokens from gap_from on lie gap rows further on */
    uint gap_from, gap, end;
} near_rows_of;

static inline size_t row_of(const near_rows_of *c, uint token) {
    token = min(token, c->end - 1);
    return (size_t)(token + (token >= c->gap_from ? c->gap : 0)) * (D * 2);
}

/* Memory is to have these at hand. */
static inline void ask_for_near(const near_rows_of *c, uint at) {
    uint lane = get_local_id(0) % 32;
    if (at + 16 > c->end || (at < c->gap_from && at + 16 > c->gap_from) || lane > 1) return;
    ask_for_bytes((lane ? c->values : c->keys) + row_of(c, at), 16 * D * 2);
}

/* Tokens at..at + 15, as far as there are; z: of a lane's own tokens. */
static inline void attend_near(const near_rows_of *c, uint at, global const float *q, float scale, state *a) {
    uint lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
    uint k[2][GROUPS][4], v[4][GROUPS][2], p[NT][2];
    float s[NT][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < GROUPS; j++) load(c->keys + row_of(c, at + g + 8 * i) + j * 64 + t * 16, 16, k[i][j]);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < GROUPS; j++)
            load(c->values + row_of(c, at + 2 * t + i % 2 + 8 * (i / 2)) + j * 64 + g * 8, 8, v[i][j]);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        uint r = 8 * n + g;
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
        for (int e = 0; e < MT; e++) {
            float x[4];
            uint b[2];
#pragma unroll
            for (int i = 0; i < 4; i++) x[i] = r < R ? q[r * D + e / 2 * 32 + 8 * t + 4 * (e % 2) + i] * scale * LOG2E : 0.0f;
            b[0] = pair(x[0], x[1]);
            b[1] = pair(x[2], x[3]);
            multiply(s[n], k[0][e / 2][e % 2 * 2], k[1][e / 2][e % 2 * 2], k[0][e / 2][e % 2 * 2 + 1], k[1][e / 2][e % 2 * 2 + 1],
                     b);
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (at + g + 8 * (e / 2) >= c->end) s[n][e] = -INFINITY;
    }
    if (warp_any(rises(a, s))) renew(a, s);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float e[4];
#pragma unroll
        for (int i = 0; i < 4; i++) e[i] = native_exp2(s[n][i] - (a->m[n][i % 2] - LIFT));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            a->z[n][i] += e[i] + e[2 + i];
            p[n][i] = turn(pair(e[2 * i], e[2 * i + 1]));
        }
    }
#pragma unroll
    for (int j = 0; j < GROUPS; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int n = 0; n < NT; n++)
                multiply(a->o[n][2 * j + e], pick(v[0][j][e], v[1][j][e], 0x5410), pick(v[0][j][e], v[1][j][e], 0x7632),
                         pick(v[2][j][e], v[3][j][e], 0x5410), pick(v[2][j][e], v[3][j][e], 0x7632), p[n]);
}

/* ---- centroids ---- */

/* A group's clusters are in tiles of 32: warp, warp + WARPS, ... are the warp's. */
#define OWN_TILES ((RUN * TILES + WARPS - 1) / WARPS)

/* A lane has clusters g and g + 8 of each half of a tile. First scores, and later weights. */
typedef struct {
    float s[OWN_TILES][2][NT][4];
} tile_scores;

/* What is known of a segment's clusters beside their points, in local memory: logarithms of their counts, deviations, what their
 * rows are worth, where these begin, and the segment's mean value. */
#define STARTS_AT (CLUSTERS * 12)
#define MIDDLE_AT (STARTS_AT + UP((CLUSTERS + 1) * 2))
#define NUMBERS   (MIDDLE_AT + D * 4)

static inline void copy_numbers(global const uchar *index, uint own, local uchar *numbers) {
    for (uint i = get_local_id(0); i < own * (NUMBERS / 16); i += ITEMS) {
        uint s = i / (NUMBERS / 16), at = i % (NUMBERS / 16) * 16;
        uint from = at < STARTS_AT ? LOG_COUNT + at : at < MIDDLE_AT ? START + at - STARTS_AT : MIDDLE + at - MIDDLE_AT;
        stream16(numbers + s * NUMBERS + at, index + (size_t)s * INDEX_BYTES + from);
    }
    end_copies();
}

/* Memory is to have the group's points near at hand, of which the first warps ask for a part each. */
static inline void ask_for_points(global const uchar *index, uint own) {
    const uint each = MEANS / (WARPS / 2) / 16 * 16 + 16;
    uint from = get_local_id(0) / 32 * each, segment = get_local_id(0) % 32;
    if (segment < own && from < MEANS) ask_for_bytes(index + (size_t)segment * INDEX_BYTES + from, min(each, (uint)MEANS - from));
}

/* Scores with the weight of all that a cluster has, and m, z of the warp's rows, which are all lanes' of the same t. */
static inline void score_tiles(global const uchar *index, const local uchar *numbers, uint tiles, const queries *q,
                               const local float *offset, const local float *gains, tile_scores *all, float m[NT][2],
                               float z[NT][2]) {
    uint warp = get_local_id(0) / 32, g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) m[n][0] = m[n][1] = EMPTY, z[n][0] = z[n][1] = 0;
#pragma unroll
    for (int u = 0; u < OWN_TILES; u++) {
        uint tile = warp + WARPS * u, segment = tile / TILES;
        if (tile >= tiles) break;
        global const uchar *at = index + (size_t)segment * INDEX_BYTES;
        const local float *number = (const local float *)(numbers + segment * NUMBERS);
        key_part k[2];
        float spread[2][2], count[2][2];
#pragma unroll
        for (int v = 0; v < 2; v++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint c = tile % TILES * TILE + v * 16 + g + 8 * i;
                load_key(at + (size_t)c * D, (global const half *)(at + POINT_SCALES) + c * GROUPS, i, &k[v]);
                count[v][i] = number[c];
                spread[v][i] = number[CLUSTERS + c];
            }
#pragma unroll
        for (int v = 0; v < 2; v++) {
            score(&k[v], q, all->s[u][v]);
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    uint r = 8 * n + 2 * t + e % 2;
                    float add = fmin(lift(gains[segment * R8 + r] * spread[v][e / 2]), 2.5f) + count[v][e / 2];
                    all->s[u][v][n][e] += offset[r] + add * LOG2E;
                }
        }
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float a = all->s[u][0][n][e], b = all->s[u][0][n][2 + e], c = all->s[u][1][n][e],
                            d = all->s[u][1][n][2 + e];
                float most = fmax(fmax(m[n][e], fmax(a, b)), fmax(c, d));
                z[n][e] = z[n][e] * native_exp2(m[n][e] - most) + native_exp2(a - most) + native_exp2(b - most) +
                          native_exp2(c - most) + native_exp2(d - most);
                m[n][e] = most;
            }
    }
}

/* The group's m and z of each row, of its scores and of the local tier's states a: to [R8][2]. sums: local, [WARPS][R8]. */
static inline void sum_group(const state *a, float m[NT][2], float z[NT][2], local float2 (*sums)[R8], global float *to) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float most = fmax(m[n][e], a->m[n][e]);
            for (int l = 4; l < 32; l *= 2) most = fmax(most, lanes_xor(most, l));
            float sum = z[n][e] * native_exp2(m[n][e] - most) + a->z[n][e] * native_exp2(a->m[n][e] - most - LIFT);
#pragma unroll
            for (int l = 4; l < 32; l *= 2) sum += lanes_xor(sum, l);
            if (lane < 4) sums[warp][8 * n + 2 * lane + e] = (float2)(most, sum);
        }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint r = warp; r < R8; r += WARPS) {
        float2 one = lane < WARPS ? sums[lane][r] : (float2)(EMPTY, 0);
        float most = warp_max(one.x), sum = warp_sum(one.y * native_exp2(one.x - most));
        if (lane == 0) *(global float2 *)(to + r * 2) = (float2)(most, sum);
    }
}
