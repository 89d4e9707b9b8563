/* avx512vnni_recall - the scan of key signs with the byte permutations of AVX-512 VBMI.
 *
 * They look up 64 entries, so that a row's two tables for a line are loaded as they lie, where a byte shuffle of 16 entries wants
 * each table in all four parts of the vector. (On Zen 5 such a load takes the shuffles' own ports, and was half the time.) The
 * second table's place, 16, is put above the nibbles that it is for, once a line for all rows. */
#include "x86/vec_avx512.h"

#define V_SCAN_LINE look_pairs

V_INLINE void look_pairs(int R, int first, const unsigned char *codes, const uint8_t *tables, vb *part) {
    const __m512i order =
        _mm512_set_epi32(0x3f2f1f0f, 0x3e2e1e0e, 0x3d2d1d0d, 0x3c2c1c0c, 0x3b2b1b0b, 0x3a2a1a0a, 0x39291909, 0x38281808,
                         0x37271707, 0x36261606, 0x35251505, 0x34241404, 0x33231303, 0x32221202, 0x31211101, 0x30201000);
    const __m512i nibble = _mm512_set1_epi8(15), second = _mm512_set1_epi8(16);
    __m512i code = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(codes)), low = _mm512_and_si512(code, nibble);
    __m512i high = _mm512_ternarylogic_epi32(_mm512_srli_epi16(code, 4), nibble, second, 0xea); /* (x & 15) | 16 */
    for (int i = 0; i < R; i++) {
        __m512i table = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(tables + 32 * i)));
        vb a = _mm512_permutexvar_epi8(low, table), b = _mm512_permutexvar_epi8(high, table);
        part[i] = first ? vb_add(a, b) : vb_add(vb_add(part[i], a), b);
        __asm__("" : "+v"(part[i])); /* V_PIN of tmpl/scan.h */
    }
}

#include "tmpl/scan.h"

void mka_avx512vnni_fill_recall(mka_kernels *k);
void mka_avx512vnni_fill_recall(mka_kernels *k) {
    k->scan = scan;
}
