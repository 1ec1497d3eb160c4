"""A store that does not answer hangs nothing that the cache can answer, and nothing for ever."""

import concurrent.futures
import hashlib
import os

import pytest
from harness import run
from rigs.processes import wait_until

AT_ONCE = 5
BOUND = 90           # seconds within which a read that the store does not answer must have failed


@pytest.mark.limit(300)
def test_a_thousand_waiting_reads_hang_nobody_else(radosgw, mounts, network):
    for index in range(1000):
        radosgw.client.put_object(Bucket=radosgw.bucket, Key=f"{radosgw.prefix}/d/f{index:04}", Body=b"content %d" % index)
    store, net = network(radosgw)
    mount = mounts(store, cache=0, metadata_cache=3600, request_timeout=20).start()
    names = sorted(os.listdir(mount.data / "d"))
    assert len(names) == 1000
    (mount.data / "cached").write_bytes(b"always here")
    mount.sync()
    run("ls", "-l", mount.data / "d", timeout=60)

    net.freeze()

    def read(name):
        try:
            return (mount.data / "d" / name).read_bytes()
        except OSError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(1000) as pool:
        waiting = [pool.submit(read, name) for name in names]
        wait_until(lambda: sum(future.running() for future in waiting) > 900, 30, "the reads getting under way")
        for command in (["ls", "-l", mount.data / "d"], ["ls", mount.data], ["cat", mount.data / "cached"],
                        ["cat", mount.stats / "stats", mount.config], ["stat", mount.data / "d" / "f0500"],
                        ["df", mount.data], ["bash", "-c", f"echo new > '{mount.data}/new' && rm '{mount.data}/new'"],
                        ["mkdir", mount.data / "dir"], ["mv", mount.data / "dir", mount.data / "dir2"]):
            run(*command, timeout=AT_ONCE)
        done, late = concurrent.futures.wait(waiting, timeout=BOUND)
        assert not late, f"{len(late)} reads still wait after {BOUND} s"
    errors = [future.result() for future in waiting]
    assert all(isinstance(error, OSError) for error in errors)
    run("cat", mount.stats / "errors", timeout=AT_ONCE)

    net.thaw()
    wait_until(lambda: read("f0007") == b"content 7", 60, "recovery by itself")
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        assert list(pool.map(read, names)) == [b"content %d" % index for index in range(1000)]
    mount.stop()


def test_work_goes_on_while_the_store_is_away(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=0, metadata_cache=3600).start()
    (mount.data / "project").mkdir()
    (mount.data / "project" / "old").write_bytes(b"old")
    os.listdir(mount.data)
    mount.sync()
    net.set(state="refuse")
    run("bash", "-ec", """
        cd project; cat old; echo new > new; for i in $(seq 100); do echo $i > f$i; done
        mkdir sub; mv new sub/moved; ln -s old link; chmod 600 old; rm f1; cp old copy; cd ..; mv project renamed
        """, cwd=mount.data, timeout=30)
    net.set(state="up")
    mount.sync()
    names = {name for name in radosgw.names() if not name.endswith("/")}
    assert {"renamed/old", "renamed/copy", "renamed/sub/moved", "renamed/f2"} <= names
    assert not any(name.startswith("project") or name.endswith("/f1") for name in names)
    mount.stop()


def test_a_mount_comes_up_without_the_network(radosgw, mounts, network):
    """From the catalog; and catches up when the store answers again."""
    store, net = network(radosgw)
    mount = mounts(store, cache=3600, metadata_cache=3600).start()
    (mount.data / "known").write_bytes(b"in the cache")
    mount.sync()
    (mount.data / "dirty").write_bytes(b"not uploaded")
    mount.kill()
    net.set(state="refuse")
    mount.start(timeout=60)
    assert (mount.data / "known").read_bytes() == b"in the cache"
    assert (mount.data / "dirty").read_bytes() == b"not uploaded"
    (mount.data / "more").write_bytes(b"written offline")
    net.set(state="up")
    mount.sync()
    assert radosgw.read("dirty") == b"not uploaded" and radosgw.read("more") == b"written offline"
    mount.stop()


@pytest.mark.limit(200)
@pytest.mark.parametrize("fault", [{"rate_refuse": 0.2}, {"rate_reset": 0.02}])
def test_a_bad_network_costs_time_and_no_bytes(fault, radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=0).start()
    net.set(**fault)
    contents = {f"f{index}": os.urandom(index * 1777 % 200_000) for index in range(150)}
    contents["big"] = os.urandom(24 << 20)
    for name, content in contents.items():
        (mount.data / name).write_bytes(content)
    mount.sync(timeout=150)
    net.set(**dict.fromkeys(fault, 0))
    mount.stop()
    for name in ("f1", "f149", "big"):
        assert radosgw.read(name) == contents[name]
    second = mounts(store).start()
    os.listdir(second.data)
    net.set(**fault)
    for name, content in contents.items():
        assert (second.data / name).read_bytes() == content, name
    net.set(**dict.fromkeys(fault, 0))
    second.stop()


def test_reads_of_a_file_in_the_cache_do_not_wait_for_an_upload(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=0).start()
    big = os.urandom(8 << 20)
    (mount.data / "big").write_bytes(big)
    net.set(state="stall")
    (mount.data / "big").write_bytes(big[::-1])
    assert run("sha256sum", mount.data / "big", timeout=AT_ONCE).stdout.startswith(
        hashlib.sha256(big[::-1]).hexdigest())
    net.set(state="up")
    mount.sync()
    assert radosgw.read("big") == big[::-1]
    mount.stop()


def test_a_store_without_empty_directories_is_said_to_be_one(s3_server, mounts):
    plain, whole = mounts(s3_server("rclone")).start(), mounts(s3_server("radosgw")).start()
    errors = wait_until(lambda: (plain.stats / "errors").read_text(), 20, "the warning")
    assert errors.startswith("emptyDirectories: once") and "keeps no empty directories" in errors
    assert "emptyDirectories" not in (whole.stats / "errors").read_text()
    for mount in (plain, whole):
        (mount.data / "empty").mkdir()
        mount.sync()
        second = mounts(mount.store).start()
        assert os.listdir(second.data) == (["empty"] if mount is whole else [])
        second.stop()
        mount.stop()
