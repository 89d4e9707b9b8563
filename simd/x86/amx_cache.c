/* amx_cache - attention over bf16 cache tiles on AMX, and over others that are converted for many rows. A tile of keys or values
 * is an operand of TDPBF16PS as it lies in memory (16 lines of 64 bytes), which is what the cache's layout was chosen for.
 *
 *   score   C[16 queries][16 keys]        += A[16 queries][32 dimensions]  B[16 pairs of dimensions][16 keys]
 *   mix     C[16 queries][16 dimensions]  += A[16 queries][32 keys]        B[16 pairs of keys][16 dimensions]
 *
 * Two by two tiles of C are held at once. Rows that do not fill 16 are computed in a buffer of 16: even one row in 16 is faster
 * than memory, and than VDPBF16PS on the CPUs that have AMX. Widths that are no multiple of 32 (keys) or 16 (values) are left to
 * the level below. */
#include <string.h>

#include "levels.h"
#include "x86/amx_tiles.h"
#include "x86/vnni_cache.h"

enum { ROWS = AMX_ROWS, MANY = 2 * ROWS, SPAN = 256, MOST_DIM = AMX_MOST_DIM };

/* n floats times factor to bf16, with zeros up to the next multiple of 32. */
static void round_bf16(int n, float factor, const float *x, uint16_t *y) {
    __m512 by = _mm512_set1_ps(factor);
    for (int i = 0; i < n; i += 32) {
        __mmask32 left = n - i >= 32 ? 0xffffffffu : (1u << (n - i)) - 1u;
        __m512 low = _mm512_maskz_loadu_ps((__mmask16)left, x + i),
               high = _mm512_maskz_loadu_ps((__mmask16)(left >> 16), x + i + 16);
        _mm512_storeu_si512(y + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, by), _mm512_mul_ps(low, by)));
    }
}

/* C tiles 0..3 are (rows 0, keys 0), (rows 0, keys 16), (rows 16, keys 0), (rows 16, keys 16). */
static void multiply_2x2(int steps, const uint16_t *a, int lda, int two, const char *b, ptrdiff_t b_step, ptrdiff_t b_second,
                         int b_two, ptrdiff_t ahead) {
    for (int k = 0; k < steps; k++, a += 32, b += b_step) {
        _tile_loadd(4, a, (size_t)lda * 2);
        amx_ask(b, ahead);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (b_two) {
            amx_ask(b + b_second, ahead);
            _tile_loadd(7, b + b_second, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (two) {
            _tile_loadd(5, a + ROWS * lda, (size_t)lda * 2);
            _tile_dpbf16ps(2, 5, 6);
            if (b_two) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

/* One or two (two) times 16 rows of queries against the keys of one cache tile, the second half only when halves is 2. */
static void score_tile(int two, int halves, int d, const uint16_t *q, int ldq, const char *keys, ptrdiff_t half, ptrdiff_t ahead,
                       float *s, int lds) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    multiply_2x2(d / 32, q, ldq, two, keys, 1024, half, halves == 2, ahead);
    _tile_stored(0, s, (size_t)lds * 4);
    if (halves == 2) _tile_stored(1, s + MKA_HALF, (size_t)lds * 4);
    if (two) _tile_stored(2, s + (ptrdiff_t)ROWS * lds, (size_t)lds * 4);
    if (two && halves == 2) _tile_stored(3, s + (ptrdiff_t)ROWS * lds + MKA_HALF, (size_t)lds * 4);
}

static void score_bf16(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    if (d % 32 || d > MOST_DIM) {
        mka_avx512vnni_score_bf16(r, d, n, q, keys, scale, s, lds);
        return;
    }
    uint16_t rounded[2 * ROWS * MOST_DIM];
    float rest[ROWS * 32];
    ptrdiff_t tile = (ptrdiff_t)mka_key_tile_bytes(MKA_BF16, d);
    ptrdiff_t ahead = r < MANY ? (n + MKA_TILE - 1) / MKA_TILE * tile : 0; /* for many, keys were put together beforehand */
    _tile_loadconfig(&amx_shape);
    for (int row = 0; row < r;) {
        int left = r - row, two = left >= 2 * ROWS, rows = two ? 2 * ROWS : left < ROWS ? left : ROWS;
        memset(rounded, 0, (two ? 2 : 1) * ROWS * (size_t)d * sizeof *rounded);
        for (int i = 0; i < rows; i++) round_bf16(d, scale, q + (ptrdiff_t)(row + i) * d, rounded + i * d);
        const char *p = keys;
        float *out = s + (ptrdiff_t)row * lds;
        for (int t = 0; t < n; t += MKA_TILE, p += tile) {
            int halves = n - t > MKA_HALF ? 2 : 1;
            if (rows >= ROWS) {
                score_tile(two, halves, d, rounded, d, p, tile / 2, ahead, out + t, lds);
                continue;
            }
            score_tile(0, halves, d, rounded, d, p, tile / 2, ahead, rest, 32);
            for (int i = 0; i < rows; i++)
                memcpy(out + (ptrdiff_t)i * lds + t, rest + i * 32, (size_t)halves * MKA_HALF * sizeof(float));
        }
        row += rows;
        ahead = 0;
    }
    _tile_release();
}

static void load_c(int two, int columns, const float *acc, int d) {
    _tile_loadd(0, acc, (size_t)d * 4);
    if (columns == 2) _tile_loadd(1, acc + 16, (size_t)d * 4);
    if (two) _tile_loadd(2, acc + (ptrdiff_t)ROWS * d, (size_t)d * 4);
    if (two && columns == 2) _tile_loadd(3, acc + (ptrdiff_t)ROWS * d + 16, (size_t)d * 4);
}

static void store_c(int two, int columns, float *acc, int d) {
    _tile_stored(0, acc, (size_t)d * 4);
    if (columns == 2) _tile_stored(1, acc + 16, (size_t)d * 4);
    if (two) _tile_stored(2, acc + (ptrdiff_t)ROWS * d, (size_t)d * 4);
    if (two && columns == 2) _tile_stored(3, acc + (ptrdiff_t)ROWS * d + 16, (size_t)d * 4);
}

/* w [16 or 32][SPAN]: the weights of n tokens in bf16; acc [16 or 32][d] */
static void mix_rows(int two, int d, int n, const uint16_t *w, const char *values, ptrdiff_t tile, ptrdiff_t ahead, float *acc) {
    int steps = (n + MKA_TILE - 1) / MKA_TILE;
    for (int e = 0; e < d; e += 32) {
        int columns = d - e > 16 ? 2 : 1;
        load_c(two, columns, acc + e, d);
        multiply_2x2(steps, w, SPAN, two, values + (ptrdiff_t)(e / 16) * 1024, tile, 1024, columns == 2, ahead);
        store_c(two, columns, acc + e, d);
    }
}

static void mix_bf16(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    if (d % 16 || d > MOST_DIM) {
        mka_avx512vnni_mix_bf16(r, d, n, s, lds, values, c, acc);
        return;
    }
    uint16_t w[2 * ROWS * SPAN];
    float rest[ROWS * MOST_DIM];
    ptrdiff_t tile = (ptrdiff_t)mka_value_tile_bytes(MKA_BF16, d);
    if (n <= 0) return;
    for (int i = 0; i < r; i++)
        for (int e = 0; e < d && c[i] != 1; e++) acc[(ptrdiff_t)i * d + e] *= c[i];
    _tile_loadconfig(&amx_shape);
    for (int row = 0; row < r;) {
        int left = r - row, two = left >= 2 * ROWS, rows = two ? 2 * ROWS : left < ROWS ? left : ROWS;
        float *out = acc + (ptrdiff_t)row * d, *sum = rows < ROWS ? rest : out;
        if (rows < ROWS) {
            memset(rest, 0, sizeof rest);
            memset(w, 0, sizeof w);
            memcpy(rest, out, (size_t)rows * (size_t)d * sizeof(float));
        }
        const char *p = values;
        for (int from = 0; from < n; from += SPAN, p += SPAN / MKA_TILE * tile) {
            int count = n - from < SPAN ? n - from : SPAN;
            for (int i = 0; i < rows; i++) round_bf16(count, 1, s + (ptrdiff_t)(row + i) * lds + from, w + i * SPAN);
            mix_rows(two, d, count, w, p, tile, r < MANY && row == 0 ? (count + MKA_TILE - 1) / MKA_TILE * tile : 0, sum);
        }
        if (rows < ROWS) memcpy(out, rest, (size_t)rows * (size_t)d * sizeof(float));
        row += rows;
    }
    _tile_release();
}

/* ---- f16: many rows are worth converting a block of the cache to bf16 for ---- */

static void score_f16(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    if (r < ROWS || d % 32 || d > MOST_DIM) {
        mka_avx512_score_f16(r, d, n, q, keys, scale, s, lds);
        return;
    }
    __attribute__((aligned(64))) char block[SPAN * MOST_DIM * 2];
    const char *lines = keys;
    for (int from = 0; from < n; from += SPAN) {
        int count = n - from < SPAN ? n - from : SPAN;
        char *pairs = block;
        for (int line = 0; line < (count + MKA_HALF - 1) / MKA_HALF * d; line += 2, lines += 64, pairs += 64)
            amx_store_pairs(lines, lines + 32, pairs);
        score_bf16(r, d, count, q, block, scale, s + from, lds);
    }
}

static void mix_f16(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    if (r < ROWS || d % 16 || d > MOST_DIM || n > SPAN) {
        mka_avx512_mix_f16(r, d, n, s, lds, values, c, acc);
        return;
    }
    __attribute__((aligned(64))) char block[SPAN * MOST_DIM * 2];
    const char *row = values;
    for (int t = 0; t < mka_pad(n, MKA_TILE); t += 2, row += (ptrdiff_t)d * 4) /* whole tiles: all of them is multiplied */
        for (int e = 0; e < d; e += 16) {
            ptrdiff_t tile = (ptrdiff_t)(t / MKA_TILE) * MKA_TILE * d * 2;
            amx_store_pairs(row + 2 * e, row + 2 * (d + e), block + tile + e / 16 * 1024 + t % MKA_TILE / 2 * 64);
        }
    mix_bf16(r, d, n, s, lds, block, c, acc);
}

/* ---- q8: likewise ---- */

/* Byte b of 16 words, times scale. */
AMX_INLINE __m512 scaled_byte(__m512i words, int b, __m512 scale) {
    __m512i top = _mm512_sllv_epi32(words, _mm512_set1_epi32(24 - 8 * b));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24)), scale);
}

/* 16 words of 4 signed bytes, each byte times a scale of its own, as two lines of 16 pairs of bf16. */
AMX_INLINE void store_quads(__m512i words, const __m512 scale[4], char *pairs) {
    const __m512i order =
        _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a, 0x00190009, 0x00180008,
                         0x00170007, 0x00160006, 0x00150005, 0x00140004, 0x00130003, 0x00120002, 0x00110001, 0x00100000);
    for (int i = 0; i < 2; i++) {
        __m512 a = scaled_byte(words, 2 * i, scale[2 * i]), b = scaled_byte(words, 2 * i + 1, scale[2 * i + 1]);
        _mm512_store_si512(pairs + (ptrdiff_t)64 * i, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a)));
    }
}

static void widen_keys(int d, int tiles, const void *from, void *to) {
    const __m512i offset = _mm512_set1_epi8((char)-128);
    size_t tile = mka_key_tile_bytes(MKA_Q8_0, d);
    const char *keys = from;
    char *block = to;
    for (int t = 0; t < tiles; t++, keys += tile) {
        const char *line = keys, *scales = keys + (ptrdiff_t)MKA_TILE * d;
        for (int group = 0; group < 2 * d / MKA_KEY_GROUP; group++, scales += 32) {
            __m512 one = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)scales)), scale[4] = {one, one, one, one};
            for (int i = 0; i < MKA_KEY_GROUP / 4; i++, line += 64, block += 128)
                store_quads(_mm512_xor_si512(_mm512_loadu_si512(line), offset), scale, block);
        }
    }
}

static void widen_values(int d, int tiles, const void *from, void *to) {
    size_t tile = mka_value_tile_bytes(MKA_Q8_0, d);
    const char *values = from;
    for (int t = 0; t < tiles; t++, values += tile) {
        const char *scales = values + (ptrdiff_t)MKA_TILE * d;
        char *block = (char *)to + (ptrdiff_t)t * MKA_TILE * d * 2;
        for (int quad = 0; quad < MKA_TILE / 4; quad++) {
            __m512 scale[4];
            for (int i = 0; i < 4; i++) {
                float one;
                memcpy(&one, scales + (ptrdiff_t)4 * (4 * quad + i), sizeof one);
                scale[i] = _mm512_set1_ps(one);
            }
            for (int e = 0; e < d / 16; e++)
                store_quads(_mm512_loadu_si512(values + (ptrdiff_t)(8 * e + quad) * 64), scale,
                            block + (ptrdiff_t)(8 * e + quad) * 128);
        }
    }
}

static void score_q8(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    if (r < MANY || d % 32 || d > MOST_DIM) {
        mka_avx512vnni_score_q8(r, d, n, q, keys, scale, s, lds);
        return;
    }
    __attribute__((aligned(64))) char block[SPAN * MOST_DIM * 2];
    for (int from = 0; from < n; from += SPAN) {
        int count = n - from < SPAN ? n - from : SPAN;
        const char *tiles = (const char *)keys + (size_t)(from / MKA_TILE) * mka_key_tile_bytes(MKA_Q8_0, d);
        widen_keys(d, (count + MKA_TILE - 1) / MKA_TILE, tiles, block);
        score_bf16(r, d, count, q, block, scale, s + from, lds);
    }
}

static void mix_q8(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    if (r < MANY || d % 16 || d > MOST_DIM || n > SPAN) {
        mka_avx512vnni_mix_q8(r, d, n, s, lds, values, c, acc);
        return;
    }
    __attribute__((aligned(64))) char block[SPAN * MOST_DIM * 2];
    widen_values(d, (n + MKA_TILE - 1) / MKA_TILE, values, block);
    mix_bf16(r, d, n, s, lds, block, c, acc);
}

void mka_amx_fill_attend(mka_kernels *k); /* amx_attend.c */
void mka_amx_fill_cache(mka_kernels *k);
void mka_amx_fill_cache(mka_kernels *k) {
    mka_amx_fill_attend(k);
    k->score[MKA_BF16] = score_bf16;
    k->mix[MKA_BF16] = mix_bf16;
    k->score[MKA_F16] = score_f16;
    k->mix[MKA_F16] = mix_f16;
    k->score[MKA_Q8_0] = score_q8;
    k->mix[MKA_Q8_0] = mix_q8;
    k->widen_keys = widen_keys;
    k->widen_values = widen_values;
}
