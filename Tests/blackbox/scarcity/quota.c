/* An LD_PRELOAD library that makes a full disk look like one on which this program's quota is used up: much is free, and
 * writing fails with EDQUOT. A real quota does not hold for root, and not every kernel has any. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <unistd.h>

#define TELL(TYPE, NAME, DECLARED, PASSED)                                     \
    TYPE NAME DECLARED {                                                       \
        static TYPE(*real) DECLARED;                                           \
        if (!real) real = (TYPE(*) DECLARED)dlsym(RTLD_NEXT, #NAME);           \
        TYPE result = real PASSED;                                             \
        if (result < 0 && errno == ENOSPC) errno = EDQUOT;                     \
        return result;                                                         \
    }

TELL(ssize_t, write, (int file, const void *bytes, size_t count), (file, bytes, count))
TELL(ssize_t, pwrite, (int file, const void *bytes, size_t count, off_t at), (file, bytes, count, at))
TELL(ssize_t, pwrite64, (int file, const void *bytes, size_t count, off64_t at), (file, bytes, count, at))
TELL(int, ftruncate, (int file, off_t size), (file, size))
TELL(int, ftruncate64, (int file, off64_t size), (file, size))
TELL(int, fallocate, (int file, int mode, off_t at, off_t count), (file, mode, at, count))
TELL(int, fallocate64, (int file, int mode, off64_t at, off64_t count), (file, mode, at, count))
TELL(int, fsync, (int file), (file))
TELL(int, fdatasync, (int file), (file))
TELL(int, mkdir, (const char *path, mode_t mode), (path, mode))
TELL(int, rename, (const char *from, const char *to), (from, to))
TELL(ssize_t, copy_file_range,
     (int from, off64_t *from_at, int to, off64_t *to_at, size_t count, unsigned flags),
     (from, from_at, to, to_at, count, flags))

static mode_t mode_of(int flags, va_list arguments) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

#define TELL_OPEN(NAME, DECLARED, PASSED)                                      \
    int NAME DECLARED {                                                        \
        static int (*real) DECLARED;                                           \
        if (!real) real = (int (*) DECLARED)dlsym(RTLD_NEXT, #NAME);           \
        va_list arguments;                                                     \
        va_start(arguments, flags);                                            \
        mode_t mode = mode_of(flags, arguments);                               \
        va_end(arguments);                                                     \
        int result = real PASSED;                                              \
        if (result < 0 && errno == ENOSPC) errno = EDQUOT;                     \
        return result;                                                         \
    }

TELL_OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
TELL_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
TELL_OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
TELL_OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

#define MUCH(NAME, TYPE)                                                       \
    int NAME(const char *path, struct TYPE *space) {                           \
        static int (*real)(const char *, struct TYPE *);                       \
        if (!real) real = (int (*)(const char *, struct TYPE *))dlsym(RTLD_NEXT, #NAME); \
        int result = real(path, space);                                        \
        if (!result) space->f_bavail = space->f_bfree = space->f_blocks = 1000000000; \
        return result;                                                         \
    }

MUCH(statvfs, statvfs)
MUCH(statvfs64, statvfs64)
