/* test_tokenizer - ids, pieces and errors on vocabularies made here, and llama.cpp's ids on the stock models where they are.
 *
 * Expected ids and words are llama.cpp's. The real files come from MKA_MODELS (default ~/.cache/mka/models) and the cases from
 * the folder that meson names; what is absent is skipped and said so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mka/model.h>

#include "text/internal.h"

enum { MAX_TOKENS = 400, MAX_IDS = 4096 };

/* ---- vocabularies ---- */

typedef struct vocabulary {
    mka_bytes tokens[MAX_TOKENS], merges[64];
    float scores[MAX_TOKENS];
    int kinds[MAX_TOKENS];
    char letters[256][4];
    mka_vocab_spec spec;
} vocabulary;

static int add_kind(vocabulary *v, const char *text, int kind, float score) {
    size_t i = v->spec.count++;
    assert_in_range(i, 0, MAX_TOKENS - 1);
    v->tokens[i] = (mka_bytes){text, strlen(text)};
    v->kinds[i] = kind;
    v->scores[i] = score;
    return (int)i;
}

static int add(vocabulary *v, const char *text) {
    return add_kind(v, text, MKA_TOKEN_NORMAL, 0);
}

static void merge(vocabulary *v, const char *text) {
    v->merges[v->spec.merge_count++] = (mka_bytes){text, strlen(text)};
}

static void begin(vocabulary *v, const char *model, const char *pre) {
    memset(v, 0, sizeof *v);
    v->spec = (mka_vocab_spec){.name = "test", .model = model, .pre = pre, .tokens = v->tokens, .kinds = v->kinds};
    v->spec.scores = v->scores;
    v->spec.merges = v->merges;
    v->spec.special = (mka_special){-1, -1, -1, -1, -1, -1, -1};
    v->spec.add_space_prefix = v->spec.remove_extra_whitespace = -1;
}

/* Byte letters as tokens 0..255: the id of a byte is the byte. */
static void begin_bpe(vocabulary *v, const char *pre) {
    begin(v, "gpt2", pre);
    for (int byte = 0; byte < 256; byte++) {
        size_t length = mka_utf8_encode(mka_byte_to_point((unsigned char)byte), v->letters[byte]);
        v->tokens[v->spec.count] = (mka_bytes){v->letters[byte], length};
        v->kinds[v->spec.count++] = MKA_TOKEN_NORMAL;
    }
}

/* <unk> <s> </s>, then byte tokens 3..258 and the given texts, each with a lower score than the one before. */
static void begin_spm(vocabulary *v, const char *const *texts) {
    static char names[256][8];
    begin(v, "llama", NULL);
    add_kind(v, "<unk>", MKA_TOKEN_UNKNOWN, 0);
    add_kind(v, "<s>", MKA_TOKEN_CONTROL, 0);
    add_kind(v, "</s>", MKA_TOKEN_CONTROL, 0);
    for (int byte = 0; byte < 256; byte++) {
        snprintf(names[byte], sizeof names[byte], "<0x%02X>", byte);
        add_kind(v, names[byte], MKA_TOKEN_BYTE, 0);
    }
    for (int i = 0; texts[i]; i++) add_kind(v, texts[i], MKA_TOKEN_NORMAL, (float)-i);
}

static mka_tokenizer *make(const vocabulary *v) {
    mka_tokenizer *tokenizer;
    mka_error error;
    mka_status status = mka_tokenizer_create(&v->spec, &tokenizer, &error);
    if (status != MKA_OK) print_error("%s\n", error.message);
    assert_int_equal(status, MKA_OK);
    return tokenizer;
}

static void assert_ids(const mka_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, const int *ids,
                       size_t count) {
    int got[MAX_IDS];
    size_t found, measured;
    mka_error error;
    assert_int_equal(mka_tokenizer_encode(tokenizer, text, length, flags, NULL, 0, &measured, &error), MKA_OK);
    assert_int_equal(mka_tokenizer_encode(tokenizer, text, length, flags, got, MAX_IDS, &found, &error), MKA_OK);
    assert_int_equal(found, measured);
    for (size_t i = 0; i < found && i < count; i++)
        if (got[i] != ids[i]) print_error("\"%s\": id %zu is %d, not %d\n", text, i, got[i], ids[i]);
    assert_int_equal(found, count);
    assert_memory_equal(got, ids, count * sizeof *ids);
}

#define IDS(tokenizer, text, flags, ...)                                                                                         \
    do {                                                                                                                         \
        const int wanted[] = {__VA_ARGS__};                                                                                      \
        assert_ids(tokenizer, text, sizeof text - 1, flags, wanted, sizeof wanted / sizeof *wanted);                             \
    } while (0)

static void assert_refused(const vocabulary *v, mka_status status, const char *part) {
    mka_tokenizer *tokenizer;
    mka_error error;
    assert_int_equal(mka_tokenizer_create(&v->spec, &tokenizer, &error), status);
    assert_null(tokenizer);
    if (!strstr(error.message, part)) print_error("\"%s\" does not say \"%s\"\n", error.message, part);
    assert_non_null(strstr(error.message, part));
}

/* ---- byte-level BPE ---- */

static void merges_by_rank_leftmost_first(void **state) {
    (void)state;
    vocabulary v;
    begin_bpe(&v, "gpt-2");
    int bc = add(&v, "bc"), ab = add(&v, "ab"), abc = add(&v, "abc"), aa = add(&v, "aa"),
        space_a = add(&v, "\xC4\xA0"
                          "a");
    merge(&v, "b c");
    merge(&v, "a b");
    merge(&v, "ab c");
    merge(&v, "a a");
    merge(&v, "\xC4\xA0 a");
    mka_tokenizer *t = make(&v);
    IDS(t, "abc", 0, 'a', bc); /* the earlier merge wins, though "abc" is a token */
    IDS(t, "ab", 0, ab);
    IDS(t, "aaa", 0, aa, 'a');
    IDS(t, "a a", 0, 'a', space_a);
    IDS(t, "a\0b", 0, 'a', 0, 'b');
    assert_ids(t, "", 0, MKA_TOKENIZE_SPECIAL | MKA_TOKENIZE_BOS, NULL, 0);
    assert_true(abc > 0);
    mka_tokenizer_destroy(t);
}

static void takes_whole_words_where_the_model_does(void **state) {
    (void)state;
    vocabulary v;
    begin_bpe(&v, "llama-bpe");
    int whole = add(&v, "hello"), bos = add_kind(&v, "<|begin_of_text|>", MKA_TOKEN_CONTROL, 0);
    merge(&v, "h e"); /* names a text that is no token: it falls apart into bytes again */
    v.spec.special.bos = bos;
    mka_tokenizer *t = make(&v);
    IDS(t, "hello", 0, whole);
    IDS(t, "hello", MKA_TOKENIZE_BOS, bos, whole); /* this pre-tokeniser's models want BOS unless they say otherwise */
    IDS(t, "he", 0, 'h', 'e');
    mka_tokenizer_destroy(t);
    v.spec.special.add_bos = 0;
    t = make(&v);
    IDS(t, "hello", MKA_TOKENIZE_BOS, whole);
    mka_tokenizer_destroy(t);
    v.spec.pre = "gpt-2";
    v.spec.special.add_bos = -1;
    t = make(&v);
    IDS(t, "hello", MKA_TOKENIZE_BOS, 'h', 'e', 'l', 'l', 'o');
    mka_tokenizer_destroy(t);
}

static void invalid_bytes_become_replacement_characters(void **state) {
    (void)state;
    vocabulary v;
    begin_bpe(&v, "qwen2");
    mka_tokenizer *t = make(&v);
    IDS(t,
        "a\xFF"
        "b",
        0, 'a', 0xEF, 0xBF, 0xBD, 'b');
    IDS(t, "\xE4\xBD", 0, 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD);
    IDS(t, "\xED\xA0\x80", 0, 0xED, 0xA0, 0x80); /* a surrogate passes */
    IDS(t, "\xC0\x80", 0, 0);                    /* an over-long form becomes what it stands for */
    mka_tokenizer_destroy(t);
}

static void special_tokens_come_out_first_and_longest_first(void **state) {
    (void)state;
    vocabulary v;
    begin_bpe(&v, "gpt-2");
    int user = add_kind(&v, "ab", MKA_TOKEN_USER_DEFINED, 0), longer = add_kind(&v, "bcd", MKA_TOKEN_USER_DEFINED, 0);
    int control = add_kind(&v, "<x>", MKA_TOKEN_CONTROL, 0), eos = add_kind(&v, "</s>", MKA_TOKEN_NORMAL, 0);
    v.spec.special.eos = eos;
    v.spec.special.add_eos = 1;
    mka_tokenizer *t = make(&v);
    IDS(t, "abcd", 0, 'a', longer); /* the longer one, though the shorter begins earlier */
    IDS(t, "abab", 0, user, user);
    IDS(t, "<x>", 0, '<', 'x', '>');
    IDS(t, "a<x>ab", MKA_TOKENIZE_SPECIAL, 'a', control, user);
    IDS(t, "a</s>", 0, 'a', '<', '/', 's', '>'); /* ends of text are control tokens whatever the file says */
    IDS(t, "a</s>", MKA_TOKENIZE_SPECIAL | MKA_TOKENIZE_BOS, 'a', eos, eos);
    assert_true(mka_tokenizer_is_end(t, eos));
    assert_false(mka_tokenizer_is_end(t, control));
    assert_false(mka_tokenizer_is_end(t, -1));
    assert_false(mka_tokenizer_is_end(t, 1 << 20));
    mka_tokenizer_destroy(t);
}

static void ends_are_known_by_their_text(void **state) {
    (void)state;
    static const char *const ends[] = {"<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|endoftext|>",
                                       "<EOT>",      "[EOS]",      "<|fim_pad|>"};
    vocabulary v;
    mka_special special;
    begin_bpe(&v, "gpt-2");
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) add(&v, ends[i]);
    int end = add(&v, "<|end|>");
    mka_tokenizer *t = make(&v);
    for (int id = 256; id < 256 + 7; id++) assert_true(mka_tokenizer_is_end(t, id));
    assert_true(mka_tokenizer_is_end(t, end));
    mka_tokenizer_special(t, &special);
    assert_int_equal(special.eot, 256);
    assert_int_equal(special.bos, 11); /* the default of this kind of vocabulary */
    mka_tokenizer_destroy(t);
    add(&v, "<|return|>");
    add(&v, "<|call|>");
    t = make(&v); /* with these beside it, <|end|> only ends a message */
    assert_false(mka_tokenizer_is_end(t, end));
    mka_tokenizer_destroy(t);
}

/* ---- words ---- */

static void cuts_words_as_each_name_asks(void **state) {
    (void)state;
    static const char text[] = "I'LL we've  12345 na\u00EFve\u3000\u4F60\u597D!! \n\n \tx\r\n  ";
    static const char *const cases[][2] = {
        {"gpt-2", "I|'|LL| we|'ve| | 12345| na\u00EFve|\u3000|\u4F60\u597D|!!| \n\n |\t|x|\r\n  "},
        {"llama-bpe", "I|'LL| we|'ve| | |123|45| na\u00EFve|\u3000\u4F60\u597D|!!| \n\n| |\tx|\r\n|  "},
        {"qwen2", "I|'LL| we|'ve| | |1|2|3|4|5| na\u00EFve|\u3000\u4F60\u597D|!!| \n\n| |\tx|\r\n|  "},
        {"smollm", "I|'|LL| we|'ve|  |1|2|3|4|5| na\u00EFve|\u3000|\u4F60\u597D|!!| \n\n |\t|x|\r\n  "},
        {"deepseek-llm", "I|'|LL| we|'|ve|  |12345| na|\u00EF|ve|\u3000|\u4F60\u597D|!!| |\n|\n| |\tx|\r|\n|  "},
        {"deepseek-coder", "I|'|LL| we|'|ve|  |1|2|3|4|5| na\u00EFve|\u3000|\u4F60\u597D|!!| |\n|\n| |\tx|\r|\n|  "},
        {"falcon", "I|'|LL| we|'|ve| | |123|45| na\u00EFve|\u3000|\u4F60\u597D|!!| \n\n |\t|x|\r\n  "},
        {"default", "I|'|LL| we|'|ve| | |123|45| na\u00EFve|\u3000|\u4F60\u597D|!!| \n\n |\t|x|\r\n  "},
        {"deepseek-v3", "I|'LL| we|'ve|  |123|45| na\u00EFve|\u3000|\u4F60\u597D|!!| \n\n| |\tx|\r\n|  "},
        {"tekken", "I|'LL| we|'ve| | |1|2|3|4|5| na\u00EFve|\u3000\u4F60\u597D|!!| \n\n| |\tx|\r\n|  "},
        {"afmoe", "I|'LL| we|'ve| | |12|345| na\u00EFve|\u3000|\u4F60\u597D|!!| \n\n| |\tx|\r\n|  "},
        {"bloom", "I'LL| we've| | 12345| na\u00EFve|\u3000|\u4F60\u597D|!! \n\n \t|x|\r\n  "},
        {"gemma4", "I'LL we've  12345 na\u00EFve\u3000\u4F60\u597D!! |\n\n| \tx\r|\n|  "},
        {"kimi-k2", "I'LL| we've| | |123|45| na\u00EFve|\u3000|\u4F60\u597D|!!| \n\n| |\tx|\r\n|  "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const mka_pretokenizer *rules = mka_pretokenizer_find(cases[i][0]);
        mka_splitter *splitter;
        mka_words words = {0};
        mka_error error;
        char joined[512];
        size_t length = 0;
        int patterns = 0;
        assert_non_null(rules);
        while (patterns < 6 && (rules->patterns[patterns].text || rules->patterns[patterns].view == MKA_VIEW_DIGITS)) patterns++;
        assert_int_equal(mka_splitter_create(rules->patterns, patterns, "test", &splitter, &error), MKA_OK);
        assert_int_equal(mka_splitter_run(splitter, text, sizeof text - 1, &words, &error), MKA_OK);
        for (size_t w = 0; w < words.count; w++) {
            if (w) joined[length++] = '|';
            memcpy(joined + length, text + words.items[w].offset, words.items[w].length);
            length += words.items[w].length;
        }
        joined[length] = '\0';
        if (strcmp(joined, cases[i][1]) != 0) print_error("%s\n", cases[i][0]);
        assert_string_equal(joined, cases[i][1]);
        free(words.items);
        mka_splitter_destroy(splitter);
    }
    assert_null(mka_pretokenizer_find("gpt"));
    assert_null(mka_pretokenizer_find("gpt-2 phi-2"));
    assert_ptr_equal(mka_pretokenizer_find(NULL), mka_pretokenizer_find("default"));
}

/* ---- SentencePiece ---- */

static void joins_by_score_and_falls_back_to_bytes(void **state) {
    (void)state;
    static const char *const texts[] = {"\u2581", "a", "b", "c", "bc", "ab", "\u2581a", "\u2581\u2581", NULL};
    enum { SPACE = 259, A, B, C, BC, AB, SPACE_A, TWO };
    vocabulary v;
    begin_spm(&v, texts);
    mka_tokenizer *t = make(&v);
    IDS(t, "abc", MKA_TOKENIZE_BOS, 1, SPACE_A, BC); /* a space in front, and "bc" before "ab" */
    IDS(t, "a", 0, SPACE_A);
    IDS(t, "aa", 0, SPACE_A, A);
    IDS(t, " a", 0, SPACE, SPACE_A);                             /* "_a" has the higher score than "__" */
    IDS(t, "a<s>b", MKA_TOKENIZE_SPECIAL, SPACE_A, 1, SPACE, B); /* and a space again after a special token */
    IDS(t, "\u00E9", 0, SPACE, 3 + 0xC3, 3 + 0xA9);
    IDS(t, "\xE4\xBD", 0, SPACE, 3 + 0xE4, 3 + 0xBD); /* bytes as they are: nothing is replaced here */
    assert_ids(t, "", 0, MKA_TOKENIZE_BOS, (const int[]){1}, 1);
    mka_tokenizer_destroy(t);
    v.spec.add_space_prefix = 0;
    t = make(&v);
    IDS(t, "ab", 0, AB);
    mka_tokenizer_destroy(t);
    v.spec.scores = NULL;
    assert_refused(&v, MKA_BAD_FILE, "scores");
}

static void phi3_drops_space_after_its_special_tokens(void **state) {
    (void)state;
    static const char *const texts[] = {"\u2581", "a", NULL};
    vocabulary v;
    begin_spm(&v, texts);
    int end = add_kind(&v, "<|end|>", MKA_TOKEN_CONTROL, 0);
    v.spec.add_space_prefix = 0;
    mka_tokenizer *t = make(&v);
    IDS(t, "<|end|> \na", MKA_TOKENIZE_SPECIAL, end, 259, 3 + '\n', 260);
    mka_tokenizer_destroy(t);
    v.spec.title = "Phi-3 Mini 4k";
    t = make(&v);
    IDS(t, "<|end|> \na<s> a", MKA_TOKENIZE_SPECIAL, end, 260, 1, 259, 260);
    mka_tokenizer_destroy(t);
}

/* ---- WordPiece ---- */

static void spells_words_by_their_longest_beginnings(void **state) {
    (void)state;
    vocabulary v;
    begin(&v, "bert", NULL);
    v.spec.lowercase = v.spec.strip_accents = v.spec.separator = -1;
    int unknown = add_kind(&v, "[UNK]", MKA_TOKEN_UNKNOWN, 0), cls = add_kind(&v, "[CLS]", MKA_TOKEN_CONTROL, 0);
    int separator = add_kind(&v, "[SEP]", MKA_TOKEN_CONTROL, 0), he = add(&v, "\u2581he"), hel = add(&v, "\u2581hel");
    int lo = add(&v, "lo"), comma = add(&v, "\u2581,"), cafe = add(&v, "\u2581cafe"), you = add(&v, "\u2581\u4F60");
    int accented = add(&v, "\u2581caf\u00E9");
    v.spec.special.bos = cls;
    v.spec.special.unknown = unknown;
    v.spec.separator = separator;
    mka_tokenizer *t = make(&v);
    IDS(t, "HELLO, hel\t Caf\u00E9", MKA_TOKENIZE_BOS, cls, hel, lo, comma, hel, cafe, separator);
    IDS(t, "helo he\u4F60\u4F60", 0, unknown, he, you, you); /* "o" is no token */
    IDS(t, "hel\x01lo x", 0, hel, lo, unknown);              /* control characters fall out */
    IDS(t, "[SEP]he", MKA_TOKENIZE_SPECIAL, separator, he);
    assert_ids(t, "", 0, MKA_TOKENIZE_BOS, (const int[]){cls, separator}, 2);
    char piece[16];
    assert_int_equal(mka_tokenizer_piece(t, he, 0, piece, sizeof piece), 3);
    assert_memory_equal(piece, " he", 3);
    mka_tokenizer_destroy(t);
    v.spec.lowercase = v.spec.strip_accents = 0;
    t = make(&v);
    IDS(t, "caf\u00E9 Caf\u00E9", 0, accented, unknown);
    mka_tokenizer_destroy(t);
}

/* ---- pieces ---- */

static void assert_piece(const mka_tokenizer *t, int id, int special, const char *text, size_t length) {
    char piece[32];
    assert_int_equal(mka_tokenizer_piece(t, id, special, NULL, 0), length);
    assert_int_equal(mka_tokenizer_piece(t, id, special, piece, sizeof piece), length);
    assert_memory_equal(piece, text, length);
}

static void pieces_are_the_bytes_of_tokens(void **state) {
    (void)state;
    static const char *const texts[] = {"\u2581ab", "<0x41>", NULL};
    vocabulary v;
    begin_bpe(&v, "gpt-2");
    int word = add(&v, "\xC4\xA0"
                       "hi"),
        control = add_kind(&v, "<x>", MKA_TOKEN_CONTROL, 0);
    mka_tokenizer *t = make(&v);
    for (int byte = 0; byte < 256; byte++) assert_piece(t, byte, 0, (const char[]){(char)byte}, 1);
    assert_piece(t, word, 0, " hi", 3);
    assert_piece(t, control, 0, "", 0);
    assert_piece(t, control, 1, "<x>", 3);
    assert_piece(t, -1, 1, "", 0);
    assert_piece(t, 100000, 1, "", 0);
    mka_tokenizer_destroy(t);
    begin_spm(&v, texts);
    v.kinds[3] = MKA_TOKEN_UNUSED;
    t = make(&v);
    assert_piece(t, 259, 0, " ab", 3);
    assert_piece(t, 260, 0, "<0x41>", 6); /* a byte only by its kind */
    assert_piece(t, 3 + 'A', 0, "A", 1);
    assert_piece(t, 3, 1, "", 0);
    mka_tokenizer_destroy(t);
}

static void whole_characters_are_told_from_beginnings(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t length, whole;
    } cases[] = {{"", 0, 0},         {"abc", 3, 3},          {"a\xC3", 2, 1},         {"a\xC3\xA9", 3, 3},
                 {"\xE4\xBD", 2, 0}, {"\xE4\xBD\xA0", 3, 3}, {"x\xF0\x9F\x98", 4, 1}, {"\xF0\x9F\x98\x80", 4, 4},
                 {"\xFF", 1, 1},     {"\x80\x80", 2, 2},     {"\xC0", 1, 1},          {"\xED\xA0", 2, 2},
                 {"\xE0\x80", 2, 2}, {"\xF4\x90", 2, 2},     {"\xF5", 1, 1},          {"\xF0\x9F", 2, 0},
                 {"\xC3\xC3", 2, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(mka_utf8_whole(cases[i].bytes, cases[i].length), cases[i].whole);
}

/* ---- errors ---- */

static void refusals_name_their_cause(void **state) {
    (void)state;
    vocabulary v;
    begin_bpe(&v, "nonesuch");
    assert_refused(&v, MKA_UNSUPPORTED, "'nonesuch'");
    v.spec.pre = "gpt-2";
    v.spec.merges = NULL;
    assert_refused(&v, MKA_BAD_FILE, "merges");
    v.spec.merges = v.merges;
    merge(&v, "ab");
    assert_refused(&v, MKA_BAD_FILE, "merge 0");
    v.spec.merge_count = 0;
    v.spec.model = "t5";
    assert_refused(&v, MKA_UNSUPPORTED, "'t5'");
    v.spec.model = NULL;
    assert_refused(&v, MKA_BAD_FILE, "tokenizer.ggml.model");
    v.spec.model = "gpt2";
    v.spec.count = 0;
    assert_refused(&v, MKA_BAD_FILE, "empty");
}

/* ---- tokenizer.json ---- */

static mka_status from_json(const char *text, const char *config, mka_tokenizer **tokenizer, mka_error *error) {
    mka_json *json, *options = NULL;
    assert_int_equal(mka_json_parse(text, strlen(text), "test", &json, error), MKA_OK);
    if (config) assert_int_equal(mka_json_parse(config, strlen(config), "test", &options, error), MKA_OK);
    mka_status status = mka_tokenizer_from_json(json, options, "test", 0, tokenizer, error);
    mka_json_free(json);
    mka_json_free(options);
    return status;
}

#define SENTENCEPIECE                                                                                                            \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},"                      \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]},"
#define SPM_MODEL                                                                                                                \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"\u2581\":2,"  \
    "\"a\":3,\"b\":4,\"c\":5,\"bc\":6,\"ab\":7,\"\u2581a\":8,\"<0x0A>\":9},\"merges\":"                                          \
    "[[\"b\",\"c\"],\"a b\",\"\u2581 a\"]}"
#define ADDED "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":10,\"content\":\"\u2581\u2581\"}],"

static void reads_sentencepiece_json(void **state) {
    (void)state;
    static const char text[] =
        "{" ADDED SENTENCEPIECE SPM_MODEL
        ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}}]}}";
    mka_tokenizer *t;
    mka_error error;
    mka_status status = from_json(text, NULL, &t, &error);
    if (status != MKA_OK) print_error("%s\n", error.message);
    assert_int_equal(status, MKA_OK);
    IDS(t, "abc", MKA_TOKENIZE_BOS, 1, 8, 6);
    IDS(t, "a\n\t", 0, 8, 9, 0);    /* a byte without a token is unknown */
    IDS(t, "a  b", 0, 8, 10, 2, 4); /* an added token is typed with spaces */
    IDS(t, "<s>", MKA_TOKENIZE_SPECIAL, 1);
    assert_piece(t, 9, 0, "\n", 1);
    mka_tokenizer_destroy(t);
    assert_int_equal(from_json(text, "{\"add_bos_token\":false}", &t, &error), MKA_OK);
    IDS(t, "ab", MKA_TOKENIZE_BOS, 2, 7);
    mka_tokenizer_destroy(t);
}

static void reads_byte_level_json(void **state) {
    (void)state;
    static const char text[] =
        "{\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"},\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}]},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"1\":1,\"11\":2,\"\u0120\":3,\"\u0120a\":4,\"<e>\":5},\"merges\":"
        "[\"1 1\",\"\u0120 a\"]},\"added_tokens\":[{\"id\":5,\"content\":\"<e>\",\"special\":true,\"rstrip\":true}]}";
    mka_tokenizer *t;
    mka_error error;
    mka_special special;
    assert_int_equal(from_json(text, "{\"eos_token\":{\"content\":\"<e>\"}}", &t, &error), MKA_OK);
    IDS(t, "a a1111", 0, 0, 4, 2, 1, 1);
    IDS(t, "a<e> a", MKA_TOKENIZE_SPECIAL, 0, 5, 0);
    mka_tokenizer_special(t, &special);
    assert_int_equal(special.eos, 5);
    assert_int_equal(special.bos, -1);
    assert_true(mka_tokenizer_is_end(t, 5));
    mka_tokenizer_destroy(t);
}

static void splits_json_behaviours(void **state) {
    (void)state;
    static const struct {
        const char *behavior, *words;
    } cases[] = {{"Isolated", "a|-|-|b"},
                 {"Removed", "a|b"},
                 {"MergedWithPrevious", "a-|-|b"},
                 {"MergedWithNext", "a|-|-b"},
                 {"Contiguous", "a|--|b"}};
    for (size_t i = 0; i < 5; i++) {
        const mka_pattern pattern = {MKA_VIEW_TEXT, (mka_split)i, 0, "-"};
        mka_splitter *splitter;
        mka_words words = {0};
        char joined[32] = "";
        assert_int_equal(mka_splitter_create(&pattern, 1, "test", &splitter, NULL), MKA_OK);
        assert_int_equal(mka_splitter_run(splitter, "a--b", 4, &words, NULL), MKA_OK);
        for (size_t w = 0; w < words.count; w++)
            sprintf(joined + strlen(joined), "%s%.*s", w ? "|" : "", (int)words.items[w].length, "a--b" + words.items[w].offset);
        assert_string_equal(joined, cases[i].words);
        free(words.items);
        mka_splitter_destroy(splitter);
    }
}

static void refuses_json_that_it_cannot_follow(void **state) {
    (void)state;
    static const struct {
        const char *text;
        mka_status status;
        const char *part;
    } cases[] = {
        {"[]", MKA_BAD_FILE, "model"},
        {"{\"model\":{\"type\":\"Unigram\"}}", MKA_UNSUPPORTED, "'Unigram'"},
        {"{\"model\":{\"type\":\"BPE\"}}", MKA_BAD_FILE, "model.vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", MKA_BAD_FILE, "model.merges"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", MKA_BAD_FILE, "model.merges[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", MKA_BAD_FILE, "same id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999},\"merges\":[]}}", MKA_BAD_FILE, "a"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", MKA_UNSUPPORTED,
         "end_of_word_suffix"},
        {"{\"normalizer\":{\"type\":\"NFKC\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", MKA_UNSUPPORTED, "'NFKC'"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"},\"model\":{\"vocab\":{"
         "\"a\":0},\"merges\":[]}}",
         MKA_BAD_FILE, "\"(\""},
        {"{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", MKA_UNSUPPORTED,
         "'BertPreTokenizer'"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mka_tokenizer *t;
        mka_error error;
        assert_int_equal(from_json(cases[i].text, NULL, &t, &error), cases[i].status);
        assert_null(t);
        assert_non_null(strstr(error.message, cases[i].part));
    }
}

/* ---- long texts: the test's time limit is what a quadratic step would run into ---- */

static void long_runs_take_linear_time(void **state) {
    (void)state;
    static const char *const units[] = {" ", "\n", "a", "7", "aB", " \n", "'", "\xFF", "<x>", "ab ", "\u4F60"};
    static const char *const pre[] = {"gpt-2", "llama-bpe", "deepseek-llm", "tekken"};
    enum { LENGTH = 1 << 20 };
    char *text = malloc(LENGTH);
    assert_non_null(text);
    for (size_t p = 0; p < 4; p++) {
        vocabulary v;
        begin_bpe(&v, pre[p]);
        add(&v, "aa");
        add(&v, "aaaa");
        merge(&v, "a a");
        merge(&v, "aa aa");
        add_kind(&v, "<x>", MKA_TOKEN_CONTROL, 0);
        mka_tokenizer *t = make(&v);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t count, unit = strlen(units[u]);
            mka_error error;
            for (size_t i = 0; i < LENGTH; i++) text[i] = units[u][i % unit];
            assert_int_equal(mka_tokenizer_encode(t, text, LENGTH, MKA_TOKENIZE_SPECIAL, NULL, 0, &count, &error), MKA_OK);
            assert_in_range(count, LENGTH / 4, 3 * LENGTH);
        }
        mka_tokenizer_destroy(t);
    }
    free(text);
}

/* ---- stock models ---- */

static void assert_case(const mka_model *model, const mka_json *item) {
    const mka_json *text = mka_json_get(item, "text"), *ids = mka_json_get(item, "ids");
    int got[MAX_IDS], special = 0, add_special = 0;
    char bytes[4 * MAX_IDS];
    size_t count, length = 0;
    mka_error error;
    assert_int_equal(mka_json_bool(item, "parse_special", 0, &special, &error), MKA_OK);
    assert_int_equal(mka_json_bool(item, "add_special", 0, &add_special, &error), MKA_OK);
    unsigned flags = (special ? MKA_TOKENIZE_SPECIAL : 0) | (add_special ? MKA_TOKENIZE_BOS : 0);
    assert_int_equal(mka_tokenize(model, mka_json_string(text), mka_json_length(text), flags, got, MAX_IDS, &count, &error),
                     MKA_OK);
    assert_int_equal(count, mka_json_length(ids));
    for (size_t i = 0; i < count; i++) {
        int64_t wanted;
        assert_int_equal(mka_json_int(mka_json_at(ids, i), NULL, -1, 0, INT32_MAX, &wanted, &error), MKA_OK);
        if (got[i] != wanted) print_error("\"%s\": id %zu is %d, not %d\n", mka_json_string(text), i, got[i], (int)wanted);
        assert_int_equal(got[i], wanted);
    }
    mka_special marks;
    mka_model_special(model, &marks);
    for (size_t i = add_special && marks.add_bos; i < count; i++)
        length += mka_token_piece(model, got[i], 1, bytes + length, sizeof bytes - length);
    assert_int_equal(length, mka_json_length(text));
    assert_memory_equal(bytes, mka_json_string(text), length);
}

static void stock_models_give_llama_cpp_ids(void **state) {
    (void)state;
    static const char *const names[] = {"smollm2", "gemma3"};
    const char *shared = getenv("MKA_SHARED"), *models = getenv("MKA_MODELS"), *home = getenv("HOME");
    int tried = 0;
    mka_engine *engine;
    mka_error error;
    const mka_engine_options options = {.threads = 1};
    assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_OK);
    for (size_t i = 0; i < 2; i++) {
        char file[4096], cases[4096];
        mka_model *model;
        mka_json *json;
        mka_model_options load;
        snprintf(file, sizeof file, "%s%s/%s.gguf",
                 models ? models
                 : home ? home
                        : "",
                 models ? "" : "/.cache/mka/models", names[i]);
        snprintf(cases, sizeof cases, "%s/models/%s.json", shared ? shared : "", names[i]);
        if (!shared || mka_json_read(cases, &json, &error) != MKA_OK) {
            print_message("no cases for %s: skipped\n", names[i]);
            continue;
        }
        mka_model_defaults(&load);
        load.vocabulary_only = 1;
        mka_status status = mka_model_load(engine, file, &load, &model, &error);
        if (status == MKA_IO) {
            print_message("%s: skipped\n", error.message);
        } else {
            if (status != MKA_OK) print_error("%s\n", error.message);
            assert_int_equal(status, MKA_OK);
            const mka_json *list = mka_json_get(json, "tokenize");
            assert_true(mka_json_length(list) > 0);
            for (size_t c = 0; c < mka_json_length(list); c++) assert_case(model, mka_json_at(list, c));
            mka_model_destroy(model);
            tried++;
        }
        mka_json_free(json);
    }
    mka_engine_destroy(engine);
    if (!tried) skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_by_rank_leftmost_first),
        cmocka_unit_test(takes_whole_words_where_the_model_does),
        cmocka_unit_test(invalid_bytes_become_replacement_characters),
        cmocka_unit_test(special_tokens_come_out_first_and_longest_first),
        cmocka_unit_test(ends_are_known_by_their_text),
        cmocka_unit_test(cuts_words_as_each_name_asks),
        cmocka_unit_test(joins_by_score_and_falls_back_to_bytes),
        cmocka_unit_test(phi3_drops_space_after_its_special_tokens),
        cmocka_unit_test(spells_words_by_their_longest_beginnings),
        cmocka_unit_test(pieces_are_the_bytes_of_tokens),
        cmocka_unit_test(whole_characters_are_told_from_beginnings),
        cmocka_unit_test(refusals_name_their_cause),
        cmocka_unit_test(reads_sentencepiece_json),
        cmocka_unit_test(reads_byte_level_json),
        cmocka_unit_test(splits_json_behaviours),
        cmocka_unit_test(refuses_json_that_it_cannot_follow),
        cmocka_unit_test(long_runs_take_linear_time),
        cmocka_unit_test(stock_models_give_llama_cpp_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
