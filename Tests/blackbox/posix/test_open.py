"""open: every flag, who may, and what fails."""

import errno
import itertools
import os
import stat

import pytest
from calls import ALICE, as_user, call, create, fails, folder, link_target, mode, owner, past, read

READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


def opened(path, flags, bits=0o644, **options):
    os.close(os.open(path, flags, bits, **options))


# MARK: all flags together

FLAGS = [os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY]


def expected_outcome(kind, flags):
    """What open(2) says for a target that is a file, a directory, a link to a file, or missing."""
    access = flags & os.O_ACCMODE
    creates, is_directory = flags & os.O_CREAT, flags & os.O_DIRECTORY
    if creates and is_directory:
        return errno.EINVAL
    if kind == "missing":
        return None if creates else errno.ENOENT
    if creates and flags & os.O_EXCL:
        return errno.EEXIST
    if kind == "link" and flags & os.O_NOFOLLOW:
        return errno.ENOTDIR if is_directory else errno.ELOOP
    if kind == "directory":
        return errno.EISDIR if access != READ or creates or flags & os.O_TRUNC else None
    return errno.ENOTDIR if is_directory else None


@pytest.mark.parametrize("kind", ["file", "directory", "link", "missing"])
def test_all_combinations_of_flags(here, kind):
    wrong = []
    for access, *choice in itertools.product((READ, WRITE, BOTH), *((0, flag) for flag in FLAGS)):
        flags = access | sum(choice)
        create("target", b"content")
        if kind == "directory":
            folder("it")
        elif kind == "link":
            os.symlink("target", "it")
        elif kind == "file":
            os.rename("target", "it")
        expected = expected_outcome(kind, flags)
        try:
            file = os.open("it", flags, 0o600)
        except OSError as error:
            if error.errno != expected:
                wrong.append((oct(flags), errno.errorcode[error.errno], expected and errno.errorcode[expected]))
        else:
            if expected is not None:
                wrong.append((oct(flags), "opened", errno.errorcode[expected]))
            size = os.fstat(file).st_size
            if kind in ("file", "link") and size != (0 if flags & os.O_TRUNC else 7):
                wrong.append((oct(flags), "size", size))
            if kind == "missing" and (size or mode("it") != 0o600):
                wrong.append((oct(flags), "made wrongly"))
            if kind != "directory" and access != READ and os.write(file, b"12") == 2:
                end = 2 if flags & os.O_TRUNC or kind == "missing" else 9 if flags & os.O_APPEND else 7
                if os.fstat(file).st_size != end:
                    wrong.append((oct(flags), "written", os.fstat(file).st_size))
            os.close(file)
        for name in ("it", "target"):
            if os.path.lexists(name):
                os.rmdir(name) if os.path.isdir(name) and not os.path.islink(name) else os.unlink(name)
    assert wrong == []


# MARK: one by one

def test_access_modes_hold(here):
    create("file", b"abc")
    reader, writer = os.open("file", READ), os.open("file", WRITE)
    with fails(errno.EBADF):
        os.write(reader, b"x")
    with fails(errno.EBADF):
        os.read(writer, 1)
    with fails(errno.EINVAL, errno.EBADF):
        os.ftruncate(reader, 0)
    with fails(errno.EBADF):
        os.posix_fallocate(reader, 0, 10)
    os.close(reader)
    os.close(writer)
    assert read("file") == b"abc"


def test_creating_applies_mode_umask_and_owner(here, root):
    os.umask(0o026)
    opened("a", WRITE | os.O_CREAT, 0o777)
    os.umask(0)
    opened("b", WRITE | os.O_CREAT, 0o7777)
    assert mode("a") == 0o751
    assert mode("b") == 0o7777
    folder("open", 0o777)
    as_user(ALICE, lambda: opened("open/c", WRITE | os.O_CREAT, 0o400))
    assert owner("open/c") == (ALICE, ALICE) and mode("open/c") == 0o400


def test_a_new_file_may_be_written_whatever_its_mode(here, root):
    folder("open", 0o777)

    def by_alice():
        file = os.open("open/x", BOTH | os.O_CREAT | os.O_EXCL, 0)
        os.write(file, b"while open")
        assert os.pread(file, 100, 0) == b"while open"
        os.close(file)
        opened("open/x", READ)

    with fails(errno.EACCES):
        as_user(ALICE, by_alice)
    assert read("open/x") == b"while open"


def test_creating_sets_times_of_file_and_directory(here):
    past(".")
    opened("new", WRITE | os.O_CREAT)
    status, parent = os.stat("new"), os.stat(".")
    assert min(status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns) > 10**18
    assert parent.st_mtime_ns > 10**18 and parent.st_ctime_ns > 10**18
    past(".")
    opened("new", WRITE | os.O_CREAT)
    assert os.stat(".").st_mtime_ns == 10**18


def test_truncating_sets_times_and_needs_no_size(here):
    for content in (b"some", b""):
        create("file", content)
        before = past("file")
        opened("file", WRITE | os.O_TRUNC)
        after = os.stat("file")
        assert after.st_size == 0 and after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns >= before.st_ctime_ns
        os.unlink("file")


def test_exclusive_creation_refuses_links_too(here):
    os.symlink("nowhere", "dangling")
    with fails(errno.EEXIST):
        opened("dangling", WRITE | os.O_CREAT | os.O_EXCL)
    opened("dangling", WRITE | os.O_CREAT)
    assert os.path.exists("nowhere")


def test_exclusive_creation_has_one_winner(here):
    """Of many who try at once."""
    import threading
    won = []

    def attempt():
        for number in range(50):
            try:
                opened(f"lock{number}", WRITE | os.O_CREAT | os.O_EXCL)
                won.append(number)
            except FileExistsError:
                pass

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(50))


def test_a_path_handle_reads_nothing_and_refers(here):
    create("file", b"x")
    os.symlink("file", "link")
    handle = os.open("file", os.O_PATH)
    assert os.fstat(handle).st_size == 1
    for attempt in (lambda: os.read(handle, 1), lambda: os.write(handle, b""), lambda: os.fchmod(handle, 0),
                    lambda: os.ftruncate(handle, 0)):
        with fails(errno.EBADF, errno.EINVAL):
            attempt()
    file = os.open(f"/proc/self/fd/{handle}", READ)
    assert os.read(file, 10) == b"x"
    os.close(file)
    os.close(handle)
    handle = os.open("link", os.O_PATH | os.O_NOFOLLOW)
    assert stat.S_ISLNK(os.fstat(handle).st_mode)
    os.close(handle)
    folder("d")
    handle = os.open("d", os.O_PATH | os.O_DIRECTORY)
    opened("below", WRITE | os.O_CREAT, dir_fd=handle)
    assert os.listdir("d") == ["below"]
    os.close(handle)


def test_path_handles_need_no_rights(here, root):
    create("secret", b"x", mode=0)
    as_user(ALICE, lambda: os.close(os.open("secret", os.O_PATH)))
    with fails(errno.EACCES):
        as_user(ALICE, lambda: os.close(os.open("secret", READ)))


def test_a_temporary_file_without_a_name(here):
    """O_TMPFILE: on a disk it works; the mount says that it does not have it, and programs do without."""
    if here.is_mount:
        with fails(errno.EOPNOTSUPP):
            os.open(".", os.O_TMPFILE | BOTH, 0o600)
        return
    file = os.open(".", os.O_TMPFILE | BOTH, 0o600)
    os.write(file, b"hidden")
    assert os.listdir() == [] and os.fstat(file).st_nlink == 0
    link_target(f"/proc/self/fd/{file}", "shown")
    assert read("shown") == b"hidden"
    os.close(file)


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writing(here, flag):
    file = os.open("file", WRITE | os.O_CREAT | flag, 0o644)
    for number in range(5):
        assert os.write(file, b"x" * 5000) == 5000
        assert os.stat("file").st_size == 5000 * (number + 1)
    os.close(file)
    assert read("file") == b"x" * 25_000


def test_noatime_is_for_owners(here, root):
    create("file", mode=0o644)
    with fails(errno.EPERM):
        as_user(ALICE, lambda: opened("file", READ | os.O_NOATIME))
    opened("file", READ | os.O_NOATIME)


def test_open_fails_as_it_should(here):
    create("file")
    folder("d")
    os.symlink("loop", "loop")
    with fails(errno.ENOTDIR):
        opened("file/x", READ)
    with fails(errno.ENOTDIR):
        opened("file/x", WRITE | os.O_CREAT)
    with fails(errno.ENOENT):
        opened("missing/x", WRITE | os.O_CREAT)
    with fails(errno.ENOENT):
        opened("", READ)
    with fails(errno.ENAMETOOLONG):
        opened("x" * 256, WRITE | os.O_CREAT)
    with fails(errno.ELOOP):
        opened("loop", READ)
    with fails(errno.ELOOP):
        opened("loop/x", READ)
    with fails(errno.EISDIR):
        opened("new/", WRITE | os.O_CREAT)
    with fails(errno.EISDIR):
        opened("d", WRITE)
    with fails(errno.ENOTDIR):
        opened("file/", READ)


def test_open_by_others(here, root):
    create("file", b"x", mode=0o640, owner=(0, ALICE))
    as_user(ALICE, lambda: opened("file", READ))
    for flags in (WRITE, BOTH, READ | os.O_TRUNC):
        with fails(errno.EACCES):
            as_user(ALICE, lambda flags=flags: opened("file", flags))
    folder("closed", 0o755)
    with fails(errno.EACCES):
        as_user(ALICE, lambda: opened("closed/new", WRITE | os.O_CREAT))
    folder("blind", 0o744)
    create("blind/file", mode=0o666)
    with fails(errno.EACCES):
        as_user(ALICE, lambda: opened("blind/file", READ))
    assert read("file") == b"x"


def test_a_running_program_is_not_written(here, root):
    """ETXTBSY, for what is being executed."""
    import shutil
    import subprocess
    shutil.copy("/bin/sleep", "program")
    os.chmod("program", 0o755)
    child = subprocess.Popen(["./program", "30"])
    try:
        with fails(errno.ETXTBSY):
            opened("program", WRITE)
        with fails(errno.ETXTBSY):
            os.truncate("program", 0)
    finally:
        child.kill()
        child.wait()
    file = os.open("program", WRITE)
    with fails(errno.ETXTBSY):
        subprocess.run(["./program", "0"], check=True)
    os.close(file)
    subprocess.run(["./program", "0"], check=True)


def test_openat_with_bad_handles(here):
    create("file")
    file = os.open("file", READ)
    with fails(errno.ENOTDIR):
        os.open("x", READ, dir_fd=file)
    os.close(file)
    with fails(errno.EBADF):
        os.open("x", READ, dir_fd=987)
    with fails(errno.EFAULT):
        call("open", None, 0)
