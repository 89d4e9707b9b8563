/* generate.c - continues a prompt with the most likely tokens, using only the installed headers.
 *
 *   cc generate.c $(pkg-config --cflags --libs mka) -o generate
 *   ./generate MODEL.gguf "The capital of France is" 16
 *
 * It shows the whole life of the library's objects: engine (this machine) -> model -> session -> tokens, freed in reverse.
 */
#include <mka/session.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The text's token ids, with BOS as the model wants; the caller frees them. NULL when error says why. */
static int *tokenize(const mka_model *model, const char *text, size_t *count, mka_error *error) {
    if (mka_tokenize(model, text, strlen(text), MKA_TOKENIZE_BOS, NULL, 0, count, error) != MKA_OK) return NULL;
    int *ids = malloc((*count + 1) * sizeof *ids);
    if (ids == NULL) {
        snprintf(error->message, sizeof error->message, "out of memory");
        return NULL;
    }
    if (mka_tokenize(model, text, strlen(text), MKA_TOKENIZE_BOS, ids, *count, count, error) != MKA_OK) {
        free(ids);
        return NULL;
    }
    return ids;
}

/* Evaluates the prompt, then one chosen token after another, and prints each as soon as it is known. */
static mka_status generate(mka_session *session, const mka_model *model, const int *prompt, size_t count, int limit,
                           float *logits, mka_sampler *sampler, mka_error *error) {
    mka_status status = mka_session_eval(session, prompt, count, logits, NULL, NULL, error);
    for (int i = 0; i < limit && status == MKA_OK; i++) {
        char piece[256];
        int token = mka_sampler_next(sampler, logits);
        if (token < 0 || mka_model_is_end(model, token)) break;
        size_t length = mka_token_piece(model, token, 0, piece, sizeof piece);
        fwrite(piece, 1, length < sizeof piece ? length : sizeof piece, stdout);
        fflush(stdout);
        status = mka_session_eval(session, &token, 1, logits, NULL, NULL, error);
    }
    putchar('\n');
    return status;
}

int main(int argc, char **argv) {
    mka_error error = {MKA_OK, ""};
    mka_engine *engine = NULL;
    mka_model *model = NULL;
    mka_session *session = NULL;
    mka_sampler *sampler = NULL;
    float *logits = NULL;
    int *prompt = NULL;
    int result = 1;

    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: generate MODEL PROMPT [TOKENS]\n");
        return 2;
    }
    int limit = argc > 3 ? atoi(argv[3]) : 32;

    mka_sampler_options greedy;
    mka_sampler_defaults(&greedy);
    greedy.temperature = 0;

    mka_model_info info;
    size_t count;
    if (mka_engine_create(NULL, &engine, &error) != MKA_OK || mka_model_load(engine, argv[1], NULL, &model, &error) != MKA_OK)
        goto done;
    mka_model_get_info(model, &info);
    if (mka_sampler_create(&greedy, info.vocabulary, &sampler, &error) != MKA_OK) goto done;
    prompt = tokenize(model, argv[2], &count, &error);
    if (prompt == NULL) goto done;
    logits = malloc((size_t)info.vocabulary * sizeof *logits);
    if (logits == NULL || mka_session_create(model, NULL, &session, &error) != MKA_OK) goto done;
    if (generate(session, model, prompt, count, limit, logits, sampler, &error) == MKA_OK) result = 0;

done:
    if (result != 0) fprintf(stderr, "generate: %s\n", error.message[0] ? error.message : "out of memory");
    free(prompt);
    free(logits);
    mka_session_destroy(session);
    mka_sampler_destroy(sampler);
    mka_model_destroy(model);
    mka_engine_destroy(engine);
    return result;
}
