/* session - runs one token timeline and cuts it back (mka/session.h), and says what it holds and has read. */
#include "session_bank.h"

#include <string.h>

#include "base/status.h"
#include "memory/there.h"

/* ---- evaluation ---- */

typedef struct run {
    mka_session *session;
    const int *tokens;
    size_t count, done;
    float *logits; /* of the last token, or NULL */
    mka_progress_fn *progress;
    void *user;
} run;

static int stop_between_layers(void *user) {
    const run *r = user;
    return r->progress(r->user, r->done, r->count);
}

static mka_status check_tokens(const mka_session *s, const int *tokens, size_t count, mka_error *error) {
    if (count == 0) return mka_fail(error, MKA_BAD_ARGUMENT, "there are no tokens to evaluate");
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= s->model->embedding.rows)
            return mka_fail(error, MKA_BAD_ARGUMENT, "token %d at position %zu is outside the vocabulary of %d", tokens[i], i,
                            s->model->embedding.rows);
    if (count > (size_t)(s->options.context - s->length))
        return mka_fail(error, MKA_CONTEXT_FULL, "%zu tokens do not fit: %d of the context's %d are taken", count, s->length,
                        s->options.context);
    return MKA_OK;
}

/* What a stopped pass left behind in the caches is forgotten: tiers may have closed blocks of tokens that never came to be. */
void mka_session_take_back(mka_session *s) {
    for (int i = 0; i < s->model->sizes.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++)
            if (s->layers[i].cache[j].shared) mka_tiers_cut(&s->layers[i].cache[j], s->length);
}

/* A tier could not be written or read: the pass is taken back. Session summaries cannot be, so such a session starts again. */
static mka_status tiers_failed(mka_session *s, mka_status status, mka_error *error) {
    mka_session_take_back(s);
    if (!s->recurrent) return status;
    mka_session_truncate(s, 0, NULL);
    return mka_fail_prefix(error, status, "the session is empty now");
}

/* Runs the next chunk. A pass that is stopped half way leaves rows in the caches beyond length, which the next pass overwrites;
 * a session summary cannot be taken back, so such models are only stopped between chunks. */
static mka_status run_chunk(run *r, int *n, mka_error *error) {
    mka_session *s = r->session;
    size_t left = r->count - r->done;
    *n = left < (size_t)s->options.chunk ? (int)left : s->options.chunk;
    int between = r->progress && !s->recurrent;
    int stopped = (r->progress && r->progress(r->user, r->done, r->count)) ||
                  mka_forward(s, r->tokens + r->done, *n, between ? stop_between_layers : NULL, r);
    if (!stopped && r->logits && r->done + (size_t)*n == r->count) mka_forward_logits(s, *n - 1, r->logits);
    mka_status status = mka_forward_settle(s, error);
    if (!status) status = mka_tiers_failure(&s->tiers, error);
    if (status) return tiers_failed(s, status, error);
    if (stopped) {
        mka_session_take_back(s);
        return mka_fail(error, MKA_CANCELLED, "stopped after %zu of %zu tokens", r->done, r->count);
    }
    memcpy(s->tokens + s->length, r->tokens + r->done, (size_t)*n * sizeof *s->tokens);
    s->length += *n;
    r->done += (size_t)*n;
    return MKA_OK;
}

mka_status mka_session_eval(mka_session *s, const int *tokens, size_t count, float *logits, mka_progress_fn *progress, void *user,
                            mka_error *error) {
    mka_succeed(error);
    mka_status status = check_tokens(s, tokens, count, error);
    run r = {s, tokens, count, 0, logits, progress, user};
    int n = 0;
    while (!status && r.done < count) status = run_chunk(&r, &n, error);
    if (!status && progress) progress(user, count, count);
    return status;
}

/* The likelihoods of one chunk's successors: those of its rows, the last one's only when it is known. */
static void score_chunk(mka_session *s, int n, const int *targets, int more, int next, double *nll) {
    int known = more ? n : n - 1;
    if (known > 0) mka_forward_nll(s, 0, known, targets, nll);
    if (!more && next >= 0) mka_forward_nll(s, n - 1, 1, &next, nll + n - 1);
}

mka_status mka_session_score(mka_session *s, const int *tokens, size_t count, int next, double *nll, mka_progress_fn *progress,
                             void *user, mka_error *error) {
    mka_succeed(error);
    mka_status status = check_tokens(s, tokens, count, error);
    if (!status && next >= s->model->embedding.rows)
        status = mka_fail(error, MKA_BAD_ARGUMENT, "token %d is outside the vocabulary of %d", next, s->model->embedding.rows);
    run r = {s, tokens, count, 0, NULL, progress, user};
    while (!status && r.done < count) {
        size_t begin = r.done;
        int n;
        status = run_chunk(&r, &n, error);
        if (!status) score_chunk(s, n, tokens + begin + 1, r.done < count, next, nll + begin);
        if (!status) status = mka_forward_settle(s, error);
    }
    if (!status && progress) progress(user, count, count);
    return status;
}

int mka_session_length(const mka_session *s) {
    return s->length;
}

int mka_session_context(const mka_session *s) {
    return s->options.context;
}

const int *mka_session_tokens(const mka_session *s) {
    return s->tokens;
}

mka_status mka_session_truncate(mka_session *s, int length, mka_error *error) {
    mka_succeed(error);
    if (length < 0 || length > s->length)
        return mka_fail(error, MKA_BAD_ARGUMENT, "a session of %d tokens cannot be cut to %d", s->length, length);
    if (length == s->length && !(length == 0 && s->bank)) return MKA_OK; /* an empty session may remember others */
    if (length > 0 && s->recurrent)
        return mka_fail(error, MKA_UNSUPPORTED,
                        "this model keeps a running session summary, which cannot be taken back to token %d", length);
    for (int i = 0; i < s->model->sizes.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++)
            if (!mka_tiers_can_cut(&s->layers[i].cache[j], length))
                return mka_fail(error, MKA_UNSUPPORTED,
                                "tokens before token %d have gone to long-term memory; only the last ones can be taken back",
                                length);
    for (int i = 0; i < s->model->sizes.layers; i++) {
        if (length == 0)
            mka_layer_state_reset(&s->layers[i], &s->model->blocks[i].attention.config, mka_session_ops(s, i));
        else
            for (int j = 0; j < s->layers[i].caches; j++) mka_tiers_cut(&s->layers[i].cache[j], length);
    }
    s->length = length;
    return MKA_OK;
}

/* What devices have counted and nobody has asked for yet. */
static void collect(const mka_session *s) {
    mka_ops *ops = (mka_ops *)(uintptr_t)&s->device_ops; /* its counters alone change */
    for (int i = 0; i < s->tiers_there; i++)
        for (int j = 0; j < s->layers[i].caches; j++) mka_there_collect(&s->layers[i].cache[j], ops);
}

void mka_session_get_usage(const mka_session *s, mka_session_usage *usage) {
    collect(s);
    uint64_t token = mka_model_cache_bytes(s->model, s->options.key_type, s->options.value_type);
    *usage =
        (mka_session_usage){token * (uint64_t)s->length, s->cache_reserved, s->work.size,
                            s->ops.weight_bytes + s->device_ops.weight_bytes, s->ops.cache_bytes + s->device_ops.cache_bytes};
}

void mka_session_get_used(const mka_session *s, mka_used *used) {
    collect(s);
    *used = s->tiers.used;
    used->spill_bytes = s->tiers.spill ? mka_spill_bytes_read(s->tiers.spill) : 0;
}

void mka_session_get_numa(const mka_session *s, mka_numa_report *report) {
    mka_placement_report(&s->placement, report);
    for (int i = 0; i < s->model->sizes.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++) mka_placement_ask(&s->placement, &s->layers[i].cache[j], report);
    if (s->tiers.spill) mka_placement_ask_spill(&s->placement, s->tiers.spill, report);
    mka_weights_ask(s->model, report);
}

int mka_session_is_tiered(const mka_session *s) {
    return s->tiered;
}

mka_status mka_session_set_recall(mka_session *s, const mka_recall *recall, mka_error *error) {
    mka_succeed(error);
    mka_status status = mka_recall_check(recall, error);
    if (!status) s->tiers.plan.recall = *recall;
    return status;
}
