/* test_chat - conversations as each family's Jinja templates render them.
 *
 * The templates are short ones that do what the published ones of their family do; the expected texts were rendered from them
 * by Jinja itself, with blocks trimmed as model files expect it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "text/chat.h"

/* clang-format off */
static const char chatml_default[] = "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a test.<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
static const char chatml_plain[] = "{{- bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
static const char chatml_thought[] = "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'assistant' and not loop.last %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}{{ '<|im_start|>' + m['role'] + '\\n' + c + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' -}}{% endif %}";
static const char llama2[] = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for m in loop_messages %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + m['content'] %}{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";
static const char llama3[] = "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";
static const char llama3_dates[] = "{{- bos_token }}{% if not date_string is defined %}{% set date_string = \"26 Jul 2024\" %}{% endif %}{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content']|trim %}{% set messages = messages[1:] %}{% else %}{% set system_message = \"\" %}{% endif %}{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}{{- \"Cutting Knowledge Date: December 2023\\n\" }}{{- \"Today Date: \" + date_string + \"\\n\\n\" }}{{- system_message }}{{- \"<|eot_id|>\" }}{% for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";
static const char gemma[] = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set prefix = messages[0]['content'] + '\\n\\n' %}{% set loop_messages = messages[1:] %}{% else %}{% set prefix = '' %}{% set loop_messages = messages %}{% endif %}{% for m in loop_messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + (prefix if loop.first else '') }}{{ m['content'] | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";
static const char mistral_v1[] = "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ bos_token }}{% for m in loop_messages %}{% if m['role'] == 'user' %}{% if loop.first and system_message is defined %}{{ ' [INST] ' + system_message + '\\n\\n' + m['content'] + ' [/INST]' }}{% else %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}";
static const char mistral_v3[] = "{# [AVAILABLE_TOOLS] #}{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ bos_token }}{% for m in loop_messages %}{% if m['role'] == 'user' %}{% if loop.last and system_message is defined %}{{ '[INST] ' + system_message + '\\n\\n' + m['content'] + '[/INST]' }}{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}{% else %}{{ ' ' + m['content']|trim + eos_token }}{% endif %}{% endfor %}";
static const char mistral_tekken[] = "{# [AVAILABLE_TOOLS] #}{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ bos_token }}{% for m in loop_messages %}{% if m['role'] == 'user' %}{% if loop.last and system_message is defined %}{{ \"[INST]\" + system_message + '\\n\\n' + m['content'] + \"[/INST]\" }}{% else %}{{ \"[INST]\" + m['content'] + \"[/INST]\" }}{% endif %}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}";
static const char mistral_v7[] = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}{% elif m['role'] == 'system' %}{{ '[SYSTEM_PROMPT] ' + m['content'] + '[/SYSTEM_PROMPT]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}";
static const char zephyr[] = "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n{% else %}\n{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";
static const char deepseek[] = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}{% else %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";
static const char deepseek_r1[] = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}";
static const char phi3[] = "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}";
/* clang-format on */

typedef struct conversation {
    int count;
    mka_message messages[5];
} conversation;

static const conversation user = {1, {{"user", " Hi "}}};
static const conversation with_system = {2, {{"system", " Be brief. "}, {"user", "Hi"}}};
static const conversation longer = {
    4, {{"system", "S"}, {"user", "Hi"}, {"assistant", " <think>\nhm\n</think>\n\nMe "}, {"user", " ok\n"}}};

static void assert_written(const char *jinja, int family, const conversation *talk, int add_assistant, const char *expected) {
    char text[2048];
    size_t length, again;
    mka_error error;
    assert_int_equal(
        mka_chat_write(family, jinja, "<s>", "</s>", talk->messages, talk->count, add_assistant, NULL, 0, &length, &error),
        MKA_OK);
    assert_int_equal(mka_chat_write(family, jinja, "<s>", "</s>", talk->messages, talk->count, add_assistant, text, sizeof text,
                                    &again, &error),
                     MKA_OK);
    assert_string_equal(text, expected);
    assert_int_equal(length, strlen(expected));
    assert_int_equal(again, length);
}

static void writes_what_jinja_renders(void **state) {
    (void)state;
    /* clang-format off */
    static const struct {
        const char *jinja;
        int family;
        const conversation *talk;
        int add_assistant;
        const char *expected;
    } cases[] = {
        {chatml_default, MKA_CHAT_CHATML, &user, 1, "<|im_start|>system\nYou are a test.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n"},
        {chatml_default, MKA_CHAT_CHATML, &user, 0, "<|im_start|>system\nYou are a test.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"},
        {chatml_default, MKA_CHAT_CHATML, &with_system, 1, "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"},
        {chatml_default, MKA_CHAT_CHATML, &with_system, 0, "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"},
        {chatml_default, MKA_CHAT_CHATML, &longer, 1, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n <think>\nhm\n</think>\n\nMe <|im_end|>\n<|im_start|>user\n ok\n<|im_end|>\n<|im_start|>assistant\n"},
        {chatml_default, MKA_CHAT_CHATML, &longer, 0, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n <think>\nhm\n</think>\n\nMe <|im_end|>\n<|im_start|>user\n ok\n<|im_end|>\n"},
        {chatml_plain, MKA_CHAT_CHATML, &user, 1, "<s><|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n"},
        {chatml_plain, MKA_CHAT_CHATML, &user, 0, "<s><|im_start|>user\n Hi <|im_end|>\n"},
        {chatml_plain, MKA_CHAT_CHATML, &with_system, 1, "<s><|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"},
        {chatml_plain, MKA_CHAT_CHATML, &with_system, 0, "<s><|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"},
        {chatml_plain, MKA_CHAT_CHATML, &longer, 1, "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n <think>\nhm\n</think>\n\nMe <|im_end|>\n<|im_start|>user\n ok\n<|im_end|>\n<|im_start|>assistant\n"},
        {chatml_plain, MKA_CHAT_CHATML, &longer, 0, "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n <think>\nhm\n</think>\n\nMe <|im_end|>\n<|im_start|>user\n ok\n<|im_end|>\n"},
        {chatml_thought, MKA_CHAT_CHATML, &user, 1, "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n<think>\n"},
        {chatml_thought, MKA_CHAT_CHATML, &user, 0, "<|im_start|>user\n Hi <|im_end|>\n"},
        {chatml_thought, MKA_CHAT_CHATML, &with_system, 1, "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n"},
        {chatml_thought, MKA_CHAT_CHATML, &with_system, 0, "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"},
        {chatml_thought, MKA_CHAT_CHATML, &longer, 1, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nMe <|im_end|>\n<|im_start|>user\n ok\n<|im_end|>\n<|im_start|>assistant\n<think>\n"},
        {chatml_thought, MKA_CHAT_CHATML, &longer, 0, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nMe <|im_end|>\n<|im_start|>user\n ok\n<|im_end|>\n"},
        {llama2, MKA_CHAT_LLAMA2, &user, 1, "<s>[INST] Hi [/INST]"},
        {llama2, MKA_CHAT_LLAMA2, &user, 0, "<s>[INST] Hi [/INST]"},
        {llama2, MKA_CHAT_LLAMA2, &with_system, 1, "<s>[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\nHi [/INST]"},
        {llama2, MKA_CHAT_LLAMA2, &with_system, 0, "<s>[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\nHi [/INST]"},
        {llama2, MKA_CHAT_LLAMA2, &longer, 1, "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] <think>\nhm\n</think>\n\nMe </s><s>[INST] ok [/INST]"},
        {llama2, MKA_CHAT_LLAMA2, &longer, 0, "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] <think>\nhm\n</think>\n\nMe </s><s>[INST] ok [/INST]"},
        {llama3, MKA_CHAT_LLAMA3, &user, 1, "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
        {llama3, MKA_CHAT_LLAMA3, &user, 0, "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"},
        {llama3, MKA_CHAT_LLAMA3, &with_system, 1, "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
        {llama3, MKA_CHAT_LLAMA3, &with_system, 0, "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"},
        {llama3, MKA_CHAT_LLAMA3, &longer, 1, "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>\nhm\n</think>\n\nMe<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nok<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
        {llama3, MKA_CHAT_LLAMA3, &longer, 0, "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>\nhm\n</think>\n\nMe<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nok<|eot_id|>"},
        {llama3_dates, MKA_CHAT_LLAMA3, &user, 1, "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
        {llama3_dates, MKA_CHAT_LLAMA3, &user, 0, "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"},
        {llama3_dates, MKA_CHAT_LLAMA3, &with_system, 1, "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
        {llama3_dates, MKA_CHAT_LLAMA3, &with_system, 0, "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"},
        {llama3_dates, MKA_CHAT_LLAMA3, &longer, 1, "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>\nhm\n</think>\n\nMe<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nok<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
        {llama3_dates, MKA_CHAT_LLAMA3, &longer, 0, "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>\nhm\n</think>\n\nMe<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nok<|eot_id|>"},
        {gemma, MKA_CHAT_GEMMA, &user, 1, "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"},
        {gemma, MKA_CHAT_GEMMA, &user, 0, "<s><start_of_turn>user\nHi<end_of_turn>\n"},
        {gemma, MKA_CHAT_GEMMA, &with_system, 1, "<s><start_of_turn>user\n Be brief. \n\nHi<end_of_turn>\n<start_of_turn>model\n"},
        {gemma, MKA_CHAT_GEMMA, &with_system, 0, "<s><start_of_turn>user\n Be brief. \n\nHi<end_of_turn>\n"},
        {gemma, MKA_CHAT_GEMMA, &longer, 1, "<s><start_of_turn>user\nS\n\nHi<end_of_turn>\n<start_of_turn>model\n<think>\nhm\n</think>\n\nMe<end_of_turn>\n<start_of_turn>user\nok<end_of_turn>\n<start_of_turn>model\n"},
        {gemma, MKA_CHAT_GEMMA, &longer, 0, "<s><start_of_turn>user\nS\n\nHi<end_of_turn>\n<start_of_turn>model\n<think>\nhm\n</think>\n\nMe<end_of_turn>\n<start_of_turn>user\nok<end_of_turn>\n"},
        {mistral_v1, MKA_CHAT_MISTRAL_V1, &user, 1, "<s> [INST]  Hi  [/INST]"},
        {mistral_v1, MKA_CHAT_MISTRAL_V1, &user, 0, "<s> [INST]  Hi  [/INST]"},
        {mistral_v1, MKA_CHAT_MISTRAL_V1, &with_system, 1, "<s> [INST]  Be brief. \n\nHi [/INST]"},
        {mistral_v1, MKA_CHAT_MISTRAL_V1, &with_system, 0, "<s> [INST]  Be brief. \n\nHi [/INST]"},
        {mistral_v1, MKA_CHAT_MISTRAL_V1, &longer, 1, "<s> [INST] S\n\nHi [/INST]  <think>\nhm\n</think>\n\nMe </s> [INST]  ok\n [/INST]"},
        {mistral_v1, MKA_CHAT_MISTRAL_V1, &longer, 0, "<s> [INST] S\n\nHi [/INST]  <think>\nhm\n</think>\n\nMe </s> [INST]  ok\n [/INST]"},
        {mistral_v3, MKA_CHAT_MISTRAL_V3, &user, 1, "<s>[INST]  Hi [/INST]"},
        {mistral_v3, MKA_CHAT_MISTRAL_V3, &user, 0, "<s>[INST]  Hi [/INST]"},
        {mistral_v3, MKA_CHAT_MISTRAL_V3, &with_system, 1, "<s>[INST]  Be brief. \n\nHi[/INST]"},
        {mistral_v3, MKA_CHAT_MISTRAL_V3, &with_system, 0, "<s>[INST]  Be brief. \n\nHi[/INST]"},
        {mistral_v3, MKA_CHAT_MISTRAL_V3, &longer, 1, "<s>[INST] Hi[/INST] <think>\nhm\n</think>\n\nMe</s>[INST] S\n\n ok\n[/INST]"},
        {mistral_v3, MKA_CHAT_MISTRAL_V3, &longer, 0, "<s>[INST] Hi[/INST] <think>\nhm\n</think>\n\nMe</s>[INST] S\n\n ok\n[/INST]"},
        {mistral_tekken, MKA_CHAT_MISTRAL_V3_TEKKEN, &user, 1, "<s>[INST] Hi [/INST]"},
        {mistral_tekken, MKA_CHAT_MISTRAL_V3_TEKKEN, &user, 0, "<s>[INST] Hi [/INST]"},
        {mistral_tekken, MKA_CHAT_MISTRAL_V3_TEKKEN, &with_system, 1, "<s>[INST] Be brief. \n\nHi[/INST]"},
        {mistral_tekken, MKA_CHAT_MISTRAL_V3_TEKKEN, &with_system, 0, "<s>[INST] Be brief. \n\nHi[/INST]"},
        {mistral_tekken, MKA_CHAT_MISTRAL_V3_TEKKEN, &longer, 1, "<s>[INST]Hi[/INST] <think>\nhm\n</think>\n\nMe </s>[INST]S\n\n ok\n[/INST]"},
        {mistral_tekken, MKA_CHAT_MISTRAL_V3_TEKKEN, &longer, 0, "<s>[INST]Hi[/INST] <think>\nhm\n</think>\n\nMe </s>[INST]S\n\n ok\n[/INST]"},
        {mistral_v7, MKA_CHAT_MISTRAL_V7, &user, 1, "<s>[INST]  Hi [/INST]"},
        {mistral_v7, MKA_CHAT_MISTRAL_V7, &user, 0, "<s>[INST]  Hi [/INST]"},
        {mistral_v7, MKA_CHAT_MISTRAL_V7, &with_system, 1, "<s>[SYSTEM_PROMPT]  Be brief. [/SYSTEM_PROMPT][INST] Hi[/INST]"},
        {mistral_v7, MKA_CHAT_MISTRAL_V7, &with_system, 0, "<s>[SYSTEM_PROMPT]  Be brief. [/SYSTEM_PROMPT][INST] Hi[/INST]"},
        {mistral_v7, MKA_CHAT_MISTRAL_V7, &longer, 1, "<s>[SYSTEM_PROMPT] S[/SYSTEM_PROMPT][INST] Hi[/INST]  <think>\nhm\n</think>\n\nMe </s>[INST]  ok\n[/INST]"},
        {mistral_v7, MKA_CHAT_MISTRAL_V7, &longer, 0, "<s>[SYSTEM_PROMPT] S[/SYSTEM_PROMPT][INST] Hi[/INST]  <think>\nhm\n</think>\n\nMe </s>[INST]  ok\n[/INST]"},
        {zephyr, MKA_CHAT_ZEPHYR, &user, 1, "<|user|>\n Hi </s>\n<|assistant|>\n"},
        {zephyr, MKA_CHAT_ZEPHYR, &user, 0, "<|user|>\n Hi </s>\n"},
        {zephyr, MKA_CHAT_ZEPHYR, &with_system, 1, "<|system|>\n Be brief. </s>\n<|user|>\nHi</s>\n<|assistant|>\n"},
        {zephyr, MKA_CHAT_ZEPHYR, &with_system, 0, "<|system|>\n Be brief. </s>\n<|user|>\nHi</s>\n"},
        {zephyr, MKA_CHAT_ZEPHYR, &longer, 1, "<|system|>\nS</s>\n<|user|>\nHi</s>\n<|assistant|>\n <think>\nhm\n</think>\n\nMe </s>\n<|user|>\n ok\n</s>\n<|assistant|>\n"},
        {zephyr, MKA_CHAT_ZEPHYR, &longer, 0, "<|system|>\nS</s>\n<|user|>\nHi</s>\n<|assistant|>\n <think>\nhm\n</think>\n\nMe </s>\n<|user|>\n ok\n</s>\n"},
        {deepseek, MKA_CHAT_DEEPSEEK, &user, 1, "<s>User:  Hi \n\nAssistant:"},
        {deepseek, MKA_CHAT_DEEPSEEK, &user, 0, "<s>User:  Hi \n\n"},
        {deepseek, MKA_CHAT_DEEPSEEK, &with_system, 1, "<s> Be brief. \n\nUser: Hi\n\nAssistant:"},
        {deepseek, MKA_CHAT_DEEPSEEK, &with_system, 0, "<s> Be brief. \n\nUser: Hi\n\n"},
        {deepseek, MKA_CHAT_DEEPSEEK, &longer, 1, "<s>S\n\nUser: Hi\n\nAssistant:  <think>\nhm\n</think>\n\nMe </s>User:  ok\n\n\nAssistant:"},
        {deepseek, MKA_CHAT_DEEPSEEK, &longer, 0, "<s>S\n\nUser: Hi\n\nAssistant:  <think>\nhm\n</think>\n\nMe </s>User:  ok\n\n\n"},
        {deepseek_r1, MKA_CHAT_DEEPSEEK3, &user, 1, "<s><｜User｜> Hi <｜Assistant｜><think>\n"},
        {deepseek_r1, MKA_CHAT_DEEPSEEK3, &user, 0, "<s><｜User｜> Hi "},
        {deepseek_r1, MKA_CHAT_DEEPSEEK3, &with_system, 1, "<s> Be brief. <｜User｜>Hi<｜Assistant｜><think>\n"},
        {deepseek_r1, MKA_CHAT_DEEPSEEK3, &with_system, 0, "<s> Be brief. <｜User｜>Hi"},
        {deepseek_r1, MKA_CHAT_DEEPSEEK3, &longer, 1, "<s>S<｜User｜>Hi<｜Assistant｜>\n\nMe <｜end▁of▁sentence｜><｜User｜> ok\n<｜Assistant｜><think>\n"},
        {deepseek_r1, MKA_CHAT_DEEPSEEK3, &longer, 0, "<s>S<｜User｜>Hi<｜Assistant｜>\n\nMe <｜end▁of▁sentence｜><｜User｜> ok\n"},
        {phi3, MKA_CHAT_PHI3, &user, 1, "<|user|>\n Hi <|end|>\n<|assistant|>\n"},
        {phi3, MKA_CHAT_PHI3, &user, 0, "<|user|>\n Hi <|end|>\n</s>"},
        {phi3, MKA_CHAT_PHI3, &with_system, 1, "<|system|>\n Be brief. <|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"},
        {phi3, MKA_CHAT_PHI3, &with_system, 0, "<|system|>\n Be brief. <|end|>\n<|user|>\nHi<|end|>\n</s>"},
        {phi3, MKA_CHAT_PHI3, &longer, 1, "<|system|>\nS<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n <think>\nhm\n</think>\n\nMe <|end|>\n<|user|>\n ok\n<|end|>\n<|assistant|>\n"},
        {phi3, MKA_CHAT_PHI3, &longer, 0, "<|system|>\nS<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n <think>\nhm\n</think>\n\nMe <|end|>\n<|user|>\n ok\n<|end|>\n</s>"},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(mka_chat_detect(cases[i].jinja), cases[i].family);
        assert_written(cases[i].jinja, cases[i].family, cases[i].talk, cases[i].add_assistant, cases[i].expected);
    }
}

static void writes_families_without_a_template(void **state) {
    (void)state;
    assert_written(NULL, MKA_CHAT_CHATML, &user, 1, "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n");
    assert_written(NULL, MKA_CHAT_LLAMA2, &with_system, 1, "[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\nHi [/INST]");
    assert_written(NULL, MKA_CHAT_GEMMA, &user, 1, "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n");
    assert_written(NULL, MKA_CHAT_PHI4, &user, 0, "<|im_start|>user<|im_sep|> Hi <|im_end|>");
    assert_written(NULL, MKA_CHAT_MISTRAL_V7_TEKKEN, &with_system, 1,
                   "[SYSTEM_PROMPT] Be brief. [/SYSTEM_PROMPT][INST]Hi[/INST]");
    assert_written(NULL, MKA_CHAT_COMMAND_R, &user, 1,
                   "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>");
    assert_written(NULL, MKA_CHAT_GRANITE, &user, 0, "<|start_of_role|>user<|end_of_role|> Hi <|end_of_text|>\n");
    assert_written(NULL, MKA_CHAT_DEEPSEEK_CODER, &user, 1, "### Instruction:\n Hi \n### Response:\n");
    assert_written(NULL, MKA_CHAT_LLAMA4, &user, 0, "<|header_start|>user<|header_end|>\n\nHi<|eot|>");
}

static void names_and_families_agree(void **state) {
    (void)state;
    const char *const *names = mka_chat_templates();
    unsigned seen = 0;
    for (int count = 0; names[count]; count++) {
        int family = mka_chat_by_name(names[count]);
        assert_in_range(family, MKA_CHAT_UNKNOWN + 1, MKA_CHAT_FAMILIES - 1);
        seen |= 1u << family;
    }
    assert_int_equal(seen, (1u << MKA_CHAT_FAMILIES) - 2); /* every family has a name */
    assert_int_equal(mka_chat_by_name("nonesuch"), MKA_CHAT_UNKNOWN);
    assert_int_equal(mka_chat_by_name(NULL), MKA_CHAT_UNKNOWN);
    assert_int_equal(mka_chat_by_name(""), MKA_CHAT_UNKNOWN);
}

static void leaves_foreign_templates_alone(void **state) {
    (void)state;
    assert_int_equal(mka_chat_detect(NULL), MKA_CHAT_UNKNOWN);
    assert_int_equal(mka_chat_detect(""), MKA_CHAT_UNKNOWN);
    assert_int_equal(mka_chat_detect("{{ messages }}"), MKA_CHAT_UNKNOWN);
    assert_int_equal(mka_chat_detect("<|im_start|>User: <end_of_utterance>"), MKA_CHAT_UNKNOWN);
    assert_int_equal(mka_chat_detect("[gMASK]<sop><|user|>"), MKA_CHAT_UNKNOWN);
    assert_int_equal(mka_chat_detect("{{ '<|user|>\n' + m + '\n' }}<|assistant|>"), MKA_CHAT_UNKNOWN);
}

static void cuts_text_to_the_room(void **state) {
    (void)state;
    char text[8] = "#######";
    size_t length;
    mka_error error;
    assert_int_equal(mka_chat_write(MKA_CHAT_CHATML, NULL, "", "", user.messages, 1, 0, text, 5, &length, &error), MKA_OK);
    assert_string_equal(text, "<|im");
    assert_int_equal(text[5], '#');
    assert_int_equal(length, strlen("<|im_start|>user\n Hi <|im_end|>\n"));
}

static void refuses_what_is_no_conversation(void **state) {
    (void)state;
    static const struct {
        mka_message message;
        int count, family;
        const char *part;
    } cases[] = {{{"user", "x"}, 0, MKA_CHAT_CHATML, "without messages"}, {{"tool", "x"}, 1, MKA_CHAT_CHATML, "'tool'"},
                 {{NULL, "x"}, 1, MKA_CHAT_CHATML, "message 0"},          {{"user", NULL}, 1, MKA_CHAT_CHATML, "no content"},
                 {{"system", "x"}, 1, MKA_CHAT_GEMMA, "before a user's"}, {{"user", "x"}, 1, MKA_CHAT_UNKNOWN, "unknown"},
                 {{"user", "x"}, 1, MKA_CHAT_FAMILIES, "unknown"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = 7;
        mka_error error;
        assert_int_equal(
            mka_chat_write(cases[i].family, NULL, "", "", &cases[i].message, cases[i].count, 1, NULL, 0, &length, &error),
            MKA_BAD_ARGUMENT);
        assert_int_equal(length, 0);
        assert_non_null(strstr(error.message, cases[i].part));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_what_jinja_renders), cmocka_unit_test(writes_families_without_a_template),
        cmocka_unit_test(names_and_families_agree),  cmocka_unit_test(leaves_foreign_templates_alone),
        cmocka_unit_test(cuts_text_to_the_room),     cmocka_unit_test(refuses_what_is_no_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
