/* tiers_parts - what the files of the tiers share: tiers.c has what they are made of, cut back and saved, tiers_close.c what goes
 * from the local tier to the long-term one, tiers_attend.c who answers a query. */
#ifndef MKA_MEMORY_TIERS_PARTS_H
#define MKA_MEMORY_TIERS_PARTS_H

#include "tiers.h"

enum { MKA_TIERS_DIM = MKA_CODE_DIM }; /* of keys and values, at most */

/* Closed blocks that the query at a position leaves behind its window: whole segments. */
static inline int mka_tiers_behind(const mka_tiers *t, int position) {
    if (!t->shared) return 0;
    int blocks = mka_blocks_behind(t->shared->plan.sinks, t->shared->plan.window, position);
    return blocks / t->longterm.segment_blocks * t->longterm.segment_blocks;
}

/* tiers_close.c */

/* Decides, by the query that is about to leave the first segment behind, whether rows are fit for this layer. */
void mka_tiers_judge(mka_tiers *tiers, mka_ops *ops, const mka_attend_job *job, const float *query);
/* Closes segments until so many blocks are; length: tokens that are stored. A failure is kept in shared. */
void mka_tiers_close(mka_tiers *tiers, mka_ops *ops, int blocks, int length);
/* The token up to which the local tier forgets behind so many closed blocks. */
int mka_tiers_forget_to(const mka_tiers *tiers, int blocks);

#endif
