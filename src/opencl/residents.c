/* residents - a model's weights on the device, found by where the host has them.
 *
 * They are carved from a few large buffers, none larger than the device gives at once; a matrix that is larger is cut between
 * rows. q8_0 and q4_0 blocks are taken apart into a plane of numbers and one of scales: blocks of 34 and 18 bytes are never
 * aligned, and a device reads aligned words or wastes its memory's speed. Where the matrix unit reads them, weights are in blocks
 * of 16 rows instead (repack.c).
 */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "mirror.h"

#define LEAST_CHUNK ((size_t)1 << 20)
#define MOST_CHUNK  ((size_t)512 << 20)
#define SLICE       ((size_t)16 << 20) /* of a matrix that is taken apart on its way */

typedef struct chunk {
    cl_mem buffer;
    size_t bytes, used;
} chunk;

struct mka_residents {
    mka_device *device;
    mka_cl_resident *list; /* by address */
    int count, room;
    chunk *chunks;
    int chunk_count;
    uint64_t expected; /* bytes that are still to come, as far as somebody said */
};

mka_status mka_residents_create(mka_device *device, mka_residents **out, mka_error *error) {
    *out = calloc(1, sizeof **out);
    if (!*out) return mka_fail(error, MKA_NO_MEMORY, "no memory for a list of weights");
    (*out)->device = device;
    return MKA_OK;
}

void mka_residents_destroy(mka_residents *r) {
    if (!r) return;
    clFinish(r->device->queue);
    for (int i = 0; i < r->chunk_count; i++) mka_cl_give(r->device, r->chunks[i].buffer);
    free(r->chunks);
    free(r->list);
    free(r);
}

static int planes(const mka_device *d, mka_type type) {
    return (type == MKA_Q8_0 || type == MKA_Q4_0) && !mka_cl_blocked(d, type);
}

static size_t aligned(size_t bytes) {
    return (bytes + MKA_CL_ALIGN - 1) / MKA_CL_ALIGN * MKA_CL_ALIGN;
}

/* Bytes of the first plane of rows, or of all of them. */
static size_t numbers_bytes(const mka_device *d, const mka_matrix *w, size_t rows) {
    if (mka_cl_blocked(d, w->type)) return mka_cl_bands(rows) * mka_cl_band_bytes(w->type, w->cols);
    if (w->type == MKA_Q8_0) return rows * (size_t)w->cols;
    if (w->type == MKA_Q4_0) return rows * (size_t)w->cols / 2;
    return rows * w->row_bytes;
}

static size_t there_bytes(const mka_device *d, const mka_matrix *w, size_t rows) {
    size_t numbers = aligned(numbers_bytes(d, w, rows));
    return planes(d, w->type) ? numbers + aligned(rows * (size_t)w->cols / 32 * sizeof(cl_half)) : numbers;
}

/* The index of the last entry that begins at or before data; -1. */
static int before(const mka_residents *r, const unsigned char *data) {
    int low = 0, high = r->count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (r->list[middle].data <= data)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1;
}

static mka_cl_resident *find(mka_residents *r, const void *data) {
    const unsigned char *p = data;
    int i = before(r, p);
    return i >= 0 && p < r->list[i].data + r->list[i].bytes ? &r->list[i] : NULL;
}

uint64_t mka_residents_cost(mka_residents *r, const mka_matrix *w) {
    pthread_mutex_lock(&r->device->lock);
    int there = find(r, w->data) != NULL;
    pthread_mutex_unlock(&r->device->lock);
    return there ? 0 : there_bytes(r->device, w, (size_t)w->rows);
}

/* ---- room ---- */

void mka_residents_expect(mka_residents *r, uint64_t bytes) {
    pthread_mutex_lock(&r->device->lock);
    r->expected = bytes;
    pthread_mutex_unlock(&r->device->lock);
}

static mka_status add_chunk(mka_residents *r, size_t least, mka_error *error) {
    size_t size = LEAST_CHUNK, most = r->device->info.largest < MOST_CHUNK ? r->device->info.largest : MOST_CHUNK;
    for (int i = 0; i < r->chunk_count; i++) size += r->chunks[i].bytes; /* twice as much each time: few buffers */
    if (size > most) size = most;
    if (r->expected) size = r->expected < r->device->info.largest ? (size_t)r->expected : r->device->info.largest;
    if (size < least) size = least;
    if (size > mka_device_room(r->device)) size = least;
    chunk *chunks = realloc(r->chunks, ((size_t)r->chunk_count + 1) * sizeof *chunks);
    if (!chunks) return mka_fail(error, MKA_NO_MEMORY, "no memory for a list of weights");
    r->chunks = chunks;
    chunk *c = &chunks[r->chunk_count];
    *c = (chunk){.bytes = size};
    mka_status status = mka_cl_take(r->device, size, "a part of the model", &c->buffer, error);
    if (!status) r->chunk_count++;
    r->expected -= r->expected < size ? r->expected : size;
    return status;
}

static mka_status take(mka_residents *r, size_t bytes, cl_mem *buffer, size_t *at, mka_error *error) {
    chunk *last = r->chunk_count ? &r->chunks[r->chunk_count - 1] : NULL;
    if (!last || last->bytes - last->used < bytes) {
        mka_status status = add_chunk(r, bytes, error);
        if (status) return status;
        last = &r->chunks[r->chunk_count - 1];
    }
    *buffer = last->buffer;
    *at = last->used;
    last->used += bytes;
    return MKA_OK;
}

/* ---- copying ---- */

static mka_status write_there(mka_device *d, cl_mem buffer, size_t at, const void *bytes, size_t size, mka_error *error) {
    char text[24];
    if (size == 0) return MKA_OK;
    cl_int code = clEnqueueWriteBuffer(d->queue, buffer, CL_TRUE, at, size, bytes, 0, NULL, mka_cl_time(d, MKA_CL_UP));
    d->usage.up_bytes += size;
    return code == CL_SUCCESS ? MKA_OK
                              : mka_fail(error, MKA_NO_MEMORY, "%s: a part of the model cannot be copied there (%s)",
                                         d->info.name, mka_cl_error_name(code, text));
}

/* Blocks of rows first..: their numbers, and their scales. */
static void take_apart(const mka_matrix *w, size_t first, size_t rows, unsigned char *numbers, unsigned char *scales) {
    size_t each = w->type == MKA_Q8_0 ? sizeof(mka_block_q8_0) : sizeof(mka_block_q4_0), plain = each - sizeof(uint16_t),
           blocks = (size_t)w->cols / 32;
    for (size_t row = first; row < first + rows; row++) {
        const unsigned char *block = (const unsigned char *)w->data + row * w->row_bytes;
        for (size_t i = 0; i < blocks; i++, block += each, numbers += plain, scales += sizeof(uint16_t)) {
            memcpy(scales, block, sizeof(uint16_t));
            memcpy(numbers, block + sizeof(uint16_t), plain);
        }
    }
}

static mka_status copy_planes(mka_residents *r, const mka_matrix *w, size_t first, const mka_cl_resident *e, mka_error *error) {
    size_t row_numbers = numbers_bytes(r->device, w, 1), row_scales = (size_t)w->cols / 32 * sizeof(cl_half),
           step = SLICE / row_numbers;
    if (step == 0) step = 1;
    unsigned char *slice = malloc(step * (row_numbers + row_scales));
    if (!slice) return mka_fail(error, MKA_NO_MEMORY, "no memory to copy weights");
    mka_status status = MKA_OK;
    for (size_t row = 0; row < (size_t)e->rows && !status; row += step) {
        size_t rows = (size_t)e->rows - row < step ? (size_t)e->rows - row : step;
        take_apart(w, first + row, rows, slice, slice + step * row_numbers);
        status = write_there(r->device, e->buffer, e->at + row * row_numbers, slice, rows * row_numbers, error);
        if (!status)
            status = write_there(r->device, e->buffer, e->scales_at + row * row_scales, slice + step * row_numbers,
                                 rows * row_scales, error);
    }
    free(slice);
    return status;
}

typedef struct repack_task {
    const mka_matrix *w;
    size_t first, rows;
    unsigned char *to;
} repack_task;

/* Threads share out bands: repacking is far slower than the bus. */
static void repack_share(void *argument, int thread, int threads) {
    const repack_task *t = argument;
    size_t begin, end;
    mka_share(mka_cl_bands(t->rows), 1, thread, threads, &begin, &end);
    size_t from = begin * MKA_CL_BAND, to = end * MKA_CL_BAND < t->rows ? end * MKA_CL_BAND : t->rows;
    if (from < to) mka_cl_repack(t->w, t->first + from, to - from, t->to + begin * mka_cl_band_bytes(t->w->type, t->w->cols));
}

static mka_status copy_blocks(mka_residents *r, const mka_matrix *w, size_t first, const mka_cl_resident *e, mka_error *error) {
    size_t band = mka_cl_band_bytes(w->type, w->cols), step = SLICE / band;
    if (step == 0) step = 1;
    unsigned char *slice = malloc(step * band);
    if (!slice) return mka_fail(error, MKA_NO_MEMORY, "no memory to copy weights");
    mka_status status = MKA_OK;
    for (size_t at = 0, rows; at < (size_t)e->rows && !status; at += rows) {
        rows = (size_t)e->rows - at < step * MKA_CL_BAND ? (size_t)e->rows - at : step * MKA_CL_BAND;
        repack_task task = {w, first + at, rows, slice};
        mka_pool_run(r->device->engine->pool, repack_share, &task);
        status = write_there(r->device, e->buffer, e->at + at / MKA_CL_BAND * band, slice, mka_cl_bands(rows) * band, error);
    }
    free(slice);
    return status;
}

static mka_status copy_rows(mka_residents *r, const mka_matrix *w, size_t first, const mka_cl_resident *e, mka_error *error) {
    if (mka_cl_blocked(r->device, w->type)) return copy_blocks(r, w, first, e, error);
    if (planes(r->device, w->type)) return copy_planes(r, w, first, e, error);
    return write_there(r->device, e->buffer, e->at, e->data, e->bytes, error);
}

/* Rows first.. of a matrix. */
static mka_status add_rows(mka_residents *r, const mka_matrix *w, size_t first, size_t rows, mka_error *error) {
    mka_cl_resident e = {.data = (const unsigned char *)w->data + first * w->row_bytes,
                         .bytes = rows * w->row_bytes,
                         .type = w->type,
                         .rows = (int)rows,
                         .cols = w->cols,
                         .row_bytes = w->row_bytes};
    if (r->count == r->room) {
        int room = r->room ? 2 * r->room : 64;
        mka_cl_resident *list = realloc(r->list, (size_t)room * sizeof *list);
        if (!list) return mka_fail(error, MKA_NO_MEMORY, "no memory for a list of weights");
        r->list = list;
        r->room = room;
    }
    size_t at;
    mka_status status = take(r, there_bytes(r->device, w, rows), &e.buffer, &at, error);
    if (status) return status;
    e.at = at;
    e.scales_at = at + aligned(numbers_bytes(r->device, w, rows));
    status = copy_rows(r, w, first, &e, error);
    if (status) return status;
    int index = before(r, e.data) + 1;
    memmove(r->list + index + 1, r->list + index, (size_t)(r->count - index) * sizeof *r->list);
    r->list[index] = e;
    r->count++;
    return MKA_OK;
}

static mka_status add(mka_residents *r, const mka_matrix *w, mka_error *error) {
    size_t all = (size_t)w->rows, most = all;
    size_t band = there_bytes(r->device, w, MKA_CL_BAND);
    mka_status status = w->rows > 1 ? mka_cl_product_kernels(r->device, w->type, error) : MKA_OK;
    if (there_bytes(r->device, w, all) > r->device->info.largest) most = r->device->info.largest / band * MKA_CL_BAND;
    if (most == 0) return mka_fail(error, MKA_NO_MEMORY, "16 rows of a matrix are more than the device gives at once");
    for (size_t first = 0; first < all && !status; first += most)
        status = add_rows(r, w, first, all - first < most ? all - first : most, error);
    return status;
}

mka_status mka_residents_add(mka_residents *r, const mka_matrix *w, mka_error *error) {
    pthread_mutex_lock(&r->device->lock);
    mka_status status = find(r, w->data) ? MKA_OK : add(r, w, error);
    pthread_mutex_unlock(&r->device->lock);
    return status;
}

const mka_cl_resident *mka_cl_find_resident(mka_residents *r, const mka_matrix *w, const void *data) {
    mka_error error;
    mka_cl_resident *e = find(r, data);
    if (e) return e;
    if (add(r, w, &error) == MKA_OK) return find(r, data);
    mka_cl_keep_failure(r->device, &error);
    return NULL;
}
