/* typed - the kernels over rows stored as F32, F16 or BF16, for the vectors of the header that was included before: conversion,
 * attention's scores and mixes, and products of a matrix with a vector. Included once a level.
 *
 * Tiles hold V_ROWS query rows by TILE keys, so that a loaded key serves all rows of the tile and a loaded query all its keys.
 * With more query rows than a tile has, 16-bit keys and values are converted once, BUFFER floats of them at a time, into a
 * buffer on the stack that the first-level cache holds, and every tile reads that. */
#include "tmpl/vec.h"

enum { TILE = 4, BUFFER = 4096 };

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

/* Rows that are read: n of them, stride bytes apart. */
typedef struct {
    const char *p;
    ptrdiff_t stride;
} rows_view;

typedef vf load_fn(const void *p);
typedef vf load_n_fn(const void *p, int n);

/* Asks for the piece of a row at p + distance that follows the one at p: rows are read a tile of them at a time, or are pieces
 * of a cache's rows, so that the hardware sees many short streams. */
V_INLINE void ahead(const char *p, ptrdiff_t distance, int size) {
    for (int i = 0; i < VW * size; i += 64) __builtin_prefetch(p + distance + i);
}

/* Everything below is inlined with constant R, T and loaders, which is what makes the arrays registers. */

V_INLINE void score_tile(int R, int T, load_fn *load, load_n_fn *load_n, int size, int d, const float *q, rows_view keys,
                         float scale, float *s, int lds) {
    vf acc[V_ROWS][TILE];
    for (int i = 0; i < R; i++)
        for (int t = 0; t < T; t++) acc[i][t] = v_zero();
    int e = 0;
    for (; e + VW <= d; e += VW) {
        vf key[TILE];
        for (int t = 0; t < T; t++) {
            const char *p = keys.p + t * keys.stride + (ptrdiff_t)e * size;
            key[t] = load(p);
            if (size < 4 || R == 1) ahead(p, T * keys.stride, size);
        }
        for (int i = 0; i < R; i++) {
            vf x = v_load(q + (ptrdiff_t)i * d + e);
            for (int t = 0; t < T; t++) acc[i][t] = v_fma(x, key[t], acc[i][t]);
        }
    }
    if (e < d) {
        vf key[TILE];
        for (int t = 0; t < T; t++) key[t] = load_n(keys.p + t * keys.stride + (ptrdiff_t)e * size, d - e);
        for (int i = 0; i < R; i++) {
            vf x = v_load_n(q + (ptrdiff_t)i * d + e, d - e);
            for (int t = 0; t < T; t++) acc[i][t] = v_fma(x, key[t], acc[i][t]);
        }
    }
    for (int i = 0; i < R; i++) {
        if (T == TILE)
            v_sum4(acc[i][0], acc[i][1], acc[i][2], acc[i][3], scale, s + (ptrdiff_t)i * lds);
        else
            for (int t = 0; t < T; t++) s[(ptrdiff_t)i * lds + t] = scale * v_sum(acc[i][t]);
    }
}

V_INLINE void score_keys(int R, load_fn *load, load_n_fn *load_n, int size, int d, int n, const float *q, rows_view keys,
                         float scale, float *s, int lds) {
    int t = 0;
    for (; t + TILE <= n; t += TILE, keys.p += TILE * keys.stride)
        score_tile(R, TILE, load, load_n, size, d, q, keys, scale, s + t, lds);
    for (; t < n; t++, keys.p += keys.stride) score_tile(R, 1, load, load_n, size, d, q, keys, scale, s + t, lds);
}

V_INLINE void score_rows(load_fn *load, load_n_fn *load_n, int size, int r, int d, int n, const float *q, rows_view keys,
                         float scale, float *s, int lds) {
    int i = 0;
    for (; i + V_ROWS <= r; i += V_ROWS)
        score_keys(V_ROWS, load, load_n, size, d, n, q + (ptrdiff_t)i * d, keys, scale, s + (ptrdiff_t)i * lds, lds);
    if (V_ROWS > 2 && i + 2 <= r) {
        score_keys(2, load, load_n, size, d, n, q + (ptrdiff_t)i * d, keys, scale, s + (ptrdiff_t)i * lds, lds);
        i += 2;
    }
    if (i < r) score_keys(1, load, load_n, size, d, n, q + (ptrdiff_t)i * d, keys, scale, s + (ptrdiff_t)i * lds, lds);
}

V_INLINE void mix_tile(int R, int T, load_fn *load, load_n_fn *load_n, int size, int d, const float *s, int lds, rows_view values,
                       float *acc) {
    vf weight[V_ROWS][TILE];
    for (int i = 0; i < R; i++)
        for (int t = 0; t < T; t++) weight[i][t] = v_set(s[(ptrdiff_t)i * lds + t]);
    int e = 0;
    for (; e + VW <= d; e += VW) {
        vf value[TILE];
        for (int t = 0; t < T; t++) {
            const char *p = values.p + t * values.stride + (ptrdiff_t)e * size;
            value[t] = load(p);
            if (size < 4 || R == 1) ahead(p, T * values.stride, size);
        }
        for (int i = 0; i < R; i++) {
            vf sum = v_load(acc + (ptrdiff_t)i * d + e);
            for (int t = 0; t < T; t++) sum = v_fma(weight[i][t], value[t], sum);
            v_store(acc + (ptrdiff_t)i * d + e, sum);
        }
    }
    if (e < d) {
        vf value[TILE];
        for (int t = 0; t < T; t++) value[t] = load_n(values.p + t * values.stride + (ptrdiff_t)e * size, d - e);
        for (int i = 0; i < R; i++) {
            vf sum = v_load_n(acc + (ptrdiff_t)i * d + e, d - e);
            for (int t = 0; t < T; t++) sum = v_fma(weight[i][t], value[t], sum);
            v_store_n(acc + (ptrdiff_t)i * d + e, sum, d - e);
        }
    }
}

V_INLINE void mix_values(int R, load_fn *load, load_n_fn *load_n, int size, int d, int n, const float *s, int lds,
                         rows_view values, float *acc) {
    int t = 0;
    for (; t + TILE <= n; t += TILE, values.p += TILE * values.stride)
        mix_tile(R, TILE, load, load_n, size, d, s + t, lds, values, acc);
    for (; t < n; t++, values.p += values.stride) mix_tile(R, 1, load, load_n, size, d, s + t, lds, values, acc);
}

V_INLINE void mix_rows(load_fn *load, load_n_fn *load_n, int size, int r, int d, int n, const float *s, int lds, rows_view values,
                       float *acc) {
    int i = 0;
    for (; i + V_ROWS <= r; i += V_ROWS)
        mix_values(V_ROWS, load, load_n, size, d, n, s + (ptrdiff_t)i * lds, lds, values, acc + (ptrdiff_t)i * d);
    if (V_ROWS > 2 && i + 2 <= r) {
        mix_values(2, load, load_n, size, d, n, s + (ptrdiff_t)i * lds, lds, values, acc + (ptrdiff_t)i * d);
        i += 2;
    }
    if (i < r) mix_values(1, load, load_n, size, d, n, s + (ptrdiff_t)i * lds, lds, values, acc + (ptrdiff_t)i * d);
}

static void scale_rows(int r, int d, const float *c, float *acc) {
    for (int i = 0; i < r; i++, acc += d) {
        vf factor = v_set(c[i]);
        int e = 0;
        for (; e + VW <= d; e += VW) v_store(acc + e, v_mul(factor, v_load(acc + e)));
        for (; e < d; e++) acc[e] *= c[i];
    }
}

V_INLINE void load_row(load_fn *load, load_n_fn *load_n, int size, int n, const void *x, float *y) {
    const char *p = x;
    int i = 0;
    for (; i + VW <= n; i += VW) v_store(y + i, load(p + (ptrdiff_t)i * size));
    if (i < n) v_store_n(y + i, load_n(p + (ptrdiff_t)i * size, n - i), n - i);
}

/* How many rows of d the buffer takes, in whole tiles; 0 when it is not worth it or they do not fit. */
V_INLINE int buffered(int size, int r, int d) {
    return size == 4 || r <= V_ROWS || d > BUFFER / TILE ? 0 : BUFFER / d / TILE * TILE;
}

/* Converts count rows of d elements into the buffer and returns a view of it. */
V_INLINE rows_view convert(load_fn *load, load_n_fn *load_n, int size, int d, int count, rows_view from, float *buffer) {
    for (int t = 0; t < count; t++) load_row(load, load_n, size, d, from.p + t * from.stride, buffer + (ptrdiff_t)t * d);
    return (rows_view){(const char *)buffer, (ptrdiff_t)d * (ptrdiff_t)sizeof(float)};
}

V_INLINE void score(load_fn *load, load_n_fn *load_n, int size, int r, int d, int n, const float *q, rows_view keys, float scale,
                    float *s, int lds) {
    int room = buffered(size, r, d);
    if (room == 0) {
        score_rows(load, load_n, size, r, d, n, q, keys, scale, s, lds);
        return;
    }
    float buffer[BUFFER];
    for (int t = 0; t < n; t += room, keys.p += room * keys.stride) {
        int count = n - t < room ? n - t : room;
        rows_view whole = convert(load, load_n, size, d, count, keys, buffer);
        score_rows(load_f32, load_f32_n, 4, r, d, count, q, whole, scale, s + t, lds);
    }
}

V_INLINE void mix(load_fn *load, load_n_fn *load_n, int size, int r, int d, int n, const float *s, int lds, rows_view values,
                  float *acc) {
    int room = buffered(size, r, d);
    if (room == 0) {
        mix_rows(load, load_n, size, r, d, n, s, lds, values, acc);
        return;
    }
    float buffer[BUFFER];
    for (int t = 0; t < n; t += room, values.p += room * values.stride) {
        int count = n - t < room ? n - t : room;
        rows_view whole = convert(load, load_n, size, d, count, values, buffer);
        mix_rows(load_f32, load_f32_n, 4, r, d, count, s + t, lds, whole, acc);
    }
}

/* A product of a matrix with a vector is one query row's scores over the matrix's rows. */
#define TYPED_KERNELS(type, LOAD, STORE, size)                                                                                   \
    static void score_##type(int r, int d, int n, const float *q, const void *keys, ptrdiff_t stride, float scale, float *s,     \
                             int lds) {                                                                                          \
        score(LOAD, LOAD##_n, size, r, d, n, q, (rows_view){keys, stride}, scale, s, lds);                                       \
    }                                                                                                                            \
    static void mix_##type(int r, int d, int n, const float *s, int lds, const void *values, ptrdiff_t stride, const float *c,   \
                           float *acc) {                                                                                         \
        if (n <= 0) return;                                                                                                      \
        scale_rows(r, d, c, acc);                                                                                                \
        mix(LOAD, LOAD##_n, size, r, d, n, s, lds, (rows_view){values, stride}, acc);                                            \
    }                                                                                                                            \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const float *x, float *y) {                        \
        score_keys(1, LOAD, LOAD##_n, size, n, rows, x, (rows_view){w, (ptrdiff_t)row_bytes}, 1.0f, y, 0);                       \
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
    k->score[MKA_##TYPE] = score_##type, k->mix[MKA_##TYPE] = mix_##type, k->load[MKA_##TYPE] = load_row_##type,                 \
    k->store[MKA_##TYPE] = store_row_##type, k->gemv_f32[MKA_##TYPE] = gemv_##type
    FILL(F32, f32);
    FILL(F16, f16);
    FILL(BF16, bf16);
}
