/* recall_read, NVIDIA - the third part of recall_nv.cl, rows read, and its kernel. MISSING: builds recall_missing, a launch of
 * its own before, instead. */
/* ---- rows ---- */

#if RING
#define PLACE(b, row)           ((b)->rows + (size_t)((row) & (RING - 1)) * PLACE_BYTES)
#define KEY_AT(b, row)          PLACE(b, row)
#define KEY_SCALES_AT(b, row)   (PLACE(b, row) + D)
#define VALUE_ROW_AT(b, row)    (PLACE(b, row) + VALUE_AT)
#define VALUE_SCALES_AT(b, row) (PLACE(b, row) + VALUE_AT + D)
#else
#define SEGMENT_OF(b, row)      ((b)->rows + (size_t)((row) / SEGMENT) * ROWS_BYTES)
#define KEY_AT(b, row)          (SEGMENT_OF(b, row) + (size_t)((row) % SEGMENT) * D)
#define KEY_SCALES_AT(b, row)   (SEGMENT_OF(b, row) + KEY_SCALES + (size_t)((row) % SEGMENT) * GROUPS * 2)
#define VALUE_ROW_AT(b, row)    (SEGMENT_OF(b, row) + VALUES + (size_t)((row) % SEGMENT) * D)
#define VALUE_SCALES_AT(b, row) (SEGMENT_OF(b, row) + VALUE_SCALES + (size_t)((row) % SEGMENT) * GROUPS * 2)
#endif

/* 16 tokens, of which `tokens` count; row: of token lane % 16. */
static inline void read_step(const group *b, const queries *q, uint row, uint tokens, state *a) {
    uint lane = get_local_id(0) % 32, g = lane / 4, t = lane % 4;
    uint v[4][GROUPS], scale_bits[2][GROUPS / 2];
    key_part k;
    float s[NT][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint r = lane_of_uint(row, g + 8 * i);
        load_key(KEY_AT(b, r), (global const half *)KEY_SCALES_AT(b, r), i, &k);
        load(VALUE_SCALES_AT(b, r), GROUPS * 2, scale_bits[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) load_value(VALUE_ROW_AT(b, lane_of_uint(row, 2 * t + i % 2 + 8 * (i / 2))), i, v);
    score(&k, q, s);
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[n][e] = g + 8 * (e / 2) < tokens ? s[n][e] + b->offset[8 * n + 2 * t + e % 2] : -INFINITY;
    if (warp_any(rises(a, s))) renew(a, s);
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = native_exp2(s[n][e] - (a->m[n][e % 2] - LIFT));
            a->z[n][e % 2] += s[n][e];
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
                weights[n][i] = turn(pair(s[n][2 * i] * f, s[n][2 * i + 1] * f));
            }
        mix_group(v, j, weights, a->o);
    }
}

/* Steps of 16 tokens up to the end of each part's list. */
static inline void count_steps(const group *b, global const uint *tokens, uint parts) {
    uint lane = get_local_id(0) % 32, sum = 0;
    if (get_local_id(0) < 32)
        for (uint from = 0; from < parts; from += 32) {
            uint i = from + lane, count = i < parts ? as_uint(fresh((global const float *)tokens + i)) : 0,
                 upto = (count + 15) / 16;
            for (uint l = 1; l < 32; l *= 2) {
                uint other = lane_of_uint(upto, lane - l);
                if (lane >= l) upto += other;
            }
            if (i < parts) b->listed[i] = count, b->ends[i] = sum + upto;
            sum += lane_of_uint(upto, 31);
        }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Row of token lane % 16 of a step, and how many tokens it has. */
static inline uint row_of_step(const group *b, global const uint *list, uint parts, uint step, uint *tokens) {
    uint lane = get_local_id(0) % 32, p = 0;
    for (uint from = 0; from < parts; from += 32) p += popcount(ballot(from + lane < parts && b->ends[from + lane] <= step));
    uint at = (step - (p ? b->ends[p - 1] : 0)) * 16, left = b->listed[p] - at;
    *tokens = min(left, 16u);
    return as_uint(fresh((global const float *)(list + (size_t)p * LISTED + at + min(lane % 16, *tokens - 1))));
}

/* The group's share of all that the pair's groups listed. */
static inline void read_share(const group *b, global const uint *list, uint part, uint parts, state *a) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32, steps = b->ends[parts - 1];
    uint at = steps * part / parts + warp, to = steps * (part + 1) / parts, tokens = 0, row = 0;
    queries q;
    load_queries(b->x, &q);
    if (at < to) row = row_of_step(b, list, parts, at, &tokens);
    for (; at < to; at += WARPS) {
        uint now = row, count = tokens;
        if (at + WARPS < to) { /* on its way meanwhile */
            row = row_of_step(b, list, parts, at + WARPS, &tokens);
            ask_for(lane < 16 ? KEY_AT(b, row) : VALUE_ROW_AT(b, row));
        }
        read_step(b, &q, now, count, a);
    }
}

/* Local size {ITEMS}, global {parts * ITEMS, pairs}, all of which run at once; pairs from pair_from on are served, query after
 * query, each with kv_heads of them.
 *
 * frame as of recall.cl's prepare; capacity: segments that a head has room for; run: segments of a group, RUN at most. keys,
 * values: [kv_heads][near_capacity] rows of the local tier; query i sees tokens 0..seen + i - 1, and those from gap_from on lie
 * gap rows further on; seen -1: they are in states of a launch before, near [near_count][near_rows][2 + D]. change, tile: as of
 * recall.cl, tile times change. came: zeros, pairs of them, and zeros again afterwards. patience: nanoseconds that a group waits
 * for others. */
#ifdef MISSING
#define NAME recall_missing
#else
#define NAME recall_read
#endif
kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void
NAME(global const float *q, ulong q_at, float scale, global const float *frame, ulong frame_at, global const uchar *index,
     ulong index_at, global const uchar *rows, ulong rows_at, int capacity, int segments, int run, int kv_heads, int pair_from,
     global const uchar *keys, ulong keys_at, global const uchar *values, ulong values_at, int near_capacity, int gap_from,
     int gap, int seen, global const float *near, ulong near_at, int near_count, int near_rows, float change, float tile,
     global float *work, ulong work_at, global uint *came, ulong came_at, ulong patience
#ifdef MISSING
     ,
     volatile global uint *table, ulong table_at, volatile global uint *list_to, ulong list_at, uint now, uint listed, uint limit,
     uint most
#else
     ,
     global const uint *table, ulong table_at, uint oldest, global float *out, ulong out_at, global ulong *counts_to,
     ulong counts_at
#endif
) {
    local float room[ROOM] __attribute__((aligned(16))), x[R8 * D] __attribute__((aligned(16)));
    local float log_total[R8], offset[R8], gains[(RUN > SLOTS ? RUN : SLOTS + 1) * R8], rests[(RUN + 1) * R8],
        tile_sums[RUN * TILES][R8];
    local float2 sums[WARPS][R8];
    local uint ends[BATCH], listed_of[BATCH], found[WARPS], flag;
    uint part = get_group_id(0), parts = get_num_groups(0), id = get_local_id(0), warp = id / 32;
    uint pair_at = pair_from + get_group_id(1), head = pair_at % kv_heads, query = pair_at / kv_heads;
    uint first = min(part * run, (uint)segments), own = min((uint)run, segments - first);
    place w = place_work(work + work_at, get_group_id(1), get_num_groups(1), parts);
    index += index_at + ((size_t)head * capacity + first) * INDEX_BYTES;
    q += q_at + (size_t)pair_at * R * D;
    frame += frame_at;
    came += came_at + get_group_id(1);
    group b = {.index = index,
               .first = first,
               .own = own,
               .room = room,
               .x = x,
               .log_total = log_total,
               .offset = offset,
               .gains = gains,
               .rests = rests,
               .tile_sums = tile_sums,
               .ends = ends,
               .listed = listed_of};
    const near_states o = {near + near_at + (size_t)pair_at * R * (D + 2), near_count, (size_t)near_rows * (D + 2)};
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
    near_rows_of c = {keys + keys_at + (size_t)head * near_capacity * (D * 2),
                      values + values_at + (size_t)head * near_capacity * (D * 2), gap_from, gap, seen + query};
    uint near_steps = seen < 0 ? 0 : (c.end + 15) / 16, near_to = near_steps * (part + 1) / parts;
    uint near_at_step = near_steps * part / parts + WARPS - 1 - warp; /* warps from the last one on */
    const uint each = WARPS > R8 ? WARPS / R8 : 1;
    turn_parts own_parts;
    load_parts(q, frame, frame + (size_t)(head + 1) * D, warp % R8, &own_parts);
    if (near_at_step < near_to) ask_for_near(&c, near_at_step * 16);
    ask_for_points(index, own);
    copy_numbers(index, own, (local uchar *)room);
    if (warp < R8) turn_row(&own_parts, scale, warp, x, offset);
    gain_row(&own_parts, scale, index, own, warp % R8, warp / R8, each, gains);
    for (uint r = warp + WARPS; r < R8; r += WARPS) {
        load_parts(q, frame, frame + (size_t)(head + 1) * D, r, &own_parts);
        turn_row(&own_parts, scale, r, x, offset);
        gain_row(&own_parts, scale, index, own, r, 0, 1, gains);
    }
    for (; near_at_step < near_to; near_at_step += WARPS) attend_near(&c, near_at_step * 16, q, scale, &a);
    wait_copies(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    tile_scores scores;
    float m[NT][2], z[NT][2];
    {
        queries turned;
        load_queries(x, &turned);
        score_tiles(index, (const local uchar *)room, own * TILES, &turned, offset, gains, &scores, m, z);
    }
    sum_group(&a, m, z, sums, w.sums + (size_t)part * R8 * 2);
    leave_word(came);
    meet(came, 1, parts, patience);
    total(&b, w.sums, parts, &o);
    if (id < R8 && id >= R) log_total[id] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    choice wanted;
#ifdef MISSING
    uint number = (head * (uint)capacity + first) * CLUSTERS;
    choose(&b, native_log2(change), &scores, &wanted);
    list_missing(&b, &wanted, number, table + table_at + number, list_to + list_at, now, listed, limit, most);
    leave_word(came);
    if (part == 0) {
        meet(came, 2, parts, patience);
        if (id == 0) *came = 0;
    }
#else
    rows += rows_at + (RING ? 0 : (size_t)head * capacity * ROWS_BYTES);
    b.rows = rows;
    b.table = table + table_at + (RING ? ((size_t)head * capacity + first) * CLUSTERS : 0);
    b.oldest = oldest;
    uint tokens = choose(&b, native_log2(change), &scores, &wanted);
    if (id % 32 == 0) found[warp] = tokens;
    uint counting = sum_tiles(&b, &scores, tile);
    barrier(CLK_LOCAL_MEM_FENCE);
    uint before = 0, all = 0;
    for (uint i = 0; i < WARPS; i++) {
        before += i < warp ? found[i] : 0;
        all += found[i];
    }
    list_tokens(&b, &wanted, before, w.list + (size_t)part * LISTED);
    if (id == 0) w.tokens[part] = all;
    leave_word(came);
    rise_to_total(&b, &a);
    mix_means(&b, &scores, counting, &a);
    if (id % 32 == 0) found[warp] = popcount(counting);
    barrier(CLK_LOCAL_MEM_FENCE);
    float more[TURNS];
    sum_rests(&b);
    mix_middles(&b, more);
    meet(came, 2, parts, patience);
    count_steps(&b, w.tokens, parts);
    read_share(&b, w.list, part, parts, &a);
    join_warps(&b, &a);
    global float *state_to = w.part + (size_t)part * R8 * 4;
    store_part(&b, more, state_to, w.acc + (size_t)part * R * D);
    if (id == 0) {
        uint tiles = 0;
        for (uint i = 0; i < WARPS; i++) tiles += found[i];
        state_to[3] = as_float(all);
        state_to[7] = as_float(tiles);
    }
    if (!arrive(came, 3 * parts, &flag)) return;
    merge(&b, &o, w.part, w.acc, parts, out + out_at + (size_t)pair_at * R * D, counts_to + counts_at + head * 4);
#endif
}
