/* chain, NVIDIA - the links of a decoded token, one after the other in one launch.
 *
 * A launch costs several microseconds in which the memory idles, as much as a product of millions of weights takes. Here as many
 * groups as are at work at once meet between two links instead, and the weights that a group multiplies first in the next link are
 * on their way to its local memory while it waits.
 *
 *   product   y = act of (bias + W . norm(x)) (+ y), up to three matrices of one x, as in gemv_nv.cl, for one row of x
 *   attend    a token's queries and key normalised and turned, its key and value stored, and its attention over the cache, as in
 *             attend_decode_nv.cl
 *
 * Comes after gemv_nv.cl and attend_decode_nv.cl, with their build options (N = 1), CHAIN=1, ROOM: columns of an x of float32
 * at most, a multiple of 128, and SLOTS: parts of weights on their way to a warp at once.
 *
 * What one group writes others read past their first-level caches. */

#define BUFFERS 96
#define NOWHERE 0xffffffffffffffffUL
#define NONE    0xffffffffu

/* A link. at: numbers of a buffer, and bytes from its beginning in the low 48 bits; NOWHERE: none. */
typedef struct {
    ulong at[16];
    int n[28];
    float f[4];
} link;

/* of both */
#define KIND     n[0] /* 1: attend */
#define FLAGS    n[1]
#define F_ADD    1
#define F_GELU   2
#define F_GLU    4
#define F_NORM   8
#define F_X16    16
#define F_Y16    32
#define F_PAIRS  64 /* neighbours are turned with each other */
/* products */
#define W(k)     at[k]
#define BIAS(k)  at[3 + (k)]
#define Y(k)     at[6 + (k)]
#define X        at[9]
#define NORM_W   at[10]
#define ROWS(k)  n[2 + (k)]
#define COLS     n[5]
#define ROW_SIZE n[6]
#define EPS      f[0]
/* attention */
#define QUERY       at[0]
#define NEW_KEY     at[1]
#define NEW_VALUE   at[2]
#define COSINE      at[3]
#define SINE        at[4]
#define QUERY_NORM  at[5]
#define KEY_NORM    at[6]
#define KEYS        at[7]
#define KEY_SCALES  at[8]
#define VALUES      at[9]
#define VALUE_SCALES at[10]
#define PARTS_AT    at[11]
#define ARRIVED     at[12]
#define OUT         at[13]
#define PAIRS       n[2]
#define CAPACITY    n[3]
#define POSITION    n[4]
#define KEYS_FROM   n[5]
#define KEYS_TO     n[6]
#define WINDOW      n[7]
#define SPLITS      n[8]
#define SPLIT_KEYS  n[9]
#define KV_HEADS    n[10]
#define SCALE       f[1]

/* A part of a matrix is 16 rows of STEP columns, as gemv_nv.cl has them. Each warp has SLOTS of them on their way to its places in
 * local memory, with an x in 16 bits beside them. */
#ifdef BLOCK_BYTES
#define PART_BYTES BLOCK_BYTES
#else
#define PART_BYTES (WORDS * 128)
#endif
#define SLOT_BYTES (PART_BYTES + STEP * 2)

static inline global uchar *place(const local ulong *buffers, ulong at) {
    return (global uchar *)(buffers[at >> 48] + (at & 0xffffffffffffUL));
}

/* ---- products ---- */

static inline uint strips_of(const local link *l) {
    uint first = (l->ROWS(0) + 15) / 16;
    return l->FLAGS & F_GLU ? first : first + (l->ROWS(1) + 15) / 16 + (l->ROWS(2) + 15) / 16;
}

/* Rows 16 i.. of the matrices one below the other. */
typedef struct {
    uint which, row, rows;
} strip;

static inline strip find_strip(const local link *l, uint i) {
    uint strips0 = (l->ROWS(0) + 15) / 16, strips1 = (l->ROWS(1) + 15) / 16;
    strip s;
    s.which = i < strips0 ? 0 : i < strips0 + strips1 ? 1 : 2;
    s.row = 16 * (s.which == 0 ? i : s.which == 1 ? i - strips0 : i - strips0 - strips1);
    s.rows = l->ROWS(s.which);
    return s;
}

/* Where a warp's next part is: a turn of a strip, with GLU of both matrices in turn. */
typedef struct {
    global const uchar *w;
    ulong second; /* with GLU: from a part of the first matrix to the second's */
    uint at, row, rows, turn, matrix;
} cursor;

static inline void point(const local link *l, const local ulong *buffers, uint turns, cursor *c) {
    if (c->at >= strips_of(l)) return;
    strip s = find_strip(l, c->at);
    c->w = place(buffers, l->W(s.which));
#ifdef BLOCK_BYTES
    c->w += (ulong)(s.row / 16) * turns * BLOCK_BYTES;
#endif
    c->second = l->FLAGS & F_GLU ? (ulong)place(buffers, l->W(1)) - (ulong)place(buffers, l->W(0)) : 0;
    c->row = s.row;
    c->rows = s.rows;
}

static inline cursor begin(const local link *l, const local ulong *buffers, uint turns) {
    cursor c = {0, 0, get_group_id(0), 0, 0, get_local_id(0) / 32, 0};
    if (c.turn >= turns) c.at = NONE;
    point(l, buffers, turns, &c);
    return c;
}

static inline void next_part(const local link *l, const local ulong *buffers, uint turns, cursor *c) {
    if (l->FLAGS & F_GLU) c->matrix ^= 1;
    if (c->matrix) return;
    c->turn += WARPS;
    if (c->turn < turns) return;
    c->turn = get_local_id(0) / 32;
    c->at += get_num_groups(0);
    point(l, buffers, turns, c);
}

static inline void send_weights(const local link *l, const cursor *c, local uchar *slot) {
    uint lane = get_local_id(0) % 32;
    global const uchar *w = c->matrix ? c->w + c->second : c->w;
#ifdef BLOCK_BYTES
    w += c->turn * BLOCK_BYTES + lane * 16;
    stream16(slot + lane * 16, w);
    stream16(slot + 512 + lane * 16, w + 512);
    if (lane < (BLOCK_BYTES - 1024) / 16) stream16(slot + 1024 + lane * 16, w + 1024);
#else
    w += c->turn * (STEP * 2) + lane % 4 * 16;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            stream16(slot + (i * 2 + j) * 512 + lane * 16,
                     w + min(c->row + lane / 4 + 8 * i, c->rows - 1) * (ulong)l->ROW_SIZE + j * 64);
#endif
}

/* An x in 16 bits; zeros behind its end. */
static inline void send_x(const local link *l, const local ulong *buffers, const cursor *c, local uchar *slot) {
    uint lane = get_local_id(0) % 32, at = c->turn * STEP + lane * 8;
    if (lane < STEP / 8)
        stream16_or_zeros(slot + PART_BYTES + lane * 16, place(buffers, l->X) + 2 * (ulong)(at < l->COLS ? at : 0), at < l->COLS);
}

/* What can be under way before other groups are done: the first weights. */
static inline void begin_product(const local link *l, const local ulong *buffers, local uchar *places, cursor *c) {
    uint turns = (l->COLS + STEP - 1) / STEP, strips = strips_of(l);
    *c = begin(l, buffers, turns);
    for (int i = 0; i < SLOTS && c->at < strips; i++) {
        send_weights(l, c, places + i * SLOT_BYTES);
        next_part(l, buffers, turns, c);
    }
    end_copies();
    if (l->FLAGS & F_NORM && get_local_id(0) * 32 < l->COLS) ask_for(place(buffers, l->NORM_W) + get_local_id(0) * 128);
}

/* x of float32, times the norm's weights where there are any, to local memory in 16 bits; returns what y is to be divided by. */
static inline float stage_x(const local link *l, const local ulong *buffers, local uint *to, local float *squares) {
    const uint step = WARPS * 128, cols = l->COLS, padded = (cols + 127) / 128 * 128;
    global const float *x = (global const float *)place(buffers, l->X);
    int norm = l->FLAGS & F_NORM;
    global const float *w = norm ? (global const float *)place(buffers, l->NORM_W) : x;
    float sum = 0;
    for (uint first = get_local_id(0) * 4; first < padded; first += 4 * step) { /* loads of four turns at once */
        float4 v[4], f[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint i = first + k * step;
            v[k] = f[k] = 0;
            if (i < cols) {
                v[k] = fresh4(x + i);
                f[k] = 1;
                if (norm) f[k] = *(global const float4 *)(w + i);
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint i = first + k * step;
            sum += v[k].x * v[k].x + v[k].y * v[k].y + v[k].z * v[k].z + v[k].w * v[k].w;
            v[k] *= f[k] * X_LIFT;
            if (i < padded) {
                to[i / 2] = x_pair(v[k].x, v[k].y);
                to[i / 2 + 1] = x_pair(v[k].z, v[k].w);
            }
        }
    }
    for (int i = 1; i < 32; i *= 2) sum += lanes_xor(sum, i);
    if (get_local_id(0) % 32 == 0) squares[get_local_id(0) / 32] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (!norm) return 1 / X_LIFT;
    sum = 0;
    for (int i = 0; i < WARPS; i++) sum += squares[i];
    return 1 / X_LIFT / sqrt(sum / cols + l->EPS);
}

/* c += a part that has come, times x. */
static inline void use_part(const local uchar *slot, const local uint *x, float c[4]) {
    uint lane = get_local_id(0) % 32, of_x[RUNS][2][2];
    float sums[RUNS][2];
    part p;
#pragma unroll
    for (int i = 0; i < WORDS / 4; i++) {
        uint4 four = *(const local uint4 *)(slot + i * 512 + lane * 16);
        p.row[4 * i] = four.x, p.row[4 * i + 1] = four.y, p.row[4 * i + 2] = four.z, p.row[4 * i + 3] = four.w;
    }
#ifdef BLOCK_BYTES
#if BITS4
    uint4 scales = *(const local uint4 *)(slot + 1024 + lane / 4 * 16);
    p.scale[0] = scales.x, p.scale[1] = scales.y, p.scale[2] = scales.z, p.scale[3] = scales.w;
#if MINIMUM
    uint4 minima = *(const local uint4 *)(slot + 1152 + lane / 4 * 16);
    p.minimum[0] = minima.x, p.minimum[1] = minima.y, p.minimum[2] = minima.z, p.minimum[3] = minima.w;
#endif
#else
    uint2 scales = *(const local uint2 *)(slot + 1024 + lane / 4 * 8);
    p.scale[0] = scales.x, p.scale[1] = scales.y;
#endif
#endif
    load_x(x, of_x);
    lanes_meet(); /* the slot is free */
#if MINIMUM
    sum_x(of_x, sums);
#endif
    apply(&p, of_x, sums, c);
}

/* ahead is what begin_product left. */
static inline void product(const local link *l, const local ulong *buffers, local uchar *places, local uint *x, local float *swap,
                           local float *squares, cursor *ahead) {
    uint warp = get_local_id(0) / 32, lane = get_local_id(0) % 32, strips = strips_of(l), flags = l->FLAGS;
    uint turns = (l->COLS + STEP - 1) / STEP, at = get_group_id(0), slot = 0;
    if (at >= strips) return;
    float unit = 1 / X_LIFT;
    if (flags & F_X16) {
        cursor c = begin(l, buffers, turns);
        for (int i = 0; i < SLOTS && c.at < strips; i++) {
            send_x(l, buffers, &c, places + i * SLOT_BYTES);
            next_part(l, buffers, turns, &c);
        }
        end_copies();
    } else
        unit = stage_x(l, buffers, x, squares);
    wait_copies(0);
    for (uint round = 0;; round ^= 1) {
        strip s = find_strip(l, at);
        uint row = s.row + lane % 16;
        int writes = warp == 0 && lane < 16 && row < s.rows;
        global float *y = (global float *)place(buffers, l->Y(s.which));
        float plus = 0;
        if (writes) {
            if (flags & F_ADD) plus = fresh(y + row);
            if (l->BIAS(s.which) != NOWHERE) plus += ((global const float *)place(buffers, l->BIAS(s.which)))[row];
        }
        float c[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) c[m][0] = c[m][1] = c[m][2] = c[m][3] = 0;
        for (uint turn = warp; turn < turns; turn += WARPS) {
#pragma unroll
            for (int m = 0; m < 2; m++) {
                if (m && !(flags & F_GLU)) break;
                local uchar *mine = places + slot * SLOT_BYTES;
                wait_copies(SLOTS - 1);
                lanes_meet();
                use_part(mine, flags & F_X16 ? (const local uint *)(mine + PART_BYTES) : x + turn * (STEP / 2), c[m]);
                if (ahead->at < strips) {
                    send_weights(l, ahead, mine);
                    if (flags & F_X16) send_x(l, buffers, ahead, mine);
                    next_part(l, buffers, turns, ahead);
                }
                end_copies();
                slot = slot + 1 == SLOTS ? 0 : slot + 1;
            }
        }
        local float *mine = swap + (round * 2 * WARPS + warp) * 16; /* both of a round: [2][WARPS][16] */
        if (lane % 4 == 0) {
#pragma unroll
            for (int m = 0; m < 2; m++) {
                mine[m * WARPS * 16 + lane / 4] = c[m][0];
                mine[m * WARPS * 16 + lane / 4 + 8] = c[m][2];
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        if (warp == 0) {
            float sum = 0;
            for (int k = 0; k < WARPS; k++) sum += swap[((round * 2 + lane / 16) * WARPS + k) * 16 + lane % 16];
            sum *= unit;
            float other = lanes_xor(sum, 16), result = flags & F_GLU ? activate(sum, flags & F_GELU) * other : sum + other + plus;
            if (writes && flags & F_Y16)
                ((global ushort *)y)[row] = (ushort)half_bits(result * X_LIFT);
            else if (writes)
                y[row] = result;
        }
        at += get_num_groups(0);
        if (at >= strips) break;
    }
}

#ifdef KEY_TYPE
/* ---- attention ---- */

#define PER_LANE ((KEY_DIM + 31) / 32)

/* A head by one warp: normalised (w NOWHERE: not) and turned, to local memory. */
static inline void finish_head(const local link *l, const local ulong *buffers, global const float *x, ulong w, local float *to) {
    uint lane = get_local_id(0) % 32;
    float sum = 0;
    for (uint i = lane; i < KEY_DIM; i += 32) {
        float v = fresh(x + i);
        sum += v * v;
        to[i] = v;
    }
    if (w != NOWHERE) {
        global const float *weights = (global const float *)place(buffers, w);
        for (int i = 1; i < 32; i *= 2) sum += lanes_xor(sum, i);
        float scale = 1 / sqrt(sum / KEY_DIM + l->EPS);
        for (uint i = lane; i < KEY_DIM; i += 32) to[i] *= scale * weights[i];
    }
    lanes_meet();
    if (l->PAIRS == 0) return;
    global const float *cosine = (global const float *)place(buffers, l->COSINE),
                       *sine = (global const float *)place(buffers, l->SINE);
    for (uint i = lane; i < l->PAIRS; i += 32) {
        uint first = l->FLAGS & F_PAIRS ? 2 * i : i, second = l->FLAGS & F_PAIRS ? first + 1 : i + l->PAIRS;
        float a = to[first], b = to[second], c = cosine[i], s = sine[i];
        to[first] = a * c - b * s;
        to[second] = b * c + a * s;
    }
    lanes_meet();
}

/* A key or value by one warp, as cache.cl stores it. */
static inline void store_head(const local float *x, const int values, ulong slot, global uchar *rows, global uchar *scales) {
    uint lane = get_local_id(0) % 32;
    global uchar *row = rows + slot * ROW_BYTES;
#if KEY_TYPE == 8
    float most[PER_LANE], all = 0;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        uint i = lane + 32 * k;
        most[k] = i < KEY_DIM ? fabs(x[i]) : 0;
        for (int s = 1; s < 32; s *= 2) most[k] = fmax(most[k], lanes_xor(most[k], s));
        all = fmax(all, most[k]);
    }
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
        uint i = lane + 32 * k;
        float scale = (values ? all : most[k]) / 127.0f;
        if (!values) {
            uint bits = half_bits(scale);
            float unused;
            halves(bits, &scale, &unused);
            if (lane == 0) ((global ushort *)scales)[slot * PER_LANE + k] = (ushort)bits;
        } else if (i == 0)
            ((global float *)scales)[slot] = scale;
        float q = i < KEY_DIM ? rint(x[i] * (scale > 0 ? 1 / scale : 0)) : 0;
        row[i] = (uchar)(char)(q >= -127 && q <= 127 ? (int)q : 0);
    }
#else
    for (uint i = lane; i < D; i += 32)
#if KEY_TYPE == 1
        ((global ushort *)row)[i] = (ushort)half_bits(x[i]);
#else
        ((global ushort *)row)[i] = (ushort)pair(x[i], 0);
#endif
#endif
}

/* The only part is all of the attention. */
static inline void finish_alone(const local float *shared, global float *out) {
    for (uint i = get_local_id(0); i < PART; i += WARPS * 32) {
        float z = joined_row(shared, i / VALUE_DIM).y;
        out[i] = z > 0 ? shared[PART_AT + i] / z : z;
    }
}

/* One part of one key/value head. */
static inline void attend_part(const local link *l, const local ulong *buffers, uint head, uint split, local float *shared,
                               local float *heads_of_q, local uint *flag) {
    uint splits = l->SPLITS, warp = get_local_id(0) / 32;
    size_t before = (size_t)head * l->CAPACITY;
    global const float *q = (global const float *)place(buffers, l->QUERY) + head * GROUP * KEY_DIM;
    global uchar *keys = place(buffers, l->KEYS) + before * ROW_BYTES, *values = place(buffers, l->VALUES) + before * ROW_BYTES;
    global uchar *key_scales = 0, *value_scales = 0;
#ifdef QUANT
    key_scales = place(buffers, l->KEY_SCALES) + before * GROUPS * 2;
    value_scales = place(buffers, l->VALUE_SCALES) + before * 4;
#endif
    /* the group of the last part stores the new token */
    uint rows = split == splits - 1 ? GROUP + 2 : GROUP;
    for (uint i = warp; i < rows; i += WARPS) {
        local float *to = heads_of_q + i * KEY_DIM;
        if (i < GROUP)
            finish_head(l, buffers, q + i * KEY_DIM, l->QUERY_NORM, to);
        else if (i == GROUP) {
            finish_head(l, buffers, (global const float *)place(buffers, l->NEW_KEY) + head * KEY_DIM, l->KEY_NORM, to);
            store_head(to, 0, l->POSITION, keys, key_scales);
        } else {
            global const float *v = (global const float *)place(buffers, l->NEW_VALUE) + head * KEY_DIM;
            for (uint k = get_local_id(0) % 32; k < KEY_DIM; k += 32) to[k] = fresh(v + k);
            lanes_meet();
            store_head(to, 1, l->POSITION, values, value_scales);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    state a;
    uint begin = l->KEYS_FROM + split * l->SPLIT_KEYS, end = min(begin + (uint)l->SPLIT_KEYS, (uint)l->KEYS_TO);
    attend_keys(keys, (global const half *)key_scales, values, (global const float *)value_scales, begin, end, l->POSITION,
                l->WINDOW, heads_of_q, l->SCALE, &a);
    join_warps(&a, shared);
    if (splits == 1) {
        finish_alone(shared, (global float *)place(buffers, l->OUT) + head * GROUP * VALUE_DIM);
        return;
    }
    global float *parts = (global float *)place(buffers, l->PARTS_AT), *of_head = parts + (size_t)head * splits * PART;
    global float2 *rows_of_all = (global float2 *)(parts + (size_t)l->KV_HEADS * splits * PART),
                  *part_rows = rows_of_all + (size_t)head * splits * R;
    store(shared, of_head + (size_t)split * PART, part_rows + split * R);
    if (arrive((global uint *)place(buffers, l->ARRIVED) + head, splits, flag))
        merge(splits, of_head, part_rows, 0, shared, (global float *)place(buffers, l->OUT) + head * GROUP * VALUE_DIM);
}

static inline void attend(const local link *l, const local ulong *buffers, local float *shared, local uint *flag) {
    for (uint i = get_group_id(0); i < l->SPLITS * l->KV_HEADS; i += get_num_groups(0)) {
        attend_part(l, buffers, i / l->SPLITS, i % l->SPLITS, shared, shared + LOCAL_FLOATS, flag);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}

#define ATTEND_USES (LOCAL_FLOATS + (GROUP + 2) * KEY_DIM)
#else
#define ATTEND_USES 0
#endif

/* ---- all of them ---- */

#define X_WORDS      (ROOM / 2)
#define PRODUCT_USES (X_WORDS + WARPS * SLOTS * SLOT_BYTES / 4)
#define SHARED       (PRODUCT_USES > ATTEND_USES ? PRODUCT_USES : ATTEND_USES)

#define EIGHT(k)                                                                                                                 \
    , global uchar *b##k##0, global uchar *b##k##1, global uchar *b##k##2, global uchar *b##k##3, global uchar *b##k##4,           \
        global uchar *b##k##5, global uchar *b##k##6, global uchar *b##k##7
#define KEEP(k)                                                                                                                  \
    buffers[8 * k] = (ulong)b##k##0, buffers[8 * k + 1] = (ulong)b##k##1, buffers[8 * k + 2] = (ulong)b##k##2,                   \
              buffers[8 * k + 3] = (ulong)b##k##3, buffers[8 * k + 4] = (ulong)b##k##4, buffers[8 * k + 5] = (ulong)b##k##5,     \
              buffers[8 * k + 6] = (ulong)b##k##6, buffers[8 * k + 7] = (ulong)b##k##7

/* Groups are of WARPS 32; that is no attribute of the kernel, which would free the compiler from its limit of registers.
 *
 * tape: bytes; 256, of which the first word counts groups that have come, 0 at first, and the second becomes 1 where they waited in
 * vain; then count links. patience: nanoseconds that a group waits for others. trying 1: no links, the groups meet count times. */
kernel void chain(global uchar *tape, int count, int trying, ulong patience EIGHT(0) EIGHT(1) EIGHT(2) EIGHT(3) EIGHT(4)
                      EIGHT(5) EIGHT(6) EIGHT(7) EIGHT(8) EIGHT(9) EIGHT(10) EIGHT(11)) {
    local ulong buffers[BUFFERS];
    local uint shared[SHARED] __attribute__((aligned(16)));
    local uint links[2][sizeof(link) / 4] __attribute__((aligned(16)));
    local float swap[2 * 2 * WARPS * 16], squares[WARPS];
    local uint flag;
    uint id = get_local_id(0);
    local uchar *places = (local uchar *)(shared + X_WORDS) + id / 32 * SLOTS * SLOT_BYTES; /* the warp's */
    cursor ahead = {0, 0, 0, 0, 0, 0, 0};
    if (id == 0) {
        KEEP(0);
        KEEP(1);
        KEEP(2);
        KEEP(3);
        KEEP(4);
        KEEP(5);
        KEEP(6);
        KEEP(7);
        KEEP(8);
        KEEP(9);
        KEEP(10);
        KEEP(11);
    }
    if (id < sizeof(link) / 16) stream16((local uchar *)(links[0] + 4 * id), tape + 256 + 16 * id);
    end_copies();
    wait_copies(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    const local link *l = (const local link *)links[0];
    if (!trying && l->KIND == 0) begin_product(l, buffers, places, &ahead);
    for (int i = 0; i < count; i++) {
        if (i + 1 < count && id < sizeof(link) / 16)
            stream16((local uchar *)(links[(i + 1) % 2] + 4 * id), tape + 256 + (i + 1) * sizeof(link) + 16 * id);
        end_copies();
        if (!trying && l->KIND == 0) product(l, buffers, places, shared, swap, squares, &ahead);
#ifdef KEY_TYPE
        if (!trying && l->KIND == 1) attend(l, buffers, (local float *)shared, &flag);
#endif
        wait_copies(0);
        if (i + 1 == count) break;
        barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
        l = (const local link *)links[(i + 1) % 2];
        if (id == 0) come((global uint *)tape);
        ahead = (cursor){0, 0, 0, 0, 0, 0, 0};
        if (!trying && l->KIND == 0) begin_product(l, buffers, places, &ahead);
        if (id == 0) flag = all_came((global uint *)tape, (i + 1) * get_num_groups(0), patience);
        barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
        if (!flag) {
            if (id == 0) in_vain((global uint *)tape + 1, trying);
            return;
        }
    }
}
