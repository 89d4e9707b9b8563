/* gemv, NVIDIA - products of weights with a few rows of activations (decoding), at the speed of the device's memory.
 *
 *   y[i][j] = act of (bias[j] + W_j . norm(x[i]))   (+ y[i][j] where add is set)      i < n <= 8, j < rows
 *
 * Owns decoding's products on devices with mma.m16n8k16 (compute capability 8.0 and later). A work-group takes 16 rows of W at a
 * time and its warps share the columns; weights go from memory to registers once and are the matrix unit's operand of 16 rows,
 * activations the one of 8 columns (with one row of x all eight are the same). Codes of 8 and 4 bits become halves by an exponent
 * over them, which makes them 1024 + code, 256 + code or 16 + code, less that number.
 *
 * Activations are rounded to f16: with norm after it, otherwise times 2^-5, which keeps numbers up to two million in range. Rows
 * with norm are staged in local memory, others are read where they are wanted: each column is, in a group, by one warp alone.
 *
 * What only another launch of this kernel reads may lie as halves, times 2^-5 already: X16=1 reads such rows, Y16=1 writes them
 * (not with WTYPE 30).
 *
 * Build options: WTYPE 1 (f16), 30 (bf16), 8 (q8_0) or 2, 3, 12 (4 bits: scale, and minimum with MINIMUM=1); NORM=1; GLU=1: two
 * matrices of one shape, y = SiLU(Wx) W2x, or GELU; WARPS, UNROLL.
 * f16, bf16: rows as in the file, 16-byte aligned, cols a multiple of 64. Others: blocks of 16 rows as repack.c lays them out:
 *
 *   q8   [rows / 16][cols / 64]   row g then g + 8 of lane (g, t): [2][32 lanes][16]: byte 8 j + e is column 32 j + 8 t + e, +
 * 128 then scales [8 g][row g, g + 8][2 j], half: 1088 bytes 4bit [rows / 16][cols / 128]  [2][32 lanes][4 words j]: nibbles p
 * and p + 4 of word j are columns 32 j + 8 t + 2 p, + 1 then scales [8 g][row g, g + 8][4 j], half, and with MINIMUM minima
 * likewise: 1152 or 1280 bytes
 *
 * Rows and columns of a block that are not there have scales (and minima) of zero.
 */
#ifndef WARPS
#define WARPS 8
#endif
#ifndef UNROLL
#define UNROLL 2
#endif
#ifndef GLU
#define GLU 0
#endif
#ifndef NORM
#define NORM 0
#endif
#ifndef X16
#define X16 0
#endif
#ifndef Y16
#define Y16 0
#endif
#ifndef MINIMUM
#define MINIMUM 0
#endif
#if WTYPE == 1 || WTYPE == 30
#define BITS4 0
#define STEP  64 /* columns of a turn */
#define WORDS 16 /* of a lane's weights in a turn */
#elif WTYPE == 8
#define BITS4       0
#define STEP        64
#define WORDS       8
#define BLOCK_BYTES 1088
#else
#define STEP        128
#define WORDS       8
#define BITS4       1
#define BLOCK_BYTES (MINIMUM ? 1280 : 1152)
#endif
#define GROUPS (STEP / 32)
typedef struct {
    uint row[WORDS];
#ifdef BLOCK_BYTES
    uint scale[BITS4 ? 4 : 2];
#if MINIMUM
    uint minimum[4];
#endif
#endif
} part; /* a lane's weights of one turn: row g, then g + 8 */

/* Turn `turn` of the 16 rows from `row` on. */
static inline void load_part(global const uchar *w, ulong row_bytes, uint rows, uint turns, uint row, uint turn, part *p) {
    uint lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
#ifdef BLOCK_BYTES
    global const uchar *block = w + ((ulong)(row / 16) * turns + turn) * BLOCK_BYTES;
    load(block + lane * 16, 16, p->row);
    load(block + 512 + lane * 16, 16, p->row + 4);
#if BITS4
    load(block + 1024 + g * 16, 16, p->scale);
#if MINIMUM
    load(block + 1152 + g * 16, 16, p->minimum);
#endif
#else
    load(block + 1024 + g * 8, 8, p->scale);
#endif
#else
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            load(w + min(row + g + 8 * i, rows - 1) * row_bytes + turn * (STEP * 2) + j * 64 + t * 16, 16,
                 p->row + i * 8 + j * 4);
#endif
}

/* c += the part times the turn's activations b; sums: with MINIMUM, of the groups of columns 2t and 2t + 1. */
static inline void apply(const part *p, uint b[GROUPS][2][2], float sums[GROUPS][2], float c[4]) {
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
#ifdef BLOCK_BYTES
        uint a[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#if BITS4
            uint up = p->row[4 * i + j] << 2, down = p->row[4 * i + j] >> 6;
            a[i][0] = sub2((up & 0x003c003cu) | 0x5c005c00u, MINIMUM ? 0x5c005c00u : 0x5c205c20u); /* 256 + code - 256 or 264 */
            a[i][1] = sub2((up & 0x03c003c0u) | 0x4c004c00u, MINIMUM ? 0x4c004c00u : 0x4e004e00u); /* 16 + code - 16 or 24 */
            a[i][2] = sub2((down & 0x003c003cu) | 0x5c005c00u, MINIMUM ? 0x5c005c00u : 0x5c205c20u);
            a[i][3] = sub2((down & 0x03c003c0u) | 0x4c004c00u, MINIMUM ? 0x4c004c00u : 0x4e004e00u);
#else
#pragma unroll
            for (int e = 0; e < 4; e++)
                a[i][e] =
                    sub2(pick(p->row[4 * i + 2 * j + e / 2], 0x64646464u, e % 2 ? 0x4342 : 0x4140), 0x64806480u); /* 1024 + 128 */
#endif
        }
        float f[2], unused, d[4] = {0, 0, 0, 0};
        multiply(d, a[0][0], a[1][0], a[0][1], a[1][1], b[j][0]);
        multiply(d, a[0][2], a[1][2], a[0][3], a[1][3], b[j][1]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint two = p->scale[BITS4 ? 2 * i + j / 2 : i];
            halves(j % 2 ? two >> 16 : two, &f[i], &unused);
            c[2 * i] += f[i] * d[2 * i];
            c[2 * i + 1] += f[i] * d[2 * i + 1];
#if MINIMUM
            float least;
            two = p->minimum[2 * i + j / 2];
            halves(j % 2 ? two >> 16 : two, &least, &unused);
            c[2 * i] += least * sums[j][0];
            c[2 * i + 1] += least * sums[j][1];
#endif
        }
#else
        multiply(c, p->row[4 * j], p->row[8 + 4 * j], p->row[4 * j + 1], p->row[8 + 4 * j + 1], b[j][0]);
        multiply(c, p->row[4 * j + 2], p->row[8 + 4 * j + 2], p->row[4 * j + 3], p->row[8 + 4 * j + 3], b[j][1]);
#endif
    }
}

#define LIFT 0.03125f /* of activations without norm */

/* This lane's activations of a turn: columns 8t.. of every 32, of the row that column g stands for. */
#if NORM
static inline void load_x(local const uint *x, uint b[GROUPS][2][2]) {
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        uint4 four = *(local const uint4 *)(x + j * 16 + get_local_id(0) % 4 * 4);
        b[j][0][0] = four.x, b[j][0][1] = four.y, b[j][1][0] = four.z, b[j][1][1] = four.w;
    }
}
#else
/* The same as it comes from memory: floats, or with X16 halves. */
typedef struct {
#if X16
    uint two[GROUPS][4];
#else
    float4 four[GROUPS][2];
#endif
} x_part;

static inline void fetch_x(global const float *x, ulong at, uint left, x_part *to) { /* left: columns that are there */
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        uint k = j * 32 + get_local_id(0) % 4 * 8;
#if X16
        to->two[j][0] = to->two[j][1] = to->two[j][2] = to->two[j][3] = 0;
        if (k < left) {
            uint4 v = *(global const uint4 *)((global const ushort *)x + at + k);
            to->two[j][0] = v.x, to->two[j][1] = v.y, to->two[j][2] = v.z, to->two[j][3] = v.w;
        }
#else
        to->four[j][0] = to->four[j][1] = 0;
        if (k < left) {
            to->four[j][0] = *(global const float4 *)(x + at + k);
            to->four[j][1] = *(global const float4 *)(x + at + k + 4);
        }
#endif
    }
}

static inline void load_x(const x_part *from, uint b[GROUPS][2][2]) {
#pragma unroll
    for (int j = 0; j < GROUPS; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
#if X16
            b[j][i][0] = from->two[j][2 * i], b[j][i][1] = from->two[j][2 * i + 1];
#else
            float4 v = from->four[j][i] * LIFT;
            b[j][i][0] = pair(v.x, v.y), b[j][i][1] = pair(v.z, v.w);
#endif
        }
}
#endif

#if MINIMUM
static inline void sum_x(uint b[GROUPS][2][2], float sums[GROUPS][2]) {
#pragma unroll
    for (int j = 0; j < GROUPS; j++) { /* ones on the side of 16 */
        float d[4] = {0, 0, 0, 0};
        multiply(d, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, b[j][0]);
        multiply(d, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, b[j][1]);
        sums[j][0] = d[0];
        sums[j][1] = d[1];
    }
}
#endif

#if NORM
/* One row into local memory: rms_norm(x) norm as halves, [padded / 2]; swap: local [WARPS]. cols <= WARPS * 128 * HELD (a build
 * option, 8192 columns by default) */
#ifndef HELD
#define HELD (8192 / (WARPS * 128))
#endif
static inline void stage(global const float *x, global const float *norm, float eps, uint cols, uint padded, local uint *to,
                         local float *swap) {
    uint id = get_local_id(0), lane = id % 32, warp = id / 32;
    float4 v[HELD], f[HELD];
    float sum = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        uint i = k * (WARPS * 128) + id * 4;
        v[k] = f[k] = 0;
        if (i < cols) {
            v[k] = *(global const float4 *)(x + i);
            f[k] = *(global const float4 *)(norm + i);
        }
    }
#pragma unroll
    for (int k = 0; k < HELD; k++) sum += v[k].x * v[k].x + v[k].y * v[k].y + v[k].z * v[k].z + v[k].w * v[k].w;
    for (int l = 1; l < 32; l *= 2) sum += lanes_xor(sum, l);
    if (lane == 0) swap[warp] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    sum = 0;
    for (int w = 0; w < WARPS; w++) sum += swap[w];
    float unit = 1 / sqrt(sum / cols + eps);
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        uint i = k * (WARPS * 128) + id * 4;
        if (i < padded) {
            v[k] *= f[k] * unit;
            to[i / 2] = pair(v[k].x, v[k].y);
            to[i / 2 + 1] = pair(v[k].z, v[k].w);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}
#endif

static inline float activate(float x, int gelu) {
    if (gelu) return 0.5f * x * (1 + tanh(0.797884561f * x * (1 + 0.044715f * x * x)));
    return x / (1 + exp(-x));
}

#define MATRICES (1 + GLU)

static inline void load_turns(global const uchar *w, global const uchar *w2, ulong row_bytes, uint rows, uint turns, uint row,
                              uint turn, part p[UNROLL][MATRICES]) {
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
#pragma unroll
        for (int m = 0; m < MATRICES; m++)
            if (turn + u * WARPS < turns)
                load_part(m ? w2 : w, row_bytes, rows, turns, row, turn + u * WARPS, &p[u][m]);
}

/* Global size {groups * WARPS * 32}; groups up to rows / 16, fewer take several. w2: with GLU the second matrix. w_at, w2_at: bytes; row_bytes: of f16 and bf16.
 * norm_at, bias_at: floats, bias_at ~0: none. flags: 1 add to y, 2 GELU.
 * staged: with NORM, n (cols padded to 128, + 8) halves. */
kernel __attribute__((reqd_work_group_size(WARPS * 32, 1, 1))) void
gemv(global const uchar *w, ulong w_at, global const uchar *w2, ulong w2_at, int rows, int cols, ulong row_bytes, global const float *x, ulong x_at,
     int ldx, global const float *constants, ulong bias_at, ulong norm_at, float eps, global float *y, ulong y_at, int ldy, int n,
     int flags, local uint4 *staged) {
    local float swap[WARPS * 16 * 8 * MATRICES];
    uint id = get_local_id(0), warp = id / 32, lane = id % 32, g = lane / 4, t = lane % 4;
    uint turns = (cols + STEP - 1) / STEP, row = get_group_id(0) * 16, column = min(g, (uint)n - 1);
    part p[UNROLL][MATRICES];
    w += w_at, w2 += w2_at;
    load_turns(w, w2, row_bytes, rows, turns, row, warp, p);
#if NORM
    uint padded = (cols + 127) / 128 * 128, stride = padded / 2 + 4; /* words; the odd 16 bytes keep rows apart in banks */
    for (int i = 0; i < n; i++)
        stage(x + x_at + (ulong)i * ldx, constants + norm_at, eps, cols, padded, (local uint *)staged + i * stride, swap);
    local const uint *mine = (local const uint *)staged + column * stride;
#else
    ulong mine = x_at + (ulong)column * ldx;
    x_part next_x[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        if (warp + u * WARPS < turns) fetch_x(x, mine + (warp + u * WARPS) * STEP, cols - (warp + u * WARPS) * STEP, &next_x[u]);
#endif
    for (;;) {
        float c[MATRICES][4];
#pragma unroll
        for (int m = 0; m < MATRICES; m++) c[m][0] = c[m][1] = c[m][2] = c[m][3] = 0;
        for (uint turn = warp; turn < turns;) {
            uint now = turn;
            turn += WARPS * UNROLL;
#pragma unroll
            for (int u = 0; u < UNROLL; u++)
                if (now + u * WARPS < turns) {
                    uint at = (now + u * WARPS) * STEP, b[GROUPS][2][2];
                    float sums[GROUPS][2];
#if NORM
                    load_x(mine + at / 2, b);
#else
                    load_x(&next_x[u], b);
                    if (turn + u * WARPS < turns)
                        fetch_x(x, mine + (turn + u * WARPS) * STEP, cols - (turn + u * WARPS) * STEP, &next_x[u]);
#endif
#if MINIMUM
                    sum_x(b, sums);
#endif
#pragma unroll
                    for (int m = 0; m < MATRICES; m++) {
                        apply(&p[u][m], b, sums, c[m]);
                        /* the registers' next content is asked for at once */
                        if (turn + u * WARPS < turns)
                            load_part(m ? w2 : w, row_bytes, rows, turns, row, turn + u * WARPS, &p[u][m]);
                    }
                }
        }
        uint first = row;
        row += get_num_groups(0) * 16;
        if (row < rows) {
            load_turns(w, w2, row_bytes, rows, turns, row, warp, p);
#if !NORM
#pragma unroll
            for (int u = 0; u < UNROLL; u++)
                if (warp + u * WARPS < turns)
                    fetch_x(x, mine + (warp + u * WARPS) * STEP, cols - (warp + u * WARPS) * STEP, &next_x[u]);
#endif
        }
#pragma unroll
        for (int m = 0; m < MATRICES; m++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (2 * t + e % 2 < n) swap[((m * WARPS + warp) * 8 + 2 * t + e % 2) * 16 + g + 8 * (e / 2)] = c[m][e];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint i = id; i < 16 * n; i += WARPS * 32) {
            uint token = i / 16, j = first + i % 16;
            float sum[MATRICES];
#pragma unroll
            for (int m = 0; m < MATRICES; m++) {
                sum[m] = 0;
#pragma unroll
                for (int k = 0; k < WARPS; k++) sum[m] += swap[((m * WARPS + k) * 8 + token) * 16 + i % 16];
                if (!NORM) sum[m] *= 1 / LIFT;
            }
            if (j < rows) {
                ulong at = y_at + (ulong)token * ldy + j;
                float result = sum[0] + (bias_at == ~0UL ? 0 : constants[bias_at + j]);
#if GLU
                result = activate(result, flags & 2) * sum[1];
#endif
#if Y16
                vstore_half(result * LIFT, at, (global half *)y);
#else
                y[at] = flags & 1 ? y[at] + result : result;
#endif
            }
        }
        if (row >= rows) break;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}
