/* reuse - see reuse.h. A file is called OPTIONS-TOKENS.mka: a hash of the model's path and of all that shapes numbers, and one of
 * the ids. Both only keep files apart: what is in them is checked. The oldest files go when the folder grows beyond its limit. */
#include "reuse.h"

#include <mka/device.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LEAST_TOKENS = 1024, CHUNK = 512, HOUR = 3600 };
static const uint64_t folder_limit = (uint64_t)4 << 30;

typedef struct folder {
    char path[3072];
    char prefix[20]; /* of the names that this run's options give */
    size_t chunk;
} folder;

static void warn(const mka_cli *cli, const char *format, ...) MKA_PRINTF(2, 3);
static void warn(const mka_cli *cli, const char *format, ...) {
    char text[700];
    va_list list;
    if (cli->log_level < MKA_LOG_WARN) return;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    mka_cli_note("warn: %s; prompts are not reused (--no-reuse silences this)", text);
}

/* FNV-1a: names only have to differ, what is in the files is compared id by id. */
static uint64_t hash(uint64_t before, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) before = (before ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3U;
    return before;
}

static int make_folders(char *path) {
    for (char *at = path + 1; *at != '\0'; at++) {
        if (*at != '/') continue;
        *at = '\0';
        int failed = mkdir(path, 0700) != 0 && errno != EEXIST;
        *at = '/';
        if (failed) return 0;
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

/* The folder of --sessions, else of the environment. Returns 0, with a warning, where there is none. */
static int open_folder(const mka_cli *cli, const char *computer, int tiered, folder *f) {
    const mka_cli_options *o = &cli->options;
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length = -1;
    if (o->sessions != NULL) {
        length = snprintf(f->path, sizeof f->path, "%s", o->sessions);
    } else if (cache != NULL && cache[0] == '/') {
        length = snprintf(f->path, sizeof f->path, "%s/mka/sessions", cache);
    } else if (home != NULL && home[0] == '/') {
        length = snprintf(f->path, sizeof f->path, "%s/.cache/mka/sessions", home);
    }
    if (length <= 0) return 0; /* no home: nothing to keep things in */
    if (length >= (int)sizeof f->path || !make_folders(f->path)) {
        warn(cli, "cannot make %s: %s", f->path, strerror(errno));
        return 0;
    }
    const mka_recall *recall = &o->plan.recall;
    char text[800];
    f->chunk = o->chunk > 0 ? (size_t)o->chunk : CHUNK;
    int length_of_text = snprintf(text, sizeof text, "%s %s %zu %d %d %d %d %d %d %d %d %d %g %d %g %g %d", mka_version(),
                                  computer, f->chunk, o->exact, o->mla, o->key_type, o->value_type, tiered, o->plan.window,
                                  (int)o->plan.key_type, (int)o->plan.value_type, (int)recall->contract, (double)recall->share,
                                  recall->tokens, (double)recall->eps, (double)o->level_threshold, o->bank);
    uint64_t options = hash(0xcbf29ce484222325U, text, (size_t)length_of_text);
    snprintf(f->prefix, sizeof f->prefix, "%016llx-", (unsigned long long)hash(options, o->model, strlen(o->model)));
    return 1;
}

static int ends_with(const char *name, const char *end) {
    size_t length = strlen(name), tail = strlen(end);
    return length >= tail && strcmp(name + length - tail, end) == 0;
}

/* ---- finding ---- */

/* Tokens of the file that the session could take over: all of it, or, where a session can be cut back, whole chunks. */
static size_t usable(const folder *f, const mka_session *session, const char *path, const int *ids, size_t count) {
    mka_session_file about;
    mka_error error;
    size_t common;
    if (mka_session_match(session, path, ids, count, &common, &error) != MKA_OK || common == 0) return 0;
    if (mka_session_peek(path, &about, &error) != MKA_OK) return 0;
    if (common < (size_t)about.tokens && about.tiered) return 0;
    return common / f->chunk * f->chunk;
}

static size_t find_best(const folder *f, const mka_session *session, const int *ids, size_t count, char *best, size_t room) {
    DIR *dir = opendir(f->path);
    size_t most = 0;
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char path[3600];
        if (strncmp(entry->d_name, f->prefix, strlen(f->prefix)) != 0 || !ends_with(entry->d_name, ".mka")) continue;
        snprintf(path, sizeof path, "%s/%s", f->path, entry->d_name);
        size_t tokens = usable(f, session, path, ids, count);
        if (tokens <= most) continue;
        most = tokens;
        snprintf(best, room, "%s", path);
    }
    if (dir != NULL) closedir(dir);
    return most;
}

/* Takes what the folder has of the first count ids; returns how many that are. */
static size_t take(const mka_cli *cli, const folder *f, mka_session *session, const int *ids, size_t count) {
    char path[3600];
    mka_error error;
    size_t tokens = find_best(f, session, ids, count, path, sizeof path);
    if (tokens == 0) return 0;
    if (mka_session_load(session, path, &error) != MKA_OK) {
        warn(cli, "%s", error.message);
        unlink(path); /* damaged: it would be found again every time */
        return 0;
    }
    utimensat(AT_FDCWD, path, NULL, 0); /* used just now */
    if (mka_session_truncate(session, (int)tokens, &error) == MKA_OK) return tokens;
    mka_session_truncate(session, 0, &error); /* a model whose sessions cannot be cut back */
    return 0;
}

/* ---- keeping ---- */

/* Removes files, those first that were not used for the longest time, until the rest takes limit bytes at most. Names that other
 * programs gave are neither counted nor touched. */
static void shrink(const folder *f, uint64_t limit) {
    for (;;) {
        DIR *dir = opendir(f->path);
        uint64_t all = 0;
        char path[3600], oldest[3600] = "";
        struct timespec least = {0, 0};
        for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
            struct stat about;
            int partial = ends_with(entry->d_name, ".mka.partial");
            snprintf(path, sizeof path, "%s/%s", f->path, entry->d_name);
            if ((!partial && !ends_with(entry->d_name, ".mka")) || stat(path, &about) != 0) continue;
            if (partial && time(NULL) - about.st_mtime > HOUR) unlink(path); /* its process was killed */
            all += (uint64_t)about.st_size;
            if (partial ||
                (oldest[0] != '\0' && (about.st_mtim.tv_sec > least.tv_sec ||
                                       (about.st_mtim.tv_sec == least.tv_sec && about.st_mtim.tv_nsec >= least.tv_nsec))))
                continue;
            least = about.st_mtim;
            memcpy(oldest, path, sizeof oldest);
        }
        if (dir != NULL) closedir(dir);
        if (all <= limit || oldest[0] == '\0' || unlink(oldest) != 0) return;
    }
}

static void keep(const mka_cli *cli, const folder *f, mka_session *session, const int *ids, size_t count) {
    char path[3600];
    mka_session_usage usage;
    mka_error error;
    mka_session_get_usage(session, &usage);
    if (usage.cache_bytes > folder_limit / 2) return; /* it would drive out everything else */
    snprintf(path, sizeof path, "%s/%s%016llx.mka", f->path, f->prefix,
             (unsigned long long)hash(0xcbf29ce484222325U, ids, count * sizeof *ids));
    if (mka_session_save(session, path, &error) != MKA_OK)
        warn(cli, "%s", error.message);
    else
        shrink(f, folder_limit);
}

/* What computes, as far as other numbers come of it: the CPU's kernels, and the device and how much of the model it may take. */
static void name_computer(const mka_cli *cli, const mka_engine *engine, char *text, size_t room) {
    mka_machine machine;
    mka_device_info device;
    mka_engine_machine(engine, &machine);
    if (mka_engine_get_device(engine, &device))
        snprintf(text, room, "%s %s %s %s %llu", machine.level, device.platform, device.name, device.driver,
                 (unsigned long long)cli->options.device_memory);
    else
        snprintf(text, room, "%s", machine.level);
}

int mka_cli_reuse(mka_cli *cli, const mka_engine *engine, mka_session *session, const int *ids, size_t count,
                  mka_cli_reused *reused) {
    folder f;
    mka_error error = {0};
    mka_cli_progress progress;
    char computer[500];
    *reused = (mka_cli_reused){.done = 0};
    if (cli->options.no_reuse || cli->options.bank_files > 0 || count < LEAST_TOKENS || mka_session_length(session) > 0) return 0;
    name_computer(cli, engine, computer, sizeof computer);
    if (!open_folder(cli, computer, mka_session_is_tiered(session), &f)) return 0;
    size_t whole = (count - 1) / f.chunk * f.chunk;
    reused->done = take(cli, &f, session, ids, whole);
    if (reused->done >= whole) return 0;
    mka_cli_progress_start(&progress, "reading");
    progress.base = (double)reused->done;
    progress.whole = (double)count;
    mka_status status =
        mka_session_eval(session, ids + reused->done, whole - reused->done, NULL, mka_cli_progress_step, &progress, &error);
    mka_cli_progress_end(&progress);
    reused->seconds = mka_cli_now() - progress.start;
    reused->evaluated = (size_t)mka_session_length(session) - reused->done;
    reused->done += reused->evaluated;
    if (status == MKA_CANCELLED) return 0; /* what follows is cancelled at once too, and says so */
    if (status != MKA_OK) return mka_cli_failure(&error, 0);
    keep(cli, &f, session, ids, whole);
    return 0;
}
