/* recall, NVIDIA - what recall_score_nv.cl and recall_read_nv.cl share, and come after: attention of one query token over a
 * long-term tier, by the default rule: what src/memory/recall.h computes, in one launch (kernels/recall.cl has every other rule
 * and shape).
 *
 * `parts` groups serve a query of a key/value head, which is a pair. A group has some of its segments and some tokens of the
 * local tier:
 *
 *   the query turned, centroids scored on the matrix unit, the local tier's tokens attended to; sums of weights
 *   -- the pair's groups meet --
 *   which clusters are read, by what all weigh together; their tokens listed
 *   -- they meet again; meanwhile mean values of the others --
 *   an equal share of all that was listed is read; the last group of a pair makes all states the attention
 *
 * What a warp scored it keeps in registers until the end. Lists have a place for every group and shares are counted out, so that
 * results do not depend on who comes first. A launch has no more groups than compute units, of as many work-items as a
 * unit's registers allow, so that all of them run at once; one that waits in vain fails.
 *
 * Owns decoding and prompts on devices with mma.m16n8k16, for rows and index in q8, KEY_DIM = VALUE_DIM 64, 128 or 256, GROUP up
 * to 16. The local tier is in f16 and read here; else its states come from a launch before. Scores and weights are in
 * logarithms to base 2. Rows and centroids come from memory to registers, as in attend_decode_nv.cl, whose operands these are
 * too: a lane (g = lane / 4, t = lane % 4) has tokens g, g + 8 of a step of 16 and queries 2t, 2t + 1, and of values dims 4 g..
 * of every 32 of tokens 2t, 2t + 1, 2t + 8, 2t + 9. Rounded to f16: queries, weights, those of codes times their scales.
 * All tokens of a cluster that is read are read, values too: leaving some out, as the CPU does, would be one wait more.
 *
 * Weights are relative to the estimated partition sum of the whole, which every group knows before it reads: sums of different
 * groups need no common maximum, unless some token's weight is far above all estimates.
 *
 * RUN: segments of a group, at most. work, floats from work_at on, R8 = GROUP padded to 8, of a launch's pairs:
 *
 *   [pairs][parts][R8][4]              m, z, unread of a part, and ints of row 0, 1: tokens and tiles read
 *   [pairs][parts][R8][2]              m, z before any is read
 *   [pairs][parts][GROUP][VALUE_DIM]   sums
 *   uint [pairs][parts]                tokens listed
 *   uint [pairs][parts][RUN * SEGMENT] which: of all the head's segments' rows; with RING their places in it
 */
#define D      KEY_DIM
#define R      GROUP
#define NT     ((R + 7) / 8)
#define R8     (8 * NT)
#define MT     (D / 16)
#define GROUPS (D / 32)
#define LOG2E  1.44269504f
#define TILE   32
#define TILES  (CLUSTERS / TILE)
#define EMPTY  -1e30f
#define RISE   5.0f /* as in attend_decode_nv.cl */
#define LIFT   9.0f
#if D != 64 && D != 128 && D != 256 || VALUE_DIM != D || R > 16
#error "not a shape of these kernels"
#endif

#define UP(bytes)    (((bytes) + 63) / 64 * 64)
#define POINT_SCALES UP(CLUSTERS *D)
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
#define KEY_SCALES   UP(SEGMENT *D)
#define VALUES       (KEY_SCALES + UP(SEGMENT * D / 16))
#define VALUE_SCALES (VALUES + UP(SEGMENT * D))
#define ROWS_BYTES   (VALUE_SCALES + UP(SEGMENT * D / 16))

/* Warps that a group's registers allow, and their work-items. */
#define WARPS  (D * NT <= 128 ? 16 : 8)
#define ITEMS  (WARPS * 32)
#define LISTED (RUN * SEGMENT)

typedef struct {
    global float *part, *sums, *acc;
    global uint *tokens, *list;
} place;

/* Of a pair. */
static inline place place_work(global float *work, uint pair_at, uint pairs, uint parts) {
    place p;
    size_t all = (size_t)pairs * parts, at = (size_t)pair_at * parts;
    p.part = work + at * R8 * 4;
    p.sums = work + all * R8 * 4 + at * R8 * 2;
    p.acc = work + all * R8 * 6 + at * R * D;
    global uint *numbers = (global uint *)(work + all * (R8 * 6 + R * D));
    p.tokens = numbers + at;
    p.list = numbers + all + at * LISTED;
    return p;
}

static inline float warp_sum(float x) {
    for (int l = 1; l < 32; l *= 2) x += lanes_xor(x, l);
    return x;
}

static inline float warp_max(float x) {
    for (int l = 1; l < 32; l *= 2) x = fmax(x, lanes_xor(x, l));
    return x;
}

/* Of a deviation of scores within a cluster: what its weight gains (src/memory/recall_score.c). */
static inline float lift(float g) {
    return g < 1 ? 0.5f * g * g : g - 0.5f;
}

/* And what a cluster may hide, by which it is chosen. */
static inline float chance(float g) {
    return fmax(0.5f * lift(g), 2.5f * g - 7.25f);
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

static inline void load_queries(const local float *from, queries *q) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
    const uint ones = 0x3c003c00u;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int s = 0; s < MT; s++) {
            float4 v = *(const local float4 *)(from + (8 * n + g) * D + s / 2 * 32 + 8 * t + 4 * (s % 2)) * LOG2E;
            q->x[n][s][0] = pair(v.x, v.y);
            q->x[n][s][1] = pair(v.z, v.w);
        }
#pragma unroll
        for (int j = 0; j < GROUPS; j++) {
            float c[4] = {0, 0, 0, 0};
            multiply(c, ones, ones, ones, ones, q->x[n][2 * j]);
            multiply(c, ones, ones, ones, ones, q->x[n][2 * j + 1]);
            q->above[n][j][0] = -1152 * c[0];
            q->above[n][j][1] = -1152 * c[1];
        }
    }
}

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

/* o += the 16 tokens' numbers of group j of 32 dims by weights p. Tile 2 j + e, row g: dim 32 j + 4 g + 2 e, row g + 8 the next.
 */
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

/* ---- states of warps ---- */

#define PART (NT * MT * 128)
#define SLOT (PART + 2 * R8)

typedef struct {
    float m[NT][2], z[NT][2], o[NT][MT][4];
} state;

/* Whether some score is so far above m that its weight would not fit f16. */
static inline int rises(const state *a, float (*s)[4]) {
    int rise = 0;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) rise |= s[n][e] > a->m[n][e % 2] + RISE;
    return rise;
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

/* Through local memory: m and z of rows, and o lane after lane. */
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
