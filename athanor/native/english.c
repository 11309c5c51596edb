/* What the published rules call a word: athanor/data/rules/words.py, character by character the same. */

#include "rules.h"

enum { LONGEST_TAIL = 3, LONGEST_ABBREVIATION = 7 };
static const uint32_t CURLY = 0x2019, ELLIPSIS = 0x2026, EM_DASH = 0x2014, EN_DASH = 0x2013;

void free_words(Words *words) {
    free(words->hashes);
    free(words->lengths);
    free(words->facts);
}

void free_chunk(Chunk *chunk) {
    free(chunk->codes);
    free(chunk->places);
    free(chunk->flags);
    free(chunk->cuts);
}

/* `values` with room for so many more bytes than before; it is freed where that fails. */
static int grow(void **values, size_t bytes) {
    void *larger = realloc(*values, bytes);
    if (!larger) return OUT_OF_MEMORY;
    *values = larger;
    return 0;
}

static int make_room_for_word(Words *words) {
    if (words->count < words->room) return 0;
    int64_t room = words->room ? 2 * words->room : 1024;
    if (grow((void **)&words->hashes, sizeof *words->hashes * (size_t)room)) return OUT_OF_MEMORY;
    if (grow((void **)&words->lengths, sizeof *words->lengths * (size_t)room)) return OUT_OF_MEMORY;
    if (grow((void **)&words->facts, (size_t)room)) return OUT_OF_MEMORY;
    words->room = room;
    return 0;
}

static int make_room_for_chunk(Chunk *chunk, int64_t bytes) {
    if (bytes + 1 <= chunk->room) return 0;
    int64_t room = 2 * bytes + 256;
    if (grow((void **)&chunk->codes, sizeof *chunk->codes * (size_t)room)) return OUT_OF_MEMORY;
    if (grow((void **)&chunk->places, sizeof *chunk->places * (size_t)room)) return OUT_OF_MEMORY;
    if (grow((void **)&chunk->flags, (size_t)room)) return OUT_OF_MEMORY;
    if (grow((void **)&chunk->cuts, (size_t)room)) return OUT_OF_MEMORY;
    chunk->room = room;
    return 0;
}

static void note_stop_word(Words *words, const Language *language, uint64_t bytes) {
    if (!(language->stop_letters >> (bytes & 0x1F) & 1)) return; /* none begins like that */
    for (int number = 0; number < STOP_WORDS; number++)
        if (language->stop_words[number] == bytes) words->stop_words |= 1U << number;
}

static int add_word(Words *words, const Language *language, const uint8_t *place, const uint8_t *end, int64_t length,
                    uint8_t facts) {
    if (make_room_for_word(words)) return OUT_OF_MEMORY;
    words->hashes[words->count] = hash_bytes(place, end, language->seed);
    words->lengths[words->count] = (uint32_t)length;
    words->facts[words->count++] = facts;
    if (length >= 2 && end - place <= 4) note_stop_word(words, language, load(place, end));
    return 0;
}

/* Whether the chunk, opening punctuation aside, begins like https://host; ](https://host does not. */
static int is_address(const Chunk *chunk, int64_t size) {
    const uint32_t *codes = chunk->codes;
    for (int64_t place = 0; place + 2 < size; place++) {
        if (codes[place] != ':' || codes[place + 1] != '/' || codes[place + 2] != '/') continue;
        if (place + 3 == size || !(chunk->flags[place + 3] & ALNUM)) return 0;
        while (place && chunk->flags[place - 1] & ALNUM) place--;
        for (; place; place--)
            if (!(chunk->flags[place - 1] & PEELED)) return 0;
        return 1;
    }
    return 0;
}

static inline int is_apostrophe(uint32_t code) { return code == '\'' || code == CURLY; }

/* The letters and digits behind an apostrophe as one number, byte by byte; 0 where they are more than two or none, or
   not of ASCII. */
static uint32_t tail_of(const Chunk *chunk, int64_t size, int64_t place) {
    uint32_t tail = 0;
    int64_t end = place + 1;
    for (; end < size && end - place <= LONGEST_TAIL && chunk->flags[end] & ALNUM; end++)
        tail |= chunk->codes[end] < 0x80 ? chunk->codes[end] << 8 * (end - place - 1) : 0x80000000;
    return end - place > LONGEST_TAIL || tail >> 31 ? 0 : tail;
}

#define PAIR(first, second) ((uint32_t)(first) | (uint32_t)(second) << 8)

static int follows_apostrophe(uint32_t tail) { /* it's, they'll: words.BEHIND_APOSTROPHE */
    return tail == 's' || tail == 'S' || tail == 'm' || tail == 'd' || tail == PAIR('l', 'l') ||
           tail == PAIR('r', 'e') || tail == PAIR('v', 'e');
}

static int follows_blank(uint32_t tail) { /* 's alone: words.AFTER_BLANK */
    return tail == 's' || tail == 'S' || tail == 'd' || tail == PAIR('l', 'l') || tail == PAIR('r', 'e') ||
           tail == PAIR('e', 'm');
}

static int is_known(const Chunk *chunk, int64_t dot, const Language *language) {
    uint64_t bytes = 0;
    int64_t first = dot;
    while (first && dot - first < LONGEST_ABBREVIATION && chunk->flags[first - 1] & ALNUM) {
        first--;
        if (chunk->codes[first] >= 0x80) return 0;
        bytes = bytes << 8 | chunk->codes[first];
    }
    int64_t low = 0, high = language->abbreviation_count;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (language->abbreviations[middle] < bytes) low = middle + 1;
        else high = middle;
    }
    return low < language->abbreviation_count && language->abbreviations[low] == bytes;
}

/* Whether the full stop at `dot` belongs to the letters before it: Mr. J. e.g. U.S. */
static int is_abbreviation(const Chunk *chunk, int64_t dot, const Language *language) {
    const uint32_t *codes = chunk->codes;
    uint8_t before = chunk->flags[dot - 1], further = dot > 1 ? chunk->flags[dot - 2] : 0;
    if (before & UPPER) return !(further & UPPER);
    if (!(before & ALPHA)) {
        uint32_t mark = codes[dot - 1];
        return !(before & DIGIT || mark == '-' || mark == '+' || mark == 0xB2);
    }
    int opened = dot > 1 && further & PEELED && !is_apostrophe(codes[dot - 2]);
    if (!(further & ALNUM) && (dot == 1 || codes[dot - 2] == '.' || opened)) return 1;
    return is_known(chunk, dot, language);
}

/* it|'s, they|'ll, do|n't: cuts before the part that is shortened. */
static void cut_contraction(Chunk *chunk, int64_t size, int64_t place) {
    uint32_t tail = tail_of(chunk, size, place);
    if (follows_apostrophe(tail)) chunk->cuts[place] = 1;
    else if (tail == 't' && chunk->codes[place - 1] == 'n' && place > 1 && chunk->flags[place - 2] & ALPHA)
        chunk->cuts[place - 1] = 1;
}

static void cut_dots(Chunk *chunk, int64_t start, int64_t end) {
    while (start < end) {
        int64_t stop = start;
        while (stop < end && chunk->codes[stop] == '.') stop++;
        if (stop - start > 1) chunk->cuts[start] = chunk->cuts[stop] = 1;
        start = stop > start ? stop : start + 1;
    }
}

/* Punctuation inside a chunk joins, but for contractions, ellipses and a few signs between letters. */
static void cut_inner_run(Chunk *chunk, int64_t size, int64_t start, int64_t end, int web) {
    uint8_t before = chunk->flags[start - 1], after = chunk->flags[end];
    uint32_t mark = chunk->codes[start];
    int split = 0;
    if (end - start > 1) cut_dots(chunk, start, end);
    else if (is_apostrophe(mark)) cut_contraction(chunk, size, start);
    else if (mark == ELLIPSIS) split = 1;
    else if (web) return;
    else if (mark == '.') split = before & ALPHA && !(before & UPPER) && after & UPPER;
    else if (mark == ',') split = before & ALPHA && after & ALPHA;
    else if (mark == ':' || mark == '<' || mark == '>' || mark == '=' || mark == EM_DASH || mark == EN_DASH)
        split = before & ALNUM && after & ALPHA;
    if (split) chunk->cuts[start] = chunk->cuts[end] = 1;
}

/* One run of punctuation: at an end of the chunk each mark is a word, inside it joins. */
static void cut_run(Chunk *chunk, int64_t size, int64_t start, int64_t end, int web, const Language *language) {
    const uint32_t *codes = chunk->codes;
    if (start && end < size) {
        cut_inner_run(chunk, size, start, end, web);
        return;
    }
    for (int64_t place = start; place <= end; place++) {
        int inside_dots = start < place && place < end && codes[place - 1] == '.' && codes[place] == '.';
        if (!inside_dots) chunk->cuts[place] = 1;
    }
    if (end < size && codes[end - 1] == '\'' && follows_blank(tail_of(chunk, size, end - 1))) chunk->cuts[end] = 0;
    int lone_last = codes[end - 1] == '.' && (end - 1 == start || codes[end - 2] != '.');
    if (end < size && lone_last) chunk->cuts[end] = 0; /* .5 */
    int lone_first = codes[start] == '.' && (start + 1 == end || codes[start + 1] != '.');
    if (start && lone_first && is_abbreviation(chunk, start, language)) chunk->cuts[start] = 0;
}

/* well|-|known, either|/|or, a|=|b; numbers keep their signs but between digits. */
static void cut_at_hyphens(Chunk *chunk, int64_t size) {
    const uint32_t *codes = chunk->codes;
    for (int64_t start = 0, end; start < size; start = end) {
        uint32_t mark = codes[start];
        end = start + 1;
        if (mark == '-') while (end < size && end - start < 3 && codes[end] == '-') end++;
        else if (mark != '/' && mark != '~' && mark != '+' && mark != '^') continue;
        if (!start || end == size) continue;
        uint8_t before = chunk->flags[start - 1], after = chunk->flags[end];
        int lettered = (mark == '-' || mark == '/' || mark == '~') && before & ALNUM && after & ALPHA;
        int sign = end - start == 1 && (mark == '-' || mark == '+' || mark == '^') && before & DIGIT && after & DIGIT;
        if (lettered || sign) chunk->cuts[start] = chunk->cuts[end] = 1;
    }
}

/* Marks where the words of a chunk begin. */
static void cut_chunk(Chunk *chunk, int64_t size, const Language *language) {
    memset(chunk->cuts, 0, (size_t)size + 1);
    int web = is_address(chunk, size);
    for (int64_t start = 0, end; start < size; start = end > start ? end : start + 1) {
        end = start;
        while (end < size && (chunk->codes[end] == '.' || chunk->flags[end] & PEELED)) end++;
        if (end > start) cut_run(chunk, size, start, end, web, language);
    }
    if (!web) cut_at_hyphens(chunk, size);
    chunk->cuts[0] = chunk->cuts[size] = 1;
}

static int add_words(Words *words, const Chunk *chunk, int64_t size, const uint8_t *begin, const Language *language) {
    for (int64_t start = 0, end; start < size; start = end) {
        uint8_t any = 0, all = 0xFF;
        for (end = start; end == start || !chunk->cuts[end]; end++) {
            any |= chunk->flags[end];
            all &= chunk->flags[end];
        }
        int facts = (all & SYMBOL ? 0 : IS_FILLED) | (any & ALPHA ? IS_LETTERED : 0);
        if (end - start == 1 && any & STOP) facts |= IS_STOP;
        if (add_word(words, language, begin + chunk->places[start], begin + chunk->places[end], end - start,
                     (uint8_t)facts))
            return OUT_OF_MEMORY;
    }
    return 0;
}

/* Reads a chunk's characters up to the next blank; returns how many there are, or OUT_OF_MEMORY. */
static int64_t read_chunk(const uint8_t *begin, const uint8_t *end, const Language *language, Chunk *chunk) {
    int64_t size = 0;
    const uint8_t *place = begin;
    while (place < end) {
        int bytes;
        uint32_t code = decode(place, end, &bytes);
        uint8_t flags = language->flags[code];
        if (!(flags & FILLED)) break;
        if (make_room_for_chunk(chunk, size + 2)) return OUT_OF_MEMORY;
        chunk->codes[size] = code;
        chunk->flags[size] = flags;
        chunk->places[size++] = (uint32_t)(place - begin);
        place += bytes;
    }
    if (make_room_for_chunk(chunk, size + 2)) return OUT_OF_MEMORY;
    chunk->places[size] = (uint32_t)(place - begin);
    return size;
}

static inline int is_blank(const uint8_t *place, const uint8_t *end, const Language *language) {
    return place == end || (*place < 0x80 && !(language->flags[*place] & FILLED));
}

/* A chunk of letters and digits of ASCII with at most one mark behind them, as most are; `place` moves behind it. */
static int add_plain_chunk(const uint8_t **place, const uint8_t *end, const Language *language, Words *words) {
    const uint8_t *stop = *place, *flags = language->flags;
    uint8_t any = 0;
    while (stop < end && *stop < 0x80 && flags[*stop] & ALNUM) any |= flags[*stop++];
    int64_t length = stop - *place;
    int marked = length && stop < end && *stop < 0x80 && flags[*stop] & PEELED;
    if (!length || !is_blank(stop + marked, end, language)) return 0;
    if (add_word(words, language, *place, stop, length, any & ALPHA ? IS_FILLED | IS_LETTERED : IS_FILLED))
        return OUT_OF_MEMORY;
    *place = stop + marked;
    if (!marked) return 0;
    int facts = (flags[*stop] & SYMBOL ? 0 : IS_FILLED) | (flags[*stop] & STOP ? IS_STOP : 0);
    return add_word(words, language, stop, stop + 1, 1, (uint8_t)facts);
}

int find_words(const uint8_t *place, const uint8_t *end, const Language *language, Words *words, Chunk *chunk) {
    while (place < end) {
        const uint8_t *begin = place;
        if (is_blank(place, end, language)) {
            place++;
            continue;
        }
        if (add_plain_chunk(&place, end, language, words)) return OUT_OF_MEMORY;
        if (place > begin) continue;
        int64_t size = read_chunk(place, end, language, chunk);
        if (size < 0) return OUT_OF_MEMORY;
        if (!size) {
            place += character_size(*place); /* a blank */
            continue;
        }
        cut_chunk(chunk, size, language);
        if (add_words(words, chunk, size, place, language)) return OUT_OF_MEMORY;
        place += chunk->places[size];
    }
    return 0;
}
