/* attend - attention of one query on the CPU in pieces, for a caller that shares them out over its threads beside work of its
 * own: a window's keys alone are too few for all of them. */
#ifndef MKA_OPS_ATTEND_H
#define MKA_OPS_ATTEND_H

#include "ops.h"

enum { MKA_PIECE_KEYS = 128 }; /* of a piece, at least */

/* The keys that each head's query sees, in pieces that depend on their number alone. */
typedef struct mka_attend_pieces {
    mka_attend_job job; /* n is 1 */
    mka_ops *ops;
    int count, keys; /* pieces of a head, and keys of one */
    uint64_t bytes;  /* of keys and values that all of them read */
} mka_attend_pieces;

/* most: pieces of a head. What job says of m, z and out is not looked at. */
void mka_attend_cut(mka_attend_pieces *pieces, mka_ops *ops, const mka_attend_job *job, int most);

/* State of a piece for the query heads of one key/value head: m, z [group], unscaled sums acc [group][value_dim]. scratch: of the
 * thread, as mka_attend_scratch measures it. */
void mka_attend_piece(const mka_attend_pieces *pieces, int head, int piece, unsigned char *scratch, float *m, float *z,
                      float *acc);

#endif
