"""Memory follows the work under way, not the size of what is mounted; and where there is none, nothing closed is lost."""

import concurrent.futures
import contextlib
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
import time

import pytest
from harness import run
from rigs.processes import wait_until
from scarcity import Scarcity

MEGABYTE = 1_000_000


@pytest.mark.limit(400)
def test_a_large_catalog_and_many_transfers_fit_in_150_mb(radosgw, mounts, network, is_slow):
    files = 100_000 if is_slow else 20_000
    store, net = network(radosgw)
    mount = mounts(store, cache=3600).start()
    script = """
        import os, sys
        root, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        for number in range(first, last):
            if number % 500 == first % 500:
                os.makedirs(f"{root}/d{number // 500}", exist_ok=True)
            os.close(os.open(f"{root}/d{number // 500}/file-with-an-ordinary-name-{number}.txt", os.O_CREAT | os.O_WRONLY))
        """
    half = files // 2
    writers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(mount.data / "many"), *map(str, part)])
               for part in ((0, half), (half, files))]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    run("find", mount.data, "-size", "+1", timeout=100)
    # 64 downloads and 64 uploads, held up on the way.
    for index in range(64):
        radosgw.write(f"down/f{index}", os.urandom(1 << 20))
    wait_until(lambda: (mount.data / "down").exists(), 20, "the foreign files showing up")
    net.set(mbit=100)
    os.makedirs(mount.data / "up")
    for index in range(64):
        (mount.data / "up" / f"f{index}").write_bytes(os.urandom(1 << 20))
    uploads = subprocess.Popen([mount.binary, "sync", mount.point, mount.data / "up"], stdout=subprocess.DEVNULL)
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        sizes = list(pool.map(lambda index: len((mount.data / "down" / f"f{index}").read_bytes()), range(64)))
    assert sizes == [1 << 20] * 64
    now, most = mount.memory()
    net.set(mbit=0)
    uploads.wait(timeout=60)
    assert most < 150 * MEGABYTE, f"{most / MEGABYTE:.0f} MB at most, {now / MEGABYTE:.0f} MB now"
    shutil.rmtree(mount.data / "many")
    mount.stop()


@pytest.mark.limit(300)
def test_a_large_file_does_not_pass_through_memory(local, mounts, folder, is_slow):
    size = (4 << 30) if is_slow else (1 << 30)
    if shutil.disk_usage(folder).free < 4 * size:
        pytest.skip(f"needs {4 * size >> 30} GiB of free disk")
    mount = mounts(local, cache=0).start()
    (mount.data / "warm-up").write_bytes(b"x")
    mount.sync()
    before, _ = mount.memory()
    run("dd", "if=/dev/zero", f"of={mount.data}/big", "bs=4M", f"count={size >> 22}", timeout=200)
    mount.sync()
    run("dd", f"if={mount.data}/big", "of=/dev/null", "bs=4M", timeout=200)
    _, most = mount.memory()
    assert local.names()["big"] == size
    assert most - before < 100 * MEGABYTE, f"grew by {(most - before) / MEGABYTE:.0f} MB"
    mount.stop()
    second = mounts(local).start()
    before, _ = second.memory()
    run("cmp", "-n", size, "/dev/zero", second.data / "big", timeout=200)
    _, most = second.memory()
    assert most - before < 100 * MEGABYTE, f"grew by {(most - before) / MEGABYTE:.0f} MB reading cold"
    second.stop()


def test_the_cache_stays_near_its_limit(radosgw, mounts):
    """The soft limit: what is clean goes, least recently used first; what is read again comes again."""
    mount = mounts(radosgw, cache=0, cache_size=20, hard_cache_size_limit=60).start()
    contents = {f"f{index}": os.urandom(4 << 20) for index in range(15)}
    for name, content in contents.items():
        (mount.data / name).write_bytes(content)
    mount.sync()

    def used():
        return sum(path.stat().st_blocks * 512 for path in mount.cache.rglob("*") if path.is_file())

    wait_until(lambda: used() < 30 * MEGABYTE, 60, "the eviction")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for name, content in pool.map(lambda name: (name, (mount.data / name).read_bytes()), contents):
            assert content == contents[name]
    wait_until(lambda: used() < 30 * MEGABYTE, 60, "the eviction after reading")
    mount.stop()


def test_a_full_cache_slows_writers_down_and_fails_nobody(radosgw, mounts, network):
    store, net = network(radosgw, mbit=80)
    mount = mounts(store, cache=0, cache_size=10, hard_cache_size_limit=20).start()
    run("dd", "if=/dev/urandom", f"of={mount.data}/source", "bs=1M", "count=60", timeout=100)
    checksum = run("sha256sum", mount.data / "source", timeout=60).stdout.split()[0]
    net.set(mbit=0)
    mount.sync()
    assert hashlib.sha256(radosgw.read("source")).hexdigest() == checksum
    mount.stop()


class Written:
    """Files that are made, replaced, renamed and removed while much of that fails; and what must be there after it."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.contents = {}             # path → what it may hold; None among these: it may be gone
        self.failures = 0

    def attempt(self, *changes):
        """- changes: functions; those behind the first that fails are not tried.
        Returns whether all were successful."""
        try:
            for change in changes:
                change()
            return True
        except OSError:
            self.failures += 1
            return False

    def work(self, folder, steps, size):
        for step in range(steps):
            kind, number = self.random.random(), len(self.contents)
            known = sorted(name for name, held in self.contents.items() if held != {None})
            name = self.random.choice(known) if known else None
            target = f"f{folder.name}-{number}-{step}"
            if kind < 0.15 and name:
                done = self.attempt((folder / name).unlink)
                self.contents[name] = {None} if done else self.contents[name] | {None}
            elif kind < 0.3 and name:
                done = self.attempt(lambda: (folder / name).rename(folder / target))
                held = self.contents[name]
                self.contents[target] = held if done else held | {None}
                self.contents[name] = {None} if done else held | {None}
            elif kind < 0.5 and name:
                with contextlib.suppress(OSError):
                    assert (folder / name).read_bytes() in self.contents[name], f"{name} was read wrong"
            else:
                # Under a name of its own: what was not closed may hold anything, and is asked for by nobody.
                draft = folder / f"draft{number}-{step}"
                content = self.random.randbytes(self.random.choice([0, 100, 5000, 100_000, size]))
                if not self.attempt(lambda: draft.write_bytes(content)):
                    continue
                if self.random.random() < 0.5 and name:
                    target = name
                done = self.attempt(lambda: draft.rename(folder / target))
                old = self.contents.get(target, {None})
                self.contents[target] = {content} if done else old | {content}
                if not done:
                    self.contents[draft.name] = {content, None}

    def check(self, read, where):
        for name, held in self.contents.items():
            content = patiently(read, name)
            assert content in held, f"{name} {where}: {'is gone' if content is None else f'{len(content)} bytes'}"


def patiently(read, name):
    """What is read at last: who waited for a request that had no memory gets its error. None: there is no such file."""
    for attempt in range(50):
        try:
            return read(name)
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(0.1)
    return read(name)


def mount_again_if_it_has_ended(mount):
    """- Returns: whether it had."""
    if mount.pids():
        return False
    mount.start()
    return True


@pytest.mark.limit(400)
def test_when_libraries_have_no_memory_nothing_closed_is_lost_and_nothing_is_read_wrong(store, mounts, folder, is_slow):
    """SQLite, libcurl, OpenSSL and libfuse are told now and then that there is none: requests fail, or the program ends."""
    scarcity = Scarcity(folder)
    mount = mounts(store, cache=0, cache_size=5)
    mount.environment = scarcity.environment
    mount.start()
    written = Written(3)
    for one_in in ([20, 100, 300, 1000, 3000] * (6 if is_slow else 1)):
        (mount.data / "d").mkdir(exist_ok=True)
        scarcity.set(one_in)
        written.work(mount.data / "d", 150, 3 << 20)
        scarcity.set(0)
        mount_again_if_it_has_ended(mount)
        written.check(lambda name: (mount.data / "d" / name).read_bytes(), "in the mount")
    assert scarcity.failures > 100 and written.failures > 0, "there was memory enough"
    mount.sync()
    names = store.names()
    written.check(lambda name: store.read(f"d/{name}") if f"d/{name}" in names else None, "on the store")
    mount.stop()
    fresh = mounts(store).start()
    written.check(lambda name: (fresh.data / "d" / name).read_bytes(), "in a mount with an empty cache")
    fresh.stop()


@pytest.mark.limit(300)
def test_when_the_program_has_no_memory_nothing_closed_is_lost(store, mounts):
    """It may not have more than it has: large work fails or ends it. Mounted again, it has all that was closed."""
    mount = mounts(store, cache=0, cache_size=5).start()
    written, ends = Written(4), 0
    for round in range(4):
        (mount.data / "d").mkdir(exist_ok=True)
        (pid,) = mount.pids()
        pages = int(open(f"/proc/{pid}/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (round << 20)
        # The soft limit alone: not every root may raise a hard one again.
        usual = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, usual[1]))
        written.work(mount.data / "d", 100, 20 << 20)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for name in written.contents:
                pool.submit(lambda name=name: (mount.data / "d" / name).read_bytes())
        ends += mount_again_if_it_has_ended(mount)
        resource.prlimit(mount.pids()[0], resource.RLIMIT_AS, usual)
        written.check(lambda name: (mount.data / "d" / name).read_bytes(), f"in the mount in round {round}")
    assert ends + written.failures > 0, "there was memory enough"
    mount.sync()
    names = store.names()
    written.check(lambda name: store.read(f"d/{name}") if f"d/{name}" in names else None, "on the store")
    mount.stop()
    fresh = mounts(store).start()
    written.check(lambda name: (fresh.data / "d" / name).read_bytes(), "in a mount with an empty cache")
    fresh.stop()
