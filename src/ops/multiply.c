/* multiply - products with weights, the larger part of all work: y = W x for a few rows of x, or Y = X W^T for many.
 *
 *   few rows, quantised W   x in 8 bits, integer dots            (one read of W, nothing unpacked)
 *   few rows otherwise      W's row as float32, float dots       (also when ops->exact asks for it)
 *   many rows, bf16 units   multiply_bf16.c
 *   many rows otherwise     tiles of W as float32, then OpenBLAS (each tile unpacked once for all rows)
 *
 * Threads share the rows of all products of a call in units: of a tile for OpenBLAS, whose sums may depend on what comes with a
 * row, otherwise of UNIT rows, which kernels treat alike wherever they begin. So no result depends on the number of threads, nor
 * on which of them came to a row first: they help each other at the end (base/pieces.h), since two threads that read memory are
 * never equally fast. On several NUMA nodes a matrix is cut by rows, each node's threads beginning with its own (base/places.h).
 */
#include <cblas.h>
#include <string.h>

#include "multiply.h"

#define TILE    64
#define UNIT    MKA_PLACED_ROWS
#define FEW     8 /* rows up to which W is used as it is stored; measured: unpacking for sgemm pays from about here */
#define MOST_Q8 4 /* the same where there are bf16 units: they pay from about 12 rows, but are more exact */

typedef struct call {
    mka_ops *ops;
    int n, count;
    const mka_product *products;
    mka_glu_fn *glu; /* NULL: products are independent; else two go together, and the first one's rows are shared out */
    int unit;
    size_t units;
} call;

static size_t align_up(size_t bytes) {
    return (bytes + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
}

size_t mka_multiply_scratch(const struct mka_ops_limits *limits) {
    size_t cols = align_up((size_t)limits->cols);
    size_t few = FEW * (align_up(cols) + align_up(cols / 32 * sizeof(float)) + align_up(cols / 16 * sizeof(int16_t))) +
                 FEW * TILE * sizeof(float);
    size_t many = TILE * cols * sizeof(float), bf16 = mka_multiply_bf16_scratch();
    size_t most = few > many ? few : many;
    return most > bf16 ? most : bf16;
}

/* Where a thread keeps up to FEW rows of x in 8 bits. Every thread makes its own: cheaper than waiting for one that does.
 * They share the scratch with float rows, which a call that has 8-bit products never needs. */
typedef struct rows_q8 {
    mka_q8_row row[FEW];
    const float *of; /* the x they were made from */
    int cols;
} rows_q8;

static void place_rows(rows_q8 *rows, unsigned char *scratch, int cols) {
    size_t width = align_up((size_t)cols), q = align_up(width);
    size_t scale = align_up(width / 32 * sizeof(float)), sum = align_up(width / 16 * sizeof(int16_t));
    for (int i = 0; i < FEW; i++, scratch += q + scale + sum)
        rows->row[i] = (mka_q8_row){(int8_t *)scratch, (float *)(scratch + q), (int16_t *)(scratch + q + scale)};
}

static void tile_q8(const call *c, const mka_product *p, int row, int rows, rows_q8 *x) {
    const mka_kernels *kernels = c->ops->kernels;
    if (x->of != p->x || x->cols != p->w->cols) {
        for (int i = 0; i < c->n; i++) kernels->quantize(p->w->cols, p->x + (size_t)i * p->ldx, &x->row[i]);
        x->of = p->x;
        x->cols = p->w->cols;
    }
    const unsigned char *w = (const unsigned char *)p->w->data + (size_t)row * p->w->row_bytes;
    for (int i = 0; i < c->n; i++)
        kernels->gemv_q8[p->w->type](rows, p->w->cols, w, p->w->row_bytes, &x->row[i], p->y + (size_t)i * p->ldy + row);
}

static void tile_f32(const call *c, const mka_product *p, int row, int rows, float *scratch) {
    const mka_kernels *kernels = c->ops->kernels;
    const unsigned char *w = (const unsigned char *)p->w->data + (size_t)row * p->w->row_bytes;
    mka_gemv_f32_fn *direct = kernels->gemv_f32[p->w->type];
    if (direct) {
        for (int i = 0; i < c->n; i++)
            direct(rows, p->w->cols, w, p->w->row_bytes, p->x + (size_t)i * p->ldx, p->y + (size_t)i * p->ldy + row);
        return;
    }
    for (int j = 0; j < rows; j++, w += p->w->row_bytes) {
        kernels->load[p->w->type](p->w->cols, w, scratch);
        for (int i = 0; i < c->n; i++)
            p->y[(size_t)i * p->ldy + row + j] = kernels->dot(p->w->cols, scratch, p->x + (size_t)i * p->ldx);
    }
}

void mka_multiply_start(mka_engine *engine) {
    openblas_set_num_threads(1);
    engine->blas_alone = openblas_get_parallel() == OPENBLAS_SEQUENTIAL;
    pthread_mutex_init(&engine->blas_turn, NULL);
    if (engine->blas_alone)
        mka_log(engine, MKA_LOG_WARN, "this OpenBLAS cannot be called from several threads; prompts will run on one");
}

static void tile_blas(const call *c, const mka_product *p, int row, int rows, float *scratch) {
    int cols = p->w->cols;
    const unsigned char *w = (const unsigned char *)p->w->data + (size_t)row * p->w->row_bytes;
    const float *tile = scratch;
    if (p->w->type == MKA_F32 && (uintptr_t)w % sizeof(float) == 0)
        tile = (const float *)(const void *)w;
    else
        for (int j = 0; j < rows; j++)
            c->ops->kernels->load[p->w->type](cols, w + (size_t)j * p->w->row_bytes, scratch + (size_t)j * cols);
    mka_engine *engine = c->ops->engine;
    if (engine->blas_alone) pthread_mutex_lock(&engine->blas_turn);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, c->n, rows, cols, 1.0F, p->x, p->ldx, tile, cols, 0.0F, p->y + row,
                p->ldy);
    if (engine->blas_alone) pthread_mutex_unlock(&engine->blas_turn);
}

static void add_bias(const call *c, const mka_product *p, int row, int rows) {
    for (int i = 0; i < c->n; i++) c->ops->kernels->add(rows, p->bias + row, p->y + (size_t)i * p->ldy + row);
}

static void multiply_tile(const call *c, const mka_product *p, int row, int rows, unsigned char *scratch, rows_q8 *x) {
    if (c->n > FEW)
        tile_blas(c, p, row, rows, (float *)(void *)scratch);
    else if (!c->ops->exact && c->ops->kernels->gemv_q8[p->w->type])
        tile_q8(c, p, row, rows, x);
    else
        tile_f32(c, p, row, rows, (float *)(void *)scratch);
    if (p->bias) add_bias(c, p, row, rows);
}

void mka_multiply_glu(int n, const mka_product *products, int row, int rows, mka_glu_fn *glu) {
    for (int i = 0; i < n; i++) {
        float *gate = products[0].y + (size_t)i * (size_t)products[0].ldy + row;
        glu(rows, gate, products[1].y + (size_t)i * (size_t)products[1].ldy + row, gate);
    }
}

/* Rows begin..end-1 of one product, or of two that go together. */
static void multiply_rows(const call *c, const mka_product *p, int begin, int end, unsigned char *scratch, rows_q8 *x) {
    for (int row = begin; row < end; row += TILE) {
        int rows = end - row < TILE ? end - row : TILE;
        multiply_tile(c, p, row, rows, scratch, x);
        if (!c->glu) continue;
        multiply_tile(c, p + 1, row, rows, scratch, x);
        mka_multiply_glu(c->n, p, row, rows, c->glu);
    }
}

static size_t units(const call *c, const mka_product *p) {
    return ((size_t)p->w->rows + (size_t)c->unit - 1) / (size_t)c->unit;
}

/* Units begin..end-1 of a call, of all products one after the other; with a plan place by place, so that a thread's share lies in
 * the rows that its own node holds. */
static void multiply_units(const call *c, size_t begin, size_t end, unsigned char *scratch, rows_q8 *x) {
    const mka_places *places = c->ops->places;
    size_t first = 0;
    for (int i = 0; i < c->count * mka_places_count(places) && first < end; i++) {
        const mka_product *p = &c->products[i % c->count];
        size_t all = units(c, p), base = mka_places_cut(places, all, i / c->count),
               last = first + mka_places_cut(places, all, i / c->count + 1) - base, from = begin > first ? begin : first,
               to = end < last ? end : last;
        if (from < to) {
            size_t row = (base + from - first) * (size_t)c->unit, stop = (base + to - first) * (size_t)c->unit,
                   rows = (size_t)p->w->rows;
            multiply_rows(c, p, (int)row, (int)(stop < rows ? stop : rows), scratch, x);
        }
        first = last;
    }
}

static void multiply_share(void *argument, int thread, int threads) {
    const call *c = argument;
    mka_pieces *pieces = c->ops->pieces;
    unsigned char *scratch = c->ops->thread_scratch + (size_t)thread * c->ops->thread_bytes;
    rows_q8 x = {.of = NULL};
    size_t begin, end;
    place_rows(&x, scratch, c->ops->limits.cols);
    if (threads == 1) { /* perhaps beside others, who wait */
        multiply_units(c, 0, c->units, scratch, &x);
        return;
    }
    int order = mka_places_order(c->ops->places, thread);
    mka_pieces_begin(pieces, c->units, order, threads);
    while (mka_pieces_take(pieces, order, threads, &begin, &end)) multiply_units(c, begin, end, scratch, &x);
}

static call make_call(mka_ops *ops, int n, int count, const mka_product *products, mka_glu_fn *glu) {
    call c = {.ops = ops, .n = n, .count = glu ? 1 : count, .products = products, .glu = glu, .unit = n > FEW ? TILE : UNIT};
    for (int i = 0; i < c.count; i++) c.units += units(&c, &products[i]);
    return c;
}

static void multiply_tiles(mka_ops *ops, int n, int count, const mka_product *products, mka_glu_fn *glu) {
    call c = make_call(ops, n, count, products, glu);
    mka_pool_run(ops->pool, multiply_share, &c);
}

static void count_weights(mka_ops *ops, int count, const mka_product *products) {
    for (int i = 0; i < count; i++) ops->weight_bytes += (uint64_t)products[i].w->rows * products[i].w->row_bytes;
}

void mka_cpu_alone(mka_ops *ops, int n, const mka_product *product) {
    call c = make_call(ops, n, 1, product, NULL);
    count_weights(ops, 1, product);
    multiply_share(&c, 0, 1);
}

/* How many of the products can go together: those on bf16 units when they share x, and the others. */
static int run_length(const mka_ops *ops, int n, int count, const mka_product *p, int *bf16) {
    *bf16 = n > MOST_Q8 && mka_multiply_has_bf16(ops, p->w);
    for (int i = 1; i < count; i++) {
        if ((n > MOST_Q8 && mka_multiply_has_bf16(ops, p[i].w)) != *bf16) return i;
        if (*bf16 && (p[i].x != p->x || p[i].ldx != p->ldx || p[i].w->cols != p->w->cols)) return i;
    }
    return count;
}

void mka_cpu_multiply(mka_ops *ops, int n, int count, const mka_product *products) {
    count_weights(ops, count, products);
    for (int bf16, run; count > 0; count -= run, products += run) {
        run = run_length(ops, n, count, products, &bf16);
        (bf16 ? mka_multiply_bf16 : multiply_tiles)(ops, n, run, products, NULL);
    }
}

static mka_glu_fn *glu_of(const mka_ops *ops, mka_glu glu) {
    return glu == MKA_NO_GLU ? NULL : glu == MKA_GEGLU ? ops->kernels->geglu : ops->kernels->swiglu;
}

static void gated(mka_ops *ops, int n, const mka_product *both, mka_glu_fn *glu) {
    int bf16, run = run_length(ops, n, 2, both, &bf16);
    if (run == 2) {
        (bf16 ? mka_multiply_bf16 : multiply_tiles)(ops, n, 2, both, glu);
        count_weights(ops, 2, both);
        return;
    }
    mka_cpu_multiply(ops, n, 2, both); /* weights of two kinds */
    mka_multiply_glu(n, both, 0, both->w->rows, glu);
}

/* ---- steps ---- */

static float *x_of(const mka_step *step) {
    return (float *)(uintptr_t)step->products->x; /* the step's own room where it begins with a norm */
}

static void step_many(mka_ops *ops, int n, const mka_step *step) {
    const mka_norm *norm = &step->norm;
    const mka_sum *sum = &step->sum;
    const mka_product *p = step->products;
    int cols = p->w->cols, rows = p->w->rows;
    if (step->before) step->before(step->user);
    if (norm->from) ops->norm(ops, n, cols, norm->eps, norm->from, cols, norm->w, x_of(step), cols);
    if (step->glu)
        gated(ops, n, p, glu_of(ops, step->glu));
    else
        ops->multiply(ops, n, step->count, p);
    if (!sum->to) return;
    if (sum->w) ops->norm(ops, n, rows, sum->eps, p->y, rows, sum->w, p->y, rows);
    ops->add(ops, (size_t)n * (size_t)rows, p->y, sum->to);
}

typedef struct one_row {
    mka_ops *ops;
    int count;
    const mka_step *steps;
    const mka_step *ended, *begins; /* between them the threads meet; NULL: neither */
} one_row;

/* What comes after one step's products and before the next one's, on one thread. */
static void between(void *user) {
    const one_row *t = user;
    const mka_kernels *kernels = t->ops->kernels;
    if (t->ended && t->ended->sum.to) {
        const mka_sum *sum = &t->ended->sum;
        const mka_product *p = t->ended->products;
        if (sum->w) kernels->rms_norm(p->w->rows, sum->eps, p->y, sum->w, p->y);
        kernels->add(p->w->rows, p->y, sum->to);
    }
    const mka_step *next = t->begins;
    if (next && next->before) next->before(next->user);
    if (next && next->norm.from)
        kernels->rms_norm(next->products->w->cols, next->norm.eps, next->norm.from, next->norm.w, x_of(next));
}

static void one_row_share(void *argument, int thread, int threads) {
    const one_row *t = argument;
    for (int i = 0; i < t->count; i++) {
        const mka_step *step = &t->steps[i];
        one_row meeting = {.ops = t->ops, .ended = i > 0 ? step - 1 : NULL, .begins = step};
        if (i > 0) mka_pool_barrier_with(t->ops->pool, between, &meeting);
        call c = make_call(t->ops, 1, step->count, step->products, glu_of(t->ops, step->glu));
        multiply_share(&c, thread, threads);
    }
}

void mka_cpu_steps(mka_ops *ops, int n, int count, const mka_step *steps) {
    if (n > 1) {
        for (int i = 0; i < count; i++) step_many(ops, n, &steps[i]);
        return;
    }
    one_row all = {.ops = ops, .count = count, .steps = steps};
    one_row first = {.ops = ops, .begins = steps}, last = {.ops = ops, .ended = steps + count - 1};
    for (int i = 0; i < count; i++) count_weights(ops, steps[i].count, steps[i].products);
    between(&first);
    mka_pool_run(ops->pool, one_row_share, &all);
    between(&last);
}
