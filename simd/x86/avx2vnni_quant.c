/* avx2vnni_quant - kernels of the quantised types on AVX2 with AVX-VNNI, and the level's table: AVX2's, whose products add four
 * neighbours at once. What the templates call a p16 is here eight sums of 32 bits. */
#define Q_VNNI
#include "x86/q_avx2.h"

Q_INLINE p16 p_unsigned(q32 w, q32 x) {
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), w, x);
}
Q_INLINE p16 p_signed(q32 w, q32 x) {
    return p_unsigned(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
Q_INLINE p16 p_const(int k, q32 x) {
    return p_unsigned(_mm256_set1_epi8((char)k), x);
}
Q_INLINE p16 p_sub(p16 a, p16 b) {
    return _mm256_sub_epi32(a, b);
}
Q_INLINE qi i_sum(p16 p) {
    return p;
}
/* Four products of six bits and seven fit in 16 bits: the lower word times the scale, the upper one times nothing. */
Q_INLINE qi i_scaled(p16 p, k_scales s, int sub) {
    return _mm256_madd_epi16(p, _mm256_shuffle_epi8(s, _mm256_set1_epi32((int)(0x80800100u + 0x0202u * (unsigned)sub))));
}

#define LEVEL(name) mka_avx2vnni_##name
#include "levels.h"
#include "tmpl/quant.h"

void mka_avx2vnni_fill(mka_kernels *k) {
    mka_gemv_q8_fn *iq4_xs = k->gemv_q8[MKA_IQ4_XS]; /* its weights have eight bits: their sums do not fit */
    mka_avx2vnni_fill_quant(k);
    k->gemv_q8[MKA_IQ4_XS] = iq4_xs;
}
