/* test_gguf - GGUF files that are right are read as written; files that are wrong in any one place are refused and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define READER_NAME "f.gguf" /* for reader.h */
#include "format/file.h"
#include "reader.h"

/* Value types of the format. */
enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static void put_string(struct bytes *b, const char *text) {
    put_number(b, strlen(text), 8);
    put_text(b, text);
}

static void put_head(struct bytes *b, unsigned version, uint64_t tensors, uint64_t entries) {
    b->size = 0;
    put_text(b, "GGUF");
    put_number(b, version, 4);
    put_number(b, tensors, 8);
    put_number(b, entries, 8);
}

static void put_key(struct bytes *b, const char *key, uint64_t type) {
    put_string(b, key);
    put_number(b, type, 4);
}

static void put_scalar(struct bytes *b, const char *key, uint64_t type, uint64_t bits, int width) {
    put_key(b, key, type);
    put_number(b, bits, width);
}

static void put_array(struct bytes *b, const char *key, uint64_t type, uint64_t count) {
    put_key(b, key, ARRAY);
    put_number(b, type, 4);
    put_number(b, count, 8);
}

/* sizes: innermost first, as in the file. */
static void put_tensor(struct bytes *b, const char *name, unsigned rank, const uint64_t *sizes, uint64_t type, uint64_t offset) {
    put_string(b, name);
    put_number(b, rank, 4);
    for (unsigned i = 0; i < rank && i < 8; i++) put_number(b, sizes[i], 8);
    put_number(b, type, 4);
    put_number(b, offset, 8);
}

static void put_data(struct bytes *b, size_t alignment, size_t count) {
    put_zeros(b, (alignment - b->size % alignment) % alignment);
    for (size_t i = 0; i < count; i++) put_number(b, i + 1, 1);
}

static void put_good(struct bytes *b, unsigned version) {
    put_head(b, version, 2, 3);
    put_key(b, "general.architecture", STRING);
    put_string(b, "llama");
    put_array(b, "words", STRING, 2);
    put_string(b, "a");
    put_string(b, "");
    put_scalar(b, "count", U32, 7, 4);
    put_tensor(b, "a.weight", 2, (const uint64_t[]){4, 3}, MKA_F32, 0);
    put_tensor(b, "b", 1, (const uint64_t[]){64}, MKA_Q8_0, 64);
    put_data(b, 32, 64 + 68);
}

static mka_file *expect_open(const struct bytes *b, void **copy) {
    mka_file *file;
    mka_error error;
    mka_status status = open_bytes(b, b->size, &file, &error, copy);
    if (status != MKA_OK) print_error("%s\n", error.message);
    assert_int_equal(status, MKA_OK);
    return file;
}

static void reads_versions_2_and_3(void **state) {
    (void)state;
    struct bytes b;
    void *copy;
    for (unsigned version = 2; version <= 3; version++) {
        put_good(&b, version);
        mka_file *file = expect_open(&b, &copy);
        assert_string_equal(mka_file_format(file), "gguf");
        assert_int_equal(mka_file_tensor_count(file), 2);
        const mka_tensor *a = mka_file_tensor(file, 0), *q = mka_file_find(file, "b");
        assert_string_equal(a->name, "a.weight");
        assert_int_equal(a->rank, 2);
        assert_int_equal(a->shape[0], 3); /* outermost first */
        assert_int_equal(a->shape[1], 4);
        assert_int_equal(a->bytes, 48);
        assert_int_equal(((const unsigned char *)a->data)[0], 1);
        assert_ptr_equal(q, mka_file_tensor(file, 1));
        assert_int_equal(q->type, MKA_Q8_0);
        assert_int_equal(q->bytes, 68);
        assert_int_equal(((const unsigned char *)q->data)[0], 65);
        assert_null(mka_file_find(file, "a"));
        assert_null(mka_file_tensor(file, 2));
        assert_null(mka_file_tensor(file, -1));
        mka_file_close(file);
        free(copy);
    }
    mka_file_close(NULL);
}

static void refuses_every_prefix(void **state) {
    (void)state;
    struct bytes b;
    mka_file *file;
    mka_error error;
    void *copy;
    put_good(&b, 3);
    for (size_t size = 0; size < b.size; size++) {
        mka_status status = open_bytes(&b, size, &file, &error, &copy);
        if (status != MKA_BAD_FILE) print_error("prefix of %zu bytes: %d %s\n", size, status, error.message);
        assert_int_equal(status, MKA_BAD_FILE);
        assert_non_null(strstr(error.message, "f.gguf: "));
        assert_null(file);
        free(copy);
    }
    b.size--;
    expect_bytes_fail(&b, MKA_BAD_FILE, "f.gguf: tensor b ends at byte 356 but the file has 355 (truncated download?)");
}

/* Whatever one byte is changed to, opening ends, and what opens can be walked (a sanitizer watches). */
static void survives_every_changed_byte(void **state) {
    (void)state;
    static const unsigned char values[] = {0, 1, 9, 0x7F, 0x80, 0xFF};
    struct bytes b;
    void *copy;
    put_good(&b, 3);
    size_t opened = 0;
    for (size_t at = 0; at < b.size; at++) {
        unsigned char before = b.data[at];
        for (size_t v = 0; v < sizeof values; v++) {
            mka_file *file;
            b.data[at] = values[v];
            if (open_bytes(&b, b.size, &file, NULL, &copy) == MKA_OK) opened++;
            for (int i = 0; file && i < mka_file_tensor_count(file); i++) {
                const mka_tensor *t = mka_file_tensor(file, i);
                const unsigned char *data = t->data;
                assert_true(data >= (unsigned char *)copy && data + t->bytes <= (unsigned char *)copy + b.size);
                assert_true(t->name[0] != 0);
            }
            mka_file_close(file);
            free(copy);
        }
        b.data[at] = before;
    }
    assert_true(opened > 132 * sizeof values); /* at least all changes of tensor data */
}

static void reads_every_kind_of_value(void **state) {
    (void)state;
    struct bytes b;
    void *copy;
    static const struct {
        const char *key;
        int type, width;
        uint64_t bits;
        mka_meta_kind kind;
        int whole; /* expected value, as int64 when it has one */
        double real;
    } cases[] = {
        {"u8", U8, 1, 200, MKA_META_UINT, 1, 200},
        {"i8", I8, 1, 0xFE, MKA_META_INT, 1, -2},
        {"u16", U16, 2, 65535, MKA_META_UINT, 1, 65535},
        {"i16", I16, 2, 0x8000, MKA_META_INT, 1, -32768},
        {"u32", U32, 4, 0xFFFFFFFF, MKA_META_UINT, 1, 4294967295.0},
        {"i32", I32, 4, 0xFFFFFFFF, MKA_META_INT, 1, -1},
        {"f32", F32, 4, 0x3FC00000, MKA_META_FLOAT, 0, 1.5},
        {"u64", U64, 8, (uint64_t)1 << 40, MKA_META_UINT, 1, 1099511627776.0},
        {"i64", I64, 8, UINT64_MAX - 9, MKA_META_INT, 1, -10},
        {"f64", F64, 8, 0xC004000000000000, MKA_META_FLOAT, 0, -2.5},
    };
    int count = (int)(sizeof cases / sizeof *cases);
    put_head(&b, 3, 0, (uint64_t)count + 2);
    for (int i = 0; i < count; i++) put_scalar(&b, cases[i].key, (uint64_t)cases[i].type, cases[i].bits, cases[i].width);
    put_scalar(&b, "bool", BOOL, 1, 1);
    put_scalar(&b, "huge", U64, UINT64_MAX, 8);
    mka_file *file = expect_open(&b, &copy);
    assert_int_equal(mka_file_meta_count(file), count + 2);
    int64_t whole;
    double real;
    const char *bytes;
    size_t length;
    for (int i = 0; i < count; i++) {
        const mka_meta *meta = mka_file_meta(file, i);
        assert_ptr_equal(meta, mka_file_meta_find(file, cases[i].key));
        assert_int_equal(meta->kind, cases[i].kind);
        assert_int_equal(meta->count, 1);
        assert_true(mka_meta_float(file, meta, 0, &real) && real == cases[i].real);
        assert_int_equal(mka_meta_int(file, meta, 0, &whole), cases[i].whole);
        if (cases[i].whole) assert_true((double)whole == cases[i].real);
        assert_false(mka_meta_int(file, meta, 1, &whole));
        assert_false(mka_meta_string(file, meta, 0, &bytes, &length));
    }
    const mka_meta *truth = mka_file_meta_find(file, "bool"), *huge = mka_file_meta_find(file, "huge");
    assert_true(mka_meta_int(file, truth, 0, &whole) && whole == 1);
    assert_false(mka_meta_float(file, truth, 0, &real));
    assert_false(mka_meta_int(file, huge, 0, &whole)); /* does not fit int64 */
    assert_true(mka_meta_float(file, huge, 0, &real) && real > 1.8e19);
    assert_false(mka_meta_int(file, NULL, 0, &whole));
    assert_null(mka_file_meta_find(file, "absent"));
    assert_null(mka_file_meta(file, count + 2));
    mka_file_close(file);
    free(copy);
}

static void reads_arrays(void **state) {
    (void)state;
    struct bytes b;
    void *copy;
    char text[16];
    put_head(&b, 3, 0, 3);
    put_array(&b, "words", STRING, 1000);
    for (int i = 0; i < 1000; i++) {
        snprintf(text, sizeof text, "%.*s%d", i % 5, "wwww", i);
        put_string(&b, text);
    }
    put_array(&b, "scores", F32, 3);
    for (int i = 0; i < 3; i++) put_number(&b, 0x3F800000u + ((unsigned)i << 23), 4);
    put_array(&b, "none", STRING, 0);
    mka_file *file = expect_open(&b, &copy);
    const mka_meta *words = mka_file_meta_find(file, "words"), *scores = mka_file_meta_find(file, "scores");
    const char *bytes;
    size_t length;
    double real;
    assert_int_equal(words->kind, MKA_META_ARRAY);
    assert_int_equal(words->item, MKA_META_STRING);
    assert_int_equal(words->count, 1000);
    for (int i = 999; i >= 0; i--) {
        snprintf(text, sizeof text, "%.*s%d", i % 5, "wwww", i);
        assert_true(mka_meta_string(file, words, (uint64_t)i, &bytes, &length));
        assert_int_equal(length, strlen(text));
        assert_memory_equal(bytes, text, length);
    }
    assert_false(mka_meta_string(file, words, 1000, &bytes, &length));
    assert_false(mka_meta_string(file, words, UINT64_MAX, &bytes, &length));
    assert_true(mka_meta_float(file, scores, 2, &real) && real == 4);
    assert_false(mka_meta_float(file, scores, 3, &real));
    assert_int_equal(mka_file_meta_find(file, "none")->count, 0);
    assert_false(mka_meta_string(file, mka_file_meta_find(file, "none"), 0, &bytes, &length));
    mka_file_close(file);
    free(copy);
}

static void refuses_foreign_heads(void **state) {
    (void)state;
    struct bytes b;
    static const struct {
        unsigned version;
        mka_status status;
        const char *text;
    } versions[] = {{0, MKA_UNSUPPORTED, "GGUF version 0"},
                    {1, MKA_UNSUPPORTED, "GGUF version 1; versions 2 and 3 are read"},
                    {4, MKA_UNSUPPORTED, "GGUF version 4"},
                    {0x03000000, MKA_UNSUPPORTED, "big-endian"}};
    for (size_t i = 0; i < 4; i++) {
        put_good(&b, versions[i].version);
        expect_bytes_fail(&b, versions[i].status, versions[i].text);
    }
    put_good(&b, 3);
    b.data[3] = 'X';
    expect_bytes_fail(&b, MKA_BAD_FILE, "f.gguf: neither a GGUF nor a safetensors file");
    b.size = 0;
    expect_bytes_fail(&b, MKA_BAD_FILE, "empty");
    put_text(&b, "version https://git-lfs.github.com/spec/v1\n");
    expect_bytes_fail(&b, MKA_BAD_FILE, "Git LFS pointer");
}

/* Counts and lengths that the rest of the file cannot hold are refused before anything is allocated for them. */
static void refuses_absurd_counts(void **state) {
    (void)state;
    struct bytes b;
    static const uint64_t counts[] = {
        1000,      0x7FFFFFFF,        0x80000000,     0xFFFFFFFF, (uint64_t)1 << 32, (uint64_t)1 << 60, ((uint64_t)1 << 61) + 1,
        INT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        put_head(&b, 3, counts[i], 0);
        expect_bytes_fail(&b, MKA_BAD_FILE, "tensors are more than the file holds");
        put_head(&b, 3, 0, counts[i]);
        expect_bytes_fail(&b, MKA_BAD_FILE, "metadata entries are more than the file holds");
        put_head(&b, 3, 0, 1);
        put_number(&b, counts[i], 8);
        put_zeros(&b, 20);
        expect_bytes_fail(&b, MKA_BAD_FILE, "within the metadata key");
        for (uint64_t type = U8; type <= F64; type++) {
            if (type == ARRAY) continue;
            put_head(&b, 3, 0, 1);
            put_array(&b, "list", type, counts[i]);
            put_zeros(&b, 64);
            expect_bytes_fail(&b, MKA_BAD_FILE, "list has ");
        }
        put_head(&b, 3, 0, 1);
        put_key(&b, "text", STRING);
        put_number(&b, counts[i], 8);
        put_zeros(&b, 20);
        expect_bytes_fail(&b, MKA_BAD_FILE, "within the bytes of a string of text");
    }
}

static void refuses_bad_metadata(void **state) {
    (void)state;
    struct bytes b;
    put_head(&b, 3, 0, 1);
    put_scalar(&b, "k", 13, 0, 8);
    expect_bytes_fail(&b, MKA_BAD_FILE, "metadata k has the unknown type 13");
    put_head(&b, 3, 0, 1);
    put_array(&b, "k", 13, 1);
    put_zeros(&b, 8);
    expect_bytes_fail(&b, MKA_BAD_FILE, "k is an array of the unknown type 13");
    put_head(&b, 3, 0, 1);
    put_array(&b, "k", ARRAY, 1);
    put_zeros(&b, 32);
    expect_bytes_fail(&b, MKA_UNSUPPORTED, "k is an array of arrays");
    put_head(&b, 3, 0, 1);
    put_scalar(&b, "k", BOOL, 2, 1);
    expect_bytes_fail(&b, MKA_BAD_FILE, "k is neither true nor false");
    put_head(&b, 3, 0, 2);
    put_scalar(&b, "twin", U32, 1, 4);
    put_scalar(&b, "twin", U32, 2, 4);
    expect_bytes_fail(&b, MKA_BAD_FILE, "metadata key twin occurs twice");
}

static void refuses_names_that_are_not_text(void **state) {
    (void)state;
    struct bytes b;
    static const char *const names[] = {"",     "\xff\xfe",   "\xc0\x80", "\xed\xa0\x80",     "a\nb",
                                        "\x7f", "ab\xe2\x82", "\x80",     "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        put_head(&b, 3, 0, 1);
        put_scalar(&b, names[i], U32, 1, 4);
        expect_bytes_fail(&b, MKA_BAD_FILE, "metadata key 0 is empty, too long or not valid UTF-8");
        put_head(&b, 3, 1, 0);
        put_tensor(&b, names[i], 1, (const uint64_t[]){4}, MKA_F32, 0);
        put_data(&b, 32, 16);
        expect_bytes_fail(&b, MKA_BAD_FILE, "tensor name 0 is empty, too long or not valid UTF-8");
    }
    put_head(&b, 3, 0, 1);
    put_number(&b, 3, 8);
    put(&b, "a\0b", 3);
    put_number(&b, U32, 4);
    put_number(&b, 1, 4);
    expect_bytes_fail(&b, MKA_BAD_FILE, "metadata key 0");
}

static void put_one(struct bytes *b, unsigned rank, const uint64_t *sizes, uint64_t type, uint64_t offset) {
    put_head(b, 3, 1, 0);
    put_tensor(b, "w", rank, sizes, type, offset);
    put_data(b, 32, 64);
}

static void refuses_bad_shapes(void **state) {
    (void)state;
    struct bytes b;
    static const uint64_t ones[8] = {1, 1, 1, 1, 1, 1, 1, 1}, zero[] = {4, 0}, huge[] = {4, UINT64_MAX};
    static const uint64_t wide[] = {(uint64_t)1 << 62}, product[] = {(uint64_t)1 << 32, (uint64_t)1 << 32, (uint64_t)1 << 32, 2};
    put_one(&b, 5, ones, MKA_F32, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has 5 dimensions");
    put_one(&b, UINT32_MAX, ones, MKA_F32, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has 4294967295 dimensions");
    put_one(&b, 2, zero, MKA_F32, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has a dimension of 0");
    put_one(&b, 2, huge, MKA_F32, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has a dimension of 18446744073709551615");
    put_one(&b, 1, wide, MKA_F32, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has a shape beyond all memory");
    put_one(&b, 4, product, MKA_F32, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has a shape beyond all memory");
    put_one(&b, 1, (const uint64_t[]){33}, MKA_Q4_0, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has rows of 33 elements, not whole blocks of 32 as q4_0 needs");
    put_one(&b, 0, NULL, MKA_Q4_0, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has rows of 1 elements");
    put_one(&b, 1, (const uint64_t[]){17}, MKA_F32, 0);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w ends at byte 132 but the file has 128");
}

static void refuses_bad_places(void **state) {
    (void)state;
    struct bytes b;
    static const uint64_t four[] = {4};
    put_one(&b, 1, four, MKA_F32, 1);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w is at offset 1, which is not a multiple of 32");
    put_one(&b, 1, four, MKA_F32, 64);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w ends at byte 144 but the file has 128");
    put_one(&b, 1, four, MKA_F32, UINT64_MAX - 31);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w has an offset beyond all memory");
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "w", 1, four, MKA_F32, 0);
    put_tensor(&b, "w", 1, four, MKA_F32, 32);
    put_data(&b, 32, 64);
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor w occurs twice");
}

static void names_unknown_types(void **state) {
    (void)state;
    struct bytes b;
    void *copy;
    static const uint64_t row[] = {256};
    put_one(&b, 1, row, 16, 0);
    expect_bytes_fail(&b, MKA_UNSUPPORTED, "tensor w has type 16 (iq2_xxs), which this version does not read");
    put_one(&b, 1, row, 31, 0);
    expect_bytes_fail(&b, MKA_UNSUPPORTED, "type 31 (unknown)");
    put_one(&b, 1, row, UINT32_MAX, 0);
    expect_bytes_fail(&b, MKA_UNSUPPORTED, "type 4294967295 (unknown)");
    static const mka_type odd[] = {MKA_I8, MKA_I16, MKA_I32, MKA_I64, MKA_F64}; /* read, though nothing computes with them */
    for (size_t i = 0; i < 5; i++) {
        put_one(&b, 1, (const uint64_t[]){8}, odd[i], 0);
        mka_file *file = expect_open(&b, &copy);
        assert_int_equal(mka_file_tensor(file, 0)->type, odd[i]);
        mka_file_close(file);
        free(copy);
    }
}

static void obeys_alignment(void **state) {
    (void)state;
    struct bytes b;
    void *copy;
    static const uint64_t good[] = {1, 8, 64, 4096}, bad[] = {0, 3, 48, UINT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        put_head(&b, 3, 1, 1);
        put_scalar(&b, "general.alignment", U32, good[i], 4);
        put_tensor(&b, "w", 1, (const uint64_t[]){4}, MKA_F32, good[i]);
        put_data(&b, good[i], good[i] + 16);
        mka_file *file = expect_open(&b, &copy);
        assert_int_equal(*(const unsigned char *)mka_file_tensor(file, 0)->data, (good[i] + 1) % 256);
        mka_file_close(file);
        free(copy);
        put_head(&b, 3, 0, 1);
        put_scalar(&b, "general.alignment", U32, bad[i], 4);
        expect_bytes_fail(&b, MKA_BAD_FILE, "expected a power of two");
    }
    put_head(&b, 3, 0, 1);
    put_key(&b, "general.alignment", STRING);
    put_string(&b, "32");
    expect_bytes_fail(&b, MKA_BAD_FILE, "general.alignment is not a whole number");
}

/* ---- files ---- */

static void expect_path_fails(const char *path, mka_status status, const char *text) {
    mka_file *file = (mka_file *)&text;
    mka_error error;
    mka_status got = mka_file_open(path, &file, &error);
    if (got != status || !strstr(error.message, text))
        print_error("%d: %s\n  expected %d: %s\n", got, error.message, status, text);
    assert_int_equal(got, status);
    assert_non_null(strstr(error.message, text));
    assert_null(file);
}

static void opens_files(void **state) {
    (void)state;
    char folder[64];
    struct bytes b;
    mka_file *file;
    make_folder(folder);
    put_good(&b, 3);
    const char *path = write_file(folder, "good.bin", b.data, b.size); /* content counts, not the name */
    assert_int_equal(mka_file_open(path, &file, NULL), MKA_OK);
    assert_int_equal(mka_file_find(file, "b")->bytes, 68);
    unlink(path); /* the mapping stays */
    assert_int_equal(((const unsigned char *)mka_file_find(file, "b")->data)[0], 65);
    mka_file_close(file);
    expect_path_fails(in_folder(folder, "none.gguf"), MKA_IO, "none.gguf: cannot be opened: No such file");
    expect_path_fails("", MKA_BAD_ARGUMENT, "no file was named");
    expect_path_fails(write_file(folder, "empty.gguf", "", 0), MKA_BAD_FILE, "empty.gguf: the file is empty");
    expect_path_fails(write_file(folder, "short.gguf", "GG", 2), MKA_BAD_FILE, "neither a GGUF nor");
    assert_int_equal(mkfifo(in_folder(folder, "pipe.gguf"), 0600), 0);
    expect_path_fails(in_folder(folder, "pipe.gguf"), MKA_IO, "pipe.gguf: not a regular file");
    expect_path_fails(folder, MKA_IO, "the folder has no .safetensors file");
    path = write_file(folder, "locked.gguf", b.data, b.size);
    chmod(path, 0);
    if (access(path, R_OK) != 0) { /* the superuser may read everything */
        expect_path_fails(path, MKA_IO, "locked.gguf: cannot be opened: Permission denied");
    }
    remove_folder(folder);
}

/* Part no of count with one tensor; the first also has a name. */
static void write_part(const char *folder, const char *stem, unsigned no, unsigned count, int total, const char *tensor) {
    struct bytes b;
    char name[64];
    put_head(&b, 3, 1, no == 0 ? 4 : 3);
    put_scalar(&b, "split.no", U16, no, 2);
    put_scalar(&b, "split.count", U16, count, 2);
    put_scalar(&b, "split.tensors.count", I32, (unsigned)total, 4);
    if (no == 0) {
        put_key(&b, "general.name", STRING);
        put_string(&b, "whole");
    }
    put_tensor(&b, tensor, 1, (const uint64_t[]){4}, MKA_F32, 0);
    put_data(&b, 32, 16);
    snprintf(name, sizeof name, "%s-%05u-of-%05u.gguf", stem, no + 1, count);
    write_file(folder, name, b.data, b.size);
}

static void opens_split_files_from_any_part(void **state) {
    (void)state;
    static const char *const names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};
    char folder[64];
    mka_file *file;
    mka_error error;
    make_folder(folder);
    write_part(folder, "m", 0, 3, 3, "a");
    write_part(folder, "m", 1, 3, 3, "b");
    write_part(folder, "m", 2, 3, 3, "c");
    for (int i = 0; i < 3; i++) {
        mka_status status = mka_file_open(in_folder(folder, names[i]), &file, &error);
        if (status != MKA_OK) print_error("%s\n", error.message);
        assert_int_equal(status, MKA_OK);
        assert_int_equal(mka_file_tensor_count(file), 3);
        assert_string_equal(mka_file_tensor(file, 0)->name, "a");
        assert_string_equal(mka_file_tensor(file, 2)->name, "c");
        assert_int_equal(((const unsigned char *)mka_file_find(file, "b")->data)[15], 16);
        assert_non_null(mka_file_meta_find(file, "general.name"));
        mka_file_close(file);
    }
    remove_folder(folder);
}

static void refuses_split_files_that_do_not_fit(void **state) {
    (void)state;
    char folder[64];
    const char *first;
    make_folder(folder);
    first = in_folder(folder, "m-00001-of-00003.gguf");
    char path[512];
    snprintf(path, sizeof path, "%s", first);
    write_part(folder, "m", 0, 3, 3, "a");
    write_part(folder, "m", 2, 3, 3, "c");
    expect_path_fails(path, MKA_IO, "part 2 of 3: ");
    write_part(folder, "m", 1, 3, 3, "a");
    expect_path_fails(path, MKA_BAD_FILE, "tensor a occurs twice");
    write_part(folder, "m", 1, 3, 4, "b");
    write_part(folder, "m", 0, 3, 4, "a");
    expect_path_fails(path, MKA_BAD_FILE, "split.tensors.count is 4 but the parts hold 3 tensors");
    write_part(folder, "m", 0, 3, 3, "a");
    write_part(folder, "m", 1, 3, 3, "b");
    assert_int_equal(rename(in_folder(folder, "m-00002-of-00003.gguf"), in_folder(folder, "x")), 0);
    expect_path_fails(in_folder(folder, "x"), MKA_BAD_FILE, "its name must end in -00002-of-00003.gguf");
    assert_int_equal(rename(in_folder(folder, "m-00003-of-00003.gguf"), in_folder(folder, "m-00002-of-00003.gguf")), 0);
    expect_path_fails(path, MKA_BAD_FILE, "says it is part 3 of 3, but its name says part 2 of 3");
    struct bytes b;
    put_good(&b, 3);
    write_file(folder, "m-00002-of-00003.gguf", b.data, b.size);
    expect_path_fails(path, MKA_BAD_FILE, "says it is part 0 of -1");
    write_file(folder, "m-00002-of-00003.gguf", "text", 4);
    expect_path_fails(path, MKA_BAD_FILE, "not a GGUF file");
    remove_folder(folder);
}

/* The reference models beside the project, where they are. */
static void opens_the_reference_models(void **state) {
    (void)state;
    const char *shared = getenv("MKA_SHARED");
    int opened = 0;
    char folder[400];
    snprintf(folder, sizeof folder, "%s/golden/models", shared ? shared : "");
    DIR *directory = shared ? opendir(folder) : NULL;
    if (!directory) {
        print_message("no reference models in \"%s\"\n", folder);
        skip();
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        mka_file *file;
        mka_error error;
        size_t length = strlen(entry->d_name);
        if (length < 5 || strcmp(entry->d_name + length - 5, ".gguf") != 0) continue;
        mka_status status = mka_file_open(in_folder(folder, entry->d_name), &file, &error);
        if (status != MKA_OK) print_error("%s\n", error.message);
        assert_int_equal(status, MKA_OK);
        assert_non_null(mka_file_find(file, "token_embd.weight"));
        assert_non_null(mka_file_meta_find(file, "general.architecture"));
        mka_file_close(file);
        opened++;
    }
    closedir(directory);
    assert_true(opened > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_versions_2_and_3),
        cmocka_unit_test(refuses_every_prefix),
        cmocka_unit_test(survives_every_changed_byte),
        cmocka_unit_test(reads_every_kind_of_value),
        cmocka_unit_test(reads_arrays),
        cmocka_unit_test(refuses_foreign_heads),
        cmocka_unit_test(refuses_absurd_counts),
        cmocka_unit_test(refuses_bad_metadata),
        cmocka_unit_test(refuses_names_that_are_not_text),
        cmocka_unit_test(refuses_bad_shapes),
        cmocka_unit_test(refuses_bad_places),
        cmocka_unit_test(names_unknown_types),
        cmocka_unit_test(obeys_alignment),
        cmocka_unit_test(opens_files),
        cmocka_unit_test(opens_split_files_from_any_part),
        cmocka_unit_test(refuses_split_files_that_do_not_fit),
        cmocka_unit_test(opens_the_reference_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
