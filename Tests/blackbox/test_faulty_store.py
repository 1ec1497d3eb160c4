"""Faults of a store: what is here works meanwhile, nothing wrong is handed on or left there, and all comes right by itself."""

import concurrent.futures
import dataclasses
import os
import subprocess
import time
import uuid

import pytest
from harness import run
from rigs.processes import wait_until

AT_ONCE = 5          # seconds
BOUND = 60           # seconds within which a request that the store does not answer well must have ended
PATIENCE = {"stall_timeout": 1, "request_timeout": 15, "connect_timeout": 5}

FAULTS = {
    "seconds of latency": {"latency_ms": 700},
    "bodies that stop half-way": {"rate_stop": 0.15},
    "bodies that are reset half-way": {"rate_reset": 0.05},
    "bodies that are cut short": {"rate_truncate": 0.25},
    "wrong bits in answers": {"rate_corrupt": 0.25},
    "wrong bits in uploads": {"rate_corrupt_up": 0.25},
    "429": {"rate_refuse": 0.25, "refusal": "429 TooManyRequests"},
    "429 with Retry-After": {"rate_refuse": 0.1, "refusal": "429 TooManyRequests 1"},
    "500": {"rate_refuse": 0.25, "refusal": "500 InternalError"},
    "503 with Retry-After": {"rate_refuse": 0.1, "refusal": "503 SlowDown 1"},
}


def is_here(mount, content):
    """What is cached, and what is told, is there at once; and new work is taken."""
    run("cmp", mount.data / "cached", content, timeout=AT_ONCE)
    run("cat", mount.stats / "stats", mount.stats / "errors", mount.stats / "notuploaded", timeout=AT_ONCE)
    run("ls", "-l", mount.data, timeout=AT_ONCE)
    name = f"new-{uuid.uuid4().hex[:8]}"
    run("bash", "-ec", f"echo {name} > {name}; mkdir {name}.d; mv {name} {name}.d/x; rm {name}.d/x; rmdir {name}.d",
        cwd=mount.data, timeout=AT_ONCE)


def prepared(mount, folder, **options):
    """A mount with a file in its cache."""
    content = folder / "content"
    content.write_bytes(os.urandom(300_000))
    (mount.data / "cached").write_bytes(content.read_bytes())
    os.listdir(mount.data)
    mount.sync()
    return content


def patient_read(path):
    """The bytes, at last; each attempt ends within its time."""
    end = time.monotonic() + BOUND
    while True:
        begun = time.monotonic()
        try:
            return path.read_bytes()
        except OSError:
            assert time.monotonic() - begun < BOUND, "a read hung"
            assert time.monotonic() < end, f"{path.name} was not read within {BOUND} s"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_costs_time_and_no_bytes(fault, radosgw, mounts, network, folder):
    store, net = network(radosgw)
    patience = {**PATIENCE, "stall_timeout": 5} if "latency_ms" in fault else PATIENCE
    mount = mounts(store, cache=0, metadata_cache=3600, **patience).start()
    content = prepared(mount, folder)
    second = mounts(store, metadata_cache=3600, **patience).start()
    net.set(**fault)
    contents = {f"f{index}": os.urandom(index * 3001) for index in range(20)}
    # S3 has no checksum for a part of an object: what is fetched in parts can have wrong bits (docs/semantics.md). And of a
    # larger file hardly an attempt to send it would be free of them.
    contents["big"] = os.urandom(500_000 if {"rate_corrupt", "rate_corrupt_up"} & set(fault) else 3 << 20)
    for name, bytes_ in contents.items():
        (mount.data / name).write_bytes(bytes_)
    is_here(mount, content)
    mount.sync(timeout=BOUND)
    for name, bytes_ in contents.items():
        assert radosgw.read(name) == bytes_, name
    wait_until(lambda: len(names(second.data)) >= len(contents), BOUND, "the listing")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for name, found in zip(contents, pool.map(lambda name: patient_read(second.data / name), contents)):
            assert found == contents[name], f"{name} was read wrongly"
    # What was read through the fault is in the cache, and is right there too.
    net.set(state="refuse")
    for name, bytes_ in contents.items():
        assert (second.data / name).read_bytes() == bytes_, f"{name} is wrong in the cache"
    net.set(state="up", **{key: type(value)() if key != "refusal" else "503 SlowDown" for key, value in fault.items()})
    mount.stop()
    second.stop()


def names(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def test_an_expired_token_is_named_and_new_credentials_go_on(s3_server, mounts, network, folder):
    # moto takes any credentials; the proxy refuses the old ones.
    moto = s3_server("moto")
    store, net = network(moto)
    store = dataclasses.replace(store, key="old-key")
    mount = mounts(store, cache=0, metadata_cache=3600, **PATIENCE).start()
    content = prepared(mount, folder)
    net.set(rate_refuse=1, refusal="403 ExpiredToken", refused_key="old-key")
    (mount.data / "file").write_bytes(b"written meanwhile")
    errors = wait_until(lambda: "expired" in (text := (mount.stats / "errors").read_text()) and text, 20, "the fault")
    assert "credentials" in errors
    wait_until(lambda: "expired" in (mount.stats / "notuploaded").read_text(), 20, "the file's reason")
    is_here(mount, content)
    mount.config.write_text(mount.config_text(dataclasses.replace(store, key="new-key")))
    wait_until(lambda: (mount.stats / "notuploaded").read_text() == "", 60, "the upload, by itself")
    assert moto.read("file") == b"written meanwhile"
    mount.stop()


@pytest.mark.parametrize("refusal", ["507 InsufficientStorage", "403 QuotaExceeded"])
def test_a_full_store_is_named_and_keeps_nobody_from_working(refusal, radosgw, mounts, network, folder):
    store, net = network(radosgw)
    mount = mounts(store, cache=0, metadata_cache=3600, **PATIENCE).start()
    content = prepared(mount, folder)
    net.set(rate_refuse=1, refusal=refusal, refused_kinds="PUT,PART,MULTIPART")
    (mount.data / "file").write_bytes(b"too much")
    wait_until(lambda: "quota is used up" in (mount.stats / "notuploaded").read_text(), 20, "the file's reason")
    assert "space on the store" in (mount.stats / "errors").read_text()
    is_here(mount, content)
    (mount.data / "cached").unlink()                     # which is what makes room
    wait_until(lambda: "cached" not in radosgw.names(), 20, "the deletion")
    net.set(rate_refuse=0)
    mount.sync()
    assert radosgw.read("file") == b"too much"
    mount.stop()


def test_a_bucket_that_is_deleted_and_made_again(radosgw, mounts, folder):
    bucket = f"gone-{uuid.uuid4().hex[:12]}"
    store = dataclasses.replace(radosgw, bucket=bucket, prefix="below")
    store.client.create_bucket(Bucket=bucket)
    mount = mounts(store, cache=0, metadata_cache=3600, **PATIENCE).start()
    content = prepared(mount, folder)
    for entry in store.client.list_objects_v2(Bucket=bucket).get("Contents", []):
        store.client.delete_object(Bucket=bucket, Key=entry["Key"])
    store.client.delete_bucket(Bucket=bucket)
    (mount.data / "file").write_bytes(b"written meanwhile")
    wait_until(lambda: bucket in (mount.stats / "errors").read_text(), 20, "the fault")
    is_here(mount, content)
    assert "file" in os.listdir(mount.data) and "cached" in os.listdir(mount.data)
    store.client.create_bucket(Bucket=bucket)
    wait_until(lambda: (mount.stats / "notuploaded").read_text() == "", 60, "the upload, by itself")
    assert store.read("file") == b"written meanwhile"
    mount.stop()


OUTAGES = {"a store that is silent": "stall", "a store that refuses connections": "refuse",
           "a server that has stopped": "freeze"}


@pytest.mark.limit(900)
@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
def test_after_an_outage_everything_drains_by_itself(outage, radosgw, mounts, network, folder, is_slow):
    """Meanwhile all that is here is used and changed, and what only the store has fails within its time."""
    cold = os.urandom(3 << 20)
    radosgw.write("cold", cold)
    radosgw.write("never/looked/at", b"at")
    store, net = network(radosgw)
    mount = mounts(store, cache=0, metadata_cache=1, hard_cache_size_limit=100, cache_size=50,
                   **{**PATIENCE, "request_timeout": 5}).start()
    content = prepared(mount, folder)
    (mount.data / "project").mkdir()
    (mount.data / "project" / "old").write_bytes(b"old")
    mount.sync()
    known = set(os.listdir(mount.data))
    net.freeze() if outage == "freeze" else net.set(state=outage)
    end = time.monotonic() + (240 if is_slow else 12)
    written = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        while time.monotonic() < end:
            name = f"f{len(written)}"
            written[name] = os.urandom(20_000)
            (mount.data / name).write_bytes(written[name])
            is_here(mount, content)
            for reading in [pool.submit((mount.data / "cold").read_bytes),
                            pool.submit(os.listdir, mount.data / "never" / "looked")]:
                assert isinstance(reading.exception(timeout=BOUND), OSError)
            time.sleep(0.5)                              # an outage takes its time
    run("bash", "-ec", "cd project; echo new > new; mv old older; mkdir sub; mv new sub; cd ..; mv project renamed; rm f0",
        cwd=mount.data, timeout=AT_ONCE)
    del written["f0"]
    errors = (mount.stats / "errors").read_text()
    assert errors.startswith(("timedOut:", "unavailable:")) or "\ntimedOut:" in errors or "\nunavailable:" in errors
    assert mount.status()["pending"]["parked"] == 0, "an outage is nobody's fault"
    net.thaw() if outage == "freeze" else net.set(state="up")
    wait_until(lambda: (mount.stats / "notuploaded").read_text() == "", 60, "the uploads, by themselves")
    for name, bytes_ in written.items():
        assert radosgw.read(name) == bytes_
    assert radosgw.read("renamed/older") == b"old" and radosgw.read("renamed/sub/new") == b"new\n"
    assert patient_read(mount.data / "cold") == cold
    wait_until(lambda: names(mount.data / "never" / "looked") == ["at"], BOUND, "what only the store has")
    found = set(os.listdir(mount.data))
    assert found >= known - {"project"} | {"renamed", *written}
    # A server may carry out what was given up: what was put there and removed here meanwhile can come back (semantics.md).
    extra = found - (known - {"project"}) - {"renamed", *written}
    assert all(name == "f0" or name.startswith(("new-", "project")) for name in extra), extra
    mount.stop()


@pytest.mark.limit(300)
def test_in_an_outage_writers_go_on_to_the_limit_of_the_cache_and_then_wait(radosgw, mounts, network, folder):
    store, net = network(radosgw)
    mount = mounts(store, cache=0, metadata_cache=3600, cache_size=10, hard_cache_size_limit=30, **PATIENCE).start()
    prepared(mount, folder)
    net.set(state="refuse")
    contents = {f"f{index}": os.urandom(4_000_000) for index in range(12)}
    for name, bytes_ in contents.items():
        (folder / name).write_bytes(bytes_)
    # Not a thread of this process: what it has open would be closed, and waited for, in every process started here.
    with subprocess.Popen(["cp", *(folder / name for name in contents), mount.data]) as writing:
        wait_until(lambda: mount.status()["cache"]["dirty_bytes"] > 24_000_000, 60, "the cache being full")
        run("cmp", mount.data / "f0", folder / "f0", timeout=AT_ONCE)
        run("ls", "-l", mount.data, timeout=AT_ONCE)
        run("mkdir", mount.data / "names-need-no-room", timeout=AT_ONCE)
        time.sleep(1)
        assert writing.poll() is None, "there is no room, and no upload that could make some"
        net.set(state="up")
        assert writing.wait(timeout=120) == 0
    mount.sync()
    for name, bytes_ in contents.items():
        assert radosgw.read(name) == bytes_
    mount.stop()
