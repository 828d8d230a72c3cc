#!/usr/bin/env bash
# Makes a relocatable archive of the programs and the shared libraries they need, for machines with glibc 2.36 or
# newer that have no packages of kvship's:
#
#   scripts/bundle.sh [FOLDER]                    for the CPU alone; the archive goes to build-bundle/ unless named
#   scripts/bundle.sh --cuda [FOLDER]             also for GPUs, on machines that have CUDA's libraries
#   scripts/bundle.sh --cuda-libraries [FOLDER]   with those libraries inside
#
# CUDA's libraries (cuBLASLt, cuDNN, NVRTC, NCCL) take more than a gigabyte, and a machine with a GPU has them as a rule;
# programs open them when a GPU is used, and start without. glibc and the driver's libcuda belong to the machine they run
# on and never travel. KVSHIP_BUNDLE_BIN names a folder with programs
# that are built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh
help_if_wanted "$@"

programs=(kvship-prefill kvship-decode kvship kvship-inspect)

with_cuda=OFF cuda_libraries=no
case ${1:-} in
  --cuda) with_cuda=ON && shift ;;
  --cuda-libraries) with_cuda=ON cuda_libraries=yes && shift ;;
  --*) die "scripts/bundle.sh: unknown option '$1'; wanted --cuda or --cuda-libraries" ;;
esac
folder=$(realpath -m "${1:-build-bundle}")

build_programs() {
  mkdir -p build-bundle
  quietly build-bundle/configure.log cmake -S . -B build-bundle -G Ninja -DKVSHIP_CUDA="$with_cuda" \
    -DKVSHIP_TESTS=OFF -DKVSHIP_BENCH=OFF || die "CMake could not configure build-bundle"
  cmake --build build-bundle --target "${programs[@]}" </dev/null || die "the programs do not build"
}

# Copies a library under the name that programs ask for, stripped, looking for others beside itself.
add_library() {
  local to=$root/lib/${1##*/}
  install -m 644 "$1" "$to"
  strip --strip-unneeded "$to"
  # shellcheck disable=SC2016  # for the dynamic loader
  patchelf --set-rpath '$ORIGIN' "$to"
}

# Where the loader finds a library of CUDA's.
find_cuda_library() {
  local folder folders=()
  IFS=: read -ra folders <<<"${LD_LIBRARY_PATH:-}:$cuda_folder/lib64"
  for folder in "${folders[@]}"; do
    if [[ -e $folder/$1 ]]; then echo "$folder/$1" && return; fi
  done
  ldconfig -p | awk -v name="$1" '$1 == name { print $NF; found = 1; exit } END { exit !found }'
}

# What programs open by name when they use a GPU. cuDNN and NVRTC open more of their own libraries.
add_cuda_libraries() {
  local name path more
  for name in "${cuda_names[@]}"; do
    path=$(find_cuda_library "$name") || die "--cuda-libraries: $name is not here"
    cp -L "$path" "$root/lib/"
    case $name in
      libcudnn.so.*) for more in "${path%/*}"/libcudnn_*.so."${name##*.so.}"; do cp -L "$more" "$root/lib/"; done ;;
      libnvrtc.so.*) for more in "${path%/*}"/libnvrtc-builtins.so."${name##*.so.}".*; do cp -L "$more" "$root/lib/"; done ;;
    esac
  done
}

# The licences of the packages that the libraries came from, and the texts that those refer to.
add_licences() {
  local files owners file package
  mapfile -t files < <(realpath "$@")
  # Packages may know a file by its path from before /lib became a link to /usr/lib.
  owners=$(dpkg-query -S "${files[@]}" "${files[@]#/usr}" 2>/dev/null) || true
  for file in "${files[@]}"; do
    package=$(awk -v at="$file" '$2 == at || "/usr" $2 == at { sub(/:.*/, "", $1); print $1; exit }' <<<"$owners")
    [[ -n $package ]] || die "no package owns $file: its licence is not known"
    cp -L "/usr/share/doc/$package/copyright" "$root/licences/$package"
  done
  grep -ohE '/usr/share/common-licenses/[A-Za-z0-9.-]*[A-Za-z0-9]' "$root"/licences/* | sort -u |
    while read -r file; do cp -L "$file" "$root/licences/"; done
}

write_readme() {
  cat >"$root/README.md" <<README
# kvship $version

The programs are in bin/, the libraries they need beside them in lib/, whose licences are in licences/. Unpack anywhere on
an x86-64 machine with glibc 2.36 or newer, then:

    bin/kvship-prefill --model=MODEL &
    bin/kvship-decode --model=MODEL &
    bin/kvship generate --prompt="..."

MODEL is a GGUF file, or a directory with config.json and *.safetensors. Every program tells its flags with --help.
README
  [[ $with_cuda == ON ]] || return 0
  cat >>"$root/README.md" <<README

\`--device=cuda\` computes on a GPU. NVIDIA's libraries $([[ $cuda_libraries == yes ]] && echo "are in lib/: ${cuda_names[*]}." ||
    echo "are the machine's own, and opened when a GPU is
used: the dynamic loader has to find ${cuda_names[*]} (LD_LIBRARY_PATH).")
README
}

if [[ $with_cuda == ON ]]; then
  nvcc=$(command -v nvcc) || die "scripts/bundle.sh: no nvcc; wanted it with --cuda and --cuda-libraries"
  cuda_folder=${nvcc%/bin/nvcc}
  read -ra cuda_names <<<"$(cuda_libraries)"
fi
bin=${KVSHIP_BUNDLE_BIN:-build-bundle/bin}
[[ -n ${KVSHIP_BUNDLE_BIN:-} ]] || build_programs
version=$(sed -nE 's/^project\(kvship VERSION ([0-9.]+).*/\1/p' CMakeLists.txt)
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
name=kvship-$version-linux-$(uname -m)
root=$staging/$name
mkdir -p "$root/bin" "$root/lib" "$root/licences" "$folder"

for program in "${programs[@]}"; do
  install -m 755 "$bin/$program" "$root/bin/$program"
  strip "$root/bin/$program"
  # shellcheck disable=SC2016
  patchelf --set-rpath '$ORIGIN/../lib' "$root/bin/$program"
done
libraries=$(libraries_of "${programs[@]/#/$bin/}")
carried=()
while read -r library; do
  if [[ $library =~ $of_the_machine ]]; then continue; fi
  add_library "$library"
  carried+=("$library")
done <<<"$libraries"
[[ $cuda_libraries == no ]] || add_cuda_libraries
add_licences "${carried[@]}"
xgrammar_licences >"$root/licences/xgrammar"  # compiled into kvship-decode
cp "$cache_folder/jinja/LICENSE" "$root/licences/llama.cpp"  # its Jinja engine, compiled into them all
cp LICENSE "$root/"
write_readme
tar -C "$staging" --sort=name --owner=0 --group=0 --numeric-owner -czf "$folder/$name.tar.gz" "$name"
say "$folder/$name.tar.gz: $(du -h "$folder/$name.tar.gz" | cut -f1)"
