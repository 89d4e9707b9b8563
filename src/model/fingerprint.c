/* fingerprint - which model a saved session belongs to. A hash of all weights would read gigabytes for every session; samples
 * of each tensor tell models apart just as well, since training changes every tensor. */
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

#include "model.h"

enum { SAMPLE = 512 };

static void add(XXH3_state_t *hash, const void *bytes, size_t size) {
    XXH3_64bits_update(hash, bytes, size);
}

static void add_tensor(XXH3_state_t *hash, const mka_tensor *t) {
    int32_t kind[2] = {(int32_t)t->type, t->rank};
    size_t sample = t->bytes < SAMPLE ? t->bytes : SAMPLE, places[] = {0, (t->bytes - sample) / 2, t->bytes - sample};
    add(hash, t->name, strlen(t->name) + 1);
    add(hash, kind, sizeof kind);
    add(hash, t->shape, (size_t)t->rank * sizeof *t->shape);
    for (int i = 0; i < 3; i++) add(hash, (const unsigned char *)t->data + places[i], sample);
}

static void add_file(XXH3_state_t *hash, const mka_file *file) {
    for (int i = 0; file && i < mka_file_tensor_count(file); i++) add_tensor(hash, mka_file_tensor(file, i));
}

/* The numbers of a layer one by one: a struct's padding says nothing. */
static void add_layer(XXH3_state_t *hash, const mka_layer_config *c) {
    const int whole[] = {(int)c->variant, c->width,      c->heads,        c->kv_heads, c->head_dim, c->value_dim,     c->nope_dim,
                         c->rope_dim,     c->latent_dim, c->q_latent_dim, c->window,   c->levels,   c->router_hidden, c->rope};
    const float real[] = {c->ema_beta, c->norm_eps, c->scale};
    add(hash, whole, sizeof whole);
    add(hash, real, sizeof real);
}

uint64_t mka_model_fingerprint(const mka_model *m) {
    XXH3_state_t hash;
    const double scales[] = {m->sizes.norm_eps, m->sizes.norm_offset, m->sizes.embed_scale, m->sizes.score_scale};
    XXH3_64bits_reset(&hash);
    add_file(&hash, m->file);
    add_file(&hash, m->router);
    add(&hash, scales, sizeof scales);
    for (int i = 0; i < m->sizes.layers; i++) add_layer(&hash, &m->blocks[i].attention.config);
    for (int i = 0; i < MKA_ROPES; i++) {
        const mka_rope *r = &m->ropes[i];
        add(&hash, &r->pairs, sizeof r->pairs);
        add(&hash, &r->neighbours, sizeof r->neighbours);
        add(&hash, &r->magnitude, sizeof r->magnitude);
        add(&hash, r->inverse, (size_t)r->pairs * sizeof *r->inverse);
    }
    return XXH3_64bits_digest(&hash);
}
