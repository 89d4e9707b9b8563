/* bench - what the three benchmarks share: one engine a thread count, rows that are sampled in turns, and the limit of each row,
 * sampled right before and right after it. */
#ifndef MKA_CLI_BENCH_H
#define MKA_CLI_BENCH_H

#include "setup.h"

#include <mka/device.h>
#include <mka/profile.h>

typedef struct mka_bench {
    mka_cli *cli;
    int engines; /* one for every number of -t, in its order */
    mka_engine *engine[MKA_CLI_LIST];
    mka_machine machine[MKA_CLI_LIST];
    mka_limits *limits[MKA_CLI_LIST];               /* buffers to read, or NULL */
    mka_device_limits *device_limits[MKA_CLI_LIST]; /* instead of limits, where the engine has a device */
    size_t buffer[MKA_CLI_LIST];                    /* their bytes */
    mka_cli_progress progress;
    size_t done, total; /* steps */
} mka_bench;

/* Starts the engines; after a failure close is to be called all the same. Each function returns an exit status: 0, 1, 2, or 130
 * after Ctrl-C. */
int mka_bench_open(mka_bench *bench, mka_cli *cli);
void mka_bench_close(mka_bench *bench);
/* Makes sure that the buffer of an engine has at least bytes. */
int mka_bench_buffer(mka_bench *bench, int engine, size_t bytes);
/* One of total steps is done. */
int mka_bench_step(mka_bench *bench);

typedef struct mka_bench_spread {
    double min, median, max;
} mka_bench_spread;

/* Sorts samples. */
mka_bench_spread mka_bench_spread_of(double *samples, int count);
json_t *mka_bench_spread_json(const mka_bench_spread *spread);

/* What one row measures, and what came out. Owned by the caller: zero at first, freed by mka_bench_row_free. */
typedef struct mka_bench_row {
    int engine;
    double bytes, flops;                         /* of one call: what it has to read and to compute */
    size_t buffer;                               /* bytes that its read limit is measured over; 0: the row has no limits */
    mka_unit unit;                               /* that it computes with; MKA_UNITS: no arithmetic limit */
    double *seconds, *read, *compute, *fraction; /* [repeats] */
    double calls;                                /* counted by the call itself */
    double profiled;                             /* of them: those in which a device was profiled */
    mka_device_usage device;                     /* what it did in them */
} mka_bench_row;

int mka_bench_row_make(mka_bench *bench, mka_bench_row *row);
void mka_bench_row_free(mka_bench_row *row);

/* Does what the row measures once; returns the seconds it took, or a negative number after saying what went wrong. */
typedef double mka_bench_call(void *user);

/* Sample number repeat of a row, with its limits around it. */
int mka_bench_sample(mka_bench *bench, mka_bench_row *row, int repeat, mka_bench_call *call, void *user);

typedef struct mka_bench_result {
    mka_bench_spread seconds, read, compute; /* GB/s, GFLOP/s */
    double gbps, gflops, limit, fraction;    /* limit in GB/s or GFLOP/s, whichever is reached first */
    int by_arithmetic;                       /* 1: the limit is the unit's */
} mka_bench_result;

/* Sorts the row's samples. */
mka_bench_result mka_bench_row_result(const mka_bench *bench, mka_bench_row *row);

/* threads, cpu level and repeats of a row; what every JSON object ends with. */
void mka_bench_row_json(const mka_bench *bench, const mka_bench_row *row, const mka_bench_result *result, json_t *out);

/* 1 for an engine that computes on a device: its rows are held against the speed of the device's memory. */
int mka_bench_on_device(const mka_bench *bench, int engine);
/* A second line of a device's row: what a call took there and on the way, by the device's clock. Nothing for other rows. */
void mka_bench_print_device(const mka_bench *bench, const mka_bench_row *row, const mka_bench_result *result);

#endif
