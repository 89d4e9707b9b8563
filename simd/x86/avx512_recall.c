/* avx512_recall - the scan of key signs, and scores and sums over single rows, on AVX-512. */
#include "x86/vec_avx512.h"

#include "tmpl/scan.h"

#include "tmpl/rows.h"

#include "tmpl/batch.h"
