"""The files under config/ and stats/: what they tell, and that writing to them does what it says."""

import errno
import json
import os
import threading

import pytest
from harness import SECRET, Local, run, shell
from rigs.processes import wait_until

STATS = ["stats", "notuploaded", "errors", "metrics", "status.json"]
AT_ONCE = 5          # seconds: generous, and far below any time limit for a store


def read_all(mount):
    """Every control file's text, read in another process so that a hang shows as a time-out."""
    return {name: run("cat", mount.point / name, timeout=AT_ONCE).stdout
            for name in ["config/config", *(f"stats/{name}" for name in STATS)]}


def test_control_files_tell_the_truth_about_a_dirty_file(store, mounts):
    mount = mounts(store, cache=600).start()
    (mount.data / "dirty.txt").write_bytes(b"12345" * 1000)
    files = read_all(mount)
    assert "dirty.txt" in files["stats/notuploaded"]
    assert os.getxattr(mount.data / "dirty.txt", "user.cloudfusion.dirty") == b"1"
    json.loads(files["stats/status.json"])
    for line in files["stats/metrics"].splitlines():
        assert line.startswith("#") or len(line.rsplit(" ", 1)) == 2 and float(line.rsplit(" ", 1)[1]) >= 0, line
    mount.sync()
    files = read_all(mount)
    assert "dirty.txt" not in files["stats/notuploaded"]
    assert os.getxattr(mount.data / "dirty.txt", "user.cloudfusion.dirty") == b"0"
    assert "heartbeat" in files["stats/stats"]
    mount.stop()


def test_control_files_answer_at_once_while_the_store_is_frozen(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=0, metadata_cache=0).start()
    (mount.data / "known").write_bytes(b"x")
    mount.sync()
    net.freeze()
    (mount.data / "new").write_bytes(b"to be uploaded")
    files = read_all(mount)
    assert "new" in files["stats/notuploaded"]
    status = json.loads(run(mount.binary, "status", mount.point, "--json", timeout=AT_ONCE).stdout)
    assert status
    net.thaw()
    mount.sync()
    assert radosgw.read("new") == b"to be uploaded"
    mount.stop()


def in_force(mount, name):
    """A setting's value as config/config shows it."""
    for line in mount.config.read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.split("#")[0].strip()
    raise AssertionError(f"config/config does not tell {name}:\n{mount.config.read_text()}")


def by_echo(path, text):
    shell(f"cat > '{path}' <<'END'\n{text}END\n")


def by_cp(path, text):
    source = path.parents[2] / "new-config"
    source.write_text(text)
    run("cp", source, path)


def by_vim(path, text):
    """As an editor with backupcopy=yes does it: write the file in place, truncated first."""
    source = path.parents[2] / "new-config"
    source.write_text(text)
    run("vim.tiny", "-N", "-u", "NONE", "-es", "-c", "set nobackup nowritebackup noswapfile", "-c", "%delete",
        "-c", f"0read {source}", "-c", "wq!", path, timeout=30)


@pytest.mark.parametrize("write", [by_echo, by_cp, by_vim])
def test_settings_change_while_mounted(write, local, mounts):
    mount = mounts(local, cache=600, metadata_cache=500).start()
    assert (in_force(mount, "cache"), in_force(mount, "metadata_cache")) == ("600", "500")
    write(mount.config, mount.config_text(cache=7, metadata_cache=11, cache_size=1234))
    assert [in_force(mount, name) for name in ("cache", "metadata_cache", "cache_size")] == ["7", "11", "1234"]
    (mount.data / "after").write_bytes(b"still works")
    mount.stop()


def test_the_figures_are_what_happened(store, mounts):
    """Each byte of a file counts once, whatever the store is; requests are those of the store."""
    content = os.urandom(3_000_000)
    # An upload that begins before all is written would be given up, and begun anew.
    mount = mounts(store, cache=600).start()
    (mount.data / "file").write_bytes(content)
    mount.sync()
    assert "3.000 MB uploaded" in (mount.stats / "stats").read_text()
    assert samples(mount)["cloudfusion_uploaded_bytes_total"] == 3_000_000
    second = mounts(store).start()
    assert (second.data / "file").read_bytes() == content
    assert "3.000 MB downloaded" in (second.stats / "stats").read_text()
    figures = samples(second)
    assert figures["cloudfusion_downloaded_bytes_total"] == 3_000_000
    if store.name != "local":
        assert figures['cloudfusion_store_requests_total{operation="get"}'] >= 1
        assert figures['cloudfusion_store_request_duration_seconds_count{operation="get"}'] >= 1
        assert figures["cloudfusion_store_received_bytes_total"] > 3_000_000
        assert samples(mount)["cloudfusion_store_sent_bytes_total"] >= 3_000_000
    mount.stop()
    second.stop()


def samples(mount):
    """stats/metrics: name with labels → value."""
    lines = (mount.stats / "metrics").read_text().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def test_sed_in_place_changes_a_setting(local, mounts):
    """sed -i writes a new file beside the old one and renames it over."""
    mount = mounts(local, cache=600).start()
    run("sed", "-i", "s/^cache *=.*/cache = 8/", mount.config)
    assert in_force(mount, "cache") == "8"
    mount.stop()


def test_what_config_shows_can_be_written_back(store, mounts):
    """The settings in force, secrets masked, and all: reading it and writing it changes nothing."""
    mount = mounts(store, cache=600).start()
    before = mount.config.read_text()
    by_echo(mount.config, before)
    assert in_force(mount, "cache") == "600"
    (mount.data / "x").write_bytes(b"x")
    mount.sync()
    assert store.read("x") == b"x"
    mount.stop()


def test_a_shorter_delay_takes_effect_on_what_is_waiting(store, mounts):
    mount = mounts(store, cache=3600).start()
    (mount.data / "waiting").write_bytes(b"for an hour")
    by_echo(mount.config, mount.config_text(cache=0))
    wait_until(lambda: store.names().get("waiting") == 11, 30, "the upload")
    mount.stop()


@pytest.mark.parametrize("line, names", [
    ("cache = soon", ["cache", "soon"]), ("cache = -5", ["cache"]), ("cach = 5", ["cach", "cache"]),
    ("cache_size = 99999999999999999999", ["cache_size"]), ("name = nosuchstore", ["nosuchstore"]),
    ("this is no setting", ["this is no setting"]), ("[nosection]\nx = 1", ["nosection"]),
])
def test_a_bad_setting_fails_the_close_and_changes_nothing(line, names, local, mounts):
    mount = mounts(local, cache=600).start()
    before = mount.config_text()
    file = os.open(mount.config, os.O_WRONLY | os.O_TRUNC)
    os.write(file, (before.rstrip("\n") + f"\n{line}\n").encode())
    with pytest.raises(OSError) as refused:
        os.close(file)
    assert refused.value.errno == errno.EINVAL
    errors = (mount.stats / "errors").read_text()
    assert all(name in errors for name in names), errors
    assert in_force(mount, "cache") == "600"
    (mount.data / "still").write_bytes(b"works")
    mount.stop()


def test_removing_the_config_unmounts_and_loses_nothing(store, mounts):
    mount = mounts(store, cache=3600).start()
    (mount.data / "last").write_bytes(b"written just before")
    mount.config.unlink()
    wait_until(lambda: not mount.is_mounted, 60, "the end of the mount")
    mount.wait_for_end()
    assert store.read("last") == b"written just before"


def test_a_mount_without_a_store_connects_when_the_template_is_filled_in(folder, binary, mounts, radosgw):
    mount = mounts(None)
    mount.write_config("[store]\ncache_dir = " + str(mount.cache) + "\n")
    done = run(binary, mount.point, "-o", f"cache_dir={mount.cache}", timeout=30)
    assert done.returncode == 0
    assert (mount.point / "data").is_dir()
    template = mount.config.read_text()
    assert "[auth]" in template and "[store]" in template
    with pytest.raises(OSError):
        (mount.data / "nowhere").write_bytes(b"x")
    by_echo(mount.config, mount.config_text(radosgw))
    (mount.data / "now").write_bytes(b"connected")
    mount.sync()
    assert radosgw.read("now") == b"connected"
    mount.stop()


def test_a_wrong_key_in_the_config_leaves_the_old_store_connected(radosgw, mounts):
    mount = mounts(radosgw, cache=600).start()
    (mount.data / "before").write_bytes(b"x")
    text = mount.config_text().replace(radosgw.secret, SECRET)
    file = os.open(mount.config, os.O_WRONLY | os.O_TRUNC)
    os.write(file, text.encode())
    with pytest.raises(OSError):
        os.close(file)
    errors = (mount.stats / "errors").read_text()
    assert SECRET not in errors and radosgw.secret not in errors
    mount.sync()
    assert radosgw.read("before") == b"x"
    mount.stop()


def test_a_change_of_store_drains_the_old_one_first(local, folder, mounts):
    mount = mounts(local, cache=3600).start()
    (mount.data / "old").write_bytes(b"for the old store")
    other = Local(folder / "other")
    other.path.mkdir()
    (other.path / "there").write_bytes(b"already")
    by_echo(mount.config, mount.config_text(other))
    assert local.read("old") == b"for the old store"
    assert sorted(path.name for path in mount.data.iterdir()) == ["there"]
    (mount.data / "new").write_bytes(b"for the new store")
    mount.sync()
    assert other.read("new") == b"for the new store" and "new" not in local.names()
    mount.stop()


@pytest.mark.parametrize("command", ["sync", "drain", "now waiting"])
def test_commands_return_when_done(command, store, mounts):
    mount = mounts(store, cache=3600).start()
    (mount.data / "waiting").write_bytes(b"until told")
    by_echo(mount.point / "config" / "command", f"{command}\n")
    assert store.read("waiting") == b"until told"
    mount.stop()


def test_an_unknown_command_is_refused(local, mounts):
    mount = mounts(local).start()
    file = os.open(mount.point / "config" / "command", os.O_WRONLY)
    os.write(file, b"sing\n")
    with pytest.raises(OSError) as refused:
        os.close(file)
    assert refused.value.errno == errno.EINVAL
    mount.stop()


def test_control_directories_are_no_place_for_files(local, mounts):
    mount = mounts(local).start()
    for folder in (mount.point, mount.stats):
        with pytest.raises(OSError):
            (folder / "mine").write_bytes(b"x")
        with pytest.raises(OSError):
            (folder / "mine").mkdir()
    with pytest.raises(OSError):
        (mount.stats / "stats").write_bytes(b"x")
    with pytest.raises(OSError):
        mount.data.rmdir()
    with pytest.raises(OSError):
        (mount.stats / "stats").rename(mount.data / "stats")
    assert sorted(path.name for path in mount.point.iterdir()) == ["config", "data", "stats"]
    run("find", mount.point, "-ls")
    run("du", "-s", mount.point)
    mount.stop()


def test_the_config_is_for_its_owner_only(local, mounts):
    mount = mounts(local).start()
    assert mount.config.stat().st_mode & 0o777 == 0o600
    for path in [mount.cache, *mount.cache.rglob("*")]:
        assert path.lstat().st_mode & 0o077 == 0, path
    mount.stop()


def test_stats_can_be_read_by_many_while_files_are_written(local, mounts):
    mount = mounts(local, cache=0).start()
    stop = threading.Event()
    wrong = []

    def read():
        while not stop.is_set():
            try:
                json.loads((mount.stats / "status.json").read_text())
                assert (mount.stats / "stats").read_text() and (mount.stats / "metrics").read_text()
            except (OSError, ValueError, AssertionError) as error:
                wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for index in range(300):
        (mount.data / f"f{index}").write_bytes(b"x" * index)
    stop.set()
    for reader in readers:
        reader.join(timeout=20)
    assert not wrong
    mount.stop()
