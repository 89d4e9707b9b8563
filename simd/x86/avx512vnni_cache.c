/* avx512vnni_cache - attention over cache tiles with the dot products of AVX-512: bf16 pairs (VDPBF16PS) and quads of 8 bits
 * (VPDPBUSD). F32 and F16 keep the float32 kernels of the level below.
 *
 * A line of a tile is an operand as it lies in memory: 16 lanes of 2 or 4 numbers, multiplied by a broadcast pair or quad of the
 * other side. So that side is rounded first: to bf16, or to 8 bits (see kernels.h for what that costs). Up to ROWS query rows are
 * worked on together, and every line is loaded once for them. The next block of the cache is asked for while this one is read. */
#include <immintrin.h>
#include <string.h>

#include "kernels.h"
#include "levels.h"
#include "x86/vnni_cache.h"

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 8, SPAN = 256, MOST_GROUPS = MKA_MOST_DIM / MKA_KEY_GROUP };

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

INLINE void ask(const char *p, ptrdiff_t ahead) {
    _mm_prefetch(p + ahead, _MM_HINT_T1);
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

/* R rows against the H halves that follow each other from lines. q [R][ldq] in bf16. */
INLINE void score_halves_bf16(int R, int H, int d, const uint16_t *q, int ldq, const char *lines, ptrdiff_t half, ptrdiff_t ahead,
                              float factor, float *s, int lds) {
    __m512 acc[ROWS][2];
    for (int i = 0; i < R; i++)
        for (int h = 0; h < H; h++) acc[i][h] = _mm512_setzero_ps();
    for (int e = 0; e < d; e += 2, lines += 64) {
        __m512bh key[2];
        for (int h = 0; h < H; h++) {
            key[h] = line_bf16(lines + h * half);
            ask(lines + h * half, ahead);
        }
        for (int i = 0; i < R; i++) {
            __m512bh x = pair(q + (ptrdiff_t)i * ldq + e);
            for (int h = 0; h < H; h++) acc[i][h] = _mm512_dpbf16_ps(acc[i][h], key[h], x);
        }
    }
    for (int i = 0; i < R; i++)
        for (int h = 0; h < H; h++)
            _mm512_storeu_ps(s + (ptrdiff_t)i * lds + 16 * h, _mm512_mul_ps(acc[i][h], _mm512_set1_ps(factor)));
}

INLINE void score_rows_bf16(int R, int d, int n, const float *q, const char *keys, float factor, float *s, int lds) {
    uint16_t rounded[ROWS * (MKA_MOST_DIM + 32)];
    int ldq = mka_pad(d, 32);
    ptrdiff_t tile = (ptrdiff_t)mka_key_tile_bytes(MKA_BF16, d), half = tile / 2,
              ahead = (ptrdiff_t)((n + MKA_TILE - 1) / MKA_TILE) * tile;
    for (int i = 0; i < R; i++) round_bf16(d, q + (ptrdiff_t)i * d, rounded + (ptrdiff_t)i * ldq);
    for (int t = 0; t < n; t += MKA_TILE, keys += tile) {
        if (n - t > MKA_HALF)
            score_halves_bf16(R, 2, d, rounded, ldq, keys, half, ahead, factor, s + t, lds);
        else
            score_halves_bf16(R, 1, d, rounded, ldq, keys, half, ahead, factor, s + t, lds);
    }
}

void mka_avx512vnni_score_bf16(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds){
#define SCORE_BF16(R, row) score_rows_bf16(R, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
    ROW_PASSES(r, SCORE_BF16)}

/* Loads and stores of a row's accumulators for B blocks of 16 dimensions, the last of which may not be whole. */
INLINE __m512 load_acc(const float *acc, int left, __m512 factor) {
    return _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(some(left), acc));
}

/* n tokens (weights w [R][ldw] in bf16, zeros up to a multiple of 32) into B blocks of 16 dimensions from dimension e. */
INLINE void mix_blocks_bf16(int R, int B, int d, int n, const uint16_t *w, int ldw, const char *values, ptrdiff_t tile,
                            ptrdiff_t ahead, int e, const float *c, float *acc) {
    __m512 sum[ROWS][2];
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++)
            sum[i][b] = load_acc(acc + (ptrdiff_t)i * d + e + 16 * b, d - e - 16 * b, _mm512_set1_ps(c[i]));
    for (int t = 0; t < n; t += MKA_TILE, values += tile) {
        const char *lines = values + (ptrdiff_t)(e / 16) * 1024;
        int pairs = n - t < MKA_TILE ? (n - t + 1) / 2 : MKA_TILE / 2;
        for (int p = 0; p < pairs; p++) {
            __m512bh value[2];
            for (int b = 0; b < B; b++) {
                value[b] = line_bf16(lines + 1024 * b + 64 * p);
                ask(lines + 1024 * b + 64 * p, ahead);
            }
            for (int i = 0; i < R; i++) {
                __m512bh x = pair(w + (ptrdiff_t)i * ldw + t + 2 * p);
                for (int b = 0; b < B; b++) sum[i][b] = _mm512_dpbf16_ps(sum[i][b], value[b], x);
            }
        }
    }
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++) _mm512_mask_storeu_ps(acc + (ptrdiff_t)i * d + e + 16 * b, some(d - e - 16 * b), sum[i][b]);
}

INLINE void mix_rows_bf16(int R, int d, int n, const float *s, int lds, const char *values, const float *c, float *acc) {
    static const float ones[ROWS] = {1, 1, 1, 1, 1, 1, 1, 1};
    uint16_t w[ROWS * SPAN];
    ptrdiff_t tile = (ptrdiff_t)mka_value_tile_bytes(MKA_BF16, d);
    for (int from = 0; from < n; from += SPAN, values += SPAN / MKA_TILE * tile) {
        int count = n - from < SPAN ? n - from : SPAN, e = 0;
        ptrdiff_t ahead = (ptrdiff_t)((count + MKA_TILE - 1) / MKA_TILE) * tile;
        const float *factor = from == 0 ? c : ones;
        for (int i = 0; i < R; i++) round_bf16(count, s + (ptrdiff_t)i * lds + from, w + i * SPAN);
        for (; e + 16 < d; e += 32) mix_blocks_bf16(R, 2, d, count, w, SPAN, values, tile, ahead, e, factor, acc);
        if (e < d) mix_blocks_bf16(R, 1, d, count, w, SPAN, values, tile, ahead, e, factor, acc);
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

/* One group of 32 numbers of R rows against H halves, added to the scores. bits: 8 or 4. */
INLINE void score_group(int R, int H, int bits, const query *q, int g, const char *lines, ptrdiff_t half, const char *scales,
                        ptrdiff_t scale_half, ptrdiff_t ahead, float *s, int lds) {
    __m512i acc[ROWS][2];
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int i = 0; i < R; i++)
        for (int h = 0; h < H; h++) acc[i][h] = _mm512_set1_epi32(q[i].offset[g]);
    for (int line = 0; line < bits; line++) { /* 8 lines of 4 numbers, or 4 lines of 8 */
        __m512i key[2];
        for (int h = 0; h < H; h++) {
            key[h] = _mm512_load_si512(lines + h * half + 64 * line);
            ask(lines + h * half + 64 * line, ahead);
        }
        for (int i = 0; i < R; i++) {
            const int8_t *x = q[i].q + g * MKA_KEY_GROUP + 32 / bits * line;
            __m512i first = quad(x);
            if (bits == 8) {
                for (int h = 0; h < H; h++) acc[i][h] = _mm512_dpbusd_epi32(acc[i][h], key[h], first);
            } else {
                __m512i second = quad(x + 4);
                for (int h = 0; h < H; h++) {
                    acc[i][h] = _mm512_dpbusd_epi32(acc[i][h], _mm512_and_si512(key[h], nibble), first);
                    acc[i][h] = _mm512_dpbusd_epi32(acc[i][h], _mm512_and_si512(_mm512_srli_epi16(key[h], 4), nibble), second);
                }
            }
        }
    }
    for (int h = 0; h < H; h++) {
        __m512 scale = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)(scales + h * scale_half)));
        for (int i = 0; i < R; i++) {
            float *p = s + (ptrdiff_t)i * lds + 16 * h;
            __m512 sum = g == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(p);
            _mm512_storeu_ps(
                p, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][h]), _mm512_mul_ps(scale, _mm512_set1_ps(q[i].scale[g])), sum));
        }
    }
}

INLINE void score_rows_quant(int R, int bits, mka_type type, int d, int n, const float *q, const char *keys, float factor,
                             float *s, int lds) {
    query rounded[ROWS];
    int groups = mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP;
    ptrdiff_t tile = (ptrdiff_t)mka_key_tile_bytes(type, d), half = (ptrdiff_t)groups * 64 * bits,
              scale_half = (ptrdiff_t)groups * 32;
    ptrdiff_t ahead = (ptrdiff_t)((n + MKA_TILE - 1) / MKA_TILE) * tile;
    for (int i = 0; i < R; i++) round_query(d, q + (ptrdiff_t)i * d, bits == 8 ? 128 : 8, factor, &rounded[i]);
    for (int t = 0; t < n; t += MKA_TILE, keys += tile)
        for (int g = 0; g < groups; g++) {
            const char *lines = keys + (ptrdiff_t)g * 64 * bits, *scales = keys + 2 * half + (ptrdiff_t)g * 32;
            if (n - t > MKA_HALF)
                score_group(R, 2, bits, rounded, g, lines, half, scales, scale_half, ahead, s + t, lds);
            else
                score_group(R, 1, bits, rounded, g, lines, half, scales, scale_half, ahead, s + t, lds);
        }
}

#define SCORE_Q8(R, row)                                                                                                         \
    score_rows_quant(R, 8, MKA_Q8_0, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
#define SCORE_Q4(R, row)                                                                                                         \
    score_rows_quant(R, 4, MKA_Q4_0, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
static void score_q8(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    ROW_PASSES(r, SCORE_Q8)
}
static void score_q4(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    ROW_PASSES(r, SCORE_Q4)
}

/* ---- 8 and 4 bits: mixes ---- */

/* The weights of R rows over at most SPAN tokens in 8 bits: w * scale of the token ~ unit * (high + low / 256). low is only
 * used (fine) where high alone would lose many small weights beside a large one. */
typedef struct {
    uint8_t high[ROWS][SPAN], low[ROWS][SPAN];
    float unit[ROWS];
    int32_t sum_high[ROWS], sum_low[ROWS];
    int fine;
} weights;

/* Weights times scales of one row into scaled, zeros up to the next multiple of 32; their sum and largest. */
INLINE float scale_weights(int n, const float *s, const char *scales, ptrdiff_t tile, float *scaled, float *largest) {
    __m512 most = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
    for (int t = 0; t < n; t += MKA_TILE, scales += tile)
        for (int k = 0; k < MKA_TILE; k += 16) {
            __mmask16 left = some(n - t - k);
            __m512 x = _mm512_maskz_mul_ps(left, _mm512_maskz_loadu_ps(left, s + t + k), _mm512_load_ps(scales + 4 * k));
            _mm512_storeu_ps(scaled + t + k, x);
            most = _mm512_max_ps(most, x);
            sum = _mm512_add_ps(sum, x);
        }
    *largest = _mm512_reduce_max_ps(most);
    return _mm512_reduce_add_ps(sum);
}

/* To the nearest whole unit. */
INLINE int32_t round_coarse(int n, const float *scaled, float inverse, uint8_t *high) {
    __m512i sum = _mm512_setzero_si512();
    for (int t = 0; t < n; t += 16) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(scaled + t), _mm512_set1_ps(inverse)));
        _mm_storeu_si128((__m128i *)(void *)(high + t), _mm512_cvtusepi32_epi8(whole));
        sum = _mm512_add_epi32(sum, whole);
    }
    return _mm512_reduce_add_epi32(sum);
}

/* To 256ths of a unit. */
INLINE void round_fine(int n, const float *scaled, float inverse, uint8_t *high, uint8_t *low, int32_t *sum_high,
                       int32_t *sum_low) {
    __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int t = 0; t < n; t += 16) {
        __m512 x = _mm512_mul_ps(_mm512_loadu_ps(scaled + t), _mm512_set1_ps(inverse));
        __m512i whole = _mm512_cvttps_epi32(x);
        __m512i rest = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_sub_ps(x, _mm512_cvtepi32_ps(whole)), _mm512_set1_ps(256.0f)));
        _mm_storeu_si128((__m128i *)(void *)(high + t), _mm512_cvtusepi32_epi8(whole));
        _mm_storeu_si128((__m128i *)(void *)(low + t), _mm512_cvtusepi32_epi8(rest));
        sums[0] = _mm512_add_epi32(sums[0], whole);
        sums[1] = _mm512_add_epi32(sums[1], rest);
    }
    *sum_high = _mm512_reduce_add_epi32(sums[0]);
    *sum_low = _mm512_reduce_add_epi32(sums[1]);
}

/* A unit is the largest weight by 255. Rounding to whole units is fair while the mean weight has several of them; below that,
 * many small weights would vanish together, and 8 more bits are kept. */
INLINE void round_weights(int R, int n, const float *s, int lds, const char *scales, ptrdiff_t tile, weights *w) {
    float scaled[ROWS][SPAN], inverse[ROWS];
    int whole = mka_pad(n, MKA_TILE);
    w->fine = 0;
    for (int i = 0; i < R; i++) {
        float largest, sum = scale_weights(n, s + (ptrdiff_t)i * lds, scales, tile, scaled[i], &largest);
        inverse[i] = largest > 0 ? 254.9999f / largest : 0;
        w->unit[i] = largest / 254.9999f;
        w->fine |= sum * inverse[i] < 6.0f * (float)n;
    }
    for (int i = 0; i < R; i++) {
        if (w->fine)
            round_fine(whole, scaled[i], inverse[i], w->high[i], w->low[i], &w->sum_high[i], &w->sum_low[i]);
        else
            w->sum_high[i] = round_coarse(whole, scaled[i], inverse[i], w->high[i]);
    }
}

/* Sums over n tokens of one 8-bit part of the weights, for B blocks of 16 dimensions: the int32 sums of R rows. */
INLINE void sum_blocks(int R, int B, int bits, int n, const uint8_t (*w)[SPAN], const int32_t *total, const char *lines,
                       ptrdiff_t tile, ptrdiff_t ahead, __m512i (*sum)[2]) {
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++) sum[i][b] = _mm512_set1_epi32(bits == 4 ? -8 * total[i] : 0);
    for (int t = 0; t < n; t += MKA_TILE, lines += tile) {
        int quads = n - t < MKA_TILE ? (n - t + 3) / 4 : MKA_TILE / 4;
        for (int k = 0; k < quads; k++) {
            __m512i value[2];
            value[0] = _mm512_load_si512(lines + 64 * k);
            ask(lines + 64 * k, ahead);
            if (bits == 4) {
                value[1] = _mm512_and_si512(_mm512_srli_epi16(value[0], 4), nibble);
                value[0] = _mm512_and_si512(value[0], nibble);
            } else if (B == 2) {
                value[1] = _mm512_load_si512(lines + 512 + 64 * k);
                ask(lines + 512 + 64 * k, ahead);
            }
            for (int i = 0; i < R; i++) {
                __m512i x = quad(w[i] + t + 4 * k);
                for (int b = 0; b < B; b++) sum[i][b] = _mm512_dpbusd_epi32(sum[i][b], x, value[b]);
            }
        }
    }
}

INLINE void mix_blocks_quant(int R, int B, int bits, int d, int n, const weights *w, const char *lines, ptrdiff_t tile,
                             ptrdiff_t ahead, int e, const float *c, float *acc) {
    __m512i sum[ROWS][2];
    sum_blocks(R, B, bits, n, w->high, w->sum_high, lines, tile, ahead, sum);
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++) {
            float *p = acc + (ptrdiff_t)i * d + e + 16 * b;
            int left = d - e - 16 * b;
            __m512 old = _mm512_mul_ps(_mm512_set1_ps(c[i]), _mm512_maskz_loadu_ps(some(left), p));
            _mm512_mask_storeu_ps(p, some(left), _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][b]), _mm512_set1_ps(w->unit[i]), old));
        }
    if (!w->fine) return;
    sum_blocks(R, B, bits, n, w->low, w->sum_low, lines, tile, 0, sum);
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++) {
            float *p = acc + (ptrdiff_t)i * d + e + 16 * b;
            __mmask16 left = some(d - e - 16 * b);
            __m512 old = _mm512_maskz_loadu_ps(left, p), unit = _mm512_set1_ps(w->unit[i] / 256.0f);
            _mm512_mask_storeu_ps(p, left, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][b]), unit, old));
        }
}

INLINE void mix_rows_quant(int R, int bits, mka_type type, int d, int n, const float *s, int lds, const char *values,
                           const float *c, float *acc) {
    static const float ones[ROWS] = {1, 1, 1, 1, 1, 1, 1, 1};
    weights w;
    ptrdiff_t tile = (ptrdiff_t)mka_value_tile_bytes(type, d), scales = tile - (ptrdiff_t)(MKA_TILE * sizeof(float));
    for (int from = 0; from < n; from += SPAN, values += SPAN / MKA_TILE * tile) {
        int count = n - from < SPAN ? n - from : SPAN, e = 0;
        ptrdiff_t ahead = (ptrdiff_t)((count + MKA_TILE - 1) / MKA_TILE) * tile;
        const float *factor = from == 0 ? c : ones;
        round_weights(R, count, s + from, lds, values + scales, tile, &w);
        for (; e + 16 < d; e += 32)
            mix_blocks_quant(R, 2, bits, d, count, &w, values + e / 16 * (bits == 8 ? 512 : 256), tile, ahead, e, factor, acc);
        if (e < d)
            mix_blocks_quant(R, 1, bits, d, count, &w, values + e / 16 * (bits == 8 ? 512 : 256), tile, ahead, e, factor, acc);
    }
}

#define MIX_Q8(R, row)                                                                                                           \
    mix_rows_quant(R, 8, MKA_Q8_0, d, n, s + (ptrdiff_t)(row)*lds, lds, values, c + (row), acc + (ptrdiff_t)(row)*d)
#define MIX_Q4(R, row)                                                                                                           \
    mix_rows_quant(R, 4, MKA_Q4_0, d, n, s + (ptrdiff_t)(row)*lds, lds, values, c + (row), acc + (ptrdiff_t)(row)*d)
static void mix_q8(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
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
    k->score[MKA_Q8_0] = score_q8, k->mix[MKA_Q8_0] = mix_q8;
    k->score[MKA_Q4_0] = score_q4, k->mix[MKA_Q4_0] = mix_q4;
}
