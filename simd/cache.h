/* cache - how an attention cache stores keys and values: tiles of 32 tokens, laid out so that no kernel sums across a vector.
 *
 * A key tile holds two halves of 16 tokens. In a half, a line holds UNIT dimensions of all 16 tokens, token after token, so
 * that a vector of scores grows by one product a line (and a line is a row of an AMX tile, or an operand of a dot product):
 *
 *   F32   [half][d][16]            F16  [half][d][16]           BF16  [half][d/2][16][2]
 *   Q8    [half][d/4][16][4]       u8, value + 128              then scales [half][d/32][16], half floats
 *   Q4    [half][d/8][16][4]       byte b: dimension b of the eight in the low nibble, b + 4 in the high one, value + 8;
 *                                  then scales as for Q8
 *
 * A value tile is laid out for sums over tokens: 1, 2 or 4 tokens of one dimension lie together.
 *
 *   F32   [32][d]                  F16  [32][d]                 BF16  [d/16][16 pairs][16][2]
 *   Q8    [d/16][8 quads][16][4]   s8                           then scales [32], floats, one a token
 *   Q4    [d/32][8 quads][16][4]   low nibbles: dimensions 0..15 of the 32, high ones: 16..31, value + 8; then scales as for Q8
 *
 * d is padded with zeros to a whole unit (keys: 2 for BF16, 32 for Q8 and Q4; values: 16 for BF16 and Q8, 32 for Q4). A tile's
 * bytes are a multiple of 64. Slots that no token was put into hold zeros or an earlier token: kernels are told how many count.
 * Caches that hold Q4 tiles turn what they put in (mka_hadamard) and have their newest tokens in BF16 tiles too
 * (src/memory/near.h). In the table of kernels Q8 and Q4 are indexed by MKA_Q8_0 and MKA_Q4_0.
 */
#ifndef MKA_SIMD_CACHE_H
#define MKA_SIMD_CACHE_H

#include "quant.h"

enum { MKA_TILE = 32, MKA_HALF = 16, MKA_KEY_GROUP = 32 };
enum { MKA_MOST_DIM = 5120 }; /* of a key or value: kernels keep one token on the stack */

static inline int mka_pad(int d, int unit) {
    return (d + unit - 1) / unit * unit;
}

/* 1 for F32, F16, BF16, Q8_0 and Q4_0. */
int mka_cache_type(mka_type type);

/* Bytes of a tile of keys or values of d numbers; 0 for a type that no cache has. */
size_t mka_key_tile_bytes(mka_type type, int d);
size_t mka_value_tile_bytes(mka_type type, int d);

/* Puts one token's key or value, float [d], into slot 0..31 of a tile. convert is the level's store of the type (used for F32,
 * F16 and BF16; others are quantised here: Q8 and Q4 to the largest magnitude of the group, or of the token for values). */
void mka_put_key(mka_type type, mka_store_fn *convert, int d, const float *x, void *tile, int slot);
void mka_put_value(mka_type type, mka_store_fn *convert, int d, const float *x, void *tile, int slot);

/* What the slot stands for, as float [d]. */
void mka_get_key(mka_type type, int d, const void *tile, int slot, float *x);
void mka_get_value(mka_type type, int d, const void *tile, int slot, float *x);

/* A slot as it is stored, taken apart: its numbers one after the other, as a row of rows.h has them before its scales (F32, F16,
 * BF16 [d]; Q8, Q4 padded to 32, of values in Q8 to 16), and its scales: half floats [ceil(d / 32)] of a key, one float of a
 * value, none of other types. mka_put_key_codes and mka_put_value_codes put a slot together again. */
void mka_key_codes(mka_type type, int d, const void *tile, int slot, void *codes, void *scales);
void mka_value_codes(mka_type type, int d, const void *tile, int slot, void *codes, void *scale);
void mka_put_key_codes(mka_type type, int d, const void *codes, const void *scales, void *tile, int slot);
void mka_put_value_codes(mka_type type, int d, const void *codes, const void *scale, void *tile, int slot);

/* Turns x by a normalised Hadamard matrix over runs of the largest power of two that divides d; its own inverse. Spreads
 * outliers evenly, which is what makes 4 bits enough: queries and keys turned alike keep their products. */
void mka_hadamard(int d, float *x);

#endif
