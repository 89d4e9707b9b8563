/* scalar_quant - plain C kernels of the quantised types: dequantising, quantising activations, and products with them. */
#include <float.h>
#include <math.h>

#include "levels.h"
#include "scalar.h"
#include "unpack.h"

/* load and gemv_q8 of one type. BLOCK is its block structure and PER the sub-blocks of 32 in it. */
#define QUANT_KERNELS(type, PER)                                                                                                 \
    static void load_##type(int n, const void *x, float *y) {                                                                    \
        const mka_block_##type *b = x;                                                                                           \
        unpacked u;                                                                                                              \
        for (int i = 0; i < n / 32; i++) {                                                                                       \
            unpack_##type(&b[i / PER], i % PER, &u);                                                                             \
            expand(&u, y + 32 * (size_t)i);                                                                                      \
        }                                                                                                                        \
    }                                                                                                                            \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const mka_q8_row *x, float *y) {                   \
        for (int j = 0; j < rows; j++) {                                                                                         \
            const mka_block_##type *b = (const void *)((const char *)w + (size_t)j * row_bytes);                                 \
            unpacked u;                                                                                                          \
            float sum = 0;                                                                                                       \
            for (int i = 0; i < n / 32; i++) {                                                                                   \
                unpack_##type(&b[i / PER], i % PER, &u);                                                                         \
                sum += product(&u, x, i);                                                                                        \
            }                                                                                                                    \
            y[j] = sum;                                                                                                          \
        }                                                                                                                        \
    }

static void expand(const unpacked *u, float *y) {
    for (int i = 0; i < 32; i++) y[i] = u->scale[i >> 4] * (float)u->q[i] + u->offset[i >> 4];
}

/* One block's share of the product; the integer sums are exact. */
static float product(const unpacked *u, const mka_q8_row *x, int i) {
    const int8_t *q = x->q + 32 * (size_t)i;
    int sum[2] = {0, 0};
    for (int k = 0; k < 16; k++) {
        sum[0] += u->q[k] * q[k];
        sum[1] += u->q[k + 16] * q[k + 16];
    }
    const int16_t *all = x->sum + 2 * (size_t)i;
    float a = u->scale[0] * (float)sum[0] + u->offset[0] * (float)all[0];
    float b = u->scale[1] * (float)sum[1] + u->offset[1] * (float)all[1];
    return x->scale[i] * (a + b);
}

QUANT_KERNELS(q4_0, 1)
QUANT_KERNELS(q4_1, 1)
QUANT_KERNELS(q5_0, 1)
QUANT_KERNELS(q5_1, 1)
QUANT_KERNELS(q8_0, 1)
QUANT_KERNELS(iq4_nl, 1)
QUANT_KERNELS(q2_k, 8)
QUANT_KERNELS(q3_k, 8)
QUANT_KERNELS(q4_k, 8)
QUANT_KERNELS(q5_k, 8)
QUANT_KERNELS(q6_k, 8)
QUANT_KERNELS(iq4_xs, 8)

static void quantize_block(const float *x, int8_t *q, float *scale, int16_t *sum) {
    uint32_t max = 0; /* of the bits without sign, whose order is that of the values, with infinity and NaN above all */
    for (int i = 0; i < 32; i++) {
        uint32_t u = float_bits(x[i]) & 0x7fffffffu;
        if (u > max) max = u;
    }
    float d = bits_float(max) / 127.0f, inverse = d >= FLT_MIN ? 1.0f / d : 0.0f;
    int finite = max < 0x7f800000u;
    *scale = finite ? (d >= FLT_MIN ? d : 0.0f) : NAN;
    sum[0] = sum[1] = 0;
    for (int i = 0; i < 32; i++) {
        q[i] = (int8_t)(finite ? lrintf(x[i] * inverse) : 0);
        sum[i >> 4] = (int16_t)(sum[i >> 4] + q[i]);
    }
}

static void quantize(int n, const float *x, const mka_q8_row *y) {
    for (int i = 0; i < n / 32; i++)
        quantize_block(x + 32 * (size_t)i, y->q + 32 * (size_t)i, &y->scale[i], y->sum + 2 * (size_t)i);
}

void mka_scalar_fill_quant(mka_kernels *k) {
    k->quantize = quantize;
#define FILL(TYPE, type) k->load[MKA_##TYPE] = load_##type, k->gemv_q8[MKA_##TYPE] = gemv_##type
    FILL(Q4_0, q4_0);
    FILL(Q4_1, q4_1);
    FILL(Q5_0, q5_0);
    FILL(Q5_1, q5_1);
    FILL(Q8_0, q8_0);
    FILL(IQ4_NL, iq4_nl);
    FILL(Q2_K, q2_k);
    FILL(Q3_K, q3_k);
    FILL(Q4_K, q4_k);
    FILL(Q5_K, q5_k);
    FILL(Q6_K, q6_k);
    FILL(IQ4_XS, iq4_xs);
}
