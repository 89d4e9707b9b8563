/* places - see places.h. A place's counter runs over the items of all places and skips those of others: one addition for each,
 * against items that take microseconds, and no list has to be made. */
#include "base/places.h"

#include "base/numa.h"

enum { MOST_STRETCHES = 64 };

int mka_places_here(const mka_places *p, int thread) {
    if (!p) return 0;
    int node = p->ask ? mka_numa_here() : -1;
    for (int i = 0; node >= 0 && i < p->count; i++)
        if (p->number[i] == node) return i;
    return p->of_thread[thread];
}

void mka_places_count_threads(mka_places *p, int threads) {
    int counted = 0;
    for (int place = 0; place < p->count; place++) {
        p->before[place] = counted;
        for (int t = 0; t < threads && t < MKA_PLACED_THREADS; t++)
            if (p->of_thread[t] == place) p->order[t] = (uint16_t)counted++;
    }
    p->before[p->count] = counted;
}

size_t mka_places_stretch(size_t capacity) {
    size_t each = (capacity + MOST_STRETCHES - 1) / MOST_STRETCHES;
    return each <= MKA_STRETCH ? MKA_STRETCH : (each + MKA_STRETCH - 1) / MKA_STRETCH * MKA_STRETCH;
}

int mka_places_of(const mka_places *p, int heads, int head, size_t stretch) {
    int count = mka_places_count(p), first = (int)((int64_t)head * count / heads),
        last = (int)(((int64_t)head + 1) * count / heads);
    return last - first < 2 ? first : first + (int)(stretch % (size_t)(last - first));
}

int mka_deal_take(mka_deal *deal, const mka_places *p, int here, size_t count, mka_place_fn *of, const void *work, size_t *item) {
    int places = mka_places_count(p);
    for (int i = 0; i < places; i++) {
        int place = here + i < places ? here + i : here + i - places;
        for (;;) {
            size_t next = atomic_fetch_add_explicit(&deal->place[place].next, 1, memory_order_relaxed);
            if (next >= count) break;
            *item = next;
            if (places == 1 || of(work, next) == place) return 1;
        }
    }
    return 0;
}
