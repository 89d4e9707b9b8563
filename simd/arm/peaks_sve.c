/* peaks_sve - what SVE reaches at the width that the CPU has: float32 FMA and loads. Its vectors have no size that is known here,
 * so that the sums are eight variables instead of an array. */
#include <arm_sve.h>

#include "peaks.h"

#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

static uint64_t read_wide(const void *data, size_t bytes, int streams, size_t ahead) {
    const size_t width = svcntb();
    svuint64_t even = svdup_u64(0), odd = even;
    for (size_t i = 0; i + MKA_READ_STEP <= bytes; i += MKA_READ_STEP)
        for (int s = 0; s < streams; s++) {
            const char *at = (const char *)data + (size_t)s * bytes + i;
            for (int line = 0; ahead && line < MKA_READ_STEP; line += 64) __builtin_prefetch(at + ahead + line);
            for (size_t j = 0; j < MKA_READ_STEP; j += 2 * width) {
                const uint64_t *word = (const uint64_t *)(const void *)(at + j);
                svbool_t first = svwhilelt_b64(j / 8, (size_t)MKA_READ_STEP / 8);
                svbool_t second = svwhilelt_b64((j + width) / 8, (size_t)MKA_READ_STEP / 8);
                even = sveor_x(svptrue_b64(), even, svld1(first, word));
                odd = sveor_x(svptrue_b64(), odd, svld1(second, word + width / 8));
            }
        }
    return sveorv(svptrue_b64(), sveor_x(svptrue_b64(), even, odd));
}

static double peak_f32(long rounds, float *sink) {
    const svbool_t all = svptrue_b32();
    svfloat32_t w = svdup_f32(0.5F);
#define START(i) svfloat32_t sum##i = svdup_f32(0);
    EIGHT(START)
    for (long r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+w"(w));
#define STEP(i) sum##i = svmla_x(all, sum##i, w, w);
        EIGHT(STEP)
    }
#define FINISH(i) *sink += svaddv(all, sum##i);
    EIGHT(FINISH)
    return 2.0 * 8 * (double)svcntw() * (double)rounds;
}

void mka_sve_fill_peaks(mka_peaks *peaks);
void mka_sve_fill_peaks(mka_peaks *peaks) {
    peaks->read = read_wide;
    peaks->unit[MKA_UNIT_F32] = peak_f32;
}
