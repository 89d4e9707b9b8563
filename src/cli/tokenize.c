/* tokenize - the ids of a text, with the piece of text that each stands for. */
#include "commands.h"
#include "setup.h"

#include <stdlib.h>
#include <string.h>

/* A piece on one line: control bytes and what is not UTF-8 as \xNN, so that the list can be read and pasted. */
static void print_piece(mka_cli *cli, const char *piece, size_t length) {
    size_t whole = mka_utf8_whole(piece, length);
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)piece[i];
        if (byte == '\n') {
            mka_cli_print(cli, "\\n");
        } else if (byte < 0x20 || byte == 0x7f || i >= whole) {
            mka_cli_print(cli, "\\x%02x", byte);
        } else {
            mka_cli_write(cli, piece + i, 1);
        }
    }
}

static int print_tokens(mka_cli *cli, const mka_model *model, const int *ids, size_t count) {
    size_t room = 256;
    char *piece = malloc(room);
    for (size_t i = 0; i < count && piece != NULL && cli->write_error == 0; i++) {
        size_t length = mka_token_piece(model, ids[i], 1, piece, room);
        if (length > room) {
            char *larger = realloc(piece, length);
            if (larger == NULL) break;
            piece = larger;
            room = length;
            mka_token_piece(model, ids[i], 1, piece, room);
        }
        mka_cli_print(cli, "%7d  '", ids[i]);
        print_piece(cli, piece, length);
        mka_cli_print(cli, "'\n");
    }
    int status = piece != NULL ? 0 : mka_cli_error("out of memory");
    free(piece);
    return status;
}

int mka_cli_tokenize_command(mka_cli *cli) {
    mka_engine *engine = NULL;
    mka_model *model = NULL;
    char *text = NULL;
    int *ids = NULL;
    size_t length = 0, count = 0;
    unsigned flags = (cli->options.no_bos ? 0 : MKA_TOKENIZE_BOS) | (cli->options.no_parse_special ? 0 : MKA_TOKENIZE_SPECIAL);
    if (cli->options.model == NULL) return mka_cli_usage("tokenize", "which model? Give one with -m MODEL");
    int status = mka_cli_read_prompt(cli, "tokenize", &text, &length);
    if (status == 0) status = mka_cli_open_engine(cli, &engine);
    if (status == 0) status = mka_cli_open_model(cli, "tokenize", engine, 1, &model);
    if (status == 0) status = mka_cli_tokenize(model, text, length, flags, &ids, &count);
    if (status == 0 && cli->options.json) {
        mka_cli_json(cli, json_pack("{s:o}", "ids", mka_cli_json_ids(ids, count)));
    } else if (status == 0) {
        status = print_tokens(cli, model, ids, count);
    }
    free(ids);
    free(text);
    mka_model_destroy(model);
    mka_engine_destroy(engine);
    return status;
}
