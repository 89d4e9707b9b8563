/* memory - saved sessions and memories: what a folder has of them, and several made one. */
#include "commands.h"
#include "resume.h"
#include "setup.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* ---- list ---- */

/* What is shown of a file. */
typedef struct entry {
    const char *path, *kind;
    mka_session_file about;
    char saved[32], words[200];
} entry;

/* Files of other programs are passed over in a folder, and not opened further. */
static int is_snapshot(const char *path) {
    char magic[8] = "";
    struct stat about;
    if (stat(path, &about) != 0 || !S_ISREG(about.st_mode)) return 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) return 0;
    size_t bytes = fread(magic, 1, sizeof magic, file);
    fclose(file);
    return bytes == sizeof magic && memcmp(magic, "mka-snap", sizeof magic) == 0;
}

/* One line of text: control characters become spaces, a character that is cut at the end goes. */
static void clean(const char *text, size_t length, char *line, size_t room) {
    size_t used = length < room - 1 ? length : room - 1;
    for (size_t i = 0; i < used; i++) line[i] = (unsigned char)text[i] < ' ' || text[i] == 127 ? ' ' : text[i];
    size_t end = used;
    while (end > 0 && ((unsigned char)line[end - 1] & 0xc0) == 0x80) end--;
    if (end > 0 && (unsigned char)line[end - 1] >= 0xc0) {
        unsigned char lead = (unsigned char)line[end - 1];
        size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
        if (used - (end - 1) < wanted) used = end - 1;
    }
    line[used] = '\0';
}

static int look_at_session(entry *e) {
    mka_cli_kept note;
    int status = mka_cli_resume_note(e->path, &note);
    if (status == 0 && note.words != NULL) clean(note.words, note.words_length, e->words, sizeof e->words);
    mka_cli_kept_free(&note);
    return status;
}

static int look_at(entry *e) {
    mka_error error = {0}, other;
    mka_memory_options options;
    struct stat about;
    e->kind = "session";
    mka_status status = mka_session_peek(e->path, &e->about, &error);
    if (status != MKA_OK && mka_memory_peek(e->path, &options, &other) == MKA_OK) {
        e->kind = "memory";
        e->about = (mka_session_file){.tokens = options.context,
                                      .layers = options.layers,
                                      .key_type = options.local,
                                      .value_type = options.local,
                                      .tiered = 1,
                                      .plan = options.plan};
        status = MKA_OK;
    } else if (status == MKA_OK) {
        int failed = look_at_session(e);
        if (failed != 0) return failed;
    }
    if (status != MKA_OK) return mka_cli_failure(&error, 0);
    if (stat(e->path, &about) != 0) return mka_cli_error("%s: %s", e->path, strerror(errno));
    struct tm when;
    e->about.bytes = (uint64_t)about.st_size;
    if (gmtime_r(&about.st_mtime, &when) != NULL) strftime(e->saved, sizeof e->saved, "%Y-%m-%dT%H:%M:%SZ", &when);
    return 0;
}

static void print_entry(mka_cli *cli, const entry *e, int *headed) {
    const mka_session_file *a = &e->about;
    char cache[32], size[32], model[24] = "-";
    snprintf(cache, sizeof cache, "%s/%s", mka_cli_type_name(a->key_type), mka_cli_type_name(a->value_type));
    if (strcmp(e->kind, "session") == 0) snprintf(model, sizeof model, "%016llx", (unsigned long long)a->model);
    if (cli->options.json) {
        mka_cli_json(
            cli, json_pack("{s:o, s:s, s:i, s:i, s:s, s:s, s:s, s:o, s:o, s:o, s:I, s:s, s:o, s:o}", "file",
                           mka_cli_json_string(e->path), "kind", e->kind, "tokens", a->tokens, "layers", a->layers, "key_type",
                           mka_cli_type_name(a->key_type), "value_type", mka_cli_type_name(a->value_type), "memory",
                           a->tiered ? "tiered" : "dense", "window", a->tiered ? json_integer(a->plan.window) : json_null(),
                           "longterm_key_type", a->tiered ? json_string(mka_cli_type_name(a->plan.key_type)) : json_null(),
                           "longterm_value_type", a->tiered ? json_string(mka_cli_type_name(a->plan.value_type)) : json_null(),
                           "bytes", (json_int_t)a->bytes, "saved", e->saved, "model",
                           model[0] == '-' ? json_null() : json_string(model), "words",
                           e->words[0] != '\0' ? mka_cli_json_string(e->words) : json_null()));
        return;
    }
    if (!*headed)
        mka_cli_print(cli, "%-8s %9s %6s %-9s %-6s %10s  %-20s %-16s  %s\n", "kind", "tokens", "layers", "cache", "memory",
                      "size", "saved", "model", "file");
    *headed = 1;
    mka_cli_print(cli, "%-8s %9d %6d %-9s %-6s %10s  %-20s %-16s  %s\n", e->kind, a->tokens, a->layers, cache,
                  a->tiered ? "tiered" : "dense", mka_cli_size(a->bytes, size), e->saved, model, e->path);
    if (e->words[0] != '\0') mka_cli_print(cli, "         \"%s\"\n", e->words);
}

static int list_file(mka_cli *cli, const char *path, int *headed) {
    entry e = {.path = path};
    int status = look_at(&e);
    if (status == 0) print_entry(cli, &e, headed);
    return status;
}

/* The files of a folder by name. One that is damaged is told of, and the others shown all the same. */
static int list_folder(mka_cli *cli, const char *folder, int *headed) {
    struct dirent **names;
    int count = scandir(folder, &names, NULL, alphasort), status = 0;
    if (count < 0) return mka_cli_error("cannot read %s: %s", folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        char path[PATH_MAX];
        int length = snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        if (length < (int)sizeof path && is_snapshot(path) && list_file(cli, path, headed) != 0) status = 1;
        free(names[i]);
    }
    free(names);
    return status;
}

int mka_cli_memory_list(mka_cli *cli) {
    int status = 0, headed = 0;
    if (cli->options.argument_count == 0) return mka_cli_usage("memory list", "which folder or files?");
    for (int i = 0; i < cli->options.argument_count; i++) {
        const char *path = cli->options.arguments[i];
        struct stat about;
        int folder = stat(path, &about) == 0 && S_ISDIR(about.st_mode);
        if ((folder ? list_folder(cli, path, &headed) : list_file(cli, path, &headed)) != 0) status = 1;
    }
    if (status == 0 && !headed && !cli->options.json) mka_cli_note("no saved session or memory there");
    return status;
}

/* ---- merge ---- */

/* The tokens of all files; types, window and kind of memory become the first one's. */
static int measure(mka_cli *cli, long long *tokens) {
    for (int i = 1; i < cli->options.argument_count; i++) {
        mka_session_file about;
        mka_error error = {0};
        if (mka_session_peek(cli->options.arguments[i], &about, &error) != MKA_OK) return mka_cli_failure(&error, 0);
        *tokens += about.tokens;
    }
    if (*tokens > 1 << 27) return mka_cli_error("the files have %lld tokens; a session has room for %d", *tokens, 1 << 27);
    cli->options.load_session = cli->options.arguments[1];
    int first;
    return mka_cli_resume_peek(cli, "memory merge", &first);
}

static int merge(mka_cli *cli, mka_model *model, mka_session *session, json_t *parts) {
    mka_error error = {0};
    mka_cli_progress progress;
    int count = cli->options.argument_count, status = 0;
    mka_cli_progress_start(&progress, "merging");
    for (int i = 1; i < count && status == 0; i++) {
        const char *path = cli->options.arguments[i];
        int first = mka_session_length(session);
        if (i > 1)
            status = mka_cli_resume_append(model, path, session);
        else if (mka_session_load(session, path, &error) != MKA_OK)
            status = mka_cli_failure(&error, 0);
        if (status == 0)
            json_array_append_new(parts, json_pack("{s:o, s:i, s:i}", "file", mka_cli_json_string(path), "first", first, "tokens",
                                                   mka_session_length(session) - first));
        if (status == 0 && mka_cli_progress_step(&progress, (size_t)i, (size_t)count)) status = 130;
    }
    mka_cli_progress_end(&progress);
    return status;
}

int mka_cli_memory_merge(mka_cli *cli) {
    mka_engine *engine = NULL;
    mka_model *model = NULL;
    mka_session *session = NULL;
    mka_cli_kept note = {.pending = -1};
    long long tokens = 0;
    if (cli->options.argument_count < 3)
        return mka_cli_usage("memory merge", "give the file to write, then two or more saved sessions");
    const char *out = cli->options.arguments[0];
    json_t *parts = json_array();
    int status = measure(cli, &tokens);
    if (status == 0) status = mka_cli_open_engine(cli, &engine);
    if (status == 0) status = mka_cli_open_model(cli, "memory merge", engine, 0, &model);
    if (status == 0) status = mka_cli_open_session(cli, model, tokens > 0 ? (int)tokens : 1, &session);
    mka_cli_catch_interrupt();
    if (status == 0) status = merge(cli, model, session, parts);
    if (status == 0) status = mka_cli_resume_save(model, session, out, &note);
    if (status == 0 && cli->options.json)
        mka_cli_json(cli, json_pack("{s:o, s:i, s:O}", "file", mka_cli_json_string(out), "tokens", mka_session_length(session),
                                    "parts", parts));
    else if (status == 0)
        mka_cli_note("%s: %d tokens of %d sessions", out, mka_session_length(session), cli->options.argument_count - 1);
    json_decref(parts);
    mka_session_destroy(session);
    mka_model_destroy(model);
    mka_engine_destroy(engine);
    return status;
}
