/* half - 16-bit floats in plain C, for the scalar kernels and for tails. Static, so that a copy compiled with the flags of an
 * instruction set never serves code that must run without them. */
#ifndef MKA_SIMD_SCALAR_HALF_H
#define MKA_SIMD_SCALAR_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest < 0x0400u) return bits_float(sign | float_bits((float)rest * 0x1p-24f));
    if (rest < 0x7c00u) return bits_float(sign | ((rest << 13) + (112u << 23)));
    return bits_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13 | (rest > 0x7c00u ? 0x400000u : 0u));
}

static inline uint16_t f32_to_f16(float x) {
    uint32_t u = float_bits(x), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (u >> 13 & 0x1ffu));
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more round to infinity */
    if (u < 0x38800000u) /* one unit of 0.5f is one unit of a subnormal half: the addition does the rounding */
        return (uint16_t)(sign | (float_bits(bits_float(u) + 0.5f) - 0x3f000000u));
    u += 0xfffu + (u >> 13 & 1u);
    return (uint16_t)(sign | (u - (112u << 23)) >> 13);
}

static inline float bf16_to_f32(uint16_t h) {
    return bits_float((uint32_t)h << 16);
}

static inline uint16_t f32_to_bf16(float x) {
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static inline uint16_t load_u16(const void *p) {
    uint16_t u;
    memcpy(&u, p, sizeof u);
    return u;
}

#endif
