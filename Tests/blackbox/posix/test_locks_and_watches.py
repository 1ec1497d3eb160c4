"""flock, fcntl locks of processes and of open files; inotify."""

import ctypes
import errno
import fcntl
import os
import struct

import pytest
from calls import F_OFD_GETLK, F_OFD_SETLK, create, fails, folder, in_child, libc

READ, WRITE, NONE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK


def record(kind, start, length, pid=0):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, pid)


def found(answer):
    kind, _, start, length, pid = struct.unpack("hhqqi4x", answer)
    return kind, start, length, pid


class Child:
    """A process that holds locks until it is told to go on."""

    def __init__(self, *steps):
        self.reading, writing = os.pipe()
        wait, self.go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.go)
                file = os.open("file", os.O_RDWR)
                for step in steps:
                    step(file)
                    os.write(writing, b".")
                    os.read(wait, 1)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writing)
        os.close(wait)
        assert os.read(self.reading, 1) == b"."

    def next(self):
        os.write(self.go, b".")
        os.read(self.reading, 1)

    def end(self, kill=False):
        if kill:
            os.kill(self.pid, 9)
        os.close(self.go)
        os.waitpid(self.pid, 0)
        os.close(self.reading)


def test_flock_between_processes(here):
    create("file")
    child = Child(lambda file: fcntl.flock(file, fcntl.LOCK_EX), lambda file: fcntl.flock(file, fcntl.LOCK_SH))
    file = os.open("file", os.O_RDWR)
    for way in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(file, way | fcntl.LOCK_NB)
    child.next()
    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    child.end()
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(file)


def test_flock_belongs_to_the_open_file(here):
    create("file")
    first, second = os.open("file", os.O_RDWR), os.open("file", os.O_RDWR)
    copy = os.dup(first)
    fcntl.flock(first, fcntl.LOCK_EX)
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(first)
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(copy)
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(second)


@pytest.mark.parametrize("killed", [False, True])
def test_a_lock_ends_with_its_process(here, killed):
    create("file")
    file = os.open("file", os.O_RDWR)
    child = Child(lambda file: (fcntl.lockf(file, fcntl.LOCK_EX), fcntl.flock(file, fcntl.LOCK_EX)))
    with fails(errno.EAGAIN, errno.EACCES):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    child.end(kill=killed)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(file)


def test_ranges_of_a_process(here):
    create("file", b"x" * 100)
    child = Child(
        lambda file: (fcntl.fcntl(file, fcntl.F_SETLK, record(WRITE, 10, 10)),
                      fcntl.fcntl(file, fcntl.F_SETLK, record(READ, 50, 0))),
        lambda file: fcntl.fcntl(file, fcntl.F_SETLK, record(NONE, 12, 3)),
        lambda file: os.close(os.open("file", os.O_RDONLY)))
    file = os.open("file", os.O_RDWR)

    def holder(kind, start, length):
        return found(fcntl.fcntl(file, fcntl.F_GETLK, record(kind, start, length)))

    assert holder(WRITE, 0, 0) == (WRITE, 10, 10, child.pid)
    assert holder(READ, 60, 5)[0] == NONE
    assert holder(WRITE, 60, 5) == (READ, 50, 0, child.pid)
    with fails(errno.EAGAIN, errno.EACCES):
        fcntl.fcntl(file, fcntl.F_SETLK, record(READ, 19, 1))
    fcntl.fcntl(file, fcntl.F_SETLK, record(WRITE, 20, 30))
    child.next()                                       # a hole in the range
    assert holder(WRITE, 0, 0) == (WRITE, 10, 2, child.pid) and holder(WRITE, 13, 0)[1] == 15
    fcntl.fcntl(file, fcntl.F_SETLK, record(WRITE, 12, 3))
    child.next()                                       # closing any handle of the file lets all of them go
    assert holder(WRITE, 0, 0)[0] == NONE
    child.end()
    reader = os.open("file", os.O_RDONLY)
    with fails(errno.EBADF):
        fcntl.fcntl(reader, fcntl.F_SETLK, record(WRITE, 0, 1))
    os.close(reader)
    os.close(file)


def test_a_circle_of_waiting_is_refused(here):
    create("file")
    file = os.open("file", os.O_RDWR)
    fcntl.fcntl(file, fcntl.F_SETLK, record(WRITE, 0, 1))
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mine = os.open("file", os.O_RDWR)
            fcntl.fcntl(mine, fcntl.F_SETLK, record(WRITE, 1, 1))
            os.write(told, b".")
            fcntl.fcntl(mine, fcntl.F_SETLKW, record(WRITE, 0, 1))
            os._exit(0)
        except OSError as error:
            os._exit(0 if error.errno == errno.EDEADLK else 2)
        finally:
            os._exit(1)
    os.read(ready, 1)
    try:
        fcntl.fcntl(file, fcntl.F_SETLKW, record(WRITE, 1, 1))
    except OSError as error:
        assert error.errno == errno.EDEADLK
    os.close(file)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_locks_of_open_files(here):
    create("file")
    first, second = os.open("file", os.O_RDWR), os.open("file", os.O_RDWR)
    fcntl.fcntl(first, F_OFD_SETLK, record(WRITE, 0, 10))
    with fails(errno.EAGAIN):
        fcntl.fcntl(second, F_OFD_SETLK, record(READ, 5, 1))
    assert found(fcntl.fcntl(second, F_OFD_GETLK, record(READ, 5, 1))) == (WRITE, 0, 10, -1)
    os.close(os.open("file", os.O_RDONLY))             # lets nothing go, other than locks of processes
    with fails(errno.EAGAIN):
        fcntl.fcntl(second, F_OFD_SETLK, record(READ, 5, 1))
    with fails(errno.EAGAIN):
        in_child(lambda: fcntl.lockf(os.open("file", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 3))
    os.close(first)
    fcntl.fcntl(second, F_OFD_SETLK, record(READ, 5, 1))
    os.close(second)


# MARK: inotify

MASKS = {"access": 1, "modify": 2, "attrib": 4, "close_write": 8, "open": 0x20, "moved_from": 0x40, "moved_to": 0x80,
         "create": 0x100, "delete": 0x200, "delete_self": 0x400, "move_self": 0x800, "ignored": 0x8000}


def events(watcher):
    result = []
    try:
        data = os.read(watcher, 65_536)
    except BlockingIOError:
        return result
    while data:
        _, mask, _, length = struct.unpack("iIII", data[:16])
        name = data[16:16 + length].rstrip(b"\0").decode()
        result += [(kind, name) for kind, bit in MASKS.items() if mask & bit]
        data = data[16 + length:]
    return result


def test_watchers_hear_of_changes_here(here):
    folder("d")
    create("d/old")
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    mask = sum(bit for kind, bit in MASKS.items() if kind not in ("access", "open", "ignored"))
    assert libc.inotify_add_watch(watcher, b"d", ctypes.c_uint32(mask)) > 0
    create("d/file", b"x")
    assert [event for event in events(watcher) if event[0] != "attrib"] == [
        ("create", "file"), ("modify", "file"), ("close_write", "file")]
    os.chmod("d/file", 0o600)
    os.rename("d/file", "d/moved")
    os.link("d/moved", "d/hard")
    os.unlink("d/hard")
    os.unlink("d/old")
    os.mkdir("d/sub")
    os.rmdir("d/sub")
    heard = events(watcher)
    for event in (("attrib", "file"), ("moved_from", "file"), ("moved_to", "moved"), ("create", "hard"),
                  ("delete", "hard"), ("delete", "old"), ("create", "sub"), ("delete", "sub")):
        assert event in heard, heard
    os.unlink("d/moved")
    os.rmdir("d")
    assert ("delete_self", "") in events(watcher)
    os.close(watcher)
