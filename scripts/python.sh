# shellcheck shell=bash
# The Python packages of this checkout, with what their tests need, in an environment of their own. Sourced by ./dev.

python_venv=$cache_folder/python/venv
python_packages=(client/python eval)
python_test_requirements=(openai==3.57.0 pytest==8.4.2 rouge==1.0.1 playwright==1.65.2 mypy==2.4.1 types-grpcio==1.85.0.20261028 types-protobuf==7.35.1.20260906
  'grafana-foundation-sdk==1769699998!10.1.0'
  # A load generator for the HTTP API, and what it asks for without saying which (60 MB): pip would try versions for minutes.
  llmeter==0.2.0 httpx==0.28.1 boto3==1.43.116 botocore==1.43.116 aiobotocore==3.10.0 s3fs==2026.9.0 fsspec==2026.9.0)
python_deploy_requirements=tests/deploy/requirements.txt
export python_venv

# Installs the packages anew when a file of theirs, or of the wire contract they are made from, has changed.
setup_python() {
  local of
  of=$(files_matching "${python_packages[@]}" "$python_deploy_requirements" proto | sort -z | xargs -0 sha256sum |
    cat - scripts/python.sh | sha256sum | cut -d' ' -f1)
  make_once "$cache_folder/python" "$of" "the environment of the Python packages" make_python_venv
}

make_python_venv() {
  local pip=("$python_venv/bin/pip" --no-input --disable-pip-version-check)
  [[ -x $python_venv/bin/pip ]] || /usr/bin/python3 -m venv "$python_venv" || return 1
  local copy status=0
  copy=$(mktemp -d) || return 1
  # From a copy: building leaves folders beside the sources.
  files_matching "${python_packages[@]}" proto | xargs -0 cp --parents -t "$copy" &&
    (cd "$copy" && "${pip[@]}" install --force-reinstall --no-deps "${python_packages[@]/#/./}" &&
      "${pip[@]}" install "${python_packages[@]/#/./}" "${python_test_requirements[@]}") &&
    "${pip[@]}" install -r "$python_deploy_requirements" || status=1
  rm -rf "$copy"
  return $status
}
