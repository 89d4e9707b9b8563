/* instructions - runs one kernel once, for counting its instructions under an emulator that says nothing of time.
 *
 *   instructions LEVEL KERNEL TYPE N
 *
 * KERNEL is gemv (8 rows of N weights of TYPE), gemm (12 rows of N numbers times 32 rows of weights in bf16), score or mix (4
 * query rows over N tokens of width 128 in a cache of TYPE), rows_score or rows_mix (the same over N single rows), scan (4 query
 * rows over N blocks of signs; TYPE is not used), or a kernel over a row of N floats (dot, rms_norm, swiglu, softmax; nor here).
 * Everything but the kernel's loop takes as many instructions for any N, so that the difference of two runs is the loop's.
 * instructions.sh does that for all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

enum { MOST = 4096, ROWS = 8, QUERIES = 4, WIDTH = 128, TOKENS = 512, BATCH = 12 };

static _Alignas(64) char matrix[ROWS * MOST];
static _Alignas(64) char cache[TOKENS * WIDTH * 4];
static _Alignas(64) int8_t q[MOST];
static _Alignas(64) float scale[MOST / 32], a[MOST], b[MOST], y[MOST], s[QUERIES * TOKENS], acc[QUERIES * WIDTH];
static int16_t sum[MOST / 16];
static _Alignas(64) char panel[MKA_PANEL_BYTES(MKA_PANEL_K)];
static _Alignas(64) uint16_t batch[BATCH * MKA_PANEL_K];

static int attention(const mka_kernels *k, int mix, mka_type type, int n) {
    if (n > TOKENS || n < 1 || !k->score[type]) return 0;
    if (mix)
        k->mix[type](QUERIES, WIDTH, n, s, TOKENS, cache, a, acc);
    else
        k->score[type](QUERIES, WIDTH, n, a, cache, 1.0f, s, TOKENS);
    return 1;
}

static int recall(const mka_kernels *k, int mix, mka_type type, int n) {
    static const void *rows[TOKENS];
    if (n > TOKENS || !k->rows_score[type]) return 0;
    for (int t = 0; t < TOKENS; t++) rows[t] = cache + (size_t)t * mka_row_bytes(type, WIDTH);
    if (mix)
        k->rows_mix[type](QUERIES, WIDTH, n, s, TOKENS, rows, acc);
    else
        k->rows_score[type](QUERIES, WIDTH, n, a, rows, 1.0f, s, TOKENS);
    return 1;
}

static void scan(const mka_kernels *k, int n) {
    static const uint8_t tables[WIDTH / 8 * QUERIES * 32];
    static const mka_scan_row rows[QUERIES];
    float mass[QUERIES * MKA_SCAN_MASSES];
    for (int block = 0; block < n; block++) k->scan(QUERIES, WIDTH, cache, tables, rows, s, mass);
}

static int run(const mka_kernels *k, const char *kernel, mka_type type, int n) {
    mka_q8_row x = {q, scale, sum};
    if (strcmp(kernel, "gemv") == 0 && mka_type_row_bytes(type, n) && k->gemv_q8[type])
        k->gemv_q8[type](ROWS, n, matrix, mka_type_row_bytes(type, MOST / 2), &x, y);
    else if (strcmp(kernel, "score") == 0 || strcmp(kernel, "mix") == 0)
        return attention(k, kernel[0] == 'm', type, n);
    else if (strcmp(kernel, "rows_score") == 0 || strcmp(kernel, "rows_mix") == 0)
        return recall(k, kernel[5] == 'm', type, n);
    else if (strcmp(kernel, "scan") == 0)
        scan(k, n);
    else if (strcmp(kernel, "gemm") == 0 && n <= MKA_PANEL_K && k->gemm_bf16)
        k->gemm_bf16(BATCH, MKA_PANEL_ROWS, n, batch, MKA_PANEL_K, panel, 0, a, MKA_PANEL_ROWS);
    else if (strcmp(kernel, "dot") == 0)
        y[0] = k->dot(n, a, b);
    else if (strcmp(kernel, "rms_norm") == 0)
        k->rms_norm(n, 1e-5f, a, b, y);
    else if (strcmp(kernel, "swiglu") == 0)
        k->swiglu(n, a, b, y);
    else if (strcmp(kernel, "softmax") == 0)
        k->softmax(n, a);
    else
        return 0;
    return 1;
}

int main(int argc, char **argv) {
    int n = argc == 5 ? atoi(argv[4]) : 0;
    if (n < 1 || n > MOST / 2) {
        fprintf(stderr, "usage: instructions LEVEL KERNEL TYPE N\n");
        return 2;
    }
    const mka_kernels *k = mka_kernels_get(argv[1]);
    mka_type type = mka_type_from_name(argv[3]);
    memset(cache, 0x3c, sizeof cache); /* something above zero in every type; even weights, as attention mostly has them */
    for (int i = 0; i < QUERIES * TOKENS; i++) s[i] = 1.0f;
    if (!k || type == MKA_TYPE_LIMIT || !run(k, argv[2], type, n)) {
        fprintf(stderr, "instructions: there is no %s of %s at level %s here\n", argv[2], argv[3], argv[1]);
        return 1;
    }
    return 0;
}
