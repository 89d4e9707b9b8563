/* fuzz_file - any bytes as a GGUF or safetensors file: opening fails, or everything that it promises can be read.
 *
 * Opened from memory rather than from a file, so that the sanitizer sees a read one byte past the end.
 */
#include "fuzz.h"

#include "format/file.h"

#include <stdlib.h>
#include <string.h>

/* What a caller reads must be initialised and within the input; summing it makes the sanitizer look. */
static unsigned touch(const void *bytes, size_t length) {
    const unsigned char *c = bytes;
    unsigned sum = 0;
    for (size_t i = 0; i < length; i++) sum += c[i];
    return sum;
}

static unsigned walk_tensors(const mka_file *file) {
    unsigned sum = 0;
    int count = mka_file_tensor_count(file);
    for (int i = 0; i < count; i++) {
        const mka_tensor *tensor = mka_file_tensor(file, i);
        if (mka_file_find(file, tensor->name) != tensor) abort();
        if (tensor->rank < 0 || tensor->rank > 4 || mka_type_from_name(mka_type_name(tensor->type)) != tensor->type) abort();
        for (int d = 0; d < tensor->rank; d++) {
            if (tensor->shape[d] < 0) abort();
        }
        sum += touch(tensor->data, tensor->bytes);
    }
    if (mka_file_tensor(file, count) || mka_file_tensor(file, -1)) abort();
    return sum;
}

static unsigned walk_entry(const mka_file *file, const mka_meta *meta) {
    unsigned sum = 0;
    for (uint64_t i = 0; i < meta->count; i++) {
        const char *bytes;
        size_t length;
        int64_t whole;
        double real;
        int is_string = mka_meta_string(file, meta, i, &bytes, &length);
        int is_number = mka_meta_float(file, meta, i, &real);
        int is_whole = mka_meta_int(file, meta, i, &whole);
        if (is_string && (is_number || is_whole)) abort();
        if (is_string) sum += touch(bytes, length);
    }
    return sum;
}

static unsigned walk_metadata(const mka_file *file) {
    unsigned sum = 0;
    int64_t whole;
    for (int i = 0; i < mka_file_meta_count(file); i++) {
        const mka_meta *meta = mka_file_meta(file, i);
        if (mka_file_meta_find(file, meta->key) != meta) abort();
        if (mka_meta_int(file, meta, meta->count, &whole)) abort();
        sum += walk_entry(file, meta);
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mka_file *file = NULL;
    mka_error error = {MKA_OK, ""};
    mka_status status = mka_file_open_memory(data, size, "input", &file, &error);
    if ((status == MKA_OK) != (file != NULL) || status != error.status || (status != MKA_OK) != (error.message[0] != 0)) abort();
    if (file) {
        volatile unsigned sum = walk_tensors(file) + walk_metadata(file);
        (void)sum;
    }
    mka_file_close(file);
    return 0;
}
