/* avx512vnni_cache - attention over cache tiles with the dot products of AVX-512: bf16 pairs (VDPBF16PS) and quads of 8 bits
 * (VPDPBUSD). F32 and F16 keep the float32 kernels of the level below.
 *
 * A line of a tile is an operand as it lies in memory: 16 lanes of 2 or 4 numbers, multiplied by a broadcast pair or quad of the
 * other side. So that side is rounded first: to bf16, or to 8 bits (see kernels.h for what that costs). Up to ROWS query rows are
 * worked on together, and every line is loaded once for them. What lies a little further on in memory is asked for meanwhile.
 *
 * The inner loops are unrolled by hand where gcc would else move every sum from register to register and back. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "levels.h"
#include "x86/vnni_cache.h"

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 8, SPAN = 256, AHEAD = 8192, MOST_GROUPS = MKA_MOST_DIM / MKA_KEY_GROUP };

/* Calls CALL(R, row) for passes of at most ROWS rows, as equal as they can be, with R a constant. */
#define CASE(R, CALL)                                                                                                            \
    case R:                                                                                                                      \
        CALL(R, row_);                                                                                                           \
        break;
#define ROW_PASSES(r, CALL)                                                                                                      \
    for (int passes_ = ((r) + ROWS - 1) / ROWS, row_ = 0; passes_ > 0; passes_--) {                                              \
        int rows_ = ((r)-row_ + passes_ - 1) / passes_;                                                                          \
        switch (rows_) {                                                                                                         \
            CASE(1, CALL) CASE(2, CALL) CASE(3, CALL) CASE(4, CALL) CASE(5, CALL) CASE(6, CALL) CASE(7, CALL) CASE(8, CALL)      \
        }                                                                                                                        \
        row_ += rows_;                                                                                                           \
    }

INLINE __mmask16 some(int n) {
    return n >= 16 ? (__mmask16)0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1u);
}

/* Asks for the lines that lie AHEAD bytes further on, some at once: 8 at most, as a CPU may drop what it is asked for in longer
 * bursts. Lines are asked for in the order of memory, whatever the order they are worked on in: out of order, memory gives a
 * third less. */
INLINE void ask(const char **next, int lines) {
#pragma GCC unroll 32
    for (int i = 0; i < lines; i++) _mm_prefetch(*next + 64 * i, _MM_HINT_T0);
    *next += 64 * lines;
}

INLINE __m512bh line_bf16(const char *p) {
    return (__m512bh)_mm512_load_si512(p);
}

/* ---- bf16 ---- */

/* n floats to bf16, with zeros up to the next multiple of 32. */
static void round_bf16(int n, const float *x, uint16_t *y) {
    for (int i = 0; i < n; i += 32) {
        __m512 low = _mm512_maskz_loadu_ps(some(n - i), x + i), high = _mm512_maskz_loadu_ps(some(n - i - 16), x + i + 16);
        _mm512_storeu_si512(y + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

INLINE __m512bh pair(const uint16_t *p) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}

/* Two numbers, from e on, of R rows against H halves. */
INLINE void score_line_bf16(int R, int H, const uint16_t *q, int ldq, int e, const char *line, ptrdiff_t half, __m512 (*acc)[2]) {
    __m512bh key[2];
    for (int h = 0; h < H; h++) key[h] = line_bf16(line + h * half);
    for (int i = 0; i < R; i++) {
        __m512bh x = pair(q + (ptrdiff_t)i * ldq + e);
        for (int h = 0; h < H; h++) acc[i][h] = _mm512_dpbf16_ps(acc[i][h], key[h], x);
    }
}

/* R rows against the H halves that follow each other from lines. q [R][ldq] in bf16. */
INLINE void score_halves_bf16(int R, int H, int d, const uint16_t *q, int ldq, const char *lines, ptrdiff_t half,
                              const char **next, float factor, float *s, int lds) {
    __m512 acc[ROWS][2];
    for (int i = 0; i < R; i++)
        for (int h = 0; h < H; h++) acc[i][h] = _mm512_setzero_ps();
    int e = 0;
    for (; e + 8 <= d; e += 8, lines += 256) {
        ask(next, 4 * H);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) score_line_bf16(R, H, q, ldq, e + 2 * k, lines + 64 * k, half, acc);
    }
    for (; e < d; e += 2, lines += 64) score_line_bf16(R, H, q, ldq, e, lines, half, acc);
    for (int i = 0; i < R; i++)
        for (int h = 0; h < H; h++)
            _mm512_storeu_ps(s + (ptrdiff_t)i * lds + 16 * h, _mm512_mul_ps(acc[i][h], _mm512_set1_ps(factor)));
}

INLINE void score_rows_bf16(int R, int d, int n, const float *q, const char *keys, float factor, float *s, int lds) {
    uint16_t rounded[ROWS * (MKA_MOST_DIM + 32)];
    int ldq = mka_pad(d, 32);
    ptrdiff_t tile = (ptrdiff_t)mka_key_tile_bytes(MKA_BF16, d), half = tile / 2;
    const char *next = keys + AHEAD;
    for (int i = 0; i < R; i++) round_bf16(d, q + (ptrdiff_t)i * d, rounded + (ptrdiff_t)i * ldq);
    for (int t = 0; t < n; t += MKA_TILE, keys += tile) {
        if (n - t > MKA_HALF)
            score_halves_bf16(R, 2, d, rounded, ldq, keys, half, &next, factor, s + t, lds);
        else
            score_halves_bf16(R, 1, d, rounded, ldq, keys, half, &next, factor, s + t, lds);
    }
}

void mka_avx512vnni_score_bf16(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds){
#define SCORE_BF16(R, row) score_rows_bf16(R, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
    ROW_PASSES(r, SCORE_BF16)}

/* Loads and stores of a row's accumulators for B blocks of 16 dimensions, the last of which may not be whole. */
INLINE __m512 load_acc(const float *acc, int left, __m512 factor) {
    return _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(some(left), acc));
}

/* n tokens of a tile (weights w [R][ldw] in bf16, zeros up to a multiple of 32) into B blocks of 16 dimensions from dimension e.
 */
INLINE void mix_blocks_bf16(int R, int B, int d, int n, const uint16_t *w, int ldw, const char *lines, const char **next, int e,
                            const float *c, float *acc) {
    __m512 sum[ROWS][2];
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++)
            sum[i][b] = load_acc(acc + (ptrdiff_t)i * d + e + 16 * b, d - e - 16 * b, _mm512_set1_ps(c[i]));
    int pairs = n < MKA_TILE ? (n + 1) / 2 : MKA_TILE / 2;
    for (int p = 0; p < pairs; p++) {
        __m512bh value[2];
        for (int b = 0; b < B; b++) value[b] = line_bf16(lines + 1024 * b + 64 * p);
        if (p % 4 == 0) ask(next, 4 * B);
        for (int i = 0; i < R; i++) {
            __m512bh x = pair(w + (ptrdiff_t)i * ldw + 2 * p);
            for (int b = 0; b < B; b++) sum[i][b] = _mm512_dpbf16_ps(sum[i][b], value[b], x);
        }
    }
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++) _mm512_mask_storeu_ps(acc + (ptrdiff_t)i * d + e + 16 * b, some(d - e - 16 * b), sum[i][b]);
}

/* Tile by tile, so that memory is worked on in its order; the sums go in and out of registers for it, which costs nothing beside
 * the products. */
INLINE void mix_rows_bf16(int R, int d, int n, const float *s, int lds, const char *values, const float *c, float *acc) {
    static const float ones[ROWS] = {1, 1, 1, 1, 1, 1, 1, 1};
    uint16_t w[ROWS * SPAN];
    ptrdiff_t tile = (ptrdiff_t)mka_value_tile_bytes(MKA_BF16, d);
    const char *next = values + AHEAD;
    for (int t = 0; t < n; t += MKA_TILE, values += tile) {
        int e = 0;
        const float *factor = t == 0 ? c : ones;
        const uint16_t *now = w + t % SPAN;
        for (int i = 0; i < R && t % SPAN == 0; i++)
            round_bf16(n - t < SPAN ? n - t : SPAN, s + (ptrdiff_t)i * lds + t, w + i * SPAN);
        for (; e + 16 < d; e += 32) mix_blocks_bf16(R, 2, d, n - t, now, SPAN, values + e * 64, &next, e, factor, acc);
        if (e < d) mix_blocks_bf16(R, 1, d, n - t, now, SPAN, values + e * 64, &next, e, factor, acc);
    }
}

void mka_avx512vnni_mix_bf16(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
#define MIX_BF16(R, row) mix_rows_bf16(R, d, n, s + (ptrdiff_t)(row)*lds, lds, values, c + (row), acc + (ptrdiff_t)(row)*d)
    if (n <= 0) return;
    ROW_PASSES(r, MIX_BF16)
}

/* ---- 8 and 4 bits: scores ---- */

/* A query row in 8 bits: its numbers, and for each group of 32 the scale and what all of it is multiplied by the keys' offset. */
typedef struct {
    int8_t q[MKA_MOST_DIM + MKA_KEY_GROUP];
    float scale[MOST_GROUPS + 1];
    int32_t offset[MOST_GROUPS + 1];
} query;

static void round_query(int d, const float *x, int zero, float factor, query *out) {
    for (int g = 0; g * MKA_KEY_GROUP < d; g++) {
        const float *p = x + g * MKA_KEY_GROUP;
        int left = d - g * MKA_KEY_GROUP;
        __m512 low = _mm512_maskz_loadu_ps(some(left), p), high = _mm512_maskz_loadu_ps(some(left - 16), p + 16);
        float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0);
        __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)), b = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        _mm_storeu_si128((__m128i *)(void *)(out->q + g * MKA_KEY_GROUP), _mm512_cvtsepi32_epi8(a));
        _mm_storeu_si128((__m128i *)(void *)(out->q + g * MKA_KEY_GROUP + 16), _mm512_cvtsepi32_epi8(b));
        out->scale[g] = factor * most / 127.0f;
        out->offset[g] = -zero * _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
    }
}

INLINE __m512i quad(const void *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Adds one group of 32 numbers, in integers, to a tile's scores. 8 bits: sums of all groups stay in registers. 4 bits need the
 * registers for their nibbles, and the sums are in s. */
INLINE void add_group(int R, int H, int bits, int g, const query *q, const char *scales, ptrdiff_t scale_half, __m512i (*acc)[2],
                      __m512 (*sum)[2], float *s, int lds) {
    for (int h = 0; h < H; h++) {
        __m512 scale = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)(scales + h * scale_half)));
        for (int i = 0; i < R; i++) {
            float *p = s + (ptrdiff_t)i * lds + 16 * h;
            __m512 old = bits == 8 ? sum[i][h] : g == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(p);
            __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(q[i].scale[g]));
            __m512 now = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][h]), factor, old);
            if (bits == 8)
                sum[i][h] = now;
            else
                _mm512_storeu_ps(p, now);
        }
    }
}

/* R rows against the H halves of a tile, group by group. bits: 8 or 4. */
INLINE void score_tile_quant(int R, int H, int bits, const query *q, int groups, const char *lines, const char **next, float *s,
                             int lds) {
    ptrdiff_t half = (ptrdiff_t)groups * 64 * bits, scale_half = (ptrdiff_t)groups * 32;
    const char *scales = lines + 2 * half;
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512 sum[ROWS][2];
    for (int i = 0; i < R && bits == 8; i++)
        for (int h = 0; h < H; h++) sum[i][h] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++, lines += 64 * bits, scales += 32) {
        __m512i acc[ROWS][2];
        for (int i = 0; i < R; i++)
            for (int h = 0; h < H; h++) acc[i][h] = _mm512_set1_epi32(q[i].offset[g]);
#pragma GCC unroll 8
        for (int line = 0; line < bits; line++) { /* 8 lines of 4 numbers, or 4 lines of 8 */
            __m512i key[2];
            if (line % 4 == 0) ask(next, 8);
            for (int h = 0; h < H; h++) key[h] = _mm512_load_si512(lines + h * half + 64 * line);
            for (int i = 0; i < R; i++) {
                const int8_t *x = q[i].q + g * MKA_KEY_GROUP + 32 / bits * line;
                __m512i first = quad(x);
                if (bits == 8) {
                    for (int h = 0; h < H; h++) acc[i][h] = _mm512_dpbusd_epi32(acc[i][h], key[h], first);
                } else {
                    __m512i second = quad(x + 4);
                    for (int h = 0; h < H; h++) {
                        __m512i high = _mm512_and_si512(_mm512_srli_epi16(key[h], 4), nibble);
                        acc[i][h] = _mm512_dpbusd_epi32(acc[i][h], _mm512_and_si512(key[h], nibble), first);
                        acc[i][h] = _mm512_dpbusd_epi32(acc[i][h], high, second);
                    }
                }
            }
        }
        add_group(R, H, bits, g, q, scales, scale_half, acc, sum, s, lds);
    }
    for (int i = 0; i < R && bits == 8; i++)
        for (int h = 0; h < H; h++) _mm512_storeu_ps(s + (ptrdiff_t)i * lds + 16 * h, sum[i][h]);
}

INLINE void score_rows_quant(int R, int bits, mka_type type, int d, int n, const float *q, const char *keys, float factor,
                             float *s, int lds) {
    query rounded[ROWS];
    int groups = mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP;
    ptrdiff_t tile = (ptrdiff_t)mka_key_tile_bytes(type, d);
    const char *next = keys + AHEAD;
    for (int i = 0; i < R; i++) round_query(d, q + (ptrdiff_t)i * d, bits == 8 ? 128 : 8, factor, &rounded[i]);
    for (int t = 0; t < n; t += MKA_TILE, keys += tile) {
        if (n - t > MKA_HALF)
            score_tile_quant(R, 2, bits, rounded, groups, keys, &next, s + t, lds);
        else
            score_tile_quant(R, 1, bits, rounded, groups, keys, &next, s + t, lds);
        while (next < keys + tile + AHEAD) ask(&next, 1); /* the scales */
    }
}

#define SCORE_Q8(R, row)                                                                                                         \
    score_rows_quant(R, 8, MKA_Q8_0, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
#define SCORE_Q4(R, row)                                                                                                         \
    score_rows_quant(R, 4, MKA_Q4_0, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
void mka_avx512vnni_score_q8(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    ROW_PASSES(r, SCORE_Q8)
}
static void score_q4(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    ROW_PASSES(r, SCORE_Q4)
}

/* ---- 8 and 4 bits: mixes ---- */

/* What a weight is above the most that 8 bits hold. */
typedef struct {
    float excess;
    int row, token;
} large;

/* The weights of R rows over at most SPAN tokens in 8 bits: w * scale of the token ~ unit * w8. The unit is a 255th of the row's
 * largest, or of MOST_MEANS times the mean where that is less (the mean of what is left when weights are cut off there): a few
 * large weights would round many small ones beside them to nothing. Those few, fewer than one in MOST_MEANS, are cut off, and
 * what was cut is mixed in float32. */
enum { MOST_MEANS = 16 };

typedef struct {
    uint8_t w[ROWS][SPAN];
    float unit[ROWS];
    int32_t sum[ROWS]; /* of w */
    int larges;
    large list[ROWS * SPAN];
} weights;

/* Whether memory goes on with values while weights are rounded: for the share of them that the mix, whose rows take arithmetic
 * but whose values in 8 bits still take memory longer, then does not ask for. A quarter, with ROWS rows. */
INLINE int rounding_asks(int R, int bits) {
    return bits == 8 && R > ROWS / 2;
}

/* 32 weights times scales, of which left count. */
INLINE void scale_tile(int left, const float *s, const char *scales, float *scaled, __m512 *most, __m512 *sum) {
    for (int k = 0; k < 2; k++) {
        __m512 weight = left >= MKA_TILE ? _mm512_loadu_ps(s + 16 * k) : _mm512_maskz_loadu_ps(some(left - 16 * k), s + 16 * k);
        __m512 scale = _mm512_load_ps(scales + 64 * k);
        __m512 x = left >= MKA_TILE ? _mm512_mul_ps(weight, scale) : _mm512_maskz_mul_ps(some(left - 16 * k), weight, scale);
        _mm512_storeu_ps(scaled + 16 * k, x);
        most[k] = _mm512_max_ps(most[k], x);
        sum[k] = _mm512_add_ps(sum[k], x);
    }
}

/* Weights times scales of one row into scaled, zeros up to the next multiple of 64; their sum and largest. */
INLINE float scale_weights(int asked, int n, const float *s, const char *scales, ptrdiff_t tile, const char **next, float *scaled,
                           float *largest) {
    __m512 most[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    int t = 0;
    for (; t + MKA_TILE <= n; t += MKA_TILE, scales += tile) {
        for (int i = 0; i < asked; i++) ask(next, 1);
        scale_tile(MKA_TILE, s + t, scales, scaled + t, most, sum);
    }
    if (t < n) scale_tile(n - t, s + t, scales, scaled + t, most, sum), t += MKA_TILE;
    if (t % 64) memset(scaled + t, 0, MKA_TILE * sizeof *scaled);
    *largest = _mm512_reduce_max_ps(_mm512_max_ps(most[0], most[1]));
    return _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
}

/* To whole units, 255 at most; returns their sum, which 4 bits need. */
INLINE int32_t round_row(int bits, int n, const float *scaled, float inverse, uint8_t *w) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 factor = _mm512_set1_ps(inverse);
    __m512i sum = _mm512_setzero_si512();
    for (int t = 0; t < n; t += 64) {
        __m512i x[4];
        for (int k = 0; k < 4; k++) x[k] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(scaled + t + 16 * k), factor));
        __m512i packed = _mm512_packus_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
        packed = _mm512_permutexvar_epi32(order, packed); /* packing works within quarters of the vector */
        _mm512_storeu_si512(w + t, packed);
        if (bits == 4) sum = _mm512_dpbusd_epi32(sum, packed, _mm512_set1_epi8(1));
    }
    return bits == 4 ? _mm512_reduce_add_epi32(sum) : 0;
}

/* The sum of a row's weights, each counted with limit at most. */
static float clipped_sum(int n, const float *scaled, float limit) {
    __m512 sum = _mm512_setzero_ps();
    for (int t = 0; t < n; t += 16) sum = _mm512_add_ps(sum, _mm512_min_ps(_mm512_loadu_ps(scaled + t), _mm512_set1_ps(limit)));
    return _mm512_reduce_add_ps(sum);
}

/* Lists the weights of a row above limit. */
static void list_large(int n, const float *scaled, float limit, int row, weights *w) {
    for (int t = 0; t < n; t += 16) {
        unsigned above = _mm512_cmp_ps_mask(_mm512_loadu_ps(scaled + t), _mm512_set1_ps(limit), _CMP_GT_OQ);
        for (; above; above &= above - 1) {
            int token = t + __builtin_ctz(above);
            w->list[w->larges++] = (large){scaled[token] - limit, row, token};
        }
    }
}

/* Step by step for all rows, so that no row waits for another's sums and quotients. asked: lines
 * of values to ask for with every tile of every row. */
INLINE void round_weights(int R, int bits, int asked, int n, const float *s, int lds, const char *scales, ptrdiff_t tile,
                          const char **next, weights *w) {
    float scaled[ROWS][SPAN], largest[ROWS] = {0}, sum[ROWS] = {0}, limit[ROWS], inverse[ROWS];
    for (int i = 0; i < R; i++)
        sum[i] = scale_weights(asked, n, s + (ptrdiff_t)i * lds, scales, tile, next, scaled[i], &largest[i]);
    for (int i = 0; i < ROWS; i++) {
        int good = sum[i] < INFINITY; /* or else the unit is what makes the result no number either */
        limit[i] = MOST_MEANS * sum[i] / (float)n;
        if (good && largest[i] > limit[i]) limit[i] = MOST_MEANS * clipped_sum(n, scaled[i], limit[i]) / (float)n;
        w->unit[i] = good ? (largest[i] < limit[i] ? largest[i] : limit[i]) / 255.0f : sum[i];
        inverse[i] = good && w->unit[i] > 0 ? 1.0f / w->unit[i] : 0;
    }
    w->larges = 0;
    for (int i = 0; i < R; i++) {
        w->sum[i] = round_row(bits, n, scaled[i], inverse[i], w->w[i]);
        if (largest[i] > limit[i]) list_large(n, scaled[i], limit[i], i, w);
    }
}

/* Adds what was cut off the large weights, token by token. */
static void mix_large(int bits, int d, const weights *w, const char *values, ptrdiff_t tile, float *acc) {
    for (const large *l = w->list; l < w->list + w->larges; l++) {
        const char *line = values + l->token / MKA_TILE * tile + l->token % MKA_TILE / 4 * 64;
        const __m128i up = _mm_cvtsi32_si128(24 - 8 * (l->token % 4)); /* the token's byte becomes the highest */
        float *row = acc + (ptrdiff_t)l->row * d;
        for (int e = 0; e < d; e += 16) {
            __m512i x = _mm512_sll_epi32(_mm512_load_si512(line + e / (bits == 8 ? 16 : 32) * 512), up);
            if (bits == 8)
                x = _mm512_srai_epi32(x, 24);
            else
                x = _mm512_sub_epi32(_mm512_and_si512(_mm512_srli_epi32(x, 24 + e % 32 / 4), _mm512_set1_epi32(15)),
                                     _mm512_set1_epi32(8));
            __m512 old = _mm512_maskz_loadu_ps(some(d - e), row + e);
            _mm512_mask_storeu_ps(row + e, some(d - e), _mm512_fmadd_ps(_mm512_set1_ps(l->excess), _mm512_cvtepi32_ps(x), old));
        }
    }
}

/* Weights t..stop - 1 into B blocks of 16 dimensions, sums [R][d]; at t = 0 anew. Slots without a token have weight 0. */
INLINE void mix_blocks_quant(int R, int B, int bits, int d, const weights *w, int t, int stop, const char *lines, ptrdiff_t tile,
                             const char **next, int32_t *sums) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i sum[ROWS][2];
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++)
            sum[i][b] = t == 0 ? _mm512_set1_epi32(bits == 4 ? -8 * w->sum[i] : 0) : _mm512_load_si512(sums + i * d + 16 * b);
    for (; t < stop; t += MKA_TILE, lines += tile) {
#pragma GCC unroll 8
        for (int k = 0; k < MKA_TILE / 4; k++) {
            __m512i value[2];
            if (k % 4 == 0) ask(next, bits == 4 ? 4 : rounding_asks(R, bits) ? 3 * B : 4 * B);
            value[0] = _mm512_load_si512(lines + 64 * k);
            if (bits == 4) {
                value[1] = _mm512_and_si512(_mm512_srli_epi16(value[0], 4), nibble);
                value[0] = _mm512_and_si512(value[0], nibble);
            } else if (B == 2) {
                value[1] = _mm512_load_si512(lines + 512 + 64 * k);
            }
            for (int i = 0; i < R; i++) {
                __m512i x = quad(w->w[i] + t + 4 * k);
                for (int b = 0; b < B; b++) sum[i][b] = _mm512_dpbusd_epi32(sum[i][b], x, value[b]);
            }
        }
    }
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++) _mm512_store_si512(sums + i * d + 16 * b, sum[i][b]);
}

/* acc <- c acc + unit sums */
INLINE void add_sums(int R, int d, const weights *w, const int32_t *sums, int ldsums, const float *c, float *acc) {
    for (int i = 0; i < R; i++)
        for (int e = 0; e < d; e += 16) {
            float *p = acc + (ptrdiff_t)i * d + e;
            __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + i * ldsums + e));
            __m512 old = _mm512_mul_ps(_mm512_set1_ps(c[i]), _mm512_maskz_loadu_ps(some(d - e), p));
            _mm512_mask_storeu_ps(p, some(d - e), _mm512_fmadd_ps(sum, _mm512_set1_ps(w->unit[i]), old));
        }
}

/* 8 bits: tile by tile, so that memory is worked on in its order. 4 bits wait for arithmetic: two tiles at a time, so that the
 * sums go less often in and out of registers. */
INLINE void mix_rows_quant(int R, int bits, mka_type type, int d, int n, const float *s, int lds, const char *values,
                           const float *c, float *acc) {
    static const float ones[ROWS] = {1, 1, 1, 1, 1, 1, 1, 1};
    weights w;
    _Alignas(64) int32_t sums[ROWS * (MKA_MOST_DIM + 32)];
    int padded = mka_pad(d, 16) + 16, block = bits == 8 ? 512 : 256;
    int run = bits == 8 ? MKA_TILE : 2 * MKA_TILE;
    ptrdiff_t tile = (ptrdiff_t)mka_value_tile_bytes(type, d), scales = tile - (ptrdiff_t)(MKA_TILE * sizeof(float));
    for (int from = 0; from < n; from += SPAN) {
        int count = n - from < SPAN ? n - from : SPAN;
        const char *span = values + from / MKA_TILE * tile, *lines = span, *next = span + AHEAD;
        round_weights(R, bits, rounding_asks(R, bits) ? d / 64 : 0, count, s + from, lds, span + scales, tile, &next, &w);
        for (int t = 0; t < count; t += run, lines += run / MKA_TILE * tile) {
            int stop = count - t < run ? count : t + run, e = 0;
            for (; e + 16 < d; e += 32)
                mix_blocks_quant(R, 2, bits, padded, &w, t, stop, lines + e / 16 * block, tile, &next, sums + e);
            if (e < d) mix_blocks_quant(R, 1, bits, padded, &w, t, stop, lines + e / 16 * block, tile, &next, sums + e);
            for (int k = 0; k < run / MKA_TILE; k++) { /* the scales, which are wanted a span at once */
                const char *later = lines + k * tile + SPAN / MKA_TILE * tile + scales;
                _mm_prefetch(later, _MM_HINT_T0);
                _mm_prefetch(later + 64, _MM_HINT_T0);
            }
        }
        while (next < lines + AHEAD) ask(&next, 1);
        add_sums(R, d, &w, sums, padded, from == 0 ? c : ones, acc);
        mix_large(bits, d, &w, span, tile, acc);
    }
}

#define MIX_Q8(R, row)                                                                                                           \
    mix_rows_quant(R, 8, MKA_Q8_0, d, n, s + (ptrdiff_t)(row)*lds, lds, values, c + (row), acc + (ptrdiff_t)(row)*d)
#define MIX_Q4(R, row)                                                                                                           \
    mix_rows_quant(R, 4, MKA_Q4_0, d, n, s + (ptrdiff_t)(row)*lds, lds, values, c + (row), acc + (ptrdiff_t)(row)*d)
void mka_avx512vnni_mix_q8(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    if (n <= 0) return;
    ROW_PASSES(r, MIX_Q8)
}
static void mix_q4(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    if (n <= 0) return;
    ROW_PASSES(r, MIX_Q4)
}

void mka_avx512vnni_fill_cache(mka_kernels *k);
void mka_avx512vnni_fill_cache(mka_kernels *k) {
    k->score[MKA_BF16] = mka_avx512vnni_score_bf16, k->mix[MKA_BF16] = mka_avx512vnni_mix_bf16;
    k->score[MKA_Q8_0] = mka_avx512vnni_score_q8, k->mix[MKA_Q8_0] = mka_avx512vnni_mix_q8;
    k->score[MKA_Q4_0] = score_q4, k->mix[MKA_Q4_0] = mix_q4;
}
