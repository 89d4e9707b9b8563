/* bench_store - see bench_store.h. */
#include "bench_store.h"

#include <stdlib.h>
#include <string.h>

enum { FILL = 64, SETTLE = 1024, SETS = 64 };

int mka_bench_store_same(const mka_bench_store *a, const mka_bench_store *b, const mka_bench_kv *kv) {
    if (a->engine != b->engine || a->variant != b->variant || a->heads != b->heads || a->kv_heads != b->kv_heads ||
        a->head_dim != b->head_dim || a->type != b->type || a->tiered != b->tiered)
        return 0;
    return (!a->tiered && kv->source != MKA_BENCH_CONCENTRATED) || a->context == b->context;
}

static int append(mka_bench_store *s, int level, int n, const float *keys, const float *values, mka_error *error) {
    if (s->tiered) return mka_memory_append(s->memory, 0, n, keys, values, error) == MKA_OK;
    return mka_kv_append(s->kv[level], n, keys, values, error) == MKA_OK;
}

/* What the memory takes, beyond what the process had before it. */
static void note_resident(mka_bench_store *s) {
    size_t now = mka_cli_resident_memory();
    if (now > s->before && now - s->before > s->resident) s->resident = now - s->before;
}

/* A long memory moves to its long-term tier as it is filled, as it would in use. */
static int settle(mka_bench_store *s, int done, mka_error *error) {
    if (!s->tiered || done % SETTLE != 0) return 1;
    mka_status status = mka_memory_attend(s->memory, 0, 1, s->q, s->out, NULL, error);
    note_resident(s);
    return status == MKA_OK;
}

static int fill(mka_bench_kv *kv, mka_bench_store *s, int level) {
    size_t key = (size_t)s->kv_heads * (size_t)s->key_dim, value = (size_t)s->kv_heads * (size_t)s->value_dim;
    float *rows = malloc(FILL * (key + value) * sizeof *rows);
    mka_error error = {0};
    int status = rows != NULL ? 0 : mka_cli_error("out of memory");
    for (int done = 0; done < s->context && status == 0; done += FILL) {
        int n = s->context - done < FILL ? s->context - done : FILL;
        float *values = s->variant == MKA_CLI_MLA ? NULL : rows + (size_t)n * key;
        mka_bench_kv_rows(kv, &s->shape, done, n, rows, values);
        if (!append(s, level, n, rows, values, &error) || !settle(s, done + n, &error)) status = mka_cli_failure(&error, 0);
        if (mka_cli_interrupted()) status = 130;
    }
    free(rows);
    return status;
}

/* How concentrated the first query of each key/value head is. */
static int measure(mka_bench_store *s) {
    int status = 0;
    s->concentration = calloc((size_t)s->kv_heads, sizeof *s->concentration);
    if (s->concentration == NULL) return mka_cli_error("out of memory");
    for (int h = 0; h < s->kv_heads && status == 0; h++)
        status = mka_bench_made_measure(&s->shape, h, s->q + (size_t)h * (size_t)(s->heads / s->kv_heads) * (size_t)s->key_dim,
                                        &s->concentration[h]);
    return status;
}

static int make_dense(mka_bench *bench, mka_bench_store *s) {
    mka_kv_options options;
    mka_error error = {0};
    mka_kv_defaults(&options);
    options.heads = s->heads;
    options.kv_heads = s->kv_heads;
    options.key_dim = s->key_dim;
    options.value_dim = s->value_dim;
    options.shared = s->variant == MKA_CLI_MLA;
    options.context = s->context;
    options.numa = bench->cli->options.plan.numa;
    options.queries = s->queries;
    options.key_type = options.value_type = (mka_type)s->type;
    for (int level = 0; level < s->levels; level++)
        if (mka_kv_create(bench->engine[s->engine], &options, &s->kv[level], &error) != MKA_OK) return mka_cli_failure(&error, 1);
    return 0;
}

static int make_tiered(mka_bench *bench, mka_bench_store *s) {
    mka_memory_options options;
    mka_error error = {0};
    mka_memory_defaults(&options);
    options.heads = s->heads;
    options.kv_heads = s->kv_heads;
    options.head_dim = s->head_dim;
    options.context = s->context;
    options.queries = s->queries;
    options.local = (mka_type)s->type;
    options.plan = bench->cli->options.plan;
    options.plan.recall = (mka_recall){.tokens = 1}; /* nothing is asked while it is filled */
    s->before = mka_cli_resident_memory();
    return mka_memory_create(bench->engine[s->engine], &options, &s->memory, &error) == MKA_OK ? 0 : mka_cli_failure(&error, 1);
}

/* The memory that was filled is to be asked as --recall says, from its first call on. */
static int start_recall(mka_bench *bench, mka_bench_store *s) {
    mka_error error = {0};
    mka_status status = mka_memory_set_recall(s->memory, &bench->cli->options.plan.recall, &error);
    if (status == MKA_OK) status = mka_memory_attend(s->memory, 0, 1, s->q, s->out, NULL, &error);
    note_resident(s);
    return status == MKA_OK ? 0 : mka_cli_failure(&error, 0);
}

int mka_bench_store_make(mka_bench *bench, mka_bench_kv *kv, mka_bench_store *s) {
    s->shape = (mka_bench_kv_shape){s->heads, s->kv_heads, s->key_dim, s->value_dim, s->context, {{0, 0, 0}}};
    /* what stays elsewhere until it is wanted: neighbouring queries want other rows, one query the same ones again */
    s->sets = s->tiered && (bench->cli->options.plan.spill != NULL || bench->cli->options.device_memory > 0) ? SETS : 1;
    size_t q = (size_t)s->sets * (size_t)s->queries * (size_t)s->heads * (size_t)s->key_dim;
    size_t out = (size_t)s->queries * (size_t)s->heads * (size_t)s->value_dim;
    s->q = malloc(q * sizeof *s->q);
    s->out = malloc(out * sizeof *s->out);
    s->mixed = malloc(out * sizeof *s->mixed);
    if (s->q == NULL || s->out == NULL || s->mixed == NULL) return mka_cli_error("out of memory");
    int status = kv->source == MKA_BENCH_CONCENTRATED ? mka_bench_made_settle(&s->shape) : 0;
    if (status != 0) return status;
    mka_bench_kv_queries(kv, &s->shape, s->sets * s->queries, s->q);
    status = s->tiered ? make_tiered(bench, s) : make_dense(bench, s);
    for (int level = 0; level < s->levels && status == 0; level++) {
        status = fill(kv, s, level);
        if (status == 0 && s->tiered) status = start_recall(bench, s);
        if (status == 0) status = mka_bench_step(bench);
    }
    return status == 0 && s->tiered && kv->source == MKA_BENCH_CONCENTRATED ? measure(s) : status;
}

void mka_bench_store_free(mka_bench_store *s) {
    for (int level = 0; level < MKA_BENCH_LEVELS; level++) mka_kv_destroy(s->kv[level]);
    mka_memory_destroy(s->memory);
    free(s->concentration);
    free(s->q);
    free(s->out);
    free(s->mixed);
}

int mka_bench_store_attend(mka_bench_store *s, int length, int n) {
    mka_error error = {0};
    size_t out = (size_t)n * (size_t)s->heads * (size_t)s->value_dim;
    if (s->tiered) {
        const float *q = s->q + (size_t)(s->turn++ % s->sets) * (size_t)s->queries * (size_t)s->heads * (size_t)s->key_dim;
        s->used = (mka_used){.queries = 0};
        if (mka_memory_attend(s->memory, 0, n, q, s->out, &s->used, &error) != MKA_OK) return mka_cli_failure(&error, 0);
        s->spill_bytes += s->used.spill_bytes;
        s->calls++;
        return 0;
    }
    for (int level = 0; level < s->levels; level++) {
        if (mka_kv_attend(s->kv[level], length, n, s->q, s->out, &error) != MKA_OK) return mka_cli_failure(&error, 0);
        const float weight = 1.0F / (float)s->levels; /* the router's answer */
        for (size_t i = 0; s->levels > 1 && i < out; i++) s->mixed[i] = (level > 0 ? s->mixed[i] : 0) + weight * s->out[i];
    }
    return 0;
}

const float *mka_bench_store_out(const mka_bench_store *s) {
    return s->levels > 1 ? s->mixed : s->out;
}
