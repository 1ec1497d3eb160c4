"""What survives a loss of power in each tier of durability, whatever of the unsynced has reached the disk."""

import errno
import os
import random

import powerloss
import pytest
from harness import describe, differences


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return powerloss.build(tmp_path_factory.mktemp("powerloss"))


NOTHING, EVERYTHING = 0, 1
# What reaches the disk of the unsynced: nothing; the catalog's log without the contents; the contents without the
# log; and halves, by chance.
FATES = {
    "nothing": lambda generator: lambda path: NOTHING,
    "only the catalog": lambda generator: lambda path: EVERYTHING if "catalog" in path.name else NOTHING,
    "only the contents": lambda generator: lambda path: NOTHING if "catalog" in path.name else EVERYTHING,
    "a torn log": lambda generator: lambda path: 0.5 if path.name.endswith("-wal") else NOTHING,
    "something": lambda generator: lambda path: generator.choice([NOTHING, EVERYTHING, generator.random()]),
}


def synced(path, content):
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.write(file, content)
    os.fsync(file)
    os.close(file)


def sync_directory(path):
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(file)
    os.close(file)


def remove_what_is_lost(mount, certain):
    """Files that nobody asked to keep may be lost. Then they cannot be read, and sync names them; nothing else."""
    lost = []
    for path in [path for path in mount.data.rglob("*") if path.is_file()]:
        try:
            path.read_bytes()
        except OSError as error:
            assert error.errno == errno.EIO
            lost.append(path)
    assert not {str(path.relative_to(mount.data)) for path in lost} & certain.keys()
    if lost:
        done = mount.cli("sync", mount.point, check=False, timeout=100)
        assert done.returncode == 1
        waiting = (mount.stats / "notuploaded").read_text()
        assert all(str(path.relative_to(mount.data)) in waiting for path in lost)
    for path in lost:
        path.unlink()


@pytest.mark.limit(300)
@pytest.mark.parametrize("fate", FATES)
def test_what_was_synced_survives_a_loss_of_power(fate, store, mounts, folder, library, is_slow):
    generator = random.Random(fate)
    mount = mounts(store, cache=3600, cache_dir=folder / "disk")
    mount.cache.mkdir()
    disk = powerloss.Disk(mount.cache, folder / "images", library)
    mount.environment = disk.environment
    certain = {}
    for round in range(20 if is_slow else 4):
        mount.start()
        found = {name: (mount.data / name).read_bytes() for name in certain}
        assert [name for name in certain if found[name] != certain[name]] == [], f"in round {round}"
        folder_name = f"d{round}"
        (mount.data / folder_name).mkdir()
        for index in range(30):
            name = f"{folder_name}/f{index}"
            content = generator.randbytes(generator.choice([0, 1, 4096, 10_000, 300_000]))
            # Changes that nobody asks to keep, before and after those that somebody does.
            (mount.data / folder_name / f"loose{index}").write_bytes(generator.randbytes(20_000))
            synced(mount.data / name, content)
            certain[name] = content
            if index % 5 == 1:
                (mount.data / name).rename(mount.data / folder_name / f"renamed{index}")
                sync_directory(mount.data / folder_name)
                certain[f"{folder_name}/renamed{index}"] = certain.pop(name)
            if index % 5 == 2:
                synced(mount.data / name, content[::-1] + b"longer")
                certain[name] = content[::-1] + b"longer"
            if index % 5 == 3:
                # As databases write: in place, and a flush of the data only.
                file = os.open(mount.data / name, os.O_RDWR)
                os.pwrite(file, b"in place", 5000)
                os.fdatasync(file)
                os.close(file)
                certain[name] = content[:5000].ljust(5000, b"\0") + b"in place" + content[5008:]
        # What others, and this mount, may still have under way.
        file = os.open(mount.data / folder_name / "open", os.O_RDWR | os.O_CREAT)
        os.write(file, generator.randbytes(100_000))
        mount.kill()
        try:
            os.close(file)
        except OSError:
            pass                                         # the mount is gone: that is the point
        disk.lose_power(FATES[fate](generator))
    mount.start()
    assert {name: (mount.data / name).read_bytes() for name in certain} == certain
    remove_what_is_lost(mount, certain)
    mount.sync()
    names = store.names()
    assert [name for name in certain if names.get(name) != len(certain[name])] == []
    for name in generator.sample(sorted(certain), 10):
        assert store.read(name) == certain[name], name
    expected = {os.fsencode(name) for name in certain}
    seen = describe(mount.data)
    mount.stop()
    fresh = mounts(store).start()
    again = describe(fresh.data)
    assert differences({name: seen[name] for name in seen if name in expected},
                       {name: again[name] for name in again if name in expected}) == []
    fresh.stop()


def powered(mounts, store, folder, library, **options):
    """A mount whose disk can lose the power, and that disk."""
    mount = mounts(store, cache=3600, cache_dir=folder / "disk", **options)
    mount.cache.mkdir()
    disk = powerloss.Disk(mount.cache, folder / "images", library)
    mount.environment = disk.environment
    return mount, disk


@pytest.mark.limit(300)
@pytest.mark.parametrize("fate", FATES)
def test_in_the_remote_tier_what_was_closed_survives_a_loss_of_power(fate, store, mounts, folder, library):
    generator = random.Random(fate)
    mount, disk = powered(mounts, store, folder, library, durability="remote")
    certain = {}
    for round in range(3):
        mount.start()
        assert {name: (mount.data / name).read_bytes() for name in certain} == certain, f"in round {round}"
        for index in range(8):
            name = f"f{round}-{index}"
            content = generator.randbytes(generator.choice([1, 4096, 300_000]))
            if index % 2:
                synced(mount.data / name, content)
            else:
                (mount.data / name).write_bytes(content)
            certain[name] = content
        # In place, where the store has an older version of the file and the cache its bytes.
        for name in generator.sample(sorted(certain), 3):
            with open(mount.data / name, "r+b") as file:
                file.write(b"in place")
            certain[name] = b"in place" + certain[name][8:]
        assert {name: store.read(name) for name in certain} == certain
        mount.kill()
        disk.lose_power(FATES[fate](generator))
    mount.start()
    assert {name: (mount.data / name).read_bytes() for name in certain} == certain
    mount.sync()
    assert sorted(store.names()) == sorted(certain), "the store has what nobody has written"
    mount.stop()


@pytest.mark.limit(300)
@pytest.mark.parametrize("fate", FATES)
def test_in_the_writeback_tier_the_mount_comes_up_after_a_loss_of_power(fate, store, mounts, folder, library):
    generator = random.Random(fate)
    mount, disk = powered(mounts, store, folder, library, durability="writeback")
    mount.start()
    kept = {f"kept{index}": generator.randbytes(5_000) for index in range(5)}
    for name, content in kept.items():
        (mount.data / name).write_bytes(content)
    mount.sync()
    for round in range(3):
        for index in range(20):
            synced(mount.data / f"f{index}", generator.randbytes(generator.choice([0, 1, 10_000, 200_000])))
            sync_directory(mount.data)
        mount.kill()
        disk.lose_power(FATES[fate](generator))
        mount.start()
        remove_what_is_lost(mount, kept)
    # Nothing is promised of what was written since the last sync; what is there can be used and brought to the store.
    assert {name: (mount.data / name).read_bytes() for name in kept} == kept
    synced(mount.data / "new", b"new")
    mount.sync()
    seen = describe(mount.data)
    mount.stop()
    fresh = mounts(store).start()
    assert differences(seen, describe(fresh.data)) == []
    fresh.stop()


def cached(path):
    """How many bytes of the file are in the cache, and are believed."""
    return int(os.getxattr(path, "user.cloudfusion.cached"))


@pytest.mark.limit(300)
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("tier", ["writeback", "local"])
def test_what_is_on_the_store_is_read_as_it_is_there_after_a_loss_of_power(tier, fate, store, mounts, folder, library):
    generator = random.Random(f"{tier} {fate}")
    mount, disk = powered(mounts, store, folder, library, durability=tier)
    mount.start()
    expected = {}
    for round in range(3):
        for index in range(12):
            name = f"f{round}-{index}"
            expected[name] = generator.randbytes(generator.choice([1, 4096, 10_000, 300_000]))
            (mount.data / name).write_bytes(expected[name])
        mount.sync()
        # In place, and anew with as many bytes: what is left of the old ones has the right length.
        for name in generator.sample(sorted(expected), 6):
            with open(mount.data / name, "r+b") as file:
                file.seek(len(expected[name]) // 2)
                file.write(b"!")
            middle = len(expected[name]) // 2
            expected[name] = expected[name][:middle] + b"!" + expected[name][middle + 1:]
        for name in generator.sample(sorted(expected), 6):
            expected[name] = generator.randbytes(len(expected[name]))
            (mount.data / name).write_bytes(expected[name])
        mount.sync()
        mount.kill()
        disk.lose_power(FATES[fate](generator))
        mount.start()
        found = {name: (mount.data / name).read_bytes() for name in expected}
        assert [name for name in expected if found[name] != expected[name]] == [], f"in round {round}"
    mount.sync()
    assert {name: store.read(name) for name in store.names()} == expected
    mount.stop()


def test_only_what_was_not_flushed_is_fetched_again_after_a_loss_of_power(store, mounts, folder, library):
    mount, disk = powered(mounts, store, folder, library)

    def write(name):
        (mount.data / name).write_bytes(name.encode() * 1000)

    def believed():
        return {path.name for path in mount.data.iterdir() if cached(path) > 0}

    mount.start()
    write("kept")
    mount.sync()
    mount.kill()
    mount.start()
    assert believed() == {"kept"}, "the end of the program is no loss of power"
    mount.stop()
    # Nothing but what was brought to the disk survives: an orderly end brings everything there.
    disk.lose_power(FATES["nothing"](None))
    mount.start()
    assert believed() == {"kept"}
    for name in ("synced", "synced later", "loose"):
        write(name)
    file = os.open(mount.data / "synced", os.O_RDONLY)
    os.fsync(file)
    os.close(file)
    mount.sync()
    file = os.open(mount.data / "synced later", os.O_RDONLY)
    os.fsync(file)
    os.close(file)
    mount.kill()
    disk.lose_power(FATES["nothing"](None))
    mount.start()
    assert believed() == {"kept", "synced", "synced later"}
    names = {"kept", "synced", "synced later", "loose"}
    assert {name: (mount.data / name).read_bytes() for name in names} == {name: name.encode() * 1000 for name in names}
    mount.stop()
    # What was fetched is on the disk before the catalog says so.
    disk.lose_power(FATES["nothing"](None))
    mount.start()
    assert believed() == names
    mount.stop()
