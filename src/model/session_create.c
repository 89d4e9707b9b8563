/* session_create - makes one token timeline (mka/session.h): options checked, the workspace laid out as session.h draws it,
 * caches within the limit of RAM, and what goes to a device. */
#include "session_bank.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"
#include "memory/budget.h"
#include "memory/there.h"
#include "memory/watch.h"

#define MOST_CONTEXT (1 << 27)
#define MOST_CHUNK   8192

void mka_session_defaults(mka_session_options *options) {
    *options = (mka_session_options){
        .key_type = MKA_F16, .value_type = MKA_F16, .level_threshold = MKA_LEVEL_THRESHOLD, .bank = MKA_BANK_AUTO};
    mka_memory_plan_defaults(&options->plan);
}

/* ---- layout ---- */

static int raised(int a, int b) {
    return a > b ? a : b;
}

static void layout_attention(mka_session *s) {
    mka_attention_sizes sizes = {.q = 0};
    for (int i = 0; i < s->model->sizes.layers; i++) {
        const mka_layer_config *c = &s->model->blocks[i].attention.config;
        mka_variant_get(c->variant)->measure(c, s->options.chunk, &sizes);
    }
    mka_attention_layout(&sizes, &s->work, &s->attention);
}

static void layout_ops(mka_session *s) {
    const mka_sizes *sizes = &s->model->sizes;
    struct mka_ops_limits limits = {
        .rows = s->options.chunk, .cols = raised((int)sizes->width, (int)sizes->ffn), .context = s->options.context};
    for (int i = 0; i < sizes->layers; i++) mka_attention_limits(&s->model->blocks[i].attention.config, &limits);
    if (s->tiered) limits.segment = mka_longterm_segment(s->options.plan.window);
    limits.clusters = limits.segment / MKA_CLUSTER_TOKENS;
    mka_ops_layout(&s->ops, &limits, &s->work);
}

static void layout_tiers(mka_session *s) {
    mka_recall_limits limits = {.context = s->options.context, .segment = mka_longterm_segment(s->options.plan.window)};
    int heads = 1;
    for (int i = 0; i < s->model->sizes.layers; i++) {
        const mka_layer_config *c = &s->model->blocks[i].attention.config;
        if (!mka_layer_tiered(c)) continue;
        limits.head_rows = raised(limits.head_rows, c->heads / c->kv_heads);
        limits.kv_heads = raised(limits.kv_heads, c->kv_heads);
        limits.key_dim = raised(limits.key_dim, c->head_dim);
        limits.value_dim = raised(limits.value_dim, c->value_dim);
        heads = raised(heads, c->heads);
    }
    mka_tiers_layout(&s->tiers, &limits, s->options.chunk, heads, mka_pool_threads(s->ops.pool), s->model->engine->device != NULL,
                     &s->work);
}

void mka_session_layout(mka_session *s) {
    const mka_sizes *sizes = &s->model->sizes;
    size_t chunk = (size_t)s->options.chunk, width = (size_t)sizes->width, ffn = (size_t)sizes->ffn;
    mka_arena *work = &s->work;
    layout_ops(s);
    if (s->tiered) layout_tiers(s);
    mka_session_bank_layout(s);
    s->tokens = mka_arena_take(work, (size_t)s->options.context, sizeof(int));
    s->mirror_from = work->used;
    size_t angles = 0;
    for (int i = 0; i < MKA_ROPES; i++) angles += 2 * (size_t)s->model->ropes[i].pairs;
    s->x = mka_arena_take(work, chunk * (width + angles), sizeof(float));
    s->h = mka_arena_take(work, chunk * width, sizeof(float));
    s->y = mka_arena_take(work, chunk * width, sizeof(float));
    s->summaries = s->recurrent ? mka_arena_take(work, (size_t)sizes->layers * width, sizeof(float)) : NULL;
    float **scores[] = {&s->score_m, &s->score_z, &s->score_c, &s->score_target};
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++) *scores[i] = mka_arena_take(work, chunk, sizeof(float));
    size_t mark = work->used, most;
    layout_attention(s);
    most = work->used;
    work->used = mark;
    s->gate = mka_arena_take(work, chunk * ffn, sizeof(float));
    s->up = mka_arena_take(work, chunk * ffn, sizeof(float));
    most = work->used > most ? work->used : most;
    work->used = mark;
    s->tile = mka_arena_take(work, chunk * MKA_SCORE_TILE, sizeof(float));
    work->used = work->used > most ? work->used : most;
}

/* ---- creation ---- */

static mka_status check_options(mka_session *s, mka_error *error) {
    mka_session_options *o = &s->options;
    if (o->context == 0) o->context = (int)(s->model->sizes.context < MOST_CONTEXT ? s->model->sizes.context : MOST_CONTEXT);
    if (o->chunk == 0) o->chunk = 512;
    if (o->context < 1 || o->context > MOST_CONTEXT)
        return mka_fail(error, MKA_BAD_ARGUMENT, "a context of %d tokens is outside 1..%d", o->context, MOST_CONTEXT);
    if (o->chunk < 1 || o->chunk > MOST_CHUNK)
        return mka_fail(error, MKA_BAD_ARGUMENT, "chunks of %d tokens are outside 1..%d", o->chunk, MOST_CHUNK);
    if (!mka_cache_type(o->key_type) || !mka_cache_type(o->value_type))
        return mka_fail(error, MKA_BAD_ARGUMENT, "a cache cannot be stored as %s; f32, f16, bf16, q8 and q4 can",
                        mka_type_name(mka_cache_type(o->key_type) ? o->value_type : o->key_type));
    if ((int)o->memory < MKA_MEMORY_AUTO || o->memory > MKA_MEMORY_TIERED)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d is no kind of memory", (int)o->memory);
    mka_status status = mka_memory_plan_check(&o->plan, error);
    if (status) return status;
    if ((int)o->mla < MKA_MLA_AUTO || o->mla > MKA_MLA_EXPANDED)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d is no form of latent attention", (int)o->mla);
    if (!(o->level_threshold >= 0 && o->level_threshold * MKA_LEVELS < 1))
        return mka_fail(error, MKA_BAD_ARGUMENT,
                        "levels cannot be left out below a weight of %g: it must be 0 or more, and below 1/%d",
                        (double)o->level_threshold, MKA_LEVELS);
    if (o->chunk > o->context) o->chunk = o->context;
    s->tiers.plan = o->plan;
    s->tiered = 0;
    for (int i = 0; i < s->model->sizes.layers; i++) s->tiered |= mka_layer_tiered(&s->model->blocks[i].attention.config);
    s->tiered &= o->memory == MKA_MEMORY_TIERED || (o->memory == MKA_MEMORY_AUTO && o->context >= MKA_TIERED_FROM);
    return mka_session_bank_choose(s, error);
}

/* What the caches take; the limit of RAM and the spill file. */
static mka_status open_budget(mka_session *s, mka_error *error) {
    const mka_session_options *o = &s->options;
    mka_budget budget = {.fixed = mka_session_bank_bytes(s)};
    for (int i = 0; i < s->model->sizes.layers; i++) {
        const mka_layer_config *c = &s->model->blocks[i].attention.config;
        mka_local_shape shapes[MKA_LEVELS];
        int count = mka_variant_get(c->variant)->caches(c, o->key_type, o->value_type, o->context, shapes);
        for (int j = 0; j < count; j++) {
            int tiered = s->tiered && mka_layer_tiered(c), there = mka_session_cache_there(s, i);
            shapes[j].queries = o->chunk;
            shapes[j].device = there ? s->model->engine->device : NULL;
            if (tiered || !there) mka_budget_add(&budget, &shapes[j], &o->plan, tiered);
        }
    }
    mka_status status =
        mka_budget_open(&budget, &o->plan, s->work.used, mka_pool_threads(s->ops.pool), s->ops.places, &s->tiers.spill, error);
    s->options.plan.spill = s->tiers.plan.spill = NULL; /* the caller's */
    return status;
}

/* Bytes of a token's keys and values in memory; of tiers on a device that keep their long-term rows here too, as many as these
 * take. */
static uint64_t token_bytes_here(const mka_session *s) {
    const mka_memory_plan *plan = &s->options.plan;
    uint64_t bytes = 0;
    for (int i = 0; i < s->model->sizes.layers; i++) {
        const mka_layer_config *c = &s->model->blocks[i].attention.config;
        if (!mka_session_cache_there(s, i))
            bytes += mka_layer_cache_bytes(c, s->options.key_type, s->options.value_type);
        else if (s->tiered && mka_layer_tiered(c))
            bytes += mka_layer_cache_bytes(c, plan->key_type, plan->value_type);
    }
    return bytes;
}

/* Refuses what cannot fit while it is still easy to say what would. */
static mka_status check_memory(const mka_session *s, mka_error *error) {
    char need[MKA_SIZE_TEXT], have[MKA_SIZE_TEXT], types[64];
    uint64_t token = token_bytes_here(s);
    uint64_t cache = token * (uint64_t)s->options.context, free = mka_memory_free(), ram = s->options.plan.ram;
    if (ram && ram <= free) return MKA_OK; /* it keeps within that */
    if (cache + s->work.used <= free) return MKA_OK;
    uint64_t fits = free > s->work.used && token ? (free - s->work.used) / token / 256 * 256 : 0;
    snprintf(types, sizeof types, "%s", mka_type_name(s->options.key_type));
    if (s->options.key_type != s->options.value_type)
        snprintf(types, sizeof types, "%s keys and %s values", mka_type_name(s->options.key_type),
                 mka_type_name(s->options.value_type));
    return mka_fail(error, MKA_NO_MEMORY,
                    "a context of %d tokens needs %s of cache in %s; %s are free, and %llu tokens would fit", s->options.context,
                    mka_size_text(cache, need, sizeof need), types, mka_size_text(free, have, sizeof have),
                    (unsigned long long)fits);
}

static mka_status create_layers(mka_session *s, mka_error *error) {
    const mka_sizes *sizes = &s->model->sizes;
    for (int i = 0; i < sizes->layers; i++) {
        const mka_layer_config *c = &s->model->blocks[i].attention.config;
        float *summary = mka_variant_get(c->variant)->recurrent ? s->summaries + (size_t)i * (size_t)sizes->width : NULL;
        mka_status status =
            mka_layer_state_create(c, s->options.key_type, s->options.value_type, s->options.context, s->options.chunk, summary,
                                   s->tiered ? &s->tiers : NULL, mka_session_cache_there(s, i) ? s->model->engine->device : NULL,
                                   i >= s->rows_there, &s->layers[i], error);
        if (!status) status = mka_session_bank_create(s, i, error);
        if (status) return status;
        for (int j = 0; j < s->layers[i].caches; j++) {
            s->cache_reserved += mka_tiers_bytes(&s->layers[i].cache[j], s->options.context);
            mka_placement_bind(&s->placement, &s->layers[i].cache[j]);
        }
    }
    s->cache_reserved += mka_session_bank_bytes(s);
    if (s->tiers.spill) mka_placement_bind_spill(&s->placement, s->tiers.spill);
    mka_placement_log(&s->placement, s->model->engine);
    return MKA_OK;
}

mka_status mka_session_create(mka_model *model, const mka_session_options *options, mka_session **out, mka_error *error) {
    mka_session_options defaults;
    mka_session_defaults(&defaults);
    *out = NULL;
    mka_succeed(error);
    if (!model->blocks) return mka_fail(error, MKA_UNSUPPORTED, "only the vocabulary of this model was loaded; it cannot be run");
    mka_session *s = calloc(1, sizeof *s);
    mka_layer_state *layers = calloc((size_t)model->sizes.layers, sizeof *layers);
    if (!s || !layers) {
        free(s);
        free(layers);
        return mka_fail(error, MKA_NO_MEMORY, "no memory for a session");
    }
    s->model = model;
    s->layers = layers;
    s->options = options ? *options : defaults;
    for (int i = 0; i < model->sizes.layers; i++)
        s->recurrent |= mka_variant_get(model->blocks[i].attention.config.variant)->recurrent;
    mka_ops_cpu(&s->ops, model->engine);
    s->ops.exact = s->options.exact;
    mka_status status = check_options(s, error);
    if (!status)
        status = mka_placement_plan(&s->placement, model->engine->topology, mka_pool_threads(model->engine->pool),
                                    s->options.plan.numa, error);
    s->ops.places = mka_placement_places(&s->placement);
    if (!status) mka_session_layout(s); /* measures */
    if (!status) status = mka_offload_plan(s, error);
    if (!status) status = check_memory(s, error);
    if (!status) status = open_budget(s, error);
    if (!status) status = mka_arena_reserve(&s->work, error);
    if (!status) mka_session_layout(s);
    if (!status) status = mka_offload_start(s, error);
    if (!status) status = create_layers(s, error);
    if (status) {
        mka_session_destroy(s);
        return status;
    }
    *out = s;
    return MKA_OK;
}

void mka_session_destroy(mka_session *s) {
    if (!s) return;
    for (int i = 0; i < s->model->sizes.layers; i++) mka_layer_state_destroy(&s->layers[i]);
    mka_local_destroy(&s->expanded);
    mka_local_destroy(&s->expanded_there);
    mka_ops_device_end(&s->device_ops);
    mka_arena_free(&s->work);
    mka_watch_destroy(s->tiers.watch);
    mka_spill_destroy(s->tiers.spill);
    free(s->note);
    free(s->layers);
    free(s);
}
