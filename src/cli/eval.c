/* eval - how well a model predicts a text: mean negative log likelihood and perplexity. */
#include "commands.h"
#include "setup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 2048 };

typedef struct scores {
    double sum, squares; /* of nats a token */
    size_t scored, tokens, contexts;
} scores;

/* Where character number skip begins (UTF-8 continuation bytes do not count). */
static size_t skip_characters(const char *text, size_t length, long long skip) {
    size_t at = 0;
    for (; at < length; at++) {
        if (((unsigned char)text[at] & 0xc0) == 0x80) continue;
        if (skip-- == 0) break;
    }
    return at;
}

/* Tokens of the text, at least wanted when the text has as many (0: all). Only as much text is tokenized as that takes: a
 * margin keeps the cut away from the tokens that are used. */
static int text_ids(const mka_model *model, const char *text, size_t length, size_t wanted, int **ids, size_t *count) {
    size_t take = wanted == 0 || wanted > length / 6 ? length : 6 * wanted + 4096;
    for (;;) {
        if (take > length) take = length;
        while (take < length && ((unsigned char)text[take] & 0xc0) == 0x80) take++;
        int status = mka_cli_tokenize(model, text, take, MKA_TOKENIZE_BOS, ids, count);
        if (status != 0 || take == length || *count >= wanted + 256) return status;
        free(*ids);
        *ids = NULL;
        take = take > length / 2 ? length : 2 * take;
    }
}

/* Scores ids in contexts of the session's size. A model that wants BOS gets one before each context. */
static int score_text(const mka_model *model, mka_session *session, const int *ids, size_t count, scores *total) {
    mka_special special;
    mka_model_special(model, &special);
    size_t context = (size_t)mka_session_context(session), largest = count < context ? count : context;
    int *tokens = malloc((largest + 1) * sizeof *tokens), status = 0;
    double *nll = malloc((largest + 1) * sizeof *nll);
    int bos = special.add_bos && special.bos >= 0 && count > 0 && ids[0] == special.bos;
    mka_cli_progress progress;
    mka_cli_progress_start(&progress, "scoring");
    progress.whole = (double)count;
    if (tokens == NULL || nll == NULL) status = mka_cli_error("out of memory");
    for (size_t at = 0; status == 0 && at < count;) {
        size_t lead = bos && at > 0, n = count - at < context - lead ? count - at : context - lead;
        tokens[0] = special.bos;
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

static int report(mka_cli *cli, const scores *s, double seconds) {
    double n = (double)s->scored, mean = s->sum / n;
    double spread = n > 1 ? (s->squares - n * mean * mean) / (n - 1) : 0;
    double standard_error = sqrt(spread > 0 ? spread / n : 0);
    if (cli->options.json) {
        return mka_cli_json(
            cli, json_pack("{s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "file", mka_cli_json_string(cli->options.file), "tokens",
                           (json_int_t)s->tokens, "scored", (json_int_t)s->scored, "contexts", (json_int_t)s->contexts, "ppl",
                           mka_cli_json_real(exp(mean)), "nll", mka_cli_json_real(mean), "stderr",
                           mka_cli_json_real(standard_error), "tok_s", mka_cli_json_real((double)s->tokens / seconds)));
    }
    mka_cli_print(cli, "%s: perplexity %.4f, nll %.6f +- %.6f nats a token over %zu tokens in %zu context%s (%.1f tokens/s)\n",
                  cli->options.file, exp(mean), mean, standard_error, s->scored, s->contexts, s->contexts == 1 ? "" : "s",
                  (double)s->tokens / seconds);
    return 0;
}

static int usage(const mka_cli *cli) {
    static const char *const tasks[] = {"ppl"};
    if (cli->options.argument_count == 0) return mka_cli_usage("eval", "which task? This version has: ppl");
    if (strcmp(cli->options.arguments[0], tasks[0]) != 0) {
        return mka_cli_usage("eval", "unknown task '%s'; this version has: ppl", cli->options.arguments[0]);
    }
    if (cli->options.model == NULL) return mka_cli_usage("eval", "which model? Give one with -m MODEL");
    if (cli->options.file == NULL) return mka_cli_usage("eval", "which text? Give one with -f FILE");
    if (cli->options.context == 1) return mka_cli_usage("eval", "-c 1 leaves nothing to predict; give at least 2");
    return 0;
}

static int measure(mka_cli *cli, mka_model *model, const int *ids, size_t count) {
    mka_model_info info;
    mka_session *session = NULL;
    scores total = {0};
    mka_model_get_info(model, &info);
    if (count < 2)
        return mka_cli_error("%s: too short; a token is scored given the one before it, so two are needed", cli->options.file);
    int context = cli->options.context > 0 ? cli->options.context : DEFAULT_CONTEXT;
    if (cli->options.context == 0 && info.context > 0 && info.context < context) context = info.context;
    if ((size_t)context > count) context = (int)count;
    int status = mka_cli_open_session(cli, model, context, &session);
    double start = mka_cli_now();
    if (status == 0) status = score_text(model, session, ids, count, &total);
    if (status == 0) report(cli, &total, mka_cli_now() - start);
    mka_session_destroy(session);
    return status;
}

int mka_cli_eval(mka_cli *cli) {
    mka_engine *engine = NULL;
    mka_model *model = NULL;
    char *text = NULL;
    int *ids = NULL;
    size_t length = 0, count = 0, most = (size_t)cli->options.max_tokens;
    int status = usage(cli);
    if (status == 0) status = mka_cli_read_file(cli->options.file, &text, &length);
    if (status == 0) status = mka_cli_open_engine(cli, &engine);
    if (status == 0) status = mka_cli_open_model(cli, "eval", engine, 0, &model);
    if (status == 0) {
        size_t from = skip_characters(text, length, cli->options.skip);
        status = text_ids(model, text + from, length - from, most, &ids, &count);
    }
    if (status == 0) status = measure(cli, model, ids, most > 0 && most < count ? most : count);
    free(ids);
    free(text);
    mka_model_destroy(model);
    mka_engine_destroy(engine);
    return status;
}
