/* placement - which NUMA node holds which part of the caches, and where they are found to lie.
 *
 *   plan   once a session: mode, and the places that heads (or stretches of their tokens) are shared out over (base/places.h)
 *   bind   each array of a layer's tiers, before it is touched: all go head by head, so a place's share is one range of each; a
 *          spill file's cache, in zones; copies of weights, by rows
 *   ask    where the touched pages are, against the plan
 *
 * A page that two places share goes to the first. A node that fills up passes pages on to others rather than have the program
 * killed. Where binding is refused the plan still says who reads what, and pages lie where they were first written.
 *
 * Nodes without CPUs are used only where they were named. One with more bandwidth than the places' own (HBM) takes all that is
 * read at every token; any other (CXL) takes the long-term rows, of which few are read. */
#ifndef MKA_MEMORY_PLACEMENT_H
#define MKA_MEMORY_PLACEMENT_H

#include "base/places.h"
#include "base/topology.h"
#include "tiers.h"

typedef struct mka_placement {
    const mka_topology *topology; /* borrowed */
    mka_numa_mode mode;           /* what is done: never MKA_NUMA_AUTO */
    mka_places places;
    int threads[MKA_MOST_PLACES];     /* of each place */
    int resident[MKA_MOST_PLACES];    /* the node that holds a place's local tier, signs and means, */
    int rows[MKA_MOST_PLACES];        /* and the one that holds its long-term rows */
    int turns, turn[MKA_MOST_PLACES]; /* interleaved: the nodes */
    mka_error refused;                /* why the first binding that failed did */
} mka_placement;

/* MKA_BAD_ARGUMENT: mode is none. topology must outlive the placement; threads: of the pool. */
mka_status mka_placement_plan(mka_placement *placement, const mka_topology *topology, int threads, mka_numa_mode mode,
                              mka_error *error);

/* What the operations share work out by, or NULL. */
const mka_places *mka_placement_places(const mka_placement *placement);

/* Places all arrays of one cache. MKA_UNSUPPORTED: the system refuses, now or before; refused says why. */
mka_status mka_placement_bind(mka_placement *placement, const mka_tiers *tiers);

/* The same for what rows of long-term tiers go through on their way from a spill file: each zone is that of a place. */
mka_status mka_placement_bind_spill(mka_placement *placement, const mka_spill *spill);
/* And for a matrix of rows, which is cut by rows as products share them out. */
mka_status mka_placement_bind_rows(mka_placement *placement, unsigned char *data, size_t rows, size_t row_bytes);

/* One line of log after the last bind: what the plan is, or why it is not kept. */
void mka_placement_log(const mka_placement *placement, const mka_engine *engine);

/* report begins with the plan; then every cache's pages are added. */
void mka_placement_report(const mka_placement *placement, mka_numa_report *report);
void mka_placement_ask(const mka_placement *placement, const mka_tiers *tiers, mka_numa_report *report);
void mka_placement_ask_spill(const mka_placement *placement, const mka_spill *spill, mka_numa_report *report);
void mka_placement_ask_rows(const mka_placement *placement, unsigned char *data, size_t rows, size_t row_bytes,
                            mka_numa_report *report);

/* Calls range for every run of pages with one node, in order: node -1 where pages take turns or lie anywhere. */
typedef void mka_range_fn(void *user, unsigned char *pages, size_t bytes, int node);
void mka_placement_walk(const mka_placement *placement, const mka_tiers *tiers, mka_range_fn *range, void *user);
void mka_placement_walk_spill(const mka_placement *placement, const mka_spill *spill, mka_range_fn *range, void *user);
void mka_placement_walk_rows(const mka_placement *placement, unsigned char *data, size_t rows, size_t row_bytes,
                             mka_range_fn *range, void *user);

#endif
