/* check - what the checks share: a report a file, and the comparison of numbers with those a file expects. */
#ifndef MKA_CLI_CHECK_H
#define MKA_CLI_CHECK_H

#include "setup.h"

#include <mka/attention.h>
#include <mka/file.h>

enum { MKA_CLI_MOST_TENSORS = 8 };

/* One expected tensor and the worst that was seen of it, over all runs. */
typedef struct mka_cli_compared {
    char name[64];
    double max_abs, max_want; /* max_abs is infinite once a value was not finite */
    size_t values, outside;   /* how many were compared, and how many were outside the tolerance */
    char worst_run[48];       /* the run of the largest error */
} mka_cli_compared;

typedef struct mka_cli_report {
    const char *file;
    char kind[32];
    int failed;        /* a comparison did not hold, or the file could not be checked */
    char message[640]; /* why it could not be checked; empty when it was */
    double max_abs, max_rel;
    mka_cli_compared tensors[MKA_CLI_MOST_TENSORS];
    int compared;    /* tensors, or cases of a model file */
    json_t *skipped; /* strings: what the file holds and this check did not compare, and why */
    json_t *cases;   /* model files: an object a case */
} mka_cli_report;

/* The record of an expected tensor, made at the first call; NULL when there are too many. */
mka_cli_compared *mka_cli_compare_begin(mka_cli_report *report, const char *name);
/* Compares n values with what is wanted: |got - want| <= absolute + relative |want|. want may be unaligned. run is a label. */
void mka_cli_compare(mka_cli_compared *record, const char *run, const float *got, const void *want, size_t n, double absolute,
                     double relative);
/* Adds up the records into max_abs, max_rel, compared and failed. */
void mka_cli_compare_end(mka_cli_report *report);

/* Says why the file could not be checked. Returns 1. */
int mka_cli_report_fail(mka_cli_report *report, const char *format, ...) MKA_PRINTF(2, 3);
void mka_cli_report_skip(mka_cli_report *report, const char *format, ...) MKA_PRINTF(2, 3);

/* A golden file that is open: its kind, configuration and tensors. Nothing in it is trusted. */
typedef struct mka_cli_golden {
    mka_cli *cli;
    mka_engine *engine;
    mka_file *file;
    json_t *config;
    mka_cli_report *report;
} mka_cli_golden;

/* An integer of the configuration; absent gives fallback (fallback < min: it must be there). Returns 0, or 1 after
 * mka_cli_report_fail. */
int mka_cli_golden_int(const mka_cli_golden *golden, const char *key, long long min, long long max, long long fallback, int *out);
int mka_cli_golden_real(const mka_cli_golden *golden, const char *key, double min, double max, double fallback, float *out);
/* A tensor of exactly this type and shape; NULL after mka_cli_report_fail (optional and absent: NULL without). */
const mka_tensor *mka_cli_golden_tensor(const mka_cli_golden *golden, const char *name, mka_type type, int optional, int rank,
                                        const int64_t *shape);
/* A copy of a tensor's floats, aligned; the caller frees it. NULL when there is no memory. */
float *mka_cli_golden_floats(const mka_tensor *tensor);

/* One file each; the report is filled. */
void mka_cli_check_golden(mka_cli *cli, mka_engine *engine, mka_cli_report *report);
void mka_cli_check_attend(mka_cli_golden *golden);
void mka_cli_check_layer(mka_cli_golden *golden);
void mka_cli_check_lm(mka_cli_golden *golden);
void mka_cli_check_model(mka_cli *cli, mka_model *model, mka_cli_report *report);

/* Tolerances of float32 paths, forward. */
#define MKA_CLI_ABSOLUTE 2e-5
#define MKA_CLI_RELATIVE 2e-5

#endif
