"""Programs that were written to break file systems, each for a moment; --slow runs them for longer."""

import os
import random
import shutil

import pytest
from harness import run

HERE = os.path.dirname(os.path.abspath(__file__))


def need(program):
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program} (scripts/install-packages test)")


@pytest.fixture(scope="session")
def fsx(tmp_path_factory):
    need("cc")
    program = tmp_path_factory.mktemp("fsx") / "fsx"
    run("cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, os.path.join(HERE, "fsx.c"))
    return program


@pytest.mark.limit(900)
@pytest.mark.parametrize("seed", [1, 2, 3, None])
def test_random_operations_agree_with_memory(here, fsx, is_slow, seed):
    seed = random.randrange(10**9) if seed is None else seed
    done = run(fsx, "file", seed, 60_000 if is_slow else 1500, check=False, timeout=800)
    assert done.returncode == 0, f"fsx file {seed} …: {done.stdout}{done.stderr}"


@pytest.mark.limit(900)
def test_several_at_once(here, fsx, is_slow):
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [pool.submit(run, fsx, f"file{seed}", seed, 20_000 if is_slow else 500, timeout=800)
                for seed in range(11, 15)]
        for one in runs:
            one.result()


# Not here: those that need what no FUSE file system has, or that mount and unmount themselves.
STRESSORS = ["access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dup", "fallocate",
             "fcntl", "fiemap", "file-ioctl", "filename", "flock", "fpunch", "fsize", "fstat", "getdent", "hdd",
             "iomix", "inotify", "lease", "link", "locka", "lockf", "lockofd", "mknod", "open", "readahead",
             "rename", "revio", "seal", "seek", "sync-file", "symlink", "touch", "utime", "verity", "xattr"]


@pytest.mark.limit(1800)
def test_stress_ng(here, is_slow):
    """Each for a moment, with its own checks."""
    need("stress-ng")
    wrong = []
    for name in STRESSORS:
        done = run("stress-ng", "--quiet", "--temp-path", here.path, f"--{name}", "2", "--timeout",
                   "10s" if is_slow else "1s", f"--{name}-ops", "1000000" if is_slow else "60", "--verify",
                   check=False, timeout=120)
        # 3: the machine does not have what it needs; 2 and others: it failed.
        if done.returncode not in (0, 3, 4):
            wrong.append((name, done.returncode, done.stdout[-500:], done.stderr[-500:]))
    assert wrong == []


@pytest.mark.limit(600)
def test_dbench(here, is_slow):
    need("dbench")
    clients = next((path for path in ("/usr/share/dbench/client.txt", "/usr/share/doc/dbench/loadfiles/client.txt")
                    if os.path.exists(path)), None)
    if clients is None:
        pytest.skip("the load file of dbench is not where it was expected")
    done = run("dbench", "-c", clients, "-D", here.path, "-t", 60 if is_slow else 4, 2, check=False, timeout=400)
    assert done.returncode == 0 and "Throughput" in done.stdout, done.stdout + done.stderr
    # It has no exit status for what the file system did wrong. (Semaphores are the machine's.)
    wrong = [line for line in done.stdout.splitlines() if "ERROR" in line or "failed" in line and "semaphore" not in line]
    assert wrong == []


@pytest.mark.limit(600)
def test_bonnie(here, is_slow):
    need("bonnie++")
    amount = ["-s", "512M", "-r", "256M", "-n", "16"] if is_slow else ["-s", "32M", "-r", "16M", "-n", "1:2000:10:2"]
    user = ["-u", "root"] if os.getuid() == 0 else []
    done = run("bonnie++", "-q", "-d", here.path, *amount, *user, check=False, timeout=500)
    assert done.returncode == 0 and done.stdout.strip(), done.stdout + done.stderr
    assert "Expected" not in done.stderr and "error" not in done.stderr.lower(), done.stderr


@pytest.mark.limit(600)
def test_fs_mark(here, is_slow):
    need("fs_mark")
    done = run("fs_mark", "-d", "marks", "-n", 5000 if is_slow else 300, "-s", 10_000, "-t", 2, "-S", 1, "-v",
               check=False, timeout=500)
    assert done.returncode == 0 and "Files/sec" in done.stdout, done.stdout + done.stderr
