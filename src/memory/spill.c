/* spill - see spill.h. This file has the records, and those that wait to be written; the places in memory are spill_cache.c's,
 * the file spill_file.c's. */
#include "spill_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/status.h"

/* ---- creation ---- */

mka_status mka_spill_create(const char *folder, size_t bytes, size_t places, const mka_places *nodes, mka_spill **out,
                            mka_error *error) {
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
    s->nodes = nodes && places >= (size_t)nodes->count ? nodes : NULL;
    if (mka_size_mul(s->bytes, places, &all)) s->records = mka_pages_map(all);
    s->places = mka_pages_map(places * sizeof *s->places);
    mka_status status = MKA_OK;
    if (!s->records || !s->places)
        status = mka_fail(error, MKA_NO_MEMORY, "the system gives no memory for a cache of %zu records", places);
    if (!status && (s->handle = mka_spill_open(folder)) < 0)
        status = mka_fail(error, MKA_IO, "no spill file can be made in %s: %s", folder, strerror(errno));
    if (status) {
        mka_spill_destroy(s);
        return status;
    }
    for (size_t i = 0; i < places; i++) s->places[i].owner = MKA_SPILL_NOBODY;
    s->most = places < 4 * (size_t)MKA_SPILL_WAITING ? (int)(places / 4) : MKA_SPILL_WAITING;
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

size_t mka_spill_waiting(size_t bytes) {
    size_t fit = bytes ? MKA_SPILL_EXTENT / mka_spill_stride(bytes) : 1;
    return fit ? fit : 1;
}

mka_status mka_spill_add(mka_spill *s, size_t bytes, size_t count, int heads, size_t stretch, mka_spill_part *part,
                         mka_error *error) {
    *part = (mka_spill_part){.heads = heads,
                             .stretch = stretch,
                             .spill = s,
                             .bytes = bytes,
                             .stride = mka_spill_stride(bytes),
                             .count = count,
                             .first = s->numbered};
    size_t sums = count * sizeof *part->sums, places = count * sizeof *part->places;
    part->mapped = sums + places + count * sizeof *part->pages;
    part->sums = count < SIZE_MAX / 64 && mka_spill_add_extents(s, count) ? mka_pages_map(part->mapped ? part->mapped : 1) : NULL;
    if (!part->sums) {
        *part = (mka_spill_part){.spill = NULL};
        return mka_fail(error, MKA_NO_MEMORY, "no memory to keep track of %zu spilled records", count);
    }
    part->places = (atomic_int *)(void *)((unsigned char *)part->sums + sums);
    part->pages = (atomic_uint *)(void *)((unsigned char *)part->sums + sums + places);
    for (size_t i = 0; i < count; i++) atomic_init(&part->places[i], MKA_SPILL_ABSENT);
    s->numbered += count;
    return MKA_OK;
}

static mka_status none_free(const mka_spill *s, mka_error *error) {
    return mka_fail(error, MKA_NO_MEMORY, "all %zu places of the cache before the spill file are in use", s->count);
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
    mka_spill_disown(part->spill, at);
}

unsigned char *mka_spill_put(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    pthread_mutex_lock(&s->lock);
    int at = atomic_load(&part->places[index]);
    if (at >= 0) unqueue(s, at);
    if (at < 0 || !mka_spill_take_own(s, at)) at = mka_spill_take(part, index);
    if (at >= 0) mka_spill_own(part, index, at);
    pthread_mutex_unlock(&s->lock);
    if (at >= 0) return mka_spill_record(s, at);
    none_free(s, error);
    return NULL;
}

/* 1 where a record more would not fit into the extent that the queue is written to. */
static int queue_full(const mka_spill *s, const mka_spill_part *part) {
    size_t bytes = part->stride;
    for (int i = 0; i < s->waiting; i++) bytes += s->queue[i].part->stride;
    return s->waiting > 0 && (s->waiting >= s->most || bytes > MKA_SPILL_EXTENT);
}

mka_status mka_spill_commit(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    int at = atomic_load(&part->places[index]);
    part->sums[index] = XXH3_64bits(mka_spill_record(s, at), part->bytes);
    pthread_mutex_lock(&s->lock);
    mka_status status = queue_full(s, part) ? mka_spill_flush(s, error) : MKA_OK;
    atomic_store(&s->places[at].used, 1);
    if (status)
        mka_spill_disown(s, at);
    else
        s->queue[s->waiting++] = (mka_spill_waiter){part, index, at};
    mka_spill_settle(s, at, status ? 0 : 1);
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- reading ---- */

/* Reads the record into a place of its own; the lock is held, but not while it reads. */
static const unsigned char *read_miss(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    int at = mka_spill_take(part, index);
    if (at < 0) {
        none_free(s, error);
        return NULL;
    }
    mka_spill_own(part, index, at);
    pthread_mutex_unlock(&s->lock);
    mka_status status = mka_spill_read(part, index, mka_spill_record(s, at), error);
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->places[at].used, 1);
    if (status) mka_spill_disown(s, at);
    mka_spill_settle(s, at, status ? 0 : 1);
    return status ? NULL : mka_spill_record(s, at);
}

const unsigned char *mka_spill_get(mka_spill_part *part, size_t index, mka_error *error) {
    mka_spill *s = part->spill;
    const unsigned char *record = mka_spill_pin(part, index);
    if (record) return record;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        int at = atomic_load(&part->places[index]);
        if (at < 0) {
            record = read_miss(part, index, error);
            break;
        }
        record = mka_spill_pin(part, index);
        if (record) break;
        pthread_cond_wait(&s->changed, &s->lock); /* another thread is reading it */
    }
    pthread_mutex_unlock(&s->lock);
    return record;
}

void mka_spill_release(mka_spill_part *part, size_t index) {
    atomic_fetch_sub(&part->spill->places[atomic_load(&part->places[index])].pins, 1);
}

void mka_spill_forget(mka_spill_part *part, size_t from, size_t count) {
    for (size_t i = from; i < from + count; i++) leave_cache(part, i);
    mka_spill_drop(part, from, count);
}

/* The file's copies stay: it goes as a whole. */
void mka_spill_remove(mka_spill_part *part) {
    for (size_t i = 0; i < part->count; i++) leave_cache(part, i);
    if (part->sums) mka_pages_unmap(part->sums, part->mapped ? part->mapped : 1);
    *part = (mka_spill_part){.spill = NULL};
}
