/* options - the table of flags and the strict parser over it. See options.h.
 *
 * Strict on purpose: a number that is only half read ("-n 1o0") or silently clamped costs the user an hour, a clear line none.
 */
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

typedef enum flag_kind {
    FLAG_SET,
    FLAG_COUNT,
    FLAG_TEXT,
    FLAG_INT,
    FLAG_LONG,
    FLAG_BYTES,
    FLAG_REAL,
    FLAG_SEED,
    FLAG_TYPE,
    FLAG_MLA,
    FLAG_COLOR,
    FLAG_TEMPLATE,
    FLAG_DEVICE,
    FLAG_MEMORY,
    FLAG_MEMORIES,
    FLAG_PREFILL,
    FLAG_RECALL,
    FLAG_BANK,
    FLAG_BANK_FROM,
    FLAG_REMEMBER,
    FLAG_NUMA,
    FLAG_LONGTERM,
    FLAG_LOCAL,
    FLAG_FILL,
    FLAG_NUMBERS,
    FLAG_PHASES,
    FLAG_VARIANTS,
    FLAG_TYPES
} flag_kind;

typedef struct flag {
    const char *name, *alias; /* alias may be NULL */
    const char *value;        /* name of the value in the help; NULL when there is none */
    int commands;
    flag_kind kind;
    size_t offset; /* of the field in mka_cli_options */
    double min, max;
    const char *help;
} flag;

#define RUNS    (MKA_CLI_GENERATE | MKA_CLI_CHAT)
#define SAMPLES (MKA_CLI_GENERATE | MKA_CLI_CHAT)
#define MODELS  (MKA_CLI_GENERATE | MKA_CLI_CHAT | MKA_CLI_CHECK | EVAL)
#define EVAL    (MKA_CLI_EVAL_PPL | MKA_CLI_EVAL_RECALL | TASKS)
#define TASKS   (MKA_CLI_EVAL_NEEDLE | MKA_CLI_EVAL_RULER | MKA_CLI_EVAL_QA)
#define STREWN  (MKA_CLI_EVAL_NEEDLE | MKA_CLI_EVAL_RULER)
#define BENCH   (MKA_CLI_BENCH_LIMITS | MKA_CLI_BENCH_ATTENTION | MKA_CLI_BENCH_MODEL)
#define SINGLE  (MODELS | MKA_CLI_INFO | MKA_CLI_TOKENIZE | MKA_CLI_MEMORY_MERGE)
#define ALL     (SINGLE | BENCH)
#define TIERED  (RUNS | EVAL)
#define LISTS   MKA_CLI_MEMORY_LIST
#define LAYERS  MKA_CLI_BENCH_ATTENTION
#define WHOLE   MKA_CLI_BENCH_MODEL
#define AT(x)   offsetof(mka_cli_options, x)

static const flag flags[] = {
    {"-m", "--model", "MODEL", SINGLE | WHOLE, FLAG_TEXT, AT(model), 0, 0,
     "a GGUF file or a folder with config.json and *.safetensors"},
    {"-p", "--prompt", "TEXT", MKA_CLI_GENERATE | MKA_CLI_TOKENIZE, FLAG_TEXT, AT(prompt), 0, 0, "the prompt"},
    {"-f", "--file", "FILE", MKA_CLI_GENERATE | MKA_CLI_TOKENIZE | (EVAL & ~MKA_CLI_EVAL_QA), FLAG_TEXT, AT(file), 0, 0,
     "read the text from FILE as it is, last newline included; - is standard input"},
    {"-n", "--predict", "N", WHOLE, FLAG_INT, AT(tokens), 1, 1 << 20, "tokens that a decode row generates (default 32)"},
    {"-n", "--predict", "N", RUNS, FLAG_INT, AT(tokens), -1, INT_MAX,
     "new tokens at most; -1: until the model ends or the context is full (default: generate 256, chat 512)"},
    {"-c", "--ctx", "N", MKA_CLI_GENERATE | MKA_CLI_CHAT | EVAL, FLAG_INT, AT(context), 1, 1 << 27,
     "context in tokens (default: generate prompt + new tokens, chat 4096, eval 2048, recall and qa 8192, needle and ruler 4096; "
     "the model's own when that is less)"},
    {"--chat", NULL, NULL, MKA_CLI_GENERATE, FLAG_SET, AT(chat), 0, 0,
     "wrap the prompt as one user turn in the model's template"},
    {"--system", NULL, "TEXT", RUNS, FLAG_TEXT, AT(system), 0, 0, "system message of the conversation"},
    {"--template", NULL, "NAME", RUNS, FLAG_TEMPLATE, AT(chat_template), 0, 0,
     "force a chat template instead of the model's own choice"},
    {"-s", "--seed", "SEED", SAMPLES, FLAG_SEED, AT(sampler.seed), 0, 0,
     "seed of the sampler, or 'random' (default 0: the same command gives the same answer)"},
    {"--temp", "--temperature", "X", SAMPLES, FLAG_REAL, AT(sampler.temperature), 0, 100,
     "temperature; 0 is greedy (default 0.8)"},
    {"--top-k", NULL, "K", SAMPLES, FLAG_INT, AT(sampler.top_k), 0, INT_MAX, "keep the K likeliest tokens; 0: off (default 40)"},
    {"--top-p", NULL, "P", SAMPLES, FLAG_REAL, AT(sampler.top_p), 0, 1,
     "keep the likeliest tokens of joint probability P; 1: off (default 0.95)"},
    {"--min-p", NULL, "P", SAMPLES, FLAG_REAL, AT(sampler.min_p), 0, 1,
     "drop tokens below P times the likeliest one; 0: off (default 0.05)"},
    {"--repeat-penalty", NULL, "X", SAMPLES, FLAG_REAL, AT(sampler.repeat_penalty), 0.01, 100,
     "penalty of recent tokens; 1: off (default 1)"},
    {"--repeat-last", NULL, "N", SAMPLES, FLAG_INT, AT(sampler.repeat_last), 0, INT_MAX,
     "how many recent tokens are penalised (default 64)"},
    {"--ignore-eos", NULL, NULL, RUNS, FLAG_SET, AT(ignore_eos), 0, 0, "go on after the model ends its answer"},
    {"--no-parse-special", NULL, NULL, MKA_CLI_GENERATE | MKA_CLI_TOKENIZE, FLAG_SET, AT(no_parse_special), 0, 0,
     "take names of special tokens in the text as plain text"},
    {"--no-bos", NULL, NULL, MKA_CLI_GENERATE | MKA_CLI_TOKENIZE, FLAG_SET, AT(no_bos), 0, 0,
     "no BOS (or EOS) around the text, whatever the model says"},
    {"--max-tokens", NULL, "N", MKA_CLI_EVAL_PPL, FLAG_INT, AT(max_tokens), 1, INT_MAX,
     "score at most the first N tokens (default: all)"},
    {"--max-tokens", NULL, "N", MKA_CLI_EVAL_RECALL, FLAG_INT, AT(max_tokens), 1, INT_MAX,
     "tokens that are decoded one by one, the last of the context (default 256)"},
    {"--prefill", NULL, "HOW", MKA_CLI_EVAL_RECALL, FLAG_PREFILL, AT(prefill), 0, 0,
     "how the tiered session reads the tokens before those: tiered, as --recall says (default), or dense, reading everything"},
    {"--rounded", NULL, NULL, MKA_CLI_EVAL_RECALL, FLAG_SET, AT(rounded), 0, 0,
     "round the activations of quantised products as other commands do (default: float32, so that only memory differs)"},
    {"--layers", NULL, NULL, MKA_CLI_EVAL_RECALL, FLAG_SET, AT(layers), 0, 0,
     "show a line a layer and key/value head too, which --json always does"},
    {"-s", "--seed", "SEED", STREWN | MKA_CLI_EVAL_RECALL, FLAG_SEED, AT(sampler.seed), 0, 0,
     "seed of the prompts and of places in the text, or 'random' (default 0: the same command takes the same)"},
    {"--samples", NULL, "N", MKA_CLI_EVAL_RECALL, FLAG_INT, AT(samples), 1, 10000,
     "stretches of the text, the first at its beginning, the others where --seed says (default 1)"},
    {"--samples", NULL, "N", MKA_CLI_EVAL_NEEDLE, FLAG_INT, AT(samples), 1, 10000, "prompts a length and depth (default 2)"},
    {"--samples", NULL, "N", MKA_CLI_EVAL_RULER, FLAG_INT, AT(samples), 1, 10000, "prompts a task and length (default 5)"},
    {"--samples", NULL, "N", MKA_CLI_EVAL_QA, FLAG_INT, AT(samples), 1, INT_MAX, "ask the first N questions (default: all)"},
    {"--lengths", NULL, "LIST", STREWN, FLAG_NUMBERS, AT(lengths), 16, 1 << 27,
     "tokens of the prompts (default: a quarter, a half and all of the context)"},
    {"--depths", NULL, "LIST", MKA_CLI_EVAL_NEEDLE, FLAG_NUMBERS, AT(needle_depths), 0, 100,
     "where the key stands, in percent of the text (default 0,25,50,75,100)"},
    {"--svg", NULL, "FILE", MKA_CLI_EVAL_NEEDLE, FLAG_TEXT, AT(svg), 0, 0, "write the heat maps to FILE as a picture"},
    {"-n", "--predict", "N", MKA_CLI_EVAL_QA, FLAG_INT, AT(tokens), 1, 4096, "tokens of an answer at most (default 32)"},
    {"--skip-chars", "--offset", "N", EVAL & ~MKA_CLI_EVAL_QA, FLAG_LONG, AT(skip), 0, 1e15, "begin N characters into the text"},
    {"-ctk", "--cache-type-k", "TYPE", MODELS | WHOLE, FLAG_TYPE, AT(key_type), 0, 0,
     "cache type of keys: f32, f16 (default), bf16, q8 or q4"},
    {"-ctv", "--cache-type-v", "TYPE", MODELS | WHOLE, FLAG_TYPE, AT(value_type), 0, 0,
     "cache type of values: f32, f16 (default), bf16, q8 or q4"},
    {"--exact", NULL, NULL, (MODELS & ~MKA_CLI_EVAL_RECALL) | WHOLE, FLAG_SET, AT(exact), 0, 0,
     "activations stay float32 (default: rounded to 8 bits for quantised weights); check: float32 cache too"},
    {"--mla", NULL, "FORM", MODELS | WHOLE, FLAG_MLA, AT(mla), 0, 0,
     "how latent attention is computed: auto, absorbed or expanded"},
    {"--router", NULL, "FILE", MODELS | MKA_CLI_INFO | WHOLE, FLAG_TEXT, AT(router), 0, 0,
     "trained MKA or FastMKA router (GGUF or safetensors)"},
    {"--chunk", NULL, "N", MODELS | WHOLE, FLAG_INT, AT(chunk), 1, 8192, "tokens that prefill takes at once (default 512)"},
    {"--shape", NULL, "NAME[:TYPE]", WHOLE, FLAG_TEXT, AT(shape), 0, 0,
     "random weights in the shape of a known model instead of -m, e.g. qwen2.5-0.5b:q8_0 (TYPE default q8_0)"},
    {"--phase", NULL, "LIST", LAYERS | WHOLE, FLAG_PHASES, AT(phases), 0, 0,
     "decode, prefill (or prompt, the same); default: attention decode, model both"},
    {"--depth", NULL, "LIST", WHOLE, FLAG_NUMBERS, AT(depths), 0, 1 << 27, "tokens in the cache before a row begins (default 0)"},
    {"--prompt-tokens", NULL, "N", WHOLE, FLAG_INT, AT(prompt_tokens), 1, 1 << 20,
     "tokens that a prefill row evaluates (default 512)"},
    {"--fill", NULL, "HOW", WHOLE, FLAG_FILL, AT(fill), 0, 0,
     "what the cache holds up to the depth: random, or model, which evaluates tokens (default: random with --shape, else model)"},
    {"--variant", NULL, "LIST", WHOLE, FLAG_VARIANTS, AT(variants), 0, 0,
     "with --shape: gqa (the shape's own, default), fastmka or mka (random routers in every layer)"},
    {"--variant", NULL, "LIST", LAYERS, FLAG_VARIANTS, AT(variants), 0, 0,
     "gqa (default), mha, mqa, mla, mka, fastmka: which caches are read"},
    {"--heads", NULL, "LIST", LAYERS, FLAG_NUMBERS, AT(heads), 1, 4096, "query heads (default 28)"},
    {"--kv-heads", NULL, "LIST", LAYERS, FLAG_NUMBERS, AT(kv_heads), 1, 4096,
     "key/value heads of gqa, mka and fastmka (default 4)"},
    {"--head-dim", NULL, "LIST", LAYERS, FLAG_NUMBERS, AT(head_dims), 8, 256,
     "width of a head (default 128); mla has latents of 4 and rotary keys of half that width"},
    {"--q-len", NULL, "LIST", LAYERS, FLAG_NUMBERS, AT(q_lens), 1, 8192, "queries at once (default: decode 1, prefill 512)"},
    {"--kv-len", NULL, "LIST", LAYERS, FLAG_NUMBERS, AT(kv_lens), 1, 1 << 27, "tokens in the cache (default 32768)"},
    {"--kv-type", NULL, "LIST", LAYERS, FLAG_TYPES, AT(kv_types), 0, 0, "cache types: f32, f16 (default), bf16, q8, q4"},
    {"--kv", NULL, "SOURCE", LAYERS, FLAG_TEXT, AT(kv), 0, 0,
     "keys and values: random (default), concentrated (softmax as a trained model's), or a file's in.k and in.v "
     "[kv_heads][tokens][head_dim] over and over"},
    {"--memory", NULL, "LIST", LAYERS | WHOLE, FLAG_MEMORIES, AT(memories), 0, 0,
     "dense, tiered, or auto (model alone): a row each (default dense, whatever the depth)"},
    {"--memory", NULL, "MODE", TIERED, FLAG_MEMORY, AT(memory), 0, 0,
     "how keys and values are kept: dense, tiered (a window, and long-term memory that is read where it matters), or auto: "
     "tiered "
     "for contexts above 16384 tokens (default)"},
    {"--window", NULL, "N", TIERED | LAYERS | WHOLE, FLAG_INT, AT(plan.window), 64, 1 << 24,
     "tiered: last tokens that are always read; a multiple of 64 (default 1024)"},
    {"--recall", NULL, "HOW", TIERED | LAYERS | WHOLE, FLAG_RECALL, AT(plan.recall), 0, 0,
     "tiered: auto (default), p=0.95 (share of the mass to read, by its estimate), tokens=512 (at most), eps=0.01 "
     "(a certified bound of the "
     "mass that is lost) or dense (all)"},
    {"--level-threshold", NULL, "X", TIERED | WHOLE, FLAG_REAL, AT(level_threshold), 0, 0.333,
     "tiered, MKA models: a level of memory to which the router gives a token less than X is not read for it (default 0.01; 0: "
     "all "
     "are); FastMKA: likewise the long-term bank"},
    {"--bank", NULL, "N", TIERED | WHOLE, FLAG_BANK, AT(bank), 0, 65536,
     "MKA and FastMKA models: summaries of past blocks in hidden space that a new token's long-term row is searched in, at most; "
     "0 "
     "leaves "
     "that row zeros; auto (default): 4096 with tiered memory, else 0"},
    {"--bank-from", NULL, "FILE", RUNS, FLAG_BANK_FROM, 0, 0, 0,
     "MKA and FastMKA models: begin with the bank of a saved session; its tokens take no place in the context; given again, with "
     "those of several"},
    {"--numa", NULL, "HOW", TIERED | LAYERS | WHOLE | MKA_CLI_INFO, FLAG_NUMA, AT(plan.numa), 0, 0,
     "where caches and weights lie: auto (default: on several NUMA nodes each holds its share of the heads and of the rows of "
     "weights, which are copied to it, and its threads read it), off, "
     "interleave, or nodes=0,2 (auto, with threads and memory on these nodes alone; one without CPUs takes long-term rows)"},
    {"--kv-local", NULL, "TYPE", TIERED | WHOLE, FLAG_LOCAL, 0, 0, 0, "the same as -ctk TYPE -ctv TYPE"},
    {"--kv-longterm", NULL, "TYPE", TIERED | LAYERS | WHOLE, FLAG_LONGTERM, 0, 0, 0,
     "tiered: how long-term rows are stored: f32, f16, bf16, q8 (default) or q4"},
    {"--ram", NULL, "BYTES", TIERED | MKA_CLI_MEMORY_MERGE | LAYERS | WHOLE, FLAG_BYTES, AT(plan.ram), 1, 1e18,
     "most memory that keys, values and workspace may take, e.g. 512M or 8G (default: no limit; the weights are not counted)"},
    {"--spill", NULL, "DIR", TIERED | MKA_CLI_MEMORY_MERGE | LAYERS | WHOLE, FLAG_TEXT, AT(plan.spill), 0, 0,
     "tiered: folder of a nameless file for long-term memory that --ram has no room for"},
    {"--load-session", NULL, "FILE", RUNS, FLAG_TEXT, AT(load_session), 0, 0,
     "go on from a saved session: its tokens are not evaluated again; cache types, window and kind of memory are the file's"},
    {"--sessions", NULL, "DIR", RUNS, FLAG_TEXT, AT(sessions), 0, 0,
     "folder where prompts of 1024 tokens and more are kept, so that one that begins alike is not evaluated again; 4 GiB at most "
     "(default: mka/sessions in $XDG_CACHE_HOME or ~/.cache)"},
    {"--no-reuse", NULL, NULL, RUNS, FLAG_SET, AT(no_reuse), 0, 0, "evaluate every prompt, and keep none"},
    {"--remember", NULL, "FILE", RUNS, FLAG_REMEMBER, 0, 0, 0,
     "begin behind the tokens of a saved session, as a memory to recall from: they take the first positions of the context; "
     "given "
     "again, each file's tokens follow those of the one before"},
    {"--save-session", NULL, "FILE", RUNS, FLAG_TEXT, AT(save_session), 0, 0,
     "save the session at the end; a file that is there is replaced as a whole"},
    {"--size", NULL, "BYTES", MKA_CLI_BENCH_LIMITS, FLAG_LONG, AT(size), 4096, 1e15,
     "buffer that is read from memory (default: four times the last-level cache, at least 256 MiB)"},
    {"-r", "--repeats", "N", BENCH, FLAG_INT, AT(repeats), 1, 1000, "samples of each figure after a warm-up (default 5)"},
    {"-t", "--threads", "LIST", BENCH, FLAG_NUMBERS, AT(threads_list), 1, 1024,
     "threads, a row each (default: MKA_THREADS, else one a physical core)"},
    {"-t", "--threads", "N", SINGLE, FLAG_INT, AT(threads), 1, 1024, "threads (default: MKA_THREADS, else one a physical core)"},
    {"--cpu", NULL, "LEVEL", ALL, FLAG_TEXT, AT(cpu), 0, 0,
     "kernel level, see cpu_levels of 'mka info' (default: MKA_CPU, else the best)"},
    {"--device", NULL, "DEVICE", ALL, FLAG_DEVICE, AT(device), 0, 0,
     "where to compute: cpu (default), opencl (the first GPU, else the first device), opencl:N or opencl:NAME, part of a "
     "device's or "
     "its platform's name; see devices of 'mka info'"},
    {"--device-memory", NULL, "BYTES", ALL, FLAG_BYTES, AT(device_memory), 1, 1e18,
     "bytes that may be taken on the device, such as 8G; layers that do not fit run on the CPU, and long-term rows that do not "
     "fit "
     "stay in memory until they are wanted (default: what it has)"},
    {"--color", NULL, "WHEN", MKA_CLI_CHAT | MKA_CLI_GENERATE | MKA_CLI_CHECK | MKA_CLI_EVAL_NEEDLE, FLAG_COLOR, AT(color), 0, 0,
     "auto (default), always or never"},
    {"--json", NULL, NULL, ALL | LISTS, FLAG_SET, AT(json), 0, 0, "one JSON object a line on standard output"},
    {"-v", "--verbose", NULL, ALL | LISTS, FLAG_COUNT, AT(verbose), 0, 0, "say more on standard error; twice: debug"},
    {"-h", "--help", NULL, ALL | LISTS, FLAG_SET, AT(help), 0, 0, "this page"},
};
enum { FLAG_TOTAL = sizeof flags / sizeof flags[0] };

void mka_cli_options_defaults(mka_cli_options *options) {
    memset(options, 0, sizeof *options);
    options->tokens = MKA_CLI_UNSET;
    options->key_type = options->value_type = options->mla = options->fill = options->memory = MKA_CLI_UNSET;
    mka_memory_plan_defaults(&options->plan);
    options->level_threshold = MKA_LEVEL_THRESHOLD;
    options->bank = MKA_BANK_AUTO;
    options->repeats = 5;
    options->prompt_tokens = 512;
    mka_sampler_defaults(&options->sampler);
}

int mka_cli_usage(const char *command, const char *format, ...) {
    va_list list;
    va_start(list, format);
    fputs("mka: ", stderr);
    if (command != NULL) fprintf(stderr, "%s: ", command);
    vfprintf(stderr, format, list);
    va_end(list);
    if (command != NULL) {
        fprintf(stderr, "\nTry: mka %s --help\n", command);
    } else {
        fputs("\nTry: mka --help\n", stderr);
    }
    return 2;
}

int mka_cli_parse_int(const char *text, long long min, long long max, long long *value) {
    size_t digits = text[0] == '-';
    if (text[digits] == '\0' || text[digits + strspn(text + digits, "0123456789")] != '\0') return 0;
    errno = 0;
    long long parsed = strtoll(text, NULL, 10);
    if (errno != 0 || parsed < min || parsed > max) return 0;
    *value = parsed;
    return 1;
}

int mka_cli_parse_real(const char *text, double min, double max, double *value) {
    if (text[0] == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0') return 0;
    char *end = NULL;
    double parsed = strtod(text, &end);
    if (*end != '\0' || !(parsed >= min && parsed <= max)) return 0;
    *value = parsed;
    return 1;
}

/* Edits (insert, delete, replace, swap of neighbours) between two words; INT_MAX for words too long to be flags. */
static int distance(const char *a, const char *b) {
    enum { LIMIT = 40 };
    size_t n = strlen(a), m = strlen(b);
    if (n >= LIMIT || m >= LIMIT) return INT_MAX;
    int d[LIMIT + 1][LIMIT + 1];
    for (size_t i = 0; i <= n; i++) d[i][0] = (int)i;
    for (size_t j = 0; j <= m; j++) d[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best) {
                best = d[i - 2][j - 2] + 1;
            }
            d[i][j] = best;
        }
    }
    return d[n][m];
}

const char *mka_cli_nearest(const char *word, const char *const *candidates, int count) {
    const char *nearest = NULL;
    int best = INT_MAX;
    for (int i = 0; i < count; i++) {
        int edits = distance(word, candidates[i]);
        if (edits < best) {
            best = edits;
            nearest = candidates[i];
        }
    }
    if (nearest == NULL) return NULL;
    /* More than a third of the word wrong is a guess, not a suggestion. */
    int allowed = strlen(nearest) <= 4 ? 1 : (int)(strlen(nearest) + 2) / 4;
    return best <= allowed ? nearest : NULL;
}

static const flag *find_flag(const char *name, size_t length, int commands) {
    for (int i = 0; i < FLAG_TOTAL; i++) {
        const char *names[2] = {flags[i].name, flags[i].alias};
        for (int k = 0; k < 2; k++) {
            if (names[k] != NULL && strlen(names[k]) == length && memcmp(names[k], name, length) == 0 &&
                (flags[i].commands & commands) != 0) {
                return &flags[i];
            }
        }
    }
    return NULL;
}

static int unknown_flag(const char *name, int command, const char *word, size_t length) {
    char typed[64];
    snprintf(typed, sizeof typed, "%.*s", (int)(length < 60 ? length : 60), word);
    if (find_flag(word, length, ALL) != NULL)
        return mka_cli_usage(name, "%s is a flag of other commands, not of %s", typed, name);
    const char *names[2 * FLAG_TOTAL];
    int count = 0;
    for (int i = 0; i < FLAG_TOTAL; i++) {
        if ((flags[i].commands & command) == 0) continue;
        names[count++] = flags[i].name;
        if (flags[i].alias != NULL) names[count++] = flags[i].alias;
    }
    const char *nearest = mka_cli_nearest(typed, names, count);
    if (nearest != NULL) return mka_cli_usage(name, "unknown flag %s (did you mean %s?)", typed, nearest);
    return mka_cli_usage(name, "unknown flag %s", typed);
}

static int set_number(mka_cli_options *options, const char *name, const flag *f, const char *typed, const char *value) {
    char *field = (char *)options + f->offset;
    long long whole;
    double real;
    if (f->kind == FLAG_REAL) {
        if (!mka_cli_parse_real(value, f->min, f->max, &real)) {
            return mka_cli_usage(name, "%s: '%s' is not a number from %g to %g", typed, value, f->min, f->max);
        }
        *(float *)field = (float)real;
        return 0;
    }
    if (!mka_cli_parse_int(value, (long long)f->min, (long long)f->max, &whole)) {
        return mka_cli_usage(name, "%s: '%s' is not a whole number from %.0f to %.0f", typed, value, f->min, f->max);
    }
    if (f->kind == FLAG_LONG) {
        *(long long *)field = whole;
    } else {
        *(int *)field = (int)whole;
    }
    return 0;
}

/* A number of bytes, or of K, M, G or T of them in powers of 1024. */
static int set_bytes(mka_cli_options *options, const char *name, const flag *f, const char *typed, const char *value) {
    static const char units[] = "KMGT";
    char *end = NULL;
    double real = strtod(value, &end);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    int shift = unit != NULL ? 10 * ((int)(unit - units) + 1) : 0;
    real *= (double)(1ULL << shift);
    if (value[strspn(value, "0123456789.")] != *end || end == value || (*end != '\0' && (unit == NULL || end[1] != '\0')) ||
        !(real >= f->min && real <= f->max))
        return mka_cli_usage(name, "%s: '%s' is not a number of bytes, such as 512M or 8G", typed, value);
    *(uint64_t *)(void *)((char *)options + f->offset) = (uint64_t)real;
    return 0;
}

static int set_seed(mka_cli_options *options, const char *name, const char *typed, const char *value) {
    uint64_t seed;
    if (strcmp(value, "random") == 0) {
        if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
            return mka_cli_usage(name, "%s: the system has no random numbers", typed);
    } else {
        errno = 0;
        seed = strtoull(value, NULL, 10);
        if (value[0] == '\0' || value[strspn(value, "0123456789")] != '\0' || errno != 0) {
            return mka_cli_usage(name, "%s: '%s' is not a whole number from 0 to 18446744073709551615, nor 'random'", typed,
                                 value);
        }
    }
    options->sampler.seed = seed;
    return 0;
}

/* One word out of a list; words are ended by NULL. Returns its index, or -1 after an error. */
static int choose(const char *name, const char *typed, const char *value, const char *const *words) {
    char list[400] = "";
    int count = 0;
    for (; words[count] != NULL; count++) {
        if (strcmp(words[count], value) == 0) return count;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", count > 0 ? ", " : "", words[count]);
    }
    const char *nearest = mka_cli_nearest(value, words, count);
    if (nearest != NULL) {
        mka_cli_usage(name, "%s: unknown value '%s' (did you mean %s?); one of %s", typed, value, nearest, list);
    } else {
        mka_cli_usage(name, "%s: unknown value '%s'; one of %s", typed, value, list);
    }
    return -1;
}

static const char *const type_words[] = {"f32", "f16", "bf16", "q8", "q4", NULL};
static const mka_type type_values[] = {MKA_F32, MKA_F16, MKA_BF16, MKA_Q8_0, MKA_Q4_0};
static const char *const phase_words[] = {"decode", "prefill", "prompt", NULL};
static const char *const variant_words[] = {"gqa", "mha", "mqa", "mla", "mka", "fastmka", NULL};

const char *mka_cli_type_name(mka_type type) {
    for (int i = 0; type_words[i] != NULL; i++)
        if (type_values[i] == type) return type_words[i];
    return mka_type_name(type);
}

const char *mka_cli_phase_name(int phase) {
    return phase_words[phase];
}

const char *mka_cli_variant_name(int variant) {
    return variant_words[variant];
}

/* The words that a kind of flag takes; NULL for a kind that takes numbers or texts. */
static const char *const *words_of(flag_kind kind) {
    static const char *const colors[] = {"auto", "always", "never", NULL};
    static const char *const forms[] = {"auto", "absorbed", "expanded", NULL};
    static const char *const fills[] = {"random", "model", NULL};
    static const char *const memories[] = {"auto", "dense", "tiered", NULL};
    static const char *const prefills[] = {"tiered", "dense", NULL};
    switch (kind) {
    case FLAG_COLOR:
        return colors;
    case FLAG_MLA:
        return forms;
    case FLAG_TEMPLATE:
        return mka_chat_templates();
    case FLAG_TYPE:
    case FLAG_TYPES:
    case FLAG_LOCAL:
    case FLAG_LONGTERM:
        return type_words;
    case FLAG_PHASES:
        return phase_words;
    case FLAG_VARIANTS:
        return variant_words;
    case FLAG_FILL:
        return fills;
    case FLAG_MEMORY:
    case FLAG_MEMORIES:
        return memories;
    case FLAG_PREFILL:
        return prefills;
    default:
        return NULL;
    }
}

static int set_choice(mka_cli_options *options, const char *name, const flag *f, const char *typed, const char *value) {
    int *field = (int *)((char *)options + f->offset);
    const char *const *words = words_of(f->kind);
    int index = choose(name, typed, value, words);
    if (index < 0) return 2;
    if (f->kind == FLAG_TEMPLATE) {
        options->chat_template = words[index];
    } else if (f->kind == FLAG_LOCAL) {
        options->key_type = options->value_type = (int)type_values[index];
    } else if (f->kind == FLAG_LONGTERM) {
        options->plan.key_type = options->plan.value_type = type_values[index];
    } else if (f->kind == FLAG_TYPE) {
        *field = (int)type_values[index];
    } else {
        *field = index;
    }
    return 0;
}

/* One part of a list: a number, or the index of a word (types: the type itself; "prompt" is another name of prefill). */
static int list_item(const char *name, const flag *f, const char *typed, const char *part, int *item) {
    long long whole;
    if (f->kind == FLAG_NUMBERS) {
        if (!mka_cli_parse_int(part, (long long)f->min, (long long)f->max, &whole))
            return mka_cli_usage(name, "%s: '%s' is not a whole number from %.0f to %.0f", typed, part, f->min, f->max);
        *item = (int)whole;
        return 0;
    }
    int index = choose(name, typed, part, words_of(f->kind));
    if (index < 0) return 2;
    *item = f->kind == FLAG_TYPES                               ? (int)type_values[index]
            : f->kind == FLAG_PHASES && index > MKA_CLI_PREFILL ? MKA_CLI_PREFILL
                                                                : index;
    return 0;
}

static int set_list(mka_cli_options *options, const char *name, const flag *f, const char *typed, const char *value) {
    mka_cli_list *list = (mka_cli_list *)((char *)options + f->offset);
    list->count = 0;
    for (const char *at = value;; at++) {
        char part[64];
        size_t length = strcspn(at, ",");
        if (list->count == MKA_CLI_LIST) return mka_cli_usage(name, "%s: a list has %d items at most", typed, MKA_CLI_LIST);
        snprintf(part, sizeof part, "%.*s", (int)(length < sizeof part ? length : sizeof part - 1), at);
        int status = list_item(name, f, typed, part, &list->items[list->count++]);
        if (status != 0) return status;
        at += length;
        if (*at == '\0') return 0;
    }
}

/* auto, dense, or one of p=, tokens=, eps= with its number. */
static int set_recall(mka_cli_options *options, const char *name, const char *typed, const char *value) {
    mka_recall recall = {.contract = MKA_RECALL_ESTIMATED};
    double real = 0;
    long long whole = 0;
    int good = strcmp(value, "auto") == 0;
    if (strcmp(value, "dense") == 0) {
        recall.contract = MKA_RECALL_DENSE;
        good = 1;
    } else if (strncmp(value, "p=", 2) == 0) {
        good = mka_cli_parse_real(value + 2, 0, 1, &real) && real > 0 && real < 1;
        recall.share = (float)real;
    } else if (strncmp(value, "eps=", 4) == 0) {
        good = mka_cli_parse_real(value + 4, 0, 1, &real) && real < 1;
        recall.contract = MKA_RECALL_CERTIFIED;
        recall.eps = (float)real;
    } else if (strncmp(value, "tokens=", 7) == 0) {
        good = mka_cli_parse_int(value + 7, 1, 1 << 27, &whole);
        recall.tokens = (int)whole;
    }
    if (!good)
        return mka_cli_usage(name,
                             "%s: '%s' is not auto, dense, p=0.95 (0 < p < 1), tokens=512 (1 or more) or eps=0.01 (0 <= eps < 1)",
                             typed, value);
    options->plan.recall = recall;
    return 0;
}

/* auto, off, interleave, or nodes= with numbers. */
static int set_numa(mka_cli_options *options, const char *name, const char *typed, const char *value) {
    static const char *const words[] = {"auto", "off", "interleave", NULL};
    static const mka_numa_mode modes[] = {MKA_NUMA_AUTO, MKA_NUMA_OFF, MKA_NUMA_INTERLEAVE};
    options->nodes = 0;
    options->plan.numa = MKA_NUMA_AUTO;
    if (strncmp(value, "nodes=", 6) != 0) {
        int index = 0;
        while (words[index] != NULL && strcmp(words[index], value) != 0) index++;
        if (words[index] == NULL)
            return mka_cli_usage(name, "%s: '%s' is not auto, off, interleave or nodes=0,2 (numbers from 0 to 63)", typed, value);
        options->plan.numa = modes[index];
        return 0;
    }
    for (const char *at = value + 6;; at++) {
        char part[8];
        size_t length = strcspn(at, ",");
        long long number;
        snprintf(part, sizeof part, "%.*s", (int)(length < sizeof part ? length : sizeof part - 1), at);
        if (!mka_cli_parse_int(part, 0, 63, &number))
            return mka_cli_usage(name, "%s: '%s' is no NUMA node; nodes= takes numbers from 0 to 63", typed, part);
        options->nodes |= 1ULL << number;
        at += length;
        if (*at == '\0') return 0;
    }
}

static int set_device(mka_cli_options *options, const char *name, const char *value) {
    if (strcmp(value, "cpu") == 0) {
        options->device = value;
        return 0;
    }
    if (strcmp(value, "opencl") == 0 || strncmp(value, "opencl:", 7) == 0) {
        options->device = value;
        return 0;
    }
    return mka_cli_usage(name, "--device: unknown device '%s'; cpu, opencl, opencl:N and opencl:NAME are known (see mka info)",
                         value);
}

static int set_value(mka_cli_options *options, const char *name, const flag *f, const char *typed, const char *value) {
    switch (f->kind) {
    case FLAG_TEXT:
        *(const char **)((char *)options + f->offset) = value;
        return 0;
    case FLAG_BYTES:
        return set_bytes(options, name, f, typed, value);
    case FLAG_INT:
    case FLAG_LONG:
    case FLAG_REAL:
        return set_number(options, name, f, typed, value);
    case FLAG_SEED:
        return set_seed(options, name, typed, value);
    case FLAG_DEVICE:
        return set_device(options, name, value);
    case FLAG_BANK:
        if (strcmp(value, "auto") != 0) return set_number(options, name, f, typed, value);
        options->bank = MKA_BANK_AUTO;
        return 0;
    case FLAG_BANK_FROM:
        if (options->bank_files == MKA_CLI_LIST) return mka_cli_usage(name, "%s: %d files at most", typed, MKA_CLI_LIST);
        options->bank_from[options->bank_files++] = value;
        return 0;
    case FLAG_REMEMBER:
        if (options->remembered == MKA_CLI_LIST)
            return mka_cli_usage(name, "%s: %d files at most; 'mka memory merge' makes one of several", typed, MKA_CLI_LIST);
        options->remember[options->remembered++] = value;
        return 0;
    case FLAG_RECALL:
        return set_recall(options, name, typed, value);
    case FLAG_NUMA:
        return set_numa(options, name, typed, value);
    case FLAG_NUMBERS:
    case FLAG_MEMORIES:
    case FLAG_PHASES:
    case FLAG_VARIANTS:
    case FLAG_TYPES:
        return set_list(options, name, f, typed, value);
    default:
        return set_choice(options, name, f, typed, value);
    }
}

/* Parses the flag at argv[*at] and moves *at to its last word. */
static int parse_flag(mka_cli_options *options, const char *name, int command, int argc, char **argv, int *at) {
    const char *word = argv[*at], *equals = word[1] == '-' ? strchr(word, '=') : NULL;
    size_t length = equals != NULL ? (size_t)(equals - word) : strlen(word);
    const flag *f = find_flag(word, length, command);
    if (f == NULL) return unknown_flag(name, command, word, length);
    const char *typed = length == strlen(f->name) && memcmp(f->name, word, length) == 0 ? f->name : f->alias;
    if (f->value == NULL) {
        if (equals != NULL) return mka_cli_usage(name, "%s takes no value", typed);
        int *field = (int *)((char *)options + f->offset);
        *field = f->kind == FLAG_COUNT ? *field + 1 : 1;
        return 0;
    }
    if (equals != NULL) return set_value(options, name, f, typed, equals + 1);
    if (*at + 1 >= argc) return mka_cli_usage(name, "%s needs a value (%s)", typed, f->value);
    const char *value = argv[++*at];
    /* "-m -p hello": the model was forgotten, it is not called "-p". */
    if (value[0] == '-' && strcmp(f->name, "-p") != 0 && find_flag(value, strlen(value), command) != NULL) {
        return mka_cli_usage(name, "%s needs a value (%s), but the flag %s follows", typed, f->value, value);
    }
    return set_value(options, name, f, typed, value);
}

int mka_cli_options_parse(mka_cli_options *options, const char *name, int command, int argc, char **argv,
                          const char **arguments) {
    int only_arguments = 0;
    options->arguments = arguments;
    for (int i = 0; i < argc; i++) {
        if (!only_arguments && strcmp(argv[i], "--") == 0) {
            only_arguments = 1;
        } else if (!only_arguments && argv[i][0] == '-' && argv[i][1] != '\0') {
            int status = parse_flag(options, name, command, argc, argv, &i);
            if (status != 0 || options->help) return status;
        } else {
            arguments[options->argument_count++] = argv[i];
        }
    }
    return 0;
}

void mka_cli_options_help(FILE *out, int command) {
    for (int i = 0; i < FLAG_TOTAL; i++) {
        const flag *f = &flags[i];
        if ((f->commands & command) == 0) continue;
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s%s", f->name, f->alias != NULL ? ", " : "", f->alias != NULL ? f->alias : "",
                 f->value != NULL ? " " : "", f->value != NULL ? f->value : "");
        fprintf(out, "  %-30s %s\n", left, f->help);
        if (f->kind != FLAG_TEMPLATE) continue;
        fprintf(out, "  %-30s one of:", "");
        for (const char *const *t = mka_chat_templates(); *t != NULL; t++) fprintf(out, " %s", *t);
        fputc('\n', out);
    }
}
