/* bench_kernels - times every kernel at every level of this CPU, one thread.
 *
 *   bench_kernels [--level NAME] [--only TEXT] [--bytes N] [--seconds S]
 *
 * A line a measurement: kernel, level, GB/s of the bytes that the kernel must read and write, GFLOP/s of the operations of its
 * formula, median microseconds of a call, spread (largest over smallest). --bytes is the size of the matrix or cache that a
 * call streams over (default 4 MiB: beyond the second-level cache of most machines, within the third); rows of vectors are
 * 4096 floats; recalled rows are 512 of all over it. The first line is what this thread can read in the same place with the
 * plainest loop there is. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels.h"

enum { ROW = 4096, SAMPLES = 15, WIDTH = 2048, HEAD = 128, GROUP = 8, BLOCK = 256, RECALLED = 512 /* rows a call */ };

typedef struct {
    const mka_kernels *k;
    mka_type type;
    int n;        /* elements of a row */
    int rows;     /* of the matrix or cache */
    int r;        /* query rows */
    char *matrix; /* streamed */
    float *a, *b, *c, *s, *acc;
    mka_q8_row q8;
} work;

typedef struct {
    const char *name;
    void (*call)(work *w);
    double bytes, flops; /* of one call */
} job;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* SAMPLES timings of as many calls as take a share of `seconds`. */
static void measure(const job *j, const char *level, work *w, double seconds) {
    double samples[SAMPLES];
    long calls = 1;
    for (;;) {
        double start = now();
        for (long i = 0; i < calls; i++) j->call(w);
        double took = now() - start;
        if (took > seconds / SAMPLES / 4) {
            calls = (long)((double)calls * seconds / SAMPLES / took) + 1;
            break;
        }
        calls *= 4;
    }
    for (int s = 0; s < SAMPLES; s++) {
        double start = now();
        for (long i = 0; i < calls; i++) j->call(w);
        samples[s] = (now() - start) / (double)calls;
    }
    qsort(samples, SAMPLES, sizeof samples[0], compare);
    double median = samples[SAMPLES / 2];
    printf("%-18s %-7s %8.2f GB/s %8.2f GFLOP/s %10.2f us  x%.2f\n", j->name, level, j->bytes / median * 1e-9,
           j->flops / median * 1e-9, median * 1e6, samples[SAMPLES - 1] / samples[0]);
}

static volatile uint64_t sink;

static void call_read(work *w) {
    const uint64_t *p = (const void *)w->matrix;
    uint64_t s[8] = {0};
    size_t count = mka_type_row_bytes(w->type, w->n) * (size_t)w->rows / 64;
    for (size_t i = 0; i < count; i++)
        for (int l = 0; l < 8; l++) s[l] += p[8 * i + (size_t)l];
    for (int l = 0; l < 8; l++) sink += s[l];
}
static void call_dot(work *w) {
    w->s[0] = w->k->dot(ROW, w->a, w->b);
}
static void call_axpy(work *w) {
    w->k->axpy(ROW, 1e-9f, w->a, w->b);
}
static void call_add(work *w) {
    w->k->add(ROW, w->c, w->b);
}
static void call_softmax(work *w) {
    w->k->softmax(ROW, w->b);
}
static void call_rms_norm(work *w) {
    w->k->rms_norm(ROW, 1e-5f, w->a, w->b, w->s);
}
static void call_rope_half(work *w) {
    w->k->rope_half(ROW / 2, w->b, w->c, w->c + ROW / 2);
}
static void call_rope_pairs(work *w) {
    w->k->rope_pairs(ROW / 2, w->b, w->c, w->c + ROW / 2);
}
static void call_swiglu(work *w) {
    w->k->swiglu(ROW, w->a, w->b, w->s);
}
static void call_geglu(work *w) {
    w->k->geglu(ROW, w->a, w->b, w->s);
}
static void call_gelu(work *w) {
    memcpy(w->s, w->a, ROW * sizeof(float));
    w->k->gelu(ROW, w->s);
}
static void call_ema(work *w) {
    w->k->ema(ROW, 0.9f, w->a, w->b);
}
static void call_fuse(work *w) {
    const float lambda[3] = {0.5f, 0.25f, 0.25f}, *rows[3] = {w->a, w->b, w->c};
    w->k->fuse(3, ROW, lambda, rows, w->s);
}
static void call_quantize(work *w) {
    w->k->quantize(ROW, w->a, &w->q8);
}
/* Scores are written back before each call, as online overwrites them. */
static void call_online(work *w) {
    float m[GROUP], z[GROUP], c[GROUP];
    for (int i = 0; i < GROUP; i++) m[i] = 0, z[i] = 1;
    memcpy(w->s, w->a, ROW * sizeof(float));
    w->k->online(GROUP, ROW / GROUP, w->s, ROW / GROUP, m, z, c);
}

/* Through the whole cache in blocks, as attention goes. */
static void call_score(work *w) {
    size_t tile = mka_key_tile_bytes(w->type, HEAD);
    for (int t = 0; t < w->rows; t += BLOCK)
        w->k->score[w->type](w->r, HEAD, BLOCK, w->a, w->matrix + (size_t)(t / MKA_TILE) * tile, 0.1f, w->s, BLOCK);
}
static void call_mix(work *w) {
    size_t tile = mka_value_tile_bytes(w->type, HEAD);
    for (int t = 0; t < w->rows; t += BLOCK)
        w->k->mix[w->type](w->r, HEAD, BLOCK, w->b, BLOCK, w->matrix + (size_t)(t / MKA_TILE) * tile, w->c, w->acc);
}
/* Through all blocks, as recall does. Codes are zeros, factors too: 2^shift is every token's weight, and none is wanted. */
static void call_scan(work *w) {
    const mka_scan_row row = {.step = 0.01f, .base = -1, .curve = 0.1f, .shift = -10, .margin = 1, .floor = 0};
    static const uint8_t tables[HEAD / 8 * GROUP * 32];
    mka_scan_row rows[GROUP];
    size_t block = mka_scan_block_bytes(HEAD);
    for (int i = 0; i < w->r; i++) rows[i] = row;
    for (int b = 0; b < w->rows; b++) sink += w->k->scan(w->r, HEAD, w->matrix + (size_t)b * block, tables, rows, w->s, w->acc);
}
/* RECALLED rows of the cache, far apart and in no order. */
static void recalled(const work *w, const void **rows) {
    size_t bytes = mka_row_bytes(w->type, HEAD);
    for (int t = 0; t < RECALLED; t++) rows[t] = w->matrix + (size_t)((unsigned)t * 2654435761u % (unsigned)w->rows) * bytes;
}
static void call_rows_score(work *w) {
    const void *rows[RECALLED];
    recalled(w, rows);
    w->k->rows_score[w->type](w->r, HEAD, RECALLED, w->a, rows, 0.1f, w->s, RECALLED);
}
static void call_rows_mix(work *w) {
    const void *rows[RECALLED];
    recalled(w, rows);
    w->k->rows_mix[w->type](w->r, HEAD, RECALLED, w->b, RECALLED, rows, w->acc);
}
static void call_gemv_f32(work *w) {
    w->k->gemv_f32[w->type](w->rows, w->n, w->matrix, mka_type_row_bytes(w->type, w->n), w->a, w->s);
}
static void call_gemv_q8(work *w) {
    w->k->gemv_q8[w->type](w->rows, w->n, w->matrix, mka_type_row_bytes(w->type, w->n), &w->q8, w->s);
}
static void call_load(work *w) {
    w->k->load[w->type](w->n, w->matrix, w->s);
}
static void call_store(work *w) {
    w->k->store[w->type](ROW, w->a, w->matrix);
}

/* bytes and operations an element of a row of ROW */
static const job row_jobs[] = {
    {"dot", call_dot, 8, 2},
    {"axpy", call_axpy, 12, 2},
    {"add", call_add, 12, 1},
    {"softmax", call_softmax, 8, 4},
    {"rms_norm", call_rms_norm, 12, 4},
    {"rope_half", call_rope_half, 12, 3},
    {"rope_pairs", call_rope_pairs, 12, 3},
    {"swiglu", call_swiglu, 12, 5},
    {"geglu", call_geglu, 12, 9},
    {"gelu", call_gelu, 8, 4},
    {"ema", call_ema, 12, 3},
    {"fuse3", call_fuse, 16, 5},
    {"quantize", call_quantize, 5, 3},
    {"online8", call_online, 8, 4},
};

typedef struct {
    const char *level, *only;
    double bytes, seconds;
} options;

static void run(const options *o, const char *name, work *w, void (*call)(work *), double bytes, double flops) {
    if (o->only && !strstr(name, o->only)) return;
    measure(&(job){name, call, bytes, flops}, w->k->level, w, o->seconds);
}

static void bench_type(const options *o, work *w, mka_type type) {
    char name[64];
    const char *text = mka_type_name(type);
    double row = (double)mka_type_row_bytes(type, WIDTH);
    w->type = type;
    w->n = WIDTH;
    w->rows = (int)(o->bytes / row);
    double all = row * w->rows, count = (double)WIDTH * w->rows;
    if (w->k->gemv_q8[type]) {
        snprintf(name, sizeof name, "gemv_q8 %s", text);
        run(o, name, w, call_gemv_q8, all, 2 * count);
    }
    if (w->k->gemv_f32[type]) {
        snprintf(name, sizeof name, "gemv_f32 %s", text);
        run(o, name, w, call_gemv_f32, all, 2 * count);
    }
    snprintf(name, sizeof name, "load %s", text);
    run(o, name, w, call_load, row + WIDTH * 4.0, WIDTH);
    if (w->k->store[type]) {
        snprintf(name, sizeof name, "store %s", text);
        run(o, name, w, call_store, 4.0 * ROW + (double)mka_type_row_bytes(type, ROW), ROW);
    }
    const int groups[] = {1, 7, 42};
    for (int i = 0; i < 3 && w->k->score[type]; i++) {
        w->r = groups[i];
        for (int mix = 0; mix < 2; mix++) {
            size_t tile = mix ? mka_value_tile_bytes(type, HEAD) : mka_key_tile_bytes(type, HEAD);
            w->rows = ((int)(o->bytes / (double)tile) * MKA_TILE + BLOCK - 1) / BLOCK * BLOCK;
            snprintf(name, sizeof name, "%s %s r=%d", mix ? "mix" : "score", text, w->r);
            run(o, name, w, mix ? call_mix : call_score, (double)tile * w->rows / MKA_TILE, 2.0 * w->rows * HEAD * w->r);
        }
    }
}

/* What recall does: GB/s are those of the plane or of the rows; operations of a scan are the numbers whose signs it sums. */
static void bench_recall(const options *o, work *w) {
    const int groups[] = {1, 7};
    char name[64];
    for (int i = 0; i < 2; i++) {
        w->r = groups[i];
        w->rows = (int)(o->bytes / (double)mka_scan_block_bytes(HEAD));
        snprintf(name, sizeof name, "scan r=%d", w->r);
        double tokens = (double)w->rows * MKA_SCAN_TOKENS;
        run(o, name, w, call_scan, (double)mka_scan_block_bytes(HEAD) * w->rows, tokens * w->r * HEAD);
        for (int t = 0; t < MKA_TYPE_LIMIT; t++) {
            w->type = (mka_type)t;
            if (!w->k->rows_score[t]) continue;
            double row = (double)mka_row_bytes(w->type, HEAD);
            w->rows = (int)(o->bytes / row);
            snprintf(name, sizeof name, "rows_score %s r=%d", mka_type_name(w->type), w->r);
            run(o, name, w, call_rows_score, row * RECALLED, 2.0 * RECALLED * HEAD * w->r);
            snprintf(name, sizeof name, "rows_mix %s r=%d", mka_type_name(w->type), w->r);
            run(o, name, w, call_rows_mix, row * RECALLED, 2.0 * RECALLED * HEAD * w->r);
        }
    }
}

static void bench_level(const options *o, work *w) {
    bench_recall(o, w);
    for (size_t i = 0; i < sizeof row_jobs / sizeof row_jobs[0]; i++)
        run(o, row_jobs[i].name, w, row_jobs[i].call, row_jobs[i].bytes * ROW, row_jobs[i].flops * ROW);
    for (int t = 0; t < MKA_TYPE_LIMIT; t++)
        if (mka_type_get((mka_type)t)->weight) bench_type(o, w, (mka_type)t);
}

/* Zero blocks are as good as any: no kernel here takes longer over other numbers. */
static int make_work(work *w, double bytes) {
    size_t matrix = (size_t)bytes + (1u << 20),
           floats = (size_t)bytes / 512 + 512 * 64 + ROW; /* the last rows of 42 by BLOCK or HEAD fit too */
    w->matrix = aligned_alloc(64, (matrix + 63) / 64 * 64);
    float **rows[] = {&w->a, &w->b, &w->c, &w->s, &w->acc};
    for (int i = 0; i < 5; i++) {
        *rows[i] = aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
        if (!*rows[i]) return 0;
        for (size_t k = 0; k < floats; k++) (*rows[i])[k] = (float)(k % 31) * 0.01f;
    }
    w->q8 = (mka_q8_row){aligned_alloc(64, ROW), aligned_alloc(64, ROW), aligned_alloc(64, ROW)};
    if (!w->matrix || !w->q8.q || !w->q8.scale || !w->q8.sum) return 0;
    memset(w->matrix, 0, matrix);
    return 1;
}

static void free_work(work *w) {
    free(w->matrix);
    free(w->a);
    free(w->b);
    free(w->c);
    free(w->s);
    free(w->acc);
    free(w->q8.q);
    free(w->q8.scale);
    free(w->q8.sum);
}

static int parse(int argc, char **argv, options *o) {
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--level") == 0)
            o->level = argv[i + 1];
        else if (strcmp(argv[i], "--only") == 0)
            o->only = argv[i + 1];
        else if (strcmp(argv[i], "--bytes") == 0)
            o->bytes = atof(argv[i + 1]);
        else if (strcmp(argv[i], "--seconds") == 0)
            o->seconds = atof(argv[i + 1]);
        else
            return 0;
    }
    return argc % 2 == 1 && o->bytes >= 65536 && o->bytes <= 1e10 && o->seconds > 0;
}

int main(int argc, char **argv) {
    options o = {NULL, NULL, 4 << 20, 0.1};
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "usage: bench_kernels [--level NAME] [--only TEXT] [--bytes N] [--seconds S]\n");
        return 2;
    }
    work w = {0};
    int status = 1;
    if (!make_work(&w, o.bytes)) {
        fprintf(stderr, "bench_kernels: not enough memory for --bytes %.0f\n", o.bytes);
        goto done;
    }
    const char *names[16];
    int count = mka_kernels_levels(names), found = 0;
    w.type = MKA_F32;
    w.n = WIDTH;
    w.rows = (int)(o.bytes / 4 / WIDTH);
    measure(&(job){"read", call_read, 4.0 * WIDTH * w.rows, 0}, "-", &w, o.seconds);
    for (int i = 0; i < count; i++) {
        if (o.level && strcmp(o.level, names[i]) != 0) continue;
        w.k = mka_kernels_get(names[i]);
        mka_q8_row *q8 = &w.q8;
        w.k->quantize(ROW, w.a, q8);
        bench_level(&o, &w);
        found = 1;
    }
    if (!found) fprintf(stderr, "bench_kernels: no level %s on this CPU\n", o.level);
    status = !found;
done:
    free_work(&w);
    return status;
}
