/* stored - tiers as the regions of a saved file (format/snapshot.h), for sessions and memories alike: the same regions are
 * written from where they lie and read back into place, so nothing is converted or copied twice.
 *
 *   NAME first keys, values   the local tier's first tokens      NAME keys, values   its last ones, as far as not forgotten
 *   NAME near keys, values    its newest ones in 16 bits, beside a cache in four
 *   NAME centre               of the keys                        NAME index, rows          closed segments
 */
#ifndef MKA_MEMORY_STORED_H
#define MKA_MEMORY_STORED_H

#include "format/snapshot.h"
#include "tiers.h"

enum { MKA_STORED_REGIONS = 9 };

/* Fills regions [MKA_STORED_REGIONS] for a tier's present state and length tokens, and returns how many there are. They borrow
 * the tiers' memory. name: at most 16 characters. */
size_t mka_stored_regions(mka_tiers *tiers, int length, const char *name, mka_region *regions);

#endif
