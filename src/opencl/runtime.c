/* runtime - see runtime.h. */
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

/* Of cl_nv_device_attribute_query. */
enum { CAPABILITY_MAJOR = 0x4000, CAPABILITY_MINOR = 0x4001, LEAST_CAPABILITY = 80 };

const char *mka_cl_error_name(cl_int code, char *text) {
    static const struct {
        cl_int code;
        const char *name;
    } names[] = {
#define NAME(code) {code, #code}
        NAME(CL_DEVICE_NOT_FOUND),         NAME(CL_DEVICE_NOT_AVAILABLE),
        NAME(CL_COMPILER_NOT_AVAILABLE),   NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE),
        NAME(CL_OUT_OF_RESOURCES),         NAME(CL_OUT_OF_HOST_MEMORY),
        NAME(CL_BUILD_PROGRAM_FAILURE),    NAME(CL_INVALID_VALUE),
        NAME(CL_INVALID_BINARY),           NAME(CL_INVALID_BUILD_OPTIONS),
        NAME(CL_INVALID_KERNEL_NAME),      NAME(CL_INVALID_ARG_INDEX),
        NAME(CL_INVALID_ARG_SIZE),         NAME(CL_INVALID_KERNEL_ARGS),
        NAME(CL_INVALID_WORK_GROUP_SIZE),  NAME(CL_INVALID_WORK_ITEM_SIZE),
        NAME(CL_INVALID_GLOBAL_WORK_SIZE), NAME(CL_INVALID_COMMAND_QUEUE),
        NAME(CL_INVALID_MEM_OBJECT),       NAME(CL_INVALID_BUFFER_SIZE),
#undef NAME
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code) return names[i].name;
    snprintf(text, 24, "OpenCL error %d", (int)code);
    return text;
}

void mka_cl_fail(mka_device *device, cl_int code, const char *what) {
    char text[24];
    device->failures++;
    if (device->failure.status != MKA_OK) return;
    int memory = code == CL_MEM_OBJECT_ALLOCATION_FAILURE || code == CL_OUT_OF_RESOURCES || code == CL_OUT_OF_HOST_MEMORY;
    mka_fail(&device->failure, memory ? MKA_NO_MEMORY : MKA_IO, "%s: %s failed (%s)%s", device->info.name, what,
             mka_cl_error_name(code, text), memory ? ": its memory is full, or the device is lost" : "");
}

void mka_cl_keep_failure(mka_device *device, const mka_error *failure) {
    device->failures++;
    if (device->failure.status == MKA_OK) device->failure = *failure;
}

mka_status mka_cl_take(mka_device *device, size_t bytes, const char *what, cl_mem *buffer, mka_error *error) {
    char need[MKA_SIZE_TEXT], have[MKA_SIZE_TEXT], text[24];
    cl_int code;
    *buffer = NULL;
    mka_size_text(bytes, need, sizeof need);
    if (bytes > device->info.largest)
        return mka_fail(error, MKA_NO_MEMORY, "%s takes %s; the device gives %s at once at most", what, need,
                        mka_size_text(device->info.largest, have, sizeof have));
    if (bytes > mka_device_room(device))
        return mka_fail(error, MKA_NO_MEMORY, "%s takes %s; the device has %s left", what, need,
                        mka_size_text(mka_device_room(device), have, sizeof have));
    *buffer = clCreateBuffer(device->context, CL_MEM_READ_WRITE, bytes, NULL, &code);
    if (code != CL_SUCCESS)
        return mka_fail(error, MKA_NO_MEMORY, "%s takes %s, which the device does not give (%s)", what, need,
                        mka_cl_error_name(code, text));
    pthread_mutex_lock(&device->lock);
    device->usage.taken += bytes;
    pthread_mutex_unlock(&device->lock);
    return MKA_OK;
}

void mka_cl_give(mka_device *device, cl_mem buffer) {
    size_t bytes = 0;
    if (!buffer) return;
    clGetMemObjectInfo(buffer, CL_MEM_SIZE, sizeof bytes, &bytes, NULL);
    pthread_mutex_lock(&device->lock);
    mka_cl_chain_forget(device, buffer);
    clReleaseMemObject(buffer);
    device->usage.taken -= bytes;
    pthread_mutex_unlock(&device->lock);
}

uint64_t mka_device_room(mka_device *device) {
    pthread_mutex_lock(&device->lock);
    uint64_t taken = device->usage.taken;
    pthread_mutex_unlock(&device->lock);
    return taken < device->limit ? device->limit - taken : 0;
}

void mka_device_describe(const mka_device *device, mka_device_info *info) {
    *info = device->info;
}

static mka_status open_queue(mka_device *d, const mka_cl_found *found, mka_error *error) {
    char text[24];
    cl_int code;
    cl_context_properties properties[] = {CL_CONTEXT_PLATFORM, (cl_context_properties)found->platform, 0};
    d->context = clCreateContext(properties, 1, &d->id, NULL, NULL, &code);
    if (code == CL_SUCCESS) d->queue = clCreateCommandQueue(d->context, d->id, 0, &code);
    if (code == CL_SUCCESS) d->transfers = clCreateCommandQueue(d->context, d->id, 0, &code);
    if (code != CL_SUCCESS) return mka_fail(error, MKA_IO, "%s cannot be used: %s", d->info.name, mka_cl_error_name(code, text));
    return MKA_OK;
}

/* Profiling is a queue's: others take their places. */
mka_status mka_device_profile(mka_device *d, int on, mka_error *error) {
    char text[24];
    cl_int code, other = CL_SUCCESS;
    cl_command_queue_properties properties = on ? CL_QUEUE_PROFILING_ENABLE : 0;
    pthread_mutex_lock(&d->lock);
    mka_cl_chain_end(d);
    mka_cl_finish(d);
    cl_command_queue queue = clCreateCommandQueue(d->context, d->id, properties, &code),
                     transfers = clCreateCommandQueue(d->context, d->id, properties, &other);
    if (code == CL_SUCCESS) code = other;
    if (code == CL_SUCCESS) {
        clReleaseCommandQueue(d->queue);
        clReleaseCommandQueue(d->transfers);
        d->queue = queue;
        d->transfers = transfers;
        d->profile = on;
    } else {
        if (queue) clReleaseCommandQueue(queue);
        if (transfers) clReleaseCommandQueue(transfers);
    }
    pthread_mutex_unlock(&d->lock);
    return code == CL_SUCCESS ? mka_succeed(error)
                              : mka_fail(error, MKA_IO, "%s cannot be profiled: %s", d->info.name, mka_cl_error_name(code, text));
}

/* NVIDIA's compute capability times ten; 0: it is none of theirs, whatever it is called. */
static int capability_of(cl_device_id id) {
    char extensions[4096] = "";
    cl_uint major = 0, minor = 0;
    clGetDeviceInfo(id, CL_DEVICE_EXTENSIONS, sizeof extensions - 1, extensions, NULL);
    if (!strstr(extensions, "cl_nv_device_attribute_query")) return 0;
    clGetDeviceInfo(id, CAPABILITY_MAJOR, sizeof major, &major, NULL);
    clGetDeviceInfo(id, CAPABILITY_MINOR, sizeof minor, &minor, NULL);
    return (int)(10 * major + minor);
}

/* Whether the kernels for NVIDIA's matrix units run here: the device has them, and its compiler takes a file that uses them. */
static void try_nv(mka_device *d) {
    mka_error error;
    cl_kernel kernel;
    d->capability = capability_of(d->id);
    if (d->capability < LEAST_CAPABILITY) return;
    pthread_mutex_lock(&d->lock);
    d->nv = mka_cl_kernel(d, "gemm_nv", "gemm", &kernel, &error, "-DWTYPE=%d", (int)MKA_F16) == MKA_OK;
    d->blocked = d->nv;
    pthread_mutex_unlock(&d->lock);
    if (!d->nv) mka_log(d->engine, MKA_LOG_WARN, "%s: plain kernels serve instead: %s", d->info.name, error.message);
}

mka_status mka_device_open(mka_engine *engine, const char *name, uint64_t memory, mka_device **out, mka_error *error) {
    mka_cl_found found;
    int index;
    *out = NULL;
    mka_status status = mka_cl_choose(name, &found, &index, error);
    if (status) return status;
    mka_device *d = calloc(1, sizeof *d);
    if (!d) return mka_fail(error, MKA_NO_MEMORY, "no memory for a device");
    pthread_mutexattr_t again;
    pthread_mutexattr_init(&again);
    pthread_mutexattr_settype(&again, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&d->lock, &again);
    pthread_mutexattr_destroy(&again);
    d->engine = engine;
    d->id = found.device;
    mka_cl_describe(&found, index, &d->info);
    cl_ulong local = 0;
    clGetDeviceInfo(d->id, CL_DEVICE_LOCAL_MEM_SIZE, sizeof local, &local, NULL);
    d->local_memory = (size_t)local;
    d->lanes = d->info.gpu ? 64 : 1;
    d->ring_least = MKA_CL_RING;
    d->limit = d->info.memory - d->info.memory / 16; /* the driver keeps some for itself */
    if (memory && memory < d->limit) d->limit = memory;
    snprintf(d->identity, sizeof d->identity, "%s\n%s\n%s\n%s", d->info.platform, d->info.name, d->info.version, d->info.driver);
    status = open_queue(d, &found, error);
    if (status) {
        mka_device_close(d);
        return status;
    }
    mka_cl_programs_open(d);
    try_nv(d);
    mka_log(engine, MKA_LOG_INFO, "device %d: %s (%s)", index, d->info.name, d->info.platform);
    *out = d;
    return MKA_OK;
}

void mka_device_close(mka_device *d) {
    if (!d) return;
    if (d->queue && d->transfers) mka_cl_finish(d);
    mka_cl_programs_close(&d->programs);
    mka_cl_stages_close(d);
    if (d->transfers) clReleaseCommandQueue(d->transfers);
    if (d->queue) clReleaseCommandQueue(d->queue);
    if (d->context) clReleaseContext(d->context);
    pthread_mutex_destroy(&d->lock);
    free(d);
}
