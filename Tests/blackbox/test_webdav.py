"""Mounts of WebDAV servers, which differ more than their headers tell."""

import os

import pytest
from harness import SECRET, describe, differences, run
from trees import kept, varied

SERVERS = ["httpd", "wsgidav", "rclone"]


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["object", "chunk"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_tree_comes_back_from_the_server(name, kind, webdav_server, mounts, folder):
    store = webdav_server(name)
    # rclone keeps no properties: see the known faults in docs/stores/webdav.md.
    keeps = name != "rclone"
    source = varied(folder / "source", has_links=keeps)
    mount = mounts(store, cache=0, type=kind).start()
    run("cp", "-a", source, mount.data / "tree", timeout=120)
    mount.sync(timeout=240)
    mount.stop(timeout=120)
    assert store.read("tree/large") == (source / "large").read_bytes()
    if kind == "object":
        plain = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        assert {f"tree/{path.relative_to(source)}" for path in plain if "\n" not in path.name} <= set(store.names())

    cold = mounts(store, cache=0, type=kind).start()
    assert differences(kept(describe(source), keeps), kept(describe(cold.data / "tree"), keeps)) == []
    # And it can be worked with: replaced, renamed, removed.
    (cold.data / "tree" / "large").write_bytes(b"replaced")
    os.rename(cold.data / "tree" / "d1", cold.data / "tree" / "renamed")
    (cold.data / "tree" / "empty").rmdir()
    cold.sync(timeout=240)
    expected = kept(describe(cold.data / "tree"), keeps)
    cold.stop(timeout=120)
    again = mounts(store, cache=0, type=kind).start()
    assert differences(expected, kept(describe(again.data / "tree"), keeps)) == []
    again.stop()


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_wrong_is_told_in_one_sentence(name, webdav_server, mounts, binary):
    store = webdav_server(name)
    mistakes = [({"password": SECRET}, "check user and password"),
                ({"url": f"{store.endpoint}/there-is-none"}, "check url")]
    if name == SERVERS[0]:      # the same for all, and waited for
        mistakes.append(({"url": "http://127.0.0.1:1/"}, "127.0.0.1:1"))
    for change, words in mistakes:
        mount = mounts(store)
        settings = {**store.auth, **change}
        auth = "\n".join(f"{key} = {value}" for key, value in settings.items())
        mount.write_config(f"[auth]\n{auth}\n[store]\nname = webdav\ncache_dir = {mount.cache}\n")
        said = mount.fail(timeout=60)
        assert words in said and SECRET not in said and store.password not in said, said


def test_the_other_names_of_the_store_are_understood_and_passwords_in_urls_refused(webdav_server, binary, mounts):
    store = webdav_server("httpd")
    mount = mounts(store)
    mount.write_config(f"[store]\nname = dav\n[auth]\nurl = {store.url}\nuser = anna\n")
    run(binary, "check-config", mount.config_file)
    done = run(binary, "dav://anna:pw@host/x", mount.point, check=False)
    assert done.returncode == 2 and "does not name a place" in done.stderr
