"""The model test from the command line: long runs, and the replay of what has failed."""

import argparse
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time
import uuid

from harness import S3, Local, Mount

from . import runner

ROOT = pathlib.Path(__file__).resolve().parents[3]


def main():
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / ".build/debug/cloudfusion")
    parser.add_argument("--store", default="local", help="local, or a server that `python -m rigs start` announced")
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--trust", type=int, nargs="+", default=[3600], metavar="SECONDS",
                        help="values of metadata_cache; with 0 and 1 listings come in all the time")
    parser.add_argument("--alone", action="store_true", help="nobody else changes the store")
    parser.add_argument("--shrink", type=int, default=600, metavar="SECONDS", help="how long to shorten what failed")
    parser.add_argument("--replay", type=pathlib.Path, metavar="FILE", help="do the operations in FILE instead")
    parser.add_argument("--patience", type=int, default=90, metavar="SECONDS", help="how long a sync may take")
    parser.add_argument("--failures", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()),
                        help="folder for the operations of a failure")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cloudfusion-model-"))
    try:
        return work(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def work(arguments, folder):
    make_mount = maker(arguments.binary, arguments.store, folder)
    begun = time.monotonic()
    if arguments.replay:
        failure = runner.replay(make_mount, runner.load(arguments.replay), arguments.patience)
    else:
        print(f"seed {arguments.seed}, {arguments.operations} operations on {arguments.store}", flush=True)
        failure = runner.explore(make_mount, arguments.seed, arguments.operations, arguments.patience,
                                 arguments.trust, arguments.alone)
    print(f"{time.monotonic() - begun:.0f} s")
    if not failure:
        print("no difference")
        return 0
    print(failure.reason, flush=True)
    path = arguments.failures / f"model-{arguments.seed}.jsonl"
    if not arguments.replay or arguments.shrink:
        runner.save(failure, path)
        failure = runner.shrink(make_mount, failure, arguments.shrink, lambda text: print(text, flush=True))
        runner.save(failure, path)
        print(f"{failure.reason}\n--replay {path} does it again: {len(failure.operations)} operations")
    return 1


def maker(binary, store, folder):
    """New mounts of new stores, each in a folder of its own that goes when the next one comes."""
    made = []

    def make():
        if made:
            made[-1][1].cancel()
            shutil.rmtree(made[-1][0].folder, ignore_errors=True)
        place = folder / f"m{len(made)}"
        place.mkdir()
        if store == "local":
            (place / "store").mkdir()
            at = Local(place / "store")
        else:
            at = S3.from_environment(store)
            if at is None:
                sys.exit(f"the server {store} is not announced: CONTRIBUTING.md says how to start it")
            at = at.below(f"m-{uuid.uuid4().hex[:12]}")
        mount = Mount(binary, place / "mount", at, {"metadata_cache": 3600})
        # What hangs on a mount can be ended by cutting the mount off only.
        watchdog = threading.Timer(4 * 3600, mount.kill)
        watchdog.daemon = True
        watchdog.start()
        made.append((mount, watchdog))
        return mount.start()

    return make


if __name__ == "__main__":
    sys.exit(main())
