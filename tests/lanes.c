/* lanes - see lanes.h. The functions that a kernel calls have the names that clang gives to OpenCL's own (their asm labels). */
#include "lanes.h"

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { WARP = 32, STACK = 1 << 17, MOST_AREAS = 16, MOST_ROUNDS = 1 << 20, PATIENCE = 120 /* seconds */ };

static struct {
    ucontext_t outside, item[LANES_WIDEST];
    unsigned char *stacks;
    int finished[LANES_WIDEST];
    int now, alive; /* the work-item that runs; those that have not returned */
    size_t group[3], groups[3];
    int waiting;       /* at the group's barrier */
    uint64_t barriers; /* passed */
    struct {
        int waiting;
        uint64_t passed;
        uint32_t value[WARP], a[WARP][4], b[WARP][2];
    } warp[LANES_WIDEST / WARP];
    void (*kernel)(const void *user);
    const void *user;
    const char *wrong;
} all;

static struct {
    uintptr_t start;
    size_t bytes;
} areas[MOST_AREAS];
static int area_count;

void lanes_allow(const void *start, size_t bytes) {
    areas[area_count].start = (uintptr_t)start;
    areas[area_count++].bytes = bytes;
}

void lanes_allow_nothing(void) {
    area_count = 0;
}

int lanes_can(void) {
    return __builtin_cpu_supports("avx2") != 0;
}

/* ---- waiting ---- */

static void give_way(void) {
    swapcontext(&all.item[all.now], &all.outside);
}

static void pass_barrier(void) {
    all.waiting = 0;
    all.barriers++;
}

void lanes_barrier(unsigned flags) __asm__("_Z7barrierj");
void lanes_barrier(unsigned flags) {
    uint64_t before = all.barriers;
    (void)flags;
    if (++all.waiting == all.alive) pass_barrier();
    while (all.barriers == before) give_way();
}

/* All 32 lanes have come. */
static void meet(int warp) {
    uint64_t before = all.warp[warp].passed;
    if (++all.warp[warp].waiting == WARP) {
        all.warp[warp].waiting = 0;
        all.warp[warp].passed++;
    }
    while (all.warp[warp].passed == before) give_way();
}

/* ---- a warp's instructions ---- */

static float to_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

__attribute__((target("f16c"))) float lanes_half(unsigned bits) {
    return _cvtsh_ss((unsigned short)bits);
}

__attribute__((target("f16c"))) static unsigned half_of(float x) {
    return _cvtss_sh(x, 0);
}

static unsigned half_in(uint32_t two, int high) {
    return high ? two >> 16 : two & 0xffff;
}

unsigned lanes_pair(float x, float y) {
    return half_of(x) | half_of(y) << 16;
}

unsigned lanes_pair_bf16(float x, float y) {
    const uint32_t two[2] = {to_bits(x), to_bits(y)};
    uint32_t round[2];
    for (int i = 0; i < 2; i++) round[i] = (two[i] + 0x7fff + (two[i] >> 16 & 1)) >> 16;
    return round[0] | round[1] << 16;
}

unsigned lanes_fma2(unsigned a, unsigned b, unsigned c) {
    unsigned y = 0;
    for (int i = 0; i < 32; i += 16)
        y |= half_of(lanes_half(a >> i & 0xffff) * lanes_half(b >> i & 0xffff) + lanes_half(c >> i & 0xffff)) << i;
    return y;
}

unsigned lanes_sub2(unsigned a, unsigned b) {
    return half_of(lanes_half(a & 0xffff) - lanes_half(b & 0xffff)) | half_of(lanes_half(a >> 16) - lanes_half(b >> 16)) << 16;
}

float lanes_shuffle(float x, unsigned lane) {
    int warp = all.now / WARP;
    all.warp[warp].value[all.now % WARP] = to_bits(x);
    meet(warp);
    float y = to_float(all.warp[warp].value[lane % WARP]);
    meet(warp);
    return y;
}

unsigned lanes_ballot(int x) {
    int warp = all.now / WARP;
    unsigned bits = 0;
    all.warp[warp].value[all.now % WARP] = x != 0;
    meet(warp);
    for (int i = 0; i < WARP; i++) bits |= all.warp[warp].value[i] << i;
    meet(warp);
    return bits;
}

/* movmatrix: rows of 8 numbers of 16 bits, two a lane. */
unsigned lanes_turn(unsigned x) {
    int warp = all.now / WARP, lane = all.now % WARP, g = lane / 4, t = lane % 4;
    const uint32_t *value = all.warp[warp].value;
    all.warp[warp].value[lane] = x;
    meet(warp);
    unsigned y = half_in(value[8 * t + g / 2], g % 2) | half_in(value[8 * t + 4 + g / 2], g % 2) << 16;
    meet(warp);
    return y;
}

/* mma.m16n8k16: operands as nv.cl's multiply says, numbers of either type. */
static float number_in(uint32_t two, int high, int bf16) {
    uint32_t bits = half_in(two, high);
    return bf16 ? to_float(bits << 16) : lanes_half(bits);
}

static void multiply_of(int bf16, float *c, const unsigned *a, const unsigned *b) {
    int warp = all.now / WARP, lane = all.now % WARP, g = lane / 4, t = lane % 4;
    memcpy(all.warp[warp].a[lane], a, sizeof all.warp[warp].a[lane]);
    memcpy(all.warp[warp].b[lane], b, sizeof all.warp[warp].b[lane]);
    meet(warp);
    for (int e = 0; e < 4; e++)
        for (int k = 0; k < 16; k++) {
            uint32_t x = all.warp[warp].a[g * 4 + k % 8 / 2][e / 2 + k / 8 * 2],
                     y = all.warp[warp].b[(2 * t + e % 2) * 4 + k % 8 / 2][k / 8];
            c[e] += number_in(x, k % 2, bf16) * number_in(y, k % 2, bf16);
        }
    meet(warp);
}

void lanes_multiply(float *c, const unsigned *a, const unsigned *b) {
    multiply_of(0, c, a, b);
}

void lanes_multiply_bf16(float *c, const unsigned *a, const unsigned *b) {
    multiply_of(1, c, a, b);
}

static void stop(const char *wrong) {
    all.wrong = wrong;
    for (;;) give_way();
}

void lanes_check(unsigned long address, int bytes) {
    size_t size = (size_t)bytes;
    if (address % size) stop("a load is not aligned");
    for (int i = 0; i < area_count; i++)
        if (address >= areas[i].start && address + size <= areas[i].start + areas[i].bytes) return;
    stop("a load is from nobody's memory");
}

/* ---- groups that run at once ---- */

void lanes_add(unsigned long *to, unsigned long x) {
    __atomic_add_fetch(to, x, __ATOMIC_SEQ_CST);
}

unsigned lanes_come(unsigned *came) {
    return __atomic_fetch_add(came, 1, __ATOMIC_SEQ_CST);
}

unsigned lanes_all_came(const unsigned *came, unsigned groups) {
    time_t since = time(NULL);
    while (__atomic_load_n(came, __ATOMIC_SEQ_CST) < groups) {
        if (time(NULL) - since > PATIENCE) stop("groups wait for others that do not come");
        usleep(200);
    }
    return 1;
}

/* ---- OpenCL's own ---- */

typedef float float4 __attribute__((vector_size(16)));
#define BUILTIN(type, name, label, ...)                                                                                          \
    type name(__VA_ARGS__) __asm__(label);                                                                                       \
    type name(__VA_ARGS__)
BUILTIN(size_t, lanes_group_id, "_Z12get_group_idj", unsigned i) {
    return all.group[i];
}
BUILTIN(size_t, lanes_local_id, "_Z12get_local_idj", unsigned i) {
    return i ? 0 : (size_t)all.now;
}
BUILTIN(size_t, lanes_num_groups, "_Z14get_num_groupsj", unsigned i) {
    return all.groups[i];
}
BUILTIN(float, lanes_exp2, "_Z11native_exp2f", float x) {
    return exp2f(x);
}
BUILTIN(float, lanes_log2, "_Z11native_log2f", float x) {
    return log2f(x);
}
BUILTIN(float, lanes_sqrt, "_Z4sqrtf", float x) {
    return sqrtf(x);
}
BUILTIN(float, lanes_exp, "_Z3expf", float x) {
    return expf(x);
}
BUILTIN(float, lanes_tanh, "_Z4tanhf", float x) {
    return tanhf(x);
}
BUILTIN(float, lanes_fabs, "_Z4fabsf", float x) {
    return fabsf(x);
}
BUILTIN(float, lanes_rint, "_Z4rintf", float x) {
    return rintf(x);
}
BUILTIN(float, lanes_load_half, "_Z10vload_halfmPU8CLglobalKDh", size_t at, const unsigned short *from) {
    return lanes_half(from[at]);
}
BUILTIN(float, lanes_fmax, "_Z4fmaxff", float x, float y) {
    return fmaxf(x, y);
}
BUILTIN(float, lanes_fmin, "_Z4fminff", float x, float y) {
    return fminf(x, y);
}
BUILTIN(unsigned, lanes_min, "_Z3minjj", unsigned x, unsigned y) {
    return x < y ? x : y;
}
BUILTIN(unsigned, lanes_popcount, "_Z8popcountj", unsigned x) {
    return (unsigned)__builtin_popcount(x);
}
BUILTIN(unsigned, lanes_atomic_add, "_Z10atomic_addPU7CLlocalVjj", volatile unsigned *to, unsigned x) {
    unsigned old = *to;
    *to = old + x;
    return old;
}
BUILTIN(unsigned, lanes_atomic_add_global, "_Z10atomic_addPU8CLglobalVjj", volatile unsigned *to, unsigned x) {
    return __atomic_fetch_add(to, x, __ATOMIC_SEQ_CST);
}
BUILTIN(unsigned, lanes_atomic_inc_global, "_Z10atomic_incPU8CLglobalVj", volatile unsigned *to) {
    return __atomic_fetch_add(to, 1, __ATOMIC_SEQ_CST);
}
BUILTIN(unsigned, lanes_atomic_exchange_global, "_Z14atomic_cmpxchgPU8CLglobalVjjj", volatile unsigned *to, unsigned old,
        unsigned x) {
    __atomic_compare_exchange_n(to, &old, x, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return old; /* what was there */
}
BUILTIN(void, lanes_store, "_Z7vstore4Dv4_fmPU8CLglobalf", float4 x, size_t at, float *to) {
    memcpy(to + 4 * at, &x, sizeof x);
}

/* ---- running ---- */

static void enter(void) {
    all.kernel(all.user);
    all.finished[all.now] = 1;
    all.alive--;
    if (all.alive && all.waiting == all.alive) pass_barrier();
    for (;;) give_way();
}

static void run_group(int local) {
    int left = local;
    all.alive = local;
    all.waiting = 0;
    memset(all.warp, 0, sizeof all.warp);
    for (int i = 0; i < local; i++) {
        all.finished[i] = 0;
        getcontext(&all.item[i]);
        all.item[i].uc_stack.ss_sp = all.stacks + (size_t)i * STACK;
        all.item[i].uc_stack.ss_size = STACK;
        makecontext(&all.item[i], enter, 0);
    }
    for (int round = 0; left && !all.wrong; round++) {
        left = 0;
        for (all.now = 0; all.now < local && !all.wrong; all.now++) {
            if (all.finished[all.now]) continue;
            left++;
            swapcontext(&all.outside, &all.item[all.now]);
        }
        if (round == MOST_ROUNDS) all.wrong = "work-items wait for others that do not come";
    }
}

const char *lanes_run(void (*kernel)(const void *user), const void *user, int local, size_t x, size_t y, size_t z) {
    const size_t groups[3] = {x, y, z};
    all.stacks = malloc((size_t)LANES_WIDEST * STACK);
    if (!all.stacks) return "no memory for the stacks of a group";
    memcpy(all.groups, groups, sizeof groups);
    all.kernel = kernel;
    all.user = user;
    all.wrong = NULL;
    for (all.group[2] = 0; all.group[2] < z; all.group[2]++)
        for (all.group[1] = 0; all.group[1] < y; all.group[1]++)
            for (all.group[0] = 0; all.group[0] < x && !all.wrong; all.group[0]++) run_group(local);
    free(all.stacks);
    return all.wrong;
}

void *lanes_shared(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    lanes_allow(p, bytes);
    return p;
}

/* A process for every group, whose local memory is its own; told is what they have in common. */
static int start_groups(int local, size_t count, char *told, size_t room) {
    size_t started = 0;
    for (size_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child > 0) started++;
        if (child != 0) continue;
        all.group[0] = i % all.groups[0];
        all.group[1] = i / all.groups[0] % all.groups[1];
        all.group[2] = i / all.groups[0] / all.groups[1];
        run_group(local);
        if (all.wrong) strncpy(told, all.wrong, room - 1);
        _exit(0);
    }
    int ended = 1;
    for (size_t i = 0; i < started; i++) {
        int status;
        if (wait(&status) < 0 || !WIFEXITED(status)) ended = 0;
    }
    return ended && started == count;
}

const char *lanes_run_together(void (*kernel)(const void *user), const void *user, int local, size_t x, size_t y, size_t z) {
    static char wrong[120];
    const size_t groups[3] = {x, y, z};
    char *told = mmap(NULL, sizeof wrong, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (told == MAP_FAILED) return "no memory that groups have in common";
    all.stacks = malloc((size_t)LANES_WIDEST * STACK);
    memcpy(all.groups, groups, sizeof groups);
    all.kernel = kernel;
    all.user = user;
    all.wrong = NULL;
    int ended = all.stacks && start_groups(local, x * y * z, told, sizeof wrong);
    free(all.stacks);
    memcpy(wrong, told, sizeof wrong);
    munmap(told, sizeof wrong);
    return wrong[0] ? wrong : ended ? NULL : "a group's process did not end well";
}
