/* memory - the public face of the tiers (mka/memory.h): the layers of one sequence, without a model around them. */
#include <math.h>
#include <stdlib.h>

#include "base/status.h"
#include "budget.h"
#include "memory_layers.h"
#include "there.h"

#define MOST_TOKENS (1 << 27)

void mka_memory_defaults(mka_memory_options *options) {
    *options = (mka_memory_options){.layers = 1, .context = 131072, .queries = 512, .local = MKA_F16};
    mka_memory_plan_defaults(&options->plan);
}

static mka_status check(const mka_memory_options *o, mka_error *error) {
    const struct {
        const char *name;
        int value, low, high;
    } ranges[] = {{"layers", o->layers, 1, 4096},          {"heads", o->heads, 1, 4096},
                  {"kv_heads", o->kv_heads, 1, o->heads},  {"head_dim", o->head_dim, 16, 256},
                  {"context", o->context, 1, MOST_TOKENS}, {"queries", o->queries, 1, 8192}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
            return mka_fail(error, MKA_BAD_ARGUMENT, "%s of a memory is %d; it must be between %d and %d", ranges[i].name,
                            ranges[i].value, ranges[i].low, ranges[i].high);
    if (o->heads % o->kv_heads || o->heads / o->kv_heads > 64)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d key/value heads for %d heads: they must divide them, into 64 or fewer each",
                        o->kv_heads, o->heads);
    if (!(o->scale >= 0) || !isfinite(o->scale))
        return mka_fail(error, MKA_BAD_ARGUMENT, "scale %g of the scores is out of range", (double)o->scale);
    if (!mka_cache_type(o->local))
        return mka_fail(error, MKA_BAD_ARGUMENT, "the local tier cannot be stored as %s; f32, f16, bf16, q8 and q4 can",
                        mka_type_name(o->local));
    return mka_memory_plan_check(&o->plan, error);
}

static mka_local_shape local_shape(const mka_memory *memory, int layer) {
    const mka_memory_options *o = &memory->options;
    mka_device *device = memory->residents ? memory->ops.host.engine->device : NULL;
    int rows_here = device && layer >= memory->rows_there;
    return (mka_local_shape){o->kv_heads, o->head_dim, o->head_dim, 0,      o->local,
                             o->local,    o->context,  o->queries,  device, rows_here};
}

/* Layers whose rows are there too, if all layers are: as many of the first as there is room for; -1: there is no room for all. */
static int place_layers(mka_memory *memory, uint64_t room) {
    const mka_memory_options *o = &memory->options;
    mka_local_shape with = local_shape(memory, 0), without = with;
    with.rows_here = 0;
    without.rows_here = 1;
    uint64_t all = mka_there_bytes(&with, &o->plan), least = mka_there_bytes(&without, &o->plan), layers = (uint64_t)o->layers;
    if (layers * least > room) return -1;
    if (layers * all <= room) return o->layers;
    return (int)((room - layers * least) / (all - least));
}

/* What operands take there, which are the caller's: the keys and values, queries and outputs of a call, and a segment's on its
 * way back. Room for one grows by doubling. */
static uint64_t operand_bytes(const mka_memory_options *o) {
    uint64_t calls = (uint64_t)o->queries * (uint64_t)o->heads, segment = (uint64_t)mka_longterm_segment(o->plan.window),
             bytes = 4096;
    while (bytes < (calls > segment ? calls : segment) * (uint64_t)o->head_dim * sizeof(float)) bytes *= 2;
    return 3 * bytes;
}

/* The device, where it has room for all layers and what they work in. */
static mka_status go_there(mka_memory *memory, mka_error *error) {
    mka_engine *engine = memory->ops.host.engine;
    const mka_memory_options *o = &memory->options;
    char have[MKA_SIZE_TEXT], need[MKA_SIZE_TEXT];
    if (!engine->device) return MKA_OK;
    mka_status status = mka_residents_create(engine->device, &memory->residents, error);
    if (!status) status = mka_ops_device(&memory->ops.device, &memory->ops.host, memory->residents, error);
    if (status) return status;
    uint64_t room = mka_device_room(engine->device), scratch = mka_ops_device_scratch(&memory->ops.device) + operand_bytes(o);
    memory->rows_there = room < scratch ? -1 : place_layers(memory, room - scratch);
    mka_local_shape shape = local_shape(memory, 0);
    shape.rows_here = 0;
    mka_size_text(room, have, sizeof have);
    mka_size_text((uint64_t)o->layers * mka_there_bytes(&shape, &o->plan) + scratch, need, sizeof need);
    if (memory->rows_there >= 0 && memory->rows_there < o->layers)
        mka_log(
            engine, MKA_LOG_WARN,
            "the device has %s left and this memory takes %s: long-term rows of %d of %d layers stay in memory, and those that "
            "are wanted come from there",
            have, need, o->layers - memory->rows_there, o->layers);
    if (memory->rows_there >= 0) return mka_ops_mirror(&memory->ops.device, NULL, 0, error);
    mka_log(engine, MKA_LOG_WARN, "the device has %s left and this memory takes %s: it is in memory, and the CPU recalls", have,
            need);
    mka_ops_device_end(&memory->ops.device);
    mka_residents_destroy(memory->residents);
    memory->residents = NULL;
    return MKA_OK;
}

/* The limit of RAM and the spill file, once the workspace is measured. */
static mka_status open_budget(mka_memory *memory, mka_error *error) {
    mka_memory_options *o = &memory->options;
    mka_local_shape shape = local_shape(memory, 0);
    mka_budget budget = {.fixed = 0};
    for (int i = 0; i < o->layers; i++) mka_budget_add(&budget, &shape, &o->plan, 1);
    mka_status status = mka_budget_open(&budget, &o->plan, memory->work.used, mka_pool_threads(memory->ops.host.pool),
                                        memory->ops.host.places, &memory->shared.spill, error);
    o->plan.spill = memory->shared.plan.spill = NULL; /* the caller's */
    return status;
}

static mka_status lay_out(mka_memory *memory, mka_error *error) {
    const mka_memory_options *o = &memory->options;
    struct mka_ops_limits limits = {.rows = o->queries,
                                    .cols = 1,
                                    .head_rows = o->heads / o->kv_heads,
                                    .key_dim = o->head_dim,
                                    .value_dim = o->head_dim,
                                    .kv_heads = o->kv_heads,
                                    .context = o->context,
                                    .segment = mka_longterm_segment(o->plan.window)};
    limits.clusters = limits.segment / MKA_CLUSTER_TOKENS;
    mka_recall_limits recall = {o->heads / o->kv_heads, o->kv_heads, o->head_dim, o->head_dim, limits.segment, o->context};
    for (int pass = 0; pass < 2; pass++) { /* measure, then carve */
        mka_ops_layout(&memory->ops.host, &limits, &memory->work);
        mka_tiers_layout(&memory->shared, &recall, o->queries, o->heads, mka_pool_threads(memory->ops.host.pool),
                         memory->ops.host.engine->device != NULL, &memory->work);
        if (pass == 0) {
            mka_status status = go_there(memory, error);
            if (!status) status = open_budget(memory, error);
            if (!status) status = mka_arena_reserve(&memory->work, error);
            if (status) return status;
        }
    }
    return MKA_OK;
}

mka_status mka_memory_create(mka_engine *engine, const mka_memory_options *options, mka_memory **out, mka_error *error) {
    *out = NULL;
    mka_succeed(error);
    mka_memory *memory = calloc(1, sizeof *memory);
    if (!memory) return mka_fail(error, MKA_NO_MEMORY, "no memory for a memory");
    mka_memory_options *o = &memory->options;
    *o = *options;
    if (o->queries == 0) o->queries = 512;
    mka_status status = check(o, error);
    if (status) goto fail;
    if (o->scale == 0) o->scale = 1.0F / sqrtf((float)o->head_dim);
    memory->layers = calloc((size_t)o->layers, sizeof *memory->layers);
    if (!memory->layers) {
        status = mka_fail(error, MKA_NO_MEMORY, "no memory for %d layers", o->layers);
        goto fail;
    }
    memory->shared.plan = o->plan;
    mka_ops_cpu(&memory->ops.host, engine);
    status = mka_placement_plan(&memory->placement, engine->topology, mka_pool_threads(engine->pool), o->plan.numa, error);
    if (status) goto fail;
    memory->ops.host.places = mka_placement_places(&memory->placement);
    status = lay_out(memory, error);
    for (int i = 0; i < o->layers && !status; i++) {
        mka_local_shape shape = local_shape(memory, i);
        status = mka_tiers_create(&shape, &memory->shared, &memory->layers[i].tiers, error);
    }
    if (status) goto fail;
    for (int i = 0; i < o->layers; i++) mka_placement_bind(&memory->placement, &memory->layers[i].tiers);
    if (memory->shared.spill) mka_placement_bind_spill(&memory->placement, memory->shared.spill);
    mka_placement_log(&memory->placement, engine);
    *out = memory;
    return MKA_OK;
fail:
    mka_memory_destroy(memory);
    return status;
}

void mka_memory_destroy(mka_memory *memory) {
    if (!memory) return;
    for (int i = 0; memory->layers && i < memory->options.layers; i++) mka_tiers_destroy(&memory->layers[i].tiers);
    mka_pair_close(&memory->ops);
    mka_residents_destroy(memory->residents);
    mka_spill_destroy(memory->shared.spill);
    free(memory->layers);
    mka_arena_free(&memory->work);
    free(memory);
}

static mka_status check_layer(const mka_memory *memory, int index, mka_error *error) {
    mka_succeed(error);
    if (index >= 0 && index < memory->options.layers) return MKA_OK;
    return mka_fail(error, MKA_BAD_ARGUMENT, "layer %d of a memory of %d layers", index, memory->options.layers);
}

mka_status mka_memory_append(mka_memory *memory, int index, int n, const float *keys, const float *values, mka_error *error) {
    const mka_memory_options *o = &memory->options;
    mka_status status = check_layer(memory, index, error);
    if (status) return status;
    mka_memory_layer *l = &memory->layers[index];
    if (n < 1) return mka_fail(error, MKA_BAD_ARGUMENT, "%d tokens are too few to append", n);
    if (n > o->context - l->length)
        return mka_fail(error, MKA_CONTEXT_FULL, "%d tokens do not fit: %d of %d are taken", n, l->length, o->context);
    int width = o->kv_heads * o->head_dim;
    mka_ops *ops = mka_memory_ops(memory);
    mka_tiers_store(&l->tiers, ops, l->length, n, keys, width, values, width);
    status = ops->settle(ops, error);
    if (!status) status = mka_tiers_failure(&memory->shared, error);
    if (!status) l->length += n;
    return status;
}

mka_status mka_memory_attend(mka_memory *memory, int index, int n, const float *queries, float *out, mka_used *used,
                             mka_error *error) {
    const mka_memory_options *o = &memory->options;
    mka_status status = check_layer(memory, index, error);
    if (status) return status;
    mka_memory_layer *l = &memory->layers[index];
    if (n < 1 || n > o->queries || n > l->length)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%d queries over %d tokens: 1 to %d queries can stand at the end of a layer", n,
                        l->length, o->queries);
    mka_attend_job job = {.n = n, .first = l->length - n, .heads = o->heads, .scale = o->scale, .q = queries, .out = out};
    mka_ops *ops = mka_memory_ops(memory);
    if (used) mka_there_collect(&l->tiers, ops); /* what calls before that did not ask for */
    memory->shared.used = used ? *used : (mka_used){.queries = 0};
    uint64_t before = memory->shared.spill ? mka_spill_bytes_read(memory->shared.spill) : 0;
    mka_tiers_attend(&l->tiers, ops, &job, NULL, 0);
    if (used) mka_there_collect(&l->tiers, ops);
    if (memory->shared.spill) memory->shared.used.spill_bytes += mka_spill_bytes_read(memory->shared.spill) - before;
    if (used) *used = memory->shared.used;
    status = ops->settle(ops, error);
    mka_status own = mka_tiers_failure(&memory->shared, status ? NULL : error);
    return status ? status : own;
}

int mka_memory_length(const mka_memory *memory, int index) {
    return index >= 0 && index < memory->options.layers ? memory->layers[index].length : 0;
}

mka_status mka_memory_set_recall(mka_memory *memory, const mka_recall *recall, mka_error *error) {
    mka_succeed(error);
    mka_status status = mka_recall_check(recall, error);
    if (!status) memory->shared.plan.recall = *recall;
    return status;
}

void mka_memory_get_numa(const mka_memory *memory, mka_numa_report *report) {
    mka_placement_report(&memory->placement, report);
    for (int i = 0; i < memory->options.layers; i++) mka_placement_ask(&memory->placement, &memory->layers[i].tiers, report);
    if (memory->shared.spill) mka_placement_ask_spill(&memory->placement, memory->shared.spill, report);
}

void mka_memory_reset(mka_memory *memory) {
    for (int i = 0; i < memory->options.layers; i++) {
        mka_tiers_cut(&memory->layers[i].tiers, 0);
        memory->layers[i].length = 0;
    }
}
