/* attend_prefill - causal attention of many queries in plain float32, for every cache type and any OpenCL 1.2 device.
 *
 *   out_i = sum_t softmax_t(scale q_i . k_t) v_t      t in key_from..key_to - 1, t <= first + i, window > 0: t > first + i -
 * window
 *
 * Owns prompts where no matrix unit is known (attend_prefill_nv.cl). A group of 8 x 16 work-items (ty, tx) has 64 queries of one
 * head and takes 64 keys at a time: two products, each in registers (8 x 4 scores, 8 x VALUE_DIM / 16 outputs a work-item), whose
 * operands come through local memory in steps with the summed dimension outside, so that a work-item reads 4 numbers at once:
 *
 *   S [64 queries][64 keys]  over steps of 32 dimensions    local: Q^T, K^T [32][64]
 *   O [64][VALUE_DIM]        over steps of KEYS keys        local: P^T [64 keys][64], over Q^T and K^T; V [KEYS][VALUE_DIM]
 *
 * Build options: KEY_DIM, VALUE_DIM (multiples of 4, at most 256), KEY_TYPE, VALUE_TYPE 0 (f32), 1 (f16), 30 (bf16), 8 (q8) or 2
 * (q4); GROUP; KEYS 16 where local memory is 32 KiB and VALUE_DIM at most 128 (it takes 21 KiB and KEYS 256 bytes for every 64 of
 * VALUE_DIM). Rows of the cache are padded to 16 numbers, to 32 for codes.
 */
#define SIDE 64
#define STEP 32 /* dimensions */
#ifndef KEYS
#define KEYS (VALUE_DIM > 128 ? 16 : 32) /* of a step of values */
#endif
/* Column c of line l of Q^T, K^T and P^T is stored at c ^ SHIFT(l): numbers that come as rows are stored, and columns read,
 * without two work-items of a warp meeting in a bank of local memory. */
#define SHIFT(line)      ((line) / 4 % 8 * 4)
#define PARTS            ((VALUE_DIM + 63) / 64) /* of 4 outputs, 64 apart */
#define WIDTH            (PARTS * 64)
#define COUNT(type, dim) ((type) == 8 || (type) == 2 ? ((dim) + 31) / 32 * 32 : ((dim) + 15) / 16 * 16) /* numbers of a row */
#define KEY_COUNT        COUNT(KEY_TYPE, KEY_DIM)
#define VALUE_COUNT      COUNT(VALUE_TYPE, VALUE_DIM)

#define LANES 128
#define ROWS  8 /* queries of a work-item */

/* Four numbers of a row from dim on, a multiple of 4, without a scale. */
static inline float4 numbers(int type, global const uchar *rows, size_t at) {
    if (type == 0) return vload4(0, (global const float *)rows + at);
    if (type == 1) return vload_half4(0, (global const half *)rows + at);
    if (type == 30) return as_float4(convert_uint4(vload4(0, (global const ushort *)rows + at)) << 16);
    if (type == 8) return convert_float4(vload4(0, (global const char *)rows + at));
    uchar4 codes = vload4(0, rows + at / 32 * 16 + at % 16);
    return convert_float4(at % 32 < 16 ? codes & (uchar4)15 : codes >> (uchar4)4) - 8;
}

/* Column `column` of lines line..line + 3 gets the 4 numbers. */
static inline void put_column(local float *lines, uint line, uint column, float4 x) {
    local float *to = lines + line * SIDE + (column ^ SHIFT(line));
    to[0] = x.x;
    to[SIDE] = x.y;
    to[2 * SIDE] = x.z;
    to[3 * SIDE] = x.w;
}

/* Dimensions dim..dim + STEP - 1 of 64 queries (count are there) and of keys at.. (none beyond last) into local memory. */
static inline void load_step(global const float *q, size_t ldq, int count, global const uchar *keys, global const half *scales,
                             uint at, uint last, uint dim, local float *q_lines, local float *k_lines) {
    uint i = get_local_id(0) % (STEP / 4) * 4;
#pragma unroll
    for (uint row = get_local_id(0) / (STEP / 4); row < SIDE; row += LANES / (STEP / 4)) {
        size_t token = min(at + row, last);
        float4 x = 0, k = 0;
        if (dim + i < KEY_DIM) {
            if (row < count) x = vload4(0, q + row * ldq + dim + i);
            k = numbers(KEY_TYPE, keys, token * KEY_COUNT + dim + i);
#if KEY_TYPE == 8 || KEY_TYPE == 2
            k *= vload_half(token * (KEY_COUNT / 32) + (dim + i) / 32, scales);
#endif
        }
        put_column(q_lines, i, row, x);
        put_column(k_lines, i, row, k);
    }
}

/* Values of keys at..at + KEYS - 1, none beyond last. */
static inline void load_values(global const uchar *values, global const float *scales, uint at, uint last, local float *to) {
#pragma unroll
    for (uint i = get_local_id(0); i < KEYS * WIDTH / 4; i += LANES) {
        uint key = i / (WIDTH / 4), dim = i % (WIDTH / 4) * 4;
        size_t token = min(at + key, last);
        float4 v = 0;
        if (dim < VALUE_DIM) v = numbers(VALUE_TYPE, values, token * VALUE_COUNT + dim);
#if VALUE_TYPE == 8 || VALUE_TYPE == 2
        v *= scales[token];
#endif
        vstore4(v, 0, to + key * WIDTH + dim);
    }
}

/* Operands as of attend_decode; q float [n][heads][KEY_DIM], out float [n][heads][VALUE_DIM]. Global size {ceil(n / 64) * 128,
 * heads}. */
kernel __attribute__((reqd_work_group_size(LANES, 1, 1))) void
attend_prefill(global const float *q, ulong q_at, global const uchar *keys, ulong keys_at, ulong key_scales_at,
               global const uchar *values, ulong values_at, ulong value_scales_at, int capacity, int key_from, int key_to,
               int first, int n, int window, float scale, global float *out, ulong out_at) {
    local float lines[2 * STEP * SIDE] __attribute__((aligned(16))), value_step[KEYS * WIDTH] __attribute__((aligned(16)));
    local float tops[SIDE][20] __attribute__((aligned(16)));
    int tx = get_local_id(0) % 16, ty = get_local_id(0) / 16, head = get_group_id(1), heads = get_num_groups(1);
    int row = (get_num_groups(0) - 1 - get_group_id(0)) * SIDE, count = min(SIDE, n - row); /* those with most keys begin first */
    size_t before = (size_t)(head / GROUP) * capacity;
    global const half *key_scales = (global const half *)(keys + key_scales_at) + before * (KEY_COUNT / 32);
    global const float *value_scales = (global const float *)(values + value_scales_at) + before;
    keys += keys_at + before * (KEY_TYPE == 0   ? KEY_COUNT * 4
                                : KEY_TYPE == 8 ? KEY_COUNT
                                : KEY_TYPE == 2 ? KEY_COUNT / 2
                                                : KEY_COUNT * 2);
    values += values_at + before * (VALUE_TYPE == 0   ? VALUE_COUNT * 4
                                    : VALUE_TYPE == 8 ? VALUE_COUNT
                                    : VALUE_TYPE == 2 ? VALUE_COUNT / 2
                                                      : VALUE_COUNT * 2);
    q += q_at + ((size_t)row * heads + head) * KEY_DIM;
    int begin = window ? max(key_from, first + row - window + 1) : key_from, end = min(key_to, first + row + count);
    uint last = max(end, 1) - 1;
    float m[ROWS], z[ROWS];
    float4 o[ROWS][PARTS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        m[i] = -INFINITY;
        z[i] = 0;
#pragma unroll
        for (int p = 0; p < PARTS; p++) o[i][p] = 0;
    }
    for (int at = begin; at < end; at += SIDE) {
        float4 s[ROWS]; /* query ROWS ty + i, keys 4 tx.. */
#pragma unroll
        for (int i = 0; i < ROWS; i++) s[i] = 0;
        for (int dim = 0; dim < KEY_DIM; dim += STEP) {
            barrier(CLK_LOCAL_MEM_FENCE);
            load_step(q, (size_t)heads * KEY_DIM, count, keys, key_scales, at, last, dim, lines, lines + STEP * SIDE);
            barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
            for (int d = 0; d < STEP; d++) {
                float4 k = *(local float4 *)(lines + (STEP + d) * SIDE + ((4 * tx) ^ SHIFT(d)));
#pragma unroll
                for (int i = 0; i < ROWS; i += 4) {
                    float4 x = *(local float4 *)(lines + d * SIDE + ((ROWS * ty + i) ^ SHIFT(d)));
                    s[i] += x.x * k;
                    s[i + 1] += x.y * k;
                    s[i + 2] += x.z * k;
                    s[i + 3] += x.w * k;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int position = first + row + ROWS * ty + i, token = at + 4 * tx;
            float x[4] = {s[i].x, s[i].y, s[i].z, s[i].w};
#pragma unroll
            for (int e = 0; e < 4; e++)
                x[e] = token + e > position || token + e >= end || (window && token + e <= position - window) ? -INFINITY
                                                                                                              : x[e] * scale;
            s[i] = (float4)(x[0], x[1], x[2], x[3]);
            tops[ROWS * ty + i][tx] = fmax(fmax(x[0], x[1]), fmax(x[2], x[3]));
        }
        barrier(CLK_LOCAL_MEM_FENCE); /* and nobody reads Q^T and K^T any more */
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float top = m[i];
#pragma unroll
            for (int k = 0; k < 16; k += 4) {
                float4 x = *(local float4 *)(tops[ROWS * ty + i] + k);
                top = fmax(top, fmax(fmax(x.x, x.y), fmax(x.z, x.w)));
            }
            float c = top == -INFINITY ? 1 : native_exp(m[i] - top);
            s[i] = top == -INFINITY ? (float4)0 : native_exp(s[i] - top);
            m[i] = top;
            z[i] = z[i] * c + s[i].x + s[i].y + s[i].z + s[i].w;
#pragma unroll
            for (int p = 0; p < PARTS; p++) o[i][p] *= c;
        }
#pragma unroll
        for (int i = 0; i < ROWS; i += 4) {
            local float *to = lines + 4 * tx * SIDE + ((ROWS * ty + i) ^ SHIFT(4 * tx));
            *(local float4 *)to = (float4)(s[i].x, s[i + 1].x, s[i + 2].x, s[i + 3].x);
            *(local float4 *)(to + SIDE) = (float4)(s[i].y, s[i + 1].y, s[i + 2].y, s[i + 3].y);
            *(local float4 *)(to + 2 * SIDE) = (float4)(s[i].z, s[i + 1].z, s[i + 2].z, s[i + 3].z);
            *(local float4 *)(to + 3 * SIDE) = (float4)(s[i].w, s[i + 1].w, s[i + 2].w, s[i + 3].w);
        }
        for (int from = 0; from < min(SIDE, end - at); from += KEYS) {
            barrier(CLK_LOCAL_MEM_FENCE);
            load_values(values, value_scales, at + from, last, value_step);
            barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 4
            for (int k = 0; k < KEYS; k++) {
                float4 v[PARTS];
#pragma unroll
                for (int j = 0; j < PARTS; j++) v[j] = *(local float4 *)(value_step + k * WIDTH + j * 64 + 4 * tx);
#pragma unroll
                for (int i = 0; i < ROWS; i += 4) {
                    float4 p = *(local float4 *)(lines + (from + k) * SIDE + ((ROWS * ty + i) ^ SHIFT(from + k)));
#pragma unroll
                    for (int j = 0; j < PARTS; j++) {
                        o[i][j] += p.x * v[j];
                        o[i + 1][j] += p.y * v[j];
                        o[i + 2][j] += p.z * v[j];
                        o[i + 3][j] += p.w * v[j];
                    }
                }
            }
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (int i = 0; i < ROWS; i++) tops[ROWS * ty + i][tx] = z[i];
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        if (ROWS * ty + i >= count) continue;
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += tops[ROWS * ty + i][k];
        float inverse = sum > 0 ? 1 / sum : sum; /* no key at all: zero; NaN stays */
        global float *to = out + out_at + ((size_t)(row + ROWS * ty + i) * heads + head) * VALUE_DIM;
#pragma unroll
        for (int j = 0; j < PARTS; j++)
            if (j * 64 + 4 * tx < VALUE_DIM) vstore4(o[i][j] * inverse, 0, to + j * 64 + 4 * tx);
    }
}
