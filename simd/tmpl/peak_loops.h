/* peak_loops - the loops of peaks.h over the vector instructions of a level. Each is one macro:
 *
 *   READ_LOOP(vector, load, zero, exclusive_or)             read_wide, an mka_read_fn
 *   PEAK_LOOP(name, vector, sums, operand, step, count)     an mka_peak_fn; step(sum, w) is sum plus count operations on w
 *
 * sums is how many independent sums there are: at least latency times instructions a cycle, at most what the registers hold.
 * They are an array that the compiler keeps in registers once the loop over it is unrolled. HIDE (the file's own, with the
 * constraint of its registers) makes the operand unknown anew before every step, so that nothing is taken out of the loop. */
#ifndef MKA_SIMD_TMPL_PEAK_LOOPS_H
#define MKA_SIMD_TMPL_PEAK_LOOPS_H

#include <string.h>

#include "peaks.h"

#define PEAK_TEXT(x) #x
#if defined(__clang__)
#define UNROLL(n) _Pragma(PEAK_TEXT(unroll n))
#else
#define UNROLL(n) _Pragma(PEAK_TEXT(GCC unroll n))
#endif

#define READ_LOOP(vector, load, zero, exclusive_or)                                                                              \
    static uint64_t read_wide(const void *data, size_t bytes, int streams, size_t ahead) {                                       \
        vector s0 = zero, s1 = zero, s2 = zero, s3 = zero;                                                                       \
        for (size_t i = 0; i + MKA_READ_STEP <= bytes; i += MKA_READ_STEP)                                                       \
            for (int s = 0; s < streams; s++) {                                                                                  \
                const char *at = (const char *)data + (size_t)s * bytes + i;                                                     \
                if (ahead) {                                                                                                     \
                    __builtin_prefetch(at + ahead);                                                                              \
                    __builtin_prefetch(at + ahead + 64);                                                                         \
                    __builtin_prefetch(at + ahead + 128);                                                                        \
                    __builtin_prefetch(at + ahead + 192);                                                                        \
                }                                                                                                                \
                UNROLL(4) for (size_t j = 0; j < MKA_READ_STEP; j += 4 * sizeof(vector)) {                                       \
                    s0 = exclusive_or(s0, load(at + j));                                                                         \
                    s1 = exclusive_or(s1, load(at + j + sizeof(vector)));                                                        \
                    s2 = exclusive_or(s2, load(at + j + 2 * sizeof(vector)));                                                    \
                    s3 = exclusive_or(s3, load(at + j + 3 * sizeof(vector)));                                                    \
                }                                                                                                                \
            }                                                                                                                    \
        s0 = exclusive_or(exclusive_or(s0, s1), exclusive_or(s2, s3));                                                           \
        uint64_t words[sizeof(vector) / 8], mixed = 0;                                                                           \
        memcpy(words, &s0, sizeof s0);                                                                                           \
        for (size_t i = 0; i < sizeof(vector) / 8; i++) mixed ^= words[i];                                                       \
        return mixed;                                                                                                            \
    }

#define PEAK_LOOP(name, vector, sums, operand, step, count)                                                                      \
    static double name(long rounds, float *sink) {                                                                               \
        vector sum[sums];                                                                                                        \
        unsigned char bytes[sizeof sum], mixed = 0;                                                                              \
        memset(sum, 0, sizeof sum);                                                                                              \
        operand;                                                                                                                 \
        for (long r = 0; r < rounds; r++) {                                                                                      \
            UNROLL(sums) for (int i = 0; i < (sums); i++) {                                                                      \
                HIDE(w);                                                                                                         \
                sum[i] = step(sum[i], w);                                                                                        \
            }                                                                                                                    \
        }                                                                                                                        \
        memcpy(bytes, sum, sizeof sum);                                                                                          \
        for (size_t i = 0; i < sizeof bytes; i++) mixed ^= bytes[i];                                                             \
        *sink += mixed;                                                                                                          \
        return (double)(count) * (sums) * (double)rounds;                                                                        \
    }

#endif
