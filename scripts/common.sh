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

# Whether somebody asks for help among these arguments.
wants_help() {
  local argument
  for argument in "$@"; do
    case $argument in -h | --help) return 0 ;; esac
  done
  return 1
}

# Where help is asked for, prints the comment that the running script of this folder begins with, and ends it.
help_if_wanted() {
  wants_help "$@" || return 0
  sed -n '1d; /^#/!q; s/^# \{0,1\}//; p' "scripts/${0##*/}"
  exit 0
}

# Runs a command with its output in a file; shows the last lines of it only where the command fails.
quietly() {
  local log=$1
  shift
  if "$@" >"$log" 2>&1 </dev/null; then return 0; fi
  tail -n 15 "$log" >&2
  return 1
}

# The licences of what is compiled of XGrammar: its own, and the beginning of picojson's header.
xgrammar_licences() {
  cat "$cache_folder"/xgrammar/{NOTICE,LICENSE}
  sed '/\*\//q' "$cache_folder/xgrammar/3rdparty/picojson/picojson.h"
}

# Names of libraries that belong to the machine and never travel: glibc.
export of_the_machine='/(ld-linux[^/]*|lib(c|m|mvec|dl|pthread|rt|resolv|util|anl|nsl|nss_[a-z]+))\.so[^/]*$'

# The shared libraries of programs, by path.
libraries_of() {
  local found missing
  found=$(ldd "$@")
  if missing=$(grep 'not found' <<<"$found"); then die "$*: libraries that are not here: $missing"; fi
  awk '$2 == "=>" && $3 ~ /^\// { print $3 }' <<<"$found" | sort -u
}

# Makes a folder by a command, unless it was made of the same: make_once FOLDER OF WHAT COMMAND...
make_once() {
  local folder=$1 of=$2 what=$3
  shift 3
  [[ $(cat "$folder/made-of" 2>/dev/null) == "$of" ]] && return 0
  mkdir -p "$folder"
  say "making $what in $folder"
  quietly "$folder/log" "$@" || die "$what could not be made; the whole log is in $folder/log"
  printf '%s\n' "$of" >"$folder/made-of"
}

# NVIDIA's libraries that programs open when they use a GPU (base/shared_library.h), by the names that those ask for which
# this machine's nvcc has built.
cuda_libraries() {
  local major
  major=$(nvcc --version | sed -nE 's/.*release ([0-9]+)\..*/\1/p')
  echo "libcublasLt.so.$major libcudnn.so.9 libnvrtc.so.$major libnccl.so.2"
}

# Every file of one kind that is there and that git tracks or would track, separated by NUL.
files_matching() {
  comm -z -23 <(git ls-files -z --cached --others --exclude-standard -- "$@" | sort -z) <(git ls-files -z --deleted | sort -z)
}
cxx_files() { files_matching '*.h' '*.cc' '*.cu' '*.cuh'; }
