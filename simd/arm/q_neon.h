/* q_neon - 32 quantised weights at a time on AArch64 without the dot product instructions: what tmpl/quant.h expects.
 *
 * All weights fit in signed bytes. A p16 holds for each half of the block 8 sums of two products, which fit in 16 bits as
 * activations are never -128. */
#ifndef MKA_SIMD_ARM_Q_NEON_H
#define MKA_SIMD_ARM_Q_NEON_H

#include <arm_neon.h>
#include <float.h>
#include <math.h>

#include "kernels.h"
#include "scalar/half.h"

#define Q_INLINE static inline __attribute__((always_inline, unused))
#ifdef __clang__
#define Q_UNROLL8 _Pragma("unroll")
#else
#define Q_UNROLL8 _Pragma("GCC unroll 8")
#endif

typedef uint8x16x2_t q32;
typedef int16x8x2_t p16;
typedef int8x16_t b16;
typedef int32x4_t qi;
typedef float32x4_t qf, qp;
typedef struct {
    int16_t s[16];
} k_scales;
typedef int16x8x2_t k_mins;

Q_INLINE float f16_to_f32_fast(const void *p) {
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(load_u16(p)))), 0);
}

/* Asks for what comes `distance` bytes later: the streams of a few rows are too short for the hardware to catch on. */
Q_INLINE void q_ahead(const void *p, size_t distance, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + distance + i);
}

#define Q_ROWS_DENSE 4 /* see tmpl/quant.h */

Q_INLINE q32 q_load(const void *p) {
    const uint8_t *bytes = p;
    return (q32){{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
}
Q_INLINE q32 q_field(q32 v, int shift, int mask) {
    int8x16_t right = vdupq_n_s8((int8_t)-shift);
    uint8x16_t keep = vdupq_n_u8((uint8_t)mask);
    return (q32){{vandq_u8(vshlq_u8(v.val[0], right), keep), vandq_u8(vshlq_u8(v.val[1], right), keep)}};
}
Q_INLINE q32 q_nibbles(const void *p) {
    uint8x16_t v = vld1q_u8(p);
    return (q32){{vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8(v, 4)}};
}
Q_INLINE q32 q_left(q32 v, int k) {
    int8x16_t left = vdupq_n_s8((int8_t)k);
    return (q32){{vshlq_u8(v.val[0], left), vshlq_u8(v.val[1], left)}};
}
Q_INLINE q32 q_bits(const void *p) {
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8_t *h = p;
    uint8x16_t bits = vld1q_u8(bit), sixteen = vdupq_n_u8(16);
    uint8x16_t a = vcombine_u8(vdup_n_u8(h[0]), vdup_n_u8(h[1])), b = vcombine_u8(vdup_n_u8(h[2]), vdup_n_u8(h[3]));
    return (q32){{vandq_u8(vtstq_u8(a, bits), sixteen), vandq_u8(vtstq_u8(b, bits), sixteen)}};
}
Q_INLINE q32 q_or(q32 a, q32 b) {
    return (q32){{vorrq_u8(a.val[0], b.val[0]), vorrq_u8(a.val[1], b.val[1])}};
}
Q_INLINE q32 q_minus(q32 v, int k) {
    uint8x16_t less = vdupq_n_u8((uint8_t)k);
    return (q32){{vsubq_u8(v.val[0], less), vsubq_u8(v.val[1], less)}};
}
Q_INLINE q32 q_table(q32 v) {
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    uint8x16_t table = vreinterpretq_u8_s8(vld1q_s8(values));
    return (q32){{vqtbl1q_u8(table, v.val[0]), vqtbl1q_u8(table, v.val[1])}};
}

Q_INLINE int16x8_t product_half(uint8x16_t w, uint8x16_t x) {
    int8x16_t a = vreinterpretq_s8_u8(w), b = vreinterpretq_s8_u8(x);
    return vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b);
}
Q_INLINE p16 p_signed(q32 w, q32 x) {
    return (p16){{product_half(w.val[0], x.val[0]), product_half(w.val[1], x.val[1])}};
}
Q_INLINE p16 p_unsigned(q32 w, q32 x) {
    return p_signed(w, x);
}
Q_INLINE p16 p_const(int k, q32 x) {
    uint8x16_t all = vdupq_n_u8((uint8_t)k);
    return p_signed((q32){{all, all}}, x);
}
Q_INLINE p16 p_sub(p16 a, p16 b) {
    return (p16){{vsubq_s16(a.val[0], b.val[0]), vsubq_s16(a.val[1], b.val[1])}};
}

Q_INLINE b16 b_load(const void *p) {
    return vld1q_s8(p);
}
Q_INLINE void b_store(int8_t *p, b16 v) {
    vst1q_s8(p, v);
}
Q_INLINE b16 b_words(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    uint32x2_t low = vcreate_u32((uint64_t)b << 32 | a), high = vcreate_u32((uint64_t)d << 32 | c);
    return vreinterpretq_s8_u32(vcombine_u32(low, high));
}
Q_INLINE b16 b_dup(uint32_t low, uint32_t high) {
    int8x8_t v = vcreate_s8((uint64_t)high << 32 | low);
    return vcombine_s8(vzip1_s8(v, v), vzip2_s8(v, v));
}
Q_INLINE b16 b_and(b16 v, int k) {
    return vandq_s8(v, vdupq_n_s8((int8_t)k));
}
Q_INLINE b16 b_shift4(b16 v) {
    return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4));
}
Q_INLINE b16 b_minus(b16 v, int k) {
    return vsubq_s8(v, vdupq_n_s8((int8_t)k));
}

Q_INLINE k_mins k_widen(b16 v) {
    return (k_mins){{vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v)}};
}
Q_INLINE k_scales k_make(b16 v) {
    k_scales scales;
    vst1q_s16(scales.s, vmovl_s8(vget_low_s8(v)));
    vst1q_s16(scales.s + 8, vmovl_high_s8(v));
    return scales;
}
Q_INLINE qi i_sum(p16 p) {
    return vpadalq_s16(vpaddlq_s16(p.val[0]), p.val[1]);
}
Q_INLINE qi i_scaled(p16 p, k_scales s, int sub) {
    return vmlaq_n_s32(vmulq_n_s32(vpaddlq_s16(p.val[0]), s.s[2 * sub]), vpaddlq_s16(p.val[1]), s.s[2 * sub + 1]);
}

Q_INLINE qf f_zero(void) {
    return vdupq_n_f32(0);
}
Q_INLINE qf f_mac(qf acc, qi i, float k) {
    return vfmaq_n_f32(acc, vcvtq_f32_s32(i), k);
}
Q_INLINE qf f_scale(qf acc, qf a, float k) {
    return vfmaq_n_f32(acc, a, k);
}
Q_INLINE qf f_mac_half(qf acc, qi i, const void *p, float k) {
    return vfmaq_n_f32(acc, vcvtq_f32_s32(i), f16_to_f32_fast(p) * k);
}
Q_INLINE float f_total(qf x) {
    return vaddvq_f32(x);
}
Q_INLINE qf min_mac(qf acc, k_mins mins, const int16_t *sums, const float *scale, float k) {
    for (int h = 0; h < 2; h++) {
        int16x8_t s = vld1q_s16(sums + 8 * h), m = mins.val[h];
        int32x4_t i = vpaddq_s32(vmull_s16(vget_low_s16(s), vget_low_s16(m)), vmull_high_s16(s, m));
        acc = vfmaq_n_f32(acc, vmulq_f32(vcvtq_f32_s32(i), vld1q_f32(scale + 4 * h)), k);
    }
    return acc;
}

/* Lanes (scale, minimum, scale, minimum): one conversion and one product give both. */
Q_INLINE qp p_zero(void) {
    return vdupq_n_f32(0);
}
Q_INLINE qp p_make(float scale, float sum) {
    float32x2_t pair = vset_lane_f32(sum, vdup_n_f32(scale), 1);
    return vcombine_f32(pair, pair);
}
Q_INLINE void f_mac_pair(qf *acc, qp *minima, qi i, const void *p, qp pair) {
    uint32_t both;
    memcpy(&both, p, sizeof both);
    float32x4_t t = vmulq_f32(vcvt_f32_f16(vreinterpret_f16_u32(vdup_n_u32(both))), pair);
    *minima = vaddq_f32(*minima, t);
    *acc = vfmaq_laneq_f32(*acc, vcvtq_f32_s32(i), t, 0);
}
Q_INLINE float p_min(qp minima) {
    return vgetq_lane_f32(minima, 1);
}

Q_INLINE void q_expand(q32 v, const float *scale, const float *offset, float *y) {
    for (int h = 0; h < 2; h++) {
        int8x16_t bytes = vreinterpretq_s8_u8(v.val[h]);
        int16x8_t words[2] = {vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)};
        float32x4_t o = vdupq_n_f32(offset[h]);
        for (int k = 0; k < 2; k++) {
            float32x4_t a = vcvtq_f32_s32(vmovl_s16(vget_low_s16(words[k]))), b = vcvtq_f32_s32(vmovl_high_s16(words[k]));
            vst1q_f32(y + 16 * h + 8 * k, vaddq_f32(vmulq_n_f32(a, scale[h]), o));
            vst1q_f32(y + 16 * h + 8 * k + 4, vaddq_f32(vmulq_n_f32(b, scale[h]), o));
        }
    }
}

static inline __attribute__((unused)) void quantize(int n, const float *x, const mka_q8_row *y) {
    for (int b = 0; b < n / 32; b++, x += 32) {
        uint32x4_t most = vdupq_n_u32(0);
        for (int k = 0; k < 8; k++)
            most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + 4 * k)), vdupq_n_u32(0x7fffffff)));
        uint32_t bits = vmaxvq_u32(most);
        int finite = bits < 0x7f800000u;
        float d = bits_float(bits) / 127.0f, inverse = d >= FLT_MIN && finite ? 1.0f / d : 0.0f;
        y->scale[b] = finite ? (d >= FLT_MIN ? d : 0.0f) : NAN;
        for (int h = 0; h < 2; h++) {
            int32x4_t v[4];
            for (int k = 0; k < 4; k++) v[k] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * h + 4 * k), inverse));
            int16x8_t low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1])), high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
            int8x16_t w = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
            if (!finite) w = vdupq_n_s8(0);
            vst1q_s8(y->q + 32 * (size_t)b + 16 * h, w);
            y->sum[2 * b + h] = (int16_t)vaddlvq_s8(w);
        }
    }
}

#endif
