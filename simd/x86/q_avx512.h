/* q_avx512 - 64 quantised weights at a time on AVX-512: two sub-blocks of 32, the first in the lower half of a register. It adds
 * the wide forms to q_avx2.h, whose 16-byte helpers for scales it uses. Names end in 2 for two sub-blocks. */
#ifndef MKA_SIMD_X86_Q_AVX512_H
#define MKA_SIMD_X86_Q_AVX512_H

#include "x86/q_avx2.h"

typedef __m512i q64;
typedef __m512 qf2;

/* One value for each half. */
Q_INLINE q64 halves2(char low, char high) {
    return _mm512_inserti64x4(_mm512_set1_epi8(low), _mm256_set1_epi8(high), 1);
}
Q_INLINE q64 low4(q64 v) {
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

/* 16 bytes of nibbles for each half: low nibbles are elements 0..15 of the half, high ones 16..31. */
Q_INLINE q64 spread_nibbles2(__m256i v) {
    __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), _mm512_castsi256_si512(v));
    return low4(_mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4)));
}
Q_INLINE q64 nibbles2(const void *a, const void *b) {
    return spread_nibbles2(_mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(a)), _mm_loadu_si128(b), 1));
}
/* 32 bytes whose low nibbles are the first half and whose high nibbles the second. */
Q_INLINE q64 split_nibbles2(const void *p) {
    __m256i v = _mm256_loadu_si256(p);
    return low4(_mm512_inserti64x4(_mm512_castsi256_si512(v), _mm256_srli_epi16(v, 4), 1));
}
/* 32 bytes of bit pairs: those at shift are the first half, those at shift + 2 the second. */
Q_INLINE q64 pairs2(const void *p, int shift) {
    __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(p));
    __m512i right = _mm512_setr_epi64(shift, shift, shift, shift, shift + 2, shift + 2, shift + 2, shift + 2);
    return _mm512_and_si512(_mm512_srlv_epi64(twice, right), _mm512_set1_epi8(3));
}
/* Adds k where bit `bit` (first half) or the next one (second half) of the 32 bytes is set. */
Q_INLINE q64 add_bits2(q64 v, const void *p, int bit, int k) {
    __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(p));
    __mmask64 set = _mm512_test_epi8_mask(twice, halves2((char)(1 << bit), (char)(2 << bit)));
    return _mm512_mask_add_epi8(v, set, v, _mm512_set1_epi8((char)k));
}
/* Adds 16 where a bit of four bytes for each half is set. */
Q_INLINE q64 add_fifth2(q64 v, const void *a, const void *b) {
    uint32_t low, high;
    memcpy(&low, a, sizeof low);
    memcpy(&high, b, sizeof high);
    return _mm512_mask_add_epi8(v, (uint64_t)high << 32 | low, v, _mm512_set1_epi8(16));
}
Q_INLINE q64 table2(q64 v) {
    const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), v);
}
Q_INLINE q64 bytes2(const void *a, const void *b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(a)), _mm256_loadu_si256(b), 1);
}

Q_INLINE q64 unsigned2(q64 w, q64 x) {
    return _mm512_maddubs_epi16(w, x);
}
Q_INLINE q64 signed2(q64 w, q64 x) {
    return _mm512_maddubs_epi16(_mm512_abs_epi8(w), _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x));
}
Q_INLINE q64 const2(int k, q64 x) {
    return _mm512_maddubs_epi16(_mm512_set1_epi8((char)k), x);
}
Q_INLINE q64 sum2(q64 p) {
    return _mm512_madd_epi16(p, _mm512_set1_epi16(1));
}

/* Scale number i in lane i % 4, as word i / 4 of the lane. */
Q_INLINE q64 k_make2(b16 v) {
    v = _mm_shuffle_epi8(v, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m512i words = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(v));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), words);
}
Q_INLINE q64 scaled2(q64 p, q64 scales, int pair) {
    return _mm512_madd_epi16(p, _mm512_shuffle_epi8(scales, _mm512_set1_epi16((short)(0x0100 + 0x0202 * pair))));
}

/* Two numbers, one for each half; both[0] and both[1] of a float array, spread. */
Q_INLINE __m512 floats2(float low, float high) {
    return _mm512_insertf32x8(_mm512_set1_ps(low), _mm256_set1_ps(high), 1);
}
/* Half floats of two blocks, each over its half. */
Q_INLINE __m512 half2(const void *a, const void *b) {
    return _mm512_cvtph_ps(_mm256_mask_set1_epi16(_mm256_set1_epi16((short)load_u16(a)), 0xff00, (short)load_u16(b)));
}
/* Pairs of them: (scale, minimum) four times over each half. */
Q_INLINE __m512 half_pairs2(const void *a, const void *b) {
    int32_t low, high;
    memcpy(&low, a, sizeof low);
    memcpy(&high, b, sizeof high);
    return _mm512_cvtph_ps(_mm256_mask_set1_epi32(_mm256_set1_epi32(low), 0xf0, high));
}
Q_INLINE qf2 mac2(qf2 acc, q64 i, __m512 k) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(i), k, acc);
}
Q_INLINE float total2(qf2 x) {
    return f_total(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
/* acc + k sum_s scale_s (minima sums)_s over a super-block. */
Q_INLINE qf2 min_mac2(qf2 acc, b16 minima, const int16_t *sums, const float *scale, float k) {
    __m256i i = _mm256_madd_epi16(_mm256_cvtepi8_epi16(minima), _mm256_loadu_si256((const void *)sums));
    __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(i), _mm256_loadu_ps(scale));
    return _mm512_fmadd_ps(_mm512_zextps256_ps512(f), _mm512_set1_ps(k), acc);
}

/* Two blocks of activations, or the last one with zeros behind it. */
Q_INLINE q64 activations2(const mka_q8_row *x, int i, int count) {
    const int8_t *q = x->q + 32 * (size_t)i;
    return count == 2 ? _mm512_loadu_si512(q) : _mm512_zextsi256_si512(_mm256_loadu_si256((const void *)q));
}
Q_INLINE float block_sum(const mka_q8_row *x, int i) {
    return (float)(x->sum[2 * i] + x->sum[2 * i + 1]);
}

#endif
