/* near - the newest tokens of a cache in four bits, as bfloat16 beside their codes.
 *
 * A query gives most of its weight to the tokens just before it (with SmolLM2 most of what 4-bit keys lose is lost there),
 * so those are read from here, and the codes for the rest. Which is which depends on the positions alone: a query at position p
 * reads p / 32 * 32 - MKA_NEAR.. here (see mka_near_from), whatever the pieces that tokens came in.
 *
 * Room is for what one pass needs. When it is full, whole tiles move to the front: once in as many tokens as a pass may bring. */
#ifndef MKA_MEMORY_NEAR_H
#define MKA_MEMORY_NEAR_H

#include "kernels.h"

typedef struct mka_near_shape {
    int kv_heads, key_dim, value_dim;
    mka_type key_type, value_type; /* of the cache */
    int queries;                   /* of one pass at most */
    int capacity;                  /* of the cache, tokens */
} mka_near_shape;

/* keys [kv_heads][tiles][key tile], values likewise, turned as those of the cache are. */
typedef struct mka_near {
    mka_type key_type, value_type;
    int kv_heads;
    size_t key_tile, value_tile, tiles; /* tiles: of one head */
    int first;                          /* position of the first slot, a multiple of MKA_TILE */
    int held;                           /* tokens from here on are there; what a cut took away does not come back */
    unsigned char *keys, *values;       /* NULL: a cache that needs none */
} mka_near;

/* Bytes of the room; 0 for a cache of other types than Q4_0. */
size_t mka_near_bytes(const mka_near_shape *shape);

/* Lays the room out in memory, of that many bytes, 64-byte aligned, borrowed. */
void mka_near_place(const mka_near_shape *shape, unsigned char *memory, mka_near *near);

/* Makes room for tokens first..first+n-1, which come next. */
void mka_near_advance(mka_near *near, int first, int n);

/* The tokens from length on are gone. */
void mka_near_truncate(mka_near *near, int length);

/* What a saved cache of length tokens keeps: those that the next query may read, from base on, of which held.. are there. base 0,
 * held 0 without a room. mka_near_restore readies an empty room for just these (they are then written to its first tiles); 0
 * for numbers that cannot be. */
void mka_near_kept(const mka_near *near, int length, int *base, int *held);
int mka_near_restore(mka_near *near, int length, int base, int held);
/* The latter alone; has: whether the cache has a room. */
int mka_near_can_be(int has, int length, int base, int held);

/* Where a token's tile begins; NULL for one that has no room. */
unsigned char *mka_near_key(const mka_near *near, int head, int token);
unsigned char *mka_near_value(const mka_near *near, int head, int token);

#endif
