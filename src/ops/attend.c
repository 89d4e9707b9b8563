/* attend - exact attention over a key/value cache, by online softmax over blocks of keys; no score matrix is ever stored.
 *
 *   work item = (key/value head, tile of queries, split of the keys)
 *   in a tile, the rows are all query heads of the group times the tile's queries, so each key is read once for all of them
 *
 * Few queries: the keys are split, each split leaves (m, z, acc) in ops->partial, and a second pass merges them. Many queries:
 * tiles alone give work enough, and each runs over all its keys. The split depends on the lengths only, never on the threads.
 *
 * Where a cache has its newest tokens in more bits, these are a second run of keys: the last split, or what a tile ends with.
 */
#include <math.h>
#include <string.h>

#include "attend.h"

#define TILE_ROWS 64  /* query rows that a tile aims for */
#define WIDE_ROWS 128 /* the same where a kernel takes all steps at once, and keeps no scores */
#define BLOCK     256 /* keys scored at once: their scores and tiles stay in the first two cache levels */
#define FEW_ROWS  8   /* so few rows go over each key once, and over four times as many at once: what is done once a block */
#define FEW_BLOCK (4 * BLOCK) /* and row takes its share then */
#define PAD       16          /* floats more between two rows of scores: rows a power of two apart would share cache sets */
#define LDS       (BLOCK + PAD)
#define ASKED     1024 /* bytes asked for while a row of few is exponentiated, */
#define ASK_FROM  8192 /* from where on, in this block's values */
#define SPLIT     1024 /* keys of one split when few queries attend */

typedef struct plan {
    const mka_attend_job *job;
    mka_attend_job near; /* the job over the newest tokens, where the cache has them in more bits */
    mka_ops *ops;
    int group, tile, tiles, splits, split_keys;
    mka_attend_rows_fn *at_once; /* NULL: scores, softmax and mix block by block */
    mka_deal deal;
} plan;

static int tile_queries(int group) {
    return group >= TILE_ROWS ? 1 : TILE_ROWS / group;
}

/* A wide tile's queries: sixteens, which divide what a prompt is cut into and fill the rows of matrix units. */
static int wide_queries(int group) {
    int queries = group >= WIDE_ROWS ? 1 : WIDE_ROWS / group;
    return queries < 16 ? queries : queries / 16 * 16;
}

static size_t align_floats(size_t count) {
    return (count + 15) / 16 * 16;
}

/* Rows of a tile at most: one query's heads when they alone fill it. */
static size_t most_rows(int group) {
    return (size_t)tile_queries(group) * (size_t)group;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

size_t mka_attend_scratch(const struct mka_ops_limits *limits) {
    size_t rows = larger(most_rows(limits->head_rows), TILE_ROWS), wide = larger((size_t)limits->head_rows, WIDE_ROWS);
    size_t shared = limits->shared ? (size_t)BLOCK * (size_t)limits->value_dim : 0;
    size_t narrow_floats = align_floats(rows * (size_t)limits->key_dim) + align_floats(rows * (size_t)limits->value_dim) +
                           rows * LDS + 3 * align_floats(rows) + shared;
    size_t wide_floats =
        align_floats(wide * (size_t)limits->key_dim) + align_floats(wide * (size_t)limits->value_dim) + 5 * align_floats(wide);
    return larger(narrow_floats, wide_floats) * sizeof(float);
}

size_t mka_attend_partials(const struct mka_ops_limits *limits) {
    size_t rows = most_rows(limits->head_rows) > TILE_ROWS ? most_rows(limits->head_rows) : TILE_ROWS;
    size_t splits = ((size_t)limits->context + SPLIT - 1) / SPLIT + 2; /* a window may begin within a tile; near */
    return splits * (size_t)limits->kv_heads * rows * ((size_t)limits->value_dim + 2);
}

/* A tile's rows, in a thread's scratch. */
typedef struct tile {
    float *q, *acc, *s, *m, *z, *c;
    float *values;  /* [BLOCK][value_dim], where values are parts of keys */
    int *from, *to; /* the keys that a row sees, where all steps are taken at once; there are no s, c and values then */
    int rows, first_query, queries, block, lds;
} tile;

static tile place_tile(const plan *p, unsigned char *scratch, int index) {
    const mka_attend_job *job = p->job;
    tile t = {.first_query = index * p->tile};
    t.queries = job->n - t.first_query < p->tile ? job->n - t.first_query : p->tile;
    t.rows = t.queries * p->group;
    t.block = t.rows <= FEW_ROWS && !job->shared ? FEW_BLOCK : BLOCK;
    t.lds = t.block + PAD;
    size_t rows = align_floats((size_t)t.rows);
    t.q = (float *)(void *)scratch;
    t.acc = t.q + align_floats((size_t)t.rows * (size_t)job->key_dim);
    t.m = t.acc + align_floats((size_t)t.rows * (size_t)job->value_dim);
    t.z = t.m + rows;
    float *rest = t.z + rows;
    if (p->at_once) {
        t.from = (int *)(void *)rest;
        t.to = (int *)(void *)(rest + rows);
    } else {
        t.s = rest;
        t.c = t.s + (size_t)t.rows * (size_t)t.lds;
        t.values = t.c + rows;
    }
    return t;
}

static size_t row_of(const plan *p, const tile *t, int head, int row) {
    int query = t->first_query + row / p->group;
    return (size_t)query * (size_t)p->job->heads + (size_t)head * (size_t)p->group + (size_t)(row % p->group);
}

static void load_tile(const plan *p, const tile *t, int head) {
    const mka_attend_job *job = p->job;
    for (int r = 0; r < t->rows; r++) {
        size_t row = row_of(p, t, head, r);
        memcpy(t->q + (size_t)r * job->key_dim, job->q + row * (size_t)job->key_dim, (size_t)job->key_dim * sizeof(float));
        if (job->key_type == MKA_Q4_0) mka_hadamard(job->key_dim, t->q + (size_t)r * job->key_dim); /* as the keys are */
        t->m[r] = job->m ? job->m[row] : -INFINITY;
        t->z[r] = job->m ? job->z[row] : 0.0F;
        float *acc = t->acc + (size_t)r * job->value_dim;
        if (job->m)
            memcpy(acc, job->out + row * (size_t)job->value_dim, (size_t)job->value_dim * sizeof(float));
        else
            memset(acc, 0, (size_t)job->value_dim * sizeof(float));
    }
}

static void store_tile(const plan *p, const tile *t, int head) {
    const mka_attend_job *job = p->job;
    for (int r = 0; r < t->rows; r++) {
        size_t row = row_of(p, t, head, r);
        float *out = job->out + row * (size_t)job->value_dim;
        const float *acc = t->acc + (size_t)r * job->value_dim;
        if (job->m) {
            memcpy(out, acc, (size_t)job->value_dim * sizeof(float));
            job->m[row] = t->m[r];
            job->z[row] = t->z[r];
        } else {
            float scale = t->z[r] > 0.0F ? 1.0F / t->z[r] : t->z[r]; /* no key at all: zero; NaN stays NaN */
            for (int i = 0; i < job->value_dim; i++) out[i] = acc[i] * scale;
            if (job->value_type == MKA_Q4_0 && !job->shared) mka_hadamard(job->value_dim, out); /* turns the values back */
        }
    }
}

/* Where split number split of this tile keeps its state: rows of m, z, acc. */
static float *partial_of(const plan *p, const tile *t, int head, int split) {
    size_t each = (size_t)t->rows * ((size_t)p->job->value_dim + 2);
    return p->ops->partial + ((size_t)split * (size_t)p->job->kv_heads + (size_t)head) * each;
}

static void store_partial(const plan *p, const tile *t, int head, int split) {
    float *state = partial_of(p, t, head, split);
    memcpy(state, t->m, (size_t)t->rows * sizeof(float));
    memcpy(state + t->rows, t->z, (size_t)t->rows * sizeof(float));
    memcpy(state + 2 * t->rows, t->acc, (size_t)t->rows * (size_t)p->job->value_dim * sizeof(float));
}

/* Masks, with -inf, the keys from..from+count-1 that a row's query must not see or sees in the other run, and those before
 * begin. */
static void mask(const plan *p, const mka_attend_job *job, const tile *t, int from, int count, int begin) {
    for (int query = 0; query < t->queries; query++) {
        int position = job->first + t->first_query + query;
        int near = mka_near_from(&job->near, position), begins = job == &p->near && near > begin ? near : begin;
        int last = (job == &p->near ? position + 1 : near) - from, seen_from = job->window > 0 ? position - job->window + 1 : 0;
        int first = (seen_from > begins ? seen_from : begins) - from;
        if (last >= count && first <= 0) continue;
        for (int r = query * p->group; r < (query + 1) * p->group; r++) {
            float *s = t->s + (size_t)r * (size_t)t->lds;
            for (int i = 0; i < first && i < count; i++) s[i] = -INFINITY;
            for (int i = last > 0 ? last : 0; i < count; i++) s[i] = -INFINITY;
        }
    }
}

/* The values of count tokens that are parts of their keys, as a tile of F32 values, which is plain rows. */
static void share_values(const plan *p, const tile *t, const unsigned char *keys, size_t key_tile, int count) {
    const mka_attend_job *job = p->job;
    float key[MKA_MOST_DIM];
    for (int i = 0; i < count; i++) {
        mka_get_key(job->key_type, job->key_dim, keys + (size_t)(i / MKA_TILE) * key_tile, i % MKA_TILE, key);
        if (job->key_type == MKA_Q4_0) mka_hadamard(job->key_dim, key);
        memcpy(t->values + (size_t)i * job->value_dim, key, (size_t)job->value_dim * sizeof(float));
    }
}

/* The same as attend_keys where the level has a kernel for it. */
static void attend_at_once(const plan *p, const tile *t, int head, int begin, int end) {
    const mka_attend_job *job = p->job;
    int from = begin / MKA_TILE * MKA_TILE;
    if (end <= from) return;
    for (int r = 0; r < t->rows; r++) {
        int position = job->first + t->first_query + r / p->group;
        int seen_from = job->window > 0 ? position - job->window + 1 : 0;
        t->from[r] = (seen_from > begin ? seen_from : begin) - from;
        t->to[r] = (position + 1 < end ? position + 1 : end) - from;
    }
    size_t index = (size_t)head * job->head_tiles + (size_t)(from - job->key_first) / MKA_TILE;
    const mka_attend_rows rows = {.r = t->rows,
                                  .d_key = job->key_dim,
                                  .d_value = job->value_dim,
                                  .n = end - from,
                                  .scale = job->scale,
                                  .first = t->from,
                                  .last = t->to,
                                  .q = t->q,
                                  .keys = job->keys + index * mka_key_tile_bytes(job->key_type, job->key_dim),
                                  .values = job->values + index * mka_value_tile_bytes(job->value_type, job->value_dim),
                                  .m = t->m,
                                  .z = t->z,
                                  .acc = t->acc};
    p->at_once(&rows);
}

/* The softmax's step reads no memory, and while it runs memory can go on with values that follow those which kernels have asked
 * for already. Few rows only: with many, this is not what takes time. */
static void online(const tile *t, const mka_kernels *kernels, int count, const unsigned char *values) {
    int each = t->rows <= FEW_ROWS ? 2 : t->rows;
    for (int r = 0; r < t->rows; r += each) {
        int rows = t->rows - r < each ? t->rows - r : each;
        for (int i = 0; each == 2 && i < 2 * ASKED; i += 64) __builtin_prefetch(values + ASK_FROM + r * ASKED + i, 0, 3);
        kernels->online(rows, count, t->s + (size_t)r * (size_t)t->lds, t->lds, t->m + r, t->z + r, t->c + r);
    }
}

/* Runs a tile over the keys at positions begin..end-1 of the job or of its near one. Blocks begin with a whole tile of the
 * cache; what lies before begin is masked. */
static void attend_keys(const plan *p, const mka_attend_job *job, const tile *t, int head, int begin, int end) {
    const mka_kernels *kernels = p->ops->kernels;
    size_t key_tile = mka_key_tile_bytes(job->key_type, job->key_dim),
           value_tile = mka_value_tile_bytes(job->value_type, job->value_dim);
    size_t first_tile = (size_t)head * job->head_tiles;
    for (int from = begin < end ? begin / MKA_TILE * MKA_TILE : end; from < end; from += t->block) {
        int count = end - from < t->block ? end - from : t->block;
        size_t index = first_tile + (size_t)(from - job->key_first) / MKA_TILE;
        const unsigned char *keys = job->keys + index * key_tile;
        kernels->score[job->key_type](t->rows, job->key_dim, count, t->q, keys, job->scale, t->s, t->lds);
        mask(p, job, t, from, count, begin);
        online(t, kernels, count, job->shared ? keys : job->values + index * value_tile);
        if (job->shared) {
            share_values(p, t, keys, key_tile, count);
            kernels->mix[MKA_F32](t->rows, job->value_dim, count, t->s, t->lds, t->values, t->c, t->acc);
        } else {
            kernels->mix[job->value_type](t->rows, job->value_dim, count, t->s, t->lds, job->values + index * value_tile, t->c,
                                          t->acc);
        }
    }
}

/* The positions that any query of the tile sees, within the job's keys. */
static void seen(const plan *p, const tile *t, int *begin, int *end) {
    const mka_attend_job *job = p->job;
    int first = job->first + t->first_query, last = first + t->queries - 1;
    int stop = job->key_first + job->key_count;
    *end = last + 1 < stop ? last + 1 : stop;
    *begin = job->window > 0 && first - job->window + 1 > job->key_first ? first - job->window + 1 : job->key_first;
}

/* Of positions begin..end-1, which a tile sees: what it reads from near is from..end-1, and from the rest begin..to-1. */
static void parts(const plan *p, const tile *t, int begin, int end, int *from, int *to) {
    const mka_attend_job *job = p->job;
    int first = job->first + t->first_query, last = first + t->queries - 1, near = mka_near_from(&job->near, last);
    *to = near < end ? near : end;
    *from = mka_near_from(&job->near, first);
    if (*from < job->near.held) *from = job->near.held;
    if (*from < begin) *from = begin;
    if (!job->near.keys || *from > end) *from = end;
}

/* The tile of an item, and its rows, attended to: all of its keys, or those of a split. */
static tile attend_split(const plan *p, int head, int index, int split, unsigned char *scratch) {
    tile t = place_tile(p, scratch, index);
    int begin, end, from, to;
    seen(p, &t, &begin, &end);
    parts(p, &t, begin, end, &from, &to);
    load_tile(p, &t, head);
    if (p->splits > 1) {
        int first = begin / MKA_TILE * MKA_TILE + split * p->split_keys; /* splits begin with whole tiles */
        if (first > begin) begin = first;
        if (to > first + p->split_keys) to = first + p->split_keys;
        if (p->near.keys && split < p->splits - 1) from = end;
        if (split > 0 && p->job->m) { /* what came before counts once */
            for (int r = 0; r < t.rows; r++) t.m[r] = -INFINITY, t.z[r] = 0.0F;
            memset(t.acc, 0, (size_t)t.rows * (size_t)p->job->value_dim * sizeof(float));
        }
    }
    if (p->at_once) {
        attend_at_once(p, &t, head, begin, end);
    } else {
        attend_keys(p, p->job, &t, head, begin, to);
        attend_keys(p, &p->near, &t, head, from, end);
    }
    return t;
}

static void attend_item(const plan *p, size_t item, unsigned char *scratch) {
    int split = (int)(item % (size_t)p->splits);
    int index = (int)(item / (size_t)p->splits % (size_t)p->tiles);
    int head = (int)(item / (size_t)p->splits / (size_t)p->tiles);
    tile t = attend_split(p, head, index, split, scratch);
    if (p->splits > 1)
        store_partial(p, &t, head, split);
    else
        store_tile(p, &t, head);
}

/* Merges the splits of one head's only tile. */
static void merge_head(const plan *p, int head, unsigned char *scratch) {
    tile t = place_tile(p, scratch, 0);
    int dim = p->job->value_dim;
    for (int r = 0; r < t.rows; r++) {
        float *acc = t.acc + (size_t)r * dim;
        float m = -INFINITY;
        for (int split = 0; split < p->splits; split++) m = fmaxf(m, partial_of(p, &t, head, split)[r]);
        t.m[r] = m;
        t.z[r] = 0.0F;
        memset(acc, 0, (size_t)dim * sizeof(float));
        for (int split = 0; split < p->splits; split++) {
            const float *state = partial_of(p, &t, head, split);
            if (state[r] == -INFINITY) continue;
            float c = expf(state[r] - m);
            t.z[r] += c * state[t.rows + r];
            p->ops->kernels->axpy(dim, c, state + 2 * t.rows + (size_t)r * dim, acc);
        }
    }
    store_tile(p, &t, head);
}

/* Items in the order in which they are dealt out: those of the last queries first, as they see most keys. */
static size_t dealt(const plan *p, size_t items, size_t taken) {
    return p->splits == 1 ? items - 1 - taken : taken;
}

/* The node whose keys an item reads: those of its head, and where a head has several, those at its first key. */
static int place_of_item(const void *work, size_t taken) {
    const plan *p = work;
    const mka_attend_job *job = p->job;
    size_t items = (size_t)job->kv_heads * (size_t)p->tiles * (size_t)p->splits, item = dealt(p, items, taken);
    size_t split = item % (size_t)p->splits, tile_index = item / (size_t)p->splits % (size_t)p->tiles;
    int head = (int)(item / (size_t)p->splits / (size_t)p->tiles);
    if (p->splits == 1) return mka_places_of(p->ops->places, job->kv_heads, head, tile_index);
    tile t = {.queries = job->n};
    int begin, end;
    seen(p, &t, &begin, &end);
    size_t token = (size_t)begin / MKA_TILE * MKA_TILE + split * (size_t)p->split_keys;
    return mka_places_of(p->ops->places, job->kv_heads, head, token / mka_places_stretch(job->head_tiles * MKA_TILE));
}

static void attend_share(void *argument, int thread, int threads) {
    plan *p = argument;
    unsigned char *scratch = p->ops->thread_scratch + (size_t)thread * p->ops->thread_bytes;
    size_t items = (size_t)p->job->kv_heads * (size_t)p->tiles * (size_t)p->splits;
    const mka_places *places = p->ops->places;
    if (p->splits == 1 || places) {
        int here = mka_places_here(places, thread);
        for (size_t taken; mka_deal_take(&p->deal, places, here, items, place_of_item, p, &taken);)
            attend_item(p, dealt(p, items, taken), scratch);
    } else {
        size_t begin, end; /* splits are alike, and a run of them is one stream of memory */
        mka_share(items, 1, thread, threads, &begin, &end);
        for (size_t item = begin; item < end; item++) attend_item(p, item, scratch);
    }
    if (p->splits == 1) return;
    mka_pool_barrier(p->ops->pool);
    for (int head = thread; head < p->job->kv_heads; head += threads) merge_head(p, head, scratch);
}

/* Bytes of keys and values that the job reads, each once for a tile. */
static uint64_t bytes_read(const plan *p) {
    uint64_t rows = 0, near_rows = 0;
    for (int i = 0; i < p->tiles; i++) {
        tile t = {.first_query = i * p->tile};
        t.queries = p->job->n - t.first_query < p->tile ? p->job->n - t.first_query : p->tile;
        int begin, end, from, to;
        seen(p, &t, &begin, &end);
        parts(p, &t, begin, end, &from, &to);
        if (to > begin) rows += (uint64_t)(to - begin);
        if (end > from) near_rows += (uint64_t)(end - from);
    }
    const mka_attend_job *job = p->job;
    uint64_t tile_bytes = mka_key_tile_bytes(job->key_type, job->key_dim);
    if (!job->shared) tile_bytes += mka_value_tile_bytes(job->value_type, job->value_dim);
    uint64_t near_bytes = !job->near.keys ? 0
                                          : mka_key_tile_bytes(job->near.key_type, job->key_dim) +
                                                mka_value_tile_bytes(job->near.value_type, job->value_dim);
    return (rows * tile_bytes + near_rows * near_bytes) / MKA_TILE * (uint64_t)job->kv_heads;
}

static mka_attend_job near_job(const mka_attend_job *job) {
    mka_attend_job near = *job;
    near.keys = job->near.keys;
    near.values = job->near.values;
    near.key_type = job->near.key_type;
    near.value_type = job->near.value_type;
    near.head_tiles = job->near.head_tiles;
    near.key_first = job->near.first;
    return near;
}

/* The kernel that takes all steps at once, where the level has one for such a job; few rows are better off without. */
static mka_attend_rows_fn *kernel_at_once(const mka_ops *ops, const mka_attend_job *job, int group) {
    if (job->near.keys || job->shared || job->key_type != job->value_type || (size_t)job->n * (size_t)group < 16 ||
        job->key_dim % 32 || job->value_dim % 16 || job->key_dim > MKA_ROWS_DIM || job->value_dim > MKA_ROWS_DIM)
        return NULL;
    return ops->kernels->attend_rows[job->key_type];
}

/* Splits of at least so many keys each, all in one tile. */
static int splits_of(const plan *p, int keys) {
    tile t = {.queries = p->job->n};
    int begin, end, from, to;
    seen(p, &t, &begin, &end);
    parts(p, &t, begin, end, &from, &to);
    begin = begin / MKA_TILE * MKA_TILE;
    return to - begin > keys ? (to - begin + keys - 1) / keys + (p->near.keys ? 1 : 0) : 1;
}

static plan plan_of(mka_ops *ops, const mka_attend_job *job) {
    plan p = {.job = job, .ops = ops, .group = job->heads / job->kv_heads, .tiles = 1, .splits = 1, .split_keys = SPLIT};
    p.near = near_job(job);
    return p;
}

void mka_attend_cut(mka_attend_pieces *pieces, mka_ops *ops, const mka_attend_job *job, int most) {
    plan p = plan_of(ops, job);
    int keys = MKA_PIECE_KEYS;
    p.tile = 1;
    while ((p.splits = splits_of(&p, keys)) > most) keys += MKA_TILE;
    *pieces = (mka_attend_pieces){.job = *job, .ops = ops, .count = p.splits, .keys = keys, .bytes = bytes_read(&p)};
    pieces->job.m = pieces->job.z = NULL;
}

void mka_attend_piece(const mka_attend_pieces *pieces, int head, int piece, unsigned char *scratch, float *m, float *z,
                      float *acc) {
    plan p = plan_of(pieces->ops, &pieces->job);
    p.tile = 1;
    p.splits = pieces->count;
    p.split_keys = pieces->keys;
    tile t = attend_split(&p, head, 0, piece, scratch);
    size_t rows = (size_t)t.rows, dim = (size_t)pieces->job.value_dim;
    memcpy(m, t.m, rows * sizeof *m);
    memcpy(z, t.z, rows * sizeof *z);
    memcpy(acc, t.acc, rows * dim * sizeof *acc);
    if (pieces->job.value_type == MKA_Q4_0) /* turns the values back */
        for (size_t i = 0; i < rows; i++) mka_hadamard((int)dim, acc + i * dim);
}

void mka_cpu_attend(mka_ops *ops, const mka_attend_job *job) {
    plan p = plan_of(ops, job);
    p.at_once = kernel_at_once(ops, job, p.group);
    p.tile = tile_queries(p.group);
    if (p.at_once && job->n > 4 * p.tile) p.tile = wide_queries(p.group); /* fewer queries: rather more items than wide ones */
    p.tiles = (job->n + p.tile - 1) / p.tile;
    if (p.tiles == 1) p.splits = splits_of(&p, SPLIT);
    ops->cache_bytes += bytes_read(&p);
    mka_pool_run(ops->pool, attend_share, &p);
}

void mka_cpu_attend_start(mka_ops *ops, const mka_attend_job *job) {
    (void)ops;
    size_t rows = (size_t)job->n * (size_t)job->heads;
    for (size_t i = 0; i < rows; i++) job->m[i] = -INFINITY, job->z[i] = 0.0F;
    memset(job->out, 0, rows * (size_t)job->value_dim * sizeof *job->out);
}

void mka_cpu_attend_finish(mka_ops *ops, const mka_attend_job *job) {
    (void)ops;
    for (size_t row = 0; row < (size_t)job->n * (size_t)job->heads; row++) {
        float scale = job->z[row] > 0.0F ? 1.0F / job->z[row] : job->z[row];
        for (int i = 0; i < job->value_dim; i++) job->out[row * (size_t)job->value_dim + (size_t)i] *= scale;
    }
}
