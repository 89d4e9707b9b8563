/* vec_avx512 - the templates' vectors on AVX-512 F, BW, DQ and VL: 16 floats, 32 registers, masks for tails. */
#ifndef MKA_SIMD_X86_VEC_AVX512_H
#define MKA_SIMD_X86_VEC_AVX512_H

#include <immintrin.h>

#include "tmpl/vec.h"

#define LEVEL(name)  mka_avx512_##name
#define VW           16
#define V_CACHE_ROWS 8
#define V_HALVES     2
#define V_BLOCKS     2

typedef __m512 vf;

V_INLINE vf v_zero(void) {
    return _mm512_setzero_ps();
}
V_INLINE vf v_set(float x) {
    return _mm512_set1_ps(x);
}
V_INLINE vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf x) {
    _mm512_storeu_ps(p, x);
}
V_INLINE __mmask16 v_mask(int n) {
    return (__mmask16)((1u << n) - 1u);
}
V_INLINE vf v_load_n(const float *p, int n) {
    return _mm512_maskz_loadu_ps(v_mask(n), p);
}
V_INLINE void v_store_n(float *p, vf x, int n) {
    _mm512_mask_storeu_ps(p, v_mask(n), x);
}

V_INLINE vf v_from_bf16(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
V_INLINE __m256i v_to_bf16(vf x) {
    __m512i u = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
V_INLINE vf v_load_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
V_INLINE vf v_load_bf16(const void *p) {
    return v_from_bf16(_mm256_loadu_si256(p));
}
V_INLINE void v_store_f16(void *p, vf x) {
    _mm256_storeu_si256(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE void v_store_bf16(void *p, vf x) {
    _mm256_storeu_si256(p, v_to_bf16(x));
}
V_INLINE vf v_load_f16_n(const void *p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_mask(n), p));
}
V_INLINE vf v_load_bf16_n(const void *p, int n) {
    return v_from_bf16(_mm256_maskz_loadu_epi16(v_mask(n), p));
}
V_INLINE void v_store_f16_n(void *p, vf x, int n) {
    _mm256_mask_storeu_epi16(p, v_mask(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE void v_store_bf16_n(void *p, vf x, int n) {
    _mm256_mask_storeu_epi16(p, v_mask(n), v_to_bf16(x));
}

V_INLINE vf v_pair_low(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
V_INLINE vf v_pair_high(const void *p) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000u)));
}
V_INLINE vf v_field(const void *p, int shift, int mask) {
    __m512i u = _mm512_srlv_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(shift));
    return _mm512_cvtepi32_ps(_mm512_and_si512(u, _mm512_set1_epi32(mask)));
}
V_INLINE vf v_signed_byte(const void *p, int b) {
    __m512i u = _mm512_sllv_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(24 - 8 * b));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(u, 24));
}

V_INLINE vf v_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
V_INLINE vf v_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
/* The instruction returns its second operand when one is a NaN. */
V_INLINE vf v_at_least(vf x, float low) {
    return _mm512_max_ps(_mm512_set1_ps(low), x);
}
V_INLINE vf v_clamp(vf x, float low, float high) {
    return _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), x));
}
V_INLINE vf v_round(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V_INLINE vf v_ldexp(vf p, vf n) {
    return _mm512_scalef_ps(p, n);
}
V_INLINE vf v_zero_below(vf x, float limit, vf y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), y);
}
V_INLINE __m256 v_halves(vf x) {
    return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}
V_INLINE float v_sum(vf x) {
    __m256 h = v_halves(x);
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
V_INLINE float v_hmax(vf x) {
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
V_INLINE void v_sum4(vf a, vf b, vf c, vf d, float scale, float *out) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m256 s = v_halves(_mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee)));
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    _mm_storeu_ps(out, _mm_mul_ps(_mm_set1_ps(scale), t));
}
V_INLINE vf v_double(const float *p) {
    __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
V_INLINE vf v_rotate_pairs(vf x, vf c, vf s) {
    return _mm512_fmaddsub_ps(x, c, _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), s));
}

/* ---- bytes and masks, for recall ---- */

#define V_REGISTER   "v" /* as inline assembler names a vector register */
#define V_SCAN_ROWS  8
#define V_SCAN_AHEAD 6144
#define V_ROWS       7

typedef __m512i vb;
typedef __mmask16 vm;

V_INLINE vb vb_zero(void) {
    return _mm512_setzero_si512();
}
V_INLINE vb vb_codes(const void *p) {
    __m512i x =
        _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), _mm512_loadu_si512(p));
    return _mm512_shuffle_epi8(x, _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400));
}
V_INLINE vb vb_table(const void *p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(p));
}
V_INLINE vb vb_low(vb x) {
    return _mm512_and_si512(x, _mm512_set1_epi8(15));
}
V_INLINE vb vb_high(vb x) {
    return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
}
V_INLINE vb vb_look(vb table, vb x) {
    return _mm512_shuffle_epi8(table, x);
}
V_INLINE vb vb_add(vb a, vb b) {
    return _mm512_add_epi8(a, b);
}
V_INLINE vb vb_add16(vb a, vb b) {
    return _mm512_add_epi16(a, b);
}
V_INLINE vb vb_less_high(vb both, vb odd) {
    return _mm512_sub_epi16(both, _mm512_slli_epi16(odd, 8));
}
V_INLINE vb vb_odd(vb x) {
    return _mm512_srli_epi16(x, 8);
}
V_INLINE vf vb_low16(vb x) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32(0xffff)));
}
V_INLINE vf vb_high16(vb x) {
    return _mm512_cvtepi32_ps(_mm512_srli_epi32(x, 16));
}
V_INLINE vm vm_all(void) {
    return (vm)0xffff;
}
V_INLINE vm vm_and_below(vm m, vf x, float limit) {
    return _mm512_mask_cmp_ps_mask(m, x, _mm512_set1_ps(limit), _CMP_LE_OQ);
}
V_INLINE unsigned vm_others(vm m) {
    return (vm)~m;
}
V_INLINE vf v_keep(vm m, vf x) {
    return _mm512_maskz_mov_ps(m, x);
}
/* The minimum's second operand is what a NaN leaves; the conversion makes of it a word of ones, a NaN again. */
V_INLINE vf v_power(vf x, float low, float high) {
    __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(low), _CMP_NLE_UQ);
    return _mm512_castsi512_ps(_mm512_maskz_cvtps_epu32(above, _mm512_min_ps(_mm512_set1_ps(high), x)));
}

V_INLINE vf v_set_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)load_u16(p)));
}
V_INLINE vf v_bytes(const void *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
V_INLINE vf v_nibbles(const void *p, int shift) {
    __m512i u = _mm512_srli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(p)), (unsigned)shift);
    return _mm512_cvtepi32_ps(_mm512_and_si512(u, _mm512_set1_epi32(15)));
}

#endif
