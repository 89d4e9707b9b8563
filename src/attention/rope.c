/* rope - rotary position embedding: the frequencies of a model once, and the cosines of a pass. Angles are computed in double,
 * because position times frequency loses a radian's fraction in float beyond some tens of thousands of tokens. */
#include <math.h>
#include <stdlib.h>

#include "attention.h"
#include "base/status.h"

#define PI 3.14159265358979323846

static double clamp(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

/* YaRN: pairs that turn often are kept, pairs that turn rarely are stretched, those between are mixed. */
static double yarn_kept(int pair, int dim, double base, const mka_rope_scaling *s) {
    double low = floor(dim * log(s->original_context / (s->beta_fast * 2 * PI)) / (2 * log(base)));
    double high = ceil(dim * log(s->original_context / (s->beta_slow * 2 * PI)) / (2 * log(base)));
    low = low < 0 ? 0 : low;
    high = high > dim - 1 ? dim - 1 : high;
    double width = high - low < 0.001 ? 0.001 : high - low;
    return 1 - clamp((pair - low) / width, 0, 1);
}

/* Llama 3: the same idea by wavelength. */
static double llama3_frequency(double frequency, const mka_rope_scaling *s) {
    double turns = s->original_context * frequency / (2 * PI);
    if (turns < s->low_factor) return frequency / s->factor;
    if (turns > s->high_factor) return frequency;
    double smooth = (turns - s->low_factor) / (s->high_factor - s->low_factor);
    return (1 - smooth) * frequency / s->factor + smooth * frequency;
}

static double scaled_frequency(int pair, int dim, double base, const mka_rope_scaling *s) {
    double frequency = pow(base, -2.0 * pair / dim);
    if (!s) return frequency;
    if (s->divisors) frequency /= (double)s->divisors[pair];
    if (s->kind == MKA_ROPE_LINEAR) return frequency / s->factor;
    if (s->kind == MKA_ROPE_LLAMA3) return llama3_frequency(frequency, s);
    if (s->kind == MKA_ROPE_YARN) {
        double kept = yarn_kept(pair, dim, base, s);
        return frequency / s->factor * (1 - kept) + frequency * kept;
    }
    return frequency;
}

mka_status mka_rope_create(int dim, double base, int neighbours, const mka_rope_scaling *scaling, mka_rope *rope,
                           mka_error *error) {
    *rope = (mka_rope){.neighbours = neighbours, .magnitude = 1.0F};
    if (dim == 0 || base == 0) return MKA_OK;
    if (dim < 0 || dim % 2 || !(base > 1) || !isfinite(base))
        return mka_fail(error, MKA_BAD_ARGUMENT, "rotary embedding of %d numbers a head with base %g cannot be computed", dim,
                        base);
    rope->pairs = dim / 2;
    rope->inverse = malloc((size_t)rope->pairs * sizeof *rope->inverse);
    if (!rope->inverse) return mka_fail(error, MKA_NO_MEMORY, "no memory for rotary frequencies");
    for (int i = 0; i < rope->pairs; i++) rope->inverse[i] = scaled_frequency(i, dim, base, scaling);
    if (scaling) rope->magnitude = (float)scaling->magnitude;
    return MKA_OK;
}

void mka_rope_destroy(mka_rope *rope) {
    free(rope->inverse);
    *rope = (mka_rope){.inverse = NULL};
}

void mka_rope_fill(const mka_rope *rope, int first, int n, float *cosine, float *sine) {
    for (int i = 0; i < n; i++)
        for (int p = 0; p < rope->pairs; p++) {
            double angle = (double)(first + i) * rope->inverse[p];
            *cosine++ = (float)cos(angle) * rope->magnitude;
            *sine++ = (float)sin(angle) * rope->magnitude;
        }
}
