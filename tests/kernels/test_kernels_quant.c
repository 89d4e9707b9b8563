/* test_kernels_quant - kernels of the quantised types at every level of this CPU: what blocks stand for (values computed once
 * with the gguf Python package from the same bytes), dequantising bit for bit as scalar does, quantising activations, and
 * products with them against sums in double. */
#include "harness.h"

/* Where the half floats of a type's block are, one value at six places, and the sum of all 256 with fixed weights. */
typedef struct {
    mka_type type;
    int half[2]; /* -1: none */
    double points[6];
    double sum;
} expectation;

/* clang-format off */
static const expectation expected[] = {
    {MKA_Q4_0, {0, -1}, {0.1875, 0.125, 0.4375, -0.255126953125, 0.064208984375, -0.1309814453125}, 69.83148193359375},
    {MKA_Q4_1, {0, 2}, {0.57916259765625, 0.14166259765625, 1.01666259765625, 0.78204345703125, 0.14508056640625, 0.14764404296875}, -294.0023193359375},
    {MKA_Q5_0, {0, -1}, {0.875, -0.5, -0.375, -0.765380859375, -0.834716796875, -0.85137939453125}, -187.44195556640625},
    {MKA_Q5_1, {0, 2}, {0.57916259765625, 1.82916259765625, 1.51666259765625, 0.14422607421875, 0.46612548828125, 0.6060791015625}, -899.6176147460938},
    {MKA_Q8_0, {0, -1}, {-7.3125, -0.8125, 4.625, -2.61505126953125, 7.83349609375, -2.29217529296875}, 2165.8505859375},
    {MKA_IQ4_NL, {0, -1}, {2.375, 1.5625, 7.0625, -3.12530517578125, 0.834716796875, -1.4407958984375}, 1280.2918090820312},
    {MKA_Q2_K, {80, 82}, {0.3125, 0.5, 0.0, 2.07086181640625, -0.21246337890625, -0.24163818359375}, -290.08349609375},
    {MKA_Q3_K, {108, -1}, {0.75, 1.4375, 0.0, -0.0, 1.75, -1.5}, 81.5},
    {MKA_Q4_K, {0, 2}, {10.60009765625, 23.10009765625, 8.10009765625, 1.8419189453125, 13.46685791015625, 10.78765869140625}, -8246.897155761719},
    {MKA_Q5_K, {0, 2}, {50.60009765625, 20.60009765625, 35.60009765625, 14.5919189453125, 16.90435791015625, 40.85015869140625}, -9789.334655761719},
    {MKA_Q6_K, {208, -1}, {106.3125, -177.1875, 111.5625, 3.0, 118.1875, 49.0}, 54738.375},
    {MKA_IQ4_XS, {0, -1}, {1.5, 79.5, -15.0, -3.0625, 98.875, 26.5}, 9338.875},
};
/* clang-format on */
enum { TYPES = sizeof expected / sizeof expected[0] };

static void put_half(unsigned char *block, int at, unsigned h) {
    if (at < 0) return;
    block[at] = (unsigned char)h;
    block[at + 1] = (unsigned char)(h >> 8);
}

/* The blocks that the expectations were computed from: bytes of a linear congruential generator, half floats near 1/16. */
static void check_meaning(const mka_kernels *k) {
    static const int at[6] = {0, 17, 31, 100, 128, 255};
    for (int i = 0; i < TYPES; i++) {
        const expectation *e = &expected[i];
        const mka_type_info *info = mka_type_get(e->type);
        case_is("%s load %s", k->level, info->name);
        int blocks = 256 / info->block;
        unsigned char *w = buffer((size_t)(blocks * info->bytes), 2);
        uint32_t lcg = 12345;
        for (int b = 0; b < blocks * info->bytes; b++) {
            lcg = lcg * 1664525u + 1013904223u;
            w[b] = (unsigned char)(lcg >> 24);
        }
        for (int b = 0; b < blocks; b++)
            for (int h = 0; h < 2; h++)
                put_half(w + b * info->bytes, e->half[h], 0x2c00u + 0x111u * (unsigned)h + 7u * (unsigned)b);
        float *x = floats(256);
        k->load[e->type](256, w, x);
        double sum = 0;
        for (int j = 0; j < 256; j++) sum += (double)x[j] * (j * (j + 3) % 97 - 48);
        for (int j = 0; j < 6; j++) near_value("x", at[j], x[at[j]], e->points[j], 0);
        near_value("weighted sum", 0, (float)sum, e->sum, EPS * fabs(e->sum));
        release();
    }
}

/* A row of n random elements: any bits, and half floats of either sign, zero, denormal or (wide) up to the largest. */
static unsigned char *random_row(const expectation *e, int rows, int n, size_t row_bytes, int wide) {
    const mka_type_info *info = mka_type_get(e->type);
    unsigned char *w = buffer(rows ? row_bytes * (size_t)(rows - 1) + mka_type_row_bytes(e->type, n) : 0, 2);
    int saturated = random_int(0, 4);
    for (int j = 0; j < rows; j++)
        for (int b = 0; b < n / info->block; b++) {
            unsigned char *block = w + row_bytes * (size_t)j + (size_t)b * (size_t)info->bytes;
            for (int i = 0; i < info->bytes; i++) {
                block[i] = (unsigned char)random_bits();
                if (saturated == 1) block[i] = 0xff;
                if (saturated == 2) block[i] = 0x80;
            }
            for (int h = 0; h < 2; h++) {
                unsigned exponent = (unsigned)(wide ? random_int(0, 30) : random_int(8, 13));
                put_half(block, e->half[h], (unsigned)(random_bits() & 0x83ffu) | exponent << 10);
            }
        }
    return w;
}

static void check_load(const mka_kernels *k) {
    const expectation *e = &expected[random_int(0, TYPES - 1)];
    int n = mka_type_get(e->type)->block * random_int(0, 9);
    case_is("%s load %s n=%d", k->level, mka_type_name(e->type), n);
    unsigned char *w = random_row(e, 1, n, 0, 1);
    float *x = floats(n), *want = floats(n);
    k->load[e->type](n, w, x);
    scalar()->load[e->type](n, w, want);
    for (int i = 0; i < n; i++)
        if (x[i] != want[i]) wrong("x[%d] is %.9g, scalar says %.9g", i, (double)x[i], (double)want[i]);
    release();
}

typedef struct {
    mka_q8_row row;
    int n;
} activations;

static activations quantized(const mka_kernels *k, int n, const float *x) {
    activations a = {{NULL, floats(n / 32), buffer((size_t)n / 16 * 2, 2)}, n};
    char *q = buffer((size_t)n + 64, 64);
    a.row.q = (int8_t *)(q + (64 - (uintptr_t)q % 64) % 64);
    k->quantize(n, x, &a.row);
    return a;
}

static void check_quantize(const mka_kernels *k) {
    int n = 32 * random_int(0, 20), kind = random_int(0, KINDS), bad = random_int(0, 9) == 0;
    case_is("%s quantize n=%d kind=%d bad=%d", k->level, n, kind, bad);
    float *x = random_floats(n, kind);
    for (int i = 0; kind == KINDS && i < n; i++) x[i] = random_unit() * (i % 64 ? 3.4e38f : 0.0f);
    for (int i = 0; random_int(0, 3) == 0 && i < n && i < 32; i++) x[i] = random_int(0, 1) ? 0.0f : -0.0f;
    int spoiled = bad && n ? random_int(0, n - 1) : -1;
    if (spoiled >= 0) x[spoiled] = random_int(0, 1) ? NAN : random_int(0, 1) ? INFINITY : -INFINITY;
    activations got = quantized(k, n, x), want = quantized(scalar(), n, x);
    same_bytes("q", got.row.q, want.row.q, (size_t)n);
    same_bytes("sum", got.row.sum, want.row.sum, (size_t)n / 16 * 2);
    for (int b = 0; b < n / 32; b++) {
        double most = 0, scale = got.row.scale[b];
        for (int i = 32 * b; i < 32 * b + 32; i++) most = fmax(most, fabs((double)x[i]));
        if (spoiled >= 0 && b == spoiled / 32) {
            if (!isnan(scale)) wrong("scale[%d] is %g, should be NaN", b, scale);
            continue;
        }
        near_value("scale", b, got.row.scale[b], most / 127 < (double)FLT_MIN ? 0 : most / 127, EPS * 2 * most / 127);
        for (int h = 0; h < 2; h++) {
            int sum = 0;
            for (int i = 0; i < 16; i++) sum += got.row.q[32 * b + 16 * h + i];
            if (sum != got.row.sum[2 * b + h]) wrong("sum[%d] is %d, should be %d", 2 * b + h, got.row.sum[2 * b + h], sum);
        }
        for (int i = 32 * b; i < 32 * b + 32; i++)
            near_value("round trip", i, (float)(got.row.q[i] * scale), x[i], most / 127 * 0.50002 + 128 * (double)FLT_MIN);
    }
    release();
}

static void check_gemv(const mka_kernels *k) {
    const expectation *e = &expected[random_int(0, TYPES - 1)];
    int block = mka_type_get(e->type)->block, large = random_int(0, 99) == 0; /* kernels may take rows and columns in pieces */
    int rows = large ? random_int(60, 140) : random_int(0, 11);
    int n = block * (large ? random_int(4000 / block, 11000 / block) : random_int(0, random_int(0, 1) ? 3 : 24));
    size_t row_bytes = mka_type_row_bytes(e->type, n) + (size_t)(2 * random_int(0, 9));
    case_is("%s gemv_q8 %s rows=%d n=%d row_bytes=%zu", k->level, mka_type_name(e->type), rows, n, row_bytes);
    unsigned char *w = random_row(e, rows, n, row_bytes, 0);
    float *x = random_floats(n, PLAIN), *y = floats(rows), *wf = floats(n);
    for (int i = 0; random_int(0, 3) == 0 && i < n; i++) x[i] = i % 2 ? 1.0f : -1.0f; /* sums of products at their limits */
    activations a = quantized(k, n, x);
    k->gemv_q8[e->type](rows, n, w, row_bytes, &a.row, y);
    for (int j = 0; j < rows; j++) {
        scalar()->load[e->type](n, w + row_bytes * (size_t)j, wf);
        double sum = 0, magnitude = 0;
        for (int i = 0; i < n; i++) {
            double scale = a.row.scale[i / 32], p = scale * a.row.q[i] * wf[i];
            sum += p, magnitude += fabs(p);
        }
        /* Types with an offset or minimum cancel what is up to twice the largest weight against it. */
        double most = 0, weight = 0;
        for (int i = 0; i < n; i++)
            most = fmax(most, fabs((double)wf[i])), weight += fabs((double)a.row.scale[i / 32] * a.row.q[i]);
        near_value("y", j, y[j], sum, (n / 32 + 12) * EPS * (magnitude + 4 * most * weight));
    }
    release();
}

static void check_gemv_nan(const mka_kernels *k) {
    for (int i = 0; i < TYPES; i++) {
        int n = 512;
        case_is("%s gemv_q8 %s with a NaN", k->level, mka_type_name(expected[i].type));
        unsigned char *w = random_row(&expected[i], 5, n, mka_type_row_bytes(expected[i].type, n), 0);
        float *x = random_floats(n, PLAIN), *y = floats(5);
        x[random_int(0, n - 1)] = NAN;
        activations a = quantized(k, n, x);
        k->gemv_q8[expected[i].type](5, n, w, mka_type_row_bytes(expected[i].type, n), &a.row, y);
        for (int j = 0; j < 5; j++)
            if (!isnan(y[j])) wrong("y[%d] is %g, should be NaN", j, (double)y[j]);
        release();
    }
}

#define TEST(name, rounds)                                                                                                       \
    static void test_##name(void **state) {                                                                                      \
        (void)state;                                                                                                             \
        each_level(check_##name, rounds);                                                                                        \
    }
TEST(meaning, 1)
TEST(load, 400)
TEST(quantize, 400)
TEST(gemv, 1200)
TEST(gemv_nan, 2)

static void test_types(void **state) {
    (void)state;
    int count = 0;
    for (int t = 0; t < MKA_TYPE_LIMIT; t++) {
        const mka_type_info *info = mka_type_get((mka_type)t);
        if (info->bytes == 0) {
            assert_string_equal(mka_type_name((mka_type)t), "unknown");
            assert_int_equal(mka_type_row_bytes((mka_type)t, 256), 0);
            continue;
        }
        count++;
        assert_int_equal(mka_type_from_name(info->name), t);
        assert_int_equal(mka_type_row_bytes((mka_type)t, 256), 256 / info->block * info->bytes);
        assert_int_equal(mka_type_row_bytes((mka_type)t, -info->block), 0);
        if (info->bytes > info->block) assert_int_equal(mka_type_row_bytes((mka_type)t, INT64_MAX - INT64_MAX % info->block), 0);
        if (info->block > 1) assert_int_equal(mka_type_row_bytes((mka_type)t, info->block + 1), 0);
        if (info->weight) assert_non_null((void *)(uintptr_t)scalar()->load[t]);
        if (info->quant) assert_non_null((void *)(uintptr_t)scalar()->gemv_q8[t]);
    }
    assert_int_equal(count, 20);
    assert_int_equal(mka_type_from_name("Q8_0"), MKA_Q8_0);
    assert_int_equal(mka_type_from_name("q9"), MKA_TYPE_LIMIT);
    assert_int_equal(mka_type_from_name(NULL), MKA_TYPE_LIMIT);
    assert_string_equal(mka_type_name((mka_type)-1), "unknown");
    assert_int_equal(mka_type_get((mka_type)1000)->bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),    cmocka_unit_test(test_meaning), cmocka_unit_test(test_load),
        cmocka_unit_test(test_quantize), cmocka_unit_test(test_gemv),    cmocka_unit_test(test_gemv_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
