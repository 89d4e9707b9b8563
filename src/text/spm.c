/* spm - SentencePiece-style merging: of all neighbours whose joined text is a token, the one with the highest score is joined
 * first, the leftmost on a tie; what is no token in the end becomes byte tokens.
 *
 * There is no list of merges, so every candidate is looked up by its text; candidates longer than the longest token are not.
 */
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

typedef struct piece {
    size_t offset, length; /* in the text; length 0: joined into the one before */
    int previous, next;
} piece;

typedef struct candidate {
    float score;
    int left, right;
    size_t length; /* of both together when it was found: differs when one has grown since */
} candidate;

typedef struct workspace {
    const mka_tokenizer *tokenizer;
    const char *text;
    piece *pieces;
    size_t count, room;
    candidate *heap;
    size_t heap_count, heap_room;
} workspace;

static int before(const candidate *a, const candidate *b) {
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static int push(workspace *work, candidate item) {
    if (!mka_grow(&work->heap, &work->heap_room, work->heap_count + 1, sizeof *work->heap)) return 0;
    size_t at = work->heap_count++;
    while (at > 0 && before(&item, &work->heap[(at - 1) / 2])) {
        work->heap[at] = work->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    work->heap[at] = item;
    return 1;
}

static candidate pop(workspace *work) {
    candidate top = work->heap[0], last = work->heap[--work->heap_count];
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

static int consider(workspace *work, int left, int right) {
    if (left < 0 || right < 0) return 1;
    size_t length = work->pieces[left].length + work->pieces[right].length;
    uint32_t token = mka_strings_find(&work->tokenizer->symbols, work->text + work->pieces[left].offset, length);
    if (token == MKA_NO_STRING) return 1;
    return push(work, (candidate){work->tokenizer->scores[token], left, right, length});
}

static int spell(workspace *work, size_t length) {
    for (size_t i = 0, size; i < length; i += size) {
        size = mka_utf8_announced(work->text[i]);
        if (size > length - i) size = length - i;
        if (work->count >= INT32_MAX || !mka_grow(&work->pieces, &work->room, work->count + 1, sizeof *work->pieces)) return 0;
        int index = (int)work->count++;
        work->pieces[index] = (piece){i, size, index - 1, i + size == length ? -1 : index + 1};
    }
    return 1;
}

static int join(workspace *work) {
    for (int i = 1; i < (int)work->count; i++)
        if (!consider(work, i - 1, i)) return 0;
    while (work->heap_count > 0) {
        candidate best = pop(work);
        piece *left = &work->pieces[best.left], *right = &work->pieces[best.right];
        if (left->length == 0 || right->length == 0 || left->length + right->length != best.length) continue;
        left->length = best.length;
        left->next = right->next;
        right->length = 0;
        if (left->next >= 0) work->pieces[left->next].previous = best.left;
        if (!consider(work, left->previous, best.left) || !consider(work, best.left, left->next)) return 0;
    }
    return 1;
}

static void put(const workspace *work, const piece *last, mka_output *output) {
    const mka_tokenizer *tokenizer = work->tokenizer;
    const char *bytes = work->text + last->offset;
    uint32_t token = mka_strings_find(&tokenizer->symbols, bytes, last->length);
    if (token != MKA_NO_STRING) {
        mka_output_add(output, (int)token);
        return;
    }
    for (size_t i = 0; i < last->length; i++) {
        uint32_t byte = tokenizer->byte[(unsigned char)bytes[i]];
        if (byte != MKA_NO_STRING)
            mka_output_add(output, (int)byte);
        else if (tokenizer->special.unknown >= 0)
            mka_output_add(output, tokenizer->special.unknown);
    }
}

mka_status mka_spm_encode(const mka_tokenizer *tokenizer, const char *text, size_t length, mka_output *output, mka_error *error) {
    mka_status status = MKA_OK;
    workspace work = {.tokenizer = tokenizer, .text = text};
    if (length == 0) return MKA_OK;
    if (!spell(&work, length) || !join(&work)) {
        status = mka_fail(error, MKA_NO_MEMORY, "no memory to tokenize %zu bytes of text", length);
    } else {
        for (int i = 0; i >= 0; i = work.pieces[i].next) put(&work, &work.pieces[i], output);
    }
    free(work.pieces);
    free(work.heap);
    return status;
}
