/* cache - keys and values of one layer as rows: storing tokens, and reading keys back.
 *
 *   [kv_heads][capacity][STRIDE] numbers of TYPE, STRIDE being DIM padded with zeros to 16, or to 32 for q8 and q4
 *   q8, q4: scales beside them: SCALES 0: half floats [kv_heads][capacity][STRIDE / 32], as keys have; 1: floats
 *           [kv_heads][capacity], one a token, as values have
 *   q4: a run of 32 numbers is 16 bytes, number i of it in the low nibble of byte i, i + 16 in the high one, plus 8
 *
 * RING > 0: slots of tokens are taken in turns of RING, and every token is stored twice, RING slots apart, so that any run of up to
 * RING of the newest tokens lies in one piece somewhere. */
#define QUANT  (TYPE == Q8_0 || TYPE == Q4_0)
#define STRIDE PAD(DIM, QUANT ? 32 : 16)
#if TYPE == Q4_0
#define ROW_BYTES (STRIDE / 2)
#elif TYPE == Q8_0
#define ROW_BYTES STRIDE
#elif TYPE == F32
#define ROW_BYTES (STRIDE * 4)
#else
#define ROW_BYTES (STRIDE * 2)
#endif
#define GROUPS (STRIDE / 32)

/* x [DIM] turned in place: simd/cache.h's mka_hadamard */
void turn_row(local float *x, int lane) {
    const int run = DIM & -DIM;
    for (int step = 1; step < run; step *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = lane; i < DIM / 2; i += LANES) {
            int first = i / step * 2 * step + i % step;
            float a = x[first], b = x[first + step];
            x[first] = a + b;
            x[first + step] = a - b;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float norm = 1.0f / sqrt((float)run);
    for (int i = lane; i < DIM; i += LANES) x[i] *= norm;
}

int rounded(float x, float inverse, int most) {
    float q = rint(x * inverse);
    return q >= (float)-most && q <= (float)most ? (int)q : 0;
}

/* The scale of numbers from..from+count-1, and its inverse. */
float scale_of(local const float *x, int from, int count, float *inverse, global uchar *at) {
    float most = 0.0f, scale;
    for (int i = from; i < from + count && i < DIM; i++) most = fmax(most, fabs(x[i]));
    scale = most / (TYPE == Q8_0 ? 127.0f : 7.0f);
#if SCALES == 0
    vstore_half_rte(scale, 0, (global half *)at);
    scale = vload_half(0, (global const half *)at);
#else
    *(global float *)at = scale;
#endif
    *inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    return scale;
}

/* One run of 32 numbers by one work-item. */
void store_run(local const float *x, int run, float inverse, global uchar *row) {
    for (int i = 0; i < 16; i++) {
        int a = 32 * run + i, b = a + 16, most = TYPE == Q8_0 ? 127 : 7;
        int p = a < DIM ? rounded(x[a], inverse, most) : 0, q = b < DIM ? rounded(x[b], inverse, most) : 0;
#if TYPE == Q8_0
        row[a] = (uchar)(char)p;
        row[b] = (uchar)(char)q;
#else
        row[16 * run + i] = (uchar)((p + 8) | (q + 8) << 4);
#endif
    }
}

void store_row(local const float *x, ulong slot, global uchar *data, ulong data_at, ulong scales_at, int lane) {
    global uchar *row = data + data_at + slot * ROW_BYTES;
#if QUANT
    for (int run = lane; run < GROUPS; run += LANES) {
        float inverse;
#if SCALES == 0
        scale_of(x, 32 * run, 32, &inverse, data + scales_at + (slot * GROUPS + (ulong)run) * 2);
#else
        if (run == 0)
            scale_of(x, 0, DIM, &inverse, data + scales_at + slot * 4);
        else { /* the same for all; only the first writes it */
            float most = 0.0f;
            for (int i = 0; i < DIM; i++) most = fmax(most, fabs(x[i]));
            float scale = most / (TYPE == Q8_0 ? 127.0f : 7.0f);
            inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        }
#endif
        store_run(x, run, inverse, row);
    }
#else
    for (int i = lane; i < STRIDE; i += LANES) {
        float v = i < DIM ? x[i] : 0.0f;
#if TYPE == F32
        ((global float *)row)[i] = v;
#elif TYPE == F16
        vstore_half_rte(v, (ulong)i, (global half *)row);
#else
        ((global ushort *)row)[i] = to_bf16(v);
#endif
    }
#endif
}

/* Groups: one for each token (0) and head (1). x [n][ldx], a head's numbers DIM apart. turned 1: stored turned, as q4 wants. */
kernel void append(int capacity, int first, global const float *x, ulong x_at, int ldx, int turned, global uchar *data,
                   ulong data_at, ulong scales_at) {
    local float row[DIM];
    int lane = (int)get_local_id(0), token = first + (int)get_group_id(0);
    ulong head = get_group_id(1);
    global const float *from = x + x_at + get_group_id(0) * (ulong)ldx + head * DIM;
    for (int i = lane; i < DIM; i += LANES) row[i] = from[i];
    if (turned) turn_row(row, lane);
    barrier(CLK_LOCAL_MEM_FENCE);
#if RING > 0
    ulong slot = head * (ulong)capacity + (ulong)(token % RING);
    store_row(row, slot, data, data_at, scales_at, lane);
    store_row(row, slot + RING, data, data_at, scales_at, lane);
#else
    store_row(row, head * (ulong)capacity + (ulong)token, data, data_at, scales_at, lane);
#endif
}

/* out [count][ld]: rows first.. of one head as they are stored, turned back where turned is 1; a group each. */
kernel void rows_of(int capacity, int head, int first, global const uchar *data, ulong data_at, ulong scales_at, int turned,
                    global float *out, ulong out_at, int ld) {
    local float row[DIM];
    int lane = (int)get_local_id(0);
    ulong slot = (ulong)head * (ulong)capacity + (ulong)first + get_group_id(0);
    global const uchar *at = data + data_at + slot * ROW_BYTES;
    for (int i = lane; i < DIM; i += LANES) {
#if TYPE == F32
        row[i] = ((global const float *)at)[i];
#elif TYPE == F16
        row[i] = load_half(at + 2 * i);
#elif TYPE == BF16
        row[i] = load_bf16(at + 2 * i);
#else
#if TYPE == Q8_0
        float q = (float)(char)at[i];
#else
        uchar byte = at[i / 32 * 16 + i % 16];
        float q = (float)((i % 32 < 16 ? byte & 15 : byte >> 4) - 8);
#endif
#if SCALES == 0
        row[i] = q * load_half(data + scales_at + (slot * GROUPS + (ulong)(i / 32)) * 2);
#else
        row[i] = q * *(global const float *)(data + scales_at + slot * 4);
#endif
#endif
    }
    if (turned) turn_row(row, lane);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = lane; i < DIM; i += LANES) out[out_at + get_group_id(0) * (ulong)ld + (ulong)i] = row[i];
}
