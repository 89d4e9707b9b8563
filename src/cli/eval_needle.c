/* eval_needle - a pass key at several depths of prompts of several lengths, found or not, as a heat map.
 *
 * A key's digits are first forced, which gives their probability and tells whether the model would have written them itself.
 * Where it would not, it answers freely, and the key may still be in what it says. */
#include "commands.h"
#include "eval_map.h"
#include "eval_texts.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 4096, DEFAULT_SAMPLES = 2, MOST_CELLS = MKA_CLI_LIST * MKA_CLI_LIST };

typedef struct work {
    mka_eval e;
    mka_hay hay;
    mka_eval_pair pair;
    mka_sample sample;
    mka_cli_list lengths, depths;
    int samples;
    double score[MKA_EVAL_SIDES][MOST_CELLS], logprob[MKA_EVAL_SIDES][MOST_CELLS]; /* sums over samples; [depth][length] */
} work;

/* One side's answer to the present sample, added to a cell. */
static int answer(work *w, int side, int cell) {
    const mka_sample *s = &w->sample;
    const char *key = s->answers[0];
    char text[256];
    int *ids = NULL, chosen = 0;
    size_t count = 0;
    double logprob = 0;
    snprintf(text, sizeof text, " %s", key);
    int status = mka_cli_tokenize(w->e.model, text, strlen(text), 0, &ids, &count);
    if (status == 0) status = mka_eval_pair_prompt(&w->pair, side, s->ids, s->count);
    if (status == 0) status = mka_eval_pair_force(&w->pair, side, ids, count, &logprob, &chosen);
    free(ids);
    if (status == 0 && !chosen) {
        status = mka_eval_pair_again(&w->pair, side, s->ids, s->count);
        if (status == 0) status = mka_eval_pair_answer(&w->pair, side, s->new_tokens, 0, text, sizeof text);
    }
    w->score[side][cell] += status == 0 && (chosen || mka_eval_found(text, &key, 1) > 0);
    w->logprob[side][cell] += logprob;
    return status;
}

static int run_cell(work *w, int depth, int length) {
    int cell = depth * w->lengths.count + length, status = 0;
    for (int n = 0; n < w->samples && status == 0; n++) {
        uint64_t seed = w->e.cli->options.sampler.seed + 1000003U * (uint64_t)n + 7919U * (uint64_t)cell;
        status = mka_needle_sample(&w->e, &w->hay, (size_t)w->lengths.items[length], w->depths.items[depth], seed, &w->sample);
        for (int side = 0; side < MKA_EVAL_SIDES && status == 0; side++)
            if (mka_eval_pair_has(&w->pair, side)) status = answer(w, side, cell);
    }
    if (!mka_eval_pair_has(&w->pair, MKA_EVAL_TIERED)) {
        w->score[MKA_EVAL_TIERED][cell] = w->score[MKA_EVAL_DENSE][cell];
        w->logprob[MKA_EVAL_TIERED][cell] = w->logprob[MKA_EVAL_DENSE][cell];
    }
    return status;
}

static int run_all(work *w) {
    int status = 0;
    for (int length = 0; length < w->lengths.count && status == 0; length++)
        for (int depth = 0; depth < w->depths.count && status == 0; depth++) status = run_cell(w, depth, length);
    mka_cli_progress_end(&w->pair.progress);
    return status;
}

/* ---- report ---- */

static json_t *row(const work *w, int cells, const double *score[2], const double *logprob[2]) {
    double sums[4] = {0}, n = (double)cells * w->samples;
    for (int i = 0; i < cells; i++) {
        for (int side = 0; side < 2; side++) sums[side] += score[side][i], sums[2 + side] += logprob[side][i];
    }
    return json_pack("{s:s, s:s, s:i, s:o, s:o, s:o, s:o}", "task", "needle", "memory", mka_eval_pair_memory(&w->pair), "samples",
                     cells * w->samples, "score", mka_cli_json_real(sums[0] / n), "score_dense", mka_cli_json_real(sums[1] / n),
                     "logprob", mka_cli_json_real(sums[2] / n), "logprob_dense", mka_cli_json_real(sums[3] / n));
}

/* A line a cell, then one over all, whose length and depth are null. */
static void print_json(work *w) {
    int cells = w->lengths.count * w->depths.count;
    for (int i = 0; i <= cells; i++) {
        int all = i == cells, at = all ? 0 : i;
        const double *score[2] = {w->score[0] + at, w->score[1] + at}, *logprob[2] = {w->logprob[0] + at, w->logprob[1] + at};
        json_t *out = row(w, all ? cells : 1, score, logprob);
        json_object_set_new(out, "length", all ? json_null() : json_integer(w->lengths.items[i % w->lengths.count]));
        json_object_set_new(out, "depth", all ? json_null() : json_integer(w->depths.items[i / w->lengths.count]));
        if (all) json_object_set_new(out, "memory_used", mka_eval_pair_used_json(&w->pair));
        mka_cli_json(w->e.cli, out);
    }
}

static int report(work *w) {
    static const char *const titles[] = {"tiered", "dense"};
    const mka_cli_options *o = &w->e.cli->options;
    mka_map map = {.lengths = &w->lengths, .depths = &w->depths};
    int cells = w->lengths.count * w->depths.count, first = !mka_eval_pair_has(&w->pair, MKA_EVAL_TIERED), status = 0;
    if (o->json) print_json(w);
    for (int side = first; side < MKA_EVAL_SIDES; side++) {
        double logprob = 0;
        for (int i = 0; i < cells; i++) {
            logprob += w->logprob[side][i] / cells / w->samples;
            w->score[side][i] /= w->samples;
        }
        map.values[map.count] = w->score[side];
        map.titles[map.count++] = titles[side];
        if (!o->json) mka_map_print(w->e.cli, &map, map.count - 1);
        if (!o->json) mka_cli_print(w->e.cli, "mean log-probability of a key's tokens %.3f\n\n", logprob);
    }
    if (o->svg != NULL) status = mka_map_svg(&map, "pass key found", o->svg);
    return status;
}

/* ---- setting up ---- */

static int choose_sizes(work *w, int *longest) {
    const mka_cli_options *o = &w->e.cli->options;
    w->samples = o->samples > 0 ? o->samples : DEFAULT_SAMPLES;
    w->lengths = o->lengths;
    w->depths = o->needle_depths;
    int context = mka_eval_context(&w->e, DEFAULT_CONTEXT);
    if (w->lengths.count == 0) w->lengths = (mka_cli_list){3, {context / 4, context / 2, context - 32}};
    if (w->depths.count == 0) w->depths = (mka_cli_list){5, {0, 25, 50, 75, 100}};
    *longest = 0;
    for (int i = 0; i < w->lengths.count; i++)
        if (w->lengths.items[i] > *longest) *longest = w->lengths.items[i];
    return o->context > 0 && *longest + 32 > o->context
               ? mka_cli_usage("eval needle", "prompts of %d tokens and their answers do not fit in -c %d", *longest, o->context)
               : 0;
}

int mka_cli_eval_needle(mka_cli *cli) {
    work *w = calloc(1, sizeof *w);
    int longest = 0;
    if (w == NULL) return mka_cli_error("out of memory");
    int status = mka_eval_open(&w->e, cli, "eval needle");
    if (status == 0) status = choose_sizes(w, &longest);
    if (status == 0) status = mka_hay_open(&w->e, (size_t)longest, &w->hay);
    double tokens = 0;
    for (int i = 0; i < w->lengths.count; i++) tokens += (double)w->lengths.items[i] * w->depths.count * w->samples;
    if (status == 0) status = mka_eval_pair_open(&w->e, longest + 32, "searching", tokens, &w->pair);
    if (status == 0) status = run_all(w);
    if (status == 0) status = report(w);
    mka_sample_free(&w->sample);
    mka_hay_close(&w->hay);
    mka_eval_pair_close(&w->pair);
    mka_eval_close(&w->e);
    free(w);
    return status;
}
