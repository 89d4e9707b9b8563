/* kv - attention over a cache that the caller fills (mka_kv): the dense tier and the attention operation without a layer around
 * them, for engines with projections of their own, and for measuring attention alone. */
#include <math.h>
#include <stdlib.h>

#include "attention.h"
#include "base/status.h"
#include "memory/placement.h"

#define MOST_TOKENS (1 << 27)
#define MOST_DIM    1024

struct mka_kv {
    mka_kv_options options;
    mka_pair ops;
    mka_residents *residents; /* NULL without a device */
    mka_arena work;
    mka_placement placement;
    mka_local cache;
    int length;
};

void mka_kv_defaults(mka_kv_options *options) {
    *options = (mka_kv_options){.context = 4096, .queries = 512, .key_type = MKA_F16, .value_type = MKA_F16};
}

static mka_status check(const mka_kv_options *o, mka_error *error) {
    const struct {
        const char *name;
        int value, low, high;
    } ranges[] = {{"heads", o->heads, 1, 4096},          {"kv_heads", o->kv_heads, 1, o->heads},
                  {"key_dim", o->key_dim, 1, MOST_DIM},  {"value_dim", o->value_dim, 1, o->shared ? o->key_dim : MOST_DIM},
                  {"window", o->window, 0, MOST_TOKENS}, {"context", o->context, 1, MOST_TOKENS},
                  {"queries", o->queries, 1, 8192}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
            return mka_fail(error, MKA_BAD_ARGUMENT, "%s of a cache is %d; it must be between %d and %d", ranges[i].name,
                            ranges[i].value, ranges[i].low, ranges[i].high);
    if (o->heads % o->kv_heads)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d key/value heads do not divide %d heads", o->kv_heads, o->heads);
    if (!(o->scale >= 0) || !isfinite(o->scale))
        return mka_fail(error, MKA_BAD_ARGUMENT, "scale %g of the scores is out of range", (double)o->scale);
    if (!mka_cache_type(o->key_type) || (!o->shared && !mka_cache_type(o->value_type)))
        return mka_fail(error, MKA_BAD_ARGUMENT, "a cache cannot be stored as %s; f32, f16, bf16, q8 and q4 can",
                        mka_type_name(mka_cache_type(o->key_type) ? o->value_type : o->key_type));
    return MKA_OK;
}

static mka_local_shape shape_of(const mka_kv_options *o) {
    return (mka_local_shape){.kv_heads = o->kv_heads,
                             .key_dim = o->key_dim,
                             .value_dim = o->value_dim,
                             .shared = o->shared,
                             .key_type = o->key_type,
                             .value_type = o->shared ? o->key_type : o->value_type,
                             .capacity = o->context,
                             .queries = o->queries};
}

static mka_status check_memory(const mka_kv_options *o, mka_error *error) {
    char need[MKA_SIZE_TEXT], have[MKA_SIZE_TEXT];
    mka_local_shape shape = shape_of(o);
    size_t bytes = mka_local_bytes(&shape);
    uint64_t free = mka_memory_free();
    if (bytes && bytes <= free) return MKA_OK;
    return mka_fail(error, MKA_NO_MEMORY, "a cache of %d tokens in %s needs %s; %s are free", o->context,
                    mka_type_name(o->key_type), mka_size_text(bytes, need, sizeof need), mka_size_text(free, have, sizeof have));
}

mka_status mka_kv_create(mka_engine *engine, const mka_kv_options *options, mka_kv **out, mka_error *error) {
    *out = NULL;
    mka_succeed(error);
    mka_kv *kv = calloc(1, sizeof *kv);
    if (!kv) return mka_fail(error, MKA_NO_MEMORY, "no memory for a cache");
    mka_kv_options *o = &kv->options;
    *o = *options;
    if (o->queries == 0) o->queries = 512;
    mka_status status = check(o, error);
    if (!status && !engine->device) status = check_memory(o, error);
    if (status) goto fail;
    if (o->scale == 0) o->scale = 1.0F / sqrtf((float)o->key_dim);
    mka_ops_cpu(&kv->ops.host, engine);
    status = mka_placement_plan(&kv->placement, engine->topology, mka_pool_threads(engine->pool), o->numa, error);
    if (status) goto fail;
    kv->ops.host.places = mka_placement_places(&kv->placement);
    struct mka_ops_limits limits = {.rows = o->queries,
                                    .cols = 1,
                                    .head_rows = o->heads / o->kv_heads,
                                    .key_dim = o->key_dim,
                                    .value_dim = o->value_dim,
                                    .kv_heads = o->kv_heads,
                                    .context = o->context,
                                    .shared = o->shared};
    mka_ops_layout(&kv->ops.host, &limits, &kv->work);
    status = mka_arena_reserve(&kv->work, error);
    if (status) goto fail;
    mka_ops_layout(&kv->ops.host, &limits, &kv->work);
    mka_local_shape shape = shape_of(o);
    shape.device = engine->device;
    if (engine->device) status = mka_residents_create(engine->device, &kv->residents, error);
    if (!status) status = mka_pair_open(&kv->ops, kv->residents, NULL, 0, error);
    if (!status) status = mka_local_create(&shape, &kv->cache, error);
    if (status) goto fail;
    mka_placement_bind(&kv->placement, &(mka_tiers){.local = kv->cache});
    mka_placement_log(&kv->placement, engine);
    *out = kv;
    return MKA_OK;
fail:
    mka_kv_destroy(kv);
    return status;
}

void mka_kv_destroy(mka_kv *kv) {
    if (!kv) return;
    mka_local_destroy(&kv->cache);
    mka_pair_close(&kv->ops);
    mka_residents_destroy(kv->residents);
    mka_arena_free(&kv->work);
    free(kv);
}

mka_status mka_kv_append(mka_kv *kv, int n, const float *keys, const float *values, mka_error *error) {
    const mka_kv_options *o = &kv->options;
    mka_succeed(error);
    if (n < 1) return mka_fail(error, MKA_BAD_ARGUMENT, "%d tokens are too few to append", n);
    if (n > o->context - kv->length)
        return mka_fail(error, MKA_CONTEXT_FULL, "%d tokens do not fit: %d of %d are taken", n, kv->length, o->context);
    mka_ops *ops = mka_pair_ops(&kv->ops);
    mka_local_store(&kv->cache, ops, kv->length, n, keys, o->kv_heads * o->key_dim, values, o->kv_heads * o->value_dim);
    kv->length += n;
    return ops->settle(ops, error);
}

mka_status mka_kv_attend(mka_kv *kv, int length, int n, const float *queries, float *out, mka_error *error) {
    const mka_kv_options *o = &kv->options;
    mka_succeed(error);
    if (n < 1 || n > o->queries || length < n || length > kv->length)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d queries over %d tokens: 1 to %d queries can stand at the end of up to %d", n,
                        length, o->queries, kv->length);
    mka_attend_job job = {
        .n = n, .first = length - n, .window = o->window, .heads = o->heads, .scale = o->scale, .q = queries, .out = out};
    mka_ops *ops = mka_pair_ops(&kv->ops);
    mka_local_job(&kv->cache, length, &job);
    ops->attend(ops, &job);
    return ops->settle(ops, error);
}

/* The unit that a cache is multiplied in, at levels that have it: kernels.h says so of each type, and tiles are used where level
 * amx has a kernel of its own. */
static mka_unit unit_of(const mka_engine *engine, const mka_kv_options *o) {
    const mka_kernels *vectors = mka_kernels_get("avx512vnni");
    int quantised = o->key_type == MKA_Q8_0 || o->key_type == MKA_Q4_0;
    mka_unit unit = quantised ? MKA_UNIT_I8 : o->key_type == MKA_BF16 ? MKA_UNIT_BF16 : MKA_UNIT_F32;
    mka_unit tiles = quantised ? MKA_UNIT_AMX_I8 : MKA_UNIT_AMX_BF16;
    if (vectors && mka_limits_has(engine, tiles) && engine->kernels->score[o->key_type] != vectors->score[o->key_type])
        unit = tiles;
    return mka_limits_has(engine, unit) ? unit : MKA_UNIT_F32;
}

void mka_kv_get_info(const mka_kv *kv, mka_kv_info *info) {
    mka_unit unit = unit_of(kv->ops.host.engine, &kv->options);
    *info = (mka_kv_info){
        .length = kv->length, .token_bytes = mka_local_token_bytes(&kv->cache.shape), .decode_unit = unit, .prefill_unit = unit};
}

void mka_kv_reset(mka_kv *kv) {
    mka_local_truncate(&kv->cache, 0);
    kv->length = 0;
}
