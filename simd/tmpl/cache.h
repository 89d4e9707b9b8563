/* cache - attention's scores and mixes over the tiles of simd/cache.h in float32 arithmetic, for the vectors of the header that
 * was included before. Included once a level; levels with dot products of their own replace single entries.
 *
 *   score   R query rows by V_HALVES * 16 keys in registers: a line of keys is unpacked once for all rows
 *   mix     R query rows by V_BLOCKS * 16 dimensions in registers: a value is unpacked once for all rows
 *
 * Query numbers and weights are broadcast, so nothing is ever summed across a vector. Memory is read in order, and asked for
 * AHEAD bytes or two tiles before it is needed, in its own order even where it is worked on in another: asked for out of order,
 * memory gives less. R is a constant 1..V_CACHE_ROWS; more rows are cut into passes of nearly equal size. */
#include "tmpl/vec.h"

enum { NV = MKA_HALF / VW, AHEAD = 8192, CHAIN = 8, SPAN = 256 /* tokens whose weights are scaled at once */ };

V_INLINE void ask(const char *p) {
    __builtin_prefetch(p + AHEAD, 0, 2);
}

/* ---- one vector of a line: number b of its unit, lanes v * VW .. ---- */

typedef vf unpack_fn(const char *line, int b, int v);

V_INLINE vf line_f32(const char *line, int b, int v) {
    (void)b;
    return v_load((const float *)(const void *)line + v * VW);
}
V_INLINE vf line_f16(const char *line, int b, int v) {
    (void)b;
    return v_load_f16(line + 2 * v * VW);
}
V_INLINE vf line_bf16(const char *line, int b, int v) {
    return b ? v_pair_high(line + 4 * v * VW) : v_pair_low(line + 4 * v * VW);
}
V_INLINE vf key_q8(const char *line, int b, int v) {
    return v_sub(v_field(line + 4 * v * VW, 8 * b, 255), v_set(128.0f));
}
V_INLINE vf key_q4(const char *line, int b, int v) {
    return v_sub(v_field(line + 4 * v * VW, 8 * (b % 4) + b / 4 * 4, 15), v_set(8.0f));
}
V_INLINE vf value_q8(const char *line, int b, int v) {
    return v_signed_byte(line + 4 * v * VW, b);
}
V_INLINE vf value_q4_low(const char *line, int b, int v) {
    return v_sub(v_field(line + 4 * v * VW, 8 * b, 15), v_set(8.0f));
}
V_INLINE vf value_q4_high(const char *line, int b, int v) {
    return v_sub(v_field(line + 4 * v * VW, 8 * b + 4, 15), v_set(8.0f));
}

/* ---- scores ---- */

typedef struct {
    unpack_fn *unpack;
    int unit, line;        /* numbers of a token in a line, and the line's bytes */
    int scaled;            /* 1: groups of 32 numbers have scales of their own */
    ptrdiff_t half, scale; /* bytes of a half's data, and from the first half to its scales */
} key_view;

/* Adds the sums so far to what stands in the scores, and begins them anew. */
V_INLINE void score_flush(int R, int V, int begun, vf acc[V_CACHE_ROWS][V_HALVES * NV], float *s, int lds) {
    for (int i = 0; i < R; i++)
        for (int v = 0; v < V; v++) {
            float *p = s + (ptrdiff_t)i * lds + v * VW;
            v_store(p, begun ? v_add(v_load(p), acc[i][v]) : acc[i][v]);
            acc[i][v] = v_zero();
        }
}

/* Rows of R queries against halves first.. of one tile. F32 keys are summed CHAIN numbers at a time: one chain over all of d
 * loses digits that sharp scores, which are large sums of large products, need. Stored types have lost more before. */
V_INLINE void score_rows(int R, int H, const key_view *view, int d, const float *q, const char *tile, int first, float factor,
                         float *s, int lds) {
    vf acc[V_CACHE_ROWS][V_HALVES * NV], group[V_HALVES * NV];
    for (int i = 0; i < R; i++)
        for (int v = 0; v < H * NV; v++) acc[i][v] = v_zero();
    const char *line = tile + first * view->half;
    const char *scales = tile + view->scale + (ptrdiff_t)first * (mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP) * MKA_HALF * 2;
    for (int v = 0; v < H * NV; v++) group[v] = v_zero();
    int whole = view->unit == 1 && view->line == 64, begun = 0; /* F32 */
    const char *next = line + 4 * view->half;                   /* two tiles on */
    const int step = H * view->line;
    for (int e = 0; e < d; e += view->unit, line += view->line) {
        if (whole && e > 0 && e % CHAIN == 0) {
            score_flush(R, H * NV, begun, acc, s, lds);
            begun = 1;
        }
        if (view->scaled && e % MKA_KEY_GROUP == 0)
            for (int v = 0; v < H * NV; v++)
                group[v] = v_load_f16(
                    scales + ((ptrdiff_t)(v / NV) * (mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP) + e / MKA_KEY_GROUP) * 32 +
                    2 * (v % NV) * VW);
        if (step >= 64 || e / view->unit * step % 64 == 0)
            for (int b = 0; b < step; b += 64, next += 64) __builtin_prefetch(next, 0, 2);
#pragma GCC unroll 8
        for (int b = 0; b < view->unit; b++) {
            if (view->unit > 1 && e + b >= d) break;
            vf key[V_HALVES * NV];
            for (int v = 0; v < H * NV; v++) {
                key[v] = view->unpack(line + (v / NV) * view->half, b, v % NV);
                if (view->scaled) key[v] = v_mul(key[v], group[v]);
            }
            for (int i = 0; i < R; i++) {
                vf x = v_set(q[(ptrdiff_t)i * d + e + b]);
                for (int v = 0; v < H * NV; v++) acc[i][v] = v_fma(x, key[v], acc[i][v]);
            }
        }
    }
    for (int i = 0; i < R; i++)
        for (int v = 0; v < H * NV; v++) {
            float *p = s + (ptrdiff_t)i * lds + v * VW;
            v_store(p, v_mul(v_set(factor), begun ? v_add(v_load(p), acc[i][v]) : acc[i][v]));
        }
}

V_INLINE void score_tiles(int R, const key_view *view, int d, int n, const float *q, const char *keys, ptrdiff_t bytes,
                          float factor, float *s, int lds) {
    for (int t = 0; t < n; t += MKA_TILE, keys += bytes) {
        int halves = n - t > MKA_HALF ? 2 : 1;
        if (halves == V_HALVES)
            score_rows(R, V_HALVES, view, d, q, keys, 0, factor, s + t, lds);
        else
            for (int h = 0; h < halves; h++) score_rows(R, 1, view, d, q, keys, h, factor, s + t + h * MKA_HALF, lds);
    }
}

/* Calls CALL(R, first row) for passes of at most V_CACHE_ROWS rows, as equal as they can be. */
#define ROW_PASSES(r, CALL)                                                                                                      \
    for (int passes_ = ((r) + V_CACHE_ROWS - 1) / V_CACHE_ROWS, row_ = 0; passes_ > 0; passes_--) {                              \
        int rows_ = ((r)-row_ + passes_ - 1) / passes_;                                                                          \
        switch (rows_) { CASES(CALL) }                                                                                           \
        row_ += rows_;                                                                                                           \
    }
#define CASE(R, CALL)                                                                                                            \
    case R:                                                                                                                      \
        CALL(R, row_);                                                                                                           \
        break;
#if V_CACHE_ROWS == 8
#define CASES(CALL)                                                                                                              \
    CASE(1, CALL) CASE(2, CALL) CASE(3, CALL) CASE(4, CALL) CASE(5, CALL) CASE(6, CALL) CASE(7, CALL) CASE(8, CALL)
#elif V_CACHE_ROWS == 5
#define CASES(CALL) CASE(1, CALL) CASE(2, CALL) CASE(3, CALL) CASE(4, CALL) CASE(5, CALL)
#else
#define CASES(CALL) CASE(1, CALL) CASE(2, CALL)
#endif

#define SCORE(type, TYPE, UNPACK, UNIT, LINE, SCALED, PADDED)                                                                    \
    static void cache_score_##type(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {      \
        ptrdiff_t half = (ptrdiff_t)(mka_pad(d, PADDED) / (UNIT)) * (LINE);                                                      \
        const key_view view = {UNPACK, UNIT, LINE, SCALED, half, 2 * half};                                                      \
        ptrdiff_t bytes = (ptrdiff_t)mka_key_tile_bytes(TYPE, d);                                                                \
        ROW_PASSES(r, SCORE_CALL)                                                                                                \
    }
#define SCORE_CALL(R, row) score_tiles(R, &view, d, n, q + (ptrdiff_t)(row)*d, keys, bytes, scale, s + (ptrdiff_t)(row)*lds, lds)

SCORE(f32, MKA_F32, line_f32, 1, 64, 0, 1)
SCORE(f16, MKA_F16, line_f16, 1, 32, 0, 1)
SCORE(bf16, MKA_BF16, line_bf16, 2, 64, 0, 2)
SCORE(q8, MKA_Q8_0, key_q8, 4, 64, 1, MKA_KEY_GROUP)
SCORE(q4, MKA_Q4_0, key_q4, 8, 64, 1, MKA_KEY_GROUP)

/* ---- mixes ---- */

static void cache_scale(int r, int d, const float *c, float *acc) {
    for (int i = 0; i < r; i++, acc += d) {
        vf factor = v_set(c[i]);
        int e = 0;
        for (; e + VW <= d; e += VW) v_store(acc + e, v_mul(factor, v_load(acc + e)));
        for (; e < d; e++) acc[e] *= c[i];
    }
}

typedef vf load_lanes_fn(const void *p);
typedef vf load_some_fn(const void *p, int n);

V_INLINE vf some_f32(const void *p, int n) {
    return v_load_n(p, n);
}
V_INLINE vf all_f32(const void *p) {
    return v_load(p);
}

/* F32 and F16: rows of d, one token after the other. Dimensions e.. of V vectors (some: the last vector has only that many). */
V_INLINE void mix_columns(int R, int V, int some, load_lanes_fn *load, load_some_fn *load_some, int size, int d, int n,
                          const float *w, int ldw, const char *values, const char **next, int e, float *acc) {
    enum { MOST = V_BLOCKS * NV };
    vf sum[V_CACHE_ROWS][MOST];
    for (int i = 0; i < R; i++)
        for (int v = 0; v < V; v++) {
            float *p = acc + (ptrdiff_t)i * d + e + v * VW;
            sum[i][v] = some ? v_load_n(p, some) : v_load(p);
        }
    const char *row = values + (ptrdiff_t)e * size;
    for (int t = 0; t < n; t++, row += (ptrdiff_t)d * size) {
        vf value[MOST];
        for (int v = 0; v < V; v++) {
            const char *p = row + v * VW * size;
            value[v] = some ? load_some(p, some) : load(p);
            if (v * VW * size % 64 == 0) {
                __builtin_prefetch(*next, 0, 2);
                *next += 64;
            }
        }
        for (int i = 0; i < R; i++) {
            vf x = v_set(w[(ptrdiff_t)i * ldw + t]);
            for (int v = 0; v < V; v++) sum[i][v] = v_fma(x, value[v], sum[i][v]);
        }
    }
    for (int i = 0; i < R; i++)
        for (int v = 0; v < V; v++) {
            float *p = acc + (ptrdiff_t)i * d + e + v * VW;
            if (some)
                v_store_n(p, sum[i][v], some);
            else
                v_store(p, sum[i][v]);
        }
}

/* A tile's worth of tokens at a time, so that the rows of one pass stay in the first-level cache for all their columns. */
V_INLINE void mix_rows(int R, load_lanes_fn *load, load_some_fn *load_some, int size, int d, int n, const float *w, int ldw,
                       const char *values, float *acc) {
    for (int t = 0; t < n; t += MKA_TILE, values += (ptrdiff_t)MKA_TILE * d * size) {
        int count = n - t < MKA_TILE ? n - t : MKA_TILE, e = 0;
        const char *next = values + (ptrdiff_t)2 * MKA_TILE * d * size;
        for (; e + V_BLOCKS * MKA_HALF <= d; e += V_BLOCKS * MKA_HALF)
            mix_columns(R, V_BLOCKS * NV, 0, load, load_some, size, d, count, w + t, ldw, values, &next, e, acc);
        for (; e + VW <= d; e += VW) mix_columns(R, 1, 0, load, load_some, size, d, count, w + t, ldw, values, &next, e, acc);
        if (e < d) mix_columns(R, 1, d - e, load, load_some, size, d, count, w + t, ldw, values, &next, e, acc);
    }
}

/* BF16, Q8 and Q4: blocks of 16 dimensions, T tokens of a dimension together in a line. Adds n (<= 32) tokens of one tile to
 * B neighbouring blocks; some: numbers in the last block when it is not whole (B is 1 then). */
V_INLINE void mix_block(int R, int B, int some, unpack_fn *first, unpack_fn *second, ptrdiff_t apart, int T, int d, int n,
                        const float *w, int ldw, const char *lines, float *acc) {
    vf sum[V_CACHE_ROWS][2 * NV];
    int whole = some ? some / VW : NV, rest = some % VW;
    for (int i = 0; i < R; i++)
        for (int v = 0; v < B * NV; v++) {
            float *p = acc + (ptrdiff_t)i * d + v * VW;
            sum[i][v] = v < B * whole ? v_load(p) : v == whole && rest ? v_load_n(p, rest) : v_zero();
        }
    for (int t = 0; t < n; t += T, lines += 64) {
        ask(lines);
        if (B == 2 && apart) ask(lines + apart);
#pragma GCC unroll 4
        for (int b = 0; b < T; b++) {
            if (t + b >= n) break;
            vf value[2 * NV];
            for (int v = 0; v < B * NV; v++) value[v] = v < NV ? first(lines, b, v) : second(lines + apart, b, v - NV);
            for (int i = 0; i < R; i++) {
                vf x = v_set(w[(ptrdiff_t)i * ldw + t + b]);
                for (int v = 0; v < B * NV; v++) sum[i][v] = v_fma(x, value[v], sum[i][v]);
            }
        }
    }
    for (int i = 0; i < R; i++)
        for (int v = 0; v < B * NV; v++) {
            float *p = acc + (ptrdiff_t)i * d + v * VW;
            if (v < B * whole)
                v_store(p, sum[i][v]);
            else if (v == whole && rest)
                v_store_n(p, sum[i][v], rest);
        }
}

/* One tile; block: bytes of a block of 16 dimensions. */
V_INLINE void mix_tile(int R, unpack_fn *unpack, int T, ptrdiff_t block, int d, int n, const float *w, int ldw, const char *tile,
                       float *acc) {
    int e = 0;
    for (; V_BLOCKS == 2 && e + 32 <= d; e += 32, tile += 2 * block)
        mix_block(R, V_BLOCKS, 0, unpack, unpack, block, T, d, n, w, ldw, tile, acc + e);
    for (; e + 16 <= d; e += 16, tile += block) mix_block(R, 1, 0, unpack, unpack, 0, T, d, n, w, ldw, tile, acc + e);
    if (e < d) mix_block(R, 1, d - e, unpack, unpack, 0, T, d, n, w, ldw, tile, acc + e);
}

/* Q4's lines hold two blocks, one in the low nibbles and one in the high ones. */
V_INLINE void mix_tile_q4(int R, int d, int n, const float *w, int ldw, const char *tile, float *acc) {
    int e = 0;
    for (; V_BLOCKS == 2 && e + 32 <= d; e += 32, tile += 512)
        mix_block(R, V_BLOCKS, 0, value_q4_low, value_q4_high, 0, 4, d, n, w, ldw, tile, acc + e);
    for (; e < d; e += 16, tile += e % 32 == 0 ? 512 : 0) {
        int some = d - e < 16 ? d - e : 0;
        if (e % 32 == 0)
            mix_block(R, 1, some, value_q4_low, value_q4_low, 0, 4, d, n, w, ldw, tile, acc + e);
        else
            mix_block(R, 1, some, value_q4_high, value_q4_high, 0, 4, d, n, w, ldw, tile, acc + e);
    }
}

/* Weights times the values' scales, of at most SPAN tokens. */
V_INLINE void scaled_weights(int R, int n, const float *s, int lds, const char *tile, ptrdiff_t bytes, ptrdiff_t scales,
                             float *w) {
    for (int t = 0; t < n; t += MKA_TILE, tile += bytes)
        for (int i = 0; i < R; i++)
            for (int k = 0; k < MKA_TILE; k += VW) {
                vf scale = v_load((const float *)(const void *)(tile + scales) + k);
                int left = n - t - k;
                vf weight = left >= VW ? v_load(s + (ptrdiff_t)i * lds + t + k)
                            : left > 0 ? v_load_n(s + (ptrdiff_t)i * lds + t + k, left)
                                       : v_zero();
                v_store(w + i * SPAN + t + k, v_mul(weight, scale));
            }
}

V_INLINE void mix_quant(int R, int q4, int d, int n, const float *s, int lds, const char *values, ptrdiff_t bytes, float *acc) {
    float w[V_CACHE_ROWS * SPAN];
    for (int from = 0; from < n; from += SPAN, s += SPAN) {
        int count = n - from < SPAN ? n - from : SPAN;
        scaled_weights(R, count, s, lds, values, bytes, bytes - (ptrdiff_t)(MKA_TILE * sizeof(float)), w);
        for (int t = 0; t < count; t += MKA_TILE, values += bytes) {
            int tokens = count - t < MKA_TILE ? count - t : MKA_TILE;
            if (q4)
                mix_tile_q4(R, d, tokens, w + t, SPAN, values, acc);
            else
                mix_tile(R, value_q8, 4, 512, d, tokens, w + t, SPAN, values, acc);
        }
    }
}

V_INLINE void mix_bf16(int R, int d, int n, const float *s, int lds, const char *values, ptrdiff_t bytes, float *acc) {
    for (int t = 0; t < n; t += MKA_TILE, values += bytes)
        mix_tile(R, line_bf16, 2, 1024, d, n - t < MKA_TILE ? n - t : MKA_TILE, s + t, lds, values, acc);
}

#define MIX(type, TYPE, CALL)                                                                                                    \
    static void cache_mix_##type(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) { \
        if (n <= 0) return;                                                                                                      \
        ptrdiff_t bytes = (ptrdiff_t)mka_value_tile_bytes(TYPE, d);                                                              \
        (void)bytes;                                                                                                             \
        cache_scale(r, d, c, acc);                                                                                               \
        ROW_PASSES(r, CALL)                                                                                                      \
    }
#define MIX_F32(R, row) mix_rows(R, all_f32, some_f32, 4, d, n, s + (ptrdiff_t)(row)*lds, lds, values, acc + (ptrdiff_t)(row)*d)
#define MIX_F16(R, row)                                                                                                          \
    mix_rows(R, v_load_f16, v_load_f16_n, 2, d, n, s + (ptrdiff_t)(row)*lds, lds, values, acc + (ptrdiff_t)(row)*d)
#define MIX_BF16(R, row) mix_bf16(R, d, n, s + (ptrdiff_t)(row)*lds, lds, values, bytes, acc + (ptrdiff_t)(row)*d)
#define MIX_Q8(R, row)   mix_quant(R, 0, d, n, s + (ptrdiff_t)(row)*lds, lds, values, bytes, acc + (ptrdiff_t)(row)*d)
#define MIX_Q4(R, row)   mix_quant(R, 1, d, n, s + (ptrdiff_t)(row)*lds, lds, values, bytes, acc + (ptrdiff_t)(row)*d)

MIX(f32, MKA_F32, MIX_F32)
MIX(f16, MKA_F16, MIX_F16)
MIX(bf16, MKA_BF16, MIX_BF16)
MIX(q8, MKA_Q8_0, MIX_Q8)
MIX(q4, MKA_Q4_0, MIX_Q4)

void LEVEL(fill_cache)(mka_kernels *k);
void LEVEL(fill_cache)(mka_kernels *k) {
#define FILL_CACHE(TYPE, type) k->score[MKA_##TYPE] = cache_score_##type, k->mix[MKA_##TYPE] = cache_mix_##type
    FILL_CACHE(F32, f32);
    FILL_CACHE(F16, f16);
    FILL_CACHE(BF16, bf16);
    FILL_CACHE(Q8_0, q8);
    FILL_CACHE(Q4_0, q4);
}
