/* test_endure - long runs do not grow: tokens decoded one by one with the memory of the process sampled, in one timeline that
 * spills, and in short ones that begin again and again. MKA_ENDURE: how many tokens (./run endure: 100,000). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mka/session.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "bytes.h"

enum { FILLED = 16000, SAMPLES = 10, READ = 32 }; /* READ: rows a head; random keys are all alike, so that each would matter */

static mka_engine *engine;
static mka_model *model;
static char folder[64];
static int tokens = 2000;

static int start(void **data) {
    (void)data;
    mka_engine_options options;
    mka_engine_defaults(&options);
    options.threads = 2;
    options.bind = 0;
    make_folder(folder);
    if (getenv("MKA_ENDURE")) tokens = atoi(getenv("MKA_ENDURE"));
    if (tokens < 1000 || mka_engine_create(&options, &engine, NULL)) return 1;
    return mka_model_random(engine, "tiny", MKA_Q8_0, NULL, 3, &model, NULL) != MKA_OK;
}

static int stop(void **data) {
    (void)data;
    mka_model_destroy(model);
    mka_engine_destroy(engine);
    remove_folder(folder);
    return 0;
}

/* ---- what the process has ---- */

typedef struct state {
    double resident;  /* bytes, without mapped files */
    size_t allocated; /* by malloc; 0 where it does not say */
    int handles;      /* open files */
} state;

static state look(void) {
    state now = {.resident = 0};
    char line[256];
    double kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "RssAnon: %lf", &kib) == 1) break;
    if (file) fclose(file);
    now.resident = kib * 1024;
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
    now.allocated = mallinfo2().uordblks;
#endif
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) now.handles++;
    if (dir) closedir(dir);
    return now;
}

/* A sanitizer's own memory counts, and grows. */
static int counted(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
    return 0;
#else
    return 1;
#endif
#else
    return 1;
#endif
}

static void same(const state *first, const state *now) {
    assert_int_equal(now->handles, first->handles);
    if (counted()) assert_true(now->allocated == first->allocated);
}

/* ---- runs ---- */

static void ok(mka_status status, const mka_error *error) {
    if (status != MKA_OK) fail_msg("%s", error->message);
}

static mka_session *session_of(const mka_session_options *options) {
    mka_session *session;
    mka_error error;
    ok(mka_session_create(model, options, &session, &error), &error);
    return session;
}

static void decode(mka_session *session, mka_sampler *sampler, int *next, int count) {
    static float logits[256];
    mka_error error;
    for (int i = 0; i < count; i++) {
        ok(mka_session_eval(session, next, 1, logits, NULL, NULL, &error), &error);
        *next = mka_sampler_next(sampler, logits);
        assert_true(*next >= 0);
    }
}

static mka_sampler *sampler_of(void) {
    mka_sampler_options options;
    mka_sampler *sampler;
    mka_error error;
    mka_sampler_defaults(&options);
    ok(mka_sampler_create(&options, 256, &sampler, &error), &error);
    return sampler;
}

/* The least that a session of these options runs with, as its message says. */
static uint64_t least(const mka_session_options *options) {
    mka_session_options o = *options;
    mka_session *session;
    mka_error error;
    double number = 0;
    o.plan.ram = 1;
    assert_int_equal(mka_session_create(model, &o, &session, &error), MKA_BAD_ARGUMENT);
    const char *at = strstr(error.message, "at least ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "at least %lf MiB", &number), 1);
    return (uint64_t)((number + 0.1) * 1048576);
}

static void one_timeline_stays_within_its_limit(void **data) {
    (void)data;
    mka_session_options o;
    mka_error error;
    mka_used used;
    int next = 1;
    mka_session_defaults(&o);
    o.context = FILLED + tokens + 64;
    o.memory = MKA_MEMORY_TIERED;
    o.plan.window = 256;
    o.plan.recall.tokens = READ;
    o.plan.spill = folder;
    o.plan.ram = least(&o);
    state before = look();
    mka_session *session = session_of(&o);
    mka_sampler *sampler = sampler_of();
    ok(mka_session_fill(session, FILLED, 5, &error), &error);
    decode(session, sampler, &next, 1);
    state first = look();
    for (int i = 0; i < SAMPLES; i++) {
        decode(session, sampler, &next, (tokens - 1) / SAMPLES);
        state now = look();
        print_message("%d tokens: %.1f MiB resident of %.1f MiB allowed\n", mka_session_length(session),
                      (now.resident - before.resident) / 1048576, (double)o.plan.ram / 1048576);
        if (counted()) assert_true(now.resident - before.resident <= 1.05 * (double)o.plan.ram);
        same(&first, &now);
    }
    mka_session_get_used(session, &used);
    assert_true(used.spill_bytes > 0);
    mka_sampler_destroy(sampler);
    mka_session_destroy(session);
}

/* Conversations that end and begin again, dense and tiered with a spill file: what the second took is what the last takes. */
static void sessions_that_begin_again_do_not_grow(void **data) {
    (void)data;
    enum { ROUND = 250 };
    mka_session_options options[2];
    mka_session *sessions[2];
    mka_error error;
    state first = {.resident = 0};
    mka_sampler *sampler = sampler_of();
    for (int i = 0; i < 2; i++) {
        mka_session_defaults(&options[i]);
        options[i].context = i ? FILLED + 2 * ROUND : 2 * ROUND;
        options[i].memory = i ? MKA_MEMORY_TIERED : MKA_MEMORY_DENSE;
        options[i].plan.window = 128;
        options[i].plan.recall.tokens = READ;
    }
    options[1].plan.spill = folder;
    options[1].plan.ram = least(&options[1]);
    for (int i = 0; i < 2; i++) sessions[i] = session_of(&options[i]);
    for (int round = 0; round < tokens / (2 * ROUND); round++) {
        int next = 1;
        ok(mka_session_truncate(sessions[0], 0, &error), &error);
        decode(sessions[0], sampler, &next, ROUND);
        if (round % 8 == 0) { /* a long text, whose blocks go to the file; then parts of it are cut off and said anew */
            ok(mka_session_truncate(sessions[1], 0, &error), &error);
            ok(mka_session_fill(sessions[1], FILLED, (uint64_t)round, &error), &error);
        } else {
            ok(mka_session_truncate(sessions[1], FILLED - round % 8, &error), &error);
        }
        decode(sessions[1], sampler, &next, ROUND);
        state now = look();
        if (round == 1) first = now;
        if (round % 40 == 3) print_message("round %d: %.2f MiB resident\n", round, now.resident / 1048576);
        if (round > 1) same(&first, &now);
        if (round > 1 && counted()) assert_true(now.resident <= first.resident + (1 << 20));
    }
    mka_sampler_destroy(sampler);
    for (int i = 0; i < 2; i++) mka_session_destroy(sessions[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_timeline_stays_within_its_limit),
        cmocka_unit_test(sessions_that_begin_again_do_not_grow),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
