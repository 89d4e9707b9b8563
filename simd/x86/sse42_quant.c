/* sse42_quant - kernels of the quantised types on SSSE3 and SSE4.2, and the level's table. */
#include "x86/q_sse42.h"

#define LEVEL(name) mka_sse42_##name
#include "levels.h"
#include "tmpl/quant.h"

void mka_sse42_fill_float(mka_kernels *k);
void mka_sse42_fill_typed(mka_kernels *k);
void mka_sse42_fill_cache(mka_kernels *k);
void mka_sse42_fill_recall(mka_kernels *k);

void mka_sse42_fill(mka_kernels *k) {
    mka_sse42_fill_float(k);
    mka_sse42_fill_typed(k);
    mka_sse42_fill_cache(k);
    mka_sse42_fill_recall(k);
    mka_sse42_fill_quant(k);
}
