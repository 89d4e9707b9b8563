/* test_memory - the tiers without a model: recalling everything is dense attention of the stored cache, estimates come close to
 * it, a certified loss is never exceeded, and what a query gets does not depend on how many tokens came with it. */
#include <math.h>
#include <mka/memory.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

enum { HEADS = 6, KV_HEADS = 2, GROUP = HEADS / KV_HEADS, DIM = 64, TOKENS = 1500, CHUNK = 200 };

static uint64_t state;

static float uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) * 0x1p-24F;
}

static float normal(void) {
    return sqrtf(-2 * logf(uniform() + 1e-7F)) * cosf(6.2831853F * uniform());
}

typedef struct fixture {
    mka_engine *engine;
    float *keys, *values, *queries, *out; /* [TOKENS][..][DIM] */
} fixture;

static float *floats(size_t count) {
    float *x = calloc(count, sizeof *x);
    assert_non_null(x);
    return x;
}

/* Keys with a common part and a few directions that queries look for: softmax is neither flat nor a single token. */
static int make(void **data) {
    fixture *f = calloc(1, sizeof *f);
    mka_engine_options options;
    mka_engine_defaults(&options);
    options.threads = 3;
    assert_non_null(f);
    assert_int_equal(mka_engine_create(&options, &f->engine, NULL), MKA_OK);
    f->keys = floats((size_t)TOKENS * KV_HEADS * DIM);
    f->values = floats((size_t)TOKENS * KV_HEADS * DIM);
    f->queries = floats((size_t)TOKENS * HEADS * DIM);
    f->out = floats((size_t)TOKENS * HEADS * DIM);
    state = 11;
    float common[DIM];
    for (int i = 0; i < DIM; i++) common[i] = normal();
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t i = 0; i < KV_HEADS * DIM; i++) {
            f->keys[t * KV_HEADS * DIM + i] = common[i % DIM] + normal();
            f->values[t * KV_HEADS * DIM + i] = normal();
        }
        size_t liked = (size_t)(uniform() * (float)t);
        for (size_t i = 0; i < HEADS * DIM; i++)
            f->queries[t * HEADS * DIM + i] =
                normal() + 0.8F * f->keys[liked * KV_HEADS * DIM + i / (GROUP * DIM) * DIM + i % DIM];
    }
    *data = f;
    return 0;
}

static int unmake(void **data) {
    fixture *f = *data;
    mka_engine_destroy(f->engine);
    free(f->keys);
    free(f->values);
    free(f->queries);
    free(f->out);
    free(f);
    return 0;
}

static mka_memory_options small(mka_type local, mka_type longterm) {
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.heads = HEADS;
    o.kv_heads = KV_HEADS;
    o.head_dim = DIM;
    o.context = TOKENS;
    o.local = local;
    o.plan.window = 128;
    o.plan.key_type = o.plan.value_type = longterm;
    return o;
}

/* The attention outputs of all tokens, in chunks. */
static void run(const fixture *f, const mka_memory_options *o, int chunk, float *out, mka_used *used) {
    mka_memory *memory;
    mka_error error;
    if (mka_memory_create(f->engine, o, &memory, &error) != MKA_OK) fail_msg("%s", error.message);
    for (int at = 0; at < TOKENS; at += chunk) {
        int n = TOKENS - at < chunk ? TOKENS - at : chunk;
        size_t kv = (size_t)at * KV_HEADS * DIM, q = (size_t)at * HEADS * DIM;
        assert_int_equal(mka_memory_append(memory, 0, n, f->keys + kv, f->values + kv, &error), MKA_OK);
        assert_int_equal(mka_memory_attend(memory, 0, n, f->queries + q, out + q, used, &error), MKA_OK);
    }
    assert_int_equal(mka_memory_length(memory, 0), TOKENS);
    mka_memory_destroy(memory);
}

/* Softmax attention of one query and head in double precision; mass (may be NULL) gets the weights. */
static void exact(const fixture *f, int token, int head, double *out, double *mass) {
    const float *q = f->queries + ((size_t)token * HEADS + (size_t)head) * DIM;
    double most = -INFINITY, z = 0, *s = calloc((size_t)token + 1, sizeof *s);
    assert_non_null(s);
    for (int t = 0; t <= token; t++) {
        const float *k = f->keys + ((size_t)t * KV_HEADS + (size_t)(head / GROUP)) * DIM;
        for (int i = 0; i < DIM; i++) s[t] += (double)q[i] * (double)k[i];
        s[t] /= sqrt(DIM);
        most = fmax(most, s[t]);
    }
    memset(out, 0, DIM * sizeof *out);
    for (int t = 0; t <= token; t++) z += s[t] = exp(s[t] - most);
    for (int t = 0; t <= token; t++) {
        const float *v = f->values + ((size_t)t * KV_HEADS + (size_t)(head / GROUP)) * DIM;
        for (int i = 0; i < DIM; i++) out[i] += s[t] / z * (double)v[i];
        if (mass) mass[t] = s[t] / z;
    }
    free(s);
}

/* Largest error of the outputs of some late tokens against exact attention. */
static double worst(const fixture *f, const float *out) {
    double most = 0, truth[DIM];
    for (int token = 700; token < TOKENS; token += 57)
        for (int head = 0; head < HEADS; head++) {
            exact(f, token, head, truth, NULL);
            for (int i = 0; i < DIM; i++)
                most = fmax(most, fabs(truth[i] - (double)out[((size_t)token * HEADS + (size_t)head) * DIM + (size_t)i]));
        }
    return most;
}

static void recalling_all_is_dense(void **data) {
    fixture *f = *data;
    mka_memory_options o = small(MKA_F32, MKA_F32);
    mka_used used = {.queries = 0};
    o.plan.recall.contract = MKA_RECALL_DENSE;
    run(f, &o, CHUNK, f->out, &used);
    assert_true(worst(f, f->out) < 2e-5);
    assert_true(used.queries > 0 && used.read_tokens == used.long_tokens);
    assert_true(used.value_bytes == used.read_tokens * DIM * 4 && used.key_bytes == used.value_bytes);
    o.plan.recall = (mka_recall){.contract = MKA_RECALL_CERTIFIED, .eps = 0};
    run(f, &o, CHUNK, f->out, NULL);
    assert_true(worst(f, f->out) < 2e-5);
}

static void estimates_come_close(void **data) {
    fixture *f = *data;
    mka_memory_options o = small(MKA_F32, MKA_Q8_0);
    mka_used used = {.queries = 0};
    run(f, &o, CHUNK, f->out, &used);
    double error = worst(f, f->out);
    print_message("estimated: worst output error %.4f, read %.0f of %.0f tokens, %.1f %% of the mass unread\n", error,
                  (double)used.read_tokens / (double)used.queries, (double)used.long_tokens / (double)used.queries,
                  100 * used.unread_mass / (double)used.queries);
    assert_true(error < 0.1);
    assert_true(used.read_tokens < used.long_tokens);
    o.plan.recall.tokens = 64;
    used = (mka_used){.queries = 0};
    run(f, &o, CHUNK, f->out, &used);
    assert_true(used.read_tokens <= 64 * used.queries);
    o.plan.recall = (mka_recall){.share = 0.9F};
    used = (mka_used){.queries = 0};
    run(f, &o, CHUNK, f->out, &used);
    assert_true(used.unread_mass / (double)used.queries < 0.11);
    assert_true(worst(f, f->out) < 0.3);
}

static void a_certified_loss_is_not_exceeded(void **data) {
    fixture *f = *data;
    for (int i = 0; i < 3; i++) {
        const float eps[] = {0.3F, 0.05F, 0.001F};
        mka_memory_options o = small(MKA_F32, MKA_F32);
        o.plan.recall = (mka_recall){.contract = MKA_RECALL_CERTIFIED, .eps = eps[i]};
        mka_used used = {.queries = 0};
        run(f, &o, CHUNK, f->out, &used);
        print_message("eps %g: %.1f %% of the values read, %.4f of the mass left out\n", (double)eps[i],
                      100 * (double)used.read_tokens / (double)used.long_tokens, used.unread_mass / (double)used.queries);
        assert_true(used.unread_mass / (double)used.queries <= (double)eps[i]);
        /* |out - exact| <= 2 eps max |v| */
        assert_true(worst(f, f->out) <= 2 * (double)eps[i] * 6);
    }
}

static void chunks_do_not_matter(void **data) {
    fixture *f = *data;
    mka_memory_options o = small(MKA_F16, MKA_Q8_0);
    size_t count = (size_t)TOKENS * HEADS * DIM;
    float *other = floats(count);
    run(f, &o, CHUNK, f->out, NULL);
    const int chunks[] = {1, 64, 511};
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        double most = 0;
        run(f, &o, chunks[c], other, NULL);
        for (size_t i = 0; i < count; i++) most = fmax(most, fabs((double)(other[i] - f->out[i])));
        print_message("chunks of %d: %.2g\n", chunks[c], most);
        assert_true(most < 2e-5);
    }
    free(other);
}

static void bad_options_are_named(void **data) {
    fixture *f = *data;
    mka_memory *memory = (mka_memory *)f;
    mka_error error;
    mka_memory_options o = small(MKA_F16, MKA_Q8_0);
    o.plan.window = 100;
    assert_int_equal(mka_memory_create(f->engine, &o, &memory, &error), MKA_BAD_ARGUMENT);
    assert_null(memory);
    assert_non_null(strstr(error.message, "window"));
    o = small(MKA_F16, MKA_Q8_0);
    o.plan.recall.eps = 1;
    assert_int_equal(mka_memory_create(f->engine, &o, &memory, &error), MKA_BAD_ARGUMENT);
    assert_non_null(strstr(error.message, "eps"));
    o = small(MKA_F16, MKA_Q4_1);
    assert_int_equal(mka_memory_create(f->engine, &o, &memory, &error), MKA_BAD_ARGUMENT);
    o = small(MKA_F16, MKA_Q8_0);
    assert_int_equal(mka_memory_create(f->engine, &o, &memory, &error), MKA_OK);
    assert_int_equal(mka_memory_append(memory, 1, 1, f->keys, f->values, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_memory_append(memory, 0, TOKENS + 1, f->keys, f->values, &error), MKA_CONTEXT_FULL);
    assert_int_equal(mka_memory_attend(memory, 0, 1, f->queries, f->out, NULL, &error), MKA_BAD_ARGUMENT);
    mka_recall recall = {.share = -1};
    assert_int_equal(mka_memory_set_recall(memory, &recall, &error), MKA_BAD_ARGUMENT);
    mka_memory_destroy(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recalling_all_is_dense),
        cmocka_unit_test(estimates_come_close),
        cmocka_unit_test(a_certified_loss_is_not_exceeded),
        cmocka_unit_test(chunks_do_not_matter),
        cmocka_unit_test(bad_options_are_named),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
