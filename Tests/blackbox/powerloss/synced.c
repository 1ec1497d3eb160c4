/* Preloaded into a program, it keeps for each file and directory below CLOUDFUSION_SYNCED_ROOT an image of what was on
 * the disk for certain when the program last synced it: what a loss of power leaves at least.
 *
 *   CLOUDFUSION_SYNCED_IMAGES/<identity>   of a file its bytes; of a directory a line for each entry,
 *                                          "<identity> <kind> <name>" with a NUL in place of the line's end
 *
 *   CLOUDFUSION_SYNCED_LOG                 a line for each sync: the path of what was synced
 *   CLOUDFUSION_SYNCED_BOOT                what the program reads as the kernel's boot_id
 *
 * An identity is an inode's number and its time of birth, since numbers are used again. The image is complete before
 * the program's call returns. __init__.py puts a folder together from the images. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what, const char *path) {
    fprintf(stderr, "synced.c: %s %s: %s\n", what, path, strerror(errno));
    abort();
}

/* The path behind a descriptor if it lies below the root; else 0. */
static int watched(int fd, char *path, size_t size) {
    const char *root = getenv("CLOUDFUSION_SYNCED_ROOT");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (!root || length < 0) return 0;
    path[length] = 0;
    size_t prefix = strlen(root);
    return strncmp(path, root, prefix) == 0 && (path[prefix] == '/' || path[prefix] == 0);
}

static int identity(int at, const char *name, int flags, char *text, size_t size, mode_t *mode) {
    struct statx status;
    if (statx(at, name, flags | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &status) != 0) return 0;
    snprintf(text, size, "%llu-%lld.%u", (unsigned long long)status.stx_ino, (long long)status.stx_btime.tv_sec,
             status.stx_btime.tv_nsec);
    *mode = status.stx_mode;
    return 1;
}

static void copy(int fd, int image) {
    char *buffer = malloc(1 << 20);
    struct stat status;
    fstat(fd, &status);
    if (ftruncate(image, status.st_size) != 0) fail("ftruncate", "");
    off_t position = 0;
    while ((position = lseek(fd, position, SEEK_DATA)) >= 0) {
        off_t end = lseek(fd, position, SEEK_HOLE);
        while (position < end) {
            size_t wanted = end - position < 1 << 20 ? end - position : 1 << 20;
            ssize_t got = pread(fd, buffer, wanted, position);
            if (got <= 0) break;
            if (pwrite(image, buffer, got, position) != got) fail("pwrite", "");
            position += got;
        }
        if (position < end) break;
    }
    free(buffer);
}

static void list(const char *path, int image) {
    DIR *directory = opendir(path);
    if (!directory) fail("opendir", path);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char id[64];
        mode_t mode;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (!identity(dirfd(directory), entry->d_name, 0, id, sizeof id, &mode)) continue;
        dprintf(image, "%s %c %s", id, S_ISDIR(mode) ? 'd' : 'f', entry->d_name);
        if (write(image, "", 1) != 1) fail("write", path);
    }
    closedir(directory);
}

static void keep(int fd) {
    char path[4096], id[64], image_path[4200], new_path[4210];
    mode_t mode;
    const char *images = getenv("CLOUDFUSION_SYNCED_IMAGES");
    int saved = errno;
    if (!images || !watched(fd, path, sizeof path)) return;
    if (!identity(fd, "", AT_EMPTY_PATH, id, sizeof id, &mode)) fail("statx", path);
    snprintf(image_path, sizeof image_path, "%s/%s", images, id);
    snprintf(new_path, sizeof new_path, "%s.new", image_path);
    const char *log_path = getenv("CLOUDFUSION_SYNCED_LOG");
    pthread_mutex_lock(&lock);
    if (log_path) {
        int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log < 0 || dprintf(log, "%s\n", path) < 0) fail("write", log_path);
        close(log);
    }
    int image = open(new_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (image < 0) fail("open", new_path);
    if (S_ISDIR(mode)) {
        list(path, image);
    } else {
        /* By a descriptor of its own: the program's one keeps its position. */
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int own = open(link, O_RDONLY | O_CLOEXEC);
        if (own < 0) fail("open", path);
        copy(own, image);
        close(own);
    }
    close(image);
    if (rename(new_path, image_path) != 0) fail("rename", new_path);
    pthread_mutex_unlock(&lock);
    errno = saved;
}

#define SYNC(name)                                                                          \
    int name(int fd) {                                                                      \
        static int (*real)(int);                                                            \
        if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #name);                            \
        int status = real(fd);                                                              \
        if (status == 0) keep(fd);                                                          \
        return status;                                                                      \
    }

SYNC(fsync)
SYNC(fdatasync)

/* All files of the disk: of those below the directory, which is what the program means by it. */
static void keep_below(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    keep(fd);
    DIR *directory = fdopendir(fd);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char below[4400];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        int child = open(below, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat status;
        if (child < 0) continue;
        fstat(child, &status);
        if (S_ISREG(status.st_mode)) keep(child);
        close(child);
        if (S_ISDIR(status.st_mode)) keep_below(below);
    }
    closedir(directory);
}

int syncfs(int fd) {
    static int (*real)(int);
    char path[4096];
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "syncfs");
    int status = real(fd);
    if (status == 0 && watched(fd, path, sizeof path)) keep_below(path);
    return status;
}

static const char *as_told(const char *path) {
    const char *boot = getenv("CLOUDFUSION_SYNCED_BOOT");
    return boot && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0 ? boot : path;
}

#define OPEN(name)                                                                          \
    int name(const char *path, int flags, ...) {                                            \
        static int (*real)(const char *, int, ...);                                         \
        va_list rest;                                                                       \
        va_start(rest, flags);                                                              \
        mode_t mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                                       \
        if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);         \
        return real(as_told(path), flags, mode);                                            \
    }

OPEN(open)
OPEN(open64)
