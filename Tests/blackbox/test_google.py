"""Mounts of buckets of Google Cloud Storage."""

import json
import os

import pytest
from harness import SECRET, describe, differences, run
from trees import kept, varied

SERVERS = ["stub", "emulator"]


@pytest.mark.limit(400)
@pytest.mark.parametrize("kind", ["object", "chunk"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_tree_comes_back_from_the_server(name, kind, google_server, mounts, folder):
    store = google_server(name)
    source = varied(folder / "source", has_links=True)
    mount = mounts(store, cache=0, type=kind).start()
    run("cp", "-a", source, mount.data / "tree", timeout=120)
    mount.sync(timeout=300)
    mount.stop(timeout=120)
    assert store.read("tree/large") == (source / "large").read_bytes()
    assert store.parts() == 0
    if kind == "object":
        plain = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        # Names must not have line ends there: they are quoted.
        assert {f"tree/{path.relative_to(source)}".replace("\n", "\u201b0A") for path in plain} <= set(store.names())

    cold = mounts(store, cache=0, type=kind).start()
    assert differences(kept(describe(source), True), kept(describe(cold.data / "tree"), True)) == []
    # And it can be worked with: renamed, replaced, removed.
    os.rename(cold.data / "tree" / "large", cold.data / "tree" / "moved")
    os.rename(cold.data / "tree" / "d1", cold.data / "tree" / "renamed")
    (cold.data / "tree" / "empty").rmdir()
    cold.sync(timeout=300)
    assert store.read("tree/moved") == (source / "large").read_bytes()
    assert "tree/large" not in store.names()
    (cold.data / "tree" / "moved").write_bytes(b"replaced")
    cold.sync(timeout=300)
    if kind == "object":
        assert store.read("tree/moved") == b"replaced"
    expected = kept(describe(cold.data / "tree"), True)
    cold.stop(timeout=120)
    again = mounts(store, cache=0, type=kind).start()
    assert differences(expected, kept(describe(again.data / "tree"), True)) == []
    again.stop()


def test_what_is_wrong_is_told_in_one_sentence(google_server, mounts, folder):
    store = google_server("stub")
    key = json.loads(open(store.credentials).read())
    stranger = folder / "stranger.json"
    stranger.write_text(json.dumps({**key, "client_email": "nobody@project.iam.gserviceaccount.com"}))
    user = folder / "user.json"
    user.write_text(json.dumps({**json.loads(store.user_file.read_text()), "refresh_token": SECRET}))
    words = folder / "words.json"
    words.write_text(SECRET)
    for change, said_words in [
            ({"credentials_file": stranger}, "invalid_grant; the key is not valid any more"),
            ({"credentials_file": user}, "invalid_grant; it is not valid any more: run `gcloud auth application-default login`"),
            ({"credentials_file": words}, "is no JSON file with credentials"),
            ({"credentials_file": folder / "none.json"}, "which does not exist"),
            ({"bucket_name": "there-is-none"}, "there is no bucket 'there-is-none': check bucket_name"),
            ({"credentials_file": None, "anonymous": "yes"}, "the bucket is not public: set credentials_file"),
            ({"endpoint": "http://127.0.0.1:1"}, "127.0.0.1:1")]:
        mount = mounts(store)
        settings = {key: value for key, value in {**store.auth, **change}.items() if value is not None}
        auth = "\n".join(f"{key} = {value}" for key, value in settings.items())
        mount.write_config(f"[auth]\n{auth}\n[store]\nname = gs\ncache_dir = {mount.cache}\n")
        said = mount.fail(timeout=90)
        assert said_words in said and SECRET not in said and key["private_key"][40:80] not in said, said


def test_a_url_and_the_environment_are_enough(google_server, mounts):
    store = google_server("stub")
    mount = mounts(store)
    environment = {**os.environ, "GOOGLE_APPLICATION_CREDENTIALS": str(store.user_file)}
    run(mount.binary, store.url, mount.point, "-o", f"cache_dir={mount.cache},cache=0,endpoint={store.endpoint}",
        env=environment)
    (mount.data / "file").write_bytes(b"bytes")
    mount.sync()
    assert store.names() == {"file": 5}
    refresh_token = json.loads(store.user_file.read_text())["refresh_token"]
    assert refresh_token not in mount.config.read_text()
    mount.stop()


def test_hmac_keys_are_used_through_the_protocol_of_s3(radosgw, mounts):
    """The same settings as for Google's own, but for the endpoint."""
    auth = {"endpoint": radosgw.endpoint, "bucket_name": radosgw.bucket, "prefix": radosgw.prefix,
            "access_key_id": radosgw.key, "secret_access_key": radosgw.secret}
    mount = mounts(radosgw)
    lines = "\n".join(f"{key} = {value}" for key, value in auth.items())
    mount.write_config(f"[auth]\n{lines}\n[store]\nname = gs\ncache = 0\ncache_dir = {mount.cache}\n")
    run(*mount.command())
    (mount.data / "file").write_bytes(b"bytes")
    mount.sync()
    assert radosgw.read("file") == b"bytes"
    mount.stop()


def test_two_machines_pack_and_see_each_other(google_server, mounts):
    store = google_server("stub")
    options = {"cache": 0, "metadata_cache": 0, "type": "chunk"}
    first, second = mounts(store, **options).start(), mounts(store, **options).start()
    (first.data / "one").write_bytes(b"1")
    first.sync()
    (second.data / "two").write_bytes(b"2")
    second.sync()
    assert (second.data / "one").read_bytes() == b"1" and (first.data / "two").read_bytes() == b"2"
    (first.data / "one").chmod(0o600)
    first.sync()
    assert (second.data / "one").stat().st_mode & 0o777 == 0o600
    first.stop()
    second.stop()
