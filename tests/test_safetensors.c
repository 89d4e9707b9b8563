/* test_safetensors - safetensors files, shards and folders: right ones are read, every wrong field is refused and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define READER_NAME "f.safetensors" /* for reader.h */
#include "format/file.h"
#include "reader.h"

/* A file of this header, whatever it says, and size bytes of data counting from 1. */
static void put_file(struct bytes *b, const char *header, size_t size) {
    b->size = 0;
    put_number(b, strlen(header), 8);
    put_text(b, header);
    for (size_t i = 0; i < size; i++) put_number(b, i + 1, 1);
}

static void expect_fail(const char *header, size_t size, mka_status status, const char *text) {
    struct bytes b;
    put_file(&b, header, size);
    expect_bytes_fail(&b, status, text);
}

static mka_file *expect_open(const char *header, size_t size, void **copy) {
    struct bytes b;
    mka_file *file;
    mka_error error;
    put_file(&b, header, size);
    mka_status status = open_bytes(&b, b.size, &file, &error, copy);
    if (status != MKA_OK) print_error("%s\n", error.message);
    assert_int_equal(status, MKA_OK);
    return file;
}

static const char good[] = "{\"__metadata__\":{\"format\":\"pt\",\"quote\":\"\\u00e9\\u0000\"},"
                           "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1,3],\"data_offsets\":[4,28]},"
                           "\"a.weight\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                           "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[28,28]},"
                           "\"one\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[28,36]}}   ";

static void reads_a_file(void **state) {
    (void)state;
    void *copy;
    mka_file *file = expect_open(good, 36, &copy);
    assert_string_equal(mka_file_format(file), "safetensors");
    assert_int_equal(mka_file_tensor_count(file), 4);
    const mka_tensor *b = mka_file_tensor(file, 0), *a = mka_file_find(file, "a.weight");
    assert_string_equal(b->name, "b");
    assert_int_equal(b->type, MKA_F32);
    assert_int_equal(b->rank, 3);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 1);
    assert_int_equal(b->shape[2], 3);
    assert_int_equal(b->bytes, 24);
    assert_int_equal(((const unsigned char *)b->data)[0], 5);
    assert_ptr_equal(a, mka_file_tensor(file, 1));
    assert_int_equal(a->type, MKA_BF16);
    assert_int_equal(((const unsigned char *)a->data)[0], 1);
    assert_int_equal(mka_file_find(file, "none")->bytes, 0);
    assert_int_equal(mka_file_find(file, "none")->shape[1], 7);
    assert_int_equal(mka_file_find(file, "one")->rank, 0);
    assert_int_equal(mka_file_find(file, "one")->bytes, 8);
    assert_null(mka_file_find(file, "__metadata__"));
    mka_file_close(file);
    free(copy);
}

static void reads_metadata(void **state) {
    (void)state;
    void *copy;
    const char *bytes;
    size_t length;
    int64_t whole;
    mka_file *file = expect_open(good, 36, &copy);
    assert_int_equal(mka_file_meta_count(file), 2);
    const mka_meta *quote = mka_file_meta_find(file, "quote");
    assert_ptr_equal(quote, mka_file_meta(file, 1));
    assert_int_equal(quote->kind, MKA_META_STRING);
    assert_int_equal(quote->count, 1);
    assert_true(mka_meta_string(file, quote, 0, &bytes, &length));
    assert_int_equal(length, 3);
    assert_memory_equal(bytes, "\xc3\xa9\0", 3);
    assert_false(mka_meta_string(file, quote, 1, &bytes, &length));
    assert_false(mka_meta_int(file, quote, 0, &whole));
    mka_file_close(file);
    free(copy);
    file = expect_open("{}", 0, &copy);
    assert_int_equal(mka_file_tensor_count(file), 0);
    assert_int_equal(mka_file_meta_count(file), 0);
    assert_null(mka_file_meta_find(file, "format"));
    mka_file_close(file);
    free(copy);
}

static void reads_every_dtype(void **state) {
    (void)state;
    static const struct {
        const char *name;
        mka_type type;
        unsigned bytes;
    } types[] = {{"F64", MKA_F64, 8}, {"F32", MKA_F32, 4}, {"F16", MKA_F16, 2}, {"BF16", MKA_BF16, 2},
                 {"I64", MKA_I64, 8}, {"I32", MKA_I32, 4}, {"I16", MKA_I16, 2}, {"I8", MKA_I8, 1}};
    char header[200];
    void *copy;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        snprintf(header, sizeof header, "{\"w\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%u]}}", types[i].name,
                 3 * types[i].bytes);
        mka_file *file = expect_open(header, 3 * types[i].bytes, &copy);
        assert_int_equal(mka_file_tensor(file, 0)->type, types[i].type);
        mka_file_close(file);
        free(copy);
    }
    expect_fail("{\"w\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3, MKA_UNSUPPORTED, "tensor w has dtype U8");
    expect_fail("{\"w\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3, MKA_UNSUPPORTED,
                "tensor w has dtype BOOL");
    expect_fail("{\"w\":{\"dtype\":\"\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3, MKA_UNSUPPORTED, "tensor w has dtype ");
}

static void refuses_every_prefix(void **state) {
    (void)state;
    struct bytes b;
    mka_file *file;
    mka_error error;
    void *copy;
    put_file(&b, good, 36);
    for (size_t size = 0; size < b.size; size++) {
        mka_status status = open_bytes(&b, size, &file, &error, &copy);
        if (status != MKA_BAD_FILE) print_error("prefix of %zu bytes: %d %s\n", size, status, error.message);
        assert_int_equal(status, MKA_BAD_FILE);
        assert_non_null(strstr(error.message, "f.safetensors: "));
        free(copy);
    }
    b.size--;
    expect_bytes_fail(&b, MKA_BAD_FILE, "tensor one ends at byte 36 of the data but the file has 35 (truncated download?)");
    b.size = 20;
    expect_bytes_fail(&b, MKA_BAD_FILE, "does not fit in a file of 20 (truncated download?)");
}

static void survives_every_changed_byte(void **state) {
    (void)state;
    static const unsigned char values[] = {0, '"', '9', '{', ']', 0x7F, 0xFF};
    struct bytes b;
    void *copy;
    size_t opened = 0;
    put_file(&b, good, 36);
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
            }
            mka_file_close(file);
            free(copy);
        }
        b.data[at] = before;
    }
    assert_true(opened >= 36 * sizeof values); /* at least all changes of tensor data */
}

static void refuses_bad_lengths(void **state) {
    (void)state;
    struct bytes b;
    static const uint64_t lengths[] = {0, 1, 1000, 100000001, 0xFFFFFFFF};
    for (size_t i = 0; i < 5; i++) {
        put_file(&b, good, 36);
        b.size = 0;
        put_number(&b, lengths[i], 8);
        b.size = 8 + strlen(good) + 36;
        expect_bytes_fail(&b, MKA_BAD_FILE, "does not fit in a file of");
    }
    static const uint64_t huge[] = {(uint64_t)1 << 32, (uint64_t)1 << 63, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        b.size = 0;
        put_number(&b, huge[i], 8);
        b.size = 8 + strlen(good) + 36;
        expect_bytes_fail(&b, MKA_BAD_FILE, "neither a GGUF nor a safetensors file");
    }
}

#define W(dtype, shape, offsets) "{\"w\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void refuses_bad_fields(void **state) {
    (void)state;
    static const struct {
        const char *header;
        mka_status status;
        const char *text;
    } cases[] = {
        {"[1, 2]", MKA_BAD_FILE, "neither a GGUF"}, /* the format says that a header starts with a brace */
        {"{\"w\":", MKA_BAD_FILE, "not valid JSON: line 1, column 5"},
        {"{\"w\":null}", MKA_BAD_FILE, "tensor w has no dtype"},
        {"{\"w\":{\"shape\":[8],\"data_offsets\":[0,32]}}", MKA_BAD_FILE, "tensor w has no dtype"},
        {"{\"w\":{\"dtype\":7,\"shape\":[8],\"data_offsets\":[0,32]}}", MKA_BAD_FILE, "tensor w has no dtype"},
        {"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,32]}}", MKA_BAD_FILE, "tensor w has no shape"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[8]}}", MKA_BAD_FILE, "tensor w has no data_offsets"},
        {W("F32", "\"8\"", "[0,32]"), MKA_BAD_FILE, "tensor w has no shape"},
        {W("F32", "[\"8\"]", "[0,32]"), MKA_BAD_FILE, "shape that is not of whole numbers"},
        {W("F32", "[8.5]", "[0,32]"), MKA_BAD_FILE, "shape that is not of whole numbers"},
        {W("F32", "[null]", "[0,32]"), MKA_BAD_FILE, "shape that is not of whole numbers"},
        {W("F32", "[-8]", "[0,32]"), MKA_BAD_FILE, "shape that is not of whole numbers"},
        {W("F32", "[1,1,1,1,8]", "[0,32]"), MKA_UNSUPPORTED, "tensor w has 5 dimensions"},
        {W("F32", "[4611686018427387904,4611686018427387904]", "[0,32]"), MKA_BAD_FILE, "shape beyond all memory"},
        {W("F32", "[7]", "[0,32]"), MKA_BAD_FILE, "its shape and dtype need 28 bytes"},
        {W("F32", "[8]", "[32,0]"), MKA_BAD_FILE, "its shape and dtype need 32 bytes"},
        {W("F32", "[8]", "[0]"), MKA_BAD_FILE, "no data_offsets of two numbers"},
        {W("F32", "[8]", "[0,32,64]"), MKA_BAD_FILE, "no data_offsets of two numbers"},
        {W("F32", "[8]", "[0,\"32\"]"), MKA_BAD_FILE, "no data_offsets of two numbers"},
        {W("F32", "[8]", "[-32,0]"), MKA_BAD_FILE, "no data_offsets of two numbers"},
        {W("F32", "[8]", "[0,99999999999999999999]"), MKA_BAD_FILE, "no data_offsets of two numbers"},
        {W("F32", "[16]", "[0,64]"), MKA_BAD_FILE, "tensor w ends at byte 64 of the data but the file has 32"},
        {W("F32", "[7]", "[0,28]"), MKA_BAD_FILE, "the tensors end at byte 28 of the data but the file has 32"},
        {W("F32", "[7]", "[4,32]"), MKA_BAD_FILE, "tensor w begins at byte 4 of the data, the one before it ends at 0"},
        {"{\"__metadata__\":{\"a\":1}}", MKA_BAD_FILE, "__metadata__ must be names and strings"},
        {"{\"__metadata__\":[]}", MKA_BAD_FILE, "__metadata__ is not an object"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[8],\"data_offsets\":[0,32]}}", MKA_BAD_FILE, "a tensor's name is empty"},
        {"{\"a\\nb\":{\"dtype\":\"F32\",\"shape\":[8],\"data_offsets\":[0,32]}}", MKA_BAD_FILE, "control characters"},
        {"{\"\xff\":{\"dtype\":\"F32\",\"shape\":[8],\"data_offsets\":[0,32]}}", MKA_BAD_FILE, "not valid JSON"},
        {"{\"w\":{\"dtype\":\"I8\",\"shape\":[16],\"data_offsets\":[0,16]},"
         "\"w\":{\"dtype\":\"I8\",\"shape\":[16],\"data_offsets\":[16,32]}}",
         MKA_BAD_FILE, "duplicate object key"},
        {"{\"a\":{\"dtype\":\"I8\",\"shape\":[20],\"data_offsets\":[0,20]},"
         "\"b\":{\"dtype\":\"I8\",\"shape\":[20],\"data_offsets\":[12,32]}}",
         MKA_BAD_FILE, "tensor b begins at byte 12 of the data, the one before it ends at 20"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_fail(cases[i].header, 32, cases[i].status, cases[i].text);
}

static void refuses_deep_nesting(void **state) {
    (void)state;
    char header[5001] = "{\"w\":";
    memset(header + 5, '[', 4995);
    expect_fail(header, 0, MKA_BAD_FILE, "not valid JSON");
}

/* ---- files, shards, folders ---- */

static void write_shard(const char *folder, const char *name, const char *tensor) {
    struct bytes b;
    char header[256];
    snprintf(header, sizeof header,
             "{\"__metadata__\":{\"format\":\"pt\"},\"%s\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}", tensor);
    put_file(&b, header, 4);
    write_file(folder, name, b.data, b.size);
}

static const char *write_index(const char *folder, const char *text) {
    return write_file(folder, "model.safetensors.index.json", text, strlen(text));
}

static mka_file *expect_path_opens(const char *path) {
    mka_file *file;
    mka_error error;
    mka_status status = mka_file_open(path, &file, &error);
    if (status != MKA_OK) print_error("%s\n", error.message);
    assert_int_equal(status, MKA_OK);
    return file;
}

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

#define INDEX "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"b\":\"m-2.safetensors\",\"a\":\"m-1.safetensors\"}}"

static void opens_shards(void **state) {
    (void)state;
    char folder[64];
    make_folder(folder);
    write_shard(folder, "m-1.safetensors", "a");
    write_shard(folder, "m-2.safetensors", "b");
    const char *paths[] = {write_index(folder, INDEX), folder};
    for (int i = 0; i < 2; i++) {
        mka_file *file = expect_path_opens(paths[i]);
        assert_string_equal(mka_file_format(file), "safetensors");
        assert_int_equal(mka_file_tensor_count(file), 2);
        assert_string_equal(mka_file_tensor(file, 0)->name, "a");
        assert_int_equal(((const unsigned char *)mka_file_find(file, "b")->data)[3], 4);
        assert_int_equal(mka_file_meta_count(file), 1);
        mka_file_close(file);
    }
    remove_folder(folder);
}

static void refuses_shards_that_do_not_fit(void **state) {
    (void)state;
    char folder[64], path[512];
    make_folder(folder);
    snprintf(path, sizeof path, "%s", write_index(folder, INDEX));
    write_shard(folder, "m-1.safetensors", "a");
    expect_path_fails(path, MKA_IO, "shard of ");
    write_shard(folder, "m-2.safetensors", "c");
    expect_path_fails(path, MKA_BAD_FILE, "tensor b is not in it, but the index says so");
    write_shard(folder, "m-2.safetensors", "a");
    expect_path_fails(path, MKA_BAD_FILE, "tensor b is not in it");
    write_index(folder, "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"a2\":\"m-2.safetensors\"}}");
    write_shard(folder, "m-2.safetensors", "a");
    expect_path_fails(path, MKA_BAD_FILE, "tensor a2 is not in it");
    write_file(folder, "m-2.safetensors", "", 0);
    expect_path_fails(path, MKA_BAD_FILE, "m-2.safetensors: the file is empty");
    static const char *const bad[] = {"../m", "/m", "a/b", "", ".", "..", "m\\u0000"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", bad[i]);
        write_index(folder, text);
        expect_path_fails(path, MKA_BAD_FILE, "weight_map.a must be the plain name of a file");
    }
    write_index(folder, "{\"weight_map\":{\"a\":1}}");
    expect_path_fails(path, MKA_BAD_FILE, "weight_map.a must be the plain name");
    write_index(folder, "{\"weight_map\":{}}");
    expect_path_fails(path, MKA_BAD_FILE, "no weight_map");
    write_index(folder, "{\"model_type\":\"llama\"}");
    expect_path_fails(path, MKA_BAD_FILE, "not an index of safetensors shards");
    write_index(folder, "{\"weight_map\"");
    expect_path_fails(path, MKA_BAD_FILE, "not valid JSON");
    remove_folder(folder);
}

static void opens_folders(void **state) {
    (void)state;
    char folder[64], slashed[66];
    make_folder(folder);
    snprintf(slashed, sizeof slashed, "%s/", folder);
    expect_path_fails(folder, MKA_IO, "the folder has no .safetensors file");
    write_shard(folder, "only.safetensors", "a");
    mka_file *file = expect_path_opens(slashed);
    assert_non_null(mka_file_find(file, "a"));
    mka_file_close(file);
    write_shard(folder, "other.safetensors", "b");
    expect_path_fails(folder, MKA_BAD_FILE, "the folder has 2 .safetensors files but no model.safetensors.index.json");
    write_shard(folder, "model.safetensors", "m");
    file = expect_path_opens(folder);
    assert_int_equal(mka_file_tensor_count(file), 1);
    assert_non_null(mka_file_find(file, "m"));
    mka_file_close(file);
    unlink(in_folder(folder, "model.safetensors"));
    assert_int_equal(mkdir(in_folder(folder, "model.safetensors"), 0700), 0);
    expect_path_fails(folder, MKA_IO, "model.safetensors: a folder, not a file");
    remove_folder(folder);
}

/* An index read from memory has no folder. */
static void refuses_an_index_in_memory(void **state) {
    (void)state;
    struct bytes b = {.size = 0};
    put_text(&b, INDEX);
    expect_bytes_fail(&b, MKA_UNSUPPORTED, "an index of shards needs files beside it");
}

static void opens_the_reference_files(void **state) {
    (void)state;
    const char *shared = getenv("MKA_SHARED");
    int opened = 0;
    char folder[400];
    snprintf(folder, sizeof folder, "%s/golden", shared ? shared : "");
    DIR *directory = shared ? opendir(folder) : NULL;
    if (!directory) {
        print_message("no reference files in \"%s\"\n", folder);
        skip();
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        size_t length = strlen(entry->d_name);
        if (length < 12 || strcmp(entry->d_name + length - 12, ".safetensors") != 0) continue;
        mka_file *file = expect_path_opens(in_folder(folder, entry->d_name));
        assert_true(mka_file_tensor_count(file) > 0);
        assert_true(mka_file_meta_count(file) > 0);
        mka_file_close(file);
        opened++;
    }
    closedir(directory);
    assert_true(opened > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_file),
        cmocka_unit_test(reads_metadata),
        cmocka_unit_test(reads_every_dtype),
        cmocka_unit_test(refuses_every_prefix),
        cmocka_unit_test(survives_every_changed_byte),
        cmocka_unit_test(refuses_bad_lengths),
        cmocka_unit_test(refuses_bad_fields),
        cmocka_unit_test(refuses_deep_nesting),
        cmocka_unit_test(opens_shards),
        cmocka_unit_test(refuses_shards_that_do_not_fit),
        cmocka_unit_test(opens_folders),
        cmocka_unit_test(refuses_an_index_in_memory),
        cmocka_unit_test(opens_the_reference_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
