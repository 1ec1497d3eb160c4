#include "cshim.h"

int cf_forbid_core_files(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); }
