/* test_opencl_models - sessions on a device answer what the CPU answers: weights of every type, every variant, and sessions of
 * which only a part is there. */
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

#include "opencl_device.h"
#include "reference_model.h"

static void logits_of(mka_engine *engine, const char *shape, mka_type type, const char *router, mka_session_options *o,
                      const int *tokens, int count, float *logits) {
    mka_model *model;
    mka_session *session;
    mka_error error;
    if (mka_model_random(engine, shape, type, router, 3, &model, &error) || mka_session_create(model, o, &session, &error))
        fail_msg("%s: %s", mka_type_name(type), error.message);
    mka_model_info info;
    mka_model_get_info(model, &info);
    for (int i = 0, at = 0; at < count; i++) { /* a prompt in chunks, then single tokens */
        int n = i == 0 ? count - 3 : 1;
        if (mka_session_eval(session, tokens + at, (size_t)n, logits + (size_t)i * (size_t)info.vocabulary, NULL, NULL, &error))
            fail_msg("%s: %s", mka_type_name(type), error.message);
        at += n;
    }
    mka_session_destroy(session);
    mka_model_destroy(model);
}

enum { TOKENS = 40, VOCABULARY = 256 };

static void compare_within(const char *what, mka_engine *other, mka_type type, const char *router, mka_session_options o,
                           int exact, float allowed) {
    float here[4 * VOCABULARY], there[4 * VOCABULARY];
    int tokens[TOKENS];
    for (int i = 0; i < TOKENS; i++) tokens[i] = (37 * i + 11) % VOCABULARY;
    o.context = 64;
    o.chunk = 16;
    o.exact = 1;
    logits_of(cpu, "tiny", type, router, &o, tokens, TOKENS, here);
    o.exact = exact;
    logits_of(other, "tiny", type, router, &o, tokens, TOKENS, there);
    same(what, sizeof here / sizeof *here, there, here, allowed);
}

static void compare_models(const char *what, mka_engine *other, mka_type type, const char *router, mka_session_options o) {
    /* in blocks, scales of q4_k are rounded to 16 bits */
    compare_within(what, other, type, router, o, 1, type == MKA_Q4_K && other->device->blocked ? 1e-2F : 1e-3F);
}

/* Every variant, in models small enough for any device. */
static void variants(void **state) {
    (void)state;
    need_device();
    for (int i = 0; i < reference_shape_count; i++) {
        const reference_shape *shape = &reference_shapes[i];
        enum { MOST = 21, ROOM = 64 };
        const int prompt = sized(MOST, 3);
        float logits[2][2 * ROOM];
        int tokens[MOST + 1];
        char path[256], what[64];
        mka_error error;
        assert_true(shape->vocabulary <= ROOM && reference_model_write(shape, 7, path, sizeof path));
        for (int t = 0; t <= prompt; t++) tokens[t] = (37 * t + 11) % shape->vocabulary;
        for (int there = 0; there < 2; there++) {
            mka_model *model = NULL;
            mka_session *session = NULL;
            mka_session_options o;
            mka_session_defaults(&o);
            o.key_type = o.value_type = MKA_F32;
            o.context = 64;
            o.chunk = 17;
            o.exact = 1;
            if (mka_model_load(there ? device : cpu, path, NULL, &model, &error) ||
                mka_session_create(model, &o, &session, &error) ||
                mka_session_eval(session, tokens, (size_t)prompt, logits[there], NULL, NULL, &error) ||
                mka_session_eval(session, tokens + prompt, 1, logits[there] + shape->vocabulary, NULL, NULL, &error))
                fail_msg("%s: %s", shape->kind, error.message);
            mka_session_destroy(session);
            mka_model_destroy(model);
        }
        unlink(path);
        snprintf(what, sizeof what, "%s, window %d", shape->kind, shape->window);
        same(what, 2 * (size_t)shape->vocabulary, logits[1], logits[0], 1e-3F);
    }
}

static void weights_of_every_type(void **state) {
    (void)state;
    need_speed();
    mka_session_options o;
    mka_session_defaults(&o);
    o.key_type = o.value_type = MKA_F32;
    for (int type = 0; type < MKA_TYPE_LIMIT; type++)
        if (mka_type_get((mka_type)type)->weight) compare_models(mka_type_name((mka_type)type), device, (mka_type)type, NULL, o);
}

/* Blocks of 16 rows, read by the plain kernels, as they are where a matrix unit's kernels have no place. */
static void weights_in_blocks(void **state) {
    (void)state;
    need_speed();
    static const mka_type types[] = {MKA_Q8_0, MKA_Q4_0, MKA_Q4_1, MKA_Q4_K, MKA_Q6_K};
    mka_session_options o;
    mka_engine_options options = options_of("opencl");
    mka_engine *blocks;
    mka_session_defaults(&o);
    o.key_type = o.value_type = MKA_F32;
    assert_int_equal(mka_engine_create(&options, &blocks, NULL), MKA_OK);
    blocks->device->blocked = 1;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) compare_models(mka_type_name(types[i]), blocks, types[i], NULL, o);
    compare_models("mka", blocks, MKA_Q8_0, "mka", o);
    mka_engine_destroy(blocks);
}

/* Activations in 16 bits: NVIDIA's matrix unit. */
static void weights_on_matrix_units(void **state) {
    (void)state;
    need_speed();
    if (!device->device->nv) {
        print_message("skipped: the device is none of NVIDIA's\n");
        skip();
    }
    mka_session_options o;
    mka_session_defaults(&o);
    o.key_type = o.value_type = MKA_F16;
    for (int type = 0; type < MKA_TYPE_LIMIT; type++)
        if (mka_type_get((mka_type)type)->weight)
            compare_within(mka_type_name((mka_type)type), device, (mka_type)type, NULL, o, 0, type == MKA_BF16 ? 3e-2F : 1e-2F);
}

static void routed_models(void **state) {
    (void)state;
    need_speed();
    mka_session_options o;
    mka_session_defaults(&o);
    compare_models("fastmka", device, MKA_Q8_0, "fastmka", o);
    compare_models("mka", device, MKA_Q8_0, "mka", o);
}

/* Bytes in which the first layer of compare_models fits, but hardly more: scratch depends on the device. */
static uint64_t least_memory(mka_type type) {
    mka_model *model;
    mka_session *session = NULL;
    mka_session_options o;
    mka_error error;
    mka_session_defaults(&o);
    o.context = 64;
    o.chunk = 16;
    for (uint64_t bytes = 256 << 10; bytes < (uint64_t)1 << 30; bytes += 128 << 10) {
        mka_engine_options options = options_of("opencl");
        mka_engine *engine;
        options.device_memory = bytes;
        assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_OK);
        assert_int_equal(mka_model_random(engine, "tiny", type, NULL, 3, &model, &error), MKA_OK);
        mka_status status = mka_session_create(model, &o, &session, &error);
        mka_session_destroy(session);
        mka_model_destroy(model);
        mka_engine_destroy(engine);
        if (status == MKA_OK) return bytes;
        assert_int_equal(status, MKA_NO_MEMORY);
    }
    fail_msg("a layer fits in no memory");
    return 0;
}

/* A device that is too small for all layers gets the first; one that is too small for any is refused. */
static void too_small_a_device(void **state) {
    (void)state;
    need_speed();
    mka_engine_options options = options_of("opencl");
    mka_engine *small;
    mka_model *model;
    mka_session *session;
    mka_session_options o;
    mka_error error;
    mka_session_defaults(&o);
    options.device_memory = least_memory(MKA_Q8_0);
    logged[0] = 0;
    assert_int_equal(mka_engine_create(&options, &small, &error), MKA_OK);
    compare_models("a part of the layers", small, MKA_Q8_0, NULL, o);
    if (!strstr(logged, "1 of 2 layers are there")) fail_msg("it said: %s", logged);
    mka_engine_destroy(small);
    options.device_memory = 100 << 10;
    assert_int_equal(mka_engine_create(&options, &small, &error), MKA_OK);
    assert_int_equal(mka_model_random(small, "tiny", MKA_Q8_0, NULL, 3, &model, &error), MKA_OK);
    assert_int_equal(mka_session_create(model, &o, &session, &error), MKA_NO_MEMORY);
    assert_non_null(strstr(error.message, "--device cpu"));
    mka_model_destroy(model);
    mka_engine_destroy(small);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variants),          cmocka_unit_test(weights_of_every_type),
        cmocka_unit_test(weights_in_blocks), cmocka_unit_test(weights_on_matrix_units),
        cmocka_unit_test(routed_models),     cmocka_unit_test(too_small_a_device),
    };
    return cmocka_run_group_tests(tests, start_engines, stop_engines);
}
