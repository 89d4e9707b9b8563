/* avx2vnni_quant - kernels of the quantised types on AVX2 with AVX-VNNI, and the level's table. */
#include "levels.h"

void mka_avx2vnni_fill(mka_kernels *k) {
    (void)k; /* the base level's kernels */
}
