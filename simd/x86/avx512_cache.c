/* avx512_cache - attention over cache tiles on AVX-512. */
#include "x86/vec_avx512.h"

#include "tmpl/cache.h"
