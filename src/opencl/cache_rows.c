/* cache_rows - a cache's rows as they lie on the device, read and written from end to end: how sessions are saved and loaded. */
#include "base/status.h"
#include "cache.h"

static const mka_cl_plane *plane_at(const mka_device_cache *c, mka_device_plane plane) {
    const mka_cl_plane *const all[] = {&c->keys, &c->values, &c->near_keys, &c->near_values};
    return all[plane];
}

mka_device_rows mka_device_cache_rows(const mka_device_cache *c, mka_device_plane plane) {
    const mka_cl_plane *p = plane_at(c, plane);
    return (mka_device_rows){p->type, p->row_bytes, (size_t)p->scale_bytes};
}

int mka_device_cache_ring(const mka_device_cache *c, int *held) {
    *held = c->held;
    return c->ring > 0;
}

void mka_device_cache_restore(mka_device_cache *c, int from, int gone, int held) {
    c->gap = from;
    c->base = gone;
    c->held = held;
}

/* One way or the other; the caller holds the lock. */
static void move_bytes(mka_device *d, cl_mem buffer, size_t at, size_t bytes, void *memory, int up) {
    mka_cl_chain_end(d);
    if (bytes == 0 || d->failure.status != MKA_OK) return;
    double begin = mka_cl_now();
    cl_int code = up ? clEnqueueWriteBuffer(d->queue, buffer, CL_TRUE, at, bytes, memory, 0, NULL, mka_cl_time(d, MKA_CL_UP))
                     : clEnqueueReadBuffer(d->queue, buffer, CL_TRUE, at, bytes, memory, 0, NULL, mka_cl_time(d, MKA_CL_DOWN));
    if (code != CL_SUCCESS) mka_cl_fail(d, code, up ? "a transfer to it" : "a transfer from it");
    d->usage.wait_seconds += mka_cl_now() - begin;
    *(up ? &d->usage.up_bytes : &d->usage.down_bytes) += bytes;
}

static void move_slots(mka_device *d, const mka_cl_plane *p, size_t slot, size_t count, void *numbers, void *scales, int up) {
    size_t scale = (size_t)p->scale_bytes;
    move_bytes(d, p->buffer, slot * p->row_bytes, count * p->row_bytes, numbers, up);
    move_bytes(d, p->buffer, p->scales_at + slot * scale, count * scale, scales, up);
}

static mka_status outcome(mka_device *d, mka_error *error) {
    return d->failure.status == MKA_OK ? MKA_OK : mka_fail(error, d->failure.status, "%s", d->failure.message);
}

static int in_ring(mka_device_plane plane) {
    return plane == MKA_DEVICE_NEAR_KEYS || plane == MKA_DEVICE_NEAR_VALUES;
}

mka_status mka_device_cache_read(mka_device_cache *c, mka_device_plane plane, int head, int first, int count, void *numbers,
                                 void *scales, mka_error *error) {
    size_t slot = in_ring(plane) ? (size_t)head * 2 * (size_t)c->ring + (size_t)(first % c->ring)
                                 : (size_t)head * (size_t)c->capacity + (size_t)mka_cl_slot(c, first);
    pthread_mutex_lock(&c->device->lock);
    move_slots(c->device, plane_at(c, plane), slot, (size_t)count, numbers, scales, 0);
    mka_status status = outcome(c->device, error);
    pthread_mutex_unlock(&c->device->lock);
    return status;
}

/* Every token of the ring is there twice: in a run from its slot on, and what that has not reached in the other copy. */
static void write_ring(mka_device_cache *c, const mka_cl_plane *p, int head, int first, int count, unsigned char *numbers,
                       unsigned char *scales) {
    size_t ring = (size_t)c->ring, at = (size_t)head * 2 * ring, slot = (size_t)first % ring, all = (size_t)count,
           before = ring - slot < all ? ring - slot : all; /* tokens before the ring's end */
    move_slots(c->device, p, at + slot, all, numbers, scales, 1);
    move_slots(c->device, p, at + slot + ring, before, numbers, scales, 1);
    move_slots(c->device, p, at, all - before, numbers + before * p->row_bytes, scales + before * (size_t)p->scale_bytes, 1);
}

mka_status mka_device_cache_write(mka_device_cache *c, mka_device_plane plane, int head, int first, int count,
                                  const void *numbers, const void *scales, mka_error *error) {
    const mka_cl_plane *p = plane_at(c, plane);
    void *from = (void *)(uintptr_t)numbers, *beside = (void *)(uintptr_t)scales;
    pthread_mutex_lock(&c->device->lock);
    if (in_ring(plane))
        write_ring(c, p, head, first, count, from, beside);
    else
        move_slots(c->device, p, (size_t)head * (size_t)c->capacity + (size_t)mka_cl_slot(c, first), (size_t)count, from, beside,
                   1);
    mka_status status = outcome(c->device, error);
    pthread_mutex_unlock(&c->device->lock);
    return status;
}
