/* test_no_platform - a machine with an OpenCL loader and no driver: the loader is sent to an empty folder of drivers before its
 * first call, which is why this is a program of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <mka/device.h>
#include <mka/mka.h>

static char folder[1024];

static int start(void **state) {
    (void)state;
    const char *temporary = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/mka-vendors.XXXXXX", temporary ? temporary : "/tmp");
    if (!mkdtemp(folder)) return 1;
    setenv("OCL_ICD_VENDORS", folder, 1);
    unsetenv("OCL_ICD_FILENAMES"); /* drivers by name */
    return 0;
}

static int stop(void **state) {
    (void)state;
    return rmdir(folder);
}

static void there_are_no_devices(void **state) {
    (void)state;
    mka_device_info info;
    int count = -1;
    assert_int_equal(mka_devices(&info, 1, &count, NULL), MKA_OK);
    assert_int_equal(count, 0);
}

static void an_engine_says_why(void **state) {
    (void)state;
    static const char *const names[] = {"opencl", "opencl:0", "opencl:nvidia"};
    mka_engine_options options;
    mka_engine *engine;
    mka_error error;
    mka_engine_defaults(&options);
    options.threads = 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        options.device = names[i];
        assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_BAD_ARGUMENT);
        assert_null(engine);
        assert_non_null(strstr(error.message, "no OpenCL platform has a device here"));
    }
    options.device = NULL; /* and the CPU serves */
    assert_int_equal(mka_engine_create(&options, &engine, &error), MKA_OK);
    mka_engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(there_are_no_devices), cmocka_unit_test(an_engine_says_why)};
    return cmocka_run_group_tests(tests, start, stop);
}
