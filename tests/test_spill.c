/* test_spill - long-term rows in a spill file: answers are those of memory alone, memory stays within its limit, whatever goes
 * wrong with the file is said and can be gone on from, and nothing stays in the folder. MKA_KILLS: processes that are killed. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <mka/session.h>

#include "bytes.h"
#include "emulated.h"
#include "memory/spill.h"

enum { HEADS = 8, KV_HEADS = 4, DIM = 32, TOKENS = 12000, WIDTH = KV_HEADS * DIM, CHUNK = 500 };

static mka_engine *engine;
static char folder[64];
static float *noise; /* [TOKENS + CHUNK][WIDTH] keys; values begin CHUNK tokens later */

static uint64_t state = 9;

static float uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) * 0x1p-23F - 1;
}

static mka_engine *engine_of(int threads) {
    mka_engine_options options;
    mka_engine *made;
    mka_engine_defaults(&options);
    options.threads = threads;
    options.bind = 0;
    return mka_engine_create(&options, &made, NULL) ? NULL : made;
}

static int make_noise(void) {
    noise = malloc((size_t)(TOKENS + CHUNK) * WIDTH * sizeof *noise);
    for (size_t i = 0; noise && i < (size_t)(TOKENS + CHUNK) * WIDTH; i++) noise[i] = uniform();
    return noise != NULL;
}

static int start(void **data) {
    (void)data;
    make_folder(folder);
    if (!make_noise()) return 1;
    engine = engine_of(2);
    return engine == NULL;
}

static int stop(void **data) {
    (void)data;
    mka_engine_destroy(engine);
    free(noise);
    remove_folder(folder);
    return 0;
}

static void ok(mka_status status, const mka_error *error) {
    if (status != MKA_OK) fail_msg("%s", error->message);
}

static void fails(mka_status got, const mka_error *error, mka_status status, const char *text) {
    if (got != status || !strstr(error->message, text)) fail_msg("%d: %s\nexpected %d: %s", got, error->message, status, text);
}

static int entries(void) {
    DIR *dir = opendir(folder);
    int count = 0;
    assert_non_null(dir);
    while (readdir(dir)) count++;
    closedir(dir);
    return count - 2;
}

static mka_memory_options options_of(uint64_t ram, const char *spill) {
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.heads = HEADS, o.kv_heads = KV_HEADS, o.head_dim = DIM, o.context = TOKENS, o.queries = CHUNK;
    o.plan.window = 128;
    o.plan.ram = ram;
    o.plan.spill = spill;
    return o;
}

/* The least that a memory of these options runs with, as its message says. */
static uint64_t least(const mka_memory_options *options) {
    mka_memory_options o = *options;
    mka_memory *memory;
    mka_error error;
    double number = 0;
    char unit[8] = "";
    o.plan.ram = 1;
    o.plan.spill = folder;
    fails(mka_memory_create(engine, &o, &memory, &error), &error, MKA_BAD_ARGUMENT, "1 bytes of RAM is too little");
    assert_null(memory);
    const char *at = strstr(error.message, "at least ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "at least %lf %7s", &number, unit), 2);
    assert_string_equal(unit, "MiB");
    return (uint64_t)((number + 0.1) * 1048576);
}

static mka_memory *made(const mka_memory_options *o) {
    mka_memory *memory;
    mka_error error;
    ok(mka_memory_create(engine, o, &memory, &error), &error);
    return memory;
}

static void append(mka_memory *m, int at, int n) {
    mka_error error;
    ok(mka_memory_append(m, 0, n, noise + (size_t)at * WIDTH, noise + (size_t)(at + CHUNK) * WIDTH, &error), &error);
}

/* Queries that look for some far token each. */
static void make_queries(int at, float *queries) {
    for (int i = 0; i < CHUNK * HEADS; i++) {
        size_t liked = (size_t)(i * 7919 % (at + 1)) * WIDTH;
        for (int e = 0; e < DIM; e++)
            queries[i * DIM + e] = 6 * noise[liked + (size_t)(i % HEADS / (HEADS / KV_HEADS) * DIM + e)];
    }
}

/* ---- the same answers ---- */

static void spilling_changes_no_answer(void **data) {
    (void)data;
    static const mka_recall rules[] = {
        {.contract = MKA_RECALL_ESTIMATED}, {.contract = MKA_RECALL_CERTIFIED, .eps = 0.01F}, {.contract = MKA_RECALL_DENSE}};
    mka_memory_options plain = options_of(0, NULL), small = plain;
    small.plan.ram = least(&plain);
    small.plan.spill = folder;
    float *queries = malloc(sizeof(float) * CHUNK * HEADS * DIM), *out[3];
    for (int i = 0; i < 3; i++) out[i] = malloc(sizeof(float) * CHUNK * HEADS * DIM);
    mka_memory *memories[3] = {made(&plain), made(&small), made(&small)}; /* two in one folder at once */
    mka_used used = {.queries = 0};
    mka_error error;
    for (int at = 0; at < TOKENS; at += CHUNK) {
        make_queries(at, queries);
        for (int i = 0; i < 3; i++) {
            append(memories[i], at, CHUNK);
            ok(mka_memory_set_recall(memories[i], &rules[at / CHUNK % 3], &error), &error);
            ok(mka_memory_attend(memories[i], 0, at % 1500 ? 3 : 40, queries, out[i], i == 1 ? &used : NULL, &error), &error);
        }
        size_t bytes = sizeof(float) * (at % 1500 ? 3 : 40) * HEADS * DIM;
        assert_memory_equal(out[0], out[1], bytes);
        assert_memory_equal(out[0], out[2], bytes);
    }
    assert_true(used.spill_bytes > (uint64_t)TOKENS * WIDTH); /* it went to the file and back */
    assert_int_equal(entries(), 0);                           /* which has no name */
    const char *path = in_folder(folder, "saved");
    ok(mka_memory_save(memories[1], path, &error), &error);
    mka_memory_reset(memories[2]);
    ok(mka_memory_load(memories[2], path, &error), &error);
    for (int i = 0; i < 3; i++) ok(mka_memory_attend(memories[i], 0, 5, queries, out[i], NULL, &error), &error);
    assert_memory_equal(out[0], out[2], sizeof(float) * 5 * HEADS * DIM);
    unlink(path);
    for (int i = 0; i < 3; i++) {
        mka_memory_destroy(memories[i]);
        free(out[i]);
    }
    free(queries);
}

static void sessions_spill(void **data) {
    (void)data;
    enum { FILL = 12000, ANSWER = 60 };
    mka_model *model;
    mka_session *sessions[2];
    mka_session_options o;
    mka_error error;
    static float logits[2][256];
    int ids[4] = {1, 200, 3, 77};
    ok(mka_model_random(engine, "tiny", MKA_Q8_0, NULL, 3, &model, &error), &error);
    mka_session_defaults(&o);
    o.context = FILL + ANSWER + 200;
    o.memory = MKA_MEMORY_TIERED;
    o.chunk = 64;
    o.plan.window = 128;
    ok(mka_session_create(model, &o, &sessions[0], &error), &error);
    o.plan.ram = 1;
    o.plan.spill = folder;
    fails(mka_session_create(model, &o, &sessions[1], &error), &error, MKA_BAD_ARGUMENT, "this context needs at least");
    double number = 0;
    assert_int_equal(sscanf(strstr(error.message, "at least "), "at least %lf MiB", &number), 1);
    o.plan.ram = (uint64_t)((number + 0.1) * 1048576);
    ok(mka_session_create(model, &o, &sessions[1], &error), &error);
    for (int i = 0; i < 2; i++) {
        ok(mka_session_fill(sessions[i], FILL, 5, &error), &error);
        ok(mka_session_eval(sessions[i], ids, 4, logits[i], NULL, NULL, &error), &error);
    }
    for (int step = 0; step < ANSWER; step++) {
        int token = 0;
        assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
        for (int i = 1; i < 256; i++) token = logits[0][i] > logits[0][token] ? i : token;
        for (int i = 0; i < 2; i++) ok(mka_session_eval(sessions[i], &token, 1, logits[i], NULL, NULL, &error), &error);
    }
    mka_used used;
    mka_session_get_used(sessions[1], &used);
    assert_true(used.spill_bytes > 0);
    mka_session_destroy(sessions[0]);
    mka_session_destroy(sessions[1]);
    mka_model_destroy(model);
}

/* ---- the file ---- */

/* The descriptor of the nameless file in the folder. */
static int spill_handle(void) {
    for (int handle = 3; handle < 256; handle++) {
        char link[64], path[512];
        snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0 && !strncmp(path, folder, strlen(folder))) return handle;
    }
    fail_msg("no open file in %s", folder);
    return -1;
}

enum { PARTS = 2, RECORDS = 1500 };

static void fill_record(unsigned char *bytes, size_t size, int part, int index, int version) {
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(i * 31 + (size_t)(part * 7 + index * 13 + version * 101) + i / 251);
}

static off_t blocks_of(int handle, off_t *size) {
    struct stat about;
    assert_int_equal(fstat(handle, &about), 0);
    *size = about.st_size;
    return about.st_blocks * 512;
}

/* Records of two sizes are written, written again, forgotten and read in any order; the file takes no more room than what is held
 * and is written by the megabyte. */
static void records_come_back(void **data) {
    (void)data;
    static const size_t sizes[PARTS] = {17408, 4160};
    static int versions[PARTS][RECORDS];
    static unsigned char expected[17408];
    mka_spill *spill;
    mka_spill_part parts[PARTS];
    mka_error error;
    uint64_t writes;
    off_t size, held = 0;
    int next = 1;
    ok(mka_spill_create(folder, sizes[0], 300, NULL, &spill, &error), &error);
    for (int p = 0; p < PARTS; p++) ok(mka_spill_add(spill, sizes[p], RECORDS, 1, RECORDS, &parts[p], &error), &error);
    for (int step = 0; step < 2000; step++) {
        int p = (int)(fabsf(uniform()) * PARTS), i = (int)(fabsf(uniform()) * RECORDS), kind = (int)(fabsf(uniform()) * 10);
        if (kind < 4) { /* a run of records, as blocks close */
            for (int end = i + 40 < RECORDS ? i + 40 : RECORDS; i < end; i++, next++) {
                unsigned char *bytes = mka_spill_put(&parts[p], (size_t)i, &error);
                assert_non_null(bytes);
                fill_record(bytes, sizes[p], p, i, next);
                ok(mka_spill_commit(&parts[p], (size_t)i, &error), &error);
                versions[p][i] = next;
            }
        } else if (kind == 9 && step % 8 == 0) {
            mka_spill_forget(&parts[p], (size_t)i, (size_t)(RECORDS - i));
            memset(versions[p] + i, 0, (size_t)(RECORDS - i) * sizeof **versions);
        } else if (versions[p][i]) {
            mka_spill_ask(&parts[p], (size_t)i);
            const unsigned char *bytes = mka_spill_get(&parts[p], (size_t)i, &error);
            if (!bytes) fail_msg("%s", error.message);
            fill_record(expected, sizes[p], p, i, versions[p][i]);
            assert_memory_equal(bytes, expected, sizes[p]);
            mka_spill_release(&parts[p], (size_t)i);
        }
    }
    for (int p = 0; p < PARTS; p++)
        for (int i = 0; i < RECORDS; i++)
            if (versions[p][i]) held += p ? 8192 : 20480;
    assert_true(blocks_of(spill_handle(), &size) <= held + (2 << 20));
    uint64_t written = mka_spill_bytes_written(spill, &writes);
    assert_true(written / writes > 500000);
    for (int p = 0; p < PARTS; p++) mka_spill_forget(&parts[p], 0, RECORDS);
    assert_true(blocks_of(spill_handle(), &size) <= 1 << 16);
    print_message("%d records written in %d writes, a file of %d MiB\n", next, (int)writes, (int)(size >> 20));
    for (int p = 0; p < PARTS; p++) mka_spill_remove(&parts[p]);
    mka_spill_destroy(spill);
}

/* ---- what goes wrong ---- */

static void bad_limits_are_named(void **data) {
    (void)data;
    mka_memory_options o = options_of(0, folder);
    mka_memory *memory;
    mka_error error;
    fails(mka_memory_create(engine, &o, &memory, &error), &error, MKA_BAD_ARGUMENT, "needs a limit of RAM");
    o.plan.ram = least(&o) - (1 << 20);
    fails(mka_memory_create(engine, &o, &memory, &error), &error, MKA_BAD_ARGUMENT, "at least");
    o.plan.ram += 1 << 20;
    o.plan.spill = NULL;
    fails(mka_memory_create(engine, &o, &memory, &error), &error, MKA_BAD_ARGUMENT, "or a folder to spill to and at least");
    o.plan.spill = in_folder(folder, "none");
    fails(mka_memory_create(engine, &o, &memory, &error), &error, MKA_IO, "No such file or directory");
    o.plan.spill = write_file(folder, "file", "x", 1);
    fails(mka_memory_create(engine, &o, &memory, &error), &error, MKA_IO, "Not a directory");
    unlink(o.plan.spill);
    o.plan.spill = "/proc";
    fails(mka_memory_create(engine, &o, &memory, &error), &error, MKA_IO, "no spill file can be made in /proc");
    o.plan.ram = (uint64_t)1 << 30;
    o.plan.spill = in_folder(folder, "none"); /* not needed, not looked at */
    mka_memory_destroy(made(&o));
}

/* A record written to spill; 1 where it could not be kept. */
static int keep(mka_spill_part *part, int index, mka_error *error) {
    unsigned char *bytes = mka_spill_put(part, (size_t)index, error);
    if (!bytes) return 1;
    fill_record(bytes, part->bytes, 0, index, 0);
    return mka_spill_commit(part, (size_t)index, error) != MKA_OK;
}

/* In a process of its own with a file system of 3 MiB at path: 0, or the line that did not hold; -1 where it cannot be mounted.
 */
static int run_on_small_disk(const char *path) {
    enum { COUNT = 600, SIZE = 17408 };
    static unsigned char expected[SIZE];
    mka_spill *spill, *none;
    mka_spill_part part;
    mka_error error;
    int kept = 0, full = 0;
    if (unshare(CLONE_NEWNS | (geteuid() ? CLONE_NEWUSER : 0)) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("none", path, "tmpfs", 0, "size=3m"))
        return -1;
    if (mka_spill_create(path, SIZE, 260, NULL, &spill, &error) || mka_spill_add(spill, SIZE, COUNT, 1, COUNT, &part, &error))
        return __LINE__;
    while (kept < COUNT && !(full = keep(&part, kept, &error))) kept++;
    if (!full || kept < 100 || error.status != MKA_IO || !strstr(error.message, "No space left on device")) return __LINE__;
    if (!keep(&part, kept, &error) || error.status != MKA_IO) return __LINE__; /* still */
    for (int i = 0; i < kept; i++) {
        const unsigned char *bytes = mka_spill_get(&part, (size_t)i, &error);
        fill_record(expected, SIZE, 0, i, 0);
        if (!bytes || memcmp(bytes, expected, SIZE)) return __LINE__;
        mka_spill_release(&part, (size_t)i);
    }
    mka_spill_forget(&part, 0, 120); /* two extents: there is room again */
    for (int end = kept + 60; kept < end; kept++)
        if (keep(&part, kept, &error)) return __LINE__;
    if (mount("none", path, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0) return __LINE__; /* a file is open for writing there */
    mka_spill_remove(&part);
    mka_spill_destroy(spill);
    if (mount("none", path, NULL, MS_REMOUNT | MS_RDONLY, NULL)) return __LINE__;
    if (mka_spill_create(path, SIZE, 260, NULL, &none, &error) != MKA_IO || !strstr(error.message, "Read-only file system"))
        return __LINE__;
    return 0;
}

static void small_and_read_only_disks(void **data) {
    (void)data;
    const char *path = in_folder(folder, "disk");
    int status;
    assert_int_equal(mkdir(path, 0700), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int line = run_on_small_disk(path);
        if (line > 0) fprintf(stderr, "line %d\n", line);
        _exit(line < 0 ? 77 : line > 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    rmdir(path);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: this process may not mount\n");
        skip();
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The folder may go while the file is in use: it has no name there. */
static void removed_folders_do_not_matter(void **data) {
    (void)data;
    enum { COUNT = 700, SIZE = 4160 };
    static unsigned char expected[SIZE];
    const char *path = in_folder(folder, "removed");
    mka_spill *spill;
    mka_spill_part part;
    mka_error error;
    assert_int_equal(mkdir(path, 0700), 0);
    ok(mka_spill_create(path, SIZE, 100, NULL, &spill, &error), &error);
    ok(mka_spill_add(spill, SIZE, COUNT, 1, COUNT, &part, &error), &error);
    assert_int_equal(rmdir(path), 0);
    for (int i = 0; i < COUNT; i++) assert_int_equal(keep(&part, i, &error), 0);
    for (int i = 0; i < COUNT; i++) {
        const unsigned char *bytes = mka_spill_get(&part, (size_t)i, &error);
        if (!bytes) fail_msg("%s", error.message);
        fill_record(expected, SIZE, 0, i, 0);
        assert_memory_equal(bytes, expected, SIZE);
        mka_spill_release(&part, (size_t)i);
    }
    assert_true(mka_spill_bytes_read(spill) > 0);
    mka_spill_remove(&part);
    mka_spill_destroy(spill);
}

/* A full disk in the middle (a limit on the size of files stands for it) is said; with room again the same call goes through. */
static void full_disks_can_be_gone_on_from(void **data) {
    (void)data;
    mka_memory_options plain = options_of(0, NULL), small = plain;
    small.plan.ram = least(&plain);
    small.plan.spill = folder;
    mka_memory *memories[2] = {made(&plain), made(&small)};
    float *queries = malloc(sizeof(float) * CHUNK * HEADS * DIM), out[2][HEADS * DIM];
    struct rlimit old, low;
    mka_error error;
    int failures = 0;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 700000;
    for (int at = 0; at < TOKENS; at += CHUNK) {
        make_queries(at, queries);
        for (int i = 0; i < 2; i++) append(memories[i], at, CHUNK);
        ok(mka_memory_attend(memories[0], 0, 1, queries, out[0], NULL, &error), &error);
        setrlimit(RLIMIT_FSIZE, &low);
        mka_status status = mka_memory_attend(memories[1], 0, 1, queries, out[1], NULL, &error);
        setrlimit(RLIMIT_FSIZE, &old);
        if (status) {
            fails(status, &error, MKA_IO, "cannot write to the spill file in");
            failures++;
            ok(mka_memory_attend(memories[1], 0, 1, queries, out[1], NULL, &error), &error);
        }
        assert_memory_equal(out[0], out[1], sizeof out[0]);
    }
    assert_true(failures > 0);
    mka_memory_destroy(memories[0]);
    mka_memory_destroy(memories[1]);
    free(queries);
}

/* A session whose eval fails holds what it held before, and evaluates the same again. */
static void sessions_survive_full_disks(void **data) {
    (void)data;
    mka_model *model;
    mka_session *session;
    mka_session_options o;
    mka_error error;
    static float logits[2][256];
    enum { COUNT = 1280 }; /* blocks of more than a megabyte, which is what is written at once */
    static int ids[COUNT];
    struct rlimit old, low;
    for (int i = 0; i < COUNT; i++) ids[i] = i * 37 % 256;
    ok(mka_model_random(engine, "tiny", MKA_Q8_0, NULL, 3, &model, &error), &error);
    mka_session_defaults(&o);
    o.context = 14000;
    o.memory = MKA_MEMORY_TIERED;
    o.chunk = 160;
    o.plan.window = 128;
    o.plan.key_type = o.plan.value_type = MKA_F32;
    o.plan.recall.tokens = 16; /* random keys are all alike: without a limit each would be read */
    for (int limited = 0; limited < 2; limited++) {
        if (limited) {
            double number = 0;
            o.plan.ram = 1;
            o.plan.spill = folder;
            fails(mka_session_create(model, &o, &session, &error), &error, MKA_BAD_ARGUMENT, "at least");
            assert_int_equal(sscanf(strstr(error.message, "at least "), "at least %lf MiB", &number), 1);
            o.plan.ram = (uint64_t)((number + 0.1) * 1048576);
        }
        ok(mka_session_create(model, &o, &session, &error), &error);
        ok(mka_session_fill(session, 4000, 5, &error), &error);
        if (limited) {
            getrlimit(RLIMIT_FSIZE, &old);
            low = old;
            low.rlim_cur = 4096;
            setrlimit(RLIMIT_FSIZE, &low);
            mka_status status = mka_session_eval(session, ids, COUNT, NULL, NULL, NULL, &error);
            setrlimit(RLIMIT_FSIZE, &old);
            fails(status, &error, MKA_IO, "cannot write to the spill file in");
            int held = mka_session_length(session) - 4000; /* whole chunks */
            assert_true(held >= 0 && held < COUNT && held % 160 == 0);
            ok(mka_session_eval(session, ids + held, (size_t)(COUNT - held), logits[1], NULL, NULL, &error), &error);
        } else {
            ok(mka_session_eval(session, ids, COUNT, logits[0], NULL, NULL, &error), &error);
        }
        mka_session_destroy(session);
    }
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    mka_model_destroy(model);
}

static void damaged_records_are_found(void **data) {
    (void)data;
    mka_memory_options o = options_of(0, folder);
    o.plan.ram = least(&o);
    mka_memory *memory = made(&o);
    static float queries[CHUNK * HEADS * DIM], out[HEADS * DIM];
    mka_error error;
    for (int at = 0; at < TOKENS; at += CHUNK) {
        append(memory, at, CHUNK);
        ok(mka_memory_attend(memory, 0, 1, queries, out, NULL, &error), &error);
    }
    int handle = spill_handle();
    unsigned char zeros[100] = {0};
    mka_recall all = {.contract = MKA_RECALL_DENSE};
    ok(mka_memory_set_recall(memory, &all, &error), &error);
    ok(mka_memory_attend(memory, 0, 1, queries, out, NULL, &error), &error);
    for (off_t at = 0; at < 8192 * 700; at += 8192) assert_int_equal(pwrite(handle, zeros, sizeof zeros, at + 30), sizeof zeros);
    fails(mka_memory_attend(memory, 0, 1, queries, out, NULL, &error), &error, MKA_IO, "is not what was written");
    assert_int_equal(ftruncate(handle, 0), 0);
    fails(mka_memory_attend(memory, 0, 1, queries, out, NULL, &error), &error, MKA_IO, "cannot read the spill file");
    mka_memory_destroy(memory);
}

/* ---- limits and kills, in processes of their own ---- */

static double anonymous(void) {
    char line[256];
    double kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "RssAnon: %lf", &kib) == 1) break;
    if (file) fclose(file);
    return kib * 1024;
}

/* Fills a context of 60,000 tokens and more; exits with how many per cent of the limit it took at most, or above 200. */
static void run_limited(uint64_t ram) {
    enum { LONG = 60000 };
    mka_memory_options o = options_of(ram, folder);
    mka_memory *memory;
    mka_error error;
    mka_used used = {.queries = 0};
    static float queries[CHUNK * HEADS * DIM], out[HEADS * DIM];
    o.context = LONG;
    mka_engine *own = engine_of(2);
    if (!own) _exit(201);
    double before = anonymous(), most = 0;
    if (mka_memory_create(own, &o, &memory, &error)) _exit(202);
    make_queries(TOKENS - CHUNK, queries);
    for (int at = 0; at < LONG; at += CHUNK) {
        const float *x = noise + (size_t)(at % (TOKENS - CHUNK)) * WIDTH;
        if (mka_memory_append(memory, 0, CHUNK, x, x, &error)) _exit(203);
        if (mka_memory_attend(memory, 0, 1, queries, out, &used, &error)) _exit(204);
        most = anonymous() - before > most ? anonymous() - before : most;
    }
    if (used.spill_bytes == 0) _exit(205);
    _exit((int)(most / (double)ram * 100));
}

/* The same in a new process, not a copy of this one with its threads gone. */
static pid_t start_limited(uint64_t ram) {
    char number[32];
    snprintf(number, sizeof number, "%llu", (unsigned long long)ram);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_spill", number, folder, (char *)NULL);
        _exit(206);
    }
    return child;
}

static void memory_stays_within_its_limit(void **data) {
    if (emulated()) {
        print_message("skipped under an emulator: it starts and kills programs\n");
        skip();
    }
    (void)data;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* a sanitizer's own memory counts */
#endif
    mka_memory_options o = options_of(0, folder);
    o.context = 60000;
    uint64_t ram = least(&o) + (4 << 20);
    pid_t child = start_limited(ram);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    print_message("%.1f MiB allowed, %d %% taken at most\n", (double)ram / 1048576, WEXITSTATUS(status));
    assert_true(WEXITSTATUS(status) <= 105 && WEXITSTATUS(status) > 40);
    assert_int_equal(entries(), 0);
}

static void kills_leave_nothing(void **data) {
    if (emulated()) {
        print_message("skipped under an emulator: it starts and kills programs\n");
        skip();
    }
    (void)data;
    const char *wanted = getenv("MKA_KILLS");
    int kills = wanted ? atoi(wanted) : 10;
    mka_memory_options o = options_of(0, folder);
    o.context = 60000;
    uint64_t ram = least(&o);
    for (int i = 0; i < kills; i++) {
        pid_t child = start_limited(ram);
        usleep((useconds_t)(20000 + 70000 * (uniform() + 1)));
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status)) fail_msg("the spilling process ended by itself with %d", WEXITSTATUS(status));
        assert_int_equal(entries(), 0);
    }
}

/* Without arguments the tests; with a limit and a folder the process that they measure and kill. */
int main(int argc, char **argv) {
    if (argc == 3) {
        if (snprintf(folder, sizeof folder, "%s", argv[2]) >= (int)sizeof folder || !make_noise()) return 207;
        run_limited(strtoull(argv[1], NULL, 10));
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spilling_changes_no_answer),
        cmocka_unit_test(sessions_spill),
        cmocka_unit_test(records_come_back),
        cmocka_unit_test(small_and_read_only_disks),
        cmocka_unit_test(removed_folders_do_not_matter),
        cmocka_unit_test(bad_limits_are_named),
        cmocka_unit_test(full_disks_can_be_gone_on_from),
        cmocka_unit_test(sessions_survive_full_disks),
        cmocka_unit_test(damaged_records_are_found),
        cmocka_unit_test(memory_stays_within_its_limit),
        cmocka_unit_test(kills_leave_nothing),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
