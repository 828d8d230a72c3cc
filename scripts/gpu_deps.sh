#!/usr/bin/env bash
# Collects what kvship's core needs beyond CUDA and a compiler into .gpu-deps/, laid out as under /usr, for an
# x86-64 machine that has a GPU and no packages. Run on Debian 12; then, over there:
#   cmake -S . -B build -DKVSHIP_SERVICES=OFF -DCMAKE_PREFIX_PATH="$PWD/.gpu-deps/usr"
# Links become copies, so that the folder survives any way of copying it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh
help_if_wanted "$@"
source scripts/setup.sh

packages=(
  libabsl-dev libabsl20220623 libspdlog-dev libspdlog1.10 libfmt-dev libfmt9 nlohmann-json3-dev
  libhwy-dev libhwy1 libisal-dev libisal2 libpcre2-dev libpcre2-8-0 libutf8proc-dev libutf8proc2
  libssl-dev libssl3
  libgtest-dev libgmock-dev
)
architecture=x86_64-linux-gnu
target=.gpu-deps

# The rest of those packages: static twins of shared libraries, and what no program of ours links.
skipped='/(libcrypto|libssl|libpcre2-[a-z0-9]*|libutf8proc|libabsl_[a-z0-9_]*|libisal|libhwy[a-z_]*)\.a$'
skipped+='|/(libssl|libpcre2-(16|32|posix)|libhwy_(test|contrib))\.|/(engines-3|ossl-modules)/'

rm -rf "$target"
for package in "${packages[@]}"; do
  dpkg -L "$package" | grep -E "^(/usr)?/(include|share/cmake|lib/cmake|lib/$architecture)/" | grep -vE "$skipped" |
    while read -r path; do
      [[ -f $path ]] || continue
      [[ $path == /usr/* ]] && to=$target$path || to=$target/usr$path
      mkdir -p "$(dirname "$to")"
      cp -L "$path" "$to"
    done
done
fetch_cudnn_frontend
cp -r "$cache_folder/cudnn-frontend/include/." "$target/usr/include/"
fetch_jinja
cp -r "$cache_folder/jinja" "$target/usr/include/"
# NVIDIA's KV-cache compression for transformers, to be compared with; what else it needs PyTorch's machine has.
python3 -m pip install --quiet --no-deps --target "$target/python" kvpress==0.5.5 cachetools==8.0.2 ||
  say "no kvpress: the comparison with it is left out"
# Debian keeps headers that differ between architectures apart; a compiler elsewhere does not look there.
cp -r "$target/usr/include/$architecture/." "$target/usr/include/"
say "$target: $(du -sh "$target" | cut -f1)"
