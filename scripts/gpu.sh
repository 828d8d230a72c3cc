#!/usr/bin/env bash
# Builds the core with CUDA, runs the tests of the GPU kernels and their bench, and writes gpu-kernels.json and
# gpu-kernels.md, with the machine, into a folder: scripts/gpu.sh [FOLDER], bench/results unless named. Needs
# .gpu-deps/ (scripts/gpu_deps.sh) where the packages are not installed. KVSHIP_COMMIT names the commit where
# the sources lie outside git.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
source scripts/common.sh

results=$(realpath -m "${1:-bench/results}")
mkdir -p "$results"
build="build-gpu"

cmake -S . -B "$build" -G Ninja -DKVSHIP_SERVICES=OFF -DCMAKE_PREFIX_PATH="$PWD/.gpu-deps/usr" ||
  die "CMake could not configure $build"
cmake --build "$build" --target kvship_kernels_cuda_test kvship-cuda-bench ||
  die "the GPU tests and benches do not build"

"$build/bin/kvship_kernels_cuda_test" --gtest_brief=1
tests=$?
if [[ ${KVSHIP_SANITIZER:-on} == on ]] && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    say "compute-sanitizer $tool"
    timeout 150 compute-sanitizer --tool "$tool" "$build/bin/kvship_kernels_cuda_test" --gtest_brief=1 \
      --gtest_filter='-*OfALongPrompt*:*EveryCombination*' 2>&1 | tail -n 15
  done
fi

table=$(mktemp)
timeout 200 "$build/bin/kvship-cuda-bench" "$results/gpu-kernels.json" | tee "$table"
{
  echo "# GPU kernels, measured"
  echo
  echo "- machine: $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader)"
  echo "- compiler: $(nvcc --version | tail -n 1)"
  echo "- commit: ${KVSHIP_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null)}"
  echo "- tests: $([[ $tests -eq 0 ]] && echo passed || echo FAILED)"
  echo
  echo "Time per operation, the bytes it has to move at least, their rate, and that rate as a share of a copy's on"
  echo "the same device in the same run (bytes read and written)."
  echo
  echo '```'
  cat "$table"
  echo '```'
} >"$results/gpu-kernels.md"
exit "$tests"
