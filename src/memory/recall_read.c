/* recall_read - the reading phase of recall: rows of the chosen tokens exactly, and mean values for the rest of a segment. */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "recall_parts.h"

/* What a thread reads with. */
typedef struct reader {
    recall *r;
    const pair *p;
    segment *s;
    int index;     /* of the segment */
    float keep;    /* estimated: values of tokens that weigh less are not read; 0: all are */
    float *scores; /* [r][BATCH_LDS] */
    float *change; /* [r] */
    float *back;   /* [r] from a weight relative to the present m to one relative to the local m */
    int tokens[BATCH];
    const unsigned char *records[BATCH];
    const void *rows[BATCH];
    int count;
} reader;

size_t mka_recall_scratch(const mka_recall_limits *limits) {
    size_t r = (size_t)limits->head_rows;
    size_t scan = r * (MKA_SCAN_TOKENS * sizeof(float) + sizeof(mka_scan_row));
    size_t read = r * (BATCH_LDS + 2) * sizeof(float) + sizeof(reader);
    return scan > read ? scan : read;
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
    int mean = d->tokens[n] % SEGMENT_TOKENS / MKA_MEAN, estimated = d->r->job->rule->contract == MKA_RECALL_ESTIMATED;
    for (int i = 0; i < p->r; i++) {
        float *weight = d->scores + (size_t)i * BATCH_LDS + n;
        s->z[i] -= *weight;
        if (estimated)
            s->mass[(size_t)i * SEGMENT_MEANS + (size_t)mean] += *weight * d->back[i];
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
    int certified = d->r->job->rule->contract == MKA_RECALL_CERTIFIED;
    for (int i = 0; i < d->p->r; i++) {
        float weight = certified ? d->p->skip[i] : d->keep * d->p->total[i];
        least[i] = certified || d->keep > 0 ? weight * expf(d->p->m[i] - d->s->m[i]) : -1.0F;
        d->back[i] = expf(fminf(d->s->m[i] - d->p->m[i], 80.0F));
    }
}

static void mix_batch(reader *d) {
    const mka_longterm *l = d->r->job->longterm;
    const pair *p = d->p;
    segment *s = d->s;
    int kept = 0, dim = l->shape.value_dim;
    float *least = d->change; /* done with once acc is scaled */
    for (int i = 0; i < p->r; i++)
        if (d->change[i] != 1)
            for (int e = 0; e < dim; e++) s->acc[(size_t)i * (size_t)dim + (size_t)e] *= d->change[i];
    if (d->r->job->rule->contract == MKA_RECALL_CERTIFIED)
        for (int i = 0; i < p->r; i++) s->unread[i] *= d->change[i];
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

static void read_token(reader *d, int token) {
    d->tokens[d->count++] = token;
    if (d->count == BATCH) flush(d);
}

/* The listed tokens above the head's threshold; the others join the estimate. */
static void read_list(reader *d) {
    const pair *p = d->p;
    segment *s = d->s;
    for (int e = 0; e < s->listed; e++) {
        if (mka_recall_weight(p, s, e) > p->threshold) {
            read_token(d, s->tokens[e]);
            continue;
        }
        for (int i = 0; i < p->r; i++)
            s->mass[(size_t)i * SEGMENT_MEANS + (size_t)(s->tokens[e] % SEGMENT_TOKENS / MKA_MEAN)] +=
                s->weights[(size_t)e * (size_t)p->r + (size_t)i];
    }
    flush(d);
}

/* The sums of weights over 16 tokens, each times its mean value. */
static void add_estimate(reader *d, int blocks) {
    const mka_longterm *l = d->r->job->longterm;
    const pair *p = d->p;
    segment *s = d->s;
    float *ones = d->change;
    int means = blocks * (MKA_BLOCK / MKA_MEAN);
    for (int i = 0; i < p->r; i++) {
        float scale = expf(p->m[i] - s->m[i]), sum = 0, *mass = s->mass + (size_t)i * SEGMENT_MEANS;
        for (int b = 0; b < means; b++) sum += mass[b] *= scale;
        s->z[i] += sum;
        s->unread[i] = sum;
        ones[i] = 1;
    }
    int tile = d->index * (SEGMENT_MEANS / MKA_TILE);
    d->r->ops->kernels->mix[MKA_Q8_0](p->r, l->shape.value_dim, means, s->mass, SEGMENT_MEANS,
                                      mka_longterm_means(l, p->head, tile), ones, s->acc);
}

/* Every token of a dense contract; those that the bounds do not rule out of a certified one. */
static void read_blocks(reader *d, int blocks, float *e) {
    const mka_longterm *l = d->r->job->longterm;
    const pair *p = d->p;
    float mass[64 * MKA_SCAN_MASSES];
    int first = d->index * SEGMENT_BLOCKS, dense = d->r->job->rule->contract == MKA_RECALL_DENSE;
    for (int b = 0; b < blocks; b++) {
        uint64_t wanted = dense ? ~(uint64_t)0
                                : d->r->ops->kernels->scan(p->r, l->shape.key_dim, mka_longterm_scan(l, p->head, first + b),
                                                           p->tables, p->rows, e, mass);
        for (; wanted; wanted &= wanted - 1) read_token(d, (first + b) * MKA_BLOCK + __builtin_ctzll(wanted));
    }
    flush(d);
}

void mka_recall_read(recall *r, size_t pair_index, int index, unsigned char *scratch) {
    const pair *p = mka_pair_at(r, pair_index);
    segment *s = mka_segment_at(r, pair_index, index);
    int blocks = r->job->blocks - index * SEGMENT_BLOCKS, dim = r->job->longterm->shape.value_dim;
    if (blocks > SEGMENT_BLOCKS) blocks = SEGMENT_BLOCKS;
    reader *d = (reader *)(void *)scratch;
    d->r = r, d->p = p, d->s = s, d->index = index, d->count = 0;
    d->scores = (float *)(void *)(scratch + sizeof *d);
    d->change = d->scores + (size_t)p->r * BATCH_LDS;
    d->back = d->change + p->r;
    d->keep = r->job->rule->contract == MKA_RECALL_ESTIMATED && r->job->rule->tokens == 0 && r->job->rule->share == 0
                  ? MKA_RECALL_THRESHOLD
                  : 0.0F;
    memcpy(s->m, p->m, (size_t)p->r * sizeof(float));
    memset(s->z, 0, (size_t)p->r * sizeof(float));
    memset(s->unread, 0, (size_t)p->r * sizeof(float));
    memset(s->acc, 0, (size_t)p->r * (size_t)dim * sizeof(float));
    if (r->job->rule->contract == MKA_RECALL_ESTIMATED) {
        read_list(d);
        add_estimate(d, blocks);
    } else {
        read_blocks(d, blocks, s->weights); /* unused otherwise by these contracts */
    }
}
