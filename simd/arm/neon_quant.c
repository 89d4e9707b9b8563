/* neon_quant - kernels of the quantised types on NEON, and the level's table. */
#include "arm/q_neon.h"

#define LEVEL(name) mka_neon_##name
#include "levels.h"
#include "tmpl/quant.h"

void mka_neon_fill_float(mka_kernels *k);
void mka_neon_fill_typed(mka_kernels *k);
void mka_neon_fill_cache(mka_kernels *k);
void mka_neon_fill_recall(mka_kernels *k);

void mka_neon_fill(mka_kernels *k) {
    mka_neon_fill_float(k);
    mka_neon_fill_typed(k);
    mka_neon_fill_cache(k);
    mka_neon_fill_recall(k);
    mka_neon_fill_quant(k);
}
