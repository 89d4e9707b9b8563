/* ops_cpu - the CPU's coarse operations: the small ones, and the table. Products and attention have files of their own.
 *
 * A few rows of anything here are too little to wake threads for, and run on the caller alone; some promise that of one row.
 */
#include "multiply.h"

#include <string.h>

#include "base/status.h"

#define SERIAL 16384 /* elements below which a fork and join costs more than the work */

typedef struct rows_task {
    mka_ops *ops;
    size_t total;
    int width, ldx, ldy, heads, neighbours, levels;
    float eps;
    const float *x, *w, *cosine, *sine;
    const float *const *rows;
    float *y;
} rows_task;

static void run(mka_ops *ops, size_t elements, mka_task_fn *task, void *argument) {
    if (elements < SERIAL)
        task(argument, 0, 1);
    else
        mka_pool_run(ops->pool, task, argument);
}

static void norm_share(void *argument, int thread, int threads) {
    const rows_task *t = argument;
    size_t begin, end;
    mka_share(t->total, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++)
        t->ops->kernels->rms_norm(t->width, t->eps, t->x + i * (size_t)t->ldx, t->w, t->y + i * (size_t)t->ldy);
}

static void cpu_norm(mka_ops *ops, int rows, int width, float eps, const float *x, int ldx, const float *w, float *y, int ldy) {
    rows_task t = {.ops = ops, .total = (size_t)rows, .width = width, .eps = eps, .x = x, .ldx = ldx, .w = w, .y = y, .ldy = ldy};
    run(ops, (size_t)rows * (size_t)width, norm_share, &t);
}

static void rope_share(void *argument, int thread, int threads) {
    const rows_task *t = argument;
    mka_rope_fn *rotate = t->neighbours ? t->ops->kernels->rope_pairs : t->ops->kernels->rope_half;
    size_t begin, end;
    mka_share(t->total, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++)
        for (int h = 0; h < t->heads; h++)
            rotate(t->width, t->y + i * (size_t)t->ldy + (size_t)h * t->ldx, t->cosine + i * t->width, t->sine + i * t->width);
}

static void cpu_rope(mka_ops *ops, int n, int heads, int pairs, int neighbours, float *x, int ldx, int head_stride,
                     const float *cosine, const float *sine) {
    if (pairs == 0) return;
    rows_task t = {.ops = ops,
                   .total = (size_t)n,
                   .width = pairs,
                   .heads = heads,
                   .neighbours = neighbours,
                   .y = x,
                   .ldy = ldx,
                   .ldx = head_stride,
                   .cosine = cosine,
                   .sine = sine};
    run(ops, (size_t)n * heads * pairs * 2, rope_share, &t);
}

static void add_share(void *argument, int thread, int threads) {
    const rows_task *t = argument;
    size_t begin, end;
    mka_share(t->total, MKA_ALIGN, thread, threads, &begin, &end);
    t->ops->kernels->add((int)(end - begin), t->x + begin, t->y + begin);
}

static void cpu_add(mka_ops *ops, size_t count, const float *y, float *x) {
    rows_task t = {.ops = ops, .total = count, .x = y, .y = x};
    run(ops, count, add_share, &t);
}

/* ---- those that keep one row on the caller ---- */

static void run_rows(mka_ops *ops, size_t rows, int width, mka_task_fn *task, void *argument) {
    run(ops, rows == 1 ? 1 : rows * (size_t)width, task, argument);
}

static void copy_share(void *argument, int thread, int threads) {
    const rows_task *t = argument;
    size_t begin, end, bytes = (size_t)t->width * sizeof(float);
    mka_share(t->total, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        if (t->x)
            memcpy(t->y + i * (size_t)t->ldy, t->x + i * (size_t)t->ldx, bytes);
        else
            memset(t->y + i * (size_t)t->ldy, 0, bytes);
    }
}

static void cpu_copy(mka_ops *ops, int rows, int width, const float *x, int ldx, float *y, int ldy) {
    rows_task t = {.total = (size_t)rows, .width = width, .x = x, .ldx = ldx, .y = y, .ldy = ldy};
    run_rows(ops, (size_t)rows, width, copy_share, &t);
}

static void cpu_act(mka_ops *ops, int rows, int width, int gelu, float *x) {
    for (int i = 0; i < rows; i++) (gelu ? ops->kernels->gelu : ops->kernels->silu)(width, x + (size_t)i * (size_t)width);
}

static void cpu_softmax(mka_ops *ops, int rows, int width, float *x) {
    for (int i = 0; i < rows; i++) ops->kernels->softmax(width, x + (size_t)i * (size_t)width);
}

static void cpu_summarise(mka_ops *ops, int n, int width, float beta, const float *x, float *state, float *rows) {
    for (size_t i = 0; i < (size_t)n; i++) {
        ops->kernels->ema(width, beta, x + i * (size_t)width, state);
        memcpy(rows + i * (size_t)width, state, (size_t)width * sizeof *rows);
    }
}

static void fuse_share(void *argument, int thread, int threads) {
    const rows_task *t = argument;
    size_t begin, end, width = (size_t)t->width;
    mka_share(t->total, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *levels[MKA_MOST_LEVELS];
        for (int l = 0; l < t->levels; l++) levels[l] = t->rows[l] + i * width;
        t->ops->kernels->fuse(t->levels, t->width, t->w + i * (size_t)t->levels, levels, t->y + i * width);
    }
}

static void cpu_fuse(mka_ops *ops, int n, int levels, int width, const float *lambda, const float *const *rows, float *y) {
    rows_task t = {.ops = ops, .total = (size_t)n, .levels = levels, .width = width, .w = lambda, .rows = rows, .y = y};
    run_rows(ops, (size_t)n, width, fuse_share, &t);
}

static void cpu_mix(mka_ops *ops, int n, int width, const float *lambda, int ldl, const float *x, int more, float *y) {
    for (size_t i = 0; i < (size_t)n; i++) {
        float *row = y + i * (size_t)width;
        if (!more) memset(row, 0, (size_t)width * sizeof *row);
        float weight = lambda[i * (size_t)ldl];
        if (weight != 0) ops->kernels->axpy(width, weight, x + i * (size_t)width, row);
    }
}

/* ---- what only a device needs ---- */

static void cpu_nothing(mka_ops *ops, const void *operand, size_t bytes) {
    (void)ops, (void)operand, (void)bytes;
}

static mka_status cpu_settle(mka_ops *ops, mka_error *error) {
    (void)ops;
    return mka_succeed(error);
}

void mka_ops_cpu(mka_ops *ops, mka_engine *engine) {
    *ops = (mka_ops){
        .engine = engine,
        .kernels = engine->kernels,
        .pool = engine->pool,
        .host = ops,
        .put = cpu_nothing,
        .get = cpu_nothing,
        .settle = cpu_settle,
        .multiply = mka_cpu_multiply,
        .steps = mka_cpu_steps,
        .alone = mka_cpu_alone,
        .norm = cpu_norm,
        .rope = cpu_rope,
        .add = cpu_add,
        .copy = cpu_copy,
        .act = cpu_act,
        .softmax = cpu_softmax,
        .summarise = cpu_summarise,
        .fuse = cpu_fuse,
        .mix = cpu_mix,
        .attend_start = mka_cpu_attend_start,
        .attend = mka_cpu_attend,
        .attend_finish = mka_cpu_attend_finish,
    };
}

void mka_ops_layout(mka_ops *ops, const struct mka_ops_limits *limits, mka_arena *arena) {
    size_t multiply = mka_multiply_scratch(limits), attend = mka_attend_scratch(limits);
    ops->limits = *limits;
    ops->thread_bytes = ((multiply > attend ? multiply : attend) + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
    ops->thread_scratch = mka_arena_take(arena, (size_t)mka_pool_threads(ops->pool), ops->thread_bytes);
    ops->pieces = mka_arena_take(arena, (size_t)mka_pool_threads(ops->pool), sizeof *ops->pieces);
    ops->shared_scratch = ops->kernels->gemm_bf16 ? mka_arena_take(arena, mka_multiply_bf16_shared(limits), 1) : NULL;
    ops->partial = mka_arena_take(arena, mka_attend_partials(limits), sizeof(float));
}

mka_status mka_pair_open(mka_pair *pair, mka_residents *residents, const void *base, size_t bytes, mka_error *error) {
    pair->device = (mka_ops){.engine = NULL};
    if (!pair->host.engine->device) return MKA_OK;
    mka_status status = mka_ops_device(&pair->device, &pair->host, residents, error);
    return status ? status : mka_ops_mirror(&pair->device, base, bytes, error);
}

void mka_pair_close(mka_pair *pair) {
    mka_ops_device_end(&pair->device);
}

void mka_ops_row(const mka_ops *ops, const mka_matrix *w, int row, float *out) {
    ops->kernels->load[w->type](w->cols, (const unsigned char *)w->data + (size_t)row * w->row_bytes, out);
}
