/* tiers_attend - who answers a query: runs of queries whose windows begin at the same edge go to recall, on the CPU or a device,
 * or to attention over all that is local; queries without weight go nowhere. */
#include <math.h>
#include <string.h>

#include "there.h"
#include "tiers_parts.h"
#include "watch.h"

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
        int blocks = t->dense ? 0 : mka_tiers_behind(t, job->first + done);
        if (blocks && !t->judged) {
            mka_attend_job rest = part_of(t, job, done, job->n);
            mka_tiers_judge(t, ops, &rest, rest.q);
            if (ops->host != ops && !t->local.device) { /* it had to leave the device */
                attend_here(t, ops, &rest, NULL, 0);
                return;
            }
            blocks = t->dense ? 0 : blocks;
        }
        for (end = done + 1; end < job->n && (t->dense || mka_tiers_behind(t, job->first + end) == blocks);) end++;
        int from = done, to = end;
        if (weights) trim(t, job, weights, stride, blocks, &from, &to);
        if (blocks) mka_tiers_close(t, ops, blocks, job->first + job->n);
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
