"""What close() and fsync() wait for: the three tiers, for a mount and for a directory, live, and when the store is away."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import powerloss
import pytest
from harness import run

TIER = "user.cloudfusion.durability"


def write(path, content, fsync=False):
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(file, content)
        if fsync:
            os.fsync(file)
    finally:
        os.close(file)


def sync_directory(path):
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def code(body):
    """The errno that a call fails with; None if it does not."""
    try:
        body()
    except OSError as error:
        return error.errno


def throw_away(mount):
    """The machine is gone: nothing is left of the mount but what lies on the store."""
    mount.kill()
    shutil.rmtree(mount.cache)


def test_in_the_remote_tier_a_closed_file_is_on_the_store(store, mounts):
    mount = mounts(store, cache=3600, durability="remote").start()
    expected = {}
    (mount.data / "d").mkdir()
    for index, size in enumerate([1, 4096, 100_000, 3 << 20]):
        expected[f"d/f{index}"] = os.urandom(size)
        write(mount.data / f"d/f{index}", expected[f"d/f{index}"])
        assert store.read(f"d/f{index}") == expected[f"d/f{index}"]
    # Changed in place, appended to, and truncated: each close has the store follow.
    with open(mount.data / "d/f1", "r+b") as file:
        file.write(b"changed")
    expected["d/f1"] = b"changed" + expected["d/f1"][7:]
    assert store.read("d/f1") == expected["d/f1"]
    with open(mount.data / "d/f0", "ab") as file:
        file.write(b"more")
        file.flush()
        os.fsync(file.fileno())
        expected["d/f0"] += b"more"
        assert store.read("d/f0") == expected["d/f0"]
    throw_away(mount)
    fresh = mounts(store).start()
    assert {name: (fresh.data / name).read_bytes() for name in expected} == expected
    fresh.stop()


def test_in_the_remote_tier_an_fsync_of_a_directory_brings_its_names_to_the_store(store, mounts):
    mount = mounts(store, cache=3600, durability="remote").start()
    for name in ("old", "gone", "stays"):
        write(mount.data / name, name.encode())
    (mount.data / "made").mkdir()
    (mount.data / "dir").mkdir()
    write(mount.data / "dir/inside", b"inside")
    (mount.data / "dir").rename(mount.data / "moved")
    (mount.data / "old").rename(mount.data / "new")
    (mount.data / "gone").unlink()
    sync_directory(mount.data)
    names = {name.rstrip("/"): size for name, size in store.names().items()}
    assert {name for name in names if not name.endswith(("made", "moved", "dir"))} == {"new", "stays", "moved/inside"}
    throw_away(mount)
    fresh = mounts(store).start()
    assert sorted(os.listdir(fresh.data)) == ["made", "moved", "new", "stays"]
    assert (fresh.data / "new").read_bytes() == b"old"
    fresh.stop()


def test_a_directory_says_what_holds_below_it(store, mounts):
    mount = mounts(store, cache=3600).start()
    (mount.data / "safe/deep/er").mkdir(parents=True)
    (mount.data / "safe/quick").mkdir()
    (mount.data / "other").mkdir()
    assert os.getxattr(mount.data / "safe", TIER) == b"local"
    os.setxattr(mount.data / "safe", TIER, b"remote")
    os.setxattr(mount.data / "safe/quick", TIER, b"writeback")
    for value, path in [(b"remote", "safe"), (b"remote", "safe/deep/er"), (b"writeback", "safe/quick"),
                        (b"local", "other"), (b"local", ".")]:
        assert os.getxattr(mount.data / path, TIER) == value, path
    # It is listed where it was set alone: what copies attributes does not copy what was inherited.
    assert TIER in os.listxattr(mount.data / "safe") and TIER not in os.listxattr(mount.data / "safe/deep")
    write(mount.data / "safe/deep/er/f", b"on the store")
    write(mount.data / "safe/quick/f", b"here", fsync=True)
    write(mount.data / "other/f", b"here", fsync=True)
    assert store.names().keys() & {"safe/deep/er/f", "safe/quick/f", "other/f"} == {"safe/deep/er/f"}
    assert os.getxattr(mount.data / "safe/deep/er/f", TIER) == b"remote"
    # A file follows the directory that it is moved to.
    (mount.data / "other/f").rename(mount.data / "safe/g")
    with open(mount.data / "safe/g", "ab") as file:
        file.write(b"!")
    assert store.read("safe/g") == b"here!"

    for value in (b"", b"always", b"Remote"):
        assert code(lambda: os.setxattr(mount.data / "safe", TIER, value)) == errno.EINVAL, value
    assert code(lambda: os.setxattr(mount.data / "safe/g", TIER, b"local")) == errno.EPERM
    mount.sync()
    mount.stop()
    mount.start()
    assert os.getxattr(mount.data / "safe/deep", TIER) == b"remote"
    assert os.getxattr(mount.data / "safe/quick/f", TIER) == b"writeback"
    # As the directory's other attributes it is on the store, and holds on other machines too.
    fresh = mounts(store).start()
    assert os.getxattr(fresh.data / "safe", TIER) == b"remote"
    os.listdir(fresh.data / "safe")
    write(fresh.data / "safe/h", b"there")
    assert store.read("safe/h") == b"there"
    fresh.stop()
    os.removexattr(mount.data / "safe", TIER)
    assert os.getxattr(mount.data / "safe/deep", TIER) == b"local"
    mount.stop()


def test_the_tier_changes_while_mounted(local, mounts):
    mount = mounts(local, cache=3600).start()
    write(mount.data / "a", b"a", fsync=True)
    assert "a" not in local.names()
    mount.config.write_text("[store]\ndurability = remote\n")
    write(mount.data / "b", b"b")
    assert "b" in local.names() and "a" not in local.names()
    assert code(lambda: mount.config.write_text("[store]\ndurability = sometimes\n")) == errno.EINVAL
    mount.config.write_text("[store]\ndurability = writeback\n")
    write(mount.data / "c", b"c", fsync=True)
    assert "c" not in local.names()
    mount.sync()
    assert local.names().keys() == {"a", "b", "c"}
    mount.stop()


def test_an_outage_ends_the_wait_with_an_error_and_keeps_the_file(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=3600, durability="remote", request_timeout=4, connect_timeout=2, stall_timeout=2).start()
    (mount.data / "here").mkdir()
    os.setxattr(mount.data / "here", TIER, b"local")
    write(mount.data / "before", b"before")
    net.freeze()
    assert code(lambda: write(mount.data / "closed", b"closed")) == errno.EIO
    assert code(lambda: write(mount.data / "synced", b"synced", fsync=True)) == errno.EIO
    assert code(lambda: sync_directory(mount.data)) == errno.EIO
    # Twenty who wait for the store keep nobody from the disk.
    waiting = [subprocess.Popen([sys.executable, "-c", f"open({str(mount.data / f'w{n}')!r}, 'w').write('x')"],
                                stderr=subprocess.DEVNULL) for n in range(20)]
    run(sys.executable, "-c", f"import os; f = os.open({str(mount.data / 'here/f')!r}, os.O_RDWR | os.O_CREAT); "
        "os.write(f, b'local'); os.fsync(f); os.close(f)", timeout=60)
    for child in waiting:
        child.wait(timeout=100)
    assert (mount.data / "closed").read_bytes() == b"closed"
    waits = (mount.stats / "notuploaded").read_text()
    assert all(name in waits for name in ("closed", "synced", "here/f", "w19"))
    assert "durability" in (mount.stats / "errors").read_text()
    net.thaw()
    mount.sync()
    assert radosgw.read("closed") == b"closed" and radosgw.read("synced") == b"synced"
    # And so does the mount: the next one waits for the store, and gets it.
    write(mount.data / "after", b"after")
    assert radosgw.read("after") == b"after"
    mount.stop()


@pytest.mark.parametrize("call", ["close", "fsync", "directory"])
def test_a_signal_ends_the_wait(call, radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=3600, durability="remote", request_timeout=600).start()
    write(mount.data / "before", b"before")
    net.freeze()
    program = {
        "close": "f = os.open(p + '/f', os.O_RDWR | os.O_CREAT); os.write(f, b'x'); say(); os.close(f)",
        "fsync": "f = os.open(p + '/f', os.O_RDWR | os.O_CREAT); os.write(f, b'x'); say(); os.fsync(f)",
        "directory": "f = os.open(p, os.O_RDONLY); os.mkdir(p + '/d'); say(); os.fsync(f)",
    }[call]
    child = subprocess.Popen(
        [sys.executable, "-c", "import os, signal, sys\n"
         "def say(): print('waiting', flush=True)\n"
         f"p = {str(mount.data)!r}\ntry:\n    {program}\n"
         "except InterruptedError: print('interrupted', flush=True)\nos._exit(0)"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout.readline() == b"waiting\n"
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=1)
    # Python calls fsync again after a signal, as many programs do; so it has to be one that ends the program.
    child.send_signal(signal.SIGTERM)
    # What it has still open is closed when it ends, which is a wait of its own.
    end = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
    assert child.poll() == -signal.SIGTERM, "it cannot be ended"
    child.stdout.close()
    net.thaw()
    mount.sync()
    assert ("f" if call != "directory" else "before") in radosgw.names()
    mount.stop()


def test_what_the_store_refuses_for_good_is_said_at_once(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=3600, durability="remote", request_timeout=600).start()
    write(mount.data / "before", b"before")
    net.set(rate_refuse=1, refusal="507 InsufficientStorage", refused_kinds="PUT")
    assert code(lambda: write(mount.data / "f", b"too much")) == errno.EDQUOT
    assert (mount.data / "f").read_bytes() == b"too much"
    net.set(rate_refuse=0)
    mount.sync()
    assert radosgw.read("f") == b"too much"
    mount.stop()


@pytest.mark.parametrize("tier", ["writeback", "local", "remote"])
def test_what_was_closed_survives_the_end_of_the_daemon_in_every_tier(tier, store, mounts):
    mount = mounts(store, cache=3600, durability=tier).start()
    write(mount.data / "closed", b"closed")
    write(mount.data / "synced", b"synced", fsync=True)
    mount.kill()
    mount.start()
    assert (mount.data / "closed").read_bytes() == b"closed" and (mount.data / "synced").read_bytes() == b"synced"
    mount.sync()
    assert store.read("closed") == b"closed" and store.read("synced") == b"synced"
    mount.stop()


def test_an_fsync_costs_as_few_flushes_of_the_disk_as_it_can(local, mounts, folder):
    mount = mounts(local, cache=3600, cache_dir=folder / "disk")
    mount.cache.mkdir()
    disk = powerloss.Disk(mount.cache, folder / "images", powerloss.build(folder))
    mount.environment = disk.environment
    mount.start()

    def flushes(body):
        """How often the contents, the directories of the cache and the catalog were flushed."""
        disk.syncs()
        body()
        paths = disk.syncs()
        catalog = sum(path.endswith("-wal") for path in paths)
        files = sum(bool(re.search(r"/content/[0-9a-f]{2}/[0-9]+$", path)) for path in paths)
        return files, len(paths) - files - catalog, catalog

    write(mount.data / "first", b"first", fsync=True)
    file = os.open(mount.data / "f", os.O_RDWR | os.O_CREAT)
    os.write(file, b"bytes")
    assert flushes(lambda: os.fsync(file)) == (1, 1, 1), "a new file"

    def rewrite():
        os.pwrite(file, b"others", 2)
        os.fsync(file)

    # That bytes change which are known to be on the disk is noted there before: after a few times for many files at once.
    assert flushes(rewrite) == (1, 0, 2), "a file that is known"
    for _ in range(16):
        rewrite()
    assert flushes(rewrite) == (1, 0, 1), "a file that is known, and changes often"
    assert flushes(lambda: os.fsync(file)) == (0, 0, 0), "nothing new"
    (mount.data / "d").mkdir()
    assert flushes(lambda: sync_directory(mount.data)) == (0, 0, 1), "a directory"
    assert flushes(lambda: sync_directory(mount.data)) == (0, 0, 0), "a directory without news"
    os.pwrite(file, b"closed", 2)
    assert flushes(lambda: os.close(file)) == (0, 0, 0), "close"
    mount.config.write_text("[store]\ndurability = writeback\n")
    assert flushes(lambda: write(mount.data / "g", b"bytes", fsync=True)) == (0, 0, 0), "writeback"
    assert flushes(lambda: sync_directory(mount.data)) == (0, 0, 0), "writeback, a directory"
    mount.stop()
