/* Which product for which numbers (product.h). */

#include "product.h"

#ifdef HAS_WIDE
#include <cpuid.h>
#endif

/* Whether this processor has what athanor_can_attend asks for, and no products of whole tiles (AMX), which torch uses
   where they are. */
EXPORT int64_t athanor_can_multiply(int64_t half) {
#ifdef HAS_WIDE
    unsigned a, b, c, d;
    int tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
    return !tiles && athanor_can_attend(half);
#else
    return half - half;
#endif
}

#ifdef HAS_WIDE

/* y (M, N) = a (M, K) b, rows first to last - 1; b (K, N), or (N, K) when it is `turned`. All are contiguous, K is even
   for bfloat16 numbers. */
EXPORT int64_t athanor_product(const void *a, const void *b, void *y, int64_t first, int64_t last, int64_t deep,
                               int64_t columns, int64_t turned, int64_t half) {
    return (half ? pairs_product : floats_product)(a, b, y, first, last, deep, columns, turned);
}

/* sums (N, K) = a^T b for a (M, N) and b (M, K), rows first to last - 1 of sums, or more is added to what is there; y,
   where it is given: the same as bfloat16 numbers. M is even for bfloat16 numbers. */
EXPORT int64_t athanor_product_down(const void *a, const void *b, float *sums, void *y, int64_t first, int64_t last,
                                    int64_t rows, int64_t a_columns, int64_t columns, int64_t add, int64_t half) {
    return (half ? pairs_product_down : floats_product_down)(a, b, sums, y, first, last, rows, a_columns, columns, add);
}

#endif
