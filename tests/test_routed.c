/* test_routed - MKA and FastMKA with tiered memory: recalling everything is dense memory, chunks do not matter, a level without
 * weight is not read and what that saves is counted, and a threshold leaves out what it says. And their long-term bank: what is
 * read does not depend on chunks or on how keys and values are kept, and earlier sessions are remembered. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <mka/session.h>

#include "emulated.h"
#include "reference_model.h"

enum { MOST_TOKENS = 700, VOCABULARY = 61, LAYERS = 2, LEVELS = 3 };

static const reference_shape *const shape = &reference_shapes[1]; /* grouped attention */
static const char *const kinds[] = {"fastmka", "mka"};

static mka_engine *engine;
static char path[256];
static int ids[MOST_TOKENS];
static int tokens; /* of them that are read: all, or fewer under an emulator */

/* Many sessions take minutes there, and nothing in them depends on the processor that other tests do not run. */
static void skip_emulated(void) {
    if (!emulated()) return;
    print_message("skipped under an emulator\n");
    skip();
}

static void ok(mka_status status, const mka_error *error) {
    if (status) fail_msg("%s", error->message);
}

static int start(void **state) {
    (void)state;
    mka_engine_options options;
    uint64_t seed = 9;
    mka_engine_defaults(&options);
    options.threads = 2;
    options.bind = 0;
    tokens = emulated() ? 500 : MOST_TOKENS;
    for (int i = 0; i < MOST_TOKENS; i++) ids[i] = (int)((reference_random(&seed) + 1) / 2 * (VOCABULARY - 1));
    return mka_engine_create(&options, &engine, NULL) != MKA_OK || !reference_model_write(shape, 7, path, sizeof path);
}

static int stop(void **state) {
    (void)state;
    unlink(path);
    mka_engine_destroy(engine);
    return 0;
}

/* The model with a router of the kind (NULL: without); first: one that answers (1, 0, 0). */
static mka_model *model_of(const char *kind, int first) {
    mka_model *model;
    mka_model_options options;
    mka_error error;
    char router[256];
    mka_model_defaults(&options);
    if (kind) {
        assert_true(reference_router_write(shape, kind, first, 3, router, sizeof router));
        options.router = router;
    }
    ok(mka_model_load(engine, path, &options, &model, &error), &error);
    if (kind) unlink(router);
    return model;
}

static mka_session_options options_of(mka_memory_mode memory, mka_contract contract) {
    mka_session_options o;
    mka_session_defaults(&o);
    o.context = tokens;
    o.exact = 1;
    o.memory = memory;
    o.key_type = o.value_type = o.plan.key_type = o.plan.value_type = MKA_F32;
    o.plan.window = 64;
    o.plan.recall.contract = contract;
    o.level_threshold = 0;
    o.bank = 0;
    return o;
}

static mka_session *session_of(mka_model *model, const mka_session_options *options) {
    mka_session *session;
    mka_error error;
    ok(mka_session_create(model, options, &session, &error), &error);
    return session;
}

/* Logits of tokens prefix.., in calls of count; those before are read at once. */
static void read_all(mka_session *session, int prefix, int count, float *logits) {
    mka_error error;
    if (prefix) ok(mka_session_eval(session, ids, (size_t)prefix, NULL, NULL, NULL, &error), &error);
    for (int at = prefix; at < tokens; at += count) {
        int n = tokens - at < count ? tokens - at : count;
        ok(mka_session_eval(session, ids + at, (size_t)n, logits, NULL, NULL, &error), &error);
    }
}

static void logits_of(mka_model *model, const mka_session_options *options, int prefix, int count, float *logits) {
    mka_session *session = session_of(model, options);
    read_all(session, prefix, count, logits);
    mka_session_destroy(session);
}

static double apart(const float *a, const float *b) {
    double most = 0;
    for (int i = 0; i < VOCABULARY; i++) {
        double off = fabs((double)(a[i] - b[i]));
        most = off <= most ? most : off;
    }
    return most;
}

static void recalling_all_is_dense(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        float dense[VOCABULARY], tiered[VOCABULARY];
        mka_model *model = model_of(kinds[k], 0);
        mka_session_options o = options_of(MKA_MEMORY_DENSE, MKA_RECALL_DENSE);
        logits_of(model, &o, tokens - 1, 1, dense);
        o.memory = MKA_MEMORY_TIERED;
        logits_of(model, &o, tokens - 1, 1, tiered);
        assert_true(apart(dense, tiered) < 2e-5);
        o.plan.recall = (mka_recall){.contract = MKA_RECALL_CERTIFIED, .eps = 0};
        logits_of(model, &o, tokens - 1, 1, tiered);
        assert_true(apart(dense, tiered) < 2e-5);
        o.plan.recall = (mka_recall){.contract = MKA_RECALL_ESTIMATED};
        o.plan.key_type = o.plan.value_type = MKA_Q8_0;
        logits_of(model, &o, tokens - 1, 1, tiered);
        print_message("%s, estimated: logits off by %.3g\n", kinds[k], apart(dense, tiered));
        assert_true(apart(dense, tiered) < 0.2);
        mka_model_destroy(model);
    }
}

/* What is left out of a prompt is what is left out token by token, though a prompt's levels are read for whole runs. */
static void chunks_do_not_matter(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        float want[VOCABULARY], got[VOCABULARY];
        mka_model *model = model_of(kinds[k], 0);
        mka_session_options o = options_of(MKA_MEMORY_TIERED, MKA_RECALL_DENSE);
        o.level_threshold = 0.25F;
        logits_of(model, &o, 0, tokens, want);
        static const int counts[] = {13, 200, 1};
        for (int i = 0; i < (emulated() ? 2 : 3); i++) {
            logits_of(model, &o, 0, counts[i], got);
            assert_true(apart(got, want) < 2e-5);
        }
        mka_model_destroy(model);
    }
}

/* The router answers (1, 0, 0): MKA is plain attention to the bit, and two levels of three, which would each have read what the
 * plain model reads, are not read. */
static void levels_without_weight_are_not_read(void **state) {
    (void)state;
    skip_emulated();
    enum { DECODED = 40 };
    static const mka_contract contracts[] = {MKA_RECALL_DENSE, MKA_RECALL_ESTIMATED};
    for (int i = 0; i < 2; i++) {
        float logits[2][VOCABULARY];
        uint64_t bytes[2];
        mka_used used[2], before;
        for (int routed = 0; routed < 2; routed++) {
            mka_model *model = model_of(routed ? "mka" : NULL, 1);
            mka_session_options o = options_of(MKA_MEMORY_TIERED, contracts[i]);
            mka_session *session = session_of(model, &o);
            mka_session_usage from, to;
            mka_error error;
            ok(mka_session_eval(session, ids, tokens - DECODED, NULL, NULL, NULL, &error), &error);
            mka_session_get_usage(session, &from);
            mka_session_get_used(session, &before);
            for (int t = tokens - DECODED; t < tokens; t++)
                ok(mka_session_eval(session, ids + t, 1, logits[routed], NULL, NULL, &error), &error);
            mka_session_get_usage(session, &to);
            mka_session_get_used(session, &used[routed]);
            bytes[routed] = to.cache_bytes_read - from.cache_bytes_read;
            mka_session_destroy(session);
            mka_model_destroy(model);
        }
        assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
        assert_int_equal(bytes[0], bytes[1]);
        assert_true(used[0].levels == 0 && used[0].saved_bytes == 0);
        assert_int_equal(used[1].levels, (uint64_t)tokens * LAYERS * LEVELS);
        assert_int_equal(used[1].levels_skipped, (uint64_t)tokens * LAYERS * (LEVELS - 1));
        uint64_t saved = used[1].saved_bytes - before.saved_bytes;
        if (contracts[i] == MKA_RECALL_DENSE)
            assert_int_equal(saved, 2 * bytes[0]);
        else
            assert_true(saved > 0 && saved < 2 * bytes[0]); /* rows and means are not known of what was not scanned */
    }
}

/* All of a token's levels are read at 0; the more a threshold leaves out, the less is read and the farther the answer is. Dense
 * memory leaves out nothing. */
static void thresholds_leave_out(void **state) {
    (void)state;
    skip_emulated();
    static const float thresholds[] = {0, 1e-3F, 0.05F, 0.2F, 0.33F};
    mka_model *model = model_of("mka", 0);
    float exact[VOCABULARY], got[VOCABULARY];
    uint64_t skipped = 0, bytes = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        mka_session_options o = options_of(MKA_MEMORY_TIERED, MKA_RECALL_DENSE);
        mka_used used;
        mka_session_usage usage;
        o.level_threshold = thresholds[i];
        mka_session *session = session_of(model, &o);
        read_all(session, 0, 1, i ? got : exact);
        mka_session_get_used(session, &used);
        mka_session_get_usage(session, &usage);
        mka_session_destroy(session);
        print_message("threshold %g: %.1f %% of the levels left out, logits off by %.3g\n", (double)thresholds[i],
                      100 * (double)used.levels_skipped / (double)used.levels, i ? apart(got, exact) : 0);
        assert_int_equal(used.levels, (uint64_t)tokens * LAYERS * LEVELS);
        assert_true(used.levels_skipped >= skipped && usage.cache_bytes_read <= bytes);
        assert_true((used.saved_bytes > 0) == (used.levels_skipped > 0));
        if (i == 0) assert_int_equal(used.levels_skipped, 0);
        if (i > 2) assert_true(used.levels_skipped > skipped && usage.cache_bytes_read < bytes);
        skipped = used.levels_skipped;
        bytes = usage.cache_bytes_read;
        o = options_of(MKA_MEMORY_DENSE, MKA_RECALL_DENSE);
        o.level_threshold = thresholds[i];
        logits_of(model, &o, 0, 1, got);
        assert_true(apart(got, exact) < 2e-5);
    }
    mka_model_destroy(model);
}

/* ---- the bank ---- */

static void banks_do_not_depend_on_chunks(void **state) {
    (void)state;
    skip_emulated();
    for (int k = 0; k < 2; k++) {
        float without[VOCABULARY], want[VOCABULARY], got[VOCABULARY];
        mka_model *model = model_of(kinds[k], 0);
        mka_session_options o = options_of(MKA_MEMORY_DENSE, MKA_RECALL_DENSE);
        logits_of(model, &o, 0, tokens, without);
        o.bank = 4;
        logits_of(model, &o, 0, tokens, want);
        assert_true(apart(want, without) > 1e-3);
        static const int counts[] = {13, 200, 1};
        for (int i = 0; i < (emulated() ? 2 : 3); i++)
            for (int tiered = 0; tiered < 2; tiered++) {
                o.memory = tiered ? MKA_MEMORY_TIERED : MKA_MEMORY_DENSE;
                logits_of(model, &o, 0, counts[i], got);
                assert_true(apart(got, want) < 5e-5);
            }
        mka_model_destroy(model);
    }
}

/* Tiered sessions have a bank by themselves, dense ones and other models have none. */
static void banks_are_where_they_belong(void **state) {
    (void)state;
    skip_emulated();
    for (int k = 0; k < 3; k++)
        for (int tiered = 0; tiered < 2; tiered++) {
            mka_model *model = model_of(k < 2 ? kinds[k] : NULL, 0);
            mka_session_options o = options_of(tiered ? MKA_MEMORY_TIERED : MKA_MEMORY_DENSE, MKA_RECALL_DENSE);
            mka_used used;
            float logits[VOCABULARY];
            o.bank = MKA_BANK_AUTO;
            mka_session *session = session_of(model, &o);
            read_all(session, 0, 100, logits);
            mka_session_get_used(session, &used);
            int blocks = (tokens + 1 - 64 - 64) / 64;
            assert_int_equal(mka_session_bank(session), tiered && k < 2 ? blocks : 0);
            assert_true((used.bank_bytes > 0) == (tiered && k < 2));
            mka_session_destroy(session);
            mka_model_destroy(model);
        }
}

/* A FastMKA token to which the long-term row does not matter does not ask for it. */
static void useless_searches_are_left_out(void **state) {
    (void)state;
    skip_emulated();
    mka_model *plain = model_of(NULL, 0), *model = model_of("fastmka", 1);
    mka_session_options o = options_of(MKA_MEMORY_TIERED, MKA_RECALL_DENSE);
    float want[VOCABULARY], got[VOCABULARY];
    mka_used used;
    logits_of(plain, &o, 0, tokens, want);
    o.bank = 100;
    mka_session *session = session_of(model, &o);
    read_all(session, 0, tokens, got);
    mka_session_get_used(session, &used);
    assert_memory_equal(want, got, sizeof want);
    assert_int_equal(used.bank_bytes, 0);
    assert_int_equal(used.levels, (uint64_t)tokens * LAYERS);
    assert_int_equal(used.levels_skipped, used.levels);
    assert_true(used.saved_bytes > 0);
    mka_session_destroy(session);
    mka_model_destroy(model);
    mka_model_destroy(plain);
}

static void fails(mka_status got, const mka_error *error, mka_status status, const char *text) {
    if (got != status || !strstr(error->message, text)) fail_msg("%d: %s\nexpected %d: %s", got, error->message, status, text);
}

/* What a session has remembered is a part of it: it is found from the first token on, saved, restored, and passed on. */
static void earlier_sessions_are_remembered(void **state) {
    (void)state;
    skip_emulated();
    enum { FEW = 150 };
    int blocks = (tokens - 64) / 64;
    for (int k = 0; k < 2; k++) {
        char file[2][64];
        mka_model *model = model_of(kinds[k], 0);
        mka_session_options o = options_of(MKA_MEMORY_TIERED, MKA_RECALL_DENSE);
        float without[VOCABULARY], with[VOCABULARY], again[VOCABULARY], logits[VOCABULARY];
        mka_error error;
        mka_session_file about;
        for (int i = 0; i < 2; i++) snprintf(file[i], sizeof file[i], "/tmp/mka-routed-%d-%d", (int)getpid(), i);
        o.bank = 100;
        mka_session *first = session_of(model, &o), *second = session_of(model, &o), *third = session_of(model, &o);
        read_all(first, 0, tokens, logits);
        ok(mka_session_save(first, file[0], &error), &error);
        ok(mka_session_peek(file[0], &about, &error), &error);
        assert_true(about.bank == 100 && about.plan.window == 64);
        ok(mka_session_eval(second, ids, FEW, without, NULL, NULL, &error), &error);
        fails(mka_session_remember(second, file[0], &error), &error, MKA_BAD_ARGUMENT, "before the first token");
        ok(mka_session_truncate(second, 0, &error), &error);
        ok(mka_session_remember(second, file[0], &error), &error);
        assert_int_equal(mka_session_length(second), 0);
        assert_int_equal(mka_session_bank(second), blocks);
        ok(mka_session_eval(second, ids, FEW, with, NULL, NULL, &error), &error);
        assert_true(apart(with, without) > 1e-3);
        ok(mka_session_save(second, file[1], &error), &error);
        ok(mka_session_load(third, file[1], &error), &error);
        for (int t = 0; t < 100; t++) {
            ok(mka_session_eval(second, ids + t, 1, with, NULL, NULL, &error), &error);
            ok(mka_session_eval(third, ids + t, 1, again, NULL, NULL, &error), &error);
            assert_memory_equal(with, again, sizeof with);
        }
        ok(mka_session_truncate(third, 0, &error), &error);
        ok(mka_session_remember(third, file[1], &error), &error); /* what it remembered, and its own block */
        ok(mka_session_remember(third, file[0], &error), &error);
        assert_int_equal(mka_session_bank(third), 2 * blocks + (FEW - 64) / 64);
        mka_session_destroy(second);
        o.bank = 5;
        second = session_of(model, &o);
        ok(mka_session_remember(second, file[0], &error), &error);
        assert_int_equal(mka_session_bank(second), 5);
        mka_session_destroy(first);
        mka_session_destroy(second);
        mka_session_destroy(third);
        mka_model_destroy(model);
        unlink(file[0]);
        unlink(file[1]);
    }
}

static void misfits_are_named(void **state) {
    (void)state;
    skip_emulated();
    char file[2][64];
    mka_model *model = model_of("fastmka", 0), *other = model_of("mka", 0);
    mka_session_options o = options_of(MKA_MEMORY_DENSE, MKA_RECALL_DENSE);
    mka_session *with, *without;
    mka_error error;
    for (int i = 0; i < 2; i++) snprintf(file[i], sizeof file[i], "/tmp/mka-routed-%d-%d", (int)getpid(), i);
    without = session_of(model, &o);
    o.bank = 100;
    with = session_of(model, &o);
    ok(mka_session_eval(with, ids, 500, NULL, NULL, NULL, &error), &error);
    ok(mka_session_eval(without, ids, 500, NULL, NULL, NULL, &error), &error);
    ok(mka_session_save(with, file[0], &error), &error);
    ok(mka_session_save(without, file[1], &error), &error);
    fails(mka_session_load(without, file[0], &error), &error, MKA_BAD_ARGUMENT,
          "with a long-term bank, but this session has none");
    fails(mka_session_load(with, file[1], &error), &error, MKA_BAD_ARGUMENT,
          "without a long-term bank, but this session has one");
    assert_int_equal(mka_session_length(with), 500); /* both are as they were */
    assert_int_equal(mka_session_length(without), 500);
    ok(mka_session_truncate(with, 0, &error), &error);
    ok(mka_session_truncate(without, 0, &error), &error);
    fails(mka_session_remember(without, file[0], &error), &error, MKA_UNSUPPORTED, "no long-term bank");
    fails(mka_session_remember(with, file[1], &error), &error, MKA_BAD_ARGUMENT, "saved without");
    fails(mka_session_remember(with, "/nowhere", &error), &error, MKA_IO, "/nowhere");
    mka_session_destroy(with);
    o.plan.window = 128;
    with = session_of(model, &o);
    fails(mka_session_load(with, file[0], &error), &error, MKA_BAD_ARGUMENT, "a window of 64, but this session has 64 and 128");
    ok(mka_session_remember(with, file[0], &error), &error); /* summaries are summaries */
    mka_session_destroy(with);
    with = session_of(other, &o);
    fails(mka_session_remember(with, file[0], &error), &error, MKA_BAD_ARGUMENT, "another model");
    mka_session_destroy(with);
    mka_session_destroy(without);
    mka_model_destroy(model);
    mka_model_destroy(other);
    unlink(file[0]);
    unlink(file[1]);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    static const float wrong[] = {-0.1F, 0.34F, NAN, INFINITY};
    mka_model *model = model_of("mka", 0);
    for (int i = 0; i < 4; i++) {
        mka_session_options o = options_of(MKA_MEMORY_TIERED, MKA_RECALL_DENSE);
        mka_session *session;
        mka_error error;
        o.level_threshold = wrong[i];
        assert_int_equal(mka_session_create(model, &o, &session, &error), MKA_BAD_ARGUMENT);
        assert_null(session);
        assert_non_null(strstr(error.message, "levels"));
    }
    static const int banks[] = {-2, 65537};
    for (int i = 0; i < 2; i++) {
        mka_session_options o = options_of(MKA_MEMORY_TIERED, MKA_RECALL_DENSE);
        mka_session *session;
        mka_error error;
        o.bank = banks[i];
        assert_int_equal(mka_session_create(model, &o, &session, &error), MKA_BAD_ARGUMENT);
        assert_non_null(strstr(error.message, "bank"));
    }
    mka_model_destroy(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recalling_all_is_dense),
        cmocka_unit_test(chunks_do_not_matter),
        cmocka_unit_test(levels_without_weight_are_not_read),
        cmocka_unit_test(thresholds_leave_out),
        cmocka_unit_test(banks_do_not_depend_on_chunks),
        cmocka_unit_test(banks_are_where_they_belong),
        cmocka_unit_test(useless_searches_are_left_out),
        cmocka_unit_test(earlier_sessions_are_remembered),
        cmocka_unit_test(misfits_are_named),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
