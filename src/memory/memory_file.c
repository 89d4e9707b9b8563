/* memory_file - memories without a model saved to a file and loaded back (mka/memory.h).
 *
 *   memory | lengths | tiers | LAYER keys, values, ... (stored.h) */
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"
#include "memory_layers.h"
#include "stored.h"

enum { OWN_REGIONS = 3 };

/* What must be the same on both sides. */
typedef struct head {
    int32_t layers, heads, kv_heads, head_dim, local, sinks, window, key_type, value_type;
} head;

static head head_of(const mka_memory *m) {
    const mka_memory_options *o = &m->options;
    return (head){o->layers,     o->heads,       o->kv_heads,      o->head_dim,       (int32_t)o->local,
                  o->plan.sinks, o->plan.window, o->plan.key_type, o->plan.value_type};
}

typedef struct parts {
    head head;
    int32_t *lengths;       /* [layers] */
    mka_tiers_state *tiers; /* [layers] */
    mka_stored *stored;     /* [layers] */
    mka_region *regions;
    size_t count;
} parts;

static mka_status make_parts(parts *p, const mka_memory *m, mka_error *error) {
    size_t layers = (size_t)m->options.layers;
    *p = (parts){.head = head_of(m)};
    p->lengths = calloc(layers, sizeof *p->lengths);
    p->tiers = calloc(layers, sizeof *p->tiers);
    p->stored = calloc(layers, sizeof *p->stored);
    p->regions = calloc(layers * MKA_STORED_REGIONS + OWN_REGIONS, sizeof *p->regions);
    return p->lengths && p->tiers && p->stored && p->regions
               ? MKA_OK
               : mka_fail(error, MKA_NO_MEMORY, "no memory for the regions of a memory");
}

static void free_parts(parts *p) {
    free(p->lengths);
    free(p->tiers);
    free(p->stored);
    free(p->regions);
}

static void add_layers(parts *p, mka_memory *m) {
    for (int i = 0; i < m->options.layers; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        p->count +=
            mka_stored_regions(&m->layers[i].tiers, &p->tiers[i], p->lengths[i], name, &p->stored[i], p->regions + p->count);
    }
}

/* The tiers' failure, or the device's. */
static mka_status settle(mka_memory *m, mka_error *error) {
    mka_ops *ops = mka_memory_ops(m);
    mka_status status = mka_tiers_failure(&m->shared, error), there = ops->settle(ops, status ? NULL : error);
    return status ? status : there;
}

mka_status mka_memory_save(mka_memory *m, const char *path, mka_error *error) {
    parts p = {.lengths = NULL};
    mka_succeed(error);
    mka_status status = make_parts(&p, m, error);
    if (!status) {
        size_t layers = (size_t)m->options.layers;
        for (size_t i = 0; i < layers; i++) {
            p.lengths[i] = m->layers[i].length;
            p.tiers[i] = mka_tiers_get_state(&m->layers[i].tiers, p.lengths[i]);
        }
        p.regions[p.count++] = mka_region_of("memory", &p.head, sizeof p.head);
        p.regions[p.count++] = mka_region_of("lengths", p.lengths, layers * sizeof *p.lengths);
        p.regions[p.count++] = mka_region_of("tiers", p.tiers, layers * sizeof *p.tiers);
        add_layers(&p, m);
        status = mka_snapshot_save(m->ops.host.pool, path, "memory", 0, p.regions, p.count, error);
        if (status) settle(m, NULL);
    }
    free_parts(&p);
    return status;
}

static mka_status check_head(const head *f, const head *m, const char *path, mka_error *error) {
    const struct {
        const char *what;
        int file, memory, is_type;
    } fields[] = {{"layers", f->layers, m->layers, 0},
                  {"heads", f->heads, m->heads, 0},
                  {"kv_heads", f->kv_heads, m->kv_heads, 0},
                  {"head_dim", f->head_dim, m->head_dim, 0},
                  {"local", f->local, m->local, 1},
                  {"sinks", f->sinks, m->sinks, 0},
                  {"window", f->window, m->window, 0},
                  {"key_type", f->key_type, m->key_type, 1},
                  {"value_type", f->value_type, m->value_type, 1}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].file == fields[i].memory) continue;
        if (fields[i].is_type)
            return mka_fail(error, MKA_BAD_ARGUMENT, "%s: saved with %s %s, but this memory has %s", path, fields[i].what,
                            mka_type_name((mka_type)fields[i].file), mka_type_name((mka_type)fields[i].memory));
        return mka_fail(error, MKA_BAD_ARGUMENT, "%s: saved with %s %d, but this memory has %d", path, fields[i].what,
                        fields[i].file, fields[i].memory);
    }
    return MKA_OK;
}

static mka_status check_lengths(const mka_memory *m, const parts *p, const char *path, mka_error *error) {
    for (int i = 0; i < m->options.layers; i++) {
        if (p->lengths[i] < 0)
            return mka_fail(error, MKA_BAD_FILE, "%s: region 'lengths' says %d tokens of layer %d", path, p->lengths[i], i);
        if (p->lengths[i] > m->options.context)
            return mka_fail(error, MKA_BAD_ARGUMENT, "%s: it holds %d tokens, but this memory has room for %d", path,
                            p->lengths[i], m->options.context);
    }
    return MKA_OK;
}

/* The memory is empty at first; it is to be emptied again when this fails. */
static mka_status load_content(mka_memory *m, mka_snapshot *snapshot, parts *p, const char *path, mka_error *error) {
    for (int i = 0; i < m->options.layers; i++)
        if (!mka_tiers_set_state(&m->layers[i].tiers, mka_memory_ops(m), p->lengths[i], &p->tiers[i]))
            return mka_fail(error, MKA_BAD_FILE, "%s: region 'tiers': layer %d cannot be in such a state", path, i);
    add_layers(p, m);
    mka_status status = mka_snapshot_read(snapshot, m->ops.host.pool, p->regions, p->count, error);
    for (int i = 0; i < m->options.layers && !status; i++) mka_tiers_filled(&m->layers[i].tiers);
    if (!status) status = settle(m, error);
    for (int i = 0; i < m->options.layers && !status; i++) m->layers[i].length = p->lengths[i];
    return status;
}

static mka_status load_open(mka_memory *m, mka_snapshot *snapshot, const char *path, mka_error *error) {
    parts p;
    head h;
    mka_status status = make_parts(&p, m, error);
    size_t layers = (size_t)m->options.layers;
    if (!status) status = mka_snapshot_take(snapshot, "memory", &h, sizeof h, error);
    if (!status) status = check_head(&h, &p.head, path, error);
    if (!status) status = mka_snapshot_take(snapshot, "lengths", p.lengths, layers * sizeof *p.lengths, error);
    if (!status) status = mka_snapshot_take(snapshot, "tiers", p.tiers, layers * sizeof *p.tiers, error);
    if (!status) status = check_lengths(m, &p, path, error);
    if (!status) {
        mka_memory_reset(m);
        status = load_content(m, snapshot, &p, path, error);
        if (status) {
            settle(m, NULL);
            mka_memory_reset(m);
        }
    }
    free_parts(&p);
    return status;
}

mka_status mka_memory_load(mka_memory *m, const char *path, mka_error *error) {
    mka_snapshot *snapshot = NULL;
    mka_succeed(error);
    mka_status status = mka_snapshot_open(path, "memory", &snapshot, error);
    if (!status) status = load_open(m, snapshot, path, error);
    mka_snapshot_close(snapshot);
    return status;
}

static mka_status peek_lengths(mka_snapshot *snapshot, const char *path, mka_memory_options *o, mka_error *error) {
    if (o->layers < 1 || o->layers > 4096)
        return mka_fail(error, MKA_BAD_FILE, "%s: region 'memory' says %d layers", path, o->layers);
    int32_t lengths[4096];
    mka_status status = mka_snapshot_take(snapshot, "lengths", lengths, (size_t)o->layers * sizeof *lengths, error);
    o->context = 1;
    for (int i = 0; i < o->layers && !status; i++) o->context = lengths[i] > o->context ? lengths[i] : o->context;
    return status;
}

mka_status mka_memory_peek(const char *path, mka_memory_options *options, mka_error *error) {
    mka_snapshot *snapshot;
    head h;
    mka_succeed(error);
    mka_memory_defaults(options);
    mka_status status = mka_snapshot_open(path, "memory", &snapshot, error);
    if (!status) status = mka_snapshot_take(snapshot, "memory", &h, sizeof h, error);
    if (!status) {
        options->layers = h.layers;
        options->heads = h.heads;
        options->kv_heads = h.kv_heads;
        options->head_dim = h.head_dim;
        options->local = (mka_type)h.local;
        options->plan.sinks = h.sinks;
        options->plan.window = h.window;
        options->plan.key_type = (mka_type)h.key_type;
        options->plan.value_type = (mka_type)h.value_type;
        status = peek_lengths(snapshot, path, options, error);
    }
    mka_snapshot_close(snapshot);
    return status;
}
