"""A study against real servers, twice."""

import os
import subprocess
import sys
from pathlib import Path

from kvship_eval.records import Records

LOCAL = Path(__file__).resolve().parents[1] / "local.py"


def run(*flags):
    return subprocess.run([sys.executable, LOCAL, "--bin", os.environ["KVSHIP_BIN"], "--model",
                           os.environ["KVSHIP_DEMO_MODEL"], *flags], capture_output=True, text=True, check=False)


def test_needles_are_asked_for_once_and_plotted(tmp_path):
    flags = ("needle", "--out", str(tmp_path), "--lengths", "500", "--kinds", "single-digits", "--cases", "1",
             "--policy", "full: scorer=keep_all,encoder=f16", "--policy", "half: scorer=snapkv,encoder=int4,budget_ratio=0.5")
    first = run(*flags)
    assert first.returncode == 0, first.stderr
    records = {record["policy"]: record for record in Records(tmp_path, "needle")}
    assert records["half"]["shipped_bytes"] < records["full"]["shipped_bytes"] / 4
    assert (tmp_path / "needle.png").exists()
    before = (tmp_path / "needle.jsonl").read_bytes()
    assert run(*flags).returncode == 0
    assert (tmp_path / "needle.jsonl").read_bytes() == before
    assert run("report", "--out", str(tmp_path)).returncode == 0


def test_a_service_that_is_gone_is_one_sentence(tmp_path):
    done = subprocess.run([sys.executable, "-m", "kvship_eval.cli", "overhead", "--server=127.0.0.1:1", "--out", tmp_path,
                           "--prefill-pid", "0"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
