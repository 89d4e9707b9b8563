/* test_arena - a workspace measured and then carved gives the same pieces; pages come zeroed, lazily, and go back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void carves_what_was_measured(void **state) {
    (void)state;
    static const size_t counts[] = {1, 0, 63, 64, 65, 1000};
    mka_arena arena = {0};
    mka_error error;
    for (size_t i = 0; i < 6; i++) assert_null(mka_arena_take(&arena, counts[i], 4));
    size_t measured = arena.used;
    assert_int_equal(mka_arena_reserve(&arena, &error), MKA_OK);
    assert_int_equal(arena.used, 0);
    unsigned char *last = NULL;
    for (size_t i = 0; i < 6; i++) {
        unsigned char *piece = mka_arena_take(&arena, counts[i], 4);
        assert_non_null(piece);
        assert_int_equal((uintptr_t)piece % MKA_ALIGN, 0);
        if (last) assert_true(piece >= last);
        for (size_t b = 0; b < 4 * counts[i]; b++) assert_int_equal(piece[b], 0);
        memset(piece, 0xFF, 4 * counts[i]); /* so that an overlap shows as a byte that is not zero */
        last = piece;
    }
    assert_int_equal(arena.used, measured);
    assert_int_equal(arena.overflow, 0);
    mka_arena_free(&arena);
    assert_null(arena.base);
    mka_arena_free(&arena);
}

static void refuses_more_than_the_block(void **state) {
    (void)state;
    mka_arena arena = {0};
    mka_arena_take(&arena, 100, 1);
    assert_int_equal(mka_arena_reserve(&arena, NULL), MKA_OK);
    assert_non_null(mka_arena_take(&arena, 100, 1));
    assert_null(mka_arena_take(&arena, 1, 1));
    assert_int_equal(arena.overflow, 1);
    mka_arena_free(&arena);
}

static void sees_overflow_while_measuring(void **state) {
    (void)state;
    static const size_t sizes[][2] = {{SIZE_MAX, 2}, {SIZE_MAX, 1}, {SIZE_MAX - 62, 1}, {SIZE_MAX / 2, 3}};
    mka_error error;
    for (size_t i = 0; i < 4; i++) {
        mka_arena arena = {0};
        mka_arena_take(&arena, sizes[i][0], sizes[i][1]);
        assert_int_equal(mka_arena_reserve(&arena, &error), MKA_NO_MEMORY);
        assert_null(arena.base);
    }
    mka_arena arena = {0};
    mka_arena_take(&arena, SIZE_MAX / 2, 1);
    mka_arena_take(&arena, SIZE_MAX / 2 + 2, 1);
    assert_int_equal(mka_arena_reserve(&arena, &error), MKA_NO_MEMORY);
    mka_arena_free(&arena);
}

static void says_how_much_it_wanted(void **state) {
    (void)state;
    mka_arena arena = {0};
    mka_error error;
    mka_arena_take(&arena, (size_t)1 << 60, 1);
    assert_int_equal(mka_arena_reserve(&arena, &error), MKA_NO_MEMORY);
    assert_non_null(strstr(error.message, "1.0 EiB"));
    mka_arena_free(&arena);
}

/* Bytes of this process that are in memory. */
static size_t resident(void) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*u %lu", &pages), 1);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void commits_only_what_is_touched(void **state) {
    (void)state;
    const size_t size = (size_t)1 << 30, slack = (size_t)16 << 20;
    size_t before = resident();
    unsigned char *pages = mka_pages_map(size);
    assert_non_null(pages);
    assert_int_equal((uintptr_t)pages % ((size_t)2 << 20), 0);
    pages[0] = pages[size - 1] = 1;
    assert_true(resident() < before + slack);
    memset(pages, 1, (size_t)64 << 20);
    assert_true(resident() > before + ((size_t)48 << 20));
    mka_pages_discard(pages, (size_t)64 << 20);
    assert_true(resident() < before + slack);
    assert_int_equal(pages[0], 0);
    assert_int_equal(pages[(64 << 20) - 1], 0);
    assert_int_equal(pages[size - 1], 1);
    mka_pages_unmap(pages, size);
}

static void discards_whole_pages_only(void **state) {
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *pages = mka_pages_map(3 * page + 1);
    assert_non_null(pages);
    memset(pages, 7, 3 * page + 1);
    mka_pages_discard(pages + 1, 3 * page - 2); /* only the middle page lies within */
    assert_int_equal(pages[page - 1], 7);
    assert_int_equal(pages[page], 0);
    assert_int_equal(pages[2 * page - 1], 0);
    assert_int_equal(pages[2 * page], 7);
    mka_pages_discard(pages + 1, page - 2);
    assert_int_equal(pages[1], 7);
    mka_pages_unmap(pages, 3 * page + 1);
    assert_null(mka_pages_map(SIZE_MAX));
    assert_null(mka_pages_map(SIZE_MAX - page));
    mka_pages_unmap(NULL, page);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(carves_what_was_measured),      cmocka_unit_test(refuses_more_than_the_block),
        cmocka_unit_test(sees_overflow_while_measuring), cmocka_unit_test(says_how_much_it_wanted),
        cmocka_unit_test(commits_only_what_is_touched),  cmocka_unit_test(discards_whole_pages_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
