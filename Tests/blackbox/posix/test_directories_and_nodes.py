"""mkdir, rmdir, mkfifo, mknod."""

import errno
import os
import socket
import stat

import pytest
from calls import ALICE, BOB, KINDS, as_user, create, fails, folder, mode, owner, past


# MARK: mkdir

def test_mkdir_applies_mode_and_umask(here):
    os.umask(0o027)
    os.mkdir("a", 0o777)
    os.umask(0)
    os.mkdir("b", 0o755)
    os.mkdir("c", 0o1777)
    assert (mode("a"), mode("b"), mode("c")) == (0o750, 0o755, 0o1777)


def test_links_of_directories_are_counted(here):
    folder("d")
    assert os.stat("d").st_nlink == 2
    for name in ("x", "y", "z"):
        folder(f"d/{name}")
    create("d/file")
    assert os.stat("d").st_nlink == 5
    os.rmdir("d/x")
    assert os.stat("d").st_nlink == 4
    folder("e")
    os.rename("d/y", "e/y")
    assert (os.stat("d").st_nlink, os.stat("e").st_nlink) == (3, 3)
    os.rename("d/z", "e/y")             # replaces an empty one
    assert (os.stat("d").st_nlink, os.stat("e").st_nlink) == (2, 3)
    assert os.stat("e/y").st_nlink == 2


def test_dot_and_dot_dot(here):
    folder("d")
    folder("d/e")
    assert os.stat("d/e/..").st_ino == os.stat("d").st_ino == os.stat("d/.").st_ino
    names = {entry: number for entry, number in list_raw("d/e")}
    assert names[b"."] == os.stat("d/e").st_ino and names[b".."] == os.stat("d").st_ino


def list_raw(path):
    """Names and numbers as the directory itself says them, with . and .."""
    import ctypes
    from calls import libc
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.opendir(os.fsencode(path)))
    try:
        while line := libc.readdir(stream):
            number = ctypes.c_uint64.from_address(line).value
            yield ctypes.string_at(line + 19), number
    finally:
        libc.closedir(stream)


def test_mkdir_sets_times_of_both(here):
    past(".")
    folder("d")
    new, parent = os.stat("d"), os.stat(".")
    assert min(new.st_atime_ns, new.st_mtime_ns, new.st_ctime_ns) > 10**18
    assert parent.st_mtime_ns > 10**18 and parent.st_ctime_ns > 10**18


def test_mkdir_fails_as_it_should(here):
    create("file")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    for name in ("file", "dangling", "."):
        with fails(errno.EEXIST):
            os.mkdir(name)
    with fails(errno.ENOENT):
        os.mkdir("missing/d")
    with fails(errno.ENOENT):
        os.mkdir("")
    with fails(errno.ENOTDIR):
        os.mkdir("file/d")
    with fails(errno.ELOOP):
        os.mkdir("loop/d")
    with fails(errno.ENAMETOOLONG):
        os.mkdir("x" * 256)


def test_mkdir_by_others(here, root):
    folder("closed", 0o755)
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.mkdir("closed/d"))
    folder("blind", 0o776)
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.mkdir("blind/d"))
    folder("open", 0o777)
    as_user(ALICE, lambda: os.mkdir("open/d"))
    assert owner("open/d") == (ALICE, ALICE)


# MARK: set-group-ID directories

def test_a_set_group_id_directory_gives_its_group(here, root):
    os.umask(0)
    folder("d", 0o2777, owner=(ALICE, ALICE))

    def by_bob():
        os.mkdir("d/dir")
        os.close(os.open("d/file", os.O_CREAT | os.O_WRONLY, 0o644))
        os.mkfifo("d/fifo")
        os.symlink("x", "d/link")
        os.mkdir("d/dir/below")

    as_user(BOB, by_bob)
    for name in ("dir", "file", "fifo", "link", "dir/below"):
        assert owner(f"d/{name}") == (BOB, ALICE)
    assert mode("d/dir") == mode("d/dir/below") == 0o2777
    assert mode("d/file") == 0o644
    # Nobody makes a program of a group by creating it where that group is given.
    as_user(BOB, lambda: os.close(os.open("d/program", os.O_CREAT | os.O_WRONLY, 0o2775)))
    assert mode("d/program") == 0o775
    # Without the bit the group is that of who creates.
    folder("plain", 0o777, owner=(ALICE, ALICE))
    as_user(BOB, lambda: os.mkdir("plain/dir"))
    assert owner("plain/dir") == (BOB, BOB)


# MARK: rmdir

def test_rmdir_takes_it_away(here):
    folder("d")
    folder("d/e")
    past("d")
    os.rmdir("d/e")
    assert os.listdir("d") == [] and os.stat("d").st_mtime_ns > 10**18
    os.rmdir("d")
    with fails(errno.ENOENT):
        os.stat("d")


def test_rmdir_fails_as_it_should(here):
    create("file")
    for kind, make in KINDS.items():
        folder(f"with-{kind}")
        make(f"with-{kind}/x")
        with fails(errno.ENOTEMPTY, errno.EEXIST):
            os.rmdir(f"with-{kind}")
    with fails(errno.ENOENT):
        os.rmdir("missing")
    with fails(errno.ENOTDIR):
        os.rmdir("file")
    with fails(errno.ENOTDIR):
        os.rmdir("file/x")
    os.symlink("with-file", "link")
    with fails(errno.ENOTDIR):
        os.rmdir("link")
    with fails(errno.EINVAL):
        os.rmdir("with-file/.")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir("with-directory/x/..")
    with fails(errno.ENAMETOOLONG):
        os.rmdir("x" * 256)


def test_a_removed_directory_that_is_open(here):
    folder("d")
    handle = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    assert os.fstat(handle).st_nlink == 0
    assert os.listdir(handle) == []
    with fails(errno.ENOENT):
        os.mkdir("new", dir_fd=handle)
    with fails(errno.ENOENT):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=handle)
    os.close(handle)


def test_rmdir_by_others(here, root):
    folder("closed", 0o755)
    folder("closed/bobs", owner=(BOB, BOB))
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.rmdir("closed/bobs"))


# MARK: mkfifo, mknod

def test_a_fifo_carries_bytes_and_keeps_none(here):
    os.umask(0o022)
    os.mkfifo("fifo", 0o666)
    assert stat.S_ISFIFO(os.lstat("fifo").st_mode) and mode("fifo") == 0o644
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    with fails(errno.ESPIPE):
        os.lseek(reader, 0, os.SEEK_SET)
    writer = os.open("fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(writer)
    assert os.read(reader, 100) == b""
    os.close(reader)
    with fails(errno.ENXIO):
        os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
    assert os.stat("fifo").st_size == 0


@pytest.mark.parametrize("kind, device", [(stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(4095, 1_048_575)),
                                          (stat.S_IFSOCK, 0), (stat.S_IFREG, 0), (stat.S_IFIFO, 0)])
def test_mknod_makes_every_kind(here, root, kind, device):
    os.mknod("node", kind | 0o640, device)
    status = os.lstat("node")
    assert stat.S_IFMT(status.st_mode) == kind and mode("node") == 0o640 and status.st_rdev == device
    os.rename("node", "moved")
    assert os.lstat("moved").st_rdev == device
    os.unlink("moved")


def test_a_socket_is_bound_and_reached(here):
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.close()
    server.close()
    assert stat.S_ISSOCK(os.lstat("socket").st_mode)
    with fails(errno.ECONNREFUSED):
        socket.socket(socket.AF_UNIX).connect("socket")
    with fails(errno.ENXIO):
        os.open("socket", os.O_RDONLY)


def test_mknod_fails_as_it_should(here, root):
    create("file")
    for make in (os.mkfifo, lambda path: os.mknod(path, stat.S_IFREG | 0o644)):
        with fails(errno.EEXIST):
            make("file")
        with fails(errno.ENOENT):
            make("missing/x")
        with fails(errno.ENOTDIR):
            make("file/x")
        with fails(errno.ENAMETOOLONG):
            make("x" * 256)
    with fails(errno.EPERM, errno.EINVAL):
        os.mknod("dir", stat.S_IFDIR | 0o755)
    folder("open", 0o777)
    with fails(errno.EPERM):
        as_user(ALICE, lambda: os.mknod("open/device", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
    as_user(ALICE, lambda: os.mkfifo("open/fifo"))
    folder("closed", 0o755)
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.mkfifo("closed/fifo"))
