/* status - messages of failures, checked size arithmetic and the library's version. Owns no state, so any thread may call it.
 *
 * Messages are cut with "..." rather than silently, because the end of a message often holds the way out.
 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *mka_version(void) {
    return MKA_VERSION;
}

const char *mka_status_text(mka_status status) {
    switch (status) {
    case MKA_OK:
        return "ok";
    case MKA_BAD_ARGUMENT:
        return "bad argument";
    case MKA_NO_MEMORY:
        return "out of memory";
    case MKA_IO:
        return "input or output failed";
    case MKA_BAD_FILE:
        return "bad file";
    case MKA_UNSUPPORTED:
        return "unsupported";
    case MKA_CONTEXT_FULL:
        return "context full";
    case MKA_CANCELLED:
        return "cancelled";
    }
    return "unknown status";
}

/* A file's names end up in messages: control bytes are shown as '?' so that a message stays one line and cannot drive a
 * terminal. */
static void seal(char *message, size_t room, int wanted) {
    if (wanted >= 0 && (size_t)wanted >= room) {
        size_t end = room - 4;
        while (end > 0 && ((unsigned char)message[end] & 0xC0) == 0x80) end--; /* not inside a UTF-8 character */
        memcpy(message + end, "...", 4);
    }
    for (char *c = message; *c; c++) {
        if ((unsigned char)*c < 0x20 || (unsigned char)*c == 0x7F) *c = '?';
    }
}

mka_status mka_fail(mka_error *error, mka_status status, const char *format, ...) {
    if (!error) return status;
    char message[sizeof error->message]; /* the arguments may point into error->message */
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (wanted < 0) message[0] = 0;
    seal(message, sizeof message, wanted);
    error->status = status;
    memcpy(error->message, message, strlen(message) + 1);
    return status;
}

mka_status mka_succeed(mka_error *error) {
    if (error) {
        error->status = MKA_OK;
        error->message[0] = 0;
    }
    return MKA_OK;
}

mka_status mka_fail_prefix(mka_error *error, mka_status status, const char *format, ...) {
    if (!error) return status;
    char prefix[sizeof error->message], message[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(prefix, sizeof prefix, format, arguments) < 0) prefix[0] = 0;
    va_end(arguments);
    memcpy(message, error->message, sizeof message);
    message[sizeof message - 1] = 0;
    return mka_fail(error, status, "%s: %s", prefix, message);
}

int mka_size_mul(size_t a, size_t b, size_t *out) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return 0;
    *out = product;
    return 1;
}

int mka_size_add(size_t a, size_t b, size_t *out) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return 0;
    *out = sum;
    return 1;
}

const char *mka_count_text(uint64_t count, char *text, size_t room) {
    char plain[24], grouped[32];
    int length = snprintf(plain, sizeof plain, "%llu", (unsigned long long)count);
    size_t at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) grouped[at++] = ',';
        grouped[at++] = plain[i];
    }
    grouped[at] = 0;
    snprintf(text, room, "%s", grouped);
    return text;
}

const char *mka_size_text(uint64_t bytes, char *text, size_t room) {
    static const char *const units[] = {"MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1u << 20) {
        char count[MKA_SIZE_TEXT];
        snprintf(text, room, "%s bytes", mka_count_text(bytes, count, sizeof count));
        return text;
    }
    double value = (double)bytes / (1u << 20);
    int unit = 0;
    for (; value >= 1024 && unit < 4; unit++) value /= 1024;
    snprintf(text, room, "%.1f %s", value, units[unit]);
    return text;
}
