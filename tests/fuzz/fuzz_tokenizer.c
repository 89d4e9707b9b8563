/* fuzz_tokenizer - hostile vocabularies, tokenizer.json texts, chat templates and input texts, all from the same bytes.
 *
 * The input is cut into records: a byte that says what it is, a length, and bytes. Records make up a vocabulary (tokens, merges,
 * kinds, scores, special ids), a tokenizer.json with its config, a template and the texts to encode. What a caller may rely on
 * is checked on the way: counts agree, ids are in range, pieces fit.
 */
#include "fuzz.h"

#include "base/json.h"
#include "text/chat.h"
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ITEMS = 512, MAX_TEXTS = 8 };

typedef struct input {
    mka_bytes tokens[MAX_ITEMS], merges[MAX_ITEMS], texts[MAX_TEXTS];
    float scores[MAX_ITEMS];
    int kinds[MAX_ITEMS];
    size_t token_count, merge_count, text_count;
    mka_bytes json, config, model, pre, title, jinja;
    mka_special special;
    unsigned flags; /* what the vocabulary leaves out */
} input;

static char *copy(mka_bytes bytes) {
    return bytes.bytes ? strndup(bytes.bytes, bytes.length) : NULL;
}

static void take_special(input *in, mka_bytes body) {
    int *const ids[] = {&in->special.bos, &in->special.eos,     &in->special.eot,    &in->special.unknown,
                        &in->special.pad, &in->special.add_bos, &in->special.add_eos};
    for (size_t i = 0; i < 7 && (i + 1) * 4 <= body.length; i++) memcpy(ids[i], body.bytes + 4 * i, 4);
}

static void take_record(input *in, unsigned char kind, mka_bytes body) {
    switch (kind) {
    case 't':
        if (in->token_count == MAX_ITEMS || body.length < 2) return;
        in->kinds[in->token_count] = (signed char)body.bytes[0];
        in->scores[in->token_count] = (float)(signed char)body.bytes[1];
        in->tokens[in->token_count++] = (mka_bytes){body.bytes + 2, body.length - 2};
        return;
    case 'm':
        if (in->merge_count < MAX_ITEMS) in->merges[in->merge_count++] = body;
        return;
    case 'x':
        if (in->text_count < MAX_TEXTS) in->texts[in->text_count++] = body;
        return;
    case 'j':
        in->json = body;
        return;
    case 'c':
        in->config = body;
        return;
    case 'M':
        in->model = body;
        return;
    case 'P':
        in->pre = body;
        return;
    case 'N':
        in->title = body;
        return;
    case 'J':
        in->jinja = body;
        return;
    case 's':
        take_special(in, body);
        return;
    case 'f':
        in->flags = body.length ? (unsigned char)body.bytes[0] : 0;
        return;
    default:
        return;
    }
}

static void cut(input *in, const uint8_t *data, size_t size) {
    in->special = (mka_special){-1, -1, -1, -1, -1, -1, -1};
    while (size >= 3) {
        size_t length = (size_t)data[1] | (size_t)data[2] << 8;
        if (length > size - 3) length = size - 3;
        take_record(in, data[0], (mka_bytes){(const char *)data + 3, length});
        data += 3 + length;
        size -= 3 + length;
    }
}

static void check_pieces(const mka_tokenizer *tokenizer, int id) {
    char piece[64];
    memset(piece, 0x55, sizeof piece);
    size_t length = mka_tokenizer_piece(tokenizer, id, 1, NULL, 0);
    size_t room = length < 32 ? length : 32;
    if (mka_tokenizer_piece(tokenizer, id, 1, piece, room) != length || piece[room] != 0x55) abort();
    if (mka_tokenizer_piece(tokenizer, id, 0, piece, room) > length || mka_utf8_whole(piece, room) > room) abort();
}

static void encode(const mka_tokenizer *tokenizer, mka_bytes text) {
    int limit = mka_tokenizer_count(tokenizer);
    for (unsigned flags = 0; flags < 4; flags++) {
        size_t count, again;
        mka_error error;
        if (mka_tokenizer_encode(tokenizer, text.bytes, text.length, flags, NULL, 0, &count, &error) != MKA_OK) {
            if (!error.message[0]) abort();
            continue;
        }
        int *ids = malloc((count + 1) * sizeof *ids);
        if (!ids) return;
        if (mka_tokenizer_encode(tokenizer, text.bytes, text.length, flags, ids, count, &again, &error) != MKA_OK ||
            again != count)
            abort();
        for (size_t i = 0; i < count; i++) {
            if (ids[i] < 0 || ids[i] >= limit) abort();
            if (i < 64) check_pieces(tokenizer, ids[i]);
        }
        free(ids);
    }
}

static void use(mka_status status, mka_tokenizer *tokenizer, const mka_error *error, const input *in) {
    mka_special special;
    if ((status == MKA_OK) != (tokenizer != NULL) || (status != MKA_OK) != (error->message[0] != 0)) abort();
    if (!tokenizer) return;
    mka_tokenizer_special(tokenizer, &special);
    if (special.bos >= mka_tokenizer_count(tokenizer) || special.eos >= mka_tokenizer_count(tokenizer)) abort();
    for (size_t i = 0; i < in->text_count; i++) encode(tokenizer, in->texts[i]);
    for (int id = -1; id < 300; id++) {
        check_pieces(tokenizer, id);
        (void)mka_tokenizer_is_end(tokenizer, id);
    }
    mka_tokenizer_destroy(tokenizer);
}

static void try_vocabulary(const input *in) {
    mka_tokenizer *tokenizer = NULL;
    mka_error error = {MKA_OK, ""};
    char *model = copy(in->model), *pre = copy(in->pre), *title = copy(in->title);
    const mka_vocab_spec spec = {.name = "input",
                                 .model = model,
                                 .pre = pre,
                                 .title = title,
                                 .count = in->token_count,
                                 .tokens = in->tokens,
                                 .scores = in->flags & 1 ? NULL : in->scores,
                                 .kinds = in->flags & 2 ? NULL : in->kinds,
                                 .merge_count = in->merge_count,
                                 .merges = in->flags & 4 && in->merge_count == 0 ? NULL : in->merges,
                                 .special = in->special,
                                 .add_space_prefix = (int)(in->flags >> 3 & 3) - 1,
                                 .remove_extra_whitespace = -1,
                                 .lowercase = (int)(in->flags >> 5 & 3) - 1,
                                 .strip_accents = (int)(in->flags >> 6 & 3) - 1,
                                 .separator = in->special.pad};
    mka_status status = mka_tokenizer_create(&spec, &tokenizer, &error);
    use(status, tokenizer, &error, in);
    free(model);
    free(pre);
    free(title);
}

static void try_json(const input *in) {
    mka_json *json = NULL, *config = NULL;
    mka_tokenizer *tokenizer = NULL;
    mka_error error = {MKA_OK, ""};
    if (in->config.bytes && mka_json_parse(in->config.bytes, in->config.length, "config", &config, &error) != MKA_OK)
        config = NULL;
    if (mka_json_parse(in->json.bytes, in->json.length, "input", &json, &error) == MKA_OK) {
        mka_status status = mka_tokenizer_from_json(json, config, "input", (int)in->flags, &tokenizer, &error);
        use(status, tokenizer, &error, in);
    }
    mka_json_free(json);
    mka_json_free(config);
}

static void try_template(const input *in) {
    char *jinja = copy(in->jinja), *content = in->text_count ? copy(in->texts[0]) : NULL, text[256];
    mka_message messages[] = {{"system", content}, {"user", content}, {"assistant", content}, {"user", "ok"}};
    mka_error error;
    size_t length, again;
    int family = mka_chat_detect(jinja);
    for (int first = 0; first < 2 && family != MKA_CHAT_UNKNOWN && content; first++) {
        if (mka_chat_write(family, jinja, "<s>", "</s>", messages + first, 4 - first, first, NULL, 0, &length, &error)) continue;
        if (mka_chat_write(family, jinja, "<s>", "</s>", messages + first, 4 - first, first, text, sizeof text, &again, &error))
            abort();
        if (again != length || strlen(text) != (length < sizeof text ? length : sizeof text - 1)) abort();
    }
    free(jinja);
    free(content);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input *in = calloc(1, sizeof *in);
    if (!in) return 0;
    cut(in, data, size);
    if (in->model.bytes) try_vocabulary(in);
    if (in->json.bytes) try_json(in);
    if (in->jinja.bytes) try_template(in);
    free(in);
    return 0;
}
