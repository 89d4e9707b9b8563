/* test_kernels_typed - kernels over rows of F32, F16 and BF16 at every level of this CPU: conversions (every 16-bit pattern)
 * and matrix-vector products. */
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

static ptrdiff_t random_stride(mka_type type, int d) {
    int size = mka_type_get(type)->bytes;
    return (ptrdiff_t)mka_type_row_bytes(type, d) + size * (random_int(0, 1) ? random_int(0, 40) : 0);
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

#define TEST(name, rounds)                                                                                                       \
    static void test_##name(void **state) {                                                                                      \
        (void)state;                                                                                                             \
        each_level(check_##name, rounds);                                                                                        \
    }
TEST(gemv, 200)
TEST(load_16, 1)
TEST(store_16, 200)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemv),
        cmocka_unit_test(test_load_16),
        cmocka_unit_test(test_store_16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
