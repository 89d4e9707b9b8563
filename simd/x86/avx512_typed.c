/* avx512_typed - kernels over rows of F32, F16 and BF16 on AVX512. */
#include "x86/vec_avx512.h"

#include "tmpl/typed.h"
