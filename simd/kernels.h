/* kernels - the table of inner loops, its contracts, and the choice of a table for this CPU.
 *
 * Kernels never allocate, never start threads, never fail. Every pointer may be unaligned unless its contract says otherwise;
 * outputs overlap nothing unless it is said. n >= 0 everywhere, and n = 0 changes nothing; any n is allowed, so tails are the
 * kernel's matter. NaN in gives NaN out; infinite inputs may do so too. Scalar is the meaning: a level may differ from it by
 * rounding, as stated. Nothing outside the operands is written; memory behind a row may be prefetched, never read.
 */
#ifndef MKA_SIMD_KERNELS_H
#define MKA_SIMD_KERNELS_H

#include "cache.h"
#include "peaks.h"
#include "quant.h"
#include "rows.h"

/* sum_i a[i] b[i]. Differs from scalar by at most n/16 + 4 roundings of sum |a b|. */
typedef float mka_dot_fn(int n, const float *a, const float *b);

/* y[i] += a x[i] */
typedef void mka_axpy_fn(int n, float a, const float *x, float *y);

/* y[i] += x[i] */
typedef void mka_add_fn(int n, const float *x, float *y);

/* Attention over a block of keys: three steps of one online softmax for r query rows that share the keys.
 *
 *   score   s[i][t] = scale * q_i . k_t
 *   online  m' = max(m, max_t s)   c = exp(m - m')   s <- exp(s - m')   z <- c z + sum_t s      (c = 1 where m' = -inf)
 *   mix     acc_i <- c_i acc_i + sum_t s[i][t] v_t
 *
 * q [r][d] and acc [r][d] dense, 1 <= d <= MKA_MOST_DIM, r >= 1; keys and values point to the first of ceil(n / 32) tiles as
 * cache.h draws them, 64-byte aligned; s [r] rows, lds floats apart. score writes s[i][0..n) and may write up to the next
 * multiple of 16. m, z, c [r]. The empty state is m = -inf, z = 0, acc = 0. Scores of -inf are masked keys and give weight 0
 * exactly; while all keys so far are masked, m stays -inf and c is 1. A NaN among a row's scores makes its z NaN.
 * exp is within 2 ulp for arguments in -87..0 and exactly 0 below -104; in between it may be 0 (its value is denormal).
 *
 * Levels may round the other operand to the type's own unit, where the CPU multiplies that unit faster:
 *   score  F32: d/4 + 8 roundings of scale sum |q k|.   BF16: q to bf16, 2^-8 of that sum.   F16: that, or q and k to bf16 for 16
 *          rows or more (prompts), 2^-7 of it.
 *          Q8, Q4: q to 8 bits in groups of 32, (1/254) scale sum over groups of max |q| sum |k|.
 *   mix    F32: n + 4 roundings of sum |s v|.   BF16: s to bf16, 2^-8 of that sum.   F16: that, or s and v to bf16, 2^-7,
 * likewise. Q8, Q4: s times the tokens' scales to 8 bits of the largest in up to 256 tokens, (1/255) n max |s v| at most; where
 * a row's weights are concentrated, so that many small ones would be lost, the large ones are cut off and mixed in float32, or
 * all get 16 bits. */
typedef void mka_score_fn(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds);
typedef void mka_online_fn(int r, int n, float *s, int lds, float *m, float *z, float *c);
typedef void mka_mix_fn(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc);

/* The three steps at once, for many rows over many keys: row i attends to the keys first[i] <= t < last[i] of 0..n-1 alone, to
 * none where there are none. acc, m and z are as above; m comes out up to 2^-22 |m| off, and exp is within 4 ulp. Keys and values
 * are of one type, d_key is a multiple of 32, d_value of 16, and both are at most MKA_ROWS_DIM. */
enum { MKA_ROWS_DIM = 256 };
typedef struct mka_attend_rows {
    int r, d_key, d_value, n;
    float scale;
    const int *first, *last; /* [r] */
    const float *q;          /* [r][d_key] */
    const void *keys, *values;
    float *m, *z, *acc; /* [r], [r], [r][d_value] */
} mka_attend_rows;
typedef void mka_attend_rows_fn(const mka_attend_rows *job);

/* Softmax in place, with the maximum taken off first. A row of -inf only becomes NaN. */
typedef void mka_softmax_fn(int n, float *x);

/* y[i] = x[i] w[i] / sqrt(mean(x^2) + eps); w NULL: ones. y may be x. */
typedef void mka_rms_norm_fn(int n, float eps, const float *x, const float *w, float *y);

/* Rotation of n pairs in place: (a, b) -> (a cos - b sin, b cos + a sin); pair i is (x[i], x[i + n]) for rope_half and
 * (x[2i], x[2i + 1]) for rope_pairs. cosine, sine [n]. */
typedef void mka_rope_fn(int n, float *x, const float *cosine, const float *sine);

/* y[i] = act(gate[i]) up[i]; act is SiLU (swiglu) or GELU by tanh (geglu). y may be gate or up.
 * Within 1e-6 |y| + 1e-35; geglu also 1e-9 |gate up|, as its tail is a tiny part of its input. */
typedef void mka_glu_fn(int n, const float *gate, const float *up, float *y);

/* x[i] = act(x[i]): SiLU, and GELU by erf. As exact as the two above. */
typedef void mka_act_fn(int n, float *x);

/* Session summary: m[i] = beta m[i] + (1 - beta) x[i]. */
typedef void mka_ema_fn(int n, float beta, const float *x, float *m);

/* Lambda-weighted sum of the levels: y[i] = sum_l lambda[l] rows[l][i], in the order of l, 1 <= levels <= 3, starting from
 * lambda[0] rows[0][i] without adding to zero, so that lambda = (1, 0, 0) gives rows[0] bit for bit (finite rows; the sign of
 * a zero excepted). y may be one of rows. */
typedef void mka_fuse_fn(int levels, int n, const float *lambda, const float *const *rows, float *y);

/* Quantises n (a multiple of 32) activations: scale = max |x| / 127 of each 32, q to nearest even. NaN or infinity in a block
 * makes its scale NaN. A scale that would be denormal is 0, and its block zeros. All levels give equal results. */
typedef void mka_quantize_fn(int n, const float *x, const mka_q8_row *y);

/* y[j] = w_j . x for j in 0..rows-1: rows of n elements of the entry's type, row_bytes apart, rows of blocks at even addresses.
 * gemv_q8 takes activations in 8 bits: integer sums within a block are exact, so levels differ by float rounding alone. */
typedef void mka_gemv_q8_fn(int rows, int n, const void *w, size_t row_bytes, const mka_q8_row *x, float *y);
typedef void mka_gemv_f32_fn(int rows, int n, const void *w, size_t row_bytes, const float *x, float *y);

/* Products of many rows on bf16 units: weights and activations rounded to bfloat16, products and sums in float32.
 *
 * A panel holds up to 32 weight rows of k elements (1 <= k <= MKA_PANEL_K), in an order that is the level's own; it takes
 * MKA_PANEL_BYTES(k) and is 64-byte aligned. pack_bf16 makes one from floats, whose rows are ldw floats apart; it may be made
 * piece by piece, the piece from element a on (a multiple of 32) at byte MKA_PANEL_BYTES(a).
 *
 *   y[i][j] = sum_k x[i][k] w[j][k]      (added to y[i][j] when more is set)      i < n, j < rows
 *
 * x rows are ldx elements apart, ldx a multiple of 32, 64-byte aligned; elements k..round_up(k, 32) - 1 are zeros. y rows are ldy
 * floats apart. A result does not depend on n, nor on the other rows. Denormal inputs may count as zeros.
 * Off the exact sum of the rounded operands by at most k/2 + 4 roundings of sum |x w|, those being up to 2^-23 each. */
#define MKA_PANEL_ROWS     32
#define MKA_PANEL_K        1024
#define MKA_PANEL_BYTES(k) ((((size_t)(k) + 31) / 32 * 32) * MKA_PANEL_ROWS * 2)
typedef void mka_pack_bf16_fn(int rows, int k, const float *w, int ldw, void *panel);
typedef void mka_gemm_bf16_fn(int n, int rows, int k, const uint16_t *x, int ldx, const void *panel, int more, float *y, int ldy);

/* Recall. Scores and sums over single rows (rows.h) that lie anywhere; rows are 2-byte aligned, n >= 0.
 *
 *   rows_score   s[i][t] = scale * q_i . row_t        q [r][d] dense; s [r] rows lds floats apart, nothing beyond n written
 *   rows_mix     acc_i += sum_t s[i][t] row_t         acc [r][d] dense
 *
 * Products and sums in float32: off by d/4 + 8 roundings of scale sum |q k|, and n + 4 of sum |s v|. Where rows are Q8, a query
 * row may be rounded to 16 bits for the scores: off by 2^-16 of its largest number times scale sum |k| too. */
typedef void mka_rows_score_fn(int r, int d, int n, const float *q, const void *const *rows, float scale, float *s, int lds);
typedef void mka_rows_mix_fn(int r, int d, int n, const float *s, int lds, const void *const *rows, float *acc);

/* Which of a batch's tokens have a weight that counts in any of r rows. The batch is made of stretches: number k is tokens
 * begins[k]..begins[k + 1] - 1, begins[0] = 0, and there are at most MKA_SIFT_MOST tokens. s [r] rows lds floats apart, readable
 * up to a multiple of 16 tokens. Token t stays where some row has !(s[i][t] <= least[i]): kept gets the numbers of those that do,
 * in order, their weights move to the front of s, and their count is returned. left[i][k] = sum of the others' weights in stretch
 * k; left [r] rows MKA_SIFT_MOST apart. */
#define MKA_SIFT_MOST 128
typedef int mka_sift_fn(int r, int stretches, const int *begins, const float *least, float *s, int lds, int *kept, float *left);

/* Scan of one block of 64 keys' signs (rows.h) for r query rows, r <= 64.
 *
 * tables [lines][r][2][16], 0..MKA_SCAN_MOST each: entry v of the first is what low nibble v adds to the row's sum, of the second
 * what high nibble v adds. The result is the set of wanted tokens, bit t for token t: those that any row wants. e [r][64] gets
 * every token's weight, mass [r][4] the sums of e over tokens 16 b..16 b + 15 that are not wanted. 2^x is taken with a relative
 * error of 0.04 at most and is at most 2^126, 0 below 2^-125; a token that any row has as NaN is wanted. Levels may differ by
 * rounding of the exponent (1e-5 of its magnitude + 1e-5), and so near the floor. block 64-byte aligned. */
typedef uint64_t mka_scan_fn(int r, int d, const void *block, const uint8_t *tables, const mka_scan_row *rows, float *e,
                             float *mass);

/* Clusters of keys, of which one query row has the scores s of their centroids. With g = gain deviation[t], the deviation of
 * scores within cluster t, and lift(g) = g^2 / 2 up to g = 1 and g - 1/2 from there on:
 *
 *   weigh   s[t] += constant + min(lift(g), 5/2) + log_count[t]
 *   above   bit t for s[t] + max(lift(g) / 2, 5/2 g - 29/4) + worth[t] > floor, or NaN        n <= 64
 *
 * n is a multiple of 16, gain and deviation >= 0. Off by a few roundings of the terms. */
#define MKA_MOST_LIFT 2.5F
typedef void mka_weigh_fn(int n, float constant, float gain, const float *deviation, const float *log_count, float *s);
typedef uint64_t mka_above_fn(int n, const float *s, float gain, const float *deviation, const float *worth, float floor);

/* Recall for r queries of one head at once, over n things that it estimates, n a multiple of 16; s [r] rows lds floats apart.
 *
 *   estimate   x = s[i][t] + bias[t]   m' = max(m, max_t x)   c = exp(m - m')   s <- exp(x - m')   z <- c z + sum_t s
 *              squares[t] = sum_i (s[i][t] / z_i)^2, of the new z      (c = 1 where m' = -inf)
 *   keep       s[i][t] *= kept[t]      sum[i] = sum_t of that          kept[t] is 0 or 1
 *
 * estimate's exp of x - m' has a relative error of 0.04 at most, which is zero on average, and is 0 below 2^-125; c is within 4
 * ulp. A NaN among a row's scores makes its z NaN, and squares too. */
typedef void mka_estimate_fn(int r, int n, const float *bias, float *s, int lds, float *m, float *z, float *c, float *squares);
typedef void mka_keep_fn(int r, int n, const float *kept, float *s, int lds, float *sum);

/* Rows (rows.h) that lie anywhere as one tile of BF16 keys, or values (cache.h): row t goes to slot t, 0 < n <= 32; the other
 * slots become zeros. d <= MKA_ROWS_DIM, the tile 64-byte aligned. Numbers are rounded to nearest even; NaN stays. */
typedef void mka_rows_tile_fn(int d, int n, const void *const *rows, void *tile);

/* Tiles of Q8 keys, or of Q8 values, as tiles of BF16, to nearest even: for rows so many that this is worth doing once. d is a
 * multiple of 32, to is 64-byte aligned. */
typedef void mka_widen_fn(int d, int tiles, const void *from, void *to);

/* One level's kernels. Entries that depend on a stored type are indexed by mka_type and NULL where the type has none:
 * score, mix: F32 F16 BF16 Q8_0 Q4_0 (as cache.h stores them). store: F32 F16 BF16. load: every weight type. gemv_q8: every
 * quantised type. gemv_f32: F32 F16 BF16. */
typedef struct mka_kernels {
    const char *level;
    mka_dot_fn *dot;
    mka_axpy_fn *axpy;
    mka_add_fn *add;
    mka_score_fn *score[MKA_TYPE_LIMIT];
    mka_online_fn *online;
    mka_mix_fn *mix[MKA_TYPE_LIMIT];
    mka_attend_rows_fn *attend_rows[MKA_TYPE_LIMIT]; /* NULL where the three steps are as good */
    mka_softmax_fn *softmax;
    mka_rms_norm_fn *rms_norm;
    mka_rope_fn *rope_half, *rope_pairs;
    mka_glu_fn *swiglu, *geglu;
    mka_act_fn *silu, *gelu;
    mka_ema_fn *ema;
    mka_fuse_fn *fuse;
    mka_load_fn *load[MKA_TYPE_LIMIT];
    mka_store_fn *store[MKA_TYPE_LIMIT];
    mka_quantize_fn *quantize;
    mka_gemv_q8_fn *gemv_q8[MKA_TYPE_LIMIT];
    mka_gemv_f32_fn *gemv_f32[MKA_TYPE_LIMIT];
    mka_pack_bf16_fn *pack_bf16; /* NULL, as the next, where the level has no bf16 units */
    mka_gemm_bf16_fn *gemm_bf16;
    mka_rows_score_fn *rows_score[MKA_TYPE_LIMIT]; /* F32 F16 BF16 Q8_0 Q4_0, as rows.h stores them */
    mka_rows_mix_fn *rows_mix[MKA_TYPE_LIMIT];
    mka_sift_fn *sift;
    mka_scan_fn *scan;
    mka_rows_tile_fn *rows_keys[MKA_TYPE_LIMIT], *rows_values[MKA_TYPE_LIMIT]; /* BF16 Q8_0 Q4_0 */
    mka_widen_fn *widen_keys, *widen_values;                                   /* NULL where products of Q8 are as good */
    mka_weigh_fn *weigh;
    mka_above_fn *above;
    mka_estimate_fn *estimate;
    mka_keep_fn *keep;
    mka_peaks peaks; /* not used by any operation: what they are held against */
} mka_kernels;

/* The table of a level that this CPU can run, NULL for any other name. level NULL: the best. A level's missing kernels are
 * those of the next lower level, down to scalar, which has all. Built once, then constant; thread safe. */
const mka_kernels *mka_kernels_get(const char *level);

/* Names of the levels that this CPU can run, lowest first; returns how many. names has room for 16. */
int mka_kernels_levels(const char **names);

#endif
