/* avx512_recall - the scan of key signs, and scores and sums over single rows, on AVX-512. */
#include "x86/vec_avx512.h"

#include "tmpl/scan.h"

#include "tmpl/rows.h"

#include "tmpl/batch.h"

#include "x86/vnni_cache.h"

void mka_avx512_rows_score_q8(int r, int d, int n, const float *q, const void *const *rows, float scale, float *s, int lds) {
    rows_score_q8(r, d, n, q, rows, scale, s, lds);
}
