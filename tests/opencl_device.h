/* opencl_device - what the tests of devices share: an engine on the CPU and one on whatever device there is (PoCL makes one of
 * every CPU), and what they are compared by. Without a device the tests are skipped. */
#ifndef MKA_TESTS_OPENCL_DEVICE_H
#define MKA_TESTS_OPENCL_DEVICE_H

#include <mka/device.h>

#include <mka/memory.h>

#include "opencl/runtime.h"
#include "ops/engine.h"

/* The engines; NULL where there is no device. */
extern mka_engine *cpu, *device;
extern char logged[8192]; /* what an engine said since it was emptied */

/* Options of an engine like those: exact on what is stored. */
mka_engine_options options_of(const char *name);
/* Fixtures of a group. */
int start_engines(void **state);
int stop_engines(void **state);
/* Skips the test that calls it where there is no device. */
void need_device(void);
/* 1: the device is a simulator that watches every access (Oclgrind), where arithmetic takes thousands of times as long: the same
 * kernels have smaller shapes there. */
int simulated(void);
/* Skips the test that calls it where there is no device, or a simulated one. */
void need_speed(void);
/* size, or small where the device is simulated */
int sized(int size, int small);

/* Lets the device have as little as a memory of these options takes that leaves its rows behind; and a ring be as small as a
 * test's contexts are. no_limit ends that. */
void rows_stay_here(const mka_memory_options *options);
void no_limit(void);

/* Owned by the caller. */
float *random_floats(uint64_t *seed, size_t count);
int pick(uint64_t *seed, int low, int high);
/* Fails where a number is further off than allowed times the largest, plus 1. */
void same(const char *what, size_t count, const float *got, const float *want, float allowed);

#endif
