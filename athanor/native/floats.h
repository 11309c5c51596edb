/* wide.h for float32 numbers (AVX512). */

#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define MULTIPLY_ADD(sums, left, right) _mm512_fmadd_ps(_mm512_castsi512_ps(left), _mm512_castsi512_ps(right), sums)
#include "wide.h"
