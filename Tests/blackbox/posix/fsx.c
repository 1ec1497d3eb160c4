// Does random things to one file (write, read, truncate, map, punch, allocate, copy, close and open) and compares
// each with an array in memory. fsx FILE SEED OPERATIONS: exit status 0 when both agree all the time.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIMIT = 1 << 20 };
static unsigned char expected[LIMIT], buffer[LIMIT];
static size_t size;
static unsigned long state, step;
static const char *doing = "beginning";
static int file = -1;
static const char *path;

static unsigned long below(unsigned long limit) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return limit ? state % limit : 0;
}

static void fail(const char *why, size_t offset) {
    printf("step %lu, %s: %s at offset %zu (size %zu): %s\n", step, doing, why, offset, size, strerror(errno));
    exit(1);
}

static void compare(const unsigned char *found, size_t offset, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (found[i] != expected[offset + i]) {
            printf("found %02x in place of %02x; ", found[i], expected[offset + i]);
            fail("other bytes", offset + i);
        }
}

static void check_size(void) {
    struct stat status;
    if (fstat(file, &status) || (size_t)status.st_size != size) fail("another size", (size_t)status.st_size);
}

static void reopen(int flags) {
    if (file >= 0 && close(file)) fail("close", 0);
    file = open(path, O_RDWR | flags, 0644);
    if (file < 0) fail("open", 0);
}

int main(int count, char **words) {
    if (count != 4) return 2;
    path = words[1];
    state = strtoul(words[2], 0, 10) * 2654435761u + 88172645463325252u;
    unsigned long steps = strtoul(words[3], 0, 10);
    reopen(O_CREAT | O_TRUNC);
    for (step = 0; step < steps; step++) {
        size_t offset = below(LIMIT - 1), length = 1 + below(below(8) ? 20000 : 200000);
        if (offset + length > LIMIT) length = LIMIT - offset;
        switch (below(12)) {
        case 0: case 1: case 2:
            doing = "write";
            if (below(3) == 0) offset = size < LIMIT ? size : 0;
            if (offset + length > LIMIT) length = LIMIT - offset;
            for (size_t i = 0; i < length; i++) expected[offset + i] = (unsigned char)(step * 31 + i * 7);
            if (pwrite(file, expected + offset, length, (off_t)offset) != (ssize_t)length) fail("short", offset);
            if (offset + length > size) size = offset + length;
            break;
        case 3: case 4: {
            doing = "read";
            ssize_t got = pread(file, buffer, length, (off_t)offset);
            size_t want = offset >= size ? 0 : offset + length > size ? size - offset : length;
            if (got != (ssize_t)want) fail("short", offset);
            compare(buffer, offset, want);
            break;
        }
        case 5:
            doing = "truncate";
            if (below(2) ? ftruncate(file, (off_t)offset) : truncate(path, (off_t)offset)) fail("refused", offset);
            if (offset < size) memset(expected + offset, 0, size - offset);
            size = offset;
            break;
        case 6: case 7: {
            doing = "map";
            if (!size) break;
            unsigned char *map = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            if (map == MAP_FAILED) fail("refused", 0);
            if (offset < size) {
                if (offset + length > size) length = size - offset;
                compare(map + offset, offset, length);
                if (below(2))
                    for (size_t i = 0; i < length; i++)
                        map[offset + i] = expected[offset + i] = (unsigned char)(step * 17 + i);
                if (below(3) == 0 && msync(map, size, MS_SYNC)) fail("msync", 0);
            }
            munmap(map, size);
            break;
        }
        case 8:
            doing = "punch";
            if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length))
                fail("refused", offset);
            if (offset < size) memset(expected + offset, 0, offset + length > size ? size - offset : length);
            break;
        case 9: {
            doing = "allocate or zero";
            int zero = below(2) != 0;
            if (fallocate(file, zero ? FALLOC_FL_ZERO_RANGE : 0, (off_t)offset, (off_t)length)) fail("refused", offset);
            if (zero && offset < size) memset(expected + offset, 0, offset + length > size ? size - offset : length);
            if (offset + length > size) size = offset + length;
            break;
        }
        case 10: {
            doing = "copy";
            off_t from = (off_t)below(LIMIT), to = (off_t)offset;
            if ((size_t)from + length > LIMIT) length = LIMIT - (size_t)from;
            if (llabs(from - to) < (long long)length) break;
            size_t want = (size_t)from >= size ? 0 : (size_t)from + length > size ? size - (size_t)from : length;
            size_t done = 0;
            while (done < want) {
                ssize_t got = copy_file_range(file, &from, file, &to, want - done, 0);
                if (got <= 0) fail("short", done);
                memmove(expected + to - got, expected + from - got, (size_t)got);
                done += (size_t)got;
                if ((size_t)to > size) size = (size_t)to;
            }
            break;
        }
        default:
            doing = "close or fsync";
            if (below(2)) reopen(0);
            else if (fsync(file)) fail("fsync", 0);
            if (!below(4) && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED)) fail("fadvise", 0);
        }
        check_size();
    }
    doing = "comparing all";
    reopen(0);
    if (pread(file, buffer, LIMIT, 0) != (ssize_t)size) fail("short", 0);
    compare(buffer, 0, size);
    return 0;
}
