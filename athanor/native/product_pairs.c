/* Products of bfloat16 numbers by the processor's own products of pairs (AVX512-BF16); sums are float32. */

#include "product.h"

#ifdef HAS_WIDE

#include "pairs.h"

#define OF(name) pairs_##name
#include "panels.h"

#endif
