/* peaks_avx512 - what AVX-512 reaches: 512-bit loads, FMA, and int8 products without VNNI (maddubs, madd, add). */
#include <immintrin.h>

#define HIDE(w) __asm__ volatile("" : "+v"(w))
#include "tmpl/peak_loops.h"

#define LOAD(p)         _mm512_loadu_si512((const void *)(p))
#define STEP_F32(s, w)  _mm512_fmadd_ps(w, w, s)
#define STEP_INT8(s, w) _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(w, w), w))

READ_LOOP(__m512i, LOAD, _mm512_setzero_si512(), _mm512_xor_si512)
PEAK_LOOP(peak_f32, __m512, 16, __m512 w = _mm512_set1_ps(0.5F), STEP_F32, 32)
PEAK_LOOP(peak_i8, __m512i, 12, __m512i w = _mm512_set1_epi8(1), STEP_INT8, 128)

void mka_avx512_fill_peaks(mka_peaks *peaks);
void mka_avx512_fill_peaks(mka_peaks *peaks) {
    peaks->read = read_wide;
    peaks->unit[MKA_UNIT_F32] = peak_f32;
    peaks->unit[MKA_UNIT_I8] = peak_i8;
}
