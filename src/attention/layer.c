/* layer - the public face of attention without a model (mka/attention.h): dense attention on arrays, and one layer of any
 * variant that owns its weights, cache and scratch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "base/status.h"

#define MOST_WIDTH  (1 << 20) /* of any dimension: products of two fit in int64 and in size_t */
#define MOST_TOKENS (1 << 27)

struct mka_attention {
    mka_layer layer;
    mka_layer_state state;
    mka_rope rope;
    mka_pair ops;
    mka_residents *residents; /* NULL without a device */
    mka_local expanded;
    mka_arena weights, work;
    size_t mirror_from;
    mka_attention_scratch scratch;
    float *cosine, *sine, *longterm, *summary;
    mka_matrix *heads; /* MLA: k_absorb, k_up, v_up */
    mka_mla_form mla;
    int chunk, context, length;
};

/* ---- dense attention on arrays ---- */

static mka_status check_shape(const mka_attend_shape *s, mka_error *error) {
    if (s->heads < 1 || s->heads > MOST_WIDTH || s->kv_heads < 1 || s->heads % s->kv_heads)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d query heads and %d key/value heads: the second must divide the first",
                        s->heads, s->kv_heads);
    if (s->head_dim < 1 || s->head_dim > 256)
        return mka_fail(error, MKA_BAD_ARGUMENT, "head width %d is outside 1..256", s->head_dim);
    if (s->q_len < 1 || s->kv_len < s->q_len || s->kv_len > MOST_TOKENS)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d queries over %d keys: queries are the last of the keys' positions", s->q_len,
                        s->kv_len);
    if (s->window < 0) return mka_fail(error, MKA_BAD_ARGUMENT, "window %d is negative", s->window);
    if (!mka_cache_type(s->type))
        return mka_fail(error, MKA_BAD_ARGUMENT, "a cache cannot be stored as %s; f32, f16, bf16, q8 and q4 can",
                        mka_type_name(s->type));
    return MKA_OK;
}

static void transpose_rows(int outer, int inner, int width, const float *from, float *to) {
    for (size_t i = 0; i < (size_t)outer; i++)
        for (size_t j = 0; j < (size_t)inner; j++)
            memcpy(to + (j * (size_t)outer + i) * (size_t)width, from + (i * (size_t)inner + j) * (size_t)width,
                   (size_t)width * sizeof(float));
}

mka_status mka_attend(mka_engine *engine, const mka_attend_shape *s, const float *q, const float *k, const float *v, float *out,
                      mka_error *error) {
    mka_succeed(error);
    mka_status status = check_shape(s, error);
    if (status) return status;
    mka_pair ops = {.device = {.engine = NULL}};
    mka_residents *residents = NULL;
    mka_ops_cpu(&ops.host, engine);
    struct mka_ops_limits limits = {.rows = s->q_len,
                                    .cols = 1,
                                    .head_rows = s->heads / s->kv_heads,
                                    .key_dim = s->head_dim,
                                    .value_dim = s->head_dim,
                                    .kv_heads = s->kv_heads,
                                    .context = s->kv_len};
    mka_arena arena = {.base = NULL};
    mka_local cache = {.keys = NULL};
    mka_local_shape shape = {s->kv_heads, s->head_dim, s->head_dim, 0, s->type, s->type, s->kv_len, s->q_len, engine->device, 0};
    float *rows = NULL, *tokens_q = NULL, *tokens_out = NULL;
    size_t kv = (size_t)s->kv_heads * (size_t)s->head_dim, width = (size_t)s->heads * (size_t)s->head_dim;
    for (int pass = 0; pass < 2; pass++) { /* measure, then carve */
        mka_ops_layout(&ops.host, &limits, &arena);
        rows = mka_arena_take(&arena, 2 * kv * sizeof(float), (size_t)s->kv_len);
        tokens_q = mka_arena_take(&arena, width * sizeof(float), (size_t)s->q_len);
        tokens_out = mka_arena_take(&arena, width * sizeof(float), (size_t)s->q_len);
        if (pass == 0 && (status = mka_arena_reserve(&arena, error)) != MKA_OK) goto done;
    }
    if (engine->device) status = mka_residents_create(engine->device, &residents, error);
    if (!status) status = mka_pair_open(&ops, residents, NULL, 0, error);
    if (!status) status = mka_local_create(&shape, &cache, error);
    if (status) goto done;
    mka_ops *table = mka_pair_ops(&ops);
    transpose_rows(s->kv_heads, s->kv_len, s->head_dim, k, rows);
    transpose_rows(s->kv_heads, s->kv_len, s->head_dim, v, rows + kv * (size_t)s->kv_len);
    mka_local_store(&cache, table, 0, s->kv_len, rows, (int)kv, rows + kv * (size_t)s->kv_len, (int)kv);
    transpose_rows(s->heads, s->q_len, s->head_dim, q, tokens_q);
    mka_attend_job job = {.n = s->q_len,
                          .first = s->kv_len - s->q_len,
                          .window = s->window,
                          .heads = s->heads,
                          .scale = 1.0F / sqrtf((float)s->head_dim),
                          .q = tokens_q,
                          .out = tokens_out};
    mka_local_job(&cache, s->kv_len, &job);
    table->attend(table, &job);
    status = table->settle(table, error);
    transpose_rows(s->q_len, s->heads, s->head_dim, tokens_out, out);
done:
    mka_local_destroy(&cache);
    mka_pair_close(&ops);
    mka_residents_destroy(residents);
    mka_arena_free(&arena);
    return status;
}

/* ---- one layer: options and weights ---- */

void mka_attention_defaults(mka_attention_options *options) {
    *options = (mka_attention_options){.variant = MKA_GROUPED,
                                       .levels = 3,
                                       .ema_beta = 0.9F,
                                       .rope_base = 10000.0F,
                                       .norm_eps = 1e-6F,
                                       .context = 4096,
                                       .chunk = 512,
                                       .key_type = MKA_F32,
                                       .value_type = MKA_F32};
}

static int in_range(int value, int low, int high) {
    return value >= low && value <= high;
}

static mka_status check_options(const mka_attention_options *o, mka_error *error) {
    const char *wrong = NULL;
    int mla = o->variant == MKA_MLA, routed = o->variant == MKA_MKA || o->variant == MKA_FASTMKA;
    if (!in_range((int)o->variant, MKA_GROUPED, MKA_FASTMKA))
        wrong = "variant";
    else if (!in_range(o->width, 1, MOST_WIDTH))
        wrong = "width";
    else if (!in_range(o->heads, 1, 4096))
        wrong = "heads";
    else if (!mla && (!in_range(o->kv_heads, 1, o->heads) || o->heads % o->kv_heads))
        wrong = "kv_heads";
    else if (!mla && !in_range(o->head_dim, 1, 1024))
        wrong = "head_dim";
    else if (mla && !in_range(o->nope_dim, 1, 1024))
        wrong = "nope_dim";
    else if (mla && (!in_range(o->rope_dim, 2, 1024) || o->rope_dim % 2))
        wrong = "rope_dim";
    else if (mla && !in_range(o->v_dim, 1, 1024))
        wrong = "v_dim";
    else if (mla && !in_range(o->latent_dim, 1, 4096))
        wrong = "latent_dim";
    else if (routed && !in_range(o->levels, 2, 3))
        wrong = "levels";
    else if (routed && !(o->ema_beta >= 0 && o->ema_beta < 1))
        wrong = "ema_beta";
    else if (!(o->rope_base == 0 || o->rope_base > 1) || !isfinite(o->rope_base))
        wrong = "rope_base";
    else if (!mla && o->rope_base != 0 && o->head_dim % 2)
        wrong = "head_dim (odd, with rotation)";
    else if (mla && !(o->norm_eps >= 0))
        wrong = "norm_eps";
    else if (o->window < 0 || (o->window && o->variant != MKA_GROUPED))
        wrong = "window";
    else if (!in_range(o->context, 1, MOST_TOKENS))
        wrong = "context";
    else if (!in_range(o->chunk, 0, 1 << 20))
        wrong = "chunk";
    else if (!mka_cache_type(o->key_type))
        wrong = "key_type";
    else if (!mka_cache_type(o->value_type))
        wrong = "value_type";
    else if (!in_range((int)o->mla, MKA_MLA_AUTO, MKA_MLA_EXPANDED))
        wrong = "mla";
    return wrong ? mka_fail(error, MKA_BAD_ARGUMENT, "attention option %s is out of range", wrong) : MKA_OK;
}

static mka_layer_config layer_config(const mka_attention_options *o) {
    mka_layer_config c = {.variant = o->variant,
                          .width = o->width,
                          .heads = o->heads,
                          .kv_heads = o->kv_heads,
                          .head_dim = o->head_dim,
                          .value_dim = o->head_dim,
                          .window = o->window,
                          .levels = o->levels,
                          .ema_beta = o->ema_beta,
                          .norm_eps = o->norm_eps};
    if (o->variant == MKA_MLA) {
        c.kv_heads = o->heads;
        c.nope_dim = o->nope_dim;
        c.rope_dim = o->rope_dim;
        c.latent_dim = o->latent_dim;
        c.head_dim = o->nope_dim + o->rope_dim;
        c.value_dim = o->v_dim;
    }
    c.router_hidden = c.heads * c.head_dim / 2;
    c.scale = 1.0F / sqrtf((float)c.head_dim);
    return c;
}

typedef struct tensor_list {
    const mka_tensor *tensors;
    int count;
    mka_arena *arena;
    mka_error *error;
    mka_status status;
} tensor_list;

/* The named tensor, copied into the arena, as [rows][cols] (cols 0: a vector). Optional ones may be absent: NULL. */
static const float *take_tensor(tensor_list *list, const char *name, int rows, int cols, int optional) {
    const mka_tensor *t = NULL;
    for (int i = 0; i < list->count && !t; i++)
        if (!strcmp(list->tensors[i].name, name)) t = &list->tensors[i];
    if (list->status || (!t && optional)) return NULL;
    if (!t) {
        list->status = mka_fail(list->error, MKA_BAD_ARGUMENT, "tensor %s is missing", name);
        return NULL;
    }
    int fits = t->type == MKA_F32 && t->rank == (cols ? 2 : 1) && t->shape[0] == rows && (!cols || t->shape[1] == cols);
    if (!fits) {
        list->status =
            cols ? mka_fail(list->error, MKA_BAD_ARGUMENT, "tensor %s must be float32 of shape [%d, %d]", name, rows, cols)
                 : mka_fail(list->error, MKA_BAD_ARGUMENT, "tensor %s must be float32 of shape [%d]", name, rows);
        return NULL;
    }
    size_t items = (size_t)rows * (cols ? (size_t)cols : 1);
    float *copy = mka_arena_take(list->arena, items, sizeof(float));
    if (copy) memcpy(copy, t->data, items * sizeof(float));
    return copy;
}

static mka_matrix take_matrix(tensor_list *list, const char *name, int rows, int cols) {
    return (mka_matrix){take_tensor(list, name, rows, cols, 0), MKA_F32, rows, cols, (size_t)cols * sizeof(float)};
}

static void take_grouped(tensor_list *list, const mka_layer_config *c, mka_layer_weights *w) {
    int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    w->q = take_matrix(list, "q_proj.weight", q, c->width);
    w->k = take_matrix(list, "k_proj.weight", kv, c->width);
    w->v = take_matrix(list, "v_proj.weight", kv, c->width);
    w->q_bias = take_tensor(list, "q_proj.bias", q, 0, 1);
    w->k_bias = take_tensor(list, "k_proj.bias", kv, 0, 1);
    w->v_bias = take_tensor(list, "v_proj.bias", kv, 0, 1);
    if (c->variant == MKA_GROUPED) return;
    w->router_in = take_matrix(list, "router.0.weight", c->router_hidden, q);
    w->router_in_bias = take_tensor(list, "router.0.bias", c->router_hidden, 0, 0);
    w->router_out = take_matrix(list, "router.2.weight", c->levels, c->router_hidden);
    w->router_out_bias = take_tensor(list, "router.2.bias", c->levels, 0, 0);
}

/* Splits kv_up [heads * (nope + v)][latent] into a key and a value matrix a head, and turns the key's for the absorbed form. */
static void take_latent(tensor_list *list, const mka_layer_config *c, mka_matrix *heads, mka_layer_weights *w) {
    w->q = take_matrix(list, "q_proj.weight", c->heads * c->head_dim, c->width);
    w->kv_down = take_matrix(list, "kv_down.weight", c->latent_dim + c->rope_dim, c->width);
    w->kv_norm = take_tensor(list, "kv_norm.weight", c->latent_dim, 0, 0);
    int each = c->nope_dim + c->value_dim;
    const float *up = take_tensor(list, "kv_up.weight", c->heads * each, c->latent_dim, 0);
    float *turned = mka_arena_take(list->arena, (size_t)c->heads * (size_t)c->nope_dim * (size_t)c->latent_dim, sizeof(float));
    w->k_absorb = heads;
    w->k_up = heads + c->heads;
    w->v_up = heads + 2 * c->heads;
    if (!up || !turned) return;
    for (int h = 0; h < c->heads; h++) {
        const float *k = up + (size_t)h * each * c->latent_dim;
        float *t = turned + (size_t)h * c->nope_dim * c->latent_dim;
        for (int i = 0; i < c->nope_dim; i++)
            for (int j = 0; j < c->latent_dim; j++) t[(size_t)j * c->nope_dim + i] = k[(size_t)i * c->latent_dim + j];
        size_t row = (size_t)c->latent_dim * sizeof(float);
        heads[h] = (mka_matrix){t, MKA_F32, c->latent_dim, c->nope_dim, (size_t)c->nope_dim * sizeof(float)};
        heads[c->heads + h] = (mka_matrix){k, MKA_F32, c->nope_dim, c->latent_dim, row};
        heads[2 * c->heads + h] =
            (mka_matrix){k + (size_t)c->nope_dim * c->latent_dim, MKA_F32, c->value_dim, c->latent_dim, row};
    }
}

static mka_status take_weights(mka_attention *a, const mka_tensor *tensors, int count, mka_error *error) {
    const mka_layer_config *c = &a->layer.config;
    mka_layer_weights *w = &a->layer.weights;
    if (c->variant == MKA_MLA) {
        a->heads = calloc((size_t)c->heads * 3, sizeof *a->heads);
        if (!a->heads) return mka_fail(error, MKA_NO_MEMORY, "no memory for %d heads", c->heads);
    }
    tensor_list list = {tensors, count, &a->weights, error, MKA_OK};
    for (int pass = 0; pass < 2; pass++) { /* measure, then carve */
        if (c->variant == MKA_MLA)
            take_latent(&list, c, a->heads, w);
        else
            take_grouped(&list, c, w);
        w->o = take_matrix(&list, "o_proj.weight", c->width, c->heads * c->value_dim);
        if (list.status) return list.status;
        if (pass == 0) {
            mka_status status = mka_arena_reserve(&a->weights, error);
            if (status) return status;
        }
    }
    return MKA_OK;
}

static mka_status lay_out(mka_attention *a, mka_error *error) {
    const mka_layer_config *c = &a->layer.config;
    struct mka_ops_limits limits = {.rows = a->chunk, .context = a->context};
    mka_attention_sizes sizes = {.q = 0};
    mka_attention_limits(c, &limits);
    mka_variant_get(c->variant)->measure(c, a->chunk, &sizes);
    size_t pairs = a->rope.pairs ? (size_t)a->rope.pairs : 1;
    for (int pass = 0; pass < 2; pass++) {
        mka_ops_layout(&a->ops.host, &limits, &a->work);
        a->mirror_from = a->work.used;
        mka_attention_layout(&sizes, &a->work, &a->scratch);
        a->cosine = mka_arena_take(&a->work, (size_t)a->chunk * pairs, sizeof(float));
        a->sine = mka_arena_take(&a->work, (size_t)a->chunk * pairs, sizeof(float));
        a->summary = mka_arena_take(&a->work, (size_t)c->width, sizeof(float));
        if (pass == 0) {
            mka_status status = mka_arena_reserve(&a->work, error);
            if (status) return status;
        }
    }
    return MKA_OK;
}

/* What a device needs, where the engine has one, and the block of latent attention on either side. */
static mka_status go_there(mka_attention *a, mka_device *device, mka_error *error) {
    mka_status status = device ? mka_residents_create(device, &a->residents, error) : MKA_OK;
    if (!status)
        status = mka_pair_open(&a->ops, a->residents, a->work.base + a->mirror_from, a->work.size - a->mirror_from, error);
    if (status || a->layer.config.variant != MKA_MLA) return status;
    mka_local_shape shape = mka_layer_expanded(&a->layer.config);
    shape.device = device;
    return mka_local_create(&shape, &a->expanded, error);
}

mka_status mka_attention_create(mka_engine *engine, const mka_attention_options *options, const mka_tensor *tensors, int count,
                                mka_attention **out, mka_error *error) {
    *out = NULL;
    mka_succeed(error);
    mka_status status = check_options(options, error);
    if (status) return status;
    mka_attention *a = calloc(1, sizeof *a);
    if (!a) return mka_fail(error, MKA_NO_MEMORY, "no memory for an attention layer");
    a->layer.config = layer_config(options);
    a->mla = options->mla;
    a->chunk = options->chunk ? options->chunk : 512;
    a->context = options->context;
    if (a->chunk > a->context) a->chunk = a->context;
    mka_ops_cpu(&a->ops.host, engine);
    a->ops.host.exact = 1;
    int rotated = options->variant == MKA_MLA ? options->rope_dim : options->head_dim;
    status = mka_rope_create(options->rope_base == 0 ? 0 : rotated, (double)options->rope_base, 0, NULL, &a->rope, error);
    if (!status) status = take_weights(a, tensors, count, error);
    if (!status) status = lay_out(a, error);
    if (!status) status = go_there(a, engine->device, error);
    int routed = options->variant == MKA_MKA || options->variant == MKA_FASTMKA;
    if (!status)
        status = mka_layer_state_create(&a->layer.config, options->key_type, options->value_type, a->context, a->chunk,
                                        routed ? a->summary : NULL, NULL, engine->device, 0, &a->state, error);
    if (status) {
        mka_attention_destroy(a);
        return status;
    }
    *out = a;
    return MKA_OK;
}

void mka_attention_destroy(mka_attention *a) {
    if (!a) return;
    mka_layer_state_destroy(&a->state);
    mka_local_destroy(&a->expanded);
    mka_pair_close(&a->ops);
    mka_residents_destroy(a->residents);
    mka_rope_destroy(&a->rope);
    mka_arena_free(&a->weights);
    mka_arena_free(&a->work);
    free(a->heads);
    free(a->longterm);
    free(a);
}

/* ---- one layer: use ---- */

mka_status mka_attention_set_longterm(mka_attention *a, int rows, const float *values, mka_error *error) {
    mka_succeed(error);
    if (rows < 0 || rows > MOST_TOKENS) return mka_fail(error, MKA_BAD_ARGUMENT, "%d long-term rows are out of range", rows);
    size_t items = (size_t)rows * (size_t)a->layer.config.width;
    float *copy = rows ? malloc(items * sizeof(float)) : NULL;
    if (rows && !copy) return mka_fail(error, MKA_NO_MEMORY, "no memory for %d long-term rows", rows);
    if (rows) memcpy(copy, values, items * sizeof(float));
    free(a->longterm);
    a->longterm = copy;
    a->state.longterm = copy;
    a->state.longterm_rows = rows;
    return MKA_OK;
}

static void forward_chunk(mka_attention *a, int n, const float *x, float *y, const mka_attention_trace *trace) {
    mka_ops *ops = mka_pair_ops(&a->ops);
    size_t angles = (size_t)n * (size_t)a->rope.pairs * sizeof(float);
    mka_rope_fill(&a->rope, a->length, n, a->cosine, a->sine);
    if (angles > 0) {
        ops->put(ops, a->cosine, angles);
        ops->put(ops, a->sine, angles);
    }
    mka_attention_pass pass = {.ops = ops,
                               .layer = &a->layer,
                               .state = &a->state,
                               .scratch = &a->scratch,
                               .first = a->length,
                               .n = n,
                               .rope = &a->rope,
                               .cosine = a->cosine,
                               .sine = a->sine,
                               .mla = a->mla,
                               .expanded = &a->expanded,
                               .trace = trace,
                               .x = x,
                               .y = y};
    mka_variant_get(a->layer.config.variant)->forward(&pass);
    a->length += n;
}

mka_status mka_attention_forward(mka_attention *a, int n, const float *x, float *y, const mka_attention_trace *trace,
                                 mka_error *error) {
    mka_succeed(error);
    const mka_layer_config *c = &a->layer.config;
    if (n < 1) return mka_fail(error, MKA_BAD_ARGUMENT, "%d tokens are too few for a forward pass", n);
    if (n > a->context - a->length)
        return mka_fail(error, MKA_CONTEXT_FULL, "%d tokens do not fit: %d of %d are taken", n, a->length, a->context);
    for (int done = 0; done < n;) {
        int count = n - done < a->chunk ? n - done : a->chunk;
        mka_attention_trace part = {NULL, NULL, NULL, NULL};
        if (trace) {
            part = *trace;
            if (part.router) part.router += (size_t)done * (size_t)c->levels;
            if (part.fused) part.fused += (size_t)done * (size_t)c->width;
            if (part.latent) part.latent += (size_t)done * (size_t)c->latent_dim;
        }
        size_t at = (size_t)done * (size_t)c->width;
        forward_chunk(a, count, x + at, y + at, &part);
        done += count;
    }
    return mka_pair_ops(&a->ops)->settle(mka_pair_ops(&a->ops), error);
}

void mka_attention_reset(mka_attention *a) {
    mka_layer_state_reset(&a->state, &a->layer.config, mka_pair_ops(&a->ops));
    a->length = 0;
}
