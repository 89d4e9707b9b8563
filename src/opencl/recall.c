/* recall - attention over a cache and its long-term tier on the device: the phases of kernels/recall.cl, for so many queries at a
 * time as their states leave room for. */
#include <math.h>

#include "cache.h"
#include "longterm.h"

enum { MOST_QUERIES = MKA_CL_RECALL_QUERIES, ROW_STATE = 8, SEGMENT_STATE = 4, COUNTS = 4 };
static const size_t round_floats = (size_t)16 << 20; /* of states, aimed for */

/* What one query takes of scratch, in floats: place_work of recall.cl. */
static size_t query_floats(size_t heads, size_t kv_heads, int key_dim, int value_dim, size_t segments, size_t clusters) {
    size_t segment = heads * (SEGMENT_STATE + clusters + (size_t)value_dim + 2) + kv_heads * COUNTS;
    return heads * ((size_t)key_dim + ROW_STATE) + segments * segment;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static int queries_of(size_t floats, int rows) {
    size_t fit = round_floats / floats, most = rows < MOST_QUERIES ? (size_t)rows : MOST_QUERIES;
    return fit < 1 ? 1 : fit > most ? (int)most : (int)fit;
}

size_t mka_cl_recall_floats(const mka_device *device, const struct mka_ops_limits *l) {
    if (l->segment == 0) return 0;
    size_t segments = ((size_t)l->context + (size_t)l->segment - 1) / (size_t)l->segment;
    size_t heads = (size_t)l->head_rows * (size_t)l->kv_heads;
    size_t one = query_floats(heads, (size_t)l->kv_heads, l->key_dim, l->value_dim, segments, (size_t)l->clusters);
    size_t most = one * (size_t)(l->rows < MOST_QUERIES ? l->rows : MOST_QUERIES), first = one;
    if (device->nv) first = larger(one, mka_cl_recall_nv_floats(device, l));
    if (most > round_floats) most = larger(one, round_floats); /* shorter contexts have more queries in a round */
    return larger(most, first + one);                          /* a query, and a guess of the next layer's */
}

void mka_cl_recall_near(mka_cl_call *c, const mka_cl_recall_round *r) {
    size_t heads = (size_t)r->local.heads;
    mka_cl_buffer(c, r->mirror->scratch, (size_t)r->done * heads * ((size_t)r->local.value_dim + 2));
    mka_cl_int(c, r->parts);
    mka_cl_int(c, r->job->local->n * r->local.heads);
}

static void work_operand(mka_cl_call *c, const mka_cl_recall_round *r) {
    mka_cl_buffer(c, r->mirror->scratch, r->work);
    mka_cl_int(c, r->local.n);
    mka_cl_int(c, r->local.kv_heads);
    mka_cl_int(c, r->job->segments);
}

static void query_operand(mka_cl_call *c, const mka_cl_recall_round *r) {
    size_t width = (size_t)r->local.key_dim;
    mka_cl_in(c, r->local.q, (size_t)r->local.n * (size_t)r->local.heads, width, width);
    mka_cl_float(c, r->local.scale);
}

static void prepare(const mka_cl_recall_round *r) {
    mka_cl_call c = mka_cl_begin(r->mirror, r->longterm->prepare, "prepare");
    query_operand(&c, r);
    mka_cl_buffer(&c, r->longterm->frame, 0);
    work_operand(&c, r);
    mka_cl_run(&c, (size_t)r->mirror->device->lanes, (size_t)r->local.n * (size_t)r->local.heads, 1, 1);
}

static void score(const mka_cl_recall_round *r) {
    mka_cl_call c = mka_cl_begin(r->mirror, r->longterm->score, "score");
    query_operand(&c, r);
    mka_cl_buffer(&c, r->longterm->index, 0);
    mka_cl_int(&c, r->longterm->shape.segments);
    mka_cl_int(&c, (int)r->job->rule->contract);
    work_operand(&c, r);
    mka_cl_run(&c, (size_t)r->mirror->device->lanes, (size_t)r->job->segments, (size_t)r->local.kv_heads, (size_t)r->local.n);
}

static void choose(const mka_cl_recall_round *r) {
    const mka_recall *rule = r->job->rule;
    mka_cl_call c = mka_cl_begin(r->mirror, r->longterm->choose, "choose");
    mka_cl_recall_near(&c, r);
    mka_cl_buffer(&c, r->longterm->index, 0);
    mka_cl_int(&c, r->longterm->shape.segments);
    mka_cl_int(&c, (int)rule->contract);
    mka_cl_float(&c, rule->share);
    mka_cl_int(&c, rule->tokens);
    mka_cl_float(&c, rule->eps);
    mka_cl_float(&c, r->job->change);
    mka_cl_float(&c, r->job->value);
    work_operand(&c, r);
    mka_cl_run(&c, (size_t)r->mirror->device->lanes, (size_t)r->local.kv_heads, (size_t)r->local.n, 1);
}

static int by_effect(const mka_recall *rule) {
    return rule->contract == MKA_RECALL_ESTIMATED && rule->tokens == 0 && rule->share <= 0;
}

static void list_missing(const mka_cl_recall_round *r, int from, int to) {
    mka_device_longterm *l = r->longterm;
    mka_cl_call c = mka_cl_begin(r->mirror, l->ring.plain, "missing");
    mka_cl_buffer(&c, l->index, 0);
    mka_cl_int(&c, l->shape.segments);
    mka_cl_int(&c, (int)r->job->rule->contract);
    mka_cl_int(&c, by_effect(r->job->rule));
    mka_cl_ring_list(&c, l);
    mka_cl_int(&c, from);
    work_operand(&c, r);
    mka_cl_run(&c, (size_t)r->mirror->device->lanes, (size_t)(to - from), (size_t)r->local.kv_heads, (size_t)r->local.n);
}

void mka_cl_recall_list(const mka_cl_recall_round *r) {
    if (r->nv)
        mka_cl_recall_nv_list(r);
    else
        list_missing(r, 0, r->job->segments);
}

/* Segments from..to - 1; what is missing of them comes first. 0: it is more than comes at once. */
static int fetch_missing(const mka_cl_recall_round *r, int from, int to) {
    mka_cl_ring_begin(r->longterm);
    list_missing(r, from, to);
    return mka_cl_ring_fetch(r);
}

static void read_rows(const mka_cl_recall_round *r, int from, int to) {
    const mka_recall *rule = r->job->rule;
    mka_cl_call c = mka_cl_begin(r->mirror, r->longterm->read, "read");
    mka_cl_buffer(&c, r->longterm->index, 0);
    mka_cl_buffer(&c, r->longterm->rows, 0);
    mka_cl_int(&c, r->longterm->shape.segments);
    mka_cl_ring_table(&c, r->longterm);
    mka_cl_int(&c, from);
    mka_cl_int(&c, (int)rule->contract);
    mka_cl_int(&c, by_effect(rule));
    mka_cl_float(&c, r->job->change * r->job->tile);
    work_operand(&c, r);
    mka_cl_run(&c, (size_t)r->mirror->device->lanes, (size_t)(to - from), (size_t)r->local.kv_heads, (size_t)r->local.n);
}

/* Where rows are in memory: of all segments at once if the ring takes what they miss, else of as many as it is sure to take. */
static void read_all(const mka_cl_recall_round *r) {
    mka_cl_recall_round piece = *r;
    piece.ahead = NULL;
    int segments = r->job->segments, step = r->longterm->shape.ring ? mka_cl_ring_segments(r->longterm) : segments;
    if (!r->longterm->shape.ring || fetch_missing(r, 0, segments)) {
        read_rows(r, 0, segments);
        return;
    }
    for (int from = 0; from < segments; from += step) {
        int to = segments - from < step ? segments : from + step;
        fetch_missing(&piece, from, to);
        read_rows(r, from, to);
    }
}

static void gather(const mka_cl_recall_round *r) {
    size_t rows = (size_t)r->local.n * (size_t)r->local.heads, width = (size_t)r->local.value_dim;
    mka_cl_call c = mka_cl_begin(r->mirror, r->longterm->gather, "gather");
    mka_cl_recall_near(&c, r);
    mka_cl_int(&c, r->local.device->turned_run);
    mka_cl_int(&c, (int)r->job->rule->contract);
    work_operand(&c, r);
    mka_cl_out(&c, r->local.out, rows, width, width);
    mka_cl_int(&c, r->job->read != NULL);
    if (r->job->read)
        mka_cl_out(&c, r->job->read + (size_t)r->done * (size_t)r->local.heads, 1, rows, rows);
    else
        mka_cl_buffer(&c, r->mirror->scratch, 0);
    mka_cl_run(&c, (size_t)r->mirror->device->lanes, rows, 1, 1);
}

static void tally(const mka_cl_recall_round *r) {
    mka_cl_call c = mka_cl_begin(r->mirror, r->longterm->tally, "tally");
    work_operand(&c, r);
    mka_cl_buffer(&c, r->longterm->counts, 0);
    mka_cl_run_each(&c, (size_t)r->local.kv_heads, 1);
}

/* Kernels are for one number of query heads, which a layer has. */
static mka_status build(mka_device_longterm *l, int group, mka_error *error) {
    const mka_device_longterm_shape *s = &l->shape;
    mka_status status = MKA_OK;
    if (l->group == group) return MKA_OK;
#define FIND_AS(name, kernel)                                                                                                    \
    if (!status)                                                                                                                 \
        status = mka_cl_kernel(l->device, "recall", #name, &kernel, error,                                                       \
                               "-DLANES=%d -DKEY_TYPE=%d -DVALUE_TYPE=%d -DKEY_DIM=%d -DVALUE_DIM=%d -DGROUP=%d -DSEGMENT=%d "   \
                               "-DCLUSTERS=%d -DRING=%d",                                                                        \
                               l->device->lanes, (int)s->key_type, (int)s->value_type, s->key_dim, s->value_dim, group,          \
                               s->segment, s->clusters, s->ring);
#define FIND(name) FIND_AS(name, l->name)
    MKA_CL_RECALL(FIND)
    if (s->ring) FIND_AS(missing, l->ring.plain)
#undef FIND
#undef FIND_AS
    if (!status) l->group = group;
    return status;
}

/* Queries from.. of the job, as a job. */
static mka_attend_job part_of(const mka_attend_job *job, int from, int n) {
    mka_attend_job part = *job;
    size_t row = (size_t)from * (size_t)job->heads;
    part.first = job->first + from;
    part.n = n;
    part.q = job->q + row * (size_t)job->key_dim;
    part.out = job->out + row * (size_t)job->value_dim;
    return part;
}

static void score_all(const mka_cl_recall_round *r) {
    prepare(r);
    if (r->job->rule->contract == MKA_RECALL_DENSE) return;
    score(r);
    choose(r);
}

static void run_phases(const mka_cl_recall_round *r) {
    score_all(r);
    read_all(r);
    gather(r);
    tally(r);
}

/* parts 0: the local tier's states were not made. */
static void run_plain(mka_ops *ops, const mka_cl_recall_round *r) {
    mka_error error;
    mka_recall_job_there job = *r->job;
    mka_cl_recall_round own = *r;
    if (r->parts == 0) own.ahead = NULL; /* the kernels before have listed that */
    if (build(r->longterm, r->local.heads / r->local.kv_heads, &error) != MKA_OK) {
        mka_cl_keep_failure(r->mirror->device, &error);
        return;
    }
    if (r->parts == 0) {
        job.local = &own.local;
        own.job = &job;
        own.done = 0;
        own.parts = mka_cl_attend_states(ops, &own.local);
    }
    run_phases(&own);
}

/* A guess of another tier's next query, whose states lie behind those of the job. Plain kernels score it before the job is, as
 * the local tiers of both have their states in one place; NVIDIA's do all of it in the launch that lists. It is not counted as
 * read. 0: nothing comes of it. */
static int score_ahead(mka_ops *ops, const mka_recall_job_there *job, size_t first, mka_cl_recall_round *r) {
    const mka_attend_job *local = job->local;
    uint64_t bytes = ops->cache_bytes;
    mka_error error;
    *r = (mka_cl_recall_round){.mirror = ops->mirror,
                               .job = job,
                               .local = *local,
                               .longterm = job->longterm,
                               .work = ops->mirror->parts.recall + first,
                               .nv = mka_cl_recall_nv_serves(ops, job)};
    if (r->nv && !mka_cl_recall_nv_near(job)) job->longterm->ring.patience = MKA_CL_MOST_PATIENCE;
    if (r->nv) return mka_cl_recall_nv_near(job);
    if (build(job->longterm, local->heads / local->kv_heads, &error) != MKA_OK) return 0; /* its own recall will say so */
    r->parts = mka_cl_attend_states(ops, local);
    ops->cache_bytes = bytes;
    score_all(r);
    return 1;
}

/* The caller holds the lock. ahead: NULL, or what is to be listed beside the job, which is one query. */
static void run_rounds(mka_ops *ops, const mka_recall_job_there *job, int nv, int most, const mka_cl_recall_round *ahead) {
    mka_device *d = ops->mirror->device;
    const mka_attend_job *local = job->local;
    int parts = 0;
    if (nv && mka_cl_recall_nv_near(job))
        mka_cl_attend_count(ops, local);
    else if (d->failure.status == MKA_OK)
        parts = mka_cl_attend_states(ops, local);
    for (int from = 0; from < local->n && d->failure.status == MKA_OK; from += most) {
        int n = local->n - from < most ? local->n - from : most;
        mka_cl_recall_round r = {.mirror = ops->mirror,
                                 .job = job,
                                 .local = part_of(local, from, n),
                                 .longterm = job->longterm,
                                 .parts = parts,
                                 .done = from,
                                 .work = ops->mirror->parts.recall,
                                 .ahead = ahead};
        if (!nv || !mka_cl_recall_nv(&r)) run_plain(ops, &r);
    }
}

static void device_recall(mka_ops *ops, const mka_recall_job_there *job) {
    mka_device *d = ops->mirror->device;
    const mka_attend_job *local = job->local;
    size_t one = query_floats((size_t)local->heads, (size_t)local->kv_heads, local->key_dim, local->value_dim,
                              (size_t)job->segments, (size_t)job->longterm->shape.clusters);
    mka_cl_recall_round ahead;
    pthread_mutex_lock(&d->lock);
    int nv = mka_cl_recall_nv_serves(ops, job), most = queries_of(one, local->n);
    if (nv) { /* what a ring has no room for goes to the plain kernels */
        int fast = mka_cl_recall_nv_queries(job);
        most = fast < most || !job->longterm->shape.ring ? fast : most;
        most = most > MOST_QUERIES ? MOST_QUERIES : most;
    }
    size_t first = nv ? larger(one, mka_cl_recall_nv_work(job)) : one;
    int guess = job->ahead && job->longterm->shape.ring && d->failure.status == MKA_OK && /* it is listed beside the job's list */
                score_ahead(ops, job->ahead, first, &ahead);
    run_rounds(ops, job, nv, most, guess ? &ahead : NULL);
    pthread_mutex_unlock(&d->lock);
}

void mka_cl_fill_recall(mka_ops *ops) {
    ops->recall = device_recall;
}
