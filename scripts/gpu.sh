#!/usr/bin/env bash
# Builds the core with CUDA and runs there what its stages name, each with its results in a folder:
#
#   scripts/gpu.sh [FOLDER [STAGE...]]     bench/results and every stage but `long` unless named
#
#   tests       every test of the GPU                                             gpu-tests.txt
#   services    both services answer as on the CPU                                gpu-services.txt
#   wire        a cache goes by gRPC and by NCCL                                  gpu-wire.jsonl
#   kernels     time per operation                                                gpu-kernels.json, gpu.md
#   engine      the shape of Llama-3.1-8B, PyTorch and transformers beside it     gpu-engine.jsonl
#   paper       that of Llama-2-7B, for the figures of SnapKV's paper             gpu-paper.jsonl
#   mixture     that of Qwen3-30B-A3B, transformers beside it                     gpu-mixture.jsonl
#   nccl        256 MiB between two processes                                     gpu-nccl.txt
#   sanitize    the kernels' tests under compute-sanitizer                        memcheck.log, racecheck.log
#   long        a prompt of 1,000,000 tokens, about nine minutes on an H200       gpu-long.jsonl
#
# Results are written as they come, and each command has its time: what fails or takes longer is named at the end, and
# the rest runs. KVSHIP_GPU_SECONDS is the time of all of them together, for a machine that is lent for so long: what it
# does not suffice for is named as not run. KVSHIP_GPU_ONLY, a regular expression, chooses by those names what of the stages runs,
# so that a run that was cut can go on. With KVSHIP_GPU_PACK=yes a stage that is done moves all of FOLDER into
# results.tar there, for machines from which few files can be fetched.
#
# Needs .gpu-deps/ (scripts/gpu_deps.sh) where the packages are not installed. For sources outside git KVSHIP_COMMIT
# names the commit; KVSHIP_GPU_BIN names a folder with programs that are built already. The services are those in build/bin
# or the folder that KVSHIP_GPU_SERVICES names (bin/ of an unpacked ./dev bundle --cuda), where there are some; they try
# the demo model or the one that KVSHIP_GPU_MODEL names. What scripts/gpu_payload.sh packs brings all of this along.
set -uo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
source scripts/common.sh
help_if_wanted "$@"
source scripts/setup.sh
# shellcheck source=/dev/null
[[ ! -f gpu-payload.env ]] || source gpu-payload.env

results=$PWD/bench/results
[[ -z ${1:-} ]] || results=$(cd "$caller" && realpath -m "$1")
stages=("${@:2}")
[[ ${#stages[@]} -gt 0 ]] || stages=(tests services wire kernels engine paper mixture nccl sanitize)
for stage in "${stages[@]}"; do
  [[ $stage =~ ^(tests|services|wire|kernels|engine|paper|mixture|nccl|sanitize|long)$ ]] ||
    die "stage \"$stage\": wanted tests, services, wire, kernels, engine, paper, mixture, nccl, sanitize or long"
done
[[ -z ${KVSHIP_GPU_PACK:-} || $# -gt 0 ]] || die "KVSHIP_GPU_PACK: wanted a FOLDER, all of which is packed"
run_seconds=${KVSHIP_GPU_SECONDS:-86400}
[[ $run_seconds =~ ^[1-9][0-9]*$ ]] || die "KVSHIP_GPU_SECONDS is $run_seconds: wanted a number of seconds"
only=${KVSHIP_GPU_ONLY:-.}
mkdir -p "$results"
programs=(kvship_kernels_cuda_test kvship_kernels_cuda_libraries_test kvship_engine_cuda_test kvship-cuda-bench
  kvship-engine-bench kvship-nccl-bench)
bin=${KVSHIP_GPU_BIN:-build-gpu/bin}
services=${KVSHIP_GPU_SERVICES:-build/bin}
model=${KVSHIP_GPU_MODEL:-$model_path}
export LD_LIBRARY_PATH=$PWD/.gpu-deps/usr/lib/x86_64-linux-gnu:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

build_programs() {
  [[ -f .gpu-deps/usr/include/cudnn_frontend.h ]] || fetch_cudnn_frontend
  [[ -d .gpu-deps/usr/include/jinja ]] || fetch_jinja
  cmake -S . -B build-gpu -G Ninja -DKVSHIP_SERVICES=OFF -DCMAKE_PREFIX_PATH="$PWD/.gpu-deps/usr" ||
    die "CMake could not configure build-gpu"
  grep -q kvship-nccl-bench build-gpu/build.ninja || unset 'programs[-1]'
  cmake --build build-gpu --target "${programs[@]}" || die "the GPU tests and benches do not build"
}

failed=()

# Before anything runs: which of NVIDIA's libraries are there, and that the programs see a device. Without one every test
# would be skipped.
look() {
  local program names folders said code=0
  for program in "${programs[@]:0:5}"; do [[ -x $bin/$program ]] || die "no $program in $bin"; done
  read -ra names <<<"${KVSHIP_GPU_LIBRARIES:-$(cuda_libraries)}"
  folders=$(bounded 60 scripts/gpu_libraries.py "${names[@]}") || failed+=("libraries (not all of ${names[*]} are here)")
  export LD_LIBRARY_PATH=$LD_LIBRARY_PATH${folders:+:$folders}
  device=$(gpu)
  say "$device, programs of $(commit)"
  said=$(bounded 60 "$bin/kvship_kernels_cuda_test" --gtest_filter='DequantizeTest.*' 2>&1) || code=$?
  [[ $(outcome $code) != "no end" ]] || die "a first, short test does not end"
  ! grep -m 1 "$no_device" <<<"$said" || die "without one nothing is run"
}
no_device='^no CUDA device' # as tests/kernels/cuda/device_test.h says it

# Runs a command for so many seconds at most, and no longer than there is time.
no_time=75 # the exit code where there is none
bounded() {
  local left=$((run_seconds - SECONDS))
  [[ $left -gt 0 ]] || return $no_time
  timeout -k 5 $((left < $1 ? left : $1)) "${@:2}"
}

# What an exit code of it says.
outcome() {
  case $1 in
    0) echo ok ;;
    124 | 137) echo "no end" ;;
    "$no_time") echo "not run" ;;
    *) echo "exit code $1" ;;
  esac
}

# The same for a command that has a name. Never in a pipe, in whose subshell the names of what failed would be lost.
limited() {
  local code=0
  [[ $2 =~ $only ]] || return 0
  bounded "$1" "${@:3}" || code=$?
  [[ $code -eq 0 ]] || failed+=("$2 ($(outcome $code))")
}

list_failed() {
  local list
  [[ ${#failed[@]} -gt 0 ]] || return 0
  printf -v list ', %s' "${failed[@]}"
  echo "$1${list:2}"
}

# Waits until what a stage showed has also been written to its file; not for a process that holds the pipe and cannot be killed.
settle() {
  local writer=${!:-} i
  for ((i = 0; i < 50; ++i)); do
    kill -0 "$writer" 2>/dev/null || return 0
    sleep 0.1
  done
  kill "$writer"
}

# A log, of a long one its beginning and its end: a test may say a line per number that is wrong.
shorten() {
  if [[ $(stat -c %s "$1") -le 200000 ]]; then
    cat "$1"
  else
    head -c 150000 "$1"
    printf '\n... left out ...\n'
    tail -c 50000 "$1"
  fi
  rm "$1"
}

suite_seconds=60
suites_seconds=300 # after which no more are begun
table=()

# The suites of some programs, "PROGRAM SUITE" a line; at the end those of kernels of which no device has run all.
list_suites() {
  local program
  for program in "$@"; do
    bounded 60 "$bin/$program" --gtest_list_tests | awk -v program="$program" '$1 ~ /\.$/ { print program, $1 }'
  done | awk '/WindowVotesTest/ { last = last $0 "\n"; next } { print } END { printf "%s", last }'
}

# In a process of its own: a kernel that faults takes along all that its process does later.
run_suite() {
  local begun=$SECONDS code=$no_time state skips log=$results/suite.log
  [[ $2 =~ $only ]] || return 0
  if [[ $((SECONDS - started)) -le $suites_seconds ]]; then
    code=0
    bounded $suite_seconds "$bin/$1" --gtest_filter="$2*" >"$log" 2>&1 || code=$?
    skips=$(sed -nE 's/^\[  SKIPPED \] ([0-9]+) tests?, listed below:/\1 skipped/p' "$log")
  fi
  state=$(outcome "$code")
  if [[ -f $log ]]; then
    ! grep -q "$no_device" "$log" || state="no device"
    [[ $state == ok ]] || tail -n 15 "$log"
    shorten "$log" >>"$results/gpu-tests.txt"
  fi
  [[ $state == ok ]] || failed+=("$2 ($state)")
  table+=("$(printf '%-40s %-12s %4d s  %s' "$2" "$state" $((SECONDS - begun)) "${skips:-}")")
  echo "${table[-1]}"
}

run_tests() {
  local tests=("${programs[@]:0:3}") suites suite program
  machine_line >"$results/gpu-tests.txt"
  # That of the services' reader needs Protobuf: it runs where both were carried along.
  if [[ -x $bin/kvship_prefill_service_cuda_test ]]; then
    tests+=(kvship_prefill_service_cuda_test)
  else
    say "skipped: no kvship_prefill_service_cuda_test in $bin"
  fi
  mapfile -t suites < <(list_suites "${tests[@]}")
  for program in "${tests[@]}"; do
    [[ " ${suites[*]}" == *" $program "* ]] || failed+=("$program (lists no tests)")
  done
  for suite in "${suites[@]}"; do run_suite "${suite% *}" "${suite#* }"; done
  printf '%s\n' "${table[@]}" >>"$results/gpu-tests.txt"
}

run_sanitize() {
  if command -v compute-sanitizer >/dev/null; then
    sanitize memcheck
    sanitize racecheck
  else
    say "skipped: no compute-sanitizer"
  fi
}

# Without what takes long, and what has CUDA refuse something, which memcheck would call an error.
sanitize() {
  local without='*OfALongPrompt*:*EveryCombination*:BufferTest.MoreThanThereIs*:BufferTest.IsRefusedWhile*'
  local run log=$results/suite.log
  machine_line >"$results/$1.log"
  for run in "the others:-$without:WindowVotesTest.*" "WindowVotesTest:WindowVotesTest.*-$without"; do
    [[ "$1, ${run%%:*}" =~ $only ]] || continue
    say "compute-sanitizer $1, ${run%%:*}"
    limited 120 "$1, ${run%%:*}" compute-sanitizer --tool "$1" --error-exitcode 1 "$bin/kvship_kernels_cuda_test" \
      --gtest_filter="${run#*:}" >"$log" 2>&1
    tail -n 3 "$log"
    shorten "$log" >>"$results/$1.log"
  done
}

# Whether the services are there. Who names their folder wants them: that was looked at before anything ran.
has_services() {
  local program
  for program in kvship-prefill kvship-decode kvship; do
    if [[ ! -x $services/$program ]]; then
      say "skipped: no $program in $services"
      return 1
    fi
  done
}

run_services() {
  local models=("$model")
  has_services || return 0
  if [[ ! -f $model ]]; then
    say "skipped: the services with the demo model: no $model"
    models=()
  fi
  machine_line >"$results/gpu-services.txt"
  limited 200 services scripts/gpu_services.py "$services" "${models[@]}" > >(tee -a "$results/gpu-services.txt") 2>&1
}

run_wire() {
  has_services || return 0
  machine_line >"$results/gpu-wire.jsonl"
  limited 150 wire scripts/gpu_wire.py "$services" > >(tee -a "$results/gpu-wire.jsonl")
}

run_kernels() {
  {
    echo "# The GPU, measured"
    echo
    echo "- machine: $device"
    echo "- compiler: ${KVSHIP_GPU_COMPILER:-$(nvcc --version | tail -n 1)}"
    echo "- PyTorch, transformers: $(baseline_versions)"
    echo "- commit: $(commit)"
    echo
    echo "Kernels: time per operation, the bytes it has to move at least, their rate, and that rate as a share of what"
    echo "reading memory reaches in the same run. The engine, transformers and PyTorch are in gpu-engine.jsonl and"
    echo "gpu-paper.jsonl."
    echo
    echo '```'
  } >"$results/gpu.md"
  limited 200 kernels "$bin/kvship-cuda-bench" "$results/gpu-kernels.json" > >(tee -a "$results/gpu.md") 2>&1
  settle
  echo '```' >>"$results/gpu.md"
}

# The first one. It is asked once, which may take seconds.
gpu() {
  timeout -k 5 30 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | sed -n 1p ||
    echo "no nvidia-smi"
}
commit() { echo "${KVSHIP_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null)}"; }

machine_line() { printf '{"bench": "machine", "device": "%s", "commit": "%s"}\n' "$device" "$(commit)"; }

engine() { limited "${seconds:-150}" "engine $*" "$bin/kvship-engine-bench" "$@"; }

# Without importing them, which takes seconds.
baseline_versions() {
  python3 -c 'from importlib.metadata import version; print(version("torch"), version("transformers"))' 2>/dev/null
}

# PyTorch's and transformers' speeds at the same shapes, where they are installed.
baseline() {
  if baseline_versions >/dev/null; then
    limited 150 "baseline $*" python3 bench/engine/cuda/transformers_baseline.py "$@"
  else
    say "skipped: baseline $1: no PyTorch or no transformers"
  fi
}

bench_engine() {
  machine_line
  engine limits
  engine prefill --tokens=4096,16384,32768
  engine decode --batch=1,32 --tokens=16384 --nofull
  engine prefix --tokens=32768
  engine prefill --tokens=131072 --rounds=1
  baseline attention
  baseline prefill --tokens 16384,32768
}

bench_paper() {
  machine_line
  engine prefill --shape=7b --tokens=5120,16384,32768,65536,97280 --rounds=1
  engine decode --shape=7b --batch=1,2,4,8 --tokens=4096,16384,65536,262144
  engine longest --shape=7b
  baseline decode --shape 7b --batch 1,2 --kept 4096,16384,32768
  if [[ -d .gpu-deps/python/kvpress ]]; then
    PYTHONPATH=$PWD/.gpu-deps/python baseline kvpress --shape 7b --batch 1,2 --tokens 4096,16384,32768 --kept 2048
  else
    say "skipped: baseline kvpress: no .gpu-deps/python/kvpress"
  fi
}

bench_mixture() {
  machine_line
  engine prefill --shape=30b-a3b --tokens=512,4096,32768
  engine decode --shape=30b-a3b --batch=1,8,32 --tokens=16384 --nofull
  baseline prefill --shape 30b-a3b --tokens 512,4096,32768
  baseline decode --shape 30b-a3b --batch 1,32 --kept 2048
}

bench_long() {
  machine_line
  seconds=900 engine long --tokens=1000000 --budget=4096
}

# Its lines go to a file as they come; what it says besides is shown when it is over.
run_bench() {
  "bench_$1" > >(tee "$results/gpu-$1.jsonl") 2>"$results/gpu-$1.err"
  cat "$results/gpu-$1.err" >&2
}
run_engine() { run_bench engine; }
run_paper() { run_bench paper; }
run_mixture() { run_bench mixture; }
run_long() { run_bench long; }

run_nccl() {
  if [[ -x $bin/kvship-nccl-bench ]]; then
    machine_line >"$results/gpu-nccl.txt"
    limited 90 nccl "$bin/kvship-nccl-bench" > >(tee -a "$results/gpu-nccl.txt") 2>&1
  else
    say "skipped: no kvship-nccl-bench in $bin"
  fi
}

# At most a stage's own files are in the folder beside the archive, which is whole whatever ends the script.
pack() {
  [[ -n ${KVSHIP_GPU_PACK:-} ]] || return 0
  local files archive=$results/results.tar
  rm -f "$archive.new"
  mapfile -t files < <(find "$results" -maxdepth 1 -type f ! -name results.tar -printf '%f\n')
  [[ ${#files[@]} -gt 0 ]] || return 0
  [[ ! -f $archive ]] || cp "$archive" "$archive.new"
  tar -C "$results" --append -f "$archive.new" "${files[@]}" && mv "$archive.new" "$archive" &&
    (cd "$results" && rm -- "${files[@]}")
}

[[ -z ${KVSHIP_GPU_SERVICES:-} ]] || has_services || die "KVSHIP_GPU_SERVICES is $services: wanted a folder with the services"
[[ -n ${KVSHIP_GPU_BIN:-} ]] || build_programs
look
trap pack EXIT
for stage in "${stages[@]}"; do
  started=$SECONDS
  "run_$stage"
  settle
  pack
  say "$stage took $((SECONDS - started)) s$(list_failed '; failed so far: ')"
done
[[ ${#failed[@]} -eq 0 ]] || die "$(list_failed 'failed: ')"
