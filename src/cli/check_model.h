/* check_model - what the two parts of a model's check share: the file's expectations and the state while going through them. */
#ifndef MKA_CLI_CHECK_MODEL_H
#define MKA_CLI_CHECK_MODEL_H

#include "check.h"

#include <stdarg.h>

typedef struct mka_cli_expected {
    mka_cli *cli;
    mka_model *model;
    mka_cli_report *report;
    mka_session *session;
    float *logits; /* [vocabulary], after the last evaluated token */
    int vocabulary, exact;
    double worst, worst_peer, sum, sum_peer; /* logits of the cases that are judged together */
    int judged;
} mka_cli_expected;

/* Notes one case and whether it holds. Returns 0. */
int mka_cli_case(mka_cli_expected *expected, int passed, const char *name, const char *format, ...) MKA_PRINTF(4, 5);
/* An array of ids of this vocabulary; the caller frees *ids. Returns 0, or 1 after mka_cli_report_fail, which names where. */
int mka_cli_expected_ids(mka_cli_expected *expected, const char *where, const json_t *array, int **ids, size_t *count);
/* A session as the flags say; float_cache: with a float32 cache unless -ctk, -ctv say otherwise (--exact implies it). */
int mka_cli_expected_session(mka_cli_expected *expected, int context, int float_cache, mka_session **session);
/* Long texts: their ids and likelihood. */
int mka_cli_check_long(mka_cli_expected *expected, const json_t *list);

#endif
