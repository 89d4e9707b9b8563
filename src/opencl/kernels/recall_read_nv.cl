/* recall_read, NVIDIA - the second launch of recall_nv.cl: clusters chosen, their rows read, mean values for the others, and all
 * of it merged. */
/* RUN: segments of a group, at most: RUN * CLUSTERS weights of R8 rows have to fit local memory. RING: as in recall.cl, whose table
 * it is, and 0 where rows are in segments; recall_missing is a launch of its own between the two. */
#define WARPS 8
#define ITEMS (WARPS * 32)
#define ALL   (RUN * CLUSTERS)
#define LINE  (ALL + 4) /* of the weights of a row */
#define WORDS (ALL / 32)
#define TURNS ((ALL + ITEMS - 1) / ITEMS)
#define HALF  (WARPS / 2)
#define ROOM  (R8 * LINE > HALF * SLOT ? R8 * LINE : HALF * SLOT)

#if RING
#define VALUE_AT    ((D + D / 16 + 7) / 8 * 8)
#define PLACE_BYTES (2 * VALUE_AT)
#define TAKEN       0xffffffffu
#define HERE(place, oldest) ((place) != TAKEN && (place) - (oldest) < RING)
#endif

/* States of a row: of segments by their estimates, then parts of the local tier, then states [near_count][near_rows][2 + D] of a
 * launch before. */
typedef struct {
    global const float *segments, *parts, *near; /* of the pair's first row */
    uint segment_count, part_count, near_count;
    size_t near_step;
} sources;

static inline float2 source_of(const sources *o, uint r, uint i) {
    if (i < o->segment_count) return *(global const float2 *)(o->segments + ((size_t)i * R8 + r) * 4);
    i -= o->segment_count;
    if (i < o->part_count) return *(global const float2 *)(o->parts + ((size_t)i * R8 + r) * 4);
    float2 one = *(global const float2 *)(o->near + (i - o->part_count) * o->near_step + r * (D + 2));
    return (float2)(fmax(one.x * LOG2E, EMPTY), one.y); /* nothing seen: -inf */
}

/* Logarithm of the partition sum of each row, by the estimates and the local tier. */
static inline void total(const sources *o, local float *log_total) {
    uint lane = get_local_id(0) % 32, count = o->segment_count + o->part_count + o->near_count;
    for (uint r = get_local_id(0) / 32; r < R; r += WARPS) {
        float m = EMPTY, z = 0;
#pragma unroll 4
        for (uint i = lane; i < count; i += 32) {
            float2 one = source_of(o, r, i);
            float most = fmax(m, one.x);
            z = z * native_exp2(m - most) + one.y * native_exp2(one.x - most);
            m = most;
        }
        float most = warp_max(m);
        z = warp_sum(z * native_exp2(m - most));
        if (lane == 0) log_total[r] = most + native_log2(z);
    }
}

/* Tokens of the wanted clusters by their number in the list: begin [count + 1]. */
static inline uint find(const local uint *begin, uint count, uint token) {
    uint low = 0, high = count;
    while (high - low > 1) {
        uint middle = (low + high) / 2;
        if (begin[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- the last group of a pair ---- */

#define LINES     (D / 4)
#define TURNS_OUT ((R * LINES + ITEMS - 1) / ITEMS)
#define BATCH     256 /* parts whose weights are in local memory at once */

/* All parts of a pair, and the states of a launch before, into out [R][D]; counts as of recall.cl's tally. part, acc: of the
 * pair; weights: local [R8][BATCH], most, inverse: [R8]. Parts were stored by other groups: they are read past the first-level
 * cache. */
static inline void merge(const sources *o, global const float *part, global const float *acc, uint far_parts, uint parts,
                         local float *weights, local float *most, local float *inverse, global float *out, global ulong *counts) {
    uint id = get_local_id(0), warp = id / 32, lane = id % 32, all = parts + o->near_count;
    for (uint r = warp; r < R; r += WARPS) {
        float m = EMPTY, z = 0, unread = 0;
        for (uint p = lane; p < all; p += 32) {
            float4 one = 0;
            if (p < parts)
                one = fresh4(part + ((size_t)p * R8 + r) * 4);
            else
                one.xy = source_of(o, r, o->segment_count + o->part_count + p - parts);
            float next = fmax(m, one.x), down = native_exp2(m - next), f = native_exp2(one.x - next);
            z = z * down + one.y * f;
            unread = unread * down + (p < far_parts ? one.z * f : 0.0f);
            m = next;
        }
        float next = warp_max(m), down = native_exp2(m - next);
        z = warp_sum(z * down);
        unread = warp_sum(unread * down);
        if (lane == 0) {
            most[r] = next;
            inverse[r] = z > 0 ? 1 / z : z;
            if (unread > 0) add_whole(counts + 3, (ulong)(unread / z * (4294967296.0f / R)));
        }
    }
    if (warp < 3) { /* a warp a count */
        uint read = 0;
        for (uint p = lane; p < far_parts; p += 32) read += as_uint(fresh4(part + ((size_t)p * R8 + warp) * 4).w);
        for (int l = 1; l < 32; l *= 2) read += as_uint(lanes_xor(as_float(read), l));
        if (lane == 0) add_whole(counts + warp, read);
    }
    float4 sum[TURNS_OUT];
#pragma unroll
    for (int u = 0; u < TURNS_OUT; u++) sum[u] = 0;
    for (uint from = 0; from < all; from += BATCH) {
        uint count = min(all - from, (uint)BATCH), own = from < parts ? min(parts - from, (uint)BATCH) : 0;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint i = id; i < count * R8; i += ITEMS) {
            uint r = i % R8, p = from + i / R8;
            if (r >= R) continue;
            float m = p < parts ? fresh2((global const float2 *)(part + ((size_t)p * R8 + r) * 4)).x
                                : source_of(o, r, o->segment_count + o->part_count + p - parts).x;
            weights[r * BATCH + i / R8] = native_exp2(m - most[r]);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (int u = 0; u < TURNS_OUT; u++) {
            uint i = id + u * ITEMS, r = i / LINES, dim = i % LINES * 4;
            if (r >= R) continue;
            global const float *at = acc + (size_t)from * R * D + r * D + dim;
#pragma unroll 16
            for (uint p = 0; p < own; p++) sum[u] += fresh4(at + (size_t)p * R * D) * weights[r * BATCH + p];
            for (uint p = own; p < count; p++) {
                global const float *one = o->near + (from + p - parts) * o->near_step + r * (D + 2) + 2 + dim;
                float2 low = *(global const float2 *)one, high = *(global const float2 *)(one + 2);
                if (weights[r * BATCH + p] > 0) sum[u] += (float4)(low.x, low.y, high.x, high.y) * weights[r * BATCH + p];
            }
        }
    }
#pragma unroll
    for (int u = 0; u < TURNS_OUT; u++) {
        uint i = id + u * ITEMS, r = i / LINES;
        if (r < R) vstore4(sum[u] * inverse[r], 0, out + r * D + i % LINES * 4);
    }
}

/* What a group works in, and on: own segments from its first one on, all clusters. */
typedef struct {
    global const uchar *index, *rows;
    global const uint *table; /* RING: of the first segment's clusters; NULL: it does not matter which are here */
    uint oldest, own, all;
    local float
        *room; /* [R8][LINE] weights relative to the total; of clusters that are read, what of them is not, as whole numbers */
    local float *log_total, *offset, *least, *unread, *gains;
    local float (*tile_sums)[R8], (*rest)[R8];
    local uint *wants, *begin, *counts, *info; /* info: a cluster's first row, and its tokens; of a list in the ring its place */
    local ushort *list;                        /* clusters that are read; their tokens begin at begin */
} group;

/* What the choice takes of a group's clusters, one of which an item has in each of TURNS turns. */
typedef struct {
    float s[TURNS][R8], spread[TURNS], worth[TURNS];
    uint place[TURNS];
} asked;

/* scores: of the group's first segment. */
static inline void ask(const group *b, global const float *first_scores, asked *a) {
    uint id = get_local_id(0);
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        uint c = min(id + u * ITEMS, b->all - 1), in = c % CLUSTERS;
        global const uchar *at = b->index + (size_t)(c / CLUSTERS) * INDEX_BYTES;
        global const float *scores = first_scores + (size_t)c * R8;
        global const ushort *start = (global const ushort *)(at + START) + in;
#pragma unroll
        for (int i = 0; i < R8; i += 4) {
            float4 x = *(global const float4 *)(scores + i);
            a->s[u][i] = x.x, a->s[u][i + 1] = x.y, a->s[u][i + 2] = x.z, a->s[u][i + 3] = x.w;
        }
        a->spread[u] = ((global const float *)(at + DEVIATION))[in];
        a->worth[u] = ((global const float *)(at + WORTH))[in] * LOG2E;
        a->place[u] = start[0] | (uint)(start[1] - start[0]) << 16;
    }
}

/* Which clusters are read; the weights of the others. */
static inline void choose(const group *b, const asked *a, float log_change) {
    uint id = get_local_id(0), lane = id % 32;
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        uint c = id + u * ITEMS;
        if (c >= b->all) break; /* a warp at once */
        local const float *gain = b->gains + c / CLUSTERS * R8;
        int wanted = 0;
#pragma unroll
        for (int r = 0; r < R; r++) {
            float g = gain[r], bar = b->log_total[r] + log_change - native_log2(g);
            wanted |= !(a->s[u][r] + LOG2E * chance(g * a->spread[u]) + a->worth[u] <= bar);
        }
        wanted = wanted && a->place[u] >> 16;
#if RING
        wanted = wanted && (!b->table || HERE(b->table[c], b->oldest)); /* no two launches need round alike */
#endif
#pragma unroll
        for (int r = 0; r < R8; r++) b->room[r * LINE + c] = wanted || r >= R ? 0.0f : native_exp2(a->s[u][r] - b->log_total[r]);
        uint bits = ballot(wanted);
        if (lane == 0) b->wants[c / 32] = bits;
        if (wanted) b->info[c] = a->place[u];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Lists the clusters that are read; returns how many. */
static inline uint list_clusters(const group *b) {
    uint id = get_local_id(0), warp = id / 32, lane = id % 32;
    uint wanted_count = 0;
    for (uint i = 0; i < b->all / 32; i++) wanted_count += popcount(b->wants[i]);
    for (uint c = id; c < b->all; c += ITEMS) {
        if (!(b->wants[c / 32] >> c % 32 & 1)) continue;
        uint before = popcount(b->wants[c / 32] & ((1u << c % 32) - 1));
        for (uint i = 0; i < c / 32; i++) before += popcount(b->wants[i]);
        b->list[before] = (ushort)c;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (warp == 0) { /* where the tokens of the b->list's clusters b->begin */
        uint sum = 0;
        for (uint from = 0; from < wanted_count; from += 32) {
            uint i = from + lane, tokens = i < wanted_count ? b->info[b->list[i]] >> 16 : 0, upto = tokens;
            for (uint l = 1; l < 32; l *= 2) {
                uint other = lane_of_uint(upto, lane - l);
                if (lane >= l) upto += other;
            }
            if (i < wanted_count) b->begin[i] = sum + upto - tokens;
            sum += lane_of_uint(upto, 31);
        }
        if (lane == 0) b->begin[wanted_count] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return wanted_count;
}

/* A row of the list's cluster, by how many come before it in there; its numbers and scales. */
#if RING
#define ROW_OF(info, token)                ((info) + (token))
#define PLACE(b, row)                      ((b)->rows + (size_t)((row) & (RING - 1)) * PLACE_BYTES)
#define KEY_AT(b, cluster, row)            PLACE(b, row)
#define KEY_SCALES_AT(b, cluster, row)     (PLACE(b, row) + D)
#define VALUE_ROW_AT(b, cluster, row)      (PLACE(b, row) + VALUE_AT)
#define VALUE_SCALES_AT(b, cluster, row)   (PLACE(b, row) + VALUE_AT + D)
#else
#define ROW_OF(info, token)                (((info) & 0xffff) + (token))
#define SEGMENT_OF(b, cluster)             ((b)->rows + (size_t)((cluster) / CLUSTERS) * ROWS_BYTES)
#define KEY_AT(b, cluster, row)            (SEGMENT_OF(b, cluster) + (size_t)(row) * D)
#define KEY_SCALES_AT(b, cluster, row)     (SEGMENT_OF(b, cluster) + KEY_SCALES + (size_t)(row) * GROUPS * 2)
#define VALUE_ROW_AT(b, cluster, row)      (SEGMENT_OF(b, cluster) + VALUES + (size_t)(row) * D)
#define VALUE_SCALES_AT(b, cluster, row)   (SEGMENT_OF(b, cluster) + VALUE_SCALES + (size_t)(row) * GROUPS * 2)
#endif

/* What a lane knows of a step of 16 tokens. */
typedef struct {
    float scores[NT][4];
    uint row, cluster; /* of token lane % 16 */
    uint clusters[2];  /* of tokens g and g + 8 */
    uint keeps[2];     /* a bit at 4 g for a token of these that counts */
} step16;

/* Scores of tokens at.. of the list; those that count in no row are added to what of their cluster is not read. Returns 1 where
 * some score is far above all estimates. */
static inline int score_step(const group *b, const queries *q, uint at, uint tokens, uint wanted_count, float fixed_point,
                             const state *a, step16 *p) {
    uint lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
    uint token = min(at + lane % 16, tokens - 1), place_in = find(b->begin, wanted_count, token), cluster = b->list[place_in];
    uint row = ROW_OF(b->info[cluster], token - b->begin[place_in]); /* of lane % 16's token */
    key_part k;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint r = lane_of_uint(row, g + 8 * i);
        p->clusters[i] = lane_of_uint(cluster, g + 8 * i);
        load_key(KEY_AT(b, p->clusters[i], r), (global const half *)KEY_SCALES_AT(b, p->clusters[i], r), i, &k);
    }
    int kept[2] = {0, 0}, rise = 0;
    score(&k, q, p->scores);
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            uint r = 8 * n + 2 * t + e % 2;
            p->scores[n][e] += b->offset[r];
            if (at + g + 8 * (e / 2) < tokens) kept[e / 2] |= !(p->scores[n][e] <= b->least[r]);
        }
#pragma unroll
    for (int i = 0; i < 2; i++) { /* of the token: over the lanes that have its other queries */
        uint bits = ballot(kept[i]);
        kept[i] = (bits >> 4 * g & 15) != 0;
    }
    p->keeps[0] = ballot(kept[0]) & 0x11111111u;
    p->keeps[1] = ballot(kept[1]) & 0x11111111u;
    p->row = row;
    p->cluster = cluster;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            uint r = 8 * n + 2 * t + e % 2;
            if (!kept[e / 2]) {
                if (at + g + 8 * (e / 2) < tokens && r < R)
                    atomic_add((volatile local uint *)&b->room[r * LINE + p->clusters[e / 2]],
                               (uint)(native_exp2(p->scores[n][e] - b->log_total[r]) * fixed_point + 0.5f));
                p->scores[n][e] = -INFINITY;
            }
            rise |= p->scores[n][e] > a->m[n][e % 2] + RISE;
        }
    return rise;
}

/* The values of the step's tokens that count, by their weights. */
static inline void mix_step(const group *b, const step16 *p, state *a) {
    uint lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
    uint v[4][GROUPS], scale_bits[2][GROUPS / 2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint which = 2 * t + i % 2, r = lane_of_uint(p->row, which + 8 * (i / 2)),
             c = lane_of_uint(p->cluster, which + 8 * (i / 2));
        if (p->keeps[i / 2] >> 4 * which & 1) {
            load_value(VALUE_ROW_AT(b, c, r), i, v);
        } else {
#pragma unroll
            for (int j = 0; j < GROUPS; j++) v[i][j] = 0;
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint r = lane_of_uint(p->row, g + 8 * i);
        load(VALUE_SCALES_AT(b, p->clusters[i], r), GROUPS * 2, scale_bits[i]);
    }
    float e[NT][4];
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) e[n][i] = native_exp2(p->scores[n][i] - (a->m[n][i % 2] - LIFT));
        a->z[n][0] += e[n][0] + e[n][2];
        a->z[n][1] += e[n][1] + e[n][3];
    }
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        float low[2], high[2];
        uint weights[NT][2];
#pragma unroll
        for (int i = 0; i < 2; i++) halves(scale_bits[i][j / 2], &low[i], &high[i]);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float f = j % 2 ? high[i] : low[i];
                weights[n][i] = turn(pair(e[n][2 * i] * f, e[n][2 * i + 1] * f));
            }
        mix_group(v, j, weights, a->o);
    }
}

/* The rows of the listed clusters, 16 tokens a step of a warp. x: the pair's turned queries. */
static inline void read_rows(const group *b, global const float *x, uint wanted_count, float fixed_point, state *a) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32, t = lane % 4, tokens = b->begin[wanted_count], values = 0;
    queries q;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            a->m[n][e] = b->log_total[8 * n + 2 * t + e];
            a->z[n][e] = 0;
#pragma unroll
            for (int j = 0; j < MT; j++) a->o[n][j][e] = a->o[n][j][2 + e] = 0;
        }
    load_queries(x, &q);
    for (uint at = warp * 16; at < tokens; at += WARPS * 16) {
        step16 p;
        int rise = score_step(b, &q, at, tokens, wanted_count, fixed_point, a, &p);
        values += popcount(p.keeps[0]) + popcount(p.keeps[1]);
        if (!(p.keeps[0] | p.keeps[1])) continue;
        if (warp_any(rise)) renew(a, p.scores);
        mix_step(b, &p, a);
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            for (int l = 4; l < 32; l *= 2) a->z[n][e] += lanes_xor(a->z[n][e], l);
    if (lane == 0) atomic_add((volatile local uint *)&b->counts[1], values);
}

/* Weights of what was not read, and their sums by tile; those of tiles that count in no row go to the segment's mean value. */
static inline void sum_rest(const group *b, uint wanted_count, float fixed_point, float tile) {
    uint id = get_local_id(0);
    for (uint i = id; i < wanted_count * R8; i += ITEMS) {
        local float *sum = &b->room[i % R8 * LINE + b->list[i / R8]];
        *sum = (float)as_uint(*sum) / fixed_point;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = id; i < b->own * TILES * R8; i += ITEMS) {
        uint r = i % R8, tile_at = i / R8;
        float sum = 0;
        for (uint c = 0; c < TILE; c++) sum += b->room[r * LINE + tile_at * TILE + (c + tile_at) % TILE];
        b->tile_sums[tile_at][r] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = id; i < b->own * R8; i += ITEMS) {
        uint r = i % R8, s = i / R8;
        float sum = 0;
        for (uint k = 0; k < TILES; k++) {
            int small = 1;
            for (uint o = 0; o < R; o++) small &= b->tile_sums[s * TILES + k][o] <= tile;
            if (small) sum += b->tile_sums[s * TILES + k][r];
            if (!small && r == 0) atomic_add((volatile local uint *)&b->counts[2], 1u);
        }
        b->rest[s][r] = sum;
    }
    if (id < R8) {
        float sum = 0;
        for (uint k = 0; k < b->own * TILES; k++) sum += b->tile_sums[k][id];
        b->unread[id] = sum;
    }
}

/* What was not read, by its mean values. */
static inline void mix_means(const group *b, float tile, state *a) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
    float raise[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) { /* of query g, from weights relative to the total to those of a */
        float m0 = lane_of(a->m[n][0], g / 2), m1 = lane_of(a->m[n][1], g / 2);
        raise[n] = native_exp2(b->log_total[8 * n + g] - ((g % 2 ? m1 : m0) - LIFT));
    }
    for (uint k = warp; k < b->own * TILES; k += WARPS) {
        int small = 1;
        for (uint o = 0; o < R; o++) small &= b->tile_sums[k][o] <= tile;
        if (small) continue;
        global const uchar *at = b->index + (size_t)(k / TILES) * INDEX_BYTES;
#pragma unroll
        for (int u = 0; u < 2; u++) {
            uint c = k * TILE + u * 16, in = c % CLUSTERS;
            uint v[4][GROUPS], p[NT][2];
#pragma unroll
            for (int i = 0; i < 4; i++) load_value(at + MEANS + (size_t)(in + 2 * t + i % 2 + 8 * (i / 2)) * D, i, v);
            global const float *scales = (global const float *)(at + MEAN_SCALES) + in + 2 * t;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float2 f = *(global const float2 *)(scales + 8 * i);
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    float2 weight = *(local const float2 *)&b->room[(8 * n + g) * LINE + c + 2 * t + 8 * i] * f * raise[n];
                    p[n][i] = pair(weight.x, weight.y);
                }
            }
#pragma unroll
            for (int j = 0; j < GROUPS; j++) mix_group(v, j, p, a->o);
        }
    }
}

/* The warps' states, in the weights' place, as a part. */
static inline void store_part(const group *b, state *a, global float *state_to, global float *to) {
    uint id = get_local_id(0), warp = id / 32;
    if (warp >= HALF) put(a, b->room + (warp - HALF) * SLOT);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (warp < HALF) {
        join(a, b->room + warp * SLOT);
        lanes_meet();
        put(a, b->room + warp * SLOT);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = id; i < PART; i += ITEMS) {
        uint r = i / (MT * 128) * 8 + i % 4 * 2 + i / 32 % 2, j = i / 128 % MT;
        uint dim = j / 2 * 32 + i / 4 % 8 * 4 + j % 2 * 2 + i / 64 % 2;
        if (r >= R) continue;
        float m = b->log_total[r], sum = 0, more = 0;
        for (int s = 0; s < HALF; s++) m = fmax(m, b->room[s * SLOT + PART + 2 * r]);
        for (int s = 0; s < HALF; s++) sum += native_exp2(b->room[s * SLOT + PART + 2 * r] - m) * b->room[s * SLOT + i];
        for (uint s = 0; s < b->own; s++)
            more += b->rest[s][r] * ((global const float *)(b->index + (size_t)s * INDEX_BYTES + MIDDLE))[dim];
        to[r * D + dim] = sum * native_exp2(-LIFT) + more * native_exp2(b->log_total[r] - m);
        if (dim == 0) {
            float z = 0, back = native_exp2(b->log_total[r] - m);
            for (int s = 0; s < HALF; s++)
                z += native_exp2(b->room[s * SLOT + PART + 2 * r] - m) * b->room[s * SLOT + PART + 2 * r + 1];
            *(global float2 *)(state_to + r * 4) = (float2)(m, z * native_exp2(-LIFT) + b->unread[r] * back);
            state_to[r * 4 + 2] = b->unread[r] * back;
        }
    }
}

#if RING
/* The clusters that recall_read will read and that are not in the ring: as recall.cl's missing, of all segments. Arguments and
 * sizes as of recall_read, whose choice it makes. */
kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void
recall_missing(global const uchar *index, ulong index_at, int capacity, int segments_all, int run, int near_parts,
               global const float *near, ulong near_at, int near_count, int near_rows, float change, global float *work,
               ulong work_at, volatile global uint *table, ulong table_at, volatile global uint *list_to, ulong list_at, uint now,
               uint listed, uint limit, uint most) {
    local float room[R8 * LINE], log_total[R8], gains[RUN * R8];
    local uint wants[WORDS], info[ALL];
    uint part = get_group_id(0), far_parts = get_num_groups(0), parts = far_parts + near_parts, head = get_group_id(1),
         kv_heads = get_num_groups(1), id = get_local_id(0);
    uint pair_at = get_group_id(2) * kv_heads + head;
    uint first = part * run, own = min((uint)run, segments_all - first), pairs = kv_heads * get_num_groups(2);
    place w = place_work(work + work_at, pairs, segments_all, parts);
    index += index_at + ((size_t)head * capacity + first) * INDEX_BYTES;
    const group b = {.index = index, .own = own, .all = own * CLUSTERS, .room = room, .log_total = log_total, .gains = gains,
                     .wants = wants, .info = info};
    const sources o = {w.state + (size_t)pair_at * segments_all * R8 * 4,
                       w.part + ((size_t)pair_at * parts + far_parts) * R8 * 4,
                       near + near_at + (size_t)pair_at * R * (D + 2),
                       segments_all,
                       parts - far_parts,
                       near_count,
                       (size_t)near_rows * (D + 2)};
    asked clusters;
    ask(&b, w.scores + ((size_t)pair_at * segments_all + first) * CLUSTERS * R8, &clusters);
    for (uint i = id; i < own * R8; i += ITEMS) gains[i] = w.state[(((size_t)pair_at * segments_all + first) * R8 + i) * 4 + 2];
    total(&o, log_total);
    if (id < R8 && id >= R) log_total[id] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    choose(&b, &clusters, native_log2(change));
    uint number = (head * (uint)capacity + first) * CLUSTERS;
    table += table_at + number;
    list_to += list_at;
    for (uint c = id; c < b.all; c += ITEMS) {
        uint tokens, old = table[c];
        if (!(wants[c / 32] >> c % 32 & 1) || old == TAKEN || HERE(old, now - RING + limit)) continue;
        if (atomic_cmpxchg(&table[c], old, TAKEN) != old) continue; /* another query's group has it */
        tokens = info[c] >> 16;
        uint at = atomic_add(list_to, tokens) - now, i = atomic_inc(list_to + 1) - listed;
        int fits = i < most && at + tokens <= limit;
        if (fits) {
            list_to[2 + 2 * i] = number + c;
            list_to[3 + 2 * i] = at;
        }
        table[c] = fits ? now + at : 0;
    }
}
#endif

/* near: states of the local tier from a launch before, [near_count][near_rows][2 + D], of which the first are these queries';
 * near_parts: those that recall_score left. change, value, tile: as of recall.cl, tile times change. run: segments of a group,
 * RUN at most. arrived: zeros, pairs of them, and zeros again afterwards. Local size {256}, global {ceil(segments / run) * 256,
 * kv_heads, n}. */
kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void
recall_read(global const uchar *index, ulong index_at, global const uchar *rows, ulong rows_at, int capacity, int segments_all,
            global const uint *table, ulong table_at, uint oldest, int run, int near_parts, global const float *near, ulong near_at,
            int near_count, int near_rows, float change, float value, float tile, global float *work, ulong work_at, global uint *arrived, ulong arrived_at, global float *out,
            ulong out_at, global ulong *counts_to, ulong counts_at) {
    local float room[ROOM] __attribute__((aligned(16)));
    local float log_total[R8], offset[R8], least[R8], unread[R8], tile_sums[RUN * TILES][R8], rest[RUN][R8], gains[RUN * R8];
    local uint wants[WORDS], begin[ALL + 1], counts[3], info[ALL]; /* info: a cluster's first row, and its tokens */
    local ushort list[ALL];
    uint part = get_group_id(0), far_parts = get_num_groups(0), parts = far_parts + near_parts, head = get_group_id(1),
         kv_heads = get_num_groups(1), id = get_local_id(0);
    uint pair_at = get_group_id(2) * kv_heads + head;
    uint first = part * run, own = min((uint)run, segments_all - first), pairs = kv_heads * get_num_groups(2);
    place w = place_work(work + work_at, pairs, segments_all, parts);
    index += index_at + ((size_t)head * capacity + first) * INDEX_BYTES;
    rows += rows_at + (RING ? 0 : ((size_t)head * capacity + first) * ROWS_BYTES);
    table += table_at + (RING ? ((size_t)head * capacity + first) * CLUSTERS : 0);
    const group b = {index,  rows,  table,     oldest,  own,   own * CLUSTERS, room,   log_total, offset, least,
                     unread, gains, tile_sums, rest, wants, begin,          counts, info,      list};
    const sources o = {w.state + (size_t)pair_at * segments_all * R8 * 4,
                       w.part + ((size_t)pair_at * parts + far_parts) * R8 * 4,
                       near + near_at + (size_t)pair_at * R * (D + 2),
                       segments_all,
                       parts - far_parts,
                       near_count,
                       (size_t)near_rows * (D + 2)};
    asked clusters; /* before the totals are there: one wait for both */
    ask(&b, w.scores + ((size_t)pair_at * segments_all + first) * CLUSTERS * R8, &clusters);
    for (uint i = id; i < own * R8; i += ITEMS) gains[i] = w.state[(((size_t)pair_at * segments_all + first) * R8 + i) * 4 + 2];
    total(&o, log_total);
    if (id < R8) {
        offset[id] = w.offset[(size_t)pair_at * R8 + id];
        if (id >= R) log_total[id] = 0;
    }
    if (id < 3) counts[id] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    const float log_change = native_log2(change), fixed_point = 1048576.0f / (change * value); /* a cluster stays below 2^31 */
    if (id < R8) least[id] = id < R ? log_total[id] + log_change + native_log2(value) : INFINITY;
    state a;
    choose(&b, &clusters, log_change);
    uint wanted_count = list_clusters(&b);
#if RING
    for (uint i = id; i < wanted_count; i += ITEMS) info[list[i]] = table[list[i]];
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
    read_rows(&b, w.x + (size_t)pair_at * R8 * D, wanted_count, fixed_point, &a);
    barrier(CLK_LOCAL_MEM_FENCE);
    sum_rest(&b, wanted_count, fixed_point, tile);
    mix_means(&b, tile, &a);
    barrier(CLK_LOCAL_MEM_FENCE);
    global float *state_to = w.part + ((size_t)pair_at * parts + part) * R8 * 4;
    store_part(&b, &a, state_to, w.acc + ((size_t)pair_at * parts + part) * R * D);
    if (id < 3) state_to[id * 4 + 3] = as_float(id == 0 ? begin[wanted_count] : counts[id]);
    if (!arrive(arrived + arrived_at + pair_at, far_parts, &counts[0])) return;
    merge(&o, w.part + (size_t)pair_at * parts * R8 * 4, w.acc + (size_t)pair_at * parts * R * D, far_parts, parts, room, least,
          log_total, out + out_at + (size_t)pair_at * R * D, counts_to + counts_at + head * 4);
}
