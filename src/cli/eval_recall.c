/* eval_recall - what tiered memory reads of a long text, and how far its predictions are from those of dense memory.
 *
 *   tokens  0 .................... count - decoded - 1 | ............. count - 2 | count - 1
 *           read by both sessions in chunks            | decoded one by one      | only predicted
 *
 * Both sessions are given the text's own next token, so that they never part; after each of them their logits are compared. Heads
 * are compared within the tiered session (mka_session_watch), on some of the tokens alone: that takes as long as dense attention.
 *
 * Activations stay float32 unless asked otherwise: rounded to 8 bits, a model answers the smallest difference with some 0.003
 * nats of noise (SmolLM2-135M, reading every token), which hides what is to be measured.
 */
#include "commands.h"
#include "eval_texts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 8192, DEFAULT_DECODED = 256, COMPARED = 256 };

typedef struct work {
    mka_eval e;
    int *text; /* all tokens, text_count of them */
    size_t text_count;
    int *ids; /* those of the present sample */
    size_t count, decoded, samples;
    mka_session *tiered, *dense;
    float *logits[2]; /* tiered, dense */
    int heads_wanted;
    mka_used used;               /* of the tiered session: before decoding, while decoding */
    uint64_t dense_bytes, bytes; /* of all layers, while decoding */
    double seconds[2];           /* of decoding */
    double kl, kl_most, nll[2];  /* sums over decoded tokens */
    size_t agree;
    double lost, error, bound, compared; /* over all heads: means weighed by queries, and their number */
} work;

/* ---- comparing two predictions ---- */

static void compare(work *w, int target) {
    const float *tiered = w->logits[0], *dense = w->logits[1];
    int count = w->e.info.vocabulary, top[2];
    double normal[2] = {mka_eval_normaliser(tiered, count, &top[0]), mka_eval_normaliser(dense, count, &top[1])}, kl = 0;
    for (int i = 0; i < count; i++) {
        double log_p = (double)dense[i] - normal[1], log_q = (double)tiered[i] - normal[0];
        if (log_p > -700) kl += exp(log_p) * (log_p - log_q);
    }
    w->kl += kl;
    if (!(kl <= w->kl_most)) w->kl_most = kl; /* a NaN stays */
    w->agree += top[0] == top[1];
    for (int i = 0; i < 2; i++) w->nll[i] += normal[i] - (double)w->logits[i][target];
}

/* ---- running ---- */

static int read_prompt(work *w, mka_session *session, size_t count, const char *what) {
    mka_cli_progress progress;
    mka_error error = {0};
    mka_cli_progress_start(&progress, what);
    mka_status status = mka_session_eval(session, w->ids, count, NULL, mka_cli_progress_step, &progress, &error);
    mka_cli_progress_end(&progress);
    return status == MKA_OK ? 0 : mka_cli_failure(&error, 0);
}

static int read_prompts(work *w, size_t count) {
    mka_recall all = {.contract = MKA_RECALL_DENSE};
    mka_error error = {0};
    int dense = w->e.cli->options.prefill != 0;
    if (dense && mka_session_set_recall(w->tiered, &all, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    int status = read_prompt(w, w->tiered, count, "reading (tiered)");
    if (status == 0 && mka_session_set_recall(w->tiered, &w->e.cli->options.plan.recall, &error) != MKA_OK)
        return mka_cli_failure(&error, 0);
    return status != 0 ? status : read_prompt(w, w->dense, count, "reading (dense)");
}

/* One token in both sessions. */
static int step(work *w, int token, int watch) {
    mka_session *sessions[2] = {w->tiered, w->dense};
    mka_error error = {0};
    if (w->heads_wanted && mka_session_watch(w->tiered, watch ? MKA_WATCH_COMPARE : MKA_WATCH_COUNT, &error) != MKA_OK)
        return mka_cli_failure(&error, 0);
    for (int i = 0; i < 2; i++) {
        double start = mka_cli_now();
        if (mka_session_eval(sessions[i], &token, 1, w->logits[i], NULL, NULL, &error) != MKA_OK)
            return mka_cli_failure(&error, 0);
        if (i == 1 || !watch) w->seconds[i] += mka_cli_now() - start;
    }
    return 0;
}

static int decode(work *w) {
    size_t first = w->count - 1 - w->decoded, every = 2 + (w->decoded - 1) / COMPARED, watched = 0;
    double before = w->seconds[0];
    mka_used used;
    mka_session_usage from[2], to[2];
    mka_cli_progress progress;
    int status = 0;
    mka_session_get_used(w->tiered, &used);
    mka_session_get_usage(w->tiered, &from[0]);
    mka_session_get_usage(w->dense, &from[1]);
    mka_cli_progress_start(&progress, "decoding");
    for (size_t i = 0; i < w->decoded && status == 0; i++) {
        int watch = w->heads_wanted && i % every == 0;
        watched += (size_t)watch;
        status = step(w, w->ids[first + i], watch);
        if (status == 0) compare(w, w->ids[first + i + 1]);
        mka_cli_progress_step(&progress, i + 1, w->decoded);
    }
    mka_cli_progress_end(&progress);
    mka_eval_used(w->tiered, &used, &w->used);
    mka_session_get_usage(w->tiered, &to[0]);
    mka_session_get_usage(w->dense, &to[1]);
    w->bytes += to[0].cache_bytes_read - from[0].cache_bytes_read;
    w->dense_bytes += to[1].cache_bytes_read - from[1].cache_bytes_read;
    /* Tokens that were compared head by head do not count as time of tiered decoding, unless there is only one. */
    if (watched < w->decoded)
        w->seconds[0] = before + (w->seconds[0] - before) * (double)w->decoded / (double)(w->decoded - watched);
    return status;
}

/* The first sample is the beginning of the text; the others begin where the seed says. BOS stands before each that had one. */
static void choose_place(work *w, size_t index, uint64_t *random) {
    size_t place = index > 0 ? mka_eval_below(random, w->text_count - w->count + 1) : 0;
    memcpy(w->ids, w->text + place, w->count * sizeof *w->ids);
    if (w->e.special.add_bos && w->text[0] == w->e.special.bos) w->ids[0] = w->e.special.bos;
}

static int run_samples(work *w) {
    uint64_t random = w->e.cli->options.sampler.seed;
    mka_error error = {0};
    int status = 0;
    for (size_t i = 0; i < w->samples && status == 0; i++) {
        choose_place(w, i, &random);
        if (mka_session_truncate(w->tiered, 0, &error) != MKA_OK || mka_session_truncate(w->dense, 0, &error) != MKA_OK ||
            mka_session_watch(w->tiered, MKA_WATCH_OFF, &error) != MKA_OK)
            return mka_cli_failure(&error, 0);
        status = read_prompts(w, w->count - 1 - w->decoded);
        if (status == 0) status = decode(w);
    }
    w->decoded *= w->samples; /* what the sums are over */
    return status;
}

/* ---- report ---- */

/* A bound that the contract promises; NaN, which becomes null, where it promises none. */
static double promised(const work *w, double bound) {
    mka_contract contract = w->e.cli->options.plan.recall.contract;
    return contract == MKA_RECALL_CERTIFIED ? bound : contract == MKA_RECALL_DENSE ? 0 : (double)NAN;
}

static double used_bytes(const mka_used *u) {
    return (double)u->local_bytes + (double)u->mean_bytes + (double)u->scan_bytes + (double)u->key_bytes + (double)u->value_bytes;
}

static void print_head(work *w, int layer, int head, const mka_head_used *h) {
    double n = (double)h->used.queries, tokens = (double)w->decoded, compared = (double)h->compared;
    double lost = compared > 0 ? h->lost_mass / compared : (double)NAN;
    double error = compared > 0 ? h->output_error / compared : (double)NAN;
    if (w->e.cli->options.json) {
        mka_cli_json(w->e.cli,
                     json_pack("{s:i, s:i, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I}", "layer", layer, "head",
                               head, "kv_len", (json_int_t)w->count - 1, "unread_mass",
                               mka_cli_json_real(mka_eval_mean(h->used.unread_mass, n)), "lost_mass", mka_cli_json_real(lost),
                               "lost_mass_bound", mka_cli_json_real(promised(w, h->used.lost_bound)), "output_rel_err",
                               mka_cli_json_real(error), "tokens_read",
                               mka_cli_json_real(mka_eval_mean((double)h->used.read_tokens, n)), "tokens_scored",
                               mka_cli_json_real(mka_eval_mean((double)h->used.scored_tokens, n)), "long_tokens",
                               mka_cli_json_real(mka_eval_mean((double)h->used.long_tokens, n)), "bytes_read",
                               mka_cli_json_real(used_bytes(&h->used) / tokens), "bytes_dense",
                               mka_cli_json_real((double)h->dense_bytes / tokens), "queries", (json_int_t)h->used.queries,
                               "compared", (json_int_t)h->compared));
        return;
    }
    mka_cli_print(w->e.cli, "%5d %4d %10.3f %10.3f %10.4f %9.1f %9.1f %9.0f %11.0f %11.0f\n", layer, head,
                  100 * mka_eval_mean(h->used.unread_mass, n), 100 * lost, error, mka_eval_mean((double)h->used.read_tokens, n),
                  mka_eval_mean((double)h->used.scored_tokens, n), mka_eval_mean((double)h->used.long_tokens, n),
                  used_bytes(&h->used) / tokens, (double)h->dense_bytes / tokens);
}

/* A line a layer and head, and the sums over all. */
static void print_heads(work *w) {
    if (!w->heads_wanted) return;
    if (!w->e.cli->options.json)
        mka_cli_print(w->e.cli, "%5s %4s %10s %10s %10s %9s %9s %9s %11s %11s\n", "layer", "head", "unread %", "lost %",
                      "out error", "read", "scored", "of long", "bytes", "dense bytes");
    for (int layer = 0; layer < w->e.info.layers; layer++)
        for (int head = 0; head < w->e.info.kv_heads; head++) {
            mka_head_used h;
            if (!mka_session_get_head_used(w->tiered, layer, head, &h)) continue;
            print_head(w, layer, head, &h);
            w->lost += h.lost_mass;
            w->error += h.output_error;
            w->compared += (double)h.compared;
        }
}

static int print_json(work *w) {
    const mka_cli_options *o = &w->e.cli->options;
    double n = (double)w->decoded, queries = (double)w->used.queries;
    double lost = w->compared > 0 ? w->lost / w->compared : (double)NAN,
           error = w->compared > 0 ? w->error / w->compared : (double)NAN;
    char recall[32];
    json_t *out = json_object();
    const struct {
        const char *name;
        double value;
    } reals[] = {{"kl", w->kl / n},
                 {"kl_max", w->kl_most},
                 {"top1_agree", (double)w->agree / n},
                 {"ppl", exp(w->nll[0] / n)},
                 {"ppl_dense", exp(w->nll[1] / n)},
                 {"unread_mass", mka_eval_mean(w->used.unread_mass, queries)},
                 {"lost_mass", lost},
                 {"lost_mass_bound", promised(w, w->used.lost_bound)},
                 {"output_rel_err", error},
                 {"tokens_read", mka_eval_mean((double)w->used.read_tokens, queries)},
                 {"long_tokens", mka_eval_mean((double)w->used.long_tokens, queries)},
                 {"bytes_read", (double)w->bytes / n},
                 {"bytes_dense", (double)w->dense_bytes / n},
                 {"tok_s", n / w->seconds[0]},
                 {"tok_s_dense", n / w->seconds[1]}};
    mka_eval_recall_name(&o->plan.recall, recall);
    json_object_set_new(out, "file", mka_cli_json_string(o->file));
    json_object_set_new(out, "tokens", json_integer((json_int_t)w->count));
    json_object_set_new(out, "decoded", json_integer((json_int_t)w->decoded));
    json_object_set_new(out, "samples", json_integer((json_int_t)w->samples));
    json_object_set_new(out, "recall", json_string(recall));
    json_object_set_new(out, "prefill", json_string(o->prefill != 0 ? "dense" : "tiered"));
    json_object_set_new(out, "exact", json_boolean(o->exact));
    json_object_set_new(out, "window", json_integer(o->plan.window));
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        json_object_set_new(out, reals[i].name, mka_cli_json_real(reals[i].value));
    json_object_set_new(out, "bytes_by_tier", mka_eval_tiers_json(&w->used, n));
    mka_eval_levels_json(&w->used, n, out);
    return mka_cli_json(w->e.cli, out);
}

static void print_bytes(work *w) {
    const mka_used *u = &w->used;
    const uint64_t parts[] = {u->local_bytes, u->mean_bytes, u->scan_bytes, u->key_bytes,
                              u->value_bytes, w->bytes,      w->dense_bytes};
    char text[7][32];
    for (int i = 0; i < 7; i++) mka_cli_size(parts[i] / w->decoded, text[i]);
    mka_cli_print(w->e.cli, "  bytes a token     %s of the dense %s: window %s, means %s, centroids %s, keys %s, values %s\n",
                  text[5], text[6], text[0], text[1], text[2], text[3], text[4]);
}

static int print_text(work *w) {
    const mka_cli_options *o = &w->e.cli->options;
    double n = (double)w->decoded, queries = (double)w->used.queries, ppl = exp(w->nll[0] / n), dense = exp(w->nll[1] / n);
    char recall[32];
    mka_eval_recall_name(&o->plan.recall, recall);
    mka_cli_print(w->e.cli, "%s: %zu tokens, the last ones decoded (%zu in all); recall %s, window %d, the rest read %s\n",
                  o->file, w->count, w->decoded, recall, o->plan.window, o->prefill != 0 ? "dense" : "the same way");
    mka_cli_print(w->e.cli, "  KL from dense     %.6f nats a token, at most %.6f\n", w->kl / n, w->kl_most);
    mka_cli_print(w->e.cli, "  same first choice %.2f %%\n", 100 * (double)w->agree / n);
    mka_cli_print(w->e.cli, "  perplexity        %.4f, dense %.4f (%+.3f %%)\n", ppl, dense, 100 * (ppl / dense - 1));
    mka_cli_print(w->e.cli, "  unread mass       %.3f %% by its own estimate", 100 * mka_eval_mean(w->used.unread_mass, queries));
    if (w->compared > 0)
        mka_cli_print(w->e.cli, ", exactly %.3f %%; output error of a head %.4f", 100 * w->lost / w->compared,
                      w->error / w->compared);
    mka_cli_print(w->e.cli, "\n  tokens read       %.1f of %.0f long-term tokens a head\n",
                  mka_eval_mean((double)w->used.read_tokens, queries), mka_eval_mean((double)w->used.long_tokens, queries));
    print_bytes(w);
    if (w->used.levels > 0) {
        char saved[32];
        mka_cli_print(w->e.cli, "  levels not read   %.1f %%, which saved %s a token or more\n",
                      100 * mka_eval_mean((double)w->used.levels_skipped, (double)w->used.levels),
                      mka_cli_size(w->used.saved_bytes / w->decoded, saved));
    }
    mka_cli_print(w->e.cli, "  speed             %.1f tokens/s, dense %.1f\n", n / w->seconds[0], n / w->seconds[1]);
    return mka_cli_flush(w->e.cli);
}

/* ---- setting up ---- */

/* How many tokens are held and decoded, from -c, --max-tokens and the text. */
static int choose_sizes(work *w) {
    const mka_cli_options *o = &w->e.cli->options;
    size_t context = (size_t)o->context, have = w->text_count, least;
    w->decoded = o->max_tokens > 0 ? (size_t)o->max_tokens : DEFAULT_DECODED;
    least = w->decoded + 1 + (size_t)o->plan.sinks + (size_t)o->plan.window + 64;
    if (context == 0) {
        context = w->e.info.context > 0 && w->e.info.context < DEFAULT_CONTEXT ? (size_t)w->e.info.context : DEFAULT_CONTEXT;
        if (context > have) context = have;
    }
    if (context > have) return mka_cli_error("%s: %zu tokens are too few for -c %zu", o->file, have, context);
    if (context < least)
        return mka_cli_error(
            "a context of %zu tokens is too small: with a window of %d, long-term memory begins to matter behind "
            "%d tokens, and %zu are to be decoded; %zu would do",
            context, o->plan.window, o->plan.window + o->plan.sinks + 64, w->decoded, least);
    w->count = context;
    w->ids = malloc(context * sizeof *w->ids);
    return w->ids != NULL ? 0 : mka_cli_error("out of memory");
}

static int open_sessions(work *w) {
    int status = mka_eval_session(&w->e, MKA_MEMORY_TIERED, (int)w->count, &w->tiered);
    if (status == 0 && !mka_session_is_tiered(w->tiered))
        status = mka_cli_error("%s: none of its layers can have long-term memory", w->e.cli->options.model);
    if (status == 0) status = mka_eval_session(&w->e, MKA_MEMORY_DENSE, (int)w->count, &w->dense);
    size_t vocabulary = (size_t)w->e.info.vocabulary;
    w->logits[0] = malloc(2 * vocabulary * sizeof(float));
    if (status == 0 && w->logits[0] == NULL) status = mka_cli_error("out of memory");
    if (status == 0) w->logits[1] = w->logits[0] + vocabulary;
    return status;
}

int mka_cli_eval_recall(mka_cli *cli) {
    work w = {.heads_wanted = cli->options.json || cli->options.layers};
    if (cli->options.memory == MKA_MEMORY_DENSE)
        return mka_cli_usage("eval recall", "--memory dense has nothing to recall; tiered memory is compared with dense anyway");
    w.samples = cli->options.samples > 0 ? (size_t)cli->options.samples : 1;
    size_t wanted = w.samples > 1 ? 0 : cli->options.context > 0 ? (size_t)cli->options.context : DEFAULT_CONTEXT;
    cli->options.exact = !cli->options.rounded;
    int status = mka_eval_open(&w.e, cli, "eval recall");
    if (status == 0) status = mka_eval_ids(&w.e, wanted, &w.text, &w.text_count);
    if (status == 0) status = choose_sizes(&w);
    if (status == 0) status = open_sessions(&w);
    if (status == 0) status = run_samples(&w);
    if (status == 0) {
        print_heads(&w);
        if (cli->options.json)
            print_json(&w);
        else
            print_text(&w);
    }
    free(w.text);
    free(w.ids);
    free(w.logits[0]);
    mka_session_destroy(w.tiered);
    mka_session_destroy(w.dense);
    mka_eval_close(&w.e);
    return status;
}
