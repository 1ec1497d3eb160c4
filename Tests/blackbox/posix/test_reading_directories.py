"""readdir while entries come and go; positions in a directory; large directories."""

import ctypes
import errno
import os
import random
import threading

import pytest
from calls import create, fails, folder, libc, read

libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long


class Stream:
    """A directory as the C library reads it."""

    def __init__(self, path="."):
        self.pointer = ctypes.c_void_p(libc.opendir(os.fsencode(path)))

    def next(self):
        line = libc.readdir(self.pointer)
        return line and os.fsdecode(ctypes.string_at(line + 19))

    def rest(self):
        names = []
        while name := self.next():
            names.append(name)
        return names

    def tell(self):
        return libc.telldir(self.pointer)

    def seek(self, position):
        libc.seekdir(self.pointer, ctypes.c_long(position))

    def rewind(self):
        libc.rewinddir(self.pointer)

    def close(self):
        libc.closedir(self.pointer)


def make(names):
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))


def test_every_entry_once(here):
    names = {f"entry-{number:05}" for number in range(3000)}
    make(names)
    stream = Stream()
    found = stream.rest()
    stream.close()
    assert len(found) == 3002 and set(found) == names | {".", ".."}


def test_positions_are_found_again(here):
    make(f"e{number}" for number in range(2000))
    stream = Stream()
    sequence = []
    while True:
        position = stream.tell()
        name = stream.next()
        if not name:
            break
        sequence.append((position, name))
    for index in random.Random(3).sample(range(len(sequence)), 60):
        stream.seek(sequence[index][0])
        assert [stream.next() for _ in sequence[index:index + 5]] == [name for _, name in sequence[index:index + 5]]
    stream.rewind()
    assert stream.rest() == [name for _, name in sequence]
    stream.close()


def test_positions_outlive_removals(here):
    make(f"e{number}" for number in range(500))
    stream = Stream()
    for _ in range(100):
        stream.next()
    position = stream.tell()
    before = stream.rest()
    for name in before[::2]:
        os.unlink(name)
    stream.seek(position)
    left = [name for name in stream.rest() if name in before[1::2]]
    assert sorted(left) == sorted(before[1::2])
    stream.close()


def test_rewinding_shows_what_is_new(here):
    make(["a"])
    stream = Stream()
    stream.rest()
    make(["b"])
    os.unlink("a")
    stream.rewind()
    assert sorted(stream.rest()) == [".", "..", "b"]
    stream.close()


@pytest.mark.parametrize("change", ["come and go", "are renamed", "are saved over"])
def test_who_stays_is_seen_once_while_others_change(here, change):
    stay = {f"stay-{number:04}" for number in range(2500)}
    make(sorted(stay))
    saved = sorted(stay)[::50]
    stop = threading.Event()
    failure = []

    def disturb():
        generator = random.Random(4)
        try:
            number = 0
            while not stop.is_set():
                number += 1
                if change == "are saved over":
                    name = generator.choice(saved)
                    create(f"{name}.tmp", b"new")
                    os.rename(f"{name}.tmp", name)
                    continue
                make([f"x{number}"])
                if change == "are renamed":
                    os.rename(f"x{number}", f"y{number}")
                    number > 20 and os.unlink(f"y{number - 20}")
                elif number > 20:
                    os.unlink(f"x{number - 20}")
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(6):
            stream = Stream()
            found = [name for name in stream.rest() if name in stay]
            stream.close()
            assert sorted(found) == sorted(stay), (stay - set(found), len(found))
    finally:
        stop.set()
        thread.join()
    assert failure == []


def test_removing_all_while_reading(here):
    make(f"e{number}" for number in range(2000))
    stream = Stream()
    while name := stream.next():
        if name not in (".", ".."):
            os.unlink(name)
    stream.close()
    assert os.listdir() == []


@pytest.mark.limit(1800)
def test_a_large_directory(here, pytestconfig):
    count = pytestconfig.getoption("--entries") or (1_000_000 if pytestconfig.getoption("--slow") else 20_000)
    folder("large")
    handle = os.open("large", os.O_PATH)
    for number in range(count):
        os.close(os.open(f"{number:07}", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)
    assert len(os.listdir("large")) == count
    generator = random.Random(5)
    for number in generator.sample(range(count), 200):
        assert os.stat(f"large/{number:07}").st_size == 0
        assert not os.path.exists(f"large/{number:07}x")
    with os.scandir("large") as entries:
        assert sum(entry.is_file() for entry in entries) == count
    # A position in the middle is found again, whatever has come and gone since.
    stream = Stream("large")
    before = {stream.next() for _ in range(count // 2)}
    position = stream.tell()
    after = stream.rest()
    gone = set(generator.sample(sorted(before - {".", ".."}), 100) + generator.sample(after, 100))
    for name in sorted(gone):
        os.unlink(f"large/{name}")
    stay = sorted(set(after) - gone)
    for number in range(100):
        create(f"large/new{number}")
        os.rename(f"large/new{number}", f"large/{stay[number]}" if number % 2 else f"large/newer{number}")
    stream.seek(position)
    again = [name for name in stream.rest() if not name.startswith("new")]
    stream.close()
    assert sorted(again) == stay
    with fails(errno.ENOTEMPTY):
        os.rmdir("large")
    left = set(os.listdir("large"))
    os.rename("large", "renamed")
    create("renamed/new", b"still quick")
    assert read("renamed/new") == b"still quick"
    os.mkdir("sub")
    moved = generator.sample(sorted(left), 200)
    for name in moved:
        os.rename(f"renamed/{name}", f"sub/{name}")
    assert set(os.listdir("sub")) == set(moved)
    assert set(os.listdir("renamed")) == left - set(moved) | {"new"}
    for name in moved[:100]:
        os.rename(f"sub/{name}", f"renamed/{name}")
    assert set(os.listdir("renamed")) == left - set(moved[100:]) | {"new"}
