/* sse42_recall - the scan of key signs, and scores and sums over single rows, on SSE4.2. */
#include "x86/vec_sse42.h"

#include "tmpl/scan.h"

#include "tmpl/rows.h"

#include "tmpl/batch.h"
