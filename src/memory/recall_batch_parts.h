/* recall_batch_parts - what the files of recall in blocks share: a call, and a block of its queries. */
#ifndef MKA_MEMORY_RECALL_BATCH_PARTS_H
#define MKA_MEMORY_RECALL_BATCH_PARTS_H

#include "recall_batch.h"

enum {
    QUERIES_MOST = 32,        /* of a block: more read too much for each other */
    BLOCK_ROWS = 256,         /* at most */
    GATHERED = 16 * MKA_TILE, /* rows in tiles that are attended to at once */
    LDS = MKA_CLUSTERS_MOST + 16,
    WORDS = MKA_CLUSTERS_MOST / 64
};

typedef struct batch {
    const mka_recall_job *job;
    mka_batch_work *work;
    mka_ops *ops;
    int segments, blocks;
    float change; /* that leaving one cluster unread may make */
    atomic_int failed;
    mka_error error; /* of the first failure */
    mka_deal deal;
} batch;

/* A block of queries and one key/value head: row h n + i is query i of n under head h of the group. Scores are those of turned,
 * centred keys, and m is held against them. */
typedef struct block {
    batch *batch;
    int head, first, n, group, rows;
    float *x, *acc;               /* [rows][key_dim] turned and scaled; [rows][value_dim] */
    float *power;                 /* [group][key_dim] mean squares of the scaled queries before they were turned */
    float *s;                     /* [n][LDS] of one head */
    float *m, *z, *unread;        /* [rows] the attention so far, and what part of z was estimated */
    float *total;                 /* [rows] what z would be if all so far were estimated */
    float *c, *ones;              /* [n] */
    float *bias, *squares, *kept; /* [LDS] of one head's clusters */
    float *shares;                /* [LDS] likewise: logarithms */
    uint64_t *wanted;             /* [group][segments][WORDS] clusters that a head reads, a bit each */
    int *from, *to;               /* [rows] keys that a row attends to */
    unsigned char *keys, *values; /* tiles of BF16: of a segment's clusters, then for GATHERED rows */
    int gathered, waiting;        /* rows in tiles; tokens that make up the next tile */
    int tokens[MKA_TILE];         /* these */
    uint64_t scored, read, tiles; /* tokens that some head read; by every head that did; tiles of mean values */
} block;

/* WORDS of a head's clusters of one segment. */
static inline uint64_t *mka_batch_wanted(const block *b, int h, int segment_index) {
    return b->wanted + ((size_t)h * (size_t)b->batch->segments + (size_t)segment_index) * WORDS;
}

/* Estimates for all rows what of a segment their heads do not read, and chooses what they do. */
void mka_batch_estimate(block *b, int segment);

/* The clusters that a head of the group wants, of all segments. */
void mka_batch_read(block *b, int h);

#endif
