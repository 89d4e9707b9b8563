/* bank - see bank.h: the entries and their codes; bank_search.c finds among them. */
#include "bank.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "scalar/half.h"
#include "tiers.h"

enum { EACH = MKA_SCAN_TOKENS, MOST_REMEMBERED = 1 << 30 };

static size_t slots_of(const mka_bank_shape *s) {
    return ((size_t)s->capacity + (size_t)(s->window + s->queries) / MKA_BLOCK + 2 + EACH - 1) / EACH * EACH;
}

static size_t slot_bytes(const mka_bank_shape *s) {
    return (size_t)s->width * 2 + mka_scan_block_bytes(s->width) / EACH + sizeof(float);
}

size_t mka_bank_bytes(const mka_bank_shape *s, int context) {
    size_t most = slots_of(s), blocks = ((size_t)context / MKA_BLOCK + EACH) / EACH * EACH;
    return (blocks < most ? blocks : most) * slot_bytes(s) + 2 * (size_t)s->width * sizeof(float);
}

mka_status mka_bank_create(const mka_bank_shape *shape, mka_bank *b, mka_error *error) {
    size_t all, floats = (size_t)shape->width * sizeof(float);
    *b = (mka_bank){.shape = *shape,
                    .slots = slots_of(shape),
                    .row = (size_t)shape->width * 2,
                    .scan_block = mka_scan_block_bytes(shape->width)};
    if (mka_size_mul(b->slots, slot_bytes(shape), &all) && all <= SIZE_MAX / 4) b->scan = mka_pages_map(all + 2 * floats);
    if (!b->scan) {
        *b = (mka_bank){.scan = NULL};
        return mka_fail(error, MKA_NO_MEMORY, "the system gives no address space for a bank of %d summaries", shape->capacity);
    }
    b->bytes = all + 2 * floats;
    mka_pages_small(b->scan, b->bytes); /* a layer may only ever touch a few of them */
    b->lengths = (float *)(void *)(b->scan + b->slots / EACH * b->scan_block);
    b->centre = b->lengths + b->slots;
    b->open = b->centre + shape->width;
    b->rows = (unsigned char *)(b->open + shape->width);
    return MKA_OK;
}

void mka_bank_destroy(mka_bank *b) {
    if (b->scan) mka_pages_unmap(b->scan, b->bytes);
    *b = (mka_bank){.scan = NULL};
}

void mka_bank_reset(mka_bank *b) {
    memset(b->open, 0, (size_t)b->shape.width * sizeof(float));
    b->length = b->remembered = b->begin = b->coded = 0;
    mka_pages_discard(b->scan, b->bytes);
}

/* ---- entries ---- */

/* Whole blocks that so many tokens make. */
static int blocks_of(const mka_bank *b, int length) {
    return length > b->shape.sinks ? (length - b->shape.sinks) / MKA_BLOCK : 0;
}

int mka_bank_entries(const mka_bank *b) {
    return b->remembered + blocks_of(b, b->length);
}

int mka_bank_edge(const mka_bank *b, int position, int *from) {
    int edge = b->remembered + mka_blocks_behind(b->shape.sinks, b->shape.window, position), first = edge - b->shape.capacity;
    *from = first > b->begin ? first : b->begin;
    return edge;
}

void mka_bank_trim(mka_bank *b) {
    mka_bank_edge(b, b->length, &b->begin);
}

int mka_bank_room(const mka_bank *b) {
    return (int)b->slots;
}

static void row_of(const mka_bank *b, int entry, float *x) {
    mka_get_row(MKA_F16, b->shape.width, mka_bank_row(b, entry), x);
}

float mka_bank_normalise(int width, float *x) {
    double squares = 0;
    for (int i = 0; i < width; i++) squares += (double)x[i] * (double)x[i];
    float length = (float)sqrt(squares), inverse = length > 0 && isfinite(length) ? 1 / length : 0;
    for (int i = 0; i < width; i++) x[i] = inverse > 0 ? x[i] * inverse : 0;
    return inverse > 0 ? length : 0;
}

static void encode(mka_bank *b, int entry) {
    int width = b->shape.width;
    size_t slot = (size_t)entry % b->slots;
    float x[MKA_MOST_DIM];
    row_of(b, entry, x);
    for (int i = 0; i < width; i++) x[i] -= b->centre[i];
    b->lengths[slot] = mka_bank_normalise(width, x);
    mka_turn(width, x);
    mka_put_signs(width, x, mka_sign_factor(width, x), b->scan + slot / EACH * b->scan_block, (int)(slot % EACH));
}

/* The mean of entries begin..entries - 1 becomes the centre, by which they are coded. */
static void set_centre(mka_bank *b, int entries) {
    int width = b->shape.width;
    float x[MKA_MOST_DIM];
    memset(b->centre, 0, (size_t)width * sizeof *b->centre);
    for (int e = b->begin; e < entries; e++) {
        row_of(b, e, x);
        for (int i = 0; i < width; i++) b->centre[i] += x[i] / (float)(entries - b->begin);
    }
    b->coded = 1;
    for (int e = b->begin; e < entries; e++) encode(b, e);
}

/* A ring that is full loses its first entry to a new one. */
static void make_room(mka_bank *b, int entry) {
    if (entry - b->begin >= (int)b->slots) b->begin = entry - (int)b->slots + 1;
}

static void close_block(mka_bank *b, const mka_kernels *kernels) {
    const float most = 65504.0F; /* of half floats */
    int width = b->shape.width, blocks = blocks_of(b, b->length), entry = b->remembered + blocks - 1;
    make_room(b, entry);
    for (int i = 0; i < width; i++) {
        float mean = b->open[i] / MKA_BLOCK;
        if (!(fabsf(mean) <= most)) mean = isnan(mean) ? 0 : copysignf(most, mean); /* a row that spoils what it is mixed into */
        b->open[i] = mean;
    }
    kernels->store[MKA_F16](width, b->open, mka_bank_row(b, entry));
    memset(b->open, 0, (size_t)width * sizeof *b->open);
    if (b->coded)
        encode(b, entry);
    else if (blocks == b->shape.window / MKA_BLOCK)
        set_centre(b, entry + 1); /* before the first block is behind a window */
}

void mka_bank_put(mka_bank *b, const mka_kernels *kernels, int n, const float *x) {
    for (int i = 0; i < n; i++) {
        int place = b->length++ - b->shape.sinks;
        if (place < 0) continue;
        kernels->add(b->shape.width, x + (size_t)i * (size_t)b->shape.width, b->open);
        if (place % MKA_BLOCK == MKA_BLOCK - 1) close_block(b, kernels);
    }
}

void mka_bank_remember(mka_bank *b, int count, const unsigned char *rows) {
    for (int i = 0; i < count; i++, b->remembered++) {
        make_room(b, b->remembered);
        memcpy(mka_bank_row(b, b->remembered), rows + (size_t)i * b->row, b->row);
    }
    if (b->remembered > b->begin) set_centre(b, b->remembered);
}

int mka_bank_count(const mka_bank *b, int length, int remembered, int begin) {
    if (length < 0 || remembered < 0 || remembered > MOST_REMEMBERED || begin < 0) return -1;
    int entries = remembered + blocks_of(b, length);
    return begin <= entries ? entries - begin : -1;
}

void mka_bank_set(mka_bank *b, int length, int remembered, int begin) {
    b->length = length;
    b->remembered = remembered;
    b->begin = begin;
    b->coded = remembered > 0 || blocks_of(b, length) >= b->shape.window / MKA_BLOCK;
}

void mka_bank_recode(mka_bank *b) {
    for (int e = b->begin, entries = mka_bank_entries(b); b->coded && e < entries; e++) encode(b, e);
}
