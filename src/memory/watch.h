/* watch - what recall does head by head, and how far its answers are from dense attention over the same stored cache.
 *
 * Off unless a session is asked to watch (mka_session_watch): then every head counts, and where compare is set the queries of
 * calls with a single token are answered a second time by reading everything. What the session computes stays the same. */
#ifndef MKA_MEMORY_WATCH_H
#define MKA_MEMORY_WATCH_H

#include "tiers.h"

typedef struct mka_watch {
    int count, compare;   /* what is wanted */
    int heads, value_dim; /* at most */
    int comparing;        /* the present call is compared */
    float *read, *whole;  /* [heads] logarithms of partition sums: of what was read, of all */
    float *out;           /* [heads][value_dim] */
} mka_watch;

/* NULL: no memory. */
mka_watch *mka_watch_create(int heads, int value_dim);
void mka_watch_destroy(mka_watch *watch);

/* Where the heads of a layer are counted; NULL while nobody watches. */
static inline mka_head_used *mka_watch_heads(const mka_tiers *tiers) {
    return tiers->heads && tiers->shared->watch->count ? tiers->heads : NULL;
}

/* Counts bytes that a call read of the local tier, and what dense attention would have. */
void mka_watch_local(mka_tiers *tiers, const mka_attend_job *job, uint64_t bytes);

/* One query's output [heads][value_dim] against the watch's own, which dense attention gave, and what was read of its softmax. */
void mka_watch_note(const mka_watch *watch, mka_head_used *heads_used, int heads, int kv_heads, int value_dim, const float *out);

/* Around the recall of a job: keeps the local tier's state, then compares. The job's read is set by the first. */
void mka_watch_begin(mka_watch *watch, mka_recall_job *job);
void mka_watch_compare(mka_watch *watch, mka_recall_work *work, mka_ops *ops, const mka_recall_job *job);

#endif
