/* recall_score, NVIDIA - the first launch of recall_nv.cl: queries turned, centroids scored, and the local tier attended to. */
/* Rows warp, warp + WARPS, ... of the head's queries: turned into x [R8][D], which has zeros beyond R; their products with the
 * centre, and their gain by the segment's channels. A lane has D / 32 numbers side by side. */
static inline void turn_rows(global const float *q, float scale, global const float *flips, global const float *centre,
                             global const float *channels, uint warps, local float *x, local float *offset, local float *gain) {
    uint lane = get_local_id(0) % 32;
    const int per = D / 32;
    const float norm = D == 64 ? 0.125f : D == 128 ? 0.088388348f : 0.0625f;
    for (uint r = get_local_id(0) / 32; r < R8; r += warps) {
        float v[D / 32], product = 0, power = 0;
#pragma unroll
        for (int i = 0; i < per; i++) {
            uint e = lane * per + i;
            v[i] = r < R ? q[r * D + e] * scale : 0.0f;
            power += v[i] * v[i] * channels[e];
            v[i] *= flips[e];
        }
#pragma unroll
        for (int step = 1; step < per; step *= 2)
#pragma unroll
            for (int i = 0; i < per; i++)
                if (!(i & step)) {
                    float a = v[i], b = v[i + step];
                    v[i] = a + b;
                    v[i + step] = a - b;
                }
        for (int step = 1; step < 32; step *= 2)
#pragma unroll
            for (int i = 0; i < per; i++) {
                float other = lanes_xor(v[i], step);
                v[i] = lane & step ? other - v[i] : v[i] + other;
            }
#pragma unroll
        for (int i = 0; i < per; i++) {
            v[i] *= norm;
            product += v[i] * centre[lane * per + i];
            x[r * D + lane * per + i] = v[i];
        }
        product = warp_sum(product);
        power = warp_sum(power);
        if (lane == 0) offset[r] = product * LOG2E, gain[r] = sqrt(power);
    }
}

#ifdef LOCAL
/* A cache in f16: what a lane has of keys g and g + 8, 8 numbers of every 32, and of values 2t, 2t + 1, 2t + 8, 2t + 9, 4 of 32.
 */
typedef struct {
    global const uchar *keys, *values; /* of the head; tokens from gap_from on lie gap rows further on */
    uint gap_from, gap, end;
} near_rows;

static inline size_t row_of(const near_rows *c, uint token) {
    token = min(token, c->end - 1);
    return (size_t)(token + (token >= c->gap_from ? c->gap : 0)) * (D * 2);
}

/* Tokens at..at + 15, as far as there are, into an empty state. */
static inline void attend_near(const near_rows *c, uint at, global const float *q, float scale, state *a) {
    uint lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
    uint k[2][GROUPS][4], v[4][GROUPS][2], p[NT][2];
    float s[NT][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < GROUPS; j++) load(c->keys + row_of(c, at + g + 8 * i) + j * 64 + t * 16, 16, k[i][j]);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < GROUPS; j++)
            load(c->values + row_of(c, at + 2 * t + i % 2 + 8 * (i / 2)) + j * 64 + g * 8, 8, v[i][j]);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        uint r = 8 * n + g;
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
        for (int e = 0; e < MT; e++) {
            float x[4];
            uint b[2];
#pragma unroll
            for (int i = 0; i < 4; i++) x[i] = r < R ? q[r * D + e / 2 * 32 + 8 * t + 4 * (e % 2) + i] * scale * LOG2E : 0.0f;
            b[0] = pair(x[0], x[1]);
            b[1] = pair(x[2], x[3]);
            multiply(s[n], k[0][e / 2][e % 2 * 2], k[1][e / 2][e % 2 * 2], k[0][e / 2][e % 2 * 2 + 1], k[1][e / 2][e % 2 * 2 + 1],
                     b);
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (at + g + 8 * (e / 2) >= c->end) s[n][e] = -INFINITY;
    }
    renew(a, s);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float e[4];
#pragma unroll
        for (int i = 0; i < 4; i++) e[i] = native_exp2(s[n][i] - (a->m[n][i % 2] - LIFT));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            a->z[n][i] = e[i] + e[2 + i];
            for (int l = 4; l < 32; l *= 2) a->z[n][i] += lanes_xor(a->z[n][i], l);
            p[n][i] = turn(pair(e[2 * i], e[2 * i + 1]));
        }
    }
#pragma unroll
    for (int j = 0; j < GROUPS; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int n = 0; n < NT; n++)
                multiply(a->o[n][2 * j + e], pick(v[0][j][e], v[1][j][e], 0x5410), pick(v[0][j][e], v[1][j][e], 0x7632),
                         pick(v[2][j][e], v[3][j][e], 0x5410), pick(v[2][j][e], v[3][j][e], 0x7632), p[n]);
}

/* A group's tokens, 16 a warp, as a part. */
static inline void near_part(const near_rows *c, uint at, global const float *q, float scale, local float *room,
                             global float *state_to, global float *to) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
    state a;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            a.m[n][e] = EMPTY;
            a.z[n][e] = 0;
#pragma unroll
            for (int j = 0; j < MT; j++) a.o[n][j][e] = a.o[n][j][2 + e] = 0;
        }
    if (at + warp * 16 < c->end) attend_near(c, at + warp * 16, q, scale, &a);
    for (uint half_warps = TILES / 2; half_warps > 0; half_warps /= 2) {
        if (warp >= half_warps && warp < 2 * half_warps) put(&a, room + (warp - half_warps) * SLOT);
        barrier(CLK_LOCAL_MEM_FENCE);
        if (warp < half_warps) join(&a, room + warp * SLOT);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (warp > 0) return;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            uint r = 8 * n + 2 * t + e;
            if (g == 0) *(global float4 *)(state_to + r * 4) = (float4)(a.m[n][e], a.z[n][e] * native_exp2(-LIFT), 0, 0);
            if (r >= R) continue;
#pragma unroll
            for (int j = 0; j < MT; j++) /* rows g and g + 8 of a tile are dims side by side */
                *(global float2 *)(to + r * D + j / 2 * 32 + 4 * g + j % 2 * 2) =
                    (float2)(a.o[n][j][e], a.o[n][j][2 + e]) * native_exp2(-LIFT);
        }
}
#endif

/* frame as of recall.cl's prepare; capacity: segments that a head has room for. LOCAL: keys, values: [kv_heads][near_capacity]
 * rows; query i sees tokens 0..seen + i - 1, and those from gap_from on lie gap rows further on; near_parts groups attend to
 * them. Local size {CLUSTERS}, global {(near_parts + segments) * CLUSTERS, kv_heads, n}: a warp has a tile of 32 clusters, or 16
 * tokens. */
kernel __attribute__((reqd_work_group_size(CLUSTERS, 1, 1))) void
recall_score(global const float *q, ulong q_at, float scale, global const float *frame, ulong frame_at, global const uchar *index,
             ulong index_at, int capacity, int far_parts, int near_parts, global float *work, ulong work_at
#ifdef LOCAL
             ,
             global const uchar *keys, ulong keys_at, global const uchar *values, ulong values_at, int near_capacity,
             int gap_from, int gap, int seen
#endif
) {
#ifdef LOCAL
#define OWN (TILES / 2 * SLOT > R8 * D ? TILES / 2 * SLOT : R8 * D)
#else
#define OWN (R8 * D)
#endif
    local float x[OWN] __attribute__((aligned(16))), offset[R8], gain[R8];
    local float2 sums[TILES][R8];
    uint segment = get_group_id(0) - near_parts, segments = get_num_groups(0) - near_parts, head = get_group_id(1);
    uint kv_heads = get_num_groups(1), parts = far_parts + near_parts;
    uint pair_at = get_group_id(2) * kv_heads + head, warp = get_local_id(0) / 32, lane = get_local_id(0) % 32;
    uint g = lane / 4, t = lane % 4;
    place w = place_work(work + work_at, kv_heads * get_num_groups(2), segments, parts);
#ifdef LOCAL
    if (get_group_id(0) < (uint)near_parts) {
        size_t before = (size_t)head * near_capacity * (D * 2), part = (size_t)pair_at * parts + far_parts + get_group_id(0);
        near_rows c = {keys + keys_at + before, values + values_at + before, gap_from, gap, seen + get_group_id(2)};
        near_part(&c, get_group_id(0) * TILES * 16, q + q_at + (size_t)pair_at * R * D, scale, x, w.part + part * R8 * 4,
                  w.acc + part * R * D);
        return;
    }
#endif
    index += index_at + ((size_t)head * capacity + segment) * INDEX_BYTES;
    global const half *scales = (global const half *)(index + POINT_SCALES);
    global const float *log_count = (global const float *)(index + LOG_COUNT);
    global const float *deviation = (global const float *)(index + DEVIATION);
    key_part k[2];
    float spread[2][2], count[2][2];
#pragma unroll
    for (int u = 0; u < 2; u++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint c = warp * 32 + u * 16 + g + 8 * i;
            load_key(index + (size_t)c * D, scales + c * GROUPS, i, &k[u]);
            spread[u][i] = deviation[c];
            count[u][i] = log_count[c];
        }
    frame += frame_at;
    turn_rows(q + q_at + (size_t)pair_at * R * D, scale, frame, frame + (size_t)(head + 1) * D,
              (global const float *)(index + CHANNELS), TILES, x, offset, gain);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (segment == 0) {
        for (uint i = get_local_id(0); i < R8 * D; i += CLUSTERS) w.x[(size_t)pair_at * R8 * D + i] = x[i];
        for (uint i = get_local_id(0); i < R8; i += CLUSTERS) w.offset[(size_t)pair_at * R8 + i] = offset[i];
    }
    queries b;
    load_local_queries(x, &b);
    float m[NT][2], z[NT][2], s[2][NT][4];
#pragma unroll
    for (int n = 0; n < NT; n++) m[n][0] = m[n][1] = EMPTY, z[n][0] = z[n][1] = 0;
    global float *scores = w.scores + ((size_t)pair_at * segments + segment) * CLUSTERS * R8;
#pragma unroll
    for (int u = 0; u < 2; u++) {
        score(&k[u], &b, s[u]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint c = warp * 32 + u * 16 + g + 8 * i;
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint r = 8 * n + 2 * t;
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float add = fmin(lift(gain[r + e] * spread[u][i]), 2.5f) + count[u][i];
                    s[u][n][2 * i + e] += offset[r + e] + add * LOG2E;
                    m[n][e] = fmax(m[n][e], s[u][n][2 * i + e]);
                }
                *(global float2 *)(scores + (size_t)c * R8 + r) = (float2)(s[u][n][2 * i], s[u][n][2 * i + 1]);
            }
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            for (int l = 4; l < 32; l *= 2) m[n][e] = fmax(m[n][e], lanes_xor(m[n][e], l));
#pragma unroll
            for (int u = 0; u < 2; u++) z[n][e] += native_exp2(s[u][n][e] - m[n][e]) + native_exp2(s[u][n][2 + e] - m[n][e]);
            for (int l = 4; l < 32; l *= 2) z[n][e] += lanes_xor(z[n][e], l);
            if (g == 0) sums[warp][8 * n + 2 * t + e] = (float2)(m[n][e], z[n][e]);
        }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint r = get_local_id(0); r < R8; r += CLUSTERS) {
        float most = EMPTY, sum = 0;
        for (int i = 0; i < TILES; i++) most = fmax(most, sums[i][r].x);
        for (int i = 0; i < TILES; i++) sum += sums[i][r].y * native_exp2(sums[i][r].x - most);
        *(global float4 *)(w.state + (((size_t)pair_at * segments + segment) * R8 + r) * 4) = (float4)(most, sum, gain[r], 0);
    }
}
