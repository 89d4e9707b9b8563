/* test_opencl_products - products with weights on a device are what the CPU computes in float32: every type, a few rows and many,
 * matrices that end within a tile or a block, and in blocks of 16 rows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "model/session.h"
#include "opencl_device.h"

enum { ROWS = 70, COLS = 256, MOST = 66 };

/* The operations of an engine, with scratch for such products. */
typedef struct operations {
    mka_pair pair;
    mka_residents *residents;
    mka_arena work;
} operations;

static operations *open_operations(mka_engine *engine) {
    const struct mka_ops_limits limits = {
        .rows = MOST, .cols = COLS, .head_rows = 1, .key_dim = 16, .value_dim = 16, .kv_heads = 1, .context = 64};
    operations *o = calloc(1, sizeof *o); /* the tables point to each other */
    mka_error error;
    mka_ops_cpu(&o->pair.host, engine);
    mka_ops_layout(&o->pair.host, &limits, &o->work);
    if (mka_arena_reserve(&o->work, &error)) fail_msg("%s", error.message);
    mka_ops_layout(&o->pair.host, &limits, &o->work);
    o->pair.host.exact = 1;
    if (engine->device &&
        (mka_residents_create(engine->device, &o->residents, &error) || mka_pair_open(&o->pair, o->residents, NULL, 0, &error)))
        fail_msg("%s", error.message);
    if (engine->device) mka_pair_ops(&o->pair)->exact = 1;
    return o;
}

static void close_operations(operations *o) {
    mka_pair_close(&o->pair);
    mka_residents_destroy(o->residents);
    mka_arena_free(&o->work);
    free(o);
}

static void multiply(operations *o, const mka_matrix *w, int n, const float *bias, const float *x, float *y) {
    mka_ops *ops = mka_pair_ops(&o->pair);
    mka_product product = {w, bias, x, w->cols, y, ROWS};
    mka_error error;
    if (o->residents) {
        const mka_matrix vector = {bias, MKA_F32, 1, w->rows, (size_t)w->rows * sizeof *bias};
        if (mka_residents_add(o->residents, w, &error) || (bias && mka_residents_add(o->residents, &vector, &error)))
            fail_msg("%s", error.message);
    }
    ops->multiply(ops, n, 1, &product);
    if (ops->settle(ops, &error)) fail_msg("%s", error.message);
}

static void compare(mka_engine *other, const mka_matrix *whole, int rows, int cols, int n, uint64_t *seed) {
    static float here[MOST * ROWS], there[MOST * ROWS];
    char what[100];
    snprintf(what, sizeof what, "%s, %d rows of %d, by %d", mka_type_name(whole->type), rows, cols, n);
    mka_matrix w = {whole->data, whole->type, rows, cols, whole->row_bytes * (size_t)cols / COLS};
    float *x = random_floats(seed, (size_t)n * COLS), *bias = n % 2 ? random_floats(seed, ROWS) : NULL;
    operations *ours = open_operations(cpu), *theirs = open_operations(other);
    memset(here, 0, sizeof here);
    memset(there, 0, sizeof there);
    multiply(ours, &w, n, bias, x, here);
    multiply(theirs, &w, n, bias, x, there);
    /* in blocks, scales of q4_k are rounded to 16 bits */
    same(what, (size_t)n * ROWS, there, here, w.type == MKA_Q4_K && other->device->blocked ? 1e-2F : 1e-4F);
    close_operations(theirs);
    close_operations(ours);
    free(x);
    free(bias);
}

/* Random weights of a type: by a few rows of x and by many, which end within tiles. */
static void products_of(mka_engine *other, mka_type type) {
    mka_model *model;
    mka_error error;
    uint64_t seed = 3 + (uint64_t)type;
    if (mka_model_random(cpu, "tiny", type, NULL, 3, &model, &error)) fail_msg("%s: %s", mka_type_name(type), error.message);
    const mka_matrix *w = &model->blocks[0].attention.weights.q;
    assert_true(w->rows >= ROWS && w->cols == COLS);
    compare(other, w, sized(ROWS, 3), COLS, 1, &seed);
    compare(other, w, sized(ROWS, 2), COLS, 8, &seed);
    compare(other, w, sized(ROWS, 17), COLS, sized(MOST, 9), &seed);
    if (w->type == MKA_F32 || w->type == MKA_F16 || w->type == MKA_BF16) {
        compare(other, w, 5, 44, 3, &seed); /* rows that end within a run of 32 */
        compare(other, w, sized(ROWS, 3), 44, sized(MOST, 9), &seed);
    }
    mka_model_destroy(model);
}

static void weights_of_every_type(void **state) {
    (void)state;
    need_device();
    for (int type = 0; type < MKA_TYPE_LIMIT; type++)
        if (mka_type_get((mka_type)type)->weight) products_of(device, (mka_type)type);
}

static void weights_in_blocks(void **state) {
    (void)state;
    need_device();
    static const mka_type types[] = {MKA_Q8_0, MKA_Q4_0, MKA_Q4_1, MKA_Q4_K};
    mka_engine_options options = options_of("opencl");
    mka_engine *blocks;
    assert_int_equal(mka_engine_create(&options, &blocks, NULL), MKA_OK);
    blocks->device->lanes = device->device->lanes;
    blocks->device->blocked = 1;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) products_of(blocks, types[i]);
    mka_engine_destroy(blocks);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(weights_of_every_type), cmocka_unit_test(weights_in_blocks)};
    return cmocka_run_group_tests(tests, start_engines, stop_engines);
}
