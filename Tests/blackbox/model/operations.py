"""What a program can do to a tree of files: one function per operation, run alike in a mount and in the reference.

An operation is a list: its name, then arguments that JSON can hold. It says completely what to do, so that a list of
operations can be kept, shortened and done again. Names of files are relative to the side's root, handles are numbers
that a side keeps file descriptors under. What does not apply any more (a handle that is not open) does nothing.
"""

import ctypes
import errno
import functools
import mmap
import os
import random
import stat

OPERATIONS = {}
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 16
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
# Times that only utimensat sets: from 2001 to 2007. All others are those of the clock.
FIRST_TIME, LAST_TIME = 10**18, 118 * 10**16
NOT_OPEN = "not open"

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


class Side:
    """A tree, and the files that are open in it."""

    def __init__(self, root):
        self.root = os.fspath(root)
        self.handles = {}

    def path(self, name):
        return f"{self.root}/{name}" if name else self.root

    def close_all(self):
        """Answers what closing them said, by the number of the handle."""
        outcomes = {number: outcome(os.close, file) for number, file in sorted(self.handles.items())}
        self.handles.clear()
        return outcomes


def operation(function):
    OPERATIONS[function.__name__] = function
    return function


def on_handle(function):
    """An operation on what is open under a number."""
    @functools.wraps(function)
    def wrapper(side, number, *arguments):
        if number not in side.handles:
            return NOT_OPEN
        return function(side.handles[number], *arguments)
    return operation(wrapper)


def outcome(function, *arguments):
    """What a call answered; of an error, its name."""
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


def perform(side, name, arguments):
    return outcome(OPERATIONS[name], side, *arguments)


@functools.lru_cache(maxsize=256)
def content(seed, length):
    return random.Random(seed).randbytes(length)


def checked(status):
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# MARK: handles

@operation
def open(side, number, name, flags, mode):
    if number in side.handles:
        os.close(side.handles.pop(number))
    side.handles[number] = os.open(side.path(name), flags | os.O_NONBLOCK, mode)


@on_handle
def write(file, seed, length):
    return os.write(file, content(seed, length))


@on_handle
def pwrite(file, offset, seed, length):
    return os.pwrite(file, content(seed, length), offset)


@on_handle
def read(file, length):
    return os.read(file, length)


@on_handle
def pread(file, offset, length):
    return os.pread(file, length, offset)


@on_handle
def seek(file, offset, whence):
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return NOT_OPEN                                  # of directories, positions are the file system's own affair
    return os.lseek(file, offset, whence)


def has_size(status, size):
    """Whether to cut it to `size` changes nothing: whether that is a change of its time, file systems see differently."""
    return stat.S_ISREG(status.st_mode) and status.st_size == size


@on_handle
def ftruncate(file, size):
    if not has_size(os.fstat(file), size):
        os.ftruncate(file, size)


@on_handle
def fallocate(file, mode, offset, length):
    checked(libc.fallocate(file, mode, offset, length))


@on_handle
def zero_range(file, offset, length, keeps_size):
    """As fallocate does it; with a write where the file system has no such thing."""
    try:
        checked(libc.fallocate(file, FALLOC_FL_ZERO_RANGE | (FALLOC_FL_KEEP_SIZE if keeps_size else 0), offset, length))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        end = min(offset + length, os.fstat(file).st_size) if keeps_size else offset + length
        if end <= offset:
            os.utime(file)                                   # it counts as a change all the same
        else:
            # By another way in: where the file was opened to append, a write cannot choose its place.
            other = os.open(f"/proc/self/fd/{file}", os.O_WRONLY)
            try:
                os.pwrite(other, bytes(end - offset), offset)
            finally:
                os.close(other)


@on_handle
def mmap_write(file, offset, seed, length):
    """Through memory that is shared with the file; only what is in the file already."""
    size = os.fstat(file).st_size
    if not stat.S_ISREG(os.fstat(file).st_mode) or offset + length > size or length == 0:
        return NOT_OPEN
    with mmap.mmap(file, size) as memory:
        memory[offset:offset + length] = content(seed, length)
        memory.flush()


@on_handle
def fsync(file):
    os.fsync(file)


@on_handle
def fdatasync(file):
    os.fdatasync(file)


@on_handle
def fstat(file):
    return facts(os.fstat(file))


@on_handle
def fchmod(file, mode):
    os.fchmod(file, mode)


@operation
def copy_file_range(side, source, target, offset, target_offset, length):
    if source not in side.handles or target not in side.handles:
        return NOT_OPEN
    return os.copy_file_range(side.handles[source], side.handles[target], length, offset, target_offset)


@operation
def close(side, number):
    if number not in side.handles:
        return NOT_OPEN
    os.close(side.handles.pop(number))


# MARK: whole files

@operation
def write_file(side, name, seed, length):
    file = os.open(side.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644)
    try:
        put(file, content(seed, length))
    finally:
        os.close(file)


def put(file, data):
    view = memoryview(data)
    while view:
        view = view[os.write(file, view):]


@operation
def append_file(side, name, seed, length):
    file = os.open(side.path(name), os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    try:
        put(file, content(seed, length))
    finally:
        os.close(file)


@operation
def replace_file(side, name, seed, length):
    """As editors save: another file, flushed, and renamed over."""
    write_file(side, name + ".tmp", seed, length)
    file = os.open(side.path(name + ".tmp"), os.O_RDONLY)
    os.fsync(file)
    os.close(file)
    os.rename(side.path(name + ".tmp"), side.path(name))


@operation
def read_file(side, name):
    file = os.open(side.path(name), os.O_RDONLY | os.O_NONBLOCK)
    try:
        return whole(file)
    finally:
        os.close(file)


def whole(file):
    pieces, position = [], 0
    while piece := os.pread(file, 1 << 20, position):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


@operation
def truncate(side, name, size):
    if not has_size(os.stat(side.path(name)), size):
        os.truncate(side.path(name), size)


# MARK: names

@operation
def mkdir(side, name, mode):
    os.mkdir(side.path(name), mode)


@operation
def mkfifo(side, name, mode):
    os.mkfifo(side.path(name), mode)


@operation
def symlink(side, target, name):
    os.symlink(target, side.path(name))


@operation
def link(side, source, name):
    os.link(side.path(source), side.path(name), follow_symlinks=False)


@operation
def unlink(side, name):
    os.unlink(side.path(name))


@operation
def rmdir(side, name):
    os.rmdir(side.path(name))


@operation
def rename(side, source, target, flags):
    if flags == 0:
        return os.rename(side.path(source), side.path(target))
    at = -100                                            # AT_FDCWD: the working directory, which does not matter
    checked(libc.renameat2(at, os.fsencode(side.path(source)), at, os.fsencode(side.path(target)), flags))


@operation
def readdir(side, name):
    with os.scandir(side.path(name)) as found:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in found)


@operation
def readlink(side, name):
    return os.readlink(side.path(name))


# MARK: attributes

def facts(status):
    """What is promised of a stat: not times of the clock, nor what a directory has as its size and links."""
    is_directory = stat.S_ISDIR(status.st_mode)
    return {
        "mode": oct(status.st_mode) if not stat.S_ISLNK(status.st_mode) else "link",
        "links": None if is_directory else status.st_nlink, "size": None if is_directory else status.st_size,
        "owner": [status.st_uid, status.st_gid],
        "mtime": None if stat.S_ISFIFO(status.st_mode)       # what runs through it counts here, and there not
        else status.st_mtime_ns if FIRST_TIME <= status.st_mtime_ns < LAST_TIME else "of the clock"}


@operation
def lstat(side, name):
    return facts(os.lstat(side.path(name)))


@operation
def access(side, name, mode):
    return os.access(side.path(name), mode)


@operation
def chmod(side, name, mode):
    os.chmod(side.path(name), mode)


@operation
def chown(side, name, uid, gid):
    os.chown(side.path(name), uid, gid, follow_symlinks=False)


@operation
def utimens(side, name, ns):
    os.utime(side.path(name), ns=(ns, ns), follow_symlinks=False)


@operation
def setxattr(side, name, key, seed, length, flags):
    os.setxattr(side.path(name), key, content(seed, length), flags, follow_symlinks=False)


@operation
def getxattr(side, name, key):
    return os.getxattr(side.path(name), key, follow_symlinks=False)


@operation
def removexattr(side, name, key):
    os.removexattr(side.path(name), key, follow_symlinks=False)


@operation
def listxattr(side, name):
    return attributes(side.path(name))


def attributes(path):
    return sorted(key for key in os.listxattr(path, follow_symlinks=False) if key.startswith("user.model"))


# MARK: all of it

def description(side):
    """The whole tree: of each name what stat, reading and the extended attributes tell, and which names are one file."""
    found, first_names = {}, {}
    folders = [""]
    while folders:
        folder = folders.pop()
        names = [f"{folder}/{name}" if folder else name for name in sorted(os.listdir(side.path(folder)))]
        for name in names:
            path = side.path(name)
            status = os.lstat(path)
            entry = facts(status)
            if stat.S_ISDIR(status.st_mode):
                folders.append(name)
            elif stat.S_ISREG(status.st_mode):
                entry["content"] = read_file(side, name)
                entry["same as"] = first_names.setdefault(status.st_ino, name) if status.st_nlink > 1 else name
            elif stat.S_ISLNK(status.st_mode):
                entry["target"] = os.readlink(path)
            if not stat.S_ISLNK(status.st_mode):
                entry["attributes"] = {
                    key: os.getxattr(path, key, follow_symlinks=False) for key in attributes(path)}
            found[name] = entry
    for number, file in side.handles.items():
        entry = facts(os.fstat(file))
        if stat.S_ISREG(os.fstat(file).st_mode):
            entry["content"] = outcome(whole, file)          # EBADF for one that is open for writing only
        found[f"handle {number}"] = entry
    return found


def difference(expected, actual):
    """What is not as it should be, in words; empty when nothing is."""
    lines = []
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            lines.append(f"{name!r} is missing")
        elif name not in expected:
            lines.append(f"{name!r} is too much: {brief(actual[name])}")
        else:
            for key in expected[name].keys() | actual[name].keys():
                a, b = expected[name].get(key), actual[name].get(key)
                if a != b:
                    lines.append(f"{name!r}: {key} is {brief(b)}, should be {brief(a)}{where(a, b)}")
    return lines


def where(a, b):
    if not (isinstance(a, bytes) and isinstance(b, bytes)):
        return ""
    first = next((index for index, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    last = next((index for index in range(min(len(a), len(b)) - 1, -1, -1) if a[index] != b[index]), first)
    return f" (other from byte {first} to {last})"


def brief(value):
    if isinstance(value, bytes) and len(value) > 40:
        return f"{len(value)} bytes {value[:12].hex()}…{' all zero' if not any(value) else ''}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {brief(item)}" for key, item in value.items())
    return repr(value)
