/* test_eval_texts - the prompts that the tasks of eval are made of, and the F1 that answers are scored by: every prompt has its
 * length and holds what is asked for, lists have the frequencies that the answers claim, and a seed says it all. MKA_SHARED names
 * the folder with golden models, whose tokenizer the prompts need; without it only F1 is tested. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/eval_f1.h"
#include "cli/eval_texts.h"

static char path[4096];

static struct {
    mka_cli cli;
    mka_eval e;
    mka_hay hay;
    char *text; /* of the last prompt */
} t;

enum { ROOM = 1 << 20 };

static int open_all(void **state) {
    (void)state;
    mka_error error;
    if (access(path, R_OK) != 0) return 0;
    t.e = (mka_eval){.cli = &t.cli};
    t.text = malloc(ROOM);
    char *words = malloc(ROOM);
    if (t.text == NULL || words == NULL || mka_engine_create(NULL, &t.e.engine, &error) != MKA_OK ||
        mka_model_load(t.e.engine, path, NULL, &t.e.model, &error) != MKA_OK)
        return -1;
    mka_model_get_info(t.e.model, &t.e.info);
    mka_model_special(t.e.model, &t.e.special);
    words[0] = '\0';
    for (size_t i = 0, used = 0; i < 20000; i++)
        used += (size_t)snprintf(words + used, ROOM - used, "%s%s", i % 11 == 10 ? ". " : " ", i % 2 ? "rain" : "went");
    t.e.file = words;
    t.e.text = words;
    t.e.length = strlen(words);
    return mka_hay_open(&t.e, 4000, &t.hay);
}

static int close_all(void **state) {
    (void)state;
    mka_hay_close(&t.hay);
    mka_eval_close(&t.e);
    free(t.text);
    return 0;
}

static void need_model(void) {
    if (t.e.model != NULL) return;
    print_message("skipped: no golden models beside the project\n");
    skip();
}

/* The prompt as text. */
static const char *prompt(const mka_sample *s) {
    size_t used = 0;
    for (size_t i = 0; i < s->count; i++) used += mka_token_piece(t.e.model, s->ids[i], 0, t.text + used, ROOM - 1 - used);
    t.text[used] = '\0';
    return t.text;
}

static int occurrences(const char *text, const char *word) {
    int count = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at++) count++;
    return count;
}

static void test_ruler(void **state) {
    (void)state;
    need_model();
    mka_sample a = {.ids = NULL}, b = {.ids = NULL}, c = {.ids = NULL};
    for (int task = 0; mka_ruler_tasks[task] != NULL; task++) {
        int list = strcmp(mka_ruler_tasks[task], "common-words") == 0 || strcmp(mka_ruler_tasks[task], "frequent-words") == 0 ||
                   strcmp(mka_ruler_tasks[task], "key-value") == 0;
        static const int answers[] = {1, 1, 4, 4, 5, 10, 3, 1, 1};
        assert_int_equal(mka_ruler_sample(&t.e, &t.hay, task, 3000, 7, &a), 0);
        assert_int_equal(mka_ruler_sample(&t.e, &t.hay, task, 3000, 7, &b), 0);
        assert_int_equal(mka_ruler_sample(&t.e, &t.hay, task, 3000, 8, &c), 0);
        assert_true(list ? a.count <= 3000 && a.count > 2700 : a.count == 3000);
        assert_true(a.count == b.count && memcmp(a.ids, b.ids, a.count * sizeof *a.ids) == 0);
        assert_true(a.count != c.count || memcmp(a.ids, c.ids, a.count * sizeof *a.ids) != 0);
        assert_int_equal(a.answer_count, answers[task]);
        const char *text = prompt(&a);
        for (int i = 0; i < a.answer_count; i++)
            if (strstr(text, a.answers[i]) == NULL)
                fail_msg("%s: '%s' is not in the prompt", mka_ruler_tasks[task], a.answers[i]);
    }
    mka_sample_free(&a);
    mka_sample_free(&b);
    mka_sample_free(&c);
}

/* The answers of the two lists are what stands there most often, in every length. */
static void test_frequencies(void **state) {
    (void)state;
    need_model();
    mka_sample s = {.ids = NULL};
    for (int task = 5; task <= 6; task++)
        for (size_t length = 700; length <= 3900; length += 400) {
            assert_int_equal(mka_ruler_sample(&t.e, &t.hay, task, length, length, &s), 0);
            const char *text = prompt(&s);
            int least = 1 << 30, most = 0;
            for (int i = 0; i < s.answer_count; i++) {
                int count = occurrences(text, s.answers[i]);
                if (count < least) least = count;
            }
            /* Every other word of the text's list, from one blank to the next. */
            const char *at = strchr(text, '\n'), *end = strstr(text, "\n\nWhat are");
            assert_true(at != NULL && end != NULL);
            for (at += strspn(at, " \n"); at < end; at += strspn(at, " \n")) {
                char word[64];
                size_t size = strcspn(at, " \n");
                snprintf(word, sizeof word, " %.*s ", (int)size, at);
                at += size;
                int answer = 0;
                for (int i = 0; i < s.answer_count; i++) answer |= strncmp(word + 1, s.answers[i], size) == 0;
                int count = answer || word[1] <= '9' ? 0 : occurrences(text, word);
                if (count > most) most = count;
            }
            assert_true(most > 0 || length < 1500);
            if (most >= least)
                fail_msg("%s, %zu tokens: an answer %d times, another word %d", mka_ruler_tasks[task], length, least, most);
        }
    mka_sample_free(&s);
}

static void test_needle(void **state) {
    (void)state;
    need_model();
    mka_sample s = {.ids = NULL};
    double last = -1;
    for (int depth = 0; depth <= 100; depth += 25) {
        assert_int_equal(mka_needle_sample(&t.e, &t.hay, 2000, depth, 3, &s), 0);
        assert_int_equal(s.count, 2000);
        const char *text = prompt(&s), *key = strstr(text, s.answers[0]);
        assert_int_equal(strlen(s.answers[0]), 5);
        assert_non_null(key);
        double at = (double)(key - text) / (double)strlen(text);
        assert_true(at > last && fabs(at - depth / 100.0) < 0.15);
        last = at;
    }
    assert_int_equal(mka_needle_sample(&t.e, &t.hay, 10, 0, 3, &s), 1); /* says that it is too short */
    assert_int_equal(mka_needle_sample(&t.e, &t.hay, 1 << 20, 0, 3, &s), 1);
    mka_sample_free(&s);
}

static void test_f1(void **state) {
    (void)state;
    static const struct {
        const char *answer, *wanted;
        double f1;
    } cases[] = {
        {"Paris", "paris", 1},
        {" The  Eiffel Tower.", "eiffel tower", 1},
        {"It's an apple", "its apple", 1},
        {"the cat sat", "a cat stood", 0.5}, /* cat of (cat, sat) and (cat, stood) */
        {"one two three four", "one two", 2 * 0.5 * 1 / 1.5},
        {"no no no", "no", 2 * (1 / 3.0) * 1 / (1 + 1 / 3.0)},
        {"", "word", 0},
        {"word", "", 0},
        {"the a an", "the", 0}, /* nothing is left */
        {"theatre", "the atre", 0},
        {"\xc3\x89t\xc3\xa9", "\xc3\x89t\xc3\xa9!", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double f1 = mka_f1(cases[i].answer, cases[i].wanted);
        if (fabs(f1 - cases[i].f1) > 1e-12)
            fail_msg("F1 of '%s' and '%s' is %g, expected %g", cases[i].answer, cases[i].wanted, f1, cases[i].f1);
    }
}

int main(void) {
    const char *shared = getenv("MKA_SHARED");
    snprintf(path, sizeof path, "%s/golden/models/arch-llama.gguf", shared != NULL ? shared : ".");
    mka_cli_options_defaults(&t.cli.options);
    t.cli.options.file = "the text";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f1),
        cmocka_unit_test(test_ruler),
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_needle),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
