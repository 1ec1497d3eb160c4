# For the other scripts: `source` it. Shell options, the top of the tree, the Swift toolchain first in PATH.
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$TOP/.build/venv

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# OpenStack's client is a program named swift too, and Debian puts it into /usr/bin.
find_toolchain() {
    local folder
    local IFS=:
    for folder in $PATH ~/.local/share/swiftly/bin /usr/libexec/swift/bin; do
        if [ -x "$folder/swift" ] && [ -x "$folder/swift-build" ]; then
            PATH=$folder:$PATH
            return
        fi
    done
    if command -v swift >/dev/null; then
        die "$(command -v swift) is not the Swift compiler (OpenStack has a program of that name). Put the toolchain's folder first in PATH; Swift 6.1 or newer is at https://www.swift.org/install/linux/"
    fi
    die "No Swift compiler in PATH. Swift 6.1 or newer is at https://www.swift.org/install/linux/"
}

# NAME: the binary's folder of a configuration (debug, release).
bin_path() { swift build --package-path "$TOP" -c "$1" --show-bin-path; }

# Mount points at or below a folder, the innermost first.
mounts_below() { awk -v top="$1" '$5 == top || index($5, top "/") == 1 {print $5}' /proc/self/mountinfo | tac; }

# Whether a process is an ancestor of this script, or a part of it.
is_ours() {
    local at=$1
    while [ "$at" -gt 1 ]; do
        [ "$at" != $$ ] || return 0
        at=$(awk '/^PPid:/ {print $2}' "/proc/$at/status" 2>/dev/null) || return 0      # gone: no matter
    done
    at=$$
    while [ "$at" -gt 1 ]; do
        [ "$at" != "$1" ] || return 0
        at=$(awk '/^PPid:/ {print $2}' "/proc/$at/status")
    done
    return 1
}

# Pid and command of processes that were started with a word that holds a path, or run in a folder below it.
# What a program that has ended left behind has become a child of init, so none of this script's own count.
processes_with() {
    local path=$1 pid
    for pid in $(cd /proc && echo [0-9]*); do
        case $(readlink "/proc/$pid/cwd" 2>/dev/null) in
        "$path" | "$path"/*) ;;
        *) grep -qsF "$path" "/proc/$pid/cmdline" || continue ;;
        esac
        is_ours "$pid" || printf '%s %s\n' "$pid" "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | cut -c1-200)"
    done
}
