/* rows - writing and reading single rows of the long-term tier, and the signs that are scanned. Plain C: a token is written once.
 */
#include "kernels.h"

#include <math.h>
#include <string.h>

#include "scalar/half.h"

enum { GROUP = 32 };

static int quantised(mka_type type) {
    return type == MKA_Q8_0 || type == MKA_Q4_0;
}

/* Bytes of a row before its scales. */
static size_t data_bytes(mka_type type, int d) {
    switch ((int)type) {
    case MKA_F32:
        return (size_t)d * 4;
    case MKA_F16:
    case MKA_BF16:
        return (size_t)d * 2;
    case MKA_Q8_0:
        return (size_t)mka_pad(d, GROUP);
    case MKA_Q4_0:
        return (size_t)mka_pad(d, GROUP) / 2;
    default:
        return 0;
    }
}

size_t mka_row_bytes(mka_type type, int d) {
    return data_bytes(type, d) + (quantised(type) ? (size_t)mka_pad(d, GROUP) / GROUP * 2 : 0);
}

static int rounded(float x, float inverse, int most) {
    float q = rintf(x * inverse);
    return q >= (float)-most && q <= (float)most ? (int)q : 0;
}

void mka_put_row(mka_type type, mka_store_fn *convert, int d, const float *x, void *row) {
    if (!quantised(type)) {
        convert(d, x, row);
        return;
    }
    unsigned char *data = row;
    int most = type == MKA_Q8_0 ? 127 : 7;
    for (int from = 0; from < d; from += GROUP) {
        int count = d - from < GROUP ? d - from : GROUP;
        float largest = 0;
        for (int e = 0; e < count; e++) largest = fmaxf(largest, fabsf(x[from + e]));
        uint16_t half = f32_to_f16(largest / (float)most);
        float scale = f16_to_f32(half), inverse = scale > 0 ? 1 / scale : 0;
        memcpy(data + data_bytes(type, d) + (size_t)(from / GROUP) * 2, &half, 2);
        int q[GROUP];
        for (int e = 0; e < GROUP; e++) q[e] = e < count ? rounded(x[from + e], inverse, most) : 0;
        for (int e = 0; e < GROUP; e++)
            if (type == MKA_Q8_0)
                data[from + e] = (unsigned char)(int8_t)q[e];
            else if (e < GROUP / 2)
                data[from / 2 + e] = (unsigned char)((q[e] + 8) | (q[e + GROUP / 2] + 8) << 4);
    }
}

void mka_get_row(mka_type type, int d, const void *row, float *x) {
    const unsigned char *data = row;
    for (int e = 0; e < d; e++) {
        if (type == MKA_F32) {
            memcpy(&x[e], data + (size_t)e * 4, 4);
        } else if (!quantised(type)) {
            uint16_t half = load_u16(data + (size_t)e * 2);
            x[e] = type == MKA_F16 ? f16_to_f32(half) : bf16_to_f32(half);
        } else {
            float scale = f16_to_f32(load_u16(data + data_bytes(type, d) + (size_t)(e / GROUP) * 2));
            int nibble = data[e / GROUP * (GROUP / 2) + e % (GROUP / 2)] >> e % GROUP / (GROUP / 2) * 4 & 15;
            x[e] = scale * (float)(type == MKA_Q8_0 ? (int8_t)data[e] : nibble - 8);
        }
    }
}

void mka_put_signs(int d, const float *x, float factor, void *block, int slot) {
    unsigned char *data = block;
    for (int line = 0; line < mka_scan_lines(d); line++) {
        unsigned bits = 0;
        for (int b = 0; b < 8 && 8 * line + b < d; b++) bits |= (unsigned)(x[8 * line + b] >= 0) << b;
        data[(size_t)line * MKA_SCAN_TOKENS + (size_t)slot] = (unsigned char)bits;
    }
    uint16_t half = f32_to_f16(factor);
    memcpy(data + (size_t)mka_scan_lines(d) * MKA_SCAN_TOKENS + (size_t)slot * 2, &half, 2);
}
