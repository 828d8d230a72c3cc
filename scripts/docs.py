#!/usr/bin/env python3
"""Brings what is generated up to date: tables of flags and metrics in docs/, and the dashboards. `./dev docs` runs it."""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import doc_tables
from monitored_pair import ROOT, MonitoredPair, Prometheus

DASHBOARDS = ROOT / "deploy/monitoring/dashboards"
# Which dashboards the pictures in docs/ show, in sha256sum's form.
DRAWN = ROOT / "docs/dashboards.sha256"

# The load behind the pictures: what differs between its parts is the policy.
POLICIES = ("scorer=keep_all,encoder=f16", "scorer=snapkv,budget_ratio=0.25,encoder=f16",
            "scorer=expected_attention,budget_ratio=0.5,encoder=int8", "scorer=snapkv,budget_ratio=0.25,encoder=int4")
LOAD = ("--requests=24", "--rate=0.3", "--prompt_tokens=lognormal:500:0.4", "--output_tokens=uniform:32:128")


def write_tables(binaries: str) -> None:
    for path, by_name in doc_tables.tables(binaries, doc_tables.expositions(binaries)).items():
        path.write_text(doc_tables.with_tables(path.read_text(), by_name))


def sums_of_dashboards() -> str:
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT)}\n"
                   for path in sorted(DASHBOARDS.glob("*.json")))


def draw_pictures(binaries: str, model: str) -> None:
    """Pictures of the dashboards in docs/, from a Prometheus that watched a load on a real model for some minutes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with MonitoredPair(binaries, folder, model, decode_flags=["--pool_bytes=100000000"]) as pair, \
                Prometheus(pair, folder) as prometheus:
            for seed, policy in enumerate(POLICIES):
                pair.bench(*LOAD, f"--seed={seed}", f"--compression={policy}")
            subprocess.run([sys.executable, DASHBOARDS / "draw.py", prometheus.url, ROOT / "docs"], check=True)
    DRAWN.write_text(sums_of_dashboards())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev docs")
    parser.add_argument("--bin", required=True, help="folder of the programs")
    parser.add_argument("--model", required=True, help="model for the pictures")
    parser.add_argument("--pictures", action="store_true", help="draw the dashboards anew too: takes minutes")
    arguments = parser.parse_args()
    for generate in (DASHBOARDS / "generate.py", ROOT / "deploy/kustomize/components/monitoring/generate.py"):
        subprocess.run([sys.executable, generate], check=True)
    write_tables(arguments.bin)
    if arguments.pictures:
        draw_pictures(arguments.bin, arguments.model)


if __name__ == "__main__":
    main()
