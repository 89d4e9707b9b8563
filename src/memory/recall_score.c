/* recall_score - the first phases of recall: the query held against the centroids, and the choice of clusters to read.
 *
 * With s the score of a centroid, n its tokens and g the deviation of scores within the cluster, which is the query's gain times
 * the deviation of the cluster's keys: the cluster weighs n exp(s + g^2/2) if its scores are normal, and leaving its tokens
 * unread changes the output by about
 *
 *   sqrt(n) exp(s + g^2/2) sqrt(exp(g^2) - 1)  ~  n exp(s + 3/4 g^2) g / sqrt(n)
 *
 * in units of the values' differences. Its logarithm is the key that clusters are chosen by. With g > 1 the mean of so few
 * weights is hardly ever as large as its expectation, which rare large ones make up: from there on g - 1/2 stands in for g^2/2.
 *
 * Heads that look for one token spread the scores of a cluster by 4 to 8 nats, and the token that they look for lies 2 to 3
 * deviations above its centroid, where no estimate of the whole cluster shows it. Hence a cluster is also read for what a single
 * token at 5/2 deviations would weigh; the 29/4 off make that count where the deviation is more than 3 nats, and nowhere else.
 */
#include <math.h>
#include <string.h>

#include "recall_parts.h"

/* ---- 0: prepare ---- */

void mka_recall_prepare(const recall *r, size_t pair_index, int i) {
    const mka_recall_job *job = r->job;
    const mka_kernels *kernels = r->ops->kernels;
    const pair p = mka_pair_at(r, pair_index);
    int d = job->longterm->shape.key_dim;
    size_t row = mka_recall_row(r, pair_index, i);
    const float *q = job->q + row * (size_t)d;
    float *x = p.x + (size_t)i * (size_t)d, *power = p.power + (size_t)i * (size_t)d;
    for (int e = 0; e < d; e++) {
        x[e] = q[e] * job->scale;
        power[e] = x[e] * x[e];
    }
    mka_turn(d, x);
    p.constant[i] = kernels->dot(d, x, job->longterm->centre + (size_t)p.head * (size_t)d);
    p.length[i] = sqrtf(kernels->dot(d, x, x)) * (1 + 1e-5F);
}

/* ---- 1: score ---- */

enum { ASKED = 8192 }; /* bytes that a scan does not ask for by itself, as it asks that far ahead */

/* Logarithms of the clusters' weights, the weights, and their sum in m and z. That reads no memory, so the start of the next
 * segment is asked for meanwhile. */
static void score_estimates(const recall *r, const pair *p, const segment *s, unsigned char *index, const unsigned char *next) {
    const mka_longterm *l = r->job->longterm;
    const mka_kernels *kernels = r->ops->kernels;
    const mka_directory *directory = mka_longterm_directory(l, index);
    int d = l->shape.key_dim;
    float change[MOST_ROWS];
    kernels->score[MKA_Q8_0](p->r, d, l->clusters, p->x, index, 1.0F, s->logs, SCORE_LDS);
    for (int i = 0; i < p->r; i++) {
        float *logs = s->logs + (size_t)i * SCORE_LDS;
        for (int at = ASKED / p->r * i; next && at < ASKED / p->r * (i + 1); at += 64) __builtin_prefetch(next + at);
        s->gain[i] = sqrtf(kernels->dot(d, p->power + (size_t)i * (size_t)d, mka_longterm_channels(l, index)));
        kernels->weigh(l->clusters, p->constant[i], s->gain[i], directory->deviation, directory->log_count, logs);
        memcpy(s->weights + (size_t)i * SCORE_LDS, logs, (size_t)l->clusters * sizeof *logs);
        s->m[i] = -INFINITY;
        s->z[i] = 0;
    }
    kernels->online(p->r, l->clusters, s->weights, SCORE_LDS, s->m, s->z, change);
}

/* Upper bounds of the clusters' weights: |x . (key - centroid)| <= |x| radius, and what products in float32 round. */
static void score_bounds(const recall *r, const pair *p, const segment *s, const unsigned char *index) {
    const mka_longterm *l = r->job->longterm;
    const mka_directory *directory = mka_longterm_directory(l, (unsigned char *)(uintptr_t)index);
    int d = l->shape.key_dim;
    for (int c = 0; c < l->clusters; c++) {
        float centroid[MKA_CODE_DIM];
        mka_get_key(MKA_Q8_0, d, index + (size_t)(c / MKA_TILE) * l->key_tile, c % MKA_TILE, centroid);
        float length = sqrtf(r->ops->kernels->dot(d, centroid, centroid));
        for (int i = 0; i < p->r; i++) {
            const float *x = p->x + (size_t)i * (size_t)d;
            float score = r->ops->kernels->dot(d, x, centroid) + p->constant[i];
            float reach = p->length[i] * (directory->radius[c] + 4e-5F * (length + directory->radius[c]));
            s->logs[(size_t)i * SCORE_LDS + (size_t)c] = score + reach + directory->log_count[c];
        }
    }
}

void mka_recall_score(const recall *r, size_t pair_index, int index, const unsigned char *next) {
    const pair p = mka_pair_at(r, pair_index);
    const segment s = mka_segment_at(r, pair_index, index);
    unsigned char *at = mka_longterm_index(r->job->longterm, p.head, index);
    if (r->job->rule->contract == MKA_RECALL_ESTIMATED) score_estimates(r, &p, &s, at, next);
    if (r->job->rule->contract == MKA_RECALL_CERTIFIED) score_bounds(r, &p, &s, at);
}

/* ---- 2: total ---- */

/* Steps of a logarithm in the histograms below: eight to a nat, and the value that a step begins with. */
enum { STEPS = 1024 };

static int step_of(float logarithm) {
    float step = (logarithm + 120.0F) * 8.0F;
    return step >= STEPS - 1 ? STEPS - 1 : step > 0 ? (int)step : 0; /* NaN: 0 */
}

static float step_value(int step) {
    return (float)step / 8.0F - 120.0F;
}

static int tokens_of(const mka_directory *directory, int cluster) {
    return directory->start[cluster + 1] - directory->start[cluster];
}

/* The largest share of the softmax that a cluster takes in any row, as a step. */
static int share_step(const pair *p, const segment *s, int cluster) {
    float most = -INFINITY;
    for (int i = 0; i < p->r; i++) most = fmaxf(most, s->logs[(size_t)i * SCORE_LDS + (size_t)cluster] - p->log_total[i]);
    return step_of(most);
}

/* The step from which on clusters have count tokens at most. */
static int step_of_tokens(const recall *r, const pair *p, size_t pair_index, int count) {
    int steps[STEPS] = {0}, step = STEPS, sum = 0;
    for (int n = 0; n < r->segments; n++) {
        const segment s = mka_segment_at(r, pair_index, n);
        const mka_longterm *l = r->job->longterm;
        const mka_directory *directory = mka_longterm_directory(l, mka_longterm_index(l, p->head, n));
        for (int c = 0; c < l->clusters; c++) steps[share_step(p, &s, c)] += tokens_of(directory, c);
    }
    while (step > 0 && sum + steps[step - 1] <= count) sum += steps[--step];
    return step;
}

/* The step up to which the clusters of every row take no more than rest of its softmax. */
static int step_of_share(const recall *r, const pair *p, size_t pair_index, float rest) {
    int least = STEPS;
    for (int i = 0; i < p->r; i++) {
        float steps[STEPS] = {0}, unread = 0;
        int step = 0;
        for (int n = 0; n < r->segments; n++) {
            const segment s = mka_segment_at(r, pair_index, n);
            for (int c = 0; c < r->job->longterm->clusters; c++)
                steps[share_step(p, &s, c)] += expf(s.logs[(size_t)i * SCORE_LDS + (size_t)c] - p->log_total[i]);
        }
        while (step < STEPS && unread + steps[step] <= rest) unread += steps[step++];
        if (step < least) least = step;
    }
    return least;
}

/* Half of what a certified contract may lose goes to clusters whose bounds are small, half to tokens whose weights prove to be.
 */
static void choose_bounds(const recall *r, const pair *p, size_t pair_index) {
    float eps = r->job->rule->eps, tokens = (float)r->job->blocks * MKA_BLOCK;
    for (int i = 0; i < p->r; i++) {
        float log_budget = logf(0.5F * eps / (1 - eps) * p->z[i] * (1 - 1e-4F)) + p->m[i], steps[STEPS] = {0}, sum = 0;
        int step = 0;
        for (int n = 0; n < r->segments; n++) {
            const float *logs = mka_segment_at(r, pair_index, n).logs + (size_t)i * SCORE_LDS;
            for (int c = 0; c < r->job->longterm->clusters; c++)
                if (logs[c] > -INFINITY) steps[step_of(logs[c] - log_budget)] += expf(logs[c] - log_budget);
        }
        steps[0] += (float)(r->segments * r->job->longterm->clusters) * expf(step_value(1)); /* whatever lies below the first */
        while (step < STEPS - 1 && sum + steps[step] <= 1) sum += steps[step++];
        p->bar[i] = eps > 0 && step > 0 ? step_value(step) + log_budget - 1e-4F : -INFINITY;
        p->least[i] = eps > 0 ? log_budget - logf(tokens) : -INFINITY;
    }
}

/* Of the local tier: what came with the job, and its pieces. */
static void total_local(const recall *r, const pair *p, size_t pair_index, int i) {
    size_t row = mka_recall_row(r, pair_index, i);
    float most = r->job->m[row], sum = 0;
    for (int n = 0; n < r->pieces; n++) most = fmaxf(most, mka_part_at(r, pair_index, n).m[i]);
    if (r->job->m[row] > -INFINITY) sum += r->job->z[row] * expf(r->job->m[row] - most);
    for (int n = 0; n < r->pieces; n++) {
        part s = mka_part_at(r, pair_index, n);
        if (s.m[i] > -INFINITY) sum += s.z[i] * expf(s.m[i] - most);
    }
    p->m[i] = most;
    p->z[i] = sum;
}

void mka_recall_total(const recall *r, size_t pair_index, int i) {
    const pair p = mka_pair_at(r, pair_index);
    total_local(r, &p, pair_index, i);
    if (r->job->rule->contract != MKA_RECALL_ESTIMATED) return;
    float most = p.m[i], sum = 0, change = mka_recall_change(r);
    for (int n = 0; n < r->segments; n++) most = fmaxf(most, mka_segment_at(r, pair_index, n).m[i]);
    for (int n = 0; n < r->segments; n++) {
        const segment s = mka_segment_at(r, pair_index, n);
        if (s.m[i] > -INFINITY) sum += s.z[i] * expf(s.m[i] - most);
    }
    if (p.m[i] > -INFINITY) sum += p.z[i] * expf(p.m[i] - most);
    p.log_total[i] = most + logf(sum);
    p.bar[i] = p.log_total[i] + logf(change);
    p.least[i] = p.log_total[i] + logf(change * MKA_RECALL_VALUE);
}

int mka_recall_chooses_together(const mka_recall *rule) {
    return rule->contract == MKA_RECALL_CERTIFIED ||
           (rule->contract == MKA_RECALL_ESTIMATED && (rule->tokens > 0 || rule->share > 0));
}

void mka_recall_choose(const recall *r, size_t pair_index) {
    const pair p = mka_pair_at(r, pair_index);
    const mka_recall *rule = r->job->rule;
    if (rule->contract == MKA_RECALL_CERTIFIED) {
        choose_bounds(r, &p, pair_index);
        return;
    }
    int step =
        rule->tokens > 0 ? step_of_tokens(r, &p, pair_index, rule->tokens) : step_of_share(r, &p, pair_index, 1 - rule->share);
    for (int i = 0; i < p.r; i++) {
        p.bar[i] = step == 0 ? -INFINITY : p.log_total[i] + step_value(step);
        p.least[i] = -INFINITY;
    }
}

static uint64_t larger(int count, const float *logs, float floor) {
    uint64_t bits = 0;
    for (int c = 0; c < count; c++) bits |= (uint64_t) !(logs[c] <= floor) << c;
    return bits;
}

/* The clusters of a segment that are to be read. */
static void want(const recall *r, const pair *p, const segment *s, const mka_directory *directory) {
    const mka_recall *rule = r->job->rule;
    int by_effect = !mka_recall_chooses_together(rule), clusters = r->job->longterm->clusters;
    float floor[MOST_ROWS];
    for (int i = 0; i < p->r; i++) floor[i] = by_effect ? p->bar[i] - logf(s->gain[i]) : p->bar[i];
    for (int first = 0; first < clusters; first += 64) {
        int count = clusters - first < 64 ? clusters - first : 64;
        uint64_t bits = 0;
        for (int i = 0; i < p->r; i++) {
            const float *logs = s->logs + (size_t)i * SCORE_LDS + first;
            bits |= by_effect ? r->ops->kernels->above(count, logs, s->gain[i], directory->deviation + first,
                                                       directory->worth + first, floor[i])
                              : larger(count, logs, floor[i]);
        }
        s->wanted[first / 64] = bits;
    }
}

static void want_all(const recall *r, const segment *s) {
    int clusters = r->job->longterm->clusters;
    for (int first = 0; first < clusters; first += 64)
        s->wanted[first / 64] = ~(uint64_t)0 >> (clusters - first < 64 ? 64 - (clusters - first) : 0);
}

/* Asks for the keys of the clusters that are to be read, the first so many of them. */
static void ask_keys(const recall *r, const pair *p, const segment *s, const mka_directory *directory, int index) {
    enum { ASKED_ROWS = 96 };
    const mka_longterm *l = r->job->longterm;
    const unsigned char *records = mka_records_memory(&l->records);
    size_t first = mka_longterm_record(l, p->head, index * l->segment_blocks);
    int left = records ? ASKED_ROWS : 0;
    for (int w = 0; w < MKA_CLUSTERS_MOST / 64; w++)
        for (uint64_t bits = s->wanted[w]; bits && left > 0; bits &= bits - 1) {
            int cluster = 64 * w + __builtin_ctzll(bits);
            left -= tokens_of(directory, cluster);
            for (int row = directory->start[cluster]; row < directory->start[cluster + 1]; row++) {
                const unsigned char *at =
                    records + (first + (size_t)(row / MKA_BLOCK)) * l->records.bytes + (size_t)(row % MKA_BLOCK) * l->key_row;
                for (size_t b = 0; b < l->key_row; b += 64) __builtin_prefetch(at + b);
            }
        }
}

/* Weights become relative to the estimated total; those of the clusters that are read, 0. */
static void weigh_rest(const recall *r, const pair *p, const segment *s) {
    for (int i = 0; i < p->r; i++) {
        float *weights = s->weights + (size_t)i * SCORE_LDS, factor = expf(s->m[i] - p->log_total[i]);
        if (s->m[i] == -INFINITY) factor = 0;
        r->ops->kernels->fuse(1, r->job->longterm->clusters, &factor, &(const float *){weights}, weights);
        for (int w = 0; w < MKA_CLUSTERS_MOST / 64; w++)
            for (uint64_t bits = s->wanted[w]; bits; bits &= bits - 1) weights[64 * w + __builtin_ctzll(bits)] = 0;
    }
}

int mka_recall_list(const recall *r, size_t pair_index, int run) {
    const mka_longterm *l = r->job->longterm;
    const pair p = mka_pair_at(r, pair_index);
    int tokens = 0;
    for (int n = run * r->run; n < (run + 1) * r->run && n < r->segments; n++) {
        const mka_directory *directory = mka_longterm_directory(l, mka_longterm_index(l, p.head, n));
        const segment s = mka_segment_at(r, pair_index, n);
        memset(s.wanted, 0, MKA_CLUSTERS_MOST / 64 * sizeof *s.wanted);
        if (r->job->rule->contract == MKA_RECALL_DENSE)
            want_all(r, &s);
        else
            want(r, &p, &s, directory);
        for (int w = 0; w < MKA_CLUSTERS_MOST / 64; w++)
            for (uint64_t bits = s.wanted[w]; bits; bits &= bits - 1)
                tokens += tokens_of(directory, 64 * w + __builtin_ctzll(bits));
        ask_keys(r, &p, &s, directory, n);
        if (r->job->rule->contract == MKA_RECALL_ESTIMATED) weigh_rest(r, &p, &s);
    }
    return tokens;
}
