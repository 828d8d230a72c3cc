# shellcheck shell=bash
# Fuzzing: libFuzzer feeds each target of tests/fuzz inputs that it makes from those in tests/fuzz/corpus. What it finds
# new stays in build-fuzz/corpus, what breaks something in build-fuzz/findings. Sourced by ./dev.

fuzz_folder=build-fuzz
fuzz_seconds=60
# Far above what a good input takes: 4 KiB of input, 64 MiB for one allocation, ten seconds.
fuzz_bounds=(-max_len=4096 -malloc_limit_mb=64 -timeout=10 -rss_limit_mb=2048)
export fuzz_folder

fuzz_targets() { files_matching 'tests/fuzz/*_fuzz.cc' | xargs -0 -n 1 basename -s _fuzz.cc; }

# fuzz [TARGET|all] [SECONDS], fuzz minimize
fuzz() {
  local target=${1:-all} seconds=${2:-$fuzz_seconds} targets
  targets=$(fuzz_targets)
  case $target in
    all | minimize) ;;
    *)
      grep -qx "$target" <<<"$targets" || die "./dev fuzz: unknown target '$target'; there are:" "${targets//$'\n'/ }"
      targets=$target
      ;;
  esac
  install_packages "${fuzz_packages[@]}"
  build fuzz
  "$fuzz_folder/bin/kvship-fuzz-seeds" "$fuzz_folder/seeds"
  if [[ $target == minimize ]]; then
    for target in $targets; do fuzz_minimize "$target"; done
    return
  fi
  export -f fuzz_one
  xargs -P 2 -I TARGET bash -c 'fuzz_one TARGET "$@"' _ "$seconds" "${fuzz_bounds[@]}" <<<"$targets" ||
    die "Fuzzing has found something: the inputs are in $fuzz_folder/findings."
}

# fuzz_one TARGET SECONDS BOUNDS...
fuzz_one() {
  local target=$1 seconds=$2 log=$fuzz_folder/$1.log
  shift 2
  mkdir -p "$fuzz_folder/corpus/$target" "$fuzz_folder/findings"
  if "$fuzz_folder/bin/kvship-fuzz-$target" -max_total_time="$seconds" -print_final_stats=1 "$@" \
    -artifact_prefix="$fuzz_folder/findings/$target-" "$fuzz_folder/corpus/$target" "tests/fuzz/corpus/$target" \
    "$fuzz_folder/seeds/$target" >"$log" 2>&1; then
    printf '%-18s %s\n' "$target" "$(awk '/^stat::number_of_executed|^stat::average|^stat::new_units/ {
      sub("stat::", ""); printf "%s ", $0 }' "$log" | tr -s ' ')"
  else
    printf '%s has FAILED:\n' "$target"
    tail -n 40 "$log"
    return 1
  fi
}

# Replaces the committed inputs by the fewest and shortest that reach all code that these and the found ones reach. Those
# that once broke something, named bug-..., stay.
fuzz_minimize() {
  local target=$1 committed=tests/fuzz/corpus/$1 fresh=$fuzz_folder/minimized/$1
  rm -rf "$fresh"
  mkdir -p "$fresh" "$committed" "$fuzz_folder/corpus/$target"
  quietly "$fuzz_folder/$target.log" "$fuzz_folder/bin/kvship-fuzz-$target" -merge=1 -use_counters=0 -use_cmp=0 \
    "${fuzz_bounds[@]}" "$fresh" \
    "$committed" "$fuzz_folder/seeds/$target" "$fuzz_folder/corpus/$target" ||
    die "The inputs of $target could not be merged; the whole log is in $fuzz_folder/$target.log"
  find "$committed" -type f ! -name 'bug-*' -delete
  cp "$fresh"/* "$committed"
}
