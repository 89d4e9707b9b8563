/* peaks_amx - what the tile unit reaches: products of whole tiles, four sums of 16 x 16 at a time.
 *
 * 16 rows of 64 bytes times 16 rows of 64 bytes: 32 bf16 or 64 int8 multiply-adds for each of the 256 sums. */
#include <immintrin.h>
#include <string.h>

#include "peaks.h"

#define ROWS 16
#define PAIR 64 /* bytes of a tile's row */

/* Tiles 0..3 are sums, 4 and 5 the left operands, 6 and 7 the right ones; all are whole. Constant memory, because compilers
 * believe that the instruction reads less of it than it does. */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} shape = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

static void configure(unsigned char *operand, int value) {
    memset(operand, value, ROWS * PAIR);
    _tile_loadconfig(&shape);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, operand, PAIR);
    _tile_loadd(5, operand, PAIR);
    _tile_loadd(6, operand, PAIR);
    _tile_loadd(7, operand, PAIR);
}

static void finish(unsigned char *sums, float *sink) {
    _tile_stored(0, sums, PAIR);
    for (int i = 0; i < ROWS * PAIR; i++) *sink += sums[i];
    _tile_release();
}

static double peak_bf16(long rounds, float *sink) {
    unsigned char tile[ROWS * PAIR];
    configure(tile, 0x3f); /* 0x3f3f: about 0.75 */
    for (long r = 0; r < rounds; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    finish(tile, sink);
    return 4.0 * 2 * 32 * ROWS * ROWS * (double)rounds;
}

static double peak_i8(long rounds, float *sink) {
    unsigned char tile[ROWS * PAIR];
    configure(tile, 1);
    for (long r = 0; r < rounds; r++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    finish(tile, sink);
    return 4.0 * 2 * 64 * ROWS * ROWS * (double)rounds;
}

void mka_amx_fill_peaks(mka_peaks *peaks);
void mka_amx_fill_peaks(mka_peaks *peaks) {
    peaks->unit[MKA_UNIT_AMX_BF16] = peak_bf16;
    peaks->unit[MKA_UNIT_AMX_I8] = peak_i8;
}
