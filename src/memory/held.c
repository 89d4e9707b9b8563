/* held - see held.h. */
#include "held.h"

/* One token of a closed block: its key is stored turned and less the centre. */
static mka_status closed_row(mka_longterm *l, int head, int token, float *key, float *value, mka_error *error) {
    int d = l->shape.key_dim, at = token % MKA_BLOCK;
    size_t index = mka_longterm_record(l, head, token / MKA_BLOCK);
    const unsigned char *record = mka_records_get(&l->records, index, error);
    if (!record) return error->status;
    mka_get_row(l->shape.key_type, d, record + (size_t)at * l->key_row, key);
    mka_get_row(l->shape.value_type, l->shape.value_dim, record + MKA_BLOCK * l->key_row + (size_t)at * l->value_row, value);
    mka_records_release(&l->records, index);
    for (int i = 0; i < d; i++) key[i] += l->centre[(size_t)head * (size_t)d + (size_t)i];
    mka_turn_back(d, key);
    return MKA_OK;
}

/* Tokens first..first + n - 1, of which none is in a closed block, of one head. */
static void local_rows(const mka_tiers *t, mka_ops *ops, int head, int first, int n, float *keys, int key_ld, float *values,
                       int value_ld) {
    if (t->local.device) {
        ops->rows(ops, t->local.device, 0, head, first, n, keys, key_ld);
        if (values) ops->rows(ops, t->local.device, 1, head, first, n, values, value_ld);
        return;
    }
    for (int i = 0; i < n; i++) {
        mka_local_key(&t->local, head, first + i, keys + (size_t)i * (size_t)key_ld);
        if (values) mka_local_value(&t->local, head, first + i, values + (size_t)i * (size_t)value_ld);
    }
}

/* How many tokens from first on are of one kind: closed (1) or not. */
static int run_of(int first, int n, int sinks, int closed, int *kind) {
    *kind = first >= sinks && first < closed;
    int end = first < sinks ? sinks : first < closed ? closed : first + n;
    return end - first < n ? end - first : n;
}

mka_status mka_held_rows(mka_tiers *t, mka_ops *ops, int first, int n, float *keys, float *values, mka_error *error) {
    const mka_local_shape *s = &t->local.shape;
    int sinks = t->shared ? t->shared->plan.sinks : 0, closed = sinks + t->longterm.blocks * MKA_BLOCK, kind;
    int key_ld = s->kv_heads * s->key_dim, value_ld = s->kv_heads * s->value_dim;
    for (int done = 0, run; done < n; done += run) {
        run = run_of(first + done, n - done, sinks, closed, &kind);
        for (int head = 0; head < s->kv_heads; head++) {
            float *key = keys + (size_t)done * (size_t)key_ld + (size_t)head * (size_t)s->key_dim,
                  *value = values ? values + (size_t)done * (size_t)value_ld + (size_t)head * (size_t)s->value_dim : NULL;
            if (!kind) local_rows(t, ops, head, first + done, run, key, key_ld, value, value_ld);
            for (int i = 0; kind && i < run; i++) {
                size_t row = (size_t)i;
                mka_status status = closed_row(&t->longterm, head, first + done + i - sinks, key + row * (size_t)key_ld,
                                               value + row * (size_t)value_ld, error);
                if (status) return status;
            }
        }
    }
    return MKA_OK;
}
