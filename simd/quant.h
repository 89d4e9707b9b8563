/* quant - how rows of every tensor type are stored: the block layouts that GGUF files use, and the type table.
 *
 * All values are little endian. A block is read with unaligned loads: its size is a multiple of 2 bytes and no more, so that an
 * even address is all that rows have.
 * x[i] below is the value that element i of a block stands for; d, dmin are IEEE half floats.
 */
#ifndef MKA_SIMD_QUANT_H
#define MKA_SIMD_QUANT_H

#include <mka/mka.h>

typedef struct mka_type_info {
    const char *name;
    int block;  /* elements of one block; rows are whole blocks */
    int bytes;  /* of one block; 0 for a type that does not exist */
    int weight; /* 1: kernels can multiply with it */
    int quant;  /* 1: a quantised type, which has gemv_q8 */
} mka_type_info;

/* Entry of a type; an entry with bytes 0 for a value that is not one. Never NULL. */
const mka_type_info *mka_type_get(mka_type type);

/* Bytes of a row of n elements; 0 when n is not whole blocks, negative or too large. */
size_t mka_type_row_bytes(mka_type type, int64_t n);

/* x = d q */
typedef struct {
    uint16_t d;
    uint8_t q[16];
} mka_block_q4_0; /* q: low nibbles 0..15, high 16..31; minus 8 */
typedef struct {
    uint16_t d, m;
    uint8_t q[16];
} mka_block_q4_1; /* x = d q + m */
typedef struct {
    uint16_t d;
    uint8_t h[4], q[16];
} mka_block_q5_0; /* fifth bits in h, element i at bit i; minus 16 */
typedef struct {
    uint16_t d, m;
    uint8_t h[4], q[16];
} mka_block_q5_1; /* x = d q + m */
typedef struct {
    uint16_t d;
    int8_t q[32];
} mka_block_q8_0;
typedef struct {
    uint16_t d;
    uint8_t q[16];
} mka_block_iq4_nl; /* nibbles index mka_iq4_values */

/* Super-blocks of 256. */
typedef struct {
    uint8_t scales[16], q[64];
    uint16_t d, dmin;
} mka_block_q2_k;
typedef struct {
    uint8_t h[32], q[64], scales[12];
    uint16_t d;
} mka_block_q3_k;
typedef struct {
    uint16_t d, dmin;
    uint8_t scales[12], q[128];
} mka_block_q4_k;
typedef struct {
    uint16_t d, dmin;
    uint8_t scales[12], h[32], q[128];
} mka_block_q5_k;
typedef struct {
    uint8_t l[128], h[64];
    int8_t scales[16];
    uint16_t d;
} mka_block_q6_k;
typedef struct {
    uint16_t d, scales_h;
    uint8_t scales_l[4], q[128];
} mka_block_iq4_xs;

extern const int8_t mka_iq4_values[16];

/* A row of activations in 8 bits, n a multiple of 32: x[i] ~ scale[i / 32] * q[i], sum[i / 16] = sum of those 16 q.
 * Blocks of 32 for every weight type, so that one quantisation serves all products of a row. q is 64-byte aligned. */
typedef struct mka_q8_row {
    int8_t *q;    /* [n] */
    float *scale; /* [n / 32] */
    int16_t *sum; /* [n / 16] */
} mka_q8_row;

/* Conversions of n elements; rounding to nearest even, overflow to infinity. All levels give equal values. */
typedef void mka_load_fn(int n, const void *x, float *y);  /* from a stored type (whole blocks) to float32 */
typedef void mka_store_fn(int n, const float *x, void *y); /* from float32 to a stored type */

#endif
