/* amx_recall - scores of single rows in 8 bits on AMX. The integer products of 16 rows as they lie in memory are
 *
 *   C[16 keys][16]  +=  A[16 keys][32 dimensions]  B[8 quads of dimensions][16]
 *
 * for one group of 32 numbers, which share a scale. The 16 columns are eight query rows, each as two bytes of 16 bits: with 8
 * alone a score would be off by a hundredth of the deviation of scores. So products are exact, and what is lost is the rounding
 * of a query row to 16 bits; a row costs a fifth of the instructions that it takes in float32. */
#include <math.h>
#include <string.h>

#include "levels.h"
#include "x86/amx_tiles.h"
#include "x86/bf16_panel.h"
#include "x86/vnni_cache.h"

enum {
    KEYS = 16,
    COLUMNS = 8, /* query rows */
    GROUP = 32,  /* numbers that share a scale */
    TOGETHER = 4 /* groups whose products are held in tiles at once */
};

/* Tiles 0..3: C; 4, 5: A; 6, 7: B. */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} recall_shape = {.palette = 1, .bytes = {64, 64, 64, 64, 32, 32, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 8, 8}};

/* Query rows as they are multiplied: B by groups, and what a row's products are multiplied by. */
typedef struct {
    _Alignas(64) int8_t b[AMX_MOST_DIM / 4][16][4];
    float factor[COLUMNS];
} columns;

/* A row's numbers to 16 bits in upper [d] and lower bytes [d]; returns what they stand for, NaN where one of them is no number.
 */
static float round_row(int d, const float *x, int8_t *upper, int8_t *lower) {
    __m512 most = _mm512_setzero_ps();
    __mmask16 numbers = 0xffff;
    for (int e = 0; e < d; e += 16) {
        __m512 size = _mm512_abs_ps(_mm512_loadu_ps(x + e));
        numbers &= _mm512_cmp_ps_mask(size, _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
        most = _mm512_max_ps(most, size);
    }
    float largest = numbers == 0xffff ? _mm512_reduce_max_ps(most) : 0;
    __m512 inverse = _mm512_set1_ps(largest > 1e-30F ? 32512.0F / largest : 0);
    for (int e = 0; e < d; e += 16) {
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + e), inverse));
        __m512i high = _mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(128)), 8);
        _mm_storeu_si128((__m128i *)(void *)(upper + e), _mm512_cvtepi32_epi8(high));
        _mm_storeu_si128((__m128i *)(void *)(lower + e), _mm512_cvtepi32_epi8(_mm512_sub_epi32(v, _mm512_slli_epi32(high, 8))));
    }
    return numbers == 0xffff ? largest / 32512.0F : NAN;
}

static void make_columns(int r, int d, const float *q, float factor, columns *c) {
    _Alignas(64) int8_t bytes[2 * COLUMNS][AMX_MOST_DIM];
    memset(bytes, 0, sizeof bytes);
    memset(c->factor, 0, sizeof c->factor);
    for (int i = 0; i < r; i++) c->factor[i] = factor * round_row(d, q + (ptrdiff_t)i * d, bytes[i], bytes[COLUMNS + i]);
    for (int e = 0; e < d; e += 64) { /* of the last one, half may lie beyond d */
        __m512i line[16];
        for (int i = 0; i < 16; i++) line[i] = _mm512_load_si512(bytes[i] + e);
        transpose16(line);
        for (int i = 0; i < 16; i++) _mm512_store_si512(c->b[e / 4 + i], line[i]);
    }
}

/* Rows next to each other, and their scales. */
typedef struct {
    _Alignas(64) int8_t bytes[KEYS][AMX_MOST_DIM];
    _Alignas(32) float scales[KEYS][AMX_MOST_DIM / GROUP];
} gathered;

/* Those of 16 rows that there are not become zeros. */
static void gather(int d, int n, const void *const *rows, gathered *keys) {
    int groups = d / GROUP;
    for (int t = 0; t < KEYS; t++) {
        if (t >= n) {
            memset(keys->bytes[t], 0, (size_t)d);
            memset(keys->scales[t], 0, sizeof keys->scales[t]);
            continue;
        }
        const char *row = rows[t];
        for (int e = 0; e < d; e += 32)
            _mm256_store_si256((__m256i *)(void *)(keys->bytes[t] + e),
                               _mm256_loadu_si256((const __m256i *)(const void *)(row + e)));
        __m128i halves = _mm_maskz_loadu_epi16((__mmask8)((1U << groups) - 1), row + d);
        _mm256_store_ps(keys->scales[t], _mm256_cvtph_ps(halves));
    }
}

/* Products of up to four groups from number e on. */
static void multiply(int groups, const int8_t *keys, const int8_t *b, int32_t (*c)[KEYS][16]) {
    const size_t stride = AMX_MOST_DIM;
    __asm__ volatile("" ::: "memory"); /* compilers do not know that loading a tile reads memory */
    _tile_zero(0);
    _tile_loadd(4, keys, stride);
    _tile_loadd(6, b, 64);
    _tile_dpbssd(0, 4, 6);
    if (groups > 1) {
        _tile_zero(1);
        _tile_loadd(5, keys + GROUP, stride);
        _tile_loadd(7, b + 512, 64);
        _tile_dpbssd(1, 5, 7);
    }
    if (groups > 2) {
        _tile_zero(2);
        _tile_loadd(4, keys + (ptrdiff_t)2 * GROUP, stride);
        _tile_loadd(6, b + 1024, 64);
        _tile_dpbssd(2, 4, 6);
    }
    if (groups > 3) {
        _tile_zero(3);
        _tile_loadd(5, keys + (ptrdiff_t)3 * GROUP, stride);
        _tile_loadd(7, b + 1536, 64);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, c[0], 64);
    if (groups > 1) _tile_stored(1, c[1], 64);
    if (groups > 2) _tile_stored(2, c[2], 64);
    if (groups > 3) _tile_stored(3, c[3], 64);
}

/* s[key][row] of 16 keys, 8 rows, to s[row][key] of n keys, r rows. */
static void store_scores(int r, int n, float (*scores)[COLUMNS], float *s, int lds) {
    const __m512i every =
        _mm512_mullo_epi32(_mm512_set1_epi32(COLUMNS), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    __mmask16 some = (__mmask16)(n < KEYS ? (1U << n) - 1 : 0xffff);
    for (int i = 0; i < r; i++) _mm512_mask_storeu_ps(s + (ptrdiff_t)i * lds, some, _mm512_i32gather_ps(every, &scores[0][i], 4));
}

static void score_keys(int r, int d, int n, const columns *q, const gathered *keys, float *s, int lds) {
    _Alignas(64) int32_t c[TOGETHER][KEYS][16];
    _Alignas(64) float sums[KEYS][16];
    _Alignas(32) float scores[KEYS][COLUMNS];
    for (int e = 0; e < d; e += TOGETHER * GROUP) {
        int groups = (d - e) / GROUP < TOGETHER ? (d - e) / GROUP : TOGETHER;
        multiply(groups, keys->bytes[0] + e, q->b[e / 4][0], c);
        for (int t = 0; t < KEYS; t++) {
            __m512 sum = e == 0 ? _mm512_setzero_ps() : _mm512_load_ps(sums[t]);
            for (int g = 0; g < groups; g++)
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(c[g][t])),
                                      _mm512_set1_ps(keys->scales[t][e / GROUP + g]), sum);
            _mm512_store_ps(sums[t], sum);
        }
    }
    const __m256 factor = _mm256_loadu_ps(q->factor), upper = _mm256_set1_ps(256.0F);
    for (int t = 0; t < KEYS; t++)
        _mm256_store_ps(
            scores[t], _mm256_mul_ps(factor, _mm256_fmadd_ps(_mm256_load_ps(sums[t]), upper, _mm256_load_ps(sums[t] + COLUMNS))));
    store_scores(r, n, scores, s, lds);
}

/* Rows of the next 16 keys are asked for while these are worked on. */
static void ask(int d, int n, const void *const *rows) {
    for (int t = 0; t < n && t < KEYS; t++)
        for (int b = 0; b < d + d / GROUP * 2; b += 64) _mm_prefetch((const char *)rows[t] + b, _MM_HINT_T0);
}

/* While 16 rows are multiplied the next 16 are gathered, so that tiles are not loaded from what has just been written, and those
 * behind them are asked for. */
static void score_rows(int r, int d, int n, const columns *q, const void *const *rows, float *s, int lds) {
    gathered keys[2];
    gather(d, n, rows, &keys[0]);
    for (int t = 0; t < n; t += KEYS) {
        ask(d, n - t - 2 * KEYS, rows + t + 2 * KEYS);
        if (n - t > KEYS) gather(d, n - t - KEYS, rows + t + KEYS, &keys[(t / KEYS + 1) % 2]);
        score_keys(r, d, n - t < KEYS ? n - t : KEYS, q, &keys[t / KEYS % 2], s + t, lds);
    }
}

static void rows_score_q8(int r, int d, int n, const float *q, const void *const *rows, float scale, float *s, int lds) {
    columns c;
    if (d % GROUP || d > AMX_MOST_DIM || n < KEYS / 2) {
        mka_avx512_rows_score_q8(r, d, n, q, rows, scale, s, lds);
        return;
    }
    _tile_loadconfig(&recall_shape);
    for (int i = 0; i < r; i += COLUMNS) {
        int count = r - i < COLUMNS ? r - i : COLUMNS;
        ask(d, n, rows);
        ask(d, n - KEYS, rows + KEYS);
        make_columns(count, d, q + (ptrdiff_t)i * d, scale, &c);
        score_rows(count, d, n, &c, rows, s + (ptrdiff_t)i * lds, lds);
    }
    _tile_release();
}

void mka_amx_fill_recall(mka_kernels *k);
void mka_amx_fill_recall(mka_kernels *k) {
    k->rows_score[MKA_Q8_0] = rows_score_q8;
}
