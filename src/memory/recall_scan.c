/* recall_scan - the first phases of recall: a query's tables, the scan of the signs, and the choice of what is read. */
#include <math.h>
#include <string.h>

#include "recall_parts.h"
#include "scalar/half.h"

#define LOG2E 1.44269504F

/* ---- 0: prepare ---- */

static float dot(int d, const float *a, const float *b) {
    float sum = 0;
    for (int i = 0; i < d; i++) sum += a[i] * b[i];
    return sum;
}

/* What the scan makes of row i: an estimate, or for a certified contract an upper bound of the token's weight. */
static mka_scan_row scan_row(const recall *r, const pair *p, int i, float step, float base) {
    mka_scan_row row = {
        .step = step * LOG2E, .base = base * LOG2E, .shift = (p->constant[i] - p->m[i]) * LOG2E, .floor = INFINITY};
    if (r->job->rule->contract == MKA_RECALL_CERTIFIED) {
        row.base += (p->slack[i] + p->length[i] * r->job->longterm->bound[p->head]) * LOG2E;
        return row;
    }
    float deviation = p->length[i] * MKA_SIGN_ERROR;  /* times the token's factor */
    row.curve = 0.5F * deviation * deviation * LOG2E; /* exp of a noisy logit is too large by exp(variance / 2) on average */
    row.margin = MKA_RECALL_MARGIN * deviation * LOG2E;
    return row;
}

void mka_recall_prepare(const recall *r, size_t pair_index) {
    const mka_recall_job *job = r->job;
    const mka_longterm_shape *shape = &job->longterm->shape;
    pair *p = mka_pair_at(r, pair_index);
    int d = shape->key_dim, group = job->heads / shape->kv_heads, query = r->first + (int)(pair_index / (size_t)shape->kv_heads);
    p->head = (int)(pair_index % (size_t)shape->kv_heads);
    p->r = group;
    p->longest = 0;
    mka_pair_place(r, p);
    size_t row = (size_t)query * (size_t)job->heads + (size_t)p->head * (size_t)group;
    p->m = job->m + row;
    p->z = job->z + row;
    p->out = job->out + row * (size_t)shape->value_dim;
    for (int i = 0; i < group; i++) {
        float *x = p->x + (size_t)i * (size_t)d, step, base;
        const float *q = job->q + (row + (size_t)i) * (size_t)d;
        for (int e = 0; e < d; e++) x[e] = q[e] * job->scale;
        mka_turn(d, x);
        p->constant[i] = dot(d, x, job->longterm->centre + (size_t)p->head * (size_t)d);
        p->near_share[i] = 1 / p->z[i];
        p->length[i] = sqrtf(dot(d, x, x)) * (1 + 1e-5F);
        mka_scan_tables(group, i, d, x, p->tables, &step, &base, &p->slack[i]);
        p->rows[i] = scan_row(r, p, i, step, base);
        if (p->length[i] > p->length[p->longest]) p->longest = i;
    }
}

/* ---- 1: scan ---- */

static int segment_blocks(const recall *r, int index) {
    int rest = r->job->blocks - index * SEGMENT_BLOCKS;
    return rest < SEGMENT_BLOCKS ? rest : SEGMENT_BLOCKS;
}

static void set_floor(const pair *p, float floor, mka_scan_row *rows) {
    for (int i = 0; i < p->r; i++) rows[i].floor = log2f(floor * p->z[i]);
}

static void give_back(const pair *p, segment *s, int entry) {
    for (int i = 0; i < p->r; i++)
        s->mass[(size_t)i * SEGMENT_MEANS + (size_t)(s->tokens[entry] % SEGMENT_TOKENS / MKA_MEAN)] +=
            s->weights[(size_t)entry * (size_t)p->r + (size_t)i];
}

/* Makes room in a full list: doubles the floor until half of it is free. */
static void shorten(const pair *p, segment *s) {
    int over = s->listed;
    while (over > LIST_MOST / 2) {
        s->floor *= 2;
        over = 0;
        for (int e = 0; e < s->listed; e++) over += s->keys[e] > s->floor;
    }
    int kept = 0;
    for (int e = 0; e < s->listed; e++) {
        if (!(s->keys[e] > s->floor)) {
            give_back(p, s, e);
            continue;
        }
        s->tokens[kept] = s->tokens[e];
        s->keys[kept] = s->keys[e];
        s->lifts[kept] = s->lifts[e];
        memmove(s->weights + (size_t)kept * (size_t)p->r, s->weights + (size_t)e * (size_t)p->r, (size_t)p->r * sizeof(float));
        kept++;
    }
    s->listed = kept;
}

/* A token is chosen by its likely weight, which the mean weight e is less of the more its sign's error is. 2^x as the scan takes
 * it: nobody sees 3 % here. */
static float lift(const mka_scan_row *row, float factor) {
    float x = (row->curve * factor + row->margin) * factor, power;
    int32_t bits = (int32_t)((x < 126.0F ? x : 126.0F) * 0x1p23F + (127.0F * 0x1p23F - 366393.0F));
    memcpy(&power, &bits, sizeof power);
    return power;
}

static void list_token(const pair *p, segment *s, int token, float lifted, const float *e) {
    float *weights = s->weights + (size_t)s->listed * (size_t)p->r, most = 0;
    for (int i = 0; i < p->r; i++) {
        weights[i] = e[(size_t)i * MKA_SCAN_TOKENS];
        float weight = weights[i] * p->near_share[i];
        most = weight > most ? weight : most;
    }
    s->tokens[s->listed] = token;
    s->lifts[s->listed] = lifted;
    s->keys[s->listed++] = most * lifted;
}

static void list_block(const recall *r, const pair *p, segment *s, int block, uint64_t wanted, const float *e) {
    int d = r->job->longterm->shape.key_dim;
    const unsigned char *factors =
        mka_longterm_scan(r->job->longterm, p->head, block) + (size_t)mka_scan_lines(d) * MKA_SCAN_TOKENS;
    for (; wanted; wanted &= wanted - 1) {
        int t = __builtin_ctzll(wanted);
        list_token(p, s, block * MKA_BLOCK + t, lift(&p->rows[p->longest], f16_to_f32(load_u16(factors + 2 * t))), e + t);
    }
}

static void scan_estimates(const recall *r, const pair *p, segment *s, int first, int blocks, unsigned char *scratch) {
    const mka_longterm *l = r->job->longterm;
    float *e = (float *)(void *)scratch, mass[64 * MKA_SCAN_MASSES];
    mka_scan_row *rows = (mka_scan_row *)(void *)(scratch + (size_t)p->r * MKA_SCAN_TOKENS * sizeof(float));
    memcpy(rows, p->rows, (size_t)p->r * sizeof *rows);
    s->floor = MKA_RECALL_THRESHOLD;
    set_floor(p, s->floor, rows);
    for (int b = 0; b < blocks; b++) {
        uint64_t wanted =
            r->ops->kernels->scan(p->r, l->shape.key_dim, mka_longterm_scan(l, p->head, first + b), p->tables, rows, e, mass);
        for (int i = 0; i < p->r; i++)
            memcpy(s->mass + (size_t)i * SEGMENT_MEANS + (size_t)b * MKA_SCAN_MASSES, mass + i * MKA_SCAN_MASSES,
                   MKA_SCAN_MASSES * sizeof *mass);
        if (s->listed > LIST_MOST - MKA_BLOCK) {
            shorten(p, s);
            set_floor(p, s->floor, rows);
        }
        list_block(r, p, s, first + b, wanted, e);
    }
    for (int i = 0; i < p->r; i++) {
        float sum = 0;
        for (int b = 0; b < blocks * MKA_SCAN_MASSES; b++) sum += s->mass[(size_t)i * SEGMENT_MEANS + (size_t)b];
        for (int n = 0; n < s->listed; n++) sum += s->weights[(size_t)n * (size_t)p->r + (size_t)i];
        s->sum[i] = sum;
    }
}

/* The exponent of a weight: powers of two are the steps in which bounds are summed. */
static int step_of(float e) {
    uint32_t bits;
    memcpy(&bits, &e, sizeof bits);
    return (int)(bits >> 23 & 255);
}

static void scan_bounds(const recall *r, const pair *p, segment *s, int first, int blocks, unsigned char *scratch) {
    const mka_longterm *l = r->job->longterm;
    float *e = (float *)(void *)scratch, mass[64 * MKA_SCAN_MASSES];
    memset(s->mass, 0, (size_t)p->r * SEGMENT_MEANS * sizeof(float));
    for (int b = 0; b < blocks; b++) {
        r->ops->kernels->scan(p->r, l->shape.key_dim, mka_longterm_scan(l, p->head, first + b), p->tables, p->rows, e, mass);
        for (int i = 0; i < p->r; i++)
            for (int t = 0; t < MKA_SCAN_TOKENS; t++) {
                float bound = e[i * MKA_SCAN_TOKENS + t];
                s->mass[(size_t)i * SEGMENT_MEANS + (size_t)step_of(bound)] += bound;
            }
    }
}

void mka_recall_scan(const recall *r, size_t pair_index, int index, unsigned char *scratch) {
    const pair *p = mka_pair_at(r, pair_index);
    segment *s = mka_segment_at(r, pair_index, index);
    mka_segment_place(r, s);
    s->listed = s->scored = s->read = 0;
    if (r->job->rule->contract == MKA_RECALL_ESTIMATED)
        scan_estimates(r, p, s, index * SEGMENT_BLOCKS, segment_blocks(r, index), scratch);
    else if (r->job->rule->contract == MKA_RECALL_CERTIFIED)
        scan_bounds(r, p, s, index * SEGMENT_BLOCKS, segment_blocks(r, index), scratch);
}

/* ---- 2: choose ---- */

/* Steps of a listed token's weight in the histograms below: four to a power of two. */
enum { STEPS = 1024 };

static int fine_step(float weight) {
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return (int)(bits >> 21 & (STEPS - 1));
}

static float step_value(int step) {
    uint32_t bits = (uint32_t)step << 21;
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

float mka_recall_weight(const pair *p, const segment *s, int entry) {
    float most = 0;
    for (int i = 0; i < p->r; i++) {
        float weight = s->weights[(size_t)entry * (size_t)p->r + (size_t)i] * p->share[i];
        most = weight > most ? weight : most;
    }
    return most * s->lifts[entry];
}

/* The weight above which at most about count tokens are listed. */
static float threshold_of_tokens(const recall *r, const pair *p, size_t pair_index, int count) {
    int steps[STEPS] = {0}, step = STEPS - 1, sum = 0;
    for (int i = 0; i < r->segments; i++) {
        const segment *s = mka_segment_at(r, pair_index, i);
        for (int e = 0; e < s->listed; e++) steps[fine_step(mka_recall_weight(p, s, e))]++;
    }
    while (step > 0 && sum + steps[step] <= count) sum += steps[step--];
    return step_value(step + 1);
}

/* The weight above which all rows have read all but rest of their mass. */
static float threshold_of_share(const recall *r, const pair *p, size_t pair_index, float rest) {
    int least = STEPS;
    for (int i = 0; i < p->r; i++) {
        float steps[STEPS] = {0}, unread = 0, budget = rest * p->total[i];
        int step = 0;
        for (int n = 0; n < r->segments; n++) {
            const segment *s = mka_segment_at(r, pair_index, n);
            unread += s->sum[i];
            for (int e = 0; e < s->listed; e++) {
                float weight = s->weights[(size_t)e * (size_t)p->r + (size_t)i];
                steps[fine_step(mka_recall_weight(p, s, e))] += weight;
                unread -= weight;
            }
        }
        while (step < STEPS && unread + steps[step] <= budget) unread += steps[step++];
        if (step < least) least = step;
    }
    return least == 0 ? -1.0F : step_value(least);
}

/* Certified: half of what may be lost goes to tokens whose bound is small, half to those whose weight proves to be. */
static void choose_bounds(const recall *r, pair *p, size_t pair_index) {
    float eps = r->job->rule->eps, tokens = (float)r->job->blocks * MKA_BLOCK;
    for (int i = 0; i < p->r; i++) {
        float budget = 0.5F * eps / (1 - eps) * p->z[i] * (1 - 1e-5F), sum = 0;
        int step = 0;
        for (; step < 255; step++) {
            float more = 0;
            for (int n = 0; n < r->segments; n++)
                more += mka_segment_at(r, pair_index, n)->mass[(size_t)i * SEGMENT_MEANS + (size_t)step];
            if (!(sum + more * MKA_RECALL_POWER <= budget)) break;
            sum += more * MKA_RECALL_POWER;
        }
        /* 2^x of the scan and its comparison round apart: a token between the two is read. */
        p->rows[i].floor = eps > 0 && step > 0 ? (float)(step - 127) - 0.15F : -INFINITY;
        p->skip[i] = budget / tokens;
        p->total[i] = sum;
    }
}

void mka_recall_choose(const recall *r, size_t pair_index) {
    pair *p = mka_pair_at(r, pair_index);
    const mka_recall *rule = r->job->rule;
    if (rule->contract == MKA_RECALL_CERTIFIED) choose_bounds(r, p, pair_index);
    if (rule->contract != MKA_RECALL_ESTIMATED) return;
    for (int i = 0; i < p->r; i++) {
        p->total[i] = p->z[i];
        for (int s = 0; s < r->segments; s++) p->total[i] += mka_segment_at(r, pair_index, s)->sum[i];
    }
    for (int i = 0; i < p->r; i++) p->share[i] = 1 / p->total[i];
    p->threshold = rule->tokens > 0  ? threshold_of_tokens(r, p, pair_index, rule->tokens)
                   : rule->share > 0 ? threshold_of_share(r, p, pair_index, 1 - rule->share)
                                     : MKA_RECALL_THRESHOLD;
}
