/* test_opencl_recall - tiered memory on a device answers as the CPU's does: every contract, type and shape, in passes of any
 * size; what it says that it read; layers that stay dense; and sessions whose tiers are there as a whole, in part or not at all.
 *
 * Any device will do (PoCL is one on every CPU); without one the tests are skipped. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mka/memory.h>
#include <mka/session.h>

#include "memory/memory_layers.h"
#include "opencl/longterm.h"
#include "opencl_device.h"
#include "reference_model.h"

/* ---- memories ---- */

enum { WORDS = 40 };

/* Two memories of the same tokens, and what tokens are made of: words, and noise of their own. */
typedef struct both {
    mka_memory *here, *there;
    mka_memory_options options;
    float *words; /* [WORDS][kv_heads * head_dim] */
    float reach;  /* how long queries are */
    uint64_t seed;
} both;

static both make(mka_engine *other, mka_memory_options o, uint64_t seed) {
    both b = {.options = o, .seed = seed, .reach = 4};
    size_t width = (size_t)o.kv_heads * (size_t)o.head_dim;
    mka_error error;
    b.words = malloc(WORDS * width * sizeof *b.words);
    for (size_t i = 0; i < WORDS * width; i++) b.words[i] = 2 * reference_random(&b.seed);
    if (mka_memory_create(cpu, &o, &b.here, &error) || mka_memory_create(other, &o, &b.there, &error))
        fail_msg("%s", error.message);
    return b;
}

static void destroy(both *b) {
    mka_memory_destroy(b->here);
    mka_memory_destroy(b->there);
    free(b->words);
}

static void append(both *b, int n) {
    size_t width = (size_t)b->options.kv_heads * (size_t)b->options.head_dim;
    float *rows = malloc(2 * (size_t)n * width * sizeof *rows);
    mka_error error;
    for (size_t i = 0; i < 2 * (size_t)n; i++) {
        const float *word = b->words + (size_t)pick(&b->seed, 0, WORDS - 1) * width;
        for (size_t e = 0; e < width; e++) rows[i * width + e] = word[e] + 0.5F * reference_random(&b->seed);
    }
    if (mka_memory_append(b->here, 0, n, rows, rows + (size_t)n * width, &error) ||
        mka_memory_append(b->there, 0, n, rows, rows + (size_t)n * width, &error))
        fail_msg("%s", error.message);
    free(rows);
}

/* Clusters whose weights are next to the bar; of rules that count in steps, a whole step of them, where scores are rounded. */
static void near_to(const char *what, const char *of, uint64_t got, uint64_t want) {
    double most = 2 + (device->device->nv ? 0.2 : 0.02) * (double)want;
    if (fabs((double)got - (double)want) > most)
        fail_msg("%s: %s is %llu, on the CPU %llu", what, of, (unsigned long long)got, (unsigned long long)want);
}

/* NVIDIA's kernels, which have the default rule, read all values of a cluster that they read: no mean values stand for some of
 * its tokens. */
static void same_reading(const char *what, const mka_recall *rule, const mka_used *got, const mka_used *want) {
    int whole = device->device->nv && rule->contract == MKA_RECALL_ESTIMATED && rule->share <= 0 && rule->tokens == 0;
    near_to(what, "keys read", got->scored_tokens, want->scored_tokens);
    if (whole && got->read_tokens == got->scored_tokens) {
        if (got->mean_bytes > want->mean_bytes)
            near_to(what, "bytes of mean values", got->mean_bytes / 64, want->mean_bytes / 64);
        return;
    }
    near_to(what, "values read", got->read_tokens, want->read_tokens);
    near_to(what, "bytes of mean values", got->mean_bytes / 64, want->mean_bytes / 64);
}

/* n queries at the end of both, by a rule. */
static void compare(const char *what, both *b, int n, const mka_recall *rule, float allowed) {
    const mka_memory_options *o = &b->options;
    size_t count = (size_t)n * (size_t)o->heads * (size_t)o->head_dim;
    float *q = malloc(count * sizeof *q), *here = malloc(count * sizeof *here), *there = malloc(count * sizeof *there), most = 0;
    mka_used used = {.queries = 0}, used_there = {.queries = 0};
    mka_error error;
    for (size_t i = 0; i < count; i++) q[i] = b->reach * reference_random(&b->seed);
    mka_memory_set_recall(b->here, rule, NULL);
    mka_memory_set_recall(b->there, rule, NULL);
    if (mka_memory_attend(b->here, 0, n, q, here, &used, &error) ||
        mka_memory_attend(b->there, 0, n, q, there, &used_there, &error))
        fail_msg("%s: %s", what, error.message);
    double apart = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        most = fmaxf(most, fabsf(here[i]));
        apart += (double)(there[i] - here[i]) * (double)(there[i] - here[i]);
        size += (double)here[i] * (double)here[i];
    }
    if (device->device->nv && (rule->share > 0 || rule->tokens > 0))
        allowed *= b->options.plan.key_type == MKA_Q4_0 ? 8 : 5; /* a step more or less, of scores that are rounded */
    if (!(sqrt(apart / size) <= (double)allowed))
        fail_msg("%s, %d queries behind %d tokens: off by %g of its size", what, n, mka_memory_length(b->here, 0),
                 sqrt(apart / size));
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(there[i] - here[i]) <= 20 * allowed * (most + 1)))
            fail_msg("%s, %d queries behind %d tokens: number %zu is %g, on the CPU %g", what, n, mka_memory_length(b->here, 0),
                     i, (double)there[i], (double)here[i]);
    assert_int_equal(used_there.queries, used.queries);
    assert_int_equal(used_there.long_tokens, used.long_tokens);
    assert_int_equal(used_there.scan_bytes, used.scan_bytes);
    same_reading(what, rule, &used_there, &used);
    double pairs = used.queries > 0 ? (double)used.queries : 1;
    if (fabs(used_there.unread_mass - used.unread_mass) > (device->device->nv ? 2e-2 : 2e-3) * pairs)
        fail_msg("%s: %g of the mass is not read, on the CPU %g", what, used_there.unread_mass / pairs, used.unread_mass / pairs);
    assert_true(used_there.lost_bound == used.lost_bound);
    free(q);
    free(here);
    free(there);
}

static const mka_recall rules[] = {{.contract = MKA_RECALL_ESTIMATED},
                                   {.contract = MKA_RECALL_ESTIMATED, .share = 0.9F},
                                   {.contract = MKA_RECALL_ESTIMATED, .tokens = 200},
                                   {.contract = MKA_RECALL_CERTIFIED, .eps = 0.05F},
                                   {.contract = MKA_RECALL_CERTIFIED},
                                   {.contract = MKA_RECALL_DENSE}};
enum { RULES = sizeof rules / sizeof *rules };

static float tolerance(const mka_memory_options *o) {
    return device->device->nv && o->local != MKA_F32 ? 1e-2F : 1e-3F; /* 16 bits of the matrix unit; the choice at its bar */
}

static void one_memory(mka_memory_options o, uint64_t seed) {
    char what[200];
    both b = make(device, o, seed);
    assert_non_null(b.there->residents); /* it is on the device */
    for (int length = 0, step = 0; length < o.context; step++) {
        int n = step % 3 == 0 ? 1 : pick(&seed, 1, o.queries);
        if (n > o.context - length) n = o.context - length;
        append(&b, n);
        length += n;
        snprintf(what, sizeof what, "heads %d/%d of %d, window %d, %s, rows %s and %s, rule %d", o.heads, o.kv_heads, o.head_dim,
                 o.plan.window, mka_type_name(o.local), mka_type_name(o.plan.key_type), mka_type_name(o.plan.value_type),
                 step % RULES);
        compare(what, &b, simulated() && n > 2 ? 2 : n, &rules[step % RULES], tolerance(&o));
    }
    for (int i = 0; i < RULES; i++) compare(what, &b, pick(&seed, 1, 3), &rules[i], tolerance(&o));
    destroy(&b);
}

static void memories_of_random_shapes(void **state) {
    (void)state;
    need_device();
    static const mka_type types[] = {MKA_Q8_0, MKA_F16, MKA_BF16, MKA_F32, MKA_Q4_0};
    static const int dims[] = {16, 40, 64, 128};
    uint64_t seed = 19;
    for (int i = 0; i < 5; i++) {
        mka_memory_options o;
        mka_memory_defaults(&o);
        o.kv_heads = pick(&seed, 1, 3);
        o.heads = o.kv_heads * pick(&seed, 1, i == 2 ? 9 : 3);
        o.head_dim = dims[pick(&seed, 0, 3)];
        o.local = types[(i + 3) % 5];
        o.plan.key_type = types[i];
        o.plan.value_type = types[pick(&seed, 0, 4)];
        o.plan.window = 64 * pick(&seed, 1, 3);
        o.queries = pick(&seed, 80, 150);
        o.context = sized(pick(&seed, 600, 900), 420);
        one_memory(o, seed);
    }
}

/* The shape of published models, and what long contexts have: segments of 2,048 tokens, tokens that leave the local tier. */
static void a_long_memory(void **state) {
    (void)state;
    need_speed();
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.heads = 7, o.kv_heads = 1, o.head_dim = 128, o.queries = 400, o.context = 7600;
    both b = make(device, o, 3);
    for (int length = 0; length < o.context; length += 400) {
        append(&b, 400);
        if (length % 1600 == 0) compare("long", &b, 1 + length % 3, &rules[0], tolerance(&o));
    }
    for (int i = 0; i < RULES; i++) compare("long, at the end", &b, 2, &rules[i], tolerance(&o));
    assert_true(b.there->layers[0].tiers.forgotten > o.plan.sinks);
    mka_memory_reset(b.here);
    mka_memory_reset(b.there);
    for (int length = 0; length < 5200; length += 400) append(&b, 400); /* again, and nobody asks while it fills */
    compare("after a reset", &b, 3, &rules[0], tolerance(&o));
    destroy(&b);
}

/* What NVIDIA's matrix units take: single tokens and prompts, all widths, whole groups of heads and parts of them. */
static void on_matrix_units(void **state) {
    (void)state;
    need_device();
    if (!device->device->nv) {
        print_message("skipped: the device is none of NVIDIA's\n");
        skip();
    }
    static const struct {
        int heads, kv_heads, dim, window, context;
        mka_type local;
    } shapes[] = {{7, 1, 128, 1024, 9500, MKA_F16}, {14, 2, 64, 64, 3000, MKA_Q8_0}, {32, 2, 128, 256, 3000, MKA_BF16},
                  {3, 3, 64, 512, 4000, MKA_F16},   {4, 1, 256, 320, 3000, MKA_F16}, {9, 3, 64, 64, 2000, MKA_Q4_0}};
    size_t count = sizeof shapes / sizeof *shapes;
    for (size_t j = 0; j < 2 * count; j++) { /* all rows there; then in memory */
        size_t i = j % count;
        char what[100];
        mka_memory_options o;
        mka_memory_defaults(&o);
        o.heads = shapes[i].heads, o.kv_heads = shapes[i].kv_heads, o.head_dim = shapes[i].dim;
        o.plan.window = shapes[i].window, o.context = shapes[i].context, o.local = shapes[i].local, o.queries = 250;
        snprintf(what, sizeof what, "heads %d/%d of %d, window %d (%d)", o.heads, o.kv_heads, o.head_dim, o.plan.window,
                 j >= count);
        if (j >= count) rows_stay_here(&o);
        both b = make(device, o, 11 + i);
        for (int length = 0; length + 250 <= o.context; length += 250) {
            append(&b, 250);
            compare(what, &b, length % 1000 ? 1 : 15, &rules[0], tolerance(&o)); /* 15: see tiered() below */
            if (length % 1000 == 0) compare(what, &b, 40, &rules[RULES - 1], tolerance(&o));
        }
        destroy(&b);
        if (j >= count) no_limit();
    }
}

/* On a CPU one work-item does all of a group's work; here they share it, as on a GPU, and wait for each other where they must. */
static void shared_by_lanes(void **state) {
    (void)state;
    need_device();
    int before = device->device->lanes;
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.heads = 6, o.kv_heads = 2, o.head_dim = 40, o.queries = 60, o.context = sized(700, 420);
    o.plan.window = 64;
    device->device->lanes = 16;
    one_memory(o, 29);
    device->device->lanes = before;
}

/* ---- layers whose keys the rows do not fit ---- */

/* Keys as long as those of Qwen2.5's first layer. */
static void append_far(both *b, int n) {
    size_t width = (size_t)b->options.kv_heads * (size_t)b->options.head_dim;
    float *rows = malloc((size_t)n * width * sizeof *rows);
    mka_error error;
    for (size_t i = 0; i < (size_t)n * width; i++) rows[i] = 60 * reference_random(&b->seed);
    if (mka_memory_append(b->here, 0, n, rows, rows, &error) || mka_memory_append(b->there, 0, n, rows, rows, &error))
        fail_msg("%s", error.message);
    free(rows);
}

static void layers_that_stay_dense(void **state) {
    (void)state;
    need_speed();
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.heads = 4, o.kv_heads = 2, o.head_dim = 32, o.queries = 100, o.context = 8000, o.local = MKA_F32;
    o.plan.window = 64;
    for (int i = 0; i < 2; i++) { /* 0: the device has room for all of it; 1: not, and it goes to the CPU */
        both b = make(device, o, 7);
        uint64_t before = device->device->limit;
        for (int length = 0; length < 3000; length += 100) {
            append_far(&b, 100);
            if (i == 1 && length == 100) device->device->limit = device->device->usage.taken + (64 << 10);
            compare("dense", &b, 1 + length / 100 % 5, &rules[0], 1e-4F);
        }
        assert_true(b.there->layers[0].tiers.dense);
        assert_int_equal(b.there->layers[0].tiers.local.device != NULL, i == 0);
        device->device->limit = before;
        mka_memory_reset(b.here);
        mka_memory_reset(b.there);
        append(&b, 100);
        compare("after a reset", &b, 5, &rules[0], 1e-4F);
        destroy(&b);
    }
}

/* ---- no room, and what cannot be done there ---- */

static void a_memory_without_room(void **state) {
    (void)state;
    need_device();
    mka_engine_options options = options_of("opencl");
    mka_engine *small;
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.heads = 4, o.kv_heads = 2, o.head_dim = 32, o.queries = 100, o.context = 2000;
    o.plan.window = 64;
    options.device_memory = 1 << 18;
    logged[0] = 0;
    assert_int_equal(mka_engine_create(&options, &small, NULL), MKA_OK);
    both b = make(small, o, 5);
    assert_null(b.there->residents);
    if (!strstr(logged, "the CPU recalls")) fail_msg("it said: %s", logged);
    for (int length = 0; length < 1000; length += 100) {
        append(&b, 100);
        compare("no room", &b, 3, &rules[0], 1e-6F);
    }
    destroy(&b);
    mka_engine_destroy(small);
}

/* ---- rows that stay in memory ---- */

/* Small rings, which all but single tokens want more of than they take at once, by every rule. */
static void rows_that_stay(void **state) {
    (void)state;
    need_device();
    static const mka_type keys[] = {MKA_Q8_0, MKA_F16, MKA_F32}, values[] = {MKA_Q8_0, MKA_Q4_0, MKA_BF16};
    static const int dims[] = {64, 40, 16};
    for (int i = sized(0, 2); i < 3; i++) {
        mka_memory_options o;
        mka_device_usage before, after;
        mka_memory_defaults(&o);
        o.kv_heads = 1 + i % 2, o.heads = 2 * o.kv_heads, o.head_dim = dims[i];
        o.plan.key_type = keys[i], o.plan.value_type = values[i];
        o.plan.window = 64, o.queries = 60, o.context = 1800;
        logged[0] = 0;
        rows_stay_here(&o);
        if (!strstr(logged, "long-term rows of 1 of 1 layers stay in memory")) fail_msg("it said: %s", logged);
        mka_engine_get_device_usage(device, &before);
        one_memory(o, 31 + (uint64_t)i);
        mka_engine_get_device_usage(device, &after);
        if (after.fetched.tokens <= before.fetched.tokens) fail_msg("no rows came for memory %d", i);
        no_limit();
    }
}

/* What was wanted once is there when it is wanted again, and only what is new comes; until other rows took its place. */
static void rows_come_once(void **state) {
    (void)state;
    need_speed();
    mka_memory_options o;
    mka_device_usage u[4];
    mka_error error;
    mka_memory_defaults(&o);
    o.heads = 2, o.kv_heads = 1, o.head_dim = 32, o.plan.window = 64, o.queries = 100, o.context = 10000;
    rows_stay_here(&o);
    both b = make(device, o, 3);
    for (int length = 0; length < 9900; length += 100) append(&b, 100);
    float q[64], out[64];
    const mka_recall few = {.contract = MKA_RECALL_ESTIMATED, .tokens = 100};
    mka_memory_set_recall(b.there, &few, NULL);
    for (int i = 0; i < 64; i++) q[i] = 4 * reference_random(&b.seed);
    for (int i = 0; i < 3; i++) {
        mka_used used = {.queries = 0};
        mka_engine_get_device_usage(device, &u[i]);
        assert_int_equal(mka_memory_attend(b.there, 0, 1, q, out, &used, &error), MKA_OK);
        if (i == 0) mka_engine_get_device_usage(device, &u[3]);
        if (i == 0) assert_int_equal(u[3].fetched.tokens - u[0].fetched.tokens, used.scored_tokens);
        if (i == 1) compare("all", &b, 1, &rules[5], 1e-3F); /* reads everything, by pieces: nothing else is left there */
        mka_memory_set_recall(b.there, &few, NULL);
    }
    mka_engine_get_device_usage(device, &u[3]);
    assert_true(u[1].fetched.tokens > u[0].fetched.tokens);
    assert_true(u[3].fetched.tokens > u[2].fetched.tokens);
    mka_engine_get_device_usage(device, &u[0]);
    assert_int_equal(mka_memory_attend(b.there, 0, 1, q, out, NULL, &error), MKA_OK);
    mka_engine_get_device_usage(device, &u[1]);
    assert_int_equal(u[1].fetched.tokens, u[0].fetched.tokens);
    for (int i = 0; i < RULES; i++) compare("at the end", &b, 2, &rules[i], 1e-3F);
    mka_memory_reset(b.here);
    mka_memory_reset(b.there);
    for (int length = 0; length < 3000; length += 100) append(&b, 100); /* other rows in the same places */
    for (int i = 0; i < RULES; i++) compare("after a reset", &b, 2, &rules[i], 1e-3F);
    b.there->layers[0].tiers.there->ring.now = 0xfffffff0U; /* counted round: it begins anew */
    for (int i = 0; i < RULES; i++) compare("after many", &b, 2, &rules[i], 1e-3F);
    destroy(&b);
    no_limit();
}

/* ---- sessions ---- */

enum { TOKENS = 1100, LAST = 12, VOCABULARY = 256 };

static mka_session_options tiered(void) {
    mka_session_options o;
    mka_session_defaults(&o);
    o.memory = MKA_MEMORY_TIERED;
    o.plan.window = 64;
    o.context = 3600;
    o.chunk = 15; /* more queries at once share what they read on the CPU, where every query on a device reads for itself */
    o.exact = 1;
    return o;
}

/* A prompt in chunks, then single tokens, whose logits are kept; what was read, and by head. */
static void run_session(mka_engine *engine, const char *router, float *logits, mka_used *used, mka_head_used *head) {
    mka_session_options o = tiered();
    mka_model *model;
    mka_session *session = NULL;
    mka_error error;
    int tokens[TOKENS];
    for (int i = 0; i < TOKENS; i++) tokens[i] = (37 * i + i / 50 * 11) % VOCABULARY;
    if (mka_model_random(engine, "tiny", MKA_Q8_0, router, 3, &model, &error) || mka_session_create(model, &o, &session, &error))
        fail_msg("%s", error.message);
    if (head) assert_int_equal(mka_session_watch(session, MKA_WATCH_COMPARE, NULL), MKA_OK);
    if (mka_session_eval(session, tokens, TOKENS - LAST, NULL, NULL, NULL, &error)) fail_msg("%s", error.message);
    for (int i = 0; i < LAST; i++)
        if (mka_session_eval(session, tokens + TOKENS - LAST + i, 1, logits + i * VOCABULARY, NULL, NULL, &error))
            fail_msg("%s", error.message);
    mka_session_get_used(session, used);
    if (head) assert_int_equal(mka_session_get_head_used(session, 1, 0, head), 1);
    mka_session_destroy(session);
    mka_model_destroy(model);
}

static void same_logits(const char *what, const float *got, const float *want, float allowed) {
    float most = 0;
    for (int i = 0; i < LAST * VOCABULARY; i++) most = fmaxf(most, fabsf(want[i]));
    for (int i = 0; i < LAST * VOCABULARY; i++)
        if (!(fabsf(got[i] - want[i]) <= allowed * (most + 1)))
            fail_msg("%s: logit %d is %g, on the CPU %g", what, i, (double)got[i], (double)want[i]);
}

static void compare_sessions(const char *what, mka_engine *other, const char *router, int watched) {
    static float here[LAST * VOCABULARY], there[LAST * VOCABULARY];
    mka_used used, used_there;
    mka_head_used head, head_there;
    run_session(cpu, router, here, &used, watched ? &head : NULL);
    run_session(other, router, there, &used_there, watched ? &head_there : NULL);
    same_logits(what, there, here, other->device && other->device->nv ? 1e-2F : 2e-3F);
    assert_true(used.scored_tokens > 0);
    near_to(what, "keys read", used_there.scored_tokens, used.scored_tokens);
    near_to(what, "values read", used_there.read_tokens, used.read_tokens);
    assert_int_equal(used_there.queries, used.queries);
    if (!watched) return;
    assert_int_equal(head_there.compared, head.compared);
    near_to(what, "a head's keys", head_there.used.scored_tokens, head.used.scored_tokens);
    double calls = (double)head.compared;
    if (fabs(head_there.lost_mass - head.lost_mass) > 2e-3 * calls ||
        fabs(head_there.output_error - head.output_error) > 5e-3 * calls)
        fail_msg("%s: lost %g and off by %g, on the CPU %g and %g", what, head_there.lost_mass / calls,
                 head_there.output_error / calls, head.lost_mass / calls, head.output_error / calls);
}

static void sessions(void **state) {
    (void)state;
    need_speed();
    compare_sessions("session", device, NULL, 0);
    compare_sessions("session that is watched", device, NULL, 1);
    compare_sessions("mka", device, "mka", 0);
}

/* Layers are there, but their tiers, or the second layer's, are not. */
static void sessions_without_room(void **state) {
    (void)state;
    need_speed();
    int seen[3] = {0}, without = 0;
    for (uint64_t bytes = (uint64_t)16 << 20; bytes > 1 << 20 && !(seen[0] && seen[1]); bytes -= bytes / 32) {
        mka_engine_options options = options_of("opencl");
        mka_engine *small;
        mka_model *model;
        mka_session *session = NULL;
        mka_session_options o = tiered();
        mka_error error;
        options.device_memory = bytes;
        logged[0] = 0;
        assert_int_equal(mka_engine_create(&options, &small, NULL), MKA_OK);
        small->device->ring_least = 1;
        assert_int_equal(mka_model_random(small, "tiny", MKA_Q8_0, NULL, 3, &model, &error), MKA_OK);
        mka_status status = mka_session_create(model, &o, &session, &error);
        mka_session_destroy(session);
        mka_model_destroy(model);
        const char *said = strstr(logged, "that of ");
        int there = status ? -1 : said ? said[8] - '0' : 2;
        if (there >= 0 && there < 2 && !seen[there]++) compare_sessions("a part of the tiers", small, NULL, 0);
        if (there == 2 && strstr(logged, "of 2 layers stay in memory") && !without++)
            compare_sessions("a part of the rows", small, NULL, 1);
        mka_engine_destroy(small);
    }
    assert_true(seen[0] && seen[1] && without);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memories_of_random_shapes),
        cmocka_unit_test(a_long_memory),
        cmocka_unit_test(on_matrix_units),
        cmocka_unit_test(shared_by_lanes),
        cmocka_unit_test(layers_that_stay_dense),
        cmocka_unit_test(a_memory_without_room),
        cmocka_unit_test(rows_that_stay),
        cmocka_unit_test(rows_come_once),
        cmocka_unit_test(sessions),
        cmocka_unit_test(sessions_without_room),
    };
    return cmocka_run_group_tests(tests, start_engines, stop_engines);
}
