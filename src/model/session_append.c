/* session_append - the tokens of one session put behind those of another (mka/session.h), without the model being run.
 *
 *   from  keys turned to positions 0, 1, ...  ->  turned on by length - first  ->  to: local tier, which closes blocks as it
 * fills
 *
 * A rotary position is a rotation, so turning a key on by a distance gives the key that it would have had there. Codes are made
 * anew from the numbers, with the centre of the session that takes them: two files need not have the same centres, types or
 * windows, and their blocks need not meet at multiples of 64. Rows of 8 bits are rounded a second time by that. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "memory/held.h"
#include "session.h"

enum { PIECE = 64 }; /* tokens at once */

/* Room for a piece of any layer. */
typedef struct piece {
    float *keys, *values, *cosine, *sine;
} piece;

static void free_piece(piece *p) {
    free(p->keys);
    free(p->values);
    free(p->cosine);
    free(p->sine);
}

static mka_status make_piece(const mka_session *s, piece *p, mka_error *error) {
    size_t keys = 1, values = 1, pairs = 1;
    for (int i = 0; i < s->model->sizes.layers; i++) {
        const mka_local_shape *shape = &s->layers[i].cache[0].local.shape;
        size_t heads = (size_t)shape->kv_heads;
        mka_raise(&keys, heads, (size_t)shape->key_dim);
        mka_raise(&values, heads, (size_t)shape->value_dim);
    }
    for (int i = 0; i < MKA_ROPES; i++) mka_raise(&pairs, 1, (size_t)s->model->ropes[i].pairs);
    *p = (piece){malloc(PIECE * keys * sizeof(float)), malloc(PIECE * values * sizeof(float)),
                 malloc(PIECE * pairs * sizeof(float)), malloc(PIECE * pairs * sizeof(float))};
    return p->keys && p->values && p->cosine && p->sine ? MKA_OK
                                                        : mka_fail(error, MKA_NO_MEMORY, "no memory to append a session");
}

/* The same turn for every token of a piece: by distance positions, without the magnitude, which the keys have already. */
static void fill_turn(const mka_rope *rope, int distance, piece *p) {
    mka_rope plain = *rope;
    size_t row = (size_t)rope->pairs;
    plain.magnitude = 1;
    mka_rope_fill(&plain, distance, 1, p->cosine, p->sine);
    for (size_t i = 1; i < PIECE; i++) {
        memcpy(p->cosine + i * row, p->cosine, row * sizeof *p->cosine);
        memcpy(p->sine + i * row, p->sine, row * sizeof *p->sine);
    }
}

/* The cache of one layer of from, from token first on, behind the tokens of s. */
static mka_status append_layer(mka_session *s, mka_session *from, int layer, int first, piece *p, mka_error *error) {
    const mka_layer_config *c = &s->model->blocks[layer].attention.config;
    const mka_rope *rope = &s->model->ropes[c->rope];
    mka_tiers *to = &s->layers[layer].cache[0], *source = &from->layers[layer].cache[0];
    const mka_local_shape *shape = &to->local.shape;
    mka_ops *ops = to->local.device ? &s->device_ops : &s->ops;
    int width = shape->kv_heads * shape->key_dim, latent = shape->shared ? c->latent_dim : 0,
        settles = to->shared && (to->judged || source->judged);
    if (to->shared && !to->judged && source->judged && source->dense) mka_tiers_stay_dense(to, ops, s->length);
    if (!to->local.device) ops = &s->ops; /* it may have had to leave the device */
    fill_turn(rope, s->length - first, p);
    int most =
        s->options.chunk < PIECE ? s->options.chunk : PIECE; /* of one pass, which the cache has room for beside its codes */
    for (int at = first, n; at < from->length; at += n) {
        int position = s->length + at - first;
        n = from->length - at < most ? from->length - at : most;
        mka_status status = mka_held_rows(source, &from->device_ops, at, n, p->keys, shape->shared ? NULL : p->values, error);
        if (status) return status;
        s->ops.rope(&s->ops, n, shape->kv_heads, rope->pairs, rope->neighbours, p->keys + latent, width, shape->key_dim,
                    p->cosine, p->sine);
        mka_tiers_store(to, ops, position, n, p->keys, width, p->values, shape->kv_heads * shape->value_dim);
        if (settles) mka_tiers_settle(to, ops, position + n);
        if (s->tiered && (status = mka_tiers_failure(&s->tiers, error)) != MKA_OK) return status;
    }
    return MKA_OK;
}

static mka_status check(const mka_session *s, const mka_session *from, int first, mka_error *error) {
    if (s == from) return mka_fail(error, MKA_BAD_ARGUMENT, "a session cannot be appended to itself");
    if (s->recurrent)
        return mka_fail(
            error, MKA_UNSUPPORTED,
            "this model keeps a running session summary; those of two sessions cannot be made one (its long-term bank "
            "can be had: mka_session_remember, --bank-from)");
    if (s->model != from->model && mka_model_fingerprint(s->model) != mka_model_fingerprint(from->model))
        return mka_fail(error, MKA_BAD_ARGUMENT, "the session to be appended is another model's");
    if (first < 0 || first > from->length)
        return mka_fail(error, MKA_BAD_ARGUMENT, "token %d of a session of %d tokens cannot be the first that is appended", first,
                        from->length);
    for (int i = 0; i < from->model->sizes.layers; i++) {
        const mka_tiers *t = &from->layers[i].cache[0];
        if (t->longterm.blocks && first > t->shared->plan.sinks)
            return mka_fail(
                error, MKA_UNSUPPORTED,
                "tokens behind the first %d have gone to long-term memory, which knows them by what they are alike in: "
                "token %d cannot be the first that is appended",
                t->shared->plan.sinks, first);
    }
    if (from->length - first > s->options.context - s->length)
        return mka_fail(error, MKA_CONTEXT_FULL, "%d tokens do not fit: %d of the context's %d are taken", from->length - first,
                        s->length, s->options.context);
    return MKA_OK;
}

mka_status mka_session_append(mka_session *s, mka_session *from, int first, mka_error *error) {
    piece p = {.keys = NULL};
    mka_succeed(error);
    mka_status status = check(s, from, first, error);
    if (status) return status;
    status = make_piece(s, &p, error);
    for (int i = 0; i < s->model->sizes.layers && !status; i++) status = append_layer(s, from, i, first, &p, error);
    if (!status) status = mka_forward_settle(from, error);
    if (!status) status = mka_forward_settle(s, error);
    free_piece(&p);
    if (status) {
        mka_session_take_back(s);
        return status;
    }
    memcpy(s->tokens + s->length, from->tokens + first, (size_t)(from->length - first) * sizeof *s->tokens);
    s->length += from->length - first;
    return MKA_OK;
}
