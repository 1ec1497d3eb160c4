"""Programs that people use do their work on the mount as they do on a disk."""

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from harness import digest, run, shell

GIT = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_NAME": "a",
       "GIT_COMMITTER_EMAIL": "a@b.c", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


def need(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (scripts/install-packages test)")


def python(script, *arguments, **options):
    """In a process of its own: a page fault on a dead mount cannot be interrupted."""
    return run(sys.executable, "-c", textwrap.dedent(script), *arguments, **options)


def test_git_clones_commits_branches_and_collects_garbage(work, folder):
    need("git")
    origin = folder / "origin"
    shell("""
        git init -q -b main origin && cd origin
        for i in $(seq 60); do mkdir -p d$((i % 7)); seq $((i * 50)) > d$((i % 7))/f$i; git add -A; git commit -qm "c$i"; done
        ln -s d1 link; printf '#!/bin/sh\\n' > run; chmod +x run; git add -A; git commit -qm links
        """, cwd=folder, env=GIT)
    shell(f"""
        git clone -q {origin} clone && cd clone
        test -z "$(git status --porcelain)"
        test -L link && test -x run
        git checkout -q -b side && echo more >> d1/f1 && git commit -qam more && git checkout -q main
        git merge -q --no-ff -m merge side && git gc -q --aggressive --prune=now && git fsck --strict
        test -z "$(git status --porcelain)"
        git checkout -q HEAD~20 && git checkout -q main && test -z "$(git status --porcelain)"
        git stash list && git worktree add -q ../worktree side && git -C ../worktree status --porcelain
        """, cwd=work.data, env=GIT, timeout=90)


def test_make_builds_a_c_project_and_then_nothing_more(work):
    need("make", "cc")
    project = work.data / "project"
    project.mkdir()
    for index in range(8):
        (project / f"part{index}.c").write_text(f'#include "all.h"\nint part{index}(void) {{ return {index}; }}\n')
    (project / "all.h").write_text("".join(f"int part{index}(void);\n" for index in range(8)))
    (project / "main.c").write_text(
        '#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%d\\n", '
        + " + ".join(f"part{index}()" for index in range(8)) + "); return 0; }\n")
    (project / "Makefile").write_text(
        "OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))\nsum: $(OBJECTS)\n\tcc -o $@ $^\n%.o: %.c all.h\n\tcc -c -o $@ $<\n")
    run("make", "-j2", cwd=project)
    assert run("./sum", cwd=project).stdout == "28\n"
    assert "up to date" in run("make", cwd=project).stdout
    (project / "part3.c").write_text('#include "all.h"\nint part3(void) { return 100; }\n')
    assert run("make", cwd=project).stdout.count("cc -c") == 1
    assert run("./sum", cwd=project).stdout == "125\n"


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "TRUNCATE"])
def test_sqlite_keeps_its_database_intact(work, mode):
    path = work.data / f"{mode}.db"
    script = """
        import sqlite3, sys
        db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
        assert db.execute(f"pragma journal_mode = {sys.argv[2]}").fetchone()[0] == sys.argv[2].lower()
        db.execute("create table if not exists t (id integer primary key, who text, body blob)")
        for round in range(20):
            db.execute("begin immediate")
            db.executemany("insert into t (who, body) values (?, randomblob(500))", [(sys.argv[3],)] * 50)
            db.execute("rollback" if round % 5 == 4 else "commit")
        db.close()
        """
    # One makes the database, then three write at once: locks have to work.
    python(script, path, mode, "first")
    writers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path), mode, f"writer{index}"])
               for index in range(3)]
    assert [writer.wait(timeout=90) for writer in writers] == [0, 0, 0]
    done = python("""
        import sqlite3, sys
        db = sqlite3.connect(sys.argv[1], timeout=30)
        print(db.execute("pragma integrity_check").fetchone()[0], db.execute("select count(*) from t").fetchone()[0])
        """, path)
    assert done.stdout == f"ok {4 * 16 * 50}\n"


def test_sqlite_command_line_dump_and_restore(work, folder):
    need("sqlite3")
    with sqlite3.connect(folder / "source.db") as db:
        db.execute("create table t (a, b)")
        db.executemany("insert into t values (?, ?)", [(index, "x" * 100) for index in range(2000)])
    db.close()
    shell(f"sqlite3 {folder}/source.db .dump | sqlite3 restored.db && sqlite3 restored.db 'vacuum; select count(*) from t'",
          cwd=work.data)


def test_vim_saves_as_editors_do(work):
    need("vim.tiny")
    path = work.data / "notes.txt"
    path.write_text("one\ntwo\n")
    path.chmod(0o640)
    for settings, word in (("set nobackup nowritebackup", "THREE"), ("set backup writebackup backupcopy=no", "FOUR"),
                           ("set backup writebackup backupcopy=yes", "FIVE")):
        run("vim.tiny", "-N", "-u", "NONE", "-es", "-c", f"{settings} backupskip=", "-c", f"normal Go{word}", "-c", "wq", path, timeout=30)
        assert path.read_text().endswith(f"{word}\n")
    assert path.read_text() == "one\ntwo\nTHREE\nFOUR\nFIVE\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert (work.data / "notes.txt~").read_text() == "one\ntwo\nTHREE\nFOUR\n"
    assert not list(work.data.glob(".*.sw?"))


def test_a_save_through_a_temporary_file_is_never_half_seen(work):
    """Write beside it, fsync, rename over: whoever reads sees the old or the new, in whole."""
    python("""
        import os, sys, threading
        path = sys.argv[1] + "/settings.json"
        def save(number):
            with open(path + ".tmp", "w") as file:
                file.write(str(number % 10) * 50_000)
                file.flush()
                os.fsync(file.fileno())
            os.rename(path + ".tmp", path)
        save(0)
        stop = threading.Event()
        wrong = []
        def reader():
            while not stop.is_set():
                with open(path) as file:
                    text = file.read()
                if len(text) != 50_000 or len(set(text)) != 1:
                    wrong.append(text[:20])
        threads = [threading.Thread(target=reader) for _ in range(2)]
        [thread.start() for thread in threads]
        for number in range(100):
            save(number)
        stop.set()
        [thread.join() for thread in threads]
        assert not wrong, wrong
        """, work.data)


def test_rsync_finds_nothing_to_do_the_second_time(work, folder):
    need("rsync")
    source = folder / "source"
    for index in range(200):
        (source / f"d{index % 10}").mkdir(parents=True, exist_ok=True)
        (source / f"d{index % 10}" / f"f{index}").write_bytes(os.urandom(index * 37))
        os.utime(source / f"d{index % 10}" / f"f{index}", ns=(index, 10**18 + index))
    (source / "link").symlink_to("d1/f1")
    os.link(source / "d1" / "f1", source / "hard")
    run("rsync", "-aH", f"{source}/", work.data / "copy")
    second = run("rsync", "-aHc", "--itemize-changes", f"{source}/", work.data / "copy")
    assert second.stdout == ""
    assert (work.data / "copy" / "hard").stat().st_nlink == 2
    (source / "d3" / "f3").write_bytes(b"new")
    third = run("rsync", "-aH", "--itemize-changes", "--delete", f"{source}/", work.data / "copy").stdout
    assert [line.split()[1] for line in third.splitlines()] == ["d3/f3"], third


def test_rsync_in_place_and_append(work, folder):
    need("rsync")
    big = folder / "big"
    big.write_bytes(os.urandom(5_000_000))
    run("rsync", "-a", "--inplace", "--no-whole-file", big, work.data / "big")
    with open(big, "r+b") as file:
        file.seek(2_000_000)
        file.write(b"changed in the middle")
        file.seek(0, 2)
        file.write(b"and longer")
    run("rsync", "-a", "--inplace", "--no-whole-file", big, work.data / "big")
    assert digest(big) == digest(work.data / "big")


def test_tar_unpacks_what_it_packed(work, folder):
    archive = folder / "tree.tar"
    shell(f"""
        mkdir -p tree/a/b && for i in $(seq 300); do head -c $((i * 31)) /dev/urandom > tree/a/b/$i; done
        ln -s a/b tree/link && chmod 741 tree/a && touch -d '2001-02-03 04:05:06.789012345' tree/a/b/7
        tar cf {archive} tree
        """, cwd=work.data)
    shell(f"tar xf {archive} --one-top-level=again && tar df {archive} && diff -r --no-dereference tree again/tree",
          cwd=work.data)


def test_direct_io(work, folder):
    original = folder / "original"
    original.write_bytes(os.urandom(8 << 20))
    copy = work.data / "copy"
    run("dd", f"if={original}", f"of={copy}", "bs=1M", "oflag=direct")
    assert digest(original) == digest(copy)
    run("dd", f"if={copy}", f"of={folder}/back", "bs=64k", "iflag=direct")
    assert digest(original) == digest(folder / "back")
    run("dd", "if=/dev/zero", f"of={copy}", "bs=4k", "count=3", "seek=100", "conv=notrunc", "oflag=direct")
    with open(original, "r+b") as file:
        file.seek(409_600)
        file.write(bytes(12_288))
    assert digest(original) == digest(copy)


def test_memory_mapped_reading_and_writing(work):
    python("""
        import mmap, os, sys
        path = sys.argv[1] + "/mapped"
        with open(path, "wb") as file:
            file.truncate(3_000_000)
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            for at in range(0, 3_000_000, 4096 * 7):
                view[at:at + 5] = b"%05d" % (at // 28672)
            view.flush()
        with open(path, "rb") as file:
            for at in range(0, 3_000_000, 4096 * 7):
                file.seek(at)
                assert file.read(5) == b"%05d" % (at // 28672), at
        with open(path, "r+b") as file:                     # written one way, seen the other way
            file.seek(1000)
            file.write(b"by write")
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                assert view[1000:1008] == b"by write"
        assert os.path.getsize(path) == 3_000_000
        """, work.data)


def test_several_processes_append_to_one_file(work):
    script = """
        import os, sys
        file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in range(500):
            line = f"{sys.argv[2]} {number:04} {'x' * 80}\\n".encode()
            assert os.write(file, line) == len(line)
        os.close(file)
        """
    path = work.data / "log"
    writers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path), str(index)])
               for index in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{index} {number:04} {'x' * 80}" for index in range(4) for number in range(500))
    for index in range(4):       # and each one's in order
        assert [line for line in lines if line[0] == str(index)] == sorted(line for line in lines if line[0] == str(index))


def test_sed_awk_sort_and_find_in_place(work):
    (work.data / "list").write_text("".join(f"line {number}\n" for number in range(1000)))
    shell("""
        sed -i 's/line 5/LINE 5/' list && test "$(grep -c LINE list)" = 111
        sort -R list > shuffled && sort -o shuffled -k2n shuffled && sed -i 's/LINE/line/' list shuffled && cmp list shuffled
        awk '{print $2 > "out" ($2 % 3)}' list && test "$(cat out0 out1 out2 | wc -l)" = 1000
        split -l 100 list part. && cat part.* | cmp - list && find . -name 'part.*' -size +0 -delete
        install -m 600 list installed && test "$(stat -c %a installed)" = 600
        mkfifo pipe && (cat list > pipe &) && cmp pipe list
        truncate -s 1M sparse && test "$(stat -c %s sparse)" = 1048576 && fallocate -l 2M sparse && cp --sparse=always sparse sparse2 && cmp sparse sparse2
        mv list renamed && ln renamed hard && test "$(stat -c %h renamed)" = 2 && rm renamed && test -s hard
        """, cwd=work.data)


def test_locks_between_processes(work):
    need("flock")
    shell("""
        echo 0 > counter
        for i in 1 2 3 4; do
            (for j in $(seq 25); do flock lock sh -c 'n=$(cat counter); echo $((n + 1)) > counter'; done) &
        done
        wait; test "$(cat counter)" = 100
        """, cwd=work.data)


def test_an_open_file_outlives_its_name(work):
    path = work.data / "gone"
    with open(path, "w+b") as file:
        file.write(b"still here")
        file.flush()
        path.unlink()
        assert not path.exists()
        file.seek(0)
        assert file.read() == b"still here"
        file.write(b" and writable")
        file.flush()
        assert os.fstat(file.fileno()).st_size == 23
    assert list(work.data.iterdir()) == []


def test_removing_a_tree_while_it_is_walked(work):
    shell("""
        for d in $(seq 20); do mkdir -p t/$d/x; for f in $(seq 50); do : > t/$d/x/$f; done; done
        rm -r t && test ! -e t
        for f in $(seq 2000); do : > f$f; done; test "$(ls | wc -l)" = 2000; find . -name 'f*' -delete; test -z "$(ls)"
        """, cwd=work.data)


def test_extended_attributes(work):
    path = work.data / "file"
    path.write_bytes(b"x")
    os.setxattr(path, "user.colour", b"green\0")
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.colour") == b"green\0"
    assert {"user.colour", "user.empty"} <= set(os.listxattr(path))
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.colour", b"red", os.XATTR_CREATE)
    os.removexattr(path, "user.empty")
    assert "user.empty" not in os.listxattr(path)
