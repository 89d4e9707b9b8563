/* json - jansson behind the few calls that readers of model folders need; no jansson type leaves this file.
 *
 * A value is a plain json_t pointer in disguise, so that a lookup costs nothing.
 */
#include "base/json.h"

#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE ((size_t)256 << 20)

static const json_t *node(const mka_json *value) {
    return (const json_t *)value;
}

#define FLAGS (JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY)

mka_status mka_json_parse(const char *text, size_t length, const char *name, mka_json **document, mka_error *error) {
    json_error_t failure;
    *document = NULL;
    json_t *root = json_loadb(text, length, FLAGS, &failure);
    /* tokenizer_config.json states "no limit" as 1000000000000000019884624838656, which no integer holds. */
    if (!root && json_error_code(&failure) == json_error_numeric_overflow)
        root = json_loadb(text, length, FLAGS | JSON_DECODE_INT_AS_REAL, &failure);
    if (!root) {
        if (json_error_code(&failure) == json_error_out_of_memory)
            return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to parse it", name);
        return mka_fail(error, MKA_BAD_FILE, "%s: not valid JSON: line %d, column %d: %s", name, failure.line, failure.column,
                        failure.text);
    }
    *document = (mka_json *)root;
    return mka_succeed(error);
}

/* All bytes of an open file of a known size; a file that shrinks meanwhile is an error. */
static mka_status read_all(int handle, const char *path, char *text, size_t size, mka_error *error) {
    for (size_t have = 0; have < size;) {
        ssize_t got = read(handle, text + have, size - have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return mka_fail(error, MKA_IO, "%s: cannot be read: %s", path, strerror(errno));
        if (got == 0) return mka_fail(error, MKA_IO, "%s: became shorter while it was read", path);
        have += (size_t)got;
    }
    return MKA_OK;
}

mka_status mka_json_read(const char *path, mka_json **document, mka_error *error) {
    mka_status status;
    struct stat about;
    char *text = NULL;
    *document = NULL;
    int handle = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to hang on a pipe without a writer */
    if (handle < 0) return mka_fail(error, MKA_IO, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(handle, &about) != 0) {
        status = mka_fail(error, MKA_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(about.st_mode)) {
        status = mka_fail(error, MKA_IO, "%s: not a regular file", path);
        goto done;
    }
    if (about.st_size < 0 || (uint64_t)about.st_size > MAX_FILE) {
        char size[MKA_SIZE_TEXT];
        status = mka_fail(error, MKA_BAD_FILE, "%s: %s of JSON; at most 256 MiB are read", path,
                          mka_size_text((uint64_t)about.st_size, size, sizeof size));
        goto done;
    }
    size_t size = (size_t)about.st_size;
    text = malloc(size + 1);
    if (!text) {
        status = mka_fail(error, MKA_NO_MEMORY, "%s: no memory to read it", path);
        goto done;
    }
    status = read_all(handle, path, text, size, error);
    if (status == MKA_OK) status = mka_json_parse(text, size, path, document, error);
done:
    free(text);
    close(handle);
    return status;
}

void mka_json_free(mka_json *document) {
    json_decref((json_t *)document);
}

/* Whether value is a whole number, and which. Some files write 10000.0 for 10000, so the spelling does not count; beyond
 * 2^53 a double is no longer sure of its last digit. */
static int whole(const json_t *value, int64_t *number) {
    if (json_is_integer(value)) {
        *number = json_integer_value(value);
        return 1;
    }
    if (!json_is_real(value)) return 0;
    double real = json_real_value(value);
    if (!(real >= -9007199254740992.0 && real <= 9007199254740992.0) || real != (double)(int64_t)real) return 0;
    *number = (int64_t)real;
    return 1;
}

mka_json_kind mka_json_type(const mka_json *value) {
    int64_t number;
    if (!value) return MKA_JSON_NONE;
    switch (json_typeof(node(value))) {
    case JSON_NULL:
        return MKA_JSON_NULL;
    case JSON_TRUE:
    case JSON_FALSE:
        return MKA_JSON_BOOL;
    case JSON_INTEGER:
    case JSON_REAL:
        return whole(node(value), &number) ? MKA_JSON_INT : MKA_JSON_REAL;
    case JSON_STRING:
        return MKA_JSON_STRING;
    case JSON_ARRAY:
        return MKA_JSON_ARRAY;
    case JSON_OBJECT:
        return MKA_JSON_OBJECT;
    }
    return MKA_JSON_NONE;
}

const mka_json *mka_json_get(const mka_json *object, const char *key) {
    return (const mka_json *)json_object_get(node(object), key);
}

size_t mka_json_length(const mka_json *value) {
    if (json_is_string(node(value))) return json_string_length(node(value));
    if (json_is_array(node(value))) return json_array_size(node(value));
    return json_object_size(node(value)); /* 0 for anything else */
}

const mka_json *mka_json_at(const mka_json *array, size_t index) {
    return (const mka_json *)json_array_get(node(array), index);
}

int mka_json_next(const mka_json *object, void **cursor, const char **key, const mka_json **value) {
    json_t *map = (json_t *)(uintptr_t)object; /* jansson's iterators take a plain pointer but only read */
    *cursor = *cursor ? json_object_iter_next(map, *cursor) : json_object_iter(map);
    if (!*cursor) return 0;
    *key = json_object_iter_key(*cursor);
    *value = (const mka_json *)json_object_iter_value(*cursor);
    return 1;
}

const char *mka_json_string(const mka_json *value) {
    return json_string_value(node(value));
}

/* The value to read: object[key], or object itself when key is NULL. NULL when it is absent or null. */
static const json_t *pick(const mka_json *object, const char *key) {
    const json_t *value = key ? json_object_get(node(object), key) : node(object);
    return json_is_null(value) ? NULL : value;
}

static mka_status wrong(mka_error *error, const char *key, const char *expected) {
    return mka_fail(error, MKA_BAD_FILE, "%s: expected %s", key ? key : "a value", expected);
}

mka_status mka_json_int(const mka_json *object, const char *key, int64_t fallback, int64_t min, int64_t max, int64_t *out,
                        mka_error *error) {
    const json_t *value = pick(object, key);
    int64_t number = fallback;
    if (value) {
        if (!whole(value, &number)) return wrong(error, key, "a whole number");
        if (number < min || number > max) {
            return mka_fail(error, MKA_BAD_FILE, "%s: %lld is outside %lld..%lld", key ? key : "a value", (long long)number,
                            (long long)min, (long long)max);
        }
    }
    *out = number;
    return MKA_OK;
}

mka_status mka_json_real(const mka_json *object, const char *key, double fallback, double *out, mka_error *error) {
    const json_t *value = pick(object, key);
    if (value && !json_is_number(value)) return wrong(error, key, "a number");
    *out = value ? json_number_value(value) : fallback;
    return MKA_OK;
}

mka_status mka_json_bool(const mka_json *object, const char *key, int fallback, int *out, mka_error *error) {
    const json_t *value = pick(object, key);
    if (value && !json_is_boolean(value)) return wrong(error, key, "true or false");
    *out = value ? json_is_true(value) : fallback;
    return MKA_OK;
}
