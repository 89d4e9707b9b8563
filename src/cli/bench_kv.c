/* bench_kv - see bench_kv.h. */
#include "bench_kv.h"

#include <string.h>

int mka_bench_kv_open(mka_bench_kv *kv, const char *source) {
    mka_error error = {0};
    *kv = (mka_bench_kv){.source = MKA_BENCH_RANDOM, .path = source, .state = 1};
    if (source == NULL || strcmp(source, "random") == 0) return 0;
    if (strcmp(source, "concentrated") == 0) {
        kv->source = MKA_BENCH_CONCENTRATED;
        return 0;
    }
    kv->source = MKA_BENCH_RECORDED;
    if (mka_file_open(source, &kv->file, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    const char *const names[] = {"in.k", "in.v"};
    const mka_tensor **tensors[] = {&kv->keys, &kv->values};
    for (int i = 0; i < 2; i++) {
        const mka_tensor *t = *tensors[i] = mka_file_find(kv->file, names[i]);
        if (t == NULL) return mka_cli_error("%s: tensor %s is missing", source, names[i]);
        if (t->type != MKA_F32 || t->rank < 3 || (t->rank == 4 && t->shape[0] != 1) || t->shape[t->rank - 2] < 1)
            return mka_cli_error("%s: tensor %s is not float32 [kv_heads][tokens][head_dim]", source, names[i]);
    }
    return 0;
}

void mka_bench_kv_close(mka_bench_kv *kv) {
    mka_file_close(kv->file);
    kv->file = NULL;
}

/* Sizes of in.k and in.v: heads, tokens, width. Files of the reference have a batch of one before them. */
static int64_t recorded_size(const mka_tensor *t, int dimension) {
    return t->shape[t->rank - 3 + dimension];
}

int mka_bench_kv_check(const mka_bench_kv *kv, const mka_bench_kv_shape *s) {
    if (kv->source != MKA_BENCH_RECORDED) return 0;
    if (recorded_size(kv->keys, 0) == s->kv_heads && recorded_size(kv->keys, 2) == s->key_dim &&
        recorded_size(kv->values, 0) == s->kv_heads && recorded_size(kv->values, 2) == s->value_dim)
        return 0;
    return mka_cli_error("%s: %lld key/value heads of width %lld; the rows ask for %d of %d (--kv-heads, --head-dim)", kv->path,
                         (long long)recorded_size(kv->keys, 0), (long long)recorded_size(kv->keys, 2), s->kv_heads, s->key_dim);
}

/* ---- numbers ---- */

/* Uniform with variance 1: scores of unit variance too, as trained models have them after scaling. */
static void random_floats(uint64_t *state, size_t n, float *x) {
    for (size_t i = 0; i < n; i++) x[i] = (float)(int32_t)(uint32_t)(mka_bench_next(state) >> 32) * (1.7320508F * 0x1p-31F);
}

/* ---- rows of any source ---- */

/* Tokens first.. of a recorded [kv_heads][tokens][head_dim], which repeats itself beyond its end. */
static void recorded(const mka_tensor *t, int kv_heads, int dim, int first, int n, float *x) {
    int64_t tokens = recorded_size(t, 1);
    for (int i = 0; i < n; i++)
        for (int h = 0; h < kv_heads; h++)
            memcpy(x + ((size_t)i * (size_t)kv_heads + (size_t)h) * (size_t)dim,
                   (const float *)t->data + ((int64_t)h * tokens + (first + i) % tokens) * dim, (size_t)dim * sizeof(float));
}

void mka_bench_kv_rows(mka_bench_kv *kv, const mka_bench_kv_shape *s, int first, int n, float *keys, float *values) {
    size_t heads = (size_t)s->kv_heads;
    if (kv->source == MKA_BENCH_RECORDED) {
        recorded(kv->keys, s->kv_heads, s->key_dim, first, n, keys);
        if (values) recorded(kv->values, s->kv_heads, s->value_dim, first, n, values);
        return;
    }
    if (kv->source == MKA_BENCH_RANDOM) {
        random_floats(&kv->state, (size_t)n * heads * (size_t)s->key_dim, keys);
        if (values) random_floats(&kv->state, (size_t)n * heads * (size_t)s->value_dim, values);
        return;
    }
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t h = 0; h < heads; h++)
            mka_bench_made_row(s, (int)h, first + (int)i, keys + (i * heads + h) * (size_t)s->key_dim,
                               values ? values + (i * heads + h) * (size_t)s->value_dim : NULL);
}

void mka_bench_kv_queries(mka_bench_kv *kv, const mka_bench_kv_shape *s, int n, float *q) {
    size_t heads = (size_t)s->heads;
    if (kv->source != MKA_BENCH_CONCENTRATED) {
        random_floats(&kv->state, (size_t)n * heads * (size_t)s->key_dim, q);
        return;
    }
    for (int h = 0; h < s->heads; h++) mka_bench_made_queries(s, h, n, q + (size_t)h * (size_t)s->key_dim, s->heads * s->key_dim);
}
