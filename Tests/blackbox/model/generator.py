"""Random operations: mostly on what there is, mostly possible, with every oddity now and then."""

import os
import stat

from . import operations as op

NAMES = ["a", "b", "c", "d", "e", "ü 日", "g%2F", ".h", "new\tline", "i" * 60]
HANDLES = 12
# The tree is kept small, so that operations meet each other and comparing it is cheap.
MANY_NAMES = 120
MANY_BYTES = 24 << 20
MODES = [0o600, 0o640, 0o644, 0o700, 0o755, 0o777, 0o1755]


class Generator:
    """Makes up operations. Looks at the reference to know what there is."""

    def __init__(self, random, reference, trust):
        """- trust: the times that listings are trusted for, in seconds, of which one is taken now and then."""
        self.random, self.reference, self.trust = random, reference, trust
        self.age = 0
        self.names, self.folders, self.bytes, self.is_full = [], [""], 0, False
        self.kinds = []
        for kind, weight in WEIGHTS.items():
            self.kinds += [kind] * weight

    def operation(self):
        if self.age % 16 == 0:
            self.look()
        self.age += 1
        name, *arguments = self.random.choice(self.kinds)(self)
        return [name, *arguments]

    def look(self):
        self.names, self.folders, self.bytes = [], [""], 0
        folders = [""]
        for folder in folders:
            with os.scandir(self.reference.path(folder)) as found:
                for entry in sorted(found, key=lambda entry: entry.name):
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    self.names.append(name)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                        if name.count("/") < 3:
                            self.folders.append(name)
                    elif entry.is_file(follow_symlinks=False):
                        self.bytes += entry.stat(follow_symlinks=False).st_size
        self.is_full = len(self.names) > MANY_NAMES or self.bytes > MANY_BYTES

    # What operations are about.

    def new_name(self):
        folder = self.random.choice(self.folders)
        name = self.random.choice(NAMES)
        return f"{folder}/{name}" if folder else name

    def name(self):
        """Of something that is there, mostly."""
        return self.random.choice(self.names) if self.names and self.random.random() < 0.9 else self.new_name()

    def handle(self):
        numbers = list(self.reference.handles)
        return self.random.choice(numbers) if numbers and self.random.random() < 0.95 else self.random.randrange(HANDLES)

    def length(self):
        limit = self.random.choice([1, 100, 4096, 5000, 70_000, 70_000, 300_000])
        return self.random.randrange(limit + 1)

    def offset(self):
        return self.random.choice([0, 0, 1, 4095, 4096, 65536, self.random.randrange(400_000)])

    def seed(self):
        return self.random.randrange(1000)

    def depth_with(self, source, target):
        """How deep the tree would be where `source` comes to lie."""
        deepest = max((name.count("/") for name in self.names if name.startswith(source + "/")),
                      default=source.count("/"))
        return target.count("/") + deepest - source.count("/")

    def time(self):
        return self.random.randrange(op.FIRST_TIME, op.LAST_TIME)


def make_open(self):
    flags = self.random.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_WRONLY])
    for flag, chance in ((os.O_CREAT, 0.5), (os.O_EXCL, 0.1), (os.O_TRUNC, 0.1), (os.O_APPEND, 0.15),
                         (os.O_NOFOLLOW, 0.1), (os.O_DIRECTORY, 0.02)):
        if self.random.random() < chance:
            flags |= flag
    # Undefined without O_CREAT, and refused by the kernel with O_DIRECTORY.
    if not flags & os.O_CREAT:
        flags &= ~os.O_EXCL
    name = self.new_name() if flags & os.O_CREAT and self.random.random() < 0.6 else self.name()
    return ["open", self.random.randrange(HANDLES), name, flags, self.random.choice(MODES)]


def make_fallocate(self):
    mode = self.random.choice([0, op.FALLOC_FL_KEEP_SIZE, op.FALLOC_FL_PUNCH_HOLE | op.FALLOC_FL_KEEP_SIZE])
    return ["fallocate", self.handle(), mode, self.offset(), self.length()]


def make_rename(self):
    flags = self.random.choice([0, 0, 0, 0, op.RENAME_NOREPLACE, op.RENAME_EXCHANGE])
    is_new = self.random.random() < (0.2 if flags == op.RENAME_EXCHANGE else 0.6)
    source, target = self.name(), self.new_name() if is_new else self.name()
    # Stores have limits for the length of a path, which are not tested here.
    if self.depth_with(source, target) > 7 or (flags == op.RENAME_EXCHANGE and self.depth_with(target, source) > 7):
        return make_removal(self)
    return ["rename", source, target, flags]


def make_removal(self):
    return [self.random.choice(["unlink", "unlink", "rmdir"]), self.name()]


def make_attribute_change(self):
    key = "user.model-" + self.random.choice("xyz")
    if self.random.random() < 0.25:
        return ["removexattr", self.name(), key]
    return ["setxattr", self.name(), key, self.seed(), self.random.randrange(60),
            self.random.choice([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])]


def make_chown(self):
    ids = [0, 1000, 65534] if os.getuid() == 0 else [os.getuid()]
    return ["chown", self.name(), self.random.choice(ids), self.random.choice(ids) if os.getuid() == 0 else os.getgid()]


def make_file(self):
    if self.is_full:
        return make_removal(self)
    name = self.name() if self.random.random() < 0.5 else self.new_name()
    length = self.length() if self.random.random() < 0.97 else self.random.randrange(3_000_000)
    return ["write_file", name, self.seed(), length]


WEIGHTS = {
    make_file: 10,
    lambda g: ["append_file", g.name(), g.seed(), g.length()]: 3,
    lambda g: ["replace_file", g.name(), g.seed(), g.length()]: 3,
    lambda g: ["read_file", g.name()]: 8,
    lambda g: ["truncate", g.name(), g.offset()]: 4,
    make_open: 10,
    lambda g: ["close", g.handle()]: 7,
    lambda g: ["write", g.handle(), g.seed(), g.length()]: 6,
    lambda g: ["pwrite", g.handle(), g.offset(), g.seed(), g.length()]: 10,
    lambda g: ["read", g.handle(), g.length()]: 4,
    lambda g: ["pread", g.handle(), g.offset(), g.length()]: 8,
    lambda g: ["seek", g.handle(), g.offset(), g.random.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])]: 3,
    lambda g: ["ftruncate", g.handle(), g.offset()]: 3,
    make_fallocate: 5,
    lambda g: ["zero_range", g.handle(), g.offset(), g.length(), g.random.random() < 0.5]: 2,
    lambda g: ["mmap_write", g.handle(), g.offset(), g.seed(), g.random.choice([1, 100, 5000])]: 3,
    lambda g: [g.random.choice(["fsync", "fdatasync"]), g.handle()]: 2,
    lambda g: ["fstat", g.handle()]: 5,
    lambda g: ["fchmod", g.handle(), g.random.choice(MODES)]: 1,
    lambda g: ["copy_file_range", g.handle(), g.handle(), g.offset(), g.offset(), g.length()]: 5,
    lambda g: ["mkdir", g.new_name(), g.random.choice(MODES)] if not g.is_full else make_removal(g): 6,
    lambda g: ["mkfifo", g.new_name(), g.random.choice(MODES)]: 1,
    lambda g: ["symlink", g.random.choice(NAMES + ["a/b", "c/a", "nowhere"]), g.new_name()]: 3,
    lambda g: ["link", g.name(), g.new_name()]: 4,
    make_removal: 9,
    make_rename: 12,
    lambda g: ["readdir", g.random.choice(g.folders) if g.random.random() < 0.9 else g.name()]: 6,
    lambda g: ["readlink", g.name()]: 1,
    lambda g: ["lstat", g.name()]: 12,
    lambda g: ["access", g.name(), g.random.choice([os.F_OK, os.R_OK, os.W_OK, os.X_OK])]: 1,
    lambda g: ["chmod", g.name(), g.random.choice(MODES)]: 4,
    make_chown: 2,
    lambda g: ["utimens", g.name(), g.time()]: 4,
    make_attribute_change: 5,
    lambda g: ["getxattr", g.name(), "user.model-" + g.random.choice("xyz")]: 2,
    lambda g: ["listxattr", g.name()]: 2,
}


# MARK: what happens to the mount, and to the store by others

def settings(self):
    """Uploads at once or much later, listings trusted or not, a cache that is much too small or not."""
    return ["settings", {
        "cache": self.random.choice([0, 0, 1, 3600]), "metadata_cache": self.random.choice(self.trust),
        "cache_size": self.random.choice([1, 2, 100]), "hard_cache_size_limit": 1000}]


def by_others(self):
    """Objects put, replaced and deleted on the store while nothing of them is under way here."""
    changes = {}
    for _ in range(self.random.randrange(1, 4)):
        name = self.name() if self.random.random() < 0.7 else self.new_name()
        changes[name] = [self.seed(), self.length()] if self.random.random() < 0.7 else None
    return ["by_others", changes]


def conflict(self):
    """A file changed here, and on the store before this mount has told it."""
    name = self.name() if self.random.random() < 0.8 else self.new_name()
    here = self.random.choice(["write_file", "append_file", "replace_file", "unlink"])
    there = [self.seed() + 1000, self.length()] if self.random.random() < 0.7 else None
    # To append nothing would be no change.
    return ["conflict", name, here, self.seed(), 1 + self.length(), there]


# How often each of these comes, in operations.
EVENTS = {
    settings: 400,
    lambda g: ["compare"]: 1000,
    lambda g: ["sync"]: 1500,
    lambda g: ["sync_as_it_is"]: 1500,
    by_others: 1500,
    conflict: 2500,
    lambda g: ["remount"]: 4000,
    lambda g: ["remount_empty"]: 6000,
}


def operations(generator, count, is_alone):
    """`count` operations, with events among them. - is_alone: nobody else changes the store."""
    due = {event: generator.random.randrange(1, every) for event, every in EVENTS.items()
           if not (is_alone and event in (by_others, conflict))}
    for number in range(count):
        for event, at in due.items():
            if number >= at:
                due[event] = number + 1 + generator.random.randrange(2 * EVENTS[event])
                generator.look()
                yield event(generator)
        yield generator.operation()
    yield ["remount_empty"]
