/* attend_fast - attention by kernels that are made for one use: on NVIDIA's matrix units decoding of long caches and causal
 * prompts, elsewhere prompts in plain float32 tiles. attend.cl takes what has no place here: latents, rings and blocks of a
 * cache, running states. */
#include <stdio.h>

#include "cache.h"

enum {
    MOST_ROWS = 16,    /* of decoding's tile */
    MOST_TOKENS = 8,   /* each count is a kernel of its own */
    MOST_SPLITS = 160, /* as attend_parts_nv.cl has it */
    NEAR_SPLITS = 4,   /* of them, at most, of a ring's tokens */
    LEAST_SPLIT = 128, /* keys */
    STEP = 16,         /* of them, by which splits differ */
    WARP = 32,
    MOST_CHAIN_KEYS = 1 << 13, /* of a link of a chain; a launch of its own reads more of them faster */
    PREFILL_ITEMS = 256,       /* a group's on the matrix unit */
    PLAIN_ITEMS = 128,
    NV_QUERIES = 128, /* of a group */
    PLAIN_QUERIES = 64,
    LEAST_PLAIN = 16, /* queries: fewer leave most of a tile idle */
    PLAIN_LOCAL = 48 << 10
};

static size_t decode_splits(const mka_device *d, int kv_heads) {
    size_t splits = (size_t)d->info.units / (size_t)kv_heads, most = MOST_SPLITS - NEAR_SPLITS;
    return splits < 1 ? 1 : splits > most ? most : splits;
}

size_t mka_cl_decode_partial(const mka_device *d, const struct mka_ops_limits *limits) {
    if (!d->nv || limits->kv_heads == 0) return 0;
    return (size_t)limits->kv_heads * (decode_splits(d, limits->kv_heads) + NEAR_SPLITS) * MOST_ROWS *
           ((size_t)limits->value_dim + 2);
}

/* Whether the matrix unit's kernels know the cache. */
static int known_to_nv(const mka_ops *ops, const mka_device_cache *c) {
    const mka_device_cache_shape *s = &c->shape;
    mka_type t = s->key_type;
    if (!c->device->nv || ops->exact || s->shared || t != s->value_type || s->key_dim != s->value_dim) return 0;
    if (s->key_dim % (t == MKA_Q4_0 ? 64 : 16) != 0 || s->key_dim > 256) return 0;
    return t == MKA_F16 || t == MKA_BF16 || t == MKA_Q8_0 || t == MKA_Q4_0;
}

static int decodes(const mka_attend_job *job) {
    return job->n <= MOST_TOKENS && job->n * (job->heads / job->kv_heads) <= MOST_ROWS;
}

/* Where keys and values are: the cache's own planes, or those of its ring. Positions from gap_from on are in slots that lie shift
 * further on. */
typedef struct rows {
    const mka_cl_plane *keys, *values;
    int capacity; /* slots of a head */
    int gap_from, shift;
} rows;

static rows planes_of(const mka_attend_job *job, int shift) {
    const mka_device_cache *c = job->device;
    return (rows){&c->keys, &c->values, c->capacity, job->skip_from, shift};
}

/* Positions from `from` on, counted without those that the job skips, which lie in one piece. */
static rows ring_of(const mka_attend_job *job, int from) {
    const mka_device_cache *c = job->device;
    return (rows){&c->near_keys, &c->near_values, 2 * c->ring, 0, (from + job->skip_to - job->skip_from) % c->ring - from};
}

/* The kernel of this use for so many tokens, built at the first; NULL: the driver refuses, and the device knows. */
static cl_kernel kernel_of(const mka_attend_job *job, const rows *r, cl_kernel *kept, const char *file, const char *name,
                           const char *more) {
    mka_device_cache *c = job->device;
    mka_error error;
    if (!*kept && mka_cl_kernel(c->device, file, name, kept, &error,
                                "-DKEY_TYPE=%d -DVALUE_TYPE=%d -DKEY_DIM=%d -DVALUE_DIM=%d -DGROUP=%d -DN=%d %s",
                                (int)r->keys->type, (int)r->values->type, c->keys.dim, c->shape.value_dim,
                                job->heads / job->kv_heads, decodes(job) ? job->n : 1, more) != MKA_OK)
        mka_cl_keep_failure(c->device, &error);
    return *kept;
}

/* Arguments that all these kernels have: the rows', and what is seen of them. */
static void common(mka_cl_call *c, const mka_attend_job *job, const rows *r, int begin, int end) {
    mka_cl_buffer(c, r->keys->buffer, 0);
    mka_cl_long(c, r->keys->scales_at);
    mka_cl_buffer(c, r->values->buffer, 0);
    mka_cl_long(c, r->values->scales_at);
    const int numbers[] = {r->capacity, begin, end, job->first, job->n, job->window};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) mka_cl_int(c, numbers[i]);
    mka_cl_float(c, job->scale);
}

static void query(mka_cl_call *c, const mka_attend_job *job) {
    size_t width = (size_t)job->key_dim;
    mka_cl_in(c, job->q, (size_t)job->n * (size_t)job->heads, width, width);
}

static void output(mka_cl_call *c, const mka_attend_job *job) {
    size_t width = (size_t)job->value_dim;
    mka_cl_out(c, job->out, (size_t)job->n * (size_t)job->heads, width, width);
}

int mka_cl_attend_turns(const mka_ops *ops, const mka_cl_turn *t) {
    const mka_device_cache *c = t->cache;
    const mka_rotation *r = &t->rotation;
    const mka_mirror *m = ops->mirror;
    if (t->n != 1 || !t->has_rotation || !r->q || c->base || c->ring || !known_to_nv(ops, c)) return 0;
    if (r->heads > 8 * c->shape.kv_heads) return 0;
    if (r->pairs && (!mka_cl_mirrored(m, r->cosine) || !mka_cl_mirrored(m, r->sine))) return 0;
    return mka_cl_mirrored(m, r->q) && mka_cl_mirrored(m, t->keys) && mka_cl_mirrored(m, t->values);
}

/* Parts that keys begin..end - 1 of a head are cut into. */
static int splits_of(const mka_device *d, const mka_attend_job *job, int begin, int end) {
    int splits = (int)decode_splits(d, job->kv_heads), most = (end - begin + LEAST_SPLIT - 1) / LEAST_SPLIT;
    return splits < most ? splits : most;
}

/* A token's attention as a link of a chain (chain_nv.cl), which turns and stores the token first; 0: it has no place there. */
static int chain_attend(mka_ops *ops, const mka_attend_job *job, int begin, int end) {
    mka_mirror *m = ops->mirror;
    mka_device_cache *c = job->device;
    const mka_cl_turn *t = &m->chain.turn;
    const mka_rotation *r = &t->rotation;
    int dim = c->shape.key_dim, keys = end - begin, splits = splits_of(m->device, job, begin, end),
        split_keys = mka_pad((keys + splits - 1) / splits, 32);
    if (t->cache != c || t->first != job->first || end != job->first + 1 || r->q != job->q || r->heads != job->heads) return 0;
    if (end - begin > MOST_CHAIN_KEYS || !mka_cl_mirrored(m, job->out)) return 0;
    mka_cl_link *l = mka_cl_chain_attend(m, c->shape.key_type, dim, job->heads / job->kv_heads);
    if (!l) return 0;
    const uint64_t places[] = {mka_cl_chain_operand(m, r->q),
                               mka_cl_chain_operand(m, t->keys),
                               mka_cl_chain_operand(m, t->values),
                               mka_cl_chain_operand(m, r->cosine),
                               mka_cl_chain_operand(m, r->sine),
                               mka_cl_chain_vector(m, r->q_norm, dim),
                               mka_cl_chain_vector(m, r->k_norm, dim),
                               mka_cl_chain_place(m, c->keys.buffer, 0),
                               mka_cl_chain_place(m, c->keys.buffer, c->keys.scales_at),
                               mka_cl_chain_place(m, c->values.buffer, 0),
                               mka_cl_chain_place(m, c->values.buffer, c->values.scales_at),
                               mka_cl_chain_place(m, m->scratch, 0),
                               mka_cl_chain_place(m, m->scratch, m->parts.counters * sizeof(float)),
                               mka_cl_chain_operand(m, job->out)};
    const int numbers[] = {1,           r->neighbours ? MKA_CL_PAIRS : 0,     r->pairs,   c->capacity,  job->first, begin, end,
                           job->window, (keys + split_keys - 1) / split_keys, split_keys, job->kv_heads};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) l->at[i] = places[i];
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) l->n[i] = numbers[i];
    l->f[0] = r->eps;
    l->f[1] = job->scale;
    m->chain.turn.cache = NULL;
    return 1;
}

/* What a kernel of decoding is made for: all of a cache; turned rows of a cache or of its ring, where there may be a gap; the
 * same as states of splits, of queries that were turned before. */
typedef enum kind { WHOLE, TURNED, STATES } kind;

/* A group's warps: of codes, small ones, more are at work at once than their registers' number would else let. */
static int warps_of(const mka_attend_job *job, const rows *r) {
    int codes = r->keys->type == MKA_Q8_0 || r->keys->type == MKA_Q4_0;
    return codes && r->keys->dim <= 128 && job->n * (job->heads / job->kv_heads) <= 8 ? 12 : 8;
}

/* Few queries over many keys in splits, whose parts are number `first` on; the launch that has the last of parts finishes out. Of
 * STATES they stay in scratch. */
static void decode(mka_ops *ops, const mka_attend_job *job, const rows *r, kind use, cl_kernel *kept, int begin, int end,
                   int splits, int first, int parts) {
    static const char *const options[] = {"-DFUSED=1", "-DFUSED=1 -DTURNED=1 -DGAP=1", "-DGAP=1"};
    mka_mirror *m = ops->mirror;
    char more[64];
    int warps = warps_of(job, r), steps = (end - begin + STEP - 1) / STEP;
    snprintf(more, sizeof more, "-DWARPS=%d %s", warps, options[use]);
    cl_kernel kernel = kernel_of(job, r, kept, "attend_decode_nv", use == STATES ? "attend_decode" : "attend_decode_fused", more);
    if (!kernel) return;
    mka_cl_call c = mka_cl_begin(m, kernel, "attend_decode");
    if (use == STATES && job->key_type == MKA_Q4_0)
        mka_cl_buffer(&c, m->scratch, m->parts.queries);
    else
        query(&c, job);
    common(&c, job, r, begin, end);
    mka_cl_int(&c, steps / splits);
    mka_cl_int(&c, steps % splits);
    mka_cl_buffer(&c, m->scratch, 0);
    mka_cl_int(&c, first);
    if (use != WHOLE) mka_cl_int(&c, r->gap_from);
    if (use != WHOLE) mka_cl_int(&c, r->shift);
    if (use != STATES) {
        mka_cl_int(&c, parts);
        mka_cl_buffer(&c, m->scratch, m->parts.counters);
    }
    if (use != STATES && first + splits == parts)
        output(&c, job);
    else if (use != STATES)
        mka_cl_buffer(&c, m->scratch, 0);
    mka_cl_run(&c, (size_t)warps * WARP, (size_t)splits, (size_t)job->kv_heads, 1);
}

/* A prompt by the matrix unit (nv 1) or in plain float32. states 1: as one state of every row in scratch; then rows may lie shift
 * further on. */
static void prefill(mka_ops *ops, const mka_attend_job *job, int shift, int begin, int end, int nv, int states) {
    mka_device_cache *cache = job->device;
    size_t queries = nv ? NV_QUERIES : PLAIN_QUERIES;
    cl_kernel *kept = states ? &cache->prefill_states : nv ? &cache->prefill_nv : &cache->prefill;
    const rows r = planes_of(job, shift);
    cl_kernel kernel =
        kernel_of(job, &r, kept, nv ? "attend_prefill_nv" : "attend_prefill", "attend_prefill", states ? "-DSTATES=1" : "");
    if (!kernel) return;
    mka_cl_call c = mka_cl_begin(ops->mirror, kernel, "attend_prefill");
    query(&c, job);
    common(&c, job, &r, begin, end);
    if (states) {
        mka_cl_buffer(&c, ops->mirror->scratch, 0);
        mka_cl_int(&c, r.gap_from);
        mka_cl_int(&c, r.shift);
    } else {
        output(&c, job);
    }
    mka_cl_run(&c, nv ? PREFILL_ITEMS : PLAIN_ITEMS, ((size_t)job->n + queries - 1) / queries, (size_t)job->heads, 1);
}

static int plain_prefill_serves(const mka_attend_job *job) {
    const mka_device_cache *c = job->device;
    const mka_device_cache_shape *s = &c->shape;
    if (c->device->lanes == 1 || s->shared || job->n < LEAST_PLAIN || c->device->local_memory < PLAIN_LOCAL) return 0;
    return s->key_dim % 4 == 0 && s->value_dim % 4 == 0 && s->key_dim <= 256 && s->value_dim <= 256;
}

int mka_cl_attend_whole(mka_ops *ops, const mka_attend_job *job, int begin, int end) {
    const rows r = planes_of(job, 0);
    if (job->device->ring || job->m || job->key_first != 0 || job->skip_to > job->skip_from || end <= begin) return 0;
    int nv = known_to_nv(ops, job->device), splits = splits_of(ops->mirror->device, job, begin, end);
    if (!nv && !plain_prefill_serves(job)) return 0;
    if (!nv || !decodes(job))
        prefill(ops, job, 0, begin, end, nv, 0);
    else if (!chain_attend(ops, job, begin, end))
        decode(ops, job, &r, WHOLE, &job->device->decode[job->n], begin, end, splits, 0, splits);
    return 1;
}

int mka_cl_attend_turned(mka_ops *ops, const mka_attend_job *job, int shift, int begin, int far_end, int near_begin, int end) {
    mka_device_cache *c = job->device;
    const mka_device *d = ops->mirror->device;
    if (!c->turned_run || job->m || job->key_first != 0 || !known_to_nv(ops, c) || !decodes(job)) return 0;
    const rows far = planes_of(job, shift), near = ring_of(job, near_begin);
    int fars = far_end > begin ? splits_of(d, job, begin, far_end) : 0;
    int nears = end > near_begin ? splits_of(d, job, near_begin, end) : 0;
    if (nears > NEAR_SPLITS) nears = NEAR_SPLITS;
    if (fars) decode(ops, job, &far, TURNED, &c->decode[job->n], begin, far_end, fars, 0, fars + nears);
    if (nears) decode(ops, job, &near, TURNED, &c->near_decode[job->n], near_begin, end, nears, fars, fars + nears);
    return fars + nears > 0;
}

int mka_cl_attend_far(mka_ops *ops, const mka_attend_job *job, int shift, int begin, int end) {
    if (job->key_first != 0 || end <= begin || !known_to_nv(ops, job->device)) return 0;
    const rows r = planes_of(job, shift);
    int splits = splits_of(ops->mirror->device, job, begin, end);
    if (!decodes(job) && job->device->ring) return 0;
    if (decodes(job))
        decode(ops, job, &r, STATES, &job->device->states[job->n], begin, end, splits, 0, 0);
    else
        prefill(ops, job, shift, begin, end, 1, 1);
    return decodes(job) ? splits : 1;
}

int mka_cl_attend_near(mka_ops *ops, const mka_attend_job *job, int begin, int end, int first) {
    const rows r = ring_of(job, begin);
    if (job->key_first != 0 || !known_to_nv(ops, job->device) || !decodes(job)) return 0;
    int splits = splits_of(ops->mirror->device, job, begin, end);
    decode(ops, job, &r, STATES, &job->device->near_states[job->n], begin, end, splits, first, 0);
    return splits;
}
