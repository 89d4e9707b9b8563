/* kernels - the list of levels and the tables made from it. A new instruction set is one line here and its own library.
 *
 * Tables are filled once, under pthread_once, and are constant from then on; this is the only state of the process. */
#include "kernels.h"

#include <pthread.h>
#include <string.h>

#include "cpu.h"
#include "levels.h"

typedef struct {
    const char *name;
    const char *base; /* listed before it: whose kernels it keeps where it has none; where the CPU lacks that, its base */
    unsigned flags;   /* all of them must be there */
    void (*fill)(mka_kernels *k);
} level;

/* Lowest first: the last one that this CPU can run is the default. */
static const level list[] = {
    {"scalar", NULL, 0, mka_scalar_fill},
#if defined(__x86_64__)
    {"sse42", "scalar", MKA_CPU_SSE42, mka_sse42_fill},
    {"avx2", "sse42", MKA_CPU_AVX2, mka_avx2_fill},
    {"avx2vnni", "avx2", MKA_CPU_AVX_VNNI, mka_avx2vnni_fill},
    {"avx512", "avx2", MKA_CPU_AVX2 | MKA_CPU_AVX512, mka_avx512_fill},
    {"avx512vnni", "avx512", MKA_CPU_AVX512_VNNI | MKA_CPU_AVX512_BF16 | MKA_CPU_AVX512_VBMI, mka_avx512vnni_fill},
    {"amx", "avx512vnni", MKA_CPU_AMX, mka_amx_fill},
#elif defined(__aarch64__)
    {"neon", "scalar", MKA_CPU_NEON, mka_neon_fill},
    {"dotprod", "neon", MKA_CPU_NEON | MKA_CPU_DOTPROD, mka_dotprod_fill},
    {"i8mm", "dotprod", MKA_CPU_NEON | MKA_CPU_DOTPROD | MKA_CPU_I8MM | MKA_CPU_BF16, mka_i8mm_fill},
    {"sve", "i8mm", MKA_CPU_NEON | MKA_CPU_SVE, mka_sve_fill},
#endif
};

enum { LEVELS = sizeof list / sizeof list[0] };
_Static_assert(LEVELS <= 16, "mka_kernels_levels promises room for 16");

static mka_kernels tables[LEVELS];
static int available[LEVELS]; /* indices into list and tables, lowest first */
static int available_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const mka_kernels *find(const char *name) {
    for (int i = 0; i < available_count; i++)
        if (strcmp(list[available[i]].name, name) == 0) return &tables[available[i]];
    return NULL;
}

/* The tables of a level's base, or of what stands below it. scalar is always there. */
static const mka_kernels *find_base(const char *name) {
    const mka_kernels *found = find(name);
    for (int i = LEVELS - 1; i >= 0 && !found; i--)
        if (strcmp(list[i].name, name) == 0) found = find(name = list[i].base);
    return found;
}

static void build(void) {
    unsigned flags = mka_cpu_flags();
    for (int i = 0; i < LEVELS; i++) {
        if ((list[i].flags & flags) != list[i].flags) continue;
        if (list[i].base) tables[i] = *find_base(list[i].base);
        tables[i].level = list[i].name;
        list[i].fill(&tables[i]);
        mka_peaks_fill(list[i].name, &tables[i].peaks);
        available[available_count++] = i;
    }
}

const mka_kernels *mka_kernels_get(const char *name) {
    pthread_once(&once, build);
    return name ? find(name) : &tables[available[available_count - 1]];
}

int mka_kernels_levels(const char **names) {
    pthread_once(&once, build);
    for (int i = 0; i < available_count; i++) names[i] = list[available[i]].name;
    return available_count;
}
