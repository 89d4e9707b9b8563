/* rows - how the long-term tier stores keys and values: one token after another, because recall reads single tokens; and the
 * blocks of key signs that are scanned to find them.
 *
 * A row of d numbers:
 *
 *   F32 F16 BF16   [d]
 *   Q8             [padded] s8, then scales [padded / 32], half floats
 *   Q4             [padded / 2], byte 16 g + j: number 32 g + j in the low nibble, 32 g + 16 + j in the high one, value + 8;
 *                  then scales as for Q8
 *
 * padded is d rounded up to 32, the rest zeros. Q8 and Q4 are indexed by MKA_Q8_0 and MKA_Q4_0, as in cache.h.
 *
 * A scan block holds the signs of 64 tokens' (centred, rotated) keys, four dimensions to a nibble, and a factor a token:
 *
 *   [lines][64]   byte t of line j: low nibble dimensions 8 j + 0..3 of token t, high nibble 8 j + 4..7; a bit is set where the
 *                 number is >= 0. lines = ceil(d / 8); bits of dimensions >= d are zeros
 *   [64]          half floats: the factor f for which f * sign is the unbiased stand-in of the key
 *
 * so that a byte shuffle with a table of 16 sums of the query's numbers scores up to 64 tokens at once. */
#ifndef MKA_SIMD_ROWS_H
#define MKA_SIMD_ROWS_H

#include "cache.h"

enum { MKA_SCAN_TOKENS = 64, MKA_SCAN_MASSES = 4, MKA_SCAN_MOST = 31 };

/* Bytes of a row; 0 for a type that no row has. */
size_t mka_row_bytes(mka_type type, int d);

/* Stores float [d] as a row, and reads one back. convert as in mka_put_key. NaN becomes 0 in Q8 and Q4. */
void mka_put_row(mka_type type, mka_store_fn *convert, int d, const float *x, void *row);
void mka_get_row(mka_type type, int d, const void *row, float *x);

static inline int mka_scan_lines(int d) {
    return (d + 7) / 8;
}

/* Bytes of a scan block, a multiple of 64, and where its factors begin. */
static inline size_t mka_scan_block_bytes(int d) {
    return (size_t)mka_scan_lines(d) * MKA_SCAN_TOKENS + MKA_SCAN_TOKENS * sizeof(uint16_t);
}

/* Puts the signs of float x [d] and the factor into slot 0..63 of a scan block. */
void mka_put_signs(int d, const float *x, float factor, void *block, int slot);

/* What one query row makes of a token: sum is the sum of its table entries, f the token's factor.
 *
 *   t = step * sum + base                 the product of the query with the token's signs
 *   e = 2^(f (t - curve f) + shift)       its estimated weight, relative to a reference that shift holds
 *   wanted where f (t + margin) + shift > floor */
typedef struct mka_scan_row {
    float step, base, curve, shift, margin, floor;
} mka_scan_row;

#endif
