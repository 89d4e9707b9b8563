/* attend - attention over a cache on the device: keys are split where there are fewer tiles of queries than the device can do at
 * once, and the splits merged; the newest tokens of a cache in four bits are one split more.
 *
 * Where a job skips positions, those behind them are counted as if they followed what is before them: all kernels see keys
 * without a gap, and those from skip_from on lie `shift` rows further on. */
#include "cache.h"

#include <stddef.h>

enum { MOST_TILE = 1 << (MKA_CL_ROWS_LOG - 1), LEAST_SPLIT = 256 };

/* Groups that keep the device busy. */
static size_t busy(const mka_device *d) {
    return (size_t)d->info.units * (d->info.gpu ? 8 : 2);
}

static size_t padded(size_t floats) {
    return (floats + 63) / 64 * 64;
}

mka_cl_scratch mka_cl_lay_out_scratch(const mka_device *device, const struct mka_ops_limits *limits) {
    size_t rows = (size_t)limits->rows * (size_t)limits->head_rows * (size_t)limits->kv_heads;
    size_t partial = (2 * busy(device) * MOST_TILE + 3 * rows) * ((size_t)limits->value_dim + 2);
    size_t fused = mka_cl_decode_partial(device, limits);
    mka_cl_scratch s = {.queries = padded(partial > fused ? partial : fused)};
    s.halves = s.queries + padded(rows * (size_t)limits->key_dim);
    s.half_count = device->nv ? (size_t)limits->rows * (size_t)limits->cols : 0;
    s.counters = s.halves + padded(s.half_count / 2 + 1);
    s.recall = s.counters + padded((size_t)limits->kv_heads * MKA_CL_RECALL_QUERIES + 1);
    s.floats = s.recall + padded(mka_cl_recall_floats(device, limits));
    return s;
}

typedef struct plan {
    mka_mirror *mirror;
    mka_attend_job counted; /* the job, its positions counted without what it skips */
    const mka_attend_job *job;
    mka_device_cache *cache;
    int gap, held;   /* positions that are skipped; tokens before this one, counted likewise, are not in the ring */
    int group, tile; /* rows of a tile, as its logarithm */
    size_t tiles;
    int begin, end;                                    /* keys that any query sees */
    int near_begin, far_end, splits, split_keys, near; /* near: splits of those that are read from the ring */
    int finished;                                      /* 1: one launch gives the attention */
} plan;

static int edge_of(const plan *p, int position) {
    int edge = position / MKA_TILE * MKA_TILE - MKA_NEAR;
    return edge > p->held ? edge : p->held;
}

static void plan_keys(plan *p) {
    const mka_attend_job *job = p->job;
    int last = job->first + job->n - 1, stop = job->key_first + job->key_count;
    p->end = last + 1 < stop ? last + 1 : stop;
    p->begin = job->window > 0 && job->first - job->window + 1 > job->key_first ? job->first - job->window + 1 : job->key_first;
    p->far_end = p->end;
    if (!p->cache->ring) return;
    p->near_begin = edge_of(p, job->first) > p->begin ? edge_of(p, job->first) : p->begin;
    p->near = p->near_begin < p->end;
    if (edge_of(p, last) < p->far_end) p->far_end = edge_of(p, last);
}

static void plan_tiles(plan *p) {
    const mka_attend_job *job = p->job;
    size_t rows = (size_t)job->n * (size_t)p->group;
    while (p->tile + 1 < p->cache->tiles && (size_t)1 << p->tile < rows) p->tile++;
    p->tiles = (rows + ((size_t)1 << p->tile) - 1) >> p->tile;
}

static void plan_splits(plan *p) {
    size_t groups = p->tiles * (size_t)p->job->kv_heads, wanted = busy(p->mirror->device) / groups;
    int keys = p->far_end - p->begin, most = (keys + LEAST_SPLIT - 1) / LEAST_SPLIT;
    p->splits = keys <= 0 ? 0 : wanted < 1 ? 1 : wanted > (size_t)most ? most : (int)wanted;
    if (!p->splits && !p->near) p->splits = 1; /* no key at all is an answer too */
    if (p->splits) p->split_keys = mka_pad((keys > 0 ? keys : 1) / p->splits + 1, 64);
    if (p->splits) p->splits = keys > 0 ? (keys + p->split_keys - 1) / p->split_keys : 1;
    p->finished = p->splits + p->near == 1 && !p->job->m && !p->cache->turned_run;
}

static void query_operand(mka_cl_call *c, const plan *p) {
    const mka_attend_job *job = p->job;
    size_t rows = (size_t)job->n * (size_t)job->heads, width = (size_t)job->key_dim;
    if (job->key_type == MKA_Q4_0)
        mka_cl_buffer(c, p->mirror->scratch, p->mirror->parts.queries);
    else
        mka_cl_in(c, job->q, rows, width, width);
}

static void turn_queries(const plan *p) {
    const mka_attend_job *job = p->job;
    mka_mirror *m = p->mirror;
    size_t rows = (size_t)job->n * (size_t)job->heads, width = (size_t)job->key_dim;
    mka_cl_call c = mka_cl_begin(m, m->turn, "turn");
    mka_cl_int(&c, job->key_dim);
    mka_cl_in(&c, job->q, rows, width, width);
    mka_cl_buffer(&c, m->scratch, m->parts.queries);
    mka_cl_local(&c, width);
    mka_cl_run(&c, (size_t)mka_cl_row_lanes(m->device), rows, 1, 1);
}

/* One launch over keys from..to - 1 of the cache or of its ring. */
static void launch(const plan *p, int near, int from, int to, int splits, int split_keys, int first_split) {
    const mka_attend_job *job = p->job;
    mka_device_cache *cache = p->cache;
    const mka_cl_plane *keys = near ? &cache->near_keys : &cache->keys, *values = near ? &cache->near_values : &cache->values;
    mka_mirror *m = p->mirror;
    size_t rows = (size_t)job->n * (size_t)job->heads, width = (size_t)job->value_dim;
    cl_kernel kernel;
    mka_error error;
    if (mka_cl_attend_kernel(cache, near, p->tile, &kernel, &error) != MKA_OK) {
        mka_cl_keep_failure(m->device, &error);
        return;
    }
    mka_cl_call c = mka_cl_begin(m, kernel, "attend");
    query_operand(&c, p);
    mka_cl_buffer(&c, keys->buffer, 0);
    mka_cl_long(&c, keys->scales_at);
    mka_cl_buffer(&c, values->buffer, 0);
    mka_cl_long(&c, values->scales_at);
    mka_cl_int(&c, near ? 2 * cache->ring : cache->capacity);
    mka_cl_int(&c, near ? (from + p->gap) % cache->ring - from : p->gap - cache->base - job->key_first);
    mka_cl_int(&c, near ? 0 : job->skip_from);
    const int numbers[] = {p->group, from, to, job->first, job->n, job->window};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) mka_cl_int(&c, numbers[i]);
    mka_cl_float(&c, job->scale);
    mka_cl_int(&c, split_keys);
    mka_cl_int(&c, near);
    mka_cl_int(&c, cache->ring ? MKA_NEAR : 0);
    mka_cl_int(&c, p->held);
    mka_cl_buffer(&c, m->scratch, 0);
    mka_cl_int(&c, first_split);
    mka_cl_int(&c, p->finished);
    if (p->finished)
        mka_cl_out(&c, job->out, rows, width, width);
    else
        mka_cl_buffer(&c, m->scratch, 0);
    mka_cl_run(&c, (size_t)m->device->lanes, (size_t)splits, p->tiles, (size_t)job->kv_heads);
}

static void merge(const plan *p) {
    const mka_attend_job *job = p->job;
    mka_mirror *m = p->mirror;
    size_t rows = (size_t)job->n * (size_t)job->heads, width = (size_t)job->value_dim;
    int run = job->m ? 0 : p->cache->turned_run;
    mka_cl_call c = mka_cl_begin(m, m->merge, "merge");
    mka_cl_buffer(&c, m->scratch, 0);
    mka_cl_int(&c, p->splits + p->near);
    mka_cl_int(&c, (int)rows);
    mka_cl_int(&c, job->value_dim);
    mka_cl_int(&c, job->m != NULL);
    mka_cl_int(&c, run);
    if (job->m) {
        mka_cl_both(&c, job->m, 1, rows, rows);
        mka_cl_both(&c, job->z, 1, rows, rows);
        mka_cl_both(&c, job->out, rows, width, width);
    } else {
        mka_cl_buffer(&c, m->scratch, 0);
        mka_cl_buffer(&c, m->scratch, 0);
        mka_cl_out(&c, job->out, rows, width, width);
    }
    mka_cl_local(&c, run ? width : 1);
    mka_cl_local(&c, (size_t)(p->splits + p->near));
    mka_cl_run(&c, (size_t)m->device->lanes, rows, 1, 1);
}

static void count_bytes(mka_ops *ops, const plan *p) {
    const mka_device_cache *c = p->cache;
    size_t far = c->keys.row_bytes + (size_t)c->keys.scale_bytes, near = c->near_keys.row_bytes + c->near_values.row_bytes;
    if (!c->shape.shared) far += c->values.row_bytes + (size_t)c->values.scale_bytes;
    uint64_t keys = p->far_end > p->begin ? (uint64_t)(p->far_end - p->begin) : 0;
    uint64_t newest = p->near ? (uint64_t)(p->end - p->near_begin) : 0;
    ops->cache_bytes += (keys * far + newest * near) * (uint64_t)c->shape.kv_heads;
}

/* A cache in memory: the CPU answers. */
static void attend_here(mka_ops *ops, const mka_attend_job *job) {
    size_t rows = (size_t)job->n * (size_t)job->heads, out = rows * (size_t)job->value_dim * sizeof(float);
    ops->get(ops, job->q, rows * (size_t)job->key_dim * sizeof(float));
    if (job->m) {
        ops->get(ops, job->m, rows * sizeof(float));
        ops->get(ops, job->z, rows * sizeof(float));
        ops->get(ops, job->out, out);
    }
    ops->host->attend(ops->host, job);
    ops->put(ops, job->out, out);
    if (!job->m) return;
    ops->put(ops, job->m, rows * sizeof(float));
    ops->put(ops, job->z, rows * sizeof(float));
}

/* Of a job's positions and the cache's. */
static void make_plan(plan *p, mka_ops *ops, const mka_attend_job *job) {
    *p = (plan){.mirror = ops->mirror, .counted = *job, .cache = job->device, .group = job->heads / job->kv_heads};
    p->job = &p->counted;
    p->gap = job->skip_to - job->skip_from;
    p->counted.first -= p->gap;
    p->counted.key_count -= p->gap;
    p->held = p->cache->held - p->gap;
    if (p->gap > 0 && p->held < job->skip_from) p->held = job->skip_from; /* what is before the gap is not in the ring */
    plan_keys(p);
    plan_tiles(p);
    plan_splits(p);
}

/* Of all queries: far and near are apart. */
static int one_edge_of(const plan *p) {
    return edge_of(p, p->job->first) == edge_of(p, p->job->first + p->job->n - 1);
}

/* All splits of a plan whose queries are turned. states 1: they stay states, and kernels that leave such are welcome. */
static void launch_splits(mka_ops *ops, plan *p, int states) {
    const mka_attend_job *job = p->job;
    int fast = 0, shift = p->gap - p->cache->base, one_edge = one_edge_of(p);
    if (p->cache->ring ? one_edge : states) fast = mka_cl_attend_far(ops, job, shift, p->begin, p->far_end);
    if (fast)
        p->splits = fast;
    else if (p->splits)
        launch(p, 0, p->begin, p->far_end, p->splits, p->split_keys, 0);
    fast = one_edge && p->near ? mka_cl_attend_near(ops, job, p->near_begin, p->end, p->splits) : 0;
    if (fast)
        p->near = fast;
    else if (p->near)
        launch(p, 1, p->near_begin, p->end, 1, p->end - p->near_begin, p->splits);
}

int mka_cl_attend_states(mka_ops *ops, const mka_attend_job *job) {
    plan p;
    make_plan(&p, ops, job);
    p.finished = 0;
    if (job->key_type == MKA_Q4_0) turn_queries(&p);
    launch_splits(ops, &p, 1);
    count_bytes(ops, &p);
    return p.splits + p.near;
}

void mka_cl_attend_count(mka_ops *ops, const mka_attend_job *job) {
    plan p;
    make_plan(&p, ops, job);
    count_bytes(ops, &p);
}

static void device_attend(mka_ops *ops, const mka_attend_job *job) {
    plan p;
    if (!job->device) {
        attend_here(ops, job);
        return;
    }
    mka_device *d = ops->mirror->device;
    make_plan(&p, ops, job);
    pthread_mutex_lock(&d->lock); /* the scratch is this session's own, but its commands follow each other */
    int done = mka_cl_attend_whole(ops, p.job, p.begin, p.end);
    if (!done && p.cache->ring && one_edge_of(&p))
        done = mka_cl_attend_turned(ops, p.job, p.gap - p.cache->base, p.begin, p.far_end, p.near_begin, p.end);
    if (!done && job->key_type == MKA_Q4_0) turn_queries(&p);
    if (!done) launch_splits(ops, &p, 0);
    if (!done && !p.finished) merge(&p);
    pthread_mutex_unlock(&d->lock);
    count_bytes(ops, &p);
}

void mka_cl_fill_attend(mka_ops *ops) {
    ops->attend = device_attend;
}
