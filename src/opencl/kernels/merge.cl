/* merge - the states that splits of the keys left are one state, and the attention: a group a row.
 * running 1: m, z and out hold a state of their own, which takes part and gets the sum. run > 0: out is turned in runs of so many
 * numbers, as values in four bits are, and turns back; row has room for it, weight for a number of every split. */
float over_lanes(float x, int largest, local float *all) {
    int lane = (int)get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    all[lane] = x;
    barrier(CLK_LOCAL_MEM_FENCE);
    float y = all[0];
    for (int i = 1; i < LANES; i++) y = largest ? fmax(y, all[i]) : y + all[i];
    return y;
}

kernel void merge(global const float *partial, ulong partial_at, int splits, int rows, int value_dim, int running, int run,
                  global float *m, ulong m_at, global float *z, ulong z_at, global float *out, ulong out_at,
                  local float *row, local float *weight) {
    local float all[LANES];
    ulong r = get_group_id(0), each = (ulong)value_dim + 2;
    int lane = (int)get_local_id(0);
    global const float *state = partial + partial_at + r * each;
    ulong step = (ulong)rows * each;
    global float *to = out + out_at + r * (ulong)value_dim;
    float most = running ? m[m_at + r] : -INFINITY, own = most, sum = 0.0f;
    for (int s = lane; s < splits; s += LANES) most = fmax(most, state[(ulong)s * step]);
    most = over_lanes(most, 1, all);
    float base = most == -INFINITY ? 0.0f : most, mine = running ? exp(own - base) : 0.0f;
    for (int s = lane; s < splits; s += LANES) {
        weight[s] = exp(state[(ulong)s * step] - base);
        sum += weight[s] * state[(ulong)s * step + 1];
    }
    sum = over_lanes(sum, 0, all);
    if (running) sum += mine * z[z_at + r];
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE); /* all have read m and z, and written weights */
    float scale = running ? 1.0f : sum > 0.0f ? 1.0f / sum : sum;
    for (int d = lane; d < value_dim; d += LANES) {
        float v = running ? mine * to[d] : 0.0f;
#pragma unroll 8
        for (int s = 0; s < splits; s++) v += weight[s] * state[(ulong)s * step + 2 + (ulong)d];
        if (run > 0)
            row[d] = v * scale;
        else
            to[d] = v * scale;
    }
    if (running && lane == 0) m[m_at + r] = most, z[z_at + r] = sum;
    if (run == 0) return;
    for (int step = 1; step < run; step *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = lane; i < value_dim / 2; i += LANES) {
            int first = i / step * 2 * step + i % step;
            float a = row[first], b = row[first + step];
            row[first] = a + b;
            row[first + step] = a - b;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float norm = 1.0f / sqrt((float)run);
    for (int d = lane; d < value_dim; d += LANES) to[d] = row[d] * norm;
}
