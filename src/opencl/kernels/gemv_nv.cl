/* gemv, NVIDIA - products of weights with a few rows of activations (decoding), at the speed of the device's memory.
 *
 *   y[i][j] = act of (bias[j] + W_j . norm(x[i]))   (+ y[i][j] where add is set)      i < n <= 8, j < rows
 *
 * Owns decoding's products on devices with mma.m16n8k16 (compute capability 8.0 and later): up to three of one x in a launch.
 * A work-group takes 16 rows of a W at a time and its warps share the columns; weights go from memory to registers once and are
 * the matrix unit's operand of 16 rows, activations the one of 8 columns (with one row of x all eight are the same). Codes of 8
 * and 4 bits become halves by an exponent over them: 1024 + code, 256 + code or 16 + code, less that number.
 *
 * Activations are rounded to f16 times 2^-5, which keeps numbers up to two million in range, and those from 0.002 on whole. With
 * norm they are staged in local
 * memory times the norm's weights, and the factor that makes the norm of them, whose squares are summed on the way, comes last:
 * nothing waits for it. Others are read where they are wanted: each column is, in a group, by one warp alone.
 *
 * What only another launch of this kernel reads may lie as halves, times 2^-5 already: X16=1 reads such rows, Y16=1 writes them
 * (not with WTYPE 30).
 *
 * Build options: WTYPE 1 (f16), 30 (bf16), 8 (q8_0) or 2, 3, 12 (4 bits: scale, and minimum with MINIMUM=1); NORM=1; GLU=1: two
 * matrices of one shape, y = SiLU(Wx) W2x, or GELU; WARPS, UNROLL.
 * f16, bf16: rows as in the file, 16-byte aligned, cols a multiple of 64. Others: blocks of 16 rows as repack.c lays them out:
 *
 *   8 bits  [rows / 16][cols / 64]    row g, then g + 8, of lane (g, t): [2][32 lanes][16]; byte 8 j + e is column
 *                                     32 j + 8 t + e, plus 128; then scales [8 g][row g, g + 8][2 j], half: 1088 bytes
 *   4 bits  [rows / 16][cols / 128]   [2][32 lanes][4 words j]; nibbles p and p + 4 of word j are columns 32 j + 8 t + 2 p and
 *                                     the next; then scales [8 g][row g, g + 8][4 j], half, and with MINIMUM minima
 *                                     likewise: 1152 or 1280 bytes
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
#define RUNS (STEP / 32)
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
static inline void apply(const part *p, uint b[RUNS][2][2], float sums[RUNS][2], float c[4]) {
#pragma unroll
    for (int j = 0; j < RUNS; j++) {
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

#define X_LIFT 0.03125f /* of activations */

/* Two lifted activations as the unit takes them. */
static inline uint x_pair(float x, float y) {
    return pair(x, y);
}

/* This lane's activations of a turn: columns 8t.. of every 32, of the row that column g stands for. */
#if NORM
static inline void load_x(local const uint *x, uint b[RUNS][2][2]) {
#pragma unroll
    for (int j = 0; j < RUNS; j++) {
        uint4 four = *(local const uint4 *)(x + j * 16 + get_local_id(0) % 4 * 4);
        b[j][0][0] = four.x, b[j][0][1] = four.y, b[j][1][0] = four.z, b[j][1][1] = four.w;
    }
}
#else
/* The same as it comes from memory: floats, or with X16 halves. */
typedef struct {
#if X16
    uint two[RUNS][4];
#else
    float4 four[RUNS][2];
#endif
} x_part;

static inline void fetch_x(global const float *x, ulong at, uint left, x_part *to) { /* left: columns that are there */
#pragma unroll
    for (int j = 0; j < RUNS; j++) {
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

static inline void load_x(const x_part *from, uint b[RUNS][2][2]) {
#pragma unroll
    for (int j = 0; j < RUNS; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
#if X16
            b[j][i][0] = from->two[j][2 * i], b[j][i][1] = from->two[j][2 * i + 1];
#else
            float4 v = from->four[j][i] * X_LIFT;
            b[j][i][0] = x_pair(v.x, v.y), b[j][i][1] = x_pair(v.z, v.w);
#endif
        }
}
#endif

#if MINIMUM
static inline void sum_x(uint b[RUNS][2][2], float sums[RUNS][2]) {
#pragma unroll
    for (int j = 0; j < RUNS; j++) { /* ones on the side of 16 */
        float d[4] = {0, 0, 0, 0};
        multiply(d, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, b[j][0]);
        multiply(d, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, b[j][1]);
        sums[j][0] = d[0];
        sums[j][1] = d[1];
    }
}
#endif

static inline float activate(float x, int gelu) {
    if (gelu) return 0.5f * x * (1 + tanh(0.797884561f * x * (1 + 0.044715f * x * x)));
    return x / (1 + exp(-x));
}

#ifndef CHAIN /* chain_nv.cl has its own */
#if NORM
/* One row into local memory: x norm / 32 as pairs, [padded / 2]. Returns the sum of what this work-item squared. */
static inline float stage(global const float *x, global const float *norm, uint cols, uint padded, local uint *to) {
    const uint step = WARPS * 128;
    float sum = 0;
    for (uint first = get_local_id(0) * 4; first < padded; first += 4 * step) { /* loads of four turns at once */
        float4 v[4], f[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint i = first + k * step;
            v[k] = f[k] = 0;
            if (i < cols) {
                v[k] = *(global const float4 *)(x + i);
                f[k] = *(global const float4 *)(norm + i);
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint i = first + k * step;
            sum += v[k].x * v[k].x + v[k].y * v[k].y + v[k].z * v[k].z + v[k].w * v[k].w;
            v[k] *= f[k] * X_LIFT;
            if (i < padded) {
                to[i / 2] = x_pair(v[k].x, v[k].y);
                to[i / 2 + 1] = x_pair(v[k].z, v[k].w);
            }
        }
    }
    return sum;
}
#endif

#define MATRICES (1 + GLU)

/* 16 rows of one of the matrices. */
typedef struct {
    global const uchar *w;
    uint part, row, rows;
} band;

static inline void load_turns(const band *b, global const uchar *w2, ulong row_bytes, uint turns, uint turn,
                              part p[UNROLL][MATRICES]) {
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
#pragma unroll
        for (int m = 0; m < MATRICES; m++)
            if (turn + u * WARPS < turns)
                load_part(m ? w2 : b->w, row_bytes, b->rows, turns, b->row, turn + u * WARPS, &p[u][m]);
}

#define ARGUMENTS(k)                                                                                                                  \
    global const uchar *w##k, ulong w##k##_at, int rows##k, global const float *bias##k, ulong bias##k##_at, global float *y##k, \
        ulong y##k##_at, int ldy##k

/* Number i of the bands of all parts. */
#define FIND(i, b)                                                                                                               \
    do {                                                                                                                         \
        uint bands0 = (rows0 + 15) / 16, bands1 = (rows1 + 15) / 16;                                                             \
        if ((i) < bands0)                                                                                                        \
            (b).w = w0 + w0_at, (b).part = 0, (b).row = (i) * 16, (b).rows = rows0;                                              \
        else if ((i) < bands0 + bands1)                                                                                          \
            (b).w = w1 + w1_at, (b).part = 1, (b).row = ((i) - bands0) * 16, (b).rows = rows1;                                   \
        else                                                                                                                     \
            (b).w = w2 + w2_at, (b).part = 2, (b).row = ((i) - bands0 - bands1) * 16, (b).rows = rows2;                          \
    } while (0)

/* Parts: matrices of one type and as many columns, rows 0: none; with GLU part 1 is the second matrix and has no rows of its own.
 * w: bytes; row_bytes: of f16 and bf16. norm_at, bias_at: floats, bias_at ~0: none. flags: 1 add to y, 2 GELU. staged: with
 * NORM, n (cols padded to 128, + 8) halves. Global size {groups * WARPS * 32}, groups up to the bands of all parts; fewer take
 * several. */
kernel __attribute__((reqd_work_group_size(WARPS * 32, 1, 1))) void
gemv(ARGUMENTS(0), ARGUMENTS(1), ARGUMENTS(2), int cols, ulong row_bytes, global const float *x, ulong x_at, int ldx, global const float *norm,
     ulong norm_at, float eps, int n, int flags, local uint4 *staged) {
    local float swap[WARPS * 16 * 8 * MATRICES];
    local float squares[8 * WARPS];
    uint id = get_local_id(0), warp = id / 32, lane = id % 32, g = lane / 4, t = lane % 4;
    uint turns = (cols + STEP - 1) / STEP, column = min(g, (uint)n - 1), at_band = get_group_id(0);
    uint bands = (rows0 + 15) / 16 + (GLU ? 0 : (rows1 + 15) / 16 + (rows2 + 15) / 16);
    global const uchar *second = w1 + w1_at; /* with GLU */
    part p[UNROLL][MATRICES];
    band b;
    FIND(at_band, b);
    load_turns(&b, second, row_bytes, turns, warp, p);
#if NORM
    uint padded = (cols + 127) / 128 * 128, stride = padded / 2 + 4; /* words; the odd 16 bytes keep rows apart in banks */
    for (int i = 0; i < n; i++) {
        float sum = stage(x + x_at + (ulong)i * ldx, norm + norm_at, cols, padded, (local uint *)staged + i * stride);
        for (int l = 1; l < 32; l *= 2) sum += lanes_xor(sum, l);
        if (lane == 0) squares[i * WARPS + warp] = sum;
    }
    local const uint *mine = (local const uint *)staged + column * stride;
    barrier(CLK_LOCAL_MEM_FENCE);
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
                    uint at = (now + u * WARPS) * STEP, of_x[RUNS][2][2];
                    float sums[RUNS][2];
#if NORM
                    load_x(mine + at / 2, of_x);
#else
                    load_x(&next_x[u], of_x);
                    if (turn + u * WARPS < turns)
                        fetch_x(x, mine + (turn + u * WARPS) * STEP, cols - (turn + u * WARPS) * STEP, &next_x[u]);
#endif
#if MINIMUM
                    sum_x(of_x, sums);
#endif
#pragma unroll
                    for (int m = 0; m < MATRICES; m++) {
                        apply(&p[u][m], of_x, sums, c[m]);
                        /* the registers' next content is asked for at once */
                        if (turn + u * WARPS < turns)
                            load_part(m ? second : b.w, row_bytes, b.rows, turns, b.row, turn + u * WARPS, &p[u][m]);
                    }
                }
        }
        const band done = b;
        at_band += get_num_groups(0);
        if (at_band < bands) {
            FIND(at_band, b);
            load_turns(&b, second, row_bytes, turns, warp, p);
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
            uint token = i / 16, j = done.row + i % 16;
            float sum[MATRICES], unit = 1 / X_LIFT;
#if NORM
            float squared = 0;
            for (int k = 0; k < WARPS; k++) squared += squares[token * WARPS + k];
            unit /= sqrt(squared / cols + eps);
#endif
#pragma unroll
            for (int m = 0; m < MATRICES; m++) {
                sum[m] = 0;
#pragma unroll
                for (int k = 0; k < WARPS; k++) sum[m] += swap[((m * WARPS + k) * 8 + token) * 16 + i % 16];
                sum[m] *= unit;
            }
            if (j < done.rows) {
                global const float *bias = done.part == 0 ? bias0 : done.part == 1 ? bias1 : bias2;
                ulong bias_at = done.part == 0 ? bias0_at : done.part == 1 ? bias1_at : bias2_at;
                global float *y = done.part == 0 ? y0 + y0_at : done.part == 1 ? y1 + y1_at : y2 + y2_at;
                ulong at = (ulong)token * (done.part == 0 ? ldy0 : done.part == 1 ? ldy1 : ldy2) + j;
                float result = sum[0] + (bias_at == ~0UL ? 0 : bias[bias_at + j]);
#if GLU
                result = activate(result, flags & 2) * sum[1];
#endif
#if Y16
                vstore_half(result * X_LIFT, at, (global half *)y);
#else
                y[at] = flags & 1 ? y[at] + result : result;
#endif
            }
        }
        if (at_band >= bands) break;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}
#endif
