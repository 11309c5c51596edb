/* What stands between the products, of float32 numbers. */

#include "layers.h"

#ifdef HAS_WIDE

#include "floats.h"

#define OF(name) floats_##name
#include "layers_wide.h"

#endif
