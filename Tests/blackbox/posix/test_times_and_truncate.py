"""utimensat, the times that calls leave, truncate and ftruncate."""

import errno
import os
import time

import pytest
from calls import (ALICE, AT_FDCWD, AT_SYMLINK_NOFOLLOW, BOB, UTIME_NOW, UTIME_OMIT, as_user, call, create, fails,
                   folder, past, read, utimens)

OLD = (1_000_000_000, 0)


def times(path):
    status = os.lstat(path)
    return status.st_atime_ns, status.st_mtime_ns


# MARK: utimensat

def test_times_are_kept_to_the_nanosecond(here):
    create("file")
    folder("dir")
    os.symlink("file", "link")
    os.mkfifo("fifo")
    for path in ("file", "dir", "link", "fifo"):
        utimens(path, (1_234_567_890, 123_456_789), (987_654_321, 999_999_999), AT_SYMLINK_NOFOLLOW)
        assert times(path) == (1_234_567_890_123_456_789, 987_654_321_999_999_999)


@pytest.mark.parametrize("seconds", [0, 1, -1, -1_000_000_000, 2**31 - 1, 2**31, 2**32, 2**33])
def test_times_far_away(here, seconds):
    create("file")
    utimens("file", (seconds, 500), (seconds, 700))
    assert times("file") == (seconds * 10**9 + 500, seconds * 10**9 + 700)


@pytest.mark.parametrize("seconds", [2**40, -2**40, 2**62, -2**62])
def test_times_that_no_disk_can_hold_do_no_harm(here, seconds):
    folder("dir")
    create("file")
    for path in ("dir", "file"):
        utimens(path, (seconds, 0), (seconds, 0))
        assert os.stat(path).st_size >= 0
        os.chmod(path, 0o700)
        utimens(path, (5, 0), (5, 0))
        assert times(path) == (5 * 10**9, 5 * 10**9)


def test_now_and_omit(here):
    create("file")
    utimens("file", OLD, OLD)
    before = time.time_ns() - 10**9
    utimens("file", UTIME_NOW, UTIME_OMIT)
    assert times("file")[0] > before and times("file")[1] == 10**18
    utimens("file", OLD, OLD)
    utimens("file", UTIME_OMIT, UTIME_NOW)
    assert times("file")[0] == 10**18 and times("file")[1] > before
    utimens("file", OLD, OLD)
    changed = os.stat("file").st_ctime_ns
    time.sleep(0.02)
    utimens("file", UTIME_OMIT, UTIME_OMIT)
    assert times("file") == (10**18, 10**18) and os.stat("file").st_ctime_ns == changed
    utimens("file", OLD, OLD)
    assert os.stat("file").st_ctime_ns > changed
    call("utimensat", AT_FDCWD, "file", None, 0)
    assert min(times("file")) > before


def test_links_and_their_targets(here):
    create("file")
    os.symlink("file", "link")
    utimens("link", OLD, OLD)
    assert times("file") == (10**18, 10**18) and times("link") != (10**18, 10**18)
    utimens("link", (5, 0), (6, 0), AT_SYMLINK_NOFOLLOW)
    assert times("link") == (5 * 10**9, 6 * 10**9) and times("file") == (10**18, 10**18)


def test_who_may_set_times(here, root):
    create("file", mode=0o666, owner=(ALICE, ALICE))
    create("closed", mode=0o644, owner=(ALICE, ALICE))
    as_user(ALICE, lambda: utimens("closed", OLD, OLD))
    as_user(BOB, lambda: utimens("file", UTIME_NOW, UTIME_NOW))          # who may write, may say "now"
    for choice in ((OLD, OLD), (UTIME_NOW, UTIME_OMIT), (UTIME_OMIT, OLD)):
        with fails(errno.EPERM):
            as_user(BOB, lambda choice=choice: utimens("file", *choice))
    with fails(errno.EACCES):
        as_user(BOB, lambda: utimens("closed", UTIME_NOW, UTIME_NOW))
    as_user(BOB, lambda: utimens("closed", UTIME_OMIT, UTIME_OMIT))


def test_utimensat_fails_as_it_should(here):
    create("file")
    os.symlink("loop", "loop")
    with fails(errno.ENOENT):
        utimens("missing", OLD, OLD)
    with fails(errno.ENOTDIR):
        utimens("file/x", OLD, OLD)
    with fails(errno.ELOOP):
        utimens("loop", OLD, OLD)
    with fails(errno.EINVAL):
        utimens("file", (0, 10**9), OLD)
    with fails(errno.EINVAL):
        utimens("file", OLD, OLD, 0x40000)


# MARK: the times that calls leave

def test_what_a_write_marks(here):
    create("file", b"x")
    before = past("file")
    file = os.open("file", os.O_RDWR)
    time.sleep(0.02)
    os.write(file, b"")
    assert os.fstat(file).st_mtime_ns == 10**18, "an empty write changes nothing"
    os.write(file, b"y")
    during = os.fstat(file)
    assert during.st_mtime_ns > 10**18 and during.st_ctime_ns > before.st_ctime_ns
    os.close(file)
    after = os.stat("file")
    assert (after.st_mtime_ns, after.st_atime_ns) == (during.st_mtime_ns, 10**18)


def test_a_time_that_was_set_outlives_the_closing(here):
    """As cp -p does it: write, set the times, close."""
    file = os.open("file", os.O_RDWR | os.O_CREAT)
    os.write(file, b"x" * 100_000)
    os.utime(file, ns=(10**18, 10**18 + 5))
    os.close(file)
    assert times("file") == (10**18, 10**18 + 5)
    os.sync()
    assert times("file") == (10**18, 10**18 + 5)


def test_chmod_chown_and_attributes_mark_the_change_alone(here):
    create("file")
    before = past("file")
    for change in (lambda: os.chmod("file", 0o600), lambda: os.chown("file", os.getuid(), os.getgid()),
                   lambda: os.setxattr("file", "user.a", b"1"), lambda: os.removexattr("file", "user.a")):
        time.sleep(0.02)
        change()
        after = os.stat("file")
        assert after.st_ctime_ns > before.st_ctime_ns and after.st_mtime_ns == 10**18
        before = after


def test_time_does_not_run_backwards(here):
    """What is done later has no earlier time, whichever call does it: make(1) depends on it."""
    last = 0
    for number in range(60):
        create(f"w{number}", b"x")
        folder(f"d{number}")
        for path in (f"w{number}", f"d{number}"):
            moment = os.stat(path).st_mtime_ns
            assert moment >= last, f"{path} is {(last - moment) / 1e6} ms older than what was made before it"
            last = moment
        with open("w0", "ab") as file:
            file.write(b"y")
        moment = os.stat("w0").st_mtime_ns
        assert moment >= last, f"the write is {(last - moment) / 1e6} ms older than what was made before it"
        last = moment


def test_reading_and_its_time(here):
    """relatime: the first reading after a change marks it on a disk; the mount keeps no times of readings."""
    create("file", b"x")
    folder("dir")
    past("file")
    past("dir")
    assert read("file") == b"x" and os.listdir("dir") == []
    if here.is_mount:
        assert times("file")[0] == times("dir")[0] == 10**18
    assert times("file")[1] == times("dir")[1] == 10**18


# MARK: truncate

@pytest.mark.parametrize("by_handle", [False, True])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 5000, 100_000, 3_000_000_000])
def test_truncate_cuts_and_grows_with_zeros(here, size, by_handle):
    content = bytes(range(1, 256)) * 20
    create("file", content)
    past("file")
    if by_handle:
        file = os.open("file", os.O_RDWR)
        os.ftruncate(file, size)
        os.close(file)
    else:
        os.truncate("file", size)
    status = os.stat("file")
    assert status.st_size == size and status.st_mtime_ns > 10**18
    with open("file", "rb") as file:
        start = content[:size]
        assert file.read(len(start)) == start
        assert file.read(1000) == bytes(min(1000, size - len(start)))
        file.seek(max(size - 10, 0))
        file.read()
        assert file.tell() == size


def test_what_was_cut_does_not_come_back(here):
    create("file", b"secret" * 2000)
    os.truncate("file", 3)
    os.truncate("file", 12_000)
    assert read("file") == b"sec" + bytes(11_997)


def test_truncate_to_the_same_size(here):
    create("file", b"12345")
    past("file")
    file = os.open("file", os.O_RDWR)
    os.ftruncate(file, 5)
    os.close(file)
    assert os.stat("file").st_mtime_ns > 10**18, "ftruncate marks it always"


def test_a_position_stays_when_the_file_is_cut(here):
    file = os.open("file", os.O_RDWR | os.O_CREAT)
    os.write(file, b"x" * 100)
    os.ftruncate(file, 10)
    os.write(file, b"y")
    os.close(file)
    assert read("file") == b"x" * 10 + bytes(90) + b"y"


def test_truncate_fails_as_it_should(here):
    create("file")
    folder("dir")
    os.symlink("loop", "loop")
    os.mkfifo("fifo")
    with fails(errno.ENOENT):
        os.truncate("missing", 0)
    with fails(errno.ENOTDIR):
        os.truncate("file/x", 0)
    with fails(errno.EISDIR):
        os.truncate("dir", 0)
    with fails(errno.ELOOP):
        os.truncate("loop", 0)
    with fails(errno.EINVAL):
        os.truncate("file", -1)
    with fails(errno.EINVAL):
        os.truncate("fifo", 0)
    with fails(errno.ENAMETOOLONG):
        os.truncate("x" * 256, 0)
    with fails(errno.EFBIG, errno.EINVAL):
        os.truncate("file", 2**63 - 1)
    file = os.open("file", os.O_RDONLY)
    with fails(errno.EINVAL, errno.EBADF):
        os.ftruncate(file, 0)
    os.close(file)


def test_truncate_by_others(here, root):
    create("file", b"x", mode=0o644, owner=(ALICE, ALICE))
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.truncate("file", 0))
    as_user(ALICE, lambda: os.truncate("file", 0))
    # A handle keeps the rights that it was opened with.
    file = os.open("file", os.O_RDWR)
    os.fchmod(file, 0)
    as_user(BOB, lambda: os.ftruncate(file, 7))
    assert os.fstat(file).st_size == 7
    os.close(file)
