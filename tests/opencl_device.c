/* opencl_device - see opencl_device.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memory/memory_layers.h"
#include "opencl_device.h"
#include "reference_model.h"

mka_engine *cpu, *device;
char logged[8192];

static void note(void *user, mka_log_level level, const char *message) {
    (void)user, (void)level;
    size_t used = strlen(logged);
    snprintf(logged + used, sizeof logged - used, "%s\n", message);
}

mka_engine_options options_of(const char *name) {
    mka_engine_options o;
    mka_engine_defaults(&o);
    o.threads = 2;
    o.bind = 0;
    o.cpu = "scalar"; /* exact on what is stored, as the device is */
    o.device = name;
    o.log = note;
    return o;
}

int simulated(void) {
    return device && strstr(device->device->info.name, "Oclgrind") != NULL;
}

void need_speed(void) {
    need_device();
    if (!simulated()) return;
    print_message("skipped: it takes a simulated device too long\n");
    skip();
}

int sized(int size, int small) {
    return simulated() ? small : size;
}

int start_engines(void **state) {
    (void)state;
    mka_device_info info;
    int count = 0;
    if (mka_devices(&info, 1, &count, NULL) != MKA_OK || count == 0) return 0;
    mka_engine_options here = options_of(NULL), there = options_of("opencl");
    mka_error error;
    if (mka_engine_create(&here, &cpu, &error) || mka_engine_create(&there, &device, &error)) {
        fprintf(stderr, "%s\n%s", error.message, logged);
        return 1;
    }
    if (simulated()) device->device->lanes = 16;
    return 0;
}

int stop_engines(void **state) {
    (void)state;
    mka_engine_destroy(device);
    mka_engine_destroy(cpu);
    return 0;
}

void need_device(void) {
    if (device) return;
    print_message("skipped: no OpenCL platform has a device here\n");
    skip();
}

/* Whether a memory is there within a limit, and if so, how many layers' rows are. */
static int is_there(const mka_memory_options *o, uint64_t limit, int *rows) {
    mka_memory *memory;
    mka_error error;
    device->device->limit = limit;
    if (mka_memory_create(device, o, &memory, &error)) fail_msg("%s", error.message);
    int there = memory->residents != NULL;
    *rows = memory->rows_there;
    mka_memory_destroy(memory);
    return there;
}

static uint64_t limit_before;

void rows_stay_here(const mka_memory_options *o) {
    mka_device *d = device->device;
    uint64_t low = d->usage.taken, high = low + (64 << 10);
    int rows;
    limit_before = d->limit;
    d->ring_least = 1;
    while (!is_there(o, high, &rows)) low = high, high += high - d->usage.taken;
    while (high - low > 256) {
        uint64_t middle = low + (high - low) / 2;
        if (is_there(o, middle, &rows))
            high = middle;
        else
            low = middle;
    }
    assert_true(is_there(o, high, &rows));
    assert_int_equal(rows, 0);
}

void no_limit(void) {
    device->device->limit = limit_before;
    device->device->ring_least = MKA_CL_RING;
}

float *random_floats(uint64_t *seed, size_t count) {
    float *x = malloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = 2 * reference_random(seed);
    return x;
}

int pick(uint64_t *seed, int low, int high) {
    int n = high - low + 1, i = (int)((0.5F + 0.5F * reference_random(seed)) * (float)n);
    return low + (i < 0 ? 0 : i >= n ? n - 1 : i);
}

void same(const char *what, size_t count, const float *got, const float *want, float allowed) {
    float most = 0;
    for (size_t i = 0; i < count; i++) most = fmaxf(most, fabsf(want[i]));
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - want[i]) <= allowed * (most + 1)))
            fail_msg("%s: number %zu is %g, on the CPU %g", what, i, (double)got[i], (double)want[i]);
}
