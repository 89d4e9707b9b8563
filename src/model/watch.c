/* watch - a session that counts what every head reads and compares recall with dense attention (memory/watch.h). */
#include "memory/watch.h"

#include <stdlib.h>

#include "base/status.h"
#include "session.h"

static mka_status start(mka_session *s, mka_error *error) {
    int heads = 1, value_dim = 1;
    for (int i = 0; i < s->model->sizes.layers; i++) {
        const mka_layer_config *c = &s->model->blocks[i].attention.config;
        if (c->heads > heads) heads = c->heads;
        if (c->value_dim > value_dim) value_dim = c->value_dim;
    }
    s->tiers.watch = mka_watch_create(heads, value_dim);
    if (!s->tiers.watch) return mka_fail(error, MKA_NO_MEMORY, "no memory to watch a session with");
    for (int i = 0; i < s->model->sizes.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++) {
            mka_tiers *t = &s->layers[i].cache[j];
            if (!t->shared) continue;
            t->heads = calloc((size_t)t->local.shape.kv_heads, sizeof *t->heads);
            if (!t->heads) return mka_fail(error, MKA_NO_MEMORY, "no memory to watch layer %d with", i);
        }
    return MKA_OK;
}

mka_status mka_session_watch(mka_session *s, mka_watch_mode mode, mka_error *error) {
    mka_succeed(error);
    mka_status status = s->tiered && !s->tiers.watch && mode != MKA_WATCH_OFF ? start(s, error) : MKA_OK;
    if (!status && s->tiers.watch) {
        s->tiers.watch->count = mode != MKA_WATCH_OFF;
        s->tiers.watch->compare = mode == MKA_WATCH_COMPARE;
    }
    return status;
}

int mka_session_get_head_used(const mka_session *s, int layer, int head, mka_head_used *used) {
    *used = (mka_head_used){.compared = 0};
    if (layer < 0 || layer >= s->model->sizes.layers) return 0;
    int counted = 0;
    for (int j = 0; j < s->layers[layer].caches; j++) { /* a level each, where a layer has several */
        const mka_tiers *t = &s->layers[layer].cache[j];
        if (!t->heads || head < 0 || head >= t->local.shape.kv_heads) continue;
        mka_used_add(&used->used, &t->heads[head].used);
        used->dense_bytes += t->heads[head].dense_bytes;
        used->compared += t->heads[head].compared;
        used->lost_mass += t->heads[head].lost_mass;
        used->output_error += t->heads[head].output_error;
        counted = 1;
    }
    return counted;
}
