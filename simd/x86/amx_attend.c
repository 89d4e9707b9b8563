/* amx_attend - attention of many query rows to a range of keys on AMX, all steps at once.
 *
 *   unit    32 query rows, two tiles high: a step of 2 x 2 tiles of sums loads one tile for each product
 *   block   BLOCK keys, whose tiles stay in the second-level cache while all units pass over them
 *
 * For a unit and a block: scores, as whole tiles of 16 x 16; the rows' maxima, 16 rows at a time; weights, written as bf16 where
 * the mix reads them as its left operand; then acc is loaded into tiles, grows by the block's values, and is stored. Everything
 * that is not in the cache's own layout is held here in tiles of 1 KiB, so that no two rows share a set of the first-level
 * cache. The next block is asked for while the first unit passes over this one. A block of f16 is converted once for all units.
 *
 * Scores are kept as powers of two: log2 e goes into the query's rounding, which saves a product for every weight. */
#include <math.h>
#include <string.h>

#include "levels.h"
#include "x86/amx_tiles.h"

#define LOG2E 1.44269504F
#define LN2   0.693147181F

enum { UNIT = 2 * AMX_ROWS, UNITS = 4, BLOCK = 256, MOST = MKA_ROWS_DIM };

typedef struct work {
    /* Scores, tiles of sums as they were stored. Weights, which take half the room, replace them: those of tiles 2 t and 2 t + 1
     * lie in 2 t, as the mix's left operand. A buffer of their own would fill the first-level cache together with this one. */
    float s[BLOCK / 16][2][AMX_ROWS][16];
    uint16_t q[UNITS][MOST / 32][2][AMX_ROWS][32]; /* tiles of the scores' left operand */
    float acc[UNITS][MOST / 16][2][AMX_ROWS][16];  /* tiles of the mix's sums */
    float sums[UNIT][16];
    float base[UNIT]; /* what the running unit's scores are held against */
    float m[UNITS * UNIT], z[UNITS * UNIT];
    int first[UNITS * UNIT], last[UNITS * UNIT];
    const mka_attend_rows *job;
} __attribute__((aligned(64))) work;

/* A run of keys that all units pass over. */
typedef struct block {
    const char *keys, *values;
    ptrdiff_t key_tile, value_tile;
    int at, steps; /* first key, and tiles of MKA_TILE keys */
    int ahead;     /* 1: the first unit asks for the block that follows in memory */
} block;

/* Compilers do not know that a tile's load reads memory. */
AMX_INLINE void settle(void) {
    __asm__ volatile("" : : : "memory");
}

/* 2^x for x <= 0, within 4 ulp; exactly 0 below -127, and a NaN stays. The magic number leaves round(x) in the low bits, and the
 * reduction what is off it. For COUNT vectors side by side: alone, each would wait for itself, as few of them fit what a core has
 * in flight. */
#define POWER2(COUNT, x)                                                                                                         \
    do {                                                                                                                         \
        const __m512 magic_ = _mm512_set1_ps(12582912.0F);                                                                       \
        __m512i n_[COUNT];                                                                                                       \
        __m512 p_[COUNT];                                                                                                        \
        EACH(COUNT, (x)[i_] = _mm512_max_ps(_mm512_set1_ps(-127.0F), (x)[i_]));                                                  \
        EACH(COUNT, p_[i_] = _mm512_add_ps((x)[i_], magic_));                                                                    \
        EACH(COUNT, n_[i_] = _mm512_slli_epi32(_mm512_castps_si512(p_[i_]), 23));                                                \
        EACH(COUNT, (x)[i_] = _mm512_reduce_ps((x)[i_], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));                         \
        EACH(COUNT,                                                                                                              \
             p_[i_] = _mm512_fmadd_ps((x)[i_], _mm512_set1_ps(0.001326472731307149F), _mm512_set1_ps(0.009671512991189957F)));   \
        EACH(COUNT, p_[i_] = _mm512_fmadd_ps(p_[i_], (x)[i_], _mm512_set1_ps(0.05550733581185341F)));                            \
        EACH(COUNT, p_[i_] = _mm512_fmadd_ps(p_[i_], (x)[i_], _mm512_set1_ps(0.24022242426872253F)));                            \
        EACH(COUNT, p_[i_] = _mm512_fmadd_ps(p_[i_], (x)[i_], _mm512_set1_ps(0.6931470036506653F)));                             \
        EACH(COUNT, p_[i_] = _mm512_fmadd_ps(p_[i_], (x)[i_], _mm512_set1_ps(1.0F)));                                            \
        EACH(COUNT, (x)[i_] = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p_[i_]), n_[i_])));                       \
    } while (0)
#define EACH(COUNT, STATEMENT) _Pragma("GCC unroll 16") for (int i_ = 0; i_ < (COUNT); i_++) STATEMENT

/* The lanes of 16 vectors, summed or maximised: lane i of the result is of v[i]. */
#define ACROSS(name, OP)                                                                                                         \
    AMX_INLINE __m512 name(__m512 v[16]) {                                                                                       \
        __m512 a[8], b[4], c[2];                                                                                                 \
        for (int i = 0; i < 8; i++) /* lanes: 4 of v[i] beside 4 of v[i + 8], twice */                                           \
            a[i] = OP(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));                   \
        for (int i = 0; i < 4; i++) /* a quarter each: v[i], v[i + 4], v[i + 8], v[i + 12] */                                    \
            b[i] = OP(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));                   \
        for (int i = 0; i < 2; i++) c[i] = OP(_mm512_unpacklo_ps(b[i], b[i + 2]), _mm512_unpackhi_ps(b[i], b[i + 2]));           \
        __m512 d = OP(_mm512_unpacklo_ps(c[0], c[1]), _mm512_unpackhi_ps(c[0], c[1]));                                           \
        /* quarters hold rows i, i + 8, i + 4, i + 12 of i = 0..3 */                                                             \
        const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);                           \
        return _mm512_permutexvar_ps(order, d);                                                                                  \
    }
ACROSS(sum_across, _mm512_add_ps)
ACROSS(max_across, _mm512_max_ps)

AMX_INLINE void zero_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* One or two tiles of rows at a by the tiles at b and b + second, added to sums 0..3: row by row. */
AMX_INLINE void multiply_step(int two, const char *a, const char *b, ptrdiff_t second) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + second, 64);
    _tile_dpbf16ps(1, 4, 7);
    if (two) {
        _tile_loadd(5, a + AMX_TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* COUNT pairs of 16 keys from tile t on of a row: scores to weights in bf16. Returns the weights' sum. */
#define WEIGH(COUNT)                                                                                                             \
    AMX_INLINE __m512 weigh_##COUNT(work *w, int t, int half, int i, __m512 base) {                                              \
        __m512 x[2 * (COUNT)], sum[2 * (COUNT)];                                                                                 \
        EACH(2 * (COUNT), x[i_] = _mm512_sub_ps(_mm512_load_ps(w->s[2 * t + i_][half][i]), base));                               \
        POWER2(2 * (COUNT), x);                                                                                                  \
        EACH(COUNT, _mm512_store_si512(w->s[2 * (t + i_)][half][i], (__m512i)_mm512_cvtne2ps_pbh(x[2 * i_ + 1], x[2 * i_])));    \
        EACH(COUNT, sum[i_] = _mm512_add_ps(x[2 * i_], x[2 * i_ + 1]));                                                          \
        for (int k = (COUNT) / 2; k > 0; k /= 2) EACH(k, sum[i_] = _mm512_add_ps(sum[i_], sum[i_ + k]));                         \
        return sum[0];                                                                                                           \
    }
WEIGH(1)
WEIGH(4)

/* A row's scores to weights; their sum stays in sums. */
AMX_INLINE void weigh_row(work *w, int steps, int half, int i) {
    __m512 base = _mm512_set1_ps(w->base[half * AMX_ROWS + i]), sum = _mm512_setzero_ps();
    int t = 0;
    for (; t + 4 <= steps; t += 4) sum = _mm512_add_ps(sum, weigh_4(w, t, half, i, base));
    for (; t < steps; t++) sum = _mm512_add_ps(sum, weigh_1(w, t, half, i, base));
    _mm512_store_ps(w->sums[half * AMX_ROWS + i], sum);
}

/* Takes the maxima of 16 rows into m, and scales z and acc of those that grew. */
static void raise_base(work *w, int unit, int steps, int half) {
    __m512 most[AMX_ROWS];
    for (int i = 0; i < AMX_ROWS; i++) most[i] = _mm512_set1_ps(-INFINITY);
    for (int t = 0; t < 2 * steps; t++)
#pragma GCC unroll 16
        for (int i = 0; i < AMX_ROWS; i++) most[i] = _mm512_max_ps(_mm512_load_ps(w->s[t][half][i]), most[i]);
    int row = unit * UNIT + half * AMX_ROWS;
    __m512 was = _mm512_load_ps(w->m + row), m = _mm512_max_ps(max_across(most), was);
    /* With nothing but masked keys so far, any finite base turns scores of -inf into weights of 0. */
    __mmask16 empty = _mm512_cmp_ps_mask(m, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
    __m512 base = _mm512_mask_mov_ps(m, empty, _mm512_setzero_ps()), c[1] = {_mm512_sub_ps(was, base)};
    POWER2(1, c);
    _mm512_store_ps(w->m + row, m);
    _mm512_store_ps(w->base + half * AMX_ROWS, base);
    _mm512_store_ps(w->z + row, _mm512_mul_ps(_mm512_load_ps(w->z + row), c[0]));
    unsigned changed = _mm512_cmp_ps_mask(c[0], _mm512_set1_ps(1.0F), _CMP_NEQ_UQ);
    _Alignas(64) float factor[AMX_ROWS];
    _mm512_store_ps(factor, c[0]);
    for (; changed; changed &= changed - 1) {
        int i = __builtin_ctz(changed);
        __m512 by = _mm512_set1_ps(factor[i]);
        for (int e = 0; e < w->job->d_value / 16; e++) {
            float *p = w->acc[unit][e][half][i];
            _mm512_store_ps(p, _mm512_mul_ps(by, _mm512_load_ps(p)));
        }
    }
}

static void add_sums(work *w, int unit, int half) {
    __m512 v[AMX_ROWS];
    for (int i = 0; i < AMX_ROWS; i++) v[i] = _mm512_load_ps(w->sums[half * AMX_ROWS + i]);
    float *z = w->z + unit * UNIT + half * AMX_ROWS;
    _mm512_store_ps(z, _mm512_add_ps(_mm512_load_ps(z), sum_across(v)));
}

/* Scores of -inf for the keys of the block that a row does not see. */
static void hide(work *w, int unit, int rows, const block *b) {
    for (int i = 0; i < rows; i++) {
        int row = unit * UNIT + i, first = w->first[row] - b->at, last = w->last[row] - b->at;
        if (first <= 0 && last >= MKA_TILE * b->steps) continue;
        for (int t = 0; t < 2 * b->steps; t++) {
            int from = first - 16 * t, to = last - 16 * t;
            unsigned before = from <= 0 ? 0 : from >= 16 ? 0xffff : (1u << from) - 1;
            unsigned after = to >= 16 ? 0 : to <= 0 ? 0xffff : 0xffff ^ ((1u << to) - 1);
            _mm512_mask_store_ps(w->s[t][i / AMX_ROWS][i % AMX_ROWS], (__mmask16)(before | after), _mm512_set1_ps(-INFINITY));
        }
    }
}

/* The scores of a unit, whose rows are one or two tiles high, against the keys of a block. */
AMX_INLINE void score_unit(work *w, int unit, int two, const block *b, ptrdiff_t ahead) {
    int width = w->job->d_key / 32;
    ptrdiff_t half = b->key_tile / 2;
    for (int t = 0; t < b->steps; t++) {
        const char *q = (const char *)w->q[unit], *key = b->keys + t * b->key_tile;
        zero_sums();
        for (int k = 0; k < width; k++, q += 2 * AMX_TILE, key += AMX_TILE) {
            amx_ask(key, ahead);
            amx_ask(key + half, ahead);
            multiply_step(two, q, key, half);
        }
        _tile_stored(0, w->s[2 * t][0], 64);
        _tile_stored(1, w->s[2 * t + 1][0], 64);
        if (two) {
            _tile_stored(2, w->s[2 * t][1], 64);
            _tile_stored(3, w->s[2 * t + 1][1], 64);
        }
    }
}

/* The same for width 64: the unit's queries fit four tiles, so that keys alone are loaded. */
static void score_64(work *w, int unit, const block *b, ptrdiff_t ahead) {
    const char *q = (const char *)w->q[unit];
    _tile_loadd(4, q, 64);
    _tile_loadd(5, q + AMX_TILE, 64);
    _tile_loadd(6, q + 2 * AMX_TILE, 64);
    _tile_loadd(7, q + 3 * AMX_TILE, 64);
    const char *key = b->keys;
    for (int t = 0; t < 2 * b->steps; t++, key += 2 * AMX_TILE) {
        amx_ask(key, ahead);
        amx_ask(key + AMX_TILE, ahead);
        _tile_loadd(2, key, 64);
        _tile_loadd(3, key + AMX_TILE, 64);
        _tile_zero(0);
        _tile_zero(1);
        _tile_dpbf16ps(0, 4, 2);
        _tile_dpbf16ps(1, 5, 2);
        _tile_dpbf16ps(0, 6, 3);
        _tile_dpbf16ps(1, 7, 3);
        _tile_stored(0, w->s[t][0], 64);
        _tile_stored(1, w->s[t][1], 64);
    }
}

AMX_INLINE void mix_unit(work *w, int unit, int two, const block *b, ptrdiff_t ahead) {
    int width = w->job->d_value / 16;
    for (int e = 0; e < width; e += 2) {
        const char *weights = (const char *)w->s, *value = b->values + (ptrdiff_t)e * AMX_TILE;
        int second = e + 1 < width; /* an odd width's last tile is multiplied twice and stored once */
        float(*acc)[2][AMX_ROWS][16] = w->acc[unit] + e;
        _tile_loadd(0, acc[0][0], 64);
        _tile_loadd(1, acc[second][0], 64);
        if (two) {
            _tile_loadd(2, acc[0][1], 64);
            _tile_loadd(3, acc[second][1], 64);
        }
        for (int t = 0; t < b->steps; t++, weights += 4 * AMX_TILE, value += b->value_tile) {
            amx_ask(value, ahead);
            amx_ask(value + second * AMX_TILE, ahead);
            multiply_step(two, weights, value, second * AMX_TILE);
        }
        _tile_stored(0, acc[0][0], 64);
        if (second) _tile_stored(1, acc[1][0], 64);
        if (two) _tile_stored(2, acc[0][1], 64);
        if (two && second) _tile_stored(3, acc[1][1], 64);
    }
}

AMX_INLINE void run_unit(work *w, int unit, int two, const block *b) {
    ptrdiff_t ahead = unit == 0 ? b->ahead : 0;
    settle();
    if (two && w->job->d_key == 64)
        score_64(w, unit, b, b->steps * b->key_tile * ahead);
    else
        score_unit(w, unit, two, b, b->steps * b->key_tile * ahead);
    hide(w, unit, two ? UNIT : AMX_ROWS, b);
    for (int half = 0; half <= two; half++) {
        raise_base(w, unit, b->steps, half);
        for (int i = 0; i < AMX_ROWS; i++) weigh_row(w, b->steps, half, i);
        add_sums(w, unit, half);
    }
    settle();
    mix_unit(w, unit, two, b, b->steps * b->value_tile * ahead);
}

/* n floats times factor to bf16 as a row of n / 32 tiles that lie 2 AMX_TILE apart. */
static void round_query(int n, float factor, const float *x, char *y) {
    __m512 by = _mm512_set1_ps(factor);
    for (int i = 0; i < n; i += 32, y += 2 * AMX_TILE)
        _mm512_store_si512(y, (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_loadu_ps(x + i + 16), by),
                                                           _mm512_mul_ps(_mm512_loadu_ps(x + i), by)));
}

/* Takes in `rows` of the job's rows, from row `from` on; the rest of the units is rows of zeros, which nobody reads. */
static void take(work *w, int from, int rows) {
    const mka_attend_rows *job = w->job;
    for (int i = 0; i < mka_pad(rows, UNIT); i++) {
        int row = from + i, real = i < rows, unit = i / UNIT, half = i / AMX_ROWS % 2, line = i % AMX_ROWS;
        w->m[i] = real ? job->m[row] * LOG2E : -INFINITY;
        w->z[i] = real ? job->z[row] : 0.0F;
        w->first[i] = real ? job->first[row] : 0;
        w->last[i] = real ? job->last[row] : job->n;
        if (real)
            round_query(job->d_key, job->scale * LOG2E, job->q + (ptrdiff_t)row * job->d_key, (char *)w->q[unit][0][half][line]);
        else
            for (int k = 0; k < job->d_key / 32; k++) memset(w->q[unit][k][half][line], 0, 64);
        for (int e = 0; e < job->d_value / 16; e++) {
            float *acc = w->acc[unit][e][half][line];
            if (real)
                memcpy(acc, job->acc + (ptrdiff_t)row * job->d_value + (ptrdiff_t)16 * e, 64);
            else
                memset(acc, 0, 64);
        }
    }
}

static void give(const work *w, int from, int rows) {
    const mka_attend_rows *job = w->job;
    settle();
    for (int i = 0; i < rows; i++) {
        float *acc = job->acc + (ptrdiff_t)(from + i) * job->d_value;
        job->m[from + i] = w->m[i] * LN2;
        job->z[from + i] = w->z[i];
        for (int e = 0; e < job->d_value / 16; e++)
            memcpy(acc + (ptrdiff_t)16 * e, w->acc[i / UNIT][e][i / AMX_ROWS % 2][i % AMX_ROWS], 64);
    }
}

/* All units over one block. */
static void run_block(work *w, int rows, const block *b) {
    for (int row = 0; row < rows; row += UNIT) {
        if (rows - row > AMX_ROWS)
            run_unit(w, row / UNIT, 1, b);
        else
            run_unit(w, row / UNIT, 0, b);
    }
}

static block block_at(const mka_attend_rows *job, int at) {
    block b = {.at = at, .key_tile = (ptrdiff_t)job->d_key * MKA_TILE * 2, .value_tile = (ptrdiff_t)job->d_value * MKA_TILE * 2};
    b.steps = job->n - at < BLOCK ? (job->n - at + MKA_TILE - 1) / MKA_TILE : BLOCK / MKA_TILE;
    b.keys = (const char *)job->keys + at / MKA_TILE * b.key_tile;
    b.values = (const char *)job->values + at / MKA_TILE * b.value_tile;
    return b;
}

/* A block of f16 tiles as one of bf16 tiles. */
static void convert(const mka_attend_rows *job, block *b, char *keys, char *values) {
    const char *key = b->keys, *value = b->values;
    for (ptrdiff_t at = 0; at < b->steps * b->key_tile; at += 64) amx_store_pairs(key + at, key + at + 32, keys + at);
    for (int t = 0; t < b->steps * MKA_TILE; t += 2, value += (ptrdiff_t)4 * job->d_value)
        for (int e = 0; e < job->d_value; e += 16)
            amx_store_pairs(value + (ptrdiff_t)2 * e, value + (ptrdiff_t)2 * (job->d_value + e),
                            values + t / MKA_TILE * b->value_tile + (ptrdiff_t)(e / 16) * AMX_TILE + t % MKA_TILE * 32);
    b->keys = keys;
    b->values = values;
}

/* keys, values: room for a block of f16 in bf16; NULL where the job's are bf16. */
static void attend(const mka_attend_rows *job, char *keys, char *values) {
    work w;
    w.job = job;
    _tile_loadconfig(&amx_shape);
    for (int from = 0; from < job->r; from += UNITS * UNIT) {
        int rows = job->r - from < UNITS * UNIT ? job->r - from : UNITS * UNIT;
        take(&w, from, rows);
        for (int at = 0; at < job->n; at += BLOCK) {
            block b = block_at(job, at);
            b.ahead = !keys;
            if (keys) convert(job, &b, keys, values);
            run_block(&w, rows, &b);
        }
        give(&w, from, rows);
    }
    _tile_release();
}

static void attend_bf16(const mka_attend_rows *job) {
    attend(job, NULL, NULL);
}

static void attend_f16(const mka_attend_rows *job) {
    _Alignas(64) char keys[BLOCK * MOST * 2], values[BLOCK * MOST * 2];
    attend(job, keys, values);
}

void mka_amx_fill_attend(mka_kernels *k);
void mka_amx_fill_attend(mka_kernels *k) {
    k->attend_rows[MKA_BF16] = attend_bf16;
    k->attend_rows[MKA_F16] = attend_f16;
}
