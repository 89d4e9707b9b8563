/* resume - see resume.h. A note is numbers of 64 bits and texts, each after its length:
 *
 *   mark | base | pending | messages | past or ~0 | (role | content) of each message | first words or ~0 */
#include "resume.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MARK UINT64_C(0x31746f6e616b6d) /* "mkanot1": notes of other programs begin otherwise */

int mka_cli_resume_peek(mka_cli *cli, const char *command, int *tokens) {
    mka_cli_options *o = &cli->options;
    mka_session_file about;
    mka_memory_plan plain;
    mka_error error = {0};
    *tokens = 0;
    const char *path = o->load_session != NULL ? o->load_session : o->remember[0];
    if (o->load_session != NULL && o->remembered > 0)
        return mka_cli_usage(command,
                             "--load-session and --remember exclude each other; a saved session holds what it remembers");
    if (path != NULL && o->bank_files > 0)
        return mka_cli_usage(command,
                             "--bank-from excludes --load-session and --remember; a saved session holds a bank of its own");
    if (path == NULL) return 0;
    if (mka_session_peek(path, &about, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    *tokens = about.tokens;
    for (int i = 1; i < o->remembered; i++) {
        mka_session_file next;
        if (mka_session_peek(o->remember[i], &next, &error) != MKA_OK) return mka_cli_failure(&error, 0);
        *tokens = next.tokens < INT_MAX - *tokens ? *tokens + next.tokens : INT_MAX;
    }
    mka_memory_plan_defaults(&plain);
    if (o->key_type == MKA_CLI_UNSET) o->key_type = (int)about.key_type;
    if (o->value_type == MKA_CLI_UNSET) o->value_type = (int)about.value_type;
    if (o->memory == MKA_CLI_UNSET) o->memory = about.tiered ? MKA_MEMORY_TIERED : MKA_MEMORY_DENSE;
    if (o->bank == MKA_BANK_AUTO) o->bank = about.bank;
    if (!about.tiered && about.bank == 0) return 0;
    o->plan.sinks = about.plan.sinks;
    if (o->plan.window == plain.window) o->plan.window = about.plan.window;
    if (!about.tiered) return 0;
    if (o->plan.key_type == plain.key_type) o->plan.key_type = about.plan.key_type;
    if (o->plan.value_type == plain.value_type) o->plan.value_type = about.plan.value_type;
    return 0;
}

/* ---- notes ---- */

typedef struct reader {
    const unsigned char *at;
    size_t left;
    char *text; /* where the next text is copied to, with a NUL */
    int good;
} reader;

static uint64_t read_number(reader *r) {
    uint64_t number = 0;
    r->good &= r->left >= sizeof number;
    if (!r->good) return 0;
    memcpy(&number, r->at, sizeof number);
    r->at += sizeof number;
    r->left -= sizeof number;
    return number;
}

static const char *read_text(reader *r, size_t *length) {
    uint64_t size = read_number(r);
    char *text = r->text;
    *length = 0;
    if (size == UINT64_MAX) return NULL;
    r->good &= size <= r->left;
    if (!r->good) return "";
    memcpy(text, r->at, (size_t)size);
    text[size] = '\0';
    r->text += size + 1;
    r->at += size;
    r->left -= (size_t)size;
    *length = (size_t)size;
    return text;
}

/* Every text of the note fits into a block of its size, with a NUL for the 8 bytes of each length. */
static int read_note(const void *bytes, size_t size, mka_cli_kept *note) {
    reader r = {bytes, size, NULL, 1};
    if (read_number(&r) != MARK) return 0;
    note->base = (int)(int64_t)read_number(&r);
    note->pending = (int)(int64_t)read_number(&r);
    uint64_t count = read_number(&r);
    size_t length;
    if (!r.good || count > r.left / 16) return mka_cli_error("the session's note is damaged");
    note->block = malloc((size_t)count * sizeof *note->messages + size + 1);
    if (note->block == NULL) return mka_cli_error("out of memory");
    note->messages = note->block;
    r.text = (char *)(note->messages + count);
    note->past = read_text(&r, &note->past_length);
    for (; (uint64_t)note->count < count && r.good; note->count++) {
        note->messages[note->count].role = read_text(&r, &length);
        note->messages[note->count].content = read_text(&r, &length);
        r.good &= note->messages[note->count].role != NULL && note->messages[note->count].content != NULL;
    }
    if (r.good && r.left > 0) note->words = read_text(&r, &note->words_length); /* older notes end before them */
    return r.good ? 0 : mka_cli_error("the session's note is damaged");
}

int mka_cli_resume_load(mka_cli *cli, mka_session *session, mka_cli_kept *note) {
    mka_error error = {0};
    size_t size;
    *note = (mka_cli_kept){.pending = -1};
    if (mka_session_load(session, cli->options.load_session, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    const void *bytes = mka_session_note(session, &size);
    int status = bytes != NULL ? read_note(bytes, size, note) : 0;
    if (status == 0 && (note->base < 0 || note->base > mka_session_length(session)))
        status = mka_cli_error("the session's note is damaged");
    return status;
}

int mka_cli_resume_note(const char *path, mka_cli_kept *note) {
    mka_error error = {0};
    void *bytes;
    size_t size;
    *note = (mka_cli_kept){.pending = -1};
    if (mka_session_peek_note(path, &bytes, &size, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    int status = bytes != NULL ? read_note(bytes, size, note) : 0;
    free(bytes);
    return status;
}

/* 1 for a session that begins with BOS. In the middle of a text such a token draws attention that it has no use for: behind
 * another memory predictions are better without it (bench/RESULTS.md). */
static int begins_with_bos(const mka_model *model, const mka_session *session) {
    mka_special special;
    mka_model_special(model, &special);
    return special.bos >= 0 && mka_session_length(session) > 1 && mka_session_tokens(session)[0] == special.bos;
}

int mka_cli_resume_append(mka_model *model, const char *path, mka_session *session) {
    mka_session_file about;
    mka_session_options options;
    mka_session *from = NULL;
    mka_error error = {0};
    mka_status status = mka_session_peek(path, &about, &error);
    if (status == MKA_OK) {
        mka_session_defaults(&options);
        options.context = about.tokens > 0 ? about.tokens : 1;
        options.key_type = about.key_type;
        options.value_type = about.value_type;
        options.memory = about.tiered ? MKA_MEMORY_TIERED : MKA_MEMORY_DENSE;
        options.plan = about.plan;
        status = mka_session_create(model, &options, &from, &error);
    }
    if (status == MKA_OK) status = mka_session_load(from, path, &error);
    if (status == MKA_OK) status = mka_session_append(session, from, begins_with_bos(model, from), &error);
    mka_session_destroy(from);
    return status == MKA_OK ? 0 : mka_cli_failure(&error, 0);
}

int mka_cli_resume_remember(mka_cli *cli, mka_model *model, mka_session *session) {
    const mka_cli_options *o = &cli->options;
    mka_error error = {0};
    if (mka_session_load(session, o->remember[0], &error) != MKA_OK) return mka_cli_failure(&error, 0);
    for (int i = 1; i < o->remembered; i++) {
        int status = mka_cli_resume_append(model, o->remember[i], session);
        if (status != 0) return status;
    }
    return 0;
}

void mka_cli_kept_free(mka_cli_kept *note) {
    free(note->block);
    *note = (mka_cli_kept){.pending = -1};
}

static unsigned char *write_number(unsigned char *at, uint64_t number) {
    memcpy(at, &number, sizeof number);
    return at + sizeof number;
}

static unsigned char *write_text(unsigned char *at, const char *text, size_t length) {
    at = write_number(at, text != NULL ? length : UINT64_MAX);
    if (text != NULL) memcpy(at, text, length);
    return at + length;
}

/* The text of the session's first tokens, as far as there is room. */
static size_t first_words(const mka_model *model, const mka_session *session, char *text, size_t room) {
    const int *held = mka_session_tokens(session);
    size_t length = 0;
    for (int i = 0; i < mka_session_length(session) && length < room; i++) {
        size_t bytes = held[i] < 0 ? 0 : mka_token_piece(model, held[i], 0, text + length, room - length);
        if (bytes > room - length) break;
        length += bytes;
    }
    return length;
}

int mka_cli_resume_save(const mka_model *model, mka_session *session, const char *path, const mka_cli_kept *note) {
    mka_error error = {0};
    char words[160];
    if (path == NULL) return 0;
    size_t length = first_words(model, session, words, sizeof words), size = 6 * sizeof(uint64_t) + note->past_length + length;
    for (int i = 0; i < note->count; i++)
        size += 2 * sizeof(uint64_t) + strlen(note->messages[i].role) + strlen(note->messages[i].content);
    unsigned char *bytes = malloc(size), *at = bytes;
    if (bytes == NULL) return mka_cli_error("out of memory");
    at = write_number(at, MARK);
    at = write_number(at, (uint64_t)(int64_t)note->base);
    at = write_number(at, (uint64_t)(int64_t)note->pending);
    at = write_number(at, (uint64_t)note->count);
    at = write_text(at, note->past, note->past_length);
    for (int i = 0; i < note->count; i++) {
        at = write_text(at, note->messages[i].role, strlen(note->messages[i].role));
        at = write_text(at, note->messages[i].content, strlen(note->messages[i].content));
    }
    at = write_text(at, words, length);
    mka_status status = mka_session_set_note(session, bytes, size, &error);
    if (status == MKA_OK) status = mka_session_save(session, path, &error);
    free(bytes);
    return status == MKA_OK ? 0 : mka_cli_failure(&error, 0);
}
