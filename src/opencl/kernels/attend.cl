/* attend - exact attention over a layer's cache rows (cache.cl) in plain float32, for every type, width and device.
 *
 *   group = (split of the keys, tile of ROWS query rows of one key/value head, key/value head)
 *
 * A tile's rows are the query heads of its key/value head, query by query. In a group every work-item scores one key for all rows,
 * and then owns some of the values' dimensions. The splits' states are merged by a second kernel, unless there is one only. */
#define KEY_QUANT   (KEY_TYPE == Q8_0 || KEY_TYPE == Q4_0)
#define VALUE_QUANT (VALUE_TYPE == Q8_0 || VALUE_TYPE == Q4_0)
#define KEY_STRIDE   PAD(KEY_DIM, KEY_QUANT ? 32 : 16)
#if SHARED
#define VALUE_STRIDE KEY_STRIDE
#else
#define VALUE_STRIDE PAD(VALUE_DIM, VALUE_QUANT ? 32 : 16)
#endif
#define OWN ((VALUE_DIM + LANES - 1) / LANES)

/* Adds q . key to s for all rows. */
void score(local const float *q, global const uchar *keys, global const uchar *scales, ulong slot, float s[ROWS]) {
    for (int r = 0; r < ROWS; r++) s[r] = 0.0f;
#if KEY_QUANT
    for (int g = 0; g < KEY_STRIDE / 32; g++) {
        float part[ROWS];
        for (int r = 0; r < ROWS; r++) part[r] = 0.0f;
        for (int i = 32 * g; i < 32 * g + 32 && i < KEY_DIM; i++) {
            float k = number_of(KEY_TYPE, keys, slot * KEY_STRIDE + (ulong)i);
            for (int r = 0; r < ROWS; r++) part[r] += q[r * KEY_DIM + i] * k;
        }
        float scale = vload_half(slot * (KEY_STRIDE / 32) + (ulong)g, (global const half *)scales);
        for (int r = 0; r < ROWS; r++) s[r] += scale * part[r];
    }
#else
    for (int i = 0; i < KEY_DIM; i++) {
        float k = number_of(KEY_TYPE, keys, slot * KEY_STRIDE + (ulong)i);
        for (int r = 0; r < ROWS; r++) s[r] += q[r * KEY_DIM + i] * k;
    }
#endif
}

float value_scale(global const uchar *scales, ulong slot, int dimension) {
#if SHARED && VALUE_QUANT
    return vload_half(slot * (KEY_STRIDE / 32) + (ulong)(dimension / 32), (global const half *)scales);
#elif VALUE_QUANT
    return ((global const float *)scales)[slot];
#else
    return 1.0f;
#endif
}

/* The row of the token at position t is t + shift, before position shift_from t. Reads positions key_from..key_to - 1, of which
 * query i sees those <= first + i, and > first + i - window with a window; those within key_from + split_keys * split.. alone. near_from > 0: a query at p sees only positions before (near 0) or from (near 1)
 * p / 32 * 32 - near_from on, and none from before held in the latter. finished 1: out gets the attention; 0: partial [split][row]
 * gets m, z, and the sum. A row is n * heads + head. */
kernel void attend(global const float *q, ulong q_at, global const uchar *keys, ulong keys_at, ulong key_scales_at,
                   global const uchar *values, ulong values_at, ulong value_scales_at, int capacity, int shift, int shift_from, int group,
                   int key_from, int key_to, int first, int n, int window, float scale, int split_keys, int near, int near_from,
                   int held,
                   global float *partial, ulong partial_at, int first_split, int finished, global float *out, ulong out_at) {
    local float query[ROWS * KEY_DIM], s[ROWS][LANES], m[ROWS], z[ROWS], c[ROWS];
    int lane = (int)get_local_id(0), split = (int)get_group_id(0), kv_heads = (int)get_num_groups(2), heads = kv_heads * group;
    int tile = (int)get_group_id(1) * ROWS, rows = n * group - tile < ROWS ? n * group - tile : ROWS;
    ulong head = get_group_id(2);
    float acc[ROWS][OWN];
    for (int i = lane; i < ROWS * KEY_DIM; i += LANES) {
        int r = tile + i / KEY_DIM;
        ulong row = (ulong)(r / group) * (ulong)heads + head * (ulong)group + (ulong)(r % group);
        query[i] = r < n * group ? q[q_at + row * KEY_DIM + (ulong)(i % KEY_DIM)] : 0.0f;
    }
    for (int r = lane; r < ROWS; r += LANES) m[r] = -INFINITY, z[r] = 0.0f;
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OWN; o++) acc[r][o] = 0.0f;
    barrier(CLK_LOCAL_MEM_FENCE);
    int begin = key_from + split * split_keys, end = begin + split_keys < key_to ? begin + split_keys : key_to;
    int last = first + (tile + rows - 1) / group; /* no row sees further */
    if (end > last + 1) end = last + 1;
    int least = first + tile / group - window + 1;
    if (window > 0 && least > begin) begin = least;
    for (int from = begin; from < end; from += LANES) {
        int t = from + lane;
        float mine[ROWS];
        ulong slot = head * (ulong)capacity + (ulong)(t < shift_from ? t : t + shift);
        if (t < end)
            score(query, keys + keys_at, keys + key_scales_at, slot, mine);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int r = 0; r < ROWS; r++) {
            int position = first + (tile + r) / group, edge = near_from > 0 ? position / 32 * 32 - near_from : position + 1;
            if (edge < held) edge = held;
            int seen = t < end && r < rows && t <= position && (window <= 0 || t > position - window);
            if (near_from > 0) seen = seen && (near ? t >= edge : t < edge);
            s[r][lane] = seen ? scale * mine[r] : -INFINITY;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int r = lane; r < ROWS; r += LANES) {
            float most = m[r];
            for (int i = 0; i < LANES; i++) most = fmax(most, s[r][i]);
            c[r] = most == -INFINITY ? 1.0f : exp(m[r] - most);
            m[r] = most;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int r = 0; r < ROWS; r++) s[r][lane] = m[r] == -INFINITY ? 0.0f : exp(s[r][lane] - m[r]);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int r = lane; r < ROWS; r += LANES) {
            float sum = 0.0f;
            for (int i = 0; i < LANES; i++) sum += s[r][i];
            z[r] = c[r] * z[r] + sum;
        }
        int count = end - from < LANES ? end - from : LANES;
        for (int o = 0; o < OWN; o++) {
            int d = lane + o * LANES;
            for (int r = 0; r < ROWS; r++) acc[r][o] *= c[r];
            for (int i = 0; i < count && d < VALUE_DIM; i++) {
                ulong at = head * (ulong)capacity + (ulong)(from + i < shift_from ? from + i : from + i + shift);
                float v = number_of(VALUE_TYPE, values + values_at, at * VALUE_STRIDE + (ulong)d) *
                          value_scale(values + value_scales_at, at, d);
                for (int r = 0; r < ROWS; r++) acc[r][o] += s[r][i] * v;
            }
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int r = 0; r < rows; r++) {
        ulong row = (ulong)((tile + r) / group) * (ulong)heads + head * (ulong)group + (ulong)((tile + r) % group);
        global float *state = partial + partial_at + ((ulong)(first_split + split) * (ulong)n * (ulong)heads + row) * (VALUE_DIM + 2);
        if (!finished && lane == 0) state[0] = m[r], state[1] = z[r];
        float part = z[r] > 0.0f ? 1.0f / z[r] : z[r]; /* no key at all: zero; NaN stays NaN */
        for (int o = 0; o < OWN; o++) {
            int d = lane + o * LANES;
            if (d >= VALUE_DIM) continue;
            if (finished)
                out[out_at + row * VALUE_DIM + (ulong)d] = acc[r][o] * part;
            else
                state[2 + d] = acc[r][o];
        }
    }
}
