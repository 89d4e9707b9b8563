/* session_file - sessions saved to a file and loaded back (mka/session.h), as regions that lie in the file as in memory.
 *
 *   session | tokens | chain | note | summaries | tiers | LAYER.CACHE keys, values, ... (memory/stored.h) | bank (session_bank.h)
 *
 * chain is a hash for every 64 tokens, each over the one before it and the ids, so that a file tells how far a prompt agrees
 * with it by one comparison a link, from the end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/status.h"
#include "memory/stored.h"
#include "session_bank.h"

enum { LINK = 64, OWN_REGIONS = 7 };
#define MOST_NOTE ((uint64_t)1 << 30)

typedef struct head {
    int32_t length, layers, caches, vocabulary, key_type, value_type, tiered, sinks, window, longterm_key_type,
        longterm_value_type, recurrent;
} head;

static head head_of(const mka_session *s) {
    const mka_session_options *o = &s->options;
    head h = {.length = s->length,
              .layers = (int32_t)s->model->sizes.layers,
              .vocabulary = s->model->embedding.rows,
              .key_type = o->key_type,
              .value_type = o->value_type,
              .tiered = s->tiered,
              .recurrent = s->recurrent};
    for (int i = 0; i < h.layers; i++) h.caches += s->layers[i].caches;
    if (!s->tiered) return h;
    h.sinks = o->plan.sinks;
    h.window = o->plan.window;
    h.longterm_key_type = o->plan.key_type;
    h.longterm_value_type = o->plan.value_type;
    return h;
}

/* ---- the chain ---- */

static uint64_t link_hash(uint64_t before, const int *tokens) {
    return XXH3_64bits_withSeed(tokens, LINK * sizeof *tokens, before);
}

static void make_chain(const int *tokens, size_t links, uint64_t *chain) {
    for (size_t i = 0; i < links; i++) chain[i] = link_hash(i ? chain[i - 1] : 0, tokens + i * LINK);
}

/* ---- regions ---- */

/* What a file has besides keys and values, in memory of its own. */
typedef struct parts {
    head head;
    uint64_t *chain;        /* [length / LINK] */
    mka_tiers_state *tiers; /* [head.caches] */
    mka_stored *stored;     /* [head.caches] */
    mka_session_bank_head bank;
    mka_region *regions;
    size_t count;
} parts;

static void free_parts(parts *p) {
    free(p->chain);
    free(p->tiers);
    free(p->stored);
    free(p->regions);
}

static mka_status make_parts(parts *p, mka_error *error) {
    size_t links = (size_t)p->head.length / LINK, caches = (size_t)p->head.caches, layers = (size_t)p->head.layers;
    p->chain = calloc(links + 1, sizeof *p->chain);
    p->tiers = calloc(caches + 1, sizeof *p->tiers);
    p->stored = calloc(caches + 1, sizeof *p->stored);
    p->regions = calloc(caches * MKA_STORED_REGIONS + layers * MKA_BANK_REGIONS + OWN_REGIONS, sizeof *p->regions);
    return p->chain && p->tiers && p->stored && p->regions
               ? MKA_OK
               : mka_fail(error, MKA_NO_MEMORY, "no memory for the regions of a session");
}

static void add(parts *p, const char *name, const void *bytes, size_t size) {
    if (size) p->regions[p->count++] = mka_region_of(name, bytes, size);
}

static void add_caches(parts *p, mka_session *s) {
    size_t cache = 0;
    for (int i = 0; i < p->head.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++, cache++) {
            char name[24];
            snprintf(name, sizeof name, "%d.%d", i, j);
            p->count += mka_stored_regions(&s->layers[i].cache[j], &p->tiers[cache], p->head.length, name, &p->stored[cache],
                                           p->regions + p->count);
        }
}

static void add_timeline(parts *p, mka_session *s) {
    size_t length = (size_t)p->head.length;
    add(p, "tokens", s->tokens, length * sizeof *s->tokens);
    add(p, "chain", p->chain, length / LINK * sizeof *p->chain);
    if (s->recurrent) add(p, "summaries", s->summaries, (size_t)p->head.layers * (size_t)s->model->sizes.width * sizeof(float));
}

/* Summaries of layers on a device, from there or to it. */
static void move_summaries(mka_session *s, int there) {
    size_t width = (size_t)s->model->sizes.width;
    for (int i = 0; s->recurrent && i < s->offloaded; i++) {
        mka_ops *ops = mka_session_ops(s, i);
        (there ? ops->put : ops->get)(ops, s->summaries + (size_t)i * width, width * sizeof *s->summaries);
    }
}

mka_status mka_session_save(mka_session *s, const char *path, mka_error *error) {
    parts p = {.head = head_of(s)};
    mka_status status = make_parts(&p, error);
    move_summaries(s, 0);
    if (!status) status = mka_forward_settle(s, error);
    if (!status) {
        int cache = 0;
        make_chain(s->tokens, (size_t)s->length / LINK, p.chain);
        for (int i = 0; i < p.head.layers; i++)
            for (int j = 0; j < s->layers[i].caches; j++)
                p.tiers[cache++] = mka_tiers_get_state(&s->layers[i].cache[j], s->length);
        add(&p, "session", &p.head, sizeof p.head);
        add(&p, "note", s->note, s->note_bytes);
        add(&p, "tiers", p.tiers, (size_t)p.head.caches * sizeof *p.tiers);
        add_timeline(&p, s);
        add_caches(&p, s);
        p.count += mka_session_bank_save(s, &p.bank, p.regions + p.count);
        status = mka_snapshot_save(s->ops.pool, path, "session", mka_model_fingerprint(s->model), p.regions, p.count, error);
        if (status) mka_forward_settle(s, NULL); /* a device's failure has been told */
    }
    free_parts(&p);
    return status;
}

/* ---- loading ---- */

static mka_status differs(mka_error *error, const char *path, const char *what, const char *file, const char *session) {
    return mka_fail(error, MKA_BAD_ARGUMENT, "%s: saved with %s %s, but this session has %s", path, what, file, session);
}

static mka_status check_numbers(const head *f, const head *s, const char *path, mka_error *error) {
    const struct {
        const char *what;
        int file, session;
    } numbers[] = {{"layers:", f->layers, s->layers},
                   {"caches:", f->caches, s->caches},
                   {"a vocabulary of", f->vocabulary, s->vocabulary},
                   {"session summaries:", f->recurrent, s->recurrent},
                   {"first tokens (sinks):", f->sinks, s->sinks},
                   {"a window of", f->window, s->window}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char file[16], session[16];
        if (numbers[i].file == numbers[i].session) continue;
        snprintf(file, sizeof file, "%d", numbers[i].file);
        snprintf(session, sizeof session, "%d", numbers[i].session);
        return differs(error, path, numbers[i].what, file, session);
    }
    return MKA_OK;
}

/* What must be the same on both sides, whatever the lengths. */
static mka_status check_head(const head *f, const head *s, const char *path, mka_error *error) {
    const struct {
        const char *what;
        int file, session;
    } types[] = {{"cache keys in", f->key_type, s->key_type},
                 {"cache values in", f->value_type, s->value_type},
                 {"long-term keys in", f->longterm_key_type, s->longterm_key_type},
                 {"long-term values in", f->longterm_value_type, s->longterm_value_type}};
    static const char *const kinds[] = {"dense", "tiered"};
    if (f->tiered != s->tiered) return differs(error, path, "memory", kinds[f->tiered != 0], kinds[s->tiered]);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].file != types[i].session)
            return differs(error, path, types[i].what, mka_type_name((mka_type)types[i].file),
                           mka_type_name((mka_type)types[i].session));
    mka_status status = check_numbers(f, s, path, error);
    if (!status && f->length < 0) status = mka_fail(error, MKA_BAD_FILE, "%s: region 'session' says %d tokens", path, f->length);
    return status;
}

static mka_status open_fitting(const mka_session *s, const char *path, mka_snapshot **snapshot, head *h, mka_error *error) {
    head own = head_of(s);
    mka_status status = mka_snapshot_open(path, "session", snapshot, error);
    if (status) return status;
    if (mka_snapshot_bound(*snapshot) != mka_model_fingerprint(s->model))
        status = mka_fail(error, MKA_BAD_ARGUMENT, "%s: saved with another model than this session's", path);
    if (!status) status = mka_snapshot_take(*snapshot, "session", h, sizeof *h, error);
    if (!status) status = check_head(h, &own, path, error);
    if (!status) status = mka_session_bank_check(s, *snapshot, h->length, path, error);
    return status;
}

/* NULL where there is none; the caller's to free. */
static mka_status take_note(mka_snapshot *snapshot, const char *path, void **note, size_t *size, mka_error *error) {
    uint64_t bytes = 0;
    *note = NULL;
    *size = 0;
    if (!mka_snapshot_find(snapshot, "note", &bytes) || bytes == 0) return MKA_OK;
    if (bytes > MOST_NOTE) return mka_fail(error, MKA_BAD_FILE, "%s: region 'note' is too large", path);
    void *room = malloc((size_t)bytes);
    if (!room) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its note", path);
    mka_status status = mka_snapshot_take(snapshot, "note", room, (size_t)bytes, error);
    if (status) {
        free(room);
        return status;
    }
    *note = room;
    *size = (size_t)bytes;
    return MKA_OK;
}

static mka_status load_note(mka_session *s, mka_snapshot *snapshot, const char *path, mka_error *error) {
    void *note;
    size_t bytes;
    mka_status status = take_note(snapshot, path, &note, &bytes, error);
    if (status) return status;
    free(s->note);
    s->note = note;
    s->note_bytes = bytes;
    return MKA_OK;
}

static mka_status set_states(mka_session *s, const parts *p, const char *path, mka_error *error) {
    int cache = 0;
    for (int i = 0; i < p->head.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++)
            if (!mka_tiers_set_state(&s->layers[i].cache[j], mka_session_ops(s, i), p->head.length, &p->tiers[cache++]))
                return mka_fail(error, MKA_BAD_FILE, "%s: region 'tiers': layer %d cannot be in such a state", path, i);
    return MKA_OK;
}

static mka_status check_timeline(const mka_session *s, const parts *p, const char *path, mka_error *error) {
    for (int i = 0; i < p->head.length; i++)
        if (s->tokens[i] < -1 || s->tokens[i] >= s->model->embedding.rows)
            return mka_fail(error, MKA_BAD_FILE, "%s: region 'tokens': %d is no token", path, s->tokens[i]);
    return MKA_OK;
}

/* What a device has of what was read goes there. */
static mka_status fill_device(mka_session *s, mka_error *error) {
    move_summaries(s, 1);
    for (int i = 0; i < s->model->sizes.layers; i++)
        for (int j = 0; j < s->layers[i].caches; j++) mka_tiers_filled(&s->layers[i].cache[j]);
    mka_status status = s->tiered ? mka_tiers_failure(&s->tiers, error) : MKA_OK,
               there = mka_forward_settle(s, status ? NULL : error);
    return status ? status : there;
}

/* The session is empty at first; it is to be emptied again when this fails. */
static mka_status load_content(mka_session *s, mka_snapshot *snapshot, parts *p, const char *path, mka_error *error) {
    mka_status status = make_parts(p, error);
    if (!status) status = mka_snapshot_take(snapshot, "tiers", p->tiers, (size_t)p->head.caches * sizeof *p->tiers, error);
    if (!status) status = load_note(s, snapshot, path, error);
    if (!status) status = set_states(s, p, path, error);
    if (!status) status = mka_session_bank_set(s, snapshot, p->head.length, error);
    if (status) return status;
    add_timeline(p, s);
    add_caches(p, s);
    p->count += mka_session_bank_regions(s, p->regions + p->count);
    status = mka_snapshot_read(snapshot, s->ops.pool, p->regions, p->count, error);
    if (!status) status = check_timeline(s, p, path, error);
    return status ? status : fill_device(s, error);
}

mka_status mka_session_load(mka_session *s, const char *path, mka_error *error) {
    mka_snapshot *snapshot = NULL;
    parts p = {.head = {.length = 0}};
    mka_status status = open_fitting(s, path, &snapshot, &p.head, error);
    if (!status && p.head.length > s->options.context)
        status = mka_fail(error, MKA_BAD_ARGUMENT, "%s: it holds %d tokens, but this session's context has room for %d", path,
                          p.head.length, s->options.context);
    if (!status) {
        mka_session_truncate(s, 0, NULL);
        status = load_content(s, snapshot, &p, path, error);
        mka_session_bank_finish(s, status != MKA_OK);
        s->length = p.head.length;
        if (status) {
            mka_forward_settle(s, NULL);
            mka_session_truncate(s, 0, NULL);
        }
    }
    free_parts(&p);
    mka_snapshot_close(snapshot);
    return status;
}

/* ---- looking at files ---- */

mka_status mka_session_peek(const char *path, mka_session_file *about, mka_error *error) {
    mka_snapshot *snapshot;
    head h;
    mka_status status = mka_snapshot_open(path, "session", &snapshot, error);
    if (status) return status;
    status = mka_snapshot_take(snapshot, "session", &h, sizeof h, error);
    if (!status && (h.length < 0 || h.layers < 0))
        status = mka_fail(error, MKA_BAD_FILE, "%s: region 'session' says %d tokens of %d layers", path, h.length, h.layers);
    if (!status) {
        *about = (mka_session_file){.tokens = h.length,
                                    .layers = h.layers,
                                    .key_type = (mka_type)h.key_type,
                                    .value_type = (mka_type)h.value_type,
                                    .tiered = h.tiered,
                                    .model = mka_snapshot_bound(snapshot),
                                    .bytes = mka_snapshot_bytes(snapshot)};
        mka_memory_plan_defaults(&about->plan);
        if (h.tiered) {
            about->plan.sinks = h.sinks;
            about->plan.window = h.window;
            about->plan.key_type = (mka_type)h.longterm_key_type;
            about->plan.value_type = (mka_type)h.longterm_value_type;
        }
        about->bank = mka_session_bank_peek(snapshot, &about->plan, error);
    }
    mka_snapshot_close(snapshot);
    return status;
}

mka_status mka_session_peek_note(const char *path, void **bytes, size_t *size, mka_error *error) {
    mka_snapshot *snapshot;
    *bytes = NULL;
    *size = 0;
    mka_succeed(error);
    mka_status status = mka_snapshot_open(path, "session", &snapshot, error);
    if (!status) status = take_note(snapshot, path, bytes, size, error);
    mka_snapshot_close(snapshot);
    return status;
}

/* The last link on which both agree, by the chains; then the ids themselves have to. */
static mka_status count_common(mka_snapshot *snapshot, const head *h, const int *tokens, size_t count, size_t *common,
                               mka_error *error) {
    size_t length = (size_t)h->length, links = length / LINK, shared = (count < length ? count : length) / LINK;
    uint64_t *chains = calloc(links + shared + 1, sizeof *chains);
    int *ids = malloc((length + 1) * sizeof *ids);
    mka_status status = chains && ids ? MKA_OK : mka_fail(error, MKA_NO_MEMORY, "no memory to compare %zu tokens", count);
    if (!status && shared) {
        status = mka_snapshot_take(snapshot, "chain", chains, links * sizeof *chains, error);
        make_chain(tokens, shared, chains + links);
        while (shared && chains[shared - 1] != chains[links + shared - 1]) shared--;
    }
    if (!status && shared) status = mka_snapshot_take(snapshot, "tokens", ids, length * sizeof *ids, error);
    if (!status && shared) {
        size_t most = count < length ? count : length;
        while (*common < most && ids[*common] == tokens[*common]) ++*common;
    }
    free(chains);
    free(ids);
    return status;
}

mka_status mka_session_match(const mka_session *s, const char *path, const int *tokens, size_t count, size_t *common,
                             mka_error *error) {
    mka_snapshot *snapshot = NULL;
    head h;
    *common = 0;
    mka_succeed(error);
    mka_status status = open_fitting(s, path, &snapshot, &h, error);
    if (!status && h.length <= s->options.context) status = count_common(snapshot, &h, tokens, count, common, error);
    mka_snapshot_close(snapshot);
    return status == MKA_BAD_ARGUMENT ? mka_succeed(error) : status;
}

/* ---- notes ---- */

mka_status mka_session_set_note(mka_session *s, const void *bytes, size_t size, mka_error *error) {
    mka_succeed(error);
    if (size > MOST_NOTE) return mka_fail(error, MKA_BAD_ARGUMENT, "a note of %zu bytes is too large", size);
    void *note = size ? malloc(size) : NULL;
    if (size && !note) return mka_fail(error, MKA_NO_MEMORY, "no memory for a note of %zu bytes", size);
    if (size) memcpy(note, bytes, size);
    free(s->note);
    s->note = note;
    s->note_bytes = size;
    return MKA_OK;
}

const void *mka_session_note(const mka_session *s, size_t *size) {
    *size = s->note_bytes;
    return s->note;
}
