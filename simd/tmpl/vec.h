/* vec - what the templates in this folder expect of an instruction set.
 *
 * Before it includes a template, a file of x86/ or arm/ includes one header that defines, all of them static:
 *
 *   LEVEL(name)                     mka_<level>_name, for the functions that leave the file
 *   VW                              floats in a vector, a power of two of at most 16
 *   V_CACHE_ROWS V_HALVES V_BLOCKS  of tmpl/cache.h: query rows (8, 5 or 2), halves of keys (2 only where VW is 16) and blocks
 *                                   of 16 dimensions (1 or 2) that attention holds in registers
 *   vf                              a vector of floats
 *   v_zero v_set v_load v_store     pointers need no alignment
 *   v_load_n v_store_n (n)          the first n elements, 0 < n < VW; a load fills with zeros and touches nothing else
 *   v_load_f16, _bf16 and _n        from 16-bit floats        v_store_f16, _bf16 and _n    to them, to nearest even
 *   v_add v_sub v_mul v_div         v_fma(a, b, c) = a b + c  v_fnma(a, b, c) = c - a b
 *   v_max                           ignores a NaN in its first operand
 *   v_at_least(x, low) v_clamp(x, low, high)   keep a NaN
 *   v_round                         to nearest even           v_ldexp(p, n) = p 2^n, n integral in -126..127
 *   v_zero_below(x, limit, y)       y where x >= limit or NaN, else 0
 *   v_sum v_hmax                    over the lanes            v_sum4(a, b, c, d, k, out)   k times four sums
 *   v_rotate_pairs(x, c, s)         (a, b) pairs in one vector, c and s doubled: (a c - b s, b c + a s)
 *   v_double(p)                     VW / 2 floats at p, each twice
 *   v_pair_low v_pair_high(p)       the first and the second of VW pairs of bf16 at p
 *   v_field(p, shift, mask)         (u >> shift) & mask of VW 32-bit words at p, as floats
 *   v_signed_byte(p, b)             byte b of them
 *
 * and for recall:
 *
 *   V_SCAN_ROWS V_ROWS              query rows (4 or 8; 2, 5 or 7) that tmpl/scan.h and tmpl/rows.h hold in registers
 *   V_SCAN_AHEAD                    bytes between what a scan reads and what it asks for
 *   V_REGISTER                      what inline assembler calls a vector register
 *   vb                              4 VW bytes                v_keep(m, x)         x where m is set, else 0
 *   vb_codes(p)                     those at p, byte VW k + m as byte 4 m + k
 *   vb_table(p)                     16 bytes at p, for vb_look(table, x): table[x], x <= 15
 *   vb_zero vb_low vb_high vb_add   zeros, low and high nibble of each byte, sums of bytes (vb_add16: of 16-bit lanes)
 *   vb_odd(x)                       the odd bytes as 16-bit lanes
 *   vb_less_high(both, odd)         both - 256 odd, in 16-bit lanes
 *   vb_low16 vb_high16              the even and the odd 16-bit lanes, as floats
 *   vm                              a bit for each of VW lanes
 *   vm_all vm_and_below             all set; m & (x <= limit), cleared by a NaN
 *   vm_others                       the lanes that are not set, lane 0 lowest
 *   v_power(x, low, high)           the floats whose bits are the integers next to min(x, high); 0 where x <= low, NaN for NaN
 *   v_set_f16(p)                    the half float at p, in all lanes
 *   v_bytes(p)                      VW signed bytes           v_nibbles(p, shift)  (u >> shift) & 15 of VW bytes
 *
 * Everything is static because a merged inline function compiled for one set could be linked into code that runs without it. */
#ifndef MKA_SIMD_TMPL_VEC_H
#define MKA_SIMD_TMPL_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "scalar/half.h"

#define V_INLINE static inline __attribute__((always_inline, unused))

/* Tails of 16-bit rows: a copy of n elements into a whole vector's worth. */
V_INLINE void tail_copy(uint16_t *to, const void *from, int n) {
    for (int i = 0; i < n; i++) memcpy(&to[i], (const char *)from + 2 * i, 2);
}

V_INLINE void tail_copy_out(void *to, const uint16_t *from, int n) {
    for (int i = 0; i < n; i++) memcpy((char *)to + 2 * i, &from[i], 2);
}

#endif
