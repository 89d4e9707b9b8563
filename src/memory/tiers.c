/* tiers - see tiers.h: what a layer's tiers are made of, how they are cut back, and what of them is saved. */
#include "tiers_parts.h"

#include <stdlib.h>

#include "base/status.h"
#include "there.h"

enum { MOST_ROWS = 64 };

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
    return !s->shared && s->key_dim >= 16 && s->key_dim <= MKA_TIERS_DIM && s->value_dim <= MKA_TIERS_DIM &&
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

/* ---- cutting back ---- */

int mka_tiers_can_cut(const mka_tiers *t, int length) {
    return length == 0 || !t->longterm.blocks || mka_tiers_edge(t, mka_tiers_behind(t, length - 1)) >= t->forgotten;
}

void mka_tiers_cut(mka_tiers *t, int length) {
    mka_local_truncate(&t->local, length);
    if (!t->shared) return;
    t->shared->expected = NULL;
    if (t->there) mka_device_longterm_settle(t->there); /* of the rows as they are */
    int blocks = mka_tiers_behind(t, length - 1);
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
    int sinks = t->shared->plan.sinks, most = length > 0 ? mka_tiers_behind(t, length - 1) : 0;
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
    t->forgotten = mka_tiers_forget_to(t, s->blocks);
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
