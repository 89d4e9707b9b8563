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
    if (d->times.count == MKA_CL_TIMED) mka_cl_finish(d);
    d->times.kind[d->times.count] = kind;
    d->times.event[d->times.count] = NULL;
    return &d->times.event[d->times.count++];
}

void mka_cl_time_of(mka_device *d, mka_cl_kind kind, cl_event event) {
    cl_event *kept = mka_cl_time(d, kind);
    if (kept && clRetainEvent(event) == CL_SUCCESS) *kept = event;
}

/* Rows are written over the bus too. */
static void add_time(mka_device_usage *u, mka_cl_kind kind, double seconds) {
    double *const sums[MKA_CL_KINDS] = {&u->kernel_seconds, &u->up_seconds, &u->down_seconds, &u->fetched.seconds,
                                        &u->ahead.seconds};
    *sums[kind] += seconds;
    if (kind == MKA_CL_FETCHED || kind == MKA_CL_AHEAD) u->up_seconds += seconds;
}

static void collect(mka_device *d) {
    for (int i = 0; i < d->times.count; i++) {
        cl_ulong start = 0, end = 0;
        cl_event event = d->times.event[i];
        if (!event) continue; /* the command was refused */
        if (clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL) == CL_SUCCESS &&
            clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL) == CL_SUCCESS && end > start)
            add_time(&d->usage, d->times.kind[i], 1e-9 * (double)(end - start));
        clReleaseEvent(event);
        d->times.event[i] = NULL;
    }
    d->times.count = 0;
}

cl_int mka_cl_finish(mka_device *d) {
    cl_int code = d->moving ? clFinish(d->transfers) : CL_SUCCESS, other = clFinish(d->queue);
    d->moving = 0;
    collect(d);
    return code == CL_SUCCESS ? other : code;
}

void mka_device_get_usage(mka_device *d, mka_device_usage *usage) {
    pthread_mutex_lock(&d->lock);
    mka_cl_finish(d);
    *usage = d->usage;
    pthread_mutex_unlock(&d->lock);
}
