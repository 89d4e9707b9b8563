/* dot_cache - attention over the 8-bit and 4-bit tiles of simd/cache.h with the dot products of AArch64. Included once by each
 * level that has them; with i8mm there are products of signed with unsigned bytes, without it one side is shifted by 128.
 *
 * A line of a tile is four operands as it lies in memory: 4 lanes of 4 bytes each, multiplied by one lane of the other side,
 * which therefore needs neither broadcasts nor sums across lanes. That side is rounded to 8 bits first (kernels.h states what
 * this costs). Up to ROWS query rows go together, and every line is loaded once for them. */
#include <arm_neon.h>
#include <string.h>

#include "kernels.h"
#include "levels.h"

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 5, SPAN = 256, AHEAD = 4096, QUARTERS = 4, MOST_GROUPS = MKA_MOST_DIM / MKA_KEY_GROUP + 1 };

/* Calls CALL(R, row) for passes of at most ROWS rows, as equal as they can be, with R a constant. */
#define CASE(R, CALL)                                                                                                            \
    case R:                                                                                                                      \
        CALL(R, row_);                                                                                                           \
        break;
#define ROW_PASSES(r, CALL)                                                                                                      \
    for (int passes_ = ((r) + ROWS - 1) / ROWS, row_ = 0; passes_ > 0; passes_--) {                                              \
        int rows_ = ((r)-row_ + passes_ - 1) / passes_;                                                                          \
        switch (rows_) { CASE(1, CALL) CASE(2, CALL) CASE(3, CALL) CASE(4, CALL) CASE(5, CALL) }                                 \
        row_ += rows_;                                                                                                           \
    }
/* Lanes are constants of the instructions. */
#define EACH_LANE(BODY) BODY(0) BODY(1) BODY(2) BODY(3)

/* At most 4 floats at p, the others 0. */
INLINE float32x4_t load_some(const float *p, int n) {
    float whole[4] = {0};
    if (n >= 4) return vld1q_f32(p);
    for (int i = 0; i < n; i++) whole[i] = p[i];
    return vld1q_f32(whole);
}
INLINE void store_some(float *p, float32x4_t x, int n) {
    float whole[4];
    if (n >= 4) {
        vst1q_f32(p, x);
        return;
    }
    vst1q_f32(whole, x);
    for (int i = 0; i < n; i++) p[i] = whole[i];
}

/* ---- scores ---- */

/* Products with keys as they are stored, value + 128 (8 bits) or value + 8 (4 bits). */
#ifdef __ARM_FEATURE_MATMUL_INT8
typedef uint8x16_t key_bytes;
enum { ZERO_8 = 128 };
#define DOT_KEY(acc, key, x, lane) vusdotq_laneq_s32(acc, key, x, lane)
INLINE key_bytes whole_bytes(uint8x16_t v) {
    return v;
}
INLINE key_bytes nibble_bytes(uint8x16_t v) {
    return v;
}
#else
typedef int8x16_t key_bytes;
enum { ZERO_8 = 0 };
#define DOT_KEY(acc, key, x, lane) vdotq_laneq_s32(acc, key, x, lane)
INLINE key_bytes whole_bytes(uint8x16_t v) {
    return vreinterpretq_s8_u8(veorq_u8(v, vdupq_n_u8(128)));
}
INLINE key_bytes nibble_bytes(uint8x16_t v) {
    return vreinterpretq_s8_u8(v);
}
#endif
enum { ZERO_4 = 8 };

/* A query row in 8 bits: its numbers, and for each group of 32 the scale and minus the stored zero times its numbers. */
typedef struct {
    int8_t q[MKA_MOST_DIM + MKA_KEY_GROUP];
    float scale[MOST_GROUPS];
    int32_t offset[MOST_GROUPS];
} query;

static void round_query(int d, const float *x, int zero, float factor, query *out) {
    for (int g = 0; g * MKA_KEY_GROUP < d; g++) {
        float32x4_t part[8], most = vdupq_n_f32(0);
        int from = g * MKA_KEY_GROUP;
        for (int k = 0; k < 8; k++) {
            part[k] = load_some(x + from + 4 * k, d - from - 4 * k);
            most = vmaxq_f32(most, vabsq_f32(part[k]));
        }
        float largest = vmaxvq_f32(most), inverse = largest > 0 ? 127.0f / largest : 0;
        int sum = 0;
        for (int h = 0; h < 2; h++) {
            int16x8_t words[2];
            for (int k = 0; k < 2; k++) {
                const float32x4_t *p = part + 4 * h + 2 * k;
                words[k] = vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(p[0], inverse))),
                                           vcvtnq_s32_f32(vmulq_n_f32(p[1], inverse)));
            }
            int8x16_t bytes = vqmovn_high_s16(vqmovn_s16(words[0]), words[1]);
            vst1q_s8(out->q + from + 16 * h, bytes);
            sum += vaddlvq_s8(bytes);
        }
        out->scale[g] = factor * largest / 127.0f;
        out->offset[g] = -zero * sum;
    }
}

/* Bytes of keys for quad number `lane` of the 16 numbers from which lines start: a line of 8-bit keys has one quad, a line of
 * 4-bit keys has two. */
INLINE key_bytes key_quarter(int bits, const char *lines, int lane, int v) {
    const uint8_t *p = (const uint8_t *)lines + 16 * v;
    if (bits == 8) return whole_bytes(vld1q_u8(p + 64 * lane));
    uint8x16_t both = vld1q_u8(p + 64 * (lane / 2));
    return nibble_bytes(lane % 2 ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15)));
}

/* One group of 32 numbers of R rows against a half, added to the scores. */
INLINE void score_group(int R, int bits, const query *q, int g, const char *lines, const char *scales, float *s, int lds) {
    int32x4_t acc[ROWS][QUARTERS];
    for (int i = 0; i < R; i++)
        for (int v = 0; v < QUARTERS; v++) acc[i][v] = vdupq_n_s32(q[i].offset[g]);
    for (int c = 0; c < 2; c++, lines += 32 * bits) { /* 16 numbers at a time */
        int8x16_t x[ROWS];
        for (int i = 0; i < R; i++) x[i] = vld1q_s8(q[i].q + g * MKA_KEY_GROUP + 16 * c);
        for (int k = 0; k < bits / 2; k++) __builtin_prefetch(lines + AHEAD + 64 * k);
#define SCORE_QUAD(lane)                                                                                                         \
    for (int v = 0; v < QUARTERS; v++) {                                                                                         \
        key_bytes key = key_quarter(bits, lines, lane, v);                                                                       \
        for (int i = 0; i < R; i++) acc[i][v] = DOT_KEY(acc[i][v], key, x[i], lane);                                             \
    }
        EACH_LANE(SCORE_QUAD)
    }
    for (int v = 0; v < QUARTERS; v++) {
        float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(const void *)scales + 4 * v)));
        for (int i = 0; i < R; i++) {
            float *p = s + (ptrdiff_t)i * lds + 4 * v;
            float32x4_t sum = g == 0 ? vdupq_n_f32(0) : vld1q_f32(p);
            vst1q_f32(p, vfmaq_f32(sum, vcvtq_f32_s32(acc[i][v]), vmulq_n_f32(scale, q[i].scale[g])));
        }
    }
}

INLINE void score_rows(int R, int bits, int d, int n, const float *q, const char *keys, float factor, float *s, int lds) {
    query rounded[ROWS];
    int groups = mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP;
    ptrdiff_t tile = (ptrdiff_t)mka_key_tile_bytes(bits == 8 ? MKA_Q8_0 : MKA_Q4_0, d), half = (ptrdiff_t)groups * 64 * bits;
    for (int i = 0; i < R; i++) round_query(d, q + (ptrdiff_t)i * d, bits == 8 ? ZERO_8 : ZERO_4, factor, &rounded[i]);
    for (int t = 0; t < n; t += MKA_HALF) {
        int h = t / MKA_HALF % 2;
        const char *lines = keys + t / MKA_TILE * tile + h * half, *scales = keys + t / MKA_TILE * tile + 2 * half;
        for (int g = 0; g < groups; g++)
            score_group(R, bits, rounded, g, lines + (ptrdiff_t)g * 64 * bits, scales + (ptrdiff_t)(h * groups + g) * 32, s + t,
                        lds);
    }
}

#define SCORE_Q8(R, row) score_rows(R, 8, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
#define SCORE_Q4(R, row) score_rows(R, 4, d, n, q + (ptrdiff_t)(row)*d, keys, scale, s + (ptrdiff_t)(row)*lds, lds)
static void score_q8(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    ROW_PASSES(r, SCORE_Q8)
}
static void score_q4(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    ROW_PASSES(r, SCORE_Q4)
}

/* ---- mixes ---- */

/* The weights of R rows over at most SPAN tokens: weight * scale of the token ~ unit * (high + low / 256). low is used (fine)
 * where 8 bits would lose many small weights beside a large one. total: sums of high and of low. */
typedef struct {
    uint8_t high[ROWS][SPAN], low[ROWS][SPAN];
    float unit[ROWS];
    int32_t total[2][ROWS];
    int fine;
} weights;

/* One row times the tokens' scales, zeros up to a whole tile; gives the largest and returns the sum. */
static float scale_weights(int n, const float *s, const char *scales, ptrdiff_t tile, float *scaled, float *largest) {
    float32x4_t most = vdupq_n_f32(0), sum = most;
    for (int t = 0; t < mka_pad(n, MKA_TILE); t += 4) {
        const float *scale = (const float *)(const void *)(scales + (ptrdiff_t)(t / MKA_TILE) * tile) + t % MKA_TILE;
        float32x4_t x = t < n ? vmulq_f32(load_some(s + t, n - t), vld1q_f32(scale)) : vdupq_n_f32(0);
        vst1q_f32(scaled + t, x);
        most = vmaxq_f32(most, x);
        sum = vaddq_f32(sum, x);
    }
    *largest = vmaxvq_f32(most);
    return vaddvq_f32(sum);
}

INLINE uint8x16_t narrow(const uint32x4_t *v, int shift) {
    int32x4_t right = vdupq_n_s32(-shift);
    uint16x8_t a = vcombine_u16(vmovn_u32(vshlq_u32(v[0], right)), vmovn_u32(vshlq_u32(v[1], right)));
    uint16x8_t b = vcombine_u16(vmovn_u32(vshlq_u32(v[2], right)), vmovn_u32(vshlq_u32(v[3], right)));
    return vcombine_u8(vmovn_u16(a), vmovn_u16(b));
}

static void round_weights(int R, int n, const float *s, int lds, const char *scales, ptrdiff_t tile, weights *w) {
    float scaled[ROWS][SPAN], inverse[ROWS];
    w->fine = 0;
    for (int i = 0; i < R; i++) {
        float largest, sum = scale_weights(n, s + (ptrdiff_t)i * lds, scales, tile, scaled[i], &largest);
        w->unit[i] = largest / 255.0f;
        inverse[i] = largest > 0 ? 255.0f / largest : 0;
        w->fine |= sum * inverse[i] < 6.0f * (float)n; /* the mean weight is below 6 units */
    }
    for (int i = 0; i < R; i++) {
        uint32_t total[2] = {0, 0};
        for (int t = 0; t < mka_pad(n, MKA_TILE); t += 16) {
            uint32x4_t x[4];
            for (int k = 0; k < 4; k++)
                x[k] = vcvtnq_u32_f32(vmulq_n_f32(vld1q_f32(scaled[i] + t + 4 * k), w->fine ? inverse[i] * 256.0f : inverse[i]));
            uint8x16_t low = narrow(x, 0), high = w->fine ? narrow(x, 8) : low;
            vst1q_u8(w->high[i] + t, high);
            vst1q_u8(w->low[i] + t, low);
            total[0] += vaddlvq_u8(high);
            total[1] += vaddlvq_u8(low);
        }
        w->total[0][i] = (int32_t)total[0];
        w->total[1][i] = (int32_t)total[1];
    }
}

/* Weights times values of 8 bits. Without products of mixed signs weights are taken less 128, and `base` gets the sums of the
 * values, 128 times which is missing then. */
#ifdef __ARM_FEATURE_MATMUL_INT8
#define DOT_VALUE(acc, value, w, lane) vsudotq_laneq_s32(acc, value, w, lane)
#define SUM_VALUES(base, value)        (base)
INLINE uint8x16_t signed_weights(uint8x16_t w) {
    return w;
}
#else
#define DOT_VALUE(acc, value, w, lane) vdotq_laneq_s32(acc, value, w, lane)
#define SUM_VALUES(base, value)        vdotq_s32(base, value, vdupq_n_s8(1))
INLINE int8x16_t signed_weights(uint8x16_t w) {
    return vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(128)));
}
#endif

/* Sums over n tokens of one part of the weights (0: high, 1: low) for a block of 16 dimensions. nibble: which of 4 bits. */
INLINE void sum_block(int R, int bits, int nibble, int n, const weights *w, int part, const char *lines, ptrdiff_t tile,
                      int32x4_t (*sum)[QUARTERS]) {
    const uint8_t(*from)[SPAN] = part ? w->low : w->high;
    int32x4_t base[QUARTERS];
    for (int v = 0; v < QUARTERS; v++) base[v] = vdupq_n_s32(0);
    for (int i = 0; i < R; i++)
        for (int v = 0; v < QUARTERS; v++) sum[i][v] = vdupq_n_s32(bits == 4 ? -ZERO_4 * w->total[part][i] : 0);
    for (int t = 0; t < n; t += 16) { /* 16 tokens: 4 lines */
        const char *p = lines + t / MKA_TILE * tile + t % MKA_TILE / 4 * 64;
        uint8x16_t x[ROWS];
        for (int i = 0; i < R; i++) x[i] = vld1q_u8(from[i] + t);
        for (int k = 0; k < 4; k++) __builtin_prefetch(p + AHEAD + 64 * k);
#define MIX_QUAD(lane)                                                                                                           \
    for (int v = 0; v < QUARTERS; v++) {                                                                                         \
        uint8x16_t u = vld1q_u8((const uint8_t *)p + 64 * lane + 16 * v);                                                        \
        if (bits == 4) {                                                                                                         \
            u = nibble ? vshrq_n_u8(u, 4) : vandq_u8(u, vdupq_n_u8(15));                                                         \
            for (int i = 0; i < R; i++)                                                                                          \
                sum[i][v] = vreinterpretq_s32_u32(vdotq_laneq_u32(vreinterpretq_u32_s32(sum[i][v]), u, x[i], lane));             \
        } else {                                                                                                                 \
            int8x16_t value = vreinterpretq_s8_u8(u);                                                                            \
            base[v] = SUM_VALUES(base[v], value);                                                                                \
            for (int i = 0; i < R; i++) sum[i][v] = DOT_VALUE(sum[i][v], value, signed_weights(x[i]), lane);                     \
        }                                                                                                                        \
    }
        EACH_LANE(MIX_QUAD)
    }
    for (int i = 0; i < R; i++)
        for (int v = 0; v < QUARTERS; v++) sum[i][v] = vaddq_s32(sum[i][v], vshlq_n_s32(base[v], 7));
}

/* acc <- c acc + unit sum, for a block of which only `left` dimensions may exist. */
INLINE void add_block(int R, int d, int left, int32x4_t (*sum)[QUARTERS], const float *unit, float part, const float *c,
                      float *acc) {
    for (int i = 0; i < R; i++)
        for (int v = 0; v < QUARTERS && 4 * v < left; v++) {
            float *p = acc + (ptrdiff_t)i * d + 4 * v;
            float32x4_t old = vmulq_n_f32(load_some(p, left - 4 * v), c[i]);
            store_some(p, vfmaq_n_f32(old, vcvtq_f32_s32(sum[i][v]), unit[i] * part), left - 4 * v);
        }
}

INLINE void mix_block(int R, int bits, int nibble, int d, int n, const weights *w, const char *lines, ptrdiff_t tile, int left,
                      const float *c, float *acc) {
    static const float ones[ROWS] = {1, 1, 1, 1, 1};
    int32x4_t sum[ROWS][QUARTERS];
    sum_block(R, bits, nibble, n, w, 0, lines, tile, sum);
    add_block(R, d, left, sum, w->unit, 1.0f, c, acc);
    if (!w->fine) return;
    sum_block(R, bits, nibble, n, w, 1, lines, tile, sum);
    add_block(R, d, left, sum, w->unit, 1.0f / 256.0f, ones, acc);
}

INLINE void mix_rows(int R, int bits, int d, int n, const float *s, int lds, const char *values, const float *c, float *acc) {
    static const float ones[ROWS] = {1, 1, 1, 1, 1};
    weights w;
    ptrdiff_t tile = (ptrdiff_t)mka_value_tile_bytes(bits == 8 ? MKA_Q8_0 : MKA_Q4_0, d);
    ptrdiff_t scales = tile - (ptrdiff_t)(MKA_TILE * sizeof(float));
    for (int from = 0; from < n; from += SPAN, values += SPAN / MKA_TILE * tile) {
        int count = n - from < SPAN ? n - from : SPAN;
        const float *factor = from == 0 ? c : ones;
        round_weights(R, count, s + from, lds, values + scales, tile, &w);
        for (int e = 0; e < d; e += 16) {
            if (bits == 8)
                mix_block(R, 8, 0, d, count, &w, values + e / 16 * 512, tile, d - e, factor, acc + e);
            else if (e % 32 == 0)
                mix_block(R, 4, 0, d, count, &w, values + e / 32 * 512, tile, d - e, factor, acc + e);
            else
                mix_block(R, 4, 1, d, count, &w, values + e / 32 * 512, tile, d - e, factor, acc + e);
        }
    }
}

#define MIX_Q8(R, row) mix_rows(R, 8, d, n, s + (ptrdiff_t)(row)*lds, lds, values, c + (row), acc + (ptrdiff_t)(row)*d)
#define MIX_Q4(R, row) mix_rows(R, 4, d, n, s + (ptrdiff_t)(row)*lds, lds, values, c + (row), acc + (ptrdiff_t)(row)*d)
static void mix_q8(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    if (n > 0) ROW_PASSES(r, MIX_Q8)
}
static void mix_q4(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    if (n > 0) ROW_PASSES(r, MIX_Q4)
}

static void fill_quant_cache(mka_kernels *k) {
    k->score[MKA_Q8_0] = score_q8, k->mix[MKA_Q8_0] = mix_q8;
    k->score[MKA_Q4_0] = score_q4, k->mix[MKA_Q4_0] = mix_q4;
}
