/* peaks_i8mm - what the matrix instructions reach: products of 2 x 8 by 8 x 2 int8 and of 2 x 4 by 4 x 2 bf16 in one. */
#include <arm_neon.h>

#include "peaks.h"

#define HIDE(w) __asm__ volatile("" : "+w"(w))
#include "tmpl/peak_loops.h"

#define STEP_INT8(s, w) vmmlaq_s32(s, w, w)
#define STEP_BF16(s, w) vbfmmlaq_f32(s, vreinterpretq_bf16_u16(w), vreinterpretq_bf16_u16(w))

PEAK_LOOP(peak_i8, int32x4_t, 20, int8x16_t w = vdupq_n_s8(1), STEP_INT8, 64)
PEAK_LOOP(peak_bf16, float32x4_t, 20, uint16x8_t w = vdupq_n_u16(0x3f00), STEP_BF16, 32)

void mka_i8mm_fill_peaks(mka_peaks *peaks);
void mka_i8mm_fill_peaks(mka_peaks *peaks) {
    peaks->unit[MKA_UNIT_I8] = peak_i8;
    peaks->unit[MKA_UNIT_BF16] = peak_bf16;
}
