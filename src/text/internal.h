/* internal - what the files of the tokenizer share: its tables, and the steps from bytes to ids.
 *
 *   text -> partition (special tokens out) -> clean UTF-8 -> pre-tokeniser (PCRE2) -> words -> merges by rank -> ids   (BPE)
 *                                         \-> spaces to U+2581 ---------------------> merges by score -> ids          (SPM)
 *
 * Everything here is private to src/text.
 */
#ifndef MKA_TEXT_INTERNAL_H
#define MKA_TEXT_INTERNAL_H

#include "base/status.h"
#include "text/tokenizer.h"

/* ---- arrays that grow ---- */

/* Makes room for need items of size bytes in *items (malloc'd, *room items now). Returns 0 when memory is out. */
int mka_grow(void *items, size_t *room, size_t need, size_t size);

typedef struct mka_buffer { /* bytes that grow */
    char *bytes;
    size_t length, room;
} mka_buffer;

int mka_buffer_add(mka_buffer *buffer, const char *bytes, size_t length); /* 0 when memory is out */

/* ---- unicode.c ---- */

typedef enum mka_unicode_class {
    MKA_UNICODE_OTHER, /* not assigned */
    MKA_UNICODE_LETTER,
    MKA_UNICODE_NUMBER,
    MKA_UNICODE_MARK,
    MKA_UNICODE_PUNCTUATION,
    MKA_UNICODE_SYMBOL,
    MKA_UNICODE_SPACE,
    MKA_UNICODE_CONTROL /* also formats, surrogates and private use */
} mka_unicode_class;

extern const uint32_t mka_unicode_ranges[]; /* unicode_data.c */
extern const size_t mka_unicode_range_count;

mka_unicode_class mka_unicode_class_of(uint32_t point);

uint32_t mka_unicode_lower(uint32_t point); /* unicode_fold.c: simple lower case */
uint32_t mka_unicode_base(uint32_t point);  /* the character without its accents, when it has canonical ones */

/* The code point at bytes (length > 0) and how many bytes it takes. A byte that begins nothing valid is U+FFFD of one byte.
 * Lenient as llama.cpp is: over-long forms and surrogates pass, since ids depend on it. */
uint32_t mka_utf8_decode(const char *bytes, size_t length, size_t *used);
/* Writes point (<= U+10FFFF) in 1..4 bytes and returns how many. */
size_t mka_utf8_encode(uint32_t point, char *bytes);
/* Bytes of the character that a first byte announces; 1 for a continuation byte. */
size_t mka_utf8_announced(char first);
/* The code point that stands for a byte in the vocabulary of byte-level BPE, and back (-1 when it stands for none). */
uint32_t mka_byte_to_point(unsigned char byte);
int mka_byte_from_point(uint32_t point);

/* ---- strings.c: texts with an index each ---- */

typedef struct mka_string {
    size_t offset;
    size_t length;
} mka_string;

typedef struct mka_strings {
    mka_buffer pool;
    mka_string *items;
    size_t count, room;
    uint32_t *slots; /* index + 1, 0 empty; open addressing */
    size_t slot_count;
    size_t longest;
} mka_strings;

#define MKA_NO_STRING UINT32_MAX

/* Index of a text, or MKA_NO_STRING. The last one added wins where a text was added twice. */
uint32_t mka_strings_find(const mka_strings *strings, const char *bytes, size_t length);
/* Adds a text (copied) under the next index. 0 when memory is out. */
int mka_strings_add(mka_strings *strings, const char *bytes, size_t length);
/* Finds, or adds. */
int mka_strings_intern(mka_strings *strings, const char *bytes, size_t length, uint32_t *index);
mka_bytes mka_strings_at(const mka_strings *strings, uint32_t index);
void mka_strings_free(mka_strings *strings);

/* ---- pre-tokenisers ---- */

/* What a pattern sees of the text. */
typedef enum mka_view {
    MKA_VIEW_CLASSES, /* every character beyond ASCII as one that stands for its category */
    MKA_VIEW_SPACES,  /* characters as they are, but any space beyond ASCII as a vertical tab */
    MKA_VIEW_TEXT,    /* characters as they are */
    MKA_VIEW_DIGITS   /* no pattern: cuts runs of digits into threes, counted from their end */
} mka_view;

/* What becomes of what a pattern finds (Hugging Face's names). Plain cutting is ISOLATED. */
typedef enum mka_split {
    MKA_SPLIT_ISOLATED,
    MKA_SPLIT_REMOVED,
    MKA_SPLIT_PREVIOUS,
    MKA_SPLIT_NEXT,
    MKA_SPLIT_CONTIGUOUS
} mka_split;

typedef struct mka_pattern {
    mka_view view;
    mka_split split;
    int invert;       /* what lies between the matches counts as found */
    const char *text; /* PCRE2; NULL for MKA_VIEW_DIGITS */
} mka_pattern;

#define MKA_MAX_PATTERNS 16

typedef struct mka_pretokenizer { /* pretokenizers.c */
    const char *names;            /* each between spaces */
    mka_pattern patterns[6];
    int ignore_merges; /* a word that is a token is taken whole */
    int add_bos;       /* unless the file says otherwise */
    int no_bos;        /* has no default BOS token */
    int raw;           /* merges run over UTF-8 with U+2581 for a space, not over byte letters */
    int newline_words; /* words of newlines only are taken whole */
} mka_pretokenizer;

/* NULL when there is none of that name; name NULL or "" is "default". */
const mka_pretokenizer *mka_pretokenizer_find(const char *name);
extern const char mka_gpt2_pattern[];

typedef struct mka_splitter mka_splitter; /* compiled patterns; immutable */

/* name is for messages; MKA_BAD_FILE quotes a pattern that does not compile. */
mka_status mka_splitter_create(const mka_pattern *patterns, int count, const char *name, mka_splitter **splitter,
                               mka_error *error);
void mka_splitter_destroy(mka_splitter *splitter);

typedef struct mka_words { /* byte ranges of a text, in order */
    mka_string *items;
    size_t count, room;
} mka_words;

/* Cuts clean UTF-8 (as mka_text_clean makes it) into words. */
mka_status mka_splitter_run(const mka_splitter *splitter, const char *text, size_t length, mka_words *words, mka_error *error);

/* Appends text to clean with every invalid byte as U+FFFD. 0 when memory is out. */
int mka_text_clean(mka_buffer *clean, const char *text, size_t length);

/* ---- the tokenizer ---- */

enum { /* a token's attributes; several may hold */
       MKA_ATTR_UNKNOWN = 1,
       MKA_ATTR_UNUSED = 2,
       MKA_ATTR_NORMAL = 4,
       MKA_ATTR_CONTROL = 8,
       MKA_ATTR_USER = 16,
       MKA_ATTR_BYTE = 32,
       MKA_ATTR_LSTRIP = 64, /* takes the white space before it along */
       MKA_ATTR_RSTRIP = 128
};

typedef struct mka_merges { /* (left symbol, right symbol) -> rank, joined symbol; open addressing, rank MKA_NO_STRING empty */
    struct mka_merge {
        uint32_t left, right, rank, joined;
    } * slots;
    size_t slot_count;
} mka_merges;

typedef struct mka_specials { /* tokens that are taken out of the text before anything else */
    uint32_t *by_text;        /* ids sorted by bytes */
    uint32_t *by_length;      /* indices into by_text, longest first, then lowest id: the order in which they are taken */
    size_t count;
    uint32_t first[257]; /* by_text[first[b] .. first[b + 1]) begin with byte b */
} mka_specials;

struct mka_tokenizer {
    int spm;             /* merges by score, else by rank */
    int wordpiece;       /* neither: the longest tokens from the left */
    int lowercase;       /* wordpiece: letters lose their case, */
    int strip_accents;   /* and their accents */
    int separator;       /* wordpiece: after a text when BOS is asked for; -1 */
    int raw;             /* BPE over UTF-8 instead of byte letters */
    int escape_spaces;   /* a space becomes U+2581 before merging */
    int space_prefix;    /* text at the start and after a special token gets a space in front */
    int ignore_merges;   /* BPE: a word that is a token is taken whole */
    int newline_words;   /* BPE: a word of newlines that is a token is taken whole */
    int use_unknown;     /* BPE: what has no token becomes the unknown token, else nothing */
    int fuse_unknown;    /* and neighbours become one */
    int tokens_only;     /* BPE: merges of texts that are no tokens are left out */
    size_t count;        /* tokens; symbols beyond are texts that only merges name */
    mka_strings symbols; /* token i is symbol i */
    float *scores;       /* [count], SPM */
    unsigned char *attr; /* [count] */
    unsigned char *end;  /* [count] 1 where generation ends */
    mka_special special;
    mka_specials specials;
    uint32_t letter[256]; /* BPE: symbol of a byte's letter */
    uint32_t byte[256];   /* token of a byte that no token covers, MKA_NO_STRING where there is none */
    mka_merges merges;
    mka_splitter *splitter;
};

typedef struct mka_output { /* ids as mka_tokenize returns them */
    int *ids;
    size_t room, count;
} mka_output;

void mka_output_add(mka_output *output, int id);

/* attributes.c: sets tokenizer->special, ->end and corrects ->attr as token texts demand. spec->special holds the file's ids. */
void mka_tokenizer_attributes(mka_tokenizer *tokenizer, const mka_vocab_spec *spec, const mka_special *defaults);

/* partition.c */
mka_status mka_specials_build(mka_tokenizer *tokenizer, mka_error *error);
void mka_specials_free(mka_specials *specials);

typedef struct mka_fragment { /* a piece of text, or a special token */
    size_t offset, length;
    uint32_t token; /* MKA_NO_STRING: text */
    uint32_t next;  /* index of the next fragment, MKA_NO_STRING at the end */
} mka_fragment;

/* Takes the special tokens out; *fragments is malloc'd and begins with index 0. */
mka_status mka_partition(const mka_tokenizer *tokenizer, const char *text, size_t length, int parse_special,
                         mka_fragment **fragments, mka_error *error);

/* bpe.c: joins the merges' texts to symbols. */
mka_status mka_bpe_build(mka_tokenizer *tokenizer, const mka_bytes *merges, size_t count, const char *name, mka_error *error);
/* One fragment of text. */
mka_status mka_bpe_encode(const mka_tokenizer *tokenizer, const char *text, size_t length, mka_output *output, mka_error *error);

/* spm.c */
mka_status mka_spm_encode(const mka_tokenizer *tokenizer, const char *text, size_t length, mka_output *output, mka_error *error);

/* wordpiece.c */
mka_status mka_wordpiece_encode(const mka_tokenizer *tokenizer, const char *text, size_t length, mka_output *output,
                                mka_error *error);

/* "<0x41>" -> 65; -1 for anything else. */
int mka_byte_token(const char *bytes, size_t length);

/* tokenizer.c: as mka_tokenizer_create, with what only tokenizer.json can say. */
typedef struct mka_vocab_extra {
    const unsigned char *strip; /* [count] of MKA_ATTR_LSTRIP, MKA_ATTR_RSTRIP */
    mka_pattern patterns[MKA_MAX_PATTERNS];
    int pattern_count;
    int byte_letters;  /* the vocabulary is written in byte letters; else in UTF-8 */
    int byte_fallback; /* what has no token becomes tokens like <0x41> */
    int escape_spaces, space_prefix, ignore_merges, fuse_unknown;
} mka_vocab_extra;

mka_status mka_tokenizer_make(const mka_vocab_spec *spec, const mka_vocab_extra *extra, mka_tokenizer **tokenizer,
                              mka_error *error);

/* hf_rules.c: normalizer and pre_tokenizer of a tokenizer.json, into extra. Texts of patterns are added to texts, an array of
 * MKA_MAX_PATTERNS owned strings. MKA_UNSUPPORTED names what is not computed here. */
mka_status mka_hf_rules(const mka_json *root, const char *name, mka_vocab_extra *extra, char **texts, mka_error *error);

#endif
