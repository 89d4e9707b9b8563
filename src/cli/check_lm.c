/* check_lm - a small language model of a golden file: logits at every position, and the loss before the first training step.
 *
 * A session gives the logits of the last token of a call, so each position is reached three ways: token by token, at the end
 * of one pass over the prefix that it ends, and at the end of uneven chunks.
 */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct lm_case {
    int batch, seq, vocabulary;
    int *tokens; /* [batch][seq + 1] */
    const mka_tensor *logits, *losses;
    float *got;
    mka_model *model;
    mka_session *session;
    mka_cli_compared *record;
} lm_case;

static int read_case(mka_cli_golden *g, lm_case *c) {
    if (mka_cli_golden_int(g, "batch", 1, 1 << 16, -1, &c->batch) != 0 ||
        mka_cli_golden_int(g, "seq", 1, 1 << 20, -1, &c->seq) != 0 ||
        mka_cli_golden_int(g, "vocab", 1, 1 << 24, -1, &c->vocabulary) != 0) {
        return 1;
    }
    int64_t shape[3] = {c->batch, (int64_t)c->seq + 1, c->vocabulary};
    const mka_tensor *tokens = mka_cli_golden_tensor(g, "in.tokens", MKA_I32, 0, 2, shape);
    shape[1] = c->seq;
    if (tokens == NULL || (c->logits = mka_cli_golden_tensor(g, "out.logits", MKA_F32, 0, 3, shape)) == NULL) return 1;
    const mka_tensor *losses = mka_file_find(g->file, "out.losses");
    if (losses != NULL && (losses->type != MKA_F32 || losses->rank != 1 || losses->shape[0] < 1)) {
        return mka_cli_report_fail(g->report, "tensor out.losses is not f32 of one dimension");
    }
    c->losses = losses;
    size_t count = (size_t)c->batch * ((size_t)c->seq + 1);
    c->tokens = malloc(count * sizeof *c->tokens);
    c->got = malloc((size_t)c->vocabulary * sizeof *c->got);
    if (c->tokens == NULL || c->got == NULL) return mka_cli_report_fail(g->report, "out of memory");
    for (size_t i = 0; i < count; i++) {
        int32_t id;
        memcpy(&id, (const char *)tokens->data + i * sizeof id, sizeof id);
        if (id < 0 || id >= c->vocabulary)
            return mka_cli_report_fail(g->report, "in.tokens holds %d, outside the vocabulary", (int)id);
        c->tokens[i] = (int)id;
    }
    return 0;
}

static int open_model(mka_cli_golden *g, lm_case *c, mka_mla_form form) {
    mka_error error = {0};
    mka_session_options options;
    mka_model_info info;
    if (c->model == NULL && mka_model_load(g->engine, g->report->file, NULL, &c->model, &error) != MKA_OK) {
        return mka_cli_report_fail(g->report, "%s", error.message);
    }
    mka_model_get_info(c->model, &info);
    if (info.vocabulary != c->vocabulary) return mka_cli_report_fail(g->report, "config: vocab is not that of embed.weight");
    mka_session_defaults(&options);
    options.context = c->seq + 1;
    options.exact = 1;
    options.mla = form;
    options.key_type = options.value_type = MKA_F32;
    if (mka_session_create(c->model, &options, &c->session, &error) != MKA_OK)
        return mka_cli_report_fail(g->report, "%s", error.message);
    return 0;
}

static int compare_at(mka_cli_golden *g, lm_case *c, const char *run, size_t batch, size_t from, size_t n) {
    mka_error error = {0};
    size_t seq = (size_t)c->seq, width = (size_t)c->vocabulary;
    const int *tokens = c->tokens + batch * (seq + 1);
    if (mka_session_eval(c->session, tokens + from, n, c->got, NULL, NULL, &error) != MKA_OK) {
        return mka_cli_report_fail(g->report, "%s: %s", run, error.message);
    }
    const char *want = (const char *)c->logits->data + (batch * seq + from + n - 1) * width * sizeof(float);
    mka_cli_compare(c->record, run, c->got, want, width, MKA_CLI_ABSOLUTE, MKA_CLI_RELATIVE);
    return 0;
}

static int restart(mka_cli_golden *g, lm_case *c) {
    mka_error error = {0};
    if (mka_session_truncate(c->session, 0, &error) == MKA_OK) return 0;
    return mka_cli_report_fail(g->report, "%s", error.message);
}

static int run_sequence(mka_cli_golden *g, lm_case *c, size_t batch) {
    static const size_t sizes[] = {3, 1, 7, 2, 5};
    size_t seq = (size_t)c->seq, stride = seq / 64 + 1;
    int status = restart(g, c);
    for (size_t t = 0; t < seq && status == 0; t++) status = compare_at(g, c, "token by token", batch, t, 1);
    if (status == 0) status = restart(g, c);
    for (size_t t = 0, i = 0; t < seq && status == 0; i++) {
        size_t n = sizes[i % 5] < seq - t ? sizes[i % 5] : seq - t;
        status = compare_at(g, c, "uneven chunks", batch, t, n);
        t += n;
    }
    /* Every prefix of a short sequence; of a long one each stride-th, and the whole. */
    for (size_t n = seq; status == 0; n -= stride) {
        status = restart(g, c);
        if (status == 0) status = compare_at(g, c, "one pass", batch, 0, n);
        if (n <= stride) break;
    }
    return status;
}

/* The mean over all sequences of the likelihood of each next token: the loss before the first step. */
static int run_loss(mka_cli_golden *g, lm_case *c) {
    size_t seq = (size_t)c->seq;
    double *nll = malloc(seq * sizeof *nll), sum = 0;
    if (nll == NULL) return mka_cli_report_fail(g->report, "out of memory");
    int status = 0;
    mka_error error = {0};
    for (size_t b = 0; b < (size_t)c->batch && status == 0; b++) {
        const int *tokens = c->tokens + b * (seq + 1);
        status = restart(g, c);
        if (status == 0 && mka_session_score(c->session, tokens, seq, tokens[seq], nll, NULL, NULL, &error) != MKA_OK) {
            status = mka_cli_report_fail(g->report, "%s", error.message);
        }
        for (size_t i = 0; status == 0 && i < seq; i++) sum += nll[i];
    }
    free(nll);
    if (status != 0) return status;
    float loss = (float)(sum / ((double)c->batch * (double)c->seq));
    mka_cli_compared *record = mka_cli_compare_begin(g->report, "out.losses[0]");
    mka_cli_compare(record, "score", &loss, c->losses->data, 1, 1e-4, 0);
    return 0;
}

void mka_cli_check_lm(mka_cli_golden *g) {
    lm_case c;
    memset(&c, 0, sizeof c);
    int status = read_case(g, &c);
    int asked = g->cli->options.mla, mla = strcmp(g->report->kind, "lm-mla") == 0;
    int first = !mla ? MKA_MLA_AUTO : asked == MKA_CLI_UNSET ? MKA_MLA_ABSORBED : asked;
    int last = !mla ? MKA_MLA_AUTO : asked == MKA_CLI_UNSET ? MKA_MLA_EXPANDED : asked;
    for (int form = first; form <= last && status == 0; form++) {
        status = open_model(g, &c, (mka_mla_form)form);
        if (status == 0) c.record = mka_cli_compare_begin(g->report, "out.logits");
        for (size_t b = 0; b < (size_t)c.batch && status == 0; b++) status = run_sequence(g, &c, b);
        if (status == 0 && c.losses != NULL) status = run_loss(g, &c);
        mka_session_destroy(c.session);
        c.session = NULL;
    }
    mka_model_destroy(c.model);
    free(c.tokens);
    free(c.got);
}
