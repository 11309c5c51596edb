/* Runs of words that occur more than once in a text (athanor/data/rules/plain_counts.py: most_frequent, repeated).

   A run that occurs twice begins with a narrower one that does. So every run of two words is looked at, and from width
   to width only those that can still occur twice. Equal hashes of 64 bits stand for equal runs. */

#include "rules.h"

enum { NARROWEST = 2, WIDEST = 10, FIRST_REPEATED = 5 };
static const uint64_t RUN = 0xD6E8FEB86659FD93;
static const uint32_t SEEN = 0xFFFFFFFF;

int clear_table(Table *table, int64_t entries) {
    int64_t size = 64;
    while (size < 2 * entries) size *= 2;
    if (size > table->room) {
        free(table->slots);
        table->slots = malloc(sizeof *table->slots * (size_t)size);
        table->room = table->slots ? size : 0;
        if (!table->slots) return OUT_OF_MEMORY;
    }
    table->mask = (uint64_t)size - 1;
    memset(table->slots, 0, sizeof *table->slots * (size_t)size);
    return 0;
}

static inline uint64_t extend(uint64_t run, uint64_t word) {
    run = run * RUN + word;
    run = (run ^ run >> 31) * 0x9E3779B97F4A7C15;
    return run ^ run >> 32;
}

static int64_t characters(const Words *words, int64_t place, int width) {
    int64_t sum = 0;
    for (int number = 0; number < width; number++) sum += words->lengths[place + number];
    return sum;
}

/* The runs of one width that may occur twice: hashes, and the words they begin with, in order. */
typedef struct {
    uint64_t *keys;
    int64_t *places, count;
} Runs;

/* Characters of the most frequent run, blanks between its words included, times its count; the first among equals. */
static int64_t most_frequent_of(const Runs *runs, const Words *words, Table *table, int width) {
    int64_t best = 0;
    uint32_t most = 1;
    for (int64_t number = 0; number < runs->count; number++) {
        const Slot *slot = find_slot(table, runs->keys[number]);
        if (slot->first == number && slot->count > most) {
            most = slot->count;
            best = runs->places[number];
        }
    }
    if (words->count < width) return 0;
    return (characters(words, best, width) + width - 1) * most; /* where none occurs twice, the text's first */
}

/* Characters of the runs that occurred before; after one, counting goes on behind it. */
static int64_t repeated_of(const Runs *runs, const Words *words, Table *table, int width) {
    int64_t sum = 0, free_place = 0;
    for (int64_t number = 0; number < runs->count; number++) {
        Slot *slot = find_slot(table, runs->keys[number]);
        if (runs->places[number] < free_place || slot->count < 2) continue;
        if (slot->first == SEEN) {
            sum += characters(words, runs->places[number], width);
            free_place = runs->places[number] + width;
        }
        slot->first = SEEN;
    }
    return sum;
}

/* Leaves the runs that occur twice, a word wider. */
static void widen(Runs *runs, const Words *words, Table *table, int width) {
    int64_t left = 0;
    for (int64_t number = 0; number < runs->count; number++) {
        int64_t place = runs->places[number];
        if (place + width >= words->count || find_slot(table, runs->keys[number])->count < 2) continue;
        runs->places[left] = place;
        runs->keys[left++] = extend(runs->keys[number], words->hashes[place + width]);
    }
    runs->count = left;
}

int count_runs(const Words *words, Table *table, int64_t *most_frequent, int64_t *repeated) {
    int64_t count = words->count > 1 ? words->count - 1 : 0;
    Runs runs = {malloc(sizeof(uint64_t) * (size_t)(count + 1)), malloc(sizeof(int64_t) * (size_t)(count + 1)), count};
    int status = runs.keys && runs.places ? 0 : OUT_OF_MEMORY;
    for (int64_t place = 0; place < count && !status; place++) {
        runs.places[place] = place;
        runs.keys[place] = extend(words->hashes[place], words->hashes[place + 1]);
    }
    for (int width = NARROWEST; width <= WIDEST && !status; width++) {
        if ((status = clear_table(table, runs.count))) break;
        for (int64_t number = 0; number < runs.count; number++) {
            Slot *slot = find_slot(table, runs.keys[number]);
            if (!slot->count++) slot->first = (uint32_t)number;
        }
        if (width < FIRST_REPEATED) most_frequent[width - NARROWEST] = most_frequent_of(&runs, words, table, width);
        else repeated[width - FIRST_REPEATED] = repeated_of(&runs, words, table, width);
        widen(&runs, words, table, width);
    }
    free(runs.keys);
    free(runs.places);
    return status;
}
