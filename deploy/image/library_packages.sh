#!/usr/bin/env bash
# The Debian packages that own the shared libraries of programs, one a line: library_packages.sh PROGRAM...
# Programs are not linked with CUDA's libraries, which they open by name: those come with the image that they run on.
set -euo pipefail

libraries=$(ldd "$@" | awk '$2 == "=>" { print $3 }' | sed 's|^/usr||' | sort -u)
# /lib is a link to /usr/lib: dpkg knows some files under one, and the loader finds them under the other. It fails for the
# names that it does not know.
owners=$(sed 'p; s|^|/usr|' <<<"$libraries" | { xargs dpkg-query -S 2>/dev/null || true; } |
  sed 's|^\([^:]*\):.* \(/usr\)\?/lib/|\1 /lib/|')
missing=$(cut -d' ' -f2 <<<"$owners" | sort -u | comm -13 - <(printf '%s\n' "$libraries"))
[[ -z $missing ]] || {
  echo "no package has $missing" >&2
  exit 1
}
cut -d' ' -f1 <<<"$owners" | sort -u
