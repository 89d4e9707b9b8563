/* test_limits - the machine's limits: the loops do what they say at every level, samples are of what was asked, and what cannot
 * be asked is refused. How fast anything is is not tested: that is the machine's matter. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mka/profile.h>

#include "base/topology.h"
#include "kernels.h"

static mka_engine *engine_of(int threads, const char *level) {
    mka_engine_options options;
    mka_engine_defaults(&options);
    options.threads = threads;
    options.cpu = level;
    options.bind = 0;
    mka_engine *engine;
    mka_error error;
    if (mka_engine_create(&options, &engine, &error)) fail_msg("%s", error.message);
    return engine;
}

/* Every byte of every run is in the mixture, which is the exclusive or of all words, and nothing behind them is. */
static void read_loops_read_all(void **state) {
    (void)state;
    enum { WORDS = 8 * 3 * MKA_READ_STEP / 8 };
    static uint64_t data[WORDS + 16];
    const char *levels[16];
    int count = mka_kernels_levels(levels);
    for (size_t i = 0; i < WORDS + 16; i++) data[i] = (i + 1) * 0x9e3779b97f4a7c15u;
    for (int l = 0; l < count; l++) {
        mka_read_fn *read = mka_kernels_get(levels[l])->peaks.read;
        assert_non_null(read);
        for (int streams = 1; streams <= 8; streams *= 2)
            for (size_t steps = 0; steps <= 3; steps++) {
                uint64_t wanted = 0;
                size_t bytes = steps * MKA_READ_STEP;
                for (size_t i = 0; i < (size_t)streams * bytes / 8; i++) wanted ^= data[i];
                if (read(data, bytes, streams, 0) != wanted || read(data, bytes, streams, 512) != wanted)
                    fail_msg("level %s, %d runs of %zu bytes: not all was read", levels[l], streams, bytes);
            }
    }
}

/* Operations are counted as rounds go, and every level has float32. */
static void units_count_operations(void **state) {
    (void)state;
    const char *levels[16];
    int count = mka_kernels_levels(levels);
    for (int l = 0; l < count; l++) {
        const mka_peaks *peaks = &mka_kernels_get(levels[l])->peaks;
        assert_non_null(peaks->unit[MKA_UNIT_F32]);
        for (int unit = 0; unit < MKA_UNITS; unit++) {
            float sink = 0;
            if (!peaks->unit[unit]) continue;
            double one = peaks->unit[unit](1, &sink);
            assert_true(one >= 16 && peaks->unit[unit](0, &sink) == 0);
            assert_true(peaks->unit[unit](1000, &sink) == 1000 * one);
            assert_true(isfinite(sink));
        }
    }
}

static void samples_are_positive(void **state) {
    (void)state;
    mka_engine *engine = engine_of(2, NULL);
    mka_limits *limits;
    mka_error error;
    double rate;
    assert_int_equal(mka_limits_create(engine, 1 << 20, -1, &limits, &error), MKA_OK);
    static const size_t sizes[] = {4096, 5000, 65536, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int threads = 1; threads <= 2; threads++) {
            assert_int_equal(mka_limits_read(limits, sizes[i], threads, &rate, &error), MKA_OK);
            assert_true(rate > 0 && isfinite(rate));
            assert_int_equal(mka_limits_copy(limits, sizes[i], threads, &rate, &error), MKA_OK);
            assert_true(rate > 0 && isfinite(rate));
        }
    for (int unit = 0; unit < MKA_UNITS; unit++) {
        mka_status status = mka_limits_compute(engine, (mka_unit)unit, 2, &rate, &error);
        assert_int_equal(status, mka_limits_has(engine, (mka_unit)unit) ? MKA_OK : MKA_UNSUPPORTED);
        if (status == MKA_OK) assert_true(rate > 0 && isfinite(rate));
    }
    mka_limits_destroy(limits);
    mka_limits_destroy(NULL);
    mka_engine_destroy(engine);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    mka_engine *engine = engine_of(1, "scalar");
    mka_limits *limits, *none = (mka_limits *)&limits;
    mka_error error;
    double rate;
    assert_int_equal(mka_limits_create(engine, 8192, -1, &limits, &error), MKA_OK);
    assert_int_equal(mka_limits_read(limits, 4095, 1, &rate, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_limits_read(limits, 8193, 1, &rate, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_limits_copy(limits, 8192, 0, &rate, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_limits_read(limits, 8192, 2, &rate, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_limits_compute(engine, MKA_UNIT_F32, 2, &rate, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_limits_compute(engine, MKA_UNIT_AMX_I8, 1, &rate, &error), MKA_UNSUPPORTED);
    assert_non_null(strstr(error.message, "scalar"));
    assert_int_equal(mka_limits_compute(engine, MKA_UNITS, 1, &rate, &error), MKA_UNSUPPORTED);
    assert_int_equal(mka_limits_has(engine, (mka_unit)-1), 0);
    assert_string_equal(mka_unit_name(MKA_UNIT_BF16), "bf16");
    assert_string_equal(mka_unit_name(MKA_UNITS), "unknown");
    mka_limits_destroy(limits);
    assert_int_equal(mka_limits_create(engine, 8192, 1000, &none, &error), MKA_BAD_ARGUMENT);
    assert_null(none);
    assert_non_null(strstr(error.message, "node 1000"));
    assert_int_equal(mka_limits_create(engine, (size_t)1 << 60, -1, &none, &error), MKA_NO_MEMORY);
    assert_null(none);
    mka_engine_destroy(engine);
}

/* A described machine has nodes, but no memory to put anything on. */
static void places_nothing_elsewhere(void **state) {
    (void)state;
    mka_topology *topology;
    mka_error error;
    static char page[4096];
    assert_int_equal(mka_topology_create("numa:2 core:2 pu:1", &topology, &error), MKA_OK);
    assert_int_equal(mka_topology_place(topology, page, sizeof page, 1, &error), MKA_UNSUPPORTED);
    assert_int_equal(mka_topology_place(topology, page, sizeof page, 2, &error), MKA_BAD_ARGUMENT);
    assert_int_equal(mka_topology_place(topology, page, sizeof page, -1, &error), MKA_BAD_ARGUMENT);
    mka_topology_destroy(topology);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_loops_read_all), cmocka_unit_test(units_count_operations),   cmocka_unit_test(samples_are_positive),
        cmocka_unit_test(nonsense_is_refused), cmocka_unit_test(places_nothing_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
