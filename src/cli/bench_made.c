/* bench_made - see bench_made.h.
 *
 * Made after the keys of SmolLM2 (30 layers, 7,680 tokens of a novel) and Gemma 3 (its 3 layers that see all tokens, at 8,192 to
 * 31,808), each layer counting alike:
 *
 *   - Scores of a query are near to normal over the long-term tokens. A kind of head is the share of the mass that goes to them,
 *     and how many of them it takes to leave less than 2 % of the mass unread: medians of the quarters of all (layer, head,
 *     query), ordered by these tokens. The deviation of scores is what makes it take so many, which is looked for.
 *   - In longer texts both grow: the odds of the mass as the cube root of the length (exponents of 0.1 to 0.5), the tokens with
 *     an exponent of 0.7 (0.5 to 0.9). Where the mass is below 2 % no token is needed, and the deviation grows by 0.2 for each
 *     doubling, as measured.
 *   - The rest of the deviation is between stretches of the text: blocks of 1,024 tokens account for 0.2 to 0.4 of the variance
 *     of scores at 8K, for 0.44 at 32K, and for 0.05 to 0.2 of that of keys. Within blocks it grows by little. So a number of a
 *     key is its block's.
 *   - Scores of the queries of one group correlate by 0.71 (SmolLM2) and 0.63 (Gemma 3).
 *   - So do the queries of one head: the cosine of neighbours is 0.82, of those 2, 4, 8, 16 and 32 apart 0.77, 0.73, 0.70, 0.67
 *     and 0.64 (SmolLM2; Gemma 3 within 0.01).
 *   - Keys and values of the same word are alike: half the mean squared distance of a key to its nearest within 2,048 tokens is
 *     0.23 of the variance, that of values 0.23, and the values' mean has 0.05 to 0.37 of their squares. So a token has a word,
 *     by Zipf's law over a vocabulary, whose vector and numbers of the token's own make up key and value; all of them are normal.
 *
 * Token 0 has a number of its own that draws the mass which is left over. What came out is measured and printed. */
#include "bench_made.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* Where REFERENCE tokens are long-term ones; deviation: of kinds that need no token. */
static const struct {
    double mass, tokens, deviation;
} references[MKA_BENCH_KINDS] = {{0.305, 1116, 0}, {0.2, 281, 0}, {0.11, 55, 0}, {0.009, 0, 4.1}};
enum { SINKS = 64, WINDOW = 1024, REFERENCE = 7104 };
enum { VOCABULARY = 4096, STRETCH = 1024, SAMPLES = 65536, SPREAD = 16384, WIDEST = 8, MOST_DIM = 2048 };
static const double growth_of_odds = 1.0 / 3, growth_of_tokens = 0.7,
                    growth_of_deviation = 0.2; /* exponents; for each doubling */
static const double within_share = 0.8;        /* of the variance of scores at the reference */
static const double stretch_share = 0.1;       /* of the variance of keys */
static const double group_share = 0.65;        /* of a query's variance, what its group has in common */
static const double query_shares[3] = {0.64, 0.20, 0.16}, query_keeps = 0.85; /* of a query's variance, between neighbours */
enum { APART = 1 << 16 };                                                     /* from a query's number to that of what wanders */
static const float key_shares[3] = {0.0F, 0.9F, 0.1F}, value_shares[3] = {0.12F, 0.79F, 0.09F};

/* Normal, variance 1: the sum of four uniform numbers of 16 bits, which is near enough and quick. */
static float normal(uint64_t *state) {
    uint64_t u = mka_bench_next(state);
    u ^= u >> 29;
    int sum = (int)(u & 0xffff) + (int)(u >> 16 & 0xffff) + (int)(u >> 32 & 0xffff) + (int)(u >> 48);
    return (float)(sum - 2 * 65535) * (1.7320508F / 65536.0F);
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

/* A normal number of a token's stretch. */
static double stretch_of(int kv_head, int token) {
    uint64_t state = seed_of(1 << 24 | kv_head, token / STRETCH);
    return (double)normal(&state);
}

/* The deviation of the number that a key has of it, where others have 1. */
static double stretch_deviation(const mka_bench_kv_shape *s) {
    return sqrt(stretch_share / (1 - stretch_share) * s->key_dim);
}

/* Number 0 of a key is the sink's, where token 0 alone has something; number 1 is its stretch's. */
static void worded_row(const mka_bench_kv_shape *s, int kv_head, int token, float *key, float *value) {
    uint64_t state = seed_of(kv_head, token), word = seed_of(1 << 22 | kv_head, word_of(token)), all = seed_of(1 << 23, kv_head);
    worded(s->key_dim, &all, &word, &state, key_shares, key);
    key[0] = 0;
    key[1] = (float)(stretch_deviation(s) * stretch_of(kv_head, token));
    if (value) worded(s->value_dim, &all, &word, &state, value_shares, value);
}

/* The queries of a group have a direction in common. */
static void made_query(const mka_bench_kv_shape *s, int head, int index, float *q) {
    int kv_head = head / (s->heads / s->kv_heads);
    mka_bench_kind c = s->kinds[kv_head % MKA_BENCH_KINDS];
    double root = sqrt((double)s->key_dim), length = 0;
    uint64_t common = seed_of(1 << 25 | kv_head, index), own = seed_of(1 << 20 | head, index);
    for (int i = 2; i < s->key_dim; i++) {
        q[i] = (float)sqrt(group_share) * normal(&common) + (float)sqrt(1 - group_share) * normal(&own);
        length += (double)q[i] * (double)q[i];
    }
    for (int i = 2; i < s->key_dim; i++) q[i] *= (float)(c.within * root / sqrt(length));
    q[0] = (float)root;
    q[1] = (float)(c.between * root / stretch_deviation(s));
}

/* Makes query number index of a head, which is to follow number index - 1, like those before it: of its direction some is that of
 * query 0, some wanders from query to query and is kept in wander, and the rest is its own. */
static void make_alike(const mka_bench_kv_shape *s, int head, int index, float *wander, float *q) {
    float first[MOST_DIM], step[MOST_DIM];
    double length = 0, now = 0;
    made_query(s, head, 0, first);
    made_query(s, head, index + APART, step);
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
    double mass = s->kinds[kv_head % MKA_BENCH_KINDS].mass, score = 0;
    int group = s->heads / s->kv_heads, near = s->context > 2 * (SINKS + WINDOW) ? s->context - WINDOW : SINKS;
    float q[MOST_DIM], key[MOST_DIM];
    for (int i = 0; i < group; i++) {
        made_query(s, kv_head * group + i, 0, q);
        double far = sum_of(s, kv_head, q, SINKS, near > SINKS ? near : s->context, key);
        double rest = far * (1 - mass) / mass - sum_of(s, kv_head, q, near, s->context, key);
        score += log(fmax(rest, 1e-3 * far) + 1e-30) / group;
    }
    return score;
}

void mka_bench_made_row(const mka_bench_kv_shape *s, int kv_head, int token, float *key, float *value) {
    worded_row(s, kv_head, token, key, value);
    if (token > 0) return;
    memset(key, 0, (size_t)s->key_dim * sizeof *key);
    key[0] = (float)sink_score(s, kv_head);
}

void mka_bench_made_queries(const mka_bench_kv_shape *s, int head, int n, float *q, int stride) {
    float wander[MOST_DIM];
    for (int i = 0; i < n; i++) {
        made_query(s, head, i, q + (size_t)i * (size_t)stride);
        make_alike(s, head, i, wander, q + (size_t)i * (size_t)stride);
    }
}

/* ---- the kinds ---- */

/* Of the long-term tokens of a text, or some of them: their scores by the first query of each head of a group, apart from how
 * wide they spread. */
typedef struct spread {
    int count, step, rows; /* every step-th token */
    float *within;         /* [rows][count] scores of deviation 1 within stretches */
    float *between;        /* [count] numbers of stretches */
} spread;

static double longer_than_reference(const mka_bench_kv_shape *s) {
    return (s->context > 2 * (SINKS + WINDOW) ? s->context - SINKS - WINDOW : SINKS + WINDOW) / (double)REFERENCE;
}

static int open_spread(const mka_bench_kv_shape *s, int kv_head, int tokens, spread *d) {
    mka_bench_kv_shape unit = *s;
    float q[MOST_DIM], key[MOST_DIM];
    d->step = tokens / SPREAD + 1;
    d->count = tokens / d->step;
    d->rows = s->heads / s->kv_heads;
    d->within = malloc((size_t)d->count * (size_t)(d->rows + 1) * sizeof *d->within);
    if (d->within == NULL) return mka_cli_error("out of memory");
    d->between = d->within + (size_t)d->count * (size_t)d->rows;
    unit.kinds[kv_head % MKA_BENCH_KINDS] = (mka_bench_kind){.within = 1};
    for (int t = 0; t < d->count; t++) d->between[t] = (float)stretch_of(kv_head, SINKS + t * d->step);
    for (int t = 0; t < d->count; t++) {
        worded_row(s, kv_head, SINKS + t * d->step, key, NULL);
        for (int i = 0; i < d->rows; i++) {
            made_query(&unit, kv_head * d->rows + i, 0, q);
            q[0] = q[1] = 0;
            d->within[(size_t)i * (size_t)d->count + (size_t)t] = (float)score_of(s, q, key);
        }
    }
    return 0;
}

static double score_in(const spread *d, int row, int token, mka_bench_kind kind) {
    size_t at = (size_t)row * (size_t)d->count + (size_t)token;
    return kind.within * (double)d->within[at] + kind.between * (double)d->between[token];
}

/* How many tokens of a row leave less than 2 % of all mass unread, where they have that share of it. */
static double tokens_needed(const spread *d, int row, mka_bench_kind kind) {
    enum { BINS = 4096 };
    double sums[BINS] = {0}, counts[BINS] = {0}, most = -INFINITY, far = 0, needed = 0;
    for (int t = 0; t < d->count; t++) {
        double score = score_in(d, row, t, kind);
        if (score > most) most = score;
    }
    for (int t = 0; t < d->count; t++) {
        double below = most - score_in(d, row, t, kind), weight = exp(-below);
        int bin = below * 64 < BINS - 1 ? (int)(below * 64) : BINS - 1;
        sums[bin] += weight;
        counts[bin] += d->step;
        far += weight;
    }
    double left = far;
    for (int bin = 0; bin < BINS && left > 0.02 * far / kind.mass; bin++) {
        left -= sums[bin];
        needed += counts[bin];
    }
    return needed;
}

/* The geometric mean over the rows. */
static double tokens_needed_by_all(const spread *d, mka_bench_kind kind) {
    double sum = 0;
    for (int i = 0; i < d->rows; i++) sum += log(1 + tokens_needed(d, i, kind));
    return exp(sum / d->rows);
}

/* The kind base + x direction that needs so many tokens: the wider scores spread, the fewer. */
static mka_bench_kind kind_needing(const spread *d, double tokens, mka_bench_kind base, mka_bench_kind direction) {
    double low = 0, high = WIDEST;
    mka_bench_kind kind = base;
    for (int i = 0; i < 24; i++) {
        double x = (low + high) / 2;
        kind.within = base.within + x * direction.within;
        kind.between = base.between + x * direction.between;
        if (tokens_needed_by_all(d, kind) > tokens)
            low = x;
        else
            high = x;
    }
    return kind;
}

static int settle_kind(mka_bench_kv_shape *s, int index) {
    double longer = longer_than_reference(s), odds = references[index].mass / (1 - references[index].mass);
    double mass = pow(longer, growth_of_odds) * odds / (1 + pow(longer, growth_of_odds) * odds);
    mka_bench_kind kind = {references[index].mass, sqrt(within_share), sqrt(1 - within_share)}, none = {.mass = kind.mass};
    spread d;
    if (references[index].tokens == 0) {
        double within = references[index].deviation * kind.within;
        double deviation = references[index].deviation + growth_of_deviation * log2(longer);
        s->kinds[index] = (mka_bench_kind){mass, within, sqrt(fmax(deviation * deviation - within * within, 0))};
        return 0;
    }
    int status = open_spread(s, index, REFERENCE, &d);
    if (status != 0) return status;
    kind = kind_needing(&d, references[index].tokens, none, kind);
    free(d.within);
    status = open_spread(s, index, (int)(longer * REFERENCE), &d);
    if (status != 0) return status;
    s->kinds[index] = kind_needing(&d, references[index].tokens * pow(longer, growth_of_tokens),
                                   (mka_bench_kind){.mass = mass, .within = kind.within}, (mka_bench_kind){.between = 1});
    free(d.within);
    return 0;
}

int mka_bench_made_settle(mka_bench_kv_shape *shape) {
    int status = 0;
    for (int i = 0; i < MKA_BENCH_KINDS && i < shape->kv_heads && status == 0; i++) status = settle_kind(shape, i);
    return status;
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

int mka_bench_made_measure(const mka_bench_kv_shape *s, int head, const float *q, mka_bench_concentration *c) {
    size_t n = (size_t)s->context, count = 0;
    double *weights = malloc(n * sizeof *weights), most = -INFINITY, all = 0, far = 0, left;
    float *key = malloc((size_t)s->key_dim * sizeof *key);
    if (weights == NULL || key == NULL) {
        free(weights);
        free(key);
        return mka_cli_error("out of memory");
    }
    for (size_t t = 0; t < n; t++) {
        mka_bench_made_row(s, head, (int)t, key, NULL);
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
