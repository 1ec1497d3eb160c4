"""Bytes: files without a name, appending, holes, fallocate, copying in the kernel, memory maps, limits of size."""

import errno
import mmap
import os
import resource
import signal

import pytest
from calls import (COLLAPSE, INSERT, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, call, create, fails, fallocate, in_child,
                   link_target, read)

MB = 1 << 20


# MARK: open and without a name

def test_a_file_without_a_name_is_a_file(here):
    file = os.open("file", os.O_RDWR | os.O_CREAT)
    os.write(file, b"before")
    os.unlink("file")
    assert os.listdir() == [] and os.fstat(file).st_nlink == 0
    os.write(file, b" after")
    assert os.pread(file, 100, 0) == b"before after" and os.fstat(file).st_size == 12
    os.ftruncate(file, 3)
    os.ftruncate(file, 5)
    assert os.pread(file, 100, 0) == b"bef\0\0"
    os.fchmod(file, 0o711)
    os.utime(file, ns=(5, 6))
    os.setxattr(file, "user.a", b"1")
    status = os.fstat(file)
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o711, 6) and os.getxattr(file, "user.a") == b"1"
    os.fsync(file)
    again = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    assert os.read(again, 100) == b"bef\0\0"
    with fails(errno.ENOENT):
        link_target(f"/proc/self/fd/{file}", "back")
    create("file", b"another")
    assert os.stat("file").st_ino != status.st_ino
    os.close(again)
    os.close(file)
    assert read("file") == b"another"


def test_a_file_with_a_name_is_linked_by_its_handle(here):
    create("file", b"x")
    file = os.open("file", os.O_RDONLY)
    link_target(f"/proc/self/fd/{file}", "second")
    assert os.fstat(file).st_nlink == 2 and read("second") == b"x"
    os.close(file)


# MARK: appending

def test_appenders_do_not_overwrite_each_other(here):
    children = []
    for letter in b"abcd":
        child = os.fork()
        if child == 0:
            try:
                file = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                for number in range(200):
                    os.write(file, bytes([letter]) * (50 + number))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    content = read("log")
    for letter in b"abcd":
        assert content.count(letter) == sum(50 + number for number in range(200))


def test_append_ignores_the_position(here):
    create("file", b"12345")
    file = os.open("file", os.O_RDWR | os.O_APPEND)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, b"6")
    assert os.lseek(file, 0, os.SEEK_CUR) == 6
    os.pwrite(file, b"7", 0)             # Linux appends here too (pwrite(2), BUGS)
    os.close(file)
    assert read("file") == b"1234567"


def test_positions(here):
    file = os.open("file", os.O_RDWR | os.O_CREAT)
    os.pwrite(file, b"end", 1000)
    assert os.lseek(file, 0, os.SEEK_CUR) == 0 and os.lseek(file, 0, os.SEEK_END) == 1003
    assert os.pread(file, 10, 995) == bytes(5) + b"end"
    assert os.pread(file, 10, 1003) == b"" and os.pread(file, 10, 10**12) == b""
    with fails(errno.EINVAL):
        os.lseek(file, -1, os.SEEK_SET)
    with fails(errno.EINVAL):
        os.pread(file, 1, -1)
    assert os.writev(file, [b"ab", b"", b"cd"]) == 4
    first, second = bytearray(2), bytearray(5)
    assert os.preadv(file, [first, second], 1000) == 7 and bytes(first + second) == b"endabcd"
    os.close(file)


# MARK: holes

def data_ranges(file):
    ranges, position, end = [], 0, os.fstat(file).st_size
    while position < end:
        try:
            start = os.lseek(file, position, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            break
        position = os.lseek(file, start, os.SEEK_HOLE)
        ranges.append((start, position))
    return ranges


@pytest.mark.parametrize("synced", [False, True])
def test_data_and_holes_are_found(here, synced):
    file = os.open("file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 8 * MB)
    os.pwrite(file, b"x" * MB, 2 * MB)
    os.pwrite(file, b"y" * MB, 5 * MB)
    if synced:
        os.fsync(file)
    assert data_ranges(file) == [(2 * MB, 3 * MB), (5 * MB, 6 * MB)]
    assert os.lseek(file, 2 * MB + 5, os.SEEK_DATA) == 2 * MB + 5
    assert os.lseek(file, 6 * MB, os.SEEK_HOLE) == 6 * MB
    with fails(errno.ENXIO):
        os.lseek(file, 6 * MB, os.SEEK_DATA)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        with fails(errno.ENXIO):
            os.lseek(file, 8 * MB, whence)
    os.close(file)
    os.sync()
    # What a hole does not take is not known of a file whose bytes may lie on the store: the mount counts all.
    taken = os.stat("file").st_blocks * 512
    assert taken == 8 * MB if here.is_mount else 2 * MB <= taken < 3 * MB


def test_data_that_was_just_written_is_data(here):
    """Before it has left the page cache too: who copies a file by its data must not lose what is new."""
    create("file", b"a" * 5000)
    file = os.open("file", os.O_RDWR)
    os.pwrite(file, b"z" * 100, 3 * MB)
    assert os.lseek(file, 2 * MB, os.SEEK_DATA) <= 3 * MB
    assert os.lseek(file, 3 * MB, os.SEEK_HOLE) == 3 * MB + 100
    assert os.lseek(file, 0, os.SEEK_DATA) == 0
    os.close(file)


def test_fallocate(here):
    create("file", b"x" * 10_000)
    file = os.open("file", os.O_RDWR)
    fallocate(file, KEEP_SIZE, 0, 50_000)
    assert os.fstat(file).st_size == 10_000
    fallocate(file, 0, 0, 50_000)
    assert os.fstat(file).st_size == 50_000 and os.pread(file, 20, 9_990) == b"x" * 10 + bytes(10)
    fallocate(file, 0, 0, 5)
    assert os.fstat(file).st_size == 50_000
    fallocate(file, PUNCH_HOLE | KEEP_SIZE, 100, 200)
    assert os.pread(file, 400, 0) == b"x" * 100 + bytes(200) + b"x" * 100
    fallocate(file, ZERO_RANGE, 49_000, 2_000)
    assert os.fstat(file).st_size == 51_000
    fallocate(file, ZERO_RANGE | KEEP_SIZE, 50_000, 9_000)
    assert os.fstat(file).st_size == 51_000
    for mode in (COLLAPSE, INSERT):
        if here.is_mount:
            with fails(errno.EOPNOTSUPP):
                fallocate(file, mode, 4096, 4096)
    for mode, offset, length in ((0, -1, 5), (0, 0, 0), (0, 0, -1)):
        with fails(errno.EINVAL):
            fallocate(file, mode, offset, length)
    with fails(errno.EOPNOTSUPP):
        fallocate(file, PUNCH_HOLE, 0, 10)
    with fails(errno.EFBIG):
        fallocate(file, 0, 2**63 - 2, 10)
    os.close(file)
    reader = os.open("file", os.O_RDONLY)
    with fails(errno.EBADF):
        fallocate(reader, 0, 0, 5)
    os.close(reader)
    assert read("file") == b"x" * 100 + bytes(200) + b"x" * 9_700 + bytes(41_000)


# MARK: copying in the kernel

def test_copy_file_range(here):
    create("source", bytes(range(256)) * 40)
    create("target", b"-" * 100)
    source, target = os.open("source", os.O_RDONLY), os.open("target", os.O_RDWR)
    assert os.copy_file_range(source, target, 1000, 10, 50) == 1000
    assert os.copy_file_range(source, target, 50, 10_200, 0) == 40
    assert os.copy_file_range(source, target, 50, 20_000, 0) == 0
    expected = (bytes(range(256)) * 40)
    assert os.pread(target, 2000, 0) == expected[10_200:] + b"-" * 10 + expected[10:1010]
    os.close(target)
    with fails(errno.EBADF):
        os.copy_file_range(source, source, 10, 0, 100)
    os.close(source)
    file = os.open("source", os.O_RDWR)
    with fails(errno.EINVAL):
        os.copy_file_range(file, file, 100, 0, 50)
    assert os.copy_file_range(file, file, 100, 0, 100) == 100
    assert os.pread(file, 200, 0) == expected[:100] * 2
    appender = os.open("target", os.O_WRONLY | os.O_APPEND)
    with fails(errno.EBADF):
        os.copy_file_range(file, appender, 10)
    os.close(appender)
    os.close(file)


def test_what_was_just_written_is_copied(here):
    source, target = (os.open(name, os.O_RDWR | os.O_CREAT) for name in "ab")
    os.write(source, b"x" * 100_000)
    os.write(target, b"y" * 200_000)
    assert os.copy_file_range(source, target, 100_000, 0, 50_000) == 100_000
    os.close(source)
    os.close(target)
    assert read("b") == b"y" * 50_000 + b"x" * 100_000 + b"y" * 50_000


def test_sendfile_and_splice(here):
    content = os.urandom(200_000)
    create("a", content)
    source, target = os.open("a", os.O_RDONLY), os.open("b", os.O_RDWR | os.O_CREAT)
    done = 0
    while count := os.sendfile(target, source, done, 1 << 20):
        done += count
    assert read("b") == content
    reading, writing = os.pipe()
    position = 0
    copy = os.open("c", os.O_WRONLY | os.O_CREAT)
    while count := os.splice(source, writing, 65_536, offset_src=position):
        position += count
        left = count
        while left:
            left -= os.splice(reading, copy, left)
    for handle in (source, target, reading, writing, copy):
        os.close(handle)
    assert read("c") == content


# MARK: memory maps

def test_a_shared_map_and_the_file_are_one(here):
    create("file", b"." * 10_000)
    file = os.open("file", os.O_RDWR)
    with mmap.mmap(file, 10_000) as view:
        view[5000:5003] = b"map"
        assert os.pread(file, 3, 5000) == b"map"
        os.pwrite(file, b"call", 100)
        assert view[100:104] == b"call"
        view.flush()
        assert in_child(lambda: read("file")[5000:5003]) == b"map"
        view[9_999:10_000] = b"!"
    os.close(file)
    assert read("file")[9_990:] == b"." * 9 + b"!" and os.stat("file").st_size == 10_000


def test_a_private_map_changes_nothing(here):
    create("file", b"." * 5000)
    file = os.open("file", os.O_RDWR)
    with mmap.mmap(file, 5000, flags=mmap.MAP_PRIVATE) as view:
        view[0:3] = b"abc"
        assert view[0:3] == b"abc" and os.pread(file, 3, 0) == b"..."
    os.close(file)
    assert read("file") == b"." * 5000


def test_a_map_outlives_handle_and_name(here):
    create("file", b"." * 5000)
    file = os.open("file", os.O_RDWR)
    view = mmap.mmap(file, 5000)
    os.close(file)
    os.unlink("file")
    view[10:12] = b"ab"
    view.flush()
    assert view[9:13] == b".ab."
    view.close()


def test_writing_through_a_map_marks_the_time(here):
    create("file", b"." * 5000)
    os.utime("file", ns=(10**18, 10**18))
    file = os.open("file", os.O_RDWR)
    with mmap.mmap(file, 5000) as view:
        view[0:1] = b"x"
        view.flush()
    os.close(file)
    assert os.stat("file").st_mtime_ns > 10**18


def test_a_map_behind_the_end_is_a_bus_error(here):
    create("file", b"x" * 5000)

    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGBUS, lambda *_: os._exit(7))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        file = os.open("file", os.O_RDWR)
        view = mmap.mmap(file, 20_000) if os.fstat(file).st_size >= 20_000 else None
        os.ftruncate(file, 20_000)
        view = view or mmap.mmap(file, 20_000)
        os.ftruncate(file, 100)
        view[16_384]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGBUS


# MARK: direct

def test_direct_io_in_blocks(here):
    content = mmap.mmap(-1, 16_384)
    content.write(os.urandom(16_384))
    file = os.open("file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.write(file, content) == 16_384
    back = mmap.mmap(-1, 4096)
    assert os.preadv(file, [back], 8192) == 4096 and back[:] == content[8192:12_288]
    # A disk insists on whole blocks; the mount takes any piece.
    if here.is_mount:
        assert os.pwrite(file, b"odd", 5) == 3
        assert os.pread(file, 3, 5) == b"odd"
    else:
        with fails(errno.EINVAL):
            os.pwrite(file, b"odd", 5)
    os.close(file)
    cached = read("file")
    assert len(cached) == 16_384 and cached[8192:] == content[8192:]


# MARK: limits of size

def test_the_largest_offset(here):
    file = os.open("file", os.O_RDWR | os.O_CREAT)
    with fails(errno.EFBIG, errno.EINVAL):
        os.pwrite(file, b"xy", 2**63 - 1)
    os.pwrite(file, b"far", 2**40)
    assert os.fstat(file).st_size == 2**40 + 3 and os.pread(file, 3, 2**40) == b"far"
    assert here.is_mount or os.fstat(file).st_blocks * 512 < MB
    os.close(file)


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("way", ["write", "ftruncate", "truncate", "fallocate"])
def test_the_limit_of_the_process(here, way, ignored):
    create("file", b"x" * 100)

    def attempt():
        if ignored:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        file = os.open("file", os.O_RDWR)
        if way == "write":
            assert os.pwrite(file, b"y" * 1000, 500) == 500          # as much as fits
            os.pwrite(file, b"y", 1000)
        elif way == "ftruncate":
            os.ftruncate(file, 1000)
            os.ftruncate(file, 1001)
        elif way == "truncate":
            os.truncate("file", 1001)
        else:
            fallocate(file, 0, 0, 1001)

    child = os.fork()
    if child == 0:
        try:
            attempt()
            os._exit(1)
        except OSError as error:
            os._exit(0 if error.errno == errno.EFBIG else 2)
        finally:
            os._exit(3)
    outcome = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert outcome == (0 if ignored else -signal.SIGXFSZ)


def test_bad_handles_and_addresses(here):
    create("file", b"x")
    file = os.open("file", os.O_RDWR)
    with fails(errno.EFAULT):
        call("write", file, 1, 10)
    with fails(errno.EFAULT):
        call("read", file, 1, 10)
    os.close(file)
    handle = os.open(".", os.O_RDONLY)
    with fails(errno.EISDIR):
        os.read(handle, 1)
    os.fsync(handle)
    os.close(handle)
