/* test_eval - the tasks of `mka eval` as a user or a script meets them. Argument: the program. MKA_SHARED names the folder with
 * golden models; what needs one is skipped without. What the tiny model says makes no sense: what is tested is that both memories
 * are compared, that the sums are what the tiers promise, and that the same seed gives the same answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROOM = 1 << 20, MOST_WORDS = 40 };

static struct {
    const char *program;
    char model[4096]; /* a tiny llama, or empty */
    char text[64];    /* a file of running words */
    char out[ROOM], err[ROOM];
    int status;
} run;

/* ---- running ---- */

static void read_back(FILE *file, char *text) {
    rewind(file);
    text[fread(text, 1, ROOM - 1, file)] = '\0';
    fclose(file);
}

static void mka(const char *const *words) {
    char *argv[MOST_WORDS + 2] = {(char *)run.program};
    FILE *out = tmpfile(), *err = tmpfile();
    assert_true(out != NULL && err != NULL);
    for (int i = 0; words[i] != NULL && i < MOST_WORDS; i++) argv[i + 1] = (char *)words[i];
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fileno(out), 1);
        dup2(fileno(err), 2);
        unsetenv("MKA_LOG");
        execv(argv[0], argv);
        _exit(99);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    read_back(out, run.out);
    read_back(err, run.err);
    run.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define MKA(...) mka((const char *const[]){__VA_ARGS__, NULL})

static void expect(int status, const char *said) {
    if (run.status == status && strstr(run.err, said) != NULL) return;
    fail_msg("exit status %d (expected %d), standard error '%s' (expected '%s' in it)", run.status, status, run.err, said);
}

/* Line number index of the output (-1: the last), one object a line. */
static json_t *json_line(int index) {
    const char *at = run.out;
    json_error_t error;
    if (index < 0)
        for (const char *c = run.out; *c != '\0'; c++)
            if (*c == '\n' && c[1] != '\0') at = c + 1;
    for (; index > 0 && at != NULL; index--) at = strchr(at, '\n') != NULL ? strchr(at, '\n') + 1 : NULL;
    json_t *object = at != NULL ? json_loads(at, JSON_DISABLE_EOF_CHECK, &error) : NULL;
    if (object == NULL) fail_msg("line %d is no JSON object: '%s'", index, run.out);
    return object;
}

static int count_lines(void) {
    int count = 0;
    for (const char *c = run.out; *c != '\0'; c++) count += *c == '\n';
    return count;
}

static double number(const json_t *object, const char *field) {
    const json_t *value = json_object_get(object, field);
    if (!json_is_number(value)) fail_msg("field '%s' is no number in %s", field, run.out);
    return json_number_value(value);
}

static const char *string(const json_t *object, const char *field) {
    const char *value = json_string_value(json_object_get(object, field));
    if (value == NULL) fail_msg("field '%s' is no string in %s", field, run.out);
    return value;
}

static void need_model(void) {
    if (run.model[0] != '\0') return;
    print_message("skipped: no golden models beside the project\n");
    skip();
}

/* ---- recall ---- */

#define RECALL(...)                                                                                                              \
    MKA("eval", "recall", "-m", run.model, "-f", run.text, "-c", "420", "--max-tokens", "20", "--window", "64", "--json",        \
        __VA_ARGS__)

static void test_recall(void **state) {
    (void)state;
    need_model();
    RECALL("--recall", "auto");
    expect(0, "");
    double bytes = 0;
    int lines = count_lines();
    assert_true(lines > 1);
    for (int i = 0; i < lines - 1; i++) {
        json_t *head = json_line(i);
        assert_true(number(head, "layer") >= 0 && number(head, "head") >= 0);
        assert_true(number(head, "tokens_read") <= number(head, "long_tokens") && number(head, "long_tokens") > 0);
        assert_true(number(head, "lost_mass") >= 0 && number(head, "lost_mass") < 1);
        assert_true(number(head, "queries") == 20 && number(head, "compared") == 10);
        assert_true(json_is_null(json_object_get(head, "lost_mass_bound")));
        assert_true(number(head, "bytes_dense") > 0 && number(head, "output_rel_err") >= 0);
        bytes += number(head, "bytes_read");
        json_decref(head);
    }
    json_t *all = json_line(-1), *tiers = json_object_get(all, "bytes_by_tier");
    assert_true(number(all, "kl") >= 0 && number(all, "kl") <= number(all, "kl_max"));
    assert_true(number(all, "top1_agree") > 0.5 && number(all, "ppl") > 0 && number(all, "ppl_dense") > 0);
    assert_string_equal(string(all, "recall"), "auto");
    /* Bytes of the tiers are the heads' together, and all that attention read. */
    double sum = number(tiers, "local") + number(tiers, "session") + number(tiers, "longterm");
    assert_true(fabs(sum - bytes) < 1 && fabs(sum - number(all, "bytes_read")) < 1);
    json_decref(all);
}

/* Reading everything of a long-term tier in float32 is dense attention; a certified bound holds. */
static void test_recall_contracts(void **state) {
    (void)state;
    need_model();
    RECALL("--recall", "dense", "--kv-longterm", "f32", "--kv-local", "f32");
    expect(0, "");
    json_t *all = json_line(-1);
    assert_true(number(all, "kl") < 1e-6 && number(all, "top1_agree") == 1);
    assert_true(number(all, "tokens_read") == number(all, "long_tokens") && number(all, "unread_mass") == 0);
    json_decref(all);
    RECALL("--recall", "eps=0.05", "--prefill", "dense");
    expect(0, "");
    int lines = count_lines();
    for (int i = 0; i < lines; i++) {
        json_t *line = json_line(i);
        assert_true(number(line, "lost_mass") <= number(line, "lost_mass_bound"));
        assert_true(fabs(number(line, "lost_mass_bound") - 0.05) < 1e-6);
        json_decref(line);
    }
    RECALL("--recall", "auto", "--samples", "3", "-s", "4");
    expect(0, "");
    all = json_line(-1);
    json_t *head = json_line(0);
    assert_true(number(all, "samples") == 3 && number(all, "decoded") == 60);
    assert_true(number(head, "queries") == 60 && number(head, "compared") == 30);
    json_decref(head);
    json_decref(all);
    RECALL("--recall", "tokens=16");
    expect(0, "");
    all = json_line(-1);
    assert_true(number(all, "tokens_read") <= 16 && number(all, "lost_mass") > 0);
    json_decref(all);
}

static void test_recall_text(void **state) {
    (void)state;
    need_model();
    MKA("eval", "recall", "-m", run.model, "-f", run.text, "-c", "420", "--max-tokens", "20", "--window", "64", "--layers");
    expect(0, "");
    assert_non_null(strstr(run.out, "KL from dense"));
    assert_non_null(strstr(run.out, "lost %"));
    MKA("eval", "recall", "-m", run.model, "-f", run.text, "-c", "1000000");
    expect(1, "tokens are too few for -c 1000000");
    MKA("eval", "recall", "-m", run.model, "-f", run.text, "-c", "1200");
    expect(1, "is too small");
}

/* ---- ppl ---- */

static void test_ppl_memory(void **state) {
    (void)state;
    need_model();
    static const char *const modes[] = {"dense", "tiered"};
    double nll[2];
    for (int i = 0; i < 2; i++) {
        MKA("eval", "ppl", "-m", run.model, "-f", run.text, "-c", "400", "--max-tokens", "400", "--window", "64", "--memory",
            modes[i], "--json");
        expect(0, "");
        json_t *all = json_line(-1), *memory = json_object_get(all, "memory");
        nll[i] = number(all, "nll");
        assert_string_equal(string(memory, "mode"), modes[i]);
        assert_string_equal(string(memory, "recall"), i ? "auto" : "dense");
        assert_true((number(memory, "long_tokens") > 0) == i);
        assert_true(number(json_object_get(memory, "bytes_by_tier"), "local") > 0);
        json_decref(all);
    }
    assert_true(fabs(nll[0] - nll[1]) < 0.05);
}

/* ---- needle ---- */

static void test_needle(void **state) {
    (void)state;
    need_model();
    char svg[] = "/tmp/mka-test-XXXXXX", *first = NULL;
    int descriptor = mkstemp(svg);
    assert_true(descriptor >= 0);
    close(descriptor);
    for (int i = 0; i < 2; i++) {
        MKA("eval", "needle", "-m", run.model, "-f", run.text, "--lengths", "300,500", "--depths", "0,100", "--samples", "2",
            "--window", "64", "-s", "5", "--json", "--svg", svg);
        expect(0, "");
        assert_int_equal(count_lines(), 5);
        if (i == 0) first = strdup(run.out);
    }
    assert_string_equal(run.out, first); /* the same seed, the same answer */
    free(first);
    for (int i = 0; i < 5; i++) {
        json_t *cell = json_line(i);
        assert_string_equal(string(cell, "task"), "needle");
        assert_string_equal(string(cell, "memory"), "tiered");
        assert_true(number(cell, "score") >= 0 && number(cell, "score_dense") <= 1 && number(cell, "logprob") < 0);
        assert_true(fabs(number(cell, "logprob") - number(cell, "logprob_dense")) < 0.5);
        if (i < 4) assert_true(number(cell, "length") == (i % 2 ? 500 : 300) && number(cell, "depth") == (i / 2 ? 100 : 0));
        if (i == 4) assert_true(number(json_object_get(cell, "memory_used"), "long_tokens") > 0);
        json_decref(cell);
    }
    FILE *file = fopen(svg, "r");
    assert_non_null(file);
    read_back(file, run.err);
    unlink(svg);
    assert_non_null(strstr(run.err, "<svg"));
    assert_non_null(strstr(run.err, "</svg>"));
    MKA("eval", "needle", "-m", run.model, "-f", run.text, "--lengths", "300", "--samples", "1", "--memory", "dense");
    expect(0, "");
    assert_non_null(strstr(run.out, "dense   tokens"));
    assert_null(strstr(run.out, "tiered"));
    assert_null(strstr(run.out, "\033"));
    MKA("eval", "needle", "-m", run.model, "-f", run.text, "--lengths", "16");
    expect(1, "too short for this task; it needs at least");
    MKA("eval", "needle", "-m", run.model, "-f", run.text, "--lengths", "300", "-c", "310");
    expect(2, "do not fit in -c 310");
    MKA("eval", "needle", "-m", run.model, "-f", run.text, "--lengths", "900000");
    expect(1, "are too few for prompts of 900000");
    MKA("eval", "needle", "-m", run.model, "-f", "/dev/null");
    expect(1, "tokens of text are too few");
    MKA("eval", "needle", "-m", run.model, "-f", run.text, "--lengths", "300", "--samples", "1", "--svg",
        "/no-such-folder/x.svg");
    expect(1, "cannot write /no-such-folder/x.svg: No such file");
}

/* ---- ruler ---- */

static void test_ruler(void **state) {
    (void)state;
    need_model();
    MKA("eval", "ruler", "-m", run.model, "-f", run.text, "--lengths", "900", "--samples", "1", "--window", "64", "--json");
    expect(0, "");
    assert_int_equal(count_lines(), 10);
    for (int i = 0; i < 9; i++) {
        json_t *row = json_line(i);
        assert_true(string(row, "task")[0] != '\0');
        assert_true(number(row, "length") == 900 && number(row, "samples") == 1);
        assert_true(number(row, "score") >= 0 && number(row, "score") <= 1 && number(row, "score_dense") <= 1);
        json_decref(row);
    }
    json_t *all = json_line(-1);
    assert_true(json_is_null(json_object_get(all, "task")));
    assert_true(number(json_object_get(all, "memory_used"), "long_tokens") > 0);
    json_decref(all);
    MKA("eval", "ruler", "single", "two-hop", "-m", run.model, "-f", run.text, "--lengths", "700,800", "--samples", "2");
    expect(0, "");
    assert_int_equal(count_lines(), 6);
    MKA("eval", "ruler", "twohop", "-m", run.model, "-f", run.text);
    expect(2, "did you mean two-hop?");
    MKA("eval", "ruler", "chess", "-m", run.model, "-f", run.text);
    expect(2, "unknown task 'chess'; one of single, multi-key");
    MKA("eval", "ruler", "-m", run.model, "-f", run.text, "--lengths", "40");
    expect(1, "too short for this task; it needs at least");
}

/* ---- qa ---- */

/* Writes lines to a file and asks it. */
static void ask(const char *lines, const char *context) {
    char path[] = "/tmp/mka-test-XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, lines, strlen(lines)), strlen(lines));
    close(descriptor);
    MKA("eval", "qa", path, "-m", run.model, "-c", context, "-n", "8", "--json");
    unlink(path);
}

static void test_qa(void **state) {
    (void)state;
    need_model();
    ask("{\"input\": \"Where?\", \"context\": \"Here it was, and nowhere else.\", \"answers\": [\"here\", \"Here!\"], "
        "\"length\": 6}\n\n"
        "{\"input\": \"Who?\", \"context\": \"A cat.\", \"answers\": [\"a cat\"]}",
        "72");
    expect(0, "");
    assert_int_equal(count_lines(), 3);
    json_t *first = json_line(0), *second = json_line(1), *all = json_line(2);
    assert_true(number(first, "line") == 1 && number(second, "line") == 3);
    assert_true(number(first, "prompt_tokens") == 64 && number(first, "cut_tokens") > 0); /* 72 less the answer */
    assert_true(number(first, "f1") >= 0 && number(first, "f1_dense") <= 1);
    assert_true(number(all, "samples") == 2);
    assert_true(fabs(number(all, "score") - (number(first, "f1") + number(second, "f1")) / 2) < 1e-6);
    json_decref(first);
    json_decref(second);
    json_decref(all);
    static const struct {
        const char *lines, *said;
    } bad[] = {
        {"", "there is no question in it"},
        {"{\"input\": \"a\", \"context\": \"b\", \"answers\": [\"c\"]}\nhello\n", "line 2 is not JSON"},
        {"[1]\n", "line 1 is not"},
        {"\n{\"input\": 1, \"context\": \"b\", \"answers\": [\"c\"]}\n", "line 2: field 'input'"},
        {"{\"input\": \"a\", \"answers\": [\"c\"]}\n", "line 1: field 'context'"},
        {"{\"input\": \"a\", \"context\": \"b\", \"answers\": \"c\"}\n", "line 1: field 'answers'"},
        {"{\"input\": \"a\", \"context\": \"b\", \"answers\": [1]}\n", "an entry of 'answers'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ask(bad[i].lines, "128");
        expect(1, bad[i].said);
        assert_string_equal(run.out, "");
    }
    ask("{\"input\": \"a\", \"context\": \"b\", \"answers\": [\"c\"]}", "20");
    expect(2, "give -c 72 or more");
    MKA("eval", "qa", "no-such-file", "-m", run.model);
    expect(1, "no-such-file");
    MKA("eval", "qa", "-m", run.model);
    expect(2, "which questions?");
}

/* ---- a text ---- */

static void write_text(void) {
    static const char *const words[] = {"the",   "river",    "went", "on",     "and",  "a",     "light",
                                        "stood", "over",     "old",  "houses", "of",   "which", "nobody",
                                        "said",  "anything", "but",  "rain",   "came", "down"};
    strcpy(run.text, "/tmp/mka-test-XXXXXX");
    int descriptor = mkstemp(run.text);
    FILE *file = descriptor >= 0 ? fdopen(descriptor, "w") : NULL;
    if (file == NULL) exit(2);
    uint32_t state = 1;
    for (int i = 0; i < 6000; i++) {
        state = state * 1664525U + 1013904223U;
        fprintf(file, "%s%s", words[(state >> 16) % 20], i % 13 == 12 ? ".\n" : " ");
    }
    fclose(file);
}

int main(int argc, char **argv) {
    const char *shared = getenv("MKA_SHARED");
    if (argc != 2) {
        fprintf(stderr, "usage: MKA_SHARED=FOLDER test_eval PROGRAM\n");
        return 2;
    }
    run.program = argv[1];
    snprintf(run.model, sizeof run.model, "%s/golden/models/arch-llama.gguf", shared != NULL ? shared : ".");
    if (access(run.model, R_OK) != 0) run.model[0] = '\0';
    write_text();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recall),     cmocka_unit_test(test_recall_contracts), cmocka_unit_test(test_recall_text),
        cmocka_unit_test(test_ppl_memory), cmocka_unit_test(test_needle),           cmocka_unit_test(test_ruler),
        cmocka_unit_test(test_qa),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(run.text);
    return failed;
}
