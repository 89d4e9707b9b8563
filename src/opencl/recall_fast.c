/* recall_fast - the default rule of recall on NVIDIA's matrix units: three launches after the local tier's
 * (kernels/recall_nv.cl). recall.c takes what has no place here. */
#include <stdio.h>

#include "cache.h"
#include "longterm.h"

enum {
    LEAST_CLUSTERS = 32,
    MOST_ROWS = 16,      /* query heads of a key/value head */
    MOST_WEIGHTS = 8192, /* that a group keeps in its own memory */
    MOST_NEAR = 64,      /* groups that attend to the local tier */
    MOST_NEAR_QUERIES = 2,
    NEAR_TOKENS = 16, /* of a warp, of which a group has one for every 32 clusters */
    GROUPS_A_UNIT = 2,
    ITEMS = 256
};

static size_t padded_rows(int group) {
    return (size_t)mka_pad(group, 8);
}

/* Segments of a group at most, and what they are where so many groups are to be. */
static int most_run(int group, int clusters) {
    int run = MOST_WEIGHTS / (int)padded_rows(group) / clusters;
    return run < 1 ? 1 : run;
}

static int run_of(const mka_device *d, int group, int clusters, int segments, int pairs) {
    size_t groups = (size_t)d->info.units * GROUPS_A_UNIT, all = (size_t)segments * (size_t)pairs;
    size_t run = (all + groups - 1) / groups, most = (size_t)most_run(group, clusters);
    return run > most ? (int)most : run < 1 ? 1 : (int)run;
}

size_t mka_cl_recall_nv_floats(int group, int kv_heads, int dim, int segments, int clusters) {
    size_t rows = padded_rows(group), all = (size_t)segments, d = (size_t)dim;
    size_t states = rows * (d + 1) + all * rows * (4 + (size_t)clusters),
           parts = (all + MOST_NEAR) * (rows * 4 + (size_t)group * d);
    return (size_t)kv_heads * (states + parts);
}

/* Groups that attend to the local tier in the first launch; 0: a launch before does. */
int mka_cl_recall_nv_near(const mka_recall_job_there *job) {
    const mka_attend_job *local = job->local;
    const mka_device_cache_shape *s = &local->device->shape;
    int gap = local->skip_to - local->skip_from, seen = local->first + local->n - gap,
        each = job->longterm->shape.clusters / LEAST_CLUSTERS * NEAR_TOKENS, parts = (seen + each - 1) / each;
    if (s->key_type != MKA_F16 || s->value_type != MKA_F16 || local->n > MOST_NEAR_QUERIES || parts > MOST_NEAR) return 0;
    return parts;
}

/* Returns 0 where the compiler refuses: plain kernels recall instead, from then on. */
static int build(mka_device_longterm *l, int group) {
    mka_error error;
    const mka_device_longterm_shape *s = &l->shape;
    char ring[24];
    snprintf(ring, sizeof ring, "-DRING=%d", s->ring);
    const struct {
        const char *file, *name, *more;
        cl_kernel *kernel;
    } all[] = {{"recall_score_nv", "recall_score", "", &l->nv_score},
               {"recall_score_nv", "recall_score", "-DLOCAL=1", &l->nv_score_near},
               {"recall_read_nv", "recall_read", ring, &l->nv_read},
               {"recall_read_nv", "recall_missing", ring, &l->ring.nv}};
    mka_status status = MKA_OK;
    if (l->nv_group == group) return 1;
    /* two groups a unit, where that is a matter of a few registers */
    const char *registers = s->key_dim <= 128 && group <= 8 ? "-cl-nv-maxrregcount=128" : "";
    for (size_t i = 0; i < sizeof all / sizeof *all - !s->ring && !status; i++)
        status = mka_cl_kernel(l->device, all[i].file, all[i].name, all[i].kernel, &error,
                               "-DKEY_TYPE=%d -DKEY_DIM=%d -DVALUE_DIM=%d -DGROUP=%d -DSEGMENT=%d -DCLUSTERS=%d -DRUN=%d %s %s",
                               (int)s->key_type, s->key_dim, s->value_dim, group, s->segment, s->clusters,
                               most_run(group, s->clusters), registers, all[i].more);
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
    return build(job->longterm, group);
}

static void score(const mka_cl_recall_round *r, int parts, int near) {
    const mka_attend_job *local = &r->local;
    mka_device_longterm *l = r->longterm;
    size_t width = (size_t)local->key_dim;
    mka_cl_call c = mka_cl_begin(r->mirror, near ? l->nv_score_near : l->nv_score, "recall_score");
    mka_cl_in(&c, local->q, (size_t)local->n * (size_t)local->heads, width, width);
    mka_cl_float(&c, local->scale);
    mka_cl_buffer(&c, l->frame, 0);
    mka_cl_buffer(&c, l->index, 0);
    mka_cl_int(&c, l->shape.segments);
    mka_cl_int(&c, parts);
    mka_cl_int(&c, near);
    mka_cl_buffer(&c, r->mirror->scratch, r->mirror->parts.recall);
    if (near) {
        const mka_device_cache *cache = local->device;
        int gap = local->skip_to - local->skip_from;
        mka_cl_buffer(&c, cache->keys.buffer, 0);
        mka_cl_buffer(&c, cache->values.buffer, 0);
        const int numbers[] = {cache->capacity, local->skip_from, gap - cache->base, local->first - gap + 1};
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) mka_cl_int(&c, numbers[i]);
    }
    mka_cl_run(&c, (size_t)l->shape.clusters, (size_t)(near + r->job->segments), (size_t)local->kv_heads, (size_t)local->n);
}

/* As of recall.c: what the second launch will want. */
static int fetch_missing(const mka_cl_recall_round *r, int run, int parts, int near) {
    mka_device_longterm *l = r->longterm;
    mka_cl_ring_begin(l);
    mka_cl_call c = mka_cl_begin(r->mirror, l->ring.nv, "recall_missing");
    mka_cl_buffer(&c, l->index, 0);
    mka_cl_int(&c, l->shape.segments);
    mka_cl_int(&c, r->job->segments);
    mka_cl_int(&c, run);
    mka_cl_int(&c, near);
    mka_cl_recall_near(&c, r);
    mka_cl_float(&c, r->job->change);
    mka_cl_buffer(&c, r->mirror->scratch, r->mirror->parts.recall);
    mka_cl_ring_list(&c, l);
    mka_cl_run(&c, ITEMS, (size_t)parts, (size_t)r->local.kv_heads, (size_t)r->local.n);
    return mka_cl_ring_fetch(r);
}

static void read_rows(const mka_cl_recall_round *r, int run, int parts, int near) {
    const mka_attend_job *local = &r->local;
    mka_device_longterm *l = r->longterm;
    size_t rows = (size_t)local->n * (size_t)local->heads, width = (size_t)local->value_dim;
    mka_cl_call c = mka_cl_begin(r->mirror, l->nv_read, "recall_read");
    mka_cl_buffer(&c, l->index, 0);
    mka_cl_buffer(&c, l->rows, 0);
    mka_cl_int(&c, l->shape.segments);
    mka_cl_int(&c, r->job->segments);
    mka_cl_ring_table(&c, l);
    mka_cl_int(&c, run);
    mka_cl_int(&c, near);
    mka_cl_recall_near(&c, r);
    mka_cl_float(&c, r->job->change);
    mka_cl_float(&c, r->job->value);
    mka_cl_float(&c, r->job->change * r->job->tile);
    mka_cl_buffer(&c, r->mirror->scratch, r->mirror->parts.recall);
    mka_cl_buffer(&c, r->mirror->scratch, r->mirror->parts.counters);
    mka_cl_out(&c, local->out, rows, width, width);
    mka_cl_buffer(&c, l->counts, 0);
    mka_cl_run(&c, ITEMS, (size_t)parts, (size_t)local->kv_heads, (size_t)local->n);
}

int mka_cl_recall_nv(const mka_cl_recall_round *r) {
    mka_device_longterm *l = r->longterm;
    int group = r->local.heads / r->local.kv_heads, near = r->parts ? 0 : mka_cl_recall_nv_near(r->job);
    int run = run_of(l->device, group, l->shape.clusters, r->job->segments, r->local.n * r->local.kv_heads);
    int parts = (r->job->segments + run - 1) / run;
    score(r, parts, near);
    if (l->shape.ring && !fetch_missing(r, run, parts, near)) return 0;
    read_rows(r, run, parts, near);
    return 1;
}
