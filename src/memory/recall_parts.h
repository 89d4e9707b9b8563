/* recall_parts - what the files of the recall operation share: the states of a (query, head) pair, of its segments and parts. */
#ifndef MKA_MEMORY_RECALL_PARTS_H
#define MKA_MEMORY_RECALL_PARTS_H

#include <math.h>

#include "ops/attend.h"
#include "recall.h"

enum {
    SCORE_LDS = MKA_CLUSTERS_MOST + 16,
    BATCH = MKA_SIFT_MOST, /* rows read at once */
    BATCH_LDS = BATCH + 16,
    MOST_ROWS = 64,   /* query heads of a group */
    MOST_PIECES = 40, /* parts of a local tier */
    MOST_EXTRAS = 128 /* parts beside those of runs and pieces, all pairs together */
};

/* One query and one key/value head: r rows, those of the group's query heads. This and the next two are views, which say where
 * numbers lie: what threads hand each other is numbers alone, close together. */
typedef struct pair {
    int r, head;
    float *x;         /* [r][key_dim] turned and scaled */
    float *power;     /* [r][key_dim] squares of the scaled query before it was turned */
    float *constant;  /* [r] x . centre */
    float *length;    /* [r] |x|, rounded up */
    float *m, *z;     /* [r] of the local tier, once phase 2 is done */
    float *log_total; /* [r] logarithm of the estimated partition sum */
    float *least;     /* [r] logarithm of the weights up to which a token's value is not read; -inf: all are */
    float *bar;       /* [r] clusters whose key (recall_score.c) is larger are read */
    float *unread;    /* [r] share of the partition sum that was estimated or left out, once the row is done */
} pair;

/* A segment as a pair has scored it. */
typedef struct segment {
    float *logs;      /* [r][SCORE_LDS] of clusters: logarithms of their weights; certified: of what these can be at most */
    float *weights;   /* [r][SCORE_LDS] estimated: the weights, relative to m; once clusters are listed those of the clusters that
                         are not read, relative to the row's estimated total */
    float *gain;      /* [r] the deviation of scores within a cluster, over that of its keys */
    float *m, *z;     /* [r] sum of the weights */
    uint64_t *wanted; /* [MKA_CLUSTERS_MOST / 64] a bit for each cluster that is to be read */
} segment;

/* What attention over some of a pair's tokens has come to: what is read of a run of segments, or some of it, or a piece of the
 * local tier. */
typedef struct part {
    int *scored, *read; /* tokens */
    int *tiles;         /* of mean values that were read */
    float *m, *z;       /* [r] */
    float *unread;      /* [r] part of z that was estimated, or weights that were left out */
    float *acc;         /* [r][value_dim] */
} part;

/* A pair's tokens are read in parts: pieces of the local tier, where the job has one; runs of segments; and where more than step
 * tokens of a run are wanted, as in the few stretches of a text that a query is about, further parts for step of them each. So
 * there are enough parts for the threads, none that others have to wait for, and not too many to merge; which depends on the
 * lengths and weights alone. */
typedef struct recall {
    const mka_recall_job *job;
    mka_recall_work *work;
    mka_ops *ops;
    int first, n; /* queries of this round */
    int segments;
    int run, runs;              /* segments of a run, and runs */
    int pieces;                 /* of the local tier */
    int step;                   /* wanted tokens of a part */
    mka_attend_pieces local[2]; /* the pieces, one job after the other */
    atomic_int failed;
    mka_error error; /* of the first failure */
    mka_deal deal[2];
} recall;

pair mka_pair_at(const recall *r, size_t index);
segment mka_segment_at(const recall *r, size_t pair_index, int index);
part mka_part_at(const recall *r, size_t pair_index, int index);

static inline size_t mka_recall_group(const recall *r) {
    return (size_t)(r->job->heads / r->job->longterm->shape.kv_heads);
}

/* Where the job has row i of a pair: query * heads + query head. */
static inline size_t mka_recall_row(const recall *r, size_t pair_index, int i) {
    size_t kv_heads = (size_t)r->job->longterm->shape.kv_heads, group = (size_t)r->job->heads / kv_heads;
    return ((size_t)r->first * kv_heads + pair_index) * group + (size_t)i;
}

/* By which leaving one cluster unread may change the output. */
static inline float mka_recall_change(const recall *r) {
    return MKA_RECALL_ERROR / sqrtf((float)(r->segments * r->job->longterm->clusters));
}

/* The parts of a pair: those of the local tier, of runs, and further ones. */
static inline int mka_recall_parts(const recall *r, size_t pair_index) {
    return r->pieces + r->runs + r->work->starts[pair_index + 1] - r->work->starts[pair_index];
}

void mka_recall_prepare(const recall *r, size_t pair_index, int row);
/* next: NULL, or the index of the segment that this thread is likely to score next. */
void mka_recall_score(const recall *r, size_t pair_index, int segment_index, const unsigned char *next);
/* The totals of a row, and what the pair's clusters are chosen by where that depends on the row alone: */
void mka_recall_total(const recall *r, size_t pair_index, int row);
/* or else on all rows' totals. 0: it does not. */
int mka_recall_chooses_together(const mka_recall *rule);
void mka_recall_choose(const recall *r, size_t pair_index);
/* Says which clusters of a run are to be read, makes weights of the others, and returns the tokens that are to be read. */
int mka_recall_list(const recall *r, size_t pair_index, int run);
/* Reads tokens turn * step.. of those of a run that are wanted, up to step of them. */
void mka_recall_read(recall *r, size_t pair_index, int run, int turn, int part_index, unsigned char *scratch);
/* Once all is read: adds to the run's first part what stands in for what is not. */
void mka_recall_rest(const recall *r, size_t pair_index, int run);
/* Adds the parts' states to what a row of the pair has, in numbers from..to - 1 of its output, and finishes it. */
void mka_recall_merge(const recall *r, size_t pair_index, int row, int from, int to);

/* Bytes of a thread's scratch that reading needs. */
size_t mka_recall_scratch(const mka_recall_limits *limits);

#endif
