/* Byte-level BPE: text cut by one of four patterns, then the bytes of each piece merged (athanor/tokens/compiled.py).

   Merging is what Sennrich et al. 2016 define and the `tokenizers` library does: of all neighbouring pairs that the list
   of merges names, the one that stands first in it is merged, the leftmost of equal ones first, until none is left. */

#include "athanor.h"

enum { OTHER = 0, LETTER = 1, NUMBER = 2, SPACE = 3 }; /* classes of characters */
enum { /* the pattern (pipelines.py), one bit for each way in which the four differ */
    JOINS_ANY_MARK = 1, /* before letters: any one character but a line end; else one blank */
    ANY_CASE = 2,       /* 'S as 's */
    ENDS_LINES = 4      /* white space up to its last line end is a piece, and line ends join punctuation before */
};
enum { FEW = 128, PLACE_BITS = 7, CACHED_BYTES = 23, CACHED_IDS = 9, ALL_NUMBERS = 0 };
enum { PLANE = 0x10000, JOINS_FIRST = 1, LENDS_LAST = 2 }; /* whole characters, as compiled.py says */
static const uint32_t NO_RANK = 0xFFFFFFFF, NO_ID = 0xFFFFFFFF;
static const int32_t NO_KEY = INT32_MAX;

typedef struct {
    uint64_t pair; /* left id above right id, plus 1; 0: free */
    uint32_t rank, id;
} Merge;

/* A piece and its ids. */
typedef struct {
    uint8_t bytes[CACHED_BYTES], size;
    uint32_t count;
    uint32_t ids[CACHED_IDS];
} Cached;

/* Room for one piece while it is merged; each id stands for the bytes up to the next part. */
typedef struct {
    uint32_t *ids, *ranks, *made; /* of a part, and of the pair with the part behind it */
    int32_t *next, *previous;
    uint64_t *heap; /* rank above place */
    int64_t room;
} Parts;

typedef struct {
    const uint8_t *classes; /* of every code point */
    int64_t form, digits;   /* the pattern: bits as above; most digits of a piece, 0 for any number */
    const uint32_t *byte_ids;
    const uint32_t *characters; /* ids of characters of three bytes that may be merged before all else, or NO_ID */
    const uint8_t *before;      /* characters behind which another may not */
    const Merge *merges;
    const uint64_t *filter; /* four bits for each slot: unset where no merged pair has such a hash */
    uint64_t mask;
    Cached *cache;
    uint64_t cache_mask;
} Encoder;

static inline uint64_t hash_pair(uint64_t pair) {
    pair = (pair ^ pair >> 32) * 0x9E3779B97F4A7C15;
    return pair ^ pair >> 29;
}

static inline uint64_t filter_word(uint64_t hash, uint64_t mask) { return hash >> 38 & mask >> 4; }

/* The rank of a pair, NO_RANK where it is none, and the id that it makes. */
static inline uint32_t find_merge(const Encoder *encoder, uint32_t left, uint32_t right, uint32_t *id) {
    uint64_t pair = ((uint64_t)left << 32 | right) + 1, hash = hash_pair(pair), place = hash & encoder->mask;
    if (!(encoder->filter[filter_word(hash, encoder->mask)] >> (hash >> 32 & 63) & 1)) return NO_RANK;
    while (encoder->merges[place].pair) {
        if (encoder->merges[place].pair == pair) {
            *id = encoder->merges[place].id;
            return encoder->merges[place].rank;
        }
        place = (place + 1) & encoder->mask;
    }
    return NO_RANK;
}

/* The rank of the pair at a place, above the place: of all, the least is merged next. */
static inline int32_t key_of(const Encoder *encoder, uint32_t *ids, uint32_t *made, int place, int behind, int count) {
    if (behind >= count) return NO_KEY;
    uint32_t rank = find_merge(encoder, ids[place], ids[behind], made + place);
    return rank == NO_RANK ? NO_KEY : (int32_t)(rank << PLACE_BITS) | place;
}

/* Merges at most FEW parts, looking at all keys each time; leaves the ids at the front and returns how many. */
static int64_t merge_few(const Encoder *encoder, uint32_t *ids, int count) {
    int32_t keys[FEW];
    uint32_t made[FEW];
    uint8_t next[FEW], previous[FEW];
    int left = 0;
    for (int place = 0; place < count; place++) {
        keys[place] = key_of(encoder, ids, made, place, place + 1, count);
        next[place] = (uint8_t)(place + 1);
        previous[place] = (uint8_t)(place - 1);
    }
    for (;;) {
        int32_t least = NO_KEY;
        for (int place = 0; place < count; place++) least = keys[place] < least ? keys[place] : least;
        if (least == NO_KEY) break;
        int place = least & (FEW - 1), gone = next[place], behind = next[gone];
        ids[place] = made[place];
        next[place] = (uint8_t)behind;
        keys[gone] = NO_KEY;
        if (behind < count) previous[behind] = (uint8_t)place;
        keys[place] = key_of(encoder, ids, made, place, behind, count);
        if (place) keys[previous[place]] = key_of(encoder, ids, made, previous[place], place, count);
    }
    for (int place = 0; place < count; place = next[place]) ids[left++] = ids[place];
    return left;
}

static void sift_up(uint64_t *heap, int64_t place) {
    uint64_t value = heap[place];
    for (; place && heap[(place - 1) / 2] > value; place = (place - 1) / 2) heap[place] = heap[(place - 1) / 2];
    heap[place] = value;
}

/* Takes the least value of a heap of `count`. */
static uint64_t take_least(uint64_t *heap, int64_t count) {
    uint64_t least = heap[0], value = heap[count - 1];
    int64_t place = 0;
    for (int64_t child; (child = 2 * place + 1) < count - 1; place = child) {
        if (child + 1 < count - 1 && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[place] = heap[child];
    }
    heap[place] = value;
    return least;
}

/* Notes the pair of a part and the one behind it, if it can be merged; returns the heap's new size. */
static int64_t note_pair(const Encoder *encoder, Parts *parts, int64_t place, int64_t size) {
    int64_t behind = parts->next[place];
    parts->ranks[place] =
        behind < 0 ? NO_RANK : find_merge(encoder, parts->ids[place], parts->ids[behind], parts->made + place);
    if (parts->ranks[place] == NO_RANK) return size;
    parts->heap[size] = (uint64_t)parts->ranks[place] << 32 | (uint64_t)place;
    sift_up(parts->heap, size);
    return size + 1;
}

/* Merges any number of parts with a heap: a run of a million letters takes no longer per letter than a short one. */
static int64_t merge_many(const Encoder *encoder, Parts *parts, int64_t count) {
    int64_t size = 0, left = 0;
    for (int64_t place = 0; place < count; place++) {
        parts->next[place] = place + 1 < count ? (int32_t)(place + 1) : -1;
        parts->previous[place] = (int32_t)(place - 1);
    }
    for (int64_t place = 0; place < count; place++) size = note_pair(encoder, parts, place, size);
    while (size) {
        uint64_t least = take_least(parts->heap, size--);
        int64_t place = (int64_t)(least & 0xFFFFFFFF);
        if (parts->ranks[place] != least >> 32) continue; /* merged meanwhile */
        int64_t gone = parts->next[place], behind = parts->next[gone];
        parts->ids[place] = parts->made[place];
        parts->ranks[gone] = NO_RANK;
        parts->next[place] = (int32_t)behind;
        if (behind >= 0) parts->previous[behind] = (int32_t)place;
        size = note_pair(encoder, parts, place, size);
        if (parts->previous[place] >= 0) size = note_pair(encoder, parts, parts->previous[place], size);
    }
    for (int64_t place = 0; place >= 0; place = parts->next[place]) parts->ids[left++] = parts->ids[place];
    return left;
}

static void free_parts(Parts *parts) {
    free(parts->ids);
    free(parts->ranks);
    free(parts->made);
    free(parts->next);
    free(parts->previous);
    free(parts->heap);
    memset(parts, 0, sizeof *parts);
}

static int make_room(Parts *parts, int64_t count) {
    if (count <= parts->room) return 0;
    free_parts(parts);
    size_t room = (size_t)count + 256;
    parts->ids = malloc(sizeof *parts->ids * room);
    parts->ranks = malloc(sizeof *parts->ranks * room);
    parts->made = malloc(sizeof *parts->made * room);
    parts->next = malloc(sizeof *parts->next * room);
    parts->previous = malloc(sizeof *parts->previous * room);
    parts->heap = malloc(sizeof *parts->heap * room * 3); /* at most one pair at first and two after each merge */
    parts->room = (int64_t)room;
    if (parts->ids && parts->ranks && parts->made && parts->next && parts->previous && parts->heap) return 0;
    return OUT_OF_MEMORY;
}

static Cached *find_cached(const Encoder *encoder, const uint8_t *place, int64_t size) {
    uint64_t hash = (uint64_t)size;
    for (int64_t done = 0; done < size; done += 8)
        hash = hash_pair(hash * 0xD6E8FEB86659FD93 ^ load(place + done, place + size));
    return encoder->cache + (hash & encoder->cache_mask);
}

/* Writes the ids of a piece's bytes to `ids`, those of a character as one where the order of merges allows it
   (compiled.py, whole_characters), and returns how many there are. */
static int64_t begin_piece(const Encoder *encoder, const uint8_t *place, const uint8_t *end, uint32_t *ids) {
    uint32_t *next = ids;
    int apart = 0; /* this character may not be merged before all else, for the one before it */
    while (place < end) {
        int size;
        uint32_t code = decode(place, end, &size), id = size == 3 ? encoder->characters[code] : NO_ID;
        int whole = id != NO_ID && !apart;
        if (whole) *next++ = id;
        else
            for (int number = 0; number < size; number++) *next++ = encoder->byte_ids[place[number]];
        apart = code >= PLANE || encoder->before[code] & (whole ? JOINS_FIRST : JOINS_FIRST | LENDS_LAST);
        place += size;
    }
    return next - ids;
}

/* Appends the ids of a piece to `out` and returns their end; NULL without memory. */
static uint32_t *encode_piece(const Encoder *encoder, const uint8_t *place, int64_t size, Parts *parts, uint32_t *out) {
    Cached *cached = size <= CACHED_BYTES ? find_cached(encoder, place, size) : NULL;
    if (cached && cached->size == size && !memcmp(cached->bytes, place, (size_t)size)) {
        for (uint32_t number = 0; number < cached->count; number++) out[number] = cached->ids[number];
        return out + cached->count;
    }
    if (make_room(parts, size)) return NULL;
    int64_t count = begin_piece(encoder, place, place + size, parts->ids);
    count = count <= FEW ? merge_few(encoder, parts->ids, (int)count) : merge_many(encoder, parts, count);
    memcpy(out, parts->ids, sizeof *out * (size_t)count);
    if (cached && count <= CACHED_IDS) {
        memcpy(cached->bytes, place, (size_t)size);
        memcpy(cached->ids, parts->ids, sizeof *out * (size_t)count);
        cached->size = (uint8_t)size;
        cached->count = (uint32_t)count;
    }
    return out + count;
}

static inline int class_at(const Encoder *encoder, const uint8_t *place, const uint8_t *end, int *size) {
    return encoder->classes[decode(place, end, size)];
}

/* Passes over characters of one class, at most so many (0: any number). */
static const uint8_t *pass(const Encoder *encoder, const uint8_t *place, const uint8_t *end, int class, int64_t most) {
    int size;
    for (int64_t number = 0; place < end && (!most || number < most); number++, place += size)
        if (class_at(encoder, place, end, &size) != class) break;
    return place;
}

static inline int is_line_end(uint8_t byte) { return byte == '\n' || byte == '\r'; }

/* 's 't 're 've 'm 'll 'd; the long s is an s where case does not matter. Returns the end, or NULL. */
static const uint8_t *pass_contraction(const Encoder *encoder, const uint8_t *place, const uint8_t *end) {
    int any_case = (encoder->form & ANY_CASE) != 0;
    if (*place != '\'' || end - place < 2) return NULL;
    uint8_t fold = any_case ? 0x20 : 0, first = place[1] | fold, second = end - place > 2 ? place[2] | fold : 0;
    if (place[1] < 0x80 && (first == 's' || first == 'd' || first == 'm' || first == 't')) return place + 2;
    if (any_case && end - place > 2 && place[1] == 0xC5 && place[2] == 0xBF) return place + 3;
    if (end - place < 3 || (place[1] | place[2]) & 0x80) return NULL;
    int longer = (first == 'l' && second == 'l') || ((first == 'v' || first == 'r') && second == 'e');
    return longer ? place + 3 : NULL;
}

/* White space from `place` on: up to its last line end; all at the end of the text; all but the last character; that. */
static const uint8_t *pass_space(const Encoder *encoder, const uint8_t *place, const uint8_t *end) {
    const uint8_t *stop = place, *last = place, *line_end = NULL;
    int size;
    while (stop < end && class_at(encoder, stop, end, &size) == SPACE) {
        last = stop;
        if (is_line_end(*stop)) line_end = stop + 1;
        stop += size;
    }
    if (line_end && encoder->form & ENDS_LINES) return line_end;
    return stop == end || last == place ? stop : last;
}

/* The end of the piece that begins at `place`. */
static const uint8_t *pass_piece(const Encoder *encoder, const uint8_t *place, const uint8_t *end) {
    int size, behind_size, class = class_at(encoder, place, end, &size);
    const uint8_t *behind = place + size, *contraction = pass_contraction(encoder, place, end);
    if (contraction) return contraction;
    if (class == LETTER) return pass(encoder, behind, end, LETTER, 0);
    int next = behind < end ? class_at(encoder, behind, end, &behind_size) : -1;
    int joins = encoder->form & JOINS_ANY_MARK ? class != NUMBER && !is_line_end(*place) : *place == ' ';
    if (joins && next == LETTER) return pass(encoder, behind, end, LETTER, 0);
    if (class == NUMBER) return pass(encoder, place, end, NUMBER, encoder->digits);
    if (*place == ' ' && next == NUMBER && !(encoder->form & JOINS_ANY_MARK)) return pass(encoder, behind, end, NUMBER, 0);
    if (class == OTHER || (*place == ' ' && next == OTHER)) {
        behind = pass(encoder, behind, end, OTHER, 0);
        while (encoder->form & ENDS_LINES && behind < end && is_line_end(*behind)) behind++;
        return behind;
    }
    return pass_space(encoder, place, end);
}

/* Fills a table of merges: mask + 1 slots of 16 bytes, at least 64 and twice as many as merges, and behind them a
   filter of half a byte for each. left, right: ids, in the order of the merges; made: the ids that they make. */
EXPORT int64_t athanor_bpe_table(const uint32_t *left, const uint32_t *right, const uint32_t *made, int64_t count,
                                 void *table, int64_t mask) {
    Merge *merges = table;
    uint64_t *filter = (uint64_t *)(merges + mask + 1);
    memset(merges, 0, sizeof *merges * ((size_t)mask + 1));
    memset(filter, 0, ((size_t)mask + 1) / 2);
    for (int64_t rank = 0; rank < count; rank++) {
        uint64_t pair = ((uint64_t)left[rank] << 32 | right[rank]) + 1, hash = hash_pair(pair);
        uint64_t place = hash & (uint64_t)mask;
        filter[filter_word(hash, (uint64_t)mask)] |= 1ULL << (hash >> 32 & 63);
        while (merges[place].pair) place = (place + 1) & (uint64_t)mask;
        merges[place] = (Merge){pair, (uint32_t)rank, made[rank]};
    }
    return 0;
}

/* The ids of every text.

   classes: of every code point. form, digits: the pattern. byte_ids: of the 256 bytes. characters, before: of the code
   points below 2^16 (Encoder). merges, mask: the table.
   cache: cache_mask + 1 entries of 64 bytes, zeros at first; kept by the caller from call to call, used by one thread
   at a time. mark: an id put before each text; below 0: none. ids: room for one for every byte and text. id_ends: where
   the ids of each text end. Returns 0, or -1 without memory. */
EXPORT int64_t athanor_bpe_encode(const uint8_t *data, const int64_t *ends, int64_t documents, const uint8_t *classes,
                                  int64_t form, int64_t digits, const uint32_t *byte_ids, const uint32_t *characters,
                                  const uint8_t *before, const void *merges, int64_t mask, void *cache,
                                  int64_t cache_mask, int64_t mark, uint32_t *ids, int64_t *id_ends) {
    const Merge *slots = merges;
    Encoder encoder = {classes, form, digits, byte_ids, characters, before, slots, (const uint64_t *)(slots + mask + 1),
                       (uint64_t)mask, cache, (uint64_t)cache_mask};
    Parts parts = {0};
    uint32_t *out = ids;
    for (int64_t d = 0; d < documents && out; d++) {
        const uint8_t *place = data + (d ? ends[d - 1] : 0), *end = data + ends[d];
        if (end - place > INT32_MAX / 2) out = NULL;
        if (out && mark >= 0) *out++ = (uint32_t)mark;
        while (out && place < end) {
            const uint8_t *stop = pass_piece(&encoder, place, end);
            out = encode_piece(&encoder, place, stop - place, &parts, out);
            place = stop;
        }
        id_ends[d] = out ? out - ids : 0;
    }
    free_parts(&parts);
    return out ? 0 : OUT_OF_MEMORY;
}
