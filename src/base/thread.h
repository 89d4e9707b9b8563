/* thread - the pool that runs one task on every thread at once. Persistent; workers spin briefly after a task, then sleep.
 *
 * Tasks split their own work by (thread, threads), so that the split, and with it the result, is theirs to fix.
 */
#ifndef MKA_BASE_THREAD_H
#define MKA_BASE_THREAD_H

#include <mka/mka.h>

typedef struct mka_pool mka_pool;

/* 0 <= thread < threads; the caller of mka_pool_run is thread 0. */
typedef void mka_task_fn(void *argument, int thread, int threads);

/* cpus: [threads] logical CPU to bind each thread to, or NULL to bind none. The caller's own thread is never bound. */
mka_status mka_pool_create(int threads, const int *cpus, mka_pool **pool, mka_error *error);
void mka_pool_destroy(mka_pool *pool);
int mka_pool_threads(const mka_pool *pool);

/* Runs task(argument, t, threads) for every t and returns when all are done. Calls from several threads wait for each
 * other; a task must not call it. Never allocates. */
void mka_pool_run(mka_pool *pool, mka_task_fn *task, void *argument);

/* Inside a task: waits until every thread of the pool is here. */
void mka_pool_barrier(mka_pool *pool);

/* The same, and the last thread to come runs between(user) before any goes on: a serial step that costs no wait of its own. */
void mka_pool_barrier_with(mka_pool *pool, void (*between)(void *user), void *user);

/* The half-open range of thread's share when total items are cut into threads runs whose lengths are multiples of grain
 * (the last may be shorter). */
void mka_share(size_t total, size_t grain, int thread, int threads, size_t *begin, size_t *end);

#endif
