/* avx2_float - kernels over float32 rows on AVX2. */
#include "x86/vec_avx2.h"

#include "tmpl/float.h"
