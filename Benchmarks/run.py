"""The same work on CloudFusion, rclone and s3fs, side by side, over a network with a 30 ms round trip.

    make bench                      everything, three runs, and the table into docs/performance.md
    PYTHONPATH=Tests .build/venv/bin/python Benchmarks/run.py --quick --only cloudfusion,rclone

All use the same server (radosgw with its data in memory, on this machine) through the same delay proxy, each under a
prefix of its own. "returns" is when the program that did the work was done; "on the store" is when the server itself,
asked directly and not through the proxy, listed everything with its right size. "cold" is a new mount with an empty
cache. What is read was put on the store by another program, so that nobody knows more of it than the store tells.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import os
import pathlib
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "Tests"))
sys.path.insert(0, str(ROOT / "Tests" / "blackbox"))

from harness import S3, mounts_below, run  # noqa: E402
from rigs.network import Network  # noqa: E402
from rigs.processes import RigError, wait_until  # noqa: E402
from rigs.servers import RadosGateway, from_venv  # noqa: E402

REPORT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- table: written by make bench -->", "<!-- end of table -->"
LIMIT = 900          # seconds for one step


class Peer:
    """A program that mounts a bucket. Options are what its own documentation advises for this kind of work."""

    name = ""
    runs = 100           # at most
    share = 1            # of the many small files it gets one in so many, and its figures count so many times

    def __init__(self, store, folder, packs=False):
        self.store, self.folder, self.packs = store, pathlib.Path(folder), packs
        self.point = self.folder / "mnt"
        self.cache = self.folder / "cache"
        self.point.mkdir(parents=True)
        self.child = None

    data = property(lambda self: self.point)

    @classmethod
    def version(cls):
        raise NotImplementedError

    def start(self):
        raise NotImplementedError

    def push(self):
        """Asks for what is written to go to the store now; programs that do so by themselves do nothing here."""

    def wait_mounted(self):
        wait_until(lambda: mounts_below(self.point), 30, f"the mount of {self.name}", every=0.01)

    def stop(self):
        run("umount", self.point, timeout=120, check=False)
        if self.child:
            self.child.wait(timeout=120)

    def __enter__(self):
        shutil.rmtree(self.cache, ignore_errors=True)
        self.cache.mkdir(mode=0o700)
        self.start()
        self.wait_mounted()
        return self

    def __exit__(self, *exception):
        try:
            self.stop()
        finally:
            run("umount", "-l", self.point, timeout=20, check=False)
            if self.child and self.child.poll() is None:
                self.child.kill()
                self.child.wait(timeout=20)

    def spawn(self, *command, **options):
        log = open(self.folder / "log", "ab")
        self.child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                      **options)
        log.close()


class CloudFusion(Peer):
    name = "CloudFusion"
    binary = ROOT / ".build" / "cloudfusion"
    data = property(lambda self: self.point / "data")

    @classmethod
    def version(cls):
        return run(cls.binary, "version").stdout.strip()

    def start(self):
        config = self.folder / "config.ini"
        settings = {"auth": self.store.auth,
                    "store": {"name": "s3", "cache": 600 if self.packs else 0, "metadata_cache": 120,
                              "cache_dir": self.cache, "type": "chunk" if self.packs else "object"}}
        config.write_text("".join(
            f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
            for section, values in settings.items()))
        run(self.binary, "--config", config, self.point, timeout=30)

    def push(self):
        run(self.binary, "sync", self.point, timeout=LIMIT)

    def stop(self):
        run(self.binary, "stop", self.point, timeout=120)


class Rclone(Peer):
    name = "rclone"

    @classmethod
    def version(cls):
        return run(from_venv("rclone"), "--version").stdout.split()[1]

    def start(self):
        clean = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
        self.spawn(
            from_venv("rclone"), "mount", f":s3:{self.store.bucket}/{self.store.prefix}", self.point,
            "--config", "/dev/null", "--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--transfers", "32",
            "--vfs-read-chunk-streams", "8", "--vfs-read-chunk-size", "4M", "--dir-cache-time", "2m",
            "--cache-dir", self.cache, "--s3-provider", "Ceph", "--s3-endpoint", self.store.endpoint,
            "--s3-no-check-bucket", "--s3-force-path-style", env={
                **clean, "RCLONE_S3_ACCESS_KEY_ID": self.store.key, "RCLONE_S3_SECRET_ACCESS_KEY": self.store.secret})


class S3fs(Peer):
    name = "s3fs"
    runs = 1             # one of them takes a quarter of an hour
    share = 10

    @classmethod
    def version(cls):
        return run("s3fs", "--version").stdout.split("V")[1].split()[0]

    def start(self):
        passwd = self.folder / "passwd"
        passwd.write_text(f"{self.store.key}:{self.store.secret}")
        passwd.chmod(0o600)
        self.store.client.put_object(Bucket=self.store.bucket, Key=f"{self.store.prefix}/")
        self.spawn(
            "s3fs", f"{self.store.bucket}:/{self.store.prefix}", self.point, "-f", "-o", f"passwd_file={passwd}",
            "-o", f"url={self.store.endpoint}", "-o", "use_path_request_style", "-o", f"use_cache={self.cache}",
            "-o", "parallel_count=16", "-o", "multireq_max=64", "-o", "nonempty")


PEERS = {peer.name.lower(): peer for peer in (CloudFusion, Rclone, S3fs)}


# MARK: what is measured

class Run:
    """One pass of all steps by one program. Answers {step: (seconds, requests)} in `results`."""

    def __init__(self, peer_type, direct, network, folder, sizes):
        self.direct, self.network, self.sizes = direct, network, sizes
        self.peer_type, self.folder = peer_type, pathlib.Path(folder)
        self.through = direct.through(network.endpoint)
        self.results = {}
        self.mounted = 0

    def peer(self, packs=False):
        self.mounted += 1
        return self.peer_type(self.through, self.folder / str(self.mounted), packs)

    @contextlib.contextmanager
    def step(self, name, share=1):
        self.network.reset_count()
        begun = time.monotonic()
        yield
        self.results[name] = (
            (time.monotonic() - begun) * share, sum(self.network.requests().values()) * share)

    def until_stored(self, expected, mount):
        """Returns when the server lists exactly these names and sizes (of those that begin alike)."""
        mount.push()
        top = os.path.commonprefix([name.split("/")[0] for name in expected])

        def stored():
            names = {name: size for name, size in self.direct.names().items()
                     if name.startswith(top) and not name.endswith("/")}
            return names == expected
        wait_until(stored, LIMIT, f"{len(expected)} files on the store", every=0.01)

    def all(self):
        self.few()
        self.many()

    def few(self):
        count, big = self.sizes["files"], self.sizes["big"]
        small = {f"in/d{index % 20:02}/f{index:04}": 4096 for index in range(count)}
        source = self.folder / "source"
        for name in small:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(os.urandom(4096))
        (self.folder / "big").write_bytes(os.urandom(big))

        with self.peer() as mount:
            with self.step(f"copy {count:,} × 4 KiB in: on the store"):
                begun = time.monotonic()
                run("cp", "-r", source / "in", mount.data / "in", timeout=LIMIT)
                returned = time.monotonic() - begun
                self.until_stored(small, mount)
            self.results[f"copy {count:,} × 4 KiB in: returns"] = (returned, None)
            folder = {name: size for name, size in small.items() if name.startswith("in/d00/")}
            rest = {name: size for name, size in small.items() if name not in folder}
            with self.step(f"rename a folder of {len(folder)}: on the store"):
                begun = time.monotonic()
                os.rename(mount.data / "in" / "d00", mount.data / "in" / "renamed")
                returned = time.monotonic() - begun
                self.until_stored({**rest, **{name.replace("d00", "renamed"): size for name, size in folder.items()}},
                                  mount)
            self.results[f"rename a folder of {len(folder)}: returns"] = (returned, None)
            with self.step(f"write {big >> 20} MiB: on the store"):
                run("cp", self.folder / "big", mount.data / "big", timeout=LIMIT)
                self.until_stored({"big": big}, mount)
            with self.step("append 1 MiB to it: on the store"):
                run("bash", "-c", f"head -c 1048576 '{self.folder}/big' >> '{mount.data}/big'", timeout=LIMIT)
                self.until_stored({"big": big + (1 << 20)}, mount)

        self.preload(count, big)
        with self.peer() as mount:
            for warmth in ("cold", "warm"):
                with self.step(f"find {count:,} files with their sizes, {warmth}"):
                    found = run("find", mount.data / "out", "-type", "f", "-size", "8", timeout=LIMIT).stdout
                assert len(found.splitlines()) == count, found[:200]
            for warmth in ("cold", "warm"):
                with self.step(f"read {count:,} × 4 KiB, {warmth}"):
                    done = run("bash", "-c", f"cat '{mount.data}'/out/*/* | wc -c", timeout=LIMIT).stdout
                assert int(done) == count * 4096
        with self.peer() as mount:
            with self.step(f"read {big >> 20} MiB, cold"):
                run("cmp", self.folder / "big", mount.data / "large", timeout=LIMIT)
        with self.peer() as mount:
            generator = random.Random(1)
            with open(self.folder / "big", "rb") as right, self.step("100 random reads of 4 KiB, cold"):
                with open(mount.data / "large", "rb", buffering=0) as file:
                    for _ in range(100):
                        at = generator.randrange(big - 4096)
                        right.seek(at)
                        assert os.pread(file.fileno(), 4096, at) == right.read(4096)

    def many(self):
        """A tree of small files, which CloudFusion packs into archives."""
        share = self.peer_type.share
        count, folders = self.sizes["many"] // share, self.sizes["many"] // share // 50
        label = f"{self.sizes['many']:,} × 4 KiB"
        small = {f"many/d{index % folders:03}/f{index:05}": 4096 for index in range(count)}
        source = self.folder / "source"
        for name in small:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(os.urandom(4096))
        with self.peer(packs=True) as mount:
            with self.step(f"copy {label} in, packed: on the store", share):
                begun = time.monotonic()
                run("cp", "-r", source / "many", mount.data / "many", timeout=LIMIT)
                returned = time.monotonic() - begun
                if self.peer_type is CloudFusion:
                    mount.push()
                    archives = self.direct.below(f"{self.direct.prefix}/.cloudfusion/chunks").names()
                    assert sum(archives.values()) > count * 4096, "not all of it is on the store"
                else:
                    self.until_stored(small, mount)
            self.results[f"copy {label} in, packed: returns"] = (returned * share, None)
        with self.peer(packs=True) as mount:
            with self.step(f"tar of {label}, packed, cold", share):
                done = run("bash", "-c", f"tar c -C '{mount.data}/many' . | wc -c", timeout=LIMIT).stdout
            assert int(done) > count * 4096
            with self.step(f"rename the folder of {label}: returns"):
                os.rename(mount.data / "many", mount.data / "renamed")

    def preload(self, count, big):
        def put(index):
            self.direct.write(f"out/d{index % 20:02}/f{index:04}", os.urandom(4096))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(count)))
        self.direct.write("large", (self.folder / "big").read_bytes())


def measure(peer_types, runs, sizes):
    """{program: {step: [(seconds, requests), …]}}"""
    results = {}
    with tempfile.TemporaryDirectory(prefix="cloudfusion-bench.") as temporary:
        temporary = pathlib.Path(temporary)
        server = RadosGateway(temporary / "radosgw")
        settings = server.start()
        try:
            for number in range(runs):
                for peer_type in peer_types:             # interleaved: other load on the machine meets all of them
                    if number >= peer_type.runs:
                        continue
                    store = S3("radosgw", **settings, prefix=f"{peer_type.name.lower()}-{number}")
                    folder = temporary / f"{peer_type.name}-{number}"
                    folder.mkdir()
                    network = Network(temporary / "network", settings["endpoint"], latency_ms=15)
                    one = Run(peer_type, store, network, folder, sizes)
                    print(f"run {number + 1} of {runs}: {peer_type.name}", file=sys.stderr, flush=True)
                    try:
                        one.all()
                    except (AssertionError, OSError, RigError) as error:
                        print(f"  {peer_type.name} did not get through: {str(error)[:500]}", file=sys.stderr)
                    finally:
                        network.stop()
                    for step, result in one.results.items():
                        print(f"  {step}: {result[0]:.2f} s, {result[1]} requests", file=sys.stderr)
                        results.setdefault(peer_type.name, {}).setdefault(step, []).append(result)
                    shutil.rmtree(folder, ignore_errors=True)
                    for name in list(store.names()):
                        store.delete(name)
        finally:
            server.stop()
    return results


def table(results, runs):
    """Markdown: a row per step, a column per program, and how many times as long as CloudFusion the others take."""
    programs = list(results)
    steps = list(dict.fromkeys(step for found in results.values() for step in found))
    lines = ["| seconds (requests) | " + " | ".join(programs) + " |", "| --- " * (len(programs) + 1) + "|"]
    for step in steps:
        cells, own = [step], None
        for program in programs:
            found = results[program].get(step)
            if not found:
                cells.append("not done")
                continue
            seconds = statistics.median(result[0] for result in found)
            requests = [result[1] for result in found if result[1] is not None]
            cell = f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.3f}"
            if requests:
                cell += f" ({statistics.median_low(requests):,})"
            if program == CloudFusion.name:
                own = seconds
            elif own:
                cell += f", {seconds / own:.1f}×"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {PEERS[name.lower()].version()}" for name in programs)
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    lines += ["", f"{datetime.date.today()}; {versions}. Median of {runs} run{'s' * (runs > 1)} (s3fs: of one, "
              "and for the packed files ten times what a tenth of them took); n× is the time in relation "
              f"to CloudFusion's. Server: radosgw, data in memory, on the same machine: {os.cpu_count()} × {processor}, "
              f"{memory:.0f} GB, Linux {platform.release()}. Round trip: 30 ms, added by the project's delay proxy; "
              "bandwidth is what the machine gives. In brackets: requests that the proxy saw."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run, a tenth of the files; the report is left alone")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(PEERS), help="comma-separated: " + ", ".join(PEERS))
    parser.add_argument("--binary", type=pathlib.Path, default=CloudFusion.binary)
    arguments = parser.parse_args()
    CloudFusion.binary = arguments.binary.resolve()
    chosen = [PEERS[name] for name in arguments.only.split(",")]
    runs = 1 if arguments.quick else arguments.runs
    sizes = ({"files": 100, "many": 1000, "big": 16 << 20} if arguments.quick
             else {"files": 1000, "many": 10_000, "big": 128 << 20})
    results = measure(chosen, runs, sizes)
    text = table(results, runs)
    print(text)
    if not arguments.quick and len(chosen) == len(PEERS):
        head, _, rest = REPORT.read_text().partition(BEGIN)
        _, _, tail = rest.partition(END)
        REPORT.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")
    return 0 if all(len(found) == len(results[chosen[0].name]) for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
