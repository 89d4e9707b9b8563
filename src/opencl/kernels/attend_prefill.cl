/* attend_prefill - causal attention of many queries in plain float32, for every cache type and any OpenCL 1.2 device.
 *
 *   out_i = sum_t softmax_t(scale q_i . k_t) v_t      t in key_from..key_to - 1, t <= first + i, window > 0: t > first + i -
 * window
 *
 * Owns prompts where no matrix unit is known (attend_prefill_nv.cl). A group of 16 x 16 work-items (ty, tx) has 64 queries of one
 * head and takes 64 keys at a time: two products, each in registers (4 x 4 scores, 4 x VALUE_DIM / 16 outputs a work-item), whose
 * operands come through local memory in steps with the summed dimension outside, so that a work-item reads 4 numbers at once:
 *
 *   S [64 queries][64 keys]  over steps of 32 dimensions    local: Q^T, K^T [32][64]
 *   O [64][VALUE_DIM]        over steps of 16 keys          local: P^T [64 keys][64], over Q^T and K^T; V [16][VALUE_DIM]
 *
 * Build options: KEY_DIM, VALUE_DIM (multiples of 4, at most 256), KEY_TYPE, VALUE_TYPE 0 (f32), 1 (f16), 30 (bf16), 8 (q8) or 2
 * (q4); GROUP. Rows of the cache are padded to 16 numbers, to 32 for codes. Local memory: 20 KiB and 64 bytes a number of a
 * value.
 */
#define SIDE             64
#define STEP             32                      /* dimensions */
#define KEYS             16                      /* keys of a step of values */
#define LD               68                      /* floats from one line of Q^T, K^T or P^T to the next */
#define PARTS            ((VALUE_DIM + 63) / 64) /* of 4 outputs, 64 apart */
#define WIDTH            (PARTS * 64)
#define COUNT(type, dim) ((type) == 8 || (type) == 2 ? ((dim) + 31) / 32 * 32 : ((dim) + 15) / 16 * 16) /* numbers of a row */
#define KEY_COUNT        COUNT(KEY_TYPE, KEY_DIM)
#define VALUE_COUNT      COUNT(VALUE_TYPE, VALUE_DIM)

/* Four numbers of a row from dim on, a multiple of 4, without a scale. */
static inline float4 numbers(int type, global const uchar *rows, size_t at) {
    if (type == 0) return vload4(0, (global const float *)rows + at);
    if (type == 1) return vload_half4(0, (global const half *)rows + at);
    if (type == 30) return as_float4(convert_uint4(vload4(0, (global const ushort *)rows + at)) << 16);
    if (type == 8) return convert_float4(vload4(0, (global const char *)rows + at));
    uchar4 codes = vload4(0, rows + at / 32 * 16 + at % 16);
    return convert_float4(at % 32 < 16 ? codes & (uchar4)15 : codes >> (uchar4)4) - 8;
}

/* Column `column` of 4 lines gets the 4 numbers. */
static inline void put_column(local float *lines, uint column, float4 x) {
    lines[column] = x.x;
    lines[LD + column] = x.y;
    lines[2 * LD + column] = x.z;
    lines[3 * LD + column] = x.w;
}

/* Dimensions dim..dim + STEP - 1 of 64 queries (count are there) and of keys at.. (none beyond last) into local memory. */
static inline void load_step(global const float *q, size_t ldq, int count, global const uchar *keys, global const half *scales,
                             uint at, uint last, uint dim, local float *q_lines, local float *k_lines) {
    uint row = get_local_id(0) % SIDE;
    size_t token = min(at + row, last);
#pragma unroll
    for (uint i = get_local_id(0) / SIDE * 4; i < STEP; i += 16) {
        float4 x = 0, k = 0;
        if (dim + i < KEY_DIM) {
            if (row < count) x = vload4(0, q + row * ldq + dim + i);
            k = numbers(KEY_TYPE, keys, token * KEY_COUNT + dim + i);
#if KEY_TYPE == 8 || KEY_TYPE == 2
            k *= vload_half(token * (KEY_COUNT / 32) + (dim + i) / 32, scales);
#endif
        }
        put_column(q_lines + i * LD, row, x);
        put_column(k_lines + i * LD, row, k);
    }
}

/* Values of keys at..at + KEYS - 1, none beyond last. */
static inline void load_values(global const uchar *values, global const float *scales, uint at, uint last, local float *to) {
#pragma unroll
    for (uint i = get_local_id(0); i < KEYS * WIDTH / 4; i += 256) {
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

/* Operands as of attend_decode; q float [n][heads][KEY_DIM], out float [n][heads][VALUE_DIM]. Global size {ceil(n / 64) * 256,
 * heads}. */
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void
attend_prefill(global const float *q, ulong q_at, global const uchar *keys, ulong keys_at, ulong key_scales_at,
               global const uchar *values, ulong values_at, ulong value_scales_at, int capacity, int key_from, int key_to,
               int first, int n, int window, float scale, global float *out, ulong out_at) {
    local float lines[2 * STEP * LD] __attribute__((aligned(16))), value_step[KEYS * WIDTH] __attribute__((aligned(16)));
    local float tops[SIDE][17];
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
    float m[4], z[4];
    float4 o[4][PARTS];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        m[i] = -INFINITY;
        z[i] = 0;
#pragma unroll
        for (int p = 0; p < PARTS; p++) o[i][p] = 0;
    }
    for (int at = begin; at < end; at += SIDE) {
        float4 s[4]; /* query 4 ty + i, keys 4 tx.. */
#pragma unroll
        for (int i = 0; i < 4; i++) s[i] = 0;
        for (int dim = 0; dim < KEY_DIM; dim += STEP) {
            barrier(CLK_LOCAL_MEM_FENCE);
            load_step(q, (size_t)heads * KEY_DIM, count, keys, key_scales, at, last, dim, lines, lines + STEP * LD);
            barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 8
            for (int d = 0; d < STEP; d++) {
                float4 x = *(local float4 *)(lines + d * LD + 4 * ty), k = *(local float4 *)(lines + (STEP + d) * LD + 4 * tx);
                s[0] += x.x * k;
                s[1] += x.y * k;
                s[2] += x.z * k;
                s[3] += x.w * k;
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int position = first + row + 4 * ty + i, token = at + 4 * tx;
            float x[4] = {s[i].x, s[i].y, s[i].z, s[i].w};
#pragma unroll
            for (int e = 0; e < 4; e++)
                x[e] = token + e > position || token + e >= end || (window && token + e <= position - window) ? -INFINITY
                                                                                                              : x[e] * scale;
            s[i] = (float4)(x[0], x[1], x[2], x[3]);
            tops[4 * ty + i][tx] = fmax(fmax(x[0], x[1]), fmax(x[2], x[3]));
        }
        barrier(CLK_LOCAL_MEM_FENCE); /* and nobody reads Q^T and K^T any more */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float top = m[i], sum;
            for (int k = 0; k < 16; k++) top = fmax(top, tops[4 * ty + i][k]);
            float c = top == -INFINITY ? 1 : native_exp(m[i] - top);
            s[i] = top == -INFINITY ? (float4)0 : native_exp(s[i] - top);
            m[i] = top;
            z[i] = z[i] * c + s[i].x + s[i].y + s[i].z + s[i].w;
#pragma unroll
            for (int p = 0; p < PARTS; p++) o[i][p] *= c;
        }
        *(local float4 *)(lines + (4 * tx + 0) * LD + 4 * ty) = (float4)(s[0].x, s[1].x, s[2].x, s[3].x);
        *(local float4 *)(lines + (4 * tx + 1) * LD + 4 * ty) = (float4)(s[0].y, s[1].y, s[2].y, s[3].y);
        *(local float4 *)(lines + (4 * tx + 2) * LD + 4 * ty) = (float4)(s[0].z, s[1].z, s[2].z, s[3].z);
        *(local float4 *)(lines + (4 * tx + 3) * LD + 4 * ty) = (float4)(s[0].w, s[1].w, s[2].w, s[3].w);
        for (int from = 0; from < min(SIDE, end - at); from += KEYS) {
            barrier(CLK_LOCAL_MEM_FENCE);
            load_values(values, value_scales, at + from, last, value_step);
            barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 4
            for (int k = 0; k < KEYS; k++) {
                float4 p = *(local float4 *)(lines + (from + k) * LD + 4 * ty);
#pragma unroll
                for (int j = 0; j < PARTS; j++) {
                    float4 v = *(local float4 *)(value_step + k * WIDTH + j * 64 + 4 * tx);
                    o[0][j] += p.x * v;
                    o[1][j] += p.y * v;
                    o[2][j] += p.z * v;
                    o[3][j] += p.w * v;
                }
            }
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (int i = 0; i < 4; i++) tops[4 * ty + i][tx] = z[i];
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (4 * ty + i >= count) continue;
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += tops[4 * ty + i][k];
        float inverse = sum > 0 ? 1 / sum : sum; /* no key at all: zero; NaN stays */
        global float *to = out + out_at + ((size_t)(row + 4 * ty + i) * heads + head) * VALUE_DIM;
#pragma unroll
        for (int j = 0; j < PARTS; j++)
            if (j * 64 + 4 * tx < VALUE_DIM) vstore4(o[i][j] * inverse, 0, to + j * 64 + 4 * tx);
    }
}
