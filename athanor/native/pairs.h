/* wide.h for pairs of bfloat16 numbers (AVX512-BF16).

   A product of pairs adds a[2i] b[2i] + a[2i+1] b[2i+1] to each of 16 sums. So the left factor is read as 32-bit words
   that hold a pair, and the right factor is packed: word [i][n] holds elements (2i, n) and (2i+1, n). */

#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
#define MULTIPLY_ADD(sums, left, right) _mm512_dpbf16_ps(sums, (__m512bh)(left), (__m512bh)(right))
#include "wide.h"
