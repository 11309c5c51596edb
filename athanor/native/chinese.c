/* What the rules for Chinese count in a text (athanor/data/rules/chinese.py, ChineseText): characters by kind, and lines.

   A line is what stands between line feeds without the blanks at its ends; empty ones are none. */

#include "athanor.h"

enum { HAN = 1, PUNCTUATION = 16, BLANK = 64, BARE = 128, KINDS = 8 };
enum { N_MARKS = KINDS, N_CHARACTERS, N_LINES, N_LINE_CHARACTERS, N_BARE, N_ENDED, N_REPEATED, NUMBERS };
enum { SHORT_LINE = 16, FEW = 24 };
static const uint64_t LINE_BASE = 0xD6E8FEB86659FD93;

/* A line being read. */
typedef struct {
    uint64_t so_far, hash;       /* of all characters; of those up to the last that is no blank */
    int64_t begin, end;          /* places of its first character that is no blank, and behind the last; begin -1: none */
    int bare, cut, blanks, gaps; /* nothing but bare characters; bars; spaces; spaces between others */
    int han;
    uint32_t last;
} Line;

static const Line NO_LINE = {0, 0, -1, 0, 1, 0, 0, 0, 0, 0};

static inline void add_character(Line *line, uint32_t code, uint8_t kind, int64_t place) {
    if (kind & BLANK) {
        if (line->begin < 0) return;
        line->blanks |= code == ' ';
    } else {
        if (line->begin < 0) line->begin = place;
        line->gaps = line->blanks;
        line->bare &= kind >> 7;
        line->cut |= code == '|' || code == '>';
        line->han |= kind & HAN;
        line->last = code;
        line->end = place + 1;
    }
    line->so_far = (line->so_far + code + 1) * LINE_BASE;
    if (!(kind & BLANK)) line->hash = line->so_far;
}

/* Adds a line that ended to the numbers; one with Chinese characters to `hashes`, of which it returns the end. */
static uint64_t *end_line(Line *line, int64_t *numbers, uint64_t *hashes) {
    if (line->begin >= 0) {
        int64_t size = line->end - line->begin;
        uint32_t last = line->last;
        numbers[N_LINES]++;
        numbers[N_LINE_CHARACTERS] += size;
        if (line->bare && (size <= SHORT_LINE || line->cut || line->gaps)) numbers[N_BARE] += size;
        numbers[N_ENDED] += last == '.' || last == ':' || last == 0xFF1A || last == 0x201D || last == 0x300D;
        if (line->han) *hashes++ = line->hash;
    }
    *line = NO_LINE;
    return hashes;
}

static int compare(const void *left, const void *right) {
    uint64_t one = *(const uint64_t *)left, other = *(const uint64_t *)right;
    return (one > other) - (one < other);
}

/* Whether two of the numbers are equal; it changes their order. */
static int has_equal(uint64_t *values, int64_t count) {
    if (count <= FEW) {
        for (int64_t place = 1; place < count; place++)
            for (int64_t before = 0; before < place; before++)
                if (values[before] == values[place]) return 1;
        return 0;
    }
    qsort(values, (size_t)count, sizeof *values, compare);
    for (int64_t place = 1; place < count; place++)
        if (values[place] == values[place - 1]) return 1;
    return 0;
}

/* Counts of each text, NUMBERS for each: characters with each bit of `kinds` (of every code point); punctuation outside
   ASCII; characters; lines, their characters, those of bare lines; lines that end as sentences do; whether a line with
   Chinese characters may stand there twice. Returns 0, or -1 without memory. */
EXPORT int64_t athanor_chinese_counts(const uint8_t *data, const int64_t *ends, int64_t texts, const uint8_t *kinds,
                                      int64_t *numbers) {
    int64_t longest = 0;
    for (int64_t text = 0; text < texts; text++) {
        int64_t size = ends[text] - (text ? ends[text - 1] : 0);
        if (size > longest) longest = size;
    }
    uint64_t *hashes = malloc(sizeof *hashes * (size_t)(longest / 2 + 2));
    if (!hashes) return OUT_OF_MEMORY;
    const uint8_t *place = data;
    for (int64_t text = 0; text < texts; text++, numbers += NUMBERS) {
        const uint8_t *end = data + ends[text];
        int64_t often[256] = {0}, characters = 0, ascii_marks = 0;
        uint64_t *next = hashes;
        Line line = NO_LINE;
        memset(numbers, 0, NUMBERS * sizeof *numbers);
        for (int size; place < end; place += size, characters++) {
            uint32_t code = decode(place, end, &size);
            uint8_t kind = kinds[code];
            often[kind]++;
            ascii_marks += code < 0x80 && kind & PUNCTUATION;
            if (code == '\n') next = end_line(&line, numbers, next);
            else add_character(&line, code, kind, characters);
        }
        next = end_line(&line, numbers, next);
        for (int kind = 0; kind < 256; kind++)
            for (int bit = 0; bit < KINDS && often[kind]; bit++)
                if (kind >> bit & 1) numbers[bit] += often[kind];
        numbers[N_MARKS] = numbers[4] - ascii_marks;
        numbers[N_CHARACTERS] = characters;
        numbers[N_REPEATED] = has_equal(hashes, next - hashes);
    }
    free(hashes);
    return 0;
}
