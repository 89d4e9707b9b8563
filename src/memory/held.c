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

mka_status mka_held_rows(mka_tiers *t, int first, int n, float *keys, float *values, mka_error *error) {
    const mka_local_shape *s = &t->local.shape;
    int sinks = t->shared ? t->shared->plan.sinks : 0, closed = sinks + t->longterm.blocks * MKA_BLOCK;
    for (int i = 0; i < n; i++)
        for (int head = 0; head < s->kv_heads; head++) {
            size_t row = (size_t)i * (size_t)s->kv_heads + (size_t)head;
            float *key = keys + row * (size_t)s->key_dim, *value = values ? values + row * (size_t)s->value_dim : NULL;
            if (first + i >= sinks && first + i < closed) {
                mka_status status = closed_row(&t->longterm, head, first + i - sinks, key, value, error);
                if (status) return status;
                continue;
            }
            mka_local_key(&t->local, head, first + i, key);
            if (value) mka_local_value(&t->local, head, first + i, value);
        }
    return MKA_OK;
}
