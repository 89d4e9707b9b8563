/* q_sse42 - 32 quantised weights at a time in two registers of SSSE3: what tmpl/quant.h expects, and quantising activations.
 *
 * A product of bytes is unsigned times signed, two of them added into 16 bits with saturation; weights are below 128 or made
 * so, and activations are never -128, so that nothing saturates. */
#ifndef MKA_SIMD_X86_Q_SSE42_H
#define MKA_SIMD_X86_Q_SSE42_H

#include <float.h>
#include <math.h>

#include "kernels.h"
#include "scalar/half.h"
#include "x86/half_sse42.h"

#define Q_INLINE static inline __attribute__((always_inline, unused))
#ifdef __clang__
#define Q_UNROLL8 _Pragma("unroll")
#else
#define Q_UNROLL8 _Pragma("GCC unroll 8")
#endif

typedef struct {
    __m128i v[2]; /* elements 0..15 and 16..31, or what comes of them */
} halves;
typedef halves q32, p16, k_scales, k_mins;
typedef __m128i b16, qi;
typedef __m128 qf, qp;

Q_INLINE float f16_to_f32_fast(const void *p) {
    return _mm_cvtss_f32(half_to_float(_mm_cvtsi32_si128(load_u16(p))));
}

/* Asks for what comes `distance` bytes later: the streams of a few rows are too short for the hardware to catch on. */
Q_INLINE void q_ahead(const void *p, size_t distance, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + distance + i, _MM_HINT_T0);
}

#define Q_ROWS_DENSE 1 /* see tmpl/quant.h */

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
    return b_and(_mm_srli_epi16(v, 4), 15);
}
Q_INLINE b16 b_minus(b16 v, int k) {
    return _mm_sub_epi8(v, _mm_set1_epi8((char)k));
}

Q_INLINE q32 q_load(const void *p) {
    return (q32){{b_load(p), b_load((const char *)p + 16)}};
}
Q_INLINE q32 q_field(q32 v, int shift, int mask) {
    return (q32){{b_and(_mm_srli_epi16(v.v[0], shift), mask), b_and(_mm_srli_epi16(v.v[1], shift), mask)}};
}
Q_INLINE q32 q_nibbles(const void *p) {
    return (q32){{b_and(b_load(p), 15), b_shift4(b_load(p))}};
}
Q_INLINE q32 q_left(q32 v, int k) {
    return (q32){{_mm_slli_epi16(v.v[0], k), _mm_slli_epi16(v.v[1], k)}};
}
/* Each byte sees the one of the four that holds its bit, all other bits set, and is compared with all ones. */
Q_INLINE q32 q_bits(const void *p) {
    int32_t word32;
    memcpy(&word32, p, sizeof word32);
    const __m128i low = _mm_set_epi64x(0x0101010101010101, 0), two_more = _mm_set1_epi8(2);
    const __m128i others = _mm_set1_epi64x(0x7fbfdfeff7fbfdfe), ones = _mm_set1_epi8(-1);
    __m128i all = _mm_cvtsi32_si128(word32);
    __m128i a = _mm_or_si128(_mm_shuffle_epi8(all, low), others);
    __m128i b = _mm_or_si128(_mm_shuffle_epi8(all, _mm_add_epi8(low, two_more)), others);
    return (q32){{b_and(_mm_cmpeq_epi8(a, ones), 16), b_and(_mm_cmpeq_epi8(b, ones), 16)}};
}
Q_INLINE q32 q_or(q32 a, q32 b) {
    return (q32){{_mm_or_si128(a.v[0], b.v[0]), _mm_or_si128(a.v[1], b.v[1])}};
}
Q_INLINE q32 q_minus(q32 v, int k) {
    return (q32){{b_minus(v.v[0], k), b_minus(v.v[1], k)}};
}
Q_INLINE q32 q_table(q32 v) {
    const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return (q32){{_mm_shuffle_epi8(table, v.v[0]), _mm_shuffle_epi8(table, v.v[1])}};
}

Q_INLINE p16 p_unsigned(q32 w, q32 x) {
    return (p16){{_mm_maddubs_epi16(w.v[0], x.v[0]), _mm_maddubs_epi16(w.v[1], x.v[1])}};
}
Q_INLINE __m128i product_half(__m128i w, __m128i x) {
    return _mm_maddubs_epi16(_mm_abs_epi8(w), _mm_sign_epi8(x, w));
}
Q_INLINE p16 p_signed(q32 w, q32 x) {
    return (p16){{product_half(w.v[0], x.v[0]), product_half(w.v[1], x.v[1])}};
}
Q_INLINE p16 p_const(int k, q32 x) {
    __m128i all = _mm_set1_epi8((char)k);
    return p_unsigned((q32){{all, all}}, x);
}
Q_INLINE p16 p_sub(p16 a, p16 b) {
    return (p16){{_mm_sub_epi16(a.v[0], b.v[0]), _mm_sub_epi16(a.v[1], b.v[1])}};
}

/* Scales of even halves, and of odd ones: sub-block j's are then word j of both. */
Q_INLINE k_scales k_make(b16 v) {
    v = _mm_shuffle_epi8(v, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    return (k_scales){{_mm_cvtepi8_epi16(v), _mm_cvtepi8_epi16(_mm_srli_si128(v, 8))}};
}
Q_INLINE k_mins k_widen(b16 v) {
    return (k_mins){{_mm_cvtepi8_epi16(v), _mm_cvtepi8_epi16(_mm_srli_si128(v, 8))}};
}
Q_INLINE qi i_sum(p16 p) {
    const __m128i ones = _mm_set1_epi16(1);
    return _mm_add_epi32(_mm_madd_epi16(p.v[0], ones), _mm_madd_epi16(p.v[1], ones));
}
/* The scales take the place of the ones that add the 16-bit sums up. */
Q_INLINE qi i_scaled(p16 p, k_scales s, int sub) {
    const __m128i pick = _mm_set1_epi16((short)(0x0100 + 0x0202 * sub));
    __m128i a = _mm_madd_epi16(p.v[0], _mm_shuffle_epi8(s.v[0], pick));
    return _mm_add_epi32(a, _mm_madd_epi16(p.v[1], _mm_shuffle_epi8(s.v[1], pick)));
}

Q_INLINE qf f_zero(void) {
    return _mm_setzero_ps();
}
Q_INLINE qf f_scale(qf acc, qf a, float k) {
    return _mm_add_ps(_mm_mul_ps(a, _mm_set1_ps(k)), acc);
}
Q_INLINE qf f_mac(qf acc, qi i, float k) {
    return f_scale(acc, _mm_cvtepi32_ps(i), k);
}
Q_INLINE qf f_mac_half(qf acc, qi i, const void *p, float k) {
    return f_mac(acc, i, f16_to_f32_fast(p) * k);
}
Q_INLINE float f_total(qf x) {
    __m128 a = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
Q_INLINE qf min_mac(qf acc, k_mins mins, const int16_t *sums, const float *scale, float k) {
    for (int h = 0; h < 2; h++) {
        __m128i i = _mm_madd_epi16(mins.v[h], b_load(sums + 8 * h));
        acc = f_scale(acc, _mm_mul_ps(_mm_cvtepi32_ps(i), _mm_loadu_ps(scale + 4 * h)), k);
    }
    return acc;
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
    __m128 t = _mm_mul_ps(half_to_float(_mm_cvtepu16_epi32(_mm_set1_epi32(both))), pair);
    *minima = _mm_add_ps(*minima, t);
    *acc = _mm_add_ps(_mm_mul_ps(_mm_cvtepi32_ps(i), _mm_moveldup_ps(t)), *acc);
}
Q_INLINE float p_min(qp minima) {
    return _mm_cvtss_f32(_mm_movehdup_ps(minima));
}

Q_INLINE void q_expand(q32 v, const float *scale, const float *offset, float *y) {
    for (int h = 0; h < 2; h++) {
        __m128 k = _mm_set1_ps(scale[h]), o = _mm_set1_ps(offset[h]);
        __m128i bytes = v.v[h];
        for (int i = 0; i < 4; i++, bytes = _mm_srli_si128(bytes, 4))
            _mm_storeu_ps(y + 16 * h + 4 * i, _mm_add_ps(_mm_mul_ps(_mm_cvtepi32_ps(_mm_cvtepi8_epi32(bytes)), k), o));
    }
}

static void quantize(int n, const float *x, const mka_q8_row *y) {
    const __m128i sign = _mm_set1_epi32(0x7fffffff), ones = _mm_set1_epi16(1);
    for (int b = 0; b < n / 32; b++, x += 32) {
        /* As bits: the order of integers puts infinity and NaN above all numbers. */
        __m128i most = _mm_setzero_si128();
        for (int k = 0; k < 8; k++) most = _mm_max_epu32(most, _mm_and_si128(b_load(x + 4 * k), sign));
        most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
        uint32_t bits = (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1)));
        int finite = bits < 0x7f800000u;
        float d = bits_float(bits) / 127.0f, inverse = d >= FLT_MIN && finite ? 1.0f / d : 0.0f;
        y->scale[b] = finite ? (d >= FLT_MIN ? d : 0.0f) : NAN;
        for (int h = 0; h < 2; h++) {
            __m128i v[4];
            for (int k = 0; k < 4; k++)
                v[k] = _mm_cvtps_epi32(_mm_mul_ps(_mm_loadu_ps(x + 16 * h + 4 * k), _mm_set1_ps(inverse)));
            __m128i w = _mm_packs_epi16(_mm_packs_epi32(v[0], v[1]), _mm_packs_epi32(v[2], v[3]));
            if (!finite) w = _mm_setzero_si128();
            b_store(y->q + 32 * (size_t)b + 16 * h, w);
            __m128i sums = _mm_madd_epi16(_mm_maddubs_epi16(_mm_set1_epi8(1), w), ones);
            sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
            y->sum[2 * b + h] = (int16_t)_mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1)));
        }
    }
}

#endif
