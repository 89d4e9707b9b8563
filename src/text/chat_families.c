/* chat_families - the marks of each family of chat templates, and how a family is told from a template's text. */
#include <string.h>

#include "text/chat.h"

#define BAR         "\xEF\xBD\x9C" /* U+FF5C */
#define DS_USER     "<" BAR "User" BAR ">"
#define DS_ANSWER   "<" BAR "Assistant" BAR ">"
#define DS_END      "<" BAR "end\xE2\x96\x81of\xE2\x96\x81sentence" BAR ">"
#define EOS         "\1"
#define HEADER(who) "<|start_header_id|>" who "<|end_header_id|>\n\n"

static const mka_chat_marks families[MKA_CHAT_FAMILIES] = {
    [MKA_CHAT_CHATML] = {"chatml",
                         {"<|im_start|>system\n", "<|im_end|>\n"},
                         {"<|im_start|>user\n", "<|im_end|>\n"},
                         {"<|im_start|>assistant\n", "<|im_end|>\n"},
                         .open = "<|im_start|>assistant\n"},
    [MKA_CHAT_LLAMA2] = {"llama2",
                         {"<<SYS>>\n", "\n<</SYS>>\n\n"},
                         {"[INST] ", " [/INST]"},
                         {" ", " " EOS},
                         .open = "",
                         .place = MKA_CHAT_FIRST_USER,
                         .trim = 1,
                         .eos = "</s>"},
    [MKA_CHAT_LLAMA3] = {"llama3",
                         {HEADER("system"), "<|eot_id|>"},
                         {HEADER("user"), "<|eot_id|>"},
                         {HEADER("assistant"), "<|eot_id|>"},
                         .open = HEADER("assistant"),
                         .trim = 1,
                         .trim_system = 1},
    [MKA_CHAT_LLAMA4] = {"llama4",
                         {"<|header_start|>system<|header_end|>\n\n", "<|eot|>"},
                         {"<|header_start|>user<|header_end|>\n\n", "<|eot|>"},
                         {"<|header_start|>assistant<|header_end|>\n\n", "<|eot|>"},
                         .open = "<|header_start|>assistant<|header_end|>\n\n",
                         .trim = 1,
                         .trim_system = 1},
    [MKA_CHAT_GEMMA] = {"gemma",
                        {"", "\n\n"},
                        {"<start_of_turn>user\n", "<end_of_turn>\n"},
                        {"<start_of_turn>model\n", "<end_of_turn>\n"},
                        .open = "<start_of_turn>model\n",
                        .place = MKA_CHAT_FIRST_USER,
                        .trim = 1},
    [MKA_CHAT_MISTRAL_V1] = {"mistral-v1",
                             {"", "\n\n"},
                             {" [INST] ", " [/INST]"},
                             {" ", EOS},
                             .open = "",
                             .place = MKA_CHAT_FIRST_USER,
                             .eos = "</s>"},
    [MKA_CHAT_MISTRAL_V3] =
        {"mistral-v3", {"", "\n\n"}, {"[INST] ", "[/INST]"}, {" ", EOS}, .open = "", .place = MKA_CHAT_FIRST_USER, .eos = "</s>"},
    [MKA_CHAT_MISTRAL_V3_TEKKEN] = {"mistral-v3-tekken",
                                    {"", "\n\n"},
                                    {"[INST]", "[/INST]"},
                                    {"", EOS},
                                    .open = "",
                                    .place = MKA_CHAT_FIRST_USER,
                                    .eos = "</s>"},
    [MKA_CHAT_MISTRAL_V7] =
        {"mistral-v7", {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"}, {"[INST] ", "[/INST]"}, {" ", EOS}, .open = "", .eos = "</s>"},
    [MKA_CHAT_MISTRAL_V7_TEKKEN] = {"mistral-v7-tekken",
                                    {"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"},
                                    {"[INST]", "[/INST]"},
                                    {"", EOS},
                                    .open = "",
                                    .eos = "</s>"},
    [MKA_CHAT_ZEPHYR] = {"zephyr",
                         {"<|system|>\n", EOS "\n"},
                         {"<|user|>\n", EOS "\n"},
                         {"<|assistant|>\n", EOS "\n"},
                         .open = "<|assistant|>\n",
                         .eos = "</s>"},
    [MKA_CHAT_DEEPSEEK] =
        {"deepseek", {"", "\n\n"}, {"User: ", "\n\n"}, {"Assistant: ", EOS}, .open = "Assistant:", .eos = DS_END},
    [MKA_CHAT_DEEPSEEK3] = {"deepseek3",
                            {"", ""},
                            {DS_USER, ""},
                            {DS_ANSWER, DS_END},
                            .open = DS_ANSWER,
                            .place = MKA_CHAT_IN_FRONT,
                            .between = "\n\n"},
    [MKA_CHAT_DEEPSEEK_CODER] =
        {"deepseek-coder", {"", ""}, {"### Instruction:\n", "\n"}, {"### Response:\n", "\n<|EOT|>\n"}, .open = "### Response:\n"},
    [MKA_CHAT_PHI3] = {"phi3",
                       {"<|system|>\n", "<|end|>\n"},
                       {"<|user|>\n", "<|end|>\n"},
                       {"<|assistant|>\n", "<|end|>\n"},
                       .open = "<|assistant|>\n"},
    [MKA_CHAT_PHI4] = {"phi4",
                       {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
                       {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
                       {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
                       .open = "<|im_start|>assistant<|im_sep|>"},
    [MKA_CHAT_GRANITE] = {"granite",
                          {"<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"},
                          {"<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"},
                          {"<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"},
                          .open = "<|start_of_role|>assistant<|end_of_role|>"},
    [MKA_CHAT_COMMAND_R] = {"command-r",
                            {"<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
                            {"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
                            {"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
                            .open = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
                            .trim = 1},
};

const mka_chat_marks *mka_chat_marks_of(int family) {
    return &families[family];
}

/* ---- names ---- */

const char *const *mka_chat_templates(void) {
    static const char *const names[] = {"chatml",
                                        "llama2",
                                        "llama3",
                                        "llama4",
                                        "gemma",
                                        "mistral",
                                        "mistral-v1",
                                        "mistral-v3",
                                        "mistral-v3-tekken",
                                        "mistral-v7",
                                        "mistral-v7-tekken",
                                        "zephyr",
                                        "deepseek",
                                        "deepseek3",
                                        "deepseek-coder",
                                        "phi3",
                                        "phi4",
                                        "granite",
                                        "command-r",
                                        NULL};
    return names;
}

int mka_chat_by_name(const char *name) {
    for (int i = MKA_CHAT_UNKNOWN + 1; i < MKA_CHAT_FAMILIES; i++)
        if (name && strcmp(name, families[i].name) == 0) return i;
    return name && strcmp(name, "mistral") == 0 ? MKA_CHAT_MISTRAL_V3 : MKA_CHAT_UNKNOWN;
}

/* ---- detection ---- */

static int has(const char *jinja, const char *text) {
    return strstr(jinja, text) != NULL;
}

/* Two families write <|user|> and end a turn with EOS or only with a line; the first is Zephyr's. */
static int user_ends_with_eos(const char *jinja) {
    const char *user = strstr(jinja, "<|user|>"), *end = user ? strstr(user, "}}") : NULL;
    if (!end) return 0;
    size_t length = (size_t)(end - user);
    return memmem(user, length, "eos_token", 9) || memmem(user, length, "<|endoftext|>", 13);
}

/* Templates with [INST]: Mistral's official ones differ in where spaces stand, the rest are variants of Llama 2's. */
static int detect_inst(const char *jinja) {
    if (has(jinja, "[SYSTEM_PROMPT]")) {
        return has(jinja, "[INST] ") ? MKA_CHAT_MISTRAL_V7 : MKA_CHAT_MISTRAL_V7_TEKKEN;
    }
    if (has(jinja, "' [INST] ' + system_message") || has(jinja, "[AVAILABLE_TOOLS]")) {
        if (has(jinja, " [INST]")) return MKA_CHAT_MISTRAL_V1;
        return has(jinja, "\"[INST]\"") ? MKA_CHAT_MISTRAL_V3_TEKKEN : MKA_CHAT_MISTRAL_V3;
    }
    return MKA_CHAT_LLAMA2;
}

int mka_chat_detect(const char *jinja) {
    if (!jinja) return MKA_CHAT_UNKNOWN;
    if (has(jinja, "<|im_start|>")) {
        if (has(jinja, "<end_of_utterance>")) return MKA_CHAT_UNKNOWN; /* SmolVLM: only looks like ChatML */
        return has(jinja, "<|im_sep|>") ? MKA_CHAT_PHI4 : MKA_CHAT_CHATML;
    }
    if (has(jinja, "[INST]")) return detect_inst(jinja);
    if (has(jinja, "<|assistant|>") && has(jinja, "<|end|>")) return MKA_CHAT_PHI3;
    if (has(jinja, "[gMASK]")) return MKA_CHAT_UNKNOWN;
    if (user_ends_with_eos(jinja)) return MKA_CHAT_ZEPHYR;
    if (has(jinja, "<start_of_turn>")) return MKA_CHAT_GEMMA;
    if (has(jinja, "### Instruction:") && has(jinja, "<|EOT|>")) return MKA_CHAT_DEEPSEEK_CODER;
    if (has(jinja, "<|START_OF_TURN_TOKEN|>") && has(jinja, "<|USER_TOKEN|>")) return MKA_CHAT_COMMAND_R;
    if (has(jinja, "<|start_header_id|>") && has(jinja, "<|end_header_id|>")) return MKA_CHAT_LLAMA3;
    if (has(jinja, "'Assistant: ' + message['content'] + eos_token")) return MKA_CHAT_DEEPSEEK;
    if (has(jinja, DS_ANSWER) && has(jinja, DS_USER)) return MKA_CHAT_DEEPSEEK3;
    if (has(jinja, "<|start_of_role|>")) return MKA_CHAT_GRANITE;
    if (has(jinja, "<|header_start|>") && has(jinja, "<|header_end|>")) return MKA_CHAT_LLAMA4;
    return MKA_CHAT_UNKNOWN;
}
