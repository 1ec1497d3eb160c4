"""Mounts of an SSH server."""

import dataclasses
import os
import pathlib
import stat
import threading

import pytest
from harness import SECRET, describe, differences, run
from rigs.network import Network
from rigs.processes import wait_until
from rigs.ssh import end
from trees import kept, varied


def tree_of(root):
    """What of a tree has to come back: of times the seconds."""
    return {path: {name: fact // 10**9 if name == "time" else fact for name, fact in facts.items()}
            for path, facts in kept(describe(root), True).items()}


@pytest.fixture
def distant(sftp, folder):
    """`distant(latency_ms=15)`: (the store behind a line of its own, the line)."""
    made = []

    def make(**options):
        net = Network(folder / "net", sftp.endpoint, **options)
        made.append(net)
        return sftp.through(net.endpoint, folder / "known_hosts"), net

    yield make
    for net in made:
        net.stop()


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["object", "chunk"])
def test_a_tree_comes_back_from_the_server(kind, sftp, mounts, folder):
    source = varied(folder / "source", has_links=True)
    mount = mounts(sftp, cache=0, type=kind).start()
    run("cp", "-a", source, mount.data / "tree", timeout=120)
    mount.sync(timeout=240)
    mount.stop(timeout=120)
    assert sftp.read("tree/large") == (source / "large").read_bytes()
    if kind == "object":
        # What lies there is the tree itself.
        assert differences(tree_of(source), tree_of(sftp.path / "tree")) == []
        assert not list((sftp.path / ".cloudfusion" / "tmp").iterdir())

    cold = mounts(sftp, cache=0, type=kind).start()
    assert differences(tree_of(source), tree_of(cold.data / "tree")) == []
    # And it can be worked with: replaced, renamed, removed.
    (cold.data / "tree" / "large").write_bytes(b"replaced")
    os.rename(cold.data / "tree" / "d1", cold.data / "tree" / "renamed")
    (cold.data / "tree" / "empty").rmdir()
    cold.sync(timeout=240)
    expected = tree_of(cold.data / "tree")
    cold.stop(timeout=120)
    again = mounts(sftp, cache=0, type=kind).start()
    assert differences(expected, tree_of(again.data / "tree")) == []
    again.stop()


def test_it_is_mounted_by_url_with_a_key_of_the_home(sftp, mounts, folder, binary):
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "id_ed25519").write_bytes(pathlib.Path(sftp.key).read_bytes())
    (home / ".ssh" / "id_ed25519").chmod(0o600)
    (home / ".ssh" / "known_hosts").write_bytes(pathlib.Path(sftp.known_hosts).read_bytes())
    # With hashed names, as Debian's ssh writes them.
    run("ssh-keygen", "-q", "-H", "-f", home / ".ssh" / "known_hosts")
    mount = mounts(sftp)
    environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
    run(binary, sftp.url, mount.point, "-o", f"cache_dir={mount.cache}", env={**environment, "HOME": str(home)}, timeout=60)
    (mount.data / "file").write_bytes(b"by url")
    mount.stop()
    assert sftp.read("file") == b"by url"


def test_the_keys_of_an_agent_let_in(sftp, mounts, folder):
    agent = folder / "agent"
    done = run("ssh-agent", "-a", agent)
    pid = int(done.stdout.split("SSH_AGENT_PID=")[1].split(";")[0])
    try:
        run("ssh-add", "-q", sftp.key, env={**os.environ, "SSH_AUTH_SOCK": str(agent)})
        mount = mounts(dataclasses.replace(sftp, key=None), cache=0)
        mount.environment = {"SSH_AUTH_SOCK": str(agent), "HOME": str(folder)}
        mount.start()
        (mount.data / "file").write_bytes(b"by an agent's key")
        mount.stop()
    finally:
        end(pid)
    assert sftp.read("file") == b"by an agent's key"


def test_what_is_wrong_is_told_in_one_sentence(sftp, mounts, folder):
    nobody = folder / "nobody"
    nobody.write_text("")
    changed = folder / "changed"
    other = pathlib.Path(f"{sftp.key}.pub").read_text()
    changed.write_text(f"[{sftp.host}]:{sftp.port} {other}")
    mistakes = [
        ({"key_file": f"{pathlib.Path(sftp.key).parent}/user_unknown"}, "does not let"),
        ({"key_file": "", "password": SECRET}, "the password (not accepted)" if sftp.password else "takes none"),
        ({"path": f"{sftp.files}/there-is-none"}, "correct the setting 'path'"),
        ({"known_hosts": nobody}, "is not known: ssh-ed25519 SHA256:"),
        ({"known_hosts": changed}, "has changed: it is ssh-ed25519 SHA256:"),
        ({"port": sftp.bare}, "offers no SFTP"),
        ({"port": 1}, "(port 1) cannot be reached"),
    ]
    for change, words in mistakes:
        mount = mounts(sftp)
        lines = "\n".join(f"{key} = {value}" for key, value in {**sftp.auth, **change}.items())
        mount.write_config(f"[auth]\n{lines}\n[store]\nname = sftp\ncache_dir = {mount.cache}\n")
        said = mount.fail(timeout=90)
        assert words in said and SECRET not in said, said


def test_a_changed_key_of_the_server_stops_all_and_loses_nothing(sftp, mounts, folder):
    """While it is mounted: nothing is sent to whoever has the other key, and it goes on when the key is right again."""
    known = folder / "known"
    right = pathlib.Path(sftp.known_hosts).read_text()
    known.write_text(right)
    net = Network(folder / "net", sftp.endpoint)
    try:
        store = sftp.through(net.endpoint, known)
        trusted = known.read_text()
        mount = mounts(store, cache=0, metadata_cache=3600).start()
        (mount.data / "before").write_bytes(b"before")
        mount.sync()
        kind = pathlib.Path(f"{sftp.key}.pub").read_text().split()
        known.write_text("".join(f"{line.split()[0]} {kind[0]} {kind[1]}\n" for line in trusted.splitlines()))
        net.set(state="refuse")
        net.set(state="up")
        (mount.data / "after").write_bytes(b"after")
        wait_until(lambda: "has changed" in (mount.stats / "errors").read_text(), 60, "the change being told")
        assert "SHA256:" in (mount.stats / "errors").read_text()
        assert set(sftp.names()) == {"before"}
        assert (mount.data / "after").read_bytes() == b"after"
        known.write_text(trusted)
        mount.sync()
        assert sftp.read("after") == b"after"
        mount.stop()
    finally:
        net.stop()


@pytest.mark.limit(300)
def test_connections_that_end_in_the_middle_lose_nothing(sftp, mounts, distant, folder):
    source = varied(folder / "source", has_links=True)
    store, net = distant(latency_ms=2)
    mount = mounts(store, cache=0).start()
    stopping = threading.Event()
    cuts = []

    def cut():
        while not stopping.wait(0.4):
            net.set(state="refuse")
            net.set(state="up")
            cuts.append(1)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        run("cp", "-a", source, mount.data / "tree", timeout=120)
        wait_until(lambda: len(cuts) >= 8, 60, "connections being cut")
    finally:
        stopping.set()
        cutter.join()
    mount.sync(timeout=240)
    mount.stop(timeout=120)
    assert differences(tree_of(source), tree_of(sftp.path / "tree")) == []
    assert not [name for name in sftp.names() if "conflict" in name]


def test_a_server_process_that_dies_in_the_middle_of_an_upload_is_replaced(sftp, mounts, distant, folder):
    """The processes of sshd that serve the mount are killed while they write."""
    store, net = distant(mbit=200)
    mount = mounts(store, cache=0).start()
    content = os.urandom(30_000_000)
    (mount.data / "large").write_bytes(content)
    temporary = sftp.path / ".cloudfusion" / "tmp"
    wait_until(lambda: [path for path in temporary.iterdir() if path.stat().st_size > 3_000_000], 60, "the upload")
    killed = [pid for pid in writers_of(temporary)]
    assert killed, "nobody writes there"
    for pid in killed:
        end(pid)
    mount.sync(timeout=120)
    assert sftp.read("large") == content
    assert set(sftp.names()) == {"large"} and not list(temporary.iterdir())
    mount.stop()


def writers_of(place):
    """Processes that have a file below a folder open."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and any(
                    os.readlink(link).startswith(f"{place}/") for link in (entry / "fd").iterdir()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_changes_by_others_show_up_and_are_not_overwritten(sftp, mounts):
    mount = mounts(sftp, cache=600, metadata_cache=0).start()
    (mount.data / "file").write_bytes(b"ours at first")
    mount.sync()
    (sftp.path / "file").write_bytes(b"theirs, and longer")
    wait_until(lambda: (mount.data / "file").read_bytes() == b"theirs, and longer", 30, "their change showing up")
    (mount.data / "file").write_bytes(b"ours again, which is another length")
    (sftp.path / "file").write_bytes(b"theirs again")
    mount.sync()
    mount.stop()
    contents = {sftp.read(name) for name in sftp.names()}
    assert contents == {b"ours again, which is another length", b"theirs again"}


def test_what_sftp_cannot_make_stays_here_and_is_named(sftp, mounts):
    mount = mounts(sftp, cache=0).start()
    os.mkfifo(mount.data / "fifo")
    (mount.data / "file").write_bytes(b"beside it")
    wait_until(lambda: "SFTP makes no fifos" in (mount.stats / "notuploaded").read_text(), 30, "the refusal being told")
    wait_until(lambda: set(sftp.names()) == {"file"}, 30, "the file beside it")
    assert stat.S_ISFIFO((mount.data / "fifo").lstat().st_mode)
    (mount.data / "fifo").unlink()
    mount.sync()
    mount.stop()


def test_a_symbolic_link_on_the_server_is_a_link_in_the_mount(sftp, mounts, folder):
    secret = folder / "outside"
    secret.mkdir()
    (secret / "file").write_bytes(b"outside of the store")
    (sftp.path / "link").symlink_to(secret)
    mount = mounts(sftp, cache=0).start()
    assert os.readlink(mount.data / "link") == str(secret)
    (mount.data / "link").unlink()
    mount.sync()
    assert (secret / "file").exists() and not (sftp.path / "link").is_symlink()
    mount.stop()
