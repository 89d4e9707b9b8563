/* attend_products, NVIDIA - queries as an operand of the matrix unit, and both products of attention on it.
 *
 * Both have cache rows (attend_rows) as their operand of 16 and the queries as the one of 8, so that grouped heads cost no more
 * than one:
 *
 *   S^T [16 tokens][8 queries] += K [16][16 dims] Q^T           a lane holds tokens g, g + 8 and queries 2t, 2t + 1
 *   P^T [16 tokens][8 queries]  = exp2(S^T - m)
 *   O^T [16 dims][8 queries]   += V^T [16][16 tokens] P^T       a lane holds dims g, g + 8 and the same two queries
 *
 * Rounded: queries to the unit's type (f16; bf16 for a bf16 cache), P likewise, codes times their token's scale to f16.
 *
 * Build options: those of attend_rows; TURNED: rows are turned and queries are not yet. */
#if !defined(CHAIN) || defined(KEY_TYPE)

/* ---- queries: row r is query head r % GROUP of token r / GROUP ---- */

/* Floats from row to row in local memory, where rows and lanes of a quad have banks of their own; numbers of a row that a lane
 * has; rows that a warp has. */
#define QUERY_LD     (KEY_DIM + 4)
#define LANE_NUMBERS ((KEY_DIM + 31) / 32)
#define WARP_QUERIES ((R + WARPS - 1) / WARPS)

#ifdef TURNED
/* A row across the warp, number lane + 32 i in x[i], turned as simd/cache.h's mka_hadamard does. */
#define TURN (KEY_DIM & -KEY_DIM)
static inline void turn_row(float x[LANE_NUMBERS]) {
    uint lane = get_local_id(0) % 32;
#pragma unroll
    for (int step = 1; step < 32; step *= 2)
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++) {
            float other = lanes_xor(x[i], step);
            x[i] = lane & step ? other - x[i] : x[i] + other;
        }
#pragma unroll
    for (int step = 1; step < TURN / 32; step *= 2)
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++) {
            if (i & step) continue;
            float first = x[i], second = x[i + step];
            x[i] = first + second;
            x[i + step] = first - second;
        }
#pragma unroll
    for (int i = 0; i < LANE_NUMBERS; i++) x[i] *= 1 / sqrt((float)TURN);
}
#endif

#ifndef CHAIN
/* A warp's share of the rows; tokens are ldq floats apart. No branch: what is of no use is read again. */
static inline void fetch_queries(global const float *q, size_t ldq, float x[WARP_QUERIES][LANE_NUMBERS]) {
    uint lane = get_local_id(0) % 32, warp = get_local_id(0) / 32;
#pragma unroll
    for (int k = 0; k < WARP_QUERIES; k++) {
        uint row = min(warp + k * WARPS, (uint)(R - 1));
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++)
            x[k][i] = fresh(q + row / GROUP * ldq + row % GROUP * KEY_DIM + min(lane + 32 * i, (uint)(KEY_DIM - 1)));
    }
}

/* To rows: local [R][QUERY_LD]; TURNED: turned, as the rows of the cache are. */
static inline void stage_queries(float x[WARP_QUERIES][LANE_NUMBERS], local float *rows) {
    uint lane = get_local_id(0) % 32, warp = get_local_id(0) / 32;
#pragma unroll
    for (int k = 0; k < WARP_QUERIES; k++) {
#ifdef TURNED
        turn_row(x[k]);
#endif
#pragma unroll
        for (int i = 0; i < LANE_NUMBERS; i++)
            if (warp + k * WARPS < R && lane + 32 * i < KEY_DIM) rows[(warp + k * WARPS) * QUERY_LD + lane + 32 * i] = x[k][i];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}
#endif

/* The rows, ld floats apart, as the operand of 8: b[n][step][2]. What a tile has beyond them is the last one again. */
static inline void take_queries(const local float *rows, uint ld, float scale, uint b[NT][MT][2]) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int s = 0; s < MT; s++) {
            const local float *row = rows + min(8 * n + g, (uint)(R - 1)) * ld;
            float x[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint dim = key_dim(s, i, t);
                x[i] = D == KEY_DIM || dim < KEY_DIM ? row[dim] * scale : 0;
            }
            b[n][s][0] = pair(x[0], x[1]);
            b[n][s][1] = pair(x[2], x[3]);
        }
}

/* ---- products ---- */

/* Eight nibbles to pairs of halves by an exponent over them, as byte_pairs does, nibble n with n + 4: 64 + nibble for n = 1, 16 +
 * nibble for the others. */
static inline void nibble_pairs(uint eight, uint pairs[4]) {
    pairs[0] = ((eight << 6) & 0x03c003c0u) | 0x4c004c00u;
    pairs[1] = (eight & 0x00f000f0u) | 0x54005400u;
    pairs[2] = ((eight >> 2) & 0x03c003c0u) | 0x4c004c00u;
    pairs[3] = ((eight >> 6) & 0x03c003c0u) | 0x4c004c00u;
}
#define NIBBLE_OFFSET(n) ((n) == 1 ? 72.0f : 24.0f) /* what a nibble's half is above its value */

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
        float scale[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float low, high;
            halves(k->scale[i][j / PAIRED], &low, &high);
            scale[i] = j % PAIRED ? high : low;
            byte_pairs(k->row[i][2 * j] ^ 0x80808080u, &a[i][0], &a[i][1]);
            byte_pairs(k->row[i][2 * j + 1] ^ 0x80808080u, &a[i][2], &a[i][3]);
        }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float c[4] = {first[n][j][0], first[n][j][1], first[n][j][0], first[n][j][1]};
            multiply(c, a[0][0], a[1][0], a[0][1], a[1][1], q[n][2 * j]);
            multiply(c, a[0][2], a[1][2], a[0][3], a[1][3], q[n][2 * j + 1]);
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] += scale[e / 2] * c[e];
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
#endif
