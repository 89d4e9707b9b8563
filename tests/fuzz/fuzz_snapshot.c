/* fuzz_snapshot - any bytes as a saved memory: loading fails with a message, or attention over what was loaded runs. What only
 * looks at a file, as lists do, is tried too, of memories and of sessions.
 *
 * Checksums would stop nearly every input, so each is tried twice: as it is, and with the sums set right wherever its header
 * and table have room for it, which is what a hostile writer would do.
 */
#include "fuzz.h"

#include "format/snapshot.h"

#include <mka/session.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

enum { HEADS = 2, DIM = 16, CONTEXT = 320, PIECE = 1 << 20 };

static mka_memory *memory(void) {
    mka_engine_options threads;
    mka_memory_options options;
    mka_engine *engine;
    mka_memory *made;
    mka_engine_defaults(&threads);
    threads.threads = 1;
    threads.bind = 0;
    mka_memory_defaults(&options);
    options.heads = HEADS, options.kv_heads = 1, options.head_dim = DIM, options.context = CONTEXT, options.plan.window = 64;
    if (mka_engine_create(&threads, &engine, NULL) || mka_memory_create(engine, &options, &made, NULL)) abort();
    return made;
}

/* Attention under every contract, of a token appended to whatever was loaded. */
static void use(mka_memory *m) {
    static const mka_contract contracts[] = {MKA_RECALL_ESTIMATED, MKA_RECALL_CERTIFIED, MKA_RECALL_DENSE};
    float row[HEADS * DIM], out[HEADS * DIM];
    mka_error error;
    if (mka_memory_length(m, 0) == CONTEXT) return;
    for (int i = 0; i < HEADS * DIM; i++) row[i] = (float)(i % 7) - 3;
    if (mka_memory_append(m, 0, 1, row, row, &error)) abort();
    for (int i = 0; i < 3; i++) {
        mka_recall rule = {.contract = contracts[i], .eps = 0.01F};
        if (mka_memory_set_recall(m, &rule, &error) || mka_memory_attend(m, 0, 1, row, out, NULL, &error)) abort();
    }
}

static void look(const char *path) {
    mka_memory_options options;
    mka_session_file about;
    mka_error error = {MKA_OK, ""};
    void *note;
    size_t bytes;
    mka_status status = mka_memory_peek(path, &options, &error);
    if (status != error.status || (status == MKA_OK && (options.layers < 1 || options.context < 1))) abort();
    status = mka_session_peek(path, &about, &error);
    if (status == MKA_OK && (about.tokens < 0 || about.layers < 0)) abort();
    if (mka_session_peek_note(path, &note, &bytes, &error) != MKA_OK && (note || bytes)) abort();
    free(note);
}

static void try(mka_memory *m, const uint8_t *data, size_t size) {
    char path[64];
    mka_error error = {MKA_OK, ""};
    int handle = memfd_create("input", 0);
    if (handle < 0 || write(handle, data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", handle);
    look(path);
    mka_status status = mka_memory_load(m, path, &error);
    close(handle);
    if (status != error.status || (status != MKA_OK) != (error.message[0] != 0)) abort();
    if (status == MKA_OK) use(m);
}

/* Sets every sum right that can be; the sums of regions above one piece are left as they are. */
static void seal(uint8_t *data, size_t size) {
    mka_snapshot_header header;
    mka_snapshot_entry entry;
    if (size < sizeof header) return;
    memcpy(&header, data, sizeof header);
    size_t room = size - sizeof header,
           count = header.regions < room / sizeof entry ? (size_t)header.regions : room / sizeof entry;
    for (size_t i = 0; i < count; i++) {
        uint8_t *at = data + sizeof header + i * sizeof entry;
        memcpy(&entry, at, sizeof entry);
        uint64_t bytes = (entry.bytes + 63) / 64 * 64;
        if (entry.offset > size || bytes > size - entry.offset || bytes > PIECE || bytes == 0) continue;
        uint64_t sum = XXH3_64bits(data + entry.offset, (size_t)bytes);
        entry.sum = XXH3_64bits(&sum, sizeof sum);
        memcpy(at, &entry, sizeof entry);
    }
    header.bytes = size;
    header.table_sum = XXH3_64bits(data + sizeof header, count * sizeof entry);
    header.header_sum = XXH3_64bits(&header, offsetof(mka_snapshot_header, header_sum));
    memcpy(data, &header, sizeof header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mka_memory *m; /* made once: an engine for every input would be most of the time */
    uint8_t *copy = malloc(size ? size : 1);
    if (!m) m = memory();
    if (!copy) return 0;
    if (size) memcpy(copy, data, size);
    try(m, copy, size);
    seal(copy, size);
    try(m, copy, size);
    free(copy);
    return 0;
}
