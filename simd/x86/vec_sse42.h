/* vec_sse42 - the templates' vectors on SSE4.2: 4 floats, 16 registers, products rounded before sums. There is no F16C either:
 * half floats are converted by integer arithmetic, four at a time. */
#ifndef MKA_SIMD_X86_VEC_SSE42_H
#define MKA_SIMD_X86_VEC_SSE42_H

#include "x86/half_sse42.h"

#include "tmpl/vec.h"

#define LEVEL(name)  mka_sse42_##name
#define VW           4
#define V_CACHE_ROWS 2
#define V_HALVES     1
#define V_BLOCKS     1

typedef __m128 vf;

V_INLINE vf v_zero(void) {
    return _mm_setzero_ps();
}
V_INLINE vf v_set(float x) {
    return _mm_set1_ps(x);
}
V_INLINE vf v_load(const float *p) {
    return _mm_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf x) {
    _mm_storeu_ps(p, x);
}
V_INLINE vf v_load_n(const float *p, int n) {
    float whole[VW] = {0};
    for (int i = 0; i < n; i++) whole[i] = p[i];
    return _mm_loadu_ps(whole);
}
V_INLINE void v_store_n(float *p, vf x, int n) {
    float whole[VW];
    _mm_storeu_ps(whole, x);
    for (int i = 0; i < n; i++) p[i] = whole[i];
}

V_INLINE vf v_load_f16(const void *p) {
    return half_to_float(_mm_cvtepu16_epi32(_mm_loadl_epi64(p)));
}
V_INLINE vf v_load_bf16(const void *p) {
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64(p)));
}
V_INLINE void v_store_f16(void *p, vf x) {
    __m128i h = float_to_half(x);
    _mm_storel_epi64(p, _mm_packus_epi32(h, h));
}
V_INLINE void v_store_bf16(void *p, vf x) {
    __m128i u = _mm_castps_si128(x), odd = _mm_and_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(1));
    __m128i rounded = _mm_add_epi32(_mm_add_epi32(u, _mm_set1_epi32(0x7fff)), odd);
    __m128i quiet = _mm_or_si128(u, _mm_set1_epi32(0x400000)), nan = _mm_castps_si128(_mm_cmpunord_ps(x, x));
    __m128i h = _mm_srli_epi32(_mm_blendv_epi8(rounded, quiet, nan), 16);
    _mm_storel_epi64(p, _mm_packus_epi32(h, h));
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

V_INLINE __m128i v_words(const void *p) {
    return _mm_loadu_si128(p);
}
V_INLINE vf v_pair_low(const void *p) {
    return _mm_castsi128_ps(_mm_slli_epi32(v_words(p), 16));
}
V_INLINE vf v_pair_high(const void *p) {
    return _mm_castsi128_ps(_mm_and_si128(v_words(p), _mm_set1_epi32((int)0xffff0000u)));
}
V_INLINE vf v_field(const void *p, int shift, int mask) {
    return _mm_cvtepi32_ps(_mm_and_si128(_mm_srli_epi32(v_words(p), shift), _mm_set1_epi32(mask)));
}
V_INLINE vf v_signed_byte(const void *p, int b) {
    return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_slli_epi32(v_words(p), 24 - 8 * b), 24));
}

V_INLINE vf v_add(vf a, vf b) {
    return _mm_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm_div_ps(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm_add_ps(_mm_mul_ps(a, b), c);
}
V_INLINE vf v_fnma(vf a, vf b, vf c) {
    return _mm_sub_ps(c, _mm_mul_ps(a, b));
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm_max_ps(a, b);
}
/* The instruction returns its second operand when one is a NaN. */
V_INLINE vf v_at_least(vf x, float low) {
    return _mm_max_ps(_mm_set1_ps(low), x);
}
V_INLINE vf v_clamp(vf x, float low, float high) {
    return _mm_min_ps(_mm_set1_ps(high), _mm_max_ps(_mm_set1_ps(low), x));
}
V_INLINE vf v_round(vf x) {
    return _mm_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V_INLINE vf v_ldexp(vf p, vf n) {
    __m128i e = _mm_slli_epi32(_mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127)), 23);
    return _mm_mul_ps(p, _mm_castsi128_ps(e));
}
V_INLINE vf v_zero_below(vf x, float limit, vf y) {
    return _mm_andnot_ps(_mm_cmplt_ps(x, _mm_set1_ps(limit)), y);
}
V_INLINE float v_sum(vf x) {
    __m128 a = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
V_INLINE float v_hmax(vf x) {
    __m128 a = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
V_INLINE void v_sum4(vf a, vf b, vf c, vf d, float scale, float *out) {
    _mm_storeu_ps(out, _mm_mul_ps(_mm_set1_ps(scale), _mm_hadd_ps(_mm_hadd_ps(a, b), _mm_hadd_ps(c, d))));
}
V_INLINE vf v_double(const float *p) {
    __m128 x = _mm_castsi128_ps(_mm_loadl_epi64((const void *)p));
    return _mm_unpacklo_ps(x, x);
}
V_INLINE vf v_rotate_pairs(vf x, vf c, vf s) {
    return _mm_addsub_ps(_mm_mul_ps(x, c), _mm_mul_ps(_mm_shuffle_ps(x, x, 0xb1), s));
}

/* ---- bytes and masks, for recall ---- */

#define V_REGISTER   "x" /* as inline assembler names a vector register */
#define V_SCAN_ROWS  4
#define V_SCAN_AHEAD 6144
#define V_ROWS       2

typedef __m128i vb;
typedef __m128 vm;

V_INLINE vb vb_zero(void) {
    return _mm_setzero_si128();
}
V_INLINE vb vb_codes(const void *p) {
    return _mm_shuffle_epi8(_mm_loadu_si128(p), _mm_setr_epi32(0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703));
}
V_INLINE vb vb_table(const void *p) {
    return _mm_loadu_si128(p);
}
V_INLINE vb vb_low(vb x) {
    return _mm_and_si128(x, _mm_set1_epi8(15));
}
V_INLINE vb vb_high(vb x) {
    return _mm_and_si128(_mm_srli_epi16(x, 4), _mm_set1_epi8(15));
}
V_INLINE vb vb_look(vb table, vb x) {
    return _mm_shuffle_epi8(table, x);
}
V_INLINE vb vb_add(vb a, vb b) {
    return _mm_add_epi8(a, b);
}
V_INLINE vb vb_add16(vb a, vb b) {
    return _mm_add_epi16(a, b);
}
V_INLINE vb vb_less_high(vb both, vb odd) {
    return _mm_sub_epi16(both, _mm_slli_epi16(odd, 8));
}
V_INLINE vb vb_odd(vb x) {
    return _mm_srli_epi16(x, 8);
}
V_INLINE vf vb_low16(vb x) {
    return _mm_cvtepi32_ps(_mm_and_si128(x, _mm_set1_epi32(0xffff)));
}
V_INLINE vf vb_high16(vb x) {
    return _mm_cvtepi32_ps(_mm_srli_epi32(x, 16));
}
V_INLINE vm vm_all(void) {
    return _mm_castsi128_ps(_mm_set1_epi32(-1));
}
V_INLINE vm vm_and_below(vm m, vf x, float limit) {
    return _mm_and_ps(m, _mm_cmple_ps(x, _mm_set1_ps(limit)));
}
V_INLINE unsigned vm_others(vm m) {
    return (unsigned)_mm_movemask_ps(m) ^ 15u;
}
V_INLINE vf v_keep(vm m, vf x) {
    return _mm_and_ps(m, x);
}
/* The minimum's second operand is what a NaN leaves. */
V_INLINE vf v_power(vf x, float low, float high) {
    vf e = _mm_castsi128_ps(_mm_cvtps_epi32(_mm_min_ps(_mm_set1_ps(high), x)));
    return _mm_or_ps(_mm_and_ps(e, _mm_cmpgt_ps(x, _mm_set1_ps(low))), _mm_cmpunord_ps(x, x));
}

V_INLINE vf v_set_f16(const void *p) {
    return half_to_float(_mm_set1_epi32(load_u16(p)));
}
V_INLINE __m128i v_four_bytes(const void *p) {
    int32_t u;
    memcpy(&u, p, sizeof u);
    return _mm_cvtsi32_si128(u);
}
V_INLINE vf v_bytes(const void *p) {
    return _mm_cvtepi32_ps(_mm_cvtepi8_epi32(v_four_bytes(p)));
}
V_INLINE vf v_nibbles(const void *p, int shift) {
    __m128i u = _mm_srli_epi32(_mm_cvtepu8_epi32(v_four_bytes(p)), shift);
    return _mm_cvtepi32_ps(_mm_and_si128(u, _mm_set1_epi32(15)));
}

#endif
