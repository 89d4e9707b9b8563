/* router - what MKA and FastMKA add to attention: the three levels in hidden space, and one weight a level for each token.
 *
 *   L1 the token's row   L2 running session summary   L3 a long-term row: from the bank (memory/bank.h), which is asked with L2,
 *                                                        or given, by absolute position
 *   lambda = softmax(W2 act(W1 q + b1) + b2)
 */
#include <string.h>

#include "attention.h"

void mka_measure_router(const mka_layer_config *c, int n, mka_attention_sizes *sizes) {
    mka_raise(&sizes->hidden, (size_t)n, (size_t)c->router_hidden);
    mka_raise(&sizes->lambda, (size_t)n, (size_t)c->levels);
    mka_raise(&sizes->summary_rows, (size_t)n, (size_t)c->width);
    mka_raise(&sizes->longterm_rows, (size_t)n, (size_t)c->width);
}

mka_product mka_route_in(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    const mka_attention_scratch *s = pass->scratch;
    return (mka_product){&w->router_in, w->router_in_bias, s->q, c->heads * c->head_dim, s->hidden, c->router_hidden};
}

void mka_route_out(const mka_attention_pass *pass, int gelu) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    const mka_attention_scratch *s = pass->scratch;
    const mka_kernels *kernels = pass->ops->kernels;
    (gelu ? kernels->gelu : kernels->silu)(pass->n * c->router_hidden, s->hidden);
    mka_product out = {&w->router_out, w->router_out_bias, s->hidden, c->router_hidden, s->lambda, c->levels};
    if (pass->n == 1)
        pass->ops->alone(pass->ops, 1, &out);
    else
        pass->ops->multiply(pass->ops, pass->n, 1, &out);
    for (int i = 0; i < pass->n; i++) kernels->softmax(c->levels, s->lambda + (size_t)i * (size_t)c->levels);
    if (pass->trace && pass->trace->router)
        memcpy(pass->trace->router, s->lambda, (size_t)pass->n * (size_t)c->levels * sizeof(float));
}

void mka_route(const mka_attention_pass *pass, int gelu) {
    mka_product in = mka_route_in(pass);
    pass->ops->multiply(pass->ops, pass->n, 1, &in);
    mka_route_out(pass, gelu);
}

void mka_route_drop(const mka_attention_pass *pass, int first) {
    int levels = pass->layer->config.levels;
    if (pass->level_threshold <= 0) return;
    for (int i = 0; i < pass->n; i++) {
        float *lambda = pass->scratch->lambda + (size_t)i * (size_t)levels, kept = 0;
        int dropped = 0;
        for (int l = 0; l < levels; l++) {
            if (l >= first && lambda[l] < pass->level_threshold) lambda[l] = 0, dropped = 1;
            kept += lambda[l];
        }
        for (int l = 0; dropped && l < levels; l++) lambda[l] /= kept;
    }
}

/* The session summary after every token; the state carries on, so that chunks of any size agree. */
static void summary_rows(const mka_attention_pass *pass, float *rows) {
    const mka_layer_config *c = &pass->layer->config;
    size_t width = (size_t)c->width;
    for (size_t i = 0; i < (size_t)pass->n; i++) {
        pass->ops->kernels->ema(c->width, c->ema_beta, pass->x + i * width, pass->state->summary);
        memcpy(rows + i * width, pass->state->summary, width * sizeof(float));
    }
    if (pass->trace && pass->trace->session_state)
        memcpy(pass->trace->session_state, pass->state->summary, width * sizeof(float));
}

/* The token at absolute position p reads long-term row min(p, rows - 1); zeros when there is no long-term memory. */
static void longterm_rows(const mka_attention_pass *pass, float *rows) {
    size_t width = (size_t)pass->layer->config.width;
    const mka_layer_state *state = pass->state;
    if (state->longterm_rows == 0) {
        memset(rows, 0, (size_t)pass->n * width * sizeof(float));
        return;
    }
    for (int i = 0; i < pass->n; i++) {
        int row = pass->first + i < state->longterm_rows ? pass->first + i : state->longterm_rows - 1;
        memcpy(rows + (size_t)i * width, state->longterm + (size_t)row * width, width * sizeof(float));
    }
}

static void bank_rows(const mka_attention_pass *pass, const float *weights, int stride, float *rows) {
    const mka_attention_scratch *s = pass->scratch;
    mka_bank *bank = &pass->state->bank;
    mka_tiers_shared *shared = pass->state->cache[0].shared;
    mka_bank_put(bank, pass->ops->kernels, pass->n, pass->x);
    uint64_t bytes = mka_bank_find(bank, pass->state->bank_work, pass->ops, pass->first, pass->n, s->summary_rows, weights,
                                   stride, pass->n == 1, rows);
    pass->ops->cache_bytes += bytes;
    if (!shared) return;
    shared->used.bank_bytes += bytes;
    if (!weights) return;
    shared->used.levels += (uint64_t)pass->n;
    for (int i = 0; i < pass->n; i++) {
        if (weights[(size_t)i * (size_t)stride] != 0) continue;
        shared->used.levels_skipped++;
        shared->used.saved_bytes += mka_bank_find_bytes(bank, pass->first + i);
    }
}

void mka_level_rows(const mka_attention_pass *pass, const float *weights, int stride, const float *rows[MKA_LEVELS]) {
    rows[0] = pass->x;
    rows[1] = pass->scratch->summary_rows;
    rows[2] = pass->scratch->longterm_rows;
    summary_rows(pass, pass->scratch->summary_rows);
    if (pass->layer->config.levels < MKA_LEVELS) return;
    if (pass->state->bank.scan)
        bank_rows(pass, weights, stride, pass->scratch->longterm_rows);
    else
        longterm_rows(pass, pass->scratch->longterm_rows);
}
