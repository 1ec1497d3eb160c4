"""A loss of power, without one: what of a folder would be left.

synced.c, preloaded into the program, keeps an image of each file and directory as of its last sync. When the program
has been killed, `lose_power` makes the folder what a disk may hold then: certainly what was synced; of all that came
later nothing, something, or everything, file by file, block by block, and name by name.
"""

import ctypes
import os
import pathlib
import random
import shutil
import subprocess
import uuid

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_ALL = -100, 0x100, 0xfff
BLOCK = 4096
SOURCE = pathlib.Path(__file__).with_name("synced.c")


def build(folder):
    """The library to preload."""
    library = folder / "synced.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl", "-lpthread"],
                   check=True)
    return library


class Disk:
    """The folder that lies on the disk, and the images of what was synced."""

    def __init__(self, root, images, library):
        self.root, self.images = pathlib.Path(root), pathlib.Path(images)
        self.images.mkdir()
        self.log = self.images.with_name(self.images.name + ".log")
        self.boot = self.images.with_name(self.images.name + ".boot")
        self.environment = {"LD_PRELOAD": str(library), "CLOUDFUSION_SYNCED_ROOT": str(self.root),
                            "CLOUDFUSION_SYNCED_IMAGES": str(self.images), "CLOUDFUSION_SYNCED_LOG": str(self.log),
                            "CLOUDFUSION_SYNCED_BOOT": str(self.boot)}
        self.boot_machine()

    def boot_machine(self):
        """From now on the program is told that the machine's kernel runs since then."""
        self.boot.write_text(f"{uuid.uuid4()}\n")

    def syncs(self):
        """What was synced since the last call: the paths, relative to the root."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.write_text("")
        return [str(pathlib.Path(line).relative_to(self.root)) for line in lines]

    def lose_power(self, chance):
        """
        - chance: decides what of the unsynced has reached the disk: `chance(path)` answers a number from 0 (nothing)
          to 1 (all). It is asked for each file, and each name in a directory.
        """
        lost = self.root.with_name(self.root.name + ".lost")
        self.root.rename(lost)
        self.root.mkdir(mode=0o700)
        self.restore(lost, self.root, chance)
        shutil.rmtree(lost)
        shutil.rmtree(self.images)
        self.images.mkdir()
        for path in [self.root, *self.root.rglob("*")]:
            self.keep(path)
        self.boot_machine()

    def keep(self, path):
        """What is on the disk when the power comes back is on the disk."""
        image = self.images / identity(path)
        if path.is_dir():
            image.write_bytes(b"".join(
                os.fsencode(f"{identity(entry)} {'d' if entry.is_dir() else 'f'} {entry.name}") + b"\0"
                for entry in path.iterdir()))
        else:
            shutil.copyfile(path, image)

    def restore(self, lost, target, chance):
        """Makes the directory `target` of what may be left of `lost`."""
        now = {entry.name: identity(entry) for entry in lost.iterdir()}
        image = self.images / identity(lost)
        synced = {}
        if image.exists():
            for line in image.read_bytes().split(b"\0")[:-1]:
                who, _, name = line.split(b" ", 2)
                synced[os.fsdecode(name)] = os.fsdecode(who)
        for name in sorted(now.keys() | synced.keys()):
            # A name that was made, changed or removed since is as it was, or as it is.
            is_now = now.get(name) == synced.get(name) or random_of(chance(target / name)).random() < chance(target / name)
            who = (now if is_now else synced).get(name)
            if who is None:
                continue
            source = self.find(lost, now, who)
            if source is not None and source.is_dir():
                (target / name).mkdir(mode=0o700)
                self.restore(source, target / name, chance)
            else:
                self.restore_file(source, self.images / who, target / name, chance(target / name))

    @staticmethod
    def find(lost, now, who):
        return next((lost / name for name, other in now.items() if other == who), None)

    @staticmethod
    def restore_file(source, image, target, share):
        """- source: the file as it is, None for a deleted one. - image: as it was synced, if it was."""
        new = source.read_bytes() if source else b""
        old = image.read_bytes() if image.exists() else b""
        if share >= 1 and source:
            content = new
        elif share <= 0:
            content = old
        else:
            generator = random_of(share)
            content = bytearray(max(len(old), len(new)))
            for start in range(0, len(content), BLOCK):
                of = new if generator.random() < share else old
                content[start:start + BLOCK] = of[start:start + BLOCK].ljust(min(BLOCK, len(content) - start), b"\0")
        target.write_bytes(content)
        target.chmod(0o600)


def random_of(value):
    return random.Random(repr(value))


def identity(path):
    """As synced.c names it."""
    buffer = ctypes.create_string_buffer(256)
    if libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, STATX_ALL, buffer) != 0:
        raise OSError(ctypes.get_errno(), "statx", path)
    # struct statx: stx_ino at byte 32, stx_btime at byte 80.
    inode = int.from_bytes(buffer.raw[32:40], "little")
    seconds = int.from_bytes(buffer.raw[80:88], "little", signed=True)
    return f"{inode}-{seconds}.{int.from_bytes(buffer.raw[88:92], 'little')}"
