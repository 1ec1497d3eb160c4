"""Mounts of containers of Azure Blob Storage: of the emulator, and of a real account where the environment has one."""

import dataclasses
import os
import uuid

import pytest
from harness import SECRET, Azure, describe, differences, run
from trees import kept, odd, varied

ACCOUNTS = ["flat", "hierarchical"]


def comes_back(store, kind, mounts, folder):
    """A tree is copied in, found again with an empty cache, and worked with."""
    source = varied(folder / "source", has_links=True)
    mount = mounts(store, cache=0, type=kind).start()
    run("cp", "-a", source, mount.data / "tree", timeout=120)
    mount.sync(timeout=300)
    mount.stop(timeout=120)
    assert store.read("tree/large") == (source / "large").read_bytes()
    assert store.blocks("tree/large") == (3, 0)
    if kind == "object":
        plain = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        assert {f"tree/{path.relative_to(source)}".replace("\n", "‛0A") for path in plain} <= set(store.names())

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
    with open(cold.data / "tree" / "renamed" / "s1" / "f31", "ab") as file:
        file.write(b"more")
    expected = kept(describe(cold.data / "tree"), True)
    cold.stop(timeout=120)
    # Small as it is now, it is packed.
    assert store.read("tree/moved") == b"replaced" if kind == "object" else "tree/moved" not in store.names()
    again = mounts(store, cache=0, type=kind).start()
    assert differences(expected, kept(describe(again.data / "tree"), True)) == []
    again.stop()


@pytest.mark.limit(400)
@pytest.mark.parametrize("kind", ["object", "chunk"])
@pytest.mark.parametrize("name", ACCOUNTS)
def test_a_tree_comes_back_from_the_account(name, kind, azure_account, mounts, folder):
    comes_back(azure_account(name), kind, mounts, folder)


@pytest.mark.limit(300)
@pytest.mark.parametrize("name", ACCOUNTS)
def test_names_that_azure_would_change_come_back(name, azure_account, mounts, folder):
    store = azure_account(name)
    source = folder / "source"
    odd(source)
    mount = mounts(store, cache=0).start()
    run("cp", "-a", source, mount.data / "tree", timeout=120)
    mount.stop(timeout=200)
    cold = mounts(store, cache=0).start()
    assert differences(kept(describe(source), True), kept(describe(cold.data / "tree"), True)) == []
    cold.stop()


@pytest.mark.parametrize("name", ACCOUNTS)
def test_what_is_wrong_is_told_in_one_sentence(name, azure_account, mounts):
    store = azure_account(name)
    wrong = "bm90IHRoZSBrZXk="
    application = {"account_key": "", "tenant_id": store.tenant, "client_id": store.client_id, "authority": store.origin}
    mistakes = [({"account_key": wrong}, "check account and account_key"),
                ({**application, "client_secret": SECRET}, "check tenant_id, client_id and client_secret"),
                ({"account_key": "", "sas_token": f"sv=2024-11-04&sig={SECRET}"}, "check sas_token"),
                ({"container": "there-is-none"}, "there is no container 'there-is-none'")]
    if name == ACCOUNTS[0]:      # the same for all, and waited for
        mistakes.append(({"endpoint": "http://127.0.0.1:1/rigflat"}, "127.0.0.1:1"))
    for change, words in mistakes:
        mount = mounts(store)
        settings = {**store.auth, **change}
        auth = "\n".join(f"{key} = {value}" for key, value in settings.items() if value)
        mount.write_config(f"[auth]\n{auth}\n[store]\nname = azure\ncache_dir = {mount.cache}\n")
        said = mount.fail(timeout=90)
        assert words in said, said
        assert not [secret for secret in (SECRET, store.key, wrong) if secret in said], said


def test_a_url_and_the_environment_are_enough(azure_account, mounts):
    store = azure_account("flat")
    mount = mounts(store)
    text = f"AccountName={store.account};AccountKey={store.key};BlobEndpoint={store.endpoint}"
    run(mount.binary, store.url, mount.point, "-o", f"cache_dir={mount.cache},cache=0",
        env={**os.environ, "AZURE_STORAGE_CONNECTION_STRING": text})
    (mount.data / "file").write_bytes(b"bytes")
    mount.sync()
    assert store.names() == {"file": 5}
    assert store.key not in mount.config.read_text()
    mount.stop()


def test_what_others_write_and_remove_shows_up(azure_account, mounts):
    store = azure_account("hierarchical")
    mount = mounts(store, cache=0, metadata_cache=0).start()
    store.write("folder/file", b"theirs")
    assert (mount.data / "folder" / "file").read_bytes() == b"theirs"
    (mount.data / "folder" / "file").write_bytes(b"ours")
    mount.sync()
    assert store.read("folder/file") == b"ours"
    store.delete("folder/file")
    assert not (mount.data / "folder" / "file").exists()
    mount.stop()


@pytest.fixture
def real_account():
    """A prefix of the test's own in a real container, which is emptied afterwards."""
    account, key, container = (os.environ.get(f"CLOUDFUSION_LIVE_AZURE_{name}") for name in ("ACCOUNT", "KEY", "CONTAINER"))
    if not (account and key and container):
        pytest.skip("needs a real account: CLOUDFUSION_LIVE_AZURE_ACCOUNT, _KEY and _CONTAINER")
    words = (f"https://{account}.blob.core.windows.net", f"https://{account}.dfs.core.windows.net", account, key, container)
    store = dataclasses.replace(Azure("live", *words, *[""] * 4), prefix=f"t-{uuid.uuid4().hex[:12]}")
    yield store
    for blob in sorted((blob.name for blob in store.client.list_blobs(name_starts_with=f"{store.prefix}")), reverse=True):
        store.client.delete_blob(blob)


@pytest.mark.limit(1200)
@pytest.mark.parametrize("kind", ["object", "chunk"])
def test_a_tree_comes_back_from_a_real_account(kind, real_account, mounts, folder):
    comes_back(real_account, kind, mounts, folder)
