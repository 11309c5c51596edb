/* What stands between the products, of bfloat16 numbers. */

#include "layers.h"

#ifdef HAS_WIDE

#include "pairs.h"

#define OF(name) pairs_##name
#include "layers_wide.h"

#endif
