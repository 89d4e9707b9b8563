/* eval_ruler - the tasks of eval_tasks.c, answered in both kinds of memory: a score a task and length. */
#include "commands.h"
#include "eval_texts.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 4096, DEFAULT_SAMPLES = 5, MOST_TASKS = 16, ANSWER_ROOM = 96 };

typedef struct work {
    mka_eval e;
    mka_hay hay;
    mka_eval_pair pair;
    mka_sample sample;
    int tasks[MOST_TASKS], task_count;
    mka_cli_list lengths;
    int samples;
    double score[MKA_EVAL_SIDES][MOST_TASKS][MKA_CLI_LIST]; /* sums over samples */
} work;

/* ---- running ---- */

static void show_wrong(const work *w, const char *task, int side, double score, const char *text) {
    if (score == 1 || w->e.cli->options.verbose == 0) return;
    char wanted[MKA_EVAL_ANSWERS * (MKA_EVAL_ANSWER + 2)] = "", said[200];
    for (int i = 0; i < w->sample.answer_count; i++) {
        size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof wanted - used, "%s%s", i > 0 ? ", " : "", w->sample.answers[i]);
    }
    snprintf(said, sizeof said, "%.190s", text);
    for (char *c = said; *c != '\0'; c++)
        if (*c == '\n') *c = ' ';
    mka_cli_note("%s, %zu tokens, %s: wanted %s; said%s", task, w->sample.count, side == MKA_EVAL_DENSE ? "dense" : "tiered",
                 wanted, said);
}

static int answer(work *w, int side, int task, int length) {
    const mka_sample *s = &w->sample;
    const char *answers[MKA_EVAL_ANSWERS];
    char text[1024];
    for (int i = 0; i < s->answer_count; i++) answers[i] = s->answers[i];
    int status = mka_eval_pair_prompt(&w->pair, side, s->ids, s->count);
    if (status == 0) status = mka_eval_pair_answer(&w->pair, side, s->new_tokens, 0, text, sizeof text);
    if (status != 0) return status;
    double score = mka_eval_found(text, answers, s->answer_count);
    w->score[side][task][length] += score;
    show_wrong(w, mka_ruler_tasks[w->tasks[task]], side, score, text);
    return 0;
}

static int run_cell(work *w, int task, int length) {
    int status = 0;
    for (int n = 0; n < w->samples && status == 0; n++) {
        uint64_t seed = w->e.cli->options.sampler.seed + 1000003U * (uint64_t)n + 7919U * (uint64_t)w->tasks[task] +
                        104729U * (uint64_t)w->lengths.items[length];
        status = mka_ruler_sample(&w->e, &w->hay, w->tasks[task], (size_t)w->lengths.items[length], seed, &w->sample);
        for (int side = 0; side < MKA_EVAL_SIDES && status == 0; side++)
            if (mka_eval_pair_has(&w->pair, side)) status = answer(w, side, task, length);
    }
    w->score[MKA_EVAL_DENSE][task][length] /= w->samples;
    w->score[MKA_EVAL_TIERED][task][length] /= w->samples;
    if (!mka_eval_pair_has(&w->pair, MKA_EVAL_TIERED))
        w->score[MKA_EVAL_TIERED][task][length] = w->score[MKA_EVAL_DENSE][task][length];
    return status;
}

/* ---- report ---- */

static void print_row(work *w, const char *task, int length, int samples, double tiered, double dense) {
    mka_cli_progress_end(&w->pair.progress);
    if (!w->e.cli->options.json) {
        char tokens[16] = "";
        if (length > 0) snprintf(tokens, sizeof tokens, "%d", length);
        if (mka_eval_pair_has(&w->pair, MKA_EVAL_TIERED))
            mka_cli_print(w->e.cli, "%-15s %7s %7d %8.1f %% %8.1f %%\n", task, tokens, samples, 100 * tiered, 100 * dense);
        else
            mka_cli_print(w->e.cli, "%-15s %7s %7d %10s %8.1f %%\n", task, tokens, samples, "", 100 * dense);
        mka_cli_flush(w->e.cli);
        return;
    }
    json_t *out = json_pack("{s:o, s:s, s:o, s:i, s:o, s:o}", "task", length > 0 ? json_string(task) : json_null(), "memory",
                            mka_eval_pair_memory(&w->pair), "length", length > 0 ? json_integer(length) : json_null(), "samples",
                            samples, "score", mka_cli_json_real(tiered), "score_dense", mka_cli_json_real(dense));
    if (length == 0) json_object_set_new(out, "memory_used", mka_eval_pair_used_json(&w->pair));
    mka_cli_json(w->e.cli, out);
}

static int run_all(work *w) {
    double sums[2] = {0};
    int status = 0, cells = w->task_count * w->lengths.count;
    if (!w->e.cli->options.json)
        mka_cli_print(w->e.cli, "%-15s %7s %7s %10s %10s\n", "task", "tokens", "samples", "tiered", "dense");
    for (int task = 0; task < w->task_count && status == 0; task++)
        for (int length = 0; length < w->lengths.count && status == 0; length++) {
            status = run_cell(w, task, length);
            double tiered = w->score[MKA_EVAL_TIERED][task][length], dense = w->score[MKA_EVAL_DENSE][task][length];
            if (status == 0) print_row(w, mka_ruler_tasks[w->tasks[task]], w->lengths.items[length], w->samples, tiered, dense);
            sums[0] += tiered / cells;
            sums[1] += dense / cells;
        }
    if (status == 0) print_row(w, "all", 0, w->samples * cells, sums[0], sums[1]);
    return status;
}

/* ---- setting up ---- */

static int choose_tasks(work *w) {
    const mka_cli_options *o = &w->e.cli->options;
    char list[200] = "";
    int all = 0;
    for (; mka_ruler_tasks[all] != NULL; all++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", all > 0 ? ", " : "", mka_ruler_tasks[all]);
    }
    for (int i = 0; i < o->argument_count; i++) {
        int task = 0;
        while (task < all && strcmp(mka_ruler_tasks[task], o->arguments[i]) != 0) task++;
        const char *nearest = mka_cli_nearest(o->arguments[i], mka_ruler_tasks, all);
        if (task == all && nearest != NULL)
            return mka_cli_usage("eval ruler", "unknown task '%s' (did you mean %s?)", o->arguments[i], nearest);
        if (task == all) return mka_cli_usage("eval ruler", "unknown task '%s'; one of %s", o->arguments[i], list);
        if (w->task_count == MOST_TASKS) return mka_cli_usage("eval ruler", "%d tasks at most", MOST_TASKS);
        w->tasks[w->task_count++] = task;
    }
    if (w->task_count == 0)
        for (; w->task_count < all; w->task_count++) w->tasks[w->task_count] = w->task_count;
    return 0;
}

static int choose_sizes(work *w, int *longest) {
    const mka_cli_options *o = &w->e.cli->options;
    int context = mka_eval_context(&w->e, DEFAULT_CONTEXT);
    w->samples = o->samples > 0 ? o->samples : DEFAULT_SAMPLES;
    w->lengths = o->lengths;
    if (w->lengths.count == 0) w->lengths = (mka_cli_list){3, {context / 4, context / 2, context - ANSWER_ROOM}};
    *longest = 0;
    for (int i = 0; i < w->lengths.count; i++) {
        if (w->lengths.items[i] < 1) return mka_cli_usage("eval ruler", "-c %d is too small for prompts and answers", context);
        if (w->lengths.items[i] > *longest) *longest = w->lengths.items[i];
    }
    return o->context > 0 && *longest + ANSWER_ROOM > o->context
               ? mka_cli_usage("eval ruler", "prompts of %d tokens and their answers do not fit in -c %d", *longest, o->context)
               : 0;
}

int mka_cli_eval_ruler(mka_cli *cli) {
    work *w = calloc(1, sizeof *w);
    int longest = 0;
    if (w == NULL) return mka_cli_error("out of memory");
    w->e.cli = cli;
    int status = choose_tasks(w);
    if (status == 0) status = mka_eval_open(&w->e, cli, "eval ruler");
    if (status == 0) status = choose_sizes(w, &longest);
    if (status == 0) status = mka_hay_open(&w->e, (size_t)longest, &w->hay);
    double tokens = 0;
    for (int i = 0; i < w->lengths.count; i++) tokens += (double)w->lengths.items[i] * w->task_count * w->samples;
    if (status == 0) status = mka_eval_pair_open(&w->e, longest + ANSWER_ROOM, "answering", tokens, &w->pair);
    if (status == 0) status = run_all(w);
    mka_sample_free(&w->sample);
    mka_hay_close(&w->hay);
    mka_eval_pair_close(&w->pair);
    mka_eval_close(&w->e);
    free(w);
    return status;
}
