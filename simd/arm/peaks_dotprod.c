/* peaks_dotprod - what the dot product instructions reach: 16 int8 products in one. */
#include <arm_neon.h>

#include "peaks.h"

#define HIDE(w) __asm__ volatile("" : "+w"(w))
#include "tmpl/peak_loops.h"

#define STEP_INT8(s, w) vdotq_s32(s, w, w)

PEAK_LOOP(peak_i8, int32x4_t, 20, int8x16_t w = vdupq_n_s8(1), STEP_INT8, 32)

void mka_dotprod_fill_peaks(mka_peaks *peaks);
void mka_dotprod_fill_peaks(mka_peaks *peaks) {
    peaks->unit[MKA_UNIT_I8] = peak_i8;
}
