/* test_random - models of random weights: every type of weight gives finite logits that depend on seed and tokens, and contexts
 * of random keys and values can be gone on from. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mka/session.h>

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

static const int ids[6] = {1, 200, 3, 77, 5, 6};
enum { VOCABULARY = 256 };

/* Logits of the tokens behind depth random ones. */
static void run(mka_type type, const char *router, uint64_t seed, int depth, float *logits) {
    mka_model *model;
    mka_session *session;
    mka_error error;
    mka_session_options options;
    mka_session_defaults(&options);
    options.context = depth + 6;
    options.key_type = options.value_type = MKA_F32;
    if (mka_model_random(engine, "tiny", type, router, seed, &model, &error))
        fail_msg("%s: %s", mka_type_name(type), error.message);
    if (mka_session_create(model, &options, &session, &error)) fail_msg("%s", error.message);
    assert_int_equal(mka_session_fill(session, depth + 7, 1, &error), MKA_CONTEXT_FULL);
    assert_int_equal(mka_session_fill(session, depth, 1, &error), MKA_OK);
    assert_int_equal(mka_session_length(session), depth);
    assert_int_equal(mka_session_eval(session, ids, 6, logits, NULL, NULL, &error), MKA_OK);
    mka_session_destroy(session);
    mka_model_destroy(model);
}

static double size_of(const float *logits) {
    double sum = 0;
    for (int i = 0; i < VOCABULARY; i++) sum += (double)logits[i] * (double)logits[i];
    return sqrt(sum / VOCABULARY);
}

static void every_type_is_finite(void **state) {
    (void)state;
    static const mka_type types[] = {MKA_F32,  MKA_F16,  MKA_BF16, MKA_Q4_0, MKA_Q4_1, MKA_Q5_0,   MKA_Q5_1,  MKA_Q8_0,
                                     MKA_Q2_K, MKA_Q3_K, MKA_Q4_K, MKA_Q5_K, MKA_Q6_K, MKA_IQ4_NL, MKA_IQ4_XS};
    float a[VOCABULARY], b[VOCABULARY];
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        run(types[i], NULL, 1, 0, a);
        double size = size_of(a);
        if (!(size > 0.1 && size < 10)) fail_msg("%s: logits of size %g", mka_type_name(types[i]), size);
        run(types[i], NULL, 1, 0, b);
        assert_memory_equal(a, b, sizeof a);
        run(types[i], NULL, 2, 0, b);
        assert_memory_not_equal(a, b, sizeof a);
        run(types[i], NULL, 1, 300, b);
        assert_memory_not_equal(a, b, sizeof a);
        assert_true(isfinite(size_of(b)));
    }
}

static void routers_are_bound(void **state) {
    (void)state;
    static const char *const kinds[] = {"fastmka", "mka"};
    float a[VOCABULARY], b[VOCABULARY];
    mka_model *model = NULL;
    mka_model_info info;
    mka_error error;
    run(MKA_Q8_0, NULL, 1, 0, a);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mka_model_random(engine, "tiny", MKA_Q8_0, kinds[i], 1, &model, &error), MKA_OK);
        mka_model_get_info(model, &info);
        assert_string_equal(info.attention, kinds[i]);
        mka_model_destroy(model);
        run(MKA_Q8_0, kinds[i], 1, 20, b);
        assert_true(isfinite(size_of(b)));
        assert_memory_not_equal(a, b, sizeof a);
    }
    assert_int_equal(mka_model_random(engine, "tiny", MKA_Q8_0, "gqa", 1, &model, &error), MKA_BAD_ARGUMENT);
    assert_null(model);
}

static void shapes_are_those_of_the_models(void **state) {
    (void)state;
    mka_model *model;
    mka_model_info info;
    mka_error error;
    assert_int_equal(mka_model_random(engine, "qwen2.5-0.5b", MKA_Q4_0, NULL, 1, &model, &error), MKA_OK);
    mka_model_get_info(model, &info);
    assert_string_equal(info.architecture, "qwen2");
    assert_int_equal(info.parameters, 494032768); /* as the original states */
    mka_model_destroy(model);
    assert_int_equal(mka_model_random(engine, "smollm2-135m", MKA_Q4_0, NULL, 1, &model, &error), MKA_OK);
    mka_model_get_info(model, &info);
    assert_int_equal(info.parameters, 134515008);
    mka_model_destroy(model);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    mka_model *model = (mka_model *)&model;
    mka_error error;
    for (const char *const *name = mka_model_shapes(); *name; name++) {
        assert_int_equal(mka_model_random(engine, *name, MKA_I8, NULL, 1, &model, &error), MKA_BAD_ARGUMENT);
        assert_null(model);
        assert_non_null(strstr(error.message, "i8")); /* the shape was found */
    }
    assert_int_equal(mka_model_random(engine, "gpt-5", MKA_Q8_0, NULL, 1, &model, &error), MKA_BAD_ARGUMENT);
    assert_non_null(strstr(error.message, "gpt-5"));
    assert_int_equal(mka_model_random(engine, "smollm2-135m", MKA_Q4_K, NULL, 1, &model, &error), MKA_BAD_ARGUMENT);
    assert_non_null(strstr(error.message, "q4_k"));
    assert_null(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_is_finite),
        cmocka_unit_test(routers_are_bound),

        cmocka_unit_test(shapes_are_those_of_the_models),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
