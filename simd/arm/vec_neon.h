/* vec_neon - the templates' vectors on AArch64 Advanced SIMD: 4 floats, 32 registers. */
#ifndef MKA_SIMD_ARM_VEC_NEON_H
#define MKA_SIMD_ARM_VEC_NEON_H

#include <arm_neon.h>

#include "tmpl/vec.h"

#define LEVEL(name)  mka_neon_##name
#define VW           4
#define V_CACHE_ROWS 5
#define V_HALVES     1
#define V_BLOCKS     1

typedef float32x4_t vf;

V_INLINE vf v_zero(void) {
    return vdupq_n_f32(0);
}
V_INLINE vf v_set(float x) {
    return vdupq_n_f32(x);
}
V_INLINE vf v_load(const float *p) {
    return vld1q_f32(p);
}
V_INLINE void v_store(float *p, vf x) {
    vst1q_f32(p, x);
}
V_INLINE vf v_load_n(const float *p, int n) {
    float whole[VW] = {0};
    for (int i = 0; i < n; i++) whole[i] = p[i];
    return vld1q_f32(whole);
}
V_INLINE void v_store_n(float *p, vf x, int n) {
    float whole[VW];
    vst1q_f32(whole, x);
    for (int i = 0; i < n; i++) p[i] = whole[i];
}

/* Four 16-bit elements at any address. */
V_INLINE uint16x4_t v_load_u16(const void *p) {
    uint64_t bits;
    memcpy(&bits, p, sizeof bits);
    return vcreate_u16(bits);
}
V_INLINE void v_store_u16(void *p, uint16x4_t x) {
    uint64_t bits = vget_lane_u64(vreinterpret_u64_u16(x), 0);
    memcpy(p, &bits, sizeof bits);
}
V_INLINE vf v_load_f16(const void *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(v_load_u16(p)));
}
V_INLINE vf v_load_bf16(const void *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(v_load_u16(p), 16));
}
V_INLINE void v_store_f16(void *p, vf x) {
    v_store_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}
V_INLINE void v_store_bf16(void *p, vf x) {
    uint32x4_t u = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd), number = vceqq_f32(x, x);
    v_store_u16(p, vshrn_n_u32(vbslq_u32(number, rounded, vorrq_u32(u, vdupq_n_u32(0x400000))), 16));
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

V_INLINE uint32x4_t v_words(const void *p) {
    return vreinterpretq_u32_u8(vld1q_u8(p));
}
V_INLINE vf v_pair_low(const void *p) {
    return vreinterpretq_f32_u32(vshlq_n_u32(v_words(p), 16));
}
V_INLINE vf v_pair_high(const void *p) {
    return vreinterpretq_f32_u32(vandq_u32(v_words(p), vdupq_n_u32(0xffff0000u)));
}
V_INLINE vf v_field(const void *p, int shift, int mask) {
    return vcvtq_f32_u32(vandq_u32(vshlq_u32(v_words(p), vdupq_n_s32(-shift)), vdupq_n_u32((uint32_t)mask)));
}
V_INLINE vf v_signed_byte(const void *p, int b) {
    int32x4_t up = vreinterpretq_s32_u32(vshlq_u32(v_words(p), vdupq_n_s32(24 - 8 * b)));
    return vcvtq_f32_s32(vshrq_n_s32(up, 24));
}

V_INLINE vf v_add(vf a, vf b) {
    return vaddq_f32(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return vdivq_f32(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
V_INLINE vf v_fnma(vf a, vf b, vf c) {
    return vfmsq_f32(c, a, b);
}
V_INLINE vf v_max(vf a, vf b) {
    return vmaxnmq_f32(a, b);
}
V_INLINE vf v_at_least(vf x, float low) {
    return vmaxq_f32(x, vdupq_n_f32(low));
}
V_INLINE vf v_clamp(vf x, float low, float high) {
    return vminq_f32(vmaxq_f32(x, vdupq_n_f32(low)), vdupq_n_f32(high));
}
V_INLINE vf v_round(vf x) {
    return vrndnq_f32(x);
}
V_INLINE vf v_ldexp(vf p, vf n) {
    int32x4_t e = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(p, vreinterpretq_f32_s32(e));
}
V_INLINE vf v_zero_below(vf x, float limit, vf y) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, vdupq_n_f32(limit))));
}
V_INLINE float v_sum(vf x) {
    return vaddvq_f32(x);
}
V_INLINE float v_hmax(vf x) {
    return vmaxnmvq_f32(x);
}
V_INLINE void v_sum4(vf a, vf b, vf c, vf d, float scale, float *out) {
    vst1q_f32(out, vmulq_n_f32(vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)), scale));
}
V_INLINE vf v_double(const float *p) {
    float32x2_t x = vld1_f32(p);
    return vcombine_f32(vdup_lane_f32(x, 0), vdup_lane_f32(x, 1));
}
V_INLINE vf v_rotate_pairs(vf x, vf c, vf s) {
    static const float sign[4] = {-1, 1, -1, 1};
    return vfmaq_f32(vmulq_f32(x, c), vmulq_f32(vrev64q_f32(x), vld1q_f32(sign)), s);
}

/* ---- bytes and masks, for recall ---- */

#define V_REGISTER   "w" /* as inline assembler names a vector register */
#define V_SCAN_ROWS  8
#define V_SCAN_AHEAD 6144
#define V_ROWS       5

typedef uint8x16_t vb;
typedef uint32x4_t vm;

V_INLINE vb vb_zero(void) {
    return vdupq_n_u8(0);
}
V_INLINE vb vb_codes(const void *p) {
    static const uint8_t order[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    return vqtbl1q_u8(vld1q_u8(p), vld1q_u8(order));
}
V_INLINE vb vb_table(const void *p) {
    return vld1q_u8(p);
}
V_INLINE vb vb_low(vb x) {
    return vandq_u8(x, vdupq_n_u8(15));
}
V_INLINE vb vb_high(vb x) {
    return vshrq_n_u8(x, 4);
}
V_INLINE vb vb_look(vb table, vb x) {
    return vqtbl1q_u8(table, x);
}
V_INLINE vb vb_add(vb a, vb b) {
    return vaddq_u8(a, b);
}
V_INLINE vb vb_add16(vb a, vb b) {
    return vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
V_INLINE vb vb_less_high(vb both, vb odd) {
    return vreinterpretq_u8_u16(vsubq_u16(vreinterpretq_u16_u8(both), vshlq_n_u16(vreinterpretq_u16_u8(odd), 8)));
}
V_INLINE vb vb_odd(vb x) {
    return vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(x), 8));
}
V_INLINE vf vb_low16(vb x) {
    return vcvtq_f32_u32(vandq_u32(vreinterpretq_u32_u8(x), vdupq_n_u32(0xffff)));
}
V_INLINE vf vb_high16(vb x) {
    return vcvtq_f32_u32(vshrq_n_u32(vreinterpretq_u32_u8(x), 16));
}
V_INLINE vm vm_all(void) {
    return vdupq_n_u32(0xffffffffu);
}
V_INLINE vm vm_and_below(vm m, vf x, float limit) {
    return vandq_u32(m, vcleq_f32(x, vdupq_n_f32(limit)));
}
V_INLINE unsigned vm_others(vm m) {
    static const uint32_t bits[4] = {1, 2, 4, 8};
    return vaddvq_u32(vbicq_u32(vld1q_u32(bits), m));
}
V_INLINE vf v_keep(vm m, vf x) {
    return vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(x)));
}
V_INLINE vf v_power(vf x, float low, float high) {
    uint32x4_t e = vcvtnq_u32_f32(vminq_f32(x, vdupq_n_f32(high)));
    e = vandq_u32(e, vcgtq_f32(x, vdupq_n_f32(low)));
    return vreinterpretq_f32_u32(vornq_u32(e, vceqq_f32(x, x)));
}

V_INLINE vf v_set_f16(const void *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(load_u16(p))));
}
V_INLINE uint32_t v_four_bytes(const void *p) {
    uint32_t u;
    memcpy(&u, p, sizeof u);
    return u;
}
V_INLINE vf v_bytes(const void *p) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(v_four_bytes(p))))));
}
V_INLINE vf v_nibbles(const void *p, int shift) {
    uint32x4_t u = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(v_four_bytes(p) >> shift & 0x0f0f0f0fu))));
    return vcvtq_f32_u32(u);
}

#endif
