/* sample - chooses the next token from logits: repeat penalty, top-k, top-p, min-p, temperature, draw. Buffers are made once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <mka/session.h>

#include "base/status.h"

typedef struct candidate {
    float logit, weight;
    int token;
} candidate;

struct mka_sampler {
    mka_sampler_options options;
    int vocabulary, recent_count, recent_next;
    uint64_t state;
    candidate *candidates; /* [vocabulary] */
    int *recent;           /* [repeat_last] a ring of the last tokens */
    unsigned char *seen;   /* [vocabulary] scratch: already penalised */
};

void mka_sampler_defaults(mka_sampler_options *options) {
    *options = (mka_sampler_options){
        .temperature = 0.8F, .top_k = 40, .top_p = 0.95F, .min_p = 0.05F, .repeat_penalty = 1.0F, .repeat_last = 64};
}

static mka_status check(const mka_sampler_options *o, int vocabulary, mka_error *error) {
    if (vocabulary < 1) return mka_fail(error, MKA_BAD_ARGUMENT, "a vocabulary of %d cannot be sampled", vocabulary);
    if (!isfinite(o->temperature)) return mka_fail(error, MKA_BAD_ARGUMENT, "the temperature is not a number");
    if (o->top_k < 0) return mka_fail(error, MKA_BAD_ARGUMENT, "top-k is %d; it must be at least 0 (0 turns it off)", o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return mka_fail(error, MKA_BAD_ARGUMENT, "top-p is %g; it must be above 0 and at most 1 (1 turns it off)",
                        (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return mka_fail(error, MKA_BAD_ARGUMENT, "min-p is %g; it must be from 0 (off) to 1", (double)o->min_p);
    if (!(o->repeat_penalty > 0 && o->repeat_penalty <= 100))
        return mka_fail(error, MKA_BAD_ARGUMENT, "the repeat penalty is %g; it must be above 0 and at most 100 (1 turns it off)",
                        (double)o->repeat_penalty);
    if (o->repeat_last < 0 || o->repeat_last > 1 << 24)
        return mka_fail(error, MKA_BAD_ARGUMENT, "the repeat penalty cannot look at %d tokens", o->repeat_last);
    return MKA_OK;
}

mka_status mka_sampler_create(const mka_sampler_options *options, int vocabulary, mka_sampler **out, mka_error *error) {
    mka_sampler_options defaults;
    mka_sampler_defaults(&defaults);
    if (!options) options = &defaults;
    *out = NULL;
    mka_succeed(error);
    mka_status status = check(options, vocabulary, error);
    if (status) return status;
    mka_sampler *s = calloc(1, sizeof *s);
    if (s) {
        s->options = *options;
        s->vocabulary = vocabulary;
        s->state = options->seed;
        s->candidates = malloc((size_t)vocabulary * sizeof *s->candidates);
        s->recent = malloc(((size_t)options->repeat_last + 1) * sizeof *s->recent);
        s->seen = calloc((size_t)vocabulary, 1);
    }
    if (!s || !s->candidates || !s->recent || !s->seen) {
        mka_sampler_destroy(s);
        return mka_fail(error, MKA_NO_MEMORY, "no memory to sample from %d tokens", vocabulary);
    }
    *out = s;
    return MKA_OK;
}

void mka_sampler_destroy(mka_sampler *s) {
    if (!s) return;
    free(s->candidates);
    free(s->recent);
    free(s->seen);
    free(s);
}

void mka_sampler_accept(mka_sampler *s, int token) {
    if (s->options.repeat_last == 0 || token < 0 || token >= s->vocabulary) return;
    s->recent[s->recent_next] = token;
    s->recent_next = (s->recent_next + 1) % s->options.repeat_last;
    if (s->recent_count < s->options.repeat_last) s->recent_count++;
}

/* splitmix64: the sequence is part of the contract (the same seed, the same tokens), so it is our own. */
static double uniform(mka_sampler *s) {
    uint64_t z = s->state += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* All tokens but those that are NaN, with penalised logits; returns how many. */
static int gather(mka_sampler *s, const float *logits) {
    int penalise = s->options.repeat_penalty != 1.0F, count = 0;
    for (int i = 0; penalise && i < s->recent_count; i++) s->seen[s->recent[i]] = 1;
    for (int i = 0; i < s->vocabulary; i++) {
        float logit = logits[i];
        if (isnan(logit)) continue;
        if (penalise && s->seen[i]) logit = logit > 0 ? logit / s->options.repeat_penalty : logit * s->options.repeat_penalty;
        s->candidates[count++] = (candidate){logit, 0.0F, i};
    }
    for (int i = 0; penalise && i < s->recent_count; i++) s->seen[s->recent[i]] = 0;
    return count;
}

/* Larger logit first; a lower id first among equals. */
static int before(const candidate *a, const candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

/* Sinks the root of a heap whose root comes last in the order. */
static void sink(candidate *heap, int count, int at) {
    for (;;) {
        int worst = at, left = 2 * at + 1, right = left + 1;
        if (left < count && before(&heap[worst], &heap[left])) worst = left;
        if (right < count && before(&heap[worst], &heap[right])) worst = right;
        if (worst == at) return;
        candidate swap = heap[at];
        heap[at] = heap[worst];
        heap[worst] = swap;
        at = worst;
    }
}

/* Brings the first k (<= count) of the order to the front, sorted. A heap, because qsort may allocate. */
static void keep_best(candidate *c, int count, int k) {
    for (int i = k / 2 - 1; i >= 0; i--) sink(c, k, i);
    for (int i = k; i < count; i++)
        if (before(&c[i], &c[0])) {
            c[0] = c[i];
            sink(c, k, 0);
        }
    for (int end = k - 1; end > 0; end--) {
        candidate worst = c[0];
        c[0] = c[end];
        c[end] = worst;
        sink(c, end, 0);
    }
}

/* Probabilities at temperature 1 of a sorted list, then the cuts by top-p and min-p; returns how many stay. */
static int cut(const mka_sampler *s, candidate *c, int count) {
    double sum = 0, seen = 0;
    for (int i = 0; i < count; i++) {
        c[i].weight = c[i].logit == c[0].logit ? 1.0F : expf(c[i].logit - c[0].logit); /* two infinities are equal */
        sum += (double)c[i].weight;
    }
    int keep = count;
    if (s->options.top_p < 1)
        for (keep = 0; keep < count && (keep == 0 || seen < (double)s->options.top_p * sum); keep++)
            seen += (double)c[keep].weight;
    while (keep > 1 && c[keep - 1].weight < s->options.min_p) keep--;
    return keep;
}

static int draw(mka_sampler *s, candidate *c, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) {
        c[i].weight = c[i].logit == c[0].logit ? 1.0F : expf((c[i].logit - c[0].logit) / s->options.temperature);
        sum += (double)c[i].weight;
    }
    double left = uniform(s) * sum;
    int i = 0;
    while (i + 1 < count && (left -= (double)c[i].weight) >= 0) i++;
    return i;
}

static int greedy(const candidate *c, int count) {
    int best = 0;
    for (int i = 1; i < count; i++)
        if (before(&c[i], &c[best])) best = i;
    return best;
}

int mka_sampler_next(mka_sampler *s, const float *logits) {
    int count = gather(s, logits), chosen = 0;
    if (count == 0) return -1;
    if (s->options.temperature <= 0) {
        chosen = greedy(s->candidates, count);
    } else {
        int k = s->options.top_k > 0 && s->options.top_k < count ? s->options.top_k : count;
        keep_best(s->candidates, count, k);
        chosen = draw(s, s->candidates, cut(s, s->candidates, k));
    }
    int token = s->candidates[chosen].token;
    mka_sampler_accept(s, token);
    return token;
}
