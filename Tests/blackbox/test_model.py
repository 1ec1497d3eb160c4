"""Random operations on a mount, compared step by step with a folder in memory; see model/.

Not on S3: there a file can get a conflict copy of its own (docs/semantics.md, known faults). The command in
CONTRIBUTING.md can do that, and longer runs with other seeds.
"""

import pathlib
import tempfile

import pytest
from harness import Local, Mount
from model import runner

# A hundred thousand in all.
OPERATIONS = 20_000
SEEDS = [1, 2, 3, 4, 5]


@pytest.mark.limit(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_mount_does_what_a_folder_in_memory_does(seed, mounts, binary, folder, is_slow):
    made = []

    def make_mount():
        """A new mount of a new store."""
        place = folder / f"model{len(made)}"
        (place / "store").mkdir(parents=True)
        mount = Mount(binary, place / "mount", Local(place / "store"), {"metadata_cache": 3600})
        mounts.adopt(mount)
        made.append(mount)
        return mount.start()

    failure = runner.explore(make_mount, seed, OPERATIONS * (50 if is_slow else 1))
    if failure:
        path = pathlib.Path(tempfile.gettempdir()) / f"model-{seed}.jsonl"
        failure = runner.shrink(make_mount, failure, 60, print)
        runner.save(failure, path)
        pytest.fail(f"{failure.reason}\nseed {seed}; python -m model --replay {path} does it again", pytrace=False)
