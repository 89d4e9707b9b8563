/* offload - which layers of a session go to the engine's device, and getting them there: as many of the first ones as fit with
 * their weights and caches, then the output matrix, then the tiers of as many of them as there is room for, then the long-term
 * rows of as many of these as there is room for; rows of the others stay in memory, and come when recall wants them. */
#include "base/status.h"
#include "memory/there.h"
#include "session.h"

typedef mka_status visit_fn(void *user, const mka_matrix *matrix, mka_error *error);

/* Calls visit for everything that a list has data for; the first failure ends it. */
static mka_status visit_list(const mka_matrix *list, int count, visit_fn *visit, void *user, mka_error *error) {
    mka_status status = MKA_OK;
    for (int i = 0; i < count && !status; i++)
        if (list[i].data) status = visit(user, &list[i], error);
    return status;
}

static mka_matrix vector(const float *values, int count) {
    return (mka_matrix){values, MKA_F32, 1, count, (size_t)count * sizeof *values};
}

/* All that a layer's operations take as weights. */
static mka_status visit_layer(const mka_session *s, int layer, visit_fn *visit, void *user, mka_error *error) {
    const mka_block *b = &s->model->blocks[layer];
    const mka_layer_config *c = &b->attention.config;
    const mka_layer_weights *w = &b->attention.weights;
    int width = c->width, q = c->heads * c->head_dim;
    const mka_matrix list[] = {
        w->q,
        w->k,
        w->v,
        w->o,
        w->q_down,
        w->kv_down,
        w->router_in,
        w->router_out,
        b->gate,
        b->up,
        b->down,
        vector(w->q_bias, q),
        vector(w->k_bias, c->kv_heads * c->head_dim),
        vector(w->v_bias, c->kv_heads * c->value_dim),
        vector(w->o_bias, width),
        vector(w->q_norm, c->head_dim),
        vector(w->k_norm, c->head_dim),
        vector(w->q_down_norm, c->q_latent_dim),
        vector(w->kv_norm, c->latent_dim),
        vector(w->router_in_bias, c->router_hidden),
        vector(w->router_out_bias, c->levels),
        vector(b->attention_norm, width),
        vector(b->ffn_norm, width),
        vector(b->attention_post_norm, width),
        vector(b->ffn_post_norm, width),
    };
    mka_status status = visit_list(list, (int)(sizeof list / sizeof *list), visit, user, error);
    const mka_matrix *const heads[] = {w->k_absorb, w->k_up, w->v_up};
    for (size_t i = 0; i < sizeof heads / sizeof *heads && !status; i++)
        if (heads[i]) status = visit_list(heads[i], c->heads, visit, user, error);
    return status;
}

static mka_status visit_output(const mka_session *s, visit_fn *visit, void *user, mka_error *error) {
    const mka_matrix list[] = {s->model->output, vector(s->model->output_norm, (int)s->model->sizes.width)};
    return visit_list(list, 2, visit, user, error);
}

typedef struct cost {
    mka_residents *residents;
    uint64_t bytes;
} cost;

static mka_status add_cost(void *user, const mka_matrix *matrix, mka_error *error) {
    cost *c = user;
    (void)error;
    c->bytes += mka_residents_cost(c->residents, matrix);
    return MKA_OK;
}

static mka_status copy_there(void *user, const mka_matrix *matrix, mka_error *error) {
    return mka_residents_add(user, matrix, error);
}

/* Of dense caches, or of tiers. */
static uint64_t cache_cost(const mka_session *s, int layer, int tiers, int rows_here) {
    const mka_layer_config *c = &s->model->blocks[layer].attention.config;
    const mka_session_options *o = &s->options;
    mka_local_shape shapes[MKA_LEVELS];
    uint64_t bytes = 0;
    if ((s->tiered && mka_layer_tiered(c)) != tiers) return 0;
    int count = mka_variant_get(c->variant)->caches(c, o->key_type, o->value_type, o->context, shapes);
    for (int i = 0; i < count; i++) {
        shapes[i].queries = o->chunk;
        shapes[i].device = s->model->engine->device;
        shapes[i].rows_here = rows_here;
        bytes += tiers ? mka_there_bytes(&shapes[i], &o->plan) : mka_local_bytes_there(&shapes[i]);
    }
    return bytes;
}

/* What operands take that lie outside the mirror: logits, and a segment on its way back. Room for one grows by doubling. */
static uint64_t operand_bytes(const mka_session *s) {
    uint64_t segment = s->tiered ? (uint64_t)mka_longterm_segment(s->options.plan.window) * MKA_CODE_DIM : 0,
             logits = (uint64_t)s->model->output.rows, bytes = 4096;
    while (bytes < (segment > logits ? segment : logits) * sizeof(float)) bytes *= 2;
    return 3 * bytes;
}

static const mka_layer_config *latent_layer(const mka_session *s) {
    for (int i = 0; i < s->model->sizes.layers; i++)
        if (s->model->blocks[i].attention.config.variant == MKA_MLA) return &s->model->blocks[i].attention.config;
    return NULL;
}

/* What the session takes there whatever the layers are: its mirror, attention's scratch, and a block of latent attention. */
static uint64_t fixed_cost(const mka_session *s) {
    const mka_layer_config *latent = latent_layer(s);
    uint64_t bytes = s->work.used - s->mirror_from + mka_ops_device_scratch(&s->device_ops) + operand_bytes(s);
    if (!latent) return bytes;
    mka_local_shape shape = mka_layer_expanded(latent);
    return bytes + mka_local_bytes_there(&shape);
}

static mka_status none_fits(const mka_session *s, uint64_t room, uint64_t need, mka_error *error) {
    char have[MKA_SIZE_TEXT], want[MKA_SIZE_TEXT];
    return mka_fail(error, MKA_NO_MEMORY,
                    "the device has %s left, and a first layer with a context of %d tokens takes %s: a shorter context (-c), a "
                    "smaller cache type (-ctk, -ctv), or --device cpu",
                    mka_size_text(room, have, sizeof have), s->options.context, mka_size_text(need, want, sizeof want));
}

static void tell(const mka_session *s, uint64_t room, uint64_t whole) {
    char have[MKA_SIZE_TEXT], need[MKA_SIZE_TEXT];
    const mka_engine *engine = s->model->engine;
    if (s->output_there) return;
    mka_log(engine, MKA_LOG_WARN, "the device has room for %s of %s: %d of %d layers are there, the rest runs on the CPU",
            mka_size_text(room, have, sizeof have), mka_size_text(whole, need, sizeof need), s->offloaded,
            (int)s->model->sizes.layers);
}

/* As many of the first tiers as fit without their rows; then the rows of as many of these. Sum: what all take with them. */
static void place_tiers(mka_session *s, uint64_t room, uint64_t *sum) {
    uint64_t taken = 0, next;
    for (*sum = 0; s->tiers_there < s->offloaded; s->tiers_there++, taken = next) {
        next = taken + cache_cost(s, s->tiers_there, 1, 1);
        if (next > room) break;
    }
    for (; s->rows_there < s->tiers_there; s->rows_there++, taken = next) {
        next = taken - cache_cost(s, s->rows_there, 1, 1) + cache_cost(s, s->rows_there, 1, 0);
        if (next > room) break;
    }
    for (int i = 0; i < s->offloaded; i++) *sum += cache_cost(s, i, 1, 0);
}

/* Tiered layers of from..to - 1. */
static int count_tiers(const mka_session *s, int from, int to) {
    int count = 0;
    for (int i = from; i < to; i++) count += mka_layer_tiered(&s->model->blocks[i].attention.config);
    return count;
}

/* Tiers that find no room stay in memory, where the CPU recalls. */
static void plan_tiers(mka_session *s, uint64_t room) {
    char have[MKA_SIZE_TEXT], need[MKA_SIZE_TEXT];
    uint64_t sum;
    place_tiers(s, room, &sum);
    mka_size_text(room, have, sizeof have);
    mka_size_text(sum, need, sizeof need);
    int layers = count_tiers(s, 0, s->offloaded), there = count_tiers(s, 0, s->tiers_there),
        without = count_tiers(s, s->rows_there, s->tiers_there);
    if (there < layers)
        mka_log(s->model->engine, MKA_LOG_WARN,
                "the device has %s left for tiered memory of %s: that of %d of %d layers is there, the CPU recalls for the rest",
                have, need, there, layers);
    if (without)
        mka_log(
            s->model->engine, MKA_LOG_WARN,
            "the device has %s left for tiered memory of %s: long-term rows of %d of %d layers stay in memory, and those that "
            "are wanted come from there",
            have, need, without, layers);
}

mka_status mka_offload_plan(mka_session *s, mka_error *error) {
    mka_device *device = s->model->engine->device;
    mka_residents *residents = s->model->residents;
    s->offloaded = s->output_there = s->tiers_there = s->rows_there = 0;
    if (!device) return MKA_OK;
    mka_status status = mka_ops_device(&s->device_ops, &s->ops, residents, error);
    if (status) return status;
    uint64_t room = mka_device_room(device);
    cost sum = {residents, fixed_cost(s)};
    uint64_t first = 0, taken = 0;
    int fits = 1;
    for (int i = 0; i < s->model->sizes.layers; i++) {
        visit_layer(s, i, add_cost, &sum, NULL);
        sum.bytes += cache_cost(s, i, 0, 0);
        if (i == 0) first = sum.bytes;
        fits &= sum.bytes <= room;
        s->offloaded += fits;
        if (fits) taken = sum.bytes;
    }
    visit_output(s, add_cost, &sum, NULL);
    s->output_there = fits && sum.bytes <= room;
    if (s->output_there) taken = sum.bytes;
    if (!s->offloaded) return none_fits(s, room, first, error);
    tell(s, room, sum.bytes);
    if (s->tiered) plan_tiers(s, room - taken);
    return MKA_OK;
}

static mka_status create_expanded(mka_session *s, mka_error *error) {
    const mka_layer_config *latent = latent_layer(s);
    if (!latent) return MKA_OK;
    mka_local_shape shape = mka_layer_expanded(latent);
    mka_status status = mka_local_create(&shape, &s->expanded, error);
    shape.device = s->model->engine->device;
    if (!status && s->offloaded) status = mka_local_create(&shape, &s->expanded_there, error);
    return status;
}

mka_status mka_offload_start(mka_session *s, mka_error *error) {
    mka_status status = create_expanded(s, error);
    if (status || !s->offloaded) return status;
    cost all = {s->model->residents, 0};
    for (int i = 0; i < s->offloaded; i++) visit_layer(s, i, add_cost, &all, NULL);
    if (s->output_there) visit_output(s, add_cost, &all, NULL);
    mka_residents_expect(s->model->residents, all.bytes);
    status = mka_ops_mirror(&s->device_ops, s->work.base + s->mirror_from, s->work.size - s->mirror_from, error);
    for (int i = 0; i < s->offloaded && !status; i++) status = visit_layer(s, i, copy_there, s->model->residents, error);
    if (!status && s->output_there) status = visit_output(s, copy_there, s->model->residents, error);
    return status;
}
