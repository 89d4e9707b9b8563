/* bench_kv - see bench_kv.h.
 *
 * Concentrated: the scores of a trained model over a long text are near to normal over the tokens, and a share of the mass sits
 * on the first tokens. Measured on SmolLM2 at 8K and Gemma 3 at 16K (f16 cache, a novel): layers whose long part matters give it
 * 0.1 to 0.6 of the mass, and need 30 to 3,000 of its tokens for all but 2 % of the whole; the standard deviation of scores is 2
 * to 4. Keys and values of the same word are alike: half the mean squared distance of a key to its nearest within 2,048 tokens is
 * 0.16 to 0.40 of the variance, that of values 0.08 to 0.34; and the values' mean has 0.05 to 0.37 of their squares. So a token
 * has a word, by Zipf's law over a vocabulary, whose vector and numbers of the token's own make up key and value; all of them are
 * normal. A query is a direction whose length sets the deviation of scores, and token 0's key
 * has a dimension of its own that draws the rest of the mass. The deviation is chosen so that a head needs as many tokens as
 * heads of those models do, whatever the length: models attend to things, not to shares of the text. */
#include "bench_kv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Key/value head h is of kind h % KINDS: long mass, and tokens for all but 2 % of the whole. */
static const struct { double mass, tokens; } kinds[] = {{0.5, 3000}, {0.3, 800}, {0.1, 300}, {0.03, 30}};
enum { KINDS = sizeof kinds / sizeof *kinds, SINKS = 64, WINDOW = 1024 };
enum { VOCABULARY = 4096 };
static const float key_shares[3] = {0.0F, 0.86F, 0.14F}, value_shares[3] = {0.12F, 0.6F, 0.28F};
static const double sink_share = 0.3; /* of a query's length that lies in the sink's dimension */

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

static uint64_t next(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state;
}

/* Uniform with variance 1: scores of unit variance too, as trained models have them after scaling. */
static void random_floats(uint64_t *state, size_t n, float *x) {
    for (size_t i = 0; i < n; i++) x[i] = (float)(int32_t)(uint32_t)(next(state) >> 32) * (1.7320508F * 0x1p-31F);
}

/* Normal, variance 1: the sum of four uniform numbers of 16 bits, which is near enough and quick. */
static float normal(uint64_t *state) {
    uint64_t u = next(state);
    u ^= u >> 29;
    int sum = (int)(u & 0xffff) + (int)(u >> 16 & 0xffff) + (int)(u >> 32 & 0xffff) + (int)(u >> 48);
    return (float)(sum - 2 * 65535) * (1.7320508F / 65536.0F);
}

/* The number that a normal one is below with probability p, by bisection: called a few times a head. */
static double quantile(double p) {
    double low = -8, high = 8;
    for (int i = 0; i < 60; i++) {
        double middle = 0.5 * (low + high);
        *(0.5 * erfc(-middle / sqrt(2)) < p ? &low : &high) = middle;
    }
    return 0.5 * (low + high);
}

/* ---- concentrated ---- */

/* Deviation of a head's scores, and the score of token 0. */
static void concentration_of(const mka_bench_kv_shape *s, int head, double *deviation, double *sink) {
    double mass = kinds[head % KINDS].mass, tokens = kinds[head % KINDS].tokens, n = s->context - SINKS - WINDOW;
    if (n < 4 * tokens) n = 4 * tokens;
    *deviation = quantile(1 - tokens / n) + quantile(1 - fmin(0.02 / mass, 0.9));
    if (*deviation < 0.5) *deviation = 0.5;
    /* sum of exp(score) over n normal scores, the largest of which is about sqrt(2 ln n) deviations */
    double log_sum = log(n) + 0.5 * *deviation * *deviation + log(0.5 * erfc(-(sqrt(2 * log(n)) - *deviation) / sqrt(2)));
    *sink = log_sum + log((1 - mass) / mass);
}

static uint64_t seed_of(int head, int token) {
    uint64_t u = ((uint64_t)(unsigned)head << 40 ^ (uint64_t)(unsigned)token) + 0x9e3779b97f4a7c15u;
    u = (u ^ u >> 30) * 0xbf58476d1ce4e5b9u;
    u = (u ^ u >> 27) * 0x94d049bb133111ebu;
    return u ^ u >> 31;
}

/* A token's word: number w has a share of about 1 / w. */
static int word_of(int token) {
    double u = (double)(seed_of(1 << 21, token) >> 11) * 0x1p-53;
    return (int)exp(u * log(VOCABULARY));
}

/* Of a number: what all tokens share, what those of the word do, and the token's own part, as shares of its variance. */
static void worded(int n, uint64_t *all, uint64_t *word, uint64_t *own, const float shares[3], float *x) {
    float a = sqrtf(shares[0]), w = sqrtf(shares[1]), o = sqrtf(shares[2]);
    for (int i = 0; i < n; i++) x[i] = a * normal(all) + w * normal(word) + o * normal(own);
}

/* Dimension 0 is the sink's: token 0 alone has something there. */
static void concentrated_row(const mka_bench_kv_shape *s, int head, int token, float *key, float *value) {
    uint64_t state = seed_of(head, token), word = seed_of(1 << 22 | head, word_of(token)), all = seed_of(1 << 23, head);
    worded(s->key_dim, &all, &word, &state, key_shares, key);
    key[0] = 0;
    if (token == 0) {
        double deviation, sink;
        concentration_of(s, head, &deviation, &sink);
        memset(key, 0, (size_t)s->key_dim * sizeof *key);
        key[0] = (float)(sink * sqrt(1 - sink_share * sink_share) / (deviation * sink_share));
    }
    if (value) worded(s->value_dim, &all, &word, &state, value_shares, value);
}

static void concentrated_query(const mka_bench_kv_shape *s, int head, int index, float *q) {
    double deviation, sink, length = 0;
    concentration_of(s, head / (s->heads / s->kv_heads), &deviation, &sink);
    uint64_t state = seed_of(1 << 20 | head, index);
    for (int i = 1; i < s->key_dim; i++) {
        q[i] = normal(&state);
        length += (double)q[i] * (double)q[i];
    }
    double scale = deviation * sqrt((double)s->key_dim);
    for (int i = 1; i < s->key_dim; i++) q[i] *= (float)(scale / sqrt(length));
    q[0] = (float)(scale * sink_share / sqrt(1 - sink_share * sink_share));
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
            concentrated_row(s, (int)h, first + (int)i, keys + (i * heads + h) * (size_t)s->key_dim,
                             values ? values + (i * heads + h) * (size_t)s->value_dim : NULL);
}

void mka_bench_kv_queries(mka_bench_kv *kv, const mka_bench_kv_shape *s, int n, float *q) {
    size_t heads = (size_t)s->heads;
    if (kv->source != MKA_BENCH_CONCENTRATED) {
        random_floats(&kv->state, (size_t)n * heads * (size_t)s->key_dim, q);
        return;
    }
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t h = 0; h < heads; h++) concentrated_query(s, (int)h, (int)i, q + (i * heads + h) * (size_t)s->key_dim);
}

/* ---- how concentrated it came out ---- */

static int by_size_down(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static float distance(int n, const float *a, const float *b) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

/* Half the mean squared distance of a key to its nearest among 2,048 neighbours in the text, over the variance of keys. */
static int measure_scatter(const mka_bench_kv_shape *s, int head, double *scatter) {
    enum { TOKENS = 2048 };
    size_t dim = (size_t)s->key_dim;
    float *x = malloc(TOKENS * dim * sizeof *x);
    double squares = 0, distances = 0; /* keys have the mean zero */
    if (x == NULL) return mka_cli_error("out of memory");
    for (int t = 0; t < TOKENS; t++) concentrated_row(s, head, s->context + t, x + (size_t)t * dim, NULL);
    for (size_t t = 0; t < TOKENS; t++) {
        float least = INFINITY;
        for (size_t o = 0; o < TOKENS; o++) {
            float far = o == t ? INFINITY : distance(s->key_dim, x + t * dim, x + o * dim);
            if (far < least) least = far;
        }
        distances += 0.5 * (double)least;
        for (size_t i = 0; i < dim; i++) squares += (double)(x[t * dim + i] * x[t * dim + i]);
    }
    *scatter = distances / squares;
    free(x);
    return 0;
}

int mka_bench_kv_measure(const mka_bench_kv_shape *s, int head, const float *q, mka_bench_concentration *c) {
    size_t n = (size_t)s->context, count = 0;
    double *weights = malloc(n * sizeof *weights), most = -INFINITY, all = 0, far = 0, left;
    float *key = malloc((size_t)s->key_dim * sizeof *key);
    if (weights == NULL || key == NULL) {
        free(weights);
        free(key);
        return mka_cli_error("out of memory");
    }
    for (size_t t = 0; t < n; t++) {
        double sum = 0;
        concentrated_row(s, head, (int)t, key, NULL);
        for (size_t i = 0; i < (size_t)s->key_dim; i++) sum += (double)(q[i] * key[i]);
        weights[t] = sum / sqrt((double)s->key_dim);
        most = fmax(most, weights[t]);
    }
    for (size_t t = 0; t < n; t++) {
        double weight = exp(weights[t] - most);
        all += weight;
        if (t < SINKS || t + WINDOW >= n) continue;
        far += weight;
        weights[count++] = weight;
    }
    qsort(weights, count, sizeof *weights, by_size_down);
    left = far;
    c->long_mass = far / all;
    for (c->tokens = 0; (size_t)c->tokens < count && left > 0.02 * all; c->tokens++) left -= weights[c->tokens];
    free(weights);
    free(key);
    return measure_scatter(s, head, &c->scatter);
}
