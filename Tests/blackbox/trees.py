"""Directory trees to copy around: ordinary ones, and ones with everything that a file system allows."""

import os
import pathlib
import random
import stat
import sysconfig


def ordinary(count):
    """About `count` files that people really have, as (source folder, relative paths)."""
    for source in ("/usr/share/doc", sysconfig.get_path("stdlib"), "/usr/share", "/usr/lib"):
        found = []
        for folder, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 1 << 20:
                    found.append(os.path.relpath(path, source))
            if len(found) >= count:
                return source, found[:count]
    raise AssertionError(f"no folder of this system has {count} files")


NAMES = [
    "plain", "with space", " leading and trailing ", "Grüße — 日本語 — 🙂", "e\u0301 is not \u00e9", "new\nline",
    "tab\tand\rreturn", "per%cent%2Fencoded", "plus+and&amp;", "quote'\"`", "back\\slash", "semi;colon?query#part",
    "-dash", "~tilde", "$dollar", "*star[0]{a,b}", ".hidden", "...", "a.", "trailing.dot.", "x" * 255, "ä" * 127,
    "nul", "CON", ".wh.looks-like-a-whiteout", "a=b", "a,b", "a:b", "a|b", "<tag>", "\x01\x7f", "con.conflict-host-1",
]
BYTE_NAMES = [b"latin-1 \xe4\xf6\xfc", b"\xff\xfe", b"cut \xe2\x82", b"mixed \xc3\xa9 and \xe9", b"\x80" * 100]


def odd(root, names=NAMES, byte_names=BYTE_NAMES):
    """Makes a tree with odd names, every mode, times to the nanosecond, links, empty folders, and odd sizes."""
    generator = random.Random(20)
    root = pathlib.Path(root)
    root.mkdir(parents=True)
    for index, name in enumerate([os.fsencode(name) for name in names] + list(byte_names)):
        path = os.path.join(os.fsencode(root), name)
        with open(path, "wb") as file:
            file.write(generator.randbytes(generator.choice([0, 1, 511, 512, 4096, 70_001])))
        os.utime(path, ns=(10**18 + index, 10**18 + index * 1_000_000_007))
    folders = root / "folders"
    for name in names:
        (folders / name / "empty").mkdir(parents=True)
    (folders / "a/deep/er/and/deep/er").mkdir(parents=True)
    (folders / "a/deep/er/and/deep/er/file").write_bytes(b"down here")
    modes = root / "modes"
    modes.mkdir()
    for mode in (0o000, 0o400, 0o444, 0o600, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1777, 0o7777):
        path = modes / f"{mode:o}"
        path.write_bytes(b"#!/bin/sh\n")
        path.chmod(mode)
    (modes / "private").mkdir(mode=0o700)
    (modes / "sticky").mkdir()
    (modes / "sticky").chmod(0o1777)
    links = root / "links"
    links.mkdir()
    for name, target in (("relative", "../plain"), ("absolute", "/etc/hostname"), ("dangling", "no/such"),
                         ("odd", "new\nline ü"), ("long", "y" * 1000), ("folder", "../folders"), ("loop", "loop")):
        (links / name).symlink_to(target)
    times = root / "times"
    times.mkdir()
    for name, moment in (("before 1970", -123_456_789_012), ("epoch", 0), ("one", 1), ("ns", 1_234_567_890_987_654_321),
                         ("after 2038", 4_102_444_800_000_000_001)):
        (times / name).write_bytes(name.encode())
        os.utime(times / name, ns=(moment, moment))
    os.utime(folders, ns=(5 * 10**17 + 1, 5 * 10**17 + 3))


def varied(root, has_links):
    """Folders in folders, small and large files, an empty folder, odd names, links, modes and times."""
    root.mkdir()
    for index in range(40):
        path = root / f"d{index % 5}" / f"s{index % 3}" / f"f{index:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(index).randbytes([0, 1, 3000, 70_000][index % 4]))
        path.chmod([0o644, 0o600, 0o755][index % 3])
        os.utime(path, ns=(index * 10**9, 1_500_000_000_123_456_789 + index))
    (root / "large").write_bytes(random.Random(99).randbytes(20_000_000))
    (root / "empty").mkdir()
    for name in ("ü ß 日本", "a+b & c%20", "two\nlines", "'q' \"d\"", "x" * 240):
        (root / name).write_bytes(name.encode())
    if has_links:
        (root / "link").symlink_to("d1/s1")
    return root


def kept(tree, keeps_attributes):
    """What of a tree has to come back. Folders have the times of when they were filled; where the store keeps no
    attributes, bytes and names count."""
    result = {}
    for path, facts in tree.items():
        facts = dict(facts)
        if stat.S_ISDIR(facts["kind"]):
            facts.pop("time")
        if not keeps_attributes:
            facts = {name: facts[name] for name in ("kind", "content")}
        result[path] = facts
    return result
