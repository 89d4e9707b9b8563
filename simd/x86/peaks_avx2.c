/* peaks_avx2 - what AVX2 reaches: 256-bit loads, FMA, and int8 products as its kernels form them (maddubs, madd, add). */
#include <immintrin.h>

#define HIDE(w) __asm__ volatile("" : "+x"(w))
#include "tmpl/peak_loops.h"

#define LOAD(p)         _mm256_loadu_si256((const void *)(p))
#define STEP_F32(s, w)  _mm256_fmadd_ps(w, w, s)
#define STEP_INT8(s, w) _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(w, w), w))

READ_LOOP(__m256i, LOAD, _mm256_setzero_si256(), _mm256_xor_si256)
PEAK_LOOP(peak_f32, __m256, 12, __m256 w = _mm256_set1_ps(0.5F), STEP_F32, 16)
PEAK_LOOP(peak_i8, __m256i, 8, __m256i w = _mm256_set1_epi8(1), STEP_INT8, 64)

void mka_avx2_fill_peaks(mka_peaks *peaks);
void mka_avx2_fill_peaks(mka_peaks *peaks) {
    peaks->read = read_wide;
    peaks->unit[MKA_UNIT_F32] = peak_f32;
    peaks->unit[MKA_UNIT_I8] = peak_i8;
}
