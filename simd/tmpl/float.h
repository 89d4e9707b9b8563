/* float - the kernels over float32 rows, for the vectors of the header that was included before. Included once a level. */
#include "tmpl/math.h"

/* Sums run in at least 16 lanes on every level. */
enum { LANES = 16, CHAINS = VW >= LANES ? 2 : LANES / VW };

static float dot(int n, const float *a, const float *b) {
    vf s[CHAINS];
    for (int c = 0; c < CHAINS; c++) s[c] = v_zero();
    int i = 0;
    for (; i + CHAINS * VW <= n; i += CHAINS * VW)
        for (int c = 0; c < CHAINS; c++) s[c] = v_fma(v_load(a + i + c * VW), v_load(b + i + c * VW), s[c]);
    for (; i + VW <= n; i += VW) s[0] = v_fma(v_load(a + i), v_load(b + i), s[0]);
    if (i < n) s[1] = v_fma(v_load_n(a + i, n - i), v_load_n(b + i, n - i), s[1]);
    for (int c = 1; c < CHAINS; c++) s[0] = v_add(s[0], s[c]);
    return v_sum(s[0]);
}

/* Applies EXPRESSION of x = from[i..] (and whatever else it loads with LOAD) to a whole row, the tail through v_load_n. */
#define ROW_KERNEL(n, from, to, EXPRESSION)                                                                                      \
    do {                                                                                                                         \
        int i = 0;                                                                                                               \
        for (; i + VW <= (n); i += VW) {                                                                                         \
            vf x_ = v_load((from) + i);                                                                                          \
            v_store((to) + i, EXPRESSION(x_, WHOLE));                                                                            \
        }                                                                                                                        \
        if (i < (n)) {                                                                                                           \
            vf x_ = v_load_n((from) + i, (n)-i);                                                                                 \
            v_store_n((to) + i, EXPRESSION(x_, PART), (n)-i);                                                                    \
        }                                                                                                                        \
    } while (0)
#define WHOLE(p) v_load((p) + i)
#define PART(p)  v_load_n((p) + i, n - i)

static void axpy(int n, float a, const float *x, float *y) {
#define AXPY(v, LOAD) v_fma(v_set(a), v, LOAD(y))
    ROW_KERNEL(n, x, y, AXPY);
}

static void add(int n, const float *x, float *y) {
#define ADD(v, LOAD) v_add(v, LOAD(y))
    ROW_KERNEL(n, x, y, ADD);
}

/* Several vectors side by side, since each chain of maxima or sums waits for its own last step. */
static float row_max(int n, const float *x, float start) {
    vf max[4];
    for (int c = 0; c < 4; c++) max[c] = v_set(start);
    int i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        for (int c = 0; c < 4; c++) max[c] = v_max(v_load(x + i + c * VW), max[c]);
    for (; i + VW <= n; i += VW) max[0] = v_max(v_load(x + i), max[0]);
    float most = v_hmax(v_max(v_max(max[0], max[1]), v_max(max[2], max[3])));
    for (; i < n; i++) most = fmaxf(most, x[i]);
    return most;
}

/* x <- exp(x - max), returns the sum. No x is above max. */
static float exp_row(int n, float max, float *x) {
    vf base = v_set(max), sum = v_zero(), other = v_zero();
    int i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        vf e = v_exp_below(v_sub(v_load(x + i), base)), f = v_exp_below(v_sub(v_load(x + i + VW), base));
        v_store(x + i, e);
        v_store(x + i + VW, f);
        sum = v_add(sum, e);
        other = v_add(other, f);
    }
    for (; i + VW <= n; i += VW) {
        vf e = v_exp_below(v_sub(v_load(x + i), base));
        v_store(x + i, e);
        sum = v_add(sum, e);
    }
    float total = v_sum(v_add(sum, other));
    if (i < n) {
        float tail[VW];
        v_store(tail, v_exp_below(v_sub(v_load_n(x + i, n - i), base)));
        for (int k = 0; i < n; i++, k++) {
            x[i] = tail[k];
            total += tail[k];
        }
    }
    return total;
}

/* All rows' maxima first: what each waits for at its end is hidden behind the next row's loop. */
static void online(int r, int n, float *s, int lds, float *m, float *z, float *c) {
    for (int i = 0; i < r; i++) {
        float max = row_max(n, s + (ptrdiff_t)i * lds, m[i]);
        c[i] = max == -INFINITY ? 1.0f : expf(m[i] - max);
        z[i] *= c[i];
        m[i] = max;
    }
    /* With nothing but masked keys so far, any finite base turns scores of -inf into weights of 0. */
    for (int i = 0; i < r; i++) z[i] += exp_row(n, m[i] == -INFINITY ? 0.0f : m[i], s + (ptrdiff_t)i * lds);
}

static void softmax(int n, float *x) {
    float max = row_max(n, x, -INFINITY), sum = exp_row(n, max, x);
    vf whole = v_set(sum);
#define QUOTIENT(v, LOAD) v_div(v, whole)
    ROW_KERNEL(n, x, x, QUOTIENT);
}

static void rms_norm(int n, float eps, const float *x, const float *w, float *y) {
    vf scale = v_set(1.0f / sqrtf(dot(n, x, x) / (float)n + eps));
#define SCALED(v, LOAD)   v_mul(v, scale)
#define WEIGHTED(v, LOAD) v_mul(v_mul(v, scale), LOAD(w))
    if (w)
        ROW_KERNEL(n, x, y, WEIGHTED);
    else
        ROW_KERNEL(n, x, y, SCALED);
}

static void rope_half(int n, float *x, const float *cosine, const float *sine) {
    int i = 0;
    for (; i + VW <= n; i += VW) {
        vf a = v_load(x + i), b = v_load(x + n + i), c = v_load(cosine + i), s = v_load(sine + i);
        v_store(x + i, v_fnma(b, s, v_mul(a, c)));
        v_store(x + n + i, v_fma(a, s, v_mul(b, c)));
    }
    for (; i < n; i++) {
        float a = x[i], b = x[i + n];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + n] = b * cosine[i] + a * sine[i];
    }
}

static void rope_pairs(int n, float *x, const float *cosine, const float *sine) {
    int i = 0;
    for (; i + VW / 2 <= n; i += VW / 2) {
        float *pair = x + 2 * (ptrdiff_t)i;
        v_store(pair, v_rotate_pairs(v_load(pair), v_double(cosine + i), v_double(sine + i)));
    }
    for (; i < n; i++) {
        float *pair = x + 2 * (ptrdiff_t)i, a = pair[0], b = pair[1];
        pair[0] = a * cosine[i] - b * sine[i];
        pair[1] = b * cosine[i] + a * sine[i];
    }
}

static void swiglu(int n, const float *gate, const float *up, float *y) {
#define SWIGLU(v, LOAD) v_mul(v_silu(v), LOAD(up))
    ROW_KERNEL(n, gate, y, SWIGLU);
}

static void geglu(int n, const float *gate, const float *up, float *y) {
#define GEGLU(v, LOAD) v_mul(v_gelu_tanh(v), LOAD(up))
    ROW_KERNEL(n, gate, y, GEGLU);
}

static void silu(int n, float *x) {
#define SILU(v, LOAD) v_silu(v)
    ROW_KERNEL(n, x, x, SILU);
}

static void gelu(int n, float *x) {
#define GELU(v, LOAD) v_gelu_erf(v)
    ROW_KERNEL(n, x, x, GELU);
}

static void ema(int n, float beta, const float *x, float *m) {
#define EMA(v, LOAD) v_fma(v_set(beta), LOAD(m), v_mul(v_set(1.0f - beta), v))
    ROW_KERNEL(n, x, m, EMA);
}

static void fuse(int levels, int n, const float *lambda, const float *const *rows, float *y) {
    const float *first = rows[0], *second = rows[levels > 1], *third = rows[levels > 2 ? 2 : 0];
    vf a = v_set(lambda[0]), b = v_set(levels > 1 ? lambda[1] : 0), c = v_set(levels > 2 ? lambda[2] : 0);
#define FUSE1(v, LOAD) v_mul(a, v)
#define FUSE2(v, LOAD) v_fma(b, LOAD(second), v_mul(a, v))
#define FUSE3(v, LOAD) v_fma(c, LOAD(third), FUSE2(v, LOAD))
    if (levels == 1)
        ROW_KERNEL(n, first, y, FUSE1);
    else if (levels == 2)
        ROW_KERNEL(n, first, y, FUSE2);
    else
        ROW_KERNEL(n, first, y, FUSE3);
}

void LEVEL(fill_float)(mka_kernels *k);
void LEVEL(fill_float)(mka_kernels *k) {
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
