/* placement - see placement.h. One function walks the arrays of a cache as the plan cuts them; binding and asking are what is
 * done with each range. */
#include "placement.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/numa.h"
#include "base/status.h"

/* ---- plan ---- */

static int place_of_number(const mka_placement *p, int number) {
    for (int i = 0; i < p->places.count; i++)
        if (p->places.number[i] == number) return i;
    return -1;
}

/* Places are the nodes that threads run on, in the order of their numbers. */
static void find_places(mka_placement *p, int threads) {
    p->places.count = 0;
    for (int node = 0; node < mka_topology_nodes(p->topology) && p->places.count < MKA_MOST_PLACES; node++)
        for (int t = 0; t < threads; t++)
            if (mka_topology_node_of(p->topology, t, threads) == node) {
                p->places.number[p->places.count++] = mka_topology_node(p->topology, node).number;
                break;
            }
    for (int t = 0; t < threads && t < MKA_PLACED_THREADS; t++) {
        int node = mka_topology_node_of(p->topology, t, threads);
        int place = node < 0 ? -1 : place_of_number(p, mka_topology_node(p->topology, node).number);
        p->places.of_thread[t] = (uint8_t)(place < 0 ? t % p->places.count : place);
        p->threads[p->places.of_thread[t]]++;
    }
    mka_places_count_threads(&p->places, threads);
}

/* The bandwidth of a place's own memory, or 0. */
static uint64_t bandwidth_of(const mka_placement *p, int number) {
    for (int i = 0; i < mka_topology_nodes(p->topology); i++)
        if (mka_topology_node(p->topology, i).number == number) return mka_topology_node(p->topology, i).bandwidth;
    return 0;
}

/* Named nodes without CPUs, in turn: those faster than a place's own memory hold what is always read, others its rows. */
static void use_memory_nodes(mka_placement *p) {
    int fast[MKA_MOST_PLACES], slow[MKA_MOST_PLACES], fasts = 0, slows = 0;
    uint64_t own = bandwidth_of(p, p->places.number[0]);
    for (int i = 0; i < mka_topology_nodes(p->topology); i++) {
        mka_node node = mka_topology_node(p->topology, i);
        if (node.cpus > 0) continue;
        if (own && node.bandwidth > own) {
            if (fasts < MKA_MOST_PLACES) fast[fasts++] = node.number;
        } else if (slows < MKA_MOST_PLACES) {
            slow[slows++] = node.number;
        }
    }
    for (int i = 0; i < p->places.count; i++) {
        if (fasts) p->resident[i] = fast[i % fasts];
        if (slows) p->rows[i] = slow[i % slows];
    }
}

static void find_turns(mka_placement *p) {
    int chosen = mka_topology_is_chosen(p->topology);
    for (int i = 0; i < mka_topology_nodes(p->topology) && p->turns < MKA_MOST_PLACES; i++) {
        mka_node node = mka_topology_node(p->topology, i);
        if (node.cpus > 0 || chosen) p->turn[p->turns++] = node.number;
    }
}

mka_status mka_placement_plan(mka_placement *p, const mka_topology *topology, int threads, mka_numa_mode mode, mka_error *error) {
    *p = (mka_placement){.topology = topology};
    if ((int)mode < MKA_NUMA_AUTO || mode > MKA_NUMA_NODES)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d is no way to place memory on NUMA nodes", (int)mode);
    p->places.ask = mka_topology_is_this_machine(topology);
    find_places(p, threads);
    for (int i = 0; i < p->places.count; i++) p->resident[i] = p->rows[i] = p->places.number[i];
    find_turns(p);
    int chosen = mka_topology_is_chosen(topology);
    if (chosen) use_memory_nodes(p);
    p->mode = mode;
    if (mode == MKA_NUMA_AUTO) p->mode = p->places.count > 1 || chosen ? MKA_NUMA_NODES : MKA_NUMA_OFF;
    return MKA_OK;
}

const mka_places *mka_placement_places(const mka_placement *p) {
    return p->mode == MKA_NUMA_NODES && p->places.count > 1 ? &p->places : NULL;
}

/* ---- the walk ---- */

/* An array of a cache: heads one after the other, each in units of so many tokens. */
typedef struct area {
    unsigned char *start;
    int heads, rows; /* rows 1: long-term rows */
    size_t units, unit_bytes, unit_tokens;
    size_t capacity; /* tokens of a head, by which stretches are measured */
} area;

enum { MOST_AREAS = 6 };

static int list_areas(const mka_tiers *t, area areas[MOST_AREAS]) {
    const mka_local *l = &t->local;
    const mka_longterm *far = &t->longterm;
    size_t capacity = l->tiles * MKA_TILE, blocks = far->capacity * MKA_BLOCK;
    int heads = l->shape.kv_heads, count = 0;
    if (l->device) return 0;
    areas[count++] = (area){l->keys, heads, 0, l->tiles, l->key_tile, MKA_TILE, capacity};
    if (!l->shape.shared) areas[count++] = (area){l->values, heads, 0, l->tiles, l->value_tile, MKA_TILE, capacity};
    if (l->near.keys) {
        size_t near = l->near.tiles * MKA_TILE;
        areas[count++] = (area){l->near.keys, heads, 0, l->near.tiles, l->near.key_tile, MKA_TILE, near};
        areas[count++] = (area){l->near.values, heads, 0, l->near.tiles, l->near.value_tile, MKA_TILE, near};
    }
    if (!far->index) return count;
    areas[count++] = (area){far->index, heads, 0, far->segments, far->segment, (size_t)far->shape.segment, blocks};
    if (far->records.pages) /* a spill file's cache belongs to all layers */
        areas[count++] = (area){far->records.pages, heads, 1, far->capacity, far->records.bytes, MKA_BLOCK, blocks};
    return count;
}

/* The node of a stretch, or -1 where the plan leaves pages to turns or to the system. */
static int node_of(const mka_placement *p, const area *a, int head, size_t stretch) {
    if (p->mode != MKA_NUMA_NODES) return -1;
    int place = mka_places_of(&p->places, a->heads, head, stretch);
    return a->rows ? p->rows[place] : p->resident[place];
}

static unsigned char *page_up(unsigned char *at) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), over = (uintptr_t)at % page;
    return over ? at + (page - over) : at;
}

static void walk_area(const mka_placement *p, const area *a, mka_range_fn *range, void *user) {
    size_t each = mka_places_stretch(a->capacity) / a->unit_tokens, stretches = (a->units + each - 1) / each;
    unsigned char *from = page_up(a->start);
    for (int head = 0; head < a->heads; head++)
        for (size_t s = 0; s < stretches; s++) {
            int node = node_of(p, a, head, s), last = s + 1 == stretches;
            int end = last && head + 1 == a->heads;
            if (!end && node_of(p, a, last ? head + 1 : head, last ? 0 : s + 1) == node) continue;
            size_t units = (size_t)head * a->units + (last ? a->units : (s + 1) * each);
            unsigned char *to = page_up(a->start + units * a->unit_bytes);
            if (to > from) range(user, from, (size_t)(to - from), node);
            from = to;
        }
}

void mka_placement_walk(const mka_placement *p, const mka_tiers *tiers, mka_range_fn *range, void *user) {
    area areas[MOST_AREAS];
    int count = list_areas(tiers, areas);
    for (int i = 0; i < count; i++) walk_area(p, &areas[i], range, user);
}

/* A range up to an address, of which the page that it ends in belongs to it. */
static unsigned char *walk_to(unsigned char *from, unsigned char *end, int node, mka_range_fn *range, void *user) {
    unsigned char *to = page_up(end);
    if (to <= from) return from;
    range(user, from, (size_t)(to - from), node);
    return to;
}

void mka_placement_walk_spill(const mka_placement *p, const mka_spill *spill, mka_range_fn *range, void *user) {
    size_t bytes;
    unsigned char *from = mka_spill_zone(spill, 0, &bytes);
    for (int zone = 0; zone < mka_spill_zones(spill); zone++) {
        unsigned char *end = mka_spill_zone(spill, zone, &bytes) + bytes;
        from = walk_to(from, end, p->mode == MKA_NUMA_NODES ? p->rows[zone] : -1, range, user);
    }
}

void mka_placement_walk_rows(const mka_placement *p, unsigned char *data, size_t rows, size_t row_bytes, mka_range_fn *range,
                             void *user) {
    const mka_places *places = mka_placement_places(p);
    unsigned char *from = page_up(data);
    for (int place = 0; place < mka_places_count(places); place++) {
        size_t end = mka_places_cut(places, (rows + MKA_PLACED_ROWS - 1) / MKA_PLACED_ROWS, place + 1) * MKA_PLACED_ROWS;
        unsigned char *to = data + (end < rows ? end : rows) * row_bytes;
        from = walk_to(from, to, p->mode == MKA_NUMA_NODES ? p->resident[place] : -1, range, user);
    }
}

/* ---- bind ---- */

static void bind_range(void *user, unsigned char *pages, size_t bytes, int node) {
    mka_placement *p = user;
    if (p->refused.status) return;
    if (node < 0)
        mka_numa_bind(pages, bytes, MKA_POLICY_TURNS, p->turn, p->turns, &p->refused);
    else
        mka_numa_bind(pages, bytes, MKA_POLICY_FIRST, &node, 1, &p->refused);
}

/* 0: nothing is to be bound, or nothing can be. */
static int binds(mka_placement *p) {
    if (p->mode == MKA_NUMA_OFF) return 0;
    if (!mka_topology_is_this_machine(p->topology))
        mka_fail(&p->refused, MKA_UNSUPPORTED, "the machine that is described is not this one");
    return !p->refused.status;
}

mka_status mka_placement_bind(mka_placement *p, const mka_tiers *tiers) {
    if (binds(p)) mka_placement_walk(p, tiers, bind_range, p);
    return p->refused.status;
}

mka_status mka_placement_bind_spill(mka_placement *p, const mka_spill *spill) {
    if (binds(p)) mka_placement_walk_spill(p, spill, bind_range, p);
    return p->refused.status;
}

mka_status mka_placement_bind_rows(mka_placement *p, unsigned char *data, size_t rows, size_t row_bytes) {
    if (binds(p)) mka_placement_walk_rows(p, data, rows, row_bytes, bind_range, p);
    return p->refused.status;
}

void mka_placement_log(const mka_placement *p, const mka_engine *engine) {
    char list[256] = "";
    int turns = p->mode == MKA_NUMA_INTERLEAVE, count = turns ? p->turns : p->places.count;
    if (p->mode == MKA_NUMA_OFF) return;
    if (p->refused.status) {
        mka_log(engine, MKA_LOG_WARN, "caches lie where the system puts them: %s", p->refused.message);
        return;
    }
    for (int i = 0; i < count; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%d", i ? ", " : "", turns ? p->turn[i] : p->places.number[i]);
    }
    mka_log(engine, MKA_LOG_INFO, "caches are %s over NUMA nodes %s", turns ? "interleaved" : "shared out by key/value heads",
            list);
}

/* ---- ask ---- */

enum { BATCH = 1024 };
static const size_t most_asked = (size_t)1 << 14; /* pages of one range; of a larger one every so many stand for the rest */

typedef struct asking {
    const mka_placement *placement;
    mka_numa_report *report;
    uint64_t turned; /* bytes in memory that take turns */
} asking;

static int index_in(const mka_numa_report *r, int number) {
    for (int i = 0; i < r->nodes; i++)
        if (r->number[i] == number) return i;
    return -1;
}

static void ask_range(void *user, unsigned char *pages, size_t bytes, int node) {
    asking *a = user;
    mka_numa_report *r = a->report;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), count = bytes / page,
           step = (count / most_asked + 1) | 1; /* odd: of pages that take turns all are met */
    int planned = index_in(r, node);
    for (size_t at = 0; at < count && r->known;) {
        void *ask[BATCH];
        int where[BATCH], n = 0;
        for (; n < BATCH && at < count; n++, at += step) ask[n] = pages + at * page;
        if (mka_numa_ask(ask, (size_t)n, where, NULL) != MKA_OK) r->known = 0;
        for (int i = 0; i < n && r->known; i++) {
            if (where[i] < 0) continue;
            int found = index_in(r, where[i]);
            if (found >= 0) r->found[found] += page * step;
            if (planned >= 0) r->planned[planned] += page * step;
            if (node >= 0 && where[i] != node) r->misplaced += page * step;
            a->turned += node < 0 ? page * step : 0;
        }
    }
}

void mka_placement_report(const mka_placement *p, mka_numa_report *r) {
    *r = (mka_numa_report){.mode = p->mode, .refused = p->refused.status != MKA_OK};
    r->known = mka_topology_is_this_machine(p->topology);
    for (int i = 0; i < mka_topology_nodes(p->topology) && r->nodes < MKA_NUMA_MOST; i++) {
        int place = place_of_number(p, mka_topology_node(p->topology, i).number);
        r->threads[r->nodes] = place < 0 ? 0 : p->threads[place];
        r->number[r->nodes++] = mka_topology_node(p->topology, i).number;
    }
}

mka_status mka_engine_get_numa(const mka_engine *engine, mka_numa_mode mode, mka_numa_report *report, mka_error *error) {
    mka_placement plan;
    mka_succeed(error);
    mka_status status = mka_placement_plan(&plan, engine->topology, mka_pool_threads(engine->pool), mode, error);
    if (!status) mka_placement_report(&plan, report);
    return status;
}

/* Ranges in turns are planned evenly. */
static void plan_turns(const asking *a) {
    const mka_placement *p = a->placement;
    for (int i = 0; p->mode == MKA_NUMA_INTERLEAVE && i < p->turns; i++) {
        int index = index_in(a->report, p->turn[i]);
        if (index >= 0) a->report->planned[index] += a->turned / (uint64_t)p->turns;
    }
}

void mka_placement_ask(const mka_placement *p, const mka_tiers *tiers, mka_numa_report *r) {
    asking a = {.placement = p, .report = r};
    mka_placement_walk(p, tiers, ask_range, &a);
    plan_turns(&a);
}

void mka_placement_ask_spill(const mka_placement *p, const mka_spill *spill, mka_numa_report *r) {
    asking a = {.placement = p, .report = r};
    mka_placement_walk_spill(p, spill, ask_range, &a);
    plan_turns(&a);
}

void mka_placement_ask_rows(const mka_placement *p, unsigned char *data, size_t rows, size_t row_bytes, mka_numa_report *r) {
    asking a = {.placement = p, .report = r};
    mka_placement_walk_rows(p, data, rows, row_bytes, ask_range, &a);
    plan_turns(&a);
}
