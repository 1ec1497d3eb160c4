"""OpenSSH's sshd as an SFTP server, with keys, a configuration and accounts of its own."""

import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess

from rigs.processes import Processes, RigError, free_ports, start_time, wait_until


class SSHServer:
    """sshd, run by whoever starts it, who is also the only one that it lets in. Nothing of the system's is changed.

    `settings` after start: port, user, key (a file), known_hosts, files (the folder), password, and ports of the same
    server that behave otherwise: `interactive` takes no password but asks for one, `chatty` prints a text in place of
    SFTP, and `bare` has no SFTP at all.

    A password is there for root only: sshd runs in a mount namespace of its own then, in which /etc/shadow and the
    rules of PAM are the rig's, and beside the files are a folder `small` with room for 4 MB and one, `fixed`, for
    reading only. For others password, interactive and chatty are None.
    """

    name = "openssh"
    packages = "scripts/install-packages test"
    password = "rigsecret-0123456789"

    def __init__(self, state):
        self.state = pathlib.Path(state).absolute()
        self.processes = Processes(self.state)
        self.settings_file = self.state / "settings.json"
        self.files = self.state / "files"

    def start(self):
        if self.processes.pids() and self.settings_file.exists():
            return self.settings
        self.files.mkdir(parents=True, exist_ok=True)
        sshd = self.need("sshd")
        ports = dict(zip(("main", "interactive", "chatty", "bare"), free_ports(4)))
        try:
            self.make_keys(ports)
            root = os.getuid() == 0
            self.write_configurations(ports, root)
            for name in ("main", "bare"):
                command = [sshd, "-D", "-e", "-f", self.state / f"{name}.config"]
                self.processes.spawn(name, self.in_namespace(command) if root else command)
            for name in ports if root else ("main", "bare"):
                wait_until(lambda: self.greets(ports[name]), 30, f"an answer of sshd at its port {name}")
        except (RigError, OSError, subprocess.SubprocessError) as error:
            tail = self.processes.log_tail()
            self.processes.stop()
            raise RigError(f"sshd did not start: {error}\n{tail}") from error
        self.settings_file.write_text(json.dumps({
            "port": ports["main"], "user": pwd.getpwuid(os.getuid()).pw_name, "key": str(self.state / "user_key"),
            "known_hosts": str(self.state / "known_hosts"), "files": str(self.files),
            "password": self.password if root else None, "interactive": ports["interactive"] if root else None,
            "chatty": ports["chatty"] if root else None, "bare": ports["bare"]}))
        return self.settings

    def make_keys(self, ports):
        keygen = self.need("ssh-keygen")
        for name, kind, passphrase in (
                ("host_ed25519", "ed25519", ""), ("host_ecdsa", "ecdsa", ""), ("host_rsa", "rsa", ""),
                ("user_key", "ed25519", ""), ("user_ecdsa", "ecdsa", ""), ("user_rsa", "rsa", ""),
                ("user_encrypted", "ed25519", "a passphrase"), ("user_unknown", "ed25519", "")):
            if not (self.state / name).exists():
                subprocess.run([keygen, "-q", "-t", kind, "-N", passphrase, "-C", "rig", "-f", self.state / name], check=True)
        (self.state / "authorized_keys").write_text("".join(
            (self.state / f"{name}.pub").read_text() for name in ("user_key", "user_ecdsa", "user_rsa", "user_encrypted")))
        # Only one of the server's keys is known.
        kind, key, *_ = (self.state / "host_ed25519.pub").read_text().split()
        (self.state / "known_hosts").write_text("".join(f"[127.0.0.1]:{port} {kind} {key}\n" for port in ports.values()))

    def write_configurations(self, ports, root):
        common = "".join(f"HostKey {self.state}/host_{kind}\n" for kind in ("rsa", "ecdsa", "ed25519")) + f"""\
AuthorizedKeysFile {self.state}/authorized_keys
PidFile none
StrictModes no
UseDNS no
PermitRootLogin yes
PasswordAuthentication {'yes' if root else 'no'}
KbdInteractiveAuthentication {'yes' if root else 'no'}
UsePAM {'yes' if root else 'no'}
MaxStartups 200
DisableForwarding yes
PrintMotd no
LogLevel INFO
"""
        listen = [ports["main"], *([ports["interactive"], ports["chatty"]] if root else [])]
        (self.state / "main.config").write_text(
            "".join(f"ListenAddress 127.0.0.1:{port}\n" for port in listen) + common + "Subsystem sftp internal-sftp\n" + (f"""\
Match LocalPort {ports['interactive']}
    PasswordAuthentication no
Match LocalPort {ports['chatty']}
    ForceCommand echo Welcome to this machine
""" if root else ""))
        (self.state / "bare.config").write_text(f"ListenAddress 127.0.0.1:{ports['bare']}\n" + common)

    def in_namespace(self, command):
        """The command, where the passwords and the rules for them are others."""
        crypted = subprocess.run(
            [self.need("openssl"), "passwd", "-6", "-stdin"], input=self.password, text=True, check=True,
            capture_output=True).stdout.strip()
        shadow = self.state / "shadow"
        shadow.write_text(f"root:{crypted}:19000:0:99999:7:::\nsshd:!:19000::::::\n")
        shadow.chmod(0o600)
        rules = self.state / "pam"
        rules.write_text("auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n")
        for name in ("small", "fixed"):
            (self.state / name).mkdir(exist_ok=True)
        (self.state / "fixed" / "file").write_text("fixed")
        return [self.need("unshare"), "--mount", "--propagation", "private", "sh", "-ec", """\
mount --bind "$1/shadow" /etc/shadow
mount --bind "$1/pam" /etc/pam.d/sshd
mount -t tmpfs -o size=4M none "$1/small"
mount --bind -o ro "$1/fixed" "$1/fixed"
mount -o remount,bind,ro "$1/fixed"
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
shift
exec "$@"
""", "sh", self.state, *command]

    def greets(self, port):
        if not self.processes.pids():
            raise RigError("the server has ended")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    @property
    def settings(self):
        return json.loads(self.settings_file.read_text())

    @property
    def announcement(self):
        """The line for the environment of the tests."""
        settings = self.settings
        fields = ("port", "user", "key", "known_hosts", "files", "password", "interactive", "chatty", "bare")
        line = " ".join(str(settings[field] or "-") for field in fields)
        return f'CLOUDFUSION_TEST_SFTP_{self.name.upper()}="127.0.0.1 {line}"'

    def connections(self):
        """The processes that serve those who are connected."""
        return [pid for parent in self.processes.pids().values() for pid in children(parent)]

    def break_connections(self):
        """Ends all connections at once, in the middle of whatever they are at."""
        for pid in self.connections():
            for process in (*children(pid), pid):
                end(process)

    def stop(self):
        connected = [(pid, start_time(pid)) for pid in self.connections()]
        self.processes.stop()
        for pid, begun in connected:
            if begun and start_time(pid) == begun:
                end(pid)
        self.settings_file.unlink(missing_ok=True)

    def need(self, program):
        """Where a program is that only root has in PATH."""
        found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found is None:
            raise RigError(f"{program} is not installed; {self.packages} installs it")
        return found


def children(pid):
    try:
        return [int(child) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
