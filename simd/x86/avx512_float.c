/* avx512_float - kernels over float32 rows on AVX512. */
#include "x86/vec_avx512.h"

#include "tmpl/float.h"
