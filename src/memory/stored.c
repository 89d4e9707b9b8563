/* stored - see stored.h. */
#include "stored.h"

#include <stdio.h>

typedef struct list {
    mka_region *regions;
    size_t count;
    const char *name;
} list;

static mka_region *add(list *l, const char *what, size_t runs, size_t run, size_t stride, unsigned char *base) {
    mka_region *r = &l->regions[l->count];
    if (runs == 0 || run == 0) return NULL;
    *r = (mka_region){.runs = runs, .run = run, .stride = stride, .base = base};
    snprintf(r->name, sizeof r->name, "%.16s %s", l->name, what);
    l->count++;
    return r;
}

/* Tiles that hold tokens from..to - 1; from begins a tile. */
static void add_local(list *l, mka_local *local, int from, int to, const char *keys, const char *values) {
    if (to <= from) return;
    size_t heads = (size_t)local->shape.kv_heads, first = (size_t)from / MKA_TILE,
           tiles = ((size_t)to + MKA_TILE - 1) / MKA_TILE - first;
    add(l, keys, heads, tiles * local->key_tile, local->tiles * local->key_tile, local->keys + first * local->key_tile);
    if (local->shape.shared) return;
    add(l, values, heads, tiles * local->value_tile, local->tiles * local->value_tile, local->values + first * local->value_tile);
}

static void add_near(list *l, mka_near *near, int length) {
    int base, held;
    mka_near_kept(near, length, &base, &held);
    if (!near->keys || length <= base) return;
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

size_t mka_stored_regions(mka_tiers *t, int length, const char *name, mka_region *regions) {
    list l = {regions, 0, name};
    int sinks = t->shared ? t->shared->plan.sinks : 0, gap = t->shared && t->forgotten > sinks;
    if (gap) add_local(&l, &t->local, 0, sinks, "first keys", "first values");
    add_local(&l, &t->local, gap ? t->forgotten : 0, length, "keys", "values");
    add_near(&l, &t->local.near, length);
    if (t->shared && t->judged) {
        size_t heads = (size_t)t->longterm.shape.kv_heads, floats = heads * (size_t)t->longterm.shape.key_dim;
        add(&l, "centre", 1, floats * sizeof(float), floats * sizeof(float), (unsigned char *)t->longterm.centre);
        add_longterm(&l, &t->longterm);
    }
    return l.count;
}
