/* vec_sve - the vectors that tmpl/math.h expects, of whatever length the CPU's SVE has. Such vectors have no size at compile
 * time, so that they cannot be elements of arrays: the templates over rows are not for them, sve_float.c has its own loops, in
 * which a predicate takes care of the tail. */
#ifndef MKA_SIMD_ARM_VEC_SVE_H
#define MKA_SIMD_ARM_VEC_SVE_H

#include <arm_sve.h>

#include "tmpl/vec.h"

typedef svfloat32_t vf;

V_INLINE vf v_zero(void) {
    return svdup_f32(0);
}
V_INLINE vf v_set(float x) {
    return svdup_f32(x);
}
V_INLINE vf v_add(vf a, vf b) {
    return svadd_x(svptrue_b32(), a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return svsub_x(svptrue_b32(), a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return svmul_x(svptrue_b32(), a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return svdiv_x(svptrue_b32(), a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return svmla_x(svptrue_b32(), c, a, b);
}
V_INLINE vf v_fnma(vf a, vf b, vf c) {
    return svmls_x(svptrue_b32(), c, a, b);
}
V_INLINE vf v_max(vf a, vf b) {
    return svmaxnm_x(svptrue_b32(), a, b);
}
V_INLINE vf v_at_least(vf x, float low) {
    return svmax_x(svptrue_b32(), x, low);
}
V_INLINE vf v_clamp(vf x, float low, float high) {
    return svmin_x(svptrue_b32(), svmax_x(svptrue_b32(), x, low), high);
}
V_INLINE vf v_round(vf x) {
    return svrintn_x(svptrue_b32(), x);
}
V_INLINE vf v_ldexp(vf p, vf n) {
    return svscale_x(svptrue_b32(), p, svcvt_s32_x(svptrue_b32(), n));
}
V_INLINE vf v_zero_below(vf x, float limit, vf y) {
    return svsel(svcmplt(svptrue_b32(), x, limit), v_zero(), y);
}

/* Rows of 16-bit floats: an element in the lower half of each lane. Lanes outside p are read as 0. */
V_INLINE vf v_load_f16(svbool_t p, const uint16_t *x) {
    return svcvt_f32_f16_x(svptrue_b32(), svreinterpret_f16(svld1uh_u32(p, x)));
}
V_INLINE vf v_load_bf16(svbool_t p, const uint16_t *x) {
    return svreinterpret_f32(svlsl_x(svptrue_b32(), svld1uh_u32(p, x), 16));
}
V_INLINE void v_store_f16(svbool_t p, uint16_t *y, vf x) {
    svst1h(p, y, svreinterpret_u32(svcvt_f16_f32_x(p, x)));
}
V_INLINE void v_store_bf16(svbool_t p, uint16_t *y, vf x) {
    svuint32_t u = svreinterpret_u32(x), odd = svand_x(p, svlsr_x(p, u, 16), 1u);
    svuint32_t rounded = svadd_x(p, svadd_x(p, u, 0x7fffu), odd), quiet = svorr_x(p, u, 0x400000u);
    svst1h(p, y, svlsr_x(p, svsel(svcmpuo(p, x, x), quiet, rounded), 16));
}

#endif
