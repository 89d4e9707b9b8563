/* cpu - asks the processor which instruction sets it has, and the system which registers it saves.
 *
 * A processor flag alone is not enough: an operating system that does not save YMM or ZMM registers on a task switch corrupts
 * them, so XCR0 is asked as well. AMX tiles are so large that Linux wants every process to ask for them before first use. On
 * AArch64 the kernel's auxiliary vector is the only portable source. */
#include "cpu.h"

#include <pthread.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned bit(unsigned word, int index) {
    return (word >> index) & 1u;
}

/* Which register states the system saves. Only to be called when OSXSAVE is set. */
static unsigned xcr0(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Whether this process may use the tiles' registers. What is granted holds for all its threads. */
static int tiles_granted(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* of arch_prctl */
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* Sets that build on AVX-512 or AVX2: c, d of leaf 7. */
static unsigned detect_products(unsigned flags, unsigned state, unsigned c, unsigned d) {
    unsigned a1 = 0, b1, c1, d1;
    if (!__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1)) a1 = 0;
    if ((flags & MKA_CPU_AVX2) && bit(a1, 4)) flags |= MKA_CPU_AVX_VNNI;
    if (!(flags & MKA_CPU_AVX512)) return flags;
    if (bit(c, 1)) flags |= MKA_CPU_AVX512_VBMI;
    if (bit(c, 11)) flags |= MKA_CPU_AVX512_VNNI;
    if (bit(a1, 5)) flags |= MKA_CPU_AVX512_BF16;
    unsigned bf16 = bit(d, 22), tile = bit(d, 24), int8 = bit(d, 25);
    if (bf16 && tile && int8 && (state & 0x60000u) == 0x60000u && tiles_granted()) flags |= MKA_CPU_AMX;
    return flags;
}

static unsigned detect(void) {
    unsigned a, b, c, d, flags = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    unsigned fma = bit(c, 12), osxsave = bit(c, 27), avx = bit(c, 28), f16c = bit(c, 29);
    if (bit(c, 9) && bit(c, 19) && bit(c, 20) && bit(c, 23)) flags |= MKA_CPU_SSE42;
    if (!osxsave || !avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return flags;
    unsigned state = xcr0();
    int ymm = (state & 0x06u) == 0x06u, zmm = (state & 0xe6u) == 0xe6u;
    if (ymm && fma && f16c && bit(b, 5)) flags |= MKA_CPU_AVX2;
    unsigned f = bit(b, 16), dq = bit(b, 17), bw = bit(b, 30), vl = bit(b, 31);
    if ((flags & MKA_CPU_AVX2) && zmm && f && dq && bw && vl) flags |= MKA_CPU_AVX512;
    return detect_products(flags, state, c, d);
}

#elif defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMD
#define HWCAP_ASIMD (1 << 1)
#endif
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#ifndef HWCAP_SVE
#define HWCAP_SVE (1 << 22)
#endif
#ifndef HWCAP2_I8MM
#define HWCAP2_I8MM (1 << 13)
#endif
#ifndef HWCAP2_BF16
#define HWCAP2_BF16 (1 << 14)
#endif

static unsigned detect(void) {
    unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    unsigned flags = 0;
    if (first & HWCAP_ASIMD) flags |= MKA_CPU_NEON;
    if (first & HWCAP_ASIMDDP) flags |= MKA_CPU_DOTPROD;
    if (first & HWCAP_SVE) flags |= MKA_CPU_SVE;
    if (second & HWCAP2_I8MM) flags |= MKA_CPU_I8MM;
    if (second & HWCAP2_BF16) flags |= MKA_CPU_BF16;
    return flags;
}

#else

static unsigned detect(void) {
    return 0;
}
#endif

static unsigned detected;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void detect_once(void) {
    detected = detect();
}

unsigned mka_cpu_flags(void) {
    pthread_once(&once, detect_once);
    return detected;
}
