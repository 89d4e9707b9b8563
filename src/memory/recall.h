/* recall - attention over the long-term tier: score the clusters, choose, read the rows that matter, estimate the rest.
 *
 *   0 prepare   turns the query rows                                                              an item = (query, query head)
 *   1 attend    the local tier, for a decoded token: by itself it would not feed all threads      (key/value head, piece)
 *     score     the estimated weights of a segment's clusters (certified: upper bounds of them), and their sum
 *                                                                                    (query, key/value head, run of segments)
 *   2 total     all estimates of a row together, and from which weight on clusters of the head are read     as 0
 *     list      which clusters those are, and so how much is to be read where                                as score
 *   3 read      rows of the chosen clusters, exactly: (m, z, acc) of the part                              as list, or less
 *     rest      mean values for the others                                                               as list
 *   4 merge     the parts, and what out comes with                                                  as 0, or slices of it
 *
 * Phases are separated by barriers of one run of the threads. Items never share sums, so that results do not depend on the number
 * of threads. */
#ifndef MKA_MEMORY_RECALL_H
#define MKA_MEMORY_RECALL_H

#include <mka/memory.h>
#include <stdalign.h>
#include <stdatomic.h>

#include "longterm.h"
#include "ops/ops.h"

/* ---- the choice ---- */

/* A cluster is read where leaving it unread would change some row's output by more than this over the root of the number of
 * clusters: by so much, then, as independent errors add up, if all that are left were as bad. The change is the share of the
 * cluster in the softmax, times the deviation of weights within it, over the root of its tokens. Chosen by what it does to the
 * next token of SmolLM2 and Gemma 3 (bench/RESULTS.md). */
#define MKA_RECALL_ERROR 0.012F

/* The same where a head does not read what others of its group want (recall_batch.h): as much is left unread then with this. */
#define MKA_RECALL_ERROR_ALONE 0.008F

/* Of a cluster that is read, values of tokens that weigh more than this part of that in some row; its mean value stands in for
 * the others. */
#define MKA_RECALL_VALUE 0.15F

/* Clusters whose mean values lie in one tile, and of which no row gives all together more than so many times that, have the mean
 * value of the segment instead: their tile is not read. */
#define MKA_RECALL_TILE 2.0F

/* ---- the operation ---- */

/* What the operation works in; one for all layers of a session. */
typedef struct mka_recall_limits {
    int head_rows;          /* query heads of one key/value head, at most */
    int kv_heads;           /* at most */
    int key_dim, value_dim; /* at most */
    int segment;            /* tokens of one */
    int context;            /* tokens */
} mka_recall_limits;

/* How many of its items a thread has begun, in the phases that score and read; 0 between calls. */
typedef struct mka_recall_turns {
    alignas(64) atomic_size_t next[2];
} mka_recall_turns;

typedef struct mka_recall_work {
    mka_recall_limits limits;
    int queries, segments, parts;                 /* of one round; of one (query, head) */
    size_t pair_bytes, segment_bytes, part_bytes; /* of one (query, head), one segment and one part of it */
    size_t score_floats, thread_bytes;            /* of one segment, one thread */
    unsigned char *pairs, *segment_states;        /* [queries * kv_heads], [.. * segments] */
    unsigned char *part_states, *threads;         /* [queries * kv_heads * parts], [threads] */
    int *counts, *extras, *starts; /* [.. * segments] wanted tokens of a run; [.. * (segments + 1)] parts beside the first of a
                                      pair's runs before one; [.. + 1] of the pairs before one */
    float *scores;                 /* [queries * kv_heads * segments] */
    mka_recall_turns *turns;       /* [threads] */
} mka_recall_work;

/* Lays the buffers out in arena (measuring or carving; see base/arena.h). threads: of the engine. */
void mka_recall_layout(mka_recall_work *work, const mka_recall_limits *limits, int threads, mka_arena *arena);

/* n queries that all see the first blocks blocks. q [n][heads][key_dim]; m, z [n][heads] and out [n][heads][value_dim] come with
 * the state of the local tier (as mka_attend_job leaves them), or of nothing where that is part of the job, and leave with out
 * finished. used is added to. MKA_IO: rows could not be read, out means nothing. */
typedef struct mka_recall_job {
    mka_longterm *longterm;
    int blocks, n, heads;
    float scale;
    const float *q;
    float *m, *z, *out;
    const mka_attend_job *local; /* NULL, or [2]: attention of the local tier, of one query (n is 1) */
    const mka_recall *rule;
    mka_used *used;
    mka_head_used *heads_used; /* NULL, or [kv_heads]: their used is added to as well */
    float *read;               /* NULL, or [n][heads]: gets the logarithm of the partition sum of what was read */
} mka_recall_job;

/* *to += *more */
void mka_used_add(mka_used *to, const mka_used *more);

mka_status mka_recall_run(mka_recall_work *work, mka_ops *ops, const mka_recall_job *job, mka_error *error);

/* MKA_BAD_ARGUMENT names what is out of range. */
mka_status mka_recall_check(const mka_recall *rule, mka_error *error);

#endif
