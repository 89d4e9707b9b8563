/* json - reading JSON with errors that name the field, over jansson (this is its only includer beside the CLI's writer).
 *
 * Values are borrowed from the document. A document is immutable, so any number of threads may read it.
 */
#ifndef MKA_BASE_JSON_H
#define MKA_BASE_JSON_H

#include <mka/mka.h>

typedef struct mka_json mka_json; /* a document or any value in it */

/* Parses length bytes. name is for messages. MKA_BAD_FILE gives line and column. */
mka_status mka_json_parse(const char *text, size_t length, const char *name, mka_json **document, mka_error *error);
/* The same from a file of at most 256 MiB. */
mka_status mka_json_read(const char *path, mka_json **document, mka_error *error);
void mka_json_free(mka_json *document);

typedef enum mka_json_kind {
    MKA_JSON_NONE,
    MKA_JSON_NULL,
    MKA_JSON_BOOL,
    MKA_JSON_INT,  /* a whole number, also when it is written as 10000.0 */
    MKA_JSON_REAL, /* any other, and a whole number that int64 does not hold */
    MKA_JSON_STRING,
    MKA_JSON_ARRAY,
    MKA_JSON_OBJECT
} mka_json_kind;

/* NONE for NULL (an absent value), so that lookups can be chained. */
mka_json_kind mka_json_type(const mka_json *value);
const mka_json *mka_json_get(const mka_json *object, const char *key); /* NULL when absent or not an object */
size_t mka_json_length(const mka_json *value);                         /* of an array or object; bytes of a string; else 0 */
const mka_json *mka_json_at(const mka_json *array, size_t index);
/* The key and value of the next entry of an object, in the file's order; 0 at the end. cursor starts as NULL. */
int mka_json_next(const mka_json *object, void **cursor, const char **key, const mka_json **value);
/* Bytes of a string (may hold NUL when the text did), or NULL. */
const char *mka_json_string(const mka_json *value);

/* Typed reads of object[key], or of object itself when key is NULL (an item of an array, a value from mka_json_next). An
 * absent or null value gives the fallback; a value of another kind, or outside min..max, is MKA_BAD_FILE and leaves *out
 * alone. The message names the key alone: a value does not know its file, so put the path before it with mka_fail_prefix. */
mka_status mka_json_int(const mka_json *object, const char *key, int64_t fallback, int64_t min, int64_t max, int64_t *out,
                        mka_error *error);
mka_status mka_json_real(const mka_json *object, const char *key, double fallback, double *out, mka_error *error);
mka_status mka_json_bool(const mka_json *object, const char *key, int fallback, int *out, mka_error *error);

#endif
