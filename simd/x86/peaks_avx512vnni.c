/* peaks_avx512vnni - what AVX-512's dot products reach: int8 (VNNI) and bf16, of 512 bits in one instruction. */
#include <immintrin.h>

#define HIDE(w) __asm__ volatile("" : "+v"(w))
#include "tmpl/peak_loops.h"

#define STEP_INT8(s, w) _mm512_dpbusd_epi32(s, w, w)
#define STEP_BF16(s, w) _mm512_dpbf16_ps(s, (__m512bh)(w), (__m512bh)(w))

PEAK_LOOP(peak_i8, __m512i, 16, __m512i w = _mm512_set1_epi8(1), STEP_INT8, 128)
PEAK_LOOP(peak_bf16, __m512, 16, __m512i w = _mm512_set1_epi16(0x3f00), STEP_BF16, 64)

void mka_avx512vnni_fill_peaks(mka_peaks *peaks);
void mka_avx512vnni_fill_peaks(mka_peaks *peaks) {
    peaks->unit[MKA_UNIT_I8] = peak_i8;
    peaks->unit[MKA_UNIT_BF16] = peak_bf16;
}
