"""A prefill and a decode process with the demo model and an HTTP port, for all tests of the HTTP API."""

import contextlib
import os
import re
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "demo"))
from kvship_processes import Server, ServerPair, free_port_arguments, free_ports  # noqa: E402

LONG = "The lighthouse keeper counted the ships that passed. " * 300  # 3,000 tokens


def eventually(condition, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Api:
    """The HTTP API of one decode process; over TLS, if `certificate` is the server's."""

    def __init__(self, http_port: int, admin_port: int, api_key: str = "unused", certificate: str | None = None):
        self.http_port = http_port
        self.admin_port = admin_port
        self.certificate = certificate
        self.client = self.connect(api_key)
        self.model = self.client.models.list().data[0].id

    def connect(self, api_key: str) -> openai.OpenAI:
        trust = ssl.create_default_context(cafile=self.certificate)
        return openai.OpenAI(base_url=f"http{'s' if self.certificate else ''}://127.0.0.1:{self.http_port}/v1",
                             api_key=api_key, max_retries=0, timeout=120,
                             http_client=openai.DefaultHttpxClient(verify=trust))

    def chat(self, content: str, **fields):
        return self.client.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": content}], **fields)

    def complete(self, prompt, **fields):
        return self.client.completions.create(model=self.model, prompt=prompt, **fields)

    def open_admin(self, path: str):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5)

    def metric(self, name: str, default: float | None = None) -> float:
        """The sum over labels."""
        with self.open_admin("/metrics") as answer:
            lines = answer.read().decode().splitlines()
        values = [float(line.split()[-1]) for line in lines if re.match(re.escape(name) + "[ {]", line)]
        if not values and default is None:
            raise KeyError(name)
        return sum(values) if values else default

    def pool_is_in_use(self) -> bool:
        return self.metric("kvship_decode_pool_reserved_bytes") > 0

    def becomes_idle(self) -> bool:
        return eventually(lambda: not self.pool_is_in_use() and self.metric("kvship_decode_waiting_prompt_tokens") == 0)


@contextlib.contextmanager
def server_pair(folder, *decode_flags: str, prefill_flags=(), model: str | None = None):
    [http_port] = free_ports(1)
    arguments = SimpleNamespace(model=model or os.environ["KVSHIP_DEMO_MODEL"], bin=os.environ["KVSHIP_BIN"],
                                **free_port_arguments())
    with ServerPair(arguments, str(folder), [f"--http=127.0.0.1:{http_port}", *decode_flags],
                    prefill_flags=prefill_flags) as pair:
        pair.http_port = http_port
        yield pair


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    with server_pair(tmp_path_factory.mktemp("servers")) as pair:
        yield pair


@pytest.fixture(scope="session")
def api(servers):
    return Api(servers.http_port, servers.ports["decode-admin-port"])


@pytest.fixture
def start_decode(servers, tmp_path):
    """Starts another decode process over the same prefill process; gives its Server and its Api."""
    started = []

    def start(*flags: str, **api):
        port, admin_port, http_port = free_ports(3)
        server = Server("kvship-decode", [
            os.path.join(servers.bin, "kvship-decode"), f"--model={servers.model}", f"--listen=127.0.0.1:{port}",
            f"--admin=127.0.0.1:{admin_port}", f"--http=127.0.0.1:{http_port}",
            f"--prefill=127.0.0.1:{servers.ports['prefill-port']}", *flags], admin_port, str(tmp_path / "decode.log"))
        started.append(server)
        server.wait_until_ready()
        return server, Api(http_port, admin_port, **api)

    yield start
    for server in started:
        server.stop()
