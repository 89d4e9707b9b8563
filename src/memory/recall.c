/* recall - the operation as a whole: where its states lie, its phases, and the merge (see recall.h). */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "recall_parts.h"

enum { MOST_QUERIES = 16 };                  /* of one round */
static const size_t round_bytes = 16U << 20; /* of segments' states, aimed for */

/* ---- layout: a state is its struct, then its arrays; one function places them and measures ---- */

static void *take(unsigned char *base, size_t *used, size_t count, size_t size) {
    void *start = base ? base + *used : NULL;
    *used += (count * size + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
    return start;
}

/* base NULL: only measures. */
static size_t place_pair(unsigned char *base, size_t r, int d, pair *p) {
    size_t used = 0;
    take(base, &used, 1, sizeof *p);
    p->x = take(base, &used, r * (size_t)d, sizeof(float));
    p->power = take(base, &used, r * (size_t)d, sizeof(float));
    float **rows[] = {&p->constant, &p->length, &p->log_total, &p->least, &p->bar, &p->unread};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) *rows[i] = take(base, &used, r, sizeof(float));
    return used;
}

static size_t place_segment(unsigned char *base, size_t r, int value_dim, segment *s) {
    size_t used = 0;
    take(base, &used, 1, sizeof *s);
    s->scores = take(base, &used, r * SCORE_LDS, sizeof(float));
    float **rows[] = {&s->gain, &s->m, &s->z, &s->unread};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) *rows[i] = take(base, &used, r, sizeof(float));
    s->acc = take(base, &used, r * (size_t)value_dim, sizeof(float));
    return used;
}

void mka_pair_place(const recall *r, pair *p) {
    place_pair((unsigned char *)p, (size_t)p->r, r->job->longterm->shape.key_dim, p);
}

void mka_segment_place(const recall *r, segment *s) {
    size_t rows = (size_t)(r->job->heads / r->job->longterm->shape.kv_heads);
    place_segment((unsigned char *)s, rows, r->job->longterm->shape.value_dim, s);
}

pair *mka_pair_at(const recall *r, size_t index) {
    return (pair *)(void *)(r->work->pairs + index * r->work->pair_bytes);
}

segment *mka_segment_at(const recall *r, size_t pair_index, int index) {
    size_t at = pair_index * (size_t)r->work->segments + (size_t)index;
    return (segment *)(void *)(r->work->segment_states + at * r->work->segment_bytes);
}

void mka_recall_layout(mka_recall_work *w, const mka_recall_limits *limits, int threads, mka_arena *arena) {
    pair p;
    segment s;
    size_t rows = (size_t)limits->head_rows, heads = (size_t)limits->kv_heads;
    w->limits = *limits;
    w->segments = (limits->context + limits->segment - 1) / limits->segment;
    w->pair_bytes = place_pair(NULL, rows, limits->key_dim, &p);
    w->segment_bytes = place_segment(NULL, rows, limits->value_dim, &s);
    w->thread_bytes = mka_recall_scratch(limits);
    size_t fit = round_bytes / (heads * (size_t)w->segments * w->segment_bytes);
    w->queries = fit < 1 ? 1 : fit > MOST_QUERIES ? MOST_QUERIES : (int)fit;
    size_t pairs = (size_t)w->queries * heads;
    w->pairs = mka_arena_take(arena, pairs, w->pair_bytes);
    w->segment_states = mka_arena_take(arena, pairs * (size_t)w->segments, w->segment_bytes);
    w->threads = mka_arena_take(arena, (size_t)threads, w->thread_bytes);
}

mka_status mka_recall_check(const mka_recall *rule, mka_error *error) {
    if ((int)rule->contract < MKA_RECALL_ESTIMATED || rule->contract > MKA_RECALL_DENSE)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d is no contract of recall", (int)rule->contract);
    if (!(rule->share >= 0 && rule->share < 1))
        return mka_fail(error, MKA_BAD_ARGUMENT, "a recall of the share p=%g of the mass is outside 0..1 (1 excluded)",
                        (double)rule->share);
    if (rule->tokens < 0) return mka_fail(error, MKA_BAD_ARGUMENT, "a recall of %d tokens is negative", rule->tokens);
    if (!(rule->eps >= 0 && rule->eps < 1))
        return mka_fail(error, MKA_BAD_ARGUMENT, "a certified loss eps=%g is outside 0..1 (1 excluded)", (double)rule->eps);
    return MKA_OK;
}

/* ---- merge ---- */

/* Adds the segments' states of one row to that of the local tier, and finishes the row. */
void mka_recall_merge(const recall *r, size_t pair_index, int i) {
    const pair *p = mka_pair_at(r, pair_index);
    int dim = r->job->longterm->shape.value_dim, certified = r->job->rule->contract == MKA_RECALL_CERTIFIED;
    float m = p->m[i], *out = p->out + (size_t)i * (size_t)dim;
    for (int n = 0; n < r->segments; n++) m = fmaxf(m, mka_segment_at(r, pair_index, n)->m[i]);
    float old = p->m[i] > -INFINITY ? expf(p->m[i] - m) : 1, z = p->z[i] * old;
    double unread = 0;
    for (int e = 0; e < dim; e++) out[e] *= old;
    for (int n = 0; n < r->segments; n++) {
        const segment *s = mka_segment_at(r, pair_index, n);
        float add = s->m[i] > -INFINITY ? expf(s->m[i] - m) : 0;
        if (add == 0) continue;
        r->ops->kernels->axpy(dim, add, s->acc + (size_t)i * (size_t)dim, out);
        z += s->z[i] * add;
        unread += (double)(s->unread[i] * add);
    }
    float inverse = z > 0 ? 1 / z : z; /* no key at all: zero; NaN stays NaN */
    for (int e = 0; e < dim; e++) out[e] *= inverse;
    p->unread[i] = (float)(unread / ((double)z + (certified ? unread : 0)));
    if (r->job->read) r->job->read[p->m - r->job->m + i] = m + logf(fmaxf(certified ? z : z - (float)unread, 0));
}

/* ---- phases ---- */

/* The node that holds what an item reads. */
static int place_of_item(const void *work, size_t item) {
    const recall *r = work;
    const mka_longterm *l = r->job->longterm;
    size_t heads = (size_t)l->shape.kv_heads, pairs = (size_t)r->n * heads, token = item / pairs * (size_t)l->shape.segment;
    return mka_places_of(r->ops->places, (int)heads, (int)(item % heads), token / mka_places_stretch(l->capacity * MKA_BLOCK));
}

/* Items of a phase are handed out one by one: they differ in length, and their results do not depend on who does them. */
static int next_item(recall *r, int phase, int here, size_t count, size_t *item) {
    return mka_deal_take(&r->deal[phase], r->ops->places, here, count, place_of_item, r, item);
}

static void share(void *argument, int thread, int threads) {
    recall *r = argument;
    size_t pairs = (size_t)r->n * (size_t)r->job->longterm->shape.kv_heads, items = pairs * (size_t)r->segments, item;
    unsigned char *scratch = r->work->threads + (size_t)thread * r->work->thread_bytes;
    int here = mka_places_here(r->ops->places, thread);
    for (size_t i = (size_t)thread; i < pairs; i += (size_t)threads) mka_recall_prepare(r, i);
    mka_pool_barrier(r->ops->pool);
    while (next_item(r, 0, here, items, &item)) /* pairs of one segment follow each other: its centroids stay in the cache */
        mka_recall_score(r, item % pairs, (int)(item / pairs), scratch);
    mka_pool_barrier(r->ops->pool);
    for (size_t i = (size_t)thread; i < pairs; i += (size_t)threads) mka_recall_choose(r, i);
    mka_pool_barrier(r->ops->pool);
    while (next_item(r, 1, here, items, &item)) mka_recall_read(r, item % pairs, (int)(item / pairs), scratch);
    mka_pool_barrier(r->ops->pool);
    size_t rows = (size_t)(r->job->heads / r->job->longterm->shape.kv_heads);
    for (size_t i = (size_t)thread; i < pairs * rows; i += (size_t)threads) mka_recall_merge(r, i / rows, (int)(i % rows));
}

void mka_used_add(mka_used *to, const mka_used *more) {
    to->queries += more->queries;
    to->long_tokens += more->long_tokens;
    to->scored_tokens += more->scored_tokens;
    to->read_tokens += more->read_tokens;
    to->local_bytes += more->local_bytes;
    to->mean_bytes += more->mean_bytes;
    to->scan_bytes += more->scan_bytes;
    to->key_bytes += more->key_bytes;
    to->value_bytes += more->value_bytes;
    to->unread_mass += more->unread_mass;
    to->lost_bound = fmax(to->lost_bound, more->lost_bound);
}

static mka_used used_by(const recall *r, size_t pair_index) {
    const mka_longterm *l = r->job->longterm;
    mka_contract contract = r->job->rule->contract;
    uint64_t segments = (uint64_t)r->segments, tiles = (uint64_t)l->tiles;
    mka_used u = {.queries = 1, .long_tokens = segments * (uint64_t)l->shape.segment};
    for (int s = 0; s < r->segments; s++) {
        const segment *state = mka_segment_at(r, pair_index, s);
        u.scored_tokens += (uint64_t)state->scored;
        u.read_tokens += (uint64_t)state->read;
        u.mean_bytes += (uint64_t)state->tiles * l->mean_tile;
    }
    u.key_bytes = u.scored_tokens * l->key_row;
    u.value_bytes = u.read_tokens * l->value_row;
    const pair *p = mka_pair_at(r, pair_index);
    for (int i = 0; i < p->r; i++) u.unread_mass += (double)p->unread[i] / p->r;
    if (contract != MKA_RECALL_DENSE) u.scan_bytes = segments * (l->segment - tiles * l->mean_tile);
    if (contract == MKA_RECALL_CERTIFIED) u.lost_bound = (double)r->job->rule->eps;
    return u;
}

static void add_used(const recall *r) {
    size_t kv_heads = (size_t)r->job->longterm->shape.kv_heads;
    for (size_t i = 0; i < (size_t)r->n * kv_heads; i++) {
        mka_used one = used_by(r, i);
        if (r->job->used) mka_used_add(r->job->used, &one);
        if (r->job->heads_used) mka_used_add(&r->job->heads_used[i % kv_heads].used, &one);
    }
}

mka_status mka_recall_run(mka_recall_work *work, mka_ops *ops, const mka_recall_job *job, mka_error *error) {
    int segments = job->blocks / job->longterm->segment_blocks;
    for (int first = 0; first < job->n; first += work->queries) {
        recall r = {.job = job, .work = work, .ops = ops, .first = first, .segments = segments};
        r.n = job->n - first < work->queries ? job->n - first : work->queries;
        mka_pool_run(ops->pool, share, &r);
        if (atomic_load(&r.failed)) return mka_fail(error, r.error.status, "%s", r.error.message);
        if (job->used || job->heads_used) add_used(&r);
    }
    return MKA_OK;
}
