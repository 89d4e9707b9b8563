/* test_bank - the long-term bank in hidden space: what is found is the mean of the best summaries, by plain arithmetic in double
 * precision; signs lead to them among thousands; pieces of any sizes agree; memory is bounded; sessions before this one. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "memory/bank.h"
#include "memory/tiers.h"
#include "ops/engine.h"
#include "scalar/half.h"

enum { SINKS = 64, WINDOW = 128, BLOCK = 64, THREADS = 2 };

static mka_engine *engine;
static mka_ops ops;

static int start(void **state) {
    (void)state;
    mka_engine_options options;
    mka_engine_defaults(&options);
    options.threads = THREADS;
    options.bind = 0;
    if (mka_engine_create(&options, &engine, NULL)) return 1;
    mka_ops_cpu(&ops, engine);
    return 0;
}

static int stop(void **state) {
    (void)state;
    mka_engine_destroy(engine);
    return 0;
}

static uint64_t seed;

static float normal(void) {
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(seed >> 40) * 0x1p-24F - 0.5F;
    }
    return sum * 1.7320508F;
}

typedef struct fixture {
    mka_bank bank;
    mka_bank_work work;
    mka_arena arena;
    int width, tokens;
    float *x, *queries, *out; /* [tokens][width] */
} fixture;

static float *floats(size_t count) {
    float *x = calloc(count, sizeof *x);
    assert_non_null(x);
    return x;
}

/* Rows with much in common and a topic a block; queries near the topic of some block. */
static void make(fixture *f, int width, int tokens, int capacity, int queries) {
    *f = (fixture){.width = width, .tokens = tokens};
    size_t count = (size_t)tokens * (size_t)width, w = (size_t)width;
    mka_bank_shape shape = {width, capacity, SINKS, WINDOW, queries};
    mka_error error;
    if (mka_bank_create(&shape, &f->bank, &error)) fail_msg("%s", error.message);
    for (int pass = 0; pass < 2; pass++) {
        mka_bank_layout(&f->work, width, THREADS, &f->arena);
        if (pass == 0) assert_int_equal(mka_arena_reserve(&f->arena, &error), MKA_OK);
    }
    f->x = floats(count), f->queries = floats(count), f->out = floats(count);
    int topics = tokens / BLOCK + 1;
    float *common = floats(w), *topic = floats((size_t)topics * w);
    seed = 5;
    for (size_t i = 0; i < w; i++) common[i] = 3 * normal();
    for (size_t i = 0; i < (size_t)topics * w; i++) topic[i] = normal();
    for (size_t t = 0; t < (size_t)tokens; t++) {
        size_t own = t < SINKS ? 0 : (t - SINKS) / BLOCK, asked = (size_t)(fabsf(normal()) * 1000) % (own + 1);
        for (size_t i = 0; i < w; i++) {
            f->x[t * w + i] = common[i] + topic[own * w + i] + normal();
            f->queries[t * w + i] = common[i] + 0.5F * topic[asked * w + i] + 0.5F * normal();
        }
    }
    free(common);
    free(topic);
}

static void unmake(fixture *f) {
    mka_bank_destroy(&f->bank);
    mka_arena_free(&f->arena);
    free(f->x);
    free(f->queries);
    free(f->out);
}

/* Puts all rows and asks for all tokens, in pieces. */
static void run(fixture *f, int piece, float *out) {
    for (int at = 0; at < f->tokens; at += piece) {
        int n = f->tokens - at < piece ? f->tokens - at : piece;
        size_t from = (size_t)at * (size_t)f->width;
        mka_bank_put(&f->bank, engine->kernels, n, f->x + from);
        mka_bank_find(&f->bank, &f->work, &ops, at, n, f->queries + from, NULL, 0, n == 1, out + from);
    }
}

/* ---- what is right ---- */

static void mean_rows(const fixture *f, int from, int count, double *mean) {
    memset(mean, 0, (size_t)f->width * sizeof *mean);
    for (int t = 0; t < count; t++)
        for (int i = 0; i < f->width; i++) mean[i] += (double)f->x[(size_t)(from + t) * (size_t)f->width + (size_t)i] / count;
}

static double cosine(int n, const double *a, const double *b) {
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
    return ab / sqrt(aa * bb);
}

/* The long-term row of a token from blocks first..edge - 1, by the definition in bank.h. */
static void exact(const fixture *f, int token, int first, double *row) {
    int n = f->width, edge = mka_blocks_behind(SINKS, WINDOW, token), count = edge - first, found = count < 8 ? count : 8;
    double *centre = calloc((size_t)n * 3, sizeof *centre), *query = centre + n, *block = query + n;
    double *cosines = calloc((size_t)edge + 1, sizeof *cosines), sum = 0, weights[8];
    int best[9];
    assert_true(centre && cosines);
    memset(row, 0, (size_t)n * sizeof *row);
    mean_rows(f, SINKS, WINDOW, centre);
    for (int i = 0; i < n; i++) query[i] = (double)f->queries[(size_t)token * (size_t)n + (size_t)i] - centre[i];
    for (int b = first; b < edge; b++) {
        mean_rows(f, SINKS + b * BLOCK, BLOCK, block);
        for (int i = 0; i < n; i++) block[i] -= centre[i];
        cosines[b] = cosine(n, query, block);
    }
    for (int k = 0; k < 9 && k < count; k++) {
        best[k] = first;
        for (int b = first; b < edge; b++)
            if (cosines[b] > cosines[best[k]]) best[k] = b;
        if (k < 8) weights[k] = cosines[best[k]];
        if (k == 8) sum = cosines[best[k]];
        cosines[best[k]] = -2;
    }
    double least = count > 8 ? sum : -1, all = 0;
    for (int k = 0; k < found; k++) all += weights[k] - least;
    for (int k = 0; k < found; k++) {
        mean_rows(f, SINKS + best[k] * BLOCK, BLOCK, block);
        for (int i = 0; i < n; i++) row[i] += (weights[k] - least) / all * block[i];
    }
    free(centre);
    free(cosines);
}

/* |out - exact| / |exact| of a token, 0 where both are nothing. */
static double error_of(const fixture *f, int token, int first) {
    double *row = calloc((size_t)f->width, sizeof *row), apart = 0, length = 0;
    assert_non_null(row);
    exact(f, token, first, row);
    for (int i = 0; i < f->width; i++) {
        double off = (double)f->out[(size_t)token * (size_t)f->width + (size_t)i] - row[i];
        apart += off * off;
        length += row[i] * row[i];
    }
    free(row);
    return length > 0 ? sqrt(apart / length) : sqrt(apart);
}

static void finds_the_best(void **state) {
    (void)state;
    static const int widths[] = {48, 100, 576};
    for (int i = 0; i < 3; i++) {
        fixture f;
        make(&f, widths[i], 2200, 1000, 300); /* at most 31 blocks: all are compared */
        run(&f, 300, f.out);
        for (int t = 0; t < f.tokens; t += 37) {
            double error = error_of(&f, t, 0);
            if (!(error < 2e-3)) fail_msg("width %d, token %d: off by %g", widths[i], t, error); /* half floats */
        }
        for (int t = 0; t < SINKS + WINDOW + BLOCK - 1; t++) /* nothing is behind the window yet */
            for (int e = 0; e < f.width; e++) assert_true(f.out[t * f.width + e] == 0);
        unmake(&f);
    }
}

/* Where there are more than are compared, signs have to lead to the best ones. */
static void signs_lead_to_them(void **state) {
    (void)state;
    fixture f;
    double sum = 0, worst = 0;
    int count = 0;
    make(&f, 256, 24000, 1000, 512);
    run(&f, 512, f.out);
    for (int t = 6000; t < f.tokens; t += 211, count++) {
        double error = error_of(&f, t, 0);
        sum += error;
        worst = error > worst ? error : worst;
    }
    print_message("among up to 372 summaries: off by %.4f on average, %.4f at most\n", sum / count, worst);
    assert_true(sum / count < 0.04 && worst < 0.15);
    unmake(&f);
}

static void pieces_do_not_matter(void **state) {
    (void)state;
    static const int pieces[] = {1, 7, 64, 200, 1024};
    fixture f;
    make(&f, 96, 6000, 64, 1024); /* less than all blocks: the ring turns */
    float *want = floats((size_t)f.tokens * 96);
    run(&f, 1000, want);
    for (int i = 0; i < 5; i++) {
        mka_bank_reset(&f.bank);
        assert_int_equal(mka_bank_entries(&f.bank), 0);
        run(&f, pieces[i], f.out);
        assert_memory_equal(f.out, want, (size_t)f.tokens * 96 * sizeof *want);
    }
    for (int t = 5000; t < f.tokens; t += 101) { /* only the last 64 blocks behind the window */
        memcpy(f.out, want, (size_t)f.tokens * 96 * sizeof *want);
        assert_true(error_of(&f, t, mka_blocks_behind(SINKS, WINDOW, t) - 64) < 0.25);
    }
    assert_true(mka_bank_entries(&f.bank) - f.bank.begin <= mka_bank_room(&f.bank));
    free(want);
    unmake(&f);
}

static void weightless_tokens_find_nothing(void **state) {
    (void)state;
    fixture f;
    float weights[2 * 500] = {0};
    make(&f, 64, 1500, 100, 500);
    run(&f, 500, f.out);
    for (int i = 0; i < 500; i++) weights[2 * i] = (float)(i % 3);
    float *out = floats((size_t)500 * 64), *last = f.out + (size_t)1000 * 64;
    uint64_t all = mka_bank_find(&f.bank, &f.work, &ops, 1000, 500, f.queries + (size_t)1000 * 64, NULL, 0, 0, out), some;
    assert_memory_equal(out, last, (size_t)500 * 64 * sizeof *out);
    some = mka_bank_find(&f.bank, &f.work, &ops, 1000, 500, f.queries + (size_t)1000 * 64, weights, 2, 0, out);
    assert_true(some > all / 2 && some < all);
    for (int i = 0; i < 500; i++)
        for (int e = 0; e < 64; e++) assert_true(out[i * 64 + e] == (weights[2 * i] != 0 ? last[i * 64 + e] : 0));
    free(out);
    unmake(&f);
}

/* A second session that remembers the first one finds its summaries from the first token on; with a ring that is too small, the
 * newest of them. */
static void earlier_sessions_are_found(void **state) {
    (void)state;
    static const int capacities[] = {1000, 20};
    for (int i = 0; i < 2; i++) {
        fixture f, g;
        make(&f, 128, 3000, 1000, 300);
        make(&g, 128, 300, capacities[i], 300);
        mka_bank_put(&f.bank, engine->kernels, 3000, f.x);
        int blocks = mka_bank_entries(&f.bank), from;
        assert_int_equal(blocks, (3000 - SINKS) / BLOCK);
        mka_bank_remember(&g.bank, 30, f.bank.rows);
        mka_bank_remember(&g.bank, blocks - 30, f.bank.rows + 30 * f.bank.row);
        assert_int_equal(mka_bank_edge(&g.bank, 0, &from), blocks);
        assert_int_equal(from, blocks < capacities[i] ? 0 : blocks - capacities[i]);
        /* What asks is a block of the first session itself. */
        for (int b = from; b < blocks; b++) {
            float query[128], out[128];
            double mean[128], row[128];
            mean_rows(&f, SINKS + b * BLOCK, BLOCK, mean);
            for (int e = 0; e < 128; e++) query[e] = (float)mean[e];
            mka_bank_find(&g.bank, &g.work, &ops, 0, 1, query, NULL, 0, 1, out);
            for (int e = 0; e < 128; e++) row[e] = (double)out[e] - (double)g.bank.centre[e], mean[e] -= (double)g.bank.centre[e];
            assert_true(cosine(128, row, mean) > 0.8);
        }
        mka_bank_put(&g.bank, engine->kernels, 300, g.x);
        assert_int_equal(mka_bank_entries(&g.bank), blocks + 3);
        mka_bank_reset(&g.bank);
        assert_int_equal(mka_bank_edge(&g.bank, 299, &from) - from, 1);
        unmake(&f);
        unmake(&g);
    }
}

/* Rows that no sane model has neither crash nor spread to what other tokens find. */
static void broken_rows_stay_where_they_are(void **state) {
    (void)state;
    static const float wrong[] = {NAN, INFINITY, 1e30F, 0};
    for (int i = 0; i < 4; i++) {
        fixture f;
        make(&f, 64, 4000, 100, 500);
        for (int t = 1000; t < 1200; t++)
            for (int e = 0; e < 64; e++) f.x[t * 64 + e] = wrong[i];
        for (int e = 0; e < 64; e++) f.queries[3000 * 64 + e] = wrong[i];
        run(&f, 500, f.out);
        for (int t = 2500; t < f.tokens; t++)
            for (int e = 0; e < 64 && t != 3000; e++) assert_true(isfinite(f.out[t * 64 + e]));
        unmake(&f);
    }
}

static void states_are_checked(void **state) {
    (void)state;
    fixture f;
    make(&f, 64, 1, 100, 500);
    int room = mka_bank_room(&f.bank);
    assert_true(room >= 100 + (WINDOW + 500) / BLOCK);
    assert_int_equal(mka_bank_count(&f.bank, 1000, -1, 0), -1);
    assert_int_equal(mka_bank_count(&f.bank, 1000, 0, -1), -1);
    assert_int_equal(mka_bank_count(&f.bank, 1000, 0, 15), -1); /* 14 blocks */
    assert_int_equal(mka_bank_count(&f.bank, -1, 0, 0), -1);
    assert_int_equal(mka_bank_count(&f.bank, 1000, INT32_MAX, 0), -1);
    assert_int_equal(mka_bank_count(&f.bank, 1000, 20, 3), 31);
    assert_int_equal(mka_bank_count(&f.bank, 1000, 0, 14), 0);
    unmake(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_best),
        cmocka_unit_test(signs_lead_to_them),
        cmocka_unit_test(pieces_do_not_matter),
        cmocka_unit_test(weightless_tokens_find_nothing),
        cmocka_unit_test(earlier_sessions_are_found),
        cmocka_unit_test(broken_rows_stay_where_they_are),
        cmocka_unit_test(states_are_checked),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
