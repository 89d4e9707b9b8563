/* rows - scores and sums over single rows (rows.h) that lie anywhere, for the vectors of the header that was included before.
 * Included once a level, after tmpl/scan.h.
 *
 *   rows_score   R query rows by TOKENS rows in registers: a row is unpacked once for all queries, sums across vectors are shared
 *   rows_mix     R query rows by COLUMNS vectors in registers, a batch of rows at a time, which then stays in the first cache
 *
 * Rows lie where the hardware does not look ahead, so that all of a row is asked for ROWS_AHEAD rows before it is needed. */
#include "tmpl/vec.h"

enum { TOKENS = 4, COLUMNS = 2, ROWS_AHEAD = 12, BATCH = 32, GROUP = 32 /* numbers that share a scale */ };

/* VW numbers of a row from number e on, without their scale; _n: the first n of them, the rest zeros or padding. */
typedef vf row_fn(const char *row, int e);
typedef vf row_n_fn(const char *row, int e, int n);

V_INLINE vf row_f32(const char *row, int e) {
    return v_load((const float *)(const void *)row + e);
}
V_INLINE vf row_f32_n(const char *row, int e, int n) {
    return v_load_n((const float *)(const void *)row + e, n);
}
V_INLINE vf row_f16(const char *row, int e) {
    return v_load_f16(row + 2 * (ptrdiff_t)e);
}
V_INLINE vf row_f16_n(const char *row, int e, int n) {
    return v_load_f16_n(row + 2 * (ptrdiff_t)e, n);
}
V_INLINE vf row_bf16(const char *row, int e) {
    return v_load_bf16(row + 2 * (ptrdiff_t)e);
}
V_INLINE vf row_bf16_n(const char *row, int e, int n) {
    return v_load_bf16_n(row + 2 * (ptrdiff_t)e, n);
}
V_INLINE vf row_q8(const char *row, int e) {
    return v_bytes(row + e);
}
V_INLINE vf row_q8_n(const char *row, int e, int n) {
    (void)n;
    return row_q8(row, e);
}
V_INLINE vf row_q4(const char *row, int e) {
    return v_sub(v_nibbles(row + e / GROUP * (GROUP / 2) + e % (GROUP / 2), e % GROUP / (GROUP / 2) * 4), v_set(8.0f));
}
V_INLINE vf row_q4_n(const char *row, int e, int n) {
    (void)n;
    return row_q4(row, e);
}

typedef struct {
    row_fn *load;
    row_n_fn *load_n;
    ptrdiff_t scales, bytes; /* where a row's scales begin, 0: it has none; a row's bytes */
} row_view;

V_INLINE vf row_scale(const row_view *view, const char *row, int e) {
    return v_set_f16(row + view->scales + (ptrdiff_t)(e / GROUP) * 2);
}

V_INLINE void ask_rows(const void *const *rows, int from, int to, int n, ptrdiff_t bytes) {
    for (int t = from; t < to && t < n; t++)
        for (ptrdiff_t b = 0; b < bytes + 63; b += 64) __builtin_prefetch((const char *)rows[t] + (b < bytes ? b : bytes - 1));
}

/* ---- scores ---- */

/* n > 0: only n numbers are left. */
V_INLINE void score_step(int R, int T, const row_view *view, int d, int e, int n, const float *q, const void *const *rows,
                         const vf *scale, vf acc[V_ROWS][TOKENS]) {
    vf row[TOKENS];
    for (int t = 0; t < T; t++) {
        row[t] = n ? view->load_n(rows[t], e, n) : view->load(rows[t], e);
        if (view->scales) row[t] = v_mul(row[t], scale[t]);
    }
    for (int i = 0; i < R; i++) {
        const float *p = q + (ptrdiff_t)i * d + e;
        vf x = n ? v_load_n(p, n) : v_load(p);
        for (int t = 0; t < T; t++) acc[i][t] = v_fma(x, row[t], acc[i][t]);
    }
}

V_INLINE void score_tokens(int R, int T, const row_view *view, int d, const float *q, const void *const *rows, float factor,
                           float *s, int lds) {
    vf acc[V_ROWS][TOKENS], scale[TOKENS];
    for (int i = 0; i < R; i++)
        for (int t = 0; t < T; t++) acc[i][t] = v_zero();
    for (int g = 0; g < d; g += GROUP) {
        for (int t = 0; t < T && view->scales; t++) scale[t] = row_scale(view, rows[t], g);
        int end = d - g < GROUP ? d : g + GROUP, e = g;
        for (; e + VW <= end; e += VW) score_step(R, T, view, d, e, 0, q, rows, scale, acc);
        if (e < end) score_step(R, T, view, d, e, (end - e) & (VW - 1), q, rows, scale, acc);
    }
    for (int i = 0; i < R; i++)
        if (T == TOKENS)
            v_sum4(acc[i][0], acc[i][1], acc[i][2], acc[i][3], factor, s + (ptrdiff_t)i * lds);
        else
            for (int t = 0; t < T; t++) s[(ptrdiff_t)i * lds + t] = factor * v_sum(acc[i][t]);
}

V_INLINE void score_pass(int R, const row_view *view, int d, int n, const float *q, const void *const *rows, float factor,
                         float *s, int lds) {
    int t = 0;
    ask_rows(rows, 0, ROWS_AHEAD, n, view->bytes);
    for (; t + TOKENS <= n; t += TOKENS) {
        ask_rows(rows, t + ROWS_AHEAD, t + ROWS_AHEAD + TOKENS, n, view->bytes);
        score_tokens(R, TOKENS, view, d, q, rows + t, factor, s + t, lds);
    }
    for (; t < n; t++) score_tokens(R, 1, view, d, q, rows + t, factor, s + t, lds);
}

/* ---- sums ---- */

/* Adds a batch of n rows to columns e.. of R sums, V vectors, of which the only one has some numbers when that is not 0. */
V_INLINE void mix_columns(int R, int V, int some, const row_view *view, int d, int n, const float *s, int lds,
                          const void *const *rows, int e, float *acc) {
    vf sum[V_ROWS][COLUMNS];
    for (int i = 0; i < R; i++)
        for (int v = 0; v < V; v++) {
            const float *p = acc + (ptrdiff_t)i * d + e + v * VW;
            sum[i][v] = some ? v_load_n(p, some) : v_load(p);
        }
    for (int t = 0; t < n; t++) {
        vf row[COLUMNS];
        for (int v = 0; v < V; v++) {
            row[v] = some ? view->load_n(rows[t], e, some) : view->load(rows[t], e + v * VW);
            if (view->scales) row[v] = v_mul(row[v], row_scale(view, rows[t], e + v * VW));
        }
        for (int i = 0; i < R; i++) {
            vf weight = v_set(s[(ptrdiff_t)i * lds + t]);
            for (int v = 0; v < V; v++) sum[i][v] = v_fma(weight, row[v], sum[i][v]);
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

V_INLINE void mix_pass(int R, const row_view *view, int d, int n, const float *s, int lds, const void *const *rows, float *acc) {
    int e = 0;
    for (; e + COLUMNS * VW <= d; e += COLUMNS * VW) mix_columns(R, COLUMNS, 0, view, d, n, s, lds, rows, e, acc);
    for (; e + VW <= d; e += VW) mix_columns(R, 1, 0, view, d, n, s, lds, rows, e, acc);
    if (e < d) mix_columns(R, 1, (d - e) & (VW - 1), view, d, n, s, lds, rows, e, acc);
}

/* ---- the kernels: passes of at most V_ROWS query rows, as equal as they can be ---- */

#define ROW_CASE(R, CALL)                                                                                                        \
    case R:                                                                                                                      \
        CALL(R);                                                                                                                 \
        break;
#if V_ROWS == 7
#define ROW_CASES(CALL)                                                                                                          \
    ROW_CASE(1, CALL)                                                                                                            \
    ROW_CASE(2, CALL) ROW_CASE(3, CALL) ROW_CASE(4, CALL) ROW_CASE(5, CALL) ROW_CASE(6, CALL) ROW_CASE(7, CALL)
#elif V_ROWS == 5
#define ROW_CASES(CALL) ROW_CASE(1, CALL) ROW_CASE(2, CALL) ROW_CASE(3, CALL) ROW_CASE(4, CALL) ROW_CASE(5, CALL)
#else
#define ROW_CASES(CALL) ROW_CASE(1, CALL) ROW_CASE(2, CALL)
#endif
#define ROW_PASSES(r, CALL)                                                                                                      \
    for (int passes = ((r) + V_ROWS - 1) / V_ROWS, i = 0, count; passes > 0; passes--, i += count) {                             \
        count = ((r)-i + passes - 1) / passes;                                                                                   \
        switch (count) { ROW_CASES(CALL) }                                                                                       \
    }

#define SCORE_ROWS(R) score_pass(R, &view, d, n, q + (ptrdiff_t)i * d, rows, scale, s + (ptrdiff_t)i * lds, lds)
#define MIX_ROWS(R)   mix_pass(R, &view, d, batch, s + (ptrdiff_t)i * lds + t, lds, rows + t, acc + (ptrdiff_t)i * d)

#define ROW_KERNELS(TYPE, type, SCALES)                                                                                          \
    static void rows_score_##type(int r, int d, int n, const float *q, const void *const *rows, float scale, float *s,           \
                                  int lds) {                                                                                     \
        const row_view view = {row_##type, row_##type##_n, SCALES, (ptrdiff_t)mka_row_bytes(MKA_##TYPE, d)};                     \
        ROW_PASSES(r, SCORE_ROWS)                                                                                                \
    }                                                                                                                            \
    static void rows_mix_##type(int r, int d, int n, const float *s, int lds, const void *const *rows, float *acc) {             \
        const row_view view = {row_##type, row_##type##_n, SCALES, (ptrdiff_t)mka_row_bytes(MKA_##TYPE, d)};                     \
        for (int t = 0; t < n; t += BATCH) {                                                                                     \
            int batch = n - t < BATCH ? n - t : BATCH;                                                                           \
            ask_rows(rows, t + BATCH, t + 2 * BATCH, n, view.bytes);                                                             \
            ROW_PASSES(r, MIX_ROWS)                                                                                              \
        }                                                                                                                        \
    }

ROW_KERNELS(F32, f32, 0)
ROW_KERNELS(F16, f16, 0)
ROW_KERNELS(BF16, bf16, 0)
ROW_KERNELS(Q8_0, q8, mka_pad(d, GROUP))
ROW_KERNELS(Q4_0, q4, mka_pad(d, GROUP) / 2)

/* ---- which weights count ---- */

V_INLINE float sum_between(const float *x, int from, int to) {
    vf sum = v_zero();
    for (; from + VW <= to; from += VW) sum = v_add(sum, v_load(x + from));
    return v_sum(from < to ? v_add(sum, v_load_n(x + from, to - from)) : sum);
}

static int sift(int r, int stretches, const int *begins, const float *least, float *s, int lds, int *kept, float *left) {
    int n = begins[stretches], count = 0;
    float small[MKA_SIFT_MOST];
    vm goes[MKA_SIFT_MOST / VW];
    for (int t = 0; t < n; t += VW) {
        vm all = vm_all();
        for (int i = 0; i < r; i++) all = vm_and_below(all, v_load(s + (ptrdiff_t)i * lds + t), least[i]);
        goes[t / VW] = all;
        unsigned stays = vm_others(all) & (n - t < VW ? (1U << (n - t)) - 1 : ~0U);
        for (; stays; stays &= stays - 1) kept[count++] = t + __builtin_ctz(stays);
    }
    for (int i = 0; i < r; i++) {
        float *row = s + (ptrdiff_t)i * lds;
        for (int t = 0; t < n; t += VW) v_store(small + t, v_keep(goes[t / VW], v_load(row + t)));
        for (int k = 0; k < stretches; k++) left[i * MKA_SIFT_MOST + k] = sum_between(small, begins[k], begins[k + 1]);
        for (int c = 0; c < count && count < n; c++) row[c] = row[kept[c]];
    }
    return count;
}

/* ---- clusters ---- */

V_INLINE vf cluster_lift(vf gain, const float *deviation) {
    vf g = v_mul(gain, v_load(deviation)), one = v_set(1.0f), low = v_sub(one, v_max(v_sub(one, g), v_zero()));
    return v_fma(v_mul(v_set(0.5f), low), low, v_max(v_sub(g, one), v_zero()));
}

static void cluster_weigh(int n, float constant, float gain, const float *deviation, const float *log_count, float *s) {
    vf most = v_set(MKA_MOST_LIFT), g = v_set(gain), c = v_set(constant);
    for (int t = 0; t < n; t += VW) {
        vf lift = v_sub(most, v_max(v_sub(most, cluster_lift(g, deviation + t)), v_zero()));
        v_store(s + t, v_add(v_add(v_load(s + t), c), v_add(lift, v_load(log_count + t))));
    }
}

static uint64_t cluster_above(int n, const float *s, float gain, const float *deviation, const float *worth, float floor) {
    uint64_t bits = 0;
    vf g = v_set(gain), half = v_set(0.5f), slope = v_set(2.5f), less = v_set(-7.25f);
    for (int t = 0; t < n; t += VW) {
        vf single = v_fma(v_mul(g, slope), v_load(deviation + t), less), all = v_mul(half, cluster_lift(g, deviation + t));
        vf key = v_add(v_add(v_max(single, all), v_load(s + t)), v_load(worth + t));
        bits |= (uint64_t)vm_others(vm_and_below(vm_all(), key, floor)) << t;
    }
    return bits;
}
