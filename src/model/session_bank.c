/* session_bank - the long-term bank of a session (memory/bank.h), one for each layer with a router of three levels: its place in
 * the session, its regions in a saved one, and what is taken over from earlier sessions.
 *
 *   bank | LAYER bank rows, centre, open
 *
 * The signs of a bank are not saved: they are made from its rows. */
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"
#include "session_bank.h"

#define MOST_BANK (1 << 16)

/* The banks' own region: what must be the same on both sides, and where they stand. */
typedef struct head {
    int32_t capacity, sinks, window, remembered, begin;
} head;

static int has_bank(const mka_layer_config *c) {
    return (c->variant == MKA_MKA || c->variant == MKA_FASTMKA) && c->levels == MKA_LEVELS;
}

static mka_bank_shape shape_of(const mka_session *s) {
    const mka_memory_plan *plan = &s->options.plan;
    return (mka_bank_shape){(int)s->model->sizes.width, s->bank, plan->sinks, plan->window, s->options.chunk};
}

/* The bank of a layer, or NULL. */
static mka_bank *bank_at(const mka_session *s, int layer) {
    mka_bank *bank = &s->layers[layer].bank;
    return bank->scan ? bank : NULL;
}

static mka_bank *first_bank(const mka_session *s) {
    for (int i = 0; s->bank && i < s->model->sizes.layers; i++)
        if (bank_at(s, i)) return bank_at(s, i);
    return NULL;
}

/* ---- making ---- */

mka_status mka_session_bank_choose(mka_session *s, mka_error *error) {
    const mka_session_options *o = &s->options;
    int wanted = 0, fits = s->model->sizes.width <= MKA_MOST_DIM;
    if (o->bank < MKA_BANK_AUTO || o->bank > MOST_BANK)
        return mka_fail(error, MKA_BAD_ARGUMENT, "a bank of %d summaries is outside 0..%d", o->bank, MOST_BANK);
    for (int i = 0; i < s->model->sizes.layers; i++) wanted |= has_bank(&s->model->blocks[i].attention.config);
    s->bank = 0;
    if (!wanted || o->bank == 0 || (o->bank == MKA_BANK_AUTO && (!s->tiered || !fits))) return MKA_OK;
    if (!fits)
        return mka_fail(error, MKA_UNSUPPORTED, "a bank's codes are made for rows of %d numbers at most; this model has %d",
                        MKA_MOST_DIM, (int)s->model->sizes.width);
    int capacity = o->bank == MKA_BANK_AUTO ? MKA_BANK_DEFAULT : o->bank, blocks = o->context / MKA_BLOCK + 1;
    s->bank = o->plan.ram && blocks < capacity ? blocks : capacity;
    return MKA_OK;
}

void mka_session_bank_layout(mka_session *s) {
    if (s->bank) mka_bank_layout(&s->bank_work, (int)s->model->sizes.width, mka_pool_threads(s->ops.pool), &s->work);
}

uint64_t mka_session_bank_bytes(const mka_session *s) {
    mka_bank_shape shape = shape_of(s);
    uint64_t bytes = 0;
    for (int i = 0; s->bank && i < s->model->sizes.layers; i++)
        if (has_bank(&s->model->blocks[i].attention.config)) bytes += mka_bank_bytes(&shape, s->options.context);
    return bytes;
}

mka_status mka_session_bank_create(mka_session *s, int layer, mka_error *error) {
    mka_bank_shape shape = shape_of(s);
    if (!s->bank || !has_bank(&s->model->blocks[layer].attention.config)) return MKA_OK;
    s->layers[layer].bank_work = &s->bank_work;
    return mka_bank_create(&shape, &s->layers[layer].bank, error);
}

int mka_session_bank(const mka_session *s) {
    const mka_bank *bank = first_bank(s);
    int from, to = bank ? mka_bank_edge(bank, s->length, &from) : 0;
    return bank && to > from ? to - from : 0;
}

static void reset(mka_session *s) {
    for (int i = 0; i < s->model->sizes.layers; i++)
        if (bank_at(s, i)) mka_bank_reset(bank_at(s, i));
}

/* ---- saving ---- */

static mka_status borrow_row(void *owner, size_t index, int writing, unsigned char **bytes, mka_error *error) {
    const mka_bank *bank = owner;
    (void)writing, (void)error;
    *bytes = mka_bank_row(bank, bank->begin + (int)index);
    return MKA_OK;
}

static mka_status give_back_row(void *owner, size_t index, int writing, mka_error *error) {
    (void)owner, (void)index, (void)writing, (void)error;
    return MKA_OK;
}

static void name_region(mka_region *r, int layer, const char *what) {
    snprintf(r->name, sizeof r->name, "%d bank %s", layer, what);
}

size_t mka_session_bank_regions(mka_session *s, mka_region *regions) {
    size_t count = 0, floats = (size_t)s->model->sizes.width * sizeof(float);
    for (int i = 0; i < s->model->sizes.layers; i++) {
        mka_bank *b = bank_at(s, i);
        if (!b) continue;
        size_t rows = (size_t)(mka_bank_entries(b) - b->begin);
        if (rows) {
            regions[count] = (mka_region){.runs = rows, .run = b->row, .stride = b->row, .owner = b};
            regions[count].borrow = borrow_row;
            regions[count].give_back = give_back_row;
            name_region(&regions[count++], i, "rows");
        }
        if (b->coded) regions[count] = mka_region_of("", b->centre, floats), name_region(&regions[count++], i, "centre");
        regions[count] = mka_region_of("", b->open, floats), name_region(&regions[count++], i, "open");
    }
    return count;
}

size_t mka_session_bank_save(mka_session *s, mka_session_bank_head *room, mka_region *regions) {
    const mka_bank *first = first_bank(s);
    if (!first) return 0;
    for (int i = 0; i < s->model->sizes.layers; i++)
        if (bank_at(s, i)) mka_bank_trim(bank_at(s, i));
    const head h = {s->options.bank == MKA_BANK_AUTO ? MKA_BANK_DEFAULT : s->options.bank, first->shape.sinks,
                    first->shape.window, first->remembered, first->begin};
    _Static_assert(sizeof h <= sizeof room->bytes, "a head has room");
    *(head *)(void *)room->bytes = h;
    regions[0] = mka_region_of("bank", room->bytes, sizeof h);
    return 1 + mka_session_bank_regions(s, regions + 1);
}

/* ---- loading ---- */

int mka_session_bank_peek(mka_snapshot *snapshot, mka_memory_plan *plan, mka_error *error) {
    uint64_t bytes;
    head h;
    if (!mka_snapshot_find(snapshot, "bank", &bytes) || mka_snapshot_take(snapshot, "bank", &h, sizeof h, error)) return 0;
    plan->sinks = h.sinks;
    plan->window = h.window;
    return h.capacity;
}

mka_status mka_session_bank_check(const mka_session *s, mka_snapshot *snapshot, int length, const char *path, mka_error *error) {
    const mka_bank *bank = first_bank(s);
    uint64_t bytes;
    int saved = mka_snapshot_find(snapshot, "bank", &bytes);
    head h;
    if (saved != (bank != NULL))
        return mka_fail(error, MKA_BAD_ARGUMENT, "%s: saved %s a long-term bank, but this session has %s", path,
                        saved ? "with" : "without", bank ? "one" : "none");
    if (!bank) return MKA_OK;
    mka_status status = mka_snapshot_take(snapshot, "bank", &h, sizeof h, error);
    if (status) return status;
    if (h.sinks != bank->shape.sinks || h.window != bank->shape.window)
        return mka_fail(error, MKA_BAD_ARGUMENT,
                        "%s: its bank was saved with %d first tokens and a window of %d, but this session has %d and %d", path,
                        h.sinks, h.window, bank->shape.sinks, bank->shape.window);
    int count = mka_bank_count(bank, length, h.remembered, h.begin);
    if (count < 0)
        return mka_fail(error, MKA_BAD_FILE, "%s: region 'bank' says that %d summaries are remembered, and all from %d on there",
                        path, h.remembered, h.begin);
    if (count > mka_bank_room(bank))
        return mka_fail(error, MKA_BAD_ARGUMENT, "%s: it holds %d summaries, but this session's bank has room for %d", path,
                        count, mka_bank_room(bank));
    return MKA_OK;
}

mka_status mka_session_bank_set(mka_session *s, mka_snapshot *snapshot, int length, mka_error *error) {
    head h;
    mka_status status = first_bank(s) ? mka_snapshot_take(snapshot, "bank", &h, sizeof h, error) : MKA_OK;
    for (int i = 0; i < s->model->sizes.layers && !status; i++)
        if (bank_at(s, i)) mka_bank_set(bank_at(s, i), length, h.remembered, h.begin);
    return status;
}

static void recode_share(void *argument, int thread, int threads) {
    const mka_session *s = argument;
    for (int i = thread; i < s->model->sizes.layers; i += threads)
        if (bank_at(s, i)) mka_bank_recode(bank_at(s, i));
}

void mka_session_bank_finish(mka_session *s, int failed) {
    if (failed)
        reset(s);
    else if (s->bank)
        mka_pool_run(s->ops.pool, recode_share, s);
}

/* ---- remembering ---- */

/* The newest summaries of a layer, as many as can be found later. */
static mka_status remember_layer(mka_session *s, mka_snapshot *snapshot, int layer, uint64_t rows, const char *path,
                                 mka_error *error) {
    mka_bank *bank = bank_at(s, layer);
    mka_region name;
    uint64_t bytes = 0;
    name_region(&name, layer, "rows");
    mka_snapshot_find(snapshot, name.name, &bytes);
    if (bytes != rows * bank->row)
        return mka_fail(error, MKA_BAD_FILE, "%s: region '%s' has %llu bytes; %llu summaries have %llu", path, name.name,
                        (unsigned long long)bytes, (unsigned long long)rows, (unsigned long long)(rows * bank->row));
    unsigned char *buffer = malloc((size_t)bytes);
    if (!buffer) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for %llu summaries", path, (unsigned long long)rows);
    mka_status status = mka_snapshot_take(snapshot, name.name, buffer, (size_t)bytes, error);
    size_t most = (size_t)bank->shape.capacity, skip = rows > most ? (size_t)rows - most : 0;
    if (!status) mka_bank_remember(bank, (int)((size_t)rows - skip), buffer + skip * bank->row);
    free(buffer);
    return status;
}

static mka_status remember(mka_session *s, mka_snapshot *snapshot, const char *path, mka_error *error) {
    uint64_t bytes = 0, rows = 0;
    if (mka_snapshot_bound(snapshot) != mka_model_fingerprint(s->model))
        return mka_fail(error, MKA_BAD_ARGUMENT, "%s: saved with another model than this session's", path);
    if (!mka_snapshot_find(snapshot, "bank", &bytes))
        return mka_fail(error, MKA_BAD_ARGUMENT, "%s: saved without a long-term bank", path);
    bytes = 0;
    for (int i = 0; i < s->model->sizes.layers; i++) {
        mka_region name;
        if (!bank_at(s, i)) continue;
        name_region(&name, i, "rows");
        if (bytes == 0 && !mka_snapshot_find(snapshot, name.name, &bytes))
            return mka_fail(error, MKA_BAD_ARGUMENT, "%s: a session of so few tokens has nothing to be remembered", path);
        rows = bytes / bank_at(s, i)->row;
        mka_status status = remember_layer(s, snapshot, i, rows, path, error);
        if (status) return status;
    }
    return MKA_OK;
}

mka_status mka_session_remember(mka_session *s, const char *path, mka_error *error) {
    mka_snapshot *snapshot;
    mka_succeed(error);
    if (!first_bank(s))
        return mka_fail(error, MKA_UNSUPPORTED,
                        "this session has no long-term bank: a model with an MKA or FastMKA router of three "
                        "levels has one, with tiered memory or where it is asked for");
    if (s->length > 0)
        return mka_fail(error, MKA_BAD_ARGUMENT, "memories are taken in before the first token; this session has %d", s->length);
    mka_status status = mka_snapshot_open(path, "session", &snapshot, error);
    if (status) return status;
    status = remember(s, snapshot, path, error);
    mka_snapshot_close(snapshot);
    if (status) reset(s);
    return status;
}
