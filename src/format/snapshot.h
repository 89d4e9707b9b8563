/* snapshot - a file of named regions that is written as a whole or not at all, and read back only where every byte holds.
 *
 *   | header, 64 | table: 64 a region | region | region | ...      regions at multiples of 64, so that they can be mapped
 *
 * Every region has an XXH3 checksum (over those of its pieces of up to 1 MiB, so that threads share it out, padding included),
 * the table another, the header its own. Numbers are as the machine has them; a mark tells a file of the other byte order.
 *
 *   save  PATH.partial (locked) -> regions -> table, header -> fsync -> rename -> fsync of the folder
 *
 * A kill at any moment leaves the old file or the new one whole, and at most a PATH.partial, which the next save takes over. */
#ifndef MKA_FORMAT_SNAPSHOT_H
#define MKA_FORMAT_SNAPSHOT_H

#include "base/thread.h"

/* To be raised whenever what a region holds changes its meaning: tiles (simd/cache.h), rows and signs (simd/rows.h), the turn
 * (memory/keycode.c), or the structs that sessions and memories save. */
#define MKA_SNAPSHOT_VERSION 3

enum { MKA_REGION_NAME = 32, MKA_SNAPSHOT_KIND = 8 };

/* Bytes in memory that a region stands for: runs of run bytes, stride apart. Where they are not simply there, base is NULL and
 * borrow gives run number index (for reading or writing) until give_back; any number of threads call both. whole: one run, which
 * is borrowed once for all threads, from its first piece to its last; where a failure ends the transfer before that, it is given
 * back as if it had only been read. */
typedef struct mka_region {
    char name[MKA_REGION_NAME];
    size_t runs, run, stride;
    unsigned char *base;
    int whole;
    mka_status (*borrow)(void *owner, size_t index, int writing, unsigned char **bytes, mka_error *error);
    mka_status (*give_back)(void *owner, size_t index, int writing, mka_error *error);
    void *owner;
} mka_region;

/* The header and the table as they lie in the file. */
typedef struct mka_snapshot_header {
    char magic[8];
    uint32_t version, order;
    char kind[MKA_SNAPSHOT_KIND]; /* "session", "memory" */
    uint64_t bound;               /* fingerprint of what the content belongs to */
    uint64_t bytes;               /* of the file */
    uint64_t regions;
    uint64_t table_sum;  /* of the table */
    uint64_t header_sum; /* of the header up to here */
} mka_snapshot_header;

typedef struct mka_snapshot_entry {
    char name[MKA_REGION_NAME];
    uint64_t offset, bytes, sum, reserved;
} mka_snapshot_entry;

typedef struct mka_snapshot mka_snapshot;

/* Writes a file of count regions. Errors (disk full, no such folder, ...) leave what was there before, and nothing beside it.
 * pool may be NULL. */
mka_status mka_snapshot_save(mka_pool *pool, const char *path, const char *kind, uint64_t bound, const mka_region *regions,
                             size_t count, mka_error *error);

/* Opens a file and checks header and table against the file's size. MKA_BAD_FILE, MKA_UNSUPPORTED (version, byte order). */
mka_status mka_snapshot_open(const char *path, const char *kind, mka_snapshot **snapshot, mka_error *error);
/* The same of an open file, which becomes the snapshot's; name is for messages. */
mka_status mka_snapshot_open_handle(int handle, const char *name, const char *kind, mka_snapshot **snapshot, mka_error *error);
void mka_snapshot_close(mka_snapshot *snapshot);

uint64_t mka_snapshot_bound(const mka_snapshot *snapshot);
uint64_t mka_snapshot_bytes(const mka_snapshot *snapshot);

/* Bytes of a region; returns 0 when there is none of that name. */
int mka_snapshot_find(const mka_snapshot *snapshot, const char *name, uint64_t *bytes);

/* Reads the named regions into place and checks them; each must have exactly the bytes that the file has. After a failure the
 * places hold anything. pool may be NULL. */
mka_status mka_snapshot_read(mka_snapshot *snapshot, mka_pool *pool, const mka_region *regions, size_t count, mka_error *error);

/* One small region into buffer, of exactly bytes. */
mka_status mka_snapshot_take(mka_snapshot *snapshot, const char *name, void *buffer, size_t bytes, mka_error *error);

/* A region that is one piece of memory. */
mka_region mka_region_of(const char *name, const void *bytes, size_t size);

#endif
