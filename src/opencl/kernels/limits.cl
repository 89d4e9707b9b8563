/* limits - how fast the device's memory is: every item reads, or copies, its share of 16-byte words, neighbours side by side. */
#define AHEAD 8 /* loads of an item that are under way at once */

/* found is written when the words' sum is a certain one, so that no load can be left out. */
kernel void read_all(global const uint4 *from, ulong from_at, ulong count, global uint *found, ulong found_at) {
    ulong step = get_global_size(0), i = get_global_id(0);
    uint4 sum = 0;
    for (; i + (AHEAD - 1) * step < count; i += AHEAD * step) {
        uint4 x[AHEAD];
        for (int k = 0; k < AHEAD; k++) x[k] = from[from_at + i + (ulong)k * step];
        for (int k = 0; k < AHEAD; k++) sum += x[k];
    }
    for (; i < count; i += step) sum += from[from_at + i];
    if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x9e3779b9u) found[found_at] = 1;
}

/* The first count words to the next. */
kernel void copy_all(global uint4 *from, ulong from_at, ulong count) {
    ulong step = get_global_size(0);
    for (ulong i = get_global_id(0); i < count; i += step) from[from_at + count + i] = from[from_at + i];
}
