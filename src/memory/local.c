/* local - see local.h. Head-major because a decoded token reads one head's rows from end to end. */
#include "local.h"

#include <string.h>

#include "base/status.h"

static void tile_bytes(const mka_local_shape *shape, size_t *key, size_t *value) {
    *key = mka_key_tile_bytes(shape->key_type, shape->key_dim);
    *value = shape->shared ? 0 : mka_value_tile_bytes(shape->value_type, shape->value_dim);
}

static size_t tile_count(const mka_local_shape *shape) {
    return ((size_t)shape->capacity + MKA_TILE - 1) / MKA_TILE;
}

size_t mka_local_token_bytes(const mka_local_shape *shape) {
    size_t key, value;
    tile_bytes(shape, &key, &value);
    return (size_t)shape->kv_heads * (key + value) / MKA_TILE;
}

/* A shared value is made from its key whole, in one form or another of the same layer, so all tokens are of one kind there. */
static size_t near_bytes(const mka_local_shape *s, mka_near_shape *near) {
    *near = (mka_near_shape){.kv_heads = s->kv_heads,
                             .key_dim = s->key_dim,
                             .value_dim = s->value_dim,
                             .key_type = s->key_type,
                             .value_type = s->value_type,
                             .queries = s->queries,
                             .capacity = s->capacity};
    return s->shared ? 0 : mka_near_bytes(near);
}

size_t mka_local_bytes(const mka_local_shape *shape) {
    size_t key, value, bytes;
    mka_near_shape near;
    tile_bytes(shape, &key, &value);
    if (!mka_size_mul((size_t)shape->kv_heads * (key + value), tile_count(shape), &bytes)) return 0;
    return mka_size_add(bytes, near_bytes(shape, &near), &bytes) ? bytes : 0;
}

static mka_device_cache_shape shape_there(const mka_local_shape *s) {
    return (mka_device_cache_shape){.kv_heads = s->kv_heads,
                                    .key_dim = s->key_dim,
                                    .value_dim = s->value_dim,
                                    .shared = s->shared,
                                    .key_type = s->key_type,
                                    .value_type = s->value_type,
                                    .capacity = s->capacity,
                                    .queries = s->queries};
}

uint64_t mka_local_bytes_there(const mka_local_shape *shape) {
    mka_device_cache_shape there = shape_there(shape);
    return mka_device_cache_bytes(&there);
}

static mka_status create_there(const mka_local_shape *s, mka_local *local, mka_error *error) {
    mka_device_cache_shape there = shape_there(s);
    *local = (mka_local){.shape = *s, .bytes = (size_t)mka_device_cache_bytes(&there)};
    return mka_device_cache_create(s->device, &there, &local->device, error);
}

mka_status mka_local_create(const mka_local_shape *shape, mka_local *local, mka_error *error) {
    if (shape->device) return create_there(shape, local, error);
    *local = (mka_local){.shape = *shape, .tiles = tile_count(shape), .bytes = mka_local_bytes(shape)};
    tile_bytes(shape, &local->key_tile, &local->value_tile);
    if (shape->key_dim > MKA_MOST_DIM || shape->value_dim > MKA_MOST_DIM) {
        *local = (mka_local){.keys = NULL};
        return mka_fail(error, MKA_UNSUPPORTED, "a cache of keys of %d numbers: %d are the most", shape->key_dim, MKA_MOST_DIM);
    }
    local->keys = local->bytes ? mka_pages_map(local->bytes) : NULL;
    if (!local->keys) {
        char text[MKA_SIZE_TEXT];
        size_t bytes = local->bytes;
        *local = (mka_local){.keys = NULL};
        return mka_fail(error, MKA_NO_MEMORY, "the system gives no %s for a cache of %d tokens",
                        mka_size_text(bytes, text, sizeof text), shape->capacity);
    }
    local->values = shape->shared ? local->keys : local->keys + (size_t)shape->kv_heads * local->tiles * local->key_tile;
    mka_near_shape near;
    size_t near_size = near_bytes(shape, &near);
    if (near_size > 0) mka_near_place(&near, local->keys + local->bytes - near_size, &local->near);
    return MKA_OK;
}

void mka_local_destroy(mka_local *local) {
    mka_device_cache_destroy(local->device);
    if (local->keys) mka_pages_unmap(local->keys, local->bytes);
    *local = (mka_local){.keys = NULL};
}

typedef struct store_task {
    mka_local *local;
    const mka_kernels *kernels;
    int first, n, key_ld, value_ld;
    const float *keys, *values;
} store_task;

/* x, or x turned into room when the type wants that (see mka_hadamard). */
static const float *turned(mka_type type, int d, const float *x, float *room) {
    if (type != MKA_Q4_0) return x;
    memcpy(room, x, (size_t)d * sizeof *x);
    mka_hadamard(d, room);
    return room;
}

static void store_token(const store_task *t, int head, size_t i) {
    const mka_local *local = t->local;
    const mka_local_shape *shape = &local->shape;
    float room[MKA_MOST_DIM];
    size_t token = (size_t)t->first + i, tile = (size_t)head * local->tiles + token / MKA_TILE;
    int slot = (int)(token % MKA_TILE);
    const float *key = t->keys + i * (size_t)t->key_ld + (size_t)head * (size_t)shape->key_dim;
    key = turned(shape->key_type, shape->key_dim, key, room);
    mka_put_key(shape->key_type, t->kernels->store[shape->key_type], shape->key_dim, key, local->keys + tile * local->key_tile,
                slot);
    if (shape->shared) return;
    const mka_near *near = &local->near;
    unsigned char *exact = mka_near_key(near, head, (int)token);
    if (exact) mka_put_key(near->key_type, t->kernels->store[near->key_type], shape->key_dim, key, exact, slot);
    const float *value = t->values + i * (size_t)t->value_ld + (size_t)head * (size_t)shape->value_dim;
    value = turned(shape->value_type, shape->value_dim, value, room);
    mka_put_value(shape->value_type, t->kernels->store[shape->value_type], shape->value_dim, value,
                  local->values + tile * local->value_tile, slot);
    exact = mka_near_value(near, head, (int)token);
    if (exact) mka_put_value(near->value_type, t->kernels->store[near->value_type], shape->value_dim, value, exact, slot);
}

/* Threads share out heads and whole tiles, so that no two write one line of memory. */
static void store_share(void *argument, int thread, int threads) {
    const store_task *t = argument;
    int heads = t->local->shape.kv_heads, begin_tile = t->first / MKA_TILE,
        tiles = (t->first + t->n - 1) / MKA_TILE - begin_tile + 1;
    size_t begin, end;
    mka_share((size_t)heads * (size_t)tiles, 1, thread, threads, &begin, &end);
    for (size_t item = begin; item < end; item++) {
        int head = (int)(item / (size_t)tiles), from = (begin_tile + (int)(item % (size_t)tiles)) * MKA_TILE - t->first;
        int to = from + MKA_TILE < t->n ? from + MKA_TILE : t->n;
        for (int i = from > 0 ? from : 0; i < to; i++) store_token(t, head, (size_t)i);
    }
}

void mka_local_store(mka_local *local, mka_ops *ops, int first, int n, const float *keys, int key_ld, const float *values,
                     int value_ld) {
    if (local->device) {
        ops->append(ops, local->device, first, n, NULL, keys, key_ld, values, value_ld);
        return;
    }
    const mka_local_shape *shape = &local->shape;
    size_t key_row = (size_t)shape->kv_heads * (size_t)shape->key_dim,
           value_row = (size_t)shape->kv_heads * (size_t)shape->value_dim;
    ops->get(ops, keys, (((size_t)n - 1) * (size_t)key_ld + key_row) * sizeof *keys);
    if (!shape->shared) ops->get(ops, values, (((size_t)n - 1) * (size_t)value_ld + value_row) * sizeof *values);
    mka_near_advance(&local->near, first, n);
    store_task t = {local, ops->kernels, first, n, key_ld, value_ld, keys, values};
    if (n < 8)
        store_share(&t, 0, 1); /* a few rows are stored sooner than threads wake */
    else
        mka_pool_run(ops->pool, store_share, &t);
}

void mka_local_turn(const mka_rotation *turn, mka_ops *ops, int n, int dim, float *x, int heads, const float *norm) {
    if (norm) ops->norm(ops, n * heads, dim, turn->eps, x, dim, norm, x, dim);
    ops->rope(ops, n, heads, turn->pairs, turn->neighbours, x, heads * dim, dim, turn->cosine, turn->sine);
}

void mka_local_turn_store(mka_local *local, mka_ops *ops, int first, int n, const mka_rotation *turn, float *keys, int key_ld,
                          const float *values, int value_ld) {
    const mka_local_shape *shape = &local->shape;
    if (local->device) {
        ops->append(ops, local->device, first, n, turn, keys, key_ld, values, value_ld);
        return;
    }
    if (turn->q) mka_local_turn(turn, ops, n, shape->key_dim, turn->q, turn->heads, turn->q_norm);
    mka_local_turn(turn, ops, n, shape->key_dim, keys, shape->kv_heads, turn->k_norm);
    mka_local_store(local, ops, first, n, keys, key_ld, values, value_ld);
}

void mka_local_keys(const mka_local *local, mka_ops *ops, int head, int first, int count, float *out, int ld) {
    if (local->device) {
        ops->rows(ops, local->device, 0, head, first, count, out, ld);
        return;
    }
    for (int i = 0; i < count; i++) mka_local_key(local, head, first + i, out + (size_t)i * (size_t)ld);
    ops->put(ops, out, (((size_t)count - 1) * (size_t)ld + (size_t)local->shape.key_dim) * sizeof *out);
}

void mka_local_truncate(mka_local *local, int length) {
    if (local->device) {
        mka_device_cache_truncate(local->device, length);
        return;
    }
    const mka_local_shape *shape = &local->shape;
    size_t kept = ((size_t)length + MKA_TILE - 1) / MKA_TILE, gone = local->tiles - kept;
    for (int head = 0; head < shape->kv_heads; head++) {
        size_t tile = (size_t)head * local->tiles + kept;
        mka_pages_discard(local->keys + tile * local->key_tile, gone * local->key_tile);
        if (!shape->shared) mka_pages_discard(local->values + tile * local->value_tile, gone * local->value_tile);
    }
    mka_near_truncate(&local->near, length);
}

void mka_local_forget(mka_local *local, int from, int to, int length) {
    if (local->device) {
        mka_device_cache_forget(local->device, from, to, length);
        return;
    }
    const mka_local_shape *shape = &local->shape;
    size_t begin = (size_t)from / MKA_TILE, count = (size_t)to / MKA_TILE - begin;
    for (int head = 0; head < shape->kv_heads; head++) {
        size_t tile = (size_t)head * local->tiles + begin;
        mka_pages_discard(local->keys + tile * local->key_tile, count * local->key_tile);
        if (!shape->shared) mka_pages_discard(local->values + tile * local->value_tile, count * local->value_tile);
    }
}

void mka_local_key(const mka_local *local, int head, int token, float *x) {
    const mka_local_shape *shape = &local->shape;
    size_t tile = (size_t)head * local->tiles + (size_t)token / MKA_TILE;
    mka_get_key(shape->key_type, shape->key_dim, local->keys + tile * local->key_tile, token % MKA_TILE, x);
    if (shape->key_type == MKA_Q4_0) mka_hadamard(shape->key_dim, x);
}

void mka_local_value(const mka_local *local, int head, int token, float *x) {
    const mka_local_shape *shape = &local->shape;
    size_t tile = (size_t)head * local->tiles + (size_t)token / MKA_TILE;
    mka_get_value(shape->value_type, shape->value_dim, local->values + tile * local->value_tile, token % MKA_TILE, x);
    if (shape->value_type == MKA_Q4_0) mka_hadamard(shape->value_dim, x);
}

int mka_local_has_near(const mka_local *local) {
    int held;
    return local->device ? mka_device_cache_ring(local->device, &held) : local->near.keys != NULL;
}

/* A ring has more than the next query may read, as near's room has. */
void mka_local_kept(const mka_local *local, int length, int *near_base, int *near_held) {
    int held;
    if (!local->device) {
        mka_near_kept(&local->near, length, near_base, near_held);
        return;
    }
    *near_base = *near_held = 0;
    if (!mka_device_cache_ring(local->device, &held)) return;
    int wanted = length / MKA_TILE * MKA_TILE - MKA_NEAR;
    *near_base = wanted > 0 ? wanted : 0;
    *near_held = held > *near_base ? held : *near_base;
}

int mka_local_restore(mka_local *local, int length, int from, int gone, int near_base, int near_held) {
    if (!local->device) return mka_near_restore(&local->near, length, near_base, near_held);
    if (!mka_near_can_be(mka_local_has_near(local), length, near_base, near_held)) return 0;
    mka_device_cache_restore(local->device, from, gone, near_held);
    return 1;
}

void mka_local_job(const mka_local *local, int count, mka_attend_job *job) {
    job->kv_heads = local->shape.kv_heads;
    job->key_dim = local->shape.key_dim;
    job->value_dim = local->shape.value_dim;
    job->device = local->device;
    job->keys = local->keys;
    job->values = local->values;
    job->key_type = local->shape.key_type;
    job->value_type = local->shape.shared ? local->shape.key_type : local->shape.value_type;
    job->shared = local->shape.shared;
    job->head_tiles = local->tiles;
    job->key_first = 0;
    job->key_count = count;
    const mka_near *near = &local->near;
    job->near = (mka_attend_near){.keys = near->keys,
                                  .values = near->values,
                                  .key_type = near->key_type,
                                  .value_type = near->value_type,
                                  .head_tiles = near->tiles,
                                  .first = near->first,
                                  .held = near->held};
}
