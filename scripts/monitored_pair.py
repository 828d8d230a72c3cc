"""A prefill and a decode process with certificates and a token on free ports, a load for them, and a Prometheus to watch them."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "demo"))
from kvship_processes import DIES_WITH_PARENT, ProcessError, Server, free_ports  # noqa: E402

TINY_MODEL = ROOT / "tests/goldens/models/llama"
READY_TIMEOUT_S = 60


def get(url: str, timeout_s: float = 30) -> str:
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return answer.read().decode()


class MonitoredPair:
    """One prefill and one decode process, running and ready inside a `with` block; logs and certificate in `folder`."""

    def __init__(self, binaries: str, folder: Path, model: str = str(TINY_MODEL), prefill_flags=(),
                 decode_flags=()):
        self.binaries = binaries
        self.folder = folder
        self.model = model
        self.prefill_flags = prefill_flags
        self.decode_flags = decode_flags
        self.admin_ports = {}
        self.servers = []

    def __enter__(self):
        certificate, key = self.folder / "node.pem", self.folder / "node.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-out", certificate, "-keyout", key], check=True, capture_output=True)
        token, tokens = self.folder / "token", self.folder / "tokens"
        token.write_text("bench")
        tokens.write_text(f"bench:{hashlib.sha256(b'bench').hexdigest()}\n")
        self.client_flags = [f"--tls_ca={certificate}", f"--api_token_file={token}"]
        prefill, self.port, self.admin_ports["prefill"], self.admin_ports["decode"] = free_ports(4)
        identity = [f"--tls_cert={certificate}", f"--tls_key={key}"]
        try:
            self._start("prefill", prefill, *identity, *self.prefill_flags)
            self._start("decode", self.port, *identity, f"--prefill=127.0.0.1:{prefill}", "--http=",
                        f"--prefill_tls_ca={certificate}", f"--api_tokens_file={tokens}", *self.decode_flags)
            for server in self.servers:
                server.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in reversed(self.servers):
            server.stop()

    def _start(self, role: str, port: int, *flags: str) -> None:
        command = [os.path.join(self.binaries, f"kvship-{role}"), f"--model={self.model}", f"--listen=127.0.0.1:{port}",
                   f"--admin=127.0.0.1:{self.admin_ports[role]}", *flags]
        self.servers.append(
            Server(f"kvship-{role}", command, self.admin_ports[role], str(self.folder / f"{role}.log")))

    def bench(self, *flags: str, check: bool = True) -> None:
        """Sends requests with `kvship bench`; an error of its own is a ProcessError."""
        done = subprocess.run([*DIES_WITH_PARENT, os.path.join(self.binaries, "kvship"), "bench",
                               f"--server=127.0.0.1:{self.port}", *self.client_flags, *flags],
                              capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise ProcessError(f"kvship bench failed: {done.stderr}")

    def metrics(self, role: str) -> str:
        """What the process tells Prometheus."""
        return get(f"http://127.0.0.1:{self.admin_ports[role]}/metrics")


class Prometheus:
    """A Prometheus that scrapes a pair every second, as the PodMonitor of deploy/kustomize has it do (job and labels), and
    evaluates the rules, inside a `with` block."""

    def __init__(self, pair: MonitoredPair, folder: Path):
        self.folder = folder
        own_port, = free_ports(1)
        self.url = f"http://127.0.0.1:{own_port}"
        targets = [{"targets": [f"127.0.0.1:{port}"],
                    "labels": {"namespace": "kvship", "pod": f"kvship-{role}-0", "container": role, "endpoint": "admin"}}
                   for role, port in pair.admin_ports.items()]
        scraped = [{"job_name": "kvship/kvship", "static_configs": targets}]
        # JSON is YAML too.
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "deploy/monitoring/rules/*.yaml")], "scrape_configs": scraped}))

    def __enter__(self):
        with open(self.folder / "prometheus.log", "wb") as log:
            self.process = subprocess.Popen(
                [*DIES_WITH_PARENT, program("prometheus"), f"--config.file={self.folder}/prometheus.yml",
                 f"--storage.tsdb.path={self.folder}/tsdb", f"--web.listen-address={self.url.removeprefix('http://')}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise ProcessError(f"Prometheus did not start: {(self.folder / 'prometheus.log').read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def _is_ready(self) -> bool:
        """Whether it watches both nodes: it finds them only some seconds after it says of itself that it is ready."""
        try:
            return len(self.values("up == 1")) == 2
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, what: str, **parameters):
        """The data of an answer of the HTTP API."""
        query = urllib.parse.urlencode(parameters)
        return json.loads(get(f"{self.url}/api/v1/{what}?{query}"))["data"]

    def values(self, query: str) -> list[float]:
        """The finite values of a query's series, now."""
        found = [float(series["value"][1]) for series in self.ask("query", query=query)["result"]]
        return [value for value in found if math.isfinite(value)]


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`, in the folder KVSHIP_PROMETHEUS or where programs are."""
    found = shutil.which(name, path=os.environ.get("KVSHIP_PROMETHEUS")) or shutil.which(name)
    if found is None:
        raise ProcessError(f"There is no {name}; ./dev setup fetches it.")
    return found
