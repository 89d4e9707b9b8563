/* scan - the scan of key signs (rows.h) for the vectors of the header that was included before. Included once a level.
 *
 * A line's codes are loaded, ordered and split once for up to V_SCAN_ROWS query rows. Table entries are so small that eight of
 * them are summed in 8 bits; the sums are widened every FLUSH lines: odd bytes into 16 bits of their
 * own, all into 16 bits from which the odd ones' share is taken off in the end. Codes are ordered beforehand, so
 * that these parts are whole vectors of neighbouring tokens: what would have to be undone for every row is done once a line.
 *
 * 2^x is a number whose bits are x 2^23 + MIDDLE: the factors of all tokens are multiplied by 2^23 first, and x never exists. */
#include "tmpl/vec.h"

enum { FLUSH = 4, PARTS = MKA_SCAN_TOKENS / VW, PER_MASS = MKA_SCAN_TOKENS / MKA_SCAN_MASSES / VW };

_Static_assert(2 * FLUSH * MKA_SCAN_MOST <= 255, "sums of a flush fit in a byte");
_Static_assert(MKA_MOST_DIM / 4 * MKA_SCAN_MOST <= 65535, "sums of a token fit in 16 bits");

#define MIDDLE (127.0f * 0x1p23f - 366393.0f) /* as in scalar_recall.c */

/* Left to itself, gcc sums a flush in an order of its own, for which all of its entries must be in registers at once. */
#define V_PIN(x) __asm__("" : "+" V_REGISTER(x))

/* Sums of a line's entries for R rows, added to part unless it is the first line of a flush. */
#ifndef V_SCAN_LINE
#define V_SCAN_LINE look_line
V_INLINE void look_line(int R, int first, const unsigned char *codes, const uint8_t *tables, vb *part) {
    vb code = vb_codes(codes), low = vb_low(code), high = vb_high(code);
    for (int i = 0; i < R; i++) {
        vb a = vb_look(vb_table(tables + 32 * i), low), b = vb_look(vb_table(tables + 32 * i + 16), high);
        part[i] = first ? vb_add(a, b) : vb_add(vb_add(part[i], a), b);
        V_PIN(part[i]);
    }
}
#endif

/* Adds so many lines to the sums of R rows over the 4 VW tokens at codes. */
V_INLINE void sum_lines(int R, int lines, int r, const unsigned char *codes, const uint8_t *tables, vb *both, vb *odd) {
    vb part[V_SCAN_ROWS];
    for (int l = 0; l < lines; l++, codes += MKA_SCAN_TOKENS, tables += (ptrdiff_t)r * 32) {
        __builtin_prefetch(codes + V_SCAN_AHEAD);
        V_SCAN_LINE(R, l == 0, codes, tables, part);
    }
    for (int i = 0; i < R; i++) {
        both[i] = vb_add16(both[i], part[i]);
        odd[i] = vb_add16(odd[i], vb_odd(part[i]));
    }
}

typedef struct {
    float step, base, curve, shift, margin, floor; /* curve by 2^-23; shift and floor by 2^23, plus MIDDLE */
} scaled_row;

/* One vector of tokens of one row: sums to weights. f: their factors times 2^23. */
V_INLINE vf weigh(const scaled_row *row, vf sum, vf f, vm *idle) {
    vf t = v_fma(sum, v_set(row->step), v_set(row->base)), shift = v_set(row->shift);
    vf most = v_fma(f, v_add(t, v_set(row->margin)), shift);
    *idle = vm_and_below(*idle, most, row->floor);
    return v_power(v_fma(f, v_fnma(v_set(row->curve), f, t), shift), 2.0f * 0x1p23f - 366393.0f, 253.0f * 0x1p23f - 366393.0f);
}

/* R rows, whose tables, e and places begin at the first of them. idle: the tokens that no row wants so far. */
V_INLINE void scan_rows(int R, int r, int lines, const unsigned char *codes, const uint8_t *tables, const scaled_row *rows,
                        const vf *factors, float *e, vm *idle) {
    for (int p = 0; p < PARTS; p += 4, codes += 4 * VW, e += 4 * VW) {
        vb both[V_SCAN_ROWS], odd[V_SCAN_ROWS];
        for (int i = 0; i < R; i++) both[i] = odd[i] = vb_zero();
        int line = 0;
        const uint8_t *table = tables;
        for (; line + FLUSH <= lines; line += FLUSH, table += (ptrdiff_t)FLUSH * r * 32)
            sum_lines(R, FLUSH, r, codes + line * MKA_SCAN_TOKENS, table, both, odd);
        for (; line < lines; line++, table += (ptrdiff_t)r * 32)
            sum_lines(R, 1, r, codes + line * MKA_SCAN_TOKENS, table, both, odd);
#pragma GCC unroll 8
        for (int i = 0; i < R; i++) {
            float *to = e + i * MKA_SCAN_TOKENS;
            vb even = vb_less_high(both[i], odd[i]);
            v_store(to, weigh(&rows[i], vb_low16(even), factors[p], &idle[p]));
            v_store(to + VW, weigh(&rows[i], vb_low16(odd[i]), factors[p + 1], &idle[p + 1]));
            v_store(to + 2 * VW, weigh(&rows[i], vb_high16(even), factors[p + 2], &idle[p + 2]));
            v_store(to + 3 * VW, weigh(&rows[i], vb_high16(odd[i]), factors[p + 3], &idle[p + 3]));
        }
    }
}

/* Sums of the weights of idle tokens, 16 by 16. */
V_INLINE void scan_mass(int r, const float *e, const vm *idle, float *mass) {
    for (int i = 0; i < r; i++, e += MKA_SCAN_TOKENS, mass += MKA_SCAN_MASSES) {
        vf sum[MKA_SCAN_MASSES];
        for (int b = 0; b < MKA_SCAN_MASSES; b++) {
            sum[b] = v_keep(idle[b * PER_MASS], v_load(e + b * PER_MASS * VW));
            for (int v = b * PER_MASS + 1; v < (b + 1) * PER_MASS; v++)
                sum[b] = v_add(sum[b], v_keep(idle[v], v_load(e + v * VW)));
        }
        v_sum4(sum[0], sum[1], sum[2], sum[3], 1.0f, mass);
    }
}

#define SCAN_CASE(R)                                                                                                             \
    case R:                                                                                                                      \
        scan_rows(R, r, lines, codes, tables + 32 * (ptrdiff_t)i, scaled, factors, e + i * MKA_SCAN_TOKENS, idle);               \
        break;

static uint64_t scan(int r, int d, const void *block, const uint8_t *tables, const mka_scan_row *rows, float *e, float *mass) {
    const unsigned char *codes = block;
    int lines = mka_scan_lines(d);
    vf factors[PARTS];
    vm idle[PARTS];
    __builtin_prefetch(codes + lines * MKA_SCAN_TOKENS + V_SCAN_AHEAD);
    __builtin_prefetch(codes + lines * MKA_SCAN_TOKENS + V_SCAN_AHEAD + 64);
    for (int p = 0; p < PARTS; p++) {
        factors[p] = v_mul(v_load_f16(codes + lines * MKA_SCAN_TOKENS + 2 * p * VW), v_set(0x1p23f));
        idle[p] = vm_all();
    }
    for (int passes = (r + V_SCAN_ROWS - 1) / V_SCAN_ROWS, i = 0, count; passes > 0; passes--, i += count) {
        scaled_row scaled[V_SCAN_ROWS];
        count = (r - i + passes - 1) / passes;
        for (int k = 0; k < count; k++) {
            const mka_scan_row *row = rows + i + k;
            scaled[k] = (scaled_row){row->step,
                                     row->base,
                                     row->curve * 0x1p-23f,
                                     row->shift * 0x1p23f + MIDDLE,
                                     row->margin,
                                     row->floor * 0x1p23f + MIDDLE};
        }
        switch (count) {
            SCAN_CASE(1)
            SCAN_CASE(2)
            SCAN_CASE(3)
            SCAN_CASE(4)
#if V_SCAN_ROWS == 8
            SCAN_CASE(5)
            SCAN_CASE(6)
            SCAN_CASE(7)
            SCAN_CASE(8)
#endif
        }
    }
    scan_mass(r, e, idle, mass);
    uint64_t wanted = 0;
    for (int p = 0; p < PARTS; p++) wanted |= (uint64_t)vm_others(idle[p]) << p * VW;
    return wanted;
}
