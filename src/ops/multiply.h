/* multiply - what the files of the products share. */
#ifndef MKA_OPS_MULTIPLY_H
#define MKA_OPS_MULTIPLY_H

#include "ops.h"

/* Whether products with w can run on bf16 units as exactly as on 8-bit activations. */
int mka_multiply_has_bf16(const mka_ops *ops, const mka_matrix *w);

/* Products that share x, all of them with such w. With glu there are two of one shape, and the first's y becomes glu of both. */
void mka_multiply_bf16(mka_ops *ops, int n, int count, const mka_product *products, mka_glu_fn *glu);

/* glu over rows row..row+rows-1 of two products: one thread's piece of both. */
void mka_multiply_glu(int n, const mka_product *products, int row, int rows, mka_glu_fn *glu);

/* Scratch of each thread, and of all threads together. */
size_t mka_multiply_bf16_scratch(void);
size_t mka_multiply_bf16_shared(const struct mka_ops_limits *limits);

#endif
