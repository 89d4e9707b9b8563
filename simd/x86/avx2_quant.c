/* avx2_quant - kernels of the quantised types on AVX2, and the level's table. */
#include "x86/q_avx2.h"

#define LEVEL(name) mka_avx2_##name
#include "levels.h"
#include "tmpl/quant.h"

void mka_avx2_fill_float(mka_kernels *k);
void mka_avx2_fill_typed(mka_kernels *k);
void mka_avx2_fill_cache(mka_kernels *k);
void mka_avx2_fill_recall(mka_kernels *k);

void mka_avx2_fill(mka_kernels *k) {
    mka_avx2_fill_float(k);
    mka_avx2_fill_typed(k);
    mka_avx2_fill_cache(k);
    mka_avx2_fill_recall(k);
    mka_avx2_fill_quant(k);
}
