/* thread - the pool: one fork and one join around a task, a barrier inside it, and the way that all three wait.
 *
 * A forward pass forks hundreds of times a token, so waking must cost less than a microsecond, and between tokens nothing may
 * burn power. Hence every wait spins for a bounded time and then sleeps on a futex:
 *
 *   run:     task, argument written -> epoch + 1 -> [wake sleepers] ... caller works as thread 0 ... -> wait pending = 0
 *   worker:  wait epoch changes -> task -> pending - 1 -> the last one [wakes the caller]
 *   barrier: arrived + 1 -> the last one: [its step,] arrived = 0, phase + 1 -> [wake sleepers]; the others wait for the phase
 *
 * Whoever changes a word wakes only when somebody has said that he sleeps; both sides use sequentially consistent accesses,
 * so one of them always sees the other.
 */
#include "base/thread.h"

#include "base/status.h"
#include "base/topology.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 1024
#define SPIN_NS     40000 /* longer than the serial pieces between two tasks of a pass, shorter than a scheduler's slice */
#define YIELD_NS    4000
#define CROWD_NS    200000   /* a yield that took so long gave the CPU to another program */
#define CALM_NS     50000000 /* for so long after that nobody spins */
#define LINE        64

/* A word that threads wait on, alone on its cache line. */
struct gate {
    alignas(LINE) atomic_uint value;
    atomic_uint sleepers;
};

struct worker {
    mka_pool *pool;
    int index;
    pthread_t handle;
};

struct mka_pool {
    alignas(LINE) int threads;
    int spin_ns;
    _Atomic int64_t crowded; /* until this time other programs use these CPUs; 0: never seen */
    pthread_mutex_t turn;    /* held by the thread whose task runs */
    struct worker *workers;  /* [threads], the first unused */
    mka_task_fn *task;       /* NULL: leave */
    void *argument;
    struct gate epoch;   /* counts tasks */
    struct gate pending; /* workers that have not finished this task */
    struct gate phase;   /* counts barriers */
    alignas(LINE) atomic_int arrived;
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb"); /* yield does nothing on most cores; isb waits about as long as x86's pause */
#endif
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void gate_sleep(struct gate *gate, unsigned seen) {
    /* A stale value, a signal or a spurious wake return at once; the caller looks again in any case. */
    syscall(SYS_futex, &gate->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void gate_wake(struct gate *gate) {
    if (atomic_load(&gate->sleepers) > 0) syscall(SYS_futex, &gate->value, FUTEX_WAKE_PRIVATE, MAX_THREADS, NULL, NULL, 0);
}

/* Offers the CPU: on a busy machine the thread that is waited for may be queued behind this one. Where another program took it,
 * the pool remembers: who yields goes to the end of the queue and waits for every program's slice, milliseconds at each
 * barrier, while who sleeps is put in front when he is woken. */
static int64_t offer_cpu(mka_pool *pool, int64_t before) {
    sched_yield();
    int64_t now = now_ns();
    if (now - before > CROWD_NS) atomic_store_explicit(&pool->crowded, now + CALM_NS, memory_order_relaxed);
    return now;
}

static int crowded(mka_pool *pool, int64_t now) {
    return now < atomic_load_explicit(&pool->crowded, memory_order_relaxed);
}

/* Spins until the gate's value is (equal = 1) or is not (equal = 0) value; 0 when time is up first. */
static int gate_spin(mka_pool *pool, struct gate *gate, unsigned value, int equal) {
    int64_t begin = 0, now = 0;
    for (unsigned turn = 0;; turn++) {
        if ((atomic_load_explicit(&gate->value, memory_order_acquire) == value) == equal) return 1;
        if (now - begin > YIELD_NS) {
            now = offer_cpu(pool, now);
        } else if (turn % 32 == 31) { /* reading the clock costs about as much as 32 short pauses */
            now = now_ns();
            if (begin == 0) begin = now;
        }
        if (begin != 0 && (now - begin >= pool->spin_ns || crowded(pool, now))) return 0;
        relax();
    }
}

static void gate_wait(mka_pool *pool, struct gate *gate, unsigned value, int equal) {
    if (gate_spin(pool, gate, value, equal)) return;
    atomic_fetch_add(&gate->sleepers, 1);
    for (;;) {
        unsigned seen = atomic_load(&gate->value);
        if ((seen == value) == equal) break;
        gate_sleep(gate, seen);
    }
    atomic_fetch_sub(&gate->sleepers, 1);
}

static void *worker_main(void *argument) {
    struct worker *self = argument;
    mka_pool *pool = self->pool;
    for (unsigned seen = 0;; seen++) {
        gate_wait(pool, &pool->epoch, seen, 0);
        if (!pool->task) return NULL;
        pool->task(pool->argument, self->index, pool->threads);
        if (atomic_fetch_sub(&pool->pending.value, 1) == 1) gate_wake(&pool->pending);
    }
}

static void fork_task(mka_pool *pool, mka_task_fn *task, void *argument) {
    pool->task = task;
    pool->argument = argument;
    atomic_store_explicit(&pool->pending.value, (unsigned)pool->threads - 1, memory_order_relaxed);
    atomic_fetch_add(&pool->epoch.value, 1);
    gate_wake(&pool->epoch);
}

void mka_pool_run(mka_pool *pool, mka_task_fn *task, void *argument) {
    pthread_mutex_lock(&pool->turn);
    if (pool->threads > 1) fork_task(pool, task, argument);
    task(argument, 0, pool->threads);
    if (pool->threads > 1) gate_wait(pool, &pool->pending, 0, 1);
    pthread_mutex_unlock(&pool->turn);
}

void mka_pool_barrier_with(mka_pool *pool, void (*between)(void *user), void *user) {
    unsigned phase = atomic_load_explicit(&pool->phase.value, memory_order_relaxed); /* cannot change before we arrive */
    if (atomic_fetch_add(&pool->arrived, 1) + 1 < pool->threads) {
        gate_wait(pool, &pool->phase, phase, 0);
        return;
    }
    if (between) between(user);
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed); /* published by the phase */
    atomic_fetch_add(&pool->phase.value, 1);
    gate_wake(&pool->phase);
}

void mka_pool_barrier(mka_pool *pool) {
    if (pool->threads > 1) mka_pool_barrier_with(pool, NULL, NULL);
}

int mka_pool_threads(const mka_pool *pool) {
    return pool->threads;
}

/* Spinning helps only while every thread has a CPU: otherwise it keeps the one that is waited for from running. */
static int spin_budget(int threads) {
    cpu_set_t allowed;
    int cpus = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : MAX_THREADS;
    int quota = mka_cpu_quota();
    if (quota > 0 && quota < cpus) cpus = quota;
    return threads <= cpus ? SPIN_NS : 0;
}

static mka_status bind(const struct worker *worker, int cpu, mka_error *error) {
    int code = EINVAL;
    size_t size = CPU_ALLOC_SIZE(cpu + 1);
    cpu_set_t *set = CPU_ALLOC(cpu + 1);
    if (!set) return mka_fail(error, MKA_NO_MEMORY, "no memory for a set of %d CPUs", cpu + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S(cpu, size, set);
    code = pthread_setaffinity_np(worker->handle, size, set);
    CPU_FREE(set);
    if (code != 0)
        return mka_fail(error, MKA_BAD_ARGUMENT, "thread %d cannot be bound to CPU %d: %s", worker->index, cpu, strerror(code));
    return MKA_OK;
}

/* Starts worker index with all signals blocked, so that they reach the program's own threads. */
static mka_status start(mka_pool *pool, int index, mka_error *error) {
    struct worker *worker = &pool->workers[index];
    sigset_t all, before;
    char name[16];
    worker->pool = pool;
    worker->index = index;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&worker->handle, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0) {
        return mka_fail(error, MKA_NO_MEMORY, "thread %d of %d cannot be started: %s (try fewer threads)", index + 1,
                        pool->threads, strerror(code));
    }
    snprintf(name, sizeof name, "mka-%d", index);
    pthread_setname_np(worker->handle, name);
    return MKA_OK;
}

/* Ends and joins the first started - 1 workers (thread 0 is the caller) and frees the pool. */
static void finish(mka_pool *pool, int started) {
    fork_task(pool, NULL, NULL);
    for (int i = 1; i < started; i++) pthread_join(pool->workers[i].handle, NULL);
    pthread_mutex_destroy(&pool->turn);
    free(pool->workers);
    free(pool);
}

mka_status mka_pool_create(int threads, const int *cpus, mka_pool **out, mka_error *error) {
    *out = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d threads: expected 1..%d", threads, MAX_THREADS);
    for (int i = 1; cpus && i < threads; i++) {
        if (cpus[i] < 0 || cpus[i] >= 1 << 20)
            return mka_fail(error, MKA_BAD_ARGUMENT, "thread %d cannot be bound to CPU %d: no such CPU", i, cpus[i]);
    }
    mka_pool *pool = aligned_alloc(LINE, sizeof *pool);
    if (!pool) return mka_fail(error, MKA_NO_MEMORY, "no memory for %d threads", threads);
    memset(pool, 0, sizeof *pool);
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    if (!pool->workers || pthread_mutex_init(&pool->turn, NULL) != 0) {
        free(pool->workers);
        free(pool);
        return mka_fail(error, MKA_NO_MEMORY, "no memory for %d threads", threads);
    }
    pool->threads = threads;
    pool->spin_ns = spin_budget(threads);
    for (int i = 1; i < threads; i++) {
        mka_status status = start(pool, i, error);
        int started = status == MKA_OK ? i + 1 : i;
        if (status == MKA_OK && cpus) status = bind(&pool->workers[i], cpus[i], error);
        if (status != MKA_OK) {
            finish(pool, started);
            return status;
        }
    }
    *out = pool;
    return mka_succeed(error);
}

void mka_pool_destroy(mka_pool *pool) {
    if (pool) finish(pool, pool->threads);
}

void mka_share(size_t total, size_t grain, int thread, int threads, size_t *begin, size_t *end) {
    size_t units = total / grain + (total % grain != 0), count = (size_t)threads, index = (size_t)thread;
    size_t each = units / count, more = units % count; /* the first `more` shares have one unit more */
    size_t first = index * each + (index < more ? index : more);
    size_t last = first + each + (index < more);
    *begin = first < units ? first * grain : total;
    *end = last < units ? last * grain : total;
}
