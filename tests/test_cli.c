/* test_cli - the program as a user or a script meets it: exit status, one clear line on stderr, JSON that parses, results that
 * arrive or fail loudly. Argument: the program. MKA_SHARED names the folder with golden files; what needs them is skipped
 * without.
 *
 * Every case starts a process of its own, with its standard streams in temporary files, so that nothing can block.
 */
#include "cli_run.h"

/* ---- usage ---- */

static void test_usage_errors(void **state) {
    (void)state;
    static const struct {
        const char *words[10];
        const char *said;
    } cases[] = {
        {{"genrate"}, "did you mean generate?"},
        {{"frobnicate"}, "unknown command 'frobnicate'"},
        {{"--json", "info"}, "the command comes first"},
        {{"generate", "--tmep", "1"}, "did you mean --temp?"},
        {{"generate", "--frobnicate"}, "unknown flag --frobnicate"},
        {{"generate", "--max-tokens", "5"}, "a flag of other commands"},
        {{"generate", "-m"}, "-m needs a value"},
        {{"generate", "-m", "-p", "x"}, "the flag -p follows"},
        {{"generate", "-p", "x"}, "-m MODEL"},
        {{"generate", "-m", "x"}, "-p TEXT or -f FILE"},
        {{"generate", "-m", "x", "-p", "y", "-f", "z"}, "exclude each other"},
        {{"generate", "-m", "x", "-p", "y", "-n", "1o0"}, "'1o0' is not a whole number from -1"},
        {{"generate", "-m", "x", "-p", "y", "-n", ""}, "'' is not a whole number"},
        {{"generate", "-m", "x", "-p", "y", "-c", "99999999999999999999"}, "is not a whole number from 1"},
        {{"generate", "-m", "x", "-p", "y", "-c", "-5"}, "is not a whole number from 1"},
        {{"generate", "-m", "x", "-p", "y", "-t", "1025"}, "from 1 to 1024"},
        {{"generate", "-m", "x", "-p", "y", "--temp", "nan"}, "'nan' is not a number from 0"},
        {{"generate", "-m", "x", "-p", "y", "--temp", "1e999"}, "is not a number"},
        {{"generate", "-m", "x", "-p", "y", "--top-p=1.5"}, "is not a number from 0 to 1"},
        {{"generate", "-m", "x", "-p", "y", "-s", "-1"}, "0 to 18446744073709551615"},
        {{"generate", "-m", "x", "-p", "y", "-ctk", "q9"}, "one of f32, f16, bf16"},
        {{"generate", "-m", "x", "-p", "y", "--mla", "absorb"}, "did you mean absorbed?"},
        {{"generate", "-m", "x", "-p", "y", "--chat", "--template", "chatlm"}, "did you mean chatml?"},
        {{"generate", "-m", "x", "-p", "y", "--system", "z"}, "need --chat"},
        {{"generate", "-m", "x", "-p", "y", "--device", "opencl:no such device"}, "OpenCL"},
        {{"generate", "-m", "x", "-p", "y", "--device", "gpu"}, "unknown device 'gpu'"},
        {{"generate", "-m", "x", "-p", "y", "--json=1"}, "takes no value"},
        {{"generate", "-m", "x", "hello"}, "given with -p"},
        {{"generate", "-m", "x", "-p", "y", "--numa", "on"}, "'on' is not auto, off, interleave or nodes=0,2"},
        {{"generate", "-m", "x", "-p", "y", "--numa", "nodes="}, "'' is no NUMA node"},
        {{"generate", "-m", "x", "-p", "y", "--numa", "nodes=0,64"}, "'64' is no NUMA node"},
        {{"generate", "-m", "x", "-p", "y", "--numa", "nodes=0,12345678"}, "is no NUMA node"},
        {{"info", "--numa", "nodes=63"}, "there is no NUMA node 63"},
        {{"info", "a", "b"}, "unexpected argument 'b'"},
        {{"info", "--cpu", "abacus"}, "abacus"},
        {{"check"}, "which file?"},
        {{"check", "answers.json"}, "name the model with -m"},
        {{"eval"}, "which task?"},
        {{"eval", "perplex", "-m", "x", "-f", "y"}, "unknown task 'perplex'"},
        {{"eval", "recal", "-m", "x", "-f", "y"}, "did you mean recall?"},
        {{"eval", "recall", "-m", "x", "-f", "y", "--memory", "dense"}, "has nothing to recall"},
        {{"eval", "recall", "-m", "x", "-f", "y", "--recall", "p=1"}, "0 < p < 1"},
        {{"eval", "recall", "-m", "x", "-f", "y", "--prefill", "dens"}, "did you mean dense?"},
        {{"eval", "needle", "-m", "x", "-f", "y", "--depths", "101"}, "from 0 to 100"},
        {{"eval", "needle", "-m", "x", "-f", "y", "--samples", "0"}, "from 1 to 10000"},
        {{"eval", "ruler", "multikey", "-m", "x", "-f", "y"}, "did you mean multi-key?"},
        {{"eval", "qa", "-m", "x"}, "which questions?"},
        {{"eval", "ppl", "-m", "x", "-f", "y", "--layers"}, "a flag of other commands"},
        {{"eval", "ppl", "-f", "y"}, "-m MODEL"},
        {{"eval", "ppl", "-m", "x"}, "-f FILE"},
        {{"tokenize", "-p", "x"}, "-m MODEL"},
        {{"chat"}, "-m MODEL"},
        {{"bench"}, "which task? One of limits, attention, model"},
        {{"bench", "--json"}, "which task?"},
        {{"bench", "limit"}, "did you mean limits?"},
        {{"bench", "speed"}, "unknown task 'speed'; one of limits, attention, model"},
        {{"bench", "limits", "--kv-len", "5"}, "a flag of other commands"},
        {{"bench", "limits", "--size", "4095"}, "'4095' is not a whole number from 4096"},
        {{"bench", "limits", "-r", "0"}, "from 1 to 1000"},
        {{"bench", "limits", "-t", "1,"}, "'' is not a whole number from 1 to 1024"},
        {{"bench", "limits", "-t", "1,x"}, "'x' is not a whole number"},
        {{"bench", "attention", "--kv-type", "f16,q7"}, "one of f32, f16, bf16, q8, q4"},
        {{"bench", "attention", "--variant", "gka"}, "did you mean gqa?"},
        {{"bench", "attention", "--phase", "decode,fill"}, "unknown value 'fill'"},
        {{"bench", "attention", "--kv-len", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"}, "16 items at most"},
        {{"bench", "attention", "--q-len", "9", "--kv-len", "8"}, "9 queries cannot stand at the end of 8 tokens"},
        {{"bench", "attention", "--heads", "3", "--kv-heads", "2", "--kv-len", "8"}, "do not divide"},
        {{"bench", "attention", "--memory", "auto"}, "name one, or both"},
        {{"bench", "attention", "--memory", "tiered", "--variant", "mla"}, "mla has no tiers"},
        {{"bench", "model"}, "-m MODEL or --shape NAME"},
        {{"bench", "model", "-m", "x", "--shape", "tiny"}, "exclude each other"},
        {{"bench", "model", "-m", "x", "--variant", "fastmka"}, "--variant needs --shape"},
        {{"bench", "model", "--shape", "tiny", "--variant", "mla"}, "a shape has gqa, fastmka or mka"},
        {{"bench", "model", "--shape", "huge"}, "one of tiny, smollm2-135m"},
        {{"bench", "model", "--shape", "tiny:q9"}, "there is no type 'q9'"},
        {{"bench", "model", "--shape", "smollm2-135m:q4_k"}, "not whole blocks of q4_k"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mka_to(TO_FILE, "", cases[i].words);
        expect(2, cases[i].said);
        assert_string_equal(run.out, "");
        /* One line of what is wrong, and at most one of where to look. */
        size_t lines = 0;
        for (const char *c = run.err; *c != '\0'; c++) lines += *c == '\n';
        if (lines > 2 || strncmp(run.err, "mka: ", 5) != 0) fail_msg("'%s' is more than a line and a hint", run.err);
    }
    mka_to(TO_FILE, "", (const char *const[]){NULL});
    expect(2, "Usage: mka COMMAND");
}

static void test_help(void **state) {
    (void)state;
    static const char *const commands[] = {"generate", "chat", "info", "check", "tokenize", "eval", "bench"};
    MKA("--help");
    expect(0, "");
    for (size_t i = 0; i < 7; i++) {
        assert_non_null(strstr(run.out, commands[i]));
    }
    for (size_t i = 0; i < 7; i++) {
        MKA(commands[i], "--help");
        expect(0, "");
        assert_non_null(strstr(run.out, "Examples:"));
        assert_non_null(strstr(run.out, "--json"));
    }
    MKA("eval", "recall", "--help");
    expect(0, "");
    assert_non_null(strstr(run.out, "--prefill"));
    static const char *const tasks[] = {"limits", "attention", "model"};
    for (size_t i = 0; i < 3; i++) {
        MKA("bench", tasks[i], "--help");
        expect(0, "");
        assert_non_null(strstr(run.out, "Examples:"));
        assert_non_null(strstr(run.out, "--repeats"));
        MKA("help", "bench", tasks[i]);
        expect(0, "");
        assert_non_null(strstr(run.out, "--repeats"));
    }
    MKA("--version");
    expect(0, "");
    assert_memory_equal(run.out, "mka ", 4);
}

static void test_environment(void **state) {
    (void)state;
    setenv("MKA_CPU", "abacus", 1);
    MKA("info");
    expect(2, "abacus");
    setenv("MKA_CPU", "scalar", 1);
    MKA("info", "--json");
    unsetenv("MKA_CPU");
    expect(0, "");
    json_t *info = json_out();
    assert_string_equal(json_string_value(json_object_get(info, "cpu_level")), "scalar");
    json_decref(info);
    setenv("MKA_THREADS", "many", 1);
    MKA("info");
    unsetenv("MKA_THREADS");
    expect(2, "MKA_THREADS");
}

/* ---- streams ---- */

static void test_output_is_checked(void **state) {
    (void)state;
    const char *const words[] = {"info", NULL};
    mka_to(TO_FULL, "", words);
    expect(1, "cannot write the answer: No space left on device");
    mka_to(TO_NOWHERE, "", words);
    expect(1, "cannot write the answer");
    need_model();
    const char *const answer[] = {"generate", "-m", run.model, "-p", "hello", "-n", "4", NULL};
    mka_to(TO_FULL, "", answer);
    expect(1, "cannot write the answer: No space left on device");
    mka_to(TO_NOWHERE, "", answer);
    expect(1, "cannot write the answer");
}

/* A reader that leaves early: the program stops with an error of the write, not by a signal. */
static void test_closed_pipe(void **state) {
    (void)state;
    need_model();
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    FILE *err = tmpfile();
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        dup2(ends[1], 1);
        dup2(fileno(err), 2);
        execl(run.program, run.program, "generate", "-m", run.model, "-p", "hello", "-n", "-1", "--ignore-eos", "-c", "100000",
              (char *)NULL);
        _exit(99);
    }
    close(ends[1]);
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    read_back(err, run.err);
    assert_true(WIFEXITED(status));
    run.status = WEXITSTATUS(status);
    expect(1, "cannot write the answer: Broken pipe");
}

static void test_interrupt(void **state) {
    (void)state;
    need_model();
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    FILE *err = tmpfile();
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        dup2(ends[1], 1);
        dup2(fileno(err), 2);
        execl(run.program, run.program, "generate", "-m", run.model, "-p", "hello", "-n", "-1", "--ignore-eos", "-c", "100000",
              (char *)NULL);
        _exit(99);
    }
    close(ends[1]);
    size_t used = 0;
    ssize_t n = read(ends[0], run.out, 1);
    assert_int_equal(n, 1);
    used = 1;
    kill(pid, SIGINT);
    while (used < ROOM - 1 && (n = read(ends[0], run.out + used, ROOM - 1 - used)) > 0) used += (size_t)n;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    read_back(err, run.err);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
    assert_int_equal(run.out[used - 1], '\n');
}

/* ---- commands on a tiny model ---- */

static void test_info(void **state) {
    (void)state;
    static const char *const machine[] = {"cpu_levels", "cores", "numa_nodes", "numa", "caches", "devices", NULL};
    static const char *const model[] = {"arch", "parameters", "quantisation", "context", "cache_bytes_per_token", NULL};
    MKA("info", "--json");
    expect(0, "");
    json_t *info = json_out();
    has_fields(info, machine);
    assert_true(json_array_size(json_object_get(info, "cpu_levels")) >= 1);
    assert_string_equal(json_string_value(json_array_get(json_object_get(info, "cpu_levels"), 0)), "scalar");
    json_decref(info);
    need_model();
    MKA("info", "--json", run.model);
    expect(0, "");
    info = json_out();
    has_fields(info, machine);
    has_fields(info, model);
    assert_string_equal(json_string_value(json_object_get(info, "arch")), "llama");
    assert_true(json_integer_value(json_object_get(json_object_get(info, "cache_bytes_per_token"), "f16")) > 0);
    json_decref(info);
    MKA("info", "-v", run.model);
    expect(0, "");
    assert_non_null(strstr(run.out, "token_embd.weight"));
}

/* A machine of two nodes that is only described: planned, refused with one line, and the same answer. */
static void test_numa(void **state) {
    (void)state;
    need_model();
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "7", "--ignore-eos", "--temp", "0", "--numa", "off", "--json");
    expect(0, "");
    assert_null(strstr(run.err, "caches lie"));
    json_t *plain = json_out(), *numa = json_object_get(json_object_get(plain, "memory"), "numa");
    assert_string_equal(json_string_value(json_object_get(numa, "mode")), "off");
    setenv("HWLOC_SYNTHETIC", "node:2 core:1 pu:1", 1);
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "7", "--ignore-eos", "--temp", "0", "--json");
    unsetenv("HWLOC_SYNTHETIC");
    expect(0, "warn: caches lie where the system puts them");
    assert_null(strstr(strstr(run.err, "caches lie") + 1, "caches lie")); /* once */
    json_t *placed = json_out();
    numa = json_object_get(json_object_get(placed, "memory"), "numa");
    assert_string_equal(json_string_value(json_object_get(numa, "mode")), "nodes");
    assert_true(json_is_true(json_object_get(numa, "refused")));
    assert_int_equal(json_array_size(json_object_get(numa, "nodes")), 2);
    assert_string_equal(json_string_value(json_object_get(placed, "text")), json_string_value(json_object_get(plain, "text")));
    json_decref(placed);
    json_decref(plain);
}

static void test_generate_json(void **state) {
    (void)state;
    static const char *const fields[] = {"text",          "ids",          "prompt_tokens", "new_tokens",
                                         "prefill_tok_s", "decode_tok_s", "memory",        NULL};
    static const char *const memory[] = {"mode", "tokens_read", "unread_mass_estimate", "lost_mass_bound", "bytes_by_tier",
                                         "numa", NULL};
    need_model();
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "7", "--ignore-eos", "--temp", "0", "--json");
    expect(0, "");
    json_t *first = json_out();
    has_fields(first, fields);
    has_fields(json_object_get(first, "memory"), memory);
    assert_int_equal(json_array_size(json_object_get(first, "ids")), 7);
    assert_int_equal(json_integer_value(json_object_get(first, "new_tokens")), 7);
    /* The text is what the human mode streams, but for the newline after it. */
    char text[4096];
    snprintf(text, sizeof text, "%s\n", json_string_value(json_object_get(first, "text")));
    json_decref(first);
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "7", "--ignore-eos", "--temp", "0");
    expect(0, "");
    if (strstr(text, "\xef\xbf\xbd") == NULL) assert_string_equal(run.out, text);
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "0", "--json");
    expect(0, "");
    json_decref(json_out());
}

static json_t *ids_of(const char *input, const char *flag, const char *value) {
    const char *const words[] = {"tokenize", "-m", run.model, flag, value, "--json", NULL};
    mka_to(TO_FILE, input, words);
    expect(0, "");
    json_t *object = json_out(), *ids = json_incref(json_object_get(object, "ids"));
    assert_true(json_is_array(ids));
    json_decref(object);
    return ids;
}

static void test_prompt_sources(void **state) {
    (void)state;
    need_model();
    json_t *with = ids_of("", "-p", "hello\n"), *without = ids_of("", "-p", "hello");
    json_t *dash = ids_of("hello\n", "-f", "-"), *device = ids_of("hello\n", "-f", "/dev/stdin");
    assert_true(json_equal(with, dash));
    assert_true(json_equal(with, device));
    assert_false(json_equal(with, without));
    json_decref(with);
    json_decref(without);
    json_decref(dash);
    json_decref(device);
    MKA("tokenize", "-m", run.model, "-p", "hello");
    expect(0, "");
}

static void test_contexts(void **state) {
    (void)state;
    need_model();
    MKA("generate", "-m", run.model, "-p", "a prompt of more than four tokens, surely", "-c", "4");
    expect(1, "the context has room for 4");
    /* 2^27 tokens take a hundred GiB even for this model; a machine that has them must take the other way out. */
    MKA("generate", "-m", run.model, "-p", "hello", "-n", "1", "-c", "134217728", "-ctk", "f32", "-ctv", "f32");
    if (run.status != 0) expect(1, "would fit");
    MKA("generate", "-m", run.model, "-p", "", "--no-bos");
    expect(2, "the prompt is empty");
    MKA("generate", "-m", run.model, "-f", "no-such-file");
    expect(1, "no-such-file: No such file or directory");
    MKA("generate", "-m", run.model, "-f", ".");
    expect(1, "Is a directory");
    MKA("generate", "-m", "no-such-model.gguf", "-p", "x");
    expect(1, "no-such-model.gguf");
}

/* Two turns in one session: the second evaluates only what is new. */
static void test_chat(void **state) {
    (void)state;
    need_model();
    const char *const words[] = {"chat", "-m", run.model, "--template", "chatml", "-n", "6", "--temp", "0", "--json", NULL};
    mka_to(TO_FILE, "hello there\nand again\n/reset\nhello there\n", words);
    expect(0, "");
    json_t *turn[3];
    size_t at = 0, length = strlen(run.out);
    for (int i = 0; i < 3; i++) {
        json_error_t error;
        turn[i] = json_loadb(run.out + at, length - at, JSON_DISABLE_EOF_CHECK, &error);
        if (turn[i] == NULL) fail_msg("turn %d: %s in '%s'", i, error.text, run.out + at);
        at += (size_t)error.position;
    }
    json_int_t new_tokens = json_integer_value(json_object_get(turn[0], "new_tokens"));
    json_int_t first = json_integer_value(json_object_get(turn[0], "prompt_tokens"));
    json_int_t held = json_integer_value(json_object_get(turn[1], "prompt_tokens"));
    json_int_t evaluated = json_integer_value(json_object_get(turn[1], "evaluated_tokens"));
    assert_true(held >= first + new_tokens);
    assert_true(evaluated <= held - first);
    assert_true(json_equal(json_object_get(turn[0], "ids"), json_object_get(turn[2], "ids")));
    for (int i = 0; i < 3; i++) json_decref(turn[i]);
    MKA("generate", "-m", run.model, "--chat", "-p", "hello");
    if (run.status != 0) expect(1, "--template NAME"); /* a model without a template of its own */
    const char *const small[] = {"chat", "-m", run.model, "--template", "chatml", "-c", "8", NULL};
    mka_to(TO_FILE, "a message that is far too long for a context of eight tokens, whatever the tokenizer\n", small);
    expect(1, "the context is full");
}

static void test_eval(void **state) {
    (void)state;
    static const char *const fields[] = {"file", "tokens", "ppl", "nll", "stderr", NULL};
    need_model();
    const char *const words[] = {"eval", "ppl", "-m", run.model, "-f", "-", "-c", "16", "--max-tokens", "40", "--json", NULL};
    mka_to(TO_FILE, "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want",
           words);
    expect(0, "");
    json_t *object = json_out();
    has_fields(object, fields);
    assert_int_equal(json_integer_value(json_object_get(object, "tokens")), 40);
    assert_true(json_real_value(json_object_get(object, "nll")) > 0);
    json_decref(object);
    const char *const empty[] = {"eval", "ppl", "-m", run.model, "-f", "-", NULL};
    mka_to(TO_FILE, "", empty);
    expect(1, "too short");
}

/* ---- bench: the rows and their fields; how fast anything is is the machine's matter ---- */

static void has_spread(const json_t *object, const char *field) {
    static const char *const fields[] = {"min", "median", "max", NULL};
    const json_t *spread = json_object_get(object, field);
    has_fields(spread, fields);
    double min = json_number_value(json_object_get(spread, "min")), max = json_number_value(json_object_get(spread, "max"));
    double median = json_number_value(json_object_get(spread, "median"));
    if (!(min > 0 && min <= median && median <= max)) fail_msg("%s is no spread in %s", field, run.out);
}

static void test_bench_limits(void **state) {
    (void)state;
    static const char *const fields[] = {"level",  "node",        "bytes",   "read_gbps", "copy_gbps", "f32_gflops",
                                         "spread", "unit_gflops", "threads", "repeats",   "cpu",       NULL};
    static const char *const pair[] = {"1", "all", NULL};
    MKA("bench", "limits", "--size", "300000", "-r", "2", "-t", "1,2", "--json");
    expect(0, "");
    int lines = count_lines(), memories = 0;
    for (int i = 0; i < lines; i++) {
        json_t *row = json_line(i);
        has_fields(row, fields);
        has_fields(json_object_get(row, "read_gbps"), pair);
        has_fields(json_object_get(row, "copy_gbps"), pair);
        has_fields(json_object_get(row, "f32_gflops"), pair);
        assert_true(json_number_value(json_object_get(json_object_get(row, "read_gbps"), "all")) > 0);
        if (strcmp(json_string_value(json_object_get(row, "level")), "memory") == 0) {
            assert_int_equal(json_integer_value(json_object_get(json_object_get(row, "bytes"), "all")), 300000);
            memories++;
        }
        json_decref(row);
    }
    assert_true(memories >= 2);
    MKA("bench", "limits", "--size", "4096", "-r", "1");
    expect(0, "");
    assert_non_null(strstr(run.out, "memory read"));
}

static void test_bench_attention(void **state) {
    (void)state;
    static const char *const fields[] = {"phase",   "variant",    "heads",          "kv_heads",  "head_dim", "q_len",  "kv_len",
                                         "kv_type", "ms",         "threads",        "bytes",     "gbps",     "gflops", "flops",
                                         "limit",   "limit_kind", "limit_fraction", "read_gbps", "repeats",  "memory", "unit",
                                         "cpu",     NULL};
    static const char *const variants[] = {"gqa", "mha", "mqa", "mla", "mka", "fastmka"};
    static const int kv_heads[] = {2, 4, 1, 1, 2, 2}, levels[] = {1, 1, 1, 1, 3, 1};
    MKA("bench", "attention", "--variant", "gqa,mha,mqa,mla,mka,fastmka", "--heads", "4", "--kv-heads", "2", "--head-dim", "16",
        "--kv-len", "40,20", "--kv-type", "f32", "-r", "2", "-t", "2", "--json");
    expect(0, "");
    assert_int_equal(count_lines(), 12);
    for (int i = 0; i < 12; i++) {
        json_t *row = json_line(i);
        int kv_len = i % 2 ? 20 : 40, v = i / 2;
        has_fields(row, fields);
        has_spread(row, "ms");
        has_spread(row, "read_gbps");
        assert_string_equal(json_string_value(json_object_get(row, "variant")), variants[v]);
        assert_int_equal(json_integer_value(json_object_get(row, "kv_heads")), kv_heads[v]);
        assert_int_equal(json_integer_value(json_object_get(row, "kv_len")), kv_len);
        assert_int_equal(json_integer_value(json_object_get(row, "q_len")), 1);
        double flops = 2.0 * 4 * (v == 3 ? 72 + 64 : 16 + 16) * kv_len * levels[v];
        assert_true(json_number_value(json_object_get(row, "flops")) == flops);
        if (v != 3)
            assert_true(json_number_value(json_object_get(row, "bytes")) >= 4.0 * 2 * 16 * kv_heads[v] * kv_len * levels[v]);
        assert_true(json_number_value(json_object_get(row, "limit_fraction")) > 0);
        json_decref(row);
    }
    MKA("bench", "attention", "--phase", "decode,prefill", "--heads", "2", "--kv-heads", "1", "--head-dim", "8", "--q-len", "3",
        "--kv-len", "10", "-r", "1");
    expect(0, "");
    assert_int_equal(count_lines(), 3);
    assert_non_null(strstr(run.out, "prefill gqa"));
}

static void test_bench_attention_file(void **state) {
    (void)state;
    char path[4096];
    need_model();
    snprintf(path, sizeof path, "%s/attend-h8g2d128-q5k64.safetensors", run.golden);
    MKA("bench", "attention", "--kv", path, "--heads", "8", "--kv-heads", "2", "--kv-len", "100", "-r", "1", "--json");
    expect(0, "");
    json_decref(json_out());
    MKA("bench", "attention", "--kv", path, "--heads", "8", "--kv-heads", "4", "--kv-len", "100", "-r", "1");
    expect(1, "2 key/value heads of width 128; the rows ask for 4 of 128");
    MKA("bench", "attention", "--kv", run.model, "-r", "1");
    expect(1, "tensor in.k is missing");
    MKA("bench", "attention", "--kv", "no-such-file", "-r", "1");
    expect(1, "no-such-file");
}

static void test_bench_model(void **state) {
    (void)state;
    static const char *const fields[] = {"phase", "depth",   "tok_s", "kv_type", "memory", "threads",     "tokens",
                                         "bytes", "repeats", "model", "fill",    "cpu",    "weight_type", NULL};
    MKA("bench", "model", "--shape", "tiny", "--depth", "0,50", "-n", "3", "--prompt-tokens", "7", "-r", "2", "-t", "1,2", "-ctk",
        "f32", "--json");
    expect(0, "");
    assert_int_equal(count_lines(), 8);
    for (int i = 0; i < 8; i++) {
        json_t *row = json_line(i);
        has_fields(row, fields);
        has_spread(row, "tok_s");
        assert_string_equal(json_string_value(json_object_get(row, "phase")), i % 2 ? "decode" : "prefill");
        assert_int_equal(json_integer_value(json_object_get(row, "depth")), i < 4 ? 0 : 50);
        assert_int_equal(json_integer_value(json_object_get(row, "tokens")), i % 2 ? 3 : 7);
        assert_int_equal(json_integer_value(json_object_get(row, "threads")), i % 4 < 2 ? 1 : 2);
        assert_string_equal(json_string_value(json_object_get(row, "kv_type")), "f32/f16");
        assert_string_equal(json_string_value(json_object_get(row, "fill")), "random");
        assert_int_equal(json_object_get(row, "limit") != NULL, i % 2);
        json_decref(row);
    }
    MKA("bench", "model", "--shape", "tiny", "--variant", "gqa,fastmka,mka", "--phase", "decode", "--depth", "9", "-n", "2", "-r",
        "2", "--json");
    expect(0, "");
    for (int i = 0; i < 3; i++) {
        static const char *const variants[] = {"gqa", "fastmka", "mka"};
        json_t *routed = json_line(i);
        assert_string_equal(json_string_value(json_object_get(routed, "attention")), variants[i]);
        has_spread(routed, "tok_s");
        json_decref(routed);
    }
    need_model();
    MKA("bench", "model", "-m", run.model, "--phase", "prompt", "--prompt-tokens", "5", "--depth", "9", "-r", "1", "--json");
    expect(0, "");
    json_t *row = json_out();
    assert_string_equal(json_string_value(json_object_get(row, "fill")), "model");
    assert_string_equal(json_string_value(json_object_get(row, "phase")), "prefill");
    json_decref(row);
    MKA("bench", "model", "-m", run.model, "-r", "1", "-n", "2");
    expect(0, "");
    assert_non_null(strstr(run.out, "tok/s"));
}

/* ---- damaged models ---- */

static unsigned char *model_bytes(size_t *length) {
    FILE *file = fopen(run.model, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*length);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *length, file), *length);
    fclose(file);
    return bytes;
}

static unsigned char *find(unsigned char *bytes, size_t length, const char *name) {
    unsigned char *at = memmem(bytes, length, name, strlen(name));
    assert_non_null(at);
    return at;
}

/* Writes the bytes as a model file and runs generate on it. */
static void try_model(const unsigned char *bytes, size_t length, const char *said) {
    char path[] = "/tmp/mka-test-XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, bytes, length), length);
    close(descriptor);
    MKA("generate", "-m", path, "-p", "hello", "-n", "1");
    unlink(path);
    expect(1, said);
    assert_non_null(strstr(run.err, path));
    assert_string_equal(run.out, "");
}

static void test_damaged_models(void **state) {
    (void)state;
    need_model();
    size_t length;
    unsigned char *bytes = model_bytes(&length);
    try_model((const unsigned char *)"this is a text, not a model", 27, "");
    try_model(bytes, 0, "");
    try_model(bytes, 11, "");
    try_model(bytes, length / 2, "");
    try_model(bytes, length - 1, "");
    /* An architecture of the same length that nobody knows. */
    unsigned char *key = find(bytes, length, "general.architecture"), *value = key + strlen("general.architecture") + 12;
    assert_memory_equal(value, "llama", 5);
    value[0] = 'x';
    try_model(bytes, length, "xlama");
    value[0] = 'l';
    /* A tensor's type, behind its name, dimensions (two of them) and their count. */
    unsigned char *name = find(bytes, length, "blk.0.attn_q.weight"), *type = name + strlen("blk.0.attn_q.weight") + 4 + 16;
    unsigned char before = type[0];
    type[0] = 200;
    try_model(bytes, length, "blk.0.attn_q.weight");
    type[0] = before;
    name[6] = 'X'; /* blk.0.Xttn_q.weight: attn_q is missing */
    try_model(bytes, length, "blk.0.attn_q.weight");
    name[6] = 'a';
    /* One row fewer than the heads need: the first dimension is the row's width. */
    unsigned char *rows = name + strlen("blk.0.attn_q.weight") + 4 + 8;
    rows[0]--;
    try_model(bytes, length, "blk.0.attn_q.weight");
    free(bytes);
}

/* ---- check ---- */

static void test_check(void **state) {
    (void)state;
    static const char *const fields[] = {"file",        "kind",        "device",   "cpu",   "passed",
                                         "max_abs_err", "max_rel_err", "compared", "grads", NULL};
    char path[4096];
    need_model();
    MKA("check", "--json", "/dev/null");
    expect(1, "");
    json_t *object = json_out();
    has_fields(object, fields);
    assert_true(json_is_false(json_object_get(object, "passed")));
    json_decref(object);
    MKA("check", run.model);
    expect(1, "");
    assert_non_null(strstr(run.out, "not a golden file"));
    snprintf(path, sizeof path, "%s/fastmka-2level.safetensors", run.golden);
    MKA("check", "--json", path);
    expect(0, "");
    object = json_out();
    has_fields(object, fields);
    assert_true(json_is_true(json_object_get(object, "passed")));
    assert_int_equal(json_integer_value(json_object_get(object, "compared")), 4);
    json_decref(object);
    snprintf(path, sizeof path, "%s/models/arch-llama.json", run.golden);
    MKA("check", "-m", run.model, path, "--json");
    expect(0, "");
    object = json_out();
    has_fields(object, fields);
    json_decref(object);
}

/* A check that cannot fail proves nothing: a value that is off by 1e-4, and a hostile configuration. */
static void test_check_fails(void **state) {
    (void)state;
    need_model();
    char source[4096], path[] = "/tmp/mka-test-XXXXXX";
    static unsigned char bytes[ROOM];
    snprintf(source, sizeof source, "%s/attend-h4g4d64-q1k1.safetensors", run.golden);
    FILE *file = fopen(source, "rb");
    if (file == NULL) {
        print_message("skipped: %s is not there\n", source);
        skip();
    }
    size_t length = fread(bytes, 1, sizeof bytes, file), header;
    fclose(file);
    uint64_t stated;
    memcpy(&stated, bytes, 8);
    header = 8 + (size_t)stated;
    unsigned begin = 0, end = 0;
    unsigned char *entry = find(bytes, header, "\"out.y\""),
                  *offsets = find(entry, (size_t)(bytes + header - entry), "\"data_offsets\":[");
    assert_int_equal(sscanf((const char *)offsets, "\"data_offsets\":[%u,%u", &begin, &end), 2);
    float value;
    memcpy(&value, bytes + header + begin, sizeof value);
    value += value >= 0 ? 1e-3F : -1e-3F;
    memcpy(bytes + header + begin, &value, sizeof value);
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, bytes, length), length);
    MKA("check", path);
    expect(1, "");
    assert_non_null(strstr(run.out, "FAIL out.y"));
    unsigned char *heads = find(bytes, header, "kv_heads\\\": 4");
    heads[strlen("kv_heads\\\": ")] = '3';
    assert_int_equal(pwrite(descriptor, bytes, length, 0), length);
    close(descriptor);
    MKA("check", path);
    unlink(path);
    expect(1, "");
    assert_non_null(strstr(run.out, "kv_heads does not divide heads"));
}

int main(int argc, char **argv) {
    if (!open_run(argc, argv)) return 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage_errors),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_output_is_checked),
        cmocka_unit_test(test_closed_pipe),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_numa),
        cmocka_unit_test(test_generate_json),
        cmocka_unit_test(test_prompt_sources),
        cmocka_unit_test(test_contexts),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_eval),
        cmocka_unit_test(test_bench_limits),
        cmocka_unit_test(test_bench_attention),
        cmocka_unit_test(test_bench_attention_file),
        cmocka_unit_test(test_bench_model),
        cmocka_unit_test(test_damaged_models),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_check_fails),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    close_run();
    return failed;
}
