/* pieces - work shared out among threads that are not equally fast: each begins with an equal share, takes half of what is left
 * of it at a time, and when it has nothing left, halves of what others have left. So a thread reads long runs, and yet all end
 * at about the same time. Who does what differs from run to run: for work whose parts do not depend on who does them.
 *
 *   mka_pieces_begin(p, total, thread, threads);      once for each task, by every thread
 *   while (mka_pieces_take(p, thread, threads, &begin, &end)) ...
 */
#ifndef MKA_BASE_PIECES_H
#define MKA_BASE_PIECES_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* What is left of one thread's share, alone on its cache line: the first item below, the end above. Zero: nothing. */
typedef struct mka_pieces {
    alignas(64) atomic_uint_least64_t left;
} mka_pieces;

/* Puts the thread's share of total items (< 2^32) into p[thread]. Every thread must have left the task before, which a join or
 * a barrier says; whoever begins late is not helped before, and nothing else. */
void mka_pieces_begin(mka_pieces *p, size_t total, int thread, int threads);

/* The next piece, or 0 when nothing is left anywhere. */
int mka_pieces_take(mka_pieces *p, int thread, int threads, size_t *begin, size_t *end);

#endif
