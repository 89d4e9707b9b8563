/* recall_fast - the default rule of recall on NVIDIA's matrix units: one launch (kernels/recall_nv.cl), of as many queries or
 * heads as its groups have room for. recall.c takes what has no place here. */
#include <stdio.h>

#include "cache.h"
#include "longterm.h"

enum {
    LEAST_CLUSTERS = 32,
    MOST_ROWS = 16,    /* query heads of a key/value head */
    MOST_PARTS = 256,  /* as recall_read_nv.cl's BATCH */
    LEAST_PARTS = 16,  /* groups of a pair that has few segments: to read its rows */
    MOST_NEAR = 16384, /* tokens of the local tier that are not worth a launch of their own, */
    MOST_NEAR_QUERIES = 2
};
static const cl_ulong patience = 10000000000U; /* nanoseconds */

/* ---- how the work is cut ---- */

static size_t padded_rows(int group) {
    return (size_t)mka_pad(group, 8);
}

static int groups_of(const mka_device *d) {
    return d->info.units < MOST_PARTS ? d->info.units : MOST_PARTS;
}

/* Segments that a group is built for: no more than all heads' need at once, as far as registers and local memory go. */
static int run_of(const mka_device *d, int group, int dim, int kv_heads, int segments) {
    int run = 1, most = group > 8 || dim > 128 ? 4 : 8;
    while (run < most && (segments + run - 1) / run * kv_heads > groups_of(d)) run *= 2;
    return run;
}

static int run_of_tier(const mka_device_longterm *l, int group) {
    return run_of(l->device, group, l->shape.key_dim, l->shape.kv_heads, l->shape.segments);
}

/* Pairs of a query and a key/value head that a launch has room for; 0: not even for one. */
static int pairs_of(const mka_recall_job_there *job) {
    const mka_device_longterm *l = job->longterm;
    int run = run_of_tier(l, job->local->heads / job->local->kv_heads), least = (job->segments + run - 1) / run;
    return groups_of(l->device) / (least < 1 ? 1 : least);
}

/* What a launch's groups take: as recall_nv.cl's place_work. */
static size_t work_of(const mka_device *d, int group, size_t dim, size_t listed) {
    return (size_t)groups_of(d) * (padded_rows(group) * 6 + (size_t)group * dim + 1 + listed);
}

size_t mka_cl_recall_nv_floats(const mka_device *d, const struct mka_ops_limits *l) {
    int segments = (l->context + l->segment - 1) / l->segment;
    int run = run_of(d, l->head_rows, l->key_dim, l->kv_heads, segments);
    return work_of(d, l->head_rows, (size_t)l->key_dim, (size_t)run * (size_t)l->segment);
}

size_t mka_cl_recall_nv_work(const mka_recall_job_there *job) {
    const mka_device_longterm *l = job->longterm;
    int group = job->local->heads / job->local->kv_heads;
    return work_of(l->device, group, (size_t)l->shape.key_dim, (size_t)run_of_tier(l, group) * (size_t)l->shape.segment);
}

int mka_cl_recall_nv_queries(const mka_recall_job_there *job) {
    int queries = pairs_of(job) / job->local->kv_heads;
    return queries < 1 ? 1 : queries;
}

int mka_cl_recall_nv_near(const mka_recall_job_there *job) {
    const mka_attend_job *local = job->local;
    const mka_device_cache_shape *s = &local->device->shape;
    int seen = local->first + local->n - (local->skip_to - local->skip_from);
    return s->key_type == MKA_F16 && s->value_type == MKA_F16 && local->n <= MOST_NEAR_QUERIES && seen <= MOST_NEAR;
}

/* ---- kernels ---- */

/* Returns 0 where the compiler refuses: plain kernels recall instead, from then on. */
static int build(mka_device_longterm *l, int group) {
    mka_error error;
    const mka_device_longterm_shape *s = &l->shape;
    const struct {
        const char *name, *more;
        cl_kernel *kernel;
    } all[] = {{"recall_read", "", &l->nv_read}, {"recall_missing", "-DMISSING=1", &l->ring.nv}};
    mka_status status = MKA_OK;
    if (l->nv_group == group) return 1;
    for (size_t i = 0; i < sizeof all / sizeof *all - !s->ring && !status; i++)
        status = mka_cl_kernel(l->device, "recall_read_nv", all[i].name, all[i].kernel, &error,
                               "-DKEY_TYPE=%d -DKEY_DIM=%d -DVALUE_DIM=%d -DGROUP=%d -DSEGMENT=%d -DCLUSTERS=%d -DRUN=%d "
                               "-DRING=%d -DBULK=%d %s",
                               (int)s->key_type, s->key_dim, s->value_dim, group, s->segment, s->clusters, run_of_tier(l, group),
                               s->ring, l->device->capability >= 90, all[i].more);
    if (!status) {
        l->nv_group = group;
        return 1;
    }
    l->device->recall_refused = 1;
    mka_log(l->device->engine, MKA_LOG_WARN, "%s: plain kernels recall instead: %s", l->device->info.name, error.message);
    return 0;
}

int mka_cl_recall_nv_serves(const mka_ops *ops, const mka_recall_job_there *job) {
    const mka_device_longterm_shape *s = &job->longterm->shape;
    const mka_recall *rule = job->rule;
    int group = job->local->heads / job->local->kv_heads, d = s->key_dim;
    if (!job->longterm->device->nv || job->longterm->device->recall_refused || ops->exact || job->read ||
        job->local->device->turned_run)
        return 0;
    if (rule->contract != MKA_RECALL_ESTIMATED || rule->tokens > 0 || rule->share > 0) return 0;
    if (s->key_type != MKA_Q8_0 || s->value_type != MKA_Q8_0 || d != s->value_dim || s->clusters < LEAST_CLUSTERS) return 0;
    if ((d != 64 && d != 128 && (d != 256 || group > 8)) || group > MOST_ROWS) return 0;
    int pairs = pairs_of(job);
    if (pairs < 1 || (s->ring && pairs < s->kv_heads)) return 0;
    return build(job->longterm, group);
}

/* ---- a launch ---- */

typedef struct launch {
    const mka_cl_recall_round *round;
    int near;               /* 1: it has the local tier too */
    int from, pairs, parts; /* pairs, and groups of each */
    int run;                /* segments of a group */
} launch;

static size_t items(const mka_cl_recall_round *r) {
    size_t width = padded_rows(r->local.heads / r->local.kv_heads) / 8 * (size_t)r->longterm->shape.key_dim;
    return width <= 128 ? 512 : 256; /* as recall_nv.cl's ITEMS */
}

static launch cut(const mka_cl_recall_round *r, int near, int from, int pairs) {
    launch l = {r, near, from, pairs, 0, 0};
    int most = groups_of(r->longterm->device) / pairs, segments = r->job->segments;
    l.run = (segments + most - 1) / most;
    l.run = l.run < 1 ? 1 : l.run;
    l.parts = (segments + l.run - 1) / l.run;
    if (l.parts < LEAST_PARTS) l.parts = most < LEAST_PARTS ? most : LEAST_PARTS;
    return l;
}

/* The arguments that both kernels begin with. */
static void common_operands(mka_cl_call *c, const launch *a) {
    const mka_cl_recall_round *r = a->round;
    const mka_attend_job *local = &r->local;
    const mka_device_cache *cache = local->device;
    mka_device_longterm *l = r->longterm;
    size_t width = (size_t)local->key_dim;
    int gap = local->skip_to - local->skip_from;
    mka_cl_in(c, local->q, (size_t)local->n * (size_t)local->heads, width, width);
    mka_cl_float(c, local->scale);
    mka_cl_buffer(c, l->frame, 0);
    mka_cl_buffer(c, l->index, 0);
    mka_cl_buffer(c, l->rows, 0);
    const int shape[] = {l->shape.segments, r->job->segments, a->run, local->kv_heads, a->from};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) mka_cl_int(c, shape[i]);
    mka_cl_buffer(c, cache->keys.buffer, 0);
    mka_cl_buffer(c, cache->values.buffer, 0);
    const int near[] = {cache->capacity, local->skip_from, gap - cache->base, a->near ? local->first - gap + 1 : -1};
    for (size_t i = 0; i < sizeof near / sizeof *near; i++) mka_cl_int(c, near[i]);
    mka_cl_recall_near(c, r);
    mka_cl_float(c, r->job->change);
    mka_cl_float(c, r->job->change * r->job->tile);
    mka_cl_buffer(c, r->mirror->scratch, r->mirror->parts.recall);
    mka_cl_buffer(c, r->mirror->scratch, r->mirror->parts.counters);
    mka_cl_long(c, patience);
}

static void run(const launch *a, mka_cl_call *c) {
    mka_cl_run(c, items(a->round), (size_t)a->parts, (size_t)a->pairs, 1);
}

/* As of recall.c: what the launch that reads will want. */
static void list_missing(const launch *a) {
    mka_device_longterm *l = a->round->longterm;
    mka_cl_call c = mka_cl_begin(a->round->mirror, l->ring.nv, "recall_missing");
    common_operands(&c, a);
    mka_cl_ring_list(&c, l);
    run(a, &c);
}

static int fetch_missing(const launch *a) {
    mka_cl_ring_begin(a->round->longterm);
    list_missing(a);
    return mka_cl_ring_fetch(a->round);
}

/* In the scratch that the launch which reads takes anew. */
void mka_cl_recall_nv_list(const mka_cl_recall_round *r) {
    const launch a = cut(r, 1, 0, r->local.n * r->local.kv_heads);
    list_missing(&a);
}

static void read_rows(const launch *a) {
    const mka_cl_recall_round *r = a->round;
    const mka_attend_job *local = &r->local;
    size_t width = (size_t)local->value_dim;
    mka_cl_call c = mka_cl_begin(r->mirror, r->longterm->nv_read, "recall_read");
    common_operands(&c, a);
    mka_cl_ring_table(&c, r->longterm);
    mka_cl_out(&c, local->out, (size_t)local->n * (size_t)local->heads, width, width);
    mka_cl_buffer(&c, r->longterm->counts, 0);
    run(a, &c);
}

int mka_cl_recall_nv(const mka_cl_recall_round *r) {
    int all = r->local.n * r->local.kv_heads, fit = pairs_of(r->job), near = r->parts == 0;
    for (int from = 0; from < all; from += fit) {
        launch a = cut(r, near, from, all - from < fit ? all - from : fit);
        if (r->longterm->shape.ring && !fetch_missing(&a)) return 0; /* it is the only launch */
        read_rows(&a);
    }
    return 1;
}
