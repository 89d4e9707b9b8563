/* scalar_typed - plain C kernels over rows stored as F32, F16 or BF16: conversions and products.
 *
 * Rows are converted in pieces of CHUNK elements, once for all query rows. */
#include "half.h"
#include "levels.h"
#include "scalar.h"

enum { CHUNK = 256, LANES = 16 };

static void load_f32(int n, const void *x, float *y) {
    if (n > 0) memcpy(y, x, (size_t)n * sizeof *y);
}

static void store_f32(int n, const float *x, void *y) {
    if (n > 0) memcpy(y, x, (size_t)n * sizeof *x);
}

static void load_f16(int n, const void *x, float *y) {
    for (int i = 0; i < n; i++) y[i] = f16_to_f32(load_u16((const char *)x + 2 * (size_t)i));
}

static void load_bf16(int n, const void *x, float *y) {
    for (int i = 0; i < n; i++) y[i] = bf16_to_f32(load_u16((const char *)x + 2 * (size_t)i));
}

static void store_f16(int n, const float *x, void *y) {
    for (int i = 0; i < n; i++) {
        uint16_t h = f32_to_f16(x[i]);
        memcpy((char *)y + 2 * (size_t)i, &h, sizeof h);
    }
}

static void store_bf16(int n, const float *x, void *y) {
    for (int i = 0; i < n; i++) {
        uint16_t h = f32_to_bf16(x[i]);
        memcpy((char *)y + 2 * (size_t)i, &h, sizeof h);
    }
}

/* s[l] += the products of one piece, in lanes. */
static void chunk_dot(int n, const float *a, const float *b, float *s) {
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) s[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; i++, l++) s[l] += a[i] * b[i];
}

static float lanes_sum(const float *s) {
    float a[8], b[4];
    for (int i = 0; i < 8; i++) a[i] = s[i] + s[i + 8];
    for (int i = 0; i < 4; i++) b[i] = a[i] + a[i + 4];
    return (b[0] + b[2]) + (b[1] + b[3]);
}

static inline float dot_row(mka_load_fn *load, int size, int n, const void *w, const float *x) {
    float s[LANES] = {0}, piece[CHUNK];
    for (int i = 0; i < n; i += CHUNK) {
        int count = n - i < CHUNK ? n - i : CHUNK;
        load(count, (const char *)w + (size_t)i * (size_t)size, piece);
        chunk_dot(count, piece, x + i, s);
    }
    return lanes_sum(s);
}

#define TYPED_KERNELS(type, size)                                                                                                \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const float *x, float *y) {                        \
        for (int j = 0; j < rows; j++) y[j] = dot_row(load_##type, size, n, (const char *)w + (size_t)j * row_bytes, x);         \
    }

TYPED_KERNELS(f32, 4)
TYPED_KERNELS(f16, 2)
TYPED_KERNELS(bf16, 2)

void mka_scalar_fill_typed(mka_kernels *k) {
#define FILL(TYPE, type)                                                                                                         \
    k->load[MKA_##TYPE] = load_##type, k->store[MKA_##TYPE] = store_##type, k->gemv_f32[MKA_##TYPE] = gemv_##type
    FILL(F32, f32);
    FILL(F16, f16);
    FILL(BF16, bf16);
}
