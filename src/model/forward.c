/* forward - one chunk of tokens through the model: embedding, blocks, final norm; then logits, or likelihoods without logits.
 *
 *   x = embed(tokens)                      h = norm(x)
 *   each block: y = attention(norm(x)); x += y; y = down(act(gate h) * up h) with h = norm(x); x += y
 */
#include <math.h>
#include <string.h>

#include "session.h"

static void embed(mka_session *s, const int *tokens, int n) {
    const mka_sizes *sizes = &s->model->sizes;
    for (int i = 0; i < n; i++) {
        float *row = s->x + (size_t)i * (size_t)sizes->width;
        mka_ops_row(&s->ops, &s->model->embedding, tokens[i], row);
        if (sizes->embed_scale != 1)
            for (int64_t j = 0; j < sizes->width; j++) row[j] *= (float)sizes->embed_scale;
    }
}

/* A layer's attention, from x to x. */
static mka_attention_pass pass_of(mka_session *s, int layer, int n) {
    const mka_model *m = s->model;
    const mka_block *b = &m->blocks[layer];
    mka_ops *ops = mka_session_ops(s, layer);
    int rope = b->attention.config.rope;
    float eps = (float)m->sizes.norm_eps;
    return (mka_attention_pass){.ops = ops,
                                .layer = &b->attention,
                                .state = &s->layers[layer],
                                .scratch = &s->attention,
                                .first = s->length,
                                .n = n,
                                .rope = &m->ropes[rope],
                                .cosine = s->cosine[rope],
                                .sine = s->sine[rope],
                                .mla = s->options.mla,
                                .level_threshold = s->tiered ? s->options.level_threshold : 0,
                                .expanded = ops == &s->ops ? &s->expanded : &s->expanded_there,
                                .x = s->h,
                                .norm = {s->x, b->attention_norm, eps},
                                .y = s->y,
                                .sum = {s->x, b->attention_post_norm, eps}};
}

/* One layer, from x to x. */
static void block(mka_session *s, int layer, int n) {
    const mka_model *m = s->model;
    const mka_sizes *sizes = &m->sizes;
    const mka_block *b = &m->blocks[layer];
    int width = (int)sizes->width, ffn = (int)sizes->ffn;
    float eps = (float)sizes->norm_eps;
    const mka_product up[2] = {{&b->gate, NULL, s->h, width, s->gate, ffn}, {&b->up, NULL, s->h, width, s->up, ffn}};
    const mka_product down = {&b->down, NULL, s->gate, ffn, s->y, width};
    const mka_step feed_forward[MKA_AFTER] = {
        {.norm = {s->x, b->ffn_norm, eps}, .count = 2, .products = up, .glu = sizes->arch->gelu ? MKA_GEGLU : MKA_SWIGLU},
        {.count = 1, .products = &down, .sum = {s->x, b->ffn_post_norm, eps}}};
    mka_attention_pass pass = pass_of(s, layer, n), next;
    pass.after = feed_forward;
    pass.after_count = MKA_AFTER;
    if (n == 1 && layer + 1 < s->offloaded) {
        next = pass_of(s, layer + 1, n);
        pass.next = &next;
    }
    mka_variant_get(b->attention.config.variant)->forward(&pass);
}

/* What the layers begin with: embeddings, and behind them the angles of every rotation. */
static void make_inputs(mka_session *s, const int *tokens, int n) {
    const mka_model *m = s->model;
    float *at = s->x + (size_t)n * (size_t)m->sizes.width;
    embed(s, tokens, n);
    for (int i = 0; i < MKA_ROPES; i++) {
        size_t count = (size_t)n * (size_t)m->ropes[i].pairs;
        s->cosine[i] = at;
        s->sine[i] = at + count;
        at += 2 * count;
        mka_rope_fill(&m->ropes[i], s->length, n, s->cosine[i], s->sine[i]);
    }
    if (s->offloaded) s->device_ops.put(&s->device_ops, s->x, (size_t)(at - s->x) * sizeof *at);
}

int mka_forward(mka_session *s, const int *tokens, int n, int (*stop)(void *user), void *user) {
    const mka_model *m = s->model;
    size_t bytes = (size_t)n * (size_t)m->sizes.width * sizeof(float);
    make_inputs(s, tokens, n);
    for (int i = 0; i < m->sizes.layers; i++) {
        if (i > 0 && i == s->offloaded) s->device_ops.get(&s->device_ops, s->x, bytes);
        block(s, i, n);
        if (stop && stop(user)) return 1;
    }
    if (s->offloaded == m->sizes.layers && !s->output_there) s->device_ops.get(&s->device_ops, s->x, bytes);
    return 0;
}

mka_status mka_forward_settle(mka_session *s, mka_error *error) {
    return s->offloaded ? s->device_ops.settle(&s->device_ops, error) : MKA_OK;
}

void mka_forward_logits(mka_session *s, int row, float *logits) {
    const mka_model *m = s->model;
    mka_ops *ops = mka_session_last_ops(s);
    int width = (int)m->sizes.width;
    mka_product product = {&m->output, NULL, s->h, width, logits, m->output.rows};
    mka_step step = {
        .norm = {s->x + (size_t)row * (size_t)width, m->output_norm, (float)m->sizes.norm_eps}, .count = 1, .products = &product};
    ops->steps(ops, 1, 1, &step);
}

typedef struct score_task {
    mka_session *session;
    const int *targets;
    int n, first, columns;
} score_task;

/* Takes one tile of logits into the running sum of each row: the online softmax of attention, with one key a column. */
static void score_share(void *argument, int thread, int threads) {
    const score_task *t = argument;
    mka_session *s = t->session;
    size_t begin, end;
    mka_share((size_t)t->n, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        float *row = s->tile + i * MKA_SCORE_TILE;
        int target = t->targets[i] - t->first;
        if (target >= 0 && target < t->columns) s->score_target[i] = row[target];
        s->ops.kernels->online(1, t->columns, row, MKA_SCORE_TILE, &s->score_m[i], &s->score_z[i], &s->score_c[i]);
    }
}

void mka_forward_nll(mka_session *s, int first_row, int n, const int *targets, double *nll) {
    const mka_matrix *output = &s->model->output;
    mka_ops *ops = mka_session_last_ops(s);
    int width = (int)s->model->sizes.width;
    ops->norm(ops, n, width, (float)s->model->sizes.norm_eps, s->x + (size_t)first_row * (size_t)width, width,
              s->model->output_norm, s->h, width);
    for (int i = 0; i < n; i++) s->score_m[i] = -INFINITY, s->score_z[i] = 0.0F;
    for (int first = 0; first < output->rows; first += MKA_SCORE_TILE) {
        int columns = output->rows - first < MKA_SCORE_TILE ? output->rows - first : MKA_SCORE_TILE;
        mka_matrix part = *output;
        part.data = (const unsigned char *)output->data + (size_t)first * output->row_bytes;
        part.rows = columns;
        mka_product product = {&part, NULL, s->h, width, s->tile, MKA_SCORE_TILE};
        ops->multiply(ops, n, 1, &product);
        ops->get(ops, s->tile, (size_t)n * MKA_SCORE_TILE * sizeof *s->tile);
        score_task task = {s, targets, n, first, columns};
        mka_pool_run(s->ops.pool, score_share, &task);
    }
    for (int i = 0; i < n; i++)
        if (targets[i] >= 0) nll[i] = (double)s->score_m[i] + log((double)s->score_z[i]) - (double)s->score_target[i];
}
