/* stored - see stored.h. */
#include "stored.h"

#include <stdio.h>

typedef struct list {
    mka_region *regions;
    size_t count;
    const char *name;
    mka_stored_there *there; /* [MKA_STORED_REGIONS] */
} list;

static void name_region(const list *l, mka_region *r, const char *what) {
    snprintf(r->name, sizeof r->name, "%.16s %s", l->name, what);
}

static mka_region *add(list *l, const char *what, size_t runs, size_t run, size_t stride, unsigned char *base) {
    mka_region *r = &l->regions[l->count];
    if (runs == 0 || run == 0) return NULL;
    *r = (mka_region){.runs = runs, .run = run, .stride = stride, .base = base};
    name_region(l, r, what);
    l->count++;
    return r;
}

static void add_there(list *l, const char *what, mka_stored_there part) {
    mka_region *r = &l->regions[l->count];
    *r = (mka_region){.runs = 0};
    name_region(l, r, what);
    l->there[l->count] = part;
    mka_stored_there_region(&l->there[l->count], r);
    l->count++;
}

/* Tiles that hold tokens first..to - 1, which begin with a tile; the local tier has those from `from` on. */
static void add_local(list *l, const mka_local *local, int first, int from, int to, const char *keys, const char *values) {
    if (to <= first) return;
    size_t heads = (size_t)local->shape.kv_heads, tile = (size_t)first / MKA_TILE,
           tiles = ((size_t)to + MKA_TILE - 1) / MKA_TILE - tile;
    if (local->device) {
        add_there(l, keys, (mka_stored_there){local, MKA_DEVICE_KEYS, first, to, from, NULL});
        if (!local->shape.shared) add_there(l, values, (mka_stored_there){local, MKA_DEVICE_VALUES, first, to, from, NULL});
        return;
    }
    add(l, keys, heads, tiles * local->key_tile, local->tiles * local->key_tile, local->keys + tile * local->key_tile);
    if (local->shape.shared) return;
    add(l, values, heads, tiles * local->value_tile, local->tiles * local->value_tile, local->values + tile * local->value_tile);
}

static void add_near(list *l, const mka_local *local, int base, int held, int length) {
    const mka_near *near = &local->near;
    if (!mka_local_has_near(local) || length <= base) return;
    if (local->device) {
        add_there(l, "near keys", (mka_stored_there){local, MKA_DEVICE_NEAR_KEYS, base, length, held, NULL});
        add_there(l, "near values", (mka_stored_there){local, MKA_DEVICE_NEAR_VALUES, base, length, held, NULL});
        return;
    }
    size_t heads = (size_t)near->kv_heads, first = (size_t)(base - near->first) / MKA_TILE,
           tiles = (size_t)(length - base + MKA_TILE - 1) / MKA_TILE;
    add(l, "near keys", heads, tiles * near->key_tile, near->tiles * near->key_tile, near->keys + first * near->key_tile);
    add(l, "near values", heads, tiles * near->value_tile, near->tiles * near->value_tile,
        near->values + first * near->value_tile);
}

static mka_status borrow_row(void *owner, size_t index, int writing, unsigned char **bytes, mka_error *error) {
    mka_longterm *t = owner;
    size_t blocks = (size_t)t->blocks, record = mka_longterm_record(t, (int)(index / blocks), (int)(index % blocks));
    *bytes = writing ? mka_records_put(&t->records, record, error)
                     : (unsigned char *)(uintptr_t)mka_records_get(&t->records, record, error);
    return *bytes ? MKA_OK : error->status;
}

static mka_status give_row_back(void *owner, size_t index, int writing, mka_error *error) {
    mka_longterm *t = owner;
    size_t blocks = (size_t)t->blocks, record = mka_longterm_record(t, (int)(index / blocks), (int)(index % blocks));
    if (writing) return mka_records_commit(&t->records, record, error);
    mka_records_release(&t->records, record);
    return MKA_OK;
}

static void add_longterm(list *l, mka_longterm *t) {
    size_t heads = (size_t)t->shape.kv_heads, blocks = (size_t)t->blocks, row = MKA_BLOCK * (t->key_row + t->value_row);
    add(l, "index", heads, blocks / (size_t)t->segment_blocks * t->segment, t->segments * t->segment, t->index);
    mka_region *rows = add(l, "rows", heads * blocks, row, row, NULL);
    if (rows) rows->owner = t, rows->borrow = borrow_row, rows->give_back = give_row_back;
}

size_t mka_stored_regions(mka_tiers *t, const mka_tiers_state *state, int length, const char *name, mka_stored *stored,
                          mka_region *regions) {
    list l = {regions, 0, name, stored->there};
    int sinks = t->shared ? t->shared->plan.sinks : 0, gap = t->shared && state->forgotten > sinks;
    if (gap) add_local(&l, &t->local, 0, 0, sinks, "first keys", "first values");
    add_local(&l, &t->local, gap ? state->forgotten : 0, gap ? t->forgotten : 0, length, "keys", "values");
    add_near(&l, &t->local, state->near_base, state->near_held, length);
    if (t->shared && t->judged) {
        size_t heads = (size_t)t->longterm.shape.kv_heads, floats = heads * (size_t)t->longterm.shape.key_dim;
        add(&l, "centre", 1, floats * sizeof(float), floats * sizeof(float), (unsigned char *)t->longterm.centre);
        add_longterm(&l, &t->longterm);
    }
    return l.count;
}
