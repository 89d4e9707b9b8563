/* bf16_panel - how AVX512-BF16 and AMX keep weights for products of many rows: [k / 2][32 rows][2], so that 64 bytes hold a pair
 * of neighbouring elements of 16 rows, which is what both units multiply in one step. */
#ifndef MKA_SIMD_X86_BF16_PANEL_H
#define MKA_SIMD_X86_BF16_PANEL_H

#include <immintrin.h>

#include "kernels.h"

#define PANEL_INLINE static inline __attribute__((always_inline, unused))

/* Bytes from one pair of elements to the next. */
enum { PANEL_STEP = 4 * MKA_PANEL_ROWS };

PANEL_INLINE int panel_k(int k) {
    return (k + 31) / 32 * 32;
}

#endif
