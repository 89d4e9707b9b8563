/* check_long - the likelihood of a long passage of a book, as one context, against the exact value that a file records. */
#include "check_model.h"
#include "sha256.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALLOWED_NATS 0.005 /* how far the mean may be off */

/* The book beside the file: FOLDER/../data/books/NAME.txt. NULL when the name is not one (it must not lead elsewhere). */
static char *book_path(const char *file, const char *name) {
    static const char inside[] = "../data/books/";
    if (name == NULL || name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL || strlen(name) > 200) return NULL;
    const char *slash = strrchr(file, '/');
    size_t folder = slash != NULL ? (size_t)(slash - file) + 1 : 0, room = folder + sizeof inside + strlen(name) + 8;
    char *path = malloc(room);
    if (path != NULL) snprintf(path, room, "%.*s%s%s.txt", (int)folder, file, inside, name);
    return path;
}

/* The first count ids of a text. A little more text than they need is tokenized, so that the cut does not touch them. */
static int passage_ids(mka_cli_expected *e, const char *name, const char *text, size_t length, size_t count, int **ids) {
    mka_error error = {0};
    for (size_t take = 6 * count + 4096;; take *= 2) {
        size_t n = take < length ? take : length, got = 0;
        while (n < length && ((unsigned char)text[n] & 0xc0) == 0x80) n++;
        int *list = malloc((n + 64) * sizeof *list);
        if (list == NULL) return mka_cli_report_fail(e->report, "out of memory");
        if (mka_tokenize(e->model, text, n, MKA_TOKENIZE_BOS, list, n + 64, &got, &error) != MKA_OK) {
            free(list);
            return mka_cli_report_fail(e->report, "%s: %s", name, error.message);
        }
        if (got >= count && got <= n + 64 && (got >= count + 256 || n == length)) {
            *ids = list;
            return 0;
        }
        free(list);
        if (n == length)
            return mka_cli_report_fail(e->report, "%s: the text has only %zu tokens, %zu are wanted", name, got, count);
    }
}

/* The recorded first (or last) ids of the passage. */
static int compare_edge(mka_cli_expected *e, const char *name, const char *key, const json_t *item, const int *ids,
                        size_t count) {
    char where[128];
    int *want;
    size_t n, i = 0;
    const json_t *array = json_object_get(item, key);
    if (array == NULL) return 0;
    snprintf(where, sizeof where, "%s.%s", name, key);
    if (mka_cli_expected_ids(e, where, array, &want, &n) != 0) return 1;
    if (n <= count) {
        const int *from = strcmp(key, "last_ids") == 0 ? ids + count - n : ids;
        while (i < n && from[i] == want[i]) i++;
    }
    mka_cli_case(e, i == n, where, "%zu of %zu ids equal", i, n);
    free(want);
    return 0;
}

/* All ids at once, by the digest of their little-endian 32-bit numbers. */
static int compare_digest(mka_cli_expected *e, const char *name, const json_t *item, const int *ids, size_t count) {
    char where[128], got[65];
    const char *want = json_string_value(json_object_get(item, "ids_sha256"));
    if (want == NULL) return 0;
    unsigned char *bytes = malloc(4 * count);
    if (bytes == NULL) return mka_cli_report_fail(e->report, "out of memory");
    for (size_t i = 0; i < count; i++) {
        for (int k = 0; k < 4; k++) bytes[4 * i + (size_t)k] = (unsigned char)((unsigned)ids[i] >> (8 * k));
    }
    mka_cli_sha256(bytes, 4 * count, got);
    free(bytes);
    snprintf(where, sizeof where, "%s.ids_sha256", name);
    int same = strcmp(got, want) == 0;
    return mka_cli_case(e, same, where, same ? "all %zu ids equal, by their digest" : "the digest of the %zu ids differs", count);
}

static int compare_nll(mka_cli_expected *e, const char *name, const json_t *item, const int *ids, size_t count) {
    mka_session *session = NULL;
    mka_error error = {0};
    mka_cli_progress progress;
    const json_t *exact = json_object_get(item, "mean_nll");
    if (!json_is_number(exact)) return mka_cli_report_fail(e->report, "%s.mean_nll is not a number", name);
    double *nll = malloc(count * sizeof *nll), sum = 0;
    int status =
        nll != NULL ? mka_cli_expected_session(e, (int)count, 0, &session) : mka_cli_report_fail(e->report, "out of memory");
    mka_cli_progress_start(&progress, name);
    if (status == 0 && mka_session_score(session, ids, count, -1, nll, mka_cli_progress_step, &progress, &error) != MKA_OK) {
        status = mka_cli_report_fail(e->report, "%s: %s", name, error.message);
    }
    mka_cli_progress_end(&progress);
    if (status == 0) {
        for (size_t i = 0; i + 1 < count; i++) sum += nll[i];
        double mean = sum / (double)(count - 1), off = fabs(mean - json_number_value(exact));
        mka_cli_case(e, off <= ALLOWED_NATS, name,
                     "mean nll %.6f, exact %.6f, off by %.6f (allowed %.3f; the peer is off by %.6f)", mean,
                     json_number_value(exact), off, ALLOWED_NATS,
                     fabs(json_number_value(json_object_get(item, "peer_mean_nll")) - json_number_value(exact)));
    }
    mka_session_destroy(session);
    free(nll);
    return status;
}

static int check_passage(mka_cli_expected *e, const char *name, const json_t *item) {
    char *text = NULL, *path = book_path(e->report->file, json_string_value(json_object_get(item, "book")));
    const json_t *offset = json_object_get(item, "char_offset"), *tokens = json_object_get(item, "tokens");
    json_int_t count = json_integer_value(tokens), skip = json_integer_value(offset);
    size_t length = 0, from = 0;
    int *ids = NULL, status = 0;
    if (path == NULL) return mka_cli_report_fail(e->report, "%s.book is not the name of a book", name);
    if (!json_is_integer(tokens) || count < 2 || count > 1 << 24 || (offset != NULL && (!json_is_integer(offset) || skip < 0))) {
        status = mka_cli_report_fail(e->report, "%s: tokens or char_offset is out of range", name);
    } else if (access(path, R_OK) != 0) {
        mka_cli_report_skip(e->report, "%s: skipped, the text %s is not there", name, path);
        mka_cli_note("%s: %s skipped, the text %s is not there", e->report->file, name, path);
    } else if (mka_cli_read_file(path, &text, &length) != 0) {
        status = mka_cli_report_fail(e->report, "%s: %s cannot be read", name, path);
    } else {
        for (; from < length; from++) {
            if (((unsigned char)text[from] & 0xc0) != 0x80 && skip-- == 0) break;
        }
        status = passage_ids(e, name, text + from, length - from, (size_t)count, &ids);
        if (status == 0) status = compare_edge(e, name, "first_ids", item, ids, (size_t)count);
        if (status == 0) status = compare_edge(e, name, "last_ids", item, ids, (size_t)count);
        if (status == 0) status = compare_digest(e, name, item, ids, (size_t)count);
        if (status == 0) status = compare_nll(e, name, item, ids, (size_t)count);
    }
    free(ids);
    free(text);
    free(path);
    return status;
}

int mka_cli_check_long(mka_cli_expected *e, const json_t *list) {
    size_t index;
    json_t *item;
    json_array_foreach((json_t *)list, index, item) {
        char name[64];
        snprintf(name, sizeof name, "long %zu", index);
        if (check_passage(e, name, item) != 0) return 1;
    }
    return 0;
}
