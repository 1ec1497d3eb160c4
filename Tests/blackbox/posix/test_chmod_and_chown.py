"""chmod, fchmod, chown, fchown, lchown: bits, owners, who may, and what is cleared."""

import errno
import os
import stat
import time

import pytest
from calls import ALICE, AT_FDCWD, BOB, STAFF, as_user, call, create, fails, folder, mode, owner


def test_every_mode_is_kept(here):
    create("file")
    for bits in range(0, 0o10000, 0o111):
        os.chmod("file", bits)
        assert mode("file") == bits
    file = os.open("file", os.O_RDONLY)
    os.fchmod(file, 0o6751)
    assert stat.S_IMODE(os.fstat(file).st_mode) == mode("file") == 0o6751
    os.close(file)
    for bits in (0o7777, 0o1777, 0o2770, 0):
        folder(f"d{bits}", bits)
        assert mode(f"d{bits}") == bits


def test_chmod_follows_links_and_changes_all_names(here):
    create("file", mode=0o600)
    os.link("file", "hard")
    os.symlink("file", "soft")
    os.chmod("soft", 0o640)
    assert mode("file") == mode("hard") == 0o640
    assert mode("soft") == 0o777


def test_chmod_fails_as_it_should(here):
    create("file")
    os.symlink("loop", "loop")
    with fails(errno.ENOENT):
        os.chmod("missing", 0)
    with fails(errno.ENOTDIR):
        os.chmod("file/x", 0)
    with fails(errno.ELOOP):
        os.chmod("loop", 0)
    with fails(errno.ENAMETOOLONG):
        os.chmod("x" * 256, 0)
    with fails(errno.ENOENT):
        os.chmod("", 0)
    with fails(errno.EBADF):
        os.fchmod(987, 0)


def test_chmod_by_others(here, root):
    create("alices", mode=0o644, owner=(ALICE, ALICE))
    with fails(errno.EPERM):
        as_user(BOB, lambda: os.chmod("alices", 0o666))
    as_user(ALICE, lambda: os.chmod("alices", 0o4711))
    assert mode("alices") == 0o4711
    folder("closed", 0o700)
    create("closed/file", owner=(ALICE, ALICE))
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.chmod("closed/file", 0))


def test_set_group_id_is_refused_to_who_is_not_in_the_group(here, root):
    create("file", mode=0o755, owner=(ALICE, STAFF))
    as_user(ALICE, lambda: os.chmod("file", 0o2755))
    assert mode("file") == 0o755
    as_user(ALICE, lambda: os.chmod("file", 0o2755), groups=[STAFF])
    assert mode("file") == 0o2755


def test_sticky_and_set_id_of_a_plain_user(here, root):
    create("file", owner=(ALICE, ALICE))
    as_user(ALICE, lambda: os.chmod("file", 0o7755))
    assert mode("file") == 0o7755          # Linux lets the sticky bit of a file be


def test_chown_gives_away_only_for_root(here, root):
    create("file", owner=(ALICE, ALICE))
    with fails(errno.EPERM):
        as_user(ALICE, lambda: os.chown("file", BOB, -1))
    with fails(errno.EPERM):
        as_user(BOB, lambda: os.chown("file", BOB, BOB))
    with fails(errno.EPERM):
        as_user(ALICE, lambda: os.chown("file", -1, STAFF))
    as_user(ALICE, lambda: os.chown("file", -1, STAFF), groups=[STAFF])
    assert owner("file") == (ALICE, STAFF)
    as_user(ALICE, lambda: os.chown("file", ALICE, ALICE))
    assert owner("file") == (ALICE, ALICE)
    os.chown("file", 4_000_000_000, 4_000_000_001)
    assert owner("file") == (4_000_000_000, 4_000_000_001)
    os.chown("file", -1, 7)
    assert owner("file") == (4_000_000_000, 7)


def test_lchown_changes_the_link_and_chown_its_target(here, root):
    create("file", owner=(1, 1))
    os.symlink("file", "link")
    os.lchown("link", 2, 3)
    assert owner("link") == (2, 3) and owner("file") == (1, 1)
    os.chown("link", 4, 5)
    assert owner("link") == (2, 3) and owner("file") == (4, 5)
    os.symlink("nowhere", "dangling")
    with fails(errno.ENOENT):
        os.chown("dangling", 1, 1)
    os.lchown("dangling", 1, 1)
    file = os.open("file", os.O_RDONLY)
    os.fchown(file, 6, 7)
    assert owner("file") == (6, 7)
    os.close(file)


@pytest.mark.parametrize("who", ["root", "owner"])
@pytest.mark.parametrize("before, after", [
    (0o4755, 0o755), (0o2755, 0o755), (0o6755, 0o755), (0o6777, 0o777), (0o1755, 0o1755),
    (0o2745, 0o2745),          # set-group-ID without the group's x is mandatory locking, and stays
    (0o6644, 0o2644),
])
def test_a_new_owner_clears_set_id_bits(here, root, who, before, after):
    create("file", owner=(ALICE, ALICE), mode=before)
    if who == "root":
        os.chown("file", BOB, STAFF)
    else:
        as_user(ALICE, lambda: os.chown("file", -1, STAFF), groups=[STAFF])
    assert mode("file") == after


def test_chown_of_a_directory_leaves_its_bits(here, root):
    folder("dir", 0o6755)
    os.chown("dir", ALICE, ALICE)
    assert mode("dir") == 0o6755


def test_chown_without_a_change_of_owner(here, root):
    """As chown(2) says: -1 leaves an owner as it is; the set-ID bits of programs go all the same."""
    create("file", owner=(ALICE, ALICE), mode=0o4755)
    os.chown("file", ALICE, ALICE)
    assert mode("file") == 0o755
    before = os.stat("file").st_ctime_ns
    time.sleep(0.02)
    os.chown("file", -1, -1)
    assert owner("file") == (ALICE, ALICE)
    assert os.stat("file").st_ctime_ns >= before


@pytest.mark.parametrize("change", ["write", "truncate", "ftruncate", "fallocate", "O_TRUNC", "pwrite at the end",
                                    "copy_file_range"])
def test_a_change_by_another_clears_set_id_bits(here, root, change):
    """Who may write to somebody's program does not get that program's rights."""
    create("file", b"x" * 100, mode=0o6777, owner=(ALICE, STAFF))
    create("other", b"y" * 10, mode=0o666)

    def by_bob():
        if change == "truncate":
            return os.truncate("file", 10)
        file = os.open("file", os.O_RDWR | (os.O_TRUNC if change == "O_TRUNC" else 0))
        if change == "write":
            os.write(file, b"new")
        elif change == "ftruncate":
            os.ftruncate(file, 10)
        elif change == "fallocate":
            os.posix_fallocate(file, 0, 1000)
        elif change == "pwrite at the end":
            os.pwrite(file, b"more", 100)
        elif change == "copy_file_range":
            other = os.open("other", os.O_RDONLY)
            os.copy_file_range(other, file, 10)
        os.close(file)

    as_user(BOB, by_bob)
    assert mode("file") == 0o777


def test_a_change_by_root_leaves_set_id_bits(here, root):
    create("file", b"x" * 100, mode=0o6777, owner=(ALICE, STAFF))
    with open("file", "r+b") as file:
        file.write(b"new")
    os.truncate("file", 50)
    file = os.open("file", os.O_RDWR)
    os.posix_fallocate(file, 0, 1000)
    create("other", b"y" * 10)
    other = os.open("other", os.O_RDONLY)
    os.copy_file_range(other, file, 10)
    os.close(file)
    os.close(other)
    assert mode("file") == 0o6777


def test_chown_fails_as_it_should(here):
    create("file")
    with fails(errno.ENOENT):
        os.chown("missing", -1, -1)
    with fails(errno.ENOTDIR):
        os.chown("file/x", -1, -1)
    os.symlink("loop", "loop")
    with fails(errno.ELOOP):
        os.chown("loop", -1, -1)
    os.lchown("loop", -1, -1)
    with fails(errno.EBADF):
        os.fchown(987, -1, -1)
    with fails(errno.EINVAL):
        call("fchownat", AT_FDCWD, "file", -1, -1, 0x40000)
