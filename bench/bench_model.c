/* bench_model.c - tokens a second of a model: taking a prompt in, and decoding at several depths of the cache.
 *
 *   bench_model MODEL [THREADS [REPEATS]]
 *
 * One JSON object a row. What a decoded token must read at least, declared here beside the measurement: every weight once and
 * the keys and values of all tokens before it; `bytes` is that sum as the session counts it, `gbps` what it makes a second.
 * A prompt's tokens are arbitrary ids: the arithmetic does not depend on them.
 */
#include <mka/session.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PROMPT = 512, DECODED = 32, MAX_REPEATS = 99 };

typedef struct bench {
    mka_engine *engine;
    mka_model *model;
    mka_session *session;
    mka_model_info info;
    mka_machine machine;
    float *logits;
    int *ids;
    mka_type kv_type;
    int context, repeats;
} bench;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_row(const bench *b, const char *phase, int depth, int tokens, double *rates, uint64_t bytes) {
    qsort(rates, (size_t)b->repeats, sizeof *rates, by_size);
    double median = rates[b->repeats / 2];
    printf("{\"phase\": \"%s\", \"depth\": %d, \"tokens\": %d, \"tok_s\": {\"min\": %.1f, \"median\": %.1f, \"max\": %.1f}, "
           "\"bytes\": %llu, \"gbps\": %.2f, \"kv_type\": \"%s\", \"memory\": \"dense\", \"threads\": %d, \"cpu\": \"%s\"}\n",
           phase, depth, tokens, rates[0], median, rates[b->repeats - 1], (unsigned long long)bytes,
           (double)bytes / tokens * median * 1e-9, mka_type_name(b->kv_type), b->machine.threads, b->machine.level);
    fflush(stdout);
}

/* tokens after depth others: all at once (prefill) or one by one. */
static mka_status measure(bench *b, const char *phase, int depth, int tokens, int step, mka_error *error) {
    double rates[MAX_REPEATS];
    mka_session_usage before, after;
    if (depth + tokens > b->context) return MKA_OK; /* deeper than this model goes */
    for (int r = 0; r < b->repeats; r++) {
        mka_status status = MKA_OK;
        int length = mka_session_length(b->session);
        if (length > depth) status = mka_session_truncate(b->session, depth, error);
        if (status == MKA_OK && length < depth) {
            status = mka_session_eval(b->session, b->ids + length, (size_t)(depth - length), NULL, NULL, NULL, error);
        }
        mka_session_get_usage(b->session, &before);
        double start = now();
        for (int i = 0; i < tokens && status == MKA_OK; i += step) {
            status = mka_session_eval(b->session, b->ids + depth + i, (size_t)step, b->logits, NULL, NULL, error);
        }
        if (status != MKA_OK) return status;
        rates[r] = tokens / (now() - start);
    }
    mka_session_get_usage(b->session, &after);
    print_row(b, phase, depth, tokens, rates,
              after.weight_bytes_read - before.weight_bytes_read + after.cache_bytes_read - before.cache_bytes_read);
    return MKA_OK;
}

static mka_status measure_all(bench *b, mka_error *error) {
    static const int depths[] = {0, 512, 2048, 7680};
    mka_status status = measure(b, "prefill", 0, PROMPT, PROMPT, error);
    for (size_t i = 0; i < sizeof depths / sizeof depths[0] && status == MKA_OK; i++) {
        status = measure(b, "decode", depths[i], DECODED, 1, error);
    }
    return status;
}

static mka_status prepare(bench *b, const char *path, int threads, mka_error *error) {
    mka_engine_options options;
    mka_session_options session;
    mka_engine_defaults(&options);
    options.threads = threads;
    mka_status status = mka_engine_create(&options, &b->engine, error);
    if (status == MKA_OK) status = mka_model_load(b->engine, path, NULL, &b->model, error);
    if (status != MKA_OK) return status;
    mka_engine_machine(b->engine, &b->machine);
    mka_model_get_info(b->model, &b->info);
    b->context = b->info.context < 8192 ? b->info.context : 8192;
    b->logits = malloc((size_t)b->info.vocabulary * sizeof *b->logits);
    b->ids = malloc((size_t)b->context * sizeof *b->ids);
    if (b->logits == NULL || b->ids == NULL) {
        snprintf(error->message, sizeof error->message, "out of memory");
        return MKA_NO_MEMORY;
    }
    for (int i = 0; i < b->context; i++) b->ids[i] = (int)((unsigned)i * 7919u % (unsigned)b->info.vocabulary);
    mka_session_defaults(&session);
    session.context = b->context;
    b->kv_type = session.key_type;
    return mka_session_create(b->model, &session, &b->session, error);
}

int main(int argc, char **argv) {
    bench b = {0};
    mka_error error = {MKA_OK, ""};
    int threads = argc > 2 ? atoi(argv[2]) : 0;
    b.repeats = argc > 3 ? atoi(argv[3]) : 5;
    if (argc < 2 || argc > 4 || b.repeats < 1 || b.repeats > MAX_REPEATS) {
        fprintf(stderr, "usage: bench_model MODEL [THREADS [REPEATS]]\n");
        return 2;
    }
    mka_status status = prepare(&b, argv[1], threads, &error);
    if (status == MKA_OK) status = measure_all(&b, &error);
    if (status != MKA_OK) fprintf(stderr, "bench_model: %s\n", error.message);
    free(b.logits);
    free(b.ids);
    mka_session_destroy(b.session);
    mka_model_destroy(b.model);
    mka_engine_destroy(b.engine);
    return status == MKA_OK ? 0 : 1;
}
