/* quant - the kernels of the quantised types, 32 weights at a time, for an instruction set whose header was included before
 * and defines, all of them static:
 *
 *   q_ahead(p, distance, bytes)     asks for memory that comes later
 *   Q_ROWS_DENSE                    rows that are worked on together where unpacking is short for the bytes that it takes
 *   q32     32 bytes: weights (unsigned, or signed for tables and q8_0) or activations (signed, never -128)
 *     q_load(p)  q_nibbles(p)        32 bytes; 16 bytes as 16 low nibbles and then 16 high ones
 *     q_field(v, shift, mask)        (v >> shift) & mask in each byte          q_left(v, k), k such that no bit is lost
 *     q_bits(p)                      16 where a bit of the 4 bytes is set      q_or, q_minus(v, k)
 *     q_table(v)                     mka_iq4_values
 *   p16     16 sums of two neighbouring products, the first half of them over elements 0..15
 *     p_unsigned(w, x)  p_signed(w, x)  p_const(k, x)  p_sub(a, b)
 *   b16     16 signed bytes           b_load(p)  b_dup(low, high) (8 bytes, each twice)  b_words(a, b, c, d)
 *                                     b_and(v, k)  b_shift4(v)  b_minus(v, k)  b_store(p, v)
 *   k_scales  the b16 of a super-block's scales, ready for i_scaled      k_mins  the same for min_mac
 *   qi      sums in 32 bits           i_sum(p)  i_scaled(p, scales, sub)
 *   qf      float accumulators        f_zero  f_total  f_mac(acc, i, k)  f_scale(acc, a, k) = acc + a k
 *                                     f_mac_half(acc, i, p, k) = acc + i * half at p * k
 *                                     min_mac(acc, mins, sums, scale, k) = acc + k sum_s scale_s (min sums)_s
 *   qp      a pair (scale, minimum) accumulator: p_zero  p_make(x_scale, x_sum)
 *                                     f_mac_pair(&acc, &minima, i, p, pair)   p_min(minima)
 *   q_expand(v, scale, offset, y)     y[i] = scale[i / 16] v[i] + offset[i / 16], product rounded before the sum
 *
 * The offset of types whose weights stand for q - k is taken off the 16-bit sums as k times the activations, which is one
 * product for all rows of a group. Minima use the activations' sums. */
#include "tmpl/quant_scales.h"

/* Rows that are worked on together: they share activations, and their chains of additions overlap. Memory gives more to a thread
 * that reads one row after the other, which pays for types that are bound by memory. */
enum { ROWS = 4 };

/* ---- what the bits stand for; scalar/unpack.h tells the same in words ---- */

#define BLOCK_UNPACK(type, EXPRESSION)                                                                                           \
    Q_INLINE q32 bits_##type(const mka_block_##type *b) {                                                                        \
        return EXPRESSION;                                                                                                       \
    }
BLOCK_UNPACK(q4_0, q_nibbles(b->q))
BLOCK_UNPACK(q4_1, q_nibbles(b->q))
BLOCK_UNPACK(q5_0, q_or(q_nibbles(b->q), q_bits(b->h)))
BLOCK_UNPACK(q5_1, q_or(q_nibbles(b->q), q_bits(b->h)))
BLOCK_UNPACK(q8_0, q_load(b->q))
BLOCK_UNPACK(iq4_nl, q_table(q_nibbles(b->q)))

#define SUPER_UNPACK(type, EXPRESSION)                                                                                           \
    Q_INLINE q32 bits_##type(const mka_block_##type *b, int j) {                                                                 \
        return EXPRESSION;                                                                                                       \
    }
SUPER_UNPACK(q2_k, q_field(q_load(b->q + 32 * (j / 4)), 2 * (j % 4), 3))
SUPER_UNPACK(q3_k, q_or(q_field(q_load(b->q + 32 * (j / 4)), 2 * (j % 4), 3), q_left(q_field(q_load(b->h), j, 1), 2)))
SUPER_UNPACK(q4_k, q_field(q_load(b->q + 32 * (j / 2)), 4 * (j % 2), 15))
SUPER_UNPACK(q5_k, q_or(q_field(q_load(b->q + 32 * (j / 2)), 4 * (j % 2), 15), q_left(q_field(q_load(b->h), j, 1), 4)))
SUPER_UNPACK(q6_k, q_or(q_field(q_load(b->l + 64 * (j / 4) + 32 * (j % 2)), 4 * (j % 4 / 2), 15),
                        q_left(q_field(q_load(b->h + 32 * (j / 4)), 2 * (j % 4), 3), 4)))
SUPER_UNPACK(iq4_xs, q_table(q_nibbles(b->q + 16 * j)))

/* ---- products ---- */

/* One type of 32-blocks: PRODUCT is p_signed or p_unsigned, OFFSET what its weights are above their meaning, TOGETHER how many
 * rows are worked on together. */
#define BLOCK_GEMV(type, PRODUCT, OFFSET, TOGETHER)                                                                              \
    Q_INLINE void rows_##type(int R, int n, const char *w, size_t row_bytes, const mka_q8_row *x, float *y) {                    \
        qf acc[ROWS];                                                                                                            \
        for (int r = 0; r < R; r++) acc[r] = f_zero();                                                                           \
        for (int b = 0; b < n / 32; b++) {                                                                                       \
            q32 activations = q_load(x->q + 32 * (size_t)b);                                                                     \
            p16 offset = p_const(OFFSET, activations);                                                                           \
            for (int r = 0; r < R; r++) {                                                                                        \
                const mka_block_##type *block = (const mka_block_##type *)(const void *)(w + (size_t)r * row_bytes) + b;         \
                q_ahead(block, AHEAD, sizeof *block);                                                                            \
                p16 p = PRODUCT(bits_##type(block), activations);                                                                \
                acc[r] = f_mac_half(acc[r], i_sum((OFFSET) ? p_sub(p, offset) : p), &block->d, x->scale[b]);                     \
            }                                                                                                                    \
        }                                                                                                                        \
        for (int r = 0; r < R; r++) y[r] = f_total(acc[r]);                                                                      \
    }                                                                                                                            \
    ALL_ROWS(type, TOGETHER)

/* The same with a minimum after the scale. */
#define BLOCK_GEMV_MIN(type)                                                                                                     \
    Q_INLINE void rows_##type(int R, int n, const char *w, size_t row_bytes, const mka_q8_row *x, float *y) {                    \
        qf acc[ROWS];                                                                                                            \
        qp minima[ROWS];                                                                                                         \
        for (int r = 0; r < R; r++) acc[r] = f_zero(), minima[r] = p_zero();                                                     \
        for (int b = 0; b < n / 32; b++) {                                                                                       \
            q32 activations = q_load(x->q + 32 * (size_t)b);                                                                     \
            qp pair = p_make(x->scale[b], x->scale[b] * (float)(x->sum[2 * b] + x->sum[2 * b + 1]));                             \
            for (int r = 0; r < R; r++) {                                                                                        \
                const mka_block_##type *block = (const mka_block_##type *)(const void *)(w + (size_t)r * row_bytes) + b;         \
                q_ahead(block, AHEAD, sizeof *block);                                                                            \
                f_mac_pair(&acc[r], &minima[r], i_sum(p_unsigned(bits_##type(block), activations)), &block->d, pair);            \
            }                                                                                                                    \
        }                                                                                                                        \
        for (int r = 0; r < R; r++) y[r] = f_total(acc[r]) + p_min(minima[r]);                                                   \
    }                                                                                                                            \
    ALL_ROWS(type, ROWS)

/* One type of super-blocks; MINS adds a block's minima to acc. */
#define SUPER_GEMV(type, PRODUCT, OFFSET, MINS)                                                                                  \
    Q_INLINE void rows_##type(int R, int n, const char *w, size_t row_bytes, const mka_q8_row *x, float *y) {                    \
        qf acc[ROWS];                                                                                                            \
        for (int r = 0; r < R; r++) acc[r] = f_zero();                                                                           \
        for (int b = 0; b < n / 256; b++) {                                                                                      \
            const int8_t *q = x->q + 256 * (size_t)b;                                                                            \
            const float *scale = x->scale + 8 * (size_t)b;                                                                       \
            const int16_t *sums = x->sum + 16 * (size_t)b;                                                                       \
            (void)sums;                                                                                                          \
            for (int r = 0; r < R; r++) {                                                                                        \
                const mka_block_##type *block = (const mka_block_##type *)(const void *)(w + (size_t)r * row_bytes) + b;         \
                q_ahead(block, AHEAD, sizeof *block);                                                                            \
                k_scales scales = k_make(scales_##type(block));                                                                  \
                qf whole = f_zero();                                                                                             \
                Q_UNROLL8 for (int j = 0; j < 8; j++) {                                                                          \
                    q32 activations = q_load(q + 32 * j);                                                                        \
                    p16 p = PRODUCT(bits_##type(block, j), activations);                                                         \
                    if (OFFSET) p = p_sub(p, p_const(OFFSET, activations));                                                      \
                    whole = f_mac(whole, i_scaled(p, scales, j), scale[j]);                                                      \
                }                                                                                                                \
                acc[r] = f_scale(acc[r], whole, f16_to_f32_fast(&block->d));                                                     \
                MINS(type)                                                                                                       \
            }                                                                                                                    \
        }                                                                                                                        \
        for (int r = 0; r < R; r++) y[r] = f_total(acc[r]);                                                                      \
    }                                                                                                                            \
    ALL_ROWS(type, Q_ROWS_DENSE)
#define NO_MINS(type)
#define WITH_MINS(type) acc[r] = min_mac(acc[r], k_widen(mins_##type(block)), sums, scale, -f16_to_f32_fast(&block->dmin));

#define ALL_ROWS(type, R)                                                                                                        \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const mka_q8_row *x, float *y) {                   \
        const char *p = w;                                                                                                       \
        int j = 0;                                                                                                               \
        for (; j + (R) <= rows; j += (R)) rows_##type(R, n, p + (size_t)j * row_bytes, row_bytes, x, y + j);                     \
        for (; j < rows; j++) rows_##type(1, n, p + (size_t)j * row_bytes, row_bytes, x, y + j);                                 \
    }

BLOCK_GEMV(q4_0, p_unsigned, 8, ROWS)
BLOCK_GEMV_MIN(q4_1)
BLOCK_GEMV(q5_0, p_unsigned, 16, ROWS)
BLOCK_GEMV_MIN(q5_1)
BLOCK_GEMV(q8_0, p_signed, 0, Q_ROWS_DENSE)
BLOCK_GEMV(iq4_nl, p_signed, 0, ROWS)
SUPER_GEMV(q2_k, p_unsigned, 0, WITH_MINS)
SUPER_GEMV(q3_k, p_unsigned, 4, NO_MINS)
SUPER_GEMV(q4_k, p_unsigned, 0, WITH_MINS)
SUPER_GEMV(q5_k, p_unsigned, 0, WITH_MINS)
SUPER_GEMV(q6_k, p_unsigned, 32, NO_MINS)
SUPER_GEMV(iq4_xs, p_signed, 0, NO_MINS)

/* ---- dequantising: the same bits as the scalar level ---- */

#define BLOCK_LOAD(type, OFFSET, MIN)                                                                                            \
    static void load_##type(int n, const void *x, float *y) {                                                                    \
        const mka_block_##type *b = x;                                                                                           \
        for (int i = 0; i < n / 32; i++, b++, y += 32) {                                                                         \
            float d = f16_to_f32_fast(&b->d), m = MIN;                                                                           \
            float scale[2] = {d, d}, offset[2] = {m, m};                                                                         \
            q_expand(q_minus(bits_##type(b), OFFSET), scale, offset, y);                                                         \
        }                                                                                                                        \
    }

#define SUPER_LOAD(type, OFFSET, MINS)                                                                                           \
    static void load_##type(int n, const void *x, float *y) {                                                                    \
        const mka_block_##type *b = x;                                                                                           \
        for (int i = 0; i < n / 256; i++, b++) {                                                                                 \
            int8_t s[16];                                                                                                        \
            float scale[16], offset[16] = {0}, d = f16_to_f32_fast(&b->d);                                                       \
            b_store(s, scales_##type(b));                                                                                        \
            for (int k = 0; k < 16; k++) scale[k] = d * (float)s[k];                                                             \
            MINS(type)                                                                                                           \
            Q_UNROLL8 for (int j = 0; j < 8; j++, y += 32)                                                                       \
                q_expand(q_minus(bits_##type(b, j), OFFSET), scale + 2 * j, offset + 2 * j, y);                                  \
        }                                                                                                                        \
    }
#define LOAD_MINS(type)                                                                                                          \
    float dmin = f16_to_f32_fast(&b->dmin);                                                                                      \
    b_store(s, mins_##type(b));                                                                                                  \
    for (int k = 0; k < 16; k++) offset[k] = -(dmin * (float)s[k]);

BLOCK_LOAD(q4_0, 8, 0)
BLOCK_LOAD(q4_1, 0, f16_to_f32_fast(&b->m))
BLOCK_LOAD(q5_0, 16, 0)
BLOCK_LOAD(q5_1, 0, f16_to_f32_fast(&b->m))
BLOCK_LOAD(q8_0, 0, 0)
BLOCK_LOAD(iq4_nl, 0, 0)
SUPER_LOAD(q2_k, 0, LOAD_MINS)
SUPER_LOAD(q3_k, 4, NO_MINS)
SUPER_LOAD(q4_k, 0, LOAD_MINS)
SUPER_LOAD(q5_k, 0, LOAD_MINS)
SUPER_LOAD(q6_k, 32, NO_MINS)
SUPER_LOAD(iq4_xs, 0, NO_MINS)

void LEVEL(fill_quant)(mka_kernels *k);
void LEVEL(fill_quant)(mka_kernels *k) {
    k->quantize = quantize;
#define FILL(TYPE, type) k->load[MKA_##TYPE] = load_##type, k->gemv_q8[MKA_##TYPE] = gemv_##type
    FILL(Q4_0, q4_0);
    FILL(Q4_1, q4_1);
    FILL(Q5_0, q5_0);
    FILL(Q5_1, q5_1);
    FILL(Q8_0, q8_0);
    FILL(IQ4_NL, iq4_nl);
    FILL(Q2_K, q2_k);
    FILL(Q3_K, q3_k);
    FILL(Q4_K, q4_k);
    FILL(Q5_K, q5_k);
    FILL(Q6_K, q6_k);
    FILL(IQ4_XS, iq4_xs);
}
