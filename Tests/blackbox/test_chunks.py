"""Mounts with `type = chunk`: small files in tar archives on the store."""

import os
import pathlib
import random
import shutil
import stat
import sys
import textwrap

import pytest
from clock import Clock
from harness import describe, differences, run
from rigs.processes import wait_until

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "extract-chunks.sh"


def make_tree(root, folders=20, files=50, size=4096):
    for index in range(folders * files):
        path = root / f"d{index % folders:02}" / f"f{index:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(index).randbytes(size))


def chunks_of(store):
    return sorted(path.name for path in (store.path / ".cloudfusion" / "chunks").iterdir())


def extract(store, target):
    """What GNU tar makes of the chunks, by the script of the documentation, with the plain objects beside them."""
    target.mkdir()
    run("sh", SCRIPT, store.path / ".cloudfusion" / "chunks", target, timeout=100)
    for path in store.path.rglob("*"):
        if path.is_file() and ".cloudfusion" not in path.relative_to(store.path).parts:
            (target / path.relative_to(store.path)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / path.relative_to(store.path))
    return target


def names_of_files(root):
    """The sets of names that are one file each."""
    names = {}
    for path in root.rglob("*"):
        if stat.S_ISREG((status := path.lstat()).st_mode):
            names.setdefault(status.st_ino, set()).add(str(path.relative_to(root)))
    return sorted((several for several in names.values() if len(several) > 1), key=sorted)


def without_times_of_folders(tree):
    """Extracting whiteouts changes them, and so does what is put into folders after they were packed."""
    return {path: {name: value for name, value in facts.items() if name != "time" or not stat.S_ISDIR(facts["kind"])}
            for path, facts in tree.items()}


@pytest.mark.limit(240)
def test_ten_thousand_small_files_take_a_few_requests(radosgw, mounts, network, folder):
    make_tree(folder / "source", folders=200)
    through, proxy = network(radosgw, latency_ms=15)
    mount = mounts(through, cache=600, metadata_cache=600, type="chunk").start()
    proxy.reset_count()
    shutil.copytree(folder / "source", mount.data / "in")
    mount.sync()
    sent = sum(proxy.requests().values())
    assert sent <= 40, proxy.requests()
    assert all(name.startswith(".cloudfusion/") for name in radosgw.names())
    proxy.reset_count()
    os.rename(mount.data / "in", mount.data / "out")
    mount.sync()
    assert sum(proxy.requests().values()) <= 60, proxy.requests()
    seen = describe(mount.data)
    mount.stop()

    cold = mounts(through, metadata_cache=600, type="chunk").start()
    proxy.reset_count()
    done = run("bash", "-c", f"tar --create --file - --directory '{cold.data}' . | tar --compare --directory "
               f"'{cold.data}' --file -", timeout=100)
    assert done.stdout == ""
    assert sum(proxy.requests().values()) <= 60, proxy.requests()
    assert differences(seen, describe(cold.data)) == []
    source = {b"out/" + name: facts for name, facts in describe(folder / "source", times=False).items()}
    assert differences(source, {name: facts for name, facts in describe(cold.data, times=False).items()
                                if name != b"out"}) == []
    cold.stop()


class History:
    """Random changes of a tree, as people make them."""

    def __init__(self, root, seed):
        self.root, self.random = root, random.Random(seed)
        self.names = [f"n{index}" for index in range(12)] + ["ü 日", "-dash", "white\tspace", "x" * 200]

    def folders(self):
        return [self.root] + [pathlib.Path(top) / name for top, names, _ in os.walk(self.root) for name in names
                              if not (pathlib.Path(top) / name).is_symlink()]

    def entries(self):
        return [pathlib.Path(top) / name for top, folders, files in os.walk(self.root) for name in folders + files]

    def step(self):
        pick = self.random.choice
        target = pick(self.folders()) / pick(self.names)
        entries = self.entries()
        what = self.random.random()
        try:
            if what < 0.4:
                target.write_bytes(self.random.randbytes(pick([0, 10, 3000, 60_000, 150_000])))
                target.chmod(pick([0o600, 0o644, 0o755]))
            elif what < 0.5 and len(self.folders()) < 15:
                target.mkdir()
            elif what < 0.55:
                target.symlink_to(pick(["n1", "../n2", "/nowhere"]))
            elif not entries:
                pass
            elif what < 0.75:
                os.rename(pick(entries), target)
            elif what < 0.9:
                entry = pick(entries)
                entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            elif what < 0.93:
                os.link(pick(entries), target)
            elif what < 0.96:
                os.utime(pick(entries), ns=(1, self.random.randrange(2 * 10**18)), follow_symlinks=False)
            else:
                entry = pick(entries)
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
        except OSError:
            pass


@pytest.mark.limit(400)
@pytest.mark.parametrize("seed", [1, 2])
def test_gnu_tar_sees_what_the_mount_shows(seed, local, mounts, folder, is_slow):
    if os.getuid() != 0:
        pytest.skip("needs root: tar gives files to their owners")
    mount = mounts(local, cache=600, type="chunk", small_file_limit=100).start()
    history = History(mount.data, seed)
    for number in range(5_000 if is_slow else 500):
        history.step()
        if history.random.random() < 0.03:
            mount.sync()
    mount.sync()
    seen = without_times_of_folders(describe(mount.data))
    assert len(chunks_of(local)) > 5
    tar = extract(local, folder / "tar")
    assert differences(seen, without_times_of_folders(describe(tar))) == []
    mount.stop()
    cold = mounts(local, type="chunk").start()
    assert differences(seen, without_times_of_folders(describe(cold.data))) == []
    cold.stop()


def wrong(directory, expected):
    """How the files of a directory differ from what was written, by name."""
    found = {path.name: path.read_bytes() for path in directory.iterdir()}

    def told(content):
        return "absent" if content is None else f"{len(content)} bytes {content[:4].hex()}"

    return [f"{name}: {told(found.get(name))} in place of {told(expected.get(name))}"
            for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]


@pytest.mark.limit(300)
def test_what_was_closed_survives_kill_9_at_any_moment(store, mounts, is_slow):
    generator = random.Random(store.name)
    mount = mounts(store, cache=0, type="chunk", max_chunk_size=1)
    kept = {}
    for round in range(40 if is_slow else 6):
        mount.start()
        assert wrong(mount.data, kept) == [], f"in round {round}"
        moment = generator.randrange(150)
        for index in range(moment):
            name = f"f{generator.randrange(300)}"
            what = generator.random()
            if what < 0.7 or not kept:
                kept[name] = generator.randbytes(generator.choice([0, 100, 20_000, 100_000]))
                (mount.data / name).write_bytes(kept[name])
                continue
            # What lies there may be under way to the store.
            victim = generator.choice(sorted(kept))
            if what < 0.85:
                (mount.data / victim).unlink()
                del kept[victim]
            elif victim != name:
                (mount.data / victim).rename(mount.data / name)
                kept[name] = kept.pop(victim)
        mount.kill()
    mount.start()
    mount.sync()
    assert "conflict" not in (mount.stats / "errors").read_text()
    mount.stop()
    cold = mounts(store, type="chunk").start()
    assert wrong(cold.data, kept) == []
    cold.stop()


def test_both_forms_are_read_and_changed_whatever_the_type(store, mounts):
    plain = mounts(store, cache=600).start()
    make_tree(plain.data / "plain", folders=2, files=5)
    plain.stop()
    packing = mounts(store, cache=600, type="chunk").start()
    assert len(list((packing.data / "plain" / "d00").iterdir())) == 5
    make_tree(packing.data / "packed", folders=2, files=5)
    (packing.data / "plain" / "d00" / "f0000").write_bytes(b"packed now")
    os.rename(packing.data / "plain" / "d01", packing.data / "packed" / "moved")
    (packing.data / "large").write_bytes(bytes(200_000))
    packing.sync()
    seen = without_times_of_folders(describe(packing.data))
    packing.stop()
    assert {"large"} <= set(store.names()) and "packed/d00/f0000" not in store.names()

    plain = mounts(store, cache=600).start()
    assert differences(seen, without_times_of_folders(describe(plain.data))) == []
    (plain.data / "packed" / "d00" / "f0000").write_bytes(b"an object of its own")
    (plain.data / "packed" / "d00" / "f0002").unlink()
    os.rename(plain.data / "packed" / "d01", plain.data / "away")
    plain.sync()
    seen = without_times_of_folders(describe(plain.data))
    plain.stop()
    assert store.read("packed/d00/f0000") == b"an object of its own"

    again = mounts(store, type="chunk").start()
    assert differences(seen, without_times_of_folders(describe(again.data))) == []
    again.stop()


@pytest.mark.parametrize("store", ["local", "radosgw", "sftp"], indirect=True)
def test_machines_on_one_store_see_each_other(store, mounts):
    options = {"cache": 0, "metadata_cache": 1, "type": "chunk"}
    first, second = mounts(store, **options).start(), mounts(store, **options).start()
    (first.data / "from-first").write_bytes(b"one")
    (second.data / "from-second").write_bytes(b"two")
    first.sync()
    second.sync()
    for mount in first, second:
        wait_until(lambda: {path.name: path.read_bytes() for path in mount.data.iterdir()}
                   == {"from-first": b"one", "from-second": b"two"}, 30, "both files")
    (first.data / "from-second").write_bytes(b"changed by the first")
    first.sync()
    wait_until(lambda: (second.data / "from-second").read_bytes() == b"changed by the first", 30, "the change")
    first.stop()
    second.stop()


def test_restore_makes_the_tree_without_a_mount(store, mounts, binary, folder):
    mount = mounts(store, cache=600, type="chunk").start()
    history = History(mount.data, 7)
    for _ in range(200):
        history.step()
    (mount.data / "large").write_bytes(bytes(300_000))
    os.mkfifo(mount.data / "fifo")
    (mount.data / "one").write_bytes(b"a file with two names")
    os.link(mount.data / "one", mount.data / "two")
    mount.sync()
    seen = without_times_of_folders(describe(mount.data))
    names = names_of_files(mount.data)
    mount.stop()
    target = folder / "restored"
    done = run(binary, "restore", "--config", mount.config_file, "other.ini", target, check=False)
    assert done.returncode == 2 and "both name a store" in done.stderr and not target.exists()
    done = run(binary, "restore", mount.config_file, target, timeout=100)
    assert differences(seen, without_times_of_folders(describe(target))) == []
    assert names_of_files(target) == names and {"one", "two"} in names
    assert os.listxattr(target / "one") == []
    files = sum(not stat.S_ISDIR(facts["kind"]) for facts in seen.values())
    assert done.stderr.splitlines()[-1].startswith(f"{files} files, ")
    again = run(binary, "restore", mount.config_file, target, check=False)
    assert again.returncode == 1 and "is not empty" in again.stderr


def fill_and_delete(mount):
    """Makes archives of which little is needed."""
    for round in range(4):
        for index in range(60):
            (mount.data / f"f{index}").write_bytes(random.Random(round * 100 + index).randbytes(20_000))
        mount.sync()
    for index in range(50):
        (mount.data / f"f{index}").unlink()
    mount.sync()


def size_of_chunks(store):
    return sum(path.stat().st_size for path in store.path.rglob("*.tar"))


def test_gc_frees_the_room_of_what_was_deleted(local, mounts, binary, folder):
    mount = mounts(local, cache=600, type="chunk", max_chunk_size=1).start()
    fill_and_delete(mount)
    before = size_of_chunks(local)
    # What another machine may not have seen yet stays for an hour.
    done = run(binary, "gc", mount.config_file, timeout=60)
    assert done.stdout.startswith("removed: 0 archives, ") and "when they are an hour old" in done.stdout
    assert size_of_chunks(local) > before
    clock = Clock(folder)
    clock.turn(7200)
    done = run(binary, "gc", mount.config_file, timeout=60, env={**os.environ, **clock.environment})
    assert done.stdout.startswith("removed: ") and not done.stdout.startswith("removed: 0")
    assert size_of_chunks(local) < before / 8
    # The mount goes on, and so does a new one, and what tar makes of it.
    seen = without_times_of_folders(describe(mount.data))
    (mount.data / "new").write_bytes(b"after it")
    mount.sync()
    seen[b"new"] = without_times_of_folders(describe(mount.data))[b"new"]
    mount.stop()
    if os.getuid() == 0:
        assert differences(seen, without_times_of_folders(describe(extract(local, folder / "tar")))) == []
    cold = mounts(local, type="chunk").start()
    assert differences(seen, without_times_of_folders(describe(cold.data))) == []
    cold.stop()
    assert run(binary, "gc", mount.config_file, timeout=60).stdout.startswith("removed: 0 archives, 0 ")


def counted(mount, name):
    """A figure of stats/metrics."""
    (value,) = [line.split()[1] for line in (mount.stats / "metrics").read_text().splitlines()
                if line.startswith(f"cloudfusion_{name} ")]
    return int(float(value))


def test_a_mount_frees_by_itself_the_room_of_what_was_deleted(local, mounts, folder):
    clock = Clock(folder)
    mount = mounts(local, cache=600, type="chunk", max_chunk_size=1)
    mount.environment = clock.environment
    mount.start()
    fill_and_delete(mount)
    before, seen = size_of_chunks(local), without_times_of_folders(describe(mount.data))
    wait_until(lambda: counted(mount, "archives_packed_anew_total"), 60, "archives being packed anew")
    assert counted(mount, "archives_deleted_total") == 0
    clock.turn(7200)
    wait_until(lambda: size_of_chunks(local) < before / 8, 60, "archives being deleted")
    wait_until(lambda: counted(mount, "archives_deleted_total"), 10, "the deletion being counted")
    assert differences(seen, without_times_of_folders(describe(mount.data))) == []
    mount.stop()
    cold = mounts(local, type="chunk").start()
    assert differences(seen, without_times_of_folders(describe(cold.data))) == []
    cold.stop()


MEGABYTE = 1_000_000


@pytest.mark.limit(7200)
def test_very_many_small_files_come_back_from_the_store_alone(radosgw, mounts, network, is_slow):
    count, per_folder = (1_000_000 if is_slow else 20_000), 1_000
    through, proxy = network(radosgw, latency_ms=15)
    options = {"cache": 600, "metadata_cache": 3600, "type": "chunk"}
    mount = mounts(through, **options).start()
    script = """
        import os, sys
        for folder in range(int(sys.argv[2])):
            path = f"{sys.argv[1]}/d{folder:04}"
            os.mkdir(path)
            for number in range(int(sys.argv[3])):
                file = os.open(f"{path}/f{number:04}", os.O_CREAT | os.O_WRONLY)
                os.write(file, f"{folder} {number} ".encode().ljust(100, b"."))
                os.close(file)
        """
    proxy.reset_count()
    run(sys.executable, "-c", textwrap.dedent(script), mount.data, count // per_folder, per_folder, timeout=3600)
    mount.sync(timeout=3600)
    # Each archive takes a few thousand files.
    sent = sum(proxy.requests().values())
    assert sent <= 40 + count // 400, proxy.requests()
    filled = mount.memory()[1]
    mount.stop()

    cold = mounts(through, **options)
    proxy.reset_count()
    cold.start(timeout=300)
    assert len(os.listdir(cold.data)) == count // per_folder
    # A snapshot, and the heads of the archives after it.
    assert sum(proxy.requests().values()) <= 40 + 2 * 64, proxy.requests()
    proxy.reset_count()
    done = run("bash", "-c", f"find '{cold.data}' -type f -size 1 | wc -l", timeout=3600)
    assert int(done.stdout) == count
    assert sum(proxy.requests().values()) <= 10, proxy.requests()
    for folder in range(0, count // per_folder, 7):
        assert (cold.data / f"d{folder:04}" / "f0123").read_bytes() == f"{folder} 123 ".encode().ljust(100, b".")
    most = cold.memory()[1]
    assert max(most, filled) < 300 * MEGABYTE, f"{filled / MEGABYTE:.0f} MB to fill it, {most / MEGABYTE:.0f} MB to read"
    cold.stop()
