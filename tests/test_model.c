/* test_model - the forward pass on every attention variant: chunks of any sizes, token by token and one pass agree; so do thread
 * counts and kernel levels; a router that answers (1, 0, 0) changes nothing; decoding does not allocate. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <mka/session.h>

#include "reference_model.h"

enum { TOKENS = 75 };

typedef struct fixture {
    mka_engine *engine;
    mka_model *model;
    char path[256], router[256];
    int ids[TOKENS], vocabulary;
} fixture;

static mka_engine *engine_of(int threads, const char *level) {
    mka_engine_options options;
    mka_engine_defaults(&options);
    options.threads = threads;
    options.cpu = level;
    options.bind = 0;
    mka_engine *engine;
    mka_error error;
    if (mka_engine_create(&options, &engine, &error)) fail_msg("%s", error.message);
    return engine;
}

static void load(fixture *f, const reference_shape *shape, const char *router) {
    mka_model_options options;
    mka_model_defaults(&options);
    options.router = router;
    mka_error error;
    if (mka_model_load(f->engine, f->path, &options, &f->model, &error)) fail_msg("%s: %s", shape->kind, error.message);
}

static void open_fixture(fixture *f, const reference_shape *shape, int threads, const char *level) {
    *f = (fixture){.engine = engine_of(threads, level), .vocabulary = shape->vocabulary};
    assert_true(reference_model_write(shape, 7, f->path, sizeof f->path));
    load(f, shape, NULL);
    uint64_t state = 99;
    for (int i = 0; i < TOKENS; i++) f->ids[i] = (int)((reference_random(&state) + 1) / 2 * (float)(shape->vocabulary - 1));
}

static void close_fixture(fixture *f) {
    mka_model_destroy(f->model);
    mka_engine_destroy(f->engine);
    unlink(f->path);
    if (f->router[0]) unlink(f->router);
}

static mka_session *session_of(fixture *f, int chunk, mka_mla_form form) {
    mka_session_options options;
    mka_session_defaults(&options);
    options.context = TOKENS + 5;
    options.chunk = chunk;
    options.key_type = options.value_type = MKA_F32;
    options.mla = form;
    mka_session *session;
    mka_error error;
    if (mka_session_create(f->model, &options, &session, &error)) fail_msg("%s", error.message);
    return session;
}

/* Logits after the last token, with the prompt given in calls of the given sizes; the last one before 0 repeats. NULL: one call.
 */
static void logits_of(fixture *f, const int *calls, int chunk, mka_mla_form form, float *logits) {
    mka_session *session = session_of(f, chunk, form);
    mka_error error;
    for (int at = 0; at < TOKENS;) {
        int n = calls ? *calls : TOKENS;
        if (calls && calls[1]) calls++;
        if (n > TOKENS - at) n = TOKENS - at;
        if (mka_session_eval(session, f->ids + at, (size_t)n, logits, NULL, NULL, &error)) fail_msg("%s", error.message);
        at += n;
    }
    mka_session_destroy(session);
}

static void compare(const char *what, const char *kind, int count, const float *got, const float *want) {
    for (int i = 0; i < count; i++)
        if (!(fabsf(got[i] - want[i]) <= 2e-5F + 2e-5F * fabsf(want[i])))
            fail_msg("%s, %s: logit %d is %g, expected %g", kind, what, i, (double)got[i], (double)want[i]);
}

static void ways_agree(void **state) {
    (void)state;
    static const int ones[] = {1, 0}, uneven[] = {3, 1, 17, 8, 2, 30, 14, 0}, prefill_then_one[] = {64, 1, 0};
    for (int i = 0; i < reference_shape_count; i++) {
        const reference_shape *shape = &reference_shapes[i];
        fixture f;
        float want[128], got[128];
        open_fixture(&f, shape, 1, NULL);
        logits_of(&f, NULL, 512, MKA_MLA_ABSORBED, want);
        logits_of(&f, ones, 512, MKA_MLA_ABSORBED, got);
        compare("token by token", shape->kind, shape->vocabulary, got, want);
        logits_of(&f, uneven, 512, MKA_MLA_AUTO, got);
        compare("uneven calls", shape->kind, shape->vocabulary, got, want);
        logits_of(&f, prefill_then_one, 13, MKA_MLA_AUTO, got);
        compare("prefill in chunks of 13, then tokens", shape->kind, shape->vocabulary, got, want);
        logits_of(&f, NULL, 10, MKA_MLA_EXPANDED, got);
        compare("chunks of 10, expanded", shape->kind, shape->vocabulary, got, want);
        close_fixture(&f);
    }
}

/* The cut of work into tiles is fixed, so thread counts agree to the last bit. */
static void threads_agree(void **state) {
    (void)state;
    for (int i = 0; i < reference_shape_count; i++) {
        float want[128], got[128];
        for (int threads = 1; threads <= 5; threads++) {
            fixture f;
            open_fixture(&f, &reference_shapes[i], threads, NULL);
            static const int calls[] = {40, 20, 1, 1, 5, 0};
            logits_of(&f, calls, 32, MKA_MLA_AUTO, threads == 1 ? want : got);
            if (threads > 1 && memcmp(got, want, (size_t)f.vocabulary * sizeof(float)) != 0)
                fail_msg("%s: %d threads give other bits than 1", reference_shapes[i].kind, threads);
            close_fixture(&f);
        }
    }
}

static void levels_agree(void **state) {
    (void)state;
    mka_engine *engine = engine_of(1, NULL);
    mka_machine machine;
    mka_engine_machine(engine, &machine);
    mka_engine_destroy(engine);
    for (int i = 0; i < reference_shape_count; i++) {
        float want[128], got[128];
        for (int level = 0; level < machine.level_count; level++) {
            fixture f;
            open_fixture(&f, &reference_shapes[i], 2, machine.levels[level]);
            static const int calls[] = {60, 1, 1, 7, 0};
            logits_of(&f, calls, 512, MKA_MLA_AUTO, level == 0 ? want : got);
            if (level > 0) compare(machine.levels[level], reference_shapes[i].kind, f.vocabulary, got, want);
            close_fixture(&f);
        }
    }
}

/* Promise 2 of FastMKA: an untrained router is the plain model, bit for bit. A random router is not. */
static void first_level_router_is_plain(void **state) {
    (void)state;
    const reference_shape *shape = &reference_shapes[1];
    for (int kind = 0; kind < 2; kind++) {
        fixture f;
        float plain[128], routed[128], random[128];
        open_fixture(&f, shape, 2, NULL);
        logits_of(&f, NULL, 32, MKA_MLA_AUTO, plain);
        mka_model_destroy(f.model);
        assert_true(reference_router_write(shape, kind ? "mka" : "fastmka", 1, 3, f.router, sizeof f.router));
        load(&f, shape, f.router);
        logits_of(&f, NULL, 32, MKA_MLA_AUTO, routed);
        assert_memory_equal(plain, routed, (size_t)shape->vocabulary * sizeof(float));
        mka_model_destroy(f.model);
        unlink(f.router);
        assert_true(reference_router_write(shape, kind ? "mka" : "fastmka", 0, 3, f.router, sizeof f.router));
        load(&f, shape, f.router);
        logits_of(&f, NULL, 32, MKA_MLA_AUTO, random);
        assert_memory_not_equal(plain, random, (size_t)shape->vocabulary * sizeof(float));
        close_fixture(&f);
    }
}

/* A Hugging Face folder with the same numbers is the same model. */
static void folder_is_the_same(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) { /* mha, gqa, mqa */
        fixture f;
        float want[128], got[128];
        char folder[256];
        open_fixture(&f, &reference_shapes[i], 1, NULL);
        logits_of(&f, NULL, 32, MKA_MLA_AUTO, want);
        mka_model_destroy(f.model);
        assert_true(reference_folder_write(&reference_shapes[i], 7, folder, sizeof folder));
        mka_error error;
        if (mka_model_load(f.engine, folder, NULL, &f.model, &error)) fail_msg("%s", error.message);
        logits_of(&f, NULL, 32, MKA_MLA_AUTO, got);
        assert_memory_equal(want, got, (size_t)f.vocabulary * sizeof(float));
        reference_folder_remove(folder);
        mka_model_destroy(f.model);
        assert_int_equal(mka_model_load(f.engine, folder, NULL, &f.model, &error), MKA_IO);
        f.model = NULL;
        close_fixture(&f);
    }
}

/* Two sessions of one model do not disturb each other, and a session cut back repeats itself. */
static void sessions_are_apart(void **state) {
    (void)state;
    for (int i = 0; i < reference_shape_count; i++) {
        fixture f;
        float want[128], got[128];
        mka_error error;
        open_fixture(&f, &reference_shapes[i], 2, NULL);
        logits_of(&f, NULL, 512, MKA_MLA_AUTO, want);
        mka_session *a = session_of(&f, 16, MKA_MLA_AUTO), *b = session_of(&f, 16, MKA_MLA_AUTO);
        for (int at = 0; at < TOKENS; at += 15) {
            assert_int_equal(mka_session_eval(a, f.ids + at, 15, got, NULL, NULL, &error), MKA_OK);
            assert_int_equal(mka_session_eval(b, f.ids + TOKENS - 15 - at, 15, NULL, NULL, NULL, &error), MKA_OK);
        }
        compare("two sessions", reference_shapes[i].kind, f.vocabulary, got, want);
        mka_status status = mka_session_truncate(a, 50, &error);
        int recurrent = !strcmp(reference_shapes[i].kind, "lm-mka") || !strcmp(reference_shapes[i].kind, "lm-fastmka");
        assert_int_equal(status, recurrent ? MKA_UNSUPPORTED : MKA_OK);
        if (recurrent) assert_int_equal(mka_session_truncate(a, 0, &error), MKA_OK);
        int held = mka_session_length(a);
        assert_int_equal(mka_session_eval(a, f.ids + held, (size_t)(TOKENS - held), got, NULL, NULL, &error), MKA_OK);
        compare("after a cut", reference_shapes[i].kind, f.vocabulary, got, want);
        mka_session_destroy(a);
        mka_session_destroy(b);
        close_fixture(&f);
    }
}

/* score's likelihoods are those of the logits. */
static void score_equals_logits(void **state) {
    (void)state;
    fixture f;
    mka_error error;
    double nll[TOKENS];
    float logits[128];
    open_fixture(&f, &reference_shapes[1], 2, NULL);
    mka_session *scored = session_of(&f, 16, MKA_MLA_AUTO), *stepped = session_of(&f, 16, MKA_MLA_AUTO);
    assert_int_equal(mka_session_score(scored, f.ids, TOKENS, 5, nll, NULL, NULL, &error), MKA_OK);
    for (int i = 0; i < TOKENS; i++) {
        assert_int_equal(mka_session_eval(stepped, f.ids + i, 1, logits, NULL, NULL, &error), MKA_OK);
        double sum = 0;
        for (int j = 0; j < f.vocabulary; j++) sum += exp((double)logits[j]);
        double want = log(sum) - (double)logits[i + 1 < TOKENS ? f.ids[i + 1] : 5];
        if (fabs(nll[i] - want) > 1e-4) fail_msg("token %d: %g nats, expected %g", i, nll[i], want);
    }
    mka_session_destroy(scored);
    mka_session_destroy(stepped);
    close_fixture(&f);
}

static void bad_calls_are_refused(void **state) {
    (void)state;
    fixture f;
    mka_error error;
    int wild[] = {1, 61}, negative[] = {-1};
    open_fixture(&f, &reference_shapes[0], 1, NULL);
    mka_session *session = session_of(&f, 16, MKA_MLA_AUTO);
    assert_int_equal(mka_session_eval(session, f.ids, 0, NULL, NULL, NULL, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_session_eval(session, wild, 2, NULL, NULL, NULL, &error), MKA_BAD_ARGUMENT);
    assert_non_null(strstr(error.message, "61"));
    assert_int_equal(mka_session_eval(session, negative, 1, NULL, NULL, NULL, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_session_eval(session, f.ids, TOKENS, NULL, NULL, NULL, &error), MKA_OK);
    assert_int_equal(mka_session_eval(session, f.ids, 6, NULL, NULL, NULL, &error), MKA_CONTEXT_FULL);
    assert_int_equal(mka_session_length(session), TOKENS);
    assert_int_equal(mka_session_truncate(session, TOKENS + 1, &error), MKA_BAD_ARGUMENT);
    mka_session_destroy(session);

    mka_session_options options;
    mka_session_defaults(&options);
    options.key_type = MKA_Q4_K;
    assert_int_equal(mka_session_create(f.model, &options, &session, &error), MKA_BAD_ARGUMENT);
    mka_session_defaults(&options);
    options.context = -1;
    assert_int_equal(mka_session_create(f.model, &options, &session, &error), MKA_BAD_ARGUMENT);
    close_fixture(&f);
}

static int stop_at_once(void *user, size_t done, size_t total) {
    (void)done;
    (void)total;
    return ++*(int *)user > 2;
}

/* A pass that was stopped leaves a session that goes on as if nothing had happened. */
static void cancelled_goes_on(void **state) {
    (void)state;
    for (int i = 0; i < reference_shape_count; i++) {
        fixture f;
        float want[128], got[128];
        mka_error error;
        int calls = 0;
        open_fixture(&f, &reference_shapes[i], 2, NULL);
        logits_of(&f, NULL, 512, MKA_MLA_AUTO, want);
        mka_session *session = session_of(&f, 16, MKA_MLA_AUTO);
        assert_int_equal(mka_session_eval(session, f.ids, TOKENS, NULL, stop_at_once, &calls, &error), MKA_CANCELLED);
        int held = mka_session_length(session);
        assert_in_range(held, 0, TOKENS - 1);
        assert_int_equal(mka_session_eval(session, f.ids + held, (size_t)(TOKENS - held), got, NULL, NULL, &error), MKA_OK);
        compare("after a stop", reference_shapes[i].kind, f.vocabulary, got, want);
        mka_session_destroy(session);
        close_fixture(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ways_agree),          cmocka_unit_test(threads_agree),
        cmocka_unit_test(levels_agree),        cmocka_unit_test(first_level_router_is_plain),
        cmocka_unit_test(folder_is_the_same),  cmocka_unit_test(sessions_are_apart),
        cmocka_unit_test(score_equals_logits), cmocka_unit_test(bad_calls_are_refused),
        cmocka_unit_test(cancelled_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
