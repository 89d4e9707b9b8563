/* recall - attention over a layer's long-term tier on the device, in plain float32 for every type, width and device. What it
 * computes, and in which phases, is src/memory/recall.h's:
 *
 *   prepare  a group a query row            the row turned and scaled
 *   score    (segment, head, query)         logarithms of the clusters' weights, or bounds of them, and their sum
 *   choose   (head, query)                  from which weight on clusters are read
 *   missing  (segment, head, query)         RING: the chosen clusters whose rows are not here
 *   read     (segment, head, query)         rows of the chosen clusters, mean values for the others: m, z, acc of the segment
 *   gather   a group a query row            these states and those of the local tier become the attention
 *   tally    an item a head                 what was read
 *
 * A row is query * heads + query head, and its head's GROUP rows of one query choose together. A segment of the index lies as
 * src/ops/device.h's mka_device_segment says; so do its rows.
 *
 * RING > 0: rows are in the host's memory, and here are those of clusters that were wanted lately, RING tokens, a power of two. A
 * token's place is its key and its value as simd/rows.h has rows, each in a multiple of 8 bytes. table [kv_heads][capacity]
 * [CLUSTERS]: the place of a cluster's first token, counted on from turn to turn of the ring; those behind it follow. 0: none.
 *
 * work, floats from work_at on, with rows = n * heads, pairs = n * kv_heads:
 *
 *   [rows][KEY_DIM]              turned queries
 *   [rows][ROW_STATE]            constant, length, log_total, least, bar, share that was not read
 *   [rows][segments][4]          m, z, gain, unread
 *   [pairs][segments][4]         ints: keys read, values read, tiles of mean values read
 *   [rows][segments][CLUSTERS]   scores
 *   [segments][rows][2 + VALUE_DIM]   m, z, acc */
#define KEY_QUANT               (KEY_TYPE == Q8_0 || KEY_TYPE == Q4_0)
#define VALUE_QUANT             (VALUE_TYPE == Q8_0 || VALUE_TYPE == Q4_0)
#define KEY_COUNT               PAD(KEY_DIM, KEY_QUANT ? 32 : 16) /* numbers of a row */
#define VALUE_COUNT             PAD(VALUE_DIM, VALUE_QUANT ? 32 : 16)
#define MEAN_COUNT              PAD(VALUE_DIM, 32)
#define POINT_COUNT             PAD(KEY_DIM, 32) /* of a centroid */
#define TYPE_BYTES(type, count) ((type) == F32 ? (count)*4 : (type) == Q8_0 ? (count) : (type) == Q4_0 ? (count) / 2 : (count)*2)
#define UP(bytes)               PAD(bytes, 64)
#define TILE                    32 /* clusters whose mean values are read together */

#define POINT_SCALES UP(CLUSTERS *POINT_COUNT)
#define MEANS        (POINT_SCALES + UP(CLUSTERS * POINT_COUNT / 16))
#define MEAN_SCALES  (MEANS + UP(CLUSTERS * MEAN_COUNT))
#define LOG_COUNT    (MEAN_SCALES + CLUSTERS * 4)
#define DEVIATION    (LOG_COUNT + CLUSTERS * 4)
#define WORTH        (DEVIATION + CLUSTERS * 4)
#define RADIUS       (WORTH + CLUSTERS * 4)
#define START        (RADIUS + CLUSTERS * 4)
#define MIDDLE       (START + UP((CLUSTERS + 1) * 2))
#define CHANNELS     (MIDDLE + UP(VALUE_DIM * 4))
#define INDEX_BYTES  (CHANNELS + UP(KEY_DIM * 4))

#define KEY_SCALES   UP(SEGMENT *TYPE_BYTES(KEY_TYPE, KEY_COUNT))
#define VALUES       (KEY_SCALES + (KEY_QUANT ? UP(SEGMENT * KEY_COUNT / 16) : 0))
#define VALUE_SCALES (VALUES + UP(SEGMENT * TYPE_BYTES(VALUE_TYPE, VALUE_COUNT)))
#define ROWS_BYTES   (VALUE_SCALES + (VALUE_QUANT ? UP(SEGMENT * VALUE_COUNT / 16) : 0))

#define ROW_BYTES(type, dim) (TYPE_BYTES(type, (type) == Q8_0 || (type) == Q4_0 ? PAD(dim, 32) : (dim)))
#define KEY_END              ROW_BYTES(KEY_TYPE, KEY_DIM) /* in a ring: where the key's scales begin, and so on */
#define VALUE_AT             PAD(KEY_END + (KEY_QUANT ? KEY_COUNT / 16 : 0), 8)
#define VALUE_END            (VALUE_AT + ROW_BYTES(VALUE_TYPE, VALUE_DIM))
#define PLACE_BYTES          PAD(VALUE_END + (VALUE_QUANT ? VALUE_COUNT / 16 : 0), 8)

#define ROW_STATE 8
enum { CONSTANT, LENGTH, LOG_TOTAL, LEAST, BAR, UNREAD };
enum { ESTIMATED, CERTIFIED, DENSE };

#define ROWS (GROUP < 8 ? GROUP : 8) /* of a tile that is scored together */
#define PART (VALUE_DIM + 2)

typedef struct {
    int n, kv_heads, segments;
    global float *x, *row, *state, *scores, *parts;
    global int *counts;
} work_place;

work_place place_work(global float *work, ulong work_at, int n, int kv_heads, int segments) {
    ulong rows = (ulong)n * (ulong)kv_heads * GROUP, pairs = (ulong)n * (ulong)kv_heads, all = (ulong)segments;
    work_place w = {n, kv_heads, segments, work + work_at, 0, 0, 0, 0, 0};
    w.row = w.x + rows * KEY_DIM;
    w.state = w.row + rows * ROW_STATE;
    w.counts = (global int *)(w.state + rows * all * 4);
    w.scores = (global float *)w.counts + pairs * all * 4;
    w.parts = w.scores + rows * all * CLUSTERS;
    return w;
}

/* The state of a row's segment, and its scores. */
global float *state_of(const work_place *w, ulong row, int segment) {
    return w->state + (row * (ulong)w->segments + (ulong)segment) * 4;
}
global float *scores_of(const work_place *w, ulong row, int segment) {
    return w->scores + (row * (ulong)w->segments + (ulong)segment) * CLUSTERS;
}

/* ---- prepare ---- */

/* frame: [KEY_DIM] signs by which keys are flipped before they are turned, then [kv_heads][KEY_DIM] centres, which are turned. */
kernel void prepare(global const float *q, ulong q_at, float scale, global const float *frame, ulong frame_at, global float *work,
                    ulong work_at, int n, int kv_heads, int segments) {
    local float x[KEY_DIM], sums[2][LANES];
    work_place w = place_work(work, work_at, n, kv_heads, segments);
    int lane = (int)get_local_id(0);
    ulong row = get_group_id(0), head = row % ((ulong)kv_heads * GROUP) / GROUP;
    const int run = KEY_DIM & -KEY_DIM;
    frame += frame_at;
    for (int i = lane; i < KEY_DIM; i += LANES) x[i] = q[q_at + row * KEY_DIM + (ulong)i] * scale * frame[i];
    for (int step = 1; step < run; step *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = lane; i < KEY_DIM / 2; i += LANES) {
            int first = i / step * 2 * step + i % step;
            float a = x[first], b = x[first + step];
            x[first] = a + b;
            x[first + step] = a - b;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float norm = 1.0f / sqrt((float)run), product = 0.0f, squares = 0.0f;
    for (int i = lane; i < KEY_DIM; i += LANES) {
        float v = x[i] * norm;
        w.x[row * KEY_DIM + (ulong)i] = v;
        product += v * frame[(head + 1) * KEY_DIM + (ulong)i];
        squares += v * v;
    }
    sums[0][lane] = product, sums[1][lane] = squares;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane > 0) return;
    for (int i = 1; i < LANES; i++) product += sums[0][i], squares += sums[1][i];
    w.row[row * ROW_STATE + CONSTANT] = product;
    w.row[row * ROW_STATE + LENGTH] = sqrt(squares) * (1.0f + 1e-5f);
}

/* ---- score ---- */

float lift(float g) {
    return g < 1.0f ? 0.5f * g * g : g - 0.5f;
}

float chance(float g) {
    return fmax(0.5f * lift(g), 2.5f * g - 7.25f);
}

/* x . a centroid for a tile of rows, and the centroid's squares. */
float dot_point(local const float *x, global const uchar *index, int cluster, float s[ROWS]) {
    float squares = 0.0f;
    for (int r = 0; r < ROWS; r++) s[r] = 0.0f;
    for (int g = 0; g < POINT_COUNT / 32; g++) {
        float part[ROWS], own = 0.0f;
        for (int r = 0; r < ROWS; r++) part[r] = 0.0f;
        for (int i = 32 * g; i < 32 * g + 32 && i < KEY_DIM; i++) {
            float k = (float)((global const char *)index)[cluster * POINT_COUNT + i];
            own += k * k;
            for (int r = 0; r < ROWS; r++) part[r] += x[r * KEY_DIM + i] * k;
        }
        float scale = vload_half((size_t)(cluster * (POINT_COUNT / 32) + g), (global const half *)(index + POINT_SCALES));
        squares += scale * scale * own;
        for (int r = 0; r < ROWS; r++) s[r] += scale * part[r];
    }
    return squares;
}

kernel void score(global const float *q, ulong q_at, float scale, global const uchar *index, ulong index_at, int capacity,
                  int contract, global float *work, ulong work_at, int n, int kv_heads, int segments) {
    local float x[ROWS * KEY_DIM], gain[ROWS], most[ROWS][LANES], sum[ROWS][LANES];
    work_place w = place_work(work, work_at, n, kv_heads, segments);
    int lane = (int)get_local_id(0), segment = (int)get_group_id(0);
    ulong head = get_group_id(1), query = get_group_id(2), first = (query * (ulong)kv_heads + head) * GROUP;
    index += index_at + (head * (ulong)capacity + (ulong)segment) * INDEX_BYTES;
    global const float *log_count = (global const float *)(index + LOG_COUNT);
    global const float *deviation = (global const float *)(index + DEVIATION);
    global const float *radius = (global const float *)(index + RADIUS);
    global const float *channels = (global const float *)(index + CHANNELS);
    for (int from = 0; from < GROUP; from += ROWS) {
        int rows = GROUP - from < ROWS ? GROUP - from : ROWS;
        ulong base = first + (ulong)from;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = lane; i < ROWS * KEY_DIM; i += LANES) x[i] = i < rows * KEY_DIM ? w.x[base * KEY_DIM + (ulong)i] : 0.0f;
        for (int r = lane; r < rows; r += LANES) {
            float power = 0.0f;
            for (int i = 0; i < KEY_DIM; i++) {
                float v = q[q_at + (base + (ulong)r) * KEY_DIM + (ulong)i] * scale;
                power += v * v * channels[i];
            }
            gain[r] = sqrt(power);
        }
        for (int r = 0; r < ROWS; r++) most[r][lane] = -INFINITY, sum[r][lane] = 0.0f;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int c = lane; c < CLUSTERS; c += LANES) {
            float s[ROWS], length = sqrt(dot_point(x, index, c, s));
            for (int r = 0; r < rows; r++) {
                global const float *own = w.row + (base + (ulong)r) * ROW_STATE;
                float add = contract == CERTIFIED ? own[LENGTH] * (radius[c] + 4e-5f * (length + radius[c]))
                                                  : fmin(lift(gain[r] * deviation[c]), 2.5f);
                float v = s[r] + own[CONSTANT] + add + log_count[c];
                scores_of(&w, base + (ulong)r, segment)[c] = v;
                float m = fmax(most[r][lane], v);
                sum[r][lane] = m == -INFINITY ? sum[r][lane] : sum[r][lane] * exp(most[r][lane] - m) + exp(v - m);
                most[r][lane] = m;
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int r = lane; r < rows; r += LANES) {
            float m = -INFINITY, z = 0.0f;
            for (int i = 0; i < LANES; i++) m = fmax(m, most[r][i]);
            for (int i = 0; i < LANES; i++) z += m == -INFINITY ? 0.0f : sum[r][i] * exp(most[r][i] - m);
            global float *state = state_of(&w, base + (ulong)r, segment);
            state[0] = m, state[1] = z, state[2] = gain[r];
        }
    }
}

/* ---- choose ---- */

#define STEPS 1024 /* of a logarithm: eight to a nat */

int step_of(float logarithm) {
    float step = (logarithm + 120.0f) * 8.0f;
    return step >= (float)(STEPS - 1) ? STEPS - 1 : step > 0.0f ? (int)step : 0; /* NaN: 0 */
}

float step_value(int step) {
    return (float)step / 8.0f - 120.0f;
}

void add_to(volatile local uint *sum, float x) {
    uint old = 0, seen; /* a guess: only atomics may look at what others change */
    while ((seen = atomic_cmpxchg(sum, old, as_uint(as_float(old) + x))) != old) old = seen;
}

/* The largest share of the softmax that a cluster takes in any row of the head. */
int share_step(const work_place *w, ulong first, int segment, int cluster) {
    float most = -INFINITY;
    for (int r = 0; r < GROUP; r++) {
        float share = scores_of(w, first + (ulong)r, segment)[cluster] - w->row[(first + (ulong)r) * ROW_STATE + LOG_TOTAL];
        most = fmax(most, share);
    }
    return step_of(most);
}

/* partial: [parts][near_rows][PART], the local tier's states, of which the first are these queries'. Sets LOG_TOTAL of a row; for
 * certified to the logarithm of the local sum alone. */
void total(const work_place *w, ulong row, global const float *partial, int parts, int near_rows, int certified,
           local float *sums) {
    int lane = (int)get_local_id(0);
    float m = -INFINITY, z = 0.0f;
    for (int s = lane; s < w->segments + parts; s += LANES) {
        int near = s >= w->segments;
        if (certified && !near) continue;
        global const float *state =
            near ? partial + ((ulong)(s - w->segments) * (ulong)near_rows + row) * PART : state_of(w, row, s);
        float next = fmax(m, state[0]);
        if (next > -INFINITY) z = z * exp(m - next) + state[1] * exp(state[0] - next);
        m = next;
    }
    sums[2 * lane] = m, sums[2 * lane + 1] = z;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane == 0) {
        for (int i = 1; i < LANES; i++) {
            float next = fmax(m, sums[2 * i]);
            if (next > -INFINITY) z = z * exp(m - next) + sums[2 * i + 1] * exp(sums[2 * i] - next);
            m = next;
        }
        w->row[row * ROW_STATE + LOG_TOTAL] = m + log(z);
    }
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
}

int tokens_of(global const uchar *index, int cluster) {
    global const ushort *start = (global const ushort *)(index + START);
    return start[cluster + 1] - start[cluster];
}

/* The step from which on clusters have count tokens at most. */
int step_of_tokens(const work_place *w, ulong first, global const uchar *index, int count, volatile local uint *steps) {
    int lane = (int)get_local_id(0), step = STEPS, sum = 0;
    for (int i = lane; i < STEPS; i += LANES) steps[i] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int at = lane; at < w->segments * CLUSTERS; at += LANES) {
        int segment = at / CLUSTERS, c = at % CLUSTERS;
        atomic_add(&steps[share_step(w, first, segment, c)], (uint)tokens_of(index + (ulong)segment * INDEX_BYTES, c));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    while (step > 0 && sum + (int)steps[step - 1] <= count) sum += (int)steps[--step];
    return step;
}

/* The step up to which the clusters of every row take no more than rest of its softmax. */
int step_of_share(const work_place *w, ulong first, float rest, volatile local uint *steps) {
    int lane = (int)get_local_id(0), least = STEPS;
    for (int r = 0; r < GROUP; r++) {
        ulong row = first + (ulong)r;
        float log_total = w->row[row * ROW_STATE + LOG_TOTAL], unread = 0.0f;
        int step = 0;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = lane; i < STEPS; i += LANES) steps[i] = 0;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int at = lane; at < w->segments * CLUSTERS; at += LANES) {
            int segment = at / CLUSTERS, c = at % CLUSTERS;
            add_to(&steps[share_step(w, first, segment, c)], exp(scores_of(w, row, segment)[c] - log_total));
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        while (step < STEPS && unread + as_float(steps[step]) <= rest) unread += as_float(steps[step++]);
        if (step < least) least = step;
    }
    return least;
}

/* Half of what a certified contract may lose goes to clusters whose bounds are small, half to tokens whose weights prove to be.
 */
void choose_bounds(const work_place *w, ulong row, float eps, volatile local uint *steps) {
    int lane = (int)get_local_id(0), step = 0;
    float sum = 0.0f, log_budget = log(0.5f * eps / (1.0f - eps) * (1.0f - 1e-4f)) + w->row[row * ROW_STATE + LOG_TOTAL];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = lane; i < STEPS; i += LANES) steps[i] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int at = lane; at < w->segments * CLUSTERS; at += LANES) {
        float v = scores_of(w, row, at / CLUSTERS)[at % CLUSTERS] - log_budget;
        if (v > -INFINITY) add_to(&steps[step_of(v)], exp(v));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane > 0) return;
    steps[0] =
        as_uint(as_float(steps[0]) + (float)(w->segments * CLUSTERS) * exp(step_value(1))); /* whatever lies below the first */
    while (step < STEPS - 1 && sum + as_float(steps[step]) <= 1.0f) sum += as_float(steps[step++]);
    global float *own = w->row + row * ROW_STATE;
    own[BAR] = eps > 0.0f && step > 0 ? step_value(step) + log_budget - 1e-4f : -INFINITY;
    own[LEAST] = eps > 0.0f ? log_budget - log((float)w->segments * SEGMENT) : -INFINITY;
}

/* change, value: of recall.h's rule; share, tokens, eps: of mka_recall. */
kernel void choose(global const float *partial, ulong partial_at, int parts, int near_rows, global const uchar *index,
                   ulong index_at, int capacity, int contract, float share, int tokens, float eps, float change, float value,
                   global float *work, ulong work_at, int n, int kv_heads, int segments) {
    local float sums[2 * LANES];
    volatile local uint steps[STEPS];
    work_place w = place_work(work, work_at, n, kv_heads, segments);
    int lane = (int)get_local_id(0);
    ulong head = get_group_id(0), query = get_group_id(1), first = (query * (ulong)kv_heads + head) * GROUP;
    for (int r = 0; r < GROUP; r++)
        total(&w, first + (ulong)r, partial + partial_at, parts, near_rows, contract == CERTIFIED, sums);
    if (contract == CERTIFIED)
        for (int r = 0; r < GROUP; r++) choose_bounds(&w, first + (ulong)r, eps, steps);
    if (contract != ESTIMATED) return;
    int step = -1;
    if (tokens > 0)
        step = step_of_tokens(&w, first, index + index_at + head * (ulong)capacity * INDEX_BYTES, tokens, steps);
    else if (share > 0.0f)
        step = step_of_share(&w, first, 1.0f - share, steps);
    for (int r = lane; r < GROUP; r += LANES) {
        global float *own = w.row + (first + (ulong)r) * ROW_STATE;
        float log_total = own[LOG_TOTAL];
        own[BAR] = log_total + (step < 0 ? log(change) : step == 0 ? -INFINITY : step_value(step));
        own[LEAST] = step < 0 ? log_total + log(change * value) : -INFINITY;
    }
}

/* ---- read ---- */

#define BATCH (LANES < 32 ? 32 : LANES) /* tokens at once */
#define TILES (CLUSTERS / TILE)
#define TAKEN 0xffffffffu /* a cluster that is about to get a place */
#define NOBODY 0xffffffffu
#define HERE(place, oldest) ((place) != TAKEN && (place) - (oldest) < RING)

int wanted(const work_place *w, ulong first, int segment, int c, global const uchar *index, int contract, int by_effect) {
    global const float *deviation = (global const float *)(index + DEVIATION), *worth = (global const float *)(index + WORTH);
    if (contract == DENSE) return 1;
    for (int r = 0; r < GROUP; r++) {
        float s = scores_of(w, first + (ulong)r, segment)[c], bar = w->row[(first + (ulong)r) * ROW_STATE + BAR];
        float gain = state_of(w, first + (ulong)r, segment)[2];
        if (by_effect ? !(s + chance(gain * deviation[c]) + worth[c] <= bar - log(gain)) : !(s <= bar)) return 1;
    }
    return 0;
}

/* A token's numbers and scales, of its key or its value, in a segment or in the ring. */
#if RING
#define TOKEN uint
#define AT(token) ((ulong)((token) & (RING - 1)) * PLACE_BYTES)
#define KEY_OF(rows, token) ((rows) + AT(token))
#define KEY_SCALES_OF(rows, token) ((rows) + AT(token) + KEY_END)
#define VALUE_OF(rows, token) ((rows) + AT(token) + VALUE_AT)
#define VALUE_SCALES_OF(rows, token) ((rows) + AT(token) + VALUE_END)
#else
#define TOKEN ushort
#define KEY_OF(rows, token) ((rows) + (token) * TYPE_BYTES(KEY_TYPE, KEY_COUNT))
#define KEY_SCALES_OF(rows, token) ((rows) + KEY_SCALES + (token) * (KEY_COUNT / 16))
#define VALUE_OF(rows, token) ((rows) + VALUES + (token) * TYPE_BYTES(VALUE_TYPE, VALUE_COUNT))
#define VALUE_SCALES_OF(rows, token) ((rows) + VALUE_SCALES + (token) * (VALUE_COUNT / 16))
#endif

float row_scale(global const uchar *scales, int quant, int i) {
    return quant ? vload_half((size_t)(i / 32), (global const half *)scales) : 1.0f;
}

/* x . key of a token; x lies in work. */
float dot_key(global const float *x, global const uchar *rows, TOKEN token) {
    global const uchar *row = KEY_OF(rows, token), *scales = KEY_SCALES_OF(rows, token);
    float sum = 0.0f;
    for (int g = 0; g < KEY_DIM; g += 32) {
        float part = 0.0f;
        for (int i = g; i < g + 32 && i < KEY_DIM; i++) part += x[i] * number_of(KEY_TYPE, row, (ulong)i);
        sum += part * row_scale(scales, KEY_QUANT, g);
    }
    return sum;
}

typedef struct {
    local float *s; /* [GROUP][BATCH] */
    local float *m, *z, *c, *unread;
    local TOKEN *list;
    local ushort *cluster, *begin;
    local uchar *kept;
    local int *counts;
} reading;

/* The tokens of wanted clusters, in order; returns how many. begin: [CLUSTERS + 1] where a cluster's begin. places: of the segment's
 * clusters in the ring. */
int list_tokens(const reading *d, global const uchar *index, global const uint *places) {
    int lane = (int)get_local_id(0);
    global const ushort *start = (global const ushort *)(index + START);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane == 0) {
        int sum = 0;
        for (int c = 0; c < CLUSTERS; c++) {
            int count = d->begin[c] ? start[c + 1] - start[c] : 0;
            d->begin[c] = (ushort)sum;
            sum += count;
        }
        d->begin[CLUSTERS] = (ushort)sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int c = lane; c < CLUSTERS; c += LANES)
        for (int i = d->begin[c]; i < d->begin[c + 1]; i++) {
            d->list[i] = (TOKEN)((RING ? places[c] : start[c]) + i - d->begin[c]);
            d->cluster[i] = (ushort)c;
        }
    barrier(CLK_LOCAL_MEM_FENCE);
    return d->begin[CLUSTERS];
}

/* Scores of tokens from.. of the list; kept: whether some row gives one a weight that counts. Those that are not are added to
 * their cluster's part of the estimate (its score holds that, relative to the total), or to what is left out. */
void score_batch(const reading *d, const work_place *w, ulong first, int segment, int from, int count, int contract,
                 global const uchar *rows) {
    int lane = (int)get_local_id(0);
    for (int i = lane; i < count; i += LANES) {
        TOKEN token = d->list[from + i];
        int counts = 0;
        for (int r = 0; r < GROUP; r++) {
            global const float *own = w->row + (first + (ulong)r) * ROW_STATE;
            float s = dot_key(w->x + (first + (ulong)r) * KEY_DIM, rows, token) + own[CONSTANT];
            d->s[r * BATCH + i] = s;
            counts |= contract == DENSE || !(s <= own[LEAST]);
        }
        d->kept[i] = (uchar)counts;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int r = lane; r < GROUP; r += LANES) {
        global float *scores = scores_of(w, first + (ulong)r, segment);
        float log_total = w->row[(first + (ulong)r) * ROW_STATE + LOG_TOTAL], most = d->m[r], z = 0.0f, unread = 0.0f;
        for (int i = 0; i < count; i++) most = fmax(most, d->s[r * BATCH + i]);
        d->c[r] = most == -INFINITY ? 1.0f : exp(d->m[r] - most);
        for (int i = 0; i < count; i++) {
            float s = d->s[r * BATCH + i], weight = most == -INFINITY ? 0.0f : exp(s - most);
            if (d->kept[i])
                z += weight;
            else if (contract == ESTIMATED)
                scores[d->cluster[from + i]] += exp(s - log_total);
            else
                unread += weight;
            d->s[r * BATCH + i] = d->kept[i] ? weight : 0.0f;
        }
        d->z[r] = d->z[r] * d->c[r] + z;
        d->unread[r] = d->unread[r] * d->c[r] + unread;
        d->m[r] = most;
    }
    if (lane == 0) {
        d->counts[0] += count;
        for (int i = 0; i < count; i++) d->counts[1] += d->kept[i];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

void mix_batch(const reading *d, global float *acc, ulong ld, int from, int count, global const uchar *rows) {
    for (int e = (int)get_local_id(0); e < VALUE_DIM; e += LANES) {
        for (int r = 0; r < GROUP; r++) acc[(ulong)r * ld + (ulong)e] *= d->c[r];
        for (int i = 0; i < count; i++) {
            if (!d->kept[i]) continue;
            TOKEN token = d->list[from + i];
            float v = number_of(VALUE_TYPE, VALUE_OF(rows, token), (ulong)e) * row_scale(VALUE_SCALES_OF(rows, token), VALUE_QUANT, e);
            for (int r = 0; r < GROUP; r++) acc[(ulong)r * ld + (ulong)e] += d->s[r * BATCH + i] * v;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* The clusters that were not read, and what of the others was not: weights times mean values; for a tile that hardly counts in
 * any row, times the mean value of the segment. sums: local [GROUP * TILES]; begin[c + 1] > begin[c] tells the clusters that were
 * read. */
void add_estimate(const reading *d, const work_place *w, ulong first, int segment, global const uchar *index, float floor,
                  global float *acc, ulong ld, local float *sums) {
    int lane = (int)get_local_id(0);
    global const float *mean_scale = (global const float *)(index + MEAN_SCALES),
                       *middle = (global const float *)(index + MIDDLE);
    for (int r = lane; r < GROUP; r += LANES) {
        global const float *scores = scores_of(w, first + (ulong)r, segment);
        float log_total = w->row[(first + (ulong)r) * ROW_STATE + LOG_TOTAL], most = fmax(d->m[r], log_total);
        for (int c = 0; c < CLUSTERS; c++)
            if (d->begin[c] == d->begin[c + 1]) most = fmax(most, scores[c]);
        d->c[r] = exp(d->m[r] - most);
        d->m[r] = most;
    }
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE); /* a row's scores are read before others change them */
    for (int i = lane; i < GROUP * CLUSTERS; i += LANES) {
        int r = i / CLUSTERS, c = i % CLUSTERS;
        global float *s = &scores_of(w, first + (ulong)r, segment)[c];
        float back = exp(w->row[(first + (ulong)r) * ROW_STATE + LOG_TOTAL] - d->m[r]);
        *s = d->begin[c] == d->begin[c + 1] ? exp(*s - d->m[r]) : *s * back;
    }
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    for (int i = lane; i < GROUP * TILES; i += LANES) {
        global const float *weights = scores_of(w, first + (ulong)(i / TILES), segment) + i % TILES * TILE;
        float sum = 0.0f;
        for (int c = 0; c < TILE; c++) sum += weights[c];
        sums[i] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int tile = 0; tile < TILES; tile++) {
        int counts = 0;
        for (int r = 0; r < GROUP; r++) {
            float to_total = exp(d->m[r] - w->row[(first + (ulong)r) * ROW_STATE + LOG_TOTAL]);
            counts |= !(sums[r * TILES + tile] * to_total <= floor);
        }
        if (lane == 0) d->counts[2] += counts;
        for (int e = lane; e < VALUE_DIM; e += LANES)
            for (int r = 0; r < GROUP; r++) {
                global const float *weights = scores_of(w, first + (ulong)r, segment) + tile * TILE;
                float sum = tile == 0 ? acc[(ulong)r * ld + (ulong)e] * d->c[r] : acc[(ulong)r * ld + (ulong)e];
                if (!counts) sum += sums[r * TILES + tile] * middle[e];
                for (int c = tile * TILE; counts && c < tile * TILE + TILE; c++)
                    sum += weights[c - tile * TILE] * mean_scale[c] *
                           (float)((global const char *)(index + MEANS))[c * MEAN_COUNT + e];
                acc[(ulong)r * ld + (ulong)e] = sum;
            }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int r = lane; r < GROUP; r += LANES) {
        float unread = 0.0f;
        for (int tile = 0; tile < TILES; tile++) unread += sums[r * TILES + tile];
        d->unread[r] = unread;
        d->z[r] = d->z[r] * d->c[r] + unread;
    }
}

/* Certified: the sum of the bounds of the clusters that were left out. */
void add_bounds(const reading *d, const work_place *w, ulong first, int segment) {
    for (int r = (int)get_local_id(0); r < GROUP; r += LANES) {
        global const float *scores = scores_of(w, first + (ulong)r, segment);
        float unread = 0.0f;
        if (d->m[r] == -INFINITY) d->m[r] = w->row[(first + (ulong)r) * ROW_STATE + LOG_TOTAL]; /* nothing was read */
        for (int c = 0; c < CLUSTERS; c++)
            if (d->begin[c] == d->begin[c + 1] && scores[c] > -INFINITY) unread += exp(scores[c] - d->m[r]);
        d->unread[r] += unread;
    }
}

/* The chosen clusters of segments from `from` on that are not in the ring get places there, from place now on, those of a cluster
 * side by side, each cluster once; they are to be filled before they are read. Places that limit tokens from now on overwrite count
 * as overwritten already.
 *
 * list: the next place, which is now at first; how many clusters were listed, as many as `listed` before; then a pair for each of
 * up to most new ones: its number in table, and its place less now. More than most clusters or limit tokens: the list has a part
 * of them alone, and NOBODY where one has no room; those that it does not have got no place. */
#if RING
kernel void missing(global const uchar *index, ulong index_at, int capacity, int contract, int by_effect,
                    volatile global uint *table, ulong table_at, volatile global uint *list, ulong list_at, uint now, uint listed,
                    uint limit, uint most, int from, global float *work, ulong work_at, int n, int kv_heads, int segments) {
    work_place w = place_work(work, work_at, n, kv_heads, segments);
    int segment = from + (int)get_group_id(0);
    ulong head = get_group_id(1), first = (get_group_id(2) * (ulong)kv_heads + head) * GROUP;
    ulong place = head * (ulong)capacity + (ulong)segment;
    index += index_at + place * INDEX_BYTES;
    table += table_at + place * CLUSTERS;
    list += list_at;
    for (int c = (int)get_local_id(0); c < CLUSTERS; c += LANES) {
        uint tokens = (uint)tokens_of(index, c);
        if (tokens == 0 || !wanted(&w, first, segment, c, index, contract, by_effect)) continue;
        uint old = atomic_or(&table[c], 0u); /* other queries' groups change it: only atomics may look */
        if (old == TAKEN || HERE(old, now - RING + limit)) continue;
        if (atomic_cmpxchg(&table[c], old, TAKEN) != old) continue; /* another query's group has it */
        uint at = atomic_add(list, tokens) - now, i = atomic_inc(list + 1) - listed;
        int fits = i < most && at + tokens <= limit;
        if (i < most) {
            list[2 + 2 * i] = fits ? (uint)(place * CLUSTERS) + (uint)c : NOBODY;
            list[3 + 2 * i] = at;
        }
        atomic_xchg(&table[c], fits ? now + at : 0u);
    }
}
#endif

/* Segments from `from` on. table: of a ring, oldest: the first place in it that counts, as for missing; a cluster that seems wanted here alone, by a rounding, is
 * not read. */
kernel void read(global const uchar *index, ulong index_at, global const uchar *all_rows, ulong rows_at, int capacity,
                 global const uint *table, ulong table_at, uint oldest, int from, int contract, int by_effect, float floor,
                 global float *work, ulong work_at, int n, int kv_heads, int segments) {
    local float s[GROUP * BATCH], sums[GROUP * TILES], m[GROUP], z[GROUP], c[GROUP], unread[GROUP];
    local TOKEN list[SEGMENT];
    local ushort cluster[SEGMENT], begin[CLUSTERS + 1];
    local uchar kept[BATCH];
    local int counts[3];
    const reading d = {s, m, z, c, unread, list, cluster, begin, kept, counts};
    work_place w = place_work(work, work_at, n, kv_heads, segments);
    int lane = (int)get_local_id(0), segment = from + (int)get_group_id(0);
    ulong head = get_group_id(1), query = get_group_id(2), pair = query * (ulong)kv_heads + head, first = pair * GROUP;
    ulong rows = (ulong)n * (ulong)kv_heads * GROUP;
    global float *part = w.parts + ((ulong)segment * rows + first) * PART;
    index += index_at + (head * (ulong)capacity + (ulong)segment) * INDEX_BYTES;
    all_rows += rows_at + (RING ? 0 : (head * (ulong)capacity + (ulong)segment) * ROWS_BYTES);
    table += table_at + (RING ? (head * (ulong)capacity + (ulong)segment) * CLUSTERS : 0);
    for (int i = lane; i < GROUP * PART; i += LANES) part[i] = 0.0f;
    for (int r = lane; r < GROUP; r += LANES) m[r] = -INFINITY, z[r] = unread[r] = 0.0f;
    for (int i = lane; i < 3; i += LANES) counts[i] = 0;
    for (int i = lane; i < CLUSTERS; i += LANES)
        begin[i] = (ushort)(tokens_of(index, i) > 0 && (!RING || HERE(table[i], oldest)) &&
                            wanted(&w, first, segment, i, index, contract, by_effect));
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = lane; i < CLUSTERS && contract == ESTIMATED; i += LANES)
        for (int r = 0; r < GROUP && begin[i]; r++) scores_of(&w, first + (ulong)r, segment)[i] = 0.0f;
    int tokens = list_tokens(&d, index, table);
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    for (int at = 0; at < tokens; at += BATCH) {
        int count = tokens - at < BATCH ? tokens - at : BATCH;
        score_batch(&d, &w, first, segment, at, count, contract, all_rows);
        mix_batch(&d, part + 2, PART, at, count, all_rows);
    }
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    if (contract == ESTIMATED) add_estimate(&d, &w, first, segment, index, floor, part + 2, PART, sums);
    if (contract == CERTIFIED) add_bounds(&d, &w, first, segment);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int r = lane; r < GROUP; r += LANES) {
        part[r * PART] = m[r];
        part[r * PART + 1] = z[r];
        state_of(&w, first + (ulong)r, segment)[3] = unread[r];
    }
    for (int i = lane; i < 3; i += LANES) w.counts[(pair * (ulong)segments + (ulong)segment) * 4 + (ulong)i] = counts[i];
}

/* ---- gather, tally ---- */

/* partial: the local tier's states, whose sums are turned in runs of run numbers (0: are not). wants_read 1: read [rows] gets the
 * logarithm of the partition sum of what was read. */
kernel void gather(global const float *partial, ulong partial_at, int parts, int near_rows, int run, int contract,
                   global float *work, ulong work_at, int n, int kv_heads, int segments, global float *out, ulong out_at,
                   int wants_read, global float *read_log, ulong read_at) {
    local float x[VALUE_DIM];
    work_place w = place_work(work, work_at, n, kv_heads, segments);
    int lane = (int)get_local_id(0);
    ulong row = get_group_id(0), step = (ulong)n * (ulong)kv_heads * GROUP * PART, near_step = (ulong)near_rows * PART;
    global const float *near = partial + partial_at + row * PART, *far = w.parts + row * PART;
    float most = -INFINITY, z = 0.0f, unread = 0.0f;
    for (int s = 0; s < parts; s++) most = fmax(most, near[(ulong)s * near_step]);
    for (int s = 0; s < segments; s++) most = fmax(most, far[(ulong)s * step]);
    for (int s = 0; s < parts; s++)
        if (near[(ulong)s * near_step] > -INFINITY) z += near[(ulong)s * near_step + 1] * exp(near[(ulong)s * near_step] - most);
    for (int s = 0; s < segments; s++) {
        float add = far[(ulong)s * step] > -INFINITY ? exp(far[(ulong)s * step] - most) : 0.0f;
        z += far[(ulong)s * step + 1] * add;
        unread += state_of(&w, row, s)[3] * add;
    }
    for (int e = lane; e < VALUE_DIM; e += LANES) {
        float sum = 0.0f;
        for (int s = 0; s < parts; s++)
            if (near[(ulong)s * near_step] > -INFINITY)
                sum += near[(ulong)s * near_step + 2 + (ulong)e] * exp(near[(ulong)s * near_step] - most);
        x[e] = sum;
    }
    for (int stride = 1; stride < run; stride *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = lane; i < VALUE_DIM / 2; i += LANES) {
            int first = i / stride * 2 * stride + i % stride;
            float a = x[first], b = x[first + stride];
            x[first] = a + b;
            x[first + stride] = a - b;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float norm = run > 0 ? 1.0f / sqrt((float)run) : 1.0f, inverse = z > 0.0f ? 1.0f / z : z;
    for (int e = lane; e < VALUE_DIM; e += LANES) {
        float sum = x[e] * norm;
        for (int s = 0; s < segments; s++)
            if (far[(ulong)s * step] > -INFINITY) sum += far[(ulong)s * step + 2 + (ulong)e] * exp(far[(ulong)s * step] - most);
        out[out_at + row * VALUE_DIM + (ulong)e] = sum * inverse;
    }
    if (lane > 0) return;
    w.row[row * ROW_STATE + UNREAD] = unread / (z + (contract == CERTIFIED ? unread : 0.0f));
    if (wants_read) read_log[read_at + row] = most + log(fmax(contract == CERTIFIED ? z : z - unread, 0.0f));
}

/* counts [kv_heads][4]: keys, values and tiles of mean values read, and the share that was not read, in units of 2^-32. */
kernel void tally(global float *work, ulong work_at, int n, int kv_heads, int segments, global ulong *counts, ulong counts_at) {
    work_place w = place_work(work, work_at, n, kv_heads, segments);
    ulong head = get_global_id(0), unread = 0, sums[3] = {0, 0, 0};
    if (head >= (ulong)kv_heads) return;
    for (ulong query = 0; query < (ulong)n; query++) {
        ulong pair = query * (ulong)kv_heads + head;
        for (ulong s = 0; s < (ulong)segments; s++)
            for (int i = 0; i < 3; i++) sums[i] += (ulong)w.counts[(pair * (ulong)segments + s) * 4 + (ulong)i];
        for (ulong r = 0; r < GROUP; r++) {
            float share = w.row[(pair * GROUP + r) * ROW_STATE + UNREAD];
            if (share > 0.0f) unread += (ulong)(share * (4294967296.0f / GROUP));
        }
    }
    global ulong *to = counts + counts_at + head * 4;
    for (int i = 0; i < 3; i++) to[i] += sums[i];
    to[3] += unread;
}
