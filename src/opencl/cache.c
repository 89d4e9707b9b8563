/* cache - see cache.h: making one, storing tokens in it, reading rows back, forgetting. */
#include "cache.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

/* ---- sizes ---- */

static mka_cl_plane plane_of(mka_type type, int dim, int values) {
    int quant = type == MKA_Q8_0 || type == MKA_Q4_0;
    mka_cl_plane p = {.type = type, .dim = dim, .stride = mka_pad(dim, quant ? 32 : 16)};
    size_t stride = (size_t)p.stride;
    p.row_bytes = type == MKA_F32 ? 4 * stride : type == MKA_Q8_0 ? stride : type == MKA_Q4_0 ? stride / 2 : 2 * stride;
    if (quant) p.scale_bytes = values ? (int)sizeof(cl_float) : p.stride / 32 * (int)sizeof(cl_half);
    return p;
}

static size_t aligned(size_t bytes) {
    return (bytes + MKA_CL_ALIGN - 1) / MKA_CL_ALIGN * MKA_CL_ALIGN;
}

static size_t plane_bytes(const mka_cl_plane *p, size_t slots) {
    return aligned(slots * p->row_bytes) + aligned(slots * (size_t)p->scale_bytes);
}

static mka_type near_type(mka_type type) {
    return type == MKA_Q4_0 ? MKA_BF16 : type;
}

static int ring_of(const mka_device_cache_shape *s) {
    if (s->shared || (s->key_type != MKA_Q4_0 && s->value_type != MKA_Q4_0)) return 0;
    return mka_pad(MKA_NEAR + s->queries + 2 * MKA_TILE, MKA_TILE);
}

/* Planes without buffers, and the slots of a head. */
static void lay_out(const mka_device_cache_shape *s, mka_device_cache *c) {
    *c = (mka_device_cache){.shape = *s, .capacity = mka_pad(s->capacity, 64), .ring = ring_of(s)};
    c->keys = plane_of(s->key_type, s->key_dim, 0);
    c->values = s->shared ? c->keys : plane_of(s->value_type, s->value_dim, 1);
    if (!c->ring) return;
    c->near_keys = plane_of(near_type(s->key_type), s->key_dim, 0);
    c->near_values = plane_of(near_type(s->value_type), s->value_dim, 1);
}

uint64_t mka_device_cache_bytes(const mka_device_cache_shape *shape) {
    mka_device_cache c;
    lay_out(shape, &c);
    size_t slots = (size_t)shape->kv_heads * (size_t)c.capacity, near = 2 * (size_t)shape->kv_heads * (size_t)c.ring;
    uint64_t bytes = plane_bytes(&c.keys, slots);
    if (!shape->shared) bytes += plane_bytes(&c.values, slots);
    return c.ring ? bytes + plane_bytes(&c.near_keys, near) + plane_bytes(&c.near_values, near) : bytes;
}

/* ---- creation ---- */

static mka_status open_plane(mka_device *d, mka_cl_plane *p, size_t slots, const char *what, mka_error *error) {
    const cl_uint zero = 0;
    char text[24];
    size_t bytes = plane_bytes(p, slots);
    mka_status status = mka_cl_take(d, bytes, what, &p->buffer, error);
    if (status) return status;
    p->scales_at = aligned(slots * p->row_bytes);
    cl_int code = clEnqueueFillBuffer(d->queue, p->buffer, &zero, sizeof zero, 0, bytes, 0, NULL, NULL);
    if (code == CL_SUCCESS) code = clFinish(d->queue);
    return code == CL_SUCCESS
               ? MKA_OK
               : mka_fail(error, MKA_NO_MEMORY, "%s: %s cannot be had (%s)", d->info.name, what, mka_cl_error_name(code, text));
}

/* What stores tokens and reads keys back. */
static mka_status open_rows(mka_device *d, mka_device_cache *c, mka_error *error) {
    const mka_device_cache_shape *s = &c->shape;
    char options[MKA_CL_OPTIONS];
    snprintf(options, sizeof options,
             "-DLANES=%d -DKEY_TYPE=%d -DKEY_DIM=%d -DVALUE_TYPE=%d -DVALUE_DIM=%d -DSHARED=%d -DRING=%d", d->lanes,
             (int)s->key_type, s->key_dim, (int)c->values.type, s->value_dim, s->shared, c->ring);
    mka_status status = mka_cl_kernel(d, "cache", "append", &c->append, error, "%s", options);
    return status ? status : mka_cl_kernel(d, "cache", "rows_of", &c->rows_of, error, "%s", options);
}

mka_status mka_cl_attend_kernel(mka_device_cache *c, int near, int log, cl_kernel *kernel, mka_error *error) {
    cl_kernel *kept = near ? &c->near_attend[log] : &c->attend[log];
    const mka_cl_plane *keys = near ? &c->near_keys : &c->keys, *values = near ? &c->near_values : &c->values;
    mka_status status = MKA_OK;
    if (!*kept)
        status = mka_cl_kernel(c->device, "attend", "attend", kept, error,
                               "-DLANES=%d -DKEY_TYPE=%d -DKEY_DIM=%d -DVALUE_TYPE=%d -DVALUE_DIM=%d -DSHARED=%d -DROWS=%d",
                               c->device->lanes, (int)keys->type, keys->dim, (int)values->type, c->shape.value_dim,
                               c->shape.shared, 1 << log);
    *kernel = *kept;
    return status;
}

/* Tiles that fit the local memory; the smallest is built at once, so that a driver that cannot says so now. */
static mka_status open_attend(mka_device *d, mka_device_cache *c, mka_error *error) {
    cl_kernel kernel;
    while (c->tiles < MKA_CL_ROWS_LOG) {
        size_t floats = ((size_t)c->keys.dim + (size_t)d->lanes + 3) << c->tiles;
        if (floats * sizeof(float) > d->local_memory - d->local_memory / 4) break;
        c->tiles++;
    }
    if (c->tiles == 0)
        return mka_fail(error, MKA_UNSUPPORTED, "%s: keys of %d numbers do not fit its local memory", d->info.name, c->keys.dim);
    return mka_cl_attend_kernel(c, 0, 0, &kernel, error);
}

static mka_status open_planes(mka_device *d, mka_device_cache *c, mka_error *error) {
    const mka_device_cache_shape *s = &c->shape;
    size_t slots = (size_t)s->kv_heads * (size_t)c->capacity, near = 2 * (size_t)s->kv_heads * (size_t)c->ring;
    mka_status status = open_plane(d, &c->keys, slots, "a layer's keys", error);
    if (!status && s->shared) c->values = c->keys;
    if (!status && !s->shared) status = open_plane(d, &c->values, slots, "a layer's values", error);
    if (!status && c->ring) status = open_plane(d, &c->near_keys, near, "a layer's newest keys", error);
    if (!status && c->ring) status = open_plane(d, &c->near_values, near, "a layer's newest values", error);
    if (!status) status = open_rows(d, c, error);
    if (!status) status = open_attend(d, c, error);
    return status;
}

/* Values in four bits are turned; those that are part of such a key in runs of the key's. */
static mka_status find_run(mka_device_cache *c, mka_error *error) {
    const mka_device_cache_shape *s = &c->shape;
    int dim = s->shared ? s->key_dim : s->value_dim;
    if ((s->shared ? s->key_type : s->value_type) != MKA_Q4_0) return MKA_OK;
    c->turned_run = dim & -dim;
    if (s->value_dim % c->turned_run == 0) return MKA_OK;
    return mka_fail(error, MKA_UNSUPPORTED, "latents of %d numbers in rows of %d cannot be q4 on a device; q8 can", s->value_dim,
                    s->key_dim);
}

mka_status mka_device_cache_create(mka_device *device, const mka_device_cache_shape *shape, mka_device_cache **out,
                                   mka_error *error) {
    *out = NULL;
    mka_device_cache *c = calloc(1, sizeof *c);
    if (!c) return mka_fail(error, MKA_NO_MEMORY, "no memory for a cache");
    lay_out(shape, c);
    c->device = device;
    mka_status status = find_run(c, error);
    pthread_mutex_lock(&device->lock);
    if (!status) status = open_planes(device, c, error);
    pthread_mutex_unlock(&device->lock);
    if (status) {
        mka_device_cache_destroy(c);
        return status;
    }
    *out = c;
    return MKA_OK;
}

void mka_device_cache_destroy(mka_device_cache *c) {
    if (!c) return;
    pthread_mutex_lock(&c->device->lock);
    mka_cl_chain_end(c->device);
    pthread_mutex_unlock(&c->device->lock);
    clFinish(c->device->queue);
    mka_cl_give(c->device, c->keys.buffer);
    if (!c->shape.shared) mka_cl_give(c->device, c->values.buffer);
    mka_cl_give(c->device, c->near_keys.buffer);
    mka_cl_give(c->device, c->near_values.buffer);
    free(c);
}

/* ---- forgetting, growing ---- */

void mka_device_cache_truncate(mka_device_cache *c, int length) {
    if (length < c->held) c->held = length;
    if (length == 0) c->base = 0;
}

/* count rows of all heads from slot `from` of one buffer to slot `to` of another, units of bytes each; pitches in slots. */
static cl_int copy_rows(mka_device *d, cl_mem source, cl_mem target, const size_t at[2], size_t bytes, int from, int to,
                        int count, const int pitch[2], int heads) {
    size_t begin[3] = {at[0] + (size_t)from * bytes, 0, 0}, end[3] = {at[1] + (size_t)to * bytes, 0, 0},
           region[3] = {(size_t)count * bytes, (size_t)heads, 1};
    return clEnqueueCopyBufferRect(d->queue, source, target, begin, end, region, (size_t)pitch[0] * bytes, 0,
                                   (size_t)pitch[1] * bytes, 0, 0, NULL, mka_cl_time(d, MKA_CL_KERNEL));
}

/* The same of a plane's data and scales. */
static cl_int copy_plane(mka_device *d, const mka_cl_plane *source, const mka_cl_plane *target, int from, int to, int count,
                         const int pitch[2], int heads) {
    const size_t data[2] = {0, 0}, scales[2] = {source->scales_at, target->scales_at};
    cl_int code = copy_rows(d, source->buffer, target->buffer, data, source->row_bytes, from, to, count, pitch, heads);
    if (code != CL_SUCCESS || source->scale_bytes == 0) return code;
    return copy_rows(d, source->buffer, target->buffer, scales, (size_t)source->scale_bytes, from, to, count, pitch, heads);
}

/* In pieces as long as the way, so that none is written where it is read. */
void mka_device_cache_forget(mka_device_cache *c, int from, int to, int length) {
    mka_device *d = c->device;
    int gone = to - from - c->base, count = length - to;
    const int pitch[2] = {c->capacity, c->capacity};
    if (gone <= 0) return;
    c->gap = from;
    pthread_mutex_lock(&d->lock);
    mka_cl_chain_end(d);
    for (int done = 0; done < count && d->failure.status == MKA_OK; done += gone) {
        int piece = count - done < gone ? count - done : gone, at = from + done;
        cl_int code = copy_plane(d, &c->keys, &c->keys, at + gone, at, piece, pitch, c->shape.kv_heads);
        if (code == CL_SUCCESS && !c->shape.shared)
            code = copy_plane(d, &c->values, &c->values, at + gone, at, piece, pitch, c->shape.kv_heads);
        if (code != CL_SUCCESS) mka_cl_fail(d, code, "moving the last tokens of a cache");
    }
    c->base += gone;
    pthread_mutex_unlock(&d->lock);
}

static void copy_all(const mka_device_cache *from, const mka_device_cache *to, int count) {
    mka_device *d = from->device;
    const int pitch[2] = {from->capacity, to->capacity};
    int heads = from->shape.kv_heads;
    cl_int code = copy_plane(d, &from->keys, &to->keys, 0, 0, count, pitch, heads);
    if (code == CL_SUCCESS && !from->shape.shared) code = copy_plane(d, &from->values, &to->values, 0, 0, count, pitch, heads);
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "moving a cache");
}

static void give_planes(mka_device_cache *c) {
    mka_cl_give(c->device, c->keys.buffer);
    if (!c->shape.shared) mka_cl_give(c->device, c->values.buffer);
}

mka_status mka_device_cache_grow(mka_device_cache *c, int capacity, int length, mka_error *error) {
    mka_device *d = c->device;
    mka_device_cache more = *c;
    more.shape.capacity = capacity;
    more.capacity = mka_pad(capacity, 64);
    more.keys.buffer = more.values.buffer = NULL;
    size_t slots = (size_t)c->shape.kv_heads * (size_t)more.capacity;
    pthread_mutex_lock(&d->lock);
    mka_cl_chain_end(d);
    mka_status status = open_plane(d, &more.keys, slots, "a layer's keys", error);
    if (!status && !c->shape.shared) status = open_plane(d, &more.values, slots, "a layer's values", error);
    if (!status) {
        copy_all(c, &more, length - c->base);
        clFinish(d->queue);
        give_planes(c);
        c->shape = more.shape;
        c->capacity = more.capacity;
        c->keys = more.keys;
        c->values = more.values;
    } else {
        give_planes(&more);
    }
    pthread_mutex_unlock(&d->lock);
    return status;
}

/* ---- use ---- */

static void plane(mka_cl_call *c, const mka_cl_plane *p) {
    cl_mem none = c->mirror->scratch;
    mka_cl_buffer(c, p->buffer ? p->buffer : none, p->scales_at);
}

static void turn_arguments(mka_cl_call *c, const mka_rotation *turn, int n, int dim) {
    static const mka_rotation nothing;
    const mka_rotation *t = turn ? turn : &nothing;
    size_t pairs = (size_t)t->pairs;
    mka_cl_int(c, t->pairs);
    mka_cl_int(c, t->neighbours);
    for (int i = 0; i < 2; i++)
        if (pairs)
            mka_cl_in(c, i ? t->sine : t->cosine, (size_t)n, pairs, pairs);
        else
            mka_cl_buffer(c, c->mirror->scratch, 0);
    mka_cl_float(c, t->eps);
    mka_cl_vector(c, t->q_norm, dim);
    mka_cl_vector(c, t->k_norm, dim);
}

void mka_cl_append(mka_mirror *m, const mka_cl_turn *t) {
    mka_device_cache *cache = t->cache;
    const mka_device_cache_shape *s = &cache->shape;
    const mka_rotation *turn = t->has_rotation ? &t->rotation : NULL;
    size_t n = (size_t)t->n, kv_heads = (size_t)s->kv_heads, dim = (size_t)s->key_dim;
    size_t heads = turn && turn->q ? (size_t)turn->heads : 0;
    mka_cl_call c = mka_cl_begin(m, cache->append, "append");
    /* the ring's slots are each written once */
    const int numbers[] = {(int)heads, s->kv_heads, cache->capacity, cache->base, t->first, t->first + t->n - cache->ring};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) mka_cl_int(&c, numbers[i]);
    if (heads)
        mka_cl_both(&c, turn->q, n, heads * dim, heads * dim);
    else
        mka_cl_buffer(&c, m->scratch, 0);
    mka_cl_in(&c, t->keys, n, kv_heads * dim, (size_t)t->key_ld);
    mka_cl_int(&c, t->key_ld);
    if (s->shared)
        mka_cl_buffer(&c, m->scratch, 0);
    else
        mka_cl_in(&c, t->values, n, kv_heads * (size_t)s->value_dim, (size_t)t->value_ld);
    mka_cl_int(&c, t->value_ld);
    turn_arguments(&c, turn, t->n, s->key_dim);
    plane(&c, &cache->keys);
    plane(&c, &cache->values);
    plane(&c, &cache->near_keys);
    plane(&c, &cache->near_values);
    mka_cl_run(&c, (size_t)m->device->lanes, n, heads + kv_heads * (s->shared ? 1 : 2), 1);
    if (cache->ring && cache->held < t->first + t->n - cache->ring) cache->held = t->first + t->n - cache->ring;
}

static void device_append(mka_ops *ops, mka_device_cache *cache, int first, int n, const mka_rotation *turn, const float *keys,
                          int key_ld, const float *values, int value_ld) {
    mka_mirror *m = ops->mirror;
    mka_cl_turn t = {
        .cache = cache, .first = first, .n = n, .keys = keys, .values = values, .key_ld = key_ld, .value_ld = value_ld};
    t.has_rotation = turn != NULL;
    if (turn) t.rotation = *turn;
    pthread_mutex_lock(&m->device->lock);
    if (!mka_cl_attend_turns(ops, &t) || !mka_cl_chain_turn(m, &t)) mka_cl_append(m, &t);
    pthread_mutex_unlock(&m->device->lock);
}

static void device_rows(mka_ops *ops, mka_device_cache *cache, int values, int head, int first, int count, float *out, int ld) {
    const mka_cl_plane *p = values ? &cache->values : &cache->keys;
    mka_cl_call c = mka_cl_begin(ops->mirror, cache->rows_of, "rows_of");
    mka_cl_int(&c, values);
    mka_cl_int(&c, cache->capacity);
    mka_cl_int(&c, head);
    mka_cl_int(&c, mka_cl_slot(cache, first));
    mka_cl_buffer(&c, p->buffer, 0);
    mka_cl_long(&c, p->scales_at);
    mka_cl_out(&c, out, (size_t)count, (size_t)p->dim, (size_t)ld);
    mka_cl_int(&c, ld);
    mka_cl_run(&c, (size_t)cache->device->lanes, (size_t)count, 1, 1);
}

void mka_cl_fill_cache(mka_ops *ops) {
    ops->append = device_append;
    ops->rows = device_rows;
}
