/* sse42_float - kernels over float32 rows on SSE4.2. */
#include "x86/vec_sse42.h"

#include "tmpl/float.h"
