"""What is read is what was written, however it was written, also from the store alone."""

import shutil

import pytest
from harness import run

# Blocks of each size at random places, 256 MiB in all; the whole file is covered once.
JOB = ["--name=verify", "--size=256M", "--bssplit=1k/20:4k/50:64k/30", "--rw=randwrite", "--ioengine=psync",
       "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randseed=4711", "--fallocate=none"]


@pytest.mark.limit(240)
@pytest.mark.parametrize("store", ["local", "radosgw", "sftp"], indirect=True)
def test_random_writes_verify_cold_from_the_store(store, mounts):
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed (scripts/install-packages test)")
    first = mounts(store, cache=600).start()
    run("fio", *JOB, f"--filename={first.data}/file", "--do_verify=1", timeout=150)
    first.sync()
    first.stop()
    second = mounts(store).start()
    run("fio", *JOB, f"--filename={second.data}/file", "--verify_only", timeout=150)
    second.stop()
