/* tiers_close - tokens come to the local tier and leave it for the long-term one: whether rows fit a layer's keys, which is found
 * out once, segments that close, and what of the local tier is forgotten then. */
#include <math.h>
#include <string.h>

#include "there.h"
#include "tiers_parts.h"

/* Where long-term rows stop being of use: typical error of a score, in nats, that their rounding leaves (a model's own noise in
 * bf16 is about 0.05), and typical difference between a score and that of the mean key, where no cluster can be told from what
 * its tokens score. */
static const float most_row_error = 0.25F, most_deviation = 13.0F;

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
        float keys[MKA_BLOCK * MKA_TIERS_DIM], *centre = t->longterm.centre + (size_t)head * (size_t)d;
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
            float key[MKA_TIERS_DIM], back[MKA_TIERS_DIM];
            unsigned char row[MKA_TIERS_DIM * sizeof(float)];
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

void mka_tiers_judge(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, const float *query) {
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

int mka_tiers_forget_to(const mka_tiers *t, int blocks) {
    int keep = t->longterm.shape.segment > MKA_FORGET_KEEP ? t->longterm.shape.segment : MKA_FORGET_KEEP;
    int to = mka_tiers_edge(t, blocks) - keep - mka_pad(t->local.shape.queries, MKA_BLOCK); /* a pass may be taken back */
    return to - t->forgotten < MKA_FORGET_LEAST ? t->forgotten : to;
}

static void forget(mka_tiers *t, int blocks, int length) {
    int to = mka_tiers_forget_to(t, blocks);
    if (to == t->forgotten) return;
    mka_local_forget(&t->local, t->shared->plan.sinks, to, length);
    t->forgotten = to;
}

void mka_tiers_close(mka_tiers *t, mka_ops *ops, int blocks, int length) {
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
    int blocks = t->dense ? 0 : mka_tiers_behind(t, length - 1);
    if (blocks && !t->judged) {
        freeze_centre(t, ops);
        t->judged = 1;
    }
    mka_tiers_close(t, ops, blocks, length);
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
