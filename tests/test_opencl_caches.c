/* test_opencl_caches - attention over a cache on a device is what the CPU computes: random shapes, every type, a few tokens at a
 * time and many. */
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

#include "opencl_device.h"

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
        if (n > 1) compare_attention(what, &b, &o, length, simulated() && n > 17 ? 17 : n, seed);
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
        o.kv_heads = sized(2, 1);
        o.heads = simulated() ? 2 : i % 3 == 0 ? 14 : 2 << i % 3;
        o.key_dim = o.value_dim = i % 2 ? 64 : 128;
        o.key_type = o.value_type = types[i % 5];
        o.window = i == 2 ? sized(150, 40) : 0;
        o.queries = sized(150, 60);
        o.context = sized(700, 80);
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
        o.queries = pick(&seed, sized(1, 12), 90);
        o.context = pick(&seed, sized(200, 40), sized(900, 80));
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
    o.heads = 4, o.kv_heads = 2, o.key_dim = o.value_dim = 32, o.queries = 1;
    o.context = sized(700, 70);
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
    o.heads = sized(6, 2), o.kv_heads = sized(2, 1), o.key_dim = o.value_dim = 8, o.queries = sized(40, 140), o.context = 300;
    o.window = sized(90, 280);
    device->device->lanes = 16;
    one_cache(o, &seed);
    o.key_dim = o.value_dim = 40, o.window = 0;
    o.key_type = o.value_type = MKA_Q4_0;
    one_cache(o, &seed);
    device->device->lanes = before;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(caches_of_random_shapes),
        cmocka_unit_test(caches_of_common_shapes),
        cmocka_unit_test(four_bits_token_by_token),
        cmocka_unit_test(rows_shared_by_lanes),
    };
    return cmocka_run_group_tests(tests, start_engines, stop_engines);
}
