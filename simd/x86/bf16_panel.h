/* bf16_panel - how AVX512-BF16 and AMX keep weights for products of many rows: [k / 2][32 rows][2], so that 64 bytes hold a pair
 * of neighbouring elements of 16 rows, which is what both units multiply in one step. */
#ifndef MKA_SIMD_X86_BF16_PANEL_H
#define MKA_SIMD_X86_BF16_PANEL_H

#include <immintrin.h>

#include "kernels.h"

#define GEMM_UNROLL  _Pragma("GCC unroll 16")
#define PANEL_INLINE static inline __attribute__((always_inline, unused))

/* Bytes from one pair of elements to the next. */
enum { PANEL_STEP = 4 * MKA_PANEL_ROWS };

PANEL_INLINE int panel_k(int k) {
    return (k + 31) / 32 * 32;
}

/* Turns 16 registers of 16 words into their transpose. */
PANEL_INLINE void transpose16(__m512i *r) {
    __m512i t[16];
    GEMM_UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    GEMM_UNROLL for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* r[4 g + c] holds columns c, c + 4, c + 8, c + 12 (one a lane) of rows 4 g..4 g + 3. */
    GEMM_UNROLL for (int c = 0; c < 4; c++) {
        t[c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
        t[4 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
        t[12 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    }
    GEMM_UNROLL for (int c = 0; c < 4; c++) {
        r[c] = _mm512_shuffle_i32x4(t[c], t[4 + c], 0x88);
        r[8 + c] = _mm512_shuffle_i32x4(t[c], t[4 + c], 0xdd);
        r[4 + c] = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0x88);
        r[12 + c] = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0xdd);
    }
}

#endif
