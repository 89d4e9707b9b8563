/* recall_choose, NVIDIA - the second part of recall_nv.cl: what a group is, how the groups of a pair meet, which clusters are
 * read, and their tokens listed. RING: as in recall.cl, whose table it is, and 0 where rows are in segments. */
#define BATCH        256 /* parts, at most: a launch's groups */
#define LINES        (D / 4)
#define TURNS_OUT    ((R * LINES + ITEMS - 1) / ITEMS)
#define SHARES       (ITEMS / (R * LINES) > 4 ? 4 : ITEMS / (R * LINES) > 1 ? ITEMS / (R * LINES) : 1) /* of a merge's parts */
#define SLOTS        (PART > 1024 ? 4 : WARPS / 2) /* states of warps in local memory at once */
#define LARGER(a, b) ((a) > (b) ? (a) : (b))
#define ROOM         LARGER(LARGER(R8 *BATCH, SLOTS *SLOT), RUN *NUMBERS / 4) /* first the clusters' numbers */
#define TURNS        ((PART + ITEMS - 1) / ITEMS)

#if RING
#define VALUE_AT            ((D + D / 16 + 7) / 8 * 8)
#define PLACE_BYTES         (2 * VALUE_AT)
#define TAKEN               0xffffffffu
#define NOBODY              0xffffffffu
#define HERE(place, oldest) ((place) != TAKEN && (place) - (oldest) < RING)
#endif

/* What a group works in, and on: own segments from its first one on. */
typedef struct {
    global const uchar *index, *rows;
    global const uint *table; /* RING: of the first segment's clusters; NULL: it does not matter which are here */
    uint oldest, first, own;
    local float *room, *x, *log_total, *offset, *gains, *rests;
    local float (*tile_sums)[R8];
    local uint *ends, *listed; /* of parts: steps up to its end, tokens */
} group;

/* ---- what all groups know ---- */

/* States of a launch before, [count][rows][2 + D], of the pair's first row. */
typedef struct {
    global const float *at;
    uint count;
    size_t step;
} near_states;

static inline float2 near_state(const near_states *o, uint r, uint i) {
    float2 one = *(global const float2 *)(o->at + i * o->step + r * (D + 2));
    return (float2)(fmax(one.x * LOG2E, EMPTY), one.y); /* nothing seen: -inf */
}

/* Logarithm of the partition sum of each row. sums: of the pair's parts. */
static inline void total(const group *b, global const float *sums, uint parts, const near_states *o) {
    uint lane = get_local_id(0) % 32;
    for (uint r = get_local_id(0) / 32; r < R; r += WARPS) {
        float m = EMPTY, z = 0;
        for (uint i = lane; i < parts + o->count; i += 32) {
            float2 one =
                i < parts ? fresh2((global const float2 *)(sums + ((size_t)i * R8 + r) * 2)) : near_state(o, r, i - parts);
            float most = fmax(m, one.x);
            z = z * native_exp2(m - most) + one.y * native_exp2(one.x - most);
            m = most;
        }
        float most = warp_max(m);
        z = warp_sum(z * native_exp2(m - most));
        if (lane == 0) b->log_total[r] = most + native_log2(z);
    }
}

/* The pair's groups meet: what each stored before is there for all of them. times: of the launch so far, this one with it. */
static inline void meet(global uint *came, uint times, uint parts, ulong patience) {
    if (get_local_id(0) == 0 && !all_came(came, times * parts, patience)) in_vain(came, 0);
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
}

static inline void leave_word(global uint *came) {
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
    if (get_local_id(0) == 0) come(came);
}

/* ---- the choice ---- */

/* Of a tile's clusters, those of the lane: a cluster's first row, and its tokens << 16; 0 where it is not read. */
typedef struct {
    uint place[OWN_TILES][2][2];
} choice;

/* Which of the group's clusters one of these is. */
static inline uint cluster_of(uint tile, int v, int i) {
    return tile * TILE + v * 16 + get_local_id(0) % 32 / 4 + 8 * i;
}

/* Which clusters of the warp's tiles are read; scores become the weights of the others. Returns how many tokens the warp's
 * clusters have that are read. */
static inline uint choose(const group *b, float log_change, tile_scores *all, choice *c) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4, tokens = 0;
    float total_of[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) total_of[n][e] = b->log_total[8 * n + 2 * t + e];
#pragma unroll
    for (int u = 0; u < OWN_TILES; u++) {
        uint tile = warp + WARPS * u, segment = tile / TILES;
        if (tile >= b->own * TILES) break;
        const local float *number = (const local float *)((const local uchar *)b->room + segment * NUMBERS);
        const local ushort *starts = (const local ushort *)(number + 3 * CLUSTERS);
        float gain[NT][2], bar[NT][2];
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                gain[n][e] = b->gains[segment * R8 + 8 * n + 2 * t + e];
                bar[n][e] = total_of[n][e] + log_change - native_log2(gain[n][e]);
            }
#pragma unroll
        for (int v = 0; v < 2; v++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint in = cluster_of(tile % TILES, v, i);
                float spread = number[CLUSTERS + in], worth = number[2 * CLUSTERS + in] * LOG2E;
                uint place = starts[in] | (uint)(starts[in + 1] - starts[in]) << 16;
                int wanted = 0;
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        wanted |= 8 * n + 2 * t + e < R &&
                                  !(all->s[u][v][n][2 * i + e] + LOG2E * chance(gain[n][e] * spread) + worth <= bar[n][e]);
                wanted = (ballot(wanted) >> 4 * g & 15) && place >> 16; /* by any row, which other lanes have */
#if RING
                wanted =
                    wanted && (!b->table || HERE(b->table[segment * CLUSTERS + in], b->oldest)); /* as it was before any came */
#endif
                c->place[u][v][i] = wanted ? place : 0;
                tokens += wanted ? place >> 16 : 0;
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        all->s[u][v][n][2 * i + e] =
                            wanted || 8 * n + 2 * t + e >= R ? 0.0f : native_exp2(all->s[u][v][n][2 * i + e] - total_of[n][e]);
            }
    }
    for (int l = 4; l < 32; l *= 2) tokens += as_uint(lanes_xor(as_float(tokens), l));
    return tokens;
}

/* The wanted clusters' tokens, from `at` on, in the clusters' order. */
static inline void list_tokens(const group *b, const choice *c, uint at, global uint *list) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int u = 0; u < OWN_TILES; u++) {
        uint tile = warp + WARPS * u;
        if (tile >= b->own * TILES) break;
#pragma unroll
        for (int v = 0; v < 2; v++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint tokens = c->place[u][v][i] >> 16, upto = tokens;
                if (!warp_any(tokens != 0)) continue;
                for (uint l = 1; l < 8; l *= 2) {
                    uint other = lane_of_uint(upto, lane - 4 * l);
                    if (g >= l) upto += other;
                }
#if RING
                uint row = tokens ? b->table[cluster_of(tile, v, i)] : 0;
#else
                uint row = (b->first + tile / TILES) * SEGMENT + (c->place[u][v][i] & 0xffff);
#endif
                for (uint k = t; k < tokens; k += 4) list[at + upto - tokens + k] = row + k;
                at += lane_of_uint(upto, 31);
            }
    }
}

#if RING
/* The clusters that are wanted and not in the ring: as recall.cl's missing. */
static inline void list_missing(const group *b, const choice *c, uint number, volatile global uint *table,
                                volatile global uint *list_to, uint now, uint listed, uint limit, uint most) {
    uint warp = get_local_id(0) / 32;
    if (get_local_id(0) % 4 > 0) return; /* others of the quad have the same */
#pragma unroll
    for (int u = 0; u < OWN_TILES; u++) {
        uint tile = warp + WARPS * u;
        if (tile >= b->own * TILES) break;
#pragma unroll
        for (int v = 0; v < 2; v++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint in = cluster_of(tile, v, i), tokens = c->place[u][v][i] >> 16, old = table[in];
                if (!tokens || old == TAKEN || HERE(old, now - RING + limit)) continue;
                if (atomic_cmpxchg(&table[in], old, TAKEN) != old) continue; /* another query's group has it */
                uint at = atomic_add(list_to, tokens) - now, at_list = atomic_inc(list_to + 1) - listed;
                int fits = at_list < most && at + tokens <= limit;
                if (at_list < most) {
                    list_to[2 + 2 * at_list] = fits ? number + in : NOBODY;
                    list_to[3 + 2 * at_list] = at;
                }
                table[in] = fits ? now + at : 0;
            }
    }
}
#endif
