"""The ways to mount: configuration file, URL, options; read-only, for others, flat; several side by side."""

import errno
import json
import os
import subprocess

import pytest
from harness import Local, run
from rigs.processes import wait_until


def test_a_local_folder_by_url(local, folder, mounts, binary):
    mount = mounts(local)
    run(binary, local.url, mount.point, "-o", f"cache_dir={mount.cache}", "-o", "cache=600", timeout=30)
    assert mount.is_mounted
    (mount.data / "hello").write_bytes(b"world")
    mount.stop()
    assert (local.path / "hello").read_bytes() == b"world"


def test_a_bucket_by_url_with_credentials_from_the_environment(radosgw, mounts, binary):
    mount = mounts(radosgw)
    run(binary, radosgw.url, mount.point, "-o", f"endpoint={radosgw.endpoint}", "-o", f"region={radosgw.region}",
        "-o", f"cache_dir={mount.cache}", timeout=30, env={
            **os.environ, "AWS_ACCESS_KEY_ID": radosgw.key, "AWS_SECRET_ACCESS_KEY": radosgw.secret})
    (mount.data / "hello").write_bytes(b"world")
    mount.stop()
    assert radosgw.read("hello") == b"world"


def test_words_in_any_order_and_several_options_in_one_word(local, mounts, binary):
    mount = mounts(local)
    run(binary, "-o", f"cache_dir={mount.cache},cache=5", mount.point, "--config", write(mount), timeout=30)
    assert mount.is_mounted
    run(binary, mount.point, "stop", timeout=60)          # as the predecessor took it
    assert not mount.is_mounted


def write(mount):
    mount.write_config()
    return mount.config_file


def test_the_command_returns_when_the_mount_works_and_keeps_nothing_open(local, mounts, binary):
    """A shell pipeline around it ends: the daemon does not hold the pipe."""
    mount = mounts(local)
    mount.write_config()
    done = subprocess.run(
        f"'{binary}' --config '{mount.config_file}' '{mount.point}' 2>&1 | cat; ls '{mount.data}'", shell=True,
        timeout=30, capture_output=True)
    assert done.returncode == 0, done
    pid, = mount.pids()
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.stat(f"/proc/{pid}/fd/0").st_rdev == os.stat("/dev/null").st_rdev
    mount.stop()


def test_in_the_foreground_until_it_is_stopped(local, mounts):
    mount = mounts(local).start_in_foreground()
    (mount.data / "x").write_bytes(b"x")
    mount.cli("stop", mount.point)
    assert mount.child.wait(timeout=30) == 0


def test_two_mounts_share_nothing(local, folder, mounts, radosgw):
    other = Local(folder / "other")
    other.path.mkdir()
    a, b, c = mounts(local, cache=600).start(), mounts(other, cache=0).start(), mounts(radosgw, cache=600).start()
    (a.data / "same").write_bytes(b"in a")
    (b.data / "same").write_bytes(b"in b")
    (c.data / "same").write_bytes(b"in c")
    assert [(m.data / "same").read_bytes() for m in (a, b, c)] == [b"in a", b"in b", b"in c"]
    b.sync()
    assert "same" in (a.stats / "notuploaded").read_text() and "same" not in (b.stats / "notuploaded").read_text()
    b.stop()
    assert (a.data / "same").read_bytes() == b"in a"
    a.stop()
    c.stop()
    assert [local.read("same"), other.read("same"), radosgw.read("same")] == [b"in a", b"in b", b"in c"]


@pytest.mark.parametrize("store", ["local", "radosgw", "sftp"], indirect=True)
def test_two_mounts_of_one_store_see_each_other(store, mounts):
    a, b = mounts(store, cache=0).start(), mounts(store, cache=0).start()
    (a.data / "from-a").write_bytes(b"hello b")
    a.sync()
    wait_until(lambda: (b.data / "from-a").exists() and (b.data / "from-a").read_bytes() == b"hello b", 20,
               "the other mount seeing it")
    (b.data / "from-a").write_bytes(b"hello a, longer")
    b.sync()
    wait_until(lambda: (a.data / "from-a").read_bytes() == b"hello a, longer", 20, "the way back")
    a.stop()
    b.stop()


def test_read_only(store, mounts):
    store.write("file", b"look")
    mount = mounts(store, flags=["-o", "ro"]).start()
    assert (mount.data / "file").read_bytes() == b"look"
    for change in (lambda: (mount.data / "file").write_bytes(b"x"), lambda: (mount.data / "new").mkdir(),
                   lambda: (mount.data / "file").unlink(), lambda: (mount.data / "file").chmod(0o600)):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EROFS
    mount.stop()
    assert store.read("file") == b"look"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_other_users_need_allow_other(local, mounts, folder):
    for path in (folder, *folder.parents):           # temporary folders are for one user only
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o055)
    local.write("file", b"look")
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    mount = mounts(local).start()
    assert run("cat", mount.data / "file", check=False, **nobody).returncode != 0
    mount.stop()
    second = mounts(local, flags=["-o", "allow_other"]).start()
    assert run("cat", second.data / "file", **nobody).stdout == "look"
    (second.data / "private").write_bytes(b"x")
    (second.data / "private").chmod(0o600)
    assert run("cat", second.data / "private", check=False, **nobody).returncode != 0
    assert run("touch", second.data / "new", check=False, **nobody).returncode != 0
    second.stop()


def test_flat(store, mounts):
    mount = mounts(store, flags=["-o", "flat"], cache=600).start()
    (mount.point / "file").write_bytes(b"in the root")
    assert sorted(path.name for path in mount.point.iterdir() if path.name != ".cloudfusion") == ["file"]
    assert "file" in (mount.point / ".cloudfusion" / "stats" / "notuploaded").read_text()
    mount.stop()
    assert store.read("file") == b"in the root"


def test_sync_of_one_path_does_not_wait_for_the_others(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=3600).start()
    (mount.data / "urgent").write_bytes(b"now")
    (mount.data / "later").write_bytes(b"x" * 1000)
    mount.sync(mount.data / "urgent")
    assert radosgw.read("urgent") == b"now"
    assert "later" not in radosgw.names()
    mount.stop()


def test_sync_says_when_it_cannot(radosgw, mounts, network):
    """A permanent error keeps the file here, dirty, with its reason; sync does not claim success."""
    store, net = network(radosgw)
    mount = mounts(store, cache=3600).start()
    (mount.data / "ok").write_bytes(b"x")
    radosgw.client.put_bucket_policy(Bucket=radosgw.bucket, Policy=json.dumps({
        "Version": "2012-10-17", "Statement": [{
            "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
            "Resource": f"arn:aws:s3:::{radosgw.bucket}/{radosgw.prefix}/forbidden*"}]}))
    try:
        (mount.data / "forbidden").write_bytes(b"not allowed")
        done = mount.cli("sync", mount.point, check=False, timeout=60)
        assert done.returncode == 1 and "forbidden" in done.stdout + done.stderr
        assert "forbidden" in (mount.stats / "notuploaded").read_text()
        assert radosgw.read("ok") == b"x"
        assert (mount.data / "forbidden").read_bytes() == b"not allowed"
    finally:
        radosgw.client.delete_bucket_policy(Bucket=radosgw.bucket)
    mount.sync()
    assert radosgw.read("forbidden") == b"not allowed"
    mount.stop()


def test_version_and_help(binary):
    assert run(binary, "version").stdout.strip()
    text = run(binary, "--help").stdout
    for word in ("stop", "sync", "status", "check-config", "MOUNTPOINT"):
        assert word.lower() in text.lower()


def test_status_for_people_and_programs(local, mounts):
    mount = mounts(local, cache=600).start()
    (mount.data / "dirty").write_bytes(b"x")
    assert isinstance(mount.status(), dict)
    assert mount.cli("status", mount.point).stdout.strip()
    mount.stop()


def test_the_size_of_a_folder_and_of_the_disk(local, mounts):
    mount = mounts(local).start()
    (mount.data / "half").write_bytes(bytes(500_000))
    assert (mount.data / "half").stat().st_blocks * 512 >= 500_000
    run("df", mount.data)
    assert os.statvfs(mount.data).f_bavail > 0
    mount.stop()
