#!/usr/bin/env python3
"""Looks for NVIDIA's libraries, as the dynamic loader of this machine will for the programs that open them by name.

    scripts/gpu_libraries.py NAME...

Says of each on stderr where it is. Those that the loader does not find are looked for among PyTorch's packages and on the
disk; the folders that LD_LIBRARY_PATH has to name for them are printed, separated by colons. Exits with 1 if one is nowhere.
"""

import ctypes
import os
import subprocess
import sys

DISK = ("/usr", "/opt", "/root", "/home")
DISK_TIMEOUT_S = 20


def why_not(path):
    """None where it can be opened, which what it needs itself may prevent."""
    try:
        ctypes.CDLL(path)
        return None
    except OSError as error:
        return str(error)


def path_of(name):
    """Of a library that this process has opened."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths = {line.rstrip("\n").partition("/")[2] for line in maps}
    return next(("/" + path for path in sorted(paths) if os.path.basename(path).startswith(name)), name)


def packages():
    """The folders of PyTorch's packages with NVIDIA's libraries."""
    try:
        import nvidia
    except ImportError:
        return []
    return [os.path.join(root, package, "lib") for root in nvidia.__path__ for package in sorted(os.listdir(root))]


def on_disk(name):
    """Folders with a file of that name."""
    try:
        found = subprocess.run(["find", *filter(os.path.isdir, DISK), "-name", name], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=DISK_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [os.path.dirname(path) for path in found.stdout.splitlines()]


def search(name):
    """The folder of a library that the loader does not find, or None, and what was said of those that cannot be opened."""
    reasons = []
    for folders in (packages, lambda: on_disk(name)):
        for folder in folders():
            path = os.path.join(folder, name)
            reason = why_not(path) if os.path.exists(path) else ""
            if reason is None:
                return folder, reasons
            reasons += [reason] if reason else []
    return None, reasons


def main(names):
    added, missing = [], False
    for name in names:
        reason = why_not(name)
        if reason is None:
            print(f"{name}: {path_of(name)}", file=sys.stderr)
            continue
        folder, reasons = search(name)
        if folder is None:
            missing = True
            print(f"{name}: MISSING ({'; '.join([reason, *reasons])})", file=sys.stderr)
        else:
            print(f"{name}: {folder}, which LD_LIBRARY_PATH did not name", file=sys.stderr)
            added += [folder] if folder not in added else []
    print(":".join(added))
    return 1 if missing else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
