"""A pair of nodes with a tiny model under load, and the Prometheus that watches it, for all tests of the monitoring."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "deploy/monitoring/dashboards"
sys.path += [str(ROOT / "scripts"), str(DASHBOARDS)]
from monitored_pair import MonitoredPair, Prometheus  # noqa: E402


@pytest.fixture(scope="session")
def binaries() -> str:
    return os.environ["KVSHIP_BIN"]


@pytest.fixture(scope="session")
def pair(binaries, tmp_path_factory):
    with MonitoredPair(binaries, tmp_path_factory.mktemp("pair")) as started:
        yield started


@pytest.fixture(scope="session")
def prometheus(pair, tmp_path_factory):
    """After some seconds of load, so that every rate has something to tell."""
    with Prometheus(pair, tmp_path_factory.mktemp("prometheus")) as started:
        pair.bench("--requests=40", "--rate=10", "--prompt_tokens=uniform:100:400", "--output_tokens=8",
                   "--compression=scorer=keep_all")
        # Outputs so long that there are always some caches to be seen.
        pair.bench("--requests=80", "--concurrency=8", "--prompt_tokens=uniform:100:400", "--output_tokens=1500",
                   "--compression=scorer=knorm,budget_tokens=64,min_tokens=64")
        yield started
