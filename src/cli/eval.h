/* eval - what the tasks of eval share: the model, the text, sessions of either memory, and how memory is reported. */
#ifndef MKA_CLI_EVAL_H
#define MKA_CLI_EVAL_H

#include "setup.h"

typedef struct mka_eval {
    mka_cli *cli;
    const char *command; /* for messages: "eval ppl" */
    mka_engine *engine;
    mka_model *model;
    mka_model_info info;
    mka_special special;
    char *file; /* the whole of -f, owned */
    const char *text;
    size_t length; /* of text: the file from --skip-chars on */
} mka_eval;

/* Opens the text of -f and the model of -m, saying what is missing. Close it whatever this returns. */
int mka_eval_open(mka_eval *eval, mka_cli *cli, const char *command);
/* The same with the text of file, which is not NULL. */
int mka_eval_open_file(mka_eval *eval, mka_cli *cli, const char *command, const char *file);
void mka_eval_close(mka_eval *eval);

/* Tokens of the text, at least wanted when it has as many (0: all), BOS first where the model wants it. *ids is the caller's.
 * Only as much text is tokenized as that takes. */
int mka_eval_ids(const mka_eval *eval, size_t wanted, int **ids, size_t *count);

/* A session as the flags say, but for its memory. */
int mka_eval_session(const mka_eval *eval, mka_memory_mode memory, int context, mka_session **session);

/* The context that -c asks for, else the least of usual and the model's own. */
int mka_eval_context(const mka_eval *eval, int usual);

/* What a contract is called on the command line: "auto", "p=0.95", ... */
void mka_eval_recall_name(const mka_recall *recall, char name[32]);

/* *sum += what a session used after before. */
void mka_eval_used(const mka_session *session, const mka_used *before, mka_used *sum);

/* {local, session, longterm, signs, keys, values}: bytes a token of tokens; longterm is the sum of the last three. */
json_t *mka_eval_tiers_json(const mka_used *used, double tokens);

/* Adds what MKA left out to an object: the share of its levels, and bytes a token; nothing for other models. */
void mka_eval_levels_json(const mka_used *used, double tokens, json_t *object);

/* {mode, recall, tokens_read, long_tokens, unread_mass, bytes_by_tier} of all that a session did for tokens tokens. */
json_t *mka_eval_memory_json(const mka_eval *eval, const mka_session *session, double tokens);

/* ---- answering prompts in both kinds of memory ---- */

enum { MKA_EVAL_TIERED, MKA_EVAL_DENSE, MKA_EVAL_SIDES };

/* Two sessions that are given the same prompts. Without --memory they are tiered and dense; where the flags ask for dense memory,
 * or no layer can have tiers, there is the dense one alone, and what it does counts for both. */
typedef struct mka_eval_pair {
    const mka_eval *e;
    mka_session *sessions[MKA_EVAL_SIDES]; /* the tiered one may be NULL */
    float *logits;
    mka_cli_progress progress; /* base counts the tokens of prompts that are done */
} mka_eval_pair;

/* Sessions of context tokens, and a bar called what for prompts of tokens tokens in all (each counted once). Close the pair
 * whatever this returns. */
int mka_eval_pair_open(const mka_eval *eval, int context, const char *what, double tokens, mka_eval_pair *pair);
void mka_eval_pair_close(mka_eval_pair *pair);

/* "tiered" or "dense". */
const char *mka_eval_pair_memory(const mka_eval_pair *pair);

/* 1 where side has a session of its own. */
int mka_eval_pair_has(const mka_eval_pair *pair, int side);

/* Forgets what a side's session holds and evaluates a prompt; its logits are in the pair. */
int mka_eval_pair_prompt(mka_eval_pair *pair, int side, const int *ids, size_t count);

/* Back to the end of the prompt that a side holds, as mka_eval_pair_prompt left it. */
int mka_eval_pair_again(mka_eval_pair *pair, int side, const int *ids, size_t count);

/* mka_eval_memory_json of the tiered session, or of the dense one where that is alone. */
json_t *mka_eval_pair_used_json(const mka_eval_pair *pair);

/* Continues greedily, by new_tokens at most, until the model ends (or a line does, with line 1). text gets whole bytes and a NUL;
 * what has no room in it is left out. */
int mka_eval_pair_answer(mka_eval_pair *pair, int side, int new_tokens, int line, char *text, size_t room);

/* Continues with the given tokens. *logprob: their mean logarithm of probability; *chosen: 1 when each was the model's own
 * choice. */
int mka_eval_pair_force(mka_eval_pair *pair, int side, const int *ids, size_t count, double *logprob, int *chosen);

/* log sum exp of the logits; *top: the largest, lowest id on a tie. */
double mka_eval_normaliser(const float *logits, int count, int *top);

/* The share of answers that text holds, whatever the case of their letters. */
double mka_eval_found(const char *text, const char *const *answers, int count);

/* a / b, 0 where b is 0. */
double mka_eval_mean(double sum, double count);

#endif
