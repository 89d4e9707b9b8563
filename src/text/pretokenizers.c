/* pretokenizers - the names that GGUF files give to ways of cutting text into words, and the patterns behind them.
 *
 * The names and what each must do are llama.cpp's, which is the reference for ids; the patterns are written for the views of
 * pretokenize.c. In the view of categories, every letter beyond ASCII is one without case: so "a letter but a-z" holds for it,
 * as it does for llama.cpp, where the original pattern would ask for upper case.
 */
#include <string.h>

#include "text/internal.h"

#define CLASSES(text)                                                                                                            \
    { MKA_VIEW_CLASSES, MKA_SPLIT_ISOLATED, 0, text }
#define SPACES(text)                                                                                                             \
    { MKA_VIEW_SPACES, MKA_SPLIT_ISOLATED, 0, text }
#define DIGITS                                                                                                                   \
    { MKA_VIEW_DIGITS, MKA_SPLIT_ISOLATED, 0, NULL }
#define CONTRACTION          "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
#define SPACE_RUNS           "\\s+(?!\\S)|\\s+"
#define LINE_ENDS            "\\s*[\\r\\n]+|"
#define WORD                 "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define SIGNS                " ?[^\\s\\p{L}\\p{N}]+"
#define GPT2                 "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" SPACE_RUNS
#define LLAMA3_DIGITS(count) CONTRACTION "|" WORD "\\p{N}" count "|" SIGNS "[\\r\\n]*|" LINE_ENDS SPACE_RUNS
#define NOT_LOWER            "[^\\P{L}a-z]"
#define NOT_UPPER            "[^\\P{L}A-Z]"
#define LEAD                 "[^\\r\\n\\p{L}\\p{N}]?"
#define CASED(end)           LEAD NOT_LOWER "*" NOT_UPPER "+" end "|" LEAD NOT_LOWER "+" NOT_UPPER "*" end "|"
#define SLASHED_SIGNS        SIGNS "[\\r\\n/]*|" LINE_ENDS SPACE_RUNS
#define PUNCTUATED_WORD      "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
#define MARKED_NOT_LOWER     "[A-Z\\x{AA}\\x{4E00}\\x{300}]"
#define MARKED_NOT_UPPER     "[a-z\\x{AA}\\x{4E00}\\x{300}]"

const char mka_gpt2_pattern[] = GPT2;

/* The letters that deepseek-llm keeps together: those with case, as of the Unicode of its day. */
static const char cased_letters[] =
    "\\s?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}"
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}"
    "\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}"
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}"
    "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}"
    "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}"
    "\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}"
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}"
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+";

static const mka_pretokenizer pretokenizers[] = {
    {.names = "default",
     .patterns = {CLASSES("[\\p{P}$+<=>^~|]+"), CLASSES(GPT2), CLASSES("\\p{N}+"), SPACES("[0-9][0-9][0-9]")}},
    {.names = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     .patterns = {CLASSES(LLAMA3_DIGITS("{1,3}"))},
     .ignore_merges = 1,
     .add_bos = 1},
    {.names = "dbrx smaug-bpe", .patterns = {CLASSES(LLAMA3_DIGITS("{1,3}"))}},
    {.names = "chatglm-bpe", .patterns = {CLASSES(LLAMA3_DIGITS("{1,3}"))}, .no_bos = 1},
    {.names = "glm4 glm5", .patterns = {CLASSES(LLAMA3_DIGITS("{1,3}"))}, .no_bos = 1, .ignore_merges = 1},
    {.names = "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2",
     .patterns = {CLASSES(LLAMA3_DIGITS(""))}},
    {.names = "ufakzeka", .patterns = {CLASSES(WORD "\\p{N}|" SIGNS "[\\r\\n]*|" LINE_ENDS SPACE_RUNS)}},
    {.names = "laguna", .patterns = {SPACES("[^\\n]+|\\n+"), CLASSES(LLAMA3_DIGITS(""))}},
    {.names = "minicpm5", .patterns = {CLASSES("\\p{N}{1,3}"), CLASSES(LLAMA3_DIGITS("+"))}, .ignore_merges = 1},
    {.names = "qwen35",
     .patterns = {CLASSES(CONTRACTION "|" LEAD
                                      "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINE_ENDS SPACE_RUNS)}},
    {.names = "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code "
              "roberta-bpe mpt olmo jais trillion granite-docling exaone4",
     .patterns = {CLASSES(GPT2)}},
    {.names = "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
     .patterns = {CLASSES("\\p{N}"), CLASSES(GPT2)}},
    {.names = "falcon", .patterns = {CLASSES("[\\p{P}$+<=>^~|`]+"), CLASSES(GPT2), SPACES("[0-9][0-9][0-9]")}},
    {.names = "deepseek-llm",
     .patterns = {SPACES("[\\r\\n]"), SPACES(cased_letters),
                  SPACES("\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"),
                  SPACES("(?<!\\s)\\s++$"), SPACES("[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}]+"), CLASSES("\\p{N}+")}},
    {.names = "deepseek-coder",
     .patterns = {SPACES("[\\r\\n]"), CLASSES("\\s?\\p{L}+"), CLASSES("\\s?\\p{P}+"),
                  SPACES("[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}]+"), CLASSES("\\p{N}")}},
    {.names = "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
     .patterns = {CLASSES("\\p{N}{1,3}"), SPACES("[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}]+"),
                  CLASSES(PUNCTUATED_WORD " ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINE_ENDS SPACE_RUNS)}},
    {.names = "spark2_5",
     .patterns = {CLASSES("\\p{N}{1,3}"), SPACES("[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}]+"),
                  CLASSES(PUNCTUATED_WORD " ?[\\p{P}\\p{S}]+|[\\r\\n]|" SPACE_RUNS), CLASSES("\\p{N}")}},
    {.names = "tekken", .patterns = {CLASSES(CASED("") "\\p{N}|" SLASHED_SIGNS)}, .ignore_merges = 1, .add_bos = 1},
    {.names = "gpt-4o llama4 kanana2 talkie minimax-m2",
     .patterns = {CLASSES(CASED("(?:" CONTRACTION ")?") "\\p{N}{1,3}|" SLASHED_SIGNS)}},
    {.names = "granite-embed-multi-97m",
     .patterns = {CLASSES(LEAD MARKED_NOT_LOWER "*" MARKED_NOT_UPPER "+(?:" CONTRACTION ")?|" LEAD MARKED_NOT_LOWER
                                                "+" MARKED_NOT_UPPER "*(?:" CONTRACTION ")?|\\p{N}{1,3}|" SLASHED_SIGNS)},
     .ignore_merges = 1},
    {.names = "tiny_aya cohere2moe",
     .patterns = {DIGITS, CLASSES(LEAD "[\\p{L}\\p{M}]+(?:" CONTRACTION ")?|\\p{N}{1,3}|" SLASHED_SIGNS)}},
    {.names = "youtu",
     .patterns =
         {SPACES("[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+|"
                 "[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}\\x{2014}\\x{FF1A}\\x{FF1B}\\x{FF0C}"
                 "\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+|[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}]+"),
          CLASSES(LEAD "[\\p{L}\\p{M}]+(?:" CONTRACTION ")?|\\p{N}|" SLASHED_SIGNS)},
     .ignore_merges = 1},
    {.names = "jais-2",
     .patterns = {CLASSES(CONTRACTION
                          "|" WORD "\\p{N}{1,3}|" SIGNS "[\\r\\n]*|" LINE_ENDS
                          "\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|"
                          "\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s")}},
    {.names = "exaone-moe",
     .patterns = {CLASSES(CONTRACTION "|" LEAD "(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}|" SIGNS
                                      "[\\r\\n/]?|\\s*[\\r\\n]|" SPACE_RUNS)}},
    {.names = "chameleon",
     .patterns = {SPACES("<sentinel:[0-9]+>"), SPACES("IMGIMG[A-I]{1,4}Z"), SPACES("[\\t\\n]|    |  "), CLASSES("\\p{N}"),
                  CLASSES("[\\p{P}!-/:-@\\[-`{-~]"), CLASSES(GPT2)},
     .add_bos = 1},
    {.names = "kimi-k2",
     .patterns = {CLASSES("[\\x{4E00}\\x{FDD1}]+|" LEAD "[A-Za-z\\x{AA}]+(?:" CONTRACTION ")?|\\p{N}{1,3}|" SIGNS
                          "[\\r\\n]*|" LINE_ENDS SPACE_RUNS)}},
    {.names = "afmoe",
     .patterns = {DIGITS,
                  SPACES("[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{8C48}-\\x{FAFF}\\x{3040}-\\x{30FF}\\x{FF65}-\\x{FF9F}"
                         "\\x{2F00}-\\x{2FDF}\\x{E40}-\\x{E7F}\\x{E80}-\\x{EFF}\\x{1780}-\\x{17FF}\\x{1000}-\\x{109F}"
                         "\\x{AA60}-\\x{AA7F}\\x{A9E0}-\\x{A9FF}\\x{AC00}-\\x{D7AF}\\x{1100}-\\x{11FF}]+"),
                  CLASSES(PUNCTUATED_WORD " ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINE_ENDS SPACE_RUNS)}},
    {.names = "bailingmoe bailingmoe2 llada-moe",
     .patterns = {CLASSES(CONTRACTION "|" WORD "\\p{N}|" SIGNS "[\\r\\n]*|\\s*[\\r\\n]|" SPACE_RUNS)}},
    {.names = "seed-coder",
     .patterns = {CLASSES(CONTRACTION "|" WORD "\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" LINE_ENDS SPACE_RUNS)}},
    {.names = "poro-chat bloom gpt3-finnish",
     .patterns = {SPACES(" ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+")}},
    {.names = "viking",
     .patterns = {SPACES(" ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+"), CLASSES("\\p{N}")}},
    {.names = "gemma4 granite-embed-multi-311m",
     .patterns = {SPACES("[^\\n]+|\\n+")},
     .raw = 1,
     .newline_words = 1,
     .add_bos = 1},
    {.names = "sarvam-moe", .patterns = {SPACES("[^\\n]+|\\n+")}, .raw = 1},
};

static int is_named(const char *names, const char *name, size_t length) {
    while (*names) {
        size_t word = strcspn(names, " ");
        if (word == length && memcmp(names, name, length) == 0) return 1;
        names += word + (names[word] == ' ');
    }
    return 0;
}

const mka_pretokenizer *mka_pretokenizer_find(const char *name) {
    if (!name || !*name) name = "default";
    for (size_t i = 0; i < sizeof pretokenizers / sizeof *pretokenizers; i++)
        if (is_named(pretokenizers[i].names, name, strlen(name))) return &pretokenizers[i];
    return NULL;
}
