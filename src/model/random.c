/* random - models and contexts that exist only to be timed: a known model's sizes with random weights, and sessions whose cache
 * holds random keys and values.
 *
 * A random model is a GGUF file written into memory and then opened, checked and bound like any other, so that what is timed is
 * what a real model of that shape runs. Blocks of quantised types are random bits under scales that are chosen so that a matrix
 * keeps the size of what it multiplies; nothing overflows, however many layers follow.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "format/file.h"
#include "session.h"

typedef struct shape {
    const char *name, *architecture;
    int layers, width, ffn, heads, kv_heads, head_dim, vocabulary, context, tied;
    float rope_base, norm_eps;
} shape;

static const shape shapes[] = {
    {"tiny", "llama", 2, 256, 512, 8, 2, 32, 256, 4096, 1, 1e4F, 1e-5F},
    {"smollm2-135m", "llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, 1, 1e5F, 1e-5F},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, 1, 1e6F, 1e-6F},
    {"qwen2.5-1.5b", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, 32768, 1, 1e6F, 1e-6F},
    {"qwen2.5-7b", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 32768, 0, 1e6F, 1e-6F},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 1, 5e5F, 1e-5F},
    {"llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 0, 5e5F, 1e-5F},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

const char *const *mka_model_shapes(void) {
    static const char *const names[SHAPES + 1] = {"tiny",       "smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b",
                                                  "qwen2.5-7b", "llama-3.2-1b", "llama-3.1-8b", NULL};
    return names;
}

static const shape *find_shape(const char *name) {
    for (int i = 0; i < SHAPES; i++)
        if (!strcmp(shapes[i].name, name)) return &shapes[i];
    return NULL;
}

/* ---- random numbers: one stream a row, so that the result does not depend on the threads ---- */

static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t next(uint64_t *state) {
    return mix(*state += 0x9e3779b97f4a7c15u);
}

/* Uniform with mean 0 and variance 1, two of each draw. */
static void random_floats(uint64_t state, size_t n, float spread, float *x) {
    const float scale = 1.7320508F * spread * 0x1p-31F;
    for (size_t i = 0; i < n; i += 2) {
        uint64_t bits = next(&state);
        x[i] = (float)(int32_t)(uint32_t)bits * scale;
        if (i + 1 < n) x[i + 1] = (float)(int32_t)(uint32_t)(bits >> 32) * scale;
    }
}

/* ---- blocks ---- */

/* Where a block of random bits has its half floats, and how large the numbers are that it then stands for: deviation times the
 * scale. minimum is the offset that makes their mean zero, in scales. */
typedef struct block_form {
    size_t scale_at, minimum_at;
    float deviation, minimum;
} block_form;

#define PLAIN(block, deviation)                                                                                                  \
    { offsetof(block, d), 0, deviation, 0 }
static const block_form forms[MKA_TYPE_LIMIT] = {
    [MKA_Q4_0] = PLAIN(mka_block_q4_0, 4.6F),
    [MKA_Q4_1] = {offsetof(mka_block_q4_1, d), offsetof(mka_block_q4_1, m), 4.6F, -7.5F},
    [MKA_Q5_0] = PLAIN(mka_block_q5_0, 9.2F),
    [MKA_Q5_1] = {offsetof(mka_block_q5_1, d), offsetof(mka_block_q5_1, m), 9.2F, -15.5F},
    [MKA_Q8_0] = PLAIN(mka_block_q8_0, 74),
    [MKA_Q2_K] = {offsetof(mka_block_q2_k, d), offsetof(mka_block_q2_k, dmin), 13, 1.5F},
    [MKA_Q3_K] = PLAIN(mka_block_q3_k, 43),
    [MKA_Q4_K] = {offsetof(mka_block_q4_k, d), offsetof(mka_block_q4_k, dmin), 258, 7.5F},
    [MKA_Q5_K] = {offsetof(mka_block_q5_k, d), offsetof(mka_block_q5_k, dmin), 526, 15.5F},
    [MKA_Q6_K] = PLAIN(mka_block_q6_k, 1368),
    [MKA_IQ4_NL] = PLAIN(mka_block_iq4_nl, 66),
    [MKA_IQ4_XS] = PLAIN(mka_block_iq4_xs, 1220),
};

typedef struct fill_task {
    const mka_engine *engine;
    mka_type type;
    int rows, cols;
    size_t row_bytes;
    uint64_t seed;
    unsigned char *data;
} fill_task;

static void fill_blocks(const fill_task *t, uint64_t state, unsigned char *row) {
    const mka_type_info *info = mka_type_get(t->type);
    const block_form *form = &forms[t->type];
    float scale = 1.0F / (sqrtf((float)t->cols) * form->deviation), minimum = form->minimum * scale;
    for (size_t i = 0; i < t->row_bytes; i += 8) {
        uint64_t bits = next(&state);
        memcpy(row + i, &bits, t->row_bytes - i < 8 ? t->row_bytes - i : 8);
    }
    for (size_t at = 0; at < t->row_bytes; at += (size_t)info->bytes) {
        t->engine->kernels->store[MKA_F16](1, &scale, row + at + form->scale_at);
        if (form->minimum != 0) t->engine->kernels->store[MKA_F16](1, &minimum, row + at + form->minimum_at);
    }
}

static void fill_share(void *argument, int thread, int threads) {
    const fill_task *t = argument;
    size_t begin, end;
    mka_share((size_t)t->rows, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        unsigned char *row = t->data + i * t->row_bytes;
        uint64_t state = mix(t->seed ^ mix(i + 1));
        if (mka_type_get(t->type)->quant) {
            fill_blocks(t, state, row);
            continue;
        }
        for (int done = 0; done < t->cols;) {
            float part[256];
            int n = t->cols - done < 256 ? t->cols - done : 256;
            random_floats(state + (uint64_t)done, (size_t)n, 1.0F / sqrtf((float)t->cols), part);
            t->engine->kernels->store[t->type](n, part, row + mka_type_row_bytes(t->type, done));
            done += n;
        }
    }
}

/* ---- the file in memory: measured by one pass over the code that writes it in the second ---- */

enum { ALIGNMENT = 64, GGUF_UINT32 = 4, GGUF_FLOAT32 = 6, GGUF_STRING = 8 };

typedef struct image {
    mka_engine *engine;
    const shape *shape;
    const char *router; /* its kind; NULL: the image is a model's */
    mka_type type;
    uint64_t seed;
    unsigned char *bytes; /* NULL while measuring */
    size_t used;          /* of the header */
    size_t data, data_at; /* used of the tensors' part, and where that begins */
    uint32_t tensors, entries;
} image;

static void put(image *m, const void *bytes, size_t count) {
    if (m->bytes) memcpy(m->bytes + m->used, bytes, count);
    m->used += count;
}

static void put_u32(image *m, uint32_t value) {
    put(m, &value, sizeof value);
}

static void put_u64(image *m, uint64_t value) {
    put(m, &value, sizeof value);
}

static void put_text(image *m, const char *text) {
    put_u64(m, strlen(text));
    put(m, text, strlen(text));
}

/* A key behind the architecture's name, or as it is when it has a dot in front. */
static void put_key(image *m, const char *key, uint32_t kind) {
    char whole[128];
    snprintf(whole, sizeof whole, "%s.%s", m->shape->architecture, key);
    put_text(m, strncmp(key, "general.", 8) ? whole : key);
    put_u32(m, kind);
    m->entries++;
}

static void put_size(image *m, const char *key, int value) {
    put_key(m, key, GGUF_UINT32);
    put_u32(m, (uint32_t)value);
}

static void put_real(image *m, const char *key, float value) {
    put_key(m, key, GGUF_FLOAT32);
    put(m, &value, sizeof value);
}

static void put_metadata(image *m) {
    const shape *s = m->shape;
    put_key(m, "general.architecture", GGUF_STRING);
    put_text(m, s->architecture);
    put_key(m, "general.name", GGUF_STRING);
    put_text(m, s->name);
    put_size(m, "general.alignment", ALIGNMENT);
    put_size(m, "block_count", s->layers);
    put_size(m, "embedding_length", s->width);
    put_size(m, "feed_forward_length", s->ffn);
    put_size(m, "context_length", s->context);
    put_size(m, "attention.head_count", s->heads);
    put_size(m, "attention.head_count_kv", s->kv_heads);
    put_size(m, "attention.key_length", s->head_dim);
    put_size(m, "attention.value_length", s->head_dim);
    put_real(m, "attention.layer_norm_rms_epsilon", s->norm_eps);
    put_real(m, "rope.freq_base", s->rope_base);
}

/* A matrix [rows][cols] of the image's type, or (rows 0) a float32 vector of cols: ones, or small random numbers for a bias. */
static void put_tensor(image *m, const char *name, int layer, int rows, int cols) {
    char whole[128];
    mka_type type = rows ? m->type : MKA_F32;
    size_t row_bytes = mka_type_row_bytes(type, cols), bytes = row_bytes * (size_t)(rows ? rows : 1);
    const char *number = strstr(name, "%d");
    if (number)
        snprintf(whole, sizeof whole, "%.*s%d%s", (int)(number - name), name, layer, number + 2);
    else
        snprintf(whole, sizeof whole, "%s", name);
    put_text(m, whole);
    put_u32(m, rows ? 2 : 1);
    put_u64(m, (uint64_t)cols);
    if (rows) put_u64(m, (uint64_t)rows);
    put_u32(m, (uint32_t)type);
    put_u64(m, m->data);
    fill_task task = {m->engine, type, rows ? rows : 1, cols, row_bytes, mix(m->seed + m->tensors), NULL};
    if (m->bytes) {
        task.data = m->bytes + m->data_at + m->data;
        mka_pool_run(m->engine->pool, fill_share, &task);
        float *vector = (float *)(void *)task.data;
        for (int i = 0; !rows && strstr(name, "norm") && i < cols; i++) vector[i] = 1;
    }
    m->data += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    m->tensors++;
}

static void put_block(image *m, int layer) {
    const shape *s = m->shape;
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    put_tensor(m, "blk.%d.attn_norm.weight", layer, 0, s->width);
    put_tensor(m, "blk.%d.attn_q.weight", layer, q, s->width);
    put_tensor(m, "blk.%d.attn_k.weight", layer, kv, s->width);
    put_tensor(m, "blk.%d.attn_v.weight", layer, kv, s->width);
    if (mka_arch_find(s->architecture)->qkv_bias) {
        put_tensor(m, "blk.%d.attn_q.bias", layer, 0, q);
        put_tensor(m, "blk.%d.attn_k.bias", layer, 0, kv);
        put_tensor(m, "blk.%d.attn_v.bias", layer, 0, kv);
    }
    put_tensor(m, "blk.%d.attn_output.weight", layer, s->width, q);
    put_tensor(m, "blk.%d.ffn_norm.weight", layer, 0, s->width);
    put_tensor(m, "blk.%d.ffn_gate.weight", layer, s->ffn, s->width);
    put_tensor(m, "blk.%d.ffn_up.weight", layer, s->ffn, s->width);
    put_tensor(m, "blk.%d.ffn_down.weight", layer, s->width, s->ffn);
}

static void put_model(image *m) {
    const shape *s = m->shape;
    put_metadata(m);
    put_tensor(m, "token_embd.weight", -1, s->vocabulary, s->width);
    put_tensor(m, "output_norm.weight", -1, 0, s->width);
    if (!s->tied) put_tensor(m, "output.weight", -1, s->vocabulary, s->width);
    for (int i = 0; i < s->layers; i++) put_block(m, i);
}

/* A router for every layer, as wide as the reference's: half of the query. */
static void put_router(image *m) {
    const shape *s = m->shape;
    int q = s->heads * s->head_dim, hidden = q / 2;
    put_key(m, "general.alignment", GGUF_UINT32);
    put_u32(m, ALIGNMENT);
    put_text(m, "mka.kind");
    put_u32(m, GGUF_STRING);
    put_text(m, m->router);
    put_text(m, "mka.levels");
    put_u32(m, GGUF_UINT32);
    put_u32(m, MKA_LEVELS);
    put_text(m, "mka.ema_beta");
    put_u32(m, GGUF_FLOAT32);
    put(m, &(float){0.9F}, sizeof(float));
    m->entries += 3;
    for (int i = 0; i < s->layers; i++) {
        put_tensor(m, "layers.%d.router.0.weight", i, hidden, q);
        put_tensor(m, "layers.%d.router.0.bias", i, 0, hidden);
        put_tensor(m, "layers.%d.router.2.weight", i, MKA_LEVELS, hidden);
        put_tensor(m, "layers.%d.router.2.bias", i, 0, MKA_LEVELS);
    }
}

/* One pass; tensors and entries of the pass before are what the header states. */
static void put_all(image *m) {
    uint32_t tensors = m->tensors, entries = m->entries;
    m->used = m->data = 0;
    m->tensors = m->entries = 0;
    put(m, "GGUF", 4);
    put_u32(m, 3);
    put_u64(m, tensors);
    put_u64(m, entries);
    (m->router ? put_router : put_model)(m);
    if (!m->bytes) m->data_at = (m->used + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Measures the image, maps *pages and writes it there. */
static mka_status make_image(image *m, void **pages, size_t *size, mka_error *error) {
    char need[MKA_SIZE_TEXT], have[MKA_SIZE_TEXT];
    put_all(m);
    size_t bytes = m->data_at + m->data;
    uint64_t free = mka_memory_free();
    *pages = bytes <= free ? mka_pages_map(bytes) : NULL;
    if (!*pages)
        return mka_fail(error, MKA_NO_MEMORY, "random weights of shape %s in %s need %s; %s are free", m->shape->name,
                        mka_type_name(m->type), mka_size_text(bytes, need, sizeof need), mka_size_text(free, have, sizeof have));
    *size = bytes;
    m->bytes = *pages;
    put_all(m);
    return MKA_OK;
}

static mka_status check_type(const shape *s, mka_type type, mka_error *error) {
    const int cols[] = {s->width, s->heads * s->head_dim, s->ffn};
    if (!mka_type_get(type)->weight)
        return mka_fail(error, MKA_BAD_ARGUMENT, "weights cannot be of type %s", mka_type_name(type));
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        if (mka_type_row_bytes(type, cols[i]) == 0)
            return mka_fail(error, MKA_BAD_ARGUMENT, "rows of %d numbers (%s) are not whole blocks of %s", cols[i], s->name,
                            mka_type_name(type));
    return MKA_OK;
}

/* A router's second matrix has rows of half a query, which not every type divides: then both are float32. */
static mka_status make_router(mka_model *m, image *plan, const char *kind, mka_error *error) {
    if (strcmp(kind, "fastmka") != 0 && strcmp(kind, "mka") != 0)
        return mka_fail(error, MKA_BAD_ARGUMENT, "a router's kind is fastmka or mka, not '%s'", kind);
    *plan = (image){.engine = plan->engine, .shape = plan->shape, .type = plan->type, .seed = plan->seed + 1, .router = kind};
    if (mka_type_row_bytes(plan->type, plan->shape->heads * plan->shape->head_dim / 2) == 0) plan->type = MKA_F32;
    mka_status status = make_image(plan, &m->router_image, &m->router_bytes, error);
    if (!status) status = mka_file_open_memory(m->router_image, m->router_bytes, kind, &m->router, error);
    return status ? status : mka_router_bind(m, kind, error);
}

mka_status mka_model_random(mka_engine *engine, const char *name, mka_type type, const char *router, uint64_t seed,
                            mka_model **out, mka_error *error) {
    *out = NULL;
    mka_succeed(error);
    const shape *s = find_shape(name);
    if (!s) return mka_fail(error, MKA_BAD_ARGUMENT, "there is no shape '%s'", name);
    mka_status status = check_type(s, type, error);
    if (status) return status;
    mka_model *m = calloc(1, sizeof *m);
    if (!m) return mka_fail(error, MKA_NO_MEMORY, "no memory for a model");
    m->engine = engine;
    image plan = {.engine = engine, .shape = s, .type = type, .seed = seed};
    status = make_image(&plan, &m->image, &m->image_bytes, error);
    if (!status) status = mka_file_open_memory(m->image, m->image_bytes, s->name, &m->file, error);
    if (!status) status = mka_sizes_from_gguf(m->file, s->name, &m->sizes, error);
    if (!status) status = mka_weights_bind(m, s->name, error);
    if (!status && router) status = make_router(m, &plan, router, error);
    if (!status && engine->device) status = mka_residents_create(engine->device, &m->residents, error);
    if (status) {
        mka_model_destroy(m);
        return status;
    }
    *out = m;
    return MKA_OK;
}

/* ---- random contexts ---- */

typedef struct noise_task {
    float *x;
    size_t count;
    uint64_t seed;
} noise_task;

static void noise_share(void *argument, int thread, int threads) {
    const noise_task *t = argument;
    size_t begin, end;
    mka_share(t->count, 4096, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i += 4096) random_floats(mix(t->seed + i), end - i < 4096 ? end - i : 4096, 1, t->x + i);
}

/* n tokens at position first of one cache; noise has room for FILL rows of keys and values. */
enum { FILL = 256 };
static void fill_cache(mka_session *s, mka_ops *ops, mka_tiers *cache, int first, int n, uint64_t seed, float *noise) {
    const mka_local_shape *c = &cache->local.shape;
    int key = c->kv_heads * c->key_dim, value = c->kv_heads * c->value_dim;
    for (int done = 0; done < n; done += FILL) {
        int count = n - done < FILL ? n - done : FILL;
        noise_task task = {noise, (size_t)count * (size_t)(key + value), mix(seed + (uint64_t)(first + done))};
        mka_pool_run(s->ops.pool, noise_share, &task);
        mka_tiers_store(cache, ops, first + done, count, noise, key, noise + (size_t)count * (size_t)key, value);
        if (cache->shared) mka_tiers_settle(cache, ops, first + done + count);
    }
}

/* The bank's side of it: tokens whose rows are noise. */
static void fill_bank(mka_session *s, mka_bank *bank, int n, uint64_t seed, float *noise) {
    size_t width = (size_t)bank->shape.width;
    for (int done = 0; done < n; done += FILL) {
        int count = n - done < FILL ? n - done : FILL;
        noise_task task = {noise, (size_t)count * width, mix(seed + (uint64_t)(s->length + done))};
        mka_pool_run(s->ops.pool, noise_share, &task);
        mka_bank_put(bank, s->ops.kernels, count, noise);
    }
}

mka_status mka_session_fill(mka_session *s, int count, uint64_t seed, mka_error *error) {
    mka_succeed(error);
    if (count < 0 || count > s->options.context - s->length)
        return mka_fail(error, MKA_CONTEXT_FULL, "%d tokens do not fit: %d of the context's %d are taken", count, s->length,
                        s->options.context);
    size_t widest = (size_t)s->model->sizes.width;
    for (int i = 0; i < s->model->sizes.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++) {
            const mka_local_shape *c = &s->layers[i].cache[j].local.shape;
            size_t width = (size_t)c->kv_heads * (size_t)(c->key_dim + c->value_dim);
            widest = width > widest ? width : widest;
        }
    float *noise = malloc(widest * FILL * sizeof *noise);
    if (!noise) return mka_fail(error, MKA_NO_MEMORY, "no memory for random keys and values");
    for (int i = 0; i < s->model->sizes.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++)
            fill_cache(s, mka_session_ops(s, i), &s->layers[i].cache[j], s->length, count, seed + (uint64_t)(i * MKA_LEVELS + j),
                       noise);
    mka_status status = mka_forward_settle(s, error);
    if (!status) status = mka_tiers_failure(&s->tiers, error);
    for (int i = 0; i < s->model->sizes.layers && !status; i++)
        if (s->layers[i].bank.scan) fill_bank(s, &s->layers[i].bank, count, ~seed + (uint64_t)i, noise);
    free(noise);
    if (status) {
        mka_session_take_back(s);
        return status;
    }
    for (int i = 0; i < count; i++) s->tokens[s->length + i] = -1;
    s->length += count;
    return MKA_OK;
}
