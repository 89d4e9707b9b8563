/* lanes - what nv.cl gives to a kernel, by functions of the host (lanes.c): a kernel file for NVIDIA devices built after this one
 * runs on a CPU, work-item by work-item. Each function does what the instruction of the same name in nv.cl does. */
float lanes_shuffle(float x, uint lane);
uint lanes_ballot(int x);
void lanes_multiply(float *c, const uint *a, const uint *b);
void lanes_multiply_bf16(float *c, const uint *a, const uint *b);
uint lanes_pair(float x, float y);
uint lanes_pair_bf16(float x, float y);
uint lanes_turn(uint x);
uint lanes_sub2(uint a, uint b);
uint lanes_fma2(uint a, uint b, uint c);
float lanes_half(uint bits);
void lanes_check(ulong address, int bytes); /* aligned, and within what the kernel was given */
void lanes_add(global ulong *to, ulong x);
uint lanes_come(global uint *came);
uint lanes_all_came(global const uint *came, uint groups);

static inline void multiply(float c[4], uint a0, uint a1, uint a2, uint a3, const uint b[2]) {
    const uint a[4] = {a0, a1, a2, a3};
#if !defined(WTYPE) && KEY_TYPE == 30
    lanes_multiply_bf16(c, a, b);
#else
    lanes_multiply(c, a, b);
#endif
}
static inline uint pair(float x, float y) {
#if !defined(WTYPE) && KEY_TYPE == 30
    return lanes_pair_bf16(x, y);
#else
    return lanes_pair(x, y);
#endif
}
static inline uint turn(uint x) {
    return lanes_turn(x);
}
static inline uint pick(uint a, uint b, uint which) {
    ulong all = (ulong)b << 32 | a;
    uint y = 0;
    for (int i = 0; i < 4; i++) y |= (uint)(all >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
    return y;
}
static inline float lane_of(float x, uint lane) {
    return lanes_shuffle(x, lane);
}
static inline uint lane_of_uint(uint x, uint lane) {
    return as_uint(lanes_shuffle(as_float(x), lane));
}
static inline float lanes_xor(float x, int mask) {
    return lanes_shuffle(x, (uint)((int)(get_local_id(0) % 32) ^ mask));
}
static inline uint ballot(int x) {
    return lanes_ballot(x);
}
static inline int warp_any(int x) {
    return lanes_ballot(x) != 0;
}
static inline void lanes_meet(void) {
    lanes_ballot(0);
}
static inline void load(global const uchar *from, int bytes, uint *to) {
    lanes_check((ulong)from, bytes);
    for (int i = 0; i < bytes / 4; i++) to[i] = ((global const uint *)from)[i];
}
static inline float fresh(global const float *from) {
    lanes_check((ulong)from, 4);
    return *from;
}
static inline float4 fresh4(global const float *from) {
    lanes_check((ulong)from, 16);
    return *(global const float4 *)from;
}
static inline float2 fresh2(global const float2 *from) {
    lanes_check((ulong)from, 8);
    return *from;
}
static inline void add_whole(global ulong *to, ulong x) {
    lanes_add(to, x);
}
static inline int arrive(global uint *arrived, uint groups, local uint *last) {
    barrier(CLK_GLOBAL_MEM_FENCE);
    if (get_local_id(0) == 0) {
        *last = lanes_come(arrived) == groups - 1;
        if (*last) *arrived = 0;
    }
    barrier(CLK_GLOBAL_MEM_FENCE);
    return *last;
}
static inline void come(global uint *came) {
    lanes_come(came);
}
static inline uint all_came(global const uint *came, uint groups, ulong patience) {
    return lanes_all_came(came, groups);
}
static inline void in_vain(global uint *where, int told) {
    *where = 1;
}
/* Copies are there at once. */
static inline void ask_for(global const uchar *from) {
    lanes_check((ulong)from, 4);
}
static inline void ask_for_bytes(global const uchar *from, uint bytes) {
    lanes_check((ulong)from, 16);
    for (uint i = 0; i < bytes; i += 16) lanes_check((ulong)from + i, 16);
}
static inline void stream16(local uchar *to, global const uchar *from) {
    lanes_check((ulong)from, 16);
    *(local uint4 *)to = *(global const uint4 *)from;
}
static inline void stream16_or_zeros(local uchar *to, global const uchar *from, int there) {
    if (there)
        stream16(to, from);
    else
        *(local uint4 *)to = 0;
}
static inline void end_copies(void) {
}
static inline void wait_copies(const int pending) {
}
static inline uint half_bits(float x) {
    return lanes_pair(x, 0) & 0xffff;
}
static inline uint sub2(uint a, uint b) {
    return lanes_sub2(a, b);
}
static inline uint fma2(uint a, uint b, uint c) {
    return lanes_fma2(a, b, c);
}
static inline void halves(uint two, float *low, float *high) {
    *low = lanes_half(two & 0xffff);
    *high = lanes_half(two >> 16);
}
static inline void byte_pairs(uint four, uint *low, uint *high) {
    *low = pick(four, 0x64646464u, 0x4140);
    *high = pick(four, 0x64646464u, 0x4342);
}
