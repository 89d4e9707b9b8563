/* tiers - see tiers.h. */
#include "tiers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "there.h"
#include "watch.h"

enum { MOST_HEAD_DIM = MKA_CODE_DIM, MOST_ROWS = 64 };

/* Where long-term rows stop being of use: typical error of a score, in nats, that their rounding leaves (a model's own noise in
 * bf16 is about 0.05), and typical difference between a score and that of the mean key, where no cluster can be told from what
 * its tokens score. */
static const float most_row_error = 0.25F, most_deviation = 13.0F;

void mka_memory_plan_defaults(mka_memory_plan *plan) {
    *plan = (mka_memory_plan){.sinks = 64, .window = 1024, .key_type = MKA_Q8_0, .value_type = MKA_Q8_0};
}

mka_status mka_memory_plan_check(const mka_memory_plan *p, mka_error *error) {
    if (p->sinks < 64 || p->sinks > 1 << 20 || p->sinks % 64)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d first tokens: a multiple of 64 from 64 on is needed", p->sinks);
    if (p->window < 64 || p->window > 1 << 24 || p->window % 64)
        return mka_fail(error, MKA_BAD_ARGUMENT, "a window of %d tokens: a multiple of 64 from 64 on is needed", p->window);
    if (!mka_cache_type(p->key_type) || !mka_cache_type(p->value_type))
        return mka_fail(error, MKA_BAD_ARGUMENT, "long-term rows cannot be stored as %s; f32, f16, bf16, q8 and q4 can",
                        mka_type_name(mka_cache_type(p->key_type) ? p->value_type : p->key_type));
    return mka_recall_check(&p->recall, error);
}

int mka_tiers_fit(const mka_local_shape *s, int heads) {
    return !s->shared && s->key_dim >= 16 && s->key_dim <= MOST_HEAD_DIM && s->value_dim <= MOST_HEAD_DIM &&
           heads / s->kv_heads <= MOST_ROWS;
}

int mka_tiers_local_tokens(const mka_local_shape *s, const mka_memory_plan *plan) {
    int64_t most = (int64_t)plan->sinks + plan->window + MKA_FORGET_KEEP + MKA_FORGET_LEAST +
                   2 * mka_longterm_segment(plan->window) + 2 * (int64_t)s->queries + 4 * MKA_BLOCK;
    return most < s->capacity ? (int)most : s->capacity;
}

void mka_tiers_layout(mka_tiers_shared *s, const mka_recall_limits *limits, int queries, int heads, int threads, int there,
                      mka_arena *arena) {
    size_t rows = (size_t)queries * (size_t)heads;
    s->closers = limits->kv_heads < threads ? limits->kv_heads : threads;
    mka_recall_layout(&s->work, limits, threads, arena);
    mka_batch_layout(&s->batch, limits, queries, threads, arena);
    s->m = mka_arena_take(arena, rows, sizeof(float));
    s->z = mka_arena_take(arena, rows, sizeof(float));
    s->closing_bytes = mka_longterm_scratch(limits->segment, limits->key_dim, limits->value_dim);
    s->closing = mka_arena_take(arena, (size_t)s->closers, s->closing_bytes);
    s->packing = there ? mka_arena_take(arena, 1, mka_there_room(limits, &s->plan)) : NULL;
}

mka_status mka_tiers_create(const mka_local_shape *shape, mka_tiers_shared *shared, mka_tiers *t, mka_error *error) {
    mka_local_shape local = *shape;
    *t = (mka_tiers){.shared = shared, .forgotten = shared ? shared->plan.sinks : 0};
    if (shared && shape->device) local.capacity = mka_tiers_local_tokens(shape, &shared->plan);
    mka_status status = mka_local_create(&local, &t->local, error);
    if (status || !shared) return status;
    mka_longterm_shape far = {.kv_heads = shape->kv_heads,
                              .key_dim = shape->key_dim,
                              .value_dim = shape->value_dim,
                              .key_type = shared->plan.key_type,
                              .value_type = shared->plan.value_type,
                              .segment = mka_longterm_segment(shared->plan.window),
                              .capacity = shape->capacity};
    status = mka_longterm_create(&far, shared->spill, &t->longterm, error);
    if (!status && shape->device) status = mka_there_create(t, error);
    if (!status && shared->plan.ram) { /* every head has a part of its own, of which a whole huge page would be taken */
        if (!shape->device) mka_pages_small(t->local.keys, t->local.bytes);
        mka_pages_small(t->longterm.index, t->longterm.bytes);
    }
    if (status) mka_tiers_destroy(t);
    return status;
}

void mka_tiers_destroy(mka_tiers *t) {
    mka_there_destroy(t);
    mka_local_destroy(&t->local);
    mka_longterm_destroy(&t->longterm);
    free(t->heads);
    *t = (mka_tiers){.shared = NULL};
}

/* ---- failures ---- */

/* Of several threads' failures the first is kept. */
void mka_tiers_fail(mka_tiers_shared *s, const mka_error *error) {
    int none = 0;
    if (atomic_compare_exchange_strong(&s->failed, &none, 1)) s->error = *error;
}

mka_status mka_tiers_failure(mka_tiers_shared *s, mka_error *error) {
    if (!atomic_load(&s->failed)) return MKA_OK;
    atomic_store(&s->failed, 0);
    return mka_fail(error, s->error.status, "%s", s->error.message);
}

/* ---- closing ---- */

/* Closed blocks that the query at a position leaves behind its window: whole segments. */
static int blocks_behind(const mka_tiers *t, int position) {
    if (!t->shared) return 0;
    int blocks = mka_blocks_behind(t->shared->plan.sinks, t->shared->plan.window, position);
    return blocks / t->longterm.segment_blocks * t->longterm.segment_blocks;
}

typedef struct close_task {
    mka_tiers *tiers;
    mka_ops *ops;
    int from, to; /* segments */
} close_task;

/* The tokens of a segment, as the long-term tier wants them. */
static void gather(const mka_tiers *t, int head, int segment, float *points) {
    const mka_local_shape *s = &t->local.shape;
    int first = mka_tiers_edge(t, segment * t->longterm.segment_blocks);
    for (int i = 0; i < t->longterm.shape.segment; i++, points += s->key_dim + s->value_dim) {
        mka_local_key(&t->local, head, first + i, points);
        mka_local_value(&t->local, head, first + i, points + s->key_dim);
    }
}

static void close_share(void *argument, int thread, int threads) {
    const close_task *c = argument;
    mka_tiers *t = c->tiers;
    for (int head = thread; head < t->local.shape.kv_heads; head += threads) {
        void *scratch = t->shared->closing + (size_t)thread * t->shared->closing_bytes;
        for (int segment = c->from; segment < c->to; segment++) {
            mka_error error;
            if (atomic_load(&t->shared->failed)) return;
            gather(t, head, segment, scratch);
            if (mka_longterm_close(&t->longterm, c->ops->kernels, head, segment, scratch, &error) != MKA_OK)
                mka_tiers_fail(t->shared, &error);
        }
    }
}

/* The mean key of the window that stands when the first block is about to close, turned. */
static void freeze_centre(mka_tiers *t, mka_ops *ops) {
    int d = t->local.shape.key_dim, from = t->shared->plan.sinks, count = t->shared->plan.window;
    for (int head = 0; head < t->local.shape.kv_heads; head++) {
        float keys[MKA_BLOCK * MOST_HEAD_DIM], *centre = t->longterm.centre + (size_t)head * (size_t)d;
        memset(centre, 0, (size_t)d * sizeof *centre);
        for (int i = 0; i < count; i++) {
            const float *key = keys + (size_t)(i % MKA_BLOCK) * (size_t)d;
            if (i % MKA_BLOCK == 0) mka_local_keys(&t->local, ops, head, from + i, MKA_BLOCK, keys, d);
            for (int e = 0; e < d; e++) centre[e] += key[e] / (float)count;
        }
        mka_turn(d, centre);
    }
    if (t->there) mka_there_freeze(t);
}

/* Mean squares over every 16th key of the window: of what the rows lose, and of the key itself, in each number. */
static void measure_rows(const mka_tiers *t, mka_ops *ops, double *lost, double *keys) {
    const mka_longterm *l = &t->longterm;
    int d = l->shape.key_dim, count = 0;
    *lost = *keys = 0;
    for (int head = 0; head < l->shape.kv_heads; head++)
        for (int i = 0; i < t->shared->plan.window; i += 16, count++) {
            float key[MOST_HEAD_DIM], back[MOST_HEAD_DIM];
            unsigned char row[MOST_HEAD_DIM * sizeof(float)];
            mka_local_keys(&t->local, ops, head, t->shared->plan.sinks + i, 1, key, d);
            mka_turn(d, key);
            for (int e = 0; e < d; e++) key[e] -= l->centre[(size_t)head * (size_t)d + (size_t)e];
            mka_put_row(l->shape.key_type, ops->kernels->store[l->shape.key_type], d, key, row);
            mka_get_row(l->shape.key_type, d, row, back);
            for (int e = 0; e < d; e++) {
                *lost += (double)(key[e] - back[e]) * (double)(key[e] - back[e]) / d;
                *keys += (double)key[e] * (double)key[e] / d;
            }
        }
    *lost /= count;
    *keys /= count;
}

/* Decides, by the query that is about to leave the first segment behind, whether rows are fit for this layer. */
static void judge(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, const float *query) {
    double squares = 0, lost, keys;
    size_t count = (size_t)job->heads * (size_t)t->local.shape.key_dim;
    ops->get(ops, query, count * sizeof *query);
    freeze_centre(t, ops);
    measure_rows(t, ops, &lost, &keys);
    for (size_t i = 0; i < count; i++) squares += (double)(query[i] * job->scale) * (double)(query[i] * job->scale);
    squares /= job->heads; /* mean |x|^2 */
    t->dense = !(sqrt(squares * lost) <= (double)most_row_error && sqrt(squares * keys) <= (double)most_deviation);
    t->judged = 1;
    if (t->dense) mka_tiers_stay_dense(t, ops, job->first + job->n);
}

void mka_tiers_stay_dense(mka_tiers *t, mka_ops *ops, int length) {
    t->judged = t->dense = 1;
    if (t->there) mka_there_stay_dense(t, ops, length);
}

/* What is to be forgotten behind so many closed blocks. */
static int forget_to(const mka_tiers *t, int blocks) {
    int keep = t->longterm.shape.segment > MKA_FORGET_KEEP ? t->longterm.shape.segment : MKA_FORGET_KEEP;
    int to = mka_tiers_edge(t, blocks) - keep - mka_pad(t->local.shape.queries, MKA_BLOCK); /* a pass may be taken back */
    return to - t->forgotten < MKA_FORGET_LEAST ? t->forgotten : to;
}

static void forget(mka_tiers *t, int blocks, int length) {
    int to = forget_to(t, blocks);
    if (to == t->forgotten) return;
    mka_local_forget(&t->local, t->shared->plan.sinks, to, length);
    t->forgotten = to;
}

static void close_blocks(mka_tiers *t, mka_ops *ops, int blocks, int length) {
    if (blocks <= t->longterm.blocks) return;
    close_task task = {.tiers = t,
                       .ops = ops,
                       .from = t->longterm.blocks / t->longterm.segment_blocks,
                       .to = blocks / t->longterm.segment_blocks};
    if (t->there)
        mka_there_close(t, ops, task.from, task.to);
    else
        mka_pool_run(ops->pool, close_share, &task);
    if (atomic_load(&t->shared->failed)) return; /* the tokens stay local; closing them is tried again when it comes to them */
    mka_longterm_count(&t->longterm, blocks);
    forget(t, blocks, length);
}

void mka_tiers_settle(mka_tiers *t, mka_ops *ops, int length) {
    int blocks = t->dense ? 0 : blocks_behind(t, length - 1);
    if (blocks && !t->judged) {
        freeze_centre(t, ops);
        t->judged = 1;
    }
    close_blocks(t, ops, blocks, length);
}

/* Whether tokens up to end - 1 have room, of which those from first on are to come; segments close to make it. */
static int has_room(mka_tiers *t, mka_ops *ops, int first, int end) {
    if (!t->there || end - (t->forgotten - t->shared->plan.sinks) <= t->local.shape.capacity) return 1;
    mka_tiers_settle(t, ops, first);
    return !atomic_load(&t->shared->failed); /* else nothing has closed, and there is no room */
}

void mka_tiers_store(mka_tiers *t, mka_ops *ops, int first, int n, const float *keys, int key_ld, const float *values,
                     int value_ld) {
    int most = t->there ? t->local.shape.queries : n;
    for (int done = 0, count; done < n; done += count) {
        count = n - done < most ? n - done : most;
        if (!has_room(t, ops, first + done, first + done + count)) return;
        mka_local_store(&t->local, ops, first + done, count, keys + (size_t)done * (size_t)key_ld, key_ld,
                        values ? values + (size_t)done * (size_t)value_ld : NULL, value_ld);
    }
}

void mka_tiers_turn_store(mka_tiers *t, mka_ops *ops, int first, int n, const mka_rotation *turn, float *keys, int key_ld,
                          const float *values, int value_ld) {
    /* a pass brings as many tokens as the local tier takes at once */
    if (has_room(t, ops, first, first + n)) mka_local_turn_store(&t->local, ops, first, n, turn, keys, key_ld, values, value_ld);
}

/* ---- attention ---- */

/* A job over tokens from..to - 1 of the local tier. */
static mka_attend_job local_job(const mka_tiers *t, const mka_attend_job *job, int from, int to) {
    mka_attend_job part = *job;
    mka_local_job(&t->local, to, &part);
    size_t tile = (size_t)from / MKA_TILE;
    part.keys += tile * t->local.key_tile;
    part.values += tile * t->local.value_tile;
    part.key_first = from;
    part.key_count = to - from;
    return part;
}

/* The local tier by itself; its state goes to m, z and out. */
static void attend_local(mka_tiers *t, mka_ops *ops, const mka_attend_job local[2], uint64_t *bytes) {
    size_t rows = (size_t)local[0].n * (size_t)local[0].heads, dim = (size_t)t->local.shape.value_dim;
    uint64_t before = ops->cache_bytes;
    for (int i = 0; i < 2; i++) ops->attend(ops, &local[i]);
    if (t->local.shape.value_type == MKA_Q4_0)
        for (size_t i = 0; i < rows; i++) mka_hadamard((int)dim, local[0].out + i * dim);
    *bytes += ops->cache_bytes - before;
    ops->cache_bytes = before;
}

static void attend_group(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, int blocks) {
    mka_tiers_shared *s = t->shared;
    size_t rows = (size_t)job->n * (size_t)job->heads;
    mka_attend_job part = *job;
    mka_used used = {.queries = 0};
    part.m = s->m;
    part.z = s->z;
    for (size_t i = 0; i < rows; i++) part.m[i] = -INFINITY, part.z[i] = 0;
    memset(part.out, 0, rows * (size_t)t->local.shape.value_dim * sizeof(float));
    mka_attend_job local[2] = {local_job(t, &part, 0, s->plan.sinks),
                               local_job(t, &part, mka_tiers_edge(t, blocks), job->first + job->n)};
    if (job->n > 1) attend_local(t, ops, local, &used.local_bytes);
    mka_recall_job recall = {.longterm = &t->longterm,
                             .blocks = blocks,
                             .n = job->n,
                             .heads = job->heads,
                             .scale = job->scale,
                             .q = job->q,
                             .m = s->m,
                             .z = s->z,
                             .out = job->out,
                             .local = job->n > 1 ? NULL : local,
                             .rule = &s->plan.recall,
                             .used = &used,
                             .heads_used = mka_watch_heads(t)};
    mka_error error;
    if (mka_watch_heads(t)) mka_watch_begin(s->watch, &recall);
    mka_status status = mka_batch_fits(ops, &recall) ? mka_batch_run(&s->batch, ops, &recall, &error)
                                                     : mka_recall_run(&s->work, ops, &recall, &error);
    if (status) mka_tiers_fail(s, &error);
    if (mka_watch_heads(t)) mka_watch_local(t, job, job->n > 1 ? used.local_bytes : 0);
    mka_used_add(&s->used, &used);
    ops->cache_bytes += used.local_bytes + used.scan_bytes + used.mean_bytes + used.key_bytes + used.value_bytes;
    if (mka_watch_heads(t)) mka_watch_compare(s->watch, &s->work, ops, &recall);
}

static void attend_all(mka_tiers *t, mka_ops *ops, const mka_attend_job *job) {
    mka_attend_job whole = *job;
    uint64_t before = ops->cache_bytes;
    mka_local_job(&t->local, job->first + job->n, &whole);
    ops->attend(ops, &whole);
    if (t->shared) t->shared->used.local_bytes += ops->cache_bytes - before;
    if (mka_watch_heads(t)) mka_watch_local(t, job, ops->cache_bytes - before);
}

/* Queries from..to - 1 of a job, as a job. */
static mka_attend_job part_of(const mka_tiers *t, const mka_attend_job *job, int from, int to) {
    mka_attend_job part = *job;
    size_t row = (size_t)from * (size_t)job->heads;
    part.first = job->first + from;
    part.n = to - from;
    part.q = job->q + row * (size_t)t->local.shape.key_dim;
    part.out = job->out + row * (size_t)t->local.shape.value_dim;
    return part;
}

/* What answering queries up to position end - 1 would at least have read. */
static uint64_t least_bytes(const mka_tiers *t, int end, int blocks) {
    uint64_t token = mka_local_token_bytes(&t->local.shape), tokens = (uint64_t)end;
    if (!blocks) return tokens * token;
    const mka_longterm *l = &t->longterm;
    uint64_t centroids = l->segment - (uint64_t)l->tiles * l->mean_tile;
    uint64_t far = t->shared->plan.recall.contract == MKA_RECALL_DENSE
                       ? (uint64_t)blocks * MKA_BLOCK * mka_longterm_row_bytes(&l->shape)
                       : (uint64_t)(blocks / l->segment_blocks) * centroids * (uint64_t)l->shape.kv_heads;
    return (tokens - (uint64_t)blocks * MKA_BLOCK) * token + far;
}

/* Takes queries without weight off both ends of from..to - 1. */
static void trim(mka_tiers *t, const mka_attend_job *job, const float *weights, int stride, int blocks, int *from, int *to) {
    int begin = *from, end = *to, skipped = 0;
    for (int i = begin; i < end; i++) skipped += weights[(size_t)i * (size_t)stride] == 0;
    while (*from < *to && weights[(size_t)*from * (size_t)stride] == 0) ++*from;
    while (*from < *to && weights[(size_t)(*to - 1) * (size_t)stride] == 0) --*to;
    if (!t->shared) return;
    t->shared->used.levels += (uint64_t)(end - begin);
    t->shared->used.levels_skipped += (uint64_t)skipped;
    if (*from == *to) t->shared->used.saved_bytes += least_bytes(t, job->first + end, blocks);
}

/* A device's operands, but a cache in memory: the CPU answers. */
static void attend_here(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, const float *weights, int stride) {
    size_t rows = (size_t)job->n * (size_t)job->heads;
    ops->get(ops, job->q, rows * (size_t)t->local.shape.key_dim * sizeof(float));
    if (weights) ops->get(ops, weights, (((size_t)job->n - 1) * (size_t)stride + 1) * sizeof *weights);
    mka_tiers_attend(t, ops->host, job, weights, stride);
    ops->put(ops, job->out, rows * (size_t)t->local.shape.value_dim * sizeof(float));
}

void mka_tiers_attend(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, const float *weights, int stride) {
    if (ops->host != ops && !t->local.device) {
        attend_here(t, ops, job, weights, stride);
        return;
    }
    if (weights && t->there) ops->get(ops, weights, (((size_t)job->n - 1) * (size_t)stride + 1) * sizeof *weights);
    if (!t->there && t->local.device) weights = NULL;    /* they are there, and all queries of a call go in one launch */
    for (int done = 0, end; done < job->n; done = end) { /* runs of queries whose windows begin at the same edge */
        int blocks = t->dense ? 0 : blocks_behind(t, job->first + done);
        if (blocks && !t->judged) {
            mka_attend_job rest = part_of(t, job, done, job->n);
            judge(t, ops, &rest, rest.q);
            if (ops->host != ops && !t->local.device) { /* it had to leave the device */
                attend_here(t, ops, &rest, NULL, 0);
                return;
            }
            blocks = t->dense ? 0 : blocks;
        }
        for (end = done + 1; end < job->n && (t->dense || blocks_behind(t, job->first + end) == blocks);) end++;
        int from = done, to = end;
        if (weights) trim(t, job, weights, stride, blocks, &from, &to);
        if (blocks) close_blocks(t, ops, blocks, job->first + job->n);
        if (blocks && atomic_load(&t->shared->failed)) return;
        if (from == to) continue;
        mka_attend_job run = part_of(t, job, from, to);
        if (blocks && t->there)
            mka_there_attend(t, ops, &run, blocks);
        else if (blocks)
            attend_group(t, ops, &run, blocks);
        else
            attend_all(t, ops, &run);
    }
}

/* ---- cutting back ---- */

int mka_tiers_can_cut(const mka_tiers *t, int length) {
    return length == 0 || !t->longterm.blocks || mka_tiers_edge(t, blocks_behind(t, length - 1)) >= t->forgotten;
}

void mka_tiers_cut(mka_tiers *t, int length) {
    mka_local_truncate(&t->local, length);
    if (!t->shared) return;
    int blocks = blocks_behind(t, length - 1);
    if (blocks < t->longterm.blocks || length == 0) mka_longterm_cut(&t->longterm, blocks);
    if (length == 0) t->forgotten = t->shared->plan.sinks;
    if (length == 0 && (t->there || !t->local.device)) t->judged = t->dense = 0; /* what has lost its copy there stays dense */
}

/* ---- saving ---- */

mka_tiers_state mka_tiers_get_state(const mka_tiers *t, int length) {
    mka_tiers_state s = {.judged = t->judged, .dense = t->dense, .forgotten = t->forgotten, .blocks = t->longterm.blocks};
    mka_local_kept(&t->local, length, &s.near_base, &s.near_held);
    return s;
}

static int can_be(const mka_tiers *t, int length, const mka_tiers_state *s) {
    if (!t->shared) return !s->judged && !s->dense && !s->forgotten && !s->blocks;
    int sinks = t->shared->plan.sinks, most = length > 0 ? blocks_behind(t, length - 1) : 0;
    if (s->judged < 0 || s->judged > 1 || s->dense < 0 || s->dense > s->judged) return 0;
    if (s->blocks < 0 || s->blocks > most || s->blocks % t->longterm.segment_blocks || (s->blocks && (s->dense || !s->judged)))
        return 0;
    return s->forgotten >= sinks && s->forgotten % MKA_BLOCK == 0 &&
           (s->forgotten == sinks || s->forgotten <= mka_tiers_edge(t, s->blocks));
}

/* Other tiers of this session's options would have forgotten more, or stayed dense, or not. */
static void settle_there(mka_tiers *t, mka_ops *ops, int length, const mka_tiers_state *s) {
    if (t->there && s->dense) mka_there_stay_dense(t, ops, 0);
    if (!t->there && !s->dense && t->local.device) mka_there_go_back(t, ops);
    if (!t->there) return;
    t->forgotten = forget_to(t, s->blocks);
    if (length - (t->forgotten - t->shared->plan.sinks) > t->local.shape.capacity) mka_there_take_here(t, ops, 0);
}

int mka_tiers_set_state(mka_tiers *t, mka_ops *ops, int length, const mka_tiers_state *s) {
    if (!can_be(t, length, s)) return 0;
    int sinks = t->shared ? t->shared->plan.sinks : 0;
    if (t->shared) {
        t->judged = s->judged;
        t->dense = s->dense;
        t->forgotten = s->forgotten;
        mka_longterm_count(&t->longterm, s->blocks);
        settle_there(t, ops, length, s);
    }
    return mka_local_restore(&t->local, length, sinks, t->forgotten - sinks, s->near_base, s->near_held);
}

void mka_tiers_filled(mka_tiers *t) {
    if (t->there && t->judged) mka_there_filled(t);
}

size_t mka_tiers_bytes(const mka_tiers *t, int length) {
    size_t local = mka_local_token_bytes(&t->local.shape);
    if (!t->longterm.blocks) return local * (size_t)length;
    size_t far = (size_t)t->longterm.blocks * MKA_BLOCK;
    int kept = length - (t->forgotten - t->shared->plan.sinks);
    return local * (size_t)kept +
           far * (mka_longterm_index_bytes(&t->longterm.shape) + mka_longterm_row_bytes(&t->longterm.shape));
}
