/* An LD_PRELOAD library that lets some of the allocations of SQLite, libcurl, libfuse, libexpat and OpenSSL fail. Those of
 * the program itself succeed: where they do not, it ends at once, as by a crash.
 *
 * The file named by CLOUDFUSION_SCARCITY has two numbers: one in how many fails (0: none), and how many have. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static struct {
    _Atomic int64_t one_in, failures;
} *control;

static struct {
    uintptr_t begin, end;
} poor[64];
static int poor_count;

static int note(struct dl_phdr_info *info, size_t size, void *context) {
    static const char *const names[] = {"/libsqlite3.", "/libcurl.", "/libfuse3.", "/libexpat.", "/libcrypto.", "/libssl."};
    (void)size;
    (void)context;
    for (unsigned name = 0; name < sizeof names / sizeof *names; name++) {
        if (!info->dlpi_name || !strstr(info->dlpi_name, names[name])) continue;
        for (int part = 0; part < info->dlpi_phnum && poor_count < 64; part++) {
            const ElfW(Phdr) *header = &info->dlpi_phdr[part];
            if (header->p_type != PT_LOAD || !(header->p_flags & PF_X)) continue;
            poor[poor_count].begin = info->dlpi_addr + header->p_vaddr;
            poor[poor_count++].end = info->dlpi_addr + header->p_vaddr + header->p_memsz;
        }
    }
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOUDFUSION_SCARCITY");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) {
        perror("scarce.c: CLOUDFUSION_SCARCITY");
        abort();
    }
    close(file);
    dl_iterate_phdr(note, NULL);
    control = mapped;
}

static int fails(const void *caller) {
    static _Thread_local uint64_t state;
    int64_t one_in = control ? atomic_load_explicit(&control->one_in, memory_order_relaxed) : 0;
    int part;
    if (one_in <= 0) return 0;
    for (part = 0; part < poor_count; part++)
        if ((uintptr_t)caller >= poor[part].begin && (uintptr_t)caller < poor[part].end) break;
    if (part == poor_count) return 0;
    if (!state) state = ((uintptr_t)&state ^ ((uint64_t)getpid() << 32)) | 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    if (state % (uint64_t)one_in) return 0;
    atomic_fetch_add(&control->failures, 1);
    errno = ENOMEM;
    return 1;
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t size) { return fails(CALLER) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return fails(CALLER) ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return fails(CALLER) ? NULL : __libc_realloc(old, size); }
int posix_memalign(void **made, size_t alignment, size_t size) {
    if (fails(CALLER)) return ENOMEM;
    void *memory = __libc_memalign(alignment, size);
    if (!memory) return ENOMEM;
    *made = memory;
    return 0;
}
