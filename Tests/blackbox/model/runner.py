"""Runs operations in a mount and in the reference, and compares what they answer and what they leave.

The reference is a folder in memory (tmpfs): what POSIX asks for is told by a file system that does it, not by a second
opinion of ours. What only a mount has — a store that others change, remounts, settings — is done to the reference as
docs/semantics.md promises it.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import random
import shutil
import stat
import tempfile
import threading
import time

from . import operations as op
from .generator import Generator, operations


class Mismatch(AssertionError):
    """The mount did something else than the reference."""


@contextlib.contextmanager
def reference_folder():
    """An empty folder whose file system keeps extended attributes: in memory where that is possible."""
    for place in ("/dev/shm", tempfile.gettempdir()):
        if not os.access(place, os.W_OK):
            continue
        folder = tempfile.mkdtemp(prefix="cloudfusion-model-", dir=place)
        try:
            os.setxattr(folder, "user.model", b"")
            yield pathlib.Path(folder)
            return
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise RuntimeError("neither /dev/shm nor the temporary folder has extended attributes")


@dataclasses.dataclass
class Failure:
    """A mismatch, and the operations up to it."""

    operations: list
    reason: str


class Run:
    """One mount, its reference, and the operations done so far."""

    def __init__(self, mount, reference, patience=90):
        """
        - mount: started, and empty.
        - patience: how many seconds a sync may take, and others' changes to be seen: a bound against hanging.
        """
        self.patience = patience
        self.mount = mount
        self.reference = op.Side(reference)
        self.mounted = op.Side(mount.data)
        mount.options.setdefault("cache_size", 100)
        self.settings = {name: mount.options[name] for name in ("cache", "metadata_cache")}
        self.done = []

    def perform(self, operation):
        self.done.append(operation)
        name, *arguments = operation
        event = getattr(self, f"do_{name}", None)
        try:
            if event:
                event(*arguments)
            else:
                expected = op.perform(self.reference, name, arguments)
                self.check(expected, op.perform(self.mounted, name, arguments))
        except AssertionError as error:
            raise Mismatch(f"operation {len(self.done)}, {json.dumps(operation, ensure_ascii=False)}:\n{error}") from error

    @staticmethod
    def check(expected, actual):
        if expected != actual:
            raise Mismatch(f"answered {op.brief(actual)}, should have been {op.brief(expected)}"
                           f"{op.where(expected, actual)}")

    # MARK: comparing

    def do_compare(self):
        self.compare(self.mounted, "in the mount")

    def compare(self, side, place):
        try:
            found = op.description(side)
        except OSError as error:
            raise Mismatch(f"{place}: {error}") from error
        lines = op.difference(op.description(self.reference), found)
        if lines:
            raise Mismatch("\n".join([f"{place}:", *lines[:20], *(["…"] if len(lines) > 20 else [])]))

    def compare_store(self):
        """What lies on the store: the bytes of each regular file under its own path, and nothing else."""
        tree = op.description(op.Side(self.reference.root))
        expected = {name: entry["content"] for name, entry in tree.items() if "content" in entry and self.is_kept(name)}
        others = {name for name, entry in tree.items() if "content" not in entry}
        store, names = self.mount.store, self.mount.store.names()
        lines = [f"{name!r} is missing" for name in expected if name not in names]
        lines += [f"{name!r} has {names[name]} bytes, should have {len(content)}"
                  for name, content in expected.items() if names.get(name, len(content)) != len(content)]
        lines += [f"{name!r} is too much" for name in names
                  if self.is_kept(name) and name.rstrip("/") not in expected and name.rstrip("/") not in others]
        if lines:
            raise Mismatch("\n".join(["on the store:", *lines[:20]]))
        # To fetch all of them would be slow where each is a request.
        sample = expected if store.name == "local" else random.Random(len(self.done)).sample(
            sorted(expected), min(5, len(expected)))
        for name in sample:
            body = store.read(name)
            if body != expected[name]:
                raise Mismatch(f"on the store: {name!r} has other bytes{op.where(expected[name], body)}")

    def is_kept(self, name):
        """Whether the store has the name as it is. (S3 servers differ in what they take: others are escaped.)"""
        return self.mount.store.name == "local" or all(
            character.isascii() and (character.isalnum() or character in "./-") for character in name)

    # MARK: the life of a mount

    def do_settings(self, values):
        self.settings.update(values)
        self.apply_settings(self.settings)

    def apply_settings(self, settings):
        self.mount.options.update(settings)
        self.tell(self.mount.config, self.mount.config_text())

    @contextlib.contextmanager
    def temporary(self, **settings):
        before = {name: self.mount.options[name] for name in settings}
        self.apply_settings(settings)
        yield
        self.apply_settings(before)

    def tell(self, file, text):
        """Writes to a control file."""
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Mismatch(f"{file.name}: {error}\n{(self.mount.stats / 'errors').read_text()}"
                           f"{(self.mount.stats / 'notuploaded').read_text()}") from error

    def sync(self):
        """All that is closed or flushed is on the store afterwards."""
        for side in (self.reference, self.mounted):
            for file in side.handles.values():
                if stat.S_ISREG(os.fstat(file).st_mode):
                    os.fsync(file)
        self.do_sync_as_it_is()

    def do_sync_as_it_is(self):
        """With files open that were written to, of which nothing is promised but that no byte gets lost."""
        command = self.mount.point / "config" / "command"
        late = threading.Timer(self.patience, self.tell, (command, "cancel\n"))
        late.start()
        try:
            self.tell(command, "sync\n")
        finally:
            late.cancel()
            late.join()

    def do_sync(self):
        self.sync()
        self.compare_store()

    def close_all(self):
        self.check(self.reference.close_all(), self.mounted.close_all())

    def stop(self):
        self.mount.stop(timeout=self.patience)

    def do_remount(self):
        self.close_all()
        self.stop()
        self.mount.start()
        self.do_compare()

    def do_remount_empty(self):
        """All that this machine knows is thrown away: the store alone has to give it back."""
        self.close_all()
        self.sync()
        self.stop()
        self.compare_store()
        shutil.rmtree(self.mount.cache)
        self.part_links()
        self.mount.start()
        self.see_all_names()
        if self.mount.store.name != "local":
            self.take_times_of_folders()
        self.do_compare()

    def see_all_names(self):
        """That a file has one more name is known when that one has been seen, and the kernel is told a moment later."""
        def count():
            return [self.links_in_mount(name) for name, status in files]

        files = list(self.reference_files())
        end = time.monotonic() + 10
        while count() != [status.st_nlink for _, status in files] and time.monotonic() < end:
            time.sleep(0.01)

    def reference_files(self):
        for folder, folders, files in os.walk(self.reference.root):
            for name in folders + files:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                if not stat.S_ISDIR(status.st_mode):
                    yield os.path.relpath(path, self.reference.root), status

    def links_in_mount(self, name):
        with contextlib.suppress(FileNotFoundError):          # which is told when the trees are compared
            return os.lstat(self.mounted.path(name)).st_nlink

    def take_times_of_folders(self):
        """An object store is told the time of a folder only with its other attributes (docs/semantics.md)."""
        for folder, _, _ in os.walk(self.reference.root, topdown=False):
            name = os.path.relpath(folder, self.reference.root)
            with contextlib.suppress(FileNotFoundError):          # which is told when the trees are compared
                status = os.lstat(self.mounted.path(name))
                os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))

    def part_links(self):
        """Only of regular files the names are known for those of one file, and where the store keeps attributes."""
        keeps_links = self.mount.store.name != "rclone"
        for name, status in list(self.reference_files()):
            if status.st_nlink < 2 or (keeps_links and stat.S_ISREG(status.st_mode)):
                continue
            path = self.reference.path(name)
            folder = os.path.dirname(path)
            times = os.stat(folder)
            if stat.S_ISREG(status.st_mode):
                shutil.copy2(path, path + ".part", follow_symlinks=False)
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(path), path + ".part")
            else:
                os.mkfifo(path + ".part", stat.S_IMODE(status.st_mode))
                for key in os.listxattr(path):
                    os.setxattr(path + ".part", key, os.getxattr(path, key))
            os.chown(path + ".part", status.st_uid, status.st_gid, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(path + ".part", stat.S_IMODE(status.st_mode))
            os.utime(path + ".part", ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
            os.rename(path + ".part", path)
            os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))

    # MARK: others on the store

    def do_by_others(self, changes):
        self.sync()
        with self.temporary(metadata_cache=min(self.settings["metadata_cache"], 1)):
            for name, body in changes.items():
                # That the same bytes were written anew could not be seen from here, and waited for.
                if self.is_free(name) and not self.holds(name, body):
                    self.change_on_store(name, body)
                    self.change_in_reference(name, body)
                    self.wait_until_seen(name)
                    self.settle_time_of_folder(name)

    def do_conflict(self, name, here, seed, length, there):
        if not self.is_free(name):
            return
        self.sync()
        with self.temporary(cache=3600, metadata_cache=min(self.settings["metadata_cache"], 1), cache_size=1000):
            # What is changed in part needs the rest of its bytes, which others are about to replace.
            self.check(*(op.perform(side, "read_file", [name]) for side in (self.reference, self.mounted)))
            arguments = [name] if here == "unlink" else [name, seed, length]
            answer = op.perform(self.reference, here, arguments)
            self.check(answer, op.perform(self.mounted, here, arguments))
            was_changed = answer is None
            self.change_on_store(name, there)
            self.sync()
            if not was_changed or (here == "unlink" and there):
                # Only one side has something to say, or both the same: to remove it gives way to a change.
                self.change_in_reference(name, there)
                self.wait_until_seen(name)
            elif here != "unlink" and there:
                self.expect_conflict_copy(name, there)
            self.settle_time_of_folder(name)
            self.sync()
        self.do_compare()
        self.compare_store()

    def settle_time_of_folder(self, name):
        """Which time a folder has after others have changed what is in it is not promised: now it has one."""
        for side in (self.reference, self.mounted):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.utime(side.path(name.rpartition("/")[0]))

    def is_free(self, name):
        """Whether others may change it without saying more than is promised: a file nobody has open, or nothing."""
        if not self.is_kept(name):
            return False
        path, parts = self.reference.path(name), name.split("/")
        for depth in range(1, len(parts)):
            folder = self.reference.path("/".join(parts[:depth]))
            if not os.path.lexists(folder) or not stat.S_ISDIR(os.lstat(folder).st_mode):
                return False
        if not os.path.lexists(path):
            return True
        status = os.lstat(path)
        used = {os.fstat(file).st_ino for file in self.reference.handles.values()}
        return stat.S_ISREG(status.st_mode) and status.st_ino not in used

    def holds(self, name, body):
        path = pathlib.Path(self.reference.path(name))
        return body is not None and path.exists() and path.read_bytes() == op.content(*body)

    def change_on_store(self, name, body):
        if body is None:
            if os.path.lexists(self.reference.path(name)) or name in self.mount.store.names():
                with contextlib.suppress(FileNotFoundError):
                    self.mount.store.delete(name)
        elif self.mount.store.name == "local":
            # As a new file, as it would come from elsewhere: an old one would keep its attributes.
            new = self.mount.folder / "put"
            new.write_bytes(op.content(*body))
            new.rename(self.mount.store.path / name)
        else:
            self.mount.store.write(name, op.content(*body))

    def change_in_reference(self, name, body):
        """As something new under the name: who has the old one under another name keeps it."""
        path = pathlib.Path(self.reference.path(name))
        path.unlink(missing_ok=True)
        if body is not None:
            path.write_bytes(op.content(*body))

    def wait_until_seen(self, name):
        """Others' changes are seen when the listing is older than metadata_cache says, and not before."""
        end = time.monotonic() + self.patience
        while True:
            expected = op.perform(self.reference, "read_file", [name])
            found = op.perform(self.mounted, "read_file", [name])
            if found == expected:
                return
            if time.monotonic() > end:
                raise Mismatch(f"a change on the store is not seen after {self.patience} s: {name!r} is "
                               f"{op.brief(found)}, should be {op.brief(expected)}")
            time.sleep(0.02)

    def expect_conflict_copy(self, name, body):
        folder, _, base = name.rpartition("/")
        known = set(os.listdir(self.reference.path(folder)))
        end = time.monotonic() + self.patience
        while True:
            copies = [found for found in os.listdir(self.mounted.path(folder))
                      if found.startswith(f"{base}.conflict-") and found not in known]
            if copies:
                break
            if time.monotonic() > end:
                raise Mismatch(f"there is no conflict copy of {name!r}")
            time.sleep(0.02)
        assert len(copies) == 1, f"several conflict copies of {name!r}: {copies}"
        copy = f"{folder}/{copies[0]}" if folder else copies[0]
        self.change_in_reference(copy, body)
        errors = (self.mount.stats / "errors").read_text(errors="surrogateescape")
        assert "conflict" in errors, f"stats/errors does not tell of the conflict:\n{errors}"


# MARK: whole runs

def carry_out(run, steps):
    """Does `steps`, and stops the mount. Answers the failure, or None."""
    try:
        for step in steps:
            run.perform(step)
        run.close_all()
        run.stop()
        return None
    except AssertionError as error:
        # It may be in whatever state: nobody waits for it to empty itself.
        run.mount.kill()
        return Failure(list(run.done), str(error))
    finally:
        for side in (run.mounted, run.reference):
            for file in side.handles.values():
                with contextlib.suppress(OSError):
                    os.close(file)
        run.mount.end()


def explore(make_mount, seed, count, patience=90, trust=(3600,), is_alone=False):
    """Random operations. - make_mount: answers a new mount of a new store, started."""
    with reference_folder() as folder:
        run = Run(make_mount(), folder, patience)
        return carry_out(run, operations(Generator(random.Random(seed), run.reference, trust), count, is_alone))


def replay(make_mount, steps, patience=90):
    with reference_folder() as folder:
        return carry_out(Run(make_mount(), folder, patience), steps)


def shrink(make_mount, failure, seconds, tell):
    """Leaves out operations as long as the rest still fails, and the time is not over.

    What fails is not asked for to be the same: a shorter list that shows another fault is as good.
    """
    end = time.monotonic() + seconds
    size = max(1, len(failure.operations) // 2)
    while time.monotonic() < end:
        position, is_shorter = 0, False
        while position < len(failure.operations) and time.monotonic() < end:
            rest = failure.operations[:position] + failure.operations[position + size:]
            shorter = replay(make_mount, rest, patience=10) if rest else None
            if shorter:
                is_shorter = True
                failure = shorter
                tell(f"{len(failure.operations)} operations")
            else:
                position += size
        if size == 1 and not is_shorter:
            break
        size = max(1, size // 2)
    return failure


def save(failure, path):
    """One operation a line, for `python -m model --replay`."""
    path.write_text("".join(json.dumps(step, ensure_ascii=False) + "\n" for step in failure.operations))


def load(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
