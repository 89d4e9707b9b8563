/* spill - see spill.h. */
#include "spill.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/status.h"

enum { PAGE = 4096 };
#define TAKEN (1 << 24) /* a place's pins while its content changes are below zero by this */

static const uint64_t nobody = UINT64_MAX;

/* pins > 0: that many users; 0: free to be taken; < 0: being written or read. owner changes only then, under the lock. */
typedef struct place {
    _Alignas(MKA_SPILL_PLACE_BYTES) atomic_int pins;
    atomic_int used;   /* since the clock's hand came by */
    uint64_t owner;    /* number of the record, or nobody */
    atomic_int *entry; /* of the owner in its part */
} place;

struct mka_spill {
    int handle;
    char folder[256]; /* for messages, cut if it is longer */
    size_t bytes, count, hand;
    unsigned char *records; /* [count][bytes] */
    place *places;          /* [count] */
    uint64_t end, numbered; /* of the file; records numbered so far */
    atomic_uint_least64_t read;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a place is no longer being read */
};

/* ---- creation ---- */

/* A file that has no name, or loses it at once where the folder's file system cannot do that. */
static int open_nameless(const char *folder) {
    int handle = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (handle >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return handle;
    char path[4096];
    if (snprintf(path, sizeof path, "%s/mka-spill-XXXXXX", folder) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    handle = mkostemp(path, O_CLOEXEC);
    if (handle >= 0) unlink(path);
    return handle;
}

mka_status mka_spill_create(const char *folder, size_t bytes, size_t places, mka_spill **out, mka_error *error) {
    *out = NULL;
    mka_spill *s = calloc(1, sizeof *s);
    size_t all;
    if (!s) return mka_fail(error, MKA_NO_MEMORY, "no memory for a spill file");
    s->handle = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    snprintf(s->folder, sizeof s->folder, "%s", folder);
    s->bytes = (bytes + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
    s->count = places;
    if (mka_size_mul(s->bytes, places, &all)) s->records = mka_pages_map(all);
    s->places = mka_pages_map(places * sizeof *s->places);
    mka_status status = MKA_OK;
    if (!s->records || !s->places)
        status = mka_fail(error, MKA_NO_MEMORY, "the system gives no memory for a cache of %zu records", places);
    if (!status && (s->handle = open_nameless(folder)) < 0)
        status = mka_fail(error, MKA_IO, "no spill file can be made in %s: %s", folder, strerror(errno));
    if (status) {
        mka_spill_destroy(s);
        return status;
    }
    for (size_t i = 0; i < places; i++) s->places[i].owner = nobody;
    *out = s;
    return MKA_OK;
}

void mka_spill_destroy(mka_spill *s) {
    if (!s) return;
    if (s->records) mka_pages_unmap(s->records, s->bytes * s->count);
    if (s->places) mka_pages_unmap(s->places, s->count * sizeof *s->places);
    if (s->handle >= 0) close(s->handle);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

mka_status mka_spill_add(mka_spill *s, size_t bytes, size_t count, mka_spill_part *part, mka_error *error) {
    *part = (mka_spill_part){.spill = s, .bytes = bytes, .count = count, .offset = s->end, .first = s->numbered};
    part->stride = (bytes + PAGE - 1) / PAGE * PAGE;
    size_t sums = count * sizeof *part->sums;
    part->mapped = sums + count * sizeof *part->places;
    part->sums = count < SIZE_MAX / 64 ? mka_pages_map(part->mapped ? part->mapped : 1) : NULL;
    if (!part->sums) {
        *part = (mka_spill_part){.spill = NULL};
        return mka_fail(error, MKA_NO_MEMORY, "no memory to keep track of %zu spilled records", count);
    }
    part->places = (atomic_int *)(void *)((unsigned char *)part->sums + sums);
    for (size_t i = 0; i < count; i++) atomic_init(&part->places[i], -1);
    s->end += (uint64_t)count * part->stride;
    s->numbered += count;
    return MKA_OK;
}

void mka_spill_remove(mka_spill_part *part) {
    if (part->sums) mka_pages_unmap(part->sums, part->mapped ? part->mapped : 1);
    *part = (mka_spill_part){.spill = NULL};
}

/* ---- places; the lock is held ---- */

/* Takes a place that nobody uses, which is nobody's from then on; -1 when all are pinned. */
static int take_place(mka_spill *s) {
    for (size_t step = 0; step < 3 * s->count; step++) {
        size_t at = s->hand;
        place *p = &s->places[at];
        int none = 0;
        s->hand = at + 1 < s->count ? at + 1 : 0;
        if (atomic_exchange(&p->used, 0) && p->owner != nobody) continue;
        if (!atomic_compare_exchange_strong(&p->pins, &none, -TAKEN)) continue;
        if (p->owner != nobody) atomic_store(p->entry, -1);
        p->owner = nobody;
        return (int)at;
    }
    return -1;
}

/* Others may have raised pins for a moment to find that they must not: hence no store. */
static void settle(mka_spill *s, int at, int pins) {
    atomic_fetch_add(&s->places[at].pins, TAKEN + pins);
    pthread_cond_broadcast(&s->changed);
}

static void own(mka_spill_part *part, size_t index, int at) {
    place *p = &part->spill->places[at];
    p->owner = part->first + index;
    p->entry = &part->places[index];
    atomic_store(&part->places[index], at);
}

static void disown(mka_spill *s, int at) {
    place *p = &s->places[at];
    atomic_store(p->entry, -1);
    p->owner = nobody;
}

static unsigned char *record_at(const mka_spill *s, int at) {
    return s->records + (size_t)at * s->bytes;
}

static mka_status none_free(const mka_spill *s, mka_error *error) {
    return mka_fail(error, MKA_NO_MEMORY, "all %zu places of the cache before the spill file are in use", s->count);
}

/* ---- writing ---- */

unsigned char *mka_spill_put(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    pthread_mutex_lock(&s->lock);
    int at = atomic_load(&part->places[index]), none = 0;
    if (at < 0 || !atomic_compare_exchange_strong(&s->places[at].pins, &none, -TAKEN)) at = take_place(s);
    if (at >= 0) own(part, index, at);
    pthread_mutex_unlock(&s->lock);
    if (at >= 0) return record_at(s, at);
    none_free(s, error);
    return NULL;
}

static mka_status write_record(const mka_spill_part *part, size_t index, const unsigned char *bytes, mka_error *error) {
    const mka_spill *s = part->spill;
    uint64_t offset = part->offset + (uint64_t)index * part->stride;
    for (size_t done = 0; done < part->bytes;) {
        ssize_t moved = pwrite(s->handle, bytes + done, part->bytes - done, (off_t)(offset + done));
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return mka_fail(error, MKA_IO, "cannot write to the spill file in %s: %s", s->folder, strerror(errno));
        done += (size_t)moved;
    }
    return MKA_OK;
}

mka_status mka_spill_commit(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    int at = atomic_load(&part->places[index]);
    mka_status status = write_record(part, index, record_at(s, at), error);
    part->sums[index] = XXH3_64bits(record_at(s, at), part->bytes);
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->places[at].used, 1);
    if (status) disown(s, at);
    settle(s, at, 0);
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- reading ---- */

static mka_status read_record(mka_spill_part *part, size_t index, unsigned char *bytes, mka_error *error) {
    mka_spill *s = part->spill;
    uint64_t offset = part->offset + (uint64_t)index * part->stride;
    for (size_t done = 0; done < part->bytes;) {
        ssize_t moved = pread(s->handle, bytes + done, part->bytes - done, (off_t)(offset + done));
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0)
            return mka_fail(error, MKA_IO, "cannot read the spill file in %s: %s", s->folder,
                            moved < 0 ? strerror(errno) : "it is shorter than what was written");
        done += (size_t)moved;
    }
    atomic_fetch_add(&s->read, part->bytes);
    if (XXH3_64bits(bytes, part->bytes) == part->sums[index]) return MKA_OK;
    return mka_fail(error, MKA_IO, "record %zu of the spill file in %s is not what was written (its checksum does not hold)",
                    index, s->folder);
}

/* Without the lock: a pin counts only when the place is settled and still the record's. */
static const unsigned char *pin_hit(mka_spill_part *part, size_t index) {
    mka_spill *s = part->spill;
    int at = atomic_load(&part->places[index]);
    if (at < 0) return NULL;
    place *p = &s->places[at];
    if (atomic_fetch_add(&p->pins, 1) >= 0 && p->owner == part->first + index) {
        atomic_store_explicit(&p->used, 1, memory_order_relaxed);
        return record_at(s, at);
    }
    atomic_fetch_sub(&p->pins, 1);
    return NULL;
}

/* Reads the record into a place of its own; the lock is held, but not while it reads. */
static const unsigned char *read_miss(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    int at = take_place(s);
    if (at < 0) {
        none_free(s, error);
        return NULL;
    }
    own(part, index, at);
    pthread_mutex_unlock(&s->lock);
    mka_status status = read_record(part, index, record_at(s, at), error);
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->places[at].used, 1);
    if (status) disown(s, at);
    settle(s, at, status ? 0 : 1);
    return status ? NULL : record_at(s, at);
}

const unsigned char *mka_spill_get(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    const unsigned char *record = pin_hit(part, index);
    if (record) return record;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        int at = atomic_load(&part->places[index]);
        if (at < 0) {
            record = read_miss(part, index, error);
            break;
        }
        record = pin_hit(part, index);
        if (record) break;
        pthread_cond_wait(&s->changed, &s->lock); /* another thread is reading it */
    }
    pthread_mutex_unlock(&s->lock);
    return record;
}

void mka_spill_release(mka_spill_part *part, size_t index) {
    atomic_fetch_sub(&part->spill->places[atomic_load(&part->places[index])].pins, 1);
}

void mka_spill_ask(const mka_spill_part *part, size_t index) {
    if (atomic_load_explicit(&part->places[index], memory_order_relaxed) >= 0) return;
    (void)posix_fadvise(part->spill->handle, (off_t)(part->offset + (uint64_t)index * part->stride), (off_t)part->bytes,
                        POSIX_FADV_WILLNEED);
}

void mka_spill_forget(mka_spill_part *part, size_t from, size_t count) {
    mka_spill *s = part->spill;
    for (size_t i = from; i < from + count; i++) {
        int at = atomic_load(&part->places[i]);
        if (at >= 0) disown(s, at);
    }
    /* A file system without holes keeps the bytes until they are written again. */
    if (count)
        (void)fallocate(s->handle, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        (off_t)(part->offset + (uint64_t)from * part->stride), (off_t)((uint64_t)count * part->stride));
}

uint64_t mka_spill_bytes_read(const mka_spill *s) {
    return atomic_load(&s->read);
}
