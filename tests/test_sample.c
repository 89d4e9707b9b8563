/* test_sample - choosing tokens: greedy and its ties, what each cut leaves, the draw's frequencies, seeds, and the repeat
 * penalty. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mka/session.h>

enum { VOCABULARY = 8, DRAWS = 20000 };

/* Everything off: plain sampling at temperature 1. */
static mka_sampler_options plain(void) {
    mka_sampler_options options;
    mka_sampler_defaults(&options);
    options.temperature = 1;
    options.top_k = 0;
    options.top_p = 1;
    options.min_p = 0;
    options.seed = 42;
    return options;
}

static mka_sampler *sampler_of(const mka_sampler_options *options) {
    mka_sampler *sampler;
    mka_error error;
    if (mka_sampler_create(options, VOCABULARY, &sampler, &error)) fail_msg("%s", error.message);
    return sampler;
}

/* How often each token is drawn. */
static void count(const mka_sampler_options *options, const float *logits, int *counts) {
    mka_sampler *sampler = sampler_of(options);
    memset(counts, 0, VOCABULARY * sizeof *counts);
    for (int i = 0; i < DRAWS; i++) {
        int token = mka_sampler_next(sampler, logits);
        assert_in_range(token, 0, VOCABULARY - 1);
        counts[token]++;
    }
    mka_sampler_destroy(sampler);
}

static const float logits[VOCABULARY] = {0.0F, 1.0F, 2.0F, 3.0F, 2.5F, -1.0F, -4.0F, 0.5F};

static void greedy_takes_the_largest(void **state) {
    (void)state;
    mka_sampler_options options = plain();
    options.temperature = 0;
    mka_sampler *sampler = sampler_of(&options);
    assert_int_equal(mka_sampler_next(sampler, logits), 3);
    const float tie[VOCABULARY] = {1, 7, 3, 7, 7, 0, 0, 0};
    assert_int_equal(mka_sampler_next(sampler, tie), 1);
    const float holes[VOCABULARY] = {NAN, -INFINITY, NAN, -5, NAN, -6, NAN, NAN};
    assert_int_equal(mka_sampler_next(sampler, holes), 3);
    float none[VOCABULARY];
    for (int i = 0; i < VOCABULARY; i++) none[i] = NAN;
    assert_int_equal(mka_sampler_next(sampler, none), -1);
    mka_sampler_destroy(sampler);
}

/* Frequencies are the softmax at the temperature, within five standard deviations. */
static void draws_follow_the_softmax(void **state) {
    (void)state;
    for (int turn = 0; turn < 2; turn++) {
        mka_sampler_options options = plain();
        options.temperature = turn ? 0.5F : 1.0F;
        int counts[VOCABULARY];
        count(&options, logits, counts);
        double sum = 0;
        for (int i = 0; i < VOCABULARY; i++) sum += exp((double)logits[i] / (double)options.temperature);
        for (int i = 0; i < VOCABULARY; i++) {
            double p = exp((double)logits[i] / (double)options.temperature) / sum, spread = sqrt(DRAWS * p * (1 - p));
            if (fabs(counts[i] - DRAWS * p) > 5 * spread + 1)
                fail_msg("token %d came %d times, expected %.0f", i, counts[i], DRAWS * p);
        }
    }
}

/* Only the tokens of allowed (a bit each) come, and all of them do. */
static void expect_only(const mka_sampler_options *options, unsigned allowed) {
    int counts[VOCABULARY];
    count(options, logits, counts);
    for (int i = 0; i < VOCABULARY; i++)
        if ((counts[i] > 0) != (int)(allowed >> i & 1)) fail_msg("token %d came %d times", i, counts[i]);
}

static void cuts_leave_what_they_say(void **state) {
    (void)state;
    mka_sampler_options options = plain();
    options.top_k = 1;
    expect_only(&options, 1U << 3);
    options.top_k = 3;
    expect_only(&options, 1U << 3 | 1U << 4 | 1U << 2);
    options = plain();
    options.top_p = 0.4F; /* the largest has 0.44 */
    expect_only(&options, 1U << 3);
    options.top_p = 0.5F;
    expect_only(&options, 1U << 3 | 1U << 4);
    options = plain();
    options.min_p = 0.5F; /* exp(-0.5) = 0.61 stays, exp(-1) = 0.37 goes */
    expect_only(&options, 1U << 3 | 1U << 4);
}

static void seeds_repeat(void **state) {
    (void)state;
    mka_sampler_options options = plain();
    mka_sampler *a = sampler_of(&options), *b = sampler_of(&options);
    options.seed = 43;
    mka_sampler *other = sampler_of(&options);
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        int token = mka_sampler_next(a, logits);
        assert_int_equal(mka_sampler_next(b, logits), token);
        differ += mka_sampler_next(other, logits) != token;
    }
    assert_true(differ > 20);
    mka_sampler_destroy(a);
    mka_sampler_destroy(b);
    mka_sampler_destroy(other);
}

static void repeats_are_penalised(void **state) {
    (void)state;
    mka_sampler_options options = plain();
    options.temperature = 0;
    options.repeat_penalty = 2;
    options.repeat_last = 2;
    const float close[VOCABULARY] = {0, 0, 0, 3.0F, 2.5F, 2.0F, -1.0F, -1.5F};
    mka_sampler *sampler = sampler_of(&options);
    assert_int_equal(mka_sampler_next(sampler, close), 3);
    assert_int_equal(mka_sampler_next(sampler, close), 4); /* 3 stands at 1.5 */
    assert_int_equal(mka_sampler_next(sampler, close), 5); /* 4 at 1.25 */
    assert_int_equal(mka_sampler_next(sampler, close), 3); /* forgotten after two tokens */
    mka_sampler_accept(sampler, 4);
    mka_sampler_accept(sampler, 3);
    assert_int_equal(mka_sampler_next(sampler, close), 5);
    mka_sampler_destroy(sampler);
}

static void bad_options_are_named(void **state) {
    (void)state;
    mka_sampler *sampler;
    mka_error error;
    mka_sampler_options options = plain();
    options.top_p = 0;
    assert_int_equal(mka_sampler_create(&options, VOCABULARY, &sampler, &error), MKA_BAD_ARGUMENT);
    assert_non_null(strstr(error.message, "top-p"));
    assert_null(sampler);
    options = plain();
    options.min_p = 2;
    assert_int_equal(mka_sampler_create(&options, VOCABULARY, &sampler, &error), MKA_BAD_ARGUMENT);
    options = plain();
    options.repeat_penalty = 0;
    assert_int_equal(mka_sampler_create(&options, VOCABULARY, &sampler, &error), MKA_BAD_ARGUMENT);
    options = plain();
    options.temperature = NAN;
    assert_int_equal(mka_sampler_create(&options, VOCABULARY, &sampler, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_sampler_create(NULL, 0, &sampler, &error), MKA_BAD_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_largest), cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(cuts_leave_what_they_say), cmocka_unit_test(seeds_repeat),
        cmocka_unit_test(repeats_are_penalised),    cmocka_unit_test(bad_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
