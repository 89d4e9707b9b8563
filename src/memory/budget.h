/* budget - what a session's memory takes at most, and whether that fits into a limit, with a spill file if need be.
 *
 *   | workspace | local tiers | signs, means | places and sums of records | cache of records |  <= plan.ram
 *
 * The first four are needed whatever happens; what --ram leaves after them is the cache. */
#ifndef MKA_MEMORY_BUDGET_H
#define MKA_MEMORY_BUDGET_H

#include "tiers.h"

typedef struct mka_budget {
    uint64_t fixed;   /* bytes of all but the records, for the whole context */
    uint64_t records; /* bytes of these */
    uint64_t count;   /* how many */
    size_t largest;   /* bytes of one */
} mka_budget;

/* Adds one layer's cache, for calls of so many queries. tiered: it has a long-term tier; one on a device (shape->device) has that
 * alone in RAM. */
void mka_budget_add(mka_budget *budget, const mka_local_shape *shape, const mka_memory_plan *plan, int tiered);

/* Makes the spill (NULL in *spill when none is needed). work: bytes of the workspace; nodes: as for
 * mka_spill_create. MKA_BAD_ARGUMENT: the limit is too small;
 * the message says the least. */
mka_status mka_budget_open(const mka_budget *budget, const mka_memory_plan *plan, uint64_t work, int threads,
                           const mka_places *nodes, mka_spill **spill, mka_error *error);

#endif
