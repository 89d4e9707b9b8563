/* records - the rows of closed blocks, as numbered records of one size: in memory, or behind a cache in a spill file (spill.h).
 *
 * A record is written once, by mka_records_put, and read by mka_records_get, which pins it until mka_records_release: pointers
 * stay good until then. Any number of threads may put different records, get and release at once; forget runs alone. */
#ifndef MKA_MEMORY_RECORDS_H
#define MKA_MEMORY_RECORDS_H

#include "spill.h"

typedef struct mka_records {
    size_t bytes, count;  /* of one record, rounded up to 64; and how many there can be */
    unsigned char *pages; /* NULL where they are spilled */
    mka_spill_part part;
} mka_records;

/* Reserves room for count records of each of heads: in memory, or in spill where that is not NULL, whose nodes have stretches of
 * so many in turn. On failure records is all zero. */
mka_status mka_records_create(size_t bytes, size_t count, int heads, size_t stretch, mka_spill *spill, mka_records *records,
                              mka_error *error);
void mka_records_destroy(mka_records *records);

/* Where record index is to be written by the caller, who then commits it. NULL with error filled where there is no place. */
unsigned char *mka_records_put(mka_records *records, size_t index, mka_error *error);
mka_status mka_records_commit(mka_records *records, size_t index, mka_error *error);

/* The record, or NULL with error filled where it could not be read. */
const unsigned char *mka_records_get(mka_records *records, size_t index, mka_error *error);
void mka_records_release(mka_records *records, size_t index);

/* Says that a record will be got soon, so that several are on their way before the first is waited for. */
static inline void mka_records_ask(const mka_records *records, size_t index) {
    if (!records->pages) mka_spill_ask(&records->part, index);
}

/* All records, one after the other, where they lie in memory, for asking the hardware alone; NULL where they are spilled. */
static inline const unsigned char *mka_records_memory(const mka_records *records) {
    return records->pages;
}

/* Gives back the memory of records from..from + count - 1, which are not read before they are written again. */
void mka_records_forget(mka_records *records, size_t from, size_t count);

#endif
