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
        # The second one's outputs are long enough for their caches to be seen.
        for policy, output in (("scorer=keep_all", "8"), ("scorer=knorm,budget_tokens=64,min_tokens=64", "1000")):
            pair.bench("--requests=40", "--rate=10", "--prompt_tokens=uniform:100:400", f"--output_tokens={output}",
                       f"--compression={policy}")
        yield started
