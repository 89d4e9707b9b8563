/* spill - see spill.h. */
#include "spill.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/status.h"

enum { PAGE = 4096, EXTENT = 1 << 20, WAITING = EXTENT / PAGE };
#define TAKEN (1 << 24) /* a place's pins while its content changes are below zero by this */

enum { ABSENT = -1, ASKED = -2 }; /* places of records that are not in the cache, and were or were not asked for */

static const uint64_t nobody = UINT64_MAX;

/* pins > 0: that many users; 0: free to be taken; < 0: being written or read. owner changes only then, under the lock. A record
 * that waits to be written is a user of its place. */
typedef struct place {
    _Alignas(MKA_SPILL_PLACE_BYTES) atomic_int pins;
    atomic_int used;   /* since the clock's hand came by */
    uint64_t owner;    /* number of the record, or nobody */
    atomic_int *entry; /* of the owner in its part */
} place;

typedef struct waiting {
    mka_spill_part *part;
    size_t index;
    int at; /* place */
} waiting;

struct mka_spill {
    int handle;
    char folder[256]; /* for messages, cut if it is longer */
    size_t bytes, count, hand;
    unsigned char *records; /* [count][bytes] */
    place *places;          /* [count] */
    uint64_t numbered;      /* records numbered so far */
    uint32_t *live;         /* [extents] records in each */
    size_t extents;         /* that there may be at most: one a record */
    size_t end, unused;     /* extents of the file so far, and how many of them have no record */
    size_t next;            /* where the search for one begins */
    waiting queue[WAITING];
    int waiting, most; /* in the queue; and at most, a part of the cache */
    uint64_t written, writes;
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
    s->most = places < 4 * (size_t)WAITING ? (int)(places / 4) : WAITING;
    *out = s;
    return MKA_OK;
}

void mka_spill_destroy(mka_spill *s) {
    if (!s) return;
    if (s->records) mka_pages_unmap(s->records, s->bytes * s->count);
    if (s->places) mka_pages_unmap(s->places, s->count * sizeof *s->places);
    if (s->live) mka_pages_unmap(s->live, s->extents * sizeof *s->live);
    if (s->handle >= 0) close(s->handle);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static size_t stride_of(size_t bytes) {
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

size_t mka_spill_waiting(size_t bytes) {
    size_t fit = bytes ? EXTENT / stride_of(bytes) : 1;
    return fit ? fit : 1;
}

/* Room to count the records of so many more extents; nothing is written yet. */
static int add_extents(mka_spill *s, size_t count) {
    size_t extents = s->extents + count;
    if (count == 0) return 1;
    uint32_t *live = extents < SIZE_MAX / 64 ? mka_pages_map(extents * sizeof *live) : NULL;
    if (!live) return 0;
    if (s->live) mka_pages_unmap(s->live, s->extents * sizeof *live);
    s->live = live;
    s->extents = extents;
    return 1;
}

mka_status mka_spill_add(mka_spill *s, size_t bytes, size_t count, mka_spill_part *part, mka_error *error) {
    *part = (mka_spill_part){.spill = s, .bytes = bytes, .stride = stride_of(bytes), .count = count, .first = s->numbered};
    size_t sums = count * sizeof *part->sums, places = count * sizeof *part->places;
    part->mapped = sums + places + count * sizeof *part->pages;
    part->sums = count < SIZE_MAX / 64 && add_extents(s, count) ? mka_pages_map(part->mapped ? part->mapped : 1) : NULL;
    if (!part->sums) {
        *part = (mka_spill_part){.spill = NULL};
        return mka_fail(error, MKA_NO_MEMORY, "no memory to keep track of %zu spilled records", count);
    }
    part->places = (atomic_int *)(void *)((unsigned char *)part->sums + sums);
    part->pages = (atomic_uint *)(void *)((unsigned char *)part->sums + sums + places);
    for (size_t i = 0; i < count; i++) atomic_init(&part->places[i], ABSENT);
    s->numbered += count;
    return MKA_OK;
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
        if (p->owner != nobody) atomic_store(p->entry, ABSENT);
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
    atomic_store(p->entry, ABSENT);
    p->owner = nobody;
}

static unsigned char *record_at(const mka_spill *s, int at) {
    return s->records + (size_t)at * s->bytes;
}

static mka_status none_free(const mka_spill *s, mka_error *error) {
    return mka_fail(error, MKA_NO_MEMORY, "all %zu places of the cache before the spill file are in use", s->count);
}

/* ---- extents of the file; the lock is held ---- */

static void punch(const mka_spill *s, uint64_t offset, size_t bytes) {
    /* A file system without holes keeps the bytes until they are written again. */
    (void)fallocate(s->handle, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
}

static size_t extent_of(unsigned page) {
    return (size_t)(page - 1) / (EXTENT / PAGE);
}

static uint64_t offset_of(unsigned page) {
    return (uint64_t)(page - 1) * PAGE;
}

/* One record of the extent at page is gone; returns 1 when it was the last. */
static int leave_extent(mka_spill *s, unsigned page) {
    if (--s->live[extent_of(page)]) return 0;
    s->unused++;
    return 1;
}

/* The copy of a record that was written again. */
static void drop_copy(mka_spill *s, unsigned page, size_t stride) {
    if (leave_extent(s, page))
        punch(s, (uint64_t)extent_of(page) * EXTENT, EXTENT);
    else
        punch(s, offset_of(page), stride);
}

/* An extent without records: one that had some, or the next of the file. */
static size_t free_extent(mka_spill *s) {
    if (!s->unused) return s->end;
    while (s->live[s->next]) s->next = s->next + 1 < s->end ? s->next + 1 : 0;
    return s->next;
}

/* ---- writing ---- */

/* Takes a record that was committed before out of the queue. */
static void unqueue(mka_spill *s, int at) {
    for (int i = 0; i < s->waiting; i++) {
        if (s->queue[i].at != at) continue;
        s->queue[i] = s->queue[--s->waiting];
        atomic_fetch_sub(&s->places[at].pins, 1);
        return;
    }
}

/* The record is no longer in the cache. */
static void leave_cache(mka_spill_part *part, size_t index) {
    int at = atomic_load(&part->places[index]);
    if (at < 0) return;
    unqueue(part->spill, at);
    disown(part->spill, at);
}

unsigned char *mka_spill_put(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    pthread_mutex_lock(&s->lock);
    int at = atomic_load(&part->places[index]), none = 0;
    if (at >= 0) unqueue(s, at);
    if (at < 0 || !atomic_compare_exchange_strong(&s->places[at].pins, &none, -TAKEN)) at = take_place(s);
    if (at >= 0) own(part, index, at);
    pthread_mutex_unlock(&s->lock);
    if (at >= 0) return record_at(s, at);
    none_free(s, error);
    return NULL;
}

static mka_status write_all(mka_spill *s, struct iovec *parts, int count, uint64_t offset, mka_error *error) {
    while (count > 0) {
        ssize_t moved = pwritev(s->handle, parts, count, (off_t)offset);
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return mka_fail(error, MKA_IO, "cannot write to the spill file in %s: %s", s->folder, strerror(errno));
        s->written += (uint64_t)moved;
        s->writes++;
        offset += (uint64_t)moved;
        for (; count > 0 && (size_t)moved >= parts->iov_len; parts++, count--) moved -= (ssize_t)parts->iov_len;
        if (count > 0) parts->iov_base = (char *)parts->iov_base + moved, parts->iov_len -= (size_t)moved;
    }
    return MKA_OK;
}

/* Writes what waits to one extent. On failure all of it goes on waiting. */
static mka_status flush(mka_spill *s, mka_error *error) {
    static const unsigned char zeros[PAGE];
    struct iovec parts[2 * WAITING];
    size_t extent = free_extent(s);
    int count = 0;
    if (extent >= UINT_MAX / (EXTENT / PAGE))
        return mka_fail(error, MKA_IO, "the spill file in %s cannot grow beyond 16 TiB", s->folder);
    for (const waiting *w = s->queue; w < s->queue + s->waiting; w++) {
        parts[count++] = (struct iovec){record_at(s, w->at), w->part->bytes};
        if (w->part->stride > w->part->bytes)
            parts[count++] = (struct iovec){(void *)(uintptr_t)zeros, w->part->stride - w->part->bytes};
    }
    mka_status status = write_all(s, parts, count, (uint64_t)extent * EXTENT, error);
    if (status) return status;
    if (extent == s->end)
        s->end++;
    else
        s->unused--;
    s->live[extent] = (uint32_t)s->waiting;
    unsigned page = (unsigned)(extent * (EXTENT / PAGE)) + 1;
    for (const waiting *w = s->queue; w < s->queue + s->waiting; w++) {
        unsigned old = atomic_exchange(&w->part->pages[w->index], page);
        if (old) drop_copy(s, old, w->part->stride);
        page += (unsigned)(w->part->stride / PAGE);
        atomic_fetch_sub(&s->places[w->at].pins, 1);
    }
    s->waiting = 0;
    return MKA_OK;
}

/* 1 where a record more would not fit into the extent that the queue is written to. */
static int queue_full(const mka_spill *s, const mka_spill_part *part) {
    size_t bytes = part->stride;
    for (int i = 0; i < s->waiting; i++) bytes += s->queue[i].part->stride;
    return s->waiting > 0 && (s->waiting >= s->most || bytes > EXTENT);
}

mka_status mka_spill_commit(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    int at = atomic_load(&part->places[index]);
    part->sums[index] = XXH3_64bits(record_at(s, at), part->bytes);
    pthread_mutex_lock(&s->lock);
    mka_status status = queue_full(s, part) ? flush(s, error) : MKA_OK;
    atomic_store(&s->places[at].used, 1);
    if (status)
        disown(s, at);
    else
        s->queue[s->waiting++] = (waiting){part, index, at};
    settle(s, at, status ? 0 : 1);
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- reading ---- */

static mka_status read_record(mka_spill_part *part, size_t index, unsigned char *bytes, mka_error *error) {
    mka_spill *s = part->spill;
    uint64_t offset = offset_of(atomic_load(&part->pages[index]));
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
    int at = ABSENT;
    unsigned page = atomic_load_explicit(&part->pages[index], memory_order_relaxed);
    if (!page || atomic_load_explicit(&part->places[index], memory_order_relaxed) != ABSENT) return;
    if (!atomic_compare_exchange_strong(&part->places[index], &at, ASKED)) return;
    (void)posix_fadvise(part->spill->handle, (off_t)offset_of(page), (off_t)part->bytes, POSIX_FADV_WILLNEED);
}

/* Whole extents that come free are punched at once; then what is gone of the others. */
void mka_spill_forget(mka_spill_part *part, size_t from, size_t count) {
    mka_spill *s = part->spill;
    for (size_t i = from; i < from + count; i++) {
        unsigned page = atomic_load(&part->pages[i]);
        leave_cache(part, i);
        if (page && leave_extent(s, page)) punch(s, (uint64_t)extent_of(page) * EXTENT, EXTENT);
    }
    for (size_t i = from; i < from + count; i++) {
        unsigned page = atomic_exchange(&part->pages[i], 0);
        if (page && s->live[extent_of(page)]) punch(s, offset_of(page), part->stride);
    }
}

/* The file's copies stay: it goes as a whole. */
void mka_spill_remove(mka_spill_part *part) {
    for (size_t i = 0; i < part->count; i++) leave_cache(part, i);
    if (part->sums) mka_pages_unmap(part->sums, part->mapped ? part->mapped : 1);
    *part = (mka_spill_part){.spill = NULL};
}

uint64_t mka_spill_bytes_read(const mka_spill *s) {
    return atomic_load(&s->read);
}

uint64_t mka_spill_bytes_written(const mka_spill *s, uint64_t *writes) {
    *writes = s->writes;
    return s->written;
}
