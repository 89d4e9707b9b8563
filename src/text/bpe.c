/* bpe - byte-pair encoding: in every word, the pair of neighbours whose merge stands earliest in the list is joined, until none
 * is left.
 *
 * Symbols are numbered texts: the vocabulary's tokens, then texts that only the list of merges names. A word is a chain of them;
 * a heap holds the pairs that may be joined, so that a word of a million characters takes n log n steps.
 */
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

/* ---- the list of merges ---- */

static size_t merge_slot(const mka_merges *merges, uint32_t left, uint32_t right) {
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    size_t mask = merges->slot_count - 1, slot = (size_t)(hash ^ hash >> 32) & mask;
    while (merges->slots[slot].rank != MKA_NO_STRING && (merges->slots[slot].left != left || merges->slots[slot].right != right))
        slot = (slot + 1) & mask;
    return slot;
}

static const struct mka_merge *find_merge(const mka_merges *merges, uint32_t left, uint32_t right) {
    if (left == MKA_NO_STRING || right == MKA_NO_STRING) return NULL;
    const struct mka_merge *merge = &merges->slots[merge_slot(merges, left, right)];
    return merge->rank == MKA_NO_STRING ? NULL : merge;
}

/* tokenizer.json's lists name tokens only; where the text of one was changed (U+2581 in a token that users type), its merge is
 * not to make a text that is no token. */
static int names_tokens(const mka_tokenizer *tokenizer, mka_bytes left, mka_bytes right, const mka_buffer *joined) {
    const mka_strings *symbols = &tokenizer->symbols;
    return mka_strings_find(symbols, left.bytes, left.length) < tokenizer->count &&
           mka_strings_find(symbols, right.bytes, right.length) < tokenizer->count &&
           mka_strings_find(symbols, joined->bytes, joined->length) < tokenizer->count;
}

static int add_merge(mka_tokenizer *tokenizer, mka_bytes left, mka_bytes right, uint32_t rank, mka_buffer *joined) {
    struct mka_merge merge = {.rank = rank};
    joined->length = 0;
    if (!mka_buffer_add(joined, left.bytes, left.length) || !mka_buffer_add(joined, right.bytes, right.length)) return 0;
    if (tokenizer->tokens_only && !names_tokens(tokenizer, left, right, joined)) return 1;
    if (!mka_strings_intern(&tokenizer->symbols, left.bytes, left.length, &merge.left) ||
        !mka_strings_intern(&tokenizer->symbols, right.bytes, right.length, &merge.right) ||
        !mka_strings_intern(&tokenizer->symbols, joined->bytes, joined->length, &merge.joined))
        return 0;
    size_t slot = merge_slot(&tokenizer->merges, merge.left, merge.right);
    if (tokenizer->merges.slots[slot].rank == MKA_NO_STRING) tokenizer->merges.slots[slot] = merge; /* the first one counts */
    return 1;
}

static int add_letters(mka_tokenizer *tokenizer) {
    for (int byte = 0; byte < 256; byte++) {
        char letter[4];
        size_t length = mka_utf8_encode(mka_byte_to_point((unsigned char)byte), letter);
        if (!mka_strings_intern(&tokenizer->symbols, letter, length, &tokenizer->letter[byte])) return 0;
    }
    return 1;
}

mka_status mka_bpe_build(mka_tokenizer *tokenizer, const mka_bytes *merges, size_t count, const char *name, mka_error *error) {
    mka_buffer joined = {0};
    mka_status status = MKA_OK;
    size_t slots = 16;
    while (slots < count * 2 && slots <= SIZE_MAX / 4) slots *= 2;
    tokenizer->merges.slots = calloc(slots, sizeof *tokenizer->merges.slots);
    if (!tokenizer->merges.slots) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for %zu merges", name, count);
    tokenizer->merges.slot_count = slots;
    for (size_t i = 0; i < slots; i++) tokenizer->merges.slots[i].rank = MKA_NO_STRING;
    int done = tokenizer->raw || add_letters(tokenizer);
    for (size_t i = 0; i < count && done; i++) {
        const char *space = merges[i].length > 1 ? memchr(merges[i].bytes + 1, ' ', merges[i].length - 1) : NULL;
        size_t left_length = space ? (size_t)(space - merges[i].bytes) : 0;
        if (!space || left_length + 1 == merges[i].length) {
            status = mka_fail(error, MKA_BAD_FILE, "%s: merge %zu does not name two texts with a space between", name, i);
            goto done;
        }
        mka_bytes left = {merges[i].bytes, left_length};
        mka_bytes right = {space + 1, merges[i].length - left_length - 1};
        done = add_merge(tokenizer, left, right, (uint32_t)i, &joined);
    }
    if (!done) status = mka_fail(error, MKA_NO_MEMORY, "%s: no memory for %zu merges", name, count);
done:
    free(joined.bytes);
    return status;
}

/* ---- one word ---- */

typedef struct segment { /* a symbol of the word; joined ones are cut out of the chain */
    uint32_t symbol;     /* MKA_NO_STRING: a character that no token or merge has */
    int previous, next;
    uint32_t offset, length; /* bytes of the word, for characters without a symbol */
} segment;

typedef struct pair { /* left and its neighbour as they were when the pair was found */
    uint32_t rank, left_symbol, right_symbol, joined;
    int left, right;
} pair;

typedef struct workspace { /* memory that the words of a text share */
    segment *links;
    size_t link_count, link_room;
    pair *heap;
    size_t heap_count, heap_room;
    mka_buffer letters;
} workspace;

#define JOINED (MKA_NO_STRING - 1) /* the symbol of a link that is no more */

static int before(const pair *a, const pair *b) {
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static int push(workspace *work, const pair *item) {
    if (!mka_grow(&work->heap, &work->heap_room, work->heap_count + 1, sizeof *work->heap)) return 0;
    size_t at = work->heap_count++;
    while (at > 0 && before(item, &work->heap[(at - 1) / 2])) {
        work->heap[at] = work->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    work->heap[at] = *item;
    return 1;
}

static pair pop(workspace *work) {
    pair top = work->heap[0], last = work->heap[--work->heap_count];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < work->heap_count) {
        if (child + 1 < work->heap_count && before(&work->heap[child + 1], &work->heap[child])) child++;
        if (!before(&work->heap[child], &last)) break;
        work->heap[at] = work->heap[child];
        at = child;
    }
    work->heap[at] = last;
    return top;
}

static int consider(const mka_tokenizer *tokenizer, workspace *work, int left, int right) {
    if (left < 0 || right < 0) return 1;
    pair item = {.left = left, .right = right};
    item.left_symbol = work->links[left].symbol;
    item.right_symbol = work->links[right].symbol;
    const struct mka_merge *merge = find_merge(&tokenizer->merges, item.left_symbol, item.right_symbol);
    if (!merge) return 1;
    item.rank = merge->rank;
    item.joined = merge->joined;
    return push(work, &item);
}

static int add_link(workspace *work, uint32_t symbol, size_t offset, size_t length) {
    if (work->link_count >= INT32_MAX || !mka_grow(&work->links, &work->link_room, work->link_count + 1, sizeof *work->links))
        return 0;
    int index = (int)work->link_count++;
    work->links[index] = (segment){symbol, index - 1, index + 1, (uint32_t)offset, (uint32_t)length};
    return 1;
}

/* A link a byte, or a character where the model merges UTF-8. */
static int spell(const mka_tokenizer *tokenizer, workspace *work, const char *word, size_t length) {
    work->link_count = 0;
    for (size_t i = 0, size = 1; i < length; i += size) {
        uint32_t symbol;
        if (tokenizer->raw) {
            size = mka_utf8_announced(word[i]);
            if (size > length - i) size = length - i;
            symbol = mka_strings_find(&tokenizer->symbols, word + i, size);
        } else {
            symbol = tokenizer->letter[(unsigned char)word[i]];
        }
        if (!add_link(work, symbol, i, size)) return 0;
    }
    work->links[work->link_count - 1].next = -1;
    return 1;
}

static int join(const mka_tokenizer *tokenizer, workspace *work) {
    work->heap_count = 0;
    for (int i = 1; i < (int)work->link_count; i++)
        if (!consider(tokenizer, work, i - 1, i)) return 0;
    while (work->heap_count > 0) {
        pair best = pop(work);
        segment *left = &work->links[best.left], *right = &work->links[best.right];
        if (left->symbol != best.left_symbol || right->symbol != best.right_symbol) continue; /* one was joined since */
        left->symbol = best.joined;
        left->next = right->next;
        right->symbol = JOINED;
        if (left->next >= 0) work->links[left->next].previous = best.left;
        if (!consider(tokenizer, work, left->previous, best.left) || !consider(tokenizer, work, best.left, left->next)) return 0;
    }
    return 1;
}

/* ---- ids ---- */

/* What has no token: byte tokens, or the unknown token, or nothing. */
static void put_bytes(const mka_tokenizer *tokenizer, const char *bytes, size_t length, mka_output *output, int *was_unknown) {
    int complete = 1;
    if (tokenizer->use_unknown) {
        for (size_t i = 0; i < length && complete; i++) complete = tokenizer->byte[(unsigned char)bytes[i]] != MKA_NO_STRING;
        if (!complete) {
            if (!(*was_unknown && tokenizer->fuse_unknown)) mka_output_add(output, tokenizer->special.unknown);
            *was_unknown = 1;
            return;
        }
    }
    for (size_t i = 0; i < length; i++) {
        uint32_t token = tokenizer->byte[(unsigned char)bytes[i]];
        if (token != MKA_NO_STRING) mka_output_add(output, (int)token);
    }
}

static void put_word(const mka_tokenizer *tokenizer, const workspace *work, const char *word, mka_output *output) {
    int was_unknown = 0;
    for (int i = 0; i >= 0; i = work->links[i].next) {
        const segment *at = &work->links[i];
        if (at->symbol < tokenizer->count) {
            mka_output_add(output, (int)at->symbol);
            was_unknown = 0;
        } else if (at->symbol == MKA_NO_STRING) {
            put_bytes(tokenizer, word + at->offset, at->length, output, &was_unknown);
        } else {
            mka_bytes text = mka_strings_at(&tokenizer->symbols, at->symbol);
            put_bytes(tokenizer, text.bytes, text.length, output, &was_unknown);
        }
    }
}

/* The token that a word is as a whole, or MKA_NO_STRING. */
static int find_word(const mka_tokenizer *tokenizer, workspace *work, const char *word, size_t length, uint32_t *token) {
    *token = MKA_NO_STRING;
    int newlines = tokenizer->newline_words;
    for (size_t i = 0; i < length && newlines; i++) newlines = word[i] == '\n';
    if (!tokenizer->ignore_merges && !newlines) return 1;
    work->letters.length = 0;
    if (length > tokenizer->symbols.longest) return 1;
    if (tokenizer->raw) {
        if (!mka_buffer_add(&work->letters, word, length)) return 0;
    } else {
        for (size_t i = 0; i < length; i++) {
            mka_bytes letter = mka_strings_at(&tokenizer->symbols, tokenizer->letter[(unsigned char)word[i]]);
            if (!mka_buffer_add(&work->letters, letter.bytes, letter.length)) return 0;
        }
    }
    *token = mka_strings_find(&tokenizer->symbols, work->letters.bytes, work->letters.length);
    if (*token >= tokenizer->count) *token = MKA_NO_STRING;
    return 1;
}

static int encode_word(const mka_tokenizer *tokenizer, workspace *work, const char *word, size_t length, mka_output *output) {
    uint32_t token;
    if (!find_word(tokenizer, work, word, length, &token)) return 0;
    if (token != MKA_NO_STRING) {
        mka_output_add(output, (int)token);
        return 1;
    }
    if (!spell(tokenizer, work, word, length) || !join(tokenizer, work)) return 0;
    put_word(tokenizer, work, word, output);
    return 1;
}

mka_status mka_bpe_encode(const mka_tokenizer *tokenizer, const char *text, size_t length, mka_output *output, mka_error *error) {
    mka_buffer clean = {0};
    mka_words words = {0};
    workspace work = {0};
    mka_status status = MKA_OK;
    int done = mka_text_clean(&clean, text, length);
    if (done) status = mka_splitter_run(tokenizer->splitter, clean.bytes, clean.length, &words, error);
    if (status != MKA_OK) goto done;
    for (size_t i = 0; i < words.count && done; i++)
        done = encode_word(tokenizer, &work, clean.bytes + words.items[i].offset, words.items[i].length, output);
    if (!done) status = mka_fail(error, MKA_NO_MEMORY, "no memory to tokenize %zu bytes of text", length);
done:
    free(clean.bytes);
    free(words.items);
    free(work.links);
    free(work.heap);
    free(work.letters.bytes);
    return status;
}
