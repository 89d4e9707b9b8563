/* check_model - a stock model against a JSON file of what it must answer: token ids, logits, greedy text, and the likelihood of a
 * long text (the last in check_long.c).
 *
 * The recorded logits are exact arithmetic, or another engine's in float32; peer_* is how far off that engine is when it runs as
 * people run it. A build may be that far off and no further; with --exact the bound is a number of its own.
 */
#include "check_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE_MARGIN 0.5 /* a greedy choice that is closer may go either way */

int mka_cli_case(mka_cli_expected *e, int passed, const char *name, const char *format, ...) {
    char result[400];
    va_list list;
    va_start(list, format);
    vsnprintf(result, sizeof result, format, list);
    va_end(list);
    json_array_append_new(e->report->cases, json_pack("{s:o, s:b, s:o}", "case", mka_cli_json_string(name), "passed", passed,
                                                      "result", mka_cli_json_string(result)));
    e->report->compared++;
    if (!passed) e->report->failed = 1;
    return 0;
}

int mka_cli_expected_ids(mka_cli_expected *e, const char *where, const json_t *array, int **ids, size_t *count) {
    *count = json_array_size(array);
    *ids = NULL;
    if (!json_is_array(array)) return mka_cli_report_fail(e->report, "%s is not an array of token ids", where);
    int *list = malloc((*count + 1) * sizeof *list);
    if (list == NULL) return mka_cli_report_fail(e->report, "out of memory");
    for (size_t i = 0; i < *count; i++) {
        const json_t *item = json_array_get(array, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= e->vocabulary) {
            free(list);
            return mka_cli_report_fail(e->report, "%s[%zu] is not a token id of this model (0 to %d)", where, i,
                                       e->vocabulary - 1);
        }
        list[i] = (int)id;
    }
    *ids = list;
    return 0;
}

/* A list of finite numbers of the wanted length (0: any). The caller frees it. NULL after mka_cli_report_fail. */
static float *numbers(mka_cli_expected *e, const char *where, const json_t *array, size_t wanted) {
    size_t count = json_array_size(array);
    if (!json_is_array(array) || count != wanted) {
        mka_cli_report_fail(e->report, "%s is not an array of %zu numbers", where, wanted);
        return NULL;
    }
    float *list = malloc((count + 1) * sizeof *list);
    if (list == NULL) mka_cli_report_fail(e->report, "out of memory");
    for (size_t i = 0; i < count && list != NULL; i++) {
        if (json_is_number(json_array_get(array, i))) {
            list[i] = (float)json_number_value(json_array_get(array, i));
        } else {
            mka_cli_report_fail(e->report, "%s[%zu] is not a number", where, i);
            free(list);
            list = NULL;
        }
    }
    return list;
}

/* ---- token ids ---- */

/* Compares the ids of a text with those expected, as one case. */
static int compare_ids(mka_cli_expected *e, const char *name, const json_t *text, unsigned flags, const int *want, size_t count) {
    size_t got = 0;
    mka_error error = {0};
    const char *bytes = json_string_value(text);
    size_t length = json_string_length(text), room = length + count + 16;
    int *ids = malloc(room * sizeof *ids);
    if (ids == NULL) return mka_cli_report_fail(e->report, "out of memory");
    if (mka_tokenize(e->model, bytes, length, flags, ids, room, &got, &error) != MKA_OK) {
        free(ids);
        return mka_cli_case(e, 0, name, "%s", error.message);
    }
    size_t i = 0;
    while (i < got && i < count && i < room && ids[i] == want[i]) i++;
    if (i == count && i == got) {
        mka_cli_case(e, 1, name, "%zu ids equal", count);
    } else if (i < got && i < count) {
        mka_cli_case(e, 0, name, "id %zu is %d, expected %d (%zu ids, expected %zu)", i, ids[i], want[i], got, count);
    } else {
        mka_cli_case(e, 0, name, "%zu ids, expected %zu; equal as far as both go", got, count);
    }
    free(ids);
    return 0;
}

static int check_tokenize(mka_cli_expected *e, const json_t *list) {
    size_t index;
    json_t *item;
    json_array_foreach((json_t *)list, index, item) {
        char name[64], where[64];
        int *want;
        size_t count;
        snprintf(name, sizeof name, "tokenize %zu", index);
        snprintf(where, sizeof where, "tokenize[%zu].ids", index);
        const json_t *text = json_object_get(item, "text");
        if (!json_is_string(text)) return mka_cli_report_fail(e->report, "tokenize[%zu].text is not a string", index);
        if (mka_cli_expected_ids(e, where, json_object_get(item, "ids"), &want, &count) != 0) return 1;
        unsigned flags = (json_is_true(json_object_get(item, "parse_special")) ? MKA_TOKENIZE_SPECIAL : 0) |
                         (json_is_true(json_object_get(item, "add_special")) ? MKA_TOKENIZE_BOS : 0);
        int status = compare_ids(e, name, text, flags, want, count);
        free(want);
        if (status != 0) return status;
    }
    return 0;
}

/* The prompt's text was made from a user's message: the model's template must make the same (but for BOS). */
static int check_template(mka_cli_expected *e, const char *name, const json_t *user, const json_t *text) {
    mka_message message = {"user", json_string_value(user)};
    mka_error error = {0};
    size_t length = 0, wanted = json_string_length(text);
    if (strlen(message.content) != json_string_length(user))
        return mka_cli_report_fail(e->report, "%s: chat_user holds NUL", name);
    mka_status status = mka_chat_format(e->model, NULL, &message, 1, 1, NULL, 0, &length, &error);
    char *made = status == MKA_OK ? malloc(length + 1) : NULL;
    if (made != NULL) status = mka_chat_format(e->model, NULL, &message, 1, 1, made, length + 1, &length, &error);
    if (made == NULL || status != MKA_OK) {
        mka_cli_report_skip(e->report, "%s: chat template: %s", name, error.message);
    } else {
        /* BOS stands before it as text in some templates; the recorded text leaves it to the tokenizer. */
        int same = length >= wanted && memcmp(made + length - wanted, json_string_value(text), wanted) == 0;
        mka_special special;
        mka_model_special(e->model, &special);
        size_t bos = special.bos >= 0 ? mka_token_piece(e->model, special.bos, 1, NULL, 0) : 0;
        same = same && (length == wanted || length == wanted + bos);
        mka_cli_case(e, same, name, same ? "chat template gives the expected text" : "chat template gives another text");
    }
    free(made);
    return 0;
}

/* ---- logits ---- */

typedef struct expected_logits {
    int *ids;      /* NULL: all of the vocabulary in order */
    float *logits; /* count of them */
    size_t count;
    double peer;
} expected_logits;

static int read_logits(mka_cli_expected *e, size_t index, const json_t *item, expected_logits *out) {
    char where[64];
    memset(out, 0, sizeof *out);
    const json_t *all = json_object_get(item, "logits"), *top = json_object_get(item, "top");
    const json_t *peer = json_object_get(item, all != NULL ? "peer_max_err" : "peer_top10_max_err");
    if (!json_is_number(peer) || !(json_number_value(peer) >= 0)) {
        return mka_cli_report_fail(e->report, "predict[%zu] has no %s", index,
                                   all != NULL ? "peer_max_err" : "peer_top10_max_err");
    }
    out->peer = json_number_value(peer);
    snprintf(where, sizeof where, "predict[%zu].%s", index, all != NULL ? "logits" : "top.ids");
    out->count = (size_t)e->vocabulary;
    if (all == NULL && mka_cli_expected_ids(e, where, json_object_get(top, "ids"), &out->ids, &out->count) != 0) return 1;
    if (out->count == 0) return mka_cli_report_fail(e->report, "%s is empty", where);
    out->logits = numbers(e, where, all != NULL ? all : json_object_get(top, "logits"), out->count);
    return out->logits == NULL;
}

/* Largest error of the recorded logits; also the largest recorded one, for the relative error. */
static double worst_logit(const mka_cli_expected *e, const expected_logits *want, double *largest) {
    double worst = 0;
    *largest = 0;
    for (size_t i = 0; i < want->count; i++) {
        double error = fabs((double)e->logits[want->ids != NULL ? want->ids[i] : (int)i] - (double)want->logits[i]);
        if (!isfinite(error)) error = INFINITY;
        if (error > worst) worst = error;
        if (fabs((double)want->logits[i]) > *largest) *largest = fabs((double)want->logits[i]);
    }
    return worst;
}

/* The numbers beside the sentence of the case that was noted last. */
static void note_errors(mka_cli_expected *e, double error, double peer) {
    json_t *item = json_array_get(e->report->cases, json_array_size(e->report->cases) - 1);
    json_object_set_new(item, "max_abs_err", mka_cli_json_real(error));
    json_object_set_new(item, "peer_err", mka_cli_json_real(peer));
}

static int check_logits(mka_cli_expected *e, size_t index, const json_t *item) {
    expected_logits want;
    char name[64];
    double largest;
    int status = read_logits(e, index, item, &want);
    if (status == 0) {
        double error = worst_logit(e, &want, &largest);
        double relative = error / (largest > 0 ? largest : 1);
        if (error > e->report->max_abs) e->report->max_abs = error;
        if (relative > e->report->max_rel) e->report->max_rel = relative;
        snprintf(name, sizeof name, "predict %zu logits", index);
        if (want.ids == NULL) {
            double limit = e->exact || 2 * want.peer < 0.003 ? 0.003 : 2 * want.peer;
            mka_cli_case(e, error <= limit, name, "max error %.5f of %zu logits; the peer's is %.5f, allowed is %.5f", error,
                         want.count, want.peer, limit);
        } else {
            /* Judged over all cases together: a single prompt may favour either engine. */
            if (error > e->worst) e->worst = error;
            if (want.peer > e->worst_peer) e->worst_peer = want.peer;
            e->sum += error;
            e->sum_peer += want.peer;
            e->judged++;
            mka_cli_case(e, isfinite(error), name, "max error %.4f of the %zu best; the peer's is %.4f", error, want.count,
                         want.peer);
        }
        note_errors(e, error, want.peer);
    }
    free(want.ids);
    free(want.logits);
    return status;
}

/* ---- greedy text ---- */

static int best_logit(const float *logits, int count) {
    int best = 0;
    for (int i = 1; i < count; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

/* Continues with the best token each time; the session holds the prompt and e->logits are those after it. */
static int check_greedy(mka_cli_expected *e, size_t index, const json_t *item) {
    char name[64], where[64];
    int *want;
    size_t count, equal = 0, needed = 0;
    mka_error error = {0};
    snprintf(name, sizeof name, "predict %zu greedy", index);
    snprintf(where, sizeof where, "predict[%zu].greedy", index);
    if (mka_cli_expected_ids(e, where, json_object_get(item, "greedy"), &want, &count) != 0) return 1;
    snprintf(where, sizeof where, "predict[%zu].greedy_margin", index);
    float *margin = numbers(e, where, json_object_get(item, "greedy_margin"), count);
    int status = margin == NULL;
    while (status == 0 && needed < count && (double)margin[needed] >= CLOSE_MARGIN) needed++;
    while (status == 0 && equal < count) {
        int token = best_logit(e->logits, e->vocabulary);
        if (token != want[equal]) break;
        equal++;
        if (equal < count && mka_session_eval(e->session, &token, 1, e->logits, NULL, NULL, &error) != MKA_OK) {
            status = mka_cli_report_fail(e->report, "%s: %s", name, error.message);
        }
    }
    if (status == 0) {
        mka_cli_case(e, equal >= needed, name, "%zu of %zu tokens equal; %zu come before the first close choice", equal, count,
                     needed);
    }
    free(margin);
    free(want);
    return status;
}

/* ---- one prompt, all prompts ---- */

static int check_prompt(mka_cli_expected *e, size_t index, const json_t *item, const int *ids, size_t count) {
    char name[64];
    mka_error error = {0};
    const json_t *text = json_object_get(item, "text"), *user = json_object_get(item, "chat_user");
    if (json_is_string(text)) {
        snprintf(name, sizeof name, "predict %zu ids", index);
        unsigned flags = MKA_TOKENIZE_BOS | (json_is_true(json_object_get(item, "parse_special")) ? MKA_TOKENIZE_SPECIAL : 0);
        if (compare_ids(e, name, text, flags, ids, count) != 0) return 1;
        snprintf(name, sizeof name, "predict %zu template", index);
        if (json_is_string(user) && check_template(e, name, user, text) != 0) return 1;
    }
    if (mka_session_truncate(e->session, 0, &error) != MKA_OK ||
        mka_session_eval(e->session, ids, count, e->logits, NULL, NULL, &error) != MKA_OK) {
        return mka_cli_report_fail(e->report, "predict[%zu]: %s", index, error.message);
    }
    int status = check_logits(e, index, item);
    if (status == 0 && json_object_get(item, "greedy") != NULL) status = check_greedy(e, index, item);
    return status;
}

/* Makes the session that all prompts share, as long as the longest of them needs. */
static int open_session(mka_cli_expected *e, const json_t *list) {
    size_t index, longest = 0;
    json_t *item;
    json_array_foreach((json_t *)list, index, item) {
        size_t length = json_array_size(json_object_get(item, "ids")) + json_array_size(json_object_get(item, "greedy"));
        if (length > longest) longest = length;
    }
    int all_logits = json_object_get(json_array_get(list, 0), "logits") != NULL;
    if (longest >= 1 << 24) return mka_cli_report_fail(e->report, "predict: a prompt of %zu tokens is too long", longest);
    return mka_cli_expected_session(e, (int)longest + 1, all_logits, &e->session);
}

static int check_predict(mka_cli_expected *e, const json_t *list) {
    size_t index;
    json_t *item;
    if (json_array_size(list) == 0) return 0;
    e->logits = malloc((size_t)e->vocabulary * sizeof *e->logits);
    if (e->logits == NULL) return mka_cli_report_fail(e->report, "out of memory");
    int status = open_session(e, list);
    json_array_foreach((json_t *)list, index, item) {
        char where[64];
        int *ids = NULL;
        size_t count = 0;
        if (status != 0) break;
        snprintf(where, sizeof where, "predict[%zu].ids", index);
        status = mka_cli_expected_ids(e, where, json_object_get(item, "ids"), &ids, &count);
        if (status == 0 && count == 0) status = mka_cli_report_fail(e->report, "%s is empty", where);
        if (status == 0) status = check_prompt(e, index, item, ids, count);
        free(ids);
    }
    if (status == 0 && e->judged > 0) {
        double limit = e->exact ? 0.02 : e->worst_peer;
        mka_cli_case(e, e->worst <= limit, "logits over all cases",
                     "max error %.4f, mean of the cases %.4f; the peer's are %.4f and %.4f, allowed is %.4f", e->worst,
                     e->sum / e->judged, e->worst_peer, e->sum_peer / e->judged, limit);
    }
    return status;
}

int mka_cli_expected_session(mka_cli_expected *e, int context, int float_cache, mka_session **session) {
    mka_session_options options;
    mka_error error = {0};
    mka_cli_session_options(e->cli, context, &options);
    if ((e->exact || float_cache) && e->cli->options.key_type == MKA_CLI_UNSET) options.key_type = MKA_F32;
    if ((e->exact || float_cache) && e->cli->options.value_type == MKA_CLI_UNSET) options.value_type = MKA_F32;
    if (mka_session_create(e->model, &options, session, &error) == MKA_OK) return 0;
    return mka_cli_report_fail(e->report, "%s", error.message);
}

void mka_cli_check_model(mka_cli *cli, mka_model *model, mka_cli_report *report) {
    static const char *const known[] = {"model", "sha256", "note", "exact", "tokenize", "predict", "long"};
    mka_cli_expected e = {.cli = cli, .model = model, .report = report, .exact = cli->options.exact};
    mka_model_info info;
    json_error_t at;
    mka_model_get_info(model, &info);
    e.vocabulary = info.vocabulary;
    json_t *root = json_load_file(report->file, JSON_ALLOW_NUL, &at), *value;
    if (root == NULL) {
        mka_cli_report_fail(report, "%s", at.text);
        if (at.line > 0) mka_cli_report_fail(report, "line %d: %s", at.line, at.text);
        return;
    }
    const char *key;
    int status = json_is_object(root) ? 0 : mka_cli_report_fail(report, "not a JSON object");
    json_object_foreach(root, key, value) {
        int found = 0;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) found |= strcmp(key, known[i]) == 0;
        if (!found) mka_cli_report_skip(report, "%s: not something this version knows how to check", key);
        if (found && (strcmp(key, "tokenize") == 0 || strcmp(key, "predict") == 0 || strcmp(key, "long") == 0) &&
            !json_is_array(value)) {
            status = mka_cli_report_fail(report, "%s is not an array", key);
        }
    }
    if (status == 0) status = check_tokenize(&e, json_object_get(root, "tokenize"));
    if (status == 0) status = check_predict(&e, json_object_get(root, "predict"));
    mka_session_destroy(e.session); /* before the long texts, which need a large one of their own */
    e.session = NULL;
    if (status == 0) mka_cli_check_long(&e, json_object_get(root, "long"));
    free(e.logits);
    json_decref(root);
}
