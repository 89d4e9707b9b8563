/* spill_file - the file of a spill: a log of extents of 1 MiB, each written at once and used again when all of its records are
 * gone; records begin at multiples of 4 KiB. */
#include "spill_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/status.h"

/* A file that has no name, or loses it at once where the folder's file system cannot do that. */
int mka_spill_open(const char *folder) {
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

size_t mka_spill_stride(size_t bytes) {
    return (bytes + MKA_SPILL_PAGE - 1) / MKA_SPILL_PAGE * MKA_SPILL_PAGE;
}

/* Room to count the records of so many more extents; nothing is written yet. */
int mka_spill_add_extents(mka_spill *s, size_t count) {
    size_t extents = s->extents + count;
    if (count == 0) return 1;
    uint32_t *live = extents < SIZE_MAX / 64 ? mka_pages_map(extents * sizeof *live) : NULL;
    if (!live) return 0;
    if (s->live) mka_pages_unmap(s->live, s->extents * sizeof *live);
    s->live = live;
    s->extents = extents;
    return 1;
}

static void punch(const mka_spill *s, uint64_t offset, size_t bytes) {
    /* A file system without holes keeps the bytes until they are written again. */
    (void)fallocate(s->handle, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
}

static size_t extent_of(unsigned page) {
    return (size_t)(page - 1) / (MKA_SPILL_EXTENT / MKA_SPILL_PAGE);
}

static uint64_t offset_of(unsigned page) {
    return (uint64_t)(page - 1) * MKA_SPILL_PAGE;
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
        punch(s, (uint64_t)extent_of(page) * MKA_SPILL_EXTENT, MKA_SPILL_EXTENT);
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
mka_status mka_spill_flush(mka_spill *s, mka_error *error) {
    static const unsigned char zeros[MKA_SPILL_PAGE];
    struct iovec parts[2 * MKA_SPILL_WAITING];
    size_t extent = free_extent(s);
    int count = 0;
    if (extent >= UINT_MAX / (MKA_SPILL_EXTENT / MKA_SPILL_PAGE))
        return mka_fail(error, MKA_IO, "the spill file in %s cannot grow beyond 16 TiB", s->folder);
    for (const mka_spill_waiter *w = s->queue; w < s->queue + s->waiting; w++) {
        parts[count++] = (struct iovec){mka_spill_record(s, w->at), w->part->bytes};
        if (w->part->stride > w->part->bytes)
            parts[count++] = (struct iovec){(void *)(uintptr_t)zeros, w->part->stride - w->part->bytes};
    }
    mka_status status = write_all(s, parts, count, (uint64_t)extent * MKA_SPILL_EXTENT, error);
    if (status) return status;
    if (extent == s->end)
        s->end++;
    else
        s->unused--;
    s->live[extent] = (uint32_t)s->waiting;
    unsigned page = (unsigned)(extent * (MKA_SPILL_EXTENT / MKA_SPILL_PAGE)) + 1;
    for (const mka_spill_waiter *w = s->queue; w < s->queue + s->waiting; w++) {
        unsigned old = atomic_exchange(&w->part->pages[w->index], page);
        if (old) drop_copy(s, old, w->part->stride);
        page += (unsigned)(w->part->stride / MKA_SPILL_PAGE);
        atomic_fetch_sub(&s->places[w->at].pins, 1);
    }
    s->waiting = 0;
    return MKA_OK;
}

/* ---- reading ---- */

mka_status mka_spill_read(mka_spill_part *part, size_t index, unsigned char *bytes, mka_error *error) {
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

void mka_spill_ask(const mka_spill_part *part, size_t index) {
    int at = MKA_SPILL_ABSENT;
    unsigned page = atomic_load_explicit(&part->pages[index], memory_order_relaxed);
    if (!page || atomic_load_explicit(&part->places[index], memory_order_relaxed) != MKA_SPILL_ABSENT) return;
    if (!atomic_compare_exchange_strong(&part->places[index], &at, MKA_SPILL_ASKED)) return;
    (void)posix_fadvise(part->spill->handle, (off_t)offset_of(page), (off_t)part->bytes, POSIX_FADV_WILLNEED);
}

/* Whole extents first. */
void mka_spill_drop(mka_spill_part *part, size_t from, size_t count) {
    mka_spill *s = part->spill;
    for (size_t i = from; i < from + count; i++) {
        unsigned page = atomic_load(&part->pages[i]);
        if (page && leave_extent(s, page)) punch(s, (uint64_t)extent_of(page) * MKA_SPILL_EXTENT, MKA_SPILL_EXTENT);
    }
    for (size_t i = from; i < from + count; i++) {
        unsigned page = atomic_exchange(&part->pages[i], 0);
        if (page && s->live[extent_of(page)]) punch(s, offset_of(page), part->stride);
    }
}

uint64_t mka_spill_bytes_read(const mka_spill *s) {
    return atomic_load(&s->read);
}

uint64_t mka_spill_bytes_written(const mka_spill *s, uint64_t *writes) {
    *writes = s->writes;
    return s->written;
}
