/* spill - records that do not fit in RAM: a file without a name, and a cache of some of them in memory.
 *
 *   put -> [ cache ] -> commit: checksum, pinned -> [ 1 MiB of them: one write to a free extent of the file ]
 *   get -> in the cache, or read into the place of an old one
 *
 * The file is made and unlinked at once, so nothing stays behind however the process ends, and two processes in one folder cannot
 * meet. It is a log: records lie where they were written, in the order in which blocks closed, each from a multiple of 4 KiB
 * on; an extent of 1 MiB whose records are all gone is used again. On several NUMA nodes each has its share of the cache. Where a
 * record lies and its checksum stay in memory. Places are given up by the clock. A hit takes no lock; a miss takes one to choose
 * a place, not while it reads. Nothing is allocated after the last part was added. */
#ifndef MKA_MEMORY_SPILL_H
#define MKA_MEMORY_SPILL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "base/places.h"

typedef struct mka_spill mka_spill;

/* A store of count records of bytes each, all in one spill: a layer's. */
typedef struct mka_spill_part {
    mka_spill *spill;
    size_t bytes, stride, count; /* of a record, in memory and in the file */
    int heads;                   /* the records are those of so many heads, one after the other, */
    size_t stretch;              /* each in stretches of so many (base/places.h) */
    uint64_t first;              /* what its records are numbered from */
    uint64_t *sums;              /* [count] */
    atomic_int *places;          /* [count] where in the cache; < 0: not there */
    atomic_uint *pages;          /* [count] where in the file, in 4 KiB, from 1 on; 0: not written */
    size_t mapped;               /* bytes of the three */
} mka_spill_part;

/* Bytes beside the record itself: of one record anywhere (its share of an extent's too), and of one place in the cache. */
#define MKA_SPILL_RECORD_BYTES (sizeof(atomic_int) + sizeof(atomic_uint) + sizeof(uint64_t) + sizeof(uint32_t))
#define MKA_SPILL_PLACE_BYTES  64

/* How many records of so many bytes wait at most to be written together: their places in the cache are taken meanwhile. */
size_t mka_spill_waiting(size_t bytes);

/* A file in folder, and a cache of places records of at most bytes each. nodes, borrowed: the NUMA nodes that share them out;
 * NULL: there is no plan. MKA_IO: no such folder, read-only, ...; MKA_NO_MEMORY. */
mka_status mka_spill_create(const char *folder, size_t bytes, size_t places, const mka_places *nodes, mka_spill **spill,
                            mka_error *error);
void mka_spill_destroy(mka_spill *spill);

/* Its zones, as many as there are nodes, and the memory of each. */
int mka_spill_zones(const mka_spill *spill);
unsigned char *mka_spill_zone(const mka_spill *spill, int zone, size_t *bytes);
/* Adds a part of count records, those of heads in turn, before anything is put; parts are to be removed before the spill is
 * destroyed. */
mka_status mka_spill_add(mka_spill *spill, size_t bytes, size_t count, int heads, size_t stretch, mka_spill_part *part,
                         mka_error *error);
void mka_spill_remove(mka_spill_part *part);

/* As of mka_records: any number of threads may put different records, get, and release. MKA_IO of a commit: this record is not
 * kept; those that were committed before are. */
unsigned char *mka_spill_put(mka_spill_part *part, size_t index, mka_error *error);
mka_status mka_spill_commit(mka_spill_part *part, size_t index, mka_error *error);
const unsigned char *mka_spill_get(mka_spill_part *part, size_t index, mka_error *error);
void mka_spill_release(mka_spill_part *part, size_t index);

/* Tells the system that a record will soon be got, once until it is. */
void mka_spill_ask(const mka_spill_part *part, size_t index);

/* Runs alone. */
void mka_spill_forget(mka_spill_part *part, size_t from, size_t count);

/* Bytes read from the file and written to it since creation, and writes that these took. */
uint64_t mka_spill_bytes_read(const mka_spill *spill);
uint64_t mka_spill_bytes_written(const mka_spill *spill, uint64_t *writes);

#endif
