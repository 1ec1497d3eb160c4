// Headers and functions that Swift's Glibc module leaves out.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/xattr.h>

/// CRC-32C (Castagnoli) of `count` bytes, continuing from `crc` (0 to start).
uint32_t cf_crc32c(uint32_t crc, const void *bytes, size_t count);

/// No core files of this process from now on, and no reading of its memory by others of the same user.
static inline int cf_forbid_core_files(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); }
