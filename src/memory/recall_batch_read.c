/* recall_batch_read - the second half of recall for a block of queries: rows of the clusters that a head reads are put into
 * tiles, which its queries attend to. */
#include <math.h>
#include <string.h>

#include "recall_batch_parts.h"

static void fail(batch *t, const mka_error *error) {
    int none = 0;
    if (atomic_compare_exchange_strong(&t->failed, &none, 1)) t->error = *error;
}

/* The rows of a head attend to the tiles gathered so far. */
static void attend_gathered(block *b, int h) {
    const mka_longterm_shape *shape = &b->batch->job->longterm->shape;
    const mka_kernels *kernels = b->batch->ops->kernels;
    int d = shape->key_dim, dim = shape->value_dim, row = h * b->n;
    size_t key_tile = mka_key_tile_bytes(MKA_BF16, d), value_tile = mka_value_tile_bytes(MKA_BF16, dim);
    float *x = b->x + (size_t)row * (size_t)d, *acc = b->acc + (size_t)row * (size_t)dim;
    if (kernels->attend_rows[MKA_BF16] && d % 32 == 0 && dim % 16 == 0) {
        for (int i = 0; i < b->n; i++) b->from[i] = 0, b->to[i] = b->gathered;
        kernels->attend_rows[MKA_BF16](&(mka_attend_rows){.r = b->n,
                                                          .d_key = d,
                                                          .d_value = dim,
                                                          .n = b->gathered,
                                                          .scale = 1,
                                                          .first = b->from,
                                                          .last = b->to,
                                                          .q = x,
                                                          .keys = b->keys,
                                                          .values = b->values,
                                                          .m = b->m + row,
                                                          .z = b->z + row,
                                                          .acc = acc});
        return;
    }
    for (int at = 0; at < b->gathered; at += MKA_CLUSTERS_MOST) {
        int count = b->gathered - at < MKA_CLUSTERS_MOST ? b->gathered - at : MKA_CLUSTERS_MOST;
        size_t tile = (size_t)(at / MKA_TILE);
        kernels->score[MKA_BF16](b->n, d, count, x, b->keys + tile * key_tile, 1.0F, b->s, LDS);
        kernels->online(b->n, count, b->s, LDS, b->m + row, b->z + row, b->c);
        kernels->mix[MKA_BF16](b->n, dim, count, b->s, LDS, b->values + tile * value_tile, b->c, acc);
    }
}

/* Attends to what was gathered, and brings what was estimated to the maxima that this has left. */
static void flush(block *b, int h) {
    float was[BLOCK_ROWS];
    int row = h * b->n;
    if (!b->gathered) return;
    memcpy(was, b->m + row, (size_t)b->n * sizeof *was);
    attend_gathered(b, h);
    for (int i = 0; i < b->n; i++)
        if (b->m[row + i] != was[i]) b->unread[row + i] *= expf(was[i] - b->m[row + i]);
    b->read += (uint64_t)b->gathered;
    b->gathered = 0;
}

/* Pins the record of the run that a waiting token begins, and points to its rows. Returns 0 on failure. */
static int get_run(block *b, int at, const void **keys, const void **values) {
    mka_longterm *l = b->batch->job->longterm;
    size_t token = (size_t)(b->tokens[at] % MKA_BLOCK);
    mka_error error;
    const unsigned char *rows = mka_records_get(&l->records, mka_longterm_record(l, b->head, b->tokens[at] / MKA_BLOCK), &error);
    if (!rows) {
        fail(b->batch, &error);
        return 0;
    }
    for (int i = at; i < b->waiting && b->tokens[i] / MKA_BLOCK == b->tokens[at] / MKA_BLOCK; i++) {
        token = (size_t)(b->tokens[i] % MKA_BLOCK);
        keys[i] = rows + token * l->key_row;
        values[i] = rows + MKA_BLOCK * l->key_row + token * l->value_row;
    }
    return 1;
}

/* Makes a tile of the tokens that wait for it. Neighbours in a block share its record. */
static void put_tile(block *b, int h) {
    mka_longterm *l = b->batch->job->longterm;
    const mka_longterm_shape *shape = &l->shape;
    const mka_kernels *kernels = b->batch->ops->kernels;
    const void *keys[MKA_TILE], *values[MKA_TILE];
    size_t tile = (size_t)(b->gathered / MKA_TILE);
    int runs[MKA_TILE], count = 0, good = 1;
    for (int i = 0; i < b->waiting && good; i++) {
        if (i > 0 && b->tokens[i] / MKA_BLOCK == b->tokens[i - 1] / MKA_BLOCK) continue;
        good = get_run(b, i, keys, values);
        if (good) runs[count++] = b->tokens[i] / MKA_BLOCK;
    }
    if (good && b->waiting > 0) {
        kernels->rows_keys[shape->key_type](shape->key_dim, b->waiting, keys,
                                            b->keys + tile * mka_key_tile_bytes(MKA_BF16, shape->key_dim));
        kernels->rows_values[shape->value_type](shape->value_dim, b->waiting, values,
                                                b->values + tile * mka_value_tile_bytes(MKA_BF16, shape->value_dim));
        b->gathered += b->waiting;
    }
    while (count > 0) mka_records_release(&l->records, mka_longterm_record(l, b->head, runs[--count]));
    b->waiting = 0;
    if (b->gathered == GATHERED) flush(b, h);
}

/* Asks for so many rows of a block from token on, from disk or from memory, before the tile is made that they go to. */
static void ask(const block *b, int token, int count) {
    const mka_longterm *l = b->batch->job->longterm;
    size_t record = mka_longterm_record(l, b->head, token / MKA_BLOCK), at = (size_t)(token % MKA_BLOCK);
    const unsigned char *memory = mka_records_memory(&l->records);
    mka_records_ask(&l->records, record);
    if (!memory) return;
    const unsigned char *key = memory + record * l->records.bytes + at * l->key_row;
    const unsigned char *value = memory + record * l->records.bytes + MKA_BLOCK * l->key_row + at * l->value_row;
    for (size_t i = 0; i < (size_t)count * l->key_row; i += 64) __builtin_prefetch(key + i);
    for (size_t i = 0; i < (size_t)count * l->value_row; i += 64) __builtin_prefetch(value + i);
}

/* Tokens from..to - 1 of the long-term tier. */
static void gather(block *b, int h, int from, int to) {
    for (int token = from, end; token < to; token = end) {
        end = (token / MKA_BLOCK + 1) * MKA_BLOCK < to ? (token / MKA_BLOCK + 1) * MKA_BLOCK : to;
        ask(b, token, end - token);
        for (int i = token; i < end; i++) {
            b->tokens[b->waiting++] = i;
            if (b->waiting == MKA_TILE) put_tile(b, h);
        }
    }
}

void mka_batch_read(block *b, int h) {
    const mka_longterm *l = b->batch->job->longterm;
    for (int i = 0; i < b->batch->segments && !atomic_load_explicit(&b->batch->failed, memory_order_relaxed); i++) {
        const mka_directory *directory = mka_longterm_directory(l, mka_longterm_index(l, b->head, i));
        const uint64_t *wanted = mka_batch_wanted(b, h, i);
        int base = i * l->shape.segment;
        for (int w = 0; w < WORDS; w++)
            for (uint64_t bits = wanted[w]; bits; bits &= bits - 1) {
                int c = 64 * w + __builtin_ctzll(bits);
                gather(b, h, base + directory->start[c], base + directory->start[c + 1]);
            }
    }
    put_tile(b, h);
    flush(b, h);
}
