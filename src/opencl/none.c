/* none - a build without OpenCL: there is no device to open, and the rest is never reached. */
#include "base/status.h"
#include "ops/device.h"

static const char why[] = "this build of mka has no OpenCL (it was configured without its headers and loader)";

mka_status mka_devices(mka_device_info *list, int room, int *count, mka_error *error) {
    (void)list, (void)room;
    *count = 0;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

mka_status mka_device_open(mka_engine *engine, const char *name, uint64_t memory, mka_device **device, mka_error *error) {
    (void)engine, (void)name, (void)memory;
    *device = NULL;
    return mka_fail(error, MKA_BAD_ARGUMENT, "%s", why);
}

void mka_device_close(mka_device *device) {
    (void)device;
}

void mka_device_describe(const mka_device *device, mka_device_info *info) {
    (void)device;
    *info = (mka_device_info){.index = 0};
}

mka_status mka_device_profile(mka_device *device, int on, mka_error *error) {
    (void)device, (void)on;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

void mka_device_get_usage(mka_device *device, mka_device_usage *usage) {
    (void)device;
    *usage = (mka_device_usage){.taken = 0};
}

uint64_t mka_device_room(mka_device *device) {
    (void)device;
    return 0;
}

void mka_residents_expect(mka_residents *residents, uint64_t bytes) {
    (void)residents, (void)bytes;
}

mka_status mka_residents_create(mka_device *device, mka_residents **residents, mka_error *error) {
    (void)device;
    *residents = NULL;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

void mka_residents_destroy(mka_residents *residents) {
    (void)residents;
}

mka_status mka_residents_add(mka_residents *residents, const struct mka_matrix *matrix, mka_error *error) {
    (void)residents, (void)matrix;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

uint64_t mka_residents_cost(mka_residents *residents, const struct mka_matrix *matrix) {
    (void)residents, (void)matrix;
    return 0;
}

uint64_t mka_device_cache_bytes(const mka_device_cache_shape *shape) {
    (void)shape;
    return 0;
}

mka_status mka_device_cache_create(mka_device *device, const mka_device_cache_shape *shape, mka_device_cache **cache,
                                   mka_error *error) {
    (void)device, (void)shape;
    *cache = NULL;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

void mka_device_cache_destroy(mka_device_cache *cache) {
    (void)cache;
}

void mka_device_cache_truncate(mka_device_cache *cache, int length) {
    (void)cache, (void)length;
}

void mka_device_cache_forget(mka_device_cache *cache, int from, int to, int length) {
    (void)cache, (void)from, (void)to, (void)length;
}

mka_device_rows mka_device_cache_rows(const mka_device_cache *cache, mka_device_plane plane) {
    (void)cache, (void)plane;
    return (mka_device_rows){.numbers = 0};
}

mka_status mka_device_cache_read(mka_device_cache *cache, mka_device_plane plane, int head, int first, int count, void *numbers,
                                 void *scales, mka_error *error) {
    (void)cache, (void)plane, (void)head, (void)first, (void)count, (void)numbers, (void)scales;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

mka_status mka_device_cache_write(mka_device_cache *cache, mka_device_plane plane, int head, int first, int count,
                                  const void *numbers, const void *scales, mka_error *error) {
    (void)cache, (void)plane, (void)head, (void)first, (void)count, (void)numbers, (void)scales;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

int mka_device_cache_ring(const mka_device_cache *cache, int *held) {
    (void)cache;
    *held = 0;
    return 0;
}

void mka_device_cache_restore(mka_device_cache *cache, int from, int gone, int held) {
    (void)cache, (void)from, (void)gone, (void)held;
}

mka_status mka_device_cache_grow(mka_device_cache *cache, int capacity, int length, mka_error *error) {
    (void)cache, (void)capacity, (void)length;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

void mka_device_segment_layout(const mka_device_longterm_shape *shape, mka_device_segment *segment) {
    (void)shape;
    *segment = (mka_device_segment){.index = 0};
}

int mka_device_ring(const mka_device *device, const mka_device_longterm_shape *shape) {
    (void)device, (void)shape;
    return 0;
}

size_t mka_device_ring_place(const mka_device_longterm_shape *shape, size_t *value_at) {
    (void)shape;
    return *value_at = 0;
}

uint64_t mka_device_longterm_bytes(const mka_device_longterm_shape *shape) {
    (void)shape;
    return 0;
}

mka_status mka_device_longterm_create(mka_device *device, const mka_device_longterm_shape *shape, mka_device_longterm **longterm,
                                      mka_error *error) {
    (void)device, (void)shape;
    *longterm = NULL;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

void mka_device_longterm_destroy(mka_device_longterm *longterm) {
    (void)longterm;
}

void mka_device_longterm_frame(mka_device_longterm *longterm, int first, int count, const float *x) {
    (void)longterm, (void)first, (void)count, (void)x;
}

void mka_device_longterm_put(mka_device_longterm *longterm, int head, int segment, const void *index, const void *rows) {
    (void)longterm, (void)head, (void)segment, (void)index, (void)rows;
}

int mka_device_longterm_looks_ahead(mka_device_longterm *longterm) {
    (void)longterm;
    return 0;
}

void mka_device_longterm_settle(mka_device_longterm *longterm) {
    (void)longterm;
}

void mka_device_longterm_counts(mka_device_longterm *longterm, mka_device_counts *counts) {
    (void)longterm;
    *counts = (mka_device_counts){.keys = 0};
}

mka_status mka_ops_device(struct mka_ops *ops, struct mka_ops *host, mka_residents *residents, mka_error *error) {
    (void)ops, (void)host, (void)residents;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

mka_status mka_ops_mirror(struct mka_ops *ops, const void *base, size_t bytes, mka_error *error) {
    (void)ops, (void)base, (void)bytes;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

uint64_t mka_ops_device_scratch(const struct mka_ops *ops) {
    (void)ops;
    return 0;
}

void mka_ops_device_end(struct mka_ops *ops) {
    (void)ops;
}

mka_status mka_device_limits_open(mka_device *device, uint64_t bytes, mka_device_limits **limits, mka_error *error) {
    (void)device, (void)bytes;
    *limits = NULL;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

void mka_device_limits_destroy(mka_device_limits *limits) {
    (void)limits;
}

mka_status mka_device_limits_read(mka_device_limits *limits, uint64_t bytes, double *gbps, mka_error *error) {
    (void)limits, (void)bytes;
    *gbps = 0;
    return mka_fail(error, MKA_UNSUPPORTED, "%s", why);
}

mka_status mka_device_limits_copy(mka_device_limits *limits, uint64_t bytes, double *gbps, mka_error *error) {
    return mka_device_limits_read(limits, bytes, gbps, error);
}
