/* emulated.h - whether this test runs under an emulator, where arithmetic takes some fifty times as long: meson says so to the
 * programs that it wraps. Tests whose arithmetic is the same for any processor do less of it there. */
#ifndef MKA_TESTS_EMULATED_H
#define MKA_TESTS_EMULATED_H

#include <stdlib.h>

static inline int emulated(void) {
    return getenv("MESON_EXE_WRAPPER") != NULL;
}

#endif
