/* test_memory - the tiers without a model: recalling everything is dense attention of the stored cache, estimates come close to
 * it, a certified loss is never exceeded, and what a query gets does not depend on how many tokens came with it, or is as exact.
 */
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

#include "emulated.h"

enum { HEADS = 6, KV_HEADS = 2, GROUP = HEADS / KV_HEADS, DIM = 64, MOST_TOKENS = 1500, CHUNK = 200 };

static int tokens; /* of all runs: MOST_TOKENS, or fewer under an emulator */

static uint64_t state;

static float uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) * 0x1p-24F;
}

static float normal(void) {
    return sqrtf(-2 * logf(uniform() + 1e-7F)) * cosf(6.2831853F * uniform());
}

/* The larger one, or b when it is NaN; fmax in a loop kills gcc 12 for AArch64. */
static double larger(double a, double b) {
    return b <= a ? a : b;
}

typedef struct fixture {
    mka_engine *engine;
    float *keys, *values, *queries, *out; /* [MOST_TOKENS][..][DIM] */
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
    tokens = emulated() ? 512 : MOST_TOKENS;
    assert_int_equal(mka_engine_create(&options, &f->engine, NULL), MKA_OK);
    f->keys = floats((size_t)tokens * KV_HEADS * DIM);
    f->values = floats((size_t)tokens * KV_HEADS * DIM);
    f->queries = floats((size_t)tokens * HEADS * DIM);
    f->out = floats((size_t)tokens * HEADS * DIM);
    state = 11;
    float common[DIM];
    for (int i = 0; i < DIM; i++) common[i] = normal();
    for (size_t t = 0; t < (size_t)tokens; t++) {
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
    o.context = tokens;
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
    for (int at = 0; at < tokens; at += chunk) {
        int n = tokens - at < chunk ? tokens - at : chunk;
        size_t kv = (size_t)at * KV_HEADS * DIM, q = (size_t)at * HEADS * DIM;
        assert_int_equal(mka_memory_append(memory, 0, n, f->keys + kv, f->values + kv, &error), MKA_OK);
        assert_int_equal(mka_memory_attend(memory, 0, n, f->queries + q, out + q, used, &error), MKA_OK);
    }
    assert_int_equal(mka_memory_length(memory, 0), tokens);
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
        most = larger(most, s[t]);
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

/* Largest error of the outputs of some late tokens against exact attention. (Without fmax: gcc 12 for AArch64 dies of it here.)
 */
static double worst(const fixture *f, const float *out) {
    double most = 0, truth[DIM];
    for (int token = tokens * 7 / 15; token < tokens; token += 57)
        for (int head = 0; head < HEADS; head++) {
            exact(f, token, head, truth, NULL);
            for (int i = 0; i < DIM; i++) {
                double error = fabs(truth[i] - (double)out[((size_t)token * HEADS + (size_t)head) * DIM + (size_t)i]);
                most = larger(most, error);
            }
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

/* Keys that are hard to bound: all alike, zeros, one huge dimension, signs that say nothing, lengths over six orders of
 * magnitude. */
static void adversarial_keys(const fixture *f, float *keys) {
    memcpy(keys, f->keys, (size_t)tokens * KV_HEADS * DIM * sizeof *keys);
    for (size_t t = 0; t < (size_t)tokens; t++)
        for (size_t i = 0; i < KV_HEADS * DIM; i++) {
            float *k = &keys[t * KV_HEADS * DIM + i];
            switch (t / 100 % 6) {
            case 0:
                *k = 0.5F;
                break;
            case 1:
                *k = 0;
                break;
            case 2:
                *k = i % DIM == 7 ? 40.0F : *k;
                break;
            case 3:
                *k = i % 2 ? 1e-4F : -1e-4F;
                break;
            case 4:
                *k *= powf(10, (float)(t % 7) - 4);
                break;
            default:
                break;
            }
        }
}

/* Values that tell what was lost: 1 for tokens that the query always reads (the first ones and its window), 0 for the others.
 * With x a number of the output and y the true mass of those tokens, the share of the softmax that was left out is 1 - y / x. */
static double lost_share(const fixture *f, const float *out, int token, int head, int edge) {
    double mass[MOST_TOKENS], kept = 0, ignored[DIM];
    exact(f, token, head, ignored, mass);
    for (int t = 0; t <= token; t++) kept += t < 64 || t >= edge ? mass[t] : 0;
    float x = out[((size_t)token * HEADS + (size_t)head) * DIM];
    assert_false(isnan(x));
    if (kept > 1e-30) return 1 - kept / (double)x;
    assert_true(x < 1e-20F); /* nothing of it is in those tokens, so that this says nothing of the loss */
    return 0;
}

/* The last query's lost share over all heads, for queries at the end of growing lengths: the values depend on where windows
 * stand, so each length has a memory of its own. */
static double most_lost(fixture *f, const mka_memory_options *o) {
    double most = 0;
    for (int length = 500; length <= tokens; length += 250) {
        int edge = 64 + (length - o->plan.window - 64) / 256 * 256;
        mka_memory *memory;
        mka_error error;
        mka_used used = {.queries = 0};
        for (int t = 0; t < length; t++)
            for (int i = 0; i < KV_HEADS * DIM; i++) f->values[(size_t)t * KV_HEADS * DIM + (size_t)i] = t < 64 || t >= edge;
        assert_int_equal(mka_memory_create(f->engine, o, &memory, &error), MKA_OK);
        assert_int_equal(mka_memory_append(memory, 0, length, f->keys, f->values, &error), MKA_OK);
        size_t q = (size_t)(length - 1) * HEADS * DIM;
        assert_int_equal(mka_memory_attend(memory, 0, 1, f->queries + q, f->out + q, &used, &error), MKA_OK);
        assert_true(used.long_tokens > 0);
        for (int head = 0; head < HEADS; head++) most = larger(most, lost_share(f, f->out, length - 1, head, edge));
        mka_memory_destroy(memory);
    }
    return most;
}

static void a_certified_loss_is_not_exceeded(void **data) {
    fixture *f = *data;
    size_t count = (size_t)tokens * KV_HEADS * DIM;
    float *keys = f->keys, *values = f->values, *hard = floats(count);
    adversarial_keys(f, hard);
    f->values = floats(count);
    for (int set = 0; set < 2; set++)
        for (int i = 0; i < 4; i++) {
            const float eps[] = {0.5F, 0.1F, 0.01F, 0};
            mka_memory_options o = small(MKA_F32, MKA_F32);
            o.plan.recall = (mka_recall){.contract = MKA_RECALL_CERTIFIED, .eps = eps[i]};
            f->keys = set ? hard : keys;
            double lost = most_lost(f, &o);
            print_message("%s keys, eps %g: at most %.5f of the mass lost\n", set ? "adversarial" : "random", (double)eps[i],
                          lost);
            assert_true(lost <= (double)eps[i] + 4e-4); /* scores of hundreds in float32 */
        }
    free(f->values);
    free(hard);
    f->keys = keys;
    f->values = values;
}

/* A certified contract that allows much reads less than everything, and says how much it left out. */
static void a_loose_contract_reads_less(void **data) {
    fixture *f = *data;
    mka_memory_options o = small(MKA_F32, MKA_F32);
    o.plan.recall = (mka_recall){.contract = MKA_RECALL_CERTIFIED, .eps = 0.3F};
    mka_used used = {.queries = 0};
    run(f, &o, CHUNK, f->out, &used);
    assert_true(used.read_tokens < used.long_tokens);
    assert_true(used.unread_mass > 0 && used.unread_mass / (double)used.queries <= 0.3);
    assert_true(worst(f, f->out) <= 2 * 0.3 * 6); /* eps times the diameter of the values */
}

/* Keys of the first and last layer of Qwen2.5: a bias of length 600 that rotation turns with the position, so that no constant
 * takes it off, over keys of length 8. Codes of 8 bits and signs would lose the keys in the bias: such a layer is to stay local
 * as a whole. */
static void rotating_biases_stay_local(void **data) {
    fixture *f = *data;
    float *keys = f->keys, *queries = f->queries;
    f->keys = floats((size_t)tokens * KV_HEADS * DIM);
    f->queries = floats((size_t)tokens * HEADS * DIM);
    for (size_t i = 0; i < (size_t)tokens * HEADS * DIM; i++) f->queries[i] = 0.2F * queries[i];
    for (size_t t = 0; t < (size_t)tokens; t++)
        for (size_t h = 0; h < KV_HEADS; h++)
            for (size_t i = 0; i < DIM / 2; i++) {
                double angle = (double)t * pow(1e4, -2.0 * (double)i / DIM), bias = i % 8 == 0 ? 300 : 10;
                float *key = f->keys + (t * KV_HEADS + h) * DIM;
                key[i] = keys[(t * KV_HEADS + h) * DIM + i] + (float)(bias * cos(angle));
                key[i + DIM / 2] = keys[(t * KV_HEADS + h) * DIM + i + DIM / 2] + (float)(bias * sin(angle));
            }
    mka_memory_options o = small(MKA_F32, MKA_Q8_0);
    mka_used used = {.queries = 0};
    run(f, &o, CHUNK, f->out, &used);
    double error = worst(f, f->out);
    print_message("rotating biases: worst output error %.2g\n", error);
    assert_true(error < 1e-3); /* scores of hundreds in float32 */
    assert_true(used.queries == 0 && used.local_bytes > 0);
    free(f->keys);
    free(f->queries);
    f->keys = keys;
    f->queries = queries;
}

/* Queries that choose for themselves: a share of the mass is wanted. */
static void chunks_do_not_matter(void **data) {
    fixture *f = *data;
    mka_memory_options o = small(MKA_F32, MKA_Q8_0); /* chunks of 16-bit caches are rounded otherwise than single tokens */
    o.plan.recall.share = 0.95F;
    size_t count = (size_t)tokens * HEADS * DIM;
    float *other = floats(count);
    run(f, &o, CHUNK, f->out, NULL);
    static const int chunks[] = {64, 511, 1};
    for (size_t c = 0; c < (emulated() ? 2 : 3); c++) {
        double most = 0, mean = 0;
        run(f, &o, chunks[c], other, NULL);
        for (size_t i = 0; i < count; i++) {
            double change = fabs((double)(other[i] - f->out[i]));
            most = larger(most, change);
            mean += change / (double)count;
        }
        print_message("chunks of %d: %.2g, %.2g on average\n", chunks[c], most, mean);
        assert_true(most < 0.1 && mean < 1e-3); /* rounding decides whether a cluster is read that is as good unread */
    }
    free(other);
}

/* Mean distance of outputs from those that read everything. */
static double mean_error(const float *out, const float *all) {
    double mean = 0;
    for (size_t i = 0; i < (size_t)tokens * HEADS * DIM; i++)
        mean += fabs((double)(out[i] - all[i])) / ((double)tokens * HEADS * DIM);
    return mean;
}

/* Queries of a chunk share what they read, in all types that rows may have: they come as close to dense attention as single
 * queries do, and read fewer bytes. Neighbours are made alike, as those of models are. */
static void queries_that_share_are_as_exact(void **data) {
    fixture *f = *data;
    size_t count = (size_t)tokens * HEADS * DIM;
    float *all = floats(count), *queries = f->queries;
    f->queries = floats(count);
    for (size_t i = 0; i < count; i++)
        f->queries[i] = i < HEADS * DIM ? queries[i] : 0.9F * f->queries[i - HEADS * DIM] + 0.43F * queries[i];
    const mka_type types[] = {MKA_Q8_0, MKA_BF16, MKA_Q4_0};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        mka_memory_options o = small(MKA_F32, types[t]);
        if (types[t] == MKA_Q4_0) o.plan.key_type = MKA_Q8_0; /* keys of 4 bits do not fit: all would stay local */
        mka_used single = {.queries = 0}, shared = {.queries = 0};
        o.plan.recall.contract = MKA_RECALL_DENSE;
        run(f, &o, CHUNK, all, NULL);
        o.plan.recall.contract = MKA_RECALL_ESTIMATED;
        run(f, &o, 15, f->out, &single);
        double apart = mean_error(f->out, all);
        run(f, &o, 512, f->out, &shared);
        double together = mean_error(f->out, all);
        print_message("%s: mean error %.2g by themselves, %.2g together; keys read %.0f and %.0f, MB %.2f and %.2f\n",
                      mka_type_name(types[t]), apart, together, (double)single.scored_tokens / (double)single.queries,
                      (double)shared.scored_tokens / (double)shared.queries, 1e-6 * (double)single.key_bytes,
                      1e-6 * (double)shared.key_bytes);
        assert_int_equal(shared.queries, single.queries);
        assert_int_equal(shared.long_tokens, single.long_tokens);
        assert_true(together > 0 && together < 1.1 * apart + 1e-3); /* keys and values are rounded to bf16 for a block */
        assert_true(shared.read_tokens < shared.long_tokens && shared.key_bytes < single.key_bytes / 2);
        assert_true(shared.unread_mass > 0 && shared.unread_mass < 1.5 * single.unread_mass);
    }
    free(f->queries);
    free(all);
    f->queries = queries;
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
    assert_int_equal(mka_memory_append(memory, 0, tokens + 1, f->keys, f->values, &error), MKA_CONTEXT_FULL);
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
        cmocka_unit_test(a_loose_contract_reads_less),
        cmocka_unit_test(chunks_do_not_matter),
        cmocka_unit_test(queries_that_share_are_as_exact),
        cmocka_unit_test(rotating_biases_stay_local),
        cmocka_unit_test(bad_options_are_named),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
