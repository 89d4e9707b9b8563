/* recall_read - the reading phases of recall: rows of the chosen clusters exactly, and then mean values for the rest of a run.
 *
 * Weights are relative to the estimated total of a row, which the choice has found: with that as the first maximum of the online
 * softmax nothing has to be scaled afterwards, but where a key proves to weigh far more than all was estimated to.
 *
 * Rows lie where no hardware looks ahead: keys are asked for when their clusters are chosen, and values as soon as weights tell
 * which. What is not worth its value is added to the weight of its cluster, which only the part that reads it looks at. */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "recall_parts.h"

/* Rows of a cluster that lie in one record. */
typedef struct stretch {
    int count;
    int cluster, row;
    size_t record;
} stretch;

/* What a thread reads with. */
typedef struct reader {
    recall *r;
    pair p;
    segment s;
    part t;
    int index;     /* of the segment */
    float *scores; /* [r][BATCH_LDS] of a batch's tokens */
    float *change, *least;
    float *left; /* [r][BATCH] of a stretch: weights of tokens whose values are not read */
    stretch stretches[BATCH];
    int begins[BATCH + 1]; /* of stretches, in the batch */
    int keep[BATCH];
    const void *keys[BATCH], *values[BATCH];
    int stretch_count, count, kept; /* kept: values to be mixed, with weights at the front of scores */
    int wanted[MKA_CLUSTERS_MOST], wanted_count;
} reader;

size_t mka_recall_scratch(const mka_recall_limits *limits) {
    size_t r = (size_t)limits->head_rows;
    return (r * (BATCH_LDS + BATCH + 2) * sizeof(float) + sizeof(reader) + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN;
}

static void fail(recall *r, const mka_error *error) {
    int none = 0;
    if (atomic_compare_exchange_strong(&r->failed, &none, 1)) r->error = *error;
}

static int is_estimated(const reader *d) {
    return d->r->job->rule->contract == MKA_RECALL_ESTIMATED;
}

/* What a row has so far is to count change times as much. */
static void scale_row(const reader *d, int i, float change) {
    int dim = d->r->job->longterm->shape.value_dim;
    if (change == 1) return;
    d->t.unread[i] *= change;
    for (int e = 0; e < dim; e++) d->t.acc[(size_t)i * (size_t)dim + (size_t)e] *= change;
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
            d->keys[d->begins[n] + k] = record + (size_t)(s->row + k) * l->key_row;
            d->values[d->begins[n] + k] = record + MKA_BLOCK * l->key_row + (size_t)(s->row + k) * l->value_row;
        }
    }
    return 1;
}

static void release_batch(reader *d) {
    for (int n = 0; n < d->stretch_count; n++) mka_records_release(&d->r->job->longterm->records, d->stretches[n].record);
    d->stretch_count = d->count = d->kept = 0;
}

/* Which tokens some row of the group gives a weight that counts: their weights move to the front, and their values are asked for.
 * Those of the others go from z to what will be estimated, or left out. */
static void sift_batch(reader *d) {
    const pair *p = &d->p;
    const mka_longterm *l = d->r->job->longterm;
    int estimated = is_estimated(d);
    for (int i = 0; i < p->r; i++) d->least[i] = p->least[i] > -INFINITY ? expf(fminf(p->least[i] - d->t.m[i], 80.0F)) : -1.0F;
    d->begins[d->stretch_count] = d->count;
    d->kept = d->r->ops->kernels->sift(p->r, d->stretch_count, d->begins, d->least, d->scores, BATCH_LDS, d->keep, d->left);
    for (int n = 0; n < d->kept; n++) {
        const char *row = d->values[n] = d->values[d->keep[n]];
        for (size_t b = 0; b < l->value_row; b += 64) __builtin_prefetch(row + b);
        __builtin_prefetch(row + l->value_row - 1);
    }
    for (int i = 0; i < p->r && d->kept < d->count; i++) {
        const float *left = d->left + (size_t)i * BATCH;
        float *rest = d->s.weights + (size_t)i * SCORE_LDS, all = 0, above = d->t.m[i] - p->log_total[i];
        float back = estimated && above != 0 ? expf(fminf(above, 80.0F)) : 1;
        for (int n = 0; n < d->stretch_count; n++) {
            if (estimated) rest[d->stretches[n].cluster] += left[n] * back;
            all += left[n];
        }
        d->t.z[i] -= all;
        if (!estimated) d->t.unread[i] += all;
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
    sift_batch(d);
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

/* Those of the segment whose first token is one of count from number from on, of all that are wanted; returns how many are. */
static int list_wanted(reader *d, const mka_directory *directory, int from, int count) {
    int tokens = 0;
    d->wanted_count = 0;
    for (int w = 0; w < MKA_CLUSTERS_MOST / 64; w++)
        for (uint64_t bits = d->s.wanted[w]; bits; bits &= bits - 1) {
            int cluster = 64 * w + __builtin_ctzll(bits);
            if (tokens >= from && tokens - from < count) d->wanted[d->wanted_count++] = cluster;
            tokens += directory->start[cluster + 1] - directory->start[cluster];
        }
    return tokens;
}

/* Their rows, batch by batch. */
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
            d->begins[d->stretch_count] = d->count;
            d->stretches[d->stretch_count++] = (stretch){count, d->wanted[n], row % MKA_BLOCK,
                                                         mka_longterm_record(l, d->p.head, d->index * l->segment_blocks + block)};
            d->count += count;
            row += count;
        }
    }
    if (d->count && score_batch(d)) mix_batch(d);
    release_batch(d);
}

static void begin(reader *d, unsigned char *scratch) {
    size_t rows = (size_t)d->p.r;
    const part *t = &d->t;
    d->stretch_count = d->count = d->kept = 0;
    d->scores = (float *)(void *)(scratch + sizeof *d);
    d->change = d->scores + rows * BATCH_LDS;
    d->least = d->change + rows;
    d->left = d->least + rows;
    *t->scored = *t->read = *t->tiles = 0;
    for (size_t i = 0; i < rows; i++) {
        t->m[i] = is_estimated(d) && isfinite(d->p.log_total[i]) ? d->p.log_total[i] : -INFINITY;
        t->z[i] = t->unread[i] = 0;
    }
    memset(t->acc, 0, rows * (size_t)d->r->job->longterm->shape.value_dim * sizeof(float));
}

void mka_recall_read(recall *r, size_t pair_index, int run, int turn, int part_index, unsigned char *scratch) {
    const mka_longterm *l = r->job->longterm;
    reader *d = (reader *)(void *)scratch;
    int from = turn * r->step;
    d->r = r;
    d->p = mka_pair_at(r, pair_index);
    d->t = mka_part_at(r, pair_index, part_index);
    begin(d, scratch);
    for (d->index = run * r->run; d->index < (run + 1) * r->run && d->index < r->segments; d->index++) {
        const mka_directory *directory = mka_longterm_directory(l, mka_longterm_index(l, d->p.head, d->index));
        d->s = mka_segment_at(r, pair_index, d->index);
        /* Of the tokens of the run, numbers from..from + step - 1; from falls as segments are left behind. */
        int skipped = from > 0 ? from : 0, count = r->step + (from < 0 ? from : 0);
        from -= list_wanted(d, directory, skipped, count);
        read_wanted(d, directory);
    }
}

/* ---- what is not read ---- */

/* Certified: the sum of the bounds of the clusters that were left out. */
static void add_bounds(const recall *r, const pair *p, const segment *s, const part *t) {
    for (int i = 0; i < p->r; i++) {
        const float *logs = s->logs + (size_t)i * SCORE_LDS;
        if (t->m[i] == -INFINITY) t->m[i] = p->m[i]; /* nothing was read */
        for (int c = 0; c < r->job->longterm->clusters; c++)
            if (!(s->wanted[c / 64] >> c % 64 & 1) && logs[c] > -INFINITY) t->unread[i] += expf(logs[c] - t->m[i]);
    }
}

/* Sums of the weights of a tile of clusters; 1 where some row gives it a share that counts. */
static int tile_counts(const recall *r, const pair *p, const segment *s, int tile, float *sums) {
    float least = mka_recall_change(r) * MKA_RECALL_TILE;
    int counts = 0;
    for (int i = 0; i < p->r; i++) {
        const float *weights = s->weights + (size_t)i * SCORE_LDS + (size_t)tile * MKA_TILE;
        float lane[8] = {0};
        for (int c = 0; c < MKA_TILE; c += 8)
            for (int e = 0; e < 8; e++) lane[e] += weights[c + e];
        sums[i] = ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
        counts |= !(sums[i] <= least);
    }
    return counts;
}

/* Weights become relative to the maximum of the part, where that is another than the estimated total. */
static void scale_weights(const recall *r, const pair *p, const segment *s, const part *t) {
    for (int i = 0; i < p->r; i++) {
        float scale = t->m[i] == p->log_total[i] ? 1 : expf(p->log_total[i] - t->m[i]);
        for (int c = 0; c < r->job->longterm->clusters && scale != 1; c++) s->weights[(size_t)i * SCORE_LDS + (size_t)c] *= scale;
    }
}

/* Weights times the clusters' mean values; where a whole tile of them hardly counts, times the mean value of the segment. */
static void mix_means(const recall *r, const pair *p, const segment *s, const part *t, unsigned char *index) {
    const mka_longterm *l = r->job->longterm;
    const mka_kernels *kernels = r->ops->kernels;
    unsigned char *means = mka_longterm_means(l, index);
    int dim = l->shape.value_dim;
    float sums[MOST_ROWS], rest[MOST_ROWS] = {0}, ones[MOST_ROWS];
    for (int i = 0; i < p->r; i++) ones[i] = 1;
    for (int tile = 0; tile < l->tiles; tile++) {
        int counts = tile_counts(r, p, s, tile, sums);
        for (int i = 0; i < p->r; i++) {
            t->unread[i] += sums[i];
            t->z[i] += sums[i];
            if (!counts) rest[i] += sums[i];
        }
        if (!counts) continue;
        kernels->mix[MKA_Q8_0](p->r, dim, MKA_TILE, s->weights + (size_t)tile * MKA_TILE, SCORE_LDS,
                               means + (size_t)tile * l->mean_tile, ones, t->acc);
        ++*t->tiles;
    }
    for (int i = 0; i < p->r; i++) kernels->axpy(dim, rest[i], mka_longterm_middle(l, index), t->acc + (size_t)i * (size_t)dim);
}

void mka_recall_rest(const recall *r, size_t pair_index, int run) {
    const mka_contract contract = r->job->rule->contract;
    const pair p = mka_pair_at(r, pair_index);
    const part t = mka_part_at(r, pair_index, r->pieces + run);
    for (int n = run * r->run; n < (run + 1) * r->run && n < r->segments && contract != MKA_RECALL_DENSE; n++) {
        const segment s = mka_segment_at(r, pair_index, n);
        if (contract == MKA_RECALL_CERTIFIED) {
            add_bounds(r, &p, &s, &t);
            continue;
        }
        scale_weights(r, &p, &s, &t);
        mix_means(r, &p, &s, &t, mka_longterm_index(r->job->longterm, p.head, n));
    }
}
