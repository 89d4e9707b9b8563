/* bench_made - keys, values and queries whose softmax is as concentrated as a trained model's. */
#ifndef MKA_CLI_BENCH_MADE_H
#define MKA_CLI_BENCH_MADE_H

#include <stdint.h>

enum { MKA_BENCH_KINDS = 4 };

/* Of a kind of head: the long-term tokens' share of the softmax, and the deviation of their scores, within stretches of the text
 * and between them. Key/value head h is of kind h % MKA_BENCH_KINDS. */
typedef struct mka_bench_kind {
    double mass, within, between;
} mka_bench_kind;

typedef struct mka_bench_kv_shape {
    int heads, kv_heads, key_dim, value_dim;
    int context; /* tokens in all: what is concentrated depends on it */
    mka_bench_kind kinds[MKA_BENCH_KINDS];
} mka_bench_kv_shape;

/* 64 bits, of which the upper ones are the better. */
static inline uint64_t mka_bench_next(uint64_t *state) {
    return *state = *state * 6364136223846793005u + 1442695040888963407u;
}

/* Finds the kinds of a shape whose other numbers are set. Returns an exit status. */
int mka_bench_made_settle(mka_bench_kv_shape *shape);

/* A token's key [key_dim] and value [value_dim] (NULL: not wanted) in one head. */
void mka_bench_made_row(const mka_bench_kv_shape *shape, int kv_head, int token, float *key, float *value);
/* n queries of a query head that follow each other: [n] rows, stride floats apart. */
void mka_bench_made_queries(const mka_bench_kv_shape *shape, int head, int n, float *q, int stride);

/* How concentrated the softmax of one query is: the share of the mass that lies on tokens other than the first 64 and the last
 * 1,024, and how many of these it takes to leave less than 2 % of the mass unread. And how alike keys and values
 * are: half the mean squared distance of one to its nearest within 2,048 tokens, over their variance. */
typedef struct mka_bench_concentration {
    double long_mass;
    int tokens;
    double scatter, value_scatter;
} mka_bench_concentration;
/* Of one key/value head; q [key_dim]. Returns an exit status. */
int mka_bench_made_measure(const mka_bench_kv_shape *shape, int head, const float *q, mka_bench_concentration *c);

#endif
