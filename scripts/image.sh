#!/usr/bin/env bash
# Builds the images kvship and kvship-model and runs a prefill and a decode process in the first: ./dev image
#
#   --build-image IMAGE     what the programs are compiled on (Debian 12)
#   --runtime-image IMAGE   what they run on (Debian 12, slim)
#   --tag TAG               of the first image (the version)
#
# docker, podman or buildah, whichever is there and works. Where this account may not start containers but may chroot:
#   BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs ./dev image
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh
help_if_wanted "$@"
source scripts/setup.sh

# Prints the name of the first builder that works.
find_builder() {
  if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    echo docker
  elif command -v podman >/dev/null && podman info >/dev/null 2>&1; then
    echo podman
  elif command -v buildah >/dev/null && buildah info >/dev/null 2>&1; then
    echo buildah
  else
    die "Images need docker with a running engine, podman or buildah, and here is none that works:" \
      "$(for each in docker podman buildah; do
        if command -v "$each" >/dev/null; then echo "$each is installed, but '$each info' fails;"; else echo "no $each;"; fi
      done | tr '\n' ' ')apt-get install buildah brings one."
  fi
}

# What git tracks or would track, and the model, in a folder of their own: nothing else gets into an image.
make_context() {
  files_matching | xargs -0 cp --parents -t "$1"
  mkdir "$1/models"
  cp "$model_path" "$1/models/"
}

build_target() {
  local target=$1 image=$2
  shift 2
  say "building $image"
  "$builder" build --file deploy/image/Containerfile --target "$target" --tag "$image" "$@" "$context"
}

inspect_image() {
  if [[ $builder == buildah ]]; then buildah inspect --type image "$1"; else "$builder" image inspect "$1"; fi
}

# As a pod runs: nobody's account, no capabilities and, but for buildah, which knows no such thing, a root that is read-only.
run_in_image() {
  local mounts=(-v "$context/models:/models:ro" -v "$PWD/demo:/demo:ro")
  if [[ $builder == buildah ]]; then
    local container status=0
    container=$(buildah from "$1")
    buildah run --cap-drop ALL "${mounts[@]}" "$container" -- bash -s || status=$?
    buildah rm "$container" >/dev/null
    return $status
  fi
  "$builder" run --rm --interactive --network none --read-only --cap-drop ALL --security-opt no-new-privileges \
    "${mounts[@]}" "$1" bash -s
}

version=$(sed -n 's/^project(kvship VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
tag=$version
arguments=()
while [[ $# -gt 0 ]]; do
  [[ $# -gt 1 ]] || die "./dev image: $1 needs a value, or is unknown; scripts/image.sh lists what there is"
  case $1 in
    --build-image) arguments+=(--build-arg "BUILD_IMAGE=$2") ;;
    --runtime-image) arguments+=(--build-arg "RUNTIME_IMAGE=$2") ;;
    --tag) tag=$2 ;;
    *) die "./dev image: unknown argument '$1'; scripts/image.sh lists what there is" ;;
  esac
  shift 2
done

builder=$(find_builder)
export BUILDAH_FORMAT=docker # OCI's own format has no health check
fetch_model
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
make_context "$context"
arguments+=(--build-arg "VERSION=$version" --build-arg "REVISION=$(git describe --always --dirty)")
build_target runtime "kvship:$tag" "${arguments[@]}"
build_target model "kvship-model:$version" "${arguments[@]}"
inspect_image "kvship:$tag" | python3 deploy/image/check_config.py "$version"
say "running the demo model in kvship:$tag"
run_in_image "kvship:$tag" <deploy/image/smoke.sh
say "built and tried: kvship:$tag, kvship-model:$version"
