/* answer - one answer of a model: evaluate tokens, sample, stream whole characters, count and time. Shared by generate and chat.
 */
#ifndef MKA_CLI_ANSWER_H
#define MKA_CLI_ANSWER_H

#include "setup.h"

typedef struct mka_cli_answer {
    int *ids; /* of the new tokens, without the one that ended the answer */
    size_t count;
    char *text; /* their bytes; not ended by NUL */
    size_t length, shown;
    float *logits;
    size_t vocabulary, room, text_room;
    size_t prompt_tokens, evaluated; /* of the prompt, and how many of those were not in the session before */
    double prefill_seconds, decode_seconds;
    mka_used before;  /* what the tiers had read when decoding began */
    size_t decoded;   /* tokens that were evaluated after the prompt */
    const char *stop; /* "end", "length", "context", "interrupted", "closed" (standard output) */
} mka_cli_answer;

/* Buffers for answers of up to limit tokens; they grow with the text only. Returns an exit status. */
int mka_cli_answer_prepare(mka_cli_answer *answer, const mka_model *model, size_t limit);
void mka_cli_answer_free(mka_cli_answer *answer);

/* Evaluates tokens (count > 0) after what the session holds and generates up to limit tokens (-1: as the context allows).
 * Streams the text unless --json. Returns 0 also when the answer was interrupted or standard output closed (see stop). */
int mka_cli_answer_run(mka_cli *cli, mka_cli_answer *answer, const mka_model *model, mka_session *session, mka_sampler *sampler,
                       const int *tokens, size_t count, long long limit);

/* The JSON object of an answer, as the documentation of --json has it. */
json_t *mka_cli_answer_json(const mka_cli_answer *answer, mka_session *session);
/* Tokens a second and memory, on standard error. */
void mka_cli_answer_statistics(const mka_cli_answer *answer, mka_session *session);
/* 1 when statistics are wanted: -v, or standard error is a terminal. */
int mka_cli_wants_statistics(const mka_cli *cli);

#endif
