/* avx2_recall - the scan of key signs, and scores and sums over single rows, on AVX2. */
#include "x86/vec_avx2.h"

#include "tmpl/scan.h"

#include "tmpl/rows.h"

#include "tmpl/batch.h"
