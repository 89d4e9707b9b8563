/* test_snapshot - saved sessions and memories: what is restored goes on as if it had never stopped, a file is whole or refused
 * with the name of what is wrong, and neither a failure nor a kill harms what was there. MKA_KILLS: saves that are killed. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <mka/session.h>

#include "bytes.h"
#include "emulated.h"
#include "format/snapshot.h"
#include "reference_model.h"

enum { PROMPT = 70, ANSWER = 24, CONTEXT = PROMPT + 2 * ANSWER + 2 };

static mka_engine *engine;
static char folder[64];

static int start(void **state) {
    (void)state;
    mka_engine_options options;
    mka_engine_defaults(&options);
    options.threads = 2;
    options.bind = 0;
    make_folder(folder);
    return mka_engine_create(&options, &engine, NULL) != MKA_OK;
}

static int stop(void **state) {
    (void)state;
    mka_engine_destroy(engine);
    remove_folder(folder);
    return 0;
}

/* folder/name, of a test's own: in_folder's are soon used again. */
static const char *place(const char *name) {
    static char paths[16][128];
    static int count;
    char *path = paths[count++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void ok(mka_status status, const mka_error *error) {
    if (status != MKA_OK) fail_msg("%s", error->message);
}

/* A failure with this status whose message has this text. */
static void fails(mka_status got, const mka_error *error, mka_status status, const char *text) {
    if (got != status || !strstr(error->message, text)) fail_msg("%d: %s\nexpected %d: %s", got, error->message, status, text);
}

static mka_session *session_with(mka_model *model, const mka_session_options *options) {
    mka_session *session;
    mka_error error;
    ok(mka_session_create(model, options, &session, &error), &error);
    return session;
}

static mka_session_options plain(int context) {
    mka_session_options o;
    mka_session_defaults(&o);
    o.context = context;
    return o;
}

/* ---- going on ---- */

/* Generates count tokens after token; returns the last one, ids gets them, logits stay those of the end. */
static int generate(mka_session *session, mka_sampler *sampler, int token, int count, int *ids, float *logits) {
    mka_error error;
    for (int i = 0; i < count; i++) {
        ok(mka_session_eval(session, &token, 1, logits, NULL, NULL, &error), &error);
        ids[i] = token = mka_sampler_next(sampler, logits);
    }
    return token;
}

/* One session that never stops, and one that is saved, lost and restored half way. */
static void goes_on(mka_model *model, const mka_session_options *options, float temperature, int fill) {
    mka_model_info info;
    mka_error error;
    mka_sampler *sampler;
    mka_sampler_options sampling;
    const char *path = place("session");
    int ids[2][2 * ANSWER], prompt[PROMPT];
    mka_model_get_info(model, &info);
    float *logits[2] = {calloc((size_t)info.vocabulary, sizeof(float)), calloc((size_t)info.vocabulary, sizeof(float))};
    mka_sampler_defaults(&sampling);
    sampling.temperature = temperature;
    for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 37 + 11) % info.vocabulary;
    for (int broken = 0; broken < 2; broken++) {
        mka_session *session = session_with(model, options);
        ok(mka_sampler_create(&sampling, info.vocabulary, &sampler, &error), &error);
        if (fill) ok(mka_session_fill(session, fill, 5, &error), &error);
        ok(mka_session_eval(session, prompt, PROMPT, logits[broken], NULL, NULL, &error), &error);
        int token = generate(session, sampler, prompt[0], ANSWER, ids[broken], logits[broken]);
        if (broken) {
            ok(mka_session_save(session, path, &error), &error);
            mka_session_destroy(session);
            mka_session_options other = *options; /* room, chunks and promises may differ */
            other.context += 100;
            session = session_with(model, &other);
            ok(mka_session_eval(session, prompt, 9, NULL, NULL, NULL, &error), &error); /* what it held is replaced */
            ok(mka_session_load(session, path, &error), &error);
            assert_int_equal(mka_session_length(session), fill + PROMPT + ANSWER);
            assert_memory_equal(mka_session_tokens(session) + fill, prompt, sizeof prompt);
            assert_int_equal(mka_session_tokens(session)[fill + PROMPT], prompt[0]);
            assert_memory_equal(mka_session_tokens(session) + fill + PROMPT + 1, ids[1], (ANSWER - 1) * sizeof(int));
        }
        generate(session, sampler, token, ANSWER, ids[broken] + ANSWER, logits[broken]);
        mka_session_destroy(session);
        mka_sampler_destroy(sampler);
    }
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_memory_equal(logits[0], logits[1], (size_t)info.vocabulary * sizeof(float));
    free(logits[0]);
    free(logits[1]);
}

static void every_variant_goes_on(void **state) {
    (void)state;
    static const mka_type types[] = {MKA_F16, MKA_F32, MKA_Q8_0, MKA_Q4_0, MKA_BF16};
    for (int i = 0; i < reference_shape_count; i++) {
        char path[256];
        mka_model *model;
        mka_error error;
        mka_session_options options = plain(CONTEXT);
        options.key_type = types[i % 5];
        options.value_type = types[(i + 1) % 5];
        assert_true(reference_model_write(&reference_shapes[i], 7, path, sizeof path));
        ok(mka_model_load(engine, path, NULL, &model, &error), &error);
        goes_on(model, &options, 0, 0);
        goes_on(model, &options, 1, 0);
        mka_model_destroy(model);
        unlink(path);
    }
}

static mka_model *tiny(uint64_t seed) {
    mka_model *model;
    mka_error error;
    ok(mka_model_random(engine, "tiny", MKA_Q8_0, NULL, seed, &model, &error), &error);
    return model;
}

static mka_session_options tiered(int context) {
    mka_session_options o = plain(context);
    o.memory = MKA_MEMORY_TIERED;
    o.plan.window = 128;
    return o;
}

/* Depths before anything closes, with all of it still local, and with most of it forgotten. */
static void tiers_go_on(void **state) {
    (void)state;
    static const int depths[] = {0, 400, 3700};
    static const mka_type types[] = {MKA_Q8_0, MKA_Q4_0, MKA_F32};
    mka_model *model = tiny(3);
    for (int i = 0; i < 3; i++) {
        mka_session_options options = tiered(depths[i] + CONTEXT);
        options.plan.key_type = types[i];
        options.plan.value_type = types[(i + 1) % 3];
        if (i == 2) options.key_type = options.value_type = MKA_Q4_0;
        goes_on(model, &options, 0, depths[i]);
        goes_on(model, &options, 1, depths[i]);
        options.plan.recall = (mka_recall){.contract = MKA_RECALL_CERTIFIED, .eps = 0.01F};
        goes_on(model, &options, 0, depths[i]);
    }
    mka_model_destroy(model);
}

/* Models with routers: every level's tiers, session summaries, and the bank, before anything is in it, and with a ring that has
 * turned. */
static void routed_models_go_on(void **state) {
    (void)state;
    static const char *const kinds[] = {"fastmka", "mka"};
    static const int depths[] = {0, 400, 3700};
    for (int k = 0; k < 2; k++) {
        mka_model *model;
        mka_error error;
        ok(mka_model_random(engine, "tiny", MKA_Q8_0, kinds[k], 3, &model, &error), &error);
        for (int i = 0; i < 3; i++) {
            mka_session_options options = tiered(depths[i] + CONTEXT);
            goes_on(model, &options, 0, depths[i]);
            options.bank = 9;
            goes_on(model, &options, 1, depths[i]);
            options.memory = MKA_MEMORY_DENSE;
            goes_on(model, &options, 0, depths[i]);
        }
        mka_model_destroy(model);
    }
}

static void memories_go_on(void **state) {
    (void)state;
    enum { TOKENS = 3600, AFTER = 80, WIDTH = 2 * 32 };
    mka_memory_options o;
    mka_memory *memory, *other;
    mka_error error;
    const char *path = place("memory");
    float *x = calloc((size_t)(TOKENS + AFTER) * WIDTH, sizeof *x), queries[2 * WIDTH], out[2][2 * WIDTH];
    uint64_t seed = 5;
    assert_non_null(x);
    for (size_t i = 0; i < (size_t)(TOKENS + AFTER) * WIDTH; i++) x[i] = reference_random(&seed);
    for (int i = 0; i < 2 * WIDTH; i++) queries[i] = 3 * reference_random(&seed);
    mka_memory_defaults(&o);
    o.layers = 2, o.heads = 4, o.kv_heads = 2, o.head_dim = 32, o.context = TOKENS + AFTER, o.plan.window = 64;
    ok(mka_memory_create(engine, &o, &memory, &error), &error);
    ok(mka_memory_append(memory, 0, TOKENS, x, x + AFTER * WIDTH, &error), &error);
    ok(mka_memory_append(memory, 1, 30, x, x, &error), &error);
    ok(mka_memory_attend(memory, 0, 1, queries, out[0], NULL, &error), &error);
    ok(mka_memory_save(memory, path, &error), &error);
    o.context += 640;
    ok(mka_memory_create(engine, &o, &other, &error), &error);
    ok(mka_memory_load(other, path, &error), &error);
    assert_int_equal(mka_memory_length(other, 0), TOKENS);
    assert_int_equal(mka_memory_length(other, 1), 30);
    mka_memory *both[2] = {memory, other};
    for (int layer = 0; layer < 2; layer++) {
        for (int i = 0; i < 2; i++) {
            ok(mka_memory_append(both[i], layer, AFTER, x + TOKENS * WIDTH, x, &error), &error);
            ok(mka_memory_attend(both[i], layer, 1, queries, out[i], NULL, &error), &error);
        }
        assert_memory_equal(out[0], out[1], sizeof out[0]);
    }
    mka_memory_destroy(other);
    o.plan.window = 128;
    ok(mka_memory_create(engine, &o, &other, &error), &error);
    fails(mka_memory_load(other, path, &error), &error, MKA_BAD_ARGUMENT, "saved with window 64, but this memory has 128");
    mka_memory_destroy(other);
    o.plan.window = 64, o.context = TOKENS - 1;
    ok(mka_memory_create(engine, &o, &other, &error), &error);
    fails(mka_memory_load(other, path, &error), &error, MKA_BAD_ARGUMENT,
          "it holds 3600 tokens, but this memory has room for 3599");
    mka_memory_destroy(other);
    mka_memory_destroy(memory);
    free(x);
}

static void prefixes_are_found(void **state) {
    (void)state;
    mka_model *model = tiny(3), *stranger = tiny(4);
    mka_session_options options = plain(600);
    mka_session *session = session_with(model, &options), *other = session_with(stranger, &options);
    const char *path = place("prefix");
    int ids[520];
    size_t common, note;
    mka_error error;
    for (int i = 0; i < 520; i++) ids[i] = i % 250;
    ok(mka_session_eval(session, ids, 500, NULL, NULL, NULL, &error), &error);
    ok(mka_session_set_note(session, "said", 5, &error), &error);
    ok(mka_session_save(session, path, &error), &error);
    ok(mka_session_match(session, path, ids, 520, &common, &error), &error);
    assert_int_equal(common, 500);
    ok(mka_session_match(session, path, ids, 300, &common, &error), &error);
    assert_int_equal(common, 300);
    ids[200] = 7;
    ok(mka_session_match(session, path, ids, 520, &common, &error), &error);
    assert_int_equal(common, 200);
    ids[10] = 7;
    ok(mka_session_match(session, path, ids, 520, &common, &error), &error);
    assert_int_equal(common, 0); /* not one whole link */
    ok(mka_session_match(other, path, ids, 520, &common, &error), &error);
    assert_int_equal(common, 0);
    ok(mka_session_set_note(session, NULL, 0, &error), &error);
    assert_null(mka_session_note(session, &note));
    ok(mka_session_load(session, path, &error), &error);
    assert_string_equal(mka_session_note(session, &note), "said");
    assert_int_equal(note, 5);
    mka_session_destroy(session);
    mka_session_destroy(other);
    mka_model_destroy(model);
    mka_model_destroy(stranger);
}

/* ---- what does not fit ---- */

static void misfits_are_named(void **state) {
    (void)state;
    mka_model *model = tiny(3), *stranger = tiny(4);
    mka_session_options options = tiered(1000);
    mka_session *session = session_with(model, &options);
    mka_session_file about;
    const char *path = place("misfit");
    mka_error error;
    ok(mka_session_fill(session, 900, 1, &error), &error);
    ok(mka_session_save(session, path, &error), &error);
    mka_session_destroy(session);
    ok(mka_session_peek(path, &about, &error), &error);
    assert_true(about.tokens == 900 && about.tiered && about.plan.window == 128 && about.key_type == MKA_F16);
    const struct {
        mka_model *model;
        int context, window;
        mka_type key, value, longterm;
        mka_memory_mode memory;
        const char *text;
    } cases[] = {
        {stranger, 1000, 128, MKA_F16, MKA_F16, MKA_Q8_0, MKA_MEMORY_TIERED, "another model"},
        {model, 899, 128, MKA_F16, MKA_F16, MKA_Q8_0, MKA_MEMORY_TIERED,
         "900 tokens, but this session's context has room for 899"},
        {model, 1000, 192, MKA_F16, MKA_F16, MKA_Q8_0, MKA_MEMORY_TIERED, "a window of 128, but this session has 192"},
        {model, 1000, 128, MKA_F32, MKA_F16, MKA_Q8_0, MKA_MEMORY_TIERED, "cache keys in f16, but this session has f32"},
        {model, 1000, 128, MKA_F16, MKA_BF16, MKA_Q8_0, MKA_MEMORY_TIERED, "cache values in f16, but this session has bf16"},
        {model, 1000, 128, MKA_F16, MKA_F16, MKA_F32, MKA_MEMORY_TIERED, "long-term keys in q8_0, but this session has f32"},
        {model, 1000, 128, MKA_F16, MKA_F16, MKA_Q8_0, MKA_MEMORY_DENSE, "memory tiered, but this session has dense"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options = tiered(cases[i].context);
        options.plan.window = cases[i].window;
        options.plan.key_type = options.plan.value_type = cases[i].longterm;
        options.key_type = cases[i].key;
        options.value_type = cases[i].value;
        options.memory = cases[i].memory;
        session = session_with(cases[i].model, &options);
        ok(mka_session_fill(session, 5, 1, &error), &error);
        fails(mka_session_load(session, path, &error), &error, MKA_BAD_ARGUMENT, cases[i].text);
        assert_int_equal(mka_session_length(session), 5); /* as it was */
        mka_session_destroy(session);
    }
    mka_model_destroy(model);
    mka_model_destroy(stranger);
}

/* ---- damage ---- */

typedef struct image {
    unsigned char *bytes;
    size_t size;
} image;

static image image_of(const char *path) {
    image i = {NULL, 0};
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    i.size = (size_t)ftell(file);
    rewind(file);
    i.bytes = malloc(i.size);
    assert_non_null(i.bytes);
    assert_int_equal(fread(i.bytes, 1, i.size, file), i.size);
    fclose(file);
    return i;
}

static void flip(mka_session *session, image *i, size_t at, const char *text) {
    mka_error error;
    i->bytes[at] ^= 0x10;
    mka_status status = mka_session_load(session, write_file(folder, "damaged", i->bytes, i->size), &error);
    fails(status, &error, at >= 8 && at < 12 ? MKA_UNSUPPORTED : MKA_BAD_FILE, text); /* 8..11: the version */
    i->bytes[at] ^= 0x10;
}

/* Of a session of the model with so many regions. */
static void flip_bits(mka_model *model, size_t regions) {
    mka_session_options options = tiered(4000);
    mka_session *session = session_with(model, &options);
    const char *path = place("whole");
    mka_error error;
    ok(mka_session_fill(session, 3900, 1, &error), &error);
    ok(mka_session_set_note(session, "note", 4, &error), &error);
    ok(mka_session_save(session, path, &error), &error);
    image i = image_of(path);
    const mka_snapshot_header *header = (const mka_snapshot_header *)(const void *)i.bytes;
    const mka_snapshot_entry *entries = (const mka_snapshot_entry *)(const void *)(i.bytes + sizeof *header);
    flip(session, &i, 0, "not a saved session");
    flip(session, &i, offsetof(mka_snapshot_header, version), "version 19 of the format");
    for (size_t at = offsetof(mka_snapshot_header, order); at < sizeof *header; at++) flip(session, &i, at, "header is damaged");
    flip(session, &i, sizeof *header + 3, "table of regions is damaged");
    for (size_t r = 0; r < header->regions; r++) {
        char text[80];
        snprintf(text, sizeof text, "region '%s' is damaged", entries[r].name);
        flip(session, &i, (size_t)entries[r].offset, text);
        flip(session, &i, (size_t)(entries[r].offset + entries[r].bytes - 1), text);
        flip(session, &i, (size_t)(entries[r].offset + (entries[r].bytes - 1) / 64 * 64 + 63), text); /* padding, mostly */
        flip(session, &i, (size_t)(entries[r].offset + entries[r].bytes / 2), text);
    }
    assert_int_equal(header->regions, regions);       /* nothing was left out */
    assert_int_equal(mka_session_length(session), 0); /* a damaged region leaves nothing */
    ok(mka_session_load(session, path, &error), &error);
    assert_int_equal(mka_session_length(session), 3900);
    free(i.bytes);
    mka_session_destroy(session);
}

static void every_flipped_bit_is_found(void **state) {
    (void)state;
    mka_model *model = tiny(3), *routed;
    mka_error error;
    flip_bits(model, 5 + 2 * 7); /* 2 layers */
    ok(mka_model_random(engine, "tiny", MKA_Q8_0, "fastmka", 3, &routed, &error), &error);
    flip_bits(routed, 7 + 2 * (7 + 3));
    mka_model_destroy(model);
    mka_model_destroy(routed);
}

static void bad_files_are_refused(void **state) {
    (void)state;
    mka_model *model = tiny(3);
    mka_session_options options = plain(200);
    mka_session *session = session_with(model, &options);
    const char *path = place("good");
    mka_error error;
    ok(mka_session_fill(session, 150, 1, &error), &error);
    ok(mka_session_save(session, path, &error), &error);
    image i = image_of(path);
    for (size_t size = 0; size < i.size; size += size < 4096 ? 37 : i.size / 9 + 1) {
        mka_status status = mka_session_load(session, write_file(folder, "short", i.bytes, size), &error);
        fails(status, &error, MKA_BAD_FILE, size < sizeof(mka_snapshot_header) ? "too short" : "truncated or damaged");
    }
    uint32_t order = 0x04030201;
    memcpy(i.bytes + offsetof(mka_snapshot_header, order), &order, sizeof order);
    fails(mka_session_load(session, write_file(folder, "order", i.bytes, i.size), &error), &error, MKA_UNSUPPORTED,
          "the other byte order");
    fails(mka_session_load(session, folder, &error), &error, MKA_IO, "not a regular file");
    fails(mka_session_load(session, in_folder(folder, "none"), &error), &error, MKA_IO, "No such file");
    assert_int_equal(mka_session_length(session), 150);
    mka_snapshot *snapshot;
    fails(mka_snapshot_open(path, "memory", &snapshot, &error), &error, MKA_BAD_FILE, "a saved session, not a memory");
    free(i.bytes);
    mka_session_destroy(session);
    mka_model_destroy(model);
}

/* ---- saving that fails ---- */

static int entries_of(const char *path) {
    DIR *dir = opendir(path);
    int count = 0;
    assert_non_null(dir);
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

static void failed_saves_harm_nothing(void **state) {
    (void)state;
    mka_model *model = tiny(3);
    mka_session_options options = plain(2000);
    mka_session *session = session_with(model, &options);
    const char *path = place("kept");
    mka_error error;
    ok(mka_session_fill(session, 100, 1, &error), &error);
    ok(mka_session_save(session, path, &error), &error);
    ok(mka_session_fill(session, 1700, 2, &error), &error);
    fails(mka_session_save(session, in_folder(folder, "no/such/folder"), &error), &error, MKA_IO, "No such file or directory");
    fails(mka_session_save(session, folder, &error), &error, MKA_IO, "a folder, not a file");
    fails(mka_session_save(session, "/dev/null", &error), &error, MKA_IO, "a device, not a file");
    int before = entries_of(folder);
    /* A limit on the size of files stands for a full disk: the same write fails, with another errno. */
    struct rlimit old, low;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 100000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    mka_status status = mka_session_save(session, path, &error);
    setrlimit(RLIMIT_FSIZE, &old);
    fails(status, &error, MKA_IO, strerror(EFBIG));
    assert_int_equal(entries_of(folder), before); /* nothing stays beside it */
    char partial[600];
    snprintf(partial, sizeof partial, "%s.partial", path);
    int handle = open(partial, O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(handle, LOCK_EX), 0);
    fails(mka_session_save(session, path, &error), &error, MKA_IO, "another process is saving there");
    close(handle);
    ok(mka_session_load(session, path, &error), &error); /* the old one, whole */
    assert_int_equal(mka_session_length(session), 100);
    ok(mka_session_save(session, path, &error), &error); /* takes over what a killed save left */
    assert_int_equal(access(partial, F_OK), -1);
    mka_session_destroy(session);
    mka_model_destroy(model);
}

/* ---- kills ---- */

enum { LENGTHS = 5 };

/* Saves sessions of five lengths in turns until it is killed. No threads survive a fork, so the engine is made here. */
static void save_forever(const char *path) {
    mka_engine *own;
    mka_model *model;
    mka_session *sessions[LENGTHS];
    mka_engine_options threads;
    mka_engine_defaults(&threads);
    threads.threads = 2;
    threads.bind = 0;
    if (mka_engine_create(&threads, &own, NULL) || mka_model_random(own, "tiny", MKA_Q8_0, NULL, 3, &model, NULL)) _exit(1);
    for (int i = 0; i < LENGTHS; i++) {
        mka_session_options options = tiered(8000);
        if (mka_session_create(model, &options, &sessions[i], NULL)) _exit(2);
        if (mka_session_fill(sessions[i], 500 + 1500 * i, (uint64_t)i, NULL)) _exit(3);
    }
    for (int i = 0;; i++)
        if (mka_session_save(sessions[i % LENGTHS], path, NULL)) _exit(4);
}

static void kills_leave_whole_files(void **state) {
    if (emulated()) {
        print_message("skipped under an emulator: it starts and kills programs\n");
        skip();
    }
    (void)state;
    const char *wanted = getenv("MKA_KILLS"), *path = place("killed");
    int kills = wanted ? atoi(wanted) : 15, held[LENGTHS] = {0};
    mka_model *model = tiny(3);
    mka_session_options options = tiered(8000);
    mka_session *session = session_with(model, &options);
    uint64_t seed = 77;
    mka_error error;
    ok(mka_session_fill(session, 500, 0, &error), &error);
    ok(mka_session_save(session, path, &error), &error);
    for (int i = 0; i < kills; i++) {
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) save_forever(path);
        usleep((useconds_t)(60000 + 150000 * (reference_random(&seed) + 1)));
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status)) fail_msg("the saving process ended by itself with %d", WEXITSTATUS(status));
        ok(mka_session_load(session, path, &error), &error);
        int which = (mka_session_length(session) - 500) / 1500;
        assert_int_equal(mka_session_length(session), 500 + 1500 * which);
        held[which]++;
    }
    print_message("%d kills; files left of the five lengths: %d %d %d %d %d\n", kills, held[0], held[1], held[2], held[3],
                  held[4]);
    mka_session_destroy(session);
    mka_model_destroy(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_goes_on),      cmocka_unit_test(tiers_go_on),
        cmocka_unit_test(routed_models_go_on),        cmocka_unit_test(memories_go_on),
        cmocka_unit_test(prefixes_are_found),         cmocka_unit_test(misfits_are_named),
        cmocka_unit_test(every_flipped_bit_is_found), cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(failed_saves_harm_nothing),  cmocka_unit_test(kills_leave_whole_files),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
