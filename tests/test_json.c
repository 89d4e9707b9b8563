/* test_json - reading values, fallbacks and errors, with what model folders really contain. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "bytes.h"

static mka_json *parse(const char *text) {
    mka_json *document;
    mka_error error;
    mka_status status = mka_json_parse(text, strlen(text), "test.json", &document, &error);
    if (status != MKA_OK) print_error("%s\n", error.message);
    assert_int_equal(status, MKA_OK);
    return document;
}

static void looks_values_up(void **state) {
    (void)state;
    mka_json *d = parse("{\"a\": {\"b\": [1, \"x\\u0000y\", null, true, 2.5]}, \"e\": {}}");
    const mka_json *b = mka_json_get(mka_json_get(d, "a"), "b");
    static const mka_json_kind kinds[] = {MKA_JSON_INT, MKA_JSON_STRING, MKA_JSON_NULL, MKA_JSON_BOOL, MKA_JSON_REAL};
    assert_int_equal(mka_json_length(b), 5);
    for (size_t i = 0; i < 5; i++) assert_int_equal(mka_json_type(mka_json_at(b, i)), kinds[i]);
    assert_int_equal(mka_json_length(mka_json_at(b, 1)), 3);
    assert_memory_equal(mka_json_string(mka_json_at(b, 1)), "x\0y", 3);
    assert_null(mka_json_at(b, 5));
    assert_null(mka_json_get(mka_json_get(mka_json_get(d, "no"), "such"), "path"));
    assert_int_equal(mka_json_type(NULL), MKA_JSON_NONE);
    assert_int_equal(mka_json_length(NULL), 0);
    assert_null(mka_json_string(b));
    assert_null(mka_json_string(NULL));
    assert_int_equal(mka_json_type(d), MKA_JSON_OBJECT);
    mka_json_free(d);
    mka_json_free(NULL);
}

static void walks_objects_in_order(void **state) {
    (void)state;
    static const char *const keys[] = {"z", "a", "m"};
    mka_json *d = parse("{\"z\": 0, \"a\": 1, \"m\": 2}");
    void *cursor = NULL;
    const char *key;
    const mka_json *value;
    int64_t number, i = 0;
    for (; mka_json_next(d, &cursor, &key, &value); i++) {
        assert_string_equal(key, keys[i]);
        assert_int_equal(mka_json_int(value, NULL, -1, 0, 9, &number, NULL), MKA_OK);
        assert_int_equal(number, i);
    }
    assert_int_equal(i, 3);
    cursor = NULL;
    assert_false(mka_json_next(NULL, &cursor, &key, &value));
    mka_json_free(d);
}

static void reads_typed_values(void **state) {
    (void)state;
    mka_json *d = parse("{\"i\": 7, \"theta\": 10000.0, \"r\": 0.5, \"t\": true, \"n\": null, \"s\": \"7\"}");
    mka_error error;
    int64_t whole = -1;
    double real = -1;
    int truth = -1;
    assert_int_equal(mka_json_int(d, "i", 1, 0, 7, &whole, &error), MKA_OK);
    assert_int_equal(whole, 7);
    assert_int_equal(mka_json_int(d, "theta", 1, 0, 20000, &whole, &error), MKA_OK);
    assert_int_equal(whole, 10000);
    assert_int_equal(mka_json_int(d, "n", 5, 0, 7, &whole, &error), MKA_OK);
    assert_int_equal(whole, 5);
    assert_int_equal(mka_json_int(d, "absent", -9, 0, 7, &whole, &error), MKA_OK);
    assert_int_equal(whole, -9);
    assert_int_equal(mka_json_real(d, "i", 1, &real, &error), MKA_OK);
    assert_true(real == 7);
    assert_int_equal(mka_json_real(d, "r", 1, &real, &error), MKA_OK);
    assert_true(real == 0.5);
    assert_int_equal(mka_json_real(d, "absent", 1.5, &real, &error), MKA_OK);
    assert_true(real == 1.5);
    assert_int_equal(mka_json_bool(d, "t", 0, &truth, &error), MKA_OK);
    assert_int_equal(truth, 1);
    assert_int_equal(mka_json_bool(d, "absent", 0, &truth, &error), MKA_OK);
    assert_int_equal(truth, 0);
    mka_json_free(d);
}

static void refuses_other_kinds(void **state) {
    (void)state;
    mka_json *d = parse("{\"i\": 8, \"r\": 0.5, \"s\": \"7\", \"big\": 1e300}");
    mka_error error;
    int64_t whole = -1;
    double real = -1;
    int truth = -1;
    assert_int_equal(mka_json_int(d, "i", 1, 0, 7, &whole, &error), MKA_BAD_FILE);
    assert_string_equal(error.message, "i: 8 is outside 0..7");
    assert_int_equal(mka_json_int(d, "r", 1, 0, 7, &whole, &error), MKA_BAD_FILE);
    assert_int_equal(mka_json_int(d, "big", 1, 0, INT64_MAX, &whole, &error), MKA_BAD_FILE);
    assert_int_equal(mka_json_int(d, "s", 1, 0, 7, &whole, &error), MKA_BAD_FILE);
    assert_string_equal(error.message, "s: expected a whole number");
    assert_int_equal(mka_json_real(d, "s", 1, &real, &error), MKA_BAD_FILE);
    assert_int_equal(mka_json_bool(d, "i", 1, &truth, &error), MKA_BAD_FILE);
    assert_int_equal(whole, -1);
    assert_true(real == -1);
    assert_int_equal(truth, -1);
    mka_json_free(d);
}

/* tokenizer_config.json of many models. */
static void takes_integers_beyond_64_bits(void **state) {
    (void)state;
    mka_json *d = parse("{\"model_max_length\": 1000000000000000019884624838656, \"n\": 3}");
    int64_t whole;
    double real;
    assert_int_equal(mka_json_type(mka_json_get(d, "model_max_length")), MKA_JSON_REAL);
    assert_int_equal(mka_json_real(d, "model_max_length", 0, &real, NULL), MKA_OK);
    assert_true(real > 9.9e29 && real < 1.01e30);
    assert_int_equal(mka_json_type(mka_json_get(d, "n")), MKA_JSON_INT);
    assert_int_equal(mka_json_int(d, "n", 0, 0, 9, &whole, NULL), MKA_OK);
    assert_int_equal(whole, 3);
    mka_json_free(d);
}

static void refuses_what_is_not_json(void **state) {
    (void)state;
    static const char *const texts[] = {"",      "{",        "{\"a\": 1,}",    "{\"a\": 1, \"a\": 2}",
                                        "[1] 2", "\"\xff\"", "{\"a\": 1e999}", "nul"};
    mka_error error;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mka_json *document = (mka_json *)&error;
        assert_int_equal(mka_json_parse(texts[i], strlen(texts[i]), "bad.json", &document, &error), MKA_BAD_FILE);
        assert_null(document);
        assert_non_null(strstr(error.message, "bad.json: not valid JSON: line 1, column "));
    }
}

static void reads_files(void **state) {
    (void)state;
    char folder[64];
    mka_error error;
    mka_json *d;
    int64_t whole;
    make_folder(folder);
    assert_int_equal(mka_json_read(write_file(folder, "a.json", "{\"a\":\n 4}", 9), &d, &error), MKA_OK);
    assert_int_equal(mka_json_int(d, "a", 0, 0, 9, &whole, &error), MKA_OK);
    assert_int_equal(whole, 4);
    mka_json_free(d);
    assert_int_equal(mka_json_read(in_folder(folder, "none"), &d, &error), MKA_IO);
    assert_non_null(strstr(error.message, "/none: cannot be opened"));
    assert_int_equal(mka_json_read(folder, &d, &error), MKA_IO);
    assert_non_null(strstr(error.message, "not a regular file"));
    assert_int_equal(mka_json_read(write_file(folder, "empty", "", 0), &d, &error), MKA_BAD_FILE);
    assert_int_equal(mkfifo(in_folder(folder, "pipe"), 0600), 0);
    assert_int_equal(mka_json_read(in_folder(folder, "pipe"), &d, &error), MKA_IO);
    const char *large = write_file(folder, "large", "[", 1);
    assert_int_equal(truncate(large, ((off_t)256 << 20) + 1), 0);
    assert_int_equal(mka_json_read(large, &d, &error), MKA_BAD_FILE);
    assert_non_null(strstr(error.message, "at most 256 MiB"));
    remove_folder(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(looks_values_up),
        cmocka_unit_test(walks_objects_in_order),
        cmocka_unit_test(reads_typed_values),
        cmocka_unit_test(refuses_other_kinds),
        cmocka_unit_test(takes_integers_beyond_64_bits),
        cmocka_unit_test(refuses_what_is_not_json),
        cmocka_unit_test(reads_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
