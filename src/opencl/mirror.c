/* mirror - a device's table for one session: its buffers there, what the host gives and takes, and the way to the CPU's table. */
#include "mirror.h"

#include <stdlib.h>

#include "base/status.h"

static int inside(const mka_mirror *m, const void *operand, size_t bytes, size_t *at) {
    const unsigned char *p = operand;
    if (!m->base || p < m->base || p >= m->base + m->bytes) return 0;
    *at = (size_t)(p - m->base);
    return bytes <= m->bytes - *at;
}

static void device_put(mka_ops *ops, const void *operand, size_t bytes) {
    mka_mirror *m = ops->mirror;
    mka_device *d = m->device;
    size_t at;
    if (!bytes || !inside(m, operand, bytes, &at)) return; /* others go with every call */
    pthread_mutex_lock(&d->lock);
    if (d->failure.status == MKA_OK) {
        cl_int code = mka_cl_send(m, m->buffer, at, operand, bytes);
        if (code != CL_SUCCESS) mka_cl_fail(d, code, "a transfer to it");
    }
    pthread_mutex_unlock(&d->lock);
}

static void device_get(mka_ops *ops, const void *operand, size_t bytes) {
    mka_mirror *m = ops->mirror;
    mka_device *d = m->device;
    size_t at;
    if (!bytes || !inside(m, operand, bytes, &at)) return;
    pthread_mutex_lock(&d->lock);
    mka_cl_chain_end(d);
    if (d->failure.status == MKA_OK) {
        double begin = mka_cl_now();
        cl_int code = clEnqueueReadBuffer(d->queue, m->buffer, CL_TRUE, at, bytes, (void *)(uintptr_t)operand, 0, NULL,
                                          mka_cl_time(d, MKA_CL_DOWN));
        if (code != CL_SUCCESS) mka_cl_fail(d, code, "a transfer from it");
        d->usage.wait_seconds += mka_cl_now() - begin;
        d->usage.down_bytes += bytes;
        if (code == CL_SUCCESS) mka_cl_arrived(m);
    }
    pthread_mutex_unlock(&d->lock);
}

static mka_status device_settle(mka_ops *ops, mka_error *error) {
    mka_device *d = ops->mirror->device;
    mka_status status = MKA_OK;
    pthread_mutex_lock(&d->lock);
    mka_cl_chain_end(d);
    double begin = mka_cl_now();
    cl_int code = mka_cl_finish(d);
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "waiting for it");
    d->usage.wait_seconds += mka_cl_now() - begin;
    mka_cl_arrived(ops->mirror);
    if (d->failure.status != MKA_OK) {
        status = mka_fail(error, d->failure.status, "%s", d->failure.message);
        d->failure = (mka_error){.status = MKA_OK};
    }
    pthread_mutex_unlock(&d->lock);
    return status;
}

static mka_status find_kernels(mka_mirror *m, mka_error *error) {
    mka_device *d = m->device;
    mka_status status = MKA_OK;
    pthread_mutex_lock(&d->lock);
#define FIND(name)                                                                                                               \
    if (!status) status = mka_cl_kernel(d, "rows", #name, &m->name, error, "-DLANES=%d", mka_cl_row_lanes(d));
    MKA_CL_ROWS(FIND)
#undef FIND
    if (!status) status = mka_cl_kernel(d, "merge", "merge", &m->merge, error, "-DLANES=%d", d->lanes);
    pthread_mutex_unlock(&d->lock);
    return status;
}

mka_status mka_ops_device(mka_ops *ops, mka_ops *host, mka_residents *residents, mka_error *error) {
    mka_device *device = host->engine->device;
    mka_mirror *m = calloc(1, sizeof *m);
    if (!m) return mka_fail(error, MKA_NO_MEMORY, "no memory for a device's table");
    m->device = device;
    m->residents = residents;
    mka_status status = find_kernels(m, error);
    if (status) {
        free(m);
        return status;
    }
    *ops = *host;
    ops->host = host;
    ops->mirror = m;
    ops->put = device_put;
    ops->get = device_get;
    ops->settle = device_settle;
    mka_cl_fill_rows(ops);
    mka_cl_fill_products(ops);
    mka_cl_fill_attend(ops);
    mka_cl_fill_cache(ops);
    mka_cl_fill_recall(ops);
    return MKA_OK;
}

uint64_t mka_ops_device_scratch(const mka_ops *ops) {
    return mka_cl_lay_out_scratch(ops->mirror->device, &ops->host->limits).floats * sizeof(float) +
           mka_cl_chain_bytes(ops->mirror->device);
}

/* Zeros. */
static mka_status take_buffer(mka_mirror *m, size_t bytes, cl_mem *buffer, mka_error *error) {
    const cl_float zero = 0;
    mka_status status = mka_cl_take(m->device, bytes, "a workspace", buffer, error);
    if (status) return status;
    cl_int code = clEnqueueFillBuffer(m->device->queue, *buffer, &zero, sizeof zero, 0, bytes, 0, NULL, NULL);
    if (code == CL_SUCCESS) code = clFinish(m->device->queue);
    char text[24];
    return code == CL_SUCCESS ? MKA_OK
                              : mka_fail(error, MKA_NO_MEMORY, "%s: a workspace cannot be had (%s)", m->device->info.name,
                                         mka_cl_error_name(code, text));
}

mka_status mka_ops_mirror(mka_ops *ops, const void *base, size_t bytes, mka_error *error) {
    mka_mirror *m = ops->mirror;
    ops->limits = ops->host->limits;
    m->parts = mka_cl_lay_out_scratch(m->device, &ops->limits);
    mka_cl_post_open(m);
    mka_status status = take_buffer(m, m->parts.floats * sizeof(float), &m->scratch, error);
    if (status || bytes == 0) return status;
    bytes = (bytes + sizeof(float) - 1) / sizeof(float) * sizeof(float);
    status = take_buffer(m, bytes, &m->buffer, error);
    if (status) return status;
    m->base = base;
    m->bytes = bytes;
    return mka_cl_chain_open(m, error);
}

void mka_ops_device_end(mka_ops *ops) {
    mka_mirror *m = ops->mirror;
    if (!m) return;
    pthread_mutex_lock(&m->device->lock);
    mka_cl_chain_close(m);
    pthread_mutex_unlock(&m->device->lock);
    clFinish(m->device->queue);
    mka_cl_post_close(m);
    mka_cl_give(m->device, m->buffer);
    for (int i = 0; i < MKA_CL_OPERANDS; i++) mka_cl_give(m->device, m->staging[i]);
    mka_cl_give(m->device, m->scratch);
    free(m);
    ops->mirror = NULL;
}
