"""Extended attributes, capabilities, access control lists, statvfs."""

import errno
import os
import struct

import pytest
from calls import ALICE, BOB, as_user, create, fails, folder, read

CAPABILITY = struct.pack("<5I", 0x0200_0000 | 1, 1 << 10, 0, 0, 0)          # cap_net_bind_service, version 2


# MARK: user attributes

@pytest.mark.parametrize("kind", ["file", "directory"])
def test_attributes_are_set_read_listed_and_removed(here, kind):
    create("it") if kind == "file" else folder("it")
    for name, value in (("user.a", b"1"), ("user.empty", b""), ("user.bytes", bytes(range(256))), ("user.ü", b"utf-8")):
        os.setxattr("it", name, value)
        assert os.getxattr("it", name) == value
    assert sorted(os.listxattr("it")) == ["user.a", "user.bytes", "user.empty", "user.ü"]
    os.setxattr("it", "user.a", b"replaced by something longer")
    assert os.getxattr("it", "user.a") == b"replaced by something longer"
    os.removexattr("it", "user.a")
    assert "user.a" not in os.listxattr("it")
    with fails(errno.ENODATA):
        os.getxattr("it", "user.a")
    with fails(errno.ENODATA):
        os.removexattr("it", "user.a")


def test_create_and_replace(here):
    create("file")
    with fails(errno.ENODATA):
        os.setxattr("file", "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr("file", "user.a", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr("file", "user.a", b"2", os.XATTR_CREATE)
    os.setxattr("file", "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr("file", "user.a") == b"3"
    with fails(errno.EINVAL):
        os.setxattr("file", "user.a", b"", 64)


def test_sizes_and_buffers(here):
    import ctypes
    from calls import call
    create("file")
    os.setxattr("file", "user.a", b"0123456789")
    buffer = ctypes.create_string_buffer(20)
    assert call("getxattr", "file", b"user.a", None, 0, result=ctypes.c_ssize_t) == 10
    assert call("getxattr", "file", b"user.a", buffer, 10, result=ctypes.c_ssize_t) == 10
    with fails(errno.ERANGE):
        call("getxattr", "file", b"user.a", buffer, 9, result=ctypes.c_ssize_t)
    assert call("listxattr", "file", None, 0, result=ctypes.c_ssize_t) == 7
    with fails(errno.ERANGE):
        call("listxattr", "file", buffer, 6, result=ctypes.c_ssize_t)
    with fails(errno.ERANGE):
        os.setxattr("file", "user." + "x" * 251, b"")
    os.setxattr("file", "user." + "x" * 250, b"")
    with fails(errno.E2BIG):
        os.setxattr("file", "user.big", bytes(65537))
    if here.is_mount:
        os.setxattr("file", "user.big", bytes(65536))          # a disk of 4 KiB blocks has no room for that
        assert os.getxattr("file", "user.big") == bytes(65536)
    for number in range(20):
        os.setxattr("file", f"user.n{number}", b"x" * 50)
    assert len(os.listxattr("file")) == 22 + here.is_mount


def test_names_that_are_no_text(here):
    """A disk takes any bytes; stores keep names as text, and the mount refuses others rather than change them."""
    create("file")
    if here.is_mount:
        with fails(errno.EINVAL):
            os.setxattr("file", b"user.\xff", b"1")
        with fails(errno.ENODATA):
            os.getxattr("file", b"user.\xff")
        assert os.listxattr("file") == []
    else:
        os.setxattr("file", b"user.\xff", b"1")


def test_attributes_by_others(here, root):
    create("file", mode=0o644, owner=(ALICE, ALICE))
    os.setxattr("file", "user.a", b"1")
    os.setxattr("file", "trusted.a", b"secret")
    assert as_user(BOB, lambda: os.getxattr("file", "user.a")) == b"1"
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.setxattr("file", "user.a", b"2"))
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.removexattr("file", "user.a"))
    os.chmod("file", 0o600)
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.getxattr("file", "user.a"))
    with fails(errno.ENODATA):
        as_user(ALICE, lambda: os.getxattr("file", "trusted.a"))
    with fails(errno.EPERM):
        as_user(ALICE, lambda: os.setxattr("file", "trusted.a", b""))
    assert as_user(ALICE, lambda: os.listxattr("file")) == ["user.a"]
    assert sorted(os.listxattr("file")) == ["trusted.a", "user.a"]


def test_where_user_attributes_are_not_allowed(here, root):
    os.symlink("x", "link")
    os.mkfifo("fifo")
    for path in ("link", "fifo"):
        with fails(errno.EPERM):
            os.setxattr(path, "user.a", b"", follow_symlinks=False)
        os.setxattr(path, "trusted.a", b"1", follow_symlinks=False)
        assert os.getxattr(path, "trusted.a", follow_symlinks=False) == b"1"
    folder("sticky", 0o1777)
    with fails(errno.EPERM):
        as_user(BOB, lambda: os.setxattr("sticky", "user.a", b""))


def test_attributes_fail_as_they_should(here):
    create("file")
    with fails(errno.ENOENT):
        os.getxattr("missing", "user.a")
    with fails(errno.ENOTDIR):
        os.setxattr("file/x", "user.a", b"")
    for name in ("nonsense", "nonsense.a", "user."):
        with fails(errno.EOPNOTSUPP, errno.EINVAL):
            os.setxattr("file", name, b"")


def test_all_names_share_attributes_and_they_move_along(here):
    create("file")
    os.link("file", "other")
    os.setxattr("file", "user.a", b"1")
    os.rename("file", "moved")
    assert os.getxattr("other", "user.a") == os.getxattr("moved", "user.a") == b"1"
    create("new")
    os.rename("new", "moved")
    assert os.listxattr("moved") == []


# MARK: capabilities

@pytest.mark.parametrize("change", ["write", "truncate", "chown", "fallocate"])
def test_capabilities_are_lost_with_the_content_or_the_owner(here, root, change):
    create("program", b"x" * 100, mode=0o777)
    os.setxattr("program", "security.capability", CAPABILITY)
    assert len(os.getxattr("program", "security.capability")) >= 20
    read("program")
    os.chmod("program", 0o755)
    assert "security.capability" in os.listxattr("program")
    if change == "write":
        file = os.open("program", os.O_WRONLY)
        os.write(file, b"y")
        os.close(file)
    elif change == "truncate":
        os.truncate("program", 5)
    elif change == "chown":
        os.chown("program", ALICE, ALICE)
    else:
        file = os.open("program", os.O_WRONLY)
        os.posix_fallocate(file, 0, 5000)
        os.close(file)
    with fails(errno.ENODATA):
        os.getxattr("program", "security.capability")


def test_capabilities_of_what_nobody_may_execute(here, root):
    create("data", b"x", mode=0o644)
    os.setxattr("data", "security.capability", CAPABILITY)
    with open("data", "ab") as file:
        file.write(b"y")
    with fails(errno.ENODATA):
        os.getxattr("data", "security.capability")


def test_only_root_gives_capabilities(here, root):
    create("program", mode=0o777, owner=(ALICE, ALICE))
    with fails(errno.EPERM):
        as_user(ALICE, lambda: os.setxattr("program", "security.capability", CAPABILITY))


# MARK: access control lists

def test_access_control_lists(here):
    """A disk keeps them. The mount says that it does not, rather than keep what it would not obey."""
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who) for tag, bits, who in (
        (0x01, 6, 2**32 - 1), (0x02, 4, ALICE), (0x04, 4, 2**32 - 1), (0x10, 4, 2**32 - 1), (0x20, 0, 2**32 - 1)))
    create("file")
    if here.is_mount:
        with fails(errno.EOPNOTSUPP):
            os.setxattr("file", "system.posix_acl_access", acl)
        with fails(errno.EOPNOTSUPP, errno.ENODATA):
            os.getxattr("file", "system.posix_acl_access")
    else:
        os.setxattr("file", "system.posix_acl_access", acl)
        assert os.getxattr("file", "system.posix_acl_access") == acl
    assert os.listxattr("file") == ([] if here.is_mount else ["system.posix_acl_access"])


# MARK: statvfs

def test_statvfs(here):
    create("file", b"x")
    space = os.statvfs(".")
    assert space.f_namemax == 255
    assert space.f_frsize > 0 and space.f_bsize >= space.f_frsize
    assert space.f_blocks > 0 and 0 <= space.f_bavail <= space.f_bfree <= space.f_blocks
    assert os.statvfs("file")[:3] == space[:3]
    file = os.open("file", os.O_RDONLY)
    assert os.fstatvfs(file).f_namemax == 255
    os.close(file)
    with fails(errno.ENOENT):
        os.statvfs("missing")
    assert os.pathconf(".", "PC_NAME_MAX") == 255
