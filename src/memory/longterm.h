/* longterm - the long-term tier of one layer: closed segments of up to 2,048 tokens that never change again.
 *
 *   index   [kv_heads][segments]      what every query reads of a segment: its clusters (cluster.h)
 *   records [kv_heads][blocks]        the rows, a segment's in order of its clusters: 64 turned keys, then 64 values; read where
 *                                     recall wants them
 *   centre  [kv_heads][key_dim]       turned; frozen before the first segment closes
 *
 * A segment of the index:
 *
 *   centroids  key tiles of 32, Q8      mean keys of the clusters: a query is scored against them as against any keys
 *   channels   [key_dim] floats         how the squares of keys' distances from them spread over the numbers of a key that is not
 *                                       turned; sum 1
 *   directory                           how many tokens each has, where they lie, and how far they are from the centroid
 *   middle     [value_dim] floats       the mean value of all
 *   means      value tiles of 32, Q8    mean values of the clusters, which stand in for what is not read
 *
 * What every query reads comes first, and in the order in which it does: a scan asks for memory well ahead of itself.
 *
 * Room for capacity is reserved at once; pages are committed as segments close. Keys are stored turned and less the centre. */
#ifndef MKA_MEMORY_LONGTERM_H
#define MKA_MEMORY_LONGTERM_H

#include "cluster.h"
#include "keycode.h"
#include "records.h"

enum { MKA_BLOCK = 64 };

typedef struct mka_longterm_shape {
    int kv_heads, key_dim, value_dim;
    mka_type key_type, value_type; /* of the rows */
    int segment;                   /* tokens that close at once */
    int capacity;                  /* tokens; rounded up to whole segments */
} mka_longterm_shape;

/* The clusters of a segment. A cluster without tokens has -inf, 0, -inf, 0. */
typedef struct mka_directory {
    float log_count[MKA_CLUSTERS_MOST]; /* logarithm of its tokens */
    float deviation[MKA_CLUSTERS_MOST]; /* root of the mean |key - centroid|^2, as both are stored, and of what rounding a query
                                           adds */
    float worth[MKA_CLUSTERS_MOST];     /* log(deviation / sqrt(tokens)) */
    uint16_t start[MKA_CLUSTERS_MOST + 32]; /* its first row, of the segment's; one more than there are clusters */
    float radius[MKA_CLUSTERS_MOST];        /* the largest |key - centroid|, rounded up */
} mka_directory;

typedef struct mka_longterm {
    mka_longterm_shape shape;
    size_t key_row, value_row, key_tile, mean_tile; /* bytes */
    size_t segment;                                 /* bytes of a segment of the index */
    size_t segments, capacity;                      /* of one head: segments, and their blocks */
    int clusters, tiles, segment_blocks;            /* of a segment: clusters, their tiles, blocks */
    size_t bytes;                                   /* reserved for the index */
    int blocks;                                     /* closed, whole segments */
    unsigned char *index;
    float *centre;
    mka_records records;
} mka_longterm;

/* How many tokens a segment has beside a window of so many: about twice as many, so that what waits to be closed is no more than
 * a window on average. */
int mka_longterm_segment(int window);

/* Bytes that one token takes on average: resident always (the index), and of its rows. */
size_t mka_longterm_index_bytes(const mka_longterm_shape *shape);
size_t mka_longterm_row_bytes(const mka_longterm_shape *shape);

/* Reserves the pages; records go to spill unless that is NULL. On failure longterm is all zero. */
mka_status mka_longterm_create(const mka_longterm_shape *shape, mka_spill *spill, mka_longterm *longterm, mka_error *error);
void mka_longterm_destroy(mka_longterm *longterm);

/* Bytes that mka_longterm_close works in, a multiple of 64: its points come first. */
size_t mka_longterm_scratch(int segment, int key_dim, int value_dim);

/* Closes one segment of one head. scratch begins with its tokens, [segment][key_dim + value_dim]: keys as they were
 * appended, and values. Not counted until mka_longterm_count says how many blocks all heads have. On failure it can be closed
 * again. */
mka_status mka_longterm_close(mka_longterm *longterm, const mka_kernels *kernels, int head, int segment, void *scratch,
                              mka_error *error);
void mka_longterm_count(mka_longterm *longterm, int blocks);

/* Forgets blocks from blocks on, which begins a segment. 0: the centre too. */
void mka_longterm_cut(mka_longterm *longterm, int blocks);

/* Where a head's segment of the index lies, and its parts. */
static inline unsigned char *mka_longterm_index(const mka_longterm *l, int head, int segment) {
    return l->index + ((size_t)head * l->segments + (size_t)segment) * l->segment;
}
static inline float *mka_longterm_channels(const mka_longterm *l, unsigned char *index) {
    return (float *)(void *)(index + (size_t)l->tiles * l->key_tile);
}
static inline mka_directory *mka_longterm_directory(const mka_longterm *l, unsigned char *index) {
    return (mka_directory *)(void *)(mka_longterm_channels(l, index) + l->shape.key_dim);
}
static inline float *mka_longterm_middle(const mka_longterm *l, unsigned char *index) {
    return (float *)(void *)(mka_longterm_directory(l, index) + 1);
}
static inline unsigned char *mka_longterm_means(const mka_longterm *l, unsigned char *index) {
    return index + l->segment - (size_t)l->tiles * l->mean_tile;
}
static inline size_t mka_longterm_record(const mka_longterm *l, int head, int block) {
    return (size_t)head * l->capacity + (size_t)block;
}

#endif
