/* chat - writes a conversation with the marks of its template's family, corrected by what the template's own text states.
 *
 * The template is searched, not run: for its string literals (a default system message, how the answer opens) and for the few
 * expressions in which templates of one family differ.
 */
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

typedef struct style {
    const mka_chat_marks *marks;
    const char *jinja; /* "" when there is none */
    const char *bos, *eos;
    const char *assistant[2];
    mka_chat_place place;
    int bos_turns; /* BOS before every user turn, not only the first */
    int trim_user, trim_assistant, trim_system;
    int cut_thought;       /* past answers lose what they thought: up to the first (1) or last (2) </think> */
    int cut_newlines;      /* and the newlines after it, but not in the last message (Qwen3) */
    int think_shut;        /* answers open with an empty thought */
    mka_buffer preamble;   /* before the system message, whether there is one or not */
    mka_buffer by_default; /* the system message where none is given */
    mka_buffer open;
} style;

static int has(const char *jinja, const char *text) {
    return strstr(jinja, text) != NULL;
}

static int add_text(mka_buffer *buffer, const char *text) {
    return mka_buffer_add(buffer, text, strlen(text));
}

/* ---- literals of the template ---- */

/* Reads the string literal at *at into literal and moves past it. 0: there is none; -1: no memory. */
static int read_literal(const char **at, mka_buffer *literal) {
    const char *c = *at, quote = *c;
    literal->length = 0;
    if (quote != '\'' && quote != '"') return 0;
    for (c++; *c && *c != quote; c++) {
        char byte = *c;
        if (byte == '\\' && c[1]) {
            byte = *++c;
            byte = byte == 'n' ? '\n' : byte == 't' ? '\t' : byte == 'r' ? '\r' : byte;
        }
        if (!mka_buffer_add(literal, &byte, 1)) return -1;
    }
    if (*c != quote) return 0;
    *at = c + 1;
    return 1;
}

static const char *skip_spaces(const char *at) {
    return at + strspn(at, " \n\t\r");
}

/* Whether the literal is prefix, something, suffix. */
static int is_around(const mka_buffer *literal, const char *prefix, const char *suffix) {
    size_t before = strlen(prefix), after = strlen(suffix);
    return before > 0 && literal->length > before + after && memcmp(literal->bytes, prefix, before) == 0 &&
           memcmp(literal->bytes + literal->length - after, suffix, after) == 0;
}

/* "{{ '<|im_start|>system\nYou are ...<|im_end|>\n' }}": a whole system turn that the template writes by itself. */
static int find_written_turn(style *s) {
    const char *const *marks = s->marks->system;
    mka_buffer literal = {0};
    int found = 0;
    for (const char *at = s->jinja; *at && found == 0;) {
        const char *begin = at = at + strcspn(at, "'\"");
        if (!*at) break;
        found = read_literal(&at, &literal);
        if (found == 0) at = begin + 1;
        if (found == 1 && !is_around(&literal, marks[0], marks[1])) found = 0;
    }
    if (found == 1 &&
        !mka_buffer_add(&s->by_default, literal.bytes + strlen(marks[0]), literal.length - strlen(marks[0]) - strlen(marks[1])))
        found = -1;
    free(literal.bytes);
    return found;
}

/* The literal that is assigned to variable where the tag before says condition; into out. 0 when there is none. */
static int find_assigned(const char *jinja, const char *variable, const char *condition, mka_buffer *out) {
    size_t length = strlen(variable);
    for (const char *at = jinja; (at = strstr(at, variable)) != NULL; at += length) {
        const char *value = skip_spaces(at + length);
        if (*value != '=') continue;
        value = skip_spaces(value + 1);
        size_t back = (size_t)(at - jinja) < 120 ? (size_t)(at - jinja) : 120;
        if (condition && !memmem(at - back, back, condition, strlen(condition))) continue;
        int found = read_literal(&value, out);
        if (found < 0 || (found == 1 && out->length > 0)) return found;
    }
    out->length = 0;
    return 0;
}

/* Llama 3.1: "Cutting Knowledge Date: ...\nToday Date: ...\n\n" before every system message. */
static int find_dates(style *s) {
    const char *cutting = strstr(s->jinja, "\"Cutting Knowledge Date:");
    mka_buffer date = {0};
    if (!cutting || !has(s->jinja, "\"Today Date: \" + date_string + \"\\n\\n\"")) return 0;
    int found = read_literal(&cutting, &s->preamble);
    if (found == 1) found = find_assigned(s->jinja, "set date_string", NULL, &date);
    if (found == 1 && !(add_text(&s->preamble, "Today Date: ") && mka_buffer_add(&s->preamble, date.bytes, date.length) &&
                        add_text(&s->preamble, "\n\n")))
        found = -1;
    if (found == 0) s->preamble.length = 0;
    free(date.bytes);
    return found;
}

static int find_system(style *s) {
    int found = find_dates(s);
    if (found == 0) found = find_written_turn(s);
    if (found == 0) found = find_assigned(s->jinja, "set system_message", "{% else %}", &s->by_default);
    if (found == 0) found = find_assigned(s->jinja, "set system_message", "true == true", &s->by_default);
    const char *coder = s->marks == mka_chat_marks_of(MKA_CHAT_DEEPSEEK_CODER) ? strstr(s->jinja, "if not ns.found") : NULL;
    if (found == 0 && coder && (coder = strstr(coder, "{{")) != NULL) {
        coder = skip_spaces(coder + 2);
        found = read_literal(&coder, &s->by_default);
    }
    return found;
}

/* What the template writes to open the answer, if that is the family's opening and perhaps more ("<think>\n"). */
static int find_open(style *s) {
    const char *at = NULL, *core = s->marks->open;
    for (const char *next = s->jinja; (next = strstr(next, "add_generation_prompt")) != NULL; next++) at = next;
    at = at && *core ? strstr(at, "{{") : NULL;
    if (!at) return 0;
    at = skip_spaces(at + 2 + (at[2] == '-'));
    int found = read_literal(&at, &s->open);
    if (found < 0) return -1;
    at = skip_spaces(at);
    int whole = *at == '}' || (*at == '-' && at[1] == '}');
    if (found == 1 && whole && s->open.length >= strlen(core) && memcmp(s->open.bytes, core, strlen(core)) == 0) return 1;
    s->open.length = 0;
    return 0;
}

/* ---- the style ---- */

/* Variants of Llama 2's template differ in spaces, in trimming and in where BOS stands. */
static void read_llama2(style *s) {
    s->trim_user = s->trim_assistant = has(s->jinja, ".strip()") || has(s->jinja, "| trim");
    if (!has(s->jinja, "' '  + ") && !has(s->jinja, "' ' + content") && !has(s->jinja, "' ' + message")) s->assistant[0] = "";
    if (!has(s->jinja, "' ' + eos_token")) s->assistant[1] = "\1";
    s->bos_turns = has(s->jinja, "bos_token + '[INST]");
}

static int read_deepseek3(style *s) {
    if (!has(s->jinja, "{{'<think></think>'}}")) {
        s->cut_thought = has(s->jinja, "split('</think>')") ? 2 : 0;
        return 1;
    }
    s->cut_thought = s->think_shut = 1;
    return s->open.length == 0 || add_text(&s->open, "<think></think>");
}

static void free_style(style *s) {
    free(s->preamble.bytes);
    free(s->by_default.bytes);
    free(s->open.bytes);
}

/* 0 when memory is out. */
static int read_style(style *s, int family) {
    s->marks = mka_chat_marks_of(family);
    s->assistant[0] = s->marks->assistant[0];
    s->assistant[1] = s->marks->assistant[1];
    s->place = s->marks->place;
    s->trim_user = s->trim_assistant = s->marks->trim;
    s->trim_system = s->marks->trim_system;
    if (!*s->eos && s->marks->eos) s->eos = s->marks->eos;
    if (*s->jinja) {
        if (s->marks->trim && !has(s->jinja, "trim") && !has(s->jinja, "strip()"))
            s->trim_user = s->trim_assistant = s->trim_system = 0;
        if (has(s->jinja, "|trim + eos_token") || has(s->jinja, "| trim + eos_token")) s->trim_assistant = 1;
        if (family == MKA_CHAT_LLAMA2) read_llama2(s);
        if (family == MKA_CHAT_CHATML && has(s->jinja, "split('</think>')[-1].lstrip('\\n')")) {
            s->cut_thought = 2;
            s->cut_newlines = 1;
        }
        if (s->place == MKA_CHAT_FIRST_USER && has(s->jinja, "loop.last and system_message")) s->place = MKA_CHAT_LAST_USER;
        if (find_system(s) < 0 || find_open(s) < 0) return 0;
    }
    if (s->open.length == 0 && !add_text(&s->open, s->marks->open)) return 0;
    return family != MKA_CHAT_DEEPSEEK3 || read_deepseek3(s);
}

/* ---- writing ---- */

typedef struct writer {
    const style *style;
    mka_buffer out;
    int failed;     /* memory ran out */
    int user_turns; /* written so far */
} writer;

static void put_bytes(writer *w, const char *bytes, size_t length) {
    if (!mka_buffer_add(&w->out, bytes, length)) w->failed = 1;
}

/* A mark, in which "\1" stands for EOS. */
static void put_mark(writer *w, const char *mark) {
    for (; *mark; mark++) {
        if (*mark == '\1')
            put_bytes(w, w->style->eos, strlen(w->style->eos));
        else
            put_bytes(w, mark, 1);
    }
}

/* The white space that Jinja's trim takes, of ASCII. */
static int is_space(char byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r') || (byte >= 0x1C && byte <= 0x1F);
}

static void put_content(writer *w, const char *content, int trim_left, int trim_right) {
    size_t length = strlen(content);
    while (trim_right && length > 0 && is_space(content[length - 1])) length--;
    while (trim_left && length > 0 && is_space(*content)) content++, length--;
    put_bytes(w, content, length);
}

static void put_system(writer *w, const char *content) {
    const style *s = w->style;
    put_mark(w, s->marks->system[0]);
    put_bytes(w, s->preamble.bytes, s->preamble.length);
    put_content(w, content, s->trim_system, s->trim_system);
    put_mark(w, s->marks->system[1]);
}

static int is_system(const mka_message *message) {
    return strcmp(message->role, "system") == 0;
}

/* The user turn at index, with the system messages that belong into it. */
static void put_user(writer *w, const mka_message *messages, int count, int index) {
    const style *s = w->style;
    int first = index, inner = 0;
    if (s->place == MKA_CHAT_FIRST_USER)
        while (first > 0 && is_system(&messages[first - 1])) first--;
    if (s->place == MKA_CHAT_LAST_USER && index == count - 1) first = 0;
    if (s->bos_turns && w->user_turns > 0) put_bytes(w, s->bos, strlen(s->bos));
    put_mark(w, s->marks->user[0]);
    if (s->by_default.length > 0 && w->user_turns == 0 && s->place == MKA_CHAT_FIRST_USER && !is_system(&messages[0])) {
        put_mark(w, s->marks->system[0]);
        put_bytes(w, s->by_default.bytes, s->by_default.length);
        put_mark(w, s->marks->system[1]);
        inner = 1;
    }
    for (int i = first; i < index; i++) {
        if (!is_system(&messages[i])) continue;
        put_system(w, messages[i].content);
        inner = 1;
    }
    /* Gemma trims the user's text, Llama 2 what the system message has become part of. */
    int trim_left = s->trim_user && !(inner && s->marks == mka_chat_marks_of(MKA_CHAT_LLAMA2));
    put_content(w, messages[index].content, trim_left, s->trim_user);
    put_mark(w, s->marks->user[1]);
    w->user_turns++;
}

/* A past answer without its thoughts. */
static const char *cut_thought(const style *s, const char *content) {
    static const char shut[] = "</think>";
    for (const char *end; (end = strstr(content, shut)) != NULL;) {
        content = end + strlen(shut);
        if (s->cut_newlines) content += strspn(content, "\n");
        if (s->cut_thought == 1) break;
    }
    return content;
}

static void put_answer(writer *w, const char *content, int last) {
    const style *s = w->style;
    if (s->cut_thought && !(last && s->cut_newlines)) content = cut_thought(s, content);
    put_mark(w, s->assistant[0]);
    if (s->think_shut) put_mark(w, "<think></think>");
    put_content(w, content, s->trim_assistant, s->trim_assistant);
    put_mark(w, s->assistant[1]);
}

/* What stands before the first turn. */
static void put_front(writer *w, const mka_message *messages, int count) {
    const style *s = w->style;
    int written = 0;
    if (has(s->jinja, "bos_token")) put_bytes(w, s->bos, strlen(s->bos));
    for (int i = 0; s->place == MKA_CHAT_IN_FRONT && i < count; i++) {
        if (!is_system(&messages[i])) continue;
        if (written++) put_mark(w, s->marks->between);
        put_system(w, messages[i].content);
    }
    if (s->place != MKA_CHAT_OWN_TURN || is_system(&messages[0])) return;
    if (s->preamble.length == 0 && s->by_default.length == 0) return;
    put_mark(w, s->marks->system[0]);
    put_bytes(w, s->preamble.bytes, s->preamble.length);
    put_bytes(w, s->by_default.bytes, s->by_default.length);
    put_mark(w, s->marks->system[1]);
}

static mka_status put_messages(writer *w, const mka_message *messages, int count, mka_error *error) {
    const style *s = w->style;
    int inside = s->place == MKA_CHAT_FIRST_USER || s->place == MKA_CHAT_LAST_USER;
    put_front(w, messages, count);
    for (int i = 0; i < count; i++) {
        const char *role = messages[i].role;
        if (is_system(&messages[i])) {
            if (s->place == MKA_CHAT_OWN_TURN) put_system(w, messages[i].content);
            if (inside && (i + 1 == count || strcmp(messages[i + 1].role, "assistant") == 0)) {
                return mka_fail(error, MKA_BAD_ARGUMENT, "message %d: in template '%s' a system message stands before a user's",
                                i, s->marks->name);
            }
        } else if (strcmp(role, "user") == 0) {
            put_user(w, messages, count, i);
        } else {
            put_answer(w, messages[i].content, i + 1 == count);
        }
    }
    return MKA_OK;
}

static mka_status check_messages(const mka_message *messages, int count, mka_error *error) {
    if (!messages || count <= 0) return mka_fail(error, MKA_BAD_ARGUMENT, "a conversation without messages");
    for (int i = 0; i < count; i++) {
        const char *role = messages[i].role;
        if (!role || (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant"))) {
            return mka_fail(error, MKA_BAD_ARGUMENT, "message %d: role '%.40s' is not system, user or assistant", i,
                            role ? role : "");
        }
        if (!messages[i].content) return mka_fail(error, MKA_BAD_ARGUMENT, "message %d has no content", i);
    }
    return MKA_OK;
}

mka_status mka_chat_write(int family, const char *jinja, const char *bos, const char *eos, const mka_message *messages, int count,
                          int add_assistant, char *text, size_t room, size_t *length, mka_error *error) {
    style s = {.jinja = jinja ? jinja : "", .bos = bos ? bos : "", .eos = eos ? eos : ""};
    writer w = {.style = &s};
    *length = 0;
    if (family <= MKA_CHAT_UNKNOWN || family >= MKA_CHAT_FAMILIES) {
        return mka_fail(error, MKA_BAD_ARGUMENT, "chat template %d is unknown", family);
    }
    mka_status status = check_messages(messages, count, error);
    if (status != MKA_OK) return status;
    w.failed = !read_style(&s, family);
    if (!w.failed) status = put_messages(&w, messages, count, error);
    if (add_assistant)
        put_bytes(&w, s.open.bytes, s.open.length);
    else if (has(s.jinja, "{% else %}{{ eos_token }}"))
        put_bytes(&w, s.eos, strlen(s.eos));
    if (status == MKA_OK && w.failed)
        status = mka_fail(error, MKA_NO_MEMORY, "no memory to write a conversation of %d messages", count);
    if (status == MKA_OK) {
        *length = w.out.length;
        size_t copied = room == 0 ? 0 : w.out.length < room ? w.out.length : room - 1;
        if (copied > 0) memcpy(text, w.out.bytes, copied);
        if (room > 0) text[copied] = '\0';
        mka_succeed(error);
    }
    free(w.out.bytes);
    free_style(&s);
    return status;
}
