/* status - how a failure is reported: a status to return and one line that names the cause. Owns no state. */
#ifndef MKA_BASE_STATUS_H
#define MKA_BASE_STATUS_H

#include <mka/mka.h>

/* Writes the message (printf) into error, which may be NULL, and returns status, so that a caller can write
 * `return mka_fail(error, MKA_IO, "%s: %s", path, strerror(errno));`. A message that is too long is cut. */
mka_status mka_fail(mka_error *error, mka_status status, const char *format, ...) MKA_PRINTF(3, 4);

/* Empties error and returns MKA_OK. */
mka_status mka_succeed(mka_error *error);

/* Puts "prefix: " (printf) before the message that error holds, as a failure passes upwards. Returns error's status. */
mka_status mka_fail_prefix(mka_error *error, mka_status status, const char *format, ...) MKA_PRINTF(3, 4);

/* a * b and a + b of sizes; return 0 when the result does not fit and leave *out alone. */
int mka_size_mul(size_t a, size_t b, size_t *out);
int mka_size_add(size_t a, size_t b, size_t *out);

/* "31.5 GiB", "98,362,496 bytes" below 1 MiB: for messages. Writes at most room bytes with the NUL; returns text. */
const char *mka_size_text(uint64_t bytes, char *text, size_t room);
#define MKA_SIZE_TEXT 32

/* "98,362,496", whatever the locale. Likewise. */
const char *mka_count_text(uint64_t count, char *text, size_t room);

#endif
