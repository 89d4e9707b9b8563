/* cache - keys and values of one layer as rows: finishing and storing tokens, and reading rows back.
 *
 *   [kv_heads][capacity][stride] numbers of a type, stride being the width padded with zeros to 16, or to 32 for q8 and q4
 *   q8, q4: scales beside them: of keys half floats [kv_heads][capacity][stride / 32], of values floats [kv_heads][capacity]
 *   q4: turned (simd/cache.h's mka_hadamard); a run of 32 numbers is 16 bytes, number i of it in the low nibble of byte i,
 *       i + 16 in the high one, plus 8
 *
 * RING > 0: the newest tokens are there in 16 bits too, turned alike. Slots are taken in turns of RING, and every token is
 * stored twice, RING slots apart, so that any run of up to RING of the newest lies in one piece somewhere.
 *
 * Build options: KEY_TYPE, KEY_DIM, VALUE_TYPE, VALUE_DIM, SHARED (1: values are parts of keys), RING, LANES. */
#define QUANT(type)       ((type) == Q8_0 || (type) == Q4_0)
#define STRIDE(type, dim) PAD(dim, QUANT(type) ? 32 : 16)
#define NEAR(type)        ((type) == Q4_0 ? BF16 : (type))

ulong row_bytes(const int type, const int dim) {
    return (ulong)STRIDE(type, dim) * 4 / (type == F32 ? 1 : type == Q8_0 ? 4 : type == Q4_0 ? 8 : 2);
}

/* x [dim] turned in place */
void turn_row(local float *x, const int dim, int lane) {
    const int run = dim & -dim;
    for (int step = 1; step < run; step *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = lane; i < dim / 2; i += LANES) {
            int first = i / step * 2 * step + i % step;
            float a = x[first], b = x[first + step];
            x[first] = a + b;
            x[first + step] = a - b;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float norm = 1.0f / sqrt((float)run);
    for (int i = lane; i < dim; i += LANES) x[i] *= norm;
    barrier(CLK_LOCAL_MEM_FENCE);
}

int rounded(float x, float inverse, int most) {
    float q = rint(x * inverse);
    return q >= (float)-most && q <= (float)most ? (int)q : 0;
}

float largest(local const float *x, int from, int to) {
    float most = 0.0f;
    for (int i = from; i < to; i++) most = fmax(most, fabs(x[i]));
    return most;
}

/* One run of 32 numbers by one work-item. */
void store_run(local const float *x, const int type, const int dim, int run, float scale, global uchar *row) {
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (int i = 0; i < 16; i++) {
        int a = 32 * run + i, b = a + 16, most = type == Q8_0 ? 127 : 7;
        int p = a < dim ? rounded(x[a], inverse, most) : 0, q = b < dim ? rounded(x[b], inverse, most) : 0;
        if (type == Q8_0) {
            row[a] = (uchar)(char)p;
            row[b] = (uchar)(char)q;
        } else
            row[16 * run + i] = (uchar)((p + 8) | (q + 8) << 4);
    }
}

/* scales: of all slots */
void store_codes(local const float *x, const int type, const int dim, const int values, ulong slot, global uchar *row,
                 global uchar *scales, int lane) {
    const int runs = STRIDE(type, dim) / 32;
    for (int run = lane; run < runs; run += LANES) {
        int from = values ? 0 : 32 * run, to = values || from + 32 > dim ? dim : from + 32;
        float scale = largest(x, from, to) / (type == Q8_0 ? 127.0f : 7.0f);
        if (!values) {
            global half *at = (global half *)scales + slot * (ulong)runs + (ulong)run;
            vstore_half_rte(scale, 0, at);
            scale = vload_half(0, at);
        } else if (run == 0)
            ((global float *)scales)[slot] = scale;
        store_run(x, type, dim, run, scale, row);
    }
}

void store_row(local const float *x, const int type, const int dim, const int values, ulong slot, global uchar *data,
               ulong scales_at, int lane) {
    global uchar *row = data + slot * row_bytes(type, dim);
    if (QUANT(type)) {
        store_codes(x, type, dim, values, slot, row, data + scales_at, lane);
        return;
    }
    for (int i = lane; i < STRIDE(type, dim); i += LANES) {
        float v = i < dim ? x[i] : 0.0f;
        if (type == F32)
            ((global float *)row)[i] = v;
        else if (type == F16)
            vstore_half_rte(v, (ulong)i, (global half *)row);
        else
            ((global ushort *)row)[i] = to_bf16(v);
    }
}

/* A key or value of one token and head into the cache, and into its ring. */
void store(local float *x, const int type, const int dim, const int values, int token, ulong head, int capacity, int base,
           int ring_from, global uchar *data, ulong scales_at, global uchar *near, ulong near_scales_at, int lane) {
    if (type == Q4_0) turn_row(x, dim, lane);
    store_row(x, type, dim, values, head * (ulong)capacity + (ulong)(token - base), data, scales_at, lane);
    if (RING == 0 || token < ring_from) return;
    ulong slot = head * (2 * RING) + (ulong)(token % (RING > 0 ? RING : 1));
    store_row(x, NEAR(type), dim, values, slot, near, near_scales_at, lane);
    store_row(x, NEAR(type), dim, values, slot + RING, near, near_scales_at, lane);
}

/* A head of KEY_DIM numbers: rms_norm by w [KEY_DIM] (has_norm 1), then its pairs rotated. */
void finish(local float *x, local float *sums, float eps, global const float *w, int has_norm, int pairs, int neighbours,
            global const float *cosine, global const float *sine, int lane) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (has_norm) {
        float sum = 0.0f;
        for (int i = lane; i < KEY_DIM; i += LANES) sum += x[i] * x[i];
        sums[lane] = sum;
        barrier(CLK_LOCAL_MEM_FENCE);
        sum = 0.0f;
        for (int i = 0; i < LANES; i++) sum += sums[i];
        float scale = 1.0f / sqrt(sum / (float)KEY_DIM + eps);
        for (int i = lane; i < KEY_DIM; i += LANES) x[i] *= scale * w[i];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    for (int i = lane; i < pairs; i += LANES) {
        int first = neighbours ? 2 * i : i, second = neighbours ? first + 1 : i + pairs;
        float a = x[first], b = x[second];
        x[first] = a * cosine[i] - b * sine[i];
        x[second] = b * cosine[i] + a * sine[i];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Groups: one for each token (0) and row of it (1): heads queries, which stay where they are, then kv_heads keys and as many
 * values (none where SHARED). Queries [n][heads][KEY_DIM]; keys [n][ldk] and values [n][ldv], a head's numbers side by side.
 * base: tokens that were forgotten: a token's slot is so many before its position. ring_from: tokens from it on go to the ring.
 * pairs 0: heads are not rotated. */
kernel void append(int heads, int kv_heads, int capacity, int base, int first, int ring_from, global float *q, ulong q_at,
                   global const float *k, ulong k_at, int ldk, global const float *v, ulong v_at, int ldv, int pairs,
                   int neighbours, global const float *cosine, ulong cosine_at, global const float *sine, ulong sine_at,
                   float eps, global const float *q_norm, ulong q_norm_at, int has_q_norm, global const float *k_norm,
                   ulong k_norm_at, int has_k_norm, global uchar *keys, ulong key_scales_at, global uchar *values, ulong value_scales_at,
                   global uchar *near_keys, ulong near_key_scales_at, global uchar *near_values, ulong near_value_scales_at) {
    local float row[KEY_DIM > VALUE_DIM ? KEY_DIM : VALUE_DIM], sums[LANES];
    int lane = (int)get_local_id(0), which = (int)get_group_id(1);
    ulong i = get_group_id(0), head = (ulong)(which < heads ? which : (which - heads) % kv_heads);
    int token = first + (int)i;
    cosine += cosine_at + i * (ulong)pairs;
    sine += sine_at + i * (ulong)pairs;
    if (which < heads) {
        global float *at = q + q_at + (i * (ulong)heads + head) * KEY_DIM;
        for (int d = lane; d < KEY_DIM; d += LANES) row[d] = at[d];
        finish(row, sums, eps, q_norm + q_norm_at, has_q_norm, pairs, neighbours, cosine, sine, lane);
        for (int d = lane; d < KEY_DIM; d += LANES) at[d] = row[d];
    } else if (which < heads + kv_heads) {
        global const float *at = k + k_at + i * (ulong)ldk + head * KEY_DIM;
        for (int d = lane; d < KEY_DIM; d += LANES) row[d] = at[d];
        finish(row, sums, eps, k_norm + k_norm_at, has_k_norm, pairs, neighbours, cosine, sine, lane);
        store(row, KEY_TYPE, KEY_DIM, 0, token, head, capacity, base, ring_from, keys, key_scales_at, near_keys,
              near_key_scales_at, lane);
    } else if (!SHARED) {
        global const float *at = v + v_at + i * (ulong)ldv + head * VALUE_DIM;
        for (int d = lane; d < VALUE_DIM; d += LANES) row[d] = at[d];
        barrier(CLK_LOCAL_MEM_FENCE);
        store(row, VALUE_TYPE, VALUE_DIM, 1, token, head, capacity, base, ring_from, values, value_scales_at, near_values,
              near_value_scales_at, lane);
    }
}

/* Number i of a row, and of its slot's scales. */
float number_at(const int type, const int dim, const int values, global const uchar *row, global const uchar *scales,
                ulong slot, int i) {
    if (type == F32) return ((global const float *)row)[i];
    if (type == F16) return load_half(row + 2 * i);
    if (type == BF16) return load_bf16(row + 2 * i);
    uchar byte = row[type == Q8_0 ? i : i / 32 * 16 + i % 16];
    float q = type == Q8_0 ? (float)(char)byte : (float)((i % 32 < 16 ? byte & 15 : byte >> 4) - 8);
    if (values) return q * ((global const float *)scales)[slot];
    return q * load_half(scales + (slot * (STRIDE(type, dim) / 32) + (ulong)(i / 32)) * 2);
}

void read_row(local float *x, const int type, const int dim, const int values, global const uchar *data, ulong scales_at,
              ulong slot, int lane) {
    global const uchar *row = data + slot * row_bytes(type, dim);
    for (int i = lane; i < dim; i += LANES) x[i] = number_at(type, dim, values, row, data + scales_at, slot, i);
    if (type == Q4_0) turn_row(x, dim, lane);
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* out [count][ld]: keys, or values, from slot first on of one head as they are stored, turned back; a group each. */
kernel void rows_of(int values, int capacity, int head, int first, global const uchar *data, ulong data_at, ulong scales_at,
                    global float *out, ulong out_at, int ld) {
    local float row[KEY_DIM > VALUE_DIM ? KEY_DIM : VALUE_DIM];
    int lane = (int)get_local_id(0), dim = values ? VALUE_DIM : KEY_DIM;
    ulong slot = (ulong)head * (ulong)capacity + (ulong)first + get_group_id(0);
    if (values)
        read_row(row, VALUE_TYPE, VALUE_DIM, 1, data + data_at, scales_at, slot, lane);
    else
        read_row(row, KEY_TYPE, KEY_DIM, 0, data + data_at, scales_at, slot, lane);
    for (int i = lane; i < dim; i += LANES) out[out_at + get_group_id(0) * (ulong)ld + (ulong)i] = row[i];
}
