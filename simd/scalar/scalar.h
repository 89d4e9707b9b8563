/* scalar - the parts of the scalar level, which is the meaning of every kernel and runs on any CPU. */
#ifndef MKA_SIMD_SCALAR_SCALAR_H
#define MKA_SIMD_SCALAR_SCALAR_H

#include "kernels.h"

/* Sums in 16 lanes, as the vector levels do. */
static inline float scalar_dot(int d, const float *a, const float *b) {
    enum { LANES = 16 };
    float sum[LANES] = {0}, all = 0;
    for (int e = 0; e < d; e++) sum[e % LANES] += a[e] * b[e];
    for (int l = 0; l < LANES; l++) all += sum[l];
    return all;
}

void mka_scalar_fill_quant(mka_kernels *k);
void mka_scalar_fill_float(mka_kernels *k);
void mka_scalar_fill_typed(mka_kernels *k);
void mka_scalar_fill_cache(mka_kernels *k);
void mka_scalar_fill_recall(mka_kernels *k);

/* For the widths that levels leave to these. */
mka_rows_tile_fn mka_scalar_rows_keys_bf16, mka_scalar_rows_keys_q8, mka_scalar_rows_keys_q4;
mka_rows_tile_fn mka_scalar_rows_values_bf16, mka_scalar_rows_values_q8, mka_scalar_rows_values_q4;

#endif
