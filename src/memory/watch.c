/* watch - see watch.h. */
#include "watch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

mka_watch *mka_watch_create(int heads, int value_dim) {
    mka_watch *watch = calloc(1, sizeof *watch);
    if (!watch) return NULL;
    watch->heads = heads;
    watch->value_dim = value_dim;
    watch->read = calloc((size_t)heads * ((size_t)value_dim + 2), sizeof(float));
    if (!watch->read) {
        free(watch);
        return NULL;
    }
    watch->whole = watch->read + heads;
    watch->out = watch->whole + heads;
    return watch;
}

void mka_watch_destroy(mka_watch *watch) {
    if (watch) free(watch->read);
    free(watch);
}

void mka_watch_local(mka_tiers *t, const mka_attend_job *job, uint64_t bytes) {
    uint64_t heads = (uint64_t)t->local.shape.kv_heads, token = mka_local_token_bytes(&t->local.shape);
    for (uint64_t i = 0; i < heads; i++) {
        t->heads[i].used.local_bytes += bytes / heads;
        t->heads[i].dense_bytes += token * (uint64_t)(job->first + job->n) / heads;
    }
}

void mka_watch_begin(mka_watch *w, mka_recall_job *job) {
    w->comparing = w->compare && job->n == 1;
    if (!w->comparing) return;
    job->read = w->read;
    memcpy(w->out, job->out, (size_t)job->heads * (size_t)job->longterm->shape.value_dim * sizeof(float));
}

/* |a - b| / |b| */
static double distance(int n, const float *a, const float *b) {
    double apart = 0, length = 0;
    for (int i = 0; i < n; i++) {
        apart += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        length += (double)b[i] * (double)b[i];
    }
    return length > 0 ? sqrt(apart / length) : sqrt(apart);
}

void mka_watch_note(const mka_watch *w, mka_head_used *heads_used, int heads, int kv_heads, int dim, const float *out) {
    int group = heads / kv_heads;
    for (int row = 0; row < heads; row++) {
        mka_head_used *head = &heads_used[row / group];
        double lost = 1 - exp((double)w->read[row] - (double)w->whole[row]);
        head->lost_mass += (lost > 0 ? lost : 0) / group;
        head->output_error += distance(dim, out + (size_t)row * (size_t)dim, w->out + (size_t)row * (size_t)dim) / group;
        head->compared += row % group == 0;
    }
}

void mka_watch_compare(mka_watch *w, mka_recall_work *work, mka_ops *ops, const mka_recall_job *job) {
    mka_recall all = {.contract = MKA_RECALL_DENSE};
    mka_recall_job dense = *job;
    mka_error error;
    if (!w->comparing) return;
    dense.out = w->out;
    dense.rule = &all;
    dense.read = w->whole;
    dense.used = NULL;
    dense.heads_used = NULL;
    if (mka_recall_run(work, ops, &dense, &error) != MKA_OK) return; /* the job itself has met the same */
    mka_watch_note(w, job->heads_used, job->heads, job->longterm->shape.kv_heads, job->longterm->shape.value_dim, job->out);
}
