"""What is left on this machine may be damaged or gone: the mount says so, and no acknowledged bytes are dropped."""

import errno
import os
import random
import shutil
import sqlite3

import pytest


class Damaged:
    """A mount with a cache in which everything is: what is on the store, what is not, and what is in part; killed."""

    def __init__(self, mounts, store):
        self.store = store
        self.mount = mounts(store, cache=3600).start()
        self.uploaded = {f"up/{index}": b"uploaded %d" % index * 50 for index in range(40)}
        self.dirty = {f"new/{index}": b"not uploaded %d" % index * 60 for index in range(30)}
        self.dirty["up/3"] = b"changed since it was uploaded" * 9
        for name, content in self.uploaded.items():
            self.write(name, content)
        self.write("large", random.Random(4).randbytes(3 << 20))
        self.mount.sync()
        for name, content in self.dirty.items():
            self.write(name, content)
        os.rename(self.mount.data / "up/5", self.mount.data / "renamed")

    def write(self, name, content):
        path = self.mount.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    @property
    def cache(self):
        [folder] = [path for path in self.mount.cache.iterdir() if (path / "lock").exists()]
        return folder

    @property
    def catalog(self):
        return self.cache / "catalog.sqlite"

    def end(self, cleanly):
        if cleanly:
            self.mount.pids() and os.kill(self.mount.pids()[0], 15)
            self.mount.wait_for_end()
        else:
            self.mount.kill()

    def kept(self):
        """What lies in `recovered`: the contents of its files."""
        return [path.read_bytes() for path in self.cache.glob("recovered/*/files/*")]

    def check_that_nothing_is_lost(self):
        """Each file has its bytes under its name, in the mount and in the end on the store; or they are kept aside."""
        kept = self.kept()
        data = self.mount.data
        for name, content in self.dirty.items():
            there = [path.read_bytes() for path in (data / name, *data.glob(f"recovered-*/{os.path.basename(name)}"))
                     if path.exists()]
            assert content in there + kept, f"{name} is lost"
        for name, content in self.uploaded.items():
            if name not in self.dirty and name != "up/5":
                assert (data / name).read_bytes() == content, name
        assert self.uploaded["up/5"] in [
            (data / name).read_bytes() for name in ["renamed", "up/5"] if (data / name).exists()]
        assert (data / "large").read_bytes() == random.Random(4).randbytes(3 << 20)
        self.mount.sync()
        on_store = self.store.names()
        for name, content in self.dirty.items():
            if content not in kept:
                names = [other for other in on_store
                         if other == name or other.startswith("recovered-") and other.endswith("/" + name[4:])]
                assert content in [self.store.read(other) for other in names], f"{name} is not on the store"

    def check_message(self):
        said = (self.mount.stats / "errors").read_text()
        assert "catalog" in said and "recovered" in said, said
        log = (self.cache / "log").read_text() + self.mount.log.read_text()
        assert "rebuilt" in log, log

    def count_named(self):
        return sum((self.mount.data / name).exists() for name in self.dirty)


def zero_pages(damaged):
    """Every third page of the database, but for the first."""
    size = damaged.catalog.stat().st_size // 2048
    with open(damaged.catalog, "r+b") as file:
        for page in range(1, size, 3):
            file.seek(page * 2048)
            file.write(bytes(2048))


def zero_the_first_page(damaged):
    with open(damaged.catalog, "r+b") as file:
        file.write(bytes(2048))


def cut_off(damaged):
    os.truncate(damaged.catalog, damaged.catalog.stat().st_size // 2 // 2048 * 2048)


def random_bytes(damaged):
    damaged.catalog.write_bytes(random.Random(5).randbytes(damaged.catalog.stat().st_size))


def empty(damaged):
    os.truncate(damaged.catalog, 0)


def delete(damaged):
    damaged.catalog.unlink()


def delete_everything(damaged):
    for path in damaged.cache.glob("catalog.sqlite*"):
        path.unlink()


def directory_in_its_place(damaged):
    damaged.catalog.unlink()
    damaged.catalog.mkdir()
    (damaged.catalog / "something").write_text("of somebody")


def another_database(damaged):
    damaged.catalog.unlink()
    database = sqlite3.connect(damaged.catalog)
    database.execute("CREATE TABLE recipes(name)")
    database.commit()
    database.close()


DAMAGES = [zero_pages, zero_the_first_page, cut_off, random_bytes, empty, delete, delete_everything,
           directory_in_its_place, another_database]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_catalog_damaged_after_a_clean_end(damage, store, mounts):
    damaged = Damaged(mounts, store)
    damaged.end(cleanly=True)
    damage(damaged)
    found = damaged.catalog.read_bytes() if damaged.catalog.is_file() and damage is not another_database else b""
    damaged.mount.start()
    damaged.check_message()
    damaged.check_that_nothing_is_lost()
    if found:
        [old] = damaged.cache.glob("recovered/*/catalog.sqlite")
        assert old.read_bytes() == found, "the damaged catalog is not kept as it was"
    if damage is zero_the_first_page:
        assert damaged.count_named() == len(damaged.dirty), "names that could be read were not taken over"
    damaged.mount.stop()


def delete_the_log(damaged):
    (damaged.cache / "catalog.sqlite-wal").unlink()


def empty_the_log(damaged):
    os.truncate(damaged.cache / "catalog.sqlite-wal", 0)


def delete_the_database_but_not_its_log(damaged):
    damaged.catalog.unlink()


def random_log(damaged):
    log = damaged.cache / "catalog.sqlite-wal"
    log.write_bytes(random.Random(6).randbytes(log.stat().st_size))


@pytest.mark.parametrize(
    "damage", [delete_the_log, empty_the_log, delete_the_database_but_not_its_log, random_log, zero_the_first_page, delete_everything],
    ids=lambda damage: damage.__name__)
def test_a_catalog_damaged_after_a_crash(damage, store, mounts):
    damaged = Damaged(mounts, store)
    damaged.end(cleanly=False)
    damage(damaged)
    damaged.mount.start()
    if damage is not zero_the_first_page:          # which the log still has
        damaged.check_message()
    damaged.check_that_nothing_is_lost()
    if damage in (delete_the_database_but_not_its_log, zero_the_first_page):
        assert damaged.count_named() == len(damaged.dirty), "the log had everything"
    damaged.mount.stop()


def test_what_cannot_be_attributed_is_listed(local, mounts):
    damaged = Damaged(mounts, local)
    damaged.end(cleanly=False)
    delete_everything(damaged)
    damaged.mount.start()
    [listing] = damaged.cache.glob("recovered/*/list.txt")
    text = listing.read_text()
    for path in damaged.cache.glob("recovered/*/files/*"):
        assert f"files/{path.name}\t{path.stat().st_size} bytes" in text
        assert path.stat().st_mode & 0o077 == 0
    assert listing.stat().st_mode & 0o077 == 0 and listing.parent.stat().st_mode & 0o077 == 0
    kept = [path for path in damaged.cache.glob("recovered/**/*") if path.is_file()]
    files = [path for path in kept if path.parent.name == "files"]
    told = damaged.mount.status()["cache"]
    assert told["recovered_files"] == len(files) > 0
    assert told["recovered_bytes"] == sum(path.stat().st_size for path in kept)
    assert f"{len(files)} files, " in (damaged.mount.stats / "stats").read_text()
    assert f"cloudfusion_recovered_files {len(files)}" in (damaged.mount.stats / "metrics").read_text()
    assert {path.parent.name for path in kept} <= {"files", listing.parent.name}, "something of the repair was left"
    # It is the user's to remove, at any time.
    shutil.rmtree(damaged.cache / "recovered")
    assert "put aside" not in (damaged.mount.stats / "stats").read_text()
    # New files get numbers of their own: nothing of the old bytes shows up in them.
    (damaged.mount.data / "fresh").write_bytes(b"fresh")
    os.truncate(damaged.mount.data / "fresh", 100_000)
    assert (damaged.mount.data / "fresh").read_bytes() == b"fresh".ljust(100_000, b"\0")
    damaged.mount.stop()


def test_a_catalog_damaged_while_it_is_in_use_is_rebuilt_at_the_next_mount(local, mounts):
    damaged = Damaged(mounts, local)
    damaged.end(cleanly=True)
    damaged.mount.start()
    names = sorted(os.listdir(damaged.mount.data / "new"))
    with open(damaged.catalog, "r+b") as file:
        file.seek(4096)
        file.write(random.Random(7).randbytes(damaged.catalog.stat().st_size - 4096))
    damaged.mount.kill()
    damaged.mount.start()
    damaged.check_message()
    damaged.check_that_nothing_is_lost()
    assert len(names) == 30
    damaged.mount.stop()


# MARK: cache files

def cache_file(mount, path):
    """The file in the cache that has the bytes of a file in the mount."""
    number = os.stat(mount.data / path).st_ino
    [found] = mount.cache.glob(f"*/content/*/{number}")
    return found


def test_a_clean_cache_file_that_is_deleted_or_cut_off_is_fetched_again(store, mounts):
    mount = mounts(store, cache=0).start()
    contents = {name: random.Random(name).randbytes(300_000) for name in ("gone", "cut", "empty")}
    for name, content in contents.items():
        (mount.data / name).write_bytes(content)
    mount.sync()
    files = {name: cache_file(mount, name) for name in contents}
    mount.kill()
    files["gone"].unlink()
    os.truncate(files["cut"], 1000)
    os.truncate(files["empty"], 0)
    mount.start()
    for name, content in contents.items():
        assert (mount.data / name).read_bytes() == content, name
    mount.sync()
    mount.stop()
    assert [store.read(name) for name in contents] == list(contents.values())


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_dirty_cache_file_that_is_deleted_or_cut_off_is_an_honest_error(damage, store, mounts):
    mount = mounts(store, cache=3600).start()
    (mount.data / "whole").write_bytes(b"untouched")
    (mount.data / "victim").write_bytes(b"the first version")
    mount.sync()
    (mount.data / "victim").write_bytes(random.Random(8).randbytes(200_000))
    file = cache_file(mount, "victim")
    mount.kill()
    file.unlink() if damage == "gone" else os.truncate(file, 4096)
    mount.start()
    with pytest.raises(OSError) as caught:
        (mount.data / "victim").read_bytes()
    assert caught.value.errno == errno.EIO
    assert "/victim\t" in (mount.stats / "notuploaded").read_text()
    done = mount.cli("sync", mount.point, check=False)
    assert done.returncode == 1 and "victim" in done.stderr
    errors = (mount.stats / "errors").read_text()
    assert str(file) in errors
    assert store.read("victim") == b"the first version", "something else was sent in place of the lost bytes"
    assert (mount.data / "whole").read_bytes() == b"untouched"
    done = mount.cli("fsck", "--config", mount.config_file, check=False)
    assert done.returncode == 8 and "in use" in done.stderr
    os.kill(mount.pids()[0], 15)
    mount.wait_for_end()
    done = mount.cli("fsck", "--repair", "--config", mount.config_file, check=False)
    assert done.returncode == 4 and "/victim" in done.stdout, done
    mount.start()
    (mount.data / "victim").unlink()
    mount.sync()
    mount.stop()
    assert "victim" not in store.names()


# MARK: fsck

def fsck(mount, *flags):
    return mount.cli("fsck", "--config", mount.config_file, *flags, check=False)


def rows(damaged, sql, *values):
    database = sqlite3.connect(damaged.catalog)
    try:
        found = database.execute(sql, values).fetchall()
        database.commit()
        return found
    finally:
        database.close()


def test_fsck_says_that_a_whole_cache_is_whole(store, mounts):
    damaged = Damaged(mounts, store)
    done = fsck(damaged.mount)
    assert done.returncode == 8 and "in use" in done.stderr, done
    for cleanly in (False, True):
        damaged.end(cleanly)
        content = damaged.catalog.read_bytes()
        for arguments in (["--config", damaged.mount.config_file], [damaged.mount.config_file], [damaged.cache],
                          [store.url, *(["-o", f"region={store.region},endpoint={store.endpoint}"]
                                        if store.name != "local" else []), "-o", f"cache_dir={damaged.mount.cache}"]):
            done = damaged.mount.cli("fsck", *arguments, check=False)
            assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
            assert "whole" in done.stdout
        assert damaged.catalog.read_bytes() == content, "a mere look has changed something"
        done = fsck(damaged.mount, "--repair")
        assert done.returncode == 0, done
        assert not (damaged.cache / "recovered").exists()
        damaged.mount.start()
    damaged.check_that_nothing_is_lost()
    damaged.mount.stop()
    assert fsck(damaged.mount).returncode == 0


def test_fsck_of_what_is_no_cache(mounts, local, folder):
    mount = mounts(local)
    mount.write_config()
    done = mount.cli("fsck", folder, check=False)
    assert done.returncode == 8 and "no cache" in done.stderr
    assert mount.cli("fsck", check=False).returncode == 2
    assert mount.cli("fsck", "s3:/", check=False).returncode in (1, 2)


BREAKS = {
    "an entry without inode":
        "DELETE FROM inode WHERE id = (SELECT inode FROM entry WHERE name = CAST('7' AS BLOB) LIMIT 1)",
    "a dirty file without entry": "DELETE FROM entry WHERE name = CAST('11' AS BLOB)",
    "a directory without entry": "DELETE FROM entry WHERE name = CAST('new' AS BLOB)",
    "a directory on the store without entry": "DELETE FROM entry WHERE name = CAST('up' AS BLOB)",
    "a circle of directories":
        "UPDATE entry SET parent = (SELECT inode FROM entry WHERE name = CAST('new' AS BLOB)) "
        "WHERE name = CAST('new' AS BLOB)",
    "a wrong number of links": "UPDATE inode SET links = links + 3 WHERE kind = 0",
    "journal rows that point to nothing":
        "INSERT INTO pending(parent, name, since_ns, changed_ns) VALUES (77777, x'41', 1, 1), (2, x'4242', 1, 1)",
    "journal rows that are gone": "DELETE FROM pending",
    "wrong totals": "UPDATE total SET items = 12345, bytes = -1, dirty_files = 7",
    "a content without file":
        "INSERT INTO content(inode, dirty, changing, present, cached_bytes, used_ns) VALUES (88888, 1, 0, x'', 0, 0)",
    "files without content": "DELETE FROM content WHERE dirty = 1",
    "maps that make no sense": "UPDATE content SET present = x'ffffff' WHERE dirty = 1",
    "objects that are gone": "DELETE FROM object WHERE id > 1 AND inode % 2 = 0",
    "the root is gone": "DELETE FROM inode WHERE id = 2",
    "an illegal name": "UPDATE entry SET name = x'2e2e' WHERE name = CAST('9' AS BLOB) AND parent != 2",
    "inodes of no kind": "UPDATE inode SET kind = 99 WHERE id % 7 = 0 AND kind = 0",
}


@pytest.mark.parametrize("sql", BREAKS.values(), ids=BREAKS.keys())
def test_fsck_repairs_what_contradicts_itself(sql, local, mounts):
    damaged = Damaged(mounts, local)
    damaged.end(cleanly=True)
    rows(damaged, sql)
    content = damaged.catalog.read_bytes()
    done = fsck(damaged.mount)
    assert done.returncode == 4 and "wrong: " in done.stdout, done
    assert damaged.catalog.read_bytes() == content, "a mere look has changed something"
    done = fsck(damaged.mount, "--repair")
    assert done.returncode == 1 and "repaired: " in done.stdout, done
    assert fsck(damaged.mount).returncode == 0, fsck(damaged.mount)
    damaged.mount.start()
    damaged.check_that_nothing_is_lost()
    damaged.mount.stop()
    assert fsck(damaged.mount).returncode == 0, fsck(damaged.mount)


def test_a_crash_without_any_change_is_no_damage(store, mounts):
    mount = mounts(store, cache=0).start()
    (mount.data / "file").write_bytes(b"here")
    mount.stop()
    for _ in range(3):
        mount.start()
        assert (mount.data / "file").read_bytes() == b"here"
        mount.kill()
    mount.start()
    assert "rebuilt" not in (mount.stats / "errors").read_text()
    mount.stop()
    assert not list(mount.cache.glob("*/recovered"))


@pytest.mark.parametrize("damage", [zero_pages, random_bytes, delete], ids=lambda damage: damage.__name__)
def test_fsck_rebuilds_a_damaged_catalog(damage, local, mounts):
    damaged = Damaged(mounts, local)
    damaged.end(cleanly=True)
    damage(damaged)
    done = fsck(damaged.mount)
    assert done.returncode == 4 and "catalog" in done.stdout, done
    done = fsck(damaged.mount, "--repair")
    assert done.returncode == 1 and ("kept: " in done.stdout or not damaged.kept()), done
    assert fsck(damaged.mount).returncode == 0
    damaged.mount.start()
    damaged.check_that_nothing_is_lost()
    damaged.mount.stop()


def test_a_catalog_of_another_store_is_not_rebuilt_into_this_one(folder, mounts):
    from harness import Local
    stores = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        stores.append(Local(folder / name))
    first = mounts(stores[0], cache=3600, cache_id="shared").start()
    (first.data / "secret plan").write_bytes(b"for the first store only")
    os.kill(first.pids()[0], 15)
    first.wait_for_end()
    second = mounts(stores[1], cache_dir=first.cache, cache=0, cache_id="shared")
    catalog = first.cache / "shared" / "catalog.sqlite"
    size = catalog.stat().st_size
    os.truncate(catalog, size - 2048)
    assert "another store" in second.fail()
    assert not list(stores[1].path.iterdir())
    assert catalog.exists()
    first.start()
    first.sync()
    assert stores[0].read("secret plan") == b"for the first store only"
    first.stop()
