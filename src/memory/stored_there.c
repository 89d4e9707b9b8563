/* stored_there - see stored_there.h. */
#include "stored_there.h"

#include <stdlib.h>

#include "base/status.h"

enum { PIECE = 1024 }; /* tokens on their way at once */

static int of_keys(const mka_stored_there *p) {
    return p->plane == MKA_DEVICE_KEYS || p->plane == MKA_DEVICE_NEAR_KEYS;
}

static size_t tile_count(const mka_stored_there *p) {
    return ((size_t)(p->to - p->first) + MKA_TILE - 1) / MKA_TILE;
}

static size_t tile_bytes(const mka_stored_there *p) {
    mka_type type = mka_device_cache_rows(p->local->device, p->plane).type;
    const mka_local_shape *s = &p->local->shape;
    return of_keys(p) ? mka_key_tile_bytes(type, s->key_dim) : mka_value_tile_bytes(type, s->value_dim);
}

/* Between rows of tokens first.. and the tiles of one head. */
static void convert(const mka_stored_there *p, const mka_device_rows *rows, int first, int count, unsigned char *numbers,
                    unsigned char *scales, unsigned char *tiles, int up) {
    const mka_local_shape *s = &p->local->shape;
    size_t bytes = tile_bytes(p);
    for (int i = 0; i < count; i++, numbers += rows->numbers, scales += rows->scales) {
        int at = first + i - p->first, slot = at % MKA_TILE;
        unsigned char *tile = tiles + (size_t)(at / MKA_TILE) * bytes;
        if (of_keys(p))
            up ? mka_key_codes(rows->type, s->key_dim, tile, slot, numbers, scales)
               : mka_put_key_codes(rows->type, s->key_dim, numbers, scales, tile, slot);
        else
            up ? mka_value_codes(rows->type, s->value_dim, tile, slot, numbers, scales)
               : mka_put_value_codes(rows->type, s->value_dim, numbers, scales, tile, slot);
    }
}

/* All tokens, from the device into room, or from there to it. */
static mka_status move(const mka_stored_there *p, int up, mka_error *error) {
    mka_device_cache *cache = p->local->device;
    mka_device_rows rows = mka_device_cache_rows(cache, p->plane);
    size_t tiles = tile_count(p) * tile_bytes(p);
    mka_status status = MKA_OK;
    unsigned char *numbers = calloc(PIECE, rows.numbers + rows.scales), *scales = numbers + PIECE * rows.numbers;
    if (!numbers) return mka_fail(error, MKA_NO_MEMORY, "no memory for rows on their way from or to the device");
    for (int head = 0; head < p->local->shape.kv_heads; head++)
        for (int first = p->from, n; first < p->to && !status; first += n) {
            n = p->to - first < PIECE ? p->to - first : PIECE;
            unsigned char *at = p->room + (size_t)head * tiles;
            if (up) {
                convert(p, &rows, first, n, numbers, scales, at, 1);
                status = mka_device_cache_write(cache, p->plane, head, first, n, numbers, scales, error);
            } else {
                status = mka_device_cache_read(cache, p->plane, head, first, n, numbers, scales, error);
                if (!status) convert(p, &rows, first, n, numbers, scales, at, 0);
            }
        }
    free(numbers);
    return status;
}

static void release(mka_stored_there *p) {
    free(p->room);
    p->room = NULL;
}

static mka_status borrow(void *owner, size_t index, int writing, unsigned char **bytes, mka_error *error) {
    mka_stored_there *p = owner;
    (void)index;
    p->room = calloc((size_t)p->local->shape.kv_heads * tile_count(p), tile_bytes(p));
    if (!p->room) return mka_fail(error, MKA_NO_MEMORY, "no memory for a part of a cache on its way from or to the device");
    mka_status status = writing ? MKA_OK : move(p, 0, error);
    if (status)
        release(p);
    else
        *bytes = p->room;
    return status;
}

static mka_status give_back(void *owner, size_t index, int writing, mka_error *error) {
    mka_stored_there *p = owner;
    (void)index;
    mka_status status = writing ? move(p, 1, error) : MKA_OK;
    release(p);
    return status;
}

void mka_stored_there_region(mka_stored_there *p, mka_region *r) {
    r->runs = 1;
    r->run = r->stride = (size_t)p->local->shape.kv_heads * tile_count(p) * tile_bytes(p);
    r->base = NULL;
    r->whole = 1;
    r->owner = p;
    r->borrow = borrow;
    r->give_back = give_back;
}
