/* fuzz.h - the one function that a fuzz target defines, called by libFuzzer or by replay.c. */
#ifndef MKA_FUZZ_H
#define MKA_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Reads size bytes as the target's format. Always returns 0; what is wrong shows as a crash or a sanitizer's report. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
