/* router - a trained MKA or FastMKA router beside a stock model: a small GGUF or safetensors file.
 *
 *   metadata  mka.kind "fastmka" or "mka"   mka.levels 2 or 3   mka.ema_beta in [0, 1)
 *   tensors   layers.N.router.0.weight [hidden][heads * head_dim]   .bias [hidden]
 *             layers.N.router.2.weight [levels][hidden]             .bias [levels]
 *
 * Layers that the file does not name stay as they are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "model.h"

/* A number that safetensors metadata can only have as text. */
static int number(const mka_file *file, const char *key, double *value) {
    const char *bytes;
    size_t length;
    const mka_meta *meta = mka_file_meta_find(file, key);
    if (!meta) return 0;
    if (mka_meta_float(file, meta, 0, value)) return 1;
    char text[64], *end;
    if (!mka_meta_string(file, meta, 0, &bytes, &length) || length == 0 || length >= sizeof text) return 0;
    memcpy(text, bytes, length);
    text[length] = '\0';
    *value = strtod(text, &end);
    return *end == '\0';
}

typedef struct settings {
    mka_variant variant;
    int levels;
    float ema_beta;
} settings;

static mka_status read_settings(const mka_file *file, const char *path, settings *out, mka_error *error) {
    const char *kind;
    size_t length;
    double levels, beta;
    const mka_meta *meta = mka_file_meta_find(file, "mka.kind");
    if (!meta || !mka_meta_string(file, meta, 0, &kind, &length))
        return mka_fail(error, MKA_BAD_FILE, "%s: not a router: metadata key mka.kind is missing", path);
    if (length == 3 && !memcmp(kind, "mka", 3))
        out->variant = MKA_MKA;
    else if (length == 7 && !memcmp(kind, "fastmka", 7))
        out->variant = MKA_FASTMKA;
    else
        return mka_fail(error, MKA_BAD_FILE, "%s: mka.kind must be mka or fastmka", path);
    if (!number(file, "mka.levels", &levels) || (levels != 2 && levels != 3))
        return mka_fail(error, MKA_BAD_FILE, "%s: mka.levels must be 2 or 3", path);
    if (!number(file, "mka.ema_beta", &beta) || !(beta >= 0 && beta < 1))
        return mka_fail(error, MKA_BAD_FILE, "%s: mka.ema_beta must be at least 0 and below 1", path);
    out->levels = (int)levels;
    out->ema_beta = (float)beta;
    return MKA_OK;
}

/* layers.N.router.PART, or NULL; with the shape that is asked for (any first dimension when rows is 0). */
static const mka_tensor *find(const mka_model *m, int layer, const char *part, int64_t rows, int64_t cols, const char *path,
                              mka_status *status, mka_error *error) {
    char name[64];
    snprintf(name, sizeof name, "layers.%d.router.%s", layer, part);
    const mka_tensor *t = mka_file_find(m->router, name);
    if (*status) return NULL;
    int rank = cols ? 2 : 1;
    if (!t)
        *status = mka_fail(error, MKA_BAD_FILE, "%s: tensor %s is missing", path, name);
    else if (t->rank != rank || (rows && t->shape[0] != rows) || (cols && t->shape[1] != cols) || t->shape[0] > 1 << 16)
        *status = mka_fail(error, MKA_BAD_FILE, "%s: the shape of tensor %s does not fit the model", path, name);
    else if (cols ? !mka_type_get(t->type)->weight || !mka_type_row_bytes(t->type, cols)
                  : t->type != MKA_F32 || (uintptr_t)t->data % sizeof(float))
        *status = mka_fail(error, MKA_UNSUPPORTED, "%s: tensor %s is of type %s%s", path, name, mka_type_name(t->type),
                           cols ? "" : "; a bias must be aligned f32");
    return *status ? NULL : t;
}

static mka_matrix bind(const mka_tensor *t) {
    return (mka_matrix){t->data, t->type, (int)t->shape[0], (int)t->shape[1], mka_type_row_bytes(t->type, t->shape[1])};
}

static mka_status bind_layer(mka_model *m, int index, const settings *set, const char *path, mka_error *error) {
    mka_layer *layer = &m->blocks[index].attention;
    mka_layer_config *c = &layer->config;
    mka_status status = MKA_OK;
    const mka_tensor *in = find(m, index, "0.weight", 0, (int64_t)c->heads * c->head_dim, path, &status, error);
    int64_t hidden = in ? in->shape[0] : 1;
    const mka_tensor *in_bias = find(m, index, "0.bias", hidden, 0, path, &status, error);
    const mka_tensor *out = find(m, index, "2.weight", set->levels, hidden, path, &status, error);
    const mka_tensor *out_bias = find(m, index, "2.bias", set->levels, 0, path, &status, error);
    if (status) return status;
    layer->weights.router_in = bind(in);
    layer->weights.router_in_bias = in_bias->data;
    layer->weights.router_out = bind(out);
    layer->weights.router_out_bias = out_bias->data;
    c->variant = set->variant;
    c->levels = set->levels;
    c->ema_beta = set->ema_beta;
    c->router_hidden = (int)hidden;
    return MKA_OK;
}

mka_status mka_router_load(mka_model *m, const char *path, mka_error *error) {
    mka_status status = mka_file_open(path, &m->router, error);
    return status ? status : mka_router_bind(m, path, error);
}

mka_status mka_router_bind(mka_model *m, const char *path, mka_error *error) {
    if (m->sizes.variant != MKA_GROUPED)
        return mka_fail(error, MKA_UNSUPPORTED, "%s: a router needs a model with grouped attention, not %s", path,
                        mka_variant_name(&m->blocks[0].attention.config));
    settings set = {.levels = 0};
    mka_status status = read_settings(m->router, path, &set, error);
    int routed = 0;
    for (int i = 0; i < m->sizes.layers && !status; i++) {
        char name[64];
        snprintf(name, sizeof name, "layers.%d.router.0.weight", i);
        if (!mka_file_find(m->router, name)) continue;
        status = bind_layer(m, i, &set, path, error);
        routed++;
    }
    if (!status && !routed)
        return mka_fail(error, MKA_BAD_FILE, "%s: it names no layer of this model (layers.0.router.0.weight, ...)", path);
    if (!status) {
        m->sizes.variant = set.variant;
        mka_log(m->engine, MKA_LOG_INFO, "%s: %d of %d layers are routed", path, routed, (int)m->sizes.layers);
    }
    return status;
}
