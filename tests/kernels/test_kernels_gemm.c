/* test_kernels_gemm - products of many rows on bf16 units, at every level that has them, against sums in double; and AMX's
 * product on any x86 machine, with its instructions replaced by what the manual says they do, so that shapes and layouts are
 * tested where no CPU has tiles. */
#include "harness.h"

static float bf16_value(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint16_t bf16_of(float x) {
    uint16_t h;
    scalar()->store[MKA_BF16](1, &x, &h);
    return h;
}

static void *aligned_buffer(size_t bytes) {
    unsigned char *p = buffer(bytes + 64, 1);
    return p + (64 - (uintptr_t)p % 64) % 64;
}

typedef struct {
    int n, rows, k, ldx, ldw, ldy, more;
    float *w, *y;
    uint16_t *x;
    unsigned char *panel;
} operands;

static operands random_operands(const char *level) {
    operands o = {.n = random_int(0, 70), .rows = random_int(1, 32), .more = random_int(0, 1)};
    o.k = random_int(0, 2) ? random_int(1, 200) : 32 * random_int(1, 32);
    o.ldx = (o.k + 31) / 32 * 32 + 32 * random_int(0, 2);
    o.ldw = o.k + random_int(0, 5);
    o.ldy = o.rows + random_int(0, 5);
    case_is("%s gemm_bf16 n=%d rows=%d k=%d ldx=%d ldw=%d ldy=%d more=%d", level, o.n, o.rows, o.k, o.ldx, o.ldw, o.ldy, o.more);
    o.w = random_floats((o.rows - 1) * o.ldw + o.k, PLAIN);
    o.x = aligned_buffer((size_t)o.n * (size_t)o.ldx * sizeof *o.x);
    for (int i = 0; i < o.n; i++)
        for (int k = 0; k < o.ldx; k++)
            o.x[i * o.ldx + k] = k < o.k                    ? bf16_of(random_unit())
                                 : k < (o.k + 31) / 32 * 32 ? 0
                                                            : 0x7fc0; /* NaN: not to be read */
    o.panel = aligned_buffer(MKA_PANEL_BYTES(o.k));
    o.y = random_floats(o.n ? (o.n - 1) * o.ldy + o.rows : 0, PLAIN);
    return o;
}

/* The product, and that what lies between y's rows is as before. */
static void check_product(const operands *o, mka_gemm_bf16_fn *gemm) {
    int count = o->n ? (o->n - 1) * o->ldy + o->rows : 0;
    float *before = copy_floats(count, o->y);
    gemm(o->n, o->rows, o->k, o->x, o->ldx, o->panel, o->more, o->y, o->ldy);
    for (int i = 0; i < count; i++) {
        int row = i / o->ldy, j = i % o->ldy;
        if (j >= o->rows) {
            near_value("between rows", i, o->y[i], before[i], 0);
            continue;
        }
        double sum = o->more ? before[i] : 0, magnitude = fabs(sum);
        for (int k = 0; k < o->k; k++) {
            double p = (double)bf16_value(o->x[row * o->ldx + k]) * bf16_value(bf16_of(o->w[j * o->ldw + k]));
            sum += p, magnitude += fabs(p);
        }
        near_value("y", i, o->y[i], sum, (o->k / 2 + 4) * 2 * EPS * magnitude);
    }
    release();
}

static void check_gemm(const mka_kernels *k) {
    if (!k->gemm_bf16) return;
    operands o = random_operands(k->level);
    int first = 32 * random_int(0, o.k / 32);
    if (first == o.k) first = 0;
    if (first) k->pack_bf16(o.rows, first, o.w, o.ldw, o.panel); /* in two pieces */
    k->pack_bf16(o.rows, o.k - first, o.w + first, o.ldw, o.panel + MKA_PANEL_BYTES(first));
    check_product(&o, k->gemm_bf16);
}

/* A row's result is the same, bit for bit, whatever other rows come with it. */
static void check_alone(const mka_kernels *k) {
    if (!k->gemm_bf16) return;
    operands o = random_operands(k->level);
    float *one = copy_floats(o.n ? (o.n - 1) * o.ldy + o.rows : 0, o.y);
    k->pack_bf16(o.rows, o.k, o.w, o.ldw, o.panel);
    k->gemm_bf16(o.n, o.rows, o.k, o.x, o.ldx, o.panel, o.more, o.y, o.ldy);
    for (int i = 0; i < o.n; i++) {
        k->gemm_bf16(1, o.rows, o.k, o.x + i * o.ldx, o.ldx, o.panel, o.more, one + i * o.ldy, o.ldy);
        for (int j = 0; j < o.rows; j++)
            if (one[i * o.ldy + j] != o.y[i * o.ldy + j]) wrong("row %d alone gives another y[%d]", i, j);
    }
    release();
}

static void test_gemm(void **state) {
    (void)state;
    each_level(check_gemm, 300);
}

static void test_alone(void **state) {
    (void)state;
    each_level(check_alone, 60);
}

#if defined(__x86_64__)
#include <immintrin.h>

/* ---- tiles as the manual describes them ---- */

static struct {
    int configured;
    unsigned char rows[8];
    unsigned short column_bytes[8];
    unsigned char data[8][16][64];
} tiles;

static void model_loadconfig(const void *p) {
    const unsigned char *bytes = p;
    if (bytes[0] != 1) wrong("palette is %d", bytes[0]);
    memset(&tiles, 0, sizeof tiles);
    tiles.configured = 1;
    for (int t = 0; t < 8; t++) {
        memcpy(&tiles.column_bytes[t], bytes + 16 + 2 * t, 2);
        tiles.rows[t] = bytes[48 + t];
        if (tiles.rows[t] > 16 || tiles.column_bytes[t] > 64) wrong("tile %d is too large", t);
        if (!tiles.rows[t] != !tiles.column_bytes[t]) wrong("tile %d has but one dimension", t);
    }
    for (int i = 1; i < 64; i++)
        if (bytes[i] && ((i > 0 && i < 16) || (i >= 32 && i < 48) || i >= 56)) wrong("reserved byte %d of the shapes is set", i);
}

static void must_have(int t) {
    if (!tiles.configured || !tiles.rows[t]) wrong("tile %d is used and has no shape", t);
}

static void model_loadd(int t, const void *p, size_t stride) {
    must_have(t);
    for (int r = 0; r < tiles.rows[t]; r++) {
        memset(tiles.data[t][r], 0, 64);
        memcpy(tiles.data[t][r], (const char *)p + (size_t)r * stride, tiles.column_bytes[t]);
    }
}

static void model_stored(int t, void *p, size_t stride) {
    must_have(t);
    for (int r = 0; r < tiles.rows[t]; r++) memcpy((char *)p + (size_t)r * stride, tiles.data[t][r], tiles.column_bytes[t]);
}

static void model_zero(int t) {
    must_have(t);
    memset(tiles.data[t], 0, sizeof tiles.data[t]);
}

static void model_dpbf16(int c, int a, int b) {
    if (tiles.rows[c] != tiles.rows[a] || tiles.column_bytes[c] != tiles.column_bytes[b] ||
        tiles.column_bytes[a] != 4 * tiles.rows[b])
        wrong("shapes of tiles %d, %d, %d do not fit together", c, a, b);
    for (int m = 0; m < tiles.rows[c]; m++)
        for (int k = 0; k < tiles.column_bytes[a] / 4; k++)
            for (int n = 0; n < tiles.column_bytes[b] / 4; n++) {
                uint16_t x[2], w[2];
                float sum;
                memcpy(x, tiles.data[a][m] + 4 * k, 4);
                memcpy(w, tiles.data[b][k] + 4 * n, 4);
                memcpy(&sum, tiles.data[c][m] + 4 * n, 4);
                sum += bf16_value(x[0]) * bf16_value(w[0]);
                sum += bf16_value(x[1]) * bf16_value(w[1]);
                memcpy(tiles.data[c][m] + 4 * n, &sum, 4);
            }
}

static void model_release(void) {
    tiles.configured = 0;
}

void fill_no_cache(struct mka_kernels *k); /* stands for the level's other part */
void fill_no_cache(struct mka_kernels *k) {
    (void)k;
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig   model_loadconfig
#define _tile_release      model_release
#define _tile_loadd        model_loadd
#define _tile_stored       model_stored
#define _tile_zero         model_zero
#define _tile_dpbf16ps     model_dpbf16
#define mka_amx_fill       fill_model
#define mka_amx_fill_cache fill_no_cache
#include "x86/amx_gemm.c"

static void test_amx_model(void **state) {
    (void)state;
    mka_kernels model = {.level = "model of amx"};
    fill_model(&model);
    seed_random();
    test_buffer_count = 0;
    for (int round = 0; round < 200 * test_rounds(); round++) {
        operands o = random_operands(model.level);
        uint16_t *panel = (uint16_t *)(void *)o.panel; /* [k / 2][32 rows][2] */
        memset(panel, 0, MKA_PANEL_BYTES(o.k));
        for (int j = 0; j < o.rows; j++)
            for (int k = 0; k < o.k; k++) panel[(k / 2 * 32 + j) * 2 + k % 2] = bf16_of(o.w[j * o.ldw + k]);
        check_product(&o, model.gemm_bf16);
        if (tiles.configured) wrong("the tiles are not given up");
    }
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_alone),
#if defined(__x86_64__)
        cmocka_unit_test(test_amx_model),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
