/* test_attend_nv - attention of few queries over a whole cache on NVIDIA devices (attend_decode_nv.cl), run lane by lane on the
 * CPU (lanes.h): every type of cache, against plain loops over the numbers that its rows stand for.
 *
 * Skipped on a CPU without AVX2. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lanes.h"
#include "reference_model.h"

#define ROWS                                                                                                                     \
    const float *q, size_t q_at, const void *keys, size_t keys_at, size_t key_scales_at, const void *values, size_t values_at,   \
        size_t value_scales_at, int capacity, int key_from, int key_to, int first, int n_tokens, int window, float scale,        \
        int steps, int steps_more, float *partial, size_t partial_at, int first_split
#define GAP  unsigned gap_from, int gap_rows
#define DONE int parts_in_all, unsigned *counters, size_t counters_at, float *out, size_t out_at
typedef void fused_kernel(ROWS, DONE);
typedef void apart_kernel(ROWS, GAP);
typedef void turned_kernel(ROWS, GAP, DONE);
extern fused_kernel attend_0, attend_1, attend_2, attend_3, attend_4, attend_5;
extern apart_kernel attend_6, attend_7;
extern turned_kernel attend_8, attend_9, attend_10, attend_11, attend_12, attend_13;

enum { F16 = 1, Q4 = 2, Q8 = 8, BF16 = 30, KV_HEADS = 2, MOST_DIM = 256, GAP_ROWS = 3, NEAR = 90, NEAR_AT = 5 };

/* One build of the kernel each: meson.build has the same list. Positions from..to - 1 are read; the last of n is a query's own.
 * apart: states of splits. far: rows are turned, and the newest NEAR positions are read by near, from rows NEAR_AT.. of 16 bits.
 * With either, rows after half of the positions lie GAP_ROWS further on. */
static const struct {
    int type, dim, group, n, warps, splits, from, to, window;
    fused_kernel *fused;
    apart_kernel *apart;
    turned_kernel *far, *near;
} shapes[] = {
    {F16, 128, 7, 1, 8, 3, 0, 333, 0, attend_0, NULL, NULL, NULL},
    {BF16, 64, 3, 1, 8, 2, 5, 300, 0, attend_1, NULL, NULL, NULL},
    {Q8, 128, 7, 1, 12, 2, 0, 600, 100, attend_2, NULL, NULL, NULL},
    {Q4, 128, 7, 1, 12, 2, 0, 555, 0, attend_3, NULL, NULL, NULL},
    {F16, 80, 1, 3, 8, 2, 0, 200, 50, attend_4, NULL, NULL, NULL},
    {Q8, 80, 5, 2, 8, 1, 0, 17, 0, attend_5, NULL, NULL, NULL},
    {F16, 32, 16, 1, 8, 2, 0, 200, 0, NULL, attend_6, NULL, NULL},
    {Q4, 64, 3, 2, 8, 2, 0, 300, 0, NULL, attend_7, NULL, NULL},
    {Q4, 128, 7, 1, 12, 2, 0, 500, 0, NULL, NULL, attend_8, attend_9},
    {Q4, 192, 4, 3, 8, 1, 7, 300, 130, NULL, NULL, attend_10, attend_11},
    {Q4, 64, 2, 1, 12, 3, 0, 700, 0, NULL, NULL, attend_12, attend_13},
};

/* Rows of keys and values; their scales lie behind them. */
typedef struct cache {
    int type, capacity;
    size_t scales_at;
    unsigned char *rows[2];
} cache;

typedef struct job {
    size_t shape;
    uint64_t seed;
    cache cache, near;
    int edge;          /* the first position that is read from near */
    float *numbers[2]; /* what the rows stand for: [KV_HEADS][to][dim] */
    float *q, *partial, *out;
    unsigned counters[KV_HEADS];
} job;

static int heads_of(const job *j) {
    return KV_HEADS * shapes[j->shape].group;
}

static void *zeros(size_t bytes) {
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(p, 0, (bytes + 255) / 256 * 256);
    lanes_allow(p, bytes);
    return p;
}

static float scale_of(job *j, const cache *c, int value, size_t slot, size_t run, size_t runs) {
    float scale = 0.02F + 0.01F * reference_random(&j->seed);
    unsigned char *scales = c->rows[value] + c->scales_at;
    if (!value) {
        uint16_t bits = (uint16_t)(lanes_pair(scale, 0) & 0xffff);
        memcpy(scales + 2 * (slot * runs + run), &bits, 2);
        return lanes_half(bits);
    }
    if (run == 0) memcpy(scales + 4 * slot, &scale, 4); /* one a token */
    memcpy(&scale, scales + 4 * slot, 4);
    return scale;
}

/* A random row and what it stands for. */
static void make_row(job *j, const cache *c, int value, size_t slot, float *numbers) {
    int dim = shapes[j->shape].dim, padded = (dim + 31) / 32 * 32;
    unsigned char *rows = c->rows[value];
    float scale = 0;
    for (int i = 0; i < dim; i++) {
        float x = reference_random(&j->seed);
        if (c->type == F16 || c->type == BF16) {
            uint16_t bits = (uint16_t)((c->type == F16 ? lanes_pair(x, 0) : lanes_pair_bf16(x, 0)) & 0xffff);
            uint32_t wide = (uint32_t)bits << 16;
            memcpy(rows + 2 * (slot * (size_t)dim + (size_t)i), &bits, 2);
            if (c->type == F16)
                numbers[i] = lanes_half(bits);
            else
                memcpy(&numbers[i], &wide, 4);
            continue;
        }
        if (i % 32 == 0) scale = scale_of(j, c, value, slot, (size_t)i / 32, (size_t)padded / 32);
        int code = (int)(x * (c->type == Q8 ? 127 : 7.99F));
        unsigned char *two = rows + slot * (size_t)padded / 2 + (size_t)(i / 32 * 16 + i % 16);
        if (c->type == Q8)
            rows[slot * (size_t)padded + (size_t)i] = (unsigned char)(signed char)code;
        else
            *two = (unsigned char)(*two | (code + 8) << (i % 32 < 16 ? 0 : 4));
        numbers[i] = (float)code * scale;
    }
}

static cache make_cache(int type, int dim, int capacity) {
    size_t padded = (size_t)(dim + 31) / 32 * 32, slots = KV_HEADS * (size_t)capacity;
    size_t row = type == Q8 ? padded : type == Q4 ? padded / 2 : 2 * (size_t)dim;
    cache c = {.type = type, .capacity = capacity, .scales_at = slots * row};
    for (int value = 0; value < 2; value++) c.rows[value] = zeros(slots * (row + padded / 16 + 4));
    return c;
}

static int gap_of(const job *j, int token) {
    return !shapes[j->shape].fused && token >= shapes[j->shape].to / 2 ? GAP_ROWS : 0;
}

static job make_job(size_t shape) {
    job j = {.shape = shape, .seed = 5 + shape};
    int dim = shapes[shape].dim, to = shapes[shape].to, q = shapes[shape].n * heads_of(&j) * dim;
    j.edge = shapes[shape].far ? to - NEAR : to;
    j.cache = make_cache(shapes[shape].type, dim, to + GAP_ROWS);
    j.near = make_cache(dim == 64 ? BF16 : F16, dim, NEAR_AT + NEAR);
    for (int value = 0; value < 2; value++) {
        j.numbers[value] = calloc(KV_HEADS * (size_t)(to * dim), sizeof(float));
        for (int h = 0; h < KV_HEADS; h++)
            for (int t = 0; t < to; t++) {
                const cache *c = t < j.edge ? &j.cache : &j.near;
                int slot = h * c->capacity + t + (t < j.edge ? gap_of(&j, t) : NEAR_AT - j.edge);
                make_row(&j, c, value, (size_t)slot, j.numbers[value] + (h * to + t) * dim);
            }
    }
    j.q = zeros((size_t)q * sizeof(float));
    for (int i = 0; i < q; i++) j.q[i] = 4 * reference_random(&j.seed);
    j.partial = zeros(KV_HEADS * (size_t)(shapes[shape].splits + 1) * 16 * (size_t)(dim + 2) * sizeof(float));
    j.out = zeros((size_t)q * sizeof(float));
    return j;
}

#define TAKEN(c, begin, end, splits, number)                                                                                     \
    j->q, 0, (c).rows[0], 0, (c).scales_at, (c).rows[1], 0, (c).scales_at, (c).capacity, begin, end,                             \
        shapes[j->shape].to - shapes[j->shape].n, shapes[j->shape].n, shapes[j->shape].window,                                   \
        1 / sqrtf((float)shapes[j->shape].dim), ((end) - (begin) + 15) / 16 / (splits), ((end) - (begin) + 15) / 16 % (splits),  \
        j->partial, 0, number
#define GIVEN(parts) parts, j->counters, 0, j->out, 0

static void kernel_item(const void *user) {
    job *j = (job *)(uintptr_t)user;
    int from = shapes[j->shape].from, to = shapes[j->shape].to, splits = shapes[j->shape].splits;
    if (shapes[j->shape].far)
        shapes[j->shape].far(TAKEN(j->cache, from, j->edge, splits, 0), (unsigned)(to / 2), GAP_ROWS, GIVEN(splits + 1));
    else if (shapes[j->shape].fused)
        shapes[j->shape].fused(TAKEN(j->cache, from, to, splits, 0), GIVEN(splits));
    else
        shapes[j->shape].apart(TAKEN(j->cache, from, to, splits, 0), (unsigned)(to / 2), GAP_ROWS);
}

static void near_item(const void *user) {
    job *j = (job *)(uintptr_t)user;
    int splits = shapes[j->shape].splits;
    shapes[j->shape].near(TAKEN(j->near, j->edge, shapes[j->shape].to, 1, splits), 0, NEAR_AT - j->edge, GIVEN(splits + 1));
}

/* States of splits -> out. */
static void merge(const job *j) {
    int dim = shapes[j->shape].dim, rows = shapes[j->shape].n * heads_of(j);
    for (int r = 0; r < rows; r++) {
        double z = 0, acc[MOST_DIM] = {0};
        for (int s = 0; s < shapes[j->shape].splits; s++) {
            const float *state = j->partial + (size_t)(s * rows + r) * (size_t)(dim + 2);
            z += exp((double)state[0]) * (double)state[1];
            for (int i = 0; i < dim; i++) acc[i] += exp((double)state[0]) * (double)state[2 + i];
        }
        for (int i = 0; i < dim; i++) j->out[r * dim + i] = (float)(acc[i] / z);
    }
}

/* As mka_hadamard does. */
static void turn(int dim, float *x) {
    int run = dim & -dim;
    for (int step = 1; step < run; step *= 2)
        for (int i = 0; i < dim; i++) {
            if (i & step) continue;
            float first = x[i], second = x[i + step];
            x[i] = first + second, x[i + step] = first - second;
        }
    for (int i = 0; i < dim; i++) x[i] /= sqrtf((float)run);
}

/* Head h of query token n by plain loops. */
static void attend(const job *j, int n, int h, float *out) {
    int dim = shapes[j->shape].dim, to = shapes[j->shape].to, own = to - shapes[j->shape].n + n, from = shapes[j->shape].from;
    float q[MOST_DIM];
    double sum = 0, acc[MOST_DIM] = {0};
    memcpy(q, j->q + (n * heads_of(j) + h) * dim, (size_t)dim * sizeof *q);
    if (shapes[j->shape].far) turn(dim, q);
    if (shapes[j->shape].window && own - shapes[j->shape].window + 1 > from) from = own - shapes[j->shape].window + 1;
    for (int t = from; t <= own; t++) {
        size_t at = (size_t)(h / shapes[j->shape].group * to + t) * (size_t)dim;
        double score = 0;
        for (int i = 0; i < dim; i++) score += (double)q[i] * (double)j->numbers[0][at + (size_t)i];
        double e = exp(score / sqrt(dim));
        sum += e;
        for (int i = 0; i < dim; i++) acc[i] += e * (double)j->numbers[1][at + (size_t)i];
    }
    for (int i = 0; i < dim; i++) out[i] = (float)(acc[i] / sum);
    if (shapes[j->shape].far) turn(dim, out);
}

static void as_plain_loops(size_t shape) {
    job j = make_job(shape);
    int dim = shapes[shape].dim, heads = heads_of(&j), local = 32 * shapes[shape].warps;
    float want[MOST_DIM], most = 0;
    const char *wrong = lanes_run(kernel_item, &j, local, (size_t)shapes[shape].splits, KV_HEADS, 1);
    if (!wrong && shapes[shape].far) wrong = lanes_run(near_item, &j, 256, 1, KV_HEADS, 1);
    if (wrong) fail_msg("shape %zu: %s", shape, wrong);
    if (shapes[shape].apart) merge(&j);
    for (int i = 0; i < shapes[shape].n * heads * dim; i++) most = fmaxf(most, fabsf(j.out[i]));
    for (int n = 0; n < shapes[shape].n; n++)
        for (int h = 0; h < heads; h++) {
            const float *got = j.out + (n * heads + h) * dim;
            attend(&j, n, h, want);
            for (int i = 0; i < dim; i++)
                if (!(fabsf(got[i] - want[i]) <= 1e-2F * most))
                    fail_msg("shape %zu, token %d, head %d: number %d is %g instead of %g", shape, n, h, i, (double)got[i],
                             (double)want[i]);
        }
    for (int h = 0; h < KV_HEADS; h++) assert_int_equal(j.counters[h], 0);
    for (int value = 0; value < 2; value++) free(j.cache.rows[value]), free(j.near.rows[value]), free(j.numbers[value]);
    free(j.q), free(j.partial), free(j.out);
    lanes_allow_nothing();
}

static void caches(void **state) {
    (void)state;
    if (!lanes_can()) {
        print_message("skipped: the CPU has no AVX2\n");
        skip();
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) as_plain_loops(i);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(caches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
