"""The same place changed here and on the store: nobody's bytes are dropped, whoever comes first."""

import os

import pytest
from rigs.processes import wait_until


@pytest.fixture
def mount(store, mounts):
    """Holds back what is changed here until told; sees at once what others change."""
    mount = mounts(store, cache=3600, metadata_cache=0).start()
    (mount.data / "both").write_bytes(b"as it was")
    (mount.data / "d").mkdir()
    (mount.data / "d" / "both").write_bytes(b"as it was, in d")
    mount.sync()
    yield mount
    mount.stop()


def content(path):
    try:
        return path.read_bytes()
    except OSError:
        return None


def conflict_copies(folder):
    return [path for path in folder.iterdir() if ".conflict-" in path.name]


@pytest.mark.parametrize("store", ["local", "radosgw", "sftp"], indirect=True)
def test_changed_here_and_there(store, mount):
    (mount.data / "both").write_bytes(b"changed here")
    store.write("both", b"changed there, by somebody else")
    mount.sync()
    wait_until(lambda: conflict_copies(mount.data), 20, "the conflict copy")
    copy, = conflict_copies(mount.data)
    assert copy.read_bytes() == b"changed there, by somebody else"
    assert (mount.data / "both").read_bytes() == b"changed here" == store.read("both")
    assert store.read(copy.name) == b"changed there, by somebody else"
    assert "both" in (mount.stats / "errors").read_text()


@pytest.mark.parametrize("name", ["both", "d/both"])
def test_removed_here_and_changed_there(name, store, mount):
    """Who removed it did not know the new version: that stays, under its name."""
    (mount.data / name).unlink()
    store.write(name, b"changed there")
    mount.sync()
    wait_until(lambda: content(mount.data / name) == b"changed there", 20, "the version of the others")
    assert store.read(name) == b"changed there"
    assert "both" in (mount.stats / "errors").read_text()


def test_many_removed_here_and_one_of_them_changed_there(store, mount):
    folder = mount.data / "many"
    folder.mkdir()
    for index in range(40):
        (folder / f"f{index}").write_bytes(b"%d" % index)
    mount.sync()
    for index in range(40):
        (folder / f"f{index}").unlink()
    store.write("many/f17", b"changed there")
    mount.sync()
    wait_until(lambda: os.listdir(folder) == ["f17"], 20, "the version of the others")
    assert (folder / "f17").read_bytes() == b"changed there"
    assert [name for name in store.names() if name.startswith("many/") and name != "many/"] == ["many/f17"]


def test_a_directory_removed_here_in_which_a_file_was_changed_there(store, mount):
    (mount.data / "d" / "both").unlink()
    (mount.data / "d").rmdir()
    store.write("d/both", b"changed there")
    mount.sync()
    wait_until(lambda: content(mount.data / "d" / "both") == b"changed there", 20, "the version of the others")
    assert store.read("d/both") == b"changed there"


@pytest.mark.parametrize("name", ["both", "d/both"])
def test_changed_here_and_removed_there(name, store, mount):
    (mount.data / name).write_bytes(b"changed here")
    store.delete(name)
    os.listdir((mount.data / name).parent)                # the mount sees that it is gone
    assert (mount.data / name).read_bytes() == b"changed here"
    mount.sync()
    assert store.read(name) == b"changed here"
    assert not conflict_copies(mount.data)


def test_removed_here_and_there(store, mount):
    (mount.data / "both").unlink()
    store.delete("both")
    mount.sync()
    assert not (mount.data / "both").exists() and "both" not in store.names()


@pytest.mark.parametrize("store", ["local", "radosgw", "sftp"], indirect=True)
def test_renamed_here_and_changed_there(store, mount):
    (mount.data / "both").rename(mount.data / "renamed")
    store.write("both", b"changed there")
    mount.sync()
    wait_until(lambda: content(mount.data / "both") == b"changed there", 20, "the version of the others")
    assert (mount.data / "renamed").read_bytes() == b"as it was" == store.read("renamed")
    assert store.read("both") == b"changed there"


def test_made_here_and_there(store, mount):
    (mount.data / "new").write_bytes(b"made here")
    store.write("new", b"made there, at the same time")
    mount.sync()
    wait_until(lambda: conflict_copies(mount.data), 20, "the conflict copy")
    assert [path.read_bytes() for path in conflict_copies(mount.data)] == [b"made there, at the same time"]
    assert store.read("new") == b"made here"


def bodies(store):
    return [store.read(name) for name in store.names() if not name.endswith("/")]


def test_changed_here_and_a_directory_there(store, mount):
    """It is moved aside. Where the store cannot do that, ours waits, and is listed, until somebody renames it."""
    (mount.data / "both").write_bytes(b"changed here")
    store.delete("both")
    store.write("both/inside", b"made there")
    done = mount.cli("sync", mount.point, check=False)
    assert b"made there" in bodies(store)
    assert (mount.data / "both").read_bytes() == b"changed here"
    if done.returncode:
        (mount.data / "both").rename(mount.data / "ours")
        mount.sync()
    wait_until(lambda: [path.read_bytes() for path in mount.data.glob("both*/inside")] == [b"made there"], 20,
               "the directory of the others")
    assert {b"changed here", b"made there"} <= set(bodies(store))


def test_changed_below_a_directory_here_that_became_a_file_there(store, mount):
    (mount.data / "d" / "both").write_bytes(b"changed here")
    store.delete("d/both")
    if store.name == "local":
        (store.path / "d").rmdir()
    else:
        store.delete("d/")
    store.write("d", b"a file there")
    done = mount.cli("sync", mount.point, check=False)
    assert (mount.data / "d" / "both").read_bytes() == b"changed here", done
    assert b"a file there" in bodies(store), store.names()
    if done.returncode:
        (mount.data / "d").rename(mount.data / "ours")
        mount.sync()
    assert {b"changed here", b"a file there"} <= set(bodies(store))
