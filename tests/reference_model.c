/* reference_model - see the header. A file is a JSON header of names, shapes and offsets, and the numbers behind it. */
#include "reference_model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const reference_shape reference_shapes[] = {
    {"lm-mha", 2, 48, 4, 4, 12, 96, 61, 0, 0, 0, 0, 0, 0},    {"lm-gqa", 2, 64, 6, 2, 16, 96, 61, 0, 0, 0, 0, 0, 0},
    {"lm-mqa", 2, 48, 4, 1, 12, 96, 61, 0, 0, 0, 0, 0, 0},    {"lm-gqa", 2, 48, 4, 2, 12, 96, 61, 7, 0, 0, 0, 0, 0},
    {"lm-mla", 2, 48, 4, 4, 12, 96, 61, 0, 0, 8, 4, 12, 20},  {"lm-mka", 2, 48, 4, 2, 12, 96, 61, 0, 3, 0, 0, 0, 0},
    {"lm-fastmka", 2, 48, 4, 2, 12, 96, 61, 0, 3, 0, 0, 0, 0}};
const int reference_shape_count = sizeof reference_shapes / sizeof *reference_shapes;

float reference_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (float)((double)(*state >> 11) * 0x1p-52 - 1.0);
}

typedef struct writer {
    char header[1 << 16];
    size_t used, floats, room;
    float *values;
    uint64_t state;
} writer;

static void print(writer *w, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    w->used += (size_t)vsnprintf(w->header + w->used, sizeof w->header - w->used, format, arguments);
    va_end(arguments);
}

/* A tensor of random numbers of the given spread around center; cols 0: a vector. The name is printf. */
static void tensor(writer *w, int rows, int cols, float spread, float center, const char *format, ...) {
    char name[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    size_t count = (size_t)rows * (cols ? (size_t)cols : 1);
    if (w->floats + count > w->room) {
        w->room = 2 * (w->floats + count);
        w->values = realloc(w->values, w->room * sizeof(float));
        if (!w->values) abort();
    }
    for (size_t i = 0; i < count; i++) w->values[w->floats + i] = center + spread * reference_random(&w->state);
    print(w, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%d", name, rows);
    if (cols) print(w, ",%d", cols);
    print(w, "],\"data_offsets\":[%zu,%zu]}", w->floats * sizeof(float), (w->floats + count) * sizeof(float));
    w->floats += count;
}

static void weight(writer *w, int rows, int cols, const char *prefix, const char *name) {
    tensor(w, rows, cols, 1.7F / sqrtf((float)cols), 0, "%s%s.weight", prefix, name);
}

static void attention_tensors(writer *w, const reference_shape *s, const char *prefix) {
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    if (s->latent_dim) {
        weight(w, s->heads * (s->nope_dim + s->rope_dim), s->width, prefix, "q_proj");
        weight(w, s->latent_dim + s->rope_dim, s->width, prefix, "kv_down");
        tensor(w, s->latent_dim, 0, 0.1F, 1, "%skv_norm.weight", prefix);
        weight(w, s->heads * (s->nope_dim + s->v_dim), s->latent_dim, prefix, "kv_up");
        weight(w, s->width, s->heads * s->v_dim, prefix, "o_proj");
        return;
    }
    weight(w, q, s->width, prefix, "q_proj");
    weight(w, kv, s->width, prefix, "k_proj");
    weight(w, kv, s->width, prefix, "v_proj");
    weight(w, s->width, q, prefix, "o_proj");
    if (!s->levels) return;
    weight(w, q / 2, q, prefix, "router.0");
    tensor(w, q / 2, 0, 0.1F, 0, "%srouter.0.bias", prefix);
    weight(w, s->levels, q / 2, prefix, "router.2");
    tensor(w, s->levels, 0, 0.1F, 0, "%srouter.2.bias", prefix);
}

static int write_out(writer *w, FILE *file) {
    print(w, "}");
    uint64_t length = (w->used + 7) / 8 * 8;
    while (w->used < length) w->header[w->used++] = ' ';
    int good = file && fwrite(&length, 8, 1, file) == 1 && fwrite(w->header, 1, w->used, file) == w->used &&
               fwrite(w->values, sizeof(float), w->floats, file) == w->floats;
    if (file) good = fclose(file) == 0 && good;
    free(w->values);
    free(w);
    return good;
}

static void temporary_name(char *path, size_t room) {
    const char *folder = getenv("TMPDIR");
    snprintf(path, room, "%s/mka-test-XXXXXX", folder && *folder ? folder : "/tmp");
}

static int finish(writer *w, char *path, size_t room) {
    temporary_name(path, room);
    int handle = mkstemp(path);
    return write_out(w, handle >= 0 ? fdopen(handle, "wb") : NULL);
}

static writer *start(uint64_t seed) {
    writer *w = calloc(1, sizeof *w);
    if (!w) abort();
    w->state = seed * 2654435761U + 88172645463325252U;
    return w;
}

/* What a naming calls the tensors of a model; %d is the layer. */
typedef struct naming {
    const char *embedding, *attention, *attention_norm, *ffn_norm, *ffn, *norm;
} naming;

static const naming reference_names = {
    "p.embed.weight", "p.layers.%d.attn.", "p.layers.%d.attn_norm.weight", "p.layers.%d.ffn_norm.weight",
    "p.layers.%d.",   "p.norm.weight"};
static const naming hf_names = {"model.embed_tokens.weight",
                                "model.layers.%d.self_attn.",
                                "model.layers.%d.input_layernorm.weight",
                                "model.layers.%d.post_attention_layernorm.weight",
                                "model.layers.%d.mlp.",
                                "model.norm.weight"};

static const char *with_layer(const char *format, int layer, char *text, size_t room) {
    const char *place = strstr(format, "%d");
    snprintf(text, room, "%.*s%d%s", (int)(place - format), format, layer, place + 2);
    return text;
}

/* In one order for every naming, so that a seed gives the same numbers. */
static void model_tensors(writer *w, const reference_shape *s, const naming *names) {
    tensor(w, s->vocabulary, s->width, 0.9F, 0, "%s", names->embedding);
    for (int i = 0; i < s->layers; i++) {
        char name[128];
        attention_tensors(w, s, with_layer(names->attention, i, name, sizeof name));
        tensor(w, s->width, 0, 0.1F, 1, "%s", with_layer(names->attention_norm, i, name, sizeof name));
        tensor(w, s->width, 0, 0.1F, 1, "%s", with_layer(names->ffn_norm, i, name, sizeof name));
        with_layer(names->ffn, i, name, sizeof name);
        weight(w, s->ffn, s->width, name, "gate_proj");
        weight(w, s->ffn, s->width, name, "up_proj");
        weight(w, s->width, s->ffn, name, "down_proj");
    }
    tensor(w, s->width, 0, 0.1F, 1, "%s", names->norm);
}

int reference_model_write(const reference_shape *s, uint64_t seed, char *path, size_t room) {
    writer *w = start(seed);
    print(w, "{\"__metadata__\":{\"kind\":\"%s\",\"config\":\"{", s->kind);
    print(w, "\\\"layers\\\":%d,\\\"width\\\":%d,\\\"heads\\\":%d,\\\"kv_heads\\\":%d,\\\"head_dim\\\":%d,", s->layers, s->width,
          s->heads, s->kv_heads, s->head_dim);
    print(w, "\\\"ffn\\\":%d,\\\"vocab\\\":%d,\\\"window\\\":%d,\\\"levels\\\":%d,", s->ffn, s->vocabulary, s->window,
          s->levels ? s->levels : 3);
    print(w, "\\\"nope_dim\\\":%d,\\\"rope_dim\\\":%d,\\\"v_dim\\\":%d,\\\"latent_dim\\\":%d,", s->nope_dim, s->rope_dim,
          s->v_dim, s->latent_dim);
    print(w, "\\\"ema_beta\\\":0.9,\\\"rope_base\\\":10000.0,\\\"norm_eps\\\":1e-6}\"}");
    model_tensors(w, s, &reference_names);
    return finish(w, path, room);
}

static FILE *create(const char *folder, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, "wb");
}

static int write_config(const reference_shape *s, FILE *file) {
    if (!file) return 0;
    fprintf(file, "{\"model_type\":\"llama\",\"hidden_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,", s->width,
            s->layers, s->heads);
    fprintf(file, "\"num_key_value_heads\":%d,\"head_dim\":%d,\"intermediate_size\":%d,\"vocab_size\":%d,", s->kv_heads,
            s->head_dim, s->ffn, s->vocabulary);
    fprintf(file, "\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,\"max_position_embeddings\":1024,\"tie_word_embeddings\":true}");
    return fclose(file) == 0;
}

int reference_folder_write(const reference_shape *s, uint64_t seed, char *folder, size_t room) {
    temporary_name(folder, room);
    if (!mkdtemp(folder) || !write_config(s, create(folder, "config.json"))) return 0;
    writer *w = start(seed);
    print(w, "{\"__metadata__\":{\"format\":\"pt\"}");
    model_tensors(w, s, &hf_names);
    return write_out(w, create(folder, "model.safetensors"));
}

void reference_folder_remove(const char *folder) {
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[512];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

int reference_router_write(const reference_shape *s, const char *kind, int first, uint64_t seed, char *path, size_t room) {
    writer *w = start(seed);
    int q = s->heads * s->head_dim, hidden = q / 2;
    float spread = first ? 0.0F : 1.7F;
    print(w, "{\"__metadata__\":{\"mka.kind\":\"%s\",\"mka.levels\":\"3\",\"mka.ema_beta\":\"0.9\"}", kind);
    for (int i = 0; i < s->layers; i++) {
        tensor(w, hidden, q, spread / sqrtf((float)q), 0, "layers.%d.router.0.weight", i);
        tensor(w, hidden, 0, spread * 0.1F, 0, "layers.%d.router.0.bias", i);
        tensor(w, 3, hidden, spread / sqrtf((float)hidden), 0, "layers.%d.router.2.weight", i);
        tensor(w, 3, 0, spread * 0.1F, 0, "layers.%d.router.2.bias", i);
        if (first) w->values[w->floats - 3] = 1000.0F; /* softmax(1000, 0, 0) is exactly (1, 0, 0) in float32 */
    }
    return finish(w, path, room);
}
