/* there_rows - see there_rows.h. */
#include "there_rows.h"

#include <string.h>

enum { FEW = 16 }; /* clusters that are laid out sooner than threads wake */

typedef struct fetch_task {
    const mka_there_rows *rows;
    const mka_device_missing *list;
    int count;
    unsigned char *room;
} fetch_task;

/* The rows of one cluster, which may lie in two blocks. */
static mka_status fetch_cluster(const fetch_task *f, const mka_device_missing *m, mka_error *error) {
    mka_longterm *l = &f->rows->tiers->longterm;
    size_t cluster = m->cluster % (size_t)l->clusters, segment = m->cluster / (size_t)l->clusters % l->segments,
           head = m->cluster / (size_t)l->clusters / l->segments;
    const uint16_t *start = mka_longterm_directory(l, mka_longterm_index(l, (int)head, (int)segment))->start + cluster;
    unsigned char *to = f->room + m->at * f->rows->place;
    for (int row = start[0]; row < start[1];) {
        int at = row % MKA_BLOCK, n = start[1] - row < MKA_BLOCK - at ? start[1] - row : MKA_BLOCK - at;
        size_t record = mka_longterm_record(l, (int)head, (int)segment * l->segment_blocks + row / MKA_BLOCK);
        const unsigned char *rows = mka_records_get(&l->records, record, error);
        if (!rows) return error->status;
        const unsigned char *key = rows + (size_t)at * l->key_row,
                            *value = rows + MKA_BLOCK * l->key_row + (size_t)at * l->value_row;
        for (int i = 0; i < n; i++, to += f->rows->place, key += l->key_row, value += l->value_row) {
            memcpy(to, key, l->key_row);
            memcpy(to + f->rows->value_at, value, l->value_row);
        }
        mka_records_release(&l->records, record);
        row += n;
    }
    return MKA_OK;
}

static void fetch_share(void *argument, int thread, int threads) {
    const fetch_task *f = argument;
    size_t begin, end;
    mka_error error;
    mka_share((size_t)f->count, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++)
        if (fetch_cluster(f, &f->list[i], &error) != MKA_OK) {
            mka_tiers_fail(f->rows->tiers->shared, &error);
            return;
        }
}

void mka_there_fetch(void *rows, const mka_device_missing *list, int count, unsigned char *room) {
    fetch_task f = {rows, list, count, room};
    if (count < FEW)
        fetch_share(&f, 0, 1);
    else
        mka_pool_run(f.rows->pool, fetch_share, &f);
}
