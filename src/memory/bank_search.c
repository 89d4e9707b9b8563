/* bank_search - finds the entries of a bank that are nearest to what a token asks: by their signs where there are many, then a
 * short list by their rows. */
#include <math.h>
#include <string.h>

#include "bank.h"

enum { EACH = MKA_SCAN_TOKENS };

/* What one search works in; weights and rows are those of the short list. */
typedef struct search {
    float e[EACH], mass[MKA_SCAN_MASSES];
    float cosines[MKA_BANK_FEW], weights[MKA_BANK_FOUND];
    const void *rows[MKA_BANK_FEW];
    float near[MKA_BANK_SHORT]; /* a heap: the least near entry of the list stands first */
    int entries[MKA_BANK_FEW], count;
    float *x, *turned; /* [width] what is asked, less the centre, of length 1 */
    uint8_t *tables;
} search;

enum { SEARCH_BYTES = (sizeof(search) + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN };

static size_t search_row(int width) {
    return (size_t)mka_pad(width, MKA_ALIGN / (int)sizeof(float)) * sizeof(float);
}

/* A thread's search, in its part of the work. */
static search *search_at(const mka_bank_work *work, int thread, int width) {
    unsigned char *memory = work->threads + (size_t)thread * work->bytes;
    search *s = (search *)(void *)memory;
    s->x = (float *)(void *)(memory + SEARCH_BYTES);
    s->turned = (float *)(void *)(memory + SEARCH_BYTES + search_row(width));
    s->tables = memory + SEARCH_BYTES + 2 * search_row(width);
    return s;
}

void mka_bank_layout(mka_bank_work *work, int width, int threads, mka_arena *arena) {
    work->bytes = SEARCH_BYTES + 2 * search_row(width) + mka_scan_tables_bytes(1, width);
    work->threads = mka_arena_take(arena, (size_t)threads, work->bytes);
}

/* Puts an entry in place of the heap's first one. */
static void sink(search *s, float near, int entry) {
    int at = 0;
    for (int child; (child = 2 * at + 1) < s->count; at = child) {
        if (child + 1 < s->count && s->near[child + 1] < s->near[child]) child++;
        if (!(s->near[child] < near)) break;
        s->near[at] = s->near[child];
        s->entries[at] = s->entries[child];
    }
    s->near[at] = near;
    s->entries[at] = entry;
}

static void consider(search *s, float near, int entry) {
    if (s->count == MKA_BANK_SHORT) {
        if (near > s->near[0]) sink(s, near, entry);
        return;
    }
    int at = s->count++;
    for (int parent; at > 0 && near < s->near[parent = (at - 1) / 2]; at = parent) {
        s->near[at] = s->near[parent];
        s->entries[at] = s->entries[parent];
    }
    s->near[at] = near;
    s->entries[at] = entry;
}

/* The entries whose signs agree most with what is asked. */
static void scan(const mka_bank *b, const mka_kernels *kernels, search *s, int from, int to) {
    int width = b->shape.width;
    mka_scan_row row = {.floor = INFINITY};
    float slack;
    memcpy(s->turned, s->x, (size_t)width * sizeof *s->x);
    mka_turn(width, s->turned);
    mka_scan_tables(1, 0, width, s->turned, s->tables, &row.step, &row.base, &slack);
    for (int e = from; e < to;) {
        size_t slot = (size_t)e % b->slots;
        int place = (int)(slot % EACH), end = to - e < EACH - place ? to : e + EACH - place;
        kernels->scan(1, width, b->scan + slot / EACH * b->scan_block, s->tables, &row, s->e, s->mass);
        for (; e < end; e++, place++) consider(s, s->e[place], e);
    }
}

/* Moves the best entries of the list to its front, best first; one more than are found, whose cosine the weights are less. */
static void choose(search *s) {
    int wanted = s->count < MKA_BANK_FOUND + 1 ? s->count : MKA_BANK_FOUND + 1;
    for (int i = 0; i < wanted; i++) {
        int best = i;
        for (int j = i + 1; j < s->count; j++)
            if (s->cosines[j] > s->cosines[best]) best = j;
        float cosine = s->cosines[i];
        const void *row = s->rows[i];
        s->cosines[i] = s->cosines[best], s->cosines[best] = cosine;
        s->rows[i] = s->rows[best], s->rows[best] = row;
    }
}

/* Cosines of the listed entries by their rows. */
static void compare(const mka_bank *b, const mka_kernels *kernels, search *s) {
    int width = b->shape.width;
    float centre = kernels->dot(width, s->x, b->centre);
    for (int i = 0; i < s->count; i++) s->rows[i] = mka_bank_row(b, s->entries[i]);
    kernels->rows_score[MKA_F16](1, width, s->count, s->x, s->rows, 1, s->cosines, MKA_BANK_FEW);
    for (int i = 0; i < s->count; i++) {
        float length = b->lengths[(size_t)s->entries[i] % b->slots];
        s->cosines[i] = length > 0 ? (s->cosines[i] - centre) / length : 0;
    }
}

/* The mean of the best entries by their weights; all alike where no entry is nearer than the one left out. */
static void mix(const mka_bank *b, const mka_kernels *kernels, search *s, float *out) {
    int found = s->count < MKA_BANK_FOUND ? s->count : MKA_BANK_FOUND;
    float least = s->count > found ? s->cosines[found] : -1, sum = 0;
    for (int i = 0; i < found; i++) sum += s->weights[i] = s->cosines[i] - least;
    for (int i = 0; i < found; i++) s->weights[i] = sum > 1e-6F ? s->weights[i] / sum : 1 / (float)found;
    kernels->rows_mix[MKA_F16](1, b->shape.width, found, s->weights, MKA_BANK_FOUND, s->rows, out);
}

static void find_one(const mka_bank *b, const mka_kernels *kernels, search *s, int position, const float *query, float *out) {
    int width = b->shape.width, from, to = mka_bank_edge(b, position, &from);
    memset(out, 0, (size_t)width * sizeof *out);
    if (to <= from) return;
    for (int i = 0; i < width; i++) s->x[i] = query[i] - b->centre[i];
    mka_bank_normalise(width, s->x);
    s->count = 0;
    if (to - from > MKA_BANK_FEW)
        scan(b, kernels, s, from, to);
    else
        for (int e = from; e < to; e++) s->entries[s->count++] = e;
    compare(b, kernels, s);
    choose(s);
    mix(b, kernels, s, out);
}

typedef struct find_task {
    const mka_bank *bank;
    const mka_bank_work *work;
    const mka_kernels *kernels;
    int first, n, stride;
    const float *queries, *weights;
    float *out;
} find_task;

static int wanted(const find_task *t, int i) {
    return !t->weights || t->weights[(size_t)i * (size_t)t->stride] != 0;
}

static void find_share(void *argument, int thread, int threads) {
    const find_task *t = argument;
    int width = t->bank->shape.width;
    search *s = search_at(t->work, thread, width);
    for (int i = thread; i < t->n; i += threads) {
        size_t at = (size_t)i * (size_t)width;
        if (wanted(t, i))
            find_one(t->bank, t->kernels, s, t->first + i, t->queries + at, t->out + at);
        else
            memset(t->out + at, 0, (size_t)width * sizeof *t->out);
    }
}

uint64_t mka_bank_find_bytes(const mka_bank *b, int position) {
    int from, to = mka_bank_edge(b, position, &from), count = to - from;
    if (count <= 0) return 0;
    if (count <= MKA_BANK_FEW) return (uint64_t)count * b->row;
    return (uint64_t)count * b->scan_block / EACH + MKA_BANK_SHORT * b->row;
}

uint64_t mka_bank_find(const mka_bank *b, const mka_bank_work *work, mka_ops *ops, int first, int n, const float *queries,
                       const float *weights, int stride, int alone, float *out) {
    find_task task = {b, work, ops->kernels, first, n, stride, queries, weights, out};
    uint64_t bytes = 0;
    if (alone)
        find_share(&task, 0, 1);
    else
        mka_pool_run(ops->pool, find_share, &task);
    for (int i = 0; i < n; i++) bytes += wanted(&task, i) ? mka_bank_find_bytes(b, first + i) : 0;
    return bytes;
}
