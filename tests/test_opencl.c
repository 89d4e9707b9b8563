/* test_opencl - what a device computes is what the CPU computes: caches of random shapes, weights of every type, sessions of
 * which a part is there; and what is said where there is no device, no room, no folder, or a driver that cannot build.
 *
 * Any device will do (PoCL is one on every CPU); without one the tests are skipped. */
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
#include <mka/device.h>

#include "opencl/runtime.h"
#include "ops/engine.h"
#include "reference_model.h"

static mka_engine *cpu, *device;
static char logged[8192]; /* what an engine said last */

static void note(void *user, mka_log_level level, const char *message) {
    (void)user, (void)level;
    size_t used = strlen(logged);
    snprintf(logged + used, sizeof logged - used, "%s\n", message);
}

static mka_engine_options options_of(const char *name) {
    mka_engine_options o;
    mka_engine_defaults(&o);
    o.threads = 2;
    o.bind = 0;
    o.cpu = "scalar"; /* exact on what is stored, as the device is */
    o.device = name;
    o.log = note;
    return o;
}

static int start(void **state) {
    (void)state;
    mka_device_info info;
    int count = 0;
    if (mka_devices(&info, 1, &count, NULL) != MKA_OK || count == 0) return 0;
    mka_engine_options here = options_of(NULL), there = options_of("opencl");
    mka_error error;
    there.device_profile = 1;
    if (mka_engine_create(&here, &cpu, &error) || mka_engine_create(&there, &device, &error)) {
        fprintf(stderr, "%s\n%s", error.message, logged);
        return 1;
    }
    return 0;
}

static int stop(void **state) {
    (void)state;
    mka_engine_destroy(device);
    mka_engine_destroy(cpu);
    return 0;
}

static void need_device(void) {
    if (device) return;
    print_message("skipped: no OpenCL platform has a device here\n");
    skip();
}

static float *random_floats(uint64_t *seed, size_t count) {
    float *x = malloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = 2 * reference_random(seed);
    return x;
}

static int pick(uint64_t *seed, int low, int high) {
    int n = high - low + 1, i = (int)((0.5F + 0.5F * reference_random(seed)) * (float)n);
    return low + (i < 0 ? 0 : i >= n ? n - 1 : i);
}

static void same(const char *what, size_t count, const float *got, const float *want, float allowed) {
    float most = 0;
    for (size_t i = 0; i < count; i++) most = fmaxf(most, fabsf(want[i]));
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - want[i]) <= allowed * (most + 1)))
            fail_msg("%s: number %zu is %g, on the CPU %g", what, i, (double)got[i], (double)want[i]);
}

/* ---- caches ---- */

typedef struct both {
    mka_kv *here, *there;
} both;

static both make_caches(const mka_kv_options *o) {
    both b;
    mka_error error;
    if (mka_kv_create(cpu, o, &b.here, &error) || mka_kv_create(device, o, &b.there, &error)) fail_msg("%s", error.message);
    return b;
}

static void append_both(const both *b, int n, const float *keys, const float *values) {
    mka_error error;
    if (mka_kv_append(b->here, n, keys, values, &error) || mka_kv_append(b->there, n, keys, values, &error))
        fail_msg("%s", error.message);
}

/* The matrix unit rounds queries and weights to the cache's 16 bits; every other kernel computes in float32. */
static float cache_tolerance(const mka_kv_options *o) {
    if (!device->device->nv || o->key_type == MKA_F32 || o->key_type != o->value_type) return 2e-5F;
    return o->key_type == MKA_BF16 ? 1e-2F : o->key_type == MKA_Q4_0 ? 5e-3F : 2e-3F;
}

static void compare_attention(const char *what, const both *b, const mka_kv_options *o, int length, int n, uint64_t *seed) {
    size_t queries = (size_t)n * (size_t)o->heads * (size_t)o->key_dim,
           outs = (size_t)n * (size_t)o->heads * (size_t)o->value_dim;
    float *q = random_floats(seed, queries), *here = malloc(outs * sizeof *here), *there = malloc(outs * sizeof *there);
    mka_error error;
    if (mka_kv_attend(b->here, length, n, q, here, &error) || mka_kv_attend(b->there, length, n, q, there, &error))
        fail_msg("%s: %s", what, error.message);
    same(what, outs, there, here, cache_tolerance(o));
    free(q);
    free(here);
    free(there);
}

static void one_cache(mka_kv_options o, uint64_t *seed) {
    char what[200];
    snprintf(what, sizeof what, "heads %d/%d, dims %d and %d, %s and %s%s, window %d, %d tokens", o.heads, o.kv_heads, o.key_dim,
             o.value_dim, mka_type_name(o.key_type), mka_type_name(o.value_type), o.shared ? ", shared" : "", o.window,
             o.context);
    both b = make_caches(&o);
    for (int length = 0; length < o.context;) {
        int n = pick(seed, 1, o.queries);
        if (n > o.context - length) n = o.context - length;
        float *keys = random_floats(seed, (size_t)n * (size_t)o.kv_heads * (size_t)o.key_dim);
        float *values = random_floats(seed, (size_t)n * (size_t)o.kv_heads * (size_t)o.value_dim);
        append_both(&b, n, keys, values);
        length += n;
        compare_attention(what, &b, &o, length, n, seed);
        compare_attention(what, &b, &o, length, 1, seed);
        free(keys);
        free(values);
    }
    mka_kv_destroy(b.here);
    mka_kv_destroy(b.there);
}

/* What attend_fast.c takes: prompts over all types, and on NVIDIA devices decoding. */
static void caches_of_common_shapes(void **state) {
    (void)state;
    need_device();
    static const mka_type types[] = {MKA_F16, MKA_BF16, MKA_Q8_0, MKA_Q4_0, MKA_F32};
    uint64_t seed = 41;
    int before = device->device->lanes;
    if (before == 1) device->device->lanes = 16;
    for (int i = 0; i < (device->device->nv ? 10 : 5); i++) { /* PoCL compiles for a while */
        mka_kv_options o;
        mka_kv_defaults(&o);
        o.kv_heads = 2;
        o.heads = i % 3 == 0 ? 14 : 2 << i % 3;
        o.key_dim = o.value_dim = i % 2 ? 64 : 128;
        o.key_type = o.value_type = types[i % 5];
        o.window = i == 2 ? 150 : 0;
        o.queries = 150;
        o.context = 700;
        one_cache(o, &seed);
    }
    device->device->lanes = before;
}

static void caches_of_random_shapes(void **state) {
    (void)state;
    need_device();
    static const mka_type types[] = {MKA_F32, MKA_F16, MKA_BF16, MKA_Q8_0, MKA_Q4_0};
    static const int dims[] = {8, 40, 64, 128};
    uint64_t seed = 71;
    for (int i = 0; i < 6; i++) {
        mka_kv_options o;
        mka_kv_defaults(&o);
        o.kv_heads = pick(&seed, 1, 3);
        o.heads = o.kv_heads * pick(&seed, 1, 9);
        o.shared = i == 4; /* a latent and its rotary key */
        o.key_dim = o.shared ? 40 : dims[pick(&seed, 0, 3)];
        o.value_dim = o.shared ? 32 : dims[pick(&seed, 0, 3)];
        o.key_type = types[i % 5];
        o.value_type = o.shared ? o.key_type : types[pick(&seed, 0, 4)];
        o.window = i % 4 == 1 ? pick(&seed, 1, 100) : 0;
        o.queries = pick(&seed, 1, 90);
        o.context = pick(&seed, 200, 900);
        one_cache(o, &seed);
    }
}

/* A few tokens at a time, as decoding goes, over the ends of tiles and rings. */
static void four_bits_token_by_token(void **state) {
    (void)state;
    need_device();
    uint64_t seed = 5;
    mka_kv_options o;
    mka_kv_defaults(&o);
    o.heads = 4, o.kv_heads = 2, o.key_dim = o.value_dim = 32, o.queries = 1, o.context = 700;
    o.key_type = o.value_type = MKA_Q4_0;
    one_cache(o, &seed);
}

/* On a CPU one work-item has a row for itself; here they share it, as on a GPU, and wait for each other where they must. */
static void rows_shared_by_lanes(void **state) {
    (void)state;
    need_device();
    uint64_t seed = 23;
    int before = device->device->lanes;
    mka_kv_options o;
    mka_kv_defaults(&o);
    o.heads = 6, o.kv_heads = 2, o.key_dim = o.value_dim = 8, o.queries = 40, o.context = 300, o.window = 90;
    device->device->lanes = 16;
    one_cache(o, &seed);
    o.key_dim = o.value_dim = 40, o.window = 0;
    o.key_type = o.value_type = MKA_Q4_0;
    one_cache(o, &seed);
    device->device->lanes = before;
}

/* ---- models ---- */

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

static void weights_of_every_type(void **state) {
    (void)state;
    need_device();
    mka_session_options o;
    mka_session_defaults(&o);
    o.key_type = o.value_type = MKA_F32;
    for (int type = 0; type < MKA_TYPE_LIMIT; type++)
        if (mka_type_get((mka_type)type)->weight) compare_models(mka_type_name((mka_type)type), device, (mka_type)type, NULL, o);
}

/* Blocks of 16 rows, read by the plain kernels, as they are where a matrix unit's kernels have no place. */
static void weights_in_blocks(void **state) {
    (void)state;
    need_device();
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
    need_device();
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
    need_device();
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
    need_device();
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

/* ---- what goes wrong ---- */

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

static void use_is_counted(void **state) {
    (void)state;
    need_device();
    mka_device_usage before, after;
    uint64_t seed = 9;
    mka_kv_options o;
    mka_kv_defaults(&o);
    o.heads = 4, o.kv_heads = 2, o.key_dim = o.value_dim = 32, o.queries = 8, o.context = 64;
    mka_engine_get_device_usage(device, &before);
    one_cache(o, &seed);
    mka_engine_get_device_usage(device, &after);
    assert_int_equal(after.taken, before.taken); /* all was given back */
    assert_true(after.kernels > before.kernels && after.kernel_seconds > before.kernel_seconds);
    assert_true(after.up_bytes > before.up_bytes && after.down_bytes > before.down_bytes);
}

static void memory_is_measured(void **state) {
    (void)state;
    need_device();
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
        cmocka_unit_test(caches_of_random_shapes),
        cmocka_unit_test(caches_of_common_shapes),
        cmocka_unit_test(four_bits_token_by_token),
        cmocka_unit_test(rows_shared_by_lanes),
        cmocka_unit_test(weights_of_every_type),
        cmocka_unit_test(weights_in_blocks),
        cmocka_unit_test(weights_on_matrix_units),
        cmocka_unit_test(routed_models),
        cmocka_unit_test(too_small_a_device),
        cmocka_unit_test(devices_that_are_not_there),
        cmocka_unit_test(a_name_finds_a_device),
        cmocka_unit_test(a_kernel_that_does_not_build),
        cmocka_unit_test(a_folder_that_cannot_be),
        cmocka_unit_test(use_is_counted),
        cmocka_unit_test(memory_is_measured),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
