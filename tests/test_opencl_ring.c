/* test_opencl_ring - long-term rows that stay in memory, and come to a device's ring when recall wants them, or before it does:
 * what is sent ahead by a guess changes no bit of any result, however good or bad the guess is, however small the ring, and
 * whatever happens to the memory before the guess is used.
 *
 * Any device will do (PoCL is one on every CPU); without one the tests are skipped. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mka/memory.h>
#include <mka/session.h>

#include "memory/memory_layers.h"
#include "model/session.h"
#include "opencl/longterm.h"
#include "opencl_device.h"
#include "reference_model.h"

enum { HEADS = 4, KV_HEADS = 2, DIM = 32, WIDTH = KV_HEADS * DIM, NUMBERS = HEADS * DIM, WORDS = 60, PIECE = 100 };

static mka_memory_options options(int context) {
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.layers = 2, o.heads = HEADS, o.kv_heads = KV_HEADS, o.head_dim = DIM, o.plan.window = 64, o.queries = PIECE;
    o.context = context;
    return o;
}

/* Tokens made of words, the same in both layers. */
static void fill(mka_memory *memory, int length, uint64_t seed) {
    float *words = random_floats(&seed, WORDS * WIDTH), *rows = malloc(2 * PIECE * WIDTH * sizeof *rows);
    mka_error error;
    for (int done = 0; done < length; done += PIECE) {
        for (int i = 0; i < 2 * PIECE; i++) {
            const float *word = words + (size_t)pick(&seed, 0, WORDS - 1) * WIDTH;
            for (int e = 0; e < WIDTH; e++) rows[i * WIDTH + e] = word[e] + 0.5F * reference_random(&seed);
        }
        for (int layer = 0; layer < 2; layer++)
            if (mka_memory_append(memory, layer, PIECE, rows, rows + PIECE * WIDTH, &error)) fail_msg("%s", error.message);
    }
    free(words);
    free(rows);
}

static mka_memory *make(const mka_memory_options *o, int length) {
    mka_memory *memory;
    mka_error error;
    if (mka_memory_create(device, o, &memory, &error)) fail_msg("%s", error.message);
    assert_non_null(memory->residents);
    assert_int_equal(memory->rows_there, 0);
    fill(memory, length, 5);
    return memory;
}

static void make_query(uint64_t *seed, float *q) {
    for (int i = 0; i < NUMBERS; i++) q[i] = 4 * reference_random(seed);
}

/* The query of both layers, with a guess (or without: NULL) for the second one. */
static void ask(mka_memory *memory, const float *q, const float *guess, float out[2][NUMBERS]) {
    const mka_attend_job job = {.heads = HEADS, .scale = memory->options.scale, .q = guess};
    mka_tiers *second = &memory->layers[1].tiers;
    mka_error error;
    for (int layer = 0; layer < 2; layer++) {
        if (layer == 0 && guess && mka_tiers_looks_ahead(second, memory->layers[1].length))
            mka_tiers_expect(second, memory->layers[1].length, &job);
        if (mka_memory_attend(memory, layer, 1, q, out[layer], NULL, &error)) fail_msg("%s", error.message);
    }
}

static mka_device_usage usage(void) {
    mka_device_usage u;
    mka_engine_get_device_usage(device, &u);
    return u;
}

/* ---- guesses ---- */

/* Rows that a guess wants come ahead, and nothing is left to wait for. */
static void a_good_guess(void **state) {
    (void)state;
    need_speed();
    const mka_memory_options o = options(6000);
    float q[NUMBERS], with[2][NUMBERS], without[2][NUMBERS];
    uint64_t seed = 3;
    rows_stay_here(&o);
    mka_memory *memory = make(&o, 5900);
    const mka_recall few = {.contract = MKA_RECALL_ESTIMATED, .tokens = 24};
    mka_memory_set_recall(memory, &few, NULL);
    make_query(&seed, q);
    ask(memory, q, NULL, without); /* closes what the windows have left behind */
    mka_memory_reset(memory);
    fill(memory, 5900, 5);
    float first[NUMBERS] = {0};
    ask(memory, first, NULL, with);
    mka_cl_ring *ring = &memory->layers[1].tiers.there->ring;
    ring->lost = 1; /* of what was read, nothing is there any more */
    mka_device_usage before = usage();
    ask(memory, q, q, with);
    mka_device_usage after = usage();
    assert_memory_equal(with, without, sizeof with);
    assert_true(after.ahead.tokens > before.ahead.tokens);
    assert_int_equal(after.ahead.bytes - before.ahead.bytes, (after.ahead.tokens - before.ahead.tokens) * ring->place);
    memory->layers[0].tiers.there->ring.lost = ring->lost = 1;
    before = usage();
    ask(memory, q, NULL, with);
    uint64_t all = usage().fetched.tokens - before.fetched.tokens;
    memory->layers[0].tiers.there->ring.lost = ring->lost = 1;
    before = usage();
    ask(memory, q, q, with);
    after = usage();
    /* a fifth: the guess sees the same tokens, so that all that the second layer wants came ahead */
    assert_int_equal(after.fetched.tokens - before.fetched.tokens + after.ahead.tokens - before.ahead.tokens, all);
    assert_true(after.fetched.tokens - before.fetched.tokens < all);
    mka_memory_destroy(memory);
    no_limit();
}

/* Good ones, bad ones, such as want everything and none, in a ring that has to overwrite what it holds. */
static void guesses_change_nothing(void **state) {
    (void)state;
    need_device();
    const int length = sized(5900, 1500);
    mka_memory_options o = options(length + 100);
    float q[NUMBERS], guess[NUMBERS], with[2][NUMBERS], without[2][NUMBERS];
    uint64_t seed = 9;
    int dropped = 0;
    rows_stay_here(&o);
    o.layers = 2;
    mka_memory *one = make(&o, length);
    no_limit();
    rows_stay_here(&o);
    mka_memory *other = make(&o, length);
    mka_device_usage before = usage();
    for (int i = 0; i < sized(32, 6); i++) {
        make_query(&seed, q);
        for (int j = 0; j < NUMBERS; j++)
            guess[j] = i % 4 == 0 ? q[j] : i % 4 == 1 ? q[j] + reference_random(&seed) : i % 4 == 2 ? 0 : 40 * q[j];
        ask(one, q, NULL, without);
        ask(other, q, guess, with);
        assert_memory_equal(with, without, sizeof with);
        dropped += other->layers[1].tiers.there->ring.patience > 0;
    }
    assert_true(usage().ahead.tokens > before.ahead.tokens);
    if (!simulated()) assert_true(dropped > 0);
    mka_memory_destroy(one);
    mka_memory_destroy(other);
    no_limit();
}

/* The same where NVIDIA's matrix units recall: one query, in rings that have lost what they held. */
static void guesses_on_matrix_units(void **state) {
    (void)state;
    need_device();
    if (!device->device->nv) {
        print_message("skipped: the device is none of NVIDIA's\n");
        skip();
    }
    enum { LENGTH = 13000, FEW_HEADS = 4, LONG_DIM = 64, ALL = FEW_HEADS * LONG_DIM };
    mka_memory_options o = options(LENGTH + 100);
    mka_memory *memory;
    mka_error error;
    mka_device_usage u[3];
    uint64_t seed = 12;
    o.heads = FEW_HEADS, o.kv_heads = 1, o.head_dim = LONG_DIM, o.plan.window = 512;
    rows_stay_here(&o);
    if (mka_memory_create(device, &o, &memory, &error)) fail_msg("%s", error.message);
    float *rows = random_floats(&seed, 2 * LENGTH * LONG_DIM), *words = random_floats(&seed, WORDS * LONG_DIM);
    float *q = malloc(ALL * sizeof *q), *out = malloc(3 * ALL * sizeof *out);
    for (int i = 0; i < 2 * LENGTH; i++) {
        const float *word = words + (size_t)pick(&seed, 0, WORDS - 1) * LONG_DIM;
        for (int e = 0; e < LONG_DIM; e++) rows[i * LONG_DIM + e] = word[e] + 0.1F * rows[i * LONG_DIM + e];
    }
    for (int i = 0; i < ALL; i++) q[i] = 2 * words[i % LONG_DIM]; /* finds the tokens of one word */
    for (int layer = 0; layer < 2; layer++)
        for (int done = 0; done < LENGTH; done += PIECE)
            if (mka_memory_append(memory, layer, PIECE, rows + (size_t)done * LONG_DIM, rows + (size_t)(LENGTH + done) * LONG_DIM,
                                  &error))
                fail_msg("%s", error.message);
    mka_tiers *second = &memory->layers[1].tiers;
    const mka_attend_job job = {.heads = FEW_HEADS, .scale = memory->options.scale, .q = q};
    for (int i = 0; i < 3; i++) { /* 0: closes segments */
        for (int layer = 0; layer < 2 && i > 0; layer++) memory->layers[layer].tiers.there->ring.lost = 1;
        mka_engine_get_device_usage(device, &u[i]);
        if (i == 2) assert_true(mka_tiers_looks_ahead(second, LENGTH));
        if (i == 2) mka_tiers_expect(second, LENGTH, &job);
        for (int layer = 0; layer < 2; layer++)
            if (mka_memory_attend(memory, layer, 1, q, layer ? out + i * ALL : out, NULL, &error)) fail_msg("%s", error.message);
    }
    mka_device_usage last = usage();
    same("with a guess", ALL, out + 2 * ALL, out + ALL, 1e-6F);
    assert_true(second->there->nv_group > 0);
    assert_true(last.ahead.tokens > u[2].ahead.tokens);
    assert_int_equal(u[2].ahead.tokens, u[1].ahead.tokens);
    assert_true(last.fetched.tokens - u[2].fetched.tokens < u[2].fetched.tokens - u[1].fetched.tokens);
    free(rows);
    free(words);
    free(q);
    free(out);
    mka_memory_destroy(memory);
    no_limit();
}

/* ---- what happens before a guess is used ---- */

/* A layer before it that recalls nothing leaves the guess to the layer itself, which knows better. */
static void guesses_of_oneself(void **state) {
    (void)state;
    need_speed();
    const mka_memory_options o = options(3000);
    float q[NUMBERS], guess[NUMBERS], with[NUMBERS], without[NUMBERS];
    uint64_t seed = 8;
    mka_error error;
    rows_stay_here(&o);
    mka_memory *one = make(&o, 2900);
    no_limit();
    rows_stay_here(&o);
    mka_memory *other = make(&o, 2900);
    const mka_recall few = {.contract = MKA_RECALL_ESTIMATED, .tokens = 24}; /* all that is missing comes at once */
    mka_memory_set_recall(one, &few, NULL);
    mka_memory_set_recall(other, &few, NULL);
    const mka_attend_job job = {.heads = HEADS, .scale = other->options.scale, .q = guess};
    for (int i = 0; i < 8; i++) {
        make_query(&seed, q);
        make_query(&seed, guess);
        mka_tiers_expect(&other->layers[1].tiers, 2900, &job);
        other->layers[1].tiers.there->ring.patience = 0;
        assert_int_equal(mka_memory_attend(one, 1, 1, q, without, NULL, &error), MKA_OK);
        assert_int_equal(mka_memory_attend(other, 1, 1, q, with, NULL, &error), MKA_OK);
        assert_memory_equal(with, without, sizeof with);
        assert_null(device->device->ahead.asker);
    }
    mka_memory_destroy(one);
    mka_memory_destroy(other);
    no_limit();
}

/* A memory that has answered a query q, and what it answered. */
static mka_memory *make_asked(uint64_t seed, float *q, float out[2][NUMBERS]) {
    const mka_memory_options o = options(3000);
    rows_stay_here(&o);
    mka_memory *memory = make(&o, 2900);
    make_query(&seed, q);
    ask(memory, q, NULL, out);
    return memory;
}

/* The second layer is emptied, filled anew, or destroyed, or somebody else's is asked first. */
static void guesses_that_are_not_used(void **state) {
    (void)state;
    need_speed();
    float q[NUMBERS], out[2][NUMBERS], want[2][NUMBERS];
    mka_error error;
    mka_memory *memory = make_asked(4, q, want);
    mka_tiers *second = &memory->layers[1].tiers;
    const mka_attend_job job = {.heads = HEADS, .scale = memory->options.scale, .q = q};
    for (int i = 0; i < 3; i++) {
        second->there->ring.lost = 1;
        second->there->ring.patience = 0;
        assert_true(mka_tiers_looks_ahead(second, 2900));
        mka_tiers_expect(second, 2900, &job);
        assert_int_equal(mka_memory_attend(memory, 0, 1, q, out[0], NULL, &error), MKA_OK);
        assert_ptr_equal(device->device->ahead.asker, second->there);
        if (i == 0) { /* other tokens in the same places */
            mka_memory_reset(memory);
            assert_null(device->device->ahead.asker);
            fill(memory, 2900, 5);
        }
        if (i == 1) { /* a guess while one is on its way: the first one stays */
            mka_tiers_expect(&memory->layers[0].tiers, 2900, &job);
            assert_int_equal(mka_memory_attend(memory, 0, 1, q, out[0], NULL, &error), MKA_OK);
            assert_ptr_equal(device->device->ahead.asker, second->there);
        }
        if (i == 2) break;
        ask(memory, q, NULL, out);
        assert_memory_equal(out, want, sizeof out);
    }
    mka_memory_destroy(memory);
    assert_null(device->device->ahead.asker);
    no_limit();
}

/* ---- failures ---- */

/* A transfer that fails is an error of that call; what the table says came then is not taken as there. */
static void transfers_that_fail(void **state) {
    (void)state;
    need_speed();
    float q[NUMBERS], out[2][NUMBERS], want[2][NUMBERS];
    mka_error error;
    cl_int code;
    mka_memory *memory = make_asked(6, q, want);
    mka_tiers *second = &memory->layers[1].tiers;
    const mka_attend_job job = {.heads = HEADS, .scale = memory->options.scale, .q = q};
    cl_mem rows = second->there->rows, small = clCreateBuffer(device->device->context, CL_MEM_READ_WRITE, 8, NULL, &code);
    assert_int_equal(code, CL_SUCCESS);
    for (int i = 0; i < 2; i++) { /* what is waited for, and what is sent ahead */
        second->there->ring.lost = 1;
        second->there->ring.patience = 0;
        if (i == 1) mka_tiers_expect(second, 2900, &job);
        assert_int_equal(mka_memory_attend(memory, 0, 1, q, out[0], NULL, &error), MKA_OK);
        second->there->rows = small;
        assert_int_not_equal(mka_memory_attend(memory, 1, 1, q, out[1], NULL, &error), MKA_OK);
        if (!strstr(error.message, "long-term rows to it")) fail_msg("it said: %s", error.message);
        second->there->rows = rows;
        ask(memory, q, NULL, out);
        assert_memory_equal(out, want, sizeof out);
    }
    clReleaseMemObject(small);
    mka_memory_destroy(memory);
    no_limit();
}

/* ---- a whole model ---- */

enum { TOKENS = 1100, LAST = 12, VOCABULARY = 256 };

static void clear(const mka_matrix *m) {
    memset((void *)(uintptr_t)m->data, 0, (size_t)m->rows * m->row_bytes);
}

/* Logits of the last tokens. ahead 0: nobody guesses; good 1: the first layer adds nothing to the residual, so that a guess is
 * what the second one's query will be. */
static void run_session(mka_engine *engine, int ahead, int good, float *logits) {
    mka_session_options o;
    mka_model *model;
    mka_session *s;
    mka_error error;
    int tokens[TOKENS];
    mka_session_defaults(&o);
    o.memory = MKA_MEMORY_TIERED, o.plan.window = 64, o.context = 3600, o.chunk = 15, o.exact = 1;
    o.plan.recall = (mka_recall){.contract = MKA_RECALL_ESTIMATED, .tokens = 40};
    for (int i = 0; i < TOKENS; i++) tokens[i] = (37 * i + i / 50 * 11) % VOCABULARY;
    if (mka_model_random(engine, "tiny", MKA_Q8_0, NULL, 3, &model, &error)) fail_msg("%s", error.message);
    if (good) clear(&model->blocks[0].attention.weights.o), clear(&model->blocks[0].down);
    if (mka_session_create(model, &o, &s, &error) || mka_session_eval(s, tokens, TOKENS - LAST, NULL, NULL, NULL, &error))
        fail_msg("%s", error.message);
    for (int i = 0; i < LAST; i++) {
        for (int layer = 0; layer < s->tiers_there; layer++) { /* of what was read, nothing is there any more */
            s->layers[layer].cache[0].there->ring.patience = ahead ? 0 : LAST;
            s->layers[layer].cache[0].there->ring.lost = 1;
        }
        if (mka_session_eval(s, tokens + TOKENS - LAST + i, 1, logits + i * VOCABULARY, NULL, NULL, &error))
            fail_msg("%s", error.message);
    }
    mka_session_destroy(s);
    mka_model_destroy(model);
}

/* Makes the engine one whose device has no room for the rows of any layer. */
static mka_engine *small_engine(void) {
    for (uint64_t bytes = (uint64_t)1 << 20; bytes < (uint64_t)64 << 20; bytes += bytes / 32) {
        mka_engine_options options = options_of("opencl");
        mka_engine *small;
        mka_model *model;
        mka_session *s = NULL;
        mka_session_options o;
        mka_session_defaults(&o);
        o.memory = MKA_MEMORY_TIERED, o.plan.window = 64, o.context = 3600, o.chunk = 15;
        options.device_memory = bytes;
        assert_int_equal(mka_engine_create(&options, &small, NULL), MKA_OK);
        small->device->ring_least = 1;
        assert_int_equal(mka_model_random(small, "tiny", MKA_Q8_0, NULL, 3, &model, NULL), MKA_OK);
        int fits =
            mka_session_create(model, &o, &s, NULL) == MKA_OK && s->tiers_there == model->sizes.layers && s->rows_there == 0;
        mka_session_destroy(s);
        mka_model_destroy(model);
        if (fits) return small;
        mka_engine_destroy(small);
    }
    fail_msg("rows of two layers never stay in memory");
    return NULL;
}

static void a_model_guesses(void **state) {
    (void)state;
    need_speed();
    static float with[LAST * VOCABULARY], without[LAST * VOCABULARY];
    mka_engine *small = small_engine();
    mka_device_usage u[3];
    for (int good = 0; good < 2; good++) {
        mka_engine_get_device_usage(small, &u[0]);
        run_session(small, 0, good, without);
        mka_engine_get_device_usage(small, &u[1]);
        run_session(small, 1, good, with);
        mka_engine_get_device_usage(small, &u[2]);
        assert_memory_equal(with, without, sizeof with);
        assert_int_equal(u[1].ahead.tokens, u[0].ahead.tokens);
        assert_true(u[2].ahead.tokens > u[1].ahead.tokens);
        uint64_t alone = u[1].fetched.tokens - u[0].fetched.tokens, beside = u[2].fetched.tokens - u[1].fetched.tokens;
        if (good) assert_true(10 * (alone - beside) > 9 * (u[2].ahead.tokens - u[1].ahead.tokens));
    }
    mka_engine_destroy(small);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_guess),
        cmocka_unit_test(guesses_change_nothing),
        cmocka_unit_test(guesses_on_matrix_units),
        cmocka_unit_test(guesses_of_oneself),
        cmocka_unit_test(guesses_that_are_not_used),
        cmocka_unit_test(transfers_that_fail),
        cmocka_unit_test(a_model_guesses),
    };
    return cmocka_run_group_tests(tests, start_engines, stop_engines);
}
