/* reader.h - what the tests of both readers share: opening a file made in memory, and expecting that it is refused. The including
 * file defines READER_NAME, which messages call the file. */
#ifndef MKA_TEST_READER_H
#define MKA_TEST_READER_H

#include "bytes.h"
#include "format/file.h"

/* Opens a heap block of exactly size bytes, so that a sanitizer sees a read past its end. */
static inline mka_status open_bytes(const struct bytes *b, size_t size, mka_file **file, mka_error *error, void **copy) {
    *copy = malloc(size ? size : 1);
    assert_non_null(*copy);
    memcpy(*copy, b->data, size);
    return mka_file_open_memory(*copy, size, READER_NAME, file, error);
}

static inline void expect_bytes_fail(const struct bytes *b, mka_status status, const char *text) {
    mka_file *file;
    mka_error error;
    void *copy;
    mka_status got = open_bytes(b, b->size, &file, &error, &copy);
    if (got != status || !strstr(error.message, text))
        print_error("%d: %s\n  expected %d: %s\n", got, error.message, status, text);
    assert_int_equal(got, status);
    assert_non_null(strstr(error.message, text));
    assert_null(file);
    free(copy);
}

#endif
