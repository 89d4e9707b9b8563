/* quant_scales - scales and minima of the super-blocks as 16 signed bytes, one for each 16 elements, for an instruction set whose
 * header was included before (tmpl/quant.h lists what that defines). Apart from tmpl/quant.h because wider products need them
 * too. scalar/unpack.h tells the same in words. */
#include <string.h>

#include "kernels.h"
#include "scalar/half.h"

/* How far in front of what a product reads it asks for memory. Farther than that is in the way of what comes first; nearer is
 * late for a core that reads by itself (measured: 4 KiB reach 0.9 of 8 KiB, 16 KiB the same). */
enum { AHEAD = 8192 };

Q_INLINE uint32_t word(const uint8_t *p) {
    uint32_t u;
    memcpy(&u, p, sizeof u);
    return u;
}

Q_INLINE b16 scales_q2_k(const mka_block_q2_k *b) {
    return b_and(b_load(b->scales), 15);
}
Q_INLINE b16 mins_q2_k(const mka_block_q2_k *b) {
    return b_shift4(b_load(b->scales));
}
Q_INLINE b16 scales_q3_k(const mka_block_q3_k *b) {
    const uint32_t low = 0x0f0f0f0fu, two = 0x03030303u;
    uint32_t a = word(b->scales), c = word(b->scales + 4), h = word(b->scales + 8);
    return b_minus(b_words((a & low) | (h & two) << 4, (c & low) | (h >> 2 & two) << 4, (a >> 4 & low) | (h >> 4 & two) << 4,
                           (c >> 4 & low) | (h >> 6 & two) << 4),
                   32);
}
Q_INLINE b16 six_bit_scales(const uint8_t *s) {
    return b_dup(word(s) & 0x3f3f3f3fu, (word(s + 8) & 0x0f0f0f0fu) | (word(s) >> 2 & 0x30303030u));
}
Q_INLINE b16 six_bit_mins(const uint8_t *s) {
    return b_dup(word(s + 4) & 0x3f3f3f3fu, (word(s + 8) >> 4 & 0x0f0f0f0fu) | (word(s + 4) >> 2 & 0x30303030u));
}
Q_INLINE b16 scales_q4_k(const mka_block_q4_k *b) {
    return six_bit_scales(b->scales);
}
Q_INLINE b16 mins_q4_k(const mka_block_q4_k *b) {
    return six_bit_mins(b->scales);
}
Q_INLINE b16 scales_q5_k(const mka_block_q5_k *b) {
    return six_bit_scales(b->scales);
}
Q_INLINE b16 mins_q5_k(const mka_block_q5_k *b) {
    return six_bit_mins(b->scales);
}
Q_INLINE b16 scales_q6_k(const mka_block_q6_k *b) {
    return b_load(b->scales);
}
/* Two bits from h for each of four scales, spread to the bytes' bits 4 and 5. */
Q_INLINE uint32_t spread2(uint32_t h) {
    return (h & 3u) << 4 | (h & 12u) << 10 | (h & 48u) << 16 | (h & 192u) << 22;
}
/* Four nibbles of a half word to four bytes. */
Q_INLINE uint32_t spread4(uint32_t l) {
    return (l & 0xfu) | (l & 0xf0u) << 4 | (l & 0xf00u) << 8 | (l & 0xf000u) << 12;
}
Q_INLINE b16 scales_iq4_xs(const mka_block_iq4_xs *b) {
    uint32_t l = word(b->scales_l), h = load_u16(&b->scales_h);
    return b_minus(b_dup(spread4(l & 0xffffu) | spread2(h & 255u), spread4(l >> 16) | spread2(h >> 8)), 32);
}
