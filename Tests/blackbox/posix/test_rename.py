"""rename and renameat2."""

import errno
import itertools
import os
import stat
import time

import pytest
from calls import (ALICE, BOB, KINDS, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, as_user, create, fails,
                   folder, past, read, rename)

# What stands at a name: the kinds, and a directory that is not empty.
STATES = {**KINDS, "full directory": lambda path: create(os.path.join(folder(path), "inside"))}


def identity(path):
    status = os.lstat(path)
    return status.st_ino, status.st_mode


@pytest.mark.parametrize("source, target", list(itertools.product(STATES, [*STATES, "nothing"])))
def test_every_kind_onto_every_kind(here, source, target):
    STATES[source]("a")
    if target != "nothing":
        STATES[target]("b")
    moved = identity("a")
    expected = None
    if target != "nothing":
        if "directory" in source:
            expected = None if target == "directory" else errno.ENOTEMPTY if "directory" in target else errno.ENOTDIR
        elif "directory" in target:
            expected = errno.EISDIR
    if expected:
        with fails(expected, *([errno.EEXIST] if expected == errno.ENOTEMPTY else [])):
            os.rename("a", "b")
        assert identity("a") == moved and sorted(os.listdir()) == ["a", "b"]
    else:
        os.rename("a", "b")
        assert identity("b") == moved and os.listdir() == ["b"]


@pytest.mark.parametrize("kind", STATES)
def test_noreplace(here, kind):
    create("a", b"a")
    STATES[kind]("b")
    with fails(errno.EEXIST):
        rename("a", "b", RENAME_NOREPLACE)
    with fails(errno.EEXIST):
        rename("a", "a", RENAME_NOREPLACE)
    assert read("a") == b"a"
    rename("a", "c", RENAME_NOREPLACE)
    assert read("c") == b"a"
    rename("b", "d", RENAME_NOREPLACE)
    assert sorted(os.listdir()) == ["c", "d"]


@pytest.mark.parametrize("one, other", list(itertools.combinations_with_replacement(STATES, 2)))
def test_exchange(here, one, other):
    folder("x")
    folder("y")
    STATES[one]("x/a")
    STATES[other]("y/b")
    first, second = identity("x/a"), identity("y/b")
    rename("x/a", "y/b", RENAME_EXCHANGE)
    assert identity("x/a") == second and identity("y/b") == first
    for name, inside in (("x", "x/a"), ("y", "y/b")):
        is_directory = stat.S_ISDIR(os.lstat(inside).st_mode)
        assert os.stat(name).st_nlink == 2 + is_directory
        if is_directory:
            assert os.stat(f"{inside}/..").st_ino == os.stat(name).st_ino
    rename("x/a", "y/b", RENAME_EXCHANGE)
    assert identity("x/a") == first and identity("y/b") == second


def test_exchange_and_flags_fail_as_they_should(here):
    create("a")
    folder("d")
    folder("d/e")
    with fails(errno.ENOENT):
        rename("a", "missing", RENAME_EXCHANGE)
    with fails(errno.ENOENT):
        rename("missing", "a", RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        rename("d", "d/e", RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        rename("d/e", "d", RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        rename("a", "d", RENAME_EXCHANGE | RENAME_NOREPLACE)
    with fails(errno.EINVAL):
        rename("a", "b", 64)
    if here.is_mount:
        with fails(errno.EINVAL):
            rename("a", "b", RENAME_WHITEOUT)
    assert sorted(os.listdir()) == ["a", "d"]


def test_a_directory_does_not_move_into_itself(here):
    os.makedirs("d/e/f")
    for target in ("d/x", "d/e/x", "d/e/f/x"):
        with fails(errno.EINVAL):
            os.rename("d", target)
    with fails(errno.ENOTEMPTY, errno.EEXIST, errno.EINVAL):
        os.rename("d/e/f", "d")
    for dot in (".", ".."):
        with fails(errno.EBUSY, errno.EINVAL):
            os.rename(dot, "x")
        with fails(errno.EBUSY, errno.EINVAL):
            os.rename("d", f"d/e/{dot}")


def test_both_names_of_one_file(here):
    create("a", b"x")
    os.link("a", "b")
    os.rename("a", "b")
    os.rename("b", "b")
    assert sorted(os.listdir()) == ["a", "b"] and os.stat("a").st_nlink == 2


def test_replacing_takes_a_link_away(here):
    create("old", b"old")
    os.link("old", "other")
    create("new", b"new")
    changed = os.stat("other").st_ctime_ns
    time.sleep(0.02)
    os.rename("new", "old")
    assert os.stat("other").st_nlink == 1 and os.stat("other").st_ctime_ns > changed
    assert read("old") == b"new" and read("other") == b"old"


def test_over_an_open_file(here):
    create("a", b"new")
    create("b", b"old content")
    with open("b", "r+b", buffering=0) as old, open("a", "r+b", buffering=0) as new:
        os.rename("a", "b")
        assert os.fstat(old.fileno()).st_nlink == 0
        assert old.read() == b"old content"
        old.write(b" and more")
        assert os.fstat(old.fileno()).st_size == 20
        new.seek(0, 2)
        new.write(b" words")
        old.seek(0)
        assert old.read() == b"old content and more"
    assert read("b") == b"new words"


def test_handles_follow_a_moved_directory(here):
    os.makedirs("a/b/c")
    create("a/b/c/file", b"x")
    folder("z")
    handle = os.open("a/b/c", os.O_RDONLY)
    file = open("a/b/c/file", "ab", buffering=0)
    os.rename("a/b", "z/moved")
    assert os.stat("z/moved/..").st_ino == os.stat("z").st_ino
    assert os.stat("..", dir_fd=handle).st_ino == os.stat("z/moved").st_ino
    assert os.readlink(f"/proc/self/fd/{handle}") == str(here.path / "z" / "moved" / "c")
    file.write(b"y")
    file.close()
    create_at = os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=handle)
    os.close(create_at)
    os.close(handle)
    assert read("z/moved/c/file") == b"xy" and sorted(os.listdir("z/moved/c")) == ["file", "new"]
    assert (os.stat("a").st_nlink, os.stat("z").st_nlink) == (2, 3)


def test_times_of_a_rename(here):
    folder("from")
    folder("to")
    create("from/file", b"x")
    past("from/file")
    past("from")
    past("to")
    changed = os.stat("from/file").st_ctime_ns
    time.sleep(0.02)
    os.rename("from/file", "to/file")
    for name in ("from", "to"):
        assert os.stat(name).st_mtime_ns > 10**18 and os.stat(name).st_ctime_ns > 10**18
    assert os.stat("to/file").st_mtime_ns == 10**18
    assert os.stat("to/file").st_ctime_ns > changed          # Linux's disks mark it too


def test_symlinks_are_renamed_and_not_followed(here):
    create("file", b"x")
    os.symlink("file", "link")
    os.rename("link", "moved")
    assert os.readlink("moved") == "file" and read("file") == b"x"
    create("new", b"new")
    os.rename("new", "moved")
    assert not os.path.islink("moved") and read("file") == b"x"


def test_rename_fails_as_it_should(here):
    create("file")
    folder("d")
    os.symlink("loop", "loop")
    with fails(errno.ENOENT):
        os.rename("missing", "x")
    with fails(errno.ENOENT):
        os.rename("file", "missing/x")
    with fails(errno.ENOENT):
        os.rename("", "x")
    with fails(errno.ENOTDIR):
        os.rename("file/x", "x")
    with fails(errno.ENOTDIR):
        os.rename("file", "file/x")
    with fails(errno.ENOTDIR):
        os.rename("file", "new/")
    with fails(errno.ELOOP):
        os.rename("loop/x", "x")
    with fails(errno.ELOOP):
        os.rename("file", "loop/x")
    with fails(errno.ENAMETOOLONG):
        os.rename("file", "x" * 256)
    with fails(errno.EXDEV):
        os.rename("file", "/dev/shm/cloudfusion-test-rename")
    os.rename("d", "e/")
    assert sorted(os.listdir()) == ["e", "file", "loop"]


def test_rename_by_others(here, root):
    folder("closed", 0o755)
    folder("open", 0o777)
    create("closed/bobs", owner=(BOB, BOB))
    create("open/bobs", owner=(BOB, BOB))
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.rename("closed/bobs", "open/x"))
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.rename("open/bobs", "closed/x"))
    as_user(ALICE, lambda: os.rename("open/bobs", "open/x"))
    # A directory that changes its parent changes its "..": it has to be writable itself.
    folder("other", 0o777)
    folder("open/roots", 0o755)
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.rename("open/roots", "other/roots"))
    as_user(ALICE, lambda: os.rename("open/roots", "open/renamed"))


def test_the_target_is_always_there(here):
    """Who opens the target sees the old or the new, at every moment."""
    import threading
    create("target", b"0" * 1000)
    stop, wrong = threading.Event(), []

    def look():
        while not stop.is_set():
            try:
                content = read("target")
                if len(set(content)) != 1 or len(content) != 1000:
                    wrong.append(content[:10])
            except OSError as error:
                wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(200):
        create("new", str(number % 10).encode() * 1000)
        os.rename("new", "target")
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
