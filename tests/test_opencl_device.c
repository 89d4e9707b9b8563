/* test_opencl_device - devices themselves: how they are chosen, what is counted and measured, and what is said of one that is not
 * there, cannot build a kernel, has no place for it, or is lost. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mka/attention.h>
#include <mka/session.h>

#include "opencl_device.h"

static void devices_that_are_not_there(void **state) {
    (void)state;
    need_device();
    static const char *const names[] = {"opencl:99", "opencl:abacus", "opencl:-1"};
    mka_engine *none;
    mka_error error;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        mka_engine_options options = options_of(names[i]);
        assert_int_equal(mka_engine_create(&options, &none, &error), MKA_BAD_ARGUMENT);
        assert_null(none);
        assert_non_null(strstr(error.message, device->device->info.name));
    }
}

static void a_name_finds_a_device(void **state) {
    (void)state;
    need_device();
    char name[200];
    mka_engine *found;
    mka_device_info info;
    snprintf(name, sizeof name, "opencl:%.100s", device->device->info.platform);
    mka_engine_options options = options_of(name);
    assert_int_equal(mka_engine_create(&options, &found, NULL), MKA_OK);
    assert_int_equal(mka_engine_get_device(found, &info), 1);
    assert_string_equal(info.platform, device->device->info.platform);
    mka_engine_destroy(found);
}

static void a_kernel_that_does_not_build(void **state) {
    (void)state;
    need_device();
    cl_kernel kernel;
    mka_error error;
    logged[0] = 0;
    assert_int_equal(mka_cl_kernel(device->device, "product", "gemv", &kernel, &error, "-DLANES=1 -DWTYPE=0 -Dkernel=broken"),
                     MKA_UNSUPPORTED);
    assert_null(kernel);
    assert_non_null(strstr(error.message, "cannot build kernels/product.cl"));
    if (!strstr(logged, "error")) fail_msg("the driver's log is missing: %s", logged);
}

static mka_session *open_session(mka_engine *engine, mka_model **model, mka_status wanted, mka_error *error) {
    mka_session *session = NULL;
    mka_session_options o;
    mka_session_defaults(&o);
    o.context = 64;
    assert_int_equal(mka_model_random(engine, "tiny", MKA_Q8_0, NULL, 3, model, error), MKA_OK);
    assert_int_equal(mka_session_create(*model, &o, &session, error), wanted);
    return session;
}

/* Rows shared by a negative number of lanes: there is no such array, and the driver says so. */
static void a_driver_that_builds_nothing(void **state) {
    (void)state;
    need_device();
    mka_engine_options options = options_of("opencl");
    mka_engine *engine;
    mka_model *model;
    mka_error error;
    logged[0] = 0;
    assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_OK);
    engine->device->lanes = -1;
    assert_null(open_session(engine, &model, MKA_UNSUPPORTED, &error));
    assert_non_null(strstr(error.message, "cannot build kernels/"));
    if (!strstr(logged, "error")) fail_msg("the driver's log is missing: %s", logged);
    mka_model_destroy(model);
    mka_engine_destroy(engine);
}

/* A device that is lost refuses every command, as one without a queue does; the session stays at the token where that happened,
 * and goes on should the device come back. */
static void a_device_that_is_lost(void **state) {
    (void)state;
    need_speed();
    enum { COUNT = 6, VOCABULARY = 256 };
    static const int tokens[COUNT] = {3, 1, 4, 1, 5, 9};
    static float want[VOCABULARY], got[VOCABULARY];
    mka_model *model;
    mka_error error;
    mka_session *session = open_session(device, &model, MKA_OK, &error);
    assert_int_equal(mka_session_eval(session, tokens, COUNT, want, NULL, NULL, &error), MKA_OK);
    assert_int_equal(mka_session_truncate(session, COUNT - 1, &error), MKA_OK);
    cl_command_queue kept = device->device->queue;
    device->device->queue = NULL;
    mka_status status = mka_session_eval(session, tokens + COUNT - 1, 1, got, NULL, NULL, &error);
    int length = mka_session_length(session);
    device->device->queue = kept;
    assert_int_equal(status, MKA_IO);
    assert_non_null(strstr(error.message, device->device->info.name));
    assert_non_null(strstr(error.message, "CL_INVALID_COMMAND_QUEUE"));
    assert_int_equal(length, COUNT - 1);
    assert_int_equal(mka_session_eval(session, tokens + COUNT - 1, 1, got, NULL, NULL, &error), MKA_OK);
    same("after the device came back", VOCABULARY, got, want, 0);
    mka_session_destroy(session);
    mka_model_destroy(model);
}

static void a_folder_that_cannot_be(void **state) {
    (void)state;
    need_device();
    char *before = getenv("XDG_CACHE_HOME");
    before = before ? strdup(before) : NULL;
    setenv("XDG_CACHE_HOME", "/dev/null/there", 1);
    mka_engine_options options = options_of("opencl");
    mka_engine *engine;
    logged[0] = 0;
    assert_int_equal(mka_engine_create(&options, &engine, NULL), MKA_OK);
    assert_non_null(strstr(logged, "cannot be kept in /dev/null/there/mka/opencl"));
    mka_engine_destroy(engine);
    if (before)
        setenv("XDG_CACHE_HOME", before, 1);
    else
        unsetenv("XDG_CACHE_HOME");
    free(before);
}

/* Some tokens into a cache there, and their attention. */
static void use_device(void) {
    enum { HEADS = 4, KV_HEADS = 2, DIM = 32, TOKENS = 8 };
    static float keys[TOKENS * KV_HEADS * DIM], values[TOKENS * KV_HEADS * DIM], q[TOKENS * HEADS * DIM],
        out[TOKENS * HEADS * DIM];
    mka_kv_options o;
    mka_kv *kv;
    mka_error error;
    mka_kv_defaults(&o);
    o.heads = HEADS, o.kv_heads = KV_HEADS, o.key_dim = o.value_dim = DIM, o.queries = TOKENS, o.context = 64;
    if (mka_kv_create(device, &o, &kv, &error) || mka_kv_append(kv, TOKENS, keys, values, &error) ||
        mka_kv_attend(kv, TOKENS, TOKENS, q, out, &error))
        fail_msg("%s", error.message);
    mka_kv_destroy(kv);
}

static void use_is_counted(void **state) {
    (void)state;
    need_device();
    mka_device_usage before, after;
    mka_engine_get_device_usage(device, &before);
    use_device();
    mka_engine_get_device_usage(device, &after);
    assert_int_equal(after.taken, before.taken); /* all was given back */
    assert_true(after.kernels > before.kernels && after.kernel_seconds <= before.kernel_seconds);
    assert_true(after.up_bytes > before.up_bytes && after.down_bytes > before.down_bytes);
    before = after;
    assert_int_equal(mka_engine_profile_device(device, 1, NULL), MKA_OK);
    use_device();
    mka_engine_get_device_usage(device, &after);
    assert_int_equal(mka_engine_profile_device(device, 0, NULL), MKA_OK);
    assert_true(after.kernel_seconds > before.kernel_seconds);
    assert_int_equal(mka_engine_profile_device(cpu, 1, NULL), MKA_BAD_ARGUMENT);
}

static void memory_is_measured(void **state) {
    (void)state;
    need_speed();
    enum { BYTES = 4 << 20 };
    mka_device_usage before, after;
    mka_device_limits *limits;
    mka_error error;
    double read = 0, copy = 0;
    mka_engine_get_device_usage(device, &before);
    assert_int_equal(mka_device_limits_create(device, BYTES, &limits, &error), MKA_OK);
    mka_engine_get_device_usage(device, &after);
    assert_true(after.taken >= before.taken + BYTES);
    assert_int_equal(mka_device_limits_read(limits, BYTES, &read, &error), MKA_OK);
    assert_int_equal(mka_device_limits_copy(limits, BYTES, &copy, &error), MKA_OK);
    assert_true(read > 0 && copy > 0 && isfinite(read) && isfinite(copy));
    mka_device_limits_destroy(limits);
    mka_engine_get_device_usage(device, &after);
    assert_int_equal(after.taken, before.taken);
    assert_int_equal(mka_device_limits_create(device, 100, &limits, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_device_limits_create(device, (uint64_t)1 << 60, &limits, &error), MKA_NO_MEMORY);
    assert_int_equal(mka_device_limits_create(cpu, BYTES, &limits, &error), MKA_BAD_ARGUMENT);
    assert_null(limits);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_that_are_not_there),
        cmocka_unit_test(a_name_finds_a_device),
        cmocka_unit_test(a_kernel_that_does_not_build),
        cmocka_unit_test(a_driver_that_builds_nothing),
        cmocka_unit_test(a_device_that_is_lost),
        cmocka_unit_test(a_folder_that_cannot_be),
        cmocka_unit_test(use_is_counted),
        cmocka_unit_test(memory_is_measured),
    };
    return cmocka_run_group_tests(tests, start_engines, stop_engines);
}
