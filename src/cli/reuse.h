/* reuse - prompts that begin like an earlier one do not evaluate that part again: their sessions are kept in a folder.
 *
 * What is kept ends where a chunk of prefill ends, so that the rest is evaluated in the same chunks as without, and the answer
 * is the same to the last bit. Whatever goes wrong with the folder is at most a warning.
 */
#ifndef MKA_CLI_REUSE_H
#define MKA_CLI_REUSE_H

#include "output.h"

typedef struct mka_cli_reused {
    size_t done;      /* leading tokens of the prompt that the session holds now */
    size_t evaluated; /* of these, how many had to be evaluated */
    double seconds;   /* what that took */
} mka_cli_reused;

/* Brings the leading chunks of a prompt of count tokens into an empty session: from the folder as far as it has them, else by
 * evaluating them, and then keeps them there. Short prompts, and --no-reuse, leave the session empty. Returns an exit status. */
int mka_cli_reuse(mka_cli *cli, const mka_engine *engine, mka_session *session, const int *ids, size_t count,
                  mka_cli_reused *reused);

#endif
