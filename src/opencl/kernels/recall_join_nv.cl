/* recall_join, NVIDIA - of recall_nv.cl: what is not read by its mean values, a group's states as a part, and all parts of a pair
 * as its attention. */
/* ---- what is not read ---- */

/* Sums of the warp's tiles by row, of which rests go to the segment's mean value: those of tiles that count in no row. Returns a
 * bit for each of the others. */
static inline uint sum_tiles(const group *b, const tile_scores *all, float tile_weight) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32, t = lane % 4, counting = 0;
#pragma unroll
    for (int u = 0; u < OWN_TILES; u++) {
        uint tile = warp + WARPS * u;
        if (tile >= b->own * TILES) break;
        float sum[NT][2];
        int counts = 0;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                sum[n][e] = all->s[u][0][n][e] + all->s[u][0][n][2 + e] + all->s[u][1][n][e] + all->s[u][1][n][2 + e];
                for (int l = 4; l < 32; l *= 2) sum[n][e] += lanes_xor(sum[n][e], l);
                counts |= sum[n][e] > tile_weight;
            }
        counts = warp_any(counts);
        counting |= (uint)counts << u;
        if (counts && lane == 0)
            ask_for_bytes(b->index + (size_t)(tile / TILES) * INDEX_BYTES + MEANS + tile % TILES * TILE * D, TILE * D);
        if (lane < 4) {
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) b->tile_sums[tile][8 * n + 2 * t + e] = counts ? -sum[n][e] : sum[n][e];
        }
    }
    return counting;
}

/* The states of the local tier, if there are any, and those that begin here, relative to the total. */
static inline void rise_to_total(const group *b, state *a) {
    uint t = get_local_id(0) % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float m = fmax(a->m[n][e], b->log_total[8 * n + 2 * t + e]), c = native_exp2(a->m[n][e] - m);
            a->m[n][e] = m;
            a->z[n][e] *= c;
#pragma unroll
            for (int j = 0; j < MT; j++) a->o[n][j][e] *= c, a->o[n][j][2 + e] *= c;
        }
}

/* Tiles that count, by their clusters' mean values. */
static inline void mix_means(const group *b, const tile_scores *all, uint counting, state *a) {
    uint warp = get_local_id(0) / 32, g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
    float raise[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) raise[n][e] = native_exp2(b->log_total[8 * n + 2 * t + e] - a->m[n][e] + LIFT);
#pragma unroll
    for (int u = 0; u < OWN_TILES; u++) {
        uint tile = warp + WARPS * u;
        if (!(counting >> u & 1)) continue;
        global const uchar *at = b->index + (size_t)(tile / TILES) * INDEX_BYTES;
#pragma unroll
        for (int v = 0; v < 2; v++) {
            uint in = tile % TILES * TILE + v * 16, mean[4][GROUPS], p[NT][2];
#pragma unroll
            for (int i = 0; i < 4; i++) load_value(at + MEANS + (size_t)(in + 2 * t + i % 2 + 8 * (i / 2)) * D, i, mean);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float f = ((global const float *)(at + MEAN_SCALES))[in + g + 8 * i];
#pragma unroll
                for (int n = 0; n < NT; n++)
                    p[n][i] = turn(pair(all->s[u][v][n][2 * i] * f * raise[n][0], all->s[u][v][n][2 * i + 1] * f * raise[n][1]));
            }
#pragma unroll
            for (int j = 0; j < GROUPS; j++) mix_group(mean, j, p, a->o);
        }
    }
}

/* An item's elements of a part. */
static inline uint dim_of(uint i) {
    return i / 128 % MT / 2 * 32 + i / 4 % 8 * 4 + i / 128 % MT % 2 * 2 + i / 64 % 2;
}

static inline uint row_of_element(uint i) {
    return i / (MT * 128) * 8 + i % 4 * 2 + i / 32 % 2;
}

/* Sums of the group's tiles: all that is unread of a row, and by segment what of it its mean value stands for. */
static inline void sum_rests(const group *b) {
    for (uint i = get_local_id(0); i < (b->own + 1) * R8; i += ITEMS) {
        uint s = i / R8, r = i % R8;
        float sum = 0;
        if (s == b->own)
            for (uint k = 0; k < b->own * TILES; k++) sum += fabs(b->tile_sums[k][r]);
        else
            for (uint k = 0; k < TILES; k++) sum += fmax(b->tile_sums[s * TILES + k][r], 0.0f);
        b->rests[i] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* An item's elements of what the tiles that do not count weigh together, by their segments' mean values: relative to the total.
 */
static inline void mix_middles(const group *b, float more[TURNS]) {
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        uint i = get_local_id(0) + u * ITEMS, r = row_of_element(i);
        const local float *middle = (const local float *)((const local uchar *)b->room + MIDDLE_AT) + dim_of(i);
        more[u] = 0;
        if (i >= PART || r >= R) continue;
#pragma unroll 1
        for (uint s = 0; s < b->own; s++) more[u] += b->rests[s * R8 + r] * middle[s * (NUMBERS / 4)];
    }
}

/* ---- the group's part ---- */

/* All warps' states to those of SLOTS in local memory. */
static inline void join_warps(const group *b, state *a) {
    uint warp = get_local_id(0) / 32;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            for (int l = 4; l < 32; l *= 2) a->z[n][e] += lanes_xor(a->z[n][e], l);
    for (uint left = WARPS; left > SLOTS; left /= 2)
        for (uint from = left / 2; from < left; from += SLOTS) {
            if (warp >= from && warp < from + SLOTS && warp < left) put(a, b->room + (warp - from) * SLOT);
            barrier(CLK_LOCAL_MEM_FENCE);
            if (warp + left / 2 >= from && warp + left / 2 < from + SLOTS && warp < left / 2)
                join(a, b->room + (warp + left / 2 - from) * SLOT);
            barrier(CLK_LOCAL_MEM_FENCE);
        }
    if (warp < SLOTS) put(a, b->room + warp * SLOT);
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Those, and what was not read, as a part. */
static inline void store_part(const group *b, const float more[TURNS], global float *state_to, global float *to) {
    local float *factor = b->gains; /* [SLOTS + 1][R8]: of states, and of what is relative to the total */
    for (uint r = get_local_id(0); r < R; r += ITEMS) {
        float m = b->log_total[r], z = 0, unread = b->rests[b->own * R8 + r];
        for (int s = 0; s < SLOTS; s++) m = fmax(m, b->room[s * SLOT + PART + 2 * r]);
        for (int s = 0; s < SLOTS; s++) {
            float f = native_exp2(b->room[s * SLOT + PART + 2 * r] - m - LIFT);
            z += f * b->room[s * SLOT + PART + 2 * r + 1];
            factor[s * R8 + r] = f;
        }
        factor[SLOTS * R8 + r] = native_exp2(b->log_total[r] - m);
        unread *= factor[SLOTS * R8 + r];
        *(global float2 *)(state_to + r * 4) = (float2)(m, z + unread);
        state_to[r * 4 + 2] = unread;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        uint i = get_local_id(0) + u * ITEMS, r = row_of_element(i);
        if (i >= PART || r >= R) continue;
        float sum = more[u] * factor[SLOTS * R8 + r];
        for (int s = 0; s < SLOTS; s++) sum += factor[s * R8 + r] * b->room[s * SLOT + i];
        to[r * D + dim_of(i)] = sum;
    }
}

/* ---- the last group of a pair ---- */

/* All parts of a pair, and the states of a launch before, into out [R][D]; counts as of recall.cl's tally. part, acc: of the
 * pair. */
static inline void merge(const group *b, const near_states *o, global const float *part, global const float *acc, uint parts,
                         global float *out, global ulong *counts) {
    uint id = get_local_id(0), warp = id / 32, lane = id % 32, all = parts + o->count;
    local float *most = b->gains, *inverse = b->offset;
    for (uint r = warp; r < R; r += WARPS) {
        float m = EMPTY, z = 0, unread = 0;
        float4 first = lane < parts ? fresh4(part + ((size_t)lane * R8 + r) * 4) : (float4)(EMPTY, 0, 0, 0);
        for (uint p = lane + 32; p < parts; p += 32) m = fmax(m, fresh(part + ((size_t)p * R8 + r) * 4));
        for (uint p = lane; p < o->count; p += 32) m = fmax(m, near_state(o, r, p).x);
        m = warp_max(fmax(m, first.x));
        for (uint p = lane; p < parts; p += 32) {
            float4 one = p < 32 ? first : fresh4(part + ((size_t)p * R8 + r) * 4);
            float f = native_exp2(one.x - m);
            z += one.y * f;
            unread += one.z * f;
            b->room[r * BATCH + p] = f;
        }
        for (uint p = lane; p < o->count; p += 32) {
            float2 one = near_state(o, r, p);
            z += one.y * native_exp2(one.x - m);
        }
        z = warp_sum(z);
        unread = warp_sum(unread);
        if (lane == 0) {
            most[r] = m;
            inverse[r] = z > 0 ? 1 / z : z;
            if (unread > 0) add_whole(counts + 3, (ulong)(unread / z * (4294967296.0f / R)));
        }
    }
    if (warp < 2) { /* tokens, whose values are read too, and tiles */
        uint read = 0;
        for (uint p = lane; p < parts; p += 32) read += as_uint(fresh(part + ((size_t)p * R8 + warp) * 4 + 3));
        for (int l = 1; l < 32; l *= 2) read += as_uint(lanes_xor(as_float(read), l));
        if (lane == 0) {
            add_whole(counts + 2 * warp, read);
            if (warp == 0) add_whole(counts + 1, read);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    local float4 *shares = (local float4 *)(b->room + R8 * BATCH); /* [SHARES - 1][R * LINES] */
    uint share = SHARES > 1 ? id / (R * LINES) : 0;
#pragma unroll
    for (int u = 0; u < TURNS_OUT; u++) {
        uint i = SHARES > 1 ? id % (R * LINES) : id + u * ITEMS, r = i / LINES, dim = i % LINES * 4;
        float4 sum = 0;
        if (r < R && share < SHARES) {
#pragma unroll 16
            for (uint p = share; p < parts; p += SHARES)
                sum += fresh4(acc + (size_t)p * R * D + r * D + dim) * b->room[r * BATCH + p];
            for (uint p = share; p < o->count; p += SHARES) {
                float f = native_exp2(near_state(o, r, p).x - most[r]);
                global const float *one = o->at + p * o->step + r * (D + 2) + 2 + dim;
                float2 low = *(global const float2 *)one, high = *(global const float2 *)(one + 2);
                if (f > 0) sum += (float4)(low.x, low.y, high.x, high.y) * f;
            }
        }
#if SHARES > 1
        if (share > 0 && share < SHARES) shares[(share - 1) * R * LINES + i] = sum;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int s = 1; s < SHARES && share == 0; s++) sum += shares[(s - 1) * R * LINES + i];
#endif
        if (r < R && share == 0) vstore4(sum * inverse[r], 0, out + r * D + dim);
    }
}
