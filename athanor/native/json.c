/* The field "text" of JSON lines, without making anything of the other fields.

   Only lines whose outcome is certain are accepted: strict JSON (RFC 8259) with a string "text". For every other line,
   wrong or merely unusual (deep nesting, escapes in a name, half a surrogate pair, a huge number), the caller asks a
   full parser. So this file must never accept what that parser refuses; it may refuse what that one accepts. */

#include "athanor.h"

enum { FOUND = 0, EMPTY = 1, UNCERTAIN = 2 };
enum { DEEPEST = 32, MOST_DIGITS = 17 };

typedef struct {
    const uint8_t *place, *end;
} Reader;

static void skip_blanks(Reader *in) {
    while (in->place < in->end && (*in->place == ' ' || *in->place == '\t' || *in->place == '\r')) in->place++;
}

static int take(Reader *in, uint8_t wanted) {
    if (in->place == in->end || *in->place != wanted) return 0;
    in->place++;
    return 1;
}

/* Marks, by its highest bit, the first of eight bytes that is not plain: a quote, a backslash, a control character, or
   outside ASCII. Bytes behind the first may be marked without reason. */
static inline uint64_t mark_special(uint64_t bytes) {
    uint64_t quote = bytes ^ EVERY('"'), slash = bytes ^ EVERY('\\');
    uint64_t found = ((quote - EVERY(1)) & ~quote) | ((slash - EVERY(1)) & ~slash) | (bytes - EVERY(0x20));
    return (found | bytes) & HIGH;
}

static inline int is_continued(uint8_t byte) { return (byte & 0xC0) == 0x80; }

/* The bytes of the well-formed character of UTF-8 at `place` (Unicode 16, table 3-7); 0: there is none. */
static inline int valid_size(const uint8_t *place, const uint8_t *end) {
    int size = character_size(*place);
    if (size == 1 || end - place < size || !is_continued(place[1])) return 0;
    if (size == 2) return *place >= 0xC2 ? 2 : 0;
    if (!is_continued(place[2])) return 0;
    if (size == 3) {
        if (*place == 0xE0) return place[1] >= 0xA0 ? 3 : 0;
        return *place == 0xED && place[1] >= 0xA0 ? 0 : 3;
    }
    if (!is_continued(place[3])) return 0;
    if (*place == 0xF0) return place[1] >= 0x90 ? 4 : 0;
    return *place < 0xF4 || (*place == 0xF4 && place[1] < 0x90) ? 4 : 0;
}

/* The value of four hexadecimal digits, -1 where they are none. */
static int32_t four_digits(Reader *in) {
    if (in->end - in->place < 4) return -1;
    int32_t value = 0;
    for (int number = 0; number < 4; number++) {
        uint8_t digit = *in->place++;
        if (digit >= '0' && digit <= '9') value = value * 16 + digit - '0';
        else if ((digit | 32) >= 'a' && (digit | 32) <= 'f') value = value * 16 + (digit | 32) - 'a' + 10;
        else return -1;
    }
    return value;
}

static uint8_t *encode(uint32_t code, uint8_t *out) {
    if (code < 0x80) {
        *out++ = (uint8_t)code;
    } else if (code < 0x800) {
        *out++ = (uint8_t)(0xC0 | code >> 6);
        *out++ = (uint8_t)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *out++ = (uint8_t)(0xE0 | code >> 12);
        *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3F));
        *out++ = (uint8_t)(0x80 | (code & 0x3F));
    } else {
        *out++ = (uint8_t)(0xF0 | code >> 18);
        *out++ = (uint8_t)(0x80 | (code >> 12 & 0x3F));
        *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3F));
        *out++ = (uint8_t)(0x80 | (code & 0x3F));
    }
    return out;
}

/* What follows a backslash, written to `out`; NULL: not certain. It is never longer than its spelling. */
static uint8_t *read_escape(Reader *in, uint8_t *out) {
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (in->place == in->end) return NULL;
    uint8_t name = *in->place++;
    if (name != 'u') {
        const char *found = name ? strchr(names, name) : NULL;
        if (!found) return NULL;
        *out++ = (uint8_t)meant[found - names];
        return out;
    }
    int32_t code = four_digits(in);
    if (code < 0 || (code >= 0xDC00 && code < 0xE000)) return NULL;
    if (code >= 0xD800 && code < 0xDC00) {
        if (!take(in, '\\') || !take(in, 'u')) return NULL;
        int32_t low = four_digits(in);
        if (low < 0xDC00 || low >= 0xE000) return NULL;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    return encode((uint32_t)code, out);
}

/* Copies plain characters while there are eight bytes to look at; stops at or before the first that is not plain. */
static uint8_t *copy_plain(Reader *in, uint8_t *out) {
    while (in->end - in->place >= 8) {
        uint64_t bytes;
        memcpy(&bytes, in->place, 8);
        memcpy(out, &bytes, 8);
        uint64_t marked = mark_special(bytes);
        int plain = marked ? lowest_byte(marked) : 8;
        in->place += plain;
        out += plain;
        if (plain < 8) break;
    }
    return out;
}

/* Copies characters outside ASCII, at least one; NULL: the bytes are no UTF-8. */
static uint8_t *copy_characters(Reader *in, uint8_t *out) {
    do {
        uint32_t four;
        while (in->end - in->place >= 4) { /* U+1000 to U+CFFF, which needs no further look */
            memcpy(&four, in->place, 4);
            if ((four & 0xC0C0F0) != 0x8080E0 || (four & 0x0F) == 0 || (four & 0x0F) == 0x0D) break;
            memcpy(out, &four, 4);
            in->place += 3;
            out += 3;
        }
        if (in->place == in->end || *in->place < 0x80) break;
        int size = valid_size(in->place, in->end);
        if (!size) return NULL;
        for (int number = 0; number < size; number++) out[number] = in->place[number];
        in->place += size;
        out += size;
    } while (in->place < in->end && *in->place >= 0x80);
    return out;
}

/* Reads a string behind its first quote and writes its bytes to `out`; returns their end, NULL where not certain. */
static uint8_t *read_string(Reader *in, uint8_t *out) {
    while (in->place < in->end) {
        uint8_t byte = *in->place;
        if (byte == '"') {
            in->place++;
            return out;
        }
        if (byte == '\\') {
            in->place++;
            if (!(out = read_escape(in, out))) return NULL;
        } else if (byte < 0x20) {
            return NULL;
        } else if (byte < 0x80) {
            *out++ = *in->place++;
            out = copy_plain(in, out);
        } else if (!(out = copy_characters(in, out))) {
            return NULL;
        }
    }
    return NULL;
}

static int64_t read_digits(Reader *in) {
    const uint8_t *begin = in->place;
    while (in->place < in->end && *in->place >= '0' && *in->place <= '9') in->place++;
    return in->place - begin;
}

/* A number of at most 17 digits without an exponent: larger ones are read differently by different parsers. */
static int read_number(Reader *in) {
    take(in, '-');
    const uint8_t *begin = in->place;
    int64_t digits = read_digits(in);
    if (!digits || (digits > 1 && *begin == '0')) return 0;
    if (take(in, '.')) {
        int64_t behind = read_digits(in);
        if (!behind) return 0;
        digits += behind;
    }
    return digits <= MOST_DIGITS && !(in->place < in->end && (*in->place | 32) == 'e');
}

static int read_word(Reader *in, const char *word) {
    while (*word)
        if (!take(in, (uint8_t)*word++)) return 0;
    return 1;
}

/* What is wanted of a row: its last "text", and where the values of other fields stand. */
typedef struct {
    uint8_t *text, *text_end;
    const char *names; /* of the fields, each with a zero behind it */
    int64_t fields;
    int64_t *spans; /* of the value of each field: first byte, and the one behind the last; -1: it is not there */
    const uint8_t *data;
} Found;

static int read_object(Reader *in, uint8_t *out, Found *found, int depth);

/* Any value; whether it is certain. `out` is room for its strings. */
static int read_value(Reader *in, uint8_t *out, int depth) {
    if (in->place == in->end || depth > DEEPEST) return 0;
    switch (*in->place) {
    case '"': in->place++; return read_string(in, out) != NULL;
    case '{': in->place++; return read_object(in, out, NULL, depth + 1);
    case 't': return read_word(in, "true");
    case 'f': return read_word(in, "false");
    case 'n': return read_word(in, "null");
    case '[': break;
    default: return read_number(in);
    }
    in->place++;
    skip_blanks(in);
    if (take(in, ']')) return 1;
    for (;;) {
        skip_blanks(in);
        if (!read_value(in, out, depth + 1)) return 0;
        skip_blanks(in);
        if (take(in, ']')) return 1;
        if (!take(in, ',')) return 0;
    }
}

/* Notes where the value of a field stands, if it is wanted. */
static void note_field(Found *found, const uint8_t *name, int64_t size, const uint8_t *value, const uint8_t *end) {
    const char *wanted = found->names;
    for (int64_t field = 0; field < found->fields; field++, wanted += strlen(wanted) + 1) {
        if ((int64_t)strlen(wanted) != size || memcmp(wanted, name, (size_t)size)) continue;
        found->spans[2 * field] = value - found->data;
        found->spans[2 * field + 1] = end - found->data;
    }
}

/* An object behind its brace; `found` is for the outermost one. */
static int read_object(Reader *in, uint8_t *out, Found *found, int depth) {
    skip_blanks(in);
    if (take(in, '}')) return 1;
    for (;;) {
        skip_blanks(in);
        if (!take(in, '"')) return 0;
        const uint8_t *name = in->place;
        uint8_t *name_end = read_string(in, out);
        int64_t size = in->place - 1 - name;
        if (!name_end || name_end - out != size) return 0; /* a name with escapes */
        skip_blanks(in);
        if (!take(in, ':')) return 0;
        skip_blanks(in);
        const uint8_t *value = in->place;
        if (found && size == 4 && !memcmp(name, "text", 4)) {
            if (!take(in, '"')) return 0;
            if (!(found->text_end = read_string(in, out))) return 0;
            found->text = out;
            out = found->text_end;
        } else if (!read_value(in, out, depth)) {
            return 0;
        } else if (found) {
            note_field(found, name, size, value, in->place);
        }
        skip_blanks(in);
        if (take(in, '}')) return 1;
        if (!take(in, ',')) return 0;
    }
}

/* The texts of all whole lines of a block, and where the values of other fields stand.

   data, size: the block. names, fields: of the other fields (Found). texts: room for `size` bytes; gets the texts one
   behind the other. line_ends, text_ends, states: room for `most` lines: where line and text end, and whether the text
   was found (0), the line is empty (1) or a full parser must be asked (2; its text is empty here). spans: two numbers
   for each line and field. Returns how many lines were read; what stands behind the last line feed is none. */
EXPORT int64_t athanor_json_texts(const uint8_t *data, int64_t size, const char *names, int64_t fields, uint8_t *texts,
                                  int64_t *line_ends, int64_t *text_ends, uint8_t *states, int64_t *spans,
                                  int64_t most) {
    const uint8_t *place = data, *end = data + size;
    uint8_t *out = texts;
    int64_t lines = 0;
    while (lines < most && place < end) {
        const uint8_t *line_end = memchr(place, '\n', (size_t)(end - place));
        if (!line_end) break;
        Found found = {NULL, NULL, names, fields, spans + 2 * fields * lines, data};
        Reader in = {place, line_end};
        for (int64_t number = 0; number < 2 * fields; number++) found.spans[number] = -1;
        states[lines] = UNCERTAIN;
        skip_blanks(&in);
        if (place == line_end) {
            states[lines] = EMPTY;
        } else if (take(&in, '{') && read_object(&in, out, &found, 0) && found.text) {
            skip_blanks(&in);
            states[lines] = in.place == line_end ? FOUND : UNCERTAIN;
        }
        if (states[lines] == FOUND) {
            memmove(out, found.text, (size_t)(found.text_end - found.text));
            out += found.text_end - found.text;
        }
        place = line_end + 1;
        text_ends[lines] = out - texts;
        line_ends[lines++] = place - data;
    }
    return lines;
}

static uint8_t *append(uint8_t *out, const void *bytes, size_t size) {
    memcpy(out, bytes, size);
    return out + size;
}

static uint8_t *append_number(uint8_t *out, int64_t number) {
    uint8_t digits[20];
    int count = 0;
    do digits[count++] = (uint8_t)('0' + number % 10);
    while (number /= 10);
    while (count) *out++ = digits[--count];
    return out;
}

/* A row of a table of documents: {"id": …, "source": …, "language": …, "bytes": …, "characters": …}.

   spans: of id, source and language in `data`, as above. data_B, ends: the documents' texts. out: room for what the
   spans hold and 128 bytes for each document. plain: gets 0 for a document whose values are no plain strings (or
   no language or null), which gets no row. row_ends: where each row ends. Returns 0. */
EXPORT int64_t athanor_document_rows(const uint8_t *data, const int64_t *spans, const uint8_t *data_B,
                                     const int64_t *ends, int64_t documents, uint8_t *out, int64_t *row_ends,
                                     uint8_t *plain) {
    static const char *const before[3] = {"{\"id\": ", ", \"source\": ", ", \"language\": "};
    const uint8_t *begin = out;
    for (int64_t d = 0; d < documents; d++, spans += 6) {
        uint8_t *row = out;
        int64_t characters = 0, first = d ? ends[d - 1] : 0;
        plain[d] = 1;
        for (int field = 0; field < 3; field++) {
            const uint8_t *value = spans[2 * field] < 0 ? (const uint8_t *)"null" : data + spans[2 * field];
            size_t size = spans[2 * field] < 0 ? 4 : (size_t)(spans[2 * field + 1] - spans[2 * field]);
            int null = field == 2 && size == 4 && !memcmp(value, "null", 4);
            if (!null && (*value != '"' || memchr(value, '\\', size))) plain[d] = 0;
            out = append(out, before[field], strlen(before[field]));
            out = append(out, value, size);
        }
        for (int64_t place = first; place < ends[d]; place++) characters += (data_B[place] & 0xC0) != 0x80;
        out = append(out, ", \"bytes\": ", 11);
        out = append_number(out, ends[d] - first);
        out = append(out, ", \"characters\": ", 16);
        out = append_number(out, characters);
        out = append(out, "}\n", 2);
        if (!plain[d]) out = row;
        row_ends[d] = out - begin;
    }
    return 0;
}
