/* partition - takes special tokens out of a text before anything else looks at it.
 *
 * Longer tokens come first, over the whole text, whatever stands before them; that order, not the order in the text, decides
 * between tokens that overlap. A vocabulary may have thousands of them and a text a megabyte: so one walk finds out which occur
 * at all, and where first and last; only those are then cut out, one after the other.
 */
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

/* ---- tables ---- */

static int compare_text(const void *a, const void *b, void *context) {
    const mka_strings *symbols = context;
    mka_bytes left = mka_strings_at(symbols, *(const uint32_t *)a), right = mka_strings_at(symbols, *(const uint32_t *)b);
    int order = memcmp(left.bytes, right.bytes, left.length < right.length ? left.length : right.length);
    if (order == 0 && left.length != right.length) order = left.length < right.length ? -1 : 1;
    if (order == 0) order = *(const uint32_t *)a < *(const uint32_t *)b ? -1 : 1;
    return order;
}

static int compare_length(const void *a, const void *b, void *context) {
    const mka_tokenizer *tokenizer = context;
    uint32_t left = tokenizer->specials.by_text[*(const uint32_t *)a], right = tokenizer->specials.by_text[*(const uint32_t *)b];
    size_t left_length = tokenizer->symbols.items[left].length, right_length = tokenizer->symbols.items[right].length;
    if (left_length != right_length) return left_length > right_length ? -1 : 1;
    return left < right ? -1 : left > right;
}

mka_status mka_specials_build(mka_tokenizer *tokenizer, mka_error *error) {
    mka_specials *specials = &tokenizer->specials;
    size_t count = 0;
    for (size_t i = 0; i < tokenizer->count; i++)
        count += (tokenizer->attr[i] & (MKA_ATTR_CONTROL | MKA_ATTR_USER | MKA_ATTR_UNKNOWN)) != 0;
    specials->by_length = malloc((count + 1) * sizeof *specials->by_length);
    specials->by_text = malloc((count + 1) * sizeof *specials->by_text);
    if (!specials->by_length || !specials->by_text) return mka_fail(error, MKA_NO_MEMORY, "no memory for special tokens");
    for (uint32_t i = 0; i < tokenizer->count; i++) {
        if (!(tokenizer->attr[i] & (MKA_ATTR_CONTROL | MKA_ATTR_USER | MKA_ATTR_UNKNOWN))) continue;
        specials->by_length[specials->count] = (uint32_t)specials->count;
        specials->by_text[specials->count++] = i;
    }
    qsort_r(specials->by_text, count, sizeof *specials->by_text, compare_text, &tokenizer->symbols);
    qsort_r(specials->by_length, count, sizeof *specials->by_length, compare_length, tokenizer);
    uint32_t at = 0;
    for (int byte = 0; byte < 256; byte++) {
        specials->first[byte] = at;
        while (at < count && (unsigned char)*mka_strings_at(&tokenizer->symbols, specials->by_text[at]).bytes == byte) at++;
    }
    specials->first[256] = at;
    return MKA_OK;
}

void mka_specials_free(mka_specials *specials) {
    free(specials->by_length);
    free(specials->by_text);
}

/* ---- which tokens occur ---- */

typedef struct occurrence {
    size_t first, last; /* offsets in the text; first > last: it does not occur */
} occurrence;

/* First index in [low, high) of by_text whose byte at depth is >= byte. All there share the bytes before and are longer. */
static uint32_t lower(const mka_tokenizer *tokenizer, uint32_t low, uint32_t high, size_t depth, unsigned byte) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        mka_bytes text = mka_strings_at(&tokenizer->symbols, tokenizer->specials.by_text[middle]);
        if ((unsigned char)text.bytes[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Notes every special token that begins at text[at]. by_text keeps texts with a common beginning together, shortest first. */
static void note(const mka_tokenizer *tokenizer, const char *text, size_t length, size_t at, occurrence *seen) {
    const mka_specials *specials = &tokenizer->specials;
    unsigned byte = (unsigned char)text[at];
    uint32_t low = specials->first[byte], high = specials->first[byte + 1];
    for (size_t depth = 1; low < high; depth++) {
        while (low < high && tokenizer->symbols.items[specials->by_text[low]].length == depth) {
            occurrence *token = &seen[low++];
            if (token->first > token->last) token->first = at;
            token->last = at;
        }
        if (low == high || at + depth == length) break;
        byte = (unsigned char)text[at + depth];
        uint32_t begin = lower(tokenizer, low, high, depth, byte);
        high = lower(tokenizer, begin, high, depth, byte + 1);
        low = begin;
    }
}

/* ---- cutting ---- */

typedef struct cutter {
    const mka_tokenizer *tokenizer;
    const char *text;
    mka_fragment *fragments;
    size_t count, room;
} cutter;

static int is_space(char byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* Puts a fragment after *at (which it moves to); 0 when memory is out. */
static int insert(cutter *cut, uint32_t *at, mka_fragment fragment) {
    if (cut->count >= MKA_NO_STRING - 1 || !mka_grow(&cut->fragments, &cut->room, cut->count + 1, sizeof *cut->fragments))
        return 0;
    uint32_t made = (uint32_t)cut->count++;
    fragment.next = cut->fragments[*at].next;
    cut->fragments[made] = fragment;
    cut->fragments[*at].next = made;
    *at = made;
    return 1;
}

/* Cuts token out of the text fragment *at at offset found; leaves *at on what follows the token (perhaps empty text). */
static int cut_one(cutter *cut, uint32_t *at, uint32_t token, size_t found) {
    unsigned char attr = cut->tokenizer->attr[token];
    mka_fragment *fragment = &cut->fragments[*at];
    size_t begin = fragment->offset, end = begin + fragment->length, left = found;
    size_t right = found + cut->tokenizer->symbols.items[token].length;
    if (attr & MKA_ATTR_LSTRIP)
        while (left > begin && is_space(cut->text[left - 1])) left--;
    if (attr & MKA_ATTR_RSTRIP)
        while (right < end && is_space(cut->text[right])) right++;
    fragment->length = left - begin;
    return insert(cut, at, (mka_fragment){.token = token}) &&
           insert(cut, at, (mka_fragment){.offset = right, .length = end - right, .token = MKA_NO_STRING});
}

static int cut_token(cutter *cut, uint32_t token, const occurrence *where) {
    mka_bytes needle = mka_strings_at(&cut->tokenizer->symbols, token);
    for (uint32_t at = 0; at != MKA_NO_STRING; at = cut->fragments[at].next) {
        for (;;) {
            mka_fragment *fragment = &cut->fragments[at];
            if (fragment->token != MKA_NO_STRING) break;
            size_t begin = fragment->offset, end = begin + fragment->length;
            if (begin > where->last) return 1;
            if (begin < where->first) begin = where->first;
            if (end > where->last + needle.length) end = where->last + needle.length;
            if (begin >= end || end - begin < needle.length) break;
            const char *found = memmem(cut->text + begin, end - begin, needle.bytes, needle.length);
            if (!found) break;
            if (!cut_one(cut, &at, token, (size_t)(found - cut->text))) return 0;
        }
    }
    return 1;
}

static int cut_all(cutter *cut, size_t length, int parse_special, occurrence *seen) {
    const mka_tokenizer *tokenizer = cut->tokenizer;
    for (size_t i = 0; i < tokenizer->specials.count; i++) seen[i] = (occurrence){1, 0};
    for (size_t i = 0; i < length; i++) note(tokenizer, cut->text, length, i, seen);
    for (size_t i = 0; i < tokenizer->specials.count; i++) {
        const occurrence *where = &seen[tokenizer->specials.by_length[i]];
        uint32_t token = tokenizer->specials.by_text[tokenizer->specials.by_length[i]];
        if (!parse_special && tokenizer->attr[token] & (MKA_ATTR_CONTROL | MKA_ATTR_UNKNOWN)) continue;
        if (where->first > where->last) continue;
        if (!cut_token(cut, token, where)) return 0;
    }
    return 1;
}

mka_status mka_partition(const mka_tokenizer *tokenizer, const char *text, size_t length, int parse_special,
                         mka_fragment **fragments, mka_error *error) {
    cutter cut = {.tokenizer = tokenizer, .text = text};
    occurrence *seen = NULL;
    int done = mka_grow(&cut.fragments, &cut.room, 1, sizeof *cut.fragments);
    *fragments = NULL;
    if (done) {
        cut.fragments[cut.count++] = (mka_fragment){.length = length, .token = MKA_NO_STRING, .next = MKA_NO_STRING};
        if (tokenizer->specials.count > 0 && length > 0) {
            seen = malloc(tokenizer->specials.count * sizeof *seen);
            done = seen && cut_all(&cut, length, parse_special, seen);
            free(seen);
        }
    }
    if (!done) {
        free(cut.fragments);
        return mka_fail(error, MKA_NO_MEMORY, "no memory to take the special tokens out of %zu bytes of text", length);
    }
    *fragments = cut.fragments;
    return mka_succeed(error);
}
