/* avx512vnni_quant - products with quantised weights on AVX-512 with VNNI and BF16, and the level's table.
 *
 * The instruction multiplies unsigned with signed bytes and adds four products: weights are taken as unsigned, OFFSET above what
 * they stand for, and the sums begin at -OFFSET times the activations, which costs nothing. Four blocks of nibbles fill a
 * register, so that one mask and one shift unpack 128 weights; their activations are brought into the same order for all rows.
 * Dequantising and quantising are AVX2's. */
#include "levels.h"
#include "x86/q_avx512.h"

#include "tmpl/quant_scales.h"

/* Memory gives the most to a thread that reads it from one end to the other and asks for lines some way ahead: rows side by side
 * got 60 to 85 % of that. So rows come one after the other, and what all of them need of the activations is made once for GROUP
 * rows, CHUNK elements at a time so that it stays in the first-level cache. */
enum { GROUP = 64, CHUNK = 5120 };

typedef struct {
    qf2 acc, minima;
} row_sum;

/* One type: make_##type makes what is needed of up to `width` activations, and one_##type adds that many elements of a row,
 * blocks of `block`, to its sum. */
#define GEMV(type, step, width, block, TOTAL)                                                                                    \
    Q_INLINE row_sum row_##type(int blocks, const mka_block_##type *b, const step *s, row_sum t) {                               \
        enum { EACH = (width) / (block) };                                                                                       \
        for (; blocks >= EACH; blocks -= EACH, b += EACH, s++) {                                                                 \
            ahead(b, EACH * sizeof *b);                                                                                          \
            t = one_##type(EACH, b, s, t);                                                                                       \
        }                                                                                                                        \
        return blocks > 0 ? one_##type(blocks, b, s, t) : t;                                                                     \
    }                                                                                                                            \
    static void group_##type(int rows, int n, const char *w, size_t row_bytes, const mka_q8_row *x, float *y) {                  \
        step steps[CHUNK / (width)];                                                                                             \
        row_sum sums[GROUP];                                                                                                     \
        for (int r = 0; r < rows; r++) sums[r].acc = sums[r].minima = _mm512_setzero_ps();                                       \
        for (int first = 0; first < n; first += CHUNK, w += CHUNK / (block) * sizeof(mka_block_##type)) {                        \
            int count = n - first < CHUNK ? n - first : CHUNK;                                                                   \
            for (int i = 0; i < count; i += (width))                                                                             \
                steps[i / (width)] = make_##type(x, (first + i) / 32, count - i < (width) ? (count - i) / 32 : (width) / 32);    \
            for (int r = 0; r < rows; r++)                                                                                       \
                sums[r] = row_##type(count / (block), (const void *)(w + (size_t)r * row_bytes), steps, sums[r]);                \
        }                                                                                                                        \
        for (int r = 0; r < rows; r++) y[r] = TOTAL(sums[r]);                                                                    \
    }                                                                                                                            \
    static void gemv_##type(int rows, int n, const void *w, size_t row_bytes, const mka_q8_row *x, float *y) {                   \
        const char *from = w;                                                                                                    \
        for (int r = 0; r < rows; r += GROUP)                                                                                    \
            group_##type(rows - r < GROUP ? rows - r : GROUP, n, from + (size_t)r * row_bytes, row_bytes, x, y + r);             \
    }

#define SUM(t)       total2((t).acc)
#define SUM_PAIRS(t) total2(_mm512_fmadd_ps((t).minima, ODD_HALVES, (t).acc))
#define ODD_HALVES   _mm512_castsi512_ps(_mm512_set1_epi64(0x3f00000000000000))

/* Asks for about as many lines as `bytes` are; the hardware knows the few between them. */
Q_INLINE void ahead(const void *p, size_t bytes) {
    for (size_t i = 0; i + 32 < bytes; i += 64) _mm_prefetch((const char *)p + AHEAD + i, _MM_HINT_T0);
}

/* init + products of unsigned w and signed x, four added into each sum. */
Q_INLINE q64 dot2(q64 init, q64 w, q64 x) {
    return _mm512_dpbusd_epi32(init, w, x);
}
Q_INLINE q64 minus_offset(int offset, q64 x) {
    return offset ? _mm512_sub_epi32(_mm512_setzero_si512(), dot2(_mm512_setzero_si512(), _mm512_set1_epi8((char)offset), x))
                  : _mm512_setzero_si512();
}
Q_INLINE q64 high4(q64 v) {
    return low4(_mm512_srli_epi16(v, 4));
}
/* What 4-bit indices of iq4 stand for, plus 128. */
Q_INLINE q64 table_above(q64 v) {
    const __m128i table = _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), v);
}

/* ---- blocks of 32, four at a time: block b has lane b, its first 16 elements in `low` and the others in `high` ---- */

/* What all rows need of four blocks' activations; where fewer are left, zeros stand for the others. */
typedef struct {
    q64 low, high, init;
    __m512 scale; /* over each block's lane */
    __m512 pair;  /* scale, and scale times the sum of the activations, in turn */
} quad;

Q_INLINE __m512 lanes4(__m128 v) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), _mm512_castps128_ps512(v));
}

Q_INLINE quad make_quad(const mka_q8_row *x, int i, int count, int offset) {
    const int8_t *q = x->q + 32 * (size_t)i;
    __mmask16 a = count >= 2 ? 0xffff : 0x00ff, b = count >= 4 ? 0xffff : count == 3 ? 0x00ff : 0;
    __m512i first = _mm512_maskz_loadu_epi32(a, q), second = _mm512_maskz_loadu_epi32(b, q + 64);
    __mmask8 blocks = (__mmask8)((1u << count) - 1u);
    __m128 scale = _mm_maskz_loadu_ps(blocks, x->scale + i);
    __m128i sums = _mm_madd_epi16(_mm_maskz_loadu_epi32(blocks, x->sum + 2 * i), _mm_set1_epi16(1));
    quad k = {.low = _mm512_shuffle_i32x4(first, second, 0x88), .high = _mm512_shuffle_i32x4(first, second, 0xdd)};
    k.init = offset ? _mm512_add_epi32(minus_offset(offset, k.low), minus_offset(offset, k.high)) : _mm512_setzero_si512();
    k.scale = lanes4(scale);
    k.pair = _mm512_mask_mul_ps(k.scale, 0xaaaa, k.scale, lanes4(_mm_cvtepi32_ps(sums)));
    return k;
}

/* 16 bytes of each of `count` blocks, `size` bytes apart. */
Q_INLINE q64 lanes_of(const void *p, size_t size, int count) {
    const char *c = p;
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)c));
    if (count > 1) v = _mm512_mask_broadcast_i32x4(v, 0x00f0, _mm_loadu_si128((const void *)(c + size)));
    if (count > 2) v = _mm512_mask_broadcast_i32x4(v, 0x0f00, _mm_loadu_si128((const void *)(c + 2 * size)));
    if (count > 3) v = _mm512_mask_broadcast_i32x4(v, 0xf000, _mm_loadu_si128((const void *)(c + 3 * size)));
    return v;
}

/* The half float at the beginning of each block over its lane; those of `pairs`, this one and the next in turn. A fourth block
 * may begin beyond the 64 bytes of one load. */
Q_INLINE __m512 halves_of(const void *p, int words, int pairs, int count) {
    const int step = pairs ? 1 : 0, far = 3 * words + step > 31 ? 0 : 3 * words;
    const __m512i index = _mm512_castsi256_si512(
        _mm256_setr_epi16(0, (short)step, 0, (short)step, (short)words, (short)(words + step), (short)words,
                          (short)(words + step), (short)(2 * words), (short)(2 * words + step), (short)(2 * words),
                          (short)(2 * words + step), (short)far, (short)(far + step), (short)far, (short)(far + step)));
    __m256i h = _mm512_castsi512_si256(_mm512_permutexvar_epi16(
        index, _mm512_maskz_loadu_epi16(count * words >= 32 ? UINT32_MAX : (1u << count * words) - 1u, p)));
    if (!far && count == 4) {
        int32_t last;
        memcpy(&last, (const char *)p + 6 * words, sizeof last);
        h = pairs ? _mm256_mask_set1_epi32(h, 0xc0, last) : _mm256_mask_set1_epi16(h, 0xf000, (short)last);
    }
    return _mm512_cvtph_ps(h);
}

/* Fifth bits of four blocks, as 16 where they are set: those of elements 0..15 or 16..31. */
Q_INLINE q64 fifth(const void *p, size_t size, int count, int half) {
    const char *c = p;
    uint64_t bits = 0;
    for (int b = 0; b < count; b++) bits |= (uint64_t)load_u16(c + size * (size_t)b + 2 * half) << 16 * b;
    return _mm512_maskz_set1_epi8(bits, 16);
}

#define NIBBLE_LOW(type)  low4(v)
#define NIBBLE_HIGH(type) high4(v)
#define FIVE_LOW(type)    _mm512_or_si512(low4(v), fifth(b->h, sizeof *b, count, 0))
#define FIVE_HIGH(type)   _mm512_or_si512(high4(v), fifth(b->h, sizeof *b, count, 1))
#define TABLE_LOW(type)   table_above(low4(v))
#define TABLE_HIGH(type)  table_above(high4(v))

#define NIBBLE_SUM(type, FORM)                                                                                                   \
    q64 v = lanes_of(b->q, sizeof *b, count);                                                                                    \
    __m512 sum = _mm512_cvtepi32_ps(dot2(dot2(k->init, FORM##_LOW(type), k->low), FORM##_HIGH(type), k->high));

/* d (q - OFFSET) */
#define BLOCK_GEMV(type, FORM, OFFSET)                                                                                           \
    Q_INLINE quad make_##type(const mka_q8_row *x, int i, int count) {                                                           \
        return make_quad(x, i, count, OFFSET);                                                                                   \
    }                                                                                                                            \
    Q_INLINE row_sum one_##type(int count, const mka_block_##type *b, const quad *k, row_sum t) {                                \
        NIBBLE_SUM(type, FORM)                                                                                                   \
        __m512 d = halves_of(b, sizeof *b / 2, 0, count);                                                                        \
        t.acc = _mm512_fmadd_ps(sum, _mm512_mul_ps(d, k->scale), t.acc);                                                         \
        return t;                                                                                                                \
    }                                                                                                                            \
    GEMV(type, quad, 128, 32, SUM)

/* d q + m: minima collects each block's minimum twice, in odd lanes. */
#define BLOCK_GEMV_MIN(type, FORM)                                                                                               \
    Q_INLINE quad make_##type(const mka_q8_row *x, int i, int count) {                                                           \
        return make_quad(x, i, count, 0);                                                                                        \
    }                                                                                                                            \
    Q_INLINE row_sum one_##type(int count, const mka_block_##type *b, const quad *k, row_sum t) {                                \
        NIBBLE_SUM(type, FORM)                                                                                                   \
        __m512 both = _mm512_mul_ps(halves_of(b, sizeof *b / 2, 1, count), k->pair);                                             \
        t.minima = _mm512_add_ps(t.minima, both);                                                                                \
        t.acc = _mm512_fmadd_ps(sum, _mm512_moveldup_ps(both), t.acc);                                                           \
        return t;                                                                                                                \
    }                                                                                                                            \
    GEMV(type, quad, 128, 32, SUM_PAIRS)

BLOCK_GEMV(q4_0, NIBBLE, 8)
BLOCK_GEMV_MIN(q4_1, NIBBLE)
BLOCK_GEMV(q5_0, FIVE, 16)
BLOCK_GEMV_MIN(q5_1, FIVE)
BLOCK_GEMV(iq4_nl, TABLE, 128)

/* Bytes, two blocks at a time, each over its half. */
typedef struct {
    q64 q, init;
    __m512 scale;
} two;

Q_INLINE two make_q8_0(const mka_q8_row *x, int i, int count) {
    q64 q = activations2(x, i, count);
    return (two){q, minus_offset(128, q), floats2(x->scale[i], count == 2 ? x->scale[i + 1] : 0)};
}
Q_INLINE row_sum one_q8_0(int count, const mka_block_q8_0 *a, const two *k, row_sum t) {
    const mka_block_q8_0 *b = a + count - 1;
    const __m512i index = _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 0, 0, 0, 0, 0, 0, 17, 17, 17, 17, 17, 17, 17, 17));
    q64 v = _mm512_xor_si512(bytes2(a->q, b->q), _mm512_set1_epi8((char)128));
    __m512 sum = _mm512_cvtepi32_ps(dot2(k->init, v, k->q));
    __m512i row = _mm512_maskz_loadu_epi16(count == 2 ? 0xffffffffu : 1u, a);
    __m512 d = _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(index, row)));
    t.acc = _mm512_fmadd_ps(sum, _mm512_mul_ps(d, k->scale), t.acc);
    return t;
}
GEMV(q8_0, two, 64, 32, SUM)

/* ---- super-blocks: four registers of two sub-blocks each, in an order ORDER(j, half) of the type ---- */

#define NATURAL(j, half) (2 * (j) + (half))
/* Bytes whose nibbles are two sub-blocks: low ones of 64 bytes are sub-blocks 0 and 2, high ones 1 and 3. */
#define SPLIT(j, half) (4 * ((j) / 2) + (j) % 2 + 2 * (half))

/* One scale for each 16 elements, which are four sums: number s of the 16, spread as sub-blocks a and b need it. */
Q_INLINE __m512 spread_scales(__m512 scales, int a, int b) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(2 * a, 2 * a, 2 * a, 2 * a, 2 * a + 1, 2 * a + 1, 2 * a + 1, 2 * a + 1, 2 * b,
                                                   2 * b, 2 * b, 2 * b, 2 * b + 1, 2 * b + 1, 2 * b + 1, 2 * b + 1),
                                 scales);
}

typedef struct {
    q64 q[4], init[4];
    __m512 x_scale;
    float scale[8]; /* of the eight blocks of activations, each once */
    int16_t sums[16];
} super;

#define SUPER_GEMV(type, WEIGHTS, ORDER, OFFSET, MINS)                                                                           \
    Q_INLINE super make_##type(const mka_q8_row *x, int i, int count) {                                                          \
        const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);                                 \
        super k;                                                                                                                 \
        (void)count;                                                                                                             \
        memcpy(k.scale, x->scale + i, sizeof k.scale);                                                                           \
        memcpy(k.sums, x->sum + 2 * (size_t)i, sizeof k.sums);                                                                   \
        k.x_scale = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(k.scale)));                              \
        Q_UNROLL8 for (int j = 0; j < 4; j++) {                                                                                  \
            const int8_t *at = x->q + 32 * (size_t)i;                                                                            \
            k.q[j] = bytes2(at + 32 * ORDER(j, 0), at + 32 * ORDER(j, 1));                                                       \
            k.init[j] = minus_offset(OFFSET, k.q[j]);                                                                            \
        }                                                                                                                        \
        return k;                                                                                                                \
    }                                                                                                                            \
    Q_INLINE row_sum one_##type(int count, const mka_block_##type *b, const super *k, row_sum t) {                               \
        __m512 scales = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales_##type(b))), k->x_scale);                   \
        qf2 whole = _mm512_setzero_ps();                                                                                         \
        (void)count;                                                                                                             \
        Q_UNROLL8 for (int j = 0; j < 4; j++) {                                                                                  \
            __m512 sum = _mm512_cvtepi32_ps(dot2(k->init[j], WEIGHTS, k->q[j]));                                                 \
            whole = _mm512_fmadd_ps(sum, spread_scales(scales, ORDER(j, 0), ORDER(j, 1)), whole);                                \
        }                                                                                                                        \
        t.acc = _mm512_fmadd_ps(whole, _mm512_set1_ps(f16_to_f32_fast(&b->d)), t.acc);                                           \
        MINS(type)                                                                                                               \
        return t;                                                                                                                \
    }                                                                                                                            \
    GEMV(type, super, 256, 256, SUM)
#define NO_MINS(type)
#define WITH_MINS(type) t.acc = min_mac2(t.acc, mins_##type(b), k->sums, k->scale, -f16_to_f32_fast(&b->dmin));

/* Nibbles of 64 bytes, low ones for even j. */
Q_INLINE q64 split64(const void *p, int j) {
    __m512i v = _mm512_loadu_si512(p);
    return j % 2 ? high4(v) : low4(v);
}
/* Adds k where bit `bit` (first half) or `bit + 2` (second half) of the 32 bytes is set. */
Q_INLINE q64 add_bits_split(q64 v, const void *p, int bit, int k) {
    __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256(p));
    __mmask64 set = _mm512_test_epi8_mask(both, halves2((char)(1 << bit), (char)(4 << bit)));
    return _mm512_mask_add_epi8(v, set, v, _mm512_set1_epi8((char)k));
}
/* Six bits: four in the low or high nibbles of 64 bytes, two among 32 bytes of pairs. */
Q_INLINE q64 six_bits(const mka_block_q6_k *b, int j) {
    __m512i high = pairs2(b->h + 32 * (j / 2), 4 * (j % 2));
    return _mm512_or_si512(split64(b->l + 64 * (j / 2), j), _mm512_slli_epi16(high, 4));
}

SUPER_GEMV(q2_k, pairs2(b->q + 32 * (j / 2), 4 * (j % 2)), NATURAL, 0, WITH_MINS)
SUPER_GEMV(q3_k, add_bits2(pairs2(b->q + 32 * (j / 2), 4 * (j % 2)), b->h, 2 * j, 4), NATURAL, 4, NO_MINS)
SUPER_GEMV(q4_k, split64(b->q + 64 * (j / 2), j), SPLIT, 0, WITH_MINS)
SUPER_GEMV(q5_k, add_bits_split(split64(b->q + 64 * (j / 2), j), b->h, 4 * (j / 2) + j % 2, 16), SPLIT, 0, WITH_MINS)
SUPER_GEMV(q6_k, six_bits(b, j), NATURAL, 32, NO_MINS)
SUPER_GEMV(iq4_xs, table_above(spread_nibbles2(_mm256_loadu_si256((const void *)(b->q + 32 * j)))), NATURAL, 128, NO_MINS)

void mka_avx512vnni_fill_cache(mka_kernels *k);
void mka_avx512vnni_fill_recall(mka_kernels *k);
void mka_avx512vnni_fill_gemm(mka_kernels *k);

void mka_avx512vnni_fill(mka_kernels *k) {
    mka_avx512vnni_fill_cache(k);
    mka_avx512vnni_fill_recall(k);
    mka_avx512vnni_fill_gemm(k);
#define FILL(TYPE, type) k->gemv_q8[MKA_##TYPE] = gemv_##type
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
