/* cache - tiles of keys and values one token at a time: writing a token as it comes, and reading one back. Plain C: a token
 * is written once and read thousands of times. */
#include "kernels.h"

#include <math.h>
#include <string.h>

#include "scalar/half.h"

enum { MOST = 1024 }; /* numbers that are converted at once */

int mka_cache_type(mka_type type) {
    return type == MKA_F32 || type == MKA_F16 || type == MKA_BF16 || type == MKA_Q8_0 || type == MKA_Q4_0;
}

static size_t key_data_bytes(mka_type type, int d) {
    switch ((int)type) {
    case MKA_F32:
        return (size_t)MKA_TILE * (size_t)d * 4;
    case MKA_F16:
        return (size_t)MKA_TILE * (size_t)d * 2;
    case MKA_BF16:
        return (size_t)MKA_TILE * (size_t)mka_pad(d, 2) * 2;
    case MKA_Q8_0:
        return (size_t)MKA_TILE * (size_t)mka_pad(d, MKA_KEY_GROUP);
    case MKA_Q4_0:
        return (size_t)MKA_TILE * (size_t)mka_pad(d, MKA_KEY_GROUP) / 2;
    default:
        return 0;
    }
}

size_t mka_key_tile_bytes(mka_type type, int d) {
    size_t scales = type == MKA_Q8_0 || type == MKA_Q4_0 ? (size_t)mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP * MKA_TILE * 2 : 0;
    return key_data_bytes(type, d) + scales;
}

static size_t value_data_bytes(mka_type type, int d) {
    switch ((int)type) {
    case MKA_F32:
        return (size_t)MKA_TILE * (size_t)d * 4;
    case MKA_F16:
        return (size_t)MKA_TILE * (size_t)d * 2;
    case MKA_BF16:
        return (size_t)MKA_TILE * (size_t)mka_pad(d, 16) * 2;
    case MKA_Q8_0:
        return (size_t)MKA_TILE * (size_t)mka_pad(d, 16);
    case MKA_Q4_0:
        return (size_t)MKA_TILE * (size_t)mka_pad(d, 32) / 2;
    default:
        return 0;
    }
}

size_t mka_value_tile_bytes(mka_type type, int d) {
    return value_data_bytes(type, d) + (type == MKA_Q8_0 || type == MKA_Q4_0 ? MKA_TILE * sizeof(float) : 0);
}

/* Where a token's number e lies in a tile, in elements (nibbles for Q4). */
static size_t key_index(mka_type type, int d, int slot, int e) {
    int half = slot / MKA_HALF, lane = slot % MKA_HALF,
        unit = type == MKA_BF16   ? 2
               : type == MKA_Q8_0 ? 4
               : type == MKA_Q4_0 ? 8
                                  : 1;
    int padded = mka_pad(d, type == MKA_Q8_0 || type == MKA_Q4_0 ? MKA_KEY_GROUP : unit);
    size_t line = (size_t)half * (size_t)(padded / unit) + (size_t)(e / unit);
    int within = type == MKA_Q4_0 ? 2 * (e % 4) + e % 8 / 4 : e % unit;
    return (line * MKA_HALF + (size_t)lane) * (size_t)unit + (size_t)within;
}

static size_t value_index(mka_type type, int d, int slot, int e) {
    size_t dimension = (size_t)(e % 16);
    switch ((int)type) {
    case MKA_BF16:
        return (((size_t)(e / 16) * 16 + (size_t)(slot / 2)) * 16 + dimension) * 2 + (size_t)(slot % 2);
    case MKA_Q8_0:
        return (((size_t)(e / 16) * 8 + (size_t)(slot / 4)) * 16 + dimension) * 4 + (size_t)(slot % 4);
    case MKA_Q4_0:
        return ((((size_t)(e / 32) * 8 + (size_t)(slot / 4)) * 16 + dimension) * 4 + (size_t)(slot % 4)) * 2 +
               (size_t)(e % 32 / 16);
    default:
        return (size_t)slot * (size_t)d + (size_t)e;
    }
}

static void put_nibble(unsigned char *data, size_t index, unsigned value) {
    unsigned shift = 4 * (unsigned)(index % 2);
    data[index / 2] = (unsigned char)((data[index / 2] & ~(15u << shift)) | value << shift);
}

static unsigned get_nibble(const unsigned char *data, size_t index) {
    return data[index / 2] >> 4 * (index % 2) & 15u;
}

static float largest(int n, const float *x) {
    float most = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    return most;
}

/* Where the numbers of a token lie: run of them step elements apart, and the next run stride elements after that one's first. */
typedef struct {
    size_t first, step, stride;
    int run;
} places;

static places key_places(mka_type type, int d, int slot) {
    places p = {.first = key_index(type, d, slot, 0), .step = MKA_HALF, .run = d};
    if (type == MKA_BF16) p.step = 1, p.stride = 2 * MKA_HALF, p.run = 2;
    return p;
}

static places value_places(mka_type type, int d, int slot) {
    places p = {.first = value_index(type, d, slot, 0), .step = 1, .run = d};
    if (type == MKA_BF16) p.step = 2, p.stride = (size_t)16 * MKA_TILE, p.run = 16;
    return p;
}

/* F32, F16, BF16: converted by the level in pieces, then spread. Prompts put many tokens: no number's place is computed anew. */
static void put_float(mka_type type, mka_store_fn *convert, places p, int d, const float *x, unsigned char *tile) {
    uint16_t row[MOST];
    size_t at = p.first;
    if (type == MKA_F32) {
        for (int e = 0; e < d; e++, at += p.step) memcpy(tile + 4 * at, &x[e], 4);
        return;
    }
    for (int from = 0, within = 0; from < d; from += MOST) {
        int count = d - from < MOST ? d - from : MOST;
        convert(count, x + from, row);
        for (int e = 0; e < count; e++) {
            memcpy(tile + 2 * (at + (size_t)within * p.step), &row[e], 2);
            if (++within == p.run) within = 0, at += p.stride;
        }
    }
}

/* Rounds count numbers to levels of scale; outliers of NaN and infinity become 0 with a scale that says so. */
static int rounded(float x, float inverse, int most) {
    float q = rintf(x * inverse);
    return q >= (float)-most && q <= (float)most ? (int)q : 0;
}

void mka_put_key(mka_type type, mka_store_fn *convert, int d, const float *x, void *tile, int slot) {
    if (type != MKA_Q8_0 && type != MKA_Q4_0) {
        put_float(type, convert, key_places(type, d, slot), d, x, tile);
        return;
    }
    unsigned char *data = tile;
    int most = type == MKA_Q8_0 ? 127 : 7, groups = mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP;
    for (int g = 0; g < groups; g++) {
        int from = g * MKA_KEY_GROUP, count = d - from < MKA_KEY_GROUP ? d - from : MKA_KEY_GROUP;
        uint16_t half = f32_to_f16(largest(count, x + from) / (float)most);
        float scale = f16_to_f32(half), inverse = scale > 0 ? 1 / scale : 0;
        size_t at = ((size_t)(slot / MKA_HALF) * (size_t)groups + (size_t)g) * MKA_HALF + (size_t)(slot % MKA_HALF);
        memcpy(data + key_data_bytes(type, d) + 2 * at, &half, 2);
        for (int e = 0; e < MKA_KEY_GROUP; e++) {
            int q = e < count ? rounded(x[from + e], inverse, most) : 0;
            size_t index = key_index(type, d, slot, from + e);
            if (type == MKA_Q8_0)
                data[index] = (unsigned char)(q + 128);
            else
                put_nibble(data, index, (unsigned)(q + 8));
        }
    }
}

void mka_put_value(mka_type type, mka_store_fn *convert, int d, const float *x, void *tile, int slot) {
    if (type != MKA_Q8_0 && type != MKA_Q4_0) {
        put_float(type, convert, value_places(type, d, slot), d, x, tile);
        return;
    }
    unsigned char *data = tile;
    int most = type == MKA_Q8_0 ? 127 : 7, padded = mka_pad(d, type == MKA_Q8_0 ? 16 : 32);
    float scale = largest(d, x) / (float)most, inverse = scale > 0 ? 1 / scale : 0;
    memcpy(data + value_data_bytes(type, d) + (size_t)slot * sizeof scale, &scale, sizeof scale);
    for (int e = 0; e < padded; e++) {
        int q = e < d ? rounded(x[e], inverse, most) : 0;
        size_t index = value_index(type, d, slot, e);
        if (type == MKA_Q8_0)
            data[index] = (unsigned char)(int8_t)q;
        else
            put_nibble(data, index, (unsigned)(q + 8));
    }
}

static float get_float(mka_type type, const unsigned char *tile, size_t index) {
    float x;
    if (type == MKA_F32)
        memcpy(&x, tile + 4 * index, 4);
    else
        x = type == MKA_F16 ? f16_to_f32(load_u16(tile + 2 * index)) : bf16_to_f32(load_u16(tile + 2 * index));
    return x;
}

void mka_get_key(mka_type type, int d, const void *tile, int slot, float *x) {
    const unsigned char *data = tile;
    int groups = mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP;
    for (int e = 0; e < d; e++) {
        size_t index = key_index(type, d, slot, e);
        if (type != MKA_Q8_0 && type != MKA_Q4_0) {
            x[e] = get_float(type, data, index);
            continue;
        }
        size_t at =
            ((size_t)(slot / MKA_HALF) * (size_t)groups + (size_t)(e / MKA_KEY_GROUP)) * MKA_HALF + (size_t)(slot % MKA_HALF);
        float scale = f16_to_f32(load_u16(data + key_data_bytes(type, d) + 2 * at));
        x[e] = scale * (float)(type == MKA_Q8_0 ? data[index] - 128 : (int)get_nibble(data, index) - 8);
    }
}

void mka_get_value(mka_type type, int d, const void *tile, int slot, float *x) {
    const unsigned char *data = tile;
    for (int e = 0; e < d; e++) {
        size_t index = value_index(type, d, slot, e);
        if (type != MKA_Q8_0 && type != MKA_Q4_0) {
            x[e] = get_float(type, data, index);
            continue;
        }
        float scale;
        memcpy(&scale, data + value_data_bytes(type, d) + (size_t)slot * sizeof scale, sizeof scale);
        x[e] = scale * (float)(type == MKA_Q8_0 ? (int8_t)data[index] : (int)get_nibble(data, index) - 8);
    }
}

/* ---- slots as they are stored ---- */

typedef size_t index_fn(mka_type type, int d, int slot, int e);

/* F32, F16, BF16: between a tile and a row. */
static void move_floats(mka_type type, places p, int d, unsigned char *tile, unsigned char *row, int out) {
    size_t at = p.first;
    for (int e = 0, within = 0; e < d; e++) {
        size_t place = at + (size_t)within * p.step;
        unsigned char *slot = tile + (type == MKA_F32 ? 4 : 2) * place,
                      *number = row + (size_t)(type == MKA_F32 ? 4 : 2) * (size_t)e;
        if (type == MKA_F32)
            memcpy(out ? number : slot, out ? slot : number, 4);
        else
            memcpy(out ? number : slot, out ? slot : number, 2);
        if (++within == p.run) within = 0, at += p.stride;
    }
}

/* Q8, Q4: count numbers, padding included; those of Q8 keys are off by 128 in a tile. */
static void move_codes(mka_type type, int d, int count, index_fn *index, int flip, int slot, unsigned char *tile,
                       unsigned char *row, int out) {
    for (int e = 0; e < count; e++) {
        size_t at = index(type, d, slot, e), nibble = 2 * (size_t)(e / 32 * 16 + e % 16) + (size_t)(e % 32 / 16);
        if (type == MKA_Q8_0 && out)
            row[e] = (unsigned char)(tile[at] ^ flip);
        else if (type == MKA_Q8_0)
            tile[at] = (unsigned char)(row[e] ^ flip);
        else if (out)
            put_nibble(row, nibble, get_nibble(tile, at));
        else
            put_nibble(tile, at, get_nibble(row, nibble));
    }
}

static void move_key(mka_type type, int d, unsigned char *tile, int slot, unsigned char *codes, unsigned char *scales, int out) {
    if (type != MKA_Q8_0 && type != MKA_Q4_0) {
        move_floats(type, key_places(type, d, slot), d, tile, codes, out);
        return;
    }
    size_t groups = (size_t)mka_pad(d, MKA_KEY_GROUP) / MKA_KEY_GROUP, half = (size_t)(slot / MKA_HALF);
    move_codes(type, d, mka_pad(d, MKA_KEY_GROUP), key_index, 128, slot, tile, codes, out);
    for (size_t g = 0; g < groups; g++) {
        unsigned char *at = tile + key_data_bytes(type, d) + 2 * ((half * groups + g) * MKA_HALF + (size_t)(slot % MKA_HALF));
        memcpy(out ? scales + 2 * g : at, out ? at : scales + 2 * g, 2);
    }
}

static void move_value(mka_type type, int d, unsigned char *tile, int slot, unsigned char *codes, unsigned char *scale, int out) {
    if (type != MKA_Q8_0 && type != MKA_Q4_0) {
        move_floats(type, value_places(type, d, slot), d, tile, codes, out);
        return;
    }
    unsigned char *at = tile + value_data_bytes(type, d) + (size_t)slot * sizeof(float);
    move_codes(type, d, mka_pad(d, type == MKA_Q8_0 ? 16 : 32), value_index, 0, slot, tile, codes, out);
    memcpy(out ? scale : at, out ? at : scale, sizeof(float));
}

void mka_key_codes(mka_type type, int d, const void *tile, int slot, void *codes, void *scales) {
    move_key(type, d, (unsigned char *)(uintptr_t)tile, slot, codes, scales, 1);
}

void mka_value_codes(mka_type type, int d, const void *tile, int slot, void *codes, void *scale) {
    move_value(type, d, (unsigned char *)(uintptr_t)tile, slot, codes, scale, 1);
}

void mka_put_key_codes(mka_type type, int d, const void *codes, const void *scales, void *tile, int slot) {
    move_key(type, d, tile, slot, (unsigned char *)(uintptr_t)codes, (unsigned char *)(uintptr_t)scales, 0);
}

void mka_put_value_codes(mka_type type, int d, const void *codes, const void *scale, void *tile, int slot) {
    move_value(type, d, tile, slot, (unsigned char *)(uintptr_t)codes, (unsigned char *)(uintptr_t)scale, 0);
}

/* Sums and differences of numbers that lie step apart. */
static inline void turn(int run, int step, float *row) {
    for (int i = 0; i + 2 * step <= run; i += 2 * step)
        for (int j = i; j < i + step; j++) {
            float a = row[j], b = row[j + step];
            row[j] = a + b;
            row[j + step] = a - b;
        }
}

/* The same for steps of eight and more, eight at a time. */
static inline void turn_eights(int run, int step, float *row) {
    for (int i = 0; i + 2 * step <= run; i += 2 * step)
        for (int j = i; j < i + step; j += 8) {
            float a[8], b[8];
            memcpy(a, row + j, sizeof a);
            memcpy(b, row + j + step, sizeof b);
            for (int k = 0; k < 8; k++) row[j + k] = a[k] + b[k];
            for (int k = 0; k < 8; k++) row[j + step + k] = a[k] - b[k];
        }
}

/* The first steps are known to the compiler, which makes vectors of them: decoding turns its queries anew for each split. */
void mka_hadamard(int d, float *x) {
    int run = d & -d;
    float norm = 1.0F / sqrtf((float)run);
    for (int from = 0; from < d; from += run) {
        float *row = x + from;
        turn(run, 1, row);
        turn(run, 2, row);
        turn(run, 4, row);
        for (int step = 8; step < run; step *= 2) turn_eights(run, step, row);
        for (int i = 0; i < run; i++) row[i] *= norm;
    }
}
