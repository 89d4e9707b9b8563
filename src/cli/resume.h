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
    const char *words; /* the beginning of the session's text, for lists; NULL: not known */
    size_t words_length;
    void *block;
} mka_cli_kept;

/* Looks at the file of --load-session or those of --remember, if any were given: flags of the cache that were not given become
 * those of the (first) file, and *tokens how many they hold (0 without). */
int mka_cli_resume_peek(mka_cli *cli, const char *command, int *tokens);

/* Loads the file of --load-session into session. The note's pending is -1 and the rest empty when the file has none. */
int mka_cli_resume_load(mka_cli *cli, mka_session *session, mka_cli_kept *note);
/* Loads those of --remember one behind the other, whatever was noted beside them; what the session holds is forgotten. */
int mka_cli_resume_remember(mka_cli *cli, mka_model *model, mka_session *session);
/* Puts the tokens of a saved session behind those of session (mka_session_append). */
int mka_cli_resume_append(mka_model *model, const char *path, mka_session *session);
/* The note of a saved session, without loading it. */
int mka_cli_resume_note(const char *path, mka_cli_kept *note);
void mka_cli_kept_free(mka_cli_kept *note);

/* Writes the session to path (NULL: not at all) with a note, to which the first words of its text are added. */
int mka_cli_resume_save(const mka_model *model, mka_session *session, const char *path, const mka_cli_kept *note);

#endif
