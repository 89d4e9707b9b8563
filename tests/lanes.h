/* lanes - runs a kernel for NVIDIA devices on this CPU, so that it is tested where there is none: every work-item is a context of
 * its own, and they change where the kernel waits for others, for its warp's 32 or for all of the group. One group after the
 * other. Slow; x86-64 with half-precision conversions. */
#ifndef TESTS_LANES_H
#define TESTS_LANES_H

#include <stddef.h>

enum { LANES_MOST = 256, LANES_WIDEST = 384 }; /* work-items of most groups, and of any */

/* 1 where this CPU can: those with AVX2 convert half floats. */
int lanes_can(void);

/* Calls kernel, which reads its arguments from where user points, as each work-item of x * y * z groups of local (whole warps).
 * Returns NULL, or what a work-item did that a device would not stand: memory of nobody, or a wait that does not end. */
const char *lanes_run(void (*kernel)(const void *user), const void *user, int local, size_t x, size_t y, size_t z);

/* Memory that kernels may load from; count 0: none. */
void lanes_allow(const void *start, size_t bytes);
void lanes_allow_nothing(void);

/* What lanes.cl calls. */
float lanes_shuffle(float x, unsigned lane);
unsigned lanes_ballot(int x);
void lanes_multiply(float *c, const unsigned *a, const unsigned *b);
void lanes_multiply_bf16(float *c, const unsigned *a, const unsigned *b);
unsigned lanes_pair(float x, float y);
unsigned lanes_pair_bf16(float x, float y);
unsigned lanes_turn(unsigned x);
unsigned lanes_sub2(unsigned a, unsigned b);
unsigned lanes_fma2(unsigned a, unsigned b, unsigned c);
float lanes_half(unsigned bits);
void lanes_check(unsigned long address, int bytes);

#endif
