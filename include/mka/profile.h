/* mka/profile.h - what this machine can do at most: the limits that a measured speed is held against.
 *
 *   read      from a buffer of any size, by any number of the engine's threads, with loads as wide as the kernels' level has
 *   copy      the same, written elsewhere
 *   compute   multiply-adds of one unit on registers alone
 *
 * Every call takes one sample of a few milliseconds, so that a caller can take them in turns with what it measures: limits of
 * a shared machine change from one second to the next, and a fraction is fair only when both sides saw the same machine.
 */
#ifndef MKA_PROFILE_H
#define MKA_PROFILE_H

#include <mka/mka.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Kinds of multiply-add that kernels are made of. */
typedef enum mka_unit {
    MKA_UNIT_F32,      /* float32 FMA (a multiplication and an addition where there is none) */
    MKA_UNIT_BF16,     /* bf16 pairs into float32 */
    MKA_UNIT_I8,       /* int8 into int32, with the best instructions of the level */
    MKA_UNIT_AMX_BF16, /* tiles of bf16 */
    MKA_UNIT_AMX_I8,   /* tiles of int8 */
    MKA_UNITS          /* not a unit: how many there are */
} mka_unit;

/* "f32", "bf16", "int8", "amx_bf16", "amx_int8"; "unknown" for any other value. Static string. */
MKA_API const char *mka_unit_name(mka_unit unit);

typedef struct mka_limits mka_limits;

/* A buffer of bytes (rounded up to whole pages; at least 4096), written once by the threads that will read it, on memory node
 * node (0..nodes-1 of mka_machine; -1: wherever the system puts it). The engine must outlive it. MKA_NO_MEMORY: it cannot be
 * had. MKA_BAD_ARGUMENT: no such node. MKA_UNSUPPORTED: the system refuses to place memory on a node. */
MKA_API mka_status mka_limits_create(mka_engine *engine, size_t bytes, int node, mka_limits **limits, mka_error *error);
MKA_API void mka_limits_destroy(mka_limits *limits);

/* One sample, in 1e9 bytes a second, of reading the first bytes of the buffer by threads of the engine's threads (the others
 * wait), each its own part. What fits in a cache is read again and again, so that the sample is of that cache. The best of
 * several ways to walk through memory counts (one place or several side by side, with and without prefetch).
 * bytes: 4096 up to the buffer's size. MKA_BAD_ARGUMENT: bytes or threads is out of range. */
MKA_API mka_status mka_limits_read(mka_limits *limits, size_t bytes, int threads, double *gbps, mka_error *error);

/* The same for copying the first half of bytes to the second half; bytes read and bytes written both count. */
MKA_API mka_status mka_limits_copy(mka_limits *limits, size_t bytes, int threads, double *gbps, mka_error *error);

/* One sample, in 1e9 operations a second (two a multiply-add), of threads threads. MKA_UNSUPPORTED: the engine's kernel level
 * has no such unit. */
MKA_API mka_status mka_limits_compute(mka_engine *engine, mka_unit unit, int threads, double *gops, mka_error *error);

/* 1 when the engine's kernel level has the unit. */
MKA_API int mka_limits_has(const mka_engine *engine, mka_unit unit);

#ifdef __cplusplus
}
#endif
#endif
