/* vnni_cache - kernels of the levels avx512 and avx512vnni that the levels above them call for the shapes they leave to those. */
#ifndef MKA_SIMD_X86_VNNI_CACHE_H
#define MKA_SIMD_X86_VNNI_CACHE_H

#include "kernels.h"

mka_score_fn mka_avx512_score_f16, mka_avx512vnni_score_bf16, mka_avx512vnni_score_q8;
mka_rows_score_fn mka_avx512_rows_score_q8;
mka_mix_fn mka_avx512_mix_f16, mka_avx512vnni_mix_bf16, mka_avx512vnni_mix_q8;

#endif
