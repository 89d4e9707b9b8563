/* platforms - which OpenCL devices there are, in the order of their platforms, and the one that a name means. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "runtime.h"

enum { MOST_PLATFORMS = 16, MOST_DEVICES = 32 };

int mka_cl_find(mka_cl_found *list, int room) {
    cl_platform_id platforms[MOST_PLATFORMS];
    cl_uint platform_count = 0;
    int count = 0;
    if (clGetPlatformIDs(MOST_PLATFORMS, platforms, &platform_count) != CL_SUCCESS) return 0; /* the loader's word for none */
    for (cl_uint p = 0; p < platform_count && p < MOST_PLATFORMS; p++) {
        cl_device_id devices[MOST_DEVICES];
        cl_uint device_count = 0;
        if (clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, MOST_DEVICES, devices, &device_count) != CL_SUCCESS) continue;
        for (cl_uint d = 0; d < device_count && d < MOST_DEVICES; d++, count++)
            if (count < room) list[count] = (mka_cl_found){platforms[p], devices[d]};
    }
    return count;
}

static void text_of(cl_device_id device, cl_device_info what, char *text, size_t room) {
    char all[1024] = "";
    size_t used = 0;
    if (clGetDeviceInfo(device, what, sizeof all - 1, all, NULL) != CL_SUCCESS) all[0] = 0;
    const char *from = all;
    while (isspace((unsigned char)*from)) from++;
    for (; *from && used + 1 < room; from++) text[used++] = isprint((unsigned char)*from) ? *from : ' ';
    while (used > 0 && text[used - 1] == ' ') used--;
    text[used] = 0;
}

/* Lanes that work together without memory: what the vendors' own queries say. */
static int subgroup_of(cl_device_id device, const char *extensions) {
    const cl_device_info nvidia_warp = 0x4003, amd_wavefront = 0x4043;
    cl_uint lanes = 0;
    if (strstr(extensions, "cl_nv_device_attribute_query") &&
        clGetDeviceInfo(device, nvidia_warp, sizeof lanes, &lanes, NULL) == CL_SUCCESS)
        return (int)lanes;
    if (strstr(extensions, "cl_amd_device_attribute_query") &&
        clGetDeviceInfo(device, amd_wavefront, sizeof lanes, &lanes, NULL) == CL_SUCCESS)
        return (int)lanes;
    return 0;
}

void mka_cl_describe(const mka_cl_found *found, int index, mka_device_info *info) {
    cl_device_type type = 0;
    cl_ulong memory = 0, largest = 0;
    cl_uint units = 0, clock = 0;
    char extensions[8192] = "";
    *info = (mka_device_info){.index = index};
    text_of(found->device, CL_DEVICE_NAME, info->name, sizeof info->name);
    text_of(found->device, CL_DEVICE_VERSION, info->version, sizeof info->version);
    text_of(found->device, CL_DRIVER_VERSION, info->driver, sizeof info->driver);
    clGetPlatformInfo(found->platform, CL_PLATFORM_NAME, sizeof info->platform - 1, info->platform, NULL);
    clGetDeviceInfo(found->device, CL_DEVICE_TYPE, sizeof type, &type, NULL);
    clGetDeviceInfo(found->device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
    clGetDeviceInfo(found->device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof largest, &largest, NULL);
    clGetDeviceInfo(found->device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, NULL);
    clGetDeviceInfo(found->device, CL_DEVICE_MAX_CLOCK_FREQUENCY, sizeof clock, &clock, NULL);
    clGetDeviceInfo(found->device, CL_DEVICE_EXTENSIONS, sizeof extensions - 1, extensions, NULL);
    info->gpu = type & CL_DEVICE_TYPE_GPU || !(type & CL_DEVICE_TYPE_CPU); /* simulators of devices say all at once */
    info->memory = memory;
    info->largest = largest;
    info->units = (int)units;
    info->clock = (int)clock;
    info->fp16 = strstr(extensions, "cl_khr_fp16") != NULL;
    info->subgroup = subgroup_of(found->device, extensions);
}

mka_status mka_devices(mka_device_info *list, int room, int *count, mka_error *error) {
    mka_cl_found found[MOST_DEVICES];
    mka_succeed(error);
    *count = mka_cl_find(found, MOST_DEVICES);
    for (int i = 0; i < *count && i < room && i < MOST_DEVICES; i++) mka_cl_describe(&found[i], i, &list[i]);
    return MKA_OK;
}

/* Whether text holds part, in any case. */
static int holds(const char *text, const char *part) {
    size_t length = strlen(part);
    for (; *text; text++) {
        size_t i = 0;
        while (i < length && text[i] && tolower((unsigned char)text[i]) == tolower((unsigned char)part[i])) i++;
        if (i == length) return 1;
    }
    return 0;
}

static mka_status no_such(const char *name, const mka_cl_found *found, int count, mka_error *error) {
    char list[360] = "";
    for (int i = 0; i < count; i++) {
        mka_device_info info;
        size_t used = strlen(list);
        mka_cl_describe(&found[i], i, &info);
        snprintf(list + used, sizeof list - used, "%s%d %s", i ? ", " : "", i, info.name);
    }
    return mka_fail(error, MKA_BAD_ARGUMENT, "there is no OpenCL device '%s'; there are: %s", name, list);
}

mka_status mka_cl_choose(const char *name, mka_cl_found *chosen, int *index, mka_error *error) {
    mka_cl_found found[MOST_DEVICES];
    int count = mka_cl_find(found, MOST_DEVICES);
    if (count == 0)
        return mka_fail(
            error, MKA_BAD_ARGUMENT,
            "no OpenCL platform has a device here: is a driver installed (the vendor's, or pocl-opencl-icd for the CPU)?");
    if (count > MOST_DEVICES) count = MOST_DEVICES;
    if (*name == ':') name++;
    *index = -1;
    if (!*name) {
        *index = 0;
        for (int i = count; i-- > 0;) { /* the first that is no CPU, where there is one */
            mka_device_info info;
            mka_cl_describe(&found[i], i, &info);
            if (info.gpu) *index = i;
        }
    } else if (strspn(name, "0123456789") == strlen(name)) {
        if (strlen(name) < 6 && atoi(name) < count) *index = atoi(name);
    } else {
        for (int i = count; i-- > 0;) {
            mka_device_info info;
            mka_cl_describe(&found[i], i, &info);
            if (holds(info.name, name) || holds(info.platform, name)) *index = i;
        }
    }
    if (*index < 0) return no_such(name, found, count, error);
    *chosen = found[*index];
    return MKA_OK;
}
