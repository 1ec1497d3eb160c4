#pragma once
struct fuse_session;

/// Has the reply to FUSE_INIT say two things that libfuse before 3.17 cannot say: that look-ups and readings in one
/// directory may run in parallel (FUSE_PARALLEL_DIROPS), and that the file system itself clears set-uid and set-gid
/// bits (FUSE_HANDLE_KILLPRIV_V2), without which the kernel asks for an extended attribute before each write.
/// Call it once per process, after fuse_session_mount() and before the first request is received.
///
/// Returns 0, or a negated errno: then the mount works all the same, more slowly.
int cf_fuse_extend_init(struct fuse_session *session);
