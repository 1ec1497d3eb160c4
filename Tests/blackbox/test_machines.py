"""Two mounts of one store: what one of them wrote and nobody has replaced or removed is there in the end, on both."""

import contextlib
import ctypes
import errno
import os
import random
import time

import pytest
from rigs.processes import wait_until

# Rare enough that files are met again, and often enough that most meet in some way.
FOLDERS = [".", "a", "b", "a/inner"]
NAMES = ["x", "y", "z"]
SIZES = [60, 5_000, 200_000]          # the last is larger than what is packed with type = chunk

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2


def rename(source, target, flags):
    if libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), source)


class Machines:
    """Random operations on several mounts, by one program, which knows what of all that was written has to be left."""

    def __init__(self, mounts, seed, sizes=SIZES):
        self.mounts, self.sizes = mounts, sizes
        self.random = random.Random(seed)
        self.written = {}             # every content that there ever was, and at which paths
        self.left = set()             # those that nobody has replaced or removed
        self.log = []

    def note(self, mount, *words):
        self.log.append(f"{len(self.log)} {time.monotonic():.3f} {self.mounts.index(mount)}: "
                        + " ".join(str(word) for word in words))

    def path(self):
        return os.path.normpath(os.path.join(self.random.choice(FOLDERS), self.random.choice(NAMES)))

    def new_content(self):
        word = b"content %d of a file\n" % len(self.written)
        size = self.random.choice(self.sizes)
        return (word * (size // len(word) + 1))[:size]

    def gone(self, content):
        self.left.discard(content)

    def write(self, mount):
        """Replaces what the file has, as far as this mount knows: it is read through the same descriptor."""
        path, content = self.path(), self.new_content()
        file = os.open(mount.data / path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            old = os.pread(file, 1 << 20, 0)
            self.note(mount, "write", path, content[:12], len(content), "for", old[:12])
            os.ftruncate(file, 0)
            os.pwrite(file, content, 0)
        finally:
            os.close(file)
        self.gone(old)
        self.written[content] = path
        self.left.add(content)

    def discard(self, mount, path):
        """Removes what is at `path`, whatever that is by now: under a name that nobody else uses it can be read."""
        trash = os.path.join(os.path.dirname(path), f"trash {len(self.log)}")
        rename(mount.data / path, mount.data / trash, RENAME_NOREPLACE)
        self.gone((mount.data / trash).read_bytes())
        os.unlink(mount.data / trash)

    def discard_unread(self, path):
        """What the other machine has put there this moment went unread: it is not looked for."""
        for content in [content for content, place in self.written.items() if place == path]:
            self.gone(content)

    def unlink(self, mount):
        path = self.path()
        self.note(mount, "unlink", path)
        if self.random.random() < 0.5:
            self.discard(mount, path)
        else:
            old = (mount.data / path).read_bytes()
            os.unlink(mount.data / path)
            self.gone(old)
            self.discard_unread(path)

    def rename(self, mount):
        source, target = self.path(), self.path()
        if source == target:
            return
        content = (mount.data / source).read_bytes()
        self.note(mount, "rename", source, target, content[:12])
        exact = self.random.random() < 0.5
        try:
            old = (mount.data / target).read_bytes()
            if exact:
                rename(mount.data / source, mount.data / target, RENAME_EXCHANGE)
                self.written[content] = target
                self.discard(mount, source)
                return
        except FileNotFoundError:
            rename(mount.data / source, mount.data / target, RENAME_NOREPLACE)
        else:
            os.rename(mount.data / source, mount.data / target)
            self.gone(old)
            self.discard_unread(target)
        self.written[content] = target

    def rename_folder(self, mount):
        source, target = self.random.sample(["a", "b", "c", "a/inner", "b/inner"], 2)
        self.note(mount, "rename", source, target)
        os.rename(mount.data / source, mount.data / target)

    def make_folder(self, mount):
        path = self.random.choice(FOLDERS[1:])
        self.note(mount, "mkdir", path)
        os.mkdir(mount.data / path)

    def remove_folder(self, mount):
        path = self.random.choice([*FOLDERS[1:], "c"])
        self.note(mount, "rmdir", path)
        os.rmdir(mount.data / path)

    def look(self, mount):
        os.listdir(mount.data / self.random.choice(FOLDERS))

    def wait(self, mount):
        time.sleep(self.random.choice([0.01, 0.1, 0.3, 1.2]))

    def sync(self, mount):
        self.note(mount, "sync")
        mount.sync()

    def step(self):
        operations = ([self.write] * 8 + [self.rename] * 4 + [self.unlink] * 2 + [self.look] * 3 + [self.wait]
                      + [self.rename_folder, self.make_folder, self.remove_folder])
        if self.random.random() < 0.02:
            operations = [self.sync]
        mount = self.random.choice(self.mounts)
        # What is not there, or in the way, is none of this test's business.
        with contextlib.suppress(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError):
            try:
                self.random.choice(operations)(mount)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EINVAL, errno.ESTALE, errno.EIO):
                    raise
                self.note(mount, "-> ", error)


def tree(mount):
    """All directories, as None, and files with their bytes."""
    def fail(error):
        raise error

    found = {}
    for folder, folders, files in os.walk(mount.data, onerror=fail):
        where = os.path.relpath(folder, mount.data)
        found |= {os.path.normpath(os.path.join(where, name)): None for name in folders}
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                found[os.path.normpath(os.path.join(where, name))] = file.read()
    return found


def brief(found):
    return {path: content and (content[:12], len(content)) for path, content in found.items()}


# CLOUDFUSION_TEST_SEEDS=first-last: others than those of every run.
FIRST, LAST = map(int, os.environ.get("CLOUDFUSION_TEST_SEEDS", "1-2").split("-"))


@pytest.mark.limit(400)
@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
@pytest.mark.parametrize("place, kind, sizes", [
    ("local", "object", SIZES), ("local", "chunk", SIZES),
    # It deletes whatever is there by then, and so what the other one has replaced a moment before; archives it keeps apart.
    ("radosgw", "chunk", SIZES[:2]),
], ids=["local-object", "local-chunk", "radosgw-chunk"])
def test_two_mounts_keep_what_both_wrote(place, kind, sizes, seed, request, mounts, is_slow):
    store = request.getfixturevalue(place)
    options = {"cache": 0, "metadata_cache": 1, "type": kind}
    both = [mounts(store, **options).start() for _ in range(2)]
    machines = Machines(both, seed, sizes)

    def meet():
        for mount in both:
            mount.sync()
        try:
            trees = [tree(mount) for mount in both]
        except OSError:          # it went, or became another one, while this looked
            return False
        return trees[0] == trees[1] and all(mount.status()["pending"]["items"] == 0 for mount in both)

    try:
        for _ in range(2000 if is_slow else 250):
            machines.step()
        wait_until(meet, 60, "both mounts to show the same")
        third = mounts(store, **options).start()

        def agree():
            try:
                trees = [brief(tree(mount)) for mount in [*both, third]]
            except OSError:
                return False
            return trees[0] == trees[1] == trees[2]

        wait_until(agree, 30, "a machine that comes new to see the same")
        found = tree(third)
        third.stop()
        contents = {content for content in found.values() if content is not None}
        assert not {content[:12] for content in contents if content and content not in machines.written}, "mixed up"
        lost = machines.left - contents
        assert not lost, f"lost: {[(content[:12], machines.written[content]) for content in lost]}"
    except BaseException:
        print("\n".join(machines.log))
        for mount in both:
            print("\n".join(f"{path}: {facts}" for path, facts in sorted(brief(tree(mount)).items())))
            print((mount.stats / "errors").read_text())
            print((mount.stats / "notuploaded").read_text())
        raise
    for mount in both:
        mount.stop()
