/* pieces - see pieces.h. An owner takes from the front of what is left and others from the back, so that the owner's memory comes
 * in order; both change one word, by compare and exchange. Nothing else is published by it: what the items read was made before
 * the task, and what they write is read after it. */
#include "base/pieces.h"

#include "base/thread.h"

static uint64_t pack(size_t begin, size_t end) {
    return (uint64_t)end << 32 | (uint64_t)begin;
}

void mka_pieces_begin(mka_pieces *p, size_t total, int thread, int threads) {
    size_t begin, end;
    mka_share(total, 1, thread, threads, &begin, &end);
    atomic_store_explicit(&p[thread].left, pack(begin, end), memory_order_relaxed);
}

/* Half of what is left, rounded up; from the front or from the back. */
static int take_half(mka_pieces *p, int front, size_t *begin, size_t *end) {
    uint64_t left = atomic_load_explicit(&p->left, memory_order_relaxed), rest;
    do {
        size_t first = (size_t)(left & UINT32_MAX), last = (size_t)(left >> 32), half = (last - first + 1) / 2;
        if (first == last) return 0;
        *begin = front ? first : last - half;
        *end = *begin + half;
        rest = front ? pack(*end, last) : pack(first, *begin);
    } while (!atomic_compare_exchange_weak_explicit(&p->left, &left, rest, memory_order_relaxed, memory_order_relaxed));
    return 1;
}

int mka_pieces_take(mka_pieces *p, int thread, int threads, size_t *begin, size_t *end) {
    for (int i = 0; i < threads; i++) {
        int victim = thread + i < threads ? thread + i : thread + i - threads;
        if (take_half(&p[victim], i == 0, begin, end)) return 1;
    }
    return 0;
}
