/* Runs of words as numbers: MinHash's band keys and exact sets, as athanor/data/copies defines them.

   byteshingles.py says what a word and its number are, minhash.py what a bin and a band are; this file does the same,
   document by document. */

#include "athanor.h"

enum { SEPARATOR = 0, WORD = 1, ALONE = 2, SPECIAL = 4 }; /* byteshingles.py: classes of characters */
enum { BINS = 128, BIN_BITS = 7, VALUE_SHIFT = 20, SET_SHIFT = 12, MOST_BITS = 24, UNCOUNTED = -1 };
static const uint32_t NONE = 0xFFFFFFFF;
static const uint64_t SPREAD = 0xBF58476D1CE4E5B9, LONGER = 0x94D049BB133111EB, RUN_BASE = 0xD6E8FEB86659FD93;

typedef struct {
    const uint8_t *classes; /* of every code point */
    const uint32_t *lower;  /* of every code point */
} Letters;

static inline uint64_t spread(uint64_t value) {
    value ^= value >> 32;
    value *= SPREAD;
    return value ^ value >> 29;
}

/* SplitMix64's finaliser, as shingles.mix. */
static inline uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9;
    value = (value ^ value >> 27) * 0x94D049BB133111EB;
    return value ^ value >> 31;
}

/* A word being read: its bytes, eight by eight. */
typedef struct {
    uint64_t hash, part;
    int bytes, parts; /* of the part; whole parts before it, 2 standing for more */
} Word;

static inline void add_part(Word *word, uint64_t part) {
    word->hash = word->parts ? (word->hash ^ word->hash >> 31) * LONGER + part : part;
    word->parts = 1;
}

static inline void add_byte(Word *word, uint8_t byte) {
    if (word->bytes == 8) {
        add_part(word, word->part);
        word->part = 0;
        word->bytes = 0;
    }
    word->part |= (uint64_t)byte << 8 * word->bytes++;
}

static inline uint64_t finish(Word *word) {
    add_part(word, word->part);
    uint64_t hash = spread(word->hash);
    memset(word, 0, sizeof *word);
    return hash;
}

/* The highest bit of each of eight bytes that is a letter, a digit or the underscore of ASCII. */
static inline uint64_t mark_word_bytes(uint64_t bytes) {
    uint64_t plain = bytes & ~HIGH, letters = plain | EVERY(0x20), underscore = plain ^ EVERY('_');
    uint64_t found = (letters + EVERY(0x80 - 'a')) & ~(letters + EVERY(0x7F - 'z'));
    found |= (plain + EVERY(0x80 - '0')) & ~(plain + EVERY(0x7F - '9'));
    found |= ~(underscore + EVERY(0x7F));
    return found & ~bytes & HIGH;
}

/* Eight bytes of letters, digits and underscores of ASCII in lower case. */
static inline uint64_t small_letters(uint64_t bytes) {
    uint64_t from_A = bytes + EVERY(0x80 - 'A'), behind_Z = bytes + EVERY(0x7F - 'Z');
    return bytes | ((from_A & ~behind_Z) >> 2 & EVERY(0x20));
}

/* Adds the letters, digits and underscores of ASCII from `place` on to a word, and returns the first other byte. */
static const uint8_t *add_plain(Word *word, const uint8_t *place, const uint8_t *end) {
    while (place < end && *place < 0x80 && is_word_byte(*place)) {
        add_byte(word, (uint8_t)(*place >= 'A' && *place <= 'Z' ? *place + 32 : *place));
        place++;
    }
    return place;
}

/* Words of up to seven bytes of ASCII, each with one byte of ASCII behind it, eight bytes at a glance; stops at the
   beginning of anything else. */
static const uint8_t *short_words(const uint8_t *place, const uint8_t *end, uint64_t **out) {
    while (end - place >= 8) {
        uint64_t bytes;
        memcpy(&bytes, place, 8);
        uint64_t marked = mark_word_bytes(bytes), others = ~marked & HIGH;
        if (!others) return place;
        int size = lowest_byte(others);
        if (bytes >> 8 * size & 0x80) return place;
        if (size) {
            uint64_t word = bytes & (~0ULL >> (64 - 8 * size));
            *(*out)++ = spread(small_letters(word));
        }
        place += size + 1;
    }
    return place;
}

/* Characters of three bytes of which each is a word or separates words (most of Chinese), without a branch between the
   two, and separators of ASCII between them; stops at the beginning of anything else. */
static const uint8_t *words_of_one(const uint8_t *place, const uint8_t *end, const uint8_t *classes, uint64_t **out) {
    uint64_t *next = *out;
    while (end - place >= 8) {
        uint64_t bytes;
        memcpy(&bytes, place, 8);
        if ((bytes & 0xF0) != 0xE0) {
            if (bytes & 0x80 || is_word_byte((uint8_t)bytes)) break;
            place++;
            continue;
        }
        uint8_t class = classes[(bytes & 0x0F) << 12 | (bytes >> 2 & 0xFC0) | (bytes >> 16 & 0x3F)];
        if (class & (WORD | SPECIAL)) break;
        *next = spread(bytes & 0xFFFFFF);
        next += class == ALONE;
        place += 3;
    }
    *out = next;
    return place;
}

/* Adds a character outside ASCII in lower case, which has as many bytes. */
static inline void add_letter(Word *word, const uint8_t *place, int size, uint32_t code, uint32_t small) {
    if (small == code) {
        for (int number = 0; number < size; number++) add_byte(word, place[number]);
        return;
    }
    add_byte(word, (uint8_t)(small >> 6 * (size - 1) | (0xFF & ~(0xFF >> size))));
    for (int number = size - 2; number >= 0; number--) add_byte(word, (uint8_t)(0x80 | (small >> 6 * number & 0x3F)));
}

/* Writes the numbers of a text's words to `out` (room for half as many as bytes, and one) and returns their end; NULL:
   the text has a character whose lower case is no simple exchange: it must be in lower case before. */
static uint64_t *hash_words(const uint8_t *place, const uint8_t *end, const Letters *letters, uint64_t *out) {
    Word word = {0, 0, 0, 0};
    while (place < end) {
        if (*place < 0x80) {
            if (!word.bytes) place = short_words(place, end, &out);
            place = add_plain(&word, place, end);
            if (place == end || *place >= 0x80) continue;
            if (word.bytes) *out++ = finish(&word);
            place++;
            continue;
        }
        if (!word.bytes) {
            const uint8_t *begin = place;
            place = words_of_one(place, end, letters->classes, &out);
            if (place != begin) continue;
        }
        int size;
        uint32_t code = decode(place, end, &size);
        uint8_t class = letters->classes[code];
        if (class == WORD) {
            add_letter(&word, place, size, code, letters->lower[code]);
        } else {
            if (class == SPECIAL) return NULL;
            if (word.bytes) *out++ = finish(&word);
            if (class == ALONE) *out++ = spread(load(place, end) & (~0ULL >> (64 - 8 * size)));
        }
        place += size;
    }
    if (word.bytes) *out++ = finish(&word);
    return out;
}

/* Puts the run of `width` words that begins at each word in the word's place, and returns how many there are: a text
   of fewer words has one run, all its words. */
static int64_t combine(uint64_t *words, int64_t count, int64_t width) {
    if (!count) return 0;
    if (width > count) width = count;
    uint64_t run = 0, gone = 1;
    for (int64_t place = 0; place < width; place++) run = run * RUN_BASE + words[place];
    for (int64_t place = 0; place < width; place++) gone *= RUN_BASE;
    int64_t last = count - width;
    for (int64_t place = 0; place < last; place++) {
        uint64_t change = words[place + width] - words[place] * gone; /* apart: only one product waits for the last */
        words[place] = spread(run);
        run = run * RUN_BASE + change;
    }
    words[last] = spread(run);
    return last + 1;
}

/* How many words the longest text may have. */
static int64_t most_words(const int64_t *ends, int64_t documents) {
    int64_t longest = 0;
    for (int64_t d = 0; d < documents; d++) {
        int64_t size = ends[d] - (d ? ends[d - 1] : 0);
        if (size > longest) longest = size;
    }
    return longest / 2 + 1;
}

static uint64_t *room_for(int64_t words) { return malloc(sizeof(uint64_t) * (size_t)words); }

/* The least value in each bin; empty bins borrow, by the first of the probes that leads to one that is not. */
static void sign(const uint64_t *runs, int64_t count, const int64_t *probes, int64_t probe_rows, uint32_t *signature) {
    uint32_t own[BINS];
    for (int bin = 0; bin < BINS; bin++) own[bin] = NONE;
    for (int64_t place = 0; place < count; place++) {
        uint32_t *bin = own + (runs[place] >> (64 - BIN_BITS)), value = (uint32_t)(runs[place] >> VALUE_SHIFT);
        *bin = value < *bin ? value : *bin; /* a branch would be guessed wrong every second time */
    }
    for (int bin = 0; bin < BINS; bin++) {
        signature[bin] = own[bin];
        for (int64_t row = 0; row < probe_rows && signature[bin] == NONE; row++)
            signature[bin] = own[probes[row * BINS + bin] & (BINS - 1)];
    }
}

/* Band keys of documents (minhash.BandMaker): `bands` keys each of `rows` bins, 0 throughout without a word.

   classes, lower: of every code point. probes: probe_rows times 128 bins. special: gets 1 where the text must be in
   lower case before; its keys are not written. Returns 0, or -1 without memory. */
EXPORT int64_t athanor_band_keys(const uint8_t *data, const int64_t *ends, int64_t documents, const uint8_t *classes,
                                 const uint32_t *lower, int64_t width, const int64_t *probes, int64_t probe_rows,
                                 int64_t bands, int64_t rows, uint32_t *keys, uint8_t *special) {
    Letters letters = {classes, lower};
    uint64_t *words = room_for(most_words(ends, documents));
    if (!words) return OUT_OF_MEMORY;
    for (int64_t d = 0; d < documents; d++) {
        uint64_t *behind = hash_words(data + (d ? ends[d - 1] : 0), data + ends[d], &letters, words);
        special[d] = behind == NULL;
        if (!behind) continue;
        uint32_t signature[BINS], *own = keys + d * bands;
        memset(own, 0, sizeof(uint32_t) * (size_t)bands);
        if (behind == words) continue;
        sign(words, combine(words, behind - words, width), probes, probe_rows, signature);
        for (int64_t band = 0; band < bands; band++) {
            uint64_t key = 0;
            for (int64_t row = 0; row < rows; row++) key = mix(key + signature[band * rows + row] + 1);
            own[band] = key >> 32 ? (uint32_t)(key >> 32) : 1;
        }
    }
    free(words);
    return 0;
}

/* The bits that tell the buckets of so many numbers apart: at least two for each number. */
static int bucket_bits(int64_t count) {
    int bits = 1;
    while (bits < MOST_BITS && (int64_t)1 << bits < 2 * count) bits++;
    return bits;
}

/* Sorts numbers that are nearly in order. */
static void sort_nearly(uint64_t *values, int64_t count) {
    for (int64_t place = 1; place < count; place++) {
        uint64_t value = values[place];
        int64_t free_place = place;
        for (; free_place && values[free_place - 1] > value; free_place--) values[free_place] = values[free_place - 1];
        values[free_place] = value;
    }
}

/* Sorts numbers whose first bits are random: into buckets, then the few that are out of order there. `out` is as long
   as `values`; `ends` has an element for every bucket of as many numbers. */
static void sort_random(const uint64_t *values, int64_t count, uint64_t *out, uint32_t *ends) {
    int bits = bucket_bits(count);
    int64_t buckets = (int64_t)1 << bits;
    uint32_t before = 0;
    memset(ends, 0, sizeof *ends * (size_t)buckets);
    for (int64_t place = 0; place < count; place++) ends[values[place] >> (64 - bits)]++;
    for (int64_t bucket = 0; bucket < buckets; bucket++) {
        uint32_t size = ends[bucket];
        ends[bucket] = before; /* where it begins: each number moves it on to its end */
        before += size;
    }
    for (int64_t place = 0; place < count; place++) out[ends[values[place] >> (64 - bits)]++] = values[place];
    sort_nearly(out, count);
}

/* Sorted sets of runs (byteshingles.RunBatch.sets: the first 52 bits of each), one behind the other.

   sets: room for one number for every two bytes, and one for every document. set_ends: where each ends.
   special: as above; such a text has no set. Returns 0, or -1 without memory. */
EXPORT int64_t athanor_run_sets(const uint8_t *data, const int64_t *ends, int64_t documents, const uint8_t *classes,
                                const uint32_t *lower, int64_t width, uint64_t *sets, int64_t *set_ends,
                                uint8_t *special) {
    Letters letters = {classes, lower};
    int64_t most = most_words(ends, documents);
    uint64_t *words = room_for(most), *sorted = room_for(most), *next = sets;
    uint32_t *buckets = malloc(sizeof *buckets << bucket_bits(most));
    int64_t status = words && sorted && buckets ? 0 : OUT_OF_MEMORY;
    for (int64_t d = 0; d < documents && !status; d++) {
        uint64_t *behind = hash_words(data + (d ? ends[d - 1] : 0), data + ends[d], &letters, words), last = 0;
        special[d] = behind == NULL;
        int64_t count = behind ? combine(words, behind - words, width) : 0;
        sort_random(words, count, sorted, buckets);
        for (int64_t place = 0; place < count; place++) {
            uint64_t value = sorted[place] >> SET_SHIFT;
            if (!place || value != last) *next++ = value;
            last = value;
        }
        set_ends[d] = next - sets;
    }
    free(buckets);
    free(sorted);
    free(words);
    return status;
}

/* How many words stand in runs that occurred before. first: room for every bucket of as many runs. */
static int64_t count_covered(const uint64_t *runs, int64_t count, int64_t width, uint32_t *first) {
    int bits = bucket_bits(count);
    uint64_t mask = ((uint64_t)1 << bits) - 1;
    int64_t covered = 0, end = 0;
    if (count > (int64_t)mask / 2) return UNCOUNTED;
    memset(first, 0, sizeof *first << bits);
    for (int64_t place = 0; place < count; place++) {
        uint64_t slot = runs[place] >> (64 - bits);
        while (first[slot] && runs[first[slot] - 1] != runs[place]) slot = (slot + 1) & mask;
        if (!first[slot]) {
            first[slot] = (uint32_t)place + 1;
            continue;
        }
        covered += place + width - (place > end ? place : end);
        end = place + width;
    }
    return covered;
}

/* Of each text three numbers: its words; how often its most frequent run of `width` words occurs; how many words stand
   in runs of `wider` words that occurred before, -1 for texts of millions of words in which a run does. special: as
   above; such a text has no numbers. Returns 0, or -1 without memory. */
EXPORT int64_t athanor_run_repeats(const uint8_t *data, const int64_t *ends, int64_t documents, const uint8_t *classes,
                                   const uint32_t *lower, int64_t width, int64_t wider, int64_t *numbers,
                                   uint8_t *special) {
    Letters letters = {classes, lower};
    int64_t longest = most_words(ends, documents);
    uint64_t *words = room_for(longest), *runs = room_for(longest), *sorted = room_for(longest);
    uint32_t *buckets = malloc(sizeof *buckets << bucket_bits(longest));
    int64_t status = words && runs && sorted && buckets ? 0 : OUT_OF_MEMORY;
    for (int64_t d = 0; d < documents && !status; d++, numbers += 3) {
        uint64_t *behind = hash_words(data + (d ? ends[d - 1] : 0), data + ends[d], &letters, words);
        special[d] = behind == NULL;
        int64_t count = behind ? behind - words : 0;
        numbers[0] = count;
        for (int number = 1; number < 3; number++) {
            int64_t wide = number == 1 ? width : wider, most = 0, same = 0;
            if (count) memcpy(runs, words, sizeof *runs * (size_t)count);
            int64_t found = count < wide ? 0 : combine(runs, count, wide);
            sort_random(runs, found, sorted, buckets);
            for (int64_t place = 0; place < found; place++) {
                same = place && sorted[place] == sorted[place - 1] ? same + 1 : 1;
                if (same > most) most = same;
            }
            numbers[number] = number == 1 ? most : most > 1 ? count_covered(runs, found, wide, buckets) : 0;
        }
    }
    free(buckets);
    free(sorted);
    free(runs);
    free(words);
    return status;
}

/* How many numbers the two sorted sets of each pair have in common; set n is sets[starts[n]] to sets[starts[n + 1]]. */
EXPORT void athanor_count_shared(const uint64_t *sets, const int64_t *starts, const int64_t *left, const int64_t *right,
                                 int64_t pairs, int64_t *shared) {
    for (int64_t pair = 0; pair < pairs; pair++) {
        const uint64_t *one = sets + starts[left[pair]], *one_end = sets + starts[left[pair] + 1];
        const uint64_t *other = sets + starts[right[pair]], *other_end = sets + starts[right[pair] + 1];
        int64_t count = 0;
        while (one < one_end && other < other_end) {
            uint64_t first = *one, second = *other;
            count += first == second;
            one += first <= second;
            other += second <= first;
        }
        shared[pair] = count;
    }
}

/* Notes keys of 32 random bits, 0 standing for none: a bit of `seen` by the lowest `bits` bits of each, a bit of `twice`
   where that of `seen` was set before. Both have 2^bits bits. Returns 0. */
EXPORT int64_t athanor_note_keys(const uint32_t *keys, int64_t count, int64_t bits, uint8_t *twice, uint8_t *seen) {
    uint32_t mask = (uint32_t)(((uint64_t)1 << bits) - 1);
    for (int64_t number = 0; number < count; number++) {
        uint32_t place = keys[number] & mask;
        uint8_t bit = (uint8_t)((keys[number] != 0) << (place & 7));
        twice[place >> 3] |= seen[place >> 3] & bit;
        seen[place >> 3] |= bit;
    }
    return 0;
}

/* Whether the bit of each key is set in `twice`. Returns 0. */
EXPORT int64_t athanor_may_repeat(const uint32_t *keys, int64_t count, int64_t bits, const uint8_t *twice,
                                  uint8_t *found) {
    uint32_t mask = (uint32_t)(((uint64_t)1 << bits) - 1);
    for (int64_t number = 0; number < count; number++) {
        uint32_t place = keys[number] & mask;
        found[number] = keys[number] && twice[place >> 3] >> (place & 7) & 1;
    }
    return 0;
}
