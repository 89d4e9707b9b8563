/* held - keys and values of tokens that tiers hold, as numbers again, wherever they lie: what another session takes over. */
#ifndef MKA_MEMORY_HELD_H
#define MKA_MEMORY_HELD_H

#include "tiers.h"

/* Tokens first..first + n - 1 of those held: keys float [n][kv_heads][key_dim] as they were stored, values likewise (NULL where a
 * value is a part of its key). Those of closed blocks are read as these have them, whether or not the local tier still does, so
 * that each token comes once even where a tier keeps rows in another order than tokens. ops: a device's where the tiers are on
 * it. MKA_IO: rows could not be read. */
mka_status mka_held_rows(mka_tiers *tiers, mka_ops *ops, int first, int n, float *keys, float *values, mka_error *error);

#endif
