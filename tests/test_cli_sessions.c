/* test_cli_sessions - sessions that outlive the program, as a user meets them: saved, loaded, remembered, found again for a
 * prompt that begins alike, and kept within a limit of RAM. Argument and environment as for test_cli.
 */
#include "cli_run.h"

/* The ids of an answer of count tokens; the words after the model are given. */
static json_t *answer_of(const char *count, const char *flag, const char *value, const char *flag2, const char *value2) {
    const char *const words[] = {"generate",     "-m",     run.model, "-n",  count, "--temp", "0",
                                 "--ignore-eos", "--json", flag,      value, flag2, value2,   NULL};
    mka_to(TO_FILE, "", words);
    expect(0, "");
    json_t *object = json_out(), *ids = json_incref(json_object_get(object, "ids"));
    json_decref(object);
    return ids;
}

/* Two processes with a file between them say what one says. */
static void test_saved_sessions(void **state) {
    (void)state;
    need_model();
    char file[64];
    const char *base = getenv("TMPDIR");
    snprintf(file, sizeof file, "%.40s/mka-XXXXXX", base != NULL ? base : P_tmpdir);
    int handle = mkstemp(file);
    assert_true(handle >= 0);
    close(handle);
    MKA("generate", "-m", run.model, "--load-session", file, "-n", "4");
    expect(1, "not a saved session");
    json_t *whole = answer_of("16", "-p", "hello there", NULL, NULL),
           *half = answer_of("9", "-p", "hello there", "--save-session", file);
    json_t *rest = answer_of("7", "--load-session", file, "--save-session", file);
    json_array_extend(half, rest);
    assert_true(json_equal(whole, half));
    json_decref(whole);
    json_decref(half);
    json_decref(rest);
    json_decref(answer_of("3", "--load-session", file, "-p", " and"));
    const char *const filling[] = {"generate", "-m", run.model, "-p", "hello there", "-n", "1", "--save-session", file, NULL};
    mka_to(TO_FILE, "", filling);
    expect(0, "");
    json_t *remembered = answer_of("5", "--remember", file, "-p", " and on");
    json_t *again = answer_of("5", "--remember", file, "-p", " and on");
    assert_true(json_equal(remembered, again) && json_array_size(remembered) == 5);
    json_decref(remembered);
    json_decref(again);
    const char *const talking[] = {"chat",   "-m", run.model, "--template", "chatml", "-n", "6",
                                   "--temp", "0",  "--json",  "--remember", file,     NULL};
    mka_to(TO_FILE, "hello\n/reset\nhello\n", talking);
    expect(0, "");
    char *second_line = strchr(run.out, '\n');
    assert_non_null(second_line);
    json_t *said_first = json_loadb(run.out, (size_t)(second_line - run.out), 0, NULL),
           *said_then = json_loads(second_line + 1, 0, NULL);
    assert_true(json_equal(json_object_get(said_first, "ids"), json_object_get(said_then, "ids")));
    json_decref(said_first);
    json_decref(said_then);
    MKA("generate", "-m", run.model, "--remember", file, "-n", "4");
    expect(2, "no text");
    MKA("generate", "-m", run.model, "--remember", file, "--load-session", file, "-p", "x");
    expect(2, "exclude each other");
    json_decref(answer_of("20", "-p", "hello there", "--save-session", file));
    MKA("generate", "-m", run.model, "--load-session", file, "-ctk", "q8", "-n", "4");
    expect(1, "saved with cache keys in f16, but this session has q8_0");
    MKA("generate", "-m", run.model, "--load-session", file, "-c", "12", "-n", "4");
    expect(1, "the context has room for 12");
    MKA("chat", "-m", run.model, "--template", "chatml", "--load-session", file);
    expect(1, "holds no conversation");
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "4", "--save-session", "/no/such/folder/file");
    expect(1, "No such file or directory");
    const char *const first[] = {"chat", "-m",     run.model, "--template",     "chatml", "-n",
                                 "6",    "--temp", "0",       "--save-session", file,     NULL};
    mka_to(TO_FILE, "hello there\n", first);
    expect(0, "");
    static char said[2 * ROOM];
    strcpy(said, run.out);
    const char *const second[] = {"chat", "-m",     run.model, "--template",     "chatml", "-n",
                                  "6",    "--temp", "0",       "--load-session", file,     NULL};
    mka_to(TO_FILE, "and again\n", second);
    expect(0, "");
    strcat(said, run.out);
    const char *const both[] = {"chat", "-m", run.model, "--template", "chatml", "-n", "6", "--temp", "0", NULL};
    mka_to(TO_FILE, "hello there\nand again\n", both);
    expect(0, "");
    assert_string_equal(said, run.out);
    unlink(file);
}

/* A long prompt a second time, and one that begins alike: the same answer, most of it not evaluated again. */
static void test_reused_prompts(void **state) {
    (void)state;
    need_model();
    static char text[8192];
    char sessions[80], command[200];
    snprintf(sessions, sizeof sessions, "%s/kept", run.cache);
    for (int i = 0; i < 1200; i++) strcat(text, i % 7 ? "a " : "b ");
    json_t *ids = NULL;
    json_int_t prompt = 0;
    for (int i = 0; i < 5; i++) { /* without, kept, reused, damaged and kept again, continued */
        const char *const words[] = {"generate", "-m",         run.model, "-f",           "-",      "-n",
                                     "6",        "--temp",     "0",       "--ignore-eos", "--json", "-c",
                                     "4096",     "--sessions", sessions,  "--chunk",      "128",    i == 0 ? "--no-reuse" : NULL,
                                     NULL};
        if (i == 3) {
            snprintf(command, sizeof command,
                     "for f in %s/*.mka; do printf x | dd of=$f bs=1 seek=60000 conv=notrunc 2>/dev/null; done", sessions);
            assert_int_equal(system(command), 0);
        }
        if (i == 4) strcat(text, "c d");
        mka_to(TO_FILE, text, words);
        expect(0, i == 3 ? "is damaged" : "");
        json_t *object = json_out(), *now = json_object_get(object, "ids");
        json_int_t evaluated = json_integer_value(json_object_get(object, "evaluated_tokens"));
        prompt = json_integer_value(json_object_get(object, "prompt_tokens"));
        if (i == 0) ids = json_incref(now);
        if (i < 4) assert_true(json_equal(ids, now));
        assert_true(prompt >= 1024);
        assert_int_equal(evaluated, i == 2 || i == 4 ? prompt - (prompt - 1) / 128 * 128 : prompt);
        json_decref(object);
    }
    json_decref(ids);
    const char *const words[] = {"generate", "-m", run.model, "-f", "-", "-n", "2", "-c", "4096", "--sessions", "/proc/no", NULL};
    mka_to(TO_FILE, text, words);
    expect(0, "warn: cannot make /proc/no");
}

/* Several memories: remembered one after the other or merged before, they are the same tokens; a folder of them is listed. */
static void test_memories(void **state) {
    (void)state;
    need_model();
    char memories[80], files[4][96], text[64];
    snprintf(memories, sizeof memories, "%s/memories", run.cache);
    assert_int_equal(mkdir(memories, 0700), 0);
    for (int i = 0; i < 4; i++) {
        snprintf(files[i], sizeof files[i], "%s/%d.mka", memories, i);
        snprintf(text, sizeof text, "memory %d of three", i);
        if (i < 3) json_decref(answer_of("6", "-p", text, "--save-session", files[i]));
    }
    write_file(memories, "notes.txt", "mka", 3);
    MKA("memory", "merge", "-m", run.model, files[3], files[0], files[1], files[2], "--json");
    expect(0, "");
    json_t *merged = json_out(), *parts = json_object_get(merged, "parts");
    assert_int_equal(json_array_size(parts), 3);
    json_int_t tokens = json_integer_value(json_object_get(merged, "tokens")), first = 0;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(json_integer_value(json_object_get(json_array_get(parts, i), "first")), first);
        first += json_integer_value(json_object_get(json_array_get(parts, i), "tokens"));
    }
    assert_int_equal(first, tokens);
    json_decref(merged);
    json_t *all = answer_of("8", "--remember", files[3], "-p", " and");
    MKA("generate", "-m", run.model, "--temp", "0", "--ignore-eos", "--json", "-n", "8", "--remember", files[0], "--remember",
        files[1], "--remember", files[2], "-p", " and");
    expect(0, "");
    json_t *each = json_out(), *one = answer_of("8", "--remember", files[0], "-p", " and");
    assert_true(json_equal(all, json_object_get(each, "ids")));
    assert_false(json_equal(all, one));
    json_decref(all);
    json_decref(each);
    json_decref(one);
    MKA("memory", "list", memories, "--json");
    expect(0, "");
    assert_int_equal(count_lines(), 4);
    json_t *line = json_line(3);
    assert_int_equal(json_integer_value(json_object_get(line, "tokens")), tokens);
    assert_int_equal(json_integer_value(json_object_get(line, "layers")), 2);
    assert_string_equal(json_string_value(json_object_get(line, "key_type")), "f16");
    assert_int_equal(strlen(json_string_value(json_object_get(line, "model"))), 16);
    assert_int_equal(strlen(json_string_value(json_object_get(line, "saved"))), strlen("2026-01-01T00:00:00Z"));
    assert_non_null(strstr(json_string_value(json_object_get(line, "words")), "memory 0 of three"));
    json_decref(line);
    MKA("memory", "list", files[1], files[2]);
    expect(0, "");
    assert_non_null(strstr(run.out, "memory 2 of three"));
    assert_int_equal(truncate(files[1], 3000), 0);
    MKA("memory", "list", memories, "--json");
    expect(1, "truncated or damaged");
    assert_int_equal(count_lines(), 3); /* the others all the same */
    MKA("memory", "merge", "-m", run.model, files[3], files[0], files[1]);
    expect(1, "truncated or damaged");
    MKA("memory", "list", files[3], "--json"); /* the old one is still there */
    expect(0, "");
    MKA("memory", "merge", "-m", run.model, files[3], files[0]);
    expect(2, "two or more saved sessions");
    MKA("memory", "list");
    expect(2, "which folder or files?");
    MKA("memory", "list", "no-such-folder");
    expect(1, "No such file or directory");
    remove_folder(memories);
}

static void test_limited_ram(void **state) {
    (void)state;
    need_model();
    MKA("generate", "-m", run.model, "-p", "hello", "--ram", "8Q");
    expect(2, "--ram: '8Q' is not a number of bytes, such as 512M or 8G");
    MKA("generate", "-m", run.model, "-p", "hello", "--ram", "0");
    expect(2, "is not a number of bytes");
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "4", "-c", "64", "--spill", ".");
    expect(2, "needs a limit of RAM");
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "4", "-c", "64", "--ram", "1K");
    expect(2, "1,024 bytes of RAM is too little");
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "4", "-c", "64", "--ram", "0.5G");
    expect(0, "");
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "4", "-c", "4000000", "--memory", "tiered", "--ram", "10M", "--spill",
        "/no");
    expect(2, "this context needs at least");
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "4", "-c", "4000000", "--memory", "tiered", "--ram", "2G", "--spill",
        "/no");
    if (run.status != 0) expect(1, "no spill file can be made in /no");
}

/* The benchmark fills such a memory too: it says what a call read from the file, and keeps within the limit. */
static void test_limited_bench(void **state) {
    (void)state;
    MKA("bench", "attention", "--memory", "tiered", "--kv", "concentrated", "--kv-len", "65536", "--heads", "4", "--kv-heads",
        "2", "--head-dim", "64", "-r", "2", "-t", "2", "--ram", "1M", "--spill", run.cache, "--json");
    expect(2, "this context needs at least ");
    double least = 0;
    char ram[32];
    assert_int_equal(sscanf(strstr(run.err, "at least "), "at least %lf MiB", &least), 1);
    snprintf(ram, sizeof ram, "%.1fM", least + 0.1);
    MKA("bench", "attention", "--memory", "tiered", "--kv", "concentrated", "--kv-len", "65536", "--heads", "4", "--kv-heads",
        "2", "--head-dim", "64", "-r", "2", "-t", "2", "--ram", ram, "--spill", run.cache, "--json");
    expect(0, "");
    json_t *row = json_out(), *memory = json_object_get(row, "memory");
    assert_true(json_number_value(json_object_get(memory, "spill_bytes")) > 64 * 68);
    json_int_t resident = json_integer_value(json_object_get(memory, "resident_bytes"));
    assert_true(resident > 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* whose own memory counts */
    assert_true((double)resident <= 1.05 * (least + 0.1) * 1048576);
#endif
    json_decref(row);
}

int main(int argc, char **argv) {
    if (!open_run(argc, argv)) return 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saved_sessions), cmocka_unit_test(test_reused_prompts), cmocka_unit_test(test_memories),
        cmocka_unit_test(test_limited_ram),    cmocka_unit_test(test_limited_bench),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    close_run();
    return failed;
}
