/* test_opencl_saved - sessions and memories whose caches are on a device are saved and loaded as those in memory are: a file is
 * the same wherever it was written, each side goes on from the other's, and what is loaded there goes on to the bit.
 *
 * Any device will do (PoCL is one on every CPU); without one the tests are skipped. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <mka/memory.h>
#include <mka/session.h>

#include "memory/held.h"
#include "memory/memory_layers.h"
#include "model/session.h"
#include "opencl_device.h"
#include "reference_model.h"

static void ok(mka_status status, const mka_error *error) {
    if (status != MKA_OK) fail_msg("%s", error->message);
}

/* A file of this process. */
static const char *place(const char *name) {
    static char paths[4][200];
    static int next;
    char *path = paths[next++ % 4];
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof paths[0], "%s/mka-saved-%ld-%s.mka", folder ? folder : "/tmp", (long)getpid(), name);
    return path;
}

static void *whole_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    void *all = malloc(*bytes);
    assert_int_equal(fread(all, 1, *bytes, file), *bytes);
    fclose(file);
    return all;
}

static void same_files(const char *what, const char *a, const char *b) {
    size_t bytes[2];
    void *all[2] = {whole_file(a, &bytes[0]), whole_file(b, &bytes[1])};
    if (bytes[0] != bytes[1] || memcmp(all[0], all[1], bytes[0]) != 0) fail_msg("%s: what was loaded is saved otherwise", what);
    free(all[0]);
    free(all[1]);
}

/* ---- sessions ---- */

enum { MORE = 6 };

typedef struct setting {
    const char *what, *path; /* the model's; NULL: tiny */
    const char *router;
    mka_session_options options;
    int fill, prompt; /* random keys and values before it */
    float allowed;
} setting;

static mka_model *model_of(const setting *s, mka_engine *engine) {
    mka_model *model;
    mka_error error;
    ok(s->path ? mka_model_load(engine, s->path, NULL, &model, &error)
               : mka_model_random(engine, "tiny", MKA_Q8_0, s->router, 3, &model, &error),
       &error);
    return model;
}

/* A session on model, empty, or of what load has; or after the prompt where load is NULL, saved to save. Then goes on. */
static void go_on(const setting *s, mka_model *model, const char *load, const char *save, float *logits) {
    mka_session *session;
    mka_error error;
    mka_model_info info;
    mka_model_get_info(model, &info);
    ok(mka_session_create(model, &s->options, &session, &error), &error);
    int *tokens = malloc((size_t)(s->prompt + MORE) * sizeof *tokens);
    for (int i = 0; i < s->prompt + MORE; i++) tokens[i] = (37 * i + i / 50 * 11) % info.vocabulary;
    if (load) {
        ok(mka_session_eval(session, tokens + 3, 5, NULL, NULL, NULL, &error), &error); /* what it held is replaced */
        ok(mka_session_load(session, load, &error), &error);
    } else {
        if (s->fill) ok(mka_session_fill(session, s->fill, 5, &error), &error);
        ok(mka_session_eval(session, tokens, (size_t)s->prompt, NULL, NULL, NULL, &error), &error);
    }
    assert_int_equal(mka_session_length(session), s->fill + s->prompt);
    if (s->fill) assert_true(session->layers[0].cache[0].forgotten > s->options.plan.sinks);
    ok(mka_session_save(session, save, &error), &error);
    for (int i = 0; i < MORE; i++)
        ok(mka_session_eval(session, tokens + s->prompt + i, 1, logits + i * info.vocabulary, NULL, NULL, &error), &error);
    free(tokens);
    mka_session_destroy(session);
}

static void there_and_back(const setting *s) {
    const char *paths[2] = {place("first"), place("second")};
    mka_model *here = model_of(s, cpu), *there = model_of(s, device);
    mka_model_info info;
    mka_model_get_info(here, &info);
    size_t count = (size_t)MORE * (size_t)info.vocabulary;
    float *want = malloc(count * sizeof *want), *got = malloc(count * sizeof *got);
    for (int from = 0; from < 2; from++) { /* 0: the device's session is loaded by both; 1: the CPU's */
        go_on(s, from ? here : there, NULL, paths[0], want);
        go_on(s, from ? there : here, paths[0], paths[1], got);
        same(s->what, count, got, want, s->allowed);
        go_on(s, from ? here : there, paths[1], paths[0], got); /* and back */
        if (memcmp(got, want, count * sizeof *got) != 0) fail_msg("%s: it does not go on to the bit (%d)", s->what, from);
        go_on(s, from ? here : there, paths[0], paths[1], got);
        same_files(s->what, paths[0], paths[1]);
    }
    for (int i = 0; i < 2; i++) unlink(paths[i]);
    free(want);
    free(got);
    mka_model_destroy(there);
    mka_model_destroy(here);
}

static void sessions_of_every_variant(void **state) {
    (void)state;
    need_device();
    static const mka_type types[] = {MKA_F16, MKA_Q8_0, MKA_Q4_0, MKA_BF16, MKA_F32};
    for (int i = 0; i < reference_shape_count; i++) {
        char path[300], what[100];
        setting s = {.what = what, .path = path, .prompt = 70, .allowed = 2e-3F};
        assert_true(reference_model_write(&reference_shapes[i], 7, path, sizeof path));
        mka_session_defaults(&s.options);
        s.options.context = 100;
        s.options.chunk = 40;
        s.options.exact = 1;
        s.options.key_type = s.options.value_type = types[i % 5];
        snprintf(what, sizeof what, "%s in %s", reference_shapes[i].kind, mka_type_name(s.options.key_type));
        there_and_back(&s);
        unlink(path);
    }
}

/* More tokens than the ring of a four-bit cache holds, and tiers: some that have closed segments, and forgotten tokens. */
static void longer_sessions(void **state) {
    (void)state;
    need_device();
    setting s = {.what = "dense, four bits", .prompt = 700, .allowed = 2e-3F};
    mka_session_defaults(&s.options);
    s.options.context = 800;
    s.options.chunk = 60;
    s.options.exact = 1;
    s.options.key_type = s.options.value_type = MKA_Q4_0;
    there_and_back(&s);
    s.what = "tiered";
    s.options.memory = MKA_MEMORY_TIERED;
    s.options.plan.window = 64;
    s.options.key_type = MKA_Q8_0;
    s.options.chunk = 15; /* more queries at once share what they read on the CPU */
    there_and_back(&s);
    s.what = "tiered, long";
    s.options.key_type = s.options.value_type = MKA_F16;
    s.options.context = 5000;
    s.fill = 4000;
    s.prompt = 200;
    there_and_back(&s);
    s.what = "mka, tiered";
    s.router = "mka";
    s.options.context = 600;
    s.fill = 0;
    s.prompt = 500;
    there_and_back(&s);
}

static mka_session *session_after(mka_model *model, const mka_session_options *o, int first, int count) {
    mka_session *session;
    mka_error error;
    int *tokens = malloc((size_t)count * sizeof *tokens);
    ok(mka_session_create(model, o, &session, &error), &error);
    for (int i = 0; i < count; i++) tokens[i] = (37 * (first + i) + (first + i) / 50 * 11) % 256;
    ok(mka_session_eval(session, tokens, (size_t)count, NULL, NULL, NULL, &error), &error);
    free(tokens);
    return session;
}

/* One session behind another: on the device as on the CPU, and across. */
static void appended(void **state) {
    (void)state;
    need_device();
    mka_session_options o;
    mka_error error;
    mka_session_defaults(&o);
    o.memory = MKA_MEMORY_TIERED;
    o.plan.window = 64;
    o.context = 1500;
    o.chunk = 15;
    o.exact = 1;
    setting s = {.what = "append"};
    mka_model *models[2] = {model_of(&s, cpu), model_of(&s, device)};
    float want[256], got[256];
    for (int pair = 0; pair < 4; pair++) { /* which of both is on the device */
        mka_session *to = session_after(models[pair & 1], &o, 0, 500), *from = session_after(models[pair >> 1], &o, 500, 450);
        ok(mka_session_append(to, from, 0, &error), &error);
        assert_int_equal(mka_session_length(to), 950);
        int token = 17;
        for (int i = 0; i < 3; i++) ok(mka_session_eval(to, &token, 1, pair ? got : want, NULL, NULL, &error), &error);
        if (pair) same("appended", 256, got, want, 5e-3F);
        mka_session_destroy(from);
        mka_session_destroy(to);
    }
    mka_model_destroy(models[0]);
    mka_model_destroy(models[1]);
}

/* ---- memories ---- */

static mka_memory *memory_of(mka_engine *engine, const mka_memory_options *o) {
    mka_memory *memory;
    mka_error error;
    ok(mka_memory_create(engine, o, &memory, &error), &error);
    return memory;
}

/* size 60: keys that long-term rows do not fit. */
static void fill(mka_memory *memory, const mka_memory_options *o, int count, float size, uint64_t seed) {
    size_t width = (size_t)o->kv_heads * (size_t)o->head_dim;
    mka_error error;
    for (int done = 0, n; done < count; done += n) {
        n = count - done < 100 ? count - done : 100;
        float *rows = random_floats(&seed, 2 * (size_t)n * width),
              *q = random_floats(&seed, (size_t)o->heads * (size_t)o->head_dim);
        for (size_t i = 0; i < 2 * (size_t)n * width; i++) rows[i] *= size / 2;
        ok(mka_memory_append(memory, 0, n, rows, rows + (size_t)n * width, &error), &error);
        ok(mka_memory_attend(memory, 0, 1, q, q, NULL, &error), &error);
        free(rows);
        free(q);
    }
}

static void attend(mka_memory *memory, const mka_memory_options *o, float *out) {
    uint64_t seed = 99;
    mka_error error;
    float *q = random_floats(&seed, (size_t)o->heads * (size_t)o->head_dim);
    ok(mka_memory_attend(memory, 0, 1, q, out, NULL, &error), &error);
    free(q);
}

/* A memory filled by one side, loaded by the other, which held something else; then both answer alike. size, other: of keys. */
static void memory_there_and_back(const char *what, const mka_memory_options *o, int count, float size, float other) {
    const char *path = place("memory");
    float want[1024], got[1024];
    size_t outs = (size_t)o->heads * (size_t)o->head_dim;
    for (int from = 0; from < 2; from++) {
        mka_memory *a = memory_of(from ? cpu : device, o), *b = memory_of(from ? device : cpu, o);
        mka_error error;
        fill(a, o, count, size, 5);
        fill(b, o, count / 2, other, 8);
        ok(mka_memory_save(a, path, &error), &error);
        ok(mka_memory_load(b, path, &error), &error);
        assert_int_equal(mka_memory_length(b, 0), count);
        assert_int_equal(b->layers[0].tiers.dense, a->layers[0].tiers.dense);
        attend(a, o, want);
        attend(b, o, got);
        same(what, outs, got, want, 2e-3F);
        fill(a, o, 200, size, 6); /* and goes on */
        fill(b, o, 200, size, 6);
        attend(a, o, want);
        attend(b, o, got);
        same(what, outs, got, want, 2e-3F);
        mka_memory_destroy(a);
        mka_memory_destroy(b);
    }
    unlink(path);
}

static void memories(void **state) {
    (void)state;
    need_device();
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.heads = 4, o.kv_heads = 2, o.head_dim = 32, o.queries = 100, o.context = 6000, o.local = MKA_Q8_0;
    o.plan.window = 64;
    memory_there_and_back("tiers", &o, 2000, 1, 1);
    memory_there_and_back("long tiers", &o, 5000, 1, 1);
    memory_there_and_back("a dense layer", &o, 1000, 60, 60);
    memory_there_and_back("a dense layer, tiers before", &o, 1000, 60, 1);
    memory_there_and_back("tiers, a dense layer before", &o, 1000, 1, 60);
}

/* A side whose passes are longer keeps more tokens local than the other has room for. */
static void other_passes(void **state) {
    (void)state;
    need_device();
    mka_memory_options o;
    mka_error error;
    mka_memory_defaults(&o);
    o.heads = 2, o.kv_heads = 1, o.head_dim = 16, o.queries = 4000, o.context = 20000;
    o.plan.window = 64;
    const char *path = place("passes");
    float want[32], got[32];
    mka_memory *a = memory_of(cpu, &o);
    o.queries = 10;
    mka_memory *b = memory_of(device, &o);
    fill(a, &o, 9500, 1, 5);
    assert_true(9500 - a->layers[0].tiers.forgotten > b->layers[0].tiers.local.shape.capacity);
    ok(mka_memory_save(a, path, &error), &error);
    ok(mka_memory_load(b, path, &error), &error);
    assert_non_null(b->layers[0].tiers.there);
    attend(a, &o, want);
    attend(b, &o, got);
    same("other passes", 32, got, want, 2e-3F);
    mka_memory_destroy(a);
    mka_memory_destroy(b);
    unlink(path);
}

/* ---- bad files ---- */

/* Every region in turn has a byte that is not what was saved: the message names it, and the session is empty and of use. */
static void damaged(void **state) {
    (void)state;
    need_device();
    const char *path = place("damaged");
    setting s = {.what = "damaged", .prompt = 300};
    mka_session_defaults(&s.options);
    s.options.context = 400;
    s.options.chunk = 50;
    mka_model *model = model_of(&s, device);
    mka_session *session = session_after(model, &s.options, 0, s.prompt);
    mka_error error;
    ok(mka_session_save(session, path, &error), &error);
    size_t bytes;
    free(whole_file(path, &bytes));
    for (int i = 1; i < 8; i++) {
        unsigned char byte;
        int file = open(path, O_RDWR);
        off_t at = (off_t)(bytes * (size_t)i / 8);
        assert_int_equal(pread(file, &byte, 1, at), 1);
        byte ^= 16;
        assert_int_equal(pwrite(file, &byte, 1, at), 1);
        assert_int_equal(mka_session_load(session, path, &error), MKA_BAD_FILE);
        assert_non_null(strstr(error.message, "region '"));
        assert_int_equal(mka_session_length(session), 0);
        byte ^= 16;
        assert_int_equal(pwrite(file, &byte, 1, at), 1);
        close(file);
    }
    ok(mka_session_load(session, path, &error), &error);
    assert_int_equal(mka_session_length(session), s.prompt);
    assert_int_equal(mka_session_save(session, "/nowhere/at-all.mka", &error), MKA_IO);
    int token = 3;
    ok(mka_session_eval(session, &token, 1, NULL, NULL, NULL, &error), &error);
    unlink(path);
    mka_session_destroy(session);
    mka_model_destroy(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_of_every_variant),
        cmocka_unit_test(longer_sessions),
        cmocka_unit_test(appended),
        cmocka_unit_test(memories),
        cmocka_unit_test(other_passes),
        cmocka_unit_test(damaged),
    };
    return cmocka_run_group_tests(tests, start_engines, stop_engines);
}
