/* attend_rows, NVIDIA - what a lane holds of a cache's rows, and how it gets there.
 *
 * Owns the layout: keys and values go from memory to registers once, 16 bytes a load where the row allows, and from there to the
 * matrix unit (attend_products). The sum over dims of the first product may run in any order, and so may the rows of O^T: they
 * are numbered such that a lane's part of a row is consecutive memory. A lane of a warp is g = lane / 4, t = lane % 4.
 *
 * Build options: KEY_DIM = VALUE_DIM, a multiple of 16 up to 256 (of 64 for q4); KEY_TYPE = VALUE_TYPE 1 (f16), 30 (bf16), 8 (q8)
 * or 2 (q4); GROUP query heads a key/value head; N query tokens, N GROUP <= 16; GAP: tokens from gap_from on lie gap rows further
 * on; WARPS (even) a group. Cache: rows of KEY_DIM numbers, padded to 32 for codes; q4 byte b of a group of 32: number b in the
 * low nibble, b + 16 in the high one. */
#if !defined(CHAIN) || defined(KEY_TYPE)      /* a chain may be without attention */
#if defined(CHAIN) && defined(UNIT_FUNCTIONS) /* what came before multiplied weights */
#undef multiply
#undef pair
#if KEY_TYPE == 30
#define multiply multiply_bf16
#define pair     pair_bf16
#else
#define multiply multiply_f16
#define pair     pair_f16
#endif
#endif
#ifndef N
#define N 1
#endif
#ifndef WARPS
#define WARPS 8
#endif
#define R (N * GROUP)
#if KEY_DIM % 16 || KEY_DIM > 256 || KEY_DIM != VALUE_DIM || KEY_TYPE != VALUE_TYPE || R > 16
#error "not a shape of this kernel"
#endif

#if KEY_TYPE == 8 || KEY_TYPE == 2
#define QUANT  1
#define D      ((KEY_DIM + 31) / 32 * 32) /* numbers of a row */
#define GROUPS (D / 32)
#else
#define D KEY_DIM
#endif
#if KEY_TYPE == 2 && D % 64
#error "rows of q4 are of whole groups of 64"
#endif

#define LOG2E 1.44269504f
#define NT    ((R + 7) / 8) /* tiles of 8 queries */
#define MT    (D / 16)      /* tiles of 16 dimensions */

/* Bytes of a row, and how a lane's loads cut it: of a key, quad lane t has KEY_LOAD bytes at t * KEY_LOAD of every KEY_LOAD * 4;
 * of a value, lane g of 8 has VALUE_LOAD bytes at g * VALUE_LOAD of every VALUE_LOAD * 8. */
#if KEY_TYPE == 8
#define ROW_BYTES D
#define KEY_LOAD  8
#elif KEY_TYPE == 2
#define ROW_BYTES (D / 2)
#define KEY_LOAD  (D % 128 ? 8 : 16)
#else
#define ROW_BYTES (D * 2)
#define KEY_LOAD  (D % 32 ? 8 : 16)
#endif
#define VALUE_LOAD  (ROW_BYTES % 128 == 0 ? 16 : ROW_BYTES % 64 == 0 ? 8 : 4)
#define KEY_WORDS   (ROW_BYTES / 16) /* 32-bit words a lane has of a row, of both */
#define VALUE_WORDS (ROW_BYTES / 32)

/* What a lane has of 16 tokens: keys g and g + 8, values 2t, 2t + 1, 2t + 8, 2t + 9. Scales are per group of 32 for q8 keys, two
 * halves a word where a row's can be paired; per load for q4 keys; and one a token for values. */
#define KEY_LOADS (ROW_BYTES / 4 / KEY_LOAD)
#if KEY_TYPE == 8
#define PAIRED      (GROUPS % 2 ? 1 : 2)
#define SCALE_WORDS (GROUPS / PAIRED)
#define SCALE_LOAD  (GROUPS % 8 == 0 ? 16 : GROUPS % 4 == 0 ? 8 : 4)
#endif
typedef struct {
    uint row[2][KEY_WORDS];
#if KEY_TYPE == 8
    uint scale[2][SCALE_WORDS];
#elif KEY_TYPE == 2
    float scale[2][KEY_LOADS];
#endif
} key_part;
typedef struct {
    uint row[4][VALUE_WORDS];
#ifdef QUANT
    float scale[2]; /* of tokens g and g + 8, where weights are multiplied with them */
#endif
} value_part;

#ifdef GAP
#define ROW_OF(token) ((token) + ((token) >= gap.x ? gap.y : 0))
#define GAP_ARGUMENT  , uint2 gap
#define GAP_PASSED    , (uint2)(gap_from, gap_rows)
#define GAP_HANDED    , gap
#else
#define ROW_OF(token) (token)
#define GAP_ARGUMENT
#define GAP_PASSED
#define GAP_HANDED
#endif

static inline void load_keys(global const uchar *keys, global const half *scales, uint first, uint last,
                             key_part *k GAP_ARGUMENT) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint token = ROW_OF(min(first + g + 8 * i, last));
        global const uchar *at = keys + (size_t)token * ROW_BYTES + t * KEY_LOAD;
#pragma unroll
        for (int j = 0; j < KEY_LOADS; j++) load(at + j * 4 * KEY_LOAD, KEY_LOAD, k->row[i] + j * KEY_LOAD / 4);
#if KEY_TYPE == 8
        global const uchar *scale = (global const uchar *)(scales + (size_t)token * GROUPS);
#pragma unroll
        for (int j = 0; j < SCALE_WORDS; j += PAIRED == 2 ? SCALE_LOAD / 4 : 1)
            if (PAIRED == 2)
                load(scale + 4 * j, SCALE_LOAD, k->scale[i] + j);
            else
                k->scale[i][j] = ((global const ushort *)scale)[j];
#elif KEY_TYPE == 2
#pragma unroll
        for (int j = 0; j < KEY_LOADS; j++) /* a load is within a group, or the quad's loads are one */
            k->scale[i][j] = vload_half((size_t)token * GROUPS + (j * 4 + t) * KEY_LOAD / 16, scales);
#endif
    }
}

static inline void load_values(global const uchar *values, global const float *scales, uint first, uint last,
                               value_part *v GAP_ARGUMENT) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint token = ROW_OF(min(first + 2 * t + i % 2 + 8 * (i / 2), last));
        global const uchar *at = values + (size_t)token * ROW_BYTES + g * VALUE_LOAD;
#pragma unroll
        for (int j = 0; j < ROW_BYTES / 8 / VALUE_LOAD; j++)
            load(at + j * 8 * VALUE_LOAD, VALUE_LOAD, v->row[i] + j * VALUE_LOAD / 4);
    }
#ifdef QUANT
#pragma unroll
    for (int i = 0; i < 2; i++) v->scale[i] = scales[ROW_OF(min(first + g + 8 * i, last))];
#endif
}

/* The dimension of element i of a lane's four in step s of the first product. */
static inline uint key_dim(int s, int i, uint t) {
#if KEY_TYPE == 2
    uint byte = (s / 2 / (KEY_LOAD / 4) * 4 + t) * KEY_LOAD + s / 2 % (KEY_LOAD / 4) * 4;
    return byte / 16 * 32 + byte % 16 + s % 2 + i % 2 * 2 + i / 2 * 16;
#elif KEY_TYPE == 8
    return s / 2 * 32 + 8 * t + 4 * (s % 2) + i;
#else
    return KEY_LOAD == 16 ? s / 2 * 32 + 8 * t + 4 * (s % 2) + i : s * 16 + 4 * t + i;
#endif
}

/* The dimension of row g of O^T's tile i, or of row g + 8 (second = 1). */
static inline uint value_dim(int i, uint g, int second) {
    const int per = VALUE_LOAD / 4;
#if KEY_TYPE == 8
    int w = i / 2;
    return w / per * VALUE_LOAD * 8 + g * VALUE_LOAD + w % per * 4 + i % 2 * 2 + second;
#elif KEY_TYPE == 2
    int w = i / 4;
    uint byte = w / per * VALUE_LOAD * 8 + g * VALUE_LOAD + w % per * 4;
    return byte / 16 * 32 + byte % 16 + i % 4 / 2 + i % 2 * 16 + 2 * second; /* nibble i % 4 of bytes 0, 1, or of bytes 2, 3 */
#else
    return i / per * VALUE_LOAD * 4 + g * (VALUE_LOAD / 2) + i % per * 2 + second;
#endif
}
#endif
