/* recall_read - the reading phase of recall: rows of the chosen clusters exactly, and mean values for the rest of a segment.
 *
 * Weights are relative to the estimated total of a row, which the choice has found: with that as the first maximum of the online
 * softmax nothing has to be scaled afterwards, but where a key proves to weigh far more than all was estimated to.
 *
 * Rows lie where no hardware looks ahead. So keys are asked for as soon as their clusters are known, and the estimate of the
 * others is made meanwhile; and values as soon as weights tell which, while mean values are mixed. */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "recall_parts.h"

/* Rows of a cluster that lie in one record. */
typedef struct stretch {
    int at, count; /* in the batch */
    int cluster, row;
    size_t record;
} stretch;

/* What a thread reads with. */
typedef struct reader {
    recall *r;
    pair p;
    segment s;
    part t;
    int index, from, to; /* the segment, and clusters of it */
    float *scores;       /* [r][BATCH_LDS] */
    float *change, *ones, *least;
    stretch stretches[BATCH];
    int keep[BATCH];
    const void *keys[BATCH], *values[BATCH];
    int stretch_count, count, kept; /* kept: values to be mixed, with weights at the front of scores */
    int wanted[MKA_CLUSTERS_MOST], wanted_count;
} reader;

size_t mka_recall_scratch(const mka_recall_limits *limits) {
    size_t r = (size_t)limits->head_rows;
    size_t read = r * (BATCH_LDS + 3) * sizeof(float) + sizeof(reader), score = SCORE_LDS * sizeof(float);
    return ((read > score ? read : score) + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
}

static void fail(recall *r, const mka_error *error) {
    int none = 0;
    if (atomic_compare_exchange_strong(&r->failed, &none, 1)) r->error = *error;
}

static int is_estimated(const reader *d) {
    return d->r->job->rule->contract == MKA_RECALL_ESTIMATED;
}

/* A row's weights so far are to count change times as much. */
static void scale_row(const reader *d, int i, float change) {
    int dim = d->r->job->longterm->shape.value_dim;
    float *weights = d->s.scores + (size_t)i * SCORE_LDS;
    if (change == 1) return;
    d->t.unread[i] *= change;
    for (int e = 0; e < dim; e++) d->t.acc[(size_t)i * (size_t)dim + (size_t)e] *= change;
    for (int c = d->from; c < d->to && is_estimated(d); c++) weights[c] *= change;
}

/* ---- a batch of rows ---- */

/* The stretches' records, pinned until release_batch. Returns 0 on failure. */
static int pin_batch(reader *d) {
    mka_longterm *l = d->r->job->longterm;
    for (int n = 0; n < d->stretch_count; n++) mka_records_ask(&l->records, d->stretches[n].record);
    for (int n = 0; n < d->stretch_count; n++) {
        const stretch *s = &d->stretches[n];
        mka_error error;
        const unsigned char *record = mka_records_get(&l->records, s->record, &error);
        if (!record) {
            fail(d->r, &error);
            d->stretch_count = n;
            return 0;
        }
        for (int k = 0; k < s->count; k++) {
            d->keys[s->at + k] = record + (size_t)(s->row + k) * l->key_row;
            d->values[s->at + k] = record + MKA_BLOCK * l->key_row + (size_t)(s->row + k) * l->value_row;
        }
    }
    return 1;
}

static void release_batch(reader *d) {
    for (int n = 0; n < d->stretch_count; n++) mka_records_release(&d->r->job->longterm->records, d->stretches[n].record);
    d->stretch_count = d->count = d->kept = 0;
}

/* Which tokens some row of the group gives a weight that counts. */
static void judge_batch(reader *d) {
    const pair *p = &d->p;
    for (int i = 0; i < p->r; i++) d->least[i] = p->least[i] > -INFINITY ? expf(fminf(p->least[i] - d->t.m[i], 80.0F)) : -1.0F;
    memset(d->keep, 0, (size_t)d->count * sizeof *d->keep);
    for (int i = 0; i < p->r; i++) {
        const float *weights = d->scores + (size_t)i * BATCH_LDS, least = d->least[i];
        for (int n = 0; n < d->count; n++) d->keep[n] |= !(weights[n] <= least);
    }
}

/* Takes from z what will be estimated, or left out: the weights of tokens whose values are not read. */
static void drop_rest(reader *d) {
    for (int i = 0; i < d->p.r; i++) {
        const float *weights = d->scores + (size_t)i * BATCH_LDS;
        float all = 0;
        for (int n = 0; n < d->stretch_count; n++) {
            const stretch *s = &d->stretches[n];
            float sum = 0;
            for (int k = s->at; k < s->at + s->count; k++) sum += d->keep[k] ? 0 : weights[k];
            if (is_estimated(d)) d->s.scores[(size_t)i * SCORE_LDS + (size_t)s->cluster] += sum;
            all += sum;
        }
        d->t.z[i] -= all;
        d->t.unread[i] += all;
    }
}

/* The weights that are kept move to the front, and their values are asked for. */
static void keep_rest(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    for (int n = 0; n < d->count; n++) {
        if (!d->keep[n]) continue;
        const char *row = d->values[n];
        for (size_t b = 0; b < l->value_row; b += 64) __builtin_prefetch(row + b);
        __builtin_prefetch(row + l->value_row - 1);
        d->values[d->kept] = row;
        d->keep[d->kept++] = n;
    }
    for (int i = 0; i < d->p.r && d->kept < d->count; i++) {
        float *weights = d->scores + (size_t)i * BATCH_LDS;
        for (int n = 0; n < d->kept; n++) weights[n] = weights[d->keep[n]];
    }
}

/* Scores the rows gathered so far. Returns 0 on failure. */
static int score_batch(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const mka_kernels *kernels = d->r->ops->kernels;
    const pair *p = &d->p;
    if (!pin_batch(d)) return 0;
    kernels->rows_score[l->shape.key_type](p->r, l->shape.key_dim, d->count, p->x, d->keys, 1.0F, d->scores, BATCH_LDS);
    for (int i = 0; i < p->r; i++)
        for (int n = 0; n < d->count; n++) d->scores[(size_t)i * BATCH_LDS + (size_t)n] += p->constant[i];
    kernels->online(p->r, d->count, d->scores, BATCH_LDS, d->t.m, d->t.z, d->change);
    for (int i = 0; i < p->r; i++) scale_row(d, i, d->change[i]);
    *d->t.scored += d->count;
    if (d->r->job->rule->contract == MKA_RECALL_DENSE) {
        d->kept = d->count;
        return 1;
    }
    judge_batch(d);
    drop_rest(d);
    keep_rest(d);
    return 1;
}

static void mix_batch(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    d->r->ops->kernels->rows_mix[l->shape.value_type](d->p.r, l->shape.value_dim, d->kept, d->scores, BATCH_LDS, d->values,
                                                      d->t.acc);
    *d->t.read += d->kept;
    release_batch(d);
}

/* ---- the clusters that are read ---- */

static void list_wanted(reader *d) {
    uint64_t wanted[MKA_CLUSTERS_MOST / 64];
    mka_recall_wanted(d->r, &d->p, &d->s, d->index, d->from, d->to, wanted);
    d->wanted_count = 0;
    for (int w = 0; w < MKA_CLUSTERS_MOST / 64; w++)
        for (; wanted[w]; wanted[w] &= wanted[w] - 1)
            d->wanted[d->wanted_count++] = d->from + 64 * w + __builtin_ctzll(wanted[w]);
}

/* Asks for the keys of the first clusters, a batch of them at most. */
static void ask_keys(const reader *d, const mka_directory *directory) {
    const mka_longterm *l = d->r->job->longterm;
    const unsigned char *records = mka_records_memory(&l->records);
    size_t first = mka_longterm_record(l, d->p.head, d->index * l->segment_blocks);
    for (int n = 0, left = BATCH; records && n < d->wanted_count && left > 0; n++) {
        int row = directory->start[d->wanted[n]], end = directory->start[d->wanted[n] + 1];
        left -= end - row;
        while (row < end) {
            int stop = row / MKA_BLOCK * MKA_BLOCK + MKA_BLOCK < end ? row / MKA_BLOCK * MKA_BLOCK + MKA_BLOCK : end;
            const unsigned char *record = records + (first + (size_t)(row / MKA_BLOCK)) * l->records.bytes;
            const unsigned char *at = record + (size_t)(row % MKA_BLOCK) * l->key_row,
                                *last = at + (size_t)(stop - row) * l->key_row - 1;
            for (at = at - (uintptr_t)at % 64; at <= last; at += 64) __builtin_prefetch(at);
            row = stop;
        }
    }
}

/* Their rows, batch by batch; the last one's values are still to be mixed. */
static void read_wanted(reader *d, const mka_directory *directory) {
    const mka_longterm *l = d->r->job->longterm;
    for (int n = 0; n < d->wanted_count; n++) {
        int row = directory->start[d->wanted[n]], end = directory->start[d->wanted[n] + 1];
        while (row < end) {
            if (d->count == BATCH) {
                if (score_batch(d)) mix_batch(d);
                release_batch(d);
            }
            int block = row / MKA_BLOCK, count = end - row, room = BATCH - d->count;
            if (count > room) count = room;
            if (count > (block + 1) * MKA_BLOCK - row) count = (block + 1) * MKA_BLOCK - row;
            d->stretches[d->stretch_count++] = (stretch){d->count, count, d->wanted[n], row % MKA_BLOCK,
                                                         mka_longterm_record(l, d->p.head, d->index * l->segment_blocks + block)};
            d->count += count;
            row += count;
        }
    }
    if (d->count && !score_batch(d)) release_batch(d);
}

/* ---- what is not read ---- */

/* Certified: the sum of the bounds of the clusters that were left out. */
static void add_bounds(reader *d) {
    const part *t = &d->t;
    for (int i = 0; i < d->p.r; i++) {
        float *scores = d->s.scores + (size_t)i * SCORE_LDS;
        if (t->m[i] == -INFINITY) t->m[i] = d->p.m[i]; /* nothing was read */
        for (int n = 0; n < d->wanted_count; n++) scores[d->wanted[n]] = -INFINITY;
        for (int c = d->from; c < d->to; c++)
            if (scores[c] > -INFINITY) t->unread[i] += expf(scores[c] - t->m[i]);
    }
}

/* Scores of the clusters that are not read become weights; of those that are, 0. */
static void weigh_rest(reader *d) {
    for (int i = 0; i < d->p.r; i++) {
        float *weights = d->s.scores + (size_t)i * SCORE_LDS, m = d->t.m[i], unread = d->t.unread[i];
        for (int n = 0; n < d->wanted_count; n++) weights[d->wanted[n]] = -INFINITY;
        d->r->ops->kernels->online(1, d->to - d->from, weights + d->from, SCORE_LDS, &m, &unread, &d->change[i]);
        if (m != d->t.m[i]) { /* what was read of the segments before */
            int dim = d->r->job->longterm->shape.value_dim;
            d->t.z[i] *= d->change[i];
            for (int e = 0; e < dim; e++) d->t.acc[(size_t)i * (size_t)dim + (size_t)e] *= d->change[i];
        }
        d->t.m[i] = m;
        d->t.unread[i] = unread;
    }
}

/* Sums of the weights of a tile of clusters; 1 where some row gives it a share that counts. least: of each row. */
static int tile_counts(const reader *d, int tile, float *sums) {
    int counts = 0;
    for (int i = 0; i < d->p.r; i++) {
        const float *weights = d->s.scores + (size_t)i * SCORE_LDS + (size_t)tile * MKA_TILE;
        float lane[8] = {0};
        for (int c = 0; c < MKA_TILE; c += 8)
            for (int e = 0; e < 8; e++) lane[e] += weights[c + e];
        sums[i] = ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
        counts |= !(sums[i] <= d->least[i]);
    }
    return counts;
}

/* Weights times the clusters' mean values; where a whole tile of them hardly counts, times the mean value of the segment. */
static void mix_means(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const mka_kernels *kernels = d->r->ops->kernels;
    const pair *p = &d->p;
    int dim = l->shape.value_dim;
    unsigned char *index = mka_longterm_index(l, p->head, d->index), *means = mka_longterm_means(l, index);
    float sums[MOST_ROWS], rest[MOST_ROWS] = {0}, change = mka_recall_change(d->r) * MKA_RECALL_TILE;
    for (int i = 0; i < p->r; i++) d->least[i] = change * expf(fminf(p->log_total[i] - d->t.m[i], 80.0F));
    for (int tile = d->from / MKA_TILE; tile < d->to / MKA_TILE; tile++) {
        if (!tile_counts(d, tile, sums)) {
            for (int i = 0; i < p->r; i++) rest[i] += sums[i];
            continue;
        }
        kernels->mix[MKA_Q8_0](p->r, dim, MKA_TILE, d->s.scores + (size_t)tile * MKA_TILE, SCORE_LDS,
                               means + (size_t)tile * l->mean_tile, d->ones, d->t.acc);
        ++*d->t.tiles;
    }
    for (int i = 0; i < p->r; i++) kernels->axpy(dim, rest[i], mka_longterm_middle(l, index), d->t.acc + (size_t)i * (size_t)dim);
}

/* ---- a part ---- */

static void begin(reader *d, unsigned char *scratch) {
    size_t rows = (size_t)d->p.r;
    const part *t = &d->t;
    d->stretch_count = d->count = d->kept = 0;
    d->scores = (float *)(void *)(scratch + sizeof *d);
    d->change = d->scores + rows * BATCH_LDS;
    d->ones = d->change + rows;
    d->least = d->ones + rows;
    *t->scored = *t->read = *t->tiles = 0;
    for (size_t i = 0; i < rows; i++) {
        t->m[i] = is_estimated(d) && isfinite(d->p.log_total[i]) ? d->p.log_total[i] : -INFINITY;
        t->z[i] = t->unread[i] = 0;
        d->ones[i] = 1;
    }
    memset(t->acc, 0, rows * (size_t)d->r->job->longterm->shape.value_dim * sizeof(float));
}

static void read_segment(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const mka_directory *directory = mka_longterm_directory(l, mka_longterm_index(l, d->p.head, d->index));
    list_wanted(d);
    ask_keys(d, directory);
    if (is_estimated(d)) weigh_rest(d);
    read_wanted(d, directory);
    if (is_estimated(d)) mix_means(d);
    mix_batch(d);
    if (d->r->job->rule->contract == MKA_RECALL_CERTIFIED) add_bounds(d);
}

void mka_recall_read(recall *r, size_t pair_index, int run, int cut, unsigned char *scratch) {
    const mka_longterm *l = r->job->longterm;
    reader *d = (reader *)(void *)scratch;
    d->r = r;
    d->p = mka_pair_at(r, pair_index);
    d->t = mka_part_at(r, pair_index, r->pieces + run * r->cuts + cut);
    begin(d, scratch);
    d->from = l->clusters / r->cuts * cut;
    d->to = d->from + l->clusters / r->cuts;
    for (d->index = run * r->run; d->index < (run + 1) * r->run && d->index < r->segments; d->index++) {
        d->s = mka_segment_at(r, pair_index, d->index);
        read_segment(d);
    }
    for (int i = 0; i < d->p.r && is_estimated(d); i++) d->t.z[i] += d->t.unread[i];
}
