"""The command lines and flag files of the overlays run the real programs, which answer their probes, talk to each other
and end as the pods' grace periods expect."""

import hashlib
import http.client
import json
import os
import re
import subprocess
import time

import grpc
import pytest
from certificates import make_authority, make_certificate, wanted
from kvship_processes import Server, free_ports
from manifests import KUSTOMIZE, ROOT, Object, build, container, flag_files, flags, named, overlay

BIN = os.environ["KVSHIP_BIN"]
MODEL = os.environ["KVSHIP_DEMO_MODEL"]
TOKEN = "the-token-of-the-tests"


class Pools:
    """One pod of each pool of an overlay, as processes of this machine: the same command lines, with files in `folder`
    and free ports instead of the containers'."""

    def __init__(self, objects: list[Object], folder):
        self.objects = objects
        self.folder = folder
        self.ports = {role: dict(zip(("grpc", "admin", "http"), free_ports(3))) for role in ("prefill", "decode")}
        self.prefill = f"dns:///localhost:{self.ports['prefill']['grpc']}"
        self.servers: dict[str, Server] = {}

    def start(self) -> None:
        for role in self.ports:
            self.servers[role] = self.start_pod(role)
        for server in self.servers.values():
            server.wait_until_ready()

    def start_pod(self, role: str) -> Server:
        program = container(named(self.objects, "Deployment", f"kvship-{role}"))
        # This machine has no GPU.
        [argument] = [each for each in program["args"] if each != "--device=cuda"]
        for path, text in flag_files(self.objects, role).items():
            self.path_here(path, role).write_text(self.text_here(text, role))
            argument = argument.replace(path, str(self.path_here(path, role)))
        command = [os.path.join(BIN, program["command"][0]), argument]
        return Server(role, command, self.ports[role]["admin"], str(self.folder / f"{role}.log"))

    def path_here(self, path: str, role: str):
        return self.folder / f"{role}-{os.path.basename(path)}"

    def text_here(self, text: str, role: str) -> str:
        given = flags(self.objects, role)
        text = text.replace(given["model"], MODEL)
        # This machine has neither the processors nor the memory of an overlay's nodes.
        text = re.sub(r"--threads=\d+", "--threads=2", text)
        text = re.sub(r"--pool_bytes=\d+", f"--pool_bytes={256 << 20}", text)
        text = re.sub(r"dns:///kvship-prefill:\d+", self.prefill, text)
        for port in container(named(self.objects, "Deployment", f"kvship-{role}"))["ports"]:
            text = re.sub(rf"=:{port['containerPort']}\b", f"=:{self.ports[role][port['name']]}", text)
        return re.sub(r"/etc/kvship-(?:tls|tokens)/([\w.]+)", lambda match: str(self.path_here(match[0], role)), text)

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()

    def generate(self, *arguments: str, **kinds) -> subprocess.Popen:
        return subprocess.Popen(
            [os.path.join(BIN, "kvship"), "generate", f"--server=localhost:{self.ports['decode']['grpc']}", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kinds)


@pytest.fixture
def demo(tmp_path):
    pools = Pools(overlay("demo"), tmp_path)
    try:
        pools.start()
        yield pools
    finally:
        pools.stop()


def status_of(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().status


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_without_a_component_for_security_a_program_ends_and_names_the_flags(role, tmp_path):
    pools = Pools(build(KUSTOMIZE / "base"), tmp_path)
    server = pools.start_pod(role)
    assert server.process.wait(30) == 1
    assert re.search(r"--listen is .*wanted --tls_cert.*or --insecure", server.log_tail())


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_every_probe_is_answered_where_it_asks(demo, role):
    program = container(named(demo.objects, "Deployment", f"kvship-{role}"))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = program[probe]["httpGet"]
        assert status_of(demo.ports[role][asked["port"]], asked["path"]) == 200


def test_a_pod_that_is_told_to_go_ends_its_request_first(demo):
    started = time.monotonic()
    client = demo.generate("--prompt=Count to a thousand: one, two,", "--max-tokens=300", "--ignore-end", "--json")
    decode = demo.servers["decode"]
    while decode.count("kvship_decode_sessions") == 0:
        assert time.monotonic() - started < 60
        time.sleep(0.02)
    for server in demo.servers.values():
        server.process.terminate()
    while decode.count("kvship_decode_draining") == 0:
        assert time.monotonic() - started < 60
    assert status_of(decode.admin_port, "/readyz") == 503 and status_of(decode.admin_port, "/healthz") == 200
    answer, errors = client.communicate(timeout=60)
    assert client.returncode == 0, errors
    assert '"output_tokens":300' in answer.replace(" ", "")
    assert [server.process.wait(30) for server in demo.servers.values()] == [0, 0]


class Health:
    """gRPC's health service of a node, asked for one service: in bytes, as its messages have one field each."""

    STATUS = {b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}

    def __init__(self, port: int, service: str):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.request = b"\x0a" + bytes([len(service)]) + service.encode()

    def check(self) -> str:
        return self.STATUS[self.channel.unary_unary("/grpc.health.v1.Health/Check")(self.request, timeout=10)]

    def watch_from_serving_on(self):
        """Each new status after the first SERVING, which comes a moment after /readyz."""
        answers = self.channel.unary_stream("/grpc.health.v1.Health/Watch")(self.request, timeout=60)
        statuses = (self.STATUS[answer] for answer in answers)
        assert "SERVING" in statuses
        return statuses


SERVICES = {"prefill": "kvship.v1.PrefillService", "decode": "kvship.v1.GenerationService"}


@pytest.mark.parametrize("role", SERVICES)
def test_grpc_health_tells_of_the_service_what_the_probe_is_told(demo, role):
    port = demo.ports[role]["grpc"]
    Health(port, SERVICES[role]).watch_from_serving_on()
    assert Health(port, SERVICES[role]).check() == "SERVING"
    with pytest.raises(grpc.RpcError) as raised:
        Health(port, "kvship.v1.NoSuchService").check()
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("role", SERVICES)
def test_a_pod_that_is_told_to_go_says_so(demo, role):
    watched = Health(demo.ports[role]["grpc"], SERVICES[role]).watch_from_serving_on()
    demo.servers[role].process.terminate()
    assert next(watched) == "NOT_SERVING"


@pytest.fixture
def secured(tmp_path):
    pools = Pools(overlay("h200"), tmp_path)
    make_authority(tmp_path)
    for role, certificate in wanted(pools.objects):
        # Servers are asked by the name of this machine.
        make_certificate(tmp_path, role, certificate["dnsNames"] + ["localhost"] * (role != "client"))
    (tmp_path / "decode-tokens").write_text(f"tests:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    (tmp_path / "token").write_text(TOKEN)
    try:
        pools.start()
        yield pools
    finally:
        pools.stop()


def documented_request() -> str:
    """The command line of the first request in docs/kubernetes.md."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    return re.search(r"^ +(curl --cacert .*?)\n\n", text, re.MULTILINE | re.DOTALL)[1]


def test_the_first_request_of_the_documentation_is_answered(secured):
    port = secured.ports["decode"]["http"]
    [served] = re.findall(r'kvship_decode_model_info{model="(.*)"}', secured.servers["decode"].metrics())
    command = documented_request().replace(":8000", f":{port}").replace("Llama-3.1-8B-Instruct", served)
    command = command.replace("curl ", "curl --no-progress-meter --fail-with-body ")
    told = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, cwd=secured.folder,
                          env=os.environ | {"token": TOKEN, "no_proxy": "*"})
    assert told.returncode == 0, told.stdout + told.stderr
    assert json.loads(told.stdout)["usage"]["completion_tokens"] == 8


def test_certificates_and_tokens_let_in_whom_they_should(secured):
    folder = secured.folder

    def ask(role: str, *arguments: str) -> tuple[int, str]:
        client = secured.generate("--prompt=Hi", "--max-tokens=1", "--timeout=20s", f"--tls-ca={folder}/ca.crt",
                                  f"--tls-cert={folder}/{role}-tls.crt", f"--tls-key={folder}/{role}-tls.key",
                                  *arguments)
        _, errors = client.communicate(timeout=60)
        return client.returncode, errors

    assert ask("client", f"--api-token-file={folder}/token") == (0, "")
    assert "kvship-client" in ask("prefill", f"--api-token-file={folder}/token")[1]
    assert "token" in ask("client")[1]
