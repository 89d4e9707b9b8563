/* bench - engines, samples and limits of the benchmarks. See bench.h.
 *
 * A figure without its limit says little on a machine that others use too, and a limit that was measured a minute earlier says
 * little more. So every sample stands between two samples of its own limits, and the fraction is formed sample by sample.
 */
#include "bench.h"

#include <mka/device.h>

#include <stdlib.h>
#include <string.h>

/* ---- engines ---- */

int mka_bench_open(mka_bench *bench, mka_cli *cli) {
    const mka_cli_list *list = &cli->options.threads_list;
    memset(bench, 0, sizeof *bench);
    bench->cli = cli;
    int count = list->count > 0 ? list->count : 1;
    for (int i = 0; i < count; i++) {
        cli->options.threads = list->count > 0 ? list->items[i] : 0;
        int status = mka_cli_open_engine(cli, &bench->engine[i]);
        if (status != 0) return status;
        mka_engine_machine(bench->engine[i], &bench->machine[i]);
        bench->engines++;
    }
    mka_cli_progress_start(&bench->progress, "measuring");
    mka_cli_catch_interrupt();
    return 0;
}

void mka_bench_close(mka_bench *bench) {
    mka_cli_progress_end(&bench->progress);
    for (int i = 0; i < bench->engines; i++) {
        mka_limits_destroy(bench->limits[i]);
        mka_device_limits_destroy(bench->device_limits[i]);
        mka_engine_destroy(bench->engine[i]);
    }
}

int mka_bench_on_device(const mka_bench *bench, int engine) {
    mka_device_info info;
    return mka_engine_get_device(bench->engine[engine], &info);
}

int mka_bench_buffer(mka_bench *bench, int engine, size_t bytes) {
    mka_error error = {0};
    if (bytes < 4096) bytes = 4096;
    if (bench->buffer[engine] >= bytes) return 0;
    mka_limits_destroy(bench->limits[engine]);
    mka_device_limits_destroy(bench->device_limits[engine]);
    bench->limits[engine] = NULL;
    bench->device_limits[engine] = NULL;
    bench->buffer[engine] = 0;
    mka_status status = mka_bench_on_device(bench, engine)
                            ? mka_device_limits_create(bench->engine[engine], bytes, &bench->device_limits[engine], &error)
                            : mka_limits_create(bench->engine[engine], bytes, -1, &bench->limits[engine], &error);
    if (status != MKA_OK) return mka_cli_failure(&error, 0);
    bench->buffer[engine] = bytes;
    return 0;
}

int mka_bench_step(mka_bench *bench) {
    bench->done++;
    return mka_cli_progress_step(&bench->progress, bench->done, bench->total) ? 130 : 0;
}

/* ---- spreads ---- */

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

mka_bench_spread mka_bench_spread_of(double *samples, int count) {
    qsort(samples, (size_t)count, sizeof *samples, by_size);
    double median = count % 2 ? samples[count / 2] : 0.5 * (samples[count / 2 - 1] + samples[count / 2]);
    return (mka_bench_spread){samples[0], median, samples[count - 1]};
}

json_t *mka_bench_spread_json(const mka_bench_spread *s) {
    json_t *out = json_object();
    json_object_set_new(out, "min", mka_cli_json_real(s->min));
    json_object_set_new(out, "median", mka_cli_json_real(s->median));
    json_object_set_new(out, "max", mka_cli_json_real(s->max));
    return out;
}

/* ---- rows ---- */

int mka_bench_row_make(mka_bench *bench, mka_bench_row *row) {
    size_t count = (size_t)bench->cli->options.repeats;
    row->seconds = calloc(4 * count, sizeof *row->seconds);
    if (row->seconds == NULL) return mka_cli_error("out of memory");
    row->read = row->seconds + count;
    row->compute = row->read + count;
    row->fraction = row->compute + count;
    return 0;
}

void mka_bench_row_free(mka_bench_row *row) {
    free(row->seconds);
    memset(row, 0, sizeof *row);
}

static void subtract_fetched(mka_device_fetched *fetched, const mka_device_fetched *before) {
    fetched->tokens -= before->tokens;
    fetched->bytes -= before->bytes;
    fetched->seconds -= before->seconds;
    fetched->host_seconds -= before->host_seconds;
}

/* usage -= before */
static void subtract(mka_device_usage *usage, const mka_device_usage *before) {
    usage->up_bytes -= before->up_bytes;
    usage->down_bytes -= before->down_bytes;
    usage->kernels -= before->kernels;
    usage->up_seconds -= before->up_seconds;
    usage->down_seconds -= before->down_seconds;
    usage->kernel_seconds -= before->kernel_seconds;
    usage->wait_seconds -= before->wait_seconds;
    subtract_fetched(&usage->fetched, &before->fetched);
    subtract_fetched(&usage->ahead, &before->ahead);
}

/* One more call, in which a device takes the times of its commands: they make it slower, so that it is no sample. */
static int profile(const mka_bench *bench, mka_bench_row *row, mka_bench_call *call, void *user) {
    mka_engine *engine = bench->engine[row->engine];
    mka_device_usage before;
    mka_error error = {0};
    if (mka_engine_profile_device(engine, 1, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    mka_engine_get_device_usage(engine, &before);
    double calls = row->calls, seconds = call(user);
    row->profiled = row->calls - calls;
    mka_engine_get_device_usage(engine, &row->device);
    subtract(&row->device, &before);
    if (mka_engine_profile_device(engine, 0, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    return seconds < 0;
}

/* Adds half of a limit sample to what will be the mean of the two around a figure. */
static int sample_limits(mka_bench *bench, mka_bench_row *row, int repeat) {
    mka_engine *engine = bench->engine[row->engine];
    int threads = bench->machine[row->engine].threads;
    mka_error error = {0};
    double rate;
    if (row->buffer == 0) return 0;
    size_t bytes = row->buffer < 4096 ? 4096 : row->buffer;
    mka_device_limits *there = bench->device_limits[row->engine];
    mka_status status = there ? mka_device_limits_read(there, bytes, &rate, &error)
                              : mka_limits_read(bench->limits[row->engine], bytes, threads, &rate, &error);
    if (status != MKA_OK) return mka_cli_failure(&error, 0);
    row->read[repeat] += 0.5 * rate;
    if (row->unit == MKA_UNITS) return 0;
    if (mka_limits_compute(engine, row->unit, threads, &rate, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    row->compute[repeat] += 0.5 * rate;
    return 0;
}

int mka_bench_sample(mka_bench *bench, mka_bench_row *row, int repeat, mka_bench_call *call, void *user) {
    int status = sample_limits(bench, row, repeat);
    if (status != 0) return status;
    row->seconds[repeat] = call(user);
    if (row->seconds[repeat] < 0) return 1;
    status = sample_limits(bench, row, repeat);
    if (status == 0 && repeat == 0 && mka_bench_on_device(bench, row->engine)) status = profile(bench, row, call, user);
    if (status != 0) return status;
    double least = 0;
    if (row->read[repeat] > 0) least = row->bytes * 1e-9 / row->read[repeat];
    if (row->compute[repeat] > 0 && row->flops * 1e-9 / row->compute[repeat] > least)
        least = row->flops * 1e-9 / row->compute[repeat];
    row->fraction[repeat] = least / row->seconds[repeat];
    return mka_bench_step(bench);
}

mka_bench_result mka_bench_row_result(const mka_bench *bench, mka_bench_row *row) {
    int count = bench->cli->options.repeats;
    mka_bench_result r = {.seconds = mka_bench_spread_of(row->seconds, count),
                          .read = mka_bench_spread_of(row->read, count),
                          .compute = mka_bench_spread_of(row->compute, count),
                          .fraction = mka_bench_spread_of(row->fraction, count).median};
    r.gbps = row->bytes * 1e-9 / r.seconds.median;
    r.gflops = row->flops * 1e-9 / r.seconds.median;
    r.by_arithmetic = row->unit != MKA_UNITS && row->flops / r.compute.median > row->bytes / r.read.median;
    r.limit = r.by_arithmetic ? r.compute.median : r.read.median;
    return r;
}

/* ---- a device's rows ---- */

/* What the kernels of a call read a second, in 1e9 bytes, and its share of the read limit; 0 where no times were taken. */
static double kernel_rate(const mka_bench_row *row, const mka_bench_result *r, double *fraction) {
    double rate = row->device.kernel_seconds > 0 ? 1e-9 * row->bytes * row->profiled / row->device.kernel_seconds : 0;
    *fraction = r->read.median > 0 ? rate / r->read.median : 0;
    return rate;
}

/* In 1e9 bytes a second; 0 where no times were taken. */
static double bus_rate(const mka_device_fetched *f) {
    return f->seconds > 0 ? 1e-9 * (double)f->bytes / f->seconds : 0;
}

static void print_fetched(const mka_bench *bench, const mka_bench_row *row, const char *which, const mka_device_fetched *f) {
    double each = 1e3 / row->profiled;
    if (f->tokens == 0) return;
    mka_cli_print(bench->cli, "; %s: %.0f tokens, %.3f MB, %.4f ms at %.1f GB/s, found in %.4f ms", which,
                  (double)f->tokens / row->profiled, 1e-6 * (double)f->bytes / row->profiled, each * f->seconds, bus_rate(f),
                  each * f->host_seconds);
}

void mka_bench_print_device(const mka_bench *bench, const mka_bench_row *row, const mka_bench_result *r) {
    const mka_device_usage *u = &row->device;
    if (!mka_bench_on_device(bench, row->engine) || row->profiled <= 0) return;
    double each = 1e3 / row->profiled, fraction, rate = kernel_rate(row, r, &fraction);
    mka_cli_print(
        bench->cli,
        "        device: %.0f kernels %.4f ms, up %.3f MB %.4f ms, down %.3f MB %.4f ms, waited %.4f ms; kernels at %.1f "
        "GB/s",
        (double)u->kernels / row->profiled, each * u->kernel_seconds, 1e-6 * (double)u->up_bytes / row->profiled,
        each * u->up_seconds, 1e-6 * (double)u->down_bytes / row->profiled, each * u->down_seconds, each * u->wait_seconds, rate);
    if (fraction > 0) mka_cli_print(bench->cli, ", %.0f%% of its %.1f", 100 * fraction, r->read.median);
    mka_cli_print(bench->cli, "\n");
    if (u->fetched.tokens + u->ahead.tokens == 0) return;
    mka_cli_print(bench->cli, "        rows from memory");
    print_fetched(bench, row, "that it waited for", &u->fetched);
    print_fetched(bench, row, "sent ahead", &u->ahead);
    mka_cli_print(bench->cli, "\n");
}

/* A call's part of long-term rows that stay in memory. */
static json_t *fetched_json(const mka_bench_row *row, const mka_device_fetched *f) {
    double each = 1e3 / row->profiled;
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "tokens", mka_cli_json_real((double)f->tokens / row->profiled), "bytes",
                     mka_cli_json_real((double)f->bytes / row->profiled), "ms", mka_cli_json_real(each * f->seconds), "gbps",
                     mka_cli_json_real(bus_rate(f)), "host_ms", mka_cli_json_real(each * f->host_seconds));
}

static json_t *device_json(const mka_bench_row *row, const mka_bench_result *r) {
    const mka_device_usage *u = &row->device;
    double each = 1e3 / row->profiled, fraction, rate = kernel_rate(row, r, &fraction);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "kernels",
                     mka_cli_json_real((double)u->kernels / row->profiled), "kernel_ms",
                     mka_cli_json_real(each * u->kernel_seconds), "up_ms", mka_cli_json_real(each * u->up_seconds), "down_ms",
                     mka_cli_json_real(each * u->down_seconds), "wait_ms", mka_cli_json_real(each * u->wait_seconds), "up_bytes",
                     mka_cli_json_real((double)u->up_bytes / row->profiled), "down_bytes",
                     mka_cli_json_real((double)u->down_bytes / row->profiled), "kernel_gbps", mka_cli_json_real(rate),
                     "kernel_fraction", mka_cli_json_real(fraction), "fetched", fetched_json(row, &u->fetched), "ahead",
                     fetched_json(row, &u->ahead));
}

void mka_bench_row_json(const mka_bench *bench, const mka_bench_row *row, const mka_bench_result *r, json_t *out) {
    const mka_machine *machine = &bench->machine[row->engine];
    json_object_set_new(out, "bytes", mka_cli_json_real(row->bytes));
    json_object_set_new(out, "flops", mka_cli_json_real(row->flops));
    json_object_set_new(out, "gbps", mka_cli_json_real(r->gbps));
    json_object_set_new(out, "gflops", mka_cli_json_real(r->gflops));
    if (row->buffer > 0) {
        json_object_set_new(out, "limit", mka_cli_json_real(r->limit));
        json_object_set_new(out, "limit_kind", json_string(r->by_arithmetic ? "arithmetic" : "read"));
        json_object_set_new(out, "limit_fraction", mka_cli_json_real(r->fraction));
        json_object_set_new(out, "read_gbps", mka_bench_spread_json(&r->read));
    }
    if (row->buffer > 0 && row->unit != MKA_UNITS) {
        json_object_set_new(out, "unit", json_string(mka_unit_name(row->unit)));
        json_object_set_new(out, "unit_gflops", mka_bench_spread_json(&r->compute));
    }
    if (mka_bench_on_device(bench, row->engine) && row->profiled > 0) json_object_set_new(out, "device", device_json(row, r));
    json_object_set_new(out, "threads", json_integer(machine->threads));
    json_object_set_new(out, "repeats", json_integer(bench->cli->options.repeats));
    json_object_set_new(out, "cpu", mka_cli_json_string(machine->level));
}
