/* Which sources this library was built from, so that an old one is never used with new Python. */

#include "athanor.h"

#ifndef ATHANOR_SOURCES
#define ATHANOR_SOURCES ""
#endif

EXPORT const char *athanor_sources(void) { return ATHANOR_SOURCES; }
