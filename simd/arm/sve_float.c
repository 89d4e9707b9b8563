/* sve_float - kernels over float32 rows, conversions of 16-bit floats and products with unquantised weights on SVE of any
 * vector length, and the level's table. */
#include "arm/vec_sve.h"
#include "levels.h"
#include "tmpl/math.h"

/* Runs BODY for every vector of 0..n-1: i is its first element, p its lanes. */
#define EACH_VECTOR(n, BODY)                                                                                                     \
    for (int64_t i = 0; i < (n); i += (int64_t)svcntw()) {                                                                       \
        svbool_t p = svwhilelt_b32(i, (int64_t)(n));                                                                             \
        BODY                                                                                                                     \
    }
#define STORE_EACH(n, to, EXPRESSION) EACH_VECTOR(n, svst1(p, (to) + i, EXPRESSION);)
#define AT(x)                         svld1(p, (x) + i)

static float dot(int n, const float *a, const float *b) {
    const svbool_t all = svptrue_b32();
    const int64_t width = (int64_t)svcntw();
    vf s0 = v_zero(), s1 = v_zero(), s2 = v_zero(), s3 = v_zero();
    int64_t i = 0;
    for (; i + 4 * width <= n; i += 4 * width) {
        s0 = v_fma(svld1(all, a + i), svld1(all, b + i), s0);
        s1 = v_fma(svld1(all, a + i + width), svld1(all, b + i + width), s1);
        s2 = v_fma(svld1(all, a + i + 2 * width), svld1(all, b + i + 2 * width), s2);
        s3 = v_fma(svld1(all, a + i + 3 * width), svld1(all, b + i + 3 * width), s3);
    }
#define LAST(s, k)                                                                                                               \
    if (i + (k)*width < n) {                                                                                                     \
        svbool_t p = svwhilelt_b32(i + (k)*width, (int64_t)n);                                                                   \
        s = v_fma(svld1(p, a + i + (k)*width), svld1(p, b + i + (k)*width), s);                                                  \
    }
    LAST(s0, 0)
    LAST(s1, 1)
    LAST(s2, 2)
    LAST(s3, 3)
    return svaddv(all, v_add(v_add(s0, s1), v_add(s2, s3)));
}

static void axpy(int n, float a, const float *x, float *y) {
    STORE_EACH(n, y, v_fma(v_set(a), AT(x), AT(y)))
}

static void add(int n, const float *x, float *y) {
    STORE_EACH(n, y, v_add(AT(x), AT(y)))
}

static float row_max(int n, const float *x, float start) {
    vf most = v_set(start);
    EACH_VECTOR(n, most = svmaxnm_m(p, most, AT(x));)
    return svmaxnmv(svptrue_b32(), most);
}

/* x <- exp(x - max), returns the sum. */
static float exp_row(int n, float max, float *x) {
    vf base = v_set(max), sum = v_zero();
    EACH_VECTOR(n, vf e = v_exp(v_sub(AT(x), base)); svst1(p, x + i, e); sum = svadd_m(p, sum, e);)
    return svaddv(svptrue_b32(), sum);
}

static void online(int r, int n, float *s, int lds, float *m, float *z, float *c) {
    for (int i = 0; i < r; i++) {
        float *row = s + (ptrdiff_t)i * lds, max = row_max(n, row, m[i]);
        /* With nothing but masked keys so far, any finite base turns scores of -inf into weights of 0. */
        int empty = max == -INFINITY;
        c[i] = empty ? 1.0f : expf(m[i] - max);
        z[i] = c[i] * z[i] + exp_row(n, empty ? 0.0f : max, row);
        m[i] = max;
    }
}

static void softmax(int n, float *x) {
    float max = row_max(n, x, -INFINITY);
    vf whole = v_set(exp_row(n, max, x));
    STORE_EACH(n, x, v_div(AT(x), whole))
}

static void rms_norm(int n, float eps, const float *x, const float *w, float *y) {
    vf scale = v_set(1.0f / sqrtf(dot(n, x, x) / (float)n + eps));
    if (w)
        STORE_EACH(n, y, v_mul(v_mul(AT(x), scale), AT(w)))
    else
        STORE_EACH(n, y, v_mul(AT(x), scale))
}

static void rope_half(int n, float *x, const float *cosine, const float *sine) {
    float *second = x + n;
    EACH_VECTOR(n, vf a = AT(x); vf b = AT(second); vf c = AT(cosine); vf s = AT(sine);
                svst1(p, x + i, v_fnma(b, s, v_mul(a, c))); svst1(p, second + i, v_fma(a, s, v_mul(b, c)));)
}

static void rope_pairs(int n, float *x, const float *cosine, const float *sine) {
    EACH_VECTOR(n, svfloat32x2_t both = svld2(p, x + 2 * i); vf a = svget2(both, 0); vf b = svget2(both, 1); vf c = AT(cosine);
                vf s = AT(sine); svst2(p, x + 2 * i, svcreate2(v_fnma(b, s, v_mul(a, c)), v_fma(a, s, v_mul(b, c))));)
}

static void swiglu(int n, const float *gate, const float *up, float *y) {
    STORE_EACH(n, y, v_mul(v_silu(AT(gate)), AT(up)))
}

static void geglu(int n, const float *gate, const float *up, float *y) {
    STORE_EACH(n, y, v_mul(v_gelu_tanh(AT(gate)), AT(up)))
}

static void silu(int n, float *x) {
    STORE_EACH(n, x, v_silu(AT(x)))
}

static void gelu(int n, float *x) {
    STORE_EACH(n, x, v_gelu_erf(AT(x)))
}

static void ema(int n, float beta, const float *x, float *m) {
    STORE_EACH(n, m, v_fma(v_set(beta), AT(m), v_mul(v_set(1.0f - beta), AT(x))))
}

static void fuse(int levels, int n, const float *lambda, const float *const *rows, float *y) {
    const float *first = rows[0], *second = rows[levels > 1], *third = rows[levels > 2 ? 2 : 0];
    vf a = v_set(lambda[0]), b = v_set(levels > 1 ? lambda[1] : 0), c = v_set(levels > 2 ? lambda[2] : 0);
    if (levels == 1)
        STORE_EACH(n, y, v_mul(a, AT(first)))
    else if (levels == 2)
        STORE_EACH(n, y, v_fma(b, AT(second), v_mul(a, AT(first))))
    else
        STORE_EACH(n, y, v_fma(c, AT(third), v_fma(b, AT(second), v_mul(a, AT(first)))))
}

/* One type of rows: conversions, and products of a matrix with a vector, four rows at a time. Elements need no alignment. */
#define TYPED_KERNELS(type, element, LOAD, STORE)                                                                                \
    static void load_##type(int n, const void *x, float *y) {                                                                    \
        const element *from = x;                                                                                                 \
        STORE_EACH(n, y, LOAD(p, from + i))                                                                                      \
    }                                                                                                                            \
    static void store_##type(int n, const float *x, void *y) {                                                                   \
        element *to = y;                                                                                                         \
        EACH_VECTOR(n, STORE(p, to + i, AT(x));)                                                                                 \
    }                                                                                                                            \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const float *x, float *y) {                        \
        const char *first = w;                                                                                                   \
        const svbool_t all = svptrue_b32();                                                                                      \
        int j = 0;                                                                                                               \
        for (; j + 4 <= rows; j += 4, first += 4 * row_bytes) {                                                                  \
            const element *a = (const void *)first, *b = (const void *)(first + row_bytes);                                      \
            const element *c = (const void *)(first + 2 * row_bytes), *d = (const void *)(first + 3 * row_bytes);                \
            vf sa = v_zero(), sb = v_zero(), sc = v_zero(), sd = v_zero();                                                       \
            EACH_VECTOR(n, vf v = AT(x); sa = v_fma(LOAD(p, a + i), v, sa); sb = v_fma(LOAD(p, b + i), v, sb);                   \
                        sc = v_fma(LOAD(p, c + i), v, sc); sd = v_fma(LOAD(p, d + i), v, sd);)                                   \
            y[j] = svaddv(all, sa), y[j + 1] = svaddv(all, sb), y[j + 2] = svaddv(all, sc), y[j + 3] = svaddv(all, sd);          \
        }                                                                                                                        \
        for (; j < rows; j++, first += row_bytes) {                                                                              \
            const element *a = (const void *)first;                                                                              \
            vf sa = v_zero();                                                                                                    \
            EACH_VECTOR(n, sa = svmla_m(p, sa, LOAD(p, a + i), AT(x));)                                                          \
            y[j] = svaddv(all, sa);                                                                                              \
        }                                                                                                                        \
    }

TYPED_KERNELS(f32, float, svld1, svst1)
TYPED_KERNELS(f16, uint16_t, v_load_f16, v_store_f16)
TYPED_KERNELS(bf16, uint16_t, v_load_bf16, v_store_bf16)

void mka_sve_fill(mka_kernels *k) {
    k->dot = dot;
    k->axpy = axpy;
    k->add = add;
    k->online = online;
    k->softmax = softmax;
    k->rms_norm = rms_norm;
    k->rope_half = rope_half;
    k->rope_pairs = rope_pairs;
    k->swiglu = swiglu;
    k->geglu = geglu;
    k->silu = silu;
    k->gelu = gelu;
    k->ema = ema;
    k->fuse = fuse;
#define FILL(TYPE, type)                                                                                                         \
    k->load[MKA_##TYPE] = load_##type, k->store[MKA_##TYPE] = store_##type, k->gemv_f32[MKA_##TYPE] = gemv_##type
    FILL(F32, f32);
    FILL(F16, f16);
    FILL(BF16, bf16);
}
