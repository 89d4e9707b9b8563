/* scalar_float - plain C kernels over float32 rows. Sums run in 16 lanes, as the vector levels do, so that long rows lose no
 * more here than there. */
#include <math.h>

#include "levels.h"
#include "scalar.h"

enum { LANES = 16 };

static float lanes_sum(const float *s) {
    float a[8], b[4];
    for (int i = 0; i < 8; i++) a[i] = s[i] + s[i + 8];
    for (int i = 0; i < 4; i++) b[i] = a[i] + a[i + 4];
    return (b[0] + b[2]) + (b[1] + b[3]);
}

static float dot(int n, const float *a, const float *b) {
    float s[LANES] = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) s[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; i++, l++) s[l] += a[i] * b[i];
    return lanes_sum(s);
}

static void axpy(int n, float a, const float *x, float *y) {
    for (int i = 0; i < n; i++) y[i] += a * x[i];
}

static void add(int n, const float *x, float *y) {
    for (int i = 0; i < n; i++) y[i] += x[i];
}

/* x <- exp(x - max), returns the sum. */
static float exp_row(int n, float max, float *x) {
    float s[LANES] = {0};
    for (int i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        s[i % LANES] += x[i];
    }
    return lanes_sum(s);
}

static void online(int r, int n, float *s, int lds, float *m, float *z, float *c) {
    for (int i = 0; i < r; i++) {
        float *row = s + (ptrdiff_t)i * lds, max = m[i];
        for (int t = 0; t < n; t++) max = fmaxf(max, row[t]);
        /* With nothing but masked keys so far, any finite base turns scores of -inf into weights of 0. */
        int empty = max == -INFINITY;
        c[i] = empty ? 1.0f : expf(m[i] - max);
        z[i] = c[i] * z[i] + exp_row(n, empty ? 0.0f : max, row);
        m[i] = max;
    }
}

static void softmax(int n, float *x) {
    float max = -INFINITY;
    for (int i = 0; i < n; i++) max = fmaxf(max, x[i]);
    float sum = exp_row(n, max, x);
    for (int i = 0; i < n; i++) x[i] /= sum;
}

static void rms_norm(int n, float eps, const float *x, const float *w, float *y) {
    float scale = 1.0f / sqrtf(dot(n, x, x) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = w ? x[i] * scale * w[i] : x[i] * scale;
}

static void rope_half(int n, float *x, const float *cosine, const float *sine) {
    for (int i = 0; i < n; i++) {
        float a = x[i], b = x[i + n];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + n] = b * cosine[i] + a * sine[i];
    }
}

static void rope_pairs(int n, float *x, const float *cosine, const float *sine) {
    for (int i = 0; i < n; i++) {
        float a = x[2 * (ptrdiff_t)i], b = x[2 * (ptrdiff_t)i + 1];
        x[2 * (ptrdiff_t)i] = a * cosine[i] - b * sine[i];
        x[2 * (ptrdiff_t)i + 1] = b * cosine[i] + a * sine[i];
    }
}

static float silu_one(float x) {
    return x / (1.0f + expf(-x));
}

/* 0.5 x (1 + tanh u) written as x / (1 + exp(-2u)), which does not cancel for negative x. */
static float gelu_tanh_one(float x) {
    const float root = 0.7978845608f; /* sqrt(2 / pi) */
    return x / (1.0f + expf(-2.0f * root * x * (1.0f + 0.044715f * x * x)));
}

static void swiglu(int n, const float *gate, const float *up, float *y) {
    for (int i = 0; i < n; i++) y[i] = silu_one(gate[i]) * up[i];
}

static void geglu(int n, const float *gate, const float *up, float *y) {
    for (int i = 0; i < n; i++) y[i] = gelu_tanh_one(gate[i]) * up[i];
}

static void silu(int n, float *x) {
    for (int i = 0; i < n; i++) x[i] = silu_one(x[i]);
}

static void gelu(int n, float *x) {
    for (int i = 0; i < n; i++) x[i] = 0.5f * x[i] * erfcf(-0.70710678119f * x[i]);
}

static void ema(int n, float beta, const float *x, float *m) {
    for (int i = 0; i < n; i++) m[i] = beta * m[i] + (1.0f - beta) * x[i];
}

static void fuse(int levels, int n, const float *lambda, const float *const *rows, float *y) {
    for (int i = 0; i < n; i++) {
        float sum = lambda[0] * rows[0][i];
        for (int l = 1; l < levels; l++) sum += lambda[l] * rows[l][i];
        y[i] = sum;
    }
}

void mka_scalar_fill_float(mka_kernels *k) {
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
}

void mka_scalar_fill(mka_kernels *k) {
    mka_scalar_fill_float(k);
    mka_scalar_fill_typed(k);
    mka_scalar_fill_cache(k);
    mka_scalar_fill_recall(k);
    mka_scalar_fill_quant(k);
}
