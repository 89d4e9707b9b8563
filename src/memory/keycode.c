/* keycode - see keycode.h. */
#include "keycode.h"

#include <math.h>
#include <string.h>

/* A fixed pattern of random bits: flips of the turn. It must never change, or saved memories would be read wrongly. */
static const uint32_t flips[8] = {0x9e3779b9U, 0x7f4a7c15U, 0xf39cc060U, 0x5cedc834U,
                                  0x1082276bU, 0xf3a27251U, 0xf86c6a11U, 0xd0c18e95U};

static void flip(int d, float *x) {
    for (int i = 0; i < d; i++)
        if (flips[i / 32 % 8] >> i % 32 & 1) x[i] = -x[i];
}

void mka_turn_signs(int d, float *signs) {
    for (int i = 0; i < d; i++) signs[i] = 1;
    flip(d, signs);
}

void mka_turn(int d, float *x) {
    flip(d, x);
    mka_hadamard(d, x);
}

void mka_turn_back(int d, float *x) {
    mka_hadamard(d, x);
    flip(d, x);
}

float mka_sign_factor(int d, const float *key) {
    float squares = 0, sum = 0;
    for (int i = 0; i < d; i++) squares += key[i] * key[i], sum += fabsf(key[i]);
    float factor = squares / sum;
    return isfinite(factor) && factor < 65504.0F ? factor : 0.0F;
}

size_t mka_scan_tables_bytes(int r, int d) {
    return (size_t)mka_scan_lines(d) * (size_t)r * 32;
}

static float at(const float *x, int d, int i) {
    return i < d ? x[i] : 0.0F;
}

/* The sums of one nibble's 16 combinations of signs over unit, from the least of them on: all loops of 16, so that they become
 * vectors. The constant puts a sum's nearest whole number into the low bits of a float. */
static void fill_table(const float *y, float least, float inverse, uint8_t *table) {
    static const float signs[4][16] = {{-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1},
                                       {-1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1},
                                       {-1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1},
                                       {-1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1}};
    float sums[16];
    uint32_t bits[16];
    for (int v = 0; v < 16; v++) sums[v] = signs[0][v] * y[0];
    for (int b = 1; b < 4; b++)
        for (int v = 0; v < 16; v++) sums[v] += signs[b][v] * y[b];
    for (int v = 0; v < 16; v++) sums[v] = (sums[v] - least) * inverse + 0x1.8p23F;
    memcpy(bits, sums, sizeof bits);
    for (int v = 0; v < 16; v++) table[v] = (uint8_t)(bits[v] & 31);
}

void mka_scan_tables(int r, int i, int d, const float *x, uint8_t *tables, float *step, float *base, float *slack) {
    int lines = mka_scan_lines(d);
    float widest = 0, low = 0;
    for (int n = 0; n < 2 * lines; n++) {
        float sum = 0;
        for (int b = 0; b < 4; b++) sum += fabsf(at(x, d, 4 * n + b));
        low -= sum;
        if (!(sum <= widest)) widest = sum; /* a NaN stays */
    }
    int good = isfinite(low) && widest > 0;
    float unit = good ? 2 * widest / MKA_SCAN_MOST : 0, inverse = good ? 1 / unit : 0;
    for (int n = 0; n < 2 * lines; n++) {
        uint8_t *table = tables + ((size_t)(n / 2) * (size_t)r + (size_t)i) * 32 + (size_t)(n % 2) * 16;
        float y[4], least = 0;
        for (int b = 0; b < 4; b++) y[b] = at(x, d, 4 * n + b), least -= fabsf(y[b]);
        if (good)
            fill_table(y, least, inverse, table);
        else
            memset(table, 0, 16);
    }
    *step = unit;
    *base = isfinite(low) ? low : NAN;
    *slack = unit * (0.5F + 1e-4F) * (float)(2 * lines);
}
