/* neon_typed - kernels over rows of F32, F16 and BF16 on NEON. */
#include "arm/vec_neon.h"

#include "tmpl/typed.h"
