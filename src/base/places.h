/* places - who works beside which memory: the NUMA nodes that share out the heads of a cache and the rows of weights, and the
 * threads on each.
 *
 *   heads >= nodes   every node has a run of heads, so its share of an array that goes head by head is one range
 *   heads <  nodes   every head has a run of nodes, and its tokens go to them in turn, a stretch of thousands each
 *   weights          every node has a run of rows of each matrix, by how many threads it has
 *
 * The split of work into items stays what it is without places; a thread takes items of its own node first and then helps others.
 * Items never share sums, so results do not depend on who does what. NULL stands for no plan: one place for all.
 */
#ifndef MKA_BASE_PLACES_H
#define MKA_BASE_PLACES_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { MKA_MOST_PLACES = 32, MKA_PLACED_THREADS = 1024, MKA_STRETCH = 4096, MKA_PLACED_ROWS = 8 };

typedef struct mka_places {
    int count;
    int number[MKA_MOST_PLACES]; /* of the node, as the system counts */
    int ask;                     /* 1: threads ask where they run; 0: the machine is only described, of_thread says it */
    uint8_t of_thread[MKA_PLACED_THREADS];
    uint16_t order[MKA_PLACED_THREADS]; /* a thread's number when they are counted place by place */
    int before[MKA_MOST_PLACES + 1];    /* threads of the places before each, and of all */
} mka_places;

static inline int mka_places_count(const mka_places *p) {
    return p ? p->count : 1;
}

/* The place of a thread of the pool: where it runs, or where it is meant to run while that is no place of the plan. */
int mka_places_here(const mka_places *p, int thread);

/* What is read as a whole, rows of weights, is shared out by threads: place has units cut(place)..cut(place + 1) - 1 of it, each
 * of MKA_PLACED_ROWS rows where single tokens are evaluated. */
static inline size_t mka_places_cut(const mka_places *p, size_t units, int place) {
    return p ? units * (size_t)p->before[place] / (size_t)p->before[p->count] : place ? units : 0;
}

/* A thread's number among those that share such work out. */
static inline int mka_places_order(const mka_places *p, int thread) {
    return p ? p->order[thread] : thread;
}

/* Fills order and before from of_thread. */
void mka_places_count_threads(mka_places *p, int threads);

/* Tokens of a stretch, for heads of capacity tokens: a multiple of MKA_STRETCH, and 64 stretches at most. */
size_t mka_places_stretch(size_t capacity);

/* The place that holds stretch number stretch of a head. */
int mka_places_of(const mka_places *p, int heads, int head, size_t stretch);

/* Items still to be handed out, for each place; zero at first. */
typedef struct mka_deal {
    struct {
        alignas(64) atomic_size_t next;
    } place[MKA_MOST_PLACES];
} mka_deal;

/* The place of an item. */
typedef int mka_place_fn(const void *work, size_t item);

/* The next of count items for a thread at place here, in order: one of its place, then of the next ones. 0: none is left. of may
 * be NULL with one place. */
int mka_deal_take(mka_deal *deal, const mka_places *p, int here, size_t count, mka_place_fn *of, const void *work, size_t *item);

#endif
