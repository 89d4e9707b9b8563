/* output - results, JSON lines, errors, progress and Ctrl-C. See output.h.
 *
 * The only mutable globals of the program are the flags that its signal handler shares with the rest.
 */
#include "output.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* ---- results ---- */

static int write_failed(mka_cli *cli) {
    if (cli->write_error == 0) cli->write_error = errno != 0 ? errno : EIO;
    return -1;
}

int mka_cli_write(mka_cli *cli, const char *bytes, size_t length) {
    if (cli->write_error != 0) return -1;
    errno = 0;
    return fwrite(bytes, 1, length, stdout) == length ? 0 : write_failed(cli);
}

int mka_cli_flush(mka_cli *cli) {
    if (cli->write_error != 0) return -1;
    errno = 0;
    return fflush(stdout) == 0 ? 0 : write_failed(cli);
}

int mka_cli_print(mka_cli *cli, const char *format, ...) {
    if (cli->write_error != 0) return -1;
    va_list list;
    va_start(list, format);
    errno = 0;
    int written = vprintf(format, list);
    va_end(list);
    return written >= 0 ? 0 : write_failed(cli);
}

int mka_cli_json(mka_cli *cli, json_t *object) {
    char *line = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (line == NULL) {
        cli->write_error = ENOMEM;
        return -1;
    }
    mka_cli_write(cli, line, strlen(line));
    free(line);
    mka_cli_write(cli, "\n", 1);
    return mka_cli_flush(cli);
}

int mka_cli_finish(mka_cli *cli, int status) {
    mka_cli_flush(cli);
    errno = 0;
    if (fclose(stdout) != 0) write_failed(cli);
    if (cli->write_error == 0) return status;
    mka_cli_error("cannot write the answer: %s", strerror(cli->write_error));
    return status == 0 ? 1 : status;
}

/* Length of the valid UTF-8 sequence at s, 0 when there is none. */
static size_t utf8_sequence(const unsigned char *s, size_t length) {
    static const unsigned least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t need = s[0] < 0x80 ? 1 : (s[0] & 0xe0) == 0xc0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : (s[0] & 0xf8) == 0xf0 ? 4 : 0;
    if (need == 0 || need > length) return 0;
    unsigned point = need == 1 ? s[0] : s[0] & (0x7fu >> need);
    for (size_t i = 1; i < need; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        point = point << 6 | (s[i] & 0x3fu);
    }
    return point >= least[need] && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff) ? need : 0;
}

json_t *mka_cli_json_text(const char *bytes, size_t length) {
    if (bytes == NULL) return json_null();
    char *clean = malloc(3 * length + 1);
    if (clean == NULL) return NULL;
    size_t used = 0;
    for (size_t i = 0; i < length;) {
        size_t step = utf8_sequence((const unsigned char *)bytes + i, length - i);
        memcpy(clean + used, step > 0 ? bytes + i : "\xef\xbf\xbd", step > 0 ? step : 3);
        used += step > 0 ? step : 3;
        i += step > 0 ? step : 1;
    }
    json_t *text = json_stringn(clean, used);
    free(clean);
    return text;
}

json_t *mka_cli_json_string(const char *text) {
    return mka_cli_json_text(text, text != NULL ? strlen(text) : 0);
}

json_t *mka_cli_json_real(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *mka_cli_json_ids(const int *ids, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(array, json_integer(ids[i]));
    return array;
}

/* ---- errors and logs ---- */

static void say(const char *format, va_list list) {
    fputs("mka: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
}

int mka_cli_error(const char *format, ...) {
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
    return 1;
}

void mka_cli_note(const char *format, ...) {
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
}

int mka_cli_failure(const mka_error *error, int from_flags) {
    mka_cli_error("%s", error->message[0] != '\0' ? error->message : mka_status_text(error->status));
    return from_flags && error->status == MKA_BAD_ARGUMENT ? 2 : 1;
}

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void mka_cli_log(void *user, mka_log_level level, const char *message) {
    const mka_cli *cli = user;
    if (level > cli->log_level || level < MKA_LOG_ERROR) return;
    fprintf(stderr, "mka: %s: %s\n", level_names[level], message);
}

int mka_cli_log_level(mka_cli *cli) {
    int level = MKA_LOG_WARN;
    const char *asked = getenv("MKA_LOG");
    if (asked != NULL && asked[0] != '\0') {
        for (level = 0; level < 4 && strcmp(level_names[level], asked) != 0;) level++;
        if (level == 4) return mka_cli_usage(NULL, "MKA_LOG=%s: not a level; one of error, warn, info, debug", asked);
    }
    int wanted = cli->options.verbose > 1 ? MKA_LOG_DEBUG : cli->options.verbose > 0 ? MKA_LOG_INFO : MKA_LOG_ERROR;
    cli->log_level = (mka_log_level)(wanted > level ? wanted : level);
    return 0;
}

int mka_cli_colors(const mka_cli *cli, int descriptor) {
    if (cli->options.color != MKA_CLI_COLOR_AUTO) return cli->options.color == MKA_CLI_COLOR_ALWAYS;
    const char *terminal = getenv("TERM"), *none = getenv("NO_COLOR");
    return isatty(descriptor) && (none == NULL || none[0] == '\0') && terminal != NULL && strcmp(terminal, "dumb") != 0;
}

/* ---- time and size ---- */

double mka_cli_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

size_t mka_cli_peak_memory(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

size_t mka_cli_resident_memory(void) {
    char line[256];
    size_t kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "RssAnon: %zu", &kib) == 1) break;
    if (file != NULL) fclose(file);
    return kib * 1024;
}

const char *mka_cli_size(uint64_t bytes, char text[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 6; unit++) value /= 1024;
    snprintf(text, 32, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}

/* ---- progress ---- */

void mka_cli_progress_start(mka_cli_progress *progress, const char *what) {
    memset(progress, 0, sizeof *progress);
    progress->what = what;
    progress->start = mka_cli_now();
    progress->terminal = isatty(STDERR_FILENO);
}

int mka_cli_progress_step(void *user, size_t done, size_t total) {
    enum { WIDTH = 30 };
    mka_cli_progress *progress = user;
    double now = mka_cli_now(), spent = now - progress->start;
    double whole = progress->whole > 0 ? progress->whole : (double)total;
    double part = whole > 0 ? (progress->base + (double)done) / whole : 0;
    int due = progress->drawn > 0 ? now - progress->drawn > 0.1 : spent > 0.5 && (spent > 2 || part < spent / 2);
    if (progress->terminal && due && part > 0) {
        static const char full[] = "##############################", empty[] = "..............................";
        int filled = (int)(part * WIDTH + 0.5);
        if (filled > WIDTH) filled = WIDTH;
        fprintf(stderr, "\r%s [%.*s%.*s] %3.0f %%, %.0f s left\033[K", progress->what, filled, full, WIDTH - filled, empty,
                100 * part, spent / part * (1 - part));
        progress->drawn = now;
    }
    return mka_cli_interrupted();
}

void mka_cli_progress_end(mka_cli_progress *progress) {
    if (progress->drawn > 0) fputs("\r\033[K", stderr);
    progress->drawn = 0;
}

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t interrupted, colored;

static void on_interrupt(int number) {
    if (interrupted) {
        if (colored && write(STDERR_FILENO, "\033[0m\n", 5) < 0) _exit(130);
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    interrupted = 1;
}

void mka_cli_catch_interrupt(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt; /* no SA_RESTART: a read of the user's line ends too */
    interrupted = 0;
    sigaction(SIGINT, &action, NULL);
}

void mka_cli_release_interrupt(void) {
    signal(SIGINT, SIG_DFL);
}

int mka_cli_interrupted(void) {
    return interrupted != 0;
}

void mka_cli_colored(int on) {
    colored = on;
}
