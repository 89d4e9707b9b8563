/* peaks - loops that use one part of the machine and nothing else, so that a kernel's speed has something to be held against.
 *
 *   read   loads of the widest registers of a level, from several places at once: what a kernel that streams could read
 *   unit   one kind of multiply-add on registers alone: what a kernel that computes could do
 *
 * They are part of the kernels' table, one entry a unit, so that a level is compared with what that level can do: AVX2's int8
 * peak is that of its own three instructions, not of the VNNI that the processor may have as well.
 */
#ifndef MKA_SIMD_PEAKS_H
#define MKA_SIMD_PEAKS_H

#include <mka/profile.h>

/* Loads streams runs of bytes each (a multiple of MKA_READ_STEP), which follow one another in memory, side by side: a step of
 * every run, then the next one. ahead > 0: each step also prefetches what lies ahead bytes further on in its run, which may be
 * behind the end. Returns a mixture of the bits, so that no load can be left out. */
typedef uint64_t mka_read_fn(const void *data, size_t bytes, int streams, size_t ahead);
#define MKA_READ_STEP 256

/* Does rounds rounds of independent multiply-adds, as many as it takes to fill the unit; returns the operations done (two a
 * multiply-add). *sink gets a value that depends on all of them. */
typedef double mka_peak_fn(long rounds, float *sink);

/* read is in every table; a unit that a level does not have is that of the next lower one, NULL when none has it. */
typedef struct mka_peaks {
    mka_read_fn *read;
    mka_peak_fn *unit[MKA_UNITS];
} mka_peaks;

/* Overwrites what the level has of its own; called with the table of the level below. */
void mka_peaks_fill(const char *level, mka_peaks *peaks);

#endif
