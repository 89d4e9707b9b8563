/* avx512vnni_quant - kernels of the quantised types on AVX-512 with VNNI and BF16, and the level's table. */
#include "levels.h"

void mka_avx512vnni_fill_cache(mka_kernels *k);
void mka_avx512vnni_fill_gemm(mka_kernels *k);

void mka_avx512vnni_fill(mka_kernels *k) {
    mka_avx512vnni_fill_cache(k);
    mka_avx512vnni_fill_gemm(k);
}
