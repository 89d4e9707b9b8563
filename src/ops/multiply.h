/* multiply - what the files of the products share. */
#ifndef MKA_OPS_MULTIPLY_H
#define MKA_OPS_MULTIPLY_H

#include "ops.h"

/* Whether products with w can run on bf16 units as exactly as on 8-bit activations. */
int mka_multiply_has_bf16(const mka_ops *ops, const mka_matrix *w);

/* Products that share x, all of them with such w. */
void mka_multiply_bf16(mka_ops *ops, int n, int count, const mka_product *products);

/* Scratch of each thread, and of all threads together. */
size_t mka_multiply_bf16_scratch(void);
size_t mka_multiply_bf16_shared(const struct mka_ops_limits *limits);

#endif
