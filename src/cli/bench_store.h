/* bench_store - the caches that rows of `bench attention` read: dense ones (mka_kv), or a tiered memory. */
#ifndef MKA_CLI_BENCH_STORE_H
#define MKA_CLI_BENCH_STORE_H

#include "bench_kv.h"

#include <mka/memory.h>

enum { MKA_BENCH_LEVELS = 3 };

/* Caches of one engine, variant, shape, type and kind of memory. */
typedef struct mka_bench_store {
    int engine, variant, heads, kv_heads, head_dim, type, tiered, context, queries;
    int levels; /* caches of mka; 1 otherwise */
    int key_dim, value_dim;
    mka_bench_kv_shape shape;
    mka_kv *kv[MKA_BENCH_LEVELS];
    mka_memory *memory;                     /* tiered: instead of kv */
    mka_used used;                          /* tiered: of the last call */
    uint64_t spill_bytes, calls;            /* tiered: read from the spill file in so many calls */
    size_t before, resident;                /* tiered: memory of the process before it; what it took at most; 0: unknown */
    int sets, turn;                         /* of queries, which calls take in turns: see mka_bench_store_attend */
    mka_bench_concentration *concentration; /* [kv_heads], of the first query of each, where keys were made so; or NULL */
    float *q, *out, *mixed;                 /* [queries][heads][...]; q [sets][queries][heads][key_dim] */
} mka_bench_store;

/* 1 when both rows may read the same cache; lengths may differ where the contents do not depend on them. */
int mka_bench_store_same(const mka_bench_store *a, const mka_bench_store *b, const mka_bench_kv *kv);

/* Makes and fills the caches of a store whose first two lines are set. Returns an exit status. */
int mka_bench_store_make(mka_bench *bench, mka_bench_kv *kv, mka_bench_store *store);
void mka_bench_store_free(mka_bench_store *store);

/* One call: n queries at the end of the first length tokens, into out (mixed for mka). A store that spills has several sets of
 * queries: the same one again would find its rows in memory. Returns an exit status. */
int mka_bench_store_attend(mka_bench_store *store, int length, int n);

/* The outputs of the last call. */
const float *mka_bench_store_out(const mka_bench_store *store);

#endif
