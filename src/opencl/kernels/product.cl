/* product - y = W x for weights of every GGUF type, unpacked where they are used; activations and sums in float32.
 *
 *   gemv   up to MOST_ROWS rows of x: LANES work-items share a row of W
 *   gemm   more: a group makes a tile of 64 x 64 results, 4 x 4 a work-item
 *
 * Rows of W lie row_bytes apart, as in the file; q8_0 and q4_0 were taken apart into a plane of numbers and one of scales, which
 * begins at scales_at, so that both are read aligned. BLOCKED=1: the blocks of 16 rows of gemv_nv.cl. The product's first row is
 * row number from_row of W. */
#ifndef BLOCKED
#define BLOCKED 0
#endif
#define MOST_ROWS 8

float half_at(global const uchar *p) {
    return vload_half(0, (global const half *)p);
}

constant char iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Six-bit scale and minimum number j of 8: the last four of each borrow the top bits of the first. */
void scale_min(global const uchar *s, int j, float *scale, float *minimum) {
    *scale = (float)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
    *minimum = (float)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4);
}

/* Numbers 32 * sub.. of row number row: simd/scalar/unpack.h says what the bits are. */
void unpack(global const uchar *w, ulong w_at, ulong scales_at, ulong row, ulong row_bytes, int cols, int sub, float *x) {
#if BLOCKED && WTYPE == Q8_0
    ulong block = row / 16 * (ulong)((cols + 63) / 64) + (ulong)(sub / 2);
    global const uchar *at = w + w_at + block * 1088;
    int g = (int)(row % 8), half_of = (int)(row % 16) / 8, j = sub % 2;
    float d = half_at(at + 1024 + ((g * 2 + half_of) * 2 + j) * 2);
    at += half_of * 512 + g * 64 + j * 8;
    for (int i = 0; i < 32; i++) x[i] = d * (float)((int)at[i / 8 * 16 + i % 8] - 128);
#elif BLOCKED
    const int least = WTYPE != Q4_0;
    ulong block = row / 16 * (ulong)((cols + 127) / 128) + (ulong)(sub / 4);
    global const uchar *at = w + w_at + block * (least ? 1280 : 1152);
    int g = (int)(row % 8), half_of = (int)(row % 16) / 8, j = sub % 4, scale = ((g * 2 + half_of) * 4 + j) * 2;
    float d = half_at(at + 1024 + scale), m = least ? half_at(at + 1152 + scale) : -8.0f * d;
    at += half_of * 512 + g * 64 + j * 4;
    for (int i = 0; i < 32; i++) {
        int nibble = i % 8 / 2 + i % 2 * 4, byte = at[i / 8 * 16 + nibble / 2];
        x[i] = d * (float)(nibble % 2 ? byte >> 4 : byte & 15) + m;
    }
#else
    global const uchar *at = w + w_at + row * row_bytes;
#if WTYPE == F32
    for (int i = 0; i < 32; i++) x[i] = ((global const float *)at)[32 * sub + i];
#elif WTYPE == F16
    for (int i = 0; i < 32; i++) x[i] = vload_half((ulong)(32 * sub + i), (global const half *)at);
#elif WTYPE == BF16
    for (int i = 0; i < 32; i++) x[i] = as_float((uint)((global const ushort *)at)[32 * sub + i] << 16);
#elif WTYPE == Q8_0
    float d = half_at(w + scales_at + (row * (ulong)(cols / 32) + (ulong)sub) * 2);
    at = w + w_at + row * (ulong)cols + (ulong)(32 * sub);
    for (int i = 0; i < 32; i++) x[i] = d * (float)(char)at[i];
#elif WTYPE == Q4_0
    float d = half_at(w + scales_at + (row * (ulong)(cols / 32) + (ulong)sub) * 2);
    at = w + w_at + row * (ulong)(cols / 2) + (ulong)(16 * sub);
    for (int i = 0; i < 16; i++) x[i] = d * (float)((at[i] & 15) - 8), x[i + 16] = d * (float)((at[i] >> 4) - 8);
#elif WTYPE == Q4_1
    at += 20 * sub;
    float d = half_at(at), m = half_at(at + 2);
    for (int i = 0; i < 16; i++) x[i] = d * (float)(at[4 + i] & 15) + m, x[i + 16] = d * (float)(at[4 + i] >> 4) + m;
#elif WTYPE == Q5_0 || WTYPE == Q5_1
    at += (WTYPE == Q5_0 ? 22 : 24) * sub;
    global const uchar *high = at + (WTYPE == Q5_0 ? 2 : 4), *low = high + 4;
    float d = half_at(at), m = WTYPE == Q5_0 ? -16.0f * d : half_at(at + 2);
    for (int i = 0; i < 32; i++) {
        int q = (i < 16 ? low[i] & 15 : low[i - 16] >> 4) | (high[i / 8] >> i % 8 & 1) << 4;
        x[i] = WTYPE == Q5_0 ? d * (float)(q - 16) : d * (float)q + m;
    }
#elif WTYPE == IQ4_NL
    at += 18 * sub;
    float d = half_at(at);
    for (int i = 0; i < 16; i++)
        x[i] = d * (float)iq4_values[at[2 + i] & 15], x[i + 16] = d * (float)iq4_values[at[2 + i] >> 4];
#elif WTYPE == IQ4_XS
    at += 136 * (sub / 8);
    sub %= 8;
    int low = at[4 + sub / 2] >> 4 * (sub % 2) & 15, high = (at[2] | at[3] << 8) >> 2 * sub & 3;
    float d = half_at(at) * (float)((low | high << 4) - 32);
    at += 8 + 16 * sub;
    for (int i = 0; i < 16; i++) x[i] = d * (float)iq4_values[at[i] & 15], x[i + 16] = d * (float)iq4_values[at[i] >> 4];
#elif WTYPE == Q2_K
    at += 84 * (sub / 8);
    sub %= 8;
    global const uchar *q = at + 16 + 32 * (sub / 4);
    float d = half_at(at + 80), dmin = half_at(at + 82);
    for (int i = 0; i < 32; i++) {
        int s = at[2 * sub + i / 16];
        x[i] = d * (float)(s & 15) * (float)(q[i] >> 2 * (sub % 4) & 3) - dmin * (float)(s >> 4);
    }
#elif WTYPE == Q3_K
    at += 110 * (sub / 8);
    sub %= 8;
    global const uchar *q = at + 32 + 32 * (sub / 4), *scales = at + 96;
    float d = half_at(at + 108);
    for (int i = 0; i < 32; i++) {
        int j = 2 * sub + i / 16, low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
        float scale = d * (float)((low | (scales[8 + j % 4] >> 2 * (j / 4) & 3) << 4) - 32);
        x[i] = scale * (float)((q[i] >> 2 * (sub % 4) & 3) + 4 * (at[i] >> sub & 1) - 4);
    }
#elif WTYPE == Q4_K
    at += 144 * (sub / 8);
    sub %= 8;
    float scale, minimum;
    scale_min(at + 4, sub, &scale, &minimum);
    scale *= half_at(at);
    minimum *= half_at(at + 2);
    at += 16 + 32 * (sub / 2);
    for (int i = 0; i < 32; i++) x[i] = scale * (float)(at[i] >> 4 * (sub % 2) & 15) - minimum;
#elif WTYPE == Q5_K
    at += 176 * (sub / 8);
    sub %= 8;
    float scale, minimum;
    scale_min(at + 4, sub, &scale, &minimum);
    scale *= half_at(at);
    minimum *= half_at(at + 2);
    global const uchar *high = at + 16, *q = at + 48 + 32 * (sub / 2);
    for (int i = 0; i < 32; i++)
        x[i] = scale * (float)((q[i] >> 4 * (sub % 2) & 15) | (high[i] >> sub & 1) << 4) - minimum;
#elif WTYPE == Q6_K
    at += 210 * (sub / 8);
    sub %= 8;
    global const uchar *l = at + 64 * (sub / 4) + 32 * (sub % 2), *h = at + 128 + 32 * (sub / 4);
    float d = half_at(at + 208);
    for (int i = 0; i < 32; i++) {
        float scale = d * (float)(char)at[192 + 2 * sub + i / 16];
        x[i] = scale * (float)(((l[i] >> 4 * (sub % 4 / 2) & 15) | (h[i] >> 2 * (sub % 4) & 3) << 4) - 32);
    }
#endif
#endif
}

/* Rows of plain floats may end within a run of 32: what follows counts as zeros. */
void unpack_edge(global const uchar *w, ulong w_at, ulong scales_at, ulong row, ulong row_bytes, int cols, int sub, float *x) {
#if WTYPE == F32 || WTYPE == F16 || WTYPE == BF16
    if (32 * sub + 32 > cols) {
        global const uchar *at = w + w_at + row * row_bytes;
        for (int i = 0; i < 32; i++) {
            int j = 32 * sub + i;
            x[i] = 0.0f;
            if (j >= cols) continue;
#if WTYPE == F32
            x[i] = ((global const float *)at)[j];
#elif WTYPE == F16
            x[i] = vload_half((ulong)j, (global const half *)at);
#else
            x[i] = as_float((uint)((global const ushort *)at)[j] << 16);
#endif
        }
        return;
    }
#endif
    unpack(w, w_at, scales_at, row, row_bytes, cols, sub, x);
}

/* Group: row of W. y rows begin at the product's own first row; add 1: the product is added to them. */
kernel void gemv(global const uchar *w, ulong w_at, ulong scales_at, int from_row, int rows, int cols, ulong row_bytes,
                 global const float *x, ulong x_at, int ldx, global const float *bias, ulong bias_at, int has_bias,
                 global float *y, ulong y_at, int ldy, int n, int add) {
    local float sums[MOST_ROWS][LANES];
    int lane = (int)get_local_id(0), subs = (cols + 31) / 32;
    ulong row = get_group_id(0);
    float sum[MOST_ROWS];
    for (int i = 0; i < MOST_ROWS; i++) sum[i] = 0.0f;
    for (int sub = lane; sub < subs; sub += LANES) {
        float v[32];
        int count = cols - 32 * sub < 32 ? cols - 32 * sub : 32;
        unpack_edge(w, w_at, scales_at, (ulong)from_row + row, row_bytes, cols, sub, v);
        for (int i = 0; i < n; i++) {
            global const float *from = x + x_at + (ulong)i * (ulong)ldx + (ulong)(32 * sub);
            float part = 0.0f;
            if (count == 32)
                for (int j = 0; j < 32; j++) part += v[j] * from[j];
            else
                for (int j = 0; j < count; j++) part += v[j] * from[j];
            sum[i] += part;
        }
    }
    for (int i = 0; i < n; i++) sums[i][lane] = sum[i];
    for (int step = LANES / 2; step > 0; step /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane < step)
            for (int i = 0; i < n; i++) sums[i][lane] += sums[i][lane + step];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = lane; i < n; i += LANES) {
        global float *to = y + y_at + (ulong)i * (ulong)ldy + row;
        float result = sums[i][0] + (has_bias ? bias[bias_at + row] : 0.0f);
        *to = add ? *to + result : result;
    }
}

#define TILE 64
#define EACH 4
#define SIDE (TILE / EACH)

kernel void gemm(global const uchar *w, ulong w_at, ulong scales_at, int from_row, int rows, int cols, ulong row_bytes,
                 global const float *x, ulong x_at, int ldx, global const float *bias, ulong bias_at, int has_bias,
                 global float *y, ulong y_at, int ldy, int n, int add) {
    local float a[32][TILE + 1], b[32][TILE + 1];
    int lane = (int)get_local_id(0), column = lane % SIDE, line = lane / SIDE;
    int first_row = (int)get_group_id(0) * TILE, first_x = (int)get_group_id(1) * TILE;
    float sum[EACH][EACH];
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) sum[i][j] = 0.0f;
    for (int sub = 0; 32 * sub < cols; sub++) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane < TILE) { /* a quarter of the group unpacks */
            float v[32];
            if (first_row + lane < rows)
                unpack_edge(w, w_at, scales_at, (ulong)from_row + (ulong)(first_row + lane), row_bytes, cols, sub, v);
            for (int k = 0; k < 32; k++) b[k][lane] = first_row + lane < rows ? v[k] : 0.0f;
        }
        for (int i = lane; i < 32 * TILE; i += SIDE * SIDE) {
            int k = i % 32, token = first_x + i / 32, at = 32 * sub + k;
            a[k][i / 32] = token < n && at < cols ? x[x_at + (ulong)token * (ulong)ldx + (ulong)at] : 0.0f;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int k = 0; k < 32; k++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++) sum[i][j] += a[k][line + i * SIDE] * b[k][column + j * SIDE];
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            int token = first_x + line + i * SIDE, row = first_row + column + j * SIDE;
            if (token >= n || row >= rows) continue;
            global float *to = y + y_at + (ulong)token * (ulong)ldy + (ulong)row;
            float result = sum[i][j] + (has_bias ? bias[bias_at + (ulong)row] : 0.0f);
            *to = add ? *to + result : result;
        }
}
