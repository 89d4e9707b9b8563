/* answer - the generation loop. See answer.h. */
#include "answer.h"
#include "eval.h"
#include "numa.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int mka_cli_answer_prepare(mka_cli_answer *answer, const mka_model *model, size_t limit) {
    mka_model_info info;
    mka_model_get_info(model, &info);
    memset(answer, 0, sizeof *answer);
    answer->vocabulary = (size_t)info.vocabulary;
    answer->room = limit > 0 ? limit : 1;
    answer->text_room = 4096;
    answer->ids = malloc(answer->room * sizeof *answer->ids);
    answer->logits = malloc((answer->vocabulary + 1) * sizeof *answer->logits);
    answer->text = malloc(answer->text_room);
    if (answer->ids != NULL && answer->logits != NULL && answer->text != NULL) return 0;
    mka_cli_answer_free(answer);
    return mka_cli_error("out of memory");
}

void mka_cli_answer_free(mka_cli_answer *answer) {
    free(answer->ids);
    free(answer->logits);
    free(answer->text);
    memset(answer, 0, sizeof *answer);
}

/* Shows what is whole of the text's end; all of it when the answer is over. */
static int show(mka_cli *cli, mka_cli_answer *answer, int over) {
    if (cli->options.json) return 0;
    size_t pending = answer->length - answer->shown;
    size_t whole = over ? pending : mka_utf8_whole(answer->text + answer->shown, pending);
    if (whole == 0) return 0;
    mka_cli_write(cli, answer->text + answer->shown, whole);
    answer->shown += whole;
    return mka_cli_flush(cli);
}

static int add_token(mka_cli_answer *answer, const mka_model *model, int token) {
    size_t free_bytes = answer->text_room - answer->length;
    size_t piece = mka_token_piece(model, token, 0, answer->text + answer->length, free_bytes);
    if (piece > free_bytes) {
        size_t room = 2 * answer->text_room + piece;
        char *larger = realloc(answer->text, room);
        if (larger == NULL) return mka_cli_error("out of memory");
        answer->text = larger;
        answer->text_room = room;
        piece = mka_token_piece(model, token, 0, answer->text + answer->length, room - answer->length);
    }
    answer->length += piece;
    answer->ids[answer->count++] = token;
    return 0;
}

static int prefill(mka_cli_answer *answer, mka_session *session, const int *tokens, size_t count) {
    mka_cli_progress progress;
    mka_error error = {0};
    mka_cli_progress_start(&progress, "reading");
    mka_status status = mka_session_eval(session, tokens, count, answer->logits, mka_cli_progress_step, &progress, &error);
    mka_cli_progress_end(&progress);
    answer->prefill_seconds = mka_cli_now() - progress.start;
    if (status == MKA_CANCELLED) {
        answer->evaluated = (size_t)mka_session_length(session) - (answer->prompt_tokens - count);
        answer->stop = "interrupted";
        return 0;
    }
    return status == MKA_OK ? 0 : mka_cli_failure(&error, 0);
}

/* Samples and shows one token and evaluates it. Returns 0, or 1 after an error; stop is set when the answer is over. */
static int step(mka_cli *cli, mka_cli_answer *answer, const mka_model *model, mka_session *session, mka_sampler *sampler,
                size_t limit) {
    mka_error error = {0};
    int token = mka_sampler_next(sampler, answer->logits);
    if (token < 0) return mka_cli_error("every logit is NaN; the model's weights or the computation are broken");
    if (!cli->options.ignore_eos && mka_model_is_end(model, token)) {
        answer->stop = "end";
        return 0;
    }
    if (add_token(answer, model, token) != 0) return 1;
    if (show(cli, answer, 0) != 0) {
        answer->stop = "closed";
    } else if (mka_cli_interrupted()) {
        answer->stop = "interrupted";
    } else if (answer->count >= limit) {
        answer->stop = "length";
    } else if (mka_session_length(session) >= mka_session_context(session)) {
        answer->stop = "context";
    } else {
        if (mka_session_eval(session, &token, 1, answer->logits, NULL, NULL, &error) != MKA_OK) return mka_cli_failure(&error, 0);
        answer->decoded++;
    }
    return 0;
}

int mka_cli_answer_run(mka_cli *cli, mka_cli_answer *answer, const mka_model *model, mka_session *session, mka_sampler *sampler,
                       const int *tokens, size_t count, long long limit) {
    answer->count = answer->length = answer->shown = answer->decoded = 0;
    answer->prefill_seconds = answer->decode_seconds = 0;
    answer->evaluated = count;
    answer->prompt_tokens = (size_t)mka_session_length(session) + count;
    answer->stop = NULL;
    /* The room of ids is a bound too: it was made for the largest answer that the session can hold. */
    size_t most = limit < 0 || (unsigned long long)limit > answer->room ? answer->room : (size_t)limit;
    for (size_t i = 0; i < count; i++) mka_sampler_accept(sampler, tokens[i]);
    int status = prefill(answer, session, tokens, count);
    if (status == 0 && answer->stop == NULL && most == 0) answer->stop = "length";
    mka_session_get_used(session, &answer->before);
    double start = mka_cli_now();
    while (status == 0 && answer->stop == NULL) status = step(cli, answer, model, session, sampler, most);
    answer->decode_seconds = mka_cli_now() - start;
    show(cli, answer, 1);
    return status;
}

static double rate(size_t tokens, double seconds) {
    return seconds > 0 ? (double)tokens / seconds : 0;
}

/* What the tiers read for the new tokens: means over queries and key/value heads, bytes a token. */
static json_t *tiered_json(const mka_cli_answer *answer, const mka_session *session) {
    mka_used used = {.queries = 0};
    mka_eval_used(session, &answer->before, &used);
    double tokens = answer->decoded > 0 ? (double)answer->decoded : 1, queries = (double)used.queries;
    json_t *memory = json_pack("{s:s, s:o, s:o, s:o, s:o}", "mode", "tiered", "tokens_read",
                               mka_cli_json_real(mka_eval_mean((double)used.read_tokens, queries)), "long_tokens",
                               mka_cli_json_real(mka_eval_mean((double)used.long_tokens, queries)), "unread_mass_estimate",
                               mka_cli_json_real(mka_eval_mean(used.unread_mass, queries)), "bytes_by_tier",
                               mka_eval_tiers_json(&used, tokens));
    mka_eval_levels_json(&used, tokens, memory);
    /* Only a certified contract bounds what it leaves out. */
    json_object_set_new(memory, "lost_mass_bound", used.lost_bound > 0 ? mka_cli_json_real(used.lost_bound) : json_null());
    return memory;
}

/* Dense memory: every token that is held is read, so nothing is estimated and nothing is lost. */
static json_t *dense_json(const mka_session *session) {
    mka_session_usage usage;
    mka_session_get_usage(session, &usage);
    return json_pack("{s:s, s:i, s:f, s:f, s:{s:I, s:I, s:I}}", "mode", "dense", "tokens_read", mka_session_length(session),
                     "unread_mass_estimate", 0.0, "lost_mass_bound", 0.0, "bytes_by_tier", "local", (json_int_t)usage.cache_bytes,
                     "session", (json_int_t)0, "longterm", (json_int_t)0);
}

json_t *mka_cli_answer_json(const mka_cli_answer *answer, mka_session *session) {
    json_t *memory = mka_session_is_tiered(session) ? tiered_json(answer, session) : dense_json(session);
    mka_numa_report numa;
    mka_session_get_numa(session, &numa);
    json_object_set_new(memory, "numa", mka_cli_numa_json(&numa));
    if (mka_session_bank(session) > 0) json_object_set_new(memory, "bank_summaries", json_integer(mka_session_bank(session)));
    return json_pack("{s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:s, s:o, s:I}", "text",
                     mka_cli_json_text(answer->text, answer->length), "ids", mka_cli_json_ids(answer->ids, answer->count),
                     "prompt_tokens", (json_int_t)answer->prompt_tokens, "evaluated_tokens", (json_int_t)answer->evaluated,
                     "new_tokens", (json_int_t)answer->count, "prefill_tok_s",
                     mka_cli_json_real(rate(answer->evaluated, answer->prefill_seconds)), "decode_tok_s",
                     mka_cli_json_real(rate(answer->decoded, answer->decode_seconds)), "stop", answer->stop, "memory", memory,
                     "peak_bytes", (json_int_t)mka_cli_peak_memory());
}

void mka_cli_answer_statistics(const mka_cli_answer *answer, mka_session *session) {
    char peak[32], cache[32];
    mka_session_usage usage;
    mka_session_get_usage(session, &usage);
    mka_cli_note("prompt %zu tokens, %.1f tokens/s; answer %zu tokens, %.1f tokens/s; peak memory %s, cache %s in use",
                 answer->evaluated, rate(answer->evaluated, answer->prefill_seconds), answer->count,
                 rate(answer->decoded, answer->decode_seconds), mka_cli_size(mka_cli_peak_memory(), peak),
                 mka_cli_size(usage.cache_bytes, cache));
    mka_used used = {.queries = 0};
    mka_eval_used(session, &answer->before, &used);
    if (used.queries > 0)
        mka_cli_note("tiered memory: %.0f of %.0f long-term tokens read by a head, %.2f %% of the mass %s",
                     mka_eval_mean((double)used.read_tokens, (double)used.queries),
                     mka_eval_mean((double)used.long_tokens, (double)used.queries),
                     100 * mka_eval_mean(used.unread_mass, (double)used.queries), used.lost_bound > 0 ? "left out" : "estimated");
    if (mka_session_bank(session) > 0) mka_cli_note("long-term bank: %d summaries", mka_session_bank(session));
    if (used.levels_skipped > 0)
        mka_cli_note("%.1f %% of the levels of memory were not read, which saved %s or more",
                     100 * mka_eval_mean((double)used.levels_skipped, (double)used.levels),
                     mka_cli_size(used.saved_bytes, cache));
    mka_numa_report numa;
    mka_session_get_numa(session, &numa);
    mka_cli_numa_note(&numa);
}

int mka_cli_wants_statistics(const mka_cli *cli) {
    return cli->options.verbose > 0 || isatty(STDERR_FILENO);
}
