/* unicode - UTF-8 in and out, categories of characters, and the letters that byte-level BPE writes bytes with.
 *
 * Decoding is as lenient as llama.cpp's, because the ids of malformed text are to be the same.
 */
#include <mka/model.h>

#include "text/internal.h"

mka_unicode_class mka_unicode_class_of(uint32_t point) {
    size_t low = 0, high = mka_unicode_range_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (mka_unicode_ranges[middle] >> 3 <= point)
            low = middle;
        else
            high = middle;
    }
    return (mka_unicode_class)(mka_unicode_ranges[low] & 7);
}

static int continues(char byte) {
    return ((unsigned char)byte & 0xC0) == 0x80;
}

uint32_t mka_utf8_decode(const char *bytes, size_t length, size_t *used) {
    unsigned char first = (unsigned char)bytes[0];
    *used = 1;
    if (first < 0x80) return first;
    size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC0 || first >= 0xF8 || size > length) return 0xFFFD;
    uint32_t point = first & (0xFFu >> (size + 1));
    for (size_t i = 1; i < size; i++) {
        if (!continues(bytes[i])) return 0xFFFD;
        point = point << 6 | ((unsigned char)bytes[i] & 0x3F);
    }
    if (point > 0x10FFFF) return 0xFFFD;
    *used = size;
    return point;
}

size_t mka_utf8_encode(uint32_t point, char *bytes) {
    if (point < 0x80) {
        bytes[0] = (char)point;
        return 1;
    }
    size_t size = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--, point >>= 6) bytes[i] = (char)(0x80 | (point & 0x3F));
    bytes[0] = (char)((0xF00u >> size & 0xFF) | point);
    return size;
}

size_t mka_utf8_announced(char first) {
    unsigned char byte = (unsigned char)first;
    return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/* The visible Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up, in order. */
static int is_own_letter(unsigned point) {
    return (point >= 0x21 && point <= 0x7E) || (point >= 0xA1 && point <= 0xAC) || (point >= 0xAE && point <= 0xFF);
}

uint32_t mka_byte_to_point(unsigned char byte) {
    if (is_own_letter(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xA0) return 0x100u + 0x21 + byte - 0x7F;
    return 0x100u + 67; /* 0xAD */
}

int mka_byte_from_point(uint32_t point) {
    if (point < 0x100) return is_own_letter(point) ? (int)point : -1;
    if (point < 0x100 + 0x21) return (int)(point - 0x100);
    if (point < 0x100 + 67) return (int)(point - 0x100 - 0x21 + 0x7F);
    return point == 0x100 + 67 ? 0xAD : -1;
}

int mka_text_clean(mka_buffer *clean, const char *text, size_t length) {
    size_t used, size;
    for (size_t i = 0; i < length; i += used) {
        char bytes[4];
        size = mka_utf8_encode(mka_utf8_decode(text + i, length - i, &used), bytes);
        if (!mka_buffer_add(clean, bytes, size)) return 0;
    }
    return 1;
}

/* Whether size < 4 bytes can still become a character: those that are over-long, surrogates or too large never can. */
static int may_become_character(const unsigned char *bytes, size_t size) {
    unsigned char first = bytes[0];
    size_t needed = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first >= 0xF0 && first < 0xF5 ? 4 : 0;
    if (needed <= size) return 0;
    for (size_t i = 1; i < size; i++)
        if (!continues((char)bytes[i])) return 0;
    if (size < 2) return 1;
    return !(first == 0xE0 && bytes[1] < 0xA0) && !(first == 0xED && bytes[1] > 0x9F) && !(first == 0xF0 && bytes[1] < 0x90) &&
           !(first == 0xF4 && bytes[1] > 0x8F);
}

size_t mka_utf8_whole(const char *bytes, size_t length) {
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        const unsigned char *tail = (const unsigned char *)bytes + length - back;
        if (continues((char)*tail)) continue;
        return may_become_character(tail, back) ? length - back : length;
    }
    return length;
}
