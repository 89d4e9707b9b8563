/* scalar_cache - attention's scores and mixes over cache tiles in plain C: the meaning of every level's. One token is read back
 * at a time and serves all query rows. */
#include "kernels.h"
#include "scalar.h"

static void score(mka_type type, int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {
    const char *tile = keys;
    size_t bytes = mka_key_tile_bytes(type, d);
    float key[MKA_MOST_DIM];
    for (int t = 0; t < n; t++) {
        mka_get_key(type, d, tile + (size_t)(t / MKA_TILE) * bytes, t % MKA_TILE, key);
        for (int i = 0; i < r; i++) s[(ptrdiff_t)i * lds + t] = scale * scalar_dot(d, q + (ptrdiff_t)i * d, key);
    }
}

static void mix(mka_type type, int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {
    const char *tile = values;
    size_t bytes = mka_value_tile_bytes(type, d);
    float value[MKA_MOST_DIM];
    if (n <= 0) return;
    for (int i = 0; i < r; i++)
        for (int e = 0; e < d; e++) acc[(ptrdiff_t)i * d + e] *= c[i];
    for (int t = 0; t < n; t++) {
        mka_get_value(type, d, tile + (size_t)(t / MKA_TILE) * bytes, t % MKA_TILE, value);
        for (int i = 0; i < r; i++) {
            float weight = s[(ptrdiff_t)i * lds + t], *row = acc + (ptrdiff_t)i * d;
            for (int e = 0; e < d; e++) row[e] += weight * value[e];
        }
    }
}

#define CACHE_KERNELS(TYPE, type)                                                                                                \
    static void score_##type(int r, int d, int n, const float *q, const void *keys, float scale, float *s, int lds) {            \
        score(MKA_##TYPE, r, d, n, q, keys, scale, s, lds);                                                                      \
    }                                                                                                                            \
    static void mix_##type(int r, int d, int n, const float *s, int lds, const void *values, const float *c, float *acc) {       \
        mix(MKA_##TYPE, r, d, n, s, lds, values, c, acc);                                                                        \
    }
CACHE_KERNELS(F32, f32)
CACHE_KERNELS(F16, f16)
CACHE_KERNELS(BF16, bf16)
CACHE_KERNELS(Q8_0, q8)
CACHE_KERNELS(Q4_0, q4)

void mka_scalar_fill_cache(mka_kernels *k) {
#define FILL(TYPE, type) k->score[MKA_##TYPE] = score_##type, k->mix[MKA_##TYPE] = mix_##type
    FILL(F32, f32);
    FILL(F16, f16);
    FILL(BF16, bf16);
    FILL(Q8_0, q8);
    FILL(Q4_0, q4);
}
