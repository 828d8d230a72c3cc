# shellcheck shell=bash
# Configure, build, run the tests. Each takes a preset of CMakePresets.json: release, asan, tsan or (to
# build) fuzz. Who names targets builds these alone.

build() {
  local preset=$1 folder targets=()
  [[ $# -eq 1 ]] || targets=(--target "${@:2}")
  folder=$(build_folder "$preset")
  mkdir -p "$folder"
  quietly "$folder/configure.log" cmake --preset "$preset" -DKVSHIP_DEMO_MODEL="$model_path" \
    -DKVSHIP_PYTHON_VENV="$python_venv" -DKVSHIP_PROMETHEUS="$KVSHIP_PROMETHEUS" ||
    die "CMake could not configure $folder; the whole log is in $folder/configure.log"
  cmake --build --preset "$preset" "${targets[@]}" </dev/null || die "The build in $folder failed; the first error above says why."
}

build_folder() {
  case $1 in
    release) echo build ;;
    *) echo "build-$1" ;;
  esac
}

# Tests that take minutes carry the label `long`, and run only when asked for.
run_tests() {
  local preset=$1 selection=(-LE '^long$')
  shift
  if [[ ${1:-} == --long ]]; then
    selection=()
    shift
  fi
  build "$preset"
  # What ./dev setup installs is there: no test may be skipped for want of it.
  KVSHIP_REQUIRE_ALL=1 ctest --preset "$preset" --parallel "$(nproc)" "${selection[@]}" "$@" </dev/null
}
