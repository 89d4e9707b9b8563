/* test_thread - every thread runs every task once, barriers order phases, callers take turns, idle threads sleep, and shared
 * work is done once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/pieces.h"
#include "base/thread.h"
#include "base/topology.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static mka_pool *make(int threads) {
    mka_pool *pool = NULL;
    mka_error error;
    mka_status status = mka_pool_create(threads, NULL, &pool, &error);
    if (status != MKA_OK) print_error("%s\n", error.message);
    assert_int_equal(status, MKA_OK);
    assert_int_equal(mka_pool_threads(pool), threads);
    return pool;
}

struct tally {
    int runs[64]; /* plain ints: a race would show under ThreadSanitizer */
    int threads;
};

static void count(void *argument, int thread, int threads) {
    struct tally *tally = argument;
    tally->runs[thread]++;
    if (threads != tally->threads) tally->runs[thread] = -1000000;
}

static void runs_every_thread_once(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 3, 7, 16};
    for (size_t s = 0; s < 5; s++) {
        mka_pool *pool = make(sizes[s]);
        struct tally tally = {.threads = sizes[s]};
        for (int i = 0; i < 500; i++) mka_pool_run(pool, count, &tally);
        for (int t = 0; t < sizes[s]; t++) assert_int_equal(tally.runs[t], 500);
        assert_int_equal(tally.runs[sizes[s]], 0);
        mka_pool_destroy(pool);
    }
    mka_pool_destroy(NULL);
}

struct phases {
    mka_pool *pool;
    int round;
    int cells[16];
    atomic_int wrong;
};

/* In every phase each thread writes its cell, and reads all cells after the barrier. */
static void step(void *argument, int thread, int threads) {
    struct phases *p = argument;
    for (int phase = 1; phase <= 20; phase++) {
        p->cells[thread] = phase;
        mka_pool_barrier(p->pool);
        for (int t = 0; t < threads; t++) {
            if (p->cells[t] != phase) atomic_fetch_add(&p->wrong, 1);
        }
        mka_pool_barrier(p->pool);
    }
}

static void barriers_order_phases(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 5, 16};
    for (size_t s = 0; s < 4; s++) {
        struct phases phases = {.pool = make(sizes[s])};
        for (phases.round = 0; phases.round < 20; phases.round++) mka_pool_run(phases.pool, step, &phases);
        assert_int_equal(atomic_load(&phases.wrong), 0);
        mka_pool_destroy(phases.pool);
    }
}

struct caller {
    mka_pool *pool;
    struct tally *shared;
};

static void *call(void *argument) {
    struct caller *caller = argument;
    for (int i = 0; i < 300; i++) mka_pool_run(caller->pool, count, caller->shared);
    return NULL;
}

static void callers_take_turns(void **state) {
    (void)state;
    struct tally tally = {.threads = 2};
    struct caller caller = {make(2), &tally};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, call, &caller), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_int_equal(tally.runs[0], 1200);
    assert_int_equal(tally.runs[1], 1200);
    mka_pool_destroy(caller.pool);
}

static double seconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void idle_threads_sleep(void **state) {
    (void)state;
    struct tally tally = {.threads = 4};
    mka_pool *pool = make(4);
    mka_pool_run(pool, count, &tally);
    double used = seconds(CLOCK_PROCESS_CPUTIME_ID);
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    used = seconds(CLOCK_PROCESS_CPUTIME_ID) - used;
    assert_true(used < 0.1); /* spinning would use up to 0.9 s */
    mka_pool_run(pool, count, &tally);
    assert_int_equal(tally.runs[3], 2);
    mka_pool_destroy(pool);
}

/* Far more threads than any test machine has cores: waiting must give them up, not burn time slices. */
static void survives_oversubscription(void **state) {
    (void)state;
    struct phases phases = {.pool = make(16)};
    double begin = seconds(CLOCK_MONOTONIC);
    for (int i = 0; i < 10; i++) mka_pool_run(phases.pool, step, &phases);
    double taken = seconds(CLOCK_MONOTONIC) - begin;
    assert_int_equal(atomic_load(&phases.wrong), 0);
    assert_true(taken < 20); /* 400 barriers; a spin until preempted would cost milliseconds a thread each */
    mka_pool_destroy(phases.pool);
}

struct places {
    int cpu[2];
};

static void look(void *argument, int thread, int threads) {
    struct places *places = argument;
    (void)threads;
    places->cpu[thread] = sched_getcpu();
}

static void binds_workers(void **state) {
    (void)state;
    cpu_set_t allowed, after;
    mka_pool *pool;
    mka_error error;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    int cpu = CPU_SETSIZE - 1;
    while (cpu > 0 && !CPU_ISSET(cpu, &allowed)) cpu--;
    const int cpus[2] = {0, cpu}, bad[2] = {0, -1}, none[2] = {0, 100000};
    struct places places = {{-1, -1}};
    assert_int_equal(mka_pool_create(2, cpus, &pool, &error), MKA_OK);
    for (int i = 0; i < 20; i++) {
        mka_pool_run(pool, look, &places);
        assert_int_equal(places.cpu[1], cpu);
    }
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&allowed, &after)); /* the caller stays as it was */
    mka_pool_destroy(pool);
    assert_int_equal(mka_pool_create(2, bad, &pool, &error), MKA_BAD_ARGUMENT);
    assert_null(pool);
    assert_int_equal(mka_pool_create(2, none, &pool, &error), MKA_BAD_ARGUMENT);
    assert_null(pool);
    assert_non_null(strstr(error.message, "CPU 100000"));
}

static void refuses_bad_counts(void **state) {
    (void)state;
    static const int counts[] = {0, -1, 1025, INT32_MAX};
    mka_error error;
    for (size_t i = 0; i < 4; i++) {
        mka_pool *pool = (mka_pool *)&error;
        assert_int_equal(mka_pool_create(counts[i], NULL, &pool, &error), MKA_BAD_ARGUMENT);
        assert_null(pool);
    }
}

static void shares_cover_everything(void **state) {
    (void)state;
    static const size_t totals[] = {0, 1, 5, 31, 32, 33, 1000, 4096, SIZE_MAX - 1, SIZE_MAX},
                        grains[] = {1, 4, 32, 4096, SIZE_MAX};
    for (size_t i = 0; i < 10; i++) {
        for (size_t g = 0; g < 5; g++) {
            for (int threads = 1; threads <= 17; threads += 4) {
                size_t at = 0, least = SIZE_MAX, most = 0;
                for (int t = 0; t < threads; t++) {
                    size_t begin, end;
                    mka_share(totals[i], grains[g], t, threads, &begin, &end);
                    assert_true(begin == at && end >= begin && end <= totals[i]);
                    assert_true(end == totals[i] || end % grains[g] == 0);
                    if (end < totals[i]) {
                        least = end - begin < least ? end - begin : least;
                        most = end - begin > most ? end - begin : most;
                    }
                    at = end;
                }
                assert_true(at == totals[i]);
                assert_true(most == 0 || most - least <= grains[g]);
            }
        }
    }
}

struct piecework {
    mka_pieces pieces[8];
    unsigned char done[5000]; /* plain bytes: a race would show under ThreadSanitizer */
    size_t total;
    mka_pool *pool;
    int rounds, helped;
};

static void take_pieces(void *argument, int thread, int threads) {
    struct piecework *work = argument;
    size_t begin, end;
    for (int round = 0; round < work->rounds; round++) {
        mka_pieces_begin(work->pieces, work->total, thread, threads);
        mka_pool_barrier(work->pool);
        if (thread == threads - 1 && threads > 1 && round == 0) { /* the others have done its work when it comes */
            mka_pool_barrier(work->pool);
            work->helped = !mka_pieces_take(work->pieces, thread, threads, &begin, &end);
            mka_pool_barrier(work->pool);
            continue;
        }
        while (mka_pieces_take(work->pieces, thread, threads, &begin, &end))
            for (size_t i = begin; i < end; i++) work->done[i]++;
        mka_pool_barrier(work->pool);
        if (threads > 1 && round == 0) mka_pool_barrier(work->pool);
    }
}

static void pieces_cover_everything_once(void **state) {
    const size_t totals[] = {0, 1, 2, 7, 64, 1001, 5000};
    (void)state;
    for (int threads = 1; threads <= 8; threads += threads < 3 ? 1 : 5) {
        mka_pool *pool = make(threads);
        for (size_t t = 0; t < sizeof totals / sizeof *totals; t++) {
            struct piecework work = {.total = totals[t], .pool = pool, .rounds = 5};
            mka_pool_run(pool, take_pieces, &work);
            for (size_t i = 0; i < sizeof work.done; i++) assert_int_equal(work.done[i], i < work.total ? work.rounds : 0);
            assert_true(threads == 1 || work.helped);
        }
        mka_pool_destroy(pool);
    }
}

static void pieces_come_in_halves_from_both_ends(void **state) {
    mka_pieces pieces[2] = {{0}};
    size_t begin, end;
    (void)state;
    mka_pieces_begin(pieces, 32, 0, 2);
    assert_true(mka_pieces_take(pieces, 0, 2, &begin, &end) && begin == 0 && end == 8);
    assert_true(mka_pieces_take(pieces, 1, 2, &begin, &end) && begin == 12 && end == 16); /* its own share is not begun */
    assert_true(mka_pieces_take(pieces, 0, 2, &begin, &end) && begin == 8 && end == 10);
    mka_pieces_begin(pieces, 32, 1, 2);
    assert_true(mka_pieces_take(pieces, 1, 2, &begin, &end) && begin == 16 && end == 24);
}

struct serial {
    mka_pool *pool;
    int sum, wrong; /* plain ints: a race would show under ThreadSanitizer */
};

static void add_one(void *user) {
    ((struct serial *)user)->sum++;
}

static void step_by_step(void *argument, int thread, int threads) {
    struct serial *serial = argument;
    (void)threads;
    for (int i = 1; i <= 1000; i++) {
        mka_pool_barrier_with(serial->pool, add_one, serial);
        if (serial->sum != i && thread == 0) serial->wrong = 1;
        mka_pool_barrier(serial->pool);
    }
}

static void barriers_run_their_step_once(void **state) {
    (void)state;
    for (int threads = 1; threads <= 5; threads += 2) {
        struct serial serial = {.pool = make(threads)};
        mka_pool_run(serial.pool, step_by_step, &serial);
        assert_int_equal(serial.sum, 1000);
        assert_false(serial.wrong);
        mka_pool_destroy(serial.pool);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_every_thread_once),
        cmocka_unit_test(barriers_order_phases),
        cmocka_unit_test(barriers_run_their_step_once),
        cmocka_unit_test(callers_take_turns),
        cmocka_unit_test(idle_threads_sleep),
        cmocka_unit_test(survives_oversubscription),
        cmocka_unit_test(binds_workers),
        cmocka_unit_test(refuses_bad_counts),
        cmocka_unit_test(shares_cover_everything),
        cmocka_unit_test(pieces_cover_everything_once),
        cmocka_unit_test(pieces_come_in_halves_from_both_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
