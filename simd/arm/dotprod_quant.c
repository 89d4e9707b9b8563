/* dotprod_quant - products with quantised weights by the dot product instructions of AArch64, and the level's table.
 *
 * Four rows go together, each a lane of a vector: sums over a block are added across lanes only once, four rows at a time, and
 * from there on everything (the scales of blocks and of super-blocks, the conversion to float, the minima) is work of one
 * instruction for four rows. Scales of a super-block are gathered as words, one row a lane, so that taking byte i of each lane
 * is taking scale i of four rows.
 *
 * Weights below zero come from inserting ones above their bits, or the sums start at minus the offset times the activations.
 * Quantising and dequantising are NEON's. */
#include "arm/q_neon.h"
#include "levels.h"

#ifdef __clang__
#define Q_UNROLL16 _Pragma("unroll")
#else
#define Q_UNROLL16 _Pragma("GCC unroll 16")
#endif

enum { ROWS = 4 };

typedef struct {
    const char *row[ROWS];
    const char *next; /* the rows after them, which are asked for meanwhile */
} group;

#define BLOCK(type, r) ((const mka_block_##type *)(const void *)g->row[r] + b)

typedef int8x16x2_t weights; /* 32 of them */

Q_INLINE weights pair(uint8x16_t a, uint8x16_t b) {
    return (weights){{vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b)}};
}
Q_INLINE weights activations(const int8_t *q) {
    return (weights){{vld1q_s8(q), vld1q_s8(q + 16)}};
}
Q_INLINE int32x4_t dot32(int32x4_t start, weights w, weights x) {
    return vdotq_s32(vdotq_s32(start, w.val[0], x.val[0]), w.val[1], x.val[1]);
}
/* What sums start from so that each weight counts k more. */
Q_INLINE int32x4_t start_half(int k, int8x16_t x) {
    return k ? vdotq_s32(vdupq_n_s32(0), vdupq_n_s8((int8_t)k), x) : vdupq_n_s32(0);
}
Q_INLINE int32x4_t start32(int k, weights x) {
    return k ? vdotq_s32(start_half(k, x.val[0]), vdupq_n_s8((int8_t)k), x.val[1]) : vdupq_n_s32(0);
}
Q_INLINE int32x4_t across(const int32x4_t *s) {
    return vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3]));
}
Q_INLINE void ask_next(const group *g, int b, size_t bytes) {
    for (size_t i = 0; i < ROWS * bytes; i += 64) __builtin_prefetch(g->next + (size_t)b * ROWS * bytes + i);
}

/* ---- values of four rows, gathered ---- */

Q_INLINE float32x4_t to_float(uint16x4_t halves) {
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}
Q_INLINE uint16x4_t halves4(const void *a, const void *b, const void *c, const void *d) {
    uint16x4_t v = vld1_dup_u16(a);
    v = vld1_lane_u16(b, v, 1);
    v = vld1_lane_u16(c, v, 2);
    return vld1_lane_u16(d, v, 3);
}
Q_INLINE uint32x4_t words4(const void *a, const void *b, const void *c, const void *d) {
    uint32x4_t v = vld1q_dup_u32(a);
    v = vld1q_lane_u32(b, v, 1);
    v = vld1q_lane_u32(c, v, 2);
    return vld1q_lane_u32(d, v, 3);
}
Q_INLINE uint32x4x3_t triples4(const void *a, const void *b, const void *c, const void *d) {
    uint32x4x3_t v = vld3q_dup_u32(a);
    v = vld3q_lane_u32(b, v, 1);
    v = vld3q_lane_u32(c, v, 2);
    return vld3q_lane_u32(d, v, 3);
}
Q_INLINE uint32x4x4_t quads4(const void *a, const void *b, const void *c, const void *d) {
    uint32x4x4_t v = vld4q_dup_u32(a);
    v = vld4q_lane_u32(b, v, 1);
    v = vld4q_lane_u32(c, v, 2);
    return vld4q_lane_u32(d, v, 3);
}
#define GATHER(how, type, member)                                                                                                \
    how(&BLOCK(type, 0)->member, &BLOCK(type, 1)->member, &BLOCK(type, 2)->member, &BLOCK(type, 3)->member)

/* ---- 32-blocks ---- */

Q_INLINE weights nibbles(const uint8_t *q) {
    uint8x16_t v = vld1q_u8(q);
    return pair(vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8(v, 4));
}
/* Nibbles of row r with their fifth bits, minus 16: where the bit is missing, ones are inserted above the nibble. missing: the
 * fifth bits of four rows, a word each, inverted. */
Q_INLINE weights fifth_bits(const uint8_t *q, uint8x16_t missing, int r) {
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x8_t first = vdup_n_u8((uint8_t)(4 * r)), one = vdup_n_u8(1);
    uint8x16_t at = vcombine_u8(first, vadd_u8(first, one)), v = vld1q_u8(q), bit = vld1q_u8(bits);
    uint8x16_t a = vtstq_u8(vqtbl1q_u8(missing, at), bit);
    uint8x16_t b = vtstq_u8(vqtbl1q_u8(missing, vaddq_u8(at, vdupq_n_u8(2))), bit);
    return pair(vsliq_n_u8(v, a, 4), vsliq_n_u8(vshrq_n_u8(v, 4), b, 4));
}
Q_INLINE weights table(weights index) {
    int8x16_t values = vld1q_s8(mka_iq4_values);
    return (weights){
        {vqtbl1q_s8(values, vreinterpretq_u8_s8(index.val[0])), vqtbl1q_s8(values, vreinterpretq_u8_s8(index.val[1]))}};
}

/* One type of 32-blocks. MORE is what its weights are above what WEIGHTS gives; FIRST prepares something for all rows. */
#define BLOCK_GEMV(type, FIRST, WEIGHTS, MORE)                                                                                   \
    Q_INLINE float32x4_t rows_##type(int n, const group *g, const mka_q8_row *x) {                                               \
        float32x4_t acc = vdupq_n_f32(0);                                                                                        \
        for (int b = 0; b < n / 32; b++) {                                                                                       \
            weights q = activations(x->q + 32 * (size_t)b);                                                                      \
            int32x4_t start = start32(MORE, q), sum[ROWS];                                                                       \
            ask_next(g, b, sizeof(mka_block_##type));                                                                            \
            FIRST(type)                                                                                                          \
            for (int r = 0; r < ROWS; r++) sum[r] = dot32(start, WEIGHTS(type, r), q);                                           \
            float32x4_t scale = vmulq_n_f32(to_float(GATHER(halves4, type, d)), x->scale[b]);                                    \
            acc = vfmaq_f32(acc, vcvtq_f32_s32(across(sum)), scale);                                                             \
        }                                                                                                                        \
        return acc;                                                                                                              \
    }                                                                                                                            \
    ALL_ROWS(type)

/* The same with a minimum after the scale. */
#define BLOCK_GEMV_MIN(type, FIRST, WEIGHTS, MORE)                                                                               \
    Q_INLINE float32x4_t rows_##type(int n, const group *g, const mka_q8_row *x) {                                               \
        float32x4_t acc = vdupq_n_f32(0);                                                                                        \
        for (int b = 0; b < n / 32; b++) {                                                                                       \
            weights q = activations(x->q + 32 * (size_t)b);                                                                      \
            int32x4_t start = start32(MORE, q), sum[ROWS];                                                                       \
            ask_next(g, b, sizeof(mka_block_##type));                                                                            \
            FIRST(type)                                                                                                          \
            for (int r = 0; r < ROWS; r++) sum[r] = dot32(start, WEIGHTS(type, r), q);                                           \
            uint32x4_t both = GATHER(words4, type, d);                                                                           \
            float32x4_t scale = vmulq_n_f32(to_float(vmovn_u32(both)), x->scale[b]);                                             \
            float all = x->scale[b] * (float)(x->sum[2 * b] + x->sum[2 * b + 1]);                                                \
            acc = vfmaq_n_f32(acc, to_float(vshrn_n_u32(both, 16)), all);                                                        \
            acc = vfmaq_f32(acc, vcvtq_f32_s32(across(sum)), scale);                                                             \
        }                                                                                                                        \
        return acc;                                                                                                              \
    }                                                                                                                            \
    ALL_ROWS(type)

/* A last group of fewer than four rows takes its last row several times. */
#define ALL_ROWS(type)                                                                                                           \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const mka_q8_row *x, float *y) {                   \
        const char *p = w;                                                                                                       \
        for (int j = 0; j < rows; j += ROWS, p += ROWS * row_bytes) {                                                            \
            size_t count = rows - j < ROWS ? (size_t)(rows - j) : ROWS;                                                          \
            group g = {{p, NULL, NULL, NULL}, p + ROWS * row_bytes};                                                             \
            for (size_t r = 1; r < ROWS; r++) g.row[r] = p + (r < count ? r : count - 1) * row_bytes;                            \
            float all[ROWS];                                                                                                     \
            vst1q_f32(all, rows_##type(n, &g, x));                                                                               \
            memcpy(y + j, all, count * sizeof *y);                                                                               \
        }                                                                                                                        \
    }

#define NOTHING(type)
#define NIBBLES(type, r) nibbles(BLOCK(type, r)->q)
#define BYTES(type, r)   activations(BLOCK(type, r)->q)
#define TABLE(type, r)   table(nibbles(BLOCK(type, r)->q))
#define MISSING(type)    uint8x16_t missing = vmvnq_u8(vreinterpretq_u8_u32(GATHER(words4, type, h)));
#define FIVE(type, r)    fifth_bits(BLOCK(type, r)->q, missing, r)
BLOCK_GEMV(q4_0, NOTHING, NIBBLES, -8)
BLOCK_GEMV_MIN(q4_1, NOTHING, NIBBLES, 0)
BLOCK_GEMV(q5_0, MISSING, FIVE, 0)
BLOCK_GEMV_MIN(q5_1, MISSING, FIVE, 16)
BLOCK_GEMV(q8_0, NOTHING, BYTES, 0)
BLOCK_GEMV(iq4_nl, NOTHING, TABLE, 0)

/* ---- super-blocks: weights of sub-block j. Shifts are operators, as j is a constant only once the loop is unrolled. ---- */

Q_INLINE uint8x16_t two_bits(const uint8_t *q, int j) {
    uint8x16_t v = vld1q_u8(q + 32 * (j / 4)) >> 2 * (j % 4);
    return j % 4 == 3 ? v : vandq_u8(v, vdupq_n_u8(3));
}
Q_INLINE weights weights_q2_k(const mka_block_q2_k *b, int j) {
    return pair(two_bits(b->q, j), two_bits(b->q + 16, j));
}
/* Bit number `to` of each byte comes from bit j of h, the others from v. */
Q_INLINE uint8x16_t with_bit(uint8x16_t v, const uint8_t *h, int j, int to) {
    uint8x16_t from = vld1q_u8(h);
    return vbslq_u8(vdupq_n_u8((uint8_t)(1 << to)), j < to ? from << (to - j) : from >> (j - to), v);
}
Q_INLINE uint8x16_t three_bits(const uint8_t *q, const uint8_t *h, int j) {
    return with_bit(two_bits(q, j), h, j, 2);
}
Q_INLINE weights weights_q3_k(const mka_block_q3_k *b, int j) {
    return pair(three_bits(b->q, b->h, j), three_bits(b->q + 16, b->h + 16, j));
}
Q_INLINE uint8x16_t four_bits(const uint8_t *q, int j) {
    uint8x16_t v = vld1q_u8(q + 32 * (j / 2));
    return j % 2 ? v >> 4 : vandq_u8(v, vdupq_n_u8(15));
}
Q_INLINE weights weights_q4_k(const mka_block_q4_k *b, int j) {
    return pair(four_bits(b->q, j), four_bits(b->q + 16, j));
}
Q_INLINE uint8x16_t five_bits(const uint8_t *q, const uint8_t *h, int j) {
    return with_bit(four_bits(q, j), h, j, 4);
}
Q_INLINE weights weights_q5_k(const mka_block_q5_k *b, int j) {
    return pair(five_bits(b->q, b->h, j), five_bits(b->q + 16, b->h + 16, j));
}
/* The two upper bits go above a low nibble by insertion; above a high one, a mask takes them from where they are. */
Q_INLINE uint8x16_t six_bits(const uint8_t *l, const uint8_t *h, int j) {
    uint8x16_t low = vld1q_u8(l + 64 * (j / 4) + 32 * (j % 2)), high = vld1q_u8(h + 32 * (j / 4));
    if (j % 4 < 2) return vsliq_n_u8(low, vandq_u8(high >> 2 * (j % 4), vdupq_n_u8(3)), 4);
    return vbslq_u8(vdupq_n_u8(0x30), high >> 2 * (j % 4 - 2), low >> 4);
}
Q_INLINE weights weights_q6_k(const mka_block_q6_k *b, int j) {
    return pair(six_bits(b->l, b->h, j), six_bits(b->l + 16, b->h + 16, j));
}
Q_INLINE weights weights_iq4_xs(const mka_block_iq4_xs *b, int j) {
    return table(nibbles(b->q + 16 * j));
}

/* ---- super-blocks: scales and minima of four rows; word i holds numbers 4 i to 4 i + 3 of the row in its lane ---- */

typedef struct {
    uint32x4_t scale[4], min[4];
} words;

Q_INLINE uint32x4_t each(uint32_t k) {
    return vdupq_n_u32(k);
}
Q_INLINE uint32x4_t unsigned_byte(const uint32x4_t *v, int i) {
    uint32x4_t right = v[i / 4] >> 8 * (i % 4);
    return i % 4 == 3 ? right : vandq_u32(right, each(255));
}
Q_INLINE int32x4_t signed_byte(const uint32x4_t *v, int i) {
    return vreinterpretq_s32_u32(v[i / 4] << 8 * (3 - i % 4)) >> 24;
}
Q_INLINE int32x4_t unsigned_scale(const words *s, int i) {
    return vreinterpretq_s32_u32(unsigned_byte(s->scale, i));
}
Q_INLINE int32x4_t signed_scale(const words *s, int i) {
    return signed_byte(s->scale, i);
}

Q_INLINE words words_q2_k(const group *g, int b) {
    uint32x4x4_t v = GATHER(quads4, q2_k, scales);
    words s;
    for (int i = 0; i < 4; i++) {
        s.scale[i] = vandq_u32(v.val[i], each(0x0f0f0f0f));
        s.min[i] = vreinterpretq_u32_u8(vshrq_n_u8(vreinterpretq_u8_u32(v.val[i]), 4));
    }
    return s;
}
/* Bits 4 and 5 of each byte come from b, the others from a. */
Q_INLINE uint32x4_t upper_two(uint32x4_t a, uint32x4_t b) {
    return vbslq_u32(each(0x30303030), b, a);
}
Q_INLINE words words_q3_k(const group *g, int b) {
    uint32x4x3_t v = GATHER(triples4, q3_k, scales);
    uint32x4_t low = each(0x0f0f0f0f), h = v.val[2];
    words s = {{upper_two(v.val[0] & low, h << 4), upper_two(v.val[1] & low, h << 2), upper_two(v.val[0] >> 4 & low, h),
                upper_two(v.val[1] >> 4 & low, h >> 2)},
               {each(0), each(0), each(0), each(0)}};
    for (int i = 0; i < 4; i++) s.scale[i] = vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(s.scale[i]), vdupq_n_u8(32)));
    return s;
}
Q_INLINE words six_bit_words(uint32x4x3_t v) {
    uint32x4_t low = each(0x0f0f0f0f), six = each(0x3f3f3f3f), none = each(0);
    return (words){{v.val[0] & six, upper_two(v.val[2] & low, v.val[0] >> 2), none, none},
                   {v.val[1] & six, upper_two(v.val[2] >> 4 & low, v.val[1] >> 2), none, none}};
}
Q_INLINE words words_q4_k(const group *g, int b) {
    return six_bit_words(GATHER(triples4, q4_k, scales));
}
Q_INLINE words words_q5_k(const group *g, int b) {
    return six_bit_words(GATHER(triples4, q5_k, scales));
}
Q_INLINE words words_q6_k(const group *g, int b) {
    uint32x4x4_t v = GATHER(quads4, q6_k, scales);
    return (words){{v.val[0], v.val[1], v.val[2], v.val[3]}, {each(0), each(0), each(0), each(0)}};
}
/* Four bits of each scale in the first word, two in the second. */
Q_INLINE words words_iq4_xs(const group *g, int b) {
    return (words){{GATHER(words4, iq4_xs, scales_l), vmovl_u16(GATHER(halves4, iq4_xs, scales_h)), each(0), each(0)},
                   {each(0), each(0), each(0), each(0)}};
}
Q_INLINE int32x4_t split_scale(const words *s, int j) {
    uint32x4_t low = s->scale[0] >> 4 * j, high = j < 2 ? s->scale[1] << (4 - 2 * j) : s->scale[1] >> (2 * j - 4);
    if (j < 7) low = vandq_u32(low, each(15));
    return vsubq_s32(vreinterpretq_s32_u32(vbslq_u32(each(0x30), high, low)), vdupq_n_s32(32));
}

/* ---- super-blocks: products ---- */

/* Sub-block j of four rows, one scale for its 32 weights or (two) one for each half. */
#define SUPER_ONE(type, SCALE, MORE)                                                                                             \
    Q_INLINE int32x4_t sub_##type(const group *g, int b, int j, const words *s, weights q) {                                     \
        int32x4_t start = start32(MORE, q), sum[ROWS];                                                                           \
        for (int r = 0; r < ROWS; r++) sum[r] = dot32(start, weights_##type(BLOCK(type, r), j), q);                              \
        return vmulq_s32(across(sum), SCALE(s, j));                                                                              \
    }
#define SUPER_TWO(type, SCALE, MORE)                                                                                             \
    Q_INLINE int32x4_t sub_##type(const group *g, int b, int j, const words *s, weights q) {                                     \
        int32x4_t start[2] = {start_half(MORE, q.val[0]), start_half(MORE, q.val[1])}, low[ROWS], high[ROWS];                    \
        for (int r = 0; r < ROWS; r++) {                                                                                         \
            weights w = weights_##type(BLOCK(type, r), j);                                                                       \
            low[r] = vdotq_s32(start[0], w.val[0], q.val[0]);                                                                    \
            high[r] = vdotq_s32(start[1], w.val[1], q.val[1]);                                                                   \
        }                                                                                                                        \
        return vmlaq_s32(vmulq_s32(across(low), SCALE(s, 2 * j)), across(high), SCALE(s, 2 * j + 1));                            \
    }

#define SUPER_GEMV(type, MINS)                                                                                                   \
    Q_INLINE float32x4_t rows_##type(int n, const group *g, const mka_q8_row *x) {                                               \
        float32x4_t acc = vdupq_n_f32(0);                                                                                        \
        for (int b = 0; b < n / 256; b++) {                                                                                      \
            const float *scale = x->scale + 8 * (size_t)b;                                                                       \
            const int16_t *sums = x->sum + 16 * (size_t)b;                                                                       \
            words s = words_##type(g, b);                                                                                        \
            float32x4_t whole = vdupq_n_f32(0);                                                                                  \
            (void)sums;                                                                                                          \
            ask_next(g, b, sizeof(mka_block_##type));                                                                            \
            Q_UNROLL8 for (int j = 0; j < 8; j++) {                                                                              \
                weights q = activations(x->q + 256 * (size_t)b + 32 * j);                                                        \
                whole = vfmaq_n_f32(whole, vcvtq_f32_s32(sub_##type(g, b, j, &s, q)), scale[j]);                                 \
            }                                                                                                                    \
            MINS(type)                                                                                                           \
        }                                                                                                                        \
        return acc;                                                                                                              \
    }                                                                                                                            \
    ALL_ROWS(type)

/* The sum over `count` minima (8, or 16 of half a sub-block each) times the activations under them. */
Q_INLINE float32x4_t minima(int count, const words *s, const int16_t *sums, const float *scale) {
    float32x4_t total = vdupq_n_f32(0);
    float under[16];
    for (int i = 0; i < 4; i++) {
        if (count == 8 && i % 2) continue;
        int16x8_t part = vld1q_s16(sums + 8 * (i / 2));
        float32x4_t two = vld1q_f32(scale + 4 * (i / 2));
        int32x4_t wide = count == 8 ? vpaddlq_s16(part) : vmovl_s16(i % 2 ? vget_high_s16(part) : vget_low_s16(part));
        if (count == 16) two = i % 2 ? vzip2q_f32(two, two) : vzip1q_f32(two, two);
        vst1q_f32(under + 4 * (count == 8 ? i / 2 : i), vmulq_f32(vcvtq_f32_s32(wide), two));
    }
    Q_UNROLL16 for (int i = 0; i < count; i++) total = vfmaq_n_f32(total, vcvtq_f32_u32(unsigned_byte(s->min, i)), under[i]);
    return total;
}

#define NO_MINS(type) acc = vfmaq_f32(acc, whole, to_float(GATHER(halves4, type, d)));
#define WITH_MINS(type, count)                                                                                                   \
    uint32x4_t both = GATHER(words4, type, d);                                                                                   \
    acc = vfmaq_f32(acc, whole, to_float(vmovn_u32(both)));                                                                      \
    acc = vfmsq_f32(acc, minima(count, &s, sums, scale), to_float(vshrn_n_u32(both, 16)));
#define MINS_8(type)  WITH_MINS(type, 8)
#define MINS_16(type) WITH_MINS(type, 16)

SUPER_TWO(q2_k, unsigned_scale, 0)
SUPER_TWO(q3_k, signed_scale, -4)
SUPER_ONE(q4_k, unsigned_scale, 0)
SUPER_ONE(q5_k, unsigned_scale, 0)
SUPER_TWO(q6_k, signed_scale, -32)
SUPER_ONE(iq4_xs, split_scale, 0)
SUPER_GEMV(q2_k, MINS_16)
SUPER_GEMV(q3_k, NO_MINS)
SUPER_GEMV(q4_k, MINS_8)
SUPER_GEMV(q5_k, MINS_8)
SUPER_GEMV(q6_k, NO_MINS)
SUPER_GEMV(iq4_xs, NO_MINS)

void mka_dotprod_fill_cache(mka_kernels *k);

void mka_dotprod_fill(mka_kernels *k) {
    mka_dotprod_fill_cache(k);
    k->gemv_q8[MKA_Q4_0] = gemv_q4_0;
    k->gemv_q8[MKA_Q4_1] = gemv_q4_1;
    k->gemv_q8[MKA_Q5_0] = gemv_q5_0;
    k->gemv_q8[MKA_Q5_1] = gemv_q5_1;
    k->gemv_q8[MKA_Q8_0] = gemv_q8_0;
    k->gemv_q8[MKA_IQ4_NL] = gemv_iq4_nl;
    k->gemv_q8[MKA_Q2_K] = gemv_q2_k;
    k->gemv_q8[MKA_Q3_K] = gemv_q3_k;
    k->gemv_q8[MKA_Q4_K] = gemv_q4_k;
    k->gemv_q8[MKA_Q5_K] = gemv_q5_k;
    k->gemv_q8[MKA_Q6_K] = gemv_q6_k;
    k->gemv_q8[MKA_IQ4_XS] = gemv_iq4_xs;
}
