/* longterm - see longterm.h. Segments are closed in order, one head at a time, so that threads can share out heads. */
#include "longterm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/status.h"

/* A query in 8 bits moves a score by about this share of |x| |centroid| / sqrt(d), squared. */
static const float rounding = 1e-5F;

static size_t align(size_t bytes) {
    return (bytes + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
}

static size_t segment_bytes(int segment, int key_dim, int value_dim) {
    size_t tiles = (size_t)segment / MKA_CLUSTER_TOKENS / MKA_TILE;
    return tiles * (mka_key_tile_bytes(MKA_Q8_0, key_dim) + mka_value_tile_bytes(MKA_Q8_0, value_dim)) +
           align(sizeof(mka_directory) + (size_t)(key_dim + value_dim) * sizeof(float));
}

int mka_longterm_segment(int window) {
    int segment = MKA_SEGMENT_LEAST;
    while (segment < MKA_SEGMENT_MOST && segment <= window) segment *= 2;
    return segment;
}

size_t mka_longterm_index_bytes(const mka_longterm_shape *s) {
    return (size_t)s->kv_heads * (segment_bytes(s->segment, s->key_dim, s->value_dim) / (size_t)s->segment + 1);
}

size_t mka_longterm_row_bytes(const mka_longterm_shape *s) {
    return (size_t)s->kv_heads * (mka_row_bytes(s->key_type, s->key_dim) + mka_row_bytes(s->value_type, s->value_dim));
}

mka_status mka_longterm_create(const mka_longterm_shape *shape, mka_spill *spill, mka_longterm *l, mka_error *error) {
    *l = (mka_longterm){.shape = *shape,
                        .key_row = mka_row_bytes(shape->key_type, shape->key_dim),
                        .value_row = mka_row_bytes(shape->value_type, shape->value_dim),
                        .key_tile = mka_key_tile_bytes(MKA_Q8_0, shape->key_dim),
                        .mean_tile = mka_value_tile_bytes(MKA_Q8_0, shape->value_dim),
                        .segment = segment_bytes(shape->segment, shape->key_dim, shape->value_dim),
                        .segments = ((size_t)shape->capacity + (size_t)shape->segment - 1) / (size_t)shape->segment,
                        .clusters = shape->segment / MKA_CLUSTER_TOKENS,
                        .tiles = shape->segment / MKA_CLUSTER_TOKENS / MKA_TILE,
                        .segment_blocks = shape->segment / MKA_BLOCK};
    size_t heads = (size_t)shape->kv_heads;
    l->capacity = l->segments * (size_t)l->segment_blocks;
    int fits = mka_size_mul(heads * l->segment, l->segments, &l->bytes) && l->bytes <= SIZE_MAX / 4;
    l->centre = calloc(heads * (size_t)shape->key_dim, sizeof(float));
    if (fits && l->centre) l->index = mka_pages_map(l->bytes);
    if (!l->index) {
        mka_longterm_destroy(l);
        return mka_fail(error, MKA_NO_MEMORY, "the system gives no address space for a long-term memory of %d tokens",
                        shape->capacity);
    }
    mka_status status = mka_records_create(MKA_BLOCK * (l->key_row + l->value_row), l->capacity, shape->kv_heads,
                                           mka_places_stretch(l->capacity * MKA_BLOCK) / MKA_BLOCK, spill, &l->records, error);
    if (status) mka_longterm_destroy(l);
    return status;
}

void mka_longterm_destroy(mka_longterm *l) {
    if (l->index) mka_pages_unmap(l->index, l->bytes);
    mka_records_destroy(&l->records);
    free(l->centre);
    *l = (mka_longterm){.index = NULL};
}

/* ---- closing ---- */

/* A segment on its way into the tier. */
typedef struct closing {
    mka_longterm *longterm;
    const mka_kernels *kernels;
    int head, key_dim, dim;
    float *points; /* [segment][dim]: a token's key and value */
    uint16_t *order, *start;
    unsigned char *index;
} closing;

static size_t points_bytes(int segment, int key_dim, int value_dim) {
    return (size_t)segment * (size_t)(key_dim + value_dim) * sizeof(float);
}

/* What holds order and start. */
static size_t order_bytes(int segment) {
    return align(((size_t)segment + (size_t)segment / MKA_CLUSTER_TOKENS + 1) * sizeof(uint16_t));
}

size_t mka_longterm_scratch(int segment, int key_dim, int value_dim) {
    return points_bytes(segment, key_dim, value_dim) + order_bytes(segment) + mka_cluster_scratch(segment, key_dim, value_dim);
}

static float *point(const closing *c, int token) {
    return c->points + (size_t)token * (size_t)c->dim;
}

static void turn_keys(const closing *c) {
    const float *centre = c->longterm->centre + (size_t)c->head * (size_t)c->key_dim;
    for (int t = 0; t < c->longterm->shape.segment; t++) {
        float *key = point(c, t);
        mka_turn(c->key_dim, key);
        for (int i = 0; i < c->key_dim; i++) key[i] -= centre[i];
    }
}

/* Writes the rows of a block; the points become what they stand for. */
static void write_rows(const closing *c, int block, unsigned char *rows) {
    const mka_longterm *l = c->longterm;
    const mka_longterm_shape *s = &l->shape;
    for (int i = 0; i < MKA_BLOCK; i++) {
        float *key = point(c, c->order[block * MKA_BLOCK + i]), *value = key + c->key_dim;
        unsigned char *key_row = rows + (size_t)i * l->key_row,
                      *value_row = rows + MKA_BLOCK * l->key_row + (size_t)i * l->value_row;
        mka_put_row(s->key_type, c->kernels->store[s->key_type], s->key_dim, key, key_row);
        mka_get_row(s->key_type, s->key_dim, key_row, key);
        mka_put_row(s->value_type, c->kernels->store[s->value_type], s->value_dim, value, value_row);
        mka_get_row(s->value_type, s->value_dim, value_row, value);
    }
}

static mka_status write_segment(const closing *c, int segment, mka_error *error) {
    mka_records *records = &c->longterm->records;
    for (int b = 0; b < c->longterm->segment_blocks; b++) {
        size_t record = mka_longterm_record(c->longterm, c->head, segment * c->longterm->segment_blocks + b);
        unsigned char *rows = mka_records_put(records, record, error);
        if (!rows) return error->status;
        write_rows(c, b, rows);
        mka_status status = mka_records_commit(records, record, error);
        if (status) return status;
    }
    return MKA_OK;
}

/* Adds the tokens' distances from the centroid to the channels, and says their mean and their largest square. */
static void measure_cluster(const closing *c, int cluster, const float *centroid, double *channels, double *mean, double *most) {
    int d = c->key_dim, from = c->start[cluster], to = c->start[cluster + 1];
    *mean = *most = 0;
    for (int i = from; i < to; i++) {
        float rest[MKA_CODE_DIM], *key = point(c, c->order[i]);
        double square = 0;
        for (int e = 0; e < d; e++) {
            rest[e] = key[e] - centroid[e];
            square += (double)rest[e] * (double)rest[e];
        }
        *mean += square / (to - from);
        *most = fmax(*most, square);
        mka_turn_back(d, rest);
        for (int e = 0; e < d; e++) channels[e] += (double)(rest[e] * rest[e]);
    }
}

static void put_cluster(const closing *c, int cluster, double *channels) {
    const mka_longterm *l = c->longterm;
    int d = c->key_dim, from = c->start[cluster], count = c->start[cluster + 1] - from;
    float sum[2 * MKA_CODE_DIM] = {0}, centroid[MKA_CODE_DIM];
    double mean, most, squares = 0;
    for (int i = 0; i < count; i++) c->kernels->add(c->dim, point(c, c->order[from + i]), sum);
    for (int e = 0; e < c->dim && count; e++) sum[e] /= (float)count;
    unsigned char *keys = c->index + (size_t)(cluster / MKA_TILE) * l->key_tile,
                  *means = mka_longterm_means(l, c->index) + (size_t)(cluster / MKA_TILE) * l->mean_tile;
    mka_put_key(MKA_Q8_0, c->kernels->store[MKA_F32], d, sum, keys, cluster % MKA_TILE);
    mka_put_value(MKA_Q8_0, c->kernels->store[MKA_F32], l->shape.value_dim, sum + d, means, cluster % MKA_TILE);
    mka_get_key(MKA_Q8_0, d, keys, cluster % MKA_TILE, centroid);
    measure_cluster(c, cluster, centroid, channels, &mean, &most);
    for (int e = 0; e < d; e++) squares += (double)centroid[e] * (double)centroid[e];
    mka_directory *directory = mka_longterm_directory(l, c->index);
    float deviation = count ? sqrtf((float)mean + rounding * (float)squares) : 0;
    directory->log_count[cluster] = count ? logf((float)count) : -INFINITY;
    directory->deviation[cluster] = deviation;
    directory->worth[cluster] = deviation > 0 ? logf(deviation / sqrtf((float)count)) : -INFINITY;
    directory->radius[cluster] = (float)(sqrt(most) * (1 + 1e-6)) + 1e-30F;
}

static void put_middle(const closing *c) {
    int dim = c->dim - c->key_dim, tokens = c->longterm->shape.segment;
    float *middle = mka_longterm_middle(c->longterm, c->index);
    memset(middle, 0, (size_t)dim * sizeof *middle);
    for (int t = 0; t < tokens; t++) c->kernels->axpy(dim, 1 / (float)tokens, point(c, t) + c->key_dim, middle);
}

static void write_index(const closing *c) {
    const mka_longterm *l = c->longterm;
    double channels[MKA_CODE_DIM] = {0}, all = 0;
    mka_directory *directory = mka_longterm_directory(l, c->index);
    memset(directory, 0, sizeof *directory);
    memcpy(directory->start, c->start, ((size_t)l->clusters + 1) * sizeof *c->start);
    put_middle(c);
    for (int i = 0; i < l->clusters; i++) put_cluster(c, i, channels);
    for (int e = 0; e < c->key_dim; e++) all += channels[e];
    for (int e = 0; e < c->key_dim; e++)
        mka_longterm_channels(l, c->index)[e] = (float)(all > 0 ? channels[e] / all : 1.0 / c->key_dim);
}

mka_status mka_longterm_close(mka_longterm *l, const mka_kernels *kernels, int head, int segment, void *scratch,
                              mka_error *error) {
    const mka_longterm_shape *s = &l->shape;
    closing c = {.longterm = l,
                 .kernels = kernels,
                 .head = head,
                 .key_dim = s->key_dim,
                 .dim = s->key_dim + s->value_dim,
                 .points = scratch,
                 .index = mka_longterm_index(l, head, segment)};
    unsigned char *rest = (unsigned char *)scratch + points_bytes(s->segment, s->key_dim, s->value_dim);
    c.order = (uint16_t *)(void *)rest;
    c.start = c.order + s->segment;
    rest += order_bytes(s->segment);
    turn_keys(&c);
    mka_cluster(kernels, s->segment, s->key_dim, s->value_dim, c.points, rest, c.order, c.start);
    mka_status status = write_segment(&c, segment, error);
    if (!status) write_index(&c);
    return status;
}

void mka_longterm_count(mka_longterm *l, int blocks) {
    l->blocks = blocks;
}

void mka_longterm_cut(mka_longterm *l, int blocks) {
    size_t kept = (size_t)blocks, segments = kept / (size_t)l->segment_blocks;
    for (int head = 0; head < l->shape.kv_heads; head++) {
        mka_pages_discard(mka_longterm_index(l, head, (int)segments), (l->segments - segments) * l->segment);
        mka_records_forget(&l->records, mka_longterm_record(l, head, blocks), l->capacity - kept);
    }
    if (blocks == 0) memset(l->centre, 0, (size_t)l->shape.kv_heads * (size_t)l->shape.key_dim * sizeof(float));
    l->blocks = blocks;
}
