# shellcheck shell=bash
# Everything that reads the code without running it. Goes on after a failure, so that one run shows all.

lint() {
  install_packages "${lint_packages[@]}"
  build release
  local failed=()
  say "clang-format"
  cxx_files | xargs -0 clang-format --dry-run -Werror || failed+=(clang-format)
  say "layering"
  /usr/bin/python3 tests/layering_test.py || failed+=(layering)
  say "shellcheck"
  # With -a what dev sources too, which the others source in parts: by themselves they leave variables of it unused.
  shellcheck -x -a dev .ci/run || failed+=("shellcheck of dev")
  shellcheck -x scripts/{bundle,gpu,gpu_deps,gpu_payload,image}.sh deploy/image/{kvship-ready,*.sh} || failed+=("shellcheck of scripts")
  say "python"
  files_matching '*.py' | xargs -0 /usr/bin/python3 -m py_compile || failed+=(python)
  say "buf lint"
  lint_protos || failed+=(buf)
  say "clang-tidy (some minutes)"
  # Only what this build compiles: clang-tidy knows no flags for the rest.
  comm -z -12 <(files_matching '*.cc' | sort -z) <(compiled_files | sort -z) |
    xargs -0 -n 1 -P "$(nproc)" clang-tidy -p build --quiet || failed+=(clang-tidy)
  [[ ${#failed[@]} -eq 0 ]] || die "lint failed: ${failed[*]}"
  say "lint passed"
}

compiled_files() {
  /usr/bin/python3 -c '
import json, os
for entry in json.load(open("build/compile_commands.json")):
    print(os.path.relpath(entry["file"]), end="\0")'
}

# buf comes from PyPI as one binary, kept in an environment of its own.
lint_protos() {
  local venv=$cache_folder/lint/venv
  if [[ ! -x $venv/bin/buf ]]; then
    mkdir -p "$cache_folder/lint"
    quietly "$cache_folder/lint/log" /usr/bin/python3 -m venv "$venv" &&
      quietly "$cache_folder/lint/log" "$venv/bin/pip" install --no-input buf-bin==1.75.0 || return 1
  fi
  (cd proto && "$venv/bin/buf" lint)
}
