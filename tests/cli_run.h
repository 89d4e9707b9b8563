/* cli_run - the program run as a process of its own, for the tests of the command line: what it was given, and what it said. */
#ifndef MKA_TESTS_CLI_RUN_H
#define MKA_TESTS_CLI_RUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bytes.h"

enum { ROOM = 1 << 20, MOST_WORDS = 32 };

static struct {
    const char *program, *golden;
    char cache[64];   /* a folder that stands for the user's cache */
    char model[4096]; /* a tiny llama, or empty */
    char out[ROOM], err[ROOM];
    int status;
} run;

typedef enum stream { TO_FILE, TO_NOWHERE, TO_FULL } stream;

/* ---- running ---- */

static inline void read_back(FILE *file, char *text) {
    rewind(file);
    text[fread(text, 1, ROOM - 1, file)] = '\0';
    fclose(file);
}

static inline void child(char **argv, FILE *in, FILE *out, FILE *err, stream to) {
    dup2(fileno(in), 0);
    dup2(fileno(err), 2);
    if (to == TO_FILE) dup2(fileno(out), 1);
    if (to == TO_NOWHERE) close(1);
    if (to == TO_FULL) dup2(open("/dev/full", O_WRONLY), 1);
    unsetenv("MKA_LOG");
    setenv("XDG_CACHE_HOME", run.cache, 1);
    execv(argv[0], argv);
    _exit(99);
}

/* Runs "mka WORDS..." (ended by NULL) with input on its standard input. The outcome is in run. */
static inline void mka_to(stream to, const char *input, const char *const *words) {
    char *argv[MOST_WORDS + 2] = {(char *)run.program};
    FILE *in = tmpfile(), *out = tmpfile(), *err = tmpfile();
    assert_true(in != NULL && out != NULL && err != NULL);
    for (int i = 0; words[i] != NULL && i < MOST_WORDS; i++) argv[i + 1] = (char *)words[i];
    fputs(input, in);
    rewind(in);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) child(argv, in, out, err, to);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    fclose(in);
    read_back(out, run.out);
    read_back(err, run.err);
    run.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define MKA(...) mka_to(TO_FILE, "", (const char *const[]){__VA_ARGS__, NULL})

/* The status, and what standard error must hold ("" for anything). */
static inline void expect(int status, const char *said) {
    if (run.status == status && strstr(run.err, said) != NULL) return;
    fail_msg("exit status %d (expected %d), standard error '%s' (expected '%s' in it)", run.status, status, run.err, said);
}

static inline json_t *json_out(void) {
    json_error_t at;
    json_t *object = json_loads(run.out, 0, &at);
    if (object == NULL) fail_msg("not one JSON object: %s in '%s'", at.text, run.out);
    return object;
}

/* Line number index of the output, one object a line. */
static inline json_t *json_line(int index) {
    const char *at = run.out;
    json_error_t error;
    for (; index > 0 && at != NULL; index--) at = strchr(at, '\n') != NULL ? strchr(at, '\n') + 1 : NULL;
    json_t *object = at != NULL ? json_loads(at, JSON_DISABLE_EOF_CHECK, &error) : NULL;
    if (object == NULL) fail_msg("line %d is no JSON object: '%s'", index, run.out);
    return object;
}

static inline int count_lines(void) {
    int count = 0;
    for (const char *c = run.out; *c != '\0'; c++) count += *c == '\n';
    return count;
}

static inline void has_fields(const json_t *object, const char *const *fields) {
    for (; *fields != NULL; fields++) {
        if (json_object_get(object, *fields) == NULL) fail_msg("field '%s' is missing in %s", *fields, run.out);
    }
}

static inline void need_model(void) {
    if (run.model[0] != '\0') return;
    print_message("skipped: no golden models beside the project\n");
    skip();
}

/* Takes the program's path and the folder of golden files; 0 where the arguments are wrong. What follows is undone by close_run.
 */
static inline int open_run(int argc, char **argv) {
    static char golden[4000];
    const char *shared = getenv("MKA_SHARED");
    if (argc != 2) {
        fprintf(stderr, "usage: MKA_SHARED=FOLDER %s PROGRAM\n", argv[0]);
        return 0;
    }
    snprintf(golden, sizeof golden, "%s/golden", shared != NULL ? shared : ".");
    run.program = argv[1];
    run.golden = golden;
    snprintf(run.model, sizeof run.model, "%s/models/arch-llama.gguf", run.golden);
    if (access(run.model, R_OK) != 0) run.model[0] = '\0';
    signal(SIGPIPE, SIG_IGN);
    make_folder(run.cache);
    return 1;
}

static inline void close_run(void) {
    remove_folder(run.cache);
}

#endif
