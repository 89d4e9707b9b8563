/* math - exp and what follows from it, on the vectors of vec.h. */
#ifndef MKA_SIMD_TMPL_MATH_H
#define MKA_SIMD_TMPL_MATH_H

#include "tmpl/vec.h"

/* e^(t - n ln 2), for t within half of ln 2 of n ln 2. */
V_INLINE vf v_exp_rest(vf t, vf n) {
    vf r = v_fnma(n, v_set(0.693359375f), t);
    r = v_fnma(n, v_set(-2.12194440e-4f), r);
    vf p = v_fma(v_set(0.0013813144760206342f), r, v_set(0.008369418792426586f));
    p = v_fma(p, r, v_set(0.04166845604777336f));
    p = v_fma(p, r, v_set(0.16666515171527863f));
    p = v_fma(p, r, v_set(0.4999999403953552f));
    return v_add(v_fma(v_mul(r, r), p, r), v_set(1.0f));
}

/* e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r), P of degree 4 fitted to 0.08 units of 2^-24.
 * Within 2 ulp for x in -87.3..88; exactly 0 below -87.9, infinity above 88.8; NaN stays. n is kept where 2^n is a normal
 * number: at both ends r grows to 0.7 instead, which costs some units of accuracy there. */
V_INLINE vf v_exp(vf x) {
    vf t = v_clamp(x, -88.0f, 89.0f);
    vf n = v_clamp(v_round(v_mul(t, v_set(1.44269504f))), -126.0f, 127.0f);
    return v_zero_below(x, -87.9f, v_ldexp(v_exp_rest(t, n), n));
}

/* e^x for x <= 0, which needs less care: within 2 ulp down to -87.33, exactly 0 below (2^n would not be a normal number); NaN
 * stays. */
V_INLINE vf v_exp_below(vf x) {
    vf t = v_at_least(x, -87.33f), n = v_round(v_mul(t, v_set(1.44269504f)));
    return v_zero_below(x, -87.33f, v_ldexp(v_exp_rest(t, n), n));
}

/* x / (1 + exp(-x)) */
V_INLINE vf v_silu(vf x) {
    return v_div(x, v_add(v_set(1.0f), v_exp(v_sub(v_zero(), x))));
}

/* 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3) */
V_INLINE vf v_gelu_tanh(vf x) {
    vf inner = v_fma(v_mul(x, x), v_set(0.044715f), v_set(1.0f));
    return v_div(x, v_add(v_set(1.0f), v_exp(v_mul(v_mul(x, v_set(-1.5957691216f)), inner))));
}

/* 0.5 x (1 + erf(x / sqrt 2)) = max(x, 0) - |x| H(|x|), H(a) = exp(-a^2 / 2) P(1 / (1 + 0.3 a)) being the area under the normal
 * curve above a. P of degree 8 was fitted for a in 0..6.5 with a relative error of 2e-8; beyond, H is below 1e-10. */
V_INLINE vf v_gelu_erf(vf x) {
    static const float c[] = {0.031410619616508484f, -0.13319392502307892f, 0.1490192860364914f,
                              0.022156372666358948f, 0.06779306381940842f,  0.13011465966701508f,
                              0.11166089028120041f,  0.12114658206701279f,  -0.00010753716196632013f};
    vf a = v_max(x, v_sub(v_zero(), x)), t = v_div(v_set(1.0f), v_fma(a, v_set(0.3f), v_set(1.0f)));
    vf p = v_set(c[0]);
    for (int i = 1; i <= 8; i++) p = v_fma(p, t, v_set(c[i]));
    vf h = v_mul(v_exp(v_mul(v_mul(a, a), v_set(-0.5f))), p);
    return v_fnma(a, h, v_max(v_zero(), x));
}

#endif
