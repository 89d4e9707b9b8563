/* avx512vnni_recall - the scan of key signs with the byte permutations of AVX-512 VBMI, and rows put into tiles of bf16.
 *
 * Byte permutations look up 64 entries, so that a row's two tables for a line are loaded as they lie, where a byte shuffle of 16
 * entries wants each table in all four parts of the vector. (On Zen 5 such a load takes the shuffles' own ports, and was half the
 * time.) The second table's place, 16, is put above the nibbles that it is for, once a line for all rows. */
#include "scalar/scalar.h"
#include "x86/bf16_panel.h"
#include "x86/vec_avx512.h"

#define V_SCAN_LINE look_pairs

V_INLINE void look_pairs(int R, int first, const unsigned char *codes, const uint8_t *tables, vb *part) {
    const __m512i order =
        _mm512_set_epi32(0x3f2f1f0f, 0x3e2e1e0e, 0x3d2d1d0d, 0x3c2c1c0c, 0x3b2b1b0b, 0x3a2a1a0a, 0x39291909, 0x38281808,
                         0x37271707, 0x36261606, 0x35251505, 0x34241404, 0x33231303, 0x32221202, 0x31211101, 0x30201000);
    const __m512i nibble = _mm512_set1_epi8(15), second = _mm512_set1_epi8(16);
    __m512i code = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(codes)), low = _mm512_and_si512(code, nibble);
    __m512i high = _mm512_ternarylogic_epi32(_mm512_srli_epi16(code, 4), nibble, second, 0xea); /* (x & 15) | 16 */
    for (int i = 0; i < R; i++) {
        __m512i table = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(tables + 32 * i)));
        vb a = _mm512_permutexvar_epi8(low, table), b = _mm512_permutexvar_epi8(high, table);
        part[i] = first ? vb_add(a, b) : vb_add(vb_add(part[i], a), b);
        __asm__("" : "+v"(part[i])); /* V_PIN of tmpl/scan.h */
    }
}

#include "tmpl/scan.h"

/* ---- rows to tiles ---- */

/* 32 numbers of a row from number e on, in bf16; d is a multiple of 32. */
typedef __m512i row32_fn(const char *row, int d, int e);

V_INLINE __m512i round_scaled(__m512i low, __m512i high, const char *scale) {
    __m512 by = v_set_f16(scale);
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_cvtepi32_ps(high), by), _mm512_mul_ps(_mm512_cvtepi32_ps(low), by));
}

V_INLINE __m512i row32_bf16(const char *row, int d, int e) {
    (void)d;
    return _mm512_loadu_si512(row + 2 * (ptrdiff_t)e);
}

V_INLINE __m512i row32_q8(const char *row, int d, int e) {
    __m512i low = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(row + e)));
    __m512i high = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(row + e + 16)));
    return round_scaled(low, high, row + d + e / 16);
}

V_INLINE __m512i row32_q4(const char *row, int d, int e) {
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(row + e / 2))), eight = _mm512_set1_epi32(8);
    __m512i low = _mm512_sub_epi32(_mm512_and_si512(bytes, _mm512_set1_epi32(15)), eight);
    __m512i high = _mm512_sub_epi32(_mm512_srli_epi32(bytes, 4), eight);
    return round_scaled(low, high, row + d / 2 + e / 16);
}

/* A half of a key tile is pairs of numbers by tokens, which is the transpose of 16 rows. */
V_INLINE void keys_tile(row32_fn *load, int d, int n, const void *const *rows, char *tile) {
    for (int half = 0; half < MKA_TILE / MKA_HALF; half++)
        for (int e = 0; e < d; e += 32, tile += 1024) {
            __m512i r[16];
            GEMM_UNROLL for (int t = 0; t < 16; t++) {
                int row = half * MKA_HALF + t;
                r[t] = row < n ? load(rows[row], d, e) : _mm512_setzero_si512();
            }
            transpose16(r);
            GEMM_UNROLL for (int t = 0; t < 16; t++) _mm512_store_si512(tile + (ptrdiff_t)64 * t, r[t]);
        }
}

/* A value tile is, 16 numbers at a time, pairs of tokens by numbers. */
V_INLINE void values_tile(row32_fn *load, int d, int n, const void *const *rows, char *tile) {
    const __m512i first =
        _mm512_set_epi32(0x002f000f, 0x002e000e, 0x002d000d, 0x002c000c, 0x002b000b, 0x002a000a, 0x00290009, 0x00280008,
                         0x00270007, 0x00260006, 0x00250005, 0x00240004, 0x00230003, 0x00220002, 0x00210001, 0x00200000);
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    for (int pair = 0; pair < MKA_TILE / 2; pair++, tile += 64)
        for (int e = 0; e < d; e += 32) {
            int t = 2 * pair;
            __m512i a = t < n ? load(rows[t], d, e) : _mm512_setzero_si512();
            __m512i b = t + 1 < n ? load(rows[t + 1], d, e) : _mm512_setzero_si512();
            _mm512_store_si512(tile + (ptrdiff_t)(e / 16) * 1024, _mm512_permutex2var_epi16(a, first, b));
            _mm512_store_si512(tile + (ptrdiff_t)(e / 16 + 1) * 1024, _mm512_permutex2var_epi16(a, second, b));
        }
}

#define TILE_KERNELS(TYPE, type)                                                                                                 \
    static void rows_keys_##type(int d, int n, const void *const *rows, void *tile) {                                            \
        if (d % 32)                                                                                                              \
            mka_scalar_rows_keys_##type(d, n, rows, tile);                                                                       \
        else                                                                                                                     \
            keys_tile(row32_##type, d, n, rows, tile);                                                                           \
    }                                                                                                                            \
    static void rows_values_##type(int d, int n, const void *const *rows, void *tile) {                                          \
        if (d % 32)                                                                                                              \
            mka_scalar_rows_values_##type(d, n, rows, tile);                                                                     \
        else                                                                                                                     \
            values_tile(row32_##type, d, n, rows, tile);                                                                         \
    }
TILE_KERNELS(BF16, bf16)
TILE_KERNELS(Q8_0, q8)
TILE_KERNELS(Q4_0, q4)

void mka_avx512vnni_fill_recall(mka_kernels *k);
void mka_avx512vnni_fill_recall(mka_kernels *k) {
#define FILL_TILES(TYPE, type) k->rows_keys[MKA_##TYPE] = rows_keys_##type, k->rows_values[MKA_##TYPE] = rows_values_##type
    FILL_TILES(BF16, bf16);
    FILL_TILES(Q8_0, q8);
    FILL_TILES(Q4_0, q4);
    k->scan = scan;
}
