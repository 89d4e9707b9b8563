/* spill_cache - the places in memory of a spill's records: who has which, and the clock by which they are given up.
 *
 * On several NUMA nodes the places are cut into zones, one for each node, and a record goes to the zone of the node whose threads
 * read it; to another one only while all of its own are in use. */
#include "spill_parts.h"

#define TAKEN (1 << 24) /* a place's pins while its content changes are below zero by this */

static size_t zone_begin(const mka_spill *s, int zone) {
    return s->count * (size_t)zone / (size_t)mka_places_count(s->nodes);
}

int mka_spill_zones(const mka_spill *s) {
    return mka_places_count(s->nodes);
}

unsigned char *mka_spill_zone(const mka_spill *s, int zone, size_t *bytes) {
    size_t begin = zone_begin(s, zone);
    *bytes = (zone_begin(s, zone + 1) - begin) * s->bytes;
    return s->records + begin * s->bytes;
}

static int zone_of(const mka_spill_part *part, size_t index) {
    size_t each = part->count / (size_t)part->heads;
    if (!part->spill->nodes || each == 0) return 0;
    return mka_places_of(part->spill->nodes, part->heads, (int)(index / each), index % each / part->stretch);
}

static int take_in_zone(mka_spill *s, int zone) {
    size_t begin = zone_begin(s, zone), count = zone_begin(s, zone + 1) - begin;
    for (size_t step = 0; step < 3 * count; step++) {
        size_t at = begin + s->hand[zone];
        mka_spill_place *p = &s->places[at];
        int none = 0;
        s->hand[zone] = s->hand[zone] + 1 < count ? s->hand[zone] + 1 : 0;
        if (atomic_exchange(&p->used, 0) && p->owner != MKA_SPILL_NOBODY) continue;
        if (!atomic_compare_exchange_strong(&p->pins, &none, -TAKEN)) continue;
        if (p->owner != MKA_SPILL_NOBODY) atomic_store(p->entry, MKA_SPILL_ABSENT);
        p->owner = MKA_SPILL_NOBODY;
        return (int)at;
    }
    return -1;
}

int mka_spill_take(mka_spill_part *part, size_t index) {
    int zones = mka_places_count(part->spill->nodes), own = zone_of(part, index), at = -1;
    for (int i = 0; i < zones && at < 0; i++) at = take_in_zone(part->spill, (own + i) % zones);
    return at;
}

int mka_spill_take_own(mka_spill *s, int at) {
    int none = 0;
    return atomic_compare_exchange_strong(&s->places[at].pins, &none, -TAKEN);
}

/* Others may have raised pins for a moment to find that they must not: hence no store. */
void mka_spill_settle(mka_spill *s, int at, int pins) {
    atomic_fetch_add(&s->places[at].pins, TAKEN + pins);
    pthread_cond_broadcast(&s->changed);
}

void mka_spill_own(mka_spill_part *part, size_t index, int at) {
    mka_spill_place *p = &part->spill->places[at];
    p->owner = part->first + index;
    p->entry = &part->places[index];
    atomic_store(&part->places[index], at);
}

void mka_spill_disown(mka_spill *s, int at) {
    mka_spill_place *p = &s->places[at];
    atomic_store(p->entry, MKA_SPILL_ABSENT);
    p->owner = MKA_SPILL_NOBODY;
}

/* A pin counts only when the place is settled and still the record's. */
const unsigned char *mka_spill_pin(mka_spill_part *part, size_t index) {
    mka_spill *s = part->spill;
    int at = atomic_load(&part->places[index]);
    if (at < 0) return NULL;
    mka_spill_place *p = &s->places[at];
    if (atomic_fetch_add(&p->pins, 1) >= 0 && p->owner == part->first + index) {
        atomic_store_explicit(&p->used, 1, memory_order_relaxed);
        return mka_spill_record(s, at);
    }
    atomic_fetch_sub(&p->pins, 1);
    return NULL;
}
