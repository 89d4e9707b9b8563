/* check_golden - opens a golden file, reads its configuration without trusting it, and checks attention alone.
 *
 * A golden file may come from anywhere: every number is bounded and every tensor's type and shape compared with what the
 * configuration says before a byte of it is used.
 */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int mka_cli_golden_int(const mka_cli_golden *golden, const char *key, long long min, long long max, long long fallback,
                       int *out) {
    const json_t *value = json_object_get(golden->config, key);
    if (value == NULL && fallback >= min) {
        *out = (int)fallback;
        return 0;
    }
    if (value == NULL) return mka_cli_report_fail(golden->report, "config has no %s", key);
    long long number = json_integer_value(value);
    if (!json_is_integer(value) || number < min || number > max) {
        return mka_cli_report_fail(golden->report, "config: %s is not a whole number from %lld to %lld", key, min, max);
    }
    *out = (int)number;
    return 0;
}

int mka_cli_golden_real(const mka_cli_golden *golden, const char *key, double min, double max, double fallback, float *out) {
    const json_t *value = json_object_get(golden->config, key);
    double number = value != NULL ? json_number_value(value) : fallback;
    if (value == NULL && fallback < min) return mka_cli_report_fail(golden->report, "config has no %s", key);
    if ((value != NULL && !json_is_number(value)) || !(number >= min && number <= max)) {
        return mka_cli_report_fail(golden->report, "config: %s is not a number from %g to %g", key, min, max);
    }
    *out = (float)number;
    return 0;
}

const mka_tensor *mka_cli_golden_tensor(const mka_cli_golden *golden, const char *name, mka_type type, int optional, int rank,
                                        const int64_t *shape) {
    const mka_tensor *tensor = mka_file_find(golden->file, name);
    if (tensor == NULL) {
        if (!optional) mka_cli_report_fail(golden->report, "tensor %s is missing", name);
        return NULL;
    }
    int same = tensor->type == type && tensor->rank == rank;
    for (int i = 0; same && i < rank; i++) same = tensor->shape[i] == shape[i];
    if (same) return tensor;
    char wanted[96] = "";
    for (int i = 0; i < rank; i++) {
        size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof wanted - used, "%s%lld", i > 0 ? ", " : "", (long long)shape[i]);
    }
    mka_cli_report_fail(golden->report, "tensor %s is not %s [%s], as its config says", name, mka_type_name(type), wanted);
    return NULL;
}

float *mka_cli_golden_floats(const mka_tensor *tensor) {
    float *copy = malloc(tensor->bytes > 0 ? tensor->bytes : 1);
    if (copy != NULL && tensor->bytes > 0) memcpy(copy, tensor->data, tensor->bytes);
    return copy;
}

/* ---- attention alone ---- */

typedef struct attend_case {
    mka_attend_shape shape;
    int batch;
    const mka_tensor *q, *k, *v, *y;
} attend_case;

static int attend_config(mka_cli_golden *g, attend_case *c) {
    const int most = 1 << 20;
    memset(c, 0, sizeof *c);
    c->shape.type = MKA_F32;
    if (mka_cli_golden_int(g, "batch", 1, most, -1, &c->batch) != 0 ||
        mka_cli_golden_int(g, "heads", 1, most, -1, &c->shape.heads) != 0 ||
        mka_cli_golden_int(g, "kv_heads", 1, most, -1, &c->shape.kv_heads) != 0 ||
        mka_cli_golden_int(g, "head_dim", 1, 256, -1, &c->shape.head_dim) != 0 ||
        mka_cli_golden_int(g, "q_len", 1, most, -1, &c->shape.q_len) != 0 ||
        mka_cli_golden_int(g, "kv_len", 1, most, -1, &c->shape.kv_len) != 0 ||
        mka_cli_golden_int(g, "window", 0, most, 0, &c->shape.window) != 0) {
        return 1;
    }
    if (c->shape.heads % c->shape.kv_heads != 0) return mka_cli_report_fail(g->report, "config: kv_heads does not divide heads");
    if (c->shape.q_len > c->shape.kv_len) return mka_cli_report_fail(g->report, "config: q_len is larger than kv_len");
    int64_t q[4] = {c->batch, c->shape.heads, c->shape.q_len, c->shape.head_dim};
    int64_t k[4] = {c->batch, c->shape.kv_heads, c->shape.kv_len, c->shape.head_dim};
    if ((c->q = mka_cli_golden_tensor(g, "in.q", MKA_F32, 0, 4, q)) == NULL) return 1;
    if ((c->k = mka_cli_golden_tensor(g, "in.k", MKA_F32, 0, 4, k)) == NULL) return 1;
    if ((c->v = mka_cli_golden_tensor(g, "in.v", MKA_F32, 0, 4, k)) == NULL) return 1;
    return (c->y = mka_cli_golden_tensor(g, "out.y", MKA_F32, 0, 4, q)) == NULL;
}

/* The same queries one at a time, as decoding asks them: query i sees the first kv_len - q_len + i + 1 keys. */
static int attend_singly(mka_cli_golden *g, const attend_case *c, const float *q, const float *k, const float *v, float *y) {
    const mka_attend_shape *s = &c->shape;
    size_t d = (size_t)s->head_dim, kv = (size_t)s->kv_len, n = (size_t)s->q_len, heads = (size_t)s->heads;
    float *one = calloc(2 * heads * d, sizeof *one), *keys = calloc((size_t)s->kv_heads * kv * d, sizeof *keys);
    float *values = calloc((size_t)s->kv_heads * kv * d, sizeof *values);
    mka_status status = one != NULL && keys != NULL && values != NULL ? MKA_OK : MKA_NO_MEMORY;
    mka_error error = {0};
    for (size_t i = 0; i < n && status == MKA_OK; i++) {
        mka_attend_shape single = *s;
        size_t seen = kv - n + i + 1;
        single.q_len = 1;
        single.kv_len = (int)seen;
        for (size_t h = 0; h < (size_t)s->kv_heads; h++) {
            memcpy(keys + h * seen * d, k + h * kv * d, seen * d * sizeof *keys);
            memcpy(values + h * seen * d, v + h * kv * d, seen * d * sizeof *values);
        }
        for (size_t h = 0; h < heads; h++) memcpy(one + h * d, q + (h * n + i) * d, d * sizeof *one);
        status = mka_attend(g->engine, &single, one, keys, values, one + heads * d, &error);
        for (size_t h = 0; h < heads; h++) memcpy(y + (h * n + i) * d, one + (heads + h) * d, d * sizeof *y);
    }
    free(one);
    free(keys);
    free(values);
    return status == MKA_OK ? 0
                            : mka_cli_report_fail(g->report, "%s", error.message[0] != '\0' ? error.message : "out of memory");
}

void mka_cli_check_attend(mka_cli_golden *g) {
    attend_case c;
    mka_error error = {0};
    if (attend_config(g, &c) != 0) return;
    size_t d = (size_t)c.shape.head_dim;
    size_t queries = (size_t)c.shape.heads * (size_t)c.shape.q_len * d,
           keys = (size_t)c.shape.kv_heads * (size_t)c.shape.kv_len * d;
    float *q = mka_cli_golden_floats(c.q), *k = mka_cli_golden_floats(c.k), *v = mka_cli_golden_floats(c.v);
    float *y = malloc(queries * sizeof *y);
    int bad = q == NULL || k == NULL || v == NULL || y == NULL;
    if (bad) mka_cli_report_fail(g->report, "out of memory");
    mka_cli_compared *record = mka_cli_compare_begin(g->report, "out.y");
    for (size_t b = 0; !bad && b < (size_t)c.batch; b++) {
        const void *want = (const char *)c.y->data + b * queries * sizeof *y;
        if (mka_attend(g->engine, &c.shape, q + b * queries, k + b * keys, v + b * keys, y, &error) != MKA_OK) {
            bad = mka_cli_report_fail(g->report, "%s", error.message);
        } else {
            mka_cli_compare(record, "one pass", y, want, queries, MKA_CLI_ABSOLUTE, MKA_CLI_RELATIVE);
            bad = attend_singly(g, &c, q + b * queries, k + b * keys, v + b * keys, y);
        }
        if (!bad) mka_cli_compare(record, "query by query", y, want, queries, MKA_CLI_ABSOLUTE, MKA_CLI_RELATIVE);
    }
    free(q);
    free(k);
    free(v);
    free(y);
}

/* ---- any golden file ---- */

/* A string of the metadata as a copy that the caller frees; NULL after mka_cli_report_fail. */
static char *meta_text(mka_cli_golden *g, const char *key) {
    const char *bytes;
    size_t length;
    const mka_meta *meta = mka_file_meta_find(g->file, key);
    if (meta == NULL || !mka_meta_string(g->file, meta, 0, &bytes, &length)) {
        mka_cli_report_fail(g->report, "not a golden file: its metadata has no string '%s'", key);
        return NULL;
    }
    char *text = malloc(length + 1);
    if (text == NULL) {
        mka_cli_report_fail(g->report, "out of memory");
        return NULL;
    }
    memcpy(text, bytes, length);
    text[length] = '\0';
    return text;
}

static int read_header(mka_cli_golden *g) {
    json_error_t at;
    char *kind = meta_text(g, "kind");
    if (kind == NULL) return 1;
    snprintf(g->report->kind, sizeof g->report->kind, "%s", kind);
    free(kind);
    for (char *c = g->report->kind; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e) *c = '?';
    }
    char *config = meta_text(g, "config");
    if (config == NULL) return 1;
    g->config = json_loads(config, JSON_REJECT_DUPLICATES, &at);
    free(config);
    if (json_is_object(g->config)) return 0;
    return mka_cli_report_fail(g->report, "config is not a JSON object: %s",
                               g->config == NULL ? at.text : "another kind of value");
}

/* Names what the file expects and no run compared: nothing is passed over in silence. */
static void list_skipped(mka_cli_golden *g) {
    int grads = 0;
    for (int i = 0; i < mka_file_tensor_count(g->file); i++) {
        const char *name = mka_file_tensor(g->file, i)->name;
        int compared = 0, in_part = 0;
        for (int k = 0; k < g->report->compared; k++) {
            const char *record = g->report->tensors[k].name;
            compared |= strcmp(record, name) == 0;
            in_part |= strncmp(record, name, strlen(name)) == 0 && record[strlen(name)] == '[';
        }
        if (in_part) {
            mka_cli_report_skip(g->report,
                                "%s: the first value is compared; the others need training, which is not in this version", name);
        } else if (strncmp(name, "grad.", 5) == 0) {
            grads++;
        } else if (strncmp(name, "out.", 4) == 0 && !compared) {
            mka_cli_report_skip(g->report, "%s: this build gives nothing to compare it with", name);
        }
    }
    if (grads > 0)
        mka_cli_report_skip(g->report, "grad.* (%d tensors): gradients need training, which is not in this version", grads);
}

void mka_cli_check_golden(mka_cli *cli, mka_engine *engine, mka_cli_report *report) {
    static const char *const layers[] = {"mha", "gqa", "mqa", "mla", "mka", "fastmka"};
    mka_cli_golden g = {cli, engine, NULL, NULL, report};
    mka_error error = {0};
    if (mka_file_open(report->file, &g.file, &error) != MKA_OK) {
        mka_cli_report_fail(report, "%s", error.message);
        return;
    }
    if (read_header(&g) == 0) {
        int layer = 0;
        for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) layer |= strcmp(report->kind, layers[i]) == 0;
        if (strcmp(report->kind, "attend") == 0) {
            mka_cli_check_attend(&g);
        } else if (layer) {
            mka_cli_check_layer(&g);
        } else if (strncmp(report->kind, "lm-", 3) == 0) {
            mka_cli_check_lm(&g);
        } else {
            mka_cli_report_fail(report, "kind '%s' is not known; attend, mha, gqa, mqa, mla, mka, fastmka or lm-*", report->kind);
        }
        list_skipped(&g);
    }
    json_decref(g.config);
    mka_file_close(g.file);
}
