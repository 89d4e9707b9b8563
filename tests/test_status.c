/* test_status - messages of failures, checked arithmetic, and numbers as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/status.h"

#include <string.h>

static void fails_with_a_message(void **state) {
    (void)state;
    mka_error error;
    assert_int_equal(mka_fail(&error, MKA_IO, "%s: %d", "file", 7), MKA_IO);
    assert_int_equal(error.status, MKA_IO);
    assert_string_equal(error.message, "file: 7");
    assert_int_equal(mka_fail(NULL, MKA_BAD_FILE, "unheard"), MKA_BAD_FILE);
    assert_int_equal(mka_succeed(&error), MKA_OK);
    assert_int_equal(error.status, MKA_OK);
    assert_string_equal(error.message, "");
    assert_int_equal(mka_succeed(NULL), MKA_OK);
}

static void prefixes_what_was_said(void **state) {
    (void)state;
    mka_error error;
    mka_fail(&error, MKA_IO, "inner");
    assert_int_equal(mka_fail_prefix(&error, MKA_IO, "part %d", 2), MKA_IO);
    assert_string_equal(error.message, "part 2: inner");
    mka_fail_prefix(&error, MKA_IO, "%s", error.message); /* an argument that is the message itself */
    assert_string_equal(error.message, "part 2: inner: part 2: inner");
    assert_int_equal(mka_fail_prefix(NULL, MKA_IO, "x"), MKA_IO);
}

static void cuts_long_messages_at_a_character(void **state) {
    (void)state;
    mka_error error;
    char text[1001];
    memset(text, 'a', 1000);
    text[1000] = 0;
    mka_fail(&error, MKA_IO, "%s", text);
    assert_int_equal(strlen(error.message), sizeof error.message - 1);
    assert_string_equal(error.message + strlen(error.message) - 4, "a...");
    for (size_t i = 0; i < 1000; i += 2) memcpy(text + i, "\xC3\xA9", 2);
    for (size_t shift = 0; shift < 2; shift++) {
        mka_fail(&error, MKA_IO, "%s%s", shift ? "x" : "", text);
        size_t length = strlen(error.message);
        assert_string_equal(error.message + length - 3, "...");
        assert_int_equal((unsigned char)error.message[length - 4], 0xA9); /* the second half of the last character */
    }
}

static void shows_no_control_bytes(void **state) {
    (void)state;
    mka_error error;
    mka_fail(&error, MKA_BAD_FILE, "a\nb\x1b[2Jc\x7f");
    assert_string_equal(error.message, "a?b?[2Jc?");
}

static void checks_sizes(void **state) {
    (void)state;
    size_t out = 5;
    assert_true(mka_size_mul(SIZE_MAX, 1, &out));
    assert_true(out == SIZE_MAX);
    out = 5;
    assert_false(mka_size_mul(SIZE_MAX / 2 + 1, 2, &out));
    assert_false(mka_size_add(SIZE_MAX, 1, &out));
    assert_int_equal(out, 5);
    assert_true(mka_size_add(2, 3, &out));
    assert_int_equal(out, 5);
}

static void writes_numbers(void **state) {
    (void)state;
    char text[MKA_SIZE_TEXT], small[4];
    assert_string_equal(mka_size_text(0, text, sizeof text), "0 bytes");
    assert_string_equal(mka_size_text(999, text, sizeof text), "999 bytes");
    assert_string_equal(mka_size_text(1048575, text, sizeof text), "1,048,575 bytes");
    assert_string_equal(mka_size_text(1048576, text, sizeof text), "1.0 MiB");
    assert_string_equal(mka_size_text((uint64_t)63 << 29, text, sizeof text), "31.5 GiB");
    assert_string_equal(mka_size_text(UINT64_MAX, text, sizeof text), "16.0 EiB");
    assert_string_equal(mka_count_text(98362496, text, sizeof text), "98,362,496");
    assert_string_equal(mka_count_text(UINT64_MAX, text, sizeof text), "18,446,744,073,709,551,615");
    assert_string_equal(mka_count_text(12345, small, sizeof small), "12,");
}

static void names_every_status(void **state) {
    (void)state;
    for (int i = MKA_OK; i <= MKA_CANCELLED; i++) {
        assert_string_not_equal(mka_status_text((mka_status)i), "unknown status");
        for (int j = 0; j < i; j++) assert_string_not_equal(mka_status_text((mka_status)i), mka_status_text((mka_status)j));
    }
    assert_string_equal(mka_status_text((mka_status)99), "unknown status");
    assert_string_equal(mka_version(), MKA_VERSION);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fails_with_a_message),
        cmocka_unit_test(prefixes_what_was_said),
        cmocka_unit_test(cuts_long_messages_at_a_character),
        cmocka_unit_test(shows_no_control_bytes),
        cmocka_unit_test(checks_sizes),
        cmocka_unit_test(writes_numbers),
        cmocka_unit_test(names_every_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
