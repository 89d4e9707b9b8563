/* usage - what a device did: bytes and commands always, and their times where the engine asked for them. */
#include <time.h>

#include "runtime.h"

double mka_cl_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

cl_event *mka_cl_time(mka_device *d, mka_cl_kind kind) {
    if (!d->profile) return NULL;
    if (d->times.count == MKA_CL_TIMED) {
        clFinish(d->queue);
        mka_cl_collect(d);
    }
    d->times.kind[d->times.count] = kind;
    d->times.event[d->times.count] = NULL;
    return &d->times.event[d->times.count++];
}

void mka_cl_collect(mka_device *d) {
    double *sums[MKA_CL_KINDS] = {&d->usage.kernel_seconds, &d->usage.up_seconds, &d->usage.down_seconds};
    for (int i = 0; i < d->times.count; i++) {
        cl_ulong start = 0, end = 0;
        cl_event event = d->times.event[i];
        if (!event) continue; /* the command was refused */
        if (clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL) == CL_SUCCESS &&
            clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL) == CL_SUCCESS && end > start)
            *sums[d->times.kind[i]] += 1e-9 * (double)(end - start);
        clReleaseEvent(event);
        d->times.event[i] = NULL;
    }
    d->times.count = 0;
}

void mka_device_get_usage(mka_device *d, mka_device_usage *usage) {
    pthread_mutex_lock(&d->lock);
    clFinish(d->queue);
    mka_cl_collect(d);
    *usage = d->usage;
    pthread_mutex_unlock(&d->lock);
}
