/* q_avx2 - 32 quantised weights at a time on AVX2: what tmpl/quant.h expects, and quantising activations.
 *
 * Without VNNI a product of bytes is unsigned times signed, two of them added into 16 bits with saturation; weights are below
 * 128 or made so, and activations are never -128, so that nothing saturates: 2 * 127 * 127 and 2 * 128 * 127 fit. */
#ifndef MKA_SIMD_X86_Q_AVX2_H
#define MKA_SIMD_X86_Q_AVX2_H

#include <float.h>
#include <immintrin.h>
#include <math.h>

#include "kernels.h"
#include "scalar/half.h"

#define Q_INLINE static inline __attribute__((always_inline, unused))
#ifdef __clang__
#define Q_UNROLL8 _Pragma("unroll")
#else
#define Q_UNROLL8 _Pragma("GCC unroll 8")
#endif

typedef __m256i q32, p16, qi, k_scales, k_mins;
typedef __m128i b16;
typedef __m256 qf;
typedef __m128 qp;

Q_INLINE float f16_to_f32_fast(const void *p) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load_u16(p))));
}

/* Asks for what comes `distance` bytes later: the streams of a few rows are too short for the hardware to catch on. */
Q_INLINE void q_ahead(const void *p, size_t distance, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + distance + i, _MM_HINT_T0);
}

#define Q_ROWS_DENSE 1 /* see tmpl/quant.h */

Q_INLINE q32 q_load(const void *p) {
    return _mm256_loadu_si256(p);
}
Q_INLINE q32 q_field(q32 v, int shift, int mask) {
    return _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8((char)mask));
}
Q_INLINE q32 q_nibbles(const void *p) {
    __m128i v = _mm_loadu_si128(p);
    return _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1), _mm256_set1_epi8(15));
}
Q_INLINE q32 q_left(q32 v, int k) {
    return _mm256_slli_epi16(v, k);
}
/* Each byte sees the one of the four that holds its bit, all other bits set, and is compared with all ones. */
Q_INLINE q32 q_bits(const void *p) {
    int32_t word32;
    memcpy(&word32, p, sizeof word32);
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32(word32), spread);
    v = _mm256_or_si256(v, _mm256_set1_epi64x(0x7fbfdfeff7fbfdfe));
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, _mm256_set1_epi8(-1)), _mm256_set1_epi8(16));
}
Q_INLINE q32 q_or(q32 a, q32 b) {
    return _mm256_or_si256(a, b);
}
Q_INLINE q32 q_minus(q32 v, int k) {
    return k ? _mm256_sub_epi8(v, _mm256_set1_epi8((char)k)) : v;
}
Q_INLINE q32 q_table(q32 v) {
    const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), v);
}

#ifndef Q_VNNI /* its products are in q_avx2vnni.h */
Q_INLINE p16 p_unsigned(q32 w, q32 x) {
    return _mm256_maddubs_epi16(w, x);
}
Q_INLINE p16 p_signed(q32 w, q32 x) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
Q_INLINE p16 p_const(int k, q32 x) {
    return _mm256_maddubs_epi16(_mm256_set1_epi8((char)k), x);
}
Q_INLINE p16 p_sub(p16 a, p16 b) {
    return _mm256_sub_epi16(a, b);
}

#endif

Q_INLINE b16 b_load(const void *p) {
    return _mm_loadu_si128(p);
}
Q_INLINE void b_store(void *p, b16 v) {
    _mm_storeu_si128(p, v);
}
Q_INLINE b16 b_words(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return _mm_setr_epi32((int)a, (int)b, (int)c, (int)d);
}
Q_INLINE b16 b_dup(uint32_t low, uint32_t high) {
    __m128i v = _mm_cvtsi64_si128((long long)((uint64_t)high << 32 | low));
    return _mm_unpacklo_epi8(v, v);
}
Q_INLINE b16 b_and(b16 v, int k) {
    return _mm_and_si128(v, _mm_set1_epi8((char)k));
}
Q_INLINE b16 b_shift4(b16 v) {
    return _mm_and_si128(_mm_srli_epi16(v, 4), _mm_set1_epi8(15));
}
Q_INLINE b16 b_minus(b16 v, int k) {
    return _mm_sub_epi8(v, _mm_set1_epi8((char)k));
}

/* Scales of even halves in the low lane, of odd ones in the high lane: sub-block j's are then word j of each lane. */
Q_INLINE k_scales k_make(b16 v) {
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(v, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15)));
}
Q_INLINE k_mins k_widen(b16 v) {
    return _mm256_cvtepi8_epi16(v);
}
#ifndef Q_VNNI
Q_INLINE qi i_sum(p16 p) {
    return _mm256_madd_epi16(p, _mm256_set1_epi16(1));
}
/* The scale takes the place of the ones that add the 16-bit sums up. */
Q_INLINE qi i_scaled(p16 p, k_scales s, int sub) {
    return _mm256_madd_epi16(p, _mm256_shuffle_epi8(s, _mm256_set1_epi16((short)(0x0100 + 0x0202 * sub))));
}
#endif

Q_INLINE qf f_zero(void) {
    return _mm256_setzero_ps();
}
Q_INLINE qf f_mac(qf acc, qi i, float k) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(i), _mm256_set1_ps(k), acc);
}
Q_INLINE qf f_scale(qf acc, qf a, float k) {
    return _mm256_fmadd_ps(a, _mm256_set1_ps(k), acc);
}
Q_INLINE qf f_mac_half(qf acc, qi i, const void *p, float k) {
    __m256 d = _mm256_cvtph_ps(_mm_set1_epi16((short)load_u16(p)));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(i), _mm256_mul_ps(d, _mm256_set1_ps(k)), acc);
}
Q_INLINE float f_total(qf x) {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
Q_INLINE qf min_mac(qf acc, k_mins mins, const int16_t *sums, const float *scale, float k) {
    __m256i i = _mm256_madd_epi16(mins, _mm256_loadu_si256((const void *)sums));
    return _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(i), _mm256_loadu_ps(scale)), _mm256_set1_ps(k), acc);
}

/* Lanes (scale, minimum, scale, minimum): one conversion and one product give both. */
Q_INLINE qp p_zero(void) {
    return _mm_setzero_ps();
}
Q_INLINE qp p_make(float scale, float sum) {
    return _mm_setr_ps(scale, sum, scale, sum);
}
Q_INLINE void f_mac_pair(qf *acc, qp *minima, qi i, const void *p, qp pair) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    __m128 t = _mm_mul_ps(_mm_cvtph_ps(_mm_set1_epi32(both)), pair);
    *minima = _mm_add_ps(*minima, t);
    *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(i), _mm256_broadcastss_ps(t), *acc);
}
Q_INLINE float p_min(qp minima) {
    return _mm_cvtss_f32(_mm_movehdup_ps(minima));
}

Q_INLINE void q_expand(q32 v, const float *scale, const float *offset, float *y) {
    __m128i half[2] = {_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)};
    for (int h = 0; h < 2; h++) {
        __m256 k = _mm256_set1_ps(scale[h]), o = _mm256_set1_ps(offset[h]);
        __m256 a = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half[h]));
        __m256 b = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(half[h], 8)));
        _mm256_storeu_ps(y + 16 * h, _mm256_add_ps(_mm256_mul_ps(a, k), o));
        _mm256_storeu_ps(y + 16 * h + 8, _mm256_add_ps(_mm256_mul_ps(b, k), o));
    }
}

/* The largest of the absolute values, as bits: the order of integers puts infinity and NaN above all numbers. */
Q_INLINE uint32_t most_bits(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i m = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
    __m128i h = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(h, _mm_shuffle_epi32(h, 0xb1)));
}

static inline __attribute__((unused)) void quantize(int n, const float *x, const mka_q8_row *y) {
    const __m256i sign = _mm256_set1_epi32(0x7fffffff), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int b = 0; b < n / 32; b++, x += 32) {
        __m256i v[4];
        for (int k = 0; k < 4; k++) v[k] = _mm256_and_si256(_mm256_loadu_si256((const void *)(x + 8 * k)), sign);
        uint32_t most = most_bits(v[0], v[1], v[2], v[3]);
        int finite = most < 0x7f800000u;
        float d = bits_float(most) / 127.0f, inverse = d >= FLT_MIN && finite ? 1.0f / d : 0.0f;
        y->scale[b] = finite ? (d >= FLT_MIN ? d : 0.0f) : NAN;
        for (int k = 0; k < 4; k++) v[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * k), _mm256_set1_ps(inverse)));
        if (!finite) v[0] = v[1] = v[2] = v[3] = _mm256_setzero_si256();
        __m256i w = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        w = _mm256_permutevar8x32_epi32(w, order);
        _mm256_storeu_si256((void *)(y->q + 32 * (size_t)b), w);
        __m256i sums = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), w), _mm256_set1_epi16(1));
        sums = _mm256_hadd_epi32(sums, sums);
        sums = _mm256_hadd_epi32(sums, sums);
        y->sum[2 * b] = (int16_t)_mm256_extract_epi32(sums, 0);
        y->sum[2 * b + 1] = (int16_t)_mm256_extract_epi32(sums, 4);
    }
}

#endif
