/* tokenizer - builds a tokenizer from a vocabulary, and runs the steps from text to ids in their order.
 *
 * What differs between models is decided once, here, and kept as the flags of struct mka_tokenizer; the steps only read those.
 */
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

#define LOWER_BLOCK "\xE2\x96\x81" /* U+2581, a space in vocabularies of the SentencePiece kind */

/* ---- building ---- */

static unsigned char attribute_of(int kind) {
    switch (kind) {
    case MKA_TOKEN_NORMAL:
        return MKA_ATTR_NORMAL;
    case MKA_TOKEN_UNKNOWN:
        return MKA_ATTR_UNKNOWN;
    case MKA_TOKEN_CONTROL:
        return MKA_ATTR_CONTROL;
    case MKA_TOKEN_USER_DEFINED:
        return MKA_ATTR_USER;
    case MKA_TOKEN_UNUSED:
        return MKA_ATTR_UNUSED;
    case MKA_TOKEN_BYTE:
        return MKA_ATTR_BYTE;
    default:
        return 0;
    }
}

/* An empty text cannot be looked up: such a token gets a name of its own, as llama.cpp gives it. */
static int add_token(mka_strings *symbols, mka_bytes text, size_t id) {
    char name[32];
    if (text.length > 0) return mka_strings_add(symbols, text.bytes, text.length);
    return mka_strings_add(symbols, name, (size_t)snprintf(name, sizeof name, "[EMPTY_%zu]", id));
}

static mka_status add_tokens(mka_tokenizer *tokenizer, const mka_vocab_spec *spec, const unsigned char *strip, mka_error *error) {
    size_t count = spec->count;
    tokenizer->count = count;
    tokenizer->attr = malloc(count);
    tokenizer->end = calloc(count, 1);
    tokenizer->scores = calloc(count, sizeof *tokenizer->scores);
    int done = tokenizer->attr && tokenizer->end && tokenizer->scores;
    for (size_t i = 0; i < count && done; i++) {
        done = add_token(&tokenizer->symbols, spec->tokens[i], i);
        tokenizer->attr[i] = attribute_of(spec->kinds ? spec->kinds[i] : MKA_TOKEN_NORMAL);
        if (strip) tokenizer->attr[i] |= strip[i];
        if (spec->scores) tokenizer->scores[i] = spec->scores[i];
    }
    if (!done) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for a vocabulary of %zu tokens", spec->name, count);
    return MKA_OK;
}

/* The tokens that stand for single bytes: "<0x41>", or the byte itself where there is none. */
static void find_bytes(mka_tokenizer *tokenizer, int coded) {
    for (int byte = 0; byte < 256; byte++) {
        char text[8] = {(char)byte};
        tokenizer->byte[byte] = MKA_NO_STRING;
        if (coded) {
            char code[8];
            uint32_t token = mka_strings_find(&tokenizer->symbols, code, (size_t)snprintf(code, sizeof code, "<0x%02X>", byte));
            if (token < tokenizer->count) tokenizer->byte[byte] = token;
        }
        if (tokenizer->byte[byte] == MKA_NO_STRING && !tokenizer->raw && !tokenizer->use_unknown) {
            uint32_t token = mka_strings_find(&tokenizer->symbols, text, 1);
            if (token < tokenizer->count) tokenizer->byte[byte] = token;
        }
    }
}

/* SentencePiece-style: all that can be said is in the scores and the token kinds. */
static mka_status make_spm(mka_tokenizer *tokenizer, const mka_vocab_spec *spec, mka_error *error) {
    const mka_special defaults = {.bos = 1, .eos = 2, .eot = -1, .unknown = 0, .pad = -1, .add_bos = 1};
    tokenizer->spm = tokenizer->escape_spaces = 1;
    tokenizer->space_prefix = spec->add_space_prefix != 0;
    if (!spec->scores)
        return mka_fail(error, MKA_BAD_FILE, "%s: the tokenizer has no scores (tokenizer.ggml.scores)", spec->name);
    find_bytes(tokenizer, 1);
    mka_tokenizer_attributes(tokenizer, spec, &defaults);
    return MKA_OK;
}

static mka_status make_bpe(mka_tokenizer *tokenizer, const mka_vocab_spec *spec, const char *pre, mka_error *error) {
    const mka_pretokenizer *rules = mka_pretokenizer_find(pre);
    if (!rules)
        return mka_fail(error, MKA_UNSUPPORTED, "%s: unknown pre-tokenizer '%.80s' (tokenizer.ggml.pre)", spec->name, pre);
    if (!spec->merges && strcmp(rules->names, "kimi-k2") != 0) {
        return mka_fail(error, MKA_BAD_FILE, "%s: the tokenizer has no merges (tokenizer.ggml.merges)", spec->name);
    }
    mka_special defaults = {.bos = 11, .eos = 11, .eot = -1, .unknown = -1, .pad = -1, .add_bos = rules->add_bos};
    if (strcmp(spec->model, "gemma4") == 0) defaults.bos = defaults.eos = -1;
    if (rules->no_bos) defaults.bos = -1;
    tokenizer->raw = tokenizer->escape_spaces = rules->raw;
    tokenizer->ignore_merges = rules->ignore_merges;
    tokenizer->newline_words = rules->newline_words;
    int patterns = 0;
    while (patterns < 6 && (rules->patterns[patterns].text || rules->patterns[patterns].view == MKA_VIEW_DIGITS)) patterns++;
    mka_status status = mka_splitter_create(rules->patterns, patterns, spec->name, &tokenizer->splitter, error);
    if (status != MKA_OK) return status;
    find_bytes(tokenizer, tokenizer->raw);
    mka_tokenizer_attributes(tokenizer, spec, &defaults);
    if (rules->newline_words) tokenizer->special.add_bos = 1; /* Gemma 4's files say no and mean yes */
    return mka_bpe_build(tokenizer, spec->merges, spec->merge_count, spec->name, error);
}

/* BERT's: words of the longest tokens. BOS and separator stand around every text that asks for BOS. */
static mka_status make_wordpiece(mka_tokenizer *tokenizer, const mka_vocab_spec *spec) {
    const mka_special defaults = {.bos = 101, .eos = -1, .eot = -1, .unknown = 100, .pad = 0, .add_bos = 1};
    tokenizer->wordpiece = 1;
    tokenizer->lowercase = spec->lowercase != 0;
    tokenizer->strip_accents = spec->strip_accents < 0 ? tokenizer->lowercase : spec->strip_accents;
    int separator = spec->separator >= 0 ? spec->separator : 102;
    tokenizer->separator = (size_t)separator < tokenizer->count ? separator : -1;
    mka_tokenizer_attributes(tokenizer, spec, &defaults);
    return MKA_OK;
}

/* tokenizer.json says everything itself. */
static mka_status make_stated(mka_tokenizer *tokenizer, const mka_vocab_spec *spec, const mka_vocab_extra *extra,
                              mka_error *error) {
    const mka_special none = {-1, -1, -1, -1, -1, 0, 0};
    tokenizer->tokens_only = 1;
    tokenizer->spm = spec->scores != NULL;
    tokenizer->raw = !extra->byte_letters;
    tokenizer->escape_spaces = extra->escape_spaces;
    tokenizer->space_prefix = extra->space_prefix;
    tokenizer->ignore_merges = extra->ignore_merges;
    tokenizer->fuse_unknown = extra->fuse_unknown;
    mka_tokenizer_attributes(tokenizer, spec, &none);
    tokenizer->use_unknown = tokenizer->special.unknown >= 0;
    find_bytes(tokenizer, extra->byte_fallback);
    if (tokenizer->spm) return MKA_OK;
    mka_status status = mka_splitter_create(extra->patterns, extra->pattern_count, spec->name, &tokenizer->splitter, error);
    return status == MKA_OK ? mka_bpe_build(tokenizer, spec->merges, spec->merge_count, spec->name, error) : status;
}

static mka_status make_kind(mka_tokenizer *tokenizer, const mka_vocab_spec *spec, const mka_vocab_extra *extra,
                            mka_error *error) {
    if (extra) return make_stated(tokenizer, spec, extra, error);
    if (strcmp(spec->model, "llama") == 0) return make_spm(tokenizer, spec, error);
    if (strcmp(spec->model, "gpt2") == 0) return make_bpe(tokenizer, spec, spec->pre, error);
    if (strcmp(spec->model, "gemma4") == 0) return make_bpe(tokenizer, spec, "gemma4", error);
    if (strcmp(spec->model, "bert") == 0) return make_wordpiece(tokenizer, spec);
    return mka_fail(error, MKA_UNSUPPORTED, "%s: tokenizer model '%.80s' is not supported (gpt2, llama, gemma4 and bert are)",
                    spec->name, spec->model);
}

mka_status mka_tokenizer_make(const mka_vocab_spec *spec, const mka_vocab_extra *extra, mka_tokenizer **tokenizer,
                              mka_error *error) {
    *tokenizer = NULL;
    if (!spec->model) return mka_fail(error, MKA_BAD_FILE, "%s: names no tokenizer (tokenizer.ggml.model)", spec->name);
    if (spec->count == 0 || !spec->tokens) {
        return mka_fail(error, MKA_BAD_FILE, "%s: the vocabulary is empty (tokenizer.ggml.tokens)", spec->name);
    }
    if (spec->count > INT32_MAX / 4 || spec->merge_count > INT32_MAX / 4) {
        return mka_fail(error, MKA_BAD_FILE, "%s: a vocabulary of %zu tokens and %zu merges", spec->name, spec->count,
                        spec->merge_count);
    }
    mka_tokenizer *made = calloc(1, sizeof *made);
    if (!made) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for the tokenizer", spec->name);
    mka_status status = add_tokens(made, spec, extra ? extra->strip : NULL, error);
    if (status == MKA_OK) status = make_kind(made, spec, extra, error);
    if (status == MKA_OK) status = mka_specials_build(made, error);
    if (status != MKA_OK) {
        mka_tokenizer_destroy(made);
        return status;
    }
    *tokenizer = made;
    return mka_succeed(error);
}

mka_status mka_tokenizer_create(const mka_vocab_spec *spec, mka_tokenizer **tokenizer, mka_error *error) {
    return mka_tokenizer_make(spec, NULL, tokenizer, error);
}

void mka_tokenizer_destroy(mka_tokenizer *tokenizer) {
    if (!tokenizer) return;
    mka_splitter_destroy(tokenizer->splitter);
    mka_specials_free(&tokenizer->specials);
    mka_strings_free(&tokenizer->symbols);
    free(tokenizer->merges.slots);
    free(tokenizer->scores);
    free(tokenizer->attr);
    free(tokenizer->end);
    free(tokenizer);
}

int mka_tokenizer_count(const mka_tokenizer *tokenizer) {
    return (int)tokenizer->count;
}

void mka_tokenizer_special(const mka_tokenizer *tokenizer, mka_special *special) {
    *special = tokenizer->special;
}

int mka_tokenizer_is_end(const mka_tokenizer *tokenizer, int token) {
    return token >= 0 && (size_t)token < tokenizer->count && tokenizer->end[token];
}

/* ---- text to ids ---- */

void mka_output_add(mka_output *output, int id) {
    if (output->count < output->room) output->ids[output->count] = id;
    output->count++;
}

/* Puts text into buffer as the vocabulary writes it: spaces as U+2581 where it has them so, one in front where it wants one. */
static int write_spaces(const mka_tokenizer *tokenizer, mka_buffer *buffer, const char *text, size_t length, int prefix) {
    const char *space = tokenizer->escape_spaces ? LOWER_BLOCK : " ";
    buffer->length = 0;
    if (prefix && !mka_buffer_add(buffer, space, strlen(space))) return 0;
    while (length > 0) {
        const char *found = memchr(text, ' ', length);
        size_t run = found ? (size_t)(found - text) : length;
        if (!mka_buffer_add(buffer, text, run)) return 0;
        if (found && !mka_buffer_add(buffer, space, strlen(space))) return 0;
        run += found != NULL;
        text += run;
        length -= run;
    }
    return 1;
}

static mka_status encode_text(const mka_tokenizer *tokenizer, const char *text, size_t length, int prefix, mka_buffer *buffer,
                              mka_output *output, mka_error *error) {
    if (tokenizer->escape_spaces || prefix) {
        if (!write_spaces(tokenizer, buffer, text, length, prefix)) {
            return mka_fail(error, MKA_NO_MEMORY, "no memory to tokenize %zu bytes of text", length);
        }
        text = buffer->bytes;
        length = buffer->length;
    }
    if (tokenizer->wordpiece) return mka_wordpiece_encode(tokenizer, text, length, output, error);
    return tokenizer->spm ? mka_spm_encode(tokenizer, text, length, output, error)
                          : mka_bpe_encode(tokenizer, text, length, output, error);
}

static mka_status encode_fragments(const mka_tokenizer *tokenizer, const char *text, const mka_fragment *fragments,
                                   mka_output *output, mka_error *error) {
    mka_buffer buffer = {0};
    mka_status status = MKA_OK;
    int after_special = 1; /* the beginning counts as one */
    for (const mka_fragment *at = fragments; status == MKA_OK; at = &fragments[at->next]) {
        if (at->token != MKA_NO_STRING) {
            mka_output_add(output, (int)at->token);
            after_special = 1;
        } else if (at->length > 0) {
            int prefix = tokenizer->space_prefix && after_special;
            status = encode_text(tokenizer, text + at->offset, at->length, prefix, &buffer, output, error);
            after_special = 0;
        }
        if (at->next == MKA_NO_STRING) break;
    }
    free(buffer.bytes);
    return status;
}

mka_status mka_tokenizer_encode(const mka_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int *ids,
                                size_t room, size_t *count, mka_error *error) {
    mka_output output = {.ids = ids, .room = ids ? room : 0};
    mka_fragment *fragments = NULL;
    const mka_special *special = &tokenizer->special;
    int parse_special = (flags & MKA_TOKENIZE_SPECIAL) != 0, add = (flags & MKA_TOKENIZE_BOS) != 0;
    *count = 0;
    if (length > INT32_MAX) return mka_fail(error, MKA_BAD_ARGUMENT, "%zu bytes of text; at most 2 GiB at once", length);
    mka_status status = mka_partition(tokenizer, text, length, parse_special, &fragments, error);
    if (status == MKA_OK) {
        if (add && (special->add_bos || tokenizer->wordpiece) && special->bos >= 0) mka_output_add(&output, special->bos);
        status = encode_fragments(tokenizer, text, fragments, &output, error);
        if (add && tokenizer->wordpiece && tokenizer->separator >= 0)
            mka_output_add(&output, tokenizer->separator);
        else if (add && special->add_eos && special->eos >= 0)
            mka_output_add(&output, special->eos);
    }
    free(fragments);
    if (status == MKA_OK) *count = output.count;
    return status;
}

/* ---- ids to text ---- */

int mka_byte_token(const char *bytes, size_t length) {
    unsigned value;
    char digits[3] = {0};
    if (length != 6 || memcmp(bytes, "<0x", 3) != 0 || bytes[5] != '>') return -1;
    memcpy(digits, bytes + 3, 2);
    if (strspn(digits, "0123456789abcdefABCDEF") != 2 || sscanf(digits, "%x", &value) != 1) return -1;
    return (int)value;
}

typedef struct sink {
    char *bytes;
    size_t room, length;
} sink;

static void put(sink *out, const char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++, out->length++)
        if (out->length < out->room) out->bytes[out->length] = bytes[i];
}

/* Byte letters back to bytes; a character that is no byte letter stays as it is. */
static void put_letters(sink *out, mka_bytes text) {
    size_t used;
    for (size_t i = 0; i < text.length; i += used) {
        int byte = mka_byte_from_point(mka_utf8_decode(text.bytes + i, text.length - i, &used));
        char one = (char)byte;
        if (byte < 0)
            put(out, text.bytes + i, used);
        else
            put(out, &one, 1);
    }
}

static void put_spaces(sink *out, mka_bytes text) {
    for (size_t i = 0; i < text.length;) {
        int block = text.length - i >= 3 && memcmp(text.bytes + i, LOWER_BLOCK, 3) == 0;
        put(out, block ? " " : text.bytes + i, 1);
        i += block ? 3 : 1;
    }
}

size_t mka_tokenizer_piece(const mka_tokenizer *tokenizer, int token, int special, char *bytes, size_t room) {
    sink out = {bytes, bytes ? room : 0, 0};
    if (token < 0 || (size_t)token >= tokenizer->count) return 0;
    mka_bytes text = mka_strings_at(&tokenizer->symbols, (uint32_t)token);
    unsigned char attr = tokenizer->attr[token];
    int byte = mka_byte_token(text.bytes, text.length);
    char one = (char)byte;
    if (attr & (MKA_ATTR_UNKNOWN | MKA_ATTR_CONTROL)) {
        if (special) put(&out, text.bytes, text.length);
    } else if (attr & MKA_ATTR_USER) {
        put(&out, text.bytes, text.length);
    } else if (attr & MKA_ATTR_NORMAL) {
        if (tokenizer->escape_spaces || tokenizer->wordpiece)
            put_spaces(&out, text);
        else
            put_letters(&out, text);
    } else if (attr & MKA_ATTR_BYTE && byte >= 0) {
        put(&out, &one, 1);
    }
    return out.length;
}
