/* peaks_avx2vnni - what AVX-VNNI reaches: int8 dot products of 256 bits in one instruction. */
#include <immintrin.h>

#define HIDE(w) __asm__ volatile("" : "+x"(w))
#include "tmpl/peak_loops.h"

#define STEP_INT8(s, w) _mm256_dpbusd_avx_epi32(s, w, w)

PEAK_LOOP(peak_i8, __m256i, 12, __m256i w = _mm256_set1_epi8(1), STEP_INT8, 64)

void mka_avx2vnni_fill_peaks(mka_peaks *peaks);
void mka_avx2vnni_fill_peaks(mka_peaks *peaks) {
    peaks->unit[MKA_UNIT_I8] = peak_i8;
}
