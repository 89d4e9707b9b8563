/* bench_limits - how fast this machine reads, copies and computes, by cache level, NUMA node and number of threads. */
#include "bench.h"
#include "commands.h"

#include <stdlib.h>
#include <string.h>

/* Where a row's bytes lie. */
typedef struct place {
    const char *level;
    int node;           /* -1 for a cache */
    size_t one, all;    /* bytes that one thread and all threads read */
    mka_limits *limits; /* its buffer */
    int engine;
    double *samples; /* [4][repeats]: read by one thread, by all, copied by one, by all */
} place;

enum { MOST_PLACES = 3 + 64 };

typedef struct run {
    mka_bench bench;
    place places[MOST_PLACES];
    int count;
    double *units; /* [MKA_UNITS][2][repeats] of the engine at hand */
} run;

static int add_place(run *r, int engine, const char *level, int node, size_t one, size_t all) {
    mka_error error = {0};
    if (one < 4096 || all < one || r->count == MOST_PLACES) return 0;
    place *p = &r->places[r->count];
    *p = (place){.level = level, .node = node, .one = one, .all = all, .engine = engine};
    mka_status status = mka_limits_create(r->bench.engine[engine], all, node, &p->limits, &error);
    if (status == MKA_UNSUPPORTED && r->bench.machine[engine].nodes == 1) /* a container that may not place: there is one node */
        status = mka_limits_create(r->bench.engine[engine], all, -1, &p->limits, &error);
    if (status != MKA_OK) return mka_cli_failure(&error, 0);
    r->count++;
    p->samples = calloc(4 * (size_t)r->bench.cli->options.repeats, sizeof *p->samples);
    return p->samples != NULL ? 0 : mka_cli_error("out of memory");
}

/* Half of a cache is read, so that what else runs does not push it out. A last level that holds no more than the level below
 * it, over all threads, cannot be told from it and is left out. */
static int add_places(run *r, int engine) {
    const mka_machine *m = &r->bench.machine[engine];
    size_t threads = (size_t)m->threads, memory = (size_t)r->bench.cli->options.size;
    int status = add_place(r, engine, "l1d", -1, m->l1d / 2, m->l1d / 2 * threads);
    if (status == 0) status = add_place(r, engine, "l2", -1, m->l2 / 2, m->l2 / 2 * threads);
    if (status == 0 && m->l3 / 2 > m->l2 * threads) status = add_place(r, engine, "l3", -1, m->l3 / 2, m->l3 / 2);
    if (memory == 0) {
        memory = 4 * m->l3 > (size_t)256 << 20 ? 4 * m->l3 : (size_t)256 << 20;
        if (memory > m->memory_free / 4) memory = (size_t)m->memory_free / 4;
    }
    for (int node = 0; node < m->nodes && status == 0; node++) status = add_place(r, engine, "memory", node, memory, memory);
    return status;
}

static int sample_place(run *r, place *p, int repeat) {
    size_t repeats = (size_t)r->bench.cli->options.repeats;
    int threads = r->bench.machine[p->engine].threads;
    mka_error error = {0};
    double *at = p->samples + repeat;
    if (mka_limits_read(p->limits, p->one, 1, at, &error) || mka_limits_read(p->limits, p->all, threads, at + repeats, &error) ||
        mka_limits_copy(p->limits, p->one, 1, at + 2 * repeats, &error) ||
        mka_limits_copy(p->limits, p->all, threads, at + 3 * repeats, &error))
        return mka_cli_failure(&error, 0);
    return mka_bench_step(&r->bench);
}

static int sample_units(run *r, int engine, int repeat) {
    size_t repeats = (size_t)r->bench.cli->options.repeats;
    mka_error error = {0};
    for (int unit = 0; unit < MKA_UNITS; unit++) {
        if (!mka_limits_has(r->bench.engine[engine], (mka_unit)unit)) continue;
        double *at = r->units + 2 * (size_t)unit * repeats + repeat;
        if (mka_limits_compute(r->bench.engine[engine], (mka_unit)unit, 1, at, &error) ||
            mka_limits_compute(r->bench.engine[engine], (mka_unit)unit, r->bench.machine[engine].threads, at + repeats, &error))
            return mka_cli_failure(&error, 0);
    }
    return mka_bench_step(&r->bench);
}

/* ---- output ---- */

/* {"1": of one thread, "all": of all} from two runs of samples. */
typedef struct pair {
    mka_bench_spread one, all;
} pair;

static pair pair_of(double *samples, int repeats) {
    return (pair){mka_bench_spread_of(samples, repeats), mka_bench_spread_of(samples + repeats, repeats)};
}

static json_t *medians(const pair *p) {
    json_t *out = json_object();
    json_object_set_new(out, "1", mka_cli_json_real(p->one.median));
    json_object_set_new(out, "all", mka_cli_json_real(p->all.median));
    return out;
}

static json_t *spreads(const pair *p) {
    json_t *out = json_object();
    json_object_set_new(out, "1", mka_bench_spread_json(&p->one));
    json_object_set_new(out, "all", mka_bench_spread_json(&p->all));
    return out;
}

static void print_json(run *r, place *p, const pair *read, const pair *copy, const pair *units) {
    const mka_machine *m = &r->bench.machine[p->engine];
    json_t *out = json_object(), *spread = json_object(), *all = json_object();
    for (int unit = 0; unit < MKA_UNITS; unit++) {
        if (!mka_limits_has(r->bench.engine[p->engine], (mka_unit)unit)) continue;
        json_object_set_new(all, mka_unit_name((mka_unit)unit), medians(&units[unit]));
        json_object_set_new(spread, mka_unit_name((mka_unit)unit), spreads(&units[unit]));
    }
    json_object_set_new(spread, "read_gbps", spreads(read));
    json_object_set_new(spread, "copy_gbps", spreads(copy));
    json_object_set_new(out, "level", json_string(p->level));
    json_object_set_new(out, "node", p->node < 0 ? json_null() : json_integer(p->node));
    json_object_set_new(out, "bytes", json_pack("{s:I, s:I}", "1", (json_int_t)p->one, "all", (json_int_t)p->all));
    json_object_set_new(out, "read_gbps", medians(read));
    json_object_set_new(out, "copy_gbps", medians(copy));
    json_object_set_new(out, "f32_gflops", medians(&units[MKA_UNIT_F32]));
    json_object_set_new(out, "unit_gflops", all);
    json_object_set_new(out, "spread", spread);
    json_object_set_new(out, "threads", json_integer(m->threads));
    json_object_set_new(out, "repeats", json_integer(r->bench.cli->options.repeats));
    json_object_set_new(out, "cpu", mka_cli_json_string(m->level));
    json_object_set_new(out, "machine", mka_cli_json_string(m->cpu));
    mka_cli_json(r->bench.cli, out);
}

static void print_line(mka_cli *cli, const char *what, const char *size, const pair *p) {
    mka_cli_print(cli, "  %-14s %-9s %9.1f %9.1f %9.1f   %9.1f %9.1f %9.1f\n", what, size, p->one.min, p->one.median, p->one.max,
                  p->all.min, p->all.median, p->all.max);
}

static void print_place(run *r, const place *p, const pair *read, const pair *copy) {
    char what[48], size[32], node[24] = "";
    if (p->node >= 0 && r->bench.machine[p->engine].nodes > 1) snprintf(node, sizeof node, " %d", p->node);
    snprintf(what, sizeof what, "%s%s read", p->level, node);
    print_line(r->bench.cli, what, mka_cli_size(p->all, size), read);
    snprintf(what, sizeof what, "%s%s copy", p->level, node);
    print_line(r->bench.cli, what, "", copy);
}

static void print_engine(run *r, int engine) {
    mka_cli *cli = r->bench.cli;
    int repeats = cli->options.repeats, threads = r->bench.machine[engine].threads;
    pair units[MKA_UNITS];
    for (int unit = 0; unit < MKA_UNITS; unit++) units[unit] = pair_of(r->units + 2 * unit * repeats, repeats);
    if (!cli->options.json)
        mka_cli_print(cli, "%s, kernels of level %s\n  %-24s %29s   %22s %2d thread%s\n  %-24s %9s %9s %9s   %9s %9s %9s\n",
                      r->bench.machine[engine].cpu, r->bench.machine[engine].level, "", "1 thread", "", threads,
                      threads == 1 ? "" : "s", "GB/s", "min", "median", "max", "min", "median", "max");
    for (int i = 0; i < r->count; i++) {
        place *p = &r->places[i];
        pair read = pair_of(p->samples, repeats), copy = pair_of(p->samples + 2 * repeats, repeats);
        if (cli->options.json)
            print_json(r, p, &read, &copy, units);
        else
            print_place(r, p, &read, &copy);
    }
    if (cli->options.json) return;
    mka_cli_print(cli, "  GFLOP/s\n");
    for (int unit = 0; unit < MKA_UNITS; unit++)
        if (mka_limits_has(r->bench.engine[engine], (mka_unit)unit))
            print_line(cli, mka_unit_name((mka_unit)unit), "", &units[unit]);
}

/* ---- a device ---- */

static void print_device(run *r, int engine, size_t bytes, double *samples) {
    mka_device_info info;
    char size[32];
    int repeats = r->bench.cli->options.repeats;
    mka_bench_spread read = mka_bench_spread_of(samples, repeats), copy = mka_bench_spread_of(samples + repeats, repeats);
    mka_engine_get_device(r->bench.engine[engine], &info);
    if (r->bench.cli->options.json) {
        mka_cli_json(r->bench.cli,
                     json_pack("{s:s, s:o, s:I, s:o, s:o, s:i}", "level", "device", "device", mka_cli_json_string(info.name),
                               "bytes", (json_int_t)bytes, "read_gbps", mka_bench_spread_json(&read), "copy_gbps",
                               mka_bench_spread_json(&copy), "repeats", repeats));
        return;
    }
    mka_cli_print(r->bench.cli, "%s (%s)\n  %-24s %9s %9s %9s\n  %-14s %-9s %9.1f %9.1f %9.1f\n  %-24s %9.1f %9.1f %9.1f\n",
                  info.name, info.platform, "GB/s", "min", "median", "max", "memory read", mka_cli_size(bytes, size), read.min,
                  read.median, read.max, "memory copy", copy.min, copy.median, copy.max);
}

/* A device has one memory to measure: --size of it, or 1 GiB, or what it has room for. */
static int run_device(run *r, int engine) {
    mka_bench *b = &r->bench;
    mka_device_info info;
    mka_error error = {0};
    int repeats = b->cli->options.repeats, status;
    size_t bytes = (size_t)b->cli->options.size;
    mka_engine_get_device(b->engine[engine], &info);
    if (bytes == 0) bytes = (size_t)1 << 30 < info.largest / 4 ? (size_t)1 << 30 : (size_t)info.largest / 4;
    double *samples = calloc(2 * (size_t)repeats, sizeof *samples);
    b->total = (size_t)b->engines * (size_t)repeats;
    status = samples != NULL ? mka_bench_buffer(b, engine, bytes) : mka_cli_error("out of memory");
    for (int i = 0; i < repeats && status == 0; i++) {
        mka_device_limits *limits = b->device_limits[engine];
        if (mka_device_limits_read(limits, bytes, &samples[i], &error) != MKA_OK ||
            mka_device_limits_copy(limits, bytes, &samples[repeats + i], &error) != MKA_OK)
            status = mka_cli_failure(&error, 0);
        else
            status = mka_bench_step(b);
    }
    if (status == 0) {
        mka_cli_progress_end(&b->progress);
        print_device(r, engine, bytes, samples);
    }
    free(samples);
    return status;
}

/* ---- running ---- */

static void forget_places(run *r) {
    for (int i = 0; i < r->count; i++) {
        mka_limits_destroy(r->places[i].limits);
        free(r->places[i].samples);
    }
    r->count = 0;
    free(r->units);
    r->units = NULL;
}

static int run_engine(run *r, int engine) {
    int repeats = r->bench.cli->options.repeats;
    r->units = calloc(2 * MKA_UNITS * (size_t)repeats, sizeof *r->units);
    int status = r->units != NULL ? add_places(r, engine) : mka_cli_error("out of memory");
    r->bench.total = (size_t)r->bench.engines * (size_t)repeats * (size_t)(r->count + 1);
    for (int repeat = 0; repeat < repeats && status == 0; repeat++) {
        for (int i = 0; i < r->count && status == 0; i++) status = sample_place(r, &r->places[i], repeat);
        if (status == 0) status = sample_units(r, engine, repeat);
    }
    if (status == 0) {
        mka_cli_progress_end(&r->bench.progress);
        print_engine(r, engine);
    }
    forget_places(r);
    return status;
}

int mka_cli_bench_limits(mka_cli *cli) {
    run r = {.count = 0};
    int status = mka_bench_open(&r.bench, cli);
    for (int i = 0; i < r.bench.engines && status == 0; i++)
        status = mka_bench_on_device(&r.bench, i) ? run_device(&r, i) : run_engine(&r, i);
    mka_bench_close(&r.bench);
    return status;
}
