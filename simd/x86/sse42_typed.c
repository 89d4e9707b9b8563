/* sse42_typed - kernels over rows of F32, F16 and BF16 on SSE4.2. */
#include "x86/vec_sse42.h"

#include "tmpl/typed.h"
