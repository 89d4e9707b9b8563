/* bench_attention - attention alone, over a cache of random or recorded keys and values, in every variant and cache type.
 *
 * A row declares what it must read (each cached byte once, whatever the kernels do) and compute (two operations for every number
 * of every key and value that a query sees). Rows take turns, so that all of them meet the same moods of the machine; those that
 * differ only in length share a cache, of which each attends to its first tokens.
 */
#include "bench_store.h"
#include "commands.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 1024 };

typedef mka_bench_store store;

typedef struct line {
    mka_bench_row row;
    store *store;
    int phase, q_len, kv_len;
    double error;    /* tiered: of the outputs against the dense row's; negative: unknown */
    double estimate; /* seconds of a call, from the warm-up */
} line;

typedef struct run {
    mka_bench bench;
    line *lines;
    store *stores;
    int line_count, store_count;
    mka_bench_kv kv;
} run;

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
static store *find_store(run *r, store wanted) {
    store *s = r->stores;
    while (s < r->stores + r->store_count && !mka_bench_store_same(s, &wanted, &r->kv)) s++;
    if (s == r->stores + r->store_count) {
        *s = wanted;
        int mla = s->variant == MKA_CLI_MLA;
        s->key_dim = mla ? 4 * s->head_dim + s->head_dim / 2 : s->head_dim;
        s->value_dim = mla ? 4 * s->head_dim : s->head_dim;
        s->levels = s->variant == MKA_CLI_MKA ? MKA_BENCH_LEVELS : 1;
        r->store_count++;
    }
    if (wanted.context > s->context) s->context = wanted.context;
    if (wanted.queries > s->queries) s->queries = wanted.queries;
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
    wanted.context = kv_len;
    wanted.queries = q_len;
    l->store = find_store(r, wanted);
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

/* Rows of one kind of cache, in every kind of memory. */
static int add_memories(run *r, store wanted) {
    mka_cli_options *o = &r->bench.cli->options;
    int count, status = 0;
    const int *memory = pick(&o->memories, MKA_MEMORY_DENSE, &count);
    for (int i = 0; i < count && status == 0; i++) {
        wanted.tiered = memory[i] == MKA_MEMORY_TIERED;
        if (memory[i] == MKA_MEMORY_AUTO)
            return mka_cli_usage("bench attention",
                                 "--memory auto: attention alone is measured dense or tiered; name one, or both");
        if (wanted.tiered && (wanted.variant == MKA_CLI_MLA || wanted.variant == MKA_CLI_MKA))
            return mka_cli_usage("bench attention", "--memory tiered: %s has no tiers here; gqa, mha, mqa and fastmka have",
                                 mka_cli_variant_name(wanted.variant));
        status = add_lengths(r, wanted);
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
                            status = add_memories(r, wanted);
                        }
    return status;
}

static uint64_t used_bytes(const mka_used *u) {
    return u->local_bytes + u->mean_bytes + u->scan_bytes + u->key_bytes + u->value_bytes;
}

/* What the row reads and computes, and with which unit. A tiered row is held against what it did read, once it has been called.
 */
static int declare(run *r, line *l) {
    const store *s = l->store;
    /* Query i of q sees kv - q + 1 + i tokens. */
    double pairs = (double)l->q_len * (l->kv_len - 0.5 * (l->q_len - 1));
    l->row.unit = MKA_UNITS;
    if (s->tiered) {
        if (mka_bench_store_attend(l->store, l->kv_len, l->q_len) != 0) return 1;
        l->row.bytes = (double)used_bytes(&s->used);
    } else {
        mka_kv_info info;
        mka_kv_get_info(s->kv[0], &info);
        l->row.bytes = (double)info.token_bytes * l->kv_len * s->levels;
        l->row.flops = 2.0 * s->heads * (s->key_dim + s->value_dim) * pairs * s->levels;
        l->row.unit = l->phase == MKA_CLI_PREFILL ? info.prefill_unit : info.decode_unit;
    }
    l->row.buffer = (size_t)l->row.bytes;
    if (mka_bench_on_device(&r->bench, s->engine)) l->row.unit = MKA_UNITS;
    int status = mka_bench_row_make(&r->bench, &l->row);
    return status != 0 || l->row.buffer == 0 ? status : mka_bench_buffer(&r->bench, s->engine, l->row.buffer);
}

/* ---- measuring ---- */

static int attend(const line *l) {
    return mka_bench_store_attend(l->store, l->kv_len, l->q_len);
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
    if (runs > 1) l->row.calls++;
    for (int i = 0; i < runs; i++) {
        double start = mka_cli_now();
        for (int j = 0; j < calls; j++)
            if (attend(l) != 0) return -1;
        double spent = (mka_cli_now() - start) / calls;
        l->row.calls += calls;
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
    const float *out = mka_bench_store_out(l->store);
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

/* How far a tiered row's outputs are from those of the dense row of the same shape, relative to their size; -1 without one. */
static int compare(run *r, line *l) {
    l->error = -1;
    for (line *d = r->lines; d < r->lines + r->line_count && l->store->tiered; d++) {
        store like = *l->store;
        like.tiered = 0;
        if (d->store->tiered || d->phase != l->phase || d->q_len != l->q_len || d->kv_len != l->kv_len ||
            d->store->context != like.context || !mka_bench_store_same(d->store, &like, &r->kv) ||
            r->kv.source == MKA_BENCH_RANDOM)
            continue;
        l->store->turn = 0; /* the queries that the dense row has */
        if (attend(l) != 0 || attend(d) != 0) return 1;
        const float *a = mka_bench_store_out(l->store), *b = mka_bench_store_out(d->store);
        double difference = 0, size = 0;
        for (size_t i = 0; i < (size_t)l->q_len * (size_t)like.heads * (size_t)like.value_dim; i++) {
            difference += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
            size += (double)b[i] * (double)b[i];
        }
        l->error = sqrt(difference / size);
        return 0;
    }
    return 0;
}

/* ---- output ---- */

/* Bytes that a call reads from the spill file: the mean over all, warm-up included. */
static double spilled(const store *s) {
    return s->calls > 0 ? (double)s->spill_bytes / (double)s->calls : 0;
}

static json_t *memory_json(const line *l) {
    const store *s = l->store;
    const mka_used *u = &s->used;
    if (!s->tiered) return json_pack("{s:s}", "mode", "dense");
    double pairs = u->queries > 0 ? (double)u->queries : 1;
    json_t *out = json_pack("{s:s, s:o, s:o, s:o, s:o, s:{s:I, s:I, s:I, s:I, s:I}}", "mode", "tiered", "long_tokens",
                            mka_cli_json_real((double)u->long_tokens / pairs), "tokens_scored",
                            mka_cli_json_real((double)u->scored_tokens / pairs), "tokens_read",
                            mka_cli_json_real((double)u->read_tokens / pairs), "unread_mass_estimate",
                            mka_cli_json_real(u->unread_mass / pairs), "bytes_by_tier", "local", (json_int_t)u->local_bytes,
                            "means", (json_int_t)u->mean_bytes, "scan", (json_int_t)u->scan_bytes, "keys",
                            (json_int_t)u->key_bytes, "values", (json_int_t)u->value_bytes);
    if (l->error >= 0) json_object_set_new(out, "output_rel_err", mka_cli_json_real(l->error));
    json_object_set_new(out, "spill_bytes", mka_cli_json_real(spilled(s)));
    json_object_set_new(out, "resident_bytes", json_integer((json_int_t)s->resident));
    if (s->concentration != NULL) {
        json_t *heads = json_array();
        for (int h = 0; h < s->kv_heads; h++)
            json_array_append_new(
                heads, json_pack("{s:o, s:o, s:o, s:i}", "scatter", mka_cli_json_real(s->concentration[h].scatter),
                                 "value_scatter", mka_cli_json_real(s->concentration[h].value_scatter), "long_mass",
                                 mka_cli_json_real(s->concentration[h].long_mass), "tokens_98", s->concentration[h].tokens));
        json_object_set_new(out, "concentration", heads);
    }
    return out;
}

/* A second line of a tiered row. */
static void print_memory(run *r, const line *l) {
    const store *s = l->store;
    const mka_used *u = &s->used;
    char size[32];
    if (!s->tiered) return;
    double pairs = u->queries > 0 ? (double)u->queries : 1;
    mka_cli_print(
        r->bench.cli,
        "        tiered: of %.0f long-term tokens a head %.0f keys and %.0f values read, %.2f %% of the mass estimated; MB: "
        "local %.2f means %.2f scan %.2f keys %.2f values %.2f",
        (double)u->long_tokens / pairs, (double)u->scored_tokens / pairs, (double)u->read_tokens / pairs,
        100 * u->unread_mass / pairs, 1e-6 * (double)u->local_bytes, 1e-6 * (double)u->mean_bytes, 1e-6 * (double)u->scan_bytes,
        1e-6 * (double)u->key_bytes, 1e-6 * (double)u->value_bytes);
    if (l->error >= 0) mka_cli_print(r->bench.cli, "; output off by %.4f of its size", l->error);
    mka_cli_print(r->bench.cli, "\n");
    if (s->spill_bytes > 0) mka_cli_print(r->bench.cli, "        %.2f MB a call read from the spill file\n", 1e-6 * spilled(s));
    if (s->resident > 0)
        mka_cli_print(r->bench.cli, "        %s of memory taken at most while it was filled\n", mka_cli_size(s->resident, size));
    for (int h = 0; s->concentration != NULL && h < s->kv_heads; h++)
        mka_cli_print(r->bench.cli,
                      "        head %d: long-term mass %.3f, all but 0.02 of the whole in %d tokens; nearest keys differ by %.2f "
                      "of the variance, values by %.2f\n",
                      h, s->concentration[h].long_mass, s->concentration[h].tokens, s->concentration[h].scatter,
                      s->concentration[h].value_scatter);
}

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
    json_object_set_new(out, "memory", memory_json(l));
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
    char limit[48] = "-", fraction[16] = "-";
    if (l->row.buffer > 0) {
        snprintf(limit, sizeof limit, "%.1f %s", result->limit, result->by_arithmetic ? mka_unit_name(l->row.unit) : "GB/s");
        snprintf(fraction, sizeof fraction, "%.0f%%", 100 * result->fraction);
    }
    mka_cli_print(r->bench.cli, "%-7s %-7s %5d %3d %4d %6d %7d %-4s %3d %9.3f %9.3f %9.3f %7.1f %8.1f %15s %5s\n",
                  mka_cli_phase_name(l->phase), mka_cli_variant_name(s->variant), s->heads, s->kv_heads, s->head_dim, l->q_len,
                  l->kv_len, mka_cli_type_name((mka_type)s->type), r->bench.machine[s->engine].threads, 1e3 * result->seconds.min,
                  1e3 * result->seconds.median, 1e3 * result->seconds.max, result->gbps, result->gflops, limit, fraction);
}

static void print_all(run *r) {
    mka_cli_progress_end(&r->bench.progress);
    if (!r->bench.cli->options.json) print_head(r->bench.cli);
    for (int i = 0; i < r->line_count; i++) {
        mka_bench_result result = mka_bench_row_result(&r->bench, &r->lines[i].row);
        if (r->bench.cli->options.json)
            print_json(r, &r->lines[i], &result);
        else
            print_line(r, &r->lines[i], &result), print_memory(r, &r->lines[i]),
                mka_bench_print_device(&r->bench, &r->lines[i].row, &result);
    }
}

/* Each cache must be of the recorded shape. */
static int check_recorded(const run *r) {
    int status = 0;
    for (int i = 0; r->kv.source == MKA_BENCH_RECORDED && i < r->store_count && status == 0; i++) {
        const store *s = &r->stores[i];
        mka_bench_kv_shape shape = {s->heads, s->kv_heads, s->key_dim, s->value_dim, s->context, {{0, 0, 0}}};
        if (s->variant == MKA_CLI_MLA) return mka_cli_usage("bench attention", "--kv FILE: mla has no keys and values of heads");
        status = mka_bench_kv_check(&r->kv, &shape);
    }
    return status;
}

static void close_run(run *r) {
    for (int i = 0; i < r->store_count; i++) mka_bench_store_free(&r->stores[i]);
    for (int i = 0; i < r->line_count; i++) mka_bench_row_free(&r->lines[i].row);
    free(r->lines);
    free(r->stores);
    mka_bench_kv_close(&r->kv);
    mka_bench_close(&r->bench);
}

int mka_cli_bench_attention(mka_cli *cli) {
    run r = {.lines = NULL};
    int status = mka_bench_open(&r.bench, cli);
    r.lines = calloc(MOST_ROWS, sizeof *r.lines);
    r.stores = calloc(MOST_ROWS, sizeof *r.stores);
    if (status == 0 && (r.lines == NULL || r.stores == NULL)) status = mka_cli_error("out of memory");
    if (status == 0) status = mka_bench_kv_open(&r.kv, cli->options.kv);
    if (status == 0) status = add_lines(&r);
    if (status == 0) status = check_recorded(&r);
    for (int i = 0; i < r.store_count; i++) r.bench.total += (size_t)r.stores[i].levels;
    r.bench.total += (size_t)r.line_count * (size_t)(cli->options.repeats + 1);
    for (int i = 0; i < r.store_count && status == 0; i++) status = mka_bench_store_make(&r.bench, &r.kv, &r.stores[i]);
    for (int i = 0; i < r.line_count && status == 0; i++) status = declare(&r, &r.lines[i]);
    if (status == 0) status = measure(&r);
    for (int i = 0; i < r.line_count && status == 0; i++) status = compare(&r, &r.lines[i]);
    if (status == 0) print_all(&r);
    close_run(&r);
    return status;
}
