/* sse42_cache - attention over cache tiles on SSE4.2. */
#include "x86/vec_sse42.h"

#include "tmpl/cache.h"
