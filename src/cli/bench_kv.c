/* bench_kv - see bench_kv.h.
 *
 * Concentrated: made after the keys of SmolLM2 (30 layers, 7,680 tokens of a novel) and Gemma 3 (its 3 layers that see all
 * tokens, at 8,192 to 31,808), each layer counting alike:
 *
 *   - The scores of a query are near to normal over the long-term tokens. A kind of head is the share of the mass that goes to
 *     them and the deviation of scores: medians of the quarters of all (layer, head, query), ordered by how many tokens it takes
 *     to leave less than 2 % of the mass unread. For 8K these are 1,116, 281, 55 and 0 tokens, which the deviations give.
 *   - In longer texts both grow: the odds of the mass as the cube root of the length (exponents of 0.1 to 0.5), the deviation by
 *     0.2 for each doubling, so that tokens grow about as the square root to two thirds of the length (measured 0.5 to 0.9).
 *   - That growth is between stretches of the text: blocks of 1,024 tokens account for 0.2 to 0.4 of the variance of scores at
 * 8K, for 0.44 at 32K, and for 0.05 to 0.2 of that of keys. Within blocks it grows by little. So a number of a key is its
 * block's.
 *   - Scores of the queries of one group correlate by 0.71 (SmolLM2) and 0.63 (Gemma 3).
 *   - So do the queries of one head: the cosine of neighbours is 0.82, of those 2, 4, 8, 16 and 32 apart 0.77, 0.73, 0.70, 0.67
 *     and 0.64 (SmolLM2; Gemma 3 within 0.01).
 *   - Keys and values of the same word are alike: half the mean squared distance of a key to its nearest within 2,048 tokens is
 *     0.23 of the variance, that of values 0.23, and the values' mean has 0.05 to 0.37 of their squares. So a token has a word,
 * by Zipf's law over a vocabulary, whose vector and numbers of the token's own make up key and value; all of them are normal.
 *
 * Token 0 has a number of its own that draws the mass which is left over. What came out is measured and printed. */
#include "bench_kv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Key/value head h is of kind h % KINDS: long mass and deviation of scores where REFERENCE tokens are long-term ones. */
static const struct { double mass, deviation; } kinds[] = {{0.305, 2.52}, {0.2, 3.04}, {0.11, 3.33}, {0.009, 4.1}};
enum { KINDS = sizeof kinds / sizeof *kinds, SINKS = 64, WINDOW = 1024, REFERENCE = 7104 };
enum { VOCABULARY = 4096, STRETCH = 1024, SAMPLES = 65536, MOST_DIM = 2048 };
static const double growth_of_odds = 1.0 / 3, growth_of_deviation = 0.2; /* exponent; for each doubling */
static const double within_share = 0.8;                                  /* of the variance of scores at the reference */
static const double stretch_share = 0.1;                                 /* of the variance of keys */
static const double group_share = 0.65;                                  /* of a query's variance, what its group has in common */
static const double query_shares[3] = {0.64, 0.20, 0.16}, query_keeps = 0.85; /* of a query's variance, between neighbours */
enum { APART = 1 << 16 };                                                     /* from a query's number to that of what wanders */
static const float key_shares[3] = {0.0F, 0.9F, 0.1F}, value_shares[3] = {0.12F, 0.79F, 0.09F};

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

/* ---- concentrated ---- */

/* Of a kind of head in a text of this length: share of the mass, deviation of scores within stretches and between them. */
typedef struct concentration {
    double mass, within, between;
} concentration;

static concentration concentration_of(const mka_bench_kv_shape *s, int kv_head) {
    double mass = kinds[kv_head % KINDS].mass, deviation = kinds[kv_head % KINDS].deviation;
    double longer = (s->context > 2 * (SINKS + WINDOW) ? s->context - SINKS - WINDOW : SINKS + WINDOW) / (double)REFERENCE;
    double odds = mass / (1 - mass) * pow(longer, growth_of_odds), within = deviation * sqrt(within_share);
    deviation += growth_of_deviation * log2(longer);
    return (concentration){odds / (1 + odds), within, sqrt(fmax(deviation * deviation - within * within, 0))};
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

/* A key's number of its stretch, against the deviation 1 of the others. */
static double stretch_number(const mka_bench_kv_shape *s, int kv_head, int token) {
    uint64_t state = seed_of(1 << 24 | kv_head, token / STRETCH);
    return sqrt(stretch_share / (1 - stretch_share) * s->key_dim) * (double)normal(&state);
}

/* Number 0 of a key is the sink's, where token 0 alone has something; number 1 is its stretch's. */
static void worded_row(const mka_bench_kv_shape *s, int kv_head, int token, float *key, float *value) {
    uint64_t state = seed_of(kv_head, token), word = seed_of(1 << 22 | kv_head, word_of(token)), all = seed_of(1 << 23, kv_head);
    worded(s->key_dim, &all, &word, &state, key_shares, key);
    key[0] = 0;
    key[1] = (float)stretch_number(s, kv_head, token);
    if (value) worded(s->value_dim, &all, &word, &state, value_shares, value);
}

/* The queries of a group have a direction in common. */
static void concentrated_query(const mka_bench_kv_shape *s, int head, int index, float *q) {
    int kv_head = head / (s->heads / s->kv_heads);
    concentration c = concentration_of(s, kv_head);
    double root = sqrt((double)s->key_dim), length = 0;
    uint64_t common = seed_of(1 << 25 | kv_head, index), own = seed_of(1 << 20 | head, index);
    for (int i = 2; i < s->key_dim; i++) {
        q[i] = (float)sqrt(group_share) * normal(&common) + (float)sqrt(1 - group_share) * normal(&own);
        length += (double)q[i] * (double)q[i];
    }
    for (int i = 2; i < s->key_dim; i++) q[i] *= (float)(c.within * root / sqrt(length));
    q[0] = (float)root;
    q[1] = (float)(c.between * root / sqrt(stretch_share / (1 - stretch_share) * s->key_dim));
}

/* Makes query number index of a head, which is to follow number index - 1, like those before it: of its direction some is that of
 * query 0, some wanders from query to query and is kept in wander, and the rest is its own. */
static void make_alike(const mka_bench_kv_shape *s, int head, int index, float *wander, float *q) {
    float first[MOST_DIM], step[MOST_DIM];
    double length = 0, now = 0;
    concentrated_query(s, head, 0, first);
    concentrated_query(s, head, index + APART, step);
    for (int i = 2; i < s->key_dim; i++) {
        wander[i] = index > 0 ? (float)query_keeps * wander[i] + (float)sqrt(1 - query_keeps * query_keeps) * step[i] : step[i];
        length += (double)(q[i] * q[i]);
        if (index > 0)
            q[i] = (float)sqrt(query_shares[0]) * first[i] + (float)sqrt(query_shares[1]) * wander[i] +
                   (float)sqrt(query_shares[2]) * q[i];
        now += (double)(q[i] * q[i]);
    }
    for (int i = 2; i < s->key_dim; i++) q[i] *= (float)sqrt(length / now);
}

static double score_of(const mka_bench_kv_shape *s, const float *q, const float *key) {
    float lane[8] = {0};
    int i = 0;
    for (; i + 8 <= s->key_dim; i += 8)
        for (int k = 0; k < 8; k++) lane[k] += q[i + k] * key[i + k];
    for (; i < s->key_dim; i++) lane[0] += q[i] * key[i];
    float sum = ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
    return (double)sum / sqrt((double)s->key_dim);
}

/* Sum of exp(score) over tokens from..to - 1, some of them standing for all; the reference is the score 0. */
static double sum_of(const mka_bench_kv_shape *s, int kv_head, const float *q, int from, int to, float *key) {
    int step = (to - from) / SAMPLES + 1, count = 0;
    double sum = 0;
    for (int t = from; t < to; t += step, count++) {
        worded_row(s, kv_head, t, key, NULL);
        sum += exp(score_of(s, q, key));
    }
    return count > 0 ? sum * (to - from) / count : 0;
}

/* The score of token 0 that leaves the long-term tokens their share of the mass, the first query of each head counting alike. */
static double sink_score(const mka_bench_kv_shape *s, int kv_head) {
    double mass = concentration_of(s, kv_head).mass, score = 0;
    int group = s->heads / s->kv_heads, near = s->context > 2 * (SINKS + WINDOW) ? s->context - WINDOW : SINKS;
    float q[MOST_DIM], key[MOST_DIM];
    for (int i = 0; i < group; i++) {
        concentrated_query(s, kv_head * group + i, 0, q);
        double far = sum_of(s, kv_head, q, SINKS, near > SINKS ? near : s->context, key);
        double rest = far * (1 - mass) / mass - sum_of(s, kv_head, q, near, s->context, key);
        score += log(fmax(rest, 1e-3 * far) + 1e-30) / group;
    }
    return score;
}

static void concentrated_row(const mka_bench_kv_shape *s, int kv_head, int token, float *key, float *value) {
    worded_row(s, kv_head, token, key, value);
    if (token > 0) return;
    memset(key, 0, (size_t)s->key_dim * sizeof *key);
    key[0] = (float)sink_score(s, kv_head);
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
    float wander[MOST_DIM];
    if (kv->source != MKA_BENCH_CONCENTRATED) {
        random_floats(&kv->state, (size_t)n * heads * (size_t)s->key_dim, q);
        return;
    }
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < (size_t)n; i++) {
            float *one = q + (i * heads + h) * (size_t)s->key_dim;
            concentrated_query(s, (int)h, (int)i, one);
            make_alike(s, (int)h, (int)i, wander, one);
        }
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

enum { NEIGHBOURS = 2048 };

/* Half the mean squared distance of a row to its nearest, over the variance of rows; x [NEIGHBOURS][dim]. */
static double scatter_of(size_t dim, const float *x) {
    double squares = 0, distances = 0, means = 0;
    for (size_t t = 0; t < NEIGHBOURS; t++) {
        float least = INFINITY;
        for (size_t o = 0; o < NEIGHBOURS; o++) {
            float far = o == t ? INFINITY : distance((int)dim, x + t * dim, x + o * dim);
            if (far < least) least = far;
        }
        distances += 0.5 * (double)least;
    }
    for (size_t i = 0; i < dim; i++) {
        double sum = 0;
        for (size_t t = 0; t < NEIGHBOURS; t++) {
            sum += (double)x[t * dim + i];
            squares += (double)(x[t * dim + i] * x[t * dim + i]);
        }
        means += sum * sum / NEIGHBOURS;
    }
    return distances / (squares - means);
}

/* Of keys and values among their neighbours in the text. */
static int measure_scatter(const mka_bench_kv_shape *s, int head, mka_bench_concentration *c) {
    size_t key = (size_t)s->key_dim, value = (size_t)s->value_dim;
    float *x = malloc(NEIGHBOURS * (key + value) * sizeof *x), *values = x + NEIGHBOURS * key;
    if (x == NULL) return mka_cli_error("out of memory");
    for (int t = 0; t < NEIGHBOURS; t++) worded_row(s, head, s->context + t, x + (size_t)t * key, values + (size_t)t * value);
    c->scatter = scatter_of(key, x);
    c->value_scatter = scatter_of(value, values);
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
        concentrated_row(s, head, (int)t, key, NULL);
        weights[t] = score_of(s, q, key);
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
    return measure_scatter(s, head, c);
}
