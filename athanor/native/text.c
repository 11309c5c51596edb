/* What the cleaning of a text asks first: which letters it has, whether repairing could change it, and whether personal
   data may stand in it.

   `guess_language` (athanor/data/cleaning/language.py) and `repair_text` (repair.py) are what these counts equal;
   `mask_personal` (personal.py) finds nothing where there can be none. */

#include "athanor.h"

enum { LETTER = 1, HAN = 2, KANA = 4, HANGUL = 8, OTHER = 16, ODD = 32, CHANGES = 64 }; /* what a character is */
enum { EASTERN = HAN | KANA | HANGUL, LONGEST_WORD = 8 };
enum { WIDEST_GAP = 6 }; /* bytes of two characters between the digits of a number */
enum { N_LETTERS, N_HAN, N_KANA, N_HANGUL, N_OTHER, N_WORDS, N_EASTERN_RUNS, N_LATIN, N_KNOWN, N_ODD, NUMBERS };

static inline int is_small(uint8_t byte) { return (uint8_t)((byte | 0x20) - 'a') < 26; }

/* Reads a word of a to z at `place`, with one apostrophe and more letters behind it; returns its end. */
static const uint8_t *read_latin(const uint8_t *place, const uint8_t *end, const uint64_t *known, int64_t knowns,
                                 int64_t *numbers) {
    const uint8_t *begin = place;
    uint64_t word = 0;
    for (; place < end && is_small(*place); place++)
        if (place - begin < LONGEST_WORD) word |= (uint64_t)(*place | 0x20) << 8 * (place - begin);
    int plain = place - begin <= LONGEST_WORD;
    numbers[N_LATIN]++;
    if (end - place >= 2 && *place == '\'' && is_small(place[1])) {
        plain = 0;
        for (place++; place < end && is_small(*place); place++) {}
    }
    for (int64_t number = 0; plain && number < knowns; number++)
        if (known[number] == word) {
            numbers[N_KNOWN]++;
            break;
        }
    return place;
}

/* The counts of the first characters of a text. */
static void count_sample(const uint8_t *place, const uint8_t *end, int64_t characters, const uint8_t *classes,
                         const uint64_t *known, int64_t knowns, int64_t *numbers) {
    uint8_t before = 0;
    const uint8_t *stop = place;
    for (int64_t number = 0; number < characters && stop < end; number++) stop += character_size(*stop);
    if (stop > end) stop = end;
    while (place < stop) {
        if (is_small(*place)) { /* words of a to z: letters one behind the other, the apostrophe is none */
            const uint8_t *begin = place;
            place = read_latin(place, stop, known, knowns, numbers);
            const uint8_t *mark = memchr(begin, '\'', (size_t)(place - begin));
            numbers[N_LETTERS] += place - begin - (mark != NULL);
            numbers[N_WORDS] += !(before & LETTER) + (mark != NULL);
            before = LETTER;
            continue;
        }
        int size;
        uint8_t class = classes[decode(place, stop, &size)];
        place += size;
        if (class & (LETTER | EASTERN | OTHER | ODD)) {
            numbers[N_LETTERS] += class & LETTER;
            numbers[N_HAN] += (class & HAN) != 0;
            numbers[N_KANA] += (class & KANA) != 0;
            numbers[N_HANGUL] += (class & HANGUL) != 0;
            numbers[N_OTHER] += (class & OTHER) != 0;
            numbers[N_ODD] += (class & ODD) != 0;
            numbers[N_WORDS] += (class & LETTER) && !(before & LETTER);
            numbers[N_EASTERN_RUNS] += (class & EASTERN) && !(before & EASTERN);
        }
        before = class;
    }
}

/* Whether repairing could change anything but the ends of the text. */
static int may_change(const uint8_t *place, const uint8_t *end, const uint8_t *classes) {
    int feeds = 0;
    uint8_t before = 0;
    while (place < end) {
        if (*place >= 0x80) {
            int size;
            if (classes[decode(place, end, &size)] & CHANGES) return 1;
            place += size;
            before = feeds = 0;
            continue;
        }
        uint8_t byte = *place++;
        if (byte < 0x20 || byte == 0x7F) {
            if (classes[byte] & CHANGES) return 1;
            if (byte == '\n') {
                if (before == ' ' || before == '\t' || ++feeds == 4) return 1;
                before = byte;
                continue;
            }
        }
        feeds = 0;
        before = byte;
    }
    return 0;
}

/* Whether repairing could change each text, in `changes`. classes: of every code point. Returns 0. */
EXPORT int64_t athanor_may_change(const uint8_t *data, const int64_t *ends, int64_t texts, const uint8_t *classes,
                                  uint8_t *changes) {
    const uint8_t *begin = data;
    for (int64_t text = 0; text < texts; text++) {
        changes[text] = (uint8_t)may_change(begin, data + ends[text], classes);
        begin = data + ends[text];
    }
    return 0;
}

/* Counts of each text's first characters, NUMBERS for each, in the order above.

   known, knowns: frequent words, byte by byte in a number. Returns 0. */
EXPORT int64_t athanor_letter_counts(const uint8_t *data, const int64_t *ends, int64_t texts, const uint8_t *classes,
                                     int64_t sample, const uint64_t *known, int64_t knowns, int64_t *numbers) {
    const uint8_t *begin = data;
    for (int64_t text = 0; text < texts; text++, numbers += NUMBERS) {
        memset(numbers, 0, NUMBERS * sizeof *numbers);
        count_sample(begin, data + ends[text], sample, classes, known, knowns, numbers);
        begin = data + ends[text];
    }
    return 0;
}

static inline int is_digit(uint8_t byte) { return (uint8_t)(byte - '0') < 10; }

/* Whether a byte may stand between the digits of a number: of the marks in SEVEN_DIGITS. */
static inline int may_separate(uint8_t byte) {
    if (byte >= 0x80) return byte < 0xC0 || byte == 0xE2 || byte == 0xEF;
    return byte == ' ' || byte == '(' || byte == ')' || byte == '.' || byte == '-';
}

/* Whether one of the signs of personal.py (the @, VEILED_AT, SEVEN_DIGITS, THREE_DOTS, TWO_COLONS) may match: each is
   read a little wider here. */
static int may_be_personal(const uint8_t *begin, const uint8_t *end) {
    const uint8_t *digit = NULL, *dot = NULL; /* the last digit; the last dot between two digits */
    int digits = 0, dots = 0;                 /* digits with gaps of two characters at most; such dots, near each other */
    for (const uint8_t *place = begin; place < end; place++) {
        uint8_t byte = *place, next = end - place > 1 ? place[1] : 0;
        if (is_digit(byte)) {
            digits = digit && place - digit <= WIDEST_GAP + 1 ? digits + 1 : 1;
            digit = place;
            if (digits == 7) return 1;
            continue;
        }
        if (!may_separate(byte)) digit = NULL;
        if (byte == '.') {
            if (!digit || digit != place - 1 || !is_digit(next)) continue;
            dots = dot && place - dot <= 4 ? dots + 1 : 1;
            dot = place;
            if (dots == 3) return 1;
        } else if (byte == '@') {
            return 1;
        } else if (byte == ':') {
            if (place - begin >= 4 && (place[-4] == '2' || place[-4] == '3')) return 1;
        } else if (byte == '[' || byte == '(' || byte == '{' || byte == '<') {
            if ((next | 0x20) == 'a' && end - place > 2 && (place[2] | 0x20) == 't') return 1;
        }
    }
    return 0;
}

/* Whether personal data may stand in each text, in `found`. Returns 0. */
EXPORT int64_t athanor_may_be_personal(const uint8_t *data, const int64_t *ends, int64_t texts, uint8_t *found) {
    const uint8_t *begin = data;
    for (int64_t text = 0; text < texts; text++) {
        found[text] = (uint8_t)may_be_personal(begin, data + ends[text]);
        begin = data + ends[text];
    }
    return 0;
}
