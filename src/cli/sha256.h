/* sha256 - the digest by which a file of expectations names ids that it does not list (FIPS 180-4). */
#ifndef MKA_CLI_SHA256_H
#define MKA_CLI_SHA256_H

#include <stddef.h>

/* The digest of length bytes as 64 hexadecimal digits and a NUL. */
void mka_cli_sha256(const void *bytes, size_t length, char text[65]);

#endif
