#!/usr/bin/env bash
# Builds the core with CUDA and runs there what its stages name, each with its results in a folder:
#
#   scripts/gpu.sh [FOLDER [STAGE...]]     bench/results and every stage but `long` unless named
#
#   tests       every test of the GPU, also under compute-sanitizer               gpu-tests.txt, memcheck.log, racecheck.log
#   services    both services answer, a cache goes by gRPC and by NCCL            gpu-services.txt, gpu-wire.jsonl
#   kernels     time per operation                                                gpu-kernels.json, gpu.md
#   engine      the shape of Llama-3.1-8B, PyTorch and transformers beside it     gpu-engine.jsonl
#   paper       that of Llama-2-7B, for the figures of SnapKV's paper             gpu-paper.jsonl
#   nccl        256 MiB between two processes                                     gpu-nccl.txt
#   long        a prompt of 1,000,000 tokens, about nine minutes on an H200       gpu-long.jsonl
#
# Needs .gpu-deps/ (scripts/gpu_deps.sh) where the packages are not installed. For sources outside git KVSHIP_COMMIT
# names the commit; KVSHIP_GPU_BIN names a folder with programs that are built already. The services are those in build/bin
# or the folder that KVSHIP_GPU_SERVICES names (bin/ of an unpacked ./dev bundle --cuda), where there are some.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
source scripts/common.sh
help_if_wanted "$@"
source scripts/setup.sh

results=$(realpath -m "${1:-bench/results}")
stages=("${@:2}")
[[ ${#stages[@]} -gt 0 ]] || stages=(tests services kernels engine paper nccl)
for stage in "${stages[@]}"; do
  [[ $stage =~ ^(tests|services|kernels|engine|paper|nccl|long)$ ]] ||
    die "stage \"$stage\": wanted tests, services, kernels, engine, paper, nccl or long"
done
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
  machine_line >"$results/gpu-tests.txt"
  # That of the services' reader needs Protobuf: it runs where both were carried along.
  [[ ! -x $bin/kvship_prefill_service_cuda_test ]] || tests+=(kvship_prefill_service_cuda_test)
  for test in "${tests[@]}"; do
    timeout 200 "$bin/$test" --gtest_brief=1 2>&1 | tee -a "$results/gpu-tests.txt" || failed+=("$test")
  done
  command -v compute-sanitizer >/dev/null || return 0
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

run_kernels() {
  local table
  table=$(timeout 200 "$bin/kvship-cuda-bench" "$results/gpu-kernels.json" | tee /dev/stderr) || failed+=(kernels)
  {
    echo "# The GPU, measured"
    echo
    echo "- machine: $(gpu)"
    echo "- compiler: $(nvcc --version | tail -n 1)"
    echo "- PyTorch, transformers: $(python3 -c 'import torch, transformers; print(torch.__version__, transformers.__version__)' 2>/dev/null)"
    echo "- commit: $(commit)"
    echo
    echo "Kernels: time per operation, the bytes it has to move at least, their rate, and that rate as a share of what"
    echo "reading memory reaches in the same run. The engine, transformers and PyTorch are in gpu-engine.jsonl and"
    echo "gpu-paper.jsonl."
    echo
    echo '```'
    echo "$table"
    echo '```'
  } >"$results/gpu.md"
}

gpu() { nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; }
commit() { echo "${KVSHIP_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null)}"; }

machine_line() { printf '{"bench": "machine", "device": "%s", "commit": "%s"}\n' "$(gpu)" "$(commit)"; }

engine() { "$bin/kvship-engine-bench" "$@" || failed+=("engine $1"); }

# PyTorch's and transformers' speeds at the same shapes, where they are installed.
baseline() {
  python3 -c 'import torch, transformers' 2>/dev/null || return 0
  python3 bench/engine/cuda/transformers_baseline.py "$@" || failed+=("baseline $1")
}

bench_engine() {
  machine_line
  engine limits
  engine prefill --tokens=4096,16384,32768
  engine prefill --tokens=131072 --rounds=1
  engine decode --batch=1,32 --tokens=16384 --nofull
  baseline attention
  baseline prefill --tokens 16384,32768
}

bench_paper() {
  machine_line
  engine prefill --shape=7b --tokens=5120,16384,32768,65536,97280 --rounds=1
  engine decode --shape=7b --batch=1,2,4,8 --tokens=4096,16384,65536,262144
  engine longest --shape=7b
  baseline decode --shape 7b --batch 1,2 --kept 4096,16384,32768
  [[ -d .gpu-deps/python/kvpress ]] || return 0
  PYTHONPATH=$PWD/.gpu-deps/python baseline kvpress --shape 7b --batch 1,2 --tokens 4096,16384,32768 --kept 2048
}

bench_long() {
  machine_line
  engine long --tokens=1000000 --budget=4096
}

# Not through a pipe, in whose subshell the names of what failed would be lost.
run_engine() { bench_engine > >(tee "$results/gpu-engine.jsonl") 2>"$results/gpu-engine.err"; }
run_paper() { bench_paper > >(tee "$results/gpu-paper.jsonl") 2>"$results/gpu-paper.err"; }
run_long() { bench_long > >(tee "$results/gpu-long.jsonl"); }

run_nccl() {
  [[ -x $bin/kvship-nccl-bench ]] || return 0
  timeout -k 5 90 "$bin/kvship-nccl-bench" 2>&1 | tee "$results/gpu-nccl.txt" || failed+=(nccl)
}

[[ -n ${KVSHIP_GPU_BIN:-} ]] || build_programs
for stage in "${stages[@]}"; do
  started=$SECONDS
  "run_$stage"
  wait
  say "$stage took $((SECONDS - started)) s"
done
[[ ${#failed[@]} -eq 0 ]] || die "failed: ${failed[*]}"
