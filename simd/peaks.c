/* peaks - which loops a level adds to the table; what it does not add is what the level below it has. */
#include "kernels.h"

#include <string.h>

void mka_scalar_fill_peaks(mka_peaks *peaks);
#if defined(__x86_64__)
void mka_sse42_fill_peaks(mka_peaks *peaks);
void mka_avx2_fill_peaks(mka_peaks *peaks);
void mka_avx2vnni_fill_peaks(mka_peaks *peaks);
void mka_avx512_fill_peaks(mka_peaks *peaks);
void mka_avx512vnni_fill_peaks(mka_peaks *peaks);
void mka_amx_fill_peaks(mka_peaks *peaks);
#elif defined(__aarch64__)
void mka_neon_fill_peaks(mka_peaks *peaks);
void mka_dotprod_fill_peaks(mka_peaks *peaks);
void mka_i8mm_fill_peaks(mka_peaks *peaks);
void mka_sve_fill_peaks(mka_peaks *peaks);
#endif

static const struct entry {
    const char *level;
    void (*fill)(mka_peaks *peaks);
} entries[] = {
    {"scalar", mka_scalar_fill_peaks},
#if defined(__x86_64__)
    {"sse42", mka_sse42_fill_peaks},           {"avx2", mka_avx2_fill_peaks},
    {"avx2vnni", mka_avx2vnni_fill_peaks},     {"avx512", mka_avx512_fill_peaks},
    {"avx512vnni", mka_avx512vnni_fill_peaks}, {"amx", mka_amx_fill_peaks},
#elif defined(__aarch64__)
    {"neon", mka_neon_fill_peaks},     {"dotprod", mka_dotprod_fill_peaks},
    {"i8mm", mka_i8mm_fill_peaks},     {"sve", mka_sve_fill_peaks},
#endif
};

void mka_peaks_fill(const char *level, mka_peaks *peaks) {
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (strcmp(entries[i].level, level) == 0) entries[i].fill(peaks);
}
