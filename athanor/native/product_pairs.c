/* Products of bfloat16 numbers by the processor's own products of pairs (AVX512-BF16); sums are float32. */

#include "product.h"

#ifdef HAS_WIDE

#include "pairs.h"

typedef uint16_t number;
#define NUMBERS 2

INSIDE __m512i words_down(const uint16_t *a, int64_t row, __mmask16 some) {
    __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, a));
    __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, a + row));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

INSIDE void put_some(uint16_t *to, __mmask16 some, __m512 sums) {
    _mm256_mask_storeu_epi16(to, some, (__m256i)_mm512_cvtneps_pbh(sums));
}

#include "panels.h"

FAST int64_t pairs_product(const void *a, const void *b, void *y, int64_t first, int64_t last, int64_t deep,
                           int64_t columns, int64_t turned) {
    return multiply(a, b, y, first, last, deep, columns, turned);
}

FAST int64_t pairs_product_down(const void *a, const void *b, float *sums, void *y, int64_t first, int64_t last,
                                int64_t rows, int64_t a_columns, int64_t columns, int64_t add) {
    return multiply_down(a, b, sums, y, first, last, rows, a_columns, columns, add);
}

#endif
