/* test_kernels_cache - the tiles of an attention cache at every level of this CPU: tokens go in and come back, scores and mixes
 * agree with double arithmetic on what the tiles stand for, and attention put together from them with one softmax. */
#include "harness.h"

static const mka_type types[] = {MKA_F32, MKA_F16, MKA_BF16, MKA_Q8_0, MKA_Q4_0};

static mka_type random_type(void) {
    return types[random_int(0, 4)];
}

static void random_shape(int *r, int *d, int *n) {
    *r = random_int(0, 3) ? random_int(1, 9) : random_int(10, 50);
    *d = random_int(0, 2) ? 32 * random_int(1, 8) : random_int(0, 9) ? random_int(1, 150) : random_int(500, 600);
    *n = random_int(0, 3) ? random_int(1, 70) : random_int(71, 300);
}

/* Tiles for n tokens, aligned as a cache's are; the last buffer of the case, so that it is freed by hand. */
static unsigned char *tiles_of(size_t tile, int n) {
    size_t bytes = (size_t)((n + MKA_TILE - 1) / MKA_TILE) * tile;
    assert_int_equal(tile % 64, 0);
    unsigned char *tiles = aligned_alloc(64, bytes);
    assert_non_null(tiles);
    memset(tiles, 0, bytes);
    return tiles;
}

typedef void put_fn(mka_type type, mka_store_fn *convert, int d, const float *x, void *tile, int slot);
typedef void get_fn(mka_type type, int d, const void *tile, int slot, float *x);

/* n random tokens; as_float [n][d] gets what they are stored as. */
static unsigned char *random_tiles(mka_type type, int keys, int n, int d, float *as_float) {
    size_t tile = keys ? mka_key_tile_bytes(type, d) : mka_value_tile_bytes(type, d);
    unsigned char *tiles = tiles_of(tile, n);
    put_fn *put = keys ? mka_put_key : mka_put_value;
    get_fn *get = keys ? mka_get_key : mka_get_value;
    for (int t = 0; t < n; t++) fill(d, as_float + (size_t)t * (size_t)d, PLAIN);
    for (int t = n - 1; t >= 0; t--)
        put(type, scalar()->store[type], d, as_float + (size_t)t * (size_t)d, tiles + (size_t)(t / MKA_TILE) * tile,
            t % MKA_TILE);
    for (int t = 0; t < n; t++)
        get(type, d, tiles + (size_t)(t / MKA_TILE) * tile, t % MKA_TILE, as_float + (size_t)t * (size_t)d);
    return tiles;
}

/* What a type may lose of a row whose largest magnitude is most. */
static double storage_error(mka_type type, double most) {
    switch ((int)type) {
    case MKA_F16:
        return most * 0x1p-11;
    case MKA_BF16:
        return most * 0x1p-8;
    case MKA_Q8_0:
        return most / 127 * 0.51;
    case MKA_Q4_0:
        return most / 7 * 0.51;
    default:
        return 0;
    }
}

/* Every slot of two tiles, in a random order, with overwriting; both kinds. */
static void check_put(const mka_kernels *k) {
    int d = random_int(1, 200), keys = random_int(0, 1);
    mka_type type = random_type();
    case_is("%s put %s %s d=%d", k->level, keys ? "key" : "value", mka_type_name(type), d);
    size_t tile = keys ? mka_key_tile_bytes(type, d) : mka_value_tile_bytes(type, d);
    unsigned char *tiles = tiles_of(tile, 2 * MKA_TILE);
    float *x = random_floats(2 * MKA_TILE * d, PLAIN), *y = floats(d);
    for (int turn = 0; turn < 300; turn++) {
        int t = turn < 2 * MKA_TILE ? turn : random_int(0, 2 * MKA_TILE - 1);
        if (turn >= 2 * MKA_TILE) fill(d, x + t * d, PLAIN);
        (keys ? mka_put_key : mka_put_value)(type, k->store[type], d, x + t * d, tiles + (size_t)(t / MKA_TILE) * tile,
                                             t % MKA_TILE);
    }
    for (int t = 0; t < 2 * MKA_TILE; t++) {
        double most = 0;
        for (int e = 0; e < d; e++) most = fmax(most, fabs((double)x[t * d + e]));
        (keys ? mka_get_key : mka_get_value)(type, d, tiles + (size_t)(t / MKA_TILE) * tile, t % MKA_TILE, y);
        for (int e = 0; e < d; e++) near_value("x", t * d + e, y[e], (double)x[t * d + e], storage_error(type, most));
    }
    free(tiles);
    release();
}

/* What a score may be off by: its own roundings, and those of q to the unit of the type. */
static double score_error(mka_type type, int r, int d, const float *q, const float *key) {
    double sum = 0, groups = 0;
    for (int g = 0; g < d; g += MKA_KEY_GROUP) {
        double most = 0, magnitude = 0;
        for (int e = g; e < d && e < g + MKA_KEY_GROUP; e++) {
            most = fmax(most, fabs((double)q[e]));
            magnitude += fabs((double)key[e]);
            sum += fabs((double)q[e] * key[e]);
        }
        groups += most * magnitude;
    }
    double own = (d / 4 + 8) * EPS * sum;
    if (type == MKA_BF16) return own + 0x1p-8 * sum;
    if (type == MKA_F16 && r >= 16) return own + 0x1p-7 * sum;
    if (type == MKA_Q8_0 || type == MKA_Q4_0) return own + groups / 253;
    return own;
}

static void check_score(const mka_kernels *k) {
    int r, d, n;
    random_shape(&r, &d, &n);
    mka_type type = random_type();
    int lds = mka_pad(n, MKA_HALF) + random_int(0, 5);
    float scale = 0.125f;
    case_is("%s score %s r=%d d=%d n=%d lds=%d", k->level, mka_type_name(type), r, d, n, lds);
    float *q = random_floats(r * d, PLAIN), *x = floats(n * d), *s = floats(r * lds);
    unsigned char *keys = random_tiles(type, 1, n, d, x);
    k->score[type](r, d, n, q, keys, scale, s, lds);
    for (int i = 0; i < r; i++)
        for (int t = 0; t < n; t++) {
            double sum = 0;
            for (int e = 0; e < d; e++) sum += (double)q[i * d + e] * x[t * d + e];
            near_value("s", i * lds + t, s[i * lds + t], sum * scale, scale * score_error(type, r, d, q + i * d, x + t * d));
        }
    free(keys);
    release();
}

/* Weights as attention has them: none negative, many small, a few large. */
static void random_weights(int n, float *s) {
    int sharp = random_int(0, 2);
    for (int t = 0; t < n; t++) s[t] = expf((sharp == 0 ? 1.0f : sharp == 1 ? 4.0f : 12.0f) * (random_unit() - 1.0f));
    if (n > 0 && random_int(0, 3) == 0) s[random_int(0, n - 1)] = 0;
}

static void check_mix(const mka_kernels *k) {
    int r, d, n;
    random_shape(&r, &d, &n);
    mka_type type = random_type();
    int lds = n + random_int(0, 5), quant = type == MKA_Q8_0 || type == MKA_Q4_0;
    case_is("%s mix %s r=%d d=%d n=%d lds=%d", k->level, mka_type_name(type), r, d, n, lds);
    float *s = floats(r * lds), *x = floats(n * d), *c = random_floats(r, PLAIN), *acc = random_floats(r * d, PLAIN);
    for (int i = 0; i < r; i++) random_weights(n, s + i * lds);
    float *was = copy_floats(r * d, acc);
    unsigned char *values = random_tiles(type, 0, n, d, x);
    k->mix[type](r, d, n, s, lds, values, c, acc);
    for (int i = 0; i < r; i++) {
        double most = 0, all = 0; /* of weight times the token's largest value */
        for (int t = 0; t < n; t++) {
            double largest = 0;
            for (int e = 0; e < d; e++) largest = fmax(largest, fabs((double)x[t * d + e]));
            most = fmax(most, s[i * lds + t] * largest);
            all += s[i * lds + t] * largest;
        }
        for (int e = 0; e < d; e++) {
            double sum = (double)c[i] * was[i * d + e], magnitude = fabs(sum);
            for (int t = 0; t < n; t++) {
                double p = (double)s[i * lds + t] * x[t * d + e];
                sum += p, magnitude += fabs(p);
            }
            double slack = (n + 4) * EPS * magnitude + (type == MKA_BF16             ? 0x1p-8 * magnitude
                                                        : type == MKA_F16 && r >= 16 ? 0x1p-7 * magnitude
                                                                                     : 0);
            /* Roundings of weights are random: their sum is far below n times the largest. What is lost must stay small
             * against what is summed, too, which is what many small weights beside a large one are about. */
            if (quant) slack += fmin(most * n / 255, 6 * most * sqrt((double)n) / 255 + 0.01 * all);
            near_value("acc", i * d + e, acc[i * d + e], sum, slack);
        }
    }
    free(values);
    release();
}

/* A row with one large weight and many that are small beside it: their mass, together, may not vanish. */
static void check_small_weights(const mka_kernels *k) {
    int d = 32 * random_int(1, 4), n = 250, r = random_int(1, 8);
    mka_type type = random_int(0, 1) ? MKA_Q8_0 : MKA_Q4_0;
    case_is("%s small weights %s d=%d r=%d", k->level, mka_type_name(type), d, r);
    float *s = floats(r * n), *c = floats(r), *acc = floats(r * d), *x = floats(d);
    size_t tile = mka_value_tile_bytes(type, d);
    unsigned char *values = tiles_of(tile, n);
    for (int e = 0; e < d; e++) x[e] = 1.0f;
    for (int t = 0; t < n; t++) mka_put_value(type, NULL, d, x, values + (size_t)(t / MKA_TILE) * tile, t % MKA_TILE);
    for (int i = 0; i < r; i++) {
        c[i] = 1;
        for (int t = 0; t < n; t++) s[i * n + t] = t == 17 ? 1.0f : 0.0015f;
        for (int e = 0; e < d; e++) acc[i * d + e] = 0;
    }
    k->mix[type](r, d, n, s, n, values, c, acc);
    for (int i = 0; i < r * d; i++) near_value("acc", i, acc[i], 1 + 0.0015 * (n - 1), 0.01);
    free(values);
    release();
}

/* Attention over all keys in blocks, against one softmax in double; some keys are masked, some scores are huge. */
static void check_attention(const mka_kernels *k) {
    int r = random_int(1, 6), d = 16 * random_int(1, 8), n = random_int(1, 120), block = 32 * random_int(1, 3);
    mka_type type = types[random_int(0, 1)];
    float scale = random_int(0, 3) ? 0.2f : 3000.0f;
    case_is("%s attention %s r=%d d=%d n=%d block=%d scale=%g", k->level, mka_type_name(type), r, d, n, block, (double)scale);
    float *q = random_floats(r * d, PLAIN), *kf = floats(n * d), *vf = floats(n * d), *s = floats(r * block);
    float *m = floats(r), *z = floats(r), *c = floats(r), *acc = floats(r * d);
    unsigned char *keys = random_tiles(type, 1, n, d, kf), *values = random_tiles(type, 0, n, d, vf);
    char *masked = buffer((size_t)n, 1);
    for (int t = 0; t < n; t++) masked[t] = random_int(0, 2) == 0;
    masked[n - 1] = 0;
    for (int i = 0; i < r; i++) m[i] = -INFINITY, z[i] = 0;
    memset(acc, 0, (size_t)(r * d) * sizeof *acc);
    for (int t = 0; t < n; t += block) {
        int count = n - t < block ? n - t : block;
        k->score[type](r, d, count, q, keys + (size_t)(t / MKA_TILE) * mka_key_tile_bytes(type, d), scale, s, block);
        for (int i = 0; i < r; i++)
            for (int u = 0; u < count; u++)
                if (masked[t + u]) s[i * block + u] = -INFINITY;
        k->online(r, count, s, block, m, z, c);
        k->mix[type](r, d, count, s, block, values + (size_t)(t / MKA_TILE) * mka_value_tile_bytes(type, d), c, acc);
    }
    for (int i = 0; i < r; i++) {
        double score[128], max = -INFINITY, sum = 0, spread = 0;
        for (int t = 0; t < n; t++) {
            double dot = 0;
            for (int e = 0; e < d; e++) dot += (double)q[i * d + e] * kf[t * d + e];
            score[t] = masked[t] ? -INFINITY : dot * scale;
            max = fmax(max, score[t]);
            spread = fmax(spread, scale * score_error(type, r, d, q + i * d, kf + t * d));
        }
        for (int t = 0; t < n; t++) sum += exp(score[t] - max);
        double slack = expm1(2 * spread) + (n + 60) * EPS * 4; /* an error in a score is a factor on its weight */
        for (int e = 0; e < d; e++) {
            double want = 0;
            for (int t = 0; t < n; t++) want += exp(score[t] - max) / sum * vf[t * d + e];
            near_value("out", i * d + e, acc[i * d + e] / z[i], want, 2 * slack);
        }
    }
    free(keys);
    free(values);
    release();
}

/* All steps at once, from a state that earlier keys left, against one softmax in double; every row sees keys of its own, some
 * none. */
static void check_rows(const mka_kernels *k) {
    static const mka_type stored[] = {MKA_F16, MKA_BF16};
    mka_type type = stored[random_int(0, 1)];
    int r = random_int(0, 2) ? random_int(1, 70) : random_int(71, 300), d = random_int(0, 2) ? 32 * random_int(1, 8) : 64;
    int dv = 16 * random_int(1, 16), n = random_int(0, 2) ? random_int(1, 200) : random_int(201, 800), begun = random_int(0, 1);
    float scale = random_int(0, 3) ? 0.1f : 1.0f;
    case_is("%s rows %s r=%d d=%d dv=%d n=%d scale=%g", k->level, mka_type_name(type), r, d, dv, n, (double)scale);
    if (!k->attend_rows[type]) return;
    float *q = random_floats(r * d, PLAIN), *kf = floats(n * d), *vf = floats(n * dv), *acc = floats(r * dv);
    float *m = floats(r), *z = floats(r);
    int *first = buffer((size_t)r * sizeof *first, sizeof *first), *last = buffer((size_t)r * sizeof *last, sizeof *last);
    unsigned char *keys = random_tiles(type, 1, n, d, kf), *values = random_tiles(type, 0, n, dv, vf);
    for (int i = 0; i < r; i++) {
        first[i] = random_int(0, 2) ? random_int(-5, 0) : random_int(0, n - 1);
        last[i] = random_int(0, 2) ? n : random_int(-3, n);
        m[i] = begun ? random_unit() : -INFINITY;
        z[i] = begun ? 2.0f + random_unit() : 0;
        for (int e = 0; e < dv; e++) acc[i * dv + e] = begun ? random_unit() : 0;
    }
    float *was_m = copy_floats(r, m), *was_z = copy_floats(r, z), *was = copy_floats(r * dv, acc);
    k->attend_rows[type](&(mka_attend_rows){.r = r,
                                            .d_key = d,
                                            .d_value = dv,
                                            .n = n,
                                            .scale = scale,
                                            .first = first,
                                            .last = last,
                                            .q = q,
                                            .keys = keys,
                                            .values = values,
                                            .m = m,
                                            .z = z,
                                            .acc = acc});
    double *weight = malloc((size_t)n * sizeof *weight);
    assert_non_null(weight);
    for (int i = 0; i < r; i++) {
        double max = was_m[i], spread = 0;
        for (int t = 0; t < n; t++) {
            double dot = 0;
            for (int e = 0; e < d; e++) dot += (double)q[i * d + e] * kf[t * d + e];
            weight[t] = t >= first[i] && t < last[i] ? dot * scale : -INFINITY;
            max = fmax(max, weight[t]);
            spread = fmax(spread, scale * score_error(type, 16, d, q + i * d, kf + t * d));
        }
        if (max == -INFINITY) {
            near_value("m", i, m[i], -INFINITY, 0);
            near_value("z", i, z[i], 0, 0);
            for (int e = 0; e < dv; e++) near_value("acc", i * dv + e, acc[i * dv + e], 0, 0);
            continue;
        }
        /* Of a state only what it stands for counts: exp(m) z and exp(m) acc. */
        double slack = expm1(spread) + 0x1p-7 + (n + 60) * EPS, factor = exp((double)m[i] - max), old = exp(was_m[i] - max);
        double sum = old * was_z[i];
        for (int t = 0; t < n; t++) sum += weight[t] = exp(weight[t] - max);
        near_value("z", i, (float)(z[i] * factor), sum, sum * slack);
        for (int e = 0; e < dv; e++) {
            double want = old * was[i * dv + e], all = fabs(want);
            for (int t = 0; t < n; t++) want += weight[t] * vf[t * dv + e], all += fabs(weight[t] * vf[t * dv + e]);
            near_value("acc", i * dv + e, (float)(acc[i * dv + e] * factor), want, all * slack);
        }
    }
    free(weight);
    free(keys);
    free(values);
    release();
}

/* A NaN or an infinity in a query is seen in its own row's z, and in no other row. */
static void check_rows_nan(const mka_kernels *k) {
    enum { ROWS = 20, DIM = 64, KEYS = 70 };
    case_is("%s rows with a NaN", k->level);
    if (!k->attend_rows[MKA_BF16]) return;
    float *q = random_floats(ROWS * DIM, PLAIN), *x = floats(KEYS * DIM), *acc = floats(ROWS * DIM), *m = floats(ROWS);
    float *z = floats(ROWS);
    int first[ROWS] = {0}, last[ROWS], bad = random_int(0, ROWS - 1);
    unsigned char *keys = random_tiles(MKA_BF16, 1, KEYS, DIM, x), *values = random_tiles(MKA_BF16, 0, KEYS, DIM, x);
    q[bad * DIM + random_int(0, DIM - 1)] = random_int(0, 1) ? NAN : INFINITY;
    memset(acc, 0, sizeof(float) * ROWS * DIM);
    for (int i = 0; i < ROWS; i++) last[i] = KEYS, m[i] = -INFINITY, z[i] = 0;
    k->attend_rows[MKA_BF16](&(mka_attend_rows){.r = ROWS,
                                                .d_key = DIM,
                                                .d_value = DIM,
                                                .n = KEYS,
                                                .scale = 0.1f,
                                                .first = first,
                                                .last = last,
                                                .q = q,
                                                .keys = keys,
                                                .values = values,
                                                .m = m,
                                                .z = z,
                                                .acc = acc});
    for (int i = 0; i < ROWS; i++)
        if (isnan(z[i]) != (i == bad)) wrong("z[%d] is %g, the query that is not finite is %d", i, (double)z[i], bad);
    free(keys);
    free(values);
    release();
}

/* Its own inverse, keeps lengths, and spreads a single number evenly over a run. */
static void hadamard_spreads(void **state) {
    (void)state;
    static const int dims[] = {1, 12, 64, 80, 96, 128, 256};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        float x[256] = {0}, y[256];
        int d = dims[i], run = d & -d;
        for (int e = 0; e < d; e++) y[e] = x[e] = (float)(e * 7 % 13) - 6.0f;
        mka_hadamard(d, y);
        mka_hadamard(d, y);
        for (int e = 0; e < d; e++) assert_true(fabsf(x[e] - y[e]) < 1e-4f);
        memset(y, 0, sizeof y);
        y[d - 1] = 1;
        mka_hadamard(d, y);
        for (int e = 0; e < d; e++) assert_true(fabsf(fabsf(y[e]) - (e < d - run ? 0 : 1 / sqrtf((float)run))) < 1e-6f);
    }
}

#define TEST(name, rounds)                                                                                                       \
    static void test_##name(void **state) {                                                                                      \
        (void)state;                                                                                                             \
        each_level(check_##name, rounds);                                                                                        \
    }
TEST(put, 60)
TEST(score, 250)
TEST(mix, 250)
TEST(small_weights, 10)
TEST(attention, 200)
TEST(rows, 60)
TEST(rows_nan, 10)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put),           cmocka_unit_test(test_score),       cmocka_unit_test(test_mix),
        cmocka_unit_test(test_small_weights), cmocka_unit_test(test_attention),   cmocka_unit_test(test_rows),
        cmocka_unit_test(test_rows_nan),      cmocka_unit_test(hadamard_spreads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
