/* chat - the turn markers of the common model families, chosen from a model's own (Jinja) template text, never run as code. */
#ifndef MKA_TEXT_CHAT_H
#define MKA_TEXT_CHAT_H

#include <mka/model.h>

typedef enum mka_chat_family {
    MKA_CHAT_UNKNOWN,
    MKA_CHAT_CHATML,
    MKA_CHAT_LLAMA2,
    MKA_CHAT_LLAMA3,
    MKA_CHAT_GEMMA,
    MKA_CHAT_MISTRAL,
    MKA_CHAT_ZEPHYR,
    MKA_CHAT_DEEPSEEK /* further members where a family differs in spaces or versions */
} mka_chat_family;

/* By name ("chatml", ...); MKA_CHAT_UNKNOWN when there is none. */
int mka_chat_by_name(const char *name);
/* From the text of a Jinja template (tokenizer.chat_template); NULL gives MKA_CHAT_UNKNOWN. */
int mka_chat_detect(const char *jinja);

/* Formats messages. jinja (may be NULL) is the model's template text: where it names a default system message that it adds
 * when none is given (SmolLM2, Qwen2.5), so does this. bos, eos: text of those tokens for families that write them, "" when
 * the tokenizer adds them itself. Length and room as in mka_chat_format. */
mka_status mka_chat_write(int family, const char *jinja, const char *bos, const char *eos, const mka_message *messages, int count,
                          int add_assistant, char *text, size_t room, size_t *length, mka_error *error);

#endif
