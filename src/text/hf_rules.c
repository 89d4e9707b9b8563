/* hf_rules - the normalizer and pre_tokenizer of a Hugging Face tokenizer.json, turned into patterns and flags.
 *
 * Where a file's patterns ask for no more than the views of pretokenize.c keep, they run over those, so that a folder and a GGUF
 * of the same model give the same ids; the rest run over the text itself. NFC is taken as read, as in GGUF files: text that
 * is not in that form is rare and reaches the model as it is.
 */
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

#define LOWER_BLOCK "\xE2\x96\x81"

typedef struct rules {
    const char *name;
    mka_vocab_extra *extra;
    char **texts;
    mka_error *error;
} rules;

static const char *type_of(const mka_json *value) {
    const char *type = mka_json_string(mka_json_get(value, "type"));
    return type ? type : "without a type";
}

static int is_true(const mka_json *object, const char *key) {
    int value = 0;
    return mka_json_bool(object, key, 0, &value, NULL) == MKA_OK && value;
}

static int is_text(const mka_json *value, const char *text) {
    const char *string = mka_json_string(value);
    return string && strcmp(string, text) == 0;
}

static mka_status unsupported(const rules *r, const char *what, const mka_json *value) {
    return mka_fail(r->error, MKA_UNSUPPORTED, "%s: %s '%.60s' in tokenizer.json is not supported", r->name, what,
                    type_of(value));
}

/* ---- normalizer ---- */

static mka_status read_normalizer(const rules *r, const mka_json *value, int depth) {
    const char *type = type_of(value);
    const mka_json *list = mka_json_get(value, "normalizers");
    if (mka_json_type(value) <= MKA_JSON_NULL || strcmp(type, "NFC") == 0) return MKA_OK;
    if (strcmp(type, "ByteLevel") == 0) {
        r->extra->byte_letters = 1;
        return MKA_OK;
    }
    if (strcmp(type, "Prepend") == 0 && is_text(mka_json_get(value, "prepend"), LOWER_BLOCK)) {
        r->extra->space_prefix = 1;
        return MKA_OK;
    }
    if (strcmp(type, "Replace") == 0 && is_text(mka_json_get(mka_json_get(value, "pattern"), "String"), " ") &&
        is_text(mka_json_get(value, "content"), LOWER_BLOCK)) {
        r->extra->escape_spaces = 1;
        return MKA_OK;
    }
    if (strcmp(type, "Sequence") != 0 || depth > 8) return unsupported(r, "normalizer", value);
    for (size_t i = 0; i < mka_json_length(list); i++) {
        mka_status status = read_normalizer(r, mka_json_at(list, i), depth + 1);
        if (status != MKA_OK) return status;
    }
    return MKA_OK;
}

/* ---- pre_tokenizer ---- */

/* Whether a pattern finds the same in a view as in the text: by the categories that it names and the characters it holds. */
static mka_view view_for(const char *pattern) {
    int categories = 0, beyond_ascii = 0;
    for (const char *at = pattern; *at; at++) {
        if ((unsigned char)*at >= 0x80) beyond_ascii = 1;
        if (*at != '\\') continue;
        at++;
        if (*at == 'p' && at[1] == '{' && strchr("LNPSM", at[2]) && at[3] == '}')
            categories = 1;
        else if (*at == '\0' || strchr("pPdDwWbBhHvVxXuUNGRK", *at))
            return MKA_VIEW_TEXT;
    }
    if (categories && beyond_ascii) return MKA_VIEW_TEXT;
    return beyond_ascii ? MKA_VIEW_SPACES : MKA_VIEW_CLASSES;
}

static mka_status add_pattern(const rules *r, mka_view view, mka_split split, int invert, const char *text) {
    int index = r->extra->pattern_count;
    if (index == MKA_MAX_PATTERNS) {
        return mka_fail(r->error, MKA_UNSUPPORTED, "%s: more than %d pre-tokenizers in sequence", r->name, MKA_MAX_PATTERNS);
    }
    r->texts[index] = strdup(text);
    if (!r->texts[index]) return mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for the pre-tokenizer", r->name);
    r->extra->patterns[index] = (mka_pattern){view, split, invert, r->texts[index]};
    r->extra->pattern_count++;
    return MKA_OK;
}

static mka_status read_behavior(const rules *r, const mka_json *value, mka_split *split) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *behavior = mka_json_string(mka_json_get(value, "behavior"));
    for (int i = 0; i < 5; i++) {
        *split = (mka_split)i;
        if (behavior && strcmp(behavior, names[i]) == 0) return MKA_OK;
    }
    return mka_fail(r->error, MKA_UNSUPPORTED, "%s: behavior '%.40s' of pre_tokenizer %.40s is not supported", r->name,
                    behavior ? behavior : "", type_of(value));
}

/* A literal text as a pattern. */
static mka_status quote(const rules *r, const char *text, mka_buffer *pattern) {
    int done = 1;
    for (; *text && done; text++) {
        if (strchr("\\^$.[]|()?*+{}-#&~", *text)) done = mka_buffer_add(pattern, "\\", 1);
        if (done) done = mka_buffer_add(pattern, text, 1);
    }
    if (done) done = mka_buffer_add(pattern, "", 1);
    return done ? MKA_OK : mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for the pre-tokenizer", r->name);
}

static mka_status read_split(const rules *r, const mka_json *value) {
    mka_split split = MKA_SPLIT_ISOLATED;
    const mka_json *pattern = mka_json_get(value, "pattern");
    const char *regex = mka_json_string(mka_json_get(pattern, "Regex"));
    const char *literal = mka_json_string(mka_json_get(pattern, "String"));
    mka_buffer quoted = {0};
    mka_status status = read_behavior(r, value, &split);
    if (status != MKA_OK) return status;
    if (!regex == !literal || !*(regex ? regex : literal)) {
        return mka_fail(r->error, MKA_BAD_FILE, "%s: pre_tokenizer Split has no pattern (Regex or String)", r->name);
    }
    if (literal && strcmp(literal, " ") == 0 && r->extra->escape_spaces) return MKA_OK; /* none are left to find */
    if (literal) status = quote(r, literal, &quoted);
    if (status == MKA_OK) {
        const char *text = regex ? regex : quoted.bytes;
        status = add_pattern(r, regex ? view_for(regex) : MKA_VIEW_TEXT, split, is_true(value, "invert"), text);
    }
    free(quoted.bytes);
    return status;
}

static mka_status read_byte_level(const rules *r, const mka_json *value) {
    int use_regex = 1;
    r->extra->byte_letters = 1;
    if (is_true(value, "add_prefix_space")) {
        return mka_fail(r->error, MKA_UNSUPPORTED, "%s: pre_tokenizer ByteLevel with add_prefix_space is not supported", r->name);
    }
    mka_status status = mka_json_bool(value, "use_regex", 1, &use_regex, r->error);
    if (status != MKA_OK || !use_regex) return status;
    return add_pattern(r, MKA_VIEW_CLASSES, MKA_SPLIT_ISOLATED, 0, mka_gpt2_pattern);
}

static mka_status read_metaspace(const rules *r, const mka_json *value) {
    int prefix = 1, split = 1;
    const char *scheme = mka_json_string(mka_json_get(value, "prepend_scheme"));
    if (!is_text(mka_json_get(value, "replacement"), LOWER_BLOCK)) return unsupported(r, "pre_tokenizer", value);
    mka_status status = mka_json_bool(value, "add_prefix_space", 1, &prefix, r->error);
    if (status == MKA_OK) status = mka_json_bool(value, "split", 1, &split, r->error);
    if (scheme) prefix = strcmp(scheme, "never") != 0; /* "first" and "always" are one in GGUF files */
    r->extra->escape_spaces = 1;
    r->extra->space_prefix = prefix;
    if (status != MKA_OK || !split) return status;
    return add_pattern(r, MKA_VIEW_TEXT, MKA_SPLIT_NEXT, 0, LOWER_BLOCK);
}

static mka_status read_pretokenizer(const rules *r, const mka_json *value, int depth) {
    const char *type = type_of(value);
    const mka_json *list = mka_json_get(value, "pretokenizers");
    mka_split split = MKA_SPLIT_ISOLATED;
    if (mka_json_type(value) <= MKA_JSON_NULL) return MKA_OK;
    if (strcmp(type, "Split") == 0) return read_split(r, value);
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(r, value);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(r, value);
    if (strcmp(type, "Digits") == 0) {
        const char *pattern = is_true(value, "individual_digits") ? "\\p{N}" : "\\p{N}+";
        return add_pattern(r, MKA_VIEW_CLASSES, split, 0, pattern);
    }
    if (strcmp(type, "Punctuation") == 0) {
        mka_status status = mka_json_get(value, "behavior") ? read_behavior(r, value, &split) : MKA_OK;
        return status == MKA_OK ? add_pattern(r, MKA_VIEW_CLASSES, split, 0, "[\\p{P}$+<=>^`|~]") : status;
    }
    if (strcmp(type, "Whitespace") == 0) return add_pattern(r, MKA_VIEW_TEXT, MKA_SPLIT_REMOVED, 1, "\\w+|[^\\w\\s]+");
    if (strcmp(type, "WhitespaceSplit") == 0) return add_pattern(r, MKA_VIEW_CLASSES, MKA_SPLIT_REMOVED, 0, "\\s");
    if (strcmp(type, "Sequence") != 0 || depth > 8) return unsupported(r, "pre_tokenizer", value);
    for (size_t i = 0; i < mka_json_length(list); i++) {
        mka_status status = read_pretokenizer(r, mka_json_at(list, i), depth + 1);
        if (status != MKA_OK) return status;
    }
    return MKA_OK;
}

mka_status mka_hf_rules(const mka_json *root, const char *name, mka_vocab_extra *extra, char **texts, mka_error *error) {
    const rules r = {name, extra, texts, error};
    mka_status status = read_normalizer(&r, mka_json_get(root, "normalizer"), 0);
    if (status == MKA_OK) status = read_pretokenizer(&r, mka_json_get(root, "pre_tokenizer"), 0);
    if (status == MKA_OK && extra->space_prefix && !extra->escape_spaces) {
        status = mka_fail(error, MKA_UNSUPPORTED, "%s: normalizer 'Prepend' without 'Replace' is not supported", name);
    }
    return status;
}
