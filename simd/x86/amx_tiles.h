/* amx_tiles - what the attention kernels on AMX share: the tiles' shape, asking for memory ahead, rounding to bf16. */
#ifndef MKA_SIMD_X86_AMX_TILES_H
#define MKA_SIMD_X86_AMX_TILES_H

#include <immintrin.h>

#include "kernels.h"

#define AMX_INLINE static inline __attribute__((always_inline, unused))

enum { AMX_ROWS = 16, AMX_TILE = 1024 /* bytes */, AMX_MOST_DIM = 256 };

/* Eight tiles of 16 rows of 64 bytes. Constant memory, because compilers believe that the instruction reads 8 bytes of it and
 * would drop what a function writes behind those. */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} amx_shape
    __attribute__((unused)) = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* Asks for what lies ahead bytes behind a tile's worth of memory; 0: somebody has asked already. */
AMX_INLINE void amx_ask(const char *p, ptrdiff_t ahead) {
    if (ahead == 0) return;
    for (int line = 0; line < 16; line++) _mm_prefetch(p + ahead + 64 * line, _MM_HINT_T1);
}

/* Pairs (a, b) of bf16 from 16 half floats at a and 16 at b. */
AMX_INLINE void amx_store_pairs(const char *a, const char *b, char *pairs) {
    static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512 first = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)a));
    __m512 second = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)b));
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_store_si512(pairs, _mm512_permutexvar_epi16(_mm512_loadu_si512(order), both));
}

#endif
