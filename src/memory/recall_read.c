/* recall_read - the reading phase of recall: rows of the chosen clusters exactly, and mean values for the rest of a segment. */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "recall_parts.h"

/* What a thread reads with. */
typedef struct reader {
    recall *r;
    const pair *p;
    segment *s;
    int index;      /* of the segment */
    float *scores;  /* [r][BATCH_LDS] */
    float *change;  /* [r] */
    float *back;    /* [r] from a weight relative to the present m to one relative to the total */
    float *dropped; /* [clusters][r] weights of tokens whose values were not read, relative to the total */
    int tokens[BATCH], clusters[BATCH];
    const unsigned char *records[BATCH];
    const void *rows[BATCH];
    int count;
    int wanted[MKA_CLUSTERS_MOST], wanted_count;
} reader;

size_t mka_recall_scratch(const mka_recall_limits *limits) {
    size_t r = (size_t)limits->head_rows;
    size_t read = (r * (BATCH_LDS + 2) + r * MKA_CLUSTERS_MOST) * sizeof(float) + sizeof(reader);
    size_t score = SCORE_LDS * sizeof(float);
    return ((read > score ? read : score) + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
}

static void fail(recall *r, const mka_error *error) {
    int none = 0;
    if (atomic_compare_exchange_strong(&r->failed, &none, 1)) r->error = *error;
}

/* The tokens' records, pinned until release_batch. Neighbours share theirs. Returns 0 on failure. */
static int pin_batch(reader *d) {
    mka_longterm *l = d->r->job->longterm;
    for (int n = 0; n < d->count; n++) mka_records_ask(&l->records, mka_longterm_record(l, d->p->head, d->tokens[n] / MKA_BLOCK));
    for (int n = 0; n < d->count; n++) {
        int block = d->tokens[n] / MKA_BLOCK;
        mka_error error;
        d->records[n] = mka_records_get(&l->records, mka_longterm_record(l, d->p->head, block), &error);
        if (d->records[n]) continue;
        fail(d->r, &error);
        d->count = n;
        return 0;
    }
    return 1;
}

static void release_batch(reader *d) {
    mka_longterm *l = d->r->job->longterm;
    for (int n = 0; n < d->count; n++)
        mka_records_release(&l->records, mka_longterm_record(l, d->p->head, d->tokens[n] / MKA_BLOCK));
    d->count = 0;
}

/* Takes from z what will be estimated, or left out. */
static void drop_token(reader *d, int n) {
    const pair *p = d->p;
    segment *s = d->s;
    int estimated = d->r->job->rule->contract == MKA_RECALL_ESTIMATED;
    for (int i = 0; i < p->r; i++) {
        float *weight = d->scores + (size_t)i * BATCH_LDS + n;
        s->z[i] -= *weight;
        if (estimated)
            d->dropped[(size_t)d->clusters[n] * (size_t)p->r + (size_t)i] += *weight * d->back[i];
        else
            s->unread[i] += *weight;
        *weight = 0;
    }
}

/* 1 where no row of the group gives the token a weight that counts. */
static int negligible(const reader *d, int n, const float *least) {
    for (int i = 0; i < d->p->r; i++)
        if (!(d->scores[(size_t)i * BATCH_LDS + n] <= least[i])) return 0;
    return 1;
}

/* The weights, relative to the present m, up to which a row's tokens are not worth their values. */
static void least_weights(const reader *d, float *least) {
    int estimated = d->r->job->rule->contract == MKA_RECALL_ESTIMATED;
    for (int i = 0; i < d->p->r; i++) {
        least[i] = d->p->least[i] > -INFINITY ? expf(fminf(d->p->least[i] - d->s->m[i], 80.0F)) : -1.0F;
        d->back[i] = estimated ? expf(fminf(d->s->m[i] - d->p->log_total[i], 80.0F)) : 0.0F;
    }
}

static void mix_batch(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const pair *p = d->p;
    segment *s = d->s;
    int kept = 0, dim = l->shape.value_dim;
    float *least = d->change; /* done with once acc is scaled */
    for (int i = 0; i < p->r; i++) {
        s->unread[i] *= d->change[i];
        if (d->change[i] != 1)
            for (int e = 0; e < dim; e++) s->acc[(size_t)i * (size_t)dim + (size_t)e] *= d->change[i];
    }
    if (d->r->job->rule->contract == MKA_RECALL_DENSE)
        for (int i = 0; i < p->r; i++) least[i] = -1.0F;
    else
        least_weights(d, least);
    for (int n = 0; n < d->count; n++) {
        if (negligible(d, n, least)) {
            drop_token(d, n);
            continue;
        }
        for (int i = 0; i < p->r; i++) d->scores[(size_t)i * BATCH_LDS + kept] = d->scores[(size_t)i * BATCH_LDS + n];
        d->rows[kept++] = d->records[n] + MKA_BLOCK * l->key_row + (size_t)(d->tokens[n] % MKA_BLOCK) * l->value_row;
    }
    d->r->ops->kernels->rows_mix[l->shape.value_type](p->r, dim, kept, d->scores, BATCH_LDS, d->rows, s->acc);
    s->read += kept;
}

/* Reads the tokens gathered so far. */
static void flush(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const mka_kernels *kernels = d->r->ops->kernels;
    const pair *p = d->p;
    if (d->count && pin_batch(d)) {
        for (int n = 0; n < d->count; n++) d->rows[n] = d->records[n] + (size_t)(d->tokens[n] % MKA_BLOCK) * l->key_row;
        kernels->rows_score[l->shape.key_type](p->r, l->shape.key_dim, d->count, p->x, d->rows, 1.0F, d->scores, BATCH_LDS);
        for (int i = 0; i < p->r; i++)
            for (int n = 0; n < d->count; n++) d->scores[(size_t)i * BATCH_LDS + n] += p->constant[i];
        kernels->online(p->r, d->count, d->scores, BATCH_LDS, d->s->m, d->s->z, d->change);
        d->s->scored += d->count;
        mix_batch(d);
    }
    release_batch(d);
}

/* The tokens of the clusters that are wanted, a list of which is made. */
static void read_clusters(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const mka_directory *directory = mka_longterm_directory(l, mka_longterm_index(l, d->p->head, d->index));
    uint64_t wanted[MKA_CLUSTERS_MOST / 64];
    mka_recall_wanted(d->r, d->p, d->s, d->index, wanted);
    for (int w = 0; w < MKA_CLUSTERS_MOST / 64; w++)
        for (; wanted[w]; wanted[w] &= wanted[w] - 1) {
            int cluster = 64 * w + __builtin_ctzll(wanted[w]);
            memset(d->dropped + (size_t)d->wanted_count * (size_t)d->p->r, 0, (size_t)d->p->r * sizeof(float));
            for (int t = directory->start[cluster]; t < directory->start[cluster + 1]; t++) {
                d->clusters[d->count] = d->wanted_count;
                d->tokens[d->count++] = d->index * l->shape.segment + t;
                if (d->count == BATCH) flush(d);
            }
            d->wanted[d->wanted_count++] = cluster;
        }
    flush(d);
}

/* Certified: the sum of the bounds of the clusters that were left out. */
static void add_bounds(reader *d) {
    for (int i = 0; i < d->p->r; i++) {
        float *scores = d->s->scores + (size_t)i * SCORE_LDS;
        if (d->s->m[i] == -INFINITY) d->s->m[i] = d->p->m[i]; /* nothing was read */
        for (int n = 0; n < d->wanted_count; n++) scores[d->wanted[n]] = -INFINITY;
        for (int c = 0; c < d->r->job->longterm->clusters; c++)
            if (scores[c] > -INFINITY) d->s->unread[i] += expf(scores[c] - d->s->m[i]);
    }
}

/* Sums of the weights of a tile of clusters; 1 where some row gives it a share that counts. */
static int tile_counts(const reader *d, int tile, float *sums) {
    const pair *p = d->p;
    int counts = 0;
    for (int i = 0; i < p->r; i++) {
        const float *weights = d->s->scores + (size_t)i * SCORE_LDS + (size_t)tile * MKA_TILE;
        float part[8] = {0};
        for (int c = 0; c < MKA_TILE; c += 8)
            for (int e = 0; e < 8; e++) part[e] += weights[c + e];
        sums[i] = ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
        counts |= !(sums[i] * d->back[i] <= p->change * MKA_RECALL_TILE);
    }
    return counts;
}

/* Weights times the clusters' mean values; where a whole tile of them hardly counts, times the mean value of the segment. */
static void mix_means(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const mka_kernels *kernels = d->r->ops->kernels;
    const pair *p = d->p;
    segment *s = d->s;
    int dim = l->shape.value_dim;
    unsigned char *index = mka_longterm_index(l, p->head, d->index), *means = mka_longterm_means(l, index);
    float sums[MOST_ROWS], rest[MOST_ROWS] = {0};
    for (int i = 0; i < p->r; i++) {
        d->back[i] = expf(fminf(s->m[i] - p->log_total[i], 80.0F));
        for (int e = 0; e < dim && d->change[i] != 1; e++) s->acc[(size_t)i * (size_t)dim + (size_t)e] *= d->change[i];
        d->change[i] = 1;
    }
    for (int tile = 0; tile < l->tiles; tile++) {
        if (!tile_counts(d, tile, sums)) {
            for (int i = 0; i < p->r; i++) rest[i] += sums[i];
            continue;
        }
        kernels->mix[MKA_Q8_0](p->r, dim, MKA_TILE, s->scores + (size_t)tile * MKA_TILE, SCORE_LDS,
                               means + (size_t)tile * l->mean_tile, d->change, s->acc);
        s->tiles++;
    }
    for (int i = 0; i < p->r; i++) kernels->axpy(dim, rest[i], mka_longterm_middle(l, index), s->acc + (size_t)i * (size_t)dim);
}

/* The weights of the clusters that were not read, and of the tokens whose values were not, each times its mean value. */
static void add_estimate(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const pair *p = d->p;
    segment *s = d->s;
    for (int i = 0; i < p->r; i++) {
        float *weights = s->scores + (size_t)i * SCORE_LDS, z = s->z[i];
        for (int n = 0; n < d->wanted_count; n++) weights[d->wanted[n]] = -INFINITY;
        s->unread[i] = 0;
        d->r->ops->kernels->online(1, l->clusters, weights, SCORE_LDS, &s->m[i], &s->unread[i], &d->change[i]);
        float scale = expf(fminf(p->log_total[i] - s->m[i], 80.0F));
        for (int n = 0; n < d->wanted_count; n++) {
            float weight = d->dropped[(size_t)n * (size_t)p->r + (size_t)i] * scale;
            weights[d->wanted[n]] = weight;
            s->unread[i] += weight;
        }
        s->z[i] = z * d->change[i] + s->unread[i];
    }
    mix_means(d);
}

void mka_recall_read(recall *r, size_t pair_index, int index, unsigned char *scratch) {
    const pair *p = mka_pair_at(r, pair_index);
    segment *s = mka_segment_at(r, pair_index, index);
    size_t rows = (size_t)p->r, dim = (size_t)r->job->longterm->shape.value_dim;
    reader *d = (reader *)(void *)scratch;
    d->r = r, d->p = p, d->s = s, d->index = index, d->count = d->wanted_count = 0;
    d->scores = (float *)(void *)(scratch + sizeof *d);
    d->change = d->scores + rows * BATCH_LDS;
    d->back = d->change + rows;
    d->dropped = d->back + rows;
    for (size_t i = 0; i < rows; i++) s->m[i] = -INFINITY, s->z[i] = s->unread[i] = 0;
    memset(s->acc, 0, rows * dim * sizeof(float));
    read_clusters(d);
    if (r->job->rule->contract == MKA_RECALL_ESTIMATED) add_estimate(d);
    if (r->job->rule->contract == MKA_RECALL_CERTIFIED) add_bounds(d);
}
