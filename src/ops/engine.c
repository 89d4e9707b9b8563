/* engine - starts and stops what a machine gives: topology first, then one thread a core, then the kernels. */
#include "engine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "ops.h"

#define MKA_MAX_THREADS 1024

void mka_engine_defaults(mka_engine_options *options) {
    *options = (mka_engine_options){.bind = 1};
}

void mka_log(const mka_engine *engine, mka_log_level level, const char *format, ...) {
    if (!engine || !engine->log) return;
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    engine->log(engine->log_user, level, line);
}

/* The thread count that was asked for, by option or environment, or 0 for the machine's own. */
static mka_status wanted_threads(const mka_engine_options *options, int *threads, mka_error *error) {
    *threads = options->threads;
    const char *text = getenv("MKA_THREADS");
    if (*threads == 0 && text && *text) {
        char *end;
        errno = 0;
        long value = strtol(text, &end, 10);
        if (errno || *end || value < 1 || value > MKA_MAX_THREADS)
            return mka_fail(error, MKA_BAD_ARGUMENT, "MKA_THREADS is '%s'; it must be a number from 1 to %d", text,
                            MKA_MAX_THREADS);
        *threads = (int)value;
    }
    if (*threads < 0 || *threads > MKA_MAX_THREADS)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d threads were asked for; 1 to %d can be had (0 chooses)", *threads,
                        MKA_MAX_THREADS);
    return MKA_OK;
}

static mka_status choose_kernels(const mka_engine_options *options, const mka_kernels **kernels, mka_error *error) {
    const char *level = options->cpu ? options->cpu : getenv("MKA_CPU");
    if (level && !*level) level = NULL;
    *kernels = mka_kernels_get(level);
    if (*kernels) return MKA_OK;
    const char *names[16];
    char list[256] = "";
    int count = mka_kernels_levels(names);
    for (int i = 0; i < count; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    return mka_fail(error, MKA_BAD_ARGUMENT, "no kernels of level '%s' for this CPU; it can run: %s", level ? level : "", list);
}

/* CPUs to bind the pool to, or NULL when binding is off or would crowd a core: with more threads than cores, or in a container
 * with a CPU quota, whose neighbours would all bind to the same first cores. */
static int *binding(const mka_topology *topology, const mka_engine_options *options, int threads) {
    if (!options->bind || !mka_topology_is_this_machine(topology) || threads > mka_topology_cores(topology) ||
        mka_cpu_quota() > 0)
        return NULL;
    int *cpus = malloc((size_t)threads * sizeof *cpus);
    for (int i = 0; cpus && i < threads; i++) cpus[i] = mka_topology_cpu_of(topology, i, threads);
    return cpus;
}

/* Leaves this engine the named nodes; a system that does not bind threads to them is said to. */
static mka_status choose_nodes(mka_engine *engine, uint64_t nodes, mka_error *error) {
    mka_error refused;
    mka_status status = mka_topology_choose(engine->topology, nodes, error);
    if (!status && mka_topology_bind_caller(engine->topology, &refused) != MKA_OK)
        mka_log(engine, MKA_LOG_WARN, "threads run where the system puts them: %s", refused.message);
    return status;
}

static mka_status open_device(mka_engine *engine, const mka_engine_options *options, mka_error *error) {
    static const char opencl[] = "opencl";
    const char *name = options->device;
    if (!name || !strcmp(name, "cpu")) return MKA_OK;
    if (strncmp(name, opencl, sizeof opencl - 1) || (name[sizeof opencl - 1] && name[sizeof opencl - 1] != ':'))
        return mka_fail(error, MKA_BAD_ARGUMENT,
                        "there is no device '%s'; cpu, opencl, opencl:N and opencl:NAME can be asked for", name);
    return mka_device_open(engine, name + sizeof opencl - 1, options->device_memory, &engine->device, error);
}

mka_status mka_engine_create(const mka_engine_options *options, mka_engine **out, mka_error *error) {
    mka_engine_options defaults;
    mka_engine_defaults(&defaults);
    if (!options) options = &defaults;
    *out = NULL;
    mka_succeed(error);
    int threads;
    mka_status status = wanted_threads(options, &threads, error);
    if (status) return status;
    mka_engine *engine = calloc(1, sizeof *engine);
    if (!engine) return mka_fail(error, MKA_NO_MEMORY, "no memory for an engine");
    engine->log = options->log;
    engine->log_user = options->log_user;
    int *cpus = NULL;
    mka_multiply_start(engine);
    status = choose_kernels(options, &engine->kernels, error);
    if (status) goto fail;
    status = mka_topology_create(NULL, &engine->topology, error);
    if (!status && options->nodes) status = choose_nodes(engine, options->nodes, error);
    if (status) goto fail;
    if (threads == 0) threads = mka_topology_cores(engine->topology);
    cpus = binding(engine->topology, options, threads);
    status = mka_pool_create(threads, cpus, &engine->pool, error);
    if (status) goto fail;
    status = open_device(engine, options, error);
    if (status) goto fail;
    free(cpus);
    *out = engine;
    return MKA_OK;
fail:
    free(cpus);
    mka_engine_destroy(engine);
    return status;
}

void mka_engine_destroy(mka_engine *engine) {
    if (!engine) return;
    mka_device_close(engine->device);
    mka_pool_destroy(engine->pool);
    mka_topology_destroy(engine->topology);
    pthread_mutex_destroy(&engine->blas_turn);
    free(engine);
}

int mka_engine_get_device(const mka_engine *engine, mka_device_info *info) {
    if (engine->device) mka_device_describe(engine->device, info);
    return engine->device != NULL;
}

void mka_engine_get_device_usage(const mka_engine *engine, mka_device_usage *usage) {
    *usage = (mka_device_usage){.taken = 0};
    if (engine->device) mka_device_get_usage(engine->device, usage);
}

mka_status mka_engine_profile_device(mka_engine *engine, int on, mka_error *error) {
    if (!engine->device) return mka_fail(error, MKA_BAD_ARGUMENT, "the engine computes on the CPU: it has no device to profile");
    return mka_device_profile(engine->device, on, error);
}

mka_status mka_device_limits_create(mka_engine *engine, uint64_t bytes, mka_device_limits **limits, mka_error *error) {
    *limits = NULL;
    if (!engine->device) return mka_fail(error, MKA_BAD_ARGUMENT, "the engine computes on the CPU: it has no device to measure");
    if (bytes < 4096) return mka_fail(error, MKA_BAD_ARGUMENT, "a buffer to measure has 4096 bytes at least");
    return mka_device_limits_open(engine->device, bytes, limits, error);
}

void mka_engine_machine(const mka_engine *engine, mka_machine *machine) {
    const mka_topology *topology = engine->topology;
    *machine = (mka_machine){
        .cores = mka_topology_cores(topology),
        .cpus = mka_topology_cpus(topology),
        .nodes = mka_topology_nodes(topology),
        .l1d = mka_topology_cache(topology, 1),
        .l2 = mka_topology_cache(topology, 2),
        .l3 = mka_topology_cache(topology, 3),
        .memory = mka_memory_total(),
        .memory_free = mka_memory_free(),
        .threads = mka_pool_threads(engine->pool),
        .level = engine->kernels->level,
    };
    mka_cpu_name(machine->cpu, sizeof machine->cpu);
    machine->level_count = mka_kernels_levels(machine->levels);
}
