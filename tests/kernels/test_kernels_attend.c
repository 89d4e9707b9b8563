/* test_kernels_attend - kernels over rows of F32, F16 and BF16 at every level of this CPU: conversions (every 16-bit pattern),
 * scores, mixes, matrix-vector products, and attention put together from them. */
#include "harness.h"

static const mka_type types[3] = {MKA_F32, MKA_F16, MKA_BF16};

static mka_type random_type(void) {
    return types[random_int(0, 2)];
}

/* Rows of the type with random values, `stride` bytes apart; as_float gets what they stand for, in [n][d]. */
static char *random_rows(mka_type type, int n, int d, ptrdiff_t stride, float *as_float) {
    size_t row = mka_type_row_bytes(type, d), all = n ? (size_t)stride * (size_t)(n - 1) + row : 0;
    char *rows = buffer(all, type == MKA_F32 ? 4 : 2);
    for (int t = 0; t < n; t++) {
        float *x = as_float + (ptrdiff_t)t * d;
        fill(d, x, PLAIN);
        scalar()->store[type](d, x, rows + t * stride);
        scalar()->load[type](d, rows + t * stride, x);
    }
    return rows;
}

static void random_shape(int *r, int *d, int *n) {
    *r = random_int(0, 3) ? random_int(1, 9) : random_int(10, 40);
    *d = random_int(0, 2) ? 32 * random_int(1, 8) : random_int(0, 9) ? random_int(1, 150) : random_int(1000, 1100);
    *n = random_int(0, 3) ? random_int(0, 40) : random_int(41, 150);
}

static ptrdiff_t random_stride(mka_type type, int d) {
    int size = mka_type_get(type)->bytes;
    return (ptrdiff_t)mka_type_row_bytes(type, d) + size * (random_int(0, 1) ? random_int(0, 40) : 0);
}

static void check_score(const mka_kernels *k) {
    int r, d, n;
    random_shape(&r, &d, &n);
    mka_type type = random_type();
    int lds = n + random_int(0, 5);
    ptrdiff_t stride = random_stride(type, d);
    float scale = 0.125f;
    case_is("%s score %s r=%d d=%d n=%d lds=%d stride=%td", k->level, mka_type_name(type), r, d, n, lds, stride);
    float *q = random_floats(r * d, PLAIN), *values = floats(n * d), *s = random_floats(r * lds, PLAIN);
    float *was = copy_floats(r * lds, s);
    const char *keys = random_rows(type, n, d, stride, values);
    k->score[type](r, d, n, q, keys, stride, scale, s, lds);
    for (int i = 0; i < r; i++)
        for (int t = 0; t < lds; t++) {
            double sum = 0, magnitude = 0;
            for (int e = 0; t < n && e < d; e++) {
                double p = (double)q[i * d + e] * values[t * d + e];
                sum += p, magnitude += fabs(p);
            }
            int at = i * lds + t;
            near_value("s", at, s[at], t < n ? sum * scale : was[at], (d / 4 + 8) * EPS * magnitude * scale);
        }
    release();
}

static void check_mix(const mka_kernels *k) {
    int r, d, n;
    random_shape(&r, &d, &n);
    mka_type type = random_type();
    int lds = n + random_int(0, 5);
    ptrdiff_t stride = random_stride(type, d);
    case_is("%s mix %s r=%d d=%d n=%d lds=%d stride=%td", k->level, mka_type_name(type), r, d, n, lds, stride);
    float *s = random_floats(r * lds, PLAIN), *x = floats(n * d), *c = random_floats(r, PLAIN),
          *acc = random_floats(r * d, PLAIN);
    float *was = copy_floats(r * d, acc);
    const char *values = random_rows(type, n, d, stride, x);
    k->mix[type](r, d, n, s, lds, values, stride, c, acc);
    for (int i = 0; i < r; i++)
        for (int e = 0; e < d; e++) {
            double sum = n ? (double)c[i] * was[i * d + e] : was[i * d + e], magnitude = fabs(sum);
            for (int t = 0; t < n; t++) {
                double p = (double)s[i * lds + t] * x[t * d + e];
                sum += p, magnitude += fabs(p);
            }
            near_value("acc", i * d + e, acc[i * d + e], sum, (n + 4) * EPS * magnitude);
        }
    release();
}

static void check_gemv(const mka_kernels *k) {
    int rows = random_int(0, 20), n = random_size();
    mka_type type = random_type();
    ptrdiff_t stride = random_stride(type, n);
    case_is("%s gemv_f32 %s rows=%d n=%d stride=%td", k->level, mka_type_name(type), rows, n, stride);
    float *x = random_floats(n, PLAIN), *w = floats(rows * n), *y = floats(rows);
    const char *matrix = random_rows(type, rows, n, stride, w);
    k->gemv_f32[type](rows, n, matrix, (size_t)stride, x, y);
    for (int j = 0; j < rows; j++) {
        double sum = 0, magnitude = 0;
        for (int i = 0; i < n; i++) sum += (double)w[j * n + i] * x[i], magnitude += fabs((double)w[j * n + i] * x[i]);
        near_value("y", j, y[j], sum, (n / 4 + 8) * EPS * magnitude);
    }
    release();
}

/* What a 16-bit pattern stands for, from its definition. */
static double half_value(unsigned h, int fraction, int bias) {
    unsigned mantissa = h & ((1u << fraction) - 1u), exponent = (h & 0x7fffu) >> fraction;
    double sign = h & 0x8000u ? -1 : 1;
    if (exponent == 0x7fffu >> fraction) return mantissa ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias - fraction);
    return sign * ldexp((double)(mantissa | 1u << fraction), (int)exponent - bias - fraction);
}

static void check_load_16(const mka_kernels *k) {
    for (int bf = 0; bf < 2; bf++) {
        mka_type type = bf ? MKA_BF16 : MKA_F16;
        case_is("%s load %s of all patterns", k->level, mka_type_name(type));
        uint16_t *h = buffer(65536 * 2, 2);
        float *y = floats(65536);
        for (int i = 0; i < 65536; i++) h[i] = (uint16_t)i;
        k->load[type](65536, h, y);
        for (int i = 0; i < 65536; i++) near_value("y", i, y[i], half_value((unsigned)i, bf ? 7 : 10, bf ? 127 : 15), 0);
        uint16_t *back = buffer(65536 * 2, 2);
        k->store[type](65536, y, back);
        for (int i = 0; i < 65536; i++)
            if (back[i] != h[i] && !(isnan(y[i]) && isnan(half_value(back[i], bf ? 7 : 10, bf ? 127 : 15))))
                wrong("%04x comes back as %04x", h[i], back[i]);
    }
    release();
}

/* The nearest of the two neighbours, the even one of equally near ones. */
static void nearest(float x, uint16_t h, int bf) {
    int fraction = bf ? 7 : 10, bias = bf ? 127 : 15;
    double got = half_value(h, fraction, bias), limit = half_value(bf ? 0x7f7f : 0x7bff, fraction, bias);
    if (isnan(x) != isnan(got) || !signbit(x) != !(h >> 15)) wrong("%a became %04x", (double)x, h);
    if (isnan(x)) return;
    double half_unit = ldexp(limit, -fraction - 2) * (1 + ldexp(1, -fraction - 1));
    if (isinf(got)) {
        if (fabs((double)x) < limit + half_unit * 0.999) wrong("%a became infinite", (double)x);
        return;
    }
    for (int step = -1; step <= 1; step += 2) {
        if ((h & 0x7fff) == 0 && step < 0) continue;
        double other = half_value((unsigned)(h + step), fraction, bias);
        if (isinf(other)) continue;
        double here = fabs(x - got), there = fabs(x - other);
        if (there < here || (there == here && (h & 1))) wrong("%a became %04x, %04x is nearer", (double)x, h, h + step);
    }
}

static void check_store_16(const mka_kernels *k) {
    int n = random_size();
    for (int bf = 0; bf < 2; bf++) {
        mka_type type = bf ? MKA_BF16 : MKA_F16;
        case_is("%s store %s n=%d", k->level, mka_type_name(type), n);
        float *x = floats(n);
        for (int i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)random_bits();
            if (random_int(0, 1)) bits = (bits & 0x87ffffffu) | 0x38000000u;   /* the range of half floats */
            if (random_int(0, 3) == 0) bits &= bf ? 0xffff8000u : 0xfffff000u; /* ties */
            memcpy(&x[i], &bits, sizeof bits);
        }
        uint16_t *h = buffer((size_t)n * 2, 2), *want = buffer((size_t)n * 2, 2);
        k->store[type](n, x, h);
        scalar()->store[type](n, x, want);
        same_bytes("h", h, want, (size_t)n * 2);
        for (int i = 0; i < n; i++) nearest(x[i], h[i], bf);
        float *y = floats(n), *z = floats(n);
        k->load[MKA_F32](n, x, y);
        k->store[MKA_F32](n, y, z);
        same_bytes("copy", z, x, (size_t)n * sizeof *z);
    }
    release();
}

/* Attention over all keys in blocks, against one softmax in double; some keys are masked, some scores are huge. */
static void check_attention(const mka_kernels *k) {
    int r = random_int(1, 6), d = 16 * random_int(1, 8), n = random_int(1, 120), block = random_int(1, 50);
    mka_type type = random_type();
    float scale = random_int(0, 3) ? 0.2f : 3000.0f;
    ptrdiff_t stride = random_stride(type, d);
    case_is("%s attention %s r=%d d=%d n=%d block=%d scale=%g", k->level, mka_type_name(type), r, d, n, block, (double)scale);
    float *q = random_floats(r * d, PLAIN), *kf = floats(n * d), *vf = floats(n * d), *s = floats(r * block);
    float *m = floats(r), *z = floats(r), *c = floats(r), *acc = floats(r * d);
    const char *keys = random_rows(type, n, d, stride, kf), *values = random_rows(type, n, d, stride, vf);
    char *masked = buffer((size_t)n, 1);
    for (int t = 0; t < n; t++) masked[t] = random_int(0, 2) == 0;
    masked[n - 1] = 0;
    for (int i = 0; i < r; i++) m[i] = -INFINITY, z[i] = 0;
    memset(acc, 0, (size_t)(r * d) * sizeof *acc);
    for (int t = 0; t < n; t += block) {
        int count = n - t < block ? n - t : block;
        k->score[type](r, d, count, q, keys + t * stride, stride, scale, s, block);
        for (int i = 0; i < r; i++)
            for (int u = 0; u < count; u++)
                if (masked[t + u]) s[i * block + u] = -INFINITY;
        k->online(r, count, s, block, m, z, c);
        k->mix[type](r, d, count, s, block, values + t * stride, stride, c, acc);
    }
    for (int i = 0; i < r; i++) {
        double score[128], max = -INFINITY, sum = 0, spread = 0;
        for (int t = 0; t < n; t++) {
            double dot = 0, magnitude = 0;
            for (int e = 0; e < d; e++)
                dot += (double)q[i * d + e] * kf[t * d + e], magnitude += fabs((double)q[i * d + e] * kf[t * d + e]);
            score[t] = masked[t] ? -INFINITY : dot * scale;
            max = fmax(max, score[t]);
            spread = fmax(spread, magnitude * scale);
        }
        for (int t = 0; t < n; t++) sum += exp(score[t] - max);
        /* An error in a score is a factor on its weight. */
        double slack = expm1(2 * (d / 4 + 8) * EPS * spread) + (n + 60) * EPS * 4;
        for (int e = 0; e < d; e++) {
            double want = 0;
            for (int t = 0; t < n; t++) want += exp(score[t] - max) / sum * vf[t * d + e];
            near_value("out", i * d + e, acc[i * d + e] / z[i], want, 2 * slack);
        }
    }
    release();
}

#define TEST(name, rounds)                                                                                                       \
    static void test_##name(void **state) {                                                                                      \
        (void)state;                                                                                                             \
        each_level(check_##name, rounds);                                                                                        \
    }
TEST(score, 250)
TEST(mix, 250)
TEST(gemv, 200)
TEST(load_16, 1)
TEST(store_16, 200)
TEST(attention, 200)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_score),   cmocka_unit_test(test_mix),      cmocka_unit_test(test_gemv),
        cmocka_unit_test(test_load_16), cmocka_unit_test(test_store_16), cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
