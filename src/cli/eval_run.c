/* eval_run - prompts answered by a tiered and a dense session: what needle, ruler and qa share. See eval.h. */
#include "eval.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int failure(const mka_error *error) {
    return error->status == MKA_CANCELLED ? 130 : mka_cli_failure(error, 0);
}

int mka_eval_pair_open(const mka_eval *e, int context, const char *what, double tokens, mka_eval_pair *p) {
    *p = (mka_eval_pair){.e = e};
    int asked = e->cli->options.memory, status = 0;
    p->logits = malloc((size_t)e->info.vocabulary * sizeof *p->logits);
    if (p->logits == NULL) return mka_cli_error("out of memory");
    if (asked != MKA_MEMORY_DENSE) {
        mka_memory_mode mode = asked == MKA_CLI_UNSET ? MKA_MEMORY_TIERED : (mka_memory_mode)asked;
        status = mka_eval_session(e, mode, context, &p->sessions[MKA_EVAL_TIERED]);
        if (status != 0) return status;
        if (!mka_session_is_tiered(p->sessions[MKA_EVAL_TIERED])) {
            mka_session_destroy(p->sessions[MKA_EVAL_TIERED]);
            p->sessions[MKA_EVAL_TIERED] = NULL;
        }
    }
    status = mka_eval_session(e, MKA_MEMORY_DENSE, context, &p->sessions[MKA_EVAL_DENSE]);
    mka_cli_progress_start(&p->progress, what);
    p->progress.whole = tokens * (p->sessions[MKA_EVAL_TIERED] != NULL ? 2 : 1);
    mka_cli_catch_interrupt();
    return status;
}

void mka_eval_pair_close(mka_eval_pair *p) {
    if (p->progress.what != NULL) mka_cli_progress_end(&p->progress);
    for (int i = 0; i < MKA_EVAL_SIDES; i++) mka_session_destroy(p->sessions[i]);
    free(p->logits);
    *p = (mka_eval_pair){.e = NULL};
}

const char *mka_eval_pair_memory(const mka_eval_pair *p) {
    return mka_eval_pair_has(p, MKA_EVAL_TIERED) ? "tiered" : "dense";
}

int mka_eval_pair_has(const mka_eval_pair *p, int side) {
    return p->sessions[side] != NULL;
}

int mka_eval_pair_prompt(mka_eval_pair *p, int side, const int *ids, size_t count) {
    mka_error error = {0};
    if (mka_session_truncate(p->sessions[side], 0, &error) != MKA_OK ||
        mka_session_eval(p->sessions[side], ids, count, p->logits, mka_cli_progress_step, &p->progress, &error) != MKA_OK)
        return failure(&error);
    p->progress.base += (double)count;
    return 0;
}

int mka_eval_pair_again(mka_eval_pair *p, int side, const int *ids, size_t count) {
    mka_session *session = p->sessions[side];
    mka_error error = {0};
    /* Not every memory can be taken back; then the prompt is read once more. */
    int kept = count > 1 && mka_session_truncate(session, (int)count - 1, &error) == MKA_OK;
    if (!kept && mka_session_truncate(session, 0, &error) != MKA_OK) return failure(&error);
    size_t from = kept ? count - 1 : 0;
    return mka_session_eval(session, ids + from, count - from, p->logits, NULL, NULL, &error) == MKA_OK ? 0 : failure(&error);
}

json_t *mka_eval_pair_used_json(const mka_eval_pair *p) {
    int tiered = mka_eval_pair_has(p, MKA_EVAL_TIERED);
    return mka_eval_memory_json(p->e, p->sessions[tiered ? MKA_EVAL_TIERED : MKA_EVAL_DENSE],
                                p->progress.base / (tiered ? 2 : 1));
}

double mka_eval_normaliser(const float *logits, int count, int *top) {
    double sum = 0;
    *top = 0;
    for (int i = 1; i < count; i++)
        if (logits[i] > logits[*top]) *top = i;
    for (int i = 0; i < count; i++) sum += exp((double)(logits[i] - logits[*top]));
    return (double)logits[*top] + log(sum);
}

int mka_eval_pair_answer(mka_eval_pair *p, int side, int new_tokens, int line, char *text, size_t room) {
    size_t used = 0;
    mka_error error = {0};
    for (int i = 0; i < new_tokens; i++) {
        int token;
        mka_eval_normaliser(p->logits, p->e->info.vocabulary, &token);
        if (mka_model_is_end(p->e->model, token)) break;
        size_t piece = mka_token_piece(p->e->model, token, 0, text + used, room - 1 - used);
        if (piece > room - 1 - used) break;
        char *end = line ? memchr(text + used, '\n', piece) : NULL;
        used += piece;
        /* An answer may begin on a new line, but ends with the next. */
        if (end != NULL && strspn(text, " \n\t") < (size_t)(end - text)) {
            used = (size_t)(end - text);
            break;
        }
        if (mka_cli_interrupted()) return 130;
        if (i + 1 < new_tokens && mka_session_eval(p->sessions[side], &token, 1, p->logits, NULL, NULL, &error) != MKA_OK)
            return failure(&error);
    }
    text[used] = '\0';
    return 0;
}

int mka_eval_pair_force(mka_eval_pair *p, int side, const int *ids, size_t count, double *logprob, int *chosen) {
    mka_error error = {0};
    *logprob = 0;
    *chosen = 1;
    for (size_t i = 0; i < count; i++) {
        int top;
        double normal = mka_eval_normaliser(p->logits, p->e->info.vocabulary, &top);
        *logprob += ((double)p->logits[ids[i]] - normal) / (double)count;
        *chosen &= top == ids[i];
        if (i + 1 < count && mka_session_eval(p->sessions[side], &ids[i], 1, p->logits, NULL, NULL, &error) != MKA_OK)
            return failure(&error);
    }
    return 0;
}

static int holds(const char *text, const char *word) {
    size_t length = strlen(word);
    for (; *text != '\0'; text++) {
        size_t i = 0;
        while (i < length && tolower((unsigned char)text[i]) == tolower((unsigned char)word[i])) i++;
        if (i == length) return 1;
    }
    return length == 0;
}

double mka_eval_found(const char *text, const char *const *answers, int count) {
    int found = 0;
    for (int i = 0; i < count; i++) found += holds(text, answers[i]);
    return count > 0 ? (double)found / count : 0;
}
