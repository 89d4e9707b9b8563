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
void mka_eval_close(mka_eval *eval);

/* Tokens of the text, at least wanted when it has as many (0: all), BOS first where the model wants it. *ids is the caller's.
 * Only as much text is tokenized as that takes. */
int mka_eval_ids(const mka_eval *eval, size_t wanted, int **ids, size_t *count);

/* A session as the flags say, but for its memory. */
int mka_eval_session(const mka_eval *eval, mka_memory_mode memory, int context, mka_session **session);

/* What a contract is called on the command line: "auto", "p=0.95", ... */
void mka_eval_recall_name(const mka_recall *recall, char name[32]);

/* *since = what a session used after before. */
void mka_eval_used(const mka_session *session, const mka_used *before, mka_used *since);

/* {local, session, longterm, signs, keys, values}: bytes a token of tokens; longterm is the sum of the last three. */
json_t *mka_eval_tiers_json(const mka_used *used, double tokens);

/* {mode, recall, tokens_read, long_tokens, unread_mass, bytes_by_tier} of all that a session did for tokens tokens. */
json_t *mka_eval_memory_json(const mka_eval *eval, const mka_session *session, double tokens);

/* a / b, 0 where b is 0. */
double mka_eval_mean(double sum, double count);

#endif
