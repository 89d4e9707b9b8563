/* budget - see budget.h. */
#include "budget.h"

#include "base/status.h"
#include "base/topology.h"

/* Places that one thread of recall may hold at once: those of a batch, and a few on the way. */
enum { THREAD_PLACES = 72 };

void mka_budget_add(mka_budget *b, const mka_local_shape *s, const mka_memory_plan *plan, int tiered) {
    size_t whole = mka_local_bytes(s), token = mka_local_token_bytes(s), tokens = (size_t)s->capacity;
    if (!tiered) {
        b->fixed += whole;
        return;
    }
    mka_longterm_shape far = {
        s->kv_heads, s->key_dim, s->value_dim, plan->key_type, plan->value_type, mka_longterm_segment(plan->window), s->capacity};
    size_t segment = (size_t)far.segment, whole_tokens = (tokens + segment - 1) / segment * segment,
           blocks = whole_tokens / MKA_BLOCK,
           record = MKA_BLOCK * (mka_row_bytes(plan->key_type, s->key_dim) + mka_row_bytes(plan->value_type, s->value_dim));
    size_t near = whole - token * ((tokens + MKA_TILE - 1) / MKA_TILE * MKA_TILE);
    if (!s->device) b->fixed += near + token * (size_t)mka_tiers_local_tokens(s, plan);
    b->fixed += whole_tokens * mka_longterm_index_bytes(&far);
    b->count += (uint64_t)blocks * (uint64_t)s->kv_heads;
    b->records += (uint64_t)blocks * (uint64_t)s->kv_heads * record;
    b->largest = record > b->largest ? record : b->largest;
}

static mka_status too_small(const mka_memory_plan *plan, uint64_t least, uint64_t whole, mka_error *error) {
    char ram[MKA_SIZE_TEXT], need[MKA_SIZE_TEXT], all[MKA_SIZE_TEXT];
    mka_size_text(plan->ram, ram, sizeof ram);
    mka_size_text(least, need, sizeof need);
    mka_size_text(whole, all, sizeof all);
    if (plan->spill)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%s of RAM is too little: this context needs at least %s", ram, need);
    return mka_fail(error, MKA_BAD_ARGUMENT,
                    "%s of RAM is too little: this context needs %s, or a folder to spill to and at least %s", ram, all, need);
}

mka_status mka_budget_open(const mka_budget *b, const mka_memory_plan *plan, uint64_t work, int threads, const mka_places *nodes,
                           mka_spill **spill, mka_error *error) {
    *spill = NULL;
    if (plan->ram == 0 && plan->spill)
        return mka_fail(error, MKA_BAD_ARGUMENT, "a folder to spill to (%s) needs a limit of RAM", plan->spill);
    if (plan->ram == 0) return MKA_OK;
    uint64_t fixed = work + b->fixed, whole = fixed + b->records, place = b->largest + MKA_SPILL_PLACE_BYTES;
    uint64_t places = (uint64_t)threads * THREAD_PLACES + mka_spill_waiting(b->largest),
             tables = b->count * MKA_SPILL_RECORD_BYTES;
    if (whole <= plan->ram) return MKA_OK;
    if (places > b->count) places = b->count;
    uint64_t least = b->count ? fixed + tables + places * place : whole;
    if (least > whole) least = whole;
    if (plan->ram < least || !plan->spill) return too_small(plan, least, whole, error);
    places = (plan->ram - fixed - tables) / place;
    return mka_spill_create(plan->spill, b->largest, (size_t)(places < b->count ? places : b->count), nodes, spill, error);
}
