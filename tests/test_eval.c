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
    MKA("eval", "recall", "-m", run.model, "-f", run.text, "-c", "400", "--max-tokens", "20", "--window", "64", "--json",        \
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
    RECALL("--recall", "tokens=16");
    expect(0, "");
    all = json_line(-1);
    assert_true(number(all, "tokens_read") <= 16 && number(all, "lost_mass") > 0);
    json_decref(all);
}

static void test_recall_text(void **state) {
    (void)state;
    need_model();
    MKA("eval", "recall", "-m", run.model, "-f", run.text, "-c", "400", "--max-tokens", "20", "--window", "64", "--layers");
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
        cmocka_unit_test(test_recall),
        cmocka_unit_test(test_recall_contracts),
        cmocka_unit_test(test_recall_text),
        cmocka_unit_test(test_ppl_memory),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(run.text);
    return failed;
}
