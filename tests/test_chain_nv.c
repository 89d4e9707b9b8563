/* test_chain_nv - a layer of a decoded token as links of one launch for NVIDIA devices (chain_nv.cl), run lane by lane on the CPU
 * (lanes.h) by one group: what plain loops over the same weights and cache give.
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
#include <mka/mka.h>

#include "lanes.h"
#include "opencl/cache.h"
#include "ops/engine.h"
#include "reference_model.h"

#define FOUR(b)    (b)[0], (b)[1], (b)[2], (b)[3]
#define SIXTEEN(b) FOUR(b), FOUR((b) + 4), FOUR((b) + 8), FOUR((b) + 12)
#define T4         void *, void *, void *, void *
#define T16        T4, T4, T4, T4
typedef void chain_kernel(void *tape, int count, int trying, uint64_t patience, T16, T16, T16, T16, T16, T16);
extern chain_kernel chain_0, chain_1, chain_2, chain_3;

enum { HEAD = 256, WIDTH = 192, KV_HEADS = 2, CAPACITY = 64, POSITION = 37, FFN = 1344, LINKS = 5, MOST_FLOATS = 1 << 14 };

/* One build of the kernel each: meson.build has the same list. */
static const struct {
    mka_type weights, keys;
    int dim, group, neighbours, norms, splits;
    chain_kernel *kernel;
} shapes[] = {{MKA_F16, MKA_F16, 32, 3, 0, 1, 1, chain_0},
              {MKA_Q8_0, MKA_Q8_0, 96, 1, 1, 0, 2, chain_1},
              {MKA_Q4_0, MKA_F16, 48, 2, 0, 0, 2, chain_2},
              {MKA_Q4_1, MKA_Q8_0, 16, 6, 1, 1, 1, chain_3}};

/* ---- what the layer is made of ---- */

enum { X, NORM, Q, K, V, COSINE, SINE, OUT, H, NORM2, BIAS, Q_NORM, K_NORM, ARRAYS };

typedef struct layer {
    size_t shape;
    uint64_t seed;
    mka_matrix q, k, v, o, gate, up, down;
    unsigned char *blocks[7]; /* the same as the device has them */
    float *data;              /* all arrays, one after the other */
    float *at[ARRAYS];
    unsigned char *keys, *values; /* rows, then scales */
    size_t scales_at;
    float *parts;
    unsigned char *tape;
    void *buffers[MKA_CL_CHAIN_BUFFERS];
} layer;

static void *zeros(size_t bytes) {
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(p, 0, (bytes + 255) / 256 * 256);
    lanes_allow(p, bytes);
    return p;
}

static uint16_t half_of(float x) {
    float two[2] = {x, 0};
    uint16_t bits;
    memcpy(&bits, &(uint32_t){lanes_pair(two[0], two[1])}, sizeof bits);
    return bits;
}

/* Blocks of random codes, or random halves. */
static mka_matrix random_matrix(uint64_t *seed, mka_type type, int rows, int cols) {
    size_t each = type == MKA_F16 ? 2 : type == MKA_Q8_0 ? 34 : type == MKA_Q4_0 ? 18 : 20, run = type == MKA_F16 ? 1 : 32;
    mka_matrix w = {NULL, type, rows, cols, (size_t)cols / run * each};
    unsigned char *data = malloc((size_t)rows * w.row_bytes);
    for (size_t i = 0; i < (size_t)rows * w.row_bytes; i += each) {
        float size = type == MKA_F16 ? 0.1F : type == MKA_Q8_0 ? 0.001F : 0.01F;
        uint16_t scale = half_of(size * reference_random(seed)), least = half_of(-0.08F);
        for (size_t k = 0; k < each; k++) data[i + k] = (unsigned char)(127.5F + 127.5F * reference_random(seed));
        memcpy(data + i, &scale, sizeof scale);
        if (type == MKA_Q4_1) memcpy(data + i + 2, &least, sizeof least);
    }
    w.data = data;
    return w;
}

static unsigned char *as_there(const mka_matrix *w) {
    if (!mka_cl_blocked_type(w->type)) {
        unsigned char *p = zeros((size_t)w->rows * w->row_bytes);
        return memcpy(p, w->data, (size_t)w->rows * w->row_bytes);
    }
    unsigned char *p = zeros(mka_cl_bands((size_t)w->rows) * mka_cl_band_bytes(w->type, w->cols));
    mka_cl_repack(w, 0, (size_t)w->rows, p);
    return p;
}

static int heads_of(const layer *a) {
    return KV_HEADS * shapes[a->shape].group;
}

static void make_cache(layer *a) {
    int dim = shapes[a->shape].dim, eight = shapes[a->shape].keys == MKA_Q8_0, runs = (dim + 31) / 32;
    size_t stride = (size_t)mka_pad(dim, eight ? 32 : 16) * (eight ? 1 : 2), slots = KV_HEADS * CAPACITY;
    a->scales_at = slots * stride;
    a->keys = zeros(a->scales_at + slots * (size_t)runs * 2);
    a->values = zeros(a->scales_at + slots * 4);
    for (size_t i = 0; i < slots * stride / (eight ? 1 : 2); i++)
        for (int value = 0; value < 2; value++) {
            float x = reference_random(&a->seed);
            uint16_t bits = half_of(x);
            unsigned char *to = value ? a->values : a->keys;
            if (eight && (int)(i % stride) < dim)
                to[i] = (unsigned char)(signed char)(100 * x);
            else if (!eight)
                memcpy(to + 2 * i, &bits, 2);
        }
    for (size_t i = 0; eight && i < slots; i++) {
        ((float *)(void *)(a->values + a->scales_at))[i] = 0.01F;
        for (size_t r = 0; r < (size_t)runs; r++)
            ((uint16_t *)(void *)(a->keys + a->scales_at))[i * (size_t)runs + r] = half_of(0.01F);
    }
}

static layer make_layer(size_t shape) {
    layer a = {.shape = shape, .seed = 11 + shape};
    mka_type t = shapes[shape].weights;
    int q = heads_of(&a) * shapes[shape].dim, kv = KV_HEADS * shapes[shape].dim;
    a.q = random_matrix(&a.seed, t, q, WIDTH), a.k = random_matrix(&a.seed, t, kv, WIDTH);
    a.v = random_matrix(&a.seed, t, kv, WIDTH), a.o = random_matrix(&a.seed, t, WIDTH, q);
    a.gate = random_matrix(&a.seed, t, FFN, WIDTH), a.up = random_matrix(&a.seed, t, FFN, WIDTH);
    a.down = random_matrix(&a.seed, t, WIDTH, FFN);
    const mka_matrix *all[] = {&a.q, &a.k, &a.v, &a.o, &a.gate, &a.up, &a.down};
    for (int i = 0; i < 7; i++) a.blocks[i] = as_there(all[i]);
    a.data = zeros(MOST_FLOATS * sizeof(float));
    const int sizes[ARRAYS] = {WIDTH, WIDTH, q, kv, kv, 64, 64, q, FFN, WIDTH, q, 96, 96};
    size_t used = 0;
    for (int i = 0; i < ARRAYS; i++) {
        a.at[i] = a.data + used;
        used += (size_t)mka_pad(sizes[i], 64);
        for (int k = 0; k < sizes[i]; k++) a.at[i][k] = reference_random(&a.seed);
    }
    assert_true(used <= MOST_FLOATS);
    make_cache(&a);
    a.parts = zeros(((size_t)KV_HEADS * 8 * 8 * 100 + 64) * sizeof(float));
    a.tape = zeros(HEAD + (LINKS + 1) * sizeof(mka_cl_link));
    return a;
}

/* ---- the kernel ---- */

static uint64_t put(layer *a, void *buffer, const void *from) {
    uint64_t i = 0;
    while (a->buffers[i] && a->buffers[i] != buffer) i++;
    a->buffers[i] = buffer;
    return i << 48 | (uint64_t)((const unsigned char *)from - (unsigned char *)buffer);
}

static uint64_t array(layer *a, int which) {
    return put(a, a->data, a->at[which]);
}

static mka_cl_link *link_of(layer *a, int number) {
    mka_cl_link *l = (mka_cl_link *)(void *)(a->tape + HEAD) + number;
    for (int i = 0; i < 16; i++) l->at[i] = MKA_CL_NOWHERE;
    l->f[0] = 1e-5F;
    return l;
}

static void product_link(layer *a, int number, int flags, int cols, int x, int norm) {
    mka_cl_link *l = link_of(a, number);
    l->n[1] = flags;
    l->n[5] = cols;
    l->n[6] = 2 * cols;
    l->at[9] = array(a, x);
    if (norm) l->at[10] = array(a, norm);
}

static void weights(layer *a, int number, int which, int block, int rows, int y) {
    mka_cl_link *l = (mka_cl_link *)(void *)(a->tape + HEAD) + number;
    l->at[which] = put(a, a->blocks[block], a->blocks[block]);
    l->at[6 + which] = array(a, y);
    l->n[2 + which] = rows;
}

static void attend_link(layer *a, int number) {
    mka_cl_link *l = link_of(a, number);
    const int which[] = {Q, K, V, COSINE, SINE};
    for (int i = 0; i < 5; i++) l->at[i] = array(a, which[i]);
    l->at[7] = put(a, a->keys, a->keys), l->at[8] = put(a, a->keys, a->keys + a->scales_at);
    l->at[9] = put(a, a->values, a->values), l->at[10] = put(a, a->values, a->values + a->scales_at);
    l->at[11] = put(a, a->parts, a->parts + 64), l->at[12] = put(a, a->parts, a->parts);
    l->at[13] = array(a, OUT);
    if (shapes[a->shape].norms) l->at[5] = array(a, Q_NORM), l->at[6] = array(a, K_NORM);
    const int numbers[] = {1,
                           shapes[a->shape].neighbours ? MKA_CL_PAIRS : 0,
                           shapes[a->shape].dim / 2,
                           CAPACITY,
                           POSITION,
                           0,
                           POSITION + 1,
                           0,
                           shapes[a->shape].splits,
                           64 / shapes[a->shape].splits,
                           KV_HEADS};
    memcpy(l->n, numbers, sizeof numbers);
    l->f[1] = 1 / sqrtf((float)shapes[a->shape].dim);
}

static void kernel_item(const void *user) {
    const layer *a = user;
    void *const *b = a->buffers;
    shapes[a->shape].kernel(a->tape, LINKS, 0, 1, SIXTEEN(b), SIXTEEN(b + 16), SIXTEEN(b + 32), SIXTEEN(b + 48), SIXTEEN(b + 64),
                            SIXTEEN(b + 80));
}

/* ---- the same by plain loops ---- */

static void multiply(const mka_ops *ops, const mka_matrix *w, const float *x, const float *bias, float *y) {
    float *row = malloc((size_t)w->cols * sizeof *row);
    for (int j = 0; j < w->rows; j++) {
        double sum = bias ? (double)bias[j] : 0;
        mka_ops_row(ops, w, j, row);
        for (int i = 0; i < w->cols; i++) sum += (double)row[i] * (double)x[i];
        y[j] = (float)sum;
    }
    free(row);
}

static void normalise(const float *x, const float *w, float *y) {
    double sum = 0;
    for (int i = 0; i < WIDTH; i++) sum += (double)x[i] * (double)x[i];
    for (int i = 0; i < WIDTH; i++) y[i] = x[i] * w[i] / (float)sqrt(sum / WIDTH + 1e-5);
}

/* A head of a query, or of a key. */
static void finish(const layer *a, int key, float *x) {
    int dim = shapes[a->shape].dim;
    double sum = 0;
    for (int i = 0; i < dim; i++) sum += (double)x[i] * (double)x[i];
    for (int i = 0; shapes[a->shape].norms && i < dim; i++)
        x[i] *= a->at[key ? K_NORM : Q_NORM][i] / (float)sqrt(sum / dim + 1e-5);
    int pairs = shapes[a->shape].dim / 2, neighbours = shapes[a->shape].neighbours;
    for (int i = 0; i < pairs; i++) {
        int first = neighbours ? 2 * i : i, second = neighbours ? first + 1 : i + pairs;
        float p = x[first], r = x[second], c = a->at[COSINE][i], s = a->at[SINE][i];
        x[first] = p * c - r * s;
        x[second] = r * c + p * s;
    }
}

static float cached(const layer *a, int value, int head, int token, int i) {
    int dim = shapes[a->shape].dim, eight = shapes[a->shape].keys == MKA_Q8_0;
    size_t slot = (size_t)(head * CAPACITY + token), stride = (size_t)mka_pad(dim, eight ? 32 : 16),
           at = slot * stride + (size_t)i;
    const unsigned char *rows = value ? a->values : a->keys, *scales = rows + a->scales_at;
    uint16_t bits;
    if (!eight) {
        memcpy(&bits, rows + 2 * at, 2);
        return lanes_half(bits);
    }
    float q = (float)(signed char)rows[at], scale;
    memcpy(&scale, scales + 4 * slot, 4);
    if (value) return q * scale;
    memcpy(&bits, scales + 2 * (slot * (size_t)((dim + 31) / 32) + (size_t)i / 32), 2);
    return q * lanes_half(bits);
}

static void attend(const layer *a, const float *q, float *out) {
    int dim = shapes[a->shape].dim;
    for (int h = 0; h < heads_of(a); h++) {
        double e[POSITION + 1], sum = 0;
        for (int t = 0; t <= POSITION; t++) {
            double s = 0;
            for (int i = 0; i < dim; i++) s += (double)q[h * dim + i] * (double)cached(a, 0, h / shapes[a->shape].group, t, i);
            sum += e[t] = exp(s / sqrt(dim));
        }
        for (int i = 0; i < dim; i++) {
            double v = 0;
            for (int t = 0; t <= POSITION; t++) v += e[t] / sum * (double)cached(a, 1, h / shapes[a->shape].group, t, i);
            out[h * dim + i] = (float)v;
        }
    }
}

static void near(const char *what, size_t shape, int count, const float *got, const float *want) {
    float most = 0;
    for (int i = 0; i < count; i++) most = fmaxf(most, fabsf(want[i]));
    for (int i = 0; i < count; i++)
        if (!(fabsf(got[i] - want[i]) <= 5e-3F * most))
            fail_msg("shape %zu: %s %d is %g instead of %g", shape, what, i, (double)got[i], (double)want[i]);
}

/* A token's key and value, as they are to be in the cache. */
static void check_stored(const layer *a, const float *k, const float *v) {
    int dim = shapes[a->shape].dim;
    float stored[2 * KV_HEADS * 96], want[2 * KV_HEADS * 96];
    for (int h = 0; h < KV_HEADS; h++)
        for (int i = 0; i < dim; i++)
            for (int value = 0; value < 2; value++) {
                stored[(value * KV_HEADS + h) * dim + i] = cached(a, value, h, POSITION, i);
                want[(value * KV_HEADS + h) * dim + i] = (value ? v : k)[h * dim + i];
            }
    near("stored number", a->shape, 2 * KV_HEADS * dim, stored, want);
}

static void as_plain_loops(const mka_ops *ops, size_t shape) {
    layer a = make_layer(shape);
    int dim = shapes[shape].dim, q = heads_of(&a) * dim, kv = KV_HEADS * dim;
    float x[WIDTH], h[WIDTH], y[WIDTH], *rows = calloc((size_t)(3 * q + 2 * FFN), sizeof *rows);
    float *want_q = rows, *want_k = rows + q, *want_v = rows + 2 * q, *gate = rows + 3 * q, *up = gate + FFN;
    memcpy(x, a.at[X], sizeof x);
    product_link(&a, 0, MKA_CL_NORM, WIDTH, X, NORM);
    weights(&a, 0, 0, 0, q, Q), weights(&a, 0, 1, 1, kv, K), weights(&a, 0, 2, 2, kv, V);
    ((mka_cl_link *)(void *)(a.tape + HEAD))->at[3] = array(&a, BIAS);
    attend_link(&a, 1);
    product_link(&a, 2, MKA_CL_ADD, q, OUT, 0);
    weights(&a, 2, 0, 3, WIDTH, X);
    product_link(&a, 3, MKA_CL_NORM | MKA_CL_GLU | MKA_CL_Y16, WIDTH, X, NORM2);
    weights(&a, 3, 0, 4, FFN, H), weights(&a, 3, 1, 5, 0, H);
    product_link(&a, 4, MKA_CL_ADD | MKA_CL_X16, FFN, H, 0);
    weights(&a, 4, 0, 6, WIDTH, X);
    for (int i = 0; i < MKA_CL_CHAIN_BUFFERS; i++)
        if (!a.buffers[i]) a.buffers[i] = a.tape;
    const char *wrong = lanes_run(kernel_item, &a, LANES_MOST, 1, 1, 1);
    if (wrong) fail_msg("shape %zu: %s", shape, wrong);
    normalise(x, a.at[NORM], h);
    multiply(ops, &a.q, h, a.at[BIAS], want_q), multiply(ops, &a.k, h, NULL, want_k), multiply(ops, &a.v, h, NULL, want_v);
    near("query", shape, q, a.at[Q], want_q);
    for (int i = 0; i < heads_of(&a); i++) finish(&a, 0, want_q + i * dim);
    for (int i = 0; i < KV_HEADS; i++) finish(&a, 1, want_k + i * dim);
    check_stored(&a, want_k, want_v);
    attend(&a, want_q, want_k);
    near("output", shape, q, a.at[OUT], want_k);
    multiply(ops, &a.o, want_k, NULL, y);
    for (int i = 0; i < WIDTH; i++) x[i] += y[i];
    normalise(x, a.at[NORM2], h);
    multiply(ops, &a.gate, h, NULL, gate), multiply(ops, &a.up, h, NULL, up);
    for (int i = 0; i < FFN; i++) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
    multiply(ops, &a.down, gate, NULL, y);
    for (int i = 0; i < WIDTH; i++) x[i] += y[i];
    near("sum", shape, WIDTH, a.at[X], x);
    const mka_matrix *all[] = {&a.q, &a.k, &a.v, &a.o, &a.gate, &a.up, &a.down};
    for (int i = 0; i < 7; i++) free((void *)(uintptr_t)all[i]->data), free(a.blocks[i]);
    free(a.data), free(a.keys), free(a.values), free(a.parts), free(a.tape), free(rows);
    lanes_allow_nothing();
}

static void layers(void **state) {
    (void)state;
    mka_engine *engine;
    mka_ops ops;
    if (!lanes_can()) {
        print_message("skipped: the CPU has no AVX2\n");
        skip();
    }
    assert_int_equal(mka_engine_create(NULL, &engine, NULL), MKA_OK);
    mka_ops_cpu(&ops, engine);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) as_plain_loops(&ops, i);
    mka_engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(layers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
