/* arena - carving a workspace from one block, and pages straight from the system.
 *
 * Blocks are anonymous mappings, not malloc: they start zeroed, and pages that a short run never touches cost nothing.
 */
#include "base/arena.h"

#include "base/status.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)
/* Huge pages commit 2 MiB at the first touch of any byte, so small areas would mostly pay for memory that they never use. */
#define HUGE_FROM ((size_t)32 << 20)

void *mka_arena_take(mka_arena *arena, size_t count, size_t size) {
    size_t bytes, end;
    if (!mka_size_mul(count, size, &bytes) || !mka_size_add(bytes, MKA_ALIGN - 1, &bytes) ||
        !mka_size_add(arena->used, bytes & ~(size_t)(MKA_ALIGN - 1), &end)) {
        arena->overflow = 1;
        return NULL;
    }
    if (arena->base && end > arena->size) {
        arena->overflow = 1;
        return NULL;
    }
    unsigned char *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used = end;
    return piece;
}

mka_status mka_arena_reserve(mka_arena *arena, mka_error *error) {
    char text[MKA_SIZE_TEXT];
    if (arena->overflow) return mka_fail(error, MKA_NO_MEMORY, "a workspace needs more bytes than addresses exist");
    size_t bytes = arena->used ? arena->used : MKA_ALIGN;
    arena->base = mka_pages_map(bytes);
    if (!arena->base) {
        return mka_fail(error, MKA_NO_MEMORY, "a workspace of %s cannot be had: %s", mka_size_text(bytes, text, sizeof text),
                        strerror(errno));
    }
    arena->size = bytes;
    arena->used = 0;
    return mka_succeed(error);
}

void mka_arena_free(mka_arena *arena) {
    if (arena->base) mka_pages_unmap(arena->base, arena->size);
    *arena = (mka_arena){0};
}

static size_t page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void *map(size_t bytes) {
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

/* Maps 2 MiB too much and gives the ends back, so that the area starts where a huge page can. */
static void *map_aligned(size_t bytes) {
    size_t more;
    if (!mka_size_add(bytes, HUGE_PAGE, &more)) {
        errno = ENOMEM;
        return NULL;
    }
    unsigned char *pages = map(more);
    if (!pages) return NULL;
    size_t lead = (HUGE_PAGE - (uintptr_t)pages % HUGE_PAGE) % HUGE_PAGE;
    size_t tail = HUGE_PAGE - lead;
    if (lead) munmap(pages, lead);
    if (tail) munmap(pages + lead + bytes, tail);
    return pages + lead;
}

void *mka_pages_map(size_t bytes) {
    size_t page = page_size(), padded;
    if (!mka_size_add(bytes, page - 1, &padded)) {
        errno = ENOMEM;
        return NULL;
    }
    padded -= padded % page;
    if (padded < HUGE_FROM) return map(padded);
    void *pages = map_aligned(padded);
    /* Advice only: a kernel without huge pages refuses it and nothing changes. */
    if (pages) (void)madvise(pages, padded, MADV_HUGEPAGE);
    return pages;
}

void mka_pages_unmap(void *pages, size_t bytes) {
    if (!pages) return;
    size_t page = page_size();
    munmap(pages, (bytes + page - 1) / page * page);
}

void mka_pages_small(void *pages, size_t bytes) {
    size_t page = page_size();
    (void)madvise(pages, (bytes + page - 1) / page * page, MADV_NOHUGEPAGE);
}

void mka_pages_discard(void *start, size_t bytes) {
    size_t page = page_size();
    uintptr_t begin = (uintptr_t)start, end = begin + bytes;
    uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
    if (first < last) (void)madvise((void *)first, last - first, MADV_DONTNEED); /* zero again on the next touch */
}
