/* ops_cpu - the CPU's coarse operations: the small ones, and the table. Products and attention have files of their own.
 *
 * One row of anything here is too little to wake threads for; that case runs on the caller alone.
 */
#include "multiply.h"

#include <string.h>

#define SERIAL 16384 /* elements below which a fork and join costs more than the work */

typedef struct rows_task {
    mka_ops *ops;
    size_t total;
    int width, ldx, ldy, heads, neighbours;
    float eps;
    const float *x, *w, *cosine, *sine;
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

void mka_ops_cpu(mka_ops *ops, mka_engine *engine) {
    *ops = (mka_ops){
        .engine = engine,
        .kernels = engine->kernels,
        .pool = engine->pool,
        .multiply = mka_cpu_multiply,
        .chain = mka_cpu_chain,
        .alone = mka_cpu_alone,
        .gated = mka_cpu_gated,
        .norm = cpu_norm,
        .rope = cpu_rope,
        .add = cpu_add,
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

void mka_ops_row(const mka_ops *ops, const mka_matrix *w, int row, float *out) {
    ops->kernels->load[w->type](w->cols, (const unsigned char *)w->data + (size_t)row * w->row_bytes, out);
}
