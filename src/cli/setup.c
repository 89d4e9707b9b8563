/* setup - engine, model, session and text from flags. See setup.h. */
#include "setup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int mka_cli_open_engine(mka_cli *cli, mka_engine **engine) {
    mka_engine_options options;
    mka_error error = {0};
    mka_engine_defaults(&options);
    options.threads = cli->options.threads;
    options.cpu = cli->options.cpu;
    options.nodes = cli->options.nodes;
    options.device = cli->options.device;
    options.device_memory = cli->options.device_memory;
    options.log = mka_cli_log;
    options.log_user = cli;
    /* Threads and level come from flags or the environment, so a bad one is wrong usage. */
    return mka_engine_create(&options, engine, &error) == MKA_OK ? 0 : mka_cli_failure(&error, 1);
}

int mka_cli_open_model(mka_cli *cli, const char *command, mka_engine *engine, int vocabulary_only, mka_model **model) {
    mka_model_options options;
    mka_error error = {0};
    if (cli->options.model == NULL) return mka_cli_usage(command, "which model? Give one with -m MODEL");
    mka_model_defaults(&options);
    options.router = cli->options.router;
    options.vocabulary_only = vocabulary_only;
    options.numa = strcmp(command, "info") ? cli->options.plan.numa : MKA_NUMA_OFF; /* nothing is computed with it there */
    return mka_model_load(engine, cli->options.model, &options, model, &error) == MKA_OK ? 0 : mka_cli_failure(&error, 0);
}

void mka_cli_session_options(const mka_cli *cli, int context, mka_session_options *options) {
    mka_session_defaults(options);
    options->context = context;
    if (cli->options.chunk > 0) options->chunk = cli->options.chunk;
    if (cli->options.key_type != MKA_CLI_UNSET) options->key_type = (mka_type)cli->options.key_type;
    if (cli->options.value_type != MKA_CLI_UNSET) options->value_type = (mka_type)cli->options.value_type;
    if (cli->options.mla != MKA_CLI_UNSET) options->mla = (mka_mla_form)cli->options.mla;
    if (cli->options.memory != MKA_CLI_UNSET) options->memory = (mka_memory_mode)cli->options.memory;
    options->level_threshold = cli->options.level_threshold;
    options->bank = cli->options.bank;
    options->plan = cli->options.plan;
    options->exact = cli->options.exact;
}

int mka_cli_open_banks(mka_cli *cli, mka_session *session) {
    mka_error error = {0};
    for (int i = 0; i < cli->options.bank_files; i++)
        if (mka_session_remember(session, cli->options.bank_from[i], &error) != MKA_OK) return mka_cli_failure(&error, 0);
    return 0;
}

int mka_cli_open_session(mka_cli *cli, mka_model *model, int context, mka_session **session) {
    mka_session_options options;
    mka_error error = {0};
    mka_cli_session_options(cli, context, &options);
    if (mka_session_create(model, &options, session, &error) != MKA_OK) return mka_cli_failure(&error, 1);
    return mka_cli_open_banks(cli, *session);
}

static int read_stream(FILE *stream, const char *name, char **text, size_t *length) {
    const size_t limit = (size_t)1 << 30;
    size_t room = 1 << 16, used = 0;
    char *bytes = malloc(room);
    while (bytes != NULL) {
        used += fread(bytes + used, 1, room - 1 - used, stream);
        if (ferror(stream)) {
            free(bytes);
            return mka_cli_error("cannot read %s: %s", name, strerror(errno));
        }
        if (used < room - 1) break;
        char *larger = room < limit ? realloc(bytes, 2 * room) : NULL;
        if (larger == NULL) {
            free(bytes);
            return mka_cli_error("%s: too large; a text may have %zu bytes at most", name, limit);
        }
        bytes = larger;
        room *= 2;
    }
    if (bytes == NULL) return mka_cli_error("out of memory");
    bytes[used] = '\0';
    *text = bytes;
    *length = used;
    return 0;
}

int mka_cli_read_file(const char *path, char **text, size_t *length) {
    if (strcmp(path, "-") == 0) return read_stream(stdin, "standard input", text, length);
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) return mka_cli_error("cannot open %s: %s", path, strerror(errno));
    int status = read_stream(stream, path, text, length);
    fclose(stream);
    return status;
}

int mka_cli_read_prompt(mka_cli *cli, const char *command, char **text, size_t *length) {
    const char *prompt = cli->options.prompt;
    if (prompt != NULL && cli->options.file != NULL) return mka_cli_usage(command, "-p and -f exclude each other; give one");
    if (prompt == NULL && cli->options.file == NULL && cli->options.load_session != NULL) prompt = "";
    if (prompt == NULL && cli->options.file == NULL) return mka_cli_usage(command, "no text; give it with -p TEXT or -f FILE");
    if (prompt == NULL) return mka_cli_read_file(cli->options.file, text, length);
    *length = strlen(prompt);
    *text = malloc(*length + 1);
    if (*text == NULL) return mka_cli_error("out of memory");
    memcpy(*text, prompt, *length + 1);
    return 0;
}

int mka_cli_tokenize(const mka_model *model, const char *text, size_t length, unsigned flags, int **ids, size_t *count) {
    mka_error error = {0};
    /* Most tokens have two bytes or more; a text for which this room is short is tokenized a second time. */
    size_t room = length / 2 + 64;
    for (int attempt = 0; attempt < 2; attempt++) {
        int *array = malloc(room * sizeof *array);
        if (array == NULL) return mka_cli_error("out of memory for %zu tokens", room);
        if (mka_tokenize(model, text, length, flags, array, room, count, &error) != MKA_OK) {
            free(array);
            return mka_cli_failure(&error, 0);
        }
        if (*count <= room) {
            *ids = array;
            return 0;
        }
        free(array);
        room = *count;
    }
    return mka_cli_error("the tokenizer gave two different counts for one text");
}

/* Whether text begins with the BOS token's own text, which must then not be added a second time. */
static int begins_with_bos(const mka_model *model, const char *text, size_t length) {
    mka_special special;
    char piece[256];
    mka_model_special(model, &special);
    if (special.bos < 0) return 0;
    size_t bytes = mka_token_piece(model, special.bos, 1, piece, sizeof piece);
    return bytes > 0 && bytes <= sizeof piece && bytes <= length && memcmp(text, piece, bytes) == 0;
}

int mka_cli_format_chat(mka_cli *cli, const mka_model *model, const mka_message *messages, int count, char **text, size_t *length,
                        unsigned *flags) {
    const char *name = cli->options.chat_template;
    mka_error error = {0};
    if (mka_chat_format(model, name, messages, count, 1, NULL, 0, length, &error) != MKA_OK) {
        mka_cli_failure(&error, 0);
        if (error.status == MKA_UNSUPPORTED && name == NULL) {
            fputs("Try: --template NAME, one of", stderr);
            for (const char *const *t = mka_chat_templates(); *t != NULL; t++) fprintf(stderr, " %s", *t);
            fputc('\n', stderr);
        }
        return 1;
    }
    *text = malloc(*length + 1);
    if (*text == NULL) return mka_cli_error("out of memory");
    if (mka_chat_format(model, name, messages, count, 1, *text, *length + 1, length, &error) != MKA_OK) {
        free(*text);
        *text = NULL;
        return mka_cli_failure(&error, 0);
    }
    *flags = MKA_TOKENIZE_SPECIAL | (begins_with_bos(model, *text, *length) ? 0 : MKA_TOKENIZE_BOS);
    return 0;
}
