/* test_append - sessions put behind one another: keys come to stand where they would have stood, whatever tiers and types they go
 * through, and what cannot be appended leaves the session as it was. */
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
#include <mka/session.h>

#include "bytes.h"
#include "memory/held.h"
#include "model/session.h"
#include "reference_model.h"

enum { FIRST = 45, SECOND = 70, AFTER = 5, CONTEXT = FIRST + SECOND + AFTER, MOST_VOCABULARY = 512 };

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

static void ok(mka_status status, const mka_error *error) {
    if (status != MKA_OK) fail_msg("%s", error->message);
}

static void fails(mka_status got, const mka_error *error, mka_status status, const char *text) {
    if (got != status || !strstr(error->message, text)) fail_msg("%d: %s\nexpected %d: %s", got, error->message, status, text);
}

static mka_session *session_of(mka_model *model, const mka_session_options *options) {
    mka_session *session;
    mka_error error;
    ok(mka_session_create(model, options, &session, &error), &error);
    return session;
}

static mka_session_options plain(int context, mka_type type) {
    mka_session_options o;
    mka_session_defaults(&o);
    o.context = context;
    o.memory = MKA_MEMORY_DENSE;
    o.key_type = o.value_type = type;
    return o;
}

/* Tokens from..from + count - 1 of a text. */
static void eval(mka_session *session, int from, int count, float *logits) {
    int ids[CONTEXT];
    mka_error error;
    for (int i = 0; i < count; i++) ids[i] = (from + i) * 7 % 23;
    ok(mka_session_eval(session, ids, (size_t)count, logits, NULL, NULL, &error), &error);
}

static mka_model *reference(const reference_shape *shape) {
    char path[256];
    mka_model *model;
    mka_error error;
    assert_true(reference_model_write(shape, 7, path, sizeof path));
    ok(mka_model_load(engine, path, NULL, &model, &error), &error);
    unlink(path);
    return model;
}

/* ---- what is appended ---- */

/* The sums over the rows [count][width], into the first of them. */
static void add_up(float *rows, int count, size_t width) {
    for (int i = 1; i < count; i++)
        for (size_t e = 0; e < width; e++) rows[e] += rows[(size_t)i * width + e];
}

/* The largest difference of one layer's keys and values, relative to the largest of them. sums: of their sums over the tokens,
 * whose rounding and size both grow with the root of their number, and in which the order of tokens does not count. */
static double difference(mka_session *a, mka_session *b, int layer, int count, int sums) {
    const mka_local_shape *s = &a->layers[layer].cache[0].local.shape;
    size_t keys = (size_t)s->kv_heads * (size_t)s->key_dim, values = (size_t)s->kv_heads * (size_t)s->value_dim;
    float *rows[4];
    double most = 0, size = 0;
    mka_error error;
    for (int i = 0; i < 4; i++) rows[i] = calloc((size_t)count * (i % 2 ? values : keys), sizeof(float));
    for (int i = 0; i < 2; i++)
        ok(mka_held_rows(&(i ? b : a)->layers[layer].cache[0], &(i ? b : a)->ops, 0, count, rows[2 * i],
                         s->shared ? NULL : rows[2 * i + 1], &error),
           &error);
    for (int i = 0; i < 4 && sums; i++) add_up(rows[i], count, i % 2 ? values : keys);
    for (int kind = 0; kind < 2; kind++)
        for (size_t i = 0; i < (size_t)(sums ? 1 : count) * (kind ? values : keys); i++) {
            most = fmax(most, fabs((double)rows[kind][i] - (double)rows[2 + kind][i]));
            size = fmax(size, fabs((double)rows[2 + kind][i]));
        }
    for (int i = 0; i < 4; i++) free(rows[i]);
    return most / size;
}

/* Moved to an empty session they are the same numbers; behind others, the first layer's, which no earlier token has a part in,
 * are those that evaluation puts there. */
static void keys_stand_where_they_would(void **state) {
    (void)state;
    for (int i = 0; i < reference_shape_count; i++) {
        mka_model *model = reference(&reference_shapes[i]);
        mka_session_options o = plain(CONTEXT, MKA_F32);
        mka_session *one = session_of(model, &o), *two = session_of(model, &o), *both = session_of(model, &o),
                    *moved = session_of(model, &o);
        static float logits[2][MOST_VOCABULARY];
        mka_error error;
        eval(one, 0, FIRST, NULL);
        eval(two, FIRST, SECOND, NULL);
        eval(both, 0, FIRST + SECOND, NULL);
        mka_status status = mka_session_append(moved, two, 0, &error);
        if (strstr(reference_shapes[i].kind, "mka")) {
            fails(status, &error, MKA_UNSUPPORTED, "session summary");
        } else {
            ok(status, &error);
            assert_int_equal(mka_session_length(moved), SECOND);
            assert_memory_equal(mka_session_tokens(moved), mka_session_tokens(two), SECOND * sizeof(int));
            eval(moved, 0, AFTER, logits[0]);
            eval(two, 0, AFTER, logits[1]);
            assert_memory_equal(logits[0], logits[1], (size_t)reference_shapes[i].vocabulary * sizeof(float));
            ok(mka_session_truncate(two, SECOND, &error), &error);
            ok(mka_session_append(one, two, 0, &error), &error);
            assert_memory_equal(mka_session_tokens(one), mka_session_tokens(both), (FIRST + SECOND) * sizeof(int));
            assert_true(difference(one, both, 0, FIRST + SECOND, 0) < 2e-5);
            ok(mka_session_truncate(one, FIRST, &error), &error); /* and from some token on */
            ok(mka_session_append(one, two, 10, &error), &error);
            assert_int_equal(mka_session_length(one), FIRST + SECOND - 10);
        }
        mka_session_destroy(one);
        mka_session_destroy(two);
        mka_session_destroy(both);
        mka_session_destroy(moved);
        mka_model_destroy(model);
    }
}

/* The least that a session of these options runs with, as its message says. */
static uint64_t least(mka_model *model, mka_session_options o) {
    mka_session *session;
    mka_error error;
    double number = 0;
    o.plan.ram = 1;
    assert_int_equal(mka_session_create(model, &o, &session, &error), MKA_BAD_ARGUMENT);
    assert_non_null(strstr(error.message, "at least "));
    assert_int_equal(sscanf(strstr(error.message, "at least "), "at least %lf MiB", &number), 1);
    return (uint64_t)((number + 0.1) * 1048576);
}

/* Two sessions of other types, windows and centres, the second with long-term rows, behind one another in memory and in a spill
 * file: what is held is what dense float sessions of the same tokens hold, to the rounding of 8 bits. */
static void tiers_take_over_tiers(void **state) {
    (void)state;
    enum { LONG = 5000, SHORT = 1777 }; /* not whole blocks */
    mka_model *model;
    mka_error error;
    ok(mka_model_random(engine, "tiny", MKA_Q8_0, NULL, 3, &model, &error), &error);
    mka_session_options dense = plain(LONG + SHORT, MKA_F32), near = plain(LONG + SHORT + AFTER, MKA_F16),
                        far = plain(LONG, MKA_Q8_0), spilled;
    near.memory = far.memory = MKA_MEMORY_TIERED;
    near.plan.window = 256;
    far.plan.window = 512;
    spilled = near;
    spilled.plan.spill = folder;
    spilled.plan.ram = least(model, spilled);
    mka_session *expected = session_of(model, &dense), *part = session_of(model, &dense), *source = session_of(model, &far),
                *to[2] = {session_of(model, &near), session_of(model, &spilled)};
    ok(mka_session_fill(expected, SHORT, 5, &error), &error);
    ok(mka_session_fill(part, LONG, 6, &error), &error);
    ok(mka_session_append(expected, part, 0, &error), &error);
    ok(mka_session_fill(source, LONG, 6, &error), &error);
    assert_int_equal(mka_session_append(expected, source, 65, &error), MKA_UNSUPPORTED);
    assert_true(source->layers[0].cache[0].forgotten > 2000);
    for (int i = 0; i < 2; i++) {
        ok(mka_session_fill(to[i], SHORT, 5, &error), &error);
        ok(mka_session_append(to[i], source, 0, &error), &error);
        assert_int_equal(mka_session_length(to[i]), SHORT + LONG);
        assert_true(to[i]->layers[0].cache[0].forgotten > SHORT);
        for (int layer = 0; layer < 2; layer++) {
            double off = difference(to[i], expected, layer, SHORT + LONG, 1);
            if (off > 0.03) fail_msg("session %d, layer %d: off by %g", i, layer, off);
            assert_true(off > 1e-4); /* it went through codes */
        }
    }
    static float logits[2][MOST_VOCABULARY];
    for (int i = 0; i < 2; i++) eval(to[i], 0, AFTER, logits[i]);
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    mka_session_destroy(expected);
    mka_session_destroy(part);
    mka_session_destroy(source);
    for (int i = 0; i < 2; i++) mka_session_destroy(to[i]);
    mka_model_destroy(model);
}

/* ---- what is not ---- */

static void misfits_are_named(void **state) {
    (void)state;
    mka_model *models[2];
    mka_error error;
    for (int i = 0; i < 2; i++) ok(mka_model_random(engine, "tiny", MKA_Q8_0, NULL, 3 + (uint64_t)i, &models[i], &error), &error);
    mka_session_options o = plain(CONTEXT, MKA_F16);
    mka_session *one = session_of(models[0], &o), *two = session_of(models[0], &o), *other = session_of(models[1], &o);
    static float logits[2][MOST_VOCABULARY];
    eval(one, 0, FIRST, NULL);
    eval(two, 0, SECOND + 10, NULL);
    eval(other, 0, 8, NULL);
    fails(mka_session_append(one, one, 0, &error), &error, MKA_BAD_ARGUMENT, "to itself");
    fails(mka_session_append(one, other, 0, &error), &error, MKA_BAD_ARGUMENT, "another model's");
    fails(mka_session_append(one, two, -1, &error), &error, MKA_BAD_ARGUMENT, "token -1");
    fails(mka_session_append(one, two, SECOND + 11, &error), &error, MKA_BAD_ARGUMENT, "token 81 of a session of 80");
    fails(mka_session_append(one, two, 4, &error), &error, MKA_CONTEXT_FULL, "76 tokens do not fit: 45 of the context's 120");
    assert_int_equal(mka_session_length(one), FIRST);
    ok(mka_session_append(one, two, SECOND + 10, &error), &error); /* nothing of it */
    eval(one, FIRST, AFTER, logits[0]);
    ok(mka_session_truncate(two, 0, &error), &error);
    eval(two, 0, FIRST, NULL);
    eval(two, FIRST, AFTER, logits[1]);
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    mka_session_destroy(one);
    mka_session_destroy(two);
    mka_session_destroy(other);
    for (int i = 0; i < 2; i++) mka_model_destroy(models[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_stand_where_they_would),
        cmocka_unit_test(tiers_take_over_tiers),
        cmocka_unit_test(misfits_are_named),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
