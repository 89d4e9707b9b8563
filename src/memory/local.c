/* local - see local.h. Head-major because a decoded token reads one head's rows from end to end. */
#include "local.h"

#include <string.h>

#include "base/status.h"

int mka_local_type(mka_type type) {
    return type == MKA_F32 || type == MKA_F16 || type == MKA_BF16;
}

size_t mka_local_token_bytes(const mka_local_shape *shape) {
    size_t key = mka_type_row_bytes(shape->key_type, shape->key_dim);
    size_t value = shape->shared ? 0 : mka_type_row_bytes(shape->value_type, shape->value_dim);
    return (size_t)shape->kv_heads * (key + value);
}

size_t mka_local_bytes(const mka_local_shape *shape) {
    size_t bytes;
    return mka_size_mul(mka_local_token_bytes(shape), (size_t)shape->capacity, &bytes) ? bytes : 0;
}

mka_status mka_local_create(const mka_local_shape *shape, mka_local *local, mka_error *error) {
    *local = (mka_local){.shape = *shape};
    local->key_row = mka_type_row_bytes(shape->key_type, shape->key_dim);
    local->value_row = shape->shared ? local->key_row : mka_type_row_bytes(shape->value_type, shape->value_dim);
    local->bytes = mka_local_bytes(shape);
    local->keys = local->bytes ? mka_pages_map(local->bytes) : NULL;
    if (!local->keys) {
        char text[MKA_SIZE_TEXT];
        size_t bytes = local->bytes;
        *local = (mka_local){.keys = NULL};
        return mka_fail(error, MKA_NO_MEMORY, "the system gives no %s for a cache of %d tokens",
                        mka_size_text(bytes, text, sizeof text), shape->capacity);
    }
    local->values =
        shape->shared ? local->keys : local->keys + (size_t)shape->kv_heads * (size_t)shape->capacity * local->key_row;
    return MKA_OK;
}

void mka_local_destroy(mka_local *local) {
    if (local->keys) mka_pages_unmap(local->keys, local->bytes);
    *local = (mka_local){.keys = NULL};
}

typedef struct store_task {
    mka_local *local;
    const mka_kernels *kernels;
    int first, n, key_ld, value_ld;
    const float *keys, *values;
} store_task;

static void store_share(void *argument, int thread, int threads) {
    const store_task *t = argument;
    const mka_local_shape *shape = &t->local->shape;
    size_t begin, end;
    mka_share((size_t)t->n, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++)
        for (int head = 0; head < shape->kv_heads; head++) {
            size_t slot = (size_t)head * (size_t)shape->capacity + (size_t)t->first + i;
            t->kernels->store[shape->key_type](shape->key_dim,
                                               t->keys + i * (size_t)t->key_ld + (size_t)head * (size_t)shape->key_dim,
                                               t->local->keys + slot * t->local->key_row);
            if (!shape->shared)
                t->kernels->store[shape->value_type](
                    shape->value_dim, t->values + i * (size_t)t->value_ld + (size_t)head * (size_t)shape->value_dim,
                    t->local->values + slot * t->local->value_row);
        }
}

void mka_local_store(mka_local *local, mka_ops *ops, int first, int n, const float *keys, int key_ld, const float *values,
                     int value_ld) {
    store_task t = {local, ops->kernels, first, n, key_ld, value_ld, keys, values};
    if (n < 16)
        store_share(&t, 0, 1); /* a few rows are stored sooner than threads wake */
    else
        mka_pool_run(ops->pool, store_share, &t);
}

void mka_local_truncate(mka_local *local, int length) {
    const mka_local_shape *shape = &local->shape;
    size_t gone = (size_t)(shape->capacity - length);
    for (int head = 0; head < shape->kv_heads; head++) {
        size_t slot = (size_t)head * (size_t)shape->capacity + (size_t)length;
        mka_pages_discard(local->keys + slot * local->key_row, gone * local->key_row);
        if (!shape->shared) mka_pages_discard(local->values + slot * local->value_row, gone * local->value_row);
    }
}

void mka_local_job(const mka_local *local, int count, mka_attend_job *job) {
    job->kv_heads = local->shape.kv_heads;
    job->key_dim = local->shape.key_dim;
    job->value_dim = local->shape.value_dim;
    job->keys = local->keys;
    job->values = local->values;
    job->key_type = local->shape.key_type;
    job->value_type = local->shape.shared ? local->shape.key_type : local->shape.value_type;
    job->key_stride = (ptrdiff_t)local->key_row;
    job->value_stride = (ptrdiff_t)local->value_row;
    job->head_capacity = local->shape.capacity;
    job->key_first = 0;
    job->key_count = count;
}
