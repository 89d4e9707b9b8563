/* resume - sessions that outlive the program: --load-session, --save-session, and what the commands note beside the tokens.
 *
 * Each function says itself what went wrong and returns the exit status.
 */
#ifndef MKA_CLI_RESUME_H
#define MKA_CLI_RESUME_H

#include "output.h"

/* What a session's tokens do not say. After reading, text and messages point into memory that mka_cli_kept_free frees. */
typedef struct mka_cli_kept {
    int base;         /* chat: tokens before the conversation, which --remember put there */
    int pending;      /* a token that was shown but not evaluated, or -1 */
    const char *past; /* chat: the text that tokens and the pending one stand for; NULL: not known */
    size_t past_length;
    mka_message *messages; /* chat: [count] */
    int count;
    void *block;
} mka_cli_kept;

/* Looks at the file of --load-session or --remember, if one was given: flags of the cache that were not given become the file's,
 * and *tokens how many it holds (0 without). */
int mka_cli_resume_peek(mka_cli *cli, const char *command, int *tokens);

/* Loads the file of --load-session into session. The note's pending is -1 and the rest empty when the file has none. */
int mka_cli_resume_load(mka_cli *cli, mka_session *session, mka_cli_kept *note);
/* Loads that of --remember, whatever was noted beside it. */
int mka_cli_resume_remember(mka_cli *cli, mka_session *session);
void mka_cli_kept_free(mka_cli_kept *note);

/* Writes the session to the file of --save-session, if that was given. */
int mka_cli_resume_save(mka_cli *cli, mka_session *session, const mka_cli_kept *note);

#endif
