/* typed - the kernels over rows stored as F32, F16 or BF16, for the vectors of the header that was included before: conversion,
 * and products of a matrix with a vector. Included once a level.
 *
 * Products take TILE rows of the matrix at a time, so that a loaded piece of x serves all of them. */
#include "tmpl/vec.h"

enum { TILE = 4 };

V_INLINE vf load_f32(const void *p) {
    return v_load(p);
}
V_INLINE vf load_f32_n(const void *p, int n) {
    return v_load_n(p, n);
}
V_INLINE void store_f32(void *p, vf x) {
    v_store(p, x);
}
V_INLINE void store_f32_n(void *p, vf x, int n) {
    v_store_n(p, x, n);
}

typedef vf load_fn(const void *p);
typedef vf load_n_fn(const void *p, int n);

/* Everything below is inlined with constant T and loaders, which is what makes the arrays registers. */

V_INLINE void product_rows(int T, load_fn *load, load_n_fn *load_n, int size, int n, const char *w, ptrdiff_t row_bytes,
                           const float *x, float *y) {
    vf acc[TILE];
    for (int t = 0; t < T; t++) acc[t] = v_zero();
    int e = 0;
    for (; e + VW <= n; e += VW) {
        vf piece = v_load(x + e);
        for (int t = 0; t < T; t++) {
            const char *p = w + t * row_bytes + (ptrdiff_t)e * size;
            acc[t] = v_fma(piece, load(p), acc[t]);
            /* rows are read TILE at a time, so that the hardware sees many short streams: ask for the next rows' piece */
            for (int i = 0; i < VW * size; i += 64) __builtin_prefetch(p + T * row_bytes + i);
        }
    }
    if (e < n) {
        vf piece = v_load_n(x + e, n - e);
        for (int t = 0; t < T; t++) acc[t] = v_fma(piece, load_n(w + t * row_bytes + (ptrdiff_t)e * size, n - e), acc[t]);
    }
    if (T == TILE)
        v_sum4(acc[0], acc[1], acc[2], acc[3], 1.0f, y);
    else
        for (int t = 0; t < T; t++) y[t] = v_sum(acc[t]);
}

V_INLINE void load_row(load_fn *load, load_n_fn *load_n, int size, int n, const void *x, float *y) {
    const char *p = x;
    int i = 0;
    for (; i + VW <= n; i += VW) v_store(y + i, load(p + (ptrdiff_t)i * size));
    if (i < n) v_store_n(y + i, load_n(p + (ptrdiff_t)i * size, n - i), n - i);
}

#define TYPED_KERNELS(type, LOAD, STORE, size)                                                                                   \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const float *x, float *y) {                        \
        const char *p = w;                                                                                                       \
        int j = 0;                                                                                                               \
        for (; j + TILE <= rows; j += TILE, p += TILE * row_bytes)                                                               \
            product_rows(TILE, LOAD, LOAD##_n, size, n, p, (ptrdiff_t)row_bytes, x, y + j);                                      \
        for (; j < rows; j++, p += row_bytes) product_rows(1, LOAD, LOAD##_n, size, n, p, (ptrdiff_t)row_bytes, x, y + j);       \
    }                                                                                                                            \
    static void load_row_##type(int n, const void *x, float *y) {                                                                \
        load_row(LOAD, LOAD##_n, size, n, x, y);                                                                                 \
    }                                                                                                                            \
    static void store_row_##type(int n, const float *x, void *y) {                                                               \
        char *p = y;                                                                                                             \
        int i = 0;                                                                                                               \
        for (; i + VW <= n; i += VW) STORE(p + (ptrdiff_t)i * size, v_load(x + i));                                              \
        if (i < n) STORE##_n(p + (ptrdiff_t)i * size, v_load_n(x + i, n - i), n - i);                                            \
    }

TYPED_KERNELS(f32, load_f32, store_f32, 4)
TYPED_KERNELS(f16, v_load_f16, v_store_f16, 2)
TYPED_KERNELS(bf16, v_load_bf16, v_store_bf16, 2)

void LEVEL(fill_typed)(mka_kernels *k);
void LEVEL(fill_typed)(mka_kernels *k) {
#define FILL(TYPE, type)                                                                                                         \
    k->load[MKA_##TYPE] = load_row_##type, k->store[MKA_##TYPE] = store_row_##type, k->gemv_f32[MKA_##TYPE] = gemv_##type
    FILL(F32, f32);
    FILL(F16, f16);
    FILL(BF16, bf16);
}
