/* i8mm_cache - attention over cache tiles on AArch64 with dot products of bf16 pairs (bfdot) and of bytes of mixed signs, and
 * the level's table. Products of the weights are those of dotprod: with one activation row, half of what a matrix product
 * (smmla) computes would be thrown away, and two rows' weights would have to be interleaved first. */
#include "arm/dot_cache.h"

/* n floats to bf16, with zeros up to the next multiple of 8. */
static void round_bf16(int n, const float *x, uint16_t *y) {
    for (int i = 0; i < n; i += 8) {
        bfloat16x8_t low = vcvtq_low_bf16_f32(load_some(x + i, n - i));
        bfloat16x8_t both = vcvtq_high_bf16_f32(low, load_some(x + i + 4, n - i - 4));
        vst1q_u16(y + i, vreinterpretq_u16_bf16(both));
    }
}

INLINE bfloat16x8_t load_pairs(const void *p) {
    return vreinterpretq_bf16_u16(vld1q_u16(p));
}

/* Adds `lines` lines of 16 pairs times the pairs of R rows (x [R][ldx]); whole groups of four lines, then single ones. */
INLINE void add_lines(int R, int lines, const char *p, const uint16_t *x, int ldx, float32x4_t (*sum)[QUARTERS]) {
    int l = 0;
    for (; l + 4 <= lines; l += 4, p += 256) {
        bfloat16x8_t row[ROWS];
        for (int i = 0; i < R; i++) row[i] = load_pairs(x + (ptrdiff_t)i * ldx + 2 * l);
        for (int k = 0; k < 4; k++) __builtin_prefetch(p + AHEAD + 64 * k);
#define ADD_LINE(lane)                                                                                                           \
    for (int v = 0; v < QUARTERS; v++) {                                                                                         \
        bfloat16x8_t line = load_pairs(p + 64 * lane + 16 * v);                                                                  \
        for (int i = 0; i < R; i++) sum[i][v] = vbfdotq_laneq_f32(sum[i][v], line, row[i], lane);                                \
    }
        EACH_LANE(ADD_LINE)
    }
    for (; l < lines; l++, p += 64)
        for (int i = 0; i < R; i++) {
            uint32_t pair;
            memcpy(&pair, x + (ptrdiff_t)i * ldx + 2 * l, sizeof pair);
            bfloat16x8_t all = vreinterpretq_bf16_u32(vdupq_n_u32(pair));
            for (int v = 0; v < QUARTERS; v++) sum[i][v] = vbfdotq_f32(sum[i][v], load_pairs(p + 16 * v), all);
        }
}

INLINE void score_rows_bf16(int R, int d, int n, const float *q, const char *keys, float factor, float *s, int lds) {
    uint16_t rounded[ROWS * (MKA_MOST_DIM + 8)];
    int ldq = mka_pad(d, 8);
    ptrdiff_t half = (ptrdiff_t)mka_key_tile_bytes(MKA_BF16, d) / 2;
    for (int i = 0; i < R; i++) round_bf16(d, q + (ptrdiff_t)i * d, rounded + (ptrdiff_t)i * ldq);
    for (int t = 0; t < n; t += MKA_HALF, keys += half) {
        float32x4_t sum[ROWS][QUARTERS];
        for (int i = 0; i < R; i++)
            for (int v = 0; v < QUARTERS; v++) sum[i][v] = vdupq_n_f32(0);
        add_lines(R, (d + 1) / 2, keys, rounded, ldq, sum);
        for (int i = 0; i < R; i++)
            for (int v = 0; v < QUARTERS; v++) vst1q_f32(s + (ptrdiff_t)i * lds + t + 4 * v, vmulq_n_f32(sum[i][v], factor));
    }
}

/* A block of 16 dimensions, of which only `left` may exist. */
INLINE void mix_block_bf16(int R, int d, int n, const uint16_t *w, const char *lines, ptrdiff_t tile, int left, const float *c,
                           float *acc) {
    float32x4_t sum[ROWS][QUARTERS];
    for (int i = 0; i < R; i++)
        for (int v = 0; v < QUARTERS; v++) sum[i][v] = vmulq_n_f32(load_some(acc + (ptrdiff_t)i * d + 4 * v, left - 4 * v), c[i]);
    for (int t = 0; t < n; t += MKA_TILE, lines += tile)
        add_lines(R, n - t < MKA_TILE ? (n - t + 1) / 2 : MKA_TILE / 2, lines, w + t, SPAN, sum);
    for (int i = 0; i < R; i++)
        for (int v = 0; v < QUARTERS; v++) store_some(acc + (ptrdiff_t)i * d + 4 * v, sum[i][v], left - 4 * v);
}

INLINE void mix_rows_bf16(int R, int d, int n, const float *s, int lds, const char *values, const float *c, float *acc) {
    static const float ones[ROWS] = {1, 1, 1, 1, 1};
    uint16_t w[ROWS * SPAN];
    ptrdiff_t tile = (ptrdiff_t)mka_value_tile_bytes(MKA_BF16, d);
    for (int from = 0; from < n; from += SPAN, values += SPAN / MKA_TILE * tile) {
        int count = n - from < SPAN ? n - from : SPAN;
        for (int i = 0; i < R; i++) round_bf16(count, s + (ptrdiff_t)i * lds + from, w + i * SPAN);
        for (int e = 0; e < d; e += 16)
            mix_block_bf16(R, d, count, w, values + e / 16 * 1024, tile, d - e, from == 0 ? c : ones, acc + e);
    }
}

#define SCORE_BF16(R, row) score_rows_bf16(R, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
#define MIX_BF16(R, row)   mix_rows_bf16(R, d, n, s + (ptrdiff_t)(row)*lds, lds, values, c + (row), acc + (ptrdiff_t)(row)*d)
static void score_bf16(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    ROW_PASSES(r, SCORE_BF16)
}
static void mix_bf16(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    if (n > 0) ROW_PASSES(r, MIX_BF16)
}

void mka_i8mm_fill_gemm(mka_kernels *k);

void mka_i8mm_fill(mka_kernels *k) {
    mka_i8mm_fill_gemm(k);
    fill_quant_cache(k);
    k->score[MKA_BF16] = score_bf16, k->mix[MKA_BF16] = mix_bf16;
}
