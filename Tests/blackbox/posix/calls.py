"""System calls that Python does not have, and the words in which the tests say what they expect."""

import contextlib
import ctypes
import errno
import os
import pickle
import stat
import struct
import traceback

libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_EACCESS, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW = 0x200, 0x100, 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT = 1, 2, 8, 16, 32
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38

# Numbers that no user of the machine has.
ALICE, BOB, STAFF = 61_001, 61_002, 61_099


def call(name, *arguments, result=ctypes.c_int):
    """Calls a function of the C library; raises OSError where it answers -1."""
    function = getattr(libc, name)
    function.restype = result
    words = [os.fsencode(word) if isinstance(word, (str, os.PathLike)) else word for word in arguments]
    value = function(*words)
    if value == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return value


def rename(source, target, flags=0):
    call("renameat2", AT_FDCWD, source, AT_FDCWD, target, flags)


def link_target(source, name):
    """Gives what `source` leads to, also through symbolic links, one more name."""
    call("linkat", AT_FDCWD, source, AT_FDCWD, name, AT_SYMLINK_FOLLOW)


def fallocate(file, mode, offset, length):
    call("fallocate", file, mode, ctypes.c_long(offset), ctypes.c_long(length))


def utimens(path, access, modification, flags=0):
    """utimensat(2); each time is (seconds, nanoseconds), UTIME_NOW or UTIME_OMIT."""
    pair = [(0, moment) if isinstance(moment, int) else moment for moment in (access, modification)]
    call("utimensat", AT_FDCWD, path, struct.pack("4q", *pair[0], *pair[1]), flags)


@contextlib.contextmanager
def fails(*numbers):
    """The body must fail with one of these."""
    names = " or ".join(errno.errorcode[number] for number in numbers)
    try:
        yield
    except OSError as error:
        assert error.errno in numbers, f"{errno.errorcode.get(error.errno)} in place of {names}"
    else:
        raise AssertionError(f"no error; {names} was due")


def as_user(uid, body, gid=None, groups=()):
    """What `body` returns or raises in a process of another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setgroups(list(groups))
            os.setgid(uid if gid is None else gid)
            os.setuid(uid)
            outcome = ("returned", body())
        except OSError as error:
            outcome = ("failed", (error.errno, error.strerror))
        except BaseException:
            outcome = ("broke", traceback.format_exc())
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        kind, value = pickle.load(pipe)
    os.waitpid(child, 0)
    if kind == "failed":
        raise OSError(*value)
    assert kind == "returned", value
    return value


def in_child(body):
    """What `body` returns in a process of its own."""
    return as_user(os.getuid(), body, gid=os.getgid(), groups=os.getgroups())


def create(path, content=b"", mode=None, owner=None):
    """Makes a file with a content, a mode and (uid, gid)."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(file, content)
    os.close(file)
    settle(path, mode, owner)
    return path


def folder(path, mode=None, owner=None):
    os.mkdir(path)
    settle(path, mode, owner)
    return path


def settle(path, mode, owner):
    if owner:
        os.chown(path, *owner)
    if mode is not None:
        os.chmod(path, mode)


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def owner(path):
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def read(path):
    with open(path, "rb") as file:
        return file.read()


def past(path, follow_symlinks=True):
    """Sets the times to long ago; answers the status after that."""
    os.utime(path, ns=(10**18, 10**18), follow_symlinks=follow_symlinks)
    return os.lstat(path)


# One of each kind of file that needs no privilege.
KINDS = {
    "file": lambda path: create(path),
    "directory": lambda path: folder(path),
    "fifo": lambda path: os.mkfifo(path),
    "symlink": lambda path: os.symlink("nowhere", path),
}
