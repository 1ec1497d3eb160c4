#define FUSE_USE_VERSION 312
#include "cfuseinit.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <unistd.h>

// The reply to FUSE_INIT is the first thing that a session writes.
static atomic_bool is_answered;

static ssize_t send_reply(int fd, struct iovec *parts, int count, void *user) {
    (void)user;
    if (!atomic_load_explicit(&is_answered, memory_order_relaxed) && count == 2 &&
        parts[0].iov_len == sizeof(struct fuse_out_header) && parts[1].iov_len >= FUSE_COMPAT_22_INIT_OUT_SIZE) {
        const struct fuse_out_header *head = parts[0].iov_base;
        struct fuse_init_out *answer = parts[1].iov_base;
        if (head->error == 0 && answer->major == FUSE_KERNEL_VERSION) {
            answer->flags |= FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2;
            atomic_store(&is_answered, 1);
        }
    }
    return writev(fd, parts, count);
}

static ssize_t receive_request(int fd, void *buffer, size_t size, void *user) {
    (void)user;
    return read(fd, buffer, size);
}

int cf_fuse_extend_init(struct fuse_session *session) {
    static const struct fuse_custom_io io = {.writev = send_reply, .read = receive_request};
    // Later versions set both flags through their own interface.
    if (fuse_version() >= 317) return 0;
    atomic_store(&is_answered, 0);
    return fuse_session_custom_io(session, &io, fuse_session_fd(session));
}
