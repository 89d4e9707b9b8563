/* eval_ppl - how well a model predicts a text: mean negative log likelihood and perplexity, in any kind of memory. */
#include "commands.h"
#include "eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 2048 };

typedef struct scores {
    double sum, squares; /* of nats a token */
    size_t scored, tokens, contexts;
} scores;

/* Scores ids in contexts of the session's size. A model that wants BOS gets one before each context. */
static int score_text(const mka_eval *e, mka_session *session, const int *ids, size_t count, scores *total) {
    size_t context = (size_t)mka_session_context(session), largest = count < context ? count : context;
    int *tokens = malloc((largest + 1) * sizeof *tokens), status = 0;
    double *nll = malloc((largest + 1) * sizeof *nll);
    int bos = e->special.add_bos && e->special.bos >= 0 && count > 0 && ids[0] == e->special.bos;
    mka_cli_progress progress;
    mka_cli_progress_start(&progress, "scoring");
    progress.whole = (double)count;
    if (tokens == NULL || nll == NULL) status = mka_cli_error("out of memory");
    for (size_t at = 0; status == 0 && at < count;) {
        size_t lead = bos && at > 0, n = count - at < context - lead ? count - at : context - lead;
        tokens[0] = e->special.bos;
        memcpy(tokens + lead, ids + at, n * sizeof *ids);
        progress.base = (double)at;
        at += n;
        if (n + lead < 2) continue;
        mka_error error = {0};
        if (mka_session_truncate(session, 0, &error) != MKA_OK ||
            mka_session_score(session, tokens, n + lead, -1, nll, mka_cli_progress_step, &progress, &error) != MKA_OK) {
            status = mka_cli_failure(&error, 0);
        }
        for (size_t i = 0; status == 0 && i + 1 < n + lead; i++) {
            total->sum += nll[i];
            total->squares += nll[i] * nll[i];
            total->scored++;
        }
        total->contexts++;
    }
    mka_cli_progress_end(&progress);
    total->tokens = count;
    free(tokens);
    free(nll);
    return status;
}

static int report(const mka_eval *e, const mka_session *session, const scores *s, double seconds) {
    double n = (double)s->scored, mean = s->sum / n;
    double spread = n > 1 ? (s->squares - n * mean * mean) / (n - 1) : 0;
    double standard_error = sqrt(spread > 0 ? spread / n : 0);
    const char *file = e->cli->options.file;
    if (e->cli->options.json) {
        return mka_cli_json(e->cli, json_pack("{s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "file", mka_cli_json_string(file),
                                              "tokens", (json_int_t)s->tokens, "scored", (json_int_t)s->scored, "contexts",
                                              (json_int_t)s->contexts, "ppl", mka_cli_json_real(exp(mean)), "nll",
                                              mka_cli_json_real(mean), "stderr", mka_cli_json_real(standard_error), "tok_s",
                                              mka_cli_json_real((double)s->tokens / seconds), "memory",
                                              mka_eval_memory_json(e, session, (double)s->tokens)));
    }
    return mka_cli_print(
        e->cli, "%s: perplexity %.4f, nll %.6f +- %.6f nats a token over %zu tokens in %zu context%s (%.1f tokens/s)\n", file,
        exp(mean), mean, standard_error, s->scored, s->contexts, s->contexts == 1 ? "" : "s", (double)s->tokens / seconds);
}

static int measure(const mka_eval *e, const int *ids, size_t count) {
    const mka_cli_options *o = &e->cli->options;
    mka_session *session = NULL;
    scores total = {0};
    if (count < 2) return mka_cli_error("%s: too short; a token is scored given the one before it, so two are needed", o->file);
    int context = o->context > 0 ? o->context : DEFAULT_CONTEXT;
    if (o->context == 0 && e->info.context > 0 && e->info.context < context) context = e->info.context;
    if ((size_t)context > count) context = (int)count;
    int status = mka_cli_open_session(e->cli, e->model, context, &session);
    double start = mka_cli_now();
    if (status == 0) status = score_text(e, session, ids, count, &total);
    if (status == 0) report(e, session, &total, mka_cli_now() - start);
    mka_session_destroy(session);
    return status;
}

int mka_cli_eval_ppl(mka_cli *cli) {
    mka_eval e = {.cli = NULL};
    int *ids = NULL;
    size_t count = 0, most = (size_t)cli->options.max_tokens;
    if (cli->options.context == 1) return mka_cli_usage("eval ppl", "-c 1 leaves nothing to predict; give at least 2");
    int status = mka_eval_open(&e, cli, "eval ppl");
    if (status == 0) status = mka_eval_ids(&e, most, &ids, &count);
    if (status == 0) status = measure(&e, ids, most > 0 && most < count ? most : count);
    free(ids);
    mka_eval_close(&e);
    return status;
}
