/* scalar_recall - scan of key signs, scores and sums over single rows, and what queries share, in plain C: the meaning of every
 * level's. */
#include <math.h>
#include <string.h>

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

static int sift(int r, int stretches, const int *begins, const float *least, float *s, int lds, int *kept, float *left) {
    int count = 0;
    for (int k = 0; k < stretches; k++) {
        for (int i = 0; i < r; i++) left[i * MKA_SIFT_MOST + k] = 0;
        for (int t = begins[k]; t < begins[k + 1]; t++) {
            int stays = 0;
            for (int i = 0; i < r; i++) stays |= !(s[(ptrdiff_t)i * lds + t] <= least[i]);
            for (int i = 0; i < r && !stays; i++) left[i * MKA_SIFT_MOST + k] += s[(ptrdiff_t)i * lds + t];
            if (stays) kept[count++] = t;
        }
    }
    for (int i = 0; i < r; i++)
        for (int c = 0; c < count; c++) s[(ptrdiff_t)i * lds + c] = s[(ptrdiff_t)i * lds + kept[c]];
    return count;
}

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

/* What may be missed in a cluster: its deviation, or with wide ones a single token. */
static float chance(float g) {
    float single = 2.5F * g - 7.25F, all = 0.5F * lift(g);
    return single > all ? single : all;
}

static uint64_t cluster_above(int n, const float *s, float gain, const float *deviation, const float *worth, float floor) {
    uint64_t bits = 0;
    for (int t = 0; t < n; t++) bits |= (uint64_t) !(s[t] + chance(gain * deviation[t]) + worth[t] <= floor) << t;
    return bits;
}

static void estimate(int r, int n, const float *bias, float *s, int lds, float *m, float *z, float *c, float *squares) {
    for (int t = 0; t < n; t++) squares[t] = 0;
    for (int i = 0; i < r; i++) {
        float *row = s + (ptrdiff_t)i * lds, most = m[i], sum = 0;
        for (int t = 0; t < n; t++) most = fmaxf(most, row[t] + bias[t]);
        float base = most > -INFINITY ? most : 0;
        for (int t = 0; t < n; t++) {
            row[t] = power((row[t] + bias[t] - base) * 1.44269504F);
            sum += row[t];
        }
        c[i] = most == m[i] ? 1 : expf(m[i] - most);
        z[i] = c[i] * z[i] + sum;
        m[i] = most;
        float share = z[i] != 0 ? 1 / z[i] : 0;
        for (int t = 0; t < n; t++) squares[t] += row[t] * share * (row[t] * share);
    }
}

static void keep(int r, int n, const float *kept, float *s, int lds, float *sum) {
    for (int i = 0; i < r; i++) {
        float *row = s + (ptrdiff_t)i * lds;
        sum[i] = 0;
        for (int t = 0; t < n; t++) {
            row[t] *= kept[t];
            sum[i] += row[t];
        }
    }
}

/* ---- rows to tiles ---- */

static void store_bf16(float x, unsigned char *to) {
    uint16_t half = f32_to_bf16(x);
    memcpy(to, &half, sizeof half);
}

static void rows_keys(mka_type type, int d, int n, const void *const *rows, void *tile) {
    float row[MKA_ROWS_DIM];
    memset(tile, 0, mka_key_tile_bytes(MKA_BF16, d));
    for (int t = 0; t < n; t++) {
        unsigned char *to =
            (unsigned char *)tile + (size_t)(t / MKA_HALF) * (size_t)mka_pad(d, 2) * MKA_HALF * 2 + (size_t)(t % MKA_HALF) * 4;
        mka_get_row(type, d, rows[t], row);
        for (int e = 0; e < d; e++) store_bf16(row[e], to + (size_t)(e / 2) * 64 + (size_t)(e % 2) * 2);
    }
}

static void rows_values(mka_type type, int d, int n, const void *const *rows, void *tile) {
    float row[MKA_ROWS_DIM];
    memset(tile, 0, mka_value_tile_bytes(MKA_BF16, d));
    for (int t = 0; t < n; t++) {
        unsigned char *to = (unsigned char *)tile + (size_t)(t / 2) * 64 + (size_t)(t % 2) * 2;
        mka_get_row(type, d, rows[t], row);
        for (int e = 0; e < d; e++) store_bf16(row[e], to + (size_t)(e / 16) * 1024 + (size_t)(e % 16) * 4);
    }
}

#define TILE_KERNELS(TYPE, type)                                                                                                 \
    void mka_scalar_rows_keys_##type(int d, int n, const void *const *rows, void *tile) {                                        \
        rows_keys(MKA_##TYPE, d, n, rows, tile);                                                                                 \
    }                                                                                                                            \
    void mka_scalar_rows_values_##type(int d, int n, const void *const *rows, void *tile) {                                      \
        rows_values(MKA_##TYPE, d, n, rows, tile);                                                                               \
    }
TILE_KERNELS(BF16, bf16)
TILE_KERNELS(Q8_0, q8)
TILE_KERNELS(Q4_0, q4)

void mka_scalar_fill_recall(mka_kernels *k) {
#define FILL(TYPE, type) k->rows_score[MKA_##TYPE] = rows_score_##type, k->rows_mix[MKA_##TYPE] = rows_mix_##type
#define FILL_TILES(TYPE, type)                                                                                                   \
    k->rows_keys[MKA_##TYPE] = mka_scalar_rows_keys_##type, k->rows_values[MKA_##TYPE] = mka_scalar_rows_values_##type
    FILL(F32, f32);
    FILL(F16, f16);
    FILL(BF16, bf16);
    FILL(Q8_0, q8);
    FILL(Q4_0, q4);
    FILL_TILES(BF16, bf16);
    FILL_TILES(Q8_0, q8);
    FILL_TILES(Q4_0, q4);
    k->sift = sift;
    k->scan = scan;
    k->weigh = cluster_weigh;
    k->above = cluster_above;
    k->estimate = estimate;
    k->keep = keep;
}
