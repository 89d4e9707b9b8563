/* test_allocation - decoding does not allocate: counts every call of the allocator while tokens are evaluated and sampled.
 *
 * The program's own malloc family stands before the C library's, for the shared libraries too. Not under sanitizers, which
 * bring their own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
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

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define COUNTED 0
#endif
#endif
#ifndef COUNTED
#ifdef __GLIBC__
#define COUNTED 1
#else
#define COUNTED 0
#endif
#endif

static atomic_long allocations;

#if COUNTED
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    atomic_fetch_add(&allocations, 1);
    *out = __libc_memalign(alignment, size);
    return *out ? 0 : 12;
}
#endif

static void decoding_does_not_allocate(void **state) {
    (void)state;
    if (!COUNTED) skip();
    void *probe = malloc(1); /* the counter works */
    assert_true(atomic_load(&allocations) > 0);
    free(probe);
    for (int i = 0; i < reference_shape_count; i++) {
        char path[256];
        mka_engine *engine;
        mka_model *model;
        mka_session *session;
        mka_sampler *sampler;
        mka_error error;
        mka_engine_options options;
        mka_engine_defaults(&options);
        options.threads = 2;
        assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_OK);
        assert_true(reference_model_write(&reference_shapes[i], 5, path, sizeof path));
        assert_int_equal(mka_model_load(engine, path, NULL, &model, &error), MKA_OK);
        mka_session_options session_options;
        mka_session_defaults(&session_options);
        session_options.context = 256;
        assert_int_equal(mka_session_create(model, &session_options, &session, &error), MKA_OK);
        mka_sampler_options sampling;
        mka_sampler_defaults(&sampling);
        sampling.top_k = 0;
        sampling.repeat_penalty = 1.1F;
        assert_int_equal(mka_sampler_create(&sampling, reference_shapes[i].vocabulary, &sampler, &error), MKA_OK);
        float logits[128];
        int prompt[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, token = 1;
        assert_int_equal(mka_session_eval(session, prompt, 12, logits, NULL, NULL, &error), MKA_OK);
        long before = atomic_load(&allocations);
        for (int n = 0; n < 100; n++) {
            token = mka_sampler_next(sampler, logits);
            mka_session_eval(session, &token, 1, logits, NULL, NULL, &error);
        }
        long after = atomic_load(&allocations);
        if (after != before) fail_msg("%s: %ld allocations in 100 decoded tokens", reference_shapes[i].kind, after - before);
        assert_int_equal(mka_session_length(session), 112);
        mka_sampler_destroy(sampler);
        mka_session_destroy(session);
        mka_model_destroy(model);
        mka_engine_destroy(engine);
        unlink(path);
    }
}

/* Tiers close blocks and the bank takes summaries all the time. */
static void routed_tiers_do_not_allocate(void **state) {
    (void)state;
    static const char *const kinds[] = {"fastmka", "mka"};
    if (!COUNTED) skip();
    if (emulated()) {
        print_message("skipped under an emulator, where 5,000 tokens take minutes\n");
        skip();
    }
    mka_engine *engine;
    mka_error error;
    mka_engine_options options;
    mka_engine_defaults(&options);
    options.threads = 2;
    assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_OK);
    for (int k = 0; k < 2; k++) {
        mka_model *model;
        mka_session *session;
        mka_session_options o;
        float logits[256];
        mka_session_defaults(&o);
        o.context = 6000;
        o.memory = MKA_MEMORY_TIERED;
        o.plan.window = 64;
        o.bank = 70;
        assert_int_equal(mka_model_random(engine, "tiny", MKA_Q8_0, kinds[k], 1, &model, &error), MKA_OK);
        assert_int_equal(mka_session_create(model, &o, &session, &error), MKA_OK);
        assert_int_equal(mka_session_fill(session, 5000, 1, &error), MKA_OK);
        assert_true(mka_session_bank(session) == 70); /* enough to be scanned */
        long before = atomic_load(&allocations);
        for (int token = 0; token < 200; token++)
            assert_int_equal(mka_session_eval(session, &token, 1, logits, NULL, NULL, &error), MKA_OK);
        long after = atomic_load(&allocations);
        if (after != before) fail_msg("%s: %ld allocations in 200 decoded tokens", kinds[k], after - before);
        mka_session_destroy(session);
        mka_model_destroy(model);
    }
    mka_engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(decoding_does_not_allocate),
                                       cmocka_unit_test(routed_tiers_do_not_allocate)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
