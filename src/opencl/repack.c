/* repack - weights in blocks of 16 rows, as gemv_nv.cl and gemm_nv.cl read them: 8 bits in [rows / 16][cols / 64] blocks, 4 bits
 * in [rows / 16][cols / 128]. What lies where in a block is told at the top of gemv_nv.cl. */
#include "mirror.h"
#include "scalar/unpack.h"

#include <string.h>

enum { BYTES8 = 1088, BYTES4 = 1152, BYTES4_MINIMA = 1280, SCALES_AT = 1024, MINIMA_AT = 1152 };

int mka_cl_blocked_type(mka_type type) {
    return type == MKA_Q8_0 || type == MKA_Q4_0 || type == MKA_Q4_1 || type == MKA_Q4_K;
}

int mka_cl_blocked(const mka_device *device, mka_type type) {
    return device->blocked && mka_cl_blocked_type(type);
}

int mka_cl_minima(mka_type type) {
    return type == MKA_Q4_1 || type == MKA_Q4_K;
}

static size_t turn_cols(mka_type type) {
    return type == MKA_Q8_0 ? 64 : 128;
}

static size_t block_bytes(mka_type type) {
    return type == MKA_Q8_0 ? BYTES8 : mka_cl_minima(type) ? BYTES4_MINIMA : BYTES4;
}

size_t mka_cl_band_bytes(mka_type type, int cols) {
    return ((size_t)cols + turn_cols(type) - 1) / turn_cols(type) * block_bytes(type);
}

size_t mka_cl_bands(size_t rows) {
    return (rows + MKA_CL_BAND - 1) / MKA_CL_BAND;
}

static void unpack_any(const mka_matrix *w, const unsigned char *row, size_t sub, unpacked *u) {
    switch (w->type) {
    case MKA_Q8_0:
        unpack_q8_0(row + sub * sizeof(mka_block_q8_0), 0, u);
        break;
    case MKA_Q4_0:
        unpack_q4_0(row + sub * sizeof(mka_block_q4_0), 0, u);
        break;
    case MKA_Q4_1:
        unpack_q4_1(row + sub * sizeof(mka_block_q4_1), 0, u);
        break;
    default:
        unpack_q4_k(row + sub / 8 * sizeof(mka_block_q4_k), (int)(sub % 8), u);
        break;
    }
}

static void put_half(unsigned char *to, float x) {
    uint16_t half = f32_to_f16(x);
    memcpy(to, &half, sizeof half);
}

/* 32 columns of line number line of a block: bytes 8 j.. of four lanes. */
static void put8(const unpacked *u, size_t line, size_t j, unsigned char *block) {
    size_t g = line % 8, i = line / 8;
    unsigned char *to = block + i * 512 + g * 64 + 8 * j;
    for (size_t k = 0; k < 32; k++) to[k / 8 * 16 + k % 8] = (unsigned char)(u->q[k] + 128);
    put_half(block + SCALES_AT + ((g * 2 + i) * 2 + j) * 2, u->scale[0]);
}

/* Likewise word j of four lanes: columns 2 p and 2 p + 1 of eight are nibbles p and p + 4. */
static void put4(const unpacked *u, int minima, size_t line, size_t j, unsigned char *block) {
    size_t g = line % 8, i = line / 8, scale = ((g * 2 + i) * 4 + j) * 2;
    int plus = minima ? 0 : 8;
    for (size_t t = 0; t < 4; t++) {
        const int8_t *q = u->q + 8 * t;
        uint32_t word = 0;
        for (int p = 0; p < 4; p++)
            word |= (uint32_t)(q[2 * p] + plus) << 4 * p | (uint32_t)(q[2 * p + 1] + plus) << (16 + 4 * p);
        memcpy(block + i * 512 + g * 64 + t * 16 + 4 * j, &word, sizeof word);
    }
    put_half(block + SCALES_AT + scale, u->scale[0]);
    if (minima) put_half(block + MINIMA_AT + scale, u->offset[0]);
}

void mka_cl_repack(const mka_matrix *w, size_t first, size_t rows, unsigned char *to) {
    size_t each = block_bytes(w->type), subs = turn_cols(w->type) / 32, band = mka_cl_band_bytes(w->type, w->cols);
    memset(to, 0, mka_cl_bands(rows) * band); /* rows and columns that are not there: scales of zero */
    for (size_t row = 0; row < rows; row++)
        for (size_t sub = 0; sub < (size_t)w->cols / 32; sub++) {
            unpacked u;
            unsigned char *block = to + row / MKA_CL_BAND * band + sub / subs * each;
            unpack_any(w, (const unsigned char *)w->data + (first + row) * w->row_bytes, sub, &u);
            if (w->type == MKA_Q8_0)
                put8(&u, row % MKA_CL_BAND, sub % subs, block);
            else
                put4(&u, mka_cl_minima(w->type), row % MKA_CL_BAND, sub % subs, block);
        }
}
