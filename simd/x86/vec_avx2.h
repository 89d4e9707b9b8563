/* vec_avx2 - the templates' vectors on AVX2, FMA and F16C: 8 floats, 16 registers. */
#ifndef MKA_SIMD_X86_VEC_AVX2_H
#define MKA_SIMD_X86_VEC_AVX2_H

#include <immintrin.h>

#include "tmpl/vec.h"

#define LEVEL(name)  mka_avx2_##name
#define VW           8
#define V_CACHE_ROWS 5
#define V_HALVES     1
#define V_BLOCKS     1

typedef __m256 vf;

V_INLINE vf v_zero(void) {
    return _mm256_setzero_ps();
}
V_INLINE vf v_set(float x) {
    return _mm256_set1_ps(x);
}
V_INLINE vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf x) {
    _mm256_storeu_ps(p, x);
}

V_INLINE __m256i v_mask(int n) {
    static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const void *)(window + 8 - n));
}
V_INLINE vf v_load_n(const float *p, int n) {
    return _mm256_maskload_ps(p, v_mask(n));
}
V_INLINE void v_store_n(float *p, vf x, int n) {
    _mm256_maskstore_ps(p, v_mask(n), x);
}

V_INLINE vf v_load_f16(const void *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
V_INLINE vf v_load_bf16(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
V_INLINE void v_store_f16(void *p, vf x) {
    _mm_storeu_si128(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE void v_store_bf16(void *p, vf x) {
    __m256i u = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i h = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    h = _mm256_permute4x64_epi64(_mm256_packus_epi32(h, h), 0x08);
    _mm_storeu_si128(p, _mm256_castsi256_si128(h));
}
V_INLINE vf v_load_f16_n(const void *p, int n) {
    uint16_t whole[VW] = {0};
    tail_copy(whole, p, n);
    return v_load_f16(whole);
}
V_INLINE vf v_load_bf16_n(const void *p, int n) {
    uint16_t whole[VW] = {0};
    tail_copy(whole, p, n);
    return v_load_bf16(whole);
}
V_INLINE void v_store_f16_n(void *p, vf x, int n) {
    uint16_t whole[VW];
    v_store_f16(whole, x);
    tail_copy_out(p, whole, n);
}
V_INLINE void v_store_bf16_n(void *p, vf x, int n) {
    uint16_t whole[VW];
    v_store_bf16(whole, x);
    tail_copy_out(p, whole, n);
}

V_INLINE __m256i v_words(const void *p) {
    return _mm256_loadu_si256(p);
}
V_INLINE vf v_pair_low(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(v_words(p), 16));
}
V_INLINE vf v_pair_high(const void *p) {
    return _mm256_castsi256_ps(_mm256_and_si256(v_words(p), _mm256_set1_epi32((int)0xffff0000u)));
}
V_INLINE vf v_field(const void *p, int shift, int mask) {
    __m256i u = _mm256_srlv_epi32(v_words(p), _mm256_set1_epi32(shift));
    return _mm256_cvtepi32_ps(_mm256_and_si256(u, _mm256_set1_epi32(mask)));
}
V_INLINE vf v_signed_byte(const void *p, int b) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sllv_epi32(v_words(p), _mm256_set1_epi32(24 - 8 * b)), 24));
}

V_INLINE vf v_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
V_INLINE vf v_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
/* The instruction returns its second operand when one is a NaN. */
V_INLINE vf v_at_least(vf x, float low) {
    return _mm256_max_ps(_mm256_set1_ps(low), x);
}
V_INLINE vf v_clamp(vf x, float low, float high) {
    return _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), x));
}
V_INLINE vf v_round(vf x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V_INLINE vf v_ldexp(vf p, vf n) {
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(e));
}
V_INLINE vf v_zero_below(vf x, float limit, vf y) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), y);
}
V_INLINE float v_sum(vf x) {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
V_INLINE float v_hmax(vf x) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
V_INLINE void v_sum4(vf a, vf b, vf c, vf d, float scale, float *out) {
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    _mm_storeu_ps(out, _mm_mul_ps(_mm_set1_ps(scale), t));
}
V_INLINE vf v_double(const float *p) {
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
V_INLINE vf v_rotate_pairs(vf x, vf c, vf s) {
    return _mm256_fmaddsub_ps(x, c, _mm256_mul_ps(_mm256_permute_ps(x, 0xb1), s));
}

/* ---- bytes and masks, for recall ---- */

#define V_REGISTER   "x" /* as inline assembler names a vector register */
#define V_SCAN_ROWS  4
#define V_SCAN_AHEAD 6144
#define V_ROWS       2

typedef __m256i vb;
typedef __m256 vm;

V_INLINE vb vb_zero(void) {
    return _mm256_setzero_si256();
}
V_INLINE vb vb_codes(const void *p) {
    __m256i x = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(p), _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
    return _mm256_shuffle_epi8(
        x, _mm256_setr_epi32(0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703, 0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703));
}
V_INLINE vb vb_table(const void *p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
}
V_INLINE vb vb_low(vb x) {
    return _mm256_and_si256(x, _mm256_set1_epi8(15));
}
V_INLINE vb vb_high(vb x) {
    return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15));
}
V_INLINE vb vb_look(vb table, vb x) {
    return _mm256_shuffle_epi8(table, x);
}
V_INLINE vb vb_add(vb a, vb b) {
    return _mm256_add_epi8(a, b);
}
V_INLINE vb vb_add16(vb a, vb b) {
    return _mm256_add_epi16(a, b);
}
V_INLINE vb vb_less_high(vb both, vb odd) {
    return _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8));
}
V_INLINE vb vb_odd(vb x) {
    return _mm256_srli_epi16(x, 8);
}
V_INLINE vf vb_low16(vb x) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff)));
}
V_INLINE vf vb_high16(vb x) {
    return _mm256_cvtepi32_ps(_mm256_srli_epi32(x, 16));
}
V_INLINE vm vm_all(void) {
    return _mm256_castsi256_ps(_mm256_set1_epi32(-1));
}
V_INLINE vm vm_and_below(vm m, vf x, float limit) {
    return _mm256_and_ps(m, _mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LE_OQ));
}
V_INLINE unsigned vm_others(vm m) {
    return (unsigned)_mm256_movemask_ps(m) ^ 255u;
}
V_INLINE vf v_keep(vm m, vf x) {
    return _mm256_and_ps(m, x);
}
/* The minimum's second operand is what a NaN leaves. */
V_INLINE vf v_power(vf x, float low, float high) {
    vf e = _mm256_castsi256_ps(_mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(high), x)));
    e = _mm256_and_ps(e, _mm256_cmp_ps(x, _mm256_set1_ps(low), _CMP_GT_OQ));
    return _mm256_or_ps(e, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

V_INLINE vf v_set_f16(const void *p) {
    return _mm256_cvtph_ps(_mm_set1_epi16((short)load_u16(p)));
}
V_INLINE vf v_bytes(const void *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
V_INLINE vf v_nibbles(const void *p, int shift) {
    __m256i u = _mm256_srli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)), shift);
    return _mm256_cvtepi32_ps(_mm256_and_si256(u, _mm256_set1_epi32(15)));
}

#endif
