/* The C library of Athanor: the same results as the Python beside it, faster.

   Every function works on plain arrays that the caller owns and reads and writes inside them only, whatever the bytes
   are. It allocates scratch memory at most, keeps no state, and may run in many threads at once. Tables of characters
   come from the caller, so that both sides know the same Unicode. Numbers are little-endian; the loader
   (athanor/base/native.py) does not use the library elsewhere.

   Many texts come as one block: `data` holds them one behind the other, `ends[d]` is where text d ends. */

#ifndef ATHANOR_H
#define ATHANOR_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define OUT_OF_MEMORY (-1)

#define EVERY(byte) (0x0101010101010101ULL * (byte)) /* eight times the same byte */
#define HIGH EVERY(0x80)

/* The eight bytes from `place` on; where fewer are left, zeros follow. */
static inline uint64_t load(const uint8_t *place, const uint8_t *end) {
    uint64_t value = 0;
    if (end - place >= 8) memcpy(&value, place, 8);
    else memcpy(&value, place, (size_t)(end - place));
    return value;
}

/* The number of the lowest byte of which a bit is set; not for 0. */
static inline int lowest_byte(uint64_t bits) {
#if defined(_MSC_VER)
    unsigned long place;
    _BitScanForward64(&place, bits);
    return (int)(place >> 3);
#else
    return __builtin_ctzll(bits) >> 3;
#endif
}

/* Whether a byte of ASCII is a letter, a digit or the underscore. */
static inline int is_word_byte(uint8_t byte) {
    uint8_t letter = byte | 0x20;
    return (letter >= 'a' && letter <= 'z') || (byte >= '0' && byte <= '9') || byte == '_';
}

/* The bytes of a character of UTF-8 by its first byte; 1 for bytes that begin none. */
static inline int character_size(uint8_t first) {
    return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF8 ? 4 : 1;
}

/* The code point at `place`, and its bytes in `size`. A character that is cut off or none counts as byte U+FFFD. */
static inline uint32_t decode(const uint8_t *place, const uint8_t *end, int *size) {
    uint32_t code = *place;
    *size = 1;
    if (code < 0x80) return code;
    if (code >= 0xE0 && code < 0xF0 && end - place >= 3) { /* most of the world's characters */
        *size = 3;
        return (code & 0x0F) << 12 | (place[1] & 0x3FU) << 6 | (place[2] & 0x3FU);
    }
    int wanted = character_size(*place);
    if (wanted == 1 || end - place < wanted) return 0xFFFD;
    *size = wanted;
    code &= 0xFFU >> (wanted + 1);
    for (int number = 1; number < wanted; number++) code = code << 6 | (place[number] & 0x3FU);
    return code < 0x110000 ? code : 0xFFFD;
}

#endif
