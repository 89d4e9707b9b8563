/* avx2_typed - kernels over rows of F32, F16 and BF16 on AVX2. */
#include "x86/vec_avx2.h"

#include "tmpl/typed.h"
