/* attend_decode, NVIDIA - attention of a few queries over a long cache, at the speed of the device's memory.
 *
 *   out_h = sum_t softmax_t(scale q_h . k_t) v_t      for all query heads (and tokens, up to 16 rows) of a key/value head at once
 *
 * Owns decoding on devices with mma.m16n8k16 (compute capability 8.0 and later). Keys and values go from memory to registers
 * once, 16 bytes a load where the row allows, and from there to the matrix unit: no shared memory, no barrier in the loop. Both
 * products have cache rows as their operand of 16 and the queries as the one of 8, so that grouped heads cost no more than one:
 *
 *   S^T [16 tokens][8 queries] += K [16][16 dims] Q^T           a lane holds tokens g, g + 8 and queries 2t, 2t + 1
 *   P^T [16 tokens][8 queries]  = exp2(S^T - m)                 (g = lane / 4, t = lane % 4)
 *   O^T [16 dims][8 queries]   += V^T [16][16 tokens] P^T       a lane holds dims g, g + 8 and the same two queries
 *
 * The sum over dims of the first product may run in any order, and so may the rows of O^T: they are numbered such that a lane's
 * part of a row is consecutive memory. Rounded: queries to the unit's type (f16; bf16 for a bf16 cache), P likewise, codes times
 * their token's scale to f16.
 *
 * Build options: KEY_DIM = VALUE_DIM, a multiple of 16 up to 256 (of 64 for q4); KEY_TYPE = VALUE_TYPE 1 (f16), 30 (bf16), 8 (q8)
 * or 2 (q4); GROUP query heads a key/value head; N query tokens, N GROUP <= 16; FUSED: the last group of a head merges all parts,
 * and out is finished; GAP: tokens from gap_from on lie gap rows further on; WARPS (even) and SUB, 16-token steps a turn;
 * MOST_SPLITS. Cache: rows of KEY_DIM numbers, padded to 32 for codes; q4 byte b of a group of 32: number b in the low nibble, b
 * + 16 in the high one.
 *
 * Fastest where the device has one group a compute unit: with a group more on some, those finish late, and each part costs the
 * merge.
 */

#if !defined(CHAIN) || defined(KEY_TYPE) /* a chain may be without attention */
#if defined(CHAIN) && defined(UNIT_FUNCTIONS) /* what came before multiplied weights */
#undef multiply
#undef pair
#if KEY_TYPE == 30
#define multiply multiply_bf16
#define pair     pair_bf16
#else
#define multiply multiply_f16
#define pair     pair_f16
#endif
#endif
#ifndef N
#define N 1
#endif
#ifndef WARPS
#define WARPS 8
#endif
#ifndef SUB
#define SUB (KEY_TYPE == 1 || KEY_TYPE == 30 || KEY_DIM > 128 ? 1 : 2)
#endif
#ifndef MOST_SPLITS
#define MOST_SPLITS 160
#endif
#define R (N * GROUP)
#if KEY_DIM % 16 || KEY_DIM > 256 || KEY_DIM != VALUE_DIM || KEY_TYPE != VALUE_TYPE || R > 16
#error "not a shape of this kernel"
#endif

#if KEY_TYPE == 8 || KEY_TYPE == 2
#define QUANT  1
#define D      ((KEY_DIM + 31) / 32 * 32) /* numbers of a row */
#define GROUPS (D / 32)
#else
#define D KEY_DIM
#endif
#if KEY_TYPE == 2 && D % 64
#error "rows of q4 are of whole groups of 64"
#endif

#define LOG2E 1.44269504f
#define NT    ((R + 7) / 8) /* tiles of 8 queries */
#define MT    (D / 16)      /* tiles of 16 dimensions */

/* Bytes of a row, and how a lane's loads cut it: of a key, quad lane t has KEY_LOAD bytes at t * KEY_LOAD of every KEY_LOAD * 4;
 * of a value, lane g of 8 has VALUE_LOAD bytes at g * VALUE_LOAD of every VALUE_LOAD * 8. */
#if KEY_TYPE == 8
#define ROW_BYTES D
#define KEY_LOAD  8
#elif KEY_TYPE == 2
#define ROW_BYTES (D / 2)
#define KEY_LOAD  (D % 128 ? 8 : 16)
#else
#define ROW_BYTES (D * 2)
#define KEY_LOAD  (D % 32 ? 8 : 16)
#endif
#define VALUE_LOAD  (ROW_BYTES % 128 == 0 ? 16 : ROW_BYTES % 64 == 0 ? 8 : 4)
#define KEY_WORDS   (ROW_BYTES / 16) /* 32-bit words a lane has of a row, of both */
#define VALUE_WORDS (ROW_BYTES / 32)

/* Nibbles likewise, nibble n with n + 4: 64 + nibble for n = 1, 16 + nibble for the others. */
static inline void nibble_pairs(uint eight, uint pairs[4]) {
    pairs[0] = ((eight << 6) & 0x03c003c0u) | 0x4c004c00u;
    pairs[1] = (eight & 0x00f000f0u) | 0x54005400u;
    pairs[2] = ((eight >> 2) & 0x03c003c0u) | 0x4c004c00u;
    pairs[3] = ((eight >> 6) & 0x03c003c0u) | 0x4c004c00u;
}
#define NIBBLE_OFFSET(n) ((n) == 1 ? 72.0f : 24.0f) /* what a nibble's half is above its value */

/* What a lane has of 16 tokens: keys g and g + 8, values 2t, 2t + 1, 2t + 8, 2t + 9. Scales are per group of 32 for q8 keys, per
 * load for q4 keys, and one a token for values. */
#define KEY_LOADS (ROW_BYTES / 4 / KEY_LOAD)
typedef struct {
    uint row[2][KEY_WORDS];
#ifdef QUANT
    float scale[2][KEY_LOADS];
#endif
} key_part;
typedef struct {
    uint row[4][VALUE_WORDS];
#ifdef QUANT
    float scale[2]; /* of tokens g and g + 8, where weights are multiplied with them */
#endif
} value_part;

#ifdef GAP
#define ROW_OF(token) ((token) + ((token) >= gap.x ? gap.y : 0))
#define GAP_ARGUMENT  , uint2 gap
#define GAP_PASSED    , (uint2)(gap_from, gap_rows)
#define GAP_HANDED    , gap
#else
#define ROW_OF(token) (token)
#define GAP_ARGUMENT
#define GAP_PASSED
#define GAP_HANDED
#endif

static inline void load_keys(global const uchar *keys, global const half *scales, uint first, uint last,
                             key_part *k GAP_ARGUMENT) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint token = ROW_OF(min(first + g + 8 * i, last));
        global const uchar *at = keys + (size_t)token * ROW_BYTES + t * KEY_LOAD;
#pragma unroll
        for (int j = 0; j < KEY_LOADS; j++) load(at + j * 4 * KEY_LOAD, KEY_LOAD, k->row[i] + j * KEY_LOAD / 4);
#ifdef QUANT
#pragma unroll
        for (int j = 0; j < KEY_LOADS; j++) { /* a load is within a group, or the quad's loads are one */
            uint group = KEY_TYPE == 8 ? j : (j * 4 + t) * KEY_LOAD / 16;
            k->scale[i][j] = vload_half((size_t)token * GROUPS + group, scales);
        }
#endif
    }
}

static inline void load_values(global const uchar *values, global const float *scales, uint first, uint last,
                               value_part *v GAP_ARGUMENT) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint token = ROW_OF(min(first + 2 * t + i % 2 + 8 * (i / 2), last));
        global const uchar *at = values + (size_t)token * ROW_BYTES + g * VALUE_LOAD;
#pragma unroll
        for (int j = 0; j < ROW_BYTES / 8 / VALUE_LOAD; j++)
            load(at + j * 8 * VALUE_LOAD, VALUE_LOAD, v->row[i] + j * VALUE_LOAD / 4);
    }
#ifdef QUANT
#pragma unroll
    for (int i = 0; i < 2; i++) v->scale[i] = scales[ROW_OF(min(first + g + 8 * i, last))];
#endif
}

/* The dimension of element i of a lane's four in step s of the first product. */
static inline uint key_dim(int s, int i, uint t) {
#if KEY_TYPE == 2
    uint byte = (s / 2 / (KEY_LOAD / 4) * 4 + t) * KEY_LOAD + s / 2 % (KEY_LOAD / 4) * 4;
    return byte / 16 * 32 + byte % 16 + s % 2 + i % 2 * 2 + i / 2 * 16;
#elif KEY_TYPE == 8
    return s / 2 * 32 + 8 * t + 4 * (s % 2) + i;
#else
    return KEY_LOAD == 16 ? s / 2 * 32 + 8 * t + 4 * (s % 2) + i : s * 16 + 4 * t + i;
#endif
}

/* The dimension of row g of O^T's tile i, or of row g + 8 (second = 1). */
static inline uint value_dim(int i, uint g, int second) {
    const int per = VALUE_LOAD / 4;
#if KEY_TYPE == 8
    int w = i / 2;
    return w / per * VALUE_LOAD * 8 + g * VALUE_LOAD + w % per * 4 + i % 2 * 2 + second;
#elif KEY_TYPE == 2
    int w = i / 4;
    uint byte = w / per * VALUE_LOAD * 8 + g * VALUE_LOAD + w % per * 4;
    return byte / 16 * 32 + byte % 16 + i % 4 / 2 + i % 2 * 16 + 2 * second; /* nibble i % 4 of bytes 0, 1, or of bytes 2, 3 */
#else
    return i / per * VALUE_LOAD * 4 + g * (VALUE_LOAD / 2) + i % per * 2 + second;
#endif
}

#ifdef CHAIN /* chain_nv.cl turns them itself */
#define QUERIES local
#else
#define QUERIES global
#endif

/* The queries as the operand of 8: b[n][step][2]. Row r is query head r % GROUP of token r / GROUP; tokens are ldq floats apart.
 */
static inline void load_queries(QUERIES const float *q, size_t ldq, float scale, uint b[NT][MT][2]) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int s = 0; s < MT; s++) {
            uint row = 8 * n + g;
            float x[4] = {0, 0, 0, 0};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint dim = key_dim(s, i, t);
                if (row < R && dim < KEY_DIM) x[i] = q[row / GROUP * ldq + row % GROUP * KEY_DIM + dim] * scale;
            }
            b[n][s][0] = pair(x[0], x[1]);
            b[n][s][1] = pair(x[2], x[3]);
        }
}

/* Sums of a group's rounded queries 2t and 2t + 1, times what a byte's half is above its value. */
#if KEY_TYPE == 8
static inline void sum_queries(const uint q[NT][MT][2], float first[NT][GROUPS][2]) {
    const uint ones[2] = {0x3c003c00u, 0x3c003c00u};
    /* queries are the operand of 8: a product with ones on the side of 16 sums over dimensions */
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int j = 0; j < GROUPS; j++) {
            float c[4] = {0, 0, 0, 0};
            multiply(c, ones[0], ones[0], ones[0], ones[0], q[n][2 * j]);
            multiply(c, ones[0], ones[0], ones[0], ones[0], q[n][2 * j + 1]);
            first[n][j][0] = -1152 * c[0];
            first[n][j][1] = -1152 * c[1];
        }
}
#define FIRST , const float first[NT][GROUPS][2]
#else
#define FIRST
#endif

/* s[n] = scores of 16 tokens. */
static inline void score(const key_part *k, const uint q[NT][MT][2] FIRST, float s[NT][4]) {
#pragma unroll
    for (int n = 0; n < NT; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#if KEY_TYPE == 8
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
            float c[4] = {first[n][j][0], first[n][j][1], first[n][j][0], first[n][j][1]};
            multiply(c, a[0][0], a[1][0], a[0][1], a[1][1], q[n][2 * j]);
            multiply(c, a[0][2], a[1][2], a[0][3], a[1][3], q[n][2 * j + 1]);
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] += k->scale[e / 2][j] * c[e];
        }
    }
#elif KEY_TYPE == 2
    uint f[2][KEY_LOADS], below[2][KEY_LOADS][2];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < KEY_LOADS; j++) {
            float x = k->scale[i][j];
            f[i][j] = pair(x, x);
            below[i][j][0] = pair(-NIBBLE_OFFSET(0) * x, -NIBBLE_OFFSET(0) * x);
            below[i][j][1] = pair(-NIBBLE_OFFSET(1) * x, -NIBBLE_OFFSET(1) * x);
        }
#pragma unroll
    for (int w = 0; w < KEY_WORDS; w++) {
        uint a[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            nibble_pairs(k->row[i][w], a[i]);
#pragma unroll
            for (int p = 0; p < 4; p++) a[i][p] = fma2(a[i][p], f[i][w / (KEY_LOAD / 4)], below[i][w / (KEY_LOAD / 4)][p == 1]);
        }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            multiply(s[n], a[0][0], a[1][0], a[0][1], a[1][1], q[n][2 * w]);
            multiply(s[n], a[0][2], a[1][2], a[0][3], a[1][3], q[n][2 * w + 1]);
        }
    }
#else
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int n = 0; n < NT; n++)
            multiply(s[n], k->row[0][2 * i], k->row[1][2 * i], k->row[0][2 * i + 1], k->row[1][2 * i + 1], q[n][i]);
#endif
}

/* o[n][i] += the 16 tokens' values by their weights p. Of nibbles what their halves are above their values stays in, and sums[n]
 * gets the weights' sums by which it is taken out at the end; bytes' halves are too far above for that. */
static inline void mix(const value_part *v, const uint p[NT][2], float o[NT][MT][4], float sums[NT][4]) {
#if KEY_TYPE == 2
#pragma unroll
    for (int n = 0; n < NT; n++) multiply(sums[n], 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, p[n]);
#endif
#pragma unroll
    for (int w = 0; w < VALUE_WORDS; w++) {
        const int tiles = MT / VALUE_WORDS;
        uint a[4][MT / VALUE_WORDS]; /* operand, tile */
#pragma unroll
        for (int i = 0; i < 2; i++) { /* two tokens of each dimension side by side */
#if KEY_TYPE == 8
            uint x = v->row[2 * i][w] ^ 0x80808080u, y = v->row[2 * i + 1][w] ^ 0x80808080u;
            byte_pairs(pick(x, y, 0x5140), &a[2 * i][0], &a[2 * i + 1][0]);
            byte_pairs(pick(x, y, 0x7362), &a[2 * i][1], &a[2 * i + 1][1]);
#pragma unroll
            for (int e = 0; e < 2; e++) {
                a[2 * i][e] = sub2(a[2 * i][e], 0x64806480u); /* 1024 + 128 */
                a[2 * i + 1][e] = sub2(a[2 * i + 1][e], 0x64806480u);
            }
#elif KEY_TYPE == 2
            nibble_pairs(pick(v->row[2 * i][w], v->row[2 * i + 1][w], 0x5410), a[2 * i]);
            nibble_pairs(pick(v->row[2 * i][w], v->row[2 * i + 1][w], 0x7632), a[2 * i + 1]);
#else
            a[2 * i][0] = pick(v->row[2 * i][w], v->row[2 * i + 1][w], 0x5410);
            a[2 * i + 1][0] = pick(v->row[2 * i][w], v->row[2 * i + 1][w], 0x7632);
#endif
        }
#pragma unroll
        for (int e = 0; e < tiles; e++)
#pragma unroll
            for (int n = 0; n < NT; n++) multiply(o[n][tiles * w + e], a[0][e], a[1][e], a[2][e], a[3][e], p[n]);
    }
}

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

static inline void renew(state *a, float (*s)[NT][4], float (*guard)[2]) {
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float m = a->m[n][i];
#pragma unroll
            for (int u = 0; u < SUB; u++) m = fmax(m, fmax(s[u][n][i] + guard[u][0], s[u][n][i + 2] + guard[u][1]));
            for (int l = 4; l < 32; l *= 2) m = fmax(m, lanes_xor(m, l));
            float c = native_exp2(a->m[n][i] - m);
            a->m[n][i] = m;
            a->z[n][i] *= c;
#pragma unroll
            for (int j = 0; j < MT; j++) {
                a->o[n][j][i] *= c;
                a->o[n][j][i + 2] *= c;
            }
            a->sums[n][i] *= c;
        }
}

/* s -> weights, times the tokens' scales for codes, as the operand of 8. A scale above 2 counts as a higher score would. */
static inline void weigh(state *a, float (*s)[NT][4], const value_part *v, uint p[SUB][NT][2]) {
    int rise = 0;
    float guard[SUB][2];
#pragma unroll
    for (int u = 0; u < SUB; u++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            guard[u][i] = 0;
#ifdef QUANT
            guard[u][i] = fmax(native_log2(v[u].scale[i]) - 1, 0.0f);
#endif
        }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float m = a->m[n][i] + RISE;
#pragma unroll
            for (int u = 0; u < SUB; u++) rise |= s[u][n][i] + guard[u][0] > m || s[u][n][i + 2] + guard[u][1] > m;
        }
    if (warp_any(rise)) renew(a, s, guard);
#pragma unroll
    for (int u = 0; u < SUB; u++)
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float e[4];
#pragma unroll
            for (int i = 0; i < 4; i++) e[i] = native_exp2(s[u][n][i] - (a->m[n][i % 2] - LIFT));
            a->z[n][0] += e[0] + e[2];
            a->z[n][1] += e[1] + e[3];
#ifdef QUANT
#pragma unroll
            for (int i = 0; i < 4; i++) e[i] *= v[u].scale[i / 2];
#endif
            p[u][n][0] = turn(pair(e[0], e[1]));
            p[u][n][1] = turn(pair(e[2], e[3]));
        }
}

/* Takes out of O^T what nibbles' halves are above their values. */
static inline void finish(state *a) {
#if KEY_TYPE == 2
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int j = 0; j < MT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) a->o[n][j][e] -= NIBBLE_OFFSET(j % 4) * a->sums[n][e % 2];
#endif
}

#define PART (NT * MT * 128) /* floats of O^T, lane after lane */
#define HALF (WARPS / 2)
#define SLOT (PART + 16 * NT) /* and of m and z, one after the other for each row */

static inline void put(const state *a, local float *slot) {
    uint lane = get_local_id(0) % 32, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (lane < 4) {
                slot[PART + 2 * (8 * n + 2 * t + i)] = a->m[n][i];
                slot[PART + 2 * (8 * n + 2 * t + i) + 1] = a->z[n][i];
            }
#pragma unroll
            for (int j = 0; j < MT; j++)
#pragma unroll
                for (int h = 0; h < 2; h++) slot[((n * MT + j) * 4 + 2 * h + i) * 32 + lane] = a->o[n][j][2 * h + i];
        }
}

/* The group's warps into half as many slots of local memory. */
static inline void join_warps(state *a, local float *slots) {
    uint lane = get_local_id(0) % 32, warp = get_local_id(0) / 32, t = lane % 4;
    local float *slot = slots + warp % HALF * SLOT;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            for (int l = 4; l < 32; l *= 2) a->z[n][i] += lanes_xor(a->z[n][i], l);
    if (warp >= HALF) put(a, slot);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (warp < HALF) {
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float other = slot[PART + 2 * (8 * n + 2 * t + i)], m = fmax(a->m[n][i], other);
                float mine = native_exp2(a->m[n][i] - m), theirs = native_exp2(other - m);
                a->m[n][i] = m;
                a->z[n][i] = a->z[n][i] * mine + slot[PART + 2 * (8 * n + 2 * t + i) + 1] * theirs;
#pragma unroll
                for (int j = 0; j < MT; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        a->o[n][j][2 * h + i] =
                            a->o[n][j][2 * h + i] * mine + slot[((n * MT + j) * 4 + 2 * h + i) * 32 + lane] * theirs;
            }
        lanes_meet();
        put(a, slot);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Row of O^T's float i of PART. */
static inline uint part_row(uint i) {
    return i / (MT * 128) * 8 + i % 4 * 2 + i / 32 % 2;
}
static inline uint part_dim(uint i) {
    return value_dim(i / 128 % MT, i / 4 % 8, i / 64 % 2);
}

/* Sum of the slots' floats i..i + 3, and the state of its rows; weight: local [HALF][8 NT], made by weigh_slots. */
static inline void weigh_slots(const local float *slots, local float *weight, local float2 *mz) {
    uint r = get_local_id(0);
    if (r < 8 * NT) {
        float m = EMPTY, z = 0;
        for (int w = 0; w < HALF; w++) m = fmax(m, slots[w * SLOT + PART + 2 * r]);
        for (int w = 0; w < HALF; w++) {
            float f = native_exp2(slots[w * SLOT + PART + 2 * r] - m);
            weight[w * 8 * NT + r] = f;
            z += f * slots[w * SLOT + PART + 2 * r + 1];
        }
        mz[r] = (float2)(m, z);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

#ifndef FUSED
/* The group's part as rows of [m, z, acc], m in natural units. */
static inline void store(const local float *slots, const local float *weight, const local float2 *mz, uint heads,
                         global float *partial) {
    for (uint i = get_local_id(0); i < PART; i += WARPS * 32) {
        uint r = part_row(i), dim = part_dim(i);
        if (r >= R || dim >= VALUE_DIM) continue;
        global float *row = partial + (size_t)(r / GROUP * heads + r % GROUP) * (VALUE_DIM + 2);
        float sum = 0;
        for (int w = 0; w < HALF; w++) sum += weight[w * 8 * NT + r] * slots[w * SLOT + i];
        row[2 + dim] = sum;
        if (dim == 0) {
            row[0] = mz[r].x == EMPTY ? -INFINITY : (mz[r].x - LIFT) * (1 / LOG2E);
            row[1] = mz[r].y;
        }
    }
}
#define MERGE_FLOATS 0
#else
/* The group's part as it lies in the slots: PART floats and its rows' m and z. */
static inline void store(const local float *slots, const local float *weight, const local float2 *mz, global float *part,
                         global float2 *part_mz) {
    for (uint i = get_local_id(0) * 4; i < PART; i += WARPS * 128) {
        float4 sum = 0;
        uint r = part_row(i);
        for (int w = 0; w < HALF; w++) {
            const local float *f = weight + w * 8 * NT + r;
            sum += (float4)(f[0], f[2], f[4], f[6]) * *(const local float4 *)(slots + w * SLOT + i);
        }
        *(global float4 *)(part + i) = sum;
    }
    if (get_local_id(0) < 8 * NT) part_mz[get_local_id(0)] = mz[get_local_id(0)];
}

/* All parts of this head -> out. As many loads as fit are under way at once: this is what every launch waits for at its end.
 * mz, inverse: local [splits][8 NT] and [8 NT]. */
#ifdef CHAIN
#define RUN 8 /* fewer registers */
#else
#define RUN 34
#endif
static inline void merge(uint splits, global const float *parts, global const float2 *parts_mz, uint heads, local float2 *mz,
                         local float *inverse, global float *out) {
    uint id = get_local_id(0), lane = id % 32;
    float4 x[RUN];
    if (id * 4 < PART)
#pragma unroll
        for (int u = 0; u < RUN; u++)
            if (u < splits) x[u] = fresh4(parts + (size_t)u * PART + id * 4);
    for (uint i = id; i < splits * 8 * NT; i += WARPS * 32) mz[i] = fresh2(parts_mz + i);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint r = id / 32; r < 8 * NT; r += WARPS) { /* a warp a row: m -> the part's weight */
        float m = EMPTY, z = 0;
        for (uint s = lane; s < splits; s += 32) m = fmax(m, mz[s * 8 * NT + r].x);
        for (int l = 1; l < 32; l *= 2) m = fmax(m, lanes_xor(m, l));
        for (uint s = lane; s < splits; s += 32) {
            float2 part = mz[s * 8 * NT + r];
            float f = native_exp2(part.x - m);
            z += f * part.y;
            mz[s * 8 * NT + r].x = f;
        }
        for (int l = 1; l < 32; l *= 2) z += lanes_xor(z, l);
        if (lane == 0) inverse[r] = z > 0 ? 1 / z : z; /* no key at all: zero; NaN stays */
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = id * 4; i < PART; i += WARPS * 128) {
        float4 sum = 0;
        uint r = part_row(i);
        for (uint s = 0; s < splits; s += RUN) {
            if (s || i != id * 4)
#pragma unroll
                for (int u = 0; u < RUN; u++)
                    if (s + u < splits) x[u] = fresh4(parts + (size_t)(s + u) * PART + i);
#pragma unroll
            for (int u = 0; u < RUN; u++)
                if (s + u < splits) {
                    const local float2 *f = mz + (s + u) * 8 * NT + r;
                    sum += (float4)(f[0].x, f[2].x, f[4].x, f[6].x) * x[u];
                }
        }
        uint dim = part_dim(i);
        float part[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint row = r + 2 * k;
            if (row < R && dim < VALUE_DIM)
                out[(size_t)(row / GROUP * heads + row % GROUP) * VALUE_DIM + dim] = part[k] * inverse[row];
        }
    }
}
#define MERGE_FLOATS (MOST_SPLITS * 16 * NT + 8 * NT)
#endif

#define JOIN_FLOATS  (HALF * (SLOT + 8 * NT) + 16 * NT)
#define LOCAL_FLOATS (JOIN_FLOATS > MERGE_FLOATS ? JOIN_FLOATS : MERGE_FLOATS)

/* Scores of keys that a row does not see: beyond its position, before its window, beyond the split. */
static inline void mask(uint at, uint end, int first, int window, float (*s)[NT][4]) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int u = 0; u < SUB; u++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint token = at + u * 16 + g + 8 * (e / 2);
                int position = first + (8 * n + 2 * t + e % 2) / GROUP;
                if (token >= end || (int)token > position || (window && (int)token <= position - window)) s[u][n][e] = -INFINITY;
            }
}

/* One group's part: positions begin..end - 1, of which a row sees those up to its own and within the window. scales: of codes. q:
 * the first token's, ldq floats before the next one's. */
static inline void attend_keys(global const uchar *keys, global const half *key_scales, global const uchar *values,
                               global const float *value_scales, uint begin, uint end, int first, int window,
                               QUERIES const float *q, size_t ldq, float scale, state *a GAP_ARGUMENT) {
    uint warp = get_local_id(0) / 32, last = end - 1;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            a->m[n][i] = EMPTY;
            a->z[n][i] = 0;
#pragma unroll
            for (int j = 0; j < MT; j++) a->o[n][j][i] = a->o[n][j][i + 2] = 0;
            a->sums[n][i] = a->sums[n][i + 2] = 0;
        }
    const uint step = WARPS * 16 * SUB;
    key_part k[SUB];
    value_part v[SUB];
    uint at = begin + warp * 16 * SUB;
#pragma unroll
    for (int u = 0; u < SUB; u++) load_keys(keys, key_scales, at + u * 16, last, &k[u] GAP_HANDED);
#pragma unroll
    for (int u = 0; u < SUB; u++) load_values(values, value_scales, at + u * 16, last, &v[u] GAP_HANDED);
    uint queries[NT][MT][2];
    load_queries(q, ldq, scale * LOG2E, queries);
#if KEY_TYPE == 8
    float sums[NT][GROUPS][2];
    sum_queries(queries, sums);
#endif
    for (; at < end; at += step) {
        float s[SUB][NT][4];
        uint p[SUB][NT][2];
#pragma unroll
        for (int u = 0; u < SUB; u++)
#if KEY_TYPE == 8
            score(&k[u], queries, sums, s[u]);
#else
            score(&k[u], queries, s[u]);
#endif
#pragma unroll
        for (int u = 0; u < SUB; u++) load_keys(keys, key_scales, at + step + u * 16, last, &k[u] GAP_HANDED);
        if (at + SUB * 16 > end || (int)(at + SUB * 16) > first + 1 || (window && (int)at <= first + N - 1 - window))
            mask(at, end, first, window, s);
        weigh(a, s, v, p);
#pragma unroll
        for (int u = 0; u < SUB; u++) {
            mix(&v[u], p[u], a->o, a->sums);
            load_values(values, value_scales, at + step + u * 16, last, &v[u] GAP_HANDED);
        }
    }
    finish(a);
}

#ifndef CHAIN
/* q: float [n][heads][KEY_DIM], heads = kv_heads GROUP, tokens at positions first..first + n - 1 (n is N). keys, values: byte
 * offsets of [kv_heads][capacity] rows; key_scales_at: half [kv_heads][capacity][groups of 32], value_scales_at: float
 * [kv_heads][capacity], in the same buffers. Positions key_from..key_to - 1 are read, key_from + split * split_keys.. by split;
 * window 0: none. Global size {splits * WARPS * 32, kv_heads}, no split empty. partial: FUSED: room for kv_heads splits 8 ceil(N
 * GROUP / 8) (D + 2) floats, 16-byte aligned, splits <= MOST_SPLITS; else [splits][n heads][VALUE_DIM + 2]: m, z, acc. counters:
 * kv_heads zeros, and zeros again afterwards. out: float [n][heads][VALUE_DIM]. */
kernel __attribute__((reqd_work_group_size(WARPS * 32, 1, 1))) void
#ifdef FUSED
attend_decode_fused(
#else
attend_decode(
#endif
    global const float *q, ulong q_at, global const uchar *keys, ulong keys_at, ulong key_scales_at, global const uchar *values,
    ulong values_at, ulong value_scales_at, int capacity, int key_from, int key_to, int first, int n_tokens, int window,
    float scale, int split_keys, global float *partial, ulong partial_at, int first_split
#ifdef GAP
    ,
    uint gap_from, int gap_rows
#endif
#ifdef FUSED
    ,
    global uint *counters, ulong counters_at, global float *out, ulong out_at
#endif
) {
    local float shared[LOCAL_FLOATS] __attribute__((aligned(16)));
    uint head = get_group_id(1), split = get_group_id(0), heads = get_num_groups(1) * GROUP;
    size_t before = (size_t)head * capacity;
    global const half *key_scales = 0;
    global const float *value_scales = 0;
#ifdef QUANT
    key_scales = (global const half *)(keys + key_scales_at) + before * GROUPS;
    value_scales = (global const float *)(values + value_scales_at) + before;
#endif
    keys += keys_at + before * ROW_BYTES;
    values += values_at + before * ROW_BYTES;
    state a;
    uint begin = key_from + split * split_keys, end = min(begin + (uint)split_keys, (uint)key_to);
    attend_keys(keys, key_scales, values, value_scales, begin, end, first, window, q + q_at + head * GROUP * KEY_DIM,
                heads * KEY_DIM, scale, &a GAP_PASSED);
    join_warps(&a, shared);
    local float *weight = shared + HALF * SLOT;
    local float2 *mz = (local float2 *)(weight + HALF * 8 * NT);
    weigh_slots(shared, weight, mz);
#ifdef FUSED
    /* parts lie as [kv_heads][splits][PART], then [kv_heads][splits][8 NT] float2 */
    local uint last_flag;
    uint splits = get_num_groups(0);
    global float *parts = partial + partial_at + (size_t)head * splits * PART;
    global float2 *parts_mz =
        (global float2 *)(partial + partial_at + (size_t)get_num_groups(1) * splits * PART) + (size_t)head * splits * 8 * NT;
    store(shared, weight, mz, parts + (size_t)split * PART, parts_mz + split * 8 * NT);
    if (arrive(counters + counters_at + head, splits, &last_flag))
        merge(splits, parts, parts_mz, heads, (local float2 *)shared, shared + splits * 16 * NT,
              out + out_at + head * GROUP * VALUE_DIM);
#else
    store(shared, weight, mz, heads,
          partial + partial_at + (size_t)head * GROUP * (VALUE_DIM + 2) +
              (first_split + split) * ((size_t)N * heads * (VALUE_DIM + 2)));
#endif
}
#endif
#endif
