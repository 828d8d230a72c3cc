#!/usr/bin/env bash
# The Debian packages that own the shared libraries of programs, one a line: library_packages.sh PROGRAM...
set -euo pipefail

ldd "$@" | awk '$2 == "=>" { print $3 }' | sort -u | while read -r library; do
  # By name alone: dpkg knows some under /usr/lib that the loader finds under /lib.
  dpkg-query -S "*/$(basename "$library")" | cut -d: -f1 | sort -u | head -n 1
done | sort -u
