/* longterm - see longterm.h: what it takes, making one, and copying segments there. */
#include "longterm.h"

#include <stdlib.h>

#include "base/status.h"

static int quantised(mka_type type) {
    return type == MKA_Q8_0 || type == MKA_Q4_0;
}

/* ---- layout ---- */

/* Parts one after the other, each at a multiple of 64. */
static size_t place(size_t *used, size_t bytes) {
    size_t at = *used;
    *used += (bytes + 63) / 64 * 64;
    return at;
}

static void place_rows(size_t *used, mka_type type, int dim, size_t count, size_t *data, size_t *scales) {
    size_t stride = (size_t)mka_pad(dim, quantised(type) ? 32 : 16);
    *data = place(used, count * (type == MKA_F32    ? 4 * stride
                                 : type == MKA_Q8_0 ? stride
                                 : type == MKA_Q4_0 ? stride / 2
                                                    : 2 * stride));
    *scales = quantised(type) ? place(used, count * (stride / 32) * sizeof(cl_half)) : *used;
}

void mka_device_segment_layout(const mka_device_longterm_shape *s, mka_device_segment *g) {
    size_t clusters = (size_t)s->clusters, tokens = (size_t)s->segment, used = 0;
    place_rows(&used, MKA_Q8_0, s->key_dim, clusters, &g->points, &g->point_scales);
    g->means = place(&used, clusters * (size_t)mka_pad(s->value_dim, 32));
    size_t *const floats[] = {&g->mean_scales, &g->log_count, &g->deviation, &g->worth, &g->radius};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) *floats[i] = place(&used, clusters * sizeof(float));
    g->start = place(&used, (clusters + 1) * sizeof(cl_ushort));
    g->middle = place(&used, (size_t)s->value_dim * sizeof(float));
    g->channels = place(&used, (size_t)s->key_dim * sizeof(float));
    g->index = used;
    used = 0;
    place_rows(&used, s->key_type, s->key_dim, tokens, &g->keys, &g->key_scales);
    place_rows(&used, s->value_type, s->value_dim, tokens, &g->values, &g->value_scales);
    g->rows = used;
}

static size_t frame_bytes(const mka_device_longterm_shape *s) {
    return (size_t)(s->kv_heads + 1) * (size_t)s->key_dim * sizeof(float);
}

uint64_t mka_device_longterm_bytes(const mka_device_longterm_shape *s) {
    mka_device_segment g;
    mka_device_segment_layout(s, &g);
    uint64_t segments = (uint64_t)s->kv_heads * (uint64_t)s->segments, rows = s->ring ? mka_cl_ring_bytes(s) : segments * g.rows;
    return segments * g.index + rows + frame_bytes(s) + (uint64_t)s->kv_heads * sizeof(mka_device_counts);
}

/* ---- creation ---- */

static mka_status take_zeros(mka_device *d, size_t bytes, const char *what, cl_mem *buffer, mka_error *error) {
    const cl_uint zero = 0;
    char text[24];
    mka_status status = mka_cl_take(d, bytes, what, buffer, error);
    if (status) return status;
    cl_int code = clEnqueueFillBuffer(d->queue, *buffer, &zero, sizeof zero, 0, bytes, 0, NULL, NULL);
    if (code == CL_SUCCESS) code = clFinish(d->queue);
    return code == CL_SUCCESS
               ? MKA_OK
               : mka_fail(error, MKA_NO_MEMORY, "%s: %s cannot be had (%s)", d->info.name, what, mka_cl_error_name(code, text));
}

mka_status mka_device_longterm_create(mka_device *device, const mka_device_longterm_shape *shape, mka_device_longterm **out,
                                      mka_error *error) {
    *out = NULL;
    mka_device_longterm *l = calloc(1, sizeof *l);
    if (!l) return mka_fail(error, MKA_NO_MEMORY, "no memory for a long-term memory");
    l->device = device;
    l->shape = *shape;
    mka_device_segment_layout(shape, &l->segment);
    size_t segments = (size_t)shape->kv_heads * (size_t)shape->segments;
    mka_status status = mka_cl_take(device, segments * l->segment.index, "a layer's index", &l->index, error);
    if (!status)
        status = shape->ring ? mka_cl_ring_create(l, error)
                             : mka_cl_take(device, segments * l->segment.rows, "a layer's long-term rows", &l->rows, error);
    if (!status) status = mka_cl_take(device, frame_bytes(shape), "a layer's centres", &l->frame, error);
    if (!status)
        status = take_zeros(device, (size_t)shape->kv_heads * sizeof(mka_device_counts), "a layer's counts", &l->counts, error);
    if (status) {
        mka_device_longterm_destroy(l);
        return status;
    }
    *out = l;
    return MKA_OK;
}

void mka_device_longterm_destroy(mka_device_longterm *l) {
    if (!l) return;
    pthread_mutex_lock(&l->device->lock);
    mka_cl_finish(l->device);
    if (l->device->ahead.asker == l) mka_cl_ring_drop(l->device);
    pthread_mutex_unlock(&l->device->lock);
    cl_mem buffers[] = {l->index, l->rows, l->frame, l->counts};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) mka_cl_give(l->device, buffers[i]);
    mka_cl_ring_destroy(l);
    free(l);
}

/* ---- copying ---- */

static void send(mka_device *d, cl_mem buffer, size_t at, size_t bytes, const void *from) {
    pthread_mutex_lock(&d->lock);
    if (d->failure.status == MKA_OK) {
        double begin = mka_cl_now();
        cl_int code = clEnqueueWriteBuffer(d->queue, buffer, CL_TRUE, at, bytes, from, 0, NULL, mka_cl_time(d, MKA_CL_UP));
        if (code != CL_SUCCESS) mka_cl_fail(d, code, "a transfer to it");
        d->usage.wait_seconds += mka_cl_now() - begin;
        d->usage.up_bytes += bytes;
    }
    pthread_mutex_unlock(&d->lock);
}

void mka_device_longterm_frame(mka_device_longterm *l, int first, int count, const float *x) {
    size_t row = (size_t)l->shape.key_dim * sizeof *x;
    send(l->device, l->frame, (size_t)first * row, (size_t)count * row, x);
}

void mka_device_longterm_put(mka_device_longterm *l, int head, int segment, const void *index, const void *rows) {
    size_t at = (size_t)head * (size_t)l->shape.segments + (size_t)segment;
    send(l->device, l->index, at * l->segment.index, l->segment.index, index);
    if (!l->shape.ring) {
        send(l->device, l->rows, at * l->segment.rows, l->segment.rows, rows);
        return;
    }
    pthread_mutex_lock(&l->device->lock);
    mka_cl_ring_forget(l, head, segment);
    pthread_mutex_unlock(&l->device->lock);
}

int mka_device_longterm_looks_ahead(mka_device_longterm *l) {
    if (!l->shape.ring) return 0;
    if (l->ring.patience == 0) return 1;
    l->ring.patience--;
    return 0;
}

void mka_device_longterm_settle(mka_device_longterm *l) {
    pthread_mutex_lock(&l->device->lock);
    mka_cl_ring_send_ahead(l);
    pthread_mutex_unlock(&l->device->lock);
}

void mka_device_longterm_counts(mka_device_longterm *l, mka_device_counts *counts) {
    mka_device *d = l->device;
    size_t bytes = (size_t)l->shape.kv_heads * sizeof *counts;
    pthread_mutex_lock(&d->lock);
    double begin = mka_cl_now();
    cl_int code = clEnqueueReadBuffer(d->queue, l->counts, CL_TRUE, 0, bytes, counts, 0, NULL, mka_cl_time(d, MKA_CL_DOWN));
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "a transfer from it");
    d->usage.wait_seconds += mka_cl_now() - begin;
    d->usage.down_bytes += bytes;
    pthread_mutex_unlock(&d->lock);
}
