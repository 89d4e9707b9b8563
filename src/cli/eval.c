/* eval - see eval.h. */
#include "eval.h"

#include <stdlib.h>
#include <string.h>

/* Where character number skip begins (UTF-8 continuation bytes do not count). */
static size_t skip_characters(const char *text, size_t length, long long skip) {
    size_t at = 0;
    for (; at < length; at++) {
        if (((unsigned char)text[at] & 0xc0) == 0x80) continue;
        if (skip-- == 0) break;
    }
    return at;
}

int mka_eval_open(mka_eval *e, mka_cli *cli, const char *command) {
    *e = (mka_eval){.cli = cli, .command = command};
    if (cli->options.model == NULL) return mka_cli_usage(command, "which model? Give one with -m MODEL");
    if (cli->options.file == NULL) return mka_cli_usage(command, "which text? Give one with -f FILE");
    return mka_eval_open_file(e, cli, command, cli->options.file);
}

int mka_eval_open_file(mka_eval *e, mka_cli *cli, const char *command, const char *file) {
    *e = (mka_eval){.cli = cli, .command = command};
    int status = mka_cli_read_file(file, &e->file, &e->length);
    if (status == 0) status = mka_cli_open_engine(cli, &e->engine);
    if (status == 0) status = mka_cli_open_model(cli, command, e->engine, 0, &e->model);
    if (status != 0) return status;
    mka_model_get_info(e->model, &e->info);
    mka_model_special(e->model, &e->special);
    size_t from = skip_characters(e->file, e->length, cli->options.skip);
    e->text = e->file + from;
    e->length -= from;
    return 0;
}

void mka_eval_close(mka_eval *e) {
    free(e->file);
    mka_model_destroy(e->model);
    mka_engine_destroy(e->engine);
}

int mka_eval_ids(const mka_eval *e, size_t wanted, int **ids, size_t *count) {
    size_t length = e->length, take = wanted == 0 || wanted > length / 6 ? length : 6 * wanted + 4096;
    for (;;) {
        if (take > length) take = length;
        while (take < length && ((unsigned char)e->text[take] & 0xc0) == 0x80) take++;
        int status = mka_cli_tokenize(e->model, e->text, take, MKA_TOKENIZE_BOS, ids, count);
        /* A margin keeps the cut away from the tokens that are used. */
        if (status != 0 || take == length || *count >= wanted + 256) return status;
        free(*ids);
        *ids = NULL;
        take = take > length / 2 ? length : 2 * take;
    }
}

int mka_eval_session(const mka_eval *e, mka_memory_mode memory, int context, mka_session **session) {
    mka_session_options options;
    mka_error error = {0};
    mka_cli_session_options(e->cli, context, &options);
    options.memory = memory;
    /* What is compared is the memory of keys and values: both sides have a bank, or none. */
    if (options.bank == MKA_BANK_AUTO) options.bank = e->cli->options.memory == MKA_MEMORY_DENSE ? 0 : MKA_BANK_DEFAULT;
    return mka_session_create(e->model, &options, session, &error) == MKA_OK ? 0 : mka_cli_failure(&error, 1);
}

int mka_eval_context(const mka_eval *e, int usual) {
    if (e->cli->options.context > 0) return e->cli->options.context;
    return e->info.context > 0 && e->info.context < usual ? e->info.context : usual;
}

void mka_eval_recall_name(const mka_recall *r, char name[32]) {
    if (r->contract == MKA_RECALL_DENSE)
        snprintf(name, 32, "dense");
    else if (r->contract == MKA_RECALL_CERTIFIED)
        snprintf(name, 32, "eps=%g", (double)r->eps);
    else if (r->tokens > 0)
        snprintf(name, 32, "tokens=%d", r->tokens);
    else if (r->share > 0)
        snprintf(name, 32, "p=%g", (double)r->share);
    else
        snprintf(name, 32, "auto");
}

void mka_eval_used(const mka_session *session, const mka_used *before, mka_used *sum) {
    mka_used now;
    mka_session_get_used(session, &now);
    sum->queries += now.queries - before->queries;
    sum->long_tokens += now.long_tokens - before->long_tokens;
    sum->scored_tokens += now.scored_tokens - before->scored_tokens;
    sum->read_tokens += now.read_tokens - before->read_tokens;
    sum->local_bytes += now.local_bytes - before->local_bytes;
    sum->mean_bytes += now.mean_bytes - before->mean_bytes;
    sum->scan_bytes += now.scan_bytes - before->scan_bytes;
    sum->key_bytes += now.key_bytes - before->key_bytes;
    sum->value_bytes += now.value_bytes - before->value_bytes;
    sum->unread_mass += now.unread_mass - before->unread_mass;
    sum->bank_bytes += now.bank_bytes - before->bank_bytes;
    sum->levels += now.levels - before->levels;
    sum->levels_skipped += now.levels_skipped - before->levels_skipped;
    sum->saved_bytes += now.saved_bytes - before->saved_bytes;
    if (now.lost_bound > sum->lost_bound) sum->lost_bound = now.lost_bound;
}

double mka_eval_mean(double sum, double count) {
    return count > 0 ? sum / count : 0;
}

json_t *mka_eval_tiers_json(const mka_used *u, double tokens) {
    double longterm = (double)u->scan_bytes + (double)u->key_bytes + (double)u->value_bytes;
    json_t *tiers =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "local", mka_cli_json_real((double)u->local_bytes / tokens), "session",
                  mka_cli_json_real((double)u->mean_bytes / tokens), "longterm", mka_cli_json_real(longterm / tokens),
                  "centroids", mka_cli_json_real((double)u->scan_bytes / tokens), "keys",
                  mka_cli_json_real((double)u->key_bytes / tokens), "values", mka_cli_json_real((double)u->value_bytes / tokens));
    if (u->bank_bytes > 0) json_object_set_new(tiers, "bank", mka_cli_json_real((double)u->bank_bytes / tokens));
    return tiers;
}

void mka_eval_levels_json(const mka_used *u, double tokens, json_t *object) {
    if (u->levels == 0) return;
    json_object_set_new(object, "levels_skipped", mka_cli_json_real(mka_eval_mean((double)u->levels_skipped, (double)u->levels)));
    json_object_set_new(object, "bytes_saved", mka_cli_json_real((double)u->saved_bytes / tokens));
}

json_t *mka_eval_memory_json(const mka_eval *e, const mka_session *session, double tokens) {
    mka_used used;
    mka_session_usage usage;
    char recall[32] = "dense";
    int tiered = mka_session_is_tiered(session);
    mka_session_get_used(session, &used);
    mka_session_get_usage(session, &usage);
    if (tiered)
        mka_eval_recall_name(&e->cli->options.plan.recall, recall);
    else
        used.local_bytes = usage.cache_bytes_read;
    double queries = (double)used.queries;
    json_t *memory = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "mode", tiered ? "tiered" : "dense", "recall", recall,
                               "tokens_read", mka_cli_json_real(mka_eval_mean((double)used.read_tokens, queries)), "long_tokens",
                               mka_cli_json_real(mka_eval_mean((double)used.long_tokens, queries)), "unread_mass",
                               mka_cli_json_real(mka_eval_mean(used.unread_mass, queries)), "bytes_by_tier",
                               mka_eval_tiers_json(&used, tokens));
    mka_eval_levels_json(&used, tokens, memory);
    return memory;
}
