"""A prefill and a decode process with the demo model, for all tests of the client."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "demo"))
from kvship_processes import ServerPair, free_port_arguments  # noqa: E402


def server_arguments() -> SimpleNamespace:
    return SimpleNamespace(model=os.environ["KVSHIP_DEMO_MODEL"], bin=os.environ["KVSHIP_BIN"], **free_port_arguments())


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    with ServerPair(server_arguments(), str(tmp_path_factory.mktemp("servers"))) as pair:
        yield pair


@pytest.fixture(scope="session")
def address(servers):
    return f"127.0.0.1:{servers.ports['decode-port']}"
