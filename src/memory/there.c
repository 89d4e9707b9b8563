/* there - see there.h. */
#include "there.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "there_rows.h"
#include "tiers_parts.h"
#include "watch.h"

/* ---- sizes ---- */

/* device: where rows stay here; NULL elsewhere. */
static mka_device_longterm_shape shape_of(const mka_longterm_shape *s, const mka_device *device) {
    mka_device_longterm_shape there = {.kv_heads = s->kv_heads,
                                       .key_dim = s->key_dim,
                                       .value_dim = s->value_dim,
                                       .key_type = s->key_type,
                                       .value_type = s->value_type,
                                       .segment = s->segment,
                                       .clusters = s->segment / MKA_CLUSTER_TOKENS,
                                       .segments = (s->capacity + s->segment - 1) / s->segment};
    if (device) there.ring = mka_device_ring(device, &there);
    return there;
}

static mka_device_longterm_shape shape_there(const mka_tiers *t) {
    const mka_local_shape *s = &t->local.shape;
    return shape_of(&t->longterm.shape, s->rows_here ? s->device : NULL);
}

uint64_t mka_there_bytes(const mka_local_shape *s, const mka_memory_plan *plan) {
    mka_longterm_shape far = {
        s->kv_heads, s->key_dim, s->value_dim, plan->key_type, plan->value_type, mka_longterm_segment(plan->window), s->capacity};
    mka_device_longterm_shape there = shape_of(&far, s->rows_here ? s->device : NULL);
    mka_local_shape local = *s;
    local.capacity = mka_tiers_local_tokens(s, plan);
    return mka_local_bytes_there(&local) + mka_device_longterm_bytes(&there);
}

/* A segment as it lies there, or a head's rows of it on their way from there. */
size_t mka_there_room(const mka_recall_limits *l, const mka_memory_plan *plan) {
    mka_longterm_shape far = {1, l->key_dim, l->value_dim, plan->key_type, plan->value_type, l->segment, l->segment};
    mka_device_longterm_shape there = shape_of(&far, NULL);
    mka_device_segment g;
    mka_device_segment_layout(&there, &g);
    size_t most = (size_t)(l->key_dim > l->value_dim ? l->key_dim : l->value_dim),
           fetched = (size_t)l->segment * most * sizeof(float);
    return g.index + g.rows > fetched ? g.index + g.rows : fetched;
}

mka_status mka_there_create(mka_tiers *t, mka_error *error) {
    mka_device_longterm_shape shape = shape_there(t);
    t->counted = calloc(2 * (size_t)shape.kv_heads, sizeof *t->counted);
    if (!t->counted) return mka_fail(error, MKA_NO_MEMORY, "no memory for what is counted of a layer");
    return mka_device_longterm_create(t->local.shape.device, &shape, &t->there, error);
}

void mka_there_destroy(mka_tiers *t) {
    mka_device_longterm_destroy(t->there);
    free(t->counted);
    t->there = NULL;
    t->counted = NULL;
}

/* ---- laying a segment out as it lies there: all that is known here of how it lies in memory ---- */

/* Rows of a type as one plane of numbers and one of scales. row(from, i): the i-th as simd/rows.h has it. */
static void split_rows(mka_type type, int dim, int count, const unsigned char *from, size_t step, unsigned char *data,
                       unsigned char *scales) {
    int quant = type == MKA_Q8_0 || type == MKA_Q4_0;
    size_t row = mka_row_bytes(type, dim), scale = quant ? (size_t)mka_pad(dim, 32) / 32 * sizeof(uint16_t) : 0,
           numbers = row - scale, padded = quant ? numbers : numbers / (size_t)dim * (size_t)mka_pad(dim, 16);
    for (size_t i = 0; i < (size_t)count; i++, from += step) {
        memcpy(data + i * padded, from, numbers);
        memset(data + i * padded + numbers, 0, padded - numbers);
        if (quant) memcpy(scales + i * scale, from + numbers, scale);
    }
}

static mka_status pack_rows(mka_longterm *l, const mka_device_segment *g, int head, int segment, unsigned char *to,
                            mka_error *error) {
    const mka_longterm_shape *s = &l->shape;
    size_t key = (g->key_scales - g->keys) / (size_t)s->segment, value = (g->value_scales - g->values) / (size_t)s->segment,
           key_scale = s->key_type == MKA_Q8_0 || s->key_type == MKA_Q4_0 ? (size_t)mka_pad(s->key_dim, 32) / 16 : 0,
           value_scale = s->value_type == MKA_Q8_0 || s->value_type == MKA_Q4_0 ? (size_t)mka_pad(s->value_dim, 32) / 16 : 0;
    for (int b = 0; b < l->segment_blocks; b++) {
        size_t record = mka_longterm_record(l, head, segment * l->segment_blocks + b), first = (size_t)b * MKA_BLOCK;
        const unsigned char *rows = mka_records_get(&l->records, record, error);
        if (!rows) return error->status;
        split_rows(s->key_type, s->key_dim, MKA_BLOCK, rows, l->key_row, to + g->keys + first * key,
                   to + g->key_scales + first * key_scale);
        split_rows(s->value_type, s->value_dim, MKA_BLOCK, rows + MKA_BLOCK * l->key_row, l->value_row,
                   to + g->values + first * value, to + g->value_scales + first * value_scale);
        mka_records_release(&l->records, record);
    }
    return MKA_OK;
}

static void pack_index(const mka_longterm *l, const mka_device_segment *g, int head, int segment, unsigned char *to) {
    unsigned char *index = mka_longterm_index(l, head, segment), *means = mka_longterm_means(l, index);
    const mka_directory *directory = mka_longterm_directory(l, index);
    size_t points = (size_t)mka_pad(l->shape.key_dim, 32), values = (size_t)mka_pad(l->shape.value_dim, 32),
           clusters = (size_t)l->clusters, floats = clusters * sizeof(float);
    memset(to, 0, g->index);
    for (size_t c = 0; c < clusters; c++) {
        size_t tile = c / MKA_TILE;
        int slot = (int)(c % MKA_TILE);
        mka_key_codes(MKA_Q8_0, l->shape.key_dim, index + tile * l->key_tile, slot, to + g->points + c * points,
                      to + g->point_scales + c * (points / 16));
        mka_value_codes(MKA_Q8_0, l->shape.value_dim, means + tile * l->mean_tile, slot, to + g->means + c * values,
                        to + g->mean_scales + c * sizeof(float));
    }
    memcpy(to + g->log_count, directory->log_count, floats);
    memcpy(to + g->deviation, directory->deviation, floats);
    memcpy(to + g->worth, directory->worth, floats);
    memcpy(to + g->radius, directory->radius, floats);
    memcpy(to + g->start, directory->start, (clusters + 1) * sizeof *directory->start);
    memcpy(to + g->middle, mka_longterm_middle(l, index), (size_t)l->shape.value_dim * sizeof(float));
    memcpy(to + g->channels, mka_longterm_channels(l, index), (size_t)l->shape.key_dim * sizeof(float));
}

/* Copies a closed segment there. */
static void send_segment(mka_tiers *t, int head, int segment) {
    mka_device_longterm_shape shape = shape_there(t);
    mka_device_segment g;
    mka_error error;
    mka_device_segment_layout(&shape, &g);
    unsigned char *index = t->shared->packing, *rows = index + g.index;
    if (!shape.ring && pack_rows(&t->longterm, &g, head, segment, rows, &error) != MKA_OK) {
        mka_tiers_fail(t->shared, &error);
        return;
    }
    pack_index(&t->longterm, &g, head, segment, index);
    mka_device_longterm_put(t->there, head, segment, index, rows);
}

void mka_there_freeze(mka_tiers *t) {
    float signs[MKA_CODE_DIM];
    mka_turn_signs(t->longterm.shape.key_dim, signs);
    mka_device_longterm_frame(t->there, 0, 1, signs);
    mka_device_longterm_frame(t->there, 1, t->longterm.shape.kv_heads, t->longterm.centre);
}

/* ---- closing ---- */

/* The keys or values of a head's segment, from there to where closing wants them. */
static void fetch(mka_tiers *t, mka_ops *ops, int values, int head, int segment, float *points) {
    const mka_local_shape *s = &t->local.shape;
    size_t count = (size_t)t->longterm.shape.segment, d = (size_t)(values ? s->value_dim : s->key_dim),
           ld = (size_t)(s->key_dim + s->value_dim);
    float *rows = (float *)(void *)t->shared->packing;
    int first = mka_tiers_edge(t, segment * t->longterm.segment_blocks);
    ops->rows(ops, t->local.device, values, head, first, (int)count, rows, (int)d);
    for (size_t i = 0; i < count; i++)
        memcpy(points + i * ld + (values ? (size_t)s->key_dim : 0), rows + i * d, d * sizeof *rows);
}

typedef struct close_task {
    mka_tiers *tiers;
    mka_ops *ops;
    int segment, first, heads; /* of this round */
} close_task;

static unsigned char *closing_of(const mka_tiers *t, int place) {
    return t->shared->closing + (size_t)place * t->shared->closing_bytes;
}

static void close_share(void *argument, int thread, int threads) {
    const close_task *c = argument;
    mka_tiers *t = c->tiers;
    for (int i = thread; i < c->heads; i += threads) {
        mka_error error;
        if (mka_longterm_close(&t->longterm, c->ops->kernels, c->first + i, c->segment, closing_of(t, i), &error) != MKA_OK)
            mka_tiers_fail(t->shared, &error);
    }
}

void mka_there_close(mka_tiers *t, mka_ops *ops, int from, int to) {
    int heads = t->local.shape.kv_heads, most = t->shared->closers;
    for (int segment = from; segment < to; segment++)
        for (int first = 0; first < heads; first += most) {
            close_task task = {t, ops, segment, first, heads - first < most ? heads - first : most};
            for (int i = 0; i < task.heads; i++) {
                fetch(t, ops, 0, first + i, segment, (float *)(void *)closing_of(t, i));
                fetch(t, ops, 1, first + i, segment, (float *)(void *)closing_of(t, i));
            }
            mka_pool_run(ops->pool, close_share, &task);
            for (int i = 0; i < task.heads && !atomic_load(&t->shared->failed); i++) send_segment(t, first + i, segment);
            if (atomic_load(&t->shared->failed)) return;
        }
}

/* ---- a layer that stays dense ---- */

/* All tokens so far, none of which has been forgotten, into a cache in memory. */
static mka_status take_here(mka_tiers *t, mka_ops *ops, int length, mka_error *error) {
    mka_local_shape shape = t->local.shape;
    mka_local here;
    int keys = shape.kv_heads * shape.key_dim, values = shape.kv_heads * shape.value_dim, piece = t->longterm.shape.segment;
    shape.device = NULL;
    shape.capacity = t->longterm.shape.capacity;
    mka_status status = mka_local_create(&shape, &here, error);
    if (status) return status;
    float *rows = malloc((size_t)piece * (size_t)(keys + values) * sizeof *rows);
    if (!rows) {
        mka_local_destroy(&here);
        return mka_fail(error, MKA_NO_MEMORY, "no memory to take a layer's cache from the device");
    }
    for (int first = 0, n; first < length; first += n) {
        n = length - first < piece ? length - first : piece;
        float *at = rows + (size_t)n * (size_t)keys;
        for (int head = 0; head < shape.kv_heads; head++) {
            ops->rows(ops, t->local.device, 0, head, first, n, rows + head * shape.key_dim, keys);
            ops->rows(ops, t->local.device, 1, head, first, n, at + head * shape.value_dim, values);
        }
        mka_local_store(&here, ops->host, first, n, rows, keys, at, values);
    }
    free(rows);
    mka_local_destroy(&t->local);
    t->local = here;
    return MKA_OK;
}

void mka_there_take_here(mka_tiers *t, mka_ops *ops, int length) {
    mka_error error;
    mka_there_destroy(t);
    if (take_here(t, ops, length, &error) != MKA_OK) mka_tiers_fail(t->shared, &error);
}

void mka_there_stay_dense(mka_tiers *t, mka_ops *ops, int length) {
    mka_error error;
    mka_there_destroy(t); /* makes room */
    if (mka_device_cache_grow(t->local.device, t->longterm.shape.capacity, length, &error) == MKA_OK) {
        t->local.shape.capacity = t->longterm.shape.capacity;
        return;
    }
    mka_log(ops->engine, MKA_LOG_WARN, "a layer whose keys long-term memory does not fit goes to the CPU: %s", error.message);
    mka_there_take_here(t, ops, length);
}

void mka_there_go_back(mka_tiers *t, mka_ops *ops) {
    mka_error error;
    if (mka_there_create(t, &error) == MKA_OK) return;
    mka_log(ops->engine, MKA_LOG_WARN, "a layer's long-term memory does not fit the device, and goes to the CPU: %s",
            error.message);
    mka_there_take_here(t, ops, 0);
}

void mka_there_filled(mka_tiers *t) {
    int segments = t->longterm.blocks / t->longterm.segment_blocks;
    mka_there_freeze(t);
    for (int segment = 0; segment < segments; segment++)
        for (int head = 0; head < t->local.shape.kv_heads && !atomic_load(&t->shared->failed); head++)
            send_segment(t, head, segment);
}

/* ---- attention ---- */

/* What is known without asking the device. */
static void count_call(mka_tiers *t, const mka_attend_job *job, int blocks, mka_used *used) {
    const mka_longterm *l = &t->longterm;
    uint64_t queries = (uint64_t)job->n, segments = (uint64_t)(blocks / l->segment_blocks);
    used->queries += queries;
    used->long_tokens += queries * segments * (uint64_t)l->shape.segment;
    mka_contract contract = t->shared->plan.recall.contract;
    if (contract != MKA_RECALL_DENSE)
        used->scan_bytes += queries * segments * (uint64_t)(l->segment - (size_t)l->tiles * l->mean_tile);
    if (contract == MKA_RECALL_CERTIFIED) used->lost_bound = fmax(used->lost_bound, (double)t->shared->plan.recall.eps);
}

/* A job's recall behind blocks closed blocks; local is room for what it is of the local tier. */
static mka_recall_job_there recall_job(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, int blocks, mka_attend_job *local) {
    const mka_longterm *l = &t->longterm;
    int segments = blocks / l->segment_blocks;
    *local = *job;
    mka_local_job(&t->local, job->first + job->n, local);
    local->skip_from = t->shared->plan.sinks;
    local->skip_to = mka_tiers_edge(t, blocks);
    t->pool = ops->pool;
    return (mka_recall_job_there){.local = local,
                                  .longterm = t->there,
                                  .segments = segments,
                                  .rule = &t->shared->plan.recall,
                                  .change = MKA_RECALL_ERROR / sqrtf((float)(segments * l->clusters)),
                                  .value = MKA_RECALL_VALUE,
                                  .tile = MKA_RECALL_TILE,
                                  .fetch = mka_there_fetch,
                                  .owner = t};
}

/* What the guess of another layer's query comes to, which sees the tokens that are stored there. */
static mka_recall_job_there expected_job(mka_tiers_shared *s, mka_ops *ops, mka_attend_job *local) {
    mka_tiers *t = s->expected;
    mka_attend_job guess = s->guess;
    int behind = mka_tiers_behind(t, guess.first), blocks = behind < t->longterm.blocks ? behind : t->longterm.blocks;
    guess.first--;
    return recall_job(t, ops, &guess, blocks, local);
}

static void run_recall(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, int blocks, const mka_recall *rule, float *out,
                       float *read) {
    mka_tiers_shared *s = t->shared;
    mka_attend_job local, local_ahead;
    mka_recall_job_there there = recall_job(t, ops, job, blocks, &local), ahead;
    local.out = out;
    there.rule = rule;
    there.read = read;
    /* a guess of its own came too late: a layer before recalled nothing */
    if (s->expected && s->expected != t && job->n == 1) {
        ahead = expected_job(s, ops, &local_ahead);
        there.ahead = &ahead;
    }
    s->expected = NULL;
    ops->recall(ops, &there);
}

/* The same query by reading everything, held against what recall gave. What that counts is not this call's. */
static void compare(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, int blocks) {
    const mka_recall all = {.contract = MKA_RECALL_DENSE};
    mka_watch *w = t->shared->watch;
    run_recall(t, ops, job, blocks, &all, w->out, w->whole);
    mka_device_longterm_counts(t->there, t->counted);
    ops->get(ops, job->out, (size_t)job->heads * (size_t)t->local.shape.value_dim * sizeof(float));
    mka_watch_note(w, t->heads, job->heads, t->local.shape.kv_heads, t->local.shape.value_dim, job->out);
}

void mka_there_attend(mka_tiers *t, mka_ops *ops, const mka_attend_job *job, int blocks) {
    mka_head_used *heads = mka_watch_heads(t);
    mka_watch *w = t->shared->watch;
    int comparing = heads && w->compare && job->n == 1;
    uint64_t before = ops->cache_bytes, scanned = t->shared->used.scan_bytes;
    run_recall(t, ops, job, blocks, &t->shared->plan.recall, job->out, comparing ? w->read : NULL);
    t->shared->used.local_bytes += ops->cache_bytes - before;
    t->uncounted = 1;
    for (int h = 0; h < t->local.shape.kv_heads; h++) count_call(t, job, blocks, &t->shared->used);
    uint64_t local = ops->cache_bytes - before;
    ops->cache_bytes += t->shared->used.scan_bytes - scanned;
    for (int h = 0; heads && h < t->local.shape.kv_heads; h++) count_call(t, job, blocks, &heads[h].used);
    if (!heads) return;
    mka_watch_local(t, job, local);
    mka_there_collect(t, ops);
    if (comparing) compare(t, ops, job, blocks);
}

int mka_tiers_looks_ahead(const mka_tiers *t, int position) {
    return t->there && t->longterm.blocks > 0 && mka_tiers_behind(t, position) > 0 &&
           t->shared->plan.recall.contract != MKA_RECALL_DENSE && mka_device_longterm_looks_ahead(t->there);
}

void mka_tiers_expect(mka_tiers *t, int position, const mka_attend_job *job) {
    t->shared->expected = t;
    t->shared->guess = *job;
    t->shared->guess.first = position;
    t->shared->guess.n = 1;
}

void mka_there_collect(mka_tiers *t, mka_ops *ops) {
    const mka_longterm *l = &t->longterm;
    int heads = t->local.shape.kv_heads;
    if (!t->there || !t->uncounted) return;
    t->uncounted = 0;
    mka_device_counts *last = t->counted, *all = last + heads;
    mka_device_longterm_counts(t->there, all);
    for (int h = 0; h < heads; h++, last++) {
        mka_device_counts now = all[h];
        mka_used more = {.scored_tokens = now.keys - last->keys,
                         .read_tokens = now.values - last->values,
                         .mean_bytes = (now.tiles - last->tiles) * l->mean_tile,
                         .unread_mass = (double)(now.unread - last->unread) * 0x1p-32};
        more.key_bytes = more.scored_tokens * l->key_row;
        more.value_bytes = more.read_tokens * l->value_row;
        ops->cache_bytes += more.mean_bytes + more.key_bytes + more.value_bytes;
        mka_used_add(&t->shared->used, &more);
        if (mka_watch_heads(t)) mka_used_add(&t->heads[h].used, &more);
        *last = now;
    }
}
