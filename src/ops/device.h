/* device - what a compute device is to the rest of the library: opaque, opened by name, and worked with through the table of
 * ops.h. src/opencl is the only kind there is; a build without it has these functions too, and they say so.
 *
 *   device      context, queue, programs and memory; one an engine
 *   residents   copies of a model's weights there, made once, in their own types; one a model
 *   cache       keys and values of one layer there
 *   longterm    a copy of one layer's closed segments there (src/memory/longterm.h), which recall reads: all of them, or the
 * index alone with those rows that were read lately, the others being fetched from memory when recall wants them mirror      a
 * session's buffers there: an operation's operand at byte i of the arena is at byte i of the mirror
 */
#ifndef MKA_OPS_DEVICE_H
#define MKA_OPS_DEVICE_H

#include <mka/device.h>

typedef struct mka_device mka_device;
typedef struct mka_residents mka_residents;
typedef struct mka_device_cache mka_device_cache;
typedef struct mka_device_longterm mka_device_longterm;
struct mka_ops;
struct mka_matrix;

/* name: what follows "opencl": "", ":N" or ":NAME". memory: bytes that may be taken there, 0: what the device has. The engine
 * must outlive it, and gets its log lines. */
mka_status mka_device_open(mka_engine *engine, const char *name, uint64_t memory, mka_device **device, mka_error *error);
void mka_device_close(mka_device *device);
void mka_device_describe(const mka_device *device, mka_device_info *info);
/* As mka_engine_profile_device. */
mka_status mka_device_profile(mka_device *device, int on, mka_error *error);
void mka_device_get_usage(mka_device *device, mka_device_usage *usage);
/* As mka_device_limits_create; bytes are enough. */
mka_status mka_device_limits_open(mka_device *device, uint64_t bytes, mka_device_limits **limits, mka_error *error);
/* Bytes that can still be taken. */
uint64_t mka_device_room(mka_device *device);

mka_status mka_residents_create(mka_device *device, mka_residents **residents, mka_error *error);
void mka_residents_destroy(mka_residents *residents);
/* Copies a matrix there, where it is not yet. Its bytes must not change, nor go, while residents lives. */
mka_status mka_residents_add(mka_residents *residents, const struct mka_matrix *matrix, mka_error *error);
/* Matrices that take so many bytes in all are about to be added: room for just these is taken. */
void mka_residents_expect(mka_residents *residents, uint64_t bytes);
/* What a matrix takes there, padding included; 0 when it is there. */
uint64_t mka_residents_cost(mka_residents *residents, const struct mka_matrix *matrix);

typedef struct mka_device_cache_shape {
    int kv_heads, key_dim, value_dim;
    int shared; /* 1: a value is the first value_dim numbers of its key */
    mka_type key_type, value_type;
    int capacity, queries; /* tokens: in all, and of one pass at most */
} mka_device_cache_shape;

uint64_t mka_device_cache_bytes(const mka_device_cache_shape *shape);
mka_status mka_device_cache_create(mka_device *device, const mka_device_cache_shape *shape, mka_device_cache **cache,
                                   mka_error *error);
void mka_device_cache_destroy(mka_device_cache *cache);
/* Tokens from length on are forgotten. */
void mka_device_cache_truncate(mka_device_cache *cache, int length);
/* Tokens from..to - 1 are forgotten, of length; those behind them move to their places, so that the cache needs room for what is
 * left alone. from is the same at every call until the cache is truncated to nothing; both are multiples of 64. */
void mka_device_cache_forget(mka_device_cache *cache, int from, int to, int length);
/* The rows of a cache, as they lie there: a head's, one token after the other, in planes of numbers and of scales (the parts that
 * simd/cache.h takes slots apart into, numbers padded with zeros). Those of the ring are the newest tokens of a cache in four
 * bits once more in 16 bits (src/memory/near.h). */
typedef enum mka_device_plane {
    MKA_DEVICE_KEYS,
    MKA_DEVICE_VALUES,
    MKA_DEVICE_NEAR_KEYS,
    MKA_DEVICE_NEAR_VALUES
} mka_device_plane;
typedef struct mka_device_rows {
    mka_type type;
    size_t numbers, scales; /* bytes of a token */
} mka_device_rows;
mka_device_rows mka_device_cache_rows(const mka_device_cache *cache, mka_device_plane plane);
/* count tokens of a head from position first on, all of them on one side of those forgotten, to or from memory. What was queued
 * before is done first. A failure is the device's too. */
mka_status mka_device_cache_read(mka_device_cache *cache, mka_device_plane plane, int head, int first, int count, void *numbers,
                                 void *scales, mka_error *error);
mka_status mka_device_cache_write(mka_device_cache *cache, mka_device_plane plane, int head, int first, int count,
                                  const void *numbers, const void *scales, mka_error *error);
/* Returns 0 for a cache without a ring; else held is the first token that is there. */
int mka_device_cache_ring(const mka_device_cache *cache, int *held);
/* An empty cache is about to be filled by writes: gone tokens from `from` on have been forgotten, and those before held are not
 * in the ring. */
void mka_device_cache_restore(mka_device_cache *cache, int from, int gone, int held);
/* Makes room for capacity tokens, of which length are there. MKA_NO_MEMORY: it stays as it is. */
mka_status mka_device_cache_grow(mka_device_cache *cache, int capacity, int length, mka_error *error);

typedef struct mka_device_longterm_shape {
    int kv_heads, key_dim, value_dim;
    mka_type key_type, value_type;   /* of rows; those of the index are q8 */
    int segment, clusters, segments; /* tokens of a segment and its clusters, a multiple of 32; segments of a head at most */
    int ring;                        /* 0: all rows are there; else as many tokens' as were read last: mka_device_ring */
} mka_device_longterm_shape;

/* How a segment lies there: where its parts begin, in bytes. Numbers of a row are padded with zeros to 32 in q8 and q4, else to
 * 16; scales of 32 numbers are half floats. All but the index's own floats are as simd/rows.h has them, plane by plane. */
typedef struct mka_device_segment {
    /* index: [clusters] mean keys in q8; mean values with a float as scale of each; logarithm of the tokens, deviation, worth and
     * radius, floats; first rows, uint16 [clusters + 1]; mean value of all [value_dim]; channels [key_dim] */
    size_t points, point_scales, means, mean_scales, log_count, deviation, worth, radius, start, middle, channels, index;
    /* rows: [segment] keys, their scales, values, their scales */
    size_t keys, key_scales, values, value_scales, rows;
} mka_device_segment;

void mka_device_segment_layout(const mka_device_longterm_shape *shape, mka_device_segment *segment);

/* Tokens of a ring that serves well, for a shape whose own is not set yet; 0: the ring would hold all there are. */
int mka_device_ring(const mka_device *device, const mka_device_longterm_shape *shape);
/* A token in a ring, or on its way to it: its key at 0 and its value, as simd/rows.h has rows. Returns how many bytes. */
size_t mka_device_ring_place(const mka_device_longterm_shape *shape, size_t *value_at);
/* A cluster whose rows are wanted there: its number, (head * segments + segment) * clusters + cluster, and the place of its first
 * token in the room that they are laid out in. */
typedef struct mka_device_missing {
    uint32_t cluster, at;
} mka_device_missing;

uint64_t mka_device_longterm_bytes(const mka_device_longterm_shape *shape);
mka_status mka_device_longterm_create(mka_device *device, const mka_device_longterm_shape *shape, mka_device_longterm **longterm,
                                      mka_error *error);
void mka_device_longterm_destroy(mka_device_longterm *longterm);
/* count rows x [count][key_dim] from row first on of what queries are turned by: row 0 the signs by which numbers are flipped
 * before they are turned, then a centre for every head. Failures as below. */
void mka_device_longterm_frame(mka_device_longterm *longterm, int first, int count, const float *x);
/* A segment's bytes, laid out as above; copied. rows are not looked at where the tier has a ring. Failures are the device's,
 * which the next settle returns. */
void mka_device_longterm_put(mka_device_longterm *longterm, int head, int segment, const void *index, const void *rows);
/* Whether recall would send rows ahead if it were given a guess of the next query: those come from memory, and the last guess did
 * not want too many. To be asked once a query. */
int mka_device_longterm_looks_ahead(mka_device_longterm *longterm);
/* Rows that were asked for ahead come now, if they have not yet: those in memory are about to change. */
void mka_device_longterm_settle(mka_device_longterm *longterm);
/* What a head's queries have read since the longterm was made: keys and values of tokens, tiles of 32 mean values, and the share
 * of the softmax that was not read, times 2^32. counts [kv_heads]; waits for the device. */
typedef struct mka_device_counts {
    uint64_t keys, values, tiles, unread;
} mka_device_counts;
void mka_device_longterm_counts(mka_device_longterm *longterm, mka_device_counts *counts);

/* Fills ops with the device's operations. host: the CPU's table for the same session, laid out already; what has no place on the
 * device is done there. Both must outlive ops; residents are of the weights that it will see. */
mka_status mka_ops_device(struct mka_ops *ops, struct mka_ops *host, mka_residents *residents, mka_error *error);
/* Makes room there for operands within bytes at base; other operands cross the bus with every call. */
mka_status mka_ops_mirror(struct mka_ops *ops, const void *base, size_t bytes, mka_error *error);
/* Bytes that mka_ops_mirror will take beside those given: what attention keeps between its passes. */
uint64_t mka_ops_device_scratch(const struct mka_ops *ops);
void mka_ops_device_end(struct mka_ops *ops);

#endif
