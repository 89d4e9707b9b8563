/* gemm, NVIDIA - products of weights with many rows of activations (prompts) on the matrix unit.
 *
 *   y[i][j] = bias[j] + W_j . x[i]   (+ y[i][j] where add is set)      i < n, j < rows
 *
 * Owns prompts' products on devices with mma.m16n8k16 (compute capability 8.0 and later). to_halves makes f16 of the activations
 * once; gemm then cuts y in tiles of 128 x 128, a group each, and its four warps those in 64 x 64. Steps of 32 columns of both
 * operands come through local memory, the next on its way while one is multiplied; codes become halves on the way.
 *
 * Weights as in gemv_nv.cl: WTYPE 1 (f16), 30 (bf16) in rows, 8, 2, 3, 12 in blocks of 16 rows (MINIMUM=1 with minima); cols a
 * multiple of 32. Rounded: activations to the unit's type, and a code times its scale.
 */
#ifndef MINIMUM
#define MINIMUM 0
#endif
#if WTYPE == 8
#define BLOCK_BYTES 1088
#define BLOCK_STEPS 2 /* of 32 columns */
#elif WTYPE != 1 && WTYPE != 30
#define BLOCK_BYTES (MINIMUM ? 1280 : 1152)
#define BLOCK_STEPS 4
#endif
#define TILE   128
#define STRIDE 80 /* bytes of a row of a step: 64, and 16 that keep rows apart in banks */
#define LIFT   0.03125f

/* x [n][cols], ldx floats apart -> [n][cols] of the unit's type: rms_norm(x) norm, or where norm_at is ~0 x / 32, which keeps
 * numbers up to two million in the range of f16. Global size {256 n}. */
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void to_halves(global const float *x, ulong x_at, int ldx,
                                                                       global const float *constants, ulong norm_at, float eps,
                                                                       int cols, global uint *halves_out, ulong halves_at) {
    local float swap[8];
    uint id = get_local_id(0), row = get_group_id(0);
    x += x_at + (size_t)row * ldx;
    halves_out += (halves_at + (size_t)row * cols) / 2;
    float factor = LIFT;
    if (norm_at != ~0UL) {
        float sum = 0;
        for (uint i = id; i < cols; i += 256) sum += x[i] * x[i];
        for (int l = 1; l < 32; l *= 2) sum += lanes_xor(sum, l);
        if (id % 32 == 0) swap[id / 32] = sum;
        barrier(CLK_LOCAL_MEM_FENCE);
        sum = 0;
        for (int w = 0; w < 8; w++) sum += swap[w];
        factor = 1 / sqrt(sum / cols + eps);
    }
    for (uint i = id; i < cols / 2; i += 256) {
        float2 v = *(global const float2 *)(x + 2 * i) * factor;
        if (norm_at != ~0UL) v *= *(global const float2 *)(constants + norm_at + 2 * i);
        halves_out[i] = pair(v.x, v.y);
    }
}

/* 128 rows of 64 bytes, from row on and none beyond last, into local memory. */
static inline void copy_step(global const uchar *from, ulong row_bytes, uint row, uint last, uint step, local uchar *to) {
    uint base = local_at(to);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint i = get_local_id(0) + k * 128, r = i / 4, chunk = i % 4;
        copy16(base + r * STRIDE + chunk * 16, from + min(row + r, last) * row_bytes + step * 64 + chunk * 16);
    }
}

#ifdef BLOCK_BYTES
/* A lane's codes of a step: of two blocks of 16 rows, rows g and g + 8. */
typedef struct {
    uint codes[2][2][2];
    uint scale[2][2], minimum[2][2];
} step_part;

static inline void load_codes(global const uchar *w, uint blocks, uint turns, uint row, uint step, step_part *p) {
    uint lane = get_local_id(0) % 32, warp = get_local_id(0) / 32, g = lane / 4, j = step % BLOCK_STEPS;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint at = min(row / 16 + warp * 2 + k, blocks - 1);
        global const uchar *block = w + ((ulong)at * turns + step / BLOCK_STEPS) * BLOCK_BYTES;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            global const uint *codes = (global const uint *)(block + i * 512 + lane * 16);
            p->codes[k][i][0] = codes[BLOCK_STEPS == 2 ? 2 * j : j];
            if (BLOCK_STEPS == 2) p->codes[k][i][1] = codes[2 * j + 1];
            p->scale[k][i] = ((global const ushort *)(block + 1024))[(g * 2 + i) * BLOCK_STEPS + j];
#if MINIMUM
            p->minimum[k][i] = ((global const ushort *)(block + 1152))[(g * 2 + i) * BLOCK_STEPS + j];
#endif
        }
    }
}

static inline void store_codes(const step_part *p, local uchar *to) {
    uint lane = get_local_id(0) % 32, warp = get_local_id(0) / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int k = 0; k < 2; k++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint a[4], scale = pick(p->scale[k][i], 0, 0x1010), least = 0;
#if BLOCK_STEPS == 2
            byte_pairs(p->codes[k][i][0], &a[0], &a[1]);
            byte_pairs(p->codes[k][i][1], &a[2], &a[3]);
#pragma unroll
            for (int e = 0; e < 4; e++) a[e] = sub2(a[e], 0x64806480u); /* 1024 + 128 */
#else
            uint up = p->codes[k][i][0] << 2, down = p->codes[k][i][0] >> 6;
            a[0] = sub2((up & 0x003c003cu) | 0x5c005c00u, MINIMUM ? 0x5c005c00u : 0x5c205c20u); /* 256 + code - 256 or 264 */
            a[1] = sub2((up & 0x03c003c0u) | 0x4c004c00u, MINIMUM ? 0x4c004c00u : 0x4e004e00u); /* 16 + code - 16 or 24 */
            a[2] = sub2((down & 0x003c003cu) | 0x5c005c00u, MINIMUM ? 0x5c005c00u : 0x5c205c20u);
            a[3] = sub2((down & 0x03c003c0u) | 0x4c004c00u, MINIMUM ? 0x4c004c00u : 0x4e004e00u);
#endif
#if MINIMUM
            least = pick(p->minimum[k][i], 0, 0x1010);
#endif
#pragma unroll
            for (int e = 0; e < 4; e++) a[e] = fma2(a[e], scale, least);
            *(local uint4 *)(to + ((warp * 2 + k) * 16 + g + 8 * i) * STRIDE + t * 16) = (uint4)(a[0], a[1], a[2], a[3]);
        }
}
#endif

/* c [64 tokens][64 rows] += x W^T over 32 columns. */
static inline void multiply_step(const local uchar *x, const local uchar *w, float c[4][8][4]) {
    uint lane = get_local_id(0) % 32, warp = get_local_id(0) / 32;
    /* of x, matrices: tokens 0..7, 8..15 of columns 0..7, then of 8..15; of w: rows 0..7 of columns 0..7 and 8..15, then
     * rows 8..15 */
    uint from_x = local_at(x) + (warp / 2 * 64 + lane % 16) * STRIDE + lane / 16 * 16;
    uint from_w = local_at(w) + (warp % 2 * 64 + lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint a[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) load_matrices(from_x + i * 16 * STRIDE + k * 32, a[i]);
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
            uint b[4];
            load_matrices(from_w + j * 8 * STRIDE + k * 32, b);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                multiply(c[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b);
                multiply(c[i][j + 1], a[i][0], a[i][1], a[i][2], a[i][3], b + 2);
            }
        }
    }
}

/* x: of to_halves, x_at in halves; factor: 32 where that had no norm, else 1. w_at: bytes; row_bytes: of f16 and bf16. bias_at:
 * floats, or ~0: none. flags: 1 add to y. Global size {ceil(n / 128) * 128, ceil(rows / 128)}: the groups that read the
 * same weights run together. */
kernel __attribute__((reqd_work_group_size(128, 1, 1))) void gemm(global const uchar *w, ulong w_at, int rows, int cols,
                                                                  ulong row_bytes, global const uchar *x, ulong x_at,
                                                                  float factor, global const float *constants, ulong bias_at,
                                                                  global float *y, ulong y_at, int ldy, int n, int flags) {
    local uchar x_step[2][TILE * STRIDE] __attribute__((aligned(128)));
    local uchar w_step[2][TILE * STRIDE] __attribute__((aligned(128)));
    uint token = get_group_id(0) * TILE, row = get_group_id(1) * TILE, steps = cols / 32;
    w += w_at;
    x += x_at * 2;
    float c[4][8][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) c[i][j][0] = c[i][j][1] = c[i][j][2] = c[i][j][3] = 0;
#ifdef BLOCK_BYTES
    uint turns = (steps + BLOCK_STEPS - 1) / BLOCK_STEPS, blocks = (rows + 15) / 16;
    step_part p;
    load_codes(w, blocks, turns, row, 0, &p);
    store_codes(&p, w_step[0]);
#else
    copy_step(w, row_bytes, row, rows - 1, 0, w_step[0]);
#endif
    copy_step(x, cols * 2, token, n - 1, 0, x_step[0]);
    end_copies();
    for (uint s = 0; s < steps; s++) {
        wait_copies(0);
        barrier(CLK_LOCAL_MEM_FENCE);
        if (s + 1 < steps) {
            copy_step(x, cols * 2, token, n - 1, s + 1, x_step[(s + 1) % 2]);
#ifdef BLOCK_BYTES
            load_codes(w, blocks, turns, row, s + 1, &p);
#else
            copy_step(w, row_bytes, row, rows - 1, s + 1, w_step[(s + 1) % 2]);
#endif
            end_copies();
        }
        multiply_step(x_step[s % 2], w_step[s % 2], c);
#ifdef BLOCK_BYTES
        if (s + 1 < steps) store_codes(&p, w_step[(s + 1) % 2]);
#endif
    }
    uint lane = get_local_id(0) % 32, warp = get_local_id(0) / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint to_token = token + warp / 2 * 64 + i * 16 + g + 8 * (e / 2),
                     to_row = row + warp % 2 * 64 + j * 8 + 2 * t + e % 2;
                if (to_token >= n || to_row >= rows) continue;
                ulong at = y_at + (ulong)to_token * ldy + to_row;
                float result = c[i][j][e] * factor + (bias_at == ~0UL ? 0 : constants[bias_at + to_row]);
                y[at] = flags & 1 ? y[at] + result : result;
            }
}
