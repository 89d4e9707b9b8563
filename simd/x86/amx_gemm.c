/* amx_gemm - matrix products on AMX tiles, and the level's table. */
#include "levels.h"

void mka_amx_fill_cache(mka_kernels *k);

void mka_amx_fill(mka_kernels *k) {
    mka_amx_fill_cache(k);
}
