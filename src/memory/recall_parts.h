/* recall_parts - what the files of the recall operation share: the state of a (query, head) pair and of a segment of it. */
#ifndef MKA_MEMORY_RECALL_PARTS_H
#define MKA_MEMORY_RECALL_PARTS_H

#include <stdatomic.h>

#include "recall.h"

enum {
    SCORE_LDS = MKA_CLUSTERS_MOST + 16,
    BATCH = 64, /* rows read at once */
    BATCH_LDS = BATCH + 16,
    MOST_ROWS = 64 /* query heads of a group */
};

/* One query and one key/value head: r rows, those of the group's query heads. */
typedef struct pair {
    int r, head;
    float *x;           /* [r][key_dim] turned and scaled */
    float *power;       /* [r][key_dim] squares of the scaled query before it was turned */
    float *constant;    /* [r] x . centre */
    float *length;      /* [r] |x|, rounded up */
    float *log_total;   /* [r] logarithm of the estimated partition sum */
    float *least;       /* [r] logarithm of the weights up to which a token's value is not read; -inf: all are */
    float change;       /* by which leaving one cluster unread may change the output */
    float *bar;         /* [r] clusters whose key (recall_score.c) is larger are read */
    const float *m, *z; /* [r] of the local tier */
    float *out;         /* [r][value_dim] */
    float *unread;      /* [r] share of the partition sum that was estimated or left out, once the row is done */
} pair;

typedef struct segment {
    int scored, read;   /* tokens */
    int tiles;          /* of mean values that were read */
    float *scores;      /* [r][SCORE_LDS] of clusters: logarithms of their weights; certified: of what these can be at most */
    float *gain;        /* [r] the deviation of scores within a cluster, over that of its keys */
    float *m, *z, *acc; /* [r], [r], [r][value_dim] */
    float *unread;      /* [r] part of z that was estimated, or weights that were left out */
} segment;

typedef struct recall {
    const mka_recall_job *job;
    mka_recall_work *work;
    mka_ops *ops;
    int first, n; /* queries of this round */
    int segments;
    atomic_int failed;
    mka_error error; /* of the first failure */
    mka_deal deal[2];
} recall;

pair *mka_pair_at(const recall *r, size_t index);
segment *mka_segment_at(const recall *r, size_t pair_index, int index);

/* Points a state's arrays to what follows it. */
void mka_pair_place(const recall *r, pair *p);
void mka_segment_place(const recall *r, segment *s);

void mka_recall_prepare(const recall *r, size_t pair_index);
void mka_recall_score(const recall *r, size_t pair_index, int segment_index, unsigned char *scratch);
void mka_recall_choose(const recall *r, size_t pair_index);
void mka_recall_read(recall *r, size_t pair_index, int segment_index, unsigned char *scratch);
void mka_recall_merge(const recall *r, size_t pair_index, int row);

/* The clusters of a segment that are to be read, a bit each. */
void mka_recall_wanted(const recall *r, const pair *p, const segment *s, int segment_index,
                       uint64_t wanted[MKA_CLUSTERS_MOST / 64]);

/* Bytes of a thread's scratch that scoring and reading need. */
size_t mka_recall_scratch(const mka_recall_limits *limits);

#endif
