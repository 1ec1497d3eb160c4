"""Who may do what (owner, group, others, supplementary groups, sticky directories), and how paths are followed."""

import errno
import os

import pytest
from calls import (ALICE, AT_EACCESS, AT_FDCWD, BOB, STAFF, as_user, call, create, fails, folder, mode, read)


# MARK: permissions

@pytest.mark.parametrize("bits, who", [(0o700, "owner"), (0o070, "group"), (0o070, "supplementary"), (0o007, "others")])
def test_each_class_has_its_own_bits_and_no_others(here, root, bits, who):
    user, groups, gid = {"owner": (ALICE, [], ALICE), "group": (BOB, [], STAFF), "supplementary": (BOB, [STAFF], BOB),
                         "others": (BOB, [], BOB)}[who]

    def attempt(granted):
        allowed = []
        for access, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY)):
            try:
                os.close(os.open("file", flags))
                allowed.append(access)
            except PermissionError:
                pass
        if os.access("file", os.X_OK):
            allowed.append("x")
        return "".join(allowed)

    create("file", owner=(ALICE, STAFF))
    for granted in range(8):
        os.chmod("file", granted * 0o111 & bits)
        expected = "".join(letter for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if granted & bit)
        assert as_user(user, lambda: attempt(granted), gid=gid, groups=groups) == expected
        # All others may everything, and this class nothing: the first that fits decides.
        os.chmod("file", ~(0o777 & bits) & 0o777 | granted * 0o111 & bits)
        assert as_user(user, lambda: attempt(granted), gid=gid, groups=groups) == expected


def test_directories_need_x_to_be_crossed_and_r_to_be_listed(here, root):
    folder("d", owner=(ALICE, ALICE))
    create("d/file", b"x", mode=0o644)
    os.chmod("d", 0o711)
    assert as_user(BOB, lambda: read("d/file")) == b"x"
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.listdir("d"))
    os.chmod("d", 0o744)
    assert as_user(BOB, lambda: os.listdir("d")) == ["file"]
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.stat("d/file"))
    with fails(errno.EACCES):
        as_user(BOB, lambda: os.stat("d/missing"))


def test_sticky_directories(here, root):
    """Who may write into it may add, and take away what is his own alone."""
    folder("tmp", 0o1777)
    create("tmp/alices", b"a", mode=0o666, owner=(ALICE, ALICE))
    folder("tmp/alices-dir", 0o777, owner=(ALICE, ALICE))
    create("tmp/bobs", owner=(BOB, BOB))
    for attempt in (lambda: os.unlink("tmp/alices"), lambda: os.rmdir("tmp/alices-dir"),
                    lambda: os.rename("tmp/alices", "tmp/x"), lambda: os.rename("tmp/bobs", "tmp/alices"),
                    lambda: os.rename("tmp/alices-dir", "tmp/y")):
        with fails(errno.EPERM, errno.EACCES):
            as_user(BOB, attempt)
    as_user(BOB, lambda: os.unlink("tmp/bobs"))
    as_user(ALICE, lambda: os.rename("tmp/alices", "tmp/mine"))
    os.chown("tmp", BOB, BOB)
    as_user(BOB, lambda: os.unlink("tmp/mine"))          # the directory's owner may


@pytest.mark.parametrize("bits", range(8))
def test_access_agrees_with_the_mode(here, root, bits):
    create("file", mode=bits, owner=(ALICE, ALICE))

    def ask():
        return tuple(os.access("file", way) for way in (os.F_OK, os.R_OK, os.W_OK, os.X_OK))

    assert as_user(BOB, ask) == (True, bool(bits & 4), bool(bits & 2), bool(bits & 1))
    assert os.access("file", os.R_OK | os.W_OK) and os.access("file", os.X_OK) == bool(bits & 1)


def test_access_asks_for_the_real_user_unless_told_otherwise(here, root):
    create("file", mode=0o600, owner=(ALICE, ALICE))

    def ask():
        os.setresuid(BOB, ALICE, 0)
        real = os.access("file", os.R_OK)
        return real, call("faccessat", AT_FDCWD, "file", os.R_OK, AT_EACCESS)

    # The C library asks the kernel of the one, and tells the other itself.
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os._exit(0 if ask() == (False, 0) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_access_fails_as_it_should(here):
    create("file")
    os.symlink("loop", "loop")
    for path, number in (("missing", errno.ENOENT), ("file/x", errno.ENOTDIR), ("loop", errno.ELOOP),
                         ("x" * 256, errno.ENAMETOOLONG)):
        with fails(number):
            call("access", path, os.F_OK)
    with fails(errno.EINVAL):
        call("access", "file", 64)


# MARK: paths

def test_names_up_to_255_bytes(here):
    for name in (b"x" * 255, "ü".encode() * 127, b"\xff" * 255):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
        assert os.listdir(b".") == [name]
        os.rename(name, b"d")
        os.unlink(b"d")
    for act in (lambda name: os.stat(name), lambda name: os.mkdir(name), lambda name: os.open(name, os.O_CREAT)):
        with fails(errno.ENAMETOOLONG):
            act("x" * 256)


def test_names_of_any_bytes(here):
    names = {bytes([value]) for value in range(1, 256) if value not in b"/."}
    names |= {b"\xc3\x28", b"\xed\xa0\x80", b"a\nb", b" ", b"...", b"-", "é".encode(), "e\u0301".encode()}
    for name in names:
        create(name, name)
    assert set(os.listdir(b".")) == names
    for name in names:
        assert read(name) == name


def test_paths_up_to_4095_bytes(here):
    parts = ["d" * 200] * 30
    for part in parts:
        os.mkdir(part)
        os.chdir(part)
    create("bottom", b"deep")
    os.chdir(here.path)
    path = "/".join(parts[:20])
    assert os.path.isdir(path)
    long = path + "/" + "./" * ((4095 - len(path) - 2) // 2)
    long += "." * (4095 - len(long))
    assert len(long) == 4095 and os.path.isdir(long.rstrip(".") if long.endswith("..") else long)
    with fails(errno.ENAMETOOLONG):
        os.stat("/".join(parts))
    handle = os.open(path, os.O_PATH)
    assert os.stat("/".join(parts[20:]) + "/bottom", dir_fd=handle).st_size == 4
    os.close(handle)


def test_forty_links_are_followed_and_not_more(here):
    create("l0", b"end")
    for number in range(1, 42):
        os.symlink(f"l{number - 1}", f"l{number}")
    assert read("l40") == b"end"
    with fails(errno.ELOOP):
        read("l41")
    os.symlink("b", "a")
    os.symlink("a", "b")
    for act in (os.stat, os.chdir, os.listdir, lambda path: os.open(path, os.O_CREAT)):
        with fails(errno.ELOOP):
            act("a")


def test_trailing_slashes(here):
    create("file")
    folder("dir")
    os.symlink("dir", "link")
    os.symlink("file", "filelink")
    assert os.path.isdir("dir/") and os.path.isdir("link/")
    for path in ("file/", "filelink/", "file/.", "file/.."):
        with fails(errno.ENOTDIR):
            os.stat(path)
    os.mkdir("new/")
    os.rmdir("new/")
    with fails(errno.ENOTDIR):
        os.unlink("link/")
    assert mode("dir") == 0o755
