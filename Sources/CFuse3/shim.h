// libfuse 3's low-level interface, as of 3.12: the oldest that Debian 12 and Ubuntu 22.04 … 24.04 can link.
#pragma once
#define FUSE_USE_VERSION 312
#include <stddef.h>
#include <fuse_lowlevel.h>
