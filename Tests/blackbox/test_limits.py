"""What the cache may take: its limits, the free space of its disk, and disks that are full or cannot be written."""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import random
import resource
import shutil
import threading
import time

import pytest
from harness import run
from rigs.processes import wait_until
from scarcity import full_disks_are_used_up_quotas

MEGABYTE = 1_000_000


@pytest.fixture
def disk(folder):
    """`disk(megabytes)`: an empty ext4 of its own, unmounted after the test."""
    if os.getuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("a disk of its own needs root and mkfs.ext4")
    made = []

    def make(megabytes):
        image, point = folder / f"disk{len(made)}.img", folder / f"disk{len(made)}"
        with open(image, "wb") as file:
            file.truncate(megabytes * MEGABYTE)
        run("mkfs.ext4", "-q", "-m", "0", image)
        point.mkdir()
        done = run("mount", "-o", "loop", image, point, check=False)
        if done.returncode:
            pytest.skip(f"a loop device is needed: {done.stderr}")
        made.append(point)
        return point

    yield make
    for point in made:
        run("umount", "-l", point, check=False)


def space(path):
    """Size and free bytes of a disk."""
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


@contextlib.contextmanager
def watched(path):
    """Looks at the free space of a disk all the time; gives a list with the least that there was."""
    least = [space(path)[1]]
    over = threading.Event()

    def watch():
        while not over.wait(0.005):
            least[0] = min(least[0], space(path)[1])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield least
    finally:
        over.set()
        thread.join()


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.limit(400)
def test_free_space_stays_above_its_floor_under_a_mixed_load(radosgw, mounts, network, disk):
    """A twentieth of a small disk stays free, whatever the limits of the cache say: writers wait, nobody fails."""
    point = disk(160)
    floor = space(point)[0] // 20
    cold = {f"cold{index}": os.urandom(12 << 20) for index in range(3)}
    for name, content in cold.items():
        radosgw.write(name, content)
    patched = bytearray(os.urandom(48 << 20))
    radosgw.write("patched", bytes(patched))
    store, net = network(radosgw, mbit=400)
    mount = mounts(store, cache_dir=point / "cache", cache=0, cache_size=1000, hard_cache_size_limit=2000).start()
    rng = random.Random(7)
    expected = {}

    def write_large(name):
        piece = rng.randbytes(1 << 20)
        content = b"".join(bytes([index]) + piece[1:] for index in range(60))
        with open(mount.data / name, "wb", buffering=0) as file:
            for start in range(0, len(content), 1 << 20):
                file.write(content[start:start + (1 << 20)])
        expected[name] = digest(content)

    def write_small(number):
        for index in range(150):
            content = os.urandom(rng.randrange(40_000))
            (mount.data / f"small{number}-{index}").write_bytes(content)
            expected[f"small{number}-{index}"] = digest(content)

    def append(name):
        whole = b""
        for index in range(40):
            piece = os.urandom(200_000)
            with open(mount.data / name, "ab") as file:
                file.write(piece)
            whole += piece
        expected[name] = digest(whole)

    def patch():
        with open(mount.data / "patched", "r+b", buffering=0) as file:
            for _ in range(60):
                offset, piece = rng.randrange(len(patched) - 5000), rng.randbytes(5000)
                patched[offset:offset + 5000] = piece
                file.seek(offset)
                file.write(piece)
        expected["patched"] = digest(patched)

    def read_cold(name):
        for _ in range(2):
            assert digest((mount.data / name).read_bytes()) == digest(cold[name])

    with watched(point) as least, concurrent.futures.ThreadPoolExecutor(12) as pool:
        jobs = [pool.submit(write_large, "large0"), pool.submit(write_large, "large1"), pool.submit(write_small, 0),
                pool.submit(write_small, 1), pool.submit(append, "log"), pool.submit(patch),
                *(pool.submit(read_cold, name) for name in cold)]
        for job in jobs:
            job.result(timeout=300)
        mount.sync()
    found = {name: digest(radosgw.read(name)) for name in expected}
    assert found == expected
    assert least[0] >= floor, f"{least[0] / MEGABYTE:.2f} MB were free, {floor / MEGABYTE:.2f} MB have to stay"
    mount.stop()


@pytest.mark.limit(200)
def test_when_others_fill_the_disk_writers_wait_and_go_on_when_there_is_space(local, mounts, disk):
    point = disk(100)
    mount = mounts(local, cache_dir=point / "cache", cache=3600, cache_size=1000).start()
    before = os.urandom(2 << 20)
    (mount.data / "before").write_bytes(before)
    filler = point / "filler"
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, space(point)[1] - 2 * MEGABYTE)
    content = os.urandom(20 << 20)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit((mount.data / "after").write_bytes, content)
        # What is here is read as ever, and somebody is told what is the matter.
        wait_until(lambda: "free on the disk" in (mount.stats / "errors").read_text(), 60, "the error in stats/errors")
        try:
            assert (mount.data / "before").read_bytes() == before
        except TimeoutError:
            # Brought to the store meanwhile, and given up for the writer: there is no room to fetch it again.
            assert local.read("before") == before
        time.sleep(0.5)
        assert not writing.done(), "the disk is full, and nothing was uploaded that could go"
        filler.unlink()
        writing.result(timeout=100)
    mount.sync()
    assert local.read("before") == before
    assert local.read("after") == content
    mount.stop()


def test_more_files_can_be_open_than_the_daemon_may_open_itself(local, mounts):
    mount = mounts(local, cache=3600).start()
    limit = 96
    for pid in mount.pids():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    names = [f"f{index}" for index in range(3 * limit)]
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(mount.data / name, "w+b", buffering=0)) for name in names}
        for name, file in files.items():
            file.write(name.encode())
        for name, file in files.items():
            os.fsync(file)
            file.seek(0)
            assert file.read() == name.encode()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            assert file.read() == name.encode()
    mount.sync()
    assert all(local.read(name) == name.encode() for name in names)
    mount.stop()


def test_without_a_descriptor_left_requests_fail_and_all_comes_right_by_itself(store, mounts):
    mount = mounts(store, cache=0, metadata_cache=3600).start()
    contents = {f"f{index}": os.urandom(5_000) for index in range(5)}
    for name, content in contents.items():
        (mount.data / name).write_bytes(content)
    mount.sync()
    os.listdir(mount.data)
    (pid,) = mount.pids()
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(number) for number in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, usual[1]))
    failures = 0
    for index in range(30):
        try:
            with open(mount.data / f"new{index}", "wb", buffering=0) as file:
                file.write(b"new")
                os.fsync(file.fileno())
            contents[f"new{index}"] = b"new"
        except OSError as error:
            assert error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO), error
            failures += 1
        with contextlib.suppress(OSError):
            assert (mount.data / f"f{index % 5}").read_bytes() == contents[f"f{index % 5}"]
    run("ls", "-l", mount.data, timeout=5)
    run("cat", mount.stats / "errors", timeout=5)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
    for name, content in contents.items():
        assert (mount.data / name).read_bytes() == content
    (mount.data / "after").write_bytes(b"after")
    mount.sync()
    for name, content in {**contents, "after": b"after"}.items():
        assert store.read(name) == content
    mount.stop()


@pytest.mark.limit(200)
def test_the_soft_limit_holds_while_much_is_read(radosgw, mounts):
    """What is clean goes as fast as more comes: the cache is never more than a twentieth above its size."""
    soft = 60 * MEGABYTE
    contents = {f"f{index}": os.urandom(12 << 20) for index in range(24)}
    for name, content in contents.items():
        radosgw.write(name, content)
    mount = mounts(radosgw, cache_size=soft // MEGABYTE, hard_cache_size_limit=600).start()
    most = [0]
    over = threading.Event()

    def watch():
        while not over.wait(0.01):
            began = time.monotonic()
            used = sum(path.stat().st_blocks * 512 for path in mount.cache.rglob("*/content/*/*") if path.exists())
            # What was added up for long is true of no moment: some of it went while the rest came.
            if time.monotonic() - began < 0.1:
                most[0] = max(most[0], used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            for name, found in pool.map(lambda name: (name, digest((mount.data / name).read_bytes())), contents):
                assert found == digest(contents[name])
    finally:
        over.set()
        watcher.join()
    assert most[0] > soft / 2, "the test looks at the wrong files"
    assert most[0] <= soft * 1.05, f"{most[0] / MEGABYTE:.1f} MB at most"
    mount.stop()


@pytest.mark.limit(200)
def test_a_used_up_quota_of_the_cache_s_disk_is_an_error_that_says_so_and_loses_nothing(store, mounts, disk, folder):
    """The disk tells that much is free: nobody can wait for what will never come."""
    point = disk(120)
    mount = mounts(store, cache_dir=point / "cache", cache=3600, cache_size=1000)
    mount.environment = full_disks_are_used_up_quotas(folder)
    mount.start()
    kept = {}

    def write(name, size):
        content = os.urandom(size)
        with open(mount.data / name, "wb", buffering=0) as file:
            for position in range(0, size, 1 << 20):
                file.write(content[position:position + (1 << 20)])
            os.fsync(file.fileno())
        kept[name] = content

    write("before", 20 << 20)
    with open(point / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, space(point)[1] - 12 * MEGABYTE)
    for index in range(3):
        with pytest.raises(OSError) as failure:
            write(f"large{index}", 20 << 20)
        assert failure.value.errno == errno.ENOSPC, (mount.stats / "errors").read_text()
    for name, content in kept.items():
        assert (mount.data / name).read_bytes() == content
    assert "space" in (mount.stats / "errors").read_text()
    (point / "filler").unlink()
    write("after", 20 << 20)
    mount.sync()
    for name, content in kept.items():
        assert (mount.data / name).read_bytes() == content
        assert store.read(name) == content
    mount.stop()


@pytest.mark.limit(200)
def test_a_disk_that_cannot_be_written_any_more_loses_nothing_that_was_flushed(local, mounts, disk):
    """After an error a disk turns read-only. What is there is read; the rest fails with an error that says so."""
    point = disk(100)
    mount = mounts(local, cache_dir=point / "cache", cache=3600).start()
    kept = {f"kept{index}": os.urandom(300_000) for index in range(5)}
    for name, content in kept.items():
        with open(mount.data / name, "wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
    run("mount", "-o", "remount,abort", point)
    for name, content in kept.items():
        assert (mount.data / name).read_bytes() == content
    with pytest.raises(OSError) as failure:
        with open(mount.data / "new", "wb", buffering=0) as file:
            file.write(b"x" * 1000)
            os.fsync(file.fileno())
    assert failure.value.errno in (errno.EROFS, errno.EIO), failure.value
    errors = (mount.stats / "errors").read_text()
    assert "disk" in errors, errors
    mount.kill()
    image = point.with_suffix(".img")
    run("umount", point)
    assert run("fsck.ext4", "-p", "-f", image, check=False).returncode in (0, 1)
    run("mount", "-o", "loop", image, point)
    mount.start()
    mount.sync()
    for name, content in kept.items():
        assert local.read(name) == content
    mount.stop()
