/* bench_model - tokens a second of a whole model, by phase and depth.
 *
 * Every depth has a session of its own, whose cache is filled once and cut back to the depth after every sample, so that rows can
 * take turns. A prompt's tokens are arbitrary: the arithmetic does not depend on them. What a decoded token has to read is every
 * weight once and the keys and values of all tokens before it, as the session counts them.
 */
#include "bench.h"
#include "commands.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_VARIANTS = 4,
    MOST_MODELS = MOST_VARIANTS * MKA_CLI_LIST,
    MOST_MEMORIES = 3,
    MOST_DEPTHS = MOST_MODELS * MKA_CLI_LIST * MOST_MEMORIES,
    LIMIT_BUFFER = 1 << 30
};

typedef struct timeline {
    int engine, model, depth, memory; /* an mka_memory_mode */
    mka_session *session;
} timeline;

typedef struct line {
    mka_bench_row row;
    struct run *run;
    timeline *timeline;
    int phase, tokens;
} line;

typedef struct run {
    mka_bench bench;
    mka_model *model[MOST_MODELS]; /* variant by variant, one an engine */
    mka_model_info info[MOST_MODELS];
    int models;
    timeline timelines[MOST_DEPTHS];
    line lines[2 * MOST_DEPTHS];
    int timeline_count, line_count;
    int *ids;
    float *logits;
    int random;
    mka_error error;
} run;

/* ---- the model ---- */

/* NAME or NAME:TYPE of --shape. */
static int open_shape(run *r, int engine, int variant) {
    const char *shape = r->bench.cli->options.shape, *colon = strchr(shape, ':');
    char name[64];
    size_t length = colon != NULL ? (size_t)(colon - shape) : strlen(shape);
    snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name - 1), shape);
    mka_type type = colon != NULL ? mka_type_from_name(colon + 1) : MKA_Q8_0;
    if (type == MKA_TYPE_LIMIT) return mka_cli_usage("bench model", "--shape %s: there is no type '%s'", shape, colon + 1);
    const char *const *names = mka_model_shapes();
    char list[400] = "";
    for (int i = 0; names[i] != NULL; i++) {
        size_t used = strlen(list);
        if (strcmp(names[i], name) == 0)
            return mka_model_random(r->bench.engine[engine], name, type,
                                    variant == MKA_CLI_GQA ? NULL : mka_cli_variant_name(variant), 1, &r->model[r->models],
                                    &r->error) == MKA_OK
                       ? 0
                       : mka_cli_failure(&r->error, 1);
        snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    return mka_cli_usage("bench model", "--shape: there is no shape '%s'; one of %s", name, list);
}

static int open_models(run *r) {
    mka_cli *cli = r->bench.cli;
    int status = 0;
    if (cli->options.memories.count > MOST_MEMORIES) return mka_cli_usage("bench model", "--memory: %d at most", MOST_MEMORIES);
    if (cli->options.shape != NULL && cli->options.model != NULL)
        return mka_cli_usage("bench model", "-m and --shape exclude each other; give one");
    if (cli->options.shape == NULL && cli->options.model == NULL)
        return mka_cli_usage("bench model", "which model? Give one with -m MODEL or --shape NAME");
    r->random = cli->options.fill != MKA_CLI_UNSET ? cli->options.fill == MKA_CLI_FILL_RANDOM : cli->options.shape != NULL;
    mka_cli_list *variants = &cli->options.variants;
    if (variants->count > 0 && cli->options.shape == NULL)
        return mka_cli_usage("bench model", "--variant needs --shape; a model of -m takes --router");
    if (variants->count > MOST_VARIANTS) return mka_cli_usage("bench model", "--variant: %d at most", MOST_VARIANTS);
    if (variants->count == 0) variants->items[variants->count++] = MKA_CLI_GQA;
    for (int v = 0; v < variants->count; v++) {
        int variant = variants->items[v];
        if (variant != MKA_CLI_GQA && variant != MKA_CLI_FASTMKA && variant != MKA_CLI_MKA)
            return mka_cli_usage("bench model", "--variant %s: a shape has gqa, fastmka or mka", mka_cli_variant_name(variant));
        for (int i = 0; i < r->bench.engines && status == 0; i++) {
            status = cli->options.shape != NULL
                         ? open_shape(r, i, variant)
                         : mka_cli_open_model(cli, "bench model", r->bench.engine[i], 0, &r->model[r->models]);
            if (status != 0) return status;
            mka_model_get_info(r->model[r->models], &r->info[r->models]);
            r->models++;
        }
    }
    return 0;
}

/* ---- rows ---- */

static void add_line(run *r, timeline *t, int phase, int tokens) {
    line *l = &r->lines[r->line_count++];
    *l = (line){.run = r, .timeline = t, .phase = phase, .tokens = tokens, .row = {.engine = t->engine, .unit = MKA_UNITS}};
}

static void add_lines(run *r) {
    const mka_cli_options *o = &r->bench.cli->options;
    int depths = o->depths.count > 0 ? o->depths.count : 1, decoded = o->tokens != MKA_CLI_UNSET ? o->tokens : 32;
    int memories = o->memories.count > 0 ? o->memories.count : 1, models = r->models * memories;
    for (int i = 0; i < depths; i++)
        for (int m = 0; m < models; m++) {
            timeline *t = &r->timelines[r->timeline_count++];
            *t = (timeline){.engine = m / memories % r->bench.engines,
                            .model = m / memories,
                            .depth = o->depths.count > 0 ? o->depths.items[i] : 0,
                            .memory = o->memories.count > 0 ? o->memories.items[m % memories] : MKA_MEMORY_DENSE};
            int wanted[2] = {o->phases.count == 0, o->phases.count == 0};
            for (int p = 0; p < o->phases.count; p++) wanted[o->phases.items[p]] = 1;
            if (wanted[MKA_CLI_PREFILL]) add_line(r, t, MKA_CLI_PREFILL, o->prompt_tokens);
            if (wanted[MKA_CLI_DECODE]) add_line(r, t, MKA_CLI_DECODE, decoded);
        }
}

static int make_ids(run *r, int count) {
    r->ids = malloc((size_t)count * sizeof *r->ids);
    r->logits = malloc((size_t)r->info[0].vocabulary * sizeof *r->logits);
    if (r->ids == NULL || r->logits == NULL) return mka_cli_error("out of memory");
    for (int i = 0; i < count; i++) r->ids[i] = (int)((unsigned)i * 2654435761u % (unsigned)r->info[0].vocabulary);
    return 0;
}

/* Fills a session's cache from the tokens that it holds up to its depth. */
static int fill(run *r, timeline *t) {
    int held = mka_session_length(t->session);
    mka_status status = MKA_OK;
    if (held < t->depth && r->random) {
        status = mka_session_fill(t->session, t->depth - held, 1, &r->error);
    } else if (held < t->depth) {
        status = mka_session_eval(t->session, r->ids + held, (size_t)(t->depth - held), NULL, NULL, NULL, &r->error);
    }
    return status == MKA_OK ? 0 : mka_cli_failure(&r->error, 0);
}

/* Back to the depth; a model that cannot go back begins again. */
static int cut_back(run *r, timeline *t) {
    mka_status status = mka_session_truncate(t->session, t->depth, &r->error);
    if (status == MKA_UNSUPPORTED) status = mka_session_truncate(t->session, 0, &r->error);
    return status == MKA_OK ? fill(r, t) : mka_cli_failure(&r->error, 0);
}

static int open_timelines(run *r) {
    int most = 0, status = 0;
    for (int i = 0; i < r->line_count; i++) most = r->lines[i].tokens > most ? r->lines[i].tokens : most;
    int deepest = 0;
    for (int i = 0; i < r->timeline_count; i++) deepest = r->timelines[i].depth > deepest ? r->timelines[i].depth : deepest;
    status = make_ids(r, deepest + most);
    for (int i = 0; i < r->timeline_count && status == 0; i++) {
        timeline *t = &r->timelines[i];
        r->bench.cli->options.memory = t->memory;
        status = mka_cli_open_session(r->bench.cli, r->model[t->model], t->depth + most, &t->session);
        if (status == 0) status = fill(r, t);
        if (status == 0) status = mka_bench_step(&r->bench);
    }
    return status;
}

/* ---- measuring ---- */

static double time_tokens(void *user) {
    line *l = user;
    run *r = l->run;
    timeline *t = l->timeline;
    mka_session_usage before, after;
    size_t step = l->phase == MKA_CLI_DECODE ? 1 : (size_t)l->tokens;
    mka_session_get_usage(t->session, &before);
    double start = mka_cli_now();
    for (size_t i = 0; i < (size_t)l->tokens; i += step)
        if (mka_session_eval(t->session, r->ids + t->depth + i, step, r->logits, NULL, NULL, &r->error) != MKA_OK) {
            mka_cli_failure(&r->error, 0);
            return -1;
        }
    double seconds = mka_cli_now() - start;
    l->row.calls++;
    mka_session_get_usage(t->session, &after);
    l->row.bytes =
        (double)(after.weight_bytes_read - before.weight_bytes_read) + (double)(after.cache_bytes_read - before.cache_bytes_read);
    return cut_back(r, t) == 0 ? seconds : -1;
}

/* Two operations for every weight and token (the embedding is looked up, but an output matrix of its size is multiplied once),
 * and attention's products. */
static double operations(const run *r, const line *l) {
    const mka_model_info *info = &r->info[l->timeline->model];
    double weights = (double)info->parameters, embedding = (double)info->vocabulary * info->width;
    double pair = (double)info->layers * 2 * info->heads * 2 * info->head_dim;
    double pairs = (double)l->tokens * (l->timeline->depth + 0.5 * (l->tokens + 1));
    double outputs = l->phase == MKA_CLI_DECODE ? l->tokens : 1;
    return 2 * (weights - embedding) * l->tokens + 2 * embedding * outputs + pair * pairs;
}

/* A call that is not measured; after it the row's bytes are known, and with them the buffer of a decoded token's limit. */
static int warm_up(run *r, line *l) {
    if (time_tokens(l) < 0) return 1;
    l->row.flops = operations(r, l);
    if (l->phase == MKA_CLI_DECODE) {
        double each = l->row.bytes / l->tokens;
        l->row.buffer = each < LIMIT_BUFFER ? (size_t)each : LIMIT_BUFFER;
    }
    int status = mka_bench_row_make(&r->bench, &l->row);
    if (status == 0 && l->row.buffer > 0) status = mka_bench_buffer(&r->bench, l->row.engine, l->row.buffer);
    return status != 0 ? status : mka_bench_step(&r->bench);
}

static int measure(run *r) {
    int status = 0;
    for (int i = 0; i < r->line_count && status == 0; i++) status = warm_up(r, &r->lines[i]);
    for (int repeat = 0; repeat < r->bench.cli->options.repeats && status == 0; repeat++)
        for (int i = 0; i < r->line_count && status == 0; i++)
            status = mka_bench_sample(&r->bench, &r->lines[i].row, repeat, time_tokens, &r->lines[i]);
    return status;
}

/* ---- output ---- */

static void type_text(const mka_cli *cli, char *text, size_t room) {
    mka_session_options options;
    mka_cli_session_options(cli, 0, &options);
    snprintf(text, room, "%s", mka_cli_type_name(options.key_type));
    if (options.key_type == options.value_type) return;
    size_t used = strlen(text);
    snprintf(text + used, room - used, "/%s", mka_cli_type_name(options.value_type));
}

static const char *mode_of(const line *l) {
    return mka_session_is_tiered(l->timeline->session) ? "tiered" : "dense";
}

static void print_json(run *r, line *l, const mka_bench_result *result, const mka_bench_spread *rate) {
    const mka_cli *cli = r->bench.cli;
    char types[32];
    json_t *out = json_object();
    type_text(cli, types, sizeof types);
    json_object_set_new(out, "model", mka_cli_json_string(cli->options.shape != NULL ? cli->options.shape : cli->options.model));
    json_object_set_new(out, "phase", json_string(mka_cli_phase_name(l->phase)));
    json_object_set_new(out, "depth", json_integer(l->timeline->depth));
    json_object_set_new(out, "tokens", json_integer(l->tokens));
    json_object_set_new(out, "tok_s", mka_bench_spread_json(rate));
    json_object_set_new(out, "kv_type", json_string(types));
    json_object_set_new(out, "memory", json_pack("{s:s}", "mode", mode_of(l)));
    json_object_set_new(out, "fill", json_string(r->random ? "random" : "model"));
    json_object_set_new(out, "attention", mka_cli_json_string(r->info[l->timeline->model].attention));
    json_object_set_new(out, "weight_type", json_string(mka_type_name(r->info[l->timeline->model].weight_type)));
    mka_bench_row_json(&r->bench, &l->row, result, out);
    mka_cli_json(r->bench.cli, out);
}

static void print_line(run *r, line *l, const mka_bench_result *result, const mka_bench_spread *rate) {
    char types[32], limit[48] = "";
    type_text(r->bench.cli, types, sizeof types);
    if (l->row.buffer > 0) snprintf(limit, sizeof limit, "%.1f GB/s %3.0f%%", result->limit, 100 * result->fraction);
    mka_cli_print(r->bench.cli, "%-7s %-7s %-6s %7d %6d %-8s %3d %9.1f %9.1f %9.1f %8.1f %9.1f %16s\n",
                  mka_cli_phase_name(l->phase), r->info[l->timeline->model].attention, mode_of(l), l->timeline->depth, l->tokens,
                  types, r->bench.machine[l->row.engine].threads, rate->min, rate->median, rate->max, result->gbps,
                  result->gflops, limit);
}

static void print_all(run *r) {
    mka_cli *cli = r->bench.cli;
    mka_cli_progress_end(&r->bench.progress);
    if (!cli->options.json)
        mka_cli_print(cli, "%-7s %-7s %-6s %7s %6s %-8s %3s %9s %9s %9s %8s %9s %16s\n", "phase", "variant", "memory", "depth",
                      "tokens", "cache", "thr", "min tok/s", "median", "max", "GB/s", "GFLOP/s", "read limit");
    for (int i = 0; i < r->line_count; i++) {
        line *l = &r->lines[i];
        mka_bench_result result = mka_bench_row_result(&r->bench, &l->row);
        mka_bench_spread rate = {l->tokens / result.seconds.max, l->tokens / result.seconds.median,
                                 l->tokens / result.seconds.min};
        if (cli->options.json)
            print_json(r, l, &result, &rate);
        else
            print_line(r, l, &result, &rate), mka_bench_print_device(&r->bench, &l->row, &result);
    }
}

int mka_cli_bench_model(mka_cli *cli) {
    run *r = calloc(1, sizeof *r);
    if (r == NULL) return mka_cli_error("out of memory");
    int status = mka_bench_open(&r->bench, cli);
    if (status == 0) status = open_models(r);
    if (status == 0) add_lines(r);
    r->bench.total = (size_t)r->timeline_count + (size_t)r->line_count * (size_t)(cli->options.repeats + 1);
    if (status == 0) status = open_timelines(r);
    if (status == 0) status = measure(r);
    if (status == 0) print_all(r);
    for (int i = 0; i < r->timeline_count; i++) mka_session_destroy(r->timelines[i].session);
    for (int i = 0; i < r->line_count; i++) mka_bench_row_free(&r->lines[i].row);
    for (int i = 0; i < MOST_MODELS; i++) mka_model_destroy(r->model[i]);
    free(r->ids);
    free(r->logits);
    mka_bench_close(&r->bench);
    free(r);
    return status;
}
