/* amx_gemm - products of many rows on AMX-BF16, and the level's table.
 *
 * A step multiplies 32 rows of activations with 32 rows of weights over 32 elements: tiles 0..3 hold the sums (two tiles of rows
 * by two of weights), 4 and 5 activations as they lie in memory, 6 and 7 weights from the panel. What is missing at the edges is
 * left out of the tiles' shapes, so that nothing outside the operands is touched. Shapes belong to the thread: they are set when
 * a product begins and given up when it ends, so that task switches elsewhere need not save tiles. */
#include <immintrin.h>
#include <string.h>

#include "levels.h"
#include "x86/bf16_panel.h"

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
} tile_shapes;
_Static_assert(sizeof(tile_shapes) == 64, "the instruction reads 64 bytes");

/* Shapes for n <= 32 rows of activations and `rows` <= 32 of weights; a tile that is not used keeps the smallest shape. */
static void set_shapes(int n, int rows) {
    tile_shapes s = {.palette = 1};
    for (int a = 0; a < 2; a++) {
        int tokens = n - 16 * a < 16 ? n - 16 * a : 16;
        if (tokens < 1) tokens = 1;
        s.rows[4 + a] = (uint8_t)tokens;
        s.column_bytes[4 + a] = 64;
        int weights = rows - 16 * a < 16 ? rows - 16 * a : 16;
        if (weights < 1) weights = 1;
        s.rows[6 + a] = 16;
        s.column_bytes[6 + a] = (uint16_t)(4 * weights);
    }
    for (int i = 0; i < 4; i++) {
        s.rows[i] = s.rows[4 + i / 2];
        s.column_bytes[i] = s.column_bytes[6 + i % 2];
    }
    __asm__ volatile("" : : "r"(&s) : "memory"); /* gcc's _tile_loadconfig owns up to reading but 8 of the 64 bytes */
    _tile_loadconfig(&s);
}

/* Asks for the lines of the step after the next: a tile's load waits for each of its 16 lines, and few steps are in flight. */
static inline __attribute__((always_inline)) void bring(const char *p, size_t stride, int lines) {
    for (int i = 0; i < lines; i++) _mm_prefetch(p + (size_t)i * stride, _MM_HINT_T0);
}

/* One block: A tiles of 16 rows of activations, H halves of weights; constants where this is used. */
#define AMX_BLOCK(A, H)                                                                                                          \
    static void block_##A##H(int k, const uint16_t *x, size_t stride, const char *panel, int more, float *y, size_t ldy) {       \
        const uint16_t *x1 = x + 8 * stride;                                                                                     \
        float *y1 = y + 4 * ldy;                                                                                                 \
        if (more) {                                                                                                              \
            _tile_loadd(0, y, ldy);                                                                                              \
            if (H > 1) _tile_loadd(1, y + 16, ldy);                                                                              \
            if (A > 1) _tile_loadd(2, y1, ldy);                                                                                  \
            if (A > 1 && H > 1) _tile_loadd(3, y1 + 16, ldy);                                                                    \
        } else {                                                                                                                 \
            _tile_zero(0);                                                                                                       \
            if (H > 1) _tile_zero(1);                                                                                            \
            if (A > 1) _tile_zero(2);                                                                                            \
            if (A > 1 && H > 1) _tile_zero(3);                                                                                   \
        }                                                                                                                        \
        for (int i = 0; i < k; i += 32, panel += 16 * PANEL_STEP) {                                                              \
            bring((const char *)(x + i + 64), stride, 16 * (A));                                                                 \
            bring(panel + 32 * PANEL_STEP, PANEL_STEP / 2, 32);                                                                  \
            _tile_loadd(4, x + i, stride);                                                                                       \
            _tile_loadd(6, panel, PANEL_STEP);                                                                                   \
            _tile_dpbf16ps(0, 4, 6);                                                                                             \
            if (H > 1) _tile_loadd(7, panel + 64, PANEL_STEP);                                                                   \
            if (H > 1) _tile_dpbf16ps(1, 4, 7);                                                                                  \
            if (A > 1) _tile_loadd(5, x1 + i, stride);                                                                           \
            if (A > 1) _tile_dpbf16ps(2, 5, 6);                                                                                  \
            if (A > 1 && H > 1) _tile_dpbf16ps(3, 5, 7);                                                                         \
        }                                                                                                                        \
        _tile_stored(0, y, ldy);                                                                                                 \
        if (H > 1) _tile_stored(1, y + 16, ldy);                                                                                 \
        if (A > 1) _tile_stored(2, y1, ldy);                                                                                     \
        if (A > 1 && H > 1) _tile_stored(3, y1 + 16, ldy);                                                                       \
    }
AMX_BLOCK(1, 1)
AMX_BLOCK(1, 2)
AMX_BLOCK(2, 1)
AMX_BLOCK(2, 2)

/* Strides are in bytes from here: x + 8 stride elements and y + 4 stride floats are 16 rows further. */
static void gemm(int n, int rows, int k, const uint16_t *x, int ldx, const void *panel, int more, float *y, int ldy) {
    size_t stride = (size_t)ldx * sizeof *x, out = (size_t)ldy * sizeof *y;
    int padded = panel_k(k);
    if (n <= 0 || rows <= 0) return;
    set_shapes(n < 32 ? n : 32, rows);
    for (; n >= 32; n -= 32, x += 16 * stride, y += 8 * out)
        (rows > 16 ? block_22 : block_21)(padded, x, stride, panel, more, y, out);
    if (n > 0) {
        set_shapes(n, rows);
        if (n > 16)
            (rows > 16 ? block_22 : block_21)(padded, x, stride, panel, more, y, out);
        else
            (rows > 16 ? block_12 : block_11)(padded, x, stride, panel, more, y, out);
    }
    _tile_release();
}

void mka_amx_fill_cache(mka_kernels *k);  /* amx_cache.c */
void mka_amx_fill_recall(mka_kernels *k); /* amx_recall.c */

void mka_amx_fill(mka_kernels *k) {
    mka_amx_fill_cache(k);
    mka_amx_fill_recall(k);
    k->gemm_bf16 = gemm;
}
