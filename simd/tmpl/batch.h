/* batch - the estimate that queries of one head make of clusters together, for the vectors of the header that was included
 * before; and the level's entries for recall. Included once a level, after tmpl/rows.h.
 *
 * Up to BATCH_ROWS queries at a time, whose rows of scores stay in the first cache over three passes: their maxima, their
 * weights, and the squares of these over the sums, which are known by then. 2^x is taken as in tmpl/scan.h. */
#include "scalar/scalar.h"
#include "tmpl/vec.h"

enum { BATCH_ROWS = 4 };

#define NATS (1.44269504f * 0x1p23f) /* one, in units of the last bit of what v_power takes */

/* Maxima of R rows with what came before, m; how what came before shrinks, c. */
V_INLINE void estimate_most(int R, int n, const float *bias, const float *s, int lds, float *m, float *c) {
    vf most[BATCH_ROWS];
    for (int i = 0; i < R; i++) most[i] = v_set(-INFINITY);
    for (int t = 0; t < n; t += VW)
        for (int i = 0; i < R; i++) most[i] = v_max(v_add(v_load(s + (ptrdiff_t)i * lds + t), v_load(bias + t)), most[i]);
    for (int i = 0; i < R; i++) {
        float now = v_hmax(most[i]);
        if (!(now > m[i])) now = m[i];
        c[i] = now == m[i] ? 1.0f : expf(m[i] - now);
        m[i] = now;
    }
}

/* R rows, whose s, m, z and c begin at the first of them. */
V_INLINE void estimate_rows(int R, int n, const float *bias, float *s, int lds, float *m, float *z, float *c, float *squares) {
    vf sum[BATCH_ROWS], shift[BATCH_ROWS], share[BATCH_ROWS], nats = v_set(NATS);
    estimate_most(R, n, bias, s, lds, m, c);
    for (int i = 0; i < R; i++) {
        shift[i] = v_set(MIDDLE - (m[i] == -INFINITY ? 0.0f : m[i]) * NATS);
        sum[i] = v_zero();
    }
    for (int t = 0; t < n; t += VW)
        for (int i = 0; i < R; i++) {
            float *p = s + (ptrdiff_t)i * lds + t;
            vf x = v_fma(v_add(v_load(p), v_load(bias + t)), nats, shift[i]);
            x = v_power(x, 2.0f * 0x1p23f - 366393.0f, 253.0f * 0x1p23f - 366393.0f);
            sum[i] = v_add(sum[i], x);
            v_store(p, x);
        }
    for (int i = 0; i < R; i++) {
        z[i] = c[i] * z[i] + v_sum(sum[i]);
        share[i] = v_set(z[i] != 0.0f ? 1.0f / z[i] : 0.0f);
    }
    for (int t = 0; t < n; t += VW) {
        vf all = v_load(squares + t);
        for (int i = 0; i < R; i++) {
            vf x = v_mul(v_load(s + (ptrdiff_t)i * lds + t), share[i]);
            all = v_fma(x, x, all);
        }
        v_store(squares + t, all);
    }
}

static void estimate(int r, int n, const float *bias, float *s, int lds, float *m, float *z, float *c, float *squares) {
    int i = 0;
    memset(squares, 0, (size_t)n * sizeof *squares);
    for (; i + BATCH_ROWS <= r; i += BATCH_ROWS)
        estimate_rows(BATCH_ROWS, n, bias, s + (ptrdiff_t)i * lds, lds, m + i, z + i, c + i, squares);
    for (; i < r; i++) estimate_rows(1, n, bias, s + (ptrdiff_t)i * lds, lds, m + i, z + i, c + i, squares);
}

V_INLINE void keep_rows(int R, int n, const float *kept, float *s, int lds, float *sum) {
    vf all[BATCH_ROWS];
    for (int i = 0; i < R; i++) all[i] = v_zero();
    for (int t = 0; t < n; t += VW) {
        vf stays = v_load(kept + t);
        for (int i = 0; i < R; i++) {
            float *p = s + (ptrdiff_t)i * lds + t;
            vf x = v_mul(v_load(p), stays);
            all[i] = v_add(all[i], x);
            v_store(p, x);
        }
    }
    for (int i = 0; i < R; i++) sum[i] = v_sum(all[i]);
}

static void keep(int r, int n, const float *kept, float *s, int lds, float *sum) {
    int i = 0;
    for (; i + BATCH_ROWS <= r; i += BATCH_ROWS) keep_rows(BATCH_ROWS, n, kept, s + (ptrdiff_t)i * lds, lds, sum + i);
    for (; i < r; i++) keep_rows(1, n, kept, s + (ptrdiff_t)i * lds, lds, sum + i);
}

/* ---- rows to tiles: rounded to bf16 one after the other, then put in the tile's order ---- */

/* n rows as bf16 at to, d numbers each; rows that are not there are zeros. d is a multiple of 16. */
V_INLINE void round_rows(const row_view *view, int d, int n, const void *const *rows, int count, uint16_t *to) {
    for (int t = 0; t < count; t++, to += d) {
        if (t >= n) {
            memset(to, 0, (size_t)d * sizeof *to);
            continue;
        }
        for (int e = 0; e < d; e += VW) {
            vf x = view->load(rows[t], e);
            if (view->scales) x = v_mul(x, row_scale(view, rows[t], e));
            v_store_bf16(to + e, x);
        }
    }
}

V_INLINE void keys_tile(const row_view *view, int d, int n, const void *const *rows, unsigned char *tile) {
    uint16_t half[MKA_HALF * MKA_ROWS_DIM];
    for (int first = 0; first < MKA_TILE; first += MKA_HALF, tile += (ptrdiff_t)MKA_HALF * d * 2) {
        round_rows(view, d, n - first, rows + first, MKA_HALF, half);
        for (int pair = 0; pair < d / 2; pair++)
            for (int t = 0; t < MKA_HALF; t++)
                memcpy(tile + ((ptrdiff_t)pair * MKA_HALF + t) * 4, half + (ptrdiff_t)t * d + (ptrdiff_t)2 * pair, 4);
    }
}

V_INLINE void values_tile(const row_view *view, int d, int n, const void *const *rows, unsigned char *tile) {
    uint16_t two[2 * MKA_ROWS_DIM], pairs[2 * 16];
    for (int t = 0; t < MKA_TILE; t += 2, tile += 64) {
        round_rows(view, d, n - t, rows + t, 2, two);
        for (int e = 0; e < d; e += 16) {
            for (int i = 0; i < 16; i++) pairs[2 * i] = two[e + i], pairs[2 * i + 1] = two[d + e + i];
            memcpy(tile + (ptrdiff_t)e * 64, pairs, sizeof pairs);
        }
    }
}

#define TILE_KERNELS(TYPE, type, SCALES)                                                                                         \
    static void rows_keys_##type(int d, int n, const void *const *rows, void *tile) {                                            \
        const row_view view = {row_##type, row_##type##_n, SCALES, (ptrdiff_t)mka_row_bytes(MKA_##TYPE, d)};                     \
        if (d % 16)                                                                                                              \
            mka_scalar_rows_keys_##type(d, n, rows, tile);                                                                       \
        else                                                                                                                     \
            keys_tile(&view, d, n, rows, tile);                                                                                  \
    }                                                                                                                            \
    static void rows_values_##type(int d, int n, const void *const *rows, void *tile) {                                          \
        const row_view view = {row_##type, row_##type##_n, SCALES, (ptrdiff_t)mka_row_bytes(MKA_##TYPE, d)};                     \
        if (d % 16)                                                                                                              \
            mka_scalar_rows_values_##type(d, n, rows, tile);                                                                     \
        else                                                                                                                     \
            values_tile(&view, d, n, rows, tile);                                                                                \
    }
TILE_KERNELS(BF16, bf16, 0)
TILE_KERNELS(Q8_0, q8, mka_pad(d, GROUP))
TILE_KERNELS(Q4_0, q4, mka_pad(d, GROUP) / 2)

void LEVEL(fill_recall)(mka_kernels *k);
void LEVEL(fill_recall)(mka_kernels *k) {
#define FILL_ROWS(TYPE, type) k->rows_score[MKA_##TYPE] = rows_score_##type, k->rows_mix[MKA_##TYPE] = rows_mix_##type
    FILL_ROWS(F32, f32);
    FILL_ROWS(F16, f16);
    FILL_ROWS(BF16, bf16);
    FILL_ROWS(Q8_0, q8);
    FILL_ROWS(Q4_0, q4);
#define FILL_TILES(TYPE, type) k->rows_keys[MKA_##TYPE] = rows_keys_##type, k->rows_values[MKA_##TYPE] = rows_values_##type
    FILL_TILES(BF16, bf16);
    FILL_TILES(Q8_0, q8);
    FILL_TILES(Q4_0, q4);
    k->scan = scan;
    k->weigh = cluster_weigh;
    k->above = cluster_above;
    k->sift = sift;
    k->estimate = estimate;
    k->keep = keep;
}
