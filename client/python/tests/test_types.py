"""The package's types, as mypy sees them."""

import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src"


def test_types_are_strict(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", SOURCES], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout
