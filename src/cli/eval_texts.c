/* eval_texts - prompts as tokens: the parts they are put together from, and facts strewn into running text. See eval_texts.h.
 *
 * Parts are tokenized on their own and joined as tokens, so that a prompt has exactly the length that was asked for. */
#include "eval_texts.h"

#include "eval_parts.h"

#include <stdlib.h>
#include <string.h>

/* ---- random numbers: splitmix64 ---- */

uint64_t mka_eval_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

size_t mka_eval_below(uint64_t *state, size_t limit) {
    return (size_t)((mka_eval_random(state) >> 32) * (uint64_t)limit >> 32);
}

void mka_eval_draw(uint64_t *state, size_t limit, size_t count, size_t *drawn) {
    for (size_t i = 0; i < count;) {
        size_t j = 0;
        drawn[i] = mka_eval_below(state, limit);
        while (j < i && drawn[j] != drawn[i]) j++;
        i += j == i;
    }
}

/* ---- samples ---- */

void mka_sample_free(mka_sample *s) {
    free(s->ids);
    *s = (mka_sample){.ids = NULL};
}

int mka_sample_ids(mka_sample *s, const int *ids, size_t count) {
    if (count > s->room - s->count) {
        size_t room = 2 * (s->count + count) + 64;
        int *larger = realloc(s->ids, room * sizeof *larger);
        if (larger == NULL) return mka_cli_error("out of memory for a prompt of %zu tokens", room);
        s->ids = larger;
        s->room = room;
    }
    if (count > 0) memcpy(s->ids + s->count, ids, count * sizeof *ids);
    s->count += count;
    return 0;
}

int mka_sample_begin(const mka_eval *e, mka_sample *s) {
    s->count = 0;
    s->answer_count = 0;
    return e->special.add_bos && e->special.bos >= 0 ? mka_sample_ids(s, &e->special.bos, 1) : 0;
}

int mka_sample_text(const mka_eval *e, mka_sample *s, const char *text) {
    int *ids = NULL;
    size_t count = 0;
    int status = mka_cli_tokenize(e->model, text, strlen(text), 0, &ids, &count);
    if (status == 0) status = mka_sample_ids(s, ids, count);
    free(ids);
    return status;
}

void mka_sample_answer(mka_sample *s, const char *answer) {
    snprintf(s->answers[s->answer_count++], MKA_EVAL_ANSWER, "%s", answer);
}

/* ---- running text ---- */

int mka_hay_open(const mka_eval *e, size_t wanted, mka_hay *hay) {
    int status = mka_eval_ids(e, wanted, &hay->ids, &hay->count);
    if (status != 0) return status;
    if (hay->count > 0 && e->special.add_bos && hay->ids[0] == e->special.bos)
        memmove(hay->ids, hay->ids + 1, --hay->count * sizeof *hay->ids);
    if (hay->count >= wanted) return 0;
    return mka_cli_error("%s: %zu tokens of text are too few for prompts of %zu", e->cli->options.file, hay->count, wanted);
}

void mka_hay_close(mka_hay *hay) {
    free(hay->ids);
    *hay = (mka_hay){.ids = NULL};
}

/* The first place from at on where a sentence has ended, if one does soon. */
static size_t sentence_end(const mka_eval *e, const int *ids, size_t at, size_t count) {
    for (size_t i = at; i > 0 && i < count && i < at + 100; i++) {
        char piece[64];
        size_t length = mka_token_piece(e->model, ids[i - 1], 0, piece, sizeof piece);
        if (length > 0 && length <= sizeof piece && (piece[length - 1] == '.' || piece[length - 1] == '\n')) return i;
    }
    return at;
}

static int compare_facts(const void *a, const void *b) {
    const mka_fact *x = a, *y = b;
    return x->depth < y->depth ? -1 : x->depth > y->depth;
}

/* Running text with the facts in it. */
static int strew(const mka_eval *e, const int *text, size_t count, mka_fact *facts, int fact_count, mka_sample *s) {
    size_t done = 0;
    int status = 0;
    qsort(facts, (size_t)fact_count, sizeof *facts, compare_facts);
    for (int i = 0; i < fact_count && status == 0; i++) {
        size_t at = sentence_end(e, text, (size_t)(facts[i].depth * (double)count), count);
        if (at < done) at = done;
        status = mka_sample_ids(s, text + done, at - done);
        done = at;
        if (status == 0) status = mka_sample_text(e, s, facts[i].text);
    }
    return status != 0 ? status : mka_sample_ids(s, text + done, count - done);
}

int mka_sample_strew(const mka_eval *e, const mka_hay *hay, size_t length, const char *before, mka_fact *facts, int fact_count,
                     const char *question, uint64_t *random, mka_sample *s) {
    mka_sample parts = {.ids = NULL};
    int status = mka_sample_begin(e, &parts); /* measures all but the running text */
    if (status == 0) status = mka_sample_text(e, &parts, before);
    for (int i = 0; i < fact_count && status == 0; i++) status = mka_sample_text(e, &parts, facts[i].text);
    if (status == 0) status = mka_sample_text(e, &parts, question);
    size_t taken = parts.count, text = length - taken;
    mka_sample_free(&parts);
    if (status != 0) return status;
    if (taken > length)
        return mka_cli_error("a prompt of %zu tokens is too short for this task; it needs at least %zu", length, taken);
    if (text > hay->count)
        return mka_cli_error("%s: %zu tokens of text are too few for prompts of %zu", e->cli->options.file, hay->count, length);
    status = mka_sample_begin(e, s);
    if (status == 0) status = mka_sample_text(e, s, before);
    if (status == 0) status = strew(e, hay->ids + mka_eval_below(random, hay->count - text + 1), text, facts, fact_count, s);
    return status != 0 ? status : mka_sample_text(e, s, question);
}

/* ---- the pass key ---- */

int mka_needle_sample(const mka_eval *e, const mka_hay *hay, size_t length, int depth, uint64_t seed, mka_sample *s) {
    mka_fact fact = {.depth = depth / 100.0};
    unsigned key = 10000 + (unsigned)mka_eval_below(&seed, 90000);
    char answer[16];
    snprintf(fact.text, sizeof fact.text, "\nThe pass key is %u. Remember it. %u is the pass key.\n", key, key);
    snprintf(answer, sizeof answer, "%u", key);
    s->new_tokens = 16;
    int status = mka_sample_strew(e, hay, length, "There is a pass key hidden in the text below. Find it and remember it.\n\n",
                                  &fact, 1, "\n\nWhat is the pass key? The pass key is", &seed, s);
    mka_sample_answer(s, answer);
    return status;
}
