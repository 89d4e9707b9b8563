/* avx2_cache - attention over cache tiles on AVX2. */
#include "x86/vec_avx2.h"

#include "tmpl/cache.h"
