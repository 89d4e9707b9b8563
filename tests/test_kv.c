/* test_kv - a cache without a layer around it gives what attention on plain arrays gives, whatever the pieces it was filled in
 * and the lengths it is asked about. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mka/attention.h>

#include "emulated.h"
#include "memory/near.h"
#include "ops/ops.h"
#include "reference_model.h"

enum { TOKENS = 70, HEADS = 6, KV = 2, DIM = 24 };

typedef struct arrays {
    float k[TOKENS][KV][DIM], v[TOKENS][KV][DIM], q[TOKENS][HEADS][DIM], out[TOKENS][HEADS][DIM];
} arrays;

static mka_engine *engine;

static int start(void **state) {
    (void)state;
    mka_engine_options options;
    mka_engine_defaults(&options);
    options.threads = 2;
    options.bind = 0;
    return mka_engine_create(&options, &engine, NULL) != MKA_OK;
}

static int stop(void **state) {
    (void)state;
    mka_engine_destroy(engine);
    return 0;
}

static arrays *random_arrays(void) {
    arrays *a = malloc(sizeof *a);
    uint64_t seed = 5;
    float *all = (float *)a;
    for (size_t i = 0; i < sizeof *a / sizeof *all; i++) all[i] = 2 * reference_random(&seed);
    return a;
}

static mka_kv_options options_of(mka_type type) {
    mka_kv_options o;
    mka_kv_defaults(&o);
    o.heads = HEADS;
    o.kv_heads = KV;
    o.key_dim = o.value_dim = DIM;
    o.context = TOKENS;
    o.key_type = o.value_type = type;
    return o;
}

/* The n last of length tokens, by mka_attend, which wants heads outermost. */
static void wanted(const arrays *a, int length, int n, mka_type type, float *out) {
    mka_attend_shape shape = {HEADS, KV, DIM, n, length, 0, type};
    float *q = malloc(sizeof a->q), *k = malloc(sizeof a->k), *v = malloc(sizeof a->v), *y = malloc(sizeof a->out);
    for (int t = 0; t < length; t++)
        for (int h = 0; h < KV; h++) {
            memcpy(k + ((size_t)h * (size_t)length + (size_t)t) * DIM, a->k[t][h], sizeof a->k[t][h]);
            memcpy(v + ((size_t)h * (size_t)length + (size_t)t) * DIM, a->v[t][h], sizeof a->v[t][h]);
        }
    for (int i = 0; i < n; i++)
        for (int h = 0; h < HEADS; h++) memcpy(q + ((size_t)h * (size_t)n + (size_t)i) * DIM, a->q[i][h], sizeof a->q[i][h]);
    assert_int_equal(mka_attend(engine, &shape, q, k, v, y, NULL), MKA_OK);
    for (int i = 0; i < n; i++)
        for (int h = 0; h < HEADS; h++)
            memcpy(out + ((size_t)i * HEADS + (size_t)h) * DIM, y + ((size_t)h * (size_t)n + (size_t)i) * DIM, DIM * sizeof *y);
    free(q);
    free(k);
    free(v);
    free(y);
}

static void agrees_with_plain_arrays(void **state) {
    (void)state;
    static const struct { int length, n; } cases[] = {{1, 1}, {37, 1}, {70, 1}, {70, 70}, {41, 9}};
    static const mka_type types[] = {MKA_F32, MKA_F16, MKA_BF16};
    arrays *a = random_arrays();
    float *expected = malloc(sizeof a->out);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        mka_kv_options o = options_of(types[t]);
        mka_kv *kv;
        mka_kv_info info;
        assert_int_equal(mka_kv_create(engine, &o, &kv, NULL), MKA_OK);
        for (int done = 0, step = 1; done<TOKENS; done += step, step = step * 3> TOKENS - done ? TOKENS - done : step * 3) {
            if (step > TOKENS - done) step = TOKENS - done;
            assert_int_equal(mka_kv_append(kv, step, a->k[done][0], a->v[done][0], NULL), MKA_OK);
        }
        mka_kv_get_info(kv, &info);
        assert_int_equal(info.length, TOKENS);
        assert_true(info.token_bytes >= (size_t)KV * DIM * (types[t] == MKA_F32 ? 8 : 4));
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            assert_int_equal(mka_kv_attend(kv, cases[i].length, cases[i].n, a->q[0][0], a->out[0][0], NULL), MKA_OK);
            wanted(a, cases[i].length, cases[i].n, types[t], expected);
            for (int j = 0; j < cases[i].n * HEADS * DIM; j++)
                if (!(fabsf((&a->out[0][0][0])[j] - expected[j]) <= 1e-5F))
                    fail_msg("%s, %d of %d tokens, number %d: %g, expected %g", mka_type_name(types[t]), cases[i].n,
                             cases[i].length, j, (double)(&a->out[0][0][0])[j], (double)expected[j]);
        }
        mka_kv_reset(kv);
        mka_kv_get_info(kv, &info);
        assert_int_equal(info.length, 0);
        mka_kv_destroy(kv);
    }
    mka_kv_destroy(NULL);
    free(expected);
    free(a);
}

/* A shared row is its own value: a cache that stores the values apart gives the same. */
static void shared_rows_are_values(void **state) {
    (void)state;
    arrays *a = random_arrays();
    float *first = malloc(sizeof a->out);
    mka_kv_options o = options_of(MKA_F32);
    mka_kv *kv;
    for (int t = 0; t < TOKENS; t++)
        for (int h = 0; h < KV; h++) memcpy((float *)a->v + (t * KV + h) * (DIM - 8), a->k[t][h], (DIM - 8) * sizeof(float));
    o.value_dim = DIM - 8;
    for (o.shared = 0; o.shared < 2; o.shared++) {
        assert_int_equal(mka_kv_create(engine, &o, &kv, NULL), MKA_OK);
        assert_int_equal(mka_kv_append(kv, TOKENS, a->k[0][0], o.shared ? NULL : a->v[0][0], NULL), MKA_OK);
        assert_int_equal(mka_kv_attend(kv, TOKENS, 3, a->q[0][0], o.shared ? a->out[0][0] : first, NULL), MKA_OK);
        mka_kv_destroy(kv);
    }
    for (int i = 0; i < 3 * HEADS * (DIM - 8); i++) assert_true(fabsf((&a->out[0][0][0])[i] - first[i]) <= 1e-5F);
    free(first);
    free(a);
}

/* ---- four bits, and the newest tokens beside them ---- */

enum { LONG = 500, PASS = 60 };

typedef struct long_arrays {
    float k[LONG][KV][DIM], v[LONG][KV][DIM], q[LONG][HEADS][DIM], out[LONG][HEADS][DIM];
} long_arrays;

static long_arrays *random_long(void) {
    long_arrays *a = malloc(sizeof *a);
    uint64_t seed = 9;
    float *all = (float *)a;
    for (size_t i = 0; i < sizeof *a / sizeof *all; i++) all[i] = 2 * reference_random(&seed);
    return a;
}

/* All tokens in steps of at most n, each attended from as soon as it is there. */
static void attend_in_steps(mka_engine *on, long_arrays *a, mka_type keys, mka_type values, int window, int n) {
    mka_kv_options o = options_of(keys);
    mka_kv *kv;
    o.value_type = values;
    o.context = LONG;
    o.queries = n;
    o.window = window;
    assert_int_equal(mka_kv_create(on, &o, &kv, NULL), MKA_OK);
    for (int round = n == PASS ? 0 : 1; round < 2; round++) { /* 0: and once more after a reset */
        for (int done = 0; done < LONG;) {
            int step = n < LONG - done ? n : LONG - done;
            assert_int_equal(mka_kv_append(kv, step, a->k[done][0], a->v[done][0], NULL), MKA_OK);
            done += step;
            assert_int_equal(mka_kv_attend(kv, done, step, a->q[done - step][0], a->out[done - step][0], NULL), MKA_OK);
        }
        mka_kv_reset(kv);
    }
    mka_kv_destroy(kv);
}

/* Which tokens count as new depends on positions alone, so steps of any size agree. */
static void steps_agree(mka_engine *on, float within) {
    static const struct {
        mka_type keys, values;
        int window;
    } cases[] = {{MKA_Q4_0, MKA_Q4_0, 0},
                 {MKA_Q4_0, MKA_F32, 0},
                 {MKA_F16, MKA_Q4_0, 0},
                 {MKA_Q4_0, MKA_Q4_0, 200},
                 {MKA_Q4_0, MKA_Q4_0, 50}};
    static const int steps[] = {1, 7, PASS, LONG};
    long_arrays *a = random_long();
    float *first = malloc(sizeof a->out);
    size_t least = emulated() ? 1 : 0; /* 500 steps of one token take their time there */
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c += emulated() ? 3 : 1)
        for (size_t s = least; s < sizeof steps / sizeof *steps; s++) {
            attend_in_steps(on, a, cases[c].keys, cases[c].values, cases[c].window, steps[s]);
            if (s == least) memcpy(first, a->out, sizeof a->out);
            for (size_t i = 0; i < sizeof a->out / sizeof *first; i++)
                if (!(fabsf((&a->out[0][0][0])[i] - first[i]) <= within))
                    fail_msg("case %zu, steps of %d, number %zu: %g, expected %g", c, steps[s], i, (double)(&a->out[0][0][0])[i],
                             (double)first[i]);
        }
    free(first);
    free(a);
}

/* Levels with integer products round the weights of rows together that they work on together. */
static void four_bits_in_any_steps(void **state) {
    (void)state;
    mka_engine_options options;
    mka_engine *scalar;
    mka_engine_defaults(&options);
    options.threads = 2;
    options.bind = 0;
    options.cpu = "scalar";
    assert_int_equal(mka_engine_create(&options, &scalar, NULL), MKA_OK);
    if (!emulated()) steps_agree(scalar, 1e-5F); /* its code is the same on any processor */
    steps_agree(engine, 2e-2F);
    mka_engine_destroy(scalar);
}

/* Each query looks for the key so many tokens before it; the root mean square of what four bits change in what it finds. */
static double loss_at(long_arrays *a, int back) {
    double sum = 0;
    for (int t = back; t < LONG; t++)
        for (int h = 0; h < HEADS; h++)
            for (int e = 0; e < DIM; e++) a->q[t][h][e] = 3 * a->k[t - back][h / (HEADS / KV)][e];
    attend_in_steps(engine, a, MKA_F32, MKA_F32, 0, PASS);
    float *want = malloc(sizeof a->out), *got = &a->out[0][0][0];
    memcpy(want, a->out, sizeof a->out);
    attend_in_steps(engine, a, MKA_Q4_0, MKA_Q4_0, 0, PASS);
    for (size_t i = (size_t)back * HEADS * DIM; i < (size_t)LONG * HEADS * DIM; i++)
        sum += (double)(got[i] - want[i]) * (double)(got[i] - want[i]);
    free(want);
    return sqrt(sum / ((LONG - back) * HEADS * DIM));
}

static void the_newest_keep_their_digits(void **state) {
    (void)state;
    long_arrays *a = random_long();
    double here = loss_at(a, 0), near = loss_at(a, 128), far = loss_at(a, 300);
    if (!(here < 0.01 && near < 0.01)) fail_msg("new tokens lose %g and %g", here, near);
    if (!(far > 0.03 && far < 0.3)) fail_msg("old tokens lose %g", far);
    free(a);
}

/* Rooms move on by whole tiles, and a cut before them leaves nothing. */
static void a_cut_forgets(void **state) {
    (void)state;
    static unsigned char memory[1 << 20];
    mka_near_shape shape = {1, 32, 32, MKA_Q4_0, MKA_Q4_0, 64, 100000};
    mka_near near;
    assert_true(mka_near_bytes(&shape) > 0 && mka_near_bytes(&shape) < sizeof memory);
    mka_near_place(&shape, memory, &near);
    for (int at = 0; at < 5000; at += 50) {
        mka_near_advance(&near, at, 50);
        assert_int_equal(near.first % MKA_TILE, 0);
        assert_true(near.held <= (at / MKA_TILE * MKA_TILE > MKA_NEAR ? at / MKA_TILE * MKA_TILE - MKA_NEAR : 0));
        assert_true(at + 50 - near.first <= (int)near.tiles * MKA_TILE);
        assert_null(mka_near_key(&near, 0, near.first - 1));
    }
    int held = near.held;
    mka_near_truncate(&near, held + 1);
    assert_int_equal(near.held, held);
    mka_near_truncate(&near, 77);
    assert_int_equal(near.held, 77);
    assert_int_equal(near.first, 64);
    mka_near_advance(&near, 77, 64);
    assert_int_equal(near.held, 77);
    assert_ptr_equal(mka_near_key(&near, 0, 77), memory);
    mka_attend_near part = {.keys = memory, .held = near.held};
    assert_int_equal(mka_near_from(&part, 70), 71);
    assert_int_equal(mka_near_from(&part, 77), 77);
    assert_int_equal(mka_near_from(&part, 1000), 992 - MKA_NEAR);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    mka_kv *kv = (mka_kv *)&kv;
    mka_error error;
    float row[HEADS * DIM] = {0};
    mka_kv_options o = options_of(MKA_F32);
#define REFUSED(field, value, said)                                                                                              \
    do {                                                                                                                         \
        mka_kv_options wrong = o;                                                                                                \
        wrong.field = value;                                                                                                     \
        assert_int_equal(mka_kv_create(engine, &wrong, &kv, &error), MKA_BAD_ARGUMENT);                                          \
        assert_null(kv);                                                                                                         \
        assert_non_null(strstr(error.message, said));                                                                            \
    } while (0)
    REFUSED(heads, 0, "heads");
    REFUSED(kv_heads, 4, "do not divide");
    REFUSED(key_dim, 0, "key_dim");
    REFUSED(value_dim, 4096, "value_dim");
    REFUSED(context, 0, "context");
    REFUSED(queries, -1, "queries");
    REFUSED(window, -1, "window");
    REFUSED(scale, NAN, "scale");
    REFUSED(key_type, MKA_Q6_K, "q6_k");
    mka_kv_options large = o;
    large.context = 1 << 27;
    large.key_dim = large.value_dim = 1024;
    large.heads = large.kv_heads = 4096;
    assert_int_equal(mka_kv_create(engine, &large, &kv, &error), MKA_NO_MEMORY);
    assert_null(kv);
    o.context = 2;
    assert_int_equal(mka_kv_create(engine, &o, &kv, &error), MKA_OK);
    assert_int_equal(mka_kv_attend(kv, 1, 1, row, row, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_kv_append(kv, 3, row, row, &error), MKA_CONTEXT_FULL);
    assert_int_equal(mka_kv_append(kv, 0, row, row, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_kv_append(kv, 1, row, row, &error), MKA_OK);
    assert_int_equal(mka_kv_attend(kv, 1, 2, row, row, &error), MKA_BAD_ARGUMENT);
    mka_kv_destroy(kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_plain_arrays),
        cmocka_unit_test(shared_rows_are_values),
        cmocka_unit_test(four_bits_in_any_steps),
        cmocka_unit_test(the_newest_keep_their_digits),
        cmocka_unit_test(a_cut_forgets),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
