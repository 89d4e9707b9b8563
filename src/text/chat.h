/* chat - the turn markers of the common model families, chosen from a model's own (Jinja) template text, never run as code. */
#ifndef MKA_TEXT_CHAT_H
#define MKA_TEXT_CHAT_H

#include <mka/model.h>

typedef enum mka_chat_family {
    MKA_CHAT_UNKNOWN,
    MKA_CHAT_CHATML,
    MKA_CHAT_LLAMA2,
    MKA_CHAT_LLAMA3,
    MKA_CHAT_LLAMA4,
    MKA_CHAT_GEMMA,
    MKA_CHAT_MISTRAL_V1,        /* " [INST] text [/INST] answer" */
    MKA_CHAT_MISTRAL_V3,        /* "[INST] text[/INST] answer" */
    MKA_CHAT_MISTRAL_V3_TEKKEN, /* "[INST]text[/INST]answer" */
    MKA_CHAT_MISTRAL_V7,        /* a turn of its own for the system message */
    MKA_CHAT_MISTRAL_V7_TEKKEN,
    MKA_CHAT_ZEPHYR,
    MKA_CHAT_DEEPSEEK,       /* "User: text" */
    MKA_CHAT_DEEPSEEK3,      /* special tokens for turns; R1 too */
    MKA_CHAT_DEEPSEEK_CODER, /* "### Instruction:" */
    MKA_CHAT_PHI3,
    MKA_CHAT_PHI4,
    MKA_CHAT_GRANITE,
    MKA_CHAT_COMMAND_R,
    MKA_CHAT_FAMILIES /* not a family: one above the last */
} mka_chat_family;

/* By name ("chatml", ...); MKA_CHAT_UNKNOWN when there is none. */
int mka_chat_by_name(const char *name);
/* From the text of a Jinja template (tokenizer.chat_template); NULL gives MKA_CHAT_UNKNOWN. */
int mka_chat_detect(const char *jinja);

/* Formats messages. jinja (may be NULL) is the model's template text; what it states is taken from it: the default system
 * message (SmolLM2, Qwen2.5, Llama 3.1's dates), how the answer is opened ("<think>"), whether BOS is written and content
 * trimmed. A date that the template would ask the clock for is the one that it names for machines without a clock.
 * bos, eos: text of those tokens; BOS is written where the template text names bos_token, so never when jinja is NULL.
 * Length and room as in mka_chat_format. MKA_BAD_ARGUMENT: an unknown family or role, or no messages. */
mka_status mka_chat_write(int family, const char *jinja, const char *bos, const char *eos, const mka_message *messages, int count,
                          int add_assistant, char *text, size_t room, size_t *length, mka_error *error);

/* ---- chat_families.c, for chat.c ---- */

/* Where a system message goes. */
typedef enum mka_chat_place {
    MKA_CHAT_OWN_TURN,
    MKA_CHAT_FIRST_USER, /* into the first user turn, before its text */
    MKA_CHAT_LAST_USER,  /* into the last message, when that is a user's */
    MKA_CHAT_IN_FRONT    /* before all turns */
} mka_chat_place;

/* What stands before and after a message. "\1" stands for the text of EOS. */
typedef struct mka_chat_marks {
    const char *name;
    const char *system[2], *user[2], *assistant[2];
    const char *open; /* opens the answer */
    mka_chat_place place;
    int trim;            /* user and assistant messages lose white space at both ends */
    int trim_system;     /* the system message too */
    const char *eos;     /* where the caller knows none */
    const char *between; /* two system messages in front */
} mka_chat_marks;

/* 0 < family < MKA_CHAT_FAMILIES. */
const mka_chat_marks *mka_chat_marks_of(int family);

#endif
