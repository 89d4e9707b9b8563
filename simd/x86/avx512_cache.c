/* avx512_cache - attention over cache tiles on AVX-512. */
#include "x86/vec_avx512.h"

#include "tmpl/cache.h"
#include "x86/vnni_cache.h"

void mka_avx512_score_f16(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    cache_score_f16(r, d, n, q, keys, scale, s, lds);
}

void mka_avx512_mix_f16(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    cache_mix_f16(r, d, n, s, lds, values, c, acc);
}
