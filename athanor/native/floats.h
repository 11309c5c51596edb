/* wide.h for float32 numbers (AVX512). */

#ifndef ATHANOR_FLOATS_H
#define ATHANOR_FLOATS_H

#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define MULTIPLY_ADD(sums, left, right) _mm512_fmadd_ps(_mm512_castsi512_ps(left), _mm512_castsi512_ps(right), sums)
#include "wide.h"

typedef float number;
#define NUMBERS 1 /* in a word */
#define as_float(x) (x)
#define as_number(x) (x)

/* Of 16 numbers those that are there. */
INSIDE __m512 get_some(const float *from, __mmask16 some) { return _mm512_maskz_loadu_ps(some, from); }
INSIDE void put_some(float *to, __mmask16 some, __m512 numbers) { _mm512_mask_storeu_ps(to, some, numbers); }

/* Words of 16 numbers: one holds one. */
INSIDE __m512i words_down(const float *a, int64_t row, __mmask16 some) {
    (void)row;
    return _mm512_maskz_loadu_epi32(some, a);
}

#endif
