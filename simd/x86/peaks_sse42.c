/* peaks_sse42 - what SSE 4.2 reaches: 128-bit loads, float32 products and sums, and int8 products by maddubs, madd, add. */
#include <immintrin.h>

#include "peaks.h"

#define HIDE(w) __asm__ volatile("" : "+x"(w))
#include "tmpl/peak_loops.h"

#define LOAD(p)         _mm_loadu_si128((const void *)(p))
#define STEP_F32(s, w)  _mm_add_ps(s, _mm_mul_ps(w, w))
#define STEP_INT8(s, w) _mm_add_epi32(s, _mm_madd_epi16(_mm_maddubs_epi16(w, w), w))

READ_LOOP(__m128i, LOAD, _mm_setzero_si128(), _mm_xor_si128)
PEAK_LOOP(peak_f32, __m128, 12, __m128 w = _mm_set1_ps(0.5F), STEP_F32, 8)
PEAK_LOOP(peak_i8, __m128i, 8, __m128i w = _mm_set1_epi8(1), STEP_INT8, 32)

void mka_sse42_fill_peaks(mka_peaks *peaks);
void mka_sse42_fill_peaks(mka_peaks *peaks) {
    peaks->read = read_wide;
    peaks->unit[MKA_UNIT_F32] = peak_f32;
    peaks->unit[MKA_UNIT_I8] = peak_i8;
}
