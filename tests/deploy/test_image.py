"""The image's parts that can be tried without a builder: its bill of materials, its health check, its version, and what
./dev image says where there is none."""

import http.server
import json
import os
import re
import shutil
import subprocess
import threading

import pytest
from kvship_processes import free_ports
from manifests import ROOT, container, named, overlay, pod_spec

IMAGE = ROOT / "deploy" / "image"
CONTAINERFILE = (IMAGE / "Containerfile").read_text()
VERSION = re.search(r"project\(kvship VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]


def test_the_bill_of_materials_names_every_package():
    told = subprocess.run(
        ["/usr/bin/python3", IMAGE / "materials.py", "--version=1.2.3", "--revision=abc", "--admindir=/var/lib/dpkg",
         "nvidia-cudnn-frontend==1.32.0", "llama_cpp_python==0.3.36"],
        check=True, capture_output=True, text=True, env=os.environ | {"SOURCE_DATE_EPOCH": "86400"}).stdout
    document = json.loads(told)
    assert document["spdxVersion"] == "SPDX-2.3" and document["creationInfo"]["created"] == "1970-01-02T00:00:00Z"
    packages = {package["SPDXID"]: package for package in document["packages"]}
    assert len(packages) == len(document["packages"])
    assert packages["SPDXRef-kvship"]["versionInfo"] == "1.2.3"
    installed = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"],
                               check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = {line.removeprefix("installed ") for line in installed if line.startswith("installed ")}
    assert {f"{each['name']} {each['versionInfo']}" for each in document["packages"]} == wanted | {
        "kvship 1.2.3", "nvidia-cudnn-frontend 1.32.0", "llama_cpp_python 0.3.36"}
    for relationship in document["relationships"]:
        assert relationship["relatedSpdxElement"] in packages
    linked = {packages[each["relatedSpdxElement"]]["name"] for each in document["relationships"]
              if each["relationshipType"] == "STATIC_LINK"}
    assert {"nlohmann-json3-dev", "libcpp-httplib-dev", "nvidia-cudnn-frontend"} <= linked
    locators = [ref["referenceLocator"] for package in document["packages"] for ref in package.get("externalRefs", [])]
    for pypi in ("nvidia-cudnn-frontend@1.32.0", "llama-cpp-python@0.3.36"):
        locators.remove(f"pkg:pypi/{pypi}")
    assert all(re.fullmatch(r"pkg:deb/\w+/[\w.+-]+@[^@\s:]+\?arch=\w+", locator) for locator in locators)


def test_the_libraries_of_the_programs_have_packages():
    programs = [os.path.join(os.environ["KVSHIP_BIN"], name) for name in ("kvship-prefill", "kvship-decode", "kvship")]
    told = subprocess.run([IMAGE / "library_packages.sh", *programs], check=True, capture_output=True, text=True).stdout
    packages = told.split()
    assert packages == sorted(set(packages))
    assert {"libc6", "libgrpc++1.51", "libprotobuf32", "libssl3"} <= set(packages)
    assert not [name for name in packages if name.endswith("-dev")]


def test_the_image_has_the_systems_authorities_where_libssl_looks():
    programs = CONTAINERFILE.partition(" AS programs\n")[2].partition("\nFROM ")[0]
    assert re.search(r"apt-get install [^&]*\bca-certificates\b", programs)
    [folder] = re.findall(r"-s (/\S+)/ca-certificates\.crt", (IMAGE / "smoke.sh").read_text())
    told = subprocess.run(["openssl", "version", "-d"], check=True, capture_output=True, text=True).stdout
    assert told == f'OPENSSLDIR: "{os.path.dirname(folder)}"\n'
    # libssl3 itself has no such folder.
    owners = subprocess.run(["dpkg-query", "-S", folder], check=True, capture_output=True, text=True).stdout
    needs = subprocess.run(["dpkg-query", "-W", "-f", "${Depends}", "ca-certificates"], check=True, capture_output=True,
                           text=True).stdout
    assert owners == f"openssl: {folder}\n" and re.match(r"openssl\b", needs)


class Admin(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_says_what_readyz_says(status, code):
    handler = type("Handler", (Admin,), {"status": status})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    [nobody] = free_ports(1)
    check = [IMAGE / "kvship-ready", str(nobody), str(server.server_port)]
    assert subprocess.run(check, check=False, timeout=30).returncode == code
    assert subprocess.run(check[:2], check=False, timeout=30).returncode == 1
    server.shutdown()


def test_the_health_check_asks_the_ports_of_both_programs():
    asked = re.search(r'HEALTHCHECK .* CMD \["kvship-ready", "(\d+)", "(\d+)"\]', CONTAINERFILE).groups()
    for port, role in zip(asked, ("prefill", "decode")):
        ports = container(named(overlay("demo"), "Deployment", f"kvship-{role}"))["ports"]
        assert {"name": "admin", "containerPort": int(port)} in ports


def test_pods_run_as_the_user_of_the_image():
    user, group = re.search(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE).groups()
    for role in ("prefill", "decode"):
        security = pod_spec(named(overlay("demo"), "Deployment", f"kvship-{role}"))["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))


def test_images_have_one_version_everywhere():
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    assert re.search(r"\$\{KVSHIP_IMAGE:-kvship:([\d.]+)\}", compose)[1] == VERSION
    decode = named(overlay("demo"), "Deployment", "kvship-decode")
    assert container(decode)["image"] == f"kvship:{VERSION}"
    [model] = [volume["image"]["reference"] for volume in pod_spec(decode)["volumes"] if "image" in volume]
    assert model == f"kvship-model:{VERSION}"
    for gpu in pod_spec(named(overlay("h200"), "Deployment", "kvship-decode"))["containers"]:
        assert gpu["image"] == f"kvship:{VERSION}-cuda"
    assert re.findall(r"^ARG VERSION=(.*)$", CONTAINERFILE, re.MULTILINE) == [VERSION] * 2


LABELS = {f"org.opencontainers.image.{name}": "x" for name in ("title", "description", "revision", "licenses")} | {
    "org.opencontainers.image.version": "1.2.3"}
HEALTH = {"Test": ["CMD", "kvship-ready", "9051", "9090"]}
CONFIG = {"User": "65532:65532", "Cmd": ["kvship"], "Labels": LABELS}
TOLD = {"docker": [{"Config": CONFIG | {"Healthcheck": HEALTH}}],
        "podman": [{"Config": CONFIG, "Healthcheck": HEALTH}],
        "buildah": {"OCIv1": {"config": {}}, "Docker": {"config": CONFIG | {"Healthcheck": HEALTH}}}}


def check_config(told) -> str:
    """What the script says against it; '' where it finds nothing."""
    done = subprocess.run(["/usr/bin/python3", IMAGE / "check_config.py", "1.2.3"], input=json.dumps(told), check=False,
                          capture_output=True, text=True)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


@pytest.mark.parametrize("builder", TOLD)
def test_an_image_is_looked_at_in_the_words_of_each_builder(builder):
    assert check_config(TOLD[builder]) == ""


@pytest.mark.parametrize(("change", "said"), [
    ({"User": "0"}, "the image's user is 0; wanted 65532:65532"),
    ({"Healthcheck": None}, "the image's health check is None"),
    ({"Labels": LABELS | {"org.opencontainers.image.version": "1.2.2"}}, "the image's version is 1.2.2; wanted 1.2.3"),
    ({"Labels": {}}, "the image has no label org.opencontainers.image.revision")])
def test_what_is_missing_in_an_image_is_named(change, said):
    assert said in check_config([{"Config": CONFIG | {"Healthcheck": HEALTH} | change}])


@pytest.mark.parametrize("package, name", [("nvidia-cudnn-frontend", "cudnn_frontend"), ("xgrammar", "xgrammar"),
                                           ("llama_cpp_python", "jinja")])
def test_what_is_compiled_in_from_pypi_is_pinned_and_in_the_bill_of_materials(package, name):
    setup = (ROOT / "scripts" / "setup.sh").read_text()
    assert re.search(rf"^{name}_package={package}==[\d.]+$", setup, re.MULTILINE)
    build, _, materials = CONTAINERFILE.partition("FROM build AS materials")
    assert f"fetch_{name}" in build and f'"${name}_package"' in materials


def test_without_a_builder_it_is_said_what_is_missing(tmp_path):
    for name in ("dirname", "sed", "tr", "git"):
        os.symlink(shutil.which(name), tmp_path / name)
    (tmp_path / "docker").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    told = subprocess.run(["/bin/bash", ROOT / "scripts" / "image.sh"], check=False, capture_output=True, text=True,
                          env={"PATH": str(tmp_path), "HOME": str(tmp_path)})
    assert told.returncode == 1
    assert "docker is installed, but 'docker info' fails; no podman; no buildah;" in told.stderr
