"""Mounts of containers through OpenStack Swift's own protocol."""

import os

import pytest
from harness import SECRET, describe, differences, run
from trees import kept, varied

SERVERS = ["swift", "radosgw"]


@pytest.mark.limit(400)
@pytest.mark.parametrize("kind", ["object", "chunk"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_tree_comes_back_from_the_server(name, kind, swift_server, mounts, folder):
    store = swift_server(name)
    source = varied(folder / "source", has_links=True)
    mount = mounts(store, cache=0, type=kind).start()
    run("cp", "-a", source, mount.data / "tree", timeout=120)
    mount.sync(timeout=300)
    mount.stop(timeout=120)
    assert store.read("tree/large") == (source / "large").read_bytes()
    assert store.segments("tree/large") == 3
    if kind == "object":
        plain = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        assert {f"tree/{path.relative_to(source)}" for path in plain} <= set(store.names())

    cold = mounts(store, cache=0, type=kind).start()
    assert differences(kept(describe(source), True), kept(describe(cold.data / "tree"), True)) == []
    # And it can be worked with: renamed, replaced, removed. Large files leave nothing behind.
    os.rename(cold.data / "tree" / "large", cold.data / "tree" / "moved")
    os.rename(cold.data / "tree" / "d1", cold.data / "tree" / "renamed")
    (cold.data / "tree" / "empty").rmdir()
    cold.sync(timeout=300)
    assert store.read("tree/moved") == (source / "large").read_bytes()
    assert store.segments("tree/large") == 0 and store.segments("tree/moved") == 3
    (cold.data / "tree" / "moved").write_bytes(b"replaced")
    cold.sync(timeout=300)
    assert store.segments("tree/moved") == 0
    expected = kept(describe(cold.data / "tree"), True)
    cold.stop(timeout=120)
    again = mounts(store, cache=0, type=kind).start()
    assert differences(expected, kept(describe(again.data / "tree"), True)) == []
    again.stop()


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_wrong_is_told_in_one_sentence(name, swift_server, mounts):
    store = swift_server(name)
    mistakes = [({"password": SECRET}, "check user and password"),
                ({"container": "there-is-none"}, "there is no container 'there-is-none'")]
    if name == SERVERS[0]:      # the same for all, and waited for
        mistakes.append(({"auth_url": "http://127.0.0.1:1/auth/v1.0"}, "127.0.0.1:1"))
    for change, words in mistakes:
        mount = mounts(store)
        settings = {**store.auth, **change}
        auth = "\n".join(f"{key} = {value}" for key, value in settings.items())
        mount.write_config(f"[auth]\n{auth}\n[store]\nname = swift\ncache_dir = {mount.cache}\n")
        said = mount.fail(timeout=90)
        assert words in said and SECRET not in said and store.password not in said, said


def test_a_url_and_the_environment_are_enough(swift_server, mounts, folder):
    store = swift_server("swift")
    mount = mounts(store)
    environment = {**os.environ, "ST_AUTH": store.auth_url, "ST_USER": store.user, "ST_KEY": store.password}
    run(mount.binary, store.url, mount.point, "-o", f"cache_dir={mount.cache},cache=0", env=environment)
    (mount.data / "file").write_bytes(b"bytes")
    mount.sync()
    assert store.names() == {"file": 5}
    assert store.password not in mount.config.read_text()
    mount.stop()


def test_only_one_machine_packs_and_the_other_is_told_which(swift_server, mounts):
    store = swift_server("swift")
    options = {"cache": 0, "metadata_cache": 0, "type": "chunk"}
    first, second = mounts(store, **options).start(), mounts(store, **options)
    (first.data / "file").write_bytes(b"one")
    first.sync()
    (process,) = first.pids()
    said = second.fail(timeout=90)
    assert f"process {process} on " in said and "-o ro" in said, said
    reader = mounts(store, flags=["-o", "ro"], **options).start()
    assert (reader.data / "file").read_bytes() == b"one"
    # After a crash the same mount goes on at once.
    first.kill()
    assert f"process {process} on " in second.fail(timeout=90)
    first.start()
    (first.data / "file").write_bytes(b"two")
    first.stop()
    second.start()
    assert (second.data / "file").read_bytes() == b"two"
    second.stop()
    reader.stop()
    assert not [name for name in store.names() if "/writers/" in name]
