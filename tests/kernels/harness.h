/* harness - what the kernel tests share: random parameters from one seed, buffers between guard bytes, levels in turn, and
 * failures that print all of it. Set MKA_TEST_SEED to try other parameters, MKA_TEST_ROUNDS to try more of them, and
 * MKA_TEST_LEVELS (names with blanks between) to test these levels alone. */
#ifndef MKA_TESTS_KERNELS_HARNESS_H
#define MKA_TESTS_KERNELS_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define EPS 5.9604645e-8 /* half a unit in the last place of 1: one rounding */

static uint64_t test_seed, test_state;
static char test_case[256]; /* parameters of the running case */

static inline int test_rounds(void) {
    const char *text = getenv("MKA_TEST_ROUNDS");
    return text && atoi(text) > 0 ? atoi(text) : 1;
}

static inline void seed_random(void) {
    const char *text = getenv("MKA_TEST_SEED");
    test_seed = text ? strtoull(text, NULL, 0) : 1;
    test_state = test_seed * 0x9e3779b97f4a7c15u + 0x1234567u;
}

static inline uint64_t random_bits(void) {
    test_state ^= test_state << 13;
    test_state ^= test_state >> 7;
    test_state ^= test_state << 17;
    return test_state * 0x2545f4914f6cdd1du;
}

static inline int random_int(int low, int high) {
    return low + (int)((random_bits() >> 33) % (uint64_t)(high - low + 1));
}

static inline float random_unit(void) {
    return (float)((double)(random_bits() >> 40) * 0x1p-23 - 1.0);
}

/* Sizes of all kinds: empty, tails of every vector width, a few hundred. */
static inline int random_size(void) {
    int kind = random_int(0, 9);
    return kind == 0 ? 0 : kind < 5 ? random_int(1, 40) : kind < 9 ? random_int(41, 400) : 64 * random_int(1, 40);
}

enum { PLAIN, SPREAD, TINY, LARGE, KINDS };

static inline float random_float(int kind) {
    float x = random_unit();
    if (kind == SPREAD) return x * ldexpf(1.0f, random_int(-20, 20));
    if (kind == TINY) return x * 1e-39f; /* denormal */
    if (kind == LARGE) return x * 1e4f;
    return x;
}

static inline void fill(int n, float *x, int kind) {
    for (int i = 0; i < n; i++) x[i] = random_float(kind);
}

__attribute__((format(printf, 1, 2))) static inline void case_is(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(test_case, sizeof test_case, format, list);
    va_end(list);
}

__attribute__((format(printf, 1, 2))) static inline void wrong(const char *format, ...) {
    char text[256];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    fail_msg("seed %llu: %s: %s", (unsigned long long)test_seed, test_case, text);
}

/* ---- buffers with guards: GUARD bytes of a pattern on both sides, at a chosen distance from alignment ---- */

enum { GUARD = 64, BUFFERS = 32 };
typedef struct {
    unsigned char *base;
    size_t bytes, start;
} guarded;
static guarded test_buffers[BUFFERS];
static int test_buffer_count;

static inline void *buffer(size_t bytes, size_t align) {
    assert_true(test_buffer_count < BUFFERS);
    guarded *g = &test_buffers[test_buffer_count++];
    g->bytes = bytes;
    g->start = GUARD + align * (size_t)random_int(0, (int)(32 / align));
    g->base = malloc(g->start + bytes + GUARD);
    assert_non_null(g->base);
    memset(g->base, 0xa5, g->start + bytes + GUARD);
    return g->base + g->start;
}

/* n floats at any float's address. */
static inline float *floats(int n) {
    return buffer((size_t)n * sizeof(float), sizeof(float));
}

static inline float *random_floats(int n, int kind) {
    float *x = floats(n);
    fill(n, x, kind);
    return x;
}

static inline float *copy_floats(int n, const float *from) {
    float *x = floats(n);
    if (n) memcpy(x, from, (size_t)n * sizeof *x);
    return x;
}

/* Checks all guards and frees all buffers. */
static inline void release(void) {
    for (int i = 0; i < test_buffer_count; i++) {
        guarded *g = &test_buffers[i];
        for (size_t k = 0; k < g->start; k++)
            if (g->base[k] != 0xa5) wrong("byte %zu before buffer %d was written", g->start - k, i);
        for (size_t k = 0; k < GUARD; k++)
            if (g->base[g->start + g->bytes + k] != 0xa5) wrong("byte %zu after buffer %d was written", k, i);
        free(g->base);
    }
    test_buffer_count = 0;
}

/* ---- comparing ---- */

static inline void near_value(const char *what, int i, float got, double want, double tolerance) {
    if (isnan(want) ? isnan(got) : fabs((double)got - want) <= tolerance) return;
    if (isinf(want) && (double)got == want) return;
    wrong("%s[%d] is %.9g, should be %.9g, off by %.3g, allowed %.3g", what, i, (double)got, want, (double)got - want, tolerance);
}

static inline void same_bytes(const char *what, const void *got, const void *want, size_t bytes) {
    const unsigned char *a = got, *b = want;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i]) wrong("%s differs from scalar at byte %zu: %02x, should be %02x", what, i, a[i], b[i]);
}

static inline const mka_kernels *scalar(void) {
    const mka_kernels *k = mka_kernels_get("scalar");
    assert_non_null(k);
    return k;
}

/* Whether the blank-separated list holds the name; a list that is NULL holds all. */
static inline int listed(const char *list, const char *name) {
    size_t length = strlen(name);
    for (const char *p = list; p && (p = strstr(p, name)); p += length)
        if ((p == list || p[-1] == ' ') && (p[length] == ' ' || p[length] == 0)) return 1;
    return !list;
}

/* Runs check for every level of this CPU, `rounds` times each with other parameters. */
static inline void each_level(void (*check)(const mka_kernels *k), int rounds) {
    const char *names[16];
    int count = mka_kernels_levels(names), tested = 0;
    assert_true(count >= 1 && count <= 16);
    test_buffer_count = 0; /* a test that failed left its buffers behind */
    for (int i = 0; i < count; i++) {
        if (!listed(getenv("MKA_TEST_LEVELS"), names[i])) continue;
        tested = 1;
        const mka_kernels *k = mka_kernels_get(names[i]);
        assert_non_null(k);
        seed_random();
        for (int round = 0; round < rounds * test_rounds(); round++) check(k);
    }
    assert_true(tested);
}

#endif
