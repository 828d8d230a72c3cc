"""What tests of the deployment files share: where the programs' Python is, and the metrics that the programs have."""

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "demo"))


@pytest.fixture(scope="session")
def metrics() -> set[str]:
    """The metrics that docs/metrics.md describes."""
    return set(re.findall(r"^\| `(kvship_\w+)", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
