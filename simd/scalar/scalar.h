/* scalar - the parts of the scalar level, which is the meaning of every kernel and runs on any CPU. */
#ifndef MKA_SIMD_SCALAR_SCALAR_H
#define MKA_SIMD_SCALAR_SCALAR_H

#include "kernels.h"

void mka_scalar_fill_quant(mka_kernels *k);
void mka_scalar_fill_float(mka_kernels *k);
void mka_scalar_fill_typed(mka_kernels *k);
void mka_scalar_fill_cache(mka_kernels *k);
void mka_scalar_fill_recall(mka_kernels *k);

#endif
