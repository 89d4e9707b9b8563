/* limits - samples of what this machine can do at most (mka/profile.h), on the engine's own threads.
 *
 * A sample repeats its loop more and more often until it has lasted SAMPLE_S: short enough to be taken before and after
 * everything that is measured, long enough that waking the threads does not show.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <mka/profile.h>

#include "base/arena.h"
#include "base/status.h"
#include "engine.h"

#define SAMPLE_S 5e-4
#define LONG_S   1e-2
#define LEAST    4096 /* bytes of a buffer */
#define SHARE    1024 /* bytes that threads share out: MKA_READ_STEP for each of four streams */

struct mka_limits {
    mka_engine *engine;
    unsigned char *pages;
    size_t bytes;
};

/* Which way is the fastest differs from machine to machine, and from one moment to the next on one that is shared. */
static const struct walk {
    int streams;
    size_t ahead;
} walks[] = {{1, 0}, {1, 4096}, {2, 0}, {4, 0}, {4, 2048}};

typedef struct sample {
    mka_engine *engine;
    unsigned char *pages;
    size_t bytes;
    int threads;
    long rounds;
    struct walk walk;
    mka_unit unit;
    _Atomic uint64_t sink; /* what was read, so that reading it has a purpose */
} sample;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double best_of(sample *s, mka_task_fn *task, int tries) {
    double best = 0;
    for (int i = 0; i < tries; i++) {
        double start = now();
        mka_pool_run(s->engine->pool, task, s);
        double spent = now() - start;
        if (i == 0 || spent < best) best = spent;
    }
    return best;
}

/* Seconds of one round of task, repeated until there is something to measure. On a busy machine a short run may last long only
 * because a thread had to wait for its CPU; then twice the rounds do not take nearly twice the time, and more are tried. Work
 * that takes long by itself is done once. */
static double time_round(sample *s, mka_task_fn *task) {
    double before = 0;
    for (s->rounds = 1; s->rounds < 1L << 40;) {
        double best = best_of(s, task, s->rounds == 1 ? 1 : 3);
        if (s->rounds == 1 && best >= LONG_S) return best;
        if (best >= SAMPLE_S && before > 0 && best > 1.5 * before) return best / (double)s->rounds;
        long more = best > 0 && best < SAMPLE_S / 16 ? 8 : 2;
        before = more == 2 ? best : 0;
        s->rounds *= more;
    }
    return best_of(s, task, 1) / (double)s->rounds;
}

/* ---- the buffer ---- */

static void touch_share(void *argument, int thread, int threads) {
    const sample *s = argument;
    size_t begin, end;
    mka_share(s->bytes, LEAST, thread, threads, &begin, &end);
    memset(s->pages + begin, 1 + thread % 100, end - begin);
}

mka_status mka_limits_create(mka_engine *engine, size_t bytes, int node, mka_limits **out, mka_error *error) {
    char text[MKA_SIZE_TEXT];
    *out = NULL;
    mka_succeed(error);
    if (bytes < LEAST) bytes = LEAST;
    mka_limits *limits = calloc(1, sizeof *limits);
    if (!limits) return mka_fail(error, MKA_NO_MEMORY, "no memory to measure limits");
    limits->engine = engine;
    /* Zeroed pages that were never written are all the same one, so a buffer that cannot fit is refused before it is touched. */
    limits->pages = bytes <= mka_memory_free() ? mka_pages_map(bytes) : NULL;
    if (!limits->pages) {
        free(limits);
        return mka_fail(error, MKA_NO_MEMORY, "no memory for a buffer of %s to read", mka_size_text(bytes, text, sizeof text));
    }
    limits->bytes = bytes;
    mka_status status = node < 0 ? MKA_OK : mka_topology_place(engine->topology, limits->pages, bytes, node, error);
    if (status) {
        mka_limits_destroy(limits);
        return status;
    }
    sample s = {.engine = engine, .pages = limits->pages, .bytes = bytes};
    mka_pool_run(engine->pool, touch_share, &s);
    *out = limits;
    return MKA_OK;
}

void mka_limits_destroy(mka_limits *limits) {
    if (!limits) return;
    mka_pages_unmap(limits->pages, limits->bytes);
    free(limits);
}

/* ---- reading and copying ---- */

static mka_status check(const mka_engine *engine, int threads, mka_error *error) {
    int most = mka_pool_threads(engine->pool);
    if (threads >= 1 && threads <= most) return mka_succeed(error);
    return mka_fail(error, MKA_BAD_ARGUMENT, "%d threads cannot be measured on an engine of %d", threads, most);
}

static mka_status check_bytes(const mka_limits *limits, size_t bytes, int threads, mka_error *error) {
    mka_status status = check(limits->engine, threads, error);
    if (status || (bytes >= LEAST && bytes <= limits->bytes)) return status;
    return mka_fail(error, MKA_BAD_ARGUMENT, "%zu bytes cannot be read from a buffer of %zu; %d is the least", bytes,
                    limits->bytes, LEAST);
}

/* What one thread reads a round: runs of an odd number of steps, since runs whose starts differ by a power of two would meet in
 * the same few places of the caches. */
static size_t run_bytes(const sample *s, int thread, size_t *begin) {
    size_t end;
    mka_share(s->bytes, SHARE, thread, s->threads, begin, &end);
    size_t steps = (end - *begin) / MKA_READ_STEP / (size_t)s->walk.streams;
    if (steps > 8 && s->walk.streams > 1) steps = (steps - 1) | 1;
    return steps * MKA_READ_STEP;
}

static void read_share(void *argument, int thread, int threads) {
    sample *s = argument;
    size_t begin;
    (void)threads;
    if (thread >= s->threads) return;
    size_t each = run_bytes(s, thread, &begin);
    uint64_t sum = 0;
    for (long r = 0; r < s->rounds; r++)
        sum ^= s->engine->kernels->peaks.read(s->pages + begin, each, s->walk.streams, s->walk.ahead);
    atomic_fetch_xor(&s->sink, sum);
}

mka_status mka_limits_read(mka_limits *limits, size_t bytes, int threads, double *gbps, mka_error *error) {
    mka_status status = check_bytes(limits, bytes, threads, error);
    if (status) return status;
    sample s = {.engine = limits->engine, .pages = limits->pages, .bytes = bytes, .threads = threads};
    *gbps = 0;
    for (size_t i = 0; i < sizeof walks / sizeof *walks; i++) {
        size_t begin, read = 0;
        s.walk = walks[i];
        for (int t = 0; t < threads; t++) read += run_bytes(&s, t, &begin) * (size_t)s.walk.streams;
        double rate = (double)read / time_round(&s, read_share) * 1e-9;
        if (rate > *gbps) *gbps = rate;
    }
    return MKA_OK;
}

static void copy_share(void *argument, int thread, int threads) {
    const sample *s = argument;
    size_t half = s->bytes / 2, begin, end;
    (void)threads;
    if (thread >= s->threads) return;
    mka_share(half, SHARE, thread, s->threads, &begin, &end);
    for (long r = 0; r < s->rounds; r++) {
        memcpy(s->pages + half + begin, s->pages + begin, end - begin);
        __asm__ volatile("" : : "r"(s->pages) : "memory"); /* each copy is wanted, not only the last */
    }
}

mka_status mka_limits_copy(mka_limits *limits, size_t bytes, int threads, double *gbps, mka_error *error) {
    mka_status status = check_bytes(limits, bytes, threads, error);
    if (status) return status;
    sample s = {.engine = limits->engine, .pages = limits->pages, .bytes = bytes, .threads = threads};
    *gbps = (double)(bytes / 2 * 2) / time_round(&s, copy_share) * 1e-9;
    return MKA_OK;
}

/* ---- computing ---- */

const char *mka_unit_name(mka_unit unit) {
    static const char *const names[MKA_UNITS] = {"f32", "bf16", "int8", "amx_bf16", "amx_int8"};
    return (unsigned)unit < MKA_UNITS ? names[unit] : "unknown";
}

int mka_limits_has(const mka_engine *engine, mka_unit unit) {
    return (unsigned)unit < MKA_UNITS && engine->kernels->peaks.unit[unit] != NULL;
}

#define ROUNDS 64 /* rounds of a unit's loop in one of a sample's */

static void compute_share(void *argument, int thread, int threads) {
    sample *s = argument;
    float sink = 0;
    (void)threads;
    if (thread >= s->threads) return;
    s->engine->kernels->peaks.unit[s->unit](s->rounds * ROUNDS, &sink);
    atomic_fetch_xor(&s->sink, (uint64_t)(sink != 0));
}

mka_status mka_limits_compute(mka_engine *engine, mka_unit unit, int threads, double *gops, mka_error *error) {
    mka_status status = check(engine, threads, error);
    if (status) return status;
    if (!mka_limits_has(engine, unit))
        return mka_fail(error, MKA_UNSUPPORTED, "kernels of level %s have no %s unit", engine->kernels->level,
                        mka_unit_name(unit));
    sample s = {.engine = engine, .threads = threads, .unit = unit};
    float sink = 0;
    double operations = engine->kernels->peaks.unit[unit](ROUNDS, &sink) * threads;
    *gops = operations / time_round(&s, compute_share) * 1e-9;
    return MKA_OK;
}
