/* attend_prefill, NVIDIA - causal attention of many queries on the matrix unit.
 *
 *   out_i = sum_t softmax_t(scale q_i . k_t) v_t      t in key_from..key_to - 1, t <= first + i, window > 0: t > first + i -
 * window
 *
 * Owns prompts on devices with mma.m16n8k16 (compute capability 8.0 and later). A group has 16 WARPS queries of one head, a warp
 * 16 of them, whose part of Q, scores and outputs stay in its registers; keys and values come in tiles through local memory, each
 * on its way while the other is multiplied with:
 *
 *   values i asked for | S = Q K_i | keys i + 1 asked for | P = exp2(S - m) | O += P V_i
 *
 * Tiles of codes become halves on their way. Rounded: queries (after scaling), weights, and values of codes, to the unit's type.
 *
 * Build options: KEY_DIM = VALUE_DIM, a multiple of 16 up to 256; KEY_TYPE = VALUE_TYPE 1 (f16), 30 (bf16), 8 (q8) or 2 (q4);
 * GROUP; WARPS. STATES: tokens from gap_from on lie gap rows further on, and instead of out partial [n][heads][VALUE_DIM + 2]
 * gets a finished state: logarithm of the sum, 1, and the attention. Rows of the cache as in attend_decode_nv.cl.
 */
#ifndef WARPS
#define WARPS 8
#endif
#if KEY_DIM % 16 || KEY_DIM > 256 || KEY_DIM != VALUE_DIM || KEY_TYPE != VALUE_TYPE
#error "not a shape of this kernel"
#endif
#define D KEY_DIM
#if KEY_TYPE == 8 || KEY_TYPE == 2
#define QUANT     1
#define GROUPS    ((D + 31) / 32)
#define ROW_BYTES (KEY_TYPE == 8 ? GROUPS * 32 : GROUPS * 16)
#else
#define ROW_BYTES (D * 2)
#endif
#define TILE   (D > 128 ? 32 : 64) /* keys */
#define STRIDE (D * 2 + 16)        /* bytes of a row in local memory: an odd number of 16, so that eight rows meet all banks */
#define CHUNKS (D / 8)             /* of 16 bytes in a row */
#define MT     (D / 16)
#define NT     (TILE / 8)
#define LOG2E  1.44269504f
#define RISE   5.0f /* as in attend_decode_nv.cl */
#define LIFT   9.0f
#define EMPTY  -1e30f

typedef struct {
    global const uchar *rows;
    global const half *group_scales;  /* q8, q4 keys */
    global const float *token_scales; /* q8, q4 values */
#ifdef STATES
    uint gap_from, gap;
#endif
} plane;

static inline size_t row_of(const plane *p, uint token) {
#ifdef STATES
    if (token >= p->gap_from) token += p->gap;
#endif
    return token;
}

/* Tokens at..at + TILE - 1 of a plane, none beyond last, into local memory. */
static inline void load_tile(const plane *from, uint at, uint last, local uchar *to) {
#ifdef QUANT
    for (uint i = get_local_id(0); i < TILE * CHUNKS; i += WARPS * 32) {
        uint row = i / CHUNKS, chunk = i % CHUNKS;
        size_t token = row_of(from, min(at + row, last));
        float f = from->token_scales ? from->token_scales[token] : vload_half(token * GROUPS + chunk / 4, from->group_scales);
#if KEY_TYPE == 8
        char8 codes = *(global const char8 *)(from->rows + token * ROW_BYTES + chunk * 8);
        float8 v = convert_float8(codes) * f;
#else
        uchar8 codes = *(global const uchar8 *)(from->rows + token * ROW_BYTES + chunk / 4 * 16 + chunk % 2 * 8);
        float8 v = (convert_float8(chunk % 4 < 2 ? codes & (uchar8)15 : codes >> (uchar8)4) - 8) * f;
#endif
        *(local uint4 *)(to + row * STRIDE + chunk * 16) =
            (uint4)(pair(v.s0, v.s1), pair(v.s2, v.s3), pair(v.s4, v.s5), pair(v.s6, v.s7));
    }
#else
    uint base = local_at(to);
#pragma unroll
    for (uint k = 0; k < TILE * CHUNKS / (WARPS * 32); k++) {
        uint i = get_local_id(0) + k * (WARPS * 32), row = i / CHUNKS, chunk = i % CHUNKS;
        copy16(base + row * STRIDE + chunk * 16, from->rows + row_of(from, min(at + row, last)) * ROW_BYTES + chunk * 16);
    }
#if TILE * CHUNKS % (WARPS * 32)
    uint i = get_local_id(0) + TILE * CHUNKS / (WARPS * 32) * (WARPS * 32), row = i / CHUNKS, chunk = i % CHUNKS;
    if (row < TILE)
        copy16(base + row * STRIDE + chunk * 16, from->rows + row_of(from, min(at + row, last)) * ROW_BYTES + chunk * 16);
#endif
    end_copies();
#endif
}

/* Queries g and g + 8 of the warp's 16 as the operand of 16 rows. */
static inline void load_queries(global const float *q, size_t ldq, uint count, float scale, uint a[MT][4]) {
    uint lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 4; h++) {
            float2 x = 0;
            if (g + 8 * (h % 2) < count)
                x = *(global const float2 *)(q + (g + 8 * (h % 2)) * ldq + i * 16 + h / 2 * 8 + 2 * t) * scale;
            a[i][h] = pair(x.x, x.y);
        }
}

/* Scores of 16 queries with the tile's keys. */
static inline void score(const uint q[MT][4], const local uchar *keys, float s[NT][4]) {
    uint lane = get_local_id(0) % 32;
    /* matrices: keys 0..7 and dimensions 0..7, 0..7 and 8..15, then keys 8..15 */
    uint from = local_at(keys) + (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 16;
#pragma unroll
    for (int n = 0; n < NT; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint b[4];
            load_matrices(from + n * 8 * STRIDE + i * 32, b);
            multiply(s[n], q[i][0], q[i][1], q[i][2], q[i][3], b);
            multiply(s[n + 1], q[i][0], q[i][1], q[i][2], q[i][3], b + 2);
        }
}

/* o += P V, P from the weights as they lie in s. */
static inline void mix(float s[NT][4], const local uchar *values, float o[2 * MT][4]) {
    uint lane = get_local_id(0) % 32;
    /* matrices: tokens 0..7 and 8..15 of dimensions 0..7, then of dimensions 8..15 */
    uint from = local_at(values) + lane % 16 * STRIDE + lane / 16 * 16;
#pragma unroll
    for (int n = 0; n < NT; n += 2) {
        uint a0 = pair(s[n][0], s[n][1]), a1 = pair(s[n][2], s[n][3]), a2 = pair(s[n + 1][0], s[n + 1][1]),
             a3 = pair(s[n + 1][2], s[n + 1][3]);
#pragma unroll
        for (int i = 0; i < MT; i++) {
            uint b[4];
            load_turned(from + n * 8 * STRIDE + i * 32, b);
            multiply(o[2 * i], a0, a1, a2, a3, b);
            multiply(o[2 * i + 1], a0, a1, a2, a3, b + 2);
        }
    }
}

/* Scores -> weights; m, z of queries g and g + 8, z of this lane's keys. */
static inline void weigh(float s[NT][4], float m[2], float z[2], float o[2 * MT][4]) {
    float top[2] = {EMPTY, EMPTY};
#pragma unroll
    for (int n = 0; n < NT; n++) {
        top[0] = fmax(top[0], fmax(s[n][0], s[n][1]));
        top[1] = fmax(top[1], fmax(s[n][2], s[n][3]));
    }
    if (warp_any(top[0] > m[0] + RISE || top[1] > m[1] + RISE)) {
        float c[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float next = fmax(m[i], top[i]);
            next = fmax(next, lanes_xor(next, 1));
            next = fmax(next, lanes_xor(next, 2));
            c[i] = native_exp2(m[i] - next);
            m[i] = next;
            z[i] *= c[i];
        }
#pragma unroll
        for (int i = 0; i < 2 * MT; i++) {
            o[i][0] *= c[0];
            o[i][1] *= c[0];
            o[i][2] *= c[1];
            o[i][3] *= c[1];
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = native_exp2(s[n][e] - (m[e / 2] - LIFT));
            z[e / 2] += s[n][e];
        }
}

static inline void mask(float s[NT][4], int at, int position, int end, int window) {
    int lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int token = at + n * 8 + 2 * t + e % 2, own = position + g + 8 * (e / 2);
            if (token > own || token >= end || (window && token <= own - window)) s[n][e] = -INFINITY;
        }
}

/* Operands as of attend_decode, out float [n][heads][VALUE_DIM]. Global size {ceil(n / (16 WARPS)) * WARPS * 32, heads}. */
kernel __attribute__((reqd_work_group_size(WARPS * 32, 1, 1))) void
attend_prefill(global const float *q, ulong q_at, global const uchar *keys, ulong keys_at, ulong key_scales_at,
               global const uchar *values, ulong values_at, ulong value_scales_at, int capacity, int key_from, int key_to,
               int first, int n, int window, float scale, global float *out, ulong out_at
#ifdef STATES
               ,
               uint gap_from, uint gap
#endif
) {
    local uchar key_tile[TILE * STRIDE] __attribute__((aligned(128)));
    local uchar value_tile[TILE * STRIDE] __attribute__((aligned(128)));
    /* the groups with most keys begin first */
    int head = get_group_id(1), heads = get_num_groups(1), warp = get_local_id(0) / 32;
    int row = (get_num_groups(0) - 1 - get_group_id(0)) * (16 * WARPS), mine = row + 16 * warp;
    size_t before = (size_t)(head / GROUP) * capacity;
    plane k = {keys + keys_at + before * ROW_BYTES, 0, 0}, v = {values + values_at + before * ROW_BYTES, 0, 0};
#ifdef QUANT
    k.group_scales = (global const half *)(keys + key_scales_at) + before * GROUPS;
    v.token_scales = (global const float *)(values + value_scales_at) + before;
#endif
#ifdef STATES
    k.gap_from = v.gap_from = gap_from;
    k.gap = v.gap = gap;
#endif
    int end = min(key_to, first + min(row + 16 * WARPS, n)), begin = key_from;
    if (window) begin = max(begin, (first + row - window + 1) / TILE * TILE);
    uint last = max(end, 1) - 1;
    if (begin < end) load_tile(&k, begin, last, key_tile);
    uint a[MT][4];
    load_queries(q + q_at + ((size_t)mine * heads + head) * D, (size_t)heads * D, max(n - mine, 0), scale * LOG2E, a);
    float m[2] = {EMPTY, EMPTY}, z[2] = {0, 0}, o[2 * MT][4];
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
    for (int at = begin; at < end; at += TILE) {
        float s[NT][4];
        load_tile(&v, at, last, value_tile);
        wait_copies(1);
        barrier(CLK_LOCAL_MEM_FENCE);
        score(a, key_tile, s);
        barrier(CLK_LOCAL_MEM_FENCE);
        load_tile(&k, at + TILE, last, key_tile); /* after the last tile: its last key again, unused */
        if (at + TILE > min(end, first + mine + 1) || (window && at <= first + mine + 15 - window))
            mask(s, at, first + mine, end, window);
        weigh(s, m, z, o);
        wait_copies(1);
        barrier(CLK_LOCAL_MEM_FENCE);
        mix(s, value_tile, o);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    wait_copies(0);
    uint lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        z[i] += lanes_xor(z[i], 1);
        z[i] += lanes_xor(z[i], 2);
        int query = mine + g + 8 * i;
        if (query >= n) continue;
        float inverse = z[i] > 0 ? 1 / z[i] : z[i]; /* no key at all: zero; NaN stays */
#ifdef STATES
        global float *to = out + out_at + ((size_t)query * heads + head) * (D + 2) + 2 + 2 * t;
        if (t == 0)
            *(global float2 *)(to - 2) = (float2)(z[i] > 0 ? (m[i] - LIFT + native_log2(z[i])) / LOG2E : -INFINITY, z[i] > 0);
#else
        global float *to = out + out_at + ((size_t)query * heads + head) * D + 2 * t;
#endif
#pragma unroll
        for (int j = 0; j < 2 * MT; j++) *(global float2 *)(to + j * 8) = (float2)(o[j][2 * i], o[j][2 * i + 1]) * inverse;
    }
}
