/* test_placement - the plan of caches and threads over NUMA nodes on machines that are only described, and that neither a plan
 * nor a system that refuses it changes a result. What really lies where is asked by test_numa, on machines that have nodes. */
#include <mka/memory.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/numa.h"
#include "denied.h"
#include "emulated.h"
#include "memory/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static mka_topology *describe(const char *synthetic) {
    mka_topology *t;
    mka_error error;
    if (mka_topology_create(synthetic, &t, &error) != MKA_OK) fail_msg("%s", error.message);
    return t;
}

static mka_placement plan_of(const mka_topology *t, int threads, mka_numa_mode mode) {
    mka_placement p;
    mka_error error;
    if (mka_placement_plan(&p, t, threads, mode, &error) != MKA_OK) fail_msg("%s", error.message);
    return p;
}

/* ---- who has what ---- */

static void expect_places(const mka_placement *p, int count, const int *number, const int *threads) {
    assert_int_equal(p->mode, MKA_NUMA_NODES);
    assert_int_equal(p->places.count, count);
    for (int i = 0; i < count; i++) {
        assert_int_equal(p->places.number[i], number[i]);
        assert_int_equal(p->threads[i], threads[i]);
        assert_int_equal(p->resident[i], number[i]);
        assert_int_equal(p->rows[i], number[i]);
    }
}

static void heads_go_in_runs(void **state) {
    (void)state;
    mka_topology *t = describe("node:2 core:4 pu:1");
    mka_placement p = plan_of(t, 8, MKA_NUMA_AUTO);
    expect_places(&p, 2, (int[]){0, 1}, (int[]){4, 4});
    for (int i = 0; i < 8; i++) assert_int_equal(mka_places_here(&p.places, i), i % 2); /* the pool fills nodes in turn */
    static const int four[] = {0, 0, 1, 1}, three[] = {0, 0, 1};
    for (int h = 0; h < 4; h++) assert_int_equal(mka_places_of(&p.places, 4, h, 7), four[h]);
    for (int h = 0; h < 3; h++) assert_int_equal(mka_places_of(&p.places, 3, h, 7), three[h]);
    p = plan_of(t, 5, MKA_NUMA_AUTO);
    expect_places(&p, 2, (int[]){0, 1}, (int[]){3, 2});
    assert_non_null(mka_placement_places(&p));
    mka_topology_destroy(t);
}

static void tokens_go_in_turns_where_heads_are_few(void **state) {
    (void)state;
    mka_topology *t = describe("pack:2 node:2 core:2 pu:2");
    mka_placement p = plan_of(t, 8, MKA_NUMA_AUTO);
    expect_places(&p, 4, (int[]){0, 1, 2, 3}, (int[]){2, 2, 2, 2});
    for (size_t s = 0; s < 9; s++) {
        assert_int_equal(mka_places_of(&p.places, 1, 0, s), s % 4);
        assert_int_equal(mka_places_of(&p.places, 2, 0, s), s % 2);
        assert_int_equal(mka_places_of(&p.places, 2, 1, s), 2 + s % 2);
        assert_int_equal(mka_places_of(&p.places, 3, 0, s), 0);
        assert_int_equal(mka_places_of(&p.places, 3, 2, s), 2 + s % 2);
    }
    assert_int_equal(mka_places_stretch(1), 4096);
    assert_int_equal(mka_places_stretch(64 * 4096), 4096);
    assert_int_equal(mka_places_stretch(64 * 4096 + 1), 8192);
    mka_topology_destroy(t);
}

static void one_node_has_no_plan(void **state) {
    (void)state;
    mka_topology *t = describe("core:4 pu:1");
    mka_placement p = plan_of(t, 4, MKA_NUMA_AUTO);
    assert_int_equal(p.mode, MKA_NUMA_OFF);
    assert_null(mka_placement_places(&p));
    mka_topology_destroy(t);
    t = describe("node:2 core:4 pu:1");
    p = plan_of(t, 1, MKA_NUMA_AUTO); /* nobody would read the other node's share */
    assert_int_equal(p.mode, MKA_NUMA_OFF);
    p = plan_of(t, 8, MKA_NUMA_OFF);
    assert_int_equal(p.mode, MKA_NUMA_OFF);
    assert_null(mka_placement_places(&p));
    p = plan_of(t, 8, MKA_NUMA_INTERLEAVE);
    assert_null(mka_placement_places(&p));
    assert_int_equal(p.turns, 2);
    mka_error error;
    assert_int_equal(mka_placement_plan(&p, t, 8, (mka_numa_mode)9, &error), MKA_BAD_ARGUMENT);
    mka_topology_destroy(t);
}

/* ---- nodes that are named, and nodes without CPUs ---- */

static void nodes_can_be_named(void **state) {
    (void)state;
    mka_error error;
    mka_topology *t = describe("node:4 core:2 pu:2");
    assert_int_equal(mka_topology_choose(t, 1U << 0 | 1U << 5, &error), MKA_BAD_ARGUMENT);
    assert_non_null(strstr(error.message, "node 5"));
    assert_int_equal(mka_topology_nodes(t), 4);
    assert_int_equal(mka_topology_choose(t, 1U << 0 | 1U << 2, &error), MKA_OK);
    assert_int_equal(mka_topology_nodes(t), 2);
    assert_int_equal(mka_topology_cores(t), 4);
    assert_int_equal(mka_topology_cpus(t), 8);
    static const int cpus[] = {0, 8, 2, 10, 1, 9, 3, 11};
    for (int i = 0; i < 8; i++) assert_int_equal(mka_topology_cpu_of(t, i, 8), cpus[i]);
    mka_placement p = plan_of(t, 4, MKA_NUMA_AUTO);
    expect_places(&p, 2, (int[]){0, 2}, (int[]){2, 2});
    mka_topology_destroy(t);
}

/* Two packages of one core, and a node without CPUs that is near to both. %d: its bandwidth; the others have 100000. Lines end
 * where hwloc's own reader wants them to, which serves where its libxml2 plugin is not installed. */
static const char three_nodes[] =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology version=\"2.0\">\n"
    "<object type=\"Machine\" os_index=\"0\" cpuset=\"0x3\" complete_cpuset=\"0x3\" allowed_cpuset=\"0x3\" nodeset=\"0x7\" "
    "complete_nodeset=\"0x7\" allowed_nodeset=\"0x7\" gp_index=\"1\">"
    "<object type=\"NUMANode\" os_index=\"0\" cpuset=\"0x3\" complete_cpuset=\"0x3\" nodeset=\"0x1\" complete_nodeset=\"0x1\" "
    "gp_index=\"2\" local_memory=\"4294967296\"/>"
    "<object type=\"Package\" os_index=\"0\" cpuset=\"0x1\" complete_cpuset=\"0x1\" nodeset=\"0x3\" complete_nodeset=\"0x3\" "
    "gp_index=\"3\"><object type=\"NUMANode\" os_index=\"1\" cpuset=\"0x1\" complete_cpuset=\"0x1\" nodeset=\"0x2\" "
    "complete_nodeset=\"0x2\" gp_index=\"4\" local_memory=\"1073741824\"/>"
    "<object type=\"Core\" os_index=\"0\" cpuset=\"0x1\" complete_cpuset=\"0x1\" nodeset=\"0x3\" complete_nodeset=\"0x3\" "
    "gp_index=\"5\"><object type=\"PU\" os_index=\"0\" cpuset=\"0x1\" complete_cpuset=\"0x1\" nodeset=\"0x3\" "
    "complete_nodeset=\"0x3\" gp_index=\"6\"/>\n</object>\n</object>\n"
    "<object type=\"Package\" os_index=\"1\" cpuset=\"0x2\" complete_cpuset=\"0x2\" nodeset=\"0x5\" complete_nodeset=\"0x5\" "
    "gp_index=\"7\"><object type=\"NUMANode\" os_index=\"2\" cpuset=\"0x2\" complete_cpuset=\"0x2\" nodeset=\"0x4\" "
    "complete_nodeset=\"0x4\" gp_index=\"8\" local_memory=\"1073741824\"/>"
    "<object type=\"Core\" os_index=\"1\" cpuset=\"0x2\" complete_cpuset=\"0x2\" nodeset=\"0x5\" complete_nodeset=\"0x5\" "
    "gp_index=\"9\"><object type=\"PU\" os_index=\"1\" cpuset=\"0x2\" complete_cpuset=\"0x2\" nodeset=\"0x5\" "
    "complete_nodeset=\"0x5\" gp_index=\"10\"/></object></object></object>"
    "<memattr name=\"Bandwidth\" flags=\"5\">"
    "<memattr_value target_obj_type=\"NUMANode\" target_obj_gp_index=\"2\" value=\"%d\" initiator_cpuset=\"0x3\"/>"
    "<memattr_value target_obj_type=\"NUMANode\" target_obj_gp_index=\"4\" value=\"100000\" initiator_cpuset=\"0x1\"/>"
    "<memattr_value target_obj_type=\"NUMANode\" target_obj_gp_index=\"8\" value=\"100000\" initiator_cpuset=\"0x2\"/>"
    "</memattr></topology>";

static mka_topology *from_xml(int bandwidth) {
    char path[] = "/tmp/mka-topology-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    FILE *stream = fdopen(file, "w");
    assert_non_null(stream);
    fprintf(stream, three_nodes, bandwidth);
    assert_int_equal(fclose(stream), 0);
    setenv("HWLOC_XMLFILE", path, 1);
    mka_topology *t = describe(NULL);
    unsetenv("HWLOC_XMLFILE");
    unlink(path);
    return t;
}

static void memory_without_cpus_holds_rows_when_named(void **state) {
    if (emulated()) {
        print_message("skipped under an emulator: its hwloc reads no XML\n");
        skip();
    }
    (void)state;
    mka_error error;
    mka_topology *t = from_xml(20000);
    assert_int_equal(mka_topology_nodes(t), 3);
    assert_int_equal(mka_topology_node(t, 0).cpus + mka_topology_node(t, 1).cpus + mka_topology_node(t, 2).cpus, 2);
    mka_placement p = plan_of(t, 2, MKA_NUMA_AUTO);
    expect_places(&p, 2, (int[]){1, 2}, (int[]){1, 1}); /* not named: not used */
    p = plan_of(t, 2, MKA_NUMA_INTERLEAVE);
    assert_int_equal(p.turns, 2);
    assert_int_equal(mka_topology_choose(t, 1U << 0, &error), MKA_BAD_ARGUMENT);
    assert_non_null(strstr(error.message, "has CPUs"));
    assert_int_equal(mka_topology_choose(t, 7, &error), MKA_OK);
    p = plan_of(t, 2, MKA_NUMA_AUTO);
    assert_int_equal(p.places.count, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(p.resident[i], i + 1);
        assert_int_equal(p.rows[i], 0);
    }
    p = plan_of(t, 2, MKA_NUMA_INTERLEAVE);
    assert_int_equal(p.turns, 3);
    mka_topology_destroy(t);
}

static void faster_memory_without_cpus_holds_what_is_always_read(void **state) {
    if (emulated()) {
        print_message("skipped under an emulator: its hwloc reads no XML\n");
        skip();
    }
    (void)state;
    mka_error error;
    mka_topology *t = from_xml(400000);
    assert_int_equal(mka_topology_choose(t, 3, &error), MKA_OK); /* one place, and the fast node */
    mka_placement p = plan_of(t, 1, MKA_NUMA_AUTO);
    assert_int_equal(p.mode, MKA_NUMA_NODES);
    assert_int_equal(p.places.count, 1);
    assert_int_equal(p.resident[0], 0);
    assert_int_equal(p.rows[0], 1);
    mka_topology_destroy(t);
}

/* ---- the ranges of an array ---- */

typedef struct range {
    unsigned char *pages;
    size_t bytes;
    int node;
} range;

typedef struct ranges {
    int count;
    range list[64];
} ranges;

static void note(void *user, unsigned char *pages, size_t bytes, int node) {
    ranges *r = user;
    assert_true(r->count < 64);
    r->list[r->count++] = (range){pages, bytes, node};
}

/* Ranges touch each other and cover the array but for its first part of a page. */
static void expect_cover(const ranges *r, const unsigned char *start, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    assert_true(r->list[0].pages >= start && (size_t)(r->list[0].pages - start) < page);
    for (int i = 0; i < r->count; i++) {
        assert_int_equal((uintptr_t)r->list[i].pages % page, 0);
        assert_int_equal(r->list[i].bytes % page, 0);
        if (i > 0) assert_ptr_equal(r->list[i].pages, r->list[i - 1].pages + r->list[i - 1].bytes);
    }
    const unsigned char *end = r->list[r->count - 1].pages + r->list[r->count - 1].bytes;
    assert_true(end >= start + bytes && (size_t)(end - (start + bytes)) < page);
}

static void a_heads_share_is_one_range(void **state) {
    (void)state;
    mka_topology *t = describe("node:2 core:2 pu:1");
    mka_placement p = plan_of(t, 4, MKA_NUMA_AUTO);
    mka_local_shape shape = {3, 64, 64, 1, MKA_F16, MKA_F16, 20000, 1, NULL, 0};
    mka_tiers tiers;
    mka_error error;
    ranges r = {.count = 0};
    assert_int_equal(mka_tiers_create(&shape, NULL, &tiers, &error), MKA_OK);
    size_t head = tiers.local.tiles * tiers.local.key_tile;
    mka_placement_walk(&p, &tiers, note, &r);
    assert_int_equal(r.count, 2); /* heads 0 and 1, head 2 */
    assert_int_equal(r.list[0].node, 0);
    assert_int_equal(r.list[1].node, 1);
    expect_cover(&r, tiers.local.keys, tiers.local.bytes);
    assert_true((size_t)(r.list[1].pages - tiers.local.keys) - 2 * head < (size_t)sysconf(_SC_PAGESIZE));
    mka_tiers_destroy(&tiers);
    /* one head: stretches of 4096 tokens in turn, the last one shorter */
    shape.kv_heads = 1;
    r.count = 0;
    assert_int_equal(mka_tiers_create(&shape, NULL, &tiers, &error), MKA_OK);
    mka_placement_walk(&p, &tiers, note, &r);
    assert_int_equal(r.count, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(r.list[i].node, i % 2);
        if (i < 4) assert_int_equal(r.list[i].bytes, 4096 / MKA_TILE * tiers.local.key_tile);
    }
    expect_cover(&r, tiers.local.keys, tiers.local.bytes);
    /* turns and nothing are one range */
    p = plan_of(t, 4, MKA_NUMA_INTERLEAVE);
    r.count = 0;
    mka_placement_walk(&p, &tiers, note, &r);
    assert_int_equal(r.count, 1);
    assert_int_equal(r.list[0].node, -1);
    mka_tiers_destroy(&tiers);
    mka_topology_destroy(t);
}

static void rows_go_by_threads(void **state) {
    (void)state;
    mka_topology *t = describe("node:2 core:3 pu:1");
    mka_placement p = plan_of(t, 5, MKA_NUMA_AUTO); /* threads 0, 2, 4 and 1, 3 */
    static const int order[] = {0, 3, 1, 4, 2};
    for (int i = 0; i < 5; i++) assert_int_equal(mka_places_order(&p.places, i), order[i]);
    assert_int_equal(mka_places_cut(&p.places, 100, 1), 60);
    assert_int_equal(mka_places_cut(&p.places, 100, 2), 100);
    assert_int_equal(mka_places_cut(NULL, 100, 0), 0);
    assert_int_equal(mka_places_cut(NULL, 100, 1), 100);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *data = mka_pages_map(100 * page);
    ranges r = {.count = 0};
    mka_placement_walk_rows(&p, data, 100, page, note, &r); /* 13 runs of 8 rows: 7 and 6 */
    assert_int_equal(r.count, 2);
    assert_int_equal(r.list[0].node, 0);
    assert_int_equal(r.list[0].bytes, 56 * page);
    assert_int_equal(r.list[1].node, 1);
    expect_cover(&r, data, 100 * page);
    r.count = 0;
    p = plan_of(t, 5, MKA_NUMA_INTERLEAVE);
    mka_placement_walk_rows(&p, data, 100, page, note, &r);
    assert_int_equal(r.count, 1);
    assert_int_equal(r.list[0].node, -1);
    mka_pages_unmap(data, 100 * page);
    mka_topology_destroy(t);
}

/* ---- a spill file's cache ---- */

static void spilled_records_come_to_their_heads_node(void **state) {
    (void)state;
    enum { BYTES = 4096, PLACES = 40, EACH = 30, HEADS = 2 };
    mka_topology *t = describe("node:2 core:2 pu:1");
    mka_placement p = plan_of(t, 4, MKA_NUMA_AUTO);
    mka_spill *spill;
    mka_spill_part part;
    mka_error error;
    ranges r = {.count = 0};
    size_t bytes;
    if (mka_spill_create("/tmp", BYTES, PLACES, mka_placement_places(&p), &spill, &error) ||
        mka_spill_add(spill, BYTES, (size_t)EACH * HEADS, HEADS, EACH, &part, &error))
        fail_msg("%s", error.message);
    assert_int_equal(mka_spill_zones(spill), 2);
    mka_placement_walk_spill(&p, spill, note, &r);
    assert_int_equal(r.count, 2);
    for (int z = 0; z < 2; z++) {
        assert_int_equal(r.list[z].node, z);
        assert_int_equal(r.list[z].bytes, PLACES / 2 * BYTES);
        assert_ptr_equal(r.list[z].pages, mka_spill_zone(spill, z, &bytes));
    }
    for (int i = 0; i < EACH * HEADS; i++) { /* ten waiting ones, which are pinned, are half of a zone */
        unsigned char *record = mka_spill_put(&part, (size_t)i, &error);
        if (!record) fail_msg("%s", error.message);
        memset(record, i, BYTES);
        if (mka_spill_commit(&part, (size_t)i, &error)) fail_msg("%s", error.message);
    }
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < EACH * HEADS; i += 1 + round) {
            const unsigned char *record = mka_spill_get(&part, (size_t)i, &error),
                                *zone = mka_spill_zone(spill, i / EACH, &bytes);
            if (!record) fail_msg("%s", error.message);
            assert_true(record >= zone && record < zone + bytes);
            assert_int_equal(record[BYTES - 1], i);
            mka_spill_release(&part, (size_t)i);
        }
    /* more in use than a zone holds: the other one helps */
    for (int i = 0; i < PLACES / 2 + 5; i++)
        if (!mka_spill_get(&part, (size_t)i, &error)) fail_msg("%s", error.message);
    for (int i = 0; i < PLACES / 2 + 5; i++) mka_spill_release(&part, (size_t)i);
    mka_spill_remove(&part);
    mka_spill_destroy(spill);
    mka_topology_destroy(t);
}

/* ---- products ---- */

enum { PRODUCTS = 3, COLS = 96, MOST_ROWS = 20 };

/* The same bits, whoever multiplies by which rows. */
static void products_do_not_depend_on_the_plan(void **state) {
    (void)state;
    static const int rows[PRODUCTS] = {203, 64, 7};
    static float w[PRODUCTS][203 * COLS], x[MOST_ROWS * COLS], y[2][PRODUCTS][MOST_ROWS * 203];
    mka_engine_options options;
    mka_engine *engine;
    mka_ops ops;
    mka_arena work = {0};
    mka_error error;
    mka_topology *t = describe("node:3 core:2 pu:1");
    mka_placement p = plan_of(t, 5, MKA_NUMA_AUTO);
    mka_engine_defaults(&options);
    options.threads = 5;
    options.bind = 0;
    assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_OK);
    mka_ops_cpu(&ops, engine);
    const struct mka_ops_limits limits = {
        .rows = MOST_ROWS, .cols = COLS, .head_rows = 1, .key_dim = 16, .value_dim = 16, .kv_heads = 1, .context = 64};
    mka_ops_layout(&ops, &limits, &work);
    assert_int_equal(mka_arena_reserve(&work, &error), MKA_OK);
    mka_ops_layout(&ops, &limits, &work);
    for (size_t i = 0; i < sizeof w / sizeof(float); i++) ((float *)w)[i] = (float)((int)(i * 2654435761U >> 8 & 255) - 128) / 64;
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)((int)(i * 2246822519U >> 8 & 255) - 128) / 64;
    for (int n = 1; n <= MOST_ROWS; n += 6) {
        memset(y, 0, sizeof y);
        for (int plan = 0; plan < 2; plan++) {
            mka_matrix m[PRODUCTS];
            mka_product products[PRODUCTS];
            for (int i = 0; i < PRODUCTS; i++) {
                m[i] = (mka_matrix){w[i], MKA_F32, rows[i], COLS, COLS * sizeof(float)};
                products[i] = (mka_product){&m[i], NULL, x, COLS, y[plan][i], 203};
            }
            ops.places = plan ? &p.places : NULL;
            ops.multiply(&ops, n, PRODUCTS, products);
        }
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        for (int i = 0; i < PRODUCTS; i++) /* every row was somebody's */
            for (int j = 0; j < rows[i]; j++) {
                float sum = 0;
                for (int e = 0; e < COLS; e++) sum += w[i][j * COLS + e] * x[e];
                assert_true(y[1][i][j] - sum < 1e-2F && sum - y[1][i][j] < 1e-2F);
            }
    }
    mka_arena_free(&work);
    mka_engine_destroy(engine);
    mka_topology_destroy(t);
}

/* ---- dealing ---- */

static int by_remainder(const void *work, size_t item) {
    return (int)(item % *(const size_t *)work);
}

static void every_item_is_dealt_once_own_ones_first(void **state) {
    (void)state;
    size_t three = 3, item;
    mka_places p = {.count = 3};
    mka_deal deal = {0};
    int seen[31] = {0}, here = 1, foreign = 0;
    for (int n = 0; mka_deal_take(&deal, &p, here, 31, by_remainder, &three, &item); n++) {
        assert_true(item < 31);
        assert_int_equal(seen[item]++, 0);
        foreign |= (int)(item % 3) != 1;
        if (!foreign) assert_int_equal(item, (size_t)n * 3 + 1);
        assert_int_equal(foreign, n >= 10); /* 1, 4 .. 28, then the others' */
    }
    for (int i = 0; i < 31; i++) assert_int_equal(seen[i], 1);
    mka_deal alone = {0};
    for (size_t n = 0; n < 5; n++) {
        assert_true(mka_deal_take(&alone, NULL, 0, 5, NULL, NULL, &item));
        assert_int_equal(item, n);
    }
    assert_false(mka_deal_take(&alone, NULL, 0, 5, NULL, NULL, &item));
}

/* ---- results ---- */

enum { TOKENS = 9000, DIM = 32, CHUNK = 500 };

typedef struct heard {
    int warnings;
    char last[256];
} heard;

static void hear(void *user, mka_log_level level, const char *message) {
    heard *h = user;
    if (level > MKA_LOG_WARN) return;
    h->warnings++;
    snprintf(h->last, sizeof h->last, "%s", message);
}

/* Attention of the last tokens of a few thousand, prefilled in chunks and then one by one, and once more without long-term rows.
 */
static void attend(const mka_memory_options *o, int threads, heard *log, float *out, mka_numa_report *report) {
    mka_engine_options options;
    mka_engine *engine;
    mka_memory *memory;
    mka_error error;
    size_t kv = (size_t)o->kv_heads * DIM, q = (size_t)o->heads * DIM;
    float *x = malloc((size_t)CHUNK * q * sizeof *x), *y = malloc((size_t)CHUNK * q * sizeof *y);
    assert_true(x && y);
    mka_engine_defaults(&options);
    options.threads = threads;
    options.log = hear;
    options.log_user = log;
    assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_OK);
    if (mka_memory_create(engine, o, &memory, &error) != MKA_OK) fail_msg("%s", error.message);
    uint64_t random = 5;
    for (int at = 0; at < TOKENS; at += CHUNK) {
        for (size_t i = 0; i < CHUNK * q; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            x[i] = (float)(random >> 40) * 0x1p-22F - 2;
        }
        assert_int_equal(mka_memory_append(memory, 0, CHUNK, x, x + CHUNK * (q - kv), &error), MKA_OK);
        int n = at % 4000 ? 1 : 48; /* many rows and few, long tokens or none */
        assert_int_equal(mka_memory_attend(memory, 0, n, x, y, NULL, &error), MKA_OK);
        memcpy(out + (size_t)(at / CHUNK) * q, y, q * sizeof *out);
    }
    if (report) mka_memory_get_numa(memory, report);
    mka_memory_destroy(memory);
    mka_engine_destroy(engine);
    free(x);
    free(y);
}

static mka_memory_options options_of(int kv_heads, int tiered) {
    mka_memory_options o;
    mka_memory_defaults(&o);
    o.heads = 6;
    o.kv_heads = kv_heads;
    o.head_dim = DIM;
    o.context = TOKENS;
    o.queries = CHUNK;
    o.plan.window = tiered ? 128 : 1 << 20;
    return o;
}

static void results_do_not_depend_on_the_plan(void **state) {
    (void)state;
    static const char *const machines[] = {"node:2 core:2 pu:1", "pack:2 node:4 core:1 pu:1", "node:3 core:1 pu:1"};
    static const int nodes[] = {2, 8, 3};
    size_t count = (size_t)TOKENS / CHUNK * 6 * DIM;
    float *plain = calloc(count, sizeof *plain), *placed = calloc(count, sizeof *placed);
    assert_true(plain && placed);
    int machine_count = emulated() ? 1 : 3; /* a plan has nothing of a processor in it */
    for (int i = emulated() ? 5 : 0; i < 6; i++) {
        mka_memory_options o = options_of((const int[]){3, 1, 2}[i / 2], i % 2);
        heard log = {0};
        o.plan.numa = MKA_NUMA_OFF;
        attend(&o, 1, &log, plain, NULL);
        assert_int_equal(log.warnings, 0);
        o.plan.numa = MKA_NUMA_AUTO;
        for (int m = 0; m < machine_count; m++) {
            mka_numa_report report;
            log = (heard){0};
            setenv("HWLOC_SYNTHETIC", machines[m], 1);
            attend(&o, 3, &log, placed, &report);
            unsetenv("HWLOC_SYNTHETIC");
            assert_int_equal(report.mode, MKA_NUMA_NODES);
            assert_int_equal(report.nodes, nodes[m]);
            assert_true(report.refused); /* that machine is not this one */
            assert_int_equal(log.warnings, 1);
            assert_memory_equal(placed, plain, count * sizeof *plain);
        }
    }
    free(plain);
    free(placed);
}

/* This machine, whatever its nodes: what is planned is found, or the system said that it refuses. */
static void this_machine_places_or_says_that_it_does_not(void **state) {
    (void)state;
    mka_memory_options o = options_of(2, 1);
    mka_numa_report report;
    heard log = {0};
    float *out = calloc((size_t)TOKENS / CHUNK * 6 * DIM, sizeof *out);
    assert_non_null(out);
    o.local = MKA_Q4_0; /* which keeps its newest tokens apart */
    o.plan.numa = MKA_NUMA_NODES;
    attend(&o, 2, &log, out, &report);
    assert_int_equal(log.warnings, report.refused);
    uint64_t planned = 0, found = 0;
    for (int i = 0; i < report.nodes; i++) planned += report.planned[i], found += report.found[i];
    print_message("%d node%s, %s: %.1f MB planned, %.1f MB found\n", report.nodes, report.nodes == 1 ? "" : "s",
                  report.refused ? log.last : "placed", (double)planned / 1e6, (double)found / 1e6);
    if (!report.refused && report.known) {
        assert_int_equal(report.misplaced, 0);
        assert_true(planned > 0 && planned == found);
    }
    free(out);
}

static void refused_placement_is_said_and_changes_nothing(void **state) {
    (void)state;
    if (emulated()) {
        print_message("skipped under an emulator, which filters no calls\n");
        skip();
    }
    mka_memory_options o = options_of(2, 1);
    size_t count = (size_t)TOKENS / CHUNK * 6 * DIM;
    float *plain = calloc(count, sizeof *plain), *refused = calloc(count, sizeof *refused);
    assert_true(plain && refused);
    o.plan.numa = MKA_NUMA_OFF;
    attend(&o, 2, &(heard){0}, plain, NULL);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        mka_numa_report report;
        heard log = {0};
        if (!deny_mbind()) _exit(77);
        o.plan.numa = MKA_NUMA_NODES;
        attend(&o, 2, &log, refused, &report);
        if (!report.refused) _exit(1);
        if (log.warnings != 1 || !strstr(log.last, "not permitted")) _exit(2);
        _exit(memcmp(plain, refused, count * sizeof *plain) ? 3 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    free(plain);
    free(refused);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("no seccomp filters here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_go_in_runs),
        cmocka_unit_test(tokens_go_in_turns_where_heads_are_few),
        cmocka_unit_test(one_node_has_no_plan),
        cmocka_unit_test(nodes_can_be_named),
        cmocka_unit_test(memory_without_cpus_holds_rows_when_named),
        cmocka_unit_test(faster_memory_without_cpus_holds_what_is_always_read),
        cmocka_unit_test(a_heads_share_is_one_range),
        cmocka_unit_test(rows_go_by_threads),
        cmocka_unit_test(spilled_records_come_to_their_heads_node),
        cmocka_unit_test(products_do_not_depend_on_the_plan),
        cmocka_unit_test(every_item_is_dealt_once_own_ones_first),
        cmocka_unit_test(results_do_not_depend_on_the_plan),
        cmocka_unit_test(this_machine_places_or_says_that_it_does_not),
        cmocka_unit_test(refused_placement_is_said_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
