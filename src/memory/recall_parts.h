/* recall_parts - what the files of the recall operation share: the state of a (query, head) pair and of a segment of it. */
#ifndef MKA_MEMORY_RECALL_PARTS_H
#define MKA_MEMORY_RECALL_PARTS_H

#include <stdatomic.h>

#include "recall.h"

enum {
    SEGMENT_BLOCKS = 64,
    SEGMENT_TOKENS = SEGMENT_BLOCKS * MKA_BLOCK,
    SEGMENT_MEANS = SEGMENT_TOKENS / MKA_MEAN,
    LIST_MOST = SEGMENT_TOKENS, /* tokens that a segment lists; more raise its threshold */
    BATCH = 64,                 /* rows read at once */
    BATCH_LDS = BATCH + 16
};

/* One query and one key/value head: r rows, those of the group's query heads. */
typedef struct pair {
    int r, head;
    int longest;        /* the row with the longest query, whose signs err most */
    float *x;           /* [r][key_dim] turned and scaled */
    float *constant;    /* [r] x . centre */
    float *length;      /* [r] |x| */
    float *slack;       /* [r] how far a table's sum may be off */
    float *total;       /* [r] estimated partition sum, relative to the local m */
    float *near_share;  /* [r] what a weight of 1 is of the local z */
    float *share;       /* [r] and of the total */
    float *skip;        /* [r] certified: exact weights up to this are left out */
    float threshold;    /* listed tokens of a larger weight are read */
    mka_scan_row *rows; /* [r] */
    uint8_t *tables;
    const float *m, *z; /* [r] of the local tier */
    float *out;         /* [r][value_dim] */
} pair;

typedef struct segment {
    int listed;
    int scored, read;   /* tokens */
    float floor;        /* listed tokens (their chosen weight) weigh more than this, relative to the local z */
    int *tokens;        /* [LIST_MOST] */
    float *lifts;       /* [LIST_MOST] from the token's mean weight to the one that it is chosen by */
    float *keys;        /* [LIST_MOST] that one, the largest over the rows, relative to the local z */
    float *weights;     /* [LIST_MOST][r] relative to the local m */
    float *mass;        /* [r][SEGMENT_MEANS] of tokens that are not listed; certified: sums of bounds by exponent */
    float *sum;         /* [r] all estimated weights of the segment */
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

/* Tokens that may weigh more than this in some row of their group are read; what is estimated then has a root of summed squares
 * of at most a hundredth. Chosen by what it does to the next token of SmolLM2 and Gemma 3 (bench/RESULTS.md): at three times as
 * much the diffuse first layer suffers, at a third twice as many rows are read for little. */
#define MKA_RECALL_THRESHOLD 1e-4F

#define MKA_RECALL_MARGIN 0.0F  /* deviations of the sign's error that a token is given credit for */
#define MKA_RECALL_POWER  1.05F /* how much larger 2^x may be than the scan's */

pair *mka_pair_at(const recall *r, size_t index);
segment *mka_segment_at(const recall *r, size_t pair_index, int index);

/* Points a state's arrays to what follows it; phase 0 does so for pairs, phase 1 for segments. */
void mka_pair_place(const recall *r, pair *p);
void mka_segment_place(const recall *r, segment *s);

void mka_recall_prepare(const recall *r, size_t pair_index);
void mka_recall_scan(const recall *r, size_t pair_index, int segment_index, unsigned char *scratch);
void mka_recall_choose(const recall *r, size_t pair_index);
void mka_recall_read(recall *r, size_t pair_index, int segment_index, unsigned char *scratch);
void mka_recall_merge(const recall *r, size_t pair_index);

/* The weight that a listed token is chosen by, relative to the estimated partition sum. */
float mka_recall_weight(const pair *p, const segment *s, int entry);

/* Bytes of a thread's scratch that scan and read need. */
size_t mka_recall_scratch(const mka_recall_limits *limits);

#endif
