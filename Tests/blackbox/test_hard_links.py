"""The names of one file, which are objects of their own on the store, are one file again in an empty cache."""

import os
import shutil

import pytest
from harness import run
from rigs.processes import wait_until

STORES = ["local", "s3 radosgw", "s3 swift", "s3 moto", "swift radosgw", "swift swift", "webdav httpd", "webdav wsgidav"]


@pytest.fixture
def place(request, s3_server, swift_server, webdav_server):
    """`place("s3 radosgw")`"""
    servers = {"s3": s3_server, "swift": swift_server, "webdav": webdav_server}

    def make(text):
        kind, _, name = text.partition(" ")
        return servers[kind](name) if name else request.getfixturevalue(kind)

    return make


def are_one(*paths):
    found = [path.lstat() for path in paths]
    return len({status.st_ino for status in found}) == 1 and {status.st_nlink for status in found} == {len(paths)}


def wait_until_one(*paths):
    """All names have to be seen, and the kernel is told a moment later."""
    wait_until(lambda: are_one(*paths), 10, "that these are one file")


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["object", "chunk"])
@pytest.mark.parametrize("name", STORES)
def test_a_file_keeps_its_names(name, kind, place, mounts):
    store = place(name)
    first = mounts(store, cache=0, type=kind).start()
    (first.data / "d").mkdir()
    (first.data / "early").write_bytes(b"content")
    os.link(first.data / "early", first.data / "d" / "early too")
    (first.data / "late").write_bytes(b"another content")
    first.sync(timeout=120)
    # The object of the first name lies there by now.
    os.link(first.data / "late", first.data / "d" / "late too")
    first.sync(timeout=120)
    first.stop(timeout=120)
    if kind == "object":
        assert store.read("early") == store.read("d/early too") == b"content"
        assert store.read("late") == store.read("d/late too") == b"another content"

    second = mounts(store, cache=0, type=kind).start()
    for one in ("early", "late"):
        wait_until_one(second.data / one, second.data / "d" / f"{one} too")
        assert os.listxattr(second.data / one) == []
    assert (second.data / "late").lstat().st_ino != (second.data / "early").lstat().st_ino
    with open(second.data / "d" / "early too", "ab") as file:
        file.write(b", and more")
    assert (second.data / "early").read_bytes() == b"content, and more"
    os.rename(second.data / "late", second.data / "renamed")
    os.rename(second.data / "d", second.data / "e")
    (second.data / "e" / "late too").chmod(0o640)
    second.sync(timeout=120)
    second.stop(timeout=120)

    third = mounts(store, cache=0, type=kind).start()
    wait_until_one(third.data / "early", third.data / "e" / "early too")
    wait_until_one(third.data / "renamed", third.data / "e" / "late too")
    assert (third.data / "early").read_bytes() == (third.data / "e" / "early too").read_bytes() == b"content, and more"
    assert (third.data / "renamed").lstat().st_mode & 0o777 == 0o640
    (third.data / "early").unlink()
    third.sync(timeout=120)
    third.stop(timeout=120)

    fourth = mounts(store, type=kind).start()
    assert (fourth.data / "e" / "early too").read_bytes() == b"content, and more"
    assert (fourth.data / "e" / "early too").lstat().st_nlink == 1
    fourth.stop()


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["object", "chunk"])
def test_a_tree_of_links_is_one_after_a_remount(kind, store, mounts):
    first = mounts(store, cache=0, type=kind).start()
    tree = first.data / "tree"
    for number in range(3):
        (tree / f"d{number}" / "deep").mkdir(parents=True)
        for name in "abcd":
            (tree / f"d{number}" / "deep" / name).write_text(f"{number} {name}")
    first.sync()
    run("cp", "-al", tree, first.data / "copy")
    first.sync(timeout=120)
    first.stop(timeout=120)
    second = mounts(store, cache=0, type=kind).start()
    files = [path.relative_to(second.data / "tree") for path in (second.data / "tree").rglob("?") if path.is_file()]
    assert len(files) == 12
    for file in files:
        wait_until_one(second.data / "tree" / file, second.data / "copy" / file)
    (second.data / "copy" / files[0]).write_text("written by one name")
    assert (second.data / "tree" / files[0]).read_text() == "written by one name"
    shutil.rmtree(second.data / "tree")
    second.sync(timeout=120)
    second.stop(timeout=120)
    third = mounts(store, type=kind).start()
    assert (third.data / "copy" / files[0]).read_text() == "written by one name"
    assert all((third.data / "copy" / file).lstat().st_nlink == 1 for file in files)
    third.stop()


def test_what_is_written_before_the_other_name_was_seen_is_what_both_have(store, mounts):
    first = mounts(store, cache=0).start()
    for folder in ("one", "other"):
        (first.data / folder).mkdir()
    (first.data / "one" / "name").write_bytes(b"content")
    os.link(first.data / "one" / "name", first.data / "other" / "name")
    first.sync()
    first.stop()
    second = mounts(store, cache=0).start()
    (second.data / "one" / "name").write_bytes(b"written before 'other' was listed")
    second.sync()
    wait_until_one(second.data / "one" / "name", second.data / "other" / "name")
    assert (second.data / "other" / "name").read_bytes() == b"written before 'other' was listed"
    second.sync()
    second.stop()
    assert store.read("other/name") == store.read("one/name") == b"written before 'other' was listed"
    third = mounts(store).start()
    wait_until_one(third.data / "one" / "name", third.data / "other" / "name")
    third.stop()


def test_another_mount_sees_a_link_that_is_made_here(local, mounts):
    here = mounts(local, cache=0).start()
    there = mounts(local, cache=0, metadata_cache=1).start()
    (here.data / "a").write_bytes(b"content")
    here.sync()
    wait_until(lambda: (there.data / "a").exists(), 20, "the file showing up")
    os.link(here.data / "a", here.data / "b")
    here.sync()
    wait_until(lambda: (there.data / "b").exists() and are_one(there.data / "a", there.data / "b"), 20,
               "the link showing up")
    (there.data / "b").write_bytes(b"written there")
    there.sync()
    here.stop()
    there.stop()
    assert local.read("a") == local.read("b") == b"written there"


def test_a_copy_that_other_programs_make_on_the_store_is_a_file_of_its_own(local, mounts):
    first = mounts(local, cache=0).start()
    (first.data / "a").write_bytes(b"content")
    os.link(first.data / "a", first.data / "b")
    first.sync()
    first.stop()
    run("cp", "-a", local.path / "a", local.path / "copy")
    assert os.listxattr(local.path / "copy"), "the copy does not say what the file says of itself"
    second = mounts(local, cache=0).start()
    wait_until_one(second.data / "a", second.data / "b")
    assert (second.data / "copy").lstat().st_nlink == 1
    (second.data / "a").write_bytes(b"changed")
    assert (second.data / "copy").read_bytes() == b"content"
    second.stop()


def test_what_a_file_says_of_itself_is_no_attribute_in_the_mount(local, mounts):
    mount = mounts(local, cache=0).start()
    (mount.data / "a").write_bytes(b"content")
    os.link(mount.data / "a", mount.data / "b")
    mount.sync()
    assert os.listxattr(mount.data / "a") == []
    with pytest.raises(OSError, match="supported"):
        os.setxattr(mount.data / "a", "user.cloudfusion.identity", b"x")
    mount.stop()
