/* Products of float32 numbers (AVX512). */

#include "product.h"

#ifdef HAS_WIDE

#include "floats.h"

typedef float number;
#define NUMBERS 1

INSIDE __m512i words_down(const float *a, int64_t row, __mmask16 some) {
    (void)row;
    return _mm512_maskz_loadu_epi32(some, a);
}

INSIDE void put_some(float *to, __mmask16 some, __m512 sums) { _mm512_mask_storeu_ps(to, some, sums); }

#include "panels.h"

FAST int64_t floats_product(const void *a, const void *b, void *y, int64_t first, int64_t last, int64_t deep,
                            int64_t columns, int64_t turned) {
    return multiply(a, b, y, first, last, deep, columns, turned);
}

FAST int64_t floats_product_down(const void *a, const void *b, float *sums, void *y, int64_t first, int64_t last,
                                 int64_t rows, int64_t a_columns, int64_t columns, int64_t add) {
    return multiply_down(a, b, sums, y, first, last, rows, a_columns, columns, add);
}

#endif
