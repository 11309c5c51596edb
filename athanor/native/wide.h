/* Products and exponentials in registers of 16 numbers, of which attention, large products and what stands between them
   are made. What includes this (pairs.h, floats.h) defines before: FAST, the processors it is for, and
   MULTIPLY_ADD(sums, left, right), which adds to each of 16 sums the product of a word on the left and one on the right.
   A word holds a pair of bfloat16 numbers or one of float32. */

#ifndef ATHANOR_WIDE_H
#define ATHANOR_WIDE_H

#include "attention.h"
#include "numbers.h"
#include <immintrin.h>

#define INSIDE static inline __attribute__((always_inline)) FAST
#define NEVER -1e30f

typedef uint32_t __attribute__((may_alias)) word;

/* What a tile adds up at once: it fills the registers, but for four of the right factor and one of the left. */
#define TALL 6
#define WIDE 4

/* sums = A B for `tall` rows and `wide` registers. A: words a_row apart along the rows and a_deep along the `deep`
   products of each sum; B: b_deep apart. */
INSIDE void tile(__m512 sums[TALL][WIDE], const word *a, int64_t a_row, int64_t a_deep, const word *b, int64_t b_deep,
                 int64_t deep, const int tall, const int wide) {
#pragma GCC unroll 6
    for (int m = 0; m < tall; m++)
#pragma GCC unroll 4
        for (int n = 0; n < wide; n++) sums[m][n] = _mm512_setzero_ps();
    for (int64_t i = 0; i < deep; i++) {
        __m512i right[WIDE];
#pragma GCC unroll 4
        for (int n = 0; n < wide; n++) right[n] = _mm512_loadu_si512(b + i * b_deep + 16 * n);
#pragma GCC unroll 6
        for (int m = 0; m < tall; m++) {
            __m512i left = _mm512_set1_epi32((int)a[m * a_row + i * a_deep]);
#pragma GCC unroll 4
            for (int n = 0; n < wide; n++) sums[m][n] = MULTIPLY_ADD(sums[m][n], left, right[n]);
        }
    }
}

/* The `count` lowest of 16 numbers. */
INSIDE __mmask16 lowest(int64_t count) { return count >= 16 ? 0xFFFF : count <= 0 ? 0 : (__mmask16)((1u << count) - 1); }

/* C (+)= a tile; of its last registers only what is among `columns`. */
INSIDE void keep(__m512 sums[TALL][WIDE], float *c, int64_t c_row, int64_t columns, int add, const int tall,
                 const int wide) {
#pragma GCC unroll 6
    for (int m = 0; m < tall; m++)
#pragma GCC unroll 4
        for (int n = 0; n < wide; n++) {
            float *to = c + m * c_row + 16 * n;
            __mmask16 some = lowest(columns - 16 * n);
            if (add) sums[m][n] = _mm512_add_ps(sums[m][n], _mm512_maskz_loadu_ps(some, to));
            _mm512_mask_storeu_ps(to, some, sums[m][n]);
        }
}

/* C (+)= A B for `rows` rows (a multiple of 4) and `columns` columns (of 32); b_next: words to the next 64. */
INSIDE void product(const word *a, int64_t a_row, int64_t a_deep, const word *b, int64_t b_deep, int64_t b_next,
                    int64_t deep, float *c, int64_t c_row, int64_t rows, int64_t columns, int add) {
    __m512 sums[TALL][WIDE];
    for (int64_t n = 0; n < columns; n += 64)
        for (int64_t m = 0; m < rows; m += 4) {
            const word *left = a + m * a_row, *right = b + n / 64 * b_next;
            if (columns - n >= 64) {
                tile(sums, left, a_row, a_deep, right, b_deep, deep, 4, 4);
                keep(sums, c + m * c_row + n, c_row, 64, add, 4, 4);
            } else {
                tile(sums, left, a_row, a_deep, right, b_deep, deep, 4, 2);
                keep(sums, c + m * c_row + n, c_row, 32, add, 4, 2);
            }
        }
}

/* Turns 16 rows of 16 words about their diagonal. */
INSIDE void turn(__m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    } /* quarter q of r[4 i + c]: column 4 q + c of rows 4 i to 4 i + 3 */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m512i even = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), odd = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xDD);
        __m512i even_2 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
        __m512i odd_2 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xDD);
        t[c] = _mm512_shuffle_i32x4(even, even_2, 0x88);
        t[4 + c] = _mm512_shuffle_i32x4(odd, odd_2, 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(even, even_2, 0xDD);
        t[12 + c] = _mm512_shuffle_i32x4(odd, odd_2, 0xDD);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

/* Packs `count` rows of `words` words, `row` apart, for products with as many columns as rows: [block][words][KEYS],
   with zeros for rows that the last block lacks. */
INSIDE void pack_columns(word *to, const word *rows, int64_t count, int64_t words, int64_t row) {
    for (int64_t first = 0; first < count; first += KEYS)
        for (int64_t n = first; n < first + KEYS; n += 16)
            for (int64_t h = 0; h < words; h += 16) {
                __m512i r[16];
                __mmask16 some = lowest(words - h);
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++) r[i] = _mm512_maskz_loadu_epi32(n + i < count ? some : 0, rows + (n + i) * row + h);
                turn(r);
                word *block = to + first * words + n - first;
                for (int64_t i = 0; i < 16 && h + i < words; i++) _mm512_storeu_si512(block + (h + i) * KEYS, r[i]);
            }
}

/* Copies rows first ... first + count of one head, zeros behind the last; `bytes` of one number. */
INSIDE void copy_rows(void *to, const Heads *from, int64_t row, int64_t head, int64_t first, int64_t count,
                      const Task *t, const int64_t bytes) {
    const char *source = (const char *)from->data + (row * from->row + head * from->head) * bytes;
    for (int64_t i = 0; i < count; i++) {
        char *target = (char *)to + i * t->size * bytes;
        if (first + i < t->length) memcpy(target, source + (first + i) * from->step * bytes, (size_t)(t->size * bytes));
        else memset(target, 0, (size_t)(t->size * bytes));
    }
}

/* The keys that queries start ... start + ROWS see: from *low, a multiple of KEYS, to the result, one of STEP. */
INSIDE int64_t seen(const Task *t, int64_t start, int64_t *low) {
    int64_t from = t->length, to = 0;
    for (int64_t i = start; i < start + ROWS && i < t->length; i++) {
        from = t->first[i] < from ? t->first[i] : from;
        to = t->end[i] > to ? t->end[i] : to;
    }
    *low = from / KEYS * KEYS;
    return (to + STEP - 1) / STEP * STEP;
}

/* Hides what query i does not see in its scores of keys low ... high. */
INSIDE void hide(float *score, const Task *t, int64_t i, int64_t low, int64_t high) {
    int64_t from = i < t->length ? t->first[i] : low, to = i < t->length ? t->end[i] : low + 1;
    for (int64_t j = low; j < from; j++) score[j - low] = NEVER;
    for (int64_t j = to; j < high; j++) score[j - low] = NEVER;
}

/* `exponential` of 16 numbers, with the operations that make it short here; below e^-87 next to nothing is left. */
INSIDE __m512 exponential16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x); /* in this order: what is no number stays none */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.3981999507e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* Scores become exp(scale (score - most)) and *most the largest; returns their sum. */
INSIDE float exponentials(float *score, int64_t count, float scale, float *most) {
    __m512 largest = _mm512_set1_ps(NEVER), sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; i += 16) largest = _mm512_max_ps(largest, _mm512_loadu_ps(score + i));
    *most = _mm512_reduce_max_ps(largest);
    __m512 shift = _mm512_set1_ps(*most * scale), times = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < count; i += 16) {
        __m512 e = exponential16(_mm512_fmsub_ps(_mm512_loadu_ps(score + i), times, shift));
        _mm512_storeu_ps(score + i, e);
        sum = _mm512_add_ps(sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

/* Scores become probabilities p = exp(scale score - total), and dp becomes dscore = p (dp - mean) scale. */
INSIDE void slopes_of_scores(float *score, float *dp, int64_t count, float scale, float total, float mean) {
    __m512 times = _mm512_set1_ps(scale), less = _mm512_set1_ps(total), middle = _mm512_set1_ps(mean);
    for (int64_t j = 0; j < count; j += 16) {
        __m512 p = exponential16(_mm512_fmsub_ps(_mm512_loadu_ps(score + j), times, less));
        _mm512_storeu_ps(score + j, p);
        __m512 slope = _mm512_sub_ps(_mm512_loadu_ps(dp + j), middle);
        _mm512_storeu_ps(dp + j, _mm512_mul_ps(_mm512_mul_ps(p, times), slope));
    }
}

#endif
