/* cluster - see cluster.h. */
#include "cluster.h"

#include <math.h>
#include <string.h>

enum { ROWS = 64, LDS = MKA_CLUSTERS_MOST + 16, MOVES = 2 };

typedef struct work {
    const mka_kernels *kernels;
    int tokens, clusters, dim, key_dim;
    const float *points;
    float *centroids;              /* [clusters][dim] */
    unsigned char *tiles;          /* the same times the scales, in bf16, as keys of a cache */
    float *products;               /* [ROWS][LDS] */
    float half[MKA_CLUSTERS_MOST]; /* half the scaled square of a centroid */
    float scale[2];                /* of squares: 1 / variance of keys, of values */
    uint16_t *nearest;             /* [tokens] */
} work;

static size_t align(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static size_t tiles_bytes(int clusters, int dim) {
    return (size_t)clusters / MKA_TILE * mka_key_tile_bytes(MKA_BF16, dim);
}

size_t mka_cluster_scratch(int tokens, int key_dim, int value_dim) {
    size_t dim = (size_t)(key_dim + value_dim), clusters = (size_t)tokens / MKA_CLUSTER_TOKENS;
    return align(clusters * dim * sizeof(float)) + tiles_bytes((int)clusters, (int)dim) + align(ROWS * LDS * sizeof(float)) +
           align((size_t)tokens * sizeof(uint16_t));
}

/* 1 / variance of the numbers from..to-1 of all points; 0 where they are all alike, or not finite. */
static float inverse_variance(const work *w, int from, int to) {
    double sum = 0, squares = 0, count = (double)w->tokens * (to - from);
    for (int t = 0; t < w->tokens; t++)
        for (int i = from; i < to; i++) {
            double x = (double)w->points[(size_t)t * (size_t)w->dim + (size_t)i];
            sum += x, squares += x * x;
        }
    double variance = squares / count - sum / count * (sum / count);
    return variance > 1e-30 && isfinite(variance) ? (float)(1 / variance) : 0.0F;
}

static void start_centroids(work *w) {
    for (size_t c = 0; c < (size_t)w->clusters; c++) {
        size_t token = c * MKA_CLUSTER_TOKENS + MKA_CLUSTER_TOKENS / 2;
        memcpy(w->centroids + c * (size_t)w->dim, w->points + token * (size_t)w->dim, (size_t)w->dim * sizeof(float));
    }
}

/* Centroids become the means of their tokens; one without tokens stays where it is. */
static void move_centroids(work *w) {
    uint16_t count[MKA_CLUSTERS_MOST] = {0};
    size_t dim = (size_t)w->dim;
    for (int t = 0; t < w->tokens; t++) {
        float *centroid = w->centroids + w->nearest[t] * dim;
        if (count[w->nearest[t]]++ == 0) memset(centroid, 0, dim * sizeof(float));
        w->kernels->add(w->dim, w->points + (size_t)t * dim, centroid);
    }
    for (size_t c = 0; c < (size_t)w->clusters; c++)
        for (size_t i = 0; i < dim && count[c] > 1; i++) w->centroids[c * dim + i] /= (float)count[c];
}

static void scale_centroids(work *w) {
    size_t tile = mka_key_tile_bytes(MKA_BF16, w->dim);
    for (int c = 0; c < w->clusters; c++) {
        float scaled[2 * 256], *x = w->centroids + (size_t)c * (size_t)w->dim;
        for (int i = 0; i < w->dim; i++) scaled[i] = x[i] * w->scale[i >= w->key_dim];
        w->half[c] = 0.5F * w->kernels->dot(w->dim, scaled, x);
        mka_put_key(MKA_BF16, w->kernels->store[MKA_BF16], w->dim, scaled, w->tiles + (size_t)(c / MKA_TILE) * tile,
                    c % MKA_TILE);
    }
}

/* The nearest centroid is the one whose product less half its square is largest. */
static uint16_t best_of(const work *w, const float *products) {
    uint16_t best = 0;
    float most = -INFINITY;
    for (int c = 0; c < w->clusters; c++) {
        float value = products[c] - w->half[c];
        if (value > most) most = value, best = (uint16_t)c;
    }
    return best;
}

static void assign(work *w) {
    scale_centroids(w);
    for (int from = 0; from < w->tokens; from += ROWS) {
        w->kernels->score[MKA_BF16](ROWS, w->dim, w->clusters, w->points + (size_t)from * (size_t)w->dim, w->tiles, 1.0F,
                                    w->products, LDS);
        for (int t = 0; t < ROWS; t++) w->nearest[from + t] = best_of(w, w->products + (size_t)t * LDS);
    }
}

static void sort_tokens(const work *w, uint16_t *order, uint16_t *start) {
    uint16_t at[MKA_CLUSTERS_MOST];
    memset(start, 0, ((size_t)w->clusters + 1) * sizeof *start);
    for (int t = 0; t < w->tokens; t++) start[w->nearest[t] + 1]++;
    for (int c = 0; c < w->clusters; c++) {
        at[c] = start[c];
        start[c + 1] = (uint16_t)(start[c + 1] + start[c]);
    }
    for (int t = 0; t < w->tokens; t++) order[at[w->nearest[t]]++] = (uint16_t)t;
}

void mka_cluster(const mka_kernels *kernels, int tokens, int key_dim, int value_dim, const float *points, void *scratch,
                 uint16_t *order, uint16_t *start) {
    size_t dim = (size_t)(key_dim + value_dim);
    unsigned char *bytes = scratch;
    work w = {.kernels = kernels,
              .tokens = tokens,
              .clusters = tokens / MKA_CLUSTER_TOKENS,
              .dim = key_dim + value_dim,
              .key_dim = key_dim,
              .points = points};
    w.centroids = (float *)scratch;
    w.tiles = bytes + align((size_t)w.clusters * dim * sizeof(float));
    w.products = (float *)(void *)(w.tiles + tiles_bytes(w.clusters, w.dim));
    w.nearest = (uint16_t *)(void *)((unsigned char *)w.products + align(ROWS * LDS * sizeof(float)));
    w.scale[0] = inverse_variance(&w, 0, key_dim);
    w.scale[1] = inverse_variance(&w, key_dim, w.dim);
    start_centroids(&w);
    assign(&w);
    for (int i = 0; i < MOVES; i++) {
        move_centroids(&w);
        assign(&w);
    }
    sort_tokens(&w, order, start);
}
