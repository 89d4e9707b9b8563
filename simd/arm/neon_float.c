/* neon_float - kernels over float32 rows on NEON. */
#include "arm/vec_neon.h"

#include "tmpl/float.h"
