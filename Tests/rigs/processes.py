"""Child processes that can be found again, and ended, by another process."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time


class RigError(Exception):
    """A server that could not be started or asked, with what to do about it."""


def start_time(pid):
    """When the process began, in clock ticks since boot; None if it is gone or only a zombie."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on. They are all taken before the first is let go."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def wait_until(condition, seconds, what, every=0.05):
    """Calls `condition` until it is true; what it is then is the answer."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise RigError(f"{what} did not happen within {seconds} s")
        time.sleep(every)


class Processes:
    """The processes of one rig. A pid is kept with its start time, so that no stranger is ever signalled."""

    def __init__(self, state):
        self.state = pathlib.Path(state)
        self.file = self.state / "processes.json"

    def spawn(self, name, command, env=None, cwd=None):
        """Starts a command in a session of its own, its output in NAME.log."""
        (self.state / "log").mkdir(parents=True, exist_ok=True)
        with open(self.state / "log" / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=env, cwd=cwd, start_new_session=True)
        known = self.all()
        known[name] = [child.pid, start_time(child.pid)]
        self.file.write_text(json.dumps(known))
        return child

    def all(self):
        try:
            return json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}

    def pids(self):
        """Name and pid of those that run."""
        return {name: pid for name, (pid, begun) in self.all().items() if begun and start_time(pid) == begun}

    def signal(self, number):
        for pid in self.pids().values():
            os.kill(pid, number)

    def stop(self, patience=10):
        """Ends all, in the opposite order: politely, then not."""
        for name, pid in reversed(self.pids().items()):
            for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10)):
                if name not in self.pids():
                    break
                os.kill(pid, signal.SIGCONT)     # a stopped process does not even hear SIGTERM
                os.kill(pid, number)
                end = time.monotonic() + seconds
                while name in self.pids() and time.monotonic() < end:
                    reap(pid)
                    time.sleep(0.02)
        left = self.pids()
        self.file.unlink(missing_ok=True)
        if left:
            raise RigError(f"could not end {left}")

    def log_tail(self, lines=8):
        text = []
        for path in sorted((self.state / "log").glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            text += [f"{path.name}: {line}" for line in tail]
        return "\n".join(text)


def reap(pid):
    """Takes the exit status of a child of ours, so that it is no zombie; others are not ours to wait for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
