/* eval_qa - questions about long texts from a file in LongBench's format, scored by its token F1.
 *
 * A line is checked before the model answers anything: a file of another kind is refused at once, by the number of its first bad
 * line. */
#include "commands.h"
#include "eval_f1.h"
#include "eval_texts.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 8192, DEFAULT_ANSWER = 32 };

typedef struct work {
    mka_eval e;
    mka_eval_pair pair;
    mka_sample sample;
    json_t **questions; /* [count] */
    int *lines;         /* of the file */
    size_t count, room;
    int context, new_tokens;
    double sums[MKA_EVAL_SIDES];
} work;

/* ---- the file ---- */

static int check_line(const char *path, int line, const json_t *question, const json_error_t *at) {
    static const char *const texts[] = {"input", "context"};
    if (question == NULL) return mka_cli_error("%s: line %d is not JSON: %s", path, line, at->text);
    if (!json_is_object(question)) return mka_cli_error("%s: line %d is not a JSON object", path, line);
    for (int i = 0; i < 2; i++)
        if (!json_is_string(json_object_get(question, texts[i])))
            return mka_cli_error("%s: line %d: field '%s' is missing or no string", path, line, texts[i]);
    const json_t *answers = json_object_get(question, "answers");
    size_t count = json_array_size(answers);
    for (size_t i = 0; i < count; i++)
        if (!json_is_string(json_array_get(answers, i)))
            return mka_cli_error("%s: line %d: an entry of 'answers' is no string", path, line);
    if (count == 0) return mka_cli_error("%s: line %d: field 'answers' is missing or no list of strings", path, line);
    return 0;
}

static int add_question(work *w, json_t *question, int line) {
    if (w->count == w->room) {
        size_t room = 2 * w->room + 16;
        json_t **questions = realloc(w->questions, room * sizeof *questions);
        if (questions != NULL) w->questions = questions;
        int *lines = questions != NULL ? realloc(w->lines, room * sizeof *lines) : NULL;
        if (lines == NULL) {
            json_decref(question);
            return mka_cli_error("out of memory for %zu questions", room);
        }
        w->lines = lines;
        w->room = room;
    }
    w->questions[w->count] = question;
    w->lines[w->count++] = line;
    return 0;
}

static int read_questions(work *w, const char *path) {
    const char *at = w->e.file, *end = at + w->e.length;
    size_t most = w->e.cli->options.samples > 0 ? (size_t)w->e.cli->options.samples : SIZE_MAX;
    for (int line = 1; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((stop != NULL ? stop : end) - at), blank = strspn(at, " \t\r");
        if (blank < length) {
            json_error_t error;
            json_t *question = json_loadb(at, length, 0, &error);
            int status = check_line(path, line, question, &error);
            if (status != 0 || w->count == most) {
                json_decref(question);
                if (status != 0) return status;
            } else if ((status = add_question(w, question, line)) != 0) {
                return status;
            }
        }
        at += length + 1;
    }
    return w->count > 0 ? 0 : mka_cli_error("%s: there is no question in it", path);
}

/* ---- running ---- */

static int make_prompt(work *w, const json_t *question, size_t *cut) {
    mka_sample *s = &w->sample;
    const char *const parts[] = {
        "Answer the question based on the given text. Only give the answer and do not write any other words.\n\n"
        "The text:\n",
        json_string_value(json_object_get(question, "context")),
        "\n\nQuestion: ", json_string_value(json_object_get(question, "input")), "\nAnswer:"};
    int status = mka_sample_begin(&w->e, s);
    for (size_t i = 0; i < sizeof parts / sizeof *parts && status == 0; i++) status = mka_sample_text(&w->e, s, parts[i]);
    size_t most = (size_t)(w->context - w->new_tokens), half = most / 2;
    *cut = s->count > most ? s->count - most : 0;
    if (status != 0 || *cut == 0) return status;
    memmove(s->ids + half, s->ids + half + *cut, (most - half) * sizeof *s->ids);
    s->count = most;
    return 0;
}

static int ask(work *w, size_t index) {
    const json_t *question = w->questions[index], *answers = json_object_get(question, "answers");
    char text[MKA_EVAL_SIDES][4096];
    double f1[MKA_EVAL_SIDES] = {0};
    size_t cut = 0;
    int status = make_prompt(w, question, &cut);
    for (int side = MKA_EVAL_SIDES - 1; side >= 0 && status == 0; side--) {
        if (!mka_eval_pair_has(&w->pair, side)) {
            memcpy(text[side], text[MKA_EVAL_DENSE], sizeof text[side]);
        } else {
            status = mka_eval_pair_prompt(&w->pair, side, w->sample.ids, w->sample.count);
            if (status == 0) status = mka_eval_pair_answer(&w->pair, side, w->new_tokens, 1, text[side], sizeof text[side]);
        }
        for (size_t i = 0; i < json_array_size(answers) && status == 0; i++) {
            double score = mka_f1(text[side], json_string_value(json_array_get(answers, i)));
            if (score > f1[side]) f1[side] = score;
        }
        w->sums[side] += f1[side];
    }
    if (status == 0 && w->e.cli->options.json)
        mka_cli_json(w->e.cli, json_pack("{s:i, s:I, s:I, s:o, s:o, s:o, s:o}", "line", w->lines[index], "prompt_tokens",
                                         (json_int_t)w->sample.count, "cut_tokens", (json_int_t)cut, "f1",
                                         mka_cli_json_real(f1[0]), "f1_dense", mka_cli_json_real(f1[1]), "answer",
                                         mka_cli_json_string(text[0]), "answer_dense", mka_cli_json_string(text[1])));
    return status;
}

static int run_all(work *w, const char *path) {
    int status = 0;
    double n = (double)w->count;
    for (size_t i = 0; i < w->count && status == 0; i++) {
        w->pair.progress.whole = w->pair.progress.base / ((double)i + 0.5) * n + 1; /* lengths are not known before */
        status = ask(w, i);
    }
    mka_cli_progress_end(&w->pair.progress);
    if (status != 0) return status;
    if (w->e.cli->options.json)
        return mka_cli_json(w->e.cli,
                            json_pack("{s:o, s:s, s:s, s:I, s:o, s:o, s:o}", "file", mka_cli_json_string(path), "task", "qa",
                                      "memory", mka_eval_pair_memory(&w->pair), "samples", (json_int_t)w->count, "score",
                                      mka_cli_json_real(w->sums[0] / n), "score_dense", mka_cli_json_real(w->sums[1] / n),
                                      "memory_used", mka_eval_pair_used_json(&w->pair)));
    mka_cli_print(w->e.cli, "%s: %zu questions, F1 %.2f %%", path, w->count, 100 * w->sums[0] / n);
    if (mka_eval_pair_has(&w->pair, MKA_EVAL_TIERED)) mka_cli_print(w->e.cli, ", dense %.2f %%", 100 * w->sums[1] / n);
    mka_cli_print(w->e.cli, "\n");
    return mka_cli_flush(w->e.cli);
}

static int choose_sizes(work *w) {
    w->context = mka_eval_context(&w->e, DEFAULT_CONTEXT);
    w->new_tokens = w->e.cli->options.tokens != MKA_CLI_UNSET ? w->e.cli->options.tokens : DEFAULT_ANSWER;
    if (w->context >= w->new_tokens + 64) return 0;
    return mka_cli_usage("eval qa", "a context of %d tokens is too small for a question and an answer of %d; give -c %d or more",
                         w->context, w->new_tokens, w->new_tokens + 64);
}

int mka_cli_eval_qa(mka_cli *cli) {
    work w = {.count = 0};
    if (cli->options.argument_count == 0) return mka_cli_usage("eval qa", "which questions? Give a file of JSON lines");
    if (cli->options.model == NULL) return mka_cli_usage("eval qa", "which model? Give one with -m MODEL");
    const char *path = cli->options.arguments[0];
    int status = mka_eval_open_file(&w.e, cli, "eval qa", path);
    if (status == 0) status = read_questions(&w, path);
    if (status == 0) status = choose_sizes(&w);
    if (status == 0) status = mka_eval_pair_open(&w.e, w.context, "answering", 1, &w.pair);
    if (status == 0) status = run_all(&w, path);
    for (size_t i = 0; i < w.count; i++) json_decref(w.questions[i]);
    free(w.questions);
    free(w.lines);
    mka_sample_free(&w.sample);
    mka_eval_pair_close(&w.pair);
    mka_eval_close(&w.e);
    return status;
}
