/* recall_batch_estimate - the first half of recall for a block of queries: scores against the centroids, the choice of clusters,
 * and mean values for those that are not read. */
#include <math.h>
#include <string.h>

#include "recall_batch_parts.h"

/* Logarithm, to 0.03: the exponent and the mantissa of a float, as they are. */
static float rough_log(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return ((float)(int32_t)bits - (127.0F * 0x1p23F - 366393.0F)) * (0.69314718F * 0x1p-23F);
}

/* Square root, to 4 %: the halves of exponent and mantissa, as they are. Both are what compilers make vectors of. */
static float rough_root(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits >> 1) + 0x1fbd1df5U;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A segment's clusters as score and mix take them. */
typedef struct clusters {
    const mka_directory *directory;
    const float *channels, *middle;
    const unsigned char *keys, *means; /* tiles, of the type */
    unsigned char *index;
    mka_type type;
    size_t mean_tile;
    unsigned read; /* tiles of means, a bit each, that were; as BF16 they are made when they first are */
} clusters;

static clusters clusters_of(block *b, int number) {
    mka_longterm *l = b->batch->job->longterm;
    const mka_kernels *kernels = b->batch->ops->kernels;
    unsigned char *index = mka_longterm_index(l, b->head, number);
    clusters c = {.directory = mka_longterm_directory(l, index),
                  .channels = mka_longterm_channels(l, index),
                  .middle = mka_longterm_middle(l, index),
                  .keys = index,
                  .means = mka_longterm_means(l, index),
                  .index = index,
                  .type = MKA_Q8_0,
                  .mean_tile = l->mean_tile};
    if (!kernels->widen_keys || l->shape.key_dim % 32 || l->shape.value_dim % 32) return c;
    kernels->widen_keys(l->shape.key_dim, l->tiles, index, b->keys);
    c.keys = b->keys;
    c.means = b->values;
    c.type = MKA_BF16;
    c.mean_tile = mka_value_tile_bytes(MKA_BF16, l->shape.value_dim);
    return c;
}

/* Scores of one head's queries become weights, the totals grow, and wanted gets the clusters that the queries want together. */
static void estimate_head(block *b, const clusters *of, int h, uint64_t wanted[WORDS]) {
    const mka_longterm *l = b->batch->job->longterm;
    const mka_kernels *kernels = b->batch->ops->kernels;
    int d = l->shape.key_dim, row = h * b->n;
    float gain = sqrtf(kernels->dot(d, b->power + (size_t)h * (size_t)d, of->channels)), each = 1 / (float)b->n;
    kernels->score[of->type](b->n, d, l->clusters, b->x + (size_t)row * (size_t)d, of->keys, 1.0F, b->s, LDS);
    memset(b->bias, 0, (size_t)l->clusters * sizeof *b->bias);
    kernels->weigh(l->clusters, 0, gain, of->directory->deviation, of->directory->log_count, b->bias);
    kernels->estimate(b->n, l->clusters, b->bias, b->s, LDS, b->m + row, b->total + row, b->c, b->squares);
    for (int c = 0; c < l->clusters; c++) b->shares[c] = 0.5F * rough_log(b->squares[c] * each);
    memset(wanted, 0, WORDS * sizeof *wanted);
    for (int first = 0; first < l->clusters; first += 64)
        wanted[first / 64] =
            kernels->above(l->clusters - first < 64 ? l->clusters - first : 64, b->shares + first, gain,
                           of->directory->deviation + first, of->directory->worth + first, logf(b->batch->change) - logf(gain));
    for (int c = 0; c < l->clusters; c++) b->kept[c] = 1;
    for (int w = 0; w < WORDS; w++)
        for (uint64_t bits = wanted[w]; bits; bits &= bits - 1) b->kept[64 * w + __builtin_ctzll(bits)] = 0;
}

/* Brings a head's sums to its present maxima. */
static void rescale(block *b, int h) {
    size_t dim = (size_t)b->batch->job->longterm->shape.value_dim;
    for (int i = 0, row = h * b->n; i < b->n; i++, row++) {
        float *acc = b->acc + (size_t)row * dim;
        if (b->c[i] == 1) continue;
        b->z[row] *= b->c[i];
        b->unread[row] *= b->c[i];
        for (size_t e = 0; e < dim; e++) acc[e] *= b->c[i];
    }
}

/* The tiles, a bit each, of which the queries together give the clusters that they do not read a share that counts. */
static unsigned tiles_that_count(const block *b, int tiles) {
    float least = b->batch->change * MKA_RECALL_TILE * sqrtf((float)b->n);
    unsigned bits = 0;
    for (int tile = 0; tile < tiles; tile++) {
        const float *kept = b->kept + (ptrdiff_t)tile * MKA_TILE, *squares = b->squares + (ptrdiff_t)tile * MKA_TILE;
        float part[8] = {0};
        for (int c = 0; c < MKA_TILE; c += 8)
            for (int i = 0; i < 8; i++) part[i] += kept[c + i] * rough_root(squares[c + i]);
        float sum = ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
        bits |= (unsigned)!(sum <= least) << tile;
    }
    return bits;
}

/* Weights of tiles from..to - 1 times the mean values of their clusters; where these hardly count, the weights are added to
 * rest. */
static void mix_tiles(block *b, clusters *of, int h, int from, int to, float *rest) {
    const mka_longterm *l = b->batch->job->longterm;
    const mka_kernels *kernels = b->batch->ops->kernels;
    int dim = l->shape.value_dim, n = (to - from) * MKA_TILE, row = h * b->n;
    float sum[QUERIES_MOST], *s = b->s + (ptrdiff_t)from * MKA_TILE;
    kernels->keep(b->n, n, b->kept + (ptrdiff_t)from * MKA_TILE, s, LDS, sum);
    for (int i = 0; i < b->n; i++) {
        b->z[row + i] += sum[i];
        b->unread[row + i] += sum[i];
        if (rest) rest[i] += sum[i];
    }
    if (rest) return;
    for (int tile = from; tile < to; tile++) {
        if (of->read >> tile & 1) continue;
        of->read |= 1U << tile;
        if (of->type == MKA_BF16)
            kernels->widen_values(dim, 1, mka_longterm_means(l, of->index) + (size_t)tile * l->mean_tile,
                                  b->values + (size_t)tile * of->mean_tile);
    }
    kernels->mix[of->type](b->n, dim, n, s, LDS, of->means + (size_t)from * of->mean_tile, b->ones,
                           b->acc + (size_t)row * (size_t)dim);
}

/* The estimate of what one head does not read: tiles one run alike after the other, and the segment's mean value for the rest. */
static void mix_head(block *b, clusters *of, int h) {
    const mka_longterm *l = b->batch->job->longterm;
    int dim = l->shape.value_dim;
    unsigned counts = tiles_that_count(b, l->tiles);
    float rest[QUERIES_MOST] = {0};
    for (int tile = 0, end; tile < l->tiles; tile = end) {
        for (end = tile + 1; end < l->tiles && !((counts >> end ^ counts >> tile) & 1);) end++;
        mix_tiles(b, of, h, tile, end, counts >> tile & 1 ? NULL : rest);
    }
    b->batch->ops->kernels->mix[MKA_F32](b->n, dim, 1, rest, 1, of->middle, b->ones, b->acc + (size_t)(h * b->n) * (size_t)dim);
}

static void count_read(block *b, const clusters *of, int number) {
    for (int w = 0; w < WORDS; w++) {
        uint64_t any = 0;
        for (int h = 0; h < b->group; h++) any |= mka_batch_wanted(b, h, number)[w];
        for (; any; any &= any - 1) {
            int c = 64 * w + __builtin_ctzll(any);
            b->scored += (uint64_t)(of->directory->start[c + 1] - of->directory->start[c]);
        }
    }
    b->tiles += (uint64_t)__builtin_popcount(of->read);
}

void mka_batch_estimate(block *b, int number) {
    clusters of = clusters_of(b, number);
    for (int h = 0; h < b->group; h++) {
        estimate_head(b, &of, h, mka_batch_wanted(b, h, number));
        rescale(b, h);
        mix_head(b, &of, h);
    }
    count_read(b, &of, number);
}
