/* levels - what each instruction set's library offers to the table: one function that overwrites the entries it has.
 *
 * A fill function may run on any CPU: it only stores addresses, so it must be compiled without the flags of its set, or be
 * called only after its flags were found (which is what kernels.c does). */
#ifndef MKA_SIMD_LEVELS_H
#define MKA_SIMD_LEVELS_H

#include "kernels.h"

void mka_scalar_fill(mka_kernels *k);

#if defined(__x86_64__)
void mka_sse42_fill(mka_kernels *k);
void mka_avx2_fill(mka_kernels *k);
void mka_avx512_fill(mka_kernels *k);
void mka_avx2vnni_fill(mka_kernels *k);
void mka_avx512vnni_fill(mka_kernels *k);
void mka_amx_fill(mka_kernels *k);
#elif defined(__aarch64__)
void mka_neon_fill(mka_kernels *k);
void mka_dotprod_fill(mka_kernels *k);
void mka_i8mm_fill(mka_kernels *k);
void mka_sve_fill(mka_kernels *k);
#endif

#endif
