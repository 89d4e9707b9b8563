/* snapshot - see snapshot.h. Saving and reading are one operation over pieces of 1 MiB, which threads take one by one. */
#include "format/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

#include "base/arena.h"
#include "base/status.h"

#define PIECE      ((size_t)1 << 20)
#define ORDER      0x01020304U
#define MOST_TABLE ((size_t)1 << 20) /* regions */

static const char magic[8] = "mka-snap";

struct mka_snapshot {
    int handle;
    char *name;
    mka_snapshot_header header;
    mka_snapshot_entry *entries; /* [header.regions] */
};

static size_t padded(size_t bytes) {
    return (bytes + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
}

/* Borrowed runs stay whole: two threads that each fill a half would give back two half records. */
static size_t piece_bytes(const mka_region *r) {
    if (r->base || r->whole) return PIECE;
    return r->run < PIECE ? PIECE / r->run * r->run : r->run;
}

static size_t piece_count(const mka_region *r, size_t bytes) {
    size_t piece = piece_bytes(r);
    return bytes / piece + (bytes % piece != 0);
}

mka_region mka_region_of(const char *name, const void *bytes, size_t size) {
    mka_region region = {.runs = 1, .run = size, .stride = size, .base = (unsigned char *)(uintptr_t)bytes};
    snprintf(region.name, sizeof region.name, "%s", name);
    return region;
}

/* ---- moving regions between memory and a file ---- */

/* A region that is borrowed as a whole. */
typedef struct lent {
    pthread_mutex_t lock; /* until it is there */
    unsigned char *base;
    atomic_size_t left; /* pieces that are not done */
} lent;

typedef struct transfer {
    int handle, writing;
    const char *name; /* of the file */
    const mka_region *regions;
    mka_snapshot_entry *entries; /* of these regions, in their order */
    size_t count;
    size_t *firsts;   /* [count + 1] the regions' first pieces */
    uint64_t *hashes; /* of all pieces */
    lent *lents;      /* [count] of regions, for those borrowed as a whole */
    atomic_size_t next;
    atomic_int failed;
    mka_error error; /* of the first failure */
} transfer;

static mka_status move_bytes(const transfer *t, unsigned char *bytes, size_t size, uint64_t offset, mka_error *error) {
    while (size > 0) {
        ssize_t moved = t->writing ? pwrite(t->handle, bytes, size, (off_t)offset) : pread(t->handle, bytes, size, (off_t)offset);
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0) return mka_fail(error, MKA_IO, "%s: %s", t->name, strerror(errno));
        if (moved == 0) return mka_fail(error, MKA_IO, "%s: it became shorter while it was read", t->name);
        bytes += moved;
        size -= (size_t)moved;
        offset += (uint64_t)moved;
    }
    return MKA_OK;
}

/* Bytes at..at + most of a region, as far as one run goes. */
static mka_status move_run(const transfer *t, const mka_region *r, unsigned char *base, size_t at, size_t most, uint64_t offset,
                           XXH3_state_t *hash, size_t *moved, mka_error *error) {
    int whole = base && r->stride == r->run;
    size_t index = whole ? 0 : at / r->run, from = whole ? at : at % r->run, left = whole ? most : r->run - from;
    unsigned char *bytes = base ? base + index * r->stride : NULL;
    mka_status status = base ? MKA_OK : r->borrow(r->owner, index, !t->writing, &bytes, error);
    if (status) return status;
    *moved = left < most ? left : most;
    status = move_bytes(t, bytes + from, *moved, offset, error);
    if (!status) XXH3_64bits_update(hash, bytes + from, *moved);
    if (!base) {
        mka_status given = r->give_back(r->owner, index, !t->writing, error);
        if (!status) status = given;
    }
    return status;
}

static mka_status borrow_whole(const transfer *t, size_t region, unsigned char **base, mka_error *error) {
    const mka_region *r = &t->regions[region];
    lent *l = &t->lents[region];
    pthread_mutex_lock(&l->lock);
    mka_status status = l->base ? MKA_OK : r->borrow(r->owner, 0, !t->writing, &l->base, error);
    *base = l->base;
    pthread_mutex_unlock(&l->lock);
    return status;
}

/* A piece of a region that is borrowed as a whole is done: after the last one it goes back. */
static mka_status piece_done(const transfer *t, size_t region, mka_error *error) {
    const mka_region *r = &t->regions[region];
    lent *l = &t->lents[region];
    if (atomic_fetch_sub(&l->left, 1) > 1) return MKA_OK;
    l->base = NULL;
    return r->give_back(r->owner, 0, !t->writing, error);
}

static mka_status move_piece(const transfer *t, size_t region, size_t piece, unsigned char *base, mka_error *error) {
    const mka_region *r = &t->regions[region];
    const mka_snapshot_entry *e = &t->entries[region];
    size_t most = piece_bytes(r), begin = piece * most, bytes = (size_t)e->bytes, moved,
           end = most < bytes - begin ? begin + most : bytes;
    XXH3_state_t hash;
    XXH3_64bits_reset(&hash);
    for (size_t at = begin; at < end; at += moved) {
        mka_status status = move_run(t, r, base, at, end - at, e->offset + at, &hash, &moved, error);
        if (status) return status;
    }
    if (end == bytes && padded(bytes) > bytes) {
        unsigned char pad[MKA_ALIGN] = {0};
        mka_status status = move_bytes(t, pad, padded(bytes) - bytes, e->offset + bytes, error);
        if (status) return status;
        XXH3_64bits_update(&hash, pad, padded(bytes) - bytes);
    }
    t->hashes[t->firsts[region] + piece] = XXH3_64bits_digest(&hash);
    return MKA_OK;
}

/* A piece never has more than one run out at a time, so that a cache of records needs one free place a thread. */
static void transfer_share(void *argument, int thread, int threads) {
    transfer *t = argument;
    size_t piece, region = 0;
    (void)thread;
    (void)threads;
    while (!atomic_load(&t->failed) && (piece = atomic_fetch_add(&t->next, 1)) < t->firsts[t->count]) {
        mka_error error;
        while (piece >= t->firsts[region + 1]) region++;
        int whole = t->regions[region].whole;
        unsigned char *base = t->regions[region].base;
        mka_status status = whole ? borrow_whole(t, region, &base, &error) : MKA_OK;
        if (!status) status = move_piece(t, region, piece - t->firsts[region], base, &error);
        if (!status && whole) status = piece_done(t, region, &error);
        if (!status) continue;
        int none = 0;
        if (atomic_compare_exchange_strong(&t->failed, &none, 1)) t->error = error;
    }
}

static uint64_t region_sum(const transfer *t, size_t region) {
    return XXH3_64bits(t->hashes + t->firsts[region], (t->firsts[region + 1] - t->firsts[region]) * sizeof *t->hashes);
}

static void open_lents(transfer *t) {
    for (size_t i = 0; i < t->count; i++) {
        pthread_mutex_init(&t->lents[i].lock, NULL);
        t->lents[i].base = NULL;
        atomic_init(&t->lents[i].left, t->firsts[i + 1] - t->firsts[i]);
    }
}

/* What a failure left borrowed goes back. */
static void close_lents(const transfer *t) {
    for (size_t i = 0; i < t->count; i++) {
        const mka_region *r = &t->regions[i];
        mka_error error;
        if (t->lents[i].base) r->give_back(r->owner, 0, 0, &error);
        pthread_mutex_destroy(&t->lents[i].lock);
    }
}

/* Moves all regions and leaves their sums in hashes; the caller frees firsts. */
static mka_status move_all(transfer *t, mka_pool *pool, mka_error *error) {
    size_t pieces = 0;
    for (size_t i = 0; i < t->count; i++) pieces += piece_count(&t->regions[i], (size_t)t->entries[i].bytes);
    t->firsts = malloc((t->count + 1) * sizeof *t->firsts + pieces * sizeof *t->hashes);
    t->lents = malloc((t->count ? t->count : 1) * sizeof *t->lents);
    if (!t->firsts || !t->lents) {
        free(t->lents);
        return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its %zu regions", t->name, t->count);
    }
    t->hashes = (uint64_t *)(void *)(t->firsts + t->count + 1);
    t->firsts[0] = 0;
    for (size_t i = 0; i < t->count; i++)
        t->firsts[i + 1] = t->firsts[i] + piece_count(&t->regions[i], (size_t)t->entries[i].bytes);
    open_lents(t);
    if (pool)
        mka_pool_run(pool, transfer_share, t);
    else
        transfer_share(t, 0, 1);
    close_lents(t);
    free(t->lents);
    return atomic_load(&t->failed) ? mka_fail(error, t->error.status, "%s", t->error.message) : MKA_OK;
}

/* ---- saving ---- */

/* Opens PATH.partial and locks it, so that two processes cannot write one file. A file that was renamed away between the two is
 * somebody's finished snapshot by then: the next turn makes a new one. */
static mka_status open_partial(const char *path, int *handle, mka_error *error) {
    for (;;) {
        struct stat here, there;
        *handle = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (*handle < 0) return mka_fail(error, MKA_IO, "%s: cannot be made: %s", path, strerror(errno));
        if (flock(*handle, LOCK_EX | LOCK_NB) != 0) {
            int busy = errno == EWOULDBLOCK;
            mka_fail(error, MKA_IO, "%s: %s", path, busy ? "another process is saving there" : strerror(errno));
            close(*handle);
            return MKA_IO;
        }
        if (fstat(*handle, &here) == 0 && stat(path, &there) == 0 && here.st_ino == there.st_ino && here.st_dev == there.st_dev)
            return MKA_OK;
        close(*handle);
    }
}

static void place_regions(const mka_region *regions, size_t count, mka_snapshot_entry *entries, mka_snapshot_header *header) {
    uint64_t offset = sizeof *header + count * sizeof *entries;
    for (size_t i = 0; i < count; i++) {
        memcpy(entries[i].name, regions[i].name, MKA_REGION_NAME);
        entries[i].offset = offset;
        entries[i].bytes = regions[i].runs * regions[i].run;
        offset += padded((size_t)entries[i].bytes);
    }
    header->bytes = offset;
    header->regions = count;
}

static mka_status write_regions(mka_pool *pool, int handle, const char *name, mka_snapshot_header *header,
                                const mka_region *regions, mka_snapshot_entry *entries, mka_error *error) {
    size_t count = (size_t)header->regions, table = count * sizeof *entries;
    transfer t = {.handle = handle, .writing = 1, .name = name, .regions = regions, .entries = entries, .count = count};
    mka_status status = MKA_OK;
    if (ftruncate(handle, 0) != 0 || ftruncate(handle, (off_t)header->bytes) != 0)
        return mka_fail(error, MKA_IO, "%s: %s", name, strerror(errno));
    status = move_all(&t, pool, error);
    for (size_t i = 0; i < count && !status; i++) entries[i].sum = region_sum(&t, i);
    free(t.firsts);
    header->table_sum = XXH3_64bits(entries, table);
    header->header_sum = XXH3_64bits(header, offsetof(mka_snapshot_header, header_sum));
    if (!status) status = move_bytes(&t, (unsigned char *)entries, table, sizeof *header, error);
    if (!status) status = move_bytes(&t, (unsigned char *)header, sizeof *header, 0, error);
    if (!status && fsync(handle) != 0) status = mka_fail(error, MKA_IO, "%s: %s", name, strerror(errno));
    return status;
}

/* The name of a file outlives a power cut only when its folder was written too. */
static mka_status sync_folder(const char *path, mka_error *error) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path + 1) : 1, slash ? path : ".");
    int handle = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mka_status status = MKA_OK;
    if (handle < 0 || (fsync(handle) != 0 && errno != EINVAL))
        status = mka_fail(error, MKA_IO, "%s: %s", folder, strerror(errno));
    if (handle >= 0) close(handle);
    return status;
}

static mka_status write_file(mka_pool *pool, const char *path, mka_snapshot_header *header, const mka_region *regions,
                             mka_snapshot_entry *entries, mka_error *error) {
    char partial[4096];
    int handle;
    struct stat about;
    if (snprintf(partial, sizeof partial, "%s.partial", path) >= (int)sizeof partial)
        return mka_fail(error, MKA_IO, "%s: the path is too long", path);
    if (stat(path, &about) == 0 && !S_ISREG(about.st_mode))
        return mka_fail(error, MKA_IO, "%s: %s, not a file", path, S_ISDIR(about.st_mode) ? "a folder" : "a device");
    mka_status status = open_partial(partial, &handle, error);
    if (status) return status;
    status = write_regions(pool, handle, path, header, regions, entries, error);
    if (!status && rename(partial, path) != 0) status = mka_fail(error, MKA_IO, "%s: %s", path, strerror(errno));
    if (status) unlink(partial);
    close(handle);
    return status ? status : sync_folder(path, error);
}

mka_status mka_snapshot_save(mka_pool *pool, const char *path, const char *kind, uint64_t bound, const mka_region *regions,
                             size_t count, mka_error *error) {
    mka_succeed(error);
    mka_snapshot_header header = {.version = MKA_SNAPSHOT_VERSION, .order = ORDER, .bound = bound};
    mka_snapshot_entry *entries = calloc(count ? count : 1, sizeof *entries);
    if (!entries) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its %zu regions", path, count);
    memcpy(header.magic, magic, sizeof magic);
    snprintf(header.kind, sizeof header.kind, "%s", kind);
    place_regions(regions, count, entries, &header);
    mka_status status = write_file(pool, path, &header, regions, entries, error);
    free(entries);
    return status;
}

/* ---- opening ---- */

static mka_status check_header(const mka_snapshot *s, const char *kind, uint64_t size, mka_error *error) {
    const mka_snapshot_header *h = &s->header;
    if (memcmp(h->magic, magic, sizeof magic) != 0)
        return mka_fail(error, MKA_BAD_FILE, "%s: not a saved session or memory", s->name);
    if (h->order == __builtin_bswap32(ORDER))
        return mka_fail(error, MKA_UNSUPPORTED, "%s: written on a machine of the other byte order", s->name);
    if (h->version != MKA_SNAPSHOT_VERSION)
        return mka_fail(error, MKA_UNSUPPORTED, "%s: version %u of the format; this program reads version %d", s->name,
                        h->version, MKA_SNAPSHOT_VERSION);
    if (h->header_sum != XXH3_64bits(h, offsetof(mka_snapshot_header, header_sum)) || h->order != ORDER)
        return mka_fail(error, MKA_BAD_FILE, "%s: the header is damaged (its checksum does not hold)", s->name);
    if (h->bytes != size)
        return mka_fail(error, MKA_BAD_FILE, "%s: %llu bytes, but its header says %llu: truncated or damaged", s->name,
                        (unsigned long long)size, (unsigned long long)h->bytes);
    if (strncmp(h->kind, kind, sizeof h->kind) != 0)
        return mka_fail(error, MKA_BAD_FILE, "%s: a saved %.*s, not a %s", s->name, MKA_SNAPSHOT_KIND, h->kind, kind);
    if (h->regions > MOST_TABLE || h->regions > (size - sizeof *h) / sizeof *s->entries)
        return mka_fail(error, MKA_BAD_FILE, "%s: a table of %llu regions does not fit into it", s->name,
                        (unsigned long long)h->regions);
    return MKA_OK;
}

/* Regions follow each other without gaps, so none can overlap or lie outside. */
static mka_status check_table(const mka_snapshot *s, mka_error *error) {
    size_t count = (size_t)s->header.regions;
    uint64_t offset = sizeof s->header + count * sizeof *s->entries;
    if (s->header.table_sum != XXH3_64bits(s->entries, count * sizeof *s->entries))
        return mka_fail(error, MKA_BAD_FILE, "%s: the table of regions is damaged (its checksum does not hold)", s->name);
    for (size_t i = 0; i < count; i++) {
        const mka_snapshot_entry *e = &s->entries[i];
        if (!memchr(e->name, 0, sizeof e->name))
            return mka_fail(error, MKA_BAD_FILE, "%s: region %zu has a name without an end", s->name, i);
        if (e->offset != offset || e->bytes > s->header.bytes - offset || padded((size_t)e->bytes) > s->header.bytes - offset)
            return mka_fail(error, MKA_BAD_FILE, "%s: region '%s' does not lie where the table has room for it", s->name,
                            e->name);
        offset += padded((size_t)e->bytes);
    }
    if (offset != s->header.bytes) return mka_fail(error, MKA_BAD_FILE, "%s: bytes follow the last region", s->name);
    return MKA_OK;
}

static mka_status read_table(mka_snapshot *s, const char *kind, mka_error *error) {
    struct stat about;
    transfer t = {.handle = s->handle, .name = s->name};
    if (fstat(s->handle, &about) != 0) return mka_fail(error, MKA_IO, "%s: %s", s->name, strerror(errno));
    if (!S_ISREG(about.st_mode)) return mka_fail(error, MKA_IO, "%s: not a regular file", s->name);
    uint64_t size = (uint64_t)about.st_size;
    if (size < sizeof s->header)
        return mka_fail(error, MKA_BAD_FILE, "%s: not a saved session or memory: %llu bytes are too short", s->name,
                        (unsigned long long)size);
    mka_status status = move_bytes(&t, (unsigned char *)&s->header, sizeof s->header, 0, error);
    if (!status) status = check_header(s, kind, size, error);
    if (status) return status;
    size_t count = (size_t)s->header.regions;
    s->entries = malloc((count ? count : 1) * sizeof *s->entries);
    if (!s->entries) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its %zu regions", s->name, count);
    status = move_bytes(&t, (unsigned char *)s->entries, count * sizeof *s->entries, sizeof s->header, error);
    return status ? status : check_table(s, error);
}

mka_status mka_snapshot_open_handle(int handle, const char *name, const char *kind, mka_snapshot **out, mka_error *error) {
    *out = NULL;
    mka_snapshot *s = calloc(1, sizeof *s);
    char *copy = strdup(name);
    if (!s || !copy) {
        free(s);
        free(copy);
        close(handle);
        return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", name);
    }
    s->handle = handle;
    s->name = copy;
    mka_status status = read_table(s, kind, error);
    if (status) {
        mka_snapshot_close(s);
        return status;
    }
    *out = s;
    return mka_succeed(error);
}

mka_status mka_snapshot_open(const char *path, const char *kind, mka_snapshot **out, mka_error *error) {
    *out = NULL;
    int handle = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to hang on a pipe without a writer */
    if (handle < 0) return mka_fail(error, MKA_IO, "%s: cannot be opened: %s", path, strerror(errno));
    return mka_snapshot_open_handle(handle, path, kind, out, error);
}

void mka_snapshot_close(mka_snapshot *s) {
    if (!s) return;
    close(s->handle);
    free(s->entries);
    free(s->name);
    free(s);
}

uint64_t mka_snapshot_bound(const mka_snapshot *s) {
    return s->header.bound;
}

uint64_t mka_snapshot_bytes(const mka_snapshot *s) {
    return s->header.bytes;
}

/* ---- reading ---- */

/* Looks from entry from on and round: regions are mostly asked for in the file's order. */
static const mka_snapshot_entry *find(const mka_snapshot *s, const char *name, size_t from) {
    size_t count = (size_t)s->header.regions;
    for (size_t i = 0; i < count; i++) {
        const mka_snapshot_entry *e = &s->entries[(from + i) % count];
        if (!strcmp(e->name, name)) return e;
    }
    return NULL;
}

int mka_snapshot_find(const mka_snapshot *s, const char *name, uint64_t *bytes) {
    const mka_snapshot_entry *e = find(s, name, 0);
    if (e) *bytes = e->bytes;
    return e != NULL;
}

static mka_status match(const mka_snapshot *s, const mka_region *region, size_t *from, mka_snapshot_entry *entry,
                        mka_error *error) {
    const mka_snapshot_entry *e = find(s, region->name, *from);
    size_t bytes;
    if (!e) return mka_fail(error, MKA_BAD_FILE, "%s: there is no region '%s'", s->name, region->name);
    if (!mka_size_mul(region->runs, region->run, &bytes) || e->bytes != bytes)
        return mka_fail(error, MKA_BAD_FILE, "%s: region '%s' has %llu bytes instead of %zu", s->name, region->name,
                        (unsigned long long)e->bytes, bytes);
    *entry = *e;
    *from = (size_t)(e - s->entries) + 1;
    return MKA_OK;
}

mka_status mka_snapshot_read(mka_snapshot *s, mka_pool *pool, const mka_region *regions, size_t count, mka_error *error) {
    mka_snapshot_entry *entries = malloc((count ? count : 1) * sizeof *entries);
    transfer t = {.handle = s->handle, .name = s->name, .regions = regions, .entries = entries, .count = count};
    mka_status status = MKA_OK;
    size_t from = 0;
    if (!entries) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its %zu regions", s->name, count);
    for (size_t i = 0; i < count && !status; i++) status = match(s, &regions[i], &from, &entries[i], error);
    if (!status) status = move_all(&t, pool, error);
    for (size_t i = 0; i < count && !status; i++)
        if (region_sum(&t, i) != entries[i].sum)
            status = mka_fail(error, MKA_BAD_FILE, "%s: region '%s' is damaged (its checksum does not hold)", s->name,
                              entries[i].name);
    free(t.firsts);
    free(entries);
    return status;
}

mka_status mka_snapshot_take(mka_snapshot *s, const char *name, void *buffer, size_t bytes, mka_error *error) {
    mka_region region = mka_region_of(name, buffer, bytes);
    return mka_snapshot_read(s, NULL, &region, 1, error);
}
