/* recall_layout - where the states of a recall lie in its work: one function for each kind of state says where its arrays are,
 * and measures them. */
#include "recall_parts.h"

enum { MOST_QUERIES = 16 /* of one round */ };
static const size_t round_bytes = 16U << 20; /* of segments' states, aimed for */

static float *take(unsigned char *base, size_t *used, size_t count) {
    float *start = base ? (float *)(void *)(base + *used) : NULL;
    *used += count * sizeof(float);
    return start;
}

static size_t align(size_t bytes) {
    return (bytes + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
}

/* base NULL: only measures. */
static size_t place_pair(unsigned char *base, size_t r, size_t d, pair *p) {
    size_t used = 0;
    float **rows[] = {&p->constant, &p->length, &p->m, &p->z, &p->log_total, &p->least, &p->bar, &p->unread};
    p->x = take(base, &used, r * d);
    p->power = take(base, &used, r * d);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) *rows[i] = take(base, &used, r);
    return align(used);
}

/* Without its scores, so that what all segments of a row came to lies close together. */
static size_t place_segment(unsigned char *base, size_t r, segment *s) {
    size_t used = 0;
    s->m = take(base, &used, r);
    s->z = take(base, &used, r);
    s->gain = take(base, &used, r);
    used = (used + 7) / 8 * 8;
    s->wanted = base ? (uint64_t *)(void *)(base + used) : NULL;
    return align(used + MKA_CLUSTERS_MOST / 64 * sizeof(uint64_t));
}

static size_t place_part(unsigned char *base, size_t r, size_t dim, part *s) {
    size_t used = 4 * sizeof(int);
    s->scored = (int *)(void *)base;
    s->read = base ? s->scored + 1 : NULL;
    s->tiles = base ? s->scored + 2 : NULL;
    s->m = take(base, &used, r);
    s->z = take(base, &used, r);
    s->unread = take(base, &used, r);
    used = align(used);
    s->acc = take(base, &used, r * dim);
    return align(used);
}

pair mka_pair_at(const recall *r, size_t index) {
    const mka_longterm_shape *shape = &r->job->longterm->shape;
    pair p = {.r = (int)mka_recall_group(r), .head = (int)(index % (size_t)shape->kv_heads)};
    place_pair(r->work->pairs + index * r->work->pair_bytes, mka_recall_group(r), (size_t)shape->key_dim, &p);
    return p;
}

segment mka_segment_at(const recall *r, size_t pair_index, int index) {
    segment s;
    size_t at = pair_index * (size_t)r->work->segments + (size_t)index;
    place_segment(r->work->segment_states + at * r->work->segment_bytes, mka_recall_group(r), &s);
    s.logs = r->work->scores + at * r->work->score_floats;
    s.weights = s.logs + mka_recall_group(r) * SCORE_LDS;
    return s;
}

part mka_part_at(const recall *r, size_t pair_index, int index) {
    part s;
    size_t at = pair_index * (size_t)r->work->parts + (size_t)index;
    place_part(r->work->part_states + at * r->work->part_bytes, mka_recall_group(r), (size_t)r->job->longterm->shape.value_dim,
               &s);
    return s;
}

void mka_recall_layout(mka_recall_work *w, const mka_recall_limits *limits, int threads, mka_arena *arena) {
    pair p;
    segment s;
    part t;
    size_t rows = (size_t)limits->head_rows, heads = (size_t)limits->kv_heads;
    w->limits = *limits;
    w->segments = (limits->context + limits->segment - 1) / limits->segment;
    w->parts = MOST_PIECES + w->segments + MOST_EXTRAS;
    w->pair_bytes = place_pair(NULL, rows, (size_t)limits->key_dim, &p);
    w->segment_bytes = place_segment(NULL, rows, &s);
    w->part_bytes = place_part(NULL, rows, (size_t)limits->value_dim, &t);
    w->score_floats = 2 * rows * SCORE_LDS;
    w->thread_bytes = mka_recall_scratch(limits);
    size_t scored = (size_t)w->segments * (w->segment_bytes + w->score_floats * sizeof(float));
    size_t fit = round_bytes / (heads * (scored + (size_t)w->parts * w->part_bytes));
    w->queries = fit < 1 ? 1 : fit > MOST_QUERIES ? MOST_QUERIES : (int)fit;
    size_t pairs = (size_t)w->queries * heads;
    w->pairs = mka_arena_take(arena, pairs, w->pair_bytes);
    w->segment_states = mka_arena_take(arena, pairs * (size_t)w->segments, w->segment_bytes);
    w->scores = mka_arena_take(arena, pairs * (size_t)w->segments, w->score_floats * sizeof(float));
    w->part_states = mka_arena_take(arena, pairs * (size_t)w->parts, w->part_bytes);
    w->threads = mka_arena_take(arena, (size_t)threads, w->thread_bytes);
    w->counts = mka_arena_take(arena, pairs * (size_t)w->segments, sizeof(int));
    w->extras = mka_arena_take(arena, pairs * ((size_t)w->segments + 1), sizeof(int));
    w->starts = mka_arena_take(arena, pairs + 1, sizeof(int));
    w->turns = mka_arena_take(arena, (size_t)threads, sizeof *w->turns);
}
