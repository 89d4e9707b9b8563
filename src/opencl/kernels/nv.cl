/* nv - what NVIDIA devices of compute capability 8.0 and later add to OpenCL C, as functions over inline PTX: products on the
 * matrix unit, exchanges within a warp, streaming loads, halves in pairs. Comes before every file *_nv.cl in a program; owns
 * nothing else.
 *
 * A warp is 32 work-items in a row of dimension 0; g = lane / 4, t = lane % 4. All 32 call the warp's functions together.
 */

/* c [16][8] += a [16][16] b [16][8]. A lane holds a: rows g, g + 8, g, g + 8 of columns 2t, 2t + 1 (a0, a1) and 2t + 8, 2t + 9
 * (a2, a3); b: column g, rows 2t, 2t + 1 and 2t + 8, 2t + 9; c: row g of columns 2t, 2t + 1, then row g + 8.
 *
 * pair: two floats as a pair of the unit's type, x in the low half. */
#define UNIT_FUNCTIONS(unit)                                                                                                     \
    static inline void multiply_##unit(float c[4], uint a0, uint a1, uint a2, uint a3, const uint b[2]) {                        \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." #unit "." #unit ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "              \
            "{%0,%1,%2,%3};"                                                                                                     \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                                     \
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b[0]), "r"(b[1]));                                                         \
    }                                                                                                                            \
    static inline uint pair_##unit(float x, float y) {                                                                           \
        uint p;                                                                                                                  \
        asm("cvt.rn." #unit "x2.f32 %0, %1, %2;" : "=r"(p) : "f"(y), "f"(x));                                                    \
        return p;                                                                                                                \
    }
UNIT_FUNCTIONS(f16)
UNIT_FUNCTIONS(bf16)

/* What a file multiplies: the type of its weights, or of its cache. */
#if WTYPE == 30 || (!defined(WTYPE) && KEY_TYPE == 30)
#define multiply multiply_bf16
#define pair     pair_bf16
#else
#define multiply multiply_f16
#define pair     pair_f16
#endif

/* An 8 x 8 matrix of 16-bit numbers across the warp, turned. */
static inline uint turn(uint x) {
    uint y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* Four of the eight bytes of b:a, a nibble of which for each. */
static inline uint pick(uint a, uint b, uint which) {
    uint y;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(which));
    return y;
}

static inline float lanes_xor(float x, int mask) {
    float y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;" : "=f"(y) : "f"(x), "r"(mask));
    return y;
}

static inline float lane_of(float x, uint lane) {
    float y;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;" : "=f"(y) : "f"(x), "r"(lane));
    return y;
}

static inline uint lane_of_uint(uint x, uint lane) {
    return as_uint(lane_of(as_float(x), lane));
}

/* A bit for every lane whose x is not 0. */
static inline uint ballot(int x) {
    uint y;
    asm volatile("{.reg .pred p; setp.ne.s32 p, %1, 0; vote.sync.ballot.b32 %0, p, 0xffffffff;}" : "=r"(y) : "r"(x));
    return y;
}

static inline int warp_any(int x) {
    int y;
    asm volatile("{.reg .pred p; setp.ne.s32 p, %1, 0; vote.sync.any.pred p, p, 0xffffffff; selp.s32 %0, 1, 0, p;}"
                 : "=r"(y)
                 : "r"(x));
    return y;
}

static inline void lanes_meet(void) {
    asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
}

/* Streaming loads: every byte is used once, so it need not push anything out of the first-level cache; whole lines of 128 bytes
 * are fetched from memory, of which a warp's load takes half a line here and there (5 % of decode attention's time, 10 % of a
 * product's). */
#ifdef CHAIN
#define CONSTANT "" /* caches are written in the same launch */
#else
#define CONSTANT ".nc"
#endif
static inline void load(global const uchar *from, int bytes, uint *to) {
    ulong p = (ulong)from;
    if (bytes == 16)
        asm volatile("ld.global" CONSTANT ".L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "l"(p));
    else if (bytes == 8)
        asm volatile("ld.global" CONSTANT ".L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "l"(p));
    else
        asm volatile("ld.global" CONSTANT ".L1::no_allocate.L2::128B.u32 %0, [%1];" : "=r"(to[0]) : "l"(p));
}

/* Reads of what other groups stored, after they have met or arrived, whose fence empties the first-level cache; in the order in
 * which they stand. */
static inline float fresh(global const float *from) {
    float x;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"((ulong)from));
    return x;
}

static inline float4 fresh4(global const float *from) {
    float4 x;
    asm volatile("ld.global.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"((ulong)from));
    return x;
}

static inline float2 fresh2(global const float2 *from) {
    float2 x;
    asm volatile("ld.global.v2.f32 {%0,%1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"((ulong)from));
    return x;
}

/* Sums that groups have in common; the order of whole numbers does not matter. */
static inline void add_whole(global ulong *to, ulong x) {
    asm volatile("red.global.add.u64 [%0], %1;" ::"l"((ulong)to), "l"(x) : "memory");
}

/* One more group has stored its part: returns 1 to the last of them, who may then read all parts. arrived: 0 at first, and
 * afterwards. */
static inline int arrive(global uint *arrived, uint groups, local uint *last) {
    uint before;
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
    if (get_local_id(0) == 0) {
        asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" /* the last one's makes it 0 */
                     : "=r"(before)
                     : "l"((ulong)arrived), "r"(groups - 1)
                     : "memory");
        *last = before == groups - 1;
    }
    barrier(CLK_GLOBAL_MEM_FENCE | CLK_LOCAL_MEM_FENCE);
    return *last;
}

/* All groups of a launch meet: each comes (one work-item, behind a barrier of the group, whose stores the release covers) and then
 * waits until `groups` have, for so many nanoseconds at most: 0 is returned then. came: 0 at first. */
static inline void come(global uint *came) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"((ulong)came) : "memory");
}

static inline uint all_came(global const uint *came, uint groups, ulong patience) {
    ulong since, now;
    uint seen;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(since));
    for (uint i = 1;; i++) {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"((ulong)came) : "memory");
        if (seen >= groups) return 1;
        if (i % 1024) continue;
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
        if (now - since > patience) return 0;
    }
}

/* Groups did not come: told in *where, or, told 0, the launch fails, as does what follows it. */
static inline void in_vain(global uint *where, int told) {
    if (told)
        *where = 1;
    else
        asm volatile("trap;");
}

/* Memory is to have this line near at hand. */
static inline void ask_for(global const uchar *from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"((ulong)from));
}

/* The same of bytes in a row, by one work-item: both are multiples of 16. BULK: the device has an instruction for it. */
static inline void ask_for_bytes(global const uchar *from, uint bytes) {
#if BULK
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"((ulong)from), "r"(bytes) : "memory");
#else
    for (uint i = 0; i < bytes; i += 128) ask_for(from + i);
#endif
}

/* Pairs of halves: a - b, a b + c. */
static inline uint sub2(uint a, uint b) {
    uint y;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
}

static inline uint fma2(uint a, uint b, uint c) {
    uint y;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}

static inline void halves(uint two, float *low, float *high) {
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(*low), "=f"(*high) : "r"(two));
}

static inline uint half_bits(float x) {
    ushort y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

/* Four bytes to pairs of halves by an exponent over them: 1024 + byte. */
static inline void byte_pairs(uint four, uint *low, uint *high) {
    *low = pick(four, 0x64646464u, 0x4140);
    *high = pick(four, 0x64646464u, 0x4342);
}

/* Where a local pointer points, as the instructions below want it. */
static inline uint local_at(const local void *p) {
    return (uint)(size_t)p;
}

/* 16 bytes from memory to local memory, on the way until wait_copies: all but the newest `pending` sets, each ended by
 * end_copies. */
static inline void copy16(uint to, global const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"((ulong)from) : "memory");
}
/* The same of what is used once, and with zeros instead where there is 0. */
static inline void stream16(local uchar *to, global const uchar *from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(local_at(to)), "l"((ulong)from) : "memory");
}
static inline void stream16_or_zeros(local uchar *to, global const uchar *from, int there) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(local_at(to)), "l"((ulong)from), "r"(there ? 16 : 0)
                 : "memory");
}
static inline void end_copies(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
static inline void wait_copies(const int pending) {
    if (pending == 0) asm volatile("cp.async.wait_group 0;" ::: "memory");
    if (pending == 1) asm volatile("cp.async.wait_group 1;" ::: "memory");
    if (pending == 2) asm volatile("cp.async.wait_group 2;" ::: "memory");
    if (pending == 3) asm volatile("cp.async.wait_group 3;" ::: "memory");
    if (pending == 4) asm volatile("cp.async.wait_group 4;" ::: "memory");
    if (pending == 5) asm volatile("cp.async.wait_group 5;" ::: "memory");
}

/* Four 8 x 8 matrices of 16-bit numbers; lane l has the address of row l % 8 of matrix l / 8. A lane gets columns 2t, 2t + 1 of
 * row g of each, and with load_turned rows 2t, 2t + 1 of column g. */
static inline void load_matrices(uint at, uint m[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
}
static inline void load_turned(uint at, uint m[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
}
