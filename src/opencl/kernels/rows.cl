/* rows - the small operations over rows of floats (ops.h says what each is). Operands are a buffer and the element at which they
 * begin there. LANES: work-items of a group that share one row. */

/* The sum of every lane's x, in all of them. */
float sum_of(float x, local float *sums) {
    int lane = (int)get_local_id(0);
    sums[lane] = x;
    for (int step = LANES / 2; step > 0; step /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane < step) sums[lane] += sums[lane + step];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return sums[0];
}

/* more 1: added to y. */
kernel void norm(int width, float eps, global const float *x, ulong x_at, int ldx, global const float *w, ulong w_at, int has_w,
                 global float *y, ulong y_at, int ldy, int more) {
    local float sums[LANES];
    ulong row = get_group_id(0);
    int lane = (int)get_local_id(0);
    global const float *from = x + x_at + row * (ulong)ldx;
    global float *to = y + y_at + row * (ulong)ldy;
    float sum = 0.0f;
    for (int i = lane; i < width; i += LANES) sum += from[i] * from[i];
    float scale = 1.0f / sqrt(sum_of(sum, sums) / (float)width + eps);
    for (int i = lane; i < width; i += LANES) {
        float v = has_w ? from[i] * scale * w[w_at + (ulong)i] : from[i] * scale;
        to[i] = more ? to[i] + v : v;
    }
}

kernel void rope(int heads, int pairs, int neighbours, global float *x, ulong x_at, int ldx, int head_stride,
                 global const float *cosine, ulong cosine_at, global const float *sine, ulong sine_at) {
    int pair = (int)get_global_id(0), head = (int)get_global_id(1);
    ulong token = get_global_id(2);
    if (pair >= pairs) return;
    global float *at = x + x_at + token * (ulong)ldx + (ulong)head * (ulong)head_stride;
    float c = cosine[cosine_at + token * (ulong)pairs + (ulong)pair], s = sine[sine_at + token * (ulong)pairs + (ulong)pair];
    int first = neighbours ? 2 * pair : pair, second = neighbours ? first + 1 : pair + pairs;
    float a = at[first], b = at[second];
    at[first] = a * c - b * s;
    at[second] = b * c + a * s;
}

kernel void add(ulong count, global const float *y, ulong y_at, global float *x, ulong x_at) {
    ulong i = get_global_id(0);
    if (i < count) x[x_at + i] += y[y_at + i];
}

/* has_x 0: zeros */
kernel void copy(int width, global const float *x, ulong x_at, int ldx, int has_x, global float *y, ulong y_at, int ldy) {
    ulong i = get_global_id(0), row = get_global_id(1);
    if (i < (ulong)width) y[y_at + row * (ulong)ldy + i] = has_x ? x[x_at + row * (ulong)ldx + i] : 0.0f;
}

float silu_of(float x) {
    return x / (1.0f + exp(-x));
}

kernel void act(ulong count, int gelu, global float *x, ulong x_at) {
    ulong i = get_global_id(0);
    if (i >= count) return;
    float v = x[x_at + i];
    x[x_at + i] = gelu ? 0.5f * v * erfc(-0.70710678119f * v) : silu_of(v);
}

/* gate = act(gate) up, act SiLU or GELU by tanh, written so that it does not cancel for negative numbers */
kernel void glu(int width, int gelu, global float *gate, ulong gate_at, int ldg, global const float *up, ulong up_at, int ldu) {
    ulong i = get_global_id(0), row = get_global_id(1);
    if (i >= (ulong)width) return;
    global float *at = gate + gate_at + row * (ulong)ldg + i;
    float g = *at, u = up[up_at + row * (ulong)ldu + i];
    *at = (gelu ? g / (1.0f + exp(-2.0f * 0.7978845608f * g * (1.0f + 0.044715f * g * g))) : silu_of(g)) * u;
}

/* A router's rows are a few numbers: one work-item each. */
kernel void softmax(int rows, int width, global float *x, ulong x_at) {
    int row = (int)get_global_id(0);
    if (row >= rows) return;
    global float *at = x + x_at + (ulong)row * (ulong)width;
    float most = at[0], sum = 0.0f;
    for (int i = 1; i < width; i++) most = fmax(most, at[i]);
    for (int i = 0; i < width; i++) sum += at[i] = exp(at[i] - most);
    for (int i = 0; i < width; i++) at[i] /= sum;
}

kernel void summarise(int n, int width, float beta, global const float *x, ulong x_at, global float *state, ulong state_at,
                      global float *rows, ulong rows_at) {
    int i = (int)get_global_id(0);
    if (i >= width) return;
    float m = state[state_at + (ulong)i];
    for (int t = 0; t < n; t++) {
        ulong at = (ulong)t * (ulong)width + (ulong)i;
        m = beta * m + (1.0f - beta) * x[x_at + at];
        rows[rows_at + at] = m;
    }
    state[state_at + (ulong)i] = m;
}

kernel void fuse(int levels, int width, global const float *lambda, ulong lambda_at, global const float *a, ulong a_at,
                 global const float *b, ulong b_at, global const float *c, ulong c_at, global float *y, ulong y_at) {
    ulong i = get_global_id(0), row = get_global_id(1), at = row * (ulong)width + i;
    if (i >= (ulong)width) return;
    global const float *l = lambda + lambda_at + row * (ulong)levels;
    float sum = l[0] * a[a_at + at];
    if (levels > 1) sum += l[1] * b[b_at + at];
    if (levels > 2) sum += l[2] * c[c_at + at];
    y[y_at + at] = sum;
}

/* ops->mix; OpenCL C has a function of that name. */
kernel void weigh(int width, global const float *lambda, ulong lambda_at, int ldl, global const float *x, ulong x_at, int more,
                  global float *y, ulong y_at) {
    ulong i = get_global_id(0), row = get_global_id(1), at = row * (ulong)width + i;
    if (i >= (ulong)width) return;
    float weight = lambda[lambda_at + row * (ulong)ldl], v = weight != 0.0f ? weight * x[x_at + at] : 0.0f;
    y[y_at + at] = more ? y[y_at + at] + v : v;
}

/* Attention that comes in several jobs: its empty state, and the division at its end. */
kernel void start(int value_dim, global float *m, ulong m_at, global float *z, ulong z_at, global float *out, ulong out_at) {
    ulong i = get_global_id(0), row = get_global_id(1);
    if (i >= (ulong)value_dim) return;
    out[out_at + row * (ulong)value_dim + i] = 0.0f;
    if (i > 0) return;
    m[m_at + row] = -INFINITY;
    z[z_at + row] = 0.0f;
}

kernel void finish(int value_dim, global const float *z, ulong z_at, global float *out, ulong out_at) {
    ulong i = get_global_id(0), row = get_global_id(1);
    if (i >= (ulong)value_dim) return;
    float sum = z[z_at + row];
    out[out_at + row * (ulong)value_dim + i] *= sum > 0.0f ? 1.0f / sum : sum;
}

/* y = x turned as simd/cache.h's mka_hadamard does: one group a row of dim numbers, which row has room for. */
kernel void turn(int dim, global const float *x, ulong x_at, global float *y, ulong y_at, local float *row) {
    ulong at = get_group_id(0) * (ulong)dim;
    int lane = (int)get_local_id(0), run = dim & -dim;
    for (int i = lane; i < dim; i += LANES) row[i] = x[x_at + at + (ulong)i];
    for (int step = 1; step < run; step *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = lane; i < dim / 2; i += LANES) {
            int first = i / step * 2 * step + i % step;
            float a = row[first], b = row[first + step];
            row[first] = a + b;
            row[first + step] = a - b;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float norm = 1.0f / sqrt((float)run);
    for (int i = lane; i < dim; i += LANES) y[y_at + at + (ulong)i] = row[i] * norm;
}
