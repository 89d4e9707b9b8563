/* test_numa - on a machine with NUMA nodes: every page of every head's arrays is where the plan says, asked of the system by
 * move_pages itself, and threads run beside them; interleaved; on named nodes; and where the system refuses. Skipped on machines
 * with one node: `./run numa` boots one with three, the last of which has no CPUs. */
#include <mka/memory.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "denied.h"
#include "memory/placement.h"
#include "model/session.h"
#include "reference_model.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOKENS = 9000, DIM = 64, WINDOW = 128 };

/* Node numbers of this machine with CPUs, and without. */
static int with[2], without = -1;

static void need_nodes(void) {
    mka_topology *t;
    int found = 0;
    assert_int_equal(mka_topology_create(NULL, &t, NULL), MKA_OK);
    int here = mka_topology_is_this_machine(t);
    for (int i = 0; i < mka_topology_nodes(t); i++) {
        mka_node node = mka_topology_node(t, i);
        if (node.cpus == 0)
            without = node.number;
        else if (found < 2)
            with[found++] = node.number;
    }
    mka_topology_destroy(t);
    if (found == 2 && here) return;
    print_message("this machine has one NUMA node\n");
    skip();
}

/* ---- a cache of one layer with all its tiers, as a session makes it ---- */

typedef struct cache {
    mka_engine *engine;
    mka_placement placement;
    mka_ops ops;
    mka_arena work;
    mka_tiers_shared shared;
    mka_tiers tiers;
} cache;

static mka_engine *start(uint64_t nodes, int threads) {
    mka_engine_options options;
    mka_engine *engine;
    mka_error error;
    mka_engine_defaults(&options);
    options.nodes = nodes;
    options.threads = threads;
    if (mka_engine_create(&options, &engine, &error) != MKA_OK) fail_msg("%s", error.message);
    return engine;
}

/* TOKENS tokens, so that rows have been closed and pages of every array were touched. */
static void make(cache *c, uint64_t nodes, mka_numa_mode mode, int kv_heads) {
    mka_error error;
    *c = (cache){.engine = start(nodes, 0)};
    int threads = mka_pool_threads(c->engine->pool);
    assert_int_equal(mka_placement_plan(&c->placement, c->engine->topology, threads, mode, &error), MKA_OK);
    mka_ops_cpu(&c->ops, c->engine);
    c->ops.places = mka_placement_places(&c->placement);
    mka_memory_plan_defaults(&c->shared.plan);
    c->shared.plan.window = WINDOW;
    struct mka_ops_limits limits = {.rows = 1, .cols = 1, .head_rows = 1, .key_dim = DIM, .value_dim = DIM, .context = TOKENS};
    limits.kv_heads = kv_heads;
    mka_recall_limits recall = {1, kv_heads, DIM, DIM, mka_longterm_segment(WINDOW), TOKENS};
    for (int pass = 0; pass < 2; pass++) {
        mka_ops_layout(&c->ops, &limits, &c->work);
        mka_tiers_layout(&c->shared, &recall, 1, kv_heads, threads, 0, &c->work);
        if (pass == 0) assert_int_equal(mka_arena_reserve(&c->work, &error), MKA_OK);
    }
    mka_local_shape shape = {kv_heads, DIM, DIM, 0, MKA_F16, MKA_F16, TOKENS, 1, NULL, 0};
    assert_int_equal(mka_tiers_create(&shape, &c->shared, &c->tiers, &error), MKA_OK);
    mka_placement_bind(&c->placement, &c->tiers);
    size_t width = (size_t)kv_heads * DIM;
    float *x = malloc((size_t)TOKENS * width * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < TOKENS * width; i++) x[i] = (float)((int)(i * 2654435761U >> 8 & 255) - 128) / 64;
    mka_local_store(&c->tiers.local, &c->ops, 0, TOKENS, x, (int)width, x, (int)width);
    float *out = malloc(width * sizeof *out);
    assert_non_null(out);
    mka_attend_job job = {.n = 1, .first = TOKENS - 1, .heads = kv_heads, .scale = 0.125F, .q = x, .out = out};
    mka_tiers_attend(&c->tiers, &c->ops, &job, NULL, 0);
    assert_true(c->tiers.longterm.blocks > 100);
    free(out);
    free(x);
}

static void unmake(cache *c) {
    mka_tiers_destroy(&c->tiers);
    mka_arena_free(&c->work);
    mka_engine_destroy(c->engine);
}

/* ---- where pages are, without any of the code that is tested ---- */

/* Pages that lie wholly within start..start+bytes: counts those on node, and those on any other; untouched ones are neither. */
static void ask(const unsigned char *start, size_t bytes, int node, int *there, int *elsewhere) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)start + page - 1) / page * page, end = (uintptr_t)start + bytes;
    for (uintptr_t at = first; at + page <= end; at += page) {
        void *address = (void *)at;
        int where = -1;
        assert_int_equal(syscall(SYS_move_pages, 0, 1UL, &address, NULL, &where, 0), 0);
        *there += where == node;
        *elsewhere += where >= 0 && where != node;
    }
}

typedef struct array {
    const char *name;
    const unsigned char *start;
    size_t head; /* bytes of one */
    size_t unit, unit_tokens;
    int rows;
} array;

static int arrays_of(const mka_tiers *t, array list[4]) {
    const mka_local *l = &t->local;
    const mka_longterm *f = &t->longterm;
    const array all[] = {{"keys", l->keys, l->tiles * l->key_tile, l->key_tile, 32, 0},
                         {"values", l->values, l->tiles * l->value_tile, l->value_tile, 32, 0},
                         {"index", f->index, f->segments * f->segment, f->segment, (size_t)f->shape.segment, 0},
                         {"rows", f->records.pages, f->capacity * f->records.bytes, f->records.bytes, 64, 1}};
    memcpy(list, all, sizeof all);
    return 4;
}

/* Every page of every head, whose node is home[head]; rows: on that node instead, where it is not -1. */
static void expect_heads(const cache *c, int kv_heads, const int *home, int rows) {
    array list[4];
    for (int i = 0, n = arrays_of(&c->tiers, list); i < n; i++)
        for (int h = 0; h < kv_heads; h++) {
            int there = 0, elsewhere = 0, node = list[i].rows && rows >= 0 ? rows : home[h];
            ask(list[i].start + (size_t)h * list[i].head, list[i].head, node, &there, &elsewhere);
            if (elsewhere) fail_msg("%s of head %d: %d pages on node %d, %d elsewhere", list[i].name, h, there, node, elsewhere);
            if (there == 0 && list[i].head > 16384) fail_msg("%s of head %d: no page was touched", list[i].name, h);
        }
    mka_numa_report report;
    mka_placement_report(&c->placement, &report);
    mka_placement_ask(&c->placement, &c->tiers, &report);
    assert_true(report.known && !report.refused);
    assert_int_equal(report.misplaced, 0);
    for (int i = 0; i < report.nodes; i++) assert_int_equal(report.planned[i], report.found[i]);
}

/* ---- tests ---- */

/* A model whose matrices are many pages: rows lie where the threads are that multiply by them. */
static void rows_of_weights_lie_on_their_nodes(void **state) {
    (void)state;
    need_nodes();
    const reference_shape shape = {"lm-gqa", 1, 256, 4, 2, 64, 512, 1024, 0, 0, 0, 0, 0, 0};
    char path[256];
    mka_error error;
    mka_engine *engine = start(0, 0);
    assert_true(reference_model_write(&shape, 7, path, sizeof path));
    for (int mode = MKA_NUMA_AUTO; mode <= MKA_NUMA_INTERLEAVE; mode++) {
        mka_model_options options;
        mka_session_options session_options;
        mka_model *model;
        mka_session *session;
        mka_numa_report report;
        mka_model_defaults(&options);
        mka_session_defaults(&session_options);
        options.numa = session_options.plan.numa = (mka_numa_mode)mode;
        session_options.context = 64;
        if (mka_model_load(engine, path, &options, &model, &error) ||
            mka_session_create(model, &session_options, &session, &error))
            fail_msg("%s", error.message);
        mka_session_get_numa(session, &report);
        assert_int_equal(model->placed != NULL, mode != MKA_NUMA_OFF);
        const mka_matrix *const list[] = {&model->blocks[0].attention.weights.q, &model->blocks[0].gate, &model->blocks[0].up,
                                          &model->blocks[0].down, &model->output};
        for (size_t i = 0; i < sizeof list / sizeof *list && mode == MKA_NUMA_AUTO; i++) {
            const unsigned char *data = list[i]->data;
            size_t half = (size_t)list[i]->rows / 2 * list[i]->row_bytes; /* as many threads on each */
            int there[2] = {0}, elsewhere[2] = {0};
            ask(data, half, with[0], &there[0], &elsewhere[0]);
            ask(data + half, half, with[1], &there[1], &elsewhere[1]);
            print_message("matrix %zu: %d and %d pages at home, %d and %d not\n", i, there[0], there[1], elsewhere[0],
                          elsewhere[1]);
            assert_int_equal(elsewhere[0] + elsewhere[1], 0);
            assert_int_equal(there[0], half / 4096);
            assert_int_equal(there[1], half / 4096);
        }
        uint64_t found = 0;
        assert_true(report.known);
        assert_int_equal(report.misplaced, 0);
        for (int i = 0; i < report.nodes; i++) {
            if (mode == MKA_NUMA_AUTO) assert_int_equal(report.weights_planned[i], report.weights_found[i]);
            found += report.weights_found[i];
        }
        assert_true(mode == MKA_NUMA_OFF ? found == 0 : found >= (uint64_t)4 * 512 * 256 * 3);
        float logits[1024];
        assert_int_equal(mka_session_eval(session, (int[]){3, 1, 4}, 3, logits, NULL, NULL, &error), MKA_OK);
        mka_session_destroy(session);
        mka_model_destroy(model);
    }
    unlink(path);
    mka_engine_destroy(engine);
}

/* A spill file's cache: each head's records come to its node. */
static void spilled_rows_come_to_their_nodes(void **state) {
    (void)state;
    need_nodes();
    enum { BYTES = 8192, PLACES = 200, EACH = 80, HEADS = 4 };
    mka_engine *engine = start(0, 0);
    mka_placement p;
    mka_spill *spill;
    mka_spill_part part;
    mka_error error;
    mka_numa_report report;
    assert_int_equal(mka_placement_plan(&p, engine->topology, mka_pool_threads(engine->pool), MKA_NUMA_AUTO, &error), MKA_OK);
    if (mka_spill_create("/tmp", BYTES, PLACES, mka_placement_places(&p), &spill, &error) ||
        mka_spill_add(spill, BYTES, (size_t)EACH * HEADS, HEADS, EACH, &part, &error))
        fail_msg("%s", error.message);
    if (mka_placement_bind_spill(&p, spill)) skip();
    for (size_t i = 0; i < (size_t)EACH * HEADS; i++) {
        unsigned char *record = mka_spill_put(&part, i, &error);
        if (!record) fail_msg("%s", error.message);
        memset(record, (int)i, BYTES);
        if (mka_spill_commit(&part, i, &error)) fail_msg("%s", error.message);
    }
    for (size_t i = 0; i < (size_t)EACH * HEADS; i++) {
        int there = 0, elsewhere = 0;
        const unsigned char *record = mka_spill_get(&part, i, &error);
        if (!record) fail_msg("%s", error.message);
        ask(record, BYTES, with[i / EACH / 2], &there, &elsewhere);
        assert_int_equal(there, BYTES / 4096);
        assert_int_equal(elsewhere, 0);
        mka_spill_release(&part, i);
    }
    mka_placement_report(&p, &report);
    mka_placement_ask_spill(&p, spill, &report);
    assert_true(report.known);
    assert_int_equal(report.misplaced, 0);
    assert_int_equal(report.found[0] + report.found[1], (uint64_t)PLACES * BYTES);
    mka_spill_remove(&part);
    mka_spill_destroy(spill);
    mka_engine_destroy(engine);
}

static void heads_lie_on_their_nodes(void **state) {
    (void)state;
    need_nodes();
    cache c;
    make(&c, 0, MKA_NUMA_AUTO, 4);
    if (c.placement.refused.status) skip();
    assert_int_equal(c.placement.mode, MKA_NUMA_NODES);
    assert_int_equal(c.placement.places.count, 2); /* a node without CPUs is not used unasked */
    expect_heads(&c, 4, (int[]){with[0], with[0], with[1], with[1]}, -1);
    unmake(&c);
}

static void stretches_of_one_head_lie_on_nodes_in_turn(void **state) {
    (void)state;
    need_nodes();
    cache c;
    array list[4];
    make(&c, 0, MKA_NUMA_AUTO, 1);
    if (c.placement.refused.status) skip();
    for (int i = 0, n = arrays_of(&c.tiers, list); i < n; i++) {
        size_t stretch = 4096 / list[i].unit_tokens * list[i].unit;
        for (size_t from = 0, s = 0; from < list[i].head; from += stretch, s++) {
            int there = 0, elsewhere = 0;
            size_t bytes = list[i].head - from < stretch ? list[i].head - from : stretch;
            ask(list[i].start + from, bytes, with[s % 2], &there, &elsewhere);
            if (elsewhere) fail_msg("%s, stretch %zu: %d pages there, %d elsewhere", list[i].name, s, there, elsewhere);
        }
    }
    unmake(&c);
}

static void turns_spread_evenly(void **state) {
    (void)state;
    need_nodes();
    cache c;
    assert_int_equal(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0); /* a huge page is one in turn, and these arrays have few */
    make(&c, 0, MKA_NUMA_INTERLEAVE, 4);
    assert_int_equal(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
    if (c.placement.refused.status) skip();
    array list[4];
    for (int i = 0, n = arrays_of(&c.tiers, list); i < n; i++) {
        int first = 0, rest = 0;
        ask(list[i].start, 4 * list[i].head, with[0], &first, &rest);
        print_message("%s: %d pages on node %d, %d on node %d\n", list[i].name, first, with[0], rest, with[1]);
        assert_true(first > 0 && abs(first - rest) <= 8); /* one for each run of pages that were touched */
    }
    unmake(&c);
}

/* What every thread finds: the node it is on, the plan's word for it, and whose item it is given first. */
typedef struct threads_seen {
    const mka_places *places;
    mka_deal deal;
    unsigned node[64];
    int place[64], first[64];
    mka_pool *pool;
} threads_seen;

static int half(const void *work, size_t item) {
    (void)work;
    return item >= 1000;
}

static void look(void *argument, int thread, int threads) {
    threads_seen *s = argument;
    unsigned cpu;
    size_t item = 0;
    (void)threads;
    mka_pool_barrier(s->pool);
    assert_int_equal(getcpu(&cpu, &s->node[thread]), 0);
    s->place[thread] = mka_places_here(s->places, thread);
    s->first[thread] = mka_deal_take(&s->deal, s->places, s->place[thread], 2000, half, NULL, &item) ? item >= 1000 : -1;
}

static void threads_run_beside_their_heads(void **state) {
    (void)state;
    need_nodes();
    static threads_seen seen;
    mka_engine *engine = start(0, 0);
    mka_placement p;
    int threads = mka_pool_threads(engine->pool), on[2] = {0, 0};
    assert_true(threads >= 2 && threads <= 64);
    assert_int_equal(mka_placement_plan(&p, engine->topology, threads, MKA_NUMA_AUTO, NULL), MKA_OK);
    seen = (threads_seen){.places = &p.places, .pool = engine->pool};
    mka_pool_run(engine->pool, look, &seen);
    for (int t = 0; t < threads; t++) {
        assert_int_equal(seen.node[t], with[seen.place[t]]);
        assert_int_equal(seen.first[t], seen.place[t]);
        if (t > 0) assert_int_equal(seen.place[t], p.places.of_thread[t]); /* the caller's own thread is not bound */
        on[seen.place[t]]++;
    }
    print_message("%d threads on node %d, %d on node %d\n", on[0], with[0], on[1], with[1]);
    assert_true(on[0] > 0 && on[1] > 0);
    mka_engine_destroy(engine);
}

/* In a process of its own, since the calling thread stays bound. Returns its status. */
static int in_child(int (*body)(void)) {
    int status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) _exit(body());
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static int on_one_node(void) {
    cache c;
    unsigned cpu, node;
    make(&c, 1ULL << with[1], MKA_NUMA_AUTO, 2);
    if (c.placement.refused.status) return 77;
    expect_heads(&c, 2, (int[]){with[1], with[1]}, -1);
    int wrong = getcpu(&cpu, &node) != 0 || (int)node != with[1];
    unmake(&c);
    return wrong;
}

static void a_named_node_has_all(void **state) {
    (void)state;
    need_nodes();
    int status = in_child(on_one_node);
    if (status == 77) skip();
    assert_int_equal(status, 0);
}

static int rows_apart(void) {
    cache c;
    make(&c, 1ULL << with[0] | 1ULL << with[1] | 1ULL << without, MKA_NUMA_AUTO, 2);
    if (c.placement.refused.status) return 77;
    expect_heads(&c, 2, with, without);
    unmake(&c);
    return 0;
}

static void a_named_node_without_cpus_has_the_rows(void **state) {
    (void)state;
    need_nodes();
    if (without < 0) skip();
    int status = in_child(rows_apart);
    if (status == 77) skip();
    assert_int_equal(status, 0);
}

static int refused(void) {
    cache c;
    mka_numa_report report;
    if (!deny_mbind()) return 77;
    make(&c, 0, MKA_NUMA_AUTO, 4);
    mka_placement_report(&c.placement, &report);
    mka_placement_ask(&c.placement, &c.tiers, &report);
    uint64_t found = 0;
    for (int i = 0; i < report.nodes; i++) found += report.found[i];
    printf("%s; %llu KiB lie elsewhere\n", c.placement.refused.message, (unsigned long long)report.misplaced >> 10);
    int good = report.refused && report.known && found > 0 && c.ops.places && strstr(c.placement.refused.message, "permitted");
    unmake(&c);
    return !good;
}

static void a_refusal_is_reported_and_work_goes_on(void **state) {
    (void)state;
    need_nodes();
    int status = in_child(refused);
    if (status == 77) skip();
    assert_int_equal(status, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_lie_on_their_nodes),
        cmocka_unit_test(stretches_of_one_head_lie_on_nodes_in_turn),
        cmocka_unit_test(turns_spread_evenly),
        cmocka_unit_test(rows_of_weights_lie_on_their_nodes),
        cmocka_unit_test(spilled_rows_come_to_their_nodes),
        cmocka_unit_test(threads_run_beside_their_heads),
        cmocka_unit_test(a_named_node_has_all),
        cmocka_unit_test(a_named_node_without_cpus_has_the_rows),
        cmocka_unit_test(a_refusal_is_reported_and_work_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
