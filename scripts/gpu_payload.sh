#!/usr/bin/env bash
# Packs all that scripts/gpu.sh needs on a machine with a GPU and nothing else into one archive of less than 52 MB:
#
#   scripts/gpu_payload.sh [FOLDER]     build-gpu-payload/kvship-gpu.tar.xz unless named
#
# The programs are those of build/bin, built with CUDA, or of the folder that KVSHIP_GPU_BIN names: stripped, with the
# libraries they need beside them but glibc (2.36 or newer), the driver's and CUDA's, and found there before any that
# LD_LIBRARY_PATH names. Of the demo model it takes the first layers. KVSHIP_COMMIT names the commit they were built of,
# where that is not the one checked out.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh
help_if_wanted "$@"

programs=(kvship_kernels_cuda_test kvship_kernels_cuda_libraries_test kvship_engine_cuda_test
  kvship_prefill_service_cuda_test kvship-cuda-bench kvship-engine-bench kvship-nccl-bench kvship-prefill
  kvship-decode kvship)
model_layers=2
most_bytes=52000000 # with the checkout, 14 MB, less than the 64 MiB that such a machine may take

bin=${KVSHIP_GPU_BIN:-build/bin}
folder=$PWD/build-gpu-payload
[[ -z ${1:-} ]] || folder=$(cd "$caller" && realpath -m "$1")
archive=$folder/kvship-gpu.tar.xz
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
root=$staging/kvship-gpu
mkdir -p "$root/bin" "$root/lib" "$folder"

for program in "${programs[@]}"; do
  [[ -x $bin/$program ]] || die "$bin/$program: wanted the programs of a build with CUDA and NCCL"
  strip -o "$root/bin/$program" "$bin/$program"
  # shellcheck disable=SC2016  # for the dynamic loader
  patchelf --force-rpath --set-rpath '$ORIGIN/../lib' "$root/bin/$program"
done
libraries_of "${programs[@]/#/$bin/}" | grep -vE "$of_the_machine" | while read -r library; do
  strip --strip-unneeded -o "$root/lib/${library##*/}" "$library"
  # shellcheck disable=SC2016
  patchelf --force-rpath --set-rpath '$ORIGIN' "$root/lib/${library##*/}"
done

git ls-files -z scripts bench/engine/cuda/transformers_baseline.py | xargs -0 cp --parents -t "$root"
# kvpress, where scripts/gpu_deps.sh has fetched it.
[[ ! -d .gpu-deps/python ]] || cp -r --parents .gpu-deps/python "$root"
if [[ -f $model_path ]]; then
  scripts/gpu_model.py "$model_path" $model_layers "$root/model.gguf"
else
  say "without the demo model: no $model_path"
fi
cat >"$root/gpu-payload.env" <<ENV
export KVSHIP_GPU_BIN=bin KVSHIP_GPU_SERVICES=bin KVSHIP_GPU_MODEL=model.gguf KVSHIP_GPU_PACK=yes
export KVSHIP_GPU_LIBRARIES='$(cuda_libraries)'
export KVSHIP_COMMIT='${KVSHIP_COMMIT:-$(git rev-parse --short HEAD)}' KVSHIP_GPU_COMPILER='$(nvcc --version | tail -n 1)'
ENV
# The programs hold the same kernels: with a dictionary larger than all of them each is stored once.
tar -C "$staging" --sort=name --owner=0 --group=0 --numeric-owner -cf - kvship-gpu |
  xz -T2 --lzma2=preset=6,dict=256MiB >"$archive"
num_bytes=$(stat -c %s "$archive")
say "$archive: $num_bytes bytes. Over there:" \
  "tar -xf ${archive##*/} && kvship-gpu/scripts/gpu.sh FOLDER STAGE... (without xz: python3 -m tarfile -e ${archive##*/})"
[[ $num_bytes -lt $most_bytes ]] || die "wanted less than $most_bytes bytes"
