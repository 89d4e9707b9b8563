/* there_rows - see there_rows.h. */
#include "there_rows.h"

#include <stdatomic.h>
#include <string.h>

enum {
    FEW = 16,  /* clusters that are laid out sooner than threads wake */
    AHEAD = 4, /* clusters whose rows are asked for before their turn: they lie anywhere in memory */
    LINES = 12 /* of them, of keys and of values, at most */
};

typedef struct fetch_task {
    mka_tiers *tiers;
    const mka_device_missing *list;
    int count;
    size_t place, value_at; /* mka_device_ring_place */
    unsigned char *room;
    atomic_size_t end; /* tokens of room that are filled, up to the last */
    atomic_int failed;
} fetch_task;

typedef struct rows {
    int head, segment, from, to; /* of a segment's rows */
} rows;

static rows rows_of(const mka_longterm *l, const mka_device_missing *m) {
    size_t clusters = (size_t)l->clusters, cluster = m->cluster % clusters, segment = m->cluster / clusters % l->segments;
    int head = (int)(m->cluster / clusters / l->segments);
    const uint16_t *start = mka_longterm_directory(l, mka_longterm_index(l, head, (int)segment))->start + cluster;
    return (rows){head, (int)segment, start[0], start[1]};
}

/* Asks for the rows of a cluster that are in its first block. */
static void ask_rows(const mka_longterm *l, const mka_device_missing *m) {
    const unsigned char *records = mka_records_memory(&l->records);
    rows r = rows_of(l, m);
    size_t at = (size_t)(r.from % MKA_BLOCK),
           n = (size_t)(r.to - r.from) < MKA_BLOCK - at ? (size_t)(r.to - r.from) : MKA_BLOCK - at;
    size_t record = mka_longterm_record(l, r.head, r.segment * l->segment_blocks + r.from / MKA_BLOCK);
    mka_records_ask(&l->records, record);
    if (!records) return;
    records += record * l->records.bytes;
    const unsigned char *keys = records + at * l->key_row, *values = records + MKA_BLOCK * l->key_row + at * l->value_row;
    for (size_t i = 0; i < LINES && 64 * i < n * l->key_row; i++) __builtin_prefetch(keys + 64 * i);
    for (size_t i = 0; i < LINES && 64 * i < n * l->value_row; i++) __builtin_prefetch(values + 64 * i);
}

/* The rows of one cluster, which may lie in two blocks. */
static mka_status fetch_cluster(const fetch_task *f, const mka_device_missing *m, mka_error *error) {
    mka_longterm *l = &f->tiers->longterm;
    rows r = rows_of(l, m);
    unsigned char *to = f->room + m->at * f->place;
    for (int row = r.from; row < r.to;) {
        int at = row % MKA_BLOCK, n = r.to - row < MKA_BLOCK - at ? r.to - row : MKA_BLOCK - at;
        size_t record = mka_longterm_record(l, r.head, r.segment * l->segment_blocks + row / MKA_BLOCK);
        const unsigned char *block = mka_records_get(&l->records, record, error);
        if (!block) return error->status;
        const unsigned char *key = block + (size_t)at * l->key_row,
                            *value = block + MKA_BLOCK * l->key_row + (size_t)at * l->value_row;
        for (int i = 0; i < n; i++, to += f->place, key += l->key_row, value += l->value_row) {
            memcpy(to, key, l->key_row);
            memcpy(to + f->value_at, value, l->value_row);
        }
        mka_records_release(&l->records, record);
        row += n;
    }
    return MKA_OK;
}

static void raise_to(atomic_size_t *most, size_t value) {
    size_t old = atomic_load(most);
    while (old < value && !atomic_compare_exchange_weak(most, &old, value)) continue;
}

static void fetch_share(void *argument, int thread, int threads) {
    fetch_task *f = argument;
    const mka_longterm *l = &f->tiers->longterm;
    size_t begin, end, tokens = 0;
    mka_error error;
    mka_share((size_t)f->count, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end && i < begin + AHEAD; i++) ask_rows(l, &f->list[i]);
    for (size_t i = begin; i < end; i++) {
        if (i + AHEAD < end) ask_rows(l, &f->list[i + AHEAD]);
        if (fetch_cluster(f, &f->list[i], &error) != MKA_OK) {
            mka_tiers_fail(f->tiers->shared, &error);
            atomic_store(&f->failed, 1);
            return;
        }
        rows r = rows_of(l, &f->list[i]);
        size_t last = f->list[i].at + (size_t)(r.to - r.from);
        tokens = last > tokens ? last : tokens;
    }
    raise_to(&f->end, tokens);
}

size_t mka_there_fetch(void *tiers, const mka_device_missing *list, int count, unsigned char *room) {
    mka_tiers *t = tiers;
    const mka_longterm_shape *s = &t->longterm.shape;
    const mka_device_longterm_shape shape = {
        .key_dim = s->key_dim, .value_dim = s->value_dim, .key_type = s->key_type, .value_type = s->value_type};
    fetch_task f = {.tiers = t, .list = list, .count = count, .room = room};
    f.place = mka_device_ring_place(&shape, &f.value_at);
    if (count < FEW)
        fetch_share(&f, 0, 1);
    else
        mka_pool_run(t->pool, fetch_share, &f);
    return atomic_load(&f.failed) ? 0 : atomic_load(&f.end);
}
