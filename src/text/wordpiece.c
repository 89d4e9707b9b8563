/* wordpiece - BERT's way: the text without case and accents, cut at white space and punctuation, each word spelled by the
 * longest tokens from its left; a word that cannot be spelled to its end is the unknown token.
 *
 * GGUF files write the beginning of a word as U+2581 and leave BERT's "##" away.
 */
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

#define LOWER_BLOCK "\xE2\x96\x81"

/* The ideographs that are words of their own; the gap before U+2B920 is BERT's. */
static int is_ideograph(uint32_t point) {
    return (point >= 0x4E00 && point <= 0x9FFF) || (point >= 0x3400 && point <= 0x4DBF) ||
           (point >= 0x20000 && point <= 0x2A6DF) || (point >= 0x2A700 && point <= 0x2B81F) ||
           (point >= 0x2B920 && point <= 0x2CEAF) || (point >= 0xF900 && point <= 0xFAFF) ||
           (point >= 0x2F800 && point <= 0x2FA1F);
}

static void spell(const mka_tokenizer *tokenizer, const mka_buffer *word, mka_output *output) {
    size_t before = output->count, longest = tokenizer->symbols.longest;
    for (size_t at = 0, end; at < word->length; at = end) {
        uint32_t token = MKA_NO_STRING;
        end = word->length - at < longest ? word->length : at + longest;
        for (; end > at; end--) {
            token = mka_strings_find(&tokenizer->symbols, word->bytes + at, end - at);
            if (token != MKA_NO_STRING) break;
        }
        if (token == MKA_NO_STRING) {
            output->count = before; /* ids that were written beyond it do not count */
            break;
        }
        mka_output_add(output, (int)token);
    }
    if (output->count == before && tokenizer->special.unknown >= 0) mka_output_add(output, tokenizer->special.unknown);
}

/* Ends the word that is being collected, if there is one. The buffer always begins with U+2581. */
static void finish(const mka_tokenizer *tokenizer, mka_buffer *word, mka_output *output) {
    if (word->length > strlen(LOWER_BLOCK)) spell(tokenizer, word, output);
    word->length = strlen(LOWER_BLOCK);
}

/* Takes one character; 0 when memory is out. */
static int take(const mka_tokenizer *tokenizer, uint32_t point, mka_buffer *word, mka_output *output) {
    char bytes[4];
    if (tokenizer->strip_accents) point = mka_unicode_base(point);
    mka_unicode_class class = mka_unicode_class_of(point);
    if (class == MKA_UNICODE_SPACE) {
        finish(tokenizer, word, output);
        return 1;
    }
    if (point == 0xFFFD || class == MKA_UNICODE_CONTROL) return 1;
    if (tokenizer->strip_accents && class == MKA_UNICODE_MARK) return 1;
    int alone = class == MKA_UNICODE_PUNCTUATION || (class == MKA_UNICODE_SYMBOL && point < 0x7F) || is_ideograph(point);
    if (alone) finish(tokenizer, word, output);
    if (!mka_buffer_add(word, bytes, mka_utf8_encode(tokenizer->lowercase ? mka_unicode_lower(point) : point, bytes))) return 0;
    if (alone) finish(tokenizer, word, output);
    return 1;
}

mka_status mka_wordpiece_encode(const mka_tokenizer *tokenizer, const char *text, size_t length, mka_output *output,
                                mka_error *error) {
    mka_buffer word = {0};
    int done = mka_buffer_add(&word, LOWER_BLOCK, strlen(LOWER_BLOCK));
    for (size_t i = 0, used = 1; i < length && done; i += used)
        done = take(tokenizer, mka_utf8_decode(text + i, length - i, &used), &word, output);
    if (done) finish(tokenizer, &word, output);
    free(word.bytes);
    return done ? MKA_OK : mka_fail(error, MKA_NO_MEMORY, "no memory to tokenize %zu bytes of text", length);
}
