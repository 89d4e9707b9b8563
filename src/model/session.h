/* session - what mka_session points to, and the forward pass over one chunk.
 *
 * With a device, the first `offloaded` layers are computed there and the others on the CPU; what passes between two layers
 * crosses the bus once, where the kinds meet (offload.c decides).
 *
 * One workspace, laid out once by mka_session_layout:
 *
 *   | ops scratch | tiers | bank | token ids | x, cosines, sines | h | y | session summaries | ( attention | gate, up | score
 * tile ) |
 *
 * The three in brackets are never alive at the same time and share their place. What follows the token ids is mirrored on a
 * device.
 */
#ifndef MKA_MODEL_SESSION_H
#define MKA_MODEL_SESSION_H

#include "memory/placement.h"
#include "model.h"

#define MKA_SCORE_TILE 1024 /* rows of the output matrix that scoring takes at once */

struct mka_session {
    const mka_model *model;
    mka_session_options options;
    int length;
    mka_ops ops;              /* the CPU's */
    mka_ops device_ops;       /* the device's, where some layer is there */
    int offloaded;            /* layers on the device */
    int output_there;         /* 1: the last norm and the output matrix too */
    int tiers_there;          /* of them, as many of the first ones have their tiers there */
    int rows_there;           /* of them, as many of the first ones have all their long-term rows there */
    mka_local expanded;       /* latent attention: where a block is expanded */
    mka_local expanded_there; /* the same on the device */
    int *tokens;              /* [options.context] the timeline; -1 where there are none */
    mka_layer_state *layers;  /* [model layers] */
    mka_arena work;
    size_t mirror_from; /* byte of work from which on it is mirrored */
    float *x, *h, *y;   /* [chunk][width]: the residual stream, room for its normalised copy, and for what is added */
    float *gate, *up;   /* [chunk][ffn] */
    float *cosine[MKA_ROPES], *sine[MKA_ROPES]; /* of a pass: right behind its rows of x, so that they cross a bus together */
    float *summaries;                           /* [layers][width], for routed layers */
    float *tile;                                /* [chunk][MKA_SCORE_TILE] */
    float *score_m, *score_z, *score_c, *score_target; /* [chunk] */
    mka_attention_scratch attention;
    void *note; /* the caller's bytes, owned */
    size_t note_bytes;
    uint64_t cache_reserved;
    mka_placement placement;
    mka_tiers_shared tiers; /* where the session is tiered */
    int bank;               /* summaries that a layer's long-term bank can find; 0: there are no banks (session_bank.h) */
    mka_bank_work bank_work;
    int tiered;    /* 1: some layer has a long-term tier */
    int recurrent; /* 1: some layer's state cannot be cut back */
};

/* The operations of a layer, and of what follows the last one. */
static inline mka_ops *mka_session_ops(mka_session *s, int layer) {
    return layer < s->offloaded ? &s->device_ops : &s->ops;
}
static inline mka_ops *mka_session_last_ops(mka_session *s) {
    return s->output_there ? &s->device_ops : &s->ops;
}

/* 1 for a layer whose keys and values are on the device. */
static inline int mka_session_cache_there(const mka_session *s, int layer) {
    int tiered = s->tiered && mka_layer_tiered(&s->model->blocks[layer].attention.config);
    return layer < (tiered ? s->tiers_there : s->offloaded);
}

/* Decides, by the device's room, which layers go there; then copies their weights. work is laid out in between. */
mka_status mka_offload_plan(mka_session *session, mka_error *error);
mka_status mka_offload_start(mka_session *session, mka_error *error);

/* Sizes (arena measuring) or places (carving) all buffers. */
void mka_session_layout(mka_session *session);

/* Takes back what a pass that did not end well left in the caches beyond length. */
void mka_session_take_back(mka_session *session);

/* Runs n (<= chunk) tokens through all layers, into the caches after the tokens held; session->x gets the final rows. Does not
 * move session->length. stop (may be NULL) is asked between layers; nonzero leaves the pass unfinished (returns 1). */
int mka_forward(mka_session *session, const int *tokens, int n, int (*stop)(void *user), void *user);

/* Waits for a device; its failure, when there was one since the last call. */
mka_status mka_forward_settle(mka_session *session, mka_error *error);

/* logits [vocabulary] of row row of session->x. */
void mka_forward_logits(mka_session *session, int row, float *logits);

/* nll[i] of targets[i] (-1: none, leaves nll[i] alone) for n rows of session->x from row first on. */
void mka_forward_nll(mka_session *session, int first, int n, const int *targets, double *nll);

#endif
