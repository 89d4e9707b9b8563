/* memory.c - tiered memory without a model: keys and values of any engine go in, attention comes out, and what was read is known.
 *
 *   cc memory.c $(pkg-config --cflags --libs mka) -lm -o memory
 *   ./memory [TOKENS [FILE]]
 *
 * One layer of 8 query heads on 2 key/value heads of width 64 takes TOKENS random tokens (default 20,000), one of which has a key
 * that the last query looks for. The query reads that one and a handful of others. With FILE the memory is saved there and read
 * back.
 */
#include <mka/memory.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 8, KV_HEADS = 2, DIM = 64, AT_ONCE = 256 };

static float noise(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) * 0x1p-23F - 1.0F;
}

static int fail(const char *what, const mka_error *error) {
    fprintf(stderr, "memory: %s: %s\n", what, error->message);
    return 1;
}

/* Appends count tokens; the one at position hidden has keys of all ones, and values of all ones. */
static mka_status fill(mka_memory *memory, int count, int hidden, mka_error *error) {
    static float keys[AT_ONCE][KV_HEADS][DIM], values[AT_ONCE][KV_HEADS][DIM];
    unsigned state = 1;
    for (int done = 0; done < count; done += AT_ONCE) {
        int n = count - done < AT_ONCE ? count - done : AT_ONCE;
        for (int t = 0; t < n; t++)
            for (int i = 0; i < KV_HEADS * DIM; i++) {
                int found = done + t == hidden;
                keys[t][i / DIM][i % DIM] = found ? 1.0F : noise(&state);
                values[t][i / DIM][i % DIM] = found ? 1.0F : 0.1F * noise(&state);
            }
        mka_status status = mka_memory_append(memory, 0, n, &keys[0][0][0], &values[0][0][0], error);
        if (status != MKA_OK) return status;
    }
    return MKA_OK;
}

/* Asks for the hidden token and says what came back. */
static mka_status ask(mka_memory *memory, mka_error *error) {
    float query[HEADS][DIM], out[HEADS][DIM];
    mka_used used = {0};
    for (int i = 0; i < HEADS * DIM; i++) query[i / DIM][i % DIM] = 2.0F;
    mka_status status = mka_memory_attend(memory, 0, 1, &query[0][0], &out[0][0], &used, error);
    if (status != MKA_OK) return status;
    double pairs = used.queries > 0 ? (double)used.queries : 1;
    printf("head 0 answers %.3f (the hidden token's value is 1); of %.0f long-term tokens it read %.0f; %.1f KiB of mean keys "
           "scored\n",
           (double)out[0][0], (double)used.long_tokens / pairs, (double)used.read_tokens / pairs,
           (double)used.scan_bytes / pairs / 1024);
    return MKA_OK;
}

int main(int argc, char **argv) {
    int tokens = argc > 1 ? atoi(argv[1]) : 20000, status = 1;
    mka_engine *engine = NULL;
    mka_memory *memory = NULL;
    mka_memory_options options;
    mka_error error;
    mka_memory_defaults(&options);
    options.heads = HEADS;
    options.kv_heads = KV_HEADS;
    options.head_dim = DIM;
    options.context = tokens > 0 ? tokens : 1;
    if (mka_engine_create(NULL, &engine, &error) != MKA_OK)
        fail("engine", &error);
    else if (mka_memory_create(engine, &options, &memory, &error) != MKA_OK)
        fail("create", &error);
    else if (fill(memory, tokens, tokens / 3, &error) != MKA_OK)
        fail("append", &error);
    else if (ask(memory, &error) != MKA_OK)
        fail("attend", &error);
    else if (argc > 2 && mka_memory_save(memory, argv[2], &error) != MKA_OK)
        fail("save", &error);
    else if (argc > 2 && (mka_memory_reset(memory), mka_memory_load(memory, argv[2], &error)) != MKA_OK)
        fail("load", &error);
    else if (argc > 2 && ask(memory, &error) != MKA_OK)
        fail("attend again", &error);
    else
        status = 0;
    mka_memory_destroy(memory);
    mka_engine_destroy(engine);
    return status;
}
