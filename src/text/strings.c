/* strings - texts numbered in the order they came, found again by a hash; and the growing arrays of the tokenizer.
 *
 * One pool of bytes instead of an allocation a text: a vocabulary has a few hundred thousand of them.
 */
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

int mka_grow(void *items, size_t *room, size_t need, size_t size) {
    if (need <= *room) return 1;
    size_t wanted = *room < 16 ? 16 : *room, bytes;
    while (wanted < need) {
        if (wanted > SIZE_MAX / 2) return 0;
        wanted *= 2;
    }
    void *old, *grown;
    memcpy(&old, items, sizeof old);
    if (!mka_size_mul(wanted, size, &bytes) || !(grown = realloc(old, bytes))) return 0;
    memcpy(items, &grown, sizeof grown);
    *room = wanted;
    return 1;
}

int mka_buffer_add(mka_buffer *buffer, const char *bytes, size_t length) {
    size_t need;
    if (length == 0) return 1;
    if (!mka_size_add(buffer->length, length, &need) || !mka_grow(&buffer->bytes, &buffer->room, need, 1)) return 0;
    memcpy(buffer->bytes + buffer->length, bytes, length);
    buffer->length = need;
    return 1;
}

static uint64_t hash_bytes(const char *bytes, size_t length) {
    uint64_t hash = 0x9E3779B97F4A7C15u ^ length, word = 0;
    for (; length >= 8; bytes += 8, length -= 8) {
        memcpy(&word, bytes, 8);
        hash = (hash ^ word) * 0xFF51AFD7ED558CCDu;
        hash ^= hash >> 32;
    }
    word = 0;
    for (size_t i = 0; i < length; i++) word = word << 8 | (unsigned char)bytes[i];
    hash = (hash ^ word) * 0xFF51AFD7ED558CCDu;
    return hash ^ hash >> 29;
}

mka_bytes mka_strings_at(const mka_strings *strings, uint32_t index) {
    const mka_string *item = &strings->items[index];
    return (mka_bytes){strings->pool.bytes + item->offset, item->length};
}

/* The slot that holds the text, or the empty one where it belongs. */
static size_t find_slot(const mka_strings *strings, const char *bytes, size_t length) {
    size_t mask = strings->slot_count - 1, slot = (size_t)hash_bytes(bytes, length) & mask;
    for (; strings->slots[slot]; slot = (slot + 1) & mask) {
        mka_bytes held = mka_strings_at(strings, strings->slots[slot] - 1);
        if (held.length == length && memcmp(held.bytes, bytes, length) == 0) break;
    }
    return slot;
}

uint32_t mka_strings_find(const mka_strings *strings, const char *bytes, size_t length) {
    if (strings->slot_count == 0 || length == 0 || length > strings->longest) return MKA_NO_STRING;
    uint32_t held = strings->slots[find_slot(strings, bytes, length)];
    return held ? held - 1 : MKA_NO_STRING;
}

static int rehash(mka_strings *strings) {
    if (strings->count < strings->slot_count / 2) return 1;
    size_t wanted = strings->slot_count ? strings->slot_count * 2 : 1024;
    uint32_t *slots = calloc(wanted, sizeof *slots);
    if (!slots) return 0;
    free(strings->slots);
    strings->slots = slots;
    strings->slot_count = wanted;
    for (uint32_t i = 0; i < strings->count; i++) {
        mka_bytes text = mka_strings_at(strings, i);
        slots[find_slot(strings, text.bytes, text.length)] = i + 1;
    }
    return 1;
}

int mka_strings_add(mka_strings *strings, const char *bytes, size_t length) {
    mka_string item = {strings->pool.length, length};
    if (length == 0 || strings->count >= INT32_MAX || !rehash(strings)) return 0;
    if (!mka_grow(&strings->items, &strings->room, strings->count + 1, sizeof *strings->items)) return 0;
    if (!mka_buffer_add(&strings->pool, bytes, length)) return 0;
    strings->items[strings->count++] = item;
    strings->slots[find_slot(strings, bytes, length)] = (uint32_t)strings->count;
    if (length > strings->longest) strings->longest = length;
    return 1;
}

int mka_strings_intern(mka_strings *strings, const char *bytes, size_t length, uint32_t *index) {
    *index = mka_strings_find(strings, bytes, length);
    if (*index != MKA_NO_STRING) return 1;
    if (!mka_strings_add(strings, bytes, length)) return 0;
    *index = (uint32_t)strings->count - 1;
    return 1;
}

void mka_strings_free(mka_strings *strings) {
    free(strings->pool.bytes);
    free(strings->items);
    free(strings->slots);
    *strings = (mka_strings){0};
}
