"""A prefill and a decode process with the demo model, for all tests of the client."""

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "demo"))
from kvship_processes import DEFAULT_PORTS, ServerPair  # noqa: E402


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def server_arguments() -> SimpleNamespace:
    ports = dict(zip((name.replace("-", "_") for name in DEFAULT_PORTS), free_ports(len(DEFAULT_PORTS))))
    return SimpleNamespace(model=os.environ["KVSHIP_DEMO_MODEL"], bin=os.environ["KVSHIP_BIN"], **ports)


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    with ServerPair(server_arguments(), str(tmp_path_factory.mktemp("servers"))) as pair:
        yield pair


@pytest.fixture(scope="session")
def address(servers):
    return f"127.0.0.1:{servers.ports['decode-port']}"
