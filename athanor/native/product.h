/* Products of large matrices: what product.c asks of product_pairs.c (bfloat16) and product_floats.c (float32).

   The right factor is packed into panels of 64 columns, [deep][64] words, so that a tile reads it in order; a tile's
   sums stay in registers from the first product to the last (Goto and van de Geijn 2008). What one pass of the inner
   loops works on fits a core's own caches. */

#ifndef ATHANOR_PRODUCT_H
#define ATHANOR_PRODUCT_H

#include "attention.h"

/* Y = A B, or B turned: rows first to last - 1 of A (M, K) and Y (M, N), which are contiguous. */
typedef int64_t Product(const void *a, const void *b, void *y, int64_t first, int64_t last, int64_t deep,
                        int64_t columns, int64_t turned);
/* Y (+)= A turned B: rows first to last - 1 of Y (N, K), of A (M, N) and B (M, K); sums in float32. */
typedef int64_t ProductDown(const void *a, const void *b, float *sums, void *y, int64_t first, int64_t last,
                            int64_t rows, int64_t a_columns, int64_t columns, int64_t add);
Product pairs_product, floats_product;
ProductDown pairs_product_down, floats_product_down;

#endif
