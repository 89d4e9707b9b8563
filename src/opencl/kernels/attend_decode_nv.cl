/* attend_decode, NVIDIA - attention of a few queries over a long cache, at the speed of the device's memory.
 *
 *   out_h = sum_t softmax_t(scale q_h . k_t) v_t      for all query heads (and tokens, up to 16 rows) of a key/value head at once
 *
 * Owns decoding on devices with mma.m16n8k16 (compute capability 8.0 and later), over rows that attend_rows reads and
 * attend_products multiplies, with states that attend_parts joins: no barrier in the loop. Build options: theirs; SUB, 16-token
 * steps a turn.
 *
 * Fastest where the device has one group a compute unit: with a group more on some, those finish late, and each part costs the
 * merge. */
#if !defined(CHAIN) || defined(KEY_TYPE) /* a chain may be without attention */
#ifndef SUB
#define SUB (KEY_TYPE == 1 || KEY_TYPE == 30 || KEY_DIM > 128 || (KEY_TYPE == 8 && WARPS > 8) ? 1 : 2)
#endif

static inline void renew(state *a, float (*s)[NT][4], float (*guard)[2]) {
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float m = a->m[n][i];
#pragma unroll
            for (int u = 0; u < SUB; u++) m = fmax(m, fmax(s[u][n][i] + guard[u][0], s[u][n][i + 2] + guard[u][1]));
            for (int l = 4; l < 32; l *= 2) m = fmax(m, lanes_xor(m, l));
            float c = native_exp2(a->m[n][i] - m);
            a->m[n][i] = m;
            a->z[n][i] *= c;
#pragma unroll
            for (int j = 0; j < MT; j++) {
                a->o[n][j][i] *= c;
                a->o[n][j][i + 2] *= c;
            }
            a->sums[n][i] *= c;
        }
}

/* s -> weights, times the tokens' scales for codes, as the operand of 8. A scale above 2 counts as a higher score would. */
static inline void weigh(state *a, float (*s)[NT][4], const value_part *v, uint p[SUB][NT][2]) {
    int rise = 0;
    float guard[SUB][2];
#pragma unroll
    for (int u = 0; u < SUB; u++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            guard[u][i] = 0;
#ifdef QUANT
            guard[u][i] = fmax(native_log2(v[u].scale[i]) - 1, 0.0f);
#endif
        }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float m = a->m[n][i] + RISE;
#pragma unroll
            for (int u = 0; u < SUB; u++) rise |= s[u][n][i] + guard[u][0] > m || s[u][n][i + 2] + guard[u][1] > m;
        }
    if (warp_any(rise)) renew(a, s, guard);
#pragma unroll
    for (int u = 0; u < SUB; u++)
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float e[4];
#pragma unroll
            for (int i = 0; i < 4; i++) e[i] = native_exp2(s[u][n][i] - (a->m[n][i % 2] - LIFT));
            a->z[n][0] += e[0] + e[2];
            a->z[n][1] += e[1] + e[3];
#ifdef QUANT
#pragma unroll
            for (int i = 0; i < 4; i++) e[i] *= v[u].scale[i / 2];
#endif
            p[u][n][0] = turn(pair(e[0], e[1]));
            p[u][n][1] = turn(pair(e[2], e[3]));
        }
}

/* Takes out of O^T what nibbles' halves are above their values. */
static inline void finish(state *a) {
#if KEY_TYPE == 2
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int j = 0; j < MT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) a->o[n][j][e] -= NIBBLE_OFFSET(j % 4) * a->sums[n][e % 2];
#endif
}

/* Scores of keys that a row does not see: beyond its position, before its window, beyond the split. */
static inline void mask(uint at, uint end, int first, int window, float (*s)[NT][4]) {
    uint g = get_local_id(0) % 32 / 4, t = get_local_id(0) % 4;
#pragma unroll
    for (int u = 0; u < SUB; u++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint token = at + u * 16 + g + 8 * (e / 2);
                int position = first + (8 * n + 2 * t + e % 2) / GROUP;
                if (token >= end || (int)token > position || (window && (int)token <= position - window)) s[u][n][e] = -INFINITY;
            }
}

/* One group's part: positions begin..end - 1, of which a row sees those up to its own and within the window. scales: of codes. q:
 * the first token's, ldq floats before the next one's, and staged: local [R][QUERY_LD]; in a chain, which turns them itself, q is
 * local [R][KEY_DIM]. Queries are asked for first, then rows, before the queries are there; every warp takes a turn, be it of
 * nothing, so that no branch keeps these loads back. */
#ifdef CHAIN
#define QUERIES_ARGUMENT const local float *q
#else
#define QUERIES_ARGUMENT global const float *q, size_t ldq, local float *staged
#endif
static inline void attend_keys(global const uchar *keys, global const half *key_scales, global const uchar *values,
                               global const float *value_scales, uint begin, uint end, int first, int window, QUERIES_ARGUMENT,
                               float scale, state *a GAP_ARGUMENT) {
    uint warp = get_local_id(0) / 32, last = end - 1;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            a->m[n][i] = EMPTY;
            a->z[n][i] = 0;
#pragma unroll
            for (int j = 0; j < MT; j++) a->o[n][j][i] = a->o[n][j][i + 2] = 0;
            a->sums[n][i] = a->sums[n][i + 2] = 0;
        }
    const uint step = WARPS * 16 * SUB;
    key_part k[SUB];
    value_part v[SUB];
    uint at = begin + warp * 16 * SUB;
#ifndef CHAIN
    float x[WARP_QUERIES][LANE_NUMBERS];
    fetch_queries(q, ldq, x);
#endif
#pragma unroll
    for (int u = 0; u < SUB; u++) load_keys(keys, key_scales, at + u * 16, last, &k[u] GAP_HANDED);
#pragma unroll
    for (int u = 0; u < SUB; u++) load_values(values, value_scales, at + u * 16, last, &v[u] GAP_HANDED);
    uint queries[NT][MT][2];
#ifdef CHAIN
    take_queries(q, KEY_DIM, scale * LOG2E, queries);
#else
    stage_queries(x, staged);
    take_queries(staged, QUERY_LD, scale * LOG2E, queries);
#endif
#if KEY_TYPE == 8
    float sums[NT][GROUPS][2];
    sum_queries(queries, sums);
#endif
    do {
        float s[SUB][NT][4];
        uint p[SUB][NT][2];
#pragma unroll
        for (int u = 0; u < SUB; u++)
#if KEY_TYPE == 8
            score(&k[u], queries, sums, s[u]);
#else
            score(&k[u], queries, s[u]);
#endif
#pragma unroll
        for (int u = 0; u < SUB; u++) load_keys(keys, key_scales, at + step + u * 16, last, &k[u] GAP_HANDED);
        if (at + SUB * 16 > end || (int)(at + SUB * 16) > first + 1 || (window && (int)at <= first + N - 1 - window))
            mask(at, end, first, window, s);
        weigh(a, s, v, p);
#pragma unroll
        for (int u = 0; u < SUB; u++) {
            mix(&v[u], p[u], a->o, a->sums);
            load_values(values, value_scales, at + step + u * 16, last, &v[u] GAP_HANDED);
        }
        at += step;
    } while (at < end);
    finish(a);
}

#ifndef CHAIN
/* q: float [n][heads][KEY_DIM], heads = kv_heads GROUP, tokens at positions first..first + n - 1 (n is N). keys, values: byte
 * offsets of [kv_heads][capacity] rows; key_scales_at: half [kv_heads][capacity][groups of 32], value_scales_at: float
 * [kv_heads][capacity], in the same buffers. Positions key_from..key_to - 1 are read, by each split steps of 16, by the first
 * steps_more one more; window 0: none. Global size {splits * WARPS * 32, kv_heads}, no split empty; their parts are number
 * first_split and following.
 * partial: FUSED: room for kv_heads parts_in_all N GROUP (VALUE_DIM + 2) floats, 16-byte aligned, parts_in_all <= MOST_SPLITS;
 * the launch that has the last of them finishes. Else [splits][n heads][VALUE_DIM + 2]: m, z, acc. counters: kv_heads zeros, and
 * zeros again afterwards. out: float [n][heads][VALUE_DIM]. */
kernel __attribute__((reqd_work_group_size(WARPS * 32, 1, 1))) void
#ifdef FUSED
attend_decode_fused(
#else
attend_decode(
#endif
    global const float *q, ulong q_at, global const uchar *keys, ulong keys_at, ulong key_scales_at, global const uchar *values,
    ulong values_at, ulong value_scales_at, int capacity, int key_from, int key_to, int first, int n_tokens, int window,
    float scale, int steps, int steps_more, global float *partial, ulong partial_at, int first_split
#ifdef GAP
    ,
    uint gap_from, int gap_rows
#endif
#ifdef FUSED
    ,
    int parts_in_all, global uint *counters, ulong counters_at, global float *out, ulong out_at
#endif
) {
    local float shared[LOCAL_FLOATS] __attribute__((aligned(16)));
    uint head = get_group_id(1), heads = get_num_groups(1) * GROUP, split = get_group_id(0), splits = get_num_groups(0);
    size_t before = (size_t)head * capacity;
    global const half *key_scales = 0;
    global const float *value_scales = 0;
#ifdef QUANT
    key_scales = (global const half *)(keys + key_scales_at) + before * GROUPS;
    value_scales = (global const float *)(values + value_scales_at) + before;
#endif
    keys += keys_at + before * ROW_BYTES;
    values += values_at + before * ROW_BYTES;
    state a;
    uint begin = key_from + 16 * (split * steps + min(split, (uint)steps_more)),
         end = min(begin + 16 * (steps + (split < steps_more)), (uint)key_to);
    attend_keys(keys, key_scales, values, value_scales, begin, end, first, window, q + q_at + head * GROUP * KEY_DIM,
                heads * KEY_DIM, shared + PART_AT, scale, &a GAP_PASSED);
    join_warps(&a, shared);
    split += first_split;
#ifdef FUSED
    /* parts lie as [kv_heads][parts_in_all][PART], then [kv_heads][parts_in_all][R] float2 */
    local uint last_flag;
    uint all = parts_in_all;
    global float *parts = partial + partial_at + (size_t)head * all * PART;
    global float2 *part_rows =
        (global float2 *)(partial + partial_at + (size_t)get_num_groups(1) * all * PART) + (size_t)head * all * R;
    store(shared, parts + (size_t)split * PART, part_rows + split * R);
    if (first_split + splits == all && arrive(counters + counters_at + head, splits, &last_flag))
        merge(all, parts, part_rows, heads, shared, out + out_at + head * GROUP * VALUE_DIM);
#else
    store(shared, heads,
          partial + partial_at + (size_t)head * GROUP * (VALUE_DIM + 2) + split * ((size_t)N * heads * (VALUE_DIM + 2)));
#endif
}
#endif
#endif
