"""link, unlink, symlink, readlink."""

import errno
import os
import stat
import time

import pytest
from calls import ALICE, BOB, KINDS, as_user, call, create, fails, folder, link_target, mode, owner, past, read


# MARK: link

@pytest.mark.parametrize("kind", ["file", "fifo", "symlink"])
def test_a_hard_link_is_the_same_file(here, kind):
    KINDS[kind]("a")
    past(".")
    time.sleep(0.02)
    changed = os.lstat("a").st_ctime_ns
    os.link("a", "b", follow_symlinks=False)
    a, b = os.lstat("a"), os.lstat("b")
    assert (a.st_ino, a.st_nlink, a.st_mode) == (b.st_ino, 2, b.st_mode)
    assert a.st_ctime_ns == b.st_ctime_ns > changed
    assert os.stat(".").st_mtime_ns > 10**18
    os.chown("a", 5, 6, follow_symlinks=False) if os.getuid() == 0 else None
    assert owner("a") == owner("b")
    os.unlink("a")
    assert os.lstat("b").st_nlink == 1
    os.link("b", "a", follow_symlinks=False)
    os.unlink("b")
    assert os.listdir() == ["a"]


def test_content_is_shared_by_all_names(here):
    create("a", b"one")
    os.link("a", "b")
    with open("b", "ab") as file:
        file.write(b" two")
    assert read("a") == b"one two" and os.stat("a").st_size == 7
    folder("d")
    os.link("b", "d/c")
    os.unlink("a")
    os.unlink("b")
    assert read("d/c") == b"one two"


def test_link_follows_symlinks_only_when_asked(here):
    create("file")
    os.symlink("file", "soft")
    link_target("soft", "followed")
    os.link("soft", "itself", follow_symlinks=False)
    assert os.lstat("followed").st_ino == os.stat("file").st_ino
    assert os.readlink("itself") == "file"


def test_a_thousand_links(here):
    create("file", b"x")
    for number in range(1000):
        os.link("file", f"l{number}")
    assert os.stat("l999").st_nlink == 1001
    for number in range(1000):
        os.unlink(f"l{number}")
    assert os.stat("file").st_nlink == 1


def test_link_fails_as_it_should(here):
    create("file")
    folder("dir")
    os.symlink("loop", "loop")
    with fails(errno.EEXIST):
        os.link("file", "dir")
    with fails(errno.EEXIST):
        os.link("file", "file")
    with fails(errno.EEXIST):
        os.link("file", "loop")
    with fails(errno.ENOENT):
        os.link("missing", "new")
    with fails(errno.ENOENT):
        os.link("file", "missing/new")
    with fails(errno.ENOTDIR):
        os.link("file/x", "new")
    with fails(errno.ENOTDIR):
        os.link("file", "file/new")
    with fails(errno.EPERM):
        os.link("dir", "new")
    with fails(errno.ELOOP):
        os.link("loop/x", "new")
    with fails(errno.ELOOP):
        os.link("file", "loop/new")
    with fails(errno.ENAMETOOLONG):
        os.link("file", "x" * 256)
    with fails(errno.EXDEV):
        os.link("file", "/dev/shm/cloudfusion-test-link")
    assert os.stat("file").st_nlink == 1 and sorted(os.listdir()) == ["dir", "file", "loop"]


def test_link_by_others(here, root):
    folder("closed", 0o755)
    create("mine", mode=0o666, owner=(ALICE, ALICE))
    folder("open", 0o777)
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.link("mine", "closed/new"))
    folder("secret", 0o700)
    create("secret/file")
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.link("secret/file", "open/new"))
    as_user(ALICE, lambda: os.link("mine", "open/new"))


# MARK: unlink

@pytest.mark.parametrize("kind", ["file", "fifo", "symlink"])
def test_unlink_takes_the_name_away(here, kind):
    KINDS[kind]("a")
    past(".")
    os.unlink("a")
    assert os.listdir() == []
    assert os.stat(".").st_mtime_ns > 10**18 and os.stat(".").st_ctime_ns > 10**18
    with fails(errno.ENOENT):
        os.lstat("a")


def test_unlink_marks_the_change_of_what_stays(here):
    create("a")
    os.link("a", "b")
    before = os.stat("b").st_ctime_ns
    time.sleep(0.02)
    os.unlink("a")
    assert os.stat("b").st_ctime_ns > before


def test_unlink_fails_as_it_should(here):
    create("file")
    folder("dir")
    os.symlink("loop", "loop")
    with fails(errno.EISDIR):
        os.unlink("dir")
    with fails(errno.ENOENT):
        os.unlink("missing")
    with fails(errno.ENOTDIR):
        os.unlink("file/x")
    with fails(errno.ENOTDIR):
        os.unlink("file/")
    with fails(errno.ELOOP):
        os.unlink("loop/x")
    with fails(errno.ENAMETOOLONG):
        os.unlink("x" * 256)
    with fails(errno.ENOENT):
        os.unlink("")
    with fails(errno.EISDIR):
        os.unlink(".")


def test_unlink_needs_the_directory_and_not_the_file(here, root):
    folder("open", 0o777)
    create("open/roots", mode=0o600)
    as_user(BOB, lambda: os.unlink("open/roots"))
    folder("closed", 0o755)
    create("closed/bobs", mode=0o777, owner=(BOB, BOB))
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.unlink("closed/bobs"))


# MARK: symlink

@pytest.mark.parametrize("target", [b"x", b"/absolute/path", b"../..", b"t" * 255, b"long/" * 800, b"\xff\x80 bytes\n"])
def test_a_symlink_keeps_its_target(here, target):
    os.symlink(target, b"link")
    assert os.readlink(b"link") == target
    status = os.lstat("link")
    assert stat.S_ISLNK(status.st_mode) and status.st_size == len(target) and mode("link") == 0o777
    assert status.st_nlink == 1


def test_symlink_fails_as_it_should(here):
    create("file")
    folder("dir")
    for taken in ("file", "dir"):
        with fails(errno.EEXIST):
            os.symlink("x", taken)
    with fails(errno.ENOENT):
        os.symlink("", "new")
    with fails(errno.ENOENT):
        os.symlink("x", "missing/new")
    with fails(errno.ENOTDIR):
        os.symlink("x", "file/new")
    with fails(errno.ENAMETOOLONG):
        os.symlink("x", "y" * 256)
    with fails(errno.ENAMETOOLONG):
        os.symlink("x" * 4096, "new")
    os.symlink("loop", "loop")
    with fails(errno.ELOOP):
        os.symlink("x", "loop/new")
    with fails(errno.EEXIST):
        os.symlink("x", "loop")


def test_symlink_by_others(here, root):
    folder("closed", 0o755)
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.symlink("x", "closed/new"))
    folder("open", 0o777)
    as_user(ALICE, lambda: os.symlink("x", "open/new"))
    assert owner("open/new") == (ALICE, ALICE)


def test_readlink_fails_as_it_should(here):
    create("file")
    with fails(errno.EINVAL):
        os.readlink("file")
    with fails(errno.EINVAL):
        os.readlink(".")
    with fails(errno.ENOENT):
        os.readlink("missing")
    with fails(errno.ENOTDIR):
        os.readlink("file/x")


def test_readlink_into_a_short_buffer_cuts(here):
    import ctypes
    os.symlink("0123456789", "link")
    buffer = ctypes.create_string_buffer(b"#" * 8)
    assert call("readlink", "link", buffer, 4, result=ctypes.c_ssize_t) == 4
    assert buffer.raw[:5] == b"0123#"
