/* options - what the user typed: one table of flags for all commands, parsed strictly.
 *
 * A flag is described once (name, value, range, help, which commands take it); parsing, the help pages and the suggestion for
 * a mistyped flag all read that table, so they cannot disagree.
 */
#ifndef MKA_CLI_OPTIONS_H
#define MKA_CLI_OPTIONS_H

#include <mka/session.h>
#include <stdio.h>

/* Commands as bits, so that a flag can name the set that takes it. */
enum {
    MKA_CLI_GENERATE = 1,
    MKA_CLI_CHAT = 2,
    MKA_CLI_INFO = 4,
    MKA_CLI_CHECK = 8,
    MKA_CLI_TOKENIZE = 16,
    MKA_CLI_EVAL_PPL = 32,
    MKA_CLI_BENCH_LIMITS = 64,
    MKA_CLI_BENCH_ATTENTION = 128,
    MKA_CLI_BENCH_MODEL = 256,
    MKA_CLI_EVAL_RECALL = 512,
    MKA_CLI_EVAL_NEEDLE = 1024,
    MKA_CLI_EVAL_RULER = 2048,
    MKA_CLI_EVAL_QA = 4096,
    MKA_CLI_MEMORY_LIST = 8192,
    MKA_CLI_MEMORY_MERGE = 16384
};

typedef enum mka_cli_color { MKA_CLI_COLOR_AUTO, MKA_CLI_COLOR_ALWAYS, MKA_CLI_COLOR_NEVER } mka_cli_color;

/* Values of a flag that takes a list ("1,2,4"); numbers, or indices of words. count 0: not given. */
enum { MKA_CLI_LIST = 16 };
typedef struct mka_cli_list {
    int count, items[MKA_CLI_LIST];
} mka_cli_list;

/* What bench flags may name, as indices of the words. */
typedef enum mka_cli_phase { MKA_CLI_DECODE, MKA_CLI_PREFILL } mka_cli_phase;
typedef enum mka_cli_variant { MKA_CLI_GQA, MKA_CLI_MHA, MKA_CLI_MQA, MKA_CLI_MLA, MKA_CLI_MKA, MKA_CLI_FASTMKA } mka_cli_variant;
typedef enum mka_cli_fill { MKA_CLI_FILL_RANDOM, MKA_CLI_FILL_MODEL } mka_cli_fill;

/* Strings are borrowed from argv. */
typedef struct mka_cli_options {
    const char *model, *prompt, *file, *router, *cpu, *device, *chat_template, *system, *load_session, *save_session;
    const char *remember[MKA_CLI_LIST];
    int remembered; /* how many of them */
    int tokens;     /* -n; -1: until the model ends or the context is full; MKA_CLI_UNSET: the command's default */
    int context;    /* -c; 0: the command's default */
    int threads, chunk;
    uint64_t device_memory;       /* bytes; 0: what it has */
    int max_tokens;               /* eval: 0 = the command's default */
    int layers, rounded, prefill; /* eval recall: show every head; activations as elsewhere; how the prompt is read, as an
                                     mka_memory_mode or MKA_CLI_UNSET */
    long long skip;               /* eval: characters of the text to leave out at its start */
    mka_sampler_options sampler;
    int key_type, value_type; /* an mka_type, or MKA_CLI_UNSET */
    int mla;                  /* an mka_mla_form, or MKA_CLI_UNSET */
    int memory;               /* an mka_memory_mode, or MKA_CLI_UNSET */
    float level_threshold;
    int bank;                            /* MKA_BANK_AUTO, or summaries */
    const char *bank_from[MKA_CLI_LIST]; /* saved sessions */
    int bank_files;                      /* how many of them */
    mka_memory_plan plan;
    unsigned long long nodes; /* --numa nodes=: a bit each; 0: all */
    int color;                /* an mka_cli_color */
    /* eval needle, ruler, qa */
    const char *svg;
    mka_cli_list lengths, needle_depths;
    int samples; /* 0: the command's default */
    /* bench */
    const char *shape, *kv;
    mka_cli_list threads_list, phases, variants, heads, kv_heads, head_dims, q_lens, kv_lens, kv_types, depths, memories;
    long long size;
    int repeats, prompt_tokens, fill; /* fill: an mka_cli_fill, or MKA_CLI_UNSET */
    const char *sessions;             /* folder of kept prompts */
    int no_reuse;
    int verbose, json, exact, chat, ignore_eos, no_parse_special, no_bos, help;
    const char **arguments; /* what is not a flag; points into the caller's array */
    int argument_count;
} mka_cli_options;

#define MKA_CLI_UNSET (-2)

void mka_cli_options_defaults(mka_cli_options *options);

/* Parses argv[0..argc-1] (the command's own arguments). name and command tell which flags are allowed; arguments is room for
 * argc positional ones. Returns 0, or 2 after one line about what is wrong and a hint on stderr. */
int mka_cli_options_parse(mka_cli_options *options, const char *name, int command, int argc, char **argv, const char **arguments);

/* Writes the flags of a command, a line or more each, for its help page. */
void mka_cli_options_help(FILE *out, int command);

/* The candidate (of count) nearest to word, or NULL when none is near enough to be meant. */
const char *mka_cli_nearest(const char *word, const char *const *candidates, int count);

/* One line "mka: ..." on stderr, then a hint to the help of command (NULL: of mka itself). Returns 2. */
int mka_cli_usage(const char *command, const char *format, ...) MKA_PRINTF(2, 3);

/* What a cache type is called on the command line: "f16", "q8", ... */
const char *mka_cli_type_name(mka_type type);
const char *mka_cli_phase_name(int phase);
const char *mka_cli_variant_name(int variant);

/* Whole-string number parsing; 0 when text is not a plain decimal number in min..max. */
int mka_cli_parse_int(const char *text, long long min, long long max, long long *value);
int mka_cli_parse_real(const char *text, double min, double max, double *value);

#endif
