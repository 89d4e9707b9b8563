/* test_kernels_recall - recall's kernels at every level of this CPU: scores and sums over single rows against double arithmetic
 * on what the rows stand for; the scan of key signs against its formula, its own weights, and scalar. */
#include "harness.h"

static const mka_type types[] = {MKA_F32, MKA_F16, MKA_BF16, MKA_Q8_0, MKA_Q4_0};

static mka_type random_type(void) {
    return types[random_int(0, 4)];
}

static void random_shape(int *r, int *d) {
    static const int widths[] = {64, 80, 96, 128, 256};
    *r = random_int(0, 4) ? random_int(1, 9) : random_int(10, 64);
    *d = random_int(0, 1) ? widths[random_int(0, 4)] : random_int(0, 9) ? random_int(1, 150) : random_int(500, 600);
}

/* ---- rows ---- */

/* Pointers to n rows that lie in any order in one buffer, some of them twice; as_float [n][d] gets what they stand for. */
static const void **random_rows(mka_type type, int n, int d, float *as_float) {
    int stored = n / 2 + 1;
    size_t bytes = mka_row_bytes(type, d), stride = (bytes + 1) / 2 * 2;
    unsigned char *all = buffer((size_t)(stored - 1) * stride + bytes, 2);
    float *x = floats(d);
    for (int k = 0; k < stored; k++) {
        fill(d, x, PLAIN);
        mka_put_row(type, scalar()->store[type], d, x, all + (size_t)k * stride);
    }
    const void **rows = buffer((size_t)n * sizeof *rows, sizeof(void *));
    for (int t = 0; t < n; t++) {
        rows[t] = all + (size_t)random_int(0, stored - 1) * stride;
        mka_get_row(type, d, rows[t], as_float + (size_t)t * (size_t)d);
    }
    return rows;
}

/* A row comes back as exact as its type is. */
static void check_rows(const mka_kernels *k) {
    int d = random_int(1, 300);
    mka_type type = random_type();
    case_is("%s put_row %s d=%d", k->level, mka_type_name(type), d);
    float *x = random_floats(d, PLAIN), *y = floats(d);
    void *row = buffer(mka_row_bytes(type, d), 2);
    mka_put_row(type, k->store[type], d, x, row);
    mka_get_row(type, d, row, y);
    for (int g = 0; g < d; g += 32) {
        double most = 0;
        for (int e = g; e < d && e < g + 32; e++) most = fmax(most, fabs((double)x[e]));
        double unit = type == MKA_F32    ? 0
                      : type == MKA_F16  ? 0x1p-11
                      : type == MKA_BF16 ? 0x1p-8
                                         : 0.51 / (type == MKA_Q8_0 ? 127 : 7);
        for (int e = g; e < d && e < g + 32; e++) near_value("x", e, y[e], (double)x[e], unit * most);
    }
    release();
}

static void check_rows_score(const mka_kernels *k) {
    int r, d, n = random_int(0, 70), kind = random_int(0, 3) ? PLAIN : LARGE;
    random_shape(&r, &d);
    mka_type type = random_type();
    int lds = n + random_int(0, 5);
    float scale = 0.125F;
    case_is("%s rows_score %s r=%d d=%d n=%d lds=%d", k->level, mka_type_name(type), r, d, n, lds);
    float *q = random_floats(r * d, kind), *x = floats(n * d), *s = random_floats(r * lds, PLAIN), *was = copy_floats(r * lds, s);
    const void **rows = random_rows(type, n, d, x);
    k->rows_score[type](r, d, n, q, rows, scale, s, lds);
    for (int i = 0; i < r; i++) {
        for (int t = 0; t < n; t++) {
            double sum = 0, magnitude = 0, keys = 0, most = 0;
            for (int e = 0; e < d; e++) {
                double p = (double)q[i * d + e] * (double)x[t * d + e] * (double)scale;
                sum += p, magnitude += fabs(p), keys += fabs((double)x[t * d + e]);
                most = fmax(most, fabs((double)q[i * d + e]));
            }
            double rounded = type == MKA_Q8_0 ? most * 0x1p-16 * keys * (double)scale : 0;
            near_value("s", i * lds + t, s[i * lds + t], sum, (d / 4 + 8) * EPS * magnitude + rounded);
        }
        same_bytes("what lies between rows of s", s + i * lds + n, was + i * lds + n, (size_t)(lds - n) * sizeof *s);
    }
    release();
}

static void check_rows_mix(const mka_kernels *k) {
    int r, d, n = random_int(0, 100);
    random_shape(&r, &d);
    mka_type type = random_type();
    int lds = n + random_int(0, 5);
    case_is("%s rows_mix %s r=%d d=%d n=%d lds=%d", k->level, mka_type_name(type), r, d, n, lds);
    float *s = random_floats(r * lds, random_int(0, 1) ? PLAIN : SPREAD), *x = floats(n * d), *acc = random_floats(r * d, PLAIN);
    float *was = copy_floats(r * d, acc);
    const void **rows = random_rows(type, n, d, x);
    k->rows_mix[type](r, d, n, s, lds, rows, acc);
    for (int i = 0; i < r; i++)
        for (int e = 0; e < d; e++) {
            double sum = (double)was[i * d + e], magnitude = fabs(sum);
            for (int t = 0; t < n; t++) {
                double p = (double)s[i * lds + t] * (double)x[t * d + e];
                sum += p, magnitude += fabs(p);
            }
            near_value("acc", i * d + e, acc[i * d + e], sum, (n + 4) * EPS * magnitude);
        }
    release();
}

/* A NaN in a query, a row or a weight makes its own results NaN and no others. */
static void check_rows_nan(const mka_kernels *k) {
    int r = random_int(1, 9), d = random_int(1, 140), n = random_int(1, 20), bad = random_int(0, n - 1),
        query = random_int(0, r - 1);
    mka_type type = types[random_int(0, 2)];
    case_is("%s rows with NaN %s r=%d d=%d n=%d row=%d query=%d", k->level, mka_type_name(type), r, d, n, bad, query);
    float *q = random_floats(r * d, PLAIN), *x = random_floats(d, PLAIN), *s = floats(r * n), *acc = random_floats(r * d, PLAIN);
    size_t bytes = mka_row_bytes(type, d);
    char *all = buffer((size_t)n * bytes, 4);
    const void **rows = buffer((size_t)n * sizeof *rows, sizeof(void *));
    int spoiled = random_int(0, d - 1);
    q[query * d + random_int(0, d - 1)] = NAN;
    for (int t = 0; t < n; t++) {
        float keep = x[spoiled];
        if (t == bad) x[spoiled] = NAN;
        mka_put_row(type, scalar()->store[type], d, x, all + (size_t)t * bytes);
        x[spoiled] = keep;
        rows[t] = all + (size_t)t * bytes;
    }
    k->rows_score[type](r, d, n, q, rows, 1.0F, s, n);
    for (int i = 0; i < r; i++)
        for (int t = 0; t < n; t++)
            if (!isnan(s[i * n + t]) != (i != query && t != bad)) wrong("s[%d][%d] is %g", i, t, (double)s[i * n + t]);
    fill(r * n, s, PLAIN);
    k->rows_mix[type](r, d, n, s, n, rows, acc);
    for (int i = 0; i < r * d; i++)
        if (!isnan(acc[i]) != (i % d != spoiled)) wrong("acc[%d] is %g", i, (double)acc[i]);
    release();
}

/* Which weights stay, where they go, and the sums of the others: the choice is exact. */
static void check_sift(const mka_kernels *k) {
    int r = random_int(1, 12), stretches = random_int(1, 40), begins[MKA_SIFT_MOST + 1] = {0}, n, kept[MKA_SIFT_MOST], count = 0;
    for (int i = 0; i < stretches; i++) {
        int most = MKA_SIFT_MOST - begins[i] - (stretches - 1 - i);
        begins[i + 1] = begins[i] + random_int(1, most < 20 ? most : 20);
    }
    n = begins[stretches];
    int lds = (n + 15) / 16 * 16 + random_int(0, 5), nan = random_int(0, 3) ? -1 : random_int(0, n - 1);
    case_is("%s sift r=%d stretches=%d n=%d nan=%d", k->level, r, stretches, n, nan);
    float *s = random_floats(r * lds, PLAIN), *least = floats(r), *left = floats(r * MKA_SIFT_MOST);
    for (int i = 0; i < r * lds; i++) s[i] = fabsf(s[i]);
    for (int i = 0; i < r; i++) least[i] = random_int(0, 4) ? (0.7F + 0.3F * random_unit()) * (r > 3 ? 2 : 1) : -1;
    if (nan >= 0) s[(r - 1) * lds + nan] = NAN;
    float *was = copy_floats(r * lds, s);
    int got = k->sift(r, stretches, begins, least, s, lds, kept, left);
    for (int j = 0; j < stretches; j++) {
        double sums[12] = {0};
        for (int t = begins[j]; t < begins[j + 1]; t++) {
            int stays = 0;
            for (int i = 0; i < r; i++) stays |= !(was[i * lds + t] <= least[i]);
            if (stays && (count >= got || kept[count] != t)) wrong("token %d is not kept", t);
            for (int i = 0; i < r && stays; i++) same_bytes("weight", s + i * lds + count, was + i * lds + t, sizeof *s);
            for (int i = 0; i < r && !stays; i++) sums[i] += (double)was[i * lds + t];
            count += stays;
        }
        for (int i = 0; i < r; i++) near_value("left", j, left[i * MKA_SIFT_MOST + j], sums[i], 24 * EPS * sums[i]);
    }
    assert_int_equal(got, count);
    release();
}

/* ---- scan ---- */

typedef struct {
    int r, d;
    unsigned char *block;
    uint8_t *tables;
    mka_scan_row *rows;
    float *e, *mass;
} scan_case;

static scan_case random_scan(int r, int d) {
    scan_case c = {.r = r, .d = d};
    size_t bytes = mka_scan_block_bytes(d), entries = (size_t)mka_scan_lines(d) * (size_t)r * 32;
    c.block = aligned_alloc(64, bytes);
    assert_non_null(c.block);
    float *x = floats(d);
    for (int t = 0; t < MKA_SCAN_TOKENS; t++) {
        fill(d, x, PLAIN);
        mka_put_signs(d, x, 0.01F + 0.05F * fabsf(random_unit()), c.block, t);
    }
    c.tables = buffer(entries, 1);
    int full = random_int(0, 4) == 0; /* sums as large as they can be */
    for (size_t i = 0; i < entries; i++) c.tables[i] = (uint8_t)(full ? MKA_SCAN_MOST : random_int(0, MKA_SCAN_MOST));
    c.rows = buffer((size_t)r * sizeof *c.rows, sizeof(float));
    for (int i = 0; i < r; i++) {
        float step = 0.05F + 0.5F * fabsf(random_unit()), middle = 31.0F * (float)mka_scan_lines(d);
        c.rows[i] = (mka_scan_row){step,
                                   -step * middle,
                                   random_unit() + 1.0F,
                                   8 * random_unit(),
                                   5 * fabsf(random_unit()),
                                   random_int(0, 9)   ? 12 * random_unit() + 4
                                   : random_int(0, 1) ? INFINITY
                                                      : -INFINITY};
    }
    c.e = floats(r * MKA_SCAN_TOKENS);
    c.mass = floats(r * MKA_SCAN_MASSES);
    return c;
}

static void free_scan(scan_case *c) {
    free(c->block);
    release();
}

static float factor_of(const scan_case *c, int t) {
    float f;
    scalar()->load[MKA_F16](1, c->block + (size_t)mka_scan_lines(c->d) * MKA_SCAN_TOKENS + (size_t)t * 2, &f);
    return f;
}

/* Row i and token t of the formula; tie: how far rounding may carry either exponent. */
static void exponents(const scan_case *c, int i, int t, double *weight, double *most, double *tie) {
    const mka_scan_row *row = &c->rows[i];
    unsigned sum = 0;
    for (int line = 0; line < mka_scan_lines(c->d); line++) {
        const uint8_t *table = c->tables + ((size_t)line * (size_t)c->r + (size_t)i) * 32;
        unsigned code = c->block[(size_t)line * MKA_SCAN_TOKENS + (size_t)t];
        sum += (unsigned)table[code & 15] + table[16 + (code >> 4)];
    }
    double f = (double)factor_of(c, t), x = (double)row->step * sum + (double)row->base;
    double terms =
        fabs(f) * ((double)row->step * sum + fabs((double)row->base) + fabs((double)row->margin) + fabs((double)row->curve * f)) +
        fabs((double)row->shift);
    *weight = f * (x - (double)row->curve * f) + (double)row->shift;
    *most = f * (x + (double)row->margin) + (double)row->shift;
    *tie = 1e-5 + 1e-5 * terms;
}

static void check_weight(int index, float e, double exponent, double tie) {
    double want = exp2(fmin(exponent, 126)), slack = want * (0.04 + tie);
    if (exponent + tie < -125)
        near_value("e", index, e, 0, 0);
    else if (exponent - tie > -125)
        near_value("e", index, e, want, slack);
    else
        near_value("e", index, e, want / 2, want / 2 + slack);
    if (e > 0x1p126F * 1.04F) wrong("e[%d] is %g", index, (double)e);
}

/* Masses are the sums of the level's own weights of the tokens that it does not want. */
static void check_masses(const scan_case *c, uint64_t wanted) {
    for (int i = 0; i < c->r; i++)
        for (int b = 0; b < MKA_SCAN_MASSES; b++) {
            double sum = 0, magnitude = 0;
            for (int t = 16 * b; t < 16 * b + 16; t++)
                if (!(wanted >> t & 1)) {
                    sum += (double)c->e[i * MKA_SCAN_TOKENS + t];
                    magnitude += fabs((double)c->e[i * MKA_SCAN_TOKENS + t]);
                }
            if (sum > (double)FLT_MAX) sum = (double)INFINITY;
            near_value("mass", i * MKA_SCAN_MASSES + b, c->mass[i * MKA_SCAN_MASSES + b], sum, 16 * EPS * magnitude);
        }
}

static void check_scan(const mka_kernels *k) {
    int r, d;
    random_shape(&r, &d);
    case_is("%s scan r=%d d=%d", k->level, r, d);
    scan_case c = random_scan(r, d);
    uint64_t got = k->scan(r, d, c.block, c.tables, c.rows, c.e, c.mass), must = 0, may = 0;
    for (int i = 0; i < r; i++)
        for (int t = 0; t < MKA_SCAN_TOKENS; t++) {
            double weight, most, tie, floor = (double)c.rows[i].floor;
            exponents(&c, i, t, &weight, &most, &tie);
            check_weight(i * MKA_SCAN_TOKENS + t, c.e[i * MKA_SCAN_TOKENS + t], weight, tie);
            if (most - tie > floor) must |= (uint64_t)1 << t;
            if (most + tie > floor) may |= (uint64_t)1 << t;
        }
    if ((got & must) != must || (got & ~may))
        wrong("wanted %016llx, should be between %016llx and %016llx", (unsigned long long)got, (unsigned long long)must,
              (unsigned long long)may);
    check_masses(&c, got);
    free_scan(&c);
}

/* One number of the input is not finite or far out of range: every level makes of it what scalar does. */
static void check_scan_extremes(const mka_kernels *k) {
    static const float values[] = {NAN, INFINITY, -INFINITY, 1e30F, -1e30F, 1e-42F, 0, 65504, -65504};
    int r = random_int(1, 9), d = random_int(1, 140), t = random_int(0, 63), i = random_int(0, r - 1), what = random_int(0, 6);
    float value = values[random_int(0, 8)];
    scan_case c = random_scan(r, d);
    case_is("%s scan r=%d d=%d with %g as number %d of row %d or token %d", k->level, r, d, (double)value, what, i, t);
    mka_scan_row *row = &c.rows[i];
    float *places[] = {&row->step, &row->base, &row->curve, &row->shift, &row->margin, &row->floor};
    if (what < 6)
        *places[what] = value;
    else
        scalar()->store[MKA_F16](1, &value, c.block + (size_t)mka_scan_lines(d) * MKA_SCAN_TOKENS + (size_t)t * 2);
    float *e = floats(r * MKA_SCAN_TOKENS), *mass = floats(r * MKA_SCAN_MASSES);
    uint64_t want = scalar()->scan(r, d, c.block, c.tables, c.rows, e, mass);
    uint64_t got = k->scan(r, d, c.block, c.tables, c.rows, c.e, c.mass);
    for (int u = 0; u < MKA_SCAN_TOKENS; u++) {
        int close = 0;
        for (int j = 0; j < r; j++) {
            double weight, most, tie, floor = (double)c.rows[j].floor;
            exponents(&c, j, u, &weight, &most, &tie);
            close |= isfinite(most) && isfinite(tie) && fabs(most - floor) <= tie;
            int at = j * MKA_SCAN_TOKENS + u;
            if (isnan(e[at]))
                near_value("e", at, c.e[at], NAN, 0);
            else if (isfinite(tie) && tie < 0.01)
                check_weight(at, c.e[at], weight, tie);
            else if (isinf(weight) || fabs(weight) > tie + 126)
                near_value("e", at, c.e[at], (double)e[at], 1e-6 * (double)e[at]);
        }
        if (!close && (got >> u & 1) != (want >> u & 1)) wrong("token %d: wanted is %d", u, (int)(got >> u & 1));
    }
    check_masses(&c, got);
    free_scan(&c);
}

/* ---- clusters ---- */

static double cluster_lift(double g) {
    return g < 1 ? 0.5 * g * g : g - 0.5;
}

/* Weights and choices of clusters against their formulas; choices that rounding may decide either way are let be. */
static void check_clusters(const mka_kernels *k) {
    int n = 16 * random_int(1, 4), nan = random_int(0, 3) ? -1 : random_int(0, n - 1);
    float *s = floats(n), *deviation = floats(n), *count = floats(n), *worth = floats(n), before[64];
    float constant = random_float(PLAIN), gain = 3 * fabsf(random_float(PLAIN)), floor = random_float(PLAIN);
    for (int t = 0; t < n; t++) {
        s[t] = before[t] = t == nan ? NAN : 4 * random_float(PLAIN);
        deviation[t] = (t % 2 ? 2 : 8) * fabsf(random_float(PLAIN));
        count[t] = t % 7 == 3 ? -INFINITY : 2 * fabsf(random_float(PLAIN));
        worth[t] = t % 7 == 3 ? -INFINITY : random_float(PLAIN);
    }
    uint64_t bits = k->above(n, s, gain, deviation, worth, floor);
    k->weigh(n, constant, gain, deviation, count, s);
    assert_true(n == 64 || bits >> n == 0);
    for (int t = 0; t < n; t++) {
        double g = (double)gain * (double)deviation[t], lift = cluster_lift(g);
        double want = (double)before[t] + (double)constant + (lift < 2.5 ? lift : 2.5) + (double)count[t];
        double key = (double)before[t] + fmax(0.5 * lift, 2.5 * g - 7.25) + (double)worth[t] - (double)floor;
        if (t == nan) {
            assert_true(isnan(s[t]) && (bits >> t & 1));
            continue;
        }
        assert_true(isinf(want) ? s[t] == (float)want : fabs((double)s[t] - want) < 1e-5 * (1 + fabs(want) + lift));
        if (isinf(key) || fabs(key) > 1e-5 * (10 + lift)) assert_int_equal(bits >> t & 1, key > 0);
    }
    release();
}

/* ---- many queries ---- */

/* Estimates against double arithmetic: weights within 4 %, their sums and squares of what the level itself has made. */
static void check_estimate(const mka_kernels *k) {
    int r = random_int(1, 40), n = 16 * random_int(1, 16), lds = n + random_int(0, 5), begun = random_int(0, 2),
        nan = random_int(0, 3) ? -1 : random_int(0, r - 1);
    float scale = random_int(0, 2) ? 6.0F : 60.0F;
    case_is("%s estimate r=%d n=%d lds=%d nan=%d", k->level, r, n, lds, nan);
    float *s = random_floats(r * lds, PLAIN), *bias = floats(n), *m = floats(r), *z = floats(r), *c = floats(r),
          *squares = floats(n);
    for (int i = 0; i < r * lds; i++) s[i] *= scale;
    for (int t = 0; t < n; t++) bias[t] = random_int(0, 7) ? 2 * random_unit() : -INFINITY;
    for (int i = 0; i < r; i++) m[i] = begun ? scale * random_unit() : -INFINITY, z[i] = begun ? 2 + random_unit() : 0;
    if (nan >= 0) s[nan * lds + random_int(0, n - 1)] = NAN;
    float *was = copy_floats(r * lds, s), *was_m = copy_floats(r, m), *was_z = copy_floats(r, z);
    k->estimate(r, n, bias, s, lds, m, z, c, squares);
    for (int i = 0; i < r; i++) {
        double most = (double)was_m[i], sum = 0;
        for (int t = 0; t < n; t++)
            if (!isnan(was[i * lds + t])) most = fmax(most, (double)(was[i * lds + t] + bias[t]));
        near_value("m", i, m[i], most, 1e-6 * fabs(most));
        near_value("c", i, c[i], most == (double)was_m[i] ? 1 : exp((double)was_m[i] - most), 1e-4);
        for (int t = 0; t < n; t++) {
            double x = (double)was[i * lds + t] + (double)bias[t] - (most > -INFINITY ? most : 0), want = exp(x);
            near_value("s", i * lds + t, s[i * lds + t], want, want * 0.042 + 1e-35);
            sum += (double)s[i * lds + t];
        }
        near_value("z", i, z[i], (double)c[i] * (double)was_z[i] + sum, (n + 4) * EPS * (sum + (double)was_z[i]));
        same_bytes("what lies between rows of s", s + i * lds + n, was + i * lds + n, (size_t)(lds - n) * sizeof *s);
    }
    for (int t = 0; t < n; t++) {
        double want = 0;
        for (int i = 0; i < r; i++) {
            double share = z[i] != 0 ? (double)s[i * lds + t] / (double)z[i] : 0;
            want += isnan(z[i]) ? 0 : share * share;
        }
        if (nan >= 0 && isnan(squares[t])) continue; /* of the row with a NaN all may be, that number must be */
        near_value("squares", t, squares[t], want, (r + 8) * EPS * want + 1e-36);
    }
    release();
}

static void check_keep(const mka_kernels *k) {
    int r = random_int(1, 40), n = 16 * random_int(1, 16), lds = n + random_int(0, 5);
    case_is("%s keep r=%d n=%d lds=%d", k->level, r, n, lds);
    float *s = random_floats(r * lds, PLAIN), *kept = floats(n), *sum = floats(r), *was = copy_floats(r * lds, s);
    for (int t = 0; t < n; t++) kept[t] = random_int(0, 1) ? 1.0F : 0.0F;
    k->keep(r, n, kept, s, lds, sum);
    for (int i = 0; i < r; i++) {
        double want = 0, magnitude = 0;
        for (int t = 0; t < n; t++) {
            near_value("s", i * lds + t, s[i * lds + t], (double)was[i * lds + t] * (double)kept[t], 0);
            want += (double)s[i * lds + t], magnitude += fabs((double)s[i * lds + t]);
        }
        near_value("sum", i, sum[i], want, n * EPS * magnitude);
        same_bytes("what lies between rows of s", s + i * lds + n, was + i * lds + n, (size_t)(lds - n) * sizeof *s);
    }
    release();
}

/* Rows become tiles: every level's are scalar's, byte for byte, and slots hold what rows stand for. */
static void check_rows_tiles(const mka_kernels *k) {
    static const mka_type kinds[] = {MKA_BF16, MKA_Q8_0, MKA_Q4_0};
    mka_type type = kinds[random_int(0, 2)];
    int d = random_int(0, 1) ? 32 * random_int(1, 8) : random_int(1, 256), n = random_int(0, 1) ? 32 : random_int(1, 32);
    case_is("%s rows to tiles %s d=%d n=%d", k->level, mka_type_name(type), d, n);
    size_t bytes[2] = {mka_key_tile_bytes(MKA_BF16, d), mka_value_tile_bytes(MKA_BF16, d)};
    float *x = floats(n * d), *back = floats(d);
    const void **rows = random_rows(type, n, d, x);
    for (int values = 0; values < 2; values++) {
        unsigned char *tile = aligned_alloc(64, bytes[values]), *want = aligned_alloc(64, bytes[values]);
        assert_true(tile && want);
        memset(tile, 0xa5, bytes[values]);
        (values ? k->rows_values : k->rows_keys)[type](d, n, rows, tile);
        (values ? scalar()->rows_values : scalar()->rows_keys)[type](d, n, rows, want);
        same_bytes("tile", tile, want, bytes[values]);
        for (int t = 0; t < MKA_TILE; t++) {
            (values ? mka_get_value : mka_get_key)(MKA_BF16, d, tile, t, back);
            for (int e = 0; e < d; e++) {
                double number = t < n ? (double)x[t * d + e] : 0;
                near_value(values ? "value" : "key", t * d + e, back[e], number, 0x1p-8 * fabs(number));
            }
        }
        free(tile);
        free(want);
    }
    release();
}

/* Q8 tiles become BF16 tiles, which hold the same numbers to nearest even. */
static void check_widen(const mka_kernels *k) {
    int d = 32 * random_int(1, 8), tiles = random_int(1, 5);
    case_is("%s widen d=%d tiles=%d", k->level, d, tiles);
    if (!k->widen_keys) return;
    float *x = floats(d);
    for (int values = 0; values < 2; values++) {
        size_t from = values ? mka_value_tile_bytes(MKA_Q8_0, d) : mka_key_tile_bytes(MKA_Q8_0, d),
               to = values ? mka_value_tile_bytes(MKA_BF16, d) : mka_key_tile_bytes(MKA_BF16, d);
        unsigned char *narrow = aligned_alloc(64, (size_t)tiles * from), *wide = aligned_alloc(64, (size_t)tiles * to),
                      *want = aligned_alloc(64, (size_t)tiles * to);
        assert_true(narrow && wide && want);
        for (int t = 0; t < tiles * MKA_TILE; t++) {
            size_t tile = (size_t)(t / MKA_TILE);
            fill(d, x, PLAIN);
            (values ? mka_put_value : mka_put_key)(MKA_Q8_0, NULL, d, x, narrow + tile * from, t % MKA_TILE);
            (values ? mka_get_value : mka_get_key)(MKA_Q8_0, d, narrow + tile * from, t % MKA_TILE, x);
            (values ? mka_put_value : mka_put_key)(MKA_BF16, scalar()->store[MKA_BF16], d, x, want + tile * to, t % MKA_TILE);
        }
        (values ? k->widen_values : k->widen_keys)(d, tiles, narrow, wide);
        same_bytes("tiles", wide, want, (size_t)tiles * to);
        free(narrow);
        free(wide);
        free(want);
    }
    release();
}

#define TEST(name, rounds)                                                                                                       \
    static void test_##name(void **state) {                                                                                      \
        (void)state;                                                                                                             \
        each_level(check_##name, rounds);                                                                                        \
    }
TEST(rows, 60)
TEST(rows_score, 200)
TEST(rows_mix, 200)
TEST(rows_nan, 100)
TEST(sift, 200)
TEST(scan, 200)
TEST(scan_extremes, 300)
TEST(clusters, 300)
TEST(estimate, 200)
TEST(keep, 100)
TEST(rows_tiles, 200)
TEST(widen, 100)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),          cmocka_unit_test(test_rows_score), cmocka_unit_test(test_rows_mix),
        cmocka_unit_test(test_rows_nan),      cmocka_unit_test(test_sift),       cmocka_unit_test(test_scan),
        cmocka_unit_test(test_scan_extremes), cmocka_unit_test(test_clusters),   cmocka_unit_test(test_estimate),
        cmocka_unit_test(test_keep),          cmocka_unit_test(test_rows_tiles), cmocka_unit_test(test_widen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
