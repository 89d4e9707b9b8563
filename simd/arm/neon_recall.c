/* neon_recall - the scan of key signs, and scores and sums over single rows, on NEON. */
#include "arm/vec_neon.h"

#include "tmpl/scan.h"

#include "tmpl/rows.h"

#include "tmpl/batch.h"
