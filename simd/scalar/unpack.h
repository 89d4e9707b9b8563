/* unpack - what the bits of every quantised type stand for, 32 elements at a time.
 *
 *   x[i] = scale[i / 16] * q[i] + offset[i / 16]
 *
 * is true of every type here, with q in 8 bits; the products and sums are taken in this order and without fusing, so that a
 * level which does the same gives the same bits. `sub` counts blocks of 32 within the row's block. This file is the only
 * description of the bits in plain C; the vector levels are tested against it. */
#ifndef MKA_SIMD_SCALAR_UNPACK_H
#define MKA_SIMD_SCALAR_UNPACK_H

#include "half.h"
#include "quant.h"

typedef struct {
    int8_t q[32];
    float scale[2], offset[2];
} unpacked;

static inline void set_scale(unpacked *u, float scale, float offset) {
    u->scale[0] = u->scale[1] = scale;
    u->offset[0] = u->offset[1] = offset;
}

/* The 4-bit layout of the 32-blocks: low nibbles are elements 0..15, high ones 16..31. */
static inline void nibbles(unpacked *u, const uint8_t *q, int minus) {
    for (int i = 0; i < 16; i++) {
        u->q[i] = (int8_t)((q[i] & 15) - minus);
        u->q[i + 16] = (int8_t)((q[i] >> 4) - minus);
    }
}

static inline void fifth_bits(unpacked *u, const uint8_t *h) {
    for (int i = 0; i < 32; i++) u->q[i] = (int8_t)(u->q[i] + ((h[i >> 3] >> (i & 7) & 1) << 4));
}

static inline void unpack_q4_0(const void *block, int sub, unpacked *u) {
    const mka_block_q4_0 *b = block;
    (void)sub;
    nibbles(u, b->q, 8);
    set_scale(u, f16_to_f32(load_u16(&b->d)), 0);
}

static inline void unpack_q4_1(const void *block, int sub, unpacked *u) {
    const mka_block_q4_1 *b = block;
    (void)sub;
    nibbles(u, b->q, 0);
    set_scale(u, f16_to_f32(load_u16(&b->d)), f16_to_f32(load_u16(&b->m)));
}

static inline void unpack_q5_0(const void *block, int sub, unpacked *u) {
    const mka_block_q5_0 *b = block;
    (void)sub;
    nibbles(u, b->q, 16);
    fifth_bits(u, b->h);
    set_scale(u, f16_to_f32(load_u16(&b->d)), 0);
}

static inline void unpack_q5_1(const void *block, int sub, unpacked *u) {
    const mka_block_q5_1 *b = block;
    (void)sub;
    nibbles(u, b->q, 0);
    fifth_bits(u, b->h);
    set_scale(u, f16_to_f32(load_u16(&b->d)), f16_to_f32(load_u16(&b->m)));
}

static inline void unpack_q8_0(const void *block, int sub, unpacked *u) {
    const mka_block_q8_0 *b = block;
    (void)sub;
    memcpy(u->q, b->q, 32);
    set_scale(u, f16_to_f32(load_u16(&b->d)), 0);
}

static inline void unpack_iq4_nl(const void *block, int sub, unpacked *u) {
    const mka_block_iq4_nl *b = block;
    (void)sub;
    for (int i = 0; i < 16; i++) {
        u->q[i] = mka_iq4_values[b->q[i] & 15];
        u->q[i + 16] = mka_iq4_values[b->q[i] >> 4];
    }
    set_scale(u, f16_to_f32(load_u16(&b->d)), 0);
}

/* Two bits an element: 32 bytes hold four sub-blocks, one in each pair of bits; 64 bytes hold eight. */
static inline void unpack_q2_k(const void *block, int sub, unpacked *u) {
    const mka_block_q2_k *b = block;
    const uint8_t *q = b->q + 32 * (sub / 4);
    float d = f16_to_f32(load_u16(&b->d)), dmin = f16_to_f32(load_u16(&b->dmin));
    for (int i = 0; i < 32; i++) u->q[i] = (int8_t)(q[i] >> 2 * (sub % 4) & 3);
    for (int h = 0; h < 2; h++) {
        int s = b->scales[2 * sub + h];
        u->scale[h] = d * (float)(s & 15);
        u->offset[h] = -(dmin * (float)(s >> 4));
    }
}

/* Six-bit scale number j of 16: four bits in the first eight bytes, two in the last four. */
static inline int q3_k_scale(const uint8_t *scales, int j) {
    int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
    return (low | (scales[8 + j % 4] >> 2 * (j / 4) & 3) << 4) - 32;
}

static inline void unpack_q3_k(const void *block, int sub, unpacked *u) {
    const mka_block_q3_k *b = block;
    const uint8_t *q = b->q + 32 * (sub / 4);
    float d = f16_to_f32(load_u16(&b->d));
    for (int i = 0; i < 32; i++) u->q[i] = (int8_t)((q[i] >> 2 * (sub % 4) & 3) + 4 * (b->h[i] >> sub & 1) - 4);
    for (int h = 0; h < 2; h++) {
        u->scale[h] = d * (float)q3_k_scale(b->scales, 2 * sub + h);
        u->offset[h] = 0;
    }
}

/* Six-bit scale and minimum number j of 8, shared by q4_k and q5_k: the last four of each borrow the top bits of the first. */
static inline void k_scale_min(const uint8_t *s, int j, int *scale, int *min) {
    *scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    *min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
}

static inline void k_scales(unpacked *u, const uint8_t *scales, int sub, uint16_t d, uint16_t dmin) {
    int scale, min;
    k_scale_min(scales, sub, &scale, &min);
    set_scale(u, f16_to_f32(d) * (float)scale, -(f16_to_f32(dmin) * (float)min));
}

static inline void unpack_q4_k(const void *block, int sub, unpacked *u) {
    const mka_block_q4_k *b = block;
    const uint8_t *q = b->q + 32 * (sub / 2);
    for (int i = 0; i < 32; i++) u->q[i] = (int8_t)(q[i] >> 4 * (sub % 2) & 15);
    k_scales(u, b->scales, sub, load_u16(&b->d), load_u16(&b->dmin));
}

static inline void unpack_q5_k(const void *block, int sub, unpacked *u) {
    const mka_block_q5_k *b = block;
    const uint8_t *q = b->q + 32 * (sub / 2);
    for (int i = 0; i < 32; i++) u->q[i] = (int8_t)((q[i] >> 4 * (sub % 2) & 15) | (b->h[i] >> sub & 1) << 4);
    k_scales(u, b->scales, sub, load_u16(&b->d), load_u16(&b->dmin));
}

/* 128 elements in 64 + 32 bytes: sub-blocks 0 and 1 in the low nibbles, 2 and 3 in the high ones, two top bits each in h. */
static inline void unpack_q6_k(const void *block, int sub, unpacked *u) {
    const mka_block_q6_k *b = block;
    const uint8_t *l = b->l + 64 * (sub / 4) + 32 * (sub % 2), *h = b->h + 32 * (sub / 4);
    float d = f16_to_f32(load_u16(&b->d));
    for (int i = 0; i < 32; i++) u->q[i] = (int8_t)(((l[i] >> 4 * (sub % 4 / 2) & 15) | (h[i] >> 2 * (sub % 4) & 3) << 4) - 32);
    for (int k = 0; k < 2; k++) {
        u->scale[k] = d * (float)b->scales[2 * sub + k];
        u->offset[k] = 0;
    }
}

static inline void unpack_iq4_xs(const void *block, int sub, unpacked *u) {
    const mka_block_iq4_xs *b = block;
    const uint8_t *q = b->q + 16 * sub;
    int low = b->scales_l[sub / 2] >> 4 * (sub % 2) & 15, high = load_u16(&b->scales_h) >> 2 * sub & 3;
    for (int i = 0; i < 16; i++) {
        u->q[i] = mka_iq4_values[q[i] & 15];
        u->q[i + 16] = mka_iq4_values[q[i] >> 4];
    }
    set_scale(u, f16_to_f32(load_u16(&b->d)) * (float)((low | high << 4) - 32), 0);
}

#endif
