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

static void norm(mka_session *s, mka_ops *ops, int n, const float *x, const float *weight, float *y) {
    int width = (int)s->model->sizes.width;
    ops->norm(ops, n, width, (float)s->model->sizes.norm_eps, x, width, weight, y, width);
}

/* x += y, after y's own norm where the architecture has one. */
static void add_output(mka_session *s, mka_ops *ops, int n, const float *post_norm) {
    if (post_norm) norm(s, ops, n, s->y, post_norm, s->y);
    ops->add(ops, (size_t)n * (size_t)s->model->sizes.width, s->y, s->x);
}

/* y of the normalised h, and then the steps `after` (one token only). */
static void attention(mka_session *s, mka_ops *ops, const mka_block *block, mka_layer_state *state, int n, const mka_step *after,
                      int count) {
    int rope = block->attention.config.rope;
    norm(s, ops, n, s->x, block->attention_norm, s->h);
    mka_attention_pass pass = {.ops = ops,
                               .layer = &block->attention,
                               .state = state,
                               .scratch = &s->attention,
                               .first = s->length,
                               .n = n,
                               .rope = &s->model->ropes[rope],
                               .cosine = s->cosine[rope],
                               .sine = s->sine[rope],
                               .mla = s->options.mla,
                               .level_threshold = s->tiered ? s->options.level_threshold : 0,
                               .expanded = ops == &s->ops ? &s->expanded : &s->expanded_there,
                               .x = s->h,
                               .y = s->y,
                               .after = after,
                               .after_count = count};
    mka_variant_get(block->attention.config.variant)->forward(&pass);
}

/* gate, up of h, and down, which takes what becomes of gate. */
static void feed_forward_products(mka_session *s, const mka_block *block, mka_product p[3]) {
    int width = (int)s->model->sizes.width, ffn = (int)s->model->sizes.ffn;
    p[0] = (mka_product){&block->gate, NULL, s->h, width, s->gate, ffn};
    p[1] = (mka_product){&block->up, NULL, s->h, width, s->up, ffn};
    p[2] = (mka_product){&block->down, NULL, s->gate, ffn, s->y, width};
}

static void block_many(mka_session *s, mka_ops *ops, const mka_block *block, mka_layer_state *state, int n) {
    mka_product p[3];
    feed_forward_products(s, block, p);
    attention(s, ops, block, state, n, NULL, 0);
    add_output(s, ops, n, block->attention_post_norm);
    norm(s, ops, n, s->x, block->ffn_norm, s->h);
    ops->gated(ops, n, s->model->sizes.arch->gelu, &p[0], &p[1]);
    ops->multiply(ops, n, 1, &p[2]);
    add_output(s, ops, n, block->ffn_post_norm);
}

typedef struct one_token {
    mka_session *session;
    const mka_block *block;
} one_token;

/* Between attention and feed-forward, on one thread: what ops->norm and ops->add would do with one row. */
static void between(void *user) {
    const one_token *t = user;
    mka_session *s = t->session;
    const mka_kernels *kernels = s->ops.kernels;
    int width = (int)s->model->sizes.width;
    float eps = (float)s->model->sizes.norm_eps;
    if (t->block->attention_post_norm) kernels->rms_norm(width, eps, s->y, t->block->attention_post_norm, s->y);
    kernels->add(width, s->y, s->x);
    kernels->rms_norm(width, eps, s->x, t->block->ffn_norm, s->h);
}

/* Decoding: from attention's output to the end of the block in one run of the threads. */
static void block_one(mka_session *s, mka_ops *ops, const mka_block *block, mka_layer_state *state) {
    const mka_kernels *kernels = s->ops.kernels;
    mka_product p[3];
    one_token token = {s, block};
    feed_forward_products(s, block, p);
    mka_step after[MKA_AFTER] = {{.before = between,
                                  .user = &token,
                                  .count = 2,
                                  .products = p,
                                  .glu = s->model->sizes.arch->gelu ? kernels->geglu : kernels->swiglu},
                                 {.count = 1, .products = &p[2]}};
    attention(s, ops, block, state, 1, after, MKA_AFTER);
    add_output(s, ops, 1, block->ffn_post_norm);
}

/* What the host has made for the layers: embeddings and angles. */
static void put_inputs(mka_session *s, int n) {
    mka_ops *ops = &s->device_ops;
    ops->put(ops, s->x, (size_t)n * (size_t)s->model->sizes.width * sizeof(float));
    for (int i = 0; i < MKA_ROPES; i++) {
        size_t bytes = (size_t)n * (size_t)s->model->ropes[i].pairs * sizeof(float);
        if (bytes == 0) continue;
        ops->put(ops, s->cosine[i], bytes);
        ops->put(ops, s->sine[i], bytes);
    }
}

int mka_forward(mka_session *s, const int *tokens, int n, int (*stop)(void *user), void *user) {
    const mka_model *m = s->model;
    size_t bytes = (size_t)n * (size_t)m->sizes.width * sizeof(float);
    embed(s, tokens, n);
    for (int i = 0; i < MKA_ROPES; i++) mka_rope_fill(&m->ropes[i], s->length, n, s->cosine[i], s->sine[i]);
    if (s->offloaded) put_inputs(s, n);
    for (int i = 0; i < m->sizes.layers; i++) {
        mka_ops *ops = mka_session_ops(s, i);
        if (i > 0 && i == s->offloaded) s->device_ops.get(&s->device_ops, s->x, bytes);
        if (n == 1 && ops->chain)
            block_one(s, ops, &m->blocks[i], &s->layers[i]);
        else
            block_many(s, ops, &m->blocks[i], &s->layers[i], n);
        if (stop && stop(user)) return 1;
    }
    if (s->offloaded == m->sizes.layers && !s->output_there) s->device_ops.get(&s->device_ops, s->x, bytes);
    norm(s, mka_session_last_ops(s), n, s->x, m->output_norm, s->h);
    return 0;
}

mka_status mka_forward_settle(mka_session *s, mka_error *error) {
    return s->offloaded ? s->device_ops.settle(&s->device_ops, error) : MKA_OK;
}

void mka_forward_logits(mka_session *s, int row, float *logits) {
    mka_ops *ops = mka_session_last_ops(s);
    int width = (int)s->model->sizes.width;
    mka_product product = {&s->model->output, NULL, s->h + (size_t)row * (size_t)width, width, logits, s->model->output.rows};
    ops->multiply(ops, 1, 1, &product);
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

void mka_forward_nll(mka_session *s, int n, const int *targets, double *nll) {
    const mka_matrix *output = &s->model->output;
    mka_ops *ops = mka_session_last_ops(s);
    for (int i = 0; i < n; i++) s->score_m[i] = -INFINITY, s->score_z[i] = 0.0F;
    for (int first = 0; first < output->rows; first += MKA_SCORE_TILE) {
        int columns = output->rows - first < MKA_SCORE_TILE ? output->rows - first : MKA_SCORE_TILE;
        mka_matrix part = *output;
        part.data = (const unsigned char *)output->data + (size_t)first * output->row_bytes;
        part.rows = columns;
        mka_product product = {&part, NULL, s->h, (int)s->model->sizes.width, s->tile, MKA_SCORE_TILE};
        ops->multiply(ops, n, 1, &product);
        ops->get(ops, s->tile, (size_t)n * MKA_SCORE_TILE * sizeof *s->tile);
        score_task task = {s, targets, n, first, columns};
        mka_pool_run(s->ops.pool, score_share, &task);
    }
    for (int i = 0; i < n; i++)
        if (targets[i] >= 0) nll[i] = (double)s->score_m[i] + log((double)s->score_z[i]) - (double)s->score_target[i];
}
