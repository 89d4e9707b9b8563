/* avx512vnni_gemm - products of many rows on AVX512-BF16: 12 rows of activations times 32 rows of weights in 24 accumulators.
 *
 * Each step multiplies one pair of neighbouring elements: two loads of weights, and a broadcast for each row of activations. */
#include <string.h>

#include "levels.h"
#include "x86/bf16_panel.h"

enum { TOKENS = 12 };

/* ---- packing ---- */

/* 32 elements of one row, those from count on zero. */
PANEL_INLINE __m512i round32(const float *x, int count) {
    uint32_t mask = count >= 32 ? UINT32_MAX : (1u << count) - 1u;
    __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, x), high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

static void pack_half(int rows, int k, const float *w, int ldw, char *panel) {
    for (int i = 0; i < k; i += 32, panel += 16 * PANEL_STEP) {
        __m512i r[16];
        for (int j = 0; j < 16; j++) r[j] = j < rows ? round32(w + (size_t)j * (size_t)ldw + i, k - i) : _mm512_setzero_si512();
        transpose16(r);
        for (int j = 0; j < 16; j++) _mm512_store_si512(panel + PANEL_STEP * j, r[j]);
    }
}

static void pack(int rows, int k, const float *w, int ldw, void *panel) {
    pack_half(rows < 16 ? rows : 16, k, w, ldw, panel);
    if (rows > 16) pack_half(rows - 16, k, w + 16 * (size_t)ldw, ldw, (char *)panel + 64);
}

/* ---- products ---- */

/* T rows times 16 H rows of weights; masks tell which of those exist. T and H are constants where this is used. */
PANEL_INLINE void block(int T, int H, int k, const uint16_t *x, int ldx, const char *panel, const __mmask16 *mask, int more,
                        float *y, int ldy) {
    __m512 acc[TOKENS][2];
    GEMM_UNROLL for (int t = 0; t < T; t++) {
        for (int h = 0; h < H; h++)
            acc[t][h] = more ? _mm512_maskz_loadu_ps(mask[h], y + (size_t)t * (size_t)ldy + 16 * h) : _mm512_setzero_ps();
    }
    const char *from[TOKENS / 3]; /* three rows by one pointer: twelve would not fit the registers */
    size_t stride = (size_t)ldx * sizeof *x;
    for (int t = 0; t < T; t += 3) from[t / 3] = (const char *)x + (size_t)t * stride;
    for (size_t i = 0; i < (size_t)k * sizeof *x; i += 4, panel += PANEL_STEP) {
        __m512bh w[2];
        for (int h = 0; h < H; h++) w[h] = (__m512bh)_mm512_load_si512(panel + 64 * h);
        GEMM_UNROLL for (int t = 0; t < T; t++) {
            int32_t pair;
            memcpy(&pair, from[t / 3] + (size_t)(t % 3) * stride, sizeof pair);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            for (int h = 0; h < H; h++) acc[t][h] = _mm512_dpbf16_ps(acc[t][h], both, w[h]);
        }
        for (int t = 0; t < T; t += 3) from[t / 3] += 4;
    }
    GEMM_UNROLL for (int t = 0; t < T; t++) {
        for (int h = 0; h < H; h++) _mm512_mask_storeu_ps(y + (size_t)t * (size_t)ldy + 16 * h, mask[h], acc[t][h]);
    }
}

#define GEMM_BLOCKS(H)                                                                                                           \
    static void blocks_##H(int n, int k, const uint16_t *x, int ldx, const char *panel, const __mmask16 *mask, int more,         \
                           float *y, int ldy) {                                                                                  \
        for (; n >= TOKENS; n -= TOKENS, x += TOKENS * (size_t)ldx, y += TOKENS * (size_t)ldy)                                   \
            block(TOKENS, H, k, x, ldx, panel, mask, more, y, ldy);                                                              \
        for (; n >= 4; n -= 4, x += 4 * (size_t)ldx, y += 4 * (size_t)ldy) block(4, H, k, x, ldx, panel, mask, more, y, ldy);    \
        for (; n > 0; n--, x += ldx, y += ldy) block(1, H, k, x, ldx, panel, mask, more, y, ldy);                                \
    }
GEMM_BLOCKS(1)
GEMM_BLOCKS(2)

static void gemm(int n, int rows, int k, const uint16_t *x, int ldx, const void *panel, int more, float *y, int ldy) {
    uint32_t exist = rows >= 32 ? UINT32_MAX : (1u << rows) - 1u;
    __mmask16 mask[2] = {(__mmask16)exist, (__mmask16)(exist >> 16)};
    (rows > 16 ? blocks_2 : blocks_1)(n, panel_k(k), x, ldx, panel, mask, more, y, ldy);
}

void mka_avx512vnni_fill_gemm(mka_kernels *k);
void mka_avx512vnni_fill_gemm(mka_kernels *k) {
    k->pack_bf16 = pack;
    k->gemm_bf16 = gemm;
}
