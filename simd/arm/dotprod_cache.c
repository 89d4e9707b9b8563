/* dotprod_cache - attention over 8-bit and 4-bit cache tiles on AArch64 with dot products. */
#include "arm/dot_cache.h"

void mka_dotprod_fill_cache(mka_kernels *k);
void mka_dotprod_fill_cache(mka_kernels *k) {
    fill_quant_cache(k);
}
