/* scalar_peaks - what plain C reaches: as the compiler makes it of 16 sums, which is how the scalar kernels are written. */
#include <string.h>

#include "peaks.h"

enum { LANES = 16 };

static uint64_t read(const void *data, size_t bytes, int streams, size_t ahead) {
    uint64_t sum[4] = {0};
    for (size_t i = 0; i + MKA_READ_STEP <= bytes; i += MKA_READ_STEP)
        for (int s = 0; s < streams; s++) {
            const char *at = (const char *)data + (size_t)s * bytes + i;
            for (int line = 0; ahead && line < MKA_READ_STEP; line += 64) __builtin_prefetch(at + ahead + line);
            for (int j = 0; j < MKA_READ_STEP; j += (int)sizeof sum) {
                uint64_t word[4];
                memcpy(word, at + j, sizeof word);
                for (int k = 0; k < 4; k++) sum[k] ^= word[k];
            }
        }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

static double peak_f32(long rounds, float *sink) {
    float sum[LANES] = {0}, a[LANES], b = 0.5F + *sink * 0;
    for (int i = 0; i < LANES; i++) a[i] = 1.0F + (float)i;
    for (long r = 0; r < rounds; r++)
        for (int i = 0; i < LANES; i++) sum[i] = sum[i] * b + a[i];
    for (int i = 0; i < LANES; i++) *sink += sum[i];
    return 2.0 * LANES * (double)rounds;
}

void mka_scalar_fill_peaks(mka_peaks *peaks);
void mka_scalar_fill_peaks(mka_peaks *peaks) {
    peaks->read = read;
    peaks->unit[MKA_UNIT_F32] = peak_f32;
}
