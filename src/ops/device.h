/* device - what a compute device is to the rest of the library: opaque, opened by name, and worked with through the table of
 * ops.h. src/opencl is the only kind there is; a build without it has these functions too, and they say so.
 *
 *   device      context, queue, programs and memory; one an engine
 *   residents   copies of a model's weights there, made once, in their own types; one a model
 *   cache       keys and values of one layer there
 *   mirror      a session's buffers there: an operation's operand at byte i of the arena is at byte i of the mirror
 */
#ifndef MKA_OPS_DEVICE_H
#define MKA_OPS_DEVICE_H

#include <mka/device.h>

typedef struct mka_device mka_device;
typedef struct mka_residents mka_residents;
typedef struct mka_device_cache mka_device_cache;
struct mka_ops;
struct mka_matrix;

/* name: what follows "opencl": "", ":N" or ":NAME". memory: bytes that may be taken there, 0: what the device has. profile 1:
 * every command's time is taken. The engine must outlive it, and gets its log lines. */
mka_status mka_device_open(mka_engine *engine, const char *name, uint64_t memory, int profile, mka_device **device,
                           mka_error *error);
void mka_device_close(mka_device *device);
void mka_device_describe(const mka_device *device, mka_device_info *info);
void mka_device_get_usage(mka_device *device, mka_device_usage *usage);
/* As mka_device_limits_create; bytes are enough. */
mka_status mka_device_limits_open(mka_device *device, uint64_t bytes, mka_device_limits **limits, mka_error *error);
/* Bytes that can still be taken. */
uint64_t mka_device_room(mka_device *device);

mka_status mka_residents_create(mka_device *device, mka_residents **residents, mka_error *error);
void mka_residents_destroy(mka_residents *residents);
/* Copies a matrix there, where it is not yet. Its bytes must not change, nor go, while residents lives. */
mka_status mka_residents_add(mka_residents *residents, const struct mka_matrix *matrix, mka_error *error);
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

/* Fills ops with the device's operations. host: the CPU's table for the same session, laid out already; what has no place on the
 * device is done there. Both must outlive ops; residents are of the weights that it will see. */
mka_status mka_ops_device(struct mka_ops *ops, struct mka_ops *host, mka_residents *residents, mka_error *error);
/* Makes room there for operands within bytes at base; other operands cross the bus with every call. */
mka_status mka_ops_mirror(struct mka_ops *ops, const void *base, size_t bytes, mka_error *error);
/* Bytes that mka_ops_mirror will take beside those given: what attention keeps between its passes. */
uint64_t mka_ops_device_scratch(const struct mka_ops *ops);
void mka_ops_device_end(struct mka_ops *ops);

#endif
