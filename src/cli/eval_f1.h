/* eval_f1 - the token F1 of two answers as LongBench (and SQuAD) define it. */
#ifndef MKA_CLI_EVAL_F1_H
#define MKA_CLI_EVAL_F1_H

/* Both texts are put in lower case (ASCII), lose ASCII punctuation and the articles a, an, the, and are split at white space; the
 * harmonic mean of precision and recall of their words, with repetitions. 0 where nothing is shared or memory is out. */
double mka_f1(const char *answer, const char *wanted);

#endif
