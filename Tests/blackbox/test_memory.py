"""Memory follows the work under way, not the size of what is mounted."""

import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from harness import run
from rigs.processes import wait_until

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
