/* spill_parts - what the files of the spill share: spill.c the records and who waits for what, spill_cache.c the places in
 * memory, spill_file.c the extents of the file. */
#ifndef MKA_MEMORY_SPILL_PARTS_H
#define MKA_MEMORY_SPILL_PARTS_H

#include <pthread.h>

#include "spill.h"

enum { MKA_SPILL_PAGE = 4096, MKA_SPILL_EXTENT = 1 << 20, MKA_SPILL_WAITING = MKA_SPILL_EXTENT / MKA_SPILL_PAGE };

enum {
    MKA_SPILL_ABSENT = -1,
    MKA_SPILL_ASKED = -2
}; /* places of records that are not in the cache, and were or were not asked for */

/* pins > 0: that many users; 0: free to be taken; < 0: being written or read. owner changes only then, under the lock. A record
 * that waits to be written is a user of its place. */
#define MKA_SPILL_NOBODY UINT64_MAX
typedef struct mka_spill_place {
    _Alignas(MKA_SPILL_PLACE_BYTES) atomic_int pins;
    atomic_int used;   /* since the clock's hand came by */
    uint64_t owner;    /* number of the record, or MKA_SPILL_NOBODY */
    atomic_int *entry; /* of the owner in its part */
} mka_spill_place;

typedef struct mka_spill_waiter {
    mka_spill_part *part;
    size_t index;
    int at; /* place */
} mka_spill_waiter;

struct mka_spill {
    int handle;
    char folder[256]; /* for messages, cut if it is longer */
    size_t bytes, count;
    const mka_places *nodes;      /* places are shared out over NUMA nodes; NULL: one zone for all */
    size_t hand[MKA_MOST_PLACES]; /* the clock's, of each zone */
    unsigned char *records;       /* [count][bytes] */
    mka_spill_place *places;      /* [count] */
    uint64_t numbered;            /* records numbered so far */
    uint32_t *live;               /* [extents] records in each */
    size_t extents;               /* that there may be at most: one a record */
    size_t end, unused;           /* extents of the file so far, and how many of them have no record */
    size_t next;                  /* where the search for one begins */
    mka_spill_waiter queue[MKA_SPILL_WAITING];
    int waiting, most; /* in the queue; and at most, a part of the cache */
    uint64_t written, writes;
    atomic_uint_least64_t read;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a place is no longer being read */
};

/* ---- spill_cache.c; the lock is held, but for pin ---- */

static inline unsigned char *mka_spill_record(const mka_spill *s, int at) {
    return s->records + (size_t)at * s->bytes;
}

/* Takes a place that nobody uses, which is nobody's from then on, in the zone of the record where there is one; -1 when all are
 * pinned. */
int mka_spill_take(mka_spill_part *part, size_t index);
/* Takes a place that has a record; 0 where it is in use. */
int mka_spill_take_own(mka_spill *spill, int at);
/* What was taken is ready, with so many users. */
void mka_spill_settle(mka_spill *spill, int at, int pins);
void mka_spill_own(mka_spill_part *part, size_t index, int at);
void mka_spill_disown(mka_spill *spill, int at);
/* Without the lock: the record, with one user more; NULL where it is not there or not ready. */
const unsigned char *mka_spill_pin(mka_spill_part *part, size_t index);

/* ---- spill_file.c; the lock is held, but for read ---- */

size_t mka_spill_stride(size_t bytes);
/* A file in the folder that has no name; < 0 with errno set. */
int mka_spill_open(const char *folder);
/* Room to count the records of so many more extents; nothing is written yet. 0 where there is none. */
int mka_spill_add_extents(mka_spill *spill, size_t count);
/* Writes what waits to one extent, and nobody waits. On failure all of it goes on waiting. */
mka_status mka_spill_flush(mka_spill *spill, mka_error *error);
mka_status mka_spill_read(mka_spill_part *part, size_t index, unsigned char *bytes, mka_error *error);
/* Gives the copies of records from.. in the file up: whole extents that come free at once, then what is gone of the others. */
void mka_spill_drop(mka_spill_part *part, size_t from, size_t count);

#endif
