/* neon_cache - attention over cache tiles on NEON. */
#include "arm/vec_neon.h"

#include "tmpl/cache.h"
