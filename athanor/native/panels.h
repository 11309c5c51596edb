/* The loops of product.h, for the numbers of pairs.h or floats.h, which what includes this includes before; OF(name) is
   what a function is called. */

#ifndef ATHANOR_PANELS_H
#define ATHANOR_PANELS_H

#include "product.h"

#define PANEL 64            /* columns */
#define NEAR 65536          /* words that a core's own cache holds beside the panel that is read */
#define SLICE 262144        /* words of panels at a time */
#define DEEP 256            /* words of a sum before it is added to memory, where rows are far apart */
#define STRIP 48            /* columns of the left factor side by side: whole tiles, whole registers */
#define AT_ONCE (4 * STRIP) /* columns of the left factor that are packed before they are multiplied */
#define AHEAD 8             /* words that are fetched before they are packed */

/* Scratch memory that begins where a line of the cache does; free what is in *given. */
static word *scratch(int64_t words, void **given) {
    *given = malloc((size_t)words * 4 + 64);
    return *given ? (word *)(((uintptr_t)*given + 63) / 64 * 64) : NULL;
}

/* `wide` words whose numbers stand one below the other, with zeros for columns that are not there. */
INSIDE void pack_line(word *to, const number *from, int64_t row, int64_t columns, const int wide) {
    if (columns >= wide)
#pragma GCC unroll 4
        for (int i = 0; i < wide; i += 16) _mm512_storeu_si512(to + i, words_down(from + i, row, 0xFFFF));
    else
        for (int i = 0; i < wide; i += 16) _mm512_storeu_si512(to + i, words_down(from + i, row, lowest(columns - i)));
}

/* Packs columns for products with as many columns: panels [columns / 64][deep][64]. */
INSIDE void pack_down(word *to, const number *from, int64_t row, int64_t deep, int64_t columns) {
    for (int64_t n = 0; n < columns; n += PANEL)
        for (int64_t d = 0; d < deep; d++)
            pack_line(to + n * deep + d * PANEL, from + d * NUMBERS * row + n, row, columns - n, PANEL);
}

/* Packs columns that become rows: strips [columns / 48][deep][48]. Lines that are needed soon are asked for: the
   processor does not foresee such strides. */
INSIDE void pack_strips(word *to, const number *from, int64_t row, int64_t deep, int64_t columns) {
    for (int64_t d = 0; d < deep; d++, from += NUMBERS * row)
        for (int64_t n = 0; n < columns; n += STRIP) {
            for (int ahead = 0; ahead < NUMBERS; ahead++)
                for (size_t byte = 0; byte < STRIP * sizeof *from; byte += 64)
                    _mm_prefetch((const char *)(from + (AHEAD * NUMBERS + ahead) * row + n) + byte, _MM_HINT_T0);
            pack_line(to + n * deep + d * STRIP, from + n, row, columns - n, STRIP);
        }
}

/* One tile: rounded to y, or (+)= sums. */
INSIDE void one(const word *a, int64_t a_row, int64_t a_deep, const word *panel, int64_t deep, float *sums, number *y,
                int64_t y_row, int64_t columns, int add, const int tall) {
    __m512 got[TALL][WIDE];
    for (int m = 0; m < tall; m++) /* where the sums go is asked for while they are made */
        for (int n = 0; n < PANEL; n += 16) {
            if (sums) _mm_prefetch((const char *)(sums + m * y_row + n), _MM_HINT_T0);
            else if (n % 32 == 0 || sizeof *y == 4) _mm_prefetch((const char *)(y + m * y_row + n), _MM_HINT_T0);
        }
    tile(got, a, a_row, a_deep, panel, PANEL, deep, tall, WIDE);
    if (sums) {
        keep(got, sums, y_row, columns, add, tall, WIDE);
        return;
    }
#pragma GCC unroll 6
    for (int m = 0; m < tall; m++)
#pragma GCC unroll 4
        for (int n = 0; n < WIDE; n++) put_some(y + m * y_row + 16 * n, lowest(columns - 16 * n), got[m][n]);
}

/* All tiles of some rows and one panel; a_next: words to the left factor of the next tile. */
INSIDE void column_of_tiles(const word *a, int64_t a_row, int64_t a_deep, int64_t a_next, const word *panel, int64_t deep,
                            float *sums, number *y, int64_t y_row, int64_t rows, int64_t columns, int add) {
    for (int64_t m = 0; m < rows; m += TALL, a += a_next) {
        float *here = sums ? sums + m * y_row : NULL;
        number *there = y ? y + m * y_row : NULL;
        switch (rows - m) {
        case 1: one(a, a_row, a_deep, panel, deep, here, there, y_row, columns, add, 1); break;
        case 2: one(a, a_row, a_deep, panel, deep, here, there, y_row, columns, add, 2); break;
        case 3: one(a, a_row, a_deep, panel, deep, here, there, y_row, columns, add, 3); break;
        case 4: one(a, a_row, a_deep, panel, deep, here, there, y_row, columns, add, 4); break;
        case 5: one(a, a_row, a_deep, panel, deep, here, there, y_row, columns, add, 5); break;
        default: one(a, a_row, a_deep, panel, deep, here, there, y_row, columns, add, TALL);
        }
    }
}

FAST int64_t OF(product)(const void *left, const void *right, void *result, int64_t first, int64_t last,
                         int64_t numbers, int64_t columns, int64_t turned) {
    const number *a = left, *b = right;
    number *y = result;
    int64_t deep = numbers / NUMBERS, least = SLICE / deep / PANEL * PANEL, wide = least > PANEL ? least : PANEL;
    int64_t block = NEAR / deep / TALL * TALL;
    block = block > 4 * TALL ? block : 4 * TALL;
    void *memory;
    word *panels = scratch(deep * wide, &memory);
    if (!panels) return OUT_OF_MEMORY;
    for (int64_t from = 0; from < columns; from += wide) {
        int64_t slice = columns - from < wide ? columns - from : wide;
        if (turned) pack_columns(panels, (const word *)(b + from * numbers), slice, deep, deep);
        else pack_down(panels, b + from, columns, deep, slice);
        for (int64_t m = first; m < last; m += block)
            for (int64_t n = 0; n < slice; n += PANEL)
                column_of_tiles((const word *)(a + m * numbers), deep, 1, TALL * deep, panels + n * deep, deep, NULL,
                                y + m * columns + from + n, columns, last - m < block ? last - m : block, slice - n, 0);
    }
    free(memory);
    return 0;
}

FAST int64_t OF(product_down)(const void *left, const void *right, float *sums, void *result, int64_t first,
                              int64_t last, int64_t rows, int64_t a_columns, int64_t columns, int64_t add) {
    const number *a = left, *b = right;
    number *y = result;
    int64_t padded = (columns + PANEL - 1) / PANEL * PANEL;
    void *memory;
    word *panels = scratch(DEEP * (padded + AT_ONCE), &memory), *strips;
    if (!panels) return OUT_OF_MEMORY;
    strips = panels + DEEP * padded;
    for (int64_t m = 0; m < rows; m += DEEP * NUMBERS) {
        int64_t deep = rows - m < DEEP * NUMBERS ? (rows - m) / NUMBERS : DEEP;
        pack_down(panels, b + m * columns, columns, deep, columns);
        for (int64_t i = first; i < last; i += AT_ONCE) {
            int64_t count = last - i < AT_ONCE ? last - i : AT_ONCE;
            pack_strips(strips, a + m * a_columns + i, a_columns, deep, count);
            for (int64_t n = 0; n < columns; n += PANEL)
                for (int64_t j = 0; j < count; j += STRIP)
                    column_of_tiles(strips + j * deep, 1, STRIP, TALL, panels + n * deep, deep,
                                    sums + (i + j) * columns + n, NULL, columns, count - j < STRIP ? count - j : STRIP,
                                    columns - n, add || m);
        }
    }
    free(memory);
    if (y)
        for (int64_t i = first * columns; i < last * columns; i += 16) {
            __mmask16 some = lowest(last * columns - i);
            put_some(y + i, some, _mm512_maskz_loadu_ps(some, sums + i));
        }
    return 0;
}

#endif
