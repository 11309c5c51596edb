/* What the files on the published rules share. Flags of characters: athanor/data/rules/words.py. */

#ifndef ATHANOR_RULES_H
#define ATHANOR_RULES_H

#include "athanor.h"

/* FILLED: not a blank. */
enum { FILLED = 1, PEELED = 2, SYMBOL = 4, ALPHA = 8, DIGIT = 16, STOP = 32, UPPER = 64, STOP_OF_LINE = 128 };
enum { ALNUM = ALPHA | DIGIT, STOP_WORDS = 8, STOP_SLOTS = 64 };

/* What the caller knows about characters and words. */
typedef struct {
    const uint8_t *flags;          /* of every code point */
    const uint64_t *abbreviations; /* their bytes as numbers, in order */
    int64_t abbreviation_count;
    const uint64_t *stop_words; /* STOP_WORDS of them, likewise */
    uint32_t stop_letters;      /* one bit for each letter, modulo 32, that one begins with */
    const uint32_t *digits;     /* first code points of the runs of ten decimal digits, in order */
    int64_t digit_count;
    uint64_t seed; /* of all hashes: nobody can write a text that makes a table slow */
} Language;

enum { IS_FILLED = 1, IS_LETTERED = 2, IS_STOP = 4 }; /* facts on a word; IS_STOP: one mark that ends a sentence */

/* The words of a text as found so far. */
typedef struct {
    uint64_t *hashes;
    uint32_t *lengths; /* in characters */
    uint8_t *facts;
    int64_t count, room;
    uint32_t stop_words; /* one bit for each that occurred */
} Words;

/* Room for the characters of one chunk (what stands between blanks). */
typedef struct {
    uint32_t *codes;
    uint32_t *places; /* where each character begins, and the chunk ends, in bytes */
    uint8_t *flags, *cuts;
    int64_t room;
} Chunk;

/* Appends the words from `place` to `end`; returns 0, or OUT_OF_MEMORY. */
int find_words(const uint8_t *place, const uint8_t *end, const Language *language, Words *words, Chunk *chunk);
void free_words(Words *words);
void free_chunk(Chunk *chunk);

/* A hash of some bytes. */
static inline uint64_t hash_bytes(const uint8_t *place, const uint8_t *end, uint64_t seed) {
    uint64_t hash = seed ^ (uint64_t)(end - place);
    do {
        hash = (hash ^ load(place, end)) * 0x9E3779B97F4A7C15;
        hash ^= hash >> 32;
        place += 8;
    } while (place < end);
    return hash * 0xD6E8FEB86659FD93;
}

/* A table of hashes, each with a count and the number of its first entry. */
typedef struct {
    uint64_t key;
    uint32_t count, first;
} Slot;

typedef struct {
    Slot *slots;
    uint64_t mask;
    int64_t room;
} Table;

int clear_table(Table *table, int64_t entries); /* makes room for so many; returns 0, or OUT_OF_MEMORY */

/* The slot of a hash; a new one has count 0. */
static inline Slot *find_slot(Table *table, uint64_t key) {
    key += !key;
    uint64_t place = (key ^ key >> 32) & table->mask;
    while (table->slots[place].key != key && table->slots[place].count) place = (place + 1) & table->mask;
    table->slots[place].key = key;
    return table->slots + place;
}

/* Characters of the most frequent runs of 2, 3, 4 words and of the runs of 5 to 10 that occurred before. */
int count_runs(const Words *words, Table *table, int64_t *most_frequent, int64_t *repeated);

#endif
