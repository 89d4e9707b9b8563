/* avx512_quant - products with quantised weights on AVX-512, two sub-blocks of 32 in a register, and the level's table.
 *
 * Dequantising and quantising are AVX2's: they are bound by stores and by a few operations a block. */
#include "levels.h"
#include "x86/q_avx512.h"

#include "tmpl/quant_scales.h"

/* Rows that are worked on together: they share activations, and their chains of additions overlap. Memory gives more to a thread
 * that reads one row after the other, which pays for types whose unpacking is short for the bytes that it takes. */
enum { ROWS = 4 };

#define ROW_BLOCK(type, r) ((const mka_block_##type *)(const void *)(w + (size_t)(r)*row_bytes))

#define ALL_ROWS(type, R)                                                                                                        \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const mka_q8_row *x, float *y) {                   \
        const char *p = w;                                                                                                       \
        int j = 0;                                                                                                               \
        for (; j + (R) <= rows; j += (R)) rows_##type(R, n, p + (size_t)j * row_bytes, row_bytes, x, y + j);                     \
        for (; j < rows; j++) rows_##type(1, n, p + (size_t)j * row_bytes, row_bytes, x, y + j);                                 \
    }

/* One type of 32-blocks, WEIGHTS of blocks a and b. An odd last block is taken twice, the second time times nothing: count is
 * 1 then, and a constant in both uses. */
#define BLOCK_GEMV(type, WEIGHTS, PRODUCT, OFFSET, TOGETHER)                                                                     \
    Q_INLINE void step_##type(int R, int count, int i, const char *w, size_t row_bytes, const mka_q8_row *x, qf2 *acc) {         \
        q64 q = activations2(x, i, count), offset = const2(OFFSET, q);                                                           \
        __m512 scale = floats2(x->scale[i], count == 2 ? x->scale[i + 1] : 0);                                                   \
        for (int r = 0; r < R; r++) {                                                                                            \
            const mka_block_##type *a = ROW_BLOCK(type, r) + i, *b = a + count - 1;                                              \
            q_ahead(a, AHEAD, 2 * sizeof *a);                                                                                    \
            q64 p = PRODUCT(WEIGHTS, q);                                                                                         \
            if (OFFSET) p = _mm512_sub_epi16(p, offset);                                                                         \
            acc[r] = mac2(acc[r], sum2(p), _mm512_mul_ps(half2(&a->d, &b->d), scale));                                           \
        }                                                                                                                        \
    }                                                                                                                            \
    Q_INLINE void rows_##type(int R, int n, const char *w, size_t row_bytes, const mka_q8_row *x, float *y) {                    \
        qf2 acc[ROWS];                                                                                                           \
        int i = 0;                                                                                                               \
        for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();                                                                \
        for (; i + 2 <= n / 32; i += 2) step_##type(R, 2, i, w, row_bytes, x, acc);                                              \
        if (i < n / 32) step_##type(R, 1, i, w, row_bytes, x, acc);                                                              \
        for (int r = 0; r < R; r++) y[r] = total2(acc[r]);                                                                       \
    }                                                                                                                            \
    ALL_ROWS(type, TOGETHER)

/* The same with a minimum after the scale: odd lanes of the products of pairs are minima, each four times. */
#define BLOCK_GEMV_MIN(type, WEIGHTS)                                                                                            \
    Q_INLINE void step_##type(int R, int count, int i, const char *w, size_t row_bytes, const mka_q8_row *x, qf2 *acc,           \
                              qf2 *minima) {                                                                                     \
        q64 q = activations2(x, i, count);                                                                                       \
        __m512 scale = floats2(x->scale[i], count == 2 ? x->scale[i + 1] : 0);                                                   \
        __m512 sum = floats2(block_sum(x, i), count == 2 ? block_sum(x, i + 1) : 0);                                             \
        __m512 pair = _mm512_mask_mul_ps(scale, 0xaaaa, scale, sum);                                                             \
        for (int r = 0; r < R; r++) {                                                                                            \
            const mka_block_##type *a = ROW_BLOCK(type, r) + i, *b = a + count - 1;                                              \
            q_ahead(a, AHEAD, 2 * sizeof *a);                                                                                    \
            __m512 both = _mm512_mul_ps(half_pairs2(&a->d, &b->d), pair);                                                        \
            minima[r] = _mm512_add_ps(minima[r], both);                                                                          \
            acc[r] = mac2(acc[r], sum2(unsigned2(WEIGHTS, q)), _mm512_moveldup_ps(both));                                        \
        }                                                                                                                        \
    }                                                                                                                            \
    Q_INLINE void rows_##type(int R, int n, const char *w, size_t row_bytes, const mka_q8_row *x, float *y) {                    \
        qf2 acc[ROWS], minima[ROWS];                                                                                             \
        int i = 0;                                                                                                               \
        for (int r = 0; r < R; r++) acc[r] = minima[r] = _mm512_setzero_ps();                                                    \
        for (; i + 2 <= n / 32; i += 2) step_##type(R, 2, i, w, row_bytes, x, acc, minima);                                      \
        if (i < n / 32) step_##type(R, 1, i, w, row_bytes, x, acc, minima);                                                      \
        for (int r = 0; r < R; r++) y[r] = total2(acc[r]) + 0.25f * total2(_mm512_maskz_mov_ps(0xaaaa, minima[r]));              \
    }                                                                                                                            \
    ALL_ROWS(type, ROWS)

BLOCK_GEMV(q4_0, nibbles2(a->q, b->q), unsigned2, 8, ROWS)
BLOCK_GEMV_MIN(q4_1, nibbles2(a->q, b->q))
BLOCK_GEMV(q5_0, add_fifth2(nibbles2(a->q, b->q), a->h, b->h), unsigned2, 16, ROWS)
BLOCK_GEMV_MIN(q5_1, add_fifth2(nibbles2(a->q, b->q), a->h, b->h))
BLOCK_GEMV(q8_0, bytes2(a->q, b->q), signed2, 0, 1)
BLOCK_GEMV(iq4_nl, table2(nibbles2(a->q, b->q)), signed2, 0, ROWS)

/* One type of super-blocks: WEIGHTS of block b's sub-blocks 2 j and 2 j + 1; MINS adds a block's minima to acc. */
#define SUPER_GEMV(type, WEIGHTS, PRODUCT, OFFSET, MINS, TOGETHER)                                                               \
    Q_INLINE void rows_##type(int R, int n, const char *w, size_t row_bytes, const mka_q8_row *x, float *y) {                    \
        qf2 acc[ROWS];                                                                                                           \
        for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();                                                                \
        for (int i = 0; i < n / 256; i++) {                                                                                      \
            const float *xs = x->scale + 8 * (size_t)i;                                                                          \
            const int16_t *sums = x->sum + 16 * (size_t)i;                                                                       \
            q64 q[4], offset[4];                                                                                                 \
            __m512 scale[4];                                                                                                     \
            (void)sums;                                                                                                          \
            Q_UNROLL8 for (int j = 0; j < 4; j++) {                                                                              \
                q[j] = _mm512_loadu_si512(x->q + 256 * (size_t)i + 64 * j);                                                      \
                offset[j] = const2(OFFSET, q[j]);                                                                                \
                scale[j] = floats2(xs[2 * j], xs[2 * j + 1]);                                                                    \
            }                                                                                                                    \
            for (int r = 0; r < R; r++) {                                                                                        \
                const mka_block_##type *b = ROW_BLOCK(type, r) + i;                                                              \
                q_ahead(b, AHEAD, sizeof *b);                                                                                    \
                q64 scales = k_make2(scales_##type(b));                                                                          \
                qf2 whole = _mm512_setzero_ps();                                                                                 \
                Q_UNROLL8 for (int j = 0; j < 4; j++) {                                                                          \
                    q64 p = PRODUCT(WEIGHTS, q[j]);                                                                              \
                    if (OFFSET) p = _mm512_sub_epi16(p, offset[j]);                                                              \
                    whole = mac2(whole, scaled2(p, scales, j), scale[j]);                                                        \
                }                                                                                                                \
                acc[r] = _mm512_fmadd_ps(whole, _mm512_set1_ps(f16_to_f32_fast(&b->d)), acc[r]);                                 \
                MINS(type)                                                                                                       \
            }                                                                                                                    \
        }                                                                                                                        \
        for (int r = 0; r < R; r++) y[r] = total2(acc[r]);                                                                       \
    }                                                                                                                            \
    ALL_ROWS(type, TOGETHER)
#define NO_MINS(type)
#define WITH_MINS(type) acc[r] = min_mac2(acc[r], mins_##type(b), sums, xs, -f16_to_f32_fast(&b->dmin));

/* Six bits: four in the low or high nibbles of 64 bytes, two among 32 bytes of pairs. */
Q_INLINE q64 six_bits2(const mka_block_q6_k *b, int j) {
    __m512i low = _mm512_loadu_si512(b->l + 64 * (j / 2));
    __m512i high = pairs2(b->h + 32 * (j / 2), 4 * (j % 2));
    return _mm512_or_si512(low4(j % 2 ? _mm512_srli_epi16(low, 4) : low), _mm512_slli_epi16(high, 4));
}

SUPER_GEMV(q2_k, pairs2(b->q + 32 * (j / 2), 4 * (j % 2)), unsigned2, 0, WITH_MINS, ROWS)
SUPER_GEMV(q3_k, add_bits2(pairs2(b->q + 32 * (j / 2), 4 * (j % 2)), b->h, 2 * j, 4), unsigned2, 4, NO_MINS, ROWS)
SUPER_GEMV(q4_k, split_nibbles2(b->q + 32 * j), unsigned2, 0, WITH_MINS, ROWS)
SUPER_GEMV(q5_k, add_bits2(split_nibbles2(b->q + 32 * j), b->h, 2 * j, 16), unsigned2, 0, WITH_MINS, ROWS)
SUPER_GEMV(q6_k, six_bits2(b, j), unsigned2, 32, NO_MINS, 1)
SUPER_GEMV(iq4_xs, table2(spread_nibbles2(_mm256_loadu_si256((const void *)(b->q + 32 * j)))), signed2, 0, NO_MINS, ROWS)

void mka_avx512_fill_float(mka_kernels *k);
void mka_avx512_fill_typed(mka_kernels *k);
void mka_avx512_fill_cache(mka_kernels *k);
void mka_avx512_fill_recall(mka_kernels *k);

void mka_avx512_fill(mka_kernels *k) {
    mka_avx512_fill_float(k);
    mka_avx512_fill_typed(k);
    mka_avx512_fill_cache(k);
    mka_avx512_fill_recall(k);
    k->gemv_q8[MKA_Q4_0] = gemv_q4_0;
    k->gemv_q8[MKA_Q4_1] = gemv_q4_1;
    k->gemv_q8[MKA_Q5_0] = gemv_q5_0;
    k->gemv_q8[MKA_Q5_1] = gemv_q5_1;
    k->gemv_q8[MKA_Q8_0] = gemv_q8_0;
    k->gemv_q8[MKA_IQ4_NL] = gemv_iq4_nl;
    k->gemv_q8[MKA_Q2_K] = gemv_q2_k;
    k->gemv_q8[MKA_Q3_K] = gemv_q3_k;
    k->gemv_q8[MKA_Q4_K] = gemv_q4_k;
    k->gemv_q8[MKA_Q5_K] = gemv_q5_k;
    k->gemv_q8[MKA_Q6_K] = gemv_q6_k;
    k->gemv_q8[MKA_IQ4_XS] = gemv_iq4_xs;
}
