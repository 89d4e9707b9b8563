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
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
