/* nodes - weights on several NUMA nodes. The mapping of a model's file lies wherever the page cache put it, and can be bound to
 * no node; so the matrices that products read row by row are copied, each cut by rows as threads share them out (base/places.h),
 * into memory of the nodes whose threads read them. A thread copies the rows that it will read, so that they are at home even
 * where the system forbids binding.
 *
 * Where threads run on one node, where caches are not placed either, where a device has the weights, and where memory has no room
 * for a copy, they stay mapped. Embeddings do: a token reads one row. So do the small matrices of routers, and latent attention's
 * up-projections, which go head by head. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "base/topology.h"
#include "model.h"

enum { OF_A_BLOCK = 9 };

static int matrices_of(mka_block *b, mka_matrix *list[OF_A_BLOCK]) {
    mka_layer_weights *w = &b->attention.weights;
    mka_matrix *const all[OF_A_BLOCK] = {&w->q, &w->k, &w->v, &w->o, &w->q_down, &w->kv_down, &b->gate, &b->up, &b->down};
    int count = 0;
    for (int i = 0; i < OF_A_BLOCK; i++)
        if (all[i]->data) list[count++] = all[i];
    return count;
}

static void visit(mka_model *m, void (*matrix)(mka_model *m, mka_matrix *w, void *user), void *user) {
    mka_matrix *list[OF_A_BLOCK];
    for (int i = 0; i < m->sizes.layers; i++)
        for (int j = 0, count = matrices_of(&m->blocks[i], list); j < count; j++) matrix(m, list[j], user);
    matrix(m, &m->output, user);
}

/* What a matrix takes: it begins a page, so that no two share one. */
static size_t room_of(const mka_matrix *w) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)w->rows * w->row_bytes;
    return (bytes + page - 1) / page * page;
}

static void add_room(mka_model *m, mka_matrix *w, void *user) {
    (void)m;
    *(size_t *)user += room_of(w);
}

/* ---- copying ---- */

typedef struct copying {
    mka_model *model;
    const mka_places *places; /* NULL: pages take turns */
    const unsigned char *from;
    unsigned char *to;
    size_t rows, row_bytes;
} copying;

static void copy_share(void *argument, int thread, int threads) {
    const copying *c = argument;
    size_t units = (c->rows + MKA_PLACED_ROWS - 1) / MKA_PLACED_ROWS, order = (size_t)mka_places_order(c->places, thread);
    size_t begin = units * order / (size_t)threads * MKA_PLACED_ROWS,
           end = units * (order + 1) / (size_t)threads * MKA_PLACED_ROWS;
    if (end > c->rows) end = c->rows;
    if (begin >= end) return;
    memcpy(c->to + begin * c->row_bytes, c->from + begin * c->row_bytes, (end - begin) * c->row_bytes);
    /* of a file: its pages need not count twice */
    if (!c->model->image) mka_pages_discard((void *)(uintptr_t)(c->from + begin * c->row_bytes), (end - begin) * c->row_bytes);
}

static void copy_matrix(mka_model *m, mka_matrix *w, void *user) {
    unsigned char **to = user;
    copying c = {m, mka_placement_places(&m->placement), w->data, *to, (size_t)w->rows, w->row_bytes};
    mka_placement_bind_rows(&m->placement, c.to, c.rows, c.row_bytes);
    mka_pool_run(m->engine->pool, copy_share, &c);
    w->data = c.to;
    *to += room_of(w);
}

static void tell(const mka_model *m) {
    char size[MKA_SIZE_TEXT];
    const mka_error *refused = &m->placement.refused;
    mka_size_text(m->placed_bytes, size, sizeof size);
    if (refused->status)
        mka_log(m->engine, MKA_LOG_WARN, "weights (%s) lie where the threads that read them wrote them: %s", size,
                refused->message);
    else
        mka_log(m->engine, MKA_LOG_INFO, "weights (%s) are %s", size,
                m->placement.mode == MKA_NUMA_NODES ? "shared out by rows over the NUMA nodes of the threads"
                                                    : "interleaved over NUMA nodes");
}

static void stay(const mka_model *m, const char *why) {
    mka_log(m->engine, MKA_LOG_WARN, "weights stay where their file is mapped, on whatever NUMA node: %s", why);
}

mka_status mka_weights_place(mka_model *m, mka_numa_mode mode, mka_error *error) {
    mka_placement *p = &m->placement;
    char need[MKA_SIZE_TEXT], have[MKA_SIZE_TEXT], text[160];
    mka_status status = mka_placement_plan(p, m->engine->topology, mka_pool_threads(m->engine->pool), mode, error);
    if (status || !m->blocks || m->engine->device) return status;
    if (!(p->mode == MKA_NUMA_INTERLEAVE ? p->turns > 1 : mka_placement_places(p) != NULL)) return MKA_OK;
    size_t bytes = 0;
    visit(m, add_room, &bytes);
    uint64_t free = mka_memory_free();
    if (!mka_topology_is_this_machine(m->engine->topology)) {
        stay(m, "the machine that is described is not this one");
        return MKA_OK;
    }
    if (bytes > free - free / 8) {
        snprintf(text, sizeof text, "a copy takes %s, and %s are free", mka_size_text(bytes, need, sizeof need),
                 mka_size_text(free, have, sizeof have));
        stay(m, text);
        return MKA_OK;
    }
    m->placed = mka_pages_map(bytes);
    if (!m->placed) {
        stay(m, "the system gives no memory for a copy");
        return MKA_OK;
    }
    m->placed_bytes = bytes;
    unsigned char *to = m->placed;
    visit(m, copy_matrix, &to);
    tell(m);
    return MKA_OK;
}

/* ---- asking ---- */

static void ask_matrix(mka_model *m, mka_matrix *w, void *user) {
    mka_placement_ask_rows(&m->placement, (unsigned char *)(uintptr_t)w->data, (size_t)w->rows, w->row_bytes, user);
}

void mka_weights_ask(const mka_model *model, mka_numa_report *report) {
    mka_numa_report weights;
    if (!model->placed) return;
    mka_placement_report(&model->placement, &weights);
    visit((mka_model *)(uintptr_t)model, ask_matrix, &weights); /* which only looks */
    for (int i = 0; i < weights.nodes; i++) {
        report->weights_planned[i] = weights.planned[i];
        report->weights_found[i] = weights.found[i];
    }
    report->misplaced += weights.misplaced;
    report->known &= weights.known;
}
