/* test_recall_nv - the kernels of recall for NVIDIA's matrix units, run lane by lane on the CPU (lanes.h) over what a memory on a
 * plain device holds: the same attention, and the same tokens read, as the plain kernels give.
 *
 * Skipped without an OpenCL device (PoCL is one on every CPU), or on a CPU without AVX2. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>
#include <mka/device.h>

#include "lanes.h"
#include "memory/memory_layers.h"
#include "opencl/cache.h"
#include "opencl/longterm.h"
#include "reference_model.h"

/* What both kernels begin with. */
#define COMMON                                                                                                                   \
    const float *q, size_t q_at, float scale, const float *frame, size_t frame_at, const void *index, size_t index_at,           \
        const void *rows, size_t rows_at, int capacity, int segments, int run, int kv_heads, int pair_from, const void *keys,    \
        size_t keys_at, const void *values, size_t values_at, int near_capacity, int gap_from, int gap, int seen,                \
        const float *near, size_t near_at, int near_count, int near_rows, float change, float tile, float *work, size_t work_at, \
        unsigned *came, size_t came_at, unsigned long patience
typedef void read_kernel(COMMON, const unsigned *table, size_t table_at, unsigned oldest, float *out, size_t out_at,
                         mka_device_counts *counts, size_t counts_at);
typedef void missing_kernel(COMMON, unsigned *table, size_t table_at, unsigned *list, size_t list_at, unsigned now,
                            unsigned listed, unsigned limit, unsigned most);

/* One build of the kernels for each shape: meson.build has the same list. run: segments of a group, at most. */
extern read_kernel recall_read_0, recall_read_1, recall_read_2, recall_read_3, recall_read_4, recall_read_5;
extern missing_kernel recall_missing_4, recall_missing_5;
static const struct {
    int heads, kv_heads, dim, window, context, run;
    read_kernel *read;
    int ring;
    missing_kernel *missing;
} shapes[] = {{7, 1, 128, 1024, 9250, 4, recall_read_0, 0, NULL},
              {14, 2, 64, 64, 2000, 8, recall_read_1, 0, NULL},
              {32, 2, 128, 256, 2500, 4, recall_read_2, 0, NULL},
              {4, 1, 256, 320, 2500, 2, recall_read_3, 0, NULL},
              {7, 1, 128, 1024, 9250, 2, recall_read_4, 32768, recall_missing_4},
              {14, 2, 64, 64, 2000, 8, recall_read_5, 8192, recall_missing_5}};

enum { PIECE = 250, WORDS = 40, MOST_QUERIES = 2 };

/* ---- a memory on a plain device ---- */

typedef struct filled {
    mka_memory *memory;
    mka_memory_options options;
    uint64_t seed;
} filled;

static void append(filled *f, const float *words) {
    size_t width = (size_t)f->options.kv_heads * (size_t)f->options.head_dim;
    float *rows = malloc(2 * PIECE * width * sizeof *rows);
    mka_error error;
    for (size_t i = 0; i < 2 * (size_t)PIECE; i++) {
        size_t word = (size_t)((0.5F + 0.499F * reference_random(&f->seed)) * WORDS);
        for (size_t e = 0; e < width; e++) rows[i * width + e] = words[word * width + e] + 0.5F * reference_random(&f->seed);
    }
    if (mka_memory_append(f->memory, 0, PIECE, rows, rows + PIECE * width, &error)) fail_msg("%s", error.message);
    free(rows);
}

static filled fill(mka_engine *engine, size_t shape) {
    filled f = {.seed = 5 + shape};
    mka_error error;
    mka_memory_defaults(&f.options);
    f.options.heads = shapes[shape].heads, f.options.kv_heads = shapes[shape].kv_heads;
    f.options.head_dim = shapes[shape].dim, f.options.context = shapes[shape].context;
    f.options.queries = PIECE, f.options.plan.window = shapes[shape].window;
    if (mka_memory_create(engine, &f.options, &f.memory, &error)) fail_msg("%s", error.message);
    size_t width = (size_t)f.options.kv_heads * (size_t)f.options.head_dim;
    float *words = malloc(WORDS * width * sizeof *words);
    for (size_t i = 0; i < WORDS * width; i++) words[i] = 2 * reference_random(&f.seed);
    for (int length = 0; length + PIECE <= f.options.context; length += PIECE) append(&f, words);
    free(words);
    return f;
}

/* ---- the kernels over what it holds ---- */

typedef struct arguments {
    size_t shape;
    const float *q, *frame;
    float scale, change;
    unsigned char *index, *rows, *keys, *values;
    int capacity, segments, run, parts, kv_heads, pair_from, near_capacity, gap_from, gap, seen;
    float *work, *out;
    unsigned *came;
    mka_device_counts *counts;
    unsigned *table, *list, listed; /* of a ring */
    unsigned char *places;
} arguments;

#define GIVEN(a)                                                                                                                 \
    a->q, 0, a->scale, a->frame, 0, a->index, 0, a->places ? a->places : a->rows, 0, a->capacity, a->segments, a->run,           \
        a->kv_heads, a->pair_from, a->keys, 0, a->values, 0, a->near_capacity, a->gap_from, a->gap, a->seen, a->work, 0, 0, 1,   \
        a->change, a->change *MKA_RECALL_TILE, a->work, 0, a->came, 0, 0

static void read_item(const void *user) {
    const arguments *a = user;
    unsigned oldest = (unsigned)shapes[a->shape].ring / 2;
    shapes[a->shape].read(GIVEN(a), a->table, 0, oldest, a->out, 0, a->counts, 0);
}

static void missing_item(const void *user) {
    const arguments *a = user;
    unsigned ring = (unsigned)shapes[a->shape].ring;
    shapes[a->shape].missing(GIVEN(a), a->table, 0, a->list, 0, ring, a->listed, ring / 2, ring / 8);
}

/* Of what is given back: its beginning, and bytes before it. */
enum { HEAD = 256 };

static void *zeros(size_t bytes) {
    size_t whole = HEAD + (bytes + 255) / 256 * 256;
    unsigned char *p = lanes_shared(whole);
    if (!p) fail_msg("no memory of %zu bytes", whole);
    memcpy(p, &whole, sizeof whole);
    return p + HEAD;
}

static void give_back(void *p) {
    size_t whole;
    if (!p) return;
    unsigned char *start = (unsigned char *)p - HEAD;
    memcpy(&whole, start, sizeof whole);
    munmap(start, whole);
}

static void *copy_of(mka_device *d, cl_mem buffer) {
    size_t bytes = 0;
    clGetMemObjectInfo(buffer, CL_MEM_SIZE, sizeof bytes, &bytes, NULL);
    void *p = zeros(bytes);
    assert_int_equal(clEnqueueReadBuffer(d->queue, buffer, CL_TRUE, 0, bytes, p, 0, NULL, NULL), CL_SUCCESS);
    return p;
}

/* As recall_fast.c launches them, with segments of a group as given, and a group that has none. */
static arguments arguments_of(const filled *f, size_t shape, int n, int run, const float *q) {
    const mka_tiers *t = &f->memory->layers[0].tiers;
    const mka_device_longterm *l = t->there;
    const mka_device_cache *c = t->local.device;
    int clusters = t->longterm.clusters, skipped = t->longterm.blocks * MKA_BLOCK;
    int group = f->options.heads / f->options.kv_heads, first = mka_memory_length(f->memory, 0) - n;
    arguments a = {.shape = shape, .q = q, .run = run, .segments = t->longterm.blocks / t->longterm.segment_blocks};
    a.frame = copy_of(l->device, l->frame), a.index = copy_of(l->device, l->index), a.rows = copy_of(l->device, l->rows);
    a.keys = copy_of(l->device, c->keys.buffer), a.values = copy_of(l->device, c->values.buffer);
    a.scale = 1 / sqrtf((float)f->options.head_dim);
    a.change = MKA_RECALL_ERROR / sqrtf((float)(a.segments * clusters));
    a.capacity = l->shape.segments;
    a.parts = (a.segments + run - 1) / run + 1;
    a.kv_heads = f->options.kv_heads;
    a.near_capacity = c->capacity, a.gap_from = f->options.plan.sinks, a.gap = skipped - c->base, a.seen = first - skipped + 1;
    size_t rows = (size_t)mka_pad(group, 8), pairs = (size_t)(n * f->options.kv_heads), dim = (size_t)f->options.head_dim,
           listed = (size_t)(shapes[shape].run * l->shape.segment);
    size_t floats = pairs * (size_t)a.parts * (rows * 6 + (size_t)group * dim + 1 + listed);
    a.work = zeros(floats * sizeof(float));
    for (size_t i = 0; i < floats; i++) a.work[i] = NAN; /* nothing is read that was not written */
    a.came = zeros(pairs * sizeof *a.came);
    a.counts = zeros((size_t)f->options.kv_heads * sizeof *a.counts);
    a.out = zeros(pairs * (size_t)group * dim * sizeof *a.out);
    if (shapes[shape].ring) {
        size_t value_at, ring = (size_t)shapes[shape].ring;
        a.table = zeros((size_t)(f->options.kv_heads * a.capacity * clusters) * sizeof *a.table);
        a.list = zeros((2 + ring / 4) * sizeof *a.list);
        a.list[0] = (unsigned)ring;
        a.places = zeros(ring * mka_device_ring_place(&l->shape, &value_at));
    }
    return a;
}

static void release(arguments *a) {
    void *all[] = {(void *)(uintptr_t)a->frame,
                   a->index,
                   a->rows,
                   a->keys,
                   a->values,
                   a->work,
                   a->out,
                   a->came,
                   a->counts,
                   a->table,
                   a->list,
                   a->places};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) give_back(all[i]);
    lanes_allow_nothing();
}

/* What missing asked for, from the segments that lie there as a whole. */
static void fetch(const filled *f, const arguments *a) {
    const mka_longterm *l = &f->memory->layers[0].tiers.longterm;
    const mka_device_longterm *there = f->memory->layers[0].tiers.there;
    const mka_device_segment *g = &there->segment;
    size_t value_at, dim = (size_t)f->options.head_dim, place = mka_device_ring_place(&there->shape, &value_at);
    for (unsigned i = 0; i < a->list[1]; i++) {
        unsigned number = a->list[2 + 2 * i], at = a->list[3 + 2 * i], clusters = (unsigned)l->clusters,
                 capacity = (unsigned)a->capacity, head = number / clusters / capacity, segment = number / clusters % capacity;
        const mka_directory *d = mka_longterm_directory(l, mka_longterm_index(l, (int)head, (int)segment));
        const unsigned char *rows = a->rows + (size_t)(number / clusters) * g->rows;
        for (size_t r = d->start[number % clusters]; r < d->start[number % clusters + 1]; r++, at++) {
            unsigned char *to = a->places + at % (unsigned)shapes[a->shape].ring * place; /* the ring has been round once */
            memcpy(to, rows + g->keys + r * dim, dim);
            memcpy(to + dim, rows + g->key_scales + r * dim / 16, dim / 16);
            memcpy(to + value_at, rows + g->values + r * dim, dim);
            memcpy(to + value_at + dim, rows + g->value_scales + r * dim / 16, dim / 16);
        }
    }
}

static int items(const arguments *a) {
    int heads = shapes[a->shape].heads / shapes[a->shape].kv_heads;
    return mka_pad(heads, 8) / 8 * shapes[a->shape].dim <= 128 ? 512 : 256;
}

/* The clusters that the query wants get places, and none a second time. */
static const char *run_missing(const filled *f, arguments *a, size_t pairs) {
    const char *wrong = lanes_run_together(missing_item, a, items(a), (size_t)a->parts, pairs, 1);
    if (wrong) return wrong;
    assert_true(a->list[1] > 0);
    fetch(f, a);
    unsigned listed = a->list[1];
    a->listed = listed;
    wrong = lanes_run_together(missing_item, a, items(a), (size_t)a->parts, pairs, 1);
    assert_int_equal(a->list[1], listed);
    return wrong;
}

/* In two launches where there is no ring and there is more than a pair. */
static void run_kernels(const filled *f, arguments *a, int n) {
    size_t all = (size_t)(f->options.kv_heads * n), first = a->table ? all : (all + 1) / 2;
    const char *wrong = NULL;
    if (a->table) wrong = run_missing(f, a, all);
    if (!wrong) wrong = lanes_run_together(read_item, a, items(a), (size_t)a->parts, first, 1);
    a->pair_from = (int)first;
    if (!wrong && all > first) wrong = lanes_run_together(read_item, a, items(a), (size_t)a->parts, all - first, 1);
    if (wrong) fail_msg("shape %zu: %s", a->shape, wrong);
    for (size_t i = 0; i < all; i++) assert_int_equal(a->came[i], 0);
}

static void compare(filled *f, size_t shape, int n, int run) {
    size_t count = (size_t)n * (size_t)f->options.heads * (size_t)f->options.head_dim;
    float *q = malloc(count * sizeof *q), *want = malloc(count * sizeof *want);
    double apart = 0, size = 0;
    mka_device_counts sum = {.keys = 0};
    mka_used used = {.queries = 0};
    mka_error error;
    for (size_t i = 0; i < count; i++) q[i] = 4 * reference_random(&f->seed);
    if (mka_memory_attend(f->memory, 0, n, q, want, &used, &error)) fail_msg("%s", error.message);
    arguments a = arguments_of(f, shape, n, run, q);
    assert_true(a.segments > 1);
    run_kernels(f, &a, n);
    for (size_t i = 0; i < count; i++) {
        apart += (double)(a.out[i] - want[i]) * (double)(a.out[i] - want[i]);
        size += (double)want[i] * (double)want[i];
    }
    /* the plain kernels leave out values that weigh little, which are read here */
    if (!(sqrt(apart / size) < 4e-3)) fail_msg("shape %zu: off by %g of its size", shape, sqrt(apart / size));
    for (int h = 0; h < f->options.kv_heads; h++) sum.keys += a.counts[h].keys, sum.values += a.counts[h].values;
    if (a.list && n == 1) assert_int_equal(a.list[0] - (unsigned)shapes[shape].ring, sum.keys);
    double keys = (double)used.scored_tokens, values = (double)used.read_tokens;
    assert_true(fabs((double)sum.keys - keys) <= 2 + 0.02 * keys && sum.values == sum.keys && keys >= values);
    release(&a);
    free(q);
    free(want);
}

static void as_plain_kernels(void **state) {
    (void)state;
    mka_engine_options options;
    mka_engine *engine;
    mka_engine_defaults(&options);
    options.device = "opencl";
    if (!lanes_can() || mka_engine_create(&options, &engine, NULL)) {
        print_message("skipped: no OpenCL platform has a device here, or the CPU has no AVX2\n");
        skip();
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        filled f = fill(engine, i);
        compare(&f, i, 1, 1);
        compare(&f, i, MOST_QUERIES, shapes[i].dim == 64 ? 3 : 2);
        mka_memory_destroy(f.memory);
    }
    mka_engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_plain_kernels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
