/* lanes - runs a kernel for NVIDIA devices on this CPU, so that it is tested where there is none: every work-item is a context of
 * its own, and they change where the kernel waits for others, for its warp's 32 or for all of the group. One group after the
 * other. Slow; x86-64 with half-precision conversions. */
#ifndef TESTS_LANES_H
#define TESTS_LANES_H

#include <stddef.h>

enum { LANES_MOST = 256, LANES_WIDEST = 512 }; /* work-items of most groups, and of any */

/* 1 where this CPU can: those with AVX2 convert half floats. */
int lanes_can(void);

/* Calls kernel, which reads its arguments from where user points, as each work-item of x * y * z groups of local (whole warps).
 * Returns NULL, or what a work-item did that a device would not stand: memory of nobody, or a wait that does not end. */
const char *lanes_run(void (*kernel)(const void *user), const void *user, int local, size_t x, size_t y, size_t z);

/* The same of groups that wait for each other: all at once, over memory of lanes_shared, or that they only read. */
const char *lanes_run_together(void (*kernel)(const void *user), const void *user, int local, size_t x, size_t y, size_t z);

/* Zeros that groups have in common, where kernels may load from; to be given back with munmap. NULL: there is no memory. */
void *lanes_shared(size_t bytes);

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
void lanes_add(unsigned long *to, unsigned long x);
unsigned lanes_come(unsigned *came); /* how many there were before */
unsigned lanes_all_came(const unsigned *came, unsigned groups);

#endif
