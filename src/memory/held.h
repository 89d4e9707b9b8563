/* held - keys and values of tokens that tiers hold, as numbers again, wherever they lie: what another session takes over. */
#ifndef MKA_MEMORY_HELD_H
#define MKA_MEMORY_HELD_H

#include "tiers.h"

/* Tokens first..first + n - 1 of those held: keys float [n][kv_heads][key_dim] as they were stored, values likewise (NULL where a
 * value is a part of its key). Read from the local tier where that still has them, else from long-term rows. MKA_IO: these could
 * not be read. */
mka_status mka_held_rows(mka_tiers *tiers, int first, int n, float *keys, float *values, mka_error *error);

#endif
