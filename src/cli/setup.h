/* setup - from flags to an engine, a model, a session and a text; what every command that computes begins with.
 *
 * Each function says itself what went wrong and returns the exit status: 0, 1 (the work failed) or 2 (a flag was wrong).
 */
#ifndef MKA_CLI_SETUP_H
#define MKA_CLI_SETUP_H

#include "output.h"

int mka_cli_open_engine(mka_cli *cli, mka_engine **engine);
/* The model of -m. command is for the message when -m is missing. */
int mka_cli_open_model(mka_cli *cli, const char *command, mka_engine *engine, int vocabulary_only, mka_model **model);
/* Options of a session as the flags have them; context as given. */
void mka_cli_session_options(const mka_cli *cli, int context, mka_session_options *options);
int mka_cli_open_session(mka_cli *cli, mka_model *model, int context, mka_session **session);

/* Takes the banks of --bank-from into an empty session; the above does so too. */
int mka_cli_open_banks(mka_cli *cli, mka_session *session);

/* The whole of a file ("-": standard input) as it is, plus a NUL; *text is the caller's to free. At most 1 GiB. */
int mka_cli_read_file(const char *path, char **text, size_t *length);
/* The text of -p or -f; with --load-session it may be missing, and is empty then. */
int mka_cli_read_prompt(mka_cli *cli, const char *command, char **text, size_t *length);

/* Text to ids; *ids is the caller's to free. */
int mka_cli_tokenize(const mka_model *model, const char *text, size_t length, unsigned flags, int **ids, size_t *count);

/* Messages in the model's chat template; *text is the caller's to free, *flags what to tokenize it with. */
int mka_cli_format_chat(mka_cli *cli, const mka_model *model, const mka_message *messages, int count, char **text, size_t *length,
                        unsigned *flags);

#endif
