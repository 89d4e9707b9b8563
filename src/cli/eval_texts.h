/* eval_texts - prompts of a wanted length with something to find in them: facts strewn into a text, lists, tables. All of it
 * follows from a seed; words come from lists inside the program, running text from the file of -f. */
#ifndef MKA_CLI_EVAL_TEXTS_H
#define MKA_CLI_EVAL_TEXTS_H

#include "eval.h"

enum { MKA_EVAL_ANSWERS = 10, MKA_EVAL_ANSWER = 48 };

/* The running text, as tokens without BOS. */
typedef struct mka_hay {
    int *ids; /* owned */
    size_t count;
} mka_hay;

typedef struct mka_sample {
    int *ids; /* the prompt, owned */
    size_t count, room;
    char answers[MKA_EVAL_ANSWERS][MKA_EVAL_ANSWER]; /* what the answer must hold */
    int answer_count;
    int new_tokens; /* that an answer may take */
} mka_sample;

/* Reads at least wanted tokens of the eval's text; says so when it has fewer. */
int mka_hay_open(const mka_eval *eval, size_t wanted, mka_hay *hay);
void mka_hay_close(mka_hay *hay);

void mka_sample_free(mka_sample *sample);

/* ---- tasks ---- */

/* The tasks of ruler, in the order in which they are listed; ended by NULL. */
extern const char *const mka_ruler_tasks[];

/* A sample of task number task with length tokens. The sample is overwritten, its memory reused. Says so when length is too
 * small. */
int mka_ruler_sample(const mka_eval *eval, const mka_hay *hay, int task, size_t length, uint64_t seed, mka_sample *sample);

/* A pass key of five digits at depth percent of length tokens; the only answer is the key. */
int mka_needle_sample(const mka_eval *eval, const mka_hay *hay, size_t length, int depth, uint64_t seed, mka_sample *sample);

/* ---- parts, for tasks of their own ---- */

int mka_sample_begin(const mka_eval *eval, mka_sample *sample); /* empty, or BOS */
int mka_sample_text(const mka_eval *eval, mka_sample *sample, const char *text);
int mka_sample_ids(mka_sample *sample, const int *ids, size_t count);

/* The next of a row of random numbers, and one below limit. */
uint64_t mka_eval_random(uint64_t *state);
size_t mka_eval_below(uint64_t *state, size_t limit);

/* Words: common nouns, adjectives, first names, towns. Static. */
typedef struct mka_words {
    const char *const *items;
    size_t count;
} mka_words;
extern const mka_words mka_words_nouns, mka_words_adjectives, mka_words_names, mka_words_towns;

#endif
