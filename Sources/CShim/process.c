#include "cshim.h"

#include <malloc.h>

int cf_forbid_core_files(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); }

void cf_limit_memory_pools(int count) { mallopt(M_ARENA_MAX, count); }
