"""Studies against real servers: run twice, cut short, and left by their service."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from kvship_eval.records import Records

LOCAL = Path(__file__).resolve().parents[1] / "local.py"
sys.path.insert(0, str(LOCAL.parent))
from local import ServerPair, free_port_arguments  # noqa: E402

FULL = ("--policy", "full: scorer=keep_all,encoder=f16")
HALF = ("--policy", "half: scorer=snapkv,encoder=int4,budget_ratio=0.5")


def run(*flags):
    return subprocess.run([sys.executable, LOCAL, "--bin", os.environ["KVSHIP_BIN"], "--model",
                           os.environ["KVSHIP_DEMO_MODEL"], *flags], capture_output=True, text=True, check=False)


def test_needles_are_asked_for_once_and_plotted(tmp_path):
    flags = ("needle", "--out", str(tmp_path), "--lengths", "500", "--kinds", "single-digits", "--cases", "1", *FULL, *HALF)
    first = run(*flags)
    assert first.returncode == 0, first.stderr
    records = {record["policy"]: record for record in Records(tmp_path, "needle")}
    assert records["half"]["shipped_bytes"] < records["full"]["shipped_bytes"] / 4
    assert (tmp_path / "needle.png").exists()
    before = (tmp_path / "needle.jsonl").read_bytes()
    assert run(*flags).returncode == 0
    assert (tmp_path / "needle.jsonl").read_bytes() == before
    assert run("report", "--out", str(tmp_path)).returncode == 0
    page = (tmp_path / "report.html").read_text()
    assert "kvship-eval needle --lengths 500" in page and str(tmp_path) not in page


def test_long_prompts_are_cut_to_tokens(tmp_path):
    done = run("longbench", "--out", str(tmp_path), "--sets", "lcc", "--limit", "1", "--context", "40", *FULL)
    assert done.returncode == 0, done.stderr
    [record] = Records(tmp_path, "longbench")
    assert 38 <= record["prompt_tokens"] <= 42  # where the halves meet, words may be cut in another way
    assert 0 <= record["score"] <= 1


def test_without_chat_every_set_is_sent_as_text(tmp_path):
    asked = []
    for flags in ((), ("--no-chat",)):
        folder = tmp_path / str(len(asked))
        done = run("longbench", "--out", str(folder), "--sets", "hotpotqa", "trec", "--limit", "1", *FULL, *flags)
        assert done.returncode == 0, done.stderr
        asked.append({record["set"]: record["prompt_tokens"] for record in Records(folder, "longbench")})
    with_chat, without = asked
    assert with_chat["hotpotqa"] > without["hotpotqa"]  # what the template adds
    assert with_chat["trec"] == without["trec"]


def test_overhead_times_steps_and_watches_memory(tmp_path):
    done = run("overhead", "--out", str(tmp_path), "--lengths", "200", "--batches", "1,2", "--rounds", "1", "--output-tokens",
               "12", *FULL)
    assert done.returncode == 0, done.stderr
    alone, two = Records(tmp_path, "overhead")
    assert alone["prefill_peak_bytes"] > 50 << 20 and alone["prefill_ms"] > 0
    assert alone["ms_per_token"] > 0 and two["ms_per_token"] > 0
    assert (tmp_path / "overhead.png").exists()


def test_a_service_that_leaves_is_one_sentence_and_what_was_measured_is_kept(tmp_path):
    ports = free_port_arguments()
    arguments = SimpleNamespace(bin=os.environ["KVSHIP_BIN"], model=os.environ["KVSHIP_DEMO_MODEL"], **ports)
    results = tmp_path / "needle.jsonl"
    command = [sys.executable, "-m", "kvship_eval.cli", "needle", f"--server=127.0.0.1:{ports['decode_port']}", "--out", tmp_path,
               "--lengths", "200", "--kinds", "single-digits", "--cases", "500", *FULL]
    with ServerPair(arguments, str(tmp_path)) as servers:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as study:
            while not results.exists() and study.poll() is None:
                time.sleep(0.02)
            servers.servers[1].process.kill()
            errors = study.communicate()[1]
    assert study.returncode == 1 and "Traceback" not in errors
    assert "is gone" in errors and "goes on from there" in errors
    assert len(Records(tmp_path, "needle")) >= 1 and len(json.loads((tmp_path / "needle.runs.jsonl").read_text())) == 5


@pytest.mark.parametrize("flags", [("overhead", "--prefill-pid", "1"), ("needle",)])
def test_a_service_that_is_not_there_is_one_sentence(tmp_path, flags):
    impatient = "from kvship_eval import cli; cli.READY_TIMEOUT_S = 1; raise SystemExit(cli.main())"
    done = subprocess.run([sys.executable, "-c", impatient, *flags, "--server=127.0.0.1:1", "--out", tmp_path], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1 and "no server answered within 1 s" in done.stderr and "Traceback" not in done.stderr
