/* recall_batch - recall for many queries at once: neighbouring queries share what they read of the long-term tier.
 *
 *   block     8 to 32 queries x the query heads of one key/value head, 256 rows at most: an item of work
 *   estimate  segment by segment: scores of all rows against its centroids; their weights; which clusters each head reads for its
 *             queries; mean values for the others
 *   read      head by head: rows of its clusters as tiles of bf16 keys and values, which its queries attend to as to any cache
 *
 * Every step is a product of matrices, which a query by itself has none of. The rule that chooses clusters is recall's own
 * (recall_score.c), asked not for each query but for those of a head together, which speak by the root of the mean square of the
 * shares that they give a cluster. Neighbours want much the same: what they share is little more than what one of them would
 * read, and their outputs are as close to dense attention as they would be by themselves (bench/RESULTS.md).
 *
 * A share is held against the sum of the local tier and of the segments up to its own, which is less than all there is: so a
 * cluster may be read that would not have to be, but none is missed that the whole sum would ask for. */
#ifndef MKA_MEMORY_RECALL_BATCH_H
#define MKA_MEMORY_RECALL_BATCH_H

#include "recall.h"

typedef struct mka_batch_work {
    mka_recall_limits limits;
    size_t thread_bytes;
    unsigned char *threads; /* [threads][thread_bytes] a block each */
    mka_used *used;         /* [blocks][kv_heads] */
    int *first;             /* [blocks + 1] first query of each, and how many there are */
} mka_batch_work;

/* Lays the buffers out in arena (measuring or carving). queries: of a call at most. */
void mka_batch_layout(mka_batch_work *work, const mka_recall_limits *limits, int queries, int threads, mka_arena *arena);

/* 1 for a job that blocks of queries can share: enough of them, estimates by effect, rows of 16 bits or fewer. */
int mka_batch_fits(const mka_ops *ops, const mka_recall_job *job);

/* As mka_recall_run, for a job that fits; m and z do not come back. */
mka_status mka_batch_run(mka_batch_work *work, mka_ops *ops, const mka_recall_job *job, mka_error *error);

#endif
