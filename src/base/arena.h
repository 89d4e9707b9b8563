/* arena - memory that is laid out once: a workspace carved from one block, and large areas that the system commits lazily.
 *
 * A layout function takes its pieces in order. Run over an empty arena (base NULL) it only measures; run again after
 * mka_arena_reserve(used) it hands out the pieces. So the map of a workspace is one function, read top to bottom, and
 * nothing allocates afterwards.
 */
#ifndef MKA_BASE_ARENA_H
#define MKA_BASE_ARENA_H

#include <mka/mka.h>

#define MKA_ALIGN 64 /* a cache line, and the widest vector */

typedef struct mka_arena {
    unsigned char *base; /* NULL while measuring */
    size_t size, used;
    int overflow; /* a request did not fit in size_t (measuring) or in the block (carving) */
} mka_arena;

/* count items of size bytes, aligned to MKA_ALIGN, zero at first. NULL while measuring or on overflow. */
void *mka_arena_take(mka_arena *arena, size_t count, size_t size);

/* Gives a measured arena its block and starts again at its beginning. MKA_NO_MEMORY when overflow is set or it cannot be had. */
mka_status mka_arena_reserve(mka_arena *arena, mka_error *error);
void mka_arena_free(mka_arena *arena);

/* Zeroed pages that take no memory until they are touched. NULL on failure. bytes > 0; unmap takes the same bytes. */
void *mka_pages_map(size_t bytes);
void mka_pages_unmap(void *pages, size_t bytes);
/* Keeps huge pages out of pages that are not touched yet, where memory is counted and only parts of the area will be used. */
void mka_pages_small(void *pages, size_t bytes);
/* Returns the memory behind whole pages within [start, start + bytes) to the system; they read as zero again. */
void mka_pages_discard(void *start, size_t bytes);

#endif
