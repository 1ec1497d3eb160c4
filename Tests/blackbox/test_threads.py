"""Many threads at once in the same files and directories: afterwards everybody sees the same, and nothing is lost."""

import contextlib
import ctypes
import errno
import os
import random
import threading

import pytest
from harness import describe, differences

THREADS = 64
DIRECTORIES = [f"d{number}" for number in range(4)]
NAMES = [f"{directory}/f{number}" for directory in DIRECTORIES for number in range(6)]
BLOCK = 4096

# What may come of an operation that races with another one about the same name.
RACES = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ESTALE}


def work_on_shared_names(root, seed, failures, operations):
    """Whatever 64 threads can do to 24 names."""
    generator = random.Random(seed)
    for _ in range(operations):
        name, other = generator.choice(NAMES), generator.choice(NAMES)
        path, target = f"{root}/{name}", f"{root}/{other}"
        what = generator.choice(
            ["create", "write", "write", "append", "truncate", "rename", "unlink", "read", "list", "stat", "link"])
        try:
            if what == "create":
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            elif what == "write":
                # Blocks of one letter, each written whole: no reader may see another thing than letters or zeros.
                file = os.open(path, os.O_CREAT | os.O_WRONLY)
                try:
                    os.pwrite(file, generator.choice(b"abcdefgh").to_bytes(1, "big") * BLOCK,
                              generator.randrange(8) * BLOCK)
                finally:
                    os.close(file)
            elif what == "append":
                file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
                try:
                    os.write(file, b"+" * BLOCK)
                finally:
                    os.close(file)
            elif what == "truncate":
                os.truncate(path, generator.randrange(9) * BLOCK)
            elif what == "rename":
                os.rename(path, target)
            elif what == "unlink":
                os.unlink(path)
            elif what == "link":
                os.link(path, target)
            elif what == "read":
                with open(path, "rb") as file:
                    content = file.read()
                wrong = set(content) - set(b"abcdefgh+\0")
                if wrong or len(content) % BLOCK:
                    failures.append(f"{name}: {len(content)} bytes, with {wrong}")
            elif what == "list":
                # A name that is taken away and made again meanwhile may show up twice.
                os.listdir(f"{root}/{generator.choice(DIRECTORIES)}")
            else:
                os.stat(path)
        except OSError as error:
            if error.errno not in RACES:
                failures.append(f"{what} {name}: {error}")


def work_alone_in_shared_directories(root, number, failures, rounds):
    """Files of this thread only, in directories that all use: what it does must be what it sees."""
    generator = random.Random(number)
    mine = {}
    try:
        for round in range(rounds):
            name = f"{generator.choice(DIRECTORIES)}/own-{number}-{round % 7}"
            path = f"{root}/{name}"
            if name in mine and generator.random() < 0.3:
                os.unlink(path)
                del mine[name]
            elif name in mine and generator.random() < 0.3:
                target = f"{generator.choice(DIRECTORIES)}/own-{number}-moved-{round}"
                os.rename(path, f"{root}/{target}")
                mine[target] = mine.pop(name)
            else:
                mine[name] = generator.randbytes(generator.choice([0, 100, 5000, 70_000]))
                with open(path, "wb") as file:
                    file.write(mine[name])
            if mine:
                name = generator.choice(sorted(mine))
                with open(f"{root}/{name}", "rb") as file:
                    if file.read() != mine[name]:
                        failures.append(f"{name} is not what was written")
    except OSError as error:
        failures.append(f"thread {number}: {error}")
    return mine


def run_all(bodies):
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.limit(400)
def test_64_threads_on_the_same_files_and_directories(store, mounts, is_slow):
    mount = mounts(store, cache=1, metadata_cache=1, flags=["-o", "threads=32"]).start()
    for directory in DIRECTORIES:
        (mount.data / directory).mkdir()
    failures, owned = [], {}
    times = 10 if is_slow else 1

    def alone(number):
        owned.update(work_alone_in_shared_directories(mount.data, number, failures, 40 * times))

    run_all(
        [lambda number=number: work_on_shared_names(mount.data, number, failures, 120 * times)
         for number in range(THREADS // 2)]
        + [lambda number=number: alone(number) for number in range(THREADS // 2, THREADS)])
    assert failures == []
    for name, content in owned.items():
        assert (mount.data / name).read_bytes() == content, name
    seen = describe(mount.data, times=False)
    mount.sync()
    assert differences(seen, describe(mount.data, times=False)) == [], "syncing has changed something"
    for name, content in owned.items():
        assert store.read(name) == content, name
    files = {name for name, facts in seen.items() if facts["content"] and b"/" in name}
    on_store = {os.fsencode(name) for name in store.names()}
    assert files <= on_store and not {name for name in on_store - files if not name.endswith(b"/")}
    mount.stop()
    done = mount.cli("fsck", "--config", mount.config_file, check=False)
    assert done.returncode == 0, done.stdout
    fresh = mounts(store).start()
    again = describe(fresh.data, times=False)
    assert differences(seen, again) == []
    fresh.stop()


def test_64_threads_make_one_name_and_one_of_them_does(local, mounts):
    mount = mounts(local).start()
    for round in range(10):
        for make in (lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL)), os.mkdir,
                     lambda path: os.symlink("x", path), lambda path: os.link(mount.data / "source", path)):
            (mount.data / "source").touch()
            path, winners = mount.data / f"one-{round}", []

            def attempt():
                with contextlib.suppress(FileExistsError):
                    make(path)
                    winners.append(threading.get_ident())

            run_all([attempt] * THREADS)
            assert len(winners) == 1
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    mount.stop()


def test_appends_of_64_threads_are_all_there_and_whole(local, mounts):
    mount = mounts(local, cache=0).start()
    path = mount.data / "log"

    def append(number):
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for line in range(30):
            os.write(file, b"%02d %03d %s\n" % (number, line, b"x" * (number + line)))
        os.close(file)

    run_all([lambda number=number: append(number) for number in range(THREADS)])
    lines = path.read_bytes().splitlines()
    expected = {b"%02d %03d %s" % (number, line, b"x" * (number + line))
                for number in range(THREADS) for line in range(30)}
    assert len(lines) == len(expected) and set(lines) == expected
    mount.sync()
    assert local.read("log") == path.read_bytes()
    mount.stop()


def test_exchanging_two_names_never_shows_one_missing(local, mounts):
    mount = mounts(local, cache=0).start()
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(mount.data / "a"), os.fsencode(mount.data / "b")
    for path in (a, b):
        with open(path, "wb") as file:
            file.write(path[-1:])
    over, failures = threading.Event(), []

    def exchange():
        for _ in range(200):
            if libc.renameat2(-100, a, -100, b, 2):
                failures.append(os.strerror(ctypes.get_errno()))
        over.set()

    def look():
        while not over.is_set():
            for path in (a, b):
                try:
                    with open(path, "rb") as file:
                        if file.read() not in (b"a", b"b"):
                            failures.append("neither a nor b")
                except OSError as error:
                    failures.append(str(error))

    run_all([exchange] + [look] * (THREADS - 1))
    assert failures == []
    mount.sync()
    assert {local.read("a"), local.read("b")} == {b"a", b"b"}
    mount.stop()
