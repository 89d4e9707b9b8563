/* recall_batch - the operation as a whole: how queries are cut into blocks, what a block works in, its beginning and end. */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "recall_batch_parts.h"

enum {
    LEAST_QUERIES = 16, /* of a job that is worth blocks */
    QUERIES_LEAST = 8,  /* of a block: fewer share too little; */
    QUERIES_STEP = 8,   /* a multiple of this */
    ITEMS = 16          /* what is left of a call is worth so many blocks of the size that is next: ever smaller ones, so that
                         * threads end together */
};

/* ---- layout ---- */

static void *take(unsigned char *base, size_t *used, size_t count, size_t size) {
    void *start = base ? base + *used : NULL;
    *used += (count * size + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
    return start;
}

/* base NULL: only measures. */
static size_t place_block(unsigned char *base, size_t rows, size_t group, const mka_recall_limits *limits, block *b) {
    size_t used = 0, d = (size_t)limits->key_dim, dv = (size_t)limits->value_dim;
    size_t segments = ((size_t)limits->context + (size_t)limits->segment - 1) / (size_t)limits->segment;
    take(base, &used, 1, sizeof *b);
    b->x = take(base, &used, rows * d, sizeof(float));
    b->acc = take(base, &used, rows * dv, sizeof(float));
    b->power = take(base, &used, group * d, sizeof(float));
    b->s = take(base, &used, QUERIES_MOST * LDS, sizeof(float));
    float **of_rows[] = {&b->m, &b->z, &b->unread, &b->total, &b->c, &b->ones};
    for (size_t i = 0; i < sizeof of_rows / sizeof *of_rows; i++) *of_rows[i] = take(base, &used, rows, sizeof(float));
    float **of_clusters[] = {&b->shares, &b->bias, &b->squares, &b->kept};
    for (size_t i = 0; i < sizeof of_clusters / sizeof *of_clusters; i++) *of_clusters[i] = take(base, &used, LDS, sizeof(float));
    b->wanted = take(base, &used, group * segments * WORDS, sizeof(uint64_t));
    b->from = take(base, &used, rows, sizeof(int));
    b->to = take(base, &used, rows, sizeof(int));
    b->keys = take(base, &used, GATHERED / MKA_TILE, mka_key_tile_bytes(MKA_BF16, limits->key_dim));
    b->values = take(base, &used, GATHERED / MKA_TILE, mka_value_tile_bytes(MKA_BF16, limits->value_dim));
    return used;
}

/* Queries of the next block, when so many are left. It depends on the lengths alone, never on the threads. */
static int block_queries(int left, int kv_heads, int group) {
    int queries = (int)((int64_t)left * kv_heads / ITEMS) / QUERIES_STEP * QUERIES_STEP, most = BLOCK_ROWS / group;
    if (queries < QUERIES_LEAST) queries = QUERIES_LEAST;
    if (queries > QUERIES_MOST) queries = QUERIES_MOST;
    if (queries > most) queries = most;
    return queries < left ? queries : left;
}

void mka_batch_layout(mka_batch_work *w, const mka_recall_limits *limits, int queries, int threads, mka_arena *arena) {
    block b;
    int least = BLOCK_ROWS / limits->head_rows < QUERIES_LEAST ? BLOCK_ROWS / limits->head_rows : QUERIES_LEAST;
    size_t rows = limits->head_rows * QUERIES_MOST < BLOCK_ROWS ? (size_t)limits->head_rows * QUERIES_MOST : BLOCK_ROWS;
    size_t blocks = (size_t)(queries / least + 1);
    w->limits = *limits;
    w->thread_bytes = place_block(NULL, rows, (size_t)limits->head_rows, limits, &b);
    w->threads = mka_arena_take(arena, (size_t)threads, w->thread_bytes);
    w->used = mka_arena_take(arena, blocks * (size_t)limits->kv_heads, sizeof *w->used);
    w->first = mka_arena_take(arena, blocks + 1, sizeof *w->first);
}

int mka_batch_fits(const mka_ops *ops, const mka_recall_job *job) {
    const mka_longterm_shape *s = &job->longterm->shape;
    const mka_recall *rule = job->rule;
    return job->n >= LEAST_QUERIES && !job->read && rule->contract == MKA_RECALL_ESTIMATED && rule->tokens == 0 &&
           rule->share == 0 && ops->kernels->rows_keys[s->key_type] && ops->kernels->rows_values[s->value_type];
}

/* ---- a block's beginning and end ---- */

/* Where the job has a row. */
static size_t row_of(const block *b, int row) {
    size_t query = (size_t)(b->first + row % b->n), head = (size_t)(b->head * b->group + row / b->n);
    return query * (size_t)b->batch->job->heads + head;
}

static float constant_of(const block *b, int row) {
    const mka_longterm *l = b->batch->job->longterm;
    size_t d = (size_t)l->shape.key_dim;
    return b->batch->ops->kernels->dot((int)d, b->x + (size_t)row * d, l->centre + (size_t)b->head * d);
}

static void load_block(block *b) {
    const mka_recall_job *job = b->batch->job;
    size_t d = (size_t)job->longterm->shape.key_dim, dim = (size_t)job->longterm->shape.value_dim;
    memset(b->power, 0, (size_t)b->group * d * sizeof(float));
    for (int row = 0; row < b->rows; row++) {
        size_t at = row_of(b, row);
        const float *q = job->q + at * d;
        float *x = b->x + (size_t)row * d, *power = b->power + (size_t)(row / b->n) * d;
        for (size_t e = 0; e < d; e++) {
            x[e] = q[e] * job->scale;
            power[e] += x[e] * x[e] / (float)b->n;
        }
        mka_turn((int)d, x);
        b->m[row] = job->m[at] - constant_of(b, row);
        b->z[row] = b->total[row] = job->z[at];
        b->unread[row] = 0;
        b->ones[row] = 1;
        memcpy(b->acc + (size_t)row * dim, job->out + at * dim, dim * sizeof(float));
    }
}

static void store_block(const block *b) {
    const mka_recall_job *job = b->batch->job;
    size_t dim = (size_t)job->longterm->shape.value_dim;
    for (int row = 0; row < b->rows; row++) {
        float *out = job->out + row_of(b, row) * dim, z = b->z[row], inverse = z > 0 ? 1 / z : z; /* NaN stays NaN */
        for (size_t e = 0; e < dim; e++) out[e] = b->acc[(size_t)row * dim + e] * inverse;
    }
}

/* ---- the whole ---- */

static mka_used used_by(const block *b) {
    const mka_longterm *l = b->batch->job->longterm;
    uint64_t segments = (uint64_t)b->batch->segments, tiles = (uint64_t)l->tiles, n = (uint64_t)b->n;
    mka_used u = {.queries = n,
                  .long_tokens = n * segments * (uint64_t)l->shape.segment,
                  .scored_tokens = n * b->scored,
                  .read_tokens = n * b->scored,
                  .mean_bytes = b->tiles * l->mean_tile,
                  .scan_bytes = segments * (l->segment - tiles * l->mean_tile),
                  .key_bytes = b->read * l->key_row,
                  .value_bytes = b->read * l->value_row};
    for (int i = 0; i < b->rows; i++) u.unread_mass += (double)(b->unread[i] / b->z[i]) / b->group;
    return u;
}

static void run_block(batch *t, int head, int index, unsigned char *scratch, mka_used *used) {
    block *b = (block *)(void *)scratch;
    int group = t->job->heads / t->job->longterm->shape.kv_heads, first = t->work->first[index];
    *b = (block){.batch = t, .head = head, .first = first, .group = group, .n = t->work->first[index + 1] - first};
    b->rows = b->n * group;
    place_block(scratch, (size_t)b->rows, (size_t)group, &t->work->limits, b);
    load_block(b);
    for (int i = 0; i < t->segments; i++) mka_batch_estimate(b, i);
    for (int h = 0; h < group; h++) mka_batch_read(b, h);
    store_block(b);
    *used = used_by(b);
}

static int place_of_item(const void *work, size_t item) {
    const batch *t = work;
    int heads = t->job->longterm->shape.kv_heads;
    return mka_places_of(t->ops->places, heads, (int)(item % (size_t)heads), item / (size_t)heads);
}

static void share(void *argument, int thread, int threads) {
    batch *t = argument;
    size_t heads = (size_t)t->job->longterm->shape.kv_heads, items = (size_t)t->blocks * heads, item;
    int here = mka_places_here(t->ops->places, thread);
    (void)threads;
    while (mka_deal_take(&t->deal, t->ops->places, here, items, place_of_item, t, &item))
        run_block(t, (int)(item % heads), (int)(item / heads), t->work->threads + (size_t)thread * t->work->thread_bytes,
                  &t->work->used[item]);
}

mka_status mka_batch_run(mka_batch_work *work, mka_ops *ops, const mka_recall_job *job, mka_error *error) {
    const mka_longterm *l = job->longterm;
    size_t heads = (size_t)l->shape.kv_heads;
    batch t = {.job = job, .work = work, .ops = ops, .segments = job->blocks / l->segment_blocks};
    t.change = MKA_RECALL_ERROR_ALONE / sqrtf((float)(t.segments * l->clusters));
    for (work->first[0] = 0; work->first[t.blocks] < job->n; t.blocks++)
        work->first[t.blocks + 1] =
            work->first[t.blocks] + block_queries(job->n - work->first[t.blocks], (int)heads, job->heads / (int)heads);
    mka_pool_run(ops->pool, share, &t);
    if (atomic_load(&t.failed)) return mka_fail(error, t.error.status, "%s", t.error.message);
    for (size_t i = 0; i < (size_t)t.blocks * heads; i++) {
        if (job->used) mka_used_add(job->used, &work->used[i]);
        if (job->heads_used) mka_used_add(&job->heads_used[i % heads].used, &work->used[i]);
    }
    return MKA_OK;
}
