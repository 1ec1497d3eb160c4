"""What a mount costs does not follow from how much is catalogued, waiting, or in one directory."""

import os
import pathlib
import signal

import pytest
from harness import run
from rigs.processes import wait_until

MEGABYTE = 1_000_000
AT_ONCE = 5          # seconds: a bound against hanging


@pytest.fixture(scope="session")
def fill():
    """`fill(mount, files, dirty)`: makes the catalog of a mount that has ended large, as catalog-filler says."""
    program = pathlib.Path(__file__).resolve().parents[2] / ".build/debug/catalog-filler"
    if not program.exists():
        pytest.fail(f"{program} does not exist: swift build makes it", pytrace=False)

    def fill(mount, files, per_folder, dirty):
        (catalog,) = mount.cache.glob("*/catalog.sqlite")
        run(program, catalog, files, per_folder, dirty, timeout=1200)

    return fill


def leave(mount):
    """Ends a mount; what is dirty stays for the next one."""
    for pid in mount.pids():
        os.kill(pid, signal.SIGTERM)
    mount.wait_for_end()


@pytest.mark.limit(1800)
def test_a_large_catalog_is_mounted_and_used_like_a_small_one(radosgw, mounts, network, fill, is_slow):
    files, dirty = (1_000_000, 100_000) if is_slow else (100_000, 10_000)
    store, net = network(radosgw)
    mount = mounts(store, cache=36_000, metadata_cache=36_000).start()
    (mount.data / "here").mkdir()
    (mount.data / "here" / "small").write_bytes(b"small")
    mount.sync()
    assert os.listdir(mount.data) == ["here"]
    leave(mount)

    def mounted():
        """What it asks of the store until it is mounted and has been looked at."""
        net.reset_count()
        mount.start()
        assert "here" in os.listdir(mount.data) and (mount.data / "here" / "small").stat().st_size == 5
        return net.requests()

    few = mounted()
    leave(mount)
    fill(mount, files, files // 2, dirty)
    assert mounted() == few
    # All that is answered from here is, also when the store does not answer.
    net.freeze()
    many = mount.data / "many"
    assert (many / "d0" / "f7").stat().st_size == 1000 and (many / "new" / "n7").stat().st_size == 0
    for command in (["ls", many], ["stat", many / "d1" / f"f{files - 1}"], ["cat", mount.data / "here" / "small"],
                    ["cat", mount.stats / "stats", mount.stats / "metrics", mount.stats / "errors", mount.config],
                    ["bash", "-ec", f"cd '{many}/d0'; echo > new; mv new ../d1/f{files - 2}; rm ../d1/f{files - 2}; "
                                    "mkdir x; rmdir x"],
                    [mount.binary, "status", mount.point]):
        run(*command, timeout=AT_ONCE)
    lines = (mount.stats / "notuploaded").read_text().splitlines()
    # The folder and its files, and one that was deleted.
    assert lines[0].startswith("/many/new\t") and len(lines) == min(dirty + 2, 100_000 + 1)
    status = mount.status()
    assert status["pending"]["items"] == dirty + 2 and status["cache"]["dirty_files"] == dirty
    net.thaw()
    # One small thing is brought to the store, and not the rest.
    (mount.data / "here" / "more").write_bytes(b"more")
    mount.sync(mount.data / "here")
    assert radosgw.read("here/more") == b"more"
    assert not [name for name in radosgw.names() if name.startswith("many/new/n")]
    # Whoever looks at everything makes the kernel, and so the program, know all of it.
    assert len(os.listdir(many / "d0")) == files // 2
    with os.scandir(many / "d1") as entries:
        assert sum(entry.stat().st_size for entry in entries) == (files // 2 - 1) * 1000
    now, most = mount.memory()
    assert most < 150 * MEGABYTE, f"{most / MEGABYTE:.0f} MB at most, {now / MEGABYTE:.0f} MB now"
    # The same after a crash.
    mount.kill()
    assert mounted() == few
    assert mount.status()["cache"]["dirty_files"] == dirty
    leave(mount)


@pytest.mark.limit(1800)
def test_a_store_directory_with_very_many_files(local, mounts, is_slow):
    """Its listing comes in piece by piece: memory is bounded, and who asks for one file does not wait for all."""
    count = 1_000_000 if is_slow else 30_000
    large = local.path / "large"
    large.mkdir()
    handle = os.open(large, os.O_PATH)
    for number in range(count):
        os.close(os.open(f"file-{number:07}", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)
    with os.scandir(large) as entries:
        first = next(entries).name
    mount = mounts(local, metadata_cache=3600, request_timeout=1200).start()
    assert (mount.data / "large" / first).stat().st_size == 0
    names = os.listdir(mount.data / "large")
    assert len(names) == count and len(set(names)) == count
    # What others have taken away goes, when it is listed again.
    mount.config.write_text(mount.config_text(metadata_cache=0))
    for number in range(0, count, 3):
        (large / f"file-{number:07}").unlink()
    left = count - len(range(0, count, 3))
    wait_until(lambda: len(os.listdir(mount.data / "large")) == left, 1200, "the files that are gone")
    _, most = mount.memory()
    assert most < 150 * MEGABYTE, f"{most / MEGABYTE:.0f} MB at most"
    mount.stop()
