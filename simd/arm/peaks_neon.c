/* peaks_neon - what Advanced SIMD reaches: 128-bit loads, FMA, and int8 products by widening (mull, padal). */
#include <arm_neon.h>

#define HIDE(w) __asm__ volatile("" : "+w"(w))
#include "tmpl/peak_loops.h"

#define LOAD(p)        vld1q_u8((const void *)(p))
#define STEP_F32(s, w) vfmaq_f32(s, w, w)
/* Two products of 8 lanes each, added in pairs. */
#define STEP_INT8(s, w) vpadalq_s16(s, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(w)), w, w))

READ_LOOP(uint8x16_t, LOAD, vdupq_n_u8(0), veorq_u8)
PEAK_LOOP(peak_f32, float32x4_t, 20, float32x4_t w = vdupq_n_f32(0.5F), STEP_F32, 8)
PEAK_LOOP(peak_i8, int32x4_t, 16, int8x16_t w = vdupq_n_s8(1), STEP_INT8, 32)

void mka_neon_fill_peaks(mka_peaks *peaks);
void mka_neon_fill_peaks(mka_peaks *peaks) {
    peaks->read = read_wide;
    peaks->unit[MKA_UNIT_F32] = peak_f32;
    peaks->unit[MKA_UNIT_I8] = peak_i8;
}
