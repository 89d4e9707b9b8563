/* check - compares this build with known answers: the command, its reports, and the comparison itself. */
#include "check.h"
#include "commands.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- comparing ---- */

mka_cli_compared *mka_cli_compare_begin(mka_cli_report *report, const char *name) {
    for (int i = 0; i < report->compared; i++) {
        if (strcmp(report->tensors[i].name, name) == 0) return &report->tensors[i];
    }
    if (report->compared == MKA_CLI_MOST_TENSORS) return NULL;
    mka_cli_compared *record = &report->tensors[report->compared++];
    snprintf(record->name, sizeof record->name, "%s", name);
    return record;
}

void mka_cli_compare(mka_cli_compared *record, const char *run, const float *got, const void *want, size_t n, double absolute,
                     double relative) {
    const unsigned char *bytes = want;
    for (size_t i = 0; i < n; i++) {
        float expected;
        memcpy(&expected, bytes + i * sizeof expected, sizeof expected);
        double error = fabs((double)got[i] - (double)expected), size = fabs((double)expected);
        if (!(error <= absolute + relative * size)) record->outside++;
        if (!isfinite(error)) error = INFINITY;
        if (error > record->max_abs || record->worst_run[0] == '\0') {
            record->max_abs = error;
            snprintf(record->worst_run, sizeof record->worst_run, "%s", run);
        }
        if (size > record->max_want) record->max_want = size;
    }
    record->values += n;
}

void mka_cli_compare_end(mka_cli_report *report) {
    for (int i = 0; i < report->compared; i++) {
        const mka_cli_compared *t = &report->tensors[i];
        double relative = t->max_abs > 0 ? t->max_abs / (t->max_want > 0 ? t->max_want : 1) : 0;
        if (t->max_abs > report->max_abs) report->max_abs = t->max_abs;
        if (relative > report->max_rel) report->max_rel = relative;
        if (t->outside > 0 || t->values == 0) report->failed = 1;
    }
}

int mka_cli_report_fail(mka_cli_report *report, const char *format, ...) {
    va_list list;
    size_t name = strlen(report->file);
    va_start(list, format);
    vsnprintf(report->message, sizeof report->message, format, list);
    va_end(list);
    /* The library's messages begin with the file's name, and so will the line that this one is shown in. */
    if (strncmp(report->message, report->file, name) == 0 && strncmp(report->message + name, ": ", 2) == 0) {
        memmove(report->message, report->message + name + 2, strlen(report->message + name + 2) + 1);
    }
    report->failed = 1;
    return 1;
}

void mka_cli_report_skip(mka_cli_report *report, const char *format, ...) {
    char line[400];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    json_array_append_new(report->skipped, mka_cli_json_string(line));
}

/* ---- reporting ---- */

/* "cpu", or the device as it can be asked for again. */
static const char *device_name(const mka_cli *cli) {
    return cli->options.device != NULL ? cli->options.device : "cpu";
}

static json_t *report_json(const mka_cli *cli, const mka_cli_report *r, const mka_machine *machine) {
    json_t *tensors = json_array();
    for (int i = 0; r->cases == NULL && i < r->compared; i++) {
        const mka_cli_compared *t = &r->tensors[i];
        json_array_append_new(tensors, json_pack("{s:s, s:o, s:I, s:I, s:o}", "name", t->name, "max_abs_err",
                                                 mka_cli_json_real(t->max_abs), "values", (json_int_t)t->values, "outside",
                                                 (json_int_t)t->outside, "worst_run", mka_cli_json_string(t->worst_run)));
    }
    json_t *object = json_pack("{s:o, s:s, s:s, s:s, s:b, s:o, s:o, s:i, s:i}", "file", mka_cli_json_string(r->file), "kind",
                               r->kind, "device", device_name(cli), "cpu", machine->level, "passed", !r->failed, "max_abs_err",
                               mka_cli_json_real(r->max_abs), "max_rel_err", mka_cli_json_real(r->max_rel), "compared",
                               r->compared, "grads", 0);
    if (r->cases != NULL) {
        json_object_set_new(object, "model", mka_cli_json_string(cli->options.model));
        json_object_set_new(object, "exact", json_boolean(cli->options.exact));
        json_object_set(object, "cases", r->cases);
        json_decref(tensors);
    } else {
        json_object_set_new(object, "tensors", tensors);
    }
    json_object_set(object, "skipped", r->skipped);
    if (r->message[0] != '\0') json_object_set_new(object, "error", mka_cli_json_string(r->message));
    return object;
}

static void print_case(mka_cli *cli, const json_t *item) {
    const char *passed = json_is_true(json_object_get(item, "passed")) ? "ok  " : "FAIL";
    mka_cli_print(cli, "    %s %s: %s\n", passed, json_string_value(json_object_get(item, "case")),
                  json_string_value(json_object_get(item, "result")));
}

static void print_report(mka_cli *cli, const mka_cli_report *r, const mka_machine *machine) {
    const char *on = mka_cli_colors(cli, STDOUT_FILENO) ? (r->failed ? "\033[31m" : "\033[32m") : "";
    mka_cli_print(cli, "%s%s%s %s", on, r->failed ? "FAIL" : "ok  ", on[0] != '\0' ? "\033[0m" : "", r->file);
    if (r->message[0] != '\0') {
        mka_cli_print(cli, ": %s\n", r->message);
    } else {
        mka_cli_print(cli, " (%s, %s): max error %.3g, relative %.3g, %d %s compared\n", r->kind,
                      strcmp(device_name(cli), "cpu") == 0 ? machine->level : device_name(cli), r->max_abs, r->max_rel,
                      r->compared, r->cases != NULL ? "cases" : "tensors");
    }
    int all = cli->options.verbose > 0;
    for (int i = 0; r->cases == NULL && i < r->compared; i++) {
        const mka_cli_compared *t = &r->tensors[i];
        if (!all && t->outside == 0 && t->values > 0) continue;
        mka_cli_print(cli, "    %s %s: max error %.3g (%s), %zu of %zu values outside\n",
                      t->outside == 0 && t->values > 0 ? "ok  " : "FAIL", t->name, t->max_abs, t->worst_run, t->outside,
                      t->values);
    }
    size_t index;
    json_t *item;
    json_array_foreach(r->cases, index, item) {
        if (all || !json_is_true(json_object_get(item, "passed"))) print_case(cli, item);
    }
    json_array_foreach(r->skipped, index, item) {
        if (all) mka_cli_print(cli, "    not compared: %s\n", json_string_value(item));
    }
}

/* Checks one file and tells the outcome. Returns 0 or 1. */
static int check_file(mka_cli *cli, mka_engine *engine, mka_model *model, const char *path) {
    mka_cli_report report;
    mka_machine machine;
    memset(&report, 0, sizeof report);
    mka_engine_machine(engine, &machine);
    report.file = path;
    report.skipped = json_array();
    snprintf(report.kind, sizeof report.kind, "%s", model != NULL ? "model" : "unknown");
    if (model != NULL) {
        report.cases = json_array();
        mka_cli_check_model(cli, model, &report);
    } else {
        mka_cli_check_golden(cli, engine, &report);
        mka_cli_compare_end(&report);
    }
    if (report.message[0] == '\0' && report.compared == 0) mka_cli_report_fail(&report, "nothing in it could be compared");
    if (cli->options.json) {
        mka_cli_json(cli, report_json(cli, &report, &machine));
        if (report.message[0] != '\0') mka_cli_error("%s: %s", path, report.message);
    } else {
        print_report(cli, &report, &machine);
        mka_cli_flush(cli);
    }
    json_decref(report.skipped);
    json_decref(report.cases);
    return report.failed;
}

int mka_cli_check(mka_cli *cli) {
    mka_engine *engine = NULL;
    mka_model *model = NULL;
    int count = cli->options.argument_count, failed = 0;
    if (count == 0) return mka_cli_usage("check", "which file? Give golden files, or -m MODEL and a JSON file");
    for (int i = 0; i < count && cli->options.model == NULL; i++) {
        const char *dot = strrchr(cli->options.arguments[i], '.');
        if (dot != NULL && strcmp(dot, ".json") == 0) {
            return mka_cli_usage("check", "%s holds answers of a model; name the model with -m", cli->options.arguments[i]);
        }
    }
    int status = mka_cli_open_engine(cli, &engine);
    if (status == 0 && cli->options.model != NULL) status = mka_cli_open_model(cli, "check", engine, 0, &model);
    for (int i = 0; i < count && status == 0 && cli->write_error == 0; i++) {
        failed += check_file(cli, engine, model, cli->options.arguments[i]);
    }
    if (status == 0 && count > 1 && !cli->options.json) mka_cli_print(cli, "%d of %d files hold\n", count - failed, count);
    mka_model_destroy(model);
    mka_engine_destroy(engine);
    return status != 0 ? status : failed > 0;
}
