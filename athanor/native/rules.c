/* What the published rules of Gopher, C4 and FineWeb count in a text: athanor/data/rules/plain_counts.py. */

#include "rules.h"

enum { SHORT_LINE = 30, FEWEST_WORDS_IN_LINE = 3, LONGEST_WORD = 1000 }; /* published.py */
enum { FOUND_NOTHING, FOUND_PLACEHOLDER, FOUND_BRACE, FAILED };
static const int64_t LARGEST = INT32_MAX; /* bytes of a text */

/* The order of the numbers that the caller gets (compiled.py). */
typedef struct {
    int64_t characters, line_feeds, words, filled_words, filled_characters, lettered_words, stop_words, hashes,
        ellipses, lines, bullet_lines, ellipsis_lines, full_lines, stopped_lines, short_lines, repeated_full_characters,
        rows, repeated_rows, repeated_row_characters, paragraphs, repeated_paragraphs, repeated_paragraph_characters,
        most_frequent[3], repeated[6], sentences, placeholder, braces;
} Counts;

/* Everything a text is counted with. */
typedef struct {
    Language language;
    Words words, line_words; /* of the text; of a line without its citations */
    Chunk chunk;
    Table table;
    uint8_t *line; /* room for a line without citations, then in lower case */
    int64_t line_room;
} Counter;

typedef struct {
    const uint8_t *begin, *end;
} Span;

static inline int64_t size_of(Span span) { return span.end - span.begin; }

static int64_t count_characters(Span span) {
    int64_t count = 0;
    for (const uint8_t *place = span.begin; place < span.end; place++) count += (*place & 0xC0) != 0x80;
    return count;
}

/* Where the character before `end` begins. */
static const uint8_t *before(const uint8_t *begin, const uint8_t *end) {
    const uint8_t *place = end - 1;
    while (place > begin && end - place < 4 && (*place & 0xC0) == 0x80) place--;
    return place;
}

static Span strip(Span span, const uint8_t *flags) {
    int size;
    while (span.begin < span.end && !(flags[decode(span.begin, span.end, &size)] & FILLED)) span.begin += size;
    while (span.begin < span.end) {
        const uint8_t *last = before(span.begin, span.end);
        if (flags[decode(last, span.end, &size)] & FILLED) break;
        span.end = last;
    }
    return span;
}

static int is_among(uint8_t byte, const char *bytes) { return byte && strchr(bytes, byte) != NULL; }

static int ends_with(Span span, const char *tail) {
    int64_t size = (int64_t)strlen(tail);
    return size_of(span) >= size && !memcmp(span.end - size, tail, (size_t)size);
}

static int starts_with(const uint8_t *place, const uint8_t *end, const char *head) {
    size_t size = strlen(head);
    return (size_t)(end - place) >= size && !memcmp(place, head, size);
}

/* The bytes of the line end (str.splitlines) at `place`; 0: there is none. */
static int line_end_size(const uint8_t *place, const uint8_t *end) {
    uint8_t byte = *place;
    if (byte == '\r') return starts_with(place + 1, end, "\n") ? 2 : 1;
    if ((byte >= '\n' && byte <= '\f') || (byte >= 0x1C && byte <= 0x1E)) return 1;
    if (byte == 0xC2) return starts_with(place + 1, end, "\x85") ? 2 : 0;
    return byte == 0xE2 && (starts_with(place + 1, end, "\x80\xA8") || starts_with(place + 1, end, "\x80\xA9")) ? 3 : 0;
}

/* The next line from `place` on; `next` is where the one behind it begins. */
static Span next_line(const uint8_t *place, const uint8_t *end, const uint8_t **next) {
    static const uint8_t likely[256] = {['\n'] = 1, ['\v'] = 1, ['\f'] = 1, ['\r'] = 1,   [0x1C] = 1,
                                        [0x1D] = 1, [0x1E] = 1, [0xC2] = 1, [0xE2] = 1};
    Span line = {place, place};
    for (; line.end < end; line.end++) {
        int size = likely[*line.end] ? line_end_size(line.end, end) : 0;
        if (!size) continue;
        *next = line.end + size;
        return line;
    }
    *next = end;
    return line;
}

static int64_t sentences_in(const Words *words, int64_t first) {
    int64_t count = 1;
    int stopped = 0;
    for (int64_t word = first; word < words->count; word++) {
        if (words->facts[word] & IS_STOP) {
            stopped = 1;
        } else if (stopped && words->facts[word] & IS_FILLED) {
            count++;
            stopped = 0;
        }
    }
    return count;
}

/* How many chunks stand between the blanks of a line, and the characters of the longest. */
static int64_t count_chunks(Span line, const uint8_t *flags, int64_t *longest) {
    int64_t count = 0, length = 0;
    int size;
    *longest = 0;
    for (const uint8_t *place = line.begin; place < line.end; place += size) {
        size = 1;
        uint32_t code = *place < 0x80 ? *place : decode(place, line.end, &size);
        length = flags[code] & FILLED ? length + 1 : 0;
        count += length == 1;
        if (length > *longest) *longest = length;
    }
    return count;
}

static int is_decimal_digit(uint32_t code, const Language *language) {
    if (code < 0x80) return code >= '0' && code <= '9';
    int64_t low = 0, high = language->digit_count;
    while (low < high) { /* the first run behind */
        int64_t middle = (low + high) / 2;
        if (language->digits[middle] <= code) low = middle + 1;
        else high = middle;
    }
    return low && code - language->digits[low - 1] < 10;
}

/* The bytes of a citation ([1], [], [edit], [citation needed]) at an opening bracket; 0: there is none. */
static int64_t citation_size(const uint8_t *begin, const uint8_t *end, const Language *language) {
    const uint8_t *place = begin + 1;
    if (starts_with(place, end, "edit]")) return 6;
    if (starts_with(place, end, "citation needed]")) return 17;
    while (place < end && *place != ']') {
        int size;
        if (!is_decimal_digit(decode(place, end, &size), language)) return 0;
        place += size;
    }
    return place < end ? place + 1 - begin : 0;
}

/* The line without citations, in the counter's room; itself where it has none. */
static Span without_citations(Span line, Counter *counter) {
    if (!memchr(line.begin, '[', (size_t)size_of(line))) return line;
    uint8_t *out = counter->line;
    const uint8_t *place = line.begin;
    while (place < line.end) {
        int64_t size = *place == '[' ? citation_size(place, line.end, &counter->language) : 0;
        place += size;
        if (!size) *out++ = *place++;
    }
    if (out - counter->line == size_of(line)) return line;
    return (Span){counter->line, out};
}

/* The line in lower case as far as the phrases below need it: ASCII, and the Kelvin sign, whose small letter is k. */
static Span lowered(Span line, uint8_t *out) {
    const uint8_t *begin = out;
    for (const uint8_t *place = line.begin; place < line.end; place++) {
        if (*place == 0xE2 && starts_with(place, line.end, "\xE2\x84\xAA")) {
            *out++ = 'k';
            place += 2;
        } else {
            *out++ = *place >= 'A' && *place <= 'Z' ? *place + 32 : *place;
        }
    }
    return (Span){begin, out};
}

/* Whether a phrase stands in a line; it is looked for by one of its rarer letters. */
static int contains(Span line, const char *phrase, int letter) {
    const uint8_t *place = line.begin + letter;
    while (place < line.end && (place = memchr(place, phrase[letter], (size_t)(line.end - place)))) {
        if (starts_with(place - letter, line.end, phrase)) return 1;
        place++;
    }
    return 0;
}

static int speaks_of_policy(Span small) {
    if (contains(small, "terms of use", 7) || contains(small, "privacy policy", 3)) return 1;
    return contains(small, "cookie", 3) && (contains(small, "cookie policy", 3) || contains(small, "uses cookies", 8) ||
                                            contains(small, "use of cookies", 10) || contains(small, "use cookies", 7));
}

/* C4: adds the sentences of a line that it keeps; FOUND_... when the line drops the whole page. The words from `first`
   on are those of the line. */
static int keep_line(Span line, Counter *counter, int64_t first, Counts *counts) {
    int64_t longest, chunks;
    line = strip(line, counter->language.flags);
    if (line.begin == line.end || !is_among(line.end[-1], ".?!\"']")) return FOUND_NOTHING;
    chunks = count_chunks(line, counter->language.flags, &longest);
    if (chunks < FEWEST_WORDS_IN_LINE || longest > LONGEST_WORD) return FOUND_NOTHING;
    Span edited = without_citations(line, counter);
    if (edited.begin == edited.end || !is_among(edited.end[-1], ".?!\"'") || ends_with(edited, "..."))
        return FOUND_NOTHING;
    const Words *words = &counter->words;
    if (edited.begin != line.begin) {
        counter->line_words.count = first = 0;
        words = &counter->line_words;
        if (find_words(edited.begin, edited.end, &counter->language, &counter->line_words, &counter->chunk))
            return FAILED;
    }
    Span small = lowered(edited, counter->line);
    if (contains(small, "lorem ipsum", 7)) return FOUND_PLACEHOLDER;
    if (contains(small, "javascript", 0)) return FOUND_NOTHING;
    if (memchr(small.begin, '{', (size_t)size_of(small))) return FOUND_BRACE;
    if (!speaks_of_policy(small)) counts->sentences += sentences_in(words, first);
    return FOUND_NOTHING;
}

/* What is counted line by line as str.splitlines cuts, and all words. */
static int count_lines(Span text, Counter *counter, Counts *counts) {
    int found = FOUND_NOTHING;
    const uint8_t *place = text.begin, *flags = counter->language.flags;
    while (place < text.end) {
        Span line = next_line(place, text.end, &place);
        int64_t first = counter->words.count;
        if (find_words(line.begin, line.end, &counter->language, &counter->words, &counter->chunk))
            return OUT_OF_MEMORY;
        counts->lines++;
        if (counter->words.count == first) continue; /* a blank line */
        Span inner = strip(line, flags);
        counts->bullet_lines += *inner.begin == '-' || starts_with(inner.begin, inner.end, "\xE2\x80\xA2");
        counts->ellipsis_lines += ends_with(inner, "...") || ends_with(inner, "\xE2\x80\xA6");
        if (found == FOUND_NOTHING) found = keep_line(line, counter, first, counts);
        if (found == FAILED) return OUT_OF_MEMORY;
    }
    counts->placeholder = found == FOUND_PLACEHOLDER;
    counts->braces = found == FOUND_BRACE;
    return 0;
}

/* Whether these bytes stood in the table before; they stand there now. */
static int occurred_before(Span part, Table *table, uint64_t seed) {
    return find_slot(table, hash_bytes(part.begin, part.end, seed))->count++ > 0;
}

/* What is counted line by line as line feeds cut: FineWeb's lines, Gopher's rows. */
static int count_rows(Span text, int64_t line_feeds, Counter *counter, Counts *counts) {
    const uint8_t *flags = counter->language.flags;
    if (clear_table(&counter->table, line_feeds + 1)) return OUT_OF_MEMORY;
    for (Span line = {text.begin, text.begin};; line.begin = ++line.end) {
        const uint8_t *feed = memchr(line.begin, '\n', (size_t)(text.end - line.begin));
        line.end = feed ? feed : text.end;
        int border = line.begin == text.begin || line.end == text.end; /* elsewhere an empty line is no row */
        int row = size_of(line) > 0 || border;
        int again = row && occurred_before(line, &counter->table, counter->language.seed);
        int64_t length = count_characters(line);
        counts->rows += row;
        counts->repeated_rows += again;
        counts->repeated_row_characters += again ? length : 0;
        Span inner = strip(line, flags);
        if (size_of(inner)) {
            int size;
            uint32_t last = decode(before(line.begin, line.end), line.end, &size);
            counts->full_lines++;
            counts->stopped_lines += (flags[last] & STOP_OF_LINE) != 0;
            counts->short_lines += length <= SHORT_LINE;
            counts->repeated_full_characters += again ? length : 0;
        }
        if (line.end == text.end) return 0;
    }
}

/* Gopher's paragraphs: what stands between runs of two line feeds and more. */
static int count_paragraphs(Span text, int64_t line_feeds, Counter *counter, Counts *counts) {
    text = strip(text, counter->language.flags);
    if (clear_table(&counter->table, line_feeds + 1)) return OUT_OF_MEMORY;
    for (Span part = {text.begin, text.begin};; part.begin = part.end) {
        while ((part.end = memchr(part.end, '\n', (size_t)(text.end - part.end))) && !starts_with(part.end, text.end, "\n\n"))
            part.end++;
        if (!part.end) part.end = text.end;
        counts->paragraphs++;
        if (occurred_before(part, &counter->table, counter->language.seed)) {
            counts->repeated_paragraphs++;
            counts->repeated_paragraph_characters += count_characters(part);
        }
        if (part.end == text.end) return 0;
        while (part.end < text.end && *part.end == '\n') part.end++;
    }
}

static void count_signs(Span text, Counts *counts) {
    for (const uint8_t *place = text.begin; place < text.end; place++) {
        counts->line_feeds += *place == '\n';
        counts->hashes += *place == '#';
    }
    const uint8_t *place = text.begin;
    while ((place = memchr(place, '.', (size_t)(text.end - place)))) {
        const uint8_t *stop = place;
        while (stop < text.end && *stop == '.') stop++;
        counts->ellipses += (stop - place) / 3;
        place = stop;
    }
    place = text.begin;
    while ((place = memchr(place, 0xE2, (size_t)(text.end - place))))
        counts->ellipses += starts_with(place++, text.end, "\xE2\x80\xA6");
}

static int count_text(Span text, Counter *counter, Counts *counts) {
    Words *words = &counter->words;
    memset(counts, 0, sizeof *counts);
    if (size_of(text) > counter->line_room) {
        free(counter->line);
        counter->line_room = 2 * size_of(text);
        if (!(counter->line = malloc((size_t)counter->line_room))) return OUT_OF_MEMORY;
    }
    words->count = 0;
    words->stop_words = 0;
    counts->characters = count_characters(text);
    count_signs(text, counts);
    if (count_lines(text, counter, counts) || count_rows(text, counts->line_feeds, counter, counts) ||
        count_paragraphs(text, counts->line_feeds, counter, counts) ||
        count_runs(words, &counter->table, counts->most_frequent, counts->repeated))
        return OUT_OF_MEMORY;
    counts->words = words->count;
    for (int64_t word = 0; word < words->count; word++) {
        int filled = words->facts[word] & IS_FILLED ? 1 : 0;
        counts->filled_words += filled;
        counts->filled_characters += filled * words->lengths[word];
        counts->lettered_words += (words->facts[word] & IS_LETTERED) != 0;
    }
    for (int number = 0; number < STOP_WORDS; number++) counts->stop_words += words->stop_words >> number & 1;
    return 0;
}

/* Counts every text of a block. counts: room for one `Counts` of 34 numbers for each. Returns 0, or -1 without memory
   or for a text of more than 2 GB. */
EXPORT int64_t athanor_rule_counts(const uint8_t *data, const int64_t *ends, int64_t documents, const uint8_t *flags,
                                   const uint64_t *abbreviations, int64_t abbreviation_count,
                                   const uint64_t *stop_words, const uint32_t *digits, int64_t digit_count,
                                   int64_t seed, int64_t *counts) {
    Counter counter;
    int status = 0;
    memset(&counter, 0, sizeof counter);
    counter.language = (Language){flags, abbreviations, abbreviation_count, stop_words, 0, digits, digit_count,
                                  (uint64_t)seed};
    for (int number = 0; number < STOP_WORDS; number++)
        counter.language.stop_letters |= 1U << (stop_words[number] & 0x1F);
    for (int64_t d = 0; d < documents && !status; d++) {
        Span text = {data + (d ? ends[d - 1] : 0), data + ends[d]};
        if (size_of(text) > LARGEST) status = OUT_OF_MEMORY;
        else status = count_text(text, &counter, (Counts *)(void *)counts + d);
    }
    free_words(&counter.words);
    free_words(&counter.line_words);
    free_chunk(&counter.chunk);
    free(counter.table.slots);
    free(counter.line);
    return status;
}
