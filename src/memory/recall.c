/* recall - the operation as a whole: how it is shared out, its phases, and the merge (see recall.h). */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "recall_parts.h"

enum {
    RUNS = 256, /* aimed for, all pairs together: threads have many each, and merging them takes little */
    STEP = 64   /* tokens of a part at least, where there are more */
};

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

/* Parts come from all threads' caches: so many are asked for ahead. */
enum { MERGED_AHEAD = 6 };

/* A number of a part's state, of the part that lies so many behind the one that it was taken from. */
static const float *of_part(const recall *r, const float *state, int behind) {
    return (const float *)(const void *)((const unsigned char *)state + (ptrdiff_t)behind * (ptrdiff_t)r->work->part_bytes);
}

/* The maximum that a row's parts are taken relative to. */
static float merge_maximum(const recall *r, const part *first, int parts, int i, float most) {
    for (int n = 0; n < parts; n++) {
        int ahead = n + 2 * MERGED_AHEAD < parts ? n + 2 * MERGED_AHEAD : n;
        __builtin_prefetch(of_part(r, first->m + i, ahead));
        __builtin_prefetch(of_part(r, first->unread + i, ahead));
        most = fmaxf(most, *of_part(r, first->m + i, n));
    }
    return most;
}

/* What a state relative to m counts for where the maximum is most. */
static float share_of(float m, float most) {
    if (m == -INFINITY) return 0;
    return m == most ? 1 : expf(m - most);
}

static void finish_row(const recall *r, size_t pair_index, int i, float m, float z, double unread) {
    int certified = r->job->rule->contract == MKA_RECALL_CERTIFIED;
    mka_pair_at(r, pair_index).unread[i] = (float)(unread / ((double)z + (certified ? unread : 0)));
    if (r->job->read) r->job->read[mka_recall_row(r, pair_index, i)] = m + logf(fmaxf(certified ? z : z - (float)unread, 0));
}

void mka_recall_merge(const recall *r, size_t pair_index, int i, int from, int to) {
    int dim = r->job->longterm->shape.value_dim, parts = mka_recall_parts(r, pair_index);
    const part first = mka_part_at(r, pair_index, 0);
    const float *acc = first.acc + (size_t)i * (size_t)dim + (size_t)from;
    size_t row = mka_recall_row(r, pair_index, i);
    float *out = r->job->out + row * (size_t)dim + from;
    float m = merge_maximum(r, &first, parts, i, r->job->m[row]), old = share_of(r->job->m[row], m), z = r->job->z[row] * old;
    double unread = 0;
    for (int e = 0; e < to - from; e++) out[e] *= old;
    for (int n = 0; n < parts; n++) {
        const float *ahead = of_part(r, acc, n + MERGED_AHEAD < parts ? n + MERGED_AHEAD : n);
        for (int e = 0; e < to - from; e += 16) __builtin_prefetch(ahead + e);
        float add = share_of(*of_part(r, first.m + i, n), m);
        if (add == 0) continue;
        r->ops->kernels->axpy(to - from, add, of_part(r, acc, n), out);
        z += *of_part(r, first.z + i, n) * add;
        unread += (double)(*of_part(r, first.unread + i, n) * add);
    }
    float inverse = z > 0 ? 1 / z : z; /* no key at all: zero; NaN stays NaN */
    for (int e = 0; e < to - from; e++) out[e] *= inverse;
    if (from == 0) finish_row(r, pair_index, i, m, z, unread);
}

/* ---- sharing out ---- */

/* A run of a pair. They are numbered by key/value head, run and query: queries of a run are next to each other. */
typedef struct unit {
    size_t pair;
    int run;
} unit;

static size_t units_of(const recall *r) {
    return (size_t)r->n * (size_t)r->job->longterm->shape.kv_heads * (size_t)r->runs;
}

static unit unit_of(const recall *r, size_t index) {
    size_t n = (size_t)r->n, runs = (size_t)r->runs, head = index / n / runs;
    return (unit){index % n * (size_t)r->job->longterm->shape.kv_heads + head, (int)(index / n % runs)};
}

/* Item of reading: the first part of a unit, or a further one. */
typedef struct item {
    unit unit;
    int turn, part;
} item;

static item item_of(const recall *r, size_t index) {
    const mka_recall_work *w = r->work;
    size_t units = units_of(r), owner = 0;
    if (index < units) {
        unit u = unit_of(r, index);
        return (item){u, 0, r->pieces + u.run};
    }
    int extra = (int)(index - units), run = 0;
    while (w->starts[owner + 1] <= extra) owner++;
    const int *extras = w->extras + owner * ((size_t)w->segments + 1);
    extra -= w->starts[owner];
    while (extras[run + 1] <= extra) run++;
    return (item){{owner, run}, extra - extras[run] + 1, r->pieces + r->runs + extra};
}

/* The node that holds what a unit reads first. */
static int place_of_unit(const recall *r, unit u) {
    const mka_longterm *l = r->job->longterm;
    size_t heads = (size_t)l->shape.kv_heads, token = (size_t)u.run * (size_t)r->run * (size_t)l->shape.segment;
    return mka_places_of(r->ops->places, (int)heads, (int)(u.pair % heads), token / mka_places_stretch(l->capacity * MKA_BLOCK));
}

static int place_of_scoring(const void *work, size_t index) {
    return place_of_unit(work, unit_of(work, index));
}

static int place_of_reading(const void *work, size_t index) {
    return place_of_unit(work, item_of(work, index).unit);
}

/* Items of a phase are handed out one by one: they differ in length, and their results do not depend on who does them. Without
 * places a thread's own are every threads-th, the same ones in both phases, as what it has scored is in its caches; then it
 * helps others. */
static int next_item(recall *r, int phase, int thread, int threads, int here, size_t count, size_t *index) {
    if (r->ops->places)
        return mka_deal_take(&r->deal[phase], r->ops->places, here, count, phase ? place_of_reading : place_of_scoring, r, index);
    for (int i = 0; i < threads; i++) {
        int owner = thread + i < threads ? thread + i : thread + i - threads;
        atomic_size_t *next = &r->work->turns[owner].next[phase];
        size_t own = (count + (size_t)(threads - 1 - owner)) / (size_t)threads;
        if (atomic_load_explicit(next, memory_order_relaxed) >= own) continue;
        size_t turn = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
        if (turn >= own) continue;
        *index = (size_t)owner + turn * (size_t)threads;
        return 1;
    }
    return 0;
}

/* ---- phases ---- */

static void attend_pieces(const recall *r, int thread, int threads) {
    unsigned char *scratch = r->ops->thread_scratch + (size_t)thread * r->ops->thread_bytes;
    size_t begin, end, pieces = (size_t)r->pieces;
    mka_share(pieces * (size_t)r->job->longterm->shape.kv_heads, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        int index = (int)(i % pieces), second = index >= r->local[0].count;
        part s = mka_part_at(r, i / pieces, index);
        memset(s.unread, 0, mka_recall_group(r) * sizeof *s.unread);
        mka_attend_piece(&r->local[second], (int)(i / pieces), index - (second ? r->local[0].count : 0), scratch, s.m, s.z,
                         s.acc);
    }
}

/* Scores a run; the thread's next one is likely to be its own. */
static void score_run(const recall *r, size_t index, size_t threads) {
    const mka_longterm *l = r->job->longterm;
    size_t heads = (size_t)l->shape.kv_heads;
    unit it = unit_of(r, index), then = unit_of(r, index + threads < units_of(r) ? index + threads : index);
    int end = (it.run + 1) * r->run < r->segments ? (it.run + 1) * r->run : r->segments;
    for (int s = it.run * r->run; s < end; s++) {
        const unsigned char *next = s + 1 < end ? mka_longterm_index(l, (int)(it.pair % heads), s + 1)
                                                : mka_longterm_index(l, (int)(then.pair % heads), then.run * r->run);
        mka_recall_score(r, it.pair, s, next);
    }
}

/* Which further parts there are, once all runs know what is wanted of them. */
static void divide_wanted(void *user) {
    recall *r = user;
    mka_recall_work *w = r->work;
    size_t pairs = (size_t)r->n * (size_t)r->job->longterm->shape.kv_heads, all = 0, segments = (size_t)w->segments;
    for (size_t p = 0; p < pairs; p++)
        for (int i = 0; i < r->runs; i++) all += (size_t)w->counts[p * segments + (size_t)i];
    r->step = (int)((all + MOST_EXTRAS - 1) / MOST_EXTRAS);
    if (r->step < STEP) r->step = STEP;
    w->starts[0] = 0;
    for (size_t p = 0; p < pairs; p++) {
        int *extras = w->extras + p * (segments + 1), sum = 0;
        for (int i = 0; i < r->runs; i++) {
            int count = w->counts[p * segments + (size_t)i];
            extras[i] = sum;
            sum += count > 0 ? (count - 1) / r->step : 0;
        }
        extras[r->runs] = sum;
        w->starts[p + 1] = w->starts[p] + sum;
    }
}

static void list_runs(const recall *r, size_t thread, size_t threads) {
    for (size_t i = thread; i < units_of(r); i += threads) {
        unit u = unit_of(r, i);
        r->work->counts[u.pair * (size_t)r->work->segments + (size_t)u.run] = mka_recall_list(r, u.pair, u.run);
    }
}

static void share(void *argument, int thread, int threads) {
    recall *r = argument;
    mka_pool *pool = r->ops->pool;
    size_t pairs = (size_t)r->n * (size_t)r->job->longterm->shape.kv_heads, group = mka_recall_group(r), rows = pairs * group,
           index;
    size_t units = units_of(r), t = (size_t)thread, step = (size_t)threads;
    unsigned char *scratch = r->work->threads + t * r->work->thread_bytes;
    int here = mka_places_here(r->ops->places, thread), dim = r->job->longterm->shape.value_dim;
    for (size_t i = t; i < rows; i += step) mka_recall_prepare(r, i / group, (int)(i % group));
    atomic_store_explicit(&r->work->turns[thread].next[1], 0, memory_order_relaxed);
    mka_pool_barrier(pool);
    if (r->pieces) attend_pieces(r, thread, threads);
    while (next_item(r, 0, thread, threads, here, units, &index)) score_run(r, index, step);
    mka_pool_barrier(pool);
    atomic_store_explicit(&r->work->turns[thread].next[0], 0, memory_order_relaxed); /* for the next run */
    for (size_t i = t; i < rows; i += step) mka_recall_total(r, i / group, (int)(i % group));
    mka_pool_barrier(pool);
    if (mka_recall_chooses_together(r->job->rule)) {
        for (size_t i = t; i < pairs; i += step) mka_recall_choose(r, i);
        mka_pool_barrier(pool);
    }
    list_runs(r, t, step);
    mka_pool_barrier_with(pool, divide_wanted, r);
    while (next_item(r, 1, thread, threads, here, units + (size_t)r->work->starts[pairs], &index)) {
        item it = item_of(r, index);
        mka_recall_read(r, it.unit.pair, it.unit.run, it.turn, it.part, scratch);
    }
    mka_pool_barrier(pool);
    for (size_t i = t; i < units; i += step) mka_recall_rest(r, unit_of(r, i).pair, unit_of(r, i).run);
    mka_pool_barrier(pool);
    size_t slices = dim % 64 == 0 ? (size_t)dim / 64 : 1;
    for (size_t i = t; i < rows * slices; i += step) {
        int from = dim / (int)slices * (int)(i % slices);
        mka_recall_merge(r, i / slices / group, (int)(i / slices % group), from, from + dim / (int)slices);
    }
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
    uint64_t segments = (uint64_t)r->segments, tiles = (uint64_t)l->tiles, heads = (uint64_t)l->shape.kv_heads;
    mka_used u = {.queries = 1, .long_tokens = segments * (uint64_t)l->shape.segment};
    for (int i = r->pieces; i < mka_recall_parts(r, pair_index); i++) {
        part state = mka_part_at(r, pair_index, i);
        u.scored_tokens += (uint64_t)*state.scored;
        u.read_tokens += (uint64_t)*state.read;
        u.mean_bytes += (uint64_t)*state.tiles * l->mean_tile;
    }
    for (int i = 0; i < 2 && r->pieces; i++) u.local_bytes += r->local[i].bytes / heads;
    u.key_bytes = u.scored_tokens * l->key_row;
    u.value_bytes = u.read_tokens * l->value_row;
    pair p = mka_pair_at(r, pair_index);
    for (int i = 0; i < p.r; i++) u.unread_mass += (double)p.unread[i] / p.r;
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

/* Into how many runs and pieces the round's tokens go. */
static void divide(recall *r) {
    const mka_recall_job *job = r->job;
    size_t pairs = (size_t)r->n * (size_t)job->longterm->shape.kv_heads;
    r->run = r->n > 1 ? 1 : (int)(((size_t)r->segments * pairs + RUNS - 1) / RUNS);
    r->runs = (r->segments + r->run - 1) / r->run;
    for (int i = 0; i < 2 && job->local; i++) {
        mka_attend_cut(&r->local[i], r->ops, &job->local[i], i ? MOST_PIECES - r->pieces : MOST_PIECES / 4);
        r->pieces += r->local[i].count;
    }
}

mka_status mka_recall_run(mka_recall_work *work, mka_ops *ops, const mka_recall_job *job, mka_error *error) {
    int segments = job->blocks / job->longterm->segment_blocks;
    for (int first = 0; first < job->n; first += work->queries) {
        recall r = {.job = job, .work = work, .ops = ops, .first = first, .segments = segments};
        r.n = job->n - first < work->queries ? job->n - first : work->queries;
        divide(&r);
        mka_pool_run(ops->pool, share, &r);
        if (atomic_load(&r.failed)) return mka_fail(error, r.error.status, "%s", r.error.message);
        if (job->used || job->heads_used) add_used(&r);
    }
    return MKA_OK;
}
