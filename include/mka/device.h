/* mka/device.h - compute devices beside the CPU: which there are, and what one did.
 *
 * A device is taken by an engine (mka_engine_options.device); what is made from that engine then computes there.
 */
#ifndef MKA_DEVICE_H
#define MKA_DEVICE_H

#include <mka/mka.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mka_device_info {
    int index;      /* the N of "opencl:N" */
    char name[128]; /* the device's and its platform's own names */
    char platform[128];
    char version[64]; /* of OpenCL, and of the driver */
    char driver[64];
    int gpu;            /* 1: a GPU or another accelerator; 0: a CPU */
    int units, clock;   /* compute units; MHz */
    uint64_t memory;    /* bytes, in all */
    uint64_t largest;   /* bytes of one allocation */
    int fp16, subgroup; /* 1: it has half-precision arithmetic; lanes that can work together without memory, 0: unknown */
} mka_device_info;

/* The devices of this machine, all platforms one after the other. Fills list up to room; *count is how many there are, 0 where no
 * platform is installed. MKA_UNSUPPORTED: this build has no OpenCL. */
MKA_API mka_status mka_devices(mka_device_info *list, int room, int *count, mka_error *error);

/* The engine's device; returns 0 when it computes on the CPU. */
MKA_API int mka_engine_get_device(const mka_engine *engine, mka_device_info *info);

/* Long-term rows that were sent to a device: tokens, their bytes, the time that took by the device's clock while it was profiled,
 * and the time that the host took to lay them out. */
typedef struct mka_device_fetched {
    uint64_t tokens, bytes;
    double seconds, host_seconds;
} mka_device_fetched;

/* What went over the bus and what ran, since the engine was made. Times are those of the device's own clock, and only of what ran
 * while it was profiled; waited is the host's, until results were there. */
typedef struct mka_device_usage {
    uint64_t taken;                /* bytes held on the device now */
    uint64_t up_bytes, down_bytes; /* written to it, read from it */
    uint64_t kernels;              /* launched */
    double up_seconds, down_seconds, kernel_seconds, wait_seconds;
    /* tokens whose long-term rows are kept in memory, and were sent there: because a recall wanted them, and waits; and before it
     * did, while other commands ran, because the layer's queries were likely to. These are part of what is above too. */
    mka_device_fetched fetched, ahead;
} mka_device_usage;

MKA_API void mka_engine_get_device_usage(const mka_engine *engine, mka_device_usage *usage);

/* From now on the time of every command is taken (1), which makes each take longer, or it is not (0, as at first). Waits for what
 * runs. MKA_BAD_ARGUMENT: the engine has no device; MKA_IO: the driver refuses. */
MKA_API mka_status mka_engine_profile_device(mka_engine *engine, int on, mka_error *error);

/* A buffer of the engine's device, to measure how fast its memory is. The engine must outlive it. MKA_BAD_ARGUMENT: the engine
 * has no device, or bytes is less than 4096; MKA_NO_MEMORY: the device has no room for them. */
typedef struct mka_device_limits mka_device_limits;
MKA_API mka_status mka_device_limits_create(mka_engine *engine, uint64_t bytes, mka_device_limits **limits, mka_error *error);
MKA_API void mka_device_limits_destroy(mka_device_limits *limits);
/* One sample in 1e9 bytes a second, the best of five runs: of reading the buffer's first bytes, and of copying the first half of
 * them to the second (bytes read and written both count). */
MKA_API mka_status mka_device_limits_read(mka_device_limits *limits, uint64_t bytes, double *gbps, mka_error *error);
MKA_API mka_status mka_device_limits_copy(mka_device_limits *limits, uint64_t bytes, double *gbps, mka_error *error);

#ifdef __cplusplus
}
#endif
#endif
