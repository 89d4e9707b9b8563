/* test_kernels_float - kernels over float32 rows at every level of this CPU against formulas in double. */
#include "harness.h"

static void check_dot(const mka_kernels *k) {
    int n = random_size(), kind = random_int(0, 3);
    case_is("%s dot n=%d kind=%d", k->level, n, kind);
    float *a = random_floats(n, kind), *b = random_floats(n, kind);
    double sum = 0, magnitude = 0;
    for (int i = 0; i < n; i++) sum += (double)a[i] * b[i], magnitude += fabs((double)a[i] * b[i]);
    near_value("dot", 0, k->dot(n, a, b), sum, (n / 16 + 6) * EPS * magnitude + n * 1e-45);
    release();
}

static void check_axpy(const mka_kernels *k) {
    int n = random_size(), kind = random_int(0, 3);
    float f = random_float(kind);
    case_is("%s axpy, add n=%d kind=%d a=%g", k->level, n, kind, (double)f);
    float *x = random_floats(n, kind), *y = random_floats(n, kind), *was = copy_floats(n, y);
    k->axpy(n, f, x, y);
    for (int i = 0; i < n; i++)
        near_value("y", i, y[i], was[i] + (double)f * x[i], 2 * EPS * (fabs((double)f * x[i]) + fabs((double)was[i])) + 3e-45);
    release();
}

static void check_add(const mka_kernels *k) {
    int n = random_size(), kind = random_int(0, 3);
    case_is("%s add n=%d kind=%d", k->level, n, kind);
    float *x = random_floats(n, kind), *y = random_floats(n, kind), *want = copy_floats(n, y);
    k->add(n, x, y);
    for (int i = 0; i < n; i++) want[i] += x[i];
    same_bytes("y", y, want, (size_t)n * sizeof *y);
    release();
}

/* Scores: ordinary ones, some of +-1e4, some masked, at times all masked. */
static void random_scores(int n, float *s) {
    int kind = random_int(0, 3);
    for (int t = 0; t < n; t++) {
        s[t] = random_float(kind == 1 ? LARGE : PLAIN) * (kind == 0 ? 20.0f : 1.0f);
        if (kind >= 2 && random_int(0, 2) == 0) s[t] = -INFINITY;
        if (kind == 3 && random_int(0, 30) != 0) s[t] = -INFINITY;
    }
}

static void check_online(const mka_kernels *k) {
    int r = random_int(1, 9), n = random_int(0, 1) ? random_size() : random_int(0, 3), lds = n + random_int(0, 5);
    case_is("%s online r=%d n=%d lds=%d", k->level, r, n, lds);
    float *s = floats(r * lds), *m = floats(r), *z = floats(r), *c = floats(r);
    for (int i = 0; i < r; i++) {
        random_scores(lds, s + (ptrdiff_t)i * lds);
        m[i] = random_int(0, 1) ? -INFINITY : 5 * random_unit();
        z[i] = m[i] == -INFINITY ? 0 : 1 + fabsf(random_unit());
    }
    float *scores = copy_floats(r * lds, s), *m0 = copy_floats(r, m), *z0 = copy_floats(r, z);
    k->online(r, n, s, lds, m, z, c);
    for (int i = 0; i < r; i++) {
        double max = m0[i], sum = 0;
        for (int t = 0; t < n; t++) max = fmax(max, scores[i * lds + t]);
        double factor = isinf(max) ? 1 : exp(m0[i] - max);
        near_value("m", i, m[i], max, 0);
        near_value("c", i, c[i], factor, factor == 0 || factor == 1 ? 0 : EPS * (5 + fabs(m0[i] - max)) * factor + FLT_MIN);
        for (int t = 0; t < lds; t++) {
            double was = scores[i * lds + t], weight = t >= n ? was : isinf(was) ? 0 : exp(was - max);
            /* s - m is rounded before exp: half a unit of it, as a factor. Masked keys and what lies beyond n are exact. */
            double slack = t >= n || isinf(was) ? 0 : weight * EPS * (5 + fabs(was - max)) + FLT_MIN;
            near_value("weight", i * lds + t, s[i * lds + t], weight, slack);
            if (t < n) sum += weight;
        }
        near_value("z", i, z[i], factor * z0[i] + sum, (n / 4 + 30) * EPS * (factor * z0[i] + sum) + n * (double)FLT_MIN);
    }
    release();
}

static void check_online_nan(const mka_kernels *k) {
    int n = random_int(1, 70), at = random_int(0, n - 1);
    case_is("%s online with a NaN at %d of %d", k->level, at, n);
    float *s = random_floats(n, PLAIN), m = -INFINITY, z = 0, c;
    s[at] = NAN;
    k->online(1, n, s, n, &m, &z, &c);
    assert_true(isnan(z));
    assert_true(isnan(s[at]));
    release();
}

/* exp is seen through online: m = 0 stays the maximum, so the weights are exp(s). */
static void check_exp(const mka_kernels *k) {
    int n = 997;
    case_is("%s exp through online", k->level);
    float *s = floats(n), m = 0, z = 0, c;
    for (int t = 0; t < n; t++) s[t] = -87.0f * fabsf(random_unit());
    s[0] = -0.0f, s[1] = -87.0f, s[2] = -104.5f, s[3] = -1e4f, s[4] = -FLT_MAX, s[5] = -1e-30f;
    float *was = copy_floats(n, s);
    k->online(1, n, s, n, &m, &z, &c);
    for (int t = 0; t < n; t++) {
        double want = exp(was[t]);
        if (was[t] < -104)
            near_value("exp", t, s[t], 0, 0);
        else
            near_value("exp", t, s[t], want, 2 * (nextafterf((float)want, INFINITY) - (float)want));
    }
    release();
}

static void check_softmax(const mka_kernels *k) {
    int n = random_size();
    case_is("%s softmax n=%d", k->level, n);
    float *x = floats(n);
    random_scores(n, x);
    float *was = copy_floats(n, x);
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) max = fmax(max, was[i]);
    for (int i = 0; i < n; i++) sum += exp(was[i] - max);
    k->softmax(n, x);
    for (int i = 0; i < n; i++) {
        double want = exp(was[i] - max) / sum;
        double slack = isinf(was[i]) ? 0 : want * EPS * (n / 4 + 40 + fabs(was[i] - max)) + FLT_MIN;
        near_value("softmax", i, x[i], want, slack);
    }
    release();
}

static void check_rms_norm(const mka_kernels *k) {
    int n = random_size(), kind = random_int(0, 1) * LARGE, ones = random_int(0, 1), in_place = random_int(0, 1);
    case_is("%s rms_norm n=%d kind=%d ones=%d in_place=%d", k->level, n, kind, ones, in_place);
    float *x = random_floats(n, kind), *w = random_floats(n, PLAIN), *was = copy_floats(n, x), *y = in_place ? x : floats(n);
    double mean = 0;
    for (int i = 0; i < n; i++) mean += (double)x[i] * x[i] / n;
    k->rms_norm(n, 1e-5f, x, ones ? NULL : w, y);
    for (int i = 0; i < n; i++) {
        double want = was[i] / sqrt(mean + (double)1e-5f) * (ones ? 1 : w[i]);
        near_value("y", i, y[i], want, (n / 16 + 12) * EPS * fabs(want));
    }
    release();
}

static void check_rope(const mka_kernels *k) {
    int n = random_int(0, 80), pairs = random_int(0, 1);
    case_is("%s rope n=%d pairs=%d", k->level, n, pairs);
    float *x = random_floats(2 * n, SPREAD), *was = copy_floats(2 * n, x), *c = floats(n), *s = floats(n);
    for (int i = 0; i < n; i++) {
        float angle = 100 * random_unit();
        c[i] = cosf(angle), s[i] = sinf(angle);
    }
    (pairs ? k->rope_pairs : k->rope_half)(n, x, c, s);
    for (int i = 0; i < n; i++) {
        int ia = pairs ? 2 * i : i, ib = pairs ? 2 * i + 1 : i + n;
        double a = was[ia], b = was[ib], slack = 3 * EPS * (fabs(a) + fabs(b));
        near_value("x", ia, x[ia], a * c[i] - b * s[i], slack);
        near_value("x", ib, x[ib], b * c[i] + a * s[i], slack);
    }
    release();
}

static double silu(double x) {
    return x / (1 + exp(-x));
}
static double gelu_tanh(double x) {
    return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
static double gelu_erf(double x) {
    return 0.5 * x * erfc(-x / M_SQRT2);
}

static float activation_input(void) {
    static const float edges[] = {0, -0.0f, 1e-40f, -30, 30, -87, 88, -100, 100, -1e4f, 1e4f, 3e38f};
    return random_int(0, 9) ? random_unit() * 12 : edges[random_int(0, 11)];
}

static void check_glu(const mka_kernels *k) {
    int n = random_size(), in_place = random_int(0, 2);
    case_is("%s swiglu, geglu n=%d in_place=%d", k->level, n, in_place);
    for (int g = 0; g < 2; g++) {
        float *gate = floats(n), *up = random_floats(n, PLAIN);
        for (int i = 0; i < n; i++) gate[i] = activation_input();
        float *x = copy_floats(n, gate), *u = copy_floats(n, up), *y = in_place == 0 ? floats(n) : in_place == 1 ? gate : up;
        (g ? k->geglu : k->swiglu)(n, gate, up, y);
        for (int i = 0; i < n; i++) {
            double want = (g ? gelu_tanh(x[i]) : silu(x[i])) * u[i];
            near_value(g ? "geglu" : "swiglu", i, y[i], want, 1e-6 * fabs(want) + 1e-9 * g * fabs((double)x[i] * u[i]) + 1e-35);
        }
    }
    release();
}

static void check_act(const mka_kernels *k) {
    int n = random_size();
    case_is("%s silu, gelu n=%d", k->level, n);
    for (int g = 0; g < 2; g++) {
        float *x = floats(n);
        for (int i = 0; i < n; i++) x[i] = activation_input();
        float *was = copy_floats(n, x);
        (g ? k->gelu : k->silu)(n, x);
        for (int i = 0; i < n; i++) {
            double want = g ? gelu_erf(was[i]) : silu(was[i]);
            near_value(g ? "gelu" : "silu", i, x[i], want, 1e-6 * fabs(want) + 1e-9 * g * fabs((double)was[i]) + 1e-35);
        }
    }
    release();
}

static void check_ema(const mka_kernels *k) {
    int n = random_size();
    float beta = fabsf(random_unit());
    case_is("%s ema n=%d beta=%g", k->level, n, (double)beta);
    float *x = random_floats(n, SPREAD), *m = random_floats(n, SPREAD), *was = copy_floats(n, m);
    k->ema(n, beta, x, m);
    for (int i = 0; i < n; i++) {
        double a = (double)beta * was[i], b = (1.0 - (double)beta) * x[i];
        near_value("m", i, m[i], a + b, 4 * EPS * (fabs(a) + fabs(b) + fabs((double)x[i])));
    }
    release();
}

static void check_fuse(const mka_kernels *k) {
    int n = random_size(), levels = random_int(1, 3), in_place = random_int(-1, levels - 1), first_only = random_int(0, 1);
    case_is("%s fuse n=%d levels=%d in_place=%d first_only=%d", k->level, n, levels, in_place, first_only);
    float *lambda = random_floats(3, PLAIN), *rows[3], *was[3];
    if (first_only) lambda[0] = 1, lambda[1] = lambda[2] = 0;
    for (int l = 0; l < levels; l++) {
        rows[l] = random_floats(n, SPREAD);
        was[l] = copy_floats(n, rows[l]);
    }
    float *y = in_place < 0 ? floats(n) : rows[in_place];
    k->fuse(levels, n, lambda, (const float *const *)rows, y);
    for (int i = 0; i < n; i++) {
        double want = 0, magnitude = 0;
        for (int l = 0; l < levels; l++) {
            want += (double)lambda[l] * was[l][i];
            magnitude += fabs((double)lambda[l] * was[l][i]);
        }
        near_value("y", i, y[i], want, first_only ? 0 : 4 * EPS * magnitude);
    }
    release();
}

#define TEST(name, rounds)                                                                                                       \
    static void test_##name(void **state) {                                                                                      \
        (void)state;                                                                                                             \
        each_level(check_##name, rounds);                                                                                        \
    }
TEST(dot, 300)
TEST(axpy, 200)
TEST(add, 200)
TEST(online, 300)
TEST(online_nan, 100)
TEST(exp, 50)
TEST(softmax, 300)
TEST(rms_norm, 200)
TEST(rope, 300)
TEST(glu, 200)
TEST(act, 200)
TEST(ema, 200)
TEST(fuse, 300)

/* A name that is not a level gives nothing; the default is the last of the list; the lowest is always scalar. */
static void test_levels(void **state) {
    (void)state;
    const char *names[16];
    int count = mka_kernels_levels(names);
    assert_string_equal(names[0], "scalar");
    assert_ptr_equal(mka_kernels_get(NULL), mka_kernels_get(names[count - 1]));
    assert_null(mka_kernels_get("no such level"));
    for (int i = 0; i < count; i++) assert_string_equal(mka_kernels_get(names[i])->level, names[i]);
    char all[256] = "";
    for (int i = 0; i < count; i++) snprintf(all + strlen(all), sizeof all - strlen(all), " %s", names[i]);
    print_message("levels:%s\n", all);
    /* Where the caller knows the CPU, because it is emulated. */
    const char *expected = getenv("MKA_TEST_EXPECTED_LEVELS");
    if (expected) assert_string_equal(all + 1, expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels), cmocka_unit_test(test_dot),     cmocka_unit_test(test_axpy),
        cmocka_unit_test(test_add),    cmocka_unit_test(test_online),  cmocka_unit_test(test_online_nan),
        cmocka_unit_test(test_exp),    cmocka_unit_test(test_softmax), cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_rope),   cmocka_unit_test(test_glu),     cmocka_unit_test(test_act),
        cmocka_unit_test(test_ema),    cmocka_unit_test(test_fuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
