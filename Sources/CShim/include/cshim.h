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

/// No core files of this process from now on, and no reading of its memory by others of the same user.
int cf_forbid_core_files(void);

/// At most so many pools of memory from now on, which threads share: see mallopt(3), M_ARENA_MAX.
void cf_limit_memory_pools(int count);

/// The CRC32C (RFC 3720, B.4) of bytes that follow those of which `crc` is one; that of no bytes is 0.
uint32_t cf_crc32c(uint32_t crc, const void *bytes, size_t count);

/// The same on any processor.
uint32_t cf_crc32c_by_tables(uint32_t crc, const void *bytes, size_t count);
