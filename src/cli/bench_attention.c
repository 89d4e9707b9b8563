/* bench_attention - attention alone, over a cache of random or recorded keys and values, in every variant and cache type.
 *
 * A row declares what it must read (each cached byte once, whatever the kernels do) and compute (two operations for every number
 * of every key and value that a query sees). Rows take turns, so that all of them meet the same moods of the machine; those that
 * differ only in length share a cache, of which each attends to its first tokens.
 */
#include "bench.h"
#include "commands.h"

#include <math.h>
#include <mka/attention.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 1024, LEVELS = 3, FILL = 64 };

/* Caches of one engine, variant, shape and type; levels of them for mka. */
typedef struct store {
    int engine, variant, heads, kv_heads, head_dim, type, context, queries, levels;
    int key_dim, value_dim;
    mka_kv *kv[LEVELS];
    float *q, *out, *mixed; /* [queries][heads][...] */
} store;

typedef struct line {
    mka_bench_row row;
    store *store;
    int phase, q_len, kv_len;
    double estimate; /* seconds of a call, from the warm-up */
} line;

typedef struct run {
    mka_bench bench;
    line *lines;
    store *stores;
    int line_count, store_count;
    uint64_t state;
    mka_file *file; /* of --kv, or NULL */
    const mka_tensor *keys, *values;
} run;

/* ---- the caches ---- */

/* Uniform with variance 1: scores of unit variance too, as trained models have them after scaling. */
static void random_floats(uint64_t *state, size_t n, float *x) {
    uint64_t s = *state;
    for (size_t i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(int32_t)(uint32_t)(s >> 32) * (1.7320508F * 0x1p-31F);
    }
    *state = s;
}

/* Sizes of in.k and in.v: heads, tokens, width. Files of the reference have a batch of one before them. */
static int64_t recorded_size(const mka_tensor *t, int dimension) {
    return t->shape[t->rank - 3 + dimension];
}

/* Tokens first.. of a recorded [kv_heads][tokens][head_dim], which repeats itself beyond its end. */
static void recorded(const mka_tensor *t, int kv_heads, int dim, int first, int n, float *x) {
    int64_t tokens = recorded_size(t, 1);
    for (int i = 0; i < n; i++)
        for (int h = 0; h < kv_heads; h++)
            memcpy(x + ((size_t)i * (size_t)kv_heads + (size_t)h) * (size_t)dim,
                   (const float *)t->data + ((int64_t)h * tokens + (first + i) % tokens) * dim, (size_t)dim * sizeof(float));
}

static int fill_store(run *r, store *s, int level) {
    size_t key = (size_t)s->kv_heads * (size_t)s->key_dim, value = (size_t)s->kv_heads * (size_t)s->value_dim;
    float *rows = malloc(FILL * (key + value) * sizeof *rows);
    mka_error error = {0};
    int status = rows != NULL ? 0 : mka_cli_error("out of memory");
    for (int done = 0; done < s->context && status == 0; done += FILL) {
        int n = s->context - done < FILL ? s->context - done : FILL;
        if (r->file != NULL) {
            recorded(r->keys, s->kv_heads, s->key_dim, done, n, rows);
            recorded(r->values, s->kv_heads, s->value_dim, done, n, rows + (size_t)n * key);
        } else {
            random_floats(&r->state, (size_t)n * (key + value), rows);
        }
        const float *values = s->variant == MKA_CLI_MLA ? NULL : rows + (size_t)n * key;
        if (mka_kv_append(s->kv[level], n, rows, values, &error) != MKA_OK) status = mka_cli_failure(&error, 0);
        if (mka_cli_interrupted()) status = 130;
    }
    free(rows);
    return status;
}

static int make_store(run *r, store *s) {
    mka_kv_options options;
    mka_error error = {0};
    mka_kv_defaults(&options);
    options.heads = s->heads;
    options.kv_heads = s->kv_heads;
    options.key_dim = s->key_dim;
    options.value_dim = s->value_dim;
    options.shared = s->variant == MKA_CLI_MLA;
    options.context = s->context;
    options.numa = r->bench.cli->options.plan.numa;
    options.queries = s->queries;
    options.key_type = options.value_type = (mka_type)s->type;
    for (int level = 0; level < s->levels; level++) {
        if (mka_kv_create(r->bench.engine[s->engine], &options, &s->kv[level], &error) != MKA_OK)
            return mka_cli_failure(&error, 1);
        int status = fill_store(r, s, level);
        if (status == 0) status = mka_bench_step(&r->bench);
        if (status != 0) return status;
    }
    size_t q = (size_t)s->queries * (size_t)s->heads * (size_t)s->key_dim;
    size_t out = (size_t)s->queries * (size_t)s->heads * (size_t)s->value_dim;
    s->q = malloc(q * sizeof *s->q);
    s->out = malloc(out * sizeof *s->out);
    s->mixed = malloc(out * sizeof *s->mixed);
    if (s->q == NULL || s->out == NULL || s->mixed == NULL) return mka_cli_error("out of memory");
    random_floats(&r->state, q, s->q);
    return 0;
}

/* ---- the rows ---- */

static int *pick(mka_cli_list *list, int fallback, int *count) {
    if (list->count == 0) {
        list->items[0] = fallback;
        list->count = 1;
    }
    *count = list->count;
    return list->items;
}

/* The caches that a row reads: those of an earlier row that differs in lengths only, or new ones. */
static store *find_store(run *r, store wanted, int context, int queries) {
    store *s = r->stores;
    for (; s < r->stores + r->store_count; s++)
        if (s->engine == wanted.engine && s->variant == wanted.variant && s->heads == wanted.heads &&
            s->kv_heads == wanted.kv_heads && s->head_dim == wanted.head_dim && s->type == wanted.type)
            break;
    if (s == r->stores + r->store_count) {
        *s = wanted;
        int mla = s->variant == MKA_CLI_MLA;
        s->key_dim = mla ? 4 * s->head_dim + s->head_dim / 2 : s->head_dim;
        s->value_dim = mla ? 4 * s->head_dim : s->head_dim;
        s->levels = s->variant == MKA_CLI_MKA ? LEVELS : 1;
        r->store_count++;
    }
    if (context > s->context) s->context = context;
    if (queries > s->queries) s->queries = queries;
    return s;
}

static int kv_heads_of(int variant, int heads, int kv_heads) {
    if (variant == MKA_CLI_MHA) return heads;
    return variant == MKA_CLI_MQA || variant == MKA_CLI_MLA ? 1 : kv_heads;
}

static int add_line(run *r, store wanted, int phase, int q_len, int kv_len) {
    if (q_len > kv_len)
        return mka_cli_usage("bench attention", "%d queries cannot stand at the end of %d tokens; give --q-len or --kv-len",
                             q_len, kv_len);
    if (r->line_count == MOST_ROWS) return mka_cli_usage("bench attention", "the lists make more than %d rows", MOST_ROWS);
    line *l = &r->lines[r->line_count++];
    *l = (line){.phase = phase, .q_len = q_len, .kv_len = kv_len};
    l->row.engine = wanted.engine;
    l->store = find_store(r, wanted, kv_len, q_len);
    return 0;
}

/* Rows of all lengths for one kind of cache. */
static int add_lengths(run *r, store wanted) {
    mka_cli_options *o = &r->bench.cli->options;
    int phases, kvs, status = 0;
    const int *phase = pick(&o->phases, MKA_CLI_DECODE, &phases), *kv = pick(&o->kv_lens, 32768, &kvs);
    for (int p = 0; p < phases && status == 0; p++)
        for (int k = 0; k < kvs && status == 0; k++) {
            mka_cli_list q = o->q_lens;
            int qs;
            pick(&q, phase[p] == MKA_CLI_DECODE ? 1 : 512, &qs);
            for (int i = 0; i < qs && status == 0; i++) status = add_line(r, wanted, phase[p], q.items[i], kv[k]);
        }
    return status;
}

static int add_lines(run *r) {
    mka_cli_options *o = &r->bench.cli->options;
    int variants, heads, kv_heads, dims, types, status = 0;
    const int *variant = pick(&o->variants, MKA_CLI_GQA, &variants), *head = pick(&o->heads, 28, &heads);
    const int *kv_head = pick(&o->kv_heads, 4, &kv_heads), *dim = pick(&o->head_dims, 128, &dims);
    const int *type = pick(&o->kv_types, MKA_F16, &types);
    for (int v = 0; v < variants; v++)
        for (int h = 0; h < heads; h++)
            for (int k = 0; k < kv_heads; k++)
                for (int d = 0; d < dims; d++)
                    for (int t = 0; t < types; t++)
                        for (int e = 0; e < r->bench.engines && status == 0; e++) {
                            store wanted = {.engine = e,
                                            .variant = variant[v],
                                            .heads = head[h],
                                            .kv_heads = kv_heads_of(variant[v], head[h], kv_head[k]),
                                            .head_dim = dim[d],
                                            .type = type[t]};
                            status = add_lengths(r, wanted);
                        }
    return status;
}

/* What the row reads and computes, and with which unit. */
static int declare(run *r, line *l) {
    const store *s = l->store;
    mka_kv_info info;
    mka_kv_get_info(s->kv[0], &info);
    /* Query i of q sees kv - q + 1 + i tokens. */
    double pairs = (double)l->q_len * (l->kv_len - 0.5 * (l->q_len - 1));
    l->row.bytes = (double)info.token_bytes * l->kv_len * s->levels;
    l->row.flops = 2.0 * s->heads * (s->key_dim + s->value_dim) * pairs * s->levels;
    l->row.unit = l->phase == MKA_CLI_PREFILL ? info.prefill_unit : info.decode_unit;
    l->row.buffer = (size_t)l->row.bytes;
    int status = mka_bench_row_make(&r->bench, &l->row);
    return status != 0 ? status : mka_bench_buffer(&r->bench, s->engine, l->row.buffer);
}

/* ---- measuring ---- */

static int attend(const line *l) {
    store *s = l->store;
    mka_error error = {0};
    size_t out = (size_t)l->q_len * (size_t)s->heads * (size_t)s->value_dim;
    for (int level = 0; level < s->levels; level++) {
        if (mka_kv_attend(s->kv[level], l->kv_len, l->q_len, s->q, s->out, &error) != MKA_OK) return mka_cli_failure(&error, 0);
        const float weight = 1.0F / (float)s->levels; /* the router's answer */
        for (size_t i = 0; s->levels > 1 && i < out; i++) s->mixed[i] = (level > 0 ? s->mixed[i] : 0) + weight * s->out[i];
    }
    return 0;
}

/* A sample is taken as the limits' are: short calls are repeated until there is something to measure, and the best of three such
 * runs counts; calls that take long by themselves count as they are. The first of a short call's runs also finds again what the
 * limit's buffer has pushed out of the caches, as the limit's own first run does. */
static double time_attend(void *user) {
    line *l = user;
    int calls = l->estimate > 0 && l->estimate < 2e-3 ? (int)(2e-3 / l->estimate) + 1 : 1;
    int runs = l->estimate < 20e-3 ? 3 : 1;
    double best = 0;
    if (runs > 1 && attend(l) != 0) return -1;
    for (int i = 0; i < runs; i++) {
        double start = mka_cli_now();
        for (int j = 0; j < calls; j++)
            if (attend(l) != 0) return -1;
        double spent = (mka_cli_now() - start) / calls;
        if (i == 0 || spent < best) best = spent;
    }
    return best;
}

static int warm_up(run *r, line *l) {
    if (attend(l) != 0) return 1;
    double start = mka_cli_now();
    if (attend(l) != 0) return 1;
    l->estimate = mka_cli_now() - start;
    return mka_bench_step(&r->bench);
}

static int all_finite(const line *l) {
    const float *out = l->store->levels > 1 ? l->store->mixed : l->store->out;
    for (size_t i = 0; i < (size_t)l->store->heads * (size_t)l->store->value_dim; i++)
        if (!isfinite(out[i])) return 0;
    return 1;
}

static int measure(run *r) {
    int status = 0;
    for (int i = 0; i < r->line_count && status == 0; i++) status = warm_up(r, &r->lines[i]);
    for (int repeat = 0; repeat < r->bench.cli->options.repeats && status == 0; repeat++)
        for (int i = 0; i < r->line_count && status == 0; i++) {
            status = mka_bench_sample(&r->bench, &r->lines[i].row, repeat, time_attend, &r->lines[i]);
            if (status == 0 && !all_finite(&r->lines[i])) status = mka_cli_error("attention gave a number that is not finite");
        }
    return status;
}

/* ---- output ---- */

static void print_json(run *r, line *l, const mka_bench_result *result) {
    const store *s = l->store;
    const mka_bench_spread ms = {1e3 * result->seconds.min, 1e3 * result->seconds.median, 1e3 * result->seconds.max};
    json_t *out = json_object();
    json_object_set_new(out, "phase", json_string(mka_cli_phase_name(l->phase)));
    json_object_set_new(out, "variant", json_string(mka_cli_variant_name(s->variant)));
    json_object_set_new(out, "heads", json_integer(s->heads));
    json_object_set_new(out, "kv_heads", json_integer(s->kv_heads));
    json_object_set_new(out, "head_dim", json_integer(s->head_dim));
    json_object_set_new(out, "q_len", json_integer(l->q_len));
    json_object_set_new(out, "kv_len", json_integer(l->kv_len));
    json_object_set_new(out, "kv_type", json_string(mka_cli_type_name((mka_type)s->type)));
    json_object_set_new(out, "memory", json_pack("{s:s}", "mode", "dense"));
    json_object_set_new(out, "ms", mka_bench_spread_json(&ms));
    mka_bench_row_json(&r->bench, &l->row, result, out);
    mka_cli_json(r->bench.cli, out);
}

static void print_head(mka_cli *cli) {
    mka_cli_print(cli, "%-7s %-7s %5s %3s %4s %6s %7s %-4s %3s %9s %9s %9s %7s %8s %15s %5s\n", "phase", "variant", "heads", "kv",
                  "dim", "q", "kv_len", "type", "thr", "min ms", "median", "max", "GB/s", "GFLOP/s", "limit", "of it");
}

static void print_line(run *r, line *l, const mka_bench_result *result) {
    const store *s = l->store;
    char limit[48];
    snprintf(limit, sizeof limit, "%.1f %s", result->limit, result->by_arithmetic ? mka_unit_name(l->row.unit) : "GB/s");
    mka_cli_print(r->bench.cli, "%-7s %-7s %5d %3d %4d %6d %7d %-4s %3d %9.3f %9.3f %9.3f %7.1f %8.1f %15s %4.0f%%\n",
                  mka_cli_phase_name(l->phase), mka_cli_variant_name(s->variant), s->heads, s->kv_heads, s->head_dim, l->q_len,
                  l->kv_len, mka_cli_type_name((mka_type)s->type), r->bench.machine[s->engine].threads, 1e3 * result->seconds.min,
                  1e3 * result->seconds.median, 1e3 * result->seconds.max, result->gbps, result->gflops, limit,
                  100 * result->fraction);
}

static void print_all(run *r) {
    mka_cli_progress_end(&r->bench.progress);
    if (!r->bench.cli->options.json) print_head(r->bench.cli);
    for (int i = 0; i < r->line_count; i++) {
        mka_bench_result result = mka_bench_row_result(&r->bench, &r->lines[i].row);
        if (r->bench.cli->options.json)
            print_json(r, &r->lines[i], &result);
        else
            print_line(r, &r->lines[i], &result);
    }
}

/* ---- --kv FILE ---- */

static int find_recorded(run *r, const char *path, const char *name, const mka_tensor **tensor) {
    const mka_tensor *t = *tensor = mka_file_find(r->file, name);
    if (t == NULL) return mka_cli_error("%s: tensor %s is missing", path, name);
    if (t->type != MKA_F32 || t->rank < 3 || (t->rank == 4 && t->shape[0] != 1) || recorded_size(t, 1) < 1)
        return mka_cli_error("%s: tensor %s is not float32 [kv_heads][tokens][head_dim]", path, name);
    return 0;
}

static int open_recorded(run *r) {
    const char *path = r->bench.cli->options.kv;
    mka_error error = {0};
    if (path == NULL || strcmp(path, "random") == 0) return 0;
    if (mka_file_open(path, &r->file, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    int status = find_recorded(r, path, "in.k", &r->keys);
    return status != 0 ? status : find_recorded(r, path, "in.v", &r->values);
}

/* Each cache must be of the recorded shape. */
static int check_recorded(const run *r) {
    for (int i = 0; r->file != NULL && i < r->store_count; i++) {
        const store *s = &r->stores[i];
        if (s->variant == MKA_CLI_MLA) return mka_cli_usage("bench attention", "--kv FILE: mla has no keys and values of heads");
        if (recorded_size(r->keys, 0) != s->kv_heads || recorded_size(r->keys, 2) != s->head_dim ||
            recorded_size(r->values, 0) != s->kv_heads || recorded_size(r->values, 2) != s->head_dim)
            return mka_cli_error("%s: %lld key/value heads of width %lld; the rows ask for %d of %d (--kv-heads, --head-dim)",
                                 r->bench.cli->options.kv, (long long)recorded_size(r->keys, 0),
                                 (long long)recorded_size(r->keys, 2), s->kv_heads, s->head_dim);
    }
    return 0;
}

static void close_run(run *r) {
    for (int i = 0; i < r->store_count; i++) {
        store *s = &r->stores[i];
        for (int level = 0; level < LEVELS; level++) mka_kv_destroy(s->kv[level]);
        free(s->q);
        free(s->out);
        free(s->mixed);
    }
    for (int i = 0; i < r->line_count; i++) mka_bench_row_free(&r->lines[i].row);
    free(r->lines);
    free(r->stores);
    mka_file_close(r->file);
    mka_bench_close(&r->bench);
}

int mka_cli_bench_attention(mka_cli *cli) {
    run r = {.state = 1};
    int status = mka_bench_open(&r.bench, cli);
    r.lines = calloc(MOST_ROWS, sizeof *r.lines);
    r.stores = calloc(MOST_ROWS, sizeof *r.stores);
    if (status == 0 && (r.lines == NULL || r.stores == NULL)) status = mka_cli_error("out of memory");
    if (status == 0) status = add_lines(&r);
    if (status == 0) status = open_recorded(&r);
    if (status == 0) status = check_recorded(&r);
    for (int i = 0; i < r.store_count; i++) r.bench.total += (size_t)r.stores[i].levels;
    r.bench.total += (size_t)r.line_count * (size_t)(cli->options.repeats + 1);
    for (int i = 0; i < r.store_count && status == 0; i++) status = make_store(&r, &r.stores[i]);
    for (int i = 0; i < r.line_count && status == 0; i++) status = declare(&r, &r.lines[i]);
    if (status == 0) status = measure(&r);
    if (status == 0) print_all(&r);
    close_run(&r);
    return status;
}
