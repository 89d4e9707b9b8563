/* output - what the program says: results on standard output (checked), JSON lines, errors, logs and progress on standard error.
 *
 * Every byte of a result goes through here, so that a full disk or a closed pipe is noticed once, said once and turns the exit
 * status into 1, whichever command was running.
 */
#ifndef MKA_CLI_OUTPUT_H
#define MKA_CLI_OUTPUT_H

#include "options.h"

#include <jansson.h>

/* One run of the program: what was asked, and the first error (errno) of writing a result, 0 while there was none. */
typedef struct mka_cli {
    mka_cli_options options;
    int write_error;
    mka_log_level log_level;
} mka_cli;

/* ---- results ---- */

/* Each returns 0, or -1 once a write failed. _write adds to the buffer, _flush hands it over. */
int mka_cli_write(mka_cli *cli, const char *bytes, size_t length);
int mka_cli_flush(mka_cli *cli);
int mka_cli_print(mka_cli *cli, const char *format, ...) MKA_PRINTF(2, 3);
/* One object on a line of its own, flushed. Takes the reference. */
int mka_cli_json(mka_cli *cli, json_t *object);
/* Flushes and closes standard output; says what went wrong on the way, if anything did. Returns status, or 1 in place of 0. */
int mka_cli_finish(mka_cli *cli, int status);

/* A JSON string of any bytes: what is not UTF-8 becomes U+FFFD. NULL is JSON null. */
json_t *mka_cli_json_text(const char *bytes, size_t length);
json_t *mka_cli_json_string(const char *text);
/* A JSON number; null for infinities and NaN, which JSON does not have. */
json_t *mka_cli_json_real(double value);
json_t *mka_cli_json_ids(const int *ids, size_t count);

/* ---- errors and logs, on standard error ---- */

/* "mka: ..." on one line. Returns 1, the exit status of work that failed. */
int mka_cli_error(const char *format, ...) MKA_PRINTF(1, 2);
void mka_cli_note(const char *format, ...) MKA_PRINTF(1, 2);
/* Says what the library reported; the status is 2 for MKA_BAD_ARGUMENT when the argument came from a flag. */
int mka_cli_failure(const mka_error *error, int from_flags);
/* For mka_engine_options; user is the mka_cli. */
void mka_cli_log(void *user, mka_log_level level, const char *message);
/* MKA_LOG and -v. Returns 0, or 2 after an error about MKA_LOG. */
int mka_cli_log_level(mka_cli *cli);

/* 1 when stream (a FILE's descriptor) is a terminal that colours may be sent to, as --color says. */
int mka_cli_colors(const mka_cli *cli, int descriptor);

/* ---- time, progress, interruption ---- */

double mka_cli_now(void); /* seconds, monotonic */
size_t mka_cli_peak_memory(void);
/* Memory of its own that the process has now (mapped files are not); 0 where the system does not say. */
size_t mka_cli_resident_memory(void);
/* "1.5 GiB" and the like, into text. */
const char *mka_cli_size(uint64_t bytes, char text[32]);

/* A bar on standard error for work that will take over two seconds; draws nothing when that is no terminal. */
typedef struct mka_cli_progress {
    const char *what;
    double start, drawn;
    double base, whole; /* work in parts: done before this part, and in all (0: the part is all) */
    int terminal;
} mka_cli_progress;

void mka_cli_progress_start(mka_cli_progress *progress, const char *what);
/* An mka_progress_fn; user is the progress. Returns 1 after Ctrl-C. */
int mka_cli_progress_step(void *user, size_t done, size_t total);
void mka_cli_progress_end(mka_cli_progress *progress);

/* From here on the first Ctrl-C only sets a flag, and the next one kills. Calling it again clears the flag. */
void mka_cli_catch_interrupt(void);
/* Back to being killed by the first one. */
void mka_cli_release_interrupt(void);
int mka_cli_interrupted(void);
/* Whether a kill by Ctrl-C must first set the terminal's colours back. */
void mka_cli_colored(int on);

#endif
