/* eval_parts - what the makers of prompts share among themselves (eval_texts.c, eval_tasks.c). */
#ifndef MKA_CLI_EVAL_PARTS_H
#define MKA_CLI_EVAL_PARTS_H

#include "eval_texts.h"

typedef struct mka_fact {
    double depth; /* 0..1 of the running text */
    char text[160];
} mka_fact;

/* count different numbers below limit. */
void mka_eval_draw(uint64_t *state, size_t limit, size_t count, size_t *drawn);

void mka_sample_answer(mka_sample *sample, const char *answer);

/* before, running text with the facts in it (which are sorted), question: length tokens in all. */
int mka_sample_strew(const mka_eval *eval, const mka_hay *hay, size_t length, const char *before, mka_fact *facts, int fact_count,
                     const char *question, uint64_t *random, mka_sample *sample);

#endif
