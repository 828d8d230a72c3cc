"""What tests of the deployment files share: the programs, free ports, and the metrics that the programs have."""

import os
import re
import socket
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "demo"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def metrics() -> set[str]:
    """The metrics that docs/metrics.md describes."""
    return set(re.findall(r"^\| `(kvship_\w+)", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
