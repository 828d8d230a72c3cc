#!/usr/bin/env bash
# Builds the core with CUDA, runs every test of the GPU, also under compute-sanitizer, and every GPU bench, and
# writes gpu-kernels.json, gpu-engine.jsonl and gpu.md, with the machine, into a folder:
#
#   scripts/gpu.sh [FOLDER]     bench/results unless named
#
# Needs .gpu-deps/ (scripts/gpu_deps.sh) where the packages are not installed. For sources outside git KVSHIP_COMMIT
# names the commit; KVSHIP_GPU_BIN names a folder with programs that are built already. The services, where there are some in
# build/bin or the folder that KVSHIP_GPU_SERVICES names (bin/ of an unpacked ./dev bundle --cuda), answer from the GPU as well
# (gpu-services.txt), and a cache goes between two of them by gRPC and by NCCL (gpu-wire.jsonl).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
source scripts/common.sh
source scripts/setup.sh

results=$(realpath -m "${1:-bench/results}")
mkdir -p "$results"
programs=(kvship_kernels_cuda_test kvship_kernels_cuda_libraries_test kvship_engine_cuda_test kvship-cuda-bench
  kvship-engine-bench kvship-nccl-bench)
bin=${KVSHIP_GPU_BIN:-build-gpu/bin}
libraries=$PWD/.gpu-deps/usr/lib/x86_64-linux-gnu
# PyTorch brings cuDNN and NCCL where the system has none.
torch=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)
export LD_LIBRARY_PATH=$libraries:/usr/local/cuda/lib64:$torch/cudnn/lib:$torch/nccl/lib:${LD_LIBRARY_PATH:-}

build_programs() {
  [[ -f .gpu-deps/usr/include/cudnn_frontend.h ]] || fetch_cudnn_frontend
  cmake -S . -B build-gpu -G Ninja -DKVSHIP_SERVICES=OFF -DCMAKE_PREFIX_PATH="$PWD/.gpu-deps/usr" ||
    die "CMake could not configure build-gpu"
  grep -q kvship-nccl-bench build-gpu/build.ninja || unset 'programs[-1]'
  cmake --build build-gpu --target "${programs[@]}" || die "the GPU tests and benches do not build"
}

failed=()
run_tests() {
  local test tests=("${programs[@]:0:3}")
  # That of the services' reader needs Protobuf: it runs where both were carried along.
  [[ ! -x $bin/kvship_prefill_service_cuda_test ]] || tests+=(kvship_prefill_service_cuda_test)
  for test in "${tests[@]}"; do
    timeout 200 "$bin/$test" --gtest_brief=1 || failed+=("$test")
  done
  [[ ${KVSHIP_SANITIZER:-on} == on ]] && command -v compute-sanitizer >/dev/null || return 0
  local tool
  for tool in memcheck racecheck; do
    say "compute-sanitizer $tool"
    timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 1 "$bin/kvship_kernels_cuda_test" --gtest_brief=1 \
      --gtest_filter='-*OfALongPrompt*:*EveryCombination*' >"$results/$tool.log" 2>&1 || failed+=("$tool")
    tail -n 3 "$results/$tool.log"
  done
}

run_services() {
  local bin=${KVSHIP_GPU_SERVICES:-build/bin} model=()
  [[ -x $bin/kvship-prefill ]] || return 0
  [[ ! -f $model_path ]] || model=("$model_path")
  timeout 500 scripts/gpu_services.py "$bin" "${model[@]}" | tee "$results/gpu-services.txt" || failed+=(services)
  timeout 150 scripts/gpu_wire.py "$bin" | tee "$results/gpu-wire.jsonl" || failed+=(wire)
}

# The engine at the shape of Llama-3.1-8B, and at Llama-2-7B's, without grouped queries, for the figures of
# SnapKV's paper; PyTorch and transformers at the same shapes.
run_engine_benches() {
  local bench=("$bin/kvship-engine-bench") baseline=(python3 bench/engine/cuda/transformers_baseline.py)
  "${bench[@]}" limits
  "${bench[@]}" prefill --tokens=4096,16384,32768
  "${bench[@]}" prefill --tokens=131072 --rounds=1
  "${bench[@]}" decode --batch=1,32 --tokens=16384 --nofull
  "${bench[@]}" prefill --shape=7b --tokens=5120,16384,32768,65536,97280 --rounds=1
  "${bench[@]}" decode --shape=7b --batch=1,2,4,8 --tokens=4096,16384,65536,262144
  "${bench[@]}" longest --shape=7b
  python3 -c 'import torch, transformers' 2>/dev/null || return 0
  "${baseline[@]}" attention
  "${baseline[@]}" prefill --tokens 16384,32768
  "${baseline[@]}" decode --shape 7b --batch 1,2 --kept 4096,16384,32768
  [[ -d .gpu-deps/python/kvpress ]] || return 0
  PYTHONPATH=$PWD/.gpu-deps/python "${baseline[@]}" kvpress --shape 7b --batch 1,2 --tokens 4096,16384,32768 --kept 2048
}

[[ -n ${KVSHIP_GPU_BIN:-} ]] || build_programs
run_tests
run_services
table=$(mktemp)
timeout 200 "$bin/kvship-cuda-bench" "$results/gpu-kernels.json" | tee "$table"
run_engine_benches 2>"$results/gpu-engine.err" | tee "$results/gpu-engine.jsonl"
[[ ! -x $bin/kvship-nccl-bench ]] || timeout -k 5 90 "$bin/kvship-nccl-bench" 2>&1 | tee "$results/gpu-nccl.txt"
{
  echo "# The GPU, measured"
  echo
  echo "- machine: $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader)"
  echo "- compiler: $(nvcc --version | tail -n 1)"
  echo "- PyTorch, transformers: $(python3 -c 'import torch, transformers; print(torch.__version__, transformers.__version__)' 2>/dev/null)"
  echo "- commit: ${KVSHIP_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null)}"
  echo "- tests: $([[ ${#failed[@]} -eq 0 ]] && echo passed || echo "FAILED: ${failed[*]}")"
  echo
  echo "gpu-engine.jsonl has the engine, transformers and PyTorch. Here the kernels: time per operation, the bytes it has"
  echo "to move at least, their rate, and that rate as a share of what reading memory reaches in the same run."
  echo
  echo '```'
  cat "$table"
  echo '```'
} >"$results/gpu.md"
[[ ${#failed[@]} -eq 0 ]] || die "failed: ${failed[*]}"
