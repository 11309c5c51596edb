/* Products of float32 numbers. */

#include "product.h"

#ifdef HAS_WIDE

#include "floats.h"

#define OF(name) floats_##name
#include "panels.h"

#endif
