/* half_sse42 - four half floats at a time without F16C, to the same bits as scalar/half.h. */
#ifndef MKA_SIMD_X86_HALF_SSE42_H
#define MKA_SIMD_X86_HALF_SSE42_H

#include <nmmintrin.h>

#define HALF_INLINE static inline __attribute__((always_inline, unused))

/* h: a half float in each 32-bit lane. A product with 2^112 moves the exponent where a float has it, and gives denormal halves
 * their value; what had the largest exponent gets the largest again. */
HALF_INLINE __m128 half_to_float(__m128i h) {
    __m128i rest = _mm_and_si128(h, _mm_set1_epi32(0x7fff)), sign = _mm_slli_epi32(_mm_xor_si128(h, rest), 16);
    __m128i f = _mm_castps_si128(_mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(rest, 13)), _mm_set1_ps(0x1p112f)));
    __m128i top = _mm_and_si128(_mm_cmpgt_epi32(rest, _mm_set1_epi32(0x7bff)), _mm_set1_epi32(0x7f800000));
    __m128i quiet = _mm_and_si128(_mm_cmpgt_epi32(rest, _mm_set1_epi32(0x7c00)), _mm_set1_epi32(0x400000));
    return _mm_castsi128_ps(_mm_or_si128(_mm_or_si128(f, sign), _mm_or_si128(top, quiet)));
}

/* The half float of each lane, in its lower half. */
HALF_INLINE __m128i float_to_half(__m128 x) {
    __m128i whole = _mm_castps_si128(x), u = _mm_and_si128(whole, _mm_set1_epi32(0x7fffffff));
    __m128i odd = _mm_and_si128(_mm_srli_epi32(u, 13), _mm_set1_epi32(1));
    __m128i h = _mm_srli_epi32(_mm_add_epi32(_mm_add_epi32(u, odd), _mm_set1_epi32(0xfff - (112 << 23))), 13);
    /* One unit of 0.5f is one unit of a denormal half: the addition does the rounding. */
    __m128i small = _mm_castps_si128(_mm_add_ps(_mm_castsi128_ps(u), _mm_set1_ps(0.5f)));
    small = _mm_sub_epi32(small, _mm_set1_epi32(0x3f000000));
    __m128i nan = _mm_or_si128(_mm_set1_epi32(0x7e00), _mm_and_si128(_mm_srli_epi32(u, 13), _mm_set1_epi32(0x1ff)));
    h = _mm_blendv_epi8(h, small, _mm_cmplt_epi32(u, _mm_set1_epi32(0x38800000)));
    h = _mm_blendv_epi8(h, _mm_set1_epi32(0x7c00), _mm_cmpgt_epi32(u, _mm_set1_epi32(0x477fefff)));
    h = _mm_blendv_epi8(h, nan, _mm_cmpgt_epi32(u, _mm_set1_epi32(0x7f800000)));
    return _mm_or_si128(h, _mm_and_si128(_mm_srli_epi32(whole, 16), _mm_set1_epi32(0x8000)));
}

#endif
