/* weights - finds a model's tensors by name, checks each shape, and binds them to the layers.
 *
 * Matrices stay where they are mapped. Norms and biases become float32 copies, and latent attention's up-projections are split by
 * head; both live in one arena, which a first pass over the same code measures.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "model.h"

typedef struct binder {
    mka_model *model;
    const char *path;
    int layer;
    mka_error *error;
    mka_status status; /* the first failure; later calls do nothing */
    uint64_t by_type[MKA_TYPE_LIMIT];
} binder;

/* One tensor's name in each naming; %d is the layer. NULL where the naming has none. */
typedef struct tensor_name {
    const char *names[3];
} tensor_name;

#define NAME(gguf, hf, reference) ((tensor_name){{gguf, hf, reference}})

static const mka_tensor *find(const binder *b, tensor_name name, char *text, size_t room) {
    const char *format = name.names[b->model->sizes.naming];
    text[0] = '\0';
    if (!format) return NULL;
    const char *layer = strstr(format, "%d");
    if (layer)
        snprintf(text, room, "%.*s%d%s", (int)(layer - format), format, b->layer, layer + 2);
    else
        snprintf(text, room, "%s", format);
    const mka_tensor *tensor = mka_file_find(b->model->file, text);
    if (!tensor && b->model->sizes.naming == MKA_NAMES_HF && !strncmp(text, "model.", 6)) { /* models that also see */
        char longer[256];
        snprintf(longer, sizeof longer, "language_model.%s", text);
        tensor = mka_file_find(b->model->file, longer);
    }
    return tensor;
}

static void shape_text(const mka_tensor *t, char *text, size_t room) {
    size_t used = 0;
    for (int i = 0; i < t->rank && used < room; i++)
        used += (size_t)snprintf(text + used, room - used, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    if (t->rank == 0) snprintf(text, room, "none");
}

static mka_status missing(const binder *b, const char *name) {
    return mka_fail(b->error, MKA_BAD_FILE, "%s: tensor %s is missing", b->path, name);
}

/* A matrix [rows][cols]; rank 3 for one a head, [heads][rows][cols], which binds as [heads * rows][cols]. */
static mka_matrix matrix(binder *b, tensor_name name, int64_t rows, int64_t cols, int heads) {
    char text[256], shape[96];
    mka_matrix none = {.data = NULL};
    if (b->status) return none;
    const mka_tensor *t = find(b, name, text, sizeof text);
    if (!t) {
        b->status = missing(b, text);
        return none;
    }
    int fits = heads ? t->rank == 3 && t->shape[0] == heads && t->shape[1] == rows && t->shape[2] == cols
                     : t->rank == 2 && t->shape[0] == rows && t->shape[1] == cols;
    size_t row_bytes = mka_type_row_bytes(t->type, cols);
    if (!fits) {
        shape_text(t, shape, sizeof shape);
        b->status = mka_fail(b->error, MKA_BAD_FILE, "%s: tensor %s has shape [%s]; the model's sizes ask for [%s%lld, %lld]",
                             b->path, text, shape, heads ? "heads, " : "", (long long)rows, (long long)cols);
    } else if (!mka_type_get(t->type)->weight || row_bytes == 0) {
        b->status = mka_fail(b->error, MKA_UNSUPPORTED, "%s: tensor %s is of type %s, which cannot be multiplied", b->path, text,
                             mka_type_name(t->type));
    }
    if (b->status) return none;
    int64_t all = heads ? rows * heads : rows;
    b->by_type[t->type] += t->bytes;
    b->model->weight_bytes += t->bytes;
    b->model->parameters += (uint64_t)all * (uint64_t)cols;
    return (mka_matrix){t->data, t->type, (int)all, (int)cols, row_bytes};
}

/* A vector as float32, plus offset; NULL when it is absent and optional. */
static const float *vector(binder *b, tensor_name name, int64_t length, int optional, double offset) {
    char text[256], shape[96];
    if (b->status) return NULL;
    const mka_tensor *t = find(b, name, text, sizeof text);
    if (!t) {
        if (!optional) b->status = missing(b, text);
        return NULL;
    }
    mka_load_fn *load = mka_type_get(t->type)->quant ? NULL : b->model->engine->kernels->load[t->type];
    if (t->rank != 1 || t->shape[0] != length) {
        shape_text(t, shape, sizeof shape);
        b->status = mka_fail(b->error, MKA_BAD_FILE, "%s: tensor %s has shape [%s]; the model's sizes ask for [%lld]", b->path,
                             text, shape, (long long)length);
    } else if (!load) {
        b->status = mka_fail(b->error, MKA_UNSUPPORTED, "%s: tensor %s is of type %s; a vector must be f32, f16 or bf16", b->path,
                             text, mka_type_name(t->type));
    }
    if (b->status) return NULL;
    b->model->weight_bytes += t->bytes;
    b->model->parameters += (uint64_t)length;
    float *copy = mka_arena_take(&b->model->copies, (size_t)length, sizeof(float));
    if (!copy) return NULL;
    load((int)length, t->data, copy);
    for (int64_t i = 0; i < length; i++) copy[i] += (float)offset;
    return copy;
}

static void bind_grouped(binder *b, mka_layer *layer) {
    const mka_sizes *s = &b->model->sizes;
    mka_layer_weights *w = &layer->weights;
    int64_t q = s->heads * s->head_dim, k = s->kv_heads * s->head_dim, v = s->kv_heads * s->value_dim;
    w->q = matrix(b, NAME("blk.%d.attn_q.weight", "model.layers.%d.self_attn.q_proj.weight", "p.layers.%d.attn.q_proj.weight"), q,
                  s->width, 0);
    w->k = matrix(b, NAME("blk.%d.attn_k.weight", "model.layers.%d.self_attn.k_proj.weight", "p.layers.%d.attn.k_proj.weight"), k,
                  s->width, 0);
    w->v = matrix(b, NAME("blk.%d.attn_v.weight", "model.layers.%d.self_attn.v_proj.weight", "p.layers.%d.attn.v_proj.weight"), v,
                  s->width, 0);
    int optional = !s->arch->qkv_bias;
    w->q_bias = vector(b, NAME("blk.%d.attn_q.bias", "model.layers.%d.self_attn.q_proj.bias", "p.layers.%d.attn.q_proj.bias"), q,
                       optional, 0);
    w->k_bias = vector(b, NAME("blk.%d.attn_k.bias", "model.layers.%d.self_attn.k_proj.bias", "p.layers.%d.attn.k_proj.bias"), k,
                       optional, 0);
    w->v_bias = vector(b, NAME("blk.%d.attn_v.bias", "model.layers.%d.self_attn.v_proj.bias", "p.layers.%d.attn.v_proj.bias"), v,
                       optional, 0);
    if (!s->arch->qk_norm) return;
    w->q_norm = vector(b, NAME("blk.%d.attn_q_norm.weight", "model.layers.%d.self_attn.q_norm.weight", NULL), s->head_dim, 0,
                       s->norm_offset);
    w->k_norm = vector(b, NAME("blk.%d.attn_k_norm.weight", "model.layers.%d.self_attn.k_norm.weight", NULL), s->head_dim, 0,
                       s->norm_offset);
}

static void bind_router(binder *b, mka_layer *layer) {
    const mka_layer_config *c = &layer->config;
    mka_layer_weights *w = &layer->weights;
    w->router_in = matrix(b, NAME(NULL, NULL, "p.layers.%d.attn.router.0.weight"), c->router_hidden, c->heads * c->head_dim, 0);
    w->router_in_bias = vector(b, NAME(NULL, NULL, "p.layers.%d.attn.router.0.bias"), c->router_hidden, 0, 0);
    w->router_out = matrix(b, NAME(NULL, NULL, "p.layers.%d.attn.router.2.weight"), c->levels, c->router_hidden, 0);
    w->router_out_bias = vector(b, NAME(NULL, NULL, "p.layers.%d.attn.router.2.bias"), c->levels, 0, 0);
}

/* ---- latent attention ---- */

/* m [rows][cols] of any type as float32, turned to [cols][rows] in the arena. */
static const float *turned(binder *b, const mka_matrix *m) {
    float *out = mka_arena_take(&b->model->copies, (size_t)m->rows * (size_t)m->cols, sizeof(float));
    if (!out) return NULL;
    float *row = malloc((size_t)m->cols * sizeof(float));
    if (!row) {
        b->status = mka_fail(b->error, MKA_NO_MEMORY, "%s: no memory for a row of weights", b->path);
        return NULL;
    }
    for (int i = 0; i < m->rows; i++) {
        b->model->engine->kernels->load[m->type](m->cols, (const unsigned char *)m->data + (size_t)i * m->row_bytes, row);
        for (int j = 0; j < m->cols; j++) out[(size_t)j * (size_t)m->rows + (size_t)i] = row[j];
    }
    free(row);
    return out;
}

static mka_matrix rows_of(const mka_matrix *m, int first, int rows) {
    return (mka_matrix){(const unsigned char *)m->data + (size_t)first * m->row_bytes, m->type, rows, m->cols, m->row_bytes};
}

static mka_matrix turned_matrix(binder *b, const mka_matrix *m) {
    return (mka_matrix){turned(b, m), MKA_F32, m->cols, m->rows, (size_t)m->rows * sizeof(float)};
}

/* Newer GGUF files have k_b [heads][latent][nope] (absorbed) and v_b [heads][v][latent]; all other sources have one kv_b
 * [heads * (nope + v)][latent]. Either way each head gets all three matrices. */
static void bind_heads(binder *b, mka_layer *layer) {
    const mka_layer_config *c = &layer->config;
    mka_matrix *absorb = b->model->heads + (size_t)b->layer * 3 * (size_t)c->heads, *up = absorb + c->heads,
               *value = up + c->heads;
    char text[256];
    layer->weights.k_absorb = absorb;
    layer->weights.k_up = up;
    layer->weights.v_up = value;
    int split = find(b, NAME("blk.%d.attn_k_b.weight", NULL, NULL), text, sizeof text) != NULL;
    mka_matrix k, v, both;
    int each = c->nope_dim + c->value_dim;
    if (split) {
        k = matrix(b, NAME("blk.%d.attn_k_b.weight", NULL, NULL), c->latent_dim, c->nope_dim, c->heads);
        v = matrix(b, NAME("blk.%d.attn_v_b.weight", NULL, NULL), c->value_dim, c->latent_dim, c->heads);
    } else {
        both = matrix(
            b, NAME("blk.%d.attn_kv_b.weight", "model.layers.%d.self_attn.kv_b_proj.weight", "p.layers.%d.attn.kv_up.weight"),
            (int64_t)c->heads * each, c->latent_dim, 0);
    }
    for (int h = 0; h < c->heads && !b->status; h++) {
        if (split) {
            absorb[h] = rows_of(&k, h * c->latent_dim, c->latent_dim);
            up[h] = turned_matrix(b, &absorb[h]);
            value[h] = rows_of(&v, h * c->value_dim, c->value_dim);
        } else {
            up[h] = rows_of(&both, h * each, c->nope_dim);
            absorb[h] = turned_matrix(b, &up[h]);
            value[h] = rows_of(&both, h * each + c->nope_dim, c->value_dim);
        }
    }
}

static void bind_latent(binder *b, mka_layer *layer) {
    const mka_layer_config *c = &layer->config;
    mka_layer_weights *w = &layer->weights;
    int64_t q = (int64_t)c->heads * c->head_dim;
    if (c->q_latent_dim) {
        w->q_down = matrix(b, NAME("blk.%d.attn_q_a.weight", "model.layers.%d.self_attn.q_a_proj.weight", NULL), c->q_latent_dim,
                           c->width, 0);
        w->q_down_norm = vector(b, NAME("blk.%d.attn_q_a_norm.weight", "model.layers.%d.self_attn.q_a_layernorm.weight", NULL),
                                c->q_latent_dim, 0, 0);
        w->q =
            matrix(b, NAME("blk.%d.attn_q_b.weight", "model.layers.%d.self_attn.q_b_proj.weight", NULL), q, c->q_latent_dim, 0);
    } else {
        w->q =
            matrix(b, NAME("blk.%d.attn_q.weight", "model.layers.%d.self_attn.q_proj.weight", "p.layers.%d.attn.q_proj.weight"),
                   q, c->width, 0);
    }
    w->kv_down = matrix(b,
                        NAME("blk.%d.attn_kv_a_mqa.weight", "model.layers.%d.self_attn.kv_a_proj_with_mqa.weight",
                             "p.layers.%d.attn.kv_down.weight"),
                        c->latent_dim + c->rope_dim, c->width, 0);
    w->kv_norm = vector(b,
                        NAME("blk.%d.attn_kv_a_norm.weight", "model.layers.%d.self_attn.kv_a_layernorm.weight",
                             "p.layers.%d.attn.kv_norm.weight"),
                        c->latent_dim, 0, 0);
    bind_heads(b, layer);
}

/* ---- blocks ---- */

static void bind_norms(binder *b, mka_block *block) {
    const mka_sizes *s = &b->model->sizes;
    int64_t width = s->width;
    block->attention_norm =
        vector(b, NAME("blk.%d.attn_norm.weight", "model.layers.%d.input_layernorm.weight", "p.layers.%d.attn_norm.weight"),
               width, 0, s->norm_offset);
    if (!s->arch->post_norms) {
        block->ffn_norm = vector(
            b, NAME("blk.%d.ffn_norm.weight", "model.layers.%d.post_attention_layernorm.weight", "p.layers.%d.ffn_norm.weight"),
            width, 0, s->norm_offset);
        return;
    }
    block->attention_post_norm =
        vector(b, NAME("blk.%d.post_attention_norm.weight", "model.layers.%d.post_attention_layernorm.weight", NULL), width, 0,
               s->norm_offset);
    block->ffn_norm = vector(b, NAME("blk.%d.ffn_norm.weight", "model.layers.%d.pre_feedforward_layernorm.weight", NULL), width,
                             0, s->norm_offset);
    block->ffn_post_norm =
        vector(b, NAME("blk.%d.post_ffw_norm.weight", "model.layers.%d.post_feedforward_layernorm.weight", NULL), width, 0,
               s->norm_offset);
}

static void bind_block(binder *b, mka_block *block) {
    const mka_sizes *s = &b->model->sizes;
    mka_layer *layer = &block->attention;
    layer->config = mka_sizes_layer(s, b->layer);
    bind_norms(b, block);
    if (s->variant == MKA_MLA)
        bind_latent(b, layer);
    else
        bind_grouped(b, layer);
    if (s->variant == MKA_MKA || s->variant == MKA_FASTMKA) bind_router(b, layer);
    layer->weights.o =
        matrix(b, NAME("blk.%d.attn_output.weight", "model.layers.%d.self_attn.o_proj.weight", "p.layers.%d.attn.o_proj.weight"),
               s->width, s->heads * s->value_dim, 0);
    layer->weights.o_bias =
        vector(b, NAME("blk.%d.attn_output.bias", "model.layers.%d.self_attn.o_proj.bias", NULL), s->width, 1, 0);
    block->gate =
        matrix(b, NAME("blk.%d.ffn_gate.weight", "model.layers.%d.mlp.gate_proj.weight", "p.layers.%d.gate_proj.weight"), s->ffn,
               s->width, 0);
    block->up = matrix(b, NAME("blk.%d.ffn_up.weight", "model.layers.%d.mlp.up_proj.weight", "p.layers.%d.up_proj.weight"),
                       s->ffn, s->width, 0);
    block->down =
        matrix(b, NAME("blk.%d.ffn_down.weight", "model.layers.%d.mlp.down_proj.weight", "p.layers.%d.down_proj.weight"),
               s->width, s->ffn, 0);
}

/* The vocabulary is as large as the embedding says, unless the source named a size. */
static void find_vocabulary(binder *b) {
    char text[256];
    const mka_tensor *t = find(b, NAME("token_embd.weight", "model.embed_tokens.weight", "p.embed.weight"), text, sizeof text);
    if (!t || t->rank != 2 || t->shape[0] < 1 || t->shape[0] > 1 << 24)
        b->status = t ? mka_fail(b->error, MKA_BAD_FILE, "%s: tensor %s is no matrix of 1 to %d rows", b->path, text, 1 << 24)
                      : missing(b, text);
    else if (b->model->sizes.vocabulary == 0)
        b->model->sizes.vocabulary = t->shape[0];
}

static void bind_ends(binder *b) {
    mka_model *m = b->model;
    const mka_sizes *s = &m->sizes;
    char text[256];
    const tensor_name output = NAME("output.weight", "lm_head.weight", NULL);
    m->embedding =
        matrix(b, NAME("token_embd.weight", "model.embed_tokens.weight", "p.embed.weight"), s->vocabulary, s->width, 0);
    m->output_norm = vector(b, NAME("output_norm.weight", "model.norm.weight", "p.norm.weight"), s->width, 0, s->norm_offset);
    m->output = m->embedding;
    if (!s->tied && find(b, output, text, sizeof text)) m->output = matrix(b, output, s->vocabulary, s->width, 0);
}

static void bind_ropes(binder *b) {
    mka_sizes *s = &b->model->sizes;
    int rotated = (int)s->rotated;
    if (rotated) s->rope_scaling.divisors = vector(b, NAME("rope_freqs.weight", NULL, NULL), rotated / 2, 1, 0);
    for (int i = 0; s->rope_scaling.divisors && i < rotated / 2; i++)
        if (!(s->rope_scaling.divisors[i] > 0))
            b->status = mka_fail(b->error, MKA_BAD_FILE, "%s: tensor rope_freqs.weight holds %g; divisors must be positive",
                                 b->path, (double)s->rope_scaling.divisors[i]);
}

static mka_status create_ropes(binder *b) {
    mka_model *m = b->model;
    const mka_sizes *s = &m->sizes;
    mka_status status =
        mka_rope_create((int)s->rotated, s->rope_base, s->neighbours, &s->rope_scaling, &m->ropes[MKA_ROPE_GLOBAL], b->error);
    if (status) return status;
    const mka_rope_scaling *local = s->arch->window_period ? NULL : &s->rope_scaling; /* a local rotation is not stretched */
    return mka_rope_create((int)s->rotated, s->local_rope_base, s->neighbours, local, &m->ropes[MKA_ROPE_LOCAL], b->error);
}

static mka_type commonest(const binder *b) {
    mka_type best = MKA_F32;
    for (int t = 0; t < MKA_TYPE_LIMIT; t++)
        if (b->by_type[t] > b->by_type[best]) best = (mka_type)t;
    return best;
}

mka_status mka_weights_bind(mka_model *m, const char *path, mka_error *error) {
    binder b = {.model = m, .path = path, .error = error};
    find_vocabulary(&b);
    if (b.status) return b.status;
    m->blocks = calloc((size_t)m->sizes.layers, sizeof *m->blocks);
    if (m->sizes.variant == MKA_MLA) m->heads = calloc((size_t)m->sizes.layers * (size_t)m->sizes.heads, 3 * sizeof *m->heads);
    if (!m->blocks || (m->sizes.variant == MKA_MLA && !m->heads))
        return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its layers", path);
    for (int pass = 0; pass < 2; pass++) { /* measure the copies, then make them */
        m->parameters = m->weight_bytes = 0;
        memset(b.by_type, 0, sizeof b.by_type);
        bind_ends(&b);
        for (b.layer = 0; b.layer < m->sizes.layers && !b.status; b.layer++) bind_block(&b, &m->blocks[b.layer]);
        if (pass == 1 && !b.status) bind_ropes(&b);
        if (pass == 0 && !b.status) {
            mka_arena_take(&m->copies, (size_t)m->sizes.rotated, sizeof(float)); /* divisors of the rotation */
            b.status = mka_arena_reserve(&m->copies, error);
        }
        if (b.status) return b.status;
    }
    m->weight_type = commonest(&b);
    return create_ropes(&b);
}
