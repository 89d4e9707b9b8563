/* scalar_recall - scan of key signs, and scores and sums over single rows, in plain C: the meaning of every level's. */
#include <math.h>

#include "kernels.h"
#include "scalar.h"
#include "scalar/half.h"

static void rows_score(mka_type type, int r, int d, int n, const float *q, const void *const *rows, float scale, float *s,
                       int lds) {
    float row[MKA_MOST_DIM];
    for (int t = 0; t < n; t++) {
        mka_get_row(type, d, rows[t], row);
        for (int i = 0; i < r; i++) s[(ptrdiff_t)i * lds + t] = scale * scalar_dot(d, q + (ptrdiff_t)i * d, row);
    }
}

static void rows_mix(mka_type type, int r, int d, int n, const float *s, int lds, const void *const *rows, float *acc) {
    float row[MKA_MOST_DIM];
    for (int t = 0; t < n; t++) {
        mka_get_row(type, d, rows[t], row);
        for (int i = 0; i < r; i++) {
            float weight = s[(ptrdiff_t)i * lds + t], *sum = acc + (ptrdiff_t)i * d;
            for (int e = 0; e < d; e++) sum[e] += weight * row[e];
        }
    }
}

#define ROW_KERNELS(TYPE, type)                                                                                                  \
    static void rows_score_##type(int r, int d, int n, const float *q, const void *const *rows, float scale, float *s,           \
                                  int lds) {                                                                                     \
        rows_score(MKA_##TYPE, r, d, n, q, rows, scale, s, lds);                                                                 \
    }                                                                                                                            \
    static void rows_mix_##type(int r, int d, int n, const float *s, int lds, const void *const *rows, float *acc) {             \
        rows_mix(MKA_##TYPE, r, d, n, s, lds, rows, acc);                                                                        \
    }
ROW_KERNELS(F32, f32)
ROW_KERNELS(F16, f16)
ROW_KERNELS(BF16, bf16)
ROW_KERNELS(Q8_0, q8)
ROW_KERNELS(Q4_0, q4)

/* 2^x by putting x into the exponent and its fraction into the mantissa as it is: off by 3 % at most around the constant that
 * centres the error, which is little beside the error of a sign's estimate. */
static float power(float x) {
    if (!(x > -125.0F)) return isnan(x) ? x : 0.0F;
    x = x < 126.0F ? x : 126.0F;
    return bits_float((uint32_t)(int32_t)lrintf(x * 0x1p23F + (127.0F * 0x1p23F - 366393.0F)));
}

static uint64_t scan(int r, int d, const void *block, const uint8_t *tables, const mka_scan_row *rows, float *e, float *mass) {
    const unsigned char *codes = block;
    int lines = mka_scan_lines(d);
    uint64_t wanted = 0;
    for (int i = 0; i < r; i++) {
        for (int t = 0; t < MKA_SCAN_TOKENS; t++) {
            unsigned sum = 0;
            for (int line = 0; line < lines; line++) {
                const uint8_t *table = tables + ((size_t)line * (size_t)r + (size_t)i) * 32;
                unsigned code = codes[(size_t)line * MKA_SCAN_TOKENS + (size_t)t];
                sum += (unsigned)table[code & 15] + table[16 + (code >> 4)];
            }
            float f = f16_to_f32(load_u16(codes + (size_t)lines * MKA_SCAN_TOKENS + (size_t)t * 2));
            float x = rows[i].step * (float)sum + rows[i].base;
            e[i * MKA_SCAN_TOKENS + t] = power(f * (x - rows[i].curve * f) + rows[i].shift);
            if (!(f * (x + rows[i].margin) + rows[i].shift <= rows[i].floor)) wanted |= (uint64_t)1 << t;
        }
    }
    for (int i = 0; i < r; i++)
        for (int b = 0; b < MKA_SCAN_MASSES; b++) {
            float sum = 0;
            for (int t = 16 * b; t < 16 * b + 16; t++)
                if (!(wanted >> t & 1)) sum += e[i * MKA_SCAN_TOKENS + t];
            mass[i * MKA_SCAN_MASSES + b] = sum;
        }
    return wanted;
}

static float lift(float g) {
    return g < 1 ? 0.5F * g * g : g - 0.5F;
}

static void cluster_weigh(int n, float constant, float gain, const float *deviation, const float *log_count, float *s) {
    for (int t = 0; t < n; t++) {
        float add = lift(gain * deviation[t]);
        s[t] += constant + (add < MKA_MOST_LIFT ? add : MKA_MOST_LIFT) + log_count[t];
    }
}

static uint64_t cluster_above(int n, const float *s, float gain, const float *deviation, const float *worth, float floor) {
    uint64_t bits = 0;
    for (int t = 0; t < n; t++) bits |= (uint64_t) !(s[t] + 0.5F * lift(gain * deviation[t]) + worth[t] <= floor) << t;
    return bits;
}

void mka_scalar_fill_recall(mka_kernels *k) {
#define FILL(TYPE, type) k->rows_score[MKA_##TYPE] = rows_score_##type, k->rows_mix[MKA_##TYPE] = rows_mix_##type
    FILL(F32, f32);
    FILL(F16, f16);
    FILL(BF16, bf16);
    FILL(Q8_0, q8);
    FILL(Q4_0, q4);
    k->scan = scan;
    k->weigh = cluster_weigh;
    k->above = cluster_above;
}
