/* ring - long-term rows that stay in the host's memory: those of them that recall wanted lately are on the device, in a ring, and
 * a table says where. What it wants else is listed by a launch, and sent (ring_send.c).
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
    PART_AHEAD = 4 /* of a list, that is sent ahead at most: about an eighth of the ring, which must not lose what is wanted */
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

static void unpin(mka_device *d, mka_cl_pinned *p) {
    if (p->buffer) {
        clEnqueueUnmapMemObject(d->queue, p->buffer, p->memory, 0, NULL, NULL);
        clFinish(d->queue);
        clReleaseMemObject(p->buffer);
    } else {
        free(p->memory);
    }
    *p = (mka_cl_pinned){.bytes = 0};
}

/* The queues are empty. */
static int pin(mka_device *d, mka_cl_pinned *p, size_t bytes) {
    cl_int code;
    if (bytes <= p->bytes) return 1;
    unpin(d, p);
    p->buffer = clCreateBuffer(d->context, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, bytes, NULL, &code);
    if (p->buffer)
        p->memory = clEnqueueMapBuffer(d->queue, p->buffer, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, 0, bytes, 0, NULL, NULL, &code);
    if (!p->memory) {
        if (p->buffer) clReleaseMemObject(p->buffer);
        p->buffer = NULL;
        p->memory = malloc(bytes);
    }
    if (p->memory) p->bytes = bytes;
    return p->memory != NULL;
}

static void close_stage(mka_device *d, mka_cl_stage *s) {
    unpin(d, &s->list);
    unpin(d, &s->rows);
    if (s->listed) clReleaseEvent(s->listed);
    if (s->sent) clReleaseEvent(s->sent);
    *s = (mka_cl_stage){.asker = NULL};
}

void mka_cl_stages_close(mka_device *d) {
    close_stage(d, &d->fetching);
    close_stage(d, &d->ahead);
    d->arriving = NULL;
}

/* Room for one call at a time of all sessions, and for what one of them has asked for ahead. */
static mka_status stages_for(mka_device *d, size_t list, size_t rows, mka_error *error) {
    mka_cl_stage *const stages[] = {&d->fetching, &d->ahead};
    if (list <= d->ahead.list.bytes && rows <= d->ahead.rows.bytes) return MKA_OK;
    mka_cl_finish(d);
    if (d->ahead.asker) mka_cl_ring_drop(d);
    for (int i = 0; i < 2; i++)
        if (!pin(d, &stages[i]->list, list) || !pin(d, &stages[i]->rows, rows))
            return mka_fail(error, MKA_NO_MEMORY, "no memory for long-term rows on their way to the device");
    return MKA_OK;
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
    r->lost = 0;
    r->failures = d->failures;
}

mka_status mka_cl_ring_create(mka_device_longterm *l, mka_error *error) {
    mka_cl_ring *r = &l->ring;
    mka_device *d = l->device;
    size_t value_at, limit = limit_of(&l->shape);
    r->place = mka_device_ring_place(&l->shape, &value_at);
    r->limit = (cl_uint)limit;
    r->most = (cl_uint)(limit / SMALL_CLUSTER);
    mka_status status = mka_cl_take(d, (size_t)l->shape.ring * r->place, "a layer's ring of rows", &l->rows, error);
    if (!status) status = mka_cl_take(d, table_bytes(&l->shape), "a layer's table of rows", &r->table, error);
    if (!status) status = mka_cl_take(d, list_bytes(&l->shape), "a list of rows", &r->list, error);
    pthread_mutex_lock(&d->lock);
    if (!status) status = stages_for(d, list_bytes(&l->shape), limit * r->place, error);
    if (!status) empty(l);
    pthread_mutex_unlock(&d->lock);
    return status;
}

void mka_cl_ring_destroy(mka_device_longterm *l) {
    mka_cl_give(l->device, l->ring.table);
    mka_cl_give(l->device, l->ring.list);
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

/* What came before a failure may not have come. */
static void begin(mka_device_longterm *l, cl_uint asks) {
    mka_cl_ring *r = &l->ring;
    if (r->lost || r->failures != l->device->failures || r->now >= WRAP) empty(l);
    r->before = r->now;
    r->asks = asks;
}

void mka_cl_ring_begin(mka_device_longterm *l) {
    mka_cl_ring_send_ahead(l);
    begin(l, l->ring.most);
}

void mka_cl_ring_begin_ahead(mka_device_longterm *l) {
    begin(l, l->ring.most / PART_AHEAD);
}

void mka_cl_ring_list(mka_cl_call *c, const mka_device_longterm *l) {
    const mka_cl_ring *r = &l->ring;
    mka_cl_buffer(c, r->table, 0);
    mka_cl_buffer(c, r->list, 0);
    const cl_uint numbers[] = {r->now, r->listed, r->limit, r->asks};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) mka_cl_int(c, (int)numbers[i]);
}
