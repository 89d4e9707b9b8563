/* i8mm_gemm - products of many rows on the bf16 matrix unit (bfmmla): 4 rows of activations times 16 rows of weights in 16
 * accumulators, each of which holds the products of 2 rows with 2 rows. (With 24 of them the compiler spills.)
 *
 * The unit multiplies 4 neighbouring elements of two rows with those of two others, so that a panel is
 * [k / 4][16 pairs of rows][2][4]: 16 bytes are an operand. Activations become operands by joining halves of two rows. */
#include <arm_neon.h>

#include "levels.h"

#define GEMM_INLINE static inline __attribute__((always_inline))
#define GEMM_UNROLL _Pragma("GCC unroll 8")

enum { TOKEN_PAIRS = 2, ROW_PAIRS = 8, STEP = 8 * MKA_PANEL_ROWS /* bytes from one group of 4 elements to the next */ };

/* ---- packing ---- */

/* 4 elements of one row, those from count on zero. */
static uint16x4_t round4(const float *x, int count) {
    float whole[4] = {0};
    for (int i = 0; count < 4 && i < count; i++) whole[i] = x[i];
    return vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(count >= 4 ? x : whole)));
}

static void pack(int rows, int k, const float *w, int ldw, void *panel) {
    for (int i = 0; i < (k + 31) / 32 * 32; i += 4)
        for (int j = 0; j < MKA_PANEL_ROWS; j++) {
            char *to = (char *)panel + (size_t)(i / 4) * STEP + 8 * (size_t)j;
            int exist = j < rows && i < k;
            vst1_u16((uint16_t *)(void *)to, exist ? round4(w + (size_t)j * (size_t)ldw + i, k - i) : vdup_n_u16(0));
        }
}

/* ---- products ---- */

GEMM_INLINE float32x4_t load_some(const float *p, int n) {
    float whole[4] = {0};
    if (n >= 4) return vld1q_f32(p);
    for (int i = 0; i < n; i++) whole[i] = p[i];
    return vld1q_f32(whole);
}
GEMM_INLINE void store_some(float *p, float32x4_t x, int n) {
    float whole[4];
    if (n >= 4) {
        vst1q_f32(p, x);
        return;
    }
    vst1q_f32(whole, x);
    for (int i = 0; i < n; i++) p[i] = whole[i];
}
/* The first (second) halves of two vectors. */
GEMM_INLINE float32x4_t first_halves(float32x4_t a, float32x4_t b) {
    return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
GEMM_INLINE float32x4_t second_halves(float32x4_t a, float32x4_t b) {
    return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
GEMM_INLINE bfloat16x8_t operand(float32x4_t x) {
    return vreinterpretq_bf16_f32(x);
}

/* 2 T rows of activations, the rows of pair t at x[2 t] and x[2 t + 1], times 16 rows of weights, `left` of which exist. */
GEMM_INLINE void block(int T, int k, const uint16_t *const *x, const char *panel, int left, int more, float *const *y) {
    float32x4_t acc[TOKEN_PAIRS][ROW_PAIRS];
    GEMM_UNROLL for (int t = 0; t < T; t++) GEMM_UNROLL for (int p = 0; p < ROW_PAIRS; p += 2) {
        float32x4_t a = vdupq_n_f32(0), b = a;
        if (more) a = load_some(y[2 * t] + 2 * p, left - 2 * p), b = load_some(y[2 * t + 1] + 2 * p, left - 2 * p);
        acc[t][p] = first_halves(a, b);
        acc[t][p + 1] = second_halves(a, b);
    }
    for (int i = 0; i < k; i += 8, panel += 2 * STEP) {
        bfloat16x8_t first[TOKEN_PAIRS], second[TOKEN_PAIRS]; /* elements i..i + 3 and i + 4..i + 7 of a pair's rows */
        GEMM_UNROLL for (int t = 0; t < T; t++) {
            float32x4_t a = vreinterpretq_f32_u16(vld1q_u16(x[2 * t] + i)),
                        b = vreinterpretq_f32_u16(vld1q_u16(x[2 * t + 1] + i));
            first[t] = operand(first_halves(a, b));
            second[t] = operand(second_halves(a, b));
        }
        GEMM_UNROLL for (int p = 0; p < ROW_PAIRS; p++) {
            bfloat16x8_t w = vreinterpretq_bf16_u16(vld1q_u16((const uint16_t *)(const void *)(panel + 16 * p)));
            GEMM_UNROLL for (int t = 0; t < T; t++) acc[t][p] = vbfmmlaq_f32(acc[t][p], first[t], w);
        }
        GEMM_UNROLL for (int p = 0; p < ROW_PAIRS; p++) {
            bfloat16x8_t w = vreinterpretq_bf16_u16(vld1q_u16((const uint16_t *)(const void *)(panel + STEP + 16 * p)));
            GEMM_UNROLL for (int t = 0; t < T; t++) acc[t][p] = vbfmmlaq_f32(acc[t][p], second[t], w);
        }
    }
    GEMM_UNROLL for (int t = 0; t < T; t++) GEMM_UNROLL for (int p = 0; p < ROW_PAIRS; p += 2) {
        store_some(y[2 * t] + 2 * p, first_halves(acc[t][p], acc[t][p + 1]), left - 2 * p);
        store_some(y[2 * t + 1] + 2 * p, second_halves(acc[t][p], acc[t][p + 1]), left - 2 * p);
    }
}

/* Rows first.. of n, at most 2 T of them; the last one stands in for what is missing, with the same result. */
GEMM_INLINE void some_rows(int T, int first, int n, int k, const uint16_t *x, int ldx, const char *panel, int left, int more,
                           float *y, int ldy) {
    const uint16_t *from[2 * TOKEN_PAIRS];
    float *to[2 * TOKEN_PAIRS];
    for (int t = 0; t < 2 * T; t++) {
        size_t row = (size_t)(first + t < n ? first + t : n - 1);
        from[t] = x + row * (size_t)ldx;
        to[t] = y + row * (size_t)ldy;
    }
    block(T, k, from, panel, left, more, to);
}

static void gemm(int n, int rows, int k, const uint16_t *x, int ldx, const void *panel, int more, float *y, int ldy) {
    int whole = (k + 31) / 32 * 32;
    for (int half = 0; half < rows; half += 2 * ROW_PAIRS) {
        const char *part = (const char *)panel + 8 * half;
        int i = 0;
        for (; i + 2 * TOKEN_PAIRS <= n; i += 2 * TOKEN_PAIRS)
            some_rows(TOKEN_PAIRS, i, n, whole, x, ldx, part, rows - half, more, y + half, ldy);
        for (; i < n; i += 2) some_rows(1, i, n, whole, x, ldx, part, rows - half, more, y + half, ldy);
    }
}

void mka_i8mm_fill_gemm(mka_kernels *k);
void mka_i8mm_fill_gemm(mka_kernels *k) {
    k->pack_bf16 = pack;
    k->gemm_bf16 = gemm;
}
