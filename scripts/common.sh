# shellcheck shell=bash
# Words that the other scripts share. Sourced by ./dev, never run.

cache_folder=${XDG_CACHE_HOME:-$HOME/.cache}/kvship
model_path=$cache_folder/SmolLM2-135M-Instruct.Q4_1.gguf
bench_cpu_venv=$cache_folder/bench-cpu/venv
export model_path bench_cpu_venv
export KVSHIP_PROMETHEUS=$cache_folder/prometheus/usr/bin

say() { printf '== %s\n' "$*" >&2; }

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

# Runs a command with its output in a file; shows the last lines of it only where the command fails.
quietly() {
  local log=$1
  shift
  if "$@" >"$log" 2>&1 </dev/null; then return 0; fi
  tail -n 15 "$log" >&2
  return 1
}

# Every file of one kind that git tracks or would track, separated by NUL.
files_matching() { git ls-files -z --cached --others --exclude-standard -- "$@"; }
cxx_files() { files_matching '*.h' '*.cc' '*.cu' '*.cuh'; }
