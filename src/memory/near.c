/* near - see near.h. */
#include "near.h"

#include <string.h>

#include "ops/ops.h"

/* Types of more bits than four stay as they are: a cache may have 4-bit keys beside other values. */
static mka_type near_type(mka_type type) {
    return type == MKA_Q4_0 ? MKA_BF16 : type;
}

static size_t near_tiles(const mka_near_shape *s) {
    size_t tokens = (size_t)MKA_NEAR + (size_t)s->queries + 2 * (size_t)MKA_TILE, capacity = (size_t)s->capacity;
    return ((tokens < capacity ? tokens : capacity) + MKA_TILE - 1) / MKA_TILE;
}

size_t mka_near_bytes(const mka_near_shape *s) {
    if (s->key_type != MKA_Q4_0 && s->value_type != MKA_Q4_0) return 0;
    return (size_t)s->kv_heads * near_tiles(s) *
           (mka_key_tile_bytes(near_type(s->key_type), s->key_dim) +
            mka_value_tile_bytes(near_type(s->value_type), s->value_dim));
}

void mka_near_place(const mka_near_shape *s, unsigned char *memory, mka_near *near) {
    *near = (mka_near){.key_type = near_type(s->key_type),
                       .value_type = near_type(s->value_type),
                       .kv_heads = s->kv_heads,
                       .tiles = near_tiles(s)};
    near->key_tile = mka_key_tile_bytes(near->key_type, s->key_dim);
    near->value_tile = mka_value_tile_bytes(near->value_type, s->value_dim);
    near->keys = memory;
    near->values = memory + (size_t)s->kv_heads * near->tiles * near->key_tile;
}

void mka_near_advance(mka_near *near, int first, int n) {
    int room = (int)near->tiles * MKA_TILE;
    if (!near->keys || first + n - near->first <= room) return;
    int base = first / MKA_TILE * MKA_TILE - MKA_NEAR, least = mka_pad(first + n - room, MKA_TILE);
    if (base < least) base = least; /* more tokens than one pass attends from: the first of them are never read here */
    if (base < near->first) base = near->first;
    size_t gone = (size_t)(base - near->first) / MKA_TILE,
           kept = first > base ? (size_t)(first - base + MKA_TILE - 1) / MKA_TILE : 0;
    for (size_t head = 0; head < (size_t)near->kv_heads && kept > 0; head++) {
        unsigned char *keys = near->keys + head * near->tiles * near->key_tile;
        unsigned char *values = near->values + head * near->tiles * near->value_tile;
        memmove(keys, keys + gone * near->key_tile, kept * near->key_tile);
        memmove(values, values + gone * near->value_tile, kept * near->value_tile);
    }
    near->first = base;
    if (near->held < base) near->held = base;
}

void mka_near_truncate(mka_near *near, int length) {
    if (length > near->held) return;
    near->first = length / MKA_TILE * MKA_TILE;
    near->held = length;
}

void mka_near_kept(const mka_near *near, int length, int *base, int *held) {
    int wanted = length / MKA_TILE * MKA_TILE - MKA_NEAR;
    *base = *held = 0;
    if (!near->keys) return;
    *base = wanted > near->first ? wanted : near->first;
    *held = near->held > *base ? near->held : *base;
}

int mka_near_can_be(int has, int length, int base, int held) {
    if (!has) return base == 0 && held == 0;
    if (base < 0 || base % MKA_TILE || base > held || held > length) return 0;
    return base >= length / MKA_TILE * MKA_TILE - MKA_NEAR; /* not more than there is room for */
}

int mka_near_restore(mka_near *near, int length, int base, int held) {
    if (!mka_near_can_be(near->keys != NULL, length, base, held)) return 0;
    if (!near->keys) return 1;
    near->first = base;
    near->held = held;
    return 1;
}

static unsigned char *tile_of(const mka_near *near, unsigned char *tiles, size_t bytes, int head, int token) {
    if (!near->keys || token < near->first) return NULL;
    return tiles + ((size_t)head * near->tiles + (size_t)(token - near->first) / MKA_TILE) * bytes;
}

unsigned char *mka_near_key(const mka_near *near, int head, int token) {
    return tile_of(near, near->keys, near->key_tile, head, token);
}

unsigned char *mka_near_value(const mka_near *near, int head, int token) {
    return tile_of(near, near->values, near->value_tile, head, token);
}
