"""What an empty cache finds on the store: each cell of the table in docs/semantics.md is a test."""

import os
import stat

import pytest
from rigs.processes import RigError, wait_until

KEEPERS = {"local", "radosgw", "swift", "moto", "google"}
# `rclone serve s3` keeps metadata of objects in its memory: until that process ends.
EVERYWHERE = KEEPERS | {"rclone"}
# SFTP has times in whole seconds, no extended attributes, and makes no special files: those are refused, and stay.
SFTP = {"sftp"}
REFUSED = {"sftp": {"a fifo", "a device"}}
# An archive holds everything, but of attributes only kinds that the store has.
NOT_PACKED = {"sftp": {"an extended attribute", "an extended attribute of 3,000 bytes", "that two names are one file"}}

MOMENT = 1_234_567_890_123_456_789


def file(data):
    (data / "it").write_bytes(b"content")
    return data / "it"


def make_content(data):
    file(data)


def has_content(data):
    return (data / "it").read_bytes() == b"content"


def make_empty_file(data):
    (data / "it").touch()


def has_empty_file(data):
    return (data / "it").read_bytes() == b""


def make_directory(data):
    (data / "it" / "below").mkdir(parents=True)


def has_directory(data):
    return (data / "it" / "below").is_dir()


def make_symlink(data):
    (data / "it").symlink_to("some/where")


def has_symlink(data):
    return (data / "it").is_symlink() and os.readlink(data / "it") == "some/where"


def make_fifo(data):
    os.mkfifo(data / "it")


def has_fifo(data):
    return stat.S_ISFIFO((data / "it").lstat().st_mode)


def make_device(data):
    os.mknod(data / "it", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def has_device(data):
    status = (data / "it").lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def make_mode(data):
    file(data).chmod(0o6751)


def has_mode(data):
    return stat.S_IMODE((data / "it").lstat().st_mode) == 0o6751


def make_mode_of_directory(data):
    (data / "it").mkdir()
    (data / "it").chmod(0o1711)


def has_mode_of_directory(data):
    return (data / "it").is_dir() and stat.S_IMODE((data / "it").lstat().st_mode) == 0o1711


def make_owner(data):
    os.chown(file(data), 61_001, 61_002)


def has_owner(data):
    status = (data / "it").lstat()
    return (status.st_uid, status.st_gid) == (61_001, 61_002)


def make_time(data):
    os.utime(file(data), ns=(MOMENT, MOMENT))


def has_time(data):
    return (data / "it").lstat().st_mtime_ns == MOMENT


def has_second(data):
    return (data / "it").lstat().st_mtime_ns // 10**9 == MOMENT // 10**9


def make_attribute(data):
    os.setxattr(file(data), "user.colour", b"green\0")


def has_attribute(data):
    return os.listxattr(data / "it") == ["user.colour"] and os.getxattr(data / "it", "user.colour") == b"green\0"


def make_large_attribute(data):
    os.setxattr(file(data), "user.colour", b"x" * 3000)


def has_large_attribute(data):
    return os.listxattr(data / "it") == ["user.colour"] and os.getxattr(data / "it", "user.colour") == b"x" * 3000


def make_hard_link(data):
    os.link(file(data), data / "second")


def has_contents_of_both_links(data):
    return (data / "it").read_bytes() == (data / "second").read_bytes() == b"content"


def has_hard_link(data):
    """That they are one is known when both were seen, and told to the kernel a moment later."""
    def is_one():
        first, second = (data / "it").lstat(), (data / "second").lstat()
        return first.st_ino == second.st_ino and first.st_nlink == second.st_nlink == 2

    try:
        wait_until(is_one, 3, "both names being one file")
    except RigError:
        return False
    return True


# What, how to make it, how to find it again, the stores that keep it.
TABLE = {
    "content": (make_content, has_content, EVERYWHERE | SFTP),
    "an empty file": (make_empty_file, has_empty_file, EVERYWHERE | SFTP),
    "an empty directory": (make_directory, has_directory, KEEPERS | SFTP),
    "a symbolic link": (make_symlink, has_symlink, EVERYWHERE | SFTP),
    "a fifo": (make_fifo, has_fifo, EVERYWHERE),
    "a device": (make_device, has_device, EVERYWHERE),
    "the mode of a file": (make_mode, has_mode, EVERYWHERE | SFTP),
    "the mode of a directory": (make_mode_of_directory, has_mode_of_directory, KEEPERS | SFTP),
    "the owner": (make_owner, has_owner, EVERYWHERE | SFTP),
    "the time of the last change": (make_time, has_time, EVERYWHERE),
    "the second of the last change": (make_time, has_second, EVERYWHERE | SFTP),
    "an extended attribute": (make_attribute, has_attribute, EVERYWHERE),
    "an extended attribute of 3,000 bytes": (make_large_attribute, has_large_attribute, {"local", "google"}),
    "the bytes of both names of a hard link": (make_hard_link, has_contents_of_both_links, EVERYWHERE | SFTP),
    "that two names are one file": (make_hard_link, has_hard_link, EVERYWHERE),
}


def make_all(folder, refused):
    """All lines of the table but those that the store refuses, a directory for each."""
    for index, (what, (make, _, _)) in enumerate(TABLE.items()):
        (folder / f"d{index}").mkdir(parents=True)
        if what not in refused:
            make(folder / f"d{index}")


def is_kept(what, name, kind):
    return name in TABLE[what][2] or (kind == "chunk" and what not in NOT_PACKED.get(name, ()))


def refused_by(name, kind):
    """In an archive every kind of file has its place."""
    return REFUSED.get(name, set()) if kind == "object" else set()


def found_in(folder):
    """Which lines of the table are there."""
    found = {}
    for index, (what, (_, has, _)) in enumerate(TABLE.items()):
        try:
            found[what] = bool(has(folder / f"d{index}"))
        except OSError:
            found[what] = False
    return found


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["object", "chunk"])
@pytest.mark.parametrize("name", sorted(EVERYWHERE | SFTP))
def test_what_an_empty_cache_finds(name, kind, request, mounts, s3_server):
    """All lines of the table on one mount of each store, a directory for each."""
    if os.getuid() != 0:
        pytest.skip("needs root: makes a device and gives files away")
    store = request.getfixturevalue(name) if name in ("local", "sftp", "google") else s3_server(name)
    first = mounts(store, cache=600, type=kind).start()
    make_all(first.data, refused_by(name, kind))
    first.sync()
    first.stop()

    second = mounts(store).start()
    found = found_in(second.data)
    second.stop()
    assert found == {what: is_kept(what, name, kind) for what in TABLE}


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["object", "chunk"])
@pytest.mark.parametrize("name", sorted(KEEPERS | SFTP))
def test_what_is_renamed_before_it_was_looked_at_is_all_there(name, kind, request, mounts, s3_server):
    """Directories are renamed by who has never seen what is in them: their entries have to be read to be moved."""
    if os.getuid() != 0:
        pytest.skip("needs root: makes a device and gives files away")
    store = request.getfixturevalue(name) if name in ("local", "sftp", "google") else s3_server(name)
    first = mounts(store, cache=600, type=kind).start()
    make_all(first.data / "folder", refused_by(name, kind))
    first.stop()
    second = mounts(store).start()
    (second.data / "folder").rename(second.data / "renamed")
    second.stop()
    third = mounts(store).start()
    lost = {what for what, is_there in found_in(third.data / "renamed").items() if not is_there}
    third.stop()
    expected = {what for what in TABLE if not is_kept(what, name, kind)}
    # What an object says of other names counts at its own path only.
    assert lost - {"that two names are one file"} == expected - {"that two names are one file"}


@pytest.mark.parametrize("name", ["local", "sftp", "radosgw", "moto", "swift", "rclone"])
def test_opening_a_file_that_was_replaced_gives_the_new_one(name, request, mounts, s3_server):
    """Although the listing that shows the old one is still trusted."""
    store = request.getfixturevalue(name) if name in ("local", "sftp", "google") else s3_server(name)
    store.write("sub/file", b"the first version")
    store.write("sub/gone", b"will be deleted")
    mount = mounts(store, metadata_cache=3600).start()
    wait_until(lambda: (mount.data / "sub" / "file").exists(), 20, "the file showing up")
    assert (mount.data / "sub" / "file").stat().st_size == 17
    assert (mount.data / "sub" / "gone").stat().st_size == 15
    store.write("sub/file", b"the second version, which is longer")
    store.delete("sub/gone")
    assert (mount.data / "sub" / "file").read_bytes() == b"the second version, which is longer"
    assert (mount.data / "sub" / "file").stat().st_size == 35
    with pytest.raises(FileNotFoundError):
        (mount.data / "sub" / "gone").read_bytes()
    mount.stop()
