/* cpu - which instruction sets this CPU has AND this system lets programs use. Detected once; never assumed. */
#ifndef MKA_SIMD_CPU_H
#define MKA_SIMD_CPU_H

typedef enum mka_cpu_flag {
    MKA_CPU_AVX2 = 1u << 0,        /* AVX2, FMA, F16C; YMM state enabled by the system */
    MKA_CPU_AVX512 = 1u << 1,      /* AVX-512 F, BW, DQ, VL; ZMM and mask state enabled */
    MKA_CPU_NEON = 1u << 2,        /* Advanced SIMD of AArch64 */
    MKA_CPU_AVX_VNNI = 1u << 3,    /* integer dots on YMM, VEX encoding */
    MKA_CPU_AVX512_VNNI = 1u << 4, /* integer dots on ZMM */
    MKA_CPU_AVX512_BF16 = 1u << 5,
    MKA_CPU_AMX = 1u << 6,         /* tiles with INT8 and BF16, their state enabled, and this process may use it */
    MKA_CPU_SSE42 = 1u << 7,       /* SSE4.2, SSE4.1, SSSE3, POPCNT */
    MKA_CPU_DOTPROD = 1u << 8,     /* sdot, udot of AArch64 */
    MKA_CPU_I8MM = 1u << 9,        /* smmla, usdot */
    MKA_CPU_BF16 = 1u << 10,       /* bfdot, bfmmla */
    MKA_CPU_SVE = 1u << 11,        /* vectors of any length */
    MKA_CPU_AVX512_VBMI = 1u << 12 /* permutations of bytes */
} mka_cpu_flag;

unsigned mka_cpu_flags(void);

#endif
