/* limits - a device's own memory, read and copied: what a kernel's bytes a second are held against. */
#include <stdlib.h>

#include "base/status.h"
#include "runtime.h"

enum { RUNS = 5, ITEMS = 256, GROUPS_A_UNIT = 16, WORD = 16 };

struct mka_device_limits {
    mka_device *device;
    cl_command_queue queue; /* one that takes times, whatever the device's own does */
    cl_mem buffer;          /* bytes, and a word */
    size_t bytes;
    cl_kernel read, copy;
};

mka_status mka_device_limits_open(mka_device *d, uint64_t bytes, mka_device_limits **out, mka_error *error) {
    const cl_uint zero = 0;
    *out = NULL;
    mka_device_limits *l = calloc(1, sizeof *l);
    if (!l) return mka_fail(error, MKA_NO_MEMORY, "no memory for a measurement");
    l->device = d;
    l->bytes = (size_t)bytes / WORD * WORD;
    pthread_mutex_lock(&d->lock);
    mka_status status = mka_cl_kernel(d, "limits", "read_all", &l->read, error, "-DLANES=%d", d->lanes);
    if (!status) status = mka_cl_kernel(d, "limits", "copy_all", &l->copy, error, "-DLANES=%d", d->lanes);
    pthread_mutex_unlock(&d->lock);
    if (!status) status = mka_cl_take(d, l->bytes + WORD, "a buffer to measure", &l->buffer, error);
    if (!status) l->queue = clCreateCommandQueue(d->context, d->id, CL_QUEUE_PROFILING_ENABLE, NULL);
    if (!status &&
        (clEnqueueFillBuffer(l->queue, l->buffer, &zero, sizeof zero, 0, l->bytes + WORD, 0, NULL, NULL) != CL_SUCCESS ||
         clFinish(l->queue) != CL_SUCCESS))
        status = mka_fail(error, MKA_NO_MEMORY, "%s: a buffer to measure cannot be had", d->info.name);
    if (status)
        mka_device_limits_destroy(l);
    else
        *out = l;
    return status;
}

void mka_device_limits_destroy(mka_device_limits *l) {
    if (!l) return;
    mka_cl_give(l->device, l->buffer);
    if (l->queue) clReleaseCommandQueue(l->queue);
    free(l);
}

/* Seconds of one run: the device's own where it takes times, else the host's. */
static mka_status run(mka_device_limits *l, cl_kernel kernel, double *seconds, mka_error *error) {
    mka_device *d = l->device;
    size_t local = ITEMS, global = (size_t)d->info.units * GROUPS_A_UNIT * ITEMS;
    cl_event event = NULL;
    cl_ulong start = 0, end = 0;
    char text[24];
    double begin = mka_cl_now();
    cl_int code = clEnqueueNDRangeKernel(l->queue, kernel, 1, NULL, &global, &local, 0, NULL, &event);
    if (code == CL_SUCCESS) code = clFinish(l->queue);
    *seconds = mka_cl_now() - begin;
    if (event && clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL) == CL_SUCCESS &&
        clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL) == CL_SUCCESS && end > start)
        *seconds = 1e-9 * (double)(end - start);
    if (event) clReleaseEvent(event);
    return code == CL_SUCCESS
               ? MKA_OK
               : mka_fail(error, MKA_IO, "%s: its memory cannot be measured (%s)", d->info.name, mka_cl_error_name(code, text));
}

/* The best of some runs over the first bytes. */
static mka_status measure(mka_device_limits *l, uint64_t bytes, int copy, double *gbps, mka_error *error) {
    mka_device *d = l->device;
    cl_kernel kernel = copy ? l->copy : l->read;
    cl_ulong at = 0, count = (bytes < l->bytes ? bytes : l->bytes) / (copy ? 2 * WORD : WORD),
             found_at = l->bytes / sizeof(cl_uint);
    mka_status status = MKA_OK;
    *gbps = 0;
    pthread_mutex_lock(&d->lock);
    clFinish(d->queue);
    clSetKernelArg(kernel, 0, sizeof l->buffer, &l->buffer);
    clSetKernelArg(kernel, 1, sizeof at, &at);
    clSetKernelArg(kernel, 2, sizeof count, &count);
    if (!copy) clSetKernelArg(kernel, 3, sizeof l->buffer, &l->buffer);
    if (!copy) clSetKernelArg(kernel, 4, sizeof found_at, &found_at);
    for (int i = 0; i < RUNS && !status; i++) {
        double seconds, moved = (double)count * WORD * (copy ? 2 : 1);
        status = run(l, kernel, &seconds, error);
        if (!status && 1e-9 * moved / seconds > *gbps) *gbps = 1e-9 * moved / seconds;
    }
    pthread_mutex_unlock(&d->lock);
    return status ? status : mka_succeed(error);
}

mka_status mka_device_limits_read(mka_device_limits *l, uint64_t bytes, double *gbps, mka_error *error) {
    return measure(l, bytes, 0, gbps, error);
}

mka_status mka_device_limits_copy(mka_device_limits *l, uint64_t bytes, double *gbps, mka_error *error) {
    return measure(l, bytes, 1, gbps, error);
}
