/* wide.h for bfloat16 numbers, whose pairs are multiplied at once (AVX512-BF16).

   A product of pairs adds a[2i] b[2i] + a[2i+1] b[2i+1] to each of 16 sums. So the left factor is read as 32-bit words
   that hold a pair, and the right factor is packed: word [i][n] holds elements (2i, n) and (2i+1, n). */

#ifndef ATHANOR_PAIRS_H
#define ATHANOR_PAIRS_H

#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
#define MULTIPLY_ADD(sums, left, right) _mm512_dpbf16_ps(sums, (__m512bh)(left), (__m512bh)(right))
#include "wide.h"

typedef uint16_t number;
#define NUMBERS 2 /* in a word */
#define as_float widen
#define as_number narrow

/* 16 numbers widened, and rounded; of which `some` are there. */
INSIDE __m512 get_some(const uint16_t *from, __mmask16 some) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, from)), 16));
}

INSIDE void put_some(uint16_t *to, __mmask16 some, __m512 numbers) {
    _mm256_mask_storeu_epi16(to, some, (__m256i)_mm512_cvtneps_pbh(numbers));
}

/* Words that hold a number of `a` and the one beside it of `b`. */
INSIDE __m512i side_by_side(const uint16_t *a, __mmask16 some_a, const uint16_t *b, __mmask16 some_b) {
    __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some_a, a));
    return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some_b, b)), 16));
}

/* Words of 16 numbers and of those below them in the next row. */
INSIDE __m512i words_down(const uint16_t *a, int64_t row, __mmask16 some) {
    return side_by_side(a, some, a + row, some);
}

#endif
