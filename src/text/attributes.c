/* attributes - what a token is by its text, where the file does not say: ends of turn, control tokens, fill-in-the-middle marks.
 *
 * Files are often silent or wrong about these, so the texts that are known decide, as they do in llama.cpp: generation then ends
 * at the same tokens, and the same ones are hidden or kept from being typed.
 */
#include <string.h>

#include "text/internal.h"

#define DEEPSEEK_END                                                                                                             \
    "<\xEF\xBD\x9C"                                                                                                              \
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"
#define DEEPSEEK_FIM                                                                                                             \
    "<\xEF\xBD\x9C"                                                                                                              \
    "fim\xE2\x96\x81"
#define DEEPSEEK_BAR "\xEF\xBD\x9C>"

/* Ends of turn, in the order in which one of them becomes the model's own. */
static const char *const turn_ends[] = {"<|eot_id|>",    "<|im_end|>", "<end_of_turn>", "<|end|>",    "<|end_of_text|>",
                                        "<EOT>",         "_<EOT>",     "[EOT]",         DEEPSEEK_END, "<end_of_utterance>",
                                        "<|endoftext|>", NULL};
static const char *const message_ends[] = {"<|eom_id|>", NULL};
/* Generation ends at any of these. */
static const char *const ends[] = {"<|eot_id|>",
                                   "<|im_end|>",
                                   "<|end|>",
                                   "<|return|>",
                                   "<|call|>",
                                   "<|flush|>",
                                   "<|calls|>",
                                   "<end_of_turn>",
                                   "<|endoftext|>",
                                   "</s>",
                                   "<|eom_id|>",
                                   "<EOT>",
                                   "_<EOT>",
                                   "[EOT]",
                                   "[EOS]",
                                   "<|end_of_text|>",
                                   "<end_of_utterance>",
                                   "<eos>",
                                   "<turn|>",
                                   "<|tool_response>",
                                   DEEPSEEK_END,
                                   "[e~[",
                                   NULL};

static const char *const fim_prefix[] = {"<|fim_prefix|>",
                                         "<fim-prefix>",
                                         "<fim_prefix>",
                                         DEEPSEEK_FIM "begin" DEEPSEEK_BAR,
                                         "<PRE>",
                                         "\xE2\x96\x81<PRE>",
                                         "<|code_prefix|>",
                                         "<|prefix|>",
                                         NULL};
static const char *const fim_suffix[] = {"<|fim_suffix|>",
                                         "<fim-suffix>",
                                         "<fim_suffix>",
                                         DEEPSEEK_FIM "hole" DEEPSEEK_BAR,
                                         "<SUF>",
                                         "\xE2\x96\x81<SUF>",
                                         "<|code_suffix|>",
                                         "<|suffix|>",
                                         NULL};
static const char *const fim_middle[] = {"<|fim_middle|>",
                                         "<fim-middle>",
                                         "<fim_middle>",
                                         DEEPSEEK_FIM "end" DEEPSEEK_BAR,
                                         "<MID>",
                                         "\xE2\x96\x81<MID>",
                                         "<|code_middle|>",
                                         "<|middle|>",
                                         NULL};
static const char *const fim_pad[] = {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", NULL};
static const char *const fim_repository[] = {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", NULL};
static const char *const fim_file[] = {"<|file_sep|>", NULL};
static const char *const always_shown[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", NULL};

static int find_text(const mka_tokenizer *tokenizer, const char *text) {
    uint32_t found = mka_strings_find(&tokenizer->symbols, text, strlen(text));
    return found < tokenizer->count ? (int)found : -1;
}

/* The first of the texts that is a token, made a control token; -1 when none is. */
static int claim(mka_tokenizer *tokenizer, const char *const *texts) {
    for (; *texts; texts++) {
        int id = find_text(tokenizer, *texts);
        if (id < 0) continue;
        tokenizer->attr[id] |= MKA_ATTR_CONTROL;
        return id;
    }
    return -1;
}

static void set_end(mka_tokenizer *tokenizer, int id) {
    if (id >= 0) tokenizer->end[id] = 1;
}

static int is_end_text(const mka_tokenizer *tokenizer, const char *text) {
    int id = find_text(tokenizer, text);
    return id >= 0 && tokenizer->end[id];
}

/* Tokens that end other models' turns, but are ordinary in a few families. */
static void take_back_ends(mka_tokenizer *tokenizer) {
    int call = is_end_text(tokenizer, "<|call|>") || is_end_text(tokenizer, "<|calls|>");
    int id = find_text(tokenizer, "<|end|>");
    if (id >= 0 && call && (is_end_text(tokenizer, "<|return|>") || is_end_text(tokenizer, "<|flush|>"))) {
        tokenizer->end[id] = 0;
        tokenizer->attr[id] = MKA_ATTR_USER;
    }
    id = find_text(tokenizer, "</s>");
    if (id >= 0 && tokenizer->end[id] &&
        (is_end_text(tokenizer, "<|tool_response>") || is_end_text(tokenizer, "<|plamo:eos|>"))) {
        tokenizer->end[id] = 0;
        tokenizer->attr[id] = MKA_ATTR_NORMAL;
    }
}

static void find_ends(mka_tokenizer *tokenizer) {
    int message_end = claim(tokenizer, message_ends);
    (void)claim(tokenizer, fim_prefix);
    (void)claim(tokenizer, fim_suffix);
    (void)claim(tokenizer, fim_middle);
    set_end(tokenizer, claim(tokenizer, fim_pad));
    set_end(tokenizer, claim(tokenizer, fim_repository));
    set_end(tokenizer, claim(tokenizer, fim_file));
    for (const char *const *text = ends; *text; text++) {
        const char *const one[] = {*text, NULL};
        set_end(tokenizer, claim(tokenizer, one));
    }
    for (const char *const *text = always_shown; *text; text++) {
        int id = find_text(tokenizer, *text);
        if (id >= 0) tokenizer->attr[id] = MKA_ATTR_USER;
    }
    set_end(tokenizer, tokenizer->special.eos);
    set_end(tokenizer, tokenizer->special.eot);
    set_end(tokenizer, message_end);
    take_back_ends(tokenizer);
}

/* Phi-3 drops white space after its special tokens; no field of a GGUF says so, only the model's name does. */
static void strip_for_phi3(mka_tokenizer *tokenizer) {
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>", NULL};
    for (size_t i = 0; i < tokenizer->count; i++)
        if (tokenizer->attr[i] & (MKA_ATTR_CONTROL | MKA_ATTR_USER | MKA_ATTR_UNKNOWN)) tokenizer->attr[i] |= MKA_ATTR_RSTRIP;
    int id = find_text(tokenizer, "</s>");
    if (id >= 0) tokenizer->attr[id] |= MKA_ATTR_RSTRIP;
    for (const char *const *text = keep; *text; text++) {
        id = find_text(tokenizer, *text);
        if (id >= 0) tokenizer->attr[id] &= (unsigned char)~MKA_ATTR_RSTRIP;
    }
}

static void strip_by_name(mka_tokenizer *tokenizer, const mka_vocab_spec *spec) {
    const char *pre = spec->pre ? spec->pre : "", *architecture = spec->architecture ? spec->architecture : "";
    const char *title = spec->title ? spec->title : "";
    const char *mask = NULL;
    if (strstr(pre, "jina-v2-de") || strstr(pre, "jina-v2-es") || strstr(pre, "jina-v2-code") ||
        strstr(architecture, "nomic-bert-moe") || strstr(architecture, "jina-bert-v3")) {
        mask = "<mask>";
    } else if (strcasestr(title, "phi-3") || strcasestr(title, "phi3")) {
        strip_for_phi3(tokenizer);
    } else if (strcasestr(title, "modern-bert")) {
        mask = "[MASK]";
    }
    int id = mask ? find_text(tokenizer, mask) : -1;
    if (id >= 0) tokenizer->attr[id] |= MKA_ATTR_LSTRIP;
}

static int choose(const mka_tokenizer *tokenizer, int stated, int fallback) {
    if (stated >= 0 && (size_t)stated < tokenizer->count) return stated;
    return fallback >= 0 && (size_t)fallback < tokenizer->count ? fallback : -1;
}

void mka_tokenizer_attributes(mka_tokenizer *tokenizer, const mka_vocab_spec *spec, const mka_special *defaults) {
    const mka_special *stated = &spec->special;
    mka_special *special = &tokenizer->special;
    special->bos = choose(tokenizer, stated->bos, defaults->bos);
    special->eos = choose(tokenizer, stated->eos, defaults->eos);
    special->unknown = choose(tokenizer, stated->unknown, defaults->unknown);
    special->pad = choose(tokenizer, stated->pad, -1);
    special->eot = choose(tokenizer, stated->eot, -1);
    if (special->eot < 0) special->eot = claim(tokenizer, turn_ends);
    special->add_bos = stated->add_bos >= 0 ? stated->add_bos > 0 : defaults->add_bos;
    special->add_eos = stated->add_eos >= 0 ? stated->add_eos > 0 : defaults->add_eos;
    find_ends(tokenizer);
    strip_by_name(tokenizer, spec);
}
