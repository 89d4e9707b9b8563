/* bench_kv - the keys, values and queries that attention is measured on: random, recorded, or made so that softmax is as
 * concentrated as a trained model's. */
#ifndef MKA_CLI_BENCH_KV_H
#define MKA_CLI_BENCH_KV_H

#include "bench.h"
#include "bench_made.h"

#include <mka/attention.h>

typedef struct mka_bench_kv {
    enum { MKA_BENCH_RANDOM, MKA_BENCH_CONCENTRATED, MKA_BENCH_RECORDED } source;
    const char *path;
    uint64_t state; /* of random numbers */
    mka_file *file; /* recorded, or NULL */
    const mka_tensor *keys, *values;
} mka_bench_kv;

/* From --kv: random (also NULL), concentrated, or a file, which close closes. Returns an exit status. */
int mka_bench_kv_open(mka_bench_kv *kv, const char *source);
void mka_bench_kv_close(mka_bench_kv *kv);
/* Whether a recorded file has this shape. Returns an exit status. */
int mka_bench_kv_check(const mka_bench_kv *kv, const mka_bench_kv_shape *shape);

/* Tokens first..first + n - 1: keys [n][kv_heads][key_dim], values likewise (NULL: none are wanted). */
void mka_bench_kv_rows(mka_bench_kv *kv, const mka_bench_kv_shape *shape, int first, int n, float *keys, float *values);
/* n queries [n][heads][key_dim]. */
void mka_bench_kv_queries(mka_bench_kv *kv, const mka_bench_kv_shape *shape, int n, float *q);

#endif
