/* keycode - vectors turned so that outliers spread over all numbers, which long-term rows are stored as; and such vectors reduced
 * to their signs with a factor, with a query prepared to be held against them, which is how the bank finds its summaries.
 *
 *   key   -> k - centre -> signs flipped by a fixed pattern, Hadamard -> row, or code
 *   query -> the same turn (products stay), times the scale of the scores -> tables of sums over four dimensions
 *
 * The centre is one constant a head, so that softmax needs q . centre added back once. The turn spreads outliers over all
 * dimensions, which is what makes signs say something; it is the randomised Hadamard of RaBitQ (arXiv 2405.12497). With x the
 * query and k the code's key, factor = |k|^2 / (sum of |k_i|) makes factor * (x . sign k) an unbiased stand-in of x . k; its
 * error is normal with deviation |x| factor sqrt((1 - c^2) / 1), c^2 = 2 / pi for a turned key. */
#ifndef MKA_MEMORY_KEYCODE_H
#define MKA_MEMORY_KEYCODE_H

#include "kernels.h"

#define MKA_SIGN_ERROR 0.60281F /* sqrt(1 - 2 / pi): deviation of x . (k - factor sign k), over |x| factor */

enum { MKA_CODE_DIM = 256 }; /* of a head that has a long-term tier, at most */

/* Turns x [d] in place; products of turned vectors are those of the vectors. mka_turn_back undoes it. */
void mka_turn(int d, float *x);
void mka_turn_back(int d, float *x);

/* The signs, 1 or -1, by which a turn multiplies x [d] before the Hadamard. */
void mka_turn_signs(int d, float *signs);

/* The factor of a turned, centred key [d]; 0 for a key of zeros, or one that is not finite. */
float mka_sign_factor(int d, const float *key);

/* Bytes of the tables of r query rows. */
size_t mka_scan_tables_bytes(int r, int d);

/* Makes the tables of row i of r from x [d], a turned query that is scaled to give the scores; *step and *base turn sums of
 * entries into x . sign, off by slack at most. Infinite or NaN queries give tables of zeros and NaN in base. */
void mka_scan_tables(int r, int i, int d, const float *x, uint8_t *tables, float *step, float *base, float *slack);

#endif
