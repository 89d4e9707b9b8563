/* stored - tiers as the regions of a saved file (format/snapshot.h), for sessions and memories alike: the same regions are
 * written from where they lie and read back into place, so nothing is converted or copied twice.
 *
 *   NAME first keys, values   the local tier's first tokens      NAME keys, values   its last ones, as far as not forgotten
 *   NAME near keys, values    its newest ones in 16 bits, beside a cache in four
 *   NAME centre               of the keys                        NAME index, rows          closed segments
 */
#ifndef MKA_MEMORY_STORED_H
#define MKA_MEMORY_STORED_H

#include "stored_there.h"

enum { MKA_STORED_REGIONS = 9 };

/* What the regions of tiers stand on besides: zero at first. */
typedef struct mka_stored {
    mka_stored_there there[MKA_STORED_REGIONS];
} mka_stored;

/* Fills regions [MKA_STORED_REGIONS] for tiers that are in state with length tokens, and returns how many there are. They borrow
 * the tiers' memory, and stored. name: at most 16 characters. */
size_t mka_stored_regions(mka_tiers *tiers, const mka_tiers_state *state, int length, const char *name, mka_stored *stored,
                          mka_region *regions);

#endif
