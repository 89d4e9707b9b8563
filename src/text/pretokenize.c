/* pretokenize - cuts text into words with PCRE2, one pattern after the other over what the ones before left.
 *
 *   text   "na\u00efve \u2014 5"          what the tokenizer merges
 *   view   "na<letter>ve <punct> 5"    what a pattern of named categories sees
 *
 * A pattern reads a view of the text, never the text itself: so categories come from one fixed version of Unicode whatever
 * PCRE2 was built with, and every view is valid UTF-8. Views have the text's characters one for one; a cursor that walks both
 * turns a match's offsets back into the text's.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

typedef struct compiled {
    mka_pattern pattern; /* its text is not kept */
    pcre2_code *code;    /* NULL for MKA_VIEW_DIGITS */
} compiled;

struct mka_splitter {
    int count;
    compiled items[MKA_MAX_PATTERNS];
};

/* ---- compiling ---- */

static mka_status compile(compiled *item, const mka_pattern *pattern, const char *name, mka_error *error) {
    int code, jit = 0;
    PCRE2_SIZE offset;
    char reason[128];
    uint32_t options = PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK;
    if (pattern->view != MKA_VIEW_SPACES) options |= PCRE2_UCP;
    if (pattern->view == MKA_VIEW_TEXT) {
        options &= ~(uint32_t)PCRE2_NO_UTF_CHECK; /* the pattern is a file's */
        if (strstr(pattern->text, "&&")) {
            return mka_fail(error, MKA_UNSUPPORTED, "%s: pre-tokenizer pattern \"%.120s\" intersects classes (&&)", name,
                            pattern->text);
        }
        if (strstr(pattern->text, "\\u")) options |= PCRE2_ALT_BSUX;
    }
    item->pattern = *pattern;
    item->pattern.text = NULL;
    item->code = pcre2_compile((PCRE2_SPTR)pattern->text, PCRE2_ZERO_TERMINATED, options, &code, &offset, NULL);
    if (!item->code) {
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return mka_fail(error, MKA_BAD_FILE, "%s: pre-tokenizer pattern \"%.120s\": %s at byte %zu", name, pattern->text, reason,
                        (size_t)offset);
    }
    /* Without the compiler in PCRE2, or where it refuses the pattern, the same matches come from its interpreter. */
    if (pcre2_config(PCRE2_CONFIG_JIT, &jit) == 0 && jit) (void)pcre2_jit_compile(item->code, PCRE2_JIT_COMPLETE);
    return MKA_OK;
}

mka_status mka_splitter_create(const mka_pattern *patterns, int count, const char *name, mka_splitter **splitter,
                               mka_error *error) {
    *splitter = NULL;
    if (count > MKA_MAX_PATTERNS) return mka_fail(error, MKA_UNSUPPORTED, "%s: %d pre-tokenizers in sequence", name, count);
    mka_splitter *made = calloc(1, sizeof *made);
    if (!made) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for the pre-tokenizer", name);
    for (; made->count < count; made->count++) {
        const mka_pattern *pattern = &patterns[made->count];
        if (pattern->view == MKA_VIEW_DIGITS) {
            made->items[made->count].pattern = *pattern;
            continue;
        }
        mka_status status = compile(&made->items[made->count], pattern, name, error);
        if (status != MKA_OK) {
            mka_splitter_destroy(made);
            return status;
        }
    }
    *splitter = made;
    return mka_succeed(error);
}

void mka_splitter_destroy(mka_splitter *splitter) {
    if (!splitter) return;
    for (int i = 0; i < splitter->count; i++) pcre2_code_free(splitter->items[i].code);
    free(splitter);
}

/* ---- views ---- */

/* The character that stands for another in a view. The ones for categories have had them since they were encoded;
 * U+FDD0 and U+FDD1 are no characters and never will be. */
static uint32_t stand_in(mka_view view, uint32_t point) {
    static const uint16_t by_class[] = {0xFDD0, 0xAA, 0xB2, 0x300, 0xA1, 0xA2, 0x0B, 0xFDD0};
    mka_unicode_class class = MKA_UNICODE_OTHER;
    if (point < 0x80) return point;
    if (view != MKA_VIEW_TEXT) {
        class = mka_unicode_class_of(point);
        if (class == MKA_UNICODE_SPACE) return 0x0B;
    }
    if (view != MKA_VIEW_CLASSES) return point >= 0xD800 && point <= 0xDFFF ? 0xE000 : point; /* PCRE2 takes no surrogates */
    int han = (point >= 0x4E00 && point <= 0x9FFF) || (point >= 0x3400 && point <= 0x4DBF) ||
              (point >= 0x20000 && point <= 0x2A6DF) || (point >= 0x2A700 && point <= 0x2EBEF) ||
              (point >= 0xF900 && point <= 0xFAFF) || (point >= 0x2F800 && point <= 0x2FA1F);
    if (han) return class == MKA_UNICODE_LETTER ? 0x4E00 : 0xFDD1; /* one pre-tokeniser (kimi-k2) keeps these apart */
    return by_class[class];
}

/* No view but that of the text differs from it when it is ASCII. */
static int is_ascii(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] >= 0x80) return 0;
    return 1;
}

static int build_view(mka_buffer *buffer, mka_view view, const char *text, size_t length) {
    size_t used;
    buffer->length = 0;
    for (size_t i = 0; i < length; i += used) {
        if (!mka_grow(&buffer->bytes, &buffer->room, buffer->length + 4, 1)) return 0;
        uint32_t point = mka_utf8_decode(text + i, length - i, &used);
        buffer->length += mka_utf8_encode(stand_in(view, point), buffer->bytes + buffer->length);
    }
    return 1;
}

/* ---- one pattern over all words ---- */

typedef struct pass {
    const mka_splitter *splitter;
    const char *text, *view;
    size_t length;
    size_t at, view_at;       /* the cursor: the same character in both */
    const mka_pattern *rules; /* of the pattern that runs */
    size_t first;             /* index in words of the first piece of the word that is cut */
    int last_found;           /* the piece before was found */
    mka_words *words;         /* out */
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} pass;

static void walk(pass *run, size_t view_end) {
    if (run->view == run->text) {
        run->at = run->view_at = view_end;
        return;
    }
    while (run->view_at < view_end) {
        run->at += mka_utf8_announced(run->text[run->at]);
        run->view_at += mka_utf8_announced(run->view[run->view_at]);
    }
}

static int add_word(mka_words *words, size_t begin, size_t end) {
    if (begin == end) return 1;
    if (!mka_grow(&words->items, &words->room, words->count + 1, sizeof *words->items)) return 0;
    words->items[words->count++] = (mka_string){begin, end - begin};
    return 1;
}

/* The piece from the cursor to view_end, which the pattern found or left. 0 when memory is out. */
static int add_piece(pass *run, size_t view_end, int found) {
    size_t begin = run->at;
    walk(run, view_end);
    if (begin == run->at) return 1;
    found ^= run->rules->invert;
    int after_found = run->last_found, merge = 0;
    run->last_found = found;
    switch (run->rules->split) {
    case MKA_SPLIT_ISOLATED:
        break;
    case MKA_SPLIT_REMOVED:
        if (found) return 1;
        break;
    case MKA_SPLIT_PREVIOUS:
        merge = found && !after_found;
        break;
    case MKA_SPLIT_NEXT:
        merge = !found && after_found;
        break;
    case MKA_SPLIT_CONTIGUOUS:
        merge = found == after_found;
        break;
    }
    if (merge && run->words->count > run->first) {
        run->words->items[run->words->count - 1].length += run->at - begin;
        return 1;
    }
    return add_word(run->words, begin, run->at);
}

/* pcre2_match with more stack, then without compiled code, where the pattern needs it. */
static int find(pass *run, const pcre2_code *code, const char *subject, size_t length, size_t start, uint32_t options) {
    options |= PCRE2_NO_UTF_CHECK;
    int result = pcre2_match(code, (PCRE2_SPTR)subject, length, start, options, run->match, run->context);
    if (result != PCRE2_ERROR_JIT_STACKLIMIT) return result;
    if (!run->stack && (run->stack = pcre2_jit_stack_create(64 << 10, 32 << 20, NULL))) {
        pcre2_jit_stack_assign(run->context, NULL, run->stack);
        result = pcre2_match(code, (PCRE2_SPTR)subject, length, start, options, run->match, run->context);
        if (result != PCRE2_ERROR_JIT_STACKLIMIT) return result;
    }
    return pcre2_match(code, (PCRE2_SPTR)subject, length, start, options | PCRE2_NO_JIT, run->match, run->context);
}

static mka_status cut_failed(int result, mka_error *error) {
    char reason[128];
    if (result == PCRE2_ERROR_NOMEMORY) return mka_fail(error, MKA_NO_MEMORY, "no memory to cut the text into words");
    pcre2_get_error_message(result, (PCRE2_UCHAR *)reason, sizeof reason);
    return mka_fail(error, MKA_UNSUPPORTED, "the pre-tokenizer's pattern cannot be matched against this text: %s", reason);
}

/* Cuts the word that the cursor stands at and that ends at view_end. */
static mka_status cut_word(pass *run, const pcre2_code *code, size_t view_end, mka_error *error) {
    const char *subject = run->view + run->view_at;
    size_t base = run->view_at, length = view_end - base, start = 0;
    uint32_t options = 0;
    run->first = run->words->count;
    run->last_found = 0;
    while (start < length) {
        int result = find(run, code, subject, length, start, options);
        const PCRE2_SIZE *found = pcre2_get_ovector_pointer(run->match);
        if (result == PCRE2_ERROR_NOMATCH) {
            if (!options) break;
            options = 0; /* nothing but the empty match here: on to the next character */
            start += mka_utf8_announced(subject[start]);
            continue;
        }
        if (result < 0) return cut_failed(result, error);
        if (found[0] < start || found[1] < found[0]) return cut_failed(PCRE2_ERROR_INTERNAL, error);
        if (!add_piece(run, base + found[0], 0) || !add_piece(run, base + found[1], 1))
            return cut_failed(PCRE2_ERROR_NOMEMORY, error);
        start = found[1];
        options = found[0] == found[1] ? PCRE2_NOTEMPTY_ATSTART | PCRE2_ANCHORED : 0;
    }
    return add_piece(run, view_end, 0) ? MKA_OK : cut_failed(PCRE2_ERROR_NOMEMORY, error);
}

/* Cuts every run of numbers into threes from its end; the first, shorter group stays with the text before it. */
static int cut_digits(pass *run, size_t end) {
    size_t begin = run->at, used = 1;
    while (run->at < end) {
        size_t digits = 0, at = run->at;
        while (at < end && mka_unicode_class_of(mka_utf8_decode(run->text + at, end - at, &used)) == MKA_UNICODE_NUMBER) {
            at += used;
            digits++;
        }
        if (digits == 0) {
            run->at += used;
            continue;
        }
        for (size_t i = 0, group = digits % 3 ? digits % 3 : 3; i < digits; i += group, group = 3) {
            for (size_t j = 0; j < group; j++) run->at += mka_utf8_announced(run->text[run->at]);
            if (!add_word(run->words, begin, run->at)) return 0;
            begin = run->at;
        }
    }
    return add_word(run->words, begin, end);
}

/* Moves the cursor to a word (a pattern may have left out what lies before it); returns where it ends in the view. */
static size_t seek(pass *run, size_t begin, size_t end) {
    if (run->view == run->text) {
        run->at = run->view_at = begin;
        return end;
    }
    while (run->at < begin) walk(run, run->view_at + 1);
    size_t at = run->at, view_end = run->view_at;
    for (; at < end; at += mka_utf8_announced(run->text[at])) view_end += mka_utf8_announced(run->view[view_end]);
    return view_end;
}

static mka_status run_pattern(pass *run, const compiled *item, const mka_words *in, mka_error *error) {
    run->at = run->view_at = 0;
    run->rules = &item->pattern;
    run->words->count = 0;
    for (size_t i = 0; i < in->count; i++) {
        size_t begin = in->items[i].offset, end = begin + in->items[i].length, view_end;
        if (!item->code) {
            run->at = begin;
            if (!cut_digits(run, end)) return cut_failed(PCRE2_ERROR_NOMEMORY, error);
            continue;
        }
        view_end = seek(run, begin, end);
        mka_status status = cut_word(run, item->code, view_end, error);
        if (status != MKA_OK) return status;
    }
    return MKA_OK;
}

static mka_status run_all(pass *run, mka_words *words, mka_words *spare, mka_buffer *buffer, mka_error *error) {
    int ascii = is_ascii(run->text, run->length), built = -1;
    for (int i = 0; i < run->splitter->count; i++) {
        const compiled *item = &run->splitter->items[i];
        mka_words swap = *spare;
        *spare = *words;
        *words = swap;
        run->words = words;
        run->view = run->text;
        if (!ascii && item->code) {
            if (built != (int)item->pattern.view && !build_view(buffer, item->pattern.view, run->text, run->length)) {
                return cut_failed(PCRE2_ERROR_NOMEMORY, error);
            }
            built = (int)item->pattern.view;
            run->view = buffer->bytes;
        }
        mka_status status = run_pattern(run, item, spare, error);
        if (status != MKA_OK) return status;
    }
    return mka_succeed(error);
}

mka_status mka_splitter_run(const mka_splitter *splitter, const char *text, size_t length, mka_words *words, mka_error *error) {
    mka_words spare = {0};
    mka_buffer buffer = {0};
    pass run = {.splitter = splitter, .text = text, .length = length};
    mka_status status;
    words->count = 0;
    if (!add_word(words, 0, length)) return cut_failed(PCRE2_ERROR_NOMEMORY, error);
    run.match = pcre2_match_data_create(1, NULL);
    run.context = pcre2_match_context_create(NULL);
    if (!run.match || !run.context) {
        status = cut_failed(PCRE2_ERROR_NOMEMORY, error);
        goto done;
    }
    /* Enough for any single pass over the text; a pattern that tries more often than that would not come to an end. */
    pcre2_set_match_limit(run.context, length < 64u << 20 ? 2000000u + 32u * (uint32_t)length : UINT32_MAX);
    status = run_all(&run, words, &spare, &buffer, error);
done:
    pcre2_jit_stack_free(run.stack);
    pcre2_match_context_free(run.context);
    pcre2_match_data_free(run.match);
    free(spare.items);
    free(buffer.bytes);
    return status;
}
