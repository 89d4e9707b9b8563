/* tiers - what one layer remembers of a sequence: the local tier, and for layers that see everything the long-term tier behind
 * it.
 *
 *   position  0 ..... sinks ......................... edge ................ length
 *             | local |      long-term, closed        |  local (window)     |
 *
 * edge(position) is where a query's window begins: sinks + the largest whole number of segments that leaves window tokens between
 * it and the query. It depends on the position alone, so that a prompt in chunks of any size and decoding token by token have the
 * same window. Segments close when a query comes whose window has left them behind.
 *
 * A layer whose keys the rows do not fit (huge biases, as in the first and last layer of Qwen2.5) finds that out before its
 * first segment closes, and stays local as a whole.
 */
#ifndef MKA_MEMORY_TIERS_H
#define MKA_MEMORY_TIERS_H

#include <mka/memory.h>

#include "local.h"
#include "recall_batch.h"

/* What the layers of a session share. */
struct mka_watch;
struct mka_tiers;

typedef struct mka_tiers_shared {
    mka_memory_plan plan;
    mka_recall_work work;
    mka_batch_work batch;
    float *m, *z;           /* [queries of a call][heads] running state of attention */
    unsigned char *closing; /* [closers][closing_bytes] segments on their way from one tier to the other */
    size_t closing_bytes;
    int closers;
    unsigned char *packing;     /* with a device: a segment as it lies there, on its way (there.h) */
    struct mka_tiers *expected; /* NULL, or tiers whose next query is guessed to be that of guess (mka_tiers_expect) */
    mka_attend_job guess;
    mka_used used;
    mka_spill *spill;        /* NULL: rows stay in memory */
    atomic_int failed;       /* not 0: a tier could not be written or read; error says why, and results mean nothing */
    mka_error error;         /* of the first failure; to be read when the threads are done */
    struct mka_watch *watch; /* NULL: nobody watches (watch.h) */
} mka_tiers_shared;

typedef struct mka_tiers {
    mka_local local;
    mka_longterm longterm;      /* index NULL: this layer has the local tier alone */
    mka_tiers_shared *shared;   /* borrowed; NULL likewise */
    int judged;                 /* 1: the rows were held against the keys */
    int dense;                  /* 1: they do not fit, nothing closes */
    int forgotten;              /* tokens sinks..forgotten - 1 are no longer in the local tier */
    mka_head_used *heads;       /* NULL, or [kv_heads] while somebody watches; owned */
    mka_device_longterm *there; /* the long-term tier's copy on the device that the local tier is on; NULL: it is not */
    int uncounted;              /* with it: 1: it has counted what nobody has asked for yet */
    mka_pool *pool;             /* with it: that lays out rows which stay here; NULL before the first call */
    mka_device_counts *counted; /* with it: [kv_heads] what was counted there when it was last asked, and room; owned */
} mka_tiers;

/* How much of the local tier is kept when closed segments leave it, at least (and at least a segment, so that the last tokens can
 * be taken back), and in what steps that happens; tokens. */
enum { MKA_FORGET_KEEP = 1024, MKA_FORGET_LEAST = 2048 };

/* Closed blocks that the query at a position leaves behind its window. */
static inline int mka_blocks_behind(int sinks, int window, int position) {
    int behind = position + 1 - window - sinks;
    return behind > 0 ? behind / MKA_BLOCK : 0;
}

/* Tokens that the local tier of such a layer holds at most: what is forgotten is given back in steps. */
int mka_tiers_local_tokens(const mka_local_shape *shape, const mka_memory_plan *plan);

/* 1 for a cache that can have a long-term tier: plain keys and values of widths that the codes are made for. */
int mka_tiers_fit(const mka_local_shape *shape, int heads);

/* Lays out what is shared (measuring or carving); its plan is set. queries: of one call at most; limits as for the recall
 * operation; there 1: some tiers may be on a device. */
void mka_tiers_layout(mka_tiers_shared *shared, const mka_recall_limits *limits, int queries, int heads, int threads, int there,
                      mka_arena *arena);

/* The failure of the calls since the last one, which is forgotten; MKA_OK when there was none. */
mka_status mka_tiers_failure(mka_tiers_shared *shared, mka_error *error);

/* MKA_BAD_ARGUMENT names what is out of range. */
mka_status mka_memory_plan_check(const mka_memory_plan *plan, mka_error *error);

/* shared NULL: a local tier alone. With a device in shape the long-term tier has a copy there (there.h). On failure tiers is all
 * zero. */
mka_status mka_tiers_create(const mka_local_shape *shape, mka_tiers_shared *shared, mka_tiers *tiers, mka_error *error);
void mka_tiers_destroy(mka_tiers *tiers);

/* As mka_local_store, and mka_local_turn_store. Where the local tier has no room for the whole context, segments close that
 * tokens push out of it before any query came. */
void mka_tiers_store(mka_tiers *tiers, mka_ops *ops, int first, int n, const float *keys, int key_ld, const float *values,
                     int value_ld);
void mka_tiers_turn_store(mka_tiers *tiers, mka_ops *ops, int first, int n, const mka_rotation *turn, float *keys, int key_ld,
                          const float *values, int value_ld);

/* Attention of a job's n queries at positions first.. over all tokens stored so far, which are first + n; the job's heads, scale,
 * q, out and window are set. weights (NULL: all matter): a query whose weight is 0 need not be answered, and where a run of them
 * has its blocks to itself nothing is read for it; out means nothing there. Blocks close whatever the weights are. */
void mka_tiers_attend(mka_tiers *tiers, mka_ops *ops, const mka_attend_job *job, const float *weights, int stride);

/* Whether a guess of the query at a position may save time: rows of these tiers come from memory to a device. To be asked once a
 * query. */
int mka_tiers_looks_ahead(const mka_tiers *tiers, int position);
/* Before mka_tiers_attend of one query of the tiers that are asked before these: the query at a position will be about like
 * job's, whose heads, scale and q are set. Rows that it would want are on their way while other things are computed; if the tiers
 * asked first recall nothing from a device, the guess is forgotten. No result depends on it. */
void mka_tiers_expect(mka_tiers *tiers, int position, const mka_attend_job *job);

/* Closes what the windows of the first length tokens' successors leave behind, as attention would, for tokens that were stored
 * without it. The rows are taken as fit. */
void mka_tiers_settle(mka_tiers *tiers, mka_ops *ops, int length);

/* 1 where the tokens from length on can be forgotten: the window of the next token must still be local. */
int mka_tiers_can_cut(const mka_tiers *tiers, int length);
void mka_tiers_cut(mka_tiers *tiers, int length);

/* What is not keys and values: saved and restored as it is. */
typedef struct mka_tiers_state {
    int32_t judged, dense, forgotten, blocks;
    int32_t near_base, near_held; /* of the local tier (near.h) */
} mka_tiers_state;

mka_tiers_state mka_tiers_get_state(const mka_tiers *tiers, int length);
/* For empty tiers that are about to be filled from a file with length tokens; returns 0 for a state that such tiers cannot
 * have; they are then to be emptied. Tiers on a device may take fewer local tokens than the file has (forgotten). */
int mka_tiers_set_state(mka_tiers *tiers, mka_ops *ops, int length, const mka_tiers_state *state);
/* They are filled: what a device has a copy of goes there. Failures are the tiers' and the device's. */
void mka_tiers_filled(mka_tiers *tiers);

/* The layer's rows are taken as not fit, of a layer that has length tokens and nothing closed. */
void mka_tiers_stay_dense(mka_tiers *tiers, mka_ops *ops, int length);

/* The first position of the window behind so many closed blocks. */
static inline int mka_tiers_edge(const mka_tiers *t, int blocks) {
    return t->shared->plan.sinks + blocks * MKA_BLOCK;
}

/* Keeps the first failure of a call. */
void mka_tiers_fail(mka_tiers_shared *shared, const mka_error *error);

/* Bytes that length tokens take in memory, all tiers together. */
size_t mka_tiers_bytes(const mka_tiers *tiers, int length);

#endif
