/* common - what every program begins with: stored types by their GGUF numbers, and how single numbers are read and written.
 * OpenCL C 1.2 without extensions: half floats go through vload_half and vstore_half, which every device has. */
#define F32  0
#define F16  1
#define Q4_0 2
#define Q4_1 3
#define Q5_0 6
#define Q5_1 7
#define Q8_0 8
#define Q2_K 10
#define Q3_K 11
#define Q4_K 12
#define Q5_K 13
#define Q6_K 14
#define IQ4_NL 20
#define IQ4_XS 23
#define BF16 30

#define PAD(n, unit) (((n) + (unit) - 1) / (unit) * (unit))

float load_half(global const uchar *p) {
    return vload_half(0, (global const half *)p);
}

float load_bf16(global const uchar *p) {
    return as_float((uint) * (global const ushort *)p << 16);
}

ushort to_bf16(float x) {
    uint u = as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (ushort)(u >> 16 | 0x40u);
    return (ushort)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* Number `at` of an array of a stored type, without its scale. Q4_0: bytes of 16 hold 32 numbers, as in cache.cl. */
float number_of(int type, global const uchar *data, ulong at) {
    if (type == F32) return ((global const float *)data)[at];
    if (type == F16) return vload_half(at, (global const half *)data);
    if (type == BF16) return as_float((uint)((global const ushort *)data)[at] << 16);
    if (type == Q8_0) return (float)((global const char *)data)[at];
    uchar byte = data[at / 32 * 16 + at % 16];
    return (float)((at % 32 < 16 ? byte & 15 : byte >> 4) - 8);
}
