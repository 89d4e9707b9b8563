/* ring - long-term rows that stay in the host's memory: which of those that recall wants are not on the device, and getting them
 * there.
 *
 *   missing (a launch): list of clusters -> host: their rows, side by side, in pinned memory -> one write to the ring -> read
 *
 * Rows are overwritten in the order in which they came. What one token reads the next one mostly reads too, so that few come. */
#include <stdlib.h>

#include "base/status.h"
#include "cache.h"
#include "longterm.h"

enum {
    PART_OF_ALL = 16,  /* of all tokens, that a ring holds at least */
    PART_AT_ONCE = 4,  /* of the ring, that comes at once at most: what it overwrites was not read for three such parts */
    SMALL_CLUSTER = 4, /* tokens: a list is full where clusters are smaller on average */
    FIRST_PAIRS = 1024 /* of a list, that come with its length */
};
#define MOST_STAGE ((size_t)64 << 20)
#define WRAP       ((cl_uint)1 << 30)

int mka_device_ring(const mka_device *device, const mka_device_longterm_shape *s) {
    size_t heads = (size_t)s->kv_heads, segment = heads * (size_t)s->segment, all = segment * (size_t)s->segments, ring = 1;
    while (ring < PART_AT_ONCE * segment || ring < heads * (size_t)device->ring_least || ring < all / PART_OF_ALL) ring *= 2;
    return ring < all && ring <= WRAP / 4 ? (int)ring : 0;
}

static size_t padded(size_t bytes) {
    return (bytes + 7) / 8 * 8;
}

size_t mka_device_ring_place(const mka_device_longterm_shape *s, size_t *value_at) {
    *value_at = padded(mka_row_bytes(s->key_type, s->key_dim));
    return *value_at + padded(mka_row_bytes(s->value_type, s->value_dim));
}

/* Tokens that come at once at most: a part of the ring, and no fewer than a segment of all heads has. */
static size_t limit_of(const mka_device_longterm_shape *s) {
    size_t value_at, part = (size_t)s->ring / PART_AT_ONCE, segment = (size_t)s->kv_heads * (size_t)s->segment,
                     fit = MOST_STAGE / mka_device_ring_place(s, &value_at);
    return part < fit ? part : fit < segment ? segment : fit;
}

static size_t table_bytes(const mka_device_longterm_shape *s) {
    return (size_t)s->kv_heads * (size_t)s->segments * (size_t)s->clusters * sizeof(cl_uint);
}

static size_t list_bytes(const mka_device_longterm_shape *s) {
    return (2 + 2 * (limit_of(s) / SMALL_CLUSTER)) * sizeof(cl_uint);
}

uint64_t mka_cl_ring_bytes(const mka_device_longterm_shape *s) {
    size_t value_at;
    return (uint64_t)s->ring * mka_device_ring_place(s, &value_at) + table_bytes(s) + list_bytes(s);
}

/* ---- creation ---- */

/* Memory that the device reads by itself, for one call at a time of all sessions; where there is none, the host waits. */
static mka_status stage_for(mka_device *d, size_t bytes, mka_error *error) {
    mka_cl_stage *s = &d->stage;
    cl_int code;
    if (bytes <= s->bytes) return MKA_OK;
    clFinish(d->queue);
    mka_cl_stage_close(d);
    s->buffer = clCreateBuffer(d->context, CL_MEM_READ_ONLY | CL_MEM_ALLOC_HOST_PTR, bytes, NULL, &code);
    if (s->buffer) s->memory = clEnqueueMapBuffer(d->queue, s->buffer, CL_TRUE, CL_MAP_WRITE, 0, bytes, 0, NULL, NULL, &code);
    if (!s->memory) {
        if (s->buffer) clReleaseMemObject(s->buffer);
        s->buffer = NULL;
        s->memory = malloc(bytes);
    }
    if (!s->memory) return mka_fail(error, MKA_NO_MEMORY, "no memory for long-term rows on their way to the device");
    s->bytes = bytes;
    return MKA_OK;
}

void mka_cl_stage_close(mka_device *d) {
    mka_cl_stage *s = &d->stage;
    if (s->buffer) {
        clEnqueueUnmapMemObject(d->queue, s->buffer, s->memory, 0, NULL, NULL);
        clFinish(d->queue);
        clReleaseMemObject(s->buffer);
    } else {
        free(s->memory);
    }
    *s = (mka_cl_stage){.bytes = 0};
}

/* An empty table, and a ring that has been round once, so that 0 is no place in it. */
static void empty(mka_device_longterm *l) {
    mka_device *d = l->device;
    mka_cl_ring *r = &l->ring;
    const cl_uint zero = 0, first[2] = {(cl_uint)l->shape.ring, 0};
    cl_int code = clEnqueueFillBuffer(d->queue, r->table, &zero, sizeof zero, 0, table_bytes(&l->shape), 0, NULL, NULL);
    if (code == CL_SUCCESS) code = clEnqueueWriteBuffer(d->queue, r->list, CL_TRUE, 0, sizeof first, first, 0, NULL, NULL);
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "emptying a ring of rows");
    r->now = first[0];
    r->listed = 0;
}

mka_status mka_cl_ring_create(mka_device_longterm *l, mka_error *error) {
    mka_cl_ring *r = &l->ring;
    mka_device *d = l->device;
    size_t value_at, limit = limit_of(&l->shape);
    r->place = mka_device_ring_place(&l->shape, &value_at);
    r->limit = (cl_uint)limit;
    r->most = (cl_uint)(limit / SMALL_CLUSTER);
    r->missing = malloc(list_bytes(&l->shape));
    if (!r->missing) return mka_fail(error, MKA_NO_MEMORY, "no memory for a list of rows");
    mka_status status = mka_cl_take(d, (size_t)l->shape.ring * r->place, "a layer's ring of rows", &l->rows, error);
    if (!status) status = mka_cl_take(d, table_bytes(&l->shape), "a layer's table of rows", &r->table, error);
    if (!status) status = mka_cl_take(d, list_bytes(&l->shape), "a list of rows", &r->list, error);
    pthread_mutex_lock(&d->lock);
    if (!status) status = stage_for(d, limit * r->place, error);
    if (!status) empty(l);
    pthread_mutex_unlock(&d->lock);
    return status;
}

void mka_cl_ring_destroy(mka_device_longterm *l) {
    mka_cl_give(l->device, l->ring.table);
    mka_cl_give(l->device, l->ring.list);
    free(l->ring.missing);
}

/* ---- use ---- */

void mka_cl_ring_forget(mka_device_longterm *l, int head, int segment) {
    mka_device *d = l->device;
    const cl_uint zero = 0;
    size_t bytes = (size_t)l->shape.clusters * sizeof zero,
           at = ((size_t)head * (size_t)l->shape.segments + (size_t)segment) * bytes;
    cl_int code = clEnqueueFillBuffer(d->queue, l->ring.table, &zero, sizeof zero, at, bytes, 0, NULL, NULL);
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "forgetting rows");
}

int mka_cl_ring_segments(const mka_device_longterm *l) {
    return (int)l->ring.limit / (l->shape.kv_heads * l->shape.segment);
}

void mka_cl_ring_table(mka_cl_call *c, const mka_device_longterm *l) {
    mka_cl_buffer(c, l->shape.ring ? l->ring.table : l->index, 0);
    mka_cl_int(c, (int)(l->ring.before - (cl_uint)l->shape.ring + l->ring.limit));
}

void mka_cl_ring_begin(mka_device_longterm *l) {
    if (l->ring.now >= WRAP) empty(l);
    l->ring.before = l->ring.now;
}

void mka_cl_ring_list(mka_cl_call *c, const mka_device_longterm *l) {
    const mka_cl_ring *r = &l->ring;
    mka_cl_buffer(c, r->table, 0);
    mka_cl_buffer(c, r->list, 0);
    const cl_uint numbers[] = {r->now, r->listed, r->limit, r->most};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) mka_cl_int(c, (int)numbers[i]);
}

/* Waits. */
static int read_list(mka_device_longterm *l, size_t from, size_t count, void *to) {
    mka_device *d = l->device;
    double begin = mka_cl_now();
    if (d->failure.status != MKA_OK) return 0;
    cl_int code = clEnqueueReadBuffer(d->queue, l->ring.list, CL_TRUE, from * sizeof(cl_uint), count * sizeof(cl_uint), to, 0,
                                      NULL, mka_cl_time(d, MKA_CL_DOWN));
    d->usage.wait_seconds += mka_cl_now() - begin;
    d->usage.down_bytes += count * sizeof(cl_uint);
    if (code == CL_SUCCESS) return 1;
    mka_cl_fail(d, code, "a list of rows from it");
    return 0;
}

static void write_ring(mka_device_longterm *l, size_t slot, size_t count, const unsigned char *from) {
    mka_device *d = l->device;
    size_t place = l->ring.place;
    if (count == 0 || d->failure.status != MKA_OK) return;
    double begin = mka_cl_now();
    cl_int code = clEnqueueWriteBuffer(d->queue, l->rows, d->stage.buffer ? CL_FALSE : CL_TRUE, slot * place, count * place, from,
                                       0, NULL, mka_cl_time(d, MKA_CL_UP));
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "long-term rows to it");
    if (!d->stage.buffer) d->usage.wait_seconds += mka_cl_now() - begin;
    d->usage.up_bytes += count * place;
}

/* The list has been written after all that the stage was used for: it is free. */
int mka_cl_ring_fetch(const mka_cl_recall_round *round) {
    mka_device_longterm *l = round->longterm;
    mka_device *d = l->device;
    mka_cl_ring *r = &l->ring;
    cl_uint *list = (cl_uint *)r->missing, first = r->most < FIRST_PAIRS ? r->most : FIRST_PAIRS;
    if (!read_list(l, 0, 2 + 2 * first, list)) return 1; /* nothing matters any more */
    cl_uint now = list[0], listed = list[1], tokens = now - r->now, count = listed - r->listed;
    size_t slot = r->now % (cl_uint)l->shape.ring, before = (size_t)l->shape.ring - slot; /* the ring's end */
    r->listed = listed;
    mka_cl_arrived(round->mirror);
    if (tokens > r->limit || count > r->most) { /* places that were given are as if a turn old */
        r->now = now + (cl_uint)l->shape.ring;
        cl_int code = clEnqueueWriteBuffer(d->queue, r->list, CL_TRUE, 0, sizeof r->now, &r->now, 0, NULL, NULL);
        if (code != CL_SUCCESS) mka_cl_fail(d, code, "emptying a ring of rows");
        return 0;
    }
    r->now = now;
    if (count > first && !read_list(l, 2 + 2 * first, 2 * (count - first), list + 2 + 2 * first)) return 1;
    if (count == 0) return 1;
    double begin = mka_cl_now();
    round->job->fetch(round->job->owner, (const mka_device_missing *)(list + 2), (int)count, d->stage.memory);
    d->usage.fetch_seconds += mka_cl_now() - begin;
    d->usage.fetched += tokens;
    if (before > tokens) before = tokens;
    write_ring(l, slot, before, d->stage.memory);
    write_ring(l, 0, tokens - before, d->stage.memory + before * r->place);
    return 1;
}
